package capture

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/internal/digest"
)

// Index is the file in a capture's folder that says what the others are.
const Index = "capture.json"

const (
	format   = "retally-capture/1"
	maxIndex = 1 << 20
)

type indexPage struct {
	Kind        Kind          `json:"kind"`
	Path        string        `json:"path"`
	Status      int           `json:"status"`
	ContentType string        `json:"content_type,omitempty"`
	File        string        `json:"file,omitempty"` // absent: not offered
	SHA256      digest.Digest `json:"digest,omitzero"`
	Connection  int           `json:"connection"`
	Problem     string        `json:"problem,omitempty"`
}

type indexConnection struct {
	Number     int    `json:"number"`
	Version    string `json:"tls_version"`
	ServerName string `json:"server_name"`
	File       string `json:"certificates"`
}

type index struct {
	Format      string            `json:"format"`
	Target      string            `json:"target"`
	At          time.Time         `json:"captured_at"`
	Nonce       string            `json:"nonce,omitempty"`
	Pages       []indexPage       `json:"pages"`
	Connections []indexConnection `json:"connections"`
}

// Write stores a capture in a folder, which must be new or empty: the pages as
// they came, the chain of each connection in PEM, and the index, last.
func (c *Capture) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("write capture: the folder %s is not empty", dir)
	}
	x := index{Format: format, Target: c.Target, At: c.At.UTC(), Nonce: hex.EncodeToString(c.Nonce), Pages: []indexPage{}, Connections: []indexConnection{}}
	for _, p := range c.Pages {
		e := indexPage{Kind: p.Kind, Path: p.Path, Status: p.Status, ContentType: p.ContentType, Connection: p.Connection, Problem: p.Problem}
		if p.Body != nil {
			e.File, e.SHA256 = pageFile(p.Path), digest.SHA256.Sum(p.Body)
			if err := writeNew(dir, e.File, p.Body); err != nil {
				return err
			}
		}
		x.Pages = append(x.Pages, e)
	}
	for _, s := range c.Connections {
		e := indexConnection{s.Number, s.Version, s.ServerName, chainFile(s.Number)}
		var text []byte
		for _, der := range s.Chain {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := writeNew(dir, e.File, text); err != nil {
			return err
		}
		x.Connections = append(x.Connections, e)
	}
	text, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return writeNew(dir, Index, append(text, '\n'))
}

// pageFile names a page's file by its path: /cpu.html is cpu.html, /gpu gpu.txt.
func pageFile(p string) string {
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r < ' ' {
			return '-'
		}
		return r
	}, strings.Trim(p, "/"))
	if path.Ext(name) == "" {
		name += ".txt"
	}
	return name
}

func chainFile(connection int) string { return fmt.Sprintf("tls-chain-%d.pem", connection) }

func writeNew(dir, name string, data []byte) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fmt.Errorf("write capture: %w", e)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

// File is a file that was read for a capture.
type File struct {
	Name   string
	Size   int64
	SHA256 digest.Digest
}

// Open reads the folder that Write made. It is the only reader: a file that is
// a link or a pipe, or that is not what the index says, is an error, and so are
// parts that contradict each other. Nothing outside of the folder is read.
func Open(dir string) (*Capture, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	defer root.Close()
	r := &reader{root: root}
	text, err := r.file(Index, maxIndex)
	if err != nil {
		return nil, err
	}
	x, err := parseIndex(text)
	if err != nil {
		return nil, err
	}
	c := &Capture{Target: x.Target, At: x.At}
	if x.Nonce != "" {
		if c.Nonce, err = hex.DecodeString(x.Nonce); err != nil {
			return nil, indexError("/nonce", err.Error(), "hex")
		}
	}
	for i, e := range x.Pages {
		p := Page{Kind: e.Kind, Path: e.Path, Status: e.Status, ContentType: e.ContentType, Connection: e.Connection, Problem: e.Problem}
		if e.File != "" {
			if p.Body, err = r.file(e.File, MaxPage); err != nil {
				return nil, err
			}
			if got := digest.SHA256.Sum(p.Body); got != e.SHA256 {
				return nil, indexError(fmt.Sprintf("/pages/%d", i), e.File+" is "+got.String(), e.SHA256.String())
			}
		}
		c.Pages = append(c.Pages, p)
	}
	for _, e := range x.Connections {
		text, err := r.file(e.File, certs.MaxChainBytes)
		if err != nil {
			return nil, err
		}
		chain, err := certs.ReadPEM(e.File, text)
		if err != nil {
			return nil, err
		}
		c.Connections = append(c.Connections, Connection{e.Number, e.Version, e.ServerName, ders(chain)})
	}
	c.Files = r.read
	return c, nil
}

// IsCapture reports whether a folder has the index of one. It says nothing about
// whether Open can read it.
func IsCapture(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, Index))
	return err == nil && !info.IsDir()
}

// Identity is the SHA-256 over the names and digests of the files that were
// read, in the form that sha256sum prints, and their size together.
func (c *Capture) Identity() (digest.Digest, int64) {
	files := slices.Clone(c.Files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	h, n := digest.SHA256.New(), int64(0)
	for _, f := range files {
		fmt.Fprintf(h, "%s  %s\n", f.SHA256.Hex(), f.Name)
		n += f.Size
	}
	return digest.FromHash(digest.SHA256, h), n
}

func ders(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, 0, len(chain))
	for _, c := range chain {
		out = append(out, c.Raw)
	}
	return out
}

// reader reads the files of one folder and keeps account of them.
type reader struct {
	root *os.Root
	read []File
}

// file reads a file of the folder itself. A link is none, wherever it leads to:
// Write makes no links, and what one leads to can change between two readers.
func (r *reader) file(name string, limit int64) ([]byte, error) {
	if path.Base(name) != name || !fs.ValidPath(name) {
		return nil, indexError("", fmt.Sprintf("the file %q", name), "a file in the capture's folder")
	}
	info, err := r.root.Lstat(name) // before opening: a pipe would block
	switch {
	case err != nil:
		return nil, fmt.Errorf("read capture: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, fmt.Errorf("read capture: %s is a link, want the file itself", name)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read capture: %s is no regular file", name)
	}
	f, err := r.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	defer f.Close()
	if opened, err := f.Stat(); err != nil || !os.SameFile(info, opened) {
		return nil, fmt.Errorf("read capture: %s was replaced while it was read", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read capture: %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read capture: %s: more than %d bytes", name, limit)
	}
	r.read = append(r.read, File{name, int64(len(data)), digest.SHA256.Sum(data)})
	return data, nil
}
