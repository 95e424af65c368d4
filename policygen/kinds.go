package policygen

import (
	"fmt"
	"slices"
	"strings"
)

// suffix stands for the random part that a controller appends to a name; the
// letters are those of Kubernetes' own generator.
const suffix = "[bcdfghjklmnpqrstvwxz2456789]+"

// kindRule says where a kind keeps its pod and how its pods are named.
type kindRule struct {
	name      string   // N stands for the object's name, S for a random suffix
	meta      []string // path of the metadata that takes the annotation
	pod       []string // path of the pod spec
	hasFilter bool     // reports a runtime class to the filter
}

var (
	templateMeta = []string{"spec", "template", "metadata"}
	templatePod  = []string{"spec", "template", "spec"}
)

// ruleOf gives the rule of a kind that gets a policy.
func ruleOf(kind string) (kindRule, bool) {
	switch kind {
	case "Pod":
		return kindRule{"N", []string{"metadata"}, []string{"spec"}, true}, true
	case "Deployment":
		return kindRule{"N-S-S", templateMeta, templatePod, true}, true
	case "DaemonSet":
		return kindRule{"N-S", templateMeta, templatePod, true}, true
	case "ReplicaSet", "ReplicationController":
		return kindRule{"N-S", templateMeta, templatePod, false}, true
	case "StatefulSet":
		return kindRule{"N-[0-9]+", templateMeta, templatePod, true}, true
	case "Job":
		return kindRule{"N(-[0-9]+)?-S", templateMeta, templatePod, false}, true
	case "CronJob":
		job := []string{"spec", "jobTemplate", "spec", "template"}
		return kindRule{"N-[0-9]+(-[0-9]+)?-S", append(slices.Clone(job), "metadata"), append(slices.Clone(job), "spec"), false}, true
	}
	return kindRule{}, false
}

// passThrough are the kinds that are copied without being looked at.
var passThrough = []string{
	"ClusterRole", "ClusterRoleBinding", "LimitRange", "Namespace", "PersistentVolume", "PersistentVolumeClaim",
	"PodDisruptionBudget", "PriorityClass", "ResourceQuota", "Role", "RoleBinding", "Service", "ServiceAccount",
}

// resource is one object of the input: a workload, a list of resources, or
// something that is only written back.
type resource struct {
	tree     *value
	kind     string
	workload *workloadItem
	items    []*resource
	isList   bool
	config   *configObject // a ConfigMap or Secret that environments may use
}

// workloadItem is a workload with everything its containers need.
type workloadItem struct {
	*collector
	tree      *value
	kind      string
	rule      kindRule
	meta      objectMeta // the object's own
	template  *objectMeta
	pod       podSpec
	claims    []volumeClaim
	namespace *string
	nameRegex string
	podPath   string
	config    []*configObject
}

// podMeta is the metadata whose labels and annotations the pods get.
func (w *workloadItem) podMeta() *objectMeta {
	if w.template != nil {
		return w.template
	}
	return &objectMeta{}
}

func (w *workloadItem) hostNetwork() bool { return w.pod.HostNetwork != nil && *w.pod.HostNetwork }

func (w *workloadItem) anyPrivileged() bool {
	for i := range w.pod.Containers {
		if isPrivileged(&w.pod.Containers[i]) {
			return true
		}
	}
	for i := range w.pod.InitContainers {
		if isPrivileged(&w.pod.InitContainers[i]) {
			return true
		}
	}
	return false
}

// fail reports a problem at a path below the pod spec.
func (w *workloadItem) fail(path string, k ProblemKind, format string, args ...any) {
	full := w.podPath
	if path != "" {
		full += "." + path
	}
	w.add(locate(w.tree, full), full, k, format, args...)
}

// locate finds the node of a path such as spec.containers[0].env[1]; where the
// path leads nowhere, the last node on it.
func locate(v *value, path string) *value {
	for path != "" && v != nil {
		var token string
		switch path[0] {
		case '.':
			path = path[1:]
			continue
		case '[':
			token, path, _ = strings.Cut(path[1:], "]")
			var i int
			if n, _ := fmt.Sscanf(token, "%d", &i); n != 1 || i < 0 || i >= len(v.elems) {
				return v
			}
			v = v.elems[i]
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		token, path = path[:end], path[end:]
		next := v.get(token)
		if next == nil {
			return v
		}
		v = next
	}
	return v
}

// parseResource reads one object of a known kind.
func (g *generator) parseResource(tree *value, c *collector, depth int) *resource {
	kind, ok := g.header(tree, c)
	if !ok {
		return nil
	}
	r := &resource{tree: tree, kind: kind}
	d := &decoder{collector: c, unknown: g.in.Unknown, extended: g.in.Profile.EphemeralVolumes}
	before := len(c.problems)
	switch {
	case slices.Contains(passThrough, kind):
	case kind == "List":
		return g.parseList(r, d, depth)
	case kind == "ConfigMap":
		var o configMapObject
		d.decode(tree, "", &o)
		r.config = configOf(o.Metadata, o.Data, false)
	case kind == "Secret":
		var o secretObject
		d.decode(tree, "", &o)
		r.config = configOf(o.Metadata, o.Data, true)
	default:
		rule, known := ruleOf(kind)
		if !known {
			c.add(locate(tree, "kind"), "kind", Unsupported, "kind %q is not known", clip(kind))
			c.hint("only workloads, ConfigMap, Secret, List and %s can be in the file", strings.Join(passThrough, ", "))
			return nil
		}
		r.workload = decodeWorkload(tree, kind, rule, d)
		// What is in a List is never filtered.
		if len(c.problems) == before && depth == 0 && g.filtered(r.workload) {
			r.workload = nil
		}
	}
	if len(c.problems) > before {
		// Semantic checks of a workload that was not understood would only
		// repeat its faults.
		r.workload = nil
	}
	return r
}

func (g *generator) header(tree *value, c *collector) (string, bool) {
	before := len(c.problems)
	var h header
	d := &decoder{collector: c, unknown: IgnoreUnknown}
	d.decode(tree, "", &h)
	return h.Kind, len(c.problems) == before
}

func configOf(m objectMeta, data map[string]string, secret bool) *configObject {
	if m.Name == nil {
		return nil
	}
	return &configObject{secret: secret, name: *m.Name, data: data}
}

// filtered applies the runtime class filter: only the kinds that report a
// class can be filtered out.
func (g *generator) filtered(w *workloadItem) bool {
	if len(g.in.RuntimeClasses) == 0 || !w.rule.hasFilter {
		return false
	}
	class := ""
	if w.pod.RuntimeClassName != nil {
		class = *w.pod.RuntimeClassName
	}
	return !slices.ContainsFunc(g.in.RuntimeClasses, func(prefix string) bool { return strings.HasPrefix(class, prefix) })
}

// maxListDepth bounds lists of lists.
const maxListDepth = 16

func (g *generator) parseList(r *resource, d *decoder, depth int) *resource {
	r.isList = true
	if depth >= maxListDepth {
		d.add(r.tree, "items", Limit, "lists nested deeper than %d", maxListDepth)
		return nil
	}
	var o listObject
	d.decode(r.tree, "", &o)
	for _, item := range o.Items {
		if one := g.parseResource(item.reread(), d.collector, depth+1); one != nil {
			one.config = nil // objects inside a List are not used for environments
			r.items = append(r.items, one)
		}
	}
	switch n := len(o.Items); {
	case len(d.problems) > 0:
	case n == 0:
		d.add(r.tree.get("items"), "items", Unsupported, "an empty List cannot be written back")
	case n > 1 && depth > 0 && g.in.Profile.StrictOutput:
		d.add(r.tree.get("items"), "items", Unsupported, "a List of %d items inside a List cannot be written back by %s", n, g.in.Profile.Name)
		d.hint("put its items into the outer List")
	}
	return r
}

// decodeWorkload reads a workload of any kind.
func decodeWorkload(tree *value, kind string, rule kindRule, d *decoder) *workloadItem {
	w := &workloadItem{collector: d.collector, tree: tree, kind: kind, rule: rule, podPath: strings.Join(rule.pod, ".")}
	template := func(t podTemplate) { w.template, w.pod = t.Metadata, t.Spec }
	switch kind {
	case "Pod":
		var o podObject
		d.decode(tree, "", &o)
		w.meta, w.template, w.pod = o.Metadata, &o.Metadata, o.Spec
	case "Deployment":
		template(decodeSpec[deploymentSpec](w, d).Template)
	case "DaemonSet":
		template(decodeSpec[daemonSetSpec](w, d).Template)
	case "ReplicaSet":
		template(decodeSpec[replicaSetSpec](w, d).Template)
	case "ReplicationController":
		template(decodeSpec[replicationControllerSpec](w, d).Template)
	case "StatefulSet":
		s := decodeSpec[statefulSetSpec](w, d)
		w.claims = s.VolumeClaimTemplates
		template(s.Template)
	case "Job":
		template(decodeSpec[jobSpec](w, d).Template)
	case "CronJob":
		template(decodeSpec[cronJobSpec](w, d).JobTemplate.Spec.Template)
	}
	w.namespace = w.meta.Namespace
	name := ""
	switch {
	case w.meta.Name != nil:
		name = *w.meta.Name // taken literally: a dot in it matches any character
	case w.meta.GenerateName != nil:
		name = escapeRegex(*w.meta.GenerateName) + suffix
	default:
		return w
	}
	for i := range len(rule.name) {
		switch rule.name[i] {
		case 'N':
			w.nameRegex += name
		case 'S':
			w.nameRegex += suffix
		default:
			w.nameRegex += rule.name[i : i+1]
		}
	}
	return w
}

func decodeSpec[S any](w *workloadItem, d *decoder) S {
	var o workload[S]
	d.decode(w.tree, "", &o)
	w.meta = o.Metadata
	return o.Spec
}
