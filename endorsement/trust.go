package endorsement

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/retally/retally/internal/place"
)

// trustedRootType begins the media type of a Sigstore trusted root
// (sigstore/protobuf-specs, sigstore_trustroot.proto).
const trustedRootType = "application/vnd.dev.sigstore.trustedroot"

// Trust is whom a caller trusts, all of it out of files of the caller's.
type Trust struct {
	Keys        []Key       // of endorsers
	Logs        []Log       // transparency logs of signatures
	CTLogs      []Log       // logs of certificates
	Authorities []Authority // of certificates
}

// Key is a public key that is trusted to endorse.
type Key struct {
	File   string
	ID     string // SHA-256 of its SPKI in hex
	public crypto.PublicKey
	spki   []byte
}

// Log is a transparency log.
type Log struct {
	Name       string
	id         []byte
	key        crypto.PublicKey
	start, end time.Time // the zero time is no bound
}

// Authority issues certificates to signers: a root and what lies between.
type Authority struct {
	Name       string
	Keyless    bool // certificates of minutes for an identity, as Fulcio's
	root       []*x509.Certificate
	between    []*x509.Certificate
	start, end time.Time
}

func within(t, start, end time.Time) bool {
	return (start.IsZero() || !t.Before(start)) && (end.IsZero() || !t.After(end))
}

// AddKeys trusts the public keys of a PEM file as endorsers.
func (t *Trust) AddKeys(name string, data []byte) error {
	keys, err := readKeys(name, data)
	t.Keys = append(t.Keys, keys...)
	return err
}

// AddLogKeys trusts the public keys of a PEM file as those of logs.
func (t *Trust) AddLogKeys(name string, data []byte) error {
	keys, err := readKeys(name, data)
	for _, k := range keys {
		id := sha256.Sum256(k.spki)
		t.Logs = append(t.Logs, Log{Name: "the log of " + name, id: id[:], key: k.public})
	}
	return err
}

// AddCertificates trusts the certificates of a PEM file as authorities of an
// own hierarchy: those that signed themselves are roots.
func (t *Trust) AddCertificates(name string, data []byte) error {
	a := Authority{Name: name}
	err := eachPEM(name, data, "CERTIFICATE", func(der []byte) error {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil {
			a.root = append(a.root, c)
		} else {
			a.between = append(a.between, c)
		}
		return nil
	})
	if err == nil && len(a.root) == 0 {
		err = &place.Fault{Input: "roots", Where: place.InFile(name), Found: "no certificate that signed itself", Want: "a root"}
	}
	if err != nil {
		return err
	}
	t.Authorities = append(t.Authorities, a)
	return nil
}

func readKeys(name string, data []byte) ([]Key, error) {
	var keys []Key
	err := eachPEM(name, data, "PUBLIC KEY", func(der []byte) error {
		k, err := parseKey(der)
		k.File = name
		keys = append(keys, k)
		return err
	})
	return keys, err
}

func parseKey(der []byte) (Key, error) {
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Key{}, err
	}
	sum := sha256.Sum256(der)
	k := Key{ID: hex.EncodeToString(sum[:]), public: public, spki: der}
	return k, usable(public)
}

// usable refuses keys with which nothing is verified here.
func usable(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if hashOf(k) != 0 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Errorf("an RSA key of %d bits, want 2048 to 8192", n)
		}
		return nil
	}
	return fmt.Errorf("a key of type %T, want ECDSA on P-256, P-384 or P-521, Ed25519, or RSA", public)
}

// eachPEM goes through a file that holds blocks of one type and nothing else.
func eachPEM(name string, data []byte, kind string, use func(der []byte) error) error {
	n := 0
	for rest := data; len(bytes.TrimSpace(rest)) > 0; n++ {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		fault := &place.Fault{Input: "trusted " + kind, Where: place.Where{File: name, Part: fmt.Sprintf("block %d", n+1)}}
		switch {
		case block == nil:
			fault.Found, fault.Want = "text that is no PEM", "blocks of "+kind
			return fault
		case block.Type != kind:
			fault.Found, fault.Want = block.Type, kind
			return fault
		case n >= maxEntries:
			fault.Found, fault.Want = "more blocks", fmt.Sprintf("at most %d", maxEntries)
			return fault
		}
		if err := use(block.Bytes); err != nil {
			fault.Err = err
			return fault
		}
	}
	if n == 0 {
		return &place.Fault{Input: "trusted " + kind, Where: place.InFile(name), Found: "nothing", Want: kind + " in PEM"}
	}
	return nil
}

// AddTrustedRoot trusts what a Sigstore trusted root (trusted_root.json) names.
// Its timestamp authorities are passed over: no timestamp is judged here.
func (t *Trust) AddTrustedRoot(name string, data []byte) error {
	v, err := parseOne(name, data)
	if err != nil {
		return err
	}
	r, n := &reader{file: name}, node{v: v}
	r.known(n, "mediaType", "tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities")
	if media := r.text(n, "mediaType"); r.err == nil && !bytes.HasPrefix([]byte(media), []byte(trustedRootType)) {
		r.fail(n.get("mediaType"), media, trustedRootType+"+json;version=0.1")
	}
	var got Trust
	for _, l := range r.list(n, "tlogs", maxEntries) {
		got.Logs = append(got.Logs, r.log(l))
	}
	for _, l := range r.list(n, "ctlogs", maxEntries) {
		got.CTLogs = append(got.CTLogs, r.log(l))
	}
	for _, a := range r.list(n, "certificateAuthorities", maxEntries) {
		got.Authorities = append(got.Authorities, r.authority(a))
	}
	if r.err != nil {
		return r.err
	}
	t.Logs = append(t.Logs, got.Logs...)
	t.CTLogs = append(t.CTLogs, got.CTLogs...)
	t.Authorities = append(t.Authorities, got.Authorities...)
	return nil
}

func (r *reader) log(n node) Log {
	r.known(n, "baseUrl", "hashAlgorithm", "publicKey", "logId", "checkpointKeyId", "operator")
	p := n.get("publicKey")
	r.known(p, "rawBytes", "keyDetails", "validFor")
	l := Log{Name: r.text(n, "baseUrl"), id: r.base64(n.get("logId"), "keyId")}
	if h := r.text(n, "hashAlgorithm"); r.err == nil && h != "SHA2_256" {
		r.fail(n.get("hashAlgorithm"), h, "SHA2_256")
	}
	der := r.base64(p, "rawBytes")
	if r.err != nil {
		return l
	}
	k, err := parseKey(der)
	if err != nil {
		r.fail(p, err.Error(), "a public key in DER")
	}
	l.key = k.public
	l.start, l.end = r.validFor(p)
	return l
}

func (r *reader) authority(n node) Authority {
	r.known(n, "subject", "uri", "certChain", "validFor", "operator")
	a := Authority{Name: r.text(n, "uri"), Keyless: true}
	chain := r.list(n.get("certChain"), "certificates", maxEntries)
	if len(chain) == 0 {
		r.fail(n.get("certChain"), "no certificate", "a chain that ends in a root")
	}
	for i, c := range chain {
		cert := r.certificate(c)
		if r.err != nil {
			return a
		}
		if i == len(chain)-1 {
			if bytes.Equal(cert.RawIssuer, cert.RawSubject) && cert.CheckSignatureFrom(cert) != nil {
				r.fail(c, "a root whose signature of itself does not verify", "the root as it was published")
			}
			a.root = append(a.root, cert)
		} else {
			a.between = append(a.between, cert)
		}
	}
	a.start, a.end = r.validFor(n)
	return a
}

func (r *reader) validFor(n node) (start, end time.Time) {
	v := n.get("validFor")
	if v.v.IsNull() {
		return start, end
	}
	r.known(v, "start", "end")
	if v.has("start") {
		start = r.time(v, "start")
	}
	if v.has("end") {
		end = r.time(v, "end")
	}
	return start, end
}
