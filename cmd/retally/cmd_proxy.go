package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/privatemode"
)

const fetchWarning = "an entry says that the proxy fetched the manifest, not that it verified it"

func (a *app) proxyLogCommand() *cobra.Command {
	var (
		output string
		all    bool
	)
	cmd := &cobra.Command{
		Use:   "proxy-log DIR",
		Short: "Name the manifest of the latest entry of a Privatemode proxy's log",
		Long: `Read a Privatemode proxy's workspace (or its manifests folder) and name the
manifest of the latest entry of log.txt, or of every entry with --all. Both
formats of the log are read. ` + "An entry says that the proxy fetched the\nmanifest, not that it verified it.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := privatemode.OpenWorkspace(args[0])
			if err != nil {
				return &userError{op: "read proxy workspace", path: args[0], err: err, hint: "give the folder that the proxy was started with as --workspace, or its manifests folder"}
			}
			defer w.Close()
			entries := w.Log.Entries
			if !all && len(entries) > 0 {
				entries = entries[len(entries)-1:]
			}
			list := []proxyEntry{}
			for _, e := range entries {
				list = append(list, newProxyEntry(w, e))
			}
			if output == "json" {
				problems := []string{}
				for _, p := range slices.Concat(w.Faults, w.Log.Notes) {
					problems = append(problems, p.Error())
				}
				if err := writeJSON(a.stdout, map[string]any{"entries": list, "unlogged": orEmpty(w.Unlogged), "problems": problems, "warning": fetchWarning}); err != nil {
					return err
				}
			} else {
				a.printProxyLog(w, list)
			}
			return proxyLogOutcome(w, list)
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&all, "all", false, "list every entry, not only the latest")
	return cmd
}

// proxyEntry is one entry with the digest of the manifest it names.
type proxyEntry struct {
	Line              int           `json:"line"`
	Time              string        `json:"time"`
	Manifest          string        `json:"manifest"`
	Digest            digest.Digest `json:"digest"`
	CoordinatorPolicy digest.Digest `json:"coordinatorPolicy"`
	Overwritten       bool          `json:"overwritten"`
	Problem           string        `json:"problem,omitempty"`
}

func newProxyEntry(w *privatemode.Workspace, e privatemode.LogEntry) proxyEntry {
	p := proxyEntry{Line: e.Line, Time: e.TimeText, Manifest: e.Path, CoordinatorPolicy: e.CoordinatorPolicy}
	p.Overwritten = slices.ContainsFunc(w.Overwritten, func(o privatemode.LogEntry) bool { return o.Line == e.Line })
	data, err := w.Manifest(e)
	if err != nil {
		p.Problem = err.Error()
		return p
	}
	p.Digest = digest.SHA256.Sum(data)
	return p
}

// proxyLogOutcome is "unchecked" where the manifest that was asked for is not
// there or the log cannot be read in full.
func proxyLogOutcome(w *privatemode.Workspace, list []proxyEntry) error {
	if len(w.Faults) > 0 || len(list) == 0 || slices.ContainsFunc(list, func(p proxyEntry) bool { return p.Problem != "" }) {
		return outcomeError{exitUnchecked}
	}
	return nil
}

func (a *app) printProxyLog(w *privatemode.Workspace, list []proxyEntry) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, p := range list {
		if p.Problem != "" {
			line("%s  %s  %s", p.Time, p.Manifest, p.Problem)
			continue
		}
		s := fmt.Sprintf("%s  %s  %s", p.Time, p.Manifest, p.Digest)
		if !p.CoordinatorPolicy.IsZero() {
			s += "  coordinator policy " + p.CoordinatorPolicy.Hex()
		}
		if p.Overwritten {
			s += "  (a later entry has overwritten this file)"
		}
		line("%s", s)
	}
	if len(list) == 0 {
		line("the log has no entry")
	}
	for _, f := range w.Unlogged {
		a.talk("retally: warning: no entry of the log names %s", f)
	}
	for _, p := range slices.Concat(w.Faults, w.Log.Notes) {
		a.talk("retally: warning: %s", p.Error())
	}
	a.talk("retally: %s", fetchWarning)
}

func (a *app) proxyImageCommand() *cobra.Command {
	var output, inspect, hashes, name string
	cmd := &cobra.Command{
		Use:   "proxy-image --inspect FILE",
		Short: "Compare the digest of a pulled proxy image with the rebuilt one",
		Long: `Read what "docker inspect IMAGE" or "podman inspect IMAGE" prints and compare
with the digest of a rebuild. An image has three digests that are easily taken
for one another: of its index (all platforms), of the manifest of one platform,
and of its configuration. The rebuilt digest of the proxy is that of the index.
Of several images in FILE those count that are called as --name says, and of an
index the manifest of the platform that runs.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if inspect == "-" && hashes == "-" {
				return &userError{op: "proxy-image", msg: "only one input can be stdin"}
			}
			data, err := a.readInput("read", inspect, smallFile)
			if err != nil {
				return err
			}
			images, err := privatemode.ParseInspect(inspect, data)
			if err != nil {
				return &userError{op: "read docker inspect output", path: inspect, err: err, hint: "docker inspect IMAGE > FILE"}
			}
			res := proxyImage{Inspected: []inspected{}}
			if hashes != "" {
				data, err := a.readInput("read", hashes, smallFile)
				if err != nil {
					return err
				}
				list, err := privatemode.ParseHashes(hashes, data)
				if err != nil {
					return err
				}
				i := slices.IndexFunc(list, func(h privatemode.ImageHash) bool { return h.Name == name })
				if i < 0 {
					var known []string
					for _, h := range list {
						known = append(known, h.Name)
					}
					return &userError{op: "find image", path: hashes, msg: fmt.Sprintf("has no digest of %q", name), hint: "it has " + strings.Join(known, ", ") + "; --name chooses one"}
				}
				res.Rebuilt, res.Name = list[i].Digest, name
			}
			for _, img := range images {
				res.add(img)
			}
			res.judge()
			if output == "json" {
				if err := writeJSON(a.stdout, res); err != nil {
					return err
				}
			} else {
				a.printProxyImage(&res)
			}
			if res.Verdict == "match" {
				return nil
			}
			if res.Verdict == "differs" {
				return outcomeError{exitDiffers}
			}
			return outcomeError{exitUnchecked}
		},
	}
	cmd.Flags().StringVar(&inspect, "inspect", "", "output of docker inspect IMAGE, - for stdin")
	cmd.Flags().StringVar(&hashes, "hashes", "", "hashes-<host>.json of a rebuild")
	cmd.Flags().StringVar(&name, "name", "privatemode-proxy", "name of the image in the hashes file")
	_ = cmd.MarkFlagRequired("inspect")
	outputFlag(cmd, &output)
	return cmd
}

// proxyImage is the result of proxy-image.
type proxyImage struct {
	Verdict   string        `json:"verdict"` // match, differs, unchecked
	Reason    string        `json:"reason"`
	Name      string        `json:"name,omitempty"`
	Rebuilt   digest.Digest `json:"rebuilt"`
	Inspected []inspected   `json:"inspected"`
}

type inspected struct {
	Names    []string      `json:"names"`
	Platform string        `json:"platform"`
	Asked    bool          `json:"asked"` // it is the image whose rebuilt digest is compared
	Digests  []kindedEntry `json:"digests"`
}

type kindedEntry struct {
	Kind    string        `json:"kind"`
	Digest  digest.Digest `json:"digest"`
	Field   string        `json:"field"`
	Rebuilt bool          `json:"rebuilt"` // equal to the rebuilt digest
	// Counts: it identifies what was pulled under the asked name for the
	// platform of this image.
	Counts bool   `json:"counts"`
	Note   string `json:"note,omitempty"` // why it does not
}

// called reports whether a reference is to a repository of the asked name.
func (r *proxyImage) called(ref string) bool {
	ref, _, _ = strings.Cut(ref, "@")
	name, _, _ := strings.Cut(path.Base(ref), ":")
	return name == r.Name
}

func (r *proxyImage) add(img privatemode.InspectedImage) {
	in := inspected{Names: slices.Clone(img.RepoTags), Platform: strings.Trim(path.Join(img.OS, img.Architecture, img.Variant), "/"), Digests: []kindedEntry{}}
	for _, d := range img.RepoDigests {
		if !slices.Contains(in.Names, d.Repository) {
			in.Names = append(in.Names, d.Repository)
		}
	}
	in.Asked = slices.ContainsFunc(in.Names, r.called)
	put := func(d privatemode.ImageDigest, note string) {
		if d.Digest.IsZero() {
			return
		}
		if d.Kind == privatemode.KindConfig && note == "" {
			note = "a configuration says nothing about the packed layers"
		}
		for _, e := range in.Digests {
			if e.Digest == d.Digest && (e.Counts || note != "") {
				return // said already, and better
			}
		}
		in.Digests = append(in.Digests, kindedEntry{string(d.Kind), d.Digest, d.Field, !r.Rebuilt.IsZero() && d.Digest == r.Rebuilt, note == "", note})
	}
	if d := img.Descriptor; d != nil {
		put(privatemode.ImageDigest{Kind: privatemode.KindOf(d.MediaType), Digest: d.Digest, Field: "Descriptor.digest"}, "")
	}
	put(img.Digest, "")
	put(img.ID, "")
	// Of a name's digests those of the asked name count, if it is there.
	for _, d := range img.RepoDigests {
		note := ""
		if in.Asked && !r.called(d.Repository) {
			note = "of another name, " + d.Repository
		}
		put(d.ImageDigest, note)
	}
	for _, m := range img.Manifests {
		note := ""
		switch {
		case m.Kind == "attestation":
			continue
		case in.Platform == "" || m.Platform != in.Platform:
			note = "of platform " + orWord(m.Platform, "unknown") + ", which does not run here"
		case !r.onlyManifest(img, m):
			note = "one of several manifests of platform " + m.Platform
		}
		put(privatemode.ImageDigest{Kind: privatemode.KindOf(m.Descriptor.MediaType), Digest: m.Descriptor.Digest, Field: "Manifests.Descriptor.digest"}, note)
	}
	r.Inspected = append(r.Inspected, in)
}

// onlyManifest reports whether no other manifest of an index is for the same
// platform: which of several runs is not said.
func (r *proxyImage) onlyManifest(img privatemode.InspectedImage, m privatemode.PlatformManifest) bool {
	return !slices.ContainsFunc(img.Manifests, func(o privatemode.PlatformManifest) bool {
		return o.Kind != "attestation" && o.Platform == m.Platform && o.Descriptor.Digest != m.Descriptor.Digest
	})
}

// judge compares the asked image: the only one, or those of the asked name. An
// equal digest of another image, or of a platform that does not run, is no
// match.
func (r *proxyImage) judge() {
	if r.Rebuilt.IsZero() {
		r.Verdict, r.Reason = "unchecked", "no rebuilt digest was given: add --hashes hashes-HOST.json"
		return
	}
	if len(r.Inspected) == 1 {
		r.Inspected[0].Asked = true
	}
	asked := 0
	for _, in := range r.Inspected {
		if !in.Asked {
			continue
		}
		asked++
		verdict, reason := in.judge()
		if verdict == "match" && (r.Verdict == "" || r.Verdict == "match") || verdict == "unchecked" && r.Verdict != "differs" || verdict == "differs" {
			r.Verdict, r.Reason = verdict, reason
		}
		if len(r.Inspected) > 1 && r.Reason == reason {
			r.Reason = strings.TrimSpace(strings.Join(in.Names, ", ")) + ": " + reason
		}
	}
	if asked == 0 {
		r.Verdict, r.Reason = "unchecked", fmt.Sprintf("none of the %d images is called %s; --name chooses another one", len(r.Inspected), r.Name)
	}
}

func (in *inspected) judge() (verdict, reason string) {
	counting := 0
	for _, d := range in.Digests {
		switch {
		case d.Rebuilt && d.Counts:
			return "match", fmt.Sprintf("the pulled image's digest (%s, %s) is the rebuilt one", d.Kind, d.Field)
		case d.Counts:
			counting++
		}
	}
	for _, d := range in.Digests {
		switch {
		case d.Rebuilt && d.Kind == string(privatemode.KindConfig):
			return "differs", "the rebuilt digest equals the configuration's digest: the hashes file holds another kind of digest than the image's"
		case d.Rebuilt:
			return "differs", fmt.Sprintf("the rebuilt digest is there (%s), but it is %s", d.Field, d.Note)
		}
	}
	if counting == 0 {
		return "unchecked", "the image has no digest of an index or a manifest: it was built or loaded here, not pulled"
	}
	return "differs", "none of the pulled image's digests is the rebuilt one: another release was pulled, or the rebuild differs"
}

func (a *app) printProxyImage(r *proxyImage) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	line("%s  %s", strings.ToUpper(r.Verdict), r.Reason)
	if !r.Rebuilt.IsZero() {
		line("  rebuilt %s  %s", r.Name, r.Rebuilt)
	}
	for _, in := range r.Inspected {
		word := "pulled"
		if !in.Asked && !r.Rebuilt.IsZero() {
			word = "not compared, another image:"
		}
		line("  %s %s", word, strings.TrimSpace(strings.Join(in.Names, ", ")+" "+in.Platform))
		for _, d := range in.Digests {
			mark, note := " ", ""
			if d.Rebuilt {
				mark = "="
			}
			if d.Note != "" && d.Kind != string(privatemode.KindConfig) {
				note = ", not compared: " + d.Note
			}
			line("  %s %-17s  %s  (%s%s)", mark, d.Kind, d.Digest, d.Field, note)
		}
	}
}
