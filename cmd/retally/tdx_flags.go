package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// tdxFlags describe a TD: its artifacts, its machine, and how hypervisor and
// firmware behave. `tdx measure` and `explain --search` take the same ones.
type tdxFlags struct {
	set *pflag.FlagSet // to tell a flag that was given from its default

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

// sharedFlags are the names of the flags above; the rest belong to one verb.
func (f *tdxFlags) sharedFlags(cmd *cobra.Command) {
	own := pflag.NewFlagSet("td", pflag.ContinueOnError)
	own.SortFlags, cmd.Flags().SortFlags = false, false // by subject
	f.artifactFlags(own)
	f.machineFlags(own)
	f.behaviorFlags(own)
	f.diskBootFlags(own)
	cmd.Flags().AddFlagSet(own)
	f.set = own
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

func (f *tdxFlags) artifactFlags(fl *pflag.FlagSet) {
	fl.StringVar(&f.profile, "profile", "", "how hypervisor and firmware behave: "+strings.Join(profiles.TDXNames(), ", ")+", or a YAML file")
	fl.StringVar(&f.metadata, "metadata", "", "metadata.json of a dstack image or of tdx-measure; its files are relative to it, other flags win")
	fl.StringVar(&f.vmConfig, "vm-config", "", "dstack's vm_config, or the reply that holds it; other flags win")
	fl.StringVar(&f.firmware, "firmware", "", "firmware file, whole (OVMF.fd)")
	fl.StringVar(&f.kernel, "kernel", "", "kernel file (bzImage)")
	fl.StringVar(&f.initrd, "initrd", "", "initrd file (default: none, measured as empty)")
	fl.StringVar(&f.cmdline, "cmdline", "", "kernel command line as given to the hypervisor, without what the profile adds")
	fl.StringVar(&f.compose, "docker-compose", "", "SecretVM: compose file, byte for byte, or its digest as sha256:HEX; dstack: app-compose.json")
	fl.StringVar(&f.rootfs, "rootfs", "", "SecretVM: root file system, or its digest as sha256:HEX")
	fl.StringVar(&f.dockerFiles, "docker-files", "", "SecretVM: docker files archive, or its digest as sha256:HEX (default: none, not measured)")
	fl.StringVar(&f.appID, "app-id", "", "SecretVM with a key service, dstack: app id in hex, 20 bytes")
	fl.StringVar(&f.keyProvider, "key-provider", "", "key provider in the aggregates: none, sgx-v0 or hex (default: 32 zero bytes)")
	fl.StringVar(&f.configID, "mr-config-id", "", "dstack: MRCONFIGID in the aggregate: 96 hex digits, v1, v2:KIND[:HEX] (KIND none, local, kms, tpm) or v3:FILE (default: zeros)")
	fl.StringVar(&f.rtmr3, "rtmr3", "", "what extends RTMR3: none, raw, secretvm-kms, events (default: as the profile says)")
	fl.StringArrayVar(&f.events, "event", nil, "dstack: event of RTMR3 as NAME or NAME=HEX; may be given several times, in order")
	fl.StringVar(&f.eventLog, "event-log", "", "dstack: take the events of RTMR3 from an event log (JSON, or the reply that holds it)")
	fl.IntVar(&f.eventVersion, "event-version", 1, "version of the digests of --event: 1, or 2 for the canonical JSON form")
}

func (f *tdxFlags) machineFlags(fl *pflag.FlagSet) {
	fl.StringVar(&f.memory, "memory", "2G", "memory size, with the unit M or G")
	fl.IntVar(&f.cpu, "cpu", 1, "number of vCPUs, 1 to 4096")
	fl.StringVar(&f.acpi, "acpi", "", "file of the ACPI tables blob, binary or hex; rsdp and loader follow from it")
	fl.StringVar(&f.acpiSource, "acpi-source", "template", "where ACPI tables come from without --acpi: template (built in) or qemu (RETALLY_QEMU, or qemu-system-x86_64 in PATH)")
	fl.StringVar(&f.acpiFamily, "acpi-family", "", "QEMU family of the tables: "+strings.Join(families(), ", ")+" (default: as the profile or --qemu-version says)")
	fl.BoolVar(&f.pic, "pic", false, "the tables say that there is a PIC (default: as the profile or --qemu-version says)")
	fl.BoolVar(&f.noCOM1, "no-com1", false, "no serial port")
	fl.BoolVar(&f.smm, "smm", false, "system management mode is on")
	fl.BoolVar(&f.hpet, "hpet", false, "there is an HPET")
	fl.BoolVar(&f.hotplugOff, "hotplug-off", false, "ACPI PCI hot-plug is off")
	fl.BoolVar(&f.numa, "numa", false, "the tables describe one NUMA node (SRAT)")
	fl.BoolVar(&f.pxb, "pxb", false, "there is an expander bridge in slot 16; needs --numa")
	fl.StringVar(&f.devices, "devices", "", "devices: secretvm, secretvm-gpu, dstack, or a number of devices in slots from 1 (default: as the profile's machines have)")
	fl.IntSliceVar(&f.slots, "slots", nil, "slots of the root bus with a device, 1 to 30, in place of --devices")
	fl.IntSliceVar(&f.rootPorts, "root-ports", nil, "slots of the root bus with an occupied root port; needs --hotplug-off")
	fl.IntVar(&f.gpus, "gpus", 0, "number of GPUs; 1 at most for SecretVM")
	fl.IntVar(&f.nics, "nics", 1, "dstack: number of network cards")
	fl.IntVar(&f.volumes, "volumes", 0, "dstack: number of verified volumes")
	fl.IntVar(&f.switches, "nvswitches", 0, "dstack: number of NVSwitches")
	fl.BoolVar(&f.hugePages, "hugepages", false, "dstack: huge pages, a NUMA node and GPUs below an expander bridge")
	fl.BoolVar(&f.noRootDisk, "no-root-disk", false, "dstack: root_verity is false, a CD-ROM in place of the root disk")
	fl.StringVar(&f.hole64, "pci-hole64", "", "size of the 64-bit PCI window, with the unit M or G (default: QEMU's 32G)")
	fl.BoolVar(&f.amdCPU, "amd-cpu", false, "tables of a CPU model of AMD: memory that would reach 1 TiB lies above it")
}

func (f *tdxFlags) behaviorFlags(fl *pflag.FlagSet) {
	fl.StringVar(&f.qemuVersion, "qemu-version", "", "QEMU of the host, three numbers; sets page order, PIC, ACPI family and header patching, which other flags may change")
	fl.StringVar(&f.pageOrder, "page-order", "", "order in which pages are added and measured: single, two-pass or raw-extend (default: as the profile or --qemu-version says)")
	fl.BoolVar(&f.readOn, "read-on", false, "measured sections with less data than memory read on in the file, as some tools do")
	fl.StringVar(&f.cfv, "cfv", "", "variable store's event: firmware, or constant of an empty 4 MiB build (default: as the profile says)")
	fl.StringVar(&f.hob, "hob", "", "memory layout of the TD HOB: firmware, fixed (reproduce-mr's) or first-base (default: as the profile says)")
	fl.BoolVar(&f.excludeACPI, "exclude-acpi-tables", false, "leave the three ACPI events out of RTMR0")
	fl.BoolVar(&f.trailingSeparator, "trailing-separator", false, "one more separator at the end of RTMR0")
	fl.BoolVar(&f.sixTables, "six-table-loader", false, "the table-loader of a dstack-mr that does not know SRAT")
	fl.BoolVar(&f.patchKernel, "patch-kernel", false, "the hypervisor writes into the kernel's header (default: as the profile or --qemu-version says)")
	fl.StringVar(&f.headerRule, "header-rule", "", "which header rule is applied: qemu, or dstack (no case for protocols before 2.02) (default: as the profile says)")
	fl.StringVar(&f.authenticode, "authenticode", "", "how the kernel is hashed: uefi, dstack (bytes behind an unsigned kernel's sections left out) or unpadded (default: as the profile says)")
	fl.StringVar(&f.initrdArgument, "initrd-argument", "", `where initrd=initrd is added: as-given (nowhere), suffix or prefix (default: as the profile says)`)
	fl.BoolVar(&f.noInitrd, "no-initrd", false, "measure as if no initrd had been given")
}

func (f *tdxFlags) diskBootFlags(fl *pflag.FlagSet) {
	fl.StringVar(&f.gpt, "gpt", "", "boot from disk: disk image, or its blocks from the partition table's header on")
	fl.StringVar(&f.shim, "shim", "", "boot from disk: shim's file")
	fl.StringVar(&f.grub, "grub", "", "boot from disk: GRUB's file")
	fl.StringVar(&f.bootOrder, "boot-order", "", "boot from disk: file with the raw BootOrder variable")
	fl.StringVar(&f.bootEntries, "boot-entries", "", "boot from disk: folder with raw variables Boot0000.bin and so on")
	fl.StringVar(&f.mokList, "mok-list", "", "boot from disk: file with MokList")
	fl.StringVar(&f.mokListX, "mok-list-x", "", "boot from disk: file with MokListX")
	fl.StringVar(&f.mokListTrusted, "mok-list-trusted", "", "boot from disk: file with MokListTrusted")
}

func families() []string {
	var out []string
	for _, f := range acpi.Families() {
		out = append(out, string(f))
	}
	return out
}

// given reports whether a flag stands on the command line.
func (f *tdxFlags) given(name string) bool { return f.set.Changed(name) }

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
	f.set.VisitAll(func(fl *pflag.Flag) {
		if !fl.Changed {
			return
		}
		values := []string{fl.Value.String()}
		if many, ok := fl.Value.(pflag.SliceValue); ok {
			values = many.GetSlice()
			if fl.Value.Type() == "intSlice" {
				values = []string{strings.Join(values, ",")}
			}
		}
		for _, v := range values {
			switch {
			case fl.Value.Type() != "bool":
				fmt.Fprintf(&b, " --%s %s", fl.Name, shellWord(v))
			case v == "true":
				fmt.Fprintf(&b, " --%s", fl.Name)
			default:
				fmt.Fprintf(&b, " --%s=%s", fl.Name, v)
			}
		}
	})
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
