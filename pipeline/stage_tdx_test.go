package pipeline_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// demoFolder writes the demo's files, changed as asked.
func demoFolder(t *testing.T, changes map[string]string) string {
	t.Helper()
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		write(f.Name, f.Data)
	}
	for name, text := range changes {
		write(name, []byte(text))
	}
	return dir
}

// vm is the demo's VM, with more or other fields behind it.
func vm(more string, without ...string) string {
	fields := []string{
		"tee: tdx", "profile: secretvm", "firmware: vm/OVMF.fd", "kernel: vm/bzImage", "initrd: vm/initrd.cpio", "rootfs: vm/rootfs.img",
		"compose: vm/docker-compose.yaml", "cmdline: console=ttyS0 loglevel=7 initrd=initrd", "memory: 4G", "vcpus: 2",
	}
	var b strings.Builder
	b.WriteString("version: 1\nplatforms:\n  harbor-vm:\n")
next:
	for _, f := range fields {
		for _, w := range without {
			if strings.HasPrefix(f, w+":") {
				continue next
			}
		}
		b.WriteString("    " + f + "\n")
	}
	return b.String() + more
}

func configured(t *testing.T, text string) *pipeline.Config {
	t.Helper()
	c, err := pipeline.ParseConfig(pipeline.Table(), "retally.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

func ran(t *testing.T, dir, config string) *pipeline.Report {
	t.Helper()
	res, err := pipeline.Run(context.Background(), pipeline.Table(), configured(t, config), pipeline.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return res.Report
}

// found returns the findings of a key, one for each set that speaks of it.
func found(r *pipeline.Report, k pipeline.Key) []pipeline.Finding {
	var out []pipeline.Finding
	for _, f := range r.Findings {
		if f.Key == k {
			out = append(out, f)
		}
	}
	return out
}

func one(t *testing.T, r *pipeline.Report, k pipeline.Key) pipeline.Finding {
	t.Helper()
	fs := found(r, k)
	if len(fs) != 1 {
		t.Fatalf("%d findings of %s, want 1", len(fs), k)
	}
	return fs[0]
}

func notes(f pipeline.Finding) string {
	var all []string
	for _, c := range f.Why {
		all = append(all, fmt.Sprintf("%s %s: %s", c.Standing, strings.Join(c.Path, " > "), c.Note))
	}
	return strings.Join(all, "\n")
}

// TestTDXRegistry: the machine's registers are those of one row as a whole.
func TestTDXRegistry(t *testing.T) {
	dir := demoFolder(t, nil)
	r := ran(t, dir, vm("registry: vm/tdx.csv\n"))
	if r.Outcome != pipeline.OutcomeMatch || len(r.Findings) != 5 {
		t.Fatalf("%s, %d findings: %s", r.Outcome, len(r.Findings), r.Summary)
	}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rootfs"} {
		f := one(t, r, pipeline.NewKey("tdx", "harbor-vm", name))
		if f.Standing.Effective != pipeline.Recomputed || !strings.Contains(f.Set, "harbor prod v0.3.0") || f.Where.Line != 3 {
			t.Errorf("%s: %s, set %q line %d", name, f.Standing, f.Set, f.Where.Line)
		}
	}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_aggregated", "mr_image"} {
		m := measured(r, pipeline.NewKey("tdx", "harbor-vm", name))
		if m == nil || m.Trace == nil || len(m.Trace.Events) == 0 {
			t.Errorf("%s: no trace", name)
		}
	}
}

// TestTDXMixedRows: each register stands in some row, and no row has them all.
func TestTDXMixedRows(t *testing.T) {
	dir := demoFolder(t, nil)
	data, err := os.ReadFile(filepath.Join(dir, "vm/tdx.csv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	older, newer := strings.Split(lines[1], ","), strings.Split(lines[2], ",")
	older[3], newer[3] = newer[3], older[3]
	mixed := strings.Join([]string{lines[0], strings.Join(older, ","), strings.Join(newer, ",")}, "\n") + "\n"
	r := ran(t, demoFolder(t, map[string]string{"vm/tdx.csv": mixed}), vm("registry: vm/tdx.csv\n"))
	f := one(t, r, "tdx/harbor-vm/mrtd")
	if r.Outcome != pipeline.OutcomeDiffers || f.Verdict != pipeline.Differs || !strings.Contains(f.Note, "none of 2 sets holds as a whole") {
		t.Errorf("%s: %s %q", r.Outcome, f.Verdict, f.Note)
	}
}

// TestTDXGroups: expected values and a registry are no alternatives; both must
// hold.
func TestTDXGroups(t *testing.T) {
	dir := demoFolder(t, nil)
	right := measured(ran(t, dir, vm("")), "tdx/harbor-vm/mrtd").Value.Digest().Hex()
	for _, tc := range []struct {
		value string
		want  pipeline.Outcome
	}{{right, pipeline.OutcomeMatch}, {strings.ToUpper(right), pipeline.OutcomeMatch}, {strings.Repeat("ab", 48), pipeline.OutcomeDiffers}} {
		r := ran(t, dir, vm("    expect: {mrtd: '"+tc.value+"'}\nregistry: vm/tdx.csv\n"))
		if r.Outcome != tc.want || len(found(r, "tdx/harbor-vm/mrtd")) != 2 {
			t.Errorf("%.8s: %s, %d findings; want %s and 2", tc.value, r.Outcome, len(found(r, "tdx/harbor-vm/mrtd")), tc.want)
		}
	}
}

// TestTDXLacks: what is not given leaves the registers open that need it, and
// no other.
func TestTDXLacks(t *testing.T) {
	dir := demoFolder(t, nil)
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
		r := ran(t, dir, vm("registry: vm/tdx.csv\n", tc.without))
		var open []string
		for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
			key := pipeline.NewKey("tdx", "harbor-vm", name)
			lacking := false
			for _, l := range r.Lacks {
				if l.For == string(key) {
					lacking = strings.Contains(l.What, tc.without) && strings.Contains(l.How, "platforms.harbor-vm."+tc.without+":")
				}
			}
			if m := measured(r, key); (m == nil) != lacking {
				t.Errorf("without %s: %s is measured: %v, lacking: %v", tc.without, name, m != nil, lacking)
			}
			if lacking {
				open = append(open, name)
				for _, f := range found(r, key) {
					if f.Verdict != pipeline.Unchecked {
						t.Errorf("without %s: %s is %s", tc.without, name, f.Verdict)
					}
				}
			}
		}
		if got := strings.Join(open, " "); got != tc.open {
			t.Errorf("without %s: open %q, want %q", tc.without, got, tc.open)
		}
		if measured(r, "tdx/harbor-vm/mr_aggregated") != nil {
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
	dir := demoFolder(t, map[string]string{"tables.hex": hex.EncodeToString(blobs.Tables) + "\n"})
	r := ran(t, dir, vm("    acpi: tables.hex\nregistry: vm/tdx.csv\n"))
	f := one(t, r, "tdx/harbor-vm/rtmr0")
	if f.Verdict != pipeline.Match || f.Standing.String() != "recomputed, resting on copied: 1" || r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("tables file: %s %s, %s", f.Verdict, f.Standing, r.Outcome)
	}
	if f := one(t, r, "tdx/harbor-vm/mrtd"); f.Standing.String() != "recomputed" {
		t.Errorf("MRTD beside a tables file: %s", f.Standing)
	}
	zero := strings.Repeat("0", 96)
	r = ran(t, dir, strings.Replace(vm("    expect: {rtmr3: '"+zero+"'}\n"), "profile: secretvm", "profile: contrast-1.20", 1))
	if f := one(t, r, "tdx/harbor-vm/rtmr3"); f.Standing.String() != "recomputed, resting on assumed: 1" || f.Verdict != pipeline.Match {
		t.Errorf("unconfirmed profile: %s %s", f.Verdict, f.Standing)
	}
	r = ran(t, dir, vm("    qemu: 12.3.0\n"))
	if s := pipeline.Standings(r.Measurements)["tdx/harbor-vm/rtmr0"]; s.String() != "recomputed, resting on assumed: 1" {
		t.Errorf("unknown QEMU: %s", s)
	}
}

// TestTDXCauses: the deviation that explains a register is named and proved.
func TestTDXCauses(t *testing.T) {
	dir := demoFolder(t, nil)
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
		wanted := measured(ran(t, dir, vm(tc.other, drop...)), key).Value.Digest().Hex()
		f := one(t, ran(t, dir, vm("    expect: {"+tc.reg+": '"+wanted+"'}\n")), key)
		if f.Verdict != pipeline.Differs || len(f.Why) != 1 || f.Why[0].Standing != pipeline.Proved || f.Why[0].Hint != tc.hint || !strings.Contains(notes(f), tc.want) {
			t.Errorf("%s: %s\n%s", tc.name, f.Verdict, notes(f))
		}
	}
	f := one(t, ran(t, dir, vm("    expect: {mrtd: '"+strings.Repeat("ab", 48)+"'}\n")), "tdx/harbor-vm/mrtd")
	if len(f.Why) != 1 || f.Why[0].Standing != pipeline.Suspected || !strings.Contains(notes(f), "no known variant matches") {
		t.Errorf("no known cause:\n%s", notes(f))
	}
}

// TestTDXReadsOnce counts bytes: every file is read once, the kernel too, whose
// measured digest is not one over the file.
func TestTDXReadsOnce(t *testing.T) {
	dir := demoFolder(t, nil)
	var want int64
	for _, name := range []string{"OVMF.fd", "bzImage", "initrd.cpio", "rootfs.img", "docker-compose.yaml"} {
		info, err := os.Stat(filepath.Join(dir, "vm", name))
		if err != nil {
			t.Fatal(err)
		}
		want += info.Size()
	}
	count := new(pipeline.Counter)
	res, err := pipeline.Run(context.Background(), pipeline.Table(), configured(t, vm("")), pipeline.Options{Root: dir, Counter: count})
	if err != nil {
		t.Fatal(err)
	}
	if got := count.BytesRead.Load(); got != want {
		t.Errorf("read %d bytes, want %d", got, want)
	}
	var files []string
	for _, in := range res.Report.Inputs {
		files = append(files, in.File)
		if in.File == "vm/bzImage" && in.Digest != digest.SHA256.Sum([]byte(read(t, dir, in.File))) {
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
		data, err := os.ReadFile(filepath.Join(demoFolder(t, nil), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	config := text("retally.yaml")
	const key = "tdx/Metal-QEMU-TDX-GPU/rtmr1"
	value := one(t, ran(t, demoFolder(t, nil), config), key)
	if value.Verdict != pipeline.Match || value.Standing.String() != "recomputed, resting on assumed: 1" {
		t.Fatalf("%s, %s", value.Verdict, value.Standing)
	}
	computed, other := value.Got.Digest().Hex(), strings.Repeat("ab", 48)
	for _, name := range []string{"metal-qemu-tdx-gpu", "Metal-QEMU-TDX-GPU"} {
		config := strings.Replace(config, "metal-qemu-tdx-gpu", name, 1)
		// The base manifest says otherwise: what was computed counts.
		base := strings.Replace(text("manifest.generated.json"), computed, other, 1)
		r := ran(t, demoFolder(t, map[string]string{"manifest.generated.json": base}), config)
		if f := one(t, r, key); r.Outcome != pipeline.OutcomeMatch || f.Verdict != pipeline.Match || r.Bytes.Verdict != pipeline.Match {
			t.Errorf("%s: a wrong base: %s, %s, bytes %s", name, r.Outcome, f.Verdict, r.Bytes.Verdict)
		}
		// The published one says otherwise.
		published := strings.Replace(text("manifest.published.json"), computed, other, 1)
		r = ran(t, demoFolder(t, map[string]string{"manifest.generated.json": base, "manifest.published.json": published}), config)
		f := one(t, r, key)
		if r.Outcome != pipeline.OutcomeDiffers || f.Verdict != pipeline.Differs || f.Got.Digest().Hex() != computed || !strings.Contains(notes(f), "no known variant matches") {
			t.Errorf("%s: a wrong published value: %s, %s\n%s", name, r.Outcome, f.Verdict, notes(f))
		}
	}
	// Without the machine the value is copied, as it was.
	r := ran(t, demoFolder(t, nil), strings.Replace(config, "metal-qemu-tdx-gpu:", "elsewhere:", 1))
	if f := one(t, r, key); f.Standing.String() != "copied" {
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
		"no descriptor": {map[string]string{"vm/OVMF.fd": strings.Repeat("x", 8192)}, vm(""), "vm/OVMF.fd"},
		"no file":       {nil, strings.Replace(vm(""), "vm/bzImage", "vm/bzimage", 1), "vm/bzimage"},
		"a folder":      {nil, strings.Replace(vm(""), "vm/rootfs.img", "vm", 1), "a folder"},
		"short kernel":  {map[string]string{"vm/bzImage": "MZ"}, vm(""), "vm/bzImage: kernel: 2 bytes"},
		"bad registry":  {map[string]string{"vm/tdx.csv": "a,b\n"}, vm("registry: vm/tdx.csv\n"), "vm/tdx.csv"},
	} {
		_, err := pipeline.Run(context.Background(), pipeline.Table(), configured(t, tc.config), pipeline.Options{Root: demoFolder(t, tc.changes)})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestTDXMetadata takes a machine from tdx-measure's file.
func TestTDXMetadata(t *testing.T) {
	meta := `{"boot_config":{"cpus":2,"memory":"4G","bios":"OVMF.fd"},"direct":{"kernel":"bzImage","initrd":"initrd.cpio","cmdline":"console=ttyS0 loglevel=7 initrd=initrd"}}`
	dir := demoFolder(t, map[string]string{"vm/metadata.json": meta})
	config := "version: 1\nplatforms:\n  harbor-vm: {tee: tdx, profile: secretvm, metadata: vm/metadata.json}\n"
	got, want := ran(t, dir, config), ran(t, dir, vm(""))
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2"} {
		k := pipeline.NewKey("tdx", "harbor-vm", name)
		if a, b := measured(got, k), measured(want, k); a == nil || !a.Value.Equal(b.Value) {
			t.Errorf("%s: %v, want %s", name, a, b.Value)
		}
	}
	if measured(got, "tdx/harbor-vm/rtmr3") != nil {
		t.Error("RTMR3 without compose file and root file system")
	}
}
