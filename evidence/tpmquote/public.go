package tpmquote

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Attributes are TPMA_OBJECT.
type Attributes uint32

// The attributes that make a signing key an attestation key (Part 2, 8.3).
const (
	FixedTPM    Attributes = 1 << 1  // never leaves this TPM
	FixedParent Attributes = 1 << 4  // nor its parent
	Origin      Attributes = 1 << 5  // sensitiveDataOrigin: the TPM made it
	Restricted  Attributes = 1 << 16 // signs nothing that only looks like a quote
	Decrypt     Attributes = 1 << 17
	Sign        Attributes = 1 << 18
)

// Public is a TPMT_PUBLIC, the public area of a key.
type Public struct {
	Key        crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	NameAlg    digest.Algorithm
	Attributes Attributes
	raw        []byte
}

const (
	algRSA  = 0x01
	algNull = 0x10
	algECC  = 0x23
)

// ParsePublic reads a TPMT_PUBLIC, or a TPM2B_PUBLIC, which has its size in
// front. name is the input in errors.
func ParsePublic(name string, data []byte) (*Public, error) {
	if len(data) > 2 && int(binary.BigEndian.Uint16(data)) == len(data)-2 {
		data = data[2:]
	}
	r := &reader{name: name, data: data}
	p := &Public{raw: bytes.Clone(data)}
	kind := r.u16("type")
	at := r.at
	id := r.u16("nameAlg")
	var ok bool
	if p.NameAlg, ok = algorithm(id); !ok {
		r.fail(at, "nameAlg", fmt.Sprintf("%#04x", id), "SHA-1, SHA-256, SHA-384 or SHA-512")
	}
	p.Attributes = Attributes(r.u32("objectAttributes"))
	r.sized("authPolicy", digest.MaxSize)
	switch kind {
	case algRSA:
		p.Key = r.rsaKey()
	case algECC:
		p.Key = r.eccKey()
	default:
		r.fail(0, "type", fmt.Sprintf("%#04x", kind), "0x0001 (RSA) or 0x0023 (ECC)")
	}
	r.end()
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}

// symmetric reads a TPMT_SYM_DEF_OBJECT: storage keys have one.
func (r *reader) symmetric() {
	if r.u16("symmetric") != algNull {
		r.u16("symmetric keyBits")
		r.u16("symmetric mode")
	}
}

// scheme reads a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME.
func (r *reader) scheme() {
	at := r.at
	switch alg := r.u16("scheme"); alg {
	case algNull, 0x15: // RSAES has no hash
	case 0x14, 0x16, 0x17, 0x18, 0x19, 0x1b, 0x1c:
		r.u16("scheme hash")
	case 0x1a: // ECDAA
		r.u16("scheme hash")
		r.u16("scheme count")
	default:
		r.fail(at, "scheme", fmt.Sprintf("%#04x", alg), "a scheme of RSA or ECC")
	}
}

func (r *reader) rsaKey() crypto.PublicKey {
	r.symmetric()
	r.scheme()
	at := r.at
	bits, exponent := int(r.u16("keyBits")), r.u32("exponent")
	n := new(big.Int).SetBytes(r.sized("unique", maxRSA))
	if exponent == 0 {
		exponent = 65537
	}
	if r.err == nil && (n.BitLen() != bits || bits < 1024 || exponent != 65537) {
		r.fail(at, "keyBits, exponent", fmt.Sprintf("%d, %d, and a modulus of %d bits", bits, exponent, n.BitLen()), "a modulus of that size and the exponent 65537")
	}
	return &rsa.PublicKey{N: n, E: int(exponent)}
}

func (r *reader) eccKey() crypto.PublicKey {
	r.symmetric()
	r.scheme()
	at := r.at
	id := r.u16("curveID")
	if r.u16("kdf") != algNull {
		r.u16("kdf hash")
	}
	curve := map[uint16]elliptic.Curve{3: elliptic.P256(), 4: elliptic.P384()}[id]
	x, y := r.sized("unique x", maxCurve), r.sized("unique y", maxCurve)
	if r.err != nil {
		return nil
	}
	if curve == nil {
		r.fail(at, "curveID", fmt.Sprintf("%#04x", id), "0x0003 (P-256) or 0x0004 (P-384)")
		return nil
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		r.fail(at, "unique", fmt.Sprintf("coordinates of %d and %d bytes", len(x), len(y)), fmt.Sprintf("at most %d", size))
		return nil
	}
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		r.fail(at, "unique", err.Error(), "a point on the curve")
		return nil
	}
	return key
}

// Name is the key's name: the algorithm, then the digest of the public area
// (Part 1, clause 16).
func (p *Public) Name() []byte {
	return append(binary.BigEndian.AppendUint16(nil, algorithmID(p.NameAlg)), p.NameAlg.Sum(p.raw).Bytes()...)
}

// hierarchy says in which hierarchy a primary key of this name has a qualified
// name; empty: in none, so it is no primary key, or not this key.
func (p *Public) hierarchy(qualified []byte) string {
	for _, h := range []struct {
		handle uint32
		name   string
	}{{0x4000000b, "endorsement"}, {0x40000001, "owner"}, {0x4000000c, "platform"}, {0x40000007, "null"}} {
		in := append(binary.BigEndian.AppendUint32(nil, h.handle), p.Name()...)
		want := append(binary.BigEndian.AppendUint16(nil, algorithmID(p.NameAlg)), p.NameAlg.Sum(in).Bytes()...)
		if bytes.Equal(qualified, want) {
			return h.name
		}
	}
	return ""
}

// lacking says what keeps a key from being an attestation key; empty: nothing.
func (p *Public) lacking() string {
	var out []string
	for _, a := range []struct {
		bit  Attributes
		name string
	}{{Sign, "sign"}, {Restricted, "restricted"}, {FixedTPM, "fixedTPM"}, {FixedParent, "fixedParent"}, {Origin, "sensitiveDataOrigin"}} {
		if p.Attributes&a.bit == 0 {
			out = append(out, "not "+a.name)
		}
	}
	if p.Attributes&Decrypt != 0 {
		out = append(out, "decrypt")
	}
	return strings.Join(out, ", ")
}
