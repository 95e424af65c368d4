package digest_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
)

// The digests of "abc" from FIPS 180-4's examples.
var abc = map[digest.Algorithm]string{
	digest.SHA1:   "a9993e364706816aba3e25717850c26c9cd0d89d",
	digest.SHA224: "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
	digest.SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	digest.SHA384: "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
	digest.SHA512: "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
}

func TestSumAndForms(t *testing.T) {
	for alg, want := range abc {
		d := alg.Sum([]byte("abc"))
		if d.Hex() != want || d.String() != alg.String()+":"+want {
			t.Errorf("%s: got %s, want %s", alg, d, want)
		}
		for _, s := range []string{d.String(), alg.String() + ":" + strings.ToUpper(want)} {
			if back, err := digest.Parse(s); err != nil || back != d {
				t.Errorf("Parse(%s): got %v, %v", s, back, err)
			}
		}
		if back, err := digest.ParseSRI(d.SRI()); err != nil || back != d {
			t.Errorf("ParseSRI(%s): got %v, %v", d.SRI(), back, err)
		}
		js, err := json.Marshal(map[digest.Digest]digest.Digest{d: d})
		if err != nil {
			t.Fatal(err)
		}
		var m map[digest.Digest]digest.Digest
		if err := json.Unmarshal(js, &m); err != nil || m[d] != d {
			t.Errorf("JSON round trip of %s: got %v, %v", d, m, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	hex64 := strings.Repeat("a", 64)
	for _, s := range []string{
		"", "sha256", "sha256:", "sha256:" + hex64[1:], "sha256:" + hex64 + "a", "SHA256:" + hex64,
		"md5:" + hex64, "sha256:" + hex64[1:] + "g", "sha384:" + hex64, " sha256:" + hex64,
	} {
		if d, err := digest.Parse(s); err == nil {
			t.Errorf("Parse(%q): got %s, want an error", s, d)
		}
	}
	if d, err := digest.ParseHex(0, ""); err == nil {
		t.Errorf("no algorithm: got %s, want an error", d)
	}
}
