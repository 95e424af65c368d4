package imagehash

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// jnode is a JSON value that keeps the literal text of its scalars and keys.
type jnode struct {
	kind    jsondoc.Kind
	raw     string // of a scalar
	text    string // decoded, of a string
	keys    []jkey
	members []*jnode // of an object, one for each key; of an array
}

type jkey struct{ raw, text string }

func parseNodes(data []byte) (*jnode, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Values: 100_000})
	if err != nil {
		return nil, err
	}
	return toNode(data, doc), nil
}

func toNode(data []byte, v *jsondoc.Value) *jnode {
	n := &jnode{kind: v.Kind, text: v.Text}
	switch v.Kind {
	case jsondoc.String:
		n.raw = rawString(data, v.Offset)
	case jsondoc.Number:
		n.raw = v.Text
	case jsondoc.Bool:
		n.raw = strconv.FormatBool(v.Bool)
	case jsondoc.Null:
		n.raw = "null"
	case jsondoc.Array:
		for _, e := range v.Elems {
			n.members = append(n.members, toNode(data, e))
		}
	case jsondoc.Object:
		for _, m := range v.Members {
			n.keys = append(n.keys, jkey{rawString(data, m.Offset), m.Key})
			n.members = append(n.members, toNode(data, m.Value))
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

func (n *jnode) get(key string) *jnode {
	if n != nil {
		for i, k := range n.keys {
			if k.text == key {
				return n.members[i]
			}
		}
	}
	return nil
}

// show is a value as it is printed in a report.
func (n *jnode) show() string {
	if n == nil {
		return "absent"
	}
	var b strings.Builder
	jstyle{comma: ",", colon: ":"}.print(&b, n, 0)
	return clip(b.String())
}

// equal compares values without regard to how they are written.
func (n *jnode) equal(o *jnode) bool {
	if n == nil || o == nil || n.kind != o.kind || len(n.members) != len(o.members) {
		return n == nil && o == nil
	}
	switch n.kind {
	case jsondoc.String:
		return n.text == o.text
	case jsondoc.Object:
		for i, k := range n.keys {
			if !n.members[i].equal(o.get(k.text)) {
				return false
			}
		}
		return true
	case jsondoc.Array:
		for i := range n.members {
			if !n.members[i].equal(o.members[i]) {
				return false
			}
		}
		return true
	}
	return n.raw == o.raw
}

// jstyle is how a writer lays a document out.
type jstyle struct {
	comma, colon string
	indent       string // per level; "" for one line
	end          string
}

func (s jstyle) String() string {
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

func (s jstyle) print(b *strings.Builder, n *jnode, level int) {
	open, end := "[", "]"
	switch n.kind {
	case jsondoc.Object:
		open, end = "{", "}"
	case jsondoc.Array:
	default:
		b.WriteString(n.raw)
		return
	}
	b.WriteString(open)
	for i, m := range n.members {
		if i > 0 {
			b.WriteString(s.comma)
		}
		s.newline(b, level+1)
		if n.kind == jsondoc.Object {
			b.WriteString(n.keys[i].raw)
			b.WriteString(s.colon)
		}
		s.print(b, m, level+1)
	}
	if len(n.members) > 0 {
		s.newline(b, level)
	}
	b.WriteString(end)
}

func (s jstyle) newline(b *strings.Builder, level int) {
	if s.indent == "" {
		return
	}
	b.WriteByte('\n')
	for range level {
		b.WriteString(s.indent)
	}
}

func (s jstyle) format(n *jnode) string {
	var b strings.Builder
	s.print(&b, n, 0)
	b.WriteString(s.end)
	return b.String()
}

// styleOf finds the layout that gives exactly these bytes.
func styleOf(data []byte, n *jnode) (jstyle, bool) {
	for _, end := range []string{"", "\n"} {
		for _, s := range []jstyle{
			{",", ":", "", end},
			{", ", ": ", "", end},
			{",", ": ", "  ", end},
			{",", ": ", "   ", end},
			{",", ": ", "    ", end},
			{",", ": ", "\t", end},
			{",", ": ", " ", end},
		} {
			if s.format(n) == string(data) {
				return s, true
			}
		}
	}
	return jstyle{}, false
}

// edit is one difference between two documents.
type edit struct {
	pointer string
	a, b    *jnode // nil for absent
	form    string // not empty: the same value, written differently
}

// jdiff lists the edits that make A of B. pairs says how the elements of an
// array are paired; nil stands for by position if there are as many, else by
// equal elements.
type jdiff struct {
	pairs map[string]pairing
	edits []edit
}

func (d *jdiff) walk(pointer string, a, b *jnode) {
	if a == nil || b == nil || a.kind != b.kind {
		d.edits = append(d.edits, edit{pointer: pointer, a: a, b: b})
		return
	}
	switch a.kind {
	case jsondoc.Object:
		d.object(pointer, a, b)
	case jsondoc.Array:
		d.array(pointer, a, b)
	default:
		if !a.equal(b) {
			d.edits = append(d.edits, edit{pointer: pointer, a: a, b: b})
		} else if a.raw != b.raw {
			d.edits = append(d.edits, edit{pointer: pointer, a: a, b: b, form: "escapes"})
		}
	}
}

func (d *jdiff) object(pointer string, a, b *jnode) {
	var common []string
	for i, k := range a.keys {
		at := pointer + "/" + jsondoc.EscapePointer(k.text)
		other := b.get(k.text)
		if other != nil {
			common = append(common, k.text)
		}
		d.walk(at, a.members[i], other)
	}
	i := 0
	for _, k := range b.keys {
		if a.get(k.text) == nil {
			d.edits = append(d.edits, edit{pointer: pointer + "/" + jsondoc.EscapePointer(k.text), b: b.get(k.text)})
			continue
		}
		if common[i] != k.text {
			d.edits = append(d.edits, edit{pointer: pointer, a: a, b: b, form: "key order"})
			return
		}
		i++
	}
}

func (d *jdiff) array(pointer string, a, b *jnode) {
	p, given := d.pairs[pointer]
	if !given {
		if len(a.members) == 0 || a.members[0].kind != jsondoc.Object && a.members[0].kind != jsondoc.Array {
			// Lists of words (Env, Cmd) are one value.
			if !a.equal(b) {
				d.edits = append(d.edits, edit{pointer: pointer, a: a, b: b})
				return
			}
		}
		ka, kb := make([]string, len(a.members)), make([]string, len(b.members))
		for i, m := range a.members {
			ka[i] = jstyle{comma: ",", colon: ":"}.format(m)
		}
		for i, m := range b.members {
			kb[i] = jstyle{comma: ",", colon: ":"}.format(m)
		}
		p = pairKeys(ka, kb)
	}
	for _, q := range p.list {
		switch {
		case q.a < 0 && q.b < len(b.members):
			d.edits = append(d.edits, edit{pointer: fmt.Sprintf("%s/%d", pointer, q.b), b: b.members[q.b]})
		case q.b < 0 && q.a < len(a.members):
			d.edits = append(d.edits, edit{pointer: fmt.Sprintf("%s/%d", pointer, q.a), a: a.members[q.a]})
		case q.a >= 0 && q.b >= 0 && q.a < len(a.members) && q.b < len(b.members):
			d.walk(fmt.Sprintf("%s/%d", pointer, q.a), a.members[q.a], b.members[q.b])
		}
	}
	if !p.ordered() && !given {
		d.edits = append(d.edits, edit{pointer: pointer, a: a, b: b})
	}
}

// document compares two documents. kind names an edit's cause; "" means that
// the edit follows from differences below and is none of its own. It reports
// whether A's bytes come out of B with the edits undone.
func (x *differ) document(object []string, a, b []byte, pairs map[string]pairing, kind func(edit) string) (real, proved bool) {
	na, err := parseNodes(a)
	nb, err2 := parseNodes(b)
	if err != nil || err2 != nil {
		x.add(object, leaf{kind: "bytes", note: "not comparable as JSON"})
		x.settle(object, false)
		return true, false
	}
	d := &jdiff{pairs: pairs}
	d.walk("", na, nb)
	var forms []string
	for _, e := range d.edits {
		if e.form != "" {
			if !slices.Contains(forms, e.form) {
				forms = append(forms, e.form)
			}
			continue
		}
		k := kind(e)
		if k == "" {
			continue
		}
		real = true
		x.add(object, leaf{kind: k, place: e.pointer, a: e.a.show(), b: e.b.show()})
	}
	// With every edit undone B's tree is A's; what is left is the layout.
	sa, okA := styleOf(a, na)
	sb, okB := styleOf(b, nb)
	l := leaf{kind: "json-formatting", note: strings.Join(forms, ", ")}
	switch {
	case okA && okB:
		proved = true
		if sa != sb {
			l.a, l.b = sa.String(), sb.String()
			x.add(object, l)
		} else if len(forms) > 0 {
			x.add(object, l)
		}
	case splice(a, b, d.edits):
		proved = true
		if len(forms) > 0 {
			x.add(object, l)
		}
	default:
		l.note = strings.TrimPrefix(l.note+", the layout is that of no known writer", ", ")
		x.add(object, l)
	}
	x.settle(object, proved)
	return real, proved
}

// splice tries to make A of B by replacing the texts of changed scalars where
// the layout is none that is known.
func splice(a, b []byte, edits []edit) bool {
	_, errA := jsondoc.Parse(a, jsondoc.Limits{})
	_, errB := jsondoc.Parse(b, jsondoc.Limits{})
	if errA != nil || errB != nil {
		return false
	}
	va, _ := jsondoc.Parse(a, jsondoc.Limits{})
	vb, _ := jsondoc.Parse(b, jsondoc.Limits{})
	type span struct {
		at, n int
		by    string
	}
	var spans []span
	for _, e := range edits {
		if e.a == nil || e.b == nil || e.a.raw == "" || e.b.raw == "" {
			return false
		}
		at := offsetOf(vb, e.pointer)
		if at < 0 || offsetOf(va, e.pointer) < 0 {
			return false
		}
		spans = append(spans, span{at, len(e.b.raw), e.a.raw})
	}
	slices.SortFunc(spans, func(s, t span) int { return s.at - t.at })
	var out []byte
	from := 0
	for _, s := range spans {
		if s.at < from {
			return false
		}
		out = append(append(out, b[from:s.at]...), s.by...)
		from = s.at + s.n
	}
	return string(append(out, b[from:]...)) == string(a)
}

// offsetOf finds a value's place, -1 if there is none.
func offsetOf(v *jsondoc.Value, pointer string) int {
	if pointer == "" {
		return v.Offset
	}
	for part := range strings.SplitSeq(pointer[1:], "/") {
		switch {
		case v == nil:
			return -1
		case v.Kind == jsondoc.Array:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(v.Elems) {
				return -1
			}
			v = v.Elems[i]
		default:
			v = v.Get(jsondoc.UnescapePointer(part))
		}
	}
	if v == nil {
		return -1
	}
	return v.Offset
}
