package policies

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// variantsAtMost bounds what one run computes in search of published hashes.
const variantsAtMost = 256

// variantSearch computes policies under other circumstances. What explained
// one workload is tried first with the next.
type variantSearch struct {
	r    *policyRun
	left int
	last *variant
	// others are the deployment as other choices of a generation change it.
	others []otherChoice
}

// variant is a set of changes; an empty field changes nothing.
type variant struct {
	profile   string // another profile
	rules     string // retally's own rules with this binding
	noDropIns bool
	namespace exchange // the published manifest's namespace
	setting   setting  // one boolean of the settings turned
}

func (v variant) changes() int {
	n := 0
	for _, set := range []bool{v.profile != "", v.rules != "", v.noDropIns, v.namespace != sameNamespace, v.setting != setting{}} {
		if set {
			n++
		}
	}
	return n
}

func (s *variantSearch) variants(otherNamespace bool) []variant {
	profiles, own := []string{""}, []string{""}
	for _, matched := range []bool{true, false} { // what stands for a known generator says more
		for _, p := range policygen.Profiles() {
			if p.Name != s.r.conf.Profile && (p.Reference != "") == matched {
				profiles = append(profiles, p.Name)
			}
		}
	}
	for _, b := range bindings {
		if config.OwnRules(b) != s.r.conf.RulesName() {
			own = append(own, b)
		}
	}
	var out []variant
	if s.last != nil {
		out = append(out, *s.last)
	}
	for n := 1; n <= 2; n++ {
		if n == 2 {
			for _, b := range switches(s.r.base.Data) {
				out = append(out, variant{setting: b})
			}
		}
		for _, namespace := range []exchange{sameNamespace, namedNamespace, writtenNamespace} {
			for _, noDropIns := range []bool{false, true} {
				for _, p := range profiles {
					for _, b := range own {
						v := variant{profile: p, rules: b, noDropIns: noDropIns, namespace: namespace}
						if v.changes() == n && (namespace == sameNamespace || otherNamespace) && (!noDropIns || len(s.r.dropIns) > 0) {
							out = append(out, v)
						}
					}
				}
			}
		}
	}
	return out
}

// causes finds a change that gives exactly the published hash.
func (s *variantSearch) causes(ctx context.Context, p *computedPolicy, entry manifest.Policy) ([]pipeline.Cause, error) {
	where := pipeline.Where{File: s.r.listed.File(), Pointer: entry.Pointer, Line: entry.Line}
	cause := func(path, note string) pipeline.Cause {
		return pipeline.Cause{Path: []string{string(p.key), path}, Standing: pipeline.Proved, Hint: "policy-variant", Where: where, Note: "the published hash is that of the same deployment " + note}
	}
	if entry.HashText == p.TextDigest.Hex() || entry.HashText == p.InitdataDigest.Hex() {
		c := cause("form", "")
		c.Hint, c.Note = "policy-form", "the published hash is that of the policy text, not of the initdata document around it"
		if entry.HashText == p.InitdataDigest.Hex() {
			c.Note = "the published hash is that of the initdata document, not of the policy text in it"
		}
		return []pipeline.Cause{c}, nil
	}
	if c, ok, err := s.choices(ctx, p, entry.HashText); ok || err != nil {
		if ok {
			return []pipeline.Cause{cause("generated", c)}, nil
		}
		return nil, err
	}
	id, named := manifest.ParseWorkloadID(entry.WorkloadSecretID)
	other := named && p.w.Namespace != "" && p.namespace == "" && id.Namespace != p.w.Namespace
	for _, v := range s.variants(other) {
		if s.left--; s.left < 0 {
			return nil, nil
		}
		other, ok := s.r.variantOf(ctx, p, v, id.Namespace)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !ok || s.r.hash(other).Hex() != entry.HashText {
			continue
		}
		s.last = &v
		c := cause("generated", v.words(id.Namespace))
		if v.namespace != sameNamespace {
			c.Hint = "namespace"
		}
		return []pipeline.Cause{c}, nil
	}
	return nil, nil
}

func (v variant) words(namespace string) string {
	var list []string
	switch v.namespace {
	case namedNamespace:
		list = append(list, "in namespace "+namespace)
	case writtenNamespace:
		list = append(list, "in namespace "+namespace+", with that name wherever the deployment has its own")
	}
	if v.profile != "" {
		list = append(list, "under profile "+v.profile)
	}
	if v.rules != "" {
		list = append(list, "with retally's own rules and image binding "+v.rules)
	}
	if v.noDropIns {
		list = append(list, "without the drop-ins of the settings")
	}
	if v.setting != (setting{}) {
		list = append(list, v.setting.words())
	}
	return strings.Join(list, ", ")
}

// inListedNamespace computes a policy for the namespace of the published
// manifest, where that is another one and nothing else joins the two: a vendor
// publishes the manifest of one of many deployments of a release.
func (r *policyRun) inListedNamespace(ctx context.Context, p *computedPolicy) (computedPolicy, bool) {
	if r.listed == nil || r.in.Config.Manifest != nil || p.w.Namespace == "" || slices.Contains(r.listed.Namespaces(), p.w.Namespace) {
		return computedPolicy{}, false
	}
	entry, ok := listedEntry(r.listed, p.w)
	id, named := manifest.ParseWorkloadID(entry.WorkloadSecretID)
	if !ok || !named {
		return computedPolicy{}, false
	}
	// A name that is also a word of the format cannot be exchanged everywhere.
	order := []exchange{namedNamespace, writtenNamespace}
	if strings.ContainsAny(p.w.Namespace, "-0123456789") {
		slices.Reverse(order)
	}
	var first *computedPolicy
	for _, e := range order {
		other, ok := r.variantOf(ctx, p, variant{namespace: e}, id.Namespace)
		if !ok {
			continue
		}
		c := computedPolicy{Policy: *other, w: p.w, key: pipeline.NewKey("policy", id.Kind, id.Namespace, id.Name), namespace: id.Namespace, exchange: e}
		if r.hash(other).Hex() == entry.HashText {
			return c, true
		}
		if first == nil {
			first = &c
		}
	}
	if first == nil {
		return computedPolicy{}, false
	}
	return *first, true
}

// exchange says where one namespace is put in another's place.
type exchange uint8

// The ways to do it.
const (
	sameNamespace    exchange = iota
	namedNamespace            // in the object's metadata
	writtenNamespace          // wherever the workload's text has it as a word
)

// exchanged puts another namespace into the text of one workload.
func (r *policyRun) exchanged(data []byte, w *deployment.Workload, namespace string, how exchange) []byte {
	if how == writtenNamespace {
		return replaceWord(data, w.Namespace, namespace)
	}
	n := yamldoc.Path(w.Node, "metadata", "namespace")
	if n == nil {
		return data
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if n.Line < 1 || n.Line > len(lines) {
		return data
	}
	lines[n.Line-1] = replaceWord(lines[n.Line-1], w.Namespace, namespace)
	return bytes.Join(lines, nil)
}

// replaceWord replaces a word that is no part of a longer name.
func replaceWord(data []byte, word, by string) []byte {
	inName := func(i int) bool {
		if i < 0 || i >= len(data) {
			return false
		}
		c := data[i]
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
	}
	var out []byte
	from := 0
	for at := 0; word != ""; {
		i := bytes.Index(data[at:], []byte(word))
		if i < 0 {
			break
		}
		i += at
		at = i + len(word)
		if inName(i-1) || inName(at) {
			continue
		}
		out = append(append(out, data[from:i]...), by...)
		from = at
	}
	return append(out, data[from:]...)
}

// variantOf computes one workload's policy under other circumstances.
func (r *policyRun) variantOf(ctx context.Context, p *computedPolicy, v variant, namespace string) (*policygen.Policy, bool) {
	input := r.input
	if v.profile != "" {
		profile, err := policygen.ProfileByName(v.profile)
		if err != nil {
			return nil, false
		}
		input.Profile = profile
	}
	if v.rules != "" {
		own, err := rules.Default(rules.Binding(v.rules))
		if err != nil {
			return nil, false
		}
		input.Rules = own
	}
	if v.profile != "" || v.noDropIns || v.setting != (setting{}) {
		dropIns, base := r.dropIns, r.base
		if v.noDropIns {
			dropIns = nil
		}
		if v.setting != (setting{}) {
			data, ok := v.setting.turned(base.Data)
			if !ok {
				return nil, false
			}
			base.Data = data
		}
		settings, err := policygen.ParseSettings(base, dropIns, input.Profile)
		if err != nil {
			return nil, false
		}
		input.Settings = settings
	}
	part := r.parts.of(p.w.Line)
	keep := map[int]bool{part: true}
	for _, o := range r.d.Objects {
		if o.Kind == "ConfigMap" || o.Kind == "Secret" {
			keep[r.parts.of(o.Line)] = true
		}
	}
	input.YAML = policygen.NamedFile{Name: r.d.File, Data: r.parts.only(keep)}
	how := max(v.namespace, p.exchange)
	if how != sameNamespace {
		input.YAML.Data = r.exchanged(input.YAML.Data, p.w, namespace, how)
	}
	out, err := policygen.Generate(ctx, input)
	if err != nil {
		return nil, false
	}
	return theOneOf(out.Policies, workloadObject(p.w), how != sameNamespace)
}

// theOneOf finds the policy of an object. Where words of the file were
// exchanged, only the object's line and kind are as they were, and there must be
// one object of them.
func theOneOf(list []policygen.Policy, want object, exchanged bool) (*policygen.Policy, bool) {
	var found *policygen.Policy
	for i := range list {
		id := objectOf(&list[i])
		if id != want && !(exchanged && id.line == want.line && id.kind == want.kind) {
			continue
		}
		if found != nil && found.TextDigest != list[i].TextDigest {
			return nil, false
		}
		found = &list[i]
	}
	if found == nil {
		return nil, false
	}
	found.Annotation = ""
	return found, true
}
