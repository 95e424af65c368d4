package imagehash

import (
	"errors"
	"fmt"
	"hash/maphash"
	"path"
	"strings"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/imagehash/internal/zstdframe"
)

// maxSame is how many findings of one code are kept for one layer; the rest is
// counted.
const maxSame = 5

// maxPaths bounds the memory of the search for duplicate paths.
const maxPaths = 1 << 19

// layerWalk hashes the content of a layer and looks at its members.
type layerWalk struct {
	f       *facts
	hashers []namedHash
	scan    *rawtar.Scanner
	scanErr error

	same     map[string]int
	seed     maphash.Seed
	paths    map[uint64]struct{} // hashes of member paths, not to keep the names
	symlinks map[uint64]struct{}
	full     bool
	empty    bool
}

func newLayerWalk(how reading, f *facts) *layerWalk {
	w := &layerWalk{
		f: f, hashers: how.diff.hashers(), same: map[string]int{}, seed: maphash.MakeSeed(),
		paths: map[uint64]struct{}{}, symlinks: map[uint64]struct{}{}, empty: true,
	}
	w.scan = rawtar.NewScanner(rawtar.Visitor{Member: w.member})
	return w
}

func (w *layerWalk) write(p []byte) {
	for i := range w.hashers {
		w.hashers[i].Write(p)
	}
	if len(p) > 0 {
		w.empty = false
	}
	if w.scanErr == nil {
		_, w.scanErr = w.scan.Write(p)
	}
}

// finish records the end: unpackErr is why decompression stopped early.
func (w *layerWalk) finish(unpackErr error) {
	if unpackErr != nil {
		w.problem(unpackProblem(unpackErr))
	} else {
		w.f.diffIDs = sums(w.hashers)
	}
	err := w.scanErr
	if err == nil && unpackErr == nil {
		err = w.scan.Close()
	}
	if err != nil {
		w.problem(tarProblem(err))
	} else if unpackErr == nil {
		if !w.scan.EndMarker() {
			w.note(Problem{Code: "layer-no-eof-marker", Detail: "the tar ends without the two zero blocks"})
		}
		if w.scan.DataAfterEnd() {
			w.note(Problem{Code: "layer-data-after-end", Detail: "bytes other than zero follow the end of the tar; readers that ignore zero blocks see members there"})
		}
	}
	if w.full {
		w.note(Problem{Code: "layer-walk-bounded", Detail: fmt.Sprintf("more than %d members: duplicate paths and paths through symlinks were not looked for beyond", maxPaths)})
	}
	for code, n := range w.same {
		if n > maxSame {
			for _, list := range [][]Problem{w.f.problems, w.f.notes} {
				for i := len(list) - 1; i >= 0; i-- {
					if list[i].Code == code {
						list[i].Detail = fmt.Sprintf("and %d more", n-maxSame)
						break
					}
				}
			}
		}
	}
}

func (w *layerWalk) problem(p Problem) {
	if w.same[p.Code]++; w.same[p.Code] <= maxSame {
		w.f.problems = append(w.f.problems, p)
	}
}

func (w *layerWalk) note(p Problem) {
	if w.same[p.Code]++; w.same[p.Code] <= maxSame {
		w.f.notes = append(w.f.notes, p)
	}
}

// unpackProblem names an error of decompression.
func unpackProblem(err error) Problem {
	p := Problem{Detail: err.Error()}
	var g *gunzip.Error
	var z *zstdframe.Error
	var l *limitError
	switch {
	case errors.As(err, &l):
		p.Code, p.Expected, p.Found = "limit-expansion", fmt.Sprintf("at most %d bytes uncompressed", l.limit), "more"
	case errors.As(err, &g):
		p.Code = [...]string{gunzip.Corrupt: "layer-corrupt", gunzip.Truncated: "layer-truncated", gunzip.Trailing: "layer-trailing-data"}[g.Kind]
	case errors.As(err, &z):
		p.Code = [...]string{
			zstdframe.Corrupt: "layer-corrupt", zstdframe.Truncated: "layer-truncated", zstdframe.Trailing: "layer-trailing-data",
			zstdframe.Window: "limit-window", zstdframe.Dictionary: "layer-corrupt",
		}[z.Kind]
	case errors.Is(err, errors.ErrUnsupported):
		p.Code, p.Detail = "layer-compression-mismatch", "xz is no layer compression"
	default:
		p.Code = "layer-corrupt"
	}
	return p
}

func tarProblem(err error) Problem {
	p := Problem{Code: "layer-not-tar", Detail: err.Error()}
	var t *rawtar.Error
	if errors.As(err, &t) {
		p.Place = fmt.Sprintf("@%d", t.Offset)
		p.Detail = t.Msg
		p.Code = [...]string{
			rawtar.NotTar: "layer-not-tar", rawtar.Truncated: "layer-truncated",
			rawtar.Ambiguous: "layer-ambiguous", rawtar.TooLarge: "limit-tar",
		}[t.Kind]
	}
	return p
}

// member judges one member by its names alone. Paths are those of the root
// that a runtime would make: an absolute name starts at that root, a step
// above it leaves it.
func (w *layerWalk) member(h *rawtar.Header) error {
	if h.Global {
		return nil
	}
	place := ":" + clip(h.Name)
	clean, escapes := rawtar.CleanPath(h.Name)
	if escapes {
		w.problem(Problem{Code: "layer-unsafe-path", Place: place, Found: clip(h.Name), Expected: "a path inside the root"})
	} else if strings.HasPrefix(h.Name, "/") {
		w.note(Problem{Code: "layer-absolute-path", Place: place})
	}
	if h.Prefixed {
		w.note(Problem{Code: "layer-gnu-prefix", Place: place, Found: clip(h.Name), Expected: clip(h.Short), Detail: "Go readers take the times of this header for a part of the name, others do not"})
		if _, escapes := rawtar.CleanPath(h.Short); escapes {
			w.problem(Problem{Code: "layer-unsafe-path", Place: place, Found: clip(h.Short), Expected: "a path inside the root"})
		}
	}
	if strings.IndexByte(h.Linkname, 0) >= 0 || strings.IndexByte(h.Name, 0) >= 0 {
		w.problem(Problem{Code: "layer-unsafe-path", Place: place, Found: "a NUL in a name", Expected: "none"})
	}
	if h.Type == '1' {
		if _, escapes := rawtar.CleanPath(h.Linkname); escapes {
			w.problem(Problem{Code: "layer-unsafe-path", Place: place, Found: "hard link to " + clip(h.Linkname), Expected: "a path inside the root"})
		}
	}
	if target, ok := strings.CutPrefix(path.Base(clean), ".wh."); ok && target != ".wh..opq" {
		if target == "" || target == "." || target == ".." {
			w.problem(Problem{Code: "layer-unsafe-path", Place: place, Found: fmt.Sprintf("whiteout of %q", target), Expected: "whiteout of a name"})
		}
	}
	if h.Type == '3' || h.Type == '4' {
		w.note(Problem{Code: "layer-device-node", Place: place})
	}
	if h.Claimed > 0 && h.Size == 0 && h.Type != '5' {
		w.note(Problem{Code: "layer-link-with-size", Place: place, Found: fmt.Sprint(h.Claimed), Expected: "0", Detail: "readers disagree whether content follows"})
	}
	w.history(h, clean, place)
	return nil
}

// history looks at a member in the light of those before it.
func (w *layerWalk) history(h *rawtar.Header, clean, place string) {
	if len(w.symlinks) > 0 {
		for i := range len(clean) {
			if clean[i] != '/' {
				continue
			}
			if _, ok := w.symlinks[maphash.String(w.seed, clean[:i])]; ok {
				w.note(Problem{Code: "layer-path-through-symlink", Place: place, Found: clip(clean[:i])})
				break
			}
		}
	}
	if len(w.paths) >= maxPaths {
		w.full = true
		return
	}
	key := maphash.String(w.seed, clean)
	if _, dup := w.paths[key]; dup {
		w.note(Problem{Code: "layer-duplicate-path", Place: place})
	}
	w.paths[key] = struct{}{}
	if h.Type == '2' {
		w.symlinks[key] = struct{}{}
	} else {
		delete(w.symlinks, key)
	}
}

func clip(s string) string {
	const limit = 200
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
