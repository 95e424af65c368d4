package pipeline

import (
	"context"
	"fmt"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
)

// deploymentStage reads what the deployment pins. It measures nothing: its
// references are what the other stages' measurements are held against.
func deploymentStage() Stage {
	return Stage{Name: "deployment", Version: 2, Run: runDeployment, Plan: planDeployment}
}

func planDeployment(c *Config) []PlanLine {
	switch {
	case c.Deployment == "" && c.machinesOnly():
		return nil
	case c.Deployment == "":
		return []PlanLine{{Key: "image/** disk/** file/**", Missing: "deployment", How: "deployment: deployment.yaml"}}
	}
	return []PlanLine{{Key: "what image/** disk/** file/** must be", From: c.Deployment}}
}

func runDeployment(ctx context.Context, in *In) (*Out, error) {
	out := new(Out)
	file := in.Config.Deployment
	if file == "" {
		return out, nil
	}
	d, err := Parsed(ctx, in, in.Config.Deployment, YAMLLimit, deployment.Parse)
	if err != nil {
		return nil, err
	}
	out.Facts = append(out.Facts, deploymentFacts(d))
	for _, p := range d.Problems() {
		out.Problems = append(out.Problems, deploymentProblem(p))
	}
	out.References = append(out.References, imageReferences(d)...)
	out.References = append(out.References, fileReferences(d)...)
	if in.Config.Models == "" {
		out.References = append(out.References, diskReferences(d, nil)...)
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

// deploymentProblem decides how bad a problem is: what leaves running code
// unbound is an error, what may be meant is a warning.
func deploymentProblem(p deployment.Problem) Problem {
	level := LevelWarning
	switch p.Code {
	case deployment.ImageUnpinned, deployment.ImageMalformed, deployment.ImageMissing, deployment.DiskNoRootHash, deployment.DiskRootHash,
		deployment.DiskArgsUnused, deployment.DuplicateObject, deployment.CheckMalformed, deployment.CheckNotEnforced, deployment.CheckInverted:
		level = LevelError
	case deployment.NotConfidential:
		level = LevelNote
	}
	msg := p.Msg
	if p.Container != "" {
		msg = "container " + p.Container + ": " + msg
	}
	if p.Workload != "" {
		msg = p.Workload + ": " + msg
	}
	return Problem{Level: level, Code: string(p.Code), Where: Where{File: p.File, Line: p.Line}, Msg: msg, Hint: p.Hint}
}
