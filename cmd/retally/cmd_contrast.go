package main

import (
	"context"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/retally/retally/contrastcli"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

func (a *app) contrastCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "contrast", Short: "Look into a Contrast release"}
	cmd.AddCommand(a.contrastCLICommand())
	return cmd
}

type embeddedFile struct {
	Name   string        `json:"name"`
	SHA256 digest.Digest `json:"sha256"`
}

// absentFile is a kind of embedded file that was not found.
type absentFile struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

type comparedValue struct {
	Key      string `json:"key"`
	Embedded string `json:"embedded"`
	Given    string `json:"given"`
	Reason   string `json:"reason,omitempty"`
}

// uncheckedSignature says that nobody's signature stands behind the program.
type uncheckedSignature struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
}

type contrastCLI struct {
	Schema    string                 `json:"schema"`
	Digest    digest.Digest          `json:"digest"`
	Version   string                 `json:"version"`
	Arch      string                 `json:"arch"`
	Signature uncheckedSignature     `json:"signature"`
	Embedded  []embeddedFile         `json:"embedded"`
	Absent    []absentFile           `json:"absent"`
	Genpolicy *contrastcli.Generator `json:"genpolicy,omitempty"`
	Compared  []comparedValue        `json:"compared"`
}

// contrastGiven is what a program is held against.
type contrastGiven struct {
	checksum, rebuild, against, settings, rules string
	platforms                                   []string
}

func (g *contrastGiven) files() []string {
	return []string{g.checksum, g.rebuild, g.against, g.settings, g.rules}
}

// nothing reports whether the verb only looks.
func (g *contrastGiven) nothing() bool {
	return len(g.platforms) == 0 && !slices.ContainsFunc(g.files(), func(f string) bool { return f != "" })
}

func (a *app) contrastCLICommand() *cobra.Command {
	var (
		flags     comparison
		given     contrastGiven
		extractTo string
	)
	cmd := &cobra.Command{
		Use:   "cli FILE",
		Short: "Show what a Contrast program has embedded, without running it",
		Long: `Read a Contrast program for Linux (ELF, amd64 or arm64) and list its digest, the
release it says it is, the files embedded in it, and which of them were not
found. It is never executed. Of an embedded genpolicy, only its headers are
read. No signature of Contrast's programs is known to be published, so none is
checked: hold the digest against the release's (--checksum) or against a program
that you built yourself from the release's tag (--rebuild, see docs/contrast.md).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[0]
			if err := onlyOneStdin("contrast cli", append([]string{file}, given.files()...)...); err != nil {
				return err
			}
			targets, err := flags.targets(append([]string{file}, given.files()...)...)
			if err != nil {
				return err
			}
			p, err := a.contrastProgram(file)
			if err != nil {
				return err
			}
			look := newContrastLook(a, file, p)
			if err := look.compare(cmd.Context(), &given); err != nil {
				return err
			}
			if extractTo != "" {
				if err := flags.guard.WriteFolder(extractTo, look.files()); err != nil {
					return plain(err)
				}
			}
			return look.finish(&flags, targets, &given)
		},
	}
	f := cmd.Flags()
	f.StringVar(&given.checksum, "checksum", "", "the release's checksums (sha256sum lines) or its digest as GitHub shows it")
	f.StringVar(&given.rebuild, "rebuild", "", "the same program, built by yourself from the release's tag")
	f.StringVar(&given.against, "against", "", "manifest.json whose launch values are compared with the embedded ones")
	f.StringVar(&given.settings, "settings", "", "genpolicy settings to compare with the embedded ones")
	f.StringVar(&given.rules, "rules", "", "policy rules to compare with the embedded ones")
	f.StringArrayVar(&given.platforms, "platform", nil, "machine as NAME=FILE, a YAML file with the fields of platforms in retally.yaml: its launch values are computed and compared with the embedded ones; may be given several times")
	f.StringVar(&extractTo, "extract", "", "write the embedded files into this folder")
	flags.flags(cmd)
	return cmd
}

func (a *app) contrastProgram(file string) (*contrastcli.Program, error) {
	data, err := a.readInput("read", file, contrastcli.MaxSize)
	if err != nil {
		return nil, err
	}
	p, err := contrastcli.Read(data)
	if err != nil {
		return nil, &userError{op: "read Contrast program", path: file, err: err}
	}
	return p, nil
}

// contrastLook is a program and what is found of it.
type contrastLook struct {
	a    *app
	file string
	p    *contrastcli.Program
	res  *contrastCLI
	out  *run.Out
	// taken are the keys of embedded values: they are what they are, whoever
	// they are compared with.
	taken map[pipeline.Key]bool
	// recounted is set where a value was computed here, not only read.
	recounted bool
}

func newContrastLook(a *app, file string, p *contrastcli.Program) *contrastLook {
	l := &contrastLook{a: a, file: file, p: p, out: run.NewOut(), taken: map[pipeline.Key]bool{}, res: &contrastCLI{
		Schema: "retally/contrast-cli/1", Digest: p.Digest, Version: p.Version, Arch: p.Arch,
		Signature: uncheckedSignature{string(pipeline.Unchecked), "no signature of Contrast's programs is known to be published; the checksum of the release, or a rebuild, is what binds this file"},
		Embedded:  []embeddedFile{}, Absent: []absentFile{}, Compared: []comparedValue{},
	}}
	l.out.Problem(pipeline.LevelNote, "signature-unchecked", pipeline.Where{File: file}, l.res.Signature.Reason, "--checksum FILE, --rebuild FILE")
	for _, name := range contrastcli.Kinds() {
		f, ok := p.File(name)
		if !ok {
			l.res.Absent = append(l.res.Absent, absentFile{name, "not found by its content; the program may not have it, or has it packed or in another form"})
			l.out.Problem(pipeline.LevelNote, "embedded-absent", pipeline.Where{File: file}, "no embedded "+name+" was found", "")
			continue
		}
		l.res.Embedded = append(l.res.Embedded, embeddedFile{f.Name, f.SHA256})
		if name == contrastcli.Genpolicy {
			l.genpolicy(f)
		}
	}
	return l
}

// genpolicy opens the embedded generator of policies as far as its headers go.
func (l *contrastLook) genpolicy(f contrastcli.File) {
	g, err := contrastcli.OpenGenpolicy(f, l.p.Arch)
	if err != nil {
		g.Odd = err.Error()
	}
	l.res.Genpolicy = &g
	if g.Odd != "" {
		l.out.Problem(pipeline.LevelWarning, "embedded-genpolicy", pipeline.Where{File: l.file}, "the embedded genpolicy "+g.Odd, "this is not how a release is built")
	}
}

func (l *contrastLook) files() []outfile.File {
	var out []outfile.File
	for _, f := range l.p.Files {
		out = append(out, outfile.File{Name: f.Name, Data: func() []byte { return f.Data }})
	}
	return out
}

// compare holds the program against everything that was given.
func (l *contrastLook) compare(ctx context.Context, g *contrastGiven) error {
	if err := l.digests(g); err != nil {
		return err
	}
	if err := l.embedded(g); err != nil {
		return err
	}
	if g.against != "" {
		if err := l.manifest(g.against); err != nil {
			return err
		}
	}
	return l.machines(ctx, g.platforms)
}

// finish judges. That embedded values are as they were found is no lack where
// every one that was asked for could be compared.
func (l *contrastLook) finish(c *comparison, targets []target, g *contrastGiven) error {
	v := view{json: l.res, text: l.res.text, got: "embedded", want: "given", computes: g.nothing()}
	if !l.recounted {
		v.taken = true
		return l.a.judged(c, targets, "what "+l.file+" has embedded", l.out, v)
	}
	v.got, v.want = "", ""
	judged := *c
	if len(l.out.Measurements) == len(l.out.References) {
		for k := range l.taken {
			judged.allow = append(judged.allow, string(k))
		}
	}
	return l.a.judged(&judged, targets, "what "+l.file+" has embedded", l.out, v)
}

func (r *contrastCLI) text(w io.Writer, verbose bool) {
	show.Line(w, "%s  %s  %s", r.Digest, show.Or(r.Version, "(says no version)"), r.Arch)
	for _, f := range r.Embedded {
		show.Line(w, "  %s  %s", f.SHA256, f.Name)
	}
	for _, f := range r.Absent {
		show.Line(w, "  %-71s  %s", "not found", f.Name)
	}
	if g := r.Genpolicy; g != nil {
		link := "static"
		if g.Interpreter != "" {
			link = "loaded by " + g.Interpreter
		}
		show.Line(w, "genpolicy: %s, %s, build ID %s", g.Arch, link, show.Or(g.BuildID, "none"))
		if verbose {
			for _, lib := range g.Libraries {
				show.Line(w, "  loads %s", lib)
			}
		}
		if g.Odd != "" {
			show.Line(w, "  WARNING  genpolicy %s", g.Odd)
		}
	}
	for _, c := range r.Compared {
		switch {
		case c.Reason != "":
			show.Line(w, "  UNCHECKED  %s: %s", c.Key, c.Reason)
		case c.Embedded == c.Given:
			show.Line(w, "  MATCH  %s", c.Key)
		default:
			show.Line(w, "  DIFFERS  %s: %s, given %s", c.Key, c.Embedded, c.Given)
		}
	}
	show.Line(w, "signature: not checked; %s", r.Signature.Reason)
}
