package policygen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// kind is what a node of a document is after its scalars were resolved.
type kind uint8

const (
	nullKind kind = iota
	boolKind
	intKind // fits a signed 64-bit integer
	uintKind
	floatKind
	stringKind
	seqKind
	mapKind
)

var kindNames = [...]string{"null", "boolean", "integer", "integer", "floating point number", "string", "sequence", "mapping"}

func (k kind) String() string { return kindNames[k] }

// value is one node of a document. Aliases are replaced by what they stand
// for, duplicate keys are merged (the later value at the earlier place), and
// the text of a number is its normalized form.
type value struct {
	kind    kind
	text    string // scalars: as written back; strings: the decoded text
	elems   []*value
	entries []entry
	line    int
	column  int
}

type entry struct{ key, val *value }

// get returns the value of a string key, nil where there is none.
func (v *value) get(key string) *value {
	if v == nil || v.kind != mapKind {
		return nil
	}
	for _, e := range v.entries {
		if e.key.kind == stringKind && e.key.text == key {
			return e.val
		}
	}
	return nil
}

func stringValue(s string) *value { return &value{kind: stringKind, text: s} }

// set puts a string key's value, at the key's old place or at the end.
func (v *value) set(key string, val *value) {
	for i, e := range v.entries {
		if e.key.kind == stringKind && e.key.text == key {
			v.entries[i].val = val
			return
		}
	}
	v.entries = append(v.entries, entry{stringValue(key), val})
}

// shallow copies the node, so that its entries can be changed without
// touching the original.
func (v *value) shallow() *value {
	c := *v
	c.entries = append([]entry(nil), v.entries...)
	c.elems = append([]*value(nil), v.elems...)
	return &c
}

// Limits bound what is read. A zero field means its default.
type Limits struct {
	YAMLBytes  int   // one YAML file; default 16 MiB
	Depth      int   // nested collections of YAML with aliases followed; default 128, serde_yaml's own limit
	Nodes      int   // YAML nodes with aliases followed; default 2,000,000
	Documents  int   // documents of one YAML file; default 10,000
	JSONBytes  int   // settings, drop-ins, image configs, requests; default 16 MiB
	FileBytes  int   // /etc/passwd or /etc/group of one layer; default 8 MiB
	LayerBytes int64 // one layer, decompressed; default 256 GiB
}

func (l Limits) orDefault() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.YAMLBytes, 16<<20)
	def(&l.Depth, 128)
	def(&l.Nodes, 2_000_000)
	def(&l.Documents, 10_000)
	def(&l.JSONBytes, 16<<20)
	def(&l.FileBytes, 8<<20)
	if l.LayerBytes <= 0 {
		l.LayerBytes = 256 << 30
	}
	return l
}

// parseYAML reads every document of a stream. Documents that are empty or
// null are left out.
//
// kata's genpolicy reads with serde_yaml 0.8 on yaml-rust 0.4; both that and
// yaml.v3 descend from libyaml's scanner. Where they see different things in a
// text, yamlSource mends it (source.go); the meaning of scalars is our own
// (scalar.go).
func parseYAML(file string, data []byte, limits Limits) (docs []*value, err error) {
	if len(data) > limits.YAMLBytes {
		return nil, Problems{{File: file, Kind: Limit, Message: fmt.Sprintf("file has %d bytes, the limit is %d", len(data), limits.YAMLBytes)}}
	}
	if p := encodingProblem(file, data); p != nil {
		return nil, Problems{*p}
	}
	// yaml.v3 reports its own syntax errors by panicking inside and
	// recovering; a fault it does not know would reach us as a panic too.
	defer func() {
		if r := recover(); r != nil {
			docs, err = nil, Problems{{File: file, Kind: Syntax, Message: fmt.Sprintf("not readable as YAML: %v", r)}}
		}
	}()
	src := newYAMLSource(data)
	c := converter{file: file, limits: limits, budget: limits.Nodes, src: src}
	dec := yaml.NewDecoder(bytes.NewReader(src.text))
	for n := 0; ; n++ {
		var doc yaml.Node
		switch err := dec.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			p := syntaxProblem(file, err)
			p.Message = src.restore(p.Message)
			return nil, Problems{p}
		}
		if n >= limits.Documents {
			return nil, Problems{{File: file, Line: doc.Line, Column: doc.Column, Kind: Limit, Message: fmt.Sprintf("more than %d documents", limits.Documents)}}
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
			continue
		}
		c.firstLine = doc.Content[0].Line
		v, err := c.convert(doc.Content[0], 0)
		if err != nil {
			return nil, err
		}
		if v.kind != nullKind {
			docs = append(docs, v)
		}
	}
}

func encodingProblem(file string, data []byte) *Problem {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return &Problem{
			File: file, Line: 1, Column: 1, Kind: Syntax, Message: "the file starts with a byte order mark",
			Hint: "save it as UTF-8 without one; genpolicy takes it for a part of the first key",
		}
	}
	if utf8.Valid(data) {
		return nil
	}
	line, column := 1, 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		if r == '\n' {
			line, column = line+1, 0
		}
		i, column = i+size, column+1
	}
	return &Problem{File: file, Line: line, Column: column, Kind: Syntax, Message: "the file is not UTF-8"}
}

// syntaxProblem turns yaml.v3's "yaml: line 3: …" into a Problem there.
func syntaxProblem(file string, err error) Problem {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	p := Problem{File: file, Kind: Syntax, Message: msg}
	var line int
	if n, _ := fmt.Sscanf(msg, "line %d:", &line); n == 1 {
		_, p.Message, _ = strings.Cut(msg, ": ")
		p.Line = line
	}
	return p
}

type converter struct {
	file      string
	limits    Limits
	budget    int
	src       *yamlSource
	firstLine int // of the document
}

func (c *converter) fail(n *yaml.Node, k ProblemKind, format string, args ...any) error {
	return Problems{{File: c.file, Line: n.Line, Column: n.Column, Kind: k, Message: fmt.Sprintf(format, args...)}}
}

// convert follows aliases. A cycle shows as depth, a bomb as the budget.
func (c *converter) convert(n *yaml.Node, depth int) (*value, error) {
	if n.Kind == yaml.AliasNode {
		if n.Alias.Line < c.firstLine {
			return nil, c.fail(n, Syntax, "unknown anchor %q: it is another document's", clip(n.Value))
		}
		n = n.Alias
	}
	if c.budget--; c.budget < 0 {
		return nil, c.fail(n, Limit, "more than %d values with aliases followed", c.limits.Nodes)
	}
	if depth >= c.limits.Depth && n.Kind != yaml.ScalarNode {
		return nil, c.fail(n, Limit, "nested deeper than %d with aliases followed", c.limits.Depth)
	}
	v := &value{line: n.Line, column: n.Column}
	switch n.Kind {
	case yaml.SequenceNode:
		v.kind = seqKind
		v.elems = make([]*value, 0, len(n.Content))
		for _, e := range n.Content {
			elem, err := c.convert(e, depth+1)
			if err != nil {
				return nil, err
			}
			v.elems = append(v.elems, elem)
		}
	case yaml.MappingNode:
		v.kind = mapKind
		return v, c.mapping(v, n, depth)
	default:
		if err := scalar(v, n, c.src.tag(n)); err != nil {
			return nil, c.fail(n, Type, "%v", err)
		}
		v.text = c.src.restore(v.text)
	}
	return v, nil
}

func (c *converter) mapping(v *value, n *yaml.Node, depth int) error {
	v.entries = make([]entry, 0, len(n.Content)/2)
	places := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := c.convert(n.Content[i], depth+1)
		if err != nil {
			return err
		}
		val, err := c.convert(n.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		v.put(places, key, val)
	}
	return nil
}

// put adds an entry; the later of two equal keys wins at the place of the
// first.
func (v *value) put(places map[string]int, key, val *value) {
	id := key.identity()
	if at, twice := places[id]; twice {
		v.entries[at].val = val
		return
	}
	places[id] = len(v.entries)
	v.entries = append(v.entries, entry{key, val})
}

// identity is equal for equal values of equal kinds.
func (v *value) identity() string {
	if v.kind < seqKind {
		return string('0'+rune(v.kind)) + v.text
	}
	return string('0'+rune(v.kind)) + string(appendYAML(nil, v))
}

// reread is the value as it is after being written (emit.go) and read again:
// a string that is written without quotes may come back as a number.
func (v *value) reread() *value {
	switch v.kind {
	case stringKind:
		if k, text := resolvePlain(v.text); k != stringKind && !needQuotes(v.text) {
			return &value{kind: k, text: text, line: v.line, column: v.column}
		}
		return v
	case seqKind:
		c := *v
		c.elems = make([]*value, len(v.elems))
		for i, e := range v.elems {
			c.elems[i] = e.reread()
		}
		return &c
	case mapKind:
		c := *v
		c.entries = make([]entry, 0, len(v.entries))
		places := make(map[string]int, len(v.entries))
		for _, e := range v.entries {
			c.put(places, e.key.reread(), e.val.reread())
		}
		return &c
	}
	return v
}
