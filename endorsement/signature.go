package endorsement

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha512" // hashes of P-384 and P-521
	"strconv"

	"github.com/retally/retally/internal/digest"
)

// signed gives the bytes under a signature: of DSSE its pre-authentication
// encoding (secure-systems-lab/dsse, protocol.md), otherwise the file itself.
func (d *Document) signed() []byte {
	if d.payloadType == "" {
		return d.payload
	}
	b := []byte("DSSEv1 " + strconv.Itoa(len(d.payloadType)) + " " + d.payloadType + " " + strconv.Itoa(len(d.payload)) + " ")
	return append(b, d.payload...)
}

// hashOf is the hash that goes with a curve; 0: the curve is not used.
func hashOf(k *ecdsa.PublicKey) crypto.Hash {
	switch k.Curve {
	case elliptic.P256():
		return crypto.SHA256
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return 0
}

// verify verifies a signature over bytes.
func verify(public crypto.PublicKey, message, sig []byte) bool {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		h := hashOf(k)
		if h == 0 {
			return false
		}
		w := h.New()
		w.Write(message)
		return ecdsa.VerifyASN1(k, w.Sum(nil), sig)
	case ed25519.PublicKey:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(k, message, sig)
	case *rsa.PublicKey:
		w := crypto.SHA256.New()
		w.Write(message)
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, w.Sum(nil), sig) == nil
	}
	return false
}

// verifyDigest verifies a signature over something of which only the digest is
// known. known is false where that does not suffice.
func verifyDigest(public crypto.PublicKey, d digest.Digest, sig []byte) (ok, known bool) {
	sizes := map[crypto.Hash]digest.Algorithm{crypto.SHA256: digest.SHA256, crypto.SHA384: digest.SHA384, crypto.SHA512: digest.SHA512}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if h := hashOf(k); h != 0 && sizes[h] == d.Algorithm() {
			return ecdsa.VerifyASN1(k, d.Bytes(), sig), true
		}
	case *rsa.PublicKey:
		if d.Algorithm() == digest.SHA256 {
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, d.Bytes(), sig) == nil, true
		}
	}
	return false, false
}

// verifies says whether a key made the document's signature.
func (d *Document) verifies(public crypto.PublicKey, s signature) (ok, known bool) {
	if d.Statement == nil {
		return verifyDigest(public, d.Message, s.raw)
	}
	return verify(public, d.signed(), s.raw), true
}
