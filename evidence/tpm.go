package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// PCRReplayFunc folds a firmware's log for banks. Beside the values it says what
// is odd about a log that can be read. An error means that it cannot be read and
// names the place. The pipeline plugs pcrmeasure in.
type PCRReplayFunc func(log []byte, banks []digest.Algorithm) (*tpmquote.Replay, []verdict.Check, error)

// PCR names a register of a TPM: the bank SHA-256 is what a register without one
// is of.
func PCR(bank digest.Algorithm, i int) Register {
	if bank == digest.SHA256 {
		return Register(fmt.Sprintf("pcr%d", i))
	}
	return Register(fmt.Sprintf("pcr%d-%s", i, bank))
}

// TPMClaim is what a TPM's evidence says. Bytes are lower-case hex.
type TPMClaim struct {
	Form     string            `json:"form"`
	Quotes   []tpmquote.Claims `json:"quotes,omitempty"`
	Provider tpmquote.Provider `json:"provider,omitempty"` // by the key's chain or report
	Path     []string          `json:"path,omitempty"`     // of certificates, from the key's to the root
	// PCRs are the signed values, by bank and number.
	PCRs map[string]map[string]string `json:"pcrs,omitempty"`
	// Replayed are those that the log leads to.
	Replayed map[string]map[string]string `json:"replayed,omitempty"`
	Proof    *ProofClaim                  `json:"proof,omitempty"`
}

// ProofClaim is what BlindLlama's proof file states beside its quote.
type ProofClaim struct {
	Version  int    `json:"version"`
	RootHash string `json:"application_disk_roothash,omitempty"`
	CA       string `json:"webserver_rootca_sha256,omitempty"` // of the PEM text, as it is measured
	PCR15    string `json:"pcr15,omitempty"`                   // the fold of what it states
	Events   int    `json:"events,omitempty"`                  // version 1
}

func valueClaims(v tpmquote.Values) map[string]map[string]string {
	if len(v) == 0 {
		return nil
	}
	out := map[string]map[string]string{}
	for bank, pcrs := range v {
		out[bank.String()] = map[string]string{}
		for i, d := range pcrs {
			out[bank.String()][strconv.Itoa(i)] = d.Hex()
		}
	}
	return out
}

// judgeTPM judges a quote of a TPM, or BlindLlama's proof file around one.
func (r *Request) judgeTPM(result *Result) error {
	var authentic, bound verdict.List
	expected := &result.Expected
	var tpm *tpmquote.Result
	switch {
	case r.Profile == BlindLlama:
		res, err := r.verifyProof(result)
		if err != nil {
			return err
		}
		authentic, *expected, bound, tpm = res.Authentic, append(*expected, r.withPrediction(res.Expected)...), res.Bound, res.TPM
		if tpm != nil {
			r.comparePredicted(expected, tpm.Values)
		}
	case r.Evidence.TPMErr != nil:
		authentic.Fail("quote", r.Evidence.TPMErr.Error())
		expected.Open("quote", "cannot be read")
		bound.Open("quote", "cannot be read")
	default:
		res, err := r.verifyTPM(result, expected)
		if err != nil {
			return err
		}
		authentic, *expected, bound, tpm = res.Authentic, append(*expected, r.withPrediction(res.Expected)...), res.Bound, res
		r.comparePredicted(expected, res.Values)
		r.uncompared(expected, res.Values)
		r.compareParavisor(expected, result)
		if r.TLSCert != nil {
			bound.Open("tls", "the quote names no TLS key: what it answers is the nonce, so whether this TPM speaks for the certificate given is not known")
		}
	}
	if tpm != nil {
		r.showTPM(result, tpm)
	}
	r.sayTestRoots(&authentic, result)
	r.sayUnread(&authentic)
	result.Authentic = verdict.Fold(append(authentic, r.AuthenticChecks...))
	if result.Authentic.Verdict != verdict.Pass {
		// Required: a TPM's word about its PCRs is the word of whoever holds the key.
		const why = "the evidence is not authentic, so what it says is what anybody could have written"
		expected.Open("authentic", why)
		bound.Open("authentic", why)
	}
	result.Bound = verdict.Fold(bound)
	return nil
}

// showTPM takes over registers, roots and claims.
func (r *Request) showTPM(result *Result, tpm *tpmquote.Result) {
	result.Registers, result.Resettable = map[Register]digest.Digest{}, map[Register]bool{}
	for bank, pcrs := range tpm.Values {
		for i, d := range pcrs {
			result.Registers[PCR(bank, i)] = d
			result.Resettable[PCR(bank, i)] = tpmquote.Resettable(i)
		}
	}
	if tpm.Root != nil {
		c := tpm.Root.Certificate
		result.Roots = append(result.Roots, Root{"tpm", c.Subject.String(), digest.SHA256.Sum(c.Raw), tpm.BuiltIn})
	}
	claim := result.Claims.TPM
	claim.Provider, claim.PCRs, claim.Replayed = tpm.Provider, valueClaims(tpm.Values), valueClaims(tpm.Replayed)
	for _, c := range tpm.Path {
		name := c.Subject.String()
		if name == "" { // as Google's leaves have it
			name = "serial number " + c.SerialNumber.Text(16)
		}
		claim.Path = append(claim.Path, name)
	}
}

func (r *Request) verifyProof(result *Result) (*blindllama.Result, error) {
	p := r.Evidence.Proof
	claim := &ProofClaim{Version: int(p.Version), RootHash: p.RootHash, Events: len(p.EventLog)}
	result.Claims.TPM = &TPMClaim{Form: fmt.Sprintf("BlindLlama proof file, version %d", p.Version), Proof: claim}
	if p.Version == blindllama.V2 {
		claim.CA = digest.SHA256.Sum([]byte(p.CA)).Hex()
	}
	o := blindllama.Options{At: r.At, Roots: r.TPMRoots, Golden: r.Golden, GoldenWeak: r.goldenWeak(), Nonce: r.Nonce, TLSChain: r.TLSChain}
	if !r.AppRoot.IsZero() {
		o.RootHash = &r.AppRoot
	}
	if r.Predicted != nil {
		o.Elsewhere = r.Predicted.Values[digest.SHA256]
	}
	if len(r.TLSChain) == 0 && r.TLSCert != nil {
		o.TLSChain = append(o.TLSChain, r.TLSCert)
	}
	if p.Version == blindllama.V1 {
		o.ServerCertificate = r.TLSText
	}
	res, err := p.Verify(o)
	if err != nil {
		return nil, err
	}
	if res.Quote != nil {
		result.Claims.TPM.Quotes = []tpmquote.Claims{res.Quote.Claims()}
	}
	if res.PCR15 != nil {
		d, err := res.PCR15.Compute()
		if err != nil {
			return nil, err
		}
		claim.PCR15 = d.Hex()
	}
	return res, nil
}

// goldenWeak says why agreement with golden values shows nothing.
func (r *Request) goldenWeak() string {
	if r.GoldenSource == Sender {
		return "the golden measurements came with the evidence and are its sender's word"
	}
	return ""
}

func (r *Request) verifyTPM(result *Result, expected *verdict.List) (*tpmquote.Result, error) {
	e := *r.Evidence.TPM
	result.Claims.TPM = &TPMClaim{Form: string(e.Form)}
	for i := range e.Quotes {
		result.Claims.TPM.Quotes = append(result.Claims.TPM.Quotes, e.Quotes[i].Claims())
	}
	o := tpmquote.Options{At: r.At, Roots: r.TPMRoots, Nonce: r.Nonce, Hardware: r.hardware(result)}
	if r.EventLog != nil {
		e.EventLog = r.EventLog
	}
	var mismatch error
	switch ak := r.AK; {
	case ak == nil:
	case ak.Chain == nil && r.AKSource == Sender:
		// A key that lay beside the quote is the sender's word, as one inside of it.
		if e.AK == nil {
			e.AK = ak
		} else if !tpmquote.SameKey(e.AK.Key, ak.Key) {
			mismatch = errors.New("the key in the evidence is another than the one that lies beside it")
		}
	case ak.Chain == nil:
		o.AK = ak
	default:
		// A certificate is not believed because it was named: it must lead to a root.
		if e.AK != nil && !tpmquote.SameKey(e.AK.Key, ak.Key) || e.HCL != nil && !tpmquote.SameKey(e.HCL.Runtime.AK, ak.Key) {
			mismatch = errors.New("the key that came with the evidence is another than that of the certificate given")
		}
		given := *ak
		if e.AK != nil {
			given.Public = e.AK.Public
		}
		e.AK = &given
	}
	if len(r.Golden) > 0 {
		values := map[int][]digest.Digest{}
		for pcr, d := range r.Golden {
			values[pcr] = []digest.Digest{d}
		}
		o.Expect.Values, o.Expect.Weak = map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: values}, r.goldenWeak()
	}
	if r.PCRReplay != nil {
		o.Replay = func(log []byte, banks []digest.Algorithm) (*tpmquote.Replay, error) {
			replay, odd, err := r.PCRReplay(log, banks)
			*expected = append(*expected, odd...)
			return replay, err
		}
	}
	res, err := e.Verify(o)
	if err != nil {
		return nil, err
	}
	if mismatch != nil {
		(*verdict.List)(&res.Authentic).Fail("ak-sender", mismatch.Error())
	}
	return res, nil
}

// compareParavisor: the TPM is software that the hardware measured. Another one,
// measured as truly, can sign any PCRs, so no values count without it.
func (r *Request) compareParavisor(l *verdict.List, result *Result) {
	if result.paravisor.IsZero() {
		return
	}
	name, got := string(result.paravisorName), result.paravisor.Hex()
	if len(r.Paravisors) == 0 {
		l.Open("paravisor", fmt.Sprintf("the virtual TPM is software with the %s %s by its hardware report, and nothing was given to compare it with (%s): another one can sign any PCRs", name, got, r.field(name, "HEX")))
		return
	}
	l.Judge("paravisor", slices.Contains(r.Paravisors, result.paravisor), "the virtual TPM is software with the "+name+" that was given, by its hardware report: "+got,
		fmt.Sprintf("the virtual TPM is software with the %s %s by its hardware report, which is none of those given", name, got))
}

// hardware verifies what stands behind Azure's HCL report with the rooms for it.
func (r *Request) hardware(result *Result) func(*hcl.Report, []byte) (*tpmquote.Hardware, error) {
	return func(h *hcl.Report, quote []byte) (*tpmquote.Hardware, error) {
		out := &tpmquote.Hardware{ReportData: h.ReportData()}
		l := (*verdict.List)(&out.Checks)
		if h.Type == hcl.TDX {
			if quote == nil {
				l.Open("hardware-report", "no TDX quote came along with the TDREPORT, and only a quote is signed for others: name its file, too")
				return out, nil
			}
			part := *r
			part.Evidence = &Bundle{Name: r.Evidence.Name, Quote: quote}
			q, err := part.authenticQuote(l, result)
			if err != nil {
				return nil, err
			}
			// Those are not the machine's as TDX's profiles compare them: firmware is
			// the paravisor's.
			result.Registers, result.Runs = nil, nil
			if q != nil {
				result.paravisor, result.paravisorName = q.Body.MRTD, MRTD
				out.ReportData = q.Body.ReportData
			}
			roots, err := part.roots()
			result.Roots = append(result.Roots, roots...)
			return out, err
		}
		report, err := snpreport.Parse(h.Hardware[:])
		if err != nil {
			l.Fail("hardware-report", err.Error())
			return out, nil
		}
		e := &snpreport.Evidence{Form: snpreport.FormHCL, Report: report}
		if came := r.Evidence.Hardware; came != nil {
			e.Certificates = came.Certificates
		}
		part := *r
		part.Evidence = &Bundle{Name: r.Evidence.Name, SNP: e}
		inner := &Result{}
		if err := part.authenticSNP(l, inner); err != nil {
			return nil, err
		}
		result.paravisor, result.paravisorName = report.Measurement, Measurement
		out.ReportData = report.ReportData
		result.Roots, result.Claims.Report = append(result.Roots, inner.Roots...), inner.Claims.Report
		return out, nil
	}
}

// readTPM reads what part of a TPM's evidence a file is. A quote that is there and
// cannot be read is evidence that fails.
func (b *Bundle) readTPM(part tpmquote.Part, data []byte) error {
	b.tpm = data
	if part != tpmquote.PartContainer {
		b.tpm, b.TPMParts = nil, map[tpmquote.Part][]byte{part: data}
		return nil
	}
	var err error
	if b.TPM, err = tpmquote.Open(b.Name, data); err != nil {
		return b.broken(err)
	}
	if h := b.TPM.HCL; h != nil && h.Type == hcl.SNP {
		// The report with the certificates beside it, as the room for it reads them.
		e := &snpreport.Evidence{Form: snpreport.FormAzure, HCL: h}
		if e.Report, err = snpreport.Parse(h.Hardware[:]); err != nil {
			return err
		}
		if b.TPM.VCEK != nil {
			if e.Certificates, err = snpreport.ParseCertificates(b.Name+": vcek", b.TPM.VCEK); err != nil {
				return err
			}
		}
		b.Hardware = e
	}
	return nil
}

// As is the bundle as a profile takes it: Azure's hardware report apart from the
// TPM that it vouches for, where a report of SEV-SNP is asked for.
func (b *Bundle) As(p Profile) *Bundle {
	if p != SNP && p != SecretVM || b.SNP != nil || b.Hardware == nil {
		return b
	}
	part := *b
	part.SNP, part.Hardware, part.TPM = b.Hardware, nil, nil
	return &part
}

func (b *Bundle) broken(err error) error {
	if q := (*tpmquote.BrokenError)(nil); errors.As(err, &q) {
		b.TPM, b.TPMErr = nil, q
		return nil
	}
	return err
}

// mergeTPM puts the files of a TPM's evidence together: tpm2-tools' three, the HCL
// report and the TDX quote that vouch for a key.
func (b *Bundle) mergeTPM(all []*Bundle) error {
	for _, in := range all {
		for part, data := range in.TPMParts {
			if have, ok := b.TPMParts[part]; ok && !bytes.Equal(have, data) {
				return fmt.Errorf("merge evidence: two files are the %s of a TPM quote", part)
			}
			if b.TPMParts == nil {
				b.TPMParts = map[tpmquote.Part][]byte{}
			}
			b.TPMParts[part] = data
		}
		switch {
		case in.HCL == nil:
		case b.HCL == nil:
			b.HCL = in.HCL
		case !bytes.Equal(b.HCL.RuntimeData, in.HCL.RuntimeData) || b.HCL.Hardware != in.HCL.Hardware:
			return errors.New("merge evidence: two different HCL reports")
		}
		if b.TPM == nil && b.TPMErr == nil {
			b.TPM, b.TPMErr, b.Hardware = in.TPM, in.TPMErr, in.Hardware
		}
		if b.Proof == nil {
			b.Proof = in.Proof
		}
	}
	if b.TPMParts != nil {
		if b.TPM != nil || b.TPMErr != nil {
			return errors.New("merge evidence: two quotes of a TPM: one in a file of its own, one in tpm2-tools' files")
		}
		f := tpmquote.Files{Message: b.TPMParts[tpmquote.PartMessage], Signature: b.TPMParts[tpmquote.PartSignature], PCRs: b.TPMParts[tpmquote.PartPCRs]}
		for _, x := range []struct {
			part string
			data []byte
		}{{"signed message (tpm2_quote -m)", f.Message}, {"signature (-s)", f.Signature}, {"PCR values (-o)", f.PCRs}} {
			if x.data == nil {
				have := slices.Sorted(maps.Keys(b.TPMParts))
				return fmt.Errorf("merge evidence: of a TPM quote in tpm2-tools' files the %s is missing; there is %v: name the three files together", x.part, have)
			}
		}
		var err error
		if b.TPM, err = tpmquote.OpenFiles("TPM quote", f); err != nil {
			if err = b.broken(err); err != nil {
				return err
			}
		}
	}
	if b.TPM != nil {
		joined := *b.TPM // others have it, too
		b.TPM = &joined
		switch {
		case b.SNP != nil && b.SNP.HCL != nil && joined.HCL == nil:
			joined.HCL, b.Hardware, b.SNP = b.SNP.HCL, b.SNP, nil
		case b.HCL != nil && joined.HCL == nil:
			joined.HCL, b.HCL = b.HCL, nil
		}
		if h := joined.HCL; h != nil && h.Type == hcl.TDX && joined.TDQuote == nil && b.Quote != nil {
			joined.TDQuote, b.Quote = b.Quote, nil
		}
	}
	return b.alone()
}

// alone: what is not judged together does not pass together.
func (b *Bundle) alone() error {
	var kinds []string
	for _, k := range []struct {
		what  string
		there bool
	}{
		{"a TDX quote", b.Quote != nil}, {"an SEV-SNP report", b.SNP != nil}, {"a TPM quote", b.TPM != nil || b.TPMErr != nil}, {"a BlindLlama proof file", b.Proof != nil}, {"an HCL report of TDX", b.HCL != nil},
	} {
		if k.there {
			kinds = append(kinds, k.what)
		}
	}
	if b.GPU != nil && (b.TPM != nil || b.TPMErr != nil || b.Proof != nil || b.HCL != nil) {
		kinds = append(kinds, "GPU evidence")
	}
	switch {
	case len(kinds) > 1:
		return fmt.Errorf("merge evidence: %s hold %s, which do not belong together", b.Name, strings.Join(kinds, " and "))
	case b.HCL != nil:
		return fmt.Errorf("merge evidence: %s is an HCL report of TDX, which nobody signed: name the TPM's quote and the TDX quote with it", b.Name)
	}
	return nil
}

// readHCL takes an HCL report with a TDREPORT, which alone is no evidence.
func (b *Bundle) readHCL(data []byte) bool {
	if !bytes.HasPrefix(data, []byte(hcl.Signature)) {
		return false
	}
	h, err := hcl.Parse(data)
	if err != nil || h.Type != hcl.TDX {
		return false
	}
	b.HCL = h
	return true
}

// ParseTPMRoots reads roots for TPMs from PEM. Whose each is, shows in its name,
// since providers mark attestation keys in ways of their own.
func ParseTPMRoots(name string, data []byte) ([]tpmquote.Root, error) {
	list, err := certs.ReadPEM(name, data)
	if err != nil {
		return nil, err
	}
	var out []tpmquote.Root
	for _, c := range list {
		p := tpmquote.Other
		switch {
		case slices.Contains(c.Subject.Organization, "Google LLC"):
			p = tpmquote.GCP
		case slices.Contains(c.Subject.Organization, "Microsoft Corporation"):
			p = tpmquote.Azure
		}
		out = append(out, tpmquote.Root{Provider: p, Certificate: c})
	}
	return out, nil
}
