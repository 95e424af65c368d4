package contrast

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/yamldoc"
)

// Contrast's keys in a pod template's metadata.
const (
	keyPodRole         = "contrast.edgeless.systems/pod-role"
	keySkipInitializer = "contrast.edgeless.systems/skip-initializer"
	keySecurePV        = "contrast.edgeless.systems/secure-pv"
	keyImageStoreSize  = "contrast.edgeless.systems/image-store-size"
	keyMeshIngress     = "contrast.edgeless.systems/servicemesh-ingress"
	keyMeshEgress      = "contrast.edgeless.systems/servicemesh-egress"
	keyMeshAdmin       = "contrast.edgeless.systems/servicemesh-admin-interface-port"
)

// Options are what the user tells `contrast generate`.
type Options struct {
	// DefaultPlatform stands for runtime classes that name none.
	DefaultPlatform string
	SkipInitializer bool
	SkipServiceMesh bool
	// ImageStore overrides the release: "on" or "off"; "" leaves it.
	ImageStore string
	// Blocks gives the annotations with the ID blocks of an SNP pod; nil: none
	// are at hand. missing says of each which input there is not.
	Blocks func(platform Platform, vcpus int) (annotations map[string]string, missing []Missing)
}

// Missing is an input without which a policy cannot be computed.
type Missing struct {
	What string // "the digest of image X"
	How  string // what would give it
}

// Workload is one that a policy is generated for.
type Workload struct {
	*deployment.Workload          // in the input
	Line                 int      // where the object begins in Result.YAML
	Platform             Platform // no name where it is not known
	VCPUs                int      // 0 where they could not be counted
	Role                 string   // "coordinator" or ""
	// Missing is what keeps the policy from being computed; none: it can be.
	Missing []Missing
}

// Result is the deployment as the generator of policies gets it.
type Result struct {
	File      string // what the changed deployment is called
	YAML      []byte
	Workloads []Workload // those in scope, in file order
	// Platforms are those that need reference values, by name; Unknown are names
	// of platforms that the release does not have.
	Platforms []Platform
	Unknown   []string
	// Assumed says what was taken although nothing public confirms it.
	Assumed []string
}

// Change changes a deployment. A deployment without a workload in scope is an
// error, as in Contrast.
func Change(d *deployment.Deployment, r *Release, o Options) (*Result, error) {
	out := &Result{File: "deployment." + r.Release + ".yaml", Assumed: r.Assumed()}
	c := &changer{release: r, options: o, result: out, host: strings.ReplaceAll(r.CoordinatorHost.Value, "${namespace}", coordinatorNamespace(d, r))}
	byObject := map[*deployment.Object]*deployment.Workload{}
	for i := range d.Workloads {
		w := &d.Workloads[i]
		for j := range d.Objects {
			if d.Objects[j].Node == w.Node {
				byObject[&d.Objects[j]] = w
			}
		}
	}
	var trees []map[string]any
	var places []int // of result.Workloads, in trees
	for i := range d.Objects {
		o := &d.Objects[i]
		tree, ok := tidy(yamldoc.Value(o.Node)).(map[string]any)
		if !ok {
			continue // reported by the deployment
		}
		if w := byObject[o]; w != nil && w.Confidential {
			done, err := c.workload(w, tree)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: change %s as Contrast %s does: %w", d.File, w.Line, w.ID(), r.Release, err)
			}
			out.Workloads = append(out.Workloads, done)
			places = append(places, len(trees))
		}
		trees = append(trees, tree)
	}
	if len(out.Workloads) == 0 {
		return nil, fmt.Errorf("%s: no workload has a runtime class that starts with contrast-cc: Contrast generates nothing for it", d.File)
	}
	c.alike()
	c.platforms()
	var lines []int
	var err error
	if out.YAML, lines, err = write(out.File, trees); err != nil {
		return nil, err
	}
	for i, place := range places {
		out.Workloads[i].Line = lines[place]
	}
	return out, nil
}

type changer struct {
	release *Release
	options Options
	result  *Result
	host    string // of the Coordinator
}

// isCoordinator applies the release's rule, which need not be the widest one.
func isCoordinator(w *deployment.Workload, r *Release) bool {
	where := w.Annotations
	if r.PodRole.Value == "label" {
		where = w.Labels
	}
	return w.Kind == "StatefulSet" && where[keyPodRole] == "coordinator"
}

func coordinatorNamespace(d *deployment.Deployment, r *Release) string {
	for i := range d.Workloads {
		if w := &d.Workloads[i]; isCoordinator(w, r) {
			return cmp.Or(w.Namespace, "default")
		}
	}
	return "default"
}

// workload changes the tree of one object in place.
func (c *changer) workload(w *deployment.Workload, tree map[string]any) (Workload, error) {
	done := Workload{Workload: w}
	if isCoordinator(w, c.release) {
		done.Role = "coordinator"
	}
	lack := func(what, how string) { done.Missing = append(done.Missing, Missing{what, how}) }
	if w.InList {
		lack("how Contrast reads an object inside a List", "write "+w.ID()+" as a document of its own")
	}
	template := tree
	for _, key := range w.Template {
		template, _ = template[key].(map[string]any)
	}
	p := pod{object: tree, spec: child(template, "spec"), annotations: w.Annotations}
	if p.spec == nil {
		return done, fmt.Errorf("it has no pod spec")
	}
	p.meta = template
	// What is no list where one must stand, the API server refuses; putting one in
	// its place would hide it.
	for _, path := range notLists(p.spec) {
		lack(path+" as a list of objects", "mend "+path+" of "+w.ID()+": the API server refuses it as it is")
	}
	if done.Role == "" {
		early := c.release.Mutations.Value == "early"
		if !c.options.SkipInitializer && w.Annotations[keySkipInitializer] != "true" {
			if err := p.addInitializer(c.host, early); err != nil {
				return done, err
			}
		}
		if !c.options.SkipServiceMesh {
			if err := p.addServiceMesh(early); err != nil {
				return done, err
			}
		}
	}
	if cmp.Or(c.options.ImageStore, c.release.ImageStore.Value) == "on" {
		p.addImageStore()
	}
	for _, image := range p.replaceImages(c.release) {
		lack("the digest of image "+image+" in Contrast "+c.release.Release, "a release file with to: of that replacement, as the release's image-replacements.txt has it")
	}
	c.machine(&done, &p)
	return done, nil
}

// notLists finds the lists of a pod that are none.
func notLists(spec map[string]any) []string {
	var out []string
	check := func(path string, m map[string]any, keys ...string) {
		for _, key := range keys {
			v := m[key]
			l, ok := v.([]any)
			bad := v != nil && !ok
			for _, e := range l {
				_, object := e.(map[string]any)
				bad = bad || !object
			}
			if bad {
				out = append(out, path+key)
			}
		}
	}
	check("spec.", spec, "volumes", "initContainers", "containers")
	for _, key := range []string{"initContainers", "containers"} {
		for i, c := range objects(spec[key]) {
			check(fmt.Sprintf("spec.%s[%d].", key, i), c, "volumeMounts", "volumeDevices", "env")
		}
	}
	return out
}

// machine finds the platform, counts the vCPUs, and for SNP adds the ID blocks.
func (c *changer) machine(w *Workload, p *pod) {
	lack := func(what, how string) { w.Missing = append(w.Missing, Missing{what, how}) }
	name := w.Workload.Platform
	if name == "" {
		name = c.options.DefaultPlatform
	}
	switch platform, ok := c.release.Platform(name); {
	case w.RuntimeClass != "contrast-cc" && w.Workload.Platform == "":
		lack(fmt.Sprintf("the platform of runtime class %.80q", w.RuntimeClass), "a runtime class contrast-cc or contrast-cc-PLATFORM")
		return
	case name == "":
		lack("the platform of runtime class contrast-cc", "default_platform, the one that contrast generate was given as reference values")
		return
	case !ok:
		lack(fmt.Sprintf("what platform %.80q is", name), "a release file that lists it under platforms")
		if !slices.Contains(c.result.Unknown, name) {
			c.result.Unknown = append(c.result.Unknown, name)
		}
		return
	default:
		w.Platform = platform
	}
	n, err := cpus(p.spec, c.release.VCPUs.Value == "limits")
	if err != nil {
		lack("the number of vCPUs: "+err.Error(), "a quantity that Kubernetes takes")
		return
	}
	w.VCPUs = n
	if w.Platform.TEE != "snp" || c.release.IDBlock.Value == "none" {
		return
	}
	if c.options.Blocks == nil {
		lack(fmt.Sprintf("the launch digests of %s for %d vCPUs", w.Platform.Name, n), "")
		return
	}
	annotations, missing := c.options.Blocks(w.Platform, n)
	w.Missing = append(w.Missing, missing...)
	if len(missing) > 0 {
		// What the deployment brings of its own must not pass for the blocks.
		return
	}
	p.annotate(annotations)
}

// alike marks workloads that values cannot be told apart for: the same object
// twice, or two with one secret identity, which the deployment chooses.
func (c *changer) alike() {
	byID, byName := map[string][]int{}, map[string][]int{}
	for i := range c.result.Workloads {
		w := &c.result.Workloads[i]
		byID[joinedBy(w.SecretID)] = append(byID[joinedBy(w.SecretID)], i)
		byName[w.ID()] = append(byName[w.ID()], i)
	}
	for what, groups := range map[string]map[string][]int{"workload secret identity": byID, "name": byName} {
		for text, list := range groups {
			if len(list) < 2 {
				continue
			}
			for _, i := range list {
				w := &c.result.Workloads[i]
				w.Missing = append(w.Missing, Missing{fmt.Sprintf("which of %d workloads is meant by the %s %.120q", len(list), what, text), "write each workload once, with an identity of its own"})
				slices.SortStableFunc(w.Missing, func(a, b Missing) int { return strings.Compare(a.What, b.What) })
			}
		}
	}
}

// joinedBy is what values are joined by: of an identity in the usual form kind,
// namespace and name, which an annotation can borrow under another group.
func joinedBy(id string) string {
	if parts := strings.Split(id, "/"); len(parts) == 5 {
		return strings.Join(parts[2:], "/")
	}
	return id
}

// platforms are those of explicit runtime classes and the default.
func (c *changer) platforms() {
	add := func(p Platform) {
		if p.Name != "" && !slices.ContainsFunc(c.result.Platforms, func(o Platform) bool { return o.Name == p.Name }) {
			c.result.Platforms = append(c.result.Platforms, p)
		}
	}
	for _, w := range c.result.Workloads {
		add(w.Platform)
	}
	if p, ok := c.release.Platform(c.options.DefaultPlatform); ok {
		add(p)
	} else if c.options.DefaultPlatform != "" && !slices.Contains(c.result.Unknown, c.options.DefaultPlatform) {
		c.result.Unknown = append(c.result.Unknown, c.options.DefaultPlatform)
	}
	slices.SortFunc(c.result.Platforms, func(a, b Platform) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(c.result.Unknown)
}

func child(m map[string]any, key string) map[string]any {
	out, _ := m[key].(map[string]any)
	return out
}
