package manifest

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// maxTouched bounds the values that one Apply may visit or add, so that a
// small plan cannot blow up a small manifest.
const maxTouched = 2_000_000

// Result is an edited manifest.
type Result struct {
	Tree  *jsondoc.Value
	Bytes []byte // as yq v4.45.1 prints it: two spaces, <>& raw, a final line feed
	Steps []StepResult
}

// Warnings lists the warnings of all steps, each with its line in the plan.
func (r *Result) Warnings() []string {
	var out []string
	for _, s := range r.Steps {
		if s.Warning != "" {
			out = append(out, fmt.Sprintf("line %d: %s %s: %s", s.Line, s.Op, s.Path, s.Warning))
		}
	}
	return out
}

// StepResult says what a step did.
type StepResult struct {
	Index int // from 0
	Op    string
	Path  string
	Where string // the conditions as text, "" if there are none
	// Places is the number of values set, lists extended, members deleted,
	// elements removed, and for keep of elements kept.
	Places  int
	Created int    // of those, values that did not exist before
	Warning string // "" if the step did what one would expect
	Line    int    // in the plan
}

// Apply edits a manifest. The input may be any JSON object that yq would take;
// it is not modified. Every declared and used variable must have a value; an
// empty one is taken, with a warning, as long as no whole value becomes empty
// by it (the public scripts stop half way through the file there; Apply
// returns an error and no result).
//
// Text stays text: where the scripts pass a value through yq's env(), which
// reads it as YAML, and that would give something other than the text, the
// step has a warning.
func (p *Plan) Apply(in []byte, vars map[string]string) (*Result, error) {
	tree, err := parseJSON("manifest", in)
	if err != nil {
		return nil, err
	}
	return p.ApplyTree(tree, vars)
}

// ApplyTree is Apply for a parsed manifest.
func (p *Plan) ApplyTree(tree *jsondoc.Value, vars map[string]string) (*Result, error) {
	if tree == nil || tree.Kind != jsondoc.Object {
		return nil, &Error{File: "manifest", Msg: "want an object, found " + describe(tree)}
	}
	if err := p.checkVariables(vars); err != nil {
		return nil, err
	}
	a := &applier{plan: p, vars: vars}
	// Everything that depends on variables alone is checked before the first
	// edit.
	steps := make([]Step, len(p.steps))
	var errs []error
	for i, s := range p.steps {
		out, err := a.expandStep(s)
		if err != nil {
			errs = append(errs, err)
		}
		steps[i] = out
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	root := tree.Clone()
	if err := normalizeNumbers(root, ""); err != nil {
		return nil, err
	}
	res := &Result{Tree: root}
	for i, s := range steps {
		r, err := a.step(root, s)
		if err != nil {
			return nil, err
		}
		r.Index = i
		if w := a.variableWarning(p.steps[i], s); w != "" {
			r.Warning = strings.TrimPrefix(r.Warning+"; "+w, "; ")
		}
		res.Steps = append(res.Steps, r)
	}
	res.Bytes = jsondoc.YQ.Format(root)
	return res, nil
}

func (p *Plan) checkVariables(vars map[string]string) error {
	var errs []error
	for _, name := range p.UsedVariables() {
		if _, ok := vars[name]; !ok {
			v := p.vars[name]
			errs = append(errs, &yamldoc.Error{
				File: p.file, Line: v.Line, Path: "variables." + name, Msg: "no value is given",
				Hint: fmt.Sprintf("from a %s (%s of %s), or --var %s=VALUE", v.From, v.Field, v.Name, name),
			})
		}
	}
	var unknown []string
	for name, value := range vars {
		if !utf8.ValidString(value) {
			errs = append(errs, &yamldoc.Error{File: p.file, Msg: fmt.Sprintf("the value of variable %s is not UTF-8", quote(name))})
		}
		if _, ok := p.vars[name]; !ok {
			unknown = append(unknown, name)
		}
	}
	sort.Strings(unknown)
	for _, name := range unknown {
		hint := "the plan declares none"
		if len(p.names) > 0 {
			hint = nearHint(name, p.names)
		}
		errs = append(errs, &yamldoc.Error{File: p.file, Msg: fmt.Sprintf("variable %s is not declared", quote(name)), Hint: hint})
	}
	return errors.Join(errs...)
}

type applier struct {
	plan    *Plan
	vars    map[string]string
	touched int
}

// count charges n values to the budget.
func (a *applier) count(n int, s Step) error {
	a.touched += n
	if a.touched > maxTouched {
		return a.errorf(s, "", "the plan touches more than %d values", maxTouched)
	}
	return nil
}

func (a *applier) errorf(s Step, pointer, format string, args ...any) error {
	msg := fmt.Sprintf(format, args...)
	if pointer != "" {
		msg = pointer + ": " + msg
	}
	return &yamldoc.Error{File: a.plan.file, Line: s.Line, Path: string(s.Op) + " " + clip(s.Path), Msg: msg}
}

// expandStep replaces the variables of one step.
func (a *applier) expandStep(s Step) (Step, error) {
	var err error
	if s.Value != nil {
		s.Value = s.Value.Clone()
		err = a.expandValue(s, s.Value)
	}
	where := make([]Condition, len(s.Where))
	for i, c := range s.Where {
		if c.Equal != nil {
			c.Equal = c.Equal.Clone()
			if e := a.expandValue(s, c.Equal); e != nil {
				err = errors.Join(err, e)
			}
		}
		text, e := a.expand(s, c.Contains)
		c.Contains = text
		where[i] = c
		err = errors.Join(err, e)
	}
	s.Where = where
	return s, err
}

func (a *applier) expandValue(s Step, v *jsondoc.Value) error {
	var err error
	if v.Kind == jsondoc.String {
		v.Text, err = a.expand(s, v.Text)
	}
	for _, e := range v.Elems {
		err = errors.Join(err, a.expandValue(s, e))
	}
	for _, m := range v.Members {
		err = errors.Join(err, a.expandValue(s, m.Value))
	}
	return err
}

// maxText bounds a value after its variables are replaced.
const maxText = 64 << 10

func (a *applier) expand(s Step, text string) (string, error) {
	if !strings.Contains(text, "${") {
		return text, nil
	}
	var b strings.Builder
	for rest := text; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			break
		}
		end := i + strings.IndexByte(rest[i:], '}') // ParsePlan has checked that there is one
		b.WriteString(rest[:i])
		b.WriteString(a.vars[rest[i+2:end]])
		rest = rest[end+1:]
		if b.Len() > maxText {
			return "", a.errorf(s, "", "value %s has more than %d bytes with its variables replaced", quote(text), maxText)
		}
	}
	if b.Len() == 0 {
		return "", a.errorf(s, "", "value %s is empty with its variables replaced", quote(text))
	}
	return b.String(), nil
}

// variableWarning compares a step before and after its variables were
// replaced.
func (a *applier) variableWarning(before, after Step) string {
	var warnings []string
	seen := map[string]bool{}
	warn := func(text string) {
		if !seen[text] {
			seen[text] = true
			warnings = append(warnings, text)
		}
	}
	var compare func(b, v *jsondoc.Value)
	compare = func(b, v *jsondoc.Value) {
		if b == nil || v == nil {
			return
		}
		if b.Kind == jsondoc.String && strings.Contains(b.Text, "${") {
			names, _ := variablesIn(b.Text)
			for _, name := range names {
				if a.vars[name] == "" {
					warn("variable " + quote(name) + " is empty")
				}
			}
			if yamlReadsElse(v.Text) {
				warn(quote(v.Text) + " stays text here; yq's env() would read it as something else")
			}
		}
		for i := range b.Elems {
			compare(b.Elems[i], v.Elems[i])
		}
		for i := range b.Members {
			compare(b.Members[i].Value, v.Members[i].Value)
		}
	}
	compare(before.Value, after.Value)
	return strings.Join(warnings, "; ")
}

// yamlReadsElse reports whether YAML reads the text as a value other than that
// text. What is no YAML at all does not count: the scripts take such values
// ("*.name") as they are.
func yamlReadsElse(s string) bool {
	docs, err := yamldoc.Parse("", []byte(s), yamldoc.Limits{Bytes: maxText, Nodes: 100, Docs: 1})
	if err != nil || len(docs) != 1 {
		return false
	}
	text, ok := yamldoc.Text(docs[0])
	return !ok || text != s || docs[0].ShortTag() != "!!str" && docs[0].ShortTag() != "!!timestamp"
}

// normalizeNumbers rewrites all numbers as yq does. A key that yq would lose
// is an error: "<<" is a merge key to it.
func normalizeNumbers(v *jsondoc.Value, pointer string) error {
	switch v.Kind {
	case jsondoc.Number:
		literal, err := yqNumber(v.Text)
		if err != nil {
			return &Error{File: "manifest", Pointer: pointer, Msg: err.Error()}
		}
		v.Text = literal
	case jsondoc.Array:
		for i, e := range v.Elems {
			if err := normalizeNumbers(e, indexPointer(pointer, i)); err != nil {
				return err
			}
		}
	case jsondoc.Object:
		for _, m := range v.Members {
			at := pointer + "/" + jsondoc.EscapePointer(m.Key)
			if m.Key == mergeKey {
				return &Error{File: "manifest", Pointer: at, Msg: `member "<<" would be lost: yq takes it for a merge key`}
			}
			if err := normalizeNumbers(m.Value, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *applier) step(root *jsondoc.Value, s Step) (StepResult, error) {
	r := StepResult{Op: string(s.Op), Path: s.Path, Where: whereText(s.Where), Line: s.Line}
	size := countValues(s.Value)
	create := s.Op != OpDelete && s.Op != OpRemove
	err := a.walk(root, s, 0, "", create, func(p place) error {
		if err := a.count(size, s); err != nil {
			return err
		}
		switch s.Op {
		case OpSet:
			if p.index < 0 {
				r.Created++
			}
			p.set(s.Value.Clone())
			r.Places++
		case OpAppend, OpPrepend:
			return a.extend(p, s, &r)
		case OpDelete:
			if p.index >= 0 {
				// The tail is moved; without the charge, deleting half of a
				// long list would take quadratic time.
				if err := a.count(len(p.parent.Elems)+len(p.parent.Members)-p.index, s); err != nil {
					return err
				}
				p.remove()
				r.Places++
			}
		case OpKeep, OpRemove:
			return a.filter(p, s, &r)
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	if r.Places == 0 && r.Warning == "" {
		r.Warning = noPlace(s)
	}
	return r, nil
}

func noPlace(s Step) string {
	switch {
	case s.Op == OpDelete:
		return "nothing was there to delete"
	case s.Op == OpKeep:
		return "no element has " + whereText(s.Where) + ": the list is empty now"
	case len(s.Where) > 0:
		return "no element has " + whereText(s.Where)
	default:
		return "the path names nothing in this manifest"
	}
}

func (a *applier) extend(p place, s Step, r *StepResult) error {
	list := p.get()
	switch {
	case list == nil:
		r.Created++
		fallthrough
	case list.Kind == jsondoc.Null:
		list = &jsondoc.Value{Kind: jsondoc.Array}
		p.set(list)
	case list.Kind != jsondoc.Array:
		return a.errorf(s, p.pointer, "want a list to %s to, found %s", s.Op, describe(list))
	}
	added := []*jsondoc.Value{s.Value.Clone()}
	if s.Value.Kind == jsondoc.Array {
		added = s.Value.Clone().Elems
	}
	if s.Op == OpAppend {
		list.Elems = append(list.Elems, added...)
	} else {
		if err := a.count(len(list.Elems), s); err != nil {
			return err
		}
		list.Elems = append(added, list.Elems...)
	}
	r.Places++
	return nil
}

// filter keeps or removes elements. A missing or null list becomes an empty
// one for keep, as `.a |= map(select(...))` makes it; remove leaves a missing
// one missing.
func (a *applier) filter(p place, s Step, r *StepResult) error {
	list := p.get()
	switch {
	case list == nil && s.Op == OpRemove:
		return nil
	case list.IsNull():
		if list == nil {
			r.Created++
		}
		p.set(&jsondoc.Value{Kind: jsondoc.Array})
		return nil
	case list.Kind != jsondoc.Array && list.Kind != jsondoc.Object:
		return a.errorf(s, p.pointer, "want a list, found %s", describe(list))
	}
	chosen := func(v *jsondoc.Value, pointer string) (bool, error) {
		ok, err := a.matches(s, v, pointer)
		if ok {
			r.Places++
		}
		return ok == (s.Op == OpKeep), err
	}
	var elems []*jsondoc.Value
	for i, e := range list.Elems {
		ok, err := chosen(e, indexPointer(p.pointer, i))
		if err != nil {
			return err
		}
		if ok {
			elems = append(elems, e)
		}
	}
	var kept []jsondoc.Member
	for _, m := range list.Members {
		ok, err := chosen(m.Value, p.pointer+"/"+jsondoc.EscapePointer(m.Key))
		if err != nil {
			return err
		}
		if ok {
			kept = append(kept, m)
		}
	}
	list.Elems, list.Members = elems, kept
	return nil
}

func countValues(v *jsondoc.Value) int {
	if v == nil {
		return 0
	}
	n := 1
	for _, e := range v.Elems {
		n += countValues(e)
	}
	for _, m := range v.Members {
		n += countValues(m.Value)
	}
	return n
}
