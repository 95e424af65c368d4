package tdx_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
)

// TestAssumed: what rests on something that nobody said has a key of its own,
// is assumed, and is compared with the machine's own expect only.
func TestAssumed(t *testing.T) {
	dir := testrun.Demo(t, nil)
	for without, registers := range map[string]string{"initrd": "rtmr1 rtmr2", "cmdline": "rtmr2", "memory": "rtmr0 rtmr1", "vcpus": "rtmr0", "rootfs": "rtmr3", "compose": "rtmr3"} {
		r := testrun.Run(t, dir, testrun.VM("registry: vm/tdx.csv\n", without))
		for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
			own, assumed := testrun.Measured(r, pipeline.NewKey("tdx", "harbor-vm", name)), testrun.Measured(r, pipeline.NewKey("tdx", "harbor-vm", "assumed", name))
			rests := strings.Contains(registers, name)
			if (assumed != nil) != rests || (own != nil) == rests {
				t.Errorf("without %s: %s: own %v, assumed %v", without, name, own != nil, assumed != nil)
			}
			if assumed == nil {
				continue
			}
			if s := pipeline.Standings(r.Measurements)[assumed.Key]; s.Effective != pipeline.Assumed {
				t.Errorf("without %s: %s is %s", without, assumed.Key, s)
			}
			if fs := testrun.Findings(r, assumed.Key); len(fs) != 0 {
				t.Errorf("without %s: %s is compared with a registry", without, assumed.Key)
			}
			value := assumed.Value.Digest().Hex()
			for want, outcome := range map[string]pipeline.Outcome{value: pipeline.OutcomeUnchecked, strings.Repeat("ab", 48): pipeline.OutcomeDiffers} {
				if r := testrun.Run(t, dir, testrun.VM("    expect: {"+name+": '"+want+"'}\n", without)); r.Outcome != outcome {
					t.Errorf("without %s, expecting %.8s: %s, want %s", without, want, r.Outcome, outcome)
				}
			}
		}
	}
}

// TestEmptyOnPurpose: an empty text is given, and wins over metadata.
func TestEmptyOnPurpose(t *testing.T) {
	meta := `{"boot_config":{"cpus":2,"memory":"4G","bios":"OVMF.fd"},"direct":{"kernel":"bzImage","initrd":"initrd.cpio","cmdline":"quiet"}}`
	dir := testrun.Demo(t, map[string]string{"vm/metadata.json": meta})
	value := func(more string) string {
		r := testrun.Run(t, dir, "version: 1\nplatforms:\n  vm: {tee: tdx, profile: tdx-measure, metadata: vm/metadata.json"+more+"}\n")
		m := testrun.Measured(r, "tdx/vm/rtmr2")
		if m == nil || pipeline.Standings(r.Measurements)[m.Key].Effective != pipeline.Recomputed {
			t.Fatalf("%s: RTMR2 is not recomputed", more)
		}
		return m.Value.String()
	}
	seen := map[string]string{}
	for _, more := range []string{"", ", initrd: ''", ", cmdline: ''", ", initrd: '', cmdline: ''"} {
		v := value(more)
		if was, ok := seen[v]; ok {
			t.Errorf("%q and %q give one value", more, was)
		}
		seen[v] = more
	}
	if value(", initrd: ''") != value(", no_initrd: true") {
		t.Error("no initrd, said in two ways, gives two values")
	}
}

// TestOwnProfile: a profile of the user's own is an input with a digest, and a
// name that is neither built in nor a file is an error.
func TestOwnProfile(t *testing.T) {
	text, err := os.ReadFile("../../../profiles/tdx/secretvm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := testrun.Demo(t, map[string]string{"own.yaml": strings.Replace(string(text), "name: secretvm\n", "name: own\n", 1)})
	r := testrun.Run(t, dir, strings.Replace(testrun.VM(""), "profile: secretvm", "profile: own.yaml", 1))
	other := testrun.Run(t, dir, testrun.VM(""))
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_aggregated", "mr_image"} {
		k := pipeline.NewKey("tdx", "harbor-vm", name)
		if a, b := testrun.Measured(r, k), testrun.Measured(other, k); a == nil || b == nil || !a.Value.Equal(b.Value) {
			t.Errorf("%s differs under a copy of the profile", name)
		}
	}
	listed := false
	for _, in := range r.Inputs {
		listed = listed || in.File == "own.yaml"
	}
	if !listed {
		t.Error("the profile is no input of the report")
	}
}

// FuzzDescription gives a machine hostile documents: metadata, vm_config, a
// profile and what is written in a few fields.
func FuzzDescription(f *testing.F) {
	f.Add(`{"boot_config":{"cpus":2,"memory":"4G","bios":"fw"},"direct":{"kernel":"k","initrd":"i","cmdline":"x"}}`, `{"cpu_count":2,"memory_size":4294967296}`, "version: 1\nname: p\nrtmr0: [td-hob]\n", "v1", "app-id=00")
	f.Add(`{"bios":"fw","kernel":"k"}`, `{"vm_config":"{}"}`, "version: 1\nname: p\ndevices: {layout: dstack, com1: ['9.2']}\naggregates: dstack\n", "v2:kms:00", "x")
	f.Add(`{"boot_config":{"cpus":9999999,"memory":"1P","bios":"/fw","acpi_tables":"a"},"indirect":{}}`, `{"num_gpus":4503599627370496}`, "version: 1\nname: p\nrtmr3: events\n", "v3:fw", "=")
	firmware := testtdx.Firmware()
	f.Fuzz(func(t *testing.T, meta, vm, profile, id, event string) {
		dir := t.TempDir()
		reader := run.NewReader(dir, nil)
		for name, data := range map[string]string{"m.json": meta, "vm.json": vm, "./p.yaml": profile, "fw": string(firmware)} {
			reader.Hold(name, []byte(data))
		}
		for _, p := range []config.Platform{
			{Metadata: "m.json"},
			{VMConfig: "vm.json", MRConfigID: id, Events: []string{event}},
			{Profile: "./p.yaml", Firmware: new("fw"), MRConfigID: id, Events: []string{event}},
			{Metadata: "m.json", VMConfig: "vm.json", Profile: "./p.yaml"},
		} {
			p.TEE, p.ExcludeACPITables = "tdx", new(true) // the built-in tables take their time
			at := func(msg, _ string, _ ...string) error { return &run.Fault{Err: os.ErrInvalid, Hint: msg} }
			if tdx.Check(&p, at, func(field, _ string) string { return field }) != nil {
				continue
			}
			cfg := &config.Config{Version: 1, Platforms: map[string]config.Platform{"m": p}}
			res, err := run.Run(context.Background(), []run.Stage{tdx.Stage()}, cfg, run.Options{Root: dir, Reader: reader})
			if err == nil && res.Report.Outcome == pipeline.OutcomeMatch {
				t.Fatal("nothing was compared, and all agrees")
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Fatalf("wrote %q", left)
		}
	})
}
