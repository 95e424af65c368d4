package recognize

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/source"
)

// Bounds on what is read of a checkout's files to hold them against a commit.
const (
	checkoutFiles = 50_000
	checkoutBytes = 2 << 30
)

// lookGit holds a checkout's files against the commit that its repository says
// it is, and that commit against the release's tag. The repository is as much the
// vendor's word as the files are: what is shown is that they fit, not whose they
// are.
func (s *Subject) lookGit(ctx context.Context) error {
	dir := s.Reader.Path(s.checkoutDir)
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil {
		s.say(pipeline.LevelNote, "checkout-git", "", "the checkout has no .git folder: that these are the files of release %s, nothing here says", s.Checkout.Version)
		return nil
	}
	tree, err := source.OpenGit(dir, "HEAD")
	if err != nil {
		s.say(pipeline.LevelWarning, "checkout-git", ".git", "the files cannot be held against a commit: %v", err)
		return nil
	}
	s.lookTag(dir, tree)
	changed, gone, err := changedFiles(ctx, dir, tree)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.say(pipeline.LevelWarning, "checkout-git", ".git", "the files cannot be held against commit %s: %v", tree.Commit, err)
		return nil
	}
	for _, x := range []struct {
		what  string
		files []string
	}{{"changed", changed}, {"gone", gone}, {"not in the commit at all", s.foreign(tree)}} {
		if len(x.files) > 0 {
			s.say(pipeline.LevelWarning, "checkout-dirty", x.files[0], "the checkout is not commit %s: %s %s: %s", tree.Commit[:12], show.Plural(len(x.files), "file is", "files are"), x.what, some(x.files))
		}
	}
	if len(changed)+len(gone) == 0 {
		s.say(pipeline.LevelNote, "checkout-git", "", "%s of commit %s as git has them", show.Plural(len(tree.Entries), "file and folder is", "files and folders are"), tree.Commit)
	}
	return nil
}

// lookTag holds the commit against the tag of the release that the files name.
func (s *Subject) lookTag(dir string, tree *source.Tree) {
	tag, err := source.OpenGit(dir, "refs/tags/"+s.Checkout.Version)
	switch {
	case err != nil:
		s.say(pipeline.LevelNote, "checkout-tag", "version.nix", "names release %s, and this clone has no such tag to hold commit %s against: git fetch --tags brings it", s.Checkout.Version, tree.Commit[:12])
	case tag.Commit != tree.Commit:
		s.say(pipeline.LevelWarning, "checkout-tag", "version.nix", "names release %s, and this is commit %s, not the tag's, %s", s.Checkout.Version, tree.Commit, tag.Commit)
	default:
		s.say(pipeline.LevelNote, "checkout-tag", "version.nix", "commit %s is the tag %s", tree.Commit, s.Checkout.Version)
	}
}

// foreign are the files that this run reads and the commit does not have, apart
// from those that the vendor's scripts make.
func (s *Subject) foreign(tree *source.Tree) []string {
	var out []string
	for _, f := range s.Found {
		name := f.Name
		if s.checkoutDir != "." {
			below, ok := strings.CutPrefix(name, filepath.ToSlash(s.checkoutDir)+"/")
			if !ok {
				continue
			}
			name = below
		}
		made := slices.Contains(s.Checkout.Hashes, name) || slices.Contains(s.Checkout.Manifests, name) || f.Kind == KindImage
		if _, known := tree.Entries[path.Clean(name)]; !known && !made {
			out = append(out, f.Name)
		}
	}
	return out
}

// changedFiles compares a commit's files with those of a folder, which it never
// leaves.
func changedFiles(ctx context.Context, dir string, tree *source.Tree) (changed, gone []string, err error) {
	if len(tree.Entries) > checkoutFiles {
		return nil, nil, fmt.Errorf("the commit has %d files and folders, at most %d are looked at", len(tree.Entries), checkoutFiles)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	left := int64(checkoutBytes)
	for _, name := range slices.Sorted(maps.Keys(tree.Entries)) {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		e := tree.Entries[name]
		if e.Submodule || e.Mode&erofs.ModeType == erofs.ModeDir {
			continue
		}
		info, err := root.Lstat(filepath.FromSlash(name))
		if errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, name)
			continue
		}
		same := false
		switch {
		case err != nil:
		case e.Mode&erofs.ModeType == erofs.ModeSymlink:
			target, err := root.Readlink(filepath.FromSlash(name))
			same = err == nil && info.Mode()&fs.ModeSymlink != 0 && blob(target) == e.Blob
		case info.Mode().IsRegular():
			if left -= info.Size(); left < 0 {
				return nil, nil, fmt.Errorf("the files have more than %s", show.Size(checkoutBytes))
			}
			same, err = sameFile(root, name, info.Size(), e)
			if err != nil {
				return nil, nil, err
			}
		}
		if !same {
			changed = append(changed, name)
		}
	}
	return changed, gone, nil
}

// blob is git's name of a short content.
func blob(content string) digest.Digest {
	return digest.SHA1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content))
}

// sameFile compares a regular file with what a commit says of it: by git's name
// or, stored with Git LFS, by the pointer's digest.
func sameFile(root *os.Root, name string, size int64, e source.Entry) (bool, error) {
	f, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return false, err
	}
	defer f.Close()
	h, algorithm, want := hash.Hash(sha1.New()), digest.SHA1, e.Blob
	if e.SHA256.IsZero() || size != e.Size {
		fmt.Fprintf(h, "blob %d\x00", size) // a pointer that was left a pointer, too
	} else {
		h, algorithm, want = sha256.New(), digest.SHA256, e.SHA256
	}
	n, err := io.Copy(h, io.LimitReader(f, size+1))
	if err != nil || n != size {
		return false, err
	}
	got, err := digest.FromBytes(algorithm, h.Sum(nil))
	return got == want, err
}

// some names the first few files.
func some(files []string) string {
	const most = 6
	if len(files) <= most {
		return strings.Join(files, ", ")
	}
	return strings.Join(files[:most], ", ") + fmt.Sprintf(" and %d more", len(files)-most)
}
