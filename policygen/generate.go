package policygen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/retally/retally/internal/digest"
)

// Rules is the text of the rules file with the digest that results name.
type Rules struct {
	Name string
	Text []byte
	// RequirePinned refuses images without a digest: rules that bind the image
	// have nothing to compare otherwise.
	RequirePinned bool
}

// Digest is the SHA-256 of the text.
func (r Rules) Digest() digest.Digest { return sha256Of(r.Text) }

// Warnings names what keeps the guest's rule engine (regorus) from reading the
// rules: lines over 1024 columns, files over 1 MiB.
func (r Rules) Warnings() []string {
	const columns, size = 1024, 1 << 20
	var out []string
	if len(r.Text) > size {
		out = append(out, fmt.Sprintf("%s: %d bytes; regorus in the guest reads at most %d", r.Name, len(r.Text), size))
	}
	for i, line := range bytes.Split(r.Text, []byte("\n")) {
		if n := len(bytes.Runes(line)); n > columns {
			out = append(out, fmt.Sprintf("%s:%d: line of %d columns; regorus in the guest reads at most %d", r.Name, i+1, n, columns))
		}
	}
	return out
}

// Input is everything that policies are computed from.
type Input struct {
	YAML        NamedFile
	ConfigFiles []NamedFile // further ConfigMaps and Secrets for environments
	Settings    *Settings
	Rules       Rules
	Base        *Initdata // initdata to put the policy into; nil for an empty one
	Images      Images
	Profile     Profile

	RuntimeClasses []string // if any: workloads of other classes are only copied
	Unknown        Unknown
	Full           bool // inflate every layer to its end and check diff ids
	Parallel       int  // images and workloads at once; default GOMAXPROCS
	Cache          LayerCache
	Limits         Limits
}

// Output is what was generated.
type Output struct {
	Profile  Profile
	Policies []Policy // one per annotation, in output order
	YAML     []byte   // the annotated documents
	Images   []ImageUse
	Notes    Problems // accepted harmless fields
	Warnings []string
}

// Policy is the policy of one workload. The long texts are put together when
// asked for.
type Policy struct {
	Kind, Namespace, Name string
	Line, Column          int    // where the object begins in the YAML, from 1
	Data                  []byte // policy_data, JSON
	DataDigest            digest.Digest
	TextDigest            digest.Digest // of the whole policy
	InitdataDigest        digest.Digest // what is attested
	Annotation            string
	Containers            []ContainerData
	References            []string // the images of Containers, as the YAML and the settings name them

	rules []byte
	base  *Initdata
	form  InitdataForm
}

// Text is the whole policy: the rules, then policy_data.
func (p *Policy) Text() []byte {
	text := make([]byte, 0, len(p.rules)+len(p.Data)+16)
	text = append(text, p.rules...)
	text = append(text, "\npolicy_data := "...)
	return append(text, p.Data...)
}

func (p *Policy) document() *Initdata {
	d := &Initdata{Version: initdataVersion, Algorithm: digest.SHA256, Data: map[string]string{}}
	if p.base != nil {
		d.Algorithm = p.base.Algorithm
		for k, v := range p.base.Data {
			d.Data[k] = v
		}
	}
	d.Data[policyKey] = string(p.Text())
	return d
}

// Initdata is the text of the initdata document.
func (p *Policy) Initdata() []byte { return p.document().Text(p.form) }

// Generate computes the policies of every workload of a YAML file. On bad
// input the error is of type Problems and lists every fault found.
func Generate(ctx context.Context, in Input) (*Output, error) {
	if in.Settings == nil {
		return nil, errors.New("generate policies: no settings")
	}
	if in.Images == nil {
		return nil, errors.New("generate policies: no source of images")
	}
	in.Limits = in.Limits.orDefault()
	if in.Parallel <= 0 {
		in.Parallel = runtime.GOMAXPROCS(0)
	}
	g := &generator{in: in}
	if err := g.read(); err != nil {
		return nil, err
	}
	g.loadImages(ctx)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("generate policies: %w", err)
	}
	g.build(ctx)
	if len(g.problems) > 0 {
		return nil, g.problems.sorted()
	}
	return g.finish()
}

type generator struct {
	in        Input
	resources []*resource
	workloads []*workloadItem
	config    []*configObject
	problems  Problems
	notes     Problems
	images    map[string]*image // by the text in the YAML
	uses      []ImageUse
	policies  map[*workloadItem]*Policy

	annotators sync.Pool // of *annotator
}

// read parses all documents. Syntax errors stop at once; the others are
// collected.
func (g *generator) read() error {
	docs, err := parseYAML(g.in.YAML.Name, g.in.YAML.Data, g.in.Limits)
	if err != nil {
		return err
	}
	c := &collector{file: g.in.YAML.Name}
	for _, doc := range docs {
		r := g.parseResource(doc, c, 0)
		if r == nil {
			continue
		}
		g.resources = append(g.resources, r)
		if r.config != nil {
			g.config = append(g.config, r.config)
		}
		g.collect(r)
	}
	g.problems, g.notes = c.problems, c.notes
	for _, f := range g.in.ConfigFiles {
		if err := g.readConfig(f); err != nil {
			return err
		}
	}
	for _, w := range g.workloads {
		w.config = g.config
	}
	return nil
}

func (g *generator) collect(r *resource) {
	if r.workload != nil {
		r.workload.collector = &collector{file: g.in.YAML.Name}
		g.workloads = append(g.workloads, r.workload)
	}
	for _, item := range r.items {
		g.collect(item)
	}
}

// readConfig keeps the ConfigMaps and Secrets of a further file.
func (g *generator) readConfig(f NamedFile) error {
	docs, err := parseYAML(f.Name, f.Data, g.in.Limits)
	if err != nil {
		return err
	}
	c := &collector{file: f.Name}
	for _, doc := range docs {
		// The reference reads and then forgets the other objects.
		if kind, ok := g.header(doc, c); ok && (kind == "ConfigMap" || kind == "Secret" || g.in.Profile.Reference != "") {
			if r := g.parseResource(doc, c, 0); r != nil && r.config != nil {
				g.config = append(g.config, r.config)
			}
		}
	}
	g.problems = append(g.problems, c.problems...)
	g.notes = append(g.notes, c.notes...)
	return nil
}

// parallel runs n jobs, a few at a time.
func (g *generator) parallel(ctx context.Context, n int, job func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(g.in.Parallel, n) {
		wg.Go(func() {
			for i := range next {
				job(i)
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
}

// build computes the policy of every workload whose images are known. It does
// so in the face of other problems too: a user wants to hear of all at once.
func (g *generator) build(ctx context.Context) {
	policies := make([]*Policy, len(g.workloads))
	g.parallel(ctx, len(g.workloads), func(i int) {
		if g.hasImages(g.workloads[i]) {
			policies[i] = g.policy(g.workloads[i])
		}
	})
	g.policies = make(map[*workloadItem]*Policy, len(policies))
	for i, w := range g.workloads {
		g.problems = append(g.problems, w.problems...)
		g.policies[w] = policies[i]
	}
}

func (g *generator) hasImages(w *workloadItem) bool {
	for _, list := range [][]container{w.pod.Containers, w.pod.InitContainers} {
		for i := range list {
			if g.images[list[i].Image] == nil {
				return false
			}
		}
	}
	return g.images[g.in.Settings.s.ClusterConfig.PauseContainerImage] != nil
}

func (g *generator) policy(w *workloadItem) *Policy {
	set := &g.in.Settings.s
	p := &Policy{Kind: w.kind, Line: w.tree.line, Column: w.tree.column, rules: g.in.Rules.Text, base: g.in.Base, form: g.in.Profile.Initdata}
	if w.meta.Name != nil {
		p.Name = *w.meta.Name
	}
	if w.namespace != nil {
		p.Namespace = *w.namespace
	}
	one := func(c *container, pause bool, path string) ContainerData {
		b := builder{w: w, profile: g.in.Profile, set: set, spec: &set.OtherContainer, c: c, pause: pause, path: path, img: g.images[c.Image]}
		if pause {
			b.spec = &set.PauseContainer
		}
		p.References = append(p.References, c.Image)
		return b.build()
	}
	pause := pauseContainer(set.ClusterConfig.PauseContainerImage)
	p.Containers = append(p.Containers, one(&pause, true, ""))
	// Each init container is inserted behind the pause container: their order
	// is reversed.
	for i := range slices.Backward(w.pod.InitContainers) {
		p.Containers = append(p.Containers, one(&w.pod.InitContainers[i], false, fmt.Sprintf("initContainers[%d]", i)))
	}
	for i := range w.pod.Containers {
		p.Containers = append(p.Containers, one(&w.pod.Containers[i], false, fmt.Sprintf("containers[%d]", i)))
	}
	if len(w.problems) > 0 {
		return nil
	}
	p.Data = appendData(p.Containers, set, g.in.Profile)
	p.DataDigest = sha256Of(p.Data)
	doc := p.document()
	p.TextDigest = sha256Of([]byte(doc.Data[policyKey]))
	text := doc.Text(p.form)
	p.InitdataDigest = doc.Digest(text)
	zip, ok := g.annotators.Get().(*annotator)
	if !ok {
		zip = new(annotator)
	}
	p.Annotation = zip.encode(text)
	g.annotators.Put(zip)
	return p
}

func appendData(containers []ContainerData, set *settings, profile Profile) []byte {
	var devices devicesData
	devices.VFIO.DevicePath = set.Devices.VFIO.DevicePath
	if profile.Layout == Kata3Layout {
		r := set.RequestDefaults
		return appendJSON(nil, data3{
			Containers: containers, Common: set.Common, Sandbox: set.Sandbox, Devices: devices,
			RequestDefaults: requestDefaults3{
				CreateContainer: r.CreateContainer, CopyFile: r.CopyFile, ExecProcess: r.ExecProcess,
				UpdateRoutes: r.UpdateRoutes, UpdateInterface: r.UpdateInterface,
				AddARPNeighbors: arpDefaults3{r.AddARPNeighbors.ForbiddenDeviceNames, r.AddARPNeighbors.ForbiddenCIDRsRegex},
				CloseStdin:      r.CloseStdin, ReadStream: r.ReadStream,
				UpdateEphemeralMounts: r.UpdateEphemeralMounts, WriteStream: r.WriteStream,
			},
		})
	}
	return appendJSON(make([]byte, 0, 16<<10), Data{
		Containers: containers, Common: set.Common, Sandbox: set.Sandbox, RequestDefaults: set.RequestDefaults,
		Devices: devices, ClusterConfig: set.ClusterConfig,
	})
}

// finish writes the annotated documents.
func (g *generator) finish() (*Output, error) {
	out := &Output{Profile: g.in.Profile, Images: g.uses, Notes: g.notes.sorted(), Warnings: g.in.Rules.Warnings()}
	for _, r := range g.resources {
		tree, err := g.annotated(r, out)
		if err != nil {
			return nil, err
		}
		out.YAML = appendDocument(out.YAML, tree)
	}
	return out, nil
}

// annotated is the resource's tree with its annotation. The input's tree is
// not changed.
func (g *generator) annotated(r *resource, out *Output) (*value, error) {
	switch {
	case r.isList:
		list := &value{kind: mapKind}
		for _, key := range []string{"apiVersion", "kind"} {
			list.set(key, stringValue(listText(r.tree, key)))
		}
		items := &value{kind: seqKind}
		for _, item := range r.items {
			tree, err := g.annotated(item, out)
			if err != nil {
				return nil, err
			}
			items.elems = append(items.elems, tree.reread())
		}
		list.set("items", items)
		return list, nil
	case r.workload == nil:
		return r.tree, nil
	}
	p := g.policies[r.workload]
	out.Policies = append(out.Policies, *p)
	tree, ok := withAnnotation(r.tree, r.workload.rule.meta, p.Annotation, g.in.Profile.StrictOutput)
	if !ok {
		w := r.workload
		path := strings.Join(w.rule.meta, ".")
		at := locate(w.tree, path)
		w.add(at, path, Type, "found a %s, want a mapping to put the annotation into", at.kind)
		w.hint("write it as a mapping, or leave it away")
		return nil, w.problems
	}
	return tree, nil
}

func listText(tree *value, key string) string {
	v := tree.get(key)
	if v == nil && tree.kind == seqKind { // [apiVersion, kind, items]
		if key == "kind" {
			return tree.elems[1].text
		}
		return tree.elems[0].text
	}
	return v.text
}

// withAnnotation copies the nodes on the way to the metadata and sets the
// annotation. Metadata and annotations are made where they are missing; strict
// means that a null is not missing, except for the annotations themselves.
func withAnnotation(tree *value, path []string, annotation string, strict bool) (*value, bool) {
	if tree.kind != mapKind {
		return nil, false
	}
	root := tree.shallow()
	at := root
	for _, key := range path {
		next := at.get(key)
		switch {
		case next == nil || next.kind == nullKind && !strict:
			next = &value{kind: mapKind}
		case next.kind != mapKind:
			return nil, false
		default:
			next = next.shallow()
		}
		at.set(key, next)
		at = next
	}
	annotations := at.get("annotations")
	if annotations == nil || annotations.kind != mapKind {
		annotations = &value{kind: mapKind}
	} else {
		annotations = annotations.shallow()
	}
	annotations.set(initdataAnnotation, stringValue(annotation))
	at.set("annotations", annotations)
	return root, true
}
