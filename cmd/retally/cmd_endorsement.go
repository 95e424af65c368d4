package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/endorsement"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/fieldflags"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/endorsements"
)

func (a *app) endorsementCommand() *cobra.Command {
	return group("endorsement", "Who vouches for a digest, until when, and where it was logged", a.endorsementVerifyCommand())
}

func (a *app) endorsementVerifyCommand() *cobra.Command {
	var (
		flags comparison
		conf  config.Endorsement
	)
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Judge offline a Sigstore bundle, SLSA provenance, an Oak endorsement: signed, logged, valid, covers",
		Long: `Judge offline who vouches for what, in four questions:

  signed  who signed it: the key that you give, or the identity that you name
  logged  does a log that you trust hold this very signature
  valid   is it in force at --at
  covers  is it about the files and digests that you name

FILE is a Sigstore bundle (with a keyless certificate, a key, or certificates of
an own hierarchy), one bundle a line, a DSSE envelope, or an in-toto statement
whose --signature and --log-entry lie beside it. No root is built in and nothing
is fetched: --trusted-root is Sigstore's trusted_root.json, --key and --log-key
are public keys in PEM.

All four are asked unless --only names fewer. The exit code is 0 if all that are
asked pass, 1 if one fails, 3 if one stays open. An endorsement is somebody's
word: nothing is recounted by it. An entry under endorsements: in retally.yaml
has the same fields.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf.File = args[0]
			return a.verifyEndorsement(cmd, &flags, &conf)
		},
	}
	flags.flags(cmd)
	fields := fieldflags.Fields(&conf)
	for _, f := range endorsementFlags {
		if f[0] == "only" {
			cmd.Flags().StringSliceVar(&conf.Only, "only", nil, f[1])
			continue
		}
		fieldflags.Bind(cmd.Flags(), bindable(fields[f[0]]), endorsementFlag(f[0]), f[1])
	}
	return cmd
}

// bindable gives lists of files as the lists of texts that flags fill.
func bindable(field any) any {
	if files, ok := field.(*config.Files); ok {
		return (*[]string)(files)
	}
	return field
}

// endorsementFlags are the fields of an endorsement in their order, with what
// they are for.
var endorsementFlags = [][2]string{
	{"signature", "signature beside the statement, raw or base64"},
	{"log_entry", "entry of a log beside the statement, as Rekor's API gives it"},
	{"trusted_root", "Sigstore trusted_root.json with logs and authorities to trust; may be given several times"},
	{"key", "public key of the endorser in PEM; may be given several times"},
	{"log_key", "public key of a log in PEM; may be given several times"},
	{"roots", "certificates of an own hierarchy in PEM; may be given several times"},
	{"identity", "whom the certificate must name, exactly: a mail address, or the workflow with its ref"},
	{"issuer", "who must have vouched for that identity, exactly"},
	{"source", "repository that the certificate must name, exactly"},
	{"builder", "builder that SLSA provenance must name, exactly"},
	{"predicate_type", "type that the statement must have"},
	{"subjects", "digest that must be a subject, as sha256:HEX; may be given several times"},
	{"artifacts", "file that must be a subject; may be given several times"},
	{"at", "time at which it must be in force, as 2026-06-01T00:00:00Z (default now, which the result names)"},
	{"only", "question to ask: signed, logged, valid, covers; may be a list (default: all four)"},
}

// endorsementFlag is the flag of a field. A list is given one by one.
func endorsementFlag(field string) string {
	switch field {
	case "subjects", "artifacts":
		field = strings.TrimSuffix(field, "s")
	}
	return strings.ReplaceAll(field, "_", "-")
}

func (a *app) verifyEndorsement(cmd *cobra.Command, f *comparison, conf *config.Endorsement) error {
	const op = "endorsement verify"
	targets, err := f.targets(append(conf.Files(), conf.Artifacts...)...)
	if err != nil {
		return err
	}
	if conf.At == "" {
		conf.At = time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	field := func(value string, path ...string) string {
		return strings.TrimSpace("--" + endorsementFlag(path[len(path)-1]) + " " + value)
	}
	if err := endorsements.Check(conf, func(msg, hint string, path ...string) error {
		if len(path) > 0 {
			msg = field("", path...) + ": " + msg
		}
		return &userError{op: op, msg: msg, hint: hint}
	}); err != nil {
		return err
	}
	reader := run.NewReader(".", nil)
	name := "stdin"
	if conf.File == "-" {
		data, err := a.readInput(op, "-", endorsement.FileLimit)
		if err != nil {
			return err
		}
		reader.Hold("-", data)
	} else if name, err = recognize.EntryName(conf.File); err != nil {
		return &userError{op: op, path: conf.File, err: err}
	}
	var judged *endorsements.Judged
	res, err := run.Run(cmd.Context(), []run.Stage{endorsements.Showing(func(j *endorsements.Judged) { judged = j })},
		&config.Config{Version: 1, Endorsements: map[string]config.Endorsement{name: *conf}},
		run.Options{Root: ".", Subject: "endorsement " + conf.File, Allow: f.allow, Tool: tool(), Reader: reader, Progress: new(run.Progress), Field: field, NothingRecounted: true})
	if err != nil {
		return plain(err)
	}
	v := newEndorsementView(judged, conf)
	return a.finish(f, targets, res.Report, view{json: v, text: func(w io.Writer, verbose bool) { v.text(w, res.Report.Summary, verbose) }})
}

// endorsementView is the JSON form of endorsement verify.
type endorsementView struct {
	File      string              `json:"file"`
	At        string              `json:"at"`
	Signed    verdict.Judgement   `json:"signed"`
	Logged    verdict.Judgement   `json:"logged"`
	Valid     verdict.Judgement   `json:"valid"`
	Covers    verdict.Judgement   `json:"covers"`
	Asked     []string            `json:"asked"`
	Documents []endorsementResult `json:"documents"`
}

// endorsementResult is what one document says.
type endorsementResult struct {
	Form          string               `json:"form"`
	Signer        string               `json:"signer,omitempty"`
	PredicateType string               `json:"predicate_type,omitempty"`
	LoggedAt      string               `json:"logged_at,omitempty"`
	LogIndex      *int64               `json:"log_index,omitempty"`
	NotBefore     string               `json:"not_before,omitempty"`
	NotAfter      string               `json:"not_after,omitempty"`
	Builder       string               `json:"builder,omitempty"`
	Claims        []string             `json:"claims,omitempty"`
	Subjects      []endorsementSubject `json:"subjects"`
}

type endorsementSubject struct {
	Name    string   `json:"name,omitempty"`
	Digests []string `json:"digests"`
}

func newEndorsementView(j *endorsements.Judged, conf *config.Endorsement) *endorsementView {
	v := &endorsementView{
		File: conf.File, At: conf.At, Asked: j.Asked, Documents: []endorsementResult{},
		Signed: j.Judgements[endorsement.Signed], Logged: j.Judgements[endorsement.Logged], Valid: j.Judgements[endorsement.Valid], Covers: j.Judgements[endorsement.Covers],
	}
	for _, r := range j.Results {
		d := endorsementResult{Form: string(r.Form), Signer: r.By, Subjects: []endorsementSubject{}}
		if !r.LoggedAt.IsZero() {
			d.LoggedAt = r.LoggedAt.Format(time.RFC3339)
		}
		if r.Index >= 0 {
			d.LogIndex = &r.Index
		}
		if s := r.Statement; s != nil {
			d.PredicateType, d.Builder, d.Claims = s.PredicateType, s.Builder, s.Claims
			if !s.NotAfter.IsZero() {
				d.NotBefore, d.NotAfter = s.NotBefore.UTC().Format(time.RFC3339), s.NotAfter.UTC().Format(time.RFC3339)
			}
			for _, subject := range s.Subjects {
				one := endorsementSubject{Name: subject.Name, Digests: []string{}}
				for _, sum := range subject.Digests {
					one.Digests = append(one.Digests, sum.String())
				}
				d.Subjects = append(d.Subjects, one)
			}
		} else {
			d.Subjects = append(d.Subjects, endorsementSubject{Digests: []string{r.Message.String()}})
		}
		v.Documents = append(v.Documents, d)
	}
	return v
}

// text shows the four answers, each with its reasons.
func (v *endorsementView) text(w io.Writer, summary string, verbose bool) {
	show.Line(w, "%s", summary)
	show.Line(w, "")
	signer := "signed by"
	if v.Signed.Verdict != verdict.Pass {
		signer = "names" // nobody vouches that it is true
	}
	for _, d := range v.Documents {
		about := d.Subjects[0].Name
		if about == "" && len(d.Subjects[0].Digests) > 0 {
			about = d.Subjects[0].Digests[0]
		}
		if n := len(d.Subjects) - 1; n > 0 {
			about += fmt.Sprintf(" and %d more", n)
		}
		show.Line(w, "%s about %s", d.Form, about)
		for _, l := range [][2]string{{signer, d.Signer}, {"logged", d.LoggedAt}, {"says", d.PredicateType}, {"built by", d.Builder}, {"in force", strings.Trim(d.NotBefore+" to "+d.NotAfter, " to")}} {
			if l[1] != "" {
				show.Line(w, "  %-9s  %s", l[0], l[1])
			}
		}
	}
	show.Line(w, "")
	for _, q := range []struct {
		name string
		j    verdict.Judgement
	}{{"signed", v.Signed}, {"logged", v.Logged}, {"valid", v.Valid}, {"covers", v.Covers}} {
		word := string(q.j.Verdict)
		if !slices.Contains(v.Asked, q.name) {
			word += " (not asked)"
		}
		show.Line(w, "%-7s %s", q.name, word)
		for _, c := range q.j.Checks {
			if verbose || c.Verdict != verdict.Pass || len(q.j.Checks) < 4 {
				show.Line(w, "  %-9s  %s: %s", c.Verdict, c.Name, c.Reason)
			}
		}
	}
	show.Line(w, "")
	show.Line(w, "judged at %s", v.At)
}
