package disk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/vectest"
)

// reference builds the whole disk in memory with nothing of the streaming.
func reference(t testing.TB, plan *erofs.Plan, p erofs.Profile, content erofs.Content) []byte {
	t.Helper()
	image := make([]byte, plan.Size())
	r := plan.NewReader(p, content)
	for off := int64(0); off < plan.Size(); off += 4096 {
		if err := r.Fill(image[off:off+4096], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	params := disk.Params(plan.Size())
	params.DataBlocks = 0
	if _, err := verity.FormatFiles(context.Background(), path, path, params, verity.FEC{}, verity.Options{}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The superblock's block is written whole.
	return append(whole, make([]byte, (4096-len(whole)%4096)%4096)...)
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Any chunk size, number of workers, memory limit and way of hashing gives the
// same hashes, and the written file is what was hashed.
func TestAnyParallelism(t *testing.T) {
	tmp := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		v := vectest.RandomTree(rand.New(rand.NewPCG(seed, 0)), fmt.Sprint(seed), 120)
		root, contents := v.Nodes()
		plan, err := erofs.NewPlan(root)
		if err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(tmp, "out")
		o := disk.Options{
			Profile: rapid.SampledFrom(erofs.Profiles()).Draw(rt, "profile"),
			Workers: rapid.IntRange(1, 5).Draw(rt, "workers"),
			Chunk:   4096 * rapid.IntRange(1, 70).Draw(rt, "chunk"),
			Mem:     4096 * rapid.Int64Range(1, 4).Draw(rt, "mem"),
			TempDir: tmp, AllFiles: true,
			Watch: func(string, *erofs.Node) hash.Hash { return sha256.New() },
		}
		write := rapid.IntRange(0, 3).Draw(rt, "write") == 0 // it waits for the disk
		if write {
			o.Write = path
		}
		var progress verity.Progress
		o.Progress = &progress
		got, err := disk.MeasurePlan(context.Background(), plan, contents, o)
		if err != nil {
			rt.Fatal(err)
		}
		want := reference(t, plan, o.Profile, contents)
		if write {
			written, err := os.ReadFile(path)
			if err != nil {
				rt.Fatal(err)
			}
			if !bytes.Equal(written, want) {
				rt.Fatalf("written disk differs")
			}
		}
		if got.FileSHA256.Hex() != sha(want) || got.FileSize != int64(len(want)) || got.ErofsSHA.Hex() != sha(want[:plan.Size()]) {
			rt.Fatalf("got %v %d, want %s %d", got.FileSHA256, got.FileSize, sha(want), len(want))
		}
		other := reference(t, plan, got.Others[0].Mkfs, contents)
		if got.Others[0].FileSHA256.Hex() != sha(other) {
			rt.Fatalf("other profile: got %v, want %s", got.Others[0].FileSHA256, sha(other))
		}
		if done, total := progress.Read(); done != total || total != plan.Size() {
			rt.Fatalf("progress is %d of %d, want %d", done, total, plan.Size())
		}
		for name, sum := range got.Files {
			if hex.EncodeToString(sum) != sha(contents[name].Bytes()) {
				rt.Fatalf("content hash of %s differs", name)
			}
		}
		files := 0
		plan.Names(func(_ string, ino uint32) {
			if plan.Node(ino).Is(erofs.ModeRegular) {
				files++
			}
		})
		if len(got.Files) != files {
			rt.Fatalf("got %d content hashes, want %d", len(got.Files), files)
		}
	})
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 1 {
		t.Errorf("files left beside the disk: %v %v", left, err)
	}
}

// model writes a small model directory.
func model(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	v := vectest.Tree{RootMode: "0755"}
	for path, size := range map[string]int64{"config.json": 700, "model-1.safetensors": 3_000_000, "model-2.safetensors": 2_500_123, "tokenizer.json": 9000} {
		v.Entries = append(v.Entries, vectest.Entry{Path: path, Type: "file", Mode: "0644", Content: vectest.Content{Content: "sha256ctr", Seed: path, Size: size}})
	}
	v.Write(t, dir)
	return dir
}

func openDir(t testing.TB, dir string) *erofs.DirContent {
	t.Helper()
	content, err := erofs.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { content.Close() })
	return content
}

func measure(t testing.TB, o disk.Options) disk.Result {
	t.Helper()
	r, err := disk.Measure(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A tampered byte is named by block, file and offset, by comparing with the
// disk and by verifying the disk's tree.
func TestTamperedByteIsNamed(t *testing.T) {
	dir := model(t)
	path := filepath.Join(t.TempDir(), "disk")
	clean := measure(t, disk.Options{Dir: dir, Write: path})

	against := measure(t, disk.Options{Dir: dir, AgainstImage: path}).Against
	if !against.OK() || !against.HasTree {
		t.Fatalf("the written disk differs from itself: %+v", against)
	}
	file := filepath.Join(dir, "model-2.safetensors")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const at = 1_234_567
	b[at] ^= 4
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	got := measure(t, disk.Options{Dir: dir, AgainstImage: path}).Against
	want := []erofs.Place{{Kind: erofs.FilePlace, Path: "model-2.safetensors", Offset: at}}
	if got.OK() || len(got.Differences) == 0 {
		t.Fatal("no difference found")
	}
	if diff := cmp.Diff(want[0], *got.Differences[0].Place); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// One block of data, and its path of three hash blocks less the root.
	if want := int64(1 + 2); got.Blocks != want {
		t.Errorf("got %d differing blocks, want %d: %+v", got.Blocks, want, got.Differences)
	}

	// The same by verify: tamper with the disk file.
	flipByte(t, path, got.Differences[0].Offset)
	v, err := verity.VerifyFiles(context.Background(), path, path, clean.RootHash.Hex(), verity.Params{HashOffset: clean.HashOffset}, verity.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if v.OK() || v.Mismatches[0].Position != got.Differences[0].Block*4096 {
		t.Fatalf("got %+v, want a mismatch in block %d", v.Mismatches, got.Differences[0].Block)
	}
	image, err := disk.OpenLocator(path)
	if err != nil {
		t.Fatal(err)
	}
	// From the directory's plan, and from the disk alone.
	for _, l := range []disk.Locator{clean.Plan, image} {
		e := disk.Explain(v, v.Mismatches[0], l)
		if e.Place == nil || e.Place.Path != "model-2.safetensors" || e.Place.Offset != at/4096*4096 || e.Block != got.Differences[0].Block {
			t.Errorf("got %+v", e)
		}
		if want := fmt.Sprintf("block %d, file \"model-2.safetensors\" at byte %d: ", e.Block, at/4096*4096); !strings.HasPrefix(e.Text, want) {
			t.Errorf("got %q, want %q", e.Text, want)
		}
	}
	// A bad hash block names the data below it.
	flipByte(t, path, got.Differences[0].Offset)
	flipByte(t, path, clean.FileSize-4096)
	if v, err = verity.VerifyFiles(context.Background(), path, path, clean.RootHash.Hex(), verity.Params{HashOffset: clean.HashOffset}, verity.VerifyOptions{}); err != nil || v.OK() {
		t.Fatalf("got %v, %v", v.Mismatches, err)
	}
	e := disk.Explain(v, v.Mismatches[0], image)
	if e.Place == nil || e.Level != 0 || !strings.Contains(e.Text, "level 0") {
		t.Errorf("got %+v", e)
	}
}

func flipByte(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// A file that changes between plan and read is an error that names it.
func TestChangedFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(path string) error
		what   string
	}{
		{"shrinks", func(p string) error { return os.Truncate(p, 1000) }, "size"},
		{"grows", func(p string) error { return os.Truncate(p, 4_000_000) }, "size"},
		{"is rewritten", func(p string) error { return os.WriteFile(p, make([]byte, 3_000_000), 0o644) }, "time"},
		{"is replaced", func(p string) error {
			if err := os.WriteFile(p+".new", make([]byte, 3_000_000), 0o644); err != nil {
				return err
			}
			return os.Rename(p+".new", p)
		}, "inode"},
		{"is rewritten with its old time", func(p string) error {
			st, err := os.Stat(p)
			if err == nil {
				err = os.WriteFile(p, make([]byte, 3_000_000), 0o644)
			}
			if err == nil {
				err = os.Chtimes(p, st.ModTime(), st.ModTime())
			}
			return err
		}, "change time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := model(t)
			tree, err := disk.ReadTree(disk.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			plan, err := erofs.NewPlan(tree.Root)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Millisecond) // file times are coarse
			if err := c.change(filepath.Join(dir, "model-1.safetensors")); err != nil {
				t.Fatal(err)
			}
			_, err = disk.MeasurePlan(context.Background(), plan, openDir(t, dir), disk.Options{})
			var changed *erofs.ChangedError
			if !errors.As(err, &changed) || changed.Path != "model-1.safetensors" || !strings.Contains(changed.What, c.what) {
				t.Errorf("got error %v, want model-1.safetensors, %s", err, c.what)
			}
		})
	}
}

// A cancelled run writes nothing and a failed one leaves nothing.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	out := t.TempDir()
	_, err := disk.Measure(ctx, disk.Options{Dir: model(t), Write: filepath.Join(out, "disk")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	left, err := os.ReadDir(out)
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v %v", left, err)
	}
}

// stopper cancels a run when it opens the n-th file.
type stopper struct {
	erofs.Content
	left   int
	cancel func()
}

func (s *stopper) Open(path string, n *erofs.Node) (erofs.File, error) {
	if s.left--; s.left < 0 {
		s.cancel()
	}
	return s.Content.Open(path, n)
}

// A run that was stopped goes on from its checkpoint and gives the hashes of a
// run that was not; a checkpoint of other files is refused by name.
func TestResume(t *testing.T) {
	for _, o := range []disk.Options{{}, {RootOnly: true}, {AllFiles: true, Profile: erofs.Profile191}} {
		for stop := range 6 {
			t.Run(fmt.Sprintf("root=%v all=%v stop=%d", o.RootOnly, o.AllFiles, stop), func(t *testing.T) {
				dir := model(t)
				o := o
				o.Dir = dir
				o.Watch = func(string, *erofs.Node) hash.Hash { return sha256.New() }
				want := measure(t, o)
				o.Checkpoint = filepath.Join(t.TempDir(), "checkpoint")
				o.CheckpointBytes, o.Chunk, o.Workers = 900_000, 64<<10, 1
				stopped := resumeAfter(t, o, stop)
				o.Resume = true
				got := measure(t, o)
				if stop > 2 && stopped && got.Resumed == 0 {
					t.Errorf("the run began again")
				}
				got.Resumed = 0
				got.Plan, want.Plan = nil, nil
				if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
					t.Errorf("got  %s\nwant %s", g, w)
				}
				left, _ := os.ReadDir(filepath.Dir(o.Checkpoint))
				if len(left) > 0 {
					t.Errorf("the checkpoint is left after the end: %v", left)
				}
			})
		}
	}
}

// resumeAfter runs until the n-th opening of a file and leaves a checkpoint. It
// reports whether the run did not come to its end before.
func resumeAfter(t *testing.T, o disk.Options, n int) bool {
	t.Helper()
	tree, err := disk.ReadTree(o)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := erofs.NewPlan(tree.Root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err = disk.MeasurePlan(ctx, plan, &stopper{openDir(t, o.Dir), n, cancel}, o)
	if err == nil && n < 4 {
		t.Fatalf("the run was not stopped")
	}
	return err != nil
}

func TestResumeRefuses(t *testing.T) {
	touch := func(t *testing.T, path string) {
		at := time.Now().Add(time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string, o *disk.Options)
		want   string
	}{
		{"another time", func(t *testing.T, dir string, _ *disk.Options) { touch(t, filepath.Join(dir, "model-1.safetensors")) }, `"model-1.safetensors": modification time`},
		{"gone", func(t *testing.T, dir string, _ *disk.Options) { os.Remove(filepath.Join(dir, "model-1.safetensors")) }, `"model-1.safetensors": it is gone`},
		{"replaced", func(t *testing.T, dir string, _ *disk.Options) {
			p := filepath.Join(dir, "model-1.safetensors")
			st, _ := os.Stat(p)
			b, _ := os.ReadFile(p)
			os.WriteFile(p+"x", b, 0o644)
			os.Rename(p+"x", p)
			os.Chtimes(p, st.ModTime(), st.ModTime())
		}, `"model-1.safetensors": inode`},
		{"another size", func(t *testing.T, dir string, _ *disk.Options) {
			os.Truncate(filepath.Join(dir, "model-1.safetensors"), 5)
		}, `"model-1.safetensors": size`},
		{"another name", func(t *testing.T, dir string, _ *disk.Options) { os.WriteFile(filepath.Join(dir, "zz"), nil, 0o644) }, "layout"},
		{"other options", func(_ *testing.T, _ string, o *disk.Options) { o.Profile = erofs.Profile191 }, "options"},
		{"damaged state", func(t *testing.T, _ string, o *disk.Options) { flipByte(t, o.Checkpoint, 60) }, "checkpoint"},
		{"damaged table", func(t *testing.T, _ string, o *disk.Options) { flipByte(t, o.Checkpoint+".digests", 60) }, "digest table"},
		{"short table", func(t *testing.T, _ string, o *disk.Options) { os.Truncate(o.Checkpoint+".digests", 60) }, "digest table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := model(t)
			o := disk.Options{Dir: dir, Checkpoint: filepath.Join(t.TempDir(), "c"), CheckpointBytes: 1_000_000, Chunk: 64 << 10, Workers: 1}
			resumeAfter(t, o, 3)
			if _, err := os.Stat(o.Checkpoint); err != nil {
				t.Fatal(err)
			}
			c.change(t, dir, &o)
			o.Resume = true
			_, err := disk.Measure(context.Background(), o)
			var refused *disk.ResumeError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want %q", err, c.want)
			}
		})
	}
}

func codes(ws []disk.Warning) []string {
	var out []string
	for _, w := range ws {
		out = append(out, fmt.Sprintf("%s %d %s", w.Code, w.Count, strings.Join(w.Paths, ",")))
	}
	return out
}

// What silently changes a root is named; Normalize undoes it and says so.
func TestWarningsAndNormalize(t *testing.T) {
	plain := model(t)
	want := measure(t, disk.Options{Dir: plain})
	if len(want.Warnings) > 0 {
		t.Fatalf("a plain directory gets warnings: %v", codes(want.Warnings))
	}

	cache := model(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	blobs := filepath.Join(filepath.Dir(cache), "blobs")
	must(os.Mkdir(blobs, 0o755))
	must(os.Rename(filepath.Join(cache, "model-1.safetensors"), filepath.Join(blobs, "abc")))
	must(os.Symlink("../blobs/abc", filepath.Join(cache, "model-1.safetensors")))
	must(os.Chmod(filepath.Join(cache, "config.json"), 0o600))
	must(os.Chmod(cache, 0o775))
	must(os.Mkdir(filepath.Join(cache, ".git"), 0o755))
	must(os.WriteFile(filepath.Join(cache, ".git", "HEAD"), []byte("x"), 0o644))

	got := measure(t, disk.Options{Dir: cache, SourceDateEpoch: "1"})
	wantCodes := []string{"source-date-epoch 1 ", "symlink-outside 1 model-1.safetensors", "unusual-mode 2 . (0775),config.json (0600)"}
	if diff := cmp.Diff(wantCodes, codes(got.Warnings)); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if got.RootHash == want.RootHash {
		t.Error("the root does not depend on what is warned about")
	}
	if diff := cmp.Diff([]string{".git"}, got.Excluded); diff != "" {
		t.Errorf("excluded (-want +got):\n%s", diff)
	}

	got = measure(t, disk.Options{Dir: cache, Normalize: true})
	if got.RootHash != want.RootHash || got.FileSHA256 != want.FileSHA256 {
		t.Errorf("normalized: got root %v, want %v", got.RootHash, want.RootHash)
	}
	if diff := cmp.Diff(wantCodes[1:], codes(got.Changes)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}

	// Hard links: two names of one file are one inode, unless normalized.
	must(os.WriteFile(filepath.Join(plain, "copy"), []byte("same"), 0o644))
	must(os.WriteFile(filepath.Join(plain, "copy2"), []byte("same"), 0o644))
	copies := measure(t, disk.Options{Dir: plain})
	must(os.Remove(filepath.Join(plain, "copy2")))
	must(os.Link(filepath.Join(plain, "copy"), filepath.Join(plain, "copy2")))
	links := measure(t, disk.Options{Dir: plain})
	if diff := cmp.Diff([]string{"hard-link 1 copy2"}, codes(links.Warnings)); diff != "" {
		t.Errorf("hard links (-want +got):\n%s", diff)
	}
	if links.RootHash == copies.RootHash {
		t.Error("a hard link has the root of a copy")
	}
	if got := measure(t, disk.Options{Dir: plain, Normalize: true}); got.RootHash != copies.RootHash {
		t.Error("a normalized hard link does not have the root of a copy")
	}

	must(os.WriteFile(filepath.Join(plain, "weights.bin"), []byte("version https://git-lfs.github.com/spec/v1\noid sha256:"+strings.Repeat("ab", 32)+"\nsize 12345\n"), 0o644))
	must(os.Mkdir(filepath.Join(plain, "empty"), 0o755))
	got = measure(t, disk.Options{Dir: plain, Normalize: true, Exclude: disk.ParseExclude("none.*")})
	if diff := cmp.Diff([]string{"empty-directory 1 empty", "exclude-matches-nothing 1 none.*", "lfs-pointer 1 weights.bin"}, codes(got.Warnings)); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// Excluding is the same as deleting.
func TestExclude(t *testing.T) {
	dir := model(t)
	for _, p := range []string{"original/a", "original/deep/b", "metal/c", "flax_model.msgpack", "sub/flax_model.msgpack", ".hidden.bin", "pytorch_model.bin", "pytorch_model.bin.index.json"} {
		full := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := measure(t, disk.Options{Dir: dir, Exclude: disk.ParseExclude("original,metal,flax_model.msgpack,pytorch_model.*,*.bin")})
	wantOut := []string{"flax_model.msgpack", "metal", "original", "pytorch_model.bin", "pytorch_model.bin.index.json"}
	if diff := cmp.Diff(wantOut, got.Excluded); diff != "" {
		t.Errorf("excluded (-want +got):\n%s", diff)
	}
	for _, p := range wantOut {
		if err := os.RemoveAll(filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	if want := measure(t, disk.Options{Dir: dir}); got.RootHash != want.RootHash {
		t.Errorf("got root %v, want %v", got.RootHash, want.RootHash)
	}
}

// The written file has holes where there are zeros.
func TestWriteSparse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "zeros"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "zeros"), 64<<20); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	r := measure(t, disk.Options{Dir: dir, Write: path})
	st, err := os.Stat(path)
	if err != nil || st.Size() != r.FileSize || st.Mode() != fs.FileMode(0o644) {
		t.Fatalf("got %v %v, want %d bytes", st, err, r.FileSize)
	}
	if used := allocated(t, st); used > 4<<20 {
		t.Errorf("%d bytes are allocated, want little more than the tree", used)
	}
	v, err := verity.VerifyFiles(context.Background(), path, path, r.RootHash.Hex(), verity.Params{HashOffset: r.HashOffset}, verity.VerifyOptions{})
	if err != nil || !v.OK() {
		t.Errorf("the written disk does not verify: %v %v", v.Mismatches, err)
	}
}

func TestGlobs(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		dir, want     bool
	}{
		{"a", "a", false, true},
		{"a", "b", false, false},
		{"a", "a/b", false, false}, // removed with its parent, not by itself
		{"a/b", "a/b", false, true},
		{"./a//b", "a/b", false, true},
		{"*", "a", false, true},
		{"*", ".a", false, false},
		{"?a", ".a", false, false},
		{"[.]a", ".a", false, false},
		{".*", ".a", false, true},
		{"*", "a/b", false, false},
		{"**", "a/b", false, false},
		{"*.bin", "pytorch_model.bin", false, true},
		{"pytorch_model.*", "pytorch_model.bin.index.json", false, true},
		{"*a*b*c", "xaybzc", false, true},
		{"*a*b*c", "xaybzcd", false, false},
		{"model-0000[1-3]*", "model-00002-of-3", false, true},
		{"model-0000[!1-3]*", "model-00002-of-3", false, false},
		{"[[:upper:]]*", "README", false, true},
		{"[[:upper:]]*", "readme", false, false},
		{"[]x]", "]", false, true},
		{"[x", "[x", false, true},
		{`\*`, "*", false, true},
		{`\*`, "a", false, false},
		{"é?", "éa", false, true},
		{"a?", "aé", false, true},
		{"a/", "a", true, true},
		{"a/", "a", false, false},
		{"/etc", "etc", true, false},
		{"\xff*", "\xffa", false, true},
	} {
		globs := disk.ParseExclude(c.pattern)
		got := slices.ContainsFunc(globs, func(g disk.Glob) bool { return g.Match(c.path, c.dir) })
		if got != c.want {
			t.Errorf("%q matches %q (dir %v): got %v, want %v", c.pattern, c.path, c.dir, got, c.want)
		}
	}
}
