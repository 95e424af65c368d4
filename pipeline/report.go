package pipeline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
)

// Schema names the form of a report. Fields may be added; none changes its
// meaning.
const Schema = "urn:retally:report:v1"

// isSchema reports whether a document with this schema is a report: as a file
// has it, or as one of the verbs that end in a report prints it.
func isSchema(name string) bool {
	switch name {
	case Schema, "retally/check/1", "retally/compare/1", "retally/demo/1", "retally/gate/1", "retally/run/1":
		return true
	}
	return false
}

// Tool says which program computed.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Report is everything a run has to say. Its bytes depend on the inputs and
// the version of the program only: no time, no absolute path, no machine.
type Report struct {
	Schema  string `json:"schema"`
	Tool    Tool   `json:"tool"`
	Subject string `json:"subject"` // what was recounted, against what
	// GotName and WantName are the two sides' names in words; empty means
	// "here" and "published".
	GotName  string `json:"gotName,omitempty"`
	WantName string `json:"wantName,omitempty"`
	// Facts count what the inputs hold: workloads, references, digests.
	Facts []string `json:"facts,omitempty"`
	// JudgedAt are the times at which certificates were judged, as the
	// configuration says them; none where no evidence was. The day of the run is
	// nowhere: the same inputs give the same report.
	JudgedAt []string `json:"judgedAt,omitempty"`
	// TestRoots are roots of trust that stand in place of the vendors' own:
	// what rests on them means nothing outside of a test.
	TestRoots  []string      `json:"testRoots,omitempty"`
	Outcome    Outcome       `json:"outcome"`
	Summary    string        `json:"summary"` // one sentence
	Bytes      BytesResult   `json:"bytes"`
	Meaning    MeaningResult `json:"meaning"`
	Provenance Provenance    `json:"provenance"`
	Coverage   Coverage      `json:"coverage"`
	// Next is a command that runs as it stands: every file that it names is
	// there. NextWhy says what it is for.
	Next    string `json:"next,omitempty"`
	NextWhy string `json:"nextWhy,omitempty"`
	// More is what could be brought to check more, with the command that takes
	// it. Nothing of the verdict hangs on it, unlike on Lacks.
	More         []Lack        `json:"more,omitempty"`
	Findings     []Finding     `json:"findings"`
	Sets         []SetResult   `json:"sets,omitempty"`
	Problems     []Problem     `json:"problems,omitempty"`
	Lacks        []Lack        `json:"lacks,omitempty"`
	Inputs       []Input       `json:"inputs"`
	Measurements []Measurement `json:"measurements"`
	// Gate is set where a gate's policy was held against the report.
	Gate *Gate `json:"gate,omitempty"`
}

// Outcome is the one-word result; it decides the exit code.
type Outcome string

// The outcomes, with their exit codes 0, 1 and 3.
const (
	OutcomeMatch     Outcome = "match"
	OutcomeDiffers   Outcome = "differs"
	OutcomeUnchecked Outcome = "unchecked"
)

// BytesResult says whether the published file is byte for byte what was
// expected: the only question that a Contrast Coordinator asks.
type BytesResult struct {
	Verdict Verdict `json:"verdict"` // match, differs, or unchecked where no bytes were compared
	// Exempt names, before the comparison, the fields that cannot be equal by
	// construction and were therefore taken from the published side.
	Exempt    []string `json:"exempt,omitempty"`
	Got       Value    `json:"got"`
	Want      Value    `json:"want"`
	FirstLine int      `json:"firstLine,omitempty"` // first differing line of the published file
	Lines     int      `json:"lines,omitempty"`     // how many lines differ
	Note      string   `json:"note,omitempty"`
	// Accepted is set where the policy of a gate acknowledges the difference.
	Accepted bool `json:"accepted,omitempty"`
}

// MeaningResult counts the findings by class.
type MeaningResult struct {
	Verdict     Verdict `json:"verdict"`
	Equal       int     `json:"equal"`
	Volatile    int     `json:"volatile"`
	Tightened   int     `json:"tightened"`
	Loosened    int     `json:"loosened"`
	Unexplained int     `json:"unexplained"`
	Unchecked   int     `json:"unchecked"`
}

// Provenance counts the compared values by their effective basis.
type Provenance struct {
	Verdict    Verdict `json:"verdict"` // match: all rest on what was checked; unchecked: some do not
	Rebuilt    int     `json:"rebuilt"`
	Recomputed int     `json:"recomputed"`
	Replayed   int     `json:"replayed"`
	Endorsed   int     `json:"endorsed"`
	Assumed    int     `json:"assumed"`
	Copied     int     `json:"copied"`
	Unchecked  int     `json:"unchecked"`
	Allowed    int     `json:"allowed"`
	Note       string  `json:"note,omitempty"`
}

// Coverage is the part of the published values that was recounted, as a whole
// and per kind of key.
type Coverage struct {
	Published int            `json:"published"`
	Recounted int            `json:"recounted"`
	Kinds     []KindCoverage `json:"kinds"`
}

// KindCoverage is the coverage of one kind of key (image, policy, ...).
type KindCoverage struct {
	Kind      string `json:"kind"`
	Published int    `json:"published"`
	Recounted int    `json:"recounted"`
	RestingOn string `json:"restingOn,omitempty"` // "copied: 4"
	Unchecked int    `json:"unchecked"`
}

func levelOrder(level string) int {
	return slices.Index([]string{LevelError, LevelWarning, LevelNote}, level)
}

// count fills Meaning, Provenance and Coverage.
func (r *Report) count() {
	r.Meaning, r.Provenance, r.Coverage = MeaningResult{}, Provenance{}, Coverage{Kinds: []KindCoverage{}}
	kinds := map[string]*KindCoverage{}
	weak := map[string]map[Basis]int{}
	for i := range r.Findings {
		f := &r.Findings[i]
		r.Meaning.add(f)
		if f.Class == ClassVolatile {
			continue
		}
		k := kinds[f.Key.Kind()]
		if k == nil {
			k = &KindCoverage{Kind: f.Key.Kind()}
			kinds[k.Kind], weak[k.Kind] = k, map[Basis]int{}
		}
		if f.Verdict != Missing {
			k.Published++
			r.Coverage.Published++
		}
		r.Provenance.add(f)
		switch {
		case f.Verdict == Unchecked:
			k.Unchecked++
		case f.Verdict == Match || f.Verdict == Differs:
			if f.Standing.Effective.Known() && !f.vouched() {
				k.Recounted++
				r.Coverage.Recounted++
			} else {
				weak[k.Kind][f.Standing.Effective]++
			}
		}
	}
	for name, k := range kinds {
		for _, b := range []Basis{Copied, Assumed, Endorsed} {
			if n := weak[name][b]; n > 0 && k.RestingOn == "" {
				k.RestingOn = fmt.Sprintf("%s: %d", b, n)
			}
		}
		r.Coverage.Kinds = append(r.Coverage.Kinds, *k)
	}
	slices.SortFunc(r.Coverage.Kinds, func(a, b KindCoverage) int { return cmp.Compare(a.Kind, b.Kind) })
}

// vouched reports whether the finding is that somebody vouches for something.
// That holds or not; it is never a recount.
func (f *Finding) vouched() bool {
	return f.Key.Kind() == kindEndorsement && f.Standing.Effective == Endorsed
}

// kindEndorsement is the kind of the keys of endorsements.
const kindEndorsement = "endorsement"

func (m *MeaningResult) add(f *Finding) {
	switch {
	case f.Class == ClassVolatile:
		m.Volatile++
	case f.Verdict == Unchecked:
		m.Unchecked++
	case f.Class == ClassEqual:
		m.Equal++
	case f.Class == ClassTightened:
		m.Tightened++
	case f.Class == ClassLoosened:
		m.Loosened++
	default:
		m.Unexplained++
	}
}

func (p *Provenance) add(f *Finding) {
	weak := f.Verdict == Unchecked
	switch {
	case f.Verdict == Unchecked:
		p.Unchecked++
	case f.Verdict == Extra:
	default:
		weak = !f.Standing.Effective.Known()
		switch f.Standing.Effective {
		case Rebuilt:
			p.Rebuilt++
		case Recomputed:
			p.Recomputed++
		case Replayed:
			p.Replayed++
		case Endorsed:
			p.Endorsed++
		case Assumed:
			p.Assumed++
		default:
			p.Copied++
		}
	}
	if weak && f.Allowed {
		p.Allowed++
	}
}

// Bad reports whether the finding alone makes the outcome "differs".
func (f *Finding) Bad() bool {
	return f.Class != ClassVolatile && !f.Accepted && (f.Verdict == Differs || f.Verdict == Missing || f.Verdict == Extra)
}

// Open reports whether the finding alone makes the outcome "unchecked".
func (f *Finding) Open() bool { return f.weak() && !f.Allowed }

// weak reports whether the finding says nothing because nothing was recounted.
func (f *Finding) weak() bool {
	if f.Class == ClassVolatile || f.Verdict == Extra {
		return false
	}
	return f.Verdict == Unchecked || !f.Standing.Effective.Known()
}

// judge sets the verdicts and the outcome.
func (r *Report) judge(c *Case) {
	bad, open := r.Bytes.Verdict == Differs && !r.Bytes.Accepted, false
	r.Meaning.Verdict, r.Provenance.Verdict = Match, Match
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Bad() {
			bad = true
			r.Meaning.Verdict = Differs
		}
		open = open || f.Open()
		if f.weak() {
			r.Provenance.Verdict = Unchecked // also where it was allowed
		}
	}
	if len(r.Findings) == 0 {
		r.Provenance.Verdict = Unchecked
	}
	if r.Meaning.Verdict == Match && r.Meaning.Equal == 0 {
		r.Meaning.Verdict = Unchecked // nothing is equal where nothing was compared
	}
	// Nothing compared is no match, whatever was allowed.
	open = open || r.Meaning.Equal == 0 || !c.NothingRecounted && r.Coverage.Recounted == 0
	open = open || len(r.TestRoots) > 0 && !c.TestRootOK
	// An input that is missing leaves something unchecked, whether or not
	// somebody published a value for it.
	open = open || slices.ContainsFunc(r.Lacks, func(l Lack) bool { return !Key(l.For).MatchAny(c.Allow) })
	for _, p := range r.Problems {
		bad = bad || p.Level == LevelError
		open = open || p.Code == codeStaleGlob
	}
	switch {
	case bad:
		r.Outcome = OutcomeDiffers
	case open:
		r.Outcome = OutcomeUnchecked
	default:
		r.Outcome = OutcomeMatch
	}
	if r.Bytes.Verdict == "" {
		r.Bytes.Verdict = Unchecked
	}
	r.Summary = r.sentence()
	if len(r.TestRoots) > 0 {
		// Which they are, the next lines say: the first is for what was recounted.
		r.Summary = "TEST ROOT: " + r.Summary
	}
}

// sentence is the first line of every rendering.
func (r *Report) sentence() string {
	bad, open := 0, 0
	for i := range r.Findings {
		if r.Findings[i].Bad() {
			bad++
		}
		if r.Findings[i].Open() {
			open++
		}
	}
	errors := 0
	for _, p := range r.Problems {
		if p.Level == LevelError {
			errors++
		}
	}
	known := 0
	for i := range r.Measurements {
		if r.Measurements[i].Basis.Known() {
			known++
		}
	}
	checked, endorsed := r.Coverage.Recounted, 0
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Verdict == Match && f.vouched() {
			endorsed++
		}
	}
	switch {
	case bad > 0 && errors > 0:
		return fmt.Sprintf("%s and %s.", show.Plural(bad, "value differs", "values differ"), show.Plural(errors, "input has a defect", "inputs have defects"))
	case bad > 0:
		return show.Plural(bad, "value differs", "values differ") + "."
	case errors > 0:
		return show.Plural(errors, "defect was found in the inputs", "defects were found in the inputs") + "."
	case r.Outcome == OutcomeDiffers:
		return "The published file is not byte for byte the expected one."
	case len(r.Findings) == 0 && known > 0:
		return fmt.Sprintf("%s recounted; nothing published was given to compare with.", show.Plural(known, "value was", "values were"))
	case len(r.Findings) == 0:
		return "Nothing published was given to compare with."
	case checked == 0 && endorsed > 0 && open == 0:
		return fmt.Sprintf("Endorsed by somebody who is trusted, and nothing recounted: %s by signatures that were verified.", show.Plural(endorsed, "question is answered", "questions are answered"))
	case checked == 0 && r.Outcome == OutcomeUnchecked && open == 0:
		return "Nothing was recounted: no value that was compared rests on what was checked here."
	case open > 0:
		return fmt.Sprintf("Nothing differs, but %s not been checked here.", show.Plural(open, "value has", "values have"))
	case r.Provenance.Allowed > 0:
		return fmt.Sprintf("Nothing differs: %s, %s left unchecked with your leave.", show.Plural(checked, "value recounted", "values recounted"), show.Plural(r.Provenance.Allowed, "value", "values"))
	default:
		words := fmt.Sprintf("Everything published was recounted and agrees: %s%s", show.Plural(checked, "value", "values"), r.ofWhat())
		if endorsed > 0 {
			return words + "; beside it signatures vouch: " + show.Plural(endorsed, "question", "questions") + " held."
		}
		return words + "."
	}
}

// ofWhat says of which things the recounted values are, in the order of
// kindPlurals.
func (r *Report) ofWhat() string {
	kinds := slices.DeleteFunc(slices.Clone(r.Coverage.Kinds), func(k KindCoverage) bool { return k.Recounted == 0 })
	if len(kinds) < 2 {
		return ""
	}
	at := func(kind string) int {
		i := slices.IndexFunc(kindPlurals, func(w kindPlural) bool { return w.kind == kind })
		if i < 0 {
			return len(kindPlurals)
		}
		return i
	}
	slices.SortStableFunc(kinds, func(a, b KindCoverage) int { return cmp.Compare(at(a.Kind), at(b.Kind)) })
	parts := make([]string, len(kinds))
	for i, k := range kinds {
		word := k.Kind
		if n := at(k.Kind); n < len(kindPlurals) {
			word = kindPlurals[n].plural
		}
		parts[i] = fmt.Sprintf("%d of %s", k.Recounted, word)
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

type kindPlural struct{ kind, plural string }

// kindPlurals name kinds of keys in one sentence.
var kindPlurals = []kindPlural{
	{"image", "images"},
	{"disk", "model disks"},
	{"policy", "policies"},
	{"snp", "AMD machines"},
	{"tdx", "Intel machines"},
	{"evidence", "evidence"},
	{kindEndorsement, "endorsements"},
	{"tpm", "TPM registers"},
	{"file", "files"},
	{"keys", "owner keys"},
	{"manifest", "the manifest"},
	{"proxy", "the proxy"},
	{"workload", "workloads"},
	{"workload-disk", "disks in use"},
}

// ReadReport reads a report that retally wrote.
func ReadReport(name string, data []byte) (*Report, error) {
	const limit = 256 << 20
	if len(data) > limit {
		return nil, &InputError{Op: "read report", File: name, Err: fmt.Errorf("has %d bytes, the limit is %d", len(data), limit)}
	}
	var r Report
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&r); err != nil {
		return nil, &InputError{Op: "read report", File: name, Err: err, Hint: "give a report.json that retally run wrote"}
	}
	if !isSchema(r.Schema) {
		return nil, &InputError{Op: "read report", File: name, Err: fmt.Errorf("has schema %q, want %q", r.Schema, Schema), Hint: "give a report.json that retally run wrote"}
	}
	r.Schema = Schema
	seen := map[Key]bool{}
	for _, m := range r.Measurements {
		if seen[m.Key] || m.Key == "" {
			return nil, &InputError{Op: "read report", File: name, Err: fmt.Errorf("measurement %q appears twice or has no key", m.Key)}
		}
		seen[m.Key] = true
	}
	return &r, nil
}
