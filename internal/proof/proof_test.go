package proof_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
)

// A register as an example of another kind of object: B is a list of events,
// the outcome a fold.
func fold(events []string) digest.Digest {
	reg := make([]byte, digest.SHA384.Size())
	for _, e := range events {
		sum := digest.SHA384.Sum(append(reg, digest.SHA384.Sum([]byte(e)).Bytes()...))
		reg = sum.Bytes()
	}
	d, _ := digest.FromBytes(digest.SHA384, reg)
	return d
}

func rebuildEvents(b []string) proof.Rebuild {
	return func(edits []proof.Edit) (digest.Digest, error) {
		out := slices.Clone(b)
		for _, e := range edits {
			i := slices.Index(out, string(e.B.Bytes))
			if e.Op != proof.Set || i < 0 {
				return digest.Digest{}, proof.Unfitf("no event %s", e.B)
			}
			out[i] = string(e.A.Bytes)
		}
		return fold(out), nil
	}
}

func TestCheck(t *testing.T) {
	a, b := []string{"kernel 1", "cmdline", "initrd 1"}, []string{"kernel 2", "cmdline", "initrd 2"}
	kernel := proof.Edit{Place: "0", Op: proof.Set, A: proof.Text("kernel 1"), B: proof.Text("kernel 2")}
	initrd := proof.Edit{Place: "2", Op: proof.Set, A: proof.Text("initrd 1"), B: proof.Text("initrd 2")}
	wrong := initrd
	wrong.A = proof.Text("initrd 3")
	stranger := initrd
	stranger.B = proof.Text("initrd 9")
	same := proof.Edit{Place: "1", Op: proof.Set, A: proof.Text("cmdline"), B: proof.Text("cmdline")}
	for _, tt := range []struct {
		name  string
		edits []proof.Edit
		want  bool
	}{
		{"complete", []proof.Edit{kernel, initrd}, true},
		{"one is missing", []proof.Edit{kernel}, false},
		{"none", nil, false},
		{"another value", []proof.Edit{kernel, wrong}, false},
		{"about another B", []proof.Edit{kernel, stranger}, false},
		{"an edit that changes nothing", []proof.Edit{kernel, initrd, same}, false},
	} {
		v, err := proof.Check(fold(a), tt.edits, rebuildEvents(b))
		if err != nil || v.Proved != tt.want || v.Proved == (v.Why != "") {
			t.Errorf("%s: got %+v, %v", tt.name, v, err)
		}
	}
	if v, err := proof.Check(digest.Digest{}, nil, rebuildEvents(b)); err != nil || v.Proved {
		t.Errorf("A without a digest: got %+v, %v", v, err)
	}
	broken := errors.New("cannot be read")
	if _, err := proof.Check(fold(a), nil, func([]proof.Edit) (digest.Digest, error) { return digest.Digest{}, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of reading", err)
	}
	if spare, err := proof.Spare(fold(a), []proof.Edit{kernel, initrd}, rebuildEvents(b)); err != nil || spare != nil {
		t.Errorf("got spare edits %v, %v", spare, err)
	}
}

// Content is believed by its hash alone, wherever it comes from.
func TestOutBelievesHashesOnly(t *testing.T) {
	content := []byte("the content")
	c := &proof.Content{Sum: sha256.Sum256(content), Size: int64(len(content))}
	for given, want := range map[string]bool{"the content": true, "the contenT": false, "": false, "the content and more": false} {
		out := proof.NewOut(digest.SHA256, func(w io.Writer, _ proof.Content) error {
			_, err := io.WriteString(w, given)
			return err
		})
		var unfit *proof.Unfit
		if err := out.Put(proof.Value{Content: c}); (err == nil) != want || err != nil && !errors.As(err, &unfit) {
			t.Errorf("given %q: got %v", given, err)
		}
		if want && (out.Digest() != digest.SHA256.Sum(content) || out.Len() != c.Size) {
			t.Errorf("got %v of %d bytes", out.Digest(), out.Len())
		}
	}
	if err := proof.NewOut(digest.SHA256, nil).Put(proof.Value{Content: c}); err == nil {
		t.Error("content without a source was believed")
	}
}

func TestPermuteAndPlace(t *testing.T) {
	parts := []string{"a", "b", "c"}
	if got, err := proof.Permute(parts, []int{2, 0, 1}); err != nil || !slices.Equal(got, []string{"c", "a", "b"}) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, perm := range [][]int{{0, 1}, {0, 0, 1}, {0, 1, 3}, {0, 1, -1}} {
		if got, err := proof.Permute(parts, perm); err == nil {
			t.Errorf("order %v: got %q", perm, got)
		}
	}
	if got, err := proof.Place(parts, []int{0, 2, 5}, []string{"x", "y", "z"}); err != nil || !slices.Equal(got, []string{"x", "a", "y", "b", "c", "z"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := proof.Place(parts, []int{5, 0, 2}, []string{"z", "x", "y"}); err != nil || !slices.Equal(got, []string{"x", "a", "y", "b", "c", "z"}) {
		t.Errorf("in another order: got %q, %v", got, err)
	}
	for _, at := range [][]int{{0, 0}, {0, 5}, {-1, 0}} {
		if got, err := proof.Place(parts, at, []string{"x", "y"}); err == nil {
			t.Errorf("positions %v: got %q", at, got)
		}
	}
	perm, same := proof.Ranks([]int{7, 2, 9})
	if same || !slices.Equal(perm, []int{1, 0, 2}) {
		t.Errorf("got %v, %v", perm, same)
	}
	if _, same := proof.Ranks([]int{2, 7, 9}); !same {
		t.Error("ascending indexes are no other order")
	}
}
