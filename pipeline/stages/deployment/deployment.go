// Package deployment is the stage that reads what a deployment pins.
package deployment

import (
	"context"
	"fmt"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
)

// Stage reads what the deployment pins. It measures nothing: its
// references are what the other stages' measurements are held against.
func Stage() run.Stage {
	return run.Stage{Name: "deployment", Version: 3, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	switch {
	case c.Deployment == "" && c.MachinesOnly():
		return nil
	case c.Deployment == "":
		return []run.PlanLine{{Key: "image/** disk/** file/**", Missing: "deployment", How: "deployment: deployment.yaml"}}
	}
	return []run.PlanLine{{Key: "what image/** disk/** file/** must be", From: c.Deployment}}
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	out := new(run.Out)
	file := in.Config.Deployment
	if file == "" {
		return out, nil
	}
	d, err := published.Deployment(ctx, in, in.Config)
	if err != nil {
		return nil, err
	}
	out.Facts = append(out.Facts, deploymentFacts(d))
	for _, p := range d.Problems() {
		out.Problems = append(out.Problems, deploymentProblem(p))
	}
	out.References = append(out.References, published.ImageReferences(d)...)
	out.References = append(out.References, published.FileReferences(d)...)
	out.References = append(out.References, published.Opaque(d)...)
	if !in.Config.PublishedDisks() {
		out.References = append(out.References, published.DiskReferences(d, nil)...)
	}
	return out, nil
}

// deploymentFacts counts what the deployment pins.
func deploymentFacts(d *deployment.Deployment) string {
	digests := map[digest.Digest]bool{}
	for _, p := range d.Images() {
		if p.Pinned {
			digests[p.Ref.Digest] = true
		}
	}
	return fmt.Sprintf("%s: %s, %s in %s, %s, %s at start", d.File, show.Plural(len(d.Workloads), "workload", "workloads"),
		show.Plural(len(d.Images()), "container reference", "container references"), show.Plural(len(digests), "digest", "digests"),
		show.Plural(len(d.Disks()), "model disk", "model disks"), show.Plural(len(d.FileChecks()), "file check", "file checks"))
}

// deploymentProblem takes the room's level: what leaves running code unbound is
// an error. What is not understood is a value of its own beside its warning.
func deploymentProblem(p deployment.Problem) pipeline.Problem {
	level := pipeline.LevelWarning
	if p.Code.Level() == deployment.Error {
		level = pipeline.LevelError
	}
	msg := p.Msg
	if p.Container != "" {
		msg = "container " + p.Container + ": " + msg
	}
	if p.Workload != "" {
		msg = p.Workload + ": " + msg
	}
	return pipeline.Problem{Level: level, Code: string(p.Code), Where: pipeline.Where{File: p.File, Line: p.Line}, Msg: msg, Hint: p.Hint}
}
