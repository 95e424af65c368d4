package disk

import (
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/source"
)

// A Warning is something that silently changes a root hash, or did change.
type Warning struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Count   int      `json:"count"`
	Paths   []string `json:"paths,omitempty"` // the first few
}

// Text says it with the first paths, where the message does not name them.
func (w Warning) Text() string {
	if len(w.Paths) == 0 || w.Code == WarnHubFolder || w.Code == WarnHubCache {
		return w.Message
	}
	text := fmt.Sprintf("%s: %q", w.Message, w.Paths[0])
	if w.Count > 1 {
		text += fmt.Sprintf(" and %d more", w.Count-1)
	}
	return text
}

// Codes of warnings and of what Normalize changes.
const (
	WarnHardLink    = "hard-link"
	WarnOutside     = "symlink-outside"
	WarnMode        = "unusual-mode"
	WarnSpecial     = "special-file"
	WarnLFSPointer  = "lfs-pointer"
	WarnEmptyDir    = "empty-directory"
	WarnDateEpoch   = "source-date-epoch"
	WarnNestedGit   = "nested-git"
	WarnExcludeNone = "exclude-matches-nothing"
	WarnHubFolder   = "hub-folder"
	WarnHubCache    = "hub-cache"
	WarnListing     = "listing-page" // of a file list
	WarnLFSExcluded = "lfs-excluded"
)

// messages are constant.
var messages = map[string]string{
	WarnHardLink:    "names share one file; a fresh checkout has a file for each name and another root hash (--normalize)",
	WarnOutside:     "symlinks lead out of the directory (a hub cache?); the disk would hold links and no content (--normalize)",
	WarnMode:        "modes are not those of a git checkout under umask 022 (0644, 0755) (--normalize)",
	WarnSpecial:     "devices, FIFOs and sockets cannot come from a git checkout",
	WarnLFSPointer:  "files are Git LFS pointers in place of content (git lfs pull)",
	WarnEmptyDir:    "empty directories cannot come from a git checkout",
	WarnDateEpoch:   "SOURCE_DATE_EPOCH is set: mkfs.erofs would write it as the image's time and get another root hash; this result is without it",
	WarnNestedGit:   "entries named .git below the root are kept, as in the published recipe",
	WarnExcludeNone: "exclude patterns match nothing",
	WarnHubCache:    "is a repository's folder among a hub's caches: the model's files are those of snapshots/COMMIT in it",
	WarnLFSExcluded: "files match an exclude pattern below the root, or begin with a dot: the recipe neither fetches nor removes them, so of Git LFS files its disk has the pointers",
}

// changes are what is said in place of a message of what was changed.
var changes = map[string]string{
	WarnHubCache:    "is a repository's folder among a hub's caches: the model's files are those of snapshots/COMMIT in it",
	WarnLFSExcluded: "files match an exclude pattern below the root, or begin with a dot: taken as their Git LFS pointers, as the recipe leaves them",
}

// hubFolders are what download tools keep in the folder that they fill:
// huggingface_hub since 0.23 (.huggingface, soon renamed to .cache/huggingface,
// huggingface_hub PR 2262), and modelscope.
var hubFolders = map[string]string{
	".cache/huggingface": "is the download tool's own folder and not part of the model",
	".huggingface":       "is the download tool's own folder and not part of the model",
	"._____temp":         "is the download tool's own folder and not part of the model",
}

const maxPaths = 10

// notes collects warnings by code.
type notes struct {
	list  []Warning
	index map[string]int
}

func (n *notes) add(code, path string) { n.note(code, messages[code], path) }

// change notes what was made otherwise than it lies there, where that has words
// of its own.
func (n *notes) change(code, path string) {
	message, ok := changes[code]
	if !ok {
		message = messages[code]
	}
	n.note(code, message, path)
}

func (n *notes) note(code, message, path string) {
	if n.index == nil {
		n.index = map[string]int{}
	}
	k, ok := n.index[code]
	if !ok {
		k = len(n.list)
		n.index[code] = k
		n.list = append(n.list, Warning{Code: code, Message: message})
	}
	w := &n.list[k]
	w.Count++
	if path != "" && len(w.Paths) < maxPaths {
		w.Paths = append(w.Paths, path)
	}
}

// sorted returns the warnings by code, so that the order does not depend on
// that of readdir.
func (n *notes) sorted() []Warning {
	slices.SortFunc(n.list, func(a, b Warning) int { return strings.Compare(a.Code, b.Code) })
	return n.list
}

// Tree is a source tree ready to be planned.
type Tree struct {
	Root     *erofs.Node
	Warnings []Warning
	Changes  []Warning
	Excluded []string
}

// ReadTree reads a directory as the published recipe leaves it: without the
// top .git and without what the patterns exclude.
func ReadTree(o Options) (*Tree, error) { return readTree(o, nil) }

// readTree puts pointers in place of files that the recipe does not fetch.
func readTree(o Options, pointers map[string][]byte) (*Tree, error) {
	t := &Tree{}
	used := make([]bool, len(o.Exclude))
	root, err := erofs.ReadDir(o.Dir, erofs.ReadOptions{Skip: func(path string, n *erofs.Node) bool {
		out := path == ".git"
		for k, g := range o.Exclude {
			if g.Match(path, n.Is(erofs.ModeDir)) {
				out, used[k] = true, true
			}
			if n.Is(erofs.ModeRegular) && g.Unfetched(path) {
				used[k] = true
			}
		}
		if out {
			t.Excluded = append(t.Excluded, path)
		}
		return out
	}})
	if err != nil {
		return nil, err
	}
	slices.Sort(t.Excluded)
	t.Root = root
	content, err := erofs.OpenDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	s := surveyor{o: o, content: content, pointers: pointers, links: map[erofs.LinkID]bool{}}
	if err := s.walk("", root); err != nil {
		return nil, err
	}
	for k, g := range o.Exclude {
		if !used[k] {
			s.warn.add(WarnExcludeNone, g.String())
		}
	}
	if o.SourceDateEpoch != "" {
		s.warn.add(WarnDateEpoch, "")
	}
	t.Warnings, t.Changes = s.warn.sorted(), s.changed.sorted()
	return t, nil
}

// surveyor looks at every node for what is not as in a fresh checkout, and
// with Normalize makes it so.
type surveyor struct {
	o             Options
	content       *erofs.DirContent
	pointers      map[string][]byte
	links         map[erofs.LinkID]bool
	warn, changed notes
}

func (s *surveyor) walk(p string, n *erofs.Node) error {
	name := p
	if p == "" {
		name = "."
	}
	if err := s.survey(name, n); err != nil {
		return err
	}
	// Path order, so that the first few paths of a warning are always the same.
	slices.SortFunc(n.Children, func(a, b *erofs.Node) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range n.Children {
		if err := s.walk(path.Join(p, c.Name), c); err != nil {
			return err
		}
	}
	return nil
}

func (s *surveyor) survey(p string, n *erofs.Node) error {
	if n.Name == ".git" {
		s.warn.add(WarnNestedGit, p)
	}
	switch n.Mode & erofs.ModeType {
	case erofs.ModeSymlink:
		if leavesTree(p, n.Target) {
			if !s.o.Normalize {
				s.warn.add(WarnOutside, p)
				return nil
			}
			if _, ok := s.pointers[p]; ok {
				*n = erofs.Node{Name: n.Name, Mode: erofs.ModeRegular | 0o644}
				s.asPointer(p, n)
			} else if err := s.follow(p, n); err != nil {
				return err
			}
		}
	case erofs.ModeDir:
		if what := hubFolders[p]; what != "" {
			s.warn.note(WarnHubFolder, fmt.Sprintf("%s %s", p, what), strings.Split(p, "/")[0])
		}
		if p == "." && isHubCache(n) {
			s.warn.add(WarnHubCache, p)
		}
		if len(n.Children) == 0 && p != "." {
			s.warn.add(WarnEmptyDir, p)
		}
	case erofs.ModeRegular:
		if _, ok := s.pointers[p]; ok {
			s.asPointer(p, n)
		} else if err := s.pointer(p, n); err != nil {
			return err
		}
	default:
		s.warn.add(WarnSpecial, p)
		return nil
	}
	s.link(p, n)
	s.mode(p, n)
	return nil
}

// asPointer makes of a file the Git LFS pointer that the recipe leaves of it.
func (s *surveyor) asPointer(p string, n *erofs.Node) {
	s.changed.change(WarnLFSExcluded, p)
	n.Size, n.Link, n.Source = int64(len(s.pointers[p])), erofs.LinkID{}, ""
}

// isHubCache recognizes a repository's folder among a hub's caches.
func isHubCache(root *erofs.Node) bool {
	found := 0
	for _, c := range root.Children {
		if c.Is(erofs.ModeDir) && (c.Name == "blobs" || c.Name == "refs" || c.Name == "snapshots") {
			found++
		}
	}
	return found == 3
}

// link notes hard links from their second name on.
func (s *surveyor) link(p string, n *erofs.Node) {
	if n.Link == (erofs.LinkID{}) {
		return
	}
	again := s.links[n.Link]
	s.links[n.Link] = true
	if s.o.Normalize {
		n.Link = erofs.LinkID{}
	}
	if again {
		s.noteOrChange(WarnHardLink, p)
	}
}

func (s *surveyor) noteOrChange(code, p string) {
	if s.o.Normalize {
		s.changed.add(code, p)
	} else {
		s.warn.add(code, p)
	}
}

// mode compares with what git writes under umask 022: it keeps one bit only,
// whether the owner may execute a file.
func (s *surveyor) mode(p string, n *erofs.Node) {
	want := uint32(0o644)
	switch {
	case n.Is(erofs.ModeSymlink):
		return
	case n.Is(erofs.ModeDir) || n.Mode&0o100 != 0:
		want = 0o755
	}
	if n.Mode&erofs.ModePerm == want {
		return
	}
	s.noteOrChange(WarnMode, fmt.Sprintf("%s (%04o)", p, n.Mode&erofs.ModePerm))
	if s.o.Normalize {
		n.Mode = n.Mode&erofs.ModeType | want
	}
}

// follow puts the file in place of a symlink that leaves the tree.
func (s *surveyor) follow(p string, n *erofs.Node) error {
	full := filepath.Join(s.o.Dir, p)
	real, err := filepath.EvalSymlinks(full)
	if err == nil {
		// Names of a tree are opened from its root; this one lies outside of it.
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return fmt.Errorf("normalize: follow symlink %q: %w", p, err)
	}
	mode, stat, err := erofs.StatFile(real)
	if err != nil {
		return fmt.Errorf("normalize: follow symlink %q: %w", p, err)
	}
	if mode&erofs.ModeType != erofs.ModeRegular {
		return &erofs.TreeError{Path: p, Found: "a symlink out of the directory to what is no regular file", Want: "a file, to put it in the symlink's place"}
	}
	s.changed.add(WarnOutside, p)
	*n = erofs.Node{Name: n.Name, Mode: mode, Size: stat.Size, Stat: stat, Source: real}
	return s.pointer(p, n)
}

// leavesTree reports whether a symlink's target is outside the root, judged by
// the names alone.
func leavesTree(p, target string) bool {
	if strings.HasPrefix(target, "/") {
		return true
	}
	to := path.Join(path.Dir(p), target)
	return to == ".." || strings.HasPrefix(to, "../")
}

// pointer notes a Git LFS pointer.
func (s *surveyor) pointer(p string, n *erofs.Node) error {
	// Where the commit is at hand, it says which of them are Git LFS files.
	unfetched := s.o.Source == nil && s.o.unfetched(p)
	if !source.MayBePointer(n.Size) {
		if unfetched {
			s.warn.add(WarnLFSExcluded, p)
		}
		return nil
	}
	f, err := s.content.Open(p, n)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, n.Size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return fmt.Errorf("read %q: %w", p, err)
	}
	_, err = source.ParsePointer(b)
	switch {
	case err == nil && !unfetched:
		s.warn.add(WarnLFSPointer, p)
	case err != nil && unfetched:
		s.warn.add(WarnLFSExcluded, p)
	}
	return nil
}
