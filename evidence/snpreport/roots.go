package snpreport

import (
	"bytes"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/malformed"
)

// AMD's keys, three certificates for each product: the root (ARK), the key that
// signs chips' certificates (ASK, "SEV-Milan") and the one that signs cloud
// providers' (ASVK, "SEV-VLEK-Milan"). Published by AMD's Key Distribution
// Service under vcek/v1/PRODUCT/cert_chain and vlek/v1/PRODUCT/cert_chain; the
// SHA-256 of each is pinned by TestAMDRoots.
//
//go:embed amd/milan.pem amd/genoa.pem amd/turin.pem
var amdFiles embed.FS

// Root is what reports of a product lead to.
type Root struct {
	Product Product
	ARK     *x509.Certificate
	ASK     *x509.Certificate // signs VCEKs
	ASVK    *x509.Certificate // signs VLEKs
}

// AMDRoot returns the embedded certificates of a product.
func AMDRoot(p Product) (Root, error) {
	name := "amd/" + strings.ToLower(string(p)) + ".pem"
	text, err := amdFiles.ReadFile(name)
	if err != nil {
		return Root{}, fmt.Errorf("no root of AMD's is known for product %q, known: Milan, Genoa, Turin", p)
	}
	chain, err := certs.ReadPEM("embedded "+name, text)
	if err != nil {
		return Root{}, err
	}
	if len(chain) != 3 {
		return Root{}, fmt.Errorf("embedded %s: found %d certificates, want 3", name, len(chain))
	}
	return Root{p, chain[0], chain[1], chain[2]}, nil
}

// ParseRoots reads roots other than AMD's from PEM, for tests and
// demonstrations: for each product ARK, ASK and ASVK, told apart by the names
// that AMD gives them ("ARK-Genoa", "SEV-Genoa", "SEV-VLEK-Genoa"). name is the
// file in errors.
func ParseRoots(name string, text []byte) ([]Root, error) {
	chain, err := certs.ReadPEM(name, text)
	if err != nil {
		return nil, err
	}
	var out []Root
	place := func(p Product) *Root {
		for i := range out {
			if out[i].Product == p {
				return &out[i]
			}
		}
		out = append(out, Root{Product: p})
		return &out[len(out)-1]
	}
	for _, c := range chain {
		cn := c.Subject.CommonName
		var dst **x509.Certificate
		for _, p := range products() {
			switch cn {
			case "ARK-" + string(p):
				dst = &place(p).ARK
			case "SEV-" + string(p):
				dst = &place(p).ASK
			case "SEV-VLEK-" + string(p):
				dst = &place(p).ASVK
			}
		}
		if dst == nil || *dst != nil {
			return nil, &malformed.Error{Input: name, Field: "certificate " + cn, Found: "an unknown name, or one that is there twice", Want: "ARK-PRODUCT, SEV-PRODUCT, SEV-VLEK-PRODUCT, each once"}
		}
		*dst = c
	}
	if err := checkRoots(out); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return out, nil
}

// products in the order in which they are tried.
func products() []Product { return []Product{Milan, Genoa, Turin} }

// checkRoots refuses roots of the caller's that leave open which one counts.
func checkRoots(roots []Root) error {
	for i, r := range roots {
		if r.ARK == nil || r.ASK == nil || r.ASVK == nil {
			return fmt.Errorf("root %d (%s): ARK, ASK and ASVK must all be given", i+1, r.Product)
		}
		for _, other := range roots[:i] {
			if other.Product == r.Product || other.ARK.Equal(r.ARK) {
				return fmt.Errorf("root %d (%s) is given twice", i+1, r.Product)
			}
		}
	}
	if roots != nil && len(roots) == 0 {
		return errors.New("the list of roots is empty")
	}
	return nil
}

// find gives the root whose ASK, or ASVK for a VLEK, is named as the issuer of
// a leaf. The embedded ones are read one by one: a verification needs one.
func find(roots []Root, leaf *x509.Certificate, key SigningKey) (*Root, error) {
	match := func(r *Root) bool { return bytes.Equal(r.signer(key).RawSubject, leaf.RawIssuer) }
	if roots != nil {
		for i := range roots {
			if match(&roots[i]) {
				return &roots[i], nil
			}
		}
		return nil, nil
	}
	// Reading only the product that the issuer's name ends in costs a third of
	// reading all; the comparison of names decides all the same.
	for _, p := range products() {
		if !strings.HasSuffix(leaf.Issuer.CommonName, string(p)) {
			continue
		}
		r, err := AMDRoot(p)
		if err != nil {
			return nil, err
		}
		if match(&r) {
			return &r, nil
		}
	}
	return nil, nil
}

// signer is the certificate between root and leaf.
func (r *Root) signer(key SigningKey) *x509.Certificate {
	if key == KeyVLEK {
		return r.ASVK
	}
	return r.ASK
}
