package tpmquote

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Hardware is what a caller found who verified the hardware report that stands
// behind an HCL report.
type Hardware struct {
	ReportData [64]byte        // of the report that was verified
	Checks     []verdict.Check // what was found; they become part of the verdict
}

// Replay is what a caller found in a firmware's log.
type Replay struct {
	Values Values // by fold of the log's digests; PCRs without an event are left out
	// Contradictions are events whose digest is not that of their own data, in
	// words with their place.
	Contradictions []string
}

// Options say against what evidence is verified.
type Options struct {
	// At is the time at which certificates must be valid. Required.
	At time.Time
	// Roots replace those built in; nil: Azure's.
	Roots []Root
	// AK is a key that the caller trusts by itself; nil: the evidence's own, by
	// its certificate or hardware report.
	AK *AK
	// Hardware verifies the report inside an HCL report, or the TDX quote beside
	// it (quote, for hcl.TDX). nil: it stays unchecked. An error ends Verify.
	Hardware func(report *hcl.Report, quote []byte) (*Hardware, error)
	// Replay reads the evidence's log for these banks. An error means that the
	// log cannot be read, names the place, and ends Verify. nil: no replay.
	Replay func(log []byte, banks []digest.Algorithm) (*Replay, error)
	// Nonce is what the caller asked with; nil: none.
	Nonce []byte

	Expect Expectations
}

// Expectations are what a quote must say, as data. What is empty is not
// compared, and the checks say so.
type Expectations struct {
	// Values lists for PCRs of banks which values may be there: one of them.
	Values map[digest.Algorithm]map[int][]digest.Digest
	// Weak says why agreement with Values shows nothing, for the checks; "" where
	// it does.
	Weak string
	// Selection is the policy's: the signed selections together must be exactly
	// these PCRs. nil: any.
	Selection []Selection
}

// Result is what verification found, as the checks of three judgements. Checks
// are in the order in which they rest on each other.
type Result struct {
	Authentic, Expected, Bound []verdict.Check

	// Values are those that verified quotes cover: signed, of the signed
	// selection, with the signed digest. Whose key that was, Authentic says.
	Values Values
	// Replayed are the PCRs that the log leads to.
	Replayed Values

	Key      crypto.PublicKey // that the quotes were held against; nil: none
	Provider Provider         // by the root of the key's chain, or azure by an HCL report; empty: not known
	Root     *Root            // where the chain ends
	BuiltIn  bool             // that root is built in
	Path     []*x509.Certificate
	Missing  *IssuerError // which certificate is not there; nil: none
}

// Verify judges evidence. An error means that the options are wrong or that a
// part beside the quotes (the log) cannot be read; whatever is wrong with what
// the quotes say is a failed check, and what cannot be known stays unchecked.
func (e *Evidence) Verify(o Options) (*Result, error) {
	if o.At.IsZero() {
		return nil, errors.New("verify TPM quote: no time given")
	}
	if len(e.Quotes) == 0 {
		return nil, errors.New("verify TPM quote: the evidence holds none")
	}
	if err := o.Expect.check(); err != nil {
		return nil, fmt.Errorf("verify TPM quote: expectations: %w", err)
	}
	if err := checkRoots(o.Roots); err != nil {
		return nil, fmt.Errorf("verify TPM quote: %w", err)
	}
	if o.AK != nil && o.AK.Key == nil {
		return nil, errors.New("verify TPM quote: the attestation key given holds no key")
	}
	result := &Result{Values: Values{}, Replayed: Values{}}
	authentic, expected, bound := (*verdict.List)(&result.Authentic), (*verdict.List)(&result.Expected), (*verdict.List)(&result.Bound)
	if err := e.checkKey(authentic, result, &o); err != nil {
		return nil, err
	}
	for i := range e.Quotes {
		e.checkQuote(authentic, result, i)
	}
	e.checkStart(authentic)
	for _, part := range e.Unjudged {
		authentic.Note("unjudged", part+" came with the quote and is not looked at")
	}
	if err := e.checkLog(expected, result, &o); err != nil {
		return nil, err
	}
	o.Expect.compare(expected, result.Values)
	e.checkSelection(expected, o.Expect.Selection)
	e.checkNonce(bound, o.Nonce)
	return result, nil
}

// checkKey finds whose key the quotes must be signed by, and who vouches for it:
// the caller, the hardware behind an HCL report, or a provider's certificates.
// The sender's word alone is none.
func (e *Evidence) checkKey(l *verdict.List, result *Result, o *Options) error {
	switch {
	case o.AK != nil:
		result.Key = o.AK.Key
		l.Pass("ak", "the attestation key is the one given; that it belongs to a TPM is the caller's word")
		if e.AK != nil && !sameKey(e.AK.Key, o.AK.Key) {
			l.Fail("ak-sender", "the key or certificate that came with the evidence is of another key than the one given")
		}
		if e.HCL != nil && !sameKey(e.HCL.Runtime.AK, o.AK.Key) {
			l.Fail("ak-sender", "the key in the HCL report's runtime data is another than the one given")
		}
	case e.HCL != nil:
		result.Key, result.Provider = e.HCL.Runtime.AK, Azure
		if err := e.checkHardware(l, o); err != nil {
			return err
		}
		if e.AK != nil && !sameKey(e.AK.Key, result.Key) {
			l.Fail("ak-sender", "the key that came with the evidence is another than the one in the HCL report's runtime data")
		}
	case e.AK != nil && e.AK.Chain != nil:
		result.Key = e.AK.Key
		result.checkChain(l, e.AK.Chain, o)
	case e.AK != nil:
		result.Key = e.AK.Key
		l.Open("ak", "the key came with the evidence, and nobody vouches for it: give the key itself, or its certificate")
	default:
		l.Open("ak", "no attestation key: give the key, or its certificate")
	}
	e.checkAttributes(l, result.Key, o)
	return nil
}

// checkChain follows the certificates of the key.
func (r *Result) checkChain(l *verdict.List, chain []*x509.Certificate, o *Options) {
	path, root, err := FollowChain(chain[0], chain[1:], o.Roots, o.At)
	r.Path, r.Root = path, root
	if root != nil {
		r.Provider = root.Provider
		if known, err := AzureRoot(); err == nil {
			r.BuiltIn = known.Equal(root.Certificate)
		}
	}
	switch missing := (*IssuerError)(nil); {
	case errors.As(err, &missing):
		r.Missing = missing
		why := missing.Error() + ": who made this key is not known"
		if slices.Contains(chain[0].Issuer.Organization, "Google LLC") {
			why += "; Google's roots are not built in, give its EK/AK CA root and the certificates between"
		}
		l.Open("ak-chain", why)
	case err != nil:
		l.Fail("ak-chain", err.Error())
	default:
		var names []string
		for _, c := range path {
			names = append(names, name(c))
		}
		l.Pass("ak-chain", fmt.Sprintf("%s, provider %s, valid at %s", strings.Join(names, ", "), root.Provider, o.At.UTC().Format(time.RFC3339)))
		l.Note("ak-revocation", "revocation lists of the provider are not looked at")
		if root.Provider == Azure && !r.BuiltIn {
			l.Note("test-root", "NOT AZURE'S ROOT: the certificate "+name(root.Certificate)+" is trusted in its place, so nothing here shows a machine of Azure's")
		}
	}
}

func name(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return subject(c)
}

// checkHardware: the runtime data with the key are those that the hardware
// report vouches for, and the paravisor asked for that report. A guest above the
// paravisor can ask for a report with report data of its own.
func (e *Evidence) checkHardware(l *verdict.List, o *Options) error {
	const vmplAt = 0x30
	h := e.HCL
	if h.Type == hcl.SNP {
		vmpl := binary.LittleEndian.Uint32(h.Hardware[vmplAt:])
		l.Judge("hcl-vmpl", vmpl == 0, "the paravisor asked for the hardware report (VMPL 0)",
			fmt.Sprintf("the hardware report was asked for at VMPL %d, not by the paravisor at VMPL 0: anything in the guest can have chosen its report data", vmpl))
	}
	const holds, changed = "the report data are the %s of the runtime data, in which the attestation key stands", "the report data are %x, the runtime data give %x: they were changed"
	bound := func(data [64]byte) {
		l.Judge("runtime-data", h.Bound(data), fmt.Sprintf(holds, h.Algorithm), fmt.Sprintf(changed, data, h.RuntimeDigest()))
	}
	if o.Hardware == nil {
		bound(h.ReportData())
		l.Open("hardware-report", "the "+h.Type.String()+" report that vouches for the attestation key was not verified")
		return nil
	}
	found, err := o.Hardware(h, e.TDQuote)
	if err != nil {
		return fmt.Errorf("verify TPM quote: hardware report: %w", err)
	}
	bound(found.ReportData)
	switch verdict.Fold(found.Checks).Verdict {
	case verdict.Pass, verdict.Fail:
	default:
		l.Open("hardware-report", "the "+h.Type.String()+" report that vouches for the attestation key was not verified completely")
	}
	*l = append(*l, found.Checks...)
	return nil
}

// checkAttributes holds what is known of the key against what an attestation key
// is. The TPM's description of the key is the sender's word unless the caller
// gave it, but a description that says otherwise is enough to refuse.
func (e *Evidence) checkAttributes(l *verdict.List, key crypto.PublicKey, o *Options) {
	public, whose := (*Public)(nil), "the sender's description"
	switch {
	case o.AK != nil && o.AK.Public != nil:
		public, whose = o.AK.Public, "the description given"
	case e.AK != nil && e.AK.Public != nil:
		public = e.AK.Public
	}
	if public == nil {
		if key != nil {
			l.Note("ak-attributes", "no public area of the key came along: whether it signs quotes only (restricted) and never leaves its TPM (fixedTPM) is the word of who vouches for it")
		}
		return
	}
	if !sameKey(public.Key, key) {
		l.Fail("ak-attributes", "the public area that came along is of another key than the one that must sign")
		return
	}
	if lacking := public.lacking(); lacking != "" {
		l.Fail("ak-attributes", "the key is no attestation key: "+lacking+"; it can sign what no TPM said")
		return
	}
	l.Pass("ak-attributes", "by "+whose+" the key signs quotes only (restricted) and never leaves its TPM (fixedTPM)")
	for i := range e.Quotes {
		if h := public.hierarchy(e.Quotes[i].Attest.Signer); h == "" {
			l.Note("ak-name", fmt.Sprintf("the quote names its key as %x, which is no primary key of that description: its parent is not known", e.Quotes[i].Attest.Signer))
			return
		}
	}
	l.Pass("ak-name", "the quotes name the key by that description, as a primary key of the hierarchy "+public.hierarchy(e.Quotes[0].Attest.Signer))
}

// label tells the checks of several quotes apart.
func (e *Evidence) label(i int) string {
	if len(e.Quotes) == 1 {
		return "the quote"
	}
	return fmt.Sprintf("quote %d of %d (%s)", i+1, len(e.Quotes), SelectionText(e.Quotes[i].Attest.Selections))
}

// checkQuote verifies one quote, and takes over its values if everything holds.
func (e *Evidence) checkQuote(l *verdict.List, result *Result, i int) {
	q, what := &e.Quotes[i], e.label(i)
	signed := false
	if result.Key == nil {
		l.Open("quote-signature", what+": cannot be verified without a key")
	} else if err := q.Signature.Verify(result.Key, q.Message); err != nil {
		l.Fail("quote-signature", what+": "+err.Error())
	} else {
		signed = true
		l.Pass("quote-signature", fmt.Sprintf("%s is signed (%s with %s)", what, q.Signature.Scheme, q.Signature.Hash))
	}
	covered, rest := q.Values.covered(q.Attest.Selections)
	selected := SelectionText(q.Attest.Selections)
	labels := true
	switch {
	case selected == "none":
		labels = false
		l.Fail("pcr-selection", what+" covers no PCR")
	case q.Exact && q.Values.text() != selected:
		labels = false
		l.Fail("pcr-selection", fmt.Sprintf("the values beside %s are labelled %s, signed is %s: a value stands under another PCR's number", what, q.Values.text(), selected))
	default:
		l.Pass("pcr-selection", what+" covers "+selected)
		if !q.Exact && len(rest) > 0 && len(e.Quotes) == 1 {
			l.Note("pcr-unquoted", "values of "+rest.text()+" came along that the quote does not cover: they are not used")
		}
	}
	sum, err := q.Values.composite(q.Signature.Hash, q.Attest.Selections)
	switch {
	case err != nil:
		l.Fail("pcr-digest", what+": "+err.Error())
		return
	case !bytes.Equal(sum.Bytes(), q.Attest.PCRDigest):
		l.Fail("pcr-digest", fmt.Sprintf("the values beside %s have the digest %s, signed is %x: one of them was changed", what, sum.Hex(), q.Attest.PCRDigest))
		return
	}
	l.Pass("pcr-digest", "the values beside "+what+" have the signed digest")
	if !signed || !labels {
		return
	}
	for _, bank := range covered.Banks() {
		for _, pcr := range slices.Sorted(maps.Keys(covered[bank])) {
			if have, ok := result.Values[bank][pcr]; ok && have != covered[bank][pcr] {
				l.Fail("pcr-twice", fmt.Sprintf("two quotes give PCR %d of the bank %s different values: something was measured between them", pcr, bank))
				continue
			}
			result.Values.set(bank, pcr, covered[bank][pcr])
		}
	}
}

// checkStart: quotes that come together are of one start of one machine, or the
// banks of different boots could be put together.
func (e *Evidence) checkStart(l *verdict.List) {
	first := e.Quotes[0].Attest
	for i := range e.Quotes[1:] {
		a := e.Quotes[i+1].Attest
		if a.Clock.ResetCount != first.Clock.ResetCount || a.Clock.RestartCount != first.Clock.RestartCount || a.Firmware != first.Firmware || !bytes.Equal(a.Signer, first.Signer) {
			l.Fail("quote-start", fmt.Sprintf("%s is of another start, firmware or key than the first: resets %d and %d, restarts %d and %d", e.label(i+1), first.Clock.ResetCount, a.Clock.ResetCount, first.Clock.RestartCount, a.Clock.RestartCount))
		}
	}
}

// checkNonce: extraData is what the asker chose.
func (e *Evidence) checkNonce(l *verdict.List, nonce []byte) {
	const weak = " holds no nonce (extraData is empty): it can be of any time, and be shown by anybody"
	for i := range e.Quotes {
		got, what := e.Quotes[i].Attest.ExtraData, e.label(i)
		switch {
		case len(nonce) > 0 && len(got) == 0:
			l.Fail("nonce", what+weak+"; asked for is "+hex.EncodeToString(nonce))
		case nonce != nil && !bytes.Equal(got, nonce):
			l.Fail("nonce", fmt.Sprintf("%s is for the nonce %x, asked for is %x", what, got, nonce))
		case len(got) == 0:
			l.Open("nonce", what+weak)
		case nonce == nil:
			l.Open("nonce", fmt.Sprintf("no nonce was given; %s is for %x", what, got))
		default:
			l.Pass("nonce", what+" is for the nonce asked for")
		}
	}
}

// checkLog holds the log's registers against the signed ones. A log explains
// values; it is the sender's, so it makes none expected.
func (e *Evidence) checkLog(l *verdict.List, result *Result, o *Options) error {
	if e.EventLog == nil {
		return nil
	}
	if o.Replay == nil {
		l.Note("log-replay", "the log that came with the quote was not replayed")
		return nil
	}
	replay, err := o.Replay(e.EventLog, result.Values.Banks())
	if err != nil {
		return fmt.Errorf("verify TPM quote: event log: %w", err)
	}
	if len(replay.Contradictions) > 0 {
		l.Fail("log-digests", "events whose digest is not that of their data: "+strings.Join(replay.Contradictions, "; "))
	} else {
		l.Pass("log-digests", "no event's digest contradicts its data")
	}
	empty := true
	for _, pcrs := range replay.Values {
		empty = empty && len(pcrs) == 0
	}
	if empty || len(result.Values) == 0 {
		l.Open("log-replay", "nothing was replayed: the log has no event, or no quote has a verified value (firmware of Azure's Trusted Launch hands out an empty log)")
		return nil
	}
	var differ, unexplained, unquoted, reset []string
	for _, bank := range result.Values.Banks() {
		if len(replay.Values[bank]) == 0 {
			l.Open("log-replay", "the log has no digests for the bank "+bank.String())
			continue
		}
		for _, pcr := range slices.Sorted(maps.Keys(result.Values[bank])) {
			signed := result.Values[bank][pcr]
			got, ok := replay.Values[bank][pcr]
			at := fmt.Sprintf("PCR %d (%s)", pcr, bank)
			switch {
			case ok && got != signed:
				differ = append(differ, fmt.Sprintf("%s is %s, the log leads to %s", at, signed.Hex(), got.Hex()))
			case ok && Resettable(pcr):
				reset = append(reset, at)
			case ok:
				result.Replayed.set(bank, pcr, got)
			case initial(pcr, signed):
			case pcr < 8:
				differ = append(differ, fmt.Sprintf("%s is %s, the log has no event for it, and firmware logs all that it measures", at, signed.Hex()))
			case !Resettable(pcr):
				unexplained = append(unexplained, at)
			}
		}
	}
	for _, bank := range replay.Values.Banks() {
		for _, pcr := range slices.Sorted(maps.Keys(replay.Values[bank])) {
			if _, ok := result.Values[bank][pcr]; !ok && result.Values[bank] != nil {
				unquoted = append(unquoted, fmt.Sprintf("PCR %d (%s)", pcr, bank))
			}
		}
	}
	if len(differ) > 0 {
		l.Fail("log-replay", strings.Join(differ, "; "))
	} else if len(result.Replayed) > 0 {
		l.Pass("log-replay", "the log leads to the signed "+result.Replayed.text())
	} else {
		l.Open("log-replay", "no signed PCR that counts has an event in the log")
	}
	if len(unexplained) > 0 {
		l.Note("log-unexplained", "something was measured that this log does not have (an operating system keeps its own): "+strings.Join(unexplained, ", "))
	}
	if len(unquoted) > 0 {
		l.Note("log-unquoted", "the log has events of PCRs that no quote covers: "+strings.Join(unquoted, ", "))
	}
	if len(reset) > 0 {
		l.Note("log-resettable", "agrees, but can be reset without a reboot and is not counted: "+strings.Join(reset, ", "))
	}
	return nil
}

// Claims are what a quote says, for people and reports: nothing of it is judged.
type Claims struct {
	Selection string `json:"selection"`
	Nonce     string `json:"nonce"`    // hexadecimal; empty: none
	Signer    string `json:"signer"`   // qualified name of the key, hexadecimal
	Firmware  string `json:"firmware"` // firmwareVersion, hexadecimal
	Clock     Clock  `json:"clock"`
	Scheme    string `json:"scheme"`
	Hash      string `json:"hash"`
}

// Claims gives what the quote says.
func (q *Quote) Claims() Claims {
	return Claims{
		SelectionText(q.Attest.Selections), hex.EncodeToString(q.Attest.ExtraData), hex.EncodeToString(q.Attest.Signer),
		fmt.Sprintf("%016x", q.Attest.Firmware), q.Attest.Clock, q.Signature.Scheme.String(), q.Signature.Hash.String(),
	}
}

// check refuses expectations that no quote could meet or that mean nothing.
func (e *Expectations) check() error {
	for bank, pcrs := range e.Values {
		for pcr, values := range pcrs {
			if pcr < 0 || pcr >= PCRCount {
				return fmt.Errorf("PCR %d: there are 0 to %d", pcr, PCRCount-1)
			}
			if len(values) == 0 {
				return fmt.Errorf("PCR %d of the bank %s: no value", pcr, bank)
			}
			for _, v := range values {
				if v.Algorithm() != bank {
					return fmt.Errorf("PCR %d of the bank %s: a value by %s", pcr, bank, v.Algorithm())
				}
			}
		}
	}
	return nil
}

// compare holds signed values against expected ones.
func (e *Expectations) compare(l *verdict.List, signed Values) {
	counted := 0
	var weak []string
	// Whoever makes what is measured can make two things with one SHA-1, and have
	// the other one looked at.
	stronger := func(pcr int) bool {
		for bank, pcrs := range e.Values {
			if got, ok := signed[bank][pcr]; ok && bank != digest.SHA1 && slices.Contains(pcrs[pcr], got) {
				return true
			}
		}
		return false
	}
	for _, bank := range slices.Sorted(maps.Keys(e.Values)) {
		for _, pcr := range slices.Sorted(maps.Keys(e.Values[bank])) {
			check, at := fmt.Sprintf("pcr%d", pcr), fmt.Sprintf("PCR %d (%s)", pcr, bank)
			var want []string
			for _, v := range e.Values[bank][pcr] {
				want = append(want, v.Hex())
			}
			got, ok := signed[bank][pcr]
			switch {
			case !ok && len(signed) == 0:
				l.Open(check, at+": no quote has verified values")
			case !ok:
				l.Fail(check, at+" is expected, but no quote covers it")
			case !slices.Contains(e.Values[bank][pcr], got):
				l.Fail(check, fmt.Sprintf("%s is %s, expected is %s", at, got.Hex(), strings.Join(want, " or ")))
			case Resettable(pcr):
				l.Open(check, at+" is "+got.Hex()+", as expected, but can be reset without a reboot: it shows nothing about the boot")
			case bank == digest.SHA1 && !stronger(pcr):
				l.Open(check, at+" is "+got.Hex()+", as expected, but by SHA-1 alone: who made what was measured can have made something else with the same digest")
			case e.Weak != "":
				weak = append(weak, at)
			default:
				counted++
				l.Pass(check, at+" is "+got.Hex()+", as expected")
			}
		}
	}
	if weak != nil {
		l.Open("pcrs", "as given, but "+e.Weak+": "+strings.Join(weak, ", "))
	}
	if len(e.Values) == 0 {
		l.Open("pcrs", "no expected values were given; signed are "+signed.text())
	} else if counted == 0 && weak == nil {
		l.Open("pcrs", "no PCR that counts was found as expected")
	}
}

// checkSelection: what is signed is what the policy asks for, no less and no
// more, all quotes together.
func (e *Evidence) checkSelection(l *verdict.List, want []Selection) {
	if want == nil {
		return
	}
	var got []Selection
	for _, q := range e.Quotes {
		got = append(got, q.Attest.Selections...)
	}
	l.Judge("selection", SelectionText(got) == SelectionText(want), "the quotes cover "+SelectionText(want)+", as the policy asks",
		"the quotes cover "+SelectionText(got)+", the policy asks for "+SelectionText(want))
}
