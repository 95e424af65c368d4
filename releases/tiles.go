package releases

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// width is how many hashes a tile has, and entries a bundle (C2SP tlog-tiles,
// "Merkle Tree" and "Log entries").
const width = 256

// levels is log2 of width: how many levels of the tree a tile spans.
const levels = 8

// number writes an index in path elements of three digits, all but the last
// with an x (C2SP tlog-tiles).
func number(n uint64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	return s
}

// partial adds what the name of an incomplete tile has, with its width.
func partial(path string, w uint64) string {
	if w == width {
		return path
	}
	return fmt.Sprintf("%s.p/%d", path, w)
}

func tilePath(level int, n, w uint64) string {
	return partial(fmt.Sprintf("tile/%d/%s", level, number(n)), w)
}

func bundlePath(n, w uint64) string { return partial("tile/entries/"+number(n), w) }

// bundle writes entries, each behind its length of 16 bits.
func bundle(entries [][]byte) []byte {
	var b []byte
	for _, e := range entries {
		b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
		b = append(b, e...)
	}
	return b
}

// parseBundle reads a bundle. What is behind the last whole entry is an error,
// and so are more entries than a bundle has.
func parseBundle(b []byte) (entries [][]byte, err error) {
	for len(b) > 0 {
		if len(b) < 2 {
			return entries, fmt.Errorf("ends within the length of entry %d", len(entries))
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > len(b)-2 {
			return entries, fmt.Errorf("entry %d has %d bytes, and %d are left", len(entries), n, len(b)-2)
		}
		if len(entries) == width {
			return entries, fmt.Errorf("has more than %d entries", width)
		}
		entries = append(entries, b[2:2+n])
		b = b[2+n:]
	}
	return entries, nil
}

// tree has every node of a Merkle tree whose leaves below are all there: nodes
// of level k by index.
type tree struct {
	nodes [][][]byte
}

func newTree(leaves [][]byte) *tree {
	t := &tree{nodes: [][][]byte{leaves}}
	for below := leaves; len(below) > 1; {
		var level [][]byte
		for i := 0; i+1 < len(below); i += 2 {
			level = append(level, rfc6962.DefaultHasher.HashChildren(below[i], below[i+1]))
		}
		t.nodes = append(t.nodes, level)
		below = level
	}
	return t
}

// root is the hash of the tree of the first size leaves.
func (t *tree) root(size uint64) ([]byte, error) {
	if size == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	ids := compact.RangeNodes(0, size, nil)
	hashes, err := t.get(ids)
	if err != nil {
		return nil, err
	}
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r, err := f.NewRange(0, size, hashes)
	if err != nil {
		return nil, err
	}
	return r.GetRootHash(nil)
}

// get looks nodes up.
func (t *tree) get(ids []compact.NodeID) ([][]byte, error) {
	var out [][]byte
	for _, id := range ids {
		if id.Level >= uint(len(t.nodes)) || id.Index >= uint64(len(t.nodes[id.Level])) {
			return nil, fmt.Errorf("the tree has no node %d on level %d", id.Index, id.Level)
		}
		out = append(out, t.nodes[id.Level][id.Index])
	}
	return out, nil
}

// tileFile is a tile with its place in the tree.
type tileFile struct {
	level int
	n     uint64
	w     uint64 // hashes in it
	data  []byte
}

// tiles gives every tile of a list: those of a complete width, and the last
// ones.
func (t *tree) tiles() (out []tileFile) {
	for level := 0; level*levels < len(t.nodes); level++ {
		hashes := t.nodes[level*levels]
		for n := 0; n*width < len(hashes); n++ {
			part := hashes[n*width : min((n+1)*width, len(hashes))]
			out = append(out, tileFile{level, uint64(n), uint64(len(part)), bytes.Join(part, nil)})
		}
	}
	return out
}
