// Package source binds a model directory to where it comes from: a commit of a
// git repository, with the content that its LFS pointers promise, or a hub's
// listing of a repository's files.
package source

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/retally/retally/internal/digest"
)

// maxPointer is the length that the LFS specification keeps pointer files
// below, in bytes.
const maxPointer = 1024

// pointerVersion is the first line of a pointer file (Git LFS specification,
// docs/spec.md, "The Pointer").
const pointerVersion = "https://git-lfs.github.com/spec/v1"

// A Pointer is a Git LFS pointer: what git stores in place of a large file.
type Pointer struct {
	OID  digest.Digest // SHA-256 of the content
	Size int64         // bytes
}

// MayBePointer reports whether a file of this size can be a pointer file.
func MayBePointer(size int64) bool { return size >= int64(len(pointerVersion)) && size < maxPointer }

// ParsePointer reads a pointer file: lines of "key value" with a line feed
// each, version first, then the others in alphabetical order. It is strict,
// for a file that merely looks like a pointer is content.
func ParsePointer(b []byte) (Pointer, error) {
	if len(b) >= maxPointer {
		return Pointer{}, fmt.Errorf("lfs pointer: %d bytes, want less than %d", len(b), maxPointer)
	}
	var p Pointer
	last := ""
	seen := map[string]bool{}
	for n := 1; len(b) > 0; n++ {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return Pointer{}, fmt.Errorf("lfs pointer: line %d has no line feed", n)
		}
		b = rest
		key, value, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			return Pointer{}, fmt.Errorf("lfs pointer: line %d is %.40q, want a key, a space and a value", n, line)
		}
		k, v := string(key), string(value)
		if n == 1 {
			if k != "version" || v != pointerVersion {
				return Pointer{}, fmt.Errorf("lfs pointer: line 1 is %.80q, want %q", line, "version "+pointerVersion)
			}
			continue
		}
		if !validKey(k) || k <= last {
			return Pointer{}, fmt.Errorf("lfs pointer: line %d has key %.40q after %.40q, want keys in order", n, k, last)
		}
		last = k
		seen[k] = true
		switch k {
		case "oid":
			oid, err := digest.Parse(v)
			if err != nil || oid.Algorithm() != digest.SHA256 || v != oid.String() {
				return Pointer{}, fmt.Errorf("lfs pointer: line %d has oid %.90q, want sha256:<64 lower-case hex digits>", n, v)
			}
			p.OID = oid
		case "size":
			size, err := strconv.ParseInt(v, 10, 64)
			if err != nil || size < 0 || strconv.FormatInt(size, 10) != v {
				return Pointer{}, fmt.Errorf("lfs pointer: line %d has size %.40q, want a number of bytes", n, v)
			}
			p.Size = size
		}
	}
	if !seen["oid"] || !seen["size"] {
		return Pointer{}, fmt.Errorf("lfs pointer: no oid or no size")
	}
	return p, nil
}

func validKey(k string) bool {
	for i := range len(k) {
		if c := k[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-') {
			return false
		}
	}
	return k != ""
}

// String writes the pointer file.
func (p Pointer) String() string {
	return fmt.Sprintf("version %s\noid %s\nsize %d\n", pointerVersion, p.OID, p.Size)
}
