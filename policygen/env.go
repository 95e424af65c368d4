package policygen

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// configObject is a ConfigMap or Secret that environments may refer to.
type configObject struct {
	secret bool
	name   string
	data   map[string]string // nil where the object has none
}

// args is command and arguments. An image's entry point counts only without a
// command in the YAML (an empty list is one), its Cmd only without both.
func (b *builder) args() []string {
	var args []string
	switch {
	case b.c.Command != nil:
		args = append(args, *b.c.Command...)
	default:
		args = append(args, b.img.Entrypoint...)
	}
	switch {
	case b.c.Args != nil:
		args = append(args, *b.c.Args...)
	case b.c.Command == nil:
		args = append(args, b.img.Cmd...)
	}
	return args
}

// withMissing appends what list does not have yet.
func withMissing(list, more []string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// env collects the environment. Variables never replace each other: a name
// with two values stays twice.
func (b *builder) env() []string {
	var env []string
	addNew := func(s string) {
		if !slices.Contains(env, s) {
			env = append(env, s)
		}
	}
	if b.img.HasEnv {
		env = append(env, b.img.Env...)
	} else {
		env = append(env, defaultPath)
	}
	if !b.pause {
		if b.c.TTY != nil && *b.c.TTY {
			env = append(env, "TERM=xterm")
		}
		env = append(env, "HOSTNAME=$(host-name)")
	}
	for i := range b.c.Env {
		e := &b.c.Env[i]
		if v, ok := b.envValue(e, fmt.Sprintf("env[%d]", i)); ok {
			addNew(e.Name + "=" + v)
		}
	}
	for i := range b.c.EnvFrom {
		for _, v := range b.envFrom(&b.c.EnvFrom[i], fmt.Sprintf("envFrom[%d]", i)) {
			addNew(v)
		}
	}
	b.substituteEnv(env)
	return env
}

func (b *builder) envValue(e *envVar, at string) (string, bool) {
	if e.Value != nil {
		return *e.Value, true
	}
	from := e.ValueFrom
	if from == nil {
		return "", true
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		if v, ok := b.lookUp(ref, false); ok {
			return v, true
		}
	}
	if ref := from.SecretKeyRef; ref != nil {
		if v, ok := b.lookUp(ref, true); ok {
			return b.secretText(v, at+".valueFrom.secretKeyRef", *ref.Name, ref.Key)
		}
	}
	switch {
	case from.FieldRef != nil:
		return b.fieldRef(from.FieldRef.FieldPath, at+".valueFrom.fieldRef")
	case from.ResourceFieldRef != nil:
		return "$(resource-field)", true
	case from.ConfigMapKeyRef != nil:
		b.missingRef(at+".valueFrom.configMapKeyRef", e.Name, "ConfigMap", from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		b.missingRef(at+".valueFrom.secretKeyRef", e.Name, "Secret", from.SecretKeyRef)
	default:
		b.fail(at+".valueFrom", Reference, "the value of %s has no source", e.Name)
	}
	return "", false
}

func (b *builder) missingRef(at, variable, what string, ref *keyRef) {
	name := ""
	if ref.Name != nil {
		name = *ref.Name
	}
	b.fail(at, Reference, "the value of %s: no %s %q with key %q", variable, what, name, ref.Key)
	b.w.hint("add the %s to the file, or give it with --config-file; \"optional\" does not help, since the policy needs the value", what)
}

// lookUp finds the first object of that name that has the key; namespaces are
// not compared.
func (b *builder) lookUp(ref *keyRef, secret bool) (string, bool) {
	if ref.Name == nil {
		return "", false
	}
	for _, o := range b.w.config {
		if o.secret == secret && o.name == *ref.Name {
			if v, ok := o.data[ref.Key]; ok {
				return v, true
			}
		}
	}
	return "", false
}

func (b *builder) secretText(v, at, name, key string) (string, bool) {
	data, err := base64.StdEncoding.Strict().DecodeString(v)
	if err != nil || strings.ContainsAny(v, "\r\n") {
		b.fail(at, Reference, "Secret %q: the value of key %q is not base64 (RFC 4648, padded)", name, key)
		return "", false
	}
	if !utf8.Valid(data) {
		b.fail(at, Reference, "Secret %q: the value of key %q is not UTF-8", name, key)
		return "", false
	}
	return string(data), true
}

func (b *builder) fieldRef(path, at string) (string, bool) {
	meta := b.w.podMeta()
	switch path {
	case "metadata.name":
		return "$(sandbox-name)", true
	case "metadata.namespace":
		if b.w.namespace != nil && *b.w.namespace != "" {
			return *b.w.namespace, true
		}
		return "$(sandbox-namespace)", true
	case "metadata.uid":
		return "$(pod-uid)", true
	case "status.hostIP":
		return "$(host-ip)", true
	case "status.podIP":
		return "$(pod-ip)", true
	case "spec.nodeName":
		return "$(node-name)", true
	case "spec.serviceAccountName":
		// The field of the container, not of the pod: kata reads it there.
		if b.c.ServiceAccountName != nil {
			return *b.c.ServiceAccountName, true
		}
		return "default", true
	}
	if key, ok := bracketed(path, "metadata.annotations"); ok {
		if v, ok := meta.Annotations[key]; ok {
			return v, true
		}
		return "$(todo-annotation)", true
	}
	if key, ok := bracketed(path, "metadata.labels"); ok && meta.Labels != nil {
		if v, ok := meta.Labels[key]; ok {
			return v, true
		}
		b.fail(at+".fieldPath", Reference, "the pod has no label %q", key)
		return "", false
	}
	b.fail(at+".fieldPath", Reference, "field %q cannot be used in an environment", path)
	return "", false
}

// bracketed reads NAME['KEY'].
func bracketed(path, name string) (string, bool) {
	rest, ok := strings.CutPrefix(path, name+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

func (b *builder) envFrom(e *envSource, at string) []string {
	ref, secret, what := e.ConfigMapRef, false, "ConfigMap"
	at2 := at + ".configMapRef"
	if ref == nil {
		ref, secret, what, at2 = e.SecretRef, true, "Secret", at+".secretRef"
	}
	if ref == nil {
		b.fail(at, Reference, "neither configMapRef nor secretRef")
		return nil
	}
	for _, o := range b.w.config {
		if o.secret != secret || o.name != ref.Name {
			continue
		}
		if o.data == nil {
			break // the first object of that name counts, with or without data
		}
		var values []string
		for _, key := range slices.Sorted(maps.Keys(o.data)) {
			v, ok := o.data[key], true
			if secret {
				v, ok = b.secretText(v, at2, o.name, key)
			}
			if ok {
				values = append(values, key+"="+v)
			}
		}
		return values
	}
	b.fail(at2, Reference, "no %s %q with data", what, ref.Name)
	b.w.hint("add the %s to the file, or give it with --config-file", what)
	return nil
}

// runtimeTargets are references that stay in a value and may be copied into
// others: only the guest knows what they stand for.
func runtimeTarget(name string) bool {
	switch name {
	case "bundle-id", "host-ip", "node-name", "pod-ip", "pod-uid", "sandbox-id", "sandbox-name", "sandbox-namespace":
		return true
	}
	return false
}

// reference is the name in the first $(name) of a text. Only the first is ever
// looked at.
func (b *builder) reference(text string) (string, bool) {
	_, rest, ok := strings.Cut(text, "$(")
	if !ok {
		return "", false
	}
	name, _, ok := strings.Cut(rest, ")")
	if ok && name == "" {
		b.fail("", Reference, "%q has an empty reference $()", clip(text))
		return "", false
	}
	return name, ok
}

// onlyPair splits NAME=VALUE; texts with another equals sign are left alone.
func onlyPair(s string) (name, val string, ok bool) {
	name, val, ok = strings.Cut(s, "=")
	return name, val, ok && !strings.Contains(val, "=")
}

func (b *builder) substituteEnv(env []string) {
	for range maxSubstitutions {
		changed := false
		for i, e := range env {
			name, val, ok := onlyPair(e)
			if !ok {
				continue
			}
			if next, ok := b.substitute(val, env); ok {
				env[i], changed = name+"="+next, true
			}
		}
		if !changed {
			return
		}
	}
	b.fail("env", Limit, "references are still not resolved after %d passes", maxSubstitutions)
}

// Values that name each other grow with every pass; both the passes and the
// length of a value are bounded.
const (
	maxSubstitutions = 1000
	maxValue         = 1 << 20
)

// substitute replaces the first reference in s, wherever it stands, by the
// first variable that resolves it.
func (b *builder) substitute(s string, env []string) (string, bool) {
	name, ok := b.reference(s)
	if !ok {
		return "", false
	}
	for _, e := range env {
		other, otherVal, ok := onlyPair(e)
		if other != name || !ok {
			continue
		}
		if target, has := b.reference(otherVal); has && !runtimeTarget(target) {
			continue
		}
		next := strings.ReplaceAll(s, "$("+name+")", otherVal)
		if len(next) > maxValue {
			b.fail("", Limit, "a value grows beyond %d bytes when references are replaced", maxValue)
			return "", false
		}
		return next, next != s
	}
	return "", false
}

func (b *builder) substituteArgs(args, env []string) {
	for i := range args {
		for range maxSubstitutions {
			next, ok := b.substitute(args[i], env)
			if !ok {
				break
			}
			args[i] = next
		}
	}
}
