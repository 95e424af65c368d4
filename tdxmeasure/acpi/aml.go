package acpi

import (
	"encoding/binary"
	"fmt"
)

// An AML term list as a tree: what encloses other terms is kept apart from
// its length, so that an edit inside re-encodes every length around it (ACPI
// specification 6.4, chapter 20.2, "AML Grammar Definition").
//
// The bytes of a tree are those of the table it was read from and are never
// changed in place: an edit replaces them.
type term struct {
	op   []byte // opcode of a package; nil for raw bytes
	head []byte // what follows the package length: name, flags
	kids []*term
	raw  []byte // where op is nil
}

func rawTerm(b ...byte) *term { return &term{raw: b} }

// name returns the last segment of the term's name, "" for raw bytes.
func (t *term) name() string {
	n, err := nameLength(t.head)
	if err != nil || n < 4 {
		return ""
	}
	return string(t.head[n-4 : n])
}

func (t *term) size() int {
	if t.op == nil {
		return len(t.raw)
	}
	n := t.body()
	return len(t.op) + lengthSize(n) + n
}

func (t *term) body() int {
	n := len(t.head)
	for _, k := range t.kids {
		n += k.size()
	}
	return n
}

func (t *term) append(dst []byte) []byte {
	if t.op == nil {
		return append(dst, t.raw...)
	}
	dst = append(dst, t.op...)
	dst = appendLength(dst, t.body())
	dst = append(dst, t.head...)
	for _, k := range t.kids {
		dst = k.append(dst)
	}
	return dst
}

// lengthSize is the number of bytes of the shortest package length for n
// bytes of content; the length counts itself.
func lengthSize(n int) int {
	switch {
	case n+1 < 1<<6:
		return 1
	case n+2 < 1<<12:
		return 2
	case n+3 < 1<<20:
		return 3
	default:
		return 4
	}
}

// appendLength encodes the shortest package length for n bytes of content.
func appendLength(dst []byte, n int) []byte {
	size := lengthSize(n)
	n += size
	if size == 1 {
		return append(dst, byte(n))
	}
	dst = append(dst, byte(size-1)<<6|byte(n&0xf))
	for n >>= 4; size > 1; size-- {
		dst = append(dst, byte(n))
		n >>= 8
	}
	return dst
}

// packageLength decodes a package length: the total it counts and its size.
func packageLength(b []byte) (total, size int, err error) {
	if len(b) == 0 {
		return 0, 0, fmt.Errorf("no package length")
	}
	more := int(b[0] >> 6)
	if len(b) < 1+more {
		return 0, 0, fmt.Errorf("package length cut short")
	}
	if more == 0 {
		total = int(b[0] & 0x3f)
	} else {
		total = int(b[0] & 0xf)
		for i := range more {
			total |= int(b[1+i]) << (4 + 8*i)
		}
	}
	if total < 1+more || total > len(b) {
		return 0, 0, fmt.Errorf("package of %d bytes where %d are left", total, len(b))
	}
	return total, 1 + more, nil
}

// nameLength is the length of the name string at the start of b.
func nameLength(b []byte) (int, error) {
	i := 0
	for i < len(b) && (b[i] == '\\' || b[i] == '^') {
		i++
	}
	segments := 1
	if i < len(b) {
		switch b[i] {
		case 0:
			return i + 1, nil
		case 0x2e:
			segments, i = 2, i+1
		case 0x2f:
			if i+1 >= len(b) {
				return 0, fmt.Errorf("name cut short")
			}
			segments, i = int(b[i+1]), i+2
		}
	}
	end := i + 4*segments
	if end > len(b) {
		return 0, fmt.Errorf("name cut short")
	}
	for _, c := range b[i:end] {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') {
			return 0, fmt.Errorf("name with byte %#x", c)
		}
	}
	return end, nil
}

const maxAMLDepth = 32

// parseTerms reads the object level of AML: definitions of scopes, devices,
// processors, methods, names, regions, fields and mutexes. Method bodies stay
// raw. It is meant for the tables that QEMU makes; what those do not have is
// an error.
func parseTerms(b []byte, depth int) ([]*term, error) {
	if depth > maxAMLDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxAMLDepth)
	}
	var terms []*term
	for at := 0; at < len(b); {
		t, n, err := parseTerm(b[at:], depth)
		if err != nil {
			return nil, fmt.Errorf("+%#x: %w", at, err)
		}
		terms = append(terms, t)
		at += n
	}
	return terms, nil
}

func parseTerm(b []byte, depth int) (*term, int, error) {
	op := 1
	if b[0] == 0x5b {
		op = 2
	}
	if len(b) < op {
		return nil, 0, fmt.Errorf("opcode cut short")
	}
	code := uint16(b[0])
	if op == 2 {
		code = 0x5b00 | uint16(b[1])
	}
	switch code {
	case 0x10, 0x14, 0x5b82, 0x5b83: // Scope, Method, Device, Processor
		return parsePackage(b, op, code, depth)
	case 0x5b81, 0x5b86, 0x5b87, 0xa0, 0xa1: // fields; If and Else at object level
		total, _, err := packageLength(b[op:])
		if err != nil {
			return nil, 0, err
		}
		return rawTerm(b[:op+total]...), op + total, nil
	}
	n, err := plainLength(b, op, code)
	if err != nil {
		return nil, 0, err
	}
	if n > len(b) {
		return nil, 0, fmt.Errorf("opcode %#x cut short", code)
	}
	return rawTerm(b[:n]...), n, nil
}

// parsePackage reads a term with a package length, a name and, for a method
// or a processor, fixed bytes behind the name.
func parsePackage(b []byte, op int, code uint16, depth int) (*term, int, error) {
	total, size, err := packageLength(b[op:])
	if err != nil {
		return nil, 0, err
	}
	body := b[op+size : op+total]
	head, err := nameLength(body)
	if err != nil {
		return nil, 0, err
	}
	switch code {
	case 0x14:
		head++
	case 0x5b83:
		head += 6
	}
	if head > len(body) {
		return nil, 0, fmt.Errorf("opcode %#x cut short", code)
	}
	t := &term{op: b[:op:op], head: body[:head:head]}
	if code == 0x14 {
		t.kids = []*term{rawTerm(body[head:]...)}
	} else if t.kids, err = parseTerms(body[head:], depth+1); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", t.name(), err)
	}
	return t, op + total, nil
}

// plainLength is the length of a term without a package of its own.
func plainLength(b []byte, op int, code uint16) (int, error) {
	name, err := 0, error(nil)
	switch code {
	case 0x08, 0x06, 0x15, 0x5b01, 0x5b02, 0x5b80:
		if name, err = nameLength(b[op:]); err != nil {
			return 0, err
		}
	}
	at := op + name
	switch code {
	case 0x08: // Name
		n, err := dataLength(b[at:])
		return at + n, err
	case 0x06: // Alias
		n, err := nameLength(b[at:])
		return at + n, err
	case 0x15: // External
		return at + 2, nil
	case 0x5b01: // Mutex
		return at + 1, nil
	case 0x5b02: // Event
		return at, nil
	case 0x5b80: // OperationRegion: space, offset, length
		at++
		for range 2 {
			if at > len(b) {
				return 0, fmt.Errorf("operation region cut short")
			}
			n, err := dataLength(b[at:])
			if err != nil {
				return 0, err
			}
			at += n
		}
		return at, nil
	default:
		return 0, fmt.Errorf("opcode %#x at object level", code)
	}
}

// dataLength is the length of a constant data object.
func dataLength(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, fmt.Errorf("data cut short")
	}
	switch b[0] {
	case 0x00, 0x01, 0xff:
		return 1, nil
	case 0x0a:
		return 2, nil
	case 0x0b:
		return 3, nil
	case 0x0c:
		return 5, nil
	case 0x0e:
		return 9, nil
	case 0x0d: // string
		for i := 1; i < len(b); i++ {
			if b[i] == 0 {
				return i + 1, nil
			}
		}
		return 0, fmt.Errorf("string without an end")
	case 0x11, 0x12, 0x13: // Buffer, Package, VarPackage
		total, _, err := packageLength(b[1:])
		return 1 + total, err
	default:
		return nameLength(b)
	}
}

// appendInteger encodes an integer in the shortest form.
func appendInteger(dst []byte, v uint64) []byte {
	switch {
	case v <= 1:
		return append(dst, byte(v))
	case v <= 0xff:
		return append(dst, 0x0a, byte(v))
	case v <= 0xffff:
		return binary.LittleEndian.AppendUint16(append(dst, 0x0b), uint16(v))
	case v <= 0xffffffff:
		return binary.LittleEndian.AppendUint32(append(dst, 0x0c), uint32(v))
	default:
		return binary.LittleEndian.AppendUint64(append(dst, 0x0e), v)
	}
}

// walk visits every term in order, parents first, until visit returns false.
func walk(terms []*term, visit func(parent, t *term) bool) {
	var rec func(parent *term, terms []*term) bool
	rec = func(parent *term, terms []*term) bool {
		for _, t := range terms {
			if !visit(parent, t) || !rec(t, t.kids) {
				return false
			}
		}
		return true
	}
	rec(nil, terms)
}

// find returns the first term with a name and an opcode, anywhere.
func find(terms []*term, name string, op ...byte) *term {
	var found *term
	walk(terms, func(_, t *term) bool {
		if t.op != nil && string(t.op) == string(op) && t.name() == name {
			found = t
		}
		return found == nil
	})
	return found
}
