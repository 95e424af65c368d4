package privatemode_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/privatemode"
)

const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	hexC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

// places gives "line path" of every problem in an error.
func places(t testing.TB, err error) (out []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	var ps privatemode.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %T %v, want Problems", err, err)
	}
	for _, p := range ps {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%d %s", p.Line, p.Path)))
	}
	return out
}

func read(t testing.TB, rel string) []byte {
	t.Helper()
	data, err := os.ReadFile(testenv.Vectors(t, rel))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestModels1_40(t *testing.T) {
	data := read(t, "published/privatemode/models/v1.40.0.models.yaml")
	m, err := privatemode.ParseModels("models.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Entries) != 10 || m.Namespace != "continuum-infra" {
		t.Fatalf("got %d entries in %s, want 10 in continuum-infra", len(m.Entries), m.Namespace)
	}
	lines := strings.Split(string(data), "\n")
	for _, e := range m.Entries {
		if got := privatemode.NormalizeName(e.Source); got != e.Key {
			t.Errorf("NormalizeName(%s): got %s, want %s", e.Source, got, e.Key)
		}
		if !strings.Contains(lines[e.Line-1], e.Key+": |-") || !strings.Contains(lines[e.RootLine-1], `"root_hash": "`+e.RootHash.Hex()) {
			t.Errorf("%s: wrong lines %d, %d", e.Key, e.Line, e.RootLine)
		}
	}
	if diff := cmp.Diff([]string{"flax_model.msgpack", "pytorch_model.*"}, m.Entries[5].Excluded); diff != "" {
		t.Errorf("excluded (-want +got):\n%s", diff)
	}
	d, err := deployment.Parse("f", read(t, "published/privatemode/deployments/v1.40.0.deployment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, disk := range d.Disks() {
		used[disk.RootHash.Hex()] = true
	}
	var unused []string
	for _, e := range m.Entries {
		if !used[e.RootHash.Hex()] {
			unused = append(unused, e.Key)
		}
		delete(used, e.RootHash.Hex())
	}
	if diff := cmp.Diff([]string{"facebook-opt-125m", "nvidia-kimi-k2-5-nvfp4"}, unused); diff != "" || len(used) != 0 {
		t.Errorf("unused models (-want +got):\n%sunknown disks: %v", diff, used)
	}
}

const modelHead = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: model-disks\ndata:\n"

// model has its fields on lines 8 to 15.
const model = `  a-b: |-
    {
      "model_source": "https://example.com/a/b",
      "commit_hash": "0123456789012345678901234567890123456789",
      "excluded_files": "x,y.*",
      "root_hash": "` + hexA + `",
      "hash_offset": "8192",
      "erofs_version": "1.9",
      "veritysetup_version": "2.8.4",
      "file_hash_sha256": "` + hexB + `"
    }
`

func TestParseModels(t *testing.T) {
	m, err := privatemode.ParseModels("f", []byte(modelHead+model))
	if err != nil || len(m.Entries) != 1 {
		t.Fatalf("got %v, %v", m, err)
	}
	e := m.Entries[0]
	if e.HashOffset != 8192 || e.Line != 6 || e.RootLine != 11 || e.RootHash.Hex() != hexA || e.FileHash.Hex() != hexB || len(e.Excluded) != 2 || e.ErofsVersion != "1.9" || e.VeritysetupVersion != "2.8.4" {
		t.Errorf("got %+v", e)
	}
	for _, tt := range []struct {
		old, new string
		want     []string
	}{
		{`"8192"`, `8192`, []string{"12 data.a-b.hash_offset"}},
		{`"8192"`, `"0x2000"`, []string{"12 data.a-b.hash_offset"}},
		{`"8192"`, `"08192"`, []string{"12 data.a-b.hash_offset"}},
		{`"8192"`, `"8193"`, []string{"12 data.a-b.hash_offset"}},
		{`"8192"`, `"0"`, []string{"12 data.a-b.hash_offset"}},
		{`"8192"`, `"-4096"`, []string{"12 data.a-b.hash_offset"}},
		{hexA, hexA[1:], []string{"11 data.a-b.root_hash"}},
		{hexA, strings.ToUpper(hexA), []string{"11 data.a-b.root_hash"}},
		{hexB, hexB + "b", []string{"15 data.a-b.file_hash_sha256"}},
		{"0123456789012345678901234567890123456789", "main", []string{"9 data.a-b.commit_hash"}},
		{"https://example.com/a/b", "a/b", []string{"8 data.a-b.model_source"}},
		{"x,y.*", "x,,y", []string{"10 data.a-b.excluded_files"}},
		{`"1.9"`, `""`, []string{"13 data.a-b.erofs_version"}},
		{`"erofs_version"`, `"erofs_versoin"`, []string{"7 data.a-b.erofs_version", "13 data.a-b.erofs_versoin"}},
		{`"excluded_files": "x,y.*",`, `"root_hash": "x",`, []string{"11 data.a-b"}},
		{"    }\n", "", []string{"15 data.a-b"}},
		{"a-b: |-\n", "a-b: 1\n  c: |-\n", []string{"6 data.a-b"}},
		{"a-b: |-\n", "a-b: '[]'\n  c: |-\n", []string{"6 data.a-b"}},
		{"model-disks", "other", []string{"1"}},
		{"kind: ConfigMap", "kind: Secret", []string{"1"}},
		{"\ndata:", "\ndata: {}\nbinaryData:", []string{"7 binaryData"}},
		{"\ndata:", "\nother:", []string{"1 data"}},
		{hexA, "x", []string{"11 data.a-b.root_hash"}},
	} {
		_, err := privatemode.ParseModels("f", []byte(strings.Replace(modelHead+model, tt.old, tt.new, 1)))
		if diff := cmp.Diff(tt.want, places(t, err)); diff != "" {
			t.Errorf("%s -> %s (-want +got):\n%s%v", tt.old, tt.new, diff, err)
		}
	}
	// All at once, and duplicates.
	all := strings.NewReplacer(hexA, "x", hexB, "y").Replace(modelHead + model)
	if _, err := privatemode.ParseModels("f", []byte(all)); len(places(t, err)) != 2 {
		t.Errorf("got %v, want both faults", err)
	}
	if _, err := privatemode.ParseModels("f", []byte(modelHead+model+model)); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("duplicate model: got %v", err)
	}
	if _, err := privatemode.ParseModels("f", []byte(modelHead+model+"---\n"+modelHead+model)); err == nil {
		t.Error("two ConfigMaps: got no error")
	}
	if _, err := privatemode.ParseModels("f", nil); err == nil {
		t.Error("empty file: got no error")
	}
}

func TestHashes(t *testing.T) {
	text := "{\n  \"b\": \"sha256:" + hexA + "\",\n  \"a\": \"sha256:" + hexB + "\"\n}\n"
	got, err := privatemode.ParseHashes("f", []byte(text))
	if err != nil || len(got) != 2 || got[0].Name != "b" || got[1].Line != 3 || got[1].Digest.Hex() != hexB {
		t.Fatalf("got %v, %v", got, err)
	}
	if out := string(privatemode.FormatHashes(got)); out != text {
		t.Errorf("got %s, want %s", out, text)
	}
	if out := string(privatemode.FormatHashes(nil)); out != "{}\n" {
		t.Errorf("no hashes: got %q, want {}", out)
	}
	for in, want := range map[string][]string{
		`{"a":"sha256:` + hexA + `","a":"sha256:` + hexA + `"}`: {"1"},
		"{\n\"a\":\"null\",\n\"b\":null,\n\"\":\"x\"}":          {"2 a", "3 b", "4"},
		`{"a":"sha256:` + strings.ToUpper(hexA) + `"}`:          {"1 a"},
		`{"a":"sha512:` + hexA + hexA + `"}`:                    {"1 a"},
		`[]`:                                                    {"1"},
		"":                                                      {"1"},
	} {
		_, err := privatemode.ParseHashes("f", []byte(in))
		if diff := cmp.Diff(want, places(t, err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}

// jq itself prints what FormatHashes prints.
func TestHashesJQ(t *testing.T) {
	jq := testenv.Oracle(t, "jq")
	hashes, err := privatemode.ParseHashes("f", []byte(`{"b\u007f<é":"sha256:`+hexA+`","a\"/\\":"sha256:`+hexB+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := runJQ(t, jq, privatemode.FormatHashes(hashes))
	if got := string(privatemode.FormatHashes(hashes)); got != want {
		t.Errorf("got %q, jq prints %q", got, want)
	}
}

func TestParseLog(t *testing.T) {
	l, err := privatemode.ParseLog("log.txt", read(t, "published/privatemode/published/83c1af.log.txt"))
	if err != nil || len(l.Entries) != 1 || len(l.Notes) != 0 {
		t.Fatalf("got %+v, %v", l, err)
	}
	e, _ := l.Latest()
	if e.Path != "manifests/1.json" || e.PathText != `manifests\1.json` || e.CoordinatorPolicy.Hex() != "65ff63cf885e44ee400076d5ab7ef7c614b3420ffbde325d14d7d755b9d80048" || e.Time.Unix() != 1744123387 {
		t.Errorf("got %+v", e)
	}
}

func TestParseLogForms(t *testing.T) {
	at := "2025-04-08T16:43:07+02:00 "
	for _, tt := range []struct {
		name, in string
		paths    []string
		faults   []string
		notes    int
	}{
		{"new", at + "manifests/1.json\n", []string{"manifests/1.json"}, nil, 0},
		{"old", at + hexA + " manifests/1.json\n", []string{"manifests/1.json"}, nil, 0},
		{"both, CRLF", at + hexA + " manifests\\1.json\r\n" + at + "manifests/2.json\r\n", []string{"manifests/1.json", "manifests/2.json"}, nil, 0},
		{"absolute", at + "/home/u/my files/pm/manifests/1.json\n", []string{"manifests/1.json"}, nil, 0},
		{"windows", at + `C:\Users\A B\AppData\manifests\1.json` + "\n", []string{"manifests/1.json"}, nil, 0},
		{"relative workspace", at + "../ws/manifests/1.json\n", []string{"manifests/1.json"}, nil, 0},
		{"nested folders of the name", at + "/manifests/x/manifests/1.json\n", []string{"manifests/1.json"}, nil, 0},
		{"blank last line", at + "manifests/1.json\n\n", []string{"manifests/1.json"}, nil, 0},
		{"blank line inside", at + "manifests/1.json\n\n" + at + "manifests/3.json\n", []string{"manifests/1.json", "manifests/3.json"}, nil, 1},
		{"no final LF", at + "manifests/1.json", []string{"manifests/1.json"}, nil, 1},
		{"wrong number", at + "manifests/7.json\n", []string{"manifests/7.json"}, nil, 1},
		{"back in time", at + "manifests/1.json\n2024-01-01T00:00:00Z manifests/2.json\n", []string{"manifests/1.json", "manifests/2.json"}, nil, 1},
		{"empty", "", nil, nil, 0},
		{"outside", at + "manifests/../secret.json\n" + at + "manifests/2.json\n", []string{"manifests/2.json"}, []string{"1"}, 0},
		{"deeper", at + "manifests/a/1.json\n", nil, []string{"1"}, 0},
		{"elsewhere", at + "../../etc/passwd\n", nil, []string{"1"}, 0},
		{"deep outside", at + `manifests/a/../../../x.json` + "\n", nil, []string{"1"}, 0},
		{"folder", at + "manifests/\n", nil, []string{"1"}, 0},
		{"dot file", at + "manifests/.json\n", nil, []string{"1"}, 0},
		{"no time", "yesterday manifests/1.json\n", nil, []string{"1"}, 0},
		{"no path", "2025-04-08T16:43:07Z\n", nil, []string{"1"}, 0},
		{"short hash", at + hexA[1:] + " manifests/1.json\n", nil, []string{"1"}, 0},
		{"joined", at + "manifests/1.json" + at + "manifests/2.json\n", nil, []string{"1"}, 0},
		{"control", at + "manifests/\x001.json\n", nil, []string{"1"}, 0},
		{"all faults", "a b\nc d\n" + at + "x\n", nil, []string{"1", "2", "3"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := privatemode.ParseLog("log.txt", []byte(tt.in))
			if diff := cmp.Diff(tt.faults, places(t, err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			var got []string
			for _, e := range l.Entries {
				got = append(got, e.Path)
			}
			if diff := cmp.Diff(tt.paths, got); diff != "" {
				t.Errorf("paths (-want +got):\n%s", diff)
			}
			if len(l.Notes) != tt.notes {
				t.Errorf("got notes %v, want %d", l.Notes, tt.notes)
			}
		})
	}
}

func TestWorkspace(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "manifests")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := privatemode.OpenWorkspace(dir); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, privatemode.ErrNoLog) {
		t.Errorf("empty: got %v, want not exist", err)
	}
	write("1.json", "one")
	if _, err := privatemode.OpenWorkspace(dir); !errors.Is(err, privatemode.ErrNoLog) {
		t.Errorf("no log: got %v, want ErrNoLog", err)
	}
	at := "2025-04-08T16:43:07Z "
	write("log.txt", at+"manifests/1.json\n"+at+"manifests/2.json\n"+at+"x\n"+at+"manifests/4.json\n"+at+"manifests/1.json\n")
	write("9.json", "nine")
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(folder, "4.json")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, folder} {
		w, err := privatemode.OpenWorkspace(path)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		entries := func(list []privatemode.LogEntry) (out []int) {
			for _, e := range list {
				out = append(out, e.Line)
			}
			return out
		}
		if diff := cmp.Diff([]string{"9.json"}, w.Unlogged); diff != "" {
			t.Errorf("unlogged (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int{2, 4}, entries(w.Missing)); diff != "" {
			t.Errorf("missing (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int{1}, entries(w.Overwritten)); diff != "" {
			t.Errorf("overwritten (-want +got):\n%s", diff)
		}
		if len(w.Faults) != 1 || w.Faults[0].Line != 3 {
			t.Errorf("got faults %v, want line 3", w.Faults)
		}
		latest, _ := w.Log.Latest()
		if data, err := w.Manifest(latest); err != nil || string(data) != "one" {
			t.Errorf("latest: got %q, %v", data, err)
		}
		if data, err := w.Manifest(w.Missing[1]); err == nil {
			t.Errorf("link to the outside: got %q, want an error", data)
		}
	}
}

func TestCheckout(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	tree := func(version string, names ...string) fstest.MapFS {
		m := fstest.MapFS{"version.nix": file("{ version = \"" + version + "\"; }\n")}
		for _, n := range names {
			m[n] = file("v1.20.0\n")
		}
		return m
	}
	c, err := privatemode.Checkout(tree("v1.40.0", "deployment.yaml", "models.yaml", "contrast-version", "flake.nix", "verity/verity.sh",
		"scripts/calculate-image-digests.sh", "scripts/generate-manifest.sh", "scripts/adjust-manifest.sh", "hashes-h.json", "manifest.json"))
	want := &privatemode.CheckoutInfo{
		Version: "v1.40.0", ContrastVersion: "v1.20.0", Deployment: "deployment.yaml", Models: "models.yaml", ContrastVersionFile: "contrast-version",
		CalculateDigests: "scripts/calculate-image-digests.sh", GenerateManifest: "scripts/generate-manifest.sh", AdjustManifest: "scripts/adjust-manifest.sh",
		Verity: "verity/verity.sh", Flake: "flake.nix", Hashes: []string{"hashes-h.json"}, Manifests: []string{"manifest.json"},
	}
	if diff := cmp.Diff(want, c); err != nil || diff != "" {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	// v1.9.0 had nothing but images; a later tag without its files is odd.
	if c, err = privatemode.Checkout(tree("v1.9.0", "scripts/calculate-image-digests.sh")); err != nil || len(c.Notes) != 0 {
		t.Errorf("v1.9.0: got %v, %v", c, err)
	}
	if c, err = privatemode.Checkout(tree("v1.40.0", "scripts/calculate-image-digests.sh")); err != nil || len(c.Notes) != 6 {
		t.Errorf("v1.40.0 without its files: got %v, %v", c, err)
	}
	for name, m := range map[string]fstest.MapFS{
		"empty": {}, "no scripts": tree("v1.40.0"), "no version": tree("1.40", "scripts/calculate-image-digests.sh"),
		"other nix": {"version.nix": file("import ./x"), "scripts/calculate-image-digests.sh": file("")},
	} {
		if c, err := privatemode.Checkout(m); !errors.Is(err, privatemode.ErrNotCheckout) {
			t.Errorf("%s: got %v, %v, want ErrNotCheckout", name, c, err)
		}
	}
}

func TestNormalizeName(t *testing.T) {
	for in, want := range map[string]string{
		"https://huggingface.co/openai/gpt-oss-120b":  "openai-gpt-oss-120b",
		"https://example.com/A/B..C--d.git":           "a-b-c-d",
		"https://huggingface.co/moonshotai/Kimi-K2.6": "moonshotai-kimi-k2-6",
	} {
		if got := privatemode.NormalizeName(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// Names that are alike once normalised never stand for each other where it is
// not clear which one is meant.
func TestFindModel(t *testing.T) {
	m := &privatemode.Models{File: "m.yaml", Entries: []privatemode.Model{{Key: "a-0.5b", Line: 3}, {Key: "a-0-5b", Line: 5}, {Key: "B.c", Line: 7}}}
	for name, want := range map[string]string{"a-0.5b": "a-0.5b", "a-0-5b": "a-0-5b", "A-0-5B": "", "b-c": "B.c", "x": "", "": ""} {
		got, err := m.Find(name)
		if got.Key != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", name, got.Key, err, want)
		}
	}
}
