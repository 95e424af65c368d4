package fake

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
)

// pb writes protobuf fields; zero values are left out, as protobuf does.
type pb []byte

func (b *pb) number(n protowire.Number, v uint64) {
	if v != 0 {
		*b = protowire.AppendVarint(protowire.AppendTag(*b, n, protowire.VarintType), v)
	}
}

func (b *pb) bytes(n protowire.Number, v []byte) {
	if len(v) > 0 {
		*b = protowire.AppendBytes(protowire.AppendTag(*b, n, protowire.BytesType), v)
	}
}

// SNPDocument packs a report as Contrast does: an Attestation of go-sev-guest, with
// the machine's certificates.
func (p *SNPPlatform) SNPDocument(report []byte) []byte {
	var r pb
	le := func(at, size int) (v uint64) {
		for i := range size {
			v |= uint64(report[at+i]) << (8 * i)
		}
		return v
	}
	for n := protowire.Number(1); n <= 31; n++ {
		numbers := map[protowire.Number][2]int{
			1: {0, 4}, 2: {4, 4}, 3: {8, 8}, 6: {0x30, 4}, 7: {0x34, 4}, 8: {0x38, 8}, 9: {0x40, 8}, 10: {0x48, 4}, 18: {0x180, 8}, 20: {0x1e0, 8},
			21: {0x1e8, 1}, 22: {0x1e9, 1}, 23: {0x1ea, 1}, 24: {0x1ec, 1}, 25: {0x1ed, 1}, 26: {0x1ee, 1}, 27: {0x1f0, 8}, 30: {0x1f8, 8}, 31: {0x200, 8},
		}
		blobs := map[protowire.Number][2]int{
			4: {0x10, 16}, 5: {0x20, 16}, 11: {0x50, 64}, 12: {0x90, 48}, 13: {0xc0, 32}, 14: {0xe0, 48}, 15: {0x110, 48}, 16: {0x140, 32}, 17: {0x160, 32},
			19: {0x1a0, 64}, 28: {snpreport.Size - 512, 512},
		}
		if f, ok := numbers[n]; ok {
			r.number(n, le(f[0], f[1]))
		}
		if f, ok := blobs[n]; ok {
			r.bytes(n, report[f[0]:f[0]+f[1]])
		}
		if n == 29 && report[0] >= 3 {
			family, model, stepping := le(0x188, 1), le(0x189, 1), le(0x18a, 1)
			r.number(n, (family-15)<<20|model>>4<<16|15<<8|model&15<<4|stepping)
		}
	}
	var chain, out pb
	chain.bytes(1, p.VCEK.Raw)
	chain.bytes(2, p.ASK.Raw)
	chain.bytes(3, p.ARK.Raw)
	out.bytes(1, r)
	out.bytes(2, chain)
	return out
}

// TDXDocument packs a quote of version 4 as Contrast does: a QuoteV4 of
// go-tdx-guest.
func TDXDocument(raw []byte) ([]byte, error) {
	q, err := tdxquote.Parse(raw)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var head, body, auth, cert, inner, report, qeAuth, pck, out pb
	head.number(1, uint64(q.Header.Version))
	head.number(2, uint64(q.Header.AttestationKeyType))
	head.number(3, uint64(q.Header.TEEType))
	for i, part := range [][2]int{{8, 2}, {10, 2}, {12, 16}, {28, 20}} {
		head.bytes(protowire.Number(4+i), raw[part[0]:part[0]+part[1]])
	}
	at := 48
	for i, size := range []int{16, 48, 48, 8, 8, 8, 48, 48, 48, 48, 48, 48, 48, 48, 64} {
		n := protowire.Number(1 + i)
		switch {
		case i == 14:
			n = 12
		case i >= 10:
			n = 11
		}
		body.bytes(n, raw[at:at+size])
		at += size
	}
	size := le.Uint32(raw[at:])
	sig := raw[at+4:][:size]
	auth.bytes(1, sig[:64])
	auth.bytes(2, sig[64:128])
	cert.number(1, uint64(le.Uint16(sig[128:])))
	cert.number(2, uint64(le.Uint32(sig[130:])))
	qe := sig[134:]
	for i, part := range []int{16, -4, 28, 16, 32, 32, 32, 96, -2, -2, 60, 64} {
		n := protowire.Number(1 + i)
		switch part {
		case -4:
			report.number(n, uint64(le.Uint32(qe)))
			part = 4
		case -2:
			report.number(n, uint64(le.Uint16(qe)))
			part = 2
		default:
			report.bytes(n, qe[:part])
		}
		qe = qe[part:]
	}
	inner.bytes(1, report)
	inner.bytes(2, qe[:64])
	qeAuth.number(1, uint64(len(q.QEAuthData)))
	qeAuth.bytes(2, q.QEAuthData)
	inner.bytes(3, qeAuth)
	pck.number(1, 5)
	pck.number(2, uint64(len(q.PCKChain)))
	pck.bytes(3, q.PCKChain)
	inner.bytes(4, pck)
	cert.bytes(3, inner)
	auth.bytes(3, cert)
	out.bytes(1, head)
	out.bytes(2, body)
	out.number(3, uint64(size))
	out.bytes(4, auth)
	out.bytes(5, q.Trailing)
	return out, nil
}

// ATLS makes a self-signed certificate of attested TLS with attestation documents
// by their object identifiers.
func ATLS(key *ecdsa.PrivateKey, from, until time.Time, documents ...pkix.Extension) (*x509.Certificate, error) {
	return Issue(Certificate{Name: "Contrast", From: from, Until: until, Serial: 7, Extensions: documents}, key, nil, nil)
}

// Deployment are the authorities of a Coordinator.
type Deployment struct {
	Root, Mesh *x509.Certificate
	key, mesh  *ecdsa.PrivateKey
}

// NewDeployment makes a Root CA and a Mesh CA, each signed by itself.
func NewDeployment(seed string, from, until time.Time) (*Deployment, error) {
	d := &Deployment{}
	for _, c := range []struct {
		name string
		key  **ecdsa.PrivateKey
		cert **x509.Certificate
	}{{"system:coordinator:root", &d.key, &d.Root}, {"system:coordinator:meshCA", &d.mesh, &d.Mesh}} {
		var err error
		if *c.key, err = Key(elliptic.P256(), seed+c.name); err != nil {
			return nil, err
		}
		if *c.cert, err = Issue(Certificate{Name: c.name, CA: true, From: from, Until: until, Serial: 1}, *c.key, nil, nil); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Leaf makes a workload's certificate under the Mesh CA.
func (d *Deployment) Leaf(key *ecdsa.PrivateKey, secret string, from, until time.Time, sans ...string) (*x509.Certificate, error) {
	t := &x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: sans[0]}, DNSNames: sans, NotBefore: from, NotAfter: until, BasicConstraintsValid: true}
	if secret != "" {
		t.ExtraExtensions = []pkix.Extension{{Id: contrast.OIDWorkloadSecret, Value: []byte(secret)}}
	}
	der, err := x509.CreateCertificate(fixedSalt{}, t, d.Mesh, &key.PublicKey, d.mesh)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// RootPEM and MeshPEM are the authorities as an answer has them.
func (d *Deployment) RootPEM() []byte { return PEM(d.Root) }

// MeshPEM is the Mesh CA.
func (d *Deployment) MeshPEM() []byte { return PEM(d.Mesh) }

// Answer writes a Coordinator's answer to /attest.
func (d *Deployment) Answer(kind asn1.ObjectIdentifier, document []byte, policies [][]byte, manifests ...[]byte) ([]byte, error) {
	all := func(list [][]byte) []string {
		out := []string{}
		for _, b := range list {
			out = append(out, base64.StdEncoding.EncodeToString(b))
		}
		return out
	}
	return json.Marshal(map[string]any{
		"version": "v1.20.0", "raw_attestation_doc": base64.StdEncoding.EncodeToString(document), "attestation_type": []int(kind),
		"manifests": all(manifests), "policies": all(policies), "root_ca": base64.StdEncoding.EncodeToString(d.RootPEM()), "mesh_ca": base64.StdEncoding.EncodeToString(d.MeshPEM()),
	})
}
