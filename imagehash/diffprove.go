package imagehash

import (
	"context"
	"errors"
	"io"

	"github.com/retally/retally/imagehash/internal/tarproof"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
)

// content compares the tars of two layers, and makes A's again of B and what is
// reported.
func (x *differ) content(object []string, a, b diffLayer, limits Limits) error {
	ia, err := a.index(x.ctx, limits)
	var ib *tarproof.Index
	if err == nil {
		ib, err = b.index(x.ctx, limits)
	}
	var d *tarproof.Diff
	if err == nil {
		d, err = tarproof.Compare(ia, ib)
	}
	if errors.Is(err, tarproof.ErrTooMany) {
		x.add(object, leaf{kind: "content", a: a.diffID.String(), b: b.diffID.String(), note: err.Error() + ": not compared one by one"})
		x.settle(object, false)
		return nil
	}
	if err != nil {
		return err
	}
	found, err := lookInside(x.ctx, a, b, d, limits)
	if err != nil {
		return err
	}
	v, err := proveLayer(x.ctx, a, ib, d.Edits(), limits)
	if err != nil {
		return err
	}
	rules := map[int]string{}
	for _, r := range d.Rules(ia, ib) {
		for _, i := range r.Leaves {
			rules[i] = r.Text
		}
	}
	for i, l := range d.Leaves {
		x.add(object, leaf{kind: l.Kind, place: l.Place, a: l.A, b: l.B, note: l.Note, rule: rules[i], inside: found[i]})
	}
	x.settle(object, v.Proved)
	if !v.Proved {
		x.unproved(object, v)
	}
	return nil
}

// proveLayer rebuilds A's tar. Of A only contents are read, and they are
// believed by the hashes that B or an edit names.
func proveLayer(ctx context.Context, a diffLayer, b *tarproof.Index, edits []proof.Edit, limits Limits) (proof.Verdict, error) {
	return proof.Check(a.diffID, edits, func(edits []proof.Edit) (digest.Digest, error) {
		c := a.contents(ctx, limits)
		defer c.close()
		out := proof.NewOut(a.diffID.Algorithm(), func(w io.Writer, want proof.Content) error { return c.read(w, want.Size) })
		if err := tarproof.Rebuild(out, b, edits); err != nil {
			return digest.Digest{}, err
		}
		return out.Digest(), nil
	})
}
