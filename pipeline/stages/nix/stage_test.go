package nix_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/nix/nar"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/gate"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// lab is a folder with a flake that makes an image, a link farm of images, and
// what only looks like one; and a deployment that pins the image.
type lab struct {
	dir, digest, busybox string
}

const flakeText = `{
  outputs = { self }:
    let
      drv = name: script: extra: derivation ({ inherit name; system = "SYSTEM"; builder = "/bin/sh"; args = [ "-ec" script ]; PATH = "/bin"; } // extra);
      layout = builtins.path { path = ./layout; name = "layout"; };
      proxy = drv "proxy" "cp -r ${layout} $out" { };
      # Differs from build to build, as one whose builder was paid for it.
      odd = drv "odd" "cp -r ${layout} $out; chmod -R u+w $out; read x < /proc/sys/kernel/random/uuid; echo $x > $out/extra" { };
      fixed = drv "fixed" "cp -r ${layout} $out" { outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputHash = "NARHASH"; };
      chain = drv "chain" "ln -s ${proxy} $out" { };
      fails = drv "fails" "echo no; exit 3" { };
    in {
      packages.SYSTEM = {
        inherit proxy odd fixed fails;
        farm = drv "farm" "mkdir $out; ln -s ${proxy} $out/proxy; ln -s ${odd} $out/odd; ln -s ${layout} $out/source; ln -s ${fixed} $out/fixed; ln -s ${chain} $out/chain; ln -s /etc $out/out-of-store; ln -s ${proxy}/../../../etc $out/dots; cp -r ${layout} $out/inside" { };
      };
    };
}
`

func newLab(t *testing.T) *lab {
	t.Helper()
	testenv.Oracle(t, "nix")
	l := &lab{dir: t.TempDir(), busybox: testenv.Oracle(t, "busybox")}
	t.Cleanup(func() {
		_ = filepath.WalkDir(l.dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	l.digest = layout(t, filepath.Join(l.dir, "flake", "layout"))
	tree, err := nar.Hash(context.Background(), filepath.Join(l.dir, "flake", "layout"), nar.Options{})
	if err != nil {
		t.Fatal(err)
	}
	system := map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux"}[runtime.GOARCH]
	l.put(t, "flake/flake.nix", strings.NewReplacer("SYSTEM", system, "NARHASH", tree.SRI()).Replace(flakeText))
	l.put(t, "deployment.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {runtimeClassName: contrast-cc-metal, containers: [{name: c, image: \"r.example/p/proxy@"+l.digest+"\"}]}\n")
	return l
}

func (l *lab) put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func layout(t *testing.T, dir string) string {
	t.Helper()
	blob := func(data []byte) (string, int) {
		sum := sha256.Sum256(data)
		path := filepath.Join(dir, "blobs", "sha256", hex.EncodeToString(sum[:]))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return "sha256:" + hex.EncodeToString(sum[:]), len(data)
	}
	layer, layerSize := blob(make([]byte, 1024))
	conf, confSize := blob(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer))
	manifest, size := blob(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, conf, confSize, layer, layerSize))
	for name, text := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, manifest, size),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return manifest
}

// run executes a whole configuration and holds it against a policy.
func (l *lab) run(t *testing.T, image, extra, policy string, o run.Options) *run.Result {
	t.Helper()
	text := "version: 1\ndeployment: deployment.yaml\nnix:\n  STOREsandbox_paths: [/bin/sh=" + l.busybox + ", /bin/cp=" + l.busybox + ", /bin/mkdir=" + l.busybox + ", /bin/ln=" + l.busybox + ", /bin/chmod=" + l.busybox + ", " + l.busybox + "]\n" + extra + "images:\n  proxy: {" + image + "}\n"
	store := "store: .retally-nix\n  "
	if strings.Contains(extra, "store:") {
		store = ""
	}
	text = strings.Replace(text, "STORE", store, 1)
	cfg, err := run.ParseConfig(stages.Table(), "retally.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o.Root = l.dir
	res, err := run.Run(context.Background(), stages.Table(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	p := gate.Strict()
	if policy != "" {
		if p, err = gate.Parse("gate.yaml", []byte("version: 1\n"+policy)); err != nil {
			t.Fatal(err)
		}
	}
	gate.Judge(res.Report, p, gate.Case{At: time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)})
	return res
}

func code(r *pipeline.Report, want string) *pipeline.Problem {
	i := slices.IndexFunc(r.Problems, func(p pipeline.Problem) bool { return p.Code == want })
	if i < 0 {
		return nil
	}
	return &r.Problems[i]
}

const key = pipeline.Key("image/proxy/manifest")

func finding(r *pipeline.Report) pipeline.Finding {
	i := slices.IndexFunc(r.Findings, func(f pipeline.Finding) bool { return f.Key == key })
	if i < 0 {
		return pipeline.Finding{}
	}
	return r.Findings[i]
}

const demand = "basis: [{keys: 'image/**', at_least: rebuilt}]\n"

// TestRebuilt: an image that was built here is known as rebuilt, each time, and
// the gate demands it. What only looks like one shuts the gate, at its line.
func TestRebuilt(t *testing.T) {
	l := newLab(t)
	store, err := cache.Open(filepath.Join(l.dir, "cache"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res := l.run(t, "nix: 'path:flake#farm', entry: proxy", "", demand, run.Options{Cache: store, Build: "x"})
		f := finding(res.Report)
		if res.Report.Outcome != pipeline.OutcomeMatch || f.Verdict != pipeline.Match || f.Standing.Effective != pipeline.Rebuilt {
			t.Fatalf("%s %+v %+v", res.Report.Outcome, f, res.Report.Problems)
		}
		if slices.Contains(res.Reused, "nix") || slices.Contains(res.Reused, "images") {
			t.Errorf("reused: %v", res.Reused)
		}
	}
	if res := l.run(t, "nix: 'path:flake#proxy'", "", demand, run.Options{}); res.Report.Outcome != pipeline.OutcomeMatch {
		t.Errorf("the output itself: %s %+v", res.Report.Outcome, res.Report.Problems)
	}
	if res := l.run(t, "nix: 'path:flake#farm', entry: inside", "", demand, run.Options{}); res.Report.Outcome != pipeline.OutcomeMatch {
		t.Errorf("a folder in the output: %s %+v", res.Report.Outcome, res.Report.Problems)
	}
	for image, want := range map[string]string{
		"nix: 'path:flake#farm', entry: source":       "nix-not-rebuilt",
		"nix: 'path:flake#farm', entry: fixed":        "nix-not-rebuilt",
		"nix: 'path:flake#fixed'":                     "nix-not-rebuilt",
		"nix: 'path:flake#farm', entry: out-of-store": "nix-trouble",
		"nix: 'path:flake#farm', entry: dots":         "nix-trouble",
		"nix: 'path:flake#farm', entry: chain":        "nix-trouble",
		"nix: 'path:flake#farm', entry: nothing":      "nix-trouble",
		"nix: 'path:flake#fails'":                     "nix-failed",
		"nix: 'path:flake#odd'":                       "nix-not-deterministic", // it lies in the store
	} {
		r := l.run(t, image, "", "", run.Options{}).Report
		p := code(r, want)
		if r.Outcome != pipeline.OutcomeDenied || p == nil || p.Where.Line != 7 || p.Where.File != config.FileName {
			t.Errorf("%s: %s, want %s at line 7: %+v", image, r.Outcome, want, r.Problems)
		}
		if f := finding(r); f.Standing.Effective == pipeline.Rebuilt {
			t.Errorf("%s: counts as rebuilt", image)
		}
	}
}

// TestTamperedStore: bytes that are changed in the store are found, although Nix
// says that all is well, and its second build is the same.
func TestTamperedStore(t *testing.T) {
	l := newLab(t)
	const image = "nix: 'path:flake#farm', entry: proxy"
	if res := l.run(t, image, "", "", run.Options{}); res.Report.Outcome != pipeline.OutcomeMatch {
		t.Fatalf("%s %+v", res.Report.Outcome, res.Report.Problems)
	}
	files, err := filepath.Glob(filepath.Join(l.dir, ".retally-nix/nix/store/*-proxy/index.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	// The image stays the pinned one: a space more in its index.
	if err := os.Chmod(files[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], append(text, ' '), 0o644); err != nil {
		t.Fatal(err)
	}
	r := l.run(t, image, "", "", run.Options{}).Report
	if r.Outcome != pipeline.OutcomeDenied || code(r, "nix-tampered") == nil || finding(r).Standing.Effective == pipeline.Rebuilt {
		t.Errorf("%s %+v", r.Outcome, r.Problems)
	}
}

// TestSubstitutedImage: what a cache gives is not what is built here. Of an input
// that it gave the gate wants a leave; of an image that cannot be built again it
// takes none.
func TestSubstitutedImage(t *testing.T) {
	l := newLab(t)
	if res := l.run(t, "nix: 'path:flake#farm', entry: proxy", "", "", run.Options{}); res.Report.Outcome != pipeline.OutcomeMatch {
		t.Fatalf("%s %+v", res.Report.Outcome, res.Report.Problems)
	}
	nix := func(args ...string) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "HOME="+l.dir, "NIX_CONFIG=experimental-features = nix-command flakes\nsubstituters =\nbuild-users-group =")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	secret := filepath.Join(l.dir, "key")
	nix("nix-store", "--generate-binary-cache-key", "vendor-1", secret, secret+".pub")
	pub, err := os.ReadFile(secret + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	farms, err := filepath.Glob(filepath.Join(l.dir, ".retally-nix/nix/store/*-farm"))
	if err != nil || len(farms) != 1 {
		t.Fatal(farms, err)
	}
	nix("nix", "--store", filepath.Join(l.dir, ".retally-nix"), "copy", "--to", "file://"+l.dir+"/vendor?secret-key="+secret, strings.TrimPrefix(farms[0], filepath.Join(l.dir, ".retally-nix")))
	cached := "  store: second\n  substituters: ['file://" + l.dir + "/vendor']\n  trusted_keys: ['" + strings.TrimSpace(string(pub)) + "']\n"
	const image = "nix: 'path:flake#farm', entry: proxy"
	r := l.run(t, image, cached, "", run.Options{}).Report
	if r.Outcome != pipeline.OutcomeDenied || code(r, "nix-inputs-fetched") == nil || code(r, "gate-warning") == nil {
		t.Errorf("fetched inputs: %s %+v", r.Outcome, r.Problems)
	}
	if f := finding(r); f.Standing.Effective != pipeline.Rebuilt {
		t.Errorf("the image itself was built again here: %+v", f)
	}
	// The vendor's odd image differs from every build of it.
	if r = l.run(t, "nix: 'path:flake#farm', entry: odd", strings.Replace(cached, "second", "third", 1), "", run.Options{}).Report; r.Outcome != pipeline.OutcomeDenied || code(r, "nix-not-deterministic") == nil {
		t.Errorf("a substituted image that cannot be built: %s %+v", r.Outcome, r.Problems)
	}
}

func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"images: {a: {nix: x}}":                                                          "names no attribute",
		"images: {a: {nix: '--impure#x'}}":                                               "no single word",
		"images: {a: {nix: 'path:.#x', entry: a/b}}":                                     "no name in a folder",
		"images: {a: {oci: x, entry: b}}":                                                "entry without nix",
		"images: {a: {nix: 'path:.#x', oci: x}}":                                         "exactly one",
		"images: {a: {oci: x}}\nnix: {store: s}":                                         "nothing is built",
		"images: {a: {nix: 'path:.#x'}}\nnix: {settings: {sandbox: 'false'}}":            "cannot be set here",
		"images: {a: {nix: 'path:.#x'}}\nnix: {substituters: ['a b']}":                   "no single word",
		"images: {a: {nix: 'path:.#x'}}\nnix: {store: 'x?trusted=1'}":                    "cannot be a store",
		"images: {a: {nix: 'path:.#x'}}\nnix: {overrides: {nixpkgs: '--option'}}":        "no single word",
		"images: {a: {nix: 'path:.#x'}}\nnix: {sandbox_paths: [etc]}":                    "want /INSIDE=/OUTSIDE",
		"images: {a: {nix: 'path:.#x'}}\nnix: {sandbox: false}":                          "sandbox",
		"images: {a: {nix: 'path:.#x'}}\nnix: {trusted_keys: [\"k:A\\nsandbox=false\"]}": "control character",
	} {
		_, err := run.ParseConfig(stages.Table(), "retally.yaml", []byte("version: 1\n"+text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
