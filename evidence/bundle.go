// Package evidence judges what a confidential machine shows about itself: TDX
// quotes of SecretVM, dstack and plain TDX machines and NVIDIA GPU evidence.
// There are three judgements, never one: authentic (who signed, and is the
// hardware's protection on), expected (are the registers the ones that were
// recomputed or published) and bound (does this evidence belong to this
// connection, this GPU, this nonce). Nothing here needs the network; package
// capture fetches what a machine shows.
package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// MaxFile bounds an evidence file in bytes.
const MaxFile = 16 << 20

// Bundle is evidence that belongs together, as it was read. Everything in it is
// a claim of whoever sent it.
type Bundle struct {
	Name string

	Quote  []byte              // a TDX quote, nil if there is none
	SNP    *snpreport.Evidence // an AMD SEV-SNP report with what came beside it
	GPU    []byte              // an NVIDIA evidence file, nil if there is none
	GPUErr error               // what was wrong with a page that should hold GPU evidence
	Page   bool                // it is a saved page, as SecretVM's attestation service shows them

	// TPM is a quote of a TPM; TPMErr says what is wrong with one that cannot be
	// read. TPMParts are tpm2-tools' files one by one, until Merge puts them together.
	TPM      *tpmquote.Evidence
	TPMErr   error
	TPMParts map[tpmquote.Part][]byte
	// Hardware is the SEV-SNP report that vouches for the TPM's key on Azure, HCL a
	// report of TDX's that stands alone.
	Hardware *snpreport.Evidence
	HCL      *hcl.Report
	Proof    *blindllama.Proof // BlindLlama's
	// Contrast are a Coordinator's answer, a certificate of attested TLS, or both, the
	// answer first: SNP or Quote is the report of the first. Capabilities and Nonce
	// are what a capture of them asked and got.
	Contrast            []*contrast.Document
	Capabilities, Nonce []byte
	// tpm and proof are the files as they came, to tell two from one.
	tpm, proof []byte

	// Holder is the RA-TLS certificate that the quote stood in.
	Holder *x509.Certificate
	// Unread names parts that are there and were not read.
	Unread []string

	// Beside a dstack quote.
	EventLog   []byte // JSON
	VMConfig   []byte // JSON
	ReportData []byte // what the sender says that the quote holds

	// From captures. The time and target are the first one's.
	CapturedAt   time.Time
	Target       string
	Sessions     []Session
	ShownCompose bool // a capture holds the compose file that the machine shows
}

// empty reports whether there is nothing to judge.
func (b *Bundle) empty() bool {
	return b.Quote == nil && b.GPU == nil && b.SNP == nil && b.TPM == nil && b.TPMErr == nil && b.Proof == nil
}

// Session is the TLS session that a captured quote came over.
type Session struct {
	Capture string // the folder
	Target  string // host:port
	At      time.Time
	Chain   []*x509.Certificate // leaf first
	// Strangers says which pages of the same capture came over a connection that
	// ended at another key: "/gpu over connection 2".
	Strangers []string
}

// Read recognizes an evidence file by its content: a TDX quote in binary, hex or
// base64, dstack's JSON, a saved cpu.html or gpu.html, NVIDIA's JSON, an SEV-SNP
// report in any container of package snpreport, a TPM's quote in one of package
// tpmquote or one of tpm2-tools' files, BlindLlama's proof file, dstack's versioned
// attestation, an RA-TLS certificate, and a quote in JSON or YAML of any other maker,
// under whatever name. A file with two that differ is an error. name is the file in
// errors; a *ForeignError names evidence that is not judged here.
func Read(name string, data []byte) (*Bundle, error) {
	if len(data) > MaxFile {
		return nil, &malformed.Error{Input: name, Field: "size", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", MaxFile)}
	}
	b := &Bundle{Name: name}
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	binary := !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0
	var err error
	switch part := tpmquote.Part(""); {
	case contrast.Recognize(data):
		err = b.readContrast(name, data)
	case b.readHCL(data):
	case isSNP(data):
		b.SNP, err = snpreport.Open(name, data)
	case !isTDX(data) && binaryPart(data, &part):
		err = b.readTPM(part, data)
	case isTDX(data) || binary:
		err = b.readBinary(data)
	case len(text) == 0:
		return nil, unknown(name, "nothing")
	case text[0] == '{' || text[0] == '[':
		err = b.readJSON(text)
	case text[0] == '<':
		err = b.readHTML(text)
	case isPEM(text):
		err = b.readPEM(text)
	default:
		err = b.readText(text)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// readBinary reads what is no text. What nothing knows is taken for a quote, so
// that a broken one is evidence that fails.
func (b *Bundle) readBinary(data []byte) error {
	f, err := bytesFind(b.Name, "", data)
	switch {
	case err != nil:
		return err
	case f != nil:
		return b.take(*f)
	}
	if data[0] == 0x30 { // an ASN.1 sequence
		if chain, err := parseCertificates(b.Name, data); err == nil {
			return b.orUnknown(b.readCertificates(chain))
		}
	}
	b.Quote = data
	return nil
}

// orUnknown says of certificates without evidence what would be evidence.
func (b *Bundle) orUnknown(err error) error {
	if errors.Is(err, errNoQuote) {
		return unknown(b.Name, err.Error())
	}
	return err
}

// readPEM reads certificates, or something else in one block.
func (b *Bundle) readPEM(text []byte) error {
	if bytes.Contains(text, []byte("-----BEGIN CERTIFICATE-----")) {
		chain, err := parseCertificates(b.Name, text)
		if err != nil {
			return err
		}
		return b.orUnknown(b.readCertificates(chain))
	}
	raw, err := pemBody(b.Name, text)
	if err != nil {
		return err
	}
	f, err := bytesFind(b.Name, "", raw)
	switch {
	case err != nil:
		return err
	case f == nil:
		return unknown(b.Name, fmt.Sprintf("a PEM block of %d bytes beginning with %x", len(raw), raw[:min(len(raw), 8)]))
	}
	return b.take(*f)
}

// readText reads hex or base64.
func (b *Bundle) readText(text []byte) error {
	if err := token(b.Name, text); err != nil {
		return err
	}
	raw, err := decodeText(string(text))
	if err != nil {
		return b.readYAML(text, unknown(b.Name, err.Error()))
	}
	if isDocument(raw) { // JSON, once more packed
		return b.readJSON(raw)
	}
	f, err := bytesFind(b.Name, "", raw)
	switch {
	case err != nil:
		return err
	case f == nil: // a broken quote is evidence that fails
		b.Quote = raw
		return nil
	}
	return b.take(*f)
}

func unknown(name, found string) error {
	return &malformed.Error{Input: name, Found: found, Want: "a TDX quote (binary, hex, base64, in JSON or an RA-TLS certificate), dstack's JSON or attestation, a saved cpu.html, NVIDIA GPU evidence, an SEV-SNP report, a TPM quote or BlindLlama's proof file"}
}

// binaryPart recognizes a TPM's quote, or a part of one, that is no text. JSON is
// read with the other documents.
func binaryPart(data []byte, part *tpmquote.Part) bool {
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' && utf8.Valid(text) {
		return false
	}
	*part = tpmquote.Recognize(data)
	return *part != ""
}

// isTDX recognizes the header of a quote: version 4 or 5, TEE type TDX.
func isTDX(b []byte) bool {
	return len(b) >= 48 && (b[0] == 4 || b[0] == 5) && b[1] == 0 && binary.LittleEndian.Uint32(b[4:]) == 0x81
}

// isSNP recognizes what begins as an SNP report, version 2 to 5 under ECDSA
// P-384, or as Azure's HCL report.
func isSNP(b []byte) bool {
	return bytes.HasPrefix(b, []byte(hcl.Signature)) || len(b) >= snpreport.Size && b[0] >= 2 && b[0] <= 5 && b[1] == 0 && b[2] == 0 && b[3] == 0 && binary.LittleEndian.Uint32(b[0x34:]) == 1
}

// decodeText reads hex, with or without 0x and line breaks, or base64.
func decodeText(s string) ([]byte, error) {
	s = strings.Join(strings.Fields(s), "")
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "0X")
	if raw, err := hex.DecodeString(digits); err == nil {
		return raw, nil
	}
	// Both alphabets, with and without the padding: what JSON APIs return.
	unpadded := strings.TrimRight(s, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if len(s)-len(unpadded) > 2 {
			break
		}
		if raw, err := enc.Strict().DecodeString(unpadded); err == nil {
			return raw, nil
		}
	}
	return nil, fmt.Errorf("text that is neither hex nor base64, beginning with %.24q", s)
}

// readYAML reads a document as JSON. otherwise is the error where it is none, or
// none with evidence.
func (b *Bundle) readYAML(text []byte, otherwise error) error {
	if !bytes.Contains(text, []byte(":")) && text[0] != '-' {
		return otherwise
	}
	doc, err := yamldoc.JSON(b.Name, text, yamldoc.Limits{Bytes: MaxFile, Depth: 32, Nodes: 100000, Docs: 1})
	if err != nil {
		return otherwise
	}
	if err := b.readJSON(jsondoc.Style{}.Compact(doc)); err != nil {
		if isForeign(err) {
			return err
		}
		return otherwise
	}
	return nil
}

func (b *Bundle) readJSON(text []byte) error {
	doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxFile, Depth: 32, Values: 1 << 20})
	if err != nil {
		return fmt.Errorf("read %s: %w", b.Name, err)
	}
	main, gpu, sgx, notes, err := findAll(b.Name, doc)
	if err != nil {
		return err
	}
	if err := b.readKnown(text, doc); err != nil {
		return err
	}
	if b.Proof != nil || b.TPM != nil || b.TPMErr != nil || b.SNP != nil {
		b.noteSGX(sgx)
		return b.agrees(main)
	}
	if gpu != nil {
		b.GPU = gpu.gpu
		if nvidia.IsFile(doc) {
			b.GPU = text
		}
	}
	q := doc.Get("quote")
	switch {
	case main != nil:
		b.noteSGX(sgx)
		b.Unread = append(b.Unread, notes...)
		return b.take(*main)
	case len(sgx) > 0:
		return sgxError(b.Name, sgx[0].place, sgx[0].sgx)
	case gpu != nil:
		return nil
	case q != nil && q.Kind != jsondoc.String:
		return &malformed.Error{Input: b.Name, Place: "/quote", Found: "a value of type " + q.Kind.String(), Want: "hex"}
	case q != nil:
		// A broken quote is evidence that fails.
		raw, err := decodeText(q.Text)
		if err != nil {
			return &malformed.Error{Input: b.Name, Place: "/quote", Found: err.Error(), Want: "hex"}
		}
		return b.take(find{place: "/quote", quote: raw, holder: doc, key: "quote"})
	}
	if err := tokens(b.Name, doc); err != nil {
		return err
	}
	_, failed := snpreport.Open(b.Name, text)
	return unknown(b.Name, fmt.Sprintf("a JSON document without a quote, /evidence_list or a list of devices, and no TPM quote or SEV-SNP report either (%v)", failed))
}

// readKnown reads the documents that have a reader of their own.
func (b *Bundle) readKnown(text []byte, doc *jsondoc.Value) (err error) {
	if doc.Kind != jsondoc.Object {
		return nil
	}
	if q := doc.Get("quote"); q == nil || q.Kind != jsondoc.String {
		if blindllama.Recognize(text) {
			b.proof = text
			b.Proof, err = blindllama.Parse(b.Name, text)
			return err
		}
		if part := tpmquote.Recognize(text); part != "" {
			return b.readTPM(part, text)
		}
		if q == nil {
			if e, failed := snpreport.Open(b.Name, text); failed == nil {
				b.SNP = e
			}
		}
	}
	return nil
}

// noteSGX names SGX quotes beside the evidence: enclaves of the same host, such as
// dstack's key provider.
func (b *Bundle) noteSGX(sgx []*find) {
	for _, f := range sgx {
		b.Unread = append(b.Unread, f.sgx+" at "+f.place)
	}
}

// readHTML takes the one quote, and the one GPU evidence, out of a saved page.
// Two different ones are an error: the reader could not know which one the
// browser showed.
func (b *Bundle) readHTML(page []byte) error {
	var quote, report, gpu []byte
	for _, run := range htmlText(page) {
		if run[0] == '{' || run[0] == '[' {
			inner := &Bundle{Name: b.Name}
			if err := inner.readJSON([]byte(run)); err != nil {
				if isForeign(err) {
					return err
				}
				continue
			}
			if inner.GPU != nil {
				if gpu != nil && !bytes.Equal(gpu, inner.GPU) {
					return unknown(b.Name, "a page with two different GPU evidences")
				}
				gpu = inner.GPU
			}
			if inner.Quote != nil && isTDX(inner.Quote) {
				if quote != nil && !bytes.Equal(quote, inner.Quote) {
					return unknown(b.Name, "a page with two different quotes")
				}
				quote = inner.Quote
			}
			continue
		}
		raw, err := decodeText(run)
		switch {
		case err != nil:
		case isSNP(raw):
			if report != nil && !bytes.Equal(report, raw) {
				return unknown(b.Name, "a page with two different reports")
			}
			report = raw
		case isTDX(raw):
			if quote != nil && !bytes.Equal(quote, raw) {
				return unknown(b.Name, "a page with two different quotes")
			}
			quote = raw
		}
	}
	b.Quote, b.GPU, b.Page = quote, gpu, true
	switch {
	case report != nil && quote != nil:
		return unknown(b.Name, "a page with a TDX quote and an SEV-SNP report")
	case report != nil:
		var err error
		b.SNP, err = snpreport.Open(b.Name, report)
		return err
	case quote == nil && gpu == nil:
		return unknown(b.Name, "a page without a quote")
	}
	return nil
}

// OpenCapture reads a folder that package capture wrote. name is the folder in
// errors. The session is the one that the quote's page came over.
func OpenCapture(name, dir string) (*Bundle, error) {
	c, err := capture.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return FromCapture(name, c)
}

// FromCapture takes the evidence out of a capture.
func FromCapture(name string, c *capture.Capture) (*Bundle, error) {
	if c.Nonce != nil {
		return fromContrast(name, c)
	}
	page := c.Page(capture.CPU)
	if page == nil {
		return nil, unknown(name, "a capture without a CPU page")
	}
	b, err := Read(name+" "+page.Path, page.Body)
	if err != nil {
		return nil, err
	}
	b.Name, b.Target, b.CapturedAt = name, c.Target, c.At
	s := Session{Capture: name, Target: c.Target, At: c.At}
	for _, der := range c.Chain(page.Connection) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: TLS chain: %w", name, err)
		}
		s.Chain = append(s.Chain, cert)
	}
	if len(s.Chain) == 0 {
		return nil, unknown(name, "a capture without the certificate of the quote's connection")
	}
	for _, other := range c.Pages {
		chain := c.Chain(other.Connection)
		if other.Body == nil || other.Connection == page.Connection || len(chain) == 0 {
			continue
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			return nil, fmt.Errorf("%s: TLS chain: %w", name, err)
		}
		if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, s.Chain[0].RawSubjectPublicKeyInfo) {
			s.Strangers = append(s.Strangers, fmt.Sprintf("%s over connection %d", other.Path, other.Connection))
		}
	}
	b.Sessions = []Session{s}
	if gpu := c.Page(capture.GPU); gpu != nil {
		g, err := Read(name+" "+gpu.Path, gpu.Body)
		switch {
		case err != nil:
			b.GPUErr = err
		case g.GPU == nil:
			b.GPUErr = unknown(name+" "+gpu.Path, "no GPU evidence")
		case b.GPU != nil && !bytes.Equal(b.GPU, g.GPU):
			return nil, unknown(name, "a capture with two different GPU evidences")
		default:
			b.GPU = g.GPU
		}
	}
	b.ShownCompose = c.Page(capture.Compose) != nil
	return b, nil
}

// Merge puts evidence from several files together: a quote, captures of it, the
// evidence of the machine's GPUs. Two different ones of a kind do not belong
// together. The order of the files changes the name only, and everything that
// any of them says is kept: a capture's certificate above all.
func Merge(bundles ...*Bundle) (*Bundle, error) {
	if len(bundles) == 0 {
		return nil, errors.New("merge evidence: none given")
	}
	sorted := slices.Clone(bundles)
	slices.SortStableFunc(sorted, func(a, b *Bundle) int {
		return boolOrder(a.Quote != nil || a.SNP != nil, b.Quote != nil || b.SNP != nil)
	})
	out := &Bundle{}
	sorted, err := out.mergeContrast(sorted)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, b := range sorted {
		for _, part := range []struct {
			what string
			to   *[]byte
			from []byte
		}{{"quotes", &out.Quote, b.Quote}, {"GPU evidence", &out.GPU, b.GPU}, {"event logs", &out.EventLog, b.EventLog}, {"vm_config", &out.VMConfig, b.VMConfig}, {"report data", &out.ReportData, b.ReportData}, {"TPM quotes", &out.tpm, b.tpm}, {"proof files", &out.proof, b.proof}, {"capabilities", &out.Capabilities, b.Capabilities}, {"nonces", &out.Nonce, b.Nonce}} {
			switch {
			case part.from == nil:
			case *part.to == nil:
				*part.to = part.from
			case !bytes.Equal(*part.to, part.from):
				if part.to == &out.GPU {
					if both := nvidia.Join(out.GPU, part.from); both != nil {
						out.GPU = both
						continue
					}
				}
				return nil, fmt.Errorf("merge evidence: %s and %s hold different %s", strings.Join(names, ", "), b.Name, part.what)
			}
		}
		switch {
		case b.SNP == nil:
		case out.SNP == nil:
			out.SNP = b.SNP
		case !bytes.Equal(out.SNP.Report.SignedBytes(), b.SNP.Report.SignedBytes()):
			return nil, fmt.Errorf("merge evidence: %s and %s hold different reports", strings.Join(names, ", "), b.Name)
		default:
			// The same report: what came beside either is kept.
			both := *out.SNP
			both.Certificates.Signers = slices.Clone(both.Certificates.Signers)
			if err := both.Certificates.Merge(b.Name, b.SNP.Certificates); err != nil {
				return nil, fmt.Errorf("merge evidence: %w", err)
			}
			if both.HCL == nil {
				both.HCL = b.SNP.HCL
			}
			out.SNP = &both
		}
		names = append(names, b.Name)
		if out.GPUErr == nil {
			out.GPUErr = b.GPUErr
		}
		if out.CapturedAt.IsZero() {
			out.CapturedAt, out.Target = b.CapturedAt, b.Target
		}
		if b.Holder != nil {
			if out.Holder != nil && !out.Holder.Equal(b.Holder) {
				return nil, fmt.Errorf("merge evidence: %s and %s hold the quote in different certificates", strings.Join(names[:len(names)-1], ", "), b.Name)
			}
			out.Holder = b.Holder
		}
		out.Unread = append(out.Unread, b.Unread...)
		out.Sessions = append(out.Sessions, b.Sessions...)
		out.Page, out.ShownCompose = out.Page || b.Page, out.ShownCompose || b.ShownCompose
	}
	out.Name = strings.Join(names, ", ")
	if err := out.mergeTPM(sorted); err != nil {
		return nil, err
	}
	return out, nil
}

// boolOrder puts what is so in front.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// ReadCertificate reads a TLS certificate file: PEM, of which the first
// certificate counts, or DER.
func ReadCertificate(name string, data []byte) (*x509.Certificate, error) {
	if len(data) > tdxquote.MaxSize {
		return nil, &malformed.Error{Input: name, Found: fmt.Sprintf("%d bytes", len(data)), Want: "a certificate"}
	}
	// DER first: it may hold PEM inside, that of the PCK chain of a quote in an
	// extension.
	if cert, err := x509.ParseCertificate(data); err == nil {
		return cert, nil
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, &malformed.Error{Input: name, Found: err.Error(), Want: "a certificate in PEM or DER"}
	}
	return cert, nil
}
