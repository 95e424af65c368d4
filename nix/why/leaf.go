package why

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A mask takes out of a file what usually differs between two builds for one
// reason. Two files that are equal without it differ for that reason alone.
type mask struct {
	kind Kind
	text bool // of texts only
	undo func([]byte) []byte
}

func replaced(expr string) func([]byte) []byte {
	re := regexp.MustCompile(expr)
	return func(data []byte) []byte { return re.ReplaceAll(data, []byte{0}) }
}

const (
	month = `(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)`
	day   = `(Mon|Tue|Wed|Thu|Fri|Sat|Sun)`
	clock = `[0-2][0-9]:[0-5][0-9](:[0-6][0-9](\.[0-9]+)?)?`
)

// masks are tried together, and then as few of them as will do. The order is
// that in which they are taken out again: what a wider one covers goes first.
var masks = []mask{
	{"padding", false, func(b []byte) []byte { return bytes.TrimRight(b, "\x00") }},
	{"store-path", false, replaced(`/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-`)},
	{"build-path", false, replaced(`(/private)?(/tmp|/var/tmp)/nix-build-[A-Za-z0-9+._?=-]*|/nix/var/nix/builds/[A-Za-z0-9+._?=-]*`)},
	{"uuid", false, replaced(`[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`)},
	{"date", false, replaced(
		`[12][0-9]{3}-[01][0-9]-[0-3][0-9]([T ]` + clock + `)?( ?(Z|UTC|[+-][0-9]{2}:?[0-9]{2}))?` +
			`|(` + day + `,? )?` + month + ` [ 0-3]?[0-9],? (` + clock + ` )?([A-Z]{3,4} )?[12][0-9]{3}` +
			`|(` + day + `,? )?[0-3]?[0-9] ` + month + ` [12][0-9]{3}( ` + clock + `)?( (GMT|UTC|[+-][0-9]{4}))?` +
			`|` + clock)},
	{"time-number", false, replaced(`\b1[0-9]{9}([0-9]{3}|[0-9]{6}|[0-9]{9})?\b`)},
	{"line-ends", true, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }},
	{"trailing-space", true, trimmed},
	{"json-order", true, sortedKeys},
	{"line-order", true, sortedLines},
}

var blanks = regexp.MustCompile(`[ \t]+(\r?\n|$)`)

func trimmed(b []byte) []byte {
	return append(bytes.TrimRight(blanks.ReplaceAll(b, []byte("$1")), "\r\n"), '\n')
}

func sortedLines(b []byte) []byte {
	lines := strings.SplitAfter(strings.TrimSuffix(string(b), "\n")+"\n", "\n")
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// sortedKeys writes a JSON document with its keys sorted; what is none stays.
// White space counts: only the order of keys is taken out.
func sortedKeys(b []byte) []byte {
	if len(b) == 0 || b[0] != '{' && b[0] != '[' || len(b) > 16<<20 {
		return b
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil || len(bytes.TrimSpace(b[dec.InputOffset():])) > 0 {
		return b
	}
	out, err := json.Marshal(v)
	if err != nil {
		return b
	}
	// Without the keys' order, but with everything else: the sorted document
	// and how often each byte occurs.
	var count [256]int
	for _, c := range b {
		count[c]++
	}
	for i, n := range count {
		if n > 0 {
			out = append(out, byte(i), byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
		}
	}
	return out
}

func isText(b []byte) bool { return utf8.Valid(b) && !bytes.ContainsRune(b, 0) }

// leaf names the smallest set of reasons without which two files are the same.
func leaf(f *finder, path string, a, b []byte) bool {
	text := isText(a) && isText(b)
	var use []mask
	for _, m := range masks {
		if !m.text || text {
			use = append(use, m)
		}
	}
	if !without(a, b, use) {
		return false
	}
	// Leave out what is not needed; what stays is needed, each of it.
	for i := len(use) - 1; i >= 0; i-- {
		if fewer := slices.Delete(slices.Clone(use), i, i+1); without(a, b, fewer) {
			use = fewer
		}
	}
	for _, m := range use {
		x, y := example(a, b)
		f.add(path, m.kind, x, y)
	}
	return len(use) > 0
}

// without reports whether two files are the same when some reasons are undone.
func without(a, b []byte, use []mask) bool {
	for _, m := range use {
		a, b = m.undo(a), m.undo(b)
	}
	return bytes.Equal(a, b)
}

// example is the text around the first difference, of both sides.
func example(a, b []byte) (x, y string) {
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	cut := func(s []byte) string {
		from := at
		for from > 0 && at-from < 40 && s[from-1] >= ' ' && s[from-1] < 0x7f {
			from--
		}
		to := at
		for to < len(s) && to-at < 40 && s[to] >= ' ' && s[to] < 0x7f {
			to++
		}
		return string(s[from:to])
	}
	return cut(a), cut(b)
}
