package authenticode_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	uefi "github.com/foxboron/go-uefi/authenticode"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

func sum(t testing.TB, alg digest.Algorithm, data []byte, opt authenticode.Options) digest.Digest {
	t.Helper()
	d, err := authenticode.Digest(context.Background(), alg, bytes.NewReader(data), int64(len(data)), opt)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestVectors are small images; where pesign and sbsign differ in padding the
// digest without padding is wanted.
func TestVectors(t *testing.T) {
	dir := testenv.Vectors(t, "own/authenticode")
	var cases []struct {
		Name string
		Want map[string]string
	}
	data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		f, err := os.Open(filepath.Join(dir, c.Name+".efi.gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		image, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range c.Want {
			alg, err := digest.ParseAlgorithm(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := sum(t, alg, image, authenticode.Options{}).Hex(); got != want {
				t.Errorf("%s %s = %s, want %s", c.Name, name, got, want)
			}
		}
	}
	t.Logf("own/authenticode: %d images run", len(cases))
}

// image is a PE file for the tests.
type image struct {
	plus     bool
	sections [][2]uint32 // offset, size
	headers  uint32
	size     int
	cert     uint32 // at the end
	dirs     uint32
}

func (im image) bytes() []byte {
	b := make([]byte, im.size)
	for i := range b {
		b[i] = byte(i * 7)
	}
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44:], 0x8664)
	le.PutUint16(b[0x46:], uint16(len(im.sections)))
	le.PutUint32(b[0x4c:], 0) // no symbols
	le.PutUint32(b[0x50:], 0)
	opt, base := 0x58, 96
	if im.plus {
		base = 112
	}
	optSize := base + 8*int(im.dirs)
	le.PutUint16(b[0x54:], uint16(optSize))
	le.PutUint16(b[opt:], 0x10b)
	if im.plus {
		le.PutUint16(b[opt:], 0x20b)
	}
	le.PutUint32(b[opt+60:], im.headers)
	le.PutUint32(b[opt+base-4:], im.dirs)
	for i := range im.dirs {
		le.PutUint64(b[opt+base+8*int(i):], 0)
	}
	if im.dirs > 4 {
		le.PutUint32(b[opt+base+36:], im.cert)
		if im.cert > 0 {
			le.PutUint32(b[opt+base+32:], uint32(im.size)-im.cert)
		}
	}
	for i, s := range im.sections {
		h := b[opt+optSize+40*i:]
		clear(h[:40])
		copy(h, ".s")
		le.PutUint32(h[16:], s[1])
		le.PutUint32(h[20:], s[0])
	}
	return b
}

func goUEFI(data []byte, hash crypto.Hash) (out []byte) {
	defer func() {
		if recover() != nil {
			out = nil // the oracle panics on some inputs; nothing to compare
		}
	}()
	p, err := uefi.Parse(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	return p.Hash(hash)
}

// TestOracle compares with go-uefi on random images: signed and not, with
// tails, with gaps, of any length.
func TestOracle(t *testing.T) {
	compared := 0
	rapid.Check(t, func(t *rapid.T) {
		im := image{plus: rapid.Bool().Draw(t, "plus"), headers: 0x400, dirs: 16}
		at := uint32(0x400)
		for range rapid.IntRange(0, 6).Draw(t, "sections") {
			at += rapid.Uint32Range(0, 2).Draw(t, "gap") * 64
			n := rapid.Uint32Range(0, 700).Draw(t, "size")
			im.sections = append(im.sections, [2]uint32{at, n})
			at += n
		}
		tail := rapid.IntRange(0, 40).Draw(t, "tail")
		im.size = int(at) + tail
		if rapid.Bool().Draw(t, "signed") {
			im.size += (8 - im.size%8) % 8
			im.cert = 64
			im.size += 64
		}
		if rapid.Bool().Draw(t, "reversed") {
			for i, j := 0, len(im.sections)-1; i < j; i, j = i+1, j-1 {
				im.sections[i], im.sections[j] = im.sections[j], im.sections[i]
			}
		}
		data := im.bytes()
		if im.cert > 0 { // a certificate entry that the oracle can parse
			c := data[len(data)-64:]
			clear(c)
			binary.LittleEndian.PutUint32(c, 64)
			binary.LittleEndian.PutUint16(c[4:], 0x200)
			binary.LittleEndian.PutUint16(c[6:], 2)
		}
		want := goUEFI(data, crypto.SHA384)
		if want == nil {
			return
		}
		compared++
		got := sum2(t, data)
		if got != hex.EncodeToString(want) {
			t.Fatalf("digest = %s, go-uefi gives %x for %+v", got, want, im)
		}
	})
	if compared < 50 {
		t.Errorf("only %d images compared", compared)
	}
	t.Logf("%d images compared with go-uefi", compared)
}

func sum2(t *rapid.T, data []byte) string {
	d, err := authenticode.Digest(context.Background(), digest.SHA384, bytes.NewReader(data), int64(len(data)), authenticode.Options{PadTo8: true})
	if err != nil {
		t.Fatal(err)
	}
	return d.Hex()
}

func TestErrors(t *testing.T) {
	good := image{plus: true, headers: 0x400, dirs: 16, size: 0x800, sections: [][2]uint32{{0x400, 0x400}}}
	for name, c := range map[string]struct {
		edit func([]byte) []byte
		want string
	}{
		"empty":             {func([]byte) []byte { return nil }, "offset 0x0"},
		"no MZ":             {func(b []byte) []byte { b[0] = 0; return b }, `signature "\x00Z"`},
		"no PE":             {func(b []byte) []byte { b[0x40] = 0; return b }, "offset 0x40"},
		"lfanew past end":   {func(b []byte) []byte { b[0x3f] = 0x7f; return b }, "the file ends at 0x800"},
		"magic":             {func(b []byte) []byte { b[0x58] = 0; return b }, "magic 0x200"},
		"headers past end":  {func(b []byte) []byte { b[0x58+61] = 0xff; return b }, "SizeOfHeaders"},
		"section past end":  {func(b []byte) []byte { b[0x58+240+17] = 0xff; return b }, "section 0"},
		"certificate size":  {func(b []byte) []byte { b[0x58+112+39] = 0xff; return b }, "certificate table"},
		"no optional":       {func(b []byte) []byte { b[0x54], b[0x55] = 0, 0; return b }, "optional header of 0 bytes"},
		"section table cut": {func(b []byte) []byte { b[0x47] = 0xff; return b }, "the file ends"},
	} {
		data := c.edit(good.bytes())
		_, err := authenticode.Digest(context.Background(), digest.SHA384, bytes.NewReader(data), int64(len(data)), authenticode.Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error = %v, want it to contain %q", name, err, c.want)
		}
	}
	overlap := good
	overlap.sections = [][2]uint32{{0x400, 0x400}, {0x400, 0x400}, {0x400, 0x400}, {0x400, 0x400}, {0x400, 0x400}}
	data := overlap.bytes()
	if _, err := authenticode.Parse(bytes.NewReader(data), int64(len(data)), authenticode.Options{}); err == nil {
		t.Error("overlapping sections are accepted")
	}
}

// TestUnsignedTail shows the switch for tools that skip what follows the
// sections of an unsigned image.
func TestUnsignedTail(t *testing.T) {
	im := image{plus: true, headers: 0x400, dirs: 16, size: 0x810, sections: [][2]uint32{{0x400, 0x400}}}
	with := im.bytes()
	changed := bytes.Clone(with)
	changed[0x805] ^= 1
	for _, opt := range []authenticode.Options{{}, {TailOnlyWithCertificate: true}} {
		same := sum(t, digest.SHA384, with, opt) == sum(t, digest.SHA384, changed, opt)
		if same != opt.TailOnlyWithCertificate {
			t.Errorf("%+v: tail ignored = %v, want %v", opt, same, opt.TailOnlyWithCertificate)
		}
	}
}
