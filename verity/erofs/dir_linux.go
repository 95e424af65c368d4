package erofs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReadOptions tune ReadDir.
type ReadOptions struct {
	// Skip leaves out an entry and everything below it; path is relative to
	// the root and "/"-separated.
	Skip func(path string, n *Node) bool
}

// ReadDir reads the tree below a directory with lstat: symlinks are never
// followed, mount points are crossed, as mkfs.erofs does.
func ReadDir(root string, o ReadOptions) (*Node, error) {
	var st unix.Stat_t
	if err := lstat(root, &st); err != nil {
		return nil, err
	}
	top := newNode("", &st)
	n := &top
	if n.Is(ModeSymlink) {
		return nil, &TreeError{root, "a symlink (mkfs.erofs takes it for an image to rebuild)", "the directory itself: write " + strings.TrimRight(root, "/") + "/"}
	}
	if !n.Is(ModeDir) {
		return nil, &TreeError{root, fmt.Sprintf("mode %#o", n.Mode), "a directory"}
	}
	r := &dirReader{ReadOptions: o, root: root}
	return n, r.walk(n)
}

type dirReader struct {
	ReadOptions
	root  string
	count int
}

// walk reads directories with a list of its own in place of recursion: depth
// is bounded by the length of paths only.
func (r *dirReader) walk(top *Node) error {
	type job struct {
		path string
		dir  *Node
	}
	pending := []job{{"", top}}
	for len(pending) > 0 {
		j := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		nodes, err := r.readDir(filepath.Join(r.root, j.path), j.path)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			path := join(j.path, n.Name)
			if r.Skip != nil && r.Skip(path, n) {
				continue
			}
			if r.count++; r.count > maxNodes {
				return &TreeError{".", "too many entries", fmt.Sprintf("at most %d", maxNodes)}
			}
			j.dir.Children = append(j.dir.Children, n)
			if n.Is(ModeDir) {
				pending = append(pending, job{path, n})
			}
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// statsPerWorker is how many names are worth a goroutine.
const statsPerWorker = 512

// readDir reads the names of a directory and their inodes. With many names
// the time goes into one stat after the other, so cores share them.
func (r *dirReader) readDir(full, rel string) ([]*Node, error) {
	f, err := os.Open(full)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	dir := int(f.Fd())
	slab := make([]Node, len(names))
	nodes := make([]*Node, len(names))
	workers := min(runtime.GOMAXPROCS(0), (len(names)+statsPerWorker-1)/statsPerWorker)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for k := w * len(names) / workers; k < (w+1)*len(names)/workers; k++ {
				if errs[w] = readEntry(&slab[k], dir, names[k], rel, full); errs[w] != nil {
					return
				}
				nodes[k] = &slab[k]
			}
		})
	}
	wg.Wait()
	return nodes, errors.Join(errs...)
}

// readEntry fills a node from one name in an open directory.
func readEntry(n *Node, dir int, name, rel, full string) error {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return &os.PathError{Op: "lstat", Path: full + "/" + name, Err: err}
		}
	}
	*n = newNode(name, &st)
	if !n.Is(ModeSymlink) {
		return nil
	}
	target, err := os.Readlink(full + "/" + name)
	if err != nil {
		return err
	}
	if int64(len(target)) != n.Size {
		return &ChangedError{join(rel, name), "length of the symlink's target", fmt.Sprint(len(target)), fmt.Sprint(n.Size)}
	}
	n.Target = target
	return nil
}

func lstat(path string, st *unix.Stat_t) error {
	for {
		err := unix.Lstat(path, st)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
	}
}

func newNode(name string, st *unix.Stat_t) Node {
	n := Node{Name: name, Mode: st.Mode, Stat: statOf(st)}
	switch n.Mode & ModeType {
	case ModeRegular, ModeSymlink:
		n.Size = st.Size
	case ModeChar, ModeBlock:
		dev := st.Rdev
		n.Major = uint32(dev>>8&0xfff | dev>>32&0xfffff000)
		n.Minor = uint32(dev&0xff | dev>>12&0xffffff00)
	}
	if n.Stat.NLink > 1 && !n.Is(ModeDir) {
		n.Link = LinkID{n.Stat.Dev, n.Stat.Ino}
	}
	return n
}

func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, NLink: uint64(st.Nlink),
		MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(),
	}
}

// StatFile returns the identity of a regular file, following symlinks.
func StatFile(path string) (mode uint32, s Stat, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, Stat{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Mode, statOf(&st), nil
}

// DirContent reads the files of a tree in place, and only as they were when
// the tree was read. It may be used by several goroutines.
type DirContent struct {
	root string
	dir  *os.File // names are resolved from here
}

// OpenDir returns the content of the directory that ReadDir read.
func OpenDir(root string) (*DirContent, error) {
	f, err := os.OpenFile(root, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &DirContent{root, f}, nil
}

// Close gives the directory back. Open files are not affected.
func (d *DirContent) Close() error { return d.dir.Close() }

// largeFile is the size in bytes from which a changed file is worth finding
// before it is read; smaller ones are only checked afterwards.
const largeFile = 1 << 20

// Open implements Content.
func (d *DirContent) Open(path string, n *Node) (File, error) {
	at, name, flags := int(d.dir.Fd()), path, syscall.O_NOFOLLOW
	if n.Source != "" {
		name, flags = n.Source, 0
	}
	// O_NONBLOCK: what was a file may have become a FIFO.
	fd, err := openat(at, name, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK|flags)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: d.root + "/" + path, Err: err}
	}
	f := &dirFile{fd, path, n}
	if n.Size >= largeFile {
		if err := f.check(); err != nil {
			syscall.Close(fd)
			return nil, err
		}
	}
	return f, nil
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := syscall.Openat(dir, name, flags, 0)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}

// dirFile is a bare descriptor: with tens of thousands of small files the
// bookkeeping of os.File is a good part of the time.
type dirFile struct {
	fd   int
	path string
	node *Node
}

// check compares the open file with the one the plan was made from.
func (f *dirFile) check() error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return &os.PathError{Op: "fstat", Path: f.path, Err: err}
	}
	now, was := statOf(&st), f.node.Stat
	was.NLink = now.NLink // links from elsewhere may come and go
	switch {
	case now == was:
		return nil
	case now.Size != was.Size:
		return &ChangedError{f.path, "size", fmt.Sprint(now.Size), fmt.Sprint(was.Size)}
	case now.Dev != was.Dev || now.Ino != was.Ino:
		return &ChangedError{f.path, "inode", fmt.Sprint(now.Ino), fmt.Sprint(was.Ino)}
	case now.MTime != was.MTime:
		return &ChangedError{f.path, "modification time", fmt.Sprint(now.MTime), fmt.Sprint(was.MTime)}
	}
	return &ChangedError{f.path, "change time", fmt.Sprint(now.CTime), fmt.Sprint(was.CTime)}
}

func (f *dirFile) ReadAt(b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := syscall.Pread(f.fd, b[done:], off+int64(done))
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			if err := f.check(); err != nil {
				return done, err // says more than where it ends
			}
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

func (f *dirFile) Close() error {
	err := f.check()
	syscall.Close(f.fd)
	return err
}
