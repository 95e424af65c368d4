package tpmquote

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/retally/retally/internal/digest"
)

// Scheme is how a key signs: TPMI_ALG_SIG_SCHEME.
type Scheme uint16

// The schemes.
const (
	RSASSA Scheme = 0x14 // PKCS #1 v1.5
	RSAPSS Scheme = 0x16
	ECDSA  Scheme = 0x18
)

// String names the scheme as the specification does.
func (s Scheme) String() string {
	switch s {
	case RSASSA:
		return "RSASSA"
	case RSAPSS:
		return "RSAPSS"
	case ECDSA:
		return "ECDSA"
	}
	return fmt.Sprintf("scheme %#04x", uint16(s))
}

const (
	maxRSA   = 512 // bytes, RSA-4096
	maxCurve = 66  // bytes, P-521
)

// Signature is a TPMT_SIGNATURE.
type Signature struct {
	Scheme Scheme
	Hash   digest.Algorithm
	RSA    []byte // RSASSA, RSAPSS
	R, S   []byte // ECDSA, big-endian
}

// ParseSignature reads a TPMT_SIGNATURE. name is the input in errors.
func ParseSignature(name string, data []byte) (*Signature, error) {
	r := &reader{name: name, data: data}
	s := &Signature{Scheme: Scheme(r.u16("sigAlg"))}
	at := r.at
	id := r.u16("hash")
	var ok bool
	if s.Hash, ok = algorithm(id); !ok {
		r.fail(at, "hash", fmt.Sprintf("%#04x", id), "SHA-1, SHA-256, SHA-384 or SHA-512")
	}
	switch s.Scheme {
	case RSASSA, RSAPSS:
		s.RSA = r.sized("sig", maxRSA)
	case ECDSA:
		s.R, s.S = r.sized("signatureR", maxCurve), r.sized("signatureS", maxCurve)
	default:
		r.fail(0, "sigAlg", s.Scheme.String(), "RSASSA, RSAPSS or ECDSA")
	}
	r.end()
	if r.err != nil {
		return nil, r.err
	}
	return s, nil
}

// Marshal writes the signature back.
func (s *Signature) Marshal() []byte {
	be := binary.BigEndian
	out := be.AppendUint16(be.AppendUint16(nil, uint16(s.Scheme)), algorithmID(s.Hash))
	if s.Scheme == ECDSA {
		return appendSized(appendSized(out, s.R), s.S)
	}
	return appendSized(out, s.RSA)
}

// parseBare reads a signature that says nothing of its scheme: what Azure's
// attesters and tpm2-tools' format "plain" write. RSA is PKCS #1 v1.5, ECDSA is
// DER. The hash is that of the PCR digest, which a TPM makes with the hash of
// the scheme (Part 3, TPM2_Quote).
func parseBare(name string, data []byte, a *Attest) (*Signature, error) {
	r := &reader{name: name, data: data}
	hash, ok := map[int]digest.Algorithm{20: digest.SHA1, 32: digest.SHA256, 48: digest.SHA384, 64: digest.SHA512}[len(a.PCRDigest)]
	if !ok {
		r.fail(0, "signature", fmt.Sprintf("no hash, and a PCR digest of %d bytes", len(a.PCRDigest)), "20, 32, 48 or 64")
		return nil, r.err
	}
	switch len(data) {
	case 256, 384, 512:
		return &Signature{Scheme: RSASSA, Hash: hash, RSA: bytes.Clone(data)}, nil
	}
	der := cryptobyte.String(data)
	var inner cryptobyte.String
	x, y := new(big.Int), new(big.Int)
	if !der.ReadASN1(&inner, asn1.SEQUENCE) || !der.Empty() || !inner.ReadASN1Integer(x) || !inner.ReadASN1Integer(y) || !inner.Empty() || x.Sign() <= 0 || y.Sign() <= 0 || len(x.Bytes()) > maxCurve || len(y.Bytes()) > maxCurve {
		r.fail(0, "signature", fmt.Sprintf("%d bytes", len(data)), "a TPMT_SIGNATURE, an RSA signature of 256, 384 or 512 bytes, or ECDSA in DER")
		return nil, r.err
	}
	return &Signature{Scheme: ECDSA, Hash: hash, R: x.Bytes(), S: y.Bytes()}, nil
}

// cryptoHash gives the standard library's name for a hash that may sign. SHA-1
// may not: whoever chooses part of what is quoted could make two messages with
// one digest.
func cryptoHash(a digest.Algorithm) (crypto.Hash, error) {
	switch a {
	case digest.SHA256:
		return crypto.SHA256, nil
	case digest.SHA384:
		return crypto.SHA384, nil
	case digest.SHA512:
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("the signature is over a digest by %s, which no longer shows who signed", a)
}

// Verify says why a message is not signed by a key; nil: it is. ECDSA
// signatures have a twin (r, n-s), which verifies as well.
func (s *Signature) Verify(key crypto.PublicKey, message []byte) error {
	hash, err := cryptoHash(s.Hash)
	if err != nil {
		return err
	}
	if err := checkKey(key); err != nil {
		return err
	}
	sum := s.Hash.Sum(message).Bytes()
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch s.Scheme {
		case RSASSA:
			err = rsa.VerifyPKCS1v15(key, hash, sum, s.RSA)
		case RSAPSS:
			// TPMs salt with the size of the hash, older ones with all that fits.
			err = rsa.VerifyPSS(key, hash, sum, s.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		default:
			return fmt.Errorf("the signature is %s, the key is RSA", s.Scheme)
		}
		if err == nil {
			return nil
		}
	case *ecdsa.PublicKey:
		if s.Scheme != ECDSA {
			return fmt.Errorf("the signature is %s, the key is on a curve", s.Scheme)
		}
		if ecdsa.Verify(key, sum, new(big.Int).SetBytes(s.R), new(big.Int).SetBytes(s.S)) {
			return nil
		}
	}
	return errors.New("the signature over the quote does not verify: one of its bytes was changed, or another key signed it")
}

// checkKey refuses keys that are too weak or unknown.
func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 8*maxRSA {
			return fmt.Errorf("the key has %d bits, want 2048 to %d", bits, 8*maxRSA)
		}
		return nil
	case *ecdsa.PublicKey:
		if name := key.Curve.Params().Name; name != "P-256" && name != "P-384" {
			return fmt.Errorf("the key is on %s, want P-256 or P-384", name)
		}
		return nil
	}
	return fmt.Errorf("the key is a %T, want RSA or ECDSA", key)
}
