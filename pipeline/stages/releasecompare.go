package stages

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/published"
)

// confidential reports whether a workload runs in a class that a manifest's
// machines can be behind: one of Contrast's own.
func confidential(w deployment.Workload) bool {
	return w.Confidential && (w.Platform != "" || w.RuntimeClass == "contrast-cc")
}

func runtimeKey(w deployment.Workload) pipeline.Key {
	return pipeline.NewKey("workload", w.Kind, w.Name, "runtime")
}

// classRuntimes says what a change of a workload's runtime class means: leaving
// confidential computing takes every guarantee away, whatever the names are. A
// workload that comes outside of it is one more that is not measured.
func classRuntimes(a, b *deployment.Deployment, refs []pipeline.Reference) {
	before := map[pipeline.Key]bool{}
	was := map[pipeline.Key]deployment.Workload{}
	for _, w := range a.Workloads {
		if k := runtimeKey(w); !before[k] {
			before[k], was[k] = true, w
		}
	}
	is := map[pipeline.Key]deployment.Workload{}
	for _, w := range b.Workloads {
		if k := runtimeKey(w); is[k].Name == "" {
			is[k] = w
		}
	}
	for i := range refs {
		r := &refs[i]
		now, ok := is[r.Key]
		if !ok {
			continue
		}
		switch {
		case !before[r.Key]:
			if !confidential(now) {
				r.Stricter = pipeline.StricterAbsent
				r.Words = "runtime class outside confidential computing"
			}
		case confidential(was[r.Key]) && !confidential(now):
			r.Class, r.Note = pipeline.ClassLoosened, "the workload leaves confidential computing: nothing of it is measured any more"
		case !confidential(was[r.Key]) && confidential(now):
			r.Class, r.Note = pipeline.ClassTightened, "the workload enters confidential computing"
		case !confidential(now):
			r.Note = "outside confidential computing before and after"
		}
	}
}

// A startCheck is something that a container checks before it works.
type startCheck struct{ kind, name, container, what string }

func (c startCheck) key() pipeline.Key {
	return pipeline.NewKey("workload", c.kind, c.name, "check", c.container, c.what)
}

func fileCheck(c deployment.FileCheck) startCheck {
	return startCheck{c.Object.Kind, c.Object.Name, c.Container, "hash of " + path.Base(c.File)}
}

// checksOf lists the checks that are enforced, each once with its place.
func checksOf(d *deployment.Deployment) map[startCheck]int {
	out := map[startCheck]int{}
	for _, c := range d.FileChecks() {
		if c.Enforcement == deployment.Enforced && !c.Expected.IsZero() {
			out[fileCheck(c)] = c.Line
		}
	}
	for _, p := range d.Disks() {
		if p.Used && !p.RootHash.IsZero() {
			out[startCheck{p.Object.Kind, p.Object.Name, p.Container, rootOf + published.DiskName(p)}] = p.Line
		}
	}
	return out
}

// startChecks names the checks that one of two releases has and the other has
// not, of workloads that both have. A check that moved to another container of
// the workload, or a disk that has another model's name, is still there.
func startChecks(a, b *deployment.Deployment, fileA, fileB string) (ms []pipeline.Measurement, refs []pipeline.Reference) {
	unenforced := map[startCheck]string{}
	say := func(c startCheck, had bool, line int) {
		m := pipeline.Measurement{Key: c.key(), Value: pipeline.OfBool(had), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(fileA)}}
		r := pipeline.Reference{
			Key: c.key(), Relation: pipeline.Equal, Want: pipeline.OfBool(!had), Stricter: pipeline.StricterOn,
			Where: pipeline.Where{File: fileB}, Words: fmt.Sprintf("%s checked at start (%s)", c.what, c.container),
		}
		if why, weak := unenforced[c]; had && weak {
			r.Note = fmt.Sprintf("the check on line %d of %s is there, and no longer seen to be enforced: %s", line, path.Base(fileA), why)
		} else if had {
			r.Note = fmt.Sprintf("the check on line %d of %s is gone", line, path.Base(fileA))
		} else {
			r.Where.Line = line
		}
		ms, refs = append(ms, m), append(refs, r)
	}
	was, is := checksOf(a), checksOf(b)
	for _, f := range b.FileChecks() {
		if f.Enforcement != deployment.Enforced {
			unenforced[fileCheck(f)] = f.Reason
		}
	}
	for _, side := range []struct {
		here, there map[startCheck]int
		in          *deployment.Deployment // that may lack it
		had         bool
	}{{was, is, b, true}, {is, was, a, false}} {
		containers := containersOf(side.in)
		moved := movedChecks(side.here, side.there)
		for _, c := range sortedChecks(side.here) {
			there, known := containers[[2]string{c.kind, c.name}]
			if _, ok := side.there[c]; ok || !known || moved[c] && (!there[c.container] || isDisk(c)) {
				continue
			}
			say(c, side.had, side.here[c])
		}
	}
	return ms, refs
}

const rootOf = "root hash of disk "

func isDisk(c startCheck) bool { return strings.HasPrefix(c.what, rootOf) }

// movedChecks are the checks of one side in whose place the other side has one:
// of a file the same in another container, of a disk any in the same container,
// or in another.
func movedChecks(here, there map[startCheck]int) map[startCheck]bool {
	files, disks := map[startCheck]bool{}, map[startCheck]int{}
	for c := range there {
		if _, both := here[c]; both {
			continue
		}
		if isDisk(c) {
			disks[startCheck{c.kind, c.name, "", ""}]++
		} else {
			files[startCheck{c.kind, c.name, "", c.what}] = true
		}
	}
	out := map[startCheck]bool{}
	for _, c := range sortedChecks(here) {
		if _, both := there[c]; both {
			continue
		}
		at := startCheck{c.kind, c.name, "", ""}
		if isDisk(c) {
			if disks[at] > 0 {
				disks[at]--
				out[c] = true
			}
			continue
		}
		at.what = c.what
		out[c] = files[at]
	}
	return out
}

func sortedChecks(m map[startCheck]int) []startCheck {
	out := make([]startCheck, 0, len(m))
	for c := range m {
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y startCheck) int {
		return cmp.Or(cmp.Compare(x.kind, y.kind), cmp.Compare(x.name, y.name), cmp.Compare(x.container, y.container), cmp.Compare(x.what, y.what))
	})
	return out
}

// containersOf lists the containers of each workload.
func containersOf(d *deployment.Deployment) map[[2]string]map[string]bool {
	out := map[[2]string]map[string]bool{}
	for _, w := range d.Workloads {
		id := [2]string{w.Kind, w.Name}
		if out[id] == nil {
			out[id] = map[string]bool{}
		}
		for _, c := range w.Containers {
			out[id][c.Name] = true
		}
	}
	return out
}
