package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/source"
)

// diskFlags are the flags of retally disk. The recipe is what the section disks
// of retally.yaml has; the rest is about this one measurement.
type diskFlags struct {
	comparison
	recipe                                              config.Disk
	exclude, digests                                    []string
	mem, files, models, name, gitCommit, write, against string
	checkpoint                                          string
	git, resume, allFiles, search                       bool
	rootHash                                            string
}

func (a *app) diskCommand() *cobra.Command {
	var f diskFlags
	cmd := &cobra.Command{
		Use:   "disk DIR",
		Short: "Root hash of a model directory's disk, in one read pass and with nothing written",
		Long: `Compute what the published recipe for model disks makes of a directory: an EROFS
image as mkfs.erofs 1.9 (or 1.9.1 and later) writes it, with a dm-verity tree
behind it. One pass over the files gives the root hashes of both releases. No
image is written unless --write asks for one.

With --files, a list of files with sizes and modes (or a hub's listing) is
planned instead: hash_offset and size are known before anything is fetched.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (f.files == "") {
				return &userError{op: "disk", msg: "want a directory, or --files LIST", hint: "usage: " + cmd.UseLine()}
			}
			f.recipe.Dir = f.files
			if len(args) == 1 {
				f.recipe.Dir = args[0]
			}
			targets, err := f.targets(append([]string{f.recipe.Dir, f.models, f.against, f.recipe.Listing, f.recipe.ModelSig}, f.recipe.Signers...)...)
			if err != nil {
				return err
			}
			if f.write == "-" || f.checkpoint == "-" {
				return &userError{op: "disk", msg: "stdout has the result", hint: "name a file; a disk can also be written into a pipe that has a name"}
			}
			if err := f.check(f.write, outfile.KindOf("disk")); err != nil {
				return err
			}
			if err := f.check(f.checkpoint, outfile.KindOf("checkpoint")); err != nil {
				return err
			}
			if f.files != "" && (f.recipe.Listing != "" || f.recipe.ModelSig != "" || len(f.digests) > 0) {
				return &userError{op: "disk", msg: "--listing, --model-sig and --digests are about content, and --files plans without any", hint: "give the directory"}
			}
			if f.recipe.ModelSig == "" && len(f.recipe.Signers) > 0 {
				return &userError{op: "disk", msg: "--signer needs --model-sig", hint: "--model-sig FILE, the model's signature"}
			}
			if f.recipe.Listing != "" && (f.git || f.gitCommit != "") {
				return &userError{op: "disk", msg: "--git and --listing both say what the directory is to be", hint: "run twice, or leave one out"}
			}
			return a.disk(cmd.Context(), &f, targets)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.exclude, "exclude", nil, "glob of what the recipe leaves out, as in models.yaml; may be given several times")
	fl.StringVar(&f.recipe.MKFS, "mkfs", "1.9", "release of mkfs.erofs whose root hash comes first: 1.9 or 1.9.1 (1.9 gives way to a release that --models names)")
	fl.BoolVar(&f.recipe.RootOnly, "root-only", false, "only root hashes: no hash of the whole file, so all cores are used")
	fl.BoolVar(&f.allFiles, "all-files", false, "whole-file hashes of both releases")
	fl.StringVar(&f.write, "write", "", "also write the disk file here, sparse, and whole or not at all")
	fl.StringVar(&f.against, "against-image", "", "compare with an existing disk file: first differing blocks, files and offsets")
	fl.BoolVar(&f.recipe.Normalize, "normalize", false, "take the modes and links of a git checkout under umask 022, and say what changed")
	fl.BoolVar(&f.git, "git", false, "check that the directory is a commit of its git repository, LFS content included")
	fl.StringVar(&f.gitCommit, "commit", "", "the commit for --git (default: HEAD, or the models file's commit)")
	fl.StringVar(&f.recipe.Listing, "listing", "", "a hub's listing of the model: its sizes, Git LFS, git and Xet digests must be those of the directory")
	fl.StringVar(&f.recipe.ModelSig, "model-sig", "", "signature of the model's files (OpenSSF Model Signing) to hold the directory against")
	fl.StringArrayVar(&f.recipe.Signers, "signer", nil, "PEM file of a public key or root certificate whose signature counts; may be given several times")
	fl.StringSliceVar(&f.digests, "digests", nil, "also print digests of every file: sha256 (as Git LFS has it), xet")
	fl.StringVar(&f.mem, "mem", "", "most memory for the hash tree, such as 512M; the rest goes to a temporary file")
	fl.BoolVar(&f.resume, "resume", false, "go on from the checkpoint of a run that was ended")
	fl.StringVar(&f.checkpoint, "checkpoint", "", "file for checkpoints (default with --resume: among the caches)")
	fl.StringVar(&f.files, "files", "", "plan the disk of a list of files (JSON, or a hub's listing) without their content")
	fl.StringVar(&f.rootHash, "root-hash", "", "a published root hash to compare with, where there is no --models")
	fl.BoolVar(&f.search, "search", false, "look for the deviation that gives the published root hash, however large the image is (up to 1 GiB this is done unasked)")
	fl.StringVar(&f.models, "models", "", "models.yaml, or a storage class of an older release, to compare with")
	fl.StringVar(&f.name, "name", "", "the entry of --models, by its exact name (default: the only one there is)")
	f.flags(cmd)
	return cmd
}

// disk measures or plans one disk, and holds it against what it is to be.
func (a *app) disk(ctx context.Context, f *diskFlags, targets []target) error {
	v := disks.View{}
	if f.models != "" {
		data, err := a.readInput("read models", f.models, smallFile)
		if err != nil {
			return err
		}
		parse := privatemode.ParseModels
		if recognize.Content(f.models, data) == recognize.KindStorage {
			parse = privatemode.ParseStorageClasses
		}
		list, err := parse(f.models, data)
		if err != nil {
			return err
		}
		if v.Listed, err = disks.Listed(list, f.name); err != nil {
			var in *pipeline.InputError
			if errors.As(err, &in) {
				return &userError{op: in.Op, path: in.File, err: in.Err, hint: "--name takes one of " + in.Hint}
			}
			return err
		}
	} else if f.name != "" {
		return &userError{op: "disk", msg: "--name needs --models"}
	}
	if f.rootHash != "" {
		if f.models != "" {
			return &userError{op: "disk", msg: "--models has a root hash already: leave out --root-hash"}
		}
		want, err := digest.ParseHex(digest.SHA256, strings.ToLower(f.rootHash))
		if err != nil {
			return &userError{op: "disk", msg: "--root-hash: " + err.Error()}
		}
		v.Listed = &privatemode.Model{Key: filepath.Base(f.recipe.Dir), RootHash: want}
	} else if f.search && f.models == "" {
		return &userError{op: "disk", msg: "--search needs a published root hash: --models FILE or --root-hash HEX"}
	}
	if len(f.exclude) > 0 {
		f.recipe.Exclude = &f.exclude
	}
	opts, err := disks.Resolve(f.recipe, v.Listed)
	if err != nil {
		return &userError{op: "disk", msg: "--mkfs: " + err.Error()}
	}
	opts.AllFiles, opts.Write, opts.AgainstImage, opts.Resume, opts.Checkpoint, opts.SourceDateEpoch = f.allFiles, f.write, f.against, f.resume, f.checkpoint, a.env("SOURCE_DATE_EPOCH")
	for _, d := range f.digests {
		switch d {
		case "sha256":
			opts.SHA256 = true
		case "xet":
			opts.Xet = true
		default:
			return &userError{op: "disk", msg: fmt.Sprintf("--digests %q is not known", d), hint: "sha256, xet"}
		}
	}
	read := func(name string, limit int64) ([]byte, error) { return a.readInput("disk", name, limit) }
	if v.Signed, err = disks.Bind(read, func(name string) string { return name }, f.recipe, &opts); err != nil {
		return err
	}
	if f.mem != "" {
		if opts.Mem, err = disk.ParseSize(f.mem); err != nil {
			return &userError{op: "disk", msg: "--mem " + f.mem + ": " + err.Error(), hint: "for instance --mem 512M"}
		}
	}
	if f.files != "" {
		v.Result, err = a.planDisk(f.files, opts)
	} else {
		v.Result, err = a.measureDisk(ctx, f, opts)
	}
	if err != nil {
		return err
	}
	for _, w := range v.Result.Warnings {
		a.talk("retally: warning: %s", disks.Remedy(w))
	}
	name := filepath.Base(f.recipe.Dir)
	if v.Listed != nil {
		name = v.Listed.Key
	}
	out := run.NewOut()
	found, err := disks.Search(ctx, opts, v.Result, v.Listed, f.search)
	if err != nil {
		return err
	}
	root := disks.Describe(out, name, f.recipe.Dir, v.Result, f.models, v.Listed, found)
	for _, k := range []pipeline.Key{root, pipeline.Key(strings.TrimSuffix(string(root), "root") + "file")} {
		v.Why = append(v.Why, out.Causes[k]...)
	}
	if v.Signed != nil {
		v.Signed.Describe(out, root, f.recipe.Dir, v.Result)
	}
	disks.Compare(out, name, f.recipe.Dir, v.Result)
	return a.judged(&f.comparison, targets, "the disk of "+f.recipe.Dir, out, view{json: v.JSON(), text: v.Text, computes: len(out.References) == 0})
}

func (a *app) planDisk(file string, opts disk.Options) (disk.Result, error) {
	data, err := a.readInput("read file list", file, 256<<20)
	if err != nil {
		return disk.Result{}, err
	}
	tree, err := source.ParseList(file, data)
	if err != nil {
		return disk.Result{}, err
	}
	return disk.PlanList(tree, opts)
}

func (a *app) measureDisk(ctx context.Context, f *diskFlags, opts disk.Options) (disk.Result, error) {
	if f.git || f.gitCommit != "" {
		tree, err := source.OpenGit(opts.Dir, f.gitCommit)
		if err != nil {
			return disk.Result{}, &userError{op: "read git repository", path: opts.Dir, err: err}
		}
		opts.Source = tree
	}
	if f.resume && opts.Checkpoint == "" {
		dir, err := a.cacheDir()
		if err != nil {
			return disk.Result{}, &userError{op: "resume", err: err, hint: "name a file with --checkpoint"}
		}
		if opts.Checkpoint, err = disks.Checkpoint(dir, opts.Dir); err != nil {
			return disk.Result{}, plain(err)
		}
	}
	var res disk.Result
	err := f.guard.Via(f.write, func(write string) error {
		opts.Write = write
		return a.counted("disk", func(count *verity.Progress) (err error) {
			opts.Progress = count
			res, err = disk.Measure(ctx, opts)
			return err
		})
	})
	var re *disk.ResumeError
	if errors.As(err, &re) {
		return res, &userError{op: "resume", path: re.Checkpoint, err: err, hint: "remove the checkpoint to begin anew"}
	}
	return res, err
}
