package fake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/internal/digest"
)

//go:embed snp_test_keys.pem
var snpKeys []byte

// rsaKeys reads the four embedded keys, once: checking the primes of one takes
// longer than all else that a machine is made of.
var rsaKeys = sync.OnceValues(func() ([]*rsa.PrivateKey, error) {
	var out []*rsa.PrivateKey
	for block, rest := pem.Decode(snpKeys); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		private, ok := key.(*rsa.PrivateKey)
		if !ok {
			return nil, errors.New("fake: a key of the file is no RSA key")
		}
		out = append(out, private)
	}
	if len(out) != 4 {
		return nil, fmt.Errorf("fake: found %d RSA keys, want 4", len(out))
	}
	return out, nil
})

// fixedSalt makes RSA-PSS signatures that are the same every time.
type fixedSalt struct{}

func (fixedSalt) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0x5a
	}
	return len(b), nil
}

// SNPOptions describe a machine; a zero value is filled in.
type SNPOptions struct {
	Product snpreport.Product    // default Genoa
	TCB     snpreport.Components // default 7, 1, 20, 70 (and FMC 1 on Turin)
	Chip    string               // another chip of the same product and roots
	CSP     string               // of the VLEK, default "CN=retally.example"

	// AMDNames gives the certificates AMD's subjects, which other libraries ask
	// for; without it they say that they are of no vendor.
	AMDNames bool

	// To make the certificates wrong in one way.
	OtherARK     bool                  // the ASK is signed by another key
	ASKNoCA      bool                  // the ASK is no CA
	ProductName  string                // in the leaves, default the product
	LeafTCB      *snpreport.Components // in the leaves, default TCB
	WrappedHWID  bool                  // the chip's id in an octet string, as newer certificates have it
	Extra        []int                 // another extension of AMD's in the leaves, below its arc
	LeafIsCA     bool
	LeafPKCS1v15 bool // the leaves are signed with the older padding
}

// SNPPlatform is a machine with SEV-SNP.
type SNPPlatform struct {
	ARK, ASK, ASVK, VCEK, VLEK *x509.Certificate

	Product snpreport.Product
	ChipID  []byte // 64 bytes, on Turin 8
	TCB     snpreport.Components

	arkKey, askKey, asvkKey *rsa.PrivateKey
	vcekKey, vlekKey        *ecdsa.PrivateKey
	from, until             time.Time
}

// NewSNPPlatform makes a machine whose certificates hold from From to Until.
func NewSNPPlatform(seed string, from, until time.Time, o SNPOptions) (*SNPPlatform, error) {
	if o.Product == "" {
		o.Product = snpreport.Genoa
	}
	if o.TCB == (snpreport.Components{}) {
		o.TCB = snpreport.Components{BootLoader: 7, TEE: 1, SNP: 20, Microcode: 70}
		if o.Product == snpreport.Turin {
			o.TCB.FMC = 1
		}
	}
	if o.ProductName == "" {
		o.ProductName = string(o.Product)
	}
	if o.LeafTCB == nil {
		o.LeafTCB = &o.TCB
	}
	if o.CSP == "" {
		o.CSP = "CN=retally.example"
	}
	p := &SNPPlatform{Product: o.Product, TCB: o.TCB, from: from, until: until}
	chip := sha512.Sum512([]byte("retally fake chip " + seed + o.Chip))
	p.ChipID = chip[:]
	if o.Product == snpreport.Turin {
		p.ChipID = chip[:8]
	}
	return p, p.issue(seed, o)
}

func (p *SNPPlatform) issue(seed string, o SNPOptions) error {
	keys, err := rsaKeys()
	if err != nil {
		return err
	}
	p.arkKey, p.askKey, p.asvkKey = keys[0], keys[1], keys[2]
	if p.vcekKey, err = Key(elliptic.P384(), "vcek "+seed+o.Chip); err != nil {
		return err
	}
	if p.vlekKey, err = Key(elliptic.P384(), "vlek "+seed); err != nil {
		return err
	}
	signer := p.arkKey
	if o.OtherARK {
		signer = keys[3]
	}
	name := func(cn string) pkix.Name {
		if o.AMDNames {
			return pkix.Name{
				CommonName: cn, Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"},
				Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
			}
		}
		return pkix.Name{CommonName: cn, Organization: []string{"retally test, no vendor"}, OrganizationalUnit: []string{seed}}
	}
	ca := func(cn string, serial int64, depth int) *x509.Certificate {
		return &x509.Certificate{
			Subject: name(cn), SerialNumber: big.NewInt(serial), NotBefore: p.from, NotAfter: p.until, SignatureAlgorithm: x509.SHA384WithRSAPSS,
			BasicConstraintsValid: true, IsCA: true, MaxPathLen: depth, MaxPathLenZero: depth == 0, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	ark := ca("ARK-"+string(p.Product), 0x10000, -1)
	ark.KeyUsage |= x509.KeyUsageCRLSign
	ask, asvk := ca("SEV-"+string(p.Product), 0x10001, 0), ca("SEV-VLEK-"+string(p.Product), 0x10101, 0)
	if o.ASKNoCA {
		ask.IsCA, ask.MaxPathLen, ask.MaxPathLenZero = false, -1, false
	}
	vcek, vlek := p.leaf(name("SEV-VCEK"), o, true), p.leaf(name("SEV-VLEK"), o, false)
	for _, c := range []struct {
		dst      **x509.Certificate
		template *x509.Certificate
		parent   **x509.Certificate
		public   crypto.PublicKey
		signer   *rsa.PrivateKey
	}{
		{&p.ARK, ark, nil, &p.arkKey.PublicKey, p.arkKey},
		{&p.ASK, ask, &p.ARK, &p.askKey.PublicKey, signer},
		{&p.ASVK, asvk, &p.ARK, &p.asvkKey.PublicKey, signer},
		{&p.VCEK, vcek, &p.ASK, &p.vcekKey.PublicKey, p.askKey},
		{&p.VLEK, vlek, &p.ASVK, &p.vlekKey.PublicKey, p.asvkKey},
	} {
		parent := *c.template
		if c.parent != nil {
			parent = **c.parent
		}
		parent.PublicKey = &c.signer.PublicKey // OtherARK: the name of one, the key of another
		der, err := x509.CreateCertificate(fixedSalt{}, c.template, &parent, c.public, c.signer)
		if err != nil {
			return err
		}
		if *c.dst, err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	return nil
}

// leaf describes a VCEK, which names the chip, or a VLEK, which names the
// provider.
func (p *SNPPlatform) leaf(subject pkix.Name, o SNPOptions, vcek bool) *x509.Certificate {
	c := &x509.Certificate{
		Subject: subject, SerialNumber: new(big.Int), NotBefore: p.from, NotAfter: p.until, SignatureAlgorithm: x509.SHA384WithRSAPSS,
		BasicConstraintsValid: o.LeafIsCA, IsCA: o.LeafIsCA,
	}
	if o.LeafPKCS1v15 {
		c.SignatureAlgorithm = x509.SHA384WithRSA
	}
	add := func(value []byte, below ...int) {
		id := append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, below...)
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: value})
	}
	integer := func(n uint8) []byte {
		if n > 127 {
			return []byte{asn1.TagInteger, 2, 0, n}
		}
		return []byte{asn1.TagInteger, 1, n}
	}
	text := func(s string) []byte { return append([]byte{asn1.TagIA5String, byte(len(s))}, s...) }
	tcb := *o.LeafTCB
	version := uint8(0)
	if p.Product == snpreport.Turin {
		version = 1
		add(integer(tcb.FMC), 3, 9)
	}
	add(integer(version), 1)
	add(text(o.ProductName), 2)
	add(integer(tcb.BootLoader), 3, 1)
	add(integer(tcb.TEE), 3, 2)
	add(integer(tcb.SNP), 3, 3)
	for i := 4; i < 8; i++ {
		add(integer(0), 3, i)
	}
	add(integer(tcb.Microcode), 3, 8)
	if o.Extra != nil {
		add(integer(0), o.Extra...)
	}
	switch {
	case !vcek:
		add(text(o.CSP), 5)
	case o.WrappedHWID:
		add(append([]byte{asn1.TagOctetString, byte(len(p.ChipID))}, p.ChipID...), 4)
	default:
		add(p.ChipID, 4)
	}
	return c
}

// Root is what the machine's reports lead to.
func (p *SNPPlatform) Root() snpreport.Root {
	return snpreport.Root{Product: p.Product, ARK: p.ARK, ASK: p.ASK, ASVK: p.ASVK}
}

// Certificates are those that a host hands out with a report.
func (p *SNPPlatform) Certificates() snpreport.Certificates {
	return snpreport.Certificates{VCEK: p.VCEK, VLEK: p.VLEK, Signers: []*x509.Certificate{p.ASK, p.ASVK}, ARK: p.ARK}
}

// Report signs a report as the machine's firmware would: with the VCEK, or with
// the VLEK if the report says so. What the machine knows better than the caller
// is filled in (processor, chip, TCBs, firmware); change may edit it all before
// the signature.
func (p *SNPPlatform) Report(r snpreport.Report, change func(*snpreport.Report)) ([]byte, error) {
	if r.Version == 0 {
		r.Version = 3
		if p.Product == snpreport.Turin {
			r.Version = 5
		}
	}
	if r.Policy == 0 {
		r.Policy = 1<<17 | snpreport.PolicySMT
	}
	if r.Version >= 3 {
		processor := map[snpreport.Product][3]uint8{snpreport.Milan: {0x19, 0x01, 1}, snpreport.Genoa: {0x19, 0x11, 1}, snpreport.Turin: {0x1a, 0x02, 1}}[p.Product]
		r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = processor[0], processor[1], processor[2]
	}
	if r.Version >= 5 {
		r.LaunchMitVector, r.CurrentMitVector = 1, 3
	}
	copy(r.ChipID[:], p.ChipID)
	tcb := p.TCB.TCB(p.Product)
	r.CurrentTCB, r.ReportedTCB, r.CommittedTCB, r.LaunchTCB = tcb, tcb, tcb, tcb
	r.Current = snpreport.FirmwareVersion{Build: 39, Minor: 55, Major: 1}
	r.Committed = r.Current
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff
	}
	for _, d := range []*digest.Digest{&r.Measurement, &r.IDKeyDigest, &r.AuthorKeyDigest} {
		if d.IsZero() { // what the caller left out is 48 zero bytes
			zero, err := digest.FromBytes(digest.SHA384, make([]byte, digest.SHA384.Size()))
			if err != nil {
				return nil, err
			}
			*d = zero
		}
	}
	if change != nil {
		change(&r)
	}
	return p.Sign(r)
}

// Sign signs a report as it is.
func (p *SNPPlatform) Sign(r snpreport.Report) ([]byte, error) {
	key := p.vcekKey
	if r.SigningKey == snpreport.KeyVLEK {
		key = p.vlekKey
	}
	var sig [96]byte
	if err := signInto(sig[:], key, r.SignedBytes()); err != nil {
		return nil, err
	}
	copy(r.R[:], sig[:48])
	copy(r.S[:], sig[48:])
	return r.Marshal(), nil
}

// CRL makes the revocation list of the machine's product.
func (p *SNPPlatform) CRL(issued, next time.Time, revoked ...*x509.Certificate) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: issued, NextUpdate: next, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: issued})
	}
	return x509.CreateRevocationList(io.Reader(fixedSalt{}), list, p.ARK, p.arkKey)
}

// TableEntry is a part of a certificate table.
type TableEntry struct {
	GUID string
	Data []byte
}

// SNPTable lays out a certificate table as Linux hands it out, filled up to
// pages.
func SNPTable(entries ...TableEntry) ([]byte, error) {
	const entrySize, page = 24, 4096
	var head, body []byte
	start := entrySize * (len(entries) + 1)
	for _, e := range entries {
		id, err := hex.DecodeString(strings.ReplaceAll(e.GUID, "-", ""))
		if err != nil || len(id) != 16 {
			return nil, fmt.Errorf("fake: %q is no GUID", e.GUID)
		}
		head = binary.LittleEndian.AppendUint32(append(head, id...), uint32(start+len(body)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(e.Data)))
		body = append(body, e.Data...)
	}
	out := slices.Concat(head, make([]byte, entrySize), body)
	return append(out, make([]byte, (page-len(out)%page)%page)...), nil
}

// Table is the machine's certificate table, with its VCEK.
func (p *SNPPlatform) Table() ([]byte, error) {
	return SNPTable(
		TableEntry{"c0b406a4-a803-4952-9743-3fb6014cd0ae", p.ARK.Raw},
		TableEntry{"4ab7b379-bbac-4fe4-a02f-05aef327c782", p.ASK.Raw},
		TableEntry{"63da758d-e664-4564-adc5-f4b93be8accd", p.VCEK.Raw},
	)
}

// HCL makes the report of an Azure machine whose virtual TPM has the key ak.
func (p *SNPPlatform) HCL(ak *rsa.PublicKey, r snpreport.Report) ([]byte, error) {
	h := &hcl.Report{Version: 1, Type: hcl.SNP, Algorithm: digest.SHA256, RuntimeData: hcl.RuntimeJSON(ak, "00000000-0000-0000-0000-000000000000")}
	r.ReportData = h.RuntimeDigest()
	raw, err := p.Report(r, nil)
	if err != nil {
		return nil, err
	}
	copy(h.Hardware[:], raw)
	return h.Marshal(), nil
}
