package manifest

import (
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// place is a value in the tree, or the gap where a member would go.
type place struct {
	parent  *jsondoc.Value
	index   int    // of the element or member; -1 for a missing member
	key     string // of the missing member
	pointer string
}

func (p place) get() *jsondoc.Value {
	switch {
	case p.index < 0:
		return nil
	case p.parent.Kind == jsondoc.Array:
		return p.parent.Elems[p.index]
	default:
		return p.parent.Members[p.index].Value
	}
}

func (p place) set(v *jsondoc.Value) {
	switch {
	case p.index < 0:
		p.parent.Set(p.key, v)
	case p.parent.Kind == jsondoc.Array:
		p.parent.Elems[p.index] = v
	default:
		p.parent.Members[p.index].Value = v
	}
}

// remove deletes the place in the working copy.
func (p place) remove() {
	if p.parent.Kind == jsondoc.Array {
		p.parent.Elems = slices.Delete(p.parent.Elems, p.index, p.index+1)
		return
	}
	p.parent.Members = slices.Delete(p.parent.Members, p.index, p.index+1)
}

// walk visits every place the path names. Missing parents are made if create
// is set: an object below a name, an empty list where "*" would go (yq,
// measured: set of /a/*/b in {} gives {"a":[]}). A null counts as missing.
func (a *applier) walk(v *jsondoc.Value, s Step, at int, pointer string, create bool, visit func(place) error) error {
	if err := a.count(1, s); err != nil {
		return err
	}
	token, last := s.tokens[at], at == len(s.tokens)-1
	if token == "*" {
		return a.walkAll(v, s, at, pointer, create, visit)
	}
	var p place
	switch v.Kind {
	case jsondoc.Object:
		p = place{parent: v, index: v.Index(token), key: token}
	case jsondoc.Null:
		if !create {
			return nil
		}
		*v = jsondoc.Value{Kind: jsondoc.Object}
		p = place{parent: v, index: -1, key: token}
	case jsondoc.Array:
		i, err := strconv.Atoi(token)
		if err != nil || i < 0 || token != strconv.Itoa(i) {
			return a.errorf(s, pointer, "has elements, not names: %s (%q stands for every element)", quote(token), "*")
		}
		if i >= len(v.Elems) {
			if !create {
				return nil
			}
			return a.errorf(s, pointer, "has %d elements, no element %d", len(v.Elems), i)
		}
		p = place{parent: v, index: i}
	default:
		return nil // nothing lies below a scalar; yq passes it over
	}
	p.pointer = pointer + "/" + jsondoc.EscapePointer(token)
	if last {
		return visit(p)
	}
	child := p.get()
	if child == nil {
		if !create {
			return nil
		}
		child = &jsondoc.Value{}
		p.set(child)
	}
	return a.walk(child, s, at+1, p.pointer, create, visit)
}

func (a *applier) walkAll(v *jsondoc.Value, s Step, at int, pointer string, create bool, visit func(place) error) error {
	if v.Kind == jsondoc.Null {
		// yq makes a list of a null it looks into, whatever the operation.
		*v = jsondoc.Value{Kind: jsondoc.Array}
	}
	n := len(v.Elems)
	if v.Kind == jsondoc.Object {
		n = len(v.Members)
	}
	filter := len(s.Where) > 0 && !s.Op.filters() && lastStar(s.tokens) == at
	// Backwards, so that visit may delete the place it gets.
	for i := n - 1; i >= 0; i-- {
		p := place{parent: v, index: i, pointer: indexPointer(pointer, i)}
		if v.Kind == jsondoc.Object {
			p.pointer = pointer + "/" + jsondoc.EscapePointer(v.Members[i].Key)
		}
		if filter {
			ok, err := a.matches(s, p.get(), p.pointer)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
		}
		var err error
		if at == len(s.tokens)-1 {
			err = visit(p)
		} else {
			err = a.walk(p.get(), s, at+1, p.pointer, create, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func lastStar(tokens []string) int {
	for i := len(tokens) - 1; i >= 0; i-- {
		if tokens[i] == "*" {
			return i
		}
	}
	return -1
}

// matches evaluates where on one element.
func (a *applier) matches(s Step, v *jsondoc.Value, pointer string) (bool, error) {
	if err := a.count(1, s); err != nil {
		return false, err
	}
	if v.Kind == jsondoc.Array {
		return false, a.errorf(s, pointer, "is a list: it has no field %s", quote(s.Where[0].Field))
	}
	for _, c := range s.Where {
		field := v.Get(c.Field)
		if c.Equal == nil {
			if field != nil && (field.Kind == jsondoc.Array || field.Kind == jsondoc.Object) {
				return false, a.errorf(s, pointer+"/"+jsondoc.EscapePointer(c.Field), "is %s: only text can contain %s", describe(field), quote(c.Contains))
			}
			if field == nil || field.Kind != jsondoc.String || !strings.Contains(field.Text, c.Contains) {
				return false, nil
			}
			continue
		}
		if !equalScalar(field, c.Equal) {
			return false, nil
		}
	}
	return true, nil
}

// equalScalar compares as yq's == does, by text: 1 equals "1". An absent field
// is null. The wildcards that yq allows on the right are plain characters here.
func equalScalar(v, want *jsondoc.Value) bool {
	if want.Kind == jsondoc.Null || v.IsNull() {
		return want.Kind == jsondoc.Null && v.IsNull()
	}
	a, ok := scalarText(v)
	b, _ := scalarText(want)
	return ok && a == b
}

func scalarText(v *jsondoc.Value) (string, bool) {
	switch v.Kind {
	case jsondoc.String, jsondoc.Number:
		return v.Text, true
	case jsondoc.Bool:
		return strconv.FormatBool(v.Bool), true
	default:
		return "", false
	}
}
