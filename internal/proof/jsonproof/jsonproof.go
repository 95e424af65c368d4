// Package jsonproof finds the differences of two JSON documents, down to the
// way they are written, and makes one of the other from them (see package
// proof). Values are the texts as they stand in the documents.
package jsonproof

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/proof"
)

// Node is a JSON value that keeps the literal text of its scalars and keys.
type Node struct {
	Kind    jsondoc.Kind
	Raw     string // of a scalar, as written
	Text    string // decoded, of a string
	keys    []key
	Members []*Node // of an object, one for each key; of an array
	offset  int
	index   map[string]int // of large objects, made when it is needed
}

type key struct{ raw, text string }

// maxValues bounds a document.
const maxValues = 100_000

// Doc is a document with its layout.
type Doc struct {
	Root  *Node
	data  []byte
	style style
	known bool // the layout is that of a known writer
}

// Parse reads a document strictly.
func Parse(data []byte) (*Doc, error) {
	v, err := jsondoc.Parse(data, jsondoc.Limits{Values: maxValues})
	if err != nil {
		return nil, err
	}
	d := &Doc{Root: toNode(data, v), data: data}
	d.style, d.known = styleOf(data, d.Root)
	return d, nil
}

// Layout says how the document is laid out.
func (d *Doc) Layout() string {
	if !d.known {
		return "the layout of no known writer"
	}
	return d.style.String()
}

func toNode(data []byte, v *jsondoc.Value) *Node {
	n := &Node{Kind: v.Kind, Text: v.Text, offset: v.Offset}
	switch v.Kind {
	case jsondoc.String:
		n.Raw = rawString(data, v.Offset)
	case jsondoc.Number:
		n.Raw = v.Text
	case jsondoc.Bool:
		n.Raw = strconv.FormatBool(v.Bool)
	case jsondoc.Null:
		n.Raw = "null"
	case jsondoc.Array:
		for _, e := range v.Elems {
			n.Members = append(n.Members, toNode(data, e))
		}
	case jsondoc.Object:
		for _, m := range v.Members {
			n.keys = append(n.keys, key{rawString(data, m.Offset), m.Key})
			n.Members = append(n.Members, toNode(data, m.Value))
		}
	}
	return n
}

// rawString returns the literal that starts at an offset of a parsed document.
func rawString(data []byte, at int) string {
	for i := at + 1; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return string(data[at : i+1])
		}
	}
	return string(data[at:])
}

// find returns the position of a key, -1 for none.
func (n *Node) find(text string) int {
	if len(n.keys) > 8 {
		if n.index == nil {
			n.index = make(map[string]int, len(n.keys))
			for i, k := range n.keys {
				n.index[k.text] = i
			}
		}
		if i, ok := n.index[text]; ok {
			return i
		}
		return -1
	}
	for i, k := range n.keys {
		if k.text == text {
			return i
		}
	}
	return -1
}

// Get returns the member of a key, nil for none.
func (n *Node) Get(text string) *Node {
	if n == nil {
		return nil
	}
	if i := n.find(text); i >= 0 {
		return n.Members[i]
	}
	return nil
}

func (n *Node) scalar() bool { return n.Kind != jsondoc.Object && n.Kind != jsondoc.Array }

// Compact is the value on one line, its scalars and keys as they are written.
func (n *Node) Compact() string {
	if n == nil {
		return ""
	}
	if n.scalar() {
		return n.Raw
	}
	return style{comma: ",", colon: ":"}.format(n)
}

// same compares scalars without regard to how they are written.
func (n *Node) same(o *Node) bool {
	if n.Kind == jsondoc.String {
		return n.Text == o.Text
	}
	return n.Raw == o.Raw
}

// style is how a writer lays a document out.
type style struct {
	comma, colon string
	indent       string // per level; "" for one line
	end          string
}

// String tells every style from every other.
func (s style) String() string {
	form := "on one line"
	if s.indent != "" {
		form = fmt.Sprintf("indented by %q", s.indent)
	} else if s.comma != "," || s.colon != ":" {
		form += fmt.Sprintf(" with %q and %q", s.comma, s.colon)
	}
	if s.end != "" {
		form += ", final line feed"
	}
	return form
}

// styles are the layouts that are known: Go, Python, jq, tools with three,
// four and one blanks, tabs; each with and without a final line feed.
func styles() []style {
	var list []style
	for _, end := range []string{"", "\n"} {
		list = append(list, style{",", ":", "", end}, style{", ", ": ", "", end})
		for _, indent := range []string{"  ", "   ", "    ", "\t", " "} {
			list = append(list, style{",", ": ", indent, end})
		}
	}
	return list
}

// styleOf finds the layout that gives exactly these bytes.
func styleOf(data []byte, n *Node) (style, bool) {
	for _, s := range styles() {
		if s.format(n) == string(data) {
			return s, true
		}
	}
	return style{}, false
}

func (s style) format(n *Node) string {
	var b strings.Builder
	s.print(&b, n, 0)
	b.WriteString(s.end)
	return b.String()
}

func (s style) print(b *strings.Builder, n *Node, level int) {
	if n.scalar() {
		b.WriteString(n.Raw)
		return
	}
	open, end := "[", "]"
	if n.Kind == jsondoc.Object {
		open, end = "{", "}"
	}
	b.WriteString(open)
	for i, m := range n.Members {
		if i > 0 {
			b.WriteString(s.comma)
		}
		s.newline(b, level+1)
		if n.Kind == jsondoc.Object {
			b.WriteString(n.keys[i].raw)
			b.WriteString(s.colon)
		}
		s.print(b, m, level+1)
	}
	if len(n.Members) > 0 {
		s.newline(b, level)
	}
	b.WriteString(end)
}

func (s style) newline(b *strings.Builder, level int) {
	if s.indent == "" {
		return
	}
	b.WriteByte('\n')
	for range level {
		b.WriteString(s.indent)
	}
}

// The fields of edits; "" is the value itself.
const (
	fieldKey    = "key"    // the name of a member as it is written
	fieldLayout = "layout" // of the document
)

// member is the field of an edit that puts a member into an object.
func memberField(raw string) string { return "member " + raw }

// at is the place of a member or element.
func at(pointer, part string) string { return pointer + "/" + part }

func escaped(text string) string { return jsondoc.EscapePointer(text) }

func unfit(e *proof.Edit, format string, args ...any) error {
	return proof.Unfitf("%s: %s", e.Place, fmt.Sprintf(format, args...))
}
