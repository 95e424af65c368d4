package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/pipeline/stages/shards"
	"github.com/retally/retally/shard"
)

func (a *app) shardJobCommand() *cobra.Command {
	var (
		files             outputs
		output, kustomize string
		k                 shard.Kube
	)
	cmd := &cobra.Command{
		Use:   "job PLAN",
		Short: "Print a plan as Kubernetes Jobs: an Indexed Job and the merge",
		Long: `Print the objects that run a plan on Kubernetes: a ConfigMap with the plan, an
Indexed Job with one index for each task, and a Job that waits for the results
and merges them. Pods have no privileges, no token of a service account, a
read-only root and the model read-only. An index whose directory is not the one
that was planned (exit code 1) fails for good; trouble (2) is tried again.

The names in the plan start from the model's volume, so make the plan in that
folder. Results need a volume on which a file can be renamed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := shards.Load(cmd.Context(), args[0])
			if err != nil {
				return plain(err)
			}
			if err := k.Check(); err != nil {
				return &userError{op: "shard job", err: err}
			}
			if kustomize == "" && len(plan.Encode()) > shard.MaxConfigMap {
				return &userError{op: "shard job", path: args[0], msg: fmt.Sprintf("has %d bytes, and a ConfigMap holds %d", len(plan.Encode()), shard.MaxConfigMap), hint: "plan fewer parts"}
			}
			files.protect(args[0])
			view := jobView{Tasks: plan.Tasks(), ConfigMap: k.ConfigMap(plan), Jobs: k.Jobs(plan), Folder: kustomize}
			if kustomize != "" {
				view.ConfigMap, view.Kustomization = "", k.Kustomization()
				err := files.guard.WriteFolder(kustomize, []outfile.File{
					{Name: "kustomization.yaml", Kind: outfile.KindOf("kustomization"), Data: func() []byte { return []byte(view.Kustomization) }},
					{Name: "jobs.yaml", Kind: outfile.KindOf("kubernetes jobs"), Data: func() []byte { return []byte(view.Jobs) }},
					{Name: "plan.json", Kind: planKind(), Data: plan.Encode},
				})
				if err != nil {
					return &userError{op: "write kustomize base", path: kustomize, err: err}
				}
			}
			return a.result(output, view, view.text)
		},
	}
	files.flags(cmd)
	outputFlag(cmd, &output)
	f := cmd.Flags()
	f.StringVar(&k.Name, "name", "retally", "name of the Jobs")
	f.StringVar(&k.Namespace, "namespace", "", "namespace of the Jobs")
	f.StringVar(&k.Image, "image", "", "image of retally, with its digest: name@sha256:...")
	f.StringVar(&k.Model, "model-claim", "", "PersistentVolumeClaim with what is read")
	f.StringVar(&k.Results, "results-claim", "", "PersistentVolumeClaim for the results, writable from all nodes")
	f.IntVar(&k.AtOnce, "parallel", 0, "Pods at a time (0: all tasks, at most 64)")
	f.IntVar(&k.Retries, "retries", 3, "how often a task that could not read is tried again")
	f.StringVar(&k.CPU, "cpus", "2", "processors of a task")
	f.StringVar(&k.Memory, "pod-memory", "512Mi", "memory of a task")
	f.StringVar(&k.Audit, "audit", "", "percent of the parts that the merging Pod reads again")
	f.StringVar(&k.Wait, "wait", "24h", "how long the merge waits for the last result")
	f.StringVar(&kustomize, "kustomize", "", "write a kustomize base into this folder instead")
	return cmd
}

// jobView is the objects of a plan.
type jobView struct {
	Tasks         int    `json:"tasks"`
	ConfigMap     string `json:"configmap,omitempty"`
	Jobs          string `json:"jobs"`
	Kustomization string `json:"kustomization,omitempty"`
	Folder        string `json:"folder,omitempty"`
}

func (v jobView) text(w io.Writer) {
	if v.Folder != "" {
		fmt.Fprintf(w, "%s: kustomization.yaml, jobs.yaml and plan.json of %d tasks\n", v.Folder, v.Tasks)
		return
	}
	_, _ = io.WriteString(w, strings.TrimSuffix(v.ConfigMap, "\n")+"\n---\n"+v.Jobs)
}
