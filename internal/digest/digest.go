// Package digest holds the one value type for cryptographic digests: an
// algorithm and its fixed number of bytes. A digest crosses a package border
// as a Digest, never as a naked string or byte slice.
package digest

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Algorithm names a hash function. The zero value is no algorithm.
type Algorithm uint8

// The hash functions that TEEs, TPMs, dm-verity and image formats use.
const (
	SHA1 Algorithm = iota + 1
	SHA224
	SHA256
	SHA384
	SHA512
)

// MaxSize is the size in bytes of the longest digest.
const MaxSize = 64

var algorithms = [...]struct {
	name string
	size int
	new  func() hash.Hash
}{
	SHA1:   {"sha1", sha1.Size, sha1.New},
	SHA224: {"sha224", sha256.Size224, sha256.New224},
	SHA256: {"sha256", sha256.Size, sha256.New},
	SHA384: {"sha384", sha512.Size384, sha512.New384},
	SHA512: {"sha512", sha512.Size, sha512.New},
}

// Valid reports whether a is one of the algorithms of this package.
func (a Algorithm) Valid() bool { return a >= SHA1 && int(a) < len(algorithms) }

// String returns the name as it stands before the colon of a digest ("sha256").
func (a Algorithm) String() string {
	if !a.Valid() {
		return "none"
	}
	return algorithms[a].name
}

// Size returns the digest's length in bytes, 0 for an invalid algorithm.
func (a Algorithm) Size() int {
	if !a.Valid() {
		return 0
	}
	return algorithms[a].size
}

// New returns a fresh hasher. It panics for an invalid algorithm, which can
// only be a programming error: algorithms from input go through ParseAlgorithm.
func (a Algorithm) New() hash.Hash { return algorithms[a].new() }

// Sum hashes data.
func (a Algorithm) Sum(data []byte) Digest {
	h := a.New()
	h.Write(data)
	return FromHash(a, h)
}

// MarshalText writes the name; the zero value writes nothing.
func (a Algorithm) MarshalText() ([]byte, error) {
	if !a.Valid() {
		return []byte{}, nil
	}
	return []byte(a.String()), nil
}

// UnmarshalText reads the name; nothing gives the zero value.
func (a *Algorithm) UnmarshalText(text []byte) (err error) {
	*a = 0
	if len(text) > 0 {
		*a, err = ParseAlgorithm(string(text))
	}
	return err
}

// ParseAlgorithm reads a name as String prints it.
func ParseAlgorithm(s string) (Algorithm, error) {
	for a := SHA1; a.Valid(); a++ {
		if algorithms[a].name == s {
			return a, nil
		}
	}
	return 0, fmt.Errorf("unknown hash algorithm %q, known: sha1, sha224, sha256, sha384, sha512", clip(s))
}

// Digest is a comparable value, usable as a map key. The zero value is "no
// digest" and is never the result of a computation.
type Digest struct {
	alg Algorithm
	sum [MaxSize]byte
}

// FromBytes makes a digest of exactly a.Size() bytes.
func FromBytes(a Algorithm, sum []byte) (Digest, error) {
	if !a.Valid() {
		return Digest{}, fmt.Errorf("no hash algorithm given")
	}
	if len(sum) != a.Size() {
		return Digest{}, fmt.Errorf("%s digest has %d bytes, want %d", a, len(sum), a.Size())
	}
	d := Digest{alg: a}
	copy(d.sum[:], sum)
	return d, nil
}

// FromHash takes the state of h, which must be a hasher of algorithm a.
func FromHash(a Algorithm, h hash.Hash) Digest {
	d := Digest{alg: a}
	h.Sum(d.sum[:0])
	return d
}

// Parse reads the "alg:hex" form. Hex may be upper or lower case.
func Parse(s string) (Digest, error) {
	name, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Digest{}, fmt.Errorf("digest %q has no algorithm, want the form sha256:<64 hex digits>", clip(s))
	}
	a, err := ParseAlgorithm(name)
	if err != nil {
		return Digest{}, fmt.Errorf("digest %q: %w", clip(s), err)
	}
	return ParseHex(a, rest)
}

// ParseHex reads bare hex digits of a known algorithm.
func ParseHex(a Algorithm, s string) (Digest, error) {
	if !a.Valid() {
		return Digest{}, fmt.Errorf("no hash algorithm given")
	}
	if len(s) != 2*a.Size() {
		return Digest{}, fmt.Errorf("%s digest %q has %d hex digits, want %d", a, clip(s), len(s), 2*a.Size())
	}
	sum, err := hex.DecodeString(s)
	if err != nil {
		return Digest{}, fmt.Errorf("%s digest %q is not hexadecimal", a, clip(s))
	}
	return FromBytes(a, sum)
}

// ParseSRI reads the "alg-base64" form of Subresource Integrity and Nix.
func ParseSRI(s string) (Digest, error) {
	name, rest, ok := strings.Cut(s, "-")
	if !ok {
		return Digest{}, fmt.Errorf("hash %q is not in the form sha256-<base64>", clip(s))
	}
	a, err := ParseAlgorithm(name)
	if err != nil {
		return Digest{}, fmt.Errorf("hash %q: %w", clip(s), err)
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(rest)
	if err != nil {
		return Digest{}, fmt.Errorf("hash %q is not base64", clip(s))
	}
	return FromBytes(a, sum)
}

// Algorithm returns the hash function.
func (d Digest) Algorithm() Algorithm { return d.alg }

// IsZero reports whether d is no digest at all.
func (d Digest) IsZero() bool { return d.alg == 0 }

// Bytes returns a copy of the digest's bytes.
func (d Digest) Bytes() []byte { return append([]byte(nil), d.sum[:d.alg.Size()]...) }

// Hex returns the lower-case hex digits without a prefix.
func (d Digest) Hex() string { return hex.EncodeToString(d.sum[:d.alg.Size()]) }

// Base64 returns the standard padded base64 form.
func (d Digest) Base64() string { return base64.StdEncoding.EncodeToString(d.sum[:d.alg.Size()]) }

// SRI returns the "alg-base64" form.
func (d Digest) SRI() string { return d.alg.String() + "-" + d.Base64() }

// String returns the "alg:hex" form, or "none" for the zero value.
func (d Digest) String() string {
	if d.IsZero() {
		return "none"
	}
	return d.alg.String() + ":" + d.Hex()
}

// MarshalText encodes as String does; the zero value encodes as nothing.
func (d Digest) MarshalText() ([]byte, error) {
	if d.IsZero() {
		return []byte{}, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads the "alg:hex" form; nothing gives the zero value.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = Digest{}
		return nil
	}
	v, err := Parse(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// clip bounds what an error message quotes of foreign input.
func clip(s string) string {
	const limit = 140
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
