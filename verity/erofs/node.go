package erofs

import (
	"fmt"
	"io"
)

// Type and permission bits of a mode, as in stat.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
	ModePerm    = 0o007777
)

// A Node is one name in the source tree, as lstat sees it.
type Node struct {
	Name   string // raw bytes; "" for the root
	Mode   uint32 // type and permission bits
	Size   int64  // bytes; regular files, and symlinks (length of Target)
	Target string // of a symlink
	Major  uint32 // of a device
	Minor  uint32

	// Link is the identity that hard links share: names of a non-directory
	// with the same Link become one inode. The zero value shares with nobody.
	Link LinkID

	Children []*Node // of a directory, in any order

	// Stat is for whoever opens the file later and must find the same one.
	Stat Stat
	// Source is the path to open if it is not the node's own: a symlink that
	// was replaced by the file it leads to.
	Source string
}

// LinkID is what two names of one file have in common.
type LinkID struct{ Dev, Ino uint64 }

// Stat identifies a version of a file. Times are nanoseconds since 1970.
type Stat struct {
	Dev, Ino     uint64
	Size         int64
	MTime, CTime int64
	NLink        uint64
}

// Is reports whether n has the given type bits.
func (n *Node) Is(typ uint32) bool { return n.Mode&ModeType == typ }

// Content opens the regular files of a tree.
type Content interface {
	// Open opens the file at a path relative to the tree's root. Reading must
	// give exactly n.Size bytes; Close reports it if the file changed since
	// the tree was read.
	Open(path string, n *Node) (File, error)
}

// File is an open source file.
type File interface {
	io.ReaderAt
	Close() error
}

// ChangedError is a source file that is not what the plan was made from.
type ChangedError struct {
	Path        string
	What        string // "size", "modification time", "content ends early", …
	Found, Want string
}

func (e *ChangedError) Error() string {
	s := fmt.Sprintf("file %q changed while it was measured: %s", e.Path, e.What)
	if e.Found != "" {
		s += fmt.Sprintf(" is %s, was %s", e.Found, e.Want)
	}
	return s
}

// TreeError is a source tree that cannot become an image.
type TreeError struct {
	Path        string
	Found, Want string
}

func (e *TreeError) Error() string {
	return fmt.Sprintf("source tree: %q: %s, want %s", e.Path, e.Found, e.Want)
}
