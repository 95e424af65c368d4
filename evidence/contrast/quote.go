package contrast

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/retally/retally/evidence/malformed"
)

// A part of a quote of version 4, in the order of its bytes: which field of
// which message of go-tdx-guest (proto/tdx.proto) it is.
type part struct {
	path []protowire.Number // the messages around the field, then the field
	size int                // of a number, or exactly of bytes; 0: bytes as they are
	list int                // of equal values that repeat, 0: one
}

func number(size int, path ...protowire.Number) part { return part{path: path, size: -size} }
func exactly(size int, path ...protowire.Number) part {
	return part{path: path, size: size}
}

// header, body and enclave report by their layout (Intel TDX DCAP Quoting Library
// API, quote format version 4).
func quoteHead() []part {
	parts := []part{number(2, 1, 1), number(2, 1, 2), number(4, 1, 3), exactly(2, 1, 4), exactly(2, 1, 5), exactly(16, 1, 6), exactly(20, 1, 7)}
	for i, size := range []int{16, 48, 48, 8, 8, 8, 48, 48, 48, 48} {
		parts = append(parts, exactly(size, 2, protowire.Number(1+i)))
	}
	return append(parts, part{path: []protowire.Number{2, 11}, size: 48, list: 4}, exactly(64, 2, 12))
}

func enclaveReport() []part {
	at := func(n protowire.Number) []protowire.Number { return []protowire.Number{4, 3, 3, 1, n} }
	var parts []part
	for i, size := range []int{16, -4, 28, 16, 32, 32, 32, 96, -2, -2, 60, 64} {
		parts = append(parts, part{path: at(protowire.Number(1 + i)), size: size})
	}
	return parts
}

// fields are the values of a protobuf message and of those inside it, by path.
type fields struct {
	name    string
	numbers map[string]uint64
	blobs   map[string][][]byte
	used    map[string]bool
}

// messages are the paths that hold a message.
func isMessage(path string) bool {
	switch path {
	case "/1", "/2", "/4", "/4/3", "/4/3/3", "/4/3/3/1", "/4/3/3/3", "/4/3/3/4":
		return true
	}
	return false
}

const rtmrs = "/2/11" // the one field that repeats

func (f *fields) fail(place, found, want string) error {
	return &malformed.Error{Input: f.name, Place: place, Found: found, Want: want}
}

func (f *fields) read(path string, data []byte) error {
	seen := map[protowire.Number]bool{}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return f.fail(path, protowire.ParseError(n).Error(), "a field")
		}
		data = data[n:]
		at := fmt.Sprintf("%s/%d", path, num)
		// The format lets the last one win, and two readers need not agree.
		if seen[num] && at != rtmrs {
			return f.fail(at, "a field a second time", "each field once")
		}
		seen[num] = true
		switch typ {
		case protowire.VarintType:
			f.numbers[at], n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			var b []byte
			b, n = protowire.ConsumeBytes(data)
			switch {
			case n < 0:
			case isMessage(at):
				if err := f.read(at, b); err != nil {
					return err
				}
				f.used[at] = true
			}
			f.blobs[at] = append(f.blobs[at], b)
		default:
			return f.fail(at, fmt.Sprintf("wire type %d", typ), "a number or bytes")
		}
		if n < 0 {
			return f.fail(at, protowire.ParseError(n).Error(), "a value")
		}
		data = data[n:]
	}
	return nil
}

func place(path []protowire.Number) string {
	out := ""
	for _, n := range path {
		out += fmt.Sprintf("/%d", n)
	}
	return out
}

// take appends the bytes of a part. A number that is absent is 0, as protobuf
// has it; bytes of a fixed size must be there.
func (f *fields) take(out []byte, p part) ([]byte, error) {
	at := place(p.path)
	f.used[at] = true
	if p.size < 0 {
		v, size := f.numbers[at], -p.size
		if v>>(8*size) != 0 || len(f.blobs[at]) > 0 {
			return nil, f.fail(at, fmt.Sprint(v), fmt.Sprintf("a number of %d bytes", size))
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		return append(out, b[:size]...), nil
	}
	all := f.blobs[at]
	if _, both := f.numbers[at]; both {
		return nil, f.fail(at, "a number", "bytes")
	}
	if want := max(p.list, 1); len(all) != want && !(p.size == 0 && len(all) == 0) {
		return nil, f.fail(at, fmt.Sprintf("%d values", len(all)), fmt.Sprint(want))
	}
	for _, b := range all {
		if p.size > 0 && len(b) != p.size {
			return nil, f.fail(at, fmt.Sprintf("%d bytes", len(b)), fmt.Sprint(p.size))
		}
		out = append(out, b...)
	}
	return out, nil
}

func (f *fields) all(out []byte, parts ...part) ([]byte, error) {
	for _, p := range parts {
		var err error
		if out, err = f.take(out, p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sized checks that a number is the length of bytes that are put together.
func (f *fields) sized(at string, got int) error {
	f.used[at] = true
	if n := f.numbers[at]; n != uint64(got) {
		return f.fail(at, fmt.Sprintf("a size of %d", n), fmt.Sprintf("%d, what there is", got))
	}
	return nil
}

// quoteOf puts a quote's bytes together from a QuoteV4 message of go-tdx-guest.
// extra is the length of what stood behind the quote, which nothing signs; newer
// releases put collateral there. It is left out: a verdict rests on collateral
// that the caller gives.
func quoteOf(name string, data []byte) (quote []byte, extra int, err error) {
	if len(data) > maxQuote {
		return nil, 0, &malformed.Error{Input: name, Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("a quote of at most %d", maxQuote)}
	}
	f := &fields{name: name, numbers: map[string]uint64{}, blobs: map[string][][]byte{}, used: map[string]bool{}}
	if err := f.read("", data); err != nil {
		return nil, 0, err
	}
	out, err := f.all(nil, quoteHead()...)
	if err != nil {
		return nil, 0, err
	}
	if v := f.numbers["/1/1"]; v != 4 {
		return nil, 0, f.fail("/1/1", fmt.Sprintf("version %d", v), "4")
	}
	chain, err := f.all(nil, part{path: []protowire.Number{4, 3, 3, 4, 3}})
	if err != nil {
		return nil, 0, err
	}
	auth, err := f.all(nil, part{path: []protowire.Number{4, 3, 3, 3, 2}})
	if err != nil {
		return nil, 0, err
	}
	inner, err := f.all(nil, append(enclaveReport(), exactly(64, 4, 3, 3, 2), number(2, 4, 3, 3, 3, 1))...)
	if err != nil {
		return nil, 0, err
	}
	inner = append(inner, auth...)
	if inner, err = f.all(inner, number(2, 4, 3, 3, 4, 1), number(4, 4, 3, 3, 4, 2)); err != nil {
		return nil, 0, err
	}
	inner = append(inner, chain...)
	signed, err := f.all(nil, exactly(64, 4, 1), exactly(64, 4, 2), number(2, 4, 3, 1), number(4, 4, 3, 2))
	if err != nil {
		return nil, 0, err
	}
	signed = append(signed, inner...)
	for _, s := range []struct {
		at  string
		got int
	}{{"/3", len(signed)}, {"/4/3/2", len(inner)}, {"/4/3/3/3/1", len(auth)}, {"/4/3/3/4/2", len(chain)}} {
		if err := f.sized(s.at, s.got); err != nil {
			return nil, 0, err
		}
	}
	if out, err = f.all(out, number(4, 3)); err != nil {
		return nil, 0, err
	}
	for _, b := range f.blobs["/5"] {
		extra += len(b)
	}
	f.used["/5"] = true
	for _, at := range slices.Concat(slices.Sorted(maps.Keys(f.numbers)), slices.Sorted(maps.Keys(f.blobs))) {
		if !f.used[at] {
			return nil, 0, f.fail(at, "an unknown field", "a QuoteV4 message of go-tdx-guest")
		}
	}
	return append(out, signed...), extra, nil
}
