// Package fake makes attestation evidence that is signed by roots of our own:
// for tests, and for the demonstration that runs without hardware. Everything
// is derived from a seed, so the same seed gives the same bytes. Nothing here
// verifies against the roots that the program trusts.
package fake

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
)

// Key derives a private key from a seed.
func Key(curve elliptic.Curve, seed string) (*ecdsa.PrivateKey, error) {
	size := (curve.Params().BitSize + 7) / 8
	for i := 0; i < 256; i++ {
		sum := sha512.Sum512([]byte(fmt.Sprintf("retally fake key %d %s", i, seed)))
		if key, err := ecdsa.ParseRawPrivateKey(curve, sum[:size]); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("no key from seed %q", seed)
}

// Certificate describes a certificate of a fake chain.
type Certificate struct {
	Name        string
	CA          bool
	From, Until time.Time
	Serial      int64
	Extensions  []pkix.Extension
}

// Issue makes a certificate for key, signed by parent's key; without a parent
// it signs itself.
func Issue(c Certificate, key *ecdsa.PrivateKey, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(c.Serial), Subject: pkix.Name{CommonName: c.Name, Organization: []string{"retally test, no vendor"}},
		NotBefore: c.From, NotAfter: c.Until, ExtraExtensions: c.Extensions,
		BasicConstraintsValid: true, IsCA: c.CA, KeyUsage: x509.KeyUsageDigitalSignature,
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if c.CA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	if parentKey.Curve == elliptic.P384() {
		template.SignatureAlgorithm = x509.ECDSAWithSHA384
	}
	der, err := x509.CreateCertificate(nil, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// PEM writes certificates one after the other.
func PEM(chain ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range chain {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.Bytes()
}

// Platform is a machine with a TDX quoting enclave.
type Platform struct {
	Root, CA, PCK, TCBSigner *x509.Certificate

	rootKey, caKey, pckKey, tcbKey, attestationKey *ecdsa.PrivateKey

	From, Until time.Time
	FMSPC       [6]byte
}

// NewPlatform makes a platform whose certificates hold from From to Until.
func NewPlatform(seed string, from, until time.Time) (*Platform, error) {
	p := &Platform{From: from, Until: until, FMSPC: [6]byte{0xb0, 0xc0, 0x6f}}
	for _, k := range []struct {
		key  **ecdsa.PrivateKey
		name string
	}{{&p.rootKey, "root"}, {&p.caKey, "ca"}, {&p.pckKey, "pck"}, {&p.tcbKey, "tcb"}, {&p.attestationKey, "attestation"}} {
		key, err := Key(elliptic.P256(), seed+" "+k.name)
		if err != nil {
			return nil, err
		}
		*k.key = key
	}
	sgx, err := sgxExtension(p.FMSPC)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		cert        **x509.Certificate
		make        Certificate
		key, signer *ecdsa.PrivateKey
		parent      func() *x509.Certificate
	}{
		{&p.Root, Certificate{Name: "retally test root " + seed, CA: true, Serial: 1}, p.rootKey, nil, func() *x509.Certificate { return nil }},
		{&p.CA, Certificate{Name: "retally test PCK CA", CA: true, Serial: 2}, p.caKey, p.rootKey, func() *x509.Certificate { return p.Root }},
		{&p.PCK, Certificate{Name: "retally test PCK", Serial: 3, Extensions: []pkix.Extension{sgx}}, p.pckKey, p.caKey, func() *x509.Certificate { return p.CA }},
		{&p.TCBSigner, Certificate{Name: "retally test TCB signing", Serial: 4}, p.tcbKey, p.rootKey, func() *x509.Certificate { return p.Root }},
	} {
		c.make.From, c.make.Until = from, until
		if *c.cert, err = Issue(c.make, c.key, c.parent(), c.signer); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// The platform's SVNs as its PCK certificate states them.
const (
	componentSVN = 5
	pceSVN       = 13
)

// Instance is what a platform CA certifies about a machine beside its processor.
type Instance struct {
	PIID         [16]byte
	SGXType      int
	Dynamic, SMT bool
}

// Certify issues the PCK certificate again, with what is known of the machine.
func (p *Platform) Certify(in Instance) error {
	sgx, err := sgxExtension(p.FMSPC, in)
	if err != nil {
		return err
	}
	p.PCK, err = Issue(Certificate{Name: "retally test PCK", Serial: 3, From: p.From, Until: p.Until, Extensions: []pkix.Extension{sgx}}, p.pckKey, p.CA, p.caKey)
	return err
}

func sgxExtension(fmspc [6]byte, of ...Instance) (pkix.Extension, error) {
	type entry struct {
		ID    asn1.ObjectIdentifier
		Value any
	}
	oid := func(below ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, below...)
	}
	var tcb []asn1.RawValue
	marshal := func(id asn1.ObjectIdentifier, v any) (asn1.RawValue, error) {
		der, err := asn1.Marshal(entry{id, v})
		return asn1.RawValue{FullBytes: der}, err
	}
	for i := 1; i <= 16; i++ {
		e, err := marshal(oid(2, i), componentSVN)
		if err != nil {
			return pkix.Extension{}, err
		}
		tcb = append(tcb, e)
	}
	for _, v := range []struct {
		n     int
		value any
	}{{17, pceSVN}, {18, bytes.Repeat([]byte{componentSVN}, 16)}} {
		e, err := marshal(oid(2, v.n), v.value)
		if err != nil {
			return pkix.Extension{}, err
		}
		tcb = append(tcb, e)
	}
	var all []asn1.RawValue
	type part struct {
		n     int
		value any
	}
	parts := []part{{1, make([]byte, 16)}, {2, tcb}, {3, []byte{0, 0}}, {4, fmspc[:]}, {5, asn1.Enumerated(1)}}
	for _, in := range of {
		var flags []asn1.RawValue
		for i, on := range []bool{in.Dynamic, true, in.SMT} {
			e, err := marshal(oid(7, i+1), on)
			if err != nil {
				return pkix.Extension{}, err
			}
			flags = append(flags, e)
		}
		parts[4].value = asn1.Enumerated(in.SGXType)
		parts = append(parts, part{6, in.PIID[:]}, part{7, flags})
	}
	for _, v := range parts {
		e, err := marshal(oid(v.n), v.value)
		if err != nil {
			return pkix.Extension{}, err
		}
		all = append(all, e)
	}
	der, err := asn1.Marshal(all)
	return pkix.Extension{Id: oid(), Value: der}, err
}

// Options change what a quote says, to make it wrong in one way.
type Options struct {
	Version   uint16            // default 4
	BodyType  tdxquote.BodyType // default TD 1.0
	ForeignQE bool              // the quoting enclave is not Intel's
	Trailing  int               // zero bytes after the signature data
	// AsGiven leaves TD attributes and XFAM as they are. Otherwise ones that are
	// zero get the values of an ordinary Linux machine.
	AsGiven bool
}

// fill gives what the caller left out a value that real machines have.
func fill(body *tdxquote.Body) {
	if body.TDAttributes == [8]byte{} {
		body.TDAttributes = [8]byte{3: 0x10} // SEPT_VE_DISABLE
	}
	if body.XFAM == [8]byte{} {
		body.XFAM = [8]byte{0xe7, 0x02, 0x06}
	}
}

// Quote signs a TD report as the platform's quoting enclave would.
func (p *Platform) Quote(body tdxquote.Body, o Options) ([]byte, error) {
	if o.Version == 0 {
		o.Version = 4
	}
	if o.BodyType == 0 {
		o.BodyType = tdxquote.TD10
	}
	if !o.AsGiven {
		fill(&body)
	}
	for _, d := range []*digest.Digest{&body.MRSEAM, &body.MRSIGNERSEAM, &body.MRTD, &body.RTMR[0], &body.RTMR[1], &body.RTMR[2], &body.RTMR[3], &body.MRSERVICETD} {
		if d.IsZero() { // a register that the caller left out is 48 zero bytes
			zero, err := digest.FromBytes(digest.SHA384, make([]byte, digest.SHA384.Size()))
			if err != nil {
				return nil, err
			}
			*d = zero
		}
	}
	q := &tdxquote.Quote{BodyType: o.BodyType, Body: body, QEAuthData: bytes.Repeat([]byte{0x20}, 32), Trailing: make([]byte, o.Trailing)}
	q.Header = tdxquote.Header{Version: o.Version, AttestationKeyType: 2, TEEType: 0x81}
	vendor, err := hex.DecodeString("939a7233f79c4ca9940a0db3957f0607")
	if err != nil {
		return nil, err
	}
	copy(q.Header.QEVendorID[:], vendor)
	point, err := p.attestationKey.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	copy(q.AttestationKey[:], point[1:])
	q.PCKChain = append(PEM(p.PCK, p.CA, p.Root), 0)
	if q.QEReport, err = qeReport(q, o.ForeignQE); err != nil {
		return nil, err
	}
	if err := signInto(q.QESignature[:], p.pckKey, q.QEReport.Bytes()); err != nil {
		return nil, err
	}
	if err := signInto(q.Signature[:], p.attestationKey, q.SignedBytes()); err != nil {
		return nil, err
	}
	return q.Marshal(), nil
}

// qeReport builds the SGX report of a quoting enclave that vouches for q's key.
func qeReport(q *tdxquote.Quote, foreign bool) (tdxquote.EnclaveReport, error) {
	var raw [384]byte
	raw[48] = 0x11 // initialized, provisioning key
	signer, err := hex.DecodeString("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
	if err != nil {
		return tdxquote.EnclaveReport{}, err
	}
	copy(raw[128:], signer)
	if foreign {
		raw[128] ^= 1
	}
	binary.LittleEndian.PutUint16(raw[256:], 2)
	binary.LittleEndian.PutUint16(raw[258:], 8)
	sum := sha256.Sum256(append(append([]byte(nil), q.AttestationKey[:]...), q.QEAuthData...))
	copy(raw[320:], sum[:])
	return tdxquote.ParseEnclaveReport(raw[:])
}

// signInto writes r || s of an ECDSA signature over data.
func signInto(dst []byte, key *ecdsa.PrivateKey, data []byte) error {
	hash := crypto.SHA256
	if key.Curve == elliptic.P384() {
		hash = crypto.SHA384
	}
	h := hash.New()
	h.Write(data)
	der, err := key.Sign(nil, h.Sum(nil), hash)
	if err != nil {
		return err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return err
	}
	sig.R.FillBytes(dst[:len(dst)/2])
	sig.S.FillBytes(dst[len(dst)/2:])
	return nil
}

// Levels are what fake collateral says about the platform.
type Levels struct {
	Status       string // of the level that the platform reaches, default UpToDate
	Module, QE   string // default UpToDate
	PCESVN       int    // that the level asks for, default what the platform has
	FMSPC        string // default the platform's, in capitals as Intel writes it
	Revoked      bool   // the PCK is on the revocation list
	Issued, Next time.Time
}

// Collateral makes the collateral file of the platform.
func (p *Platform) Collateral(v Levels) ([]byte, error) {
	def := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	def(&v.Status, tdxquote.UpToDate)
	def(&v.Module, tdxquote.UpToDate)
	def(&v.QE, tdxquote.UpToDate)
	def(&v.FMSPC, fmt.Sprintf("%X", p.FMSPC))
	if v.PCESVN == 0 {
		v.PCESVN = pceSVN
	}
	if v.Issued.IsZero() {
		v.Issued, v.Next = p.From, p.Until
	}
	components := func(svn int) []any {
		var out []any
		for range 16 {
			out = append(out, map[string]any{"svn": svn})
		}
		return out
	}
	dates := func(m map[string]any) map[string]any {
		m["issueDate"], m["nextUpdate"] = v.Issued.UTC().Format(time.RFC3339), v.Next.UTC().Format(time.RFC3339)
		m["tcbEvaluationDataNumber"] = 17
		return m
	}
	level := func(status string, tcb map[string]any) []any {
		return []any{map[string]any{"tcb": tcb, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status}}
	}
	module := map[string]any{"mrsigner": fmt.Sprintf("%096x", 0), "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"}
	identity := map[string]any{"id": "TDX_01", "tcbLevels": level(v.Module, map[string]any{"isvsvn": 2})}
	for k, x := range module {
		identity[k] = x
	}
	info := dates(map[string]any{
		"id": "TDX", "version": 3, "fmspc": v.FMSPC, "pceId": "0000", "tcbType": 0, "tdxModule": module, "tdxModuleIdentities": []any{identity},
		"tcbLevels": level(v.Status, map[string]any{"sgxtcbcomponents": components(componentSVN), "tdxtcbcomponents": components(0), "pcesvn": v.PCESVN}),
	})
	qe := dates(map[string]any{
		"id": "TD_QE", "version": 2, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": "DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5", "isvprodid": 2, "tcbLevels": level(v.QE, map[string]any{"isvsvn": 4}),
	})
	out := map[string]string{"pck_crl_issuer_chain": string(PEM(p.CA, p.Root))}
	for name, doc := range map[string]any{"tcb_info": info, "qe_identity": qe} {
		text, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		var sig [64]byte
		if err := signInto(sig[:], p.tcbKey, text); err != nil {
			return nil, err
		}
		out[name], out[name+"_signature"], out[name+"_issuer_chain"] = string(text), hex.EncodeToString(sig[:]), string(PEM(p.TCBSigner, p.Root))
	}
	var entries []x509.RevocationListEntry
	if v.Revoked {
		entries = append(entries, x509.RevocationListEntry{SerialNumber: p.PCK.SerialNumber, RevocationTime: v.Issued})
	}
	for name, l := range map[string]struct {
		issuer  *x509.Certificate
		key     *ecdsa.PrivateKey
		entries []x509.RevocationListEntry
	}{"root_ca_crl": {p.Root, p.rootKey, nil}, "pck_crl": {p.CA, p.caKey, entries}} {
		der, err := x509.CreateRevocationList(nil, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: v.Issued, NextUpdate: v.Next, RevokedCertificateEntries: l.entries}, l.issuer, l.key)
		if err != nil {
			return nil, err
		}
		out[name] = hex.EncodeToString(der)
	}
	return json.Marshal(out)
}
