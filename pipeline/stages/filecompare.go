package stages

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	manifeststage "github.com/retally/retally/pipeline/stages/manifest"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/privatemode"
)

// File is a file with its content, as compare gets it.
type File struct {
	Name string
	Data []byte
}

// CompareFiles compares two published files of the same kind without
// recomputing anything: manifests of any version, hashes files, reports, or event
// logs.
func CompareFiles(a, b File, tool pipeline.Tool) (*pipeline.Report, error) {
	ka, kb := recognize.Content(a.Name, a.Data), recognize.Content(b.Name, b.Data)
	published := []recognize.Kind{recognize.KindManifest, recognize.KindHashes, recognize.KindReport}
	if !slices.Contains(published, ka) && !slices.Contains(published, kb) {
		if rep, ok, err := compareLogs(a, b, ka, kb, newComparison(a.Name, b.Name, tool)); ok {
			return rep, err
		}
	}
	for _, f := range []struct {
		File
		kind recognize.Kind
	}{{a, ka}, {b, kb}} {
		if !slices.Contains(published, f.kind) {
			return nil, &pipeline.InputError{
				Op: "compare", File: f.Name, Err: fmt.Errorf("is not a manifest, a hashes file, a retally report or an event log but %s", orNothing(f.kind)),
				Hint: "deployments and checkouts are compared with --release",
			}
		}
	}
	if ka != kb {
		return nil, &pipeline.InputError{Op: "compare", File: b.Name, Err: fmt.Errorf("is a %s, but %s is a %s", kb, a.Name, ka), Hint: "compare two files of the same kind"}
	}
	r := newComparison(a.Name, b.Name, tool)
	var side func(File) ([]pipeline.Measurement, error)
	switch ka {
	case recognize.KindManifest:
		return r.manifests(a, b)
	case recognize.KindHashes:
		side = hashesSide
	default:
		side = reportSide
	}
	ma, err := side(a)
	if err != nil {
		return nil, err
	}
	mb, err := side(b)
	if err != nil {
		return nil, err
	}
	r.ms, r.refs = ma, referencesOf(mb, b.Name)
	r.rep.Bytes = rawBytes(a.Data, b.Data)
	return r.finish(a, b), nil
}

func orNothing(k recognize.Kind) string {
	if k == recognize.KindUnknown {
		return "nothing that retally knows"
	}
	if strings.ContainsRune("aeiou", rune(k[0])) {
		return "an " + string(k)
	}
	return "a " + string(k)
}

// comparison builds the report of a comparison in which nothing is recomputed.
type comparison struct {
	rep  *pipeline.Report
	ms   []pipeline.Measurement
	refs []pipeline.Reference
	// causes say why a value differs, where that can be told.
	causes map[pipeline.Key][]pipeline.Cause
}

func newComparison(a, b string, tool pipeline.Tool) *comparison {
	shortA, shortB := shortNames(a, b)
	rep := run.NewReport(tool, fmt.Sprintf("%s compared with %s", a, b))
	rep.GotName, rep.WantName = shortA, shortB
	return &comparison{rep: rep}
}

// shortNames gives the shortest names that tell two files apart.
func shortNames(a, b string) (string, string) {
	x, y := path.Base(filepath.ToSlash(a)), path.Base(filepath.ToSlash(b))
	if x == y {
		return a, b
	}
	// "83c1af" and "216de2" say as much as the names with one same ending.
	for _, end := range []string{".manifest.json", ".deployment.yaml", ".json", ".yaml", ".yml"} {
		i, okX := strings.CutSuffix(x, end)
		j, okY := strings.CutSuffix(y, end)
		if okX && okY && i != "" && j != "" {
			return i, j
		}
	}
	return x, y
}

// finish counts. Both sides are copied by definition, which is said as the
// provenance and does not make the comparison incomplete.
func (c *comparison) finish(files ...File) *pipeline.Report {
	for _, f := range files {
		c.rep.Inputs = append(c.rep.Inputs, pipeline.Input{File: f.Name, Digest: digest.SHA256.Sum(f.Data), Size: int64(len(f.Data))})
	}
	all := []string{"**"}
	c.rep.Measurements = c.ms
	c.rep.Judge(pipeline.Case{CompareOptions: pipeline.CompareOptions{Complete: all, Published: all}, References: c.refs, Causes: c.causes, Allow: all, NothingRecounted: true})
	c.zeros()
	for i := range c.rep.Findings {
		if f := &c.rep.Findings[i]; f.Verdict == pipeline.Missing || f.Verdict == pipeline.Extra {
			f.Note = ""
		}
	}
	c.rep.Provenance.Verdict = pipeline.Unchecked
	c.rep.Provenance.Note = "both sides are taken as they are, nothing was recomputed"
	c.rep.Coverage = pipeline.Coverage{Kinds: []pipeline.KindCoverage{}}
	c.rep.Summary = c.sentence()
	return c.rep
}

// zeros says of registers that differ what it means that one side is all zero.
func (c *comparison) zeros() {
	for i := range c.rep.Findings {
		f := &c.rep.Findings[i]
		if k := f.Key.Kind(); f.Verdict != pipeline.Differs || k != "tdx" && k != "evidence" {
			continue
		}
		for _, side := range []struct {
			name  string
			value pipeline.Value
		}{{c.rep.GotName, f.Got}, {c.rep.WantName, f.Want}} {
			if words := tdx.ZeroWords(tdx.RegisterOf(f.Key), side.value.Digest()); words != "" {
				f.Why = append(f.Why, pipeline.Cause{Path: []string{string(f.Key), "zero"}, Note: "the value of " + side.name + " is " + words, Standing: pipeline.Suspected})
			}
		}
	}
}

func (c *comparison) sentence() string {
	m := &c.rep.Meaning
	bad := m.Loosened + m.Tightened + m.Unexplained
	switch {
	case c.rep.Bytes.Verdict == pipeline.Unchecked && c.rep.Bytes.Note != "":
		return "One of the two was not reproduced in full."
	case bad == 0 && c.rep.Bytes.Verdict == pipeline.Match:
		return "The two are identical."
	case bad == 0 && m.Volatile == 0:
		return "The two mean the same, but are not byte for byte identical."
	case bad == 0:
		return "The two differ only in what is expected to change."
	}
	s := show.Plural(bad, "value differs", "values differ")
	switch {
	case m.Loosened == bad:
		s += fmt.Sprintf(": %s accepts more than %s", c.rep.WantName, c.rep.GotName)
	case m.Loosened > 0:
		s += fmt.Sprintf("; in %d of them %s accepts more than %s", m.Loosened, c.rep.WantName, c.rep.GotName)
	}
	return s + "."
}

func (c *comparison) manifests(a, b File) (*pipeline.Report, error) {
	ma, err := manifest.Parse(a.Name, a.Data)
	if err != nil {
		return nil, err
	}
	mb, err := manifest.Parse(b.Name, b.Data)
	if err != nil {
		return nil, err
	}
	ms, refs := manifeststage.Sides(ma, mb, func(manifest.Field) (pipeline.Basis, []pipeline.InputRef) {
		return pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(a.Name)}
	})
	// What stands for no value is none, on neither side.
	c.ms, _ = manifeststage.WithoutPlaceholders(ms)
	c.refs = refs
	c.rep.Bytes = rawBytes(a.Data, b.Data)
	if n := len(ma.Placeholders()) + len(mb.Placeholders()); n > 0 && c.rep.Bytes.Verdict == pipeline.Match {
		c.rep.Bytes.Verdict, c.rep.Bytes.Note = pipeline.Unchecked, "values that were not reproduced are not the same by being written alike"
	}
	c.rep.Problems = append(manifeststage.Problems(a.Name, ma, false), manifeststage.Problems(b.Name, mb, false)...)
	c.common(ma, mb)
	sa, _, _ := strings.Cut(ma.Shape().String(), ":")
	sb, _, _ := strings.Cut(mb.Shape().String(), ":")
	if sa != sb {
		c.rep.Problems = append(c.rep.Problems, pipeline.Problem{Level: pipeline.LevelNote, Code: "manifest-version", Msg: fmt.Sprintf("different versions wrote the two: %s %s, %s %s", sa, c.rep.GotName, sb, c.rep.WantName)})
	}
	return c.finish(a, b), nil
}

// common says first what two manifests have as a whole that makes every policy
// hash another: they are of two releases, or of two namespaces. Two hashes cannot
// tell what else differs.
func (c *comparison) common(a, b *manifest.Manifest) {
	sa, sb, na, nb := a.Shape(), b.Shape(), a.Namespaces(), b.Namespaces()
	shared := pipeline.Cause{Standing: pipeline.Suspected}
	switch {
	case sa.Known() && sb.Known() && (sa.Newest < sb.Oldest || sb.Newest < sa.Oldest):
		shared.Path, shared.Hint, shared.Note = []string{"release"}, "generator-version", "another release of Contrast"
	case len(na) > 0 && len(nb) > 0 && !slices.Equal(na, nb):
		shared.Path, shared.Hint, shared.Note = []string{"namespace"}, "namespace", "another namespace"
	default:
		return
	}
	c.causes = map[pipeline.Key][]pipeline.Cause{}
	has := map[pipeline.Key]bool{}
	for _, m := range c.ms {
		has[m.Key] = true
	}
	for _, r := range c.refs {
		// A workload that only one of the two lets in is no matter of hashes.
		if parts := r.Key.Parts(); parts[0] == "policy" && len(parts) == 4 && has[r.Key] {
			c.causes[r.Key] = []pipeline.Cause{shared}
		}
	}
}

func rawBytes(a, b []byte) pipeline.BytesResult {
	r := pipeline.BytesResult{Verdict: pipeline.Match, Got: pipeline.OfDigest(digest.SHA256.Sum(a)), Want: pipeline.OfDigest(digest.SHA256.Sum(b))}
	if !bytes.Equal(a, b) {
		r.Verdict = pipeline.Differs
		r.CountLines(a, b)
	}
	return r
}

func hashesSide(f File) ([]pipeline.Measurement, error) {
	hashes, err := privatemode.ParseHashes(f.Name, f.Data)
	if err != nil {
		return nil, err
	}
	var ms []pipeline.Measurement
	for _, h := range hashes {
		ms = append(ms, pipeline.Measurement{Key: pipeline.NewKey("image", h.Name, "manifest"), Value: pipeline.OfDigest(h.Digest), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(f.Name)}})
	}
	return ms, nil
}

func reportSide(f File) ([]pipeline.Measurement, error) {
	r, err := pipeline.ReadReport(f.Name, f.Data)
	if err != nil {
		return nil, err
	}
	return r.Measurements, nil
}

// referencesOf turns measurements of the other side into references.
func referencesOf(ms []pipeline.Measurement, file string) []pipeline.Reference {
	refs := make([]pipeline.Reference, len(ms))
	for i, m := range ms {
		refs[i] = pipeline.Reference{Key: m.Key, Relation: pipeline.Equal, Want: m.Value, Where: pipeline.Where{File: file}, Words: m.Note}
	}
	return refs
}

// CompareReleases says what moved between two releases: deployments, folders
// with a deployment and a models file, or manifests.
func CompareReleases(ctx context.Context, a, b string, tool pipeline.Tool) (*pipeline.Report, error) {
	c := newComparison(a, b, tool)
	var sides [2]releaseFacts
	for i, p := range []string{a, b} {
		s, err := recognize.Look(ctx, Table(), []string{p}, nil)
		if err != nil {
			return nil, err
		}
		if sides[i], err = releaseSide(ctx, s); err != nil {
			return nil, err
		}
		for _, f := range s.Found {
			if _, in, err := s.Reader.ReadFile(ctx, f.Name, config.YAMLLimit); err == nil {
				in.File = path.Join(filepath.ToSlash(p), in.File)
				if in.File == path.Join(filepath.ToSlash(p), path.Base(filepath.ToSlash(p))) {
					in.File = filepath.ToSlash(p)
				}
				c.rep.Inputs = append(c.rep.Inputs, in)
			}
		}
	}
	ms, refs := sides[0].ms, referencesOf(sides[1].ms, b)
	if sides[0].deployment != nil && sides[1].deployment != nil {
		classRuntimes(sides[0].deployment, sides[1].deployment, refs)
		gone, want := startChecks(sides[0].deployment, sides[1].deployment, a, b)
		ms, refs = append(ms, gone...), append(refs, want...)
	}
	if ma, mb := sides[0].manifest, sides[1].manifest; ma != nil && mb != nil {
		mm, mr := manifeststage.Sides(ma, mb, func(manifest.Field) (pipeline.Basis, []pipeline.InputRef) {
			return pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(a)}
		})
		ms, refs = append(ms, mm...), append(refs, mr...)
		c.rep.Bytes = rawBytes(ma.Raw(), mb.Raw())
	}
	if len(ms) == 0 && len(refs) == 0 {
		return nil, &pipeline.InputError{Op: "compare releases", File: a, Err: fmt.Errorf("neither side has a deployment or a manifest")}
	}
	c.ms, c.refs = ms, refs
	return c.finish(), nil
}

// releaseFacts are what one of two releases says.
type releaseFacts struct {
	ms         []pipeline.Measurement
	manifest   *manifest.Manifest     // nil if it has none
	deployment *deployment.Deployment // nil if it has none
}

// releaseSide lists what a release pins, under names that do not hold what
// changes with every release.
func releaseSide(ctx context.Context, s *recognize.Subject) (facts releaseFacts, err error) {
	var ms []pipeline.Measurement
	seen := map[pipeline.Key]bool{}
	add := func(k pipeline.Key, v pipeline.Value, note string) {
		if !seen[k] {
			seen[k] = true
			ms = append(ms, pipeline.Measurement{Key: k, Value: v, Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(s.Root)}, Note: note})
		}
	}
	if f := s.Config.Against; f != "" {
		if facts.manifest, err = run.Parsed(ctx, s.Reader, f, config.JSONLimit, manifest.Parse); err != nil {
			return facts, err
		}
	}
	models := map[digest.Digest]privatemode.Model{}
	if s.Config.PublishedDisks() {
		list, err := published.Models(ctx, s.Reader, s.Config)
		if err != nil {
			return facts, err
		}
		for _, e := range list.Entries {
			models[e.RootHash] = e
			add(pipeline.NewKey("disk", e.Key, "commit"), pipeline.OfText(e.Commit), "commit of "+e.Source)
			add(pipeline.NewKey("disk", e.Key, "root"), pipeline.OfDigest(e.RootHash), "root hash of "+e.Key)
		}
	}
	if f := s.Config.Deployment; f != "" {
		d, err := published.Deployment(ctx, s.Reader, s.Config)
		if err != nil {
			return facts, err
		}
		facts.deployment = d
		names := published.ImageNames(d.Images())
		for _, p := range d.Images() {
			name := cmp.Or(names[p.Ref.Registry+"/"+p.Ref.Repository+"@"+p.Ref.Digest.String()], p.Ref.Name)
			if p.Pinned {
				add(pipeline.NewKey("image", name, "manifest"), pipeline.OfDigest(p.Ref.Digest), "digest")
			}
			add(pipeline.NewKey("image", name, "tag"), pipeline.OfText(p.Ref.Tag), "tag")
		}
		for _, w := range d.Workloads {
			var containers []string
			for _, c := range w.Containers {
				containers = append(containers, c.Name)
			}
			add(pipeline.NewKey("workload", w.Kind, w.Name, "containers"), pipeline.OfList(containers), "containers")
			add(pipeline.NewKey("workload", w.Kind, w.Name, "runtime"), pipeline.OfText(cmp.Or(w.RuntimeClass, "no runtime class")), "runtime class")
		}
		for _, p := range d.Disks() {
			if e, known := models[p.RootHash]; known {
				add(pipeline.NewKey("workload-disk", published.DiskName(p)), pipeline.OfText(e.Key), "model on the disk")
			} else if !p.RootHash.IsZero() {
				add(pipeline.NewKey("workload-disk", published.DiskName(p)), pipeline.OfDigest(p.RootHash), "root hash of the disk")
			}
		}
		for _, r := range published.FileReferences(d) {
			add(r.Key, r.Want, "hash of a file checked at start")
		}
	}
	facts.ms = ms
	return facts, nil
}
