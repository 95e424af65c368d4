// Package report renders a pipeline.Report: text for a terminal, JSON for
// scripts, HTML for a browser, Markdown for a review. All but JSON are
// renderings of one View, so that they say the same.
package report

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// View is a report in words, in reading order. Its texts are raw: each
// renderer escapes them for its own medium.
type View struct {
	Outcome   pipeline.Outcome
	Verdict   string // MATCH, DIFFERS, NOT FULLY CHECKED
	Summary   string
	Subject   string
	When      string // for which time it was judged
	Against   string // the files that the published values stand in
	Meaning   string // what the verdict means for whoever relies on the deployment
	Facts     []string
	Results   []Result // bytes, meaning, provenance
	Groups    []Group
	Problems  []pipeline.Problem
	Lacks     []pipeline.Lack
	More      []pipeline.Lack
	Next      string
	NextWhy   string
	Inputs    []pipeline.Input
	Tool      pipeline.Tool
	GotName   string
	WantName  string
	Footnotes []string
	Gate      *GateView
}

// Result is one of the three separate results.
type Result struct {
	Name    string
	Verdict pipeline.Verdict
	Words   string
}

// Group holds the findings of one kind.
type Group struct {
	Kind, Title string
	Agree       int // findings that match
	Agreeing    []pipeline.Finding
	Coverage    string // "3 of 4 recounted; resting on copied: 1"
	Lines       []Line
	// Alone are the values of a report that compares nothing: whoever asked for
	// them alone wants to see them.
	Alone []Alone
}

// Alone is a value that nothing was compared with.
type Alone struct {
	Words string // whose value, and which
	Value string // whole: it will be copied
	Basis pipeline.Basis
}

// Line is one statement: a finding, or several that say the same.
type Line struct {
	Class    pipeline.Class
	Verdict  pipeline.Verdict
	Text     string
	Details  []string // got and want, place, note
	Causes   []pipeline.Cause
	Findings []pipeline.Finding
}

// Cause is a cause as a line shows it: once, however often it holds.
type Cause struct {
	pipeline.Cause
	// Also are the places of the others that say the same of other values.
	Also []pipeline.Where
}

// folded are a line's causes, those that say the same once: two are the same
// where nothing but the values and the place differ.
func (l *Line) folded() []Cause {
	type same struct {
		standing, words, hint string
	}
	index := map[same]int{}
	var out []Cause
	for _, c := range l.Causes {
		key := same{string(c.Standing), c.Note, c.Hint}
		if c.Note == "" {
			key.words = strings.Join(c.Path, " > ")
		}
		if i, ok := index[key]; ok {
			if !sameWords(out[i].Cause, c) {
				out[i].Also = append(out[i].Also, c.Where)
			}
			continue
		}
		index[key] = len(out)
		out = append(out, Cause{Cause: c})
	}
	return out
}

func sameWords(a, b pipeline.Cause) bool { return CauseWords(a) == CauseWords(b) }

// words say a folded cause in one line.
func (c Cause) words() string {
	return CauseWords(c.Cause) + c.also()
}

// also says of which other values a cause holds.
func (c Cause) also() string {
	if len(c.Also) == 0 {
		return ""
	}
	const most = 4
	var places []string
	for i, w := range c.Also {
		if i == most {
			places = append(places, fmt.Sprintf("%d more", len(c.Also)-most))
			break
		}
		if w.File != "" {
			places = append(places, Place(w))
		}
	}
	s := "; the same of " + show.Plural(len(c.Also), "other value", "other values")
	if len(places) > 0 {
		s += ": " + strings.Join(places, ", ")
	}
	return s
}

// Options say how much a view tells.
type Options struct {
	Full      bool // whole digests and lists
	AllCauses bool // also the causes that a line of text says already
}

// joinedLacks says once what many values lack.
func joinedLacks(list []pipeline.Lack) []pipeline.Lack {
	type what struct{ what, how string }
	at, more := map[what]int{}, map[int]int{}
	var out []pipeline.Lack
	for _, l := range list {
		k := what{l.What, l.How}
		if i, known := at[k]; known {
			more[i]++
			continue
		}
		at[k] = len(out)
		out = append(out, l)
	}
	for i, n := range more {
		out[i].For += fmt.Sprintf(" and %d more", n)
	}
	return out
}

// NewView puts a report in words.
func NewView(r *pipeline.Report, o Options) *View {
	v := &View{
		Outcome: r.Outcome, Verdict: verdictWords[r.Outcome], Summary: r.Summary, Subject: r.Subject, Facts: r.Facts,
		Problems: r.Problems, Lacks: joinedLacks(r.Lacks), More: r.More, Next: r.Next, NextWhy: r.NextWhy, Inputs: r.Inputs, Tool: r.Tool,
		Gate:    newGateView(r.Gate),
		GotName: cmp.Or(r.GotName, "here"), WantName: cmp.Or(r.WantName, "published"),
	}
	if len(r.TestRoots) > 0 {
		// No reader may take it for a machine of a vendor's.
		v.Facts = slices.Concat([]string{"under test roots in place of the vendors' own: " + strings.Join(r.TestRoots, ", ")}, r.Facts)
	}
	v.When, v.Against, v.Meaning = whenWords(r), againstWords(r), v.meaning(r)
	v.Results = []Result{
		{"bytes", r.Bytes.Verdict, v.bytesWords(r)},
		{"meaning", r.Meaning.Verdict, meaningWords(&r.Meaning)},
		{"provenance", r.Provenance.Verdict, provenanceWords(r)},
	}
	for _, k := range r.Coverage.Kinds {
		v.Groups = append(v.Groups, Group{Kind: k.Kind, Title: title(k.Kind), Coverage: coverageWords(k)})
	}
	for i := range r.Findings {
		kind := r.Findings[i].Key.Kind()
		if !slices.ContainsFunc(v.Groups, func(g Group) bool { return g.Kind == kind }) {
			v.Groups = append(v.Groups, Group{Kind: kind, Title: title(kind)})
		}
	}
	v.addAlone(r)
	slices.SortStableFunc(v.Groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(a.Kind, b.Kind))
	})
	for i := range v.Groups {
		v.fill(&v.Groups[i], r.Findings, o)
	}
	return v
}

// whenWords say for which day the judgement holds. Only times that the inputs
// give are told, so that the same inputs give the same page.
func whenWords(r *pipeline.Report) string {
	if len(r.JudgedAt) == 0 {
		return "no date: the same inputs give the same page on every day"
	}
	return "certificates as of " + strings.Join(r.JudgedAt, ", ")
}

// againstWords name the files that the published values stand in.
func againstWords(r *pipeline.Report) string {
	var files []string
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Where.File != "" && f.Verdict != pipeline.Missing && !slices.Contains(files, f.Where.File) {
			files = append(files, f.Where.File)
		}
	}
	slices.Sort(files)
	const most = 6
	switch n := len(files); {
	case n == 0:
		return "nothing: no published value was given"
	case n > most:
		return strings.Join(files[:most], ", ") + " and " + show.Plural(n-most, "more file", "more files")
	}
	return strings.Join(files, ", ")
}

// meaning says what a verdict is worth to somebody who has to decide.
func (v *View) meaning(r *pipeline.Report) string {
	var s string
	switch r.Outcome {
	case pipeline.OutcomeMatch:
		s = "each value that was published is the one that follows from the inputs below. Whether these inputs do what you want, no hash can say."
		if r.Provenance.Allowed > 0 {
			s = "nothing differs, but some values were left unchecked with leave: they are no better known than before."
		}
	case pipeline.OutcomeDiffers:
		s = "do not rely on it before you know why. What was published is not what follows from the inputs below."
		if r.Meaning.Loosened > 0 {
			s += fmt.Sprintf(" In %s the published side accepts more than it should.", show.Plural(r.Meaning.Loosened, "place", "places"))
		}
	default:
		s = "this is no all-clear. Nothing differs, and not everything was checked; what is missing stands below."
		if len(r.Findings) == 0 {
			s = "nothing was judged yet: values were recounted, and there was nothing to compare them with."
		}
	}
	if len(r.TestRoots) > 0 {
		s = "a test: signatures were judged under roots that are no vendor's, so nothing here is about real hardware. Otherwise: " + s
	}
	return s
}

// addAlone adds the values that were computed where nothing was compared.
func (v *View) addAlone(r *pipeline.Report) {
	if len(r.Findings) > 0 {
		return
	}
	at := map[string]int{}
	for i := range r.Measurements {
		m := &r.Measurements[i]
		kind := m.Key.Kind()
		if m.Basis == pipeline.Copied {
			continue // stands in the input as it is
		}
		if _, ok := at[kind]; !ok {
			at[kind] = len(v.Groups)
			v.Groups = append(v.Groups, Group{Kind: kind, Title: title(kind), Coverage: "recounted, with nothing published to compare"})
		}
		_, subject, attribute := split(m.Key)
		g := &v.Groups[at[kind]]
		g.Alone = append(g.Alone, Alone{Words: strings.TrimSpace(subject + " " + attribute), Value: m.Value.String(), Basis: m.Basis})
	}
}

func (v *View) bytesWords(r *pipeline.Report) string {
	b := &r.Bytes
	var words []string
	switch b.Verdict {
	case pipeline.Match:
		if len(b.Exempt) > 0 {
			return "identical apart from " + strings.Join(b.Exempt, ", ") + ", which cannot be equal and was exempt from the start"
		}
		words = append(words, "the two files are identical")
	case pipeline.Differs:
		words = append(words, fmt.Sprintf("not identical: %s, first line %d of %s", show.Plural(b.Lines, "line differs", "lines differ"), b.FirstLine, v.WantName))
	default:
		words = append(words, "no whole file was compared")
	}
	if len(b.Exempt) > 0 {
		words = append(words, "exempt from the start, because it cannot be equal: "+strings.Join(b.Exempt, ", "))
	}
	if b.Note != "" {
		words = append(words, b.Note)
	}
	return strings.Join(words, "; ")
}

func meaningWords(m *pipeline.MeaningResult) string {
	var words []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{m.Equal, "equal"},
		{m.Loosened, "LOOSENED (accept more)"},
		{m.Tightened, "tightened (refuse more)"},
		{m.Unexplained, "changed"},
		{m.Volatile, "expected to change"},
		{m.Unchecked, "not compared"},
	} {
		if c.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(words) == 0 {
		return "nothing was compared"
	}
	return strings.Join(words, ", ")
}

func provenanceWords(r *pipeline.Report) string {
	p := &r.Provenance
	var words []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{p.Rebuilt, "rebuilt from source"},
		{p.Recomputed, "recomputed"},
		{p.Replayed, "replayed from an event log"},
		{p.Endorsed, "endorsed by a signature"},
	} {
		if c.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if p.Assumed > 0 {
		words = append(words, fmt.Sprintf("resting on assumed: %d", p.Assumed))
	}
	if p.Copied > 0 {
		words = append(words, fmt.Sprintf("resting on copied: %d", p.Copied))
	}
	if p.Unchecked > 0 {
		words = append(words, fmt.Sprintf("%d unchecked", p.Unchecked))
	}
	if len(words) == 0 {
		words = append(words, "no value was compared")
	}
	if p.Note != "" {
		return p.Note
	}
	if p.Allowed > 0 {
		words = append(words, fmt.Sprintf("%d of them allowed by you", p.Allowed))
	}
	return strings.Join(words, ", ")
}

func coverageWords(k pipeline.KindCoverage) string {
	words := []string{fmt.Sprintf("%d of %d recounted", k.Recounted, k.Published)}
	if k.RestingOn != "" {
		words = append(words, "resting on "+k.RestingOn)
	}
	if k.Unchecked > 0 {
		words = append(words, fmt.Sprintf("%d unchecked", k.Unchecked))
	}
	return strings.Join(words, ", ")
}

// fill puts a kind's findings into lines: those that say the same of several
// subjects become one line, so that fifty changed pins do not hide one that
// matters.
func (v *View) fill(g *Group, findings []pipeline.Finding, o Options) {
	type bucket struct {
		verdict pipeline.Verdict
		class   pipeline.Class
		subject string
		note    string
	}
	index := map[bucket]int{}
	for i := range findings {
		f := &findings[i]
		if f.Key.Kind() != g.Kind {
			continue
		}
		if f.Verdict == pipeline.Match {
			g.Agree++
			g.Agreeing = append(g.Agreeing, *f)
			continue
		}
		_, subject, _ := split(f.Key)
		b := bucket{verdict: f.Verdict, class: f.Class, subject: subject}
		if f.Verdict != pipeline.Differs {
			b.subject = "" // one line for all that are missing, extra, unchecked
		}
		if f.Verdict == pipeline.Unchecked {
			b.note = f.Note // and that are so for the same reason
		}
		if j, ok := index[b]; ok {
			g.Lines[j].Findings = append(g.Lines[j].Findings, *f)
			continue
		}
		index[b] = len(g.Lines)
		g.Lines = append(g.Lines, Line{Class: f.Class, Verdict: f.Verdict, Findings: []pipeline.Finding{*f}})
	}
	for i := range g.Lines {
		v.word(&g.Lines[i], o)
	}
	slices.SortStableFunc(g.Lines, func(a, b Line) int { return cmp.Compare(rank(a), rank(b)) })
}

func rank(l Line) int {
	switch {
	case l.Class == pipeline.ClassVolatile:
		return 5
	case l.Verdict == pipeline.Unchecked:
		return 4
	case l.Class == pipeline.ClassLoosened:
		return 0
	case l.Class == pipeline.ClassUnexplained:
		return 1
	default:
		return 2
	}
}

func (v *View) word(l *Line, o Options) {
	full := o.Full
	first := &l.Findings[0]
	_, subject, _ := split(first.Key)
	switch l.Verdict {
	case pipeline.Missing:
		l.Text = fmt.Sprintf("only %s: %s", v.side(v.GotName), names(l.Findings))
	case pipeline.Extra:
		l.Text = fmt.Sprintf("only %s: %s", v.side(v.WantName), names(l.Findings))
		if l.Class == pipeline.ClassLoosened {
			l.Text += " - " + classWords[l.Class]
		}
	case pipeline.Unchecked:
		l.Text = fmt.Sprintf("unchecked, %s: %s", cmp.Or(first.Note, "not recomputed"), names(l.Findings))
	default:
		if l.Class == pipeline.ClassVolatile {
			l.Text = fmt.Sprintf("expected to change: %s", names(l.Findings))
			if first.Note != "" {
				l.Text += " (" + first.Note + ")"
			}
			return
		}
		l.Text = cmp.Or(subject, title(first.Key.Kind())) + ": " + v.changes(l.Findings, full)
		if l.Class != pipeline.ClassUnexplained {
			l.Text += " - " + classWords[l.Class]
		}
	}
	for i := range l.Findings {
		f := &l.Findings[i]
		for _, c := range f.Why {
			// What a line already says of a list need not be said again.
			if n := len(c.Path); full || o.AllCauses || n < 2 || c.Path[n-1] != "missing" && c.Path[n-1] != "extra" {
				l.Causes = append(l.Causes, c)
			}
		}
		if l.Verdict == pipeline.Differs {
			l.Details = appendNew(l.Details, f.Note)
		}
	}
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func (v *View) side(name string) string {
	if name == "here" {
		return "computed here, not published"
	}
	return "in " + name
}

// names lists the subjects of findings once each, with the attribute where it
// says more. Workloads of one kind share its name.
func names(findings []pipeline.Finding) string {
	var subjects []string
	attrs := map[string][]string{}
	for i := range findings {
		_, s, a := split(findings[i].Key)
		if !slices.Contains(subjects, s) {
			subjects = append(subjects, s)
		}
		attrs[s] = append(attrs[s], a)
	}
	const most = 12
	var out []string
	kind := ""
	for i, s := range subjects {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(subjects)-most))
			break
		}
		a := attrs[s]
		if k, name, ok := strings.Cut(s, " "); ok && findings[0].Key.Kind() == "policy" {
			if k == kind {
				s = name
			}
			kind = k
		}
		switch {
		case len(a) == 1 && slices.Contains([]string{"", "policy hash", "digest", "root hash", "hash"}, a[0]), whole(&findings[i]):
			out = append(out, s)
		case len(a) <= 3:
			out = append(out, strings.TrimSpace(s+" "+strings.Join(a, ", ")))
		default:
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s (%d values)", s, len(a))))
		}
	}
	return strings.Join(out, ", ")
}

// whole reports whether a finding stands for a whole reference value, of which
// only one side has any.
func whole(f *pipeline.Finding) bool {
	return (f.Verdict == pipeline.Extra || f.Verdict == pipeline.Missing) && slices.Contains([]string{"launch", "mrtd"}, path.Base(string(f.Key)))
}

// attribute names what changed: the short words of the table, else the words
// that came with the value.
func attribute(f *pipeline.Finding) string {
	_, _, a := split(f.Key)
	_, known := attributeWords[lastParts(f.Key, a)]
	if !known && a != "policy hash" && f.Words != "" {
		return f.Words
	}
	return a
}

// lastParts finds the table entry that split used, "" if none.
func lastParts(k pipeline.Key, words string) string {
	for key, w := range attributeWords {
		if w == words && strings.HasSuffix(string(k), "/"+key) {
			return key
		}
	}
	return ""
}

func (v *View) changes(findings []pipeline.Finding, full bool) string {
	var out []string
	for i := range findings {
		f := &findings[i]
		if i > 0 && f.Key == findings[i-1].Key && f.Got.Equal(findings[i-1].Got) && f.Want.Equal(findings[i-1].Want) {
			continue // published in two places, the same both times
		}
		a := attribute(f)
		switch {
		case f.Got.Kind() == pipeline.ListKind && f.Want.Kind() == pipeline.ListKind:
			out = append(out, a+listChange(f, full))
		case f.Got.Kind() == pipeline.DigestKind && !full:
			out = append(out, fmt.Sprintf("%s %s, %s %s", a, short(f.Got, full), v.WantName, short(f.Want, full)))
		default:
			out = append(out, fmt.Sprintf("%s %s -> %s", a, short(f.Got, full), short(f.Want, full)))
		}
	}
	return strings.Join(out, "; ")
}

// listChange shows what was added and taken away; of long identifiers only how
// many.
func listChange(f *pipeline.Finding, full bool) string {
	var added, removed []string
	for _, s := range f.Want.List() {
		if !slices.Contains(f.Got.List(), s) {
			added = append(added, "+"+s)
		}
	}
	for _, s := range f.Got.List() {
		if !slices.Contains(f.Want.List(), s) {
			removed = append(removed, "-"+s)
		}
	}
	all := slices.Concat(added, removed)
	long := slices.ContainsFunc(all, func(s string) bool { return len(s) > 64 })
	if !full && (long || len(all) > 6) {
		var counts []string
		if len(added) > 0 {
			counts = append(counts, fmt.Sprintf("+%d", len(added)))
		}
		if len(removed) > 0 {
			counts = append(counts, fmt.Sprintf("-%d", len(removed)))
		}
		return " " + strings.Join(counts, " ")
	}
	return " " + strings.Join(all, " ")
}

func clip(s string, full bool) string {
	if full {
		return s
	}
	return show.Clip(s, 70)
}

// short is a value as a line of text shows it. Digests are cut to their first
// 12 digits, enough to tell two apart by eye; JSON and -v have all of them.
func short(v pipeline.Value, full bool) string {
	switch v.Kind() {
	case pipeline.NoValue:
		return "(none)"
	case pipeline.BoolKind:
		if b, _ := v.Bool(); b {
			return "yes"
		}
		return "no"
	case pipeline.DigestKind:
		if !full {
			return v.Digest().Algorithm().String() + ":" + v.Digest().Hex()[:12] + "…"
		}
	case pipeline.TextKind:
		return clip(v.String(), full)
	}
	return v.String()
}
