package manifest

import (
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// Bounds of a plan. The longest published one has 21 steps.
const (
	maxPlanBytes = 1 << 20
	maxSteps     = 1000
)

// mergeKey is a YAML merge key to yq, even in JSON; it does not write it back.
const mergeKey = "<<"

// A Plan is the list of edits that an operator makes to a generated manifest:
//
//	version: 1
//	variables:
//	  namespace: {from: deployment, kind: any, name: secret-service, field: metadata.namespace}
//	steps:
//	- op: keep
//	  path: /ReferenceValues/snp
//	  where: {CPUs: 1}
//	- op: append
//	  path: /Policies/*/SANs
//	  where: {WorkloadSecretID: {contains: secret-service}}
//	  value: secret-service-internal.${namespace}.svc.cluster.local
//
// Operations: set (a value), append and prepend (to a list; a list as value
// adds its elements), delete (the member or element), keep and remove (the
// elements of the list or object at path, by where). A path is a JSON pointer
// (RFC 6901) in which "*" stands for every element; where chooses among the
// elements at its last "*". Values of where are compared as text, so 1 also
// equals "1", as yq does; null equals an absent field.
type Plan struct {
	file     string
	names    []string // variables in file order
	vars     map[string]Variable
	steps    []Step
	warnings []string
}

// A Variable says where the value that a plan calls ${name} is found.
type Variable struct {
	From  string // "deployment", the only source known
	Kind  string // kind of the object, "" and "any" for every kind
	Name  string // metadata.name of the object
	Field string // dotted path, ["key"] for keys with dots
	Line  int
}

// FieldPath splits Field: metadata.labels["app.kubernetes.io/instance"] has
// three parts.
func (v Variable) FieldPath() ([]string, error) { return splitField(v.Field) }

// Op names an operation.
type Op string

// The operations.
const (
	OpSet     Op = "set"
	OpAppend  Op = "append"
	OpPrepend Op = "prepend"
	OpDelete  Op = "delete"
	OpKeep    Op = "keep"
	OpRemove  Op = "remove"
)

var ops = []string{string(OpSet), string(OpAppend), string(OpPrepend), string(OpDelete), string(OpKeep), string(OpRemove)}

func (o Op) hasValue() bool { return o == OpSet || o == OpAppend || o == OpPrepend }
func (o Op) filters() bool  { return o == OpKeep || o == OpRemove }

// A Step is one edit.
type Step struct {
	Op    Op
	Path  string
	Where []Condition    // all must hold
	Value *jsondoc.Value // with ${name} not yet replaced; nil for operations without value
	Line  int

	tokens []string
}

// A Condition compares one field of an element.
type Condition struct {
	Field    string
	Equal    *jsondoc.Value // a scalar; nil if Contains is meant
	Contains string
}

// String prints the condition, for instance `WorkloadSecretID contains "x"`.
func (c Condition) String() string {
	if c.Equal == nil {
		return c.Field + " contains " + quote(c.Contains)
	}
	if c.Equal.Kind == jsondoc.String {
		return c.Field + " = " + quote(c.Equal.Text)
	}
	return c.Field + " = " + string(jsondoc.YQ.Compact(c.Equal))
}

func whereText(where []Condition) string {
	parts := make([]string, len(where))
	for i, c := range where {
		parts[i] = c.String()
	}
	return strings.Join(parts, " and ")
}

// Variables returns the declared variables by name.
func (p *Plan) Variables() map[string]Variable {
	out := make(map[string]Variable, len(p.vars))
	for k, v := range p.vars {
		out[k] = v
	}
	return out
}

// VariableNames lists the declared variables in file order.
func (p *Plan) VariableNames() []string { return append([]string(nil), p.names...) }

// UsedVariables lists the variables that a value or a where needs, in order of
// declaration.
func (p *Plan) UsedVariables() []string {
	used := p.used()
	var out []string
	for _, n := range p.names {
		if used[n] {
			out = append(out, n)
		}
	}
	return out
}

// Steps returns the steps in order. The values must not be modified.
func (p *Plan) Steps() []Step { return append([]Step(nil), p.steps...) }

// Warnings names oddities of the plan itself: a variable that is not used, an
// empty list of steps.
func (p *Plan) Warnings() []string { return append([]string(nil), p.warnings...) }

// ParsePlan reads a plan strictly: an unknown key or operation, a bad pointer
// and a variable that is not declared are errors. All faults are reported
// together (errors.Join), each a *yamldoc.Error with line and column.
func ParsePlan(file string, data []byte) (*Plan, error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Bytes: maxPlanBytes, Nodes: 100_000, Depth: maxDepth, Docs: 1})
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 || docs[0] == nil {
		return nil, &yamldoc.Error{File: file, Msg: "the plan is empty", Hint: "it starts with version: 1"}
	}
	r := &planReader{file: file, plan: &Plan{file: file, vars: map[string]Variable{}}}
	r.document(docs[0])
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return r.plan, nil
}

type planReader struct {
	file string
	plan *Plan
	errs []error
}

func (r *planReader) fail(n *yaml.Node, path, hint, format string, args ...any) {
	if len(r.errs) >= 100 {
		return
	}
	e := yamldoc.Errorf(r.file, n, path, format, args...)
	e.Hint = hint
	r.errs = append(r.errs, e)
}

func nearHint(word string, known []string) string {
	if near := yamldoc.Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "known: " + strings.Join(known, ", ")
}

// fields returns the values of a mapping by key; unknown keys are reported.
func (r *planReader) fields(n *yaml.Node, path string, known ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		r.fail(n, path, "", "want a mapping with %s", strings.Join(known, ", "))
		return nil
	}
	out := map[string]*yaml.Node{}
	for _, p := range yamldoc.Pairs(n) {
		found := false
		for _, k := range known {
			found = found || k == p.Key.Value
		}
		if !found {
			r.fail(p.Key, path, nearHint(p.Key.Value, known), "unknown key %s", quote(p.Key.Value))
			continue
		}
		out[p.Key.Value] = p.Value
	}
	return out
}

// word reads a scalar that must be text.
func (r *planReader) word(n, parent *yaml.Node, path, key string, required bool) string {
	if n == nil {
		if required {
			r.fail(parent, path, "", "key %q is missing", key)
		}
		return ""
	}
	s, ok := yamldoc.Text(n)
	if !ok {
		r.fail(n, join(path, key), "", "want text")
	} else if s == "" && required {
		r.fail(n, join(path, key), "", "is empty")
	}
	return s
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (r *planReader) document(root *yaml.Node) {
	top := r.fields(root, "", "version", "variables", "steps")
	if top == nil {
		return
	}
	switch v, ok := yamldoc.Text(top["version"]); {
	case top["version"] == nil:
		r.fail(root, "", "", `key "version" is missing`)
	case !ok || v != "1":
		r.fail(top["version"], "version", "", "want 1, the only version of the format")
	}
	if vars := top["variables"]; !yamldoc.IsNull(vars) {
		r.variables(vars)
	}
	switch steps := top["steps"]; {
	case steps == nil:
		r.fail(root, "", "", `key "steps" is missing`)
	case yamldoc.IsNull(steps):
	case steps.Kind != yaml.SequenceNode:
		r.fail(steps, "steps", "", "want a list")
	case len(steps.Content) > maxSteps:
		r.fail(steps, "steps", "", "%d steps, the limit is %d", len(steps.Content), maxSteps)
	default:
		for i, n := range yamldoc.Elems(steps) {
			r.step(n, fmt.Sprintf("steps[%d]", i))
		}
	}
	if len(r.plan.steps) == 0 {
		r.plan.warnings = append(r.plan.warnings, "the plan has no steps: the manifest is only printed anew")
	}
	used := r.plan.used()
	for _, name := range r.plan.names {
		if !used[name] {
			r.plan.warnings = append(r.plan.warnings, fmt.Sprintf("line %d: variable %s is not used", r.plan.vars[name].Line, quote(name)))
		}
	}
}

func (r *planReader) variables(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "variables", "", "want a mapping from name to source")
		return
	}
	for _, p := range yamldoc.Pairs(n) {
		name, path := p.Key.Value, "variables."+clip(p.Key.Value)
		if !validName(name) {
			r.fail(p.Key, path, "", "variable name %s: want letters, digits, - and _, a letter first", quote(name))
			continue
		}
		f := r.fields(p.Value, path, "from", "kind", "name", "field")
		if f == nil {
			continue
		}
		v := Variable{
			From:  r.word(f["from"], p.Value, path, "from", true),
			Kind:  r.word(f["kind"], p.Value, path, "kind", false),
			Name:  r.word(f["name"], p.Value, path, "name", true),
			Field: r.word(f["field"], p.Value, path, "field", true),
			Line:  p.Key.Line,
		}
		if v.From != "" && v.From != "deployment" {
			r.fail(f["from"], path+".from", nearHint(v.From, []string{"deployment"}), "unknown source %s", quote(v.From))
		}
		if v.Field != "" {
			if _, err := splitField(v.Field); err != nil {
				r.fail(f["field"], path+".field", `for instance metadata.labels["app.kubernetes.io/name"]`, "%v", err)
			}
		}
		r.plan.names = append(r.plan.names, name)
		r.plan.vars[name] = v
	}
}

func validName(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func splitField(s string) ([]string, error) {
	var parts []string
	for rest := s; ; {
		if strings.HasPrefix(rest, "[") {
			end := strings.Index(rest, `"]`)
			if !strings.HasPrefix(rest, `["`) || end < 3 {
				return nil, fmt.Errorf(`field %s: "[" without a quoted key and "]"`, quote(s))
			}
			parts = append(parts, rest[2:end])
			rest = rest[end+2:]
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return nil, fmt.Errorf("field %s has an empty part", quote(s))
			}
			parts = append(parts, rest[:end])
			rest = rest[end:]
		}
		switch {
		case rest == "":
			return parts, nil
		case rest[0] == '.':
			rest = rest[1:]
		case rest[0] != '[':
			return nil, fmt.Errorf("field %s: want . or [ behind a part", quote(s))
		}
	}
}

func (r *planReader) step(n *yaml.Node, path string) {
	f := r.fields(n, path, "op", "path", "where", "value")
	if f == nil {
		return
	}
	s := Step{
		Op:   Op(r.word(f["op"], n, path, "op", true)),
		Path: r.word(f["path"], n, path, "path", true),
		Line: n.Line,
	}
	known := false
	for _, o := range ops {
		known = known || o == string(s.Op)
	}
	if !known && s.Op != "" {
		r.fail(f["op"], path+".op", nearHint(string(s.Op), ops), "unknown operation %s", quote(string(s.Op)))
	}
	if s.Path != "" {
		tokens, err := splitPointer(s.Path)
		if err != nil {
			r.fail(f["path"], path+".path", "for instance /ReferenceValues/snp/*/ProductName", "%v", err)
		}
		s.tokens = tokens
	}
	if known {
		r.shape(f, n, path, s)
	}
	if f["where"] != nil {
		s.Where = r.where(f["where"], path+".where")
	}
	if f["value"] != nil && s.Op.hasValue() {
		s.Value = r.value(f["value"], path+".value", 0)
	}
	r.plan.steps = append(r.plan.steps, s)
}

// shape checks which keys go with the operation.
func (r *planReader) shape(f map[string]*yaml.Node, n *yaml.Node, path string, s Step) {
	switch {
	case s.Op.hasValue() && f["value"] == nil:
		r.fail(n, path, "", `operation %q needs a "value"`, s.Op)
	case !s.Op.hasValue() && f["value"] != nil:
		r.fail(f["value"], path+".value", "", "operation %q takes no value", s.Op)
	}
	if s.Op.filters() {
		if f["where"] == nil {
			r.fail(n, path, "", `operation %q needs a "where"`, s.Op)
		}
		return
	}
	wild := false
	for _, t := range s.tokens {
		wild = wild || t == "*"
	}
	if f["where"] != nil && !wild && s.Path != "" {
		r.fail(f["where"], path+".where", "", `"where" chooses among elements, but the path has no "*"`)
	}
}

// splitPointer splits a JSON pointer and leaves its tokens unescaped, except
// for "*", which stands for every element.
func splitPointer(s string) ([]string, error) {
	if !strings.HasPrefix(s, "/") {
		return nil, fmt.Errorf("path %s does not start with /", quote(s))
	}
	if strings.Contains(s, "${") {
		return nil, fmt.Errorf("path %s: variables are replaced in values only", quote(s))
	}
	tokens := strings.Split(s[1:], "/")
	if len(tokens) > maxDepth {
		return nil, fmt.Errorf("path has %d parts, the limit is %d", len(tokens), maxDepth)
	}
	for i, t := range tokens {
		if t == "" {
			return nil, fmt.Errorf("path %s has an empty part", quote(s))
		}
		for rest := t; ; {
			at := strings.IndexByte(rest, '~')
			if at < 0 {
				break
			}
			if at+1 >= len(rest) || rest[at+1] != '0' && rest[at+1] != '1' {
				return nil, fmt.Errorf("path %s: ~ must be written ~0, and / inside a name ~1", quote(s))
			}
			rest = rest[at+2:]
		}
		if t == mergeKey {
			return nil, fmt.Errorf("path %s: yq would lose the key %q", quote(s), mergeKey)
		}
		tokens[i] = jsondoc.UnescapePointer(t)
	}
	return tokens, nil
}

// used collects the variables that the steps name.
func (p *Plan) used() map[string]bool {
	used := map[string]bool{}
	mark := func(s string) {
		names, _ := variablesIn(s)
		for _, n := range names {
			used[n] = true
		}
	}
	for _, s := range p.steps {
		eachText(s.Value, mark)
		for _, c := range s.Where {
			eachText(c.Equal, mark)
			mark(c.Contains)
		}
	}
	return used
}

func eachText(v *jsondoc.Value, visit func(string)) {
	if v == nil {
		return
	}
	if v.Kind == jsondoc.String {
		visit(v.Text)
	}
	for _, e := range v.Elems {
		eachText(e, visit)
	}
	for _, m := range v.Members {
		eachText(m.Value, visit)
	}
}
