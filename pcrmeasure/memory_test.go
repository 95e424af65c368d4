package pcrmeasure_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
)

// TestMemoryPCR4 predicts PCR 4, 9 and 11 of an image of 100 MB, with firmware
// and variables where they are installed, in 64 MiB.
func TestMemoryPCR4(t *testing.T) {
	testenv.OwnMemory(t)
	name := filepath.Join(t.TempDir(), "uki")
	if err := os.WriteFile(name, bigUKI(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	art := pcrmeasure.Artifacts{UKI: pcrmeasure.Input{Name: "uki", R: f, Size: info.Size()}}
	if fw, err := os.Open("/usr/share/OVMF/OVMF_CODE_4M.fd"); err == nil {
		defer fw.Close()
		if info, err := fw.Stat(); err == nil {
			art.Firmware = pcrmeasure.Input{Name: "firmware", R: fw, Size: info.Size()}
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p, err := pcrmeasure.New(art).Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.UKIDirect, Cmdline: "quiet", Memory: 1 << 30, VCPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if p.PCRs[4] == nil || p.PCRs[9] == nil || p.PCRs[11] == nil {
		t.Fatalf("missing: %v", p.Missing)
	}
	// All that was ever allocated: more than was ever held.
	if total := after.TotalAlloc - before.TotalAlloc; total > 64<<20 {
		t.Errorf("%d MiB allocated, want at most 64", total>>20)
	} else {
		t.Logf("%d KiB allocated", total>>10)
	}
}
