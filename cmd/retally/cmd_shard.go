package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/pipeline/stages/shards"
	"github.com/retally/retally/shard"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

func (a *app) shardCommand() *cobra.Command {
	return group("shard", "Cut the reading of disks and images into parts for other machines",
		a.shardPlanCommand(), a.shardRunCommand(), a.shardMergeCommand(), a.shardSlurmCommand(), a.shardJobCommand())
}

// planFlags say what is cut, and how.
type planFlags struct {
	file, size string
	parts      int
	redundancy int
	recipe     config.Disk
	exclude    []string
}

func (p *planFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&p.file, "file", "f", "", "retally.yaml whose disks and images are read (default without DIR: "+config.FileName+")")
	f.IntVar(&p.parts, "parts", 0, "about how many parts in all; a few for each worker")
	f.StringVar(&p.size, "part-size", "", "or how long a part is, such as 4G, which is the default")
	f.IntVar(&p.redundancy, "redundancy", 1, "how many workers are given each part")
	f.StringArrayVar(&p.exclude, "exclude", nil, "with DIR: glob of what the recipe leaves out; may be given several times")
	f.StringVar(&p.recipe.MKFS, "mkfs", "1.9", "with DIR: release of mkfs.erofs whose root hash comes first: 1.9 or 1.9.1")
	f.BoolVar(&p.recipe.Normalize, "normalize", false, "with DIR: take the modes and links of a git checkout under umask 022")
}

// make lists and cuts what is to be read. root is the folder that the plan's
// names start from.
func (p *planFlags) make(ctx context.Context, a *app, args []string) (_ *shard.Plan, root string, err error) {
	var cfg *config.Config
	switch {
	case len(args) == 1 && p.file != "":
		return nil, "", &userError{op: "shard", msg: "a directory and --file are both given", hint: "give one of them"}
	case len(args) == 1:
		d := p.recipe
		d.Dir = args[0]
		if len(p.exclude) > 0 {
			d.Exclude = &p.exclude
		}
		if _, err := erofs.ParseProfile(d.MKFS); err != nil {
			return nil, "", &userError{op: "shard", msg: "--mkfs: " + err.Error()}
		}
		abs, err := filepath.Abs(d.Dir)
		if err != nil {
			return nil, "", &userError{op: "shard", path: d.Dir, err: err}
		}
		cfg, root = &config.Config{Disks: map[string]config.Disk{filepath.Base(abs): d}}, "."
	default:
		file := p.file
		if file == "" {
			file = config.FileName
		}
		if cfg, _, root, err = a.loadConfig(file); err != nil {
			return nil, "", err
		}
		if len(cfg.Disks)+len(cfg.Images) == 0 {
			return nil, "", &userError{op: "shard", path: file, msg: "names no disks and no images", hint: "add disks: or images:, or give a model directory"}
		}
	}
	var size int64
	switch {
	case p.parts < 0 || p.parts > shard.MaxParts:
		return nil, "", &userError{op: "shard", msg: fmt.Sprintf("--parts %d: want 1 to %d", p.parts, shard.MaxParts)}
	case p.parts > 0 && p.size != "":
		return nil, "", &userError{op: "shard", msg: "--parts and --part-size are both given", hint: "give one of them"}
	case p.redundancy < 1 || p.redundancy > shard.MaxRedundancy:
		return nil, "", &userError{op: "shard", msg: fmt.Sprintf("--redundancy %d: want 1 to %d", p.redundancy, shard.MaxRedundancy)}
	case p.size != "":
		if size, err = disk.ParseSize(p.size); err != nil {
			return nil, "", &userError{op: "shard", msg: "--part-size " + p.size + ": " + err.Error()}
		}
	}
	plan, err := run.PlanShards(ctx, stages.Table(), run.NewIn(cfg, run.NewReader(root, nil)), version, p.parts, size, p.redundancy)
	if err != nil {
		return nil, "", plain(err)
	}
	for _, s := range plan.Sources {
		if s.Disk != nil {
			for _, w := range s.Disk.Warnings {
				a.talk("retally: warning: %s: %s", s.Name, w.Text())
			}
		}
	}
	return plan, root, nil
}

// partsView is a plan as the verb shows it.
type partsView struct {
	Plan       digest.Digest  `json:"plan"`
	File       string         `json:"file,omitempty"`
	Tasks      int            `json:"tasks"`
	Parts      int            `json:"parts"`
	Redundancy int            `json:"redundancy"`
	Bytes      int64          `json:"bytes"` // of all disks
	Longest    int64          `json:"longest_part"`
	Sources    []plannedParts `json:"sources"`
}

type plannedParts struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Size  int64  `json:"hash_offset,omitempty"`
	Parts int    `json:"parts"`
	Level int    `json:"level"`
}

func viewPlan(p *shard.Plan, file string) partsView {
	v := partsView{Plan: p.Digest(), File: file, Tasks: p.Tasks(), Parts: len(p.Parts), Redundancy: p.Redundancy}
	for _, s := range p.Sources {
		row := plannedParts{Name: s.Name, Kind: s.Kind}
		if s.Disk != nil {
			row.Size = s.Disk.Size
			v.Bytes += s.Disk.Size
		}
		v.Sources = append(v.Sources, row)
	}
	for _, part := range p.Parts {
		row := &v.Sources[part.Source]
		row.Parts, row.Level = row.Parts+1, part.Level
		v.Longest = max(v.Longest, part.Length)
	}
	return v
}

func (v partsView) text(w io.Writer) {
	for _, s := range v.Sources {
		if s.Kind == shard.Images {
			show.Line(w, "image %s: 1 part", s.Name)
			continue
		}
		show.Line(w, "disk %s: %d bytes in %s of subtrees of level %d", s.Name, s.Size, show.Plural(s.Parts, "part", "parts"), s.Level)
	}
	show.Line(w, "plan %s: %s, %s, the longest part %s", v.Plan, show.Plural(v.Parts, "part", "parts"), show.Plural(v.Tasks, "task", "tasks"), size(v.Longest))
	if v.Bytes > 0 {
		show.Line(w, "parts give root hashes alone: file_hash_sha256 runs through a disk's bytes one after the other and stays unchecked")
	}
	if v.File != "" {
		show.Line(w, "written %s", v.File)
	}
}

// kinds of files that these verbs write.
func planKind() outfile.Kind   { return outfile.KindOf("shard plan") }
func resultKind() outfile.Kind { return outfile.KindOf("shard result") }
func mergedKind() outfile.Kind { return outfile.KindOf("merged parts") }

func (a *app) shardPlanCommand() *cobra.Command {
	var (
		flags       planFlags
		files       outputs
		output, out string
	)
	cmd := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Cut model directories and images into parts that workers read",
		Long: `Lay out the disk of a model directory, or all disks and images of retally.yaml,
and cut them into parts: aligned runs of subtrees of the dm-verity tree, or one
image each. No image of a disk is written, and of the content only the first and
last block of each file is read, which identify it.

The names in a plan start from the folder of retally.yaml, or with DIR from the
current one. A part's result has at most 4 KiB.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files.protect(args...)
			files.protect(flags.file)
			if err := files.check(out, planKind()); err != nil {
				return err
			}
			if out == "-" && output == "json" {
				return &userError{op: "shard plan", msg: "the plan and the result would both go to stdout", hint: "name a file with --out"}
			}
			plan, _, err := flags.make(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			if err := a.write(&files, out, planKind(), plan.Encode()); err != nil {
				return err
			}
			v := viewPlan(plan, out)
			if out == "-" {
				return nil
			}
			return a.result(output, v, v.text)
		},
	}
	flags.flags(cmd)
	files.flags(cmd)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&out, "out", "", "write the plan here, - for stdout; without it the plan is only described")
	return cmd
}

func (a *app) shardRunCommand() *cobra.Command {
	var (
		files                     outputs
		output, out, root, worker string
		index, count              int
	)
	cmd := &cobra.Command{
		Use:   "run PLAN",
		Short: "Read one part of a plan and write its result",
		Long: `Read one part and write one result of at most 4 KiB, whole or not at all. The
index comes from SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX or
CLOUD_RUN_TASK_INDEX where --index is not given. The plan alone says how many
tasks there are: --count must agree with it, and counts of the environment are
not asked, since an array in which failed tasks are run again reports fewer.

Exit code 1: what lies here is not what was planned, and trying again does not
help. 2: could not read; try again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			plan, err := shards.Load(ctx, args[0])
			if err != nil {
				return plain(err)
			}
			if plan.Version != version {
				return a.invalid(output, "shard run", args[0], fmt.Errorf("the plan is of version %s, this is %s", plan.Version, version), "use one version for all of it")
			}
			if cmd.Flags().Changed("count") && count != plan.Tasks() {
				return &userError{op: "shard run", path: args[0], msg: fmt.Sprintf("has %d tasks, --count says %d", plan.Tasks(), count), hint: "leave --count out: the plan says how many there are"}
			}
			if !cmd.Flags().Changed("index") {
				if index, err = shard.Index(a.env); err != nil {
					return &userError{op: "shard run", err: err, hint: "give --index"}
				}
			}
			part, copy, err := plan.Task(index)
			if err != nil {
				return &userError{op: "shard run", path: args[0], err: err}
			}
			files.protect(args[0])
			files.protect(run.ShardPaths(stages.Table(), plan, root)...)
			to := out
			if out != "-" {
				if err := os.MkdirAll(out, 0o755); err != nil {
					return &userError{op: "shard run", path: out, err: reason(err)}
				}
				to = filepath.Join(out, shard.FileName(part, copy))
			}
			if err := files.check(to, resultKind()); err != nil {
				return err
			}
			progress := run.NewProgress("shard")
			stop := a.showProgress(progress)
			found, err := run.ReadShard(ctx, stages.Table(), root, plan, part, progress)
			stop()
			var not *run.NotPlannedError
			var changed *erofs.ChangedError
			if errors.As(err, &not) {
				return a.invalid(output, "shard run", args[0], err, "plan again")
			}
			if errors.As(err, &changed) {
				return a.invalid(output, "shard run", args[0], &run.NotPlannedError{Part: plan.Title(part), What: err.Error()}, "plan again when nothing writes there")
			}
			if err != nil {
				return plain(err)
			}
			want := plan.Parts[part]
			r := &shard.Result{
				Format: shard.ResultFormat, Version: version, Plan: plan.Digest(), Part: part, Copy: copy, Worker: a.worker(worker),
				Source: plan.Sources[want.Source].Name, Offset: want.Offset, Length: want.Length, Level: want.Level, Files: want.Files, Found: found,
			}
			data, err := r.Encode()
			if err != nil {
				return &userError{op: "shard run", err: err}
			}
			if err := a.write(&files, to, resultKind(), data); err != nil || out == "-" {
				return err
			}
			v := partView{to, r}
			return a.result(output, v, func(w io.Writer) {
				show.Line(w, "%s: %s read, %s of digests in %s", plan.Title(part), size(found.Read), size(int64(len(data))), to)
			})
		},
	}
	files.flags(cmd)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&out, "out", "retally-shards", "folder for results, - for stdout")
	cmd.Flags().StringVar(&root, "root", ".", "folder that the plan's names start from")
	cmd.Flags().StringVar(&worker, "worker", "", "who reads (default: the node by SLURMD_NODENAME or NODE_NAME, else the host's name)")
	cmd.Flags().IntVar(&index, "index", 0, "task of the plan, from 0 (default: what the engine says)")
	cmd.Flags().IntVar(&count, "count", 0, "tasks of the plan, which must agree with it")
	return cmd
}

type partView struct {
	File string `json:"file"`
	*shard.Result
}

func (a *app) worker(given string) string {
	for _, name := range []string{given, a.env("SLURMD_NODENAME"), a.env("NODE_NAME")} {
		if name != "" {
			return shard.ClipWorker(name)
		}
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "pid " + strconv.Itoa(os.Getpid())
	}
	return shard.ClipWorker(host)
}

// invalid ends a verb whose input was understood and does not hold: exit code 1.
func (a *app) invalid(output, op, path string, err error, hint string) error {
	code, end := refused(true)
	if output == "json" {
		if werr := a.writeFailure(failureError{code, op, path, err.Error(), hint}, nil); werr != nil {
			return werr
		}
		return end
	}
	fmt.Fprintln(a.stderr, "retally: "+show.Text(op+": "+err.Error()))
	fmt.Fprintln(a.stderr, "retally: hint: "+show.Text(hint))
	return end
}

func (a *app) shardMergeCommand() *cobra.Command {
	var (
		files             outputs
		output, out, root string
		audit             string
		wait              time.Duration
	)
	cmd := &cobra.Command{
		Use:   "merge PLAN RESULTS",
		Short: "Join the results of all parts, and say who is trusted for them",
		Long: `Join the results in the folder RESULTS. A gap, an overlap, a result of another
plan, version or directory, and a damaged one are refused by naming the part,
and nothing is written. Results of one part must agree bit for bit: where they do
not, the part is read again here and whoever disagrees is named.

--audit reads a random share of the parts again. It is drawn when all results
have arrived, so no worker can know it, and the chance that a lie escapes is
printed.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			plan, err := shards.Load(ctx, args[0])
			if err != nil {
				return plain(err)
			}
			share, err := strconv.ParseFloat(orZero(audit), 64)
			if err != nil || !(share >= 0 && share <= 100) {
				return &userError{op: "shard merge", msg: "--audit " + audit + ": want a percentage from 0 to 100"}
			}
			if plan.Version != version {
				return &userError{op: "shard merge", path: args[0], msg: fmt.Sprintf("the plan is of version %s, this is %s", plan.Version, version), hint: "use one version for all of it"}
			}
			files.protect(args[0])
			if err := files.check(out, mergedKind()); err != nil {
				return err
			}
			got, err := a.collect(ctx, args[1], plan, wait)
			if err != nil {
				return err
			}
			progress := run.NewProgress("audit")
			stop := a.showProgress(progress)
			j, err := shards.Join(ctx, plan, got.Results, shards.Options{Table: stages.Table(), Root: root, Audit: share, Random: rand.Reader, Progress: progress})
			stop()
			var not *run.NotPlannedError
			var res *shard.ResultError
			switch {
			case errors.As(err, &not) || errors.As(err, &res):
				return &userError{op: "merge parts", path: args[1], err: err, hint: "run the parts that are named again"}
			case err != nil:
				return plain(err)
			case len(j.Disputes) > 0:
				end := conclusion{word: "differs", reasons: j.Reasons()}
				return a.concluded(output, end, j, j.Text)
			}
			if out != "" {
				if err := a.write(&files, out, mergedKind(), j.Merged.Encode()); err != nil {
					return err
				}
				if out == "-" {
					return nil
				}
				j.File = out
			}
			return a.concluded(output, computes(j.Reasons()...), j, j.Text)
		},
	}
	files.flags(cmd)
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&out, "out", "", "write the merged parts here, for shards: in retally.yaml")
	cmd.Flags().StringVar(&root, "root", ".", "folder that the plan's names start from, for what is read again")
	cmd.Flags().StringVar(&audit, "audit", "", "percent of the parts to read again here, drawn at random")
	cmd.Flags().DurationVar(&wait, "wait", 0, "how long to wait for results that are missing")
	return cmd
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// collect reads results, and waits for those that are missing.
func (a *app) collect(ctx context.Context, dir string, plan *shard.Plan, wait time.Duration) (*shards.Collected, error) {
	end, said := time.Now().Add(wait), -1
	for {
		c, err := shards.Collect(dir, plan)
		if err != nil && (wait == 0 || time.Now().After(end)) {
			return nil, plain(err)
		}
		if err == nil {
			if err := c.Err(); err != nil {
				return nil, &userError{op: "merge parts", path: dir, err: err, hint: "remove what is named and run those parts again"}
			}
			if len(c.Missing) == 0 || wait == 0 || time.Now().After(end) {
				return c, nil
			}
			if n := plan.Tasks() - len(c.Missing); n != said {
				a.talk("retally: %d of %d results", n, plan.Tasks())
				said = n
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(time.Second, max(time.Until(end), time.Millisecond))):
		}
	}
}
