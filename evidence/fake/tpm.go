package fake

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"time"

	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/digest"
)

// TPMOptions describe a machine with a virtual TPM; a zero value is filled in.
type TPMOptions struct {
	Curve elliptic.Curve     // of the attestation key; nil: RSA
	PSS   bool               // RSA signs with RSAPSS
	Banks []digest.Algorithm // default SHA-256

	// To make the certificate wrong in one way.
	Usage      asn1.ObjectIdentifier // of the leaf, default 2.23.133.8.3
	NoUsage    bool
	NoKeyUsage bool
	LeafIsCA   bool
	OtherRoot  bool                // the intermediate is signed by another key than the root's
	Attributes tpmquote.Attributes // of the key, default an attestation key's
}

// TPM is a machine with a virtual TPM, as a cloud has it.
type TPM struct {
	Root, Intermediate, AKCert *x509.Certificate
	// PCRs are what the registers hold; Extend changes them.
	PCRs tpmquote.Values
	// Public is the key's TPMT_PUBLIC.
	Public []byte

	o    TPMOptions
	key  crypto.Signer
	name []byte
}

// NewTPM makes a machine that was just switched on; its certificates hold from
// From to Until.
func NewTPM(seed string, from, until time.Time, o TPMOptions) (*TPM, error) {
	if o.Banks == nil {
		o.Banks = []digest.Algorithm{digest.SHA256}
	}
	if o.Usage == nil {
		o.Usage = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
	}
	if o.Attributes == 0 {
		o.Attributes = tpmquote.FixedTPM | tpmquote.FixedParent | tpmquote.Origin | tpmquote.Restricted | tpmquote.Sign
	}
	t := &TPM{PCRs: tpmquote.Values{}, o: o}
	for _, bank := range o.Banks {
		t.PCRs[bank] = map[int]digest.Digest{}
		for i := range tpmquote.PCRCount {
			fill := byte(0)
			if i >= 17 && i <= 22 {
				fill = 0xff // until a dynamic launch
			}
			d, err := digest.FromBytes(bank, bytes.Repeat([]byte{fill}, bank.Size()))
			if err != nil {
				return nil, err
			}
			t.PCRs[bank][i] = d
		}
	}
	keys, err := rsaKeys()
	if err != nil {
		return nil, err
	}
	t.key = keys[3]
	if o.Curve != nil {
		if t.key, err = Key(o.Curve, "ak "+seed); err != nil {
			return nil, err
		}
	}
	t.describe()
	return t, t.issue(seed, from, until)
}

func (t *TPM) issue(seed string, from, until time.Time) error {
	rootKey, err := Key(elliptic.P384(), "tpm root "+seed)
	if err != nil {
		return err
	}
	key, err := Key(elliptic.P256(), "tpm intermediate "+seed)
	if err != nil {
		return err
	}
	signer := rootKey
	if t.o.OtherRoot {
		if signer, err = Key(elliptic.P384(), "another root "+seed); err != nil {
			return err
		}
	}
	if t.Root, err = Issue(Certificate{Name: "retally test TPM root " + seed, CA: true, From: from, Until: until, Serial: 1}, rootKey, nil, nil); err != nil {
		return err
	}
	parent := *t.Root
	parent.PublicKey = signer.Public() // OtherRoot: the name of one, the key of another
	if t.Intermediate, err = Issue(Certificate{Name: "retally test TPM CA " + seed, CA: true, From: from, Until: until, Serial: 2}, key, &parent, signer); err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "retally test AK " + seed, Organization: []string{"retally test, no vendor"}},
		NotBefore: from, NotAfter: until, BasicConstraintsValid: true, IsCA: t.o.LeafIsCA, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if !t.o.NoKeyUsage {
		template.KeyUsage = x509.KeyUsageDigitalSignature
	}
	if !t.o.NoUsage {
		template.UnknownExtKeyUsage = []asn1.ObjectIdentifier{t.o.Usage}
	}
	der, err := x509.CreateCertificate(nil, template, t.Intermediate, t.key.Public(), key)
	if err != nil {
		return err
	}
	t.AKCert, err = x509.ParseCertificate(der)
	return err
}

// describe writes the key's public area and its qualified name, of a primary key
// of the owner hierarchy.
func (t *TPM) describe() {
	const sha, null, owner = 0x0b, 0x10, 0x40000001
	be := binary.BigEndian
	b := func(values ...uint16) (out []byte) {
		for _, v := range values {
			out = be.AppendUint16(out, v)
		}
		return out
	}
	sized := func(p []byte) []byte { return append(be.AppendUint16(nil, uint16(len(p))), p...) }
	switch key := t.key.Public().(type) {
	case *rsa.PublicKey:
		t.Public = slices.Concat(b(1, sha), be.AppendUint32(nil, uint32(t.o.Attributes)), b(0, null, uint16(t.scheme()), sha, uint16(key.N.BitLen())), make([]byte, 4), sized(key.N.Bytes()))
	case *ecdsa.PublicKey:
		size := (key.Curve.Params().BitSize + 7) / 8
		curve := uint16(3)
		if size == 48 {
			curve = 4
		}
		point, _ := key.Bytes() // a key of ours is on its curve
		t.Public = slices.Concat(b(0x23, sha), be.AppendUint32(nil, uint32(t.o.Attributes)), b(0, null, uint16(tpmquote.ECDSA), sha, curve, null), sized(point[1:1+size]), sized(point[1+size:]))
	}
	sum := sha256.Sum256(t.Public)
	qualified := sha256.Sum256(slices.Concat(be.AppendUint32(nil, owner), b(sha), sum[:]))
	t.name = append(b(sha), qualified[:]...)
}

func (t *TPM) scheme() tpmquote.Scheme {
	switch {
	case t.o.Curve != nil:
		return tpmquote.ECDSA
	case t.o.PSS:
		return tpmquote.RSAPSS
	}
	return tpmquote.RSASSA
}

// AK is the public half of the attestation key.
func (t *TPM) AK() crypto.PublicKey { return t.key.Public() }

// Measure extends a register of every bank by the digest of data.
func (t *TPM) Measure(pcr int, data []byte) error {
	for bank := range t.PCRs {
		if err := t.Extend(pcr, bank.Sum(data)); err != nil {
			return err
		}
	}
	return nil
}

// Extend extends a register of one bank by a digest.
func (t *TPM) Extend(pcr int, d digest.Digest) error {
	bank := d.Algorithm()
	old, ok := t.PCRs[bank][pcr]
	if !ok {
		return errors.New("fake: the TPM has no such register")
	}
	t.PCRs[bank][pcr] = bank.Sum(slices.Concat(old.Bytes(), d.Bytes()))
	return nil
}

// Reset sets a register back, as anything that runs can do with PCR 16 and 23.
func (t *TPM) Reset(pcr int) {
	for bank := range t.PCRs {
		zero, _ := digest.FromBytes(bank, make([]byte, bank.Size())) // of its size
		t.PCRs[bank][pcr] = zero
	}
}

// Quote signs registers: one selection a bank. change may edit the message
// before it is signed.
func (t *TPM) Quote(nonce []byte, change func(*tpmquote.Attest), selections ...tpmquote.Selection) (message, signature []byte, values tpmquote.Values, err error) {
	const hash = digest.SHA256
	values = tpmquote.Values{}
	sum := hash.New()
	for _, s := range selections {
		values[s.Bank] = map[int]digest.Digest{}
		for _, p := range s.PCRs {
			values[s.Bank][p] = t.PCRs[s.Bank][p]
			sum.Write(t.PCRs[s.Bank][p].Bytes())
		}
	}
	a := &tpmquote.Attest{
		Signer: t.name, ExtraData: nonce, Clock: tpmquote.Clock{Milliseconds: 60000, ResetCount: 2, Safe: true}, Firmware: 0x2020031200120003,
		Selections: selections, PCRDigest: sum.Sum(nil),
	}
	if change != nil {
		change(a)
	}
	message = a.Marshal()
	signature, err = t.Sign(message)
	return message, signature, values, err
}

// Sign signs any bytes, which a real attestation key does not.
func (t *TPM) Sign(message []byte) ([]byte, error) {
	s := &tpmquote.Signature{Scheme: t.scheme(), Hash: digest.SHA256}
	sum := sha256.Sum256(message)
	var err error
	switch key := t.key.(type) {
	case *rsa.PrivateKey:
		if t.o.PSS {
			s.RSA, err = rsa.SignPSS(fixedSalt{}, key, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			s.RSA, err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		}
	case *ecdsa.PrivateKey:
		var der []byte
		if der, err = key.Sign(nil, sum[:], crypto.SHA256); err != nil { // nil: by RFC 6979, always the same
			return nil, err
		}
		var pair struct{ R, S *big.Int }
		if _, err = asn1.Unmarshal(der, &pair); err == nil {
			size := (key.Curve.Params().BitSize + 7) / 8
			s.R, s.S = pair.R.FillBytes(make([]byte, size)), pair.S.FillBytes(make([]byte, size))
		}
	}
	return s.Marshal(), err
}

// Files are a quote as tpm2-tools writes it, with the key's chain.
func (t *TPM) Files(nonce []byte, selections ...tpmquote.Selection) (tpmquote.Files, error) {
	message, signature, values, err := t.Quote(nonce, nil, selections...)
	return tpmquote.Files{Message: message, Signature: signature, PCRs: values.PCRFile(), AK: PEM(t.AKCert, t.Intermediate, t.Root)}, err
}

// Select is registers of a bank, without a list all of them.
func Select(bank digest.Algorithm, pcrs ...int) tpmquote.Selection {
	if pcrs == nil {
		for i := range tpmquote.PCRCount {
			pcrs = append(pcrs, i)
		}
	}
	return tpmquote.Selection{Bank: bank, PCRs: pcrs}
}

// ProofOptions describe a proof file of BlindLlama.
type ProofOptions struct {
	RootHash digest.Digest // of the application disk
	CA       string        // PEM text
	Nonce    []byte
	// Claim edits what the file states, after the quote was signed.
	Claim func(map[string]any)
}

// Proof measures what a BlindLlama server measures and writes its proof file
// (version 2).
func (t *TPM) Proof(o ProofOptions) ([]byte, error) {
	for _, e := range blindllama.ApplicationRegister(o.RootHash, o.CA).Events {
		if err := t.Extend(15, e.Digest); err != nil {
			return nil, err
		}
	}
	message, signature, values, err := t.Quote(o.Nonce, nil, blindllama.Policy()...)
	if err != nil {
		return nil, err
	}
	doc := map[string]any{
		"cert_chain": []string{string(PEM(t.AKCert)), string(PEM(t.Intermediate)), string(PEM(t.Root))},
		"quote": map[string]string{
			"message": base64.StdEncoding.EncodeToString(message), "signature": base64.StdEncoding.EncodeToString(signature), "pcr": base64.StdEncoding.EncodeToString(values.PCRFile()),
		},
		"application_disk_roothash": o.RootHash.Hex(), "webserver_rootca": o.CA,
	}
	if o.Claim != nil {
		o.Claim(doc)
	}
	return json.Marshal(doc)
}

// ProofV1 is the older form: a log whose texts went into PCR 16, and the server's
// certificate in PCR 15. No file of this form was published.
func (t *TPM) ProofV1(log []string, certificate string) ([]byte, error) {
	for _, text := range log {
		if err := t.Measure(16, []byte(text)); err != nil {
			return nil, err
		}
	}
	if err := t.Measure(15, []byte(certificate)); err != nil {
		return nil, err
	}
	s := blindllama.Policy()[0]
	s.PCRs = append(s.PCRs, 16)
	message, signature, values, err := t.Quote(nil, nil, s)
	if err != nil {
		return nil, err
	}
	wrap := func(b []byte) map[string][]byte { return map[string][]byte{"base64": b} }
	return json.Marshal(map[string]any{
		"event_log": log,
		"remote_attestation": map[string]any{
			"cert_chain": []any{wrap(t.AKCert.Raw), wrap(t.Intermediate.Raw), wrap(t.Root.Raw)},
			"quote":      map[string]any{"message": wrap(message), "signature": wrap(signature), "pcr": wrap(values.PCRFile())},
		},
	})
}

// Golden writes golden measurements for BlindLlama from what registers hold.
func (t *TPM) Golden(pcrs ...int) ([]byte, error) {
	values := map[int]string{}
	for _, p := range pcrs {
		values[p] = t.PCRs[digest.SHA256][p].Hex()
	}
	return json.Marshal(map[string]any{"measurements": values})
}
