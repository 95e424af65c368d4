package tdxquote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/verdict"
)

// MaxCollateral bounds a collateral file in bytes; real ones have about 25 KiB.
const MaxCollateral = 4 << 20

// Collateral is what Intel publishes about a platform family at a time: TCB
// levels, the quoting enclave's identity and the revocation lists, each signed
// ("Intel SGX and TDX Provisioning Certification Service API", version 4).
type Collateral struct {
	TCBInfo    Signed
	QEIdentity Signed

	RootCRL      *x509.RevocationList
	PCKCRL       *x509.RevocationList
	PCKCRLIssuer []*x509.Certificate // who signed PCKCRL, up to the root; nil: the CA that issued the quote's PCK
	PCKChain     []*x509.Certificate // nil if the file has none: the quote's own is used then

	tcbInfo    *tcbInfo
	qeIdentity *qeIdentity
}

// Signed is a JSON document as it was signed, with its signature and signer.
type Signed struct {
	Document  string
	Signature []byte // r || s
	Issuer    []*x509.Certificate
}

// check adds the checks that collateral allows.
func (c *Collateral) check(l *verdict.List, q *Quote, r *Result, a authority, accept []string) {
	before := len(*l)
	c.checkSignatures(l, a)
	c.checkRevocation(l, r, a)
	if c.PCKChain != nil && (r.Chain == nil || !c.PCKChain[0].Equal(r.Chain[0])) {
		l.Fail("collateral-pck", "the collateral is for another PCK certificate than the quote's")
	}
	if r.PCK == nil {
		l.Fail("tcb", "the platform of the quote is not known")
		return
	}
	for _, check := range (*l)[before:] {
		if check.Verdict == verdict.Fail {
			l.Open("tcb", "not judged, because the collateral does not hold: "+check.Name)
			return
		}
	}
	tcb, err := c.judge(q, r.PCK)
	if err != nil {
		l.Fail("tcb", err.Error())
		return
	}
	r.TCB = tcb
	accepted := tcb.Status == UpToDate
	for _, status := range accept {
		accepted = accepted || tcb.Status == status && status != Revoked
	}
	text := "TCB status " + tcb.Status + ", level of " + tcb.Date
	if len(tcb.Advisories) > 0 {
		text += ", advisories " + strings.Join(tcb.Advisories, ", ")
	}
	if len(tcb.Short) > 0 {
		text += "; short of the newest level"
		if tcb.Newest != "" {
			text += ", that of " + tcb.Newest
		}
		text += ": " + strings.Join(tcb.Short, ", ")
	}
	l.Judge("tcb", accepted, text, text+": not accepted")
}

func (c *Collateral) checkSignatures(l *verdict.List, a authority) {
	check := func(name string, s Signed, issued, next time.Time) {
		key, ok := s.Issuer[0].PublicKey.(*ecdsa.PublicKey)
		sum := sha256.Sum256([]byte(s.Document))
		_, err := a.tcbSigner(s.Issuer)
		switch {
		case err != nil:
			l.Fail(name, "its signer: "+err.Error())
		case !ok || key.Curve != elliptic.P256() || !certs.VerifyRaw(key, sum[:], s.Signature):
			l.Fail(name, "the signature over the document does not verify")
		default:
			judgePeriod(l, name, issued, next, a.at)
		}
	}
	check("tcb-info", c.TCBInfo, c.tcbInfo.issued, c.tcbInfo.next)
	check("qe-identity-collateral", c.QEIdentity, c.qeIdentity.issued, c.qeIdentity.next)
}

func judgePeriod(l *verdict.List, name string, from, until, at time.Time) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case at.Before(from):
		l.Fail(name, "is issued on "+stamp(from)+", after the time asked for, "+stamp(at))
	case at.After(until):
		l.Fail(name, "was to be renewed by "+stamp(until)+", before the time asked for, "+stamp(at))
	default:
		l.Pass(name, "signed, valid from "+stamp(from)+" to "+stamp(until))
	}
}

// checkRevocation: both lists are signed and current, and revoke neither a CA
// nor the PCK. The list of PCKs is that of the very CA that issued the PCK:
// another CA of the same name has not revoked what this one did.
func (c *Collateral) checkRevocation(l *verdict.List, r *Result, a authority) {
	root := a.anchors.Certificates[0]
	if r.path != nil {
		root = r.path[len(r.path)-1]
	}
	checkCRL(l, "root-crl", c.RootCRL, root, a.at)
	issuer := c.PCKCRLIssuer
	if issuer == nil && r.path != nil {
		issuer = r.path[1:]
	}
	switch path, err := a.pckCA(issuer); {
	case len(issuer) == 0:
		l.Fail("pck-crl", "its signer is not known")
	case err != nil:
		l.Fail("pck-crl", "its signer: "+err.Error())
	case r.path != nil && !bytes.Equal(path[0].RawSubjectPublicKeyInfo, r.path[1].RawSubjectPublicKeyInfo):
		l.Fail("pck-crl", "its signer has another key than "+r.path[1].Subject.String()+", which issued the PCK")
	default:
		checkCRL(l, "pck-crl", c.PCKCRL, path[0], a.at)
	}
	for _, chain := range [][]*x509.Certificate{r.Chain, c.TCBInfo.Issuer, c.QEIdentity.Issuer, c.PCKCRLIssuer} {
		for _, cert := range chain {
			if revoked(c.RootCRL, cert) {
				l.Fail("revocation", "the root revoked "+cert.Subject.String())
			}
		}
	}
	switch {
	case len(r.Chain) == 0:
		l.Fail("revocation", "the PCK certificate of the quote is not known")
	case string(c.PCKCRL.RawIssuer) != string(r.Chain[0].RawIssuer):
		l.Fail("revocation", "the PCK revocation list is of "+c.PCKCRL.Issuer.String()+", the PCK is issued by "+r.Chain[0].Issuer.String())
	case revoked(c.PCKCRL, r.Chain[0]):
		l.Fail("revocation", "the PCK of this platform is revoked")
	default:
		l.Pass("revocation", "neither the PCK nor a CA of the chains is revoked")
	}
}

func checkCRL(l *verdict.List, name string, list *x509.RevocationList, issuer *x509.Certificate, at time.Time) {
	if string(list.RawIssuer) != string(issuer.RawSubject) {
		l.Fail(name, "is of "+list.Issuer.String()+", want "+issuer.Subject.String())
		return
	}
	if err := list.CheckSignatureFrom(issuer); err != nil {
		l.Fail(name, "its signature does not verify: "+err.Error())
		return
	}
	for _, e := range list.Extensions {
		if e.Critical {
			l.Fail(name, "has the critical extension "+e.Id.String()+", which may limit what it lists")
			return
		}
	}
	judgePeriod(l, name, list.ThisUpdate, list.NextUpdate, at)
}

func revoked(list *x509.RevocationList, cert *x509.Certificate) bool {
	if string(list.RawIssuer) != string(cert.RawIssuer) {
		return false
	}
	for _, e := range list.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return true
		}
	}
	return false
}
