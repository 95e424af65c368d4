package evidence

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/retally/retally/evidence/dstackattest"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/jsondoc"
)

// A find is evidence in a container: what it is, where it stood, and what came
// beside it.
type find struct {
	place  string
	quote  []byte // one of these four
	report []byte
	gpu    []byte
	sgx    string
	beside string // or what vouches for nothing without a quote
	hcl    []byte

	holder      *jsondoc.Value // the object around it, nil if there is none
	key         string         // its member
	log, config []byte
	reportData  []byte
	signers     [][]byte // beside a report
	unread      []string
}

// same reports whether two finds are one and the same evidence. Zeros behind a
// quote are a buffer's.
func (f *find) same(o *find) bool {
	cut := func(b []byte) []byte { return bytes.TrimRight(b, "\x00") }
	return (f.quote == nil) == (o.quote == nil) && (f.report == nil) == (o.report == nil) && (f.gpu == nil) == (o.gpu == nil) &&
		bytes.Equal(cut(f.quote), cut(o.quote)) && bytes.Equal(f.report, o.report) && bytes.Equal(f.gpu, o.gpu)
}

// what names a find.
func (f *find) what() string {
	switch {
	case f.quote != nil:
		return "a TDX quote"
	case f.report != nil:
		return "an SEV-SNP report"
	case f.gpu != nil:
		return "GPU evidence"
	}
	return f.sgx
}

// ambiguous: which of two counts is not for their sender to leave open.
func ambiguous(name string, a, b *find) error {
	return &ForeignError{name, fmt.Sprintf("%s at %s and %s at %s, which differ", a.what(), a.place, another(b.what()), b.place), "which one counts cannot be said: give the one that is meant in a file of its own"}
}

func another(what string) string {
	_, noun, _ := strings.Cut(what, " ")
	return "another " + noun
}

// bytesFind says what bytes are by their beginning, nil for nothing of these.
func bytesFind(name, place string, raw []byte) (*find, error) {
	switch {
	case isTDX(raw):
		return &find{place: place, quote: raw}, nil
	case bytes.HasPrefix(raw, []byte(hcl.Signature)):
		h, err := hcl.Parse(raw)
		if err == nil && h.Type == hcl.TDX {
			return &find{place: place, hcl: raw, beside: "an HCL report of TDX, with the key of the virtual TPM"}, nil
		}
		return &find{place: place, report: raw}, nil
	case isSNP(raw):
		return &find{place: place, report: raw}, nil
	case dstackattest.Recognize(raw):
		return attestationFind(name, place, raw)
	}
	if x, err := nvidia.ParseExchange(raw); err == nil && len(x.Blocks) > 0 {
		return nil, &ForeignError{name, "the measurement exchange of an NVIDIA device" + at(place) + " without its certificates", "give the evidence file of the device, with certificate, evidence and nonce"}
	}
	if what := tdxquote.SGX(raw); what != "" {
		return &find{place: place, sgx: what}, nil
	}
	return nil, nil
}

// attestationFind takes a dstack attestation apart.
func attestationFind(name, place string, raw []byte) (*find, error) {
	a, err := dstackattest.Parse(strings.TrimSpace(name+" "+place), raw)
	if err != nil {
		return nil, err
	}
	f := &find{place: place, quote: a.Quote, report: a.Report, log: a.EventLog, reportData: a.ReportData, signers: a.Certificates, unread: a.Unread}
	if a.Config != "" {
		f.config = []byte(a.Config)
	}
	if f.quote == nil && f.report == nil {
		return nil, &ForeignError{name, "a dstack attestation of the platform " + string(a.Platform) + at(place), "evidence of that platform is not verified by this version"}
	}
	if a.MRConfig != "" {
		f.unread = append(f.unread, "dstack's mr_config, the document that the report's host data bind")
	}
	return f, nil
}

// Limits of a search: how deep JSON may be written as text in JSON, and how long a
// text must be to hold evidence.
const (
	maxNested = 3
	minText   = 64
)

// search walks a JSON document and collects all evidence in it, whatever the
// members are called: quotes as hexadecimal, base64 or lists of bytes, lists of
// devices, certificates, and documents written as text.
type search struct {
	name string
	// main is a quote or report, gpu the evidence of devices: one each.
	main, gpu *find
	sgx       []*find
	notes     []string
	err       error
}

// maxSGX bounds how many SGX quotes beside other evidence are named.
const maxSGX = 8

// add takes a find over. Two different ones of a kind, or a quote beside a report,
// are an error: whoever wrote the file would choose.
func (s *search) add(f *find, holder *jsondoc.Value, key string) {
	if f == nil || s.err != nil {
		return
	}
	f.holder, f.key = holder, key
	to := &s.main
	switch {
	case f.beside != "":
		if len(s.notes) < maxSGX {
			s.notes = append(s.notes, f.beside+at(f.place))
		}
		return
	case f.sgx != "":
		if len(s.sgx) < maxSGX {
			s.sgx = append(s.sgx, f)
		}
		return
	case f.gpu != nil:
		to = &s.gpu
	}
	switch {
	case *to == nil:
		*to = f
	case !(*to).same(f):
		s.err = ambiguous(s.name, *to, f)
	case (*to).log == nil: // the same once more
		(*to).log, (*to).config = f.log, f.config
	}
}

func (s *search) walk(v *jsondoc.Value, place string, holder *jsondoc.Value, key string, nested int) {
	if s.err != nil || v == nil {
		return
	}
	devices := nvidia.IsFile(v)
	if devices {
		s.add(&find{place: orRoot(place), gpu: jsondoc.Style{}.Compact(v)}, holder, key)
	}
	switch v.Kind {
	case jsondoc.Object:
		for _, m := range v.Members {
			if devices && m.Key == "evidence_list" {
				continue
			}
			s.walk(m.Value, place+"/"+jsondoc.EscapePointer(m.Key), v, m.Key, nested)
		}
	case jsondoc.Array:
		if raw, ok := byteList(v); ok {
			s.bytes(raw, place, holder, key)
			return
		}
		for i, e := range v.Elems {
			if devices {
				break
			}
			s.walk(e, fmt.Sprintf("%s/%d", place, i), holder, key, nested)
		}
	case jsondoc.String:
		s.text(v.Text, place, holder, key, nested)
	}
}

func orRoot(place string) string {
	if place == "" {
		return "/"
	}
	return place
}

func (s *search) bytes(raw []byte, place string, holder *jsondoc.Value, key string) {
	f, err := bytesFind(s.name, orRoot(place), raw)
	if err != nil {
		s.err = err
		return
	}
	s.add(f, holder, key)
}

func (s *search) text(text, place string, holder *jsondoc.Value, key string, nested int) {
	if len(text) < minText {
		return
	}
	trimmed := strings.TrimSpace(text)
	switch {
	case isPEM([]byte(trimmed)):
		chain, err := parseCertificates(s.name+" "+place, []byte(trimmed))
		if err != nil {
			return // keys, revocation lists, a certificate of another form: no evidence
		}
		for _, c := range chain {
			f, err := (&Bundle{Name: s.name + " " + place}).certificateEvidence(c)
			if err != nil {
				s.err = err
				return
			}
			if f != nil {
				f.place = orRoot(place)
				s.add(f, holder, key)
			}
		}
	case trimmed[0] == '{' || trimmed[0] == '[':
		s.nested([]byte(trimmed), place, holder, key, nested)
	default:
		raw, err := decodeText(text)
		switch {
		case err != nil:
		case isDocument(raw):
			s.nested(raw, place, holder, key, nested)
		default:
			s.bytes(raw, place, holder, key)
		}
	}
}

// nested walks a document that stands as text in another one.
func (s *search) nested(text []byte, place string, holder *jsondoc.Value, key string, nested int) {
	if nested == maxNested {
		return
	}
	if doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxFile, Depth: 32, Values: 1 << 18}); err == nil {
		s.walk(doc, place, holder, key, nested+1)
	}
}

// isDocument reports whether decoded bytes are JSON again.
func isDocument(raw []byte) bool {
	return len(raw) > 1 && (raw[0] == '{' || raw[0] == '[') && utf8.Valid(raw)
}

// byteList reads a list of byte values, as serializers write a vector of bytes.
func byteList(v *jsondoc.Value) ([]byte, bool) {
	if v.Kind != jsondoc.Array || len(v.Elems) < minText/2 {
		return nil, false
	}
	out := make([]byte, 0, len(v.Elems))
	for _, e := range v.Elems {
		n, ok := e.Uint64()
		if e.Kind != jsondoc.Number || !ok || n > 255 {
			return nil, false
		}
		out = append(out, byte(n))
	}
	return out, true
}

// findAll collects what a document holds.
func findAll(name string, doc *jsondoc.Value) (main, gpu *find, sgx []*find, notes []string, err error) {
	s := &search{name: name}
	s.walk(doc, "", nil, "", 0)
	return s.main, s.gpu, s.sgx, s.notes, s.err
}

// take makes a find the bundle's evidence.
func (b *Bundle) take(f find) (err error) {
	switch {
	case f.gpu != nil:
		b.GPU = f.gpu
		return nil
	case f.sgx != "":
		return sgxError(b.Name, f.place, f.sgx)
	case f.beside != "":
		if !b.readHCL(f.hcl) {
			return unknown(b.Name, f.beside)
		}
		return nil
	case f.report != nil:
		if b.SNP, err = snpreport.Open(b.Name, f.report); err != nil {
			return err
		}
		for i, raw := range f.signers {
			c, err := snpreport.ParseCertificates(fmt.Sprintf("%s certificate %d", b.Name, i+1), raw)
			if err == nil {
				err = b.SNP.Certificates.Merge(b.Name, c)
			}
			if err != nil {
				return err
			}
		}
	default:
		b.Quote = f.quote
	}
	b.EventLog, b.VMConfig, b.ReportData, b.Unread = f.log, f.config, f.reportData, append(b.Unread, f.unread...)
	if b.Quote != nil && f.holder != nil && f.log == nil && f.config == nil {
		return b.beside(&f)
	}
	return nil
}

// beside takes over what stands beside a quote in JSON: event log, configuration
// and report data, by the names that dstack gives them.
func (b *Bundle) beside(f *find) error {
	member := func(key string) []byte {
		switch v := f.holder.Get(key); {
		case v.IsNull():
			return nil
		case v.Kind == jsondoc.String:
			return []byte(v.Text)
		default:
			return jsondoc.Style{}.Compact(v)
		}
	}
	log := member("event_log")
	if log == nil { // a report of a dstack application has it with its tcb_info
		if v := f.holder.Get("tcb_info").Get("event_log"); !v.IsNull() {
			log = jsondoc.Style{}.Compact(v)
			if v.Kind == jsondoc.String {
				log = []byte(v.Text)
			}
		}
	}
	switch {
	case log == nil:
	case f.key == "quote" || isEventList(log):
		b.EventLog = log
	default: // of another maker's container
		b.Unread = append(b.Unread, "event_log, which is no list of events as dstack writes it")
	}
	b.VMConfig = member("vm_config")
	claimed := member("report_data")
	if claimed == nil {
		return nil
	}
	data, err := hex.DecodeString(strings.TrimPrefix(string(claimed), "0x"))
	if raw, ok := byteList(orNull(f.holder.Get("report_data"))); err != nil && ok {
		data, err = raw, nil
	}
	switch {
	case err == nil:
		b.ReportData = data
	case f.key == "quote":
		return malformedFile(b.Name, "/report_data", err.Error(), "hex")
	default:
		b.Unread = append(b.Unread, "report_data, which is not hexadecimal")
	}
	return nil
}

func orNull(v *jsondoc.Value) *jsondoc.Value {
	if v == nil {
		return &jsondoc.Value{Kind: jsondoc.Null}
	}
	return v
}

// isEventList recognizes dstack's event log.
func isEventList(log []byte) bool {
	doc, err := jsondoc.Parse(log, jsondoc.Limits{Bytes: MaxFile, Depth: 16})
	return err == nil && doc.Kind == jsondoc.Array && (len(doc.Elems) == 0 || doc.Elems[0].Get("imr") != nil)
}

// agrees: a container that another reader opened holds no quote or report beside
// the one that was taken from it.
func (b *Bundle) agrees(main *find) error {
	switch {
	case main == nil:
		return nil
	case main.quote != nil && b.TPM != nil && b.TPM.TDQuote != nil && main.same(&find{quote: b.TPM.TDQuote}):
		return nil
	case main.report != nil && b.TPM != nil && b.TPM.HCL != nil:
		if bytes.HasPrefix(main.report, []byte(hcl.Signature)) {
			if h, err := hcl.Parse(main.report); err == nil && h.Hardware == b.TPM.HCL.Hardware {
				return nil
			}
		}
	case main.report != nil && b.SNP != nil:
		if e, err := snpreport.Open(b.Name, main.report); err == nil && bytes.Equal(e.Report.SignedBytes(), b.SNP.Report.SignedBytes()) {
			return nil
		}
	}
	return &ForeignError{b.Name, main.what() + " at " + main.place + " beside other evidence", "which one counts cannot be said: give the one that is meant in a file of its own"}
}

// isForeign reports whether an error names evidence of another kind.
func isForeign(err error) bool {
	var e *ForeignError
	return errors.As(err, &e)
}
