package tpm

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/tdxmeasure"
)

// sharedFields are the fields of every Platform that a machine with a TPM has
// too.
var sharedFields = []string{"tee", "firmware", "kernel", "initrd", "cmdline", "memory", "vcpus", "patch_kernel", "expect", "shim", "initrd_argument", "devices"}

// maxVCPUs bounds the number of vCPUs.
const maxVCPUs = 4096

// machines lists the platforms of this stage.
func machines(c *config.Config) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.Platforms)), func(name string) bool { return c.Platforms[name].TEE != "tpm" })
}

func fill(c *config.Config) {
	for _, name := range machines(c) {
		p := c.Platforms[name]
		if len(p.Banks) == 0 {
			p.Banks = []string{digest.SHA256.String()}
		}
		c.Platforms[name] = p
	}
}

func check(c *config.Config, bad config.At) error {
	for _, name := range machines(c) {
		p := c.Platforms[name]
		if name == "" {
			return bad("a platform needs a name", "for instance vtpm", "platforms", name)
		}
		if err := Check(&p, func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"platforms", name}, field...)...)
		}); err != nil {
			return err
		}
	}
	return nil
}

// Check finds what is wrong with the description of a machine by itself. at
// makes the fault at a field.
func Check(p *config.Platform, at config.At) error {
	if other := config.OtherFields(p, sharedFields); len(other) > 0 {
		return at(other[0]+" has no meaning for machines of tee tpm", "leave it out", other[0])
	}
	seen := map[string]bool{}
	for _, b := range p.Banks {
		if _, err := digest.ParseAlgorithm(b); err != nil || seen[b] {
			return at(fmt.Sprintf("%.40q is no bank, or stands twice", b), "known: sha1, sha256, sha384, sha512", "banks")
		}
		seen[b] = true
	}
	for _, w := range []struct {
		field, value string
		known        []string
	}{
		{"pattern", p.Pattern, []string{"direct", "uki", "sdboot-uki", "sdboot-entry", "shim-grub", "chain"}},
		{"machine_type", p.MachineType, []string{"q35", "pc"}},
		{"initrd_argument", p.InitrdArgument, []string{"suffix", "prefix", "as-given"}},
		{"systemd", p.Systemd, []string{string(pcrmeasure.Order252), string(pcrmeasure.Order257)}},
		{"ima", p.IMA, []string{string(pcrmeasure.IMAOff), string(pcrmeasure.IMASig), string(pcrmeasure.IMANG)}},
	} {
		if w.value != "" && !slices.Contains(w.known, w.value) {
			return at(fmt.Sprintf("%.80q: unknown word", w.value), config.NearestHint(w.value, w.known), w.field)
		}
	}
	if p.Devices != "" {
		sets, err := pcrmeasure.DeviceSets()
		if err != nil {
			return err
		}
		var known []string
		for _, s := range sets {
			known = append(known, s.Name)
		}
		if !slices.Contains(known, p.Devices) {
			return at(fmt.Sprintf("%.80q: unknown device set", p.Devices), config.NearestHint(p.Devices, known), "devices")
		}
	}
	if p.Memory != "" {
		if _, err := tdxmeasure.ParseMemory(p.Memory); err != nil {
			return at(err.Error(), "", "memory")
		}
	}
	switch {
	case p.VCPUs != nil && (p.VCPUs.One() < 1 || p.VCPUs.One() > maxVCPUs):
		return at(fmt.Sprintf("%d vCPUs, want 1 to %d", p.VCPUs.One(), maxVCPUs), "", "vcpus")
	case p.AddressBits != 0 && (p.AddressBits < 32 || p.AddressBits > 57):
		return at(fmt.Sprintf("%d address bits, want 32 to 57", p.AddressBits), "", "address_bits")
	case p.FailedOptions < 0 || p.FailedOptions > 64:
		return at(fmt.Sprintf("%d failed boot options, want 0 to 64", p.FailedOptions), "", "failed_options")
	case p.Vars != "" && p.EmptyVars:
		return at("vars names a file and empty_vars says that there is none", "keep one of them", "empty_vars")
	case len(p.Chain) > 16 || len(p.Phases) > 64 || len(p.SBATLevel) > 1000:
		return at("more images, phases or lines than any machine has", "at most 16 images, 64 phases, 1000 lines")
	}
	if p.AppRoot != "" {
		if _, err := digest.ParseHex(digest.SHA256, p.AppRoot); err != nil {
			return at(err.Error(), "write the 64 hex digits, in quotation marks", "app_root")
		}
	}
	if err := checkBoot(p, at); err != nil {
		return err
	}
	return checkExpect(p, at)
}

// checkBoot refuses what is given and would have no part in the boot.
func checkBoot(p *config.Platform, at config.At) error {
	used := map[pcrmeasure.Pattern][]string{
		pcrmeasure.Direct: {"kernel", "initrd"}, pcrmeasure.UKIDirect: {"uki"}, pcrmeasure.LoaderUKI: {"loader", "uki", "loader_conf"},
		pcrmeasure.LoaderEntry: {"loader", "kernel", "initrd", "loader_conf"}, pcrmeasure.ShimGRUB: {"shim", "loader", "kernel", "initrd"},
		pcrmeasure.Chain: {"chain", "shim"},
	}[patternOf(p)]
	for _, f := range []struct {
		field string
		given bool
	}{{"kernel", config.Or(p.Kernel) != ""}, {"initrd", config.Or(p.Initrd) != ""}, {"uki", p.UKI != ""}, {"shim", p.Shim != ""}, {"loader", p.Loader != ""}, {"loader_conf", p.LoaderConf != ""}, {"chain", len(p.Chain) > 0}} {
		if f.given && !slices.Contains(used, f.field) {
			return at(fmt.Sprintf("%s has no part in a boot of pattern %q", f.field, orDisk(patternOf(p))), "name the pattern, or leave the file out", f.field)
		}
	}
	return nil
}

func orDisk(p pcrmeasure.Pattern) string {
	if p == "" {
		return "what the disk holds"
	}
	return string(p)
}

func checkExpect(p *config.Platform, at config.At) error {
	for _, name := range slices.Sorted(maps.Keys(p.Expect)) {
		if _, ok := registerIndex(name); !ok {
			return at(fmt.Sprintf("unknown register %q", name), "pcr0 to pcr23", "expect", name)
		}
		d, err := parseValue(p.Expect[name])
		if err != nil {
			return at(err.Error(), "write the hex digits alone, in quotation marks", "expect", name)
		}
		if !slices.Contains(banksOf(p), d.Algorithm()) {
			return at(fmt.Sprintf("is a value of the bank %s, which is not predicted", d.Algorithm()), "add it to banks", "expect", name)
		}
	}
	return nil
}

// registerIndex reads pcr0 to pcr23.
func registerIndex(name string) (int, bool) {
	text, ok := strings.CutPrefix(name, "pcr")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && n >= 0 && n < pcrmeasure.Count && strconv.Itoa(n) == text
}

// parseValue reads a PCR's value, whose length says the bank.
func parseValue(text string) (digest.Digest, error) {
	for _, a := range []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384, digest.SHA512} {
		if len(text) == 2*a.Size() {
			return digest.ParseHex(a, strings.ToLower(text))
		}
	}
	return digest.Digest{}, fmt.Errorf("%.40q has %d hex digits, want 40, 64, 96 or 128", text, len(text))
}

// banksOf are the banks of a checked description.
func banksOf(p *config.Platform) []digest.Algorithm {
	if len(p.Banks) == 0 {
		return []digest.Algorithm{digest.SHA256}
	}
	var out []digest.Algorithm
	for _, b := range p.Banks {
		if a, err := digest.ParseAlgorithm(b); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// patternOf is how the machine boots, "" where its disk says it.
func patternOf(p *config.Platform) pcrmeasure.Pattern {
	switch {
	case p.Pattern != "":
		return pcrmeasure.Pattern(p.Pattern)
	case len(p.Chain) > 0:
		return pcrmeasure.Chain
	case p.Shim != "":
		return pcrmeasure.ShimGRUB
	case p.Loader != "" && p.UKI != "":
		return pcrmeasure.LoaderUKI
	case p.Loader != "":
		return pcrmeasure.LoaderEntry
	case p.UKI != "":
		return pcrmeasure.UKIDirect
	case p.Disk != "" && config.Or(p.Kernel) == "":
		return ""
	default:
		return pcrmeasure.Direct
	}
}

// state is a setting that may be left unsaid.
func state(on *bool) pcrmeasure.State {
	switch {
	case on == nil:
		return pcrmeasure.Unsaid
	case *on:
		return pcrmeasure.On
	default:
		return pcrmeasure.Off
	}
}
