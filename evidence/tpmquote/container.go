package tpmquote

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// MaxContainer bounds a file that holds a quote, in bytes; logs are the most of
// it.
const MaxContainer = 16 << 20

// maxQuotes bounds a container's quotes: one a bank.
const maxQuotes = 8

// Form says how a quote was packed.
type Form string

// The forms.
const (
	FormFiles         Form = "tpm2-tools files"                   // message, signature, PCRs: three files
	FormAzure         Form = "Azure vTPM evidence"                // JSON of the attesters for Azure, an HCL report in it
	FormJSON          Form = "TPM quote in JSON"                  // the same attesters' quote alone
	FormBincode       Form = "az-cvm-vtpm quote"                  // the same quote as Rust's bincode writes it
	FormGoTPMTools    Form = "go-tpm-tools attestation"           // protobuf
	FormGoAttestation Form = "go-attestation platform parameters" // JSON
)

// Quote is a quote with the values that came beside it.
type Quote struct {
	Message   []byte // the signed bytes
	Attest    *Attest
	Signature *Signature
	// Values are the sender's: what they are worth, the PCR digest says.
	Values Values
	// Exact says that the container's labels are those of this quote, so that
	// they must be the signed selection. Otherwise the container lists PCRs for
	// more than one quote, and what a quote does not cover is left out.
	Exact bool
}

// Evidence is what a container holds.
type Evidence struct {
	Form   Form
	Quotes []Quote
	AK     *AK // the sender's; nil: none
	HCL    *hcl.Report

	// What vouches for the HCL report, for the caller to judge.
	TDQuote []byte
	VCEK    []byte // certificates in PEM or DER, as they came

	EventLog []byte // TCG's, of the firmware; nil: none
	// Unjudged names parts that are there and not looked at.
	Unjudged []string
}

// BrokenError is a quote that is there and cannot be read: evidence that fails,
// rather than no evidence.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string { return e.Err.Error() }

// Unwrap gives what is wrong and where.
func (e *BrokenError) Unwrap() error { return e.Err }

// NewQuote puts a quote together: the signed bytes, a TPMT_SIGNATURE or a bare
// signature, and values. name is the input in errors, each a *BrokenError.
func NewQuote(name string, message, signature []byte, values Values, exact bool) (*Quote, error) {
	q, err := newQuote(name, message, signature, values, exact)
	if err != nil {
		return nil, &BrokenError{err}
	}
	return q, nil
}

func newQuote(name string, message, signature []byte, values Values, exact bool) (*Quote, error) {
	a, err := ParseAttest(name+": quote", message)
	if err != nil {
		return nil, err
	}
	var s *Signature
	switch {
	case len(signature) > 1 && signature[0] == 0 && (signature[1] == 0x14 || signature[1] == 0x16 || signature[1] == 0x18) && len(signature) != 256 && len(signature) != 384 && len(signature) != 512:
		s, err = ParseSignature(name+": signature", signature)
	default:
		s, err = parseBare(name+": signature", signature, a)
	}
	if err != nil {
		return nil, err
	}
	return &Quote{bytes.Clone(message), a, s, values, exact}, nil
}

// Files are what tpm2_quote writes (-m, -s, -o), and optionally the key or its
// certificates in any form of ParseAK, and the firmware's log.
type Files struct {
	Message, Signature, PCRs []byte
	AK                       []byte
	EventLog                 []byte
}

// OpenFiles reads tpm2-tools' files. name is the input in errors; a *BrokenError
// says that the quote itself cannot be read.
func OpenFiles(name string, f Files) (*Evidence, error) {
	values, err := ParsePCRFile(name+": PCR file", f.PCRs)
	if err != nil {
		return nil, &BrokenError{err}
	}
	q, err := NewQuote(name, f.Message, f.Signature, values, true)
	if err != nil {
		return nil, err
	}
	e := &Evidence{Form: FormFiles, Quotes: []Quote{*q}, EventLog: f.EventLog}
	if f.AK != nil {
		if e.AK, err = ParseAK(name+": key", f.AK); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Open reads a container that is one file: JSON of Azure's attesters or of
// go-attestation, bincode, or go-tpm-tools' protobuf. name is the file in errors;
// a *BrokenError says that a quote is there that cannot be read.
func Open(name string, data []byte) (*Evidence, error) {
	if len(data) > MaxContainer {
		return nil, &malformed.Error{Input: name, Field: "size", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", MaxContainer)}
	}
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' && utf8.Valid(text) {
		doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxContainer, Depth: 12, Values: 200000})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return openJSON(&document{name: name}, doc)
	}
	if len(data) > 8 && binary.LittleEndian.Uint64(data) <= 512 && binary.LittleEndian.Uint64(data) >= 256 {
		return openBincode(name, data)
	}
	if num, typ, n := protowire.ConsumeTag(data); n > 0 && typ == protowire.BytesType && (num == 1 || num == 2) {
		return openProtobuf(name, data)
	}
	return nil, &malformed.Error{
		Input: name, Field: "form", Found: fmt.Sprintf("%d bytes beginning with %x", len(data), data[:min(len(data), 16)]),
		Want: "a TPM quote in JSON of an Azure attester or of go-attestation, in bincode of az-cvm-vtpm, or in a go-tpm-tools attestation; tpm2-tools' three files are given one by one",
	}
}

// openBincode reads the quote of the crate az-cvm-vtpm in Rust's bincode:
// signature, message and 24 values, with sizes and counts of eight bytes. The
// HCL report is another file: the caller sets Evidence.HCL.
func openBincode(name string, data []byte) (*Evidence, error) {
	r := &reader{name: name, data: data}
	size := func(field string, most uint64) int {
		at := r.at
		b := r.take(8, field)
		if b == nil {
			return 0
		}
		n := binary.LittleEndian.Uint64(b)
		if n > most {
			r.fail(at, field, fmt.Sprint(n), fmt.Sprintf("at most %d", most))
			return 0
		}
		return int(n)
	}
	signature := r.take(size("size of the signature", maxRSA), "signature")
	message := r.take(size("size of the message", MaxMessage), "message")
	at := r.at
	if n := size("count of values", PCRCount); r.err == nil && n != PCRCount {
		r.fail(at, "count of values", fmt.Sprint(n), "24, of PCRs 0 to 23")
	}
	values := Values{}
	for i := range PCRCount {
		if d, err := digest.FromBytes(digest.SHA256, r.take(digest.SHA256.Size(), fmt.Sprintf("value of PCR %d", i))); err == nil {
			values.set(digest.SHA256, i, d)
		}
	}
	r.end()
	if r.err != nil {
		return nil, r.err
	}
	q, err := NewQuote(name, message, signature, values, false)
	if err != nil {
		return nil, err
	}
	return &Evidence{Form: FormBincode, Quotes: []Quote{*q}}, nil
}

// Part says what a file is to a quote.
type Part string

// The parts that Recognize knows.
const (
	PartContainer Part = "container" // for Open
	PartMessage   Part = "message"   // for Files, as the next two
	PartSignature Part = "signature"
	PartPCRs      Part = "pcrs"
)

// Recognize says by its content what a file could be; empty: nothing of these.
// A container is recognized by how it begins, so that a broken one is an error
// of Open's and not an unknown file.
func Recognize(data []byte) Part {
	if len(data) > MaxContainer || len(data) < 8 {
		return ""
	}
	if binary.BigEndian.Uint32(data) == magic {
		return PartMessage
	}
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '{' {
		doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxContainer, Depth: 12, Values: 200000})
		if err != nil {
			return ""
		}
		if inner := doc.Get("evidence"); inner != nil && inner.Kind == jsondoc.Object {
			doc = inner
		}
		has := func(v *jsondoc.Value, names ...string) bool {
			for _, n := range names {
				if v == nil || v.Get(n) == nil {
					return false
				}
			}
			return true
		}
		if has(doc, "tpm_quote") || has(doc.Get("quote"), "message", "pcrs") || has(doc, "message", "signature", "pcrs") || has(doc, "Quotes", "PCRs") {
			return PartContainer
		}
		return ""
	}
	if _, err := ParseSignature("", data); err == nil {
		return PartSignature
	}
	if _, err := ParsePCRFile("", data); err == nil {
		return PartPCRs
	}
	if n := binary.LittleEndian.Uint64(data); n >= 256 && n <= maxRSA && len(data) > 8+int(n)+8+4 && binary.BigEndian.Uint32(data[8+n+8:]) == magic {
		return PartContainer
	}
	if fields, err := readFields("", "", data, 9, 2, 7); err == nil {
		for _, f := range fields {
			if f.num == 2 && bytes.Contains(f.blob[:min(len(f.blob), 16)], []byte("\xffTCG")) {
				return PartContainer
			}
		}
	}
	return ""
}

// document remembers the first thing that is wrong in a JSON container.
type document struct {
	name string
	err  error
}

func (d *document) fail(place, found, want string) {
	if d.err == nil {
		d.err = &malformed.Error{Input: d.name, Place: place, Found: found, Want: want}
	}
}

// twin refuses a member that some readers take for a known one: Go's do not tell
// upper from lower case, and the last one wins there.
func (d *document) twin(place, key string, known ...string) {
	for _, k := range known {
		if strings.EqualFold(k, key) {
			d.fail(place, "a member that differs from "+k+" in its letters' case alone", k)
		}
	}
}

// only refuses members of an object that are not known.
func (d *document) only(place string, v *jsondoc.Value, known ...string) {
	if v.Kind != jsondoc.Object {
		d.fail(place, kind(v), "an object")
		return
	}
	for _, m := range v.Members {
		if !slices.Contains(known, m.Key) {
			d.fail(place+"/"+jsondoc.EscapePointer(m.Key), "an unknown member", strings.Join(known, ", "))
		}
	}
}

func kind(v *jsondoc.Value) string {
	if v == nil {
		return "nothing"
	}
	return v.Kind.String()
}

// bytes reads bytes in any spelling of these containers: a list of numbers,
// hexadecimal, or base64 of either alphabet.
func (d *document) bytes(place string, v *jsondoc.Value) []byte {
	switch {
	case v == nil:
	case v.Kind == jsondoc.Array:
		out := make([]byte, 0, len(v.Elems))
		for i, e := range v.Elems {
			n, ok := e.Uint64()
			if !ok || e.Kind != jsondoc.Number || n > 255 {
				d.fail(fmt.Sprintf("%s/%d", place, i), kind(e)+" "+e.Text, "a byte")
				return nil
			}
			out = append(out, byte(n))
		}
		return out
	case v.Kind == jsondoc.String:
		if b, err := hex.DecodeString(v.Text); err == nil {
			return b
		}
		text := strings.TrimRight(v.Text, "=")
		encoding := base64.RawStdEncoding
		if strings.ContainsAny(text, "-_") {
			encoding = base64.RawURLEncoding
		}
		if b, err := encoding.Strict().DecodeString(text); err == nil && len(v.Text)-len(text) <= 2 {
			return b
		}
	}
	d.fail(place, kind(v), "bytes: a list of numbers, hexadecimal or base64")
	return nil
}

func openJSON(d *document, doc *jsondoc.Value) (*Evidence, error) {
	if doc.Get("Quotes") != nil && doc.Get("PCRs") != nil {
		return openGoAttestation(d, doc)
	}
	place := ""
	if inner := doc.Get("evidence"); inner != nil && inner.Kind == jsondoc.Object {
		doc, place = inner, "/evidence"
	}
	e := &Evidence{Form: FormAzure}
	quote, at := doc.Get("tpm_quote"), place+"/tpm_quote"
	switch {
	case quote != nil:
	case doc.Get("quote") != nil && doc.Get("quote").Kind == jsondoc.Object:
		quote, at = doc.Get("quote"), place+"/quote"
	case doc.Get("message") != nil:
		quote, at, e.Form = doc, place, FormJSON
	}
	if quote == nil || quote.Kind != jsondoc.Object {
		d.fail(place+"/", "no quote", "tpm_quote or quote (an object), or message, signature and pcrs; or Quotes and PCRs (go-attestation)")
		return nil, d.err
	}
	e.Quotes = []Quote{d.quote(at, quote)}
	if e.Form == FormJSON {
		return e, d.err
	}
	for _, m := range doc.Members {
		at := place + "/" + jsondoc.EscapePointer(m.Key)
		if m.Value == quote || m.Value.IsNull() {
			continue
		}
		switch m.Key {
		case "version":
			if n, ok := m.Value.Uint64(); !ok || n > 1 {
				d.fail(at, kind(m.Value)+" "+m.Value.Text, "0 or 1")
			}
		case "hcl_report", "report":
			d.hcl(e, at, m.Value)
		case "td_quote":
			e.TDQuote = d.bytes(at, m.Value)
		case "vcek":
			if m.Value.Kind == jsondoc.String && strings.HasPrefix(m.Value.Text, "-----BEGIN") {
				e.VCEK = []byte(m.Value.Text)
				continue
			}
			e.VCEK = d.bytes(at, m.Value)
		case "ak_public":
			raw := d.bytes(at, m.Value)
			if d.err == nil {
				e.AK, d.err = ParseAK(d.name+": "+at, raw)
			}
		case "tpm_quote", "quote", "message", "signature", "pcrs":
			d.fail(at, "a second quote, or part of one", "one quote: two readers need not take the same")
		default:
			d.twin(at, m.Key, "version", "hcl_report", "report", "td_quote", "vcek", "ak_public", "tpm_quote", "quote", "message", "signature", "pcrs")
			e.Unjudged = append(e.Unjudged, at)
		}
	}
	if e.HCL == nil {
		e.Form = FormJSON
	}
	return e, d.err
}

func (d *document) hcl(e *Evidence, place string, v *jsondoc.Value) {
	raw := d.bytes(place, v)
	if d.err != nil {
		return
	}
	if e.HCL != nil {
		d.fail(place, "a second HCL report", "one")
		return
	}
	e.HCL, d.err = hcl.Parse(raw)
}

// quote reads message, signature and pcrs. The list of values has one for each
// PCR of the SHA-256 bank, in order, whatever the quote selects.
func (d *document) quote(place string, v *jsondoc.Value) Quote {
	message, signature := d.bytes(place+"/message", v.Get("message")), d.bytes(place+"/signature", v.Get("signature"))
	values := Values{}
	switch pcrs := v.Get("pcrs"); {
	case pcrs == nil || pcrs.Kind != jsondoc.Array || len(pcrs.Elems) != PCRCount:
		d.fail(place+"/pcrs", kind(pcrs), "a list of 24 values, of PCRs 0 to 23")
	default:
		for i, e := range pcrs.Elems {
			at := fmt.Sprintf("%s/pcrs/%d", place, i)
			b := d.bytes(at, e)
			sum, err := digest.FromBytes(digest.SHA256, b)
			if err != nil {
				d.fail(at, fmt.Sprintf("%d bytes", len(b)), "32 (SHA-256)")
				break
			}
			values.set(digest.SHA256, i, sum)
		}
	}
	for _, m := range v.Members {
		if m.Key != "message" && m.Key != "signature" && m.Key != "pcrs" {
			d.fail(place+"/"+jsondoc.EscapePointer(m.Key), "an unknown member", "message, signature and pcrs")
		}
	}
	if d.err != nil {
		return Quote{}
	}
	q, err := NewQuote(d.name, message, signature, values, false)
	if err != nil {
		d.err = err
		return Quote{}
	}
	return *q
}

// openGoAttestation reads go-attestation's PlatformParameters (package attest)
// as encoding/json writes it: Public is a TPMT_PUBLIC, the quotes are one a bank,
// DigestAlg is a crypto.Hash of Go.
func openGoAttestation(d *document, doc *jsondoc.Value) (*Evidence, error) {
	e := &Evidence{Form: FormGoAttestation}
	values := Values{}
	pcrs, quotes := doc.Get("PCRs"), doc.Get("Quotes")
	if pcrs.Kind != jsondoc.Array || quotes.Kind != jsondoc.Array || len(quotes.Elems) == 0 || len(quotes.Elems) > maxQuotes {
		d.fail("/Quotes", kind(quotes), fmt.Sprintf("1 to %d quotes, and a list PCRs", maxQuotes))
		return nil, d.err
	}
	banks := map[uint64]digest.Algorithm{3: digest.SHA1, 5: digest.SHA256, 6: digest.SHA384, 7: digest.SHA512}
	for i, p := range pcrs.Elems {
		at := fmt.Sprintf("/PCRs/%d", i)
		d.only(at, p, "Index", "Digest", "DigestAlg")
		index, ok := number(p.Get("Index"))
		alg, known := number(p.Get("DigestAlg"))
		bank, hash := banks[alg]
		sum, err := digest.FromBytes(bank, d.bytes(at+"/Digest", p.Get("Digest")))
		switch {
		case !ok || index >= PCRCount:
			d.fail(at+"/Index", kind(p.Get("Index")), "0 to 23")
		case !known || !hash:
			d.fail(at+"/DigestAlg", kind(p.Get("DigestAlg")), "3 (SHA-1), 5 (SHA-256), 6 (SHA-384) or 7 (SHA-512)")
		case err != nil:
			d.fail(at+"/Digest", err.Error(), "a digest of "+bank.String())
		case !values.set(bank, int(index), sum):
			d.fail(at, "this PCR of this bank a second time", "each once")
		}
		if d.err != nil {
			return nil, d.err
		}
	}
	for i, v := range quotes.Elems {
		at := fmt.Sprintf("/Quotes/%d", i)
		d.only(at, v, "Version", "Quote", "Signature")
		if n, ok := number(v.Get("Version")); !ok || n != 2 {
			d.fail(at+"/Version", kind(v.Get("Version")), "2 (TPM 2.0)")
		}
		message, signature := d.bytes(at+"/Quote", v.Get("Quote")), d.bytes(at+"/Signature", v.Get("Signature"))
		if d.err != nil {
			return nil, d.err
		}
		q, err := NewQuote(d.name+": "+at, message, signature, values, false)
		if err != nil {
			return nil, err
		}
		e.Quotes = append(e.Quotes, *q)
	}
	for _, m := range doc.Members {
		switch at := "/" + jsondoc.EscapePointer(m.Key); m.Key {
		case "Quotes", "PCRs":
		case "TPMVersion":
			if n, ok := number(m.Value); !ok || n != 2 {
				d.fail(at, kind(m.Value)+" "+m.Value.Text, "2 (TPM 2.0)")
			}
		case "Public":
			raw := d.bytes(at, m.Value)
			if d.err == nil {
				e.AK, d.err = ParseAK(d.name+": "+at, raw)
			}
		case "EventLog":
			if !m.Value.IsNull() {
				e.EventLog = d.bytes(at, m.Value)
			}
		default:
			d.twin(at, m.Key, "Quotes", "PCRs", "TPMVersion", "Public", "EventLog")
			e.Unjudged = append(e.Unjudged, at)
		}
	}
	return e, d.err
}

func number(v *jsondoc.Value) (uint64, bool) {
	if v == nil || v.Kind != jsondoc.Number {
		return 0, false
	}
	return v.Uint64()
}

// field is one of a protobuf message: a varint, or bytes (never nil).
type field struct {
	num  protowire.Number
	n    uint64
	blob []byte
}

// readFields reads a message of varints and bytes. A field twice is an error
// unless it is a list: the format lets the last one win, and two readers need
// not agree.
func readFields(name, at string, data []byte, last protowire.Number, lists ...protowire.Number) ([]field, error) {
	fail := func(field, found, want string) ([]field, error) { return nil, protoError(name, at, field, found, want) }
	var out []field
	seen := map[protowire.Number]bool{}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fail("tag", protowire.ParseError(n).Error(), "a field")
		}
		data = data[n:]
		label := fmt.Sprintf("field %d", num)
		list := false
		for _, l := range lists {
			list = list || l == num
		}
		switch {
		case num > last:
			return fail(label, "an unknown field", fmt.Sprintf("at most field %d", last))
		case seen[num] && !list:
			return fail(label, "it a second time", "each field once")
		}
		seen[num] = true
		f := field{num: num}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			f.blob, n = protowire.ConsumeBytes(data)
			if f.blob == nil {
				f.blob = []byte{}
			}
		default:
			return fail(label, fmt.Sprintf("wire type %d", typ), "a varint or bytes")
		}
		if n < 0 {
			return fail(label, protowire.ParseError(n).Error(), "a value")
		}
		data = data[n:]
		out = append(out, f)
	}
	return out, nil
}

func protoError(name, at, field, found, want string) error {
	return &malformed.Error{Input: name, Place: at, Field: field, Found: found, Want: want}
}

// openProtobuf reads an Attestation of go-tpm-tools (proto/attest.proto).
func openProtobuf(name string, data []byte) (*Evidence, error) {
	fields, err := readFields(name, "Attestation", data, 9, 2, 7)
	if err != nil {
		return nil, err
	}
	e := &Evidence{Form: FormGoTPMTools}
	var public *Public
	var leaf *x509.Certificate
	var others []*x509.Certificate
	for _, f := range fields {
		label := fmt.Sprintf("field %d", f.num)
		if f.blob == nil {
			return nil, protoError(name, "Attestation", label, "a varint", "bytes")
		}
		switch f.num {
		case 1:
			public, err = ParsePublic(name+": ak_pub", f.blob)
		case 2:
			var q *Quote
			if len(e.Quotes) == maxQuotes {
				return nil, protoError(name, "Attestation", label, "one quote more", fmt.Sprintf("at most %d", maxQuotes))
			}
			if q, err = protobufQuote(fmt.Sprintf("%s: quotes[%d]", name, len(e.Quotes)), f.blob); err == nil {
				e.Quotes = append(e.Quotes, *q)
			}
		case 3:
			e.EventLog = f.blob
		case 6:
			leaf, err = certificate(name+": ak_cert", f.blob)
		case 7:
			var c *x509.Certificate
			if len(others) == maxPath {
				return nil, protoError(name, "Attestation", label, "one certificate more", fmt.Sprintf("at most %d", maxPath))
			}
			c, err = certificate(fmt.Sprintf("%s: intermediate_certs[%d]", name, len(others)), f.blob)
			others = append(others, c)
		default:
			what := map[protowire.Number]string{4: "instance_info", 5: "canonical_event_log", 8: "sev_snp_attestation", 9: "tdx_attestation"}[f.num]
			e.Unjudged = append(e.Unjudged, what)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(e.Quotes) == 0 {
		return nil, protoError(name, "Attestation", "field 2 (quotes)", "none", "one a bank")
	}
	switch {
	case leaf != nil:
		e.AK = &AK{Key: leaf.PublicKey, Public: public, Chain: append([]*x509.Certificate{leaf}, others...)}
	case public != nil:
		e.AK = &AK{Key: public.Key, Public: public}
	}
	return e, nil
}

func certificate(name string, der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, protoError(name, "", "certificate", err.Error(), "DER (RFC 5280)")
	}
	return c, nil
}

// protobufQuote reads a tpm.Quote: TPMS_ATTEST, TPMT_SIGNATURE, and the values
// of one bank as a map.
func protobufQuote(name string, data []byte) (*Quote, error) {
	fields, err := readFields(name, "Quote", data, 3)
	if err != nil {
		return nil, err
	}
	var message, signature []byte
	values := Values{}
	for _, f := range fields {
		switch {
		case f.blob == nil:
			return nil, protoError(name, "Quote", fmt.Sprintf("field %d", f.num), "a varint", "bytes")
		case f.num == 1:
			message = f.blob
		case f.num == 2:
			signature = f.blob
		case f.num == 3:
			if err := protobufPCRs(name, f.blob, values); err != nil {
				return nil, err
			}
		}
	}
	return NewQuote(name, message, signature, values, true)
}

func protobufPCRs(name string, data []byte, values Values) error {
	fields, err := readFields(name, "PCRs", data, 2, 2)
	if err != nil {
		return err
	}
	var bank digest.Algorithm
	for _, f := range fields {
		if f.num != 1 {
			continue
		}
		var ok bool
		if bank, ok = algorithm(uint16(min(f.n, 0xffff))); !ok || f.blob != nil {
			return protoError(name, "PCRs", "hash", fmt.Sprint(f.n), "4 (SHA-1), 11 (SHA-256), 12 (SHA-384) or 13 (SHA-512)")
		}
	}
	for _, f := range fields {
		if f.num != 2 {
			continue
		}
		entry, err := readFields(name, "PCRs entry", f.blob, 2)
		if err != nil {
			return err
		}
		var pcr uint64 // zero is left out on the wire
		var sum []byte
		for _, m := range entry {
			if m.num == 1 && m.blob == nil {
				pcr = m.n
			} else {
				sum = m.blob
			}
		}
		d, err := digest.FromBytes(bank, sum)
		if err != nil || !bank.Valid() || pcr >= PCRCount {
			return protoError(name, "PCRs entry", fmt.Sprintf("PCR %d", pcr), fmt.Sprintf("%d bytes", len(sum)), "a PCR of 0 to 23 and a digest of the bank "+bank.String())
		}
		if !values.set(bank, int(pcr), d) {
			return protoError(name, "PCRs entry", fmt.Sprintf("PCR %d", pcr), "it a second time", "each once")
		}
	}
	return nil
}
