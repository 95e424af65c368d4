package verity_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
)

// A superblock that parses is written back with the same meaning, and a
// hostile one neither panics nor makes verify read without end.
func FuzzSuperblock(f *testing.F) {
	p := verity.Defaults()
	p.Salt = []byte{0}
	f.Add(p.AppendSuperblock(nil, 256), []byte("data"))
	p.HashType, p.Hash, p.DataBlockSize = 0, digest.SHA512, 512
	f.Add(p.AppendSuperblock(nil, 1<<40), make([]byte, 5000))
	f.Fuzz(func(t *testing.T, sb, data []byte) {
		p, err := verity.ParseSuperblock(sb, 0)
		if err != nil {
			var at *verity.SuperblockError
			if !errors.As(err, &at) || at.Offset < 0 || at.Offset > verity.SuperblockSize {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		again, err := verity.ParseSuperblock(p.AppendSuperblock(nil, p.DataBlocks), 0)
		if err != nil {
			t.Fatalf("own superblock is refused: %v", err)
		}
		if !bytes.Equal(again.AppendSuperblock(nil, again.DataBlocks), p.AppendSuperblock(nil, p.DataBlocks)) {
			t.Fatal("superblock changes when written again")
		}
		root, _ := digest.FromBytes(p.Hash, make([]byte, p.Hash.Size()))
		v, err := verity.Verify(context.Background(), bytes.NewReader(data), bytes.NewReader(sb), int64(len(sb)), p, root, verity.VerifyOptions{})
		if err == nil && v.OK() {
			t.Fatal("an all-zero root hash verifies")
		}
	})
}
