package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/atomicfile"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/pipeline/stages/tpm"
)

// evidenceFlags are a piece of evidence as the command line describes it.
type evidenceFlags struct {
	comparison
	conf       config.Evidence
	fields     []flagField
	testRootOK bool
	atNow      bool // the time is the clock's
}

func (a *app) evidenceVerifyCommand() *cobra.Command {
	f := new(evidenceFlags)
	cmd := &cobra.Command{
		Use:   "verify FILE|DIR|-...",
		Short: "Judge a quote, GPU evidence or a capture: authentic, expected, bound",
		Long: `Judge offline what a machine shows of itself, in three verdicts:

  authentic  who signed it, and is the hardware's protection on
  expected   do the registers come from the release, artifacts and compose file
             that you name
  bound      does it belong to this TLS key, this GPU, this nonce

FILE is a TDX quote (binary, hex, base64, in JSON or YAML of any maker, in an
RA-TLS certificate), dstack's attestation, a saved cpu.html or gpu.html,
evidence of GPUs or switches in JSON, an SEV-SNP report, a TPM's quote,
BlindLlama's proof file, a Contrast Coordinator's answer to /attest or a
certificate of its attested TLS; DIR is a folder of "retally evidence capture". Several
are taken together: a quote and the evidence of its GPUs, the three files of
tpm2_quote, the HCL report that vouches for a TPM's key.
All three are asked for unless --only names fewer. The exit code is 0 if every
verdict asked for passes, 1 if one fails, 3 if one stays unchecked: a genuine
quote of unknown code is no pass. An entry under evidence: in retally.yaml has
the same fields and gives the same verdicts.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.conf.File, f.conf.Also = args[0], slices.Clone(args[1:])
			return a.verifyEvidence(cmd, f)
		},
	}
	f.comparison.flags(cmd)
	cmd.Flags().BoolVar(&f.testRootOK, "test-root-ok", false, "let evidence under a test root pass (--intel-root, --nvidia-root, --roots), which shows nothing about real hardware")
	f.fields = bindEvidence(cmd, &f.conf)
	return cmd
}

func (a *app) verifyEvidence(cmd *cobra.Command, f *evidenceFlags) error {
	targets, err := f.targets()
	if err != nil {
		return err
	}
	if err := f.check(cmd); err != nil {
		return err
	}
	name, err := recognize.EntryName(f.conf.File)
	if err != nil {
		return &userError{op: "evidence verify", path: f.conf.File, err: err}
	}
	if f.conf.File == "-" {
		name = "stdin"
	}
	reader := run.NewReader(".", nil)
	subject := strings.Join(append([]string{f.conf.File}, f.conf.Also...), ", ")
	if err := a.holdStreams(cmd.Context(), reader, &f.conf); err != nil {
		return err
	}
	o := run.Options{
		Root: ".", Subject: "evidence " + subject, Allow: f.allow, TestRootOK: f.testRootOK, Tool: tool(), Reader: reader, Progress: new(run.Progress),
		Field: func(value string, path ...string) string { return flagOf(f.fields, path[len(path)-1], value) },
	}
	var judged *evidencestage.Judged
	table := []run.Stage{tdx.Stage(), tpm.Stage(), evidencestage.Showing(func(j *evidencestage.Judged) { judged = j })}
	stop := a.showProgress(o.Progress)
	res, err := run.Run(cmd.Context(), table, &config.Config{Evidence: map[string]config.Evidence{name: f.conf}}, o)
	stop()
	if err != nil {
		// The verb says which stage it is.
		if s := (*run.StageError)(nil); errors.As(err, &s) {
			err = s.Err
		}
		return err
	}
	v := newEvidenceView(judged, res.Report, f)
	for _, t := range targets {
		var b bytes.Buffer
		if err := t.format.Render(&b, res.Report); err != nil {
			return &userError{op: "write report", path: t.path, err: err}
		}
		if err := atomicfile.Write(t.path, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	end := reported(res.Report)
	if f.output == "json" {
		if end.word == string(pipeline.OutcomeDiffers) && v.Authentic.Verdict == verdict.Fail && slices.Contains(v.Asked, evidence.Authentic) {
			end.word = wordInvalid // nobody vouches for it, so that what it says is no value
		}
		return a.concluded(f.output, end, v, nil)
	}
	if err := a.printEvidence(v); err != nil {
		return &userError{op: "write result", err: err}
	}
	return end.end()
}

// check finds what is wrong with the flags before anything is read.
func (f *evidenceFlags) check(cmd *cobra.Command) error {
	for _, x := range f.fields {
		// An empty value is no wish to leave a flag out: it is a variable that the
		// shell did not know.
		if flag := cmd.Flags().Lookup(x.flag); flag.Changed && slices.Contains([]string{"", "[]"}, flag.Value.String()) {
			return &userError{op: "evidence verify", msg: "--" + x.flag + ": the value is empty", hint: "leave the flag out, or give it a value"}
		}
	}
	if f.atNow = f.conf.At == ""; f.atNow {
		f.conf.At = time.Now().UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	return evidencestage.Check(&f.conf, func(msg, hint string, path ...string) error {
		if len(path) > 0 {
			msg = flagOf(f.fields, path[len(path)-1], "") + ": " + msg
		}
		return &userError{op: "evidence verify", msg: msg, hint: hint}
	})
}

// isStream reports whether a path stands for bytes that come once: stdin, or what
// a shell's process substitution names.
func isStream(path string) bool {
	return path == "-" || path == "/dev/stdin" || strings.HasPrefix(path, "/dev/fd/") || strings.HasPrefix(path, "/proc/self/fd/")
}

// streamLimit bounds what a stream may hold in bytes. Each kind of input has a
// limit of its own below it.
const streamLimit = 64 << 20

// holdStreams reads stdin and process substitutions. Files that are only hashed
// become their digest.
func (a *app) holdStreams(ctx context.Context, reader *run.Reader, e *config.Evidence) error {
	files, large := evidenceFiles(e)
	first := ""
	open := func(path, what string) (io.ReadCloser, error) {
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				return nil, &userError{op: "read", path: path, err: reason(err)}
			}
			return f, nil
		}
		if first != "" {
			return nil, &userError{op: "evidence verify", path: path, msg: fmt.Sprintf("stdin is read for %s already, it cannot be %s too", first, what)}
		}
		first = what
		return io.NopCloser(a.stdin), nil
	}
	for _, path := range files {
		if !isStream(*path) {
			continue
		}
		what := "evidence"
		if path != &e.File {
			what = "another input"
		}
		r, err := open(*path, what)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(r, streamLimit+1))
		if err = errors.Join(err, r.Close()); err != nil {
			return &userError{op: "read", path: *path, err: reason(err)}
		}
		reader.Hold(*path, data)
	}
	for _, path := range large {
		if !isStream(*path) {
			continue
		}
		r, err := open(*path, "a file to hash")
		if err != nil {
			return err
		}
		h := digest.SHA256.New()
		n, err := io.Copy(h, &untilDone{ctx, r})
		if err = errors.Join(err, r.Close()); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &userError{op: "read", path: *path, err: reason(err)}
		}
		*path = digest.FromHash(digest.SHA256, h).String()
		if n == 0 && path == &e.DockerFiles {
			*path = "" // an empty archive is none
		}
	}
	return nil
}

// untilDone ends a reading when the context does.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}
