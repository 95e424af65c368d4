package pcrmeasure_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pcrmeasure"
)

// counting counts the bytes that are read.
type counting struct {
	r io.ReaderAt
	n *atomic.Int64
}

func (c counting) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.r.ReadAt(p, at)
	c.n.Add(int64(n))
	return n, err
}

// TestMeasurerShares: many machines at once, by several goroutines, from one
// reading of what they share.
func TestMeasurerShares(t *testing.T) {
	img := pe([]string{".linux", ".cmdline", ".initrd"}, pe([]string{".text"}, make([]byte, 1<<20)), []byte("quiet"), make([]byte, 4<<20))
	var read atomic.Int64
	m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Input{Name: "uki", R: counting{bytes.NewReader(img), &read}, Size: int64(len(img))}, NoVariables: true})
	want := map[string]digest.Digest{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		for failed := range 4 {
			wg.Go(func() {
				p, err := m.Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.UKIDirect, FailedOptions: failed})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for _, i := range []int{4, 9, 11} {
					if p.PCRs[i] == nil {
						t.Errorf("PCR %d is missing: %s", i, p.Missing[i])
						continue
					}
					key := string(rune('a'+failed)) + string(rune('0'+i))
					if old, ok := want[key]; ok && old != p.PCRs[i].Value {
						t.Errorf("PCR %d = %s, and %s before", i, p.PCRs[i].Value, old)
					}
					want[key] = p.PCRs[i].Value
				}
			})
		}
	}
	wg.Wait()
	// Authenticode of the image and of its kernel, the sections for PCR 11, the
	// initrd for PCR 9.
	if most := int64(4 * len(img)); read.Load() > most {
		t.Errorf("%d bytes read for 16 machines, want at most %d", read.Load(), most)
	}
}

// TestErrors: what is wrong with an artifact is an error that names it, and the
// PCRs that do not depend on it come along.
func TestErrors(t *testing.T) {
	m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Bytes("broken.efi", []byte("MZ and nothing more that would make it an image of any kind, or long enough")), NoVariables: true})
	p, err := m.Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.UKIDirect})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("broken.efi")) {
		t.Errorf("%v, want an error that names broken.efi", err)
	}
	if p == nil || p.PCRs[2] == nil || p.PCRs[7] == nil || p.PCRs[4] != nil || p.Missing[4] == "" {
		t.Errorf("prediction %+v, want PCRs 2 and 7 without 4", p)
	}
	for name, c := range map[string]pcrmeasure.Machine{
		"no bank":        {Pattern: pcrmeasure.Direct},
		"no pattern":     {Bank: digest.SHA256},
		"order":          {Bank: digest.SHA256, Pattern: pcrmeasure.Direct, Order: "250"},
		"failed options": {Bank: digest.SHA256, Pattern: pcrmeasure.Direct, FailedOptions: -1},
		"vCPUs":          {Bank: digest.SHA256, Pattern: pcrmeasure.Direct, VCPUs: 1 << 20},
		"state":          {Bank: digest.SHA256, Pattern: pcrmeasure.Direct, SecureBoot: "yes"},
	} {
		if _, err := m.Predict(context.Background(), &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m = pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Bytes("uki", pe([]string{".linux"}, pe([]string{".text"}, []byte("k"))))})
	if _, err := m.Predict(ctx, &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.UKIDirect}); err != context.Canceled {
		t.Errorf("a canceled prediction ends in %v", err)
	}
}
