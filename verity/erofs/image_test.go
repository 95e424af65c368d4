package erofs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/vectest"
	"pgregory.net/rapid"
)

func build(t testing.TB, v vectest.Tree) (*erofs.Plan, []byte) {
	t.Helper()
	root, contents := v.Nodes()
	plan, err := erofs.NewPlan(root)
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, plan.Size())
	if err := plan.NewReader(erofs.Profile19, contents).Fill(image, 0); err != nil {
		t.Fatal(err)
	}
	return plan, image
}

// A finished image says of each of its bytes what the plan says, and any range
// of blocks comes out as in the whole.
func TestImageLocatesAsPlan(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		v := vectest.RandomTree(rand.New(rand.NewPCG(seed, 1)), fmt.Sprint(seed), 150)
		plan, image := build(t, v)
		m, err := erofs.OpenImage(bytes.NewReader(append(bytes.Clone(image), make([]byte, 9000)...)), int64(len(image))+9000)
		if err != nil {
			rt.Fatal(err)
		}
		if m.Size() != plan.Size() {
			rt.Fatalf("got size %d, want %d", m.Size(), plan.Size())
		}
		for off := int64(0); off < plan.Size(); off += 1 + int64(seed%61) {
			want, err := plan.Locate(off)
			if err != nil {
				rt.Fatal(err)
			}
			got, err := m.Locate(off)
			if err != nil {
				rt.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				rt.Fatalf("offset %d (-plan +image):\n%s", off, diff)
			}
		}
		root, contents := v.Nodes()
		again, err := erofs.NewPlan(root)
		if err != nil {
			rt.Fatal(err)
		}
		r := again.NewReader(erofs.Profile19, contents)
		from := rapid.Int64Range(0, plan.Blocks()-1).Draw(rt, "from")
		to := rapid.Int64Range(from+1, plan.Blocks()).Draw(rt, "to")
		part := make([]byte, (to-from)*4096)
		if err := r.Fill(part, from*4096); err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(part, image[from*4096:to*4096]) {
			rt.Fatalf("blocks %d to %d differ from the whole", from, to)
		}
	})
}

func TestFillBounds(t *testing.T) {
	plan, _ := build(t, vectest.Tree{RootMode: "0755"})
	r := plan.NewReader(erofs.Profile19, nil)
	for _, c := range []struct{ off, n int64 }{{1, 4096}, {0, 100}, {4096, 4096}, {-4096, 4096}} {
		if err := r.Fill(make([]byte, c.n), c.off); err == nil {
			t.Errorf("%d bytes at %d: got no error", c.n, c.off)
		}
	}
	if _, err := plan.Locate(plan.Size()); err == nil {
		t.Error("an offset behind the end is located")
	}
}

// Trees that cannot be an image are refused by name.
func TestPlanRefuses(t *testing.T) {
	file := func(name string, size int64) *erofs.Node {
		return &erofs.Node{Name: name, Mode: erofs.ModeRegular | 0o644, Size: size}
	}
	for name, n := range map[string]*erofs.Node{
		"no directory":   file("", 1),
		"same name":      {Mode: erofs.ModeDir, Children: []*erofs.Node{file("a", 1), file("a", 1)}},
		"empty name":     {Mode: erofs.ModeDir, Children: []*erofs.Node{file("", 1)}},
		"dots":           {Mode: erofs.ModeDir, Children: []*erofs.Node{file("..", 1)}},
		"slash":          {Mode: erofs.ModeDir, Children: []*erofs.Node{file("a/b", 1)}},
		"long name":      {Mode: erofs.ModeDir, Children: []*erofs.Node{file(string(make([]byte, 256)), 1)}},
		"negative size":  {Mode: erofs.ModeDir, Children: []*erofs.Node{file("a", -1)}},
		"too large":      {Mode: erofs.ModeDir, Children: []*erofs.Node{file("a", 1<<43), file("b", 1<<43), file("c", 4096)}},
		"target length":  {Mode: erofs.ModeDir, Children: []*erofs.Node{{Name: "l", Mode: erofs.ModeSymlink, Size: 2, Target: "abc"}}},
		"empty target":   {Mode: erofs.ModeDir, Children: []*erofs.Node{{Name: "l", Mode: erofs.ModeSymlink}}},
		"unknown type":   {Mode: erofs.ModeDir, Children: []*erofs.Node{{Name: "x", Mode: 0o644}}},
		"overflow sizes": {Mode: erofs.ModeDir, Children: []*erofs.Node{file("a", 1<<62), file("b", 1<<62)}},
	} {
		if _, err := erofs.NewPlan(n); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestProfiles(t *testing.T) {
	for in, want := range map[string]erofs.Profile{"1.9": erofs.Profile19, "1.9.1": erofs.Profile191, "1.9.1+": erofs.Profile191} {
		if got, err := erofs.ParseProfile(in); err != nil || got != want {
			t.Errorf("%s: got %v, %v", in, got, err)
		}
	}
	if _, err := erofs.ParseProfile("1.8.5"); err == nil {
		t.Error("1.8.5 is accepted as a profile")
	}
}

// A hostile image neither panics nor is walked without end.
func FuzzImage(f *testing.F) {
	text := func(path string, size int64) vectest.Entry {
		return vectest.Entry{Path: path, Type: "file", Mode: "0644", Content: vectest.Content{Content: "zero", Size: size}}
	}
	for _, entries := range [][]vectest.Entry{
		nil,
		{text("a", 6), {Path: "d", Type: "dir", Mode: "0755"}, text("d/b", 5000), {Path: "l", Type: "symlink", Target: "a"}, {Path: "h", Type: "hardlink", Target: "a"}},
		{{Path: "s", Type: "series", Of: "file", Prefix: "f", Width: 200, Count: 20, Mode: "0600"}, {Path: "w", Type: "chr", Mode: "0600"}},
	} {
		_, image := build(f, vectest.Tree{RootMode: "0755", Entries: entries})
		f.Add(image, uint16(1200), byte(0xff))
	}
	f.Fuzz(func(t *testing.T, image []byte, at uint16, x byte) {
		image = bytes.Clone(image)
		if int(at) < len(image) {
			image[at] ^= x
		}
		m, err := erofs.OpenImage(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		for off := int64(0); off < m.Size(); off += 97 {
			if _, err := m.Locate(off); err != nil {
				t.Fatal(err)
			}
		}
	})
}
