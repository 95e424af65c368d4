package stages_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	kube "sigs.k8s.io/yaml"

	"github.com/retally/retally/internal/testenv"
)

// oracle decodes as kubectl and the API server do: separator lines first, each
// piece by sigs.k8s.io/yaml.
func oracle(data []byte) (docs []any, err error) {
	var piece []byte
	flush := func() error {
		j, err := kube.YAMLToJSON(piece)
		piece = nil
		if err != nil {
			return err
		}
		var v any
		if err := json.Unmarshal(j, &v); err != nil {
			return err
		}
		if v != nil {
			docs = append(docs, v)
		}
		return nil
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok {
			if t := strings.TrimSpace(string(rest)); t == "" || t[0] == '#' {
				if err := flush(); err != nil {
					return nil, err
				}
				continue
			}
		}
		piece = append(piece, line...)
	}
	return docs, flush()
}

// place is a value in a tree, with what to do to set or remove it.
type place struct {
	path   string
	value  any
	parent any // map[string]any or *[]any
	key    string
	index  int
}

// places lists every value below a document, lists as pointers so that they can
// grow.
func places(at any, path string, out *[]place) {
	switch v := at.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			p := place{path: path + "/" + k, value: v[k], parent: v, key: k}
			*out = append(*out, p)
			places(v[k], p.path, out)
		}
	case *[]any:
		for i, e := range *v {
			p := place{path: path + "/" + strconv.Itoa(i), value: e, parent: v, index: i}
			*out = append(*out, p)
			places(e, p.path, out)
		}
	}
}

// growing turns lists into pointers to lists, shrinking turns them back.
func growing(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = growing(e)
		}
	case []any:
		for i, e := range v {
			v[i] = growing(e)
		}
		return &v
	}
	return v
}

func shrinking(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = shrinking(e)
		}
		return out
	case *[]any:
		out := []any{}
		for _, e := range *v {
			out = append(out, shrinking(e))
		}
		return out
	}
	return v
}

func (p *place) set(v any) {
	switch parent := p.parent.(type) {
	case map[string]any:
		parent[p.key] = v
	case *[]any:
		(*parent)[p.index] = v
	}
}

func (p *place) remove() {
	switch parent := p.parent.(type) {
	case map[string]any:
		delete(parent, p.key)
	case *[]any:
		*parent = slices.Delete(*parent, p.index, p.index+1)
	}
}

// fields are members that a vendor may write into any object: what a cluster
// would run, mount, permit or schedule, in JSON.
var fields = []string{
	`"hostPID": true`, `"hostNetwork": true`, `"hostIPC": true`, `"shareProcessNamespace": true`, `"nodeName": "n"`, `"nodeSelector": {"a": "b"}`, `"schedulerName": "x"`, `"priorityClassName": "x"`,
	`"serviceAccountName": "x"`, `"automountServiceAccountToken": true`, `"dnsPolicy": "None"`, `"dnsConfig": {"nameservers": ["192.0.2.1"]}`, `"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["secret-service"]}]`,
	`"hostname": "x"`, `"subdomain": "x"`, `"runtimeClassName": "runc"`, `"runtimeClassName": "contrast-cc"`, `"terminationGracePeriodSeconds": 3`, `"activeDeadlineSeconds": 3`, `"tolerations": [{"operator": "Exists"}]`, `"affinity": {}`,
	`"securityContext": {"privileged": true}`, `"securityContext": {"runAsUser": 1}`, `"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}`, `"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}`,
	`"command": ["sh"]`, `"args": ["x"]`, `"env": [{"name": "LD_PRELOAD", "value": "/x.so"}]`, `"envFrom": [{"configMapRef": {"name": "x"}}]`, `"workingDir": "/x"`, `"tty": true`, `"stdin": true`,
	`"lifecycle": {"postStart": {"exec": {"command": ["sh"]}}}`, `"livenessProbe": {"exec": {"command": ["sh"]}}`, `"readinessProbe": {"exec": {"command": ["sh"]}}`, `"startupProbe": {"httpGet": {"port": 1}}`,
	`"volumeMounts": [{"name": "x", "mountPath": "/x"}]`, `"volumes": [{"name": "x", "hostPath": {"path": "/"}}]`, `"volumes": [{"name": "x", "image": {"reference": "registry.example/x:latest"}}]`, `"volumeDevices": [{"name": "x", "devicePath": "/dev/x"}]`,
	`"ephemeralContainers": [{"name": "x", "image": "registry.example/x:latest"}]`, `"initContainers": [{"name": "x", "image": "registry.example/x:latest"}]`, `"containers": [{"name": "x", "image": "registry.example/x:latest"}]`,
	`"image": "registry.example/x:latest"`, `"imagePullPolicy": "Always"`, `"imagePullSecrets": [{"name": "x"}]`, `"restartPolicy": "Always"`, `"ports": [{"containerPort": 9}]`, `"resources": {"limits": {"memory": "1Gi"}}`,
	`"annotations": {"io.katacontainers.config.hypervisor.kernel_params": "x"}`, `"annotations": {"contrast.edgeless.systems/pod-role": "coordinator"}`, `"annotations": {"a": "b"}`, `"labels": {"a": "b"}`,
	`"replicas": 7`, `"strategy": {"type": "Recreate"}`, `"minReadySeconds": 3`, `"paused": true`, `"revisionHistoryLimit": 1`, `"volumeClaimTemplates": [{"metadata": {"name": "x"}}]`, `"podManagementPolicy": "Parallel"`, `"ordinals": {"start": 1}`,
	`"namespace": "other"`, `"generateName": "x"`, `"finalizers": ["x"]`, `"ownerReferences": []`, `"status": {"x": 1}`, `"items": [{"kind": "Pod"}]`, `"unknownField": 1`, `"overhead": {"cpu": "1"}`, `"os": {"name": "linux"}`,
	`"resourceClaims": [{"name": "x"}]`, `"setHostnameAsFQDN": true`, `"hostUsers": false`, `"terminationMessagePath": "/x"`, `"enableServiceLinks": false`, `"preemptionPolicy": "Never"`, `"readinessGates": []`,
}

// objects are whole documents to add.
var objects = []string{
	`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}`,
	`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}`,
	`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"app": "secret-service"}, "ports": [{"port": 1}]}}`,
	`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "x", "image": "registry.example/x:latest"}]}}`,
	`{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "p"}, "spec": {"jobTemplate": {"spec": {"template": {"spec": {"runtimeClassName": "contrast-cc", "containers": [{"name": "x", "image": "registry.example/x:latest"}]}}}}}}`,
	`{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "x", "image": "registry.example/x:latest"}]}}]}`,
	`{"apiVersion": "example.com/v1", "kind": "Runner", "metadata": {"name": "r"}, "spec": {"image": "registry.example/x:latest"}}`,
	`{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "r"}}`,
	`{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "r"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []}`,
	`{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "r"}, "webhooks": []}`,
	`{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "modelweights-tinychat-0"}, "spec": {}}`,
	`{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "contrast-cc"}, "handler": "runc"}`,
}

func fromJSON(text string) any {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(text + ": " + err.Error())
	}
	return v
}

// otherScalar is another value in the place of one.
func otherScalar(rng *rand.Rand, v any) any {
	s := fmt.Sprint(v)
	return pick(rng, []func() any{
		func() any { return s + "x" }, func() any { return "x" + s }, func() any { return "" }, func() any { return nil }, func() any { return true }, func() any { return 7 },
		func() any { return strings.ToUpper(s) }, func() any { return s + " " }, func() any { return s + "\n" }, func() any { return []any{s} }, func() any { return map[string]any{"a": s} },
		func() any { return strings.Replace(s, "@sha256:", "@sha256:0", 1) }, func() any { return "$(" + s + ")" }, func() any { return strings.TrimRight(s, "0123456789") },
	})()
}

// editTree changes decoded documents in one place and says where.
func editTree(rng *rand.Rand, docs []any) ([]any, string) {
	n := rng.IntN(len(docs))
	switch rng.IntN(12) {
	case 0:
		return slices.Delete(docs, n, n+1), fmt.Sprintf("%d: object removed", n)
	case 1:
		text := pick(rng, objects)
		return slices.Insert(docs, rng.IntN(len(docs)+1), fromJSON(text)), "object added: " + text
	case 2:
		copied := fromJSON(string(must(json.Marshal(docs[n]))))
		if rng.IntN(2) == 0 {
			copied.(map[string]any)["metadata"].(map[string]any)["name"] = "another"
		}
		return append(docs, copied), fmt.Sprintf("%d: object twice", n)
	}
	doc := growing(docs[n])
	var all []place
	places(doc, strconv.Itoa(n), &all)
	p := pick(rng, all)
	did := p.path
	switch v := p.value.(type) {
	case map[string]any:
		switch rng.IntN(4) {
		case 0:
			p.remove()
			did += " removed"
		case 1:
			keys := slices.Sorted(maps.Keys(v))
			if len(keys) == 0 {
				return nil, ""
			}
			k := pick(rng, keys)
			to := pick(rng, []string{k + "s", strings.ToUpper(k[:1]) + k[1:], strings.ToUpper(k), k + " ", "x-" + k})
			v[to] = v[k]
			if rng.IntN(2) == 0 {
				delete(v, k)
			}
			did += "/" + k + " named " + to
		default:
			text := pick(rng, fields)
			for k, e := range fromJSON("{" + text + "}").(map[string]any) {
				old, both := v[k].(map[string]any)
				if add, ok := e.(map[string]any); ok && both {
					maps.Copy(old, add)
				} else {
					v[k] = e
				}
			}
			did += " + " + text
		}
	case *[]any:
		switch rng.IntN(5) {
		case 0:
			p.remove()
			did += " removed"
		case 1:
			if len(*v) > 0 {
				*v = append(*v, fromJSON(string(must(json.Marshal(shrinking((*v)[0]))))))
			}
			did += " first twice"
		case 2:
			*v = append(*v, pick(rng, []any{"x", nil, map[string]any{"name": "x", "image": "registry.example/x:latest"}, []any{}, map[string]any{}}))
			did += " appended"
		case 3:
			slices.Reverse(*v)
			did += " reversed"
		default:
			p.set(map[string]any{"0": "x"})
			did += " an object"
		}
	default:
		if rng.IntN(4) == 0 {
			p.remove()
			did += " removed"
		} else {
			to := otherScalar(rng, v)
			p.set(to)
			did += fmt.Sprintf(" = %q", fmt.Sprint(to))
		}
	}
	docs[n] = doc
	return docs, did
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// editText changes the text in one place: what readers of YAML read differently.
func editText(rng *rand.Rand, text []byte) ([]byte, string) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	n := rng.IntN(len(lines))
	line := string(lines[n])
	body := strings.TrimLeft(line, " -")
	indent := line[:len(line)-len(body)]
	spaces := strings.Repeat(" ", len(indent))
	key, value, isPair := strings.Cut(strings.TrimRight(body, "\n"), ":")
	put := func(s string) { lines[n] = []byte(s) }
	did := fmt.Sprintf("line %d %q: ", n+1, strings.TrimSpace(line))
	kind := rng.IntN(15)
	switch {
	case kind == 0:
		at := rng.IntN(len(text))
		out := bytes.Clone(text)
		out[at] ^= 1 << rng.IntN(8)
		return out, fmt.Sprintf("flip in byte %d", at)
	case kind == 1:
		put(line + spaces + "# a comment\n")
		did += "comment below"
	case kind == 2:
		put(strings.TrimRight(line, "\n") + " # " + body)
		did += "comment behind"
	case kind == 3:
		put("")
		did += "removed"
	case kind == 4:
		put(line + pick(rng, []string{"---\n", "--- # x\n", "...\n", "\t\n", "%YAML 1.1\n", "\r\n", "\u2028\n", "--- x\n"}))
		did += "a separator below"
	case !isPair:
		put(line + line)
		did += "twice"
	case kind == 5:
		put(line + spaces + key + ": x\n")
		did += "key twice"
	case kind == 6:
		put(line + spaces + `"` + fmt.Sprintf(`\x%02x`, key[0]) + key[1:] + "\": x\n")
		did += "key twice, escaped"
	case kind == 7:
		put(indent + key + ": " + pick(rng, []string{"!!str", "!!binary", "!!int", "!!null", "!x", "!!set"}) + value + "\n")
		did += "tag"
	case kind == 8:
		put(indent + pick(rng, []string{"!!str ", "!x ", "&a "}) + key + ":" + value + "\n")
		did += "key tagged"
	case kind == 9:
		put(indent + key + ": &a" + value + "\n" + spaces + "other: *a\n")
		did += "anchor"
	case kind == 10:
		put(indent + key + ":" + value + "\n" + spaces + "<<: {" + key + ": x, other: y}\n")
		did += "merge key"
	case kind == 11:
		put(indent + "'" + key + "':" + value + "\n")
		did += "key quoted"
	case kind == 12:
		put(indent + strings.ToUpper(key) + ":" + value + "\n")
		did += "key in capitals"
	case kind == 13:
		put(indent + "? " + key + "\n" + spaces + ":" + value + "\n")
		did += "explicit key"
	default:
		put(indent + key + ": " + pick(rng, []string{"|", ">", "yes", "0o7", "1e3", "~", "08", ".inf", "2001-01-01", "'x", "{a: b}", "[a]", "0x1F", "1_000"}) + "\n")
		did += "value"
	}
	return bytes.Join(lines, nil), did
}

// TestEditsAreSeen: from a match, an edit of the deployment that changes what a
// cluster reads never ends in a match, unless nothing that anybody published
// rests on what it changed: see harmless.
func TestEditsAreSeen(t *testing.T) {
	testenv.OwnSpeed(t)
	good := demo(t)
	const name = "deployment.yaml"
	before, err := oracle(good[name])
	if err != nil {
		t.Fatal(err)
	}
	if was := newFolder(t).run(t, good); was.code != 0 {
		t.Fatalf("the demo: exit %d: %s", was.code, was.summary)
	}
	var mu sync.Mutex
	tried := map[string]int{}
	workers(t, cases(), func(f *folder, rng *rand.Rand, seed int) {
		var text []byte
		var did string
		if rng.IntN(3) > 0 {
			docs, err := oracle(good[name])
			if err != nil {
				t.Error(err)
				return
			}
			docs, did = editTree(rng, docs)
			for i, d := range docs {
				if i > 0 {
					text = append(text, "---\n"...)
				}
				text = append(text, must(kube.Marshal(shrinking(d)))...)
			}
		} else {
			text, did = editText(rng, good[name])
		}
		after, err := oracle(text)
		if did == "" || err == nil && reflect.DeepEqual(before, after) {
			mu.Lock()
			tried["reads the same"]++
			mu.Unlock()
			return
		}
		files := maps.Clone(good)
		files[name] = text
		now := f.run(t, files)
		mu.Lock()
		defer mu.Unlock()
		tried[fmt.Sprint("exit ", now.code)]++
		if now.code == 0 && (err != nil || !harmless(before, after)) {
			t.Errorf("seed %d: %s: exit 0: %s", seed, did, now.summary)
		}
	})
	t.Logf("%v", tried)
	if tried["exit 1"] < cases()/3 {
		t.Errorf("only %d edits of %d were judged and differ: the edits are not of the kind that this test is about", tried["exit 1"], cases())
	}
}

// unread are the parts of a deployment on which nothing rests that anybody
// published: whoever runs the cluster does with them what they like, and neither
// the guest nor a verifier sees them. The list is closed: what is not here must
// be seen. Paths are of objects by kind; * is any one name.
var unread = []struct{ path, why string }{
	{"*/spec/replicas", "how many pods there are is the cluster's to say; each one proves itself"},
	{"*/spec/selector", "by which pods a controller counts as its own"},
	{"*/spec/serviceName", "the name of a service, which routes packets of the host's network"},
	{"*/metadata/labels", "read by the cluster alone; the one that the vendor's plan reads is StatefulSet secret-service's: see planned"},
	{"*/metadata/annotations", "of a controller, whose pods do not inherit them"},
	{"*/spec/template/metadata/labels", "read by the cluster alone"},
	{"*/spec/template/metadata/namespace", "is ignored: pods are of their controller's namespace"},
	{"*/spec/template/spec/terminationGracePeriodSeconds", "when the kubelet stops a pod"},
	{"*/spec/template/spec/*/*/ports", "names of ports for the host's network; a program listens where it likes"},
	{"*/spec/template/spec/*/*/imagePullPolicy", "from where the bytes come; which ones is pinned"},
	{"*/spec/template/spec/*/*/restartPolicy", "in which order and how often the kubelet starts containers"},
	{"*/spec/template/spec/*/*/startupProbe/httpGet", "a request of the kubelet's, from outside; one that runs a program is part of the policy"},
	{"*/spec/template/spec/*/*/livenessProbe/httpGet", "likewise"},
	{"*/spec/template/spec/*/*/readinessProbe/httpGet", "likewise"},
	{"*/spec/template/spec/*/*/volumeDevices/*/name", "which disk is attached: what is on it is checked by its root hash, and the device's path is part of the policy"},
	{"*/spec/template/spec/volumes/*/name", "likewise"},
	{"*/spec/template/spec/volumes/*/persistentVolumeClaim", "likewise"},
}

// unreadKinds are objects that the cluster reads and no guest sees.
var unreadKinds = map[string]string{
	"ConfigMap":             "is read where a workload names it, and then it is part of that one's policy",
	"Service":               "routes packets of the host's network",
	"ClusterRoleBinding":    "says who may do what at the API server, which no guest trusts",
	"PersistentVolumeClaim": "says which disk is attached; what is on it is checked by its root hash",
}

// harmless reports whether two readings differ only where nothing rests.
func harmless(before, after []any) bool {
	return reflect.DeepEqual(readOf(before), readOf(after))
}

// readOf is what of the objects something rests on.
func readOf(docs []any) []any {
	var out []any
	for _, d := range docs {
		doc, ok := fromJSON(string(must(json.Marshal(d)))).(map[string]any)
		if !ok {
			out = append(out, d)
			continue
		}
		kind, _ := doc["kind"].(string)
		if unreadKinds[kind] != "" {
			continue
		}
		planned := planned(doc)
		doc["spec"] = classOf(doc["spec"])
		for _, u := range unread {
			cut(doc, strings.Split(u.path, "/")[1:])
		}
		out = append(out, map[string]any{"planned": planned, "rest": doc})
	}
	return out
}

// classOf makes every class of Contrast's the same: they are all confidential,
// and what the cluster starts for a name is its own affair; a pod on another
// machine than the manifest's cannot prove itself. Any other class stays.
func classOf(spec any) any {
	s, _ := spec.(map[string]any)
	template, _ := s["template"].(map[string]any)
	pod, _ := template["spec"].(map[string]any)
	if class, ok := pod["runtimeClassName"].(string); ok && contrastClass.MatchString(class) {
		pod["runtimeClassName"] = "contrast-cc"
	}
	return spec
}

var contrastClass = regexp.MustCompile(`^contrast-cc(-[a-z0-9]([-.a-z0-9]*[a-z0-9])?)?$`)

// planned is the label that the vendor's plan writes into the manifest.
func planned(doc map[string]any) any {
	meta, _ := doc["metadata"].(map[string]any)
	labels, _ := meta["labels"].(map[string]any)
	if meta["name"] != "secret-service" {
		return nil
	}
	return labels["app.kubernetes.io/instance"]
}

// cut takes what is at a path out of a value, and with it what holds nothing
// else.
func cut(at any, path []string) any {
	switch v := at.(type) {
	case map[string]any:
		for k, e := range v {
			switch {
			case path[0] != "*" && path[0] != k:
			case len(path) == 1:
				delete(v, k)
			default:
				v[k] = cut(e, path[1:])
				if isEmpty(v[k]) {
					delete(v, k)
				}
			}
		}
	case []any:
		if path[0] != "*" || len(path) == 1 {
			return v
		}
		out := []any{}
		for _, e := range v {
			if e = cut(e, path[1:]); !isEmpty(e) {
				out = append(out, e)
			}
		}
		return out
	}
	return at
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return v == nil
}
