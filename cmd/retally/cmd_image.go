package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/images"
)

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Recount container images, and say why two differ",
		a.imageDigestCommand(), a.imageDiffCommand())
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

// remote makes the reader's options; the caller closes the store.
func (a *app) remote(r *remoteFlags, p *imagehash.Progress) (opts imagehash.Options, closeStore func(), err error) {
	opts = imagehash.Options{Progress: p, Platforms: r.platforms, Remote: imagehash.Remote{Tags: r.tags, Timeout: r.timeout, Retries: r.retries}}
	if r.retries == 0 {
		opts.Remote.Retries = -1
	}
	if opts.Remote.Mirrors, err = imagehash.ParseMirrors(r.mirrors); err != nil {
		return opts, nil, &userError{msg: "--mirror " + err.Error(), hint: "for instance --mirror ghcr.io=127.0.0.1:5000"}
	}
	if r.caFile != "" {
		if opts.Remote.RootCAs, err = a.readInput("read certificates", r.caFile, smallFile); err != nil {
			return opts, nil, err
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
		flags  comparison
		hashes string
		remote remoteFlags
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
			targets, err := flags.targets(append(images.InputPaths(args), remote.caFile)...)
			if err != nil {
				return err
			}
			if err := flags.check(hashes, outfile.KindOf("hashes")); err != nil {
				return err
			}
			reports, err := a.readImages(cmd.Context(), args, &remote)
			if err != nil {
				return err
			}
			rows := []imagehash.Image{}
			for _, r := range reports {
				rows = append(rows, r.Rows()...)
			}
			rep := run.NewReport(tool(), "the digests of "+strings.Join(args, ", "))
			run.Judge(rep, pipeline.Case{Allow: flags.allow}, images.Digests(reports))
			if hashes != "" && rep.Outcome != pipeline.OutcomeDiffers {
				data, err := imagehash.HashesJSON(reports)
				if err != nil {
					return &userError{op: "write hashes", path: hashes, err: err, hint: "give OCI layouts, one for each name"}
				}
				if err := a.write(&flags.outputs, hashes, outfile.KindOf("hashes"), data); err != nil {
					return err
				}
			}
			if rep.Outcome == pipeline.OutcomeUnchecked {
				a.talk("retally: unchecked: %s", imagehash.Unchecked(rows))
			}
			return a.finish(&flags, targets, rep, view{json: rows, text: func(w io.Writer, verbose bool) { images.DigestsText(w, rows, verbose) }})
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVar(&hashes, "hashes", "", "also write name and digest of each layout in the form of Privatemode's hashes-<host>.json")
	remote.flags(cmd)
	return cmd
}

func (a *app) readImages(ctx context.Context, sources []string, remote *remoteFlags) ([]*imagehash.Report, error) {
	var count imagehash.Progress
	opts, closeStore, err := a.remote(remote, &count)
	if err != nil {
		return nil, err
	}
	defer closeStore()
	defer a.follow("images", count.Done, count.Total)()
	reports, err := images.ReadAll(ctx, sources, opts)
	return reports, plain(err)
}

func (a *app) imageDiffCommand() *cobra.Command {
	var (
		flags  comparison
		opts   imagehash.DiffOptions
		ignore []string
		remote remoteFlags
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
			targets, err := flags.targets(append(images.InputPaths(args), remote.caFile)...)
			if err != nil {
				return err
			}
			for _, list := range ignore {
				opts.Ignore = append(opts.Ignore, strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })...)
			}
			d, err := a.diffImages(cmd.Context(), args, opts, &remote)
			if err != nil {
				return err
			}
			return a.judged(&flags, targets, args[1]+" compared with "+args[0], images.Difference(d, opts.Ignore), view{json: imageDiffView{d, d.SameContent, d.EqualIgnoring}, text: func(w io.Writer, verbose bool) { images.DifferenceText(w, d, opts.Ignore, verbose) }, got: "A", want: "B"})
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringArrayVar(&ignore, "ignore", nil, "kinds of causes to leave out of the verdict: time, compression, or a kind as shown; may be a list")
	cmd.Flags().StringVar(&opts.NameA, "name-a", "", "which image of A, by name or digest, where A holds several")
	cmd.Flags().StringVar(&opts.NameB, "name-b", "", "which image of B")
	remote.flags(cmd)
	return cmd
}

func (a *app) diffImages(ctx context.Context, refs []string, o imagehash.DiffOptions, remote *remoteFlags) (d *imagehash.Difference, err error) {
	var count imagehash.Progress
	opts, closeStore, err := a.remote(remote, &count)
	if err != nil {
		return nil, err
	}
	defer closeStore()
	o.Options = opts
	defer a.follow("image diff", count.Done, count.Total)()
	d, err = images.Diff(ctx, refs[0], refs[1], o)
	return d, plain(err)
}

// imageDiffView is the result of image diff, with two members also in the
// spelling of all other documents; their old names stay for one release.
type imageDiffView struct {
	*imagehash.Difference
	Same     bool `json:"same_content"`
	Ignoring bool `json:"equal_ignoring,omitempty"`
}
