package tdx

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Registers are the registers of a TDX machine by their last part of a key,
// MRTD first, then RTMR0 to RTMR3: the index is that of tdxmeasure's results.
var Registers = tdxmeasure.RegisterNames()

// Aggregates are the digests over several registers that tools print.
var Aggregates = tdxmeasure.AggregateNames()

// valueAlgorithm is the hash that a register's or an aggregate's name stands
// for.
func valueAlgorithm(name string) (digest.Algorithm, bool) {
	switch {
	case slices.Contains(Registers[:], name):
		return digest.SHA384, true
	case slices.Contains(Aggregates, name):
		return digest.SHA256, true
	default:
		var none digest.Algorithm
		return none, false
	}
}

func check(c *config.Config, bad config.At) error {
	for _, name := range slices.Sorted(maps.Keys(c.Platforms)) {
		p := c.Platforms[name]
		if p.TEE == "snp" || p.TEE == "tpm" {
			continue // its own stage's
		}
		at := func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"platforms", name}, field...)...)
		}
		if name == "" {
			return at("a platform needs a name", "for instance metal-qemu-tdx-gpu")
		}
		if p.ACPISource == "qemu" {
			return at(`"qemu" would run a program, which a run does not: its result must follow from its inputs`, "leave acpi_source out for the built-in tables, or name a tables file with acpi: FILE", "acpi_source")
		}
		say := func(field, value string) string {
			if value == "" {
				return field
			}
			return field + ": " + value
		}
		if err := Check(&p, at, say); err != nil {
			return err
		}
	}
	return nil
}

// Check finds what is wrong with a description by itself. at makes the fault,
// at a field or, without one, of the whole; say names a field as its user gives
// it. A message begins with what was found in the field.
func Check(p *config.Platform, at config.At, say func(field, value string) string) error {
	fault := func(field, hint, format string, args ...any) error {
		return at(fmt.Sprintf(format, args...), tdxmeasure.NameFields(hint, say), strings.Split(field, ".")...)
	}
	switch p.TEE {
	case "tdx":
	case "":
		return at("tee is missing", "tee: tdx, and a profile: "+strings.Join(profiles.TDXNames(), ", "))
	default:
		return fault("tee", config.NearestHint(p.TEE, []string{"snp", "tdx", "tpm"}), "unknown tee %q", p.TEE)
	}
	if own := config.FieldsGiven(p.TPMMachine); len(own) > 0 {
		return fault(own[0], "leave it out", "%s is for machines of tee tpm", own[0])
	}
	if own := config.FieldsGiven(p.SNPMachine); len(own) > 0 {
		return fault(own[0], "leave it out", "%s is for machines of tee snp", own[0])
	}
	known := strings.Join(profiles.TDXNames(), ", ")
	switch {
	case p.Profile == "" && p.Metadata == "" && p.VMConfig == "":
		return at("no profile given: how hypervisor and firmware behave", tdxmeasure.NameFields("{profile} takes "+known+", or a YAML file", say))
	case p.Profile != "" && !ownProfile(p.Profile) && !slices.Contains(profiles.TDXNames(), p.Profile):
		return fault("profile", meant("profile", p.Profile, profiles.TDXNames())+", or a YAML file", "%.80q: unknown profile", p.Profile)
	}
	for _, check := range []func(*config.Platform, faulter) error{checkWords, checkShape, checkDevices, checkRuntime, checkRegisters} {
		if err := check(p, fault); err != nil {
			return err
		}
	}
	return nil
}

type faulter = func(field, hint, format string, args ...any) error

// ownProfile reports whether a profile's name is that of a file.
func ownProfile(name string) bool { return strings.ContainsAny(name, `./\`) && !builtIn(name) }

func builtIn(name string) bool { return slices.Contains(profiles.TDXNames(), name) }

// meant proposes the known word that may be meant in a field, and lists all.
func meant(field, got string, known []string) string {
	hint := "known: " + strings.Join(known, ", ")
	if near := yamldoc.Nearest(got, known); near != "" {
		hint = "did you mean {" + field + ": " + near + "}? " + hint
	}
	return hint
}

// word is a field that takes one of a few words.
type word struct {
	field, value string
	known        []string
	set          func(p *tdxmeasure.Profile, value string)
}

// words are the fields that change a profile by a word.
func words(c *config.Platform) []word {
	return []word{
		{"page_order", c.PageOrder, tdxmeasure.PageOrders(), func(p *tdxmeasure.Profile, v string) {
			p.PageOrder, _ = tdxmeasure.ParsePageOrder(v) // a word of the list
		}},
		{"header_rule", c.HeaderRule, []string{"qemu", "dstack"}, func(p *tdxmeasure.Profile, v string) { p.HeaderRule = tdxmeasure.HeaderRule(v) }},
		{"authenticode", c.Authenticode, []string{"uefi", "dstack", "unpadded"}, func(p *tdxmeasure.Profile, v string) {
			p.Authenticode = authenticode.Options{PadTo8: v != "unpadded", TailOnlyWithCertificate: v == "dstack"}
		}},
		{"initrd_argument", c.InitrdArgument, []string{"as-given", "suffix", "prefix"}, func(p *tdxmeasure.Profile, v string) {
			p.InitrdArgument = tdxmeasure.InitrdArgument(v)
		}},
		{"acpi_family", c.ACPIFamily, Families(), func(p *tdxmeasure.Profile, v string) { p.ACPIFamily = acpi.Family(v) }},
		{"cfv", c.CFV, []string{"firmware", "constant"}, func(p *tdxmeasure.Profile, v string) { p.ConstantCFV = v == "constant" }},
		{"hob", c.HOB, []string{"firmware", "fixed", "first-base"}, func(p *tdxmeasure.Profile, v string) {
			p.HOB = tdxmeasure.HOBOptions{FixedLayout: v == "fixed", FirstBase: v != "firmware"}
		}},
		{"rtmr3", c.RTMR3, []string{"none", "raw", "secretvm-kms", "events"}, func(p *tdxmeasure.Profile, v string) { p.RTMR3 = tdxmeasure.RTMR3Scheme(v) }},
	}
}

// Families are the families of QEMU whose ACPI tables are known.
func Families() []string {
	var out []string
	for _, f := range acpi.Families() {
		out = append(out, string(f))
	}
	return out
}

func checkWords(c *config.Platform, fault faulter) error {
	for _, w := range append(words(c), word{field: "acpi_source", value: c.ACPISource, known: []string{"template", "qemu"}}) {
		if w.value == "" || slices.Contains(w.known, w.value) {
			continue
		}
		return fault(w.field, meant(w.field, w.value, w.known), "%.80q: unknown word", w.value)
	}
	return nil
}

func checkShape(c *config.Platform, fault faulter) error {
	if c.Memory != "" {
		n, err := tdxmeasure.ParseMemory(c.Memory)
		switch {
		case err != nil:
			return fault("memory", "for instance {memory: 2G}", "%.40q: want a size such as 2G or 2048M, up to 4 PiB", c.Memory)
		case n < acpi.MinMemory || n%acpi.MiB != 0:
			return fault("memory", "for instance {memory: 2G}", "%s: %d bytes, want whole MiB", c.Memory, n)
		}
	}
	if len(c.VCPUs) > 1 {
		return fault("vcpus", "a platform for each", "%s: want one number", c.VCPUs)
	}
	if c.VCPUs != nil && (c.VCPUs.One() < 1 || c.VCPUs.One() > acpi.MaxVCPUs) {
		return fault("vcpus", "for instance {vcpus: 4}", "%d: want 1 to %d vCPUs", c.VCPUs.One(), acpi.MaxVCPUs)
	}
	if c.QEMU != "" {
		if err := new(tdxmeasure.Profile).SetQEMU(c.QEMU); err != nil {
			return fault("qemu", "for instance {qemu: 9.2.1}", "%v", err)
		}
	}
	if c.ACPISource != "" && c.ACPI != "" {
		return fault("acpi_source", "give one of them", "%s: a tables file is given, too: both say where ACPI tables come from", c.ACPISource)
	}
	if c.PCIHole64 != "" {
		if _, err := tdxmeasure.ParseMemory(c.PCIHole64); err != nil {
			return fault("pci_hole64", "for instance {pci_hole64: 64G}", "%.40q: want a size such as 64G", c.PCIHole64)
		}
	}
	return nil
}

func checkDevices(c *config.Platform, fault faulter) error {
	for _, n := range []struct {
		field string
		value *int
	}{{"gpus", c.GPUs}, {"nics", c.NICs}, {"volumes", c.Volumes}, {"nvswitches", c.NVSwitches}} {
		if v := config.Or(n.value); v < 0 || v > 30 {
			return fault(n.field, "", "%d: want 0 to 30", v)
		}
	}
	if c.Devices == "" {
		return nil
	}
	if len(c.Slots)+len(c.RootPorts) > 0 {
		return fault("devices", "give one of them", "%.40q: slots or root ports are given, too: both say which devices there are", c.Devices)
	}
	if _, ok := deviceCount(c.Devices); !ok && !slices.Contains([]string{"secretvm", "secretvm-gpu", "dstack"}, c.Devices) {
		return fault("devices", "secretvm, secretvm-gpu, dstack, or a number from 0 to 30", "%.40q: unknown", c.Devices)
	}
	return nil
}

func checkRuntime(c *config.Platform, fault faulter) error {
	if c.KeyProvider != "" {
		if _, err := tdxmeasure.ParseKeyProvider(c.KeyProvider); err != nil {
			return fault("key_provider", "", "%.80q: no key provider, want none, sgx-v0 or hex digits", c.KeyProvider)
		}
	}
	if _, err := config.ParseAppID(c.AppID); err != nil {
		return fault("app_id", "as the key service shows it, in quotation marks", "%v", err)
	}
	if v := c.EventVersion; v != nil && *v != 1 && *v != 2 {
		return fault("event_version", "", "%d: want 1 or 2", *v)
	}
	for _, text := range c.Events {
		if _, err := parseEvent(text, 1); err != nil {
			return fault("events", "for instance app-id=00112233", "%v", err)
		}
	}
	if c.MRConfigID != "" {
		if _, err := parseConfigID(c.MRConfigID); err != nil {
			return fault("mr_config_id", "", "%.120s: %v", c.MRConfigID, err)
		}
	}
	for _, f := range []struct{ field, value string }{{"rootfs", c.Rootfs}, {"compose", c.Compose}, {"docker_files", c.DockerFiles}} {
		if _, _, err := givenDigest(f.value); err != nil {
			return fault(f.field, "sha256: and 64 hex digits, or a file", "%.100s: %v", f.value, err)
		}
	}
	return nil
}

func checkRegisters(c *config.Platform, fault faulter) error {
	for _, m := range []struct {
		field  string
		values map[string]string
		known  []string
	}{{"expect", c.Expect, slices.Concat(Registers[:], Aggregates)}, {"given", c.Given, Registers[:]}} {
		for _, name := range slices.Sorted(maps.Keys(m.values)) {
			if !slices.Contains(m.known, name) {
				return fault(m.field+"."+name, config.NearestHint(name, m.known), "%.40q: unknown register", name)
			}
			alg, _ := valueAlgorithm(name)
			if b, err := hex.DecodeString(m.values[name]); err != nil || len(b) != alg.Size() {
				return fault(m.field+"."+name, "write the hex digits alone, in quotation marks", "%.120q: want %d hex digits", m.values[name], 2*alg.Size())
			}
		}
	}
	return nil
}

// givenDigest reads sha256:HEX, which stands for a file of RTMR3.
func givenDigest(text string) (d digest.Digest, ok bool, err error) {
	sum, ok := strings.CutPrefix(text, "sha256:")
	if !ok {
		return d, false, nil
	}
	d, err = digest.ParseHex(digest.SHA256, strings.ToLower(sum))
	return d, true, err
}

// fill writes out what platforms take from elsewhere.
func fill(c *config.Config) {
	for name, p := range c.Platforms {
		if p.TEE == "snp" || p.TEE == "tpm" { // other stages'
			continue
		}
		if p.ACPI == "" && p.ACPISource == "" {
			p.ACPISource = "template"
		}
		if profile, err := tdxmeasure.LoadProfile(p.Profile); err == nil && p.Compose == "" && profile.MeasuresCompose() {
			p.Compose = c.Compose
		}
		c.Platforms[name] = p
	}
}
