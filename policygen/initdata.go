package policygen

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/pelletier/go-toml/v2"

	"github.com/retally/retally/internal/digest"
)

// Initdata is an initdata document (kata-containers, docs: initdata): what the
// hardware report's HOSTDATA or MRCONFIGID is a digest of.
type Initdata struct {
	Version   string
	Algorithm digest.Algorithm
	Data      map[string]string
}

const (
	initdataVersion = "0.1.0"
	policyKey       = "policy.rego"
)

// ParseInitdata reads an initdata document. form says whose rules hold:
// Contrast also takes an algorithm written with a dash (sha-256).
func ParseInitdata(name string, text []byte, form InitdataForm) (*Initdata, error) {
	return parseInitdata(name, text, form, false)
}

// parseInitdata can take a document of another version: to compare it and to
// say what stands in it is no promise of what a guest makes of it.
func parseInitdata(name string, text []byte, form InitdataForm, anyVersion bool) (*Initdata, error) {
	fail := func(format string, args ...any) (*Initdata, error) {
		return nil, Problems{{File: name, Kind: InitdataKind, Message: fmt.Sprintf(format, args...)}}
	}
	if limit := (Limits{}).orDefault().JSONBytes; len(text) > limit {
		return fail("document has %d bytes, the limit is %d", len(text), limit)
	}
	var doc struct {
		Version   *string            `toml:"version"`
		Algorithm *string            `toml:"algorithm"`
		Data      *map[string]string `toml:"data"`
	}
	if err := toml.Unmarshal(text, &doc); err != nil {
		var at *toml.DecodeError
		p := Problem{File: name, Kind: InitdataKind, Message: err.Error()}
		if errors.As(err, &at) {
			p.Line, p.Column = at.Position()
		}
		return nil, Problems{p}
	}
	for _, f := range []struct {
		name    string
		missing bool
	}{{"version", doc.Version == nil}, {"algorithm", doc.Algorithm == nil}, {"data", doc.Data == nil}} {
		if f.missing {
			return fail("field %q is missing", f.name)
		}
	}
	if *doc.Version != initdataVersion && !anyVersion {
		return fail("version %q, want %q", *doc.Version, initdataVersion)
	}
	algorithm := *doc.Algorithm
	if form == GoTOML {
		algorithm = strings.Replace(algorithm, "-", "", 1)
	}
	d := &Initdata{Version: *doc.Version, Data: *doc.Data}
	switch algorithm {
	case "sha256":
		d.Algorithm = digest.SHA256
	case "sha384":
		d.Algorithm = digest.SHA384
	case "sha512":
		d.Algorithm = digest.SHA512
	default:
		return fail("algorithm %q, want sha256, sha384 or sha512", *doc.Algorithm)
	}
	return d, nil
}

// Text is the document in that form. Data keys are sorted: genpolicy's own
// order is random for more than one.
func (d *Initdata) Text(form InitdataForm) []byte {
	quote := quoteKataTOML
	if form == GoTOML {
		quote = quoteGoTOML
	}
	size := 128
	for k, v := range d.Data {
		size += len(k) + len(v) + len(v)/16 + 16
	}
	b := make([]byte, 0, size)
	field := func(key, val string) {
		if !bareKey(key) {
			key = string(quote(nil, key, false))
		}
		b = append(append(b, key...), " = "...)
		b = append(quote(b, val, true), '\n')
	}
	field("version", d.Version)
	field("algorithm", d.Algorithm.String())
	b = append(b, "\n[data]\n"...)
	for _, k := range slices.Sorted(maps.Keys(d.Data)) {
		field(k, d.Data[k])
	}
	return b
}

// Digest is what is attested: the digest of the raw text.
func (d *Initdata) Digest(text []byte) digest.Digest {
	switch d.Algorithm {
	case digest.SHA384:
		sum := sha512.Sum384(text)
		return mustDigest(digest.SHA384, sum[:])
	case digest.SHA512:
		sum := sha512.Sum512(text)
		return mustDigest(digest.SHA512, sum[:])
	default:
		return sha256Of(text)
	}
}

func sha256Of(data []byte) digest.Digest {
	sum := sha256.Sum256(data)
	return mustDigest(digest.SHA256, sum[:])
}

func mustDigest(a digest.Algorithm, sum []byte) digest.Digest {
	d, err := digest.FromBytes(a, sum)
	if err != nil {
		panic(err) // the lengths are the hash functions' own
	}
	return d
}

func bareKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}

// quoteKataTOML writes a string in the first form that fits, as toml_writer
// 1.1 does: basic, literal, multi-line basic, multi-line literal, escaped.
func quoteKataTOML(dst []byte, s string, multiline bool) []byte {
	var newline, quote, apostrophe, backslash, control bool
	var quotes, apostrophes, run int // longest runs
	for i := range len(s) {
		c := s[i]
		if i == 0 || s[i-1] != c {
			run = 0
		}
		run++
		switch {
		case c == '\n':
			newline = true
		case c == '"':
			quote, quotes = true, max(quotes, run)
		case c == '\'':
			apostrophe, apostrophes = true, max(apostrophes, run)
		case c == '\\':
			backslash = true
		case c < 0x20 && c != '\t' || c == 0x7f:
			control = true
		}
	}
	wrap := func(mark string) []byte {
		dst = append(dst, mark...)
		if newline {
			dst = append(dst, '\n')
		}
		return append(append(dst, s...), mark...)
	}
	switch {
	case !newline && !quote && !backslash && !control:
		return wrap(`"`)
	case !newline && !apostrophe && !control:
		return wrap(`'`)
	case multiline && !backslash && quotes <= 2 && !control:
		return wrap(`"""`)
	case multiline && apostrophes <= 2 && !control:
		return wrap(`'''`)
	}
	return escapeKataTOML(dst, s, newline && multiline)
}

func escapeKataTOML(dst []byte, s string, newline bool) []byte {
	mark := `"`
	if newline {
		mark = "\"\"\"\n"
	}
	dst = append(dst, mark...)
	run := 0
	for i := range len(s) {
		c := s[i]
		if c == '"' {
			run++
			if newline && run < 3 {
				dst = append(dst, c)
				continue
			}
			run = 0
			dst = append(dst, `\"`...)
			continue
		}
		run = 0
		if c == '\n' && newline {
			dst = append(dst, c)
			continue
		}
		dst = appendTOMLEscape(dst, c)
	}
	return append(dst, strings.TrimSuffix(mark, "\n")...)
}

func appendTOMLEscape(dst []byte, c byte) []byte {
	switch c {
	case '\\':
		return append(dst, `\\`...)
	case '"':
		return append(dst, `\"`...)
	}
	if at := strings.IndexByte("\b\t\n\f\r", c); at >= 0 {
		return append(dst, '\\', "btnfr"[at])
	}
	if c < 0x20 || c == 0x7f {
		return fmt.Appendf(dst, `\u%04X`, c)
	}
	return append(dst, c)
}

// quoteGoTOML writes a string as go-toml v2 does: in apostrophes unless it has
// one or a control character other than a tab.
func quoteGoTOML(dst []byte, s string, _ bool) []byte {
	literal := true
	for i := range len(s) {
		if c := s[i]; c == '\'' || c < 0x20 && c != '\t' || c == 0x7f {
			literal = false
		}
	}
	if literal {
		return append(append(append(dst, '\''), s...), '\'')
	}
	dst = append(dst, '"')
	for i := range len(s) {
		dst = appendTOMLEscape(dst, s[i])
	}
	return append(dst, '"')
}

// annotator packs annotations one after the other: its tables are a megabyte,
// ten times the text.
type annotator struct {
	buf bytes.Buffer
	zw  *gzip.Writer
}

func (a *annotator) encode(text []byte) string {
	a.buf.Reset()
	if a.zw == nil {
		a.zw, _ = gzip.NewWriterLevel(&a.buf, 6) // the level is valid
	} else {
		a.zw.Reset(&a.buf)
	}
	_, err := a.zw.Write(text)
	if err == nil {
		err = a.zw.Close()
	}
	if err != nil {
		panic(err) // a bytes.Buffer does not fail
	}
	return base64.StdEncoding.EncodeToString(a.buf.Bytes())
}

// DecodeAnnotation unpacks the value of the annotation into the text of the
// initdata document.
func DecodeAnnotation(annotation string) ([]byte, error) {
	const limit = 64 << 20
	packed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(annotation))
	if err != nil {
		return nil, fmt.Errorf("decode initdata annotation: %w", err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("decode initdata annotation: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(zr, limit+1))
	if err != nil {
		return nil, fmt.Errorf("decode initdata annotation: %w", err)
	}
	if len(text) > limit {
		return nil, fmt.Errorf("decode initdata annotation: more than %d bytes", limit)
	}
	return text, nil
}
