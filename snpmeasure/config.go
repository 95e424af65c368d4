package snpmeasure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/trace"
)

// Mode is what is measured.
type Mode string

// The modes.
const (
	SNP      Mode = "snp"       // SEV-SNP: SHA-384, page by page
	SEVES    Mode = "seves"     // SEV-ES: one SHA-256, registers included
	SEV      Mode = "sev"       // SEV: one SHA-256
	OVMFHash Mode = "ovmf-hash" // SEV-SNP, the firmware's pages alone: a seed for SNP
	SVSM     Mode = "svsm"      // SEV-SNP with a Coconut SVSM below the firmware
)

// ParseMode reads a mode by its name; sev-snp-measure's names serve too.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(strings.TrimPrefix(s, "snp:")); {
	case m == OVMFHash, m == SVSM, m == Mode(s) && (m == SNP || m == SEVES || m == SEV):
		return m, nil
	}
	return "", setting("mode", fmt.Sprintf("%.40q", s), "snp, seves, sev, ovmf-hash or svsm", "")
}

// VMM is the program that starts the guest.
type VMM string

// The VMMs. GCE is known to sev-snp-measure alone, krun to the Rust crate sev
// alone; GCE's digests are confirmed by machines in production.
const (
	QEMU VMM = "qemu"
	EC2  VMM = "ec2"
	GCE  VMM = "gce"
	Krun VMM = "krun"
)

// ParseVMM reads a VMM by its name, in either case.
func ParseVMM(s string) (VMM, error) {
	switch v := VMM(strings.ToLower(s)); v {
	case QEMU, EC2, GCE, Krun:
		return v, nil
	}
	return "", setting("VMM", fmt.Sprintf("%.40q", s), "qemu, ec2, gce or krun", "")
}

// Quirk names a behavior on which programs disagree, or that a reader of the
// digest would not expect.
type Quirk string

// The choices. The first of each pair is the default, which is what
// sev-snp-measure does; the second is asked for by its name and is what the
// Rust crate sev 8.0.0 does.
const (
	EC2RDX600  Quirk = "ec2-rdx-0x600"
	EC2RDXZero Quirk = "ec2-rdx-0"

	CmdlineAsIs    Quirk = "cmdline-as-is"
	CmdlineTrimmed Quirk = "cmdline-trimmed" // white space at both ends is left out

	MetadataOptional Quirk = "metadata-optional"
	MetadataRequired Quirk = "metadata-required" // firmware without SEV metadata is refused

	// With a start address of 0 the registers of the second and later CPUs
	// are left out: the digest is that of one CPU. The default is an error.
	ResetZeroOneCPU Quirk = "reset-eip-0-drops-cpus"

	// One CPU is measured where the firmware has no SEV-ES reset block. Both
	// programs refuse it, although one CPU needs no other start address; the
	// default is their error.
	ResetOptional Quirk = "no-reset-block-one-cpu"
)

// What stands in a result without having been asked for.
const (
	GCEOnePeer       Quirk = "gce-sev-snp-measure-only" // the crate sev does not know this VMM
	KrunOnePeer      Quirk = "krun-rust-crate-only"     // sev-snp-measure does not know this VMM
	SVSMFeatures     Quirk = "svsm-features-0x1"        // other features are not measured in this mode
	SVSMFCW          Quirk = "svsm-fcw-0"               // the x87 control word is 0 where QEMU sets 0x37f
	RepeatedEntry    Quirk = "repeated-footer-entry"    // sev-snp-measure takes the lowest, QEMU the highest
	UnknownFeatures  Quirk = "unknown-features"         // bits of SEV_FEATURES that have no name here
	NoVCPUs          Quirk = "no-vcpus"                 // a machine without CPUs; its digest is a stage of others'
	FirmwareBySeed   Quirk = "firmware-by-seed"         // its pages were not measured but given
	SeedHidesFile    Quirk = "seed-hides-firmware"      // the firmware file gives tables only
	RepeatedSections Quirk = "repeated-kernel-hashes"   // the page with the hashes is measured more than once
)

// Choices are the quirks that can be asked for.
func Choices() []Quirk {
	return []Quirk{EC2RDX600, EC2RDXZero, CmdlineAsIs, CmdlineTrimmed, MetadataOptional, MetadataRequired, ResetZeroOneCPU, ResetOptional}
}

// MaxVCPUs bounds the number of CPUs: what Contrast's verifier accepts.
const MaxVCPUs = 65535

// Layout is what a firmware says about its launch: where the CPUs start, where
// hashes go and which ranges of memory it begins with.
type Layout = ovmf.SEV

// Section is a range of memory of a Layout.
type Section = ovmf.SEVSection

// Artifacts are the files that a digest is made from. Kernel and initrd may be
// absent, or known by their SHA-256 only. SVSM is for the mode of that name.
type Artifacts struct {
	Firmware, Kernel, Initrd, SVSM Input
	// Layout stands for the tables of a firmware that is known by its seed
	// only, as registries publish them. It wins over the firmware's own.
	Layout *Layout
}

// Config is a machine.
type Config struct {
	Mode     Mode
	VMM      VMM
	VCPUs    int // 0 in the modes SEV and OVMFHash
	CPU      CPU // for EC2, GCE and krun it is not measured
	Features uint64
	// Cmdline is the kernel's command line; CmdlineSum stands for it where
	// only its hash is known: the SHA-256 of the line and a zero byte, as it
	// stands in the table of hashes.
	Cmdline    string
	CmdlineSum digest.Digest
	// Seed is the launch digest after the firmware's pages (SHA-384), where it
	// is known: SNP only.
	Seed digest.Digest
	// VarsSize is the size of the firmware's variable store, for SVSM only.
	VarsSize int64
	// Quirks are the choices that differ from the defaults.
	Quirks []Quirk
}

// Result is a launch digest and what it is the fold of.
type Result struct {
	Config Config
	// Digest is SHA-384 in the SNP modes, SHA-256 for SEV and SEV-ES.
	Digest digest.Digest
	Trace  trace.Trace
	// VMSA has the SHA-256 of the measured register pages, each once.
	VMSA   []digest.Digest
	Quirks []Quirk
}

func (c *Config) has(q Quirk) bool { return slices.Contains(c.Quirks, q) }

// pages reports whether the mode is one of SEV-SNP.
func (c *Config) pages() bool { return c.Mode == SNP || c.Mode == OVMFHash || c.Mode == SVSM }

// cpus reports whether the mode measures registers.
func (c *Config) cpus() bool { return c.Mode == SNP || c.Mode == SEVES || c.Mode == SVSM }

// check refuses settings that do not describe a machine, or that would be
// ignored without a word.
func (c *Config) check(a *Artifacts) error {
	if _, err := ParseMode(string(c.Mode)); err != nil {
		return err
	}
	if v, err := ParseVMM(string(c.VMM)); err != nil || v != c.VMM {
		return setting("VMM", fmt.Sprintf("%.40q", c.VMM), "qemu, ec2, gce or krun", "")
	}
	for _, q := range c.Quirks {
		if !slices.Contains(Choices(), q) {
			return setting("quirk", fmt.Sprintf("%.60q", q), fmt.Sprint("one of ", Choices()), "")
		}
	}
	for _, pair := range [][2]Quirk{{EC2RDX600, EC2RDXZero}, {CmdlineAsIs, CmdlineTrimmed}, {MetadataOptional, MetadataRequired}} {
		if c.has(pair[0]) && c.has(pair[1]) {
			return setting("quirks", string(pair[0])+" and "+string(pair[1]), "one of them", "")
		}
	}
	switch {
	case c.VCPUs < 0 || c.VCPUs > MaxVCPUs:
		return setting("vCPUs", fmt.Sprint(c.VCPUs), fmt.Sprintf("0 to %d", MaxVCPUs), "")
	case !c.cpus() && c.VCPUs != 0:
		return setting("vCPUs", fmt.Sprint(c.VCPUs), "none: mode "+string(c.Mode)+" measures no CPU", "leave the number of vCPUs out")
	case c.cpus() && !c.CPU.Given() && c.VMM == QEMU:
		return setting("CPU type", "none", "a type, a signature, or family, model and stepping", "QEMU's guests start with it in a register")
	case c.Mode == SVSM && c.VMM != QEMU:
		return setting("VMM", string(c.VMM), "qemu: the SVSM mode is known for QEMU only", "")
	case c.Mode == SVSM && !a.SVSM.Present():
		return setting("SVSM", "none", "the SVSM file", "")
	case c.Mode == SVSM && c.VarsSize <= 0:
		return setting("size of the variable store", fmt.Sprint(c.VarsSize), "its size in bytes", "the SVSM is loaded below it")
	case c.Mode != SVSM && (a.SVSM.Present() || c.VarsSize != 0):
		return setting("SVSM", "given", "none in mode "+string(c.Mode), "choose mode svsm")
	case c.Mode != SNP && !c.Seed.IsZero():
		return setting("OVMF hash", "given", "none in mode "+string(c.Mode), "it is the launch digest after the firmware's pages, for mode snp")
	case !c.Seed.IsZero() && c.Seed.Algorithm() != digest.SHA384:
		return setting("OVMF hash", c.Seed.Algorithm().String(), "48 bytes (sha384)", "")
	case c.Seed.IsZero() && a.Layout != nil:
		return setting("OVMF hash", "none", "the launch digest after the firmware's pages", "sections without a firmware's pages give no digest")
	case a.Layout == nil && a.Firmware.R == nil:
		return setting("firmware", "none", "a file", "a digest of the file does not do: its pages are hashed one by one")
	case (a.Initrd.Present() || c.Cmdline != "" || !c.CmdlineSum.IsZero()) && !a.Kernel.Present():
		return setting("kernel", "none", "a kernel, as an initrd or a command line is given", "without a kernel neither is measured")
	case a.Kernel.Present() && (c.Mode == OVMFHash || c.Mode == SVSM):
		return setting("kernel", "given", "none in mode "+string(c.Mode)+", which does not measure it", "")
	case strings.ContainsRune(c.Cmdline, 0):
		return setting("command line", fmt.Sprintf("%.40q", c.Cmdline), "text without a zero byte", "VMM and kernel stop at the zero byte")
	case !c.CmdlineSum.IsZero() && c.Cmdline != "":
		return setting("command line", "the line and its hash", "one of them", "")
	case !c.CmdlineSum.IsZero() && c.CmdlineSum.Algorithm() != digest.SHA256:
		return setting("hash of the command line", c.CmdlineSum.Algorithm().String(), "sha256, of the line and a zero byte", "")
	case !c.CmdlineSum.IsZero() && c.has(CmdlineTrimmed):
		return setting("quirk", string(CmdlineTrimmed), "the command line itself", "a hash cannot be trimmed")
	}
	return nil
}
