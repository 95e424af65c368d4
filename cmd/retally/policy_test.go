package main

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
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/policytest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/pipeline/stages/policies/decide"
	"github.com/retally/retally/policygen"
)

// commandLine is a run of the program in process.
type commandLine struct {
	env   map[string]string
	stdin string
}

func (c commandLine) run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = execute(t.Context(), args, func(k string) string { return c.env[k] }, strings.NewReader(c.stdin), &out, &errOut)
	return code, out.String(), errOut.String()
}

// policySum is a sha256 that is one string for our own vectors and one for each
// rules file for the published ones.
type policySum map[string]string

func (s *policySum) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*s = policySum{"mini": one}
		return nil
	}
	return json.Unmarshal(data, (*map[string]string)(s))
}

type policyVector struct {
	Settings           string   `json:"settings"`
	InsecureRegistries []string `json:"insecure_registries"`
	Flags              []string `json:"flags"`
	ConfigFiles        []string `json:"config_files"`
	Initdata           string   `json:"initdata"`
	ExitCode           int      `json:"exit_code"`
	StderrHint         string   `json:"stderr_hint"`
	Policies           []struct {
		PolicyData    string    `json:"policy_data"`
		PolicyDataSHA string    `json:"policy_data_sha256"`
		PolicySHA     policySum `json:"policy_sha256"`
		InitdataSHA   policySum `json:"initdata_toml_sha256"`
	} `json:"policies"`
}

// policyFamily is a folder of cases with what they refer to.
type policyFamily struct{ cases, base, rules string }

// args are the flags of a case.
func (f policyFamily) args(t testing.TB, name, registry string) (policyVector, []string) {
	t.Helper()
	dir := filepath.Join(f.cases, name)
	data, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v policyVector
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"policy", "generate", "-f", "-", "--parity", "kata-4.1", "--rules", f.rules, "--settings", filepath.Join(f.base, filepath.FromSlash(v.Settings)),
		"--retries", "0", "--timeout", "5s", "-o", "json", "--mirror", "*=127.0.0.1:1",
	}
	for _, host := range v.InsecureRegistries {
		args = append(args, "--mirror", host+"="+registry)
	}
	for i := 0; i < len(v.Flags); i++ {
		switch v.Flags[i] {
		case "-s":
			args = append(args, "--ignore-unknown")
		case "--runtime-class-names":
			i++
			args = append(args, "--runtime-class", v.Flags[i])
		default:
			t.Fatalf("flag %s of the case is not known to the test", v.Flags[i])
		}
	}
	for _, c := range v.ConfigFiles {
		args = append(args, "--config-file", filepath.Join(dir, c))
	}
	if v.Initdata != "" {
		args = append(args, "--initdata", filepath.Join(dir, v.Initdata))
	}
	return v, args
}

func hexOf(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

var policyAnnotation = regexp.MustCompile(`(?m)(cc_init_data: )"?([A-Za-z0-9+/=]+)"?$`)

// unpacked replaces every annotation value by the hash of the document in it,
// so that two compressors of one text compare equal.
func unpacked(t testing.TB, yaml []byte) string {
	t.Helper()
	return string(policyAnnotation.ReplaceAllFunc(yaml, func(m []byte) []byte {
		text, err := policygen.DecodeAnnotation(string(policyAnnotation.FindSubmatch(m)[2]))
		if err != nil {
			t.Error(err)
		}
		return []byte("cc_init_data: " + hexOf(text))
	}))
}

func (f policyFamily) run(t *testing.T, images string, want int) {
	registry := policytest.NewRegistry(t, images)
	cache := t.TempDir()
	entries, err := os.ReadDir(f.cases)
	if err != nil {
		t.Fatal(err)
	}
	outputs, failures := 0, 0
	for _, e := range entries {
		failed := false
		if t.Run(e.Name(), func(t *testing.T) { failed = f.check(t, e.Name(), registry.Addr(), cache) }) {
			if failed {
				failures++
			} else {
				outputs++
			}
		}
	}
	t.Logf("%d of %d cases equal: %d outputs, %d failures", outputs+failures, len(entries), outputs, failures)
	if len(entries) != want {
		t.Errorf("%d cases, want %d", len(entries), want)
	}
}

// check runs one case and reports whether it is one that must fail.
func (f policyFamily) check(t *testing.T, name, registry, cache string) bool {
	v, args := f.args(t, name, registry)
	input, err := os.ReadFile(filepath.Join(f.cases, name, "input.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	code, stdout, stderr := commandLine{map[string]string{"RETALLY_CACHE": cache}, string(input)}.run(t, append(args, "--out", out)...)
	if v.ExitCode != 0 {
		wantCode := 2
		// The reference stops at its check of guest pull; where other faults
		// come after, they weigh more here.
		if v.ExitCode == 1 && strings.Count(stdout, `"kind": "guest-pull"`) == strings.Count(stdout, `"class": `) {
			wantCode = 1
		}
		checkPolicyFailure(t, code, wantCode, stdout, stderr, out)
		return true
	}
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	var rows []policies.Row
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(v.Policies) {
		t.Fatalf("%d policies, want %d", len(rows), len(v.Policies))
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for i, w := range v.Policies {
		row := rows[i]
		data, err := os.ReadFile(filepath.Join(f.cases, name, w.PolicyData))
		if err != nil {
			t.Fatal(err)
		}
		if got := read(row.Files["policy_data"]); string(got) != string(data) {
			t.Errorf("policy_data %d (-want +got):\n%s", i, cmp.Diff(strings.Split(string(data), "\n"), strings.Split(string(got), "\n")))
		}
		for _, h := range []struct{ what, file, printed, want string }{
			{"policy_data", "policy_data", row.DataSHA256, w.PolicyDataSHA},
			{"policy", "policy", row.PolicySHA256, w.PolicySHA["mini"]},
			{"initdata", "initdata", row.InitdataSHA256, w.InitdataSHA["mini"]},
		} {
			if h.want == "" {
				continue // the reference's order of initdata keys is random
			}
			if got := hexOf(read(row.Files[h.file])); got != h.want || h.printed != h.want {
				t.Errorf("%s %d: written %s, printed %s, want %s", h.what, i, got, h.printed, h.want)
			}
		}
		if text, err := policygen.DecodeAnnotation(row.Annotation); err != nil || hexOf(text) != row.InitdataSHA256 {
			t.Errorf("annotation %d does not unpack to the initdata document: %v", i, err)
		}
	}
	want, err := os.ReadFile(filepath.Join(f.cases, name, "stdout.mini.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(unpacked(t, want), "\n"), strings.Split(unpacked(t, read("stdin.annotated.yaml")), "\n")); diff != "" {
		t.Errorf("output YAML (-want +got):\n%s", diff)
	}
	return false
}

// checkPolicyFailure wants an error object with places and an untouched folder.
func checkPolicyFailure(t *testing.T, code, want int, stdout, stderr, out string) {
	t.Helper()
	var e struct {
		Error struct {
			Code    int
			Op      string
			Message string
		}
		Problems []struct {
			File, Message, Kind, Class string
			Line                       int
		}
	}
	if err := json.Unmarshal([]byte(stdout), &e); err != nil {
		t.Fatalf("no error object: %v\n%s%s", err, stdout, stderr)
	}
	if code != want || e.Error.Code != want || e.Error.Op == "" || e.Error.Message == "" {
		t.Errorf("exit code %d, error %+v, want code %d", code, e.Error, want)
	}
	for _, p := range e.Problems {
		if p.File == "" || p.Message == "" || p.Class == "" || p.File == "stdin" && p.Line == 0 {
			t.Errorf("problem without a place: %+v", p)
		}
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of --out is there after a failure: %v", err)
	}
}

// TestPolicyVectors runs every policy vector through the command line. The
// first family is in the repository; the others are read in place.
func TestPolicyVectors(t *testing.T) {
	testenv.OwnSpeed(t)
	t.Run("own", func(t *testing.T) {
		dir := policytest.Unpack(t)
		f := policyFamily{filepath.Join(dir, "cases"), dir, filepath.Join(dir, "rules", "mini.rego")}
		f.run(t, filepath.Join(dir, "images"), 138)
	})
	for name, want := range map[string]int{"cases": 197, "cases-own-input": 138} {
		t.Run(name, func(t *testing.T) {
			own, published := testenv.Vectors(t, "own/policy"), testenv.Vectors(t, "published/kata")
			f := policyFamily{filepath.Join(published, name), published, filepath.Join(own, "rules", "mini.rego")}
			f.run(t, filepath.Join(own, "images"), want)
		})
	}
}

// TestPolicyFetchesOnce counts the requests for Privatemode's deployment: every
// blob once, and no layer in a second run.
func TestPolicyFetchesOnce(t *testing.T) {
	own, published := testenv.Vectors(t, "own/policy"), testenv.Vectors(t, "published/kata")
	f := policyFamily{filepath.Join(published, "cases"), published, filepath.Join(own, "rules", "mini.rego")}
	registry := policytest.NewRegistry(t, filepath.Join(own, "images"))
	_, args := f.args(t, "privatemode-noguestpull", registry.Addr())
	input, err := os.ReadFile(filepath.Join(f.cases, "privatemode-noguestpull", "input.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c := commandLine{map[string]string{"RETALLY_CACHE": t.TempDir()}, string(input)}
	layers := layerDigests(t, registry.Dir)
	for _, run := range []string{"cold", "warm"} {
		code, stdout, stderr := c.run(t, args...)
		if code != 0 {
			t.Fatalf("%s: exit code %d\n%s%s", run, code, stdout, stderr)
		}
		total, read := 0, 0
		counts := registry.Counts()
		for _, what := range slices.Sorted(maps.Keys(counts)) {
			total += counts[what]
			if counts[what] > 1 {
				t.Errorf("%s: %s was asked for %d times", run, what, counts[what])
			}
			if layers[strings.TrimPrefix(what, "blobs ")] {
				read++
			}
		}
		t.Logf("%s: %d requests, %d of them for layers", run, total, read)
		if (read > 0) != (run == "cold") {
			t.Errorf("%s: %d layers were fetched", run, read)
		}
	}
}

// layerDigests finds the layers of all manifests in a folder of blobs.
func layerDigests(t *testing.T, dir string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	list, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range list {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ Layers []struct{ Digest string } }
		if json.Unmarshal(data, &m) == nil {
			for _, l := range m.Layers {
				out[l.Digest] = true
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("no layers among the vectors")
	}
	return out
}

// TestPolicyRequests asks kata's request cases through the command line; state
// carries over within a file.
func TestPolicyRequests(t *testing.T) {
	root := testenv.Vectors(t, "published/kata/policy-testdata")
	var files []string
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "inputs.jsonl" {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cases, equal := 0, 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want []bool
		all := true
		for line := range strings.Lines(string(data)) {
			var c struct{ Allowed bool }
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatal(err)
			}
			want, all = append(want, c.Allowed), all && c.Allowed
		}
		code, stdout, stderr := commandLine{}.run(t, "policy", "check", "--policy", filepath.Join(filepath.Dir(file), "policy_data.json"), "--request", file, "-o", "json")
		var got decide.Decisions
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatalf("%s: %v\n%s%s", file, err, stdout, stderr)
		}
		if (code == 0) != all || code > 1 {
			t.Errorf("%s: exit code %d, all allowed: %v", file, code, all)
		}
		if len(got.Decisions) != len(want) {
			t.Fatalf("%s: %d decisions, want %d", file, len(got.Decisions), len(want))
		}
		for i, d := range got.Decisions {
			cases++
			switch {
			case d.Allowed != want[i]:
				t.Errorf("%s: %s: allowed %v, want %v", file, d.Description, d.Allowed, want[i])
			case !d.Allowed && len(d.Reasons) == 0 && d.Note == "":
				t.Errorf("%s: %s: denied without a reason", file, d.Description)
			default:
				equal++
			}
		}
	}
	t.Logf("%d of %d decisions equal", equal, cases)
	if cases != 77 {
		t.Errorf("%d cases, want 77", cases)
	}
}

// yamlStream makes a long YAML text without holding it.
type yamlStream struct {
	head, line string
	left       int
	read       int64
}

func (y *yamlStream) Read(p []byte) (int, error) {
	if y.head == "" {
		if y.left == 0 {
			return 0, io.EOF
		}
		y.left--
		y.head = y.line
	}
	n := copy(p, y.head)
	y.head = y.head[n:]
	y.read += int64(n)
	return n, nil
}

// TestPolicyHostileYAML gives what would cost too much: a clear error, exit
// code 2, nothing written.
func TestPolicyHostileYAML(t *testing.T) {
	dir := policytest.Unpack(t)
	const pod = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
	bomb := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'l'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	tests := []struct {
		name, wantErr string
		text          *yamlStream
	}{
		{"100 MB", "more than 16777216 bytes", &yamlStream{line: "# " + strings.Repeat("x", 1021) + "\n", left: 100 << 10}},
		{"10,001 documents", "documents", &yamlStream{line: pod, left: 10_001}},
		{"aliases of aliases", "stdin:", &yamlStream{head: "apiVersion: v1\nkind: Pod\n" + bomb}},
		{"an alias in itself", "stdin:", &yamlStream{head: "apiVersion: v1\nkind: Pod\nmetadata: &m {name: a, labels: *m}\n"}},
		{"deep nesting", "stdin:", &yamlStream{head: "apiVersion: v1\nkind: Pod\nspec: " + deep + "\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			target := filepath.Join(t.TempDir(), "out")
			code := execute(t.Context(), []string{
				"policy", "generate", "-f", "-", "--settings", filepath.Join(dir, "settings", "own"), "--images", filepath.Join(dir, "cases"), "--out", target, "--no-cache",
			}, func(string) string { return "" }, tt.text, &out, &errOut)
			if code != 2 || !strings.Contains(errOut.String(), tt.wantErr) || out.Len() > 0 {
				t.Errorf("exit code %d, stdout %d bytes, stderr %.300q; want 2 and %q", code, out.Len(), errOut.String(), tt.wantErr)
			}
			if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
			if tt.text.read > 17<<20 {
				t.Errorf("%d bytes were read", tt.text.read)
			}
		})
	}
	// The largest number of documents that is taken is taken.
	var out, errOut bytes.Buffer
	code := execute(t.Context(), []string{"policy", "generate", "-f", "-", "--settings", filepath.Join(dir, "settings", "own"), "--images", dir, "--no-cache", "-o", "json"},
		func(string) string { return "" }, &yamlStream{line: pod, left: 10_000}, &out, &errOut)
	if code != 0 || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("10,000 documents: exit code %d, %.200q %.200q", code, out.String(), errOut.String())
	}
}

// TestPolicyBadRegistry asks registries that hang, lie, redirect away and fail.
func TestPolicyBadRegistry(t *testing.T) {
	dir := policytest.Unpack(t)
	good := policytest.NewRegistry(t, filepath.Join(dir, "images"))
	release := make(chan struct{})
	defer close(release)
	hang := func(req *http.Request) {
		select {
		case <-req.Context().Done():
		case <-release:
		}
	}
	only := func(part string, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, part) {
				h(w, req)
				return
			}
			good.ServeHTTP(w, req)
		}
	}
	elsewhere := httptest.NewServer(good)
	defer elsewhere.Close()
	tests := []struct {
		name, wantErr string
		handler       http.HandlerFunc
	}{
		{"hangs at once", "imeout", func(_ http.ResponseWriter, req *http.Request) { hang(req) }},
		{"hangs at the manifest", "imeout", only("/manifests/", func(_ http.ResponseWriter, req *http.Request) { hang(req) })},
		{"stalls inside a blob", "stalled", only("/blobs/", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, "{")
			w.(http.Flusher).Flush()
			hang(req)
		})},
		{"lies about a manifest", "sha256", only("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
			_, _ = io.WriteString(w, `{"schemaVersion":2}`)
		})},
		{"lies about a blob", "size-mismatch", only("/blobs/", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"architecture":"amd64"}`)
		})},
		{"redirects away", "redirect", only("/blobs/", func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, elsewhere.URL+req.URL.Path, http.StatusTemporaryRedirect)
		})},
		{"fails", "500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"fails later", "Internal Server Error", only("/blobs/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })},
		{"not there", "no manifest", only("/manifests/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })},
	}
	input := filepath.Join(dir, "cases", "kind-deployment", "input.yaml")
	before, err := os.ReadFile(input)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			out := filepath.Join(t.TempDir(), "out")
			code, stdout, stderr := commandLine{}.run(t, "policy", "generate", "-f", input, "--settings", filepath.Join(dir, "settings", "own"), "--image-binding", "off",
				"--mirror", "*="+strings.TrimPrefix(server.URL, "http://"), "--timeout", "300ms", "--retries", "1", "--no-cache", "--out", out)
			if code != 2 || stdout != "" || !strings.Contains(stderr, tt.wantErr) || !strings.Contains(stderr, "input.yaml:") {
				t.Errorf("exit code %d, stdout %q, want 2 and %q in:\n%s", code, stdout, tt.wantErr, stderr)
			}
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
	if after, err := os.ReadFile(input); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the input was changed: %v", err)
	}
}

// TestPolicyInterrupted ends a run that waits for a registry.
func TestPolicyInterrupted(t *testing.T) {
	dir := policytest.Unpack(t)
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		cancel()
		<-req.Context().Done()
	}))
	defer server.Close()
	var out, errOut bytes.Buffer
	code := execute(ctx, []string{
		"policy", "generate", "-f", filepath.Join(dir, "cases", "kind-deployment", "input.yaml"), "--settings", filepath.Join(dir, "settings", "own"), "--image-binding", "off",
		"--mirror", "*=" + strings.TrimPrefix(server.URL, "http://"), "--no-cache",
	}, func(string) string { return "" }, strings.NewReader(""), &out, &errOut)
	if code != 130 || out.Len() > 0 {
		t.Errorf("exit code %d, want 130\n%s%s", code, out.String(), errOut.String())
	}
}
