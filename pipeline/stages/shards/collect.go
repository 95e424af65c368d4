// Package shards joins what other machines read: it collects the results of a
// plan's parts, holds them against it and against each other, audits a share of
// them, and says whom a value rests on.
package shards

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/shard"
)

// Load reads a plan.
func Load(ctx context.Context, file string) (*shard.Plan, error) {
	data, _, err := run.NewReader("", nil).ReadFile(ctx, file, shard.MaxPlan)
	if err != nil {
		return nil, err
	}
	p, err := shard.ParsePlan(data)
	if err != nil {
		return nil, &pipeline.InputError{Op: "read plan", File: file, Err: err, Hint: "retally shard plan writes one"}
	}
	return p, nil
}

// Collected are the results that lie in a folder.
type Collected struct {
	Results []*shard.Result
	Missing []int         // tasks without a result that can be used
	Refused map[int]error // of them, by task: there is a file, and why it is not taken
	Others  []string      // files that are called like a part and are none of the plan

	plan *shard.Plan
	id   digest.Digest   // of the plan
	have map[[2]int]bool // by part and copy
}

// Collect reads the results of a plan out of a folder. Links are not followed:
// a result is a file of the folder. Files of other names are not looked at.
func Collect(dir string, p *shard.Plan) (*Collected, error) {
	c := &Collected{Refused: map[int]error{}, plan: p, id: p.Digest(), have: map[[2]int]bool{}}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, pipeline.NewInputError("read results", dir, err)
	}
	defer root.Close()
	list, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, pipeline.NewInputError("read results", dir, err)
	}
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), "part-") {
			continue
		}
		part, copy, ok := shard.ParseFileName(e.Name())
		if !ok || part >= len(p.Parts) || copy >= p.Redundancy {
			c.Others = append(c.Others, e.Name())
			continue
		}
		r, err := c.read(root, e, part, copy)
		if err != nil {
			c.Refused[copy*len(p.Parts)+part] = err
			continue
		}
		c.Results = append(c.Results, r)
		c.have[[2]int{part, copy}] = true
	}
	for task := range p.Tasks() {
		part, copy, err := p.Task(task)
		if err != nil {
			return nil, err
		}
		if !c.have[[2]int{part, copy}] {
			c.Missing = append(c.Missing, task)
		}
	}
	return c, nil
}

func (c *Collected) read(root *os.Root, e fs.DirEntry, part, copy int) (*shard.Result, error) {
	if !e.Type().IsRegular() {
		return nil, &shard.ResultError{Part: part, Copy: copy, What: e.Name() + " is no file of the folder (a link, or something else): links are not followed"}
	}
	f, err := root.Open(e.Name())
	if err != nil {
		return nil, &shard.ResultError{Part: part, Copy: copy, What: err.Error()}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, shard.MaxResult+1))
	if err != nil {
		return nil, &shard.ResultError{Part: part, Copy: copy, What: err.Error()}
	}
	return c.plan.ParseResult(c.id, part, copy, data)
}

// maxShown bounds how many refusals an error names.
const maxShown = 8

// Err joins what stands against using the results at all; nil if nothing does.
func (c *Collected) Err() error {
	var errs []error
	for task := range c.plan.Tasks() {
		if err := c.Refused[task]; err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range c.Others {
		errs = append(errs, fmt.Errorf("%q is called like a part and is none of this plan", name))
	}
	if n := len(errs); n > maxShown {
		errs = append(errs[:maxShown], fmt.Errorf("and %d more", n-maxShown))
	}
	return errors.Join(errs...)
}
