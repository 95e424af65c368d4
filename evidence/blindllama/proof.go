// Package blindllama reads and judges the proof files of Mithril Security's
// BlindLlama: a quote of a cloud's virtual TPM, the certificates of its key, and
// the values that PCR 15 is folded from.
//
// Sources: BlindLlama's guide "Attestation" (three steps of the client) and the
// behavior of its clients: version 2 (blind_llama, 7bc435ee) was run against the
// published proof file; of version 1 (blind_llama_client, c3c86a7c) no file was
// published, its form is read from the source.
package blindllama

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/goldenpcr"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/trace"
)

// Limits of the files. The published proof file has 10 KiB.
const (
	MaxProof  = 1 << 20
	maxChain  = 16
	maxEvents = 1000
)

// Version is the form of a proof file.
type Version int

// The forms.
const (
	V1 Version = 1 // an event log in PCR 16
	V2 Version = 2 // three values in PCR 15, without a log
)

// Proof is a proof file as it was sent. What its parts say is judged by Verify:
// a chain or a quote that cannot be read is a proof that fails.
type Proof struct {
	Name    string // the file in errors
	Version Version

	Chain                    [][]byte // V2: one certificate in PEM each; V1: in DER
	Message, Signature, PCRs []byte   // the quote, as tpm2-tools writes it

	RootHash string   // V2: dm-verity root hash of the application disk, as text
	CA       string   // V2: the web server's CA in PEM, exactly the text that is measured
	EventLog []string // V1: JSON texts, exactly those that are measured

	Unjudged []string // members that are not known; nothing is judged by them
}

// Recognize says by its members whether a file is a proof file of either form.
func Recognize(data []byte) bool {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: MaxProof, Depth: 8, Values: 10000})
	if err != nil {
		return false
	}
	if inner := doc.Get("remote_attestation"); inner != nil {
		return inner.Get("cert_chain") != nil && inner.Get("quote") != nil && doc.Get("event_log") != nil
	}
	return doc.Get("cert_chain") != nil && doc.Get("application_disk_roothash") != nil
}

// Parse reads a proof file of either form. An error means that these bytes are
// no proof file, and says where. name is the file in errors.
func Parse(name string, data []byte) (*Proof, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: MaxProof, Depth: 8, Values: 10000})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	r := &reader{name: name}
	p := &Proof{Name: name, Version: V2}
	body, place := doc, ""
	if inner := doc.Get("remote_attestation"); inner != nil {
		p.Version, body, place = V1, inner, "/remote_attestation"
	}
	if body.Kind != jsondoc.Object {
		r.fail(place+"/", body.Kind.String(), "an object")
		return nil, r.err
	}
	p.Chain = r.chain(place+"/cert_chain", body.Get("cert_chain"), p.Version)
	quote := body.Get("quote")
	for _, part := range []struct {
		name string
		dst  *[]byte
	}{{"message", &p.Message}, {"signature", &p.Signature}, {"pcr", &p.PCRs}} {
		var v *jsondoc.Value
		if quote != nil {
			v = quote.Get(part.name)
		}
		*part.dst = r.bytes(place+"/quote/"+part.name, v, p.Version)
	}
	known := []string{"cert_chain", "quote"}
	if p.Version == V2 {
		p.RootHash, p.CA = r.text("/application_disk_roothash", doc.Get("application_disk_roothash")), r.text("/webserver_rootca", doc.Get("webserver_rootca"))
		known = append(known, "application_disk_roothash", "webserver_rootca")
	} else {
		log := doc.Get("event_log")
		if log == nil || log.Kind != jsondoc.Array || len(log.Elems) > maxEvents {
			r.fail("/event_log", kind(log), fmt.Sprintf("a list of at most %d JSON texts", maxEvents))
			return nil, r.err
		}
		for i, e := range log.Elems {
			p.EventLog = append(p.EventLog, r.text(fmt.Sprintf("/event_log/%d", i), e))
		}
		p.unknown("", doc, "remote_attestation", "event_log")
	}
	p.unknown(place, body, known...)
	p.unknown(place+"/quote", quote, "message", "signature", "pcr")
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}

func (p *Proof) unknown(place string, v *jsondoc.Value, known ...string) {
	if v == nil {
		return
	}
	for _, m := range v.Members {
		if !slices.Contains(known, m.Key) {
			p.Unjudged = append(p.Unjudged, place+"/"+jsondoc.EscapePointer(m.Key))
		}
	}
}

type reader struct {
	name string
	err  error
}

func (r *reader) fail(place, found, want string) {
	if r.err == nil {
		r.err = &malformed.Error{Input: r.name, Place: place, Found: found, Want: want}
	}
}

func kind(v *jsondoc.Value) string {
	if v == nil {
		return "nothing"
	}
	return v.Kind.String()
}

func (r *reader) text(place string, v *jsondoc.Value) string {
	if v == nil || v.Kind != jsondoc.String {
		r.fail(place, kind(v), "a text")
		return ""
	}
	return v.Text
}

// bytes reads base64; version 1 wraps it in an object.
func (r *reader) bytes(place string, v *jsondoc.Value, form Version) []byte {
	if form == V1 && v != nil && v.Kind == jsondoc.Object {
		v, place = v.Get("base64"), place+"/base64"
	}
	b, err := base64.StdEncoding.Strict().DecodeString(r.text(place, v))
	if err != nil {
		r.fail(place, err.Error(), "base64")
	}
	return b
}

func (r *reader) chain(place string, v *jsondoc.Value, form Version) [][]byte {
	if v == nil || v.Kind != jsondoc.Array || len(v.Elems) > maxChain {
		r.fail(place, kind(v), fmt.Sprintf("a list of at most %d certificates", maxChain))
		return nil
	}
	var out [][]byte
	for i, e := range v.Elems {
		at := fmt.Sprintf("%s/%d", place, i)
		if form == V1 {
			out = append(out, r.bytes(at, e, form))
			continue
		}
		out = append(out, []byte(r.text(at, e)))
	}
	return out
}

// Golden are golden measurements: SHA-256 values of PCRs, by index.
type Golden = goldenpcr.Golden

// ParseGolden reads golden measurements as BlindLlama's release has them. An empty
// list is read: that nothing was compared then is the verdict's to say.
func ParseGolden(name string, data []byte) (Golden, error) { return goldenpcr.Parse(name, data) }

// rootHash reads a root hash in the only spelling that the client accepts.
func rootHash(text string) (digest.Digest, error) {
	d, err := digest.ParseHex(digest.SHA256, text)
	if err == nil && d.Hex() != text {
		err = fmt.Errorf("%q is not in lower case, and the client compares it as text", text)
	}
	return d, err
}

// ApplicationRegister is PCR 15 of version 2: the root hash of the application
// disk, 32 zero bytes, and the SHA-256 of the CA's PEM text. Model weights and
// containers are files on that disk, so only the root hash covers them.
func ApplicationRegister(root digest.Digest, ca string) *trace.Trace {
	zero, _ := digest.FromBytes(digest.SHA256, make([]byte, digest.SHA256.Size())) // of its size
	t := &trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA256}
	t.Add("root hash of the application disk", root, trace.Origin{Input: "application disk", Size: -1})
	t.Add("32 zero bytes", zero, trace.Origin{Size: -1})
	t.Made("certificate of the web server's CA (PEM text)", []byte(ca))
	return t
}

// LogRegister is a register of version 1: the SHA-256 of each text.
func LogRegister(label string, texts ...string) *trace.Trace {
	t := &trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA256}
	for i, s := range texts {
		t.Made(fmt.Sprintf("%s %d", label, i+1), bytes.Clone([]byte(s)))
	}
	return t
}
