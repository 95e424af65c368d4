// Package endorsements is the stage that judges who vouches for what. An
// endorsed value is somebody's word: its checks are of basis endorsed, and never
// make anything recounted.
package endorsements

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/endorsement"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// Judged is a file of endorsements with what came out, for a verb to show.
type Judged struct {
	Name       string
	Results    []*endorsement.Result
	Judgements map[endorsement.Question]verdict.Judgement
	Asked      []string
}

// Stage judges the configured endorsements.
func Stage() run.Stage { return Showing(nil) }

// Showing is the stage, which also hands each file to show.
func Showing(show func(*Judged)) run.Stage {
	return run.Stage{
		Name: "endorsements", Version: 1, Check: check, Plan: plan,
		Run: func(ctx context.Context, in *run.In) (*run.Out, error) { return execute(ctx, in, show) },
	}
}

func key(name string, parts ...string) pipeline.Key {
	return pipeline.NewKey(append([]string{"endorsement", name}, parts...)...)
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Endorsements)) {
		e := c.Endorsements[name]
		for _, q := range asked(e.Only) {
			l := run.PlanLine{Key: string(key(name, q)), From: e.File}
			switch {
			case q == string(endorsement.Covers) && len(e.Subjects)+len(e.Artifacts)+len(e.Keys) == 0:
				l.Missing, l.How = "what it must cover", "endorsements."+name+".subjects: [sha256:HEX], artifacts: [FILE] or keys: [GLOB]"
			case q == string(endorsement.Logged) && len(e.TrustedRoot)+len(e.LogKey) == 0:
				l.Missing, l.How = "trusted log", "endorsements."+name+".trusted_root: FILE or log_key: FILE"
			case q == string(endorsement.Signed) && len(e.TrustedRoot)+len(e.Key)+len(e.Roots) == 0:
				l.Missing, l.How = "trusted key or authority", "endorsements."+name+".trusted_root: FILE, key: FILE or roots: FILE"
			}
			lines = append(lines, l)
		}
	}
	return lines
}

func check(c *config.Config, bad config.At) error {
	for _, name := range slices.Sorted(maps.Keys(c.Endorsements)) {
		e := c.Endorsements[name]
		if err := Check(&e, func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"endorsements", name}, field...)...)
		}); err != nil {
			return err
		}
	}
	return nil
}

// Check finds what is wrong with an entry by itself.
func Check(e *config.Endorsement, at config.At) error {
	if e.File == "" {
		return at("file is missing", "a Sigstore bundle, a DSSE envelope or an in-toto statement")
	}
	if e.At == "" {
		return at("at is missing: the time at which it must be in force", "for instance at: 2026-06-01T00:00:00Z; a result that depends on the day it is made on cannot be made again")
	}
	if _, err := time.Parse(time.RFC3339, e.At); err != nil {
		return at(fmt.Sprintf("%.80q is no time", e.At), "RFC 3339, for instance 2026-06-01T00:00:00Z", "at")
	}
	known := asked(nil)
	for i, q := range e.Only {
		if !slices.Contains(known, q) || slices.Contains(e.Only[:i], q) {
			return at(fmt.Sprintf("%.80q is no question, or is there twice", q), "known: "+strings.Join(known, ", "), "only")
		}
	}
	for _, s := range e.Subjects {
		if _, err := digest.Parse(s); err != nil {
			return at(fmt.Sprintf("%.140q is no digest", s), "sha256:HEX", "subjects")
		}
	}
	for _, g := range e.Keys {
		if err := pipeline.ValidGlob(g); err != nil {
			return at(err.Error(), "", "keys")
		}
	}
	return nil
}

// asked are the questions that are asked, in their order.
func asked(only []string) []string {
	var out []string
	for _, q := range endorsement.Questions() {
		if len(only) == 0 || slices.Contains(only, string(q)) {
			out = append(out, string(q))
		}
	}
	return out
}

func execute(ctx context.Context, in *run.In, show func(*Judged)) (*run.Out, error) {
	out := run.NewOut()
	for _, name := range slices.Sorted(maps.Keys(in.Config.Endorsements)) {
		e := in.Config.Endorsements[name]
		s := &stageRun{in: in, out: out, name: name, conf: e}
		j, err := s.judge(ctx)
		if err != nil {
			return nil, fmt.Errorf("endorsement %s: %w", name, err)
		}
		if show != nil {
			show(j)
		}
	}
	return out, nil
}

type stageRun struct {
	in   *run.In
	out  *run.Out
	name string
	conf config.Endorsement
	keys []pipeline.Measurement // values of this run that must be covered
}

func (s *stageRun) read(ctx context.Context, name string) ([]byte, error) {
	return s.in.ReadFile(ctx, name, endorsement.FileLimit)
}

func (s *stageRun) judge(ctx context.Context) (*Judged, error) {
	q, err := s.request(ctx)
	if err != nil {
		return nil, err
	}
	results, covers := endorsement.Verify(q)
	j := &Judged{Name: s.name, Results: results, Judgements: map[endorsement.Question]verdict.Judgement{}, Asked: asked(s.conf.Only)}
	lists := map[endorsement.Question]verdict.List{}
	for i, r := range results {
		for _, c := range r.Checks {
			lists[c.Question] = append(lists[c.Question], made(c, i))
		}
	}
	for _, c := range covers {
		lists[c.Question] = append(lists[c.Question], made(c, 0))
	}
	for _, question := range endorsement.Questions() {
		j.Judgements[question] = verdict.Fold(lists[question])
	}
	s.add(j)
	return j, nil
}

// made turns a check into one of a judgement. Several documents of a file are
// told apart by their number.
func made(c endorsement.Check, document int) verdict.Check {
	out := verdict.Check{Name: c.Name, Verdict: verdict.Unchecked, Reason: c.Reason, Optional: c.State == endorsement.Told}
	if document > 0 {
		out.Name = fmt.Sprintf("%s:%d", c.Name, document+1)
	}
	switch c.State {
	case endorsement.Held:
		out.Verdict = verdict.Pass
	case endorsement.Failed:
		out.Verdict = verdict.Fail
	}
	return out
}

// request reads everything that an entry names.
func (s *stageRun) request(ctx context.Context) (*endorsement.Request, error) {
	e := s.conf
	at, err := time.Parse(time.RFC3339, e.At)
	if err != nil {
		return nil, err
	}
	q := &endorsement.Request{
		Identity: e.Identity, Issuer: e.Issuer, Source: e.Source, Builder: e.Builder, PredicateType: e.PredicateType, At: at,
		Field: func(name, value string) string { return s.in.Field(value, "endorsements", s.name, name) },
	}
	data, err := s.read(ctx, e.File)
	if err != nil {
		return nil, err
	}
	parts := endorsement.Parts{SignatureName: e.Signature, LogEntryName: e.LogEntry}
	if e.Signature != "" {
		if parts.Signature, err = s.read(ctx, e.Signature); err != nil {
			return nil, err
		}
	}
	if e.LogEntry != "" {
		if parts.LogEntry, err = s.read(ctx, e.LogEntry); err != nil {
			return nil, err
		}
	}
	if q.Documents, err = endorsement.Read(e.File, data, parts); err != nil {
		return nil, err
	}
	for _, t := range []struct {
		files []string
		add   func(name string, data []byte) error
	}{{e.TrustedRoot, q.Trust.AddTrustedRoot}, {e.Key, q.Trust.AddKeys}, {e.LogKey, q.Trust.AddLogKeys}, {e.Roots, q.Trust.AddCertificates}} {
		for _, file := range t.files {
			if data, err = s.read(ctx, file); err != nil {
				return nil, err
			}
			if err = t.add(file, data); err != nil {
				return nil, err
			}
		}
	}
	return q, s.subjects(ctx, q)
}

// subjects collects what must be covered. A glob that fits no digest of this run
// is a lack: whoever wrote it thought of something that is not there.
func (s *stageRun) subjects(ctx context.Context, q *endorsement.Request) error {
	for _, text := range s.conf.Subjects {
		d, err := digest.Parse(text)
		if err != nil {
			return err
		}
		q.Subjects = append(q.Subjects, endorsement.Wanted{Name: "the digest that is given", Digest: d})
	}
	for _, file := range s.conf.Artifacts {
		sums, err := s.in.Sums(ctx, file, false)
		if err != nil {
			return err
		}
		q.Subjects = append(q.Subjects, endorsement.Wanted{Name: file, Digest: sums.SHA256})
	}
	for _, glob := range s.conf.Keys {
		n := len(s.keys)
		for _, m := range s.in.All(glob) {
			if d := m.Value.Digest(); !d.IsZero() {
				s.keys = append(s.keys, m)
				q.Subjects = append(q.Subjects, endorsement.Wanted{Name: string(m.Key), Digest: d})
			}
		}
		if len(s.keys) == n {
			s.in.Lack("value "+glob, string(key(s.name, string(endorsement.Covers))), s.in.Field("[GLOB]", "endorsements", s.name, "keys")+" fits no digest of this run; retally plan lists the keys")
		}
	}
	return nil
}

// basis is how it is known what an endorsement says.
func basis(j *Judged) pipeline.Basis {
	if j.Judgements[endorsement.Signed].Verdict == verdict.Pass {
		return pipeline.Endorsed
	}
	return pipeline.Copied
}

// add adds everything to what the run found.
func (s *stageRun) add(j *Judged) {
	whole := verdict.Pass
	for _, q := range endorsement.Questions() {
		v := j.Judgements[q]
		if !slices.Contains(j.Asked, string(q)) {
			continue
		}
		if v.Verdict != verdict.Pass {
			whole = v.Verdict
		}
		s.checks(j, q, v)
		s.judgement(j, q, v)
	}
	for _, r := range j.Results {
		said := fmt.Sprintf("%s: %s about %s", s.conf.File, r.Form, r.Document.Subjects())
		if r.By != "" {
			word := ", naming as its signer "
			if basis(j) == pipeline.Endorsed {
				word = ", signed by "
			}
			said += word + r.By
		}
		if !r.LoggedAt.IsZero() {
			said += ", logged " + r.LoggedAt.Format(time.RFC3339)
		}
		s.out.Facts = append(s.out.Facts, said)
	}
	// What somebody trusted signed is a published value for what was recounted.
	if whole != verdict.Pass || len(j.Asked) != len(endorsement.Questions()) {
		return
	}
	for _, m := range s.keys {
		s.out.References = append(s.out.References, pipeline.Reference{
			Set: "endorsement " + s.name, Group: "endorsement " + s.name, Key: m.Key, Relation: pipeline.Equal, Want: m.Value,
			Where: pipeline.Where{File: s.conf.File}, Words: "the subject that " + s.name + " endorses",
		})
	}
}

func (s *stageRun) checks(j *Judged, q endorsement.Question, v verdict.Judgement) {
	seen := map[string]int{}
	for _, c := range v.Checks {
		if c.Verdict == verdict.Unchecked {
			if c.Optional {
				s.out.Problem(pipeline.LevelNote, "endorsement-"+c.Name, pipeline.Where{File: s.conf.File}, fmt.Sprintf("endorsement %s: %s", s.name, c.Reason), "")
			}
			continue
		}
		name := c.Name
		if seen[c.Name]++; seen[c.Name] > 1 {
			name = fmt.Sprintf("%s:%d", c.Name, seen[c.Name])
		}
		s.out.Measurements = append(s.out.Measurements, pipeline.Measurement{
			Key: key(s.name, string(q), name), Value: pipeline.OfText(string(c.Verdict)), Basis: basis(j), Inputs: []pipeline.InputRef{pipeline.FromFile(s.conf.File)}, Note: c.Reason,
		})
	}
}

var words = map[endorsement.Question]string{
	endorsement.Signed: "who vouches, by a signature that was verified",
	endorsement.Logged: "whether a log that everybody can read holds it",
	endorsement.Valid:  "whether it is in force",
	endorsement.Covers: "whether it is about what it must be about",
}

// judgement publishes "pass" and adds what came out; what could not be checked
// has no value.
func (s *stageRun) judgement(j *Judged, q endorsement.Question, v verdict.Judgement) {
	k := key(s.name, string(q))
	s.out.Refer(k, pipeline.OfText(string(verdict.Pass)), pipeline.Where{File: s.conf.File}, s.name+": "+words[q])
	if v.Verdict == verdict.Unchecked {
		var open []string
		for _, c := range v.Checks {
			if c.Verdict == verdict.Unchecked && !c.Optional {
				open = append(open, c.Reason)
			}
		}
		s.out.Notes[k] = strings.Join(open, "; ")
		return
	}
	inputs := []pipeline.InputRef{pipeline.FromFile(s.conf.File)}
	if q == endorsement.Covers {
		for _, m := range s.keys {
			inputs = append(inputs, pipeline.FromKey(m.Key))
		}
	}
	s.out.Measurements = append(s.out.Measurements, pipeline.Measurement{Key: k, Value: pipeline.OfText(string(v.Verdict)), Basis: basis(j), Inputs: inputs})
	standing := pipeline.Proved
	for _, c := range v.Checks {
		if c.Verdict == verdict.Unchecked && !c.Optional {
			standing = pipeline.Suspected
		}
	}
	for _, c := range v.Checks {
		if c.Verdict != verdict.Fail {
			continue
		}
		cause := pipeline.Cause{Path: []string{string(k), c.Name}, Note: c.Reason, Standing: standing, Hint: "endorsement-signed", Where: pipeline.Where{File: s.conf.File}}
		switch q {
		case endorsement.Logged:
			cause.Hint = "endorsement-logged"
		case endorsement.Valid:
			cause.Hint = "endorsement-valid"
		case endorsement.Covers:
			cause.Hint = "endorsement-covers"
		}
		s.out.Causes[k] = append(s.out.Causes[k], cause)
	}
}
