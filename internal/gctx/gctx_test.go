package gctx_test

import (
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/retally/retally/internal/gctx"
)

// TestUpdate writes PAGE_INFO out as the specification has it.
func TestUpdate(t *testing.T) {
	contents := sha512.Sum384([]byte("contents"))
	var s gctx.State
	s.Update(gctx.VMSA, &contents, gctx.VMSAAddress)
	info := slices.Concat(make([]byte, 48), contents[:], []byte{0x70, 0, 2, 0, 0, 0, 0, 0}, binary.LittleEndian.AppendUint64(nil, 0xfffffffff000))
	if len(info) != 112 {
		t.Fatalf("%d bytes", len(info))
	}
	if want := sha512.Sum384(info); s != want {
		t.Errorf("digest = %x, want %x", s, want)
	}
}

// TestData: a run of pages is what its pages are one after the other.
func TestData(t *testing.T) {
	for _, pages := range []int{0, 1, 2, 33} {
		data := make([]byte, pages*gctx.PageSize)
		for i := range data {
			data[i] = byte(i * 31 >> 3)
		}
		var all, single gctx.State
		all.Data(data, 0x1000)
		for i := range pages {
			sum := sha512.Sum384(data[i*gctx.PageSize : (i+1)*gctx.PageSize])
			single.Update(gctx.Normal, &sum, 0x1000+uint64(i)*gctx.PageSize)
		}
		if all != single {
			t.Errorf("%d pages: %x, want %x", pages, all, single)
		}
	}
}

// TestEmpty: pages without contents have zeros in place of their hash.
func TestEmpty(t *testing.T) {
	var a, b gctx.State
	a.Empty(gctx.Zero, 0x2000, 2)
	var none [48]byte
	b.Update(gctx.Zero, &none, 0x2000)
	b.Update(gctx.Zero, &none, 0x3000)
	if a != b || a == (gctx.State{}) {
		t.Errorf("digest = %x, want %x", a, b)
	}
}
