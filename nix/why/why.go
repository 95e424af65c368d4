// Package why says why two builds of one thing are different: which file, which
// part of it, and what usually does that. What is named is what was found in the
// bytes: a part that a format holds, or the smallest set of harmless-looking
// texts without which both files are the same. Everything else is content.
package why

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/retally/retally/nix/nar"
)

// Limits of what is opened: of a file, of what is packed in it, and how deep.
const (
	MaxFile   = 256 << 20
	maxInside = 512 << 20
	maxDepth  = 6
	maxCauses = 200
)

// Cause is one thing in which two builds differ.
type Cause struct {
	// Path is the file, and behind " > " what is packed in it.
	Path string `json:"path"`
	Kind Kind   `json:"kind"`
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
	// Usual is what usually does it.
	Usual string `json:"hint,omitempty"`
}

// Kind names a cause; docs/nix.md lists them.
type Kind string

// hints are what usually does it, by kind. A kind without one says it itself.
var hints = map[Kind]string{
	"added": "another source, or a build step that ran in one build only", "removed": "another source, or a build step that ran in one build only",
	"executable": "the umask of the checkout or a chmod that is left out", "target": "a link to what was built from other inputs",
	"gzip-mtime": "gzip without -n", "gzip-name": "gzip without -n", "gzip-os": "another gzip", "compression": "another level or implementation of the compressor",
	"mtime": "the time of the build: set SOURCE_DATE_EPOCH, or clamp times", "owner": "the builder's own user: write numeric owners", "mode": "the umask",
	"order": "the order of the file system: sort the names", "inode": "the builder's file system: cpio without --renumber-inodes",
	"build-id": "the linker was given another --build-id", "compiler": "another compiler", "debug-link": "the debug file of another build", "debug-info": "the folder of the build: -ffile-prefix-map",
	"rpath": "libraries of other inputs", "interpreter": "another C library", "pyc-mtime": "the source's time: compile with --invalidation-mode unchecked-hash",
	"pe-timestamp": "the time of linking: /Brepro, or objcopy", "date": "the time of the build: set SOURCE_DATE_EPOCH", "time-number": "the time of the build as seconds",
	"uuid": "an identifier that is drawn anew", "build-path": "the folder of the build: -ffile-prefix-map", "store-path": "other inputs",
	"line-order": "a set, a hash table, or the locale: sort", "line-ends": "text conversion of a checkout", "trailing-space": "another printer", "json-order": "keys of a map: sort",
	"padding": "another block size",
}

type finder struct {
	ctx    context.Context
	out    []Cause
	inside int64 // bytes unpacked
}

func (f *finder) add(path string, kind Kind, a, b string) {
	if len(f.out) < maxCauses {
		f.out = append(f.out, Cause{path, kind, a, b, hints[kind]})
	}
}

// Trees says why two trees differ, of which nar.Diff found the changes. The
// roots are those that were hashed.
func Trees(ctx context.Context, a, b string, changes []nar.Change) ([]Cause, error) {
	f := &finder{ctx: ctx}
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if c.What != "content" {
			f.add(c.Path, Kind(c.What), c.A, c.B)
			continue
		}
		x, err := load(filepath.Join(a, filepath.FromSlash(c.Path)))
		if err != nil {
			return nil, err
		}
		y, err := load(filepath.Join(b, filepath.FromSlash(c.Path)))
		if err != nil {
			return nil, err
		}
		if x == nil || y == nil {
			f.add(c.Path, "content", c.A, fmt.Sprintf("%s; a file of more than %d MiB is not opened", c.B, MaxFile>>20))
			continue
		}
		f.file(c.Path, x, y, 0)
	}
	return f.out, nil
}

// Files says why two files differ, nil if they do not.
func Files(ctx context.Context, name string, a, b []byte) []Cause {
	f := &finder{ctx: ctx}
	if !bytes.Equal(a, b) {
		f.file(name, a, b, 0)
	}
	return f.out
}

// load reads a regular file, nil if it is too large. It follows no link.
func load(name string) ([]byte, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not the regular file that it was", name)
	}
	if info.Size() > MaxFile {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, MaxFile))
}

// A format looks into two files that differ. It reports false where they are not
// both of its form, or not wholly understood; what it added is then taken back.
type format func(f *finder, path string, a, b []byte, depth int) bool

// file says why two files differ, by their format if both have one that is known.
func (f *finder) file(path string, a, b []byte, depth int) {
	if f.ctx.Err() == nil && depth < maxDepth {
		for _, look := range []format{gzipped, zstandard, tarred, zipped, archived, cpioed, elfed, pyced, pesed} {
			before := len(f.out)
			if look(f, path, a, b, depth) && len(f.out) > before {
				return
			}
			f.out = f.out[:before]
		}
		if leaf(f, path, a, b) {
			return
		}
	}
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	f.add(path, "content", fmt.Sprintf("%d bytes", len(a)), fmt.Sprintf("%d bytes, different from byte %d on", len(b), at))
}

// unpack reads a stream within the budget of all that is unpacked.
func (f *finder) unpack(r io.Reader, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxInside-f.inside+1))
	f.inside += int64(len(data))
	if f.inside > maxInside {
		return nil, errors.New("unpacks to more than is opened")
	}
	return data, err
}

// member is one entry of an archive, whatever its form.
type member struct {
	name   string
	fields []field // in one order for each form
	data   []byte
}

type field struct {
	kind  Kind
	value string
}

// members compares two archives member by member.
func (f *finder) members(path string, a, b []member, depth int) bool {
	names := func(list []member) []string {
		var out []string
		for _, m := range list {
			out = append(out, m.name)
		}
		return out
	}
	na, nb := names(a), names(b)
	sa, sb := slices.Sorted(slices.Values(na)), slices.Sorted(slices.Values(nb))
	if len(slices.Compact(slices.Clone(sa))) != len(sa) || len(slices.Compact(slices.Clone(sb))) != len(sb) {
		return false // two of one name: which is which is not known
	}
	if !slices.Equal(na, nb) && slices.Equal(sa, sb) {
		i := 0
		for na[i] == nb[i] {
			i++
		}
		f.add(path, "order", na[i], nb[i])
	}
	inA, inB := map[string]int{}, map[string]bool{}
	for i, name := range na {
		inA[name] = i
	}
	for _, name := range nb {
		inB[name] = true
	}
	for i := range a {
		if !inB[a[i].name] {
			f.add(path+" > "+a[i].name, "removed", fmt.Sprintf("%d bytes", len(a[i].data)), "")
		}
	}
	for j := range b {
		i, both := inA[b[j].name]
		if !both {
			f.add(path+" > "+b[j].name, "added", "", fmt.Sprintf("%d bytes", len(b[j].data)))
			continue
		}
		for k := range min(len(a[i].fields), len(b[j].fields)) {
			if x, y := a[i].fields[k], b[j].fields[k]; x != y {
				f.add(path+" > "+b[j].name, x.kind, x.value, y.value)
			}
		}
		if !bytes.Equal(a[i].data, b[j].data) {
			f.file(path+" > "+b[j].name, a[i].data, b[j].data, depth+1)
		}
	}
	return true
}

// Sort puts causes in the order of their places.
func Sort(list []Cause) {
	slices.SortFunc(list, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.A, b.A))
	})
}
