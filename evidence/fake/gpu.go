package fake

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/internal/digest"
)

// GPU is a device with a certificate chain of our own.
type GPU struct {
	Leaf, CA, Root *x509.Certificate

	key  *ecdsa.PrivateKey
	fwid [48]byte
}

// NewGPU makes a GPU whose certificates hold from From to Until.
func NewGPU(seed string, from, until time.Time) (*GPU, error) {
	g := &GPU{fwid: sha512.Sum384([]byte(seed + " firmware"))}
	var keys [3]*ecdsa.PrivateKey
	for i, name := range []string{"root", "ca", "leaf"} {
		var err error
		if keys[i], err = Key(elliptic.P384(), "gpu "+seed+" "+name); err != nil {
			return nil, err
		}
	}
	g.key = keys[2]
	spki, err := x509.MarshalPKIXPublicKey(&g.key.PublicKey)
	if err != nil {
		return nil, err
	}
	type fwid struct {
		Algorithm asn1.ObjectIdentifier
		Digest    []byte
	}
	ext, err := asn1.Marshal(struct {
		Version int
		Key     asn1.RawValue
		FWID    fwid
	}{1, asn1.RawValue{FullBytes: spki}, fwid{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, g.fwid[:]}})
	if err != nil {
		return nil, err
	}
	make := func(name string, ca bool, serial int64, e ...pkix.Extension) Certificate {
		return Certificate{Name: name, CA: ca, From: from, Until: until, Serial: serial, Extensions: e}
	}
	if g.Root, err = Issue(make("retally test device root", true, 1), keys[0], nil, nil); err != nil {
		return nil, err
	}
	if g.CA, err = Issue(make("retally test device CA", true, 2), keys[1], g.Root, keys[0]); err != nil {
		return nil, err
	}
	g.Leaf, err = Issue(make("retally test GPU "+seed, false, 3, pkix.Extension{Id: asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}, Value: ext}), keys[2], g.CA, keys[1])
	return g, err
}

// Pin is the digest under which the GPU's root is trusted.
func (g *GPU) Pin() digest.Digest { return digest.SHA256.Sum(g.Root.Raw) }

// Exchange signs a measurement exchange; change may edit it before.
func (g *GPU) Exchange(nonce [32]byte, change func(*nvidia.Exchange)) ([]byte, error) {
	x := &nvidia.Exchange{RequestParams: [2]byte{1, 0xff}, RequestNonce: nonce, ResponseNonce: [32]byte(g.fwid[:32])}
	for i := range 4 {
		sum := sha512.Sum384([]byte{byte(i)})
		x.Blocks = append(x.Blocks, nvidia.Block{Index: byte(i + 1), Type: 1, Value: sum[:]})
	}
	x.Opaque = []nvidia.Field{
		{Type: nvidia.FieldVBIOS, Value: []byte{0, 0x9f, 0, 0x96, 2, 0, 0, 0}},
		{Type: nvidia.FieldDriver, Value: []byte("550.144.03\x00")},
		{Type: nvidia.FieldFWID, Value: g.fwid[:]},
	}
	if change != nil {
		change(x)
	}
	err := signInto(x.Signature[:], g.key, x.SignedBytes())
	return x.Marshal(), err
}

// Evidence makes an evidence file for GPUs that answer the same nonce.
func Evidence(nonce [32]byte, change func(*nvidia.Exchange), gpus ...*GPU) ([]byte, error) {
	type device struct {
		Certificate string `json:"certificate"`
		Evidence    string `json:"evidence"`
	}
	file := struct {
		Nonce   string   `json:"nonce"`
		Arch    string   `json:"arch"`
		Devices []device `json:"evidence_list"`
	}{Nonce: hex.EncodeToString(nonce[:]), Arch: "HOPPER"}
	for _, g := range gpus {
		raw, err := g.Exchange(nonce, change)
		if err != nil {
			return nil, err
		}
		file.Devices = append(file.Devices, device{base64.StdEncoding.EncodeToString(PEM(g.Leaf, g.CA, g.Root)), base64.StdEncoding.EncodeToString(raw)})
	}
	return json.Marshal(file)
}
