package tdx

import (
	"fmt"
	"os"
	"strings"

	"github.com/retally/retally/internal/fieldflags"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/profiles"
)

// A Field is one field of a machine's description.
type Field struct {
	Name string // as retally.yaml has it
	File bool   // it names a file, or may
	Help string // what it says, with other fields in braces
}

// Fields describe a machine, by subject. Those that a run compares with (expect,
// given, log) are not among them.
func Fields() []Field {
	return []Field{
		// What it boots and runs.
		{"profile", true, "how hypervisor and firmware behave: " + strings.Join(profiles.TDXNames(), ", ") + ", or a YAML file (default: what {metadata} or {vm_config} is for)"},
		{"metadata", true, "metadata.json of a dstack image or of tdx-measure; its files are relative to it, other flags win"},
		{"vm_config", true, "dstack's vm_config, or the reply that holds it; other flags win"},
		{"firmware", true, "firmware file, whole (OVMF.fd)"},
		{"kernel", true, "kernel file (bzImage)"},
		{"initrd", true, "initrd file, '' for a machine without one (default: an empty one is assumed)"},
		{"cmdline", false, "kernel command line as given to the hypervisor, without what the profile adds (default: an empty one is assumed)"},
		{"compose", true, "SecretVM: compose file, byte for byte, or its digest as sha256:HEX; dstack: app-compose.json"},
		{"rootfs", true, "SecretVM: root file system, or its digest as sha256:HEX"},
		{"docker_files", true, "SecretVM: docker files archive, or its digest as sha256:HEX (default: none, not measured)"},
		{"app_id", false, "SecretVM with a key service, dstack: app id in hex, 20 bytes"},
		{"key_provider", false, "key provider in the aggregates: none, sgx-v0 or hex (default: 32 zero bytes)"},
		{"mr_config_id", false, "dstack: MRCONFIGID in the aggregate: 96 hex digits, v1, v2:KIND[:HEX] (KIND none, local, kms, tpm) or v3:FILE (default: zeros)"},
		{"rtmr3", false, "what extends RTMR3: none, raw, secretvm-kms, events (default: as the profile says; secretvm-kms for SecretVM with {app_id})"},
		{"events", false, "dstack: event of RTMR3 as NAME or NAME=HEX; may be given several times, in order"},
		{"event_log", true, "dstack: take the events of RTMR3 from an event log (JSON, or the reply that holds it)"},
		{"event_version", false, "version of the digests of {events}: 1 (default), or 2 for the canonical JSON form"},
		// Its shape.
		{"memory", false, "memory size, with the unit M or G (default: 2G is assumed)"},
		{"vcpus", false, "number of vCPUs, 1 to 4096 (default: 1 is assumed)"},
		{"acpi", true, "file of the ACPI tables blob, binary or hex; rsdp and loader follow from it"},
		{"acpi_source", false, "where ACPI tables come from without {acpi}: template (built in, the default) or qemu (RETALLY_QEMU, or qemu-system-x86_64 in PATH)"},
		{"acpi_family", false, "QEMU family of the tables: " + strings.Join(Families(), ", ") + " (default: as the profile or {qemu} says)"},
		{"pic", false, "the tables say that there is a PIC (default: as the profile or {qemu} says)"},
		{"com1", false, "there is a serial port (default: as the profile's machines have)"},
		{"smm", false, "system management mode is on"},
		{"hpet", false, "there is an HPET"},
		{"hotplug_off", false, "ACPI PCI hot-plug is off"},
		{"numa", false, "the tables describe one NUMA node (SRAT)"},
		{"pxb", false, "there is an expander bridge in slot 16; needs {numa}"},
		{"devices", false, "devices: secretvm, secretvm-gpu, dstack, or a number of devices in slots from 1 (default: as the profile's machines have)"},
		{"slots", false, "slots of the root bus with a device, 1 to 30, in place of {devices}"},
		{"root_ports", false, "slots of the root bus with an occupied root port; needs {hotplug_off}"},
		{"gpus", false, "number of GPUs; 1 at most for SecretVM"},
		{"nics", false, "dstack: number of network cards (default 1)"},
		{"volumes", false, "dstack: number of verified volumes"},
		{"nvswitches", false, "dstack: number of NVSwitches"},
		{"hugepages", false, "dstack: huge pages, a NUMA node and GPUs below an expander bridge"},
		{"no_root_disk", false, "dstack: root_verity is false, a CD-ROM in place of the root disk"},
		{"pci_hole64", false, "size of the 64-bit PCI window, with the unit M or G (default: QEMU's 32G)"},
		{"amd_cpu", false, "tables of a CPU model of AMD: memory that would reach 1 TiB lies above it"},
		// How hypervisor and firmware behave.
		{"qemu", false, "QEMU of the host, three numbers; sets page order, PIC, ACPI family and header patching, which other flags may change"},
		{"page_order", false, "order in which pages are added and measured: single, two-pass or raw-extend (default: as the profile or {qemu} says)"},
		{"read_on", false, "measured sections with less data than memory read on in the file, as some tools do"},
		{"cfv", false, "variable store's event: firmware, or constant of an empty 4 MiB build (default: as the profile says)"},
		{"hob", false, "memory layout of the TD HOB: firmware, fixed (reproduce-mr's) or first-base (default: as the profile says)"},
		{"exclude_acpi_tables", false, "leave the three ACPI events out of RTMR0"},
		{"trailing_separator", false, "one more separator at the end of RTMR0"},
		{"six_table_loader", false, "the table-loader of a dstack-mr that does not know SRAT"},
		{"patch_kernel", false, "the hypervisor writes into the kernel's header (default: as the profile or {qemu} says)"},
		{"header_rule", false, "which header rule is applied: qemu, or dstack (no case for protocols before 2.02) (default: as the profile says)"},
		{"authenticode", false, "how the kernel is hashed: uefi, dstack (bytes behind an unsigned kernel's sections left out) or unpadded (default: as the profile says)"},
		{"initrd_argument", false, `where initrd=initrd is added: as-given (nowhere), suffix or prefix (default: as the profile says)`},
		{"no_initrd", false, "measure as if no initrd had been given"},
		// A boot from disk.
		{"gpt", true, "boot from disk: disk image, or its blocks from the partition table's header on"},
		{"shim", true, "boot from disk: shim's file"},
		{"grub", true, "boot from disk: GRUB's file"},
		{"boot_order", true, "boot from disk: file with the raw BootOrder variable"},
		{"boot_entries", false, "boot from disk: folder with raw variables Boot0000.bin and so on"},
		{"mok_list", true, "boot from disk: file with MokList"},
		{"mok_list_x", true, "boot from disk: file with MokListX"},
		{"mok_list_trusted", true, "boot from disk: file with MokListTrusted"},
	}
}

// A FileField is a field that names a file.
type FileField struct {
	Field string
	Name  *string
}

// Files are the fields of a description that name a file. They are its own from
// then on: to change one changes nothing that the description was copied from.
func Files(p *config.Platform) []FileField {
	var out []FileField
	at := fieldflags.Fields(p)
	for _, f := range append(Fields(), Field{Name: "log", File: true}) {
		if !f.File {
			continue
		}
		name, _ := at[f.Name].(*string)
		if to, ok := at[f.Name].(**string); ok && *to != nil {
			*to = new(**to)
			name = *to
		}
		switch {
		case name == nil || *name == "" || strings.HasPrefix(*name, "sha256:") && mayBeDigest(f.Name):
		case f.Name == "profile" && !strings.ContainsAny(*name, `./\`):
		default:
			out = append(out, FileField{f.Name, name})
		}
	}
	return out
}

// mayBeDigest reports whether sha256:HEX may stand in place of a file.
func mayBeDigest(field string) bool {
	return field == "compose" || field == "rootfs" || field == "docker_files"
}

// HoldPipes reads what is no regular file whole, and lets the reader have it
// under its name: stdin, given as "-", is called stdin.
func HoldPipes(op string, reader *run.Reader, files []FileField, read func(name string) ([]byte, error)) error {
	stdin := ""
	for _, f := range files {
		name, field := *f.Name, strings.ReplaceAll(f.Field, "_", "-")
		if name == "-" {
			if stdin != "" {
				return &pipeline.InputError{Op: op, Err: fmt.Errorf("{%s} and {%s} both read stdin", stdin, field), Hint: "give a file for one of them"}
			}
			stdin, *f.Name = field, "stdin"
		} else if info, err := os.Stat(name); err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeDevice|os.ModeSocket) == 0 {
			continue
		}
		data, err := read(name)
		if err != nil {
			return err
		}
		reader.Hold(*f.Name, data)
	}
	return nil
}
