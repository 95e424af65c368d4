package endorsement

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/place"
)

// node is a value with its place.
type node struct {
	v    *jsondoc.Value
	path string
}

func (n node) get(key string) node {
	out := node{path: n.path + "/" + jsondoc.EscapePointer(key)}
	if n.v != nil && n.v.Kind == jsondoc.Object {
		out.v = n.v.Get(key)
	}
	return out
}

func (n node) has(key string) bool { return !n.get(key).v.IsNull() }

// reader takes values out of a document; its first error stays.
type reader struct {
	file string
	err  error
}

func (r *reader) fail(n node, found, want string) {
	if r.err == nil {
		r.err = &place.Fault{Input: "endorsement", Where: place.Where{File: r.file, Pointer: n.path}, Found: found, Want: want}
	}
}

// known refuses members that are not listed: what is not understood could
// change what the rest means.
func (r *reader) known(n node, keys ...string) {
	if n.v == nil || n.v.Kind != jsondoc.Object {
		r.fail(n, "nothing, or no object", "an object with "+strings.Join(keys, ", "))
		return
	}
	for _, m := range n.v.Members {
		if !slices.Contains(keys, m.Key) {
			r.fail(n.get(m.Key), "a member that is not known", strings.Join(keys, ", "))
		}
	}
}

func (r *reader) text(n node, key string) string {
	v := n.get(key)
	if v.v == nil || v.v.Kind != jsondoc.String {
		r.fail(v, "no text", "a text")
		return ""
	}
	return v.v.Text
}

// optional is a text that may be absent.
func (r *reader) optional(n node, key string) string {
	if !n.has(key) {
		return ""
	}
	return r.text(n, key)
}

func (r *reader) base64(n node, key string) []byte {
	out, err := decodeBase64(r.text(n, key))
	if err != nil {
		r.fail(n.get(key), err.Error(), "base64")
	}
	return out
}

// decodeBase64 takes the standard and the URL alphabet, as proto3's JSON does.
func decodeBase64(text string) ([]byte, error) {
	text = strings.TrimRight(text, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		enc = base64.RawURLEncoding
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("a line break in base64")
	}
	return enc.Strict().DecodeString(text)
}

// number reads an int64 that proto3's JSON writes as a text or as a number.
func (r *reader) number(n node, key string) int64 {
	v := n.get(key)
	if v.v != nil && (v.v.Kind == jsondoc.String || v.v.Kind == jsondoc.Number) {
		if i, err := strconv.ParseInt(v.v.Text, 10, 64); err == nil && i >= 0 && i < math.MaxInt64 {
			return i
		}
	}
	r.fail(v, "no number", "a whole number from 0")
	return 0
}

func (r *reader) list(n node, key string, limit int) []node {
	v := n.get(key)
	if v.v.IsNull() {
		return nil
	}
	if v.v.Kind != jsondoc.Array || len(v.v.Elems) > limit {
		r.fail(v, "no list, or a longer one", fmt.Sprintf("a list of at most %d", limit))
		return nil
	}
	out := make([]node, len(v.v.Elems))
	for i, e := range v.v.Elems {
		out[i] = node{v: e, path: v.path + "/" + strconv.Itoa(i)}
	}
	return out
}

// certificate reads {"rawBytes": base64 of DER}.
func (r *reader) certificate(n node) *x509.Certificate {
	r.known(n, "rawBytes")
	der := r.base64(n, "rawBytes")
	if r.err != nil {
		return nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		r.fail(n, err.Error(), "a certificate in DER")
		return nil
	}
	return c
}

func (r *reader) pemCertificate(n node, key string) *x509.Certificate {
	block, rest := pem.Decode([]byte(r.text(n, key)))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		r.fail(n.get(key), "no certificate, or more than one", "one certificate in PEM")
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		r.fail(n.get(key), err.Error(), "a certificate")
	}
	return c
}

// algorithms are the names of hashes in Sigstore's documents and in statements.
var algorithms = map[string]digest.Algorithm{
	"SHA2_256": digest.SHA256, "SHA2_384": digest.SHA384, "SHA2_512": digest.SHA512,
	"sha256": digest.SHA256, "sha384": digest.SHA384, "sha512": digest.SHA512,
}

func (r *reader) namedDigest(n node, algorithm string, sum []byte) digest.Digest {
	if r.err != nil {
		return digest.Digest{}
	}
	a, ok := algorithms[algorithm]
	if !ok {
		r.fail(n, algorithm, "SHA2_256, SHA2_384 or SHA2_512")
		return digest.Digest{}
	}
	d, err := digest.FromBytes(a, sum)
	if err != nil {
		r.fail(n, err.Error(), "a digest of "+algorithm)
	}
	return d
}
