package source_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/source"
	"github.com/retally/retally/verity/xet"
)

func TestParsePointer(t *testing.T) {
	oid := strings.Repeat("0123456789abcdef", 4)
	good := "version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 12345\n"
	p, err := source.ParsePointer([]byte(good))
	if err != nil || p.Size != 12345 || p.OID.Hex() != oid || p.String() != good {
		t.Fatalf("got %+v, %v", p, err)
	}
	with := strings.Replace(good, "oid", "ext-0-foo sha256:"+oid+"\noid", 1)
	if _, err := source.ParsePointer([]byte(with)); err != nil {
		t.Errorf("an extension is refused: %v", err)
	}
	for name, bad := range map[string]string{
		"empty":            "",
		"no final newline": strings.TrimSuffix(good, "\n"),
		"carriage returns": strings.ReplaceAll(good, "\n", "\r\n"),
		"other version":    strings.Replace(good, "v1", "v2", 1),
		"order":            "version https://git-lfs.github.com/spec/v1\nsize 12345\noid sha256:" + oid + "\n",
		"twice":            good + "size 12345\n",
		"upper case":       strings.Replace(good, "abc", "ABC", 1),
		"short oid":        strings.Replace(good, oid, oid[1:], 1),
		"md5":              strings.Replace(good, "sha256", "md5", 1),
		"negative":         strings.Replace(good, "12345", "-1", 1),
		"leading zero":     strings.Replace(good, "12345", "012345", 1),
		"no size":          strings.Replace(good, "size 12345\n", "", 1),
		"long":             good + "z " + strings.Repeat("x", 1024) + "\n",
		"blank line":       good + "\n",
	} {
		if p, err := source.ParsePointer([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, p)
		}
	}
}

// git runs the real program in dir, with nothing of the user's configuration.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return gitIn(t, dir, "", args...)
}

// gitIn is git with something on its stdin.
func gitIn(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Oracle(t, "git"), args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME="+dir,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
		"GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// weights is the content of the large file; in the repository there is only
// its pointer.
var weights = strings.Repeat("weights ", 20_000)

func pointerTo(content string) string {
	return source.Pointer{OID: digest.SHA256.Sum([]byte(content)), Size: int64(len(content))}.String()
}

// model makes a repository with a commit of a small model, and a checkout in
// which the pointer is replaced by content, as git lfs does.
func model(t *testing.T) (dir, commit string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "model")
	write(t, filepath.Join(dir, "config.json"), `{"a": 1}`, 0o644)
	write(t, filepath.Join(dir, "run.sh"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(dir, "original", "big.bin"), pointerTo("never fetched"), 0o644)
	write(t, filepath.Join(dir, "sub", "dir", "deep.txt"), "deep", 0o644)
	write(t, filepath.Join(dir, "model.safetensors"), pointerTo(weights), 0o644)
	write(t, filepath.Join(dir, "empty"), "", 0o644)
	if err := os.Symlink("config.json", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "init", "-q", "-b", "main")
	git(t, dir, "remote", "add", "origin", "https://user:secret@models.example/owner/model")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "model")
	commit = git(t, dir, "rev-parse", "HEAD")
	write(t, filepath.Join(dir, "model.safetensors"), weights, 0o644)
	return dir, commit
}

var original = disk.ParseExclude("original")

func bind(t *testing.T, dir, repo, commit string) source.Report {
	t.Helper()
	tree, err := source.OpenGit(repo, commit)
	if err != nil {
		t.Fatal(err)
	}
	res, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Exclude: original, Source: tree})
	if err != nil {
		t.Fatal(err)
	}
	return *res.Source
}

// A directory is bound to its commit, from loose and from packed objects, by
// name, branch and annotated tag; a clean clone apart from the directory too.
func TestGitBinds(t *testing.T) {
	dir, commit := model(t)
	git(t, dir, "tag", "-a", "v1", "-m", "tag")
	for _, step := range []string{"loose", "packed"} {
		if step == "packed" {
			git(t, dir, "gc", "-q", "--prune=now")
		}
		for _, name := range []string{"", commit, strings.ToUpper(commit), "main", "v1", "HEAD", "refs/heads/main"} {
			got := bind(t, dir, dir, name)
			want := source.Report{Source: "commit " + commit, Commit: commit, Remotes: []string{"https://models.example/owner/model"}, Files: 6, Excluded: 2, Problems: []source.Problem{}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %q (-want +got):\n%s", step, name, diff)
			}
			if got.String() != "weights = commit "+commit {
				t.Errorf("got %q", got.String())
			}
		}
	}
}

// Whatever differs is named.
func TestGitNamesWhatDiffers(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string // path and what
	}{
		{"one byte of weights", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "model.safetensors"), "V"+weights[1:], 0o644)
		}, `"model.safetensors": content`},
		{"weights cut", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "model.safetensors"), weights[1:], 0o644) }, `"model.safetensors": size`},
		{"pointer left", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "model.safetensors"), pointerTo(weights), 0o644)
		}, `"model.safetensors": is the Git LFS pointer`},
		{"small file", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "config.json"), `{"a": 2}`, 0o644) }, `"config.json": content`},
		{"executable", func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, "config.json"), 0o755) }, `"config.json": mode`},
		{"not executable", func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, "run.sh"), 0o644) }, `"run.sh": mode`},
		{"missing", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "sub", "dir", "deep.txt")) }, `"sub/dir": is an empty`},
		{"extra", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "sub", "extra"), "x", 0o644) }, `"sub/extra": is in the directory and not`},
		{"extra empty directory", func(t *testing.T, dir string) { os.Mkdir(filepath.Join(dir, "hole"), 0o755) }, `"hole": is an empty directory`},
		{"symlink", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "link"))
			os.Symlink("run.sh", filepath.Join(dir, "link"))
		}, `"link": symlink target`},
		{"file for symlink", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "link"))
			write(t, filepath.Join(dir, "link"), "config.json", 0o644)
		}, `"link": file type`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, commit := model(t)
			c.change(t, dir)
			got := bind(t, dir, dir, commit)
			if got.OK() {
				t.Fatal("nothing found")
			}
			if c.name == "missing" { // the file, and the directory that is empty without it
				if got.Problems[len(got.Problems)-1].Path != "sub/dir/deep.txt" {
					t.Errorf("got %v", got.Problems)
				}
				return
			}
			if len(got.Problems) != 1 || !strings.HasPrefix(got.Problems[0].String(), c.want) {
				t.Errorf("got %v, want %s", got.Problems, c.want)
			}
		})
	}
}

// An object whose content was exchanged under its name is found, even though
// the repository answers for it.
func TestGitBelievesNoObject(t *testing.T) {
	dir, commit := model(t)
	tree := git(t, dir, "rev-parse", "HEAD^{tree}")
	sub := git(t, dir, "rev-parse", "HEAD:sub")
	for _, swap := range [][2]string{{tree, sub}, {commit, tree}} {
		path := func(id string) string { return filepath.Join(dir, ".git", "objects", id[:2], id[2:]) }
		saved, err := os.ReadFile(path(swap[0]))
		if err != nil {
			t.Fatal(err)
		}
		fake, err := os.ReadFile(path(swap[1]))
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(path(swap[0]), 0o644)
		if err := os.WriteFile(path(swap[0]), fake, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = source.OpenGit(dir, commit)
		var gitErr *source.GitError
		if !errors.As(err, &gitErr) || !strings.Contains(err.Error(), swap[0]) {
			t.Errorf("got error %v, want one about %s", err, swap[0])
		}
		if err := os.WriteFile(path(swap[0]), saved, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGitErrors(t *testing.T) {
	dir, _ := model(t)
	for _, c := range []struct{ repo, commit, want string }{
		{t.TempDir(), "", "no git repository"},
		{dir, "nosuch", "not found"},
		{dir, strings.Repeat("a", 40), "not in the repository"},
		{dir, "../../etc/passwd", "no name"},
		{dir, git(t, dir, "rev-parse", "HEAD:config.json"), "want a commit"},
	} {
		_, err := source.OpenGit(c.repo, c.commit)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want %q", c.commit, err, c.want)
		}
	}
}

func xetOf(b []byte) string {
	h := xet.New()
	h.Write(b)
	return xet.Text(h.Sum(nil))
}

// hubListing writes what a hub says about a directory's files.
func hubListing(t *testing.T, dir string, lfs map[string]bool) []byte {
	t.Helper()
	var list []map[string]any
	for _, p := range []string{"config.json", "run.sh", "model.safetensors", "empty", "sub/dir/deep.txt"} {
		b, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		e := map[string]any{"type": "file", "path": p, "size": len(b), "xetHash": xetOf(b)}
		if lfs[p] {
			sum := sha256.Sum256(b)
			e["oid"] = strings.Repeat("0", 40)
			e["lfs"] = map[string]any{"oid": hex.EncodeToString(sum[:]), "size": len(b), "pointerSize": 134}
		} else {
			e["oid"] = git(t, dir, "hash-object", "--no-filters", p)
		}
		list = append(list, e)
	}
	list = append(list, map[string]any{"type": "directory", "path": "sub", "size": 0, "oid": strings.Repeat("1", 40)})
	out, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A hub's listing gives the layout before any download and binds the content
// afterwards.
func TestHubListing(t *testing.T) {
	dir, _ := model(t)
	for _, p := range []string{"original", "link"} {
		if err := os.RemoveAll(filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(dir, "run.sh"), 0o644)
	list, err := source.ParseList("tree.json", hubListing(t, dir, map[string]bool{"model.safetensors": true}))
	if err != nil {
		t.Fatal(err)
	}
	planned, err := disk.PlanList(list, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Source: list})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(planned.HashOffset, planned.FileSize, planned.Blocks, planned.Inodes)
	if want := fmt.Sprint(res.HashOffset, res.FileSize, res.Blocks, res.Inodes); got != want {
		t.Errorf("planned %s, measured %s", got, want)
	}
	if !res.Source.OK() || res.Source.Files != 5 {
		t.Errorf("got %+v", res.Source)
	}
	write(t, filepath.Join(dir, "model.safetensors"), weights[:len(weights)-1]+"x", 0o644)
	res, err = disk.Measure(context.Background(), disk.Options{Dir: dir, Source: list})
	if err != nil {
		t.Fatal(err)
	}
	if res.Source.OK() || res.Source.Problems[0].Path != "model.safetensors" {
		t.Errorf("got %+v", res.Source)
	}
}

// A commit gives the layout too, where all blobs are there.
func TestPlanOfCommit(t *testing.T) {
	dir, commit := model(t)
	tree, err := source.OpenGit(dir, commit)
	if err != nil {
		t.Fatal(err)
	}
	planned, err := disk.PlanList(tree, disk.Options{Exclude: original})
	if err != nil {
		t.Fatal(err)
	}
	res, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Exclude: original})
	if err != nil {
		t.Fatal(err)
	}
	if planned.HashOffset != res.HashOffset || planned.Inodes != res.Inodes {
		t.Errorf("planned %d bytes %d inodes, measured %d and %d", planned.HashOffset, planned.Inodes, res.HashOffset, res.Inodes)
	}
}

func TestListErrors(t *testing.T) {
	for doc, want := range map[string]string{
		`{}`:                                   "array",
		`{"siblings":{}}`:                      "/siblings/",
		`{"siblings":[{"rfilename":"a"}]}`:     "blobs=true",
		`{"siblings":[{"path":"a","size":1}]}`: "/siblings/0/rfilename",
		`[{"path":"a","size":1,"lfs":{"oid":"` + hex64 + `","sha256":"` + strings.Repeat("0", 64) + `"}}]`:                     "/0/lfs/sha256",
		`[{"path":"a","size":1,"sha256":"` + strings.Repeat("0", 64) + `","lfs":{"oid":"` + hex64 + `"}}]`:                     "/0/sha256",
		`[{"type":"directory","path":"d","oid":"11"},{"path":"a","size":1}]`:                                                   "not complete",
		`[{"type":"directory","path":"d"},{"type":"directory","path":"d/e"},{"path":"a","size":1,"oid":"` + hex64[:40] + `"}]`: `"d/e"`,
		`[1]`:                        "/0",
		`[{"size":1}]`:               "/0/path",
		`[{"path":"a"}]`:             "/0/size",
		`[{"path":"a","size":-1}]`:   "/0/size",
		`[{"path":"a","size":1.5}]`:  "/0/size",
		`[{"path":"../a","size":1}]`: "/0/path",
		`[{"path":"/a","size":1}]`:   "/0/path",
		`[{"path":"a//b","size":1}]`: "/0/path",
		"[{\"path\":\"a\",\"size\":1},\n{\"path\":\"a\",\"size\":1}]":    "line 2",
		`[{"path":"a","size":1,"mode":"9"}]`:                             "/0/mode",
		`[{"path":"a","type":"symlink"}]`:                                "/0/target",
		`[{"path":"a","type":"fifo","size":1}]`:                          "/0/type",
		`[{"path":"a","size":1,"lfs":{"oid":"xx"}}]`:                     "/0/sha256",
		`[{"path":"a","size":1,"lfs":{"size":1}}]`:                       "/0/lfs/oid",
		`[{"path":"a","size":1,"lfs":{"size":2,"oid":"` + hex64 + `"}}]`: "/0/lfs/size",
		`[{"path":"a","size":1,"path":"b"}]`:                             "path",
	} {
		if _, err := source.ParseList("l", []byte(doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", doc, err, want)
		}
	}
	list, err := source.ParseList("l", []byte(`[{"path":"a","size":1},{"path":"a/b","size":1}]`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list.Nodes(); err == nil {
		t.Error("a file with a file below it is accepted")
	}
}

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func FuzzList(f *testing.F) {
	f.Add([]byte(`[{"path":"a/b","size":5000,"mode":"0755"},{"path":"l","target":"a/b"},{"path":".","mode":448}]`))
	f.Add([]byte(`[{"type":"file","path":"x","size":1,"oid":"` + hex64[:40] + `","lfs":{"oid":"` + hex64 + `","size":1}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := source.ParseList("l", data)
		if err != nil {
			return
		}
		res, err := disk.PlanList(list, disk.Options{})
		if err == nil && (res.HashOffset < 4096 || res.FileSize <= res.HashOffset || res.Inodes > len(data)+1) {
			t.Fatalf("got %+v of %d bytes of list", res, len(data))
		}
	})
}

func FuzzPointer(f *testing.F) {
	f.Add([]byte(pointerTo("x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := source.ParsePointer(data)
		if err != nil {
			return
		}
		again, err := source.ParsePointer([]byte(p.String()))
		if err != nil || again != p {
			t.Fatalf("%+v becomes %+v, %v", p, again, err)
		}
		if len(data) == len(p.String()) && string(data) != p.String() {
			t.Fatalf("another text of the same length: %q", data)
		}
	})
}

// A hub's description of a model says what its recursive listing says.
func TestModelInfo(t *testing.T) {
	oid := strings.Repeat("ab", 32)
	info := `{"id":"acme/tiny","siblings":[{"rfilename":"a.json","size":22,"blobId":"` + hex64[:40] + `"},{"rfilename":"d/w.bin","size":9000,"blobId":"44","lfs":{"sha256":"` + oid + `","size":9000,"pointerSize":129}}]}`
	tree := `[{"type":"directory","path":"d","oid":"11"},{"path":"a.json","size":22,"oid":"` + hex64[:40] + `"},{"path":"d/w.bin","size":9000,"oid":"` + hex64[:40] + `","lfs":{"oid":"` + oid + `","size":9000}}]`
	var sizes []string
	for _, doc := range []string{info, tree} {
		list, err := source.ParseList("l", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		if e := list.Entries["d/w.bin"]; e.SHA256.Hex() != oid || !e.LFS {
			t.Errorf("got %+v", e)
		}
		for _, exclude := range []string{"", "*.bin"} {
			res, err := disk.PlanList(list, disk.Options{Exclude: disk.ParseExclude(exclude)})
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, fmt.Sprint(res.HashOffset, len(res.Changes)))
		}
	}
	// Below the root an excluded file is its pointer, which is short.
	if diff := cmp.Diff([]string{"12288 0", "4096 1", "12288 0", "4096 1"}, sizes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var page []string
	for i := range 1000 {
		page = append(page, fmt.Sprintf(`{"path":"%d","size":1,"oid":"%s"}`, i, hex64[:40]))
	}
	for n, want := range map[int]bool{999: false, 1000: true} {
		list, err := source.ParseList("l", []byte("["+strings.Join(page[:n], ",")+"]"))
		if err != nil || (list.Suspect != "") != want {
			t.Errorf("%d entries: suspect %q, %v", n, list.Suspect, err)
		}
	}
}
