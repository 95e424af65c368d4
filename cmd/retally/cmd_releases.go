package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/releases"
)

func (a *app) releasesCommand() *cobra.Command {
	return group("releases", "Remember recounted releases in a list that only grows", a.releasesAddCommand(), a.releasesListCommand(), a.releasesCheckCommand())
}

// maxReport bounds a report or manifest that is added, in bytes.
const maxReport = 256 << 20

type addedRelease struct {
	releases.Checkpoint
	Root     string         `json:"root"`
	Entry    releases.Entry `json:"entry"`
	Verifier string         `json:"verifier,omitempty"` // of a new key
}

func (a *app) releasesAddCommand() *cobra.Command {
	var name, key, newKey, at, output string
	cmd := &cobra.Command{
		Use:   "add LOG RUN",
		Short: "Put a recounted release at the end of a list, and sign the list",
		Long: `RUN is the folder that "retally run --out" or "retally gate --out" wrote, or its
report.json. The list has an entry with the digests of the report and of the
manifest and with the report's outcome; both files are kept beside it. The list
is a log in the form of C2SP's tlog-tiles with a checkpoint that --key signs, so
that witnesses of that form can follow it.

Nothing is added to a list that does not hold, nor the same report twice.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.recounted(args[1], name, at)
			if err != nil {
				return err
			}
			private, verifier, err := signingKey(key, newKey)
			if err != nil {
				return err
			}
			s, v, err := releases.ParseSigner(private)
			if err != nil {
				return &userError{op: "read key", path: key, err: err}
			}
			l, err := releases.Add(args[0], s, v, r)
			if err != nil {
				return &userError{op: "add release", path: args[0], err: reason(err)}
			}
			doc := addedRelease{l.Checkpoint, fmt.Sprintf("%x", l.Root), l.Entries[len(l.Entries)-1], verifier}
			return a.result(output, doc, func(w io.Writer) {
				show.Line(w, "entry %d  %s  %s  report %s", doc.Entry.Index, doc.Entry.Release, doc.Entry.Outcome, doc.Entry.Report)
				show.Line(w, "list      %s, %s, root %s", l.Origin, show.Plural(int(l.Size), "entry", "entries"), doc.Root)
				if verifier != "" {
					show.Line(w, "key       %s  (publish it; it is in %s.pub)", verifier, key)
				}
			})
		},
	}
	cmd.Flags().StringVar(&name, "release", "", "what the release is called")
	cmd.Flags().StringVar(&key, "key", "", "file with the private key that signs the list (a signed note's)")
	cmd.Flags().StringVar(&newKey, "new-key", "", "make the key first, for a list of this name (for instance example.com/releases); --key says where")
	cmd.Flags().StringVar(&at, "at", "", "when it was recounted, RFC 3339 (default now)")
	_ = cmd.MarkFlagRequired("release")
	_ = cmd.MarkFlagRequired("key")
	outputFlag(cmd, &output)
	return cmd
}

// recounted reads what a run wrote.
func (a *app) recounted(from, name, at string) (r releases.Release, err error) {
	file, manifest := from, ""
	if info, err := os.Stat(from); err == nil && info.IsDir() {
		file, manifest = filepath.Join(from, "report.json"), filepath.Join(from, "manifest.json")
	}
	if r.Report, err = a.readInput("read report", file, maxReport); err != nil {
		return r, err
	}
	rep, err := pipeline.ReadReport(file, r.Report)
	if err != nil {
		return r, err
	}
	if manifest != "" {
		if _, err := os.Lstat(manifest); err == nil {
			if r.Manifest, err = a.readInput("read manifest", manifest, maxReport); err != nil {
				return r, err
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return r, &userError{op: "read manifest", path: manifest, err: reason(err)}
		}
	}
	r.Name, r.Outcome, r.Tool, r.At = name, string(rep.Outcome), strings.TrimSpace(rep.Tool.Name+" "+rep.Tool.Version), time.Now()
	if at != "" {
		if r.At, err = time.Parse(time.RFC3339, at); err != nil {
			return r, &userError{op: "releases add", msg: "--at " + at + ": is no time", hint: "write RFC 3339: 2026-11-30T00:00:00Z"}
		}
	}
	return r, nil
}

// signingKey reads the private key, or makes it; verifier is what others need of
// a new one.
func signingKey(file, origin string) (private, verifier string, err error) {
	if origin == "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", "", &userError{op: "read key", path: file, err: reason(err), hint: "--new-key NAME makes it, for a list of that name"}
		}
		return string(data), "", nil
	}
	if private, verifier, err = releases.NewKey(origin); err == nil {
		_, _, err = releases.ParseSigner(private)
	}
	if err != nil {
		return "", "", &userError{op: "make key", msg: fmt.Sprintf("%.80q is no name of a key", origin), hint: "such as example.com/releases: no spaces, no plus sign"}
	}
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{{file, private, 0o600}, {file + ".pub", verifier, 0o644}} {
		out, err := os.OpenFile(f.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.mode)
		if err == nil {
			_, err = out.WriteString(f.text + "\n")
			err = errors.Join(err, out.Close())
		}
		if err != nil {
			return "", "", &userError{op: "make key", path: f.name, err: reason(err), hint: "a key that is there is not replaced"}
		}
	}
	return private, verifier, nil
}

// logVerifier reads the key that a list's checkpoint must be signed by; nil
// without one.
func (a *app) logVerifier(file string) (note.Verifier, error) {
	if file == "" {
		return nil, nil
	}
	data, err := a.readInput("read key", file, 1<<16)
	if err != nil {
		return nil, err
	}
	v, err := releases.ParseVerifier(string(data))
	if err != nil {
		return nil, &userError{op: "read key", path: file, err: err}
	}
	return v, nil
}

type listedReleases struct {
	releases.Checkpoint
	Root    string           `json:"root"`
	Entries []releases.Entry `json:"entries"`
	Faults  []releases.Fault `json:"faults"`
}

func listed(l *releases.Log) listedReleases {
	doc := listedReleases{l.Checkpoint, fmt.Sprintf("%x", l.Root), l.Entries, l.Faults}
	if doc.Entries == nil {
		doc.Entries = []releases.Entry{}
	}
	if doc.Faults == nil {
		doc.Faults = []releases.Fault{}
	}
	return doc
}

func (a *app) releasesListCommand() *cobra.Command {
	var output, key string
	cmd := &cobra.Command{
		Use:   "list LOG",
		Short: "Show the releases of a list",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := a.openLog(args[0], key)
			if err != nil {
				return err
			}
			doc := listed(l)
			text := func(w io.Writer) {
				for _, e := range l.Entries {
					show.Line(w, "%4d  %s  %-9s  %s  report %s", e.Index, e.At, e.Outcome, e.Release, a.clipped(e.Report))
				}
				show.Line(w, "%s: %s", l.Origin, show.Plural(int(l.Size), "entry", "entries"))
				for _, f := range l.Faults {
					show.Line(w, "FAULT  %s", f)
				}
			}
			if len(l.Faults) == 0 {
				return a.result(output, doc, text)
			}
			var why []string
			for _, f := range l.Faults {
				why = append(why, f.String())
			}
			return a.concluded(output, conclusion{word: wordInvalid, reasons: why}, doc, text)
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "file with the public key that must have signed the list")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) clipped(d digest.Digest) string {
	if a.verbose {
		return d.String()
	}
	return d.Hex()[:12]
}

func (a *app) openLog(dir, key string) (*releases.Log, error) {
	v, err := a.logVerifier(key)
	if err != nil {
		return nil, err
	}
	l, err := releases.Open(dir, v)
	if err != nil {
		return nil, &userError{op: "read list of releases", path: dir, err: reason(err), hint: "give the folder that releases add wrote"}
	}
	return l, nil
}

func (a *app) releasesCheckCommand() *cobra.Command {
	var (
		flags          comparison
		key            string
		against, holds []string
	)
	cmd := &cobra.Command{
		Use:   "check LOG",
		Short: "Compute a list again, and hold it against what others were shown",
		Long: `Read every entry and compute the whole list again: each entry follows the one
before, the tiles and the signed root are what the entries give. With --against
another copy, or a checkpoint that was kept: the list must have grown from it,
or be it. With --holds a report or a manifest: it must be in the list.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := onlyOneStdin("releases check", append(append([]string{key}, against...), holds...)...); err != nil {
				return err
			}
			targets, err := flags.targets(append(append(args, key), append(against, holds...)...)...)
			if err != nil {
				return err
			}
			l, err := a.openLog(args[0], key)
			if err != nil {
				return err
			}
			c := &logCheck{l: l, dir: args[0], out: run.NewOut()}
			c.itself(key)
			for _, name := range against {
				if err := a.checkAgainst(c, name, key); err != nil {
					return err
				}
			}
			for _, name := range holds {
				data, err := a.readInput("read", name, maxReport)
				if err != nil {
					return err
				}
				c.holds(name, data)
			}
			doc := listed(l)
			doc.Faults = append(doc.Faults, c.faults...)
			return a.judged(&flags, targets, "the list of releases "+args[0], c.out, view{json: doc, text: func(w io.Writer, _ bool) {
				for _, line := range c.lines {
					show.Line(w, "%s", line)
				}
				for _, f := range doc.Faults {
					show.Line(w, "FAULT  %s", f)
				}
			}, differs: wordInvalid})
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "file with the public key that must have signed the list")
	cmd.Flags().StringArrayVar(&against, "against", nil, "another copy of the list, or a checkpoint of it that was seen; may be given several times")
	cmd.Flags().StringArrayVar(&holds, "holds", nil, "report.json or manifest that must be in the list; may be given several times")
	flags.flags(cmd)
	return cmd
}

// logCheck collects what a list was held against.
type logCheck struct {
	l      *releases.Log
	dir    string
	out    *run.Out
	faults []releases.Fault
	lines  []string
}

func (c *logCheck) key(parts ...string) pipeline.Key {
	return pipeline.NewKey(append([]string{"releases", c.l.Origin}, parts...)...)
}

func (c *logCheck) line(format string, args ...any) {
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

func (c *logCheck) problem(f releases.Fault) {
	c.out.Problem(pipeline.LevelError, "releases-"+f.Code, pipeline.Where{File: filepath.ToSlash(filepath.Join(c.dir, f.File))}, f.String(), "")
}

// itself judges what the list is by itself, and who signed it.
func (c *logCheck) itself(key string) {
	l, where := c.l, pipeline.Where{File: filepath.ToSlash(filepath.Join(c.dir, "checkpoint"))}
	const good = "a list that holds"
	got, bad := good, ""
	for _, f := range l.Faults {
		c.problem(f)
		if f.Code == releases.BadSignature {
			bad = f.Msg
		} else if got == good {
			got = f.String()
		}
	}
	if l.Size == 0 && got == good {
		c.out.Notes[c.key("list")] = "the list has no entry, so there is nothing in it that could hold"
	} else {
		c.out.Measure(c.key("list"), pipeline.OfText(got), c.dir, fmt.Sprintf("%s, root %x", show.Plural(int(l.Size), "entry", "entries"), l.Root))
	}
	c.out.Refer(c.key("list"), pipeline.OfText(good), where, "every entry, tile and root")
	c.line("list      %s, %s, root %x", l.Origin, show.Plural(int(l.Size), "entry", "entries"), l.Root)
	signer := c.key("signer")
	c.out.Refer(signer, pipeline.OfText("the key of "+l.Origin), where, "who signed the list")
	switch {
	case bad != "":
		c.out.Measure(signer, pipeline.OfText(bad), c.dir, "")
	case !l.Signed:
		c.out.Notes[signer] = "no key was given, so that anybody can have made the list"
		c.line("signature unchecked: no key was given")
	default:
		c.out.Measurements = append(c.out.Measurements, pipeline.Measurement{Key: signer, Value: pipeline.OfText("the key of " + l.Origin), Basis: pipeline.Endorsed, Inputs: []pipeline.InputRef{pipeline.FromFile(key)}})
		c.line("signature by the key in %s", key)
	}
}

// judge adds one thing that the list was held against.
func (c *logCheck) judge(k pipeline.Key, where, good, words string, f *releases.Fault) {
	got := pipeline.OfText(good)
	if f != nil {
		got = pipeline.OfText(f.String())
		c.problem(*f)
		c.faults = append(c.faults, *f)
	} else {
		c.line("%-9s %s: %s", words, where, good)
	}
	c.out.Measure(k, got, c.dir, "")
	c.out.Refer(k, pipeline.OfText(good), pipeline.Where{File: where}, words)
}

// checkAgainst holds the list against a copy or a checkpoint.
func (a *app) checkAgainst(c *logCheck, name, key string) error {
	v, err := a.logVerifier(key)
	if err != nil {
		return err
	}
	k := c.key("against", name)
	info, err := os.Stat(name)
	if err == nil && info.IsDir() {
		other, err := a.openLog(name, key)
		if err != nil {
			return err
		}
		f := c.l.AgainstCopy(other)
		if f == nil && len(other.Faults) > 0 {
			f = &other.Faults[0]
			f.Msg = "the copy does not hold by itself: " + f.Msg
		}
		c.judge(k, name, fmt.Sprintf("consistent with its %s", show.Plural(int(other.Size), "entry", "entries")), "copy", f)
		return nil
	}
	data, err := a.readInput("read checkpoint", name, 1<<16)
	if err != nil {
		return err
	}
	cp, err := releases.ParseCheckpoint(name, data, v)
	if err != nil {
		return &userError{op: "read checkpoint", err: err}
	}
	c.judge(k, name, fmt.Sprintf("consistent with its %s", show.Plural(int(cp.Size), "entry", "entries")), "seen", c.l.Against(cp))
	return nil
}

// holds asks for the entry of a report or manifest.
func (c *logCheck) holds(name string, data []byte) {
	kind := releases.Manifests
	if pipeline.IsReport(data[:min(len(data), 64<<10)]) {
		kind = releases.Reports
	}
	e, f := c.l.Included(kind, digest.SHA256.Sum(data))
	good := "is in the list"
	if e != nil {
		good = fmt.Sprintf("is entry %d, %s, %s", e.Index, e.Release, e.Outcome)
	}
	c.judge(c.key("holds", name), name, good, "holds", f)
}
