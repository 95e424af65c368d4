package source

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/xet"
)

// An Entry is what a source says about one path.
type Entry struct {
	// Mode has the type and permission bits as a checkout under umask 022 gets
	// them; 0 if the source does not say. A submodule is a directory.
	Mode uint32
	// Perm says that the permission bits are the source's own. Otherwise they
	// are those of a plain checkout, for planning, and are not compared.
	Perm bool
	Size int64 // bytes of the content; -1 if the source does not say
	// SHA256 is the content's digest, of files that are stored with Git LFS.
	SHA256 digest.Digest
	// Xet is the hub's other name of the same content, "" if the source does not
	// have it.
	Xet string
	// LFS says that SHA256 comes from a Git LFS pointer, which is what a
	// checkout has where the content is not fetched.
	LFS bool
	// Blob is git's object name of everything else: SHA-1 over "blob ", the
	// size, a zero byte and the content that a checkout has (the target of a
	// symlink).
	Blob digest.Digest
	// AutoCRLF is the same of what a checkout with core.autocrlf would have;
	// zero if that is not known or the same.
	AutoCRLF digest.Digest
	// Unfollowed says what makes a checkout's content another than the blob's,
	// in a way that is not followed here; nothing then binds the content.
	Unfollowed string
	// Target of a symlink, where the source has it in clear.
	Target string
	// Submodule is a commit of another repository; a checkout has an empty
	// directory in its place.
	Submodule bool
}

// A Tree is all that a source says: the files of a model by path.
type Tree struct {
	Name    string // what it is, for people: "commit 0123…", "file list x.json"
	Commit  string // the commit's object name in hex, if the source is one
	Remotes []string
	Entries map[string]Entry
	// Partial is a source that lists files only: directories, symlinks and
	// modes that it does not mention are not judged.
	Partial bool
	// Suspect says why entries may be missing, "" if nothing speaks for it.
	Suspect string
}

// WithPointers is the tree of a checkout that does not fetch the content of some
// Git LFS files and so has their pointers. They are returned by their paths.
func (t *Tree) WithPointers(unfetched func(path string) bool) (*Tree, map[string][]byte) {
	out, pointers := *t, map[string][]byte{}
	for p, e := range t.Entries {
		if e.LFS && unfetched(p) {
			pointers[p] = []byte(Pointer{e.SHA256, e.Size}.String())
		}
	}
	if len(pointers) == 0 {
		return t, nil
	}
	out.Entries = maps.Clone(t.Entries)
	for p, b := range pointers {
		e := out.Entries[p]
		e.LFS, e.SHA256, e.Xet, e.Size, e.Blob = false, digest.Digest{}, "", int64(len(b)), blobOf(b)
		out.Entries[p] = e
	}
	return &out, pointers
}

// Watch returns the hash that binds a file's content to its entry, nil for a
// path that the source does not have. It fits disk.Options.Watch.
func (t *Tree) Watch(path string, n *erofs.Node) hash.Hash {
	e, ok := t.Entries[path]
	switch {
	case !ok || e.Unfollowed != "":
		return nil
	case !e.SHA256.IsZero():
		return sha256.New()
	case !e.Blob.IsZero():
		return newBlob(n.Size)
	}
	return nil
}

// HasXet reports whether the source has the Xet hash of any file.
func (t *Tree) HasXet() bool {
	for _, e := range t.Entries {
		if e.Xet != "" {
			return true
		}
	}
	return false
}

// WatchXet returns the hash of a file whose Xet hash the source has, else nil.
func (t *Tree) WatchXet(path string) hash.Hash {
	if t.Entries[path].Xet == "" {
		return nil
	}
	return xet.New()
}

// newBlob returns a hash that gives git's object name of a blob.
func newBlob(size int64) hash.Hash {
	h := sha1.New()
	h.Write([]byte("blob " + strconv.FormatInt(size, 10) + "\x00"))
	return h
}

// A Problem is one path that is not as the source says.
type Problem struct {
	Path  string `json:"path"`
	What  string `json:"what"`
	Found string `json:"found,omitempty"`
	Want  string `json:"want,omitempty"`
}

// String says it in one line.
func (p Problem) String() string {
	s := fmt.Sprintf("%q: %s", p.Path, p.What)
	if p.Found != "" || p.Want != "" {
		s += fmt.Sprintf(": found %s, want %s", p.Found, p.Want)
	}
	return s
}

// A Report says whether a directory is what its source says.
type Report struct {
	Source   string    `json:"source"`
	Commit   string    `json:"commit,omitempty"`
	Remotes  []string  `json:"remotes,omitempty"` // as the repository's own configuration claims
	Files    int       `json:"files"`             // whose content was compared by digest
	Excluded int       `json:"excluded"`          // entries of the source that were left out
	Unbound  []string  `json:"unbound,omitempty"` // files without a digest in the source, or of which it does not say all
	Problems []Problem `json:"problems"`          // sorted by path
}

// OK reports whether everything that the source says holds, and all files are
// bound by a digest.
func (r Report) OK() bool { return len(r.Problems) == 0 && len(r.Unbound) == 0 }

// String is the first sentence for people.
func (r Report) String() string {
	switch {
	case r.OK():
		return "weights = " + r.Source
	case len(r.Problems) > 0:
		return fmt.Sprintf("weights are not %s: %s", r.Source, r.Problems[0])
	}
	return fmt.Sprintf("weights are not bound to %s: it has no digest of %q", r.Source, r.Unbound[0])
}

// Check compares the names, types and modes of a planned tree, and the content
// digests and Xet hashes of its files, with the source. excluded says which paths
// were left out on purpose; nil means none.
func (t *Tree) Check(plan *erofs.Plan, digests, xets map[string][]byte, excluded func(path string, dir bool) bool) Report {
	r := Report{Source: t.Name, Commit: t.Commit, Remotes: t.Remotes, Problems: []Problem{}}
	seen := map[string]bool{}
	plan.Names(func(path string, ino uint32) {
		seen[path] = true
		t.checkOne(&r, path, plan.Node(ino), digests[path], xets[path])
	})
	for path, e := range t.Entries {
		switch {
		case seen[path]:
		case Excluded(path, e.Mode&erofs.ModeType == erofs.ModeDir, excluded):
			r.Excluded++
		case t.Partial && e.Mode&erofs.ModeType == erofs.ModeDir:
		default:
			r.Problems = append(r.Problems, Problem{Path: path, What: "is in the source and not in the directory"})
		}
	}
	sort.Slice(r.Problems, func(a, b int) bool { return r.Problems[a].Path < r.Problems[b].Path })
	slices.Sort(r.Unbound)
	return r
}

// Excluded tries the path and every directory above it.
func Excluded(path string, dir bool, excluded func(string, bool) bool) bool {
	if excluded == nil {
		return false
	}
	if excluded(path, dir) {
		return true
	}
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		if excluded(path[:i], true) {
			return true
		}
	}
	return false
}

func (t *Tree) checkOne(r *Report, path string, n *erofs.Node, sum, xetSum []byte) {
	problem := func(what, found, want string) {
		r.Problems = append(r.Problems, Problem{path, what, found, want})
	}
	e, ok := t.Entries[path]
	if !ok {
		// Directories come with what is in them; an empty one is its own.
		if n.Is(erofs.ModeDir) {
			if len(n.Children) == 0 && path != "." && !t.Partial {
				problem("is an empty directory that the source does not have", "", "")
			}
			return
		}
		problem("is in the directory and not in the source", "", "")
		return
	}
	if e.Mode != 0 && e.Mode&erofs.ModeType != n.Mode&erofs.ModeType {
		problem("file type", typeName(n.Mode), typeName(e.Mode))
		return
	}
	if e.Submodule && len(n.Children) > 0 {
		problem("is a submodule, which a plain checkout leaves empty", fmt.Sprintf("%d entries", len(n.Children)), "none")
	}
	// git keeps one permission bit: whether the owner may execute a file.
	if e.Perm && n.Is(erofs.ModeRegular) && e.Mode&0o100 != n.Mode&0o100 {
		problem("mode", fmt.Sprintf("%04o", n.Mode&erofs.ModePerm), fmt.Sprintf("%04o", e.Mode&erofs.ModePerm))
	}
	switch {
	case n.Is(erofs.ModeRegular):
		t.checkContent(r, path, n, e, sum, xetSum, problem)
	case n.Is(erofs.ModeSymlink):
		t.checkTarget(r, path, n, e, problem)
	}
}

func (t *Tree) checkContent(r *Report, path string, n *erofs.Node, e Entry, sum, xetSum []byte, problem func(what, found, want string)) {
	if e.Unfollowed != "" {
		r.Unbound = append(r.Unbound, fmt.Sprintf("%s (%s is not followed)", path, e.Unfollowed))
		return
	}
	want := e.SHA256
	if want.IsZero() {
		want = e.Blob
	}
	if want.IsZero() {
		if e.Size >= 0 && n.Size != e.Size {
			problem("size", fmt.Sprint(n.Size), fmt.Sprint(e.Size))
		}
		if e.Xet != "" {
			r.Files++
			checkXet(e, xetSum, problem)
			return
		}
		r.Unbound = append(r.Unbound, path)
		return
	}
	got, err := digest.FromBytes(want.Algorithm(), sum)
	if err != nil {
		problem("content was not hashed", "", want.String())
		return
	}
	r.Files++
	if !e.SHA256.IsZero() && got == digest.SHA256.Sum([]byte(Pointer{e.SHA256, e.Size}.String())) {
		problem("is the Git LFS pointer in place of the content (git lfs pull)", fmt.Sprintf("%d bytes", n.Size), fmt.Sprintf("%d bytes with %s", e.Size, e.SHA256))
		return
	}
	if got == e.AutoCRLF {
		problem("has CRLF line ends, as core.autocrlf makes them; a plain checkout on Linux does not", fmt.Sprintf("%d bytes", n.Size), fmt.Sprintf("%d bytes", e.Size))
		return
	}
	if e.Size >= 0 && n.Size != e.Size {
		problem("size", fmt.Sprint(n.Size), fmt.Sprint(e.Size))
		return
	}
	if got != want {
		problem("content", got.String(), want.String())
		return
	}
	if e.Xet != "" {
		checkXet(e, xetSum, problem)
	}
}

func checkXet(e Entry, sum []byte, problem func(what, found, want string)) {
	switch {
	case len(sum) != xet.Size:
		problem("content was not hashed", "", "xet:"+e.Xet)
	case xet.Text(sum) != e.Xet:
		problem("Xet hash", xet.Text(sum), e.Xet)
	}
}

func (t *Tree) checkTarget(r *Report, path string, n *erofs.Node, e Entry, problem func(what, found, want string)) {
	switch {
	case !e.Blob.IsZero():
		h := newBlob(n.Size)
		h.Write([]byte(n.Target))
		if got := digest.FromHash(digest.SHA1, h); got != e.Blob {
			problem("symlink target", fmt.Sprintf("%.200q (%s)", n.Target, got), e.Blob.String())
		}
		r.Files++
	case e.Target != "":
		if n.Target != e.Target {
			problem("symlink target", fmt.Sprintf("%.200q", n.Target), fmt.Sprintf("%.200q", e.Target))
		}
	default:
		r.Unbound = append(r.Unbound, path)
	}
}

func typeName(mode uint32) string {
	switch mode & erofs.ModeType {
	case erofs.ModeRegular:
		return "a regular file"
	case erofs.ModeDir:
		return "a directory"
	case erofs.ModeSymlink:
		return "a symlink"
	}
	return "a special file"
}
