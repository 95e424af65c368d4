package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/atomicfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Recount container images, and say why two differ",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.imageDigestCommand(), a.imageDiffCommand())
	return cmd
}

// remoteFlags are the flags of verbs that may pull from a registry.
type remoteFlags struct {
	mirrors   []string
	caFile    string
	store     string
	timeout   time.Duration
	retries   int
	tags      bool
	insecure  bool
	platforms []string
}

func (r *remoteFlags) flags(cmd *cobra.Command) {
	r.connection(cmd)
	f := cmd.Flags()
	f.BoolVar(&r.tags, "tags", false, "accept references without a digest: the tag is resolved and shown")
	f.StringArrayVar(&r.platforms, "platform", nil, "verify this member of an index only, as os/architecture[/variant]; may be given several times")
}

// connection are the flags about how registries are reached.
func (r *remoteFlags) connection(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&r.mirrors, "mirror", nil, "send pulls for a registry elsewhere, as HOST=ADDR or *=ADDR; plain HTTP where ADDR is loopback; may be given several times")
	f.StringVar(&r.caFile, "ca", "", "PEM file with certificates to trust besides the system's")
	f.StringVar(&r.store, "store", "", "folder that keeps pulled blobs; they are hashed again on every use")
	f.DurationVar(&r.timeout, "timeout", 30*time.Second, "how long a registry may be silent")
	f.IntVar(&r.retries, "retries", 3, "how often a failed request is repeated")
	f.BoolVar(&r.insecure, "insecure", false, "plain HTTP for registries on loopback (they are asked that way anyhow)")
}

// options makes the reader's options; the caller closes the store.
func (r *remoteFlags) options(p *imagehash.Progress) (opts imagehash.Options, closeStore func(), err error) {
	opts = imagehash.Options{Progress: p, Platforms: r.platforms, Remote: imagehash.Remote{Tags: r.tags, Timeout: r.timeout, Retries: r.retries, Mirrors: map[string]string{}}}
	if r.retries == 0 {
		opts.Remote.Retries = -1
	}
	for _, m := range r.mirrors {
		host, addr, ok := strings.Cut(m, "=")
		if !ok || host == "" || addr == "" {
			return opts, nil, &userError{op: "retally", msg: fmt.Sprintf("--mirror %s: want HOST=ADDR", m), hint: "for instance --mirror ghcr.io=127.0.0.1:5000"}
		}
		opts.Remote.Mirrors[host] = addr
	}
	if r.caFile != "" {
		if opts.Remote.RootCAs, err = os.ReadFile(r.caFile); err != nil {
			return opts, nil, &userError{op: "read certificates", path: r.caFile, err: reason(err)}
		}
	}
	closeStore = func() {}
	if r.store != "" {
		store, err := imagehash.OpenStore(r.store)
		if err != nil {
			return opts, nil, &userError{op: "open store", path: r.store, err: err}
		}
		opts.Remote.Store = store
		closeStore = func() { store.Close() }
	}
	return opts, closeStore, nil
}

func (a *app) imageDigestCommand() *cobra.Command {
	var (
		output, hashes string
		remote         remoteFlags
	)
	cmd := &cobra.Command{
		Use:   "digest SRC...",
		Short: "Read every byte of an image and compute every digest again",
		Long: `SRC is an OCI layout folder, an OCI or docker archive, or a registry reference
with a digest (name@sha256:...). Every blob is read, every digest and size is
computed again, layers are decompressed and their contents walked. A refused
image exits 1 with its problems; a source that cannot be read exits 2; an image
of which a part is not there to be read (a layer that only its owner hands out)
exits 3.

An archive of the old docker save kind holds no manifest: it has config digest
and diffIDs, and no digest of its own.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var count imagehash.Progress
			opts, closeStore, err := remote.options(&count)
			if err != nil {
				return err
			}
			defer closeStore()
			p := run.FollowProgress("images", count.Done, count.Total)
			stop := a.showProgress(p.Progress)
			defer p.Stop()
			rows := []imagehash.Image{}
			var reports []*imagehash.Report
			refused, complete := false, true
			for _, src := range args {
				rep, err := imagehash.VerifyRef(cmd.Context(), src, opts)
				if err != nil {
					stop()
					return &userError{op: "read image", path: src, err: err}
				}
				reports = append(reports, rep)
				rows = append(rows, rep.Rows()...)
				refused = refused || !rep.OK()
				complete = complete && rep.Complete()
			}
			stop()
			if hashes != "" && !refused {
				data, err := imagehash.HashesJSON(reports)
				if err != nil {
					return &userError{op: "write hashes", path: hashes, err: err, hint: "give OCI layouts, one for each name"}
				}
				if err := atomicfile.Write(hashes, data, 0o644); err != nil {
					return err
				}
			}
			if output == "json" {
				if err := writeJSON(a.stdout, rows); err != nil {
					return err
				}
			} else {
				a.printImages(rows)
			}
			switch {
			case refused:
				return outcomeError{exitDiffers}
			case !complete:
				a.talk("retally: unchecked: %s", imagehash.Unchecked(rows))
				return outcomeError{exitUnchecked}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&hashes, "hashes", "", "also write name and digest of each layout in the form of Privatemode's hashes-<host>.json")
	remote.flags(cmd)
	return cmd
}

func (a *app) printImages(rows []imagehash.Image) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, r := range rows {
		verdict := "ok"
		switch {
		case len(r.Problems) > 0:
			verdict = "REFUSED"
		case !r.Complete():
			verdict = "UNCHECKED"
		}
		id := "no digest of its own"
		if !r.Digest.IsZero() {
			id = r.Digest.String()
		}
		line("%s  %s  %s", verdict, id, strings.TrimSpace(r.Source+" "+r.Name))
		for _, p := range r.Platforms {
			if p.Digest != r.Digest {
				line("  %s  manifest %s", p.Platform, p.Digest)
			} else {
				line("  %s", p.Platform)
			}
			line("    config %s", p.Config)
			for _, l := range p.Layers {
				if l.Unread {
					line("    layer  %s  %d bytes as the manifest says, never read", l.Digest, l.Size)
					continue
				}
				if l.Digest.IsZero() {
					line("    layer  diffID %s  %d bytes", l.DiffID, l.Size)
					continue
				}
				line("    layer  %s  %d bytes", l.Digest, l.Size)
				if a.verbose && l.DiffID != l.Digest {
					line("           diffID %s", l.DiffID)
				}
			}
		}
		for _, x := range r.Artifacts {
			line("  %s  %s", x.Kind, x.Digest)
		}
		for _, u := range r.Unread {
			line("  never read: %s", unreadText(u))
		}
		if len(r.Unread) > 0 {
			line("  %s", imagehash.Unchecked([]imagehash.Image{r}))
		}
		for _, p := range r.Problems {
			line("  %s", problemText("problem", p))
		}
		for _, p := range r.Notes {
			line("  %s", problemText("note", p))
		}
	}
}

func unreadText(u imagehash.Unread) string {
	s := u.Part
	if u.Platform != "" {
		s += " of " + u.Platform
	}
	if u.Part == "platform" {
		s = "platform " + u.Platform
	}
	return fmt.Sprintf("%s, %s, %d bytes (%s): %s", s, u.Digest, u.Size, u.Place, u.Why)
}

func problemText(word string, p imagehash.Problem) string {
	s := fmt.Sprintf("%s %s: %s", word, p.Code, p.Place)
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Found != "" {
		s += ": found " + p.Found
	}
	if p.Expected != "" {
		s += ", expected " + p.Expected
	}
	return s
}

func (a *app) imageDiffCommand() *cobra.Command {
	var (
		output, nameA, nameB string
		ignore               []string
		remote               remoteFlags
	)
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Say why two images have different digests",
		Long: `Compare two images down to manifest, configuration, layer, file and attribute.
A cause is proved when undoing it on one side gives exactly the other side's
digest; the causes that are shown are a minimal set. --ignore leaves kinds of
causes out of the verdict, and the verdict says so.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var count imagehash.Progress
			opts, closeStore, err := remote.options(&count)
			if err != nil {
				return err
			}
			defer closeStore()
			var sides [2]*imagehash.Source
			for i, ref := range args {
				src, err := imagehash.Open(cmd.Context(), ref, opts)
				if err != nil {
					return &userError{op: "read image", path: ref, err: err}
				}
				defer src.Close()
				sides[i] = src
			}
			p := run.FollowProgress("image diff", count.Done, count.Total)
			stop := a.showProgress(p.Progress)
			var kinds []string
			for _, list := range ignore {
				kinds = append(kinds, strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })...)
			}
			d, err := imagehash.Diff(cmd.Context(), sides[0], sides[1], imagehash.DiffOptions{Options: opts, NameA: nameA, NameB: nameB, Ignore: kinds})
			stop()
			p.Stop()
			if err != nil {
				return &userError{op: "compare images", path: args[0] + " and " + args[1], err: err}
			}
			if output == "json" {
				if err := writeJSON(a.stdout, d); err != nil {
					return err
				}
			} else {
				a.printImageDiff(d, kinds)
			}
			if d.Equal || d.EqualIgnoring {
				return nil
			}
			return outcomeError{exitDiffers}
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringArrayVar(&ignore, "ignore", nil, "kinds of causes to leave out of the verdict: time, compression, or a kind as shown; may be a list")
	cmd.Flags().StringVar(&nameA, "name-a", "", "which image of A, by name or digest, where A holds several")
	cmd.Flags().StringVar(&nameB, "name-b", "", "which image of B")
	remote.flags(cmd)
	return cmd
}

func (a *app) printImageDiff(d *imagehash.Difference, ignored []string) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	switch {
	case d.Equal:
		line("MATCH  the two images are the same")
	case d.EqualIgnoring:
		line("MATCH  but for what was ignored (%s)", strings.Join(ignored, ", "))
	case d.SameContent:
		line("DIFFERS  the same content, packed differently")
	default:
		line("DIFFERS  %s", show.Plural(len(d.Causes), "cause", "causes"))
	}
	line("  A %s  %s", sideID(d.A), d.A.Source)
	line("  B %s  %s", sideID(d.B), d.B.Source)
	if !d.Equal && len(d.Causes)+len(d.Ignored) > 0 {
		if d.Proved {
			line("  proved: undoing these causes on B gives A, digest for digest")
		} else {
			line("  not proved: undoing what is listed does not give A's digest exactly")
		}
	}
	for _, c := range d.Causes {
		a.printImageCause(c, 1, "")
	}
	for _, c := range d.Ignored {
		a.printImageCause(c, 1, "ignored: ")
	}
	for _, n := range d.Notes {
		line("  note: %s", n)
	}
}

func (a *app) printImageCause(c imagehash.Cause, depth int, prefix string) {
	s := fmt.Sprintf("%s%s%s: %s", strings.Repeat("  ", depth), prefix, strings.Join(c.Path, " > "), c.Kind)
	if c.Count > 1 {
		s += fmt.Sprintf(" (%d)", c.Count)
	}
	if c.Expected != "" || c.Actual != "" {
		s += fmt.Sprintf(": %s -> %s", orWord(c.Expected, "(none)"), orWord(c.Actual, "(none)"))
	}
	if c.Note != "" {
		s += ": " + c.Note
	}
	if depth == 1 {
		s += fmt.Sprintf(" [%s]", c.Standing)
	}
	if c.Hint != "" && depth == 1 {
		s += " (" + c.Hint + ")"
	}
	fmt.Fprintln(a.stdout, show.Text(s))
	const most = 5
	for i, child := range c.Children {
		if i == most && !a.verbose {
			fmt.Fprintf(a.stdout, "%sand %d more (-v shows all)\n", strings.Repeat("  ", depth+1), c.Count-most)
			break
		}
		a.printImageCause(child, depth+1, "")
	}
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// sideID is what tells an image from another: its digest, if it has one.
func sideID(s imagehash.DiffSide) string {
	if s.Digest.IsZero() {
		return "no digest of its own"
	}
	return s.Digest.String()
}
