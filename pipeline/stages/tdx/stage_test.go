package tdx_test

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testrun"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// TestTDXRegistry: the machine's registers are those of one row as a whole.
func TestTDXRegistry(t *testing.T) {
	dir := testrun.Demo(t, nil)
	r := testrun.Run(t, dir, testrun.VM("registry: vm/tdx.csv\n"))
	if r.Outcome != pipeline.OutcomeMatch || len(r.Findings) != 5 {
		t.Fatalf("%s, %d findings: %s", r.Outcome, len(r.Findings), r.Summary)
	}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rootfs"} {
		f := testrun.Finding(t, r, pipeline.NewKey("tdx", "harbor-vm", name))
		if f.Standing.Effective != pipeline.Recomputed || !strings.Contains(f.Set, "harbor prod v0.3.0") || f.Where.Line != 3 {
			t.Errorf("%s: %s, set %q line %d", name, f.Standing, f.Set, f.Where.Line)
		}
	}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_aggregated", "mr_image"} {
		m := testrun.Measured(r, pipeline.NewKey("tdx", "harbor-vm", name))
		if m == nil || m.Trace == nil || len(m.Trace.Events) == 0 {
			t.Errorf("%s: no trace", name)
		}
	}
}

// TestTDXMixedRows: each register stands in some row, and no row has them all.
func TestTDXMixedRows(t *testing.T) {
	dir := testrun.Demo(t, nil)
	data, err := os.ReadFile(filepath.Join(dir, "vm/tdx.csv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	older, newer := strings.Split(lines[1], ","), strings.Split(lines[2], ",")
	older[3], newer[3] = newer[3], older[3]
	mixed := strings.Join([]string{lines[0], strings.Join(older, ","), strings.Join(newer, ",")}, "\n") + "\n"
	r := testrun.Run(t, testrun.Demo(t, map[string]string{"vm/tdx.csv": mixed}), testrun.VM("registry: vm/tdx.csv\n"))
	f := testrun.Finding(t, r, "tdx/harbor-vm/mrtd")
	if r.Outcome != pipeline.OutcomeDiffers || f.Verdict != pipeline.Differs || !strings.Contains(f.Note, "none of 2 sets holds as a whole") {
		t.Errorf("%s: %s %q", r.Outcome, f.Verdict, f.Note)
	}
}

// TestTDXGroups: expected values and a registry are no alternatives; both must
// hold.
func TestTDXGroups(t *testing.T) {
	dir := testrun.Demo(t, nil)
	right := testrun.Measured(testrun.Run(t, dir, testrun.VM("")), "tdx/harbor-vm/mrtd").Value.Digest().Hex()
	for _, tc := range []struct {
		value string
		want  pipeline.Outcome
	}{{right, pipeline.OutcomeMatch}, {strings.ToUpper(right), pipeline.OutcomeMatch}, {strings.Repeat("ab", 48), pipeline.OutcomeDiffers}} {
		r := testrun.Run(t, dir, testrun.VM("    expect: {mrtd: '"+tc.value+"'}\nregistry: vm/tdx.csv\n"))
		if r.Outcome != tc.want || len(testrun.Findings(r, "tdx/harbor-vm/mrtd")) != 2 {
			t.Errorf("%.8s: %s, %d findings; want %s and 2", tc.value, r.Outcome, len(testrun.Findings(r, "tdx/harbor-vm/mrtd")), tc.want)
		}
	}
}

// TestTDXLacks: what is not given leaves the registers open that need it, and
// no other.
func TestTDXLacks(t *testing.T) {
	dir := testrun.Demo(t, nil)
	for _, tc := range []struct{ without, open string }{
		{"firmware", "mrtd rtmr0"},
		{"kernel", "rtmr1"},
		{"initrd", "rtmr1 rtmr2"},
		{"cmdline", "rtmr2"},
		{"memory", "rtmr0 rtmr1"},
		{"vcpus", "rtmr0"},
		{"compose", "rtmr3"},
		{"rootfs", "rtmr3"},
	} {
		r := testrun.Run(t, dir, testrun.VM("registry: vm/tdx.csv\n", tc.without))
		var open []string
		for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
			key := pipeline.NewKey("tdx", "harbor-vm", name)
			lacking := false
			for _, l := range r.Lacks {
				if l.For == string(key) {
					lacking = strings.Contains(l.What, tc.without) && strings.Contains(l.How, "platforms.harbor-vm."+tc.without+":")
				}
			}
			if m := testrun.Measured(r, key); (m == nil) != lacking {
				t.Errorf("without %s: %s is measured: %v, lacking: %v", tc.without, name, m != nil, lacking)
			}
			if lacking {
				open = append(open, name)
				for _, f := range testrun.Findings(r, key) {
					if f.Verdict != pipeline.Unchecked {
						t.Errorf("without %s: %s is %s", tc.without, name, f.Verdict)
					}
				}
			}
		}
		if got := strings.Join(open, " "); got != tc.open {
			t.Errorf("without %s: open %q, want %q", tc.without, got, tc.open)
		}
		if testrun.Measured(r, "tdx/harbor-vm/mr_aggregated") != nil {
			t.Errorf("without %s: aggregated all the same", tc.without)
		}
		if tc.open != "rtmr3" && r.Outcome != pipeline.OutcomeUnchecked {
			t.Errorf("without %s: %s", tc.without, r.Outcome)
		}
	}
}

// TestTDXBasis: tables out of a file, a profile that nothing confirms and a
// QEMU that was never compared show in how a register is known.
func TestTDXBasis(t *testing.T) {
	source, err := tdxmeasure.NewTemplateSource()
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := source.Tables(context.Background(), acpi.Shape{Family: acpi.Family100, VCPUs: 2, Memory: 4 << 30, Base: acpi.SecretVM, NoCOM1: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := testrun.Demo(t, map[string]string{"tables.hex": hex.EncodeToString(blobs.Tables) + "\n"})
	r := testrun.Run(t, dir, testrun.VM("    acpi: tables.hex\nregistry: vm/tdx.csv\n"))
	f := testrun.Finding(t, r, "tdx/harbor-vm/rtmr0")
	if f.Verdict != pipeline.Match || f.Standing.String() != "recomputed, resting on copied: 1" || r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("tables file: %s %s, %s", f.Verdict, f.Standing, r.Outcome)
	}
	if f := testrun.Finding(t, r, "tdx/harbor-vm/mrtd"); f.Standing.String() != "recomputed" {
		t.Errorf("MRTD beside a tables file: %s", f.Standing)
	}
	zero := strings.Repeat("0", 96)
	r = testrun.Run(t, dir, strings.Replace(testrun.VM("    expect: {rtmr3: '"+zero+"'}\n"), "profile: secretvm", "profile: contrast-1.20", 1))
	if f := testrun.Finding(t, r, "tdx/harbor-vm/rtmr3"); f.Standing.String() != "recomputed, resting on assumed: 1" || f.Verdict != pipeline.Match {
		t.Errorf("unconfirmed profile: %s %s", f.Verdict, f.Standing)
	}
	r = testrun.Run(t, dir, testrun.VM("    qemu: 12.3.0\n"))
	if s := pipeline.Standings(r.Measurements)["tdx/harbor-vm/rtmr0"]; s.String() != "recomputed, resting on assumed: 1" {
		t.Errorf("unknown QEMU: %s", s)
	}
}

// TestTDXCauses: the deviation that explains a register is named and proved.
func TestTDXCauses(t *testing.T) {
	dir := testrun.Demo(t, nil)
	for _, tc := range []struct{ name, reg, other, want, hint string }{
		{"page order", "mrtd", "    page_order: two-pass\n", "page-order-two-pass", "tdx-page-order"},
		{"memory", "rtmr0", "    memory: 8G\n", "memory-8192M", "tdx-memory-size"},
		{"vCPUs and COM1", "rtmr0", "    vcpus: 4\n    com1: true\n", "vcpus-4", "tdx-acpi"},
		{"header", "rtmr1", "    patch_kernel: false\n", "kernel-unpatched", "tdx-kernel-header"},
	} {
		var drop []string
		for field := range strings.SplitSeq(tc.other, "\n") {
			name, _, _ := strings.Cut(strings.TrimSpace(field), ":")
			if name != "" {
				drop = append(drop, name)
			}
		}
		key := pipeline.NewKey("tdx", "harbor-vm", tc.reg)
		wanted := testrun.Measured(testrun.Run(t, dir, testrun.VM(tc.other, drop...)), key).Value.Digest().Hex()
		f := testrun.Finding(t, testrun.Run(t, dir, testrun.VM("    expect: {"+tc.reg+": '"+wanted+"'}\n")), key)
		if f.Verdict != pipeline.Differs || len(f.Why) != 1 || f.Why[0].Standing != pipeline.Proved || f.Why[0].Hint != tc.hint || !strings.Contains(testrun.Causes(f), tc.want) {
			t.Errorf("%s: %s\n%s", tc.name, f.Verdict, testrun.Causes(f))
		}
	}
	f := testrun.Finding(t, testrun.Run(t, dir, testrun.VM("    expect: {mrtd: '"+strings.Repeat("ab", 48)+"'}\n")), "tdx/harbor-vm/mrtd")
	if len(f.Why) != 1 || f.Why[0].Standing != pipeline.Suspected || !strings.Contains(testrun.Causes(f), "no known variant matches") {
		t.Errorf("no known cause:\n%s", testrun.Causes(f))
	}
}

// TestTDXReadsOnce counts bytes: every file is read once, the kernel too, whose
// measured digest is not one over the file.
func TestTDXReadsOnce(t *testing.T) {
	dir := testrun.Demo(t, nil)
	var want int64
	for _, name := range []string{"OVMF.fd", "bzImage", "initrd.cpio", "rootfs.img", "docker-compose.yaml"} {
		info, err := os.Stat(filepath.Join(dir, "vm", name))
		if err != nil {
			t.Fatal(err)
		}
		want += info.Size()
	}
	count := new(run.Counter)
	res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, testrun.VM("")), run.Options{Root: dir, Counter: count})
	if err != nil {
		t.Fatal(err)
	}
	if got := count.BytesRead.Load(); got != want {
		t.Errorf("read %d bytes, want %d", got, want)
	}
	var files []string
	for _, in := range res.Report.Inputs {
		files = append(files, in.File)
		if in.File == "vm/bzImage" && in.Digest != digest.SHA256.Sum([]byte(testrun.Read(t, dir, in.File))) {
			t.Errorf("the kernel is listed with %s", in.Digest)
		}
	}
	if got := strings.Join(files, " "); got != "profile:tdx@secretvm vm/OVMF.fd vm/bzImage vm/docker-compose.yaml vm/initrd.cpio vm/rootfs.img" {
		t.Errorf("inputs %s", got)
	}
}

// TestTDXManifest: computed registers take the place of the base manifest's,
// whatever the case of the platform's name.
func TestTDXManifest(t *testing.T) {
	text := func(name string) string {
		data, err := os.ReadFile(filepath.Join(testrun.Demo(t, nil), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	config := testrun.Base(text("retally.yaml"))
	const key = "tdx/Metal-QEMU-TDX-GPU/rtmr1"
	value := testrun.Finding(t, testrun.Run(t, testrun.Demo(t, nil), config), key)
	if value.Verdict != pipeline.Match || value.Standing.String() != "recomputed" {
		t.Fatalf("%s, %s", value.Verdict, value.Standing)
	}
	computed, other := value.Got.Digest().Hex(), strings.Repeat("ab", 48)
	for _, name := range []string{"metal-qemu-tdx-gpu", "Metal-QEMU-TDX-GPU"} {
		config := strings.Replace(config, "metal-qemu-tdx-gpu", name, 1)
		// The base manifest says otherwise: what was computed counts.
		base := strings.Replace(text("manifest.generated.json"), computed, other, 1)
		r := testrun.Run(t, testrun.Demo(t, map[string]string{"manifest.generated.json": base}), config)
		if f := testrun.Finding(t, r, key); r.Outcome != pipeline.OutcomeMatch || f.Verdict != pipeline.Match || r.Bytes.Verdict != pipeline.Match {
			t.Errorf("%s: a wrong base: %s, %s, bytes %s", name, r.Outcome, f.Verdict, r.Bytes.Verdict)
		}
		// The published one says otherwise.
		published := strings.Replace(text("manifest.published.json"), computed, other, 1)
		r = testrun.Run(t, testrun.Demo(t, map[string]string{"manifest.generated.json": base, "manifest.published.json": published}), config)
		f := testrun.Finding(t, r, key)
		if r.Outcome != pipeline.OutcomeDiffers || f.Verdict != pipeline.Differs || f.Got.Digest().Hex() != computed || !strings.Contains(testrun.Causes(f), "no known variant matches") {
			t.Errorf("%s: a wrong published value: %s, %s\n%s", name, r.Outcome, f.Verdict, testrun.Causes(f))
		}
	}
	// Without the machine the value is copied, as it was.
	r := testrun.Run(t, testrun.Demo(t, nil), strings.Replace(config, "metal-qemu-tdx-gpu:", "elsewhere:", 1))
	if f := testrun.Finding(t, r, key); f.Standing.String() != "copied" {
		t.Errorf("another machine: %s", f.Standing)
	}
}

// TestTDXErrors: what cannot be computed ends the run with the file's name.
func TestTDXErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		changes map[string]string
		config  string
		want    string
	}{
		"no descriptor": {map[string]string{"vm/OVMF.fd": strings.Repeat("x", 8192)}, testrun.VM(""), "vm/OVMF.fd"},
		"no file":       {nil, strings.Replace(testrun.VM(""), "vm/bzImage", "vm/bzimage", 1), "vm/bzimage"},
		"a folder":      {nil, strings.Replace(testrun.VM(""), "vm/rootfs.img", "vm", 1), "a folder"},
		"short kernel":  {map[string]string{"vm/bzImage": "MZ"}, testrun.VM(""), "vm/bzImage: kernel: 2 bytes"},
		"bad registry":  {map[string]string{"vm/tdx.csv": "a,b\n"}, testrun.VM("registry: vm/tdx.csv\n"), "vm/tdx.csv"},
	} {
		_, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, tc.config), run.Options{Root: testrun.Demo(t, tc.changes)})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestTDXMetadata takes a machine from tdx-measure's file.
func TestTDXMetadata(t *testing.T) {
	meta := `{"boot_config":{"cpus":2,"memory":"4G","bios":"OVMF.fd"},"direct":{"kernel":"bzImage","initrd":"initrd.cpio","cmdline":"console=ttyS0 loglevel=7 initrd=initrd"}}`
	dir := testrun.Demo(t, map[string]string{"vm/metadata.json": meta})
	config := "version: 1\nplatforms:\n  harbor-vm: {tee: tdx, profile: secretvm, metadata: vm/metadata.json}\n"
	got, want := testrun.Run(t, dir, config), testrun.Run(t, dir, testrun.VM(""))
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2"} {
		k := pipeline.NewKey("tdx", "harbor-vm", name)
		if a, b := testrun.Measured(got, k), testrun.Measured(want, k); a == nil || !a.Value.Equal(b.Value) {
			t.Errorf("%s: %v, want %s", name, a, b.Value)
		}
	}
	if testrun.Measured(got, "tdx/harbor-vm/rtmr3") != nil {
		t.Error("RTMR3 without compose file and root file system")
	}
}
