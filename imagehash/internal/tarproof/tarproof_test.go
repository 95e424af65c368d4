package tarproof_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/imagehash/internal/tarproof"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
)

// entry is a member as a test writes it: every field by itself, so that nothing
// is filled in by a library.
type entry struct {
	name, link, uname, gname string
	typ                      byte
	mode, uid, gid, mtime    int64
	data, pad                string
	pax                      [][2]string
	paxName                  string
	paxTime                  int64
	gnu                      bool
}

// octal writes numbers as GNU tar does, or filled up with blanks.
func octal(n int64, width int, blanks bool) string {
	if blanks {
		return fmt.Sprintf("%*o ", width-1, n)
	}
	return fmt.Sprintf("%0*o\x00", width-1, n)
}

func header(e entry, name string, typ byte, size int64, blanks bool) []byte {
	h := make([]byte, 512)
	put := func(at int, s string) { copy(h[at:], s) }
	put(0, name)
	put(100, octal(e.mode, 8, blanks))
	put(108, octal(e.uid, 8, blanks))
	put(116, octal(e.gid, 8, blanks))
	put(124, octal(size, 12, blanks))
	put(136, octal(e.mtime, 12, blanks))
	h[156] = typ
	put(157, e.link)
	magic := "ustar\x0000"
	if e.gnu {
		magic = "ustar  \x00"
	}
	put(257, magic)
	put(265, e.uname)
	put(297, e.gname)
	put(148, "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	put(148, fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func blocks(s string) []byte { return append([]byte(s), make([]byte, -len(s)&511)...) }

func write(list []entry, blanks bool, trailer int) []byte {
	var b bytes.Buffer
	for _, e := range list {
		if len(e.pax) > 0 {
			var recs strings.Builder
			for _, r := range e.pax {
				body := " " + r[0] + "=" + r[1] + "\n"
				n := len(body) + 1
				for len(fmt.Sprint(n))+len(body) != n {
					n = len(fmt.Sprint(n)) + len(body)
				}
				fmt.Fprintf(&recs, "%d%s", n, body)
			}
			b.Write(header(entry{mode: 0o644, mtime: e.paxTime}, e.paxName, 'x', int64(recs.Len()), blanks))
			b.Write(blocks(recs.String()))
		}
		if e.gnu && len(e.name) > 100 {
			b.Write(header(entry{gnu: true, mode: 0o644}, "././@LongLink", 'L', int64(len(e.name)+1), blanks))
			b.Write(blocks(e.name + "\x00"))
		}
		b.Write(header(e, e.name[:min(len(e.name), 100)], e.typ, int64(len(e.data)), blanks))
		data := blocks(e.data)
		copy(data[len(e.data):], e.pad)
		b.Write(data)
	}
	b.Write(make([]byte, trailer))
	return b.Bytes()
}

func entries(r *rand.Rand) []entry {
	var out []entry
	for i := range 3 + r.IntN(4) {
		e := entry{name: fmt.Sprintf("d/f%d", i), typ: []byte("000025")[r.IntN(6)], mode: 0o644, mtime: 1_700_000_000 + int64(i), paxName: fmt.Sprintf("PaxHeaders/f%d", i), gnu: r.IntN(2) == 0}
		switch e.typ {
		case '0':
			e.data = strings.Repeat(fmt.Sprintf("content %d\n", i), r.IntN(90))
		case '2':
			e.link = fmt.Sprintf("target%d", i)
		}
		if r.IntN(5) == 0 {
			e.name, e.gnu = "d/"+strings.Repeat("n", 120)+fmt.Sprint(i), true
		}
		if !e.gnu {
			e.pax = [][][2]string{nil, {{"mtime", fmt.Sprintf("%d.5", e.mtime)}}, {{"mtime", "1.25"}, {"SCHILY.xattr.user.a", "1"}}, {{"atime", "5"}, {"ctime", "6"}, {"comment", "z"}}}[r.IntN(4)]
		}
		out = append(out, e)
	}
	return out
}

func mutate(r *rand.Rand, list []entry) []entry {
	list = slices.Clone(list)
	for range 1 + r.IntN(3) {
		i := r.IntN(len(list))
		e := &list[i]
		e.pax = slices.Clone(e.pax)
		switch r.IntN(18) {
		case 0:
			e.mode = []int64{0o600, 0o755, 0o100644, 0o4755}[r.IntN(4)]
		case 1:
			e.uid = 1000
		case 2:
			e.mtime += 77
		case 3:
			e.uname = "root"
		case 4:
			if e.typ == '0' {
				e.data += "!"
			}
		case 5:
			e.link = "elsewhere"
		case 6:
			if len(e.pax) > 0 {
				e.pax[0][1] += "9"
			}
		case 7:
			if !e.gnu {
				e.pax = append(e.pax, [2]string{[]string{"SCHILY.xattr.user.b", "uid", "comment2", "uname"}[r.IntN(4)], "7"})
			}
		case 8:
			if len(e.pax) > 0 {
				e.pax = e.pax[1:]
			}
		case 9:
			slices.Reverse(e.pax)
		case 10:
			e.paxName = "PaxHeaders.77/f"
		case 11:
			e.paxTime += 5
		case 12:
			for k := range list {
				list[k].name = "./" + list[k].name
			}
		case 13:
			if e.typ == '0' {
				e.typ, e.link, e.mode = '1', "d/f0", 0o600
				e.data = ""
			}
		case 14:
			list[i], list[0] = list[0], list[i]
		case 15:
			if len(list) > 2 {
				list = slices.Delete(list, i, i+1)
			}
		case 16:
			n := *e
			n.name = fmt.Sprintf("d/new%d", r.IntN(5))
			list = slices.Insert(list, r.IntN(len(list)+1), n)
		case 17:
			e.pad = "junk"
		}
	}
	return list
}

func index(p []byte) (*tarproof.Index, error) {
	x := tarproof.NewIndexer()
	scan := rawtar.NewScanner(x.Visitor())
	if _, err := scan.Write(p); err != nil {
		return nil, err
	}
	if err := scan.Close(); err != nil {
		return nil, err
	}
	return x.Index(), nil
}

// contents is the content of all members of an archive, one behind the other.
func contents(p []byte) []byte {
	var out []byte
	scan := rawtar.NewScanner(rawtar.Visitor{Content: func(b []byte) error { out = append(out, b...); return nil }})
	scan.Write(p)
	return out
}

func rebuild(a []byte, b *tarproof.Index) proof.Rebuild {
	return func(edits []proof.Edit) (digest.Digest, error) {
		in := bytes.NewReader(contents(a))
		out := proof.NewOut(digest.SHA256, func(w io.Writer, c proof.Content) error {
			_, err := io.CopyN(w, in, c.Size)
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		})
		if err := tarproof.Rebuild(out, b, edits); err != nil {
			return digest.Digest{}, err
		}
		return out.Digest(), nil
	}
}

// check holds Compare against Rebuild: all leaves together prove, none can be
// left out, none can say something else.
func check(t *testing.T, a, b []byte, forge bool) *tarproof.Diff {
	t.Helper()
	ia, err := index(a)
	if err != nil {
		t.Logf("no archive: %v", err)
		return nil
	}
	ib, err := index(b)
	if err != nil {
		t.Logf("no archive: %v", err)
		return nil
	}
	d, err := tarproof.Compare(ia, ib)
	if err != nil {
		t.Fatal(err)
	}
	want := digest.SHA256.Sum(a)
	edits := d.Edits()
	v, err := proof.Check(want, edits, rebuild(a, ib))
	if err != nil {
		t.Fatal(err)
	}
	if !v.Proved {
		t.Logf("not proved: %s", v.Why)
		return nil
	}
	if !bytes.Equal(a, b) && len(d.Leaves) == 0 {
		t.Fatal("nothing differs")
	}
	for _, l := range d.Leaves {
		if l.A == l.B {
			t.Fatalf("leaf %+v names nothing", l)
		}
	}
	if !forge {
		return d
	}
	for i, l := range d.Leaves {
		var rest []proof.Edit
		for k, other := range d.Leaves {
			if k != i {
				rest = append(rest, other.Edits...)
			}
		}
		if v, _ := proof.Check(want, append(rest, d.Follows...), rebuild(a, ib)); v.Proved && len(l.Edits) > 0 {
			t.Fatalf("A comes out without %+v too", l)
		}
	}
	for i := range edits {
		for _, change := range []func(*proof.Edit){
			func(e *proof.Edit) { e.A.Bytes = flip(e.A.Bytes) },
			func(e *proof.Edit) { e.B.Bytes = flip(e.B.Bytes) },
			func(e *proof.Edit) {
				if e.A.Content != nil {
					e.A = proof.Value{Content: &proof.Content{Size: e.A.Content.Size}}
				}
			},
			func(e *proof.Edit) { e.Place += "x" },
			func(e *proof.Edit) {
				if e.Op == proof.Insert {
					e.At++
				}
			},
			func(e *proof.Edit) { slices.Reverse(e.Perm) },
		} {
			forged := slices.Clone(edits)
			forged[i].Perm = slices.Clone(edits[i].Perm)
			change(&forged[i])
			same := forged[i].A.Equal(edits[i].A) && forged[i].B.Equal(edits[i].B) && forged[i].Place == edits[i].Place && forged[i].At == edits[i].At && slices.Equal(forged[i].Perm, edits[i].Perm)
			if same || forged[i].Op == proof.Insert && forged[i].Place != edits[i].Place {
				continue // what is put in has its name in its bytes
			}
			if v, err := proof.Check(want, forged, rebuild(a, ib)); err != nil || v.Proved {
				t.Fatalf("%v proves in place of %v (%v)", forged[i], edits[i], err)
			}
		}
	}
	return d
}

func flip(p []byte) []byte {
	if len(p) == 0 {
		return p
	}
	out := slices.Clone(p)
	out[len(out)/2] ^= 1
	return out
}

func TestRandomArchives(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 2))
	n, proved := 1500, 0
	for range n {
		list := entries(r)
		a := write(list, false, 1024)
		b := write(mutate(r, list), r.IntN(4) == 0, []int{1024, 1024, 2048}[r.IntN(3)])
		if !bytes.Equal(a, b) && check(t, a, b, true) == nil {
			continue
		}
		proved++
	}
	if proved != n {
		t.Errorf("%d of %d proved", proved, n)
	}
}

// kinds of a comparison with one member changed.
func kinds(t *testing.T, a, b entry) []string {
	t.Helper()
	d := check(t, write([]entry{a}, false, 1024), write([]entry{b}, false, 1024), true)
	if d == nil {
		return []string{"not proved"}
	}
	var out []string
	for _, l := range d.Leaves {
		out = append(out, l.Kind)
	}
	slices.Sort(out)
	return out
}

func TestKinds(t *testing.T) {
	base := entry{name: "d/f", typ: '0', mode: 0o644, mtime: 1000, data: "x", paxName: "PaxHeaders/f", pax: [][2]string{{"mtime", "1000.5"}}}
	for name, tt := range map[string]struct {
		do   func(*entry)
		want string
	}{
		"a hard link with another mode":       {func(e *entry) { e.typ, e.link, e.data, e.mode = '1', "d/g", "", 0o600 }, "mode type"},
		"type's bits in the mode":             {func(e *entry) { e.mode = 0o100644 }, "tar-format"},
		"type's bits and another permission":  {func(e *entry) { e.mode = 0o100600 }, "mode tar-format"},
		"another type's bits":                 {func(e *entry) { e.mode = 0o040644 }, "mode"},
		"a record hides another owner":        {func(e *entry) { e.pax = append(e.pax, [2]string{"uid", "7"}) }, "uid"},
		"a record repeats the owner":          {func(e *entry) { e.pax = append(e.pax, [2]string{"uid", "0"}) }, "pax"},
		"a record repeats the time":           {func(e *entry) { e.pax = nil }, "pax"},
		"another time in a record":            {func(e *entry) { e.pax = [][2]string{{"mtime", "1000.7"}} }, "mtime"},
		"a process number and a time":         {func(e *entry) { e.pax, e.paxName = [][2]string{{"mtime", "1000.7"}}, "PaxHeaders.77/f" }, "mtime pax"},
		"an unknown record":                   {func(e *entry) { e.pax = append(e.pax, [2]string{"VENDOR.run", "1"}) }, "pax-unknown"},
		"a comment":                           {func(e *entry) { e.pax = append(e.pax, [2]string{"comment", "1"}) }, "pax"},
		"where the bytes of a sparse file go": {func(e *entry) { e.pax = append(e.pax, [2]string{"GNU.sparse.map", "512,1"}) }, "content"},
		"records of several kinds, mixed": {func(e *entry) {
			e.pax = [][2]string{{"SCHILY.xattr.a", "1"}, {"comment", "c"}, {"mtime", "1000.5"}, {"VENDOR.a", "1"}, {"SCHILY.xattr.b", "1"}, {"ctime", "1"}}
		}, "pax pax-unknown xattr"},
		"a label": {func(e *entry) { e.pax = append(e.pax, [2]string{"RHT.security.selinux", "l"}) }, "xattr"},
		"a key twice": {func(e *entry) {
			e.pax = append(e.pax, [2]string{"SCHILY.xattr.a", "1"}, [2]string{"SCHILY.xattr.a", "2"})
		}, "pax xattr"},
		"junk behind the content": {func(e *entry) { e.pad = "junk" }, "tar-padding"},
	} {
		b := base
		b.pax = slices.Clone(base.pax)
		tt.do(&b)
		if got := strings.Join(kinds(t, base, b), " "); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
		if got := strings.Join(kinds(t, b, base), " "); got != tt.want {
			t.Errorf("%s, the other way round: got %s, want %s", name, got, tt.want)
		}
	}
}

// A trailer that fills the same record on both sides is no cause.
func TestRecordTrailer(t *testing.T) {
	pad := func(list []entry) []byte {
		p := write(list, false, 1024)
		return append(p, make([]byte, -len(p)%10240+10240)...)[:len(p)+(10240-len(p)%10240)%10240]
	}
	a := []entry{{name: "f", typ: '0', data: "x"}}
	b := append(slices.Clone(a), entry{name: ".DS_Store", typ: '0', data: strings.Repeat("y", 6000)})
	d := check(t, pad(a), pad(b), true)
	if d == nil || len(d.Leaves) != 1 || d.Leaves[0].Kind != "only-in-b" {
		t.Errorf("got %+v, want .DS_Store alone", d)
	}
	d = check(t, pad(a), write(b, false, 1024), true)
	if d == nil || len(d.Leaves) != 2 {
		t.Errorf("got %+v, want the padding too", d)
	}
}

func FuzzCompare(f *testing.F) {
	r := rand.New(rand.NewPCG(12, 3))
	for range 6 {
		list := entries(r)
		f.Add(write(list, false, 1024), write(mutate(r, list), true, 1024))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) > 20_000 || len(b) > 20_000 {
			return
		}
		check(t, a, b, false)
	})
}
