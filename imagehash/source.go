package imagehash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Source is an opened image source. Its methods may be called concurrently.
type Source struct {
	name  string
	kind  Kind
	files *files    // layouts and archives
	reg   *registry // registry references
	close func() error
}

// Name returns the source as it was given.
func (s *Source) Name() string { return s.name }

// Kind returns the form of the source.
func (s *Source) Kind() Kind { return s.kind }

// Close releases the source.
func (s *Source) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// Open recognizes what ref names: an OCI layout folder, a folder of skopeo's dir
// transport, an archive, or a registry reference. The prefixes oci:, oci-archive:,
// docker-archive:, dir: and docker:// of skopeo are understood where they say no more than the kind.
func Open(ctx context.Context, ref string, opts Options) (*Source, error) {
	p := ref
	for _, prefix := range []string{"oci:", "oci-archive:", "docker-archive:", "dir:"} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok {
			p = rest
		}
	}
	if remote, ok := strings.CutPrefix(ref, "docker://"); ok {
		return openRegistry(ctx, ref, remote, opts)
	}
	for _, prefix := range []string{"containers-storage:", "docker-daemon:"} {
		if strings.HasPrefix(ref, prefix) {
			return nil, fmt.Errorf("open %s: %s sources are not read; save the image as an OCI layout or archive first (skopeo copy %s oci:DIR, or docker save)", ref, strings.TrimSuffix(prefix, ":"), ref)
		}
	}
	info, err := os.Stat(p)
	switch {
	case err == nil && info.IsDir():
		return openDir(ctx, ref, p, opts)
	case err == nil && !info.Mode().IsRegular():
		// Not opened: a pipe without a writer would never answer.
		return nil, fmt.Errorf("open image: %s is %s; an archive is read more than once and in any order, so it must be a regular file", ref, fileKind(info.Mode()))
	case err == nil:
		return openFile(ctx, ref, p, opts)
	case p == ref && looksRemote(ref):
		return openRegistry(ctx, ref, ref, opts)
	}
	return nil, fmt.Errorf("open image: %w; neither a file nor a reference of the form registry/name@sha256:<hex>", err)
}

// fileKind names a file that is not regular.
func fileKind(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeCharDevice != 0:
		return "a character device"
	case m&fs.ModeDevice != 0:
		return "a block device"
	}
	return "no regular file"
}

// looksRemote tells a registry reference from a mistyped path: it has a digest
// or a tag, or its first part is a host name.
func looksRemote(ref string) bool {
	if strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, ".") {
		return false
	}
	host, rest, slash := strings.Cut(ref, "/")
	return strings.Contains(ref, "@") || slash && (strings.ContainsAny(host, ".:") || host == "localhost" || strings.Contains(rest, ":"))
}

// OpenArchive reads an archive of size bytes from r. The name is for reports.
func OpenArchive(ctx context.Context, name string, r io.ReaderAt, size int64, opts Options) (*Source, error) {
	f, err := readArchive(ctx, r, size, opts)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return fileSource(ctx, name, f, LayoutArchive)
}

func openFile(ctx context.Context, name, p string, opts Options) (*Source, error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	s, err := OpenArchive(ctx, name, f, info.Size(), opts)
	if err != nil {
		f.Close()
		return nil, err
	}
	s.close = f.Close
	return s, nil
}

// fileSource decides what a set of files is.
func fileSource(ctx context.Context, name string, f *files, kind Kind) (*Source, error) {
	s := &Source{name: name, kind: kind, files: f}
	if f.names["oci-layout"] != nil || f.names["index.json"] != nil {
		return s, nil
	}
	if e := f.names["manifest.json"]; e != nil {
		s.kind = DockerArchive
		if e.typ != regularEntry {
			return s, nil // the verifier names it
		}
		r, err := f.open(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		defer r.Close()
		head := make([]byte, 64)
		n, err := io.ReadFull(r, head)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if isSkopeoDir(head[:n]) {
			s.kind = SkopeoDir
		}
		return s, nil
	}
	for _, n := range f.order {
		switch {
		case n == "repositories", path.Base(n) == "layer.tar":
			s.kind = DockerArchive
			return s, nil
		case strings.HasPrefix(n, "blobs/"):
			return s, nil
		}
	}
	if len(f.problems) > 0 {
		return s, nil
	}
	return nil, fmt.Errorf("%s: %w: it has none of oci-layout, index.json and manifest.json", name, ErrNotImage)
}

// entryType is the type of a file in a layout or archive.
type entryType uint8

const (
	regularEntry entryType = iota
	folderEntry
	symlinkEntry
	hardlinkEntry
	otherEntry
)

func (t entryType) String() string {
	return [...]string{"regular file", "folder", "symbolic link", "hard link", "special file"}[t]
}

// entry is one file of a layout or archive.
type entry struct {
	name   string // normalized
	typ    entryType
	size   int64
	offset int64  // of the content in the (uncompressed) archive
	link   string // target of a link, as written
	held   []byte // content, if it was kept while streaming; nil otherwise
	facts  *facts // if the content was read while streaming
}

// files is a layout or an archive as a set of named files.
type files struct {
	names    map[string]*entry
	order    []string
	problems []Problem // of the container itself
	notes    []Problem
	open     func(ctx context.Context, e *entry) (io.ReadCloser, error)
}

func newFiles() *files { return &files{names: map[string]*entry{}} }

// find returns the regular file of a name, following hard links inside the
// archive, or the problem with it. Both are nil if there is no such name.
func (f *files) find(name string) (*entry, *Problem) {
	for range 8 {
		e := f.names[name]
		switch {
		case e == nil:
			// A link where a folder belongs hides the file.
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				if d := f.names[dir]; d != nil && d.typ != folderEntry {
					return nil, &Problem{Code: "entry-unsafe-type", Place: dir, Found: d.typ.String(), Expected: folderEntry.String()}
				}
			}
			return nil, nil
		case e.typ == regularEntry:
			return e, nil
		case e.typ != hardlinkEntry:
			return nil, &Problem{Code: "entry-unsafe-type", Place: name, Found: e.typ.String(), Expected: regularEntry.String()}
		}
		name = e.link
	}
	return nil, &Problem{Code: "entry-unsafe-type", Place: name, Found: "a chain of hard links", Expected: regularEntry.String()}
}

// blobName is the path of a blob. The digest was parsed, so that its text has
// no part that could lead elsewhere.
func blobName(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Hex()
}

// entryName normalizes the name of an archive member: "./" and double slashes
// are dropped. Names that are absolute or have a ".." are unsafe.
func entryName(name string) (string, bool) {
	if strings.HasPrefix(name, "/") || strings.IndexByte(name, 0) >= 0 {
		return name, false
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return name, false
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), true
}
