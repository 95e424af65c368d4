package deployment

import (
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
)

// A LookupError says why a field was not found.
type LookupError struct {
	File, Kind, Name, Field string
	Lines                   []int // of the objects, or of the differing values
	Msg                     string
	Hint                    string
	// NoObject says that no object has the name: a script that selects by it
	// goes on with an empty text.
	NoObject bool
}

func (e *LookupError) Error() string {
	s := fmt.Sprintf("%s: look up %s of %s %q: %s", e.File, e.Field, orDefault(e.Kind, "any"), e.Name, e.Msg)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Lookup returns the text and the line of one field of the object of that
// name. kind is a Kubernetes kind, or "any" or "" for all. field is a path of
// keys with dots between them; a key that has dots itself is written
// ["key"], ['key'] or "key", an element of a list [0].
//
// Several objects may have the name. Those without the field do not count;
// if the others have different values, the answer would depend on chance, and
// the error says so. Errors are *LookupError.
func (d *Deployment) Lookup(kind, name, field string) (string, int, error) {
	fail := &LookupError{File: d.File, Kind: kind, Name: name, Field: field}
	path, err := parseField(field)
	if err != nil {
		fail.Msg = err.Error()
		return "", 0, fail
	}
	var names []string
	var value string
	var line int
	var seen []int
	for _, o := range d.Objects {
		if kind != "" && kind != "any" && o.Kind != kind {
			continue
		}
		names = append(names, o.Name)
		if o.Name != name {
			continue
		}
		fail.Lines = append(fail.Lines, o.Line)
		n := follow(o.Node, path)
		if yamldoc.IsNull(n) {
			continue
		}
		text, ok := yamldoc.Text(n)
		if !ok {
			fail.Msg, fail.Lines = fmt.Sprintf("line %d has no single value there", n.Line), []int{n.Line}
			return "", 0, fail
		}
		if len(seen) > 0 && text != value {
			fail.Lines = append(seen, n.Line)
			fail.Msg = fmt.Sprintf("%q on line %d, but %q on line %d", clip(value), line, clip(text), n.Line)
			fail.Hint = "name the kind"
			return "", 0, fail
		}
		if len(seen) == 0 {
			value, line = text, n.Line
		}
		seen = append(seen, n.Line)
	}
	switch {
	case len(seen) > 0:
		return value, line, nil
	case len(fail.Lines) > 0:
		fail.Msg = fmt.Sprintf("the object on line %d has no such field", fail.Lines[0])
	default:
		fail.Msg, fail.NoObject = "no such object", true
		if near := yamldoc.Nearest(name, names); near != "" {
			fail.Hint = fmt.Sprintf("there is %q", near)
		}
	}
	return "", 0, fail
}

type fieldStep struct {
	key   string
	index int // -1 for a key
}

func follow(n *yaml.Node, path []fieldStep) *yaml.Node {
	for _, s := range path {
		if s.index < 0 {
			n = yamldoc.Get(n, s.key)
			continue
		}
		elems := yamldoc.Elems(n)
		if s.index >= len(elems) {
			return nil
		}
		n = elems[s.index]
	}
	return n
}

func parseField(field string) ([]fieldStep, error) {
	var path []fieldStep
	rest := strings.TrimPrefix(field, ".")
	bad := func(msg string) ([]fieldStep, error) {
		return nil, fmt.Errorf("bad field path at byte %d: %s", len(field)-len(rest), msg)
	}
	if rest == "" {
		return bad("empty")
	}
	for first := true; rest != ""; first = false {
		dotted := false
		if !first && rest[0] == '.' {
			rest, dotted = rest[1:], true
		} else if !first && rest[0] != '[' {
			return bad("want a dot or a bracket")
		}
		switch {
		case rest != "" && rest[0] == '[' && !dotted:
			rest = rest[1:]
			if rest != "" && (rest[0] == '"' || rest[0] == '\'') {
				key, after, ok := strings.Cut(rest[1:], rest[:1]+"]")
				if !ok {
					return bad("quoted key without its end")
				}
				path, rest = append(path, fieldStep{key, -1}), after
				continue
			}
			num, after, ok := strings.Cut(rest, "]")
			i, err := strconv.ParseUint(num, 10, 31)
			if !ok || err != nil {
				return bad(`want ["key"] or [number]`)
			}
			path, rest = append(path, fieldStep{"", int(i)}), after
		case rest != "" && (rest[0] == '"' || rest[0] == '\''):
			key, after, ok := strings.Cut(rest[1:], rest[:1])
			if !ok {
				return bad("quoted key without its end")
			}
			path, rest = append(path, fieldStep{key, -1}), after
		default:
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return bad("empty key")
			}
			path, rest = append(path, fieldStep{rest[:end], -1}), rest[end:]
		}
	}
	return path, nil
}
