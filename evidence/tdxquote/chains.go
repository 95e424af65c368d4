package tdxquote

import (
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
)

// authority is the hierarchy under which a quote is judged. Its three kinds of
// chains have exactly one form each ("Intel SGX PCK Certificate and Certificate
// Revocation List Profile Specification", section 1.2): everything else that
// leads to the root speaks for something else, and would let the holder of any
// PCK sign collateral.
type authority struct {
	anchors certs.Anchors
	intel   *x509.Certificate // the built-in root
	at      time.Time
}

func newAuthority(roots []*x509.Certificate, at time.Time) (authority, error) {
	intel, err := IntelRoot()
	if err != nil {
		return authority{}, err
	}
	switch {
	case roots == nil:
		roots = []*x509.Certificate{intel}
	case len(roots) == 0:
		return authority{}, errors.New("verify quote: an empty list of roots trusts nothing")
	}
	return authority{anchors: certs.Anchors{Certificates: roots}, intel: intel, at: at}, nil
}

// The names that Intel's certificates have.
const (
	nameRoot      = "Intel SGX Root CA"
	namePCK       = "Intel SGX PCK Certificate"
	namePlatform  = "Intel SGX PCK Platform CA"
	nameProcessor = "Intel SGX PCK Processor CA"
	nameTCB       = "Intel SGX TCB Signing"
)

func (a authority) verify(chain []*x509.Certificate, depth int, ca bool) ([]*x509.Certificate, error) {
	return certs.Verify(chain, a.anchors, certs.Rules{At: a.at, Curve: elliptic.P256(), Signature: x509.ECDSAWithSHA256, Depth: depth, CA: ca})
}

// pck follows the chain of a platform's certificate: PCK, PCK CA, root.
func (a authority) pck(chain []*x509.Certificate) ([]*x509.Certificate, error) {
	path, err := a.verify(chain, 3, false)
	if err != nil {
		return nil, a.explain(err, chain)
	}
	return path, a.roles(path, role{names: []string{namePCK}, sgx: true}, role{names: []string{namePlatform, nameProcessor}})
}

// tcbSigner follows the chain of collateral: the certificate that signs TCB info
// and QE identity is issued by the root itself, is no CA and certifies no
// platform.
func (a authority) tcbSigner(chain []*x509.Certificate) ([]*x509.Certificate, error) {
	path, err := a.verify(chain, 2, false)
	if err != nil {
		return nil, a.explain(err, chain)
	}
	return path, a.roles(path, role{names: []string{nameTCB}})
}

// pckCA follows the chain of a revocation list's signer: PCK CA, root.
func (a authority) pckCA(chain []*x509.Certificate) ([]*x509.Certificate, error) {
	path, err := a.verify(chain, 2, true)
	if err != nil {
		return nil, a.explain(err, chain)
	}
	return path, a.roles(path, role{names: []string{namePlatform, nameProcessor}})
}

// role is what one certificate of a chain is for.
type role struct {
	names []string // one of these, under Intel's root
	sgx   bool     // it certifies a platform
}

func (a authority) roles(path []*x509.Certificate, want ...role) error {
	for i, r := range want {
		c := path[i]
		bad := func(format string, args ...any) error {
			return &certs.Error{Index: i, Subject: c.Subject.String(), Reason: fmt.Sprintf(format, args...)}
		}
		switch {
		case r.sgx && !hasSGX(c):
			return bad("has no SGX extension (1.2.840.113741.1.13.1), so it certifies no platform")
		case !r.sgx && hasSGX(c):
			return bad("has an SGX extension: it certifies a platform and signs nothing else")
		case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0:
			return bad("is limited to other uses (extended key usage)")
		case !c.IsCA && c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
			return bad("may not sign (key usage)")
		case path[len(path)-1].Equal(a.intel) && !slices.Contains(r.names, c.Subject.CommonName):
			return bad("is issued under Intel's root by another name than %q", strings.Join(r.names, `" or "`))
		}
	}
	return nil
}

// hasSGX looks for any extension of Intel's SGX arc, 1.2.840.113741.1.13.
func hasSGX(c *x509.Certificate) bool {
	arc := sgxOID()
	arc = arc[:len(arc)-1]
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool {
		return len(e.Id) >= len(arc) && e.Id[:len(arc)].Equal(asn1.ObjectIdentifier(arc))
	})
}

// explain adds to a refusal what an unknown root is: Intel's hierarchy for
// processors that are not sold yet has certificates of the same names, and
// places of its own for its revocation lists.
func (a authority) explain(err error, chain []*x509.Certificate) error {
	last := chain[len(chain)-1]
	if a.anchors.Has(last) || last.Issuer.CommonName != nameRoot {
		return err
	}
	for _, c := range chain {
		for _, point := range c.CRLDistributionPoints {
			u, bad := url.Parse(point)
			if bad == nil && strings.HasSuffix(u.Hostname(), ".trustedservices.intel.com") && (strings.HasPrefix(u.Hostname(), "sbx.") || strings.HasPrefix(u.Hostname(), "sbx-")) {
				return fmt.Errorf("%w; its certificates say that it is Intel's pre-production (sandbox) root, which certifies processors that are not for sale", err)
			}
		}
	}
	return err
}
