package policygen

import (
	"fmt"
	"slices"
	"strings"
)

// Shown is what a policy permits, in words.
type Shown struct {
	// Annotation is the key of the pod's annotation that carries the policy.
	Annotation string           `json:"annotation,omitempty"`
	Kind       string           `json:"kind,omitempty"`
	Namespace  string           `json:"namespace,omitempty"`
	Name       string           `json:"name,omitempty"`
	Pod        []string         `json:"pod"` // what holds for the pod as a whole
	Containers []ShownContainer `json:"containers"`
}

// ShownContainer is what one container may do.
type ShownContainer struct {
	Name string   `json:"name"`
	May  []string `json:"may"`
}

// Show says what each container may do that its YAML does not say. What the
// YAML says is known only for policies read from annotated YAML; for others
// everything is listed that usually comes from the image or the settings. It
// reads the data; what the rules permit is package check's to say.
func Show(policies []NamedPolicy) []Shown {
	var out []Shown
	for i := range policies {
		p := &policies[i]
		s := Shown{Annotation: p.Annotation, Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, Pod: showPod(p)}
		for _, c := range p.containers() {
			s.Containers = append(s.Containers, ShownContainer{c.name, showContainer(p, c)})
		}
		out = append(out, s)
	}
	return out
}

func say(list *[]string, format string, args ...any) {
	*list = append(*list, fmt.Sprintf(format, args...))
}

func showPod(p *NamedPolicy) []string {
	var out []string
	if d := p.Document; d != nil {
		if d.Version != initdataVersion {
			say(&out, "the initdata document is of version %s, which is not known here: what a guest makes of it is not understood", d.Version)
		}
		var others []string
		for key := range d.Data {
			if key != policyKey {
				others = append(others, key)
			}
		}
		if slices.Sort(others); len(others) > 0 {
			say(&out, "the initdata document also carries %s, which are not shown here", strings.Join(others, ", "))
		}
	}
	if !p.hasPolicy() {
		say(&out, "there is no policy in the initdata document: the guest's own one holds, which is part of its image")
		return out
	}
	if p.Unread != "" {
		say(&out, "policy_data is not understood, so what containers may do is not shown: %s", p.Unread)
	}
	defaults := at(p.tree, "request_defaults")
	for _, r := range []struct{ key, says string }{
		{"ReadStreamRequest", "the host may read standard output and error"},
		{"WriteStreamRequest", "the host may write to standard input"},
		{"CloseStdinRequest", "the host may close standard input"},
		{"UpdateEphemeralMountsRequest", "the host may change the size of memory volumes"},
		{"GetDiagnosticDataRequest", "the host may read diagnostic data of the guest"},
	} {
		// Where there are rules, they say what of it is allowed.
		if p.Rules == nil && boolAt(defaults, r.key) {
			say(&out, "%s (%s)", r.says, r.key)
		}
	}
	for _, path := range stringsAt(defaults, "CopyFileRequest") {
		say(&out, "the host may write files whose path matches %s, at any time", path)
	}
	for _, c := range stringsAt(defaults, "ExecProcessRequest", "allowed_commands") {
		say(&out, "the host may run %q in every container", c)
	}
	for _, r := range stringsAt(defaults, "ExecProcessRequest", "regex") {
		say(&out, "the host may run every command that matches %s in every container", r)
	}
	if boolAt(p.tree, "cluster_config", "guest_pull") {
		say(&out, "images are pulled inside the guest")
	}
	switch {
	case p.Rules == nil, p.tree == nil:
	case strings.Contains(string(p.Rules), "\nimage_binding := \"off\"\n"):
		say(&out, "images are not bound: the host chooses the bytes of the root file systems")
	case strings.Contains(string(p.Rules), "\nimage_binding := "):
		say(&out, "images are bound to their digests by the rules")
	default:
		say(&out, "the rules are not ours: whether they bind images to digests is to be read in them")
	}
	return out
}

func (p *NamedPolicy) yaml(name string) *container {
	if p.pod == nil {
		return nil
	}
	for _, list := range [][]container{p.pod.Containers, p.pod.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func showContainer(p *NamedPolicy, c containerTree) []string {
	var out []string
	yaml := p.yaml(c.name)
	process := at(c.tree, "OCI", "Process")
	if image := stringAt(c.tree, "OCI", "Annotations", criPrefix+"image-name"); image != "" && !strings.Contains(image, "@sha256:") {
		say(&out, "run whatever %s is when the pod starts: the image is not pinned by digest", image)
	}
	if yaml == nil || yaml.Command == nil {
		say(&out, "run %q: the command comes from the image", strings.Join(stringsAt(process, "Args"), " "))
	}
	showUser(&out, p, c, yaml)
	showEnv(&out, p, c, yaml)
	showMounts(&out, c, yaml)
	for _, command := range stringsAt(c.tree, "exec_commands") {
		say(&out, "be made to run %q by the host, at any time (a probe or lifecycle hook)", command)
	}
	if !boolAt(process, "NoNewPrivileges") {
		say(&out, "gain privileges through set-user-id programs")
	}
	switch caps := stringsAt(process, "Capabilities", "Effective"); {
	case slices.Contains(caps, "$(privileged_caps)"):
		say(&out, "use every capability: it is privileged")
	case slices.Contains(caps, "$(default_caps)"):
		say(&out, "use the default capabilities: %s", strings.Join(stringsAt(p.tree, "common", "default_caps"), " "))
	case len(caps) > 0:
		say(&out, "use the capabilities %s", strings.Join(caps, " "))
	}
	if !boolAt(c.tree, "OCI", "Root", "Readonly") {
		say(&out, "write to its root file system")
	}
	for _, d := range elems(at(c.tree, "devices")) {
		say(&out, "use the device %s %s", stringAt(d, "container_path"), stringAt(d, "type_"))
	}
	if boolAt(c.tree, "sandbox_pidns") {
		say(&out, "see the processes of the other containers of the pod")
	}
	return out
}

func showUser(out *[]string, p *NamedPolicy, c containerTree, yaml *container) {
	stated := p.pod != nil && p.pod.SecurityContext != nil && p.pod.SecurityContext.RunAsUser != nil ||
		yaml != nil && yaml.SecurityContext != nil && yaml.SecurityContext.RunAsUser != nil
	user := at(c.tree, "OCI", "Process", "User")
	if user == nil || stated {
		return
	}
	number := func(key string) string {
		if v := member(user, key); v != nil {
			return compact(v)
		}
		return "?"
	}
	say(out, "run as user %s, group %s, further groups %s: they come from the image", number("UID"), number("GID"), number("AdditionalGids"))
}

func showEnv(out *[]string, p *NamedPolicy, c containerTree, yaml *container) {
	var others []string
	for _, e := range stringsAt(c.tree, "OCI", "Process", "Env") {
		name, _, _ := strings.Cut(e, "=")
		if yaml == nil || !slices.ContainsFunc(yaml.Env, func(v envVar) bool { return v.Name == name }) {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		say(out, "have variables that come from the image or a ConfigMap: %s", strings.Join(others, ", "))
	}
	if patterns := stringsAt(p.tree, "request_defaults", "CreateContainerRequest", "allow_env_regex"); len(patterns) > 0 {
		say(out, "have further variables that the host chooses, if they match: %s", strings.Join(patterns, " or "))
	}
}

func showMounts(out *[]string, c containerTree, yaml *container) {
	for _, m := range elems(at(c.tree, "OCI", "Mounts")) {
		dest, source := stringAt(m, "destination"), stringAt(m, "source")
		if stringAt(m, "type_") != "bind" {
			continue
		}
		if yaml != nil && slices.ContainsFunc(yaml.VolumeMounts, func(v volumeMount) bool { return v.MountPath == dest }) {
			continue
		}
		mode := "read"
		if slices.Contains(stringsAt(m, "options"), "rw") {
			mode = "read and write"
		}
		switch {
		case strings.Contains(source, "$(sfprefix)"), strings.Contains(source, "/shared/"):
			say(out, "%s %s, which the host fills", mode, dest)
		default:
			say(out, "%s %s from %s", mode, dest, source)
		}
	}
}
