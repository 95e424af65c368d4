package tdxquote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Options say against what a quote is verified.
type Options struct {
	// At is the time at which certificates, revocation lists and collateral
	// must be valid. Required: a verdict without a stated time is not
	// reproducible.
	At time.Time
	// Roots replaces the embedded Intel root, for tests and demonstrations. Under
	// such a root the quoting enclave may be the one that signed collateral names.
	Roots []*x509.Certificate
	// Collateral gives the TCB status. Without it the status is not checked.
	Collateral *Collateral
	// CollateralField is how the caller gives collateral, for the reason that it is
	// missing; empty: no hint.
	CollateralField string
	// CollateralBroken says that collateral was given and could not be read.
	CollateralBroken bool
	// AcceptTCB are the TCB statuses that pass beside UpToDate.
	AcceptTCB []string
	// MRSEAM lists the TDX modules that are allowed; empty: any that Intel
	// signed.
	MRSEAM []digest.Digest
	// ServiceTD lists the MRSERVICETD values that are allowed; empty: none.
	ServiceTD []digest.Digest
	// LinuxGuest says that the TD runs a plain Linux kernel, which does not start
	// without SEPT_VE_DISABLE.
	LinuxGuest bool
}

// Result is what verification found. Checks are in the order in which the
// signatures rest on each other.
type Result struct {
	Checks []verdict.Check
	Chain  []*x509.Certificate // nil if it could not be read
	PCK    *PCK                // nil if it could not be read
	TCB    *TCB                // nil without collateral, or if it could not be judged

	path []*x509.Certificate // Chain with the root as its end, nil if it does not lead there
}

// Verify checks a quote's signatures and the properties without which they mean
// nothing. An error means that the options are wrong; whatever is wrong with
// the quote is a failed check.
func Verify(q *Quote, o Options) (*Result, error) {
	if o.At.IsZero() {
		return nil, errors.New("verify quote: no time given")
	}
	a, err := newAuthority(o.Roots, o.At)
	if err != nil {
		return nil, err
	}
	r := &Result{}
	l := (*verdict.List)(&r.Checks)
	q.checkBodySignature(l)
	q.checkQE(l, o, a)
	q.checkChain(l, r, a)
	q.checkAttributes(l, o)
	q.checkModule(l, o.MRSEAM)
	switch {
	case o.Collateral != nil:
		o.Collateral.check(l, q, r, a, o.AcceptTCB)
	case o.CollateralBroken:
		l.Open("tcb", "not judged, because the collateral cannot be read")
	default:
		hint := ""
		if o.CollateralField != "" {
			hint = " (" + o.CollateralField + ")"
		}
		l.Note("tcb", "no collateral given"+hint+", so neither the TCB status nor revocation is known")
	}
	return r, nil
}

// checkBodySignature: the attestation key signed header, descriptor and body.
func (q *Quote) checkBodySignature(l *verdict.List) {
	const name = "quote-signature"
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.AttestationKey[:]...))
	if err != nil {
		l.Fail(name, "the attestation key is no point on P-256")
		return
	}
	sum := sha256.Sum256(q.SignedBytes())
	l.Judge(name, certs.VerifyRaw(key, sum[:], q.Signature[:]),
		"header and TD report are signed by the attestation key",
		"the attestation key's signature over header and TD report does not verify: one of their bytes or the signature was changed")
}

// checkQE: the quoting enclave vouches for the attestation key, and it is
// Intel's.
func (q *Quote) checkQE(l *verdict.List, o Options, a authority) {
	l.Judge("qe-vendor", hex.EncodeToString(q.Header.QEVendorID[:]) == intelQEVendor,
		"the header names Intel's quoting enclave",
		"the header names the QE vendor "+hex.EncodeToString(q.Header.QEVendorID[:])+", want Intel's "+intelQEVendor)
	h := sha256.New()
	h.Write(q.AttestationKey[:])
	h.Write(q.QEAuthData)
	var want [64]byte
	copy(want[:], h.Sum(nil))
	l.Judge("qe-binding", q.QEReport.ReportData == want,
		"the quoting enclave's report binds the attestation key",
		"the quoting enclave's report is for another attestation key or other authentication data")
	q.checkQEIdentity(l, o, a)
}

// checkQEIdentity: the quoting enclave is Intel's. Under another root its
// identity is what that root's collateral says, which is signed like any other.
func (q *Quote) checkQEIdentity(l *verdict.List, o Options, a authority) {
	const name = "qe-identity"
	signer, product := intelQE()
	got := q.QEReport
	debug := got.Attributes[0] & 2
	if o.Collateral != nil && !slices.ContainsFunc(a.anchors.Certificates, a.intel.Equal) {
		id := o.Collateral.qeIdentity
		l.Judge(name, id.is(&got) == nil && debug == 0,
			fmt.Sprintf("the quoting enclave that the collateral names under the test root, security version %d", got.SVN),
			fmt.Sprintf("the report is of signer %s, product %d, debug bit %d: the collateral under the test root names signer %x, product %d", got.MRSIGNER.Hex(), got.ProductID, debug>>1, id.mrsigner, id.product))
		return
	}
	l.Judge(name, got.MRSIGNER == signer && got.ProductID == product && debug == 0,
		fmt.Sprintf("Intel's TD quoting enclave, security version %d", got.SVN),
		fmt.Sprintf("the report is of signer %s, product %d, debug bit %d: Intel's TD quoting enclave is %s, product %d, debug bit 0", got.MRSIGNER.Hex(), got.ProductID, debug>>1, signer.Hex(), product))
}

// checkChain: the PCK certificate signed the quoting enclave's report and leads
// to the root.
func (q *Quote) checkChain(l *verdict.List, r *Result, a authority) {
	chain, err := certs.ReadPEM("PCK certificate chain of the quote", q.PCKChain)
	if err != nil {
		l.Fail("pck-chain", err.Error())
		return
	}
	r.Chain = chain
	if path, err := a.pck(chain); err != nil {
		l.Fail("pck-chain", err.Error())
	} else {
		r.path = path
		l.Pass("pck-chain", fmt.Sprintf("%d certificates to the root %q, valid at %s", len(chain), commonName(chain[len(chain)-1]), a.at.UTC().Format(time.RFC3339)))
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		l.Fail("qe-signature", "the PCK certificate has no key on P-256")
		return
	}
	sum := sha256.Sum256(q.QEReport.raw[:])
	l.Judge("qe-signature", certs.VerifyRaw(key, sum[:], q.QESignature[:]),
		"the quoting enclave's report is signed by the PCK",
		"the PCK's signature over the quoting enclave's report does not verify")
	if r.PCK, err = ReadPCK(chain[0]); err != nil {
		l.Fail("pck-platform", err.Error())
		return
	}
	l.Pass("pck-platform", "FMSPC "+hex.EncodeToString(r.PCK.FMSPC[:]))
}

func commonName(c *x509.Certificate) string {
	if c.Issuer.CommonName != "" {
		return c.Issuer.CommonName
	}
	return c.Issuer.String()
}

// checkModule looks at the TDX module that made the report.
func (q *Quote) checkModule(l *verdict.List, allowed []digest.Digest) {
	b := &q.Body
	l.Judge("mr-signer-seam", zero(b.MRSIGNERSEAM.Bytes()),
		"the TDX module is signed by Intel (MRSIGNERSEAM is zero)",
		"MRSIGNERSEAM is "+b.MRSIGNERSEAM.Hex()+", want zero: the TDX module is not Intel's")
	l.Judge("seam-attributes", zero(b.SEAMAttributes[:]),
		"the TDX module is a production one (SEAM attributes are zero)",
		"SEAM attributes are "+hex.EncodeToString(b.SEAMAttributes[:])+", want zero: the TDX module is no production one")
	if len(allowed) == 0 {
		l.Note("mr-seam", "the TDX module "+b.MRSEAM.Hex()+" was not compared: no allow-list given")
		return
	}
	names := make([]string, 0, len(allowed))
	for _, a := range allowed {
		names = append(names, a.Hex()[:16]+"…")
	}
	l.Judge("mr-seam", slices.Contains(allowed, b.MRSEAM),
		"the TDX module "+b.MRSEAM.Hex()+" is on the allow-list",
		"the TDX module "+b.MRSEAM.Hex()+" is not on the allow-list ("+strings.Join(names, ", ")+")")
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
