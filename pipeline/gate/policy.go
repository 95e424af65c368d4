// Package gate holds a written policy against a report before a release: which
// values must be known and how, what may be loosened, which differences are
// acknowledged, by whom and until when. It recounts nothing; what it denies
// becomes a problem of the report, so that every rendering shows it.
package gate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
)

// Limit bounds a policy file, in bytes.
const Limit = 1 << 20

// The rules. Without a policy all of them apply everywhere.
const (
	RuleDiffers    = "differs"      // a value is another than the published one
	RuleUnchecked  = "unchecked"    // a published value was not recounted
	RuleBasis      = "basis"        // a value is known in a weaker way than the policy demands
	RuleLoosened   = "loosened"     // accepts more than the release before, or than published
	RuleNewPolicy  = "new-policy"   // a workload that the release before did not let in
	RuleNewMachine = "new-machine"  // a machine that the release before did not accept
	RuleNewKey     = "new-key"      // an owner key that the release before did not have
	RuleDebug      = "debug"        // a guest may be debugged
	RuleTestRoot   = "test-root"    // evidence was judged under a test root
	RuleAge        = "evidence-age" // evidence is older than the policy takes
	RuleWarning    = "warning"      // something odd in an input
	RuleExpired    = "expired"      // an entry of the policy is past its term
	RuleUnused     = "unused"       // an entry of the policy that nothing needs
)

// permitted are the rules that a policy can give leave from, each with a term.
var permitted = []string{RuleUnchecked, RuleLoosened, RuleNewPolicy, RuleNewMachine, RuleNewKey, RuleTestRoot, RuleWarning}

// Policy is the policy file, in YAML.
type Policy struct {
	Version int `yaml:"version"`
	// Basis are demands on how values are known.
	Basis []Demand `yaml:"basis,omitempty"`
	// Evidence bounds the age of evidence.
	Evidence struct {
		// MaxAge is a number of days or hours: 30d, 12h.
		MaxAge string `yaml:"max_age,omitempty"`
	} `yaml:"evidence,omitempty"`
	// Permit gives leave from rules.
	Permit []Permit `yaml:"permit,omitempty"`
	// Known acknowledges differences, each with both its values.
	Known []Known `yaml:"known,omitempty"`

	file   string
	maxAge time.Duration
}

// A Demand says how the values of some keys must be known at least.
type Demand struct {
	Keys    string         `yaml:"keys"` // glob
	AtLeast pipeline.Basis `yaml:"at_least"`

	line int
}

// A Term says why an entry stands in the policy, who answers for it, and the
// last day on which it holds.
type Term struct {
	Reason  string `yaml:"reason"`
	Owner   string `yaml:"owner"`
	Expires string `yaml:"expires"` // 2027-01-31, the whole day, UTC

	last time.Time // the first moment after it
	line int
}

// A Permit gives leave from a rule.
type Permit struct {
	Rule string `yaml:"rule"`
	Keys string `yaml:"keys,omitempty"` // glob
	Code string `yaml:"code,omitempty"` // of rule warning: the problem's code
	File string `yaml:"file,omitempty"` // of rule warning: the file it is in
	Term `yaml:",inline"`
}

// Known is one acknowledged difference. An absent value is one side that has
// none.
type Known struct {
	Key  string  `yaml:"key"`
	Got  *string `yaml:"got,omitempty"`  // what was recounted
	Want *string `yaml:"want,omitempty"` // what is published
	Term `yaml:",inline"`
}

// KeyBytes stands for the whole published file: its two values are the digests
// of the expected and the published bytes.
const KeyBytes = "bytes"

// Strict is the policy of those who wrote none: everything published must match
// and be recounted, and nothing may be looser than before.
func Strict() *Policy { return &Policy{Version: 1} }

// Parse reads a policy strictly: an unknown field, a rule that is none, an entry
// without reason, owner or term is an error with its line.
func Parse(file string, data []byte) (*Policy, error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Bytes: Limit, Docs: 1})
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 || docs[0] == nil {
		return nil, &yamldoc.Error{File: file, Line: 1, Column: 1, Msg: "the policy is empty", Hint: "without a policy file everything must match; write at least version: 1"}
	}
	p := &Policy{file: file}
	if err := yamldoc.DecodeStrict(file, docs[0], p); err != nil {
		return nil, err
	}
	r := &reader{file: file, doc: docs[0]}
	if p.Version != 1 {
		return nil, r.fault(yamldoc.Get(docs[0], "version"), "version", "write version: 1", "policy version %d is not known", p.Version)
	}
	if p.Evidence.MaxAge != "" {
		if p.maxAge, err = parseAge(p.Evidence.MaxAge); err != nil {
			return nil, r.fault(yamldoc.Path(docs[0], "evidence", "max_age"), "evidence.max_age", "write days or hours: 30d, 12h", "%s", err)
		}
	}
	for i, n := range yamldoc.Elems(yamldoc.Get(docs[0], "basis")) {
		if err := r.demand(n, "basis["+strconv.Itoa(i)+"]", &p.Basis[i]); err != nil {
			return nil, err
		}
	}
	for i, n := range yamldoc.Elems(yamldoc.Get(docs[0], "permit")) {
		if err := r.permit(n, "permit["+strconv.Itoa(i)+"]", &p.Permit[i]); err != nil {
			return nil, err
		}
	}
	for i, n := range yamldoc.Elems(yamldoc.Get(docs[0], "known")) {
		if err := r.known(n, "known["+strconv.Itoa(i)+"]", p.Known[:i], &p.Known[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

type reader struct {
	file string
	doc  *yaml.Node
}

func (r *reader) fault(n *yaml.Node, path, hint, format string, args ...any) error {
	if n == nil {
		n = r.doc
	}
	e := yamldoc.Errorf(r.file, n, path, format, args...)
	e.Hint = hint
	return e
}

func (r *reader) glob(n *yaml.Node, path, glob string) error {
	if err := pipeline.ValidGlob(glob); err != nil {
		return r.fault(n, path, "for instance snp/**/MinimumTCB/*", "%s", err)
	}
	return nil
}

func (r *reader) demand(n *yaml.Node, path string, d *Demand) error {
	d.line = n.Line
	if d.AtLeast == 0 {
		return r.fault(n, path, "at_least: rebuilt, recomputed, replayed or endorsed", "at_least is missing")
	}
	if !d.AtLeast.Known() {
		return r.fault(yamldoc.Get(n, "at_least"), path+".at_least", "at_least: rebuilt, recomputed, replayed or endorsed", "%s is no demand: what was %s was not checked", d.AtLeast, d.AtLeast)
	}
	return r.glob(n, path+".keys", d.Keys)
}

func (r *reader) term(n *yaml.Node, path string, t *Term) error {
	t.line = n.Line
	for _, f := range []struct{ name, text string }{{"reason", t.Reason}, {"owner", t.Owner}, {"expires", t.Expires}} {
		if strings.TrimSpace(f.text) == "" {
			return r.fault(n, path, "every entry says why, who answers for it, and until when", "%s is missing", f.name)
		}
	}
	day, err := time.Parse(time.DateOnly, t.Expires)
	if err != nil {
		return r.fault(yamldoc.Get(n, "expires"), path+".expires", "write the last day, for instance 2027-01-31", "%q is no day", t.Expires)
	}
	t.last = day.AddDate(0, 0, 1)
	return nil
}

func (r *reader) permit(n *yaml.Node, path string, p *Permit) error {
	if !slices.Contains(permitted, p.Rule) {
		hint := "rules: " + strings.Join(permitted, ", ")
		if near := yamldoc.Nearest(p.Rule, permitted); near != "" {
			hint = "did you mean " + near + "?"
		}
		if p.Rule == RuleDiffers {
			hint = "name the difference with both its values under known"
		}
		return r.fault(yamldoc.Get(n, "rule"), path+".rule", hint, "no leave can be given from %q", p.Rule)
	}
	switch {
	case p.Rule == RuleWarning:
		if p.Code == "" || p.Keys != "" {
			return r.fault(n, path, "code: is what stands in the report's problems", "rule warning wants a code and no keys")
		}
	case p.Code != "" || p.File != "":
		return r.fault(n, path, "take it away", "code and file are of rule warning only")
	case p.Rule == RuleTestRoot:
		if p.Keys != "" {
			return r.fault(n, path, "take it away", "rule test-root has no keys")
		}
	default:
		if err := r.glob(n, path+".keys", p.Keys); err != nil {
			return err
		}
	}
	return r.term(n, path, &p.Term)
}

func (r *reader) known(n *yaml.Node, path string, before []Known, k *Known) error {
	if k.Key == "" || strings.ContainsAny(k.Key, "*?") {
		return r.fault(n, path, "one entry is one difference: its whole key, as the report has it", "%q is no key", k.Key)
	}
	if k.Got == nil && k.Want == nil {
		return r.fault(n, path, "got is what was recounted, want what is published; leave out one only where that side has none", "both values are missing")
	}
	for i := range before {
		if o := &before[i]; o.Key == k.Key && same(o.Got, k.Got) && same(o.Want, k.Want) {
			return r.fault(n, path, "take one away", "the same difference stands on line %d", o.line)
		}
	}
	return r.term(n, path, &k.Term)
}

func same(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// parseAge reads 30d or 12h.
func parseAge(text string) (time.Duration, error) {
	number, unit := strings.TrimRight(text, "dh"), time.Hour
	if strings.HasSuffix(text, "d") {
		unit = 24 * time.Hour
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || len(number)+1 != len(text) {
		return 0, fmt.Errorf("%q is no age", text)
	}
	return time.Duration(n) * unit, nil
}
