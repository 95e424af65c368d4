package nix_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/nix"
)

// open makes a store for a test: the sandbox gets busybox as its shell, as the
// test flake wants it.
func open(t *testing.T, o nix.Options) *nix.Nix {
	t.Helper()
	testenv.Oracle(t, "nix")
	busybox := testenv.Oracle(t, "busybox")
	if o.Store == "" {
		o.Store = filepath.Join(t.TempDir(), "store")
	}
	store := o.Store
	t.Cleanup(func() {
		_ = filepath.WalkDir(store, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(p, 0o755) // a store is read-only; what stays, TempDir reports
			}
			return nil
		})
	})
	o.SandboxPaths = []string{"/bin/sh=" + busybox, busybox}
	n, err := nix.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func flake(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "own/nix/nix-flake"), "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return "path:" + dir
}

// TestBuild: a real Nix builds the test flake; the path and the hash are those
// that every machine gets.
func TestBuild(t *testing.T) {
	n, f := open(t, nix.Options{Timeout: 2 * time.Second}), flake(t)
	for _, tt := range []struct{ attr, path, sri string }{
		{"good", "/nix/store/sk7j520zar7izik3zpq4rm50cnsc1pf6-good", "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM="},
		{"tree", "/nix/store/gw9k7fzjswy3fsjlcnjf01inwj9w30pp-tree", "sha256-iyUgDTBovdLxVgZQGn5bwKCa5yUmHztmF1sm0u0Aujg="},
		{"fod-ok", "", ""},
	} {
		r, err := n.Build(context.Background(), f+"#"+tt.attr)
		if err != nil {
			t.Fatal(err)
		}
		o := r.Outputs[0]
		if o.Origin != nix.BuiltHere || o.Tampered() || tt.path != "" && (o.Path != tt.path || o.Tree.SRI() != tt.sri) {
			t.Errorf("%s: %s %s %s, recorded %s", tt.attr, o.Origin, o.Path, o.Tree.SRI(), o.Recorded)
		}
		if o.Fixed != (tt.attr == "fod-ok") {
			t.Errorf("%s: fixed %v", tt.attr, o.Fixed)
		}
	}
	r, err := n.Build(context.Background(), f+"#multi")
	if err != nil || len(r.Outputs) != 2 || r.Outputs[0].Name != "dev" || r.Outputs[1].Name != "out" {
		t.Errorf("multi: %+v, %v", r, err)
	}
	for attr, want := range map[string]nix.Class{"fails": nix.Failed, "fod-bad": nix.HashMismatch, "hangs": nix.TimedOut, "none": nix.Trouble} {
		_, err := n.Build(context.Background(), f+"#"+attr)
		var be *nix.BuildError
		if !errors.As(err, &be) || be.Class != want {
			t.Errorf("%s: %v, want %s", attr, err, want)
		}
		if attr == "none" && !strings.Contains(fmt.Sprint(be.Said), "its packages are bad-time, bad-uuid") {
			t.Errorf("none: %q", be.Said)
		}
		if attr == "fails" && err != nil && !slices.Contains(be.Tail, "before") {
			t.Errorf("fails: the builder's last lines are %q", be.Tail)
		}
	}
}

// TestTwice: two stores show what one cannot.
func TestTwice(t *testing.T) {
	f := flake(t)
	a, b := open(t, nix.Options{}), open(t, nix.Options{})
	for attr, want := range map[string]string{"good": "", "tree": "", "bad-uuid": " content", "bad-time": "stamp content"} {
		r, err := nix.Twice(context.Background(), a, b, f+"#"+attr)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range r.Differs {
			for _, c := range d.Changes {
				got = append(got, c.Path+" "+c.What)
			}
		}
		if strings.Join(got, ",") != want {
			t.Errorf("%s: %q, want %q", attr, got, want)
		}
	}
	if _, err := nix.Twice(context.Background(), a, a, f+"#good"); err == nil {
		t.Error("one store counts as two")
	}
}

// TestTampered: a byte that is changed in the store is found, though Nix says
// that all is well; and an output that lies in the store already is built again.
func TestTampered(t *testing.T) {
	n, f := open(t, nix.Options{}), flake(t)
	r, err := n.Build(context.Background(), f+"#good")
	if err != nil {
		t.Fatal(err)
	}
	file := r.Outputs[0].Real
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("evil!\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o444); err != nil {
		t.Fatal(err)
	}
	r, err = n.Build(context.Background(), f+"#good")
	if err != nil {
		t.Fatal(err)
	}
	if !r.Outputs[0].Tampered() {
		t.Errorf("a changed byte was not found: %s", r.Outputs[0].Tree.SRI())
	}
}

// TestSubstituted: what a cache gives is built here, too, and a cache that gives
// something else is found.
func TestSubstituted(t *testing.T) {
	f := flake(t)
	dir := t.TempDir()
	first := open(t, nix.Options{Store: filepath.Join(dir, "first")})
	for _, attr := range []string{"good", "bad-uuid"} {
		r, err := first.Build(context.Background(), f+"#"+attr)
		if err != nil {
			t.Fatal(err)
		}
		// A cache with a key of its own, as a vendor has one.
		key := filepath.Join(dir, "key")
		if _, err := os.Stat(key); err != nil {
			run(t, dir, "nix-store", "--generate-binary-cache-key", "cache-1", key, key+".pub")
		}
		run(t, dir, "nix", "--store", filepath.Join(dir, "first"), "copy", "--to", "file://"+dir+"/cache?secret-key="+key, r.Outputs[0].Path)
	}
	pub, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	second := open(t, nix.Options{Store: filepath.Join(dir, "second"), Substituters: []string{"file://" + dir + "/cache"}, TrustedKeys: []string{strings.TrimSpace(string(pub))}})
	r, err := second.Build(context.Background(), f+"#good")
	if err != nil {
		t.Fatal(err)
	}
	if o := r.Outputs[0]; o.Origin != nix.BuiltHere || !o.Rebuilt() {
		t.Errorf("good: %s", o.Origin)
	}
	// An input that a cache gave is said: what it gave is in the result.
	r, err = second.Build(context.Background(), f+"#dep")
	if err != nil {
		t.Fatal(err)
	}
	if !r.Outputs[0].Rebuilt() {
		t.Errorf("dep: %s", r.Outputs[0].Origin)
	}
	third := open(t, nix.Options{Store: filepath.Join(dir, "third"), Substituters: []string{"file://" + dir + "/cache"}, TrustedKeys: []string{strings.TrimSpace(string(pub))}})
	r, err = third.Build(context.Background(), f+"#dep")
	if err != nil {
		t.Fatal(err)
	}
	if caches := r.Caches(); len(caches) != 1 || !strings.HasPrefix(caches[0], "1 from file://") {
		t.Errorf("dep: its input came from %v", caches)
	}
	// The vendor's build of this one cannot be repeated: it must not pass.
	var be *nix.BuildError
	if _, err := second.Build(context.Background(), f+"#bad-uuid"); !errors.As(err, &be) || be.Class != nix.NotDeterministic {
		t.Fatalf("bad-uuid from a cache: %v", err)
	}
	if len(be.Differs) != 1 || len(be.Differs[0].Changes) != 1 || be.Differs[0].Changes[0].What != "content" {
		t.Errorf("bad-uuid: the kept trees differ in %+v", be.Differs)
	}
}

// TestNothingLeft: what builds leave behind is gone, also of one that is not
// repeatable and of one that failed.
func TestNothingLeft(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	n, f := open(t, nix.Options{}), flake(t)
	var be *nix.BuildError
	if _, err := n.Check(context.Background(), f+"#bad-uuid"); !errors.As(err, &be) || be.Class != nix.NotDeterministic || len(be.Differs) != 1 {
		t.Fatalf("bad-uuid: %v", err)
	}
	if _, err := n.Build(context.Background(), f+"#fails"); err == nil {
		t.Fatal("fails: built")
	}
	if _, err := n.Check(context.Background(), f+"#fod-ok"); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "*nix*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestStoreInFlake: a store in the folder of the flake would be a part of it.
func TestStoreInFlake(t *testing.T) {
	f := flake(t)
	n := open(t, nix.Options{Store: filepath.Join(strings.TrimPrefix(f, "path:"), "store")})
	if _, err := n.Build(context.Background(), f+"#good"); err == nil || !strings.Contains(err.Error(), "lies in the folder of the flake") {
		t.Error(err)
	}
}

func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "NIX_CONFIG=experimental-features = nix-command flakes\nsubstituters =\nbuild-users-group =")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

func TestRefusedOptions(t *testing.T) {
	testenv.Oracle(t, "nix")
	for _, o := range []nix.Options{
		{Settings: map[string]string{"sandbox": "false"}},
		{Settings: map[string]string{"build-use-sandbox": "false"}}, // an old alias
		{Settings: map[string]string{"build-use-chroot": "false"}},
		{Settings: map[string]string{"binary-caches": "file:///x"}},
		{Settings: map[string]string{"include": "/etc/x"}},
		{Settings: map[string]string{"!include": "/etc/x"}},
		{Settings: map[string]string{"cores": "1\nsandbox = false"}},
		{Settings: map[string]string{"cores\t": "1"}},
		{Settings: map[string]string{"cores": "1 # x"}},
		{Settings: map[string]string{"extra-substituters": "file:///x"}},
		{Settings: map[string]string{"plugin-files": "/x.so"}},
		{Substituters: []string{"file:///x\nsandbox = false"}},
		{Substituters: []string{"file:///x file:///y"}},
		{Substituters: []string{""}},
		{TrustedKeys: []string{"k:AAAA\nrequire-sigs = false"}},
		{TrustedKeys: []string{"k:AAAA\tl:BBBB"}},
		{SandboxPaths: []string{"/bin/sh=/bin/sh\nsandbox = false"}},
		{SandboxPaths: []string{"bin/sh"}},
		{SandboxPaths: []string{"/bin/sh=sh"}},
		{Overrides: [][2]string{{"--impure", "path:x"}}},
		{Overrides: [][2]string{{"nixpkgs", "--impure"}}},
		{Overrides: [][2]string{{"nixpkgs", "path:x\n"}}},
		{Store: t.TempDir() + "/x?trusted=1"},
		{Store: t.TempDir() + "/x\ny"},
	} {
		if o.Store == "" {
			o.Store = t.TempDir()
		}
		if _, err := nix.Open(context.Background(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	if _, err := nix.Open(context.Background(), nix.Options{Store: t.TempDir(), Settings: map[string]string{"cores": "2", "max-jobs": "auto"}}); err != nil {
		t.Error(err)
	}
	for s, good := range map[string]bool{
		"path:.#good": true, ".#privatemode-container-images.oss-oci-images": true, "path:/x?dir=y#packages.x86_64-linux.default": true,
		"--impure": false, "--option#x": false, "-I#x": false, "path:.": false, "path:.#": false, "#good": false, "path:.#a#b": false, "path:.#a^out": false,
		"path:.#--impure": false, "path:.#a b": false, "path:.#a\n": false, "path: .#a": false, "path:.#a.": false, "path:.#a.b..c": false,
	} {
		if err := nix.CheckInstallable(s); (err == nil) != good {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := nix.Open(context.Background(), nix.Options{}); err == nil {
		t.Error("the machine's own store was taken")
	}
}

// TestForms reads what Nix 2.8 printed, and the forms of newer versions.
func TestForms(t *testing.T) {
	dir := testenv.Vectors(t, "own/nix/nix-json")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	built, err := nix.ParseBuild(read("build-v2.8.0.json"))
	if err != nil || len(built) != 3 || built[1].Outputs["out"] != "/nix/store/3p3gn8ylmaq3yj7kvwg3bj02i7wn63ln-multi" {
		t.Errorf("%v %v", built, err)
	}
	infos, err := nix.ParsePathInfo(read("path-info-v2.8.0.json"))
	if err != nil || len(infos) != 2 || !infos[0].Ultimate || len(infos[0].References) != 1 || infos[1].NarHash != "sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM=" {
		t.Errorf("%v %v", infos, err)
	}
	if infos, err = nix.ParsePathInfo(read("path-info-invalid-v2.8.0.json")); err != nil || infos[0].Valid {
		t.Errorf("%v %v", infos, err)
	}
	infos, err = nix.ParsePathInfo([]byte(`{"/nix/store/sk7j520zar7izik3zpq4rm50cnsc1pf6-good":{"narHash":"sha256-x","ultimate":true},"gw9k7fzjswy3fsjlcnjf01inwj9w30pp-tree":null}`))
	if err != nil || len(infos) != 2 || !infos[0].Valid || infos[1].Valid || infos[1].Path != "/nix/store/gw9k7fzjswy3fsjlcnjf01inwj9w30pp-tree" {
		t.Errorf("%+v %v", infos, err)
	}
	if locked, err := nix.ParseMetadata(read("flake-metadata-v2.8.0.json")); err != nil || len(locked) != 0 {
		t.Errorf("%v %v", locked, err)
	}
	if names, err := nix.ParseShow(read("flake-show-v2.8.0.json"), "aarch64-linux"); err != nil || len(names) != 11 || names[0] != "bad-time" {
		t.Errorf("%v %v", names, err)
	}
	ds, err := nix.ParseDerivations(read("show-derivation-v2.8.0.json"))
	if err != nil || len(ds) != 1 {
		t.Fatalf("%v %v", ds, err)
	}
	for p, d := range ds {
		wrapped := fmt.Sprintf(`{"version":4,"derivations":{%q:{"outputs":{"out":{"path":%q}},"inputs":{"srcs":["sk7j520zar7izik3zpq4rm50cnsc1pf6-good"],"drvs":{"qz7y6nik34a820vicwxs44d5k46nvg1y-x.drv":{"outputs":["out"]}}},"system":"s","builder":"b"}}}`, strings.TrimPrefix(p, "/nix/store/"), strings.TrimPrefix(d.Outputs["out"].Path, "/nix/store/"))
		newer, err := nix.ParseDerivations([]byte(wrapped))
		if err != nil || newer[p] == nil || newer[p].Outputs["out"].Path != d.Outputs["out"].Path || newer[p].InputSrcs[0] != "/nix/store/sk7j520zar7izik3zpq4rm50cnsc1pf6-good" || len(newer[p].InputDrvs) != 1 {
			t.Errorf("%+v %v", newer, err)
		}
	}
	for name, check := range map[string]func(*nix.Log) bool{
		"internal-json-build-v2.8.0.jsonl":         func(l *nix.Log) bool { return len(l.Building) > 0 && len(l.Errors) == 0 && len(l.Substituted) == 0 },
		"internal-json-build-failure-v2.8.0.jsonl": func(l *nix.Log) bool { return len(l.Errors) > 0 && slices.Contains(l.Tail, "before") },
		"internal-json-rebuild-mismatch-v2.8.0.jsonl": func(l *nix.Log) bool {
			return len(l.Errors) > 0 && strings.Contains(l.Errors[0], "may not be deterministic")
		},
	} {
		var last nix.Progress
		l, err := nix.ReadLog(strings.NewReader(string(read(name))), func(p nix.Progress) { last = p })
		if err != nil || !check(l) || last.Expected+last.Failed == 0 {
			t.Errorf("%s: %+v %+v %v", name, l, last, err)
		}
	}
}

// TestLog: what a log must not hide.
func TestLog(t *testing.T) {
	read := func(text string) *nix.Log {
		l, err := nix.ReadLog(strings.NewReader(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if l := read(`@nix {"action":"start","id":18446744073709551615,"type":108,"fields":["/nix/store/x","https://cache"]}`); l.Substituted["/nix/store/x"] != "https://cache" {
		t.Errorf("%+v", l)
	}
	if l := read(`@nix {"action":"msg","level":1,"msg":"\u001b[35;1mwarning:\u001b[0m sandboxing is not available, building without sandbox"}`); !l.Unsandboxed {
		t.Errorf("%+v", l)
	}
	if l := read("a builder's @nix {\n@nix not json\n" + strings.Repeat("x", 3<<20) + "\n"); len(l.Tail) != 3 || len(l.Tail[2]) > 1<<20 {
		t.Errorf("%d lines", len(l.Tail))
	}
}

// TestLocks: what inputs are locked to, and which of two locks' are others.
func TestLocks(t *testing.T) {
	lock := func(nodes string) []byte {
		return []byte(`{"locks":{"root":"root","version":7,"nodes":{"root":{"inputs":{"nixpkgs":"nixpkgs"}}` + nodes + `}}}`)
	}
	old, err1 := nix.ParseMetadata(lock(`,"nixpkgs":{"locked":{"type":"github","owner":"NixOS","repo":"nixpkgs","rev":"aa","narHash":"sha256-a"}},"x":{"locked":{"type":"path","path":"/x","narHash":"sha256-x"}}`))
	now, err2 := nix.ParseMetadata(lock(`,"nixpkgs":{"locked":{"type":"github","owner":"NixOS","repo":"nixpkgs","rev":"bb","narHash":"sha256-b"}},"x":{"locked":{"type":"path","path":"/x","narHash":"sha256-y"}},"y":{"locked":{"type":"git","url":"https://y","rev":"cc"}}`))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range nix.DiffInputs(old, now) {
		got = append(got, strings.Join(d.Path, "/")+" "+d.What+" "+d.A+" "+d.B)
	}
	if want := "flake.lock/nixpkgs rev aa bb; flake.lock/x narHash sha256-x sha256-y; flake.lock/y input  https://y cc"; strings.Join(got, "; ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, bad := range []string{`{}`, `{"locks":{"version":8,"root":"r","nodes":{"r":{}}}}`, `{"locks":{"version":7,"root":"r","nodes":{}}}`, string(lock(`,"n":{}`)), string(lock(`,"n":{"locked":{"type":"path","path":"/x"}}`))} {
		if m, err := nix.ParseMetadata([]byte(bad)); err == nil {
			t.Errorf("%s: %v", bad, m)
		}
	}
}

func TestDerivationDiff(t *testing.T) {
	n, f := open(t, nix.Options{}), flake(t)
	ctx := context.Background()
	old, err := n.Instantiate(ctx, f+"#dep")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(strings.TrimPrefix(f, "path:"), "flake.nix")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), `"echo hello > $out"`, `"echo hullo > $out"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	changed, err := n.Instantiate(ctx, f+"#dep")
	if err != nil {
		t.Fatal(err)
	}
	a, err := n.Closure(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Closure(ctx, changed)
	if err != nil {
		t.Fatal(err)
	}
	diff, err := nix.DiffDerivations(a, b, old, changed)
	if err != nil {
		t.Fatal(err)
	}
	if len(diff) != 1 || strings.Join(diff[0].Path, "/") != "dep/good" || diff[0].What != "args[2]" || !strings.Contains(diff[0].B, "hullo") {
		t.Errorf("%+v", diff)
	}
}

func FuzzForms(f *testing.F) {
	f.Add([]byte(`[{"drvPath":"/nix/store/s7xwbjxqv4q3k6sgi3l3v5hwvbdv1z40-good.drv","outputs":{"out":"/nix/store/sk7j520zar7izik3zpq4rm50cnsc1pf6-good"}}]`))
	f.Add([]byte(`{"/nix/store/sk7j520zar7izik3zpq4rm50cnsc1pf6-good":null}`))
	f.Add([]byte(`@nix {"action":"result","fields":[0,1,"x",0],"id":1,"type":105}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if built, err := nix.ParseBuild(data); err == nil {
			for _, b := range built {
				for _, p := range b.Outputs {
					if filepath.Clean(p) != p || strings.Contains(p, "..") && strings.Contains(p, "/../") {
						t.Errorf("path %q", p)
					}
				}
			}
		}
		_, _ = nix.ParsePathInfo(data)
		_, _ = nix.ParseMetadata(data)
		_, _ = nix.ParseShow(data, "x86_64-linux")
		_, _ = nix.ParseDerivations(data)
		if _, err := nix.ReadLog(strings.NewReader(string(data)), nil); err != nil {
			t.Error(err)
		}
	})
}

// TestLostSandbox: a sandbox that is lost on the way is an error wherever Nix
// says so, also in a second build. The stand-ins do all that Nix does, and say it.
func TestLostSandbox(t *testing.T) {
	f := flake(t)
	for _, when := range []string{"--check", "--realise"} {
		n := open(t, nix.Options{})
		if _, err := n.Build(context.Background(), f+"#good"); err != nil {
			t.Fatal(err)
		}
		bin := t.TempDir()
		for _, name := range []string{"nix", "nix-store"} {
			real := testenv.Oracle(t, name)
			script := "#!/bin/sh\ncase \" $* \" in *' " + when + " '*) echo '@nix {\"action\":\"msg\",\"level\":1,\"msg\":\"warning: sandboxing is disabled, building without it\"}' >&2 ;; esac\nexec " + real + " \"$@\"\n"
			if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		path := os.Getenv("PATH")
		t.Setenv("PATH", bin+":"+path)
		lost := open(t, nix.Options{})
		var be *nix.BuildError
		if _, err := lost.Check(context.Background(), f+"#good"); !errors.As(err, &be) || be.Class != nix.Unsandboxed {
			t.Errorf("%s: %v", when, err)
		}
		t.Setenv("PATH", path)
	}
}
