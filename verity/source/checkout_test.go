package source_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/source"
)

// checkout commits files and clones them, with git's own configuration or with
// a setting given.
func checkout(t *testing.T, files map[string]string, setting ...string) string {
	t.Helper()
	up, clone := filepath.Join(t.TempDir(), "up"), filepath.Join(t.TempDir(), "clone")
	git(t, filepath.Dir(up), "init", "-q", "-b", "main", up)
	// Bytes as they are: what git would do on the way in is not asked here.
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		write(t, filepath.Join(up, name), files[name], 0o644)
	}
	blobs := strings.Fields(gitIn(t, up, strings.Join(names, "\n")+"\n", "hash-object", "-w", "--no-filters", "--stdin-paths"))
	var index strings.Builder
	for i, name := range names {
		fmt.Fprintf(&index, "100644 %s\t%s\n", blobs[i], name)
	}
	gitIn(t, up, index.String(), "update-index", "--add", "--index-info")
	git(t, up, "commit", "-q", "-m", "files")
	args := []string{"clone", "-q"}
	for _, s := range setting {
		args = append(args, "-c", s)
	}
	git(t, filepath.Dir(clone), append(args, up, clone)...)
	return clone
}

func measured(t *testing.T, dir string) source.Report {
	t.Helper()
	tree, err := source.OpenGit(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	res, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Source: tree})
	if err != nil {
		t.Fatal(err)
	}
	return *res.Source
}

// What the real git makes of a commit is that commit, whatever its attributes
// say of line ends and keywords.
func TestCheckoutFollowsAttributes(t *testing.T) {
	attributes := strings.Join([]string{
		"*.txt text eol=crlf", "*.md ident", "*.auto text=auto eol=crlf", "*.bin binary eol=crlf", "*.old crlf=input",
		"[attr]windows text eol=crlf", "*.win windows", "*.none windows", "*.none -text", "*.both ident eol=crlf", "*.whole ident text=auto eol=crlf",
		"sub/** eol=crlf", "/root.only eol=crlf", "a?c[!x].cls eol=crlf", `"with space" eol=crlf`, "dir/ eol=crlf", "*.undo eol=crlf", "sub/*.undo !eol !text",
		"# *.comment eol=crlf", "!*.neg eol=crlf", "*.bad -bad- eol=crlf", "*.lf text eol=lf",
	}, "\n") + "\n"
	content := []string{
		"a\nb\n", "a\r\nb\n", "a\rb\n", "\n", "", "no end", "\x00\n", "\x01\x02\n", "$Id$\n", "$Id: x $\n$Id:$\n", "$Id: a b $ $Id", "$Id: a\n$ $Id$",
		"$$Id$ $Id:  $ $Id: $ $Id:x$", "$Id\x00$Id$", "$Id: a\x00 b $ $Id:a\x00 $", "$I$Id$ $Id$Id$", "$Id:x y$$Id: x\ty$", "x\x1a", strings.Repeat("a", 200) + "\x01\n", "\n\n\r\n",
	}
	names := []string{"a.txt", "a.md", "a.auto", "a.bin", "a.old", "a.win", "a.none", "a.both", "sub/x", "sub/d/x", "root.only", "sub2/root.only", "abcd.cls", "abcx.cls", "with space", "dir/x", "a.undo", "sub/a.undo", "a.comment", "a.neg", "a.bad", "a.lf", "plain", "deep/er/a.txt"}
	files := map[string]string{".gitattributes": attributes, "deep/.gitattributes": "*.txt -text\n", "deep/er/.gitattributes": "a.txt eol=crlf text\n[attr]no eol=crlf\nx no\n"}
	r := rand.New(rand.NewSource(1))
	for i, c := range content {
		for _, n := range names {
			files[filepath.Join(filepath.Dir(n), fmt.Sprintf("%d", i), filepath.Base(n))] = c
			if i == 0 {
				files[n] = content[r.Intn(len(content))]
			}
		}
	}
	for i := range 60 {
		var b strings.Builder
		for range r.Intn(30) {
			b.WriteString([]string{"$", "Id", ":", " ", "\n", "\r", "\r\n", "x", "$Id$", "$Id: ", "\x00", "\x7f"}[r.Intn(12)])
		}
		for _, ext := range []string{"txt", "md", "auto", "both", "whole"} {
			files[fmt.Sprintf("r%d.%s", i, ext)] = b.String()
		}
	}
	dir := checkout(t, files)
	got := measured(t, dir)
	if !got.OK() || got.Files != len(files) {
		t.Fatalf("%d files, %d problems: %v", got.Files, len(got.Problems), got)
	}
	// The bytes of the blob are not what a checkout has.
	write(t, filepath.Join(dir, "0/a.txt"), "a\nb\n", 0o644)
	if got := measured(t, dir); got.OK() || got.Problems[0].Path != "0/a.txt" {
		t.Errorf("got %v", got)
	}
}

// Line ends that the user's own git made are named; an encoding is not followed
// and so binds nothing.
func TestCheckoutOfOthers(t *testing.T) {
	got := measured(t, checkout(t, map[string]string{"README.md": "a\nb\n", "config.json": "{}"}, "core.autocrlf=true"))
	if len(got.Problems) != 1 || got.Problems[0].Path != "README.md" || !strings.Contains(got.Problems[0].What, "core.autocrlf") {
		t.Errorf("got %+v", got.Problems)
	}
	dir := checkout(t, map[string]string{".gitattributes": "*.txt working-tree-encoding=UTF-16LE\n*.json working-tree-encoding=UTF-8\n", "a.txt": "hello", "b.json": "{}"})
	got = measured(t, dir)
	if len(got.Problems) != 0 || len(got.Unbound) != 1 || !strings.HasPrefix(got.Unbound[0], "a.txt (") || got.OK() {
		t.Errorf("got %+v", got)
	}
}

// An attributes file that is not there leaves open what a checkout has.
func TestMissingAttributes(t *testing.T) {
	dir := checkout(t, map[string]string{".gitattributes": "*.txt eol=crlf\n", "a.txt": "a\n"})
	blob := git(t, dir, "rev-parse", "HEAD:.gitattributes")
	if err := os.Remove(filepath.Join(dir, ".git", "objects", blob[:2], blob[2:])); err != nil {
		git(t, dir, "unpack-objects") // a clone on one machine is made of loose objects
		t.Fatal(err)
	}
	if _, err := source.OpenGit(dir, ""); err == nil || !strings.Contains(err.Error(), ".gitattributes") {
		t.Errorf("got %v", err)
	}
}

// The recipe neither fetches nor removes what its patterns fit below the root,
// or what begins with a dot: its disk has the pointers (ran: git-lfs 3.3.0).
func TestUnfetchedIsItsPointer(t *testing.T) {
	files := map[string]string{
		"model.safetensors": weights, "pytorch_model.bin": "root", "onnx/model.bin": "nested " + weights, ".hidden.bin": "dot " + weights, "onnx/plain.bin": "no pointer",
	}
	up := map[string]string{}
	for name, content := range files {
		up[name] = content
		if name != "onnx/plain.bin" {
			up[name] = pointerTo(content)
		}
	}
	dir := checkout(t, up)
	// As the recipe leaves it.
	want := filepath.Join(t.TempDir(), "want")
	for name, content := range map[string]string{"model.safetensors": weights, "onnx/model.bin": up["onnx/model.bin"], ".hidden.bin": up[".hidden.bin"], "onnx/plain.bin": "no pointer"} {
		write(t, filepath.Join(want, name), content, 0o644)
	}
	exclude := disk.ParseExclude("*.bin")
	root, err := disk.Measure(context.Background(), disk.Options{Dir: want, Exclude: exclude})
	if err != nil {
		t.Fatal(err)
	}
	if len(root.Warnings) != 1 || root.Warnings[0].Code != disk.WarnLFSExcluded || cmp.Diff([]string{"onnx/plain.bin"}, root.Warnings[0].Paths) != "" {
		t.Errorf("pointers that belong there are warned about: %+v", root.Warnings)
	}
	for name, content := range files {
		write(t, filepath.Join(dir, name), content, 0o644)
	}
	tree, err := source.OpenGit(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Exclude: exclude, Source: tree})
	if err != nil {
		t.Fatal(err)
	}
	if got.RootHash != root.RootHash || !got.Source.OK() || len(got.Warnings) != 0 || len(got.Changes) != 1 || got.Changes[0].Count != 2 {
		t.Errorf("root %v, want %v; %+v %+v %+v", got.RootHash, root.RootHash, got.Source, got.Warnings, got.Changes)
	}
	if !tree.Entries["onnx/model.bin"].LFS {
		t.Error("the caller's tree was changed")
	}
	// Without the commit the same files are only warned about.
	got, err = disk.Measure(context.Background(), disk.Options{Dir: dir, Exclude: exclude})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Warnings) != 1 || got.Warnings[0].Code != disk.WarnLFSExcluded || got.Warnings[0].Count != 3 {
		t.Errorf("got %+v", got.Warnings)
	}
}
