package bzimage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/bzimage"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

func header(protocol uint16, xloadflags uint16, initrdMax uint32) []byte {
	b := make([]byte, 0x1000)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], protocol)
	b[0x211] = 1
	binary.LittleEndian.PutUint16(b[0x236:], xloadflags)
	binary.LittleEndian.PutUint32(b[0x22c:], initrdMax)
	return b
}

func address(t *testing.T, raw []byte, l bzimage.Load) (uint32, bool) {
	t.Helper()
	h, err := bzimage.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	edits, err := h.Edits(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		if e.Offset == 0x218 {
			return binary.LittleEndian.Uint32(e.Bytes), true
		}
	}
	return 0, false
}

func TestInitrdAddress(t *testing.T) {
	for _, c := range []struct {
		protocol, flags uint16
		max             uint32
		below           uint64
		initrd          int64
		want            uint32
	}{
		{0x20f, 2, 0x7fffffff, 512 << 20, 785424, (512<<20 - 0x28000 - 1 - 785424) &^ 4095},
		{0x20f, 0, 0x7fffffff, 0xa0000000, 4096, (0x7fffffff - 4096) &^ 4095},    // without the flag the kernel's own limit holds
		{0x20f, 0x40, 0x7fffffff, 0xa0000000, 4096, (0x7fffffff - 4096) &^ 4095}, // bit 6 says something else
		{0x20f, 2, 0x7fffffff, 0xa0000000, 4096, 0xa0000000 - 0x28000 - 1 - 4096 - (0xa0000000-0x28000-1-4096)%4096},
		{0x202, 0, 0, 0xa0000000, 4096, (0x37ffffff - 4096) &^ 4095},
	} {
		if got, ok := address(t, header(c.protocol, c.flags, c.max), bzimage.Load{Initrd: c.initrd, Below4G: c.below}); !ok || got != c.want {
			t.Errorf("%+v: address %#x, want %#x", c, got, c.want)
		}
	}
}

func TestEditsRefuse(t *testing.T) {
	for name, l := range map[string]bzimage.Load{
		"no memory":     {Initrd: 1},
		"large initrd":  {Initrd: 1 << 30, Below4G: 512 << 20},
		"video mode":    {Cmdline: "vga=0b1", Below4G: 512 << 20},
		"negative size": {Initrd: 600 << 20, Below4G: 512 << 20},
	} {
		h, err := bzimage.Read(bytes.NewReader(header(0x20f, 2, 0)), 0x1000)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := h.Edits(l); err == nil {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestNoHeader(t *testing.T) {
	raw := make([]byte, 0x1000)
	h, err := bzimage.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := h.Edits(bzimage.Load{Initrd: 5, Below4G: 1 << 29}); err != nil || len(e) != 0 {
		t.Errorf("a file that is no bzImage is edited: %v %v", e, err)
	}
}

// TestVectorPatchedKernel compares with Authenticode digests that a TPM
// measured, at four sizes of memory.
func TestVectorPatchedKernel(t *testing.T) {
	raw, err := os.ReadFile(testenv.Vectors(t, "own/tpm/artifacts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(all["patched_kernel_authenticode_sha256"], &want); err != nil {
		t.Fatal(err)
	}
	const name = "vmlinuz-6.1.0-56-cloud-amd64"
	kernel, ok := testenv.DebFile(name, "51349501a3d1ff83836437d2b365fd2d57f2feb8642d315e5181dec23d4c3275")
	if !ok {
		t.Skipf("SKIP-VISIBLE vectors: needs %s, which is not installed (RETALLY_DEB_FILES lists folders)", name)
	}
	h, err := bzimage.Read(bytes.NewReader(kernel), int64(len(kernel)))
	if err != nil {
		t.Fatal(err)
	}
	for key, sum := range want {
		l := bzimage.Load{Below4G: 512 << 20}
		var mib uint64
		if strings.HasPrefix(key, "mem") {
			if _, err := fmt.Sscanf(key, "mem%dMiB,initrd%d", &mib, &l.Initrd); err != nil {
				t.Fatal(err)
			}
			if l.Below4G, err = bzimage.Below4G("q35", mib<<20); err != nil {
				t.Fatal(err)
			}
		}
		edits, err := h.Edits(l)
		if err != nil {
			t.Fatal(err)
		}
		got, err := authenticode.Digest(context.Background(), digest.SHA256, bzimage.Overlay(bytes.NewReader(kernel), edits), int64(len(kernel)), authenticode.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Hex() != sum {
			t.Errorf("%s: %s, want %s", key, got.Hex(), sum)
		}
	}
}

func FuzzEdits(f *testing.F) {
	f.Add(header(0x20f, 2, 0x7fffffff), int64(4096), uint64(1<<29), "vga=ask")
	f.Fuzz(func(t *testing.T, raw []byte, initrd int64, below uint64, cmdline string) {
		h, err := bzimage.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		edits, err := h.Edits(bzimage.Load{Cmdline: cmdline, Initrd: initrd, Below4G: below})
		if err != nil {
			return
		}
		out := make([]byte, len(raw))
		if _, err := bzimage.Overlay(bytes.NewReader(raw), edits).ReadAt(out, 0); err != nil && len(raw) > 0 {
			t.Fatal(err)
		}
	})
}
