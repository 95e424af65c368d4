package evidence

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// Limits of a registry file. The published one has 109 rows.
const (
	MaxRegistry     = 32 << 20
	MaxRegistryRows = 100000
)

// Row is one release in SecretVM's registry of artifacts (tdx.csv): the
// registers of one machine size of one version, and the digest of its root file
// system, which goes into RTMR3.
type Row struct {
	Line     int
	Template string // machine size: "small"
	VMType   string // "prod", "dev"
	Version  string // "v0.0.25"
	MRTD     digest.Digest
	RTMR     [3]digest.Digest
	Rootfs   digest.Digest // SHA-256
}

// Name names the row as people do.
func (r Row) Name() string { return strings.Join([]string{r.Template, r.VMType, r.Version}, " ") }

// Registry is a parsed registry file.
type Registry struct {
	Name   string
	Rows   []Row
	Source Source // whose word it is, for its sets
}

// ParseRegistry reads tdx.csv. Columns are found by the names in the first
// line; unknown ones are ignored, and blanks around values are cut off, because
// a published row has one. A JSON list of objects with these names is read too:
// it is what the table becomes in many a script.
func ParseRegistry(name string, data []byte) (*Registry, error) {
	if len(data) > MaxRegistry {
		return nil, &malformed.Error{Input: name, Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", MaxRegistry)}
	}
	if text := bytes.TrimLeft(data, " \t\r\n\ufeff"); len(text) > 0 && text[0] == '[' {
		return parseJSONRegistry(name, data)
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.ReuseRecord = true
	r.FieldsPerRecord = -1 // counted here: the error says how many there are
	head, err := r.Read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, &malformed.Error{Input: name, Found: "nothing", Want: "comma separated values with a header line"}
	case err != nil:
		return nil, csvError(name, err)
	}
	width := len(head)
	columns := map[string]int{}
	for i, h := range head {
		h = strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))
		if _, twice := columns[h]; twice {
			return nil, &malformed.Error{Input: name, Place: malformed.Line(1), Field: "columns", Found: strconv.Quote(h) + " twice", Want: "each column once"}
		}
		columns[h] = i
	}
	for _, want := range registryColumns {
		if _, ok := columns[want]; !ok {
			return nil, &malformed.Error{Input: name, Place: malformed.Line(1), Field: "columns", Found: strconv.Quote(strings.Join(head, ",")), Want: "a column " + want}
		}
	}
	reg := &Registry{Name: name}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return reg, nil
		}
		if err != nil {
			return nil, csvError(name, err)
		}
		if len(reg.Rows) == MaxRegistryRows {
			return nil, &malformed.Error{Input: name, Found: "one row more", Want: fmt.Sprintf("at most %d rows", MaxRegistryRows)}
		}
		line, _ := r.FieldPos(0)
		switch {
		case len(record) == 1 && strings.TrimSpace(record[0]) == "":
			continue // a line of blanks
		case len(record) != width:
			return nil, &malformed.Error{Input: name, Place: malformed.Line(line), Found: fmt.Sprintf("%d values", len(record)), Want: fmt.Sprintf("%d, as many as the first line has", width)}
		}
		row, err := readRow(name, line, func(column string) string { return record[columns[column]] })
		if err != nil {
			return nil, err
		}
		reg.Rows = append(reg.Rows, row)
	}
}

func csvError(name string, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return &malformed.Error{Input: name, Place: malformed.Line(parse.Line), Found: parse.Err.Error(), Want: "comma separated values"}
	}
	return &malformed.Error{Input: name, Found: err.Error(), Want: "comma separated values with a header line"}
}

// parseJSONRegistry reads the rows as a list of objects.
func parseJSONRegistry(name string, data []byte) (*Registry, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: MaxRegistry, Depth: 8})
	if err != nil {
		return nil, &malformed.Error{Input: name, Found: err.Error(), Want: "JSON, a list of rows"}
	}
	reg := &Registry{Name: name}
	line, at := 1, 0
	for _, row := range doc.Elems {
		line += bytes.Count(data[at:row.Offset], []byte("\n"))
		at = row.Offset
		if len(reg.Rows) == MaxRegistryRows {
			return nil, &malformed.Error{Input: name, Place: malformed.Line(line), Found: "one row more", Want: fmt.Sprintf("at most %d rows", MaxRegistryRows)}
		}
		for _, column := range registryColumns {
			if v := row.Get(column); v == nil || v.Kind != jsondoc.String {
				return nil, &malformed.Error{Input: name, Place: malformed.Line(line), Field: column, Found: "no text", Want: "a row with a text " + column}
			}
		}
		r, err := readRow(name, line, func(column string) string { return row.Get(column).Text })
		if err != nil {
			return nil, err
		}
		reg.Rows = append(reg.Rows, r)
	}
	return reg, nil
}

// registryColumns are the columns that a row is made of.
var registryColumns = []string{"template_name", "vm_type", "artifacts_ver", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rootfs_data"}

func readRow(name string, line int, value func(column string) string) (Row, error) {
	var failed error
	text := func(column string) string { return strings.Clone(strings.TrimSpace(value(column))) }
	sum := func(a digest.Algorithm, column string) digest.Digest {
		d, err := digest.ParseHex(a, strings.ToLower(strings.TrimPrefix(text(column), "0x")))
		if err != nil && failed == nil {
			failed = &malformed.Error{Input: name, Place: malformed.Line(line), Field: column, Found: strconv.Quote(text(column)), Want: fmt.Sprintf("%d hexadecimal digits", 2*a.Size())}
		}
		return d
	}
	row := Row{
		Line: line, Template: text("template_name"), VMType: text("vm_type"), Version: text("artifacts_ver"),
		MRTD: sum(digest.SHA384, "mrtd"), Rootfs: sum(digest.SHA256, "rootfs_data"),
		RTMR: [3]digest.Digest{sum(digest.SHA384, "rtmr0"), sum(digest.SHA384, "rtmr1"), sum(digest.SHA384, "rtmr2")},
	}
	return row, failed
}

// Sets makes each row a reference set: its values hold together or not at all.
func (r *Registry) Sets() []ReferenceSet {
	sets := make([]ReferenceSet, 0, len(r.Rows))
	for _, row := range r.Rows {
		sets = append(sets, ReferenceSet{
			Group: r.Name, Name: row.Name(), Where: malformed.Line(row.Line), Version: row.Version, Rootfs: row.Rootfs, Source: r.Source,
			Registers: map[Register]digest.Digest{MRTD: row.MRTD, RTMR0: row.RTMR[0], RTMR1: row.RTMR[1], RTMR2: row.RTMR[2]},
		})
	}
	return sets
}
