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
	seen := map[string]int{}
	for i := range f.Devices {
		name := "gpu"
		if len(f.Devices) > 1 {
			name = fmt.Sprintf("gpu%d", i)
		}
		d := &f.Devices[i]
		leaf := d.verify(&l, name, anchors, o.At)
		l.Judge(name+"-nonce", bytes.Equal(d.Exchange.RequestNonce[:], nonce), "the request carries "+source,
			fmt.Sprintf("the request carries the nonce %x, %s is %x", d.Exchange.RequestNonce, source, nonce))
		if leaf == nil {
			continue
		}
		if first, again := seen[string(leaf.Raw)]; again {
			l.Fail(name+"-chain", fmt.Sprintf("is the same device as gpu%d", first))
		}
		seen[string(leaf.Raw)] = i
	}
	l.Note("gpu-golden-values", "measurements were not compared: NVIDIA's reference manifests (RIM) and its revocation service (OCSP) need the network")
	return l, nil
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
	sum := sha512.Sum384(d.Raw[:max(0, len(d.Raw)-signatureSize)])
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
