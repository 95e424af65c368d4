package xet_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/xet"
)

// stream is the content of the vectors: SHA-256 of a counter, one after the
// other.
func stream(size int) []byte {
	var out []byte
	for c := uint64(0); len(out) < size; c++ {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], c)
		sum := sha256.Sum256(word[:])
		out = append(out, sum[:]...)
	}
	return out[:size]
}

func of(b []byte) string {
	h := xet.New()
	h.Write(b)
	return xet.Text(h.Sum(nil))
}

// TestVectors holds the hashes against those of the hub's own library.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "published/field/xet"), "vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Vectors []struct {
			Kind   string `json:"kind"`
			Size   int    `json:"size"`
			SHA256 string `json:"sha256"`
			Xet    string `json:"xet_hash"`
			Chunks uint64 `json:"chunks"`
		} `json:"vectors"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Vectors) < 15 {
		t.Fatalf("%d vectors, want 15", len(v.Vectors))
	}
	for _, c := range v.Vectors {
		var b []byte
		switch c.Kind {
		case "stream":
			b = stream(c.Size)
		case "zeros":
			b = make([]byte, c.Size)
		case "repeat64k":
			b = bytes.Repeat(stream(64<<10), c.Size>>16+1)[:c.Size]
		default:
			t.Fatalf("kind %q", c.Kind)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != c.SHA256 {
			t.Fatalf("%s %d: the content is not that of the vector", c.Kind, c.Size)
		}
		h := xet.New()
		h.Write(b)
		if got := xet.Text(h.Sum(nil)); got != c.Xet || h.Chunks() != c.Chunks {
			t.Errorf("%s %d: got %s in %d chunks, want %s in %d", c.Kind, c.Size, got, h.Chunks(), c.Xet, c.Chunks)
		}
		if len(b) > 0 {
			b[len(b)/2] ^= 1
			if of(b) == c.Xet {
				t.Errorf("%s %d: another content has the same hash", c.Kind, c.Size)
			}
		}
	}
}

// TestPieces: how the content is cut into writes changes nothing, and a sum
// does not end a hash.
func TestPieces(t *testing.T) {
	content := stream(3 << 20)
	rapid.Check(t, func(t *rapid.T) {
		b := content[:rapid.IntRange(0, len(content)).Draw(t, "size")]
		if rapid.Bool().Draw(t, "zeros") {
			b = make([]byte, len(b))
		}
		want := of(b)
		h, r := xet.New(), rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		for rest := b; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(200<<10))
			h.Write(rest[:n])
			rest = rest[n:]
			if r.IntN(4) == 0 {
				h.Sum(nil)
			}
		}
		if got := xet.Text(h.Sum(nil)); got != want {
			t.Fatalf("in pieces %s, at once %s", got, want)
		}
	})
}

func TestCheck(t *testing.T) {
	good := of([]byte("a"))
	if err := xet.Check(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", good[1:], good + "0", "G" + good[1:], "A" + good[1:]} {
		if xet.Check(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func BenchmarkXet(b *testing.B) {
	content := stream(16 << 20)
	b.SetBytes(int64(len(content)))
	h := xet.New()
	for b.Loop() {
		h.Reset()
		for at := 0; at < len(content); at += 256 << 10 {
			h.Write(content[at : at+256<<10])
		}
		h.Sum(nil)
	}
}
