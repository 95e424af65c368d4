package tarproof

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"strconv"
	"strings"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

// Sparse members store a file without its holes, in four ways: the old GNU header
// (type S) and the pax formats 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse
// Files"). What they unpack to is compared where all readers agree on it; a map
// that is in any way unusual leaves it unknown.

const (
	// maxSparse bounds the segments of one member.
	maxSparse = 1 << 17
	// maxHoles bounds the zeros that are hashed for one archive's holes, in bytes.
	maxHoles = 4 << 30
)

// segment is a piece of a sparse file that is stored.
type segment struct{ at, size int64 }

// expander hashes what a sparse member unpacks to.
type expander struct {
	h      hash.Hash
	segs   []segment
	real   int64 // size of the unpacked file
	stored int64 // bytes of content that are left, the map of format 1.0 apart
	pos    int64 // in the unpacked file
	used   int64 // of the current segment
	holes  *int64
	bad    bool

	inData bool // format 1.0: the map stands before the content
	head   []byte
	whole  int64 // bytes of the member's content
}

// newExpander returns nil for a member that is stored as it is, and one that is
// bad for a member whose holes are not understood.
func newExpander(h *rawtar.Header, holes *int64) *expander {
	x := &expander{h: sha256.New(), holes: holes, stored: h.Size, whole: h.Size}
	records := map[string]string{}
	var offsets []string // format 0.0 repeats its keys
	for _, r := range h.Records {
		if !strings.HasPrefix(r.Key, "GNU.sparse.") {
			continue
		}
		switch r.Key {
		case "GNU.sparse.offset", "GNU.sparse.numbytes":
			if (len(offsets)%2 == 0) != (r.Key == "GNU.sparse.offset") {
				x.bad = true
			}
			offsets = append(offsets, r.Value)
			continue
		}
		if _, twice := records[r.Key]; twice {
			x.bad = true
		}
		records[r.Key] = r.Value
	}
	marked := len(records) > 0 || len(offsets) > 0
	switch {
	case h.Type == 'S':
		x.bad = x.bad || marked
		x.oldGNU(h)
	case !marked:
		return nil
	case h.Type != '0':
		x.bad = true
	default:
		x.pax(records, offsets)
	}
	if !x.bad && !x.inData {
		x.check()
	}
	return x
}

// oldGNU reads the map of a header of type S and the blocks behind it.
func (x *expander) oldGNU(h *rawtar.Header) {
	var ok bool
	if x.real, ok = size(h.Raw[483:495]); !ok {
		x.bad = true
		return
	}
	entries := [][]byte{h.Raw[386:482]}
	for rest := h.Sparse; len(rest) >= rawtar.BlockSize; rest = rest[rawtar.BlockSize:] {
		entries = append(entries, rest[:504])
	}
	end := false
	for _, list := range entries {
		for ; len(list) >= 24; list = list[24:] {
			if list[0] == 0 {
				end = true
				continue
			}
			at, ok := size(list[:12])
			n, ok2 := size(list[12:24])
			if !ok || !ok2 || end || len(x.segs) >= maxSparse {
				x.bad = true
				return
			}
			x.segs = append(x.segs, segment{at, n})
		}
	}
}

// size reads a number field that is no less than zero.
func size(field []byte) (int64, bool) {
	n, err := rawtar.Number(field)
	return n, err == nil && n >= 0
}

// pax reads the records of formats 0.0, 0.1 and 1.0.
func (x *expander) pax(records map[string]string, offsets []string) {
	major, minor := records["GNU.sparse.major"], records["GNU.sparse.minor"]
	list, mapped := records["GNU.sparse.map"]
	realSize := "GNU.sparse.size"
	switch {
	case major == "1" && minor == "0" && !mapped && len(offsets) == 0:
		x.inData = true
		realSize = "GNU.sparse.realsize"
	case (major == "" && minor == "" || major == "0" && (minor == "0" || minor == "1")) && mapped != (len(offsets) > 0):
		if mapped {
			offsets = strings.Split(list, ",")
		}
		if n, ok := number(records["GNU.sparse.numblocks"]); !ok || n != int64(len(offsets)/2) {
			x.bad = true
		}
	default:
		x.bad = true
	}
	var ok bool
	if x.real, ok = number(records[realSize]); !ok || len(offsets)%2 != 0 || len(offsets)/2 > maxSparse {
		x.bad = true
	}
	if x.bad {
		return
	}
	for ; len(offsets) > 0; offsets = offsets[2:] {
		x.segment(offsets[0], offsets[1])
	}
}

func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && (s == "0" || s[0] != '0') && s[0] != '+'
}

func (x *expander) segment(at, size string) {
	a, ok := number(at)
	n, ok2 := number(size)
	if x.bad = x.bad || !ok || !ok2; !x.bad {
		x.segs = append(x.segs, segment{a, n})
	}
}

// check holds the map against the sizes: pieces in order, inside the file, and all
// of the content.
func (x *expander) check() {
	end, sum := int64(0), int64(0)
	for _, s := range x.segs {
		if s.at < end || s.size > x.real || s.at > x.real-s.size {
			x.bad = true
			return
		}
		end = s.at + s.size
		sum += s.size // at most x.real: the pieces do not overlap
	}
	if sum != x.stored {
		x.bad = true
		return
	}
	if *x.holes -= x.real - sum; *x.holes < 0 {
		x.bad = true
		*x.holes = 0 // one large file does not speak for the others
	}
}

// write takes the member's content.
func (x *expander) write(p []byte) {
	if x.inData && !x.bad {
		x.head = append(x.head, p...)
		p = x.mapInData()
	}
	for !x.bad && len(p) > 0 {
		for len(x.segs) > 0 && x.used == x.segs[0].size {
			x.segs, x.used = x.segs[1:], 0
		}
		if len(x.segs) == 0 {
			x.bad = true
			return
		}
		x.zeros(x.segs[0].at + x.used)
		n := min(int64(len(p)), x.segs[0].size-x.used)
		x.h.Write(p[:n])
		x.pos, x.used, p = x.pos+n, x.used+n, p[n:]
	}
}

// mapInData reads the map of format 1.0 once it is there, and returns the content
// that came with it.
func (x *expander) mapInData() []byte {
	rest, n, count := x.head, int64(0), int64(-1)
	var words []string
	for count < 0 || int64(len(words)) < 2*count {
		line, tail, ok := bytes.Cut(rest, []byte{'\n'})
		if !ok {
			if len(x.head) > 1<<20 || int64(len(x.head)) >= x.whole {
				x.bad = true
			}
			return nil
		}
		n += int64(len(line)) + 1
		if rest = tail; count < 0 {
			if count, ok = number(string(line)); !ok || count > maxSparse {
				x.bad = true
				return nil
			}
			continue
		}
		words = append(words, string(line))
	}
	n = padded(n)
	if int64(len(x.head)) < n {
		return nil // the rest of the block is still to come
	}
	content := x.head[n:]
	x.inData, x.head, x.stored = false, nil, x.whole-n
	for ; len(words) > 0 && !x.bad; words = words[2:] {
		x.segment(words[0], words[1])
	}
	if !x.bad {
		x.check()
	}
	return content
}

// zeros hashes a hole up to an offset.
func (x *expander) zeros(to int64) {
	var block [32 << 10]byte
	for x.pos < to {
		n := min(to-x.pos, int64(len(block)))
		x.h.Write(block[:n])
		x.pos += n
	}
}

// result is what the member unpacks to, nil if that is not known.
func (x *expander) result() *proof.Content {
	if x.bad || x.inData {
		return nil
	}
	for _, s := range x.segs {
		if s.size > x.used {
			return nil
		}
		x.used = 0
	}
	x.zeros(x.real)
	c := &proof.Content{Size: x.real}
	x.h.Sum(c.Sum[:0])
	return c
}
