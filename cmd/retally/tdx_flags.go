package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// tdxFlags describe a TD: its artifacts, its machine, and how hypervisor and
// firmware behave. `tdx measure` and `explain --search` take the same ones.
type tdxFlags struct {
	cmd   *cobra.Command // to tell a flag that was given from its default
	names []string       // of all flags, by subject

	profile, metadata, vmConfig               string
	firmware, kernel, initrd, cmdline         string
	rootfs, compose, dockerFiles              string
	keyProvider, appID, configID              string
	events                                    []string
	eventLog, rtmr3                           string
	eventVersion                              int
	memory                                    string
	cpu                                       int
	qemuVersion, pageOrder                    string
	patchKernel, pic                          bool
	headerRule, authenticode, initrdArgument  string
	acpi, acpiSource, acpiFamily              string
	cfv, hob                                  string
	excludeACPI, trailingSeparator, sixTables bool
	readOn, noInitrd                          bool
	devices, hole64                           string
	slots, rootPorts                          []int
	gpus, nics, volumes, switches             int
	noCOM1, smm, hpet, hotplugOff, numa, pxb  bool
	hugePages, noRootDisk, amdCPU             bool
	bootOrder, bootEntries, gpt, shim, grub   string
	mokList, mokListX, mokListTrusted         string
}

// sharedFlags adds them all to a verb.
func (f *tdxFlags) sharedFlags(cmd *cobra.Command) {
	f.cmd, f.names = cmd, nil
	cmd.Flags().SortFlags = false // by subject
	f.artifactFlags()
	f.machineFlags()
	f.behaviorFlags()
	f.diskBootFlags()
	fixed := func(name string, words ...string) {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(profiles.TDXNames(), cobra.ShellCompDirectiveDefault))
	fixed("page-order", "single", "two-pass", "raw-extend")
	fixed("acpi-source", "template", "qemu")
	fixed("acpi-family", families()...)
	fixed("cfv", "firmware", "constant")
	fixed("hob", "firmware", "fixed", "first-base")
}

func (f *tdxFlags) text(to *string, name, value, usage string) {
	f.cmd.Flags().StringVar(to, name, value, usage)
	f.names = append(f.names, name)
}

func (f *tdxFlags) flag(to *bool, name string, value bool, usage string) {
	f.cmd.Flags().BoolVar(to, name, value, usage)
	f.names = append(f.names, name)
}

func (f *tdxFlags) number(to *int, name string, value int, usage string) {
	f.cmd.Flags().IntVar(to, name, value, usage)
	f.names = append(f.names, name)
}

func (f *tdxFlags) numbers(to *[]int, name string, value []int, usage string) {
	f.cmd.Flags().IntSliceVar(to, name, value, usage)
	f.names = append(f.names, name)
}

func (f *tdxFlags) list(to *[]string, name string, value []string, usage string) {
	f.cmd.Flags().StringArrayVar(to, name, value, usage)
	f.names = append(f.names, name)
}

func (f *tdxFlags) artifactFlags() {
	f.text(&f.profile, "profile", "", "how hypervisor and firmware behave: "+strings.Join(profiles.TDXNames(), ", ")+", or a YAML file")
	f.text(&f.metadata, "metadata", "", "metadata.json of a dstack image or of tdx-measure; its files are relative to it, other flags win")
	f.text(&f.vmConfig, "vm-config", "", "dstack's vm_config, or the reply that holds it; other flags win")
	f.text(&f.firmware, "firmware", "", "firmware file, whole (OVMF.fd)")
	f.text(&f.kernel, "kernel", "", "kernel file (bzImage)")
	f.text(&f.initrd, "initrd", "", "initrd file (default: none, measured as empty)")
	f.text(&f.cmdline, "cmdline", "", "kernel command line as given to the hypervisor, without what the profile adds")
	f.text(&f.compose, "docker-compose", "", "SecretVM: compose file, byte for byte, or its digest as sha256:HEX; dstack: app-compose.json")
	f.text(&f.rootfs, "rootfs", "", "SecretVM: root file system, or its digest as sha256:HEX")
	f.text(&f.dockerFiles, "docker-files", "", "SecretVM: docker files archive, or its digest as sha256:HEX (default: none, not measured)")
	f.text(&f.appID, "app-id", "", "SecretVM with a key service, dstack: app id in hex, 20 bytes")
	f.text(&f.keyProvider, "key-provider", "", "key provider in the aggregates: none, sgx-v0 or hex (default: 32 zero bytes)")
	f.text(&f.configID, "mr-config-id", "", "dstack: MRCONFIGID in the aggregate: 96 hex digits, v1, v2:KIND[:HEX] (KIND none, local, kms, tpm) or v3:FILE (default: zeros)")
	f.text(&f.rtmr3, "rtmr3", "", "what extends RTMR3: none, raw, secretvm-kms, events (default: as the profile says)")
	f.list(&f.events, "event", nil, "dstack: event of RTMR3 as NAME or NAME=HEX; may be given several times, in order")
	f.text(&f.eventLog, "event-log", "", "dstack: take the events of RTMR3 from an event log (JSON, or the reply that holds it)")
	f.number(&f.eventVersion, "event-version", 1, "version of the digests of --event: 1, or 2 for the canonical JSON form")
}

func (f *tdxFlags) machineFlags() {
	f.text(&f.memory, "memory", "2G", "memory size, with the unit M or G")
	f.number(&f.cpu, "cpu", 1, "number of vCPUs, 1 to 4096")
	f.text(&f.acpi, "acpi", "", "file of the ACPI tables blob, binary or hex; rsdp and loader follow from it")
	f.text(&f.acpiSource, "acpi-source", "template", "where ACPI tables come from without --acpi: template (built in) or qemu (RETALLY_QEMU, or qemu-system-x86_64 in PATH)")
	f.text(&f.acpiFamily, "acpi-family", "", "QEMU family of the tables: "+strings.Join(families(), ", ")+" (default: as the profile or --qemu-version says)")
	f.flag(&f.pic, "pic", false, "the tables say that there is a PIC (default: as the profile or --qemu-version says)")
	f.flag(&f.noCOM1, "no-com1", false, "no serial port")
	f.flag(&f.smm, "smm", false, "system management mode is on")
	f.flag(&f.hpet, "hpet", false, "there is an HPET")
	f.flag(&f.hotplugOff, "hotplug-off", false, "ACPI PCI hot-plug is off")
	f.flag(&f.numa, "numa", false, "the tables describe one NUMA node (SRAT)")
	f.flag(&f.pxb, "pxb", false, "there is an expander bridge in slot 16; needs --numa")
	f.text(&f.devices, "devices", "", "devices: secretvm, secretvm-gpu, dstack, or a number of devices in slots from 1 (default: as the profile's machines have)")
	f.numbers(&f.slots, "slots", nil, "slots of the root bus with a device, 1 to 30, in place of --devices")
	f.numbers(&f.rootPorts, "root-ports", nil, "slots of the root bus with an occupied root port; needs --hotplug-off")
	f.number(&f.gpus, "gpus", 0, "number of GPUs; 1 at most for SecretVM")
	f.number(&f.nics, "nics", 1, "dstack: number of network cards")
	f.number(&f.volumes, "volumes", 0, "dstack: number of verified volumes")
	f.number(&f.switches, "nvswitches", 0, "dstack: number of NVSwitches")
	f.flag(&f.hugePages, "hugepages", false, "dstack: huge pages, a NUMA node and GPUs below an expander bridge")
	f.flag(&f.noRootDisk, "no-root-disk", false, "dstack: root_verity is false, a CD-ROM in place of the root disk")
	f.text(&f.hole64, "pci-hole64", "", "size of the 64-bit PCI window, with the unit M or G (default: QEMU's 32G)")
	f.flag(&f.amdCPU, "amd-cpu", false, "tables of a CPU model of AMD: memory that would reach 1 TiB lies above it")
}

func (f *tdxFlags) behaviorFlags() {
	f.text(&f.qemuVersion, "qemu-version", "", "QEMU of the host, three numbers; sets page order, PIC, ACPI family and header patching, which other flags may change")
	f.text(&f.pageOrder, "page-order", "", "order in which pages are added and measured: single, two-pass or raw-extend (default: as the profile or --qemu-version says)")
	f.flag(&f.readOn, "read-on", false, "measured sections with less data than memory read on in the file, as some tools do")
	f.text(&f.cfv, "cfv", "", "variable store's event: firmware, or constant of an empty 4 MiB build (default: as the profile says)")
	f.text(&f.hob, "hob", "", "memory layout of the TD HOB: firmware, fixed (reproduce-mr's) or first-base (default: as the profile says)")
	f.flag(&f.excludeACPI, "exclude-acpi-tables", false, "leave the three ACPI events out of RTMR0")
	f.flag(&f.trailingSeparator, "trailing-separator", false, "one more separator at the end of RTMR0")
	f.flag(&f.sixTables, "six-table-loader", false, "the table-loader of a dstack-mr that does not know SRAT")
	f.flag(&f.patchKernel, "patch-kernel", false, "the hypervisor writes into the kernel's header (default: as the profile or --qemu-version says)")
	f.text(&f.headerRule, "header-rule", "", "which header rule is applied: qemu, or dstack (no case for protocols before 2.02) (default: as the profile says)")
	f.text(&f.authenticode, "authenticode", "", "how the kernel is hashed: uefi, dstack (bytes behind an unsigned kernel's sections left out) or unpadded (default: as the profile says)")
	f.text(&f.initrdArgument, "initrd-argument", "", `where initrd=initrd is added: as-given (nowhere), suffix or prefix (default: as the profile says)`)
	f.flag(&f.noInitrd, "no-initrd", false, "measure as if no initrd had been given")
}

func (f *tdxFlags) diskBootFlags() {
	f.text(&f.gpt, "gpt", "", "boot from disk: disk image, or its blocks from the partition table's header on")
	f.text(&f.shim, "shim", "", "boot from disk: shim's file")
	f.text(&f.grub, "grub", "", "boot from disk: GRUB's file")
	f.text(&f.bootOrder, "boot-order", "", "boot from disk: file with the raw BootOrder variable")
	f.text(&f.bootEntries, "boot-entries", "", "boot from disk: folder with raw variables Boot0000.bin and so on")
	f.text(&f.mokList, "mok-list", "", "boot from disk: file with MokList")
	f.text(&f.mokListX, "mok-list-x", "", "boot from disk: file with MokListX")
	f.text(&f.mokListTrusted, "mok-list-trusted", "", "boot from disk: file with MokListTrusted")
}

func families() []string {
	var out []string
	for _, f := range acpi.Families() {
		out = append(out, string(f))
	}
	return out
}

// given reports whether a flag stands on the command line.
func (f *tdxFlags) given(name string) bool { return f.cmd.Flags().Changed(name) }

// anyGiven returns the first of the names that stands on the command line.
func (f *tdxFlags) anyGiven(names ...string) string {
	for _, n := range names {
		if f.given(n) {
			return n
		}
	}
	return ""
}

// word checks a flag that takes a word from a list.
func (f *tdxFlags) word(op, name, got string, known ...string) error {
	if slices.Contains(known, got) {
		return nil
	}
	e := &userError{op: op, msg: fmt.Sprintf("--%s %.80q: unknown word", name, got), hint: "known: " + strings.Join(known, ", ")}
	if near := yamldoc.Nearest(got, known); near != "" {
		e.hint = fmt.Sprintf("did you mean --%s %s? known: %s", name, near, strings.Join(known, ", "))
	}
	return e
}

// commandLine writes the given flags back as a user would type them.
func (f *tdxFlags) commandLine() string {
	var b strings.Builder
	for _, name := range f.names {
		fl := f.cmd.Flags().Lookup(name)
		if !fl.Changed {
			continue
		}
		values := []string{fl.Value.String()}
		if many, ok := fl.Value.(interface{ GetSlice() []string }); ok {
			values = many.GetSlice()
			if fl.Value.Type() == "intSlice" {
				values = []string{strings.Join(values, ",")}
			}
		}
		for _, v := range values {
			switch {
			case fl.Value.Type() != "bool":
				fmt.Fprintf(&b, " --%s %s", name, shellWord(v))
			case v == "true":
				fmt.Fprintf(&b, " --%s", name)
			default:
				fmt.Fprintf(&b, " --%s=%s", name, v)
			}
		}
	}
	return b.String()
}

// shellWord quotes a word where a shell would take it apart.
func shellWord(s string) string {
	safe := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("./_-:=,+@%", r))
	}) < 0
	if safe {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
