package tdx

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
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
		if p.TEE == "tpm" {
			continue // its own stage's
		}
		at := func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"platforms", name}, field...)...)
		}
		if name == "" {
			return at("a platform needs a name", "for instance metal-qemu-tdx-gpu")
		}
		if err := checkPlatform(&p, at); err != nil {
			return err
		}
	}
	return nil
}

func checkPlatform(p *config.Platform, at config.At) error {
	switch p.TEE {
	case "tdx":
	case "":
		return at("tee is missing", "tee: tdx, and a profile: "+strings.Join(profiles.TDXNames(), ", "))
	case "snp":
		return at(fmt.Sprintf("tee %q is not built yet: its registers cannot be computed", p.TEE), "leave the platform out; its values stay unchecked", "tee")
	default:
		return at(fmt.Sprintf("unknown tee %q", p.TEE), config.NearestHint(p.TEE, []string{"tdx", "tpm"}), "tee")
	}
	if own := config.TPMFields(p); len(own) > 0 {
		return at(own[0]+" is for machines of tee tpm", "leave it out", own[0])
	}
	if p.Profile == "" {
		return at("profile is missing: how hypervisor and firmware behave", "known: "+strings.Join(profiles.TDXNames(), ", "))
	}
	if !slices.Contains(profiles.TDXNames(), p.Profile) {
		return at(fmt.Sprintf("unknown profile %q", p.Profile), config.NearestHint(p.Profile, profiles.TDXNames()), "profile")
	}
	if p.Memory != "" {
		if _, err := tdxmeasure.ParseMemory(p.Memory); err != nil {
			return at(err.Error(), "", "memory")
		}
	}
	if p.VCPUs < 0 || p.VCPUs > acpi.MaxVCPUs {
		return at(fmt.Sprintf("%d vCPUs, want 1 to %d", p.VCPUs, acpi.MaxVCPUs), "", "vcpus")
	}
	if p.GPUs < 0 || p.GPUs > 16 {
		return at(fmt.Sprintf("%d GPUs, want 0 to 16", p.GPUs), "", "gpus")
	}
	if p.QEMU != "" {
		if err := new(tdxmeasure.Profile).SetQEMU(p.QEMU); err != nil {
			return at(err.Error(), "", "qemu")
		}
	}
	if p.PageOrder != "" {
		if _, err := tdxmeasure.ParsePageOrder(p.PageOrder); err != nil {
			return at(err.Error(), config.NearestHint(p.PageOrder, tdxmeasure.PageOrders()), "page_order")
		}
	}
	switch {
	case p.ACPISource == "qemu":
		return at("acpi_source qemu would run a program, which a run does not: its result must follow from its inputs", "leave acpi_source out for the built-in tables, or name a tables file with acpi: FILE", "acpi_source")
	case p.ACPISource != "" && p.ACPISource != "template":
		return at(fmt.Sprintf("unknown source of ACPI tables %q", p.ACPISource), config.NearestHint(p.ACPISource, []string{"template"}), "acpi_source")
	case p.ACPISource != "" && p.ACPI != "":
		return at("acpi names a file and acpi_source the built-in tables", "keep one of them", "acpi_source")
	}
	if p.KeyProvider != "" {
		if _, err := tdxmeasure.ParseKeyProvider(p.KeyProvider); err != nil {
			return at(err.Error(), "", "key_provider")
		}
	}
	if err := config.CheckAppID(p.AppID, at); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.Expect)) {
		alg, ok := valueAlgorithm(name)
		if !ok {
			return at(fmt.Sprintf("unknown register %q", name), config.NearestHint(name, slices.Concat(Registers[:], Aggregates)), "expect", name)
		}
		if _, err := digest.ParseHex(alg, strings.ToLower(p.Expect[name])); err != nil {
			return at(err.Error(), "write the hex digits alone, in quotation marks", "expect", name)
		}
	}
	return nil
}

// fill writes out what platforms take from elsewhere.
func fill(c *config.Config) {
	for name, p := range c.Platforms {
		if p.TEE == "tpm" {
			continue
		}
		if p.ACPI == "" && p.ACPISource == "" {
			p.ACPISource = "template"
		}
		if p.Compose == "" && measuresCompose(p.Profile) {
			p.Compose = c.Compose
		}
		c.Platforms[name] = p
	}
}

// measuresCompose reports whether machines of a profile measure a compose
// file.
func measuresCompose(profile string) bool {
	p, err := tdxmeasure.LoadProfile(profile)
	return err == nil && (p.RTMR3 == tdxmeasure.RTMR3Raw || p.RTMR3 == tdxmeasure.RTMR3SecretVMKMS)
}
