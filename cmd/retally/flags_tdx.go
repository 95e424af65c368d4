package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/profiles"
)

// flagMachine is the name of the machine that flags describe, in keys.
const flagMachine = "machine"

// tdxFlags describe a machine: they fill the same description that
// retally.yaml fills, each flag the field of its name. `tdx measure` and
// `explain --search` take the same ones.
type tdxFlags struct {
	p     config.Platform
	fs    *pflag.FlagSet
	names []string // of all flags, by subject
	args  func() []string
}

// olderNames are flags that were called otherwise once. They go on working.
var olderNames = map[string]string{
	"cpu": "vcpus", "docker-compose": "compose", "qemu-version": "qemu", "event": "events",
}

// noCOM1 is the older opposite of --com1.
const noCOM1 = "no-com1"

// sharedFlags adds them all to a verb.
func (f *tdxFlags) sharedFlags(cmd *cobra.Command, args func() []string) {
	f.fs, f.names, f.args = cmd.Flags(), nil, args
	f.p.TEE = "tdx"
	f.fs.SortFlags = false // by subject
	f.fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if now, ok := olderNames[name]; ok {
			name = now
		}
		return pflag.NormalizedName(name)
	})
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
	fixed("acpi-family", tdx.Families()...)
	fixed("cfv", "firmware", "constant")
	fixed("hob", "firmware", "fixed", "first-base")
}

// add binds a flag to a field.
func (f *tdxFlags) add(to any, name, usage string) {
	f.names = append(f.names, name)
	for old, now := range olderNames {
		if now == name {
			usage += "; --" + old + " is its older name"
		}
	}
	switch to := to.(type) {
	case *string:
		f.fs.StringVar(to, name, "", usage)
	case *bool:
		f.fs.BoolVar(to, name, false, usage)
	case *[]int:
		f.fs.IntSliceVar(to, name, nil, usage)
	case *[]string:
		f.fs.StringArrayVar(to, name, nil, usage)
	case *config.Counts:
		f.fs.Var(&counted{to}, name, usage)
	case **string:
		f.fs.Var(&optional[string]{to: to, typ: "string", parse: func(s string) (string, error) { return s, nil }}, name, usage)
	case **int:
		f.fs.Var(&optional[int]{to: to, typ: "int", parse: strconv.Atoi}, name, usage)
	case **bool:
		f.fs.Var(&optional[bool]{to: to, typ: "bool", parse: strconv.ParseBool}, name, usage)
		f.fs.Lookup(name).NoOptDefVal = "true"
	default:
		panic(fmt.Sprintf("no flag can fill a %T", to))
	}
}

// counted is a flag with a number of vCPUs.
type counted struct{ to *config.Counts }

// Set implements pflag.Value.
func (c *counted) Set(text string) error {
	n, err := strconv.Atoi(text)
	var num *strconv.NumError
	if errors.As(err, &num) {
		return num.Err
	}
	*c.to = config.Counts{n}
	return err
}

// String implements pflag.Value.
func (c *counted) String() string {
	if c.to == nil {
		return ""
	}
	return c.to.String()
}

// Type implements pflag.Value.
func (*counted) Type() string { return "int" }

// optional is a flag that may be absent, which is not its zero value.
type optional[T any] struct {
	to    **T
	typ   string
	parse func(string) (T, error)
}

// Set implements pflag.Value.
func (o *optional[T]) Set(text string) error {
	v, err := o.parse(text)
	var n *strconv.NumError
	if errors.As(err, &n) {
		return n.Err
	}
	*o.to = &v
	return err
}

// String implements pflag.Value.
func (o *optional[T]) String() string {
	if o.to == nil || *o.to == nil {
		return ""
	}
	return fmt.Sprint(**o.to)
}

// Type implements pflag.Value.
func (o *optional[T]) Type() string { return o.typ }

// opposite is an older flag that says the opposite of a field.
type opposite struct{ to **bool }

// Set implements pflag.Value.
func (o opposite) Set(text string) error {
	v, err := strconv.ParseBool(text)
	if err == nil {
		*o.to = new(!v)
	}
	return err
}

// String implements pflag.Value.
func (o opposite) String() string {
	if o.to == nil || *o.to == nil {
		return ""
	}
	return strconv.FormatBool(!**o.to)
}

// Type implements pflag.Value.
func (o opposite) Type() string { return "bool" }

func (f *tdxFlags) artifactFlags() {
	p := &f.p
	f.add(&p.Profile, "profile", "how hypervisor and firmware behave: "+strings.Join(profiles.TDXNames(), ", ")+", or a YAML file (default: what --metadata or --vm-config is for)")
	f.add(&p.Metadata, "metadata", "metadata.json of a dstack image or of tdx-measure; its files are relative to it, other flags win")
	f.add(&p.VMConfig, "vm-config", "dstack's vm_config, or the reply that holds it; other flags win")
	f.add(&p.Firmware, "firmware", "firmware file, whole (OVMF.fd)")
	f.add(&p.Kernel, "kernel", "kernel file (bzImage)")
	f.add(&p.Initrd, "initrd", "initrd file, '' for a machine without one (default: an empty one is assumed)")
	f.add(&p.Cmdline, "cmdline", "kernel command line as given to the hypervisor, without what the profile adds (default: an empty one is assumed)")
	f.add(&p.Compose, "compose", "SecretVM: compose file, byte for byte, or its digest as sha256:HEX; dstack: app-compose.json")
	f.add(&p.Rootfs, "rootfs", "SecretVM: root file system, or its digest as sha256:HEX")
	f.add(&p.DockerFiles, "docker-files", "SecretVM: docker files archive, or its digest as sha256:HEX (default: none, not measured)")
	f.add(&p.AppID, "app-id", "SecretVM with a key service, dstack: app id in hex, 20 bytes")
	f.add(&p.KeyProvider, "key-provider", "key provider in the aggregates: none, sgx-v0 or hex (default: 32 zero bytes)")
	f.add(&p.MRConfigID, "mr-config-id", "dstack: MRCONFIGID in the aggregate: 96 hex digits, v1, v2:KIND[:HEX] (KIND none, local, kms, tpm) or v3:FILE (default: zeros)")
	f.add(&p.RTMR3, "rtmr3", "what extends RTMR3: none, raw, secretvm-kms, events (default: as the profile says; secretvm-kms for SecretVM with --app-id)")
	f.add(&p.Events, "events", "dstack: event of RTMR3 as NAME or NAME=HEX; may be given several times, in order")
	f.add(&p.EventLog, "event-log", "dstack: take the events of RTMR3 from an event log (JSON, or the reply that holds it)")
	f.add(&p.EventVersion, "event-version", "version of the digests of --events: 1 (default), or 2 for the canonical JSON form")
}

func (f *tdxFlags) machineFlags() {
	p := &f.p
	f.add(&p.Memory, "memory", "memory size, with the unit M or G (default: 2G is assumed)")
	f.add(&p.VCPUs, "vcpus", "number of vCPUs, 1 to 4096 (default: 1 is assumed)")
	f.add(&p.ACPI, "acpi", "file of the ACPI tables blob, binary or hex; rsdp and loader follow from it")
	f.add(&p.ACPISource, "acpi-source", "where ACPI tables come from without --acpi: template (built in, the default) or qemu (RETALLY_QEMU, or qemu-system-x86_64 in PATH)")
	f.add(&p.ACPIFamily, "acpi-family", "QEMU family of the tables: "+strings.Join(tdx.Families(), ", ")+" (default: as the profile or --qemu says)")
	f.add(&p.PIC, "pic", "the tables say that there is a PIC (default: as the profile or --qemu says)")
	f.add(&p.COM1, "com1", "there is a serial port (default: as the profile's machines have)")
	f.fs.Var(opposite{&p.COM1}, noCOM1, "no serial port; an older name of --com1=false")
	f.fs.Lookup(noCOM1).NoOptDefVal = "true"
	f.add(&p.SMM, "smm", "system management mode is on")
	f.add(&p.HPET, "hpet", "there is an HPET")
	f.add(&p.HotplugOff, "hotplug-off", "ACPI PCI hot-plug is off")
	f.add(&p.NUMA, "numa", "the tables describe one NUMA node (SRAT)")
	f.add(&p.PXB, "pxb", "there is an expander bridge in slot 16; needs --numa")
	f.add(&p.Devices, "devices", "devices: secretvm, secretvm-gpu, dstack, or a number of devices in slots from 1 (default: as the profile's machines have)")
	f.add(&p.Slots, "slots", "slots of the root bus with a device, 1 to 30, in place of --devices")
	f.add(&p.RootPorts, "root-ports", "slots of the root bus with an occupied root port; needs --hotplug-off")
	f.add(&p.GPUs, "gpus", "number of GPUs; 1 at most for SecretVM")
	f.add(&p.NICs, "nics", "dstack: number of network cards (default 1)")
	f.add(&p.Volumes, "volumes", "dstack: number of verified volumes")
	f.add(&p.NVSwitches, "nvswitches", "dstack: number of NVSwitches")
	f.add(&p.HugePages, "hugepages", "dstack: huge pages, a NUMA node and GPUs below an expander bridge")
	f.add(&p.NoRootDisk, "no-root-disk", "dstack: root_verity is false, a CD-ROM in place of the root disk")
	f.add(&p.PCIHole64, "pci-hole64", "size of the 64-bit PCI window, with the unit M or G (default: QEMU's 32G)")
	f.add(&p.AMDCPU, "amd-cpu", "tables of a CPU model of AMD: memory that would reach 1 TiB lies above it")
}

func (f *tdxFlags) behaviorFlags() {
	p := &f.p
	f.add(&p.QEMU, "qemu", "QEMU of the host, three numbers; sets page order, PIC, ACPI family and header patching, which other flags may change")
	f.add(&p.PageOrder, "page-order", "order in which pages are added and measured: single, two-pass or raw-extend (default: as the profile or --qemu says)")
	f.add(&p.ReadOn, "read-on", "measured sections with less data than memory read on in the file, as some tools do")
	f.add(&p.CFV, "cfv", "variable store's event: firmware, or constant of an empty 4 MiB build (default: as the profile says)")
	f.add(&p.HOB, "hob", "memory layout of the TD HOB: firmware, fixed (reproduce-mr's) or first-base (default: as the profile says)")
	f.add(&p.ExcludeACPITables, "exclude-acpi-tables", "leave the three ACPI events out of RTMR0")
	f.add(&p.TrailingSeparator, "trailing-separator", "one more separator at the end of RTMR0")
	f.add(&p.SixTableLoader, "six-table-loader", "the table-loader of a dstack-mr that does not know SRAT")
	f.add(&p.PatchKernel, "patch-kernel", "the hypervisor writes into the kernel's header (default: as the profile or --qemu says)")
	f.add(&p.HeaderRule, "header-rule", "which header rule is applied: qemu, or dstack (no case for protocols before 2.02) (default: as the profile says)")
	f.add(&p.Authenticode, "authenticode", "how the kernel is hashed: uefi, dstack (bytes behind an unsigned kernel's sections left out) or unpadded (default: as the profile says)")
	f.add(&p.InitrdArgument, "initrd-argument", `where initrd=initrd is added: as-given (nowhere), suffix or prefix (default: as the profile says)`)
	f.add(&p.NoInitrd, "no-initrd", "measure as if no initrd had been given")
}

func (f *tdxFlags) diskBootFlags() {
	p := &f.p
	f.add(&p.GPT, "gpt", "boot from disk: disk image, or its blocks from the partition table's header on")
	f.add(&p.Shim, "shim", "boot from disk: shim's file")
	f.add(&p.Grub, "grub", "boot from disk: GRUB's file")
	f.add(&p.BootOrder, "boot-order", "boot from disk: file with the raw BootOrder variable")
	f.add(&p.BootEntries, "boot-entries", "boot from disk: folder with raw variables Boot0000.bin and so on")
	f.add(&p.MokList, "mok-list", "boot from disk: file with MokList")
	f.add(&p.MokListX, "mok-list-x", "boot from disk: file with MokListX")
	f.add(&p.MokListTrusted, "mok-list-trusted", "boot from disk: file with MokListTrusted")
}

// field names a field of the description as its flag: the door through which
// this configuration came. An older name that was typed is kept.
func (f *tdxFlags) field(value string, path ...string) string {
	name := strings.ReplaceAll(path[min(len(path)-1, 2)], "_", "-")
	for old, now := range olderNames {
		typed := func(arg string) bool { return arg == "--"+old || strings.HasPrefix(arg, "--"+old+"=") }
		if now == name && slices.ContainsFunc(f.args(), typed) {
			name = old
		}
	}
	if fl := f.fs.Lookup(name); value != "" && fl != nil {
		switch {
		case fl.Value.Type() == "bool":
			return "--" + name + "=" + value
		case slices.Contains(fileFlags, name):
			value = "FILE"
		}
		return "--" + name + " " + value
	}
	return "--" + name
}

// fileFlags are the flags that take a file that must be given.
var fileFlags = []string{"firmware", "kernel", "initrd", "acpi", "compose", "docker-compose", "rootfs"}

// platform checks what was given and returns the description, with everything
// that comes from no regular file held by the reader.
func (f *tdxFlags) platform(a *app, op string, reader *run.Reader) (config.Platform, error) {
	at := func(msg, hint string, path ...string) error {
		if len(path) > 0 {
			msg = strings.Join(append([]string{f.field("", path[0])}, path[1:]...), " ") + " " + msg
		}
		return &userError{op: op, msg: msg, hint: hint}
	}
	say := func(field, value string) string { return f.field(value, field) }
	p := f.p
	if err := tdx.Check(&p, at, say); err != nil {
		return p, err
	}
	return p, a.holdPipes(op, reader, f.files(&p))
}

// fileField is a field that names a file.
type fileField struct {
	flag string
	name *string
}

func (f *tdxFlags) files(p *config.Platform) []fileField {
	var out []fileField
	text := func(flag string, name *string) {
		if *name != "" {
			out = append(out, fileField{flag, name})
		}
	}
	optionalText := func(flag string, to **string) {
		if *to != nil {
			*to = new(**to)
			text(flag, *to)
		}
	}
	if strings.ContainsAny(p.Profile, `./\`) {
		text("profile", &p.Profile)
	}
	text("metadata", &p.Metadata)
	text("vm-config", &p.VMConfig)
	optionalText("firmware", &p.Firmware)
	optionalText("kernel", &p.Kernel)
	optionalText("initrd", &p.Initrd)
	for _, e := range []struct {
		flag string
		to   *string
	}{{"compose", &p.Compose}, {"rootfs", &p.Rootfs}, {"docker-files", &p.DockerFiles}} {
		if !strings.HasPrefix(*e.to, "sha256:") {
			text(e.flag, e.to)
		}
	}
	text("acpi", &p.ACPI)
	text("event-log", &p.EventLog)
	text("log", &p.Log)
	text("gpt", &p.GPT)
	text("shim", &p.Shim)
	text("grub", &p.Grub)
	optionalText("boot-order", &p.BootOrder)
	optionalText("mok-list", &p.MokList)
	optionalText("mok-list-x", &p.MokListX)
	optionalText("mok-list-trusted", &p.MokListTrusted)
	return out
}

// pipeLimit bounds what is read from a pipe.
const pipeLimit = 64 << 20

// holdPipes reads what is no regular file whole, and lets the reader have it
// under its name: stdin, given as "-", is called stdin.
func (a *app) holdPipes(op string, reader *run.Reader, files []fileField) error {
	stdin := ""
	for _, f := range files {
		name := *f.name
		if name == "-" {
			if stdin != "" {
				return &userError{op: op, msg: fmt.Sprintf("--%s and --%s both read stdin", stdin, f.flag), hint: "give a file for one of them"}
			}
			stdin, *f.name = f.flag, "stdin"
		} else if info, err := os.Stat(name); err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeDevice|os.ModeSocket) == 0 {
			continue
		}
		data, err := a.readInput(op, name, pipeLimit)
		if err != nil {
			return err
		}
		reader.Hold(*f.name, data)
	}
	return nil
}

// configuration is the machine as a configuration of its own.
func configuration(p config.Platform) *config.Config {
	return &config.Config{Version: 1, Platforms: map[string]config.Platform{flagMachine: p}}
}

// open gives a search the described machine.
func (f *tdxFlags) open(ctx context.Context, a *app, op string) (*run.In, error) {
	reader := run.NewReader(".", nil)
	p, err := f.platform(a, op, reader)
	if err != nil {
		return nil, err
	}
	if p.Profile == "" && p.Metadata == "" && p.VMConfig == "" {
		return nil, &userError{op: op, msg: "no profile given"}
	}
	return run.NewIn(configuration(p), reader).As(f.field, nil), ctx.Err()
}

// commandLine writes the given flags back as a user would type them.
func (f *tdxFlags) commandLine() string {
	var b strings.Builder
	for _, name := range append(slices.Clone(f.names), noCOM1) {
		fl := f.fs.Lookup(name)
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
				fmt.Fprintf(&b, " %s %s", f.field("", name), shellWord(v))
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
