package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/progress"
	"github.com/retally/retally/nix"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	nixstage "github.com/retally/retally/pipeline/stages/nix"
)

func (a *app) nixCommand() *cobra.Command {
	return group("nix", "Build with Nix, say whether a build repeats itself, and why not",
		a.nixBuildCommand(), a.nixCheckCommand(), a.nixHashCommand(), a.nixDiffCommand())
}

// nixFlags are the fields of nix in retally.yaml.
type nixFlags struct {
	conf      config.Nix
	overrides []string
	settings  []string
	timeout   time.Duration
}

func (f *nixFlags) flags(cmd *cobra.Command) {
	c := cmd.Flags()
	c.StringVar(&f.conf.Store, "nix-store", "", "folder of a store of its own, which is made (default retally-nix in the user's cache folder)")
	c.StringArrayVar(&f.conf.Substituters, "substituter", nil, "cache that inputs may come from; without one everything is built; may be given several times")
	c.StringArrayVar(&f.conf.TrustedKeys, "trusted-key", nil, "public key that substitutes must be signed with; may be given several times")
	c.StringArrayVar(&f.conf.SandboxPaths, "sandbox-path", nil, "file of this machine that builds see, as /INSIDE=/OUTSIDE; may be given several times")
	c.StringArrayVar(&f.overrides, "override-input", nil, "another flake in place of an input, as NAME=FLAKE; may be given several times")
	c.StringArrayVar(&f.settings, "nix-option", nil, "option of nix.conf about how much is done at once, as cores=2; may be given several times")
	c.DurationVar(&f.timeout, "build-timeout", 0, "how long one builder may run (default without end)")
}

// open makes the store. name is added to its folder's.
func (a *app) openNix(ctx context.Context, f *nixFlags, name string, report func(nix.Progress)) (*nix.Nix, error) {
	f.conf.Overrides, f.conf.Settings = map[string]string{}, map[string]string{}
	for flag, list := range map[string]struct {
		from []string
		to   map[string]string
	}{"--override-input": {f.overrides, f.conf.Overrides}, "--nix-option": {f.settings, f.conf.Settings}} {
		for _, text := range list.from {
			key, value, ok := strings.Cut(text, "=")
			if _, twice := list.to[key]; !ok || key == "" || twice {
				return nil, &userError{op: "nix", msg: flag + " " + text + ": want NAME=VALUE, each name once"}
			}
			list.to[key] = value
		}
	}
	f.conf.Store = cmp.Or(f.conf.Store, nixstage.DefaultStore())
	f.conf.Timeout = uint((f.timeout + time.Second - 1) / time.Second)
	o := nixstage.Options(&f.conf, "")
	o.Store, o.Progress = filepath.Clean(f.conf.Store)+name, report
	n, err := nix.Open(ctx, o)
	if errors.Is(err, nix.ErrNoNix) {
		return nil, &userError{op: "nix", err: err, hint: "install it: the package nix-bin of Debian will do"}
	}
	return n, err
}

// showNix tells how far builds are, until the returned function is called.
func (a *app) showNix(stage string) (report func(nix.Progress), stop func()) {
	var last atomic.Pointer[nix.Progress]
	last.Store(new(nix.Progress))
	report = func(p nix.Progress) { last.Store(&p) }
	if a.progress == "none" || a.quiet {
		return report, func() {}
	}
	return report, progress.Steps(a.stderr, a.progress == "json", stage,
		func() string { return last.Load().Text },
		func() (done, total int64) { p := last.Load(); return int64(p.Done), int64(p.Expected) })
}

// nixEnd finishes a verb that built. A build that ended badly is a result: what
// Nix said is a defect of what was asked for.
func (a *app) nixEnd(ctx context.Context, flags *comparison, targets []target, installable string, out *run.Out, err error, v view) error {
	if err != nil {
		doc, bad, ok := nixstage.Failed(ctx, installable, err)
		if !ok {
			return &userError{op: "nix", path: installable, err: err}
		}
		out, v = bad, view{json: doc, text: doc.Text}
	}
	return a.judged(flags, targets, installable, out, v)
}

func (a *app) nixBuildCommand() *cobra.Command {
	var (
		flags  comparison
		opts   nixFlags
		expect string
	)
	cmd := &cobra.Command{
		Use:   "build FLAKE#ATTRIBUTE",
		Short: "Build an attribute of a flake here, and hash the bytes that came out",
		Long: `Build in a store of its own, in the sandbox, without caches unless --substituter
names one. The machine's store and configuration, and what the flake would set,
are left alone. An output that came from a cache, or lay in the store, is built
again and must be the same. The hashes are computed here from the bytes: the
store's database is only compared with them. That the sandbox is lost is an error.

Inputs that a cache gave are listed; an output whose hash is promised was not
rebuilt, whoever fetched it. Exit code 1 where the build fails, does not repeat
itself, or lies changed in the store.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := flags.targets(opts.conf.Store)
			if err != nil {
				return err
			}
			if expect != "" {
				if _, err := nixstage.ParseHash(expect); err != nil {
					return plain(err)
				}
			}
			report, stop := a.showNix("nix build")
			defer func() { stop() }()
			n, err := a.openNix(cmd.Context(), &opts, "", report)
			if err != nil {
				return err
			}
			b, out, err := nixstage.Built(cmd.Context(), n, args[0], expect)
			stop()
			stop = func() {}
			return a.nixEnd(cmd.Context(), &flags, targets, args[0], out, err, view{json: b, text: func(w io.Writer, verbose bool) { b.Text(w, verbose) }, computes: expect == ""})
		},
	}
	flags.flags(cmd)
	opts.flags(cmd)
	cmd.Flags().StringVar(&expect, "expect-nar", "", "hash that the output must have, as Nix writes it")
	return cmd
}

func (a *app) nixCheckCommand() *cobra.Command {
	var (
		flags comparison
		opts  nixFlags
		one   bool
	)
	cmd := &cobra.Command{
		Use:   "check FLAKE#ATTRIBUTE",
		Short: "Build an attribute twice, and say why the two builds differ",
		Long: `Build in two independent stores, at least two seconds apart, and compare the
bytes of every output. With --one-store Nix itself builds once more in the same
store and compares, which takes less time and room.

Where they differ both trees are kept, and the causes are named: of an image down
to layer, file and attribute, of other trees down to what is packed in their
files. Exit code 1 then; 3 where the output's hash is promised, so that nothing
was rebuilt.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := flags.targets(opts.conf.Store, opts.conf.Store+"-2")
			if err != nil {
				return err
			}
			report, stop := a.showNix("nix check")
			defer func() { stop() }()
			first, err := a.openNix(cmd.Context(), &opts, "", report)
			if err != nil {
				return err
			}
			var second *nix.Nix
			if !one {
				if second, err = a.openNix(cmd.Context(), &opts, "-2", report); err != nil {
					return err
				}
			}
			c, out, err := nixstage.Check(cmd.Context(), first, second, args[0])
			stop()
			stop = func() {}
			return a.nixEnd(cmd.Context(), &flags, targets, args[0], out, err, view{json: c, text: func(w io.Writer, verbose bool) { c.Text(w, verbose) }, got: "first", want: "second"})
		},
	}
	flags.flags(cmd)
	opts.flags(cmd)
	cmd.Flags().BoolVar(&one, "one-store", false, "build the second time in the same store")
	return cmd
}

func (a *app) nixHashCommand() *cobra.Command {
	var (
		flags  comparison
		expect string
	)
	cmd := &cobra.Command{
		Use:   "hash PATH...",
		Short: "Hash files and folders as Nix does, without Nix",
		Long: `Print the SHA-256 of the Nix archive of each path, as "nix hash path" does. The
bytes are read; no store is asked. A symbolic link is hashed as one.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			var done atomic.Int64
			stop := a.follow("nix hash", done.Load, func() int64 { return 0 })
			h, out, err := nixstage.Hash(cmd.Context(), args, expect, func(n int64) { done.Add(n) })
			stop()
			if err != nil {
				return plain(err)
			}
			return a.judged(&flags, targets, "the hashes of "+strings.Join(args, ", "), out, view{json: h, text: h.Text, computes: expect == ""})
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVar(&expect, "expect-nar", "", "hash that the one path must have, as Nix writes it")
	return cmd
}

func (a *app) nixDiffCommand() *cobra.Command {
	var (
		flags comparison
		opts  nixFlags
	)
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Say why two builds differ: trees, derivations, or what a machine boots",
		Long: `Two files or folders are compared as trees: entry by entry, and what differs down
to what is packed in it. Two attributes (FLAKE#ATTRIBUTE) are compared as
derivations, down to the first input that differs; nothing is built.

Where A is a folder with what a SecretVM boots, as Yocto leaves it, it is compared
artifact by artifact with B: another such folder, a release folder, or its list of
checksums. Of each different one the registers are named that it moves, computed
with this one exchanged; a release's files are held against its list.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			d, out, err := a.nixDiff(cmd.Context(), &opts, args[0], args[1])
			if err != nil {
				return plain(err)
			}
			return a.judged(&flags, targets, args[0]+" compared with "+args[1], out, view{json: d, text: d.Text, got: "A", want: "B"})
		},
	}
	flags.flags(cmd)
	opts.flags(cmd)
	return cmd
}

func (a *app) nixDiff(ctx context.Context, opts *nixFlags, x, y string) (*nixstage.Differences, *run.Out, error) {
	switch {
	case nix.CheckInstallable(x) == nil && nix.CheckInstallable(y) == nil:
		report, stop := a.showNix("nix diff")
		defer stop()
		n, err := a.openNix(ctx, opts, "", report)
		if err != nil {
			return nil, nil, err
		}
		return nixstage.DiffDerivations(ctx, n, x, y)
	case stages.IsMachine(ctx, x):
		return stages.CompareMachines(ctx, x, y)
	default:
		return nixstage.DiffTrees(ctx, x, y)
	}
}
