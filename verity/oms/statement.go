package oms

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// The statements that are known (OpenSSF Model Signing, "Signature format").
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateV1   = "https://model_signing/signature/v1.0"
	predicateV02  = "https://model_signing/Digests/v0.1"
)

// HashType names a hash function as statements do.
type HashType string

// The hash types, with digests of 32, 64 and 32 bytes.
const (
	SHA256  HashType = "sha256"
	BLAKE2b HashType = "blake2b"
	BLAKE3  HashType = "blake3"
)

func (h HashType) size() int {
	switch h {
	case SHA256, BLAKE3:
		return 32
	case BLAKE2b:
		return 64
	}
	return 0
}

// A Statement lists the digests of a model's files.
type Statement struct {
	Predicate string // its type
	Model     string // the name that the signer gave the model
	// Root is SHA-256 over all digests in their order: the statement's name
	// for the whole content.
	Root      [sha256.Size]byte
	Hash      HashType
	ShardSize int64 // bytes; 0: whole files
	Symlinks  bool  // files behind symlinks are covered by the links' names
	// Ignored are paths that the statement says nothing of, with all below.
	Ignored   []string
	Resources []Resource

	shards map[string]int // how many resources a path has
}

// A Resource is a file, or a shard of one, and its digest.
type Resource struct {
	Path       string // "." where the model is one file
	Start, End int64  // bytes of a shard; both 0: the whole file
	Digest     []byte
}

// path is where a resource lies in the model's directory.
func (s *Statement) path(r Resource) string {
	if r.Path == "." {
		return s.Model
	}
	return r.Path
}

// Single reports whether the model is one file.
func (s *Statement) Single() bool { return len(s.Resources) > 0 && s.Resources[0].Path == "." }

// root hashes all digests in the statement's order.
func (s *Statement) root(of func(Resource) []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, r := range s.Resources {
		h.Write(of(r))
	}
	h.Sum(sum[:0])
	return sum
}

func parseStatement(name string, payload []byte) (*Statement, error) {
	d := &doc{name: name, data: payload, payload: true}
	root, err := d.parse()
	if err != nil {
		return nil, err
	}
	if root.Kind != jsondoc.Object {
		return nil, d.fail(root, "/", "is %s, want an object", root.Kind)
	}
	typ, err := d.member(root, "", "_type", jsondoc.String)
	if err != nil {
		return nil, err
	}
	if typ.Text != statementType {
		return nil, d.fail(typ, "/_type", "is %.100q, want %s", typ.Text, statementType)
	}
	pred, err := d.member(root, "", "predicateType", jsondoc.String)
	if err != nil {
		return nil, err
	}
	subjects, err := d.member(root, "", "subject", jsondoc.Array)
	if err != nil {
		return nil, err
	}
	s := &Statement{Predicate: pred.Text}
	switch pred.Text {
	case predicateV1:
		err = s.v1(d, root, subjects)
	case predicateV02:
		err = s.v02(d, subjects)
	default:
		err = d.fail(pred, "/predicateType", "is %.100q, which is not known; known are %s and %s", pred.Text, predicateV1, predicateV02)
	}
	if err != nil {
		return nil, err
	}
	return s, s.complete(d, root)
}

// v1 reads the form of v0.3 to v1.1: one subject, all files in the predicate.
func (s *Statement) v1(d *doc, root, subjects *jsondoc.Value) error {
	if len(subjects.Elems) != 1 || subjects.Elems[0].Kind != jsondoc.Object {
		return d.fail(subjects, "/subject", "has %d entries, want one object", len(subjects.Elems))
	}
	subject := subjects.Elems[0]
	name, err := d.member(subject, "/subject/0", "name", jsondoc.String)
	if err != nil {
		return err
	}
	s.Model = name.Text
	want, err := s.subjectDigest(d, subject, "/subject/0")
	if err != nil {
		return err
	}
	pred, err := d.member(root, "", "predicate", jsondoc.Object)
	if err != nil {
		return err
	}
	form, err := d.member(pred, "/predicate", "serialization", jsondoc.Object)
	if err != nil {
		return err
	}
	if err := s.serialization(d, form); err != nil {
		return err
	}
	list, err := d.member(pred, "/predicate", "resources", jsondoc.Array)
	if err != nil {
		return err
	}
	for i, v := range list.Elems {
		r, err := s.resource(d, v, fmt.Sprintf("/predicate/resources/%d", i))
		if err != nil {
			return err
		}
		s.Resources = append(s.Resources, r)
	}
	s.Root = s.root(func(r Resource) []byte { return r.Digest })
	if got := hex.EncodeToString(s.Root[:]); got != hex.EncodeToString(want) {
		return d.fail(subject, "/subject/0/digest/sha256", "is %x, and the listed digests give %s", want, got)
	}
	return nil
}

// v02 reads the form of v0.2: every file is a subject.
func (s *Statement) v02(d *doc, subjects *jsondoc.Value) error {
	s.Hash = SHA256
	for i, v := range subjects.Elems {
		at := fmt.Sprintf("/subject/%d", i)
		if v.Kind != jsondoc.Object {
			return d.fail(v, at, "is %s, want an object", v.Kind)
		}
		name, err := d.member(v, at, "name", jsondoc.String)
		if err != nil {
			return err
		}
		sum, err := s.subjectDigest(d, v, at)
		if err != nil {
			return err
		}
		if a := v.Get("annotations"); !a.IsNull() {
			// Digests of v0.2 are all called sha256, whatever they are.
			if alg := a.Get("actual_hash_algorithm"); !alg.IsNull() && alg.Text != "file-sha256" {
				return d.fail(alg, at+"/annotations/actual_hash_algorithm", "is %.80q, want file-sha256", alg.Text)
			}
		}
		s.Resources = append(s.Resources, Resource{Path: name.Text, Digest: sum})
	}
	s.Root = s.root(func(r Resource) []byte { return r.Digest })
	return nil
}

func (s *Statement) subjectDigest(d *doc, v *jsondoc.Value, at string) ([]byte, error) {
	m, err := d.member(v, at, "digest", jsondoc.Object)
	if err != nil {
		return nil, err
	}
	return d.hex(m, at+"/digest", "sha256", sha256.Size)
}

func (d *doc) hex(v *jsondoc.Value, at, key string, size int) ([]byte, error) {
	m, err := d.member(v, at, key, jsondoc.String)
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(m.Text)
	if err != nil || len(b) != size {
		return nil, d.fail(m, at+"/"+key, "is %.140q, want %d hex digits", m.Text, 2*size)
	}
	return b, nil
}

// serialization reads how the files were hashed. What is not known could change
// what the digests mean.
func (s *Statement) serialization(d *doc, v *jsondoc.Value) error {
	const at = "/predicate/serialization"
	method, err := d.member(v, at, "method", jsondoc.String)
	if err != nil {
		return err
	}
	typ, err := d.member(v, at, "hash_type", jsondoc.String)
	if err != nil {
		return err
	}
	if s.Hash = HashType(typ.Text); s.Hash.size() == 0 {
		return d.fail(typ, at+"/hash_type", "is %.80q, known are sha256, blake2b, blake3", typ.Text)
	}
	if method.Text != "files" && method.Text != "shards" {
		return d.fail(method, at+"/method", "is %.80q, known are files and shards", method.Text)
	}
	for _, m := range v.Members {
		p := at + "/" + jsondoc.EscapePointer(m.Key)
		switch m.Key {
		case "method", "hash_type":
		case "allow_symlinks":
			if m.Value.Kind != jsondoc.Bool {
				return d.fail(m.Value, p, "is %s, want true or false", m.Value.Kind)
			}
			s.Symlinks = m.Value.Bool
		case "ignore_paths":
			if m.Value.Kind != jsondoc.Array {
				return d.fail(m.Value, p, "is %s, want an array", m.Value.Kind)
			}
			for i, e := range m.Value.Elems {
				if e.Kind != jsondoc.String || !cleanPath(e.Text) {
					return d.fail(e, fmt.Sprintf("%s/%d", p, i), "is %.200q, want a relative path without empty, . or .. parts", e.Text)
				}
				s.Ignored = append(s.Ignored, e.Text)
			}
		case "shard_size":
			// Protocol buffers write every number as a floating one.
			n, ok := integer(m.Value)
			if !ok || n < 1 {
				return d.fail(m.Value, p, "is %.40q, want a whole number of bytes", m.Value.Text)
			}
			s.ShardSize = n
		default:
			return d.fail(m.Value, p, "is not known, and could change what the digests mean")
		}
	}
	if (method.Text == "shards") != (s.ShardSize > 0) {
		return d.fail(v, at+"/shard_size", "does not fit method %s", method.Text)
	}
	return nil
}

func integer(v *jsondoc.Value) (int64, bool) {
	if v.Kind != jsondoc.Number || len(v.Text) > 40 {
		return 0, false
	}
	// An exponent is bounded before it is expanded.
	if f, err := strconv.ParseFloat(v.Text, 64); err != nil || f > 1<<60 || f < -1<<60 {
		return 0, false
	}
	r, ok := new(big.Rat).SetString(v.Text)
	if !ok || !r.IsInt() {
		return 0, false
	}
	return r.Num().Int64(), r.Num().IsInt64()
}

func (s *Statement) resource(d *doc, v *jsondoc.Value, at string) (r Resource, err error) {
	if v.Kind != jsondoc.Object {
		return r, d.fail(v, at, "is %s, want an object", v.Kind)
	}
	name, err := d.member(v, at, "name", jsondoc.String)
	if err != nil {
		return r, err
	}
	alg, err := d.member(v, at, "algorithm", jsondoc.String)
	if err != nil {
		return r, err
	}
	want := string(s.Hash)
	r.Path = name.Text
	if s.ShardSize > 0 {
		want = fmt.Sprintf("%s-sharded-%d", s.Hash, s.ShardSize)
		parts := strings.Split(name.Text, ":")
		if len(parts) < 3 {
			return r, d.fail(name, at+"/name", "is %.200q, want path:start:end", name.Text)
		}
		n := len(parts)
		r.Path = strings.Join(parts[:n-2], ":")
		var ok1, ok2 bool
		r.Start, ok1 = offset(parts[n-2])
		r.End, ok2 = offset(parts[n-1])
		if !ok1 || !ok2 || r.End <= r.Start {
			return r, d.fail(name, at+"/name", "is %.200q, want path:start:end", name.Text)
		}
	}
	if alg.Text != want {
		return r, d.fail(alg, at+"/algorithm", "is %.80q, want %s as serialization says", alg.Text, want)
	}
	r.Digest, err = d.hex(v, at, "digest", s.Hash.size())
	return r, err
}

func offset(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == text
}

// complete checks the list as a whole.
func (s *Statement) complete(d *doc, root *jsondoc.Value) error {
	if len(s.Resources) == 0 {
		return d.fail(root, "/", "lists no file, so nothing is signed")
	}
	type key struct {
		path  string
		start int64
	}
	seen := map[key]bool{}
	s.shards = map[string]int{}
	for i, r := range s.Resources {
		at := fmt.Sprintf("resource %d", i)
		if r.Path == "." {
			if s.ShardSize == 0 && len(s.Resources) > 1 {
				return d.fail(nil, at, "is the model itself, and there are others")
			}
		} else if !cleanPath(r.Path) {
			return d.fail(nil, at, "has path %.200q, want a relative path without empty, . or .. parts", r.Path)
		}
		if (r.Path == ".") != s.Single() {
			return d.fail(nil, at, "is the model itself, and there are others")
		}
		if k := (key{r.Path, r.Start}); seen[k] {
			return d.fail(nil, at, "%.200q is listed twice", r.Path)
		} else {
			seen[k] = true
			s.shards[s.path(r)]++
		}
	}
	if s.Single() && !cleanPath(s.Model) {
		return d.fail(nil, "/subject/0/name", "is %.200q, want the name of a file", s.Model)
	}
	return nil
}

func cleanPath(p string) bool {
	return p != "" && !strings.Contains(p, "\x00") && !slices.ContainsFunc(strings.Split(p, "/"), func(n string) bool { return n == "" || n == "." || n == ".." || len(n) > 255 })
}
