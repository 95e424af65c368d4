package verity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
)

// naiveRoot is the tree as the format's description says it, level by level,
// with nothing shared with the package.
func naiveRoot(p verity.Params, leaves [][]byte) []byte {
	size := p.Hash.Size()
	per := 2
	for per*2*size <= p.HashBlockSize {
		per *= 2
	}
	slot := size
	for p.HashType == 1 && slot&(slot-1) != 0 {
		slot++
	}
	for len(leaves) > 1 {
		var next [][]byte
		for group := range slices.Chunk(leaves, per) {
			block := make([]byte, p.HashBlockSize)
			for i, d := range group {
				copy(block[i*slot:], d)
			}
			next = append(next, naiveDigest(p, block))
		}
		leaves = next
	}
	return leaves[0]
}

func naiveDigest(p verity.Params, block []byte) []byte {
	h := p.Hash.New()
	if p.HashType == 1 {
		h.Write(p.Salt)
	}
	h.Write(block)
	if p.HashType == 0 {
		h.Write(p.Salt)
	}
	return h.Sum(nil)
}

func drawParams(t *rapid.T) verity.Params {
	sizes := rapid.SampledFrom([]int{512, 1024, 4096})
	return verity.Params{
		HashType:      rapid.Uint32Range(0, 1).Draw(t, "type"),
		Hash:          rapid.SampledFrom([]digest.Algorithm{digest.SHA1, digest.SHA224, digest.SHA256, digest.SHA384, digest.SHA512}).Draw(t, "hash"),
		DataBlockSize: sizes.Draw(t, "data block size"),
		HashBlockSize: sizes.Draw(t, "hash block size"),
		Salt:          rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "salt"),
	}
}

// Any shard split of the leaves, merged in any order of neighbors, gives the
// same root.
func TestFoldAnyShards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		p.HashBlockSize = 512 // deep trees
		n := rapid.IntRange(1, 3000).Draw(t, "leaves")
		seed := rapid.Byte().Draw(t, "seed")
		leaves := make([][]byte, n)
		for i := range leaves {
			sum := p.Hash.Sum([]byte{seed, byte(i), byte(i >> 8)})
			leaves[i] = sum.Bytes()
		}
		want := naiveRoot(p, leaves)

		var folds []*verity.Fold
		for at := 0; at < n; {
			to := min(n, at+rapid.IntRange(1, max(1, n/2)).Draw(t, "shard"))
			f, err := p.NewFold(uint64(at), nil)
			if err != nil {
				t.Fatal(err)
			}
			for at < to {
				next := min(to, at+rapid.IntRange(1, 300).Draw(t, "chunk"))
				if err := f.Add(bytes.Join(leaves[at:next], nil)); err != nil {
					t.Fatal(err)
				}
				at = next
			}
			folds = append(folds, f)
		}
		for len(folds) > 1 {
			i := rapid.IntRange(0, len(folds)-2).Draw(t, "merge")
			if err := folds[i].Merge(folds[i+1]); err != nil {
				t.Fatal(err)
			}
			folds = slices.Delete(folds, i+1, i+2)
		}
		got, err := folds[0].Root()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("got root %x, want %x", got.Bytes(), want)
		}
	})
}

// Any parameters, chunk size and number of workers give the root of the
// format's description, and every hash block goes to the sink exactly once.
func TestRootAnyParallelism(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		blocks := rapid.IntRange(1, 200).Draw(t, "blocks")
		data := make([]byte, blocks*p.DataBlockSize+rapid.IntRange(0, p.DataBlockSize-1).Draw(t, "partial"))
		x := sha256.Sum256([]byte{byte(blocks)})
		for i := range data {
			data[i] = x[i%32] ^ byte(i>>9)
		}
		var leaves [][]byte
		for i := range blocks {
			leaves = append(leaves, naiveDigest(p, data[i*p.DataBlockSize:][:p.DataBlockSize]))
		}
		seen := map[[2]uint64]bool{}
		o := verity.Options{Workers: rapid.IntRange(1, 5).Draw(t, "workers"), ChunkSize: 1 << rapid.IntRange(9, 16).Draw(t, "chunk")}
		res, err := verity.RootOf(context.Background(), bytes.NewReader(data), int64(len(data)), p, o, func(level int, index uint64, _ []byte) error {
			at := [2]uint64{uint64(level), index}
			if seen[at] {
				t.Fatalf("hash block %v twice", at)
			}
			seen[at] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := naiveRoot(p, leaves); !bytes.Equal(res.Root.Bytes(), want) {
			t.Fatalf("got root %x, want %x", res.Root.Bytes(), want)
		}
		if uint64(len(seen)) != res.Layout.HashBlocks {
			t.Fatalf("got %d hash blocks, want %d", len(seen), res.Layout.HashBlocks)
		}
	})
}

func TestMergeRefusesGap(t *testing.T) {
	p := verity.Defaults()
	a, _ := p.NewFold(0, nil)
	b, _ := p.NewFold(1, nil)
	if err := a.Merge(b); err == nil {
		t.Error("got no error for a run that begins behind a gap")
	}
	if _, err := a.Root(); err == nil {
		t.Error("got a root of no blocks")
	}
	if err := a.Add(make([]byte, 33)); err == nil {
		t.Error("got no error for part of a digest")
	}
}

// Keeping the state and restoring it changes nothing; a damaged state is
// refused.
func TestFoldState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		p.HashBlockSize = 512
		n := rapid.IntRange(1, 2000).Draw(t, "leaves")
		cut := rapid.IntRange(0, n).Draw(t, "cut")
		leaves := make([]byte, n*p.Hash.Size())
		for i := range leaves {
			leaves[i] = byte(i * i >> 3)
		}
		whole, _ := p.NewFold(0, nil)
		half, _ := p.NewFold(0, nil)
		for _, err := range []error{whole.Add(leaves), half.Add(leaves[:cut*p.Hash.Size()])} {
			if err != nil {
				t.Fatal(err)
			}
		}
		state, err := half.State()
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.Restore(state, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Add(leaves[cut*p.Hash.Size():]); err != nil {
			t.Fatal(err)
		}
		got, _ := again.Root()
		want, _ := whole.Root()
		if got != want || want.IsZero() {
			t.Fatalf("got root %v, want %v", got, want)
		}
		state.Blocks++
		if _, err := p.Restore(state, nil); err == nil {
			t.Fatal("a state with a wrong number of blocks is accepted")
		}
	})
}
