package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// ContrastClaim is a Coordinator's answer or a certificate of attested TLS.
type ContrastClaim struct {
	Kind       contrast.Kind   `json:"kind"`
	Version    string          `json:"version,omitempty"`   // of the Coordinator, its own word
	Manifests  []digest.Digest `json:"manifests,omitempty"` // SHA-256, oldest first
	Policies   []digest.Digest `json:"policies,omitempty"`  // SHA-256 of the texts that came along
	Transition digest.Digest   `json:"transition,omitzero"` // hash of the latest
	RootCA     digest.Digest   `json:"root_ca,omitzero"`    // SHA-256 of the PEM text
	MeshCA     digest.Digest   `json:"mesh_ca,omitzero"`
	SPKI       digest.Digest   `json:"spki,omitzero"`         // SHA-256 of the key of a certificate
	Form       contrast.Form   `json:"report_data,omitempty"` // that the report data of an answer have
}

// TransitionFunc hashes the history of manifests, oldest first. The pipeline plugs
// package manifest in.
type TransitionFunc func(manifests [][]byte) (digest.Digest, error)

func (b *Bundle) readContrast(name string, data []byte) error {
	d, err := contrast.Parse(name, data)
	if err != nil {
		return err
	}
	b.setContrast(d)
	return nil
}

// setContrast makes the report of the first document the bundle's.
func (b *Bundle) setContrast(docs ...*contrast.Document) {
	b.Contrast = docs
	b.SNP, b.Quote = docs[0].SNP, docs[0].TDX
}

// mergeContrast puts an answer and a certificate together, and returns the bundles
// as the other parts are merged: without the reports of these documents, which are
// different ones of the same guest.
func (b *Bundle) mergeContrast(all []*Bundle) ([]*Bundle, error) {
	var docs []*contrast.Document
	var rest []*Bundle
	for _, in := range all {
		for _, d := range in.Contrast {
			if !slices.ContainsFunc(docs, d.Same) {
				docs = append(docs, d)
			}
		}
		if len(in.Contrast) > 0 {
			part := *in
			part.SNP, part.Quote = nil, nil
			in = &part
		}
		rest = append(rest, in)
	}
	if len(docs) == 0 {
		return all, nil
	}
	slices.SortStableFunc(docs, func(x, y *contrast.Document) int {
		return boolOrder(x.Kind == contrast.ATLS, y.Kind == contrast.ATLS) * -1
	})
	for i := 1; i < len(docs); i++ {
		if docs[i].Kind == docs[i-1].Kind {
			return nil, fmt.Errorf("merge evidence: %s and %s are two different ones of a kind: %s", docs[i-1].Name, docs[i].Name, docs[i].Kind)
		}
	}
	for _, in := range rest {
		if in.SNP != nil || in.Quote != nil || in.GPU != nil || in.TPM != nil || in.TPMErr != nil || len(in.TPMParts) > 0 || in.Proof != nil || in.HCL != nil {
			return nil, fmt.Errorf("merge evidence: %s is judged by Contrast's conventions, %s is other evidence", docs[0].Name, in.Name)
		}
	}
	b.setContrast(docs...)
	return rest, nil
}

// fromContrast takes the evidence out of a capture of a Coordinator or a pod: the
// answer, where there is one, and the certificate of its session, where it holds a
// report.
func fromContrast(name string, c *capture.Capture) (*Bundle, error) {
	b := &Bundle{Name: name, Target: c.Target, CapturedAt: c.At, Nonce: c.Nonce}
	s := Session{Capture: name, Target: c.Target, At: c.At}
	for _, der := range c.Chain(1) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: TLS chain: %w", name, err)
		}
		s.Chain = append(s.Chain, cert)
	}
	if len(s.Chain) == 0 {
		return nil, unknown(name, "a capture without the certificate of its connection")
	}
	var docs []*contrast.Document
	for _, p := range c.Pages {
		if p.Body == nil {
			continue
		}
		if chain := c.Chain(p.Connection); p.Connection != 1 {
			leaf, err := x509.ParseCertificate(slices.Concat(chain, [][]byte{nil})[0])
			if err != nil || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, s.Chain[0].RawSubjectPublicKeyInfo) {
				s.Strangers = append(s.Strangers, fmt.Sprintf("%s over connection %d", p.Path, p.Connection))
			}
		}
		switch p.Kind {
		case capture.Attest:
			d, err := contrast.Parse(name+" "+p.Path, p.Body)
			if err != nil {
				return nil, err
			}
			docs = append(docs, d)
		case capture.Capabilities:
			b.Capabilities = p.Body
		}
	}
	if contrast.Recognize(s.Chain[0].Raw) {
		d, err := contrast.FromCertificate(name+": certificate of the session", s.Chain[0])
		if err != nil {
			return nil, err
		}
		docs = append(docs, d)
	}
	if len(docs) == 0 {
		return nil, unknown(name, "a capture with neither an answer to /attest nor a report in the certificate")
	}
	b.Sessions = []Session{s}
	b.setContrast(docs...)
	return b, nil
}

// authenticOthers verifies the report of the second document, if there is one, and
// that it is of the same guest.
func (r *Request) authenticOthers(l, expected *verdict.List, result *Result) error {
	if r.Profile != Contrast {
		return nil
	}
	for _, d := range r.Evidence.Contrast {
		result.Claims.Contrast = append(result.Claims.Contrast, r.contrastClaim(d))
		if d.Extra > 0 {
			l.Note("trailer", fmt.Sprintf("%s: %d bytes behind the quote, which nothing signs, are not looked at", d.Kind, d.Extra))
		}
	}
	expected.Note("unconfirmed", contrast.Unconfirmed)
	for _, d := range r.Evidence.Contrast[1:] {
		sub, other := *r, &Result{}
		sub.Evidence = &Bundle{Name: d.Name, SNP: d.SNP, Quote: d.TDX, Contrast: []*contrast.Document{d}}
		var checks verdict.List
		var err error
		if d.SNP != nil {
			err = sub.authenticSNP(&checks, other)
		} else {
			other.Roots, err = sub.roots()
			if err == nil {
				_, err = sub.authenticQuote(&checks, other)
			}
		}
		if err != nil {
			return err
		}
		for _, c := range checks {
			c.Reason = string(d.Kind) + ": " + c.Reason
			*l = append(*l, c)
		}
		for _, root := range other.Roots {
			if !slices.Contains(result.Roots, root) {
				result.Roots = append(result.Roots, root)
			}
		}
		same := other.Registers != nil && maps.Equal(other.Registers, result.Registers) && sameGuest(r.Evidence.Contrast[0], d)
		expected.Judge("one-guest", same, "the reports of the "+string(r.Evidence.Contrast[0].Kind)+" and of the "+string(d.Kind)+" are of one guest",
			"the report of the "+string(d.Kind)+" is of another guest than that of the "+string(r.Evidence.Contrast[0].Kind))
	}
	return nil
}

// sameGuest compares what names a guest beside its registers: the report id of
// SEV-SNP, the host's configuration of a TD.
func sameGuest(a, b *contrast.Document) bool {
	if a.SNP != nil && b.SNP != nil {
		return a.SNP.Report.ReportID == b.SNP.Report.ReportID && a.SNP.Report.ChipID == b.SNP.Report.ChipID
	}
	if a.TDX == nil || b.TDX == nil {
		return false
	}
	x, errX := tdxquote.Parse(a.TDX)
	y, errY := tdxquote.Parse(b.TDX)
	return errX == nil && errY == nil && x.Body.MRCONFIGID == y.Body.MRCONFIGID && x.Body.MROWNER == y.Body.MROWNER && x.Body.MROWNERCONFIG == y.Body.MROWNERCONFIG
}

func (r *Request) contrastClaim(d *contrast.Document) ContrastClaim {
	c := ContrastClaim{Kind: d.Kind, Version: d.Version}
	for _, m := range d.Manifests {
		c.Manifests = append(c.Manifests, digest.SHA256.Sum(m))
	}
	for _, p := range d.Policies {
		c.Policies = append(c.Policies, digest.SHA256.Sum(p))
	}
	if d.Certificate != nil {
		c.SPKI = digest.SHA256.Sum(d.Certificate.RawSubjectPublicKeyInfo)
		return c
	}
	c.RootCA, c.MeshCA = digest.SHA256.Sum(d.RootCA), digest.SHA256.Sum(d.MeshCA)
	if r.Transition != nil {
		if t, err := r.Transition(d.Manifests); err == nil {
			c.Transition = t
		}
	}
	return c
}

// bindContrast judges whose nonce, key and authorities the reports are for.
func (r *Request) bindContrast(l *verdict.List, data [64]byte, result *Result) {
	nonce := r.contrastNonce(l)
	for i, d := range r.Evidence.Contrast {
		if i > 0 {
			if d.SNP != nil {
				data = d.SNP.Report.ReportData
			} else if q, err := tdxquote.Parse(d.TDX); err == nil {
				data = q.Body.ReportData
			} else {
				l.Fail("quote", err.Error())
				continue
			}
		}
		if d.Kind == contrast.Answer {
			r.bindAnswer(l, d, nonce, data, &result.Claims.Contrast[i])
		} else {
			r.bindATLS(l, d, nonce, data)
		}
	}
	for _, e := range r.ends() {
		// It names a guest, which nobody judges here.
		if contrast.Recognize(e.cert.Raw) && !slices.ContainsFunc(r.Evidence.Contrast, func(d *contrast.Document) bool { return d.Certificate != nil }) {
			l.Open("tls", "the "+e.source+" has a report of its own, which was not judged: name it as a file beside "+r.Evidence.Name)
		}
	}
	l.Note("session", "what is bound is a key, not a session: that the guest holds the key does not show that this connection ends in it and nowhere else (contrast pull request 2524)")
	l.Note("unconfirmed", contrast.Unconfirmed)
}

// contrastNonce is the nonce that the evidence must be for. One that was given
// counts; that a capture asked for another one is a contradiction.
func (r *Request) contrastNonce(l *verdict.List) []byte {
	nonce := r.Nonce
	switch {
	case nonce == nil:
		nonce = r.Evidence.Nonce
	case r.Evidence.Nonce != nil && !bytes.Equal(nonce, r.Evidence.Nonce):
		l.Fail("nonce", fmt.Sprintf("the capture was made with the nonce %x, asked for is %x", r.Evidence.Nonce, nonce))
	}
	switch {
	case nonce == nil:
		l.Open("nonce", "no nonce was given ("+r.field("nonce", "HEX")+"): without the one that was asked for, whoever recorded the evidence once can show it again, and its report data cannot be made")
	case len(nonce) != contrast.NonceSize:
		l.Fail("nonce", fmt.Sprintf("%x has %d bytes, Contrast's have %d", nonce, len(nonce), contrast.NonceSize))
		return nil
	}
	return nonce
}

// capabilities are the bodies that an answer's report data may name: the one that
// was given or captured, or else the only one that is known.
func (r *Request) capabilities() []byte {
	switch {
	case r.Capabilities != nil:
		return r.Capabilities
	case r.Evidence.Capabilities != nil:
		return r.Evidence.Capabilities
	}
	return []byte("{\"api_versions\":[\"v1\"]}\n")
}

func (r *Request) bindAnswer(l *verdict.List, d *contrast.Document, nonce []byte, data [64]byte, claim *ContrastClaim) {
	r.bindMesh(l, d)
	if nonce == nil {
		return // said already
	}
	if r.Transition == nil {
		l.Open("report-data", "the history cannot be hashed here")
		return
	}
	transition, err := r.Transition(d.Manifests)
	if err != nil {
		l.Fail("history", err.Error())
		return
	}
	given := r.Capabilities != nil || r.Evidence.Capabilities != nil
	const what = "the nonce, the history of manifests, the Root CA and the Mesh CA"
	switch body := r.capabilities(); data {
	case contrast.OfAnswer(nonce, transition, d.RootCA, d.MeshCA, body):
		claim.Form = contrast.V1
		l.Pass("report-data", "the report data bind "+what+", and the capabilities that were offered (form "+string(contrast.V1)+")")
	case contrast.OfAnswer(nonce, transition, d.RootCA, d.MeshCA, nil):
		claim.Form = contrast.Legacy
		l.Pass("report-data", "the report data bind "+what+" (form "+string(contrast.Legacy)+")")
		if given {
			l.Open("capabilities", "the answer has the older form, which does not bind the capabilities that were offered: somebody may have talked the client down to it")
		}
	default:
		why := fmt.Sprintf("the report data are %x; the nonce %x, the history that leads to transition %s and the two CA certificates give %x", data[:32], nonce, transition.Hex(), first(contrast.OfAnswer(nonce, transition, d.RootCA, d.MeshCA, nil)))
		if given {
			why += fmt.Sprintf(", with the capabilities %x", first(contrast.OfAnswer(nonce, transition, d.RootCA, d.MeshCA, body)))
		} else {
			why += "; capabilities were not given (" + r.field("capabilities", "FILE") + "), and those known do not fit"
		}
		l.Fail("report-data", why)
	}
}

func first(data [64]byte) []byte { return data[:32] }

// authority reads a CA certificate of an answer: one, in PEM, that is a CA and
// valid.
func authority(text []byte, at time.Time) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil || block.Type != "CERTIFICATE":
		return nil, errors.New("no certificate in PEM")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return nil, err
	case !cert.IsCA || !cert.BasicConstraintsValid:
		return nil, errors.New("is no CA certificate")
	case at.Before(cert.NotBefore) || at.After(cert.NotAfter):
		return nil, fmt.Errorf("is valid from %s to %s, not at %s", cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return cert, nil
}

// Leaves are the certificates of the connections that an answer's authorities must
// vouch for, each with what came behind it: the one given and those of sessions
// that show no report of their own.
func (r *Request) Leaves() [][]*x509.Certificate {
	var out [][]*x509.Certificate
	for _, s := range r.Evidence.Sessions {
		if len(s.Chain) > 0 && !contrast.Recognize(s.Chain[0].Raw) {
			out = append(out, s.Chain)
		}
	}
	if r.TLSCert != nil && !contrast.Recognize(r.TLSCert.Raw) && !slices.ContainsFunc(out, func(c []*x509.Certificate) bool { return c[0].Equal(r.TLSCert) }) {
		chain := []*x509.Certificate{r.TLSCert}
		if len(r.TLSChain) > 1 {
			chain = r.TLSChain
		}
		out = append(out, chain)
	}
	return out
}

// bindMesh checks the authorities of an answer, and that the certificates of
// connections lead to one of them.
func (r *Request) bindMesh(l *verdict.List, d *contrast.Document) {
	pool, good := x509.NewCertPool(), true
	names := map[string]string{}
	for _, ca := range []struct {
		name string
		text []byte
	}{{"Mesh CA", d.MeshCA}, {"Root CA", d.RootCA}} {
		cert, err := authority(ca.text, r.At)
		if err != nil {
			l.Fail("ca", "the "+ca.name+" of the answer: "+err.Error())
			good = false
			continue
		}
		pool.AddCert(cert)
		if _, twice := names[string(cert.Raw)]; !twice {
			names[string(cert.Raw)] = ca.name
		}
	}
	leaves := r.Leaves()
	if len(leaves) == 0 {
		l.Note("tls", "no certificate of a workload was given ("+r.field("tls_cert", "FILE")+"): what the Mesh CA issued was not looked at")
	}
	for _, chain := range leaves {
		leaf := chain[0]
		if !good {
			l.Fail("tls", "the authorities that should have issued the certificate "+hex.EncodeToString(leaf.SerialNumber.Bytes())+" are broken")
			continue
		}
		between := x509.NewCertPool()
		for _, c := range chain[1:] {
			between.AddCert(c)
		}
		if leaf.IsCA {
			l.Fail("tls", "the certificate of the connection is a CA's, want a workload's")
			continue
		}
		found, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: r.At, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			l.Fail("tls", "the certificate of the connection leads to neither the Mesh CA nor the Root CA of the answer: "+err.Error())
			continue
		}
		l.Pass("tls", "the certificate of the connection was issued under the "+names[string(found[0][len(found[0])-1].Raw)]+" that the answer names")
	}
}

// bindATLS judges a certificate of attested TLS: signed by its own key, valid, and
// with a report for this key and the nonce.
func (r *Request) bindATLS(l *verdict.List, d *contrast.Document, nonce []byte, data [64]byte) {
	cert := d.Certificate
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		l.Fail("self-signed", "the certificate is not signed by its own key: "+err.Error())
	} else {
		l.Pass("self-signed", "the certificate is signed by its own key")
	}
	if r.At.Before(cert.NotBefore) || r.At.After(cert.NotAfter) {
		why := fmt.Sprintf("the certificate is valid from %s to %s, not at %s", cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), r.At.UTC().Format(time.RFC3339))
		if at := r.Evidence.CapturedAt; !at.IsZero() {
			why += "; it was captured at " + at.UTC().Format(time.RFC3339) + ", the time to judge it for (" + r.field("at", "TIME") + ")"
		}
		l.Fail("validity", why)
	}
	if nonce != nil {
		want := contrast.OfKey(cert.RawSubjectPublicKeyInfo, nonce)
		l.Judge("report-data", data == want, "the report data are the SHA-512 of the certificate's public key and the nonce",
			fmt.Sprintf("the report data are %x, the certificate's public key and the nonce %x give %x: the report is for another key or nonce", data, nonce, want))
	}
	same := func(c *x509.Certificate, source string) {
		l.Judge("tls", bytes.Equal(c.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo), "the "+source+" has the key that the report is for",
			"the "+source+" has another key than the certificate with the report: somebody else's key ends this connection")
	}
	for _, e := range r.ends() {
		// What the answer's authorities issued is judged by them.
		if contrast.Recognize(e.cert.Raw) || r.Evidence.Contrast[0].Kind == contrast.ATLS {
			same(e.cert, e.source)
		}
	}
}
