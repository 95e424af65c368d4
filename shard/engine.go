package shard

import (
	"fmt"
	"strings"
)

// Command is how one verb of retally is started where an engine runs it.
type Command struct {
	Program, Plan, Results, Root, Merged string
	Audit                                string // percent, "" for none
}

// Run is the command line of one task; its index comes from the environment.
func (c Command) Run() []string {
	return []string{c.Program, "shard", "run", c.Plan, "--out", c.Results, "--root", c.Root}
}

// Merge is the command line that joins the results.
func (c Command) Merge() []string {
	line := []string{c.Program, "shard", "merge", c.Plan, c.Results, "--out", c.Merged, "--root", c.Root}
	if c.Audit != "" {
		line = append(line, "--audit", c.Audit)
	}
	return line
}

// Shell writes a command line for a POSIX shell.
func Shell(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") != "" {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// Ranges writes task numbers, in order, as Slurm and people do: 0-15,17.
func Ranges(list []int) string {
	var out []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i == j {
			out = append(out, fmt.Sprint(list[i]))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", list[i], list[j]))
		}
		i = j + 1
	}
	return strings.Join(out, ",")
}

// SlurmArray is the script of the job array.
func SlurmArray(c Command) string {
	return "#!/bin/sh\n# One task of the array reads one part of the plan; SLURM_ARRAY_TASK_ID says which.\nexec " + Shell(c.Run()) + "\n"
}

// SlurmMerge is the script of the job that depends on it.
func SlurmMerge(c Command) string {
	return "#!/bin/sh\nexec " + Shell(c.Merge()) + "\n"
}

// Slurm says how both jobs are submitted.
type Slurm struct {
	Name    string
	Logs    string // folder
	Tasks   []int
	AtOnce  int      // tasks at a time, 0: no bound
	Options []string // further ones of sbatch
}

// Array is the command line that submits tasks. It prints the job's number.
func (s Slurm) Array(script string) []string {
	tasks := Ranges(s.Tasks)
	if s.AtOnce > 0 {
		tasks += fmt.Sprintf("%%%d", s.AtOnce)
	}
	line := []string{"sbatch", "--parsable", "--job-name=" + s.Name, "--array=" + tasks, "--output=" + s.log("%A_%a")}
	return append(append(line, s.Options...), script)
}

// Merge is the command line that submits the merge behind an array.
func (s Slurm) Merge(script, array string) []string {
	line := []string{"sbatch", "--parsable", "--job-name=" + s.Name + "-merge", "--output=" + s.log("merge_%j")}
	if array != "" {
		line = append(line, "--dependency=afterok:"+array, "--kill-on-invalid-dep=yes")
	}
	return append(append(line, s.Options...), script)
}

// log is a pattern of Slurm's for a log file: a percent sign of the folder's own
// name stands twice.
func (s Slurm) log(name string) string {
	return strings.ReplaceAll(s.Logs, "%", "%%") + "/" + name + ".log"
}
