package contrast

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// NonceSize is the length of the nonces of both forms.
const NonceSize = 32

// Form says how the report data of an answer were made.
type Form string

// The forms. The newer one also names the capabilities that the Coordinator
// offered before, so that nobody talks a client down to an older interface.
const (
	Legacy Form = "/attest"
	V1     Form = "/v1/attest"
)

// OfKey are the report data of attested TLS: the SHA-512 of the public key
// (SubjectPublicKeyInfo, DER) and the nonce.
func OfKey(spki, nonce []byte) [64]byte {
	h := sha512.New()
	h.Write(spki)
	h.Write(nonce)
	return [64]byte(h.Sum(nil))
}

// OfAnswer are the report data of an answer: the SHA-256 of the nonce, the hash
// of the latest transition and the SHA-256 of both CA certificates in PEM,
// followed by 32 zero bytes. capabilities is the raw body of /capabilities for
// form V1, and nil for Legacy.
func OfAnswer(nonce []byte, transition digest.Digest, rootCA, meshCA, capabilities []byte) (out [64]byte) {
	if capabilities == nil {
		return ofAnswer(nonce, transition, rootCA, meshCA, nil)
	}
	sum := sha256.Sum256(capabilities)
	return ofAnswer(nonce, transition, rootCA, meshCA, sum[:])
}

func ofAnswer(nonce []byte, transition digest.Digest, rootCA, meshCA, capabilities []byte) (out [64]byte) {
	root, mesh := sha256.Sum256(rootCA), sha256.Sum256(meshCA)
	h := sha256.New()
	for _, b := range [][]byte{nonce, transition.Bytes(), root[:], mesh[:], capabilities} {
		h.Write(b)
	}
	copy(out[:], h.Sum(nil))
	return out
}

const alpn = "atls:v1:nonce:"

// Protocol is how a client asks for a report in its ClientHello: a name in the
// list of ALPN.
func Protocol(nonce []byte) string { return alpn + hex.EncodeToString(nonce) }

// NonceOf reads the nonce out of such a name. It is nil for another protocol.
func NonceOf(protocol string) ([]byte, error) {
	if !strings.HasPrefix(protocol, "atls:") {
		return nil, nil
	}
	b, err := hex.DecodeString(strings.TrimPrefix(protocol, alpn))
	if !strings.HasPrefix(protocol, alpn) || err != nil || len(b) != NonceSize {
		return nil, fmt.Errorf("ALPN name %.100q: want %s and %d hex digits", protocol, alpn, 2*NonceSize)
	}
	return b, nil
}
