package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence/verdict"
)

// TLSForm says how report data names a TLS key.
type TLSForm string

// The forms. SecretVM puts a SHA-256 into the first half of the report data;
// dstack's RA-TLS certificates fill it with SHA-512("ratls-cert:" || SPKI).
const (
	FormSPKI        TLSForm = "spki"        // SHA-256 of SubjectPublicKeyInfo, current
	FormCertificate TLSForm = "certificate" // SHA-256 of the whole certificate, older
	FormRATLS       TLSForm = "ra-tls"
)

// TLSBinding is how a certificate relates to a quote.
type TLSBinding struct {
	Form        TLSForm `json:"form,omitempty"` // empty: none matches
	SPKI        string  `json:"spki_sha256"`
	Certificate string  `json:"certificate_sha256"`
	Source      string  `json:"source"`
}

// Bind finds the form in which report data names a certificate's key.
func Bind(reportData [64]byte, cert *x509.Certificate) TLSBinding {
	spki, whole := sha256.Sum256(cert.RawSubjectPublicKeyInfo), sha256.Sum256(cert.Raw)
	b := TLSBinding{SPKI: hex.EncodeToString(spki[:]), Certificate: hex.EncodeToString(whole[:])}
	ratls := sha512.Sum512(append([]byte("ratls-cert:"), cert.RawSubjectPublicKeyInfo...))
	switch {
	case bytes.Equal(reportData[:32], spki[:]):
		b.Form = FormSPKI
	case bytes.Equal(reportData[:32], whole[:]):
		b.Form = FormCertificate
	case reportData == ratls:
		b.Form = FormRATLS
	}
	return b
}

// end is a certificate that ended a connection, and which one that was.
type end struct {
	cert   *x509.Certificate
	source string
}

// ends are the certificates that the report data must name: those of the TLS
// sessions that the quote came over, and the one that the caller gives. None
// takes the place of another: a quote that came through somebody else's session
// is not bound by a certificate that was seen elsewhere.
func (r *Request) ends() []end {
	var out []end
	for _, s := range r.Evidence.Sessions {
		source := "certificate of the TLS session that the quote came over"
		if len(r.Evidence.Sessions) > 1 {
			source += " (" + s.Capture + ")"
		}
		out = append(out, end{s.Chain[0], source})
	}
	if r.TLSCert == nil || slices.ContainsFunc(out, func(e end) bool { return e.cert.Equal(r.TLSCert) }) {
		return out
	}
	source := "certificate given"
	if len(out) > 0 {
		source = "certificate given, from another connection than the quote's"
	}
	return append(out, end{r.TLSCert, source})
}

// bindTLS adds the checks of the certificates. The claim is the one of the first
// that does not bind, or else of the first.
func (r *Request) bindTLS(l *verdict.List, data [64]byte, result *Result) {
	ends := r.ends()
	if len(ends) == 0 {
		l.Open("tls", "no TLS certificate given ("+r.field("tls_cert", "FILE")+"), report data is "+hex.EncodeToString(data[:]))
		return
	}
	for _, e := range ends {
		b := Bind(data, e.cert)
		b.Source = e.source
		if b.Form == FormRATLS && r.Profile == SecretVM {
			b.Form = ""
		}
		if result.Claims.TLS == nil || result.Claims.TLS.Form != "" && b.Form == "" {
			result.Claims.TLS = &b
		}
		switch b.Form {
		case FormSPKI:
			l.Pass("tls", "report data begins with the SHA-256 of the public key (SubjectPublicKeyInfo) of the "+e.source)
		case FormCertificate:
			l.Pass("tls", "report data begins with the SHA-256 of the whole "+e.source+" (older form)")
		case FormRATLS:
			l.Pass("tls", "report data is dstack's RA-TLS digest of the public key of the "+e.source)
		default:
			l.Fail("tls", fmt.Sprintf("report data begins with %x; of the %s the public key has the SHA-256 %s, the whole the SHA-256 %s: somebody else's key ends this connection", data[:32], e.source, b.SPKI, b.Certificate))
		}
	}
}

// checkSessions: the parts of a capture must agree with each other.
func (r *Request) checkSessions(l *verdict.List) {
	for _, s := range r.Evidence.Sessions {
		at := s.At.UTC().Format(time.RFC3339)
		if len(s.Strangers) > 0 {
			l.Fail("capture", fmt.Sprintf("%s holds pages of connections that ended at different keys: %s, the quote came over another one", s.Capture, strings.Join(s.Strangers, ", ")))
		}
		if from := s.Chain[0].NotBefore; s.At.Before(from.Add(-clockSkew)) {
			l.Fail("capture", fmt.Sprintf("%s says that it was taken at %s, when the certificate of its connection was not made yet (valid from %s)", s.Capture, at, from.UTC().Format(time.RFC3339)))
		}
		if s.At.After(r.At.Add(clockSkew)) {
			l.Note("capture", fmt.Sprintf("%s was taken at %s, after the time for which it is judged", s.Capture, at))
		}
	}
}

// clockSkew is how far the clocks of a machine and of who captures it may be
// apart.
const clockSkew = 10 * time.Minute

// bindSecretVM: the first half names the TLS key, the second one the nonce that
// the GPU answered, or nothing.
func (r *Request) bindSecretVM(l *verdict.List, data [64]byte, gpuNonce []byte, result *Result) {
	r.bindTLS(l, data, result)
	second := data[32:]
	zero := bytes.Equal(second, make([]byte, 32))
	switch {
	case gpuNonce != nil:
		l.Judge("gpu", bytes.Equal(second, gpuNonce), "the second half of the report data is the nonce that the GPU answered",
			fmt.Sprintf("the second half of the report data is %x, the GPU answered the nonce %x: it is no GPU of this machine", second, gpuNonce))
	case r.Evidence.GPU != nil:
		l.Fail("gpu", "the GPU evidence cannot be read, so its nonce is not known")
	case zero:
		l.Pass("gpu", "the report data binds no GPU, and no GPU evidence is shown")
	default:
		why := "no GPU evidence was given"
		if r.Evidence.GPUErr != nil {
			why = r.Evidence.GPUErr.Error()
		}
		l.Open("gpu", fmt.Sprintf("the report data binds a GPU by the nonce %x; %s", second, why))
	}
	if r.Nonce != nil {
		l.Judge("nonce", bytes.Equal(second, r.Nonce), "the second half of the report data is the nonce asked for",
			fmt.Sprintf("the second half of the report data is %x, the nonce asked for is %x", second, r.Nonce))
	}
}

// bindPlain: report data is the application's own. A nonce stands at its
// beginning, followed by zeros; a certificate in one of the known forms.
func (r *Request) bindPlain(l *verdict.List, data [64]byte, gpuNonce []byte, result *Result) {
	if claimed := r.Evidence.ReportData; claimed != nil {
		l.Judge("report-data", bytes.Equal(padded(claimed), data[:]), "the report data beside the quote is the quote's",
			fmt.Sprintf("the report data beside the quote is %x, the quote's is %x", claimed, data))
	}
	if r.TLSCert != nil || len(r.Evidence.Sessions) > 0 {
		r.bindTLS(l, data, result)
	}
	if r.Nonce != nil {
		l.Judge("nonce", bytes.Equal(padded(r.Nonce), data[:]), "report data is the nonce asked for",
			fmt.Sprintf("report data is %x, the nonce asked for is %x", data, r.Nonce))
	}
	switch {
	case r.Evidence.GPU == nil:
	case gpuNonce == nil:
		l.Fail("gpu", "the GPU evidence cannot be read, so its nonce is not known")
	case bytes.Equal(data[32:], gpuNonce):
		l.Pass("gpu", "the second half of the report data is the nonce that the GPU answered")
	default:
		l.Open("gpu", fmt.Sprintf("the GPU answered the nonce %x, which the report data does not name: whether it is a GPU of this machine is not known", gpuNonce))
	}
	if holder := r.Evidence.Holder; holder != nil {
		// The certificate came with the quote: that the two belong together does not
		// say whose connection ends at it.
		if Bind(data, holder).Form == "" {
			l.Fail("certificate", "report data does not name the key of the certificate that the quote stands in: the quote was put into another certificate")
		} else {
			l.Pass("certificate", "report data names the key of the certificate that the quote stands in")
		}
		if r.TLSCert == nil && len(r.Evidence.Sessions) == 0 && r.Nonce == nil {
			l.Open("tls", "whether a connection ended at that certificate is not known: give the connection's ("+r.field("tls_cert", "FILE")+")")
			return
		}
	}
	if r.TLSCert == nil && len(r.Evidence.Sessions) == 0 && r.Nonce == nil {
		l.Open("report-data", fmt.Sprintf("neither a nonce (%s) nor a TLS certificate (%s) was given; report data is %x", r.field("nonce", "HEX"), r.field("tls_cert", "FILE"), data))
	}
}

// bindHCL: the report data vouch for the paravisor's runtime data, in which the
// virtual TPM's key stands (checked under authentic). What the guest wrote there
// may be a nonce; a connection is bound by that TPM's quote only.
func (r *Request) bindHCL(l *verdict.List, user []byte) {
	if r.TLSCert != nil || len(r.Evidence.Sessions) > 0 {
		l.Open("tls", "the report binds the key of the virtual TPM; whether that TPM speaks for a TLS key, only its quote shows")
	}
	switch {
	case r.Nonce != nil:
		l.Judge("nonce", bytes.Equal(padded(r.Nonce), padded(user)), "the guest's data in the runtime data is the nonce asked for",
			fmt.Sprintf("the guest's data in the runtime data is %x, the nonce asked for is %x", user, r.Nonce))
	case r.TLSCert == nil && len(r.Evidence.Sessions) == 0:
		l.Open("report-data", fmt.Sprintf("no nonce (%s) was given; the guest's data in the runtime data is %x", r.field("nonce", "HEX"), user))
	}
}

// padded fills up to 64 bytes with zeros; what is longer stays as it is and
// equals no report data.
func padded(b []byte) []byte {
	if len(b) >= 64 {
		return b
	}
	return append(bytes.Clone(b), make([]byte, 64-len(b))...)
}
