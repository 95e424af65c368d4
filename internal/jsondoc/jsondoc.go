// Package jsondoc reads JSON as a tree that keeps what encoding/json throws
// away: the order of members, the place of every value, and the literal text
// of numbers. It is strict where two readers could disagree (duplicate keys,
// invalid UTF-8, lone surrogates, trailing data) and bounded, because its
// input is foreign.
//
// Manifests are edited and written back byte for byte, findings point at a
// line, and image documents must mean the same to everybody: three uses, one
// reader.
package jsondoc

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is the JSON type of a value.
type Kind uint8

// The JSON types.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

var kindNames = [...]string{"null", "boolean", "number", "string", "array", "object"}

// String names the kind as the JSON specification does.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "invalid"
}

// Value is one JSON value. Exactly the fields of its Kind are meaningful. The
// zero Value is null.
type Value struct {
	Kind    Kind
	Bool    bool
	Text    string // String: the decoded text. Number: the literal as written.
	Elems   []*Value
	Members []Member
	Offset  int // byte offset of the value's first character; 0 for values made by code
}

// Member is one name/value pair of an object, in input order.
type Member struct {
	Key    string
	Value  *Value
	Offset int // byte offset of the key
}

// Limits bound a document. A zero field means the default.
type Limits struct {
	Bytes  int // length of the input, default 16 MiB
	Depth  int // nesting, default 128
	Values int // number of values, default 1,000,000
}

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 16 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 128
	}
	if l.Values <= 0 {
		l.Values = 1_000_000
	}
	return l
}

// Error says where a document is wrong.
type Error struct {
	Offset, Line, Column int
	Pointer              string // JSON pointer of the enclosing value, "" at the top
	Msg                  string
	Reason               Reason // for callers that act on the kind of error
}

// Reason is the kind of an Error.
type Reason uint8

// The kinds of errors.
const (
	Syntax       Reason = iota // not JSON, or JSON that readers take differently
	DuplicateKey               // a member name appears twice in one object
	TooLarge                   // a limit was passed
)

func (e *Error) Error() string {
	where := fmt.Sprintf("line %d column %d", e.Line, e.Column)
	if e.Pointer != "" {
		where += " in " + e.Pointer
	}
	return where + ": " + e.Msg
}

// Position turns a byte offset into line and column, both from 1, the column
// counted in bytes.
func Position(data []byte, offset int) (line, column int) {
	if offset > len(data) {
		offset = len(data)
	}
	line, column = 1, 1
	for _, c := range data[:offset] {
		if c == '\n' {
			line, column = line+1, 1
		} else {
			column++
		}
	}
	return line, column
}

// Parse reads exactly one JSON value (RFC 8259) with nothing but white space
// around it.
func Parse(data []byte, limits Limits) (*Value, error) {
	p := parser{data: data, limits: limits.orDefault()}
	if len(data) > p.limits.Bytes {
		return nil, &Error{Offset: 0, Line: 1, Column: 1, Msg: fmt.Sprintf("document has %d bytes, the limit is %d", len(data), p.limits.Bytes), Reason: TooLarge}
	}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.pos < len(p.data) {
		return nil, p.errorf(p.pos, "unexpected %s after the end of the document", p.peek())
	}
	return v, nil
}

type parser struct {
	data   []byte
	pos    int
	values int
	path   []string
	limits Limits
}

func (p *parser) errorf(offset int, format string, args ...any) error {
	return p.fail(Syntax, offset, format, args...)
}

func (p *parser) fail(reason Reason, offset int, format string, args ...any) error {
	line, column := Position(p.data, offset)
	return &Error{Offset: offset, Line: line, Column: column, Pointer: pointer(p.path), Msg: fmt.Sprintf(format, args...), Reason: reason}
}

func pointer(path []string) string {
	var b strings.Builder
	for _, s := range path {
		b.WriteByte('/')
		b.WriteString(EscapePointer(s))
	}
	return b.String()
}

// EscapePointer escapes one reference token of a JSON pointer (RFC 6901
// section 3).
func EscapePointer(token string) string {
	if !strings.ContainsAny(token, "~/") {
		return token // making a replacer costs more than most tokens
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
}

// UnescapePointer is the reverse of EscapePointer (RFC 6901 section 4).
func UnescapePointer(token string) string {
	if !strings.Contains(token, "~") {
		return token
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
}

func (p *parser) peek() string {
	if p.pos >= len(p.data) {
		return "end of input"
	}
	r, _ := utf8.DecodeRune(p.data[p.pos:])
	return strconv.QuoteRune(r)
}

func (p *parser) space() {
	for p.pos < len(p.data) {
		switch p.data[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (*Value, error) {
	if depth > p.limits.Depth {
		return nil, p.fail(TooLarge, p.pos, "nested deeper than %d", p.limits.Depth)
	}
	p.values++
	if p.values > p.limits.Values {
		return nil, p.fail(TooLarge, p.pos, "more than %d values", p.limits.Values)
	}
	v := &Value{Offset: p.pos}
	if p.pos >= len(p.data) {
		return nil, p.errorf(p.pos, "want a value, found end of input")
	}
	switch c := p.data[p.pos]; {
	case c == '{':
		v.Kind = Object
		return v, p.object(v, depth)
	case c == '[':
		v.Kind = Array
		return v, p.array(v, depth)
	case c == '"':
		s, err := p.str()
		v.Kind, v.Text = String, s
		return v, err
	case c == '-' || c >= '0' && c <= '9':
		s, err := p.number()
		v.Kind, v.Text = Number, s
		return v, err
	}
	for _, w := range [...]struct {
		word string
		v    Value
	}{{"true", Value{Kind: Bool, Bool: true}}, {"false", Value{Kind: Bool}}, {"null", Value{}}} {
		if bytes.HasPrefix(p.data[p.pos:], []byte(w.word)) {
			v.Kind, v.Bool = w.v.Kind, w.v.Bool
			p.pos += len(w.word)
			return v, nil
		}
	}
	return nil, p.errorf(p.pos, "want a value, found %s", p.peek())
}

func (p *parser) object(v *Value, depth int) error {
	p.pos++
	p.space()
	if p.pos < len(p.data) && p.data[p.pos] == '}' {
		p.pos++
		return nil
	}
	seen := make(map[string]struct{})
	for {
		at := p.pos
		if p.pos >= len(p.data) || p.data[p.pos] != '"' {
			return p.errorf(p.pos, "want a member name, found %s", p.peek())
		}
		key, err := p.str()
		if err != nil {
			return err
		}
		if _, dup := seen[key]; dup {
			return p.fail(DuplicateKey, at, "member %q appears twice", clip(key))
		}
		seen[key] = struct{}{}
		p.space()
		if p.pos >= len(p.data) || p.data[p.pos] != ':' {
			return p.errorf(p.pos, "want ':' after member name %q, found %s", clip(key), p.peek())
		}
		p.pos++
		p.space()
		p.path = append(p.path, clip(key))
		elem, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		p.path = p.path[:len(p.path)-1]
		v.Members = append(v.Members, Member{Key: key, Value: elem, Offset: at})
		more, err := p.next('}')
		if err != nil || !more {
			return err
		}
	}
}

func (p *parser) array(v *Value, depth int) error {
	p.pos++
	p.space()
	if p.pos < len(p.data) && p.data[p.pos] == ']' {
		p.pos++
		return nil
	}
	for {
		p.path = append(p.path, strconv.Itoa(len(v.Elems)))
		elem, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		p.path = p.path[:len(p.path)-1]
		v.Elems = append(v.Elems, elem)
		more, err := p.next(']')
		if err != nil || !more {
			return err
		}
	}
}

// next reads the comma before another element (true) or the closing bracket.
func (p *parser) next(closing byte) (bool, error) {
	p.space()
	if p.pos < len(p.data) {
		switch p.data[p.pos] {
		case ',':
			p.pos++
			p.space()
			return true, nil
		case closing:
			p.pos++
			return false, nil
		}
	}
	return false, p.errorf(p.pos, "want ',' or '%c', found %s", closing, p.peek())
}

func (p *parser) number() (string, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for p.pos < len(p.data) && p.data[p.pos] >= '0' && p.data[p.pos] <= '9' {
			p.pos++
		}
		return p.pos > from
	}
	if p.data[p.pos] == '-' {
		p.pos++
	}
	zero := p.pos
	if !digits() {
		return "", p.errorf(p.pos, "want a digit, found %s", p.peek())
	}
	if p.data[zero] == '0' && p.pos > zero+1 {
		return "", p.errorf(zero, "number with a leading zero")
	}
	if p.pos < len(p.data) && p.data[p.pos] == '.' {
		p.pos++
		if !digits() {
			return "", p.errorf(p.pos, "want a digit after the decimal point, found %s", p.peek())
		}
	}
	if p.pos < len(p.data) && (p.data[p.pos] == 'e' || p.data[p.pos] == 'E') {
		p.pos++
		if p.pos < len(p.data) && (p.data[p.pos] == '+' || p.data[p.pos] == '-') {
			p.pos++
		}
		if !digits() {
			return "", p.errorf(p.pos, "want a digit in the exponent, found %s", p.peek())
		}
	}
	return string(p.data[start:p.pos]), nil
}

func (p *parser) str() (string, error) {
	start := p.pos
	p.pos++
	var b strings.Builder
	for {
		if p.pos >= len(p.data) {
			return "", p.errorf(start, "string is not closed")
		}
		switch c := p.data[p.pos]; {
		case c == '"':
			p.pos++
			return b.String(), nil
		case c == '\\':
			if err := p.escape(&b); err != nil {
				return "", err
			}
		case c < 0x20:
			return "", p.errorf(p.pos, "control character %#02x in a string", c)
		case c < utf8.RuneSelf:
			b.WriteByte(c)
			p.pos++
		default:
			r, size := utf8.DecodeRune(p.data[p.pos:])
			if r == utf8.RuneError && size == 1 {
				return "", p.errorf(p.pos, "string is not UTF-8")
			}
			b.Write(p.data[p.pos : p.pos+size])
			p.pos += size
		}
	}
}

func (p *parser) escape(b *strings.Builder) error {
	at := p.pos
	p.pos++
	if p.pos >= len(p.data) {
		return p.errorf(at, "string is not closed")
	}
	c := p.data[p.pos]
	p.pos++
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		b.WriteByte("\"\\/\b\f\n\r\t"[i])
		return nil
	}
	if c != 'u' {
		return p.errorf(at, "unknown escape \\%c", c)
	}
	r, ok := p.hex4()
	if !ok {
		return p.errorf(at, "want four hex digits after \\u")
	}
	if r >= 0xd800 && r < 0xe000 {
		low := rune(0)
		if r < 0xdc00 && bytes.HasPrefix(p.data[p.pos:], []byte(`\u`)) {
			p.pos += 2
			low, ok = p.hex4()
		}
		if !ok || low < 0xdc00 || low > 0xdfff {
			return p.errorf(at, "lone surrogate %#04x", r)
		}
		r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
	}
	b.WriteRune(r)
	return nil
}

func (p *parser) hex4() (rune, bool) {
	if p.pos+4 > len(p.data) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.data[p.pos:p.pos+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	p.pos += 4
	return rune(n), true
}

// Get returns the member's value, nil if v is no object or has no such member.
func (v *Value) Get(key string) *Value {
	if i := v.Index(key); i >= 0 {
		return v.Members[i].Value
	}
	return nil
}

// Index returns the position of a member, -1 if there is none.
func (v *Value) Index(key string) int {
	if v == nil || v.Kind != Object {
		return -1
	}
	for i := range v.Members {
		if v.Members[i].Key == key {
			return i
		}
	}
	return -1
}

// Set replaces a member's value in its place, or appends a new member. It
// turns v into an object if it is none.
func (v *Value) Set(key string, value *Value) {
	if v.Kind != Object {
		*v = Value{Kind: Object, Offset: v.Offset}
	}
	if i := v.Index(key); i >= 0 {
		v.Members[i].Value = value
		return
	}
	v.Members = append(v.Members, Member{Key: key, Value: value})
}

// Delete removes a member and reports whether it was there.
func (v *Value) Delete(key string) bool {
	i := v.Index(key)
	if i < 0 {
		return false
	}
	v.Members = append(v.Members[:i:i], v.Members[i+1:]...)
	return true
}

// IsNull reports whether v is absent or null.
func (v *Value) IsNull() bool { return v == nil || v.Kind == Null }

// Clone copies the whole tree.
func (v *Value) Clone() *Value {
	if v == nil {
		return nil
	}
	c := *v
	c.Elems, c.Members = nil, nil
	for _, e := range v.Elems {
		c.Elems = append(c.Elems, e.Clone())
	}
	for _, m := range v.Members {
		c.Members = append(c.Members, Member{Key: m.Key, Value: m.Value.Clone(), Offset: m.Offset})
	}
	return &c
}

// Uint64 reads a number that is a whole number from 0 to 2^64-1, whatever its
// notation (1.0 and 1e3 count).
func (v *Value) Uint64() (uint64, bool) {
	if v == nil || v.Kind != Number {
		return 0, false
	}
	if n, err := strconv.ParseUint(v.Text, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(v.Text, 64)
	if err != nil || f < 0 || f != math.Trunc(f) || f >= 1<<53 {
		return 0, false
	}
	return uint64(f), true
}

// NewString makes a string.
func NewString(s string) *Value { return &Value{Kind: String, Text: s} }

// NewBool makes a boolean.
func NewBool(b bool) *Value { return &Value{Kind: Bool, Bool: b} }

// NewNumber makes a number from its literal.
func NewNumber(literal string) *Value { return &Value{Kind: Number, Text: literal} }

// NewArray makes an array.
func NewArray(elems ...*Value) *Value { return &Value{Kind: Array, Elems: elems} }

// NewObject makes an object.
func NewObject(members ...Member) *Value { return &Value{Kind: Object, Members: members} }

func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
