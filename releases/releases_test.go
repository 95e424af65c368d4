package releases_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/releases"
)

const origin = "retally.example/releases"

func newKey(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	private, public, err := releases.NewKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	s, v, err := releases.ParseSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	if w, err := releases.ParseVerifier(public + "\n"); err != nil || w.KeyHash() != v.KeyHash() || w.Name() != v.Name() {
		t.Fatalf("the other half of the key is another: %v", err)
	}
	return s, v
}

func release(i int) releases.Release {
	return releases.Release{
		Name: fmt.Sprintf("v1.%d", i), At: time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC),
		Report: fmt.Appendf(nil, `{"report":%d}`, i), Manifest: fmt.Appendf(nil, `{"manifest":%d}`, i), Outcome: "match", Tool: "retally test",
	}
}

// grow adds n releases, as many adds would leave the folder.
func grow(t testing.TB, dir string, s note.Signer, v note.Verifier, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if _, err := releases.Add(dir, s, v, release(i)); err != nil {
			t.Fatalf("add %d: %v", i, err)
		}
	}
}

func open(t testing.TB, dir string, v note.Verifier) *releases.Log {
	t.Helper()
	l, err := releases.Open(dir, v)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// bundles reads all entries of a list's folder with code of the test's own.
func bundles(t testing.TB, dir string, size int) (entries [][]byte) {
	t.Helper()
	for n := 0; n*256 < size; n++ {
		b, err := os.ReadFile(bundleFile(dir, n, size))
		if err != nil {
			t.Fatal(err)
		}
		for len(b) > 0 {
			k := int(binary.BigEndian.Uint16(b))
			entries = append(entries, b[2:2+k])
			b = b[2+k:]
		}
	}
	return entries
}

func bundleFile(dir string, n, size int) string {
	name := fmt.Sprintf("tile/entries/%03d", n)
	if w := size - n*256; w < 256 {
		name += fmt.Sprintf(".p/%d", w)
	}
	return filepath.Join(dir, name)
}

// rewrite puts entries down as bundles.
func rewrite(t testing.TB, dir string, entries [][]byte, size int) {
	t.Helper()
	for n := 0; n*256 < size; n++ {
		var b []byte
		for _, e := range entries[min(n*256, len(entries)):min((n+1)*256, len(entries))] {
			b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
			b = append(b, e...)
		}
		if err := os.WriteFile(bundleFile(dir, n, size), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestThousand: in a list of 1,000 releases any single entry that is changed,
// dropped, moved or doubled is found, whatever it is and wherever.
func TestThousand(t *testing.T) {
	testenv.OwnSpeed(t)
	const size = 1000
	s, v := newKey(t)
	dir := filepath.Join(t.TempDir(), "log")
	grow(t, dir, s, v, 0, size)
	l := open(t, dir, v)
	if len(l.Faults) > 0 || l.Size != size || len(l.Entries) != size || !l.Signed {
		t.Fatalf("%d entries, faults %v", l.Size, l.Faults)
	}
	entries := bundles(t, dir, size)
	// The tree by another library gives the same root.
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, _ error) {
		for _, i := range at {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i, e := range entries {
		h, err := tlog.StoredHashes(int64(i), e, reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h...)
	}
	root, err := tlog.TreeHash(size, reader)
	if err != nil || !bytes.Equal(root[:], l.Root) {
		t.Fatalf("root %x, by sumdb %x, %v", l.Root, root, err)
	}

	damaged := copyDir(t, dir)
	tried := 0
	try := func(what string, i int, now [][]byte) {
		tried++
		rewrite(t, damaged, now, size)
		d := open(t, damaged, v)
		named := false
		for _, f := range d.Faults {
			named = named || f.Entry == int64(i)
		}
		if len(d.Faults) == 0 || !named {
			t.Fatalf("entry %d %s: %v", i, what, d.Faults)
		}
		// Without the key, the list alone shows it too.
		if d := open(t, damaged, nil); len(d.Faults) == 0 {
			t.Fatalf("entry %d %s is not found without a key", i, what)
		}
	}
	with := func(i int, put ...[]byte) [][]byte {
		return append(append(append([][]byte(nil), entries[:i]...), put...), entries[i+1:]...)
	}
	step := 37
	if testenv.IsLong() {
		step = 1
	}
	for i := 0; i < size; i += step {
		changed := bytes.Replace(entries[i], []byte(`"match"`), []byte(`"differs"`), 1)
		try("changed", i, with(i, changed))
		if i+1 < size {
			try("dropped", i, with(i))
			try("doubled", i+1, with(i, entries[i], entries[i]))
			moved := append([][]byte(nil), entries...)
			moved[i], moved[i+1] = moved[i+1], moved[i]
			try("moved", i, moved)
		}
		flipped := bytes.Clone(entries[i])
		flipped[len(flipped)/2] ^= 1
		try("flipped", i, with(i, flipped))
	}
	try("dropped", size-1, entries[:size-1])
	t.Logf("%d changes found", tried)
}

// TestEveryEntry does the same for each entry of a short list, and for each byte
// of each of its files.
func TestEveryEntry(t *testing.T) {
	s, v := newKey(t)
	dir := filepath.Join(t.TempDir(), "log")
	grow(t, dir, s, v, 0, 5)
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	current := 0
	for _, name := range names {
		rel, _ := filepath.Rel(dir, name)
		// Files of smaller sizes are not part of the list any more.
		if strings.Contains(rel, ".p/") && !strings.HasSuffix(rel, ".p/5") || strings.HasPrefix(rel, "reports") || strings.HasPrefix(rel, "manifests") {
			continue
		}
		current++
		was, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range was {
			bad := bytes.Clone(was)
			bad[i] ^= 4
			if err := os.WriteFile(name, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if l, err := releases.Open(dir, v); err == nil && len(l.Faults) == 0 {
				t.Fatalf("byte %d of %s does not count", i, rel)
			}
		}
		os.Remove(name)
		if l, err := releases.Open(dir, v); err == nil && len(l.Faults) == 0 {
			t.Errorf("%s is gone, and nobody says so", rel)
		}
		if err := os.WriteFile(name, was, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if current != 3 {
		t.Errorf("%d files were damaged, want checkpoint, tile and bundle", current)
	}
	if l := open(t, dir, v); len(l.Faults) > 0 {
		t.Error(l.Faults)
	}
}

// TestCopies: a copy that has grown is consistent, one that went back or parted
// is named.
func TestCopies(t *testing.T) {
	s, v := newKey(t)
	base := filepath.Join(t.TempDir(), "log")
	grow(t, base, s, v, 0, 300)
	older := open(t, copyDir(t, base), v)
	fork := copyDir(t, base)
	grow(t, base, s, v, 300, 20)
	grow(t, fork, s, v, 1000, 30)
	now, parted := open(t, base, v), open(t, fork, v)
	if len(parted.Faults)+len(now.Faults)+len(older.Faults) > 0 {
		t.Fatal(parted.Faults, now.Faults)
	}
	if f := now.AgainstCopy(older); f != nil {
		t.Errorf("grown: %v", f)
	}
	if f := older.AgainstCopy(now); f == nil || f.Code != releases.Rollback || !strings.Contains(f.Msg, "from entry 300 on") {
		t.Errorf("rolled back: %v", f)
	}
	if f := now.AgainstCopy(parted); f == nil || f.Code != releases.Fork || f.Entry != 300 || !strings.Contains(f.Msg, "v1.300") || !strings.Contains(f.Msg, "v1.1000") {
		t.Errorf("fork: %v", f)
	}
	for i, l := range []*releases.Log{now, older} {
		if f := l.Against(parted.Checkpoint); f == nil || i == 0 && f.Code != releases.Rollback && f.Code != releases.Fork {
			t.Errorf("checkpoint of the fork: %v", f)
		}
	}
	if f := parted.Against(now.Checkpoint); f == nil || f.Code != releases.Fork {
		t.Errorf("a fork by its checkpoint: %v", f)
	}
	// Another list of the same size.
	other := now.Checkpoint
	other.Origin = "else.example"
	if f := now.Against(other); f == nil || f.Code != releases.Fork {
		t.Errorf("another list: %v", f)
	}
	for i := range 320 {
		e, f := now.Included(releases.Reports, digest.SHA256.Sum(release(i).Report))
		if f != nil || e.Index != uint64(i) {
			t.Fatalf("release %d: %v", i, f)
		}
	}
	if _, f := now.Included(releases.Reports, digest.SHA256.Sum(release(1000).Report)); f == nil || f.Code != releases.NotIncluded {
		t.Errorf("a report of the fork: %v", f)
	}
	if e, f := now.Included(releases.Manifests, digest.SHA256.Sum(release(7).Manifest)); f != nil || e.Release != "v1.7" {
		t.Errorf("manifest: %v", f)
	}
}

// TestAdd: what may not be added, and what a list forgets nothing of.
func TestAdd(t *testing.T) {
	s, v := newKey(t)
	dir := filepath.Join(t.TempDir(), "log")
	grow(t, dir, s, v, 0, 3)
	add := func(r releases.Release) error {
		_, err := releases.Add(dir, s, v, r)
		return err
	}
	for name, c := range map[string]struct {
		change func(*releases.Release)
		want   string
	}{
		"twice":       {func(r *releases.Release) { r.Report = release(1).Report }, "in the list already: entry 1"},
		"earlier":     {func(r *releases.Release) { r.At = time.Unix(0, 0) }, "before the last entry"},
		"no name":     {func(r *releases.Release) { r.Name = "" }, "printable name"},
		"line break":  {func(r *releases.Release) { r.Name = "a\nb" }, "printable name"},
		"no outcome":  {func(r *releases.Release) { r.Outcome = "green" }, "outcome"},
		"a long tool": {func(r *releases.Release) { r.Tool = strings.Repeat("x", 70000) }, "at most 65535"},
	} {
		r := release(9)
		c.change(&r)
		if err := add(r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	// Another key does not continue the list.
	s2, v2 := newKey(t)
	if _, err := releases.Add(dir, s2, v2, release(9)); err == nil || !strings.Contains(err.Error(), "not signed by the given key") {
		t.Errorf("another key: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".lock"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := add(release(9)); err == nil || !strings.Contains(err.Error(), ".lock") {
		t.Errorf("locked: %v", err)
	}
	os.Remove(filepath.Join(dir, ".lock"))
	l := open(t, dir, v)
	if got, err := l.Read(releases.Reports, l.Entries[2].Report); err != nil || string(got) != `{"report":2}` {
		t.Errorf("%q, %v", got, err)
	}
	kept := filepath.Join(dir, releases.Kept(releases.Reports, l.Entries[2].Report))
	if err := os.WriteFile(kept, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read(releases.Reports, l.Entries[2].Report); err == nil {
		t.Error("another report is taken for the kept one")
	}
	// A list without its checkpoint is not begun anew over its tiles.
	os.Remove(filepath.Join(dir, "checkpoint"))
	if err := add(release(9)); err == nil || !strings.Contains(err.Error(), "no checkpoint") {
		t.Errorf("without its checkpoint: %v", err)
	}
	// A checkpoint that leads out of the folder is not followed.
	out := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(out, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(out, filepath.Join(dir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if err := add(release(9)); err == nil {
		t.Error("a link out of the folder is followed")
	}
}

// FuzzOpen: whatever a bundle, a tile or a checkpoint holds, a list is read or
// refused, and only the right bytes are without a fault.
func FuzzOpen(f *testing.F) {
	s, v := newKey(f)
	dir := filepath.Join(f.TempDir(), "log")
	grow(f, dir, s, v, 0, 2)
	files := []string{"checkpoint", "tile/0/000.p/2", "tile/entries/000.p/2"}
	right := map[string][]byte{}
	for i, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		right[name] = data
		f.Add(i, data)
	}
	f.Add(2, []byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, which int, data []byte) {
		name := files[((which%3)+3)%3]
		to := t.TempDir()
		for other, b := range right {
			if other == name {
				b = data
			}
			p := filepath.Join(to, other)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		l, err := releases.Open(to, v)
		if err != nil || len(l.Faults) > 0 {
			return
		}
		if name != "checkpoint" && !bytes.Equal(data, right[name]) {
			t.Fatalf("%s with other bytes (%x) has no fault", name, sha256.Sum256(data))
		}
		if l.Size > 2 {
			t.Fatalf("%d entries", l.Size)
		}
	})
}

// FuzzEntry: an entry has one form.
func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"schema":"retally/release/1","index":0,"previous":"` + strings.Repeat("0", 64) + `","release":"v1","at":"2026-01-01T00:00:00Z","report":"sha256:` + strings.Repeat("0", 64) + `","outcome":"match","tool":"t"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := releases.ParseEntry(data)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q, %v", again, err)
		}
	})
}
