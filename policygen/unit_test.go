package policygen_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/policygen"
)

func TestParseImageReference(t *testing.T) {
	d := "sha256:" + strings.Repeat("ab", 32)
	tests := []struct{ text, want string }{
		{"busybox", "docker.io/library/busybox:latest"},
		{"busybox:1", "docker.io/library/busybox:1"},
		{"index.docker.io/a/b", "docker.io/a/b:latest"},
		{"localhost/x", "localhost/x:latest"},
		{"localhost:5000/x:1@" + d, "localhost:5000/x:1@" + d},
		{"a.test/x/y@" + d, "a.test/x/y@" + d},
		{"host/x", "docker.io/host/x:latest"},
		{"", ""},
		{"Upper/x", ""},
		{"x:", ""},
		{"x@sha256:12", ""},
		{"x//y", ""},
		{"https://x/y", ""},
		{"x y", ""},
	}
	for _, tt := range tests {
		got, err := policygen.ParseImageReference(tt.text)
		if (err != nil) != (tt.want == "") || err == nil && got.String() != tt.want {
			t.Errorf("%q: %v, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

func TestApplyPatch(t *testing.T) {
	tests := []struct{ doc, patch, want, wantErr string }{
		{`{"a":1}`, `[{"op":"add","path":"/b","value":[1]}]`, `{"a":1,"b":[1]}`, ""},
		{`{"a":[1,2]}`, `[{"op":"add","path":"/a/1","value":9}]`, `{"a":[1,9,2]}`, ""},
		{`{"a":[1,2]}`, `[{"op":"add","path":"/a/-","value":9}]`, `{"a":[1,2,9]}`, ""},
		{`{"a":[1,2]}`, `[{"op":"remove","path":"/a/0"}]`, `{"a":[2]}`, ""},
		{`{"a":1}`, `[{"op":"replace","path":"/a","value":{}}]`, `{"a":{}}`, ""},
		{`{"a":{"b":1},"c":{}}`, `[{"op":"move","from":"/a/b","path":"/c/d"}]`, `{"a":{},"c":{"d":1}}`, ""},
		{`{"a":{"b":1}}`, `[{"op":"copy","from":"/a","path":"/c"},{"op":"replace","path":"/c/b","value":2}]`, `{"a":{"b":1},"c":{"b":2}}`, ""},
		{`{"a/b":1,"m~n":2}`, `[{"op":"remove","path":"/a~1b"},{"op":"remove","path":"/m~0n"}]`, `{}`, ""},
		{`{"a":1}`, `[{"op":"test","path":"/a","value":1}]`, `{"a":1}`, ""},
		{`{"a":1}`, `[{"op":"test","path":"/a","value":2}]`, "", "value is 1, not 2"},
		{`{"a":[1]}`, `[{"op":"add","path":"/a/2","value":1}]`, "", "behind the end"},
		{`{"a":[1]}`, `[{"op":"remove","path":"/a/01"}]`, "", "no array index"},
		{`{}`, `[{"op":"replace","path":"/x","value":1}]`, "", `no member "x"`},
		{`{"a":{}}`, `[{"op":"move","from":"/a","path":"/a/b"}]`, "", "into its own part"},
		{`{}`, `[{"op":"add","path":"/a~2","value":1}]`, "", "followed by 0 or 1"},
		{`{}`, `[{"op":"paint","path":"/x"}]`, "", "unknown operation"},
		{`{}`, `{}`, "", "array of operations"},
		{`{"a":[0,0,0,0,0,0,0,0]}`, "[" + strings.TrimSuffix(strings.Repeat(`{"op":"copy","from":"","path":"/a/-"},`, 40), ",") + "]", "", "creates more than"},
	}
	for _, tt := range tests {
		got, err := policygen.ApplyPatch([]byte(tt.doc), []byte(tt.patch))
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%s: error %v, want %q", tt.patch, err, tt.wantErr)
			}
			continue
		}
		if err != nil || string(got) != tt.want {
			t.Errorf("%s on %s: %s, %v; want %s", tt.patch, tt.doc, got, err, tt.want)
		}
	}
}

func TestSettingsFolder(t *testing.T) {
	dir := fstest.MapFS{
		"genpolicy-settings.json":                  {Data: []byte("{}")},
		"genpolicy-settings.d/b.json":              {Data: []byte("[]")},
		"genpolicy-settings.d/A.json":              {Data: []byte("[]")},
		"genpolicy-settings.d/c.txt":               {Data: []byte("no")},
		"genpolicy-settings.d/.json":               {Data: []byte("no")},
		"genpolicy-settings.d/nested/deep/d.json":  {Data: []byte("no")},
		"genpolicy-settings.d/10-first.json":       {Data: []byte("[]")},
		"genpolicy-settings.d.disabled/other.json": {Data: []byte("no")},
	}
	_, dropIns, err := policygen.SettingsFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range dropIns {
		names = append(names, filepath.Base(d.Name))
	}
	if diff := cmp.Diff([]string{"10-first.json", "A.json", "b.json"}, names); diff != "" {
		t.Errorf("drop-ins (-want +got):\n%s", diff)
	}
}

func TestSettingsProblems(t *testing.T) {
	p, err := policygen.ProfileByName("kata-4.1")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, text, patch, want string }{
		{"no JSON", "{", "", "want a member name"},
		{"missing members", `{"common": {}}`, "", `settings.json:1:12: common: field "cpath" is missing`},
		{"wrong type", "{\n \"mount_destinations\": 3}", "", `settings.json:2:24: mount_destinations: found integer "3", want a list`},
		{"patch no JSON", "{}", "x", "patch.json:1:1"},
		{"patch fails", "{}", `[{"op":"remove","path":"/x"}]`, `patch.json: apply patch: operation /0: remove /x: no member "x"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var dropIns []policygen.NamedFile
			if tt.patch != "" {
				dropIns = []policygen.NamedFile{{Name: "patch.json", Data: []byte(tt.patch)}}
			}
			_, err := policygen.ParseSettings(policygen.NamedFile{Name: "settings.json", Data: []byte(tt.text)}, dropIns, p)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

// TestLayerMerge holds kata's rules for the user databases of several layers.
func TestLayerMerge(t *testing.T) {
	passwd := func(uid string) string { return "app:x:" + uid + ":1:::\n" }
	l := func(files map[string]string) fakeLayer { return fakeLayer{files: files} }
	group := map[string]string{"etc/group": "g:x:1:\n"}
	tests := []struct {
		name   string
		layers []fakeLayer
		uid    int
		states string // bottom first
	}{
		{"upper replaces", []fakeLayer{l(map[string]string{"etc/passwd": passwd("5")}), l(map[string]string{"etc/passwd": passwd("6")}), l(group)}, 6, "not needed read read"},
		{"empty upper hides nothing", []fakeLayer{l(map[string]string{"etc/passwd": passwd("5")}), l(map[string]string{"etc/passwd": ""})}, 5, "read read"},
		{"whiteout hides", []fakeLayer{l(map[string]string{"etc/passwd": passwd("5")}), l(map[string]string{"etc/.wh.passwd": ""})}, 0, "read read"},
		{"whiteout of the folder does not", []fakeLayer{l(map[string]string{"etc/passwd": passwd("5")}), l(map[string]string{".wh.etc": ""})}, 5, "read read"},
		{"dots in the path", []fakeLayer{l(map[string]string{"./etc/./passwd": passwd("5")})}, 5, "read"},
		{"path with a parent", []fakeLayer{l(map[string]string{"x/../etc/passwd": passwd("5")})}, 0, "read"},
		{"deeper path", []fakeLayer{l(map[string]string{"x/etc/passwd": passwd("5")})}, 0, "read"},
		{"both decided at the top", []fakeLayer{l(map[string]string{"etc/passwd": passwd("5")}), l(map[string]string{"etc/group": "g:x:1:\n", "etc/passwd": passwd("9")})}, 9, "not needed read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := generate(t, input(t, onePod, fakeImages{"app": fakeImage(t, `{"User":"app"}`, tt.layers...)}))
			if got := containersOf(t, out.Policies[0].Data)[1].OCI.Process.User.UID; got != tt.uid {
				t.Errorf("uid %d, want %d", got, tt.uid)
			}
			var states []string
			for _, u := range out.Images[0].Layers {
				states = append(states, u.State)
			}
			if got := strings.Join(states, " "); got != tt.states {
				t.Errorf("layers %s, want %s", got, tt.states)
			}
		})
	}
}

// TestFullScan checks diff ids, and finds what early stops leave unread.
func TestFullScan(t *testing.T) {
	img := fakeImage(t, `{}`, fakeLayer{files: map[string]string{"a": "b", "etc/passwd": "", "etc/group": ""}})
	in := input(t, onePod, fakeImages{"app": img})
	in.Full = true
	if got := generate(t, in).Images[0].Layers[0].DiffID; got != "checked" {
		t.Errorf("diff id %s, want checked", got)
	}
	img.Config = []byte(strings.Replace(string(img.Config), "diff_ids\":[\"sha256:", "diff_ids\":[\"sha256:00", 1))
	if got := generate(t, in).Images[0].Layers[0].DiffID; got != "differs" {
		t.Errorf("diff id %s, want differs", got)
	}
	in.Full = false
	if got := generate(t, in).Images[0].Layers[0].DiffID; got != "unchecked" {
		t.Errorf("diff id %s, want unchecked", got)
	}
}

// TestLayerCache reads a layer once per run, and not at all when it is cached.
func TestLayerCache(t *testing.T) {
	const two = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: app}, {name: d, image: other}]\n"
	shared := fakeLayer{files: map[string]string{"etc/passwd": "root:x:0:0:::\n", "etc/group": "root:x:0:\n"}}
	images := fakeImages{"app": fakeImage(t, `{}`, shared), "other": fakeImage(t, `{"Env":["A=1"]}`, shared)}
	cache := &memoryCache{files: map[digest.Digest]policygen.LayerFiles{}}
	for _, want := range []string{"read shared", "cached shared"} {
		in := input(t, two, images)
		in.Cache, in.Parallel = cache, 1
		out := generate(t, in)
		if got := out.Images[0].Layers[0].State + " " + out.Images[1].Layers[0].State; got != want {
			t.Errorf("layers %s, want %s", got, want)
		}
	}
}

func TestRequirePinned(t *testing.T) {
	in := input(t, onePod, fakeImages{"app": fakeImage(t, `{}`)})
	in.Rules.RequirePinned = true
	list := refused(t, in)
	if len(list) != 1 || list[0].Kind != policygen.Unpinned || list[0].Line != 5 {
		t.Errorf("problems %v, want one unpinned image in line 5", list)
	}
}

func TestRulesWarnings(t *testing.T) {
	r := policygen.Rules{Name: "r", Text: []byte("a\n" + strings.Repeat("x", 1025) + "\n" + strings.Repeat("#\n", 600_000))}
	if got := r.Warnings(); len(got) != 2 || !strings.Contains(got[1], "r:2: line of 1025 columns") {
		t.Errorf("warnings %v, want the size and line 2", got)
	}
}

// TestInitdataTOML compares both writers with what a TOML reader gives back.
func TestInitdataTOML(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.MapOfN(rapid.String(), rapid.StringOf(rapid.RuneFrom([]rune("ab'\"\\\n\t\r\x01\x7f$é"))), 0, 4).Draw(t, "data")
		d := policygen.Initdata{Version: "0.1.0", Algorithm: digest.SHA384, Data: data}
		for _, form := range []policygen.InitdataForm{policygen.KataTOML, policygen.GoTOML} {
			text := d.Text(form)
			back, err := policygen.ParseInitdata("x", text, form)
			if err != nil {
				t.Fatalf("form %d: %v:\n%s", form, err, text)
			}
			if diff := cmp.Diff(data, back.Data, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("form %d (-want +got):\n%s\n%s", form, diff, text)
			}
		}
		want, err := toml.Marshal(struct {
			Version   string            `toml:"version"`
			Algorithm string            `toml:"algorithm"`
			Data      map[string]string `toml:"data"`
		}{"0.1.0", "sha384", data})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(d.Text(policygen.GoTOML))); diff != "" {
			t.Fatalf("go-toml's own text (-want +got):\n%s", diff)
		}
	})
}

// TestContrastInitdata reads the project's own initdata vectors.
func TestContrastInitdata(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "own/contrast"), "initdata.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name         string
		Data         map[string]string
		TOML         string
		SHA256       string
		AnnotationGo string
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, c := range cases {
		if c.TOML == "" {
			continue
		}
		checked++
		d, err := policygen.ParseInitdata(c.Name, []byte(c.TOML), policygen.GoTOML)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if diff := cmp.Diff(c.Data, d.Data, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: data (-want +got):\n%s", c.Name, diff)
		}
		text := d.Text(policygen.GoTOML)
		if string(text) != c.TOML || c.SHA256 != "" && hexSum(text) != c.SHA256 {
			t.Errorf("%s: text %q, want %q", c.Name, text, c.TOML)
		}
		if c.AnnotationGo == "" {
			continue
		}
		if unpacked, err := policygen.DecodeAnnotation(c.AnnotationGo); err != nil || string(unpacked) != c.TOML {
			t.Errorf("%s: annotation unpacks to %q, %v", c.Name, unpacked, err)
		}
	}
	if checked == 0 {
		t.Error("no case in the vectors")
	}
}

func TestGenerateIsDeterministic(t *testing.T) {
	f := committedFamily(t)
	in, _, err := f.input(t, "kind-list")
	if err != nil {
		t.Fatal(err)
	}
	in.Parallel = 1
	first := generate(t, in)
	in.Parallel = 8
	if diff := cmp.Diff(string(first.YAML), string(generate(t, in).YAML)); diff != "" {
		t.Errorf("output depends on the number of workers:\n%s", diff)
	}
}

// TestAnnotationsDoNotDependOnEachOther packs texts one after the other and
// side by side; each must give the bytes that it gives alone.
func TestAnnotationsDoNotDependOnEachOther(t *testing.T) {
	var yaml strings.Builder
	for i := range 40 {
		fmt.Fprintf(&yaml, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p%d}\nspec:\n  containers: [{name: c, image: app, args: [%q]}]\n", i, strings.Repeat(fmt.Sprint("x", i), 100*i))
	}
	out := generate(t, input(t, yaml.String(), fakeImages{"app": fakeImage(t, `{}`)}))
	if len(out.Policies) != 40 {
		t.Fatalf("%d policies, want 40", len(out.Policies))
	}
	for i := range out.Policies {
		p := &out.Policies[i]
		if p.Annotation != policygen.EncodeAnnotation(p.Initdata()) {
			t.Errorf("%s: the annotation depends on others", p.Name)
		}
	}
}
