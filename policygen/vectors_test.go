package policygen_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/policygen"
)

// registry serves images from blobs/sha256/<hex> and refs.json of a folder.
type registry struct {
	dir  fs.FS
	refs map[string]struct{ Digest, MediaType string }
	// reachable lists the registries that may be asked; nil for all.
	reachable []string
	// url, if any, serves the blobs in place of dir.
	url string
}

func newRegistry(t testing.TB, dir fs.FS) *registry {
	t.Helper()
	r := &registry{dir: dir}
	data, err := fs.ReadFile(dir, "refs.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &r.refs); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *registry) blob(d string) ([]byte, error) {
	hexPart, ok := strings.CutPrefix(d, "sha256:")
	if !ok {
		return nil, fmt.Errorf("digest %q", d)
	}
	if r.url == "" {
		return fs.ReadFile(r.dir, path.Join("blobs/sha256", hexPart))
	}
	resp, err := http.Get(r.url + "/blobs/sha256/" + hexPart)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	return io.ReadAll(resp.Body)
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

func (r *registry) Resolve(_ context.Context, ref policygen.ImageReference) (*policygen.ResolvedImage, error) {
	host := ref.Registry
	if host == "docker.io" {
		host = "index.docker.io"
	}
	if r.reachable != nil && !slices.Contains(r.reachable, host) {
		return nil, fmt.Errorf("registry %s: TLS handshake failed", host)
	}
	want := ref.Digest.String()
	if !ref.Pinned() {
		entry, ok := r.refs[ref.Registry+"/"+ref.Repository+":"+ref.Tag]
		if !ok {
			return nil, errors.New("MANIFEST_UNKNOWN")
		}
		want = entry.Digest
	}
	return r.manifest(want, true)
}

func (r *registry) manifest(want string, index bool) (*policygen.ResolvedImage, error) {
	data, err := r.blob(want)
	if err != nil {
		return nil, err
	}
	var m struct {
		Manifests []descriptor `json:"manifests"`
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if m.Manifests != nil && index {
		for _, e := range m.Manifests {
			if e.Platform != nil && e.Platform.OS == "linux" && e.Platform.Architecture == "amd64" {
				return r.manifest(e.Digest, false)
			}
		}
		return nil, errors.New("no entry for linux/amd64")
	}
	img := &policygen.ResolvedImage{}
	if img.Digest, err = digest.Parse(want); err != nil {
		return nil, err
	}
	if img.Config, err = r.blob(m.Config.Digest); err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		d, err := digest.Parse(l.Digest)
		if err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, policygen.Layer{
			Digest: d, MediaType: l.MediaType, Size: l.Size,
			Open: func(context.Context) (io.ReadCloser, error) {
				data, err := r.blob(l.Digest)
				return io.NopCloser(bytes.NewReader(data)), err
			},
		})
	}
	return img, nil
}

// sum is a sha256 that is one string for our own vectors and one per rules
// file for the published ones.
type sum map[string]string

func (s *sum) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*s = sum{"mini": one}
		return nil
	}
	return json.Unmarshal(data, (*map[string]string)(s))
}

type vector struct {
	Name               string   `json:"name"`
	Settings           string   `json:"settings"`
	Rules              string   `json:"rules"`
	InsecureRegistries []string `json:"insecure_registries"`
	Flags              []string `json:"flags"`
	ConfigFiles        []string `json:"config_files"`
	Initdata           string   `json:"initdata"`
	ExitCode           int      `json:"exit_code"`
	StderrHint         string   `json:"stderr_hint"`
	Stderr             string   `json:"stderr"`
	Policies           []struct {
		PolicyData     string `json:"policy_data"`
		PolicyDataSHA  string `json:"policy_data_sha256"`
		PolicySHA      sum    `json:"policy_sha256"`
		InitdataSHA    sum    `json:"initdata_toml_sha256"`
		AnnotationHash sum    `json:"annotation_sha256"`
	} `json:"policies"`
}

// family is a folder of cases with what they refer to.
type family struct {
	cases, base fs.FS // base holds settings and rules
	images      fs.FS
	kataRules   []byte // nil without RETALLY_KATA_RULES
	miniRules   []byte
}

func (f family) input(t testing.TB, name string) (policygen.Input, vector, error) {
	t.Helper()
	read := func(file string) []byte {
		data, err := fs.ReadFile(f.cases, path.Join(name, file))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var v vector
	if err := json.Unmarshal(read("case.json"), &v); err != nil {
		t.Fatal(err)
	}
	profile, err := policygen.ProfileByName("kata-4.1")
	if err != nil {
		t.Fatal(err)
	}
	reg := newRegistry(t, f.images)
	reg.reachable = v.InsecureRegistries
	in := policygen.Input{
		YAML:    policygen.NamedFile{Name: "input.yaml", Data: read("input.yaml")},
		Rules:   policygen.Rules{Name: "mini.rego", Text: f.miniRules},
		Images:  reg,
		Profile: profile,
	}
	for i := 0; i < len(v.Flags); i++ {
		switch v.Flags[i] {
		case "-s":
			in.Unknown = policygen.IgnoreUnknown
		case "--runtime-class-names":
			i++
			in.RuntimeClasses = append(in.RuntimeClasses, v.Flags[i])
		default:
			t.Fatalf("flag %s of the case is not known to the test", v.Flags[i])
		}
	}
	for _, c := range v.ConfigFiles {
		in.ConfigFiles = append(in.ConfigFiles, policygen.NamedFile{Name: c, Data: read(c)})
	}
	if v.Initdata != "" {
		if in.Base, err = policygen.ParseInitdata(v.Initdata, read(v.Initdata), policygen.KataTOML); err != nil {
			return in, v, err
		}
	}
	dir, err := fs.Sub(f.base, v.Settings)
	if err != nil {
		return in, v, err
	}
	base, dropIns, err := policygen.SettingsFiles(dir)
	if err != nil {
		return in, v, err
	}
	in.Settings, err = policygen.ParseSettings(base, dropIns, profile)
	return in, v, err
}

func hexSum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

var annotationValue = regexp.MustCompile(`(?m)(cc_init_data: )"?([A-Za-z0-9+/=]+)"?$`)

// decoded replaces every annotation value by the hash of the document in it,
// so that two compressors of one text compare equal.
func decoded(t testing.TB, yaml []byte) string {
	return string(annotationValue.ReplaceAllFunc(yaml, func(m []byte) []byte {
		parts := annotationValue.FindSubmatch(m)
		text, err := policygen.DecodeAnnotation(string(parts[2]))
		if err != nil {
			t.Error(err)
		}
		return []byte("cc_init_data: " + hexSum(text))
	}))
}

func (f family) run(t *testing.T) {
	entries, err := fs.ReadDir(f.cases, ".")
	if err != nil {
		t.Fatal(err)
	}
	equal, failed := 0, 0
	for _, e := range entries {
		ok := t.Run(e.Name(), func(t *testing.T) { f.check(t, e.Name(), "mini", f.miniRules) })
		if ok && f.kataRules != nil {
			ok = t.Run(e.Name()+"/kata-rules", func(t *testing.T) { f.check(t, e.Name(), "kata", f.kataRules) })
		}
		if ok {
			equal++
		} else {
			failed++
		}
	}
	t.Logf("%d of %d cases equal", equal, equal+failed)
}

func (f family) check(t *testing.T, name, rules string, text []byte) {
	in, v, err := f.input(t, name)
	in.Rules.Text = text
	var out *policygen.Output
	if err == nil {
		out, err = policygen.Generate(t.Context(), in)
	}
	if v.ExitCode != 0 {
		checkFailure(t, err, v)
		return
	}
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	if got, want := len(out.Policies), len(v.Policies); got != want {
		t.Fatalf("%d policies, want %d", got, want)
	}
	for i := range out.Policies {
		p, w := &out.Policies[i], v.Policies[i]
		if got := hexSum(p.Data); got != w.PolicyDataSHA {
			want, _ := fs.ReadFile(f.cases, path.Join(name, w.PolicyData))
			t.Errorf("policy_data %d (-want +got):\n%s", i, cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(p.Data), "\n")))
		}
		if got := hexSum(p.Text()); got != w.PolicySHA[rules] {
			t.Errorf("policy %d: sha256 %s, want %s", i, got, w.PolicySHA[rules])
		}
		if want := w.InitdataSHA[rules]; want != "" && hexSum(p.Initdata()) != want {
			t.Errorf("initdata %d: sha256 %s, want %s", i, hexSum(p.Initdata()), want)
		}
		unpacked, err := policygen.DecodeAnnotation(p.Annotation)
		if err != nil || !bytes.Equal(unpacked, p.Initdata()) {
			t.Errorf("annotation %d does not unpack to the initdata document: %v", i, err)
		}
	}
	if rules == "mini" {
		want, err := fs.ReadFile(f.cases, path.Join(name, "stdout.mini.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(decoded(t, want), "\n"), strings.Split(decoded(t, out.YAML), "\n")); diff != "" {
			t.Errorf("output YAML (-want +got):\n%s", diff)
		}
	}
}

// checkFailure wants an error of our own for every failure of the reference:
// with file, line and column where there is a place, and one of the
// guest-pull kind where the reference exits with 1.
func checkFailure(t *testing.T, err error, v vector) {
	if err == nil {
		t.Fatalf("no error, want one: the reference exits with %d: %s%s", v.ExitCode, v.StderrHint, v.Stderr)
	}
	var list policygen.Problems
	if !errors.As(err, &list) {
		if strings.HasPrefix(v.Settings, "settings/nonexistent") {
			return
		}
		t.Fatalf("error %v has type %T, want Problems", err, err)
	}
	if v.ExitCode == 1 {
		if !slices.ContainsFunc(list, func(p policygen.Problem) bool { return p.Kind == policygen.GuestPull }) {
			t.Errorf("no guest-pull problem, want one:\n%v", err)
		}
	} else if list.Only(policygen.GuestPull) {
		t.Errorf("only guest-pull problems, want another:\n%v", err)
	}
	for _, p := range list {
		if p.File == "" || p.Message == "" || p.File == "input.yaml" && p.Line == 0 {
			t.Errorf("problem without a place: %+v", p)
		}
	}
	t.Log(err)
}

func publishedFamily(t *testing.T, cases string) family {
	own := testenv.Vectors(t, "own/policy")
	published := testenv.Vectors(t, "published/kata")
	f := family{cases: os.DirFS(path.Join(published, cases)), base: os.DirFS(published), images: os.DirFS(path.Join(own, "images"))}
	var err error
	if f.miniRules, err = os.ReadFile(path.Join(own, "rules/mini.rego")); err != nil {
		t.Fatal(err)
	}
	if name := os.Getenv("RETALLY_KATA_RULES"); name != "" {
		if f.kataRules, err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		if got, want := hexSum(f.kataRules), "a1ad4280a7d1db83649de18640fb30f08cc160fadd7f4360d1dde09977b090b7"; got != want {
			t.Fatalf("RETALLY_KATA_RULES has sha256 %s, want %s", got, want)
		}
	}
	return f
}

func TestOwnVectors(t *testing.T) {
	own := testenv.Vectors(t, "own/policy")
	f := publishedFamily(t, "cases")
	f.cases, f.base, f.kataRules = os.DirFS(path.Join(own, "cases")), os.DirFS(own), nil
	f.run(t)
}

func TestPublishedVectors(t *testing.T) { publishedFamily(t, "cases").run(t) }

func TestOwnInputVectors(t *testing.T) { publishedFamily(t, "cases-own-input").run(t) }
