package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// ValueKind says which form a Value has.
type ValueKind uint8

// The forms of a value. NoValue is the zero value: nothing is known.
const (
	NoValue ValueKind = iota
	DigestKind
	TextKind
	NumberKind
	BoolKind
	ListKind
)

// Value is a digest or a small typed scalar: a security version, a flag, a
// name, a set of names. It is immutable.
type Value struct {
	kind   ValueKind
	digest digest.Digest
	text   string
	number uint64
	flag   bool
	list   []string
}

// OfDigest makes a value of a digest; the zero digest gives no value.
func OfDigest(d digest.Digest) Value {
	if d.IsZero() {
		return Value{}
	}
	return Value{kind: DigestKind, digest: d}
}

// OfText makes a text value.
func OfText(s string) Value { return Value{kind: TextKind, text: s} }

// OfNumber makes a number.
func OfNumber(n uint64) Value { return Value{kind: NumberKind, number: n} }

// OfBool makes a flag.
func OfBool(b bool) Value { return Value{kind: BoolKind, flag: b} }

// OfList makes a set of names. The order is kept for display and does not
// count in comparisons.
func OfList(list []string) Value { return Value{kind: ListKind, list: slices.Clone(list)} }

// Kind returns the form.
func (v Value) Kind() ValueKind { return v.kind }

// IsNone reports whether there is no value.
func (v Value) IsNone() bool { return v.kind == NoValue }

// Digest returns the digest, zero for other kinds.
func (v Value) Digest() digest.Digest { return v.digest }

// Number returns the number and whether v is one.
func (v Value) Number() (uint64, bool) { return v.number, v.kind == NumberKind }

// Bool returns the flag and whether v is one.
func (v Value) Bool() (flag, ok bool) { return v.flag, v.kind == BoolKind }

// List returns the names of a list value.
func (v Value) List() []string { return slices.Clone(v.list) }

// String returns the text form: "sha384:…", "28", "true", "a, b".
func (v Value) String() string {
	switch v.kind {
	case DigestKind:
		return v.digest.String()
	case TextKind:
		return v.text
	case NumberKind:
		return strconv.FormatUint(v.number, 10)
	case BoolKind:
		return strconv.FormatBool(v.flag)
	case ListKind:
		return strings.Join(v.list, ", ")
	default:
		return ""
	}
}

// Equal compares two values; lists compare as sets.
func (v Value) Equal(w Value) bool {
	if v.kind != w.kind {
		return false
	}
	if v.kind == ListKind {
		return slices.Equal(sortedSet(v.list), sortedSet(w.list))
	}
	return v.digest == w.digest && v.text == w.text && v.number == w.number && v.flag == w.flag
}

func sortedSet(list []string) []string {
	s := slices.Clone(list)
	slices.Sort(s)
	return slices.Compact(s)
}

// MarshalJSON writes a digest as "alg:hex", the others as themselves and no
// value as null.
func (v Value) MarshalJSON() ([]byte, error) {
	switch v.kind {
	case DigestKind, TextKind:
		return json.Marshal(v.String())
	case NumberKind:
		return json.Marshal(v.number)
	case BoolKind:
		return json.Marshal(v.flag)
	case ListKind:
		if v.list == nil {
			return []byte("[]"), nil
		}
		return json.Marshal(v.list)
	default:
		return []byte("null"), nil
	}
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *Value) UnmarshalJSON(data []byte) error {
	var raw any
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	switch x := raw.(type) {
	case nil:
		*v = Value{}
	case bool:
		*v = OfBool(x)
	case string:
		if d, err := digest.Parse(x); err == nil && d.String() == x {
			*v = OfDigest(d)
		} else {
			*v = OfText(x)
		}
	case json.Number:
		n, err := strconv.ParseUint(x.String(), 10, 64)
		if err != nil {
			return fmt.Errorf("value %s is not a whole number of at least 0", x)
		}
		*v = OfNumber(n)
	default:
		var list []string
		if err := json.Unmarshal(data, &list); err != nil {
			return fmt.Errorf("value is neither a scalar nor a list of texts")
		}
		*v = OfList(list)
	}
	return nil
}
