package policygen_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/policygen"
)

// FuzzGenerate feeds YAML: no panic, errors with places, and output that is
// read and written again unchanged.
func FuzzGenerate(f *testing.F) {
	fam := committedFamily(f)
	entries, err := fs.ReadDir(fam.cases, ".")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		data, err := fs.ReadFile(fam.cases, e.Name()+"/input.yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	reg := newRegistry(f, fam.images)
	profile, err := policygen.ProfileByName("kata-4.1")
	if err != nil {
		f.Fatal(err)
	}
	set := settings(f, profile, "")
	f.Fuzz(func(t *testing.T, yaml []byte) {
		in := policygen.Input{
			YAML: policygen.NamedFile{Name: "in.yaml", Data: yaml}, Images: reg, Profile: profile, Settings: set,
			Rules: policygen.Rules{Text: fam.miniRules}, Unknown: policygen.IgnoreUnknown, Limits: policygen.Limits{Nodes: 20_000},
		}
		out, err := policygen.Generate(t.Context(), in)
		if err != nil {
			var list policygen.Problems
			if !errors.As(err, &list) || len(list) == 0 {
				t.Fatalf("error %v has type %T, want Problems", err, err)
			}
			return
		}
		// A key may be 1,024 characters long (YAML 1.2, 7.4.2), and escaped it may
		// be longer: what is written then cannot be read.
		if slices.ContainsFunc(bytes.Split(out.YAML, []byte("\n")), longKey) {
			return
		}
		in.YAML.Data = out.YAML
		again, err := policygen.Generate(t.Context(), in)
		if err != nil {
			t.Fatalf("own output is refused: %v\n%s", err, out.YAML)
		}
		if len(again.Policies) != len(out.Policies) {
			t.Fatalf("%d policies from the output, %d from the input", len(again.Policies), len(out.Policies))
		}
		in.YAML.Data = again.YAML
		third, err := policygen.Generate(t.Context(), in)
		if err != nil {
			t.Fatalf("own output is refused: %v", err)
		}
		if string(third.YAML) != string(again.YAML) {
			t.Fatalf("output is not stable:\n%s\n%s", again.YAML, third.YAML)
		}
	})
}

// longKey reports whether a line of the output starts with a key that is too
// long. Values, such as the annotation's, may have any length.
func longKey(line []byte) bool {
	return bytes.Index(slices.Concat(bytes.TrimSpace(line), []byte(" ")), []byte(": ")) > 1024
}

func FuzzSettings(f *testing.F) {
	base, _, err := policygen.SettingsFiles(sub(f, committedFamily(f).base, "settings/own"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(base.Data, []byte(`[{"op":"replace","path":"/cluster_config/guest_pull","value":true}]`))
	f.Add([]byte(`{}`), []byte(`[{"op":"copy","from":"","path":"/a"}]`))
	f.Fuzz(func(t *testing.T, text, patch []byte) {
		for _, p := range policygen.Profiles() {
			_, err := policygen.ParseSettings(policygen.NamedFile{Name: "s", Data: text}, []policygen.NamedFile{{Name: "p", Data: patch}}, p)
			var list policygen.Problems
			if err != nil && (!errors.As(err, &list) || len(list) == 0) {
				t.Fatalf("error %v has type %T, want Problems", err, err)
			}
		}
	})
}

// FuzzImage feeds an image config and a layer.
func FuzzImage(f *testing.F) {
	layer := tarOf(f, map[string]string{"etc/passwd": "root:x:0:0:::\n", "etc/group": "root:x:0:\n", "bin/sh": "x"})
	f.Add([]byte(`{"architecture":"amd64","config":{"User":"root:root","Env":["A=$(B)"]},"rootfs":{"type":"layers","diff_ids":["x"]}}`), layer)
	f.Add([]byte(`{}`), layer[:700])
	profile, err := policygen.ProfileByName("retally")
	if err != nil {
		f.Fatal(err)
	}
	set := settings(f, profile, "")
	f.Fuzz(func(t *testing.T, config, layer []byte) {
		img := &policygen.ResolvedImage{Config: config, Layers: []policygen.Layer{{
			Digest: sha(layer), MediaType: plainLayer,
			Open: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(string(layer))), nil
			},
		}}}
		out, err := policygen.Generate(t.Context(), policygen.Input{
			YAML: policygen.NamedFile{Name: "in.yaml", Data: []byte(onePod)}, Profile: profile, Settings: set,
			Images: fakeImages{"app": img, pauseImage: fakeImage(nil, `{}`)}, Limits: policygen.Limits{FileBytes: 1 << 20},
		})
		var list policygen.Problems
		if err != nil && !errors.As(err, &list) || err == nil && len(out.Policies) != 1 {
			t.Fatalf("%v, %v", out, err)
		}
	})
}

// FuzzUsers feeds the user databases: the ids of a policy are in range and its
// groups sorted without duplicates.
func FuzzUsers(f *testing.F) {
	f.Add("app:g", "app:x:1:2:::\n", "g:x:3:app,root\n")
	f.Add("7", "", "")
	profile, err := policygen.ProfileByName("kata-4.1")
	if err != nil {
		f.Fatal(err)
	}
	set := settings(f, profile, "")
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		if strings.ContainsAny(user, "\"\\") || strings.ToValidUTF8(user, "") != user || strings.ContainsFunc(user, func(r rune) bool { return r < 0x20 }) {
			return
		}
		img := fakeImage(t, `{"User":"`+user+`"}`, fakeLayer{files: map[string]string{"etc/passwd": passwd, "etc/group": group}})
		out, err := policygen.Generate(t.Context(), policygen.Input{
			YAML: policygen.NamedFile{Name: "in.yaml", Data: []byte(onePod)}, Profile: profile, Settings: set,
			Images: fakeImages{"app": img, pauseImage: img},
		})
		if err != nil {
			return
		}
		for _, c := range out.Policies[0].Containers {
			gids := c.OCI.Process.User.AdditionalGids
			for i := 1; i < len(gids); i++ {
				if gids[i-1] >= gids[i] {
					t.Fatalf("groups %v are not a sorted set", gids)
				}
			}
		}
	})
}

// FuzzReadPolicies feeds files that should hold policies to the reader, and
// what it reads to the comparison and the description.
func FuzzReadPolicies(f *testing.F) {
	f.Add([]byte("package x\npolicy_data := {\"containers\": [{\"OCI\": {}}]}"))
	f.Add([]byte("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"policy.rego\" = \"\"\n"))
	f.Add([]byte("H4sIAAAAAAAA/w=="))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := policygen.ReadPolicies(policygen.NamedFile{Name: "f", Data: data})
		if err != nil {
			return
		}
		for _, d := range policygen.Diff(list, list) {
			if d.State != "equal" {
				t.Fatalf("a policy differs from itself: %+v", d)
			}
		}
		policygen.Show(list)
	})
}
