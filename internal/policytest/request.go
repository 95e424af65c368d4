package policytest

import (
	"encoding/json"
	"strings"
)

// Bundle is the container that requests are about.
const Bundle = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// Request makes the request that a runtime would send for a container of
// policy data, by putting values where the data has patterns.
func Request(data []byte, container int) (map[string]any, error) {
	var d struct {
		Containers []struct {
			OCI     map[string]any
			Devices []map[string]any `json:"devices"`
		} `json:"containers"`
		Common struct {
			DefaultCaps []any `json:"default_caps"`
		} `json:"common"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	oci := d.Containers[container].OCI
	text := func(s string) string {
		for _, r := range [][2]string{
			{"$(sfprefix)", "/run/guest/shared/" + Bundle + "-0123456789abcdef-"},
			{"$(bundle-id)", Bundle},
			{"$(root_path)", "/run/guest/" + Bundle + "/rootfs"},
			{"$(host-name)", "w1"},
			{"$(sandbox-namespace)", "ns1"},
			{"$(sandbox-name)", "w1-b-c"},
			{"^[a-f0-9]{64}$", Bundle},
			{"[bcdfghjklmnpqrstvwxz2456789]+", "b"},
			{"[0-9a-f-]{36}", "00000000-0000-0000-0000-000000000000"},
		} {
			s = strings.ReplaceAll(s, r[0], r[1])
		}
		return strings.TrimSuffix(strings.TrimPrefix(s, "^"), "$")
	}
	annotations := oci["Annotations"].(map[string]any)
	for k, v := range annotations {
		annotations[k] = text(v.(string))
	}
	annotations["io.katacontainers.pkg.oci.bundle_path"] = "/run/containerd/" + Bundle
	mounts := []any{}
	for _, m := range oci["Mounts"].([]any) {
		mount := m.(map[string]any)
		if mount["source"] == "" {
			continue // volumes on block devices have tests of their own
		}
		mount["source"] = text(mount["source"].(string))
		mounts = append(mounts, mount)
	}
	oci["Mounts"] = mounts
	process := oci["Process"].(map[string]any)
	for i, e := range process["Env"].([]any) {
		process["Env"].([]any)[i] = text(e.(string))
	}
	caps := process["Capabilities"].(map[string]any)
	for k, v := range caps {
		if list := v.([]any); len(list) == 1 && list[0] == "$(default_caps)" {
			caps[k] = d.Common.DefaultCaps
		}
	}
	oci["Root"].(map[string]any)["Path"] = text(oci["Root"].(map[string]any)["Path"].(string))
	return map[string]any{"container_id": Bundle, "OCI": oci, "devices": []any{}}, nil
}
