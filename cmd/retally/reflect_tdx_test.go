package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/report"
)

// A described is one field of a machine's description, said at both doors.
type described struct {
	base  string // whose fields stand beside it
	value string // as YAML; a flag's is the same, unless flag says otherwise
	flag  []string
}

// machines are descriptions that fields are added to.
var machines = map[string]map[string]string{
	"secretvm": {
		"profile": "secretvm", "firmware": "ovmf.fd", "kernel": "bzImage", "initrd": "plain.cpio", "cmdline": "ro", "memory": "2G", "vcpus": "2",
		"compose": "config/docker-compose.yaml", "rootfs": "rootfs.iso",
	},
	"dstack": {
		"profile": "dstack", "firmware": "ovmf.fd", "kernel": "bzImage", "initrd": "plain.cpio", "cmdline": "ro", "memory": "4G", "vcpus": "2", "hotplug_off": "true",
	},
	"plain":  {"profile": "tdx-measure", "firmware": "ovmf.fd", "kernel": "bzImage", "initrd": "plain.cpio", "cmdline": "ro", "memory": "2G", "vcpus": "2", "devices": "4"},
	"slots":  {"profile": "tdx-measure", "firmware": "ovmf.fd", "kernel": "bzImage", "initrd": "plain.cpio", "cmdline": "ro", "memory": "2G", "vcpus": "2", "hotplug_off": "true"},
	"numa":   {"profile": "tdx-measure", "firmware": "ovmf.fd", "kernel": "bzImage", "memory": "2G", "vcpus": "2", "devices": "4", "numa": "true"},
	"large":  {"profile": "tdx-measure", "firmware": "ovmf.fd", "kernel": "bzImage", "memory": "1024G", "vcpus": "2", "devices": "4", "numa": "true"},
	"events": {"profile": "dstack", "firmware": "ovmf.fd", "kernel": "bzImage", "event_log": "log.json"},
	"disk": {
		"profile": "tdx-measure", "firmware": "ovmf.fd", "initrd": "plain.cpio", "cmdline": "ro", "memory": "2G", "vcpus": "2", "devices": "4",
		"gpt": "disk.img", "shim": "shim.efi", "grub": "grub.efi", "boot_order": "BootOrder.bin",
	},
	"metadata": {"profile": "tdx-measure"},
	"agent":    {"profile": "dstack", "firmware": "ovmf.fd", "kernel": "bzImage", "initrd": "plain.cpio", "cmdline": "ro"},
}

const register0 = "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"

// describedFields has each field of config.Platform.
var describedFields = map[string]described{
	"profile": {"secretvm", "reproduce-mr", nil}, "metadata": {"metadata", "machine.json", nil}, "vm_config": {"agent", "vm-config.json", nil},
	"firmware": {"secretvm", "changed.fd", nil}, "kernel": {"secretvm", "shim.efi", nil}, "initrd": {"secretvm", "''", []string{""}},
	"cmdline": {"secretvm", "'a b'", []string{"a b"}}, "no_initrd": {"secretvm", "true", nil}, "memory": {"secretvm", "8G", nil}, "vcpus": {"secretvm", "7", nil},
	"acpi": {"secretvm", "tables.bin", nil}, "acpi_source": {"secretvm", "template", nil}, "acpi_family": {"secretvm", "'9.2'", []string{"9.2"}},
	"devices": {"secretvm", "'5'", []string{"5"}}, "slots": {"slots", "[1, 4]", []string{"1,4"}}, "root_ports": {"slots", "[7, 8]", []string{"7,8"}},
	"gpus": {"dstack", "1", nil}, "nics": {"dstack", "2", nil}, "volumes": {"dstack", "2", nil}, "nvswitches": {"dstack", "1", nil}, "hugepages": {"dstack", "true", nil},
	"no_root_disk": {"dstack", "true", nil}, "pic": {"secretvm", "true", nil}, "com1": {"secretvm", "true", nil}, "smm": {"plain", "true", nil}, "hpet": {"plain", "true", nil},
	"hotplug_off": {"plain", "true", nil}, "numa": {"plain", "true", nil}, "pxb": {"numa", "true", nil}, "amd_cpu": {"large", "true", nil},
	"pci_hole64": {"plain", "64G", nil}, "qemu": {"secretvm", "8.2.2", nil}, "page_order": {"secretvm", "two-pass", nil}, "read_on": {"secretvm", "true", nil},
	"cfv": {"secretvm", "constant", nil}, "hob": {"secretvm", "fixed", nil}, "exclude_acpi_tables": {"secretvm", "true", nil}, "trailing_separator": {"secretvm", "true", nil},
	"six_table_loader": {"numa", "true", nil}, "patch_kernel": {"secretvm", "false", nil}, "header_rule": {"secretvm", "dstack", nil},
	"authenticode": {"secretvm", "dstack", nil}, "initrd_argument": {"secretvm", "suffix", nil}, "rtmr3": {"secretvm", "none", nil},
	"rootfs": {"secretvm", "sha256:" + register0[:64], nil}, "compose": {"secretvm", "windows.yaml", nil}, "docker_files": {"secretvm", "docker-files.tar", nil},
	"key_provider": {"secretvm", "none", nil}, "app_id": {"secretvm", "'" + register0[:40] + "'", []string{register0[:40]}}, "mr_config_id": {"dstack", "v3:app-compose.json", nil},
	"events": {"dstack", "[app-id=00, key-provider=7b7d]", []string{"app-id=00", "key-provider=7b7d"}}, "event_log": {"dstack", "log.json", nil},
	"event_version": {"dstack", "2", nil}, "gpt": {"disk", "disk.img", nil}, "shim": {"disk", "bzImage", nil}, "grub": {"disk", "bzImage", nil},
	"boot_order": {"disk", "''", []string{""}}, "boot_entries": {"disk", "boot", nil}, "mok_list": {"disk", "rootfs.iso", nil}, "mok_list_x": {"disk", "rootfs.iso", nil},
	"mok_list_trusted": {"disk", "rootfs.iso", nil}, "expect": {"secretvm", "{mrtd: '" + register0 + "'}", []string{"mrtd=" + register0}},
	"given": {"secretvm", "{rtmr1: '" + register0 + "'}", []string{"rtmr1=" + register0}}, "log": {"secretvm", "ccel.bin", nil},
}

// TestReflectPlatform gives each field of a machine's description by its flag and
// by its key of retally.yaml: both are one description, and both reports are the
// same bytes, except how an input is named. A field without a flag and a flag
// without a field fail.
func TestReflectPlatform(t *testing.T) {
	testenv.OwnSpeed(t)
	dir := t.TempDir()
	tdxArtifacts(t, dir)
	t.Chdir(dir)
	changed := readFileOf(t, "ovmf.fd")
	changed[5000] ^= 1
	putFile(t, "changed.fd", changed)
	putFile(t, "machine.json", []byte(metadataFile))
	putFile(t, "vm-config.json", []byte(`{"cpu_count": 2, "memory_size": 4294967296, "qemu_version": "9.2.0", "hotplug_off": true}`))
	putFile(t, "log.json", []byte(`[{"imr": 3, "event_type": 134217729, "digest": "", "event": "app-id", "event_payload": "00"}]`))
	fields := platformFields()
	for _, name := range fields {
		if name == "tee" {
			continue // a verb is of one kind
		}
		c, ok := describedFields[name]
		if !ok {
			t.Errorf("config.Platform has a field %s: describe it at both doors", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			byFlag, byKey := flagReport(t, name, c), yamlReport(t, name, c)
			if byFlag != byKey {
				t.Errorf("two reports:\nflags:\n%s\nretally.yaml:\n%s", firstDifferent(byFlag, byKey), firstDifferent(byKey, byFlag))
			}
			if base := yamlReport(t, "", described{base: c.base}); base == byKey && !slices.Contains(sameAsBase, name) {
				t.Error("the field changes nothing in the report")
			}
		})
	}
	for name := range describedFields {
		if !slices.Contains(fields, name) {
			t.Errorf("%s is no field of config.Platform", name)
		}
	}
	for _, name := range machineFlags() {
		if !slices.Contains(fields, strings.ReplaceAll(name, "-", "_")) {
			t.Errorf("--%s is no field of config.Platform", name)
		}
	}
}

// TestReflectAbsence leaves each field out of a description: both doors take it for
// the same.
func TestReflectAbsence(t *testing.T) {
	testenv.OwnSpeed(t)
	dir := t.TempDir()
	tdxArtifacts(t, dir)
	t.Chdir(dir)
	putFile(t, "machine.json", []byte(metadataFile))
	putFile(t, "log.json", []byte(`[]`))
	for base, fields := range machines {
		for name := range fields {
			if name == "firmware" || name == "kernel" || name == "profile" || base == "disk" && name != "cmdline" && name != "memory" {
				continue // tdx measure refuses what it cannot compute, which a run leaves open
			}
			t.Run(base+" without "+name, func(t *testing.T) {
				left := maps.Clone(fields)
				delete(left, name)
				byFlag, byKey := flagReportOf(t, left, "", described{}), yamlReportOf(t, left, "", described{})
				if byFlag != byKey {
					t.Errorf("two reports:\nflags:\n%s\nretally.yaml:\n%s", firstDifferent(byFlag, byKey), firstDifferent(byKey, byFlag))
				}
			})
		}
	}
}

// TestReflectFaults gives fields what they cannot hold: both doors refuse, for one
// reason.
func TestReflectFaults(t *testing.T) {
	testenv.OwnSpeed(t)
	dir := t.TempDir()
	tdxArtifacts(t, dir)
	t.Chdir(dir)
	for _, c := range []struct{ name, value, flag string }{
		{"profile", "nobody", ""},
		{"profile", "./none.yaml", ""},
		{"memory", "2X", ""},
		{"memory", "1000", ""},
		{"vcpus", "0", ""},
		{"vcpus", "5000", ""},
		{"qemu", "'9.2'", "9.2"},
		{"qemu", "7.2.0", ""},
		{"page_order", "tow-pass", ""},
		{"acpi_family", "'7.2'", "7.2"},
		{"acpi_source", "file", ""},
		{"acpi", "none.bin", ""},
		{"devices", "many", ""},
		{"gpus", "2", ""},
		{"gpus", "99", ""},
		{"nics", "31", ""},
		{"pci_hole64", "x", ""},
		{"rootfs", "sha256:12", ""},
		{"app_id", "'12'", "12"},
		{"key_provider", "other", ""},
		{"events", "[x]", "x"},
		{"events", "[x=yy]", "x=yy"},
		{"event_version", "3", ""},
		{"mr_config_id", "v2:other", ""},
		{"mr_config_id", "zz", ""},
		{"expect", "{rtmr9: '00'}", "rtmr9=00"},
		{"expect", "{rtmr0: '00'}", "rtmr0=00"},
		{"given", "{mr_image: '00'}", "mr_image=00"},
		{"cfv", "x", ""},
		{"hob", "x", ""},
		{"rtmr3", "x", ""},
		{"header_rule", "x", ""},
		{"authenticode", "x", ""},
		{"initrd_argument", "x", ""},
		{"log", "ovmf.fd", ""},
		{"event_log", "ovmf.fd", ""},
		{"vm_config", "ovmf.fd", ""},
		{"metadata", "none.json", ""},
	} {
		t.Run(c.name+" "+c.value, func(t *testing.T) {
			var flags, yaml []string
			for field, value := range machines["secretvm"] {
				if field != c.name {
					flags, yaml = append(flags, "--"+strings.ReplaceAll(field, "_", "-")+"="+value), append(yaml, field+": "+value)
				}
			}
			value := c.flag
			if value == "" {
				value = c.value
			}
			f := byFlags(t, append(flags, "--"+strings.ReplaceAll(c.name, "_", "-")+"="+value))
			y := byYAML(t, strings.Join(append(yaml, c.name+": "+c.value), ", "))
			why := strings.TrimLeft(strings.TrimPrefix(f.refused, "tdx measure"), ": ")
			why = strings.TrimLeft(strings.TrimPrefix(why, "--"+strings.ReplaceAll(c.name, "_", "-")), ": ")
			if why, _, _ = strings.Cut(why, " ("); why == "" || !strings.Contains(y.refused, strings.TrimPrefix(why, "rtmr9 ")) && !strings.Contains(y.refused, why[strings.Index(why, " ")+1:]) {
				t.Errorf("two reasons:\nflags: %s\nyaml: %s", f.refused, y.refused)
			}
			if text := y.refused + " " + y.hint; strings.Contains(text, " --") || strings.Contains(text, "(--") {
				t.Errorf("a flag for retally.yaml's user: %s", text)
			}
		})
	}
}

// sameAsBase are fields whose value here is what the base has by itself, or that
// the machine's registers do not depend on.
var sameAsBase = []string{"acpi_source", "read_on", "header_rule", "authenticode", "event_version", "gpt"}

const metadataFile = `{"boot_config":{"bios":"ovmf.fd","cpus":2,"memory":"4G","qemu":{"machine":"q35,kernel_irqchip=split","devices":["virtio-net-pci,netdev=n0"]}},` +
	`"direct":{"kernel":"bzImage","initrd":"plain.cpio","cmdline":"console=ttyS0"}}`

// platformFields are the fields by their names in YAML.
func platformFields() []string {
	var out []string
	typ := reflect.TypeFor[config.Platform]()
	for i := range typ.NumField() {
		if typ.Field(i).Anonymous {
			continue // of machines of another kind, which have a verb of their own
		}
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
		out = append(out, name)
	}
	return out
}

// verbFlags are flags of tdx measure that say nothing of the machine.
var verbFlags = []string{"force", "only", "trace", "output", "report", "allow-unchecked", "help", "no-com1"}

func machineFlags() (names []string) {
	a := &app{env: func(string) string { return "" }}
	a.tdxMeasureCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(verbFlags, f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}

// flagReport is the report of tdx measure.
func flagReport(t *testing.T, name string, c described) string {
	t.Helper()
	return flagReportOf(t, machines[c.base], name, c)
}

func flagReportOf(t *testing.T, fields map[string]string, name string, c described) string {
	t.Helper()
	var args []string
	for field, value := range fields {
		if field != name {
			args = append(args, "--"+strings.ReplaceAll(field, "_", "-")+"="+value)
		}
	}
	values := c.flag
	if values == nil && name != "" {
		values = []string{c.value}
	}
	for _, v := range values {
		args = append(args, "--"+strings.ReplaceAll(name, "_", "-")+"="+v)
	}
	file := filepath.Join(t.TempDir(), "report.json")
	code, out, errOut := inProcess(t, nil, append([]string{"-q", "tdx", "measure", "--report", "json=" + file}, args...)...)
	if code == exitTrouble {
		t.Fatalf("tdx measure %q: %s%s", args, out, errOut)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return doorless(string(data))
}

// yamlReport is the report of a run of the stage over a retally.yaml.
func yamlReport(t *testing.T, name string, c described) string {
	t.Helper()
	return yamlReportOf(t, machines[c.base], name, c)
}

func yamlReportOf(t *testing.T, fields map[string]string, name string, c described) string {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("version: 1\nplatforms:\n  machine:\n    tee: tdx\n")
	for field, value := range fields {
		if field != name {
			if field == "devices" {
				value = "'" + value + "'"
			}
			fmt.Fprintf(&b, "    %s: %s\n", field, value)
		}
	}
	if name != "" {
		fmt.Fprintf(&b, "    %s: %s\n", name, c.value)
	}
	table := []run.Stage{tdx.Stage()}
	cfg, err := run.ParseConfig(table, "retally.yaml", b.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	res, err := run.Run(context.Background(), table, cfg, run.Options{Root: ".", Subject: "the machine that the flags describe", Tool: tool()})
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	var out strings.Builder
	if err := report.JSON(&out, res.Report); err != nil {
		t.Fatal(err)
	}
	return doorless(out.String())
}

// doorless takes out of a report how an input is named.
func doorless(text string) string {
	text = regexp.MustCompile(`"file": "(retally.yaml",\s*"pointer": "[^"]*"|--expect")`).ReplaceAllString(text, `"file": "…"`)
	return regexp.MustCompile(`"how": "[^"]*"`).ReplaceAllString(text, `"how": "…"`)
}

// firstDifferent is the first line of a that b does not have there, with some
// before and behind.
func firstDifferent(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range x {
		if i >= len(y) || x[i] != y[i] {
			return strings.Join(x[max(0, i-6):min(len(x), i+4)], "\n")
		}
	}
	return "(all of it)"
}
