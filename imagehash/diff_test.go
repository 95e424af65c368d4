package imagehash_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/testenv"
)

func openBytes(t *testing.T, name string, data []byte) *imagehash.Source {
	t.Helper()
	src, err := imagehash.OpenArchive(t.Context(), name, bytes.NewReader(data), int64(len(data)), imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// short is a cause in one line, without values.
func short(c imagehash.Cause) string {
	return fmt.Sprintf("%s %s %s", strings.Join(c.Path, " > "), c.Kind, c.Standing)
}

func shorts(list []imagehash.Cause) []string {
	var out []string
	for _, c := range list {
		out = append(out, short(c))
	}
	slices.Sort(out)
	return out
}

func TestDiffVectors(t *testing.T) {
	dir, list := vectors(t)
	byID := map[string]vector{}
	for _, v := range list {
		byID[v.ID] = v
	}
	tested := 0
	for _, v := range list {
		if v.CompareWith == "" {
			continue
		}
		tested++
		t.Run(v.ID, func(t *testing.T) {
			a := openBytes(t, v.CompareWith, byID[v.CompareWith].bytes(t, dir))
			b := openBytes(t, v.ID, v.bytes(t, dir))
			d, err := imagehash.Diff(t.Context(), a, b, imagehash.DiffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if d.Equal || !d.Proved || len(d.Causes) != 1 {
				t.Fatalf("got %v, proved %v, notes %v; want the one cause %v", shorts(d.Causes), d.Proved, d.Notes, v.Difference)
			}
			c := d.Causes[0]
			where, what := v.Difference[0], v.Difference[1]
			inPath := strings.Contains(strings.Join(c.Path, " > "), where)
			switch where {
			case "layer-compressed":
				inPath = slices.Equal(c.Path, []string{"layer 0", "compression"})
			case "layer":
				inPath = slices.Equal(c.Path, []string{"layer 0"})
			}
			if c.Kind != what || c.Standing != imagehash.Proved || !inPath {
				t.Errorf("got %+v, want %v", c, v.Difference)
			}
		})
	}
	if tested < 17 {
		t.Errorf("got %d pairs, want 17", tested)
	}
}

// change is one seeded cause: what it does to B and where it must be found.
type change struct {
	name  string
	layer int // that it touches, -1 for none
	pack  bool
	do    func(i *timage, l *tlayer, r *rand.Rand)
	want  string // object|kind
}

func changes() []change {
	member := func(l *tlayer, r *rand.Rand) *tmember {
		for {
			if m := &l.members[r.IntN(len(l.members))]; m.typ == '0' && !strings.Contains(m.name, ".wh.") {
				return m
			}
		}
	}
	var list []change
	for k := range 3 {
		layer := fmt.Sprintf("layer %d", k)
		in := func(kind string, do func(i *timage, l *tlayer, r *rand.Rand)) {
			list = append(list, change{name: layer + " " + kind, layer: k, do: do, want: layer + "|" + kind})
		}
		pack := func(kind string, do func(i *timage, l *tlayer, r *rand.Rand)) {
			list = append(list, change{name: layer + " " + kind, layer: k, pack: true, do: do, want: layer + "/compression|" + kind})
		}
		in("mtime", func(_ *timage, l *tlayer, r *rand.Rand) {
			by := 1 + int64(r.IntN(1e6))
			for m := range l.members {
				l.members[m].mtime += by
			}
		})
		in("uid", func(_ *timage, l *tlayer, r *rand.Rand) { member(l, r).uid = 1000 })
		in("gid", func(_ *timage, l *tlayer, r *rand.Rand) { member(l, r).gid = 1000 })
		in("uname", func(_ *timage, l *tlayer, r *rand.Rand) { member(l, r).uname = "builder" })
		in("mode", func(_ *timage, l *tlayer, r *rand.Rand) { member(l, r).mode ^= 0o022 })
		in("xattr", func(_ *timage, l *tlayer, r *rand.Rand) {
			member(l, r).pax = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04"}
		})
		in("pax", func(_ *timage, l *tlayer, r *rand.Rand) {
			m := member(l, r)
			m.pax = map[string]string{"mtime": fmt.Sprintf("%d.123456789", m.mtime)}
		})
		in("order", func(_ *timage, l *tlayer, r *rand.Rand) {
			n := len(l.members)
			l.members[n-1], l.members[n-2] = l.members[n-2], l.members[n-1]
		})
		in("content", func(_ *timage, l *tlayer, r *rand.Rand) {
			m := member(l, r)
			m.content = append(bytes.Clone(m.content), '!')
		})
		in("only-in-b", func(_ *timage, l *tlayer, r *rand.Rand) {
			l.members = append(l.members, file("extra/file", "extra"))
		})
		in("only-in-a", func(_ *timage, l *tlayer, r *rand.Rand) { l.members = slices.Delete(l.members, 1, 2) })
		in("tar-padding", func(_ *timage, l *tlayer, _ *rand.Rand) { l.padding = 20 })
		in("tar-format", func(_ *timage, l *tlayer, _ *rand.Rand) {
			for m := range l.members {
				l.members[m].gnu = true
			}
		})
		in("name-form", func(_ *timage, l *tlayer, _ *rand.Rand) {
			for m := range l.members {
				l.members[m].name = "./" + l.members[m].name
			}
		})
		in("whiteout-form", func(_ *timage, l *tlayer, _ *rand.Rand) {
			for m := range l.members {
				if l.members[m].name == "gone/.wh.old" {
					l.members[m] = tmember{name: "gone/old", typ: '3'}
				}
			}
		})
		in("link", func(_ *timage, l *tlayer, _ *rand.Rand) {
			for m := range l.members {
				if l.members[m].typ == '2' {
					l.members[m].link = "elsewhere"
				}
			}
		})
		in("type", func(_ *timage, l *tlayer, r *rand.Rand) {
			m := member(l, r)
			*m = tmember{name: m.name, typ: '2', mode: 0o777, mtime: m.mtime, link: "target"}
		})
		pack("compression-level", func(_ *timage, l *tlayer, _ *rand.Rand) {
			l.level = 9
			if l.comp == "zstd" {
				l.level = 1
			}
		})
		if k < 2 {
			pack("compression-implementation", func(_ *timage, l *tlayer, _ *rand.Rand) {
				l.comp = map[string]string{"gzip": "klauspost", "klauspost": "gzip"}[l.comp]
			})
			pack("gzip-header-mtime", func(_ *timage, l *tlayer, _ *rand.Rand) { l.gzmtime = 0x886e0900 })
			pack("gzip-header-os", func(_ *timage, l *tlayer, _ *rand.Rand) { l.gzos = 3 })
		}
		if k == 0 {
			pack("gzip-header-name", func(_ *timage, l *tlayer, _ *rand.Rand) { l.gzname = "layer.tar" })
		}
		pack("compression-format", func(_ *timage, l *tlayer, _ *rand.Rand) {
			l.comp = map[string]string{"gzip": "zstd", "klauspost": "none", "zstd": "gzip"}[l.comp]
		})
	}
	top := func(want string, do func(i *timage, _ *tlayer, r *rand.Rand)) {
		list = append(list, change{name: want, layer: -1, do: do, want: want})
	}
	top("config|created", func(i *timage, _ *tlayer, _ *rand.Rand) { i.created = "2025-05-05T05:05:05Z" })
	top("config|config.Env", func(i *timage, _ *tlayer, _ *rand.Rand) { i.env = append(slices.Clone(i.env), "DEBUG=1") })
	top("config|config.Cmd", func(i *timage, _ *tlayer, _ *rand.Rand) { i.cmd = []string{"/bin/other"} })
	top("config|config.Labels", func(i *timage, _ *tlayer, _ *rand.Rand) { i.labels = map[string]string{"version": "2"} })
	top("config|history", func(i *timage, _ *tlayer, _ *rand.Rand) {
		i.history = slices.Clone(i.history)
		i.history[1] = "RUN something else"
	})
	top("manifest|annotations", func(i *timage, _ *tlayer, _ *rand.Rand) { i.ann = map[string]string{"built": "today"} })
	top("manifest|mediaType", func(i *timage, _ *tlayer, _ *rand.Rand) { i.docker = true })
	return list
}

// baseImage is image A of the seeded differences.
func baseImage(r *rand.Rand) timage {
	i := timage{created: "2024-01-02T03:04:05Z", env: []string{"PATH=/bin"}, cmd: []string{"/bin/app"}, labels: map[string]string{"version": "1"}}
	for k, comp := range []string{"gzip", "klauspost", "zstd"} {
		l := tlayer{comp: comp}
		l.members = append(l.members, folder("dir"))
		for f := range 4 + r.IntN(4) {
			m := file(fmt.Sprintf("dir/file%d", f), strings.Repeat(fmt.Sprintf("%d %d %x\n", k, f, r.Uint64()), 1+r.IntN(300)))
			m.mtime = 1_700_000_000 + int64(r.IntN(1000))
			l.members = append(l.members, m)
		}
		l.members = append(l.members,
			tmember{name: "dir/link", typ: '2', mode: 0o777, link: "file0"},
			file("gone/.wh.old", ""),
			file("zlast", "the end"))
		i.layers = append(i.layers, l)
		i.history = append(i.history, fmt.Sprintf("COPY layer%d /", k))
	}
	return i
}

func (i timage) clone() timage {
	i.layers = slices.Clone(i.layers)
	for k := range i.layers {
		i.layers[k].members = slices.Clone(i.layers[k].members)
	}
	return i
}

// compatible: changes that can stand side by side and still be told apart. Two
// that rewrite the same thing, or one that removes the member that the other
// changed, cannot.
func compatible(list []change) bool {
	clash := [][]string{
		{"compression-level", "compression-implementation", "compression-format"},
		{"compression-format", "gzip-header-mtime"},
		{"compression-format", "gzip-header-os"},
		{"compression-format", "gzip-header-name"},
		{"compression-implementation", "gzip-header-name"}, // the test's klauspost writer writes none
		{"pax", "xattr"},
		{"pax", "mtime"},
	}
	for i, c := range list {
		for _, d := range list[:i] {
			if c.want == d.want {
				return false
			}
			if c.layer < 0 || c.layer != d.layer {
				continue
			}
			_, kc, _ := strings.Cut(c.want, "|")
			_, kd, _ := strings.Cut(d.want, "|")
			for _, set := range clash {
				if slices.Contains(set, kc) && slices.Contains(set, kd) {
					return false
				}
			}
			for _, gone := range []string{"type", "only-in-a", "whiteout-form"} {
				if (kc == gone || kd == gone) && !c.pack && !d.pack {
					return false
				}
			}
		}
	}
	return true
}

// wanted is what a set of changes must give, as object|kind.
func wanted(list []change) []string {
	var out []string
	for _, c := range list {
		out = append(out, c.want)
	}
	slices.Sort(out)
	return out
}

func found(list []imagehash.Cause) (out []string, proved bool) {
	proved = true
	for _, c := range list {
		object := c.Path[0]
		if len(c.Path) > 1 && c.Path[1] == "compression" {
			object += "/compression"
		}
		out = append(out, object+"|"+c.Kind)
		proved = proved && c.Standing == imagehash.Proved
	}
	slices.Sort(out)
	return out, proved
}

// Sixty seeded differences, single, in pairs and in triples: the minimal set
// is found and proved, and nothing else is ever proved.
func TestSeededDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 60))
	all := changes()
	right, total, each := 0, 0, 20
	if testenv.IsLong() {
		each = 200
	}
	for n := 1; n <= 3; n++ {
		for range each {
			var chosen []change
			for len(chosen) < n {
				c := append(slices.Clone(chosen), all[r.IntN(len(all))])
				if compatible(c) {
					chosen = c
				}
			}
			total++
			if seededDifference(t, r, chosen) {
				right++
			}
		}
	}
	if right*60 < 55*total {
		t.Errorf("%d of %d sets were found and proved, want 55 of 60", right, total)
	}
	t.Logf("%d of %d", right, total)
}

// Every change alone.
func TestEveryChange(t *testing.T) {
	for k, c := range changes() {
		r := rand.New(rand.NewPCG(uint64(k), 61))
		if !seededDifference(t, r, []change{c}) {
			t.Errorf("%s is not found and proved", c.name)
		}
	}
}

func seededDifference(t *testing.T, r *rand.Rand, chosen []change) bool {
	t.Helper()
	base := baseImage(r)
	changed := base.clone()
	for _, c := range chosen {
		l := &tlayer{}
		if c.layer >= 0 {
			l = &changed.layers[c.layer]
		}
		c.do(&changed, l, r)
	}
	dirA, digestA := layoutOf(t, base)
	dirB, digestB := layoutOf(t, changed)
	a, err := imagehash.Open(t.Context(), dirA, imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := imagehash.Open(t.Context(), dirB, imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d, err := imagehash.Diff(t.Context(), a, b, imagehash.DiffOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Equal || d.A.Digest.String() != digestA[0] || d.B.Digest.String() != digestB[0] {
		t.Errorf("got sides %+v and %+v", d.A, d.B)
	}
	want := wanted(chosen)
	got, proved := found(d.Causes)
	for i, c := range d.Causes {
		object := c.Path[0]
		if len(c.Path) > 1 && c.Path[1] == "compression" {
			object += "/compression"
		}
		if c.Standing == imagehash.Proved && !slices.Contains(want, object+"|"+c.Kind) {
			t.Errorf("%v: %+v is proved and wrong", want, d.Causes[i])
		}
	}
	if !slices.Equal(got, want) || !proved || !d.Proved {
		t.Logf("got %v, proved %v; want %v; notes %v", shorts(d.Causes), d.Proved, want, d.Notes)
		return false
	}
	return true
}

func diffLayouts(t *testing.T, a, b timage, opts imagehash.DiffOptions) *imagehash.Difference {
	t.Helper()
	dirA, _ := layoutOf(t, a)
	dirB, _ := layoutOf(t, b)
	return diffPaths(t, dirA, dirB, opts)
}

func diffPaths(t *testing.T, pathA, pathB string, opts imagehash.DiffOptions) *imagehash.Difference {
	t.Helper()
	a, err := imagehash.Open(t.Context(), pathA, opts.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := imagehash.Open(t.Context(), pathB, opts.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d, err := imagehash.Diff(t.Context(), a, b, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDiffLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	base := baseImage(r)
	edit := func(f func(i *timage)) timage {
		i := base.clone()
		f(&i)
		return i
	}
	nested := edit(func(i *timage) { i.platform = true })
	extra := tlayer{comp: "gzip", members: []tmember{file("new/file", "new")}}
	for _, tt := range []struct {
		name string
		a, b timage
		want []string
	}{
		{"index against its manifest", nested, base, []string{"index index-or-manifest proved"}},
		{"manifest against its index", base, nested, []string{"index index-or-manifest proved"}},
		{"index against another manifest", nested, edit(func(i *timage) { i.env = nil }), []string{
			"config > /config/Env config.Env proved", "index index-or-manifest proved",
		}},
		{"member of an index", nested, edit(func(i *timage) { i.platform, i.created = true, "2020-01-01T00:00:00Z" }), []string{
			"config created proved",
		}},
		{"another layer at the end", base, edit(func(i *timage) { i.layers = append(i.layers, extra) }), []string{
			"layer 3 of b layer-only-in-b proved",
		}},
		{"another layer in between, the next one changed", base, edit(func(i *timage) {
			i.layers = slices.Insert(i.layers, 1, extra)
			for m := range i.layers[2].members {
				i.layers[2].members[m].uid = 7
			}
		}), []string{"layer 1 of b layer-only-in-b proved", "layer 1 uid proved"}},
		{"a layer less", base, edit(func(i *timage) { i.layers = i.layers[1:] }), []string{"layer 0 layer-only-in-a proved"}},
		{"layers in another order", base, edit(func(i *timage) { i.layers[0], i.layers[1] = i.layers[1], i.layers[0] }), []string{"manifest layer-order proved"}},
		{"another JSON writer", base, edit(func(i *timage) { i.indent = "  " }), []string{"config json-formatting proved", "manifest json-formatting proved"}},
	} {
		d := diffLayouts(t, tt.a, tt.b, imagehash.DiffOptions{})
		got := shorts(d.Causes)
		if !slices.Equal(got, tt.want) || !d.Proved {
			t.Errorf("%s: got %q, proved %v, want %q", tt.name, got, d.Proved, tt.want)
		}
	}
}

func TestDiffIgnore(t *testing.T) {
	base := baseImage(rand.New(rand.NewPCG(1, 1)))
	later := base.clone()
	later.created = "2030-01-01T00:00:00Z"
	for m := range later.layers[0].members {
		later.layers[0].members[m].mtime += 60
	}
	d := diffLayouts(t, base, later, imagehash.DiffOptions{Ignore: []string{"time"}})
	if d.Equal || !d.EqualIgnoring || len(d.Causes) != 0 || len(d.Ignored) != 2 {
		t.Errorf("got %+v, want two ignored causes and nothing else", d)
	}
	later.env = nil
	d = diffLayouts(t, base, later, imagehash.DiffOptions{Ignore: []string{"time"}})
	if d.EqualIgnoring || !slices.Equal(shorts(d.Causes), []string{"config > /config/Env config.Env proved"}) {
		t.Errorf("got %+v, want the environment", shorts(d.Causes))
	}
}

func TestDiffLeaves(t *testing.T) {
	base := baseImage(rand.New(rand.NewPCG(1, 1)))
	later := base.clone()
	for m := range later.layers[0].members {
		later.layers[0].members[m].mtime += 60
	}
	d := diffLayouts(t, base, later, imagehash.DiffOptions{Leaves: 2})
	n := len(base.layers[0].members)
	if len(d.Causes) != 1 || d.Causes[0].Count != n || len(d.Causes[0].Children) != 2 || d.Causes[0].Hint == "" {
		t.Errorf("got %+v, want one cause of %d with two leaves", d.Causes, n)
	}
	if leaf := d.Causes[0].Children[0]; !slices.Equal(leaf.Path, []string{"layer 0", "dir"}) || leaf.Expected == leaf.Actual {
		t.Errorf("got leaf %+v", leaf)
	}
}

func TestDiffEqual(t *testing.T) {
	base := baseImage(rand.New(rand.NewPCG(1, 1)))
	if d := diffLayouts(t, base, base, imagehash.DiffOptions{}); !d.Equal || !d.Proved || len(d.Causes) != 0 {
		t.Errorf("got %+v, want equal", d)
	}
}

// A docker archive has no manifest: its content is compared.
func TestDiffDockerArchive(t *testing.T) {
	dir, _ := vectors(t)
	at := func(name string) string { return dir + "/images/" + name }
	d := diffPaths(t, at("dk-old.tar"), at("ok-gzip-two.tar"), imagehash.DiffOptions{})
	if !d.Equal || !d.SameContent || len(d.Notes) == 0 {
		t.Errorf("the same content in a docker archive and a layout: got %+v", d)
	}
	d = diffPaths(t, at("dk-old.tar"), at("dk-nix-zst.tar.zst"), imagehash.DiffOptions{})
	if !d.Equal || !d.SameContent {
		t.Errorf("two docker archives: got %+v", d)
	}
	d = diffPaths(t, at("dk-old.tar"), at("dk-two-images.tar"), imagehash.DiffOptions{NameB: "b:2"})
	if d.Equal || d.SameContent || len(d.Causes) == 0 {
		t.Errorf("two images: got %+v", d)
	}
}

func TestDiffRefuses(t *testing.T) {
	dir, _ := vectors(t)
	open := func(name string) *imagehash.Source {
		src, err := imagehash.Open(t.Context(), dir+"/images/"+name, imagehash.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	if _, err := imagehash.Diff(t.Context(), open("ok-gzip-single.tar"), open("bad-diffid.tar"), imagehash.DiffOptions{}); err == nil || !strings.Contains(err.Error(), "diffid-mismatch") {
		t.Errorf("a corrupt image: got %v", err)
	}
	if _, err := imagehash.Diff(t.Context(), open("ok-gzip-single.tar"), open("ok-two-tags.tar"), imagehash.DiffOptions{}); err == nil || !strings.Contains(err.Error(), "name one of") {
		t.Errorf("two images: got %v", err)
	}
}

// An index with more members than the one that is compared: the others are told,
// and of A they are not proved.
func TestDiffIndexWithOtherMembers(t *testing.T) {
	base := baseImage(rand.New(rand.NewPCG(1, 1)))
	nested := base.clone()
	nested.platform = true
	evil := base.clone()
	evil.platform, evil.arch, evil.env = true, "arm64", []string{"EVIL=1"}
	both := mergedIndexes(t, nested, evil)
	single, _ := layoutOf(t, base)
	ignore := imagehash.DiffOptions{Ignore: []string{"index-or-manifest"}}
	d := diffPaths(t, both, single, ignore)
	if d.Proved || d.EqualIgnoring || d.SameContent {
		t.Errorf("A has a member that B has not: got %+v", d)
	}
	d = diffPaths(t, single, both, ignore)
	if !d.Proved || d.SameContent || !strings.Contains(d.Ignored[0].Note, "1 more members") {
		t.Errorf("B has a member that A has not: got %+v", d)
	}
}

// mergedIndexes makes a layout of one index with the members of two.
func mergedIndexes(t *testing.T, a, b timage) string {
	t.Helper()
	dirA, rootA := layoutOf(t, a)
	dirB, rootB := layoutOf(t, b)
	blob := func(dir, d string) string {
		return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))
	}
	read := func(path string) map[string]any {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	index, other := read(blob(dirA, rootA[0])), read(blob(dirB, rootB[0]))
	index["manifests"] = append(index["manifests"].([]any), other["manifests"].([]any)...)
	os.Remove(blob(dirA, rootA[0]))
	os.Remove(blob(dirB, rootB[0]))
	names, _ := os.ReadDir(filepath.Join(dirB, "blobs", "sha256"))
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(dirB, "blobs", "sha256", n.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dirA, "blobs", "sha256", n.Name()), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, _ := json.Marshal(index)
	if err := os.WriteFile(blob(dirA, sha(data)), data, 0o644); err != nil {
		t.Fatal(err)
	}
	top := read(filepath.Join(dirA, "index.json"))
	root := top["manifests"].([]any)[0].(map[string]any)
	root["digest"], root["size"] = sha(data), len(data)
	data, _ = json.Marshal(top)
	if err := os.WriteFile(filepath.Join(dirA, "index.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dirA
}
