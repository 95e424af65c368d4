package tarproof

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

// Rule is one cause that stands for many leaves: A's values follow from B's by
// it, so that it takes the place of their edits.
type Rule struct {
	Kind   string // of the leaves
	Text   string
	Leaves []int    // of the Diff, in its order: those that follow
	Others []string // members whose value the rule would change, and which are equal
}

// numbers are the fields in which rules are looked for.
var numbers = []string{"mode", "uid", "gid", "mtime"}

// fewest is the number of members below which single values say more than a
// rule does.
const fewest = 3

// Rules finds rules among the leaves. Each is accepted if what it makes of B's
// values is what the edits of its leaves say, byte for byte: then the rule and
// the rest of the edits are the same list.
func (d *Diff) Rules(a, b *Index) []Rule {
	var out []Rule
	for _, name := range numbers {
		f, _ := fieldOf(name)
		s := &sample{kind: name, d: d}
		at := map[int]int{} // leaf by A's member
		for i := range d.Leaves {
			l := &d.Leaves[i]
			if l.Kind == name && l.A0 >= 0 && l.B0 >= 0 && len(l.Edits) == 1 && l.Edits[0].Field == name && l.Edits[0].Op == proof.Set {
				at[l.A0] = i
			}
		}
		if len(at) < fewest {
			continue
		}
		for _, p := range d.Pairs {
			if p.B < 0 || b.Members[p.B].H.Global || a.Members[p.A].H.Global {
				continue
			}
			ma, mb := a.Members[p.A], b.Members[p.B]
			leaf, changed := at[p.A]
			if !changed {
				leaf = -1
			}
			na, ea := rawtar.Number(f.of(&ma.raw))
			nb, eb := rawtar.Number(f.of(&mb.raw))
			if ea != nil || eb != nil || name == "mode" && mb.H.Type == '2' {
				continue
			}
			if name == "mode" {
				na, nb = na&permissions, nb&permissions
			}
			s.rows = append(s.rows, row{leaf, na, nb, mb})
		}
		if r := s.best(f); r != nil {
			out = append(out, *r)
		}
	}
	return out
}

type row struct {
	leaf int // -1: equal on both sides
	a, b int64
	mb   *Member
}

type sample struct {
	kind string
	d    *Diff
	rows []row
}

// guess is a rule that may fit: what it makes of a value of B, and its words.
type guess struct {
	of   func(b int64) int64
	text string
	// forth is what makes a value of B of A's, where that says more; also of
	// values that the way back does not give.
	forth     func(a int64) int64
	forthText string
}

// best is the first guess with few exceptions.
func (s *sample) best(f field) *Rule {
	for _, g := range s.guesses() {
		r := &Rule{Kind: s.kind}
		misses, changed := 0, 0
		for _, row := range s.rows {
			if row.leaf >= 0 {
				changed++
			}
			want := g.of(row.b)
			switch {
			case row.leaf < 0 && want == row.b:
			case row.leaf < 0:
				r.Others = append(r.Others, row.mb.Place)
				misses++
			case want != row.b && bytes.Equal(s.written(f, row.mb, want), s.d.Leaves[row.leaf].Edits[0].A.Bytes):
				r.Leaves = append(r.Leaves, row.leaf)
			default:
				misses++
			}
		}
		if len(r.Leaves) >= fewest && misses*8 <= changed {
			slices.Sort(r.Leaves)
			r.Text = g.text
			if g.forth != nil {
				r.Text += s.forth(g, changed)
			}
			r.Text += fmt.Sprintf("; undone by one rule for %d members", len(r.Leaves))
			if n := changed - len(r.Leaves); n > 0 {
				r.Text += fmt.Sprintf(", %d others are listed as exceptions", n)
			}
			if len(r.Others) > 0 {
				r.Text += fmt.Sprintf("; the rule is not for %s, equal on both sides", proof.Clip(strings.Join(r.Others, ", ")))
			}
			return r
		}
	}
	return nil
}

// forth says for how many of the changed members the way from A to B holds.
func (s *sample) forth(g guess, changed int) string {
	fits := 0
	for _, row := range s.rows {
		if row.leaf >= 0 && g.forth(row.a) == row.b {
			fits++
		}
	}
	if fits == changed {
		return fmt.Sprintf(": for all %d members, %s", fits, g.forthText)
	}
	return fmt.Sprintf(": for %d of %d members, %s", fits, changed, g.forthText)
}

// written is a number as B's member writes it.
func (s *sample) written(f field, mb *Member, n int64) []byte {
	if s.kind == "mode" {
		if all, err := rawtar.Number(f.of(&mb.raw)); err == nil {
			n |= all &^ permissions
		}
	}
	return respell(f.of(&mb.raw), n)
}

func (s *sample) guesses() []guess {
	switch s.kind {
	case "mode":
		return umasks()
	case "mtime":
		return s.times()
	}
	return s.owners()
}

// umasks are those that builders have.
func umasks() (out []guess) {
	masks := []int64{0o022, 0o077, 0o002, 0o027, 0o007, 0o000}
	for _, ma := range masks {
		for _, mb := range masks {
			if ma == mb {
				continue
			}
			g := guess{
				of: func(b int64) int64 {
					// What the owner may, all may, less the mask.
					owner := b >> 6 & 7
					all := owner<<6 | owner<<3 | owner
					if b&0o777 != all&^mb {
						return b
					}
					return b&^0o777 | all&^ma
				},
				text: fmt.Sprintf("umask %03o in place of %03o", mb, ma),
			}
			if mb&ma == ma {
				g.forth, g.forthText = func(a int64) int64 { return a &^ mb }, fmt.Sprintf("B's mode is A's with the bits %03o taken away", mb)
			}
			out = append(out, g)
		}
	}
	return out
}

// namespace is the first number of host users that a user namespace usually
// begins with, or a multiple of it (subuid(5)).
const namespace = 65_536

// owners are one owner for all, or a shift by one number.
func (s *sample) owners() (out []guess) {
	first := s.rows[slices.IndexFunc(s.rows, func(r row) bool { return r.leaf >= 0 })]
	shift := first.b - first.a
	text := fmt.Sprintf("every %s of B is A's + %d", s.kind, shift)
	if shift < 0 {
		text = fmt.Sprintf("every %s of B is A's - %d", s.kind, -shift)
	}
	if shift >= namespace || -shift >= namespace {
		text += " (a user namespace)"
	}
	moved := guess{of: func(b int64) int64 { return max(b-shift, 0) }, text: text}
	fixed := guess{
		of: func(b int64) int64 {
			if b == first.b {
				return first.a
			}
			return b
		},
		text: fmt.Sprintf("every %s %d of B is %d in A", s.kind, first.b, first.a),
	}
	values := map[int64]bool{}
	for _, r := range s.rows {
		values[r.a] = true
	}
	if len(values) > 1 || shift >= namespace || -shift >= namespace {
		return []guess{moved, fixed}
	}
	return []guess{fixed, moved}
}

// times are one time for all, B's times cut at one, and times moved by one
// number of seconds.
func (s *sample) times() (out []guess) {
	latest, changed := int64(0), row{}
	for i, r := range s.rows {
		if latest = max(latest, r.a); i == 0 {
			latest = r.a
		}
		if r.leaf >= 0 {
			changed = r
		}
	}
	shift := changed.b - changed.a
	text := fmt.Sprintf("every time of B is A's + %d s", shift)
	if shift < 0 {
		text = fmt.Sprintf("every time of B is A's - %d s", -shift)
	}
	if shift%900 == 0 && max(shift, -shift) <= 14*3600 {
		text += " (a time zone)"
	}
	return []guess{
		{of: func(int64) int64 { return changed.a }, text: fmt.Sprintf("all times of A are %s", numberText("mtime", changed.a))},
		{of: func(b int64) int64 { return b - shift }, text: text},
		{of: func(b int64) int64 { return min(b, latest) }, text: fmt.Sprintf("A's times are B's, none later than %s: clamped", numberText("mtime", latest))},
	}
}
