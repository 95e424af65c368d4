package snpmeasure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
)

// Sizes of the structures that a host hands to SNP_LAUNCH_FINISH (SEV-SNP
// Firmware ABI, sections 8.18 and 10).
const (
	IDBlockSize   = 96
	IDAuthSize    = 4096
	PublicKeySize = 0x404
	signatureSize = 0x200
	component     = 72 // a number of a key or a signature, least significant byte first
	scalar        = 48 // of which P-384 fills that many
	curveP384     = 2
	algECDSA      = 1 // ECDSA on P-384 with SHA-384
)

// DefaultPolicy is the guest policy that sev-snp-measure writes: SMT allowed,
// and bit 17, which must be one.
const DefaultPolicy = 0x30000

// ErrIDKeys is the reason where an ID block or its authentication is not what
// it says.
var ErrIDKeys = errors.New("the ID block is not authentic")

// IDBlock is what a guest's owner says about the guest: the secure processor
// starts it only if the launch digest is this one.
type IDBlock struct {
	LaunchDigest digest.Digest // SHA-384
	FamilyID     [16]byte
	ImageID      [16]byte
	Version      uint32 // 1
	GuestSVN     uint32
	Policy       uint64
}

// Bytes encodes the block.
func (b *IDBlock) Bytes() ([]byte, error) {
	if b.LaunchDigest.Algorithm() != digest.SHA384 {
		return nil, setting("launch digest", b.LaunchDigest.Algorithm().String(), "48 bytes (sha384)", "")
	}
	out := append(make([]byte, 0, IDBlockSize), b.LaunchDigest.Bytes()...)
	out = append(append(out, b.FamilyID[:]...), b.ImageID[:]...)
	out = binary.LittleEndian.AppendUint32(out, b.Version)
	out = binary.LittleEndian.AppendUint32(out, b.GuestSVN)
	return binary.LittleEndian.AppendUint64(out, b.Policy), nil
}

// ParseIDBlock decodes a block. Version 1 alone is known.
func ParseIDBlock(name string, data []byte) (*IDBlock, error) {
	if len(data) != IDBlockSize {
		return nil, idFault("ID block", place.InFile(name), "size", fmt.Sprint(len(data)), fmt.Sprint(IDBlockSize))
	}
	d, err := digest.FromBytes(digest.SHA384, data[:48])
	if err != nil {
		return nil, err
	}
	b := &IDBlock{
		LaunchDigest: d, FamilyID: [16]byte(data[0x30:]), ImageID: [16]byte(data[0x40:]),
		Version: binary.LittleEndian.Uint32(data[0x50:]), GuestSVN: binary.LittleEndian.Uint32(data[0x54:]), Policy: binary.LittleEndian.Uint64(data[0x58:]),
	}
	if b.Version != 1 {
		return nil, idFault("ID block", place.InFile(name).At(0x50), "version", fmt.Sprint(b.Version), "1")
	}
	return b, nil
}

// ParseID reads a family or image id: text of at most 16 bytes, filled up with
// zero bytes, or 32 hex digits.
func ParseID(s string) (id [16]byte, err error) {
	if len(s) == 2*len(id) {
		n, ok := new(big.Int).SetString(s, 16)
		if ok && n.Sign() >= 0 && s[0] != '+' && s[0] != '-' {
			n.FillBytes(id[:])
			return id, nil
		}
	}
	if len(s) > len(id) {
		return id, setting("id", fmt.Sprintf("%.40q", s), "at most 16 bytes of text, or 32 hex digits", "")
	}
	copy(id[:], s)
	return id, nil
}

func idFault(what string, at place.Where, field, found, want string) *place.Fault {
	return &place.Fault{Input: what, Where: at, Field: field, Found: found, Want: want, Err: ErrIDKeys}
}

// PublicKey is a key of the curve P-384.
type PublicKey struct{ X, Y [scalar]byte } // most significant byte first

// Zero reports whether there is no key.
func (k *PublicKey) Zero() bool { return *k == PublicKey{} }

// Bytes encodes the key as the secure processor has it.
func (k *PublicKey) Bytes() []byte {
	out := make([]byte, PublicKeySize)
	if k.Zero() {
		return out
	}
	binary.LittleEndian.PutUint32(out, curveP384)
	putNumber(out[4:], k.X)
	putNumber(out[4+component:], k.Y)
	return out
}

// Digest is the SHA-384 of the encoding: ID_KEY_DIGEST and AUTHOR_KEY_DIGEST
// of a report.
func (k *PublicKey) Digest() digest.Digest { return digest.SHA384.Sum(k.Bytes()) }

func (k *PublicKey) ecdsa() (*ecdsa.PublicKey, error) {
	return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), slices.Concat([]byte{4}, k.X[:], k.Y[:]))
}

func publicKeyOf(k *ecdsa.PublicKey) (PublicKey, error) {
	if k.Curve != elliptic.P384() {
		return PublicKey{}, setting("key", "curve "+k.Curve.Params().Name, "an ECDSA key of the curve P-384", "openssl ecparam -name secp384r1 -genkey makes one")
	}
	raw, err := k.Bytes()
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey{X: [scalar]byte(raw[1:]), Y: [scalar]byte(raw[1+scalar:])}, nil
}

// Signature is an ECDSA signature on P-384.
type Signature struct{ R, S [scalar]byte } // most significant byte first

// Zero reports whether there is no signature.
func (s *Signature) Zero() bool { return *s == Signature{} }

func (s *Signature) bytes() []byte {
	out := make([]byte, signatureSize)
	putNumber(out, s.R)
	putNumber(out[component:], s.S)
	return out
}

// putNumber writes the number least significant byte first.
func putNumber(to []byte, n [scalar]byte) {
	slices.Reverse(n[:]) // a copy
	copy(to, n[:])
}

// number reads what putNumber writes; ok is false where more than 48 bytes are
// in use.
func number(from []byte) (n [scalar]byte, ok bool) {
	copy(n[:], from[:scalar])
	slices.Reverse(n[:])
	return n, zero(from[scalar:component])
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// IDAuth authenticates an ID block: a signature by the ID key, and one of the
// ID key by the author key where there is one.
type IDAuth struct {
	// AuthorAlgorithm is as written: sev-snp-measure writes 1, Contrast 0 or,
	// in its early form, 1 with neither key nor signature.
	AuthorAlgorithm uint32
	Signature       Signature // of the ID block
	IDKey           PublicKey
	AuthorSignature Signature // of the ID key
	AuthorKey       PublicKey
}

// Offsets in the ID authentication information (SEV-SNP Firmware ABI, table
// "ID Authentication Information Structure").
const (
	authAuthorAlgorithm = 0x004
	authReserved1       = 0x008
	authSignature       = 0x040
	authIDKey           = 0x240
	authReserved2       = authIDKey + PublicKeySize
	authAuthorSignature = 0x680
	authAuthorKey       = 0x880
	authReserved3       = authAuthorKey + PublicKeySize
)

// Bytes encodes the structure.
func (a *IDAuth) Bytes() []byte {
	out := make([]byte, IDAuthSize)
	binary.LittleEndian.PutUint32(out, algECDSA)
	binary.LittleEndian.PutUint32(out[authAuthorAlgorithm:], a.AuthorAlgorithm)
	copy(out[authSignature:], a.Signature.bytes())
	copy(out[authIDKey:], a.IDKey.Bytes())
	copy(out[authAuthorSignature:], a.AuthorSignature.bytes())
	copy(out[authAuthorKey:], a.AuthorKey.Bytes())
	return out
}

// ParseIDAuth decodes the structure. Unknown algorithms and curves are
// refused, and so is anything in reserved bytes.
func ParseIDAuth(name string, data []byte) (*IDAuth, error) {
	bad := func(at int64, field, found, want string) error {
		return idFault("ID authentication", place.InFile(name).At(at), field, found, want)
	}
	if len(data) != IDAuthSize {
		return nil, idFault("ID authentication", place.InFile(name), "size", fmt.Sprint(len(data)), fmt.Sprint(IDAuthSize))
	}
	if alg := binary.LittleEndian.Uint32(data); alg != algECDSA {
		return nil, bad(0, "ID key algorithm", fmt.Sprint(alg), "1, ECDSA on P-384 with SHA-384")
	}
	a := &IDAuth{AuthorAlgorithm: binary.LittleEndian.Uint32(data[authAuthorAlgorithm:])}
	if a.AuthorAlgorithm > algECDSA {
		return nil, bad(authAuthorAlgorithm, "author key algorithm", fmt.Sprint(a.AuthorAlgorithm), "0 or 1")
	}
	for _, r := range [][2]int{{authReserved1, authSignature}, {authReserved2, authAuthorSignature}, {authReserved3, IDAuthSize}} {
		if !zero(data[r[0]:r[1]]) {
			return nil, bad(int64(r[0]), "reserved bytes", "others", "zeros")
		}
	}
	var ok bool
	if a.Signature, ok = parseSignature(data[authSignature:]); !ok {
		return nil, bad(authSignature, "signature", "more than 48 bytes in a number", "two numbers of P-384")
	}
	if a.AuthorSignature, ok = parseSignature(data[authAuthorSignature:]); !ok {
		return nil, bad(authAuthorSignature, "author signature", "more than 48 bytes in a number", "two numbers of P-384")
	}
	if a.IDKey, ok = parsePublicKey(data[authIDKey:]); !ok {
		return nil, bad(authIDKey, "ID key", "neither empty nor a key of curve 2", "a key of P-384")
	}
	if a.AuthorKey, ok = parsePublicKey(data[authAuthorKey:]); !ok {
		return nil, bad(authAuthorKey, "author key", "neither empty nor a key of curve 2", "a key of P-384")
	}
	return a, nil
}

func parseSignature(b []byte) (s Signature, ok bool) {
	var more bool
	s.R, ok = number(b)
	s.S, more = number(b[component:])
	return s, ok && more && zero(b[2*component:signatureSize])
}

func parsePublicKey(b []byte) (k PublicKey, ok bool) {
	b = b[:PublicKeySize]
	if zero(b) {
		return k, true
	}
	if binary.LittleEndian.Uint32(b) != curveP384 || !zero(b[4+2*component:]) {
		return k, false
	}
	var more bool
	k.X, ok = number(b[4:])
	k.Y, more = number(b[4+component:])
	// A key of zeros would encode as no key.
	return k, ok && more && !k.Zero()
}

// Verify checks the signature of the block by the ID key, and that of the ID
// key where there is an author key. A missing ID key is a fault; with half of
// an author's signature and key, nothing is authentic.
func (a *IDAuth) Verify(block []byte) error {
	if err := verifyECDSA("ID block", &a.IDKey, &a.Signature, block); err != nil {
		return err
	}
	if a.AuthorKey.Zero() && a.AuthorSignature.Zero() {
		return nil
	}
	if a.AuthorAlgorithm != algECDSA {
		return idFault("ID authentication", place.Where{}, "author key algorithm", fmt.Sprint(a.AuthorAlgorithm), "1, as there is an author key")
	}
	return verifyECDSA("ID key", &a.AuthorKey, &a.AuthorSignature, a.IDKey.Bytes())
}

func verifyECDSA(what string, key *PublicKey, sig *Signature, message []byte) error {
	if key.Zero() {
		return idFault("signature of the "+what, place.Where{}, "key", "none", "a key of P-384")
	}
	public, err := key.ecdsa()
	if err != nil {
		return idFault("signature of the "+what, place.Where{}, "key", "no point of P-384", "a key of P-384")
	}
	sum := sha512.Sum384(message)
	if !ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(sig.R[:]), new(big.Int).SetBytes(sig.S[:])) {
		return idFault("signature of the "+what, place.Where{}, "", "a signature of other bytes or by another key", "one by this key")
	}
	return nil
}
