package pcrmeasure

import (
	"fmt"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
)

// Artifacts are the files that a machine boots. What is absent makes PCRs that
// depend on it missing.
type Artifacts struct {
	Firmware  Input // OVMF: code alone, or code and variables
	Variables Input // the flash image of the variables; absent: those in Firmware, if it has them
	// NoVariables says that the firmware starts with an empty store.
	NoVariables bool
	Kernel      Input
	Initrd      Input
	UKI         Input
	Shim        Input
	Loader      Input // systemd-boot, or GRUB behind a shim
	// LoaderConf is systemd-boot's loader.conf, which it measures since version
	// 255; it is asked for with Order257 only.
	LoaderConf Input
	Disk       Input // the disk that is booted; its first sectors with the partition table are enough
	// Images are those of Pattern Chain, in the order of their start.
	Images []Input
}

// Pattern is how a machine gets from its firmware to its kernel.
type Pattern string

// The patterns. Each was measured on booted machines (QEMU 7.2, OVMF 2022.11,
// systemd 252, shim 16.1, GRUB 2.06) but Chain.
const (
	Direct      Pattern = "direct"       // QEMU's -kernel, -initrd, -append; the kernel may be a UKI
	UKIDirect   Pattern = "uki"          // a UKI started by the firmware
	LoaderUKI   Pattern = "sdboot-uki"   // systemd-boot, then a UKI
	LoaderEntry Pattern = "sdboot-entry" // systemd-boot, then a kernel of a type 1 entry
	ShimGRUB    Pattern = "shim-grub"    // shim, GRUB, kernel
	Chain       Pattern = "chain"        // the images as given, nothing about what they do
)

var patterns = []Pattern{Direct, UKIDirect, LoaderUKI, LoaderEntry, ShimGRUB, Chain}

// State is something that is on, off, or not said.
type State string

// The states.
const (
	Unsaid State = ""
	On     State = "on"
	Off    State = "off"
)

// KernelHeader says what QEMU does to a kernel of -kernel.
type KernelHeader string

// The two ways.
const (
	HeaderEdited  KernelHeader = ""         // QEMU before 10.2 without SEV: see package bzimage
	HeaderAsGiven KernelHeader = "as-given" // newer QEMU, and SEV
)

// InitrdArgument says where OVMF puts "initrd=initrd" in the command line of a
// kernel of -kernel that has an initrd.
type InitrdArgument string

// The places.
const (
	ArgumentSuffix InitrdArgument = ""       // edk2 up to 2025.02
	ArgumentPrefix InitrdArgument = "prefix" // newer edk2
	ArgumentNone   InitrdArgument = "none"   // the command line is as it is given
)

// IMA says what the kernel's Integrity Measurement Architecture records: the
// template of its one record, boot_aggregate.
type IMA string

// The states of IMA.
const (
	IMAUnsaid IMA = ""
	IMAOff    IMA = "off"
	IMASig    IMA = "ima-sig"
	IMANG     IMA = "ima-ng"
)

// Machine is what is known of a machine beside its artifacts.
type Machine struct {
	Bank digest.Algorithm
	// Type, Memory (bytes), VCPUs and AddressBits (of a physical address; 0
	// means 40, as QEMU's TCG and its default CPU models have it) are QEMU's.
	Type        string
	Memory      uint64
	VCPUs       int
	AddressBits int
	Pattern     Pattern
	// Cmdline is what -append gives, or what a type 1 entry's options and
	// initrds make (EntryCmdline). For a UKI behind systemd-boot it replaces the
	// UKI's own.
	Cmdline        string
	Header         KernelHeader
	InitrdArgument InitrdArgument
	// SecureBoot is only asked where no variables are given.
	SecureBoot State
	// FailedOptions is how many boot options came back before the one that
	// booted.
	FailedOptions int
	// Order names the version of systemd-boot and its stub, by the order in which
	// it measures sections.
	Order SectionOrder
	// Inner says whether firmware measures the kernel inside a unified kernel
	// image too, when systemd's stub starts it. Unsaid is on without Secure Boot,
	// and off with it for version 252 where db does not allow that kernel by
	// itself, as met on machines; else it is not known.
	Inner State
	// Phases are the words that systemd-pcrphase has extended PCR 11 with when
	// it is looked at: enter-initrd, leave-initrd, sysinit, ready.
	Phases []string
	// Devices names the device set whose boot options PCR 1 has; "" leaves
	// PCR 1 out. See DeviceSets.
	Devices string
	IMA     IMA
	// IMAPads says whether the kernel lacks SHA-384 and SHA-512 when it starts:
	// it then extends these banks with a SHA-1 digest and zeros behind it (seen
	// with Debian's cloud kernel 6.1).
	IMAPads State
	// SBAT is the SbatLevel that shim has in force, with its line ends.
	SBAT string
	// Credentials says that systemd-boot's stub finds credentials or extensions
	// on the disk: it packs them at boot, into PCR 12 and 13 and the initrd.
	Credentials bool
}

func (c *Machine) check() error {
	bad := func(field, found, want, hint string) error {
		return &place.Fault{Op: "predict", Input: "PCRs", Field: field, Found: found, Want: want, Hint: hint}
	}
	switch {
	case !c.Bank.Valid():
		return bad("bank", "none", "sha1, sha256, sha384 or sha512", "--bank sha256")
	case !slices.Contains(patterns, c.Pattern):
		return bad("pattern", fmt.Sprintf("%q", c.Pattern), fmt.Sprint(patterns), "")
	case c.FailedOptions < 0 || c.FailedOptions > 64:
		return bad("failed boot options", fmt.Sprint(c.FailedOptions), "0 to 64", "")
	case len(c.Phases) > 64:
		return bad("phases", fmt.Sprintf("%d words", len(c.Phases)), "at most 64", "")
	case c.VCPUs < 0 || c.VCPUs > 4096:
		return bad("vCPUs", fmt.Sprint(c.VCPUs), "1 to 4096", "--cpu N")
	case c.IMA != IMAUnsaid && c.IMA != IMAOff && c.IMA != IMASig && c.IMA != IMANG:
		return bad("IMA", string(c.IMA), "off, ima-sig or ima-ng", "")
	case c.Inner != Unsaid && c.Inner != On && c.Inner != Off:
		return bad("inner kernel", string(c.Inner), "on or off", "")
	case c.IMAPads != Unsaid && c.IMAPads != On && c.IMAPads != Off:
		return bad("IMA padding", string(c.IMAPads), "on or off", "")
	case c.SecureBoot != Unsaid && c.SecureBoot != On && c.SecureBoot != Off:
		return bad("Secure Boot", string(c.SecureBoot), "on or off", "")
	case c.Header != HeaderEdited && c.Header != HeaderAsGiven:
		return bad("kernel header", string(c.Header), "as-given or nothing", "")
	case c.InitrdArgument != ArgumentSuffix && c.InitrdArgument != ArgumentPrefix && c.InitrdArgument != ArgumentNone:
		return bad("initrd argument", string(c.InitrdArgument), "prefix, none or nothing", "")
	}
	_, err := c.Order.names()
	return err
}

// EntryCmdline is the command line that systemd-boot gives the kernel of a type
// 1 entry: an argument for each initrd, with backslashes, then the options
// (systemd, src/boot/efi/boot.c, config_entry_add_type1).
func EntryCmdline(initrds []string, options string) string {
	s := ""
	for _, i := range initrds {
		path := []byte(i)
		for j := range path {
			if path[j] == '/' {
				path[j] = '\\'
			}
		}
		s += "initrd=" + string(path) + " "
	}
	return s + options
}
