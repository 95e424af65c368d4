//go:build !linux

package erofs

import "errors"

// errNotHere says why: hard links, device numbers and change times are read
// from the kernel's own stat structure.
var errNotHere = errors.New("reading a directory as mkfs.erofs does is implemented for Linux only; a file list works everywhere")

// ReadOptions tune ReadDir.
type ReadOptions struct {
	Skip func(path string, n *Node) bool
}

// ReadDir is not implemented for this system.
func ReadDir(string, ReadOptions) (*Node, error) { return nil, errNotHere }

// StatFile is not implemented for this system.
func StatFile(string) (uint32, Stat, error) { return 0, Stat{}, errNotHere }

// DirContent is not implemented for this system.
type DirContent struct{}

// OpenDir is not implemented for this system.
func OpenDir(string) (*DirContent, error) { return nil, errNotHere }

// Close does nothing.
func (*DirContent) Close() error { return nil }

// Open implements Content.
func (*DirContent) Open(string, *Node) (File, error) { return nil, errNotHere }
