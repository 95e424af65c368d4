// Package imageref is the house's one grammar of image references: what a
// container's image, a registry source and a policy's image are written in.
package imageref

import (
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Ref is an image reference by the grammar of the distribution project
// ("reference" package documentation), which container runtimes share:
//
//	reference = name [ ":" tag ] [ "@" digest ]
//	name      = [ domain "/" ] path
//
// A first element without dot, colon or upper-case letter that is not
// "localhost" is no domain; the domain is then docker.io, and a path of one
// element is below "library/".
type Ref struct {
	Text       string // as written
	Registry   string // with port, docker.io where none is written
	Repository string // without registry
	Name       string // last element of the repository
	Tag        string
	Digest     digest.Digest
}

// Full returns registry and repository.
func (r Ref) Full() string {
	if r.Repository == "" {
		return r.Text
	}
	return r.Registry + "/" + r.Repository
}

// A Error says which part of an image reference is wrong.
type Error struct {
	Text   string // the reference
	Part   string // "name", "registry", "tag", "digest"
	Offset int    // in bytes, of that part in Text
	Msg    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("image reference %q: %s at byte %d: %s", clip(e.Text), e.Part, e.Offset, e.Msg)
}

// The bounds of the reference grammar.
const (
	maxRepository = 255
	maxTag        = 128
)

// Parse reads a reference as container runtimes do. On error (*Error) the
// parts that could be read are returned beside it.
func Parse(text string) (Ref, error) { return parse(text, quirks{}) }

// ParseGenpolicy reads a reference as Kata's genpolicy does (the crate oci-spec
// 0.9.0, its reference grammar). It differs from Parse in that
//
//   - a reference without tag and digest has the tag latest;
//   - a registry is a first element with a dot or a colon, or localhost: one
//     with upper-case letters only is none, and its letters are then a fault
//     of the name; an underscore is allowed in one without port, IPv6
//     addresses are not;
//   - a digest may have upper-case digits, and any algorithm that is known;
//   - 64 hex digits are a name as any other;
//   - the name is bounded as it is written, the whole by 1,024 bytes.
func ParseGenpolicy(text string) (Ref, error) { return parse(text, quirks{genpolicy: true}) }

// quirks are the ways in which a program reads references differently.
type quirks struct{ genpolicy bool }

const maxGenpolicy = 1024

func parse(text string, q quirks) (Ref, error) {
	r := Ref{Text: text}
	fail := func(part string, off int, format string, args ...any) (Ref, error) {
		return r, &Error{text, part, off, fmt.Sprintf(format, args...)}
	}
	if text == "" {
		return fail("name", 0, "empty")
	}
	rest, dig, hasDigest := strings.Cut(text, "@")
	name, tag, hasTag := rest, "", false
	// The last colon starts a tag unless a slash follows it (a port).
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		name, tag, hasTag = rest[:i], rest[i+1:], true
	}
	if q.genpolicy && len(text) > maxGenpolicy {
		return fail("name", 0, "has %d bytes, at most %d are allowed", len(text), maxGenpolicy)
	}
	registry, path := splitRegistry(name, q)
	pathOff := len(name) - len(path)
	if registry != "" {
		if msg := registryFault(registry, q); msg != "" {
			return fail("registry", 0, "%s", msg)
		}
	}
	if msg, off := pathFault(path); msg != "" {
		return fail("name", pathOff+off, "%s", msg)
	}
	if registry == "" {
		registry = "docker.io"
		if isHex(name) && len(name) == 64 && !q.genpolicy {
			return fail("name", 0, "64 hex digits are an image ID, not a name")
		}
	}
	if registry == "index.docker.io" {
		registry = "docker.io"
	}
	if registry == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	r.Registry, r.Repository = registry, path
	r.Name = path[strings.LastIndexByte(path, '/')+1:]
	n := len(registry) + 1 + len(path)
	if q.genpolicy {
		n = len(name)
	}
	if n > maxRepository {
		return fail("name", 0, "has %d characters, at most %d are allowed", n, maxRepository)
	}
	if hasTag {
		if msg := tagFault(tag); msg != "" {
			return fail("tag", len(name)+1, "%s", msg)
		}
		r.Tag = tag
	}
	if hasDigest {
		v, err := parseDigest(dig, q)
		if err != nil {
			return fail("digest", len(rest)+1, "%v", err)
		}
		r.Digest = v
	}
	if q.genpolicy && !hasTag && !hasDigest {
		r.Tag = "latest"
	}
	return r, nil
}

func splitRegistry(name string, q quirks) (registry, path string) {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" && (q.genpolicy || strings.ToLower(first) == first) {
		return "", name
	}
	return first, rest
}

// registryFault checks host and port: domain names, IPv4, bracketed IPv6.
func registryFault(s string, q quirks) string {
	if q.genpolicy && (strings.HasPrefix(s, "[") || elementFault(s) == "") {
		if s[0] == '[' {
			return fmt.Sprintf("%q is not a host name", clip(s))
		}
		return ""
	}
	host, port, hasPort := s, "", false
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || strings.Trim(s[1:end], "0123456789abcdefABCDEF:") != "" || end == 1 {
			return fmt.Sprintf("%q is not an IPv6 address in brackets", clip(s))
		}
		host = ""
		if after := s[end+1:]; after != "" {
			if after[0] != ':' {
				return fmt.Sprintf("%q has something behind the bracket", clip(s))
			}
			port, hasPort = after[1:], true
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port, hasPort = s[:i], s[i+1:], true
	}
	if hasPort && (port == "" || strings.Trim(port, "0123456789") != "") {
		return fmt.Sprintf("%q is not a port", clip(port))
	}
	if strings.HasPrefix(s, "[") {
		return ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !all(label, func(c byte) bool { return isAlnum(c) || c == '-' }) {
			return fmt.Sprintf("%q is not a host name", clip(host))
		}
	}
	return ""
}

// pathFault checks the elements of a repository: lower-case letters and
// digits, separated by one ".", one "_", two "_" or any number of "-".
func pathFault(path string) (msg string, off int) {
	if path == "" {
		return "no repository name", 0
	}
	for elem := range strings.SplitSeq(path, "/") {
		if m := elementFault(elem); m != "" {
			return m, off
		}
		off += len(elem) + 1
	}
	return "", 0
}

func elementFault(elem string) string {
	lower := func(c byte) bool { return isAlnum(c) && !('A' <= c && c <= 'Z') }
	if elem == "" {
		return "empty element"
	}
	for i := 0; i < len(elem); {
		start := i
		for i < len(elem) && lower(elem[i]) {
			i++
		}
		if i == start {
			return fmt.Sprintf("element %q is not lower-case letters and digits with single separators", clip(elem))
		}
		if i == len(elem) {
			break
		}
		sep := i
		for i < len(elem) && strings.IndexByte("._-", elem[i]) >= 0 {
			i++
		}
		s := elem[sep:i]
		if i == len(elem) || s != "." && s != "_" && s != "__" && (s == "" || strings.Trim(s, "-") != "") {
			return fmt.Sprintf("element %q is not lower-case letters and digits with single separators", clip(elem))
		}
	}
	return ""
}

func tagFault(tag string) string {
	word := func(c byte) bool { return isAlnum(c) || c == '_' }
	switch {
	case tag == "":
		return "empty"
	case len(tag) > maxTag:
		return fmt.Sprintf("has %d characters, at most %d are allowed", len(tag), maxTag)
	case !word(tag[0]), !all(tag, func(c byte) bool { return word(c) || c == '.' || c == '-' }):
		return fmt.Sprintf("%q has other characters than letters, digits, _ . - or starts with . or -", clip(tag))
	}
	return ""
}

// parseDigest accepts the registered algorithms of the OCI image
// specification (descriptor.md, "Registered algorithms") and sha384, which the
// go-digest library has too; their hex digits must be lower case.
func parseDigest(s string, q quirks) (digest.Digest, error) {
	v, err := digest.Parse(s)
	if err != nil {
		return digest.Digest{}, err
	}
	if q.genpolicy {
		return v, nil
	}
	switch v.Algorithm() {
	case digest.SHA256, digest.SHA384, digest.SHA512:
	default:
		return digest.Digest{}, fmt.Errorf("%s is no algorithm of image references, want sha256 or sha512", v.Algorithm())
	}
	if v.String() != s {
		return digest.Digest{}, fmt.Errorf("digest %q has upper-case hex digits, runtimes refuse that", clip(s))
	}
	return v, nil
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isHex(s string) bool {
	return s != "" && all(s, func(c byte) bool {
		return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
	})
}

// clip bounds what a message quotes of foreign input.
func clip(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
