package deployment

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
)

// workloadKind says where a kind keeps its pod template and which API group it
// belongs to: the kinds that `contrast generate` has in scope.
type workloadKind struct {
	kind, group string
	template    []string // path to the pod template; none means the object itself
}

func workloadKinds() []workloadKind {
	spec := []string{"spec", "template"}
	return []workloadKind{
		{"CronJob", "batch", []string{"spec", "jobTemplate", "spec", "template"}},
		{"DaemonSet", "apps", spec},
		{"Deployment", "apps", spec},
		{"Job", "batch", spec},
		{"Pod", "core", nil},
		{"ReplicaSet", "apps", spec},
		{"ReplicationController", "core", spec},
		{"StatefulSet", "apps", spec},
	}
}

// Contrast's keys in a pod template's metadata.
const (
	keyPodRole  = "contrast.edgeless.systems/pod-role"
	keySecretID = "contrast.edgeless.systems/workload-secret-id"
)

const maxListDepth = 8

// addObject takes one document or one item of a List. A list of one kind
// (DeploymentList) may leave kind and apiVersion of its items away.
func (d *Deployment) addObject(n *yaml.Node, kind, apiVersion string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.reportAt(n, ShapeWrong, "", "", "not a Kubernetes object: want a mapping with kind, apiVersion and metadata")
		return
	}
	kind = orDefault(textOf(n, "kind"), kind)
	apiVersion = orDefault(textOf(n, "apiVersion"), apiVersion)
	items := yamldoc.Get(n, "items")
	if strings.HasSuffix(kind, "List") && items != nil {
		// kubectl takes an object with items for a list, whatever else is in it.
		for _, p := range yamldoc.Pairs(n) {
			switch p.Key.Value {
			case "apiVersion", "kind", "metadata", "items":
			default:
				d.reportAt(p.Key, ShapeWrong, "", "", "a %s has %q beside its items", clip(kind), clip(p.Key.Value))
			}
		}
		if depth >= maxListDepth {
			d.reportAt(n, ShapeWrong, "", "", "lists nested deeper than %d", maxListDepth)
			return
		}
		itemKind, itemVersion := strings.TrimSuffix(kind, "List"), apiVersion
		if itemKind == "" {
			itemVersion = ""
		}
		if items.Kind != yaml.SequenceNode {
			if !yamldoc.IsNull(items) {
				d.reportAt(items, ShapeWrong, "", "", "items of a %s is not a list", clip(kind))
			}
			return
		}
		for _, e := range yamldoc.Elems(items) {
			d.addObject(e, itemKind, itemVersion, depth+1)
		}
		return
	}
	o := Object{
		APIVersion: apiVersion, Kind: kind,
		Namespace: textOf(n, "metadata", "namespace"), Name: textOf(n, "metadata", "name"),
		Line: n.Line, Document: d.document, InList: depth > 0, Node: n, file: d.File,
	}
	for _, keys := range [][]string{{"kind"}, {"apiVersion"}, {"metadata", "name"}, {"metadata", "namespace"}} {
		if f := yamldoc.Path(n, keys...); f != nil && !yamldoc.IsNull(f) && f.ShortTag() != "!!str" {
			// The API server takes no such object, so it can hide nothing.
			d.reportAt(f, NotString, o.ID(), "", "%s is no string to the API server, which refuses the object: quote it", strings.Join(keys, "."))
		}
	}
	switch {
	case kind == "":
		d.reportAt(n, ShapeWrong, "", "", "object without kind")
	case apiVersion == "":
		d.reportAt(n, ShapeWrong, o.ID(), "", "object without apiVersion")
	}
	if o.Name == "" && kind != "" {
		d.reportAt(orNode(yamldoc.Get(n, "metadata"), n), ShapeWrong, o.ID(), "", "object without metadata.name")
	}
	d.Objects = append(d.Objects, o)
	if kind == "ConfigMap" && group(apiVersion) == "core" {
		d.configMaps = append(d.configMaps, ConfigMap{Object: o, Data: d.stringMap(n, "data", o.ID()), Binary: d.stringMap(n, "binaryData", o.ID())})
	}
}

func (d *Deployment) checkDuplicates() {
	first := map[string]int{}
	for _, o := range d.Objects {
		if o.Name == "" || o.Kind == "" {
			continue
		}
		id := group(o.APIVersion) + " " + o.ID()
		if line, dup := first[id]; dup {
			d.reportAt(o.Node, DuplicateObject, o.ID(), "", "the same object is on line %d too: only the last one applied counts", line)
			continue
		}
		first[id] = o.Line
	}
}

// addWorkload makes a Workload of an object that has pods.
func (d *Deployment) addWorkload(o *Object) {
	for _, k := range workloadKinds() {
		if k.kind != o.Kind || o.APIVersion != "" && (group(o.APIVersion) != k.group || !versionText.MatchString(version(o.APIVersion))) {
			continue
		}
		template := yamldoc.Path(o.Node, k.template...)
		if template == nil || template.Kind != yaml.MappingNode {
			d.reportAt(orNode(template, o.Node), ShapeWrong, o.ID(), "", "no pod template at %s", strings.Join(k.template, "."))
			return
		}
		w := d.workload(*o, template)
		w.Template = k.template
		d.Workloads = append(d.Workloads, w)
		return
	}
	if !inert(*o) {
		u := Unknown{Object: o.Identity(), Reason: fmt.Sprintf("kind %s of %q is not known: whether it runs containers, or changes those of others, cannot be told", clip(o.Kind), clip(o.APIVersion))}
		d.unknown = append(d.unknown, u)
		d.reportAt(o.Node, KindUnknown, o.ID(), "", "%s", u.Reason)
	}
}

// inertKinds are kinds that neither run containers nor change what others
// run: they name, allow, store or connect (kubernetes.io, "Kubernetes API").
// A RuntimeClass is none of them: it says what a runtime class's name means.
var inertKinds = map[string][]string{
	"core":                      {"ConfigMap", "Endpoints", "Event", "LimitRange", "Namespace", "PersistentVolume", "PersistentVolumeClaim", "ResourceQuota", "Secret", "Service", "ServiceAccount"},
	"rbac.authorization.k8s.io": {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"},
	"networking.k8s.io":         {"Ingress", "IngressClass", "NetworkPolicy"},
	"policy":                    {"PodDisruptionBudget"},
	"autoscaling":               {"HorizontalPodAutoscaler"},
	"scheduling.k8s.io":         {"PriorityClass"},
	"storage.k8s.io":            {"StorageClass"},
	"discovery.k8s.io":          {"EndpointSlice"},
	"coordination.k8s.io":       {"Lease"},
}

var versionText = regexp.MustCompile(`^v[0-9]+((alpha|beta)[0-9]+)?$`)

func inert(o Object) bool {
	return versionText.MatchString(version(o.APIVersion)) && slices.Contains(inertKinds[group(o.APIVersion)], o.Kind)
}

func version(apiVersion string) string { return apiVersion[strings.IndexByte(apiVersion, '/')+1:] }

func (d *Deployment) workload(o Object, template *yaml.Node) Workload {
	w := Workload{Object: o, SANs: []string{o.Name, "*"}}
	id := o.ID()
	w.Annotations = d.stringMap(yamldoc.Get(template, "metadata"), "annotations", id)
	w.Labels = d.stringMap(yamldoc.Get(template, "metadata"), "labels", id)
	spec := yamldoc.Get(template, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		d.reportAt(orNode(spec, template), ShapeWrong, id, "", "pod template without spec")
	}
	w.RuntimeClass = textOf(spec, "runtimeClassName")
	d.runtimeClass(&w, orNode(yamldoc.Get(spec, "runtimeClassName"), o.Node))
	d.role(&w)
	if w.SecretID = w.Annotations[keySecretID]; w.SecretID == "" {
		_, version, ok := strings.Cut(o.APIVersion, "/")
		if !ok {
			version = o.APIVersion
		}
		w.SecretID = strings.Join([]string{group(o.APIVersion), version, o.Kind, orDefault(o.Namespace, "default"), o.Name}, "/")
	}
	w.Volumes = d.volumes(o.Node, spec, id)
	names := map[string]int{}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		n := yamldoc.Get(spec, list)
		if n != nil && n.Kind != yaml.SequenceNode && !yamldoc.IsNull(n) {
			d.reportAt(n, ShapeWrong, id, "", "%s is not a list", list)
		}
		for _, e := range yamldoc.Elems(n) {
			if e.Kind != yaml.MappingNode {
				d.reportAt(e, ShapeWrong, id, "", "an element of %s is not a container", list)
				continue
			}
			c := d.container(e, id)
			c.Init, c.Ephemeral = list == "initContainers", list == "ephemeralContainers"
			if line, dup := names[c.Name]; dup {
				d.reportAt(e, ShapeWrong, id, c.Name, "a container of this name is on line %d too", line)
			}
			names[c.Name] = c.Line
			w.Containers = append(w.Containers, c)
		}
	}
	if len(w.Containers) == 0 {
		d.reportAt(orNode(spec, o.Node), ShapeWrong, id, "", "no containers")
	}
	return w
}

// runtimeClass applies the scope rule of `contrast generate`: a name that
// starts with contrast-cc; behind "contrast-cc-" the platform, and in a full
// handler name eight hex digits of the node installer's hash.
func (d *Deployment) runtimeClass(w *Workload, at *yaml.Node) {
	const prefix = "contrast-cc"
	rest, ok := strings.CutPrefix(w.RuntimeClass, prefix)
	if !ok {
		class := "no runtime class"
		if w.RuntimeClass != "" {
			class = fmt.Sprintf("runtime class %q", clip(w.RuntimeClass))
		}
		if why := strings.TrimSpace(d.opts.Exempt[w.ID()]); why != "" {
			d.exempted = append(d.exempted, Exempted{Object: w.Identity(), Workload: w.ID(), RuntimeClass: w.RuntimeClass, Reason: why})
			d.report(Problem{
				Code: Exempt, Workload: w.ID(), Line: at.Line, Column: at.Column,
				Msg: fmt.Sprintf("%s: runs outside confidential computing, which you allow: %s", class, clip(why)),
			})
			return
		}
		if w.RuntimeClass != "" && slices.Contains(d.opts.RuntimeClasses, w.RuntimeClass) {
			return
		}
		d.report(Problem{
			Code: NotConfidential, Workload: w.ID(), Line: at.Line, Column: at.Column,
			Msg: class + ": runs outside confidential computing, nothing of it is measured", Hint: "set runtimeClassName: contrast-cc, or exempt the workload with a reason",
		})
		return
	}
	w.Confidential = true
	if rest == "" {
		return
	}
	platform, ok := strings.CutPrefix(rest, "-")
	if !ok || !isName(platform) {
		// Generate would take it and fall back on the default platform; as
		// deployed it is whatever class somebody gave that name.
		d.report(Problem{
			Code: RuntimeClassOdd, Workload: w.ID(), Line: at.Line, Column: at.Column,
			Msg: fmt.Sprintf("runtime class %q is none of Contrast's: nobody knows what it runs in", clip(w.RuntimeClass)), Hint: "contrast-cc, or contrast-cc-PLATFORM",
		})
		return
	}
	if i := strings.LastIndexByte(platform, '-'); i > 0 && len(platform)-i-1 == 8 && isHex(platform[i+1:]) && strings.ToLower(platform[i:]) == platform[i:] {
		platform, w.HandlerHash = platform[:i], platform[i+1:]
	}
	w.Platform = platform
}

// isName reports whether a name can end a runtime class's (RFC 1123 subdomain).
func isName(s string) bool {
	edge := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	for i := range len(s) {
		if !edge(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return s != "" && edge(s[0]) && edge(s[len(s)-1])
}

// checkExemptions wants every exemption to name a workload and a reason.
func (d *Deployment) checkExemptions() {
	for id, why := range d.opts.Exempt {
		switch {
		case strings.TrimSpace(why) == "":
			d.report(Problem{Code: ExemptionOdd, Workload: clip(id), Msg: "is exempted without a reason, which counts for nothing"})
		case !slices.ContainsFunc(d.exempted, func(e Exempted) bool { return e.Workload == id }):
			d.report(Problem{Code: ExemptionOdd, Workload: clip(id), Msg: "is exempted, but no workload of this name runs outside a confidential runtime class"})
		}
	}
}

// role detects the Coordinator: a StatefulSet whose pod template has the
// pod-role annotation (label in later releases).
func (d *Deployment) role(w *Workload) {
	for _, m := range []map[string]string{w.Annotations, w.Labels} {
		role, ok := m[keyPodRole]
		switch {
		case !ok || w.Coordinator:
		case role == "coordinator" && w.Kind == "StatefulSet":
			w.Coordinator = true
		case role == "coordinator":
			d.reportAt(w.Node, CoordinatorOdd, w.ID(), "", "pod-role coordinator on a %s: Contrast looks for a StatefulSet", w.Kind)
		default:
			d.reportAt(w.Node, CoordinatorOdd, w.ID(), "", "pod-role %q is not known, only coordinator is", clip(role))
		}
	}
}

func (d *Deployment) container(n *yaml.Node, workload string) Container {
	c := Container{Name: textOf(n, "name"), Line: n.Line, node: n, restart: textOf(n, "restartPolicy")}
	if c.Name == "" {
		d.reportAt(n, ShapeWrong, workload, "", "container without name")
	}
	if image := yamldoc.Get(n, "image"); image != nil {
		text, _ := yamldoc.Text(image)
		c.Image, _ = ParseImageRef(text) // its faults are reported with the pins
		c.Image.Line, c.Image.Column = d.src.find(image, 0, text)
	}
	for _, field := range []string{"env", "envFrom", "volumeMounts", "volumeDevices"} {
		list := yamldoc.Get(n, field)
		if !yamldoc.IsNull(list) && list.Kind != yaml.SequenceNode {
			d.reportAt(list, ShapeWrong, workload, c.Name, "%s is not a list", field)
		}
		for _, e := range yamldoc.Elems(list) {
			if e.Kind != yaml.MappingNode {
				d.reportAt(e, ShapeWrong, workload, c.Name, "an element of %s is not a mapping", field)
			}
			for _, p := range yamldoc.Pairs(e) {
				text := p.Key.Value != "readOnly" && (p.Value.Kind != yaml.ScalarNode || p.Value.ShortTag() != "!!str")
				if text && !yamldoc.IsNull(p.Value) && slices.Contains([]string{"name", "value", "mountPath", "subPath", "subPathExpr", "devicePath"}, p.Key.Value) {
					code := ShapeWrong
					if p.Key.Value == "name" && p.Value.Kind == yaml.ScalarNode {
						code = NotString
					}
					d.reportAt(p.Value, code, workload, c.Name, "%s of %s is not a string to the API server", p.Key.Value, field)
				}
			}
		}
	}
	c.Command = d.args(n, "command", workload, c.Name)
	c.Args = d.args(n, "args", workload, c.Name)
	c.workingDir, c.envFrom, c.hooks = textOf(n, "workingDir"), len(yamldoc.Elems(yamldoc.Get(n, "envFrom"))) > 0, hooksOf(n)
	for _, e := range yamldoc.Elems(yamldoc.Get(n, "env")) {
		v := envVar{name: textOf(e, "name"), line: e.Line}
		if value := yamldoc.Get(e, "value"); yamldoc.IsNull(yamldoc.Get(e, "valueFrom")) {
			text, _ := yamldoc.Text(value)
			v.value = &text
		}
		c.vars = append(c.vars, v)
		if v, ok := yamldoc.Text(yamldoc.Get(e, "value")); ok {
			c.Env = append(c.Env, EnvVar{textOf(e, "name"), v, e.Line})
		}
	}
	for _, e := range yamldoc.Elems(yamldoc.Get(n, "volumeMounts")) {
		c.Mounts = append(c.Mounts, Mount{
			Volume: textOf(e, "name"), Path: textOf(e, "mountPath"), SubPath: textOf(e, "subPath") + textOf(e, "subPathExpr"),
			ReadOnly: yamldoc.Value(yamldoc.Get(e, "readOnly")) == true, Line: e.Line,
		})
	}
	for _, e := range yamldoc.Elems(yamldoc.Get(n, "volumeDevices")) {
		c.Devices = append(c.Devices, Device{textOf(e, "name"), textOf(e, "devicePath"), e.Line})
	}
	return c
}

func (d *Deployment) args(n *yaml.Node, field, workload, container string) []Arg {
	list := yamldoc.Get(n, field)
	if yamldoc.IsNull(list) {
		return nil
	}
	if list.Kind != yaml.SequenceNode {
		d.reportAt(list, ShapeWrong, workload, container, "%s is not a list", field)
		return nil
	}
	args := []Arg{}
	for _, e := range yamldoc.Elems(list) {
		text, ok := yamldoc.Text(e)
		if !ok || e.ShortTag() != "!!str" {
			d.reportAt(e, ShapeWrong, workload, container, "an element of %s is not a string", field)
		}
		args = append(args, Arg{Text: text, Line: yamldoc.ContentLine(e, 0), node: e})
	}
	return args
}

func (d *Deployment) volumes(object, spec *yaml.Node, workload string) []Volume {
	var out []Volume
	for _, e := range yamldoc.Elems(yamldoc.Get(spec, "volumes")) {
		v := Volume{Name: textOf(e, "name"), Line: e.Line}
		for _, p := range yamldoc.Pairs(e) {
			if p.Key.Value != "name" {
				v.Source = p.Key.Value
			}
		}
		v.ConfigMap = textOf(e, "configMap", "name")
		v.Secret = textOf(e, "secret", "secretName")
		v.Claim = textOf(e, "persistentVolumeClaim", "claimName")
		v.StorageClass = textOf(e, "ephemeral", "volumeClaimTemplate", "spec", "storageClassName")
		if items := yamldoc.Elems(yamldoc.Path(e, v.Source, "items")); items != nil {
			v.Items = map[string]string{}
			for _, item := range items {
				v.Items[textOf(item, "path")] = textOf(item, "key")
			}
		}
		out = append(out, v)
	}
	for _, e := range yamldoc.Elems(yamldoc.Path(object, "spec", "volumeClaimTemplates")) {
		out = append(out, Volume{
			Name: textOf(e, "metadata", "name"), Source: "volumeClaimTemplate",
			StorageClass: textOf(e, "spec", "storageClassName"), Line: e.Line,
		})
	}
	seen := map[string]int{}
	for _, v := range out {
		if line, dup := seen[v.Name]; dup {
			d.report(Problem{Code: ShapeWrong, Workload: workload, Line: v.Line, Msg: fmt.Sprintf("a volume %q is on line %d too", clip(v.Name), line)})
		}
		seen[v.Name] = v.Line
	}
	return out
}

// stringMap reads a map of strings; what is none is reported.
func (d *Deployment) stringMap(n *yaml.Node, field, workload string) map[string]string {
	m := yamldoc.Get(n, field)
	if yamldoc.IsNull(m) {
		return nil
	}
	if m.Kind != yaml.MappingNode {
		d.reportAt(m, ShapeWrong, workload, "", "%s is not a mapping", field)
		return nil
	}
	out := map[string]string{}
	for _, p := range yamldoc.Pairs(m) {
		v, ok := yamldoc.Text(p.Value)
		if (!ok || p.Value.ShortTag() != "!!str") && !yamldoc.IsNull(p.Value) {
			d.reportAt(p.Value, ShapeWrong, workload, "", "%s: the value of %q is not a string", field, clip(p.Key.Value))
		}
		out[p.Key.Value] = v
	}
	return out
}

// group returns the API group, "core" for the legacy one.
func group(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return "core"
	}
	return g
}

func textOf(n *yaml.Node, keys ...string) string {
	s, _ := yamldoc.Text(yamldoc.Path(n, keys...))
	return s
}
