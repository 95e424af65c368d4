package policygen

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// appendJSON writes a value as serde_json's pretty printer does: two spaces,
// fields in the order of the struct, map keys sorted by bytes, and only what
// JSON requires escaped. Fields are named by their json tags.
func appendJSON(dst []byte, v any) []byte {
	return appendJSONValue(dst, reflect.ValueOf(v), 0)
}

func appendJSONValue(dst []byte, v reflect.Value, depth int) []byte {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return append(dst, "null"...)
		}
		return appendJSONValue(dst, v.Elem(), depth)
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool())
	case reflect.Uint32:
		return strconv.AppendUint(dst, v.Uint(), 10)
	case reflect.String:
		return appendJSONString(dst, v.String())
	case reflect.Slice:
		return appendJSONList(dst, '[', ']', v.Len(), depth, func(dst []byte, i int) []byte {
			return appendJSONValue(dst, v.Index(i), depth+1)
		})
	case reflect.Map:
		keys := v.MapKeys()
		sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
		return appendJSONList(dst, '{', '}', len(keys), depth, func(dst []byte, i int) []byte {
			dst = append(appendJSONString(dst, keys[i].String()), ": "...)
			return appendJSONValue(dst, v.MapIndex(keys[i]), depth+1)
		})
	case reflect.Struct:
		var fields []int
		var names []string
		for i := range v.NumField() {
			name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if name == "-" || option == "omitempty" && isEmpty(v.Field(i)) {
				continue
			}
			fields, names = append(fields, i), append(names, name)
		}
		return appendJSONList(dst, '{', '}', len(fields), depth, func(dst []byte, i int) []byte {
			dst = append(appendJSONString(dst, names[i]), ": "...)
			return appendJSONValue(dst, v.Field(fields[i]), depth+1)
		})
	}
	panic("policygen: data type " + v.Type().String()) // a fault of data.go, not of the input
}

// isEmpty is serde's is_none for pointers and is_empty for the rest.
func isEmpty(v reflect.Value) bool {
	if v.Kind() == reflect.Pointer {
		return v.IsNil()
	}
	return v.Len() == 0
}

func appendJSONList(dst []byte, open, closing byte, n, depth int, elem func([]byte, int) []byte) []byte {
	dst = append(dst, open)
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '\n')
		for range depth + 1 {
			dst = append(dst, "  "...)
		}
		dst = elem(dst, i)
	}
	if n > 0 {
		dst = append(dst, '\n')
		for range depth {
			dst = append(dst, "  "...)
		}
	}
	return append(dst, closing)
}

func appendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= 0x20:
			dst = append(dst, c)
		default:
			if at := strings.IndexByte("\b\f\n\r\t", c); at >= 0 {
				dst = append(dst, '\\', "bfnrt"[at])
			} else {
				dst = fmt.Appendf(dst, `\u%04x`, c)
			}
		}
	}
	return append(dst, '"')
}

func jsonProblem(file string, err error) Problem {
	p := Problem{File: file, Kind: Syntax, Message: err.Error()}
	var at *jsondoc.Error
	if errors.As(err, &at) {
		p.Line, p.Column, p.Message, p.Path = at.Line, at.Column, at.Msg, at.Pointer
	}
	return p
}

// lineIndex finds the line of a byte offset.
type lineIndex []int

func newLineIndex(data []byte) lineIndex {
	index := lineIndex{0}
	for i, c := range data {
		if c == '\n' {
			index = append(index, i+1)
		}
	}
	return index
}

func (l lineIndex) position(offset int) (line, column int) {
	if len(l) == 0 {
		return 0, 0
	}
	i, found := slices.BinarySearch(l, offset)
	if !found {
		i--
	}
	return i + 1, offset - l[i] + 1
}

// fromJSON is the same document in the form that decoders read.
func fromJSON(j *jsondoc.Value, lines lineIndex) *value {
	v := &value{}
	v.line, v.column = lines.position(j.Offset)
	switch j.Kind {
	case jsondoc.Null:
		v.text = "~"
	case jsondoc.Bool:
		v.kind, v.text = boolKind, strconv.FormatBool(j.Bool)
	case jsondoc.Number:
		v.kind, v.text = floatKind, j.Text
		if k, text, ok := parseDecimal(j.Text); ok && k != tooWide {
			v.kind, v.text = k, text
		}
	case jsondoc.String:
		v.kind, v.text = stringKind, j.Text
	case jsondoc.Array:
		v.kind = seqKind
		for _, e := range j.Elems {
			v.elems = append(v.elems, fromJSON(e, lines))
		}
	case jsondoc.Object:
		v.kind = mapKind
		for _, m := range j.Members {
			key := stringValue(m.Key)
			key.line, key.column = lines.position(m.Offset)
			v.entries = append(v.entries, entry{key, fromJSON(m.Value, lines)})
		}
	}
	return v
}
