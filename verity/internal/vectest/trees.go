package vectest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/retally/retally/verity/erofs"
)

// Entry is one item of a tree vector.
type Entry struct {
	Content
	Path    string `json:"path"`
	PathHex string `json:"path_hex"`
	Type    string `json:"type"`
	Mode    string `json:"mode"`
	Target  string `json:"target"`
	Major   uint32 `json:"major"`
	Minor   uint32 `json:"minor"`

	Of       string `json:"of"`
	Prefix   string `json:"prefix"`
	Suffix   string `json:"suffix"`
	Width    int    `json:"width"`
	First    int64  `json:"first"`
	Count    int64  `json:"count"`
	SizeMin  int64  `json:"size_min"`
	SizeMax  int64  `json:"size_max"`
	SizeSeed string `json:"size_seed"`
}

// Expect is what the real tools made of a tree.
type Expect struct {
	DiskSize    int64  `json:"disk_size"`
	Blocks      int64  `json:"blocks"`
	Inodes      int    `json:"inodes"`
	ErofsSHA256 string `json:"erofs_sha256"`
	RootHash    string `json:"root_hash"`
	FileSize    int64  `json:"file_size"`
	FileSHA256  string `json:"file_sha256"`
}

// Tree is one tree vector.
type Tree struct {
	Name     string              `json:"name"`
	Large    bool                `json:"large"`
	RootMode string              `json:"root_mode"`
	Entries  []Entry             `json:"entries"`
	Expect   map[string]Expect   `json:"expect"`
	Layout   [][]json.RawMessage `json:"layout"`
}

// Trees reads the tree vectors.
func Trees(t testing.TB) []Tree { return Load[Tree](t, "trees") }

// expand writes series out as single entries.
func (v Tree) expand() []Entry {
	var all []Entry
	for _, e := range v.Entries {
		if e.PathHex != "" {
			raw, err := hex.DecodeString(e.PathHex)
			if err != nil {
				panic(err)
			}
			e.Path = string(raw)
		}
		if e.Type != "series" {
			all = append(all, e)
			continue
		}
		for i := e.First; i < e.First+e.Count; i++ {
			x := e
			x.Type = e.Of
			x.Path = fmt.Sprintf("%s%0*d%s", e.Prefix, e.Width, i, e.Suffix)
			if x.Type == "file" {
				sum := sha256.Sum256([]byte(e.SizeSeed + strconv.FormatInt(i, 10)))
				x.Size = e.SizeMin + int64(binary.LittleEndian.Uint64(sum[:8])%uint64(e.SizeMax-e.SizeMin+1))
				x.Content = Content{Content: "sha256ctr", Seed: x.Path, Size: x.Size}
			}
			all = append(all, x)
		}
	}
	return all
}

func octal(s string) uint32 {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

// Contents is a tree's file contents in memory.
type Contents map[string]Content

type contentFile struct{ Content }

func (contentFile) Close() error { return nil }

// Open implements erofs.Content.
func (c Contents) Open(path string, n *erofs.Node) (erofs.File, error) {
	f, ok := c[path]
	if !ok {
		return nil, fmt.Errorf("no content for %q", path)
	}
	return contentFile{f}, nil
}

// Nodes makes the tree in memory.
func (v Tree) Nodes() (*erofs.Node, Contents) {
	contents := Contents{}
	root := &erofs.Node{Mode: erofs.ModeDir | octal(v.RootMode)}
	dirs := map[string]*erofs.Node{".": root}
	nodes := map[string]*erofs.Node{}
	for k, e := range v.expand() {
		n := &erofs.Node{Name: filepath.Base(e.Path)}
		switch e.Type {
		case "dir":
			n.Mode = erofs.ModeDir | octal(e.Mode)
			dirs[e.Path] = n
		case "file":
			n.Mode, n.Size = erofs.ModeRegular|octal(e.Mode), e.Size
			contents[e.Path] = e.Content
		case "symlink":
			n.Mode, n.Target, n.Size = erofs.ModeSymlink|0o777, e.Target, int64(len(e.Target))
		case "hardlink":
			first := nodes[e.Target]
			if first.Link == (erofs.LinkID{}) {
				first.Link = erofs.LinkID{Dev: 1, Ino: uint64(k) + 1}
			}
			name := n.Name
			*n = *first
			n.Name = name
			contents[e.Path] = contents[e.Target]
		case "fifo":
			n.Mode = erofs.ModeFIFO | octal(e.Mode)
		case "sock":
			n.Mode = erofs.ModeSocket | octal(e.Mode)
		case "chr":
			n.Mode, n.Major, n.Minor = erofs.ModeChar|octal(e.Mode), e.Major, e.Minor
		case "blk":
			n.Mode, n.Major, n.Minor = erofs.ModeBlock|octal(e.Mode), e.Major, e.Minor
		default:
			panic("entry type " + e.Type)
		}
		nodes[e.Path] = n
		parent := dirs[filepath.Dir(e.Path)]
		parent.Children = append(parent.Children, n)
	}
	return root, contents
}

// Write makes the tree on disk. It reports whether it could (device nodes need
// root).
func (v Tree) Write(t testing.TB, root string) bool {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(root, 0o755))
	entries := v.expand()
	for _, e := range entries {
		path := filepath.Join(root, e.Path)
		switch e.Type {
		case "dir":
			must(os.Mkdir(path, 0o755))
			continue
		case "file":
			e.write(t, path)
		case "symlink":
			must(os.Symlink(e.Target, path))
			continue
		case "hardlink":
			must(os.Link(filepath.Join(root, e.Target), path))
			continue
		case "fifo":
			must(syscall.Mkfifo(path, 0o600))
		case "sock":
			must(syscall.Mknod(path, syscall.S_IFSOCK|0o600, 0))
		case "chr", "blk":
			typ := uint32(syscall.S_IFCHR)
			if e.Type == "blk" {
				typ = syscall.S_IFBLK
			}
			dev := int(e.Minor&0xff | e.Major<<8 | e.Minor&^0xff<<12)
			if err := syscall.Mknod(path, typ|0o600, dev); err != nil {
				return false
			}
		}
		must(syscall.Chmod(path, octal(e.Mode)))
	}
	for k := len(entries) - 1; k >= 0; k-- {
		if entries[k].Type == "dir" {
			must(syscall.Chmod(filepath.Join(root, entries[k].Path), octal(entries[k].Mode)))
		}
	}
	must(syscall.Chmod(root, octal(v.RootMode)))
	return true
}

// write makes a file, sparse where the vector is.
func (c Content) write(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(c.Size); err != nil {
		t.Fatal(err)
	}
	ranges := []Segment{{0, c.Size, ""}}
	switch c.Content {
	case "zero":
		return
	case "sparse":
		ranges = c.Segments
	}
	for _, s := range ranges {
		if _, err := io.Copy(io.NewOffsetWriter(f, s.Off), io.NewSectionReader(c, s.Off, s.Len)); err != nil {
			t.Fatal(err)
		}
	}
}
