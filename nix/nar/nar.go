// Package nar computes the hash that Nix gives a file tree: SHA-256 over the
// tree's Nix archive (E. Dolstra, "The Purely Functional Software Deployment
// Model", figure 5.2; Nix manual, "Nix Archive"). The bytes are read here: what
// the store's database says of a path is not asked.
package nar

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Limits of a tree.
const (
	MaxDepth   = 256
	MaxEntries = 10_000_000
)

// Kind is what a node is; a Nix archive knows no others.
type Kind string

// The kinds.
const (
	Regular   Kind = "regular"
	Symlink   Kind = "symlink"
	Directory Kind = "directory"
)

// Entry is one node of a tree.
type Entry struct {
	Path       string // from the root, with slashes; "" is the root itself
	Kind       Kind
	Executable bool // the owner's bit; no other counts
	Size       int64
	Target     string            // of a symbolic link
	SHA256     [sha256.Size]byte // of a regular file's content
}

// Tree is a tree with its hash.
type Tree struct {
	SHA256  [sha256.Size]byte
	Size    int64 // of the archive, bytes
	Entries []Entry
}

// SRI is the form that Nix's newer commands print: "sha256-" and base64.
func (t *Tree) SRI() string { return "sha256-" + base64.StdEncoding.EncodeToString(t.SHA256[:]) }

// Hex is the hash in lower-case hexadecimal.
func (t *Tree) Hex() string { return hex.EncodeToString(t.SHA256[:]) }

// Nix32 is the form of store paths and of nix-store --query --hash.
func (t *Tree) Nix32() string { return Nix32(t.SHA256[:]) }

const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

// Nix32 writes bytes in Nix's base 32: groups of five bits of the little-endian
// number, the highest first.
func Nix32(b []byte) string {
	n := (len(b)*8 + 4) / 5
	out := make([]byte, 0, n)
	for k := n - 1; k >= 0; k-- {
		bit := k * 5
		i, j := bit/8, bit%8
		c := uint(b[i]) >> j
		if j > 3 && i+1 < len(b) {
			c |= uint(b[i+1]) << (8 - j)
		}
		out = append(out, alphabet[c&31])
	}
	return string(out)
}

// ParseNix32 reads what Nix32 writes; size is the number of bytes.
func ParseNix32(s string, size int) ([]byte, error) {
	if len(s) != (size*8+4)/5 {
		return nil, fmt.Errorf("nix32: %d characters, want %d", len(s), (size*8+4)/5)
	}
	b := make([]byte, size)
	for k := range len(s) {
		c := strings.IndexByte(alphabet, s[len(s)-1-k])
		if c < 0 {
			return nil, fmt.Errorf("nix32: %q is no digit", s[len(s)-1-k])
		}
		bit := k * 5
		i, j := bit/8, bit%8
		b[i] |= byte(c << j)
		if rest := c >> (8 - j); rest != 0 {
			if i+1 >= size {
				return nil, errors.New("nix32: more bits than the number of bytes has")
			}
			b[i+1] |= byte(rest)
		}
	}
	return b, nil
}

// Options of Hash.
type Options struct {
	// Progress, if set, is called with the number of content bytes just read.
	Progress func(int64)
}

// Hash reads a tree, or a single file, and returns its hash. It follows no
// symbolic link: not the root, if that is one, either. Fifos, devices and
// sockets are an error, as they are to Nix. A file that changes while it is read
// is an error.
func Hash(ctx context.Context, root string, o Options) (*Tree, error) {
	w := &walker{ctx: ctx, o: o, hash: sha256.New(), buf: make([]byte, 1<<20)}
	w.text("nix-archive-1")
	if err := w.node(root, "", 0); err != nil {
		return nil, err
	}
	t := &w.tree
	w.hash.Sum(t.SHA256[:0])
	return t, nil
}

type walker struct {
	ctx  context.Context
	o    Options
	hash hash.Hash
	tree Tree
	buf  []byte
}

func (w *walker) write(b []byte) {
	w.hash.Write(b) // a hash never fails
	w.tree.Size += int64(len(b))
}

func (w *walker) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	w.write(b[:])
}

func (w *walker) pad(n uint64) {
	var zero [8]byte
	w.write(zero[:(8-n%8)%8])
}

func (w *walker) text(s string) {
	w.number(uint64(len(s)))
	w.write([]byte(s))
	w.pad(uint64(len(s)))
}

func (w *walker) node(file, rel string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth > MaxDepth {
		return fmt.Errorf("nar: %s: more than %d folders deep", file, MaxDepth)
	}
	if len(w.tree.Entries) >= MaxEntries {
		return fmt.Errorf("nar: %s: more than %d entries", file, MaxEntries)
	}
	info, err := os.Lstat(file)
	if err != nil {
		return fmt.Errorf("nar: %w", err)
	}
	e := Entry{Path: rel}
	w.text("(")
	w.text("type")
	switch mode := info.Mode(); {
	case mode.IsRegular():
		err = w.regular(file, info, &e)
	case mode&fs.ModeSymlink != 0:
		e.Kind = Symlink
		if e.Target, err = os.Readlink(file); err == nil {
			w.text("symlink")
			w.text("target")
			w.text(e.Target)
		}
		w.tree.Entries = append(w.tree.Entries, e)
	case mode.IsDir():
		e.Kind = Directory
		w.tree.Entries = append(w.tree.Entries, e)
		err = w.directory(file, rel, depth)
	default:
		err = fmt.Errorf("nar: %s is a %s: an archive holds files, folders and symbolic links only", file, mode.Type())
	}
	if err != nil {
		return err
	}
	w.text(")")
	return nil
}

func (w *walker) regular(file string, info fs.FileInfo, e *Entry) error {
	e.Kind, e.Executable, e.Size = Regular, info.Mode()&0o100 != 0, info.Size()
	w.text("regular")
	if e.Executable {
		w.text("executable")
		w.text("")
	}
	w.text("contents")
	size := uint64(info.Size())
	w.number(size)
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("nar: %w", err)
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return fmt.Errorf("nar: %s became another file while it was opened", file)
	}
	sum := sha256.New()
	var n uint64
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		k, err := f.Read(w.buf)
		n += uint64(k)
		if n > size {
			return fmt.Errorf("nar: %s grew while it was read", file)
		}
		w.write(w.buf[:k])
		sum.Write(w.buf[:k])
		if w.o.Progress != nil && k > 0 {
			w.o.Progress(int64(k))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("nar: %w", err)
		}
	}
	if n != size {
		return fmt.Errorf("nar: %s shrank while it was read", file)
	}
	w.pad(size)
	sum.Sum(e.SHA256[:0])
	w.tree.Entries = append(w.tree.Entries, *e)
	return nil
}

func (w *walker) directory(file, rel string, depth int) error {
	w.text("directory")
	entries, err := os.ReadDir(file)
	if err != nil {
		return fmt.Errorf("nar: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names) // byte order, as Nix has it
	for _, name := range names {
		w.text("entry")
		w.text("(")
		w.text("name")
		w.text(name)
		w.text("node")
		if err := w.node(filepath.Join(file, name), path.Join(rel, name), depth+1); err != nil {
			return err
		}
		w.text(")")
	}
	return nil
}
