package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/contrastcli"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
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

type comparedValue struct {
	Key      string `json:"key"`
	Embedded string `json:"embedded"`
	Given    string `json:"given"`
	Reason   string `json:"reason,omitempty"`
}

type contrastCLI struct {
	Schema   string          `json:"schema"`
	Digest   digest.Digest   `json:"digest"`
	Version  string          `json:"version"`
	Embedded []embeddedFile  `json:"embedded"`
	Compared []comparedValue `json:"compared"`
}

func (a *app) contrastCLICommand() *cobra.Command {
	var (
		flags                                         comparison
		checksum, against, settings, rules, extractTo string
	)
	cmd := &cobra.Command{
		Use:   "cli FILE",
		Short: "Show what a Contrast program has embedded, without running it",
		Long: `Read a Contrast program for Linux (ELF, amd64 or arm64) and list its digest, the
release it says it is and the files embedded in it. It is never executed. The
signature of a release is not checked, nor what an embedded genpolicy holds.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := args[0]
			if err := onlyOneStdin("contrast cli", file, checksum, against, settings, rules); err != nil {
				return err
			}
			targets, err := flags.targets(file, checksum, against, settings, rules)
			if err != nil {
				return err
			}
			data, err := a.readInput("read", file, contrastcli.MaxSize)
			if err != nil {
				return err
			}
			p, err := contrastcli.Read(data)
			if err != nil {
				return &userError{op: "read Contrast program", path: file, err: err}
			}
			res, out := &contrastCLI{Schema: "retally/contrast-cli/1", Digest: p.Digest, Version: p.Version, Embedded: []embeddedFile{}, Compared: []comparedValue{}}, run.NewOut()
			var files []outfile.File
			for _, f := range p.Files {
				res.Embedded = append(res.Embedded, embeddedFile{f.Name, f.SHA256})
				files = append(files, outfile.File{Name: f.Name, Data: func() []byte { return f.Data }})
			}
			// An empty got is a value that the program does not have: unchecked.
			compare := func(key pipeline.Key, got, want digest.Digest, by, why string) {
				c := comparedValue{Key: string(key), Given: want.String(), Reason: why}
				if why == "" {
					c.Embedded = got.String()
					out.Measure(key, pipeline.OfDigest(got), file, "")
				} else {
					out.Notes[key] = why
				}
				out.Refer(key, pipeline.OfDigest(want), pipeline.Where{File: by}, "given")
				res.Compared = append(res.Compared, c)
			}
			if checksum != "" {
				text, err := a.readInput("read", checksum, smallFile)
				if err != nil {
					return err
				}
				want, err := contrastcli.Checksum(checksum, string(text), filepath.Base(file))
				if err != nil {
					return &userError{op: "read checksum", path: checksum, err: err}
				}
				compare(pipeline.NewKey("contrast-cli", "digest"), p.Digest, want, checksum, "")
			}
			for _, g := range []struct{ name, path string }{{contrastcli.Settings, settings}, {contrastcli.Rules, rules}} {
				if g.path == "" {
					continue
				}
				b, err := a.readInput("read", g.path, smallFile)
				if err != nil {
					return err
				}
				sum := sha256.Sum256(b)
				want, err := digest.FromBytes(digest.SHA256, sum[:])
				if err != nil {
					return err
				}
				f, ok := p.File(g.name)
				why := ""
				if !ok {
					why = "the program has no such file embedded that was found"
				}
				compare(pipeline.NewKey("contrast-cli", g.name), f.SHA256, want, g.path, why)
			}
			if against != "" {
				if err := a.contrastAgainst(p, against, compare); err != nil {
					return err
				}
			}
			if extractTo != "" {
				if err := flags.guard.WriteFolder(extractTo, files); err != nil {
					return plain(err)
				}
			}
			return a.judged(&flags, targets, "what "+file+" has embedded", out, view{json: res, text: res.text, taken: true, got: "embedded", want: "given", computes: checksum+against+settings+rules == ""})
		},
	}
	cmd.Flags().StringVar(&checksum, "checksum", "", "the release's checksums (sha256sum lines) or its digest as GitHub shows it")
	cmd.Flags().StringVar(&against, "against", "", "manifest.json whose launch values are compared with the embedded ones")
	cmd.Flags().StringVar(&settings, "settings", "", "genpolicy settings to compare with the embedded ones")
	cmd.Flags().StringVar(&rules, "rules", "", "policy rules to compare with the embedded ones")
	cmd.Flags().StringVar(&extractTo, "extract", "", "write the embedded files into this folder")
	flags.flags(cmd)
	return cmd
}

func (a *app) contrastAgainst(p *contrastcli.Program, name string, compare func(pipeline.Key, digest.Digest, digest.Digest, string, string)) error {
	data, err := a.readInput("read", name, smallFile)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(name, data)
	if err != nil {
		return &userError{op: "read manifest", path: name, err: err}
	}
	ref, _ := p.File(contrastcli.ReferenceValues)
	list, err := contrastcli.Values(ref)
	if err != nil {
		return err
	}
	one := func(pointer, published string, v contrastcli.Value) error {
		want, err := digest.ParseHex(digest.SHA384, published)
		if err != nil {
			return &userError{op: "read manifest", path: name, msg: fmt.Sprintf("%s/%s: %v", pointer, v.Field, err)}
		}
		hex, why := contrastcli.Select(list, v)
		var got digest.Digest
		if why == "" {
			if got, err = digest.ParseHex(digest.SHA384, hex); err != nil {
				why = "the embedded value is no SHA-384: " + err.Error()
			}
		}
		compare(pipeline.NewKey(append([]string{"contrast-cli"}, strings.Split(strings.Trim(pointer, "/")+"/"+v.Field, "/")...)...), got, want, name, why)
		return nil
	}
	for _, e := range m.SNP() {
		if err := one(e.Pointer, e.TrustedMeasurement, contrastcli.Value{Platform: e.Platform, Product: e.ProductName, CPUs: e.CPUs, Field: "TrustedMeasurement"}); err != nil {
			return err
		}
	}
	for _, e := range m.TDX() {
		if err := one(e.Pointer, e.MrTd, contrastcli.Value{Platform: e.Platform, Field: "MrTd"}); err != nil {
			return err
		}
		for i, r := range e.Rtmrs {
			if err := one(e.Pointer, r, contrastcli.Value{Platform: e.Platform, Field: fmt.Sprintf("Rtmrs/%d", i)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *contrastCLI) text(w io.Writer, _ bool) {
	show.Line(w, "%s  %s", r.Digest, r.Version)
	for _, f := range r.Embedded {
		show.Line(w, "  %s  %s", f.SHA256, f.Name)
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
	show.Line(w, "the signature of the release was not checked")
}
