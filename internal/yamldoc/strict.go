package yamldoc

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// DecodeStrict decodes a document into the struct that into points at. A key
// the struct does not have, and a value of another shape, is an error with
// line and column; an unknown key comes with the nearest known one.
func DecodeStrict(file string, n *yaml.Node, into any) error {
	if n == nil {
		return &Error{File: file, Msg: "the file is empty"}
	}
	if err := strict(file, n, reflect.TypeOf(into).Elem(), ""); err != nil {
		return err
	}
	if err := n.Decode(into); err != nil {
		return syntaxError(file, err)
	}
	return nil
}

var (
	nodeType        = reflect.TypeFor[yaml.Node]()
	unmarshalerType = reflect.TypeFor[yaml.Unmarshaler]()
)

func strict(file string, n *yaml.Node, t reflect.Type, path string) error {
	n = Resolve(n)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nodeType || reflect.PointerTo(t).Implements(unmarshalerType) || IsNull(n) {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return Errorf(file, n, path, "want a mapping, found %s", describe(n))
		}
		known := fieldsOf(t)
		for _, p := range Pairs(n) {
			ft, ok := known[p.Key.Value]
			if !ok {
				e := Errorf(file, p.Key, path, "unknown key %q", clip(p.Key.Value))
				if near := Nearest(p.Key.Value, keysOf(t)); near != "" {
					e.Hint = fmt.Sprintf("did you mean %q?", near)
				} else {
					e.Hint = "known: " + strings.Join(keysOf(t), ", ")
				}
				return e
			}
			if err := strict(file, p.Value, ft, join(path, p.Key.Value)); err != nil {
				return err
			}
		}
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			return Errorf(file, n, path, "want a mapping, found %s", describe(n))
		}
		for _, p := range Pairs(n) {
			if err := strict(file, p.Value, t.Elem(), join(path, p.Key.Value)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return Errorf(file, n, path, "want a list, found %s", describe(n))
		}
		for i, e := range Elems(n) {
			if err := strict(file, e, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Interface:
	default:
		if n.Kind != yaml.ScalarNode {
			return Errorf(file, n, path, "want %s, found %s", typeName(t), describe(n))
		}
		probe := reflect.New(t)
		if err := n.Decode(probe.Interface()); err != nil {
			return Errorf(file, n, path, "want %s, found %s", typeName(t), describe(n))
		}
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		if inline(f) {
			maps.Copy(m, fieldsOf(f.Type))
			continue
		}
		if name := fieldName(f); name != "" {
			m[name] = f.Type
		}
	}
	return m
}

// inline reports whether the fields of a field are its struct's own.
func inline(f reflect.StructField) bool {
	_, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return f.IsExported() && f.Type.Kind() == reflect.Struct && slices.Contains(strings.Split(options, ","), "inline")
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		if inline(f) {
			keys = append(keys, keysOf(f.Type)...)
			continue
		}
		if name := fieldName(f); name != "" {
			keys = append(keys, name)
		}
	}
	return keys
}

func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if name == "-" || !f.IsExported() {
		return ""
	}
	if name == "" {
		return strings.ToLower(f.Name)
	}
	return name
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of at least 0"
	default:
		return "a whole number"
	}
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", clip(n.Value))
	}
}

// Nearest returns the known word that a misspelt one is closest to, "" if none
// is close.
func Nearest(word string, known []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	if len(word) > 64 {
		return ""
	}
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
