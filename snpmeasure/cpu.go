package snpmeasure

import (
	"fmt"
	"slices"
	"strings"
)

// CPU is the type of a virtual CPU: what it reports as its signature (CPUID
// function 1, EAX), which stands in the measured registers. The zero value is
// no type; a signature of 0 is one.
type CPU struct {
	Type  string // name of QEMU's model, if it was chosen by name
	Sig   uint32
	given bool
}

// Given reports whether the CPU was chosen.
func (c CPU) Given() bool { return c.given }

// String gives the name and the signature.
func (c CPU) String() string {
	switch {
	case !c.given:
		return "no CPU type"
	case c.Type == "":
		return fmt.Sprintf("CPU signature %#x", c.Sig)
	default:
		return fmt.Sprintf("%s (%#x)", c.Type, c.Sig)
	}
}

// CPUOfSignature is a CPU by its signature.
func CPUOfSignature(sig uint32) CPU { return CPU{Sig: sig, given: true} }

// CPUOfFamily is a CPU by family, model and stepping as CPUID puts them into a
// signature (AMD CPUID specification 25481, function 1): what does not fit the
// fields is cut off, as in sev-snp-measure.
func CPUOfFamily(family, model, stepping int) (CPU, error) {
	if family < 0 || model < 0 || stepping < 0 {
		return CPU{}, setting("CPU family, model, stepping", fmt.Sprintf("%d, %d, %d", family, model, stepping), "numbers from 0", "")
	}
	low, high := min(family, 0xf), max(0, family-0xf)&0xff
	return CPUOfSignature(uint32(high)<<20 | uint32(model>>4&0xf)<<16 | uint32(low)<<8 | uint32(model&0xf)<<4 | uint32(stepping&0xf)), nil
}

// model is a family, model and stepping, and the names that QEMU gives it.
type model struct {
	family, model, stepping int
	names                   []string
}

// models are QEMU's AMD models from the first EPYC on (target/i386/cpu.c). Its
// versions differ in features, not in the signature.
func models() []model {
	return []model{
		{23, 1, 2, []string{"EPYC", "EPYC-v1", "EPYC-v2", "EPYC-IBPB", "EPYC-v3", "EPYC-v4"}},
		{23, 49, 0, []string{"EPYC-Rome", "EPYC-Rome-v1", "EPYC-Rome-v2", "EPYC-Rome-v3"}},
		{25, 1, 1, []string{"EPYC-Milan", "EPYC-Milan-v1", "EPYC-Milan-v2"}},
		{25, 17, 0, []string{"EPYC-Genoa", "EPYC-Genoa-v1"}},
		{26, 0, 0, []string{"EPYC-Turin", "EPYC-Turin-v1", "EPYC-Turin-v2"}},
	}
}

// CPUOfType is a CPU by the name of QEMU's model.
func CPUOfType(name string) (CPU, error) {
	for _, m := range models() {
		if slices.Contains(m.names, name) {
			c, err := CPUOfFamily(m.family, m.model, m.stepping)
			c.Type = name
			return c, err
		}
	}
	return CPU{}, setting("CPU type", fmt.Sprintf("%.40q", name), "one of "+strings.Join(CPUTypes(), ", "), "name the signature, or family, model and stepping, of another")
}

// CPUTypes are the known names, oldest first.
func CPUTypes() []string {
	var names []string
	for _, m := range models() {
		names = append(names, m.names...)
	}
	return names
}

// features are the bits of SEV_FEATURES (APM volume 2, table B-4).
func features() []string {
	return []string{
		0: "SNP active", 1: "vTOM", 2: "reflect VC", 3: "restricted injection", 4: "alternate injection", 5: "debug swap",
		6: "prevent host IBS", 7: "BTB isolation", 8: "VMPL SSS", 9: "secure TSC", 10: "VMGEXIT parameter",
		12: "IBS virtualization", 14: "VMSA register protection", 15: "SMT protection",
	}
}

// FeatureNames names the set bits of SEV_FEATURES. Bits that have no name here
// are returned too: they are measured like the others.
func FeatureNames(bits uint64) (names []string, unknown uint64) {
	for i, name := range features() {
		if bits>>i&1 != 0 && name != "" {
			names = append(names, name)
			bits &^= 1 << i
		}
	}
	return names, bits
}
