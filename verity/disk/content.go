package disk

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"sort"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/xet"
)

// Text writes the path with its size and hashes.
func (c Content) Text() string {
	s := fmt.Sprintf("%q, %d bytes", c.Path, c.Size)
	if !c.SHA256.IsZero() {
		s += ", sha256 " + c.SHA256.Hex()
	}
	if c.Xet != "" {
		s += ", xet " + c.Xet
	}
	return s
}

// watching asks for one kind of hash of files.
type watching struct {
	name string
	want func(path string, n *erofs.Node) hash.Hash
}

// The kinds. Each is fed on a goroutine of its own.
const (
	watchSource = "source" // Options.Watch
	watchSHA256 = "sha256"
	watchXet    = "xet"
	watchSigned = "signed"
)

// watches lists what is hashed beside what Options.Watch asks for. A SHA-256
// that one of them has already is not made again.
func (o Options) watches() (out []watching) {
	plain := o.Signed != nil && o.Signed.Plain()
	if o.SHA256 || plain {
		out = append(out, watching{watchSHA256, func(path string, _ *erofs.Node) hash.Hash {
			if o.ofSource(path) {
				return nil
			}
			return sha256.New()
		}})
	}
	if o.Signed != nil && !plain {
		out = append(out, watching{watchSigned, o.Signed.Watch})
	}
	switch {
	case o.Xet:
		out = append(out, watching{watchXet, func(string, *erofs.Node) hash.Hash { return xet.New() }})
	case o.Source != nil && o.Source.HasXet():
		out = append(out, watching{watchXet, func(path string, _ *erofs.Node) hash.Hash { return o.Source.WatchXet(path) }})
	}
	return out
}

// ofSource reports whether the source's own hash of a path is its SHA-256.
func (o Options) ofSource(path string) bool {
	if o.Source == nil {
		return false
	}
	e := o.Source.Entries[path]
	return e.Unfollowed == "" && !e.SHA256.IsZero()
}

func (r *run) openWatches() error {
	all := r.o.also
	if r.o.Watch != nil {
		all = append([]watching{{watchSource, r.o.Watch}}, all...)
	}
	for _, a := range all {
		if what := r.o.unkept(a.name); r.o.Checkpoint != "" && what != "" {
			return fmt.Errorf("a run with %s cannot be resumed, because their state cannot be kept: leave them or the checkpoint out", what)
		}
		r.watches = append(r.watches, newWatch(r.plan, a.name, a.want))
	}
	return nil
}

// unkept names the hashes of a watch whose state cannot be written down, "" for
// none.
func (o Options) unkept(watch string) string {
	switch watch {
	case watchXet:
		return "Xet hashes"
	case watchSigned:
		return fmt.Sprintf("a signature's digests by %s of %s", o.Signed.Hash, o.Signed.Method())
	}
	return ""
}

func (r *run) finishWatches() error {
	r.res.sums = map[string]map[string][]byte{}
	for _, w := range r.watches {
		sums, err := w.sums()
		if err != nil {
			return err
		}
		if w.name == watchSource {
			r.res.Files = sums
			continue
		}
		r.res.sums[w.name] = sums
	}
	return nil
}

// content holds the files against what was signed, and lists their hashes.
func (o Options) content(plan *erofs.Plan, res *Result) {
	sha := map[string][]byte{}
	maps.Copy(sha, res.sums[watchSHA256])
	for path, sum := range res.Files {
		if o.ofSource(path) && len(sum) == sha256.Size {
			sha[path] = sum
		}
	}
	if o.Signed != nil {
		sums := res.sums[watchSigned]
		if o.Signed.Plain() {
			sums = sha
		}
		report := o.Signed.Check(plan, sums, o.Signature, o.excluded)
		res.Signed = &report
	}
	if !o.SHA256 && !o.Xet {
		return
	}
	plan.Names(func(path string, ino uint32) {
		n := plan.Node(ino)
		if !n.Is(erofs.ModeRegular) {
			return
		}
		c := Content{Path: path, Size: n.Size}
		if sum := sha[path]; o.SHA256 && len(sum) == sha256.Size {
			if d, err := digest.FromBytes(digest.SHA256, sum); err == nil {
				c.SHA256 = Hex{d}
			}
		}
		if sum := res.sums[watchXet][path]; o.Xet && len(sum) == xet.Size {
			c.Xet = xet.Text(sum)
		}
		res.Content = append(res.Content, c)
	})
	sort.Slice(res.Content, func(a, b int) bool { return res.Content[a].Path < res.Content[b].Path })
}
