// Package inside says what differs inside a file, for kinds of files that are
// known to hold times, random numbers and the like ("Why two values differ",
// section 3). What it finds is undone on B, and only if A comes out byte for
// byte is it proved.
package inside

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
)

// Most is the size in bytes of the largest file that is looked into.
const Most = 4 << 20

// Part is one place in a file, with both values.
type Part struct {
	Place []string // from the outside in: a member of an archive, then a field
	A, B  string
}

// Finding is why two files differ.
type Finding struct {
	Words  string
	Parts  []Part
	Proved bool // with the parts undone on B the file is A
}

// splice is a place in B and what stands in A in its place.
type splice struct {
	place []string
	at    int // in B, bytes
	a, b  []byte
}

// explained is what a decoder has found.
type explained struct {
	words   string
	splices []splice
	perm    []int  // of B's lines
	rule    string // crlf, lf: what makes A of B whole
	closing string // in place of the usual end of the sentence
	// unproved: words alone, nothing is undone.
	unproved bool
}

// decoders are tried in this order; the first that has words wins, those that
// are proved before those that are not.
var decoders = []func(name string, a, b []byte) *explained{
	machineID, pyc, gzipFile, zipFile, arFile, elfFile, shadow, storePaths, lineEnds, lineOrder, byName,
}

// Explain looks for what differs in a file of the given name. It returns nil if
// that is nothing that is known.
func Explain(name string, a, b []byte) *Finding {
	var weak *Finding
	for _, d := range decoders {
		e := d(name, a, b)
		if e == nil {
			continue
		}
		f := &Finding{Words: e.words}
		for _, s := range e.splices {
			f.Parts = append(f.Parts, Part{s.place, show(s.a), show(s.b)})
		}
		if !e.unproved {
			f.Proved = prove(a, b, e)
		}
		if f.Proved {
			closing := e.closing
			if closing == "" {
				closing = "with them undone the file is equal"
				if len(e.splices) == 1 && !strings.HasSuffix(e.words, "s of members") {
					closing = "with it undone the file is equal"
				}
			}
			f.Words += "; " + closing
			return f
		}
		if e.unproved && weak == nil {
			weak = f
		}
	}
	return weak
}

// show is a value in a report: as text if it is one, else in hexadecimal.
func show(p []byte) string {
	text := len(p) > 0
	for _, c := range p {
		if (c < ' ' || c > '~') && c != '\n' {
			text = false
		}
	}
	if text {
		return proof.Clip(strconv.Quote(string(p)))
	}
	return proof.Clip(fmt.Sprintf("%x", p))
}

// edits puts what was found into the words of the kernel.
func (e *explained) edits() (out []proof.Edit) {
	switch {
	case e.perm != nil:
		return []proof.Edit{{Place: "lines", Op: proof.Order, Perm: e.perm}}
	case e.rule != "":
		return []proof.Edit{{Place: "lines", Field: e.rule, Op: proof.Derive}}
	}
	for _, s := range e.splices {
		out = append(out, proof.Edit{
			Place: strings.Join(s.place, " > "), Field: strconv.Itoa(s.at), Op: proof.Set,
			A: proof.Value{Bytes: append([]byte{}, s.a...)}, B: proof.Value{Bytes: append([]byte{}, s.b...)},
		})
	}
	return out
}

func prove(a, b []byte, e *explained) bool {
	edits := e.edits()
	v, err := proof.Check(digest.SHA256.Sum(a), edits, func(edits []proof.Edit) (digest.Digest, error) {
		out, err := Rebuild(b, edits)
		return digest.SHA256.Sum(out), err
	})
	return err == nil && v.Proved && len(edits) > 0
}

// Rebuild makes A of B and the edits. It knows nothing of A.
func Rebuild(b []byte, edits []proof.Edit) ([]byte, error) {
	if len(edits) == 1 && edits[0].Op == proof.Order {
		lines, err := proof.Permute(bytes.SplitAfter(b, []byte("\n")), edits[0].Perm)
		return bytes.Join(lines, nil), err
	}
	if len(edits) == 1 && edits[0].Op == proof.Derive {
		switch edits[0].Field {
		case ruleLF:
			return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), nil
		case ruleCRLF:
			return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")), nil
		}
		return nil, proof.Unfitf("no rule %q", edits[0].Field)
	}
	type at struct {
		from int
		e    *proof.Edit
	}
	var list []at
	for i := range edits {
		n, err := strconv.Atoi(edits[i].Field)
		if err != nil || edits[i].Op != proof.Set {
			return nil, proof.Unfitf("%s: no place in the file", edits[i].Place)
		}
		list = append(list, at{n, &edits[i]})
	}
	slices.SortFunc(list, func(x, y at) int { return x.from - y.from })
	var out []byte
	done := 0
	for _, l := range list {
		end := l.from + len(l.e.B.Bytes)
		if l.from < done || end > len(b) || !bytes.Equal(b[l.from:end], l.e.B.Bytes) {
			return nil, proof.Unfitf("%s: B has other bytes there", l.e.Place)
		}
		out = append(append(out, b[done:l.from]...), l.e.A.Bytes...)
		done = end
	}
	return append(out, b[done:]...), nil
}

// span is a place of the same length on both sides.
type span struct {
	place    []string
	kind     string // in the sentence
	at, size int
}

// differing makes splices of the spans that differ, and lists their kinds, each
// once. Files of other lengths have none.
func differing(a, b []byte, spans []span) (out []splice, kinds []string) {
	if len(a) != len(b) {
		return nil, nil
	}
	for _, s := range spans {
		if s.at < 0 || s.size <= 0 || s.at > len(b)-s.size {
			return nil, nil
		}
		va, vb := a[s.at:s.at+s.size], b[s.at:s.at+s.size]
		if bytes.Equal(va, vb) {
			continue
		}
		out = append(out, splice{s.place, s.at, va, vb})
		if !slices.Contains(kinds, s.kind) {
			kinds = append(kinds, s.kind)
		}
	}
	return out, kinds
}

// list joins words as a sentence does.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
