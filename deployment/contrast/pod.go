package contrast

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// pod is a pod template whose tree is changed in place.
type pod struct {
	object      map[string]any // the whole object
	meta        map[string]any // holds metadata and spec
	spec        map[string]any
	annotations map[string]string // as the template has them
}

const secretsVolume = "contrast-secrets"

func has(m map[string]string, key string) bool { _, ok := m[key]; return ok }

// needsMesh reports whether one of the service mesh's annotations is there; an
// empty value counts.
func (p *pod) needsMesh() bool {
	return has(p.annotations, keyMeshIngress) || has(p.annotations, keyMeshEgress) || has(p.annotations, keyMeshAdmin)
}

func envVar(name, value string) map[string]any { return map[string]any{"name": name, "value": value} }

func memory(text string) map[string]any {
	return map[string]any{"limits": map[string]any{"memory": text}, "requests": map[string]any{"memory": text}}
}

// addInitializer puts the initializer first among the init containers, and
// mounts what it writes into all others. Early releases left the mounts of init
// containers alone, and said nothing of an absent service mesh.
func (p *pod) addInitializer(coordinator string, early bool) error {
	const name = "contrast-initializer"
	mount := map[string]any{"name": secretsVolume, "mountPath": "/contrast"}
	env := []any{envVar("COORDINATOR_HOST", coordinator)}
	mounts := []any{mount}
	c := map[string]any{
		"name": name, "image": "ghcr.io/edgelesssys/contrast/initializer:latest",
		"resources": memory("50Mi"), "securityContext": map[string]any{"capabilities": map[string]any{"add": []any{"NET_ADMIN"}}},
	}
	if pv := p.annotations[keySecurePV]; pv != "" && !early {
		device, state, ok := strings.Cut(pv, ":")
		if !ok || strings.Contains(state, ":") {
			return fmt.Errorf("annotation %s: %.80q, want DEVICE:MOUNT", keySecurePV, pv)
		}
		if err := p.checkDevice(device); err != nil {
			return err
		}
		if err := p.ensureVolume(state, early); err != nil {
			return err
		}
		env = append(env, envVar("CRYPTSETUP_DEVICE", "/dev/csi0"))
		mounts = append(mounts, map[string]any{"name": state, "mountPath": "/state", "mountPropagation": "Bidirectional"})
		c["volumeDevices"] = []any{map[string]any{"name": device, "devicePath": "/dev/csi0"}}
		// Each of these takes the place of what was set before.
		c["securityContext"] = map[string]any{"privileged": true}
		c["resources"] = memory("100Mi")
		c["startupProbe"] = map[string]any{
			"failureThreshold": json.Number("20"), "periodSeconds": json.Number("5"), "exec": map[string]any{"command": []any{"/bin/test", "-f", "/done"}},
		}
		c["restartPolicy"] = "Always"
	}
	if !p.needsMesh() && !early {
		env = append(env, envVar("CONTRAST_SERVICE_MESH_DISABLED", "true"))
	}
	c["env"], c["volumeMounts"] = env, mounts
	p.removeInit(name)
	if err := p.ensureVolume(secretsVolume, early); err != nil {
		return err
	}
	for _, list := range []string{"containers", "initContainers"} {
		if list == "initContainers" && early {
			continue
		}
		for _, other := range objects(p.spec[list]) {
			mountInto(other, mount)
		}
	}
	p.spec["initContainers"] = append([]any{c}, list(p.spec, "initContainers")...)
	return nil
}

// mountInto adds a mount at the end, in place of others of that volume.
func mountInto(container, mount map[string]any) {
	var kept []any
	for _, m := range list(container, "volumeMounts") {
		if o, ok := m.(map[string]any); !ok || o["name"] != mount["name"] {
			kept = append(kept, m)
		}
	}
	own := map[string]any{}
	for k, v := range mount {
		own[k] = v
	}
	container["volumeMounts"] = append(kept, own)
}

func list(m map[string]any, key string) []any {
	l, _ := m[key].([]any)
	return l
}

func (p *pod) removeInit(name string) {
	var kept []any
	for _, c := range list(p.spec, "initContainers") {
		if o, ok := c.(map[string]any); !ok || o["name"] != name {
			kept = append(kept, c)
		}
	}
	if delete(p.spec, "initContainers"); len(kept) > 0 {
		p.spec["initContainers"] = kept
	}
}

// ensureVolume adds an emptyDir at the end of the volumes; one of that name must
// be an emptyDir.
func (p *pod) ensureVolume(name string, early bool) error {
	for _, v := range objects(p.spec["volumes"]) {
		if v["name"] == name {
			if _, ok := v["emptyDir"].(map[string]any); !ok {
				return fmt.Errorf("volume %q must be an emptyDir", name)
			}
			return nil
		}
	}
	dir := map[string]any{}
	if !early {
		dir["medium"] = "Memory"
	}
	p.spec["volumes"] = append(list(p.spec, "volumes"), map[string]any{"name": name, "emptyDir": dir})
	return nil
}

// checkDevice wants a claim, an iSCSI device or a claim template of that name.
func (p *pod) checkDevice(name string) error {
	for _, v := range objects(p.spec["volumes"]) {
		if v["name"] == name {
			if v["persistentVolumeClaim"] == nil && v["iscsi"] == nil {
				return fmt.Errorf("volume %q must be of a claim or an iSCSI device", name)
			}
			return nil
		}
	}
	if p.object["kind"] == "StatefulSet" {
		for _, t := range objects(child(p.object, "spec")["volumeClaimTemplates"]) {
			if child(t, "metadata")["name"] == name {
				return nil
			}
		}
	}
	return fmt.Errorf("device %q is not there", name)
}

// addServiceMesh puts the proxy last among the init containers.
func (p *pod) addServiceMesh(early bool) error {
	if !p.needsMesh() {
		return nil
	}
	const name = "contrast-service-mesh"
	c := map[string]any{
		"name": name, "image": "ghcr.io/edgelesssys/contrast/service-mesh-proxy:latest", "restartPolicy": "Always",
		"args":            []any{"-l", "debug"},
		"securityContext": map[string]any{"capabilities": map[string]any{"add": []any{"NET_ADMIN"}}, "privileged": true},
		"startupProbe": map[string]any{
			"initialDelaySeconds": json.Number("1"), "periodSeconds": json.Number("5"), "failureThreshold": json.Number("5"),
			"exec": map[string]any{"command": []any{"test", "-f", "/ready"}},
		},
		"volumeMounts": []any{map[string]any{"name": secretsVolume, "mountPath": "/contrast"}},
	}
	p.removeInit(name)
	if err := p.ensureVolume(secretsVolume, early); err != nil {
		return err
	}
	var env []any
	if port := p.annotations[keyMeshAdmin]; port != "" {
		n, err := strconv.Atoi(port)
		if err != nil {
			return fmt.Errorf("annotation %s: %.40q is no number", keyMeshAdmin, port)
		}
		if n < 1 || n > 65535 {
			return errors.New("annotation " + keyMeshAdmin + ": no port")
		}
		env = append(env, envVar("CONTRAST_ADMIN_PORT", port))
		c["ports"] = []any{map[string]any{"name": "contrast-admin", "containerPort": json.Number(strconv.Itoa(n))}}
	}
	if v := p.annotations[keyMeshIngress]; v != "" {
		env = append(env, envVar("CONTRAST_INGRESS_PROXY_CONFIG", v))
	}
	if v := p.annotations[keyMeshEgress]; v != "" {
		env = append(env, envVar("CONTRAST_EGRESS_PROXY_CONFIG", v))
	}
	if len(env) > 0 {
		c["env"] = env
	}
	p.spec["initContainers"] = append(list(p.spec, "initContainers"), c)
	return nil
}

// addImageStore attaches a block device that images are unpacked to.
func (p *pod) addImageStore() {
	size := p.annotations[keyImageStoreSize]
	switch size {
	case "0":
		return
	case "":
		size = "10Gi"
	}
	named := func(key, name string) bool {
		for _, o := range objects(p.spec[key]) {
			if o["name"] == name {
				return true
			}
		}
		return false
	}
	if !named("initContainers", "pvc-holder") {
		c := map[string]any{
			"name": "pvc-holder", "image": "ghcr.io/edgelesssys/contrast/initializer:latest", "command": []any{"/bin/sh", "-c", "sleep inf"},
			"restartPolicy": "Always", "securityContext": map[string]any{"privileged": true}, "resources": memory("50Mi"),
			"volumeDevices": []any{map[string]any{"devicePath": "/dev/image_store", "name": "image-store"}},
		}
		p.spec["initContainers"] = append([]any{c}, list(p.spec, "initContainers")...)
	}
	if !named("volumes", "image-store") {
		claim := map[string]any{
			"accessModes": []any{"ReadWriteOnce"}, "volumeMode": "Block", "resources": map[string]any{"requests": map[string]any{"storage": size}},
		}
		v := map[string]any{"name": "image-store", "ephemeral": map[string]any{"volumeClaimTemplate": map[string]any{"spec": claim}}}
		p.spec["volumes"] = append(list(p.spec, "volumes"), v)
	}
}

// replaceImages puts the release's images in the place of its placeholders, and
// lists those that it would replace by something that is not known.
func (p *pod) replaceImages(r *Release) (unknown []string) {
	seen := map[string]bool{}
	for _, key := range []string{"initContainers", "containers"} {
		for _, c := range objects(p.spec[key]) {
			image, _ := c["image"].(string)
			to, ok := r.replacement(image)
			if !ok && IsPlaceholder(image) {
				to = Replacement{From: image}
			} else if !ok {
				continue
			}
			if to.To == "" {
				if !seen[image] {
					seen[image], unknown = true, append(unknown, image)
				}
				continue
			}
			c["image"] = to.To
		}
	}
	return unknown
}

// IsPlaceholder reports whether a release is bound to replace the image: what is
// called so is never pulled.
func IsPlaceholder(image string) bool {
	return strings.HasPrefix(image, "ghcr.io/edgelesssys/contrast/") && strings.HasSuffix(image, ":latest")
}

// annotate sets annotations of the template, over its own.
func (p *pod) annotate(more map[string]string) {
	meta := child(p.meta, "metadata")
	if meta == nil {
		meta = map[string]any{}
		p.meta["metadata"] = meta
	}
	own := child(meta, "annotations")
	if own == nil {
		own = map[string]any{}
		meta["annotations"] = own
	}
	for k, v := range more {
		own[k] = v
	}
}
