package blindllama

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

// The registers of the application, in the SHA-256 bank.
const (
	applicationPCR = 15
	codePCR        = 16 // version 1: it can be reset
)

// Policy is what a BlindLlama machine quotes: PCRs 0 to 15 of the SHA-256 bank.
func Policy() []tpmquote.Selection {
	s := tpmquote.Selection{Bank: digest.SHA256}
	for i := range 16 {
		s.PCRs = append(s.PCRs, i)
	}
	return []tpmquote.Selection{s}
}

// goldenPCRs are those that a release's golden measurements have. Without one of
// them something that runs is not compared: PCR 12 has a command line that takes
// the measured one's place, PCR 13 extensions of the system.
func goldenPCRs() []int { return []int{0, 1, 2, 3, 4, 12, 13} }

// Options say against what a proof file is verified.
type Options struct {
	// At is the time at which certificates must be valid. Required.
	At time.Time
	// Roots replace the one built in (Azure's of 2023).
	Roots []tpmquote.Root
	// Selection is what must be signed, no more and no less; nil: Policy for
	// version 2, anything for version 1, of which no policy is known.
	Selection []tpmquote.Selection

	Golden Golden // nil: none given
	// GoldenWeak says why agreement with Golden shows nothing, "" where it does.
	GoldenWeak string
	RootHash   *digest.Digest // of the application disk; nil: not known
	// Elsewhere are SHA-256 values of PCRs that the caller holds the signed ones
	// against by itself: golden measurements may lack them.
	Elsewhere map[int]digest.Digest

	Nonce []byte // the caller asked with; nil: none
	// TLSChain are the certificates of the connection, leaf first; nil: none.
	TLSChain   []*x509.Certificate
	ServerName string // that the leaf must name; empty: any
	// ServerCertificate is version 1's: the PEM text of the server's certificate.
	ServerCertificate string
}

// Result is what verification found. Quote is nil where the quote cannot be
// read.
type Result struct {
	Authentic, Expected, Bound []verdict.Check

	Quote    *tpmquote.Quote
	TPM      *tpmquote.Result
	Provider tpmquote.Provider // of the virtual TPM; empty: not known
	// PCR15 is the fold that the proof file claims; nil where it claims none.
	PCR15 *trace.Trace
}

// Verify judges a proof file as the three steps of the client do, and what the
// client leaves out: signed selection, nonce, extended key usage, an empty
// policy. An error means that the options are wrong.
func (p *Proof) Verify(o Options) (*Result, error) {
	if o.At.IsZero() {
		return nil, errors.New("verify BlindLlama proof: no time given")
	}
	r := &Result{}
	authentic, expected, bound := (*verdict.List)(&r.Authentic), (*verdict.List)(&r.Expected), (*verdict.List)(&r.Bound)
	chain, last, err := p.certificates()
	if err != nil {
		authentic.Fail("ak-chain", err.Error())
	}
	r.Quote, err = p.quote()
	if err != nil {
		authentic.Fail("quote", err.Error())
		expected.Open("quote", "cannot be read")
		bound.Open("quote", "cannot be read")
		return r, nil
	}
	if err := p.verifyQuote(r, chain, last, &o); err != nil {
		return nil, err
	}
	for _, part := range p.Unjudged {
		authentic.Note("unjudged", part+" is not known and not looked at")
	}
	value, signed := r.TPM.Values[digest.SHA256][applicationPCR]
	holds := false
	if p.Version == V1 {
		p.expectLog(expected, r, &o)
		holds = p.expectServer(expected, value, signed, &o)
	} else {
		holds = p.expectDisk(expected, r, value, signed, &o)
	}
	p.bindNonce(bound, r, &o)
	p.bindTLS(bound, holds, &o)
	return r, nil
}

// certificates gives the leaf with what lies between it and the root, and the
// last certificate, which the client does not look at: the root that counts is
// the one it knows.
func (p *Proof) certificates() (chain []*x509.Certificate, last *x509.Certificate, err error) {
	var all []*x509.Certificate
	for i, raw := range p.Chain {
		name := fmt.Sprintf("%s: cert_chain[%d]", p.Name, i)
		if p.Version == V1 {
			c, err := x509.ParseCertificate(raw)
			if err != nil {
				return nil, nil, &malformed.Error{Input: name, Found: err.Error(), Want: "a DER certificate (RFC 5280)"}
			}
			all = append(all, c)
			continue
		}
		one, err := certs.ReadPEM(name, raw)
		if err != nil {
			return nil, nil, err
		}
		if len(one) != 1 {
			return nil, nil, &malformed.Error{Input: name, Found: fmt.Sprintf("%d certificates", len(one)), Want: "one"}
		}
		all = append(all, one[0])
	}
	switch len(all) {
	case 0:
		return nil, nil, &malformed.Error{Input: p.Name, Place: "/cert_chain", Found: "no certificate", Want: "leaf, intermediate, root"}
	case 1:
		return all, nil, nil
	}
	return all[:len(all)-1], all[len(all)-1], nil
}

func (p *Proof) quote() (*tpmquote.Quote, error) {
	values, err := tpmquote.ParsePCRFile(p.Name+": /quote/pcr", p.PCRs)
	if err != nil {
		return nil, err
	}
	return tpmquote.NewQuote(p.Name, p.Message, p.Signature, values, true)
}

// verifyQuote is steps 1 and 2 of the client, and the golden values of step 3.
func (p *Proof) verifyQuote(r *Result, chain []*x509.Certificate, last *x509.Certificate, o *Options) error {
	e := tpmquote.Evidence{Form: tpmquote.FormFiles, Quotes: []tpmquote.Quote{*r.Quote}}
	if chain != nil {
		e.AK = &tpmquote.AK{Key: chain[0].PublicKey, Chain: chain}
	}
	selection := o.Selection
	if selection == nil && p.Version == V2 {
		selection = Policy()
	}
	expect := tpmquote.Expectations{Selection: selection, Weak: o.GoldenWeak}
	if len(o.Golden) > 0 {
		values := map[int][]digest.Digest{}
		for pcr, d := range o.Golden {
			values[pcr] = []digest.Digest{d}
		}
		expect.Values = map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: values}
	}
	found, err := e.Verify(tpmquote.Options{At: o.At, Roots: o.Roots, Nonce: o.Nonce, Expect: expect})
	if err != nil {
		return err
	}
	r.TPM, r.Provider = found, found.Provider
	authentic, expected := (*verdict.List)(&r.Authentic), (*verdict.List)(&r.Expected)
	for _, c := range found.Authentic {
		// A proof file has the whole chain. What is missing may only be the root
		// of a provider whose root is not known here.
		if m := found.Missing; c.Name == "ak-chain" && m != nil {
			if o.Roots != nil || last == nil || !bytes.Equal(last.RawSubject, last.RawIssuer) || last.Subject.String() != m.Issuer {
				c.Verdict = verdict.Fail
			} else {
				c.Reason += "; the proof file ends in the root " + last.Subject.String() + " (SHA-256 " + digest.SHA256.Sum(last.Raw).Hex() + "): give it as a root if you trust it"
			}
		}
		*authentic = append(*authentic, c)
	}
	if found.Root != nil && last != nil && !last.Equal(found.Root.Certificate) {
		authentic.Note("ak-root", "the last certificate of the file is "+last.Subject.String()+", not the root that the chain leads to; it is not used, as by the client")
	}
	if found.Provider != "" {
		authentic.Note("provider", "the TPM is a virtual one of the provider "+string(found.Provider)+": that it is isolated is the provider's word, no hardware report stands behind it")
	}
	for _, c := range found.Expected {
		if c.Name == "pcrs" && o.Golden != nil && len(o.Golden) == 0 {
			c.Reason = "the golden measurements are empty: the client accepts that, and compares nothing of firmware and operating system"
		}
		*expected = append(*expected, c)
	}
	var left []string
	for _, pcr := range goldenPCRs() {
		_, golden := o.Golden[pcr]
		_, elsewhere := o.Elsewhere[pcr]
		if !golden && !elsewhere && len(o.Golden)+len(o.Elsewhere) > 0 {
			left = append(left, strconv.Itoa(pcr))
		}
	}
	if left != nil {
		expected.Open("golden", "the golden measurements have no value for PCR "+strings.Join(left, ", ")+": what those show was not compared (0 to 3 firmware, 4 the operating system, 12 its command line, 13 its extensions)")
	}
	return nil
}

// expectDisk is the rest of step 3 in version 2.
func (p *Proof) expectDisk(l *verdict.List, r *Result, value digest.Digest, signed bool, o *Options) bool {
	root, err := rootHash(p.RootHash)
	switch {
	case err != nil:
		l.Fail("application-disk", "the root hash that the proof file states: "+err.Error())
		return false
	case o.RootHash == nil:
		l.Open("application-disk", "no expected root hash was given; the proof file states "+p.RootHash)
	default:
		l.Judge("application-disk", root == *o.RootHash, "the root hash of the application disk is "+p.RootHash+", as expected",
			"the root hash of the application disk is "+p.RootHash+", expected is "+o.RootHash.Hex())
	}
	r.PCR15 = ApplicationRegister(root, p.CA)
	return judgeFold(l, "pcr15", applicationPCR, r.PCR15, value, signed,
		"the application disk and the CA that the proof file states (three values, of which no log tells)")
}

// judgeFold holds a signed register against the fold of what a proof file says.
func judgeFold(l *verdict.List, check string, pcr int, t *trace.Trace, value digest.Digest, signed bool, what string) bool {
	want, err := t.Compute()
	switch {
	case err != nil:
		l.Fail(check, err.Error())
	case !signed:
		l.Open(check, fmt.Sprintf("no verified quote covers PCR %d", pcr))
	case value != want:
		l.Fail(check, fmt.Sprintf("PCR %d is %s; the fold of %s is %s", pcr, value.Hex(), what, want.Hex()))
	default:
		l.Pass(check, fmt.Sprintf("PCR %d is the fold of %s", pcr, what))
		return true
	}
	return false
}

// expectLog replays version 1's log. PCR 16 is for debugging: whatever runs can
// reset it and measure again what is expected, so it never counts.
func (p *Proof) expectLog(l *verdict.List, r *Result, o *Options) {
	value, signed := r.TPM.Values[digest.SHA256][codePCR]
	t := LogRegister("event", p.EventLog...)
	if judgeFold(l, "pcr16", codePCR, t, value, signed, fmt.Sprintf("the log's %d events", len(p.EventLog))) {
		l.Open("code", "the log leads to PCR 16, but that register can be reset without a reboot: it does not show which code runs")
	}
	if o.RootHash != nil {
		l.Open("application-disk", "a proof file of version 1 states no application disk")
	}
}

// expectServer: PCR 15 of version 1 has the server's certificate and nothing
// else.
func (p *Proof) expectServer(l *verdict.List, value digest.Digest, signed bool, o *Options) bool {
	if o.ServerCertificate == "" {
		l.Note("pcr15", "the PEM text of the server's certificate was not given; signed is "+text(value, signed))
		return false
	}
	return judgeFold(l, "pcr15", applicationPCR, LogRegister("server certificate", o.ServerCertificate), value, signed, "the server's certificate that was given")
}

func text(d digest.Digest, ok bool) string {
	if !ok {
		return "nothing"
	}
	return d.Hex()
}

// bindNonce: BlindLlama's machines quote without a nonce, once.
func (p *Proof) bindNonce(l *verdict.List, r *Result, o *Options) {
	if len(o.Nonce) > 0 {
		*l = append(*l, r.TPM.Bound...)
		return
	}
	if got := r.Quote.Attest.ExtraData; len(got) > 0 {
		l.Note("nonce", "no nonce was given; the quote is for "+hex.EncodeToString(got))
		return
	}
	l.Note("nonce", "the quote holds no nonce (extraData is empty): it can be of any time since the machine's start, and of a machine that is gone")
}

// bindTLS: the connection must end at a certificate of the measured CA. The CA
// is measured, not the leaf: whoever has its key makes more of them.
func (p *Proof) bindTLS(l *verdict.List, measured bool, o *Options) {
	if p.Version == V1 {
		p.bindServer(l, measured, o)
		return
	}
	ca, err := certs.ReadPEM(p.Name+": /webserver_rootca", []byte(p.CA))
	switch {
	case err != nil:
		l.Fail("tls-ca", err.Error())
		return
	case len(ca) != 1 || !ca[0].IsCA:
		l.Fail("tls-ca", fmt.Sprintf("the CA of the web server: found %d certificates, want one, of a CA", len(ca)))
		return
	case !measured:
		l.Fail("tls-ca", "PCR 15 does not show that the CA "+ca[0].Subject.String()+" was measured")
		return
	}
	l.Note("tls-leaf", "the CA of the web server is measured, not its certificate: whoever has the CA's key can make others")
	if len(o.TLSChain) == 0 {
		const none = "no certificate of a connection was given; the measured CA is "
		if len(o.Nonce) > 0 {
			l.Note("tls", none+ca[0].Subject.String())
		} else {
			l.Open("tls", none+ca[0].Subject.String()+": nothing is bound")
		}
		return
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca[0])
	for _, c := range o.TLSChain[1:] {
		between.AddCert(c)
	}
	leaf := o.TLSChain[0]
	if leaf.Equal(ca[0]) || leaf.IsCA {
		l.Fail("tls", "the connection ended at a CA's certificate, "+leaf.Subject.String())
		return
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: o.At, DNSName: o.ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		l.Fail("tls", "the connection's certificate is not one of the measured CA: "+err.Error())
		return
	}
	l.Pass("tls", "the connection ended at a certificate of the measured CA "+ca[0].Subject.String())
}

// bindServer: version 1 measures the certificate itself.
func (p *Proof) bindServer(l *verdict.List, measured bool, o *Options) {
	switch {
	case o.ServerCertificate == "":
		if len(o.Nonce) == 0 {
			l.Open("tls", "neither a nonce nor the server's certificate was given: nothing is bound")
		}
	case !measured:
		l.Fail("tls", "PCR 15 does not show that the server's certificate was measured")
	case len(o.TLSChain) == 0:
		l.Open("tls", "the server's certificate is measured; which one ended the connection was not given")
	default:
		given, err := certs.ReadPEM("server certificate", []byte(o.ServerCertificate))
		l.Judge("tls", err == nil && given[0].Equal(o.TLSChain[0]), "the connection ended at the measured certificate", "the connection ended at another certificate than the measured one")
	}
}
