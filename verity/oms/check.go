package oms

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"path"
	"slices"
	"sort"
	"strings"

	"golang.org/x/crypto/blake2b"
	"lukechampine.com/blake3"

	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/source"
)

// ignoredByRule are paths that statements leave out beside their own list (OpenSSF
// Model Signing, "ignored paths"); they lie at the top of the model.
var ignoredByRule = []string{".git", ".gitattributes", ".github", ".gitignore"}

// A Report says whether a directory is what was signed.
type Report struct {
	Model     string `json:"model"` // the name that the signer gave it
	Predicate string `json:"predicate_type"`
	Method    string `json:"method"` // "files" or "shards of N bytes"
	Hash      string `json:"hash_type"`
	Files     int    `json:"files"` // whose content is the signed one
	// Root is the statement's digest of the whole content, Computed ours of the
	// same files; empty where one of them was not there.
	Root     string           `json:"root"`
	Computed string           `json:"computed,omitempty"`
	Problems []source.Problem `json:"problems"` // sorted by path
	// Excluded are signed files that the disk leaves out on purpose.
	Excluded []string `json:"excluded,omitempty"`
	// Uncovered are files on the disk that the signature says nothing of.
	Uncovered []Uncovered `json:"uncovered,omitempty"`
}

// Uncovered is a file that a signature says nothing of.
type Uncovered struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Differs reports whether something on the disk is another than was signed.
func (r Report) Differs() bool { return len(r.Problems) > 0 }

// OK reports whether all that was signed is there, and all that is there was
// signed, but for what the statement itself leaves out.
func (r Report) OK() bool {
	return len(r.Problems) == 0 && len(r.Excluded) == 0 && r.Files > 0 && r.Computed == r.Root
}

// String is the first sentence for people.
func (r Report) String() string {
	switch {
	case r.OK():
		return "weights = the signed ones"
	case r.Differs():
		return "weights are not the signed ones: " + r.Problems[0].String()
	case len(r.Excluded) > 0:
		return fmt.Sprintf("weights are not all the signed ones: the disk leaves out %q", r.Excluded[0])
	}
	return "weights are not bound to the signature: nothing was compared"
}

// Method says how the files were hashed.
func (s *Statement) Method() string {
	if s.ShardSize > 0 {
		return fmt.Sprintf("shards of %d bytes", s.ShardSize)
	}
	return "files"
}

// Plain reports whether the digests are SHA-256 of whole files, as Git LFS has.
func (s *Statement) Plain() bool { return s.Hash == SHA256 && s.ShardSize == 0 }

// Watch returns the hash of a file that Check compares; nil for a file that
// cannot be a signed one. It fits disk.Options.Watch.
func (s *Statement) Watch(path string, n *erofs.Node) hash.Hash {
	if s.ShardSize == 0 {
		return s.fresh()
	}
	// The digests of all shards are kept, so there must not be more of them
	// than are signed: of the file itself, or of a link to it.
	most := s.shards[path]
	if s.Symlinks {
		most = len(s.Resources)
	}
	if (n.Size+s.ShardSize-1)/s.ShardSize > int64(most) {
		return nil
	}
	return &shards{size: s.ShardSize, fresh: s.fresh, h: s.fresh()}
}

func (s *Statement) fresh() hash.Hash {
	switch s.Hash {
	case BLAKE2b:
		h, err := blake2b.New512(nil)
		if err != nil {
			panic(err) // only a key can be wrong
		}
		return h
	case BLAKE3:
		return blake3.New(32, nil)
	}
	return sha256.New()
}

// shards hashes each part of a file on its own; its sum is all of theirs.
type shards struct {
	size  int64
	fresh func() hash.Hash
	h     hash.Hash
	fed   int64 // bytes of the current shard
	done  []byte
}

func (s *shards) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if s.fed == s.size {
			s.done = s.h.Sum(s.done)
			s.h.Reset()
			s.fed = 0
		}
		k := min(int64(len(b)), s.size-s.fed)
		s.h.Write(b[:k])
		s.fed += k
		b = b[k:]
	}
	return n, nil
}

func (s *shards) Sum(b []byte) []byte {
	b = append(b, s.done...)
	if s.fed > 0 {
		b = s.h.Sum(b)
	}
	return b
}

func (s *shards) Reset()         { s.h.Reset(); s.done, s.fed = nil, 0 }
func (s *shards) Size() int      { return s.h.Size() }
func (s *shards) BlockSize() int { return s.h.BlockSize() }

// Check holds a planned tree and the digests of its files, as Watch made them,
// against the statement. signature is the path of the signature file in the
// tree, "" where it lies elsewhere; excluded says which paths were left out on
// purpose.
func (s *Statement) Check(plan *erofs.Plan, digests map[string][]byte, signature string, excluded func(path string, dir bool) bool) Report {
	c := &check{s: s, plan: plan, digests: digests, signature: signature, files: map[string][]Resource{}, nodes: map[string]*erofs.Node{}}
	c.r = Report{Model: s.Model, Predicate: s.Predicate, Method: s.Method(), Hash: string(s.Hash), Root: hex.EncodeToString(s.Root[:]), Problems: []source.Problem{}}
	for _, res := range s.Resources {
		c.files[s.path(res)] = append(c.files[s.path(res)], res)
	}
	plan.Names(func(p string, ino uint32) { c.nodes[p] = plan.Node(ino) })
	for p, n := range c.nodes {
		c.one(p, n)
	}
	for p := range c.files {
		if _, there := c.nodes[p]; there {
			continue
		}
		if source.Excluded(p, false, excluded) {
			c.r.Excluded = append(c.r.Excluded, p)
			continue
		}
		c.problem(p, "is signed and not in the directory", "", "")
	}
	sort.Slice(c.r.Problems, func(a, b int) bool { return c.r.Problems[a].Path < c.r.Problems[b].Path })
	slices.Sort(c.r.Excluded)
	slices.SortFunc(c.r.Uncovered, func(a, b Uncovered) int { return strings.Compare(a.Path, b.Path) })
	c.recompute()
	return c.r
}

type check struct {
	s         *Statement
	plan      *erofs.Plan
	digests   map[string][]byte
	signature string
	files     map[string][]Resource
	nodes     map[string]*erofs.Node
	r         Report
}

func (c *check) problem(p, what, found, want string) {
	c.r.Problems = append(c.r.Problems, source.Problem{Path: p, What: what, Found: found, Want: want})
}

func (c *check) uncovered(p, why string) {
	c.r.Uncovered = append(c.r.Uncovered, Uncovered{p, why})
}

// ignored says why the statement leaves a path out, "" where it does not.
func (c *check) ignored(p string) string {
	below := func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
	switch {
	case c.signature != "" && p == c.signature:
		return "the signature"
	case slices.ContainsFunc(ignoredByRule, below):
		return "ignored by rule"
	case slices.ContainsFunc(c.s.Ignored, below):
		return "ignored by the statement"
	}
	return ""
}

func (c *check) one(p string, n *erofs.Node) {
	list, signed := c.files[p]
	target, at := n, p
	if n.Is(erofs.ModeSymlink) {
		if !c.s.Symlinks {
			if signed || c.ignored(p) == "" {
				c.problem(p, "is a symlink, and the statement is of a model without any", "", "")
			} else {
				c.uncovered(p, c.ignored(p))
			}
			return
		}
		var why string
		if target, at, why = c.follow(p); why != "" {
			if signed || c.ignored(p) == "" {
				c.problem(p, why, "", "")
			}
			return
		}
	}
	switch {
	case target.Is(erofs.ModeDir):
		if signed {
			c.problem(p, "file type", "a directory", "a file")
		}
	case !target.Is(erofs.ModeRegular):
		c.problem(p, "is a special file, which no statement covers", "", "")
	case !signed && c.s.ShardSize > 0 && target.Size == 0:
		// Shards say nothing of empty files.
		c.uncovered(p, "empty, and shards do not cover it")
	case !signed && c.ignored(p) != "":
		c.uncovered(p, c.ignored(p))
	case !signed:
		c.problem(p, "is in the directory and not signed", "", "")
	default:
		c.content(p, at, target, list)
	}
}

// follow finds the file that a symlink leads to within the tree.
func (c *check) follow(p string) (n *erofs.Node, at, why string) {
	at = p
	for range 40 {
		n := c.nodes[at]
		switch {
		case n == nil:
			return nil, "", "is a symlink to what is not on the disk"
		case !n.Is(erofs.ModeSymlink):
			return n, at, ""
		case strings.HasPrefix(n.Target, "/"):
			return nil, "", "is a symlink out of the directory"
		}
		if at = path.Join(path.Dir(at), n.Target); at == ".." || strings.HasPrefix(at, "../") {
			return nil, "", "is a symlink out of the directory"
		}
	}
	return nil, "", "is a symlink in a circle"
}

func (c *check) content(p, at string, n *erofs.Node, list []Resource) {
	got, hashed := c.digests[at]
	if c.s.ShardSize == 0 {
		switch {
		case !hashed:
			c.problem(p, "content was not hashed", "", "")
		case !bytes.Equal(got, list[0].Digest):
			c.problem(p, "content", fmt.Sprintf("%s:%x", c.s.Hash, got), fmt.Sprintf("%s:%x", c.s.Hash, list[0].Digest))
		default:
			c.r.Files++
		}
		return
	}
	size := c.s.Hash.size()
	want := (n.Size + c.s.ShardSize - 1) / c.s.ShardSize
	if int64(len(list)) != want || !hashed || int64(len(got)) != want*int64(size) {
		c.problem(p, "shards", fmt.Sprint(want), fmt.Sprint(len(list)))
		return
	}
	list = slices.SortedFunc(slices.Values(list), func(a, b Resource) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	for i, r := range list {
		start := int64(i) * c.s.ShardSize
		end := min(start+c.s.ShardSize, n.Size)
		if r.Start != start || r.End != end {
			c.problem(p, fmt.Sprintf("shard %d", i), fmt.Sprintf("bytes %d to %d", start, end), fmt.Sprintf("bytes %d to %d", r.Start, r.End))
			return
		}
		if sum := got[i*size : (i+1)*size]; !bytes.Equal(sum, r.Digest) {
			c.problem(p, fmt.Sprintf("content of bytes %d to %d", start, end), fmt.Sprintf("%s:%x", c.s.Hash, sum), fmt.Sprintf("%s:%x", c.s.Hash, r.Digest))
			return
		}
	}
	c.r.Files++
}

// recompute makes the digest of the whole content from what was hashed here.
func (c *check) recompute() {
	whole := true
	size := c.s.Hash.size()
	sum := c.s.root(func(r Resource) []byte {
		p := c.s.path(r)
		if n := c.nodes[p]; n != nil && n.Is(erofs.ModeSymlink) && c.s.Symlinks {
			_, p, _ = c.follow(p)
		}
		got := c.digests[p]
		if c.s.ShardSize > 0 {
			i := r.Start / c.s.ShardSize
			if i >= int64(len(got)/size) {
				whole = false
				return nil
			}
			return got[int(i)*size:][:size]
		}
		whole = whole && len(got) == size
		return got
	})
	if whole {
		c.r.Computed = hex.EncodeToString(sum[:])
	}
}
