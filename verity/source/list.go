package source

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/xet"
)

// hubPage is how many entries a hub's listing has at most, before it names a
// further page in a header that the file does not hold.
const hubPage = 1000

// maxListDepth bounds how deep a listed path may be.
const maxListDepth = 200

// ListError is a file list that cannot be used.
type ListError struct {
	Name    string
	Line    int
	Pointer string // JSON pointer
	Msg     string
}

func (e *ListError) Error() string {
	return fmt.Sprintf("file list %s: line %d, %s: %s", e.Name, e.Line, e.Pointer, e.Msg)
}

// ParseList reads a list of a model's files without their content: a JSON
// array of objects
//
//	{"path": "a/b", "size": 12, "mode": "0644", "target": "…", "sha256": "…"}
//
// Mode is octal text or the number of stat; without it a file has 0644 and a
// directory 0755. An entry with a target is a symlink. Directories may be
// listed ("type": "directory") and are otherwise made where files need them;
// path "." sets the root's mode. The listing of a model hub (an array of type,
// path, size, oid, lfs.oid and xetHash) is read as it is: lfs.oid is the SHA-256
// of the content, xetHash its Xet hash, oid git's name of a file without lfs. So is a hub's description of
// the model (an object whose siblings have rfilename, size, blobId and
// lfs.sha256). Other keys are ignored.
//
// A git tree has no empty directory: one that a hub lists, and nothing in it,
// means that the listing is not recursive or was cut off, and is an error.
func ParseList(name string, data []byte) (*Tree, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 256 << 20, Depth: 16, Values: 20_000_000})
	if err != nil {
		return nil, fmt.Errorf("file list %s: %w", name, err)
	}
	fail := func(v *jsondoc.Value, pointer, format string, args ...any) error {
		line, _ := jsondoc.Position(data, v.Offset)
		return &ListError{name, line, pointer, fmt.Sprintf(format, args...)}
	}
	list, at, pathKey := doc, "", "path"
	if siblings := doc.Get("siblings"); doc.Kind == jsondoc.Object && siblings != nil {
		list, at, pathKey = siblings, "/siblings", "rfilename"
	}
	if list.Kind != jsondoc.Array {
		return nil, fail(list, at+"/", "is %s, want an array of files, or a hub's description of a model with siblings", list.Kind)
	}
	t := &Tree{Name: "file list " + name, Entries: map[string]Entry{}, Partial: true}
	hub := pathKey == "rfilename"
	for i, v := range list.Elems {
		pointer := at + "/" + strconv.Itoa(i)
		p, e, key, err := listEntry(v, pathKey)
		if err != nil {
			return nil, fail(v, pointer+key, "%v", err)
		}
		if _, twice := t.Entries[p]; twice {
			return nil, fail(v, pointer+"/"+pathKey, "%.200q is listed twice", p)
		}
		t.Entries[p] = e
		hub = hub || !v.Get("oid").IsNull() || !v.Get("blob_id").IsNull() || !v.Get("tree_id").IsNull() || !v.Get("lfs").IsNull() || !v.Get("xetHash").IsNull()
	}
	if hub {
		if n := len(list.Elems); n > 0 && n%hubPage == 0 && pathKey == "path" {
			t.Suspect = fmt.Sprintf("the listing has exactly %d entries, and a hub gives %d at a time: make sure that no further page belongs to it", n, hubPage)
		}
		if p := t.emptyDir(); p != "" {
			return nil, fail(list, at+"/", "the directory %.200q is listed and nothing in it; a git tree has no empty directory, so the listing is not complete: ask for it with recursive=true, and follow the links to further pages", p)
		}
	}
	return t, nil
}

// emptyDir is the first listed directory that nothing lies in, "" for none.
func (t *Tree) emptyDir() string {
	filled := map[string]bool{".": true}
	for p := range t.Entries {
		for p = path.Dir(p); !filled[p]; p = path.Dir(p) {
			filled[p] = true
		}
	}
	first := ""
	for p, e := range t.Entries {
		if e.Mode&erofs.ModeType == erofs.ModeDir && !filled[p] && (first == "" || p < first) {
			first = p
		}
	}
	return first
}

// listEntry reads one element; key is the pointer below it that is wrong.
func listEntry(v *jsondoc.Value, pathKey string) (p string, e Entry, key string, err error) {
	if v.Kind != jsondoc.Object {
		return "", e, "", fmt.Errorf("is %s, want an object", v.Kind)
	}
	if p, err = text(v, pathKey); err != nil || p == "" {
		return "", e, "/" + pathKey, fmt.Errorf("is missing or no text, want a relative path")
	}
	if !cleanPath(p) {
		return "", e, "/" + pathKey, fmt.Errorf("is %.200q, want a relative path without empty, . or .. parts, of names up to 255 bytes", p)
	}
	e.Size = -1
	typ, err := text(v, "type")
	if err != nil {
		return "", e, "/type", err
	}
	target, err := text(v, "target")
	if err != nil {
		return "", e, "/target", err
	}
	if target == "" {
		if target, err = text(v, "symlink_target"); err != nil {
			return "", e, "/symlink_target", err
		}
	}
	e.Target = target
	mode, given, err := listMode(v.Get("mode"))
	if err != nil {
		return "", e, "/mode", err
	}
	e.Perm = given
	switch {
	case p == "." || typ == "directory" || typ == "dir" || mode&erofs.ModeType == erofs.ModeDir:
		e.Mode = erofs.ModeDir | pick(given, mode, 0o755)
		return p, e, "", nil
	case target != "" || typ == "symlink":
		if target == "" {
			return "", e, "/target", fmt.Errorf("is missing, want the symlink's target")
		}
		e.Mode, e.Size = erofs.ModeSymlink|0o777, int64(len(target))
		return p, e, "", nil
	case typ != "" && typ != "file" || mode&erofs.ModeType != 0 && mode&erofs.ModeType != erofs.ModeRegular:
		return "", e, "/type", fmt.Errorf("is %.40q with mode %o, want file, directory or symlink", typ, mode)
	}
	e.Mode = erofs.ModeRegular | pick(given, mode, 0o644)
	size, ok := v.Get("size").Uint64()
	if !ok || size > 1<<44 {
		hint := ""
		if pathKey == "rfilename" {
			hint = ": ask for the description with blobs=true"
		}
		return "", e, "/size", fmt.Errorf("is missing or no number of bytes%s", hint)
	}
	e.Size = int64(size)
	key, err = listDigests(v, &e)
	return p, e, key, err
}

// listDigests reads what the list says about content.
func listDigests(v *jsondoc.Value, e *Entry) (key string, err error) {
	if e.Xet, err = text(v, "xetHash"); err != nil {
		return "/xetHash", err
	}
	if e.Xet != "" {
		if err := xet.Check(e.Xet); err != nil {
			return "/xetHash", err
		}
	}
	sum, err := text(v, "sha256")
	if err != nil {
		return "/sha256", err
	}
	if lfs := v.Get("lfs"); !lfs.IsNull() {
		key := "/lfs/oid"
		oid, err := text(lfs, "oid")
		if err != nil {
			return key, err
		}
		alt, err := text(lfs, "sha256")
		if err != nil {
			return "/lfs/sha256", err
		}
		if oid == "" || alt != "" {
			if oid != "" && strings.TrimPrefix(oid, "sha256:") != alt {
				return "/lfs/sha256", fmt.Errorf("is %.80q, and lfs.oid is %.80q", alt, oid)
			}
			oid, key = alt, "/lfs/sha256"
		}
		if oid == "" {
			return "/lfs/oid", fmt.Errorf("is missing or no text, want a SHA-256 digest")
		}
		if sum != "" && strings.TrimPrefix(sum, "sha256:") != strings.TrimPrefix(oid, "sha256:") {
			return "/sha256", fmt.Errorf("is %.80q, and %s is %.80q", sum, strings.TrimPrefix(key, "/"), oid)
		}
		sum, e.LFS = oid, true
		if size, ok := lfs.Get("size").Uint64(); ok && int64(size) != e.Size {
			return "/lfs/size", fmt.Errorf("is %d, and size is %d", size, e.Size)
		}
	}
	if sum != "" {
		if e.SHA256, err = digest.ParseHex(digest.SHA256, strings.TrimPrefix(sum, "sha256:")); err != nil {
			return "/sha256", err
		}
		return "", nil
	}
	for _, name := range []string{"oid", "blobId", "blob_id"} {
		oid, err := text(v, name)
		if err != nil {
			return "/" + name, err
		}
		if oid == "" {
			continue
		}
		if e.Blob, err = digest.ParseHex(digest.SHA1, oid); err != nil && name == "oid" {
			return "/" + name, err
		}
		break // a name that is none binds nothing
	}
	return "", nil
}

func text(v *jsondoc.Value, key string) (string, error) {
	m := v.Get(key)
	if m.IsNull() {
		return "", nil
	}
	if m.Kind != jsondoc.String {
		return "", fmt.Errorf("is %s, want text", m.Kind)
	}
	return m.Text, nil
}

// listMode reads a mode with or without type bits.
func listMode(v *jsondoc.Value) (mode uint32, given bool, err error) {
	if v.IsNull() {
		return 0, false, nil
	}
	var n uint64
	if v.Kind == jsondoc.String {
		if n, err = strconv.ParseUint(strings.TrimPrefix(v.Text, "0o"), 8, 32); err != nil {
			return 0, false, fmt.Errorf("is %.40q, want octal digits", v.Text)
		}
	} else {
		var ok bool
		if n, ok = v.Uint64(); !ok {
			return 0, false, fmt.Errorf("is %s, want octal text or the number of stat", v.Kind)
		}
	}
	if n > erofs.ModeType|erofs.ModePerm {
		return 0, false, fmt.Errorf("is %o, want type and permission bits", n)
	}
	return uint32(n), true, nil
}

func pick(given bool, mode, usual uint32) uint32 {
	if given {
		return mode & erofs.ModePerm
	}
	return usual
}

func cleanPath(p string) bool {
	if p == "." {
		return true
	}
	names := strings.Split(p, "/")
	for _, n := range names {
		if n == "" || n == "." || n == ".." || len(n) > 255 || strings.Contains(n, "\x00") {
			return false
		}
	}
	return len(names) <= maxListDepth
}

// Nodes makes a source tree of what is listed, to be planned without any
// content. An entry below a file is an error.
func (t *Tree) Nodes() (*erofs.Node, error) {
	root := &erofs.Node{Mode: erofs.ModeDir | 0o755}
	dirs := map[string]*erofs.Node{".": root}
	var dir func(p string) (*erofs.Node, error)
	dir = func(p string) (*erofs.Node, error) {
		if d := dirs[p]; d != nil {
			return d, nil
		}
		mode := uint32(erofs.ModeDir | 0o755)
		if e, ok := t.Entries[p]; ok {
			if e.Mode&erofs.ModeType != erofs.ModeDir {
				return nil, &erofs.TreeError{Path: p, Found: typeName(e.Mode) + " with entries below it", Want: "a directory"}
			}
			mode = e.Mode
		}
		parent, err := dir(path.Dir(p))
		if err != nil {
			return nil, err
		}
		d := &erofs.Node{Name: path.Base(p), Mode: mode}
		parent.Children = append(parent.Children, d)
		dirs[p] = d
		return d, nil
	}
	for p, e := range t.Entries {
		if p == "." {
			root.Mode = e.Mode
			continue
		}
		if e.Mode&erofs.ModeType == erofs.ModeDir {
			if _, err := dir(p); err != nil {
				return nil, err
			}
			continue
		}
		parent, err := dir(path.Dir(p))
		if err != nil {
			return nil, err
		}
		n := &erofs.Node{Name: path.Base(p), Mode: e.Mode, Size: e.Size, Target: e.Target}
		if n.Size < 0 || n.Is(erofs.ModeSymlink) && n.Target == "" {
			return nil, &erofs.TreeError{Path: p, Found: "no size or target in the source", Want: "a source that has them (a full clone, a file list)"}
		}
		parent.Children = append(parent.Children, n)
	}
	return root, nil
}
