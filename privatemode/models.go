package privatemode

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// Models is the ConfigMap model-disks of models.yaml.
type Models struct {
	File, Namespace string
	Entries         []Model // in file order
}

// Model is one published model disk: EROFS of a git commit's files, with a
// dm-verity tree behind it. All values stand as strings in the file. Of a
// storage class (ParseStorageClasses) HashOffset, ErofsVersion,
// VeritysetupVersion and FileHash are not known, and zero.
type Model struct {
	Key                              string   // the ConfigMap's key, as verity/normalize-model-name.sh makes it
	Source                           string   // model_source, the git repository
	Commit                           string   // commit_hash, 40 hex digits (64 for SHA-256 repositories)
	Excluded                         []string // excluded_files, split at commas; nil for none
	RootHash                         digest.Digest
	HashOffset                       uint64 // bytes of EROFS, where the hash tree starts
	ErofsVersion, VeritysetupVersion string
	FileHash                         digest.Digest // file_hash_sha256, of EROFS and tree together
	File                             string
	Line                             int // of the key
	RootLine                         int // of root_hash
}

// NormalizeName makes the key of a model from its source, as
// verity/normalize-model-name.sh does: protocol, host and a trailing .git away,
// everything but ASCII letters and digits a hyphen, hyphens single, lower case.
func NormalizeName(source string) string {
	if _, after, ok := strings.Cut(source, "//"); ok {
		source = after
	}
	if _, after, ok := strings.Cut(source, "/"); ok {
		source = after
	}
	source = strings.TrimSuffix(source, ".git")
	var b strings.Builder
	for _, c := range []byte(source) {
		switch {
		case 'A' <= c && c <= 'Z':
			b.WriteByte(c - 'A' + 'a')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			b.WriteByte(c)
		case !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return b.String()
}

// Find gives the entry of a name: the one whose key is the name as it stands,
// else the only one whose key is like it once both are normalised. Several
// that are alike are an error that names their lines: which of them is meant
// is not for us to choose.
func (m *Models) Find(name string) (Model, error) {
	var alike []Model
	for _, e := range m.Entries {
		if e.Key == name {
			return e, nil
		}
		if NormalizeName(e.Key) == NormalizeName(name) {
			alike = append(alike, e)
		}
	}
	switch len(alike) {
	case 1:
		return alike[0], nil
	case 0:
		p := Problem{File: m.File, Path: "data", Msg: fmt.Sprintf("no model is called %q", clip(name))}
		keys := make([]string, len(m.Entries))
		for i, e := range m.Entries {
			keys[i] = e.Key
		}
		if near := yamldoc.Nearest(name, keys); near != "" {
			p.Msg += fmt.Sprintf(", the nearest one is %q", near)
		}
		return Model{}, p
	}
	return Model{}, Problem{
		File: m.File, Line: alike[1].Line, Path: "data",
		Msg: fmt.Sprintf("%q may be %q on line %d or %q on line %d: give the key as it stands", clip(name), clip(alike[0].Key), alike[0].Line, clip(alike[1].Key), alike[1].Line),
	}
}

// modelFields are the fields of an entry in the order of verity/verity.sh.
var modelFields = [...]string{
	"model_source", "commit_hash", "excluded_files", "root_hash", "hash_offset",
	"erofs_version", "veritysetup_version", "file_hash_sha256",
}

// ParseModels reads models.yaml: a ConfigMap model-disks, whose values are
// JSON objects of strings. Unknown and repeated fields are faults. All faults
// come together, with their line in the YAML, as Problems; entries without
// fault are returned beside them. A file that is not YAML gives *yamldoc.Error.
func ParseModels(file string, data []byte) (*Models, error) {
	docs, err := yamldoc.ParseKubernetes(file, data, yamldoc.Limits{Bytes: 4 << 20})
	if err != nil {
		return nil, err
	}
	m := &Models{File: file}
	r := &modelReader{file: file, data: data, models: m}
	var found *yaml.Node
	for _, doc := range docs {
		if doc == nil {
			continue
		}
		kind, _ := yamldoc.Text(yamldoc.Get(doc, "kind"))
		name, _ := yamldoc.Text(yamldoc.Path(doc, "metadata", "name"))
		switch {
		case kind != "ConfigMap" || name != "model-disks":
			r.at(doc, "", "is %s %q, want the ConfigMap model-disks", clip(kind), clip(name))
		case found != nil:
			r.at(doc, "", "the ConfigMap model-disks is on line %d already", found.Line)
		default:
			found = doc
			r.configMap(doc)
		}
	}
	if found == nil && len(r.faults) == 0 {
		r.faults.add(Problem{File: file, Msg: "no ConfigMap model-disks"})
	}
	slices.SortStableFunc(r.faults, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return m, r.faults.err()
}

type modelReader struct {
	file   string
	data   []byte
	models *Models
	faults Problems
}

func (r *modelReader) at(n *yaml.Node, path, format string, args ...any) {
	r.faults.add(Problem{File: r.file, Line: n.Line, Column: n.Column, Path: path, Msg: fmt.Sprintf(format, args...)})
}

func (r *modelReader) configMap(doc *yaml.Node) {
	if v, _ := yamldoc.Text(yamldoc.Get(doc, "apiVersion")); v != "v1" {
		r.at(doc, "apiVersion", "is %q, want v1", clip(v))
	}
	r.models.Namespace, _ = yamldoc.Text(yamldoc.Path(doc, "metadata", "namespace"))
	if b := yamldoc.Get(doc, "binaryData"); !yamldoc.IsNull(b) {
		r.at(b, "binaryData", "is not read, models are in data")
	}
	entries := yamldoc.Get(doc, "data")
	if entries == nil || entries.Kind != yaml.MappingNode {
		r.at(doc, "data", "want a mapping of models")
		return
	}
	for _, p := range yamldoc.Pairs(entries) {
		r.entry(p.Key, p.Value)
	}
}

// entry reads one value: JSON in a string.
func (r *modelReader) entry(key, value *yaml.Node) {
	path := "data." + clip(key.Value)
	if value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str" {
		r.at(value, path, "want a string that holds a JSON object")
		return
	}
	before := len(r.faults)
	line := func(off int) int {
		return yamldoc.ContentLine(value, strings.Count(value.Value[:min(off, len(value.Value))], "\n"))
	}
	fault := func(off int, field, format string, args ...any) {
		p := path
		if field != "" {
			p += "." + field
		}
		r.faults.add(Problem{File: r.file, Line: line(off), Path: p, Msg: fmt.Sprintf(format, args...)})
	}
	doc, err := jsondoc.Parse([]byte(value.Value), jsondoc.Limits{Bytes: 1 << 20, Depth: 16, Values: 1000})
	if err != nil {
		e := jsonProblem(r.file, err)
		fault(jsonOffset(err), "", "not JSON: %s", e.Msg)
		return
	}
	if doc.Kind != jsondoc.Object {
		fault(doc.Offset, "", "is %s, want a JSON object", doc.Kind)
		return
	}
	text := map[string]string{}
	for _, m := range doc.Members {
		if !slices.Contains(modelFields[:], m.Key) {
			hint := ""
			if near := yamldoc.Nearest(m.Key, modelFields[:]); near != "" {
				hint = fmt.Sprintf(", the nearest one is %q", near)
			}
			fault(m.Offset, clip(m.Key), "no such field%s", hint)
			continue
		}
		if m.Value.Kind != jsondoc.String {
			fault(m.Value.Offset, m.Key, "is %s, want a string", m.Value.Kind)
			continue
		}
		text[m.Key] = m.Value.Text
	}
	e := Model{Key: key.Value, File: r.file, Line: key.Line}
	for _, f := range modelFields {
		v := doc.Get(f)
		if v == nil {
			fault(doc.Offset, f, "missing")
			continue
		}
		if v.Kind != jsondoc.String {
			continue
		}
		if f == "root_hash" {
			e.RootLine = line(v.Offset)
		}
		if msg := e.set(f, text[f]); msg != "" {
			fault(v.Offset, f, "%s", msg)
		}
	}
	if len(r.faults) == before {
		r.models.Entries = append(r.models.Entries, e)
	}
}

// set checks and keeps one field; the result is what is wrong with it.
func (e *Model) set(field, s string) string {
	var err error
	switch field {
	case "model_source":
		u, perr := url.Parse(s)
		if perr != nil || u.Scheme == "" || u.Host == "" {
			return fmt.Sprintf("%q is not the URL of a git repository", clip(s))
		}
		e.Source = s
	case "commit_hash":
		if !isLowerHex(s) || len(s) != 40 && len(s) != 64 {
			return fmt.Sprintf("%q is not a full git commit: want 40 lower-case hex digits", clip(s))
		}
		e.Commit = s
	case "excluded_files":
		if s == "" {
			return ""
		}
		for pattern := range strings.SplitSeq(s, ",") {
			if pattern == "" {
				return fmt.Sprintf("%q has an empty pattern", clip(s))
			}
			e.Excluded = append(e.Excluded, pattern)
		}
	case "root_hash":
		e.RootHash, err = rootHash(s)
	case "file_hash_sha256":
		e.FileHash, err = hex64(s)
	case "hash_offset":
		n, perr := strconv.ParseUint(s, 10, 63)
		switch {
		case perr != nil || strconv.FormatUint(n, 10) != s:
			return fmt.Sprintf("%q is not a decimal number of bytes", clip(s))
		case n == 0 || n%512 != 0:
			// The smallest block of EROFS and of dm-verity; the tree follows the image.
			return fmt.Sprintf("%d is not a positive multiple of 512, as the size of an EROFS image is", n)
		}
		e.HashOffset = n
	case "erofs_version", "veritysetup_version":
		if s == "" || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return fmt.Sprintf("%q is not a version", clip(s))
		}
		if field == "erofs_version" {
			e.ErofsVersion = s
		} else {
			e.VeritysetupVersion = s
		}
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// rootHash reads the root of a tree; its length tells the hash, which is SHA-256
// in all entries that were published.
func rootHash(s string) (digest.Digest, error) {
	if len(s) == 2*digest.SHA512.Size() && isLowerHex(s) {
		return digest.ParseHex(digest.SHA512, s)
	}
	return hex64(s)
}

func hex64(s string) (digest.Digest, error) {
	d, err := digest.ParseHex(digest.SHA256, s)
	if err != nil {
		return d, err
	}
	if d.Hex() != s {
		return digest.Digest{}, fmt.Errorf("%q has upper-case digits, want lower case", clip(s))
	}
	return d, nil
}

func isLowerHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }

func jsonOffset(err error) int {
	if e, ok := err.(*jsondoc.Error); ok {
		return e.Offset
	}
	return 0
}
