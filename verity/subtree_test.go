package verity_test

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/retally/retally/verity"
)

// leaves makes the digests of n blocks that nobody reads.
func leaves(n int) []byte {
	out := make([]byte, 0, n*32)
	var b [8]byte
	for i := range n {
		binary.LittleEndian.PutUint64(b[:], uint64(i))
		sum := sha256.Sum256(b[:])
		out = append(out, sum[:]...)
	}
	return out
}

// Whatever the borders of the parts and the level, the root is that of the fold
// of all leaves.
func TestSubtreesGiveTheRoot(t *testing.T) {
	all := leaves(40_000)
	rapid.Check(t, func(t *rapid.T) {
		p := verity.Defaults()
		p.Salt = []byte{0}
		n := rapid.OneOf(rapid.IntRange(1, 40_000), rapid.SampledFrom([]int{1, 2, 127, 128, 129, 16383, 16384, 16385})).Draw(t, "blocks")
		f, err := p.NewFold(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Add(all[:n*32]); err != nil {
			t.Fatal(err)
		}
		want, err := f.Root()
		if err != nil {
			t.Fatal(err)
		}
		layout, err := p.Layout(uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		level := rapid.IntRange(0, len(layout.Levels)).Draw(t, "level")
		unit, err := p.SubtreeBlocks(level)
		if err != nil {
			t.Fatal(err)
		}
		var sums []byte
		for at := 0; at < n; {
			end := min(n, at+int(unit)*rapid.IntRange(1, 5).Draw(t, "units"))
			s, err := p.NewSubtrees(level, nil)
			if err != nil {
				t.Fatal(err)
			}
			for at < end {
				k := min(end, at+rapid.IntRange(1, 3000).Draw(t, "add"))
				if err := s.Add(all[at*32 : k*32]); err != nil {
					t.Fatal(err)
				}
				at = k
			}
			part, err := s.Sums()
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, part...)
		}
		got, err := p.RootOfSubtrees(level, sums, uint64(n))
		if err != nil || got != want {
			t.Fatalf("%d blocks at level %d: got %s, %v, want %s", n, level, got, err, want)
		}
		if _, err := p.RootOfSubtrees(level, append(sums, sums[:32]...), uint64(n)); err == nil {
			t.Fatal("one digest more was taken")
		}
		if _, err := p.RootOfSubtrees(len(layout.Levels)+1, sums[:32], uint64(n)); err == nil {
			t.Fatal("a level above the root was taken")
		}
	})
}
