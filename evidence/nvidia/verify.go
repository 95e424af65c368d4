package nvidia

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Options say against what evidence is verified.
type Options struct {
	// At is the time at which the certificates must be valid. Required.
	At time.Time
	// Nonce is what the request must carry; nil: what the file says, which
	// shows only that the file is of one piece.
	Nonce []byte
	// Roots replaces NVIDIA's pinned root, for tests and demonstrations.
	Roots []digest.Digest
}

// Verify checks every device of a file. An error means that the options are
// wrong; whatever is wrong with the evidence is a failed check.
func Verify(f *File, o Options) ([]verdict.Check, error) {
	if o.At.IsZero() {
		return nil, errors.New("verify GPU evidence: no time given")
	}
	anchors := rootPin()
	if o.Roots != nil {
		anchors = certs.Anchors{SHA256: o.Roots}
	}
	nonce, source := f.Nonce[:], "the file's nonce"
	var l verdict.List
	if o.Nonce != nil {
		nonce, source = o.Nonce, "the nonce asked for"
		l.Judge("gpu-file-nonce", bytes.Equal(f.Nonce[:], o.Nonce), "the file is for the nonce asked for",
			fmt.Sprintf("the file is for the nonce %x, asked for is %x", f.Nonce, o.Nonce))
	}
	seen := map[string]string{}
	of := map[string]int{} // how many of a kind there are, and were
	for i := range f.Devices {
		of[f.Devices[i].kind()]++
	}
	at := map[string]int{}
	for i := range f.Devices {
		d := &f.Devices[i]
		name := d.kind()
		if of[name] > 1 {
			at[name]++
			name = fmt.Sprintf("%s%d", name, at[name]-1)
		}
		leaf := d.verify(&l, name, anchors, o.At)
		l.Judge(name+"-nonce", bytes.Equal(d.Exchange.RequestNonce[:], nonce), "the request carries "+source,
			fmt.Sprintf("the request carries the nonce %x, %s is %x", d.Exchange.RequestNonce, source, nonce))
		if leaf == nil {
			continue
		}
		if first, again := seen[string(leaf.Raw)]; again {
			l.Fail(name+"-chain", "is the same device as "+first)
		} else {
			seen[string(leaf.Raw)] = name
		}
		d.checkClaims(&l, name)
	}
	l.Note("gpu-golden-values", "measurements were not compared: NVIDIA's reference manifests (RIM) and its revocation service (OCSP) need the network")
	return l, nil
}

// kind is what checks call a device.
func (d *Device) kind() string {
	if d.Arch == Switch {
		return "switch"
	}
	return "gpu"
}

// checkClaims: what a list says of a device beside the signed exchange is what
// the device signed.
func (d *Device) checkClaims(l *verdict.List, name string) {
	for _, c := range []struct{ what, claimed, signed string }{
		{"driver version", d.Driver, d.Exchange.Driver()}, {"VBIOS version", d.VBIOS, d.Exchange.VBIOS()},
	} {
		if c.claimed != "" && c.signed != "" && !strings.EqualFold(c.claimed, c.signed) {
			l.Fail(name+"-claims", fmt.Sprintf("the list says %s %.40q, the device signed %q", c.what, c.claimed, c.signed))
		}
	}
}

// verify checks chain and signature of one device and returns its leaf.
func (d *Device) verify(l *verdict.List, name string, anchors certs.Anchors, at time.Time) *x509.Certificate {
	chain, err := certs.ReadPEM("GPU certificate chain", d.CertificatesPEM)
	if err != nil {
		l.Fail(name+"-chain", err.Error())
		return nil
	}
	leaf := chain[0]
	if _, err := certs.Verify(chain, anchors, certs.Rules{At: at, Curve: elliptic.P384(), Signature: x509.ECDSAWithSHA384}); err != nil {
		l.Fail(name+"-chain", err.Error())
	} else {
		l.Pass(name+"-chain", fmt.Sprintf("%d certificates from %q to the root %q", len(chain), leaf.Subject.CommonName, chain[len(chain)-1].Subject.CommonName))
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		l.Fail(name+"-signature", "the device certificate has no key on P-384")
		return leaf
	}
	// Over the bytes as they came, which Marshal gives back exactly.
	sum := sha512.Sum384(d.Raw[:max(0, len(d.Raw)-d.Exchange.Padding-signatureSize)])
	l.Judge(name+"-signature", certs.VerifyRaw(key, sum[:], d.Exchange.Signature[:]),
		fmt.Sprintf("request, nonces and %d measurements are signed by the device", len(d.Exchange.Blocks)),
		"the device's signature over the measurement exchange does not verify")
	d.checkFirmware(l, name, leaf)
	return leaf
}

// compositeDevice is the TCG "Composite Device ID" extension, 2.23.133.5.4.1:
// the device key and the firmware that it was derived for.
type compositeDevice struct {
	Version int
	Key     asn1.RawValue
	FWID    struct {
		Algorithm asn1.ObjectIdentifier
		Digest    []byte
	}
}

// checkFirmware holds the firmware identity in the signed data against the one
// that the device certificate was made for.
func (d *Device) checkFirmware(l *verdict.List, name string, leaf *x509.Certificate) {
	signed := d.Exchange.Field(FieldFWID)
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 23, 133, 5, 4, 1}) {
			continue
		}
		var c compositeDevice
		if rest, err := asn1.Unmarshal(e.Value, &c); err != nil || len(rest) > 0 {
			l.Fail(name+"-firmware", "the device identity extension of the certificate cannot be read")
			return
		}
		if signed == nil {
			l.Note(name+"-firmware", "the evidence names no firmware identity")
			return
		}
		l.Judge(name+"-firmware", bytes.Equal(c.FWID.Digest, signed),
			"the firmware identity is the certificate's, "+hex.EncodeToString(signed),
			fmt.Sprintf("the firmware identity is %x, the certificate was made for %x", signed, c.FWID.Digest))
		return
	}
	l.Note(name+"-firmware", "the certificate names no firmware identity")
}
