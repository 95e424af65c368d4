package policygen

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// applyPatch applies a JSON patch (RFC 6902) to doc and returns the new
// document. doc itself is changed on the way and must not be used afterwards.
func applyPatch(doc, patch *jsondoc.Value) (*jsondoc.Value, error) {
	if patch.Kind != jsondoc.Array {
		return nil, fmt.Errorf("a patch is an array of operations, found %s", patch.Kind)
	}
	if len(patch.Elems) > maxOperations {
		return nil, fmt.Errorf("%d operations, the limit is %d", len(patch.Elems), maxOperations)
	}
	budget := maxPatched
	for i, op := range patch.Elems {
		next, err := applyOperation(doc, op, &budget)
		if err != nil {
			return nil, fmt.Errorf("operation /%d: %w", i, err)
		}
		doc = next
	}
	return doc, nil
}

func member(v *jsondoc.Value, key string) *jsondoc.Value {
	for _, m := range v.Members {
		if m.Key == key {
			return m.Value
		}
	}
	return nil
}

func text(op *jsondoc.Value, key string) (string, error) {
	v := member(op, key)
	if v == nil {
		return "", fmt.Errorf("member %q is missing", key)
	}
	if v.Kind != jsondoc.String {
		return "", fmt.Errorf("member %q is a %s, want a string", key, v.Kind)
	}
	return v.Text, nil
}

// A patch that copies a document into itself doubles it with every operation,
// so operations and the values they create are bounded.
const (
	maxOperations = 10_000
	maxPatched    = 1_000_000
)

func applyOperation(doc, op *jsondoc.Value, budget *int) (*jsondoc.Value, error) {
	if op.Kind != jsondoc.Object {
		return nil, fmt.Errorf("found %s, want an object", op.Kind)
	}
	name, err := text(op, "op")
	if err != nil {
		return nil, err
	}
	path, err := text(op, "path")
	if err != nil {
		return nil, err
	}
	operand := member(op, "value")
	switch name {
	case "add", "replace", "test":
		if operand == nil {
			return nil, fmt.Errorf("%s %s: member \"value\" is missing", name, path)
		}
	case "move", "copy":
		from, err := text(op, "from")
		if err != nil {
			return nil, err
		}
		if operand, err = find(doc, from); err != nil {
			return nil, fmt.Errorf("%s from %s: %w", name, from, err)
		}
		if name == "move" {
			if strings.HasPrefix(path, from+"/") {
				return nil, fmt.Errorf("move %s into its own part %s", from, path)
			}
			if doc, err = edit(doc, from, removeAt, nil); err != nil {
				return nil, fmt.Errorf("move from %s: %w", from, err)
			}
		}
	case "remove":
	default:
		return nil, fmt.Errorf("unknown operation %q", name)
	}
	if operand != nil && name != "test" {
		if *budget -= count(operand); *budget < 0 {
			return nil, fmt.Errorf("the patch creates more than %d values", maxPatched)
		}
		operand = clone(operand)
	}
	switch name {
	case "test":
		var got *jsondoc.Value
		if got, err = find(doc, path); err == nil && !sameJSON(got, operand) {
			err = fmt.Errorf("value is %s, not %s", clip(compact(got)), clip(compact(operand)))
		}
	case "remove":
		doc, err = edit(doc, path, removeAt, nil)
	case "replace":
		doc, err = edit(doc, path, replaceAt, operand)
	default:
		doc, err = edit(doc, path, addAt, operand)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, path, err)
	}
	return doc, nil
}

func compact(v *jsondoc.Value) string { return string(jsondoc.Style{}.Compact(v)) }

// pointerTokens splits a JSON pointer (RFC 6901).
func pointerTokens(pointer string) ([]string, error) {
	if pointer == "" {
		return nil, nil
	}
	if pointer[0] != '/' {
		return nil, fmt.Errorf("pointer %q does not start with a slash", clip(pointer))
	}
	tokens := strings.Split(pointer[1:], "/")
	for i, t := range tokens {
		if rest := strings.NewReplacer("~0", "", "~1", "").Replace(t); strings.Contains(rest, "~") {
			return nil, fmt.Errorf("pointer %q: ~ must be followed by 0 or 1", clip(pointer))
		}
		tokens[i] = jsondoc.UnescapePointer(t)
	}
	return tokens, nil
}

// arrayIndex reads an array index: no sign, no leading zero, at most limit.
func arrayIndex(token string, limit int) (int, error) {
	i, err := strconv.Atoi(token)
	if err != nil || !allDigits(token) || len(token) > 1 && token[0] == '0' {
		return 0, fmt.Errorf("%q is no array index", clip(token))
	}
	if i > limit {
		return 0, fmt.Errorf("index %d is behind the end", i)
	}
	return i, nil
}

func step(v *jsondoc.Value, token string) (*jsondoc.Value, error) {
	switch v.Kind {
	case jsondoc.Object:
		if m := member(v, token); m != nil {
			return m, nil
		}
		return nil, fmt.Errorf("no member %q", clip(token))
	case jsondoc.Array:
		i, err := arrayIndex(token, len(v.Elems)-1)
		if err != nil {
			return nil, err
		}
		return v.Elems[i], nil
	}
	return nil, fmt.Errorf("a %s has no member %q", v.Kind, clip(token))
}

func find(doc *jsondoc.Value, pointer string) (*jsondoc.Value, error) {
	tokens, err := pointerTokens(pointer)
	if err != nil {
		return nil, err
	}
	for _, t := range tokens {
		if doc, err = step(doc, t); err != nil {
			return nil, err
		}
	}
	return doc, nil
}

type editKind uint8

const (
	addAt editKind = iota
	replaceAt
	removeAt
)

// edit changes the place that the pointer names.
func edit(doc *jsondoc.Value, pointer string, how editKind, with *jsondoc.Value) (*jsondoc.Value, error) {
	tokens, err := pointerTokens(pointer)
	if err != nil {
		return nil, err
	}
	if len(tokens) == 0 {
		if how == removeAt {
			return &jsondoc.Value{}, nil
		}
		return with, nil
	}
	owner := doc
	for _, t := range tokens[:len(tokens)-1] {
		if owner, err = step(owner, t); err != nil {
			return nil, err
		}
	}
	last := tokens[len(tokens)-1]
	switch owner.Kind {
	case jsondoc.Object:
		return doc, editMember(owner, last, how, with)
	case jsondoc.Array:
		return doc, editElem(owner, last, how, with)
	}
	return nil, fmt.Errorf("a %s has no member %q", owner.Kind, clip(last))
}

func editMember(owner *jsondoc.Value, key string, how editKind, with *jsondoc.Value) error {
	for i, m := range owner.Members {
		if m.Key != key {
			continue
		}
		if how == removeAt {
			owner.Members = append(owner.Members[:i:i], owner.Members[i+1:]...)
		} else {
			owner.Members[i].Value = with
		}
		return nil
	}
	if how != addAt {
		return fmt.Errorf("no member %q", clip(key))
	}
	owner.Members = append(owner.Members, jsondoc.Member{Key: key, Value: with})
	return nil
}

func editElem(owner *jsondoc.Value, token string, how editKind, with *jsondoc.Value) error {
	n := len(owner.Elems)
	if how == addAt && token == "-" {
		owner.Elems = append(owner.Elems, with)
		return nil
	}
	limit := n - 1
	if how == addAt {
		limit = n
	}
	i, err := arrayIndex(token, limit)
	if err != nil {
		return err
	}
	switch how {
	case addAt:
		owner.Elems = append(owner.Elems[:i:i], append([]*jsondoc.Value{with}, owner.Elems[i:]...)...)
	case replaceAt:
		owner.Elems[i] = with
	case removeAt:
		owner.Elems = append(owner.Elems[:i:i], owner.Elems[i+1:]...)
	}
	return nil
}

func count(v *jsondoc.Value) int {
	n := 1
	for _, e := range v.Elems {
		n += count(e)
	}
	for _, m := range v.Members {
		n += count(m.Value)
	}
	return n
}

// clone copies a tree, so that a patch that copies a value twice does not
// later change both.
func clone(v *jsondoc.Value) *jsondoc.Value {
	c := *v
	c.Elems = make([]*jsondoc.Value, len(v.Elems))
	for i, e := range v.Elems {
		c.Elems[i] = clone(e)
	}
	c.Members = make([]jsondoc.Member, len(v.Members))
	for i, m := range v.Members {
		m.Value = clone(m.Value)
		c.Members[i] = m
	}
	return &c
}

// sameJSON is equality as RFC 6902 section 4.6 defines it.
func sameJSON(a, b *jsondoc.Value) bool {
	if a.Kind != b.Kind || len(a.Elems) != len(b.Elems) || len(a.Members) != len(b.Members) {
		return false
	}
	switch a.Kind {
	case jsondoc.Bool:
		return a.Bool == b.Bool
	case jsondoc.String:
		return a.Text == b.Text
	case jsondoc.Number:
		return a.Text == b.Text || sameNumber(a.Text, b.Text)
	}
	for i := range a.Elems {
		if !sameJSON(a.Elems[i], b.Elems[i]) {
			return false
		}
	}
	for _, m := range a.Members {
		if other := member(b, m.Key); other == nil || !sameJSON(m.Value, other) {
			return false
		}
	}
	return true
}

// sameNumber compares integers exactly and everything else as doubles; an
// integer and a fraction are different, as they are to serde_json.
func sameNumber(a, b string) bool {
	x, okX := new(big.Int).SetString(a, 10)
	y, okY := new(big.Int).SetString(b, 10)
	if okX || okY {
		return okX && okY && x.Cmp(y) == 0
	}
	f, errF := strconv.ParseFloat(a, 64)
	g, errG := strconv.ParseFloat(b, 64)
	return errF == nil && errG == nil && f == g
}
