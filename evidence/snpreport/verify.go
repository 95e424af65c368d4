package snpreport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Options say against what a report is verified.
type Options struct {
	// At is the time at which certificates and revocation lists must be valid.
	// Required: a verdict without a stated time is not reproducible.
	At time.Time
	// Roots replace AMD's, for tests and demonstrations.
	Roots []Root
	// CRLs are revocation lists that the caller got from AMD.
	CRLs []*x509.RevocationList
}

// Result is what verification found. Checks are in the order in which they rest
// on each other.
type Result struct {
	Checks      []verdict.Check
	Product     Product      // by the certificate, or by the report; empty if neither says
	Endorsement *Endorsement // nil without a certificate, or if it could not be read
	Missing     string       // which certificate is not there, in words; empty: none
}

// Verify checks who signed a report: that it is signed at all and on the
// guest's request, that its key is of this chip or provider and of this TCB, and
// that AMD says so. Whether the guest is protected at all is Report.Protection's
// to say, and belongs beside every Verify. An error means that the options are wrong; whatever is wrong
// with the report or its certificates is a failed check, and what cannot be
// known without a certificate stays unchecked.
func Verify(r *Report, c Certificates, o Options) (*Result, error) {
	if o.At.IsZero() {
		return nil, errors.New("verify SNP report: no time given")
	}
	if err := checkRoots(o.Roots); err != nil {
		return nil, fmt.Errorf("verify SNP report: %w", err)
	}
	result := &Result{Product: r.Product()}
	l := (*verdict.List)(&result.Checks)
	r.checkRequest(l)
	leaf := c.VCEK
	if r.SigningKey == KeyVLEK {
		leaf = c.VLEK
	}
	if r.SigningKey == KeyNone {
		return result, nil
	}
	if leaf == nil {
		result.Missing = r.MissingCertificate()
		why := result.Missing
		if !c.IsZero() {
			why += "; what came beside the report is no such certificate"
		}
		l.Open(r.checkName("certificate"), why)
		l.Open("report-signature", "cannot be verified without that certificate")
		return result, nil
	}
	return result, r.checkEndorsement(l, result, leaf, c, o)
}

// checkName names a check after the key that the report says signed it.
func (r *Report) checkName(what string) string {
	return strings.ToLower(r.SigningKey.String()) + "-" + what
}

// checkRequest: the report is signed, and the guest asked for it.
func (r *Report) checkRequest(l *verdict.List) {
	switch {
	case r.SigningKey == KeyNone:
		l.Fail("signing-key", "the report says that no key signed it (SIGNING_KEY 7)")
	case r.MaskChipKey && r.SigningKey == KeyVCEK:
		l.Fail("signing-key", "the chip's key is masked (MASK_CHIP_KEY): the host forbids it, so no VCEK signed this report")
	default:
		l.Pass("signing-key", "the report names the "+r.SigningKey.String()+" as its key")
	}
	if r.HostRequested() {
		l.Fail("requester", "the host asked for this report (VMPL 0xffffffff), not the guest: its report data is not the guest's word")
		return
	}
	l.Pass("requester", fmt.Sprintf("the guest asked for the report, at VMPL %d", r.VMPL))
}

// checkEndorsement follows the leaf to the root and compares what AMD certified
// with what the report says.
func (r *Report) checkEndorsement(l *verdict.List, result *Result, leaf *x509.Certificate, c Certificates, o Options) error {
	chain := r.checkName("chain")
	root, err := find(o.Roots, leaf, r.SigningKey)
	if err != nil {
		return err
	}
	e, err := ReadEndorsement(leaf)
	if err != nil {
		l.Fail(r.checkName("certificate"), err.Error())
		return nil
	}
	result.Endorsement = e
	if e.Key != r.SigningKey {
		l.Fail(r.checkName("certificate"), "the certificate is of a "+e.Key.String()+", the report is signed by a "+r.SigningKey.String())
		return nil
	}
	var path [3]*x509.Certificate
	if root == nil {
		l.Fail(chain, "the "+e.Key.String()+" is issued by "+leaf.Issuer.String()+", which is no signing key of AMD's for "+e.Key.String()+"s")
	} else {
		result.Product = root.Product
		path = [3]*x509.Certificate{leaf, root.signer(r.SigningKey), root.ARK}
		for _, s := range c.Signers {
			if bytes.Equal(s.RawSubject, leaf.RawIssuer) {
				path[1] = s
			}
		}
		checkARK(l, c.ARK, root, o.Roots)
		if err := checkChain(path, o.At); err != nil {
			l.Fail(chain, err.Error())
		} else {
			l.Pass(chain, fmt.Sprintf("%s, %s, %s, valid at %s", commonName(leaf), commonName(path[1]), commonName(path[2]), stamp(o.At)))
		}
		r.checkProduct(l, e, root)
	}
	if e.Unknown != nil {
		l.Open(r.checkName("extensions"), "the certificate says more than is understood here: "+strings.Join(e.Unknown, ", "))
	}
	r.checkTCB(l, e, result.Product)
	r.checkChip(l, e)
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	sum := sha512.Sum384(r.SignedBytes())
	l.Judge("report-signature", ok && certs.VerifyRaw(key, sum[:], append(r.R[:], r.S[:]...)),
		"the report is signed by the "+e.Key.String(),
		"the "+e.Key.String()+"'s signature over the report does not verify: one of its bytes was changed, or another key signed it")
	if root != nil {
		checkRevocation(l, path, c.CRL, o)
	}
	return nil
}

// checkARK: a root that came along must be the one that is known.
func checkARK(l *verdict.List, given *x509.Certificate, root *Root, roots []Root) {
	if given == nil {
		return
	}
	if given.Equal(root.ARK) {
		l.Pass("ark", "the root that came along is "+commonName(root.ARK))
		return
	}
	found := "an unknown one, SHA-256 " + digest.SHA256.Sum(given.Raw).Hex()
	for _, p := range products() {
		other, err := AMDRoot(p)
		for _, known := range roots {
			if known.Product == p {
				other, err = known, nil
			}
		}
		if err == nil && given.Equal(other.ARK) {
			found = "of " + string(p)
		}
	}
	l.Fail("ark", fmt.Sprintf("the root that came along (%s) is %s, the signing key's is the root of %s: the ARK was swapped", commonName(given), found, root.Product))
}

// checkProduct: report, certificate and root are of one line of processors.
func (r *Report) checkProduct(l *verdict.List, e *Endorsement, root *Root) {
	const name = "product"
	switch own := r.Product(); {
	case e.product() != root.Product:
		l.Fail(name, fmt.Sprintf("the certificate is of %q, its issuer's product is %s", e.ProductName, root.Product))
	case own == "" && root.Product == Turin:
		l.Fail(name, "the certificate is of Turin, whose TCB a report of version 2 cannot state")
	case own != "" && own != root.Product:
		l.Fail(name, fmt.Sprintf("the report is of %s, the certificate of %s", r.Processor(), root.Product))
	case own == "":
		l.Pass(name, fmt.Sprintf("%s by the certificate; a report of version 2 does not name the processor", root.Product))
	default:
		l.Pass(name, "report and certificate are of "+r.Processor())
	}
}

// checkTCB: the key is derived from the TCB that the report states.
func (r *Report) checkTCB(l *verdict.List, e *Endorsement, p Product) {
	name := r.checkName("tcb")
	got := r.Components(r.ReportedTCB)
	switch diff := e.TCB.differ(got); {
	case e.HasFMC != (p == Turin):
		l.Fail(name, fmt.Sprintf("the certificate's TCB has an FMC: %t; on %s: %t", e.HasFMC, p, p == Turin))
	case e.spare != [4]int{}:
		l.Fail(name, fmt.Sprintf("the certificate has values for parts of the TCB that are reserved (spl_4 to spl_7): %v", e.spare))
	case diff != "":
		l.Fail(name, "certificate and report (REPORTED_TCB) differ: "+diff)
	default:
		l.Pass(name, "the certificate is for the reported TCB: "+got.Text(p))
	}
}

// checkChip: the key is of the chip that the report names.
func (r *Report) checkChip(l *verdict.List, e *Endorsement) {
	const name = "vcek-chip"
	switch {
	case e.Key == KeyVLEK:
		l.Note("vlek-provider", "the VLEK is of the provider "+e.CSPID+"; it names no chip, so any machine of the provider with this TCB may have signed")
	case r.ChipIDMasked():
		l.Open(name, "the host masks the chip's id in the report (zero); the certificate is of chip "+hex.EncodeToString(e.HWID))
	default:
		l.Judge(name, bytes.Equal(e.HWID, r.chip()) && bytes.Equal(r.ChipID[len(r.chip()):], make([]byte, 64-len(r.chip()))),
			"the certificate is of the report's chip "+r.ChipIDHex(),
			"the certificate is of another chip: it names "+hex.EncodeToString(e.HWID)+", the report "+hex.EncodeToString(r.ChipID[:]))
	}
}

// MissingCertificate says which certificate the report needs, by the parts under
// which AMD's Key Distribution Service has it.
func (r *Report) MissingCertificate() string {
	p, tcb := r.Product(), r.Components(r.ReportedTCB)
	product := string(p)
	if p == "" {
		product = "Milan or Genoa (a report of version 2 does not say)"
	}
	if r.SigningKey == KeyVLEK {
		return fmt.Sprintf("no VLEK certificate was given: the cloud provider has it, for product %s and TCB %s", product, tcb.Text(p))
	}
	chip := "hwID " + r.ChipIDHex()
	if r.ChipIDMasked() {
		chip = "a chip whose id the report hides"
	}
	levels := fmt.Sprintf("blSPL %d, teeSPL %d, snpSPL %d, ucodeSPL %d", tcb.BootLoader, tcb.TEE, tcb.SNP, tcb.Microcode)
	if p == Turin {
		levels = fmt.Sprintf("fmcSPL %d, %s", tcb.FMC, levels)
	}
	return fmt.Sprintf("no VCEK certificate was given: AMD's Key Distribution Service has it under vcek v1, product %s, %s, %s", product, chip, levels)
}

func commonName(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return c.Subject.String()
}
