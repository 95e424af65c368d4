package stages_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/pipeline/stages/nix"
)

// machine writes a build folder of a SecretVM as Yocto deploys it: with names
// that hold the build's time, and links to them.
func machine(t *testing.T, stamp string, change map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{
		"ovmf.fd": testtdx.Firmware(), "bzImage-" + stamp + ".bin": testtdx.Kernel(), "initramfs-" + stamp + ".cpio": []byte("070701" + strings.Repeat("0", 104)),
		"rootfs-" + stamp + ".iso": []byte("root file system"), "cmdline": []byte("console=ttyS0\n"), "image.manifest": []byte("busybox 1.36\n"),
	}
	for name, data := range change {
		if _, ok := files[name]; !ok {
			t.Fatalf("no file %s", name)
		}
		files[name] = data
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bzImage-"+stamp+".bin", filepath.Join(dir, "bzImage")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sums(t *testing.T, dir, form string, names ...string) {
	t.Helper()
	var text strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		if form == "bsd" {
			fmt.Fprintf(&text, "SHA256 (%s) = %s\n", name, sum)
		} else {
			fmt.Fprintf(&text, "%s  ./%s\n", sum, name)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func judged(t *testing.T, a, b string) (*nix.Differences, *pipeline.Report) {
	t.Helper()
	d, out, err := stages.CompareMachines(context.Background(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	rep := run.NewReport(pipeline.Tool{}, "x")
	run.Judge(rep, pipeline.Case{}, out)
	return d, rep
}

// TestChangedArtifact: of two builds one artifact is another: it is named, with
// the registers that it alone moves.
func TestChangedArtifact(t *testing.T) {
	firmware, kernel := testtdx.Firmware(), testtdx.Kernel()
	// A byte of the firmware's code, and one behind the kernel's header.
	code := bytes.Clone(firmware)
	code[len(code)-0x4000] ^= 1
	kernel[len(kernel)-1] ^= 1
	for _, tt := range []struct {
		file, role, moves string
		data              []byte
	}{
		{"ovmf.fd", "firmware", "mrtd", code},
		{"bzImage-1.bin", "kernel", "rtmr1", kernel},
		{"initramfs-1.cpio", "initrd", "rtmr2", []byte("070701" + strings.Repeat("1", 104))},
		{"cmdline", "cmdline", "rtmr2", []byte("console=ttyS0 debug\n")},
		{"rootfs-1.iso", "rootfs", "rtmr3", []byte("another root file system")},
	} {
		here, there := machine(t, "1", map[string][]byte{tt.file: tt.data}), machine(t, "2", nil)
		d, rep := judged(t, here, there)
		if rep.Outcome != pipeline.OutcomeDiffers {
			t.Errorf("%s: %s", tt.role, rep.Outcome)
		}
		for _, a := range d.Changed {
			var moves []string
			for _, m := range a.Moves {
				if m.A == "" || m.A == m.B {
					t.Errorf("%s: %s was not computed: %s", tt.role, m.Register, a.Note)
				}
				moves = append(moves, m.Register)
			}
			if changed := a.A != a.B; changed != (a.Role == tt.role) || changed && strings.Join(moves, ",") != tt.moves {
				t.Errorf("%s changed: %s %s, moves %v, want %s: %s", tt.role, a.Role, a.Name, moves, tt.moves, a.Note)
			}
		}
		for _, f := range rep.Findings {
			if f.Verdict == pipeline.Differs && (len(f.Why) != 1 || f.Why[0].Standing != pipeline.Proved || !strings.Contains(f.Why[0].Note, tt.moves)) {
				t.Errorf("%s: %+v", tt.role, f.Why)
			}
		}
		// A list of checksums alone says which, and into what it is measured.
		sums(t, there, "gnu", "ovmf.fd", "bzImage-2.bin", "cmdline")
		if tt.file != "ovmf.fd" {
			continue
		}
		d, rep = judged(t, here, filepath.Join(there, "SHA256SUMS"))
		if rep.Outcome != pipeline.OutcomeDiffers || len(d.Changed) == 0 {
			t.Fatalf("by a list: %s %+v", rep.Outcome, d.Changed)
		}
		for _, a := range d.Changed {
			if a.Role == "firmware" && (len(a.Moves) != 2 || a.Moves[0].Register != "mrtd") {
				t.Errorf("by a list: %+v", a)
			}
		}
	}
}

func TestEqualMachines(t *testing.T) {
	a, b := machine(t, "1", nil), machine(t, "2", nil)
	if _, rep := judged(t, a, b); rep.Outcome != pipeline.OutcomeMatch || len(rep.Findings) != 5 {
		t.Errorf("%s %+v", rep.Outcome, rep.Findings)
	}
	// Against a whole list, in both its forms; a file that the build lacks is
	// unchecked, and never a match.
	for _, form := range []string{"gnu", "bsd"} {
		sums(t, b, form, "ovmf.fd", "cmdline", "image.manifest")
		if _, rep := judged(t, a, filepath.Join(b, "SHA256SUMS")); rep.Outcome != pipeline.OutcomeUnchecked {
			// kernel, initrd and rootfs are not in the list
			t.Errorf("%s: %s %+v", form, rep.Outcome, rep.Findings)
		}
	}
	sums(t, b, "gnu", "ovmf.fd", "bzImage-2.bin")
	if _, rep := judged(t, a, filepath.Join(b, "SHA256SUMS")); rep.Outcome == pipeline.OutcomeMatch {
		t.Error("a file that the build lacks passes")
	}
}

// TestReleaseFolder: a release whose files are not those that its list names.
func TestReleaseFolder(t *testing.T) {
	a, b := machine(t, "1", nil), machine(t, "1", nil)
	sums(t, b, "gnu", "ovmf.fd", "bzImage-1.bin", "image.manifest", "rootfs-1.iso")
	if _, rep := judged(t, a, b); rep.Outcome != pipeline.OutcomeMatch {
		t.Fatalf("%s %+v %+v", rep.Outcome, rep.Findings, rep.Problems)
	}
	if err := os.WriteFile(filepath.Join(b, "image.manifest"), []byte("busybox 1.37\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, rep := judged(t, a, b)
	found := false
	for _, p := range rep.Problems {
		found = found || p.Code == "checksum-differs" && p.Where.Line == 3 && p.Level == pipeline.LevelError
	}
	if !found || rep.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("%s %+v", rep.Outcome, rep.Problems)
	}
	// Two kernels: which one boots is not guessed.
	c := machine(t, "1", nil)
	if err := os.WriteFile(filepath.Join(c, "vmlinuz"), testtdx.Kernel(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, rep := judged(t, c, machine(t, "1", nil)); rep.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("two kernels: %s", rep.Outcome)
	}
}
