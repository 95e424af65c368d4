package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// evidenceSamples give each field of config.Evidence a value that changes
// something, by its key: in YAML and as the words of a flag.
var evidenceSamples = map[string]string{
	"profile": "secretvm", "at": "2026-07-01T00:00:00Z", "only": "authentic,bound", "registry": "m/tdx.csv", "compose": "m/docker-compose.yaml",
	"docker_files": "m/cpu.html", "rootfs": "m/rootfs.iso", "app_id": strings.Repeat("ab", 20), "manifest": "m/manifest.json", "measured": "m/measured.json",
	"mrtd": strings.Repeat("ab", 48), "rtmr0": strings.Repeat("ab", 48), "rtmr1": strings.Repeat("ab", 48), "rtmr2": strings.Repeat("ab", 48), "rtmr3": strings.Repeat("ab", 48),
	"vm_config": "m/vm.json", "os_image_hash": strings.Repeat("cd", 32), "tls_cert": "m/other.pem", "nonce": "0011", "collateral": "m/outdated.json",
	"measurement": strings.Repeat("ab", 48), "host_data": strings.Repeat("ab", 32), "vcek": "m/vcek.der", "certs": "m/amd.pem", "crl": "m/crl.der", "roots": "m/amd.pem",
	"accept_tcb": "OutOfDate", "mrseam": strings.Repeat("00", 48), "service_td": strings.Repeat("ab", 48), "intel_root": "m/root.pem", "nvidia_root": "m/gpu-root.pem",
	"require": "xfam=" + strings.Repeat("ab", 8), "ak": "t/ak.pem", "golden": "t/golden.json", "event_log": "t/boot.log", "app_root": strings.Repeat("ab", 32),
	"workload": "web", "earlier": "c/manifest.json", "owner_key": "c/owner.pem", "capabilities": "c/capabilities",
}

// withField are what else must be given for a field to change anything.
var withField = map[string]map[string]string{
	"docker_files": {"registry": "m/tdx.csv", "compose": "m/docker-compose.yaml"}, "app_id": {"registry": "m/tdx.csv", "compose": "m/docker-compose.yaml"},
	"os_image_hash": {"vm_config": "m/vm.json", "profile": "dstack"}, "vm_config": {"profile": "dstack"}, "accept_tcb": {"collateral": "m/outdated.json"},
	"measurement": {"vcek": "m/vcek.der", "roots": "m/amd.pem"}, "host_data": {"vcek": "m/vcek.der", "roots": "m/amd.pem"}, "vcek": {"roots": "m/amd.pem"}, "certs": {"vcek": "m/vcek.der"},
	"workload": {"manifest": "c/manifest.json", "nonce": strings.Repeat("07", 32)}, "earlier": {"manifest": "c/manifest.json"}, "owner_key": {"manifest": "c/manifest.json"}, "capabilities": {"nonce": strings.Repeat("07", 32)},
	"golden": {"ak": "t/ak-key.pem"}, "event_log": {"ak": "t/ak-key.pem"},
	"crl": {"vcek": "m/vcek.der", "roots": "m/amd.pem"}, "roots": {"vcek": "m/vcek.der"},
}

// TestEvidenceFields describes a piece of evidence once by flags and once by
// retally.yaml, with each field in turn: the reports must be byte for byte the
// same, but for how the door names an input. A field without a flag, a flag
// without a field, and a field that changes nothing fail.
func TestEvidenceFields(t *testing.T) {
	m := newOwnMachine(t)
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.CopyFS("m", os.DirFS(m.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("t", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := makeTPM("t"); err != nil {
		t.Fatal(err)
	}
	if err := makeContrast("c"); err != nil {
		t.Fatal(err)
	}
	putFile(t, "m/vm.json", []byte(`{"os_image_hash":"`+strings.Repeat("00", 32)+`","cpu_count":1,"memory_size":2147483648,"qemu_version":"8.2.2"}`))
	putFile(t, "m/manifest.json", []byte(`{"Policies":{},"ReferenceValues":{"tdx":[{"Platform":"p","MrTd":"`+strings.Repeat("ab", 48)+`"}]}}`))

	cmd := &cobra.Command{}
	fields := bindEvidence(cmd, new(config.Evidence))
	flags := map[string]string{} // by field
	for _, f := range fields {
		flags[f.field] = f.flag
	}
	// Positional, of another section, an old name, nobody's to write.
	exempt := []string{"file", "also", "platform", "gpu", "-"}
	keys := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.Evidence]()) {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		keys[key] = true
		if slices.Contains(exempt, key) {
			continue
		}
		if flags[key] == "" || evidenceSamples[key] == "" {
			t.Errorf("field %s (%s) has the flag %q and the sample %q: give it both", f.Name, key, flags[key], evidenceSamples[key])
		}
	}
	for key, flag := range flags {
		if !keys[key] {
			t.Errorf("--%s fills no field of config.Evidence (%s)", flag, key)
		}
	}
	base := map[string]string{"at": evidenceAt, "intel_root": "m/root.pem"}
	for _, key := range slices.Sorted(maps.Keys(evidenceSamples)) {
		t.Run(key, func(t *testing.T) {
			files := []string{"m/quote.bin"}
			switch key {
			case "nvidia_root":
				files = []string{"m/with-gpu.bin", "m/gpu.json"}
			case "measurement", "host_data", "vcek", "certs", "crl", "roots":
				files = []string{"m/report.bin"}
			case "workload":
				files = []string{"c/pod.pem"}
			case "earlier", "owner_key", "capabilities":
				files = []string{"c/answer.json"}
			case "ak", "golden", "event_log":
				files = []string{"t/quote.bin", "t/quote.sig", "t/quote.pcrs"}
			case "app_root":
				files = []string{"t/proof.json"}
			case "service_td":
				files = []string{"m/service.bin"}
			}
			without := maps.Clone(base)
			if key == "intel_root" || files[0] == "m/report.bin" || strings.HasPrefix(files[0], "c/") || strings.HasPrefix(files[0], "t/") {
				delete(without, "intel_root")
			}
			maps.Copy(without, withField[key])
			with := maps.Clone(without)
			with[key] = evidenceSamples[key]
			before, after := bothDoors(t, fields, files, without), bothDoors(t, fields, files, with)
			if before == after {
				t.Errorf("the field changes nothing:\n%s", after)
			}
		})
	}
}

// bothDoors judges evidence by flags and by retally.yaml and returns what both
// say.
func bothDoors(t *testing.T, fields []flagField, files []string, given map[string]string) string {
	t.Helper()
	args := slices.Concat([]string{"-q", "evidence", "verify", "--test-root-ok", "--report", "json=flags.json"}, files)
	var b strings.Builder
	name := strings.TrimSuffix(filepath.Base(files[0]), filepath.Ext(files[0]))
	fmt.Fprintf(&b, "version: 1\nevidence:\n  %s:\n    file: %s\n", name, files[0])
	if len(files) > 1 {
		fmt.Fprintf(&b, "    also: [%s]\n", strings.Join(files[1:], ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		for _, f := range fields {
			if f.field == key {
				args = append(args, "--"+f.flag, given[key])
			}
		}
		if slices.Contains([]string{"only", "measured", "accept_tcb", "mrseam", "service_td", "measurement", "require", "earlier", "owner_key"}, key) {
			fmt.Fprintf(&b, "    %s: ['%s']\n", key, strings.ReplaceAll(given[key], ",", "', '"))
		} else {
			fmt.Fprintf(&b, "    %s: '%s'\n", key, given[key])
		}
	}
	putFile(t, "one.yaml", []byte(b.String()))
	if err := os.WriteFile("flags.json", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, flagsErr := inProcess(t, nil, args...)
	flags := readFileOf(t, "flags.json")
	yamlCode, _, yamlErr := inProcess(t, nil, "-q", "run", "-f", "one.yaml", "--no-cache", "--test-root-ok", "--out", "out", "-o", "json")
	if code != yamlCode {
		t.Fatalf("exit %d by flags, %d by retally.yaml\n%s%s\n%s", code, yamlCode, flagsErr, yamlErr, b.String())
	}
	if code == exitTrouble {
		if f, y := core(flagsErr), core(yamlErr); f != y {
			t.Fatalf("refused for two reasons:\n%s\n%s", flagsErr, yamlErr)
		}
		return core(flagsErr)
	}
	text, yaml := string(flags), string(readFileOf(t, "out/report.json"))
	for _, f := range fields {
		for _, value := range []string{"FILE", "HEX", "TIME", "NAME"} {
			text = strings.ReplaceAll(text, "--"+f.flag+" "+value, f.field+": "+value)
		}
		text = strings.ReplaceAll(text, "--"+f.flag+" ", f.field+" ")
	}
	if strings.Contains(yaml, " --") || strings.Contains(yaml, "(--") {
		t.Errorf("retally.yaml's user is told a flag: %s", yaml)
	}
	byFlags, byYAML := withoutDoor(t, []byte(text)), withoutDoor(t, []byte(yaml))
	if byFlags != byYAML {
		t.Errorf("two reports:\n%s", firstLines(byFlags, byYAML))
	}
	return byFlags
}

// withoutDoor is a report without what says through which door it came.
func withoutDoor(t *testing.T, data []byte) string {
	t.Helper()
	var r pipeline.Report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	r.Subject, r.Next = "", ""
	r.Inputs = slices.DeleteFunc(r.Inputs, func(in pipeline.Input) bool { return in.File == "one.yaml" })
	out, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(out))
}

// firstLines are the first lines in which two texts differ.
func firstLines(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return strings.Join(x[max(0, i-3):min(len(x), i+3)], "\n") + "\n--\n" + strings.Join(y[max(0, i-3):min(len(y), i+3)], "\n")
		}
	}
	return fmt.Sprintf("%d lines and %d", len(x), len(y))
}
