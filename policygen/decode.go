package policygen

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// A decoder fills Go structs from a document. The structs are the schema:
//
//	`k:"name"`      optional; absent and null leave the zero value
//	`k:"name,req"`  must be present and not null
//	`k:"name,req4"` required unless relaxed
//	`k:"name,def"`  may be absent, but not null (serde's default)
//	`k:"name,ext"`  known to extended profiles only, optional; last in its struct
//
// The order of the fields is the schema's order: a sequence is accepted in
// place of a mapping and gives the fields by position. Every fault is
// collected with its place; decoding never stops at the first.
type decoder struct {
	*collector
	// json asks for JSON's rules: a string field takes only a string, and
	// unknown fields are ignored.
	json    bool
	unknown Unknown
	// relaxed lets the fields tagged `req4` be absent: settings before kata 4.
	relaxed bool
	// extended also takes the fields tagged `ext`, which later generators know.
	extended bool
}

// Unknown says what happens to fields that the generator does not know.
type Unknown uint8

// The ways to treat unknown fields.
const (
	RefuseUnknown  Unknown = iota // every one is a problem
	AcceptHarmless                // those that no container can notice are accepted and noted
	IgnoreUnknown                 // all are ignored, as genpolicy --silent-unsupported-fields does
)

var rawValue = reflect.TypeFor[*value]()

// decode fills into (a non-nil pointer) from v.
func (d *decoder) decode(v *value, path string, into any) {
	d.fill(v, path, reflect.ValueOf(into).Elem())
}

func (d *decoder) wrong(v *value, path, want string) {
	found := v.kind.String()
	if v.kind < seqKind && v.kind != nullKind {
		found += " " + strconv.Quote(clip(v.text))
	}
	d.add(v, path, Type, "found %s, want %s", found, want)
}

func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

func (d *decoder) fill(v *value, path string, into reflect.Value) {
	if into.Type() == rawValue {
		into.Set(reflect.ValueOf(v))
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.fill(v, path, into.Elem())
	case reflect.String:
		d.str(v, path, into)
	case reflect.Bool:
		if v.kind != boolKind {
			d.wrong(v, path, "true or false")
			return
		}
		into.SetBool(v.text == "true")
	case reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32:
		d.integer(v, path, into)
	case reflect.Slice:
		d.slice(v, path, into)
	case reflect.Map:
		d.table(v, path, into)
	case reflect.Struct:
		d.structure(v, path, into)
	default:
		panic("policygen: schema type " + into.Type().String()) // a fault of the schema, not of the input
	}
}

// str: a string field takes the text of any scalar, quoted or not.
func (d *decoder) str(v *value, path string, into reflect.Value) {
	if v.kind >= seqKind || d.json && v.kind != stringKind {
		d.wrong(v, path, "a string")
		return
	}
	into.SetString(v.text)
}

// plain is the scalar as the typed reader sees it: the document was written
// and read again, and a string that needs no quotes may have become a number.
func (d *decoder) plain(v *value) (kind, string) {
	if v.kind == stringKind && !d.json && !needQuotes(v.text) {
		return resolvePlain(v.text)
	}
	return v.kind, v.text
}

func (d *decoder) integer(v *value, path string, into reflect.Value) {
	k, text := d.plain(v)
	want := "an integer"
	switch {
	case k != intKind && k != uintKind:
		d.wrong(v, path, want)
		return
	case into.CanInt():
		bits := into.Type().Bits()
		want = fmt.Sprintf("an integer of %d bits", bits)
		if i, err := strconv.ParseInt(text, 10, bits); err == nil {
			into.SetInt(i)
			return
		}
	default:
		bits := into.Type().Bits()
		want = fmt.Sprintf("an integer from 0 to %d", uint64(math.MaxUint64)>>(64-bits))
		if u, err := strconv.ParseUint(text, 10, bits); err == nil {
			into.SetUint(u)
			return
		}
	}
	d.wrong(v, path, want)
}

func (d *decoder) slice(v *value, path string, into reflect.Value) {
	if v.kind != seqKind {
		d.wrong(v, path, "a list")
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(v.elems), len(v.elems)))
	for i, e := range v.elems {
		d.fill(e, fmt.Sprintf("%s[%d]", path, i), into.Index(i))
	}
}

func (d *decoder) table(v *value, path string, into reflect.Value) {
	if v.kind != mapKind {
		d.wrong(v, path, "a mapping")
		return
	}
	into.Set(reflect.MakeMapWithSize(into.Type(), len(v.entries)))
	for _, e := range v.entries {
		if e.key.kind >= seqKind {
			d.wrong(e.key, path, "a string as key")
			continue
		}
		elem := reflect.New(into.Type().Elem()).Elem()
		d.fill(e.val, path+pathKey(e.key.text), elem)
		into.SetMapIndex(reflect.ValueOf(e.key.text), elem)
	}
}

func (d *decoder) structure(v *value, path string, into reflect.Value) {
	switch {
	case v.kind == mapKind:
		d.byName(v, path, into)
	case v.kind == seqKind && !d.json:
		d.byPosition(v, path, into)
	default:
		d.wrong(v, path, "a mapping")
	}
}

func (d *decoder) byName(v *value, path string, into reflect.Value) {
	t := into.Type()
	var seen uint64
	for _, e := range v.entries {
		at := path + pathKey(e.key.text)
		i := -1
		if e.key.kind < seqKind {
			i = d.fieldIndex(t, e.key.text)
		}
		if i < 0 {
			d.unknownField(v, e, path, t)
			continue
		}
		seen |= 1 << i
		d.field(e.val, strings.TrimPrefix(at, "."), t.Field(i), into.Field(i))
	}
	for i := range t.NumField() {
		name, opt := fieldTag(t.Field(i))
		if (opt == "req" || opt == "req4" && !d.relaxed) && seen&(1<<i) == 0 {
			d.add(v, path, MissingField, "field %q is missing", name)
		}
	}
}

func (d *decoder) byPosition(v *value, path string, into reflect.Value) {
	t := into.Type()
	fields := t.NumField()
	for fields > 0 && !d.knows(t.Field(fields-1)) {
		fields--
	}
	if len(v.elems) != fields {
		d.add(v, path, Type, "found a list of %d, want a mapping or a list of exactly %d fields", len(v.elems), fields)
		return
	}
	for i, e := range v.elems {
		name, _ := fieldTag(t.Field(i))
		d.field(e, strings.TrimPrefix(path+pathKey(name), "."), t.Field(i), into.Field(i))
	}
}

func (d *decoder) field(v *value, path string, f reflect.StructField, into reflect.Value) {
	if _, opt := fieldTag(f); opt == "" || opt == "ext" {
		if k, _ := d.plain(v); k == nullKind {
			return
		}
	}
	d.fill(v, path, into)
}

func (d *decoder) unknownField(owner *value, e entry, path string, t reflect.Type) {
	if d.json || d.unknown == IgnoreUnknown {
		return
	}
	at := strings.TrimPrefix(path+pathKey(e.key.text), ".")
	harmless := isHarmless(t, e.key.text)
	p := Problem{
		File: d.file, Line: e.key.line, Column: e.key.column, Path: at, Kind: UnknownField, Harmless: harmless,
		Message: fmt.Sprintf("field %q is not covered by policies", e.key.text), Hint: fieldHint(t, e.key.text, harmless),
	}
	switch {
	case harmless && d.unknown == AcceptHarmless:
		d.notes = append(d.notes, p)
	case len(d.problems) < maxProblems:
		d.problems = append(d.problems, p)
	}
}

// pathKey is a key as it stands in a path: .name, or ["a.b/c"] where it is not
// a plain name.
func pathKey(key string) string {
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return "[" + strconv.Quote(clip(key)) + "]"
		}
	}
	return "." + key
}

func fieldTag(f reflect.StructField) (name, option string) {
	name, option, _ = strings.Cut(f.Tag.Get("k"), ",")
	return name, option
}

func (d *decoder) knows(f reflect.StructField) bool {
	_, option := fieldTag(f)
	return option != "ext" || d.extended
}

func (d *decoder) fieldIndex(t reflect.Type, key string) int {
	for i := range t.NumField() {
		if name, _ := fieldTag(t.Field(i)); name == key && d.knows(t.Field(i)) {
			return i
		}
	}
	return -1
}
