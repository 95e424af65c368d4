package pipeline

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// configError makes an error at a place of the configuration.
type configError func(msg, hint string, path ...string) error

// registerKeys are the registers of a TDX machine by their last part of a key,
// MRTD first, then RTMR0 to RTMR3: the index is that of tdxmeasure's results.
var registerKeys = tdxmeasure.RegisterNames()

// aggregateKeys are the digests over several registers that tools print.
var aggregateKeys = tdxmeasure.AggregateNames()

// valueAlgorithm is the hash that a register's or an aggregate's name stands
// for.
func valueAlgorithm(name string) (digest.Algorithm, bool) {
	switch {
	case slices.Contains(registerKeys[:], name):
		return digest.SHA384, true
	case slices.Contains(aggregateKeys, name):
		return digest.SHA256, true
	default:
		var none digest.Algorithm
		return none, false
	}
}

// machinesOnly reports whether a configuration is about machines and their
// evidence and names nothing of a deployment, whose absence is then no lack.
func (c *Config) machinesOnly() bool {
	return len(c.Platforms)+len(c.Evidence) > 0 && c.Deployment == "" && c.Models == "" && c.Hashes == "" &&
		len(c.Images)+len(c.Disks) == 0 && c.Policies == nil && c.Manifest == nil && c.Against == ""
}

// checkMachines checks the platforms and the evidence.
func (c *Config) checkMachines(bad configError) error {
	for _, name := range slices.Sorted(maps.Keys(c.Platforms)) {
		p := c.Platforms[name]
		at := func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"platforms", name}, field...)...)
		}
		if name == "" {
			return at("a platform needs a name", "for instance metal-qemu-tdx-gpu")
		}
		if err := p.check(at); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Evidence)) {
		e := c.Evidence[name]
		at := func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"evidence", name}, field...)...)
		}
		if name == "" {
			return at("evidence needs a name", "any will do, such as the machine's")
		}
		if err := e.check(at); err != nil {
			return err
		}
		if _, ok := c.Platforms[e.Platform]; e.Platform != "" && !ok {
			return at(fmt.Sprintf("there is no platform %q", e.Platform), nearestHint(e.Platform, slices.Sorted(maps.Keys(c.Platforms))), "platform")
		}
	}
	return nil
}

// nearestHint proposes the known word that may be meant, or lists them.
func nearestHint(word string, known []string) string {
	switch near := yamldoc.Nearest(word, known); {
	case near != "":
		return fmt.Sprintf("did you mean %q?", near)
	case len(known) == 0:
		return "none is given"
	default:
		return "known: " + strings.Join(known, ", ")
	}
}

func (p *PlatformConfig) check(at configError) error {
	switch p.TEE {
	case "tdx":
	case "":
		return at("tee is missing", "tee: tdx, and a profile: "+strings.Join(profiles.TDXNames(), ", "))
	case "snp", "tpm":
		return at(fmt.Sprintf("tee %q is not built yet: its registers cannot be computed", p.TEE), "leave the platform out; its values stay unchecked", "tee")
	default:
		return at(fmt.Sprintf("unknown tee %q", p.TEE), nearestHint(p.TEE, []string{"tdx"}), "tee")
	}
	if p.Profile == "" {
		return at("profile is missing: how hypervisor and firmware behave", "known: "+strings.Join(profiles.TDXNames(), ", "))
	}
	if !slices.Contains(profiles.TDXNames(), p.Profile) {
		return at(fmt.Sprintf("unknown profile %q", p.Profile), nearestHint(p.Profile, profiles.TDXNames()), "profile")
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
			return at(err.Error(), nearestHint(p.PageOrder, tdxmeasure.PageOrders()), "page_order")
		}
	}
	switch {
	case p.ACPISource == "qemu":
		return at("acpi_source qemu would run a program, which a run does not: its result must follow from its inputs", "leave acpi_source out for the built-in tables, or name a tables file with acpi: FILE", "acpi_source")
	case p.ACPISource != "" && p.ACPISource != "template":
		return at(fmt.Sprintf("unknown source of ACPI tables %q", p.ACPISource), nearestHint(p.ACPISource, []string{"template"}), "acpi_source")
	case p.ACPISource != "" && p.ACPI != "":
		return at("acpi names a file and acpi_source the built-in tables", "keep one of them", "acpi_source")
	}
	if p.KeyProvider != "" {
		if _, err := tdxmeasure.ParseKeyProvider(p.KeyProvider); err != nil {
			return at(err.Error(), "", "key_provider")
		}
	}
	if err := checkAppID(p.AppID, at); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.Expect)) {
		alg, ok := valueAlgorithm(name)
		if !ok {
			return at(fmt.Sprintf("unknown register %q", name), nearestHint(name, slices.Concat(registerKeys[:], aggregateKeys)), "expect", name)
		}
		if _, err := digest.ParseHex(alg, strings.ToLower(p.Expect[name])); err != nil {
			return at(err.Error(), "write the hex digits alone, in quotation marks", "expect", name)
		}
	}
	return nil
}

// ParseAppID reads the app id of a key management service: 20 bytes in hex, nil
// where there is none.
func ParseAppID(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil || len(b) != 20 {
		return nil, fmt.Errorf("%.80q is no app id, want 40 hex digits", text)
	}
	return b, nil
}

func checkAppID(text string, at configError) error {
	if _, err := ParseAppID(text); err != nil {
		return at(err.Error(), "as the key service shows it, in quotation marks", "app_id")
	}
	return nil
}

// imageHash reads an os_image_hash, zero where none is given.
func imageHash(text string) (digest.Digest, error) {
	if text == "" {
		return digest.Digest{}, nil
	}
	return digest.ParseHex(digest.SHA256, strings.ToLower(strings.TrimPrefix(text, "sha256:")))
}

// tcbStatuses are what Intel's collateral says of a platform and may be
// accepted.
var tcbStatuses = []string{
	tdxquote.SWHardeningNeeded, tdxquote.ConfigurationNeeded, tdxquote.ConfigurationAndSW, tdxquote.OutOfDate, tdxquote.OutOfDateConfiguration, tdxquote.UpToDate,
}

func (e *EvidenceConfig) check(at configError) error {
	if e.File == "" {
		return at("file is missing", "a quote, a saved cpu.html or a folder that retally evidence capture wrote")
	}
	if e.At == "" {
		return at("at is missing: the time at which certificates must be valid", "for instance at: 2026-06-01T00:00:00Z; a result that depends on the day it is made on cannot be made again")
	}
	if _, err := time.Parse(time.RFC3339, e.At); err != nil {
		return at(fmt.Sprintf("%q is no time", e.At), "RFC 3339, for instance 2026-06-01T00:00:00Z", "at")
	}
	known := []string{string(evidence.SecretVM), string(evidence.Dstack), string(evidence.TDX), string(evidence.NVIDIA)}
	switch {
	case slices.Contains([]string{"snp", "tpm", "contrast", "blindllama"}, e.Profile):
		return at(fmt.Sprintf("evidence of profile %q is not judged yet", e.Profile), "known: "+strings.Join(known, ", "), "profile")
	case e.Profile != "" && !slices.Contains(known, e.Profile):
		return at(fmt.Sprintf("unknown profile %q", e.Profile), nearestHint(e.Profile, known), "profile")
	}
	if err := checkAppID(e.AppID, at); err != nil {
		return err
	}
	if _, err := imageHash(e.OSImageHash); err != nil {
		return at(fmt.Sprintf("%q is no os_image_hash: %s", e.OSImageHash, err), "64 hex digits, in quotation marks", "os_image_hash")
	}
	if b, err := hex.DecodeString(e.Nonce); err != nil || len(b) > 64 {
		return at(fmt.Sprintf("%q is no nonce", e.Nonce), "up to 128 hex digits", "nonce")
	}
	for i, s := range e.AcceptTCB {
		switch {
		case s == tdxquote.Revoked:
			return at("accept_tcb: Revoked is never accepted", "", "accept_tcb")
		case !slices.Contains(tcbStatuses, s):
			return at(fmt.Sprintf("accept_tcb[%d]: unknown status %q", i, s), nearestHint(s, tcbStatuses), "accept_tcb")
		}
	}
	for i, s := range e.MRSEAM {
		if _, err := digest.ParseHex(digest.SHA384, strings.ToLower(s)); err != nil {
			return at(fmt.Sprintf("mrseam[%s]: %s", strconv.Itoa(i), err), "", "mrseam")
		}
	}
	return nil
}

// fillMachines writes out what platforms and evidence take from elsewhere.
func (c *Config) fillMachines() {
	for name, p := range c.Platforms {
		if p.ACPI == "" && p.ACPISource == "" {
			p.ACPISource = "template"
		}
		if p.Compose == "" && measuresCompose(p.Profile) {
			p.Compose = c.Compose
		}
		c.Platforms[name] = p
	}
	take := func(to *string, from ...string) {
		for _, f := range from {
			if *to == "" {
				*to = f
			}
		}
	}
	for name, e := range c.Evidence {
		p := c.Platforms[e.Platform]
		take(&e.Profile, evidenceProfile(p.Profile))
		take(&e.Registry, c.Registry)
		take(&e.Compose, p.Compose, c.Compose)
		take(&e.Rootfs, p.Rootfs)
		take(&e.DockerFiles, p.DockerFiles)
		take(&e.AppID, p.AppID)
		c.Evidence[name] = e
	}
}

// evidenceProfile is by whose conventions the evidence of a machine is judged.
func evidenceProfile(machine string) string {
	switch {
	case machine == "secretvm" || machine == "reproduce-mr":
		return string(evidence.SecretVM)
	case strings.HasPrefix(machine, "dstack"):
		return string(evidence.Dstack)
	default:
		return ""
	}
}

// measuresCompose reports whether machines of a profile measure a compose
// file.
func measuresCompose(profile string) bool {
	p, err := tdxmeasure.LoadProfile(profile)
	return err == nil && (p.RTMR3 == tdxmeasure.RTMR3Raw || p.RTMR3 == tdxmeasure.RTMR3SecretVMKMS)
}
