package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/stages/shards"
	"github.com/retally/retally/shard"
)

// slurmFlags say how a plan is given to Slurm.
type slurmFlags struct {
	plan         planFlags
	files        outputs
	output, out  string
	audit        string
	options      []string
	atOnce       int
	retries      int
	dryRun, wait bool
}

func (a *app) shardSlurmCommand() *cobra.Command {
	var f slurmFlags
	cmd := &cobra.Command{
		Use:   "slurm [DIR]",
		Short: "Submit the parts of a plan to Slurm, and the merge behind them",
		Long: `Write a plan, submit its tasks as a job array and, dependent on it, the job that
merges. The folder --out has plan.json, results, logs and in the end merged.json;
it and what is read must be the same path on all nodes. Called again with the
same folder, the plan that is there is gone on with and only those tasks are
submitted whose result is missing or is refused.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.slurm(cmd.Context(), &f, args) },
	}
	f.plan.flags(cmd)
	f.files.flags(cmd)
	outputFlag(cmd, &f.output)
	fl := cmd.Flags()
	fl.StringVar(&f.out, "out", "retally-shards", "folder of the job, on a file system that all nodes share")
	fl.StringVar(&f.audit, "audit", "", "percent of the parts that the merging job reads again")
	fl.StringArrayVar(&f.options, "sbatch", nil, "further option of sbatch, such as --partition=cpu; may be given several times")
	fl.IntVar(&f.atOnce, "parallel", 0, "how many tasks run at a time (0: as Slurm has room)")
	fl.IntVar(&f.retries, "retries", 2, "with --wait: how often tasks that failed are submitted again")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print what would be written and submitted")
	fl.BoolVar(&f.wait, "wait", false, "wait for the merge, tell how many results there are, and submit again what failed")
	return cmd
}

// slurmView is what was submitted, and how far it is.
type slurmView struct {
	Folder  string `json:"folder"`
	Tasks   int    `json:"tasks"`
	Results int    `json:"results"` // that lie there
	Array   string `json:"array_job,omitempty"`
	Merge   string `json:"merge_job,omitempty"`
	Sent    string `json:"submitted,omitempty"` // task numbers
	Merged  string `json:"merged,omitempty"`    // the file, when it is there
	Root    string `json:"root"`
	// What would be written and submitted, with --dry-run.
	Plan        *partsView `json:"planned,omitempty"`
	ArrayScript string     `json:"array_script,omitempty"`
	MergeScript string     `json:"merge_script,omitempty"`
	Lines       []string   `json:"submit,omitempty"`
}

func (v slurmView) text(w io.Writer) {
	show.Line(w, "%s: %d of %d results", v.Folder, v.Results, v.Tasks)
	if v.Array != "" {
		show.Line(w, "array %s: tasks %s", v.Array, v.Sent)
	}
	if v.Merge != "" {
		show.Line(w, "merge %s", v.Merge)
	}
	if v.Merged != "" {
		show.Line(w, "merged %s (shards: in retally.yaml)", v.Merged)
	}
}

// slurmJob is a job folder with its plan.
type slurmJob struct {
	f       *slurmFlags
	plan    *shard.Plan
	folder  string // absolute, as all below
	root    string
	command shard.Command
}

func (j *slurmJob) path(name string) string { return filepath.Join(j.folder, name) }

func (j *slurmJob) jobs(tasks []int) shard.Slurm {
	return shard.Slurm{Name: "retally", Logs: j.path("logs"), Tasks: tasks, AtOnce: j.f.atOnce, Options: j.f.options}
}

func (a *app) slurm(ctx context.Context, f *slurmFlags, args []string) error {
	j, fresh, err := a.slurmPlan(ctx, f, args)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.slurmDryRun(j)
	}
	if _, err := exec.LookPath("sbatch"); err != nil {
		return &userError{op: "shard slurm", msg: "there is no sbatch here", hint: "run it where jobs are submitted, or look at --dry-run"}
	}
	if err := a.slurmWrite(j, fresh); err != nil {
		return err
	}
	v := slurmView{Folder: j.folder, Tasks: j.plan.Tasks(), Root: j.root}
	for try := 0; ; try++ {
		c, err := shards.Collect(j.path("results"), j.plan)
		if err != nil {
			return plain(err)
		}
		for task, err := range c.Refused {
			a.talk("retally: task %d is run again: %v", task, err)
		}
		v.Results, v.Array, v.Merge = j.plan.Tasks()-len(c.Missing), "", ""
		_, merged := os.Stat(j.path("merged.json"))
		if len(c.Missing) == 0 && merged == nil {
			v.Merged = j.path("merged.json")
			break
		}
		if try > f.retries {
			return &userError{op: "shard slurm", path: j.folder, msg: fmt.Sprintf("%d of %d tasks have no result after %d tries", len(c.Missing), j.plan.Tasks(), try), hint: "look into " + j.path("logs")}
		}
		if err := a.slurmSubmit(ctx, j, c.Missing, &v); err != nil {
			return err
		}
		if !f.wait {
			break
		}
		if err := a.slurmWait(ctx, j, v.Array, v.Merge); err != nil {
			return err
		}
	}
	return a.result(f.output, v, v.text)
}

// slurmPlan takes the plan of the folder, or makes one.
func (a *app) slurmPlan(ctx context.Context, f *slurmFlags, args []string) (j *slurmJob, fresh bool, err error) {
	j = &slurmJob{f: f}
	if j.folder, err = filepath.Abs(f.out); err != nil {
		return nil, false, &userError{op: "shard slurm", path: f.out, err: err}
	}
	root := "."
	if len(args) == 0 {
		root = filepath.Dir(f.plan.file)
	}
	switch _, serr := os.Stat(j.path("plan.json")); {
	case serr == nil:
		if j.plan, err = shards.Load(ctx, j.path("plan.json")); err != nil {
			return nil, false, plain(err)
		}
		if j.plan.Version != version {
			return nil, false, &userError{op: "shard slurm", path: j.path("plan.json"), msg: fmt.Sprintf("the plan is of version %s, this is %s", j.plan.Version, version), hint: "name another folder"}
		}
		again, _, err := f.plan.make(ctx, a, args)
		if err != nil {
			return nil, false, err
		}
		if again.Digest() != j.plan.Digest() {
			return nil, false, &userError{op: "shard slurm", path: j.path("plan.json"), msg: "is the plan of something else: another directory, other options, or a file that changed since", hint: "name another folder with --out, or remove this one"}
		}
	case errors.Is(serr, fs.ErrNotExist):
		fresh = true
		if j.plan, root, err = f.plan.make(ctx, a, args); err != nil {
			return nil, false, err
		}
	default:
		return nil, false, &userError{op: "shard slurm", path: j.path("plan.json"), err: reason(serr)}
	}
	if j.root, err = filepath.Abs(root); err != nil {
		return nil, false, &userError{op: "shard slurm", path: root, err: err}
	}
	program, err := os.Executable()
	if err != nil {
		return nil, false, &userError{op: "shard slurm", err: err}
	}
	j.command = shard.Command{Program: program, Plan: j.path("plan.json"), Results: j.path("results"), Root: j.root, Merged: j.path("merged.json"), Audit: f.audit}
	return j, fresh, nil
}

func (a *app) slurmDryRun(j *slurmJob) error {
	var all []int
	for i := range j.plan.Tasks() {
		all = append(all, i)
	}
	s, plan := j.jobs(all), viewPlan(j.plan, "")
	v := slurmView{
		Folder: j.folder, Tasks: j.plan.Tasks(), Root: j.root, Plan: &plan, ArrayScript: shard.SlurmArray(j.command), MergeScript: shard.SlurmMerge(j.command),
		Lines: []string{shard.Shell(s.Array(j.path("array.sh"))), shard.Shell(s.Merge(j.path("merge.sh"), "JOB"))},
	}
	return a.result(j.f.output, v, func(w io.Writer) {
		plan.text(w)
		for _, f := range [][2]string{{"array.sh", v.ArrayScript}, {"merge.sh", v.MergeScript}} {
			show.Line(w, "")
			show.Line(w, "%s:", j.path(f[0]))
			for line := range strings.Lines(f[1]) {
				show.Line(w, "%s", strings.TrimSuffix(line, "\n"))
			}
		}
		show.Line(w, "")
		for _, line := range v.Lines {
			show.Line(w, "%s", line)
		}
	})
}

// slurmWrite makes the folder and what is in it.
func (a *app) slurmWrite(j *slurmJob, fresh bool) error {
	for _, dir := range []string{j.folder, j.path("results"), j.path("logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return &userError{op: "shard slurm", path: dir, err: reason(err)}
		}
	}
	write := map[string]string{"array.sh": shard.SlurmArray(j.command), "merge.sh": shard.SlurmMerge(j.command)}
	for name, text := range write {
		if err := a.write(&j.f.files, j.path(name), outfile.KindOf("job script"), []byte(text)); err != nil {
			return err
		}
	}
	if fresh {
		return a.write(&j.f.files, j.path("plan.json"), planKind(), j.plan.Encode())
	}
	return nil
}

func (a *app) slurmSubmit(ctx context.Context, j *slurmJob, missing []int, v *slurmView) error {
	s := j.jobs(missing)
	var err error
	if len(missing) > 0 {
		v.Sent = shard.Ranges(missing)
		if v.Array, err = sbatch(ctx, s.Array(j.path("array.sh"))); err != nil {
			return err
		}
		a.talk("retally: array %s: %s", v.Array, show.Plural(len(missing), "task", "tasks"))
	}
	if v.Merge, err = sbatch(ctx, s.Merge(j.path("merge.sh"), v.Array)); err != nil {
		return err
	}
	return nil
}

// sbatch submits and returns the job's number.
func sbatch(ctx context.Context, line []string) (string, error) {
	out, err := slurmTool(ctx, line...)
	if err != nil {
		return "", &userError{op: "submit", msg: err.Error(), hint: "sinfo shows whether Slurm has nodes"}
	}
	job, _, _ := strings.Cut(strings.TrimSpace(out), ";")
	if job == "" || strings.Trim(job, "0123456789") != "" {
		return "", &userError{op: "submit", msg: fmt.Sprintf("sbatch answered %.80q, want a job number", out)}
	}
	return job, nil
}

func slurmTool(ctx context.Context, line ...string) (string, error) {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", line[0], err, show.Clip(strings.TrimSpace(errOut.String()), 400))
	}
	return out.String(), nil
}

// patience is how long Slurm's controller may be silent: it may be restarted,
// and keeps its jobs.
const patience = 10 * time.Minute

// slurmWait waits until neither job is there any more, and tells how many
// results have come.
func (a *app) slurmWait(ctx context.Context, j *slurmJob, jobs ...string) error {
	heard, said := time.Now(), -1
	for {
		c, err := shards.Collect(j.path("results"), j.plan)
		if err != nil {
			return plain(err)
		}
		if n := j.plan.Tasks() - len(c.Missing); n != said {
			a.talk("retally: %d of %d results", n, j.plan.Tasks())
			said = n
		}
		running := false
		for _, job := range jobs {
			if job == "" {
				continue
			}
			// --states is not asked for: what has ended is not listed.
			out, err := slurmTool(ctx, "squeue", "--noheader", "--jobs="+job, "--format=%i")
			switch {
			case err == nil:
				heard = time.Now()
				running = running || strings.TrimSpace(out) != ""
			case strings.Contains(err.Error(), "Invalid job id"):
				heard = time.Now()
			case ctx.Err() != nil:
				return ctx.Err()
			case time.Since(heard) > patience:
				return &userError{op: "shard slurm", err: err, hint: "call it again when the controller answers: results are kept"}
			default:
				running = true
			}
		}
		if !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
