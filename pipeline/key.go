package pipeline

import (
	"fmt"
	"net/url"
	"strings"
)

// Key is the stable name of one value, a path of ASCII parts such as
// "image/inference-proxy/manifest". Keys are never renamed once released:
// scripts, reports and --allow-unchecked globs refer to them.
type Key string

// NewKey joins parts. Inside a part everything but letters, digits and
// "-._=@:+" is percent-encoded, so "a/b" becomes "a%2Fb".
func NewKey(parts ...string) Key {
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteByte('/')
		}
		for _, c := range []byte(part) {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._=@:+", c) >= 0 {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return Key(b.String())
}

// Kind is the first part of the key: image, disk, policy, tdx, ...
func (k Key) Kind() string {
	kind, _, _ := strings.Cut(string(k), "/")
	return kind
}

// Match reports whether the key fits a glob: "*" stands for any run of
// characters within a part, "**" for any run at all, "?" for one character. A
// glob without a slash and without wildcard also matches a whole subtree by
// its kind ("policy" matches every policy key).
func (k Key) Match(glob string) bool {
	if !strings.ContainsAny(glob, "/*?") {
		return string(k) == glob || k.Kind() == glob
	}
	return match(glob, string(k))
}

// match is a backtracking glob matcher. It remembers only the last star of
// each kind, which keeps it polynomial for hostile patterns.
func match(glob, s string) bool {
	type point struct{ g, s int }
	star, deep := point{-1, 0}, point{-1, 0}
	g, i := 0, 0
	for i < len(s) || g < len(glob) {
		switch {
		case g < len(glob) && strings.HasPrefix(glob[g:], "**"):
			deep, star = point{g + 2, i}, point{-1, 0}
			g += 2
			continue
		case g < len(glob) && glob[g] == '*':
			star = point{g + 1, i}
			g++
			continue
		case g < len(glob) && i < len(s) && (glob[g] == s[i] || glob[g] == '?' && s[i] != '/'):
			g, i = g+1, i+1
			continue
		}
		switch {
		case star.g >= 0 && star.s < len(s) && s[star.s] != '/':
			star.s++
			g, i = star.g, star.s
		case deep.g >= 0 && deep.s < len(s):
			deep.s++
			star = point{-1, 0}
			g, i = deep.g, deep.s
		default:
			return false
		}
	}
	return true
}

// ValidGlob reports why a glob can never match a key, or nil.
func ValidGlob(glob string) error {
	if glob == "" {
		return fmt.Errorf("glob is empty; it names keys such as policy/** or image/*/manifest")
	}
	for _, r := range glob {
		if r <= ' ' || r >= 0x7f {
			return fmt.Errorf("glob %q has a character that no key has (%q)", glob, r)
		}
	}
	return nil
}

// Parts undoes NewKey.
func (k Key) Parts() []string {
	parts := strings.Split(string(k), "/")
	for i, p := range parts {
		if s, err := url.PathUnescape(p); err == nil {
			parts[i] = s
		}
	}
	return parts
}
