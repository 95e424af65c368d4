package policygen_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/policygen"
)

const profileYAML = `apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  volumes: [{name: e, emptyDir: {}}, {name: h, emptyDir: {}}, {name: n, emptyDir: {}}]
  containers:
    - name: c
      image: app
      volumeMounts:
        - {name: e, mountPath: /e, mountPropagation: Bidirectional}
        - {name: h, mountPath: /h, mountPropagation: HostToContainer}
        - {name: n, mountPath: /n}
`

// shown is the part of policy data that the tests of profiles look at.
type shown struct {
	OCI struct {
		Process struct {
			User struct{ UID, GID int }
			Args []string
		}
		Mounts []struct {
			Destination, Source string
			Options             []string
		}
	}
	Storages []struct {
		Driver     string
		Source     string
		FSType     string
		MountPoint string `json:"mount_point"`
	}
}

func containersOf(t *testing.T, data []byte) []shown {
	t.Helper()
	var d struct{ Containers []shown }
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d.Containers
}

func (s shown) options(destination string) string {
	for _, m := range s.OCI.Mounts {
		if m.Destination == destination {
			return strings.Join(m.Options, ",")
		}
	}
	return "no mount"
}

func profile(t *testing.T, name string) policygen.Profile {
	t.Helper()
	p, err := policygen.ProfileByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func withProfile(t *testing.T, p policygen.Profile, yaml string, images fakeImages) policygen.Input {
	in := input(t, yaml, images)
	in.Profile, in.Settings = p, settings(t, p, "")
	return in
}

// Each test below switches one difference on the parity profile.

func TestGuestPullStorages(t *testing.T) {
	p := profile(t, "kata-4.1")
	p.GuestPullStorages = true
	out := generate(t, withProfile(t, p, profileYAML, fakeImages{"app": fakeImage(t, `{}`)}))
	for i, want := range []string{pauseImage, "app"} {
		list := containersOf(t, out.Policies[0].Data)[i].Storages
		last := list[len(list)-1] // behind the storages of the volumes
		if last.Driver != "image_guest_pull" || last.Source != want || last.FSType != "overlay" || last.MountPoint != "^$(root_path)$" {
			t.Errorf("container %d: last storage %+v, want a guest pull of %s", i, last, want)
		}
	}
}

func TestMountPropagation(t *testing.T) {
	tests := []struct {
		on   bool
		dest string
		want string
	}{
		{false, "/e", "rbind,rprivate,rw"},
		{false, "/h", "rbind,rprivate,rw"},
		{true, "/e", "rbind,rshared,rw"},
		{true, "/h", "rbind,rslave,rw"},
		{true, "/n", "rbind,rprivate,rw"},
	}
	for _, tt := range tests {
		p := profile(t, "kata-4.1")
		p.MountPropagation = tt.on
		out := generate(t, withProfile(t, p, profileYAML, fakeImages{"app": fakeImage(t, `{}`)}))
		if got := containersOf(t, out.Policies[0].Data)[1].options(tt.dest); got != tt.want {
			t.Errorf("propagation %v, %s: options %s, want %s", tt.on, tt.dest, got, tt.want)
		}
	}
}

func TestEphemeralVolumes(t *testing.T) {
	const yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {}}}}]\n" +
		"  containers: [{name: c, image: app, volumeMounts: [{name: v, mountPath: /a/v.x, readOnly: true}]}]\n"
	p := profile(t, "kata-4.1")
	if list := refused(t, withProfile(t, p, yaml, nil)); list[0].Path != "spec.volumes[0].ephemeral" {
		t.Errorf("problems %v, want the ephemeral field", list)
	}
	p.EphemeralVolumes = true
	out := generate(t, withProfile(t, p, yaml, fakeImages{"app": fakeImage(t, `{}`)}))
	c := containersOf(t, out.Policies[0].Data)[1]
	i := slices.IndexFunc(c.OCI.Mounts, func(m struct {
		Destination, Source string
		Options             []string
	},
	) bool {
		return m.Destination == "/a/v.x"
	})
	if i < 0 || c.OCI.Mounts[i].Source != `$(sfprefix)v\.x$` || c.options("/a/v.x") != "rbind,rprivate,rw" {
		t.Errorf("mounts %+v, want a shared bind of v.x", c.OCI.Mounts)
	}
}

func TestDeclaredVolumes(t *testing.T) {
	images := fakeImages{"app": fakeImage(t, `{"Volumes":{"/n":{},"/state":{}}}`)}
	p := profile(t, "kata-4.1")
	out := generate(t, withProfile(t, p, profileYAML, images))
	if got := containersOf(t, out.Policies[0].Data)[1].options("/state"); got != "rbind,rprivate,rw" {
		t.Errorf("declared volume: options %s, want a mount", got)
	}
	p.RefuseDeclaredVolumes = true
	list := refused(t, withProfile(t, p, profileYAML, images))
	if len(list) != 1 || !strings.Contains(list[0].Message, `VOLUME "/state"`) || list[0].Line != 8 {
		t.Errorf("problems %v, want one about /state in line 8", list)
	}
}

func TestUsersWithGuestPull(t *testing.T) {
	images := fakeImages{"app": fakeImage(t, `{"User":"app"}`, fakeLayer{files: map[string]string{
		"etc/passwd": "app:x:7:8:::\n", "etc/group": "app:x:8:\n",
	}})}
	for _, skip := range []bool{false, true} {
		p := profile(t, "kata-4.1")
		p.GuestPullCheck, p.SkipUsersWithGuestPull = false, skip
		in := withProfile(t, p, profileYAML, images)
		in.Settings = settings(t, p, `[{"op":"replace","path":"/cluster_config/guest_pull","value":true}]`)
		user := containersOf(t, generate(t, in).Policies[0].Data)[1].OCI.Process.User
		want := 7
		if skip {
			want = 0
		}
		if user.UID != want {
			t.Errorf("users skipped %v: uid %d, want %d", skip, user.UID, want)
		}
	}
}

func TestReadAllLayers(t *testing.T) {
	files := map[string]string{"etc/passwd": "app:x:7:8:::\n", "etc/group": "app:x:8:\n"}
	for _, media := range []string{zstdLayer, plainLayer} {
		images := fakeImages{"app": fakeImage(t, `{"User":"app"}`, fakeLayer{mediaType: media, files: files})}
		for name, want := range map[string]struct {
			uid   int
			state string
		}{"kata-4.1": {0, "skipped"}, "retally": {7, "read"}} {
			out := generate(t, withProfile(t, profile(t, name), onePod, images))
			if got := containersOf(t, out.Policies[0].Data)[1].OCI.Process.User.UID; got != want.uid {
				t.Errorf("%s, %s: uid %d, want %d", name, media, got, want.uid)
			}
			if got := out.Images[0].Layers[0].State; got != want.state {
				t.Errorf("%s, %s: layer %s, want %s", name, media, got, want.state)
			}
		}
	}
}

func TestProfileLabels(t *testing.T) {
	for _, p := range policygen.Profiles() {
		if got, want := p.Label() == "computed, unmatched", p.Name != "kata-4.1"; got != want {
			t.Errorf("profile %s is labeled %q", p.Name, p.Label())
		}
	}
	if _, err := policygen.ProfileByName("none"); err == nil || !strings.Contains(err.Error(), "kata-4.1") {
		t.Errorf("unknown profile: %v, want the known ones named", err)
	}
}

// TestContrast computes Privatemode's deployment with Contrast's production
// settings: it must work, in that layout; there is nothing to match it with.
func TestContrast(t *testing.T) {
	vectors := testenv.Vectors(t, "published")
	base, err := os.ReadFile(filepath.Join(vectors, "privatemode/settings/genpolicy-settings.contrast-kata-3.28.0-prod.json"))
	if err != nil {
		t.Fatal(err)
	}
	p := profile(t, "contrast-1.20")
	set, err := policygen.ParseSettings(policygen.NamedFile{Name: "prod.json", Data: base}, []policygen.NamedFile{
		{Name: "pause.json", Data: []byte(`[{"op":"replace","path":"/cluster_config/pause_container_image","value":"localhost:5000/pause:3.6"}]`)},
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	f := publishedFamily(t, "cases")
	in, _, err := f.input(t, "privatemode-contrast-classes")
	if err != nil {
		t.Fatal(err)
	}
	in.Profile, in.Settings = p, set
	out, err := policygen.Generate(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Policies) < 8 {
		t.Fatalf("%d policies, want one for each workload of a Contrast class", len(out.Policies))
	}
	for _, one := range out.Policies {
		var keys []string
		dec := json.NewDecoder(strings.NewReader(string(one.Data)))
		for depth := 0; dec.More() || depth > 0; {
			tok, err := dec.Token()
			if err != nil {
				break
			}
			switch v := tok.(type) {
			case json.Delim:
				if v == '{' || v == '[' {
					depth++
				} else {
					depth--
				}
			case string:
				if depth == 1 {
					keys = append(keys, v)
				}
			}
		}
		if got, want := strings.Join(keys, " "), "containers request_defaults common sandbox devices"; got != want {
			t.Errorf("%s: members %s, want %s", one.Name, got, want)
		}
		if text := string(one.Initdata()); !strings.HasPrefix(text, "version = '0.1.0'\nalgorithm = 'sha256'\n\n[data]\n'policy.rego' = \"") {
			t.Errorf("%s: initdata starts with %.80q, want go-toml's form", one.Name, text)
		}
	}
}
