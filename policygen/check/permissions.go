package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// Verdict is what a policy's rules say to a kind of request, before one is made.
type Verdict string

// The verdicts.
const (
	Always        Verdict = "always"         // allowed, whatever the request holds
	Never         Verdict = "never"          // refused, whatever the request holds
	Conditions    Verdict = "conditions"     // allowed if one of the conditions holds
	Unless        Verdict = "unless"         // allowed unless one of the conditions holds
	Data          Verdict = "data"           // as the policy's data says: the rules are our own
	NotUnderstood Verdict = "not understood" // depends on the request in a way that is not described here
)

// Permission is what a policy's rules say to one kind of request.
type Permission struct {
	Kind string `json:"kind"`
	// Means says in words what such a request does, "" for one that neither
	// starts code nor reads or changes what a container holds.
	Means   string  `json:"means,omitempty"`
	Verdict Verdict `json:"verdict"`
	// Conditions in words, each of them enough.
	Conditions []string `json:"conditions,omitempty"`
	Lines      []int    `json:"lines,omitempty"` // of the rules of that name, from 1
	Why        string   `json:"why,omitempty"`   // why it is not understood, or is never allowed
}

// Permissions are what a policy's rules permit.
type Permissions struct {
	// Everything is set by AllowRequestsFailingPolicy: the agent then allows what
	// the rules deny (kata-containers, src/agent/policy).
	Everything bool         `json:"everything"`
	Kinds      []Permission `json:"kinds"`
	// Notes say what holds for the text as a whole.
	Notes []string `json:"notes,omitempty"`
}

// A kindOfRequest is one that the agent asks its policy about.
type kindOfRequest struct{ name, means string }

// requestKinds are those of kata's agent (src/libs/protocols/protos/agent.proto,
// service AgentService), with what they do where that matters to a tenant.
func requestKinds() []kindOfRequest {
	return []kindOfRequest{
		{"CreateContainerRequest", "the host may create containers of any image, command and mount"},
		{"ExecProcessRequest", "the host may run any command in every container"},
		{"CopyFileRequest", "the host may write any file into the guest"},
		{"SetPolicyRequest", "the host may replace this policy by another"},
		{"ReadStreamRequest", "the host may read standard output and error"},
		{"WriteStreamRequest", "the host may write to standard input"},
		{"CloseStdinRequest", "the host may close standard input"},
		{"CreateSandboxRequest", "the host may set up the pod with any hook, module and storage"},
		{"PullImageRequest", "the host may make the guest pull any image"},
		{"UpdateContainerRequest", "the host may change the resources of containers"},
		{"UpdateEphemeralMountsRequest", "the host may change the size of memory volumes"},
		{"GetDiagnosticDataRequest", "the host may read diagnostic data of the guest"},
		{"UpdateRoutesRequest", "the host may set any route"},
		{"UpdateInterfaceRequest", "the host may set any network address"},
		{"AddARPNeighborsRequest", "the host may set any network neighbor"},
		{"SetIPTablesRequest", "the host may set any packet filter rule"},
		{"GetIPTablesRequest", "the host may read the packet filter rules"},
		{"ListInterfacesRequest", "the host may read the network interfaces"},
		{"ListRoutesRequest", "the host may read the routes"},
		{"AddSwapRequest", "the host may give the guest a swap device, which it can read"},
		{"AddSwapPathRequest", "the host may give the guest a swap device, which it can read"},
		{"MemHotplugByProbeRequest", "the host may plug in memory at any address"},
		{"ReseedRandomDevRequest", "the host may seed the random number generator"},
		{"SetGuestDateTimeRequest", "the host may set the clock"},
		{"StartTracingRequest", "the host may have what the agent does traced"},
		{"StopTracingRequest", ""},
		{"PauseContainerRequest", "the host may stop a container for any time"},
		{"ResumeContainerRequest", ""},
		{"ResizeVolumeRequest", "the host may resize volumes"},
		{"VolumeStatsRequest", "the host may read how full volumes are"},
		{"MemAgentMemcgSetRequest", "the host may set how memory is reclaimed"},
		{"MemAgentCompactSetRequest", "the host may set how memory is compacted"},
		{"GetMetricsRequest", ""},
		{"GetOOMEventRequest", ""},
		{"GuestDetailsRequest", ""},
		{"OnlineCPUMemRequest", ""},
		{"DestroySandboxRequest", ""},
		{"RemoveContainerRequest", ""},
		{"RemoveStaleVirtiofsShareMountsRequest", ""},
		{"SignalProcessRequest", ""},
		{"StartContainerRequest", ""},
		{"StatsContainerRequest", ""},
		{"TtyWinResizeRequest", ""},
		{"WaitProcessRequest", ""},
	}
}

const (
	agentPackage  = "agent_policy"
	allowFailures = "AllowRequestsFailingPolicy"
	// mostRules bounds the rules behind one whose conditions are looked for, and
	// mostConditions what is described of it: more is nothing to read.
	mostRules      = 24
	mostConditions = 8
)

// Permitted says what a policy's rules permit, from the text alone: which
// requests its defaults and rules allow whatever they hold, which never, and for
// the others under which conditions, or that they are not understood. A text that
// no guest can use is an error.
func Permitted(ctx context.Context, name string, text []byte) (*Permissions, error) {
	p, err := Parse(name, text)
	if err != nil {
		return nil, err
	}
	r := &reader{policy: p, module: p.compiled.Modules[name], name: name, out: &Permissions{}}
	if p.old {
		r.note(oldRego)
	}
	path := r.module.Package.Path // data, then the names
	if first := pathName(path, 1); first != agentPackage {
		r.note("the package is %s and the agent asks %s: it finds no answer and refuses every request", strings.TrimPrefix(path.String(), "data."), agentPackage)
	}
	if r.out.Everything, err = p.everything(ctx); err != nil {
		return nil, err
	}
	own := r.isOwn(text)
	for _, k := range r.kinds() {
		one, err := r.permission(ctx, k, own)
		if err != nil {
			return nil, err
		}
		r.out.Kinds = append(r.out.Kinds, one)
	}
	return r.out, nil
}

type reader struct {
	policy *Policy
	module *ast.Module
	name   string
	out    *Permissions
}

func (r *reader) note(format string, args ...any) {
	r.out.Notes = append(r.out.Notes, fmt.Sprintf(format, args...))
}

// isOwn reports whether the rules are those of this program.
func (r *reader) isOwn(text []byte) bool {
	data, err := policygen.SplitPolicy(text)
	if err != nil {
		return false
	}
	for _, b := range []rules.Binding{rules.Annotation, rules.GuestPull, rules.Off} {
		if own, err := rules.Default(b); err == nil && string(own.Text) == string(data.Rules) {
			return true
		}
	}
	return false
}

// pathName is a name of a package's path, "" where it has none there.
func pathName(path ast.Ref, i int) string {
	if i < len(path) {
		if s, ok := path[i].Value.(ast.String); ok {
			return string(s)
		}
	}
	return ""
}

// kinds are the known ones and those that the text has rules for.
func (r *reader) kinds() []kindOfRequest {
	list := requestKinds()
	add := func(name string) {
		if strings.HasSuffix(name, "Request") && isName(name) && !slices.ContainsFunc(list, func(k kindOfRequest) bool { return k.name == name }) {
			list = append(list, kindOfRequest{name, "the host may make this request, which is not known here"})
		}
	}
	for _, rule := range r.module.Rules {
		add(ruleName(rule))
	}
	add(pathName(r.module.Package.Path, 2))
	return list
}

func ruleName(r *ast.Rule) string {
	ref := r.Head.Ref()
	if len(ref) == 0 {
		return ""
	}
	switch v := ref[0].Value.(type) {
	case ast.Var:
		return string(v)
	case ast.String:
		return string(v)
	}
	return ""
}

// rulesOf are the rules that make up the agent's answer to a kind.
func (r *reader) rulesOf(kind string) []*ast.Rule {
	path := r.module.Package.Path
	if pathName(path, 1) != agentPackage {
		return nil
	}
	var list []*ast.Rule
	for _, rule := range r.module.Rules {
		if len(path) > 2 && pathName(path, 2) == kind || len(path) == 2 && ruleName(rule) == kind {
			list = append(list, rule)
		}
	}
	return list
}

func (r *reader) permission(ctx context.Context, k kindOfRequest, own bool) (Permission, error) {
	out := Permission{Kind: k.name, Means: k.means}
	list := r.rulesOf(k.name)
	for _, rule := range list {
		if l := rule.Location; l != nil && !slices.Contains(out.Lines, l.Row) {
			out.Lines = append(out.Lines, l.Row)
		}
	}
	slices.Sort(out.Lines)
	if len(list) == 0 {
		out.Verdict, out.Why = Never, "no rule: the agent refuses what the policy has no answer to"
		return out, nil
	}
	behind, n := r.closure(list)
	if n == (need{}) {
		return out, r.settled(ctx, &out)
	}
	if own {
		out.Verdict = Data
		return out, nil
	}
	out.Verdict, out.Why = NotUnderstood, "depends on the request"
	if n.other {
		out.Why = "asks for data that is not in the text"
	}
	switch def, rest := answers(list); {
	case def == rest && def != "":
		out.Verdict, out.Why = Verdict(def), "" // no rule has another answer
		return out, nil
	case def == string(Always):
		out.Why += "; allowed where no rule says no"
	}
	if n.other || behind > mostRules || len(r.module.Package.Path) > 2 {
		return out, nil
	}
	return out, r.conditions(ctx, &out, list)
}

// closure counts the rules behind some and says what they need that is known only
// when a request is made: the request, the state that earlier ones left, or
// anything else that the text does not define.
func (r *reader) closure(list []*ast.Rule) (behind int, n need) {
	defined := map[string]bool{}
	for _, rule := range r.module.Rules {
		defined[ruleName(rule)] = true
	}
	seen := map[*ast.Rule]bool{}
	var visit func(rule *ast.Rule)
	visit = func(rule *ast.Rule) {
		if seen[rule] {
			return
		}
		seen[rule] = true
		r.needs(rule, defined, &n)
		for dep := range r.policy.compiled.Graph.Dependencies(rule) {
			if next, ok := dep.(*ast.Rule); ok {
				visit(next)
			}
		}
	}
	for _, rule := range list {
		visit(rule)
	}
	return len(seen), n
}

// A need is what an answer rests on beside the text.
type need struct{ request, other bool }

func (r *reader) needs(rule *ast.Rule, defined map[string]bool, n *need) {
	own := r.module.Package.Path
	var walk func(t *ast.Term) bool
	walk = func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			n.request = n.request || v.Equal(ast.InputRootDocument.Value)
			n.other = n.other || v.Equal(ast.DefaultRootDocument.Value)
		case ast.Ref:
			if len(v) == 0 {
				return true
			}
			switch {
			case v[0].Equal(ast.InputRootDocument):
				n.request = true
			case !v[0].Equal(ast.DefaultRootDocument):
				ast.WalkTerms(v[0], walk)
			case pathName(v, 1) == "pstate":
				n.request = true // what earlier requests left
			case !v.HasPrefix(own) || !defined[pathName(v, len(own))]:
				n.other = true
			}
			for _, part := range v[1:] {
				ast.WalkTerms(part, walk)
			}
			return true
		}
		return false
	}
	ast.WalkTerms(rule, walk)
}

// answers gives the verdict of a kind's default and that which all its other
// rules have, as far as both are written out; "" elsewhere.
func answers(list []*ast.Rule) (def, rest string) {
	verdict := func(t *ast.Term) string {
		if t == nil {
			return string(Always)
		}
		value, err := ast.JSON(t.Value)
		if err != nil || !settledAnswer(t) {
			return ""
		}
		if allows(value) {
			return string(Always)
		}
		return string(Never)
	}
	first := true
	for _, rule := range list {
		if len(rule.Head.Ref()) != 1 || rule.Head.RuleKind() != ast.SingleValue || len(rule.Head.Args) > 0 {
			return "", ""
		}
		if rule.Default {
			def = verdict(rule.Head.Value)
			continue
		}
		for ; rule != nil; rule = rule.Else {
			v := verdict(rule.Head.Value)
			if !first && v != rest {
				v = ""
			}
			if rest, first = v, false; v == "" {
				return def, ""
			}
		}
	}
	return def, rest
}

// settled asks for an answer that no request changes.
func (r *reader) settled(ctx context.Context, out *Permission) error {
	answer, err := r.policy.query(ctx, r.policy.compiled, "data."+agentPackage+"."+out.Kind, map[string]any{})
	var limit *LimitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &limit):
		out.Verdict, out.Why = NotUnderstood, limit.Error()
	case err != nil:
		out.Verdict, out.Why = Never, "its rules have no answer: "+err.Error()
	case allows(answer):
		out.Verdict = Always
	default:
		out.Verdict = Never
	}
	return nil
}

// allows is how the agent reads an answer.
func allows(answer any) bool {
	switch a := answer.(type) {
	case bool:
		return a
	case map[string]any:
		allowed, _ := a["allowed"].(bool)
		return allowed
	}
	return false
}

// conditions looks for what a request must hold, with the request unknown.
func (r *reader) conditions(ctx context.Context, out *Permission, list []*ast.Rule) error {
	open, hasDefault := false, false
	for _, rule := range list {
		if len(rule.Head.Ref()) != 1 || rule.Head.RuleKind() != ast.SingleValue || len(rule.Head.Args) > 0 {
			return nil
		}
		if rule.Default {
			value, err := ast.JSON(rule.Head.Value.Value)
			if err != nil {
				return nil //nolint:nilerr // stays not understood
			}
			hasDefault, open = true, allows(value)
		}
	}
	// Without its default a rule is its conditions.
	compiled, _, err := compile(r.name, r.policy.text, func(m *ast.Module) {
		m.Rules = slices.DeleteFunc(m.Rules, func(rule *ast.Rule) bool { return rule.Default && ruleName(rule) == out.Kind })
	})
	if err != nil {
		return nil //nolint:nilerr // stays not understood
	}
	ref := "data." + agentPackage + "." + out.Kind
	// Where a value cannot be of a form, asking for it is an error.
	queries := []string{ref + " == true", ref + ".allowed == true"}
	if hasDefault && open {
		queries = []string{"x := " + ref + "; x == false", "x := " + ref + "; x.allowed == false"}
		for _, rule := range list {
			// Any other value is a refusal too, which these queries do not find.
			if !settledAnswer(rule.Head.Value) {
				return nil
			}
		}
	}
	switch flags, objects := valueForms(list); {
	case !objects:
		queries = queries[:1]
	case !flags:
		queries = queries[1:]
	}
	var found []string
	for _, q := range queries {
		some, always, ok, err := r.partial(ctx, compiled, q)
		if err != nil || !ok {
			return err
		}
		if always {
			out.Verdict, out.Why = Always, ""
			if open {
				out.Verdict = Never
			}
			return nil
		}
		found = append(found, some...)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	switch {
	case len(found) > mostConditions:
		return nil
	case len(found) == 0 && open:
		out.Verdict = Always
	case len(found) == 0:
		out.Verdict = Never
	case open:
		out.Verdict = Unless
	default:
		out.Verdict = Conditions
	}
	out.Conditions, out.Why = found, ""
	return nil
}

// valueForms reports whether rules beside the default have values that may be
// true or false, and ones that may be objects.
func valueForms(list []*ast.Rule) (flags, objects bool) {
	for _, rule := range list {
		if rule.Default {
			continue
		}
		for ; rule != nil; rule = rule.Else {
			switch {
			case rule.Head.Value == nil:
				flags = true
			default:
				switch rule.Head.Value.Value.(type) {
				case ast.Boolean:
					flags = true
				case ast.Object:
					objects = true
				default:
					flags, objects = true, true
				}
			}
		}
	}
	return flags, objects
}

// settledAnswer reports a value that is written out as true or false.
func settledAnswer(t *ast.Term) bool {
	if t == nil {
		return true // true by itself
	}
	value, err := ast.JSON(t.Value)
	if err != nil {
		return false
	}
	switch a := value.(type) {
	case bool:
		return true
	case map[string]any:
		_, ok := a["allowed"].(bool)
		return ok
	}
	return false
}

// partial evaluates with the request and the state unknown. ok is false where
// what is left cannot be put into words.
func (r *reader) partial(ctx context.Context, c *ast.Compiler, query string) (found []string, always, ok bool, err error) {
	limited, stop := r.policy.Limits.limited(ctx)
	defer stop()
	left, err := rego.New(
		rego.Query(query), rego.Compiler(c), rego.Store(r.policy.store), rego.Unknowns([]string{"input", "data.pstate"}),
		rego.SetRegoVersion(ast.RegoV1),
	).Partial(limited)
	if ctx.Err() != nil {
		return nil, false, false, ctx.Err()
	}
	if err != nil || len(left.Support) > 0 {
		return nil, false, false, nil //nolint:nilerr // not understood, which is an answer
	}
	for _, body := range left.Queries {
		if len(body) == 0 {
			return nil, true, true, nil
		}
		text, ok := bodyWords(body)
		if !ok {
			return nil, false, false, nil
		}
		found = append(found, text)
	}
	return found, false, true, nil
}

// bodyWords puts conditions that all must hold into words.
func bodyWords(body ast.Body) (string, bool) {
	var words []string
	elements := map[ast.Var]int{}
	for _, e := range body {
		text, ok := exprWords(e, elements)
		if !ok {
			return "", false
		}
		words = append(words, text)
	}
	for _, n := range elements {
		if n > 1 {
			return "", false // two conditions on one element
		}
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " and "), len(words) <= mostConditions
}

func exprWords(e *ast.Expr, elements map[ast.Var]int) (string, bool) {
	if e.Negated || len(e.With) > 0 {
		return "", false
	}
	if t, ok := e.Terms.(*ast.Term); ok {
		name, ok := refWords(t, elements)
		return name + " is there and not false", ok
	}
	if !e.IsCall() || len(e.Operands()) != 2 {
		return "", false
	}
	a, b := e.Operand(0), e.Operand(1)
	verb, swapped := "", ""
	switch e.Operator().String() {
	case "eq", "equal":
		verb, swapped = "is", "is"
	case "neq":
		verb, swapped = "is not", "is not"
	case "startswith":
		verb = "starts with"
	case "endswith":
		verb = "ends with"
	case "contains":
		verb = "contains"
	case "internal.member_2":
		verb, swapped = "is one of", "holds"
	case "regex.match":
		swapped = "matches"
	case "lt":
		verb, swapped = "is below", "is above"
	case "gt":
		verb, swapped = "is above", "is below"
	case "lte":
		verb, swapped = "is at most", "is at least"
	case "gte":
		verb, swapped = "is at least", "is at most"
	}
	if name, ok := refWords(a, elements); ok && verb != "" && b.IsGround() && isConstant(b) {
		return name + " " + verb + " " + b.String(), true
	}
	if name, ok := refWords(b, elements); ok && swapped != "" && isConstant(a) {
		return name + " " + swapped + " " + a.String(), true
	}
	return "", false
}

func isConstant(t *ast.Term) bool { return ast.IsConstant(t.Value) }

// refWords is a part of the request by its path.
func refWords(t *ast.Term, elements map[ast.Var]int) (string, bool) {
	ref, ok := t.Value.(ast.Ref)
	if !ok || len(ref) < 2 || !ref[0].Equal(ast.InputRootDocument) {
		return "", false
	}
	var b strings.Builder
	for i, part := range ref[1:] {
		switch v := part.Value.(type) {
		case ast.String:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(string(v))
		case ast.Number:
			fmt.Fprintf(&b, "[%s]", v)
		case ast.Var:
			elements[v]++
			b.WriteString("[any]")
		default:
			return "", false
		}
	}
	return b.String(), true
}

// everything reports whether the policy lets the agent allow what its rules deny.
func (p *Policy) everything(ctx context.Context) (bool, error) {
	if p.failures != nil {
		return *p.failures, nil
	}
	// The agent asks once, with an empty request, when it gets the policy; an
	// answer that it cannot read is none.
	answer, err := p.query(ctx, p.compiled, "data."+agentPackage+"."+allowFailures, map[string]any{})
	var limit *LimitError
	if ctx.Err() != nil || errors.As(err, &limit) {
		return false, err
	}
	yes := err == nil && allows(answer)
	p.failures = &yes
	return yes, nil
}
