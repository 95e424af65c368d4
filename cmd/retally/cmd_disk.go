package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/source"
)

// diskFlags are the flags of retally disk.
type diskFlags struct {
	output, mkfs, write, against, mem, files, models, name, gitCommit, checkpoint string
	exclude                                                                       []string
	rootOnly, normalize, git, resume, allFiles                                    bool
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
			profile, err := erofs.ParseProfile(f.mkfs)
			if err != nil {
				return &userError{op: "disk", msg: "--mkfs: " + err.Error()}
			}
			published, err := a.publishedModel(&f)
			if err != nil {
				return err
			}
			exclude := strings.Join(f.exclude, ",")
			if published != nil && len(f.exclude) == 0 {
				exclude = strings.Join(published.Excluded, ",")
			}
			opts := disk.Options{
				Exclude: disk.ParseExclude(exclude), Profile: profile, RootOnly: f.rootOnly, AllFiles: f.allFiles, Normalize: f.normalize,
				Write: f.write, AgainstImage: f.against, Resume: f.resume, Checkpoint: f.checkpoint, SourceDateEpoch: a.env("SOURCE_DATE_EPOCH"),
			}
			if f.mem != "" {
				if opts.Mem, err = parseSize(f.mem); err != nil {
					return &userError{op: "disk", msg: "--mem " + f.mem + ": " + err.Error(), hint: "for instance --mem 512M"}
				}
			}
			var res disk.Result
			if f.files != "" {
				res, err = a.planDisk(&f, opts)
			} else {
				opts.Dir = args[0]
				res, err = a.measureDisk(cmd, &f, opts)
			}
			if err != nil {
				return err
			}
			return a.finishDisk(&f, res, published)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.exclude, "exclude", nil, "glob of what the recipe leaves out, as in models.yaml; may be given several times")
	fl.StringVar(&f.mkfs, "mkfs", "1.9", "release of mkfs.erofs whose root hash comes first: 1.9 or 1.9.1")
	fl.BoolVar(&f.rootOnly, "root-only", false, "only root hashes: no hash of the whole file, so all cores are used")
	fl.BoolVar(&f.allFiles, "all-files", false, "whole-file hashes of both releases")
	fl.StringVar(&f.write, "write", "", "also write the disk file here, sparse, and whole or not at all")
	fl.StringVar(&f.against, "against-image", "", "compare with an existing disk file: first differing blocks, files and offsets")
	fl.BoolVar(&f.normalize, "normalize", false, "take the modes and links of a git checkout under umask 022, and say what changed")
	fl.BoolVar(&f.git, "git", false, "check that the directory is a commit of its git repository, LFS content included")
	fl.StringVar(&f.gitCommit, "commit", "", "the commit for --git (default: HEAD, or the models file's commit)")
	fl.StringVar(&f.mem, "mem", "", "most memory for the hash tree, such as 512M; the rest goes to a temporary file")
	fl.BoolVar(&f.resume, "resume", false, "go on from the checkpoint of a run that was ended")
	fl.StringVar(&f.checkpoint, "checkpoint", "", "file for checkpoints (default with --resume: among the caches)")
	fl.StringVar(&f.files, "files", "", "plan the disk of a list of files (JSON, or a hub's listing) without their content")
	fl.StringVar(&f.models, "models", "", "models.yaml to compare with")
	fl.StringVar(&f.name, "name", "", "the entry of --models (default: the only one that fits)")
	outputFlag(cmd, &f.output)
	return cmd
}

// publishedModel finds the entry to compare with, nil where none is asked for.
func (a *app) publishedModel(f *diskFlags) (*privatemode.Model, error) {
	if f.models == "" {
		if f.name != "" {
			return nil, &userError{op: "disk", msg: "--name needs --models"}
		}
		return nil, nil
	}
	data, err := a.readInput("read models", f.models, smallFile)
	if err != nil {
		return nil, err
	}
	list, err := privatemode.ParseModels(f.models, data)
	if err != nil {
		return nil, err
	}
	var known []string
	for i := range list.Entries {
		m := &list.Entries[i]
		if m.Key == f.name || f.name != "" && m.Key == privatemode.NormalizeName(f.name) || f.name == "" && len(list.Entries) == 1 {
			return m, nil
		}
		known = append(known, m.Key)
	}
	return nil, &userError{op: "find model", path: f.models, msg: fmt.Sprintf("has no entry %q", f.name), hint: "--name takes one of " + strings.Join(known, ", ")}
}

func (a *app) planDisk(f *diskFlags, opts disk.Options) (disk.Result, error) {
	data, err := a.readInput("read file list", f.files, 256<<20)
	if err != nil {
		return disk.Result{}, err
	}
	tree, err := source.ParseList(f.files, data)
	if err != nil {
		return disk.Result{}, err
	}
	return disk.PlanList(tree, opts)
}

func (a *app) measureDisk(cmd *cobra.Command, f *diskFlags, opts disk.Options) (disk.Result, error) {
	switch {
	case f.git || f.gitCommit != "":
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
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return disk.Result{}, &userError{op: "resume", path: dir, err: reason(err)}
		}
		abs, err := filepath.Abs(opts.Dir)
		if err != nil {
			return disk.Result{}, &userError{op: "resume", path: opts.Dir, err: err}
		}
		opts.Checkpoint = filepath.Join(dir, privatemode.NormalizeName(abs)+".retally-checkpoint")
	}
	count := new(verity.Progress)
	opts.Progress = count
	p := run.FollowProgress("disk", func() int64 { d, _ := count.Read(); return d }, func() int64 { _, t := count.Read(); return t })
	stop := a.showProgress(p.Progress)
	res, err := disk.Measure(cmd.Context(), opts)
	stop()
	p.Stop()
	var re *disk.ResumeError
	if errors.As(err, &re) {
		return res, &userError{op: "resume", path: re.Checkpoint, err: err, hint: "remove the checkpoint to begin anew"}
	}
	return res, err
}

// diskComparison is what a published entry says beside what was computed.
type diskComparison struct {
	Field string `json:"field"`
	Got   string `json:"got"`
	Want  string `json:"want"`
	Match bool   `json:"match"`
}

func compareDisk(res disk.Result, m *privatemode.Model) (rows []diskComparison, note string) {
	add := func(field, got, want string) {
		if got != "" {
			rows = append(rows, diskComparison{field, got, want, got == want})
		}
	}
	add("hash_offset", strconv.FormatInt(res.HashOffset, 10), strconv.FormatUint(m.HashOffset, 10))
	if !res.RootHash.IsZero() {
		add("root_hash", res.RootHash.Hex(), m.RootHash.Hex())
	}
	if !res.FileSHA256.IsZero() {
		add("file_hash_sha256", res.FileSHA256.Hex(), m.FileHash.Hex())
	}
	for _, o := range res.Others {
		if o.RootHash.Digest == m.RootHash && res.RootHash.Digest != m.RootHash {
			note = fmt.Sprintf("the published root hash is that of mkfs.erofs %s over the same files", o.Mkfs)
		}
	}
	return rows, note
}

func (a *app) finishDisk(f *diskFlags, res disk.Result, m *privatemode.Model) error {
	var rows []diskComparison
	note := ""
	if m != nil {
		rows, note = compareDisk(res, m)
	}
	if f.output == "json" {
		var v any = res
		if m != nil {
			v = struct {
				disk.Result
				Published []diskComparison `json:"published"`
				Note      string           `json:"note,omitempty"`
			}{res, rows, note}
		}
		if err := writeJSON(a.stdout, v); err != nil {
			return err
		}
	} else {
		a.printDisk(res, rows, note)
	}
	bad := res.Against != nil && !res.Against.OK() || res.Source != nil && !res.Source.OK()
	for _, r := range rows {
		bad = bad || !r.Match
	}
	switch {
	case bad:
		return outcomeError{exitDiffers}
	case m != nil && res.RootHash.IsZero():
		return outcomeError{exitUnchecked} // sizes agree, the content was not read
	}
	return nil
}

func (a *app) printDisk(res disk.Result, rows []diskComparison, note string) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	if !res.RootHash.IsZero() {
		line("root_hash         %s  (mkfs.erofs %s)", res.RootHash.Hex(), res.Mkfs)
		for _, o := range res.Others {
			line("                  %s  (mkfs.erofs %s)", o.RootHash.Hex(), o.Mkfs)
		}
	}
	line("hash_offset       %d", res.HashOffset)
	line("file_size         %d", res.FileSize)
	if !res.FileSHA256.IsZero() {
		line("file_hash_sha256  %s", res.FileSHA256.Hex())
	}
	line("inodes, blocks    %d, %d", res.Inodes, res.Blocks)
	for _, w := range res.Changes {
		line("normalized        %s", w.Message)
	}
	if res.Source != nil {
		line("source            %s", res.Source.String())
		for i, p := range res.Source.Problems {
			if i == 10 && !a.verbose {
				line("                  and %d more (-v shows all)", len(res.Source.Problems)-i)
				break
			}
			line("                  %s", p.String())
		}
	}
	if res.Against != nil {
		a.printAgainst(res.Against)
	}
	for _, r := range rows {
		if r.Match {
			line("published         %s agrees", r.Field)
		} else {
			line("published         %s DIFFERS: published %s", r.Field, r.Want)
		}
	}
	if note != "" {
		line("                  %s", note)
	}
	for _, w := range res.Warnings {
		a.talk("retally: warning: %s", w.Message)
	}
}

func (a *app) printAgainst(x *disk.Against) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	if x.OK() {
		line("against           %s is this disk", x.Path)
		return
	}
	line("against           %s DIFFERS in %s; it has %d bytes, the computed disk %d", x.Path, show.Plural(int(x.Blocks), "block", "blocks"), x.Size, x.WantSize)
	for _, d := range x.Differences {
		line("                  block %d, offset %d: found %#02x, computed %#02x: %s", d.Block, d.Offset, d.Got, d.Want, d.What)
	}
}

// parseSize reads a number of bytes with an optional binary unit.
func parseSize(s string) (int64, error) {
	shift := 0
	digits := strings.TrimRight(s, "BbiI")
	switch {
	case strings.HasSuffix(strings.ToUpper(digits), "K"):
		shift = 10
	case strings.HasSuffix(strings.ToUpper(digits), "M"):
		shift = 20
	case strings.HasSuffix(strings.ToUpper(digits), "G"):
		shift = 30
	}
	if shift > 0 {
		digits = digits[:len(digits)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("want a number of bytes, such as 64M or 2G")
	}
	return n << shift, nil
}
