package gunzip_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/retally/retally/imagehash/internal/gunzip"
)

// sample makes bytes of a kind: noise, text, runs, or a mix of them.
func sample(kind string, n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n)
	words := []string{"layer", "digest", "the", "of", "sha256", "manifest", "\n", " ", "0000000", "usr/lib/"}
	for len(b) < n {
		k := kind
		if k == "mix" {
			k = []string{"noise", "text", "runs", "far"}[r.IntN(4)]
		}
		switch k {
		case "noise":
			for range 200 {
				b = append(b, byte(r.Uint32()))
			}
		case "text":
			for range 50 {
				b = append(b, words[r.IntN(len(words))]...)
			}
		case "runs":
			c := byte(r.Uint32())
			for range r.IntN(2000) + 1 {
				b = append(b, c)
			}
		case "far": // repeat something old: long distances and lengths
			if len(b) < 300 {
				b = append(b, byte(r.Uint32()))
				continue
			}
			from := max(0, len(b)-1-r.IntN(40000))
			b = append(b, b[from:min(len(b), from+r.IntN(600)+1)]...)
		}
	}
	return b[:n]
}

type compressor struct {
	name string
	do   func(t testing.TB, level int, p []byte) []byte
}

var compressors = []compressor{
	{"std", func(t testing.TB, level int, p []byte) []byte {
		var b bytes.Buffer
		w, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(p)
		w.Close()
		return b.Bytes()
	}},
	{"klauspost", func(t testing.TB, level int, p []byte) []byte {
		var b bytes.Buffer
		w, err := kgzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(p)
		w.Close()
		return b.Bytes()
	}},
}

func TestReadsBack(t *testing.T) {
	for _, c := range compressors {
		for _, kind := range []string{"noise", "text", "runs", "mix"} {
			for _, n := range []int{0, 1, 100, 4095, 65536, 300_001} {
				want := sample(kind, n, uint64(n))
				for _, level := range []int{-2, 0, 1, 6, 9} {
					z := c.do(t, level, want)
					got, err := io.ReadAll(gunzip.NewReader(bytes.NewReader(z)))
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%s %s %d bytes level %d: got %d bytes, error %v", c.name, kind, n, level, len(got), err)
					}
				}
			}
		}
	}
}

func TestPiecewiseInput(t *testing.T) {
	want := sample("mix", 100_000, 5)
	z := compressors[0].do(t, 6, want)
	for name, r := range map[string]io.Reader{
		"bytes": iotest.OneByteReader(bytes.NewReader(z)),
		"half":  iotest.HalfReader(bytes.NewReader(z)),
		"eof":   iotest.DataErrReader(bytes.NewReader(z)),
	} {
		got, err := io.ReadAll(gunzip.NewReader(r))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, error %v", name, len(got), err)
		}
	}
	boom := errors.New("boom")
	if _, err := io.ReadAll(gunzip.NewReader(io.MultiReader(bytes.NewReader(z[:1000]), iotest.ErrReader(boom)))); !errors.Is(err, boom) {
		t.Errorf("got error %v, want the reader's own", err)
	}
}

func TestMembersAndHeader(t *testing.T) {
	var b bytes.Buffer
	for i := range 3 {
		w, _ := gzip.NewWriterLevel(&b, 9)
		w.Name, w.Comment, w.Extra, w.OS = fmt.Sprint("member", i), "c", []byte{1, 2, 3}, 3
		fmt.Fprintf(w, "part %d;", i)
		w.Close()
	}
	z := gunzip.NewReader(&b)
	got, err := io.ReadAll(z)
	if err != nil || string(got) != "part 0;part 1;part 2;" || z.Members() != 3 {
		t.Errorf("got %q, %d members, %v", got, z.Members(), err)
	}
	if h := z.First(); h.Name != "member0" || h.Comment != "c" || h.OS != 3 || h.XFL != 2 || len(h.Extra) != 3 || h.Size != 10+5+8+2 {
		t.Errorf("first header %+v", h)
	}
}

func TestRefuses(t *testing.T) {
	good := compressors[0].do(t, 6, sample("text", 5000, 1))
	edit := func(at int, c byte) []byte {
		b := bytes.Clone(good)
		b[at] ^= c
		return b
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want gunzip.Kind
	}{
		{"empty", nil, gunzip.Truncated},
		{"half a magic", good[:1], gunzip.Truncated},
		{"header only", good[:10], gunzip.Truncated},
		{"no magic", []byte("hello, world"), gunzip.Corrupt},
		{"method", edit(2, 1), gunzip.Corrupt},
		{"reserved flag", edit(3, 0x80), gunzip.Corrupt},
		{"checksum", edit(len(good)-8, 1), gunzip.Corrupt},
		{"length", edit(len(good)-1, 1), gunzip.Corrupt},
		{"trailing zero", append(bytes.Clone(good), 0), gunzip.Trailing},
		{"trailing half magic", append(bytes.Clone(good), 0x1f), gunzip.Trailing},
		{"trailing text", append(bytes.Clone(good), "more"...), gunzip.Trailing},
		{"second member cut", append(bytes.Clone(good), good[:30]...), gunzip.Truncated},
		{"reserved block", []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 7}, gunzip.Corrupt},
		{"far distance", append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}, 0x03, 0x02, 0, 0, 0, 0, 0, 0), gunzip.Corrupt},
	} {
		_, err := io.ReadAll(gunzip.NewReader(bytes.NewReader(tt.in)))
		var e *gunzip.Error
		if !errors.As(err, &e) || e.Kind != tt.want {
			t.Errorf("%s: got %v, want an error of kind %d", tt.name, err, tt.want)
		}
	}
	for n := range good {
		_, err := io.ReadAll(gunzip.NewReader(bytes.NewReader(good[:n])))
		var e *gunzip.Error
		if !errors.As(err, &e) || e.Kind != gunzip.Truncated {
			t.Fatalf("cut at %d of %d: got %v, want truncated", n, len(good), err)
		}
	}
}

// A second member must not reach into the first one's content.
func TestDistanceEndsAtMember(t *testing.T) {
	first := compressors[0].do(t, 6, sample("text", 1000, 1))
	// Fixed block: length 3, distance 1 as the very first symbol.
	second := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 0x03, 0x02, 0, 0, 0, 0, 0, 0, 0, 0}
	_, err := io.ReadAll(gunzip.NewReader(bytes.NewReader(append(first, second...))))
	var e *gunzip.Error
	if !errors.As(err, &e) || e.Kind != gunzip.Corrupt {
		t.Errorf("got %v, want corrupt", err)
	}
}

func BenchmarkFill(b *testing.B) {
	plain := sample("mix", 8<<20, 3)
	if path := os.Getenv("RETALLY_BENCH_FILE"); path != "" {
		var err error
		if plain, err = os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
	z := compressors[0].do(b, 6, plain)
	for _, c := range []struct {
		name string
		run  func() error
	}{
		{"ours", func() error {
			r := gunzip.NewReader(bytes.NewReader(z))
			buf := make([]byte, gunzip.History+256<<10)
			for {
				if _, err := r.Fill(buf); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
			}
		}},
		{"std", func() error {
			r, err := gzip.NewReader(bytes.NewReader(z))
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, r)
			return err
		}},
		{"klauspost", func() error {
			r, err := kgzip.NewReader(bytes.NewReader(z))
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, r)
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if err := c.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
