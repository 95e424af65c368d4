package snpreport

import (
	"fmt"
	"strings"
)

// Product is a line of processors: one root, one pair of signing keys, one
// layout of the TCB.
type Product string

// The products with SEV-SNP.
const (
	Milan Product = "Milan" // Zen 3, EPYC 7003
	Genoa Product = "Genoa" // Zen 4, EPYC 9004, with Bergamo and Siena
	Turin Product = "Turin" // Zen 5, EPYC 9005
)

// turinChipIDSize is how many bytes a chip's id has from Turin on; the rest of
// the field is zero.
const turinChipIDSize = 8

// Product is the product that made the report, by the processor's family and
// model. It is empty for a report of version 2, which does not say: Milan or
// Genoa.
func (r *Report) Product() Product {
	model := r.CPUIDModel
	switch {
	case r.Version < 3:
		return ""
	case r.CPUIDFamily == 0x19 && model <= 0x0f:
		return Milan
	case r.CPUIDFamily == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return Genoa
	case r.CPUIDFamily == 0x1a && model <= 0x1f:
		return Turin
	}
	return ""
}

func (r *Report) turin() bool { return r.Product() == Turin }

// Processor says which processor the report names, in words.
func (r *Report) Processor() string {
	if r.Version < 3 {
		return "Milan or Genoa (a report of version 2 does not name the processor)"
	}
	return fmt.Sprintf("%s (family %02xh, model %02xh, stepping %d)", r.Product(), r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping)
}

// TCB is a TCB_VERSION as the report has it; what its bytes mean depends on the
// product.
type TCB [8]byte

// reservedByte is the first reserved byte that is not zero, -1 if all are.
func (t TCB) reservedByte(turin bool) int {
	first, last := 2, 5
	if turin {
		first, last = 4, 6
	}
	for i := first; i <= last; i++ {
		if t[i] != 0 {
			return i
		}
	}
	return -1
}

// Components are the security patch levels that a TCB consists of.
type Components struct {
	FMC        uint8 `json:"fmc"` // Turin only: the first boot loader, in ROM's reach
	BootLoader uint8 `json:"boot_loader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

// Components reads a TCB of this report by its product's layout.
func (r *Report) Components(t TCB) Components {
	if r.turin() {
		return Components{FMC: t[0], BootLoader: t[1], TEE: t[2], SNP: t[3], Microcode: t[7]}
	}
	return Components{BootLoader: t[0], TEE: t[1], SNP: t[6], Microcode: t[7]}
}

// TCB writes components in a product's layout.
func (c Components) TCB(p Product) TCB {
	if p == Turin {
		return TCB{c.FMC, c.BootLoader, c.TEE, c.SNP, 0, 0, 0, c.Microcode}
	}
	return TCB{c.BootLoader, c.TEE, 0, 0, 0, 0, c.SNP, c.Microcode}
}

type part struct {
	name  string
	value uint8
}

func (c Components) parts() [5]part {
	return [5]part{{"FMC", c.FMC}, {"boot loader", c.BootLoader}, {"TEE", c.TEE}, {"SNP", c.SNP}, {"microcode", c.Microcode}}
}

// Below names every component that is lower than in a minimum, "" if none is.
// There is no order of whole TCBs: a newer microcode makes up for no older boot
// loader.
func (c Components) Below(minimum Components) string {
	var out []string
	want := minimum.parts()
	for i, p := range c.parts() {
		if p.value < want[i].value {
			out = append(out, fmt.Sprintf("%s %d < %d", p.name, p.value, want[i].value))
		}
	}
	return strings.Join(out, ", ")
}

// differ names every component that is not the same, "" if all are.
func (c Components) differ(other Components) string {
	var out []string
	want := other.parts()
	for i, p := range c.parts() {
		if p.value != want[i].value {
			out = append(out, fmt.Sprintf("%s %d and %d", p.name, p.value, want[i].value))
		}
	}
	return strings.Join(out, ", ")
}

// Text writes the components of a product in words.
func (c Components) Text(p Product) string {
	var out []string
	for _, v := range c.parts() {
		if v.name != "FMC" || p == Turin {
			out = append(out, fmt.Sprintf("%s %d", v.name, v.value))
		}
	}
	return strings.Join(out, ", ")
}
