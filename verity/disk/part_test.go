package disk_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/verity/disk"
)

// Parts of a directory, read each by itself, give the roots that one pass gives,
// of both releases.
func TestPartsGiveTheRoot(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	for name, size := range map[string]int{"model-1.safetensors": 5<<20 + 77, "model-2.safetensors": 3 << 20, "sub/config.json": 900, "sub/tokenizer.json": 70_000, "empty": 0} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := disk.Measure(context.Background(), disk.Options{Dir: dir, RootOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := disk.OpenLayout(disk.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	planned, err := l.Planned()
	if err != nil || planned.HashOffset != want.HashOffset {
		t.Fatalf("got %+v, %v", planned, err)
	}
	params, blocks := disk.Params(want.HashOffset), uint64(want.Blocks)
	for level := range 3 {
		unit, err := params.SubtreeBlocks(level)
		if err != nil {
			t.Fatal(err)
		}
		step := int64(unit) * 4096
		if level == 0 {
			step *= 500 // 250 reads of a block each would tell no more
		}
		var sums []byte
		var other []byte
		for off := int64(0); off < want.HashOffset; off += step {
			part, err := l.Part(context.Background(), off, min(step, want.HashOffset-off), level)
			if err != nil {
				t.Fatal(err)
			}
			if (len(part.Others) > 0) != (off == 0) {
				t.Errorf("part at %d has %d others", off, len(part.Others))
			}
			for _, d := range part.Others {
				other = d.Bytes()
			}
			sums = append(sums, part.Sums...)
		}
		got, err := params.RootOfSubtrees(level, sums, blocks)
		if err != nil || got != want.RootHash.Digest {
			t.Errorf("level %d: got %s, %v, want %s", level, got, err, want.RootHash)
		}
		copy(sums, other)
		got, err = params.RootOfSubtrees(level, sums, blocks)
		if err != nil || got != want.Others[0].RootHash.Digest {
			t.Errorf("level %d, other release: got %s, %v, want %s", level, got, err, want.Others[0].RootHash)
		}
	}
	for _, bad := range [][3]int64{{4096, 524288, 1}, {0, 4096, 1}, {0, want.HashOffset + 4096, 0}, {0, 0, 0}, {-524288, 524288, 1}, {0, 524288, 9}} {
		if _, err := l.Part(context.Background(), bad[0], bad[1], int(bad[2])); err == nil {
			t.Errorf("part %v was read", bad)
		}
	}
}

// The identity of a part changes with names, sizes, times and edges of its
// files; that of another part does not. What it does not see is said.
func TestPartIdentity(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	data := make([]byte, 100_000)
	write := func() {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	identity := func(keepTime bool) string {
		if keepTime {
			if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
		}
		l, err := disk.OpenLayout(disk.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		id, names, n, err := l.Identity(0, 1<<40)
		if err != nil || n != 1 || names[0] != "a" {
			t.Fatalf("got %v, %d, %v", names, n, err)
		}
		return id.String()
	}
	was := identity(true)
	for at, seen := range map[int]bool{0: true, 4095: true, 50_000: false, 99_999: true} {
		data[at] ^= 1
		write()
		if got := identity(true) != was; got != seen {
			t.Errorf("a change at byte %d: seen %v, want %v", at, got, seen)
		}
		data[at] ^= 1
		write()
	}
	if identity(true) != was {
		t.Error("the same file has another identity")
	}
	later := info.ModTime().Add(1)
	if err := os.Chtimes(file, later, later); err != nil {
		t.Fatal(err)
	}
	if identity(false) == was {
		t.Error("another time has the same identity")
	}
}
