package source

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/erofs"
)

// Bounds on what is read of a repository.
const (
	maxCommit      = 1 << 20  // bytes of a commit or tag
	maxTreeObject  = 64 << 20 // bytes of one tree
	maxTreeEntries = 1 << 21  // in all trees of a commit
	maxTreeDepth   = 500
	maxTags        = 5
	maxTarget      = 4095      // bytes of a symlink's target
	maxConverted   = 256 << 20 // bytes of a file that a checkout converts
	maxTextFile    = 1 << 20   // bytes of a file that is looked at for core.autocrlf
	maxTextFiles   = 64 << 20  // of all of them
)

// GitError is a repository that does not give what is asked for.
type GitError struct {
	Repository string
	Object     string // object name or reference
	Path       string // of a tree in the commit
	What       string
}

func (e *GitError) Error() string {
	s := fmt.Sprintf("git repository %s: object %.80s", e.Repository, e.Object)
	if e.Path != "" {
		s += fmt.Sprintf(" (%q)", e.Path)
	}
	return s + ": " + e.What
}

// repository reads objects and believes none of them: every object is hashed
// again, so that the commit's name alone binds all that is said about files.
type repository struct {
	path  string
	store *filesystem.Storage
	attrs *attributes
}

// OpenGit reads the files of a commit out of a repository: a folder with .git
// in it, or the .git folder itself. commit is an object name (40 hex digits)
// or a branch, tag or HEAD; "" means HEAD. Content of Git LFS files is taken
// from their pointers, and what the attributes text, eol and ident make of
// others is followed, as git does by itself on Linux. Nothing but the
// repository's own files is read.
func OpenGit(repo, commit string) (_ *Tree, err error) {
	r := &repository{path: repo, attrs: newAttributes()}
	dir := repo
	if st, statErr := os.Stat(filepath.Join(repo, ".git")); statErr == nil {
		if !st.IsDir() {
			return nil, &GitError{repo, ".git", "", "is a file that points to another folder; give that repository's own folder"}
		}
		dir = filepath.Join(repo, ".git")
	}
	if _, err := os.Stat(filepath.Join(dir, "objects")); err != nil {
		return nil, &GitError{repo, "objects", "", "is missing: this is no git repository"}
	}
	r.store = filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(32*cache.MiByte))
	defer r.store.Close()
	// The library parses foreign packs; whatever it stumbles over is an error.
	defer func() {
		if p := recover(); p != nil {
			err = &GitError{repo, commit, "", fmt.Sprintf("cannot be read: %v", p)}
		}
	}()
	id, err := r.resolve(commit)
	if err != nil {
		return nil, err
	}
	id, root, err := r.commitTree(id)
	if err != nil {
		return nil, err
	}
	t := &Tree{Name: "commit " + id.String(), Commit: id.String(), Entries: map[string]Entry{}, Remotes: r.remotes()}
	if err := r.walk(t, root); err != nil {
		return nil, err
	}
	return t, r.convert(t)
}

var objectName = regexp.MustCompile(`^[0-9a-f]{40}$`)

// resolve turns what the user gave into an object name.
func (r *repository) resolve(name string) (plumbing.Hash, error) {
	if name == "" {
		name = "HEAD"
	}
	if objectName.MatchString(strings.ToLower(name)) {
		return plumbing.NewHash(name), nil
	}
	if len(name) > 255 || strings.Contains(name, "..") || strings.HasPrefix(name, "/") {
		return plumbing.ZeroHash, &GitError{r.path, name, "", "is no name of a commit, branch or tag"}
	}
	for _, prefix := range []string{"", "refs/", "refs/tags/", "refs/heads/", "refs/remotes/origin/"} {
		if prefix == "" && name != "HEAD" && !strings.HasPrefix(name, "refs/") {
			continue
		}
		ref := plumbing.ReferenceName(prefix + name)
		for range 8 { // symbolic references
			got, err := r.store.Reference(ref)
			if err != nil {
				break
			}
			if got.Type() == plumbing.HashReference {
				return got.Hash(), nil
			}
			ref = got.Target()
		}
	}
	return plumbing.ZeroHash, &GitError{r.path, name, "", "is not found; give the commit's 40 hex digits"}
}

// object reads an object of bounded size and checks that its name is its hash.
func (r *repository) object(id plumbing.Hash, limit int64) (plumbing.ObjectType, []byte, error) {
	o, err := r.store.EncodedObject(plumbing.AnyObject, id)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return 0, nil, &GitError{r.path, id.String(), "", "is not in the repository"}
	}
	if err != nil {
		return 0, nil, &GitError{r.path, id.String(), "", "cannot be read: " + err.Error()}
	}
	if o.Size() > limit {
		return 0, nil, &GitError{r.path, id.String(), "", fmt.Sprintf("has %d bytes, want at most %d", o.Size(), limit)}
	}
	f, err := o.Reader()
	if err != nil {
		return 0, nil, &GitError{r.path, id.String(), "", "cannot be read: " + err.Error()}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return 0, nil, &GitError{r.path, id.String(), "", "cannot be read: " + err.Error()}
	}
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", o.Type(), len(b))
	h.Write(b)
	if got := h.Sum(nil); !bytes.Equal(got, id[:]) {
		return 0, nil, &GitError{r.path, id.String(), "", fmt.Sprintf("does not have this name: its content hashes to %x", got)}
	}
	return o.Type(), b, nil
}

// commitTree finds the tree of a commit, or of the commit that a tag names.
func (r *repository) commitTree(id plumbing.Hash) (commit, tree plumbing.Hash, err error) {
	for range maxTags {
		typ, b, err := r.object(id, maxCommit)
		if err != nil {
			return commit, tree, err
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		key, value, _ := strings.Cut(string(line), " ")
		switch {
		case typ == plumbing.CommitObject && key == "tree" && objectName.MatchString(value):
			return id, plumbing.NewHash(value), nil
		case typ == plumbing.TagObject && key == "object" && objectName.MatchString(value):
			id = plumbing.NewHash(value)
		default:
			return commit, tree, &GitError{r.path, id.String(), "", fmt.Sprintf("is a %s, want a commit", typ)}
		}
	}
	return commit, tree, &GitError{r.path, id.String(), "", "is a tag of a tag of a tag"}
}

// walk reads all trees of a commit.
func (r *repository) walk(t *Tree, root plumbing.Hash) error {
	type job struct {
		path  string
		id    plumbing.Hash
		depth int
	}
	pending := []job{{"", root, 0}}
	count := 0
	for len(pending) > 0 {
		j := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		typ, b, err := r.object(j.id, maxTreeObject)
		var gitErr *GitError
		if errors.As(err, &gitErr) {
			gitErr.Path = j.path
		}
		if err != nil {
			return err
		}
		if typ != plumbing.TreeObject || j.depth > maxTreeDepth {
			return &GitError{r.path, j.id.String(), j.path, fmt.Sprintf("is a %s at depth %d, want a tree", typ, j.depth)}
		}
		err = parseTree(b, func(mode, name string, id plumbing.Hash) error {
			if count++; count > maxTreeEntries {
				return &GitError{r.path, j.id.String(), j.path, fmt.Sprintf("the commit has more than %d entries", maxTreeEntries)}
			}
			file := name
			if j.path != "" {
				file = j.path + "/" + name
			}
			if _, twice := t.Entries[file]; twice {
				return &GitError{r.path, j.id.String(), j.path, fmt.Sprintf("has two entries named %.80q", name)}
			}
			if mode == "40000" {
				t.Entries[file] = Entry{Mode: erofs.ModeDir | 0o755, Size: -1}
				pending = append(pending, job{file, id, j.depth + 1})
				return nil
			}
			e, err := r.entry(mode, id)
			if err != nil {
				return &GitError{r.path, id.String(), file, err.Error()}
			}
			t.Entries[file] = e
			if name == attributesFile && e.Mode&erofs.ModeType == erofs.ModeRegular {
				return r.attributes(file, id)
			}
			return nil
		})
		if err != nil {
			if errors.As(err, &gitErr) {
				return err
			}
			return &GitError{r.path, j.id.String(), j.path, err.Error()}
		}
	}
	return nil
}

// attributes reads the attributes file of a folder. Without it, what a checkout
// does to the files there is not known.
func (r *repository) attributes(file string, id plumbing.Hash) error {
	typ, b, err := r.object(id, maxAttributes)
	if err == nil && typ != plumbing.BlobObject {
		err = &GitError{r.path, id.String(), file, fmt.Sprintf("is a %s, want a file", typ)}
	}
	var gitErr *GitError
	if errors.As(err, &gitErr) {
		gitErr.Path = file
	}
	if err != nil {
		return err
	}
	r.attrs.add(path.Dir(file), b)
	return nil
}

// convert puts in place of a blob's name and size those of what a checkout
// makes of it, where attributes say that it makes something else.
func (r *repository) convert(t *Tree) error {
	looked := int64(0)
	for _, file := range slices.Sorted(maps.Keys(t.Entries)) {
		e := t.Entries[file]
		if e.Mode&erofs.ModeType != erofs.ModeRegular || e.LFS {
			continue
		}
		c := conversionOf(r.attrs.of(file))
		small := e.Size >= 0 && e.Size <= maxTextFile && looked+e.Size <= maxTextFiles
		if c.encoding != "" {
			e.Unfollowed = "its attribute working-tree-encoding=" + c.encoding
		}
		if e.Unfollowed == "" && !c.none() && (e.Size < 0 || e.Size > maxConverted) {
			e.Unfollowed = "its attributes eol or ident, because its blob is not in the repository or too large"
		}
		if e.Unfollowed != "" || c.none() && !(c.text && small) {
			t.Entries[file] = e
			continue
		}
		id := plumbing.Hash(e.Blob.Bytes())
		_, b, err := r.object(id, maxConverted)
		if err != nil {
			return err
		}
		if c.none() {
			looked += e.Size
			if crlf := toCRLF(b, true); len(crlf) != len(b) {
				e.AutoCRLF = blobOf(crlf)
			}
		} else {
			b = c.apply(b, id.String())
			e.Size, e.Blob = int64(len(b)), blobOf(b)
		}
		t.Entries[file] = e
	}
	return nil
}

// blobOf gives git's object name of a blob.
func blobOf(content []byte) digest.Digest {
	h := newBlob(int64(len(content)))
	h.Write(content)
	return digest.FromHash(digest.SHA1, h)
}

// parseTree reads a tree object: entries of an octal mode, a space, a name, a
// zero byte and a binary object name.
func parseTree(b []byte, yield func(mode, name string, id plumbing.Hash) error) error {
	for at := 0; at < len(b); {
		head, _, ok := bytes.Cut(b[at:], []byte{0})
		mode, name, cut := strings.Cut(string(head), " ")
		end := at + len(head) + 1 + sha1.Size
		if !ok || !cut || end > len(b) {
			return fmt.Errorf("entry at byte %d is not complete", at)
		}
		if name == "" || name == "." || name == ".." || len(name) > 4096 || strings.Contains(name, "/") || strings.EqualFold(name, ".git") {
			return fmt.Errorf("entry at byte %d has the name %.80q, which no checkout can have", at, name)
		}
		if err := yield(mode, name, plumbing.Hash(b[end-sha1.Size:end])); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// entry says what a checkout under umask 022 makes of a tree entry.
func (r *repository) entry(mode string, id plumbing.Hash) (Entry, error) {
	e := Entry{Size: -1, Perm: true}
	switch mode {
	case "100644", "100664": // the second is an old one that git still reads
		e.Mode = erofs.ModeRegular | 0o644
	case "100755":
		e.Mode = erofs.ModeRegular | 0o755
	case "120000":
		e.Mode = erofs.ModeSymlink | 0o777
	case "160000":
		return Entry{Mode: erofs.ModeDir | 0o755, Size: -1, Submodule: true}, nil
	default:
		return e, fmt.Errorf("mode %.20q, want 100644, 100755, 120000, 160000 or 40000", mode)
	}
	blob, err := digest.FromBytes(digest.SHA1, id[:])
	if err != nil {
		return e, err
	}
	e.Blob = blob
	if e.Mode&erofs.ModeType == erofs.ModeSymlink {
		if size, err := r.store.EncodedObjectSize(id); err == nil {
			_, b, err := r.object(id, maxTarget)
			if err != nil {
				return e, err
			}
			e.Target, e.Size = string(b), size
		}
		return e, nil
	}
	// Only a small blob can be an LFS pointer. One that is not there (partial
	// clones leave blobs out) is bound by its name alone.
	size, err := r.store.EncodedObjectSize(id)
	if err != nil {
		return e, nil
	}
	e.Size = size
	if !MayBePointer(size) {
		return e, nil
	}
	_, b, err := r.object(id, maxPointer)
	if err != nil {
		return e, err
	}
	if p, err := ParsePointer(b); err == nil {
		e.Size, e.SHA256, e.LFS = p.Size, p.OID, true
	}
	return e, nil
}

// remotes lists the URLs that the repository's configuration claims to come
// from, without the credentials that some have in them.
func (r *repository) remotes() []string {
	c, err := r.store.Config()
	if err != nil {
		return nil
	}
	var urls []string
	for _, remote := range c.Remotes {
		for _, u := range remote.URLs {
			if scheme, rest, ok := strings.Cut(u, "://"); ok {
				host, path, _ := strings.Cut(rest, "/")
				u = scheme + "://" + host[strings.LastIndexByte(host, '@')+1:] + "/" + path
			}
			urls = append(urls, u)
		}
	}
	slices.Sort(urls)
	return urls
}
