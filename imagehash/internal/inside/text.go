package inside

import (
	"bytes"
	"path"
	"regexp"
	"strings"
)

var machine = regexp.MustCompile(`^[0-9a-f]{32}\n?$`)

// machineID is machine-id(5).
func machineID(name string, a, b []byte) *explained {
	if path.Base(name) != "machine-id" || !machine.Match(a) || !machine.Match(b) {
		return nil
	}
	return &explained{words: "machine-id: a random id; ship it empty", splices: []splice{{[]string{"id"}, 0, a, b}}}
}

// shadow is shadow(5): the third field is the day of the last change of the
// password.
func shadow(name string, a, b []byte) *explained {
	base := strings.TrimSuffix(path.Base(name), "-")
	if base != "shadow" && base != "gshadow" {
		return nil
	}
	la, lb := bytes.SplitAfter(a, []byte("\n")), bytes.SplitAfter(b, []byte("\n"))
	if len(la) != len(lb) {
		return nil
	}
	e := &explained{words: "shadow: the days of the last change of passwords"}
	at := 0
	for i, line := range lb {
		fa, fb := bytes.Split(la[i], []byte(":")), bytes.Split(line, []byte(":"))
		if len(fb) > 3 && len(fa) == len(fb) && !bytes.Equal(fa[2], fb[2]) && number(fa[2]) && number(fb[2]) {
			e.splices = append(e.splices, splice{[]string{string(fb[0])}, at + len(fb[0]) + len(fb[1]) + 2, fa[2], fb[2]})
		}
		at += len(line)
	}
	if len(e.splices) == 0 {
		return nil
	}
	return e
}

func number(p []byte) bool {
	for _, c := range p {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(p) > 0
}

// storePath is a path of Nix (Nix manual, "Store Path"); its alphabet leaves out
// e, o, t and u.
var storePath = regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-`)

func storePaths(_ string, a, b []byte) *explained {
	const from = len("/nix/store/")
	var spans []span
	for _, m := range storePath.FindAllIndex(b, -1) {
		spans = append(spans, span{[]string{"store path"}, "", m[0] + from, 32})
	}
	splices, _ := differing(a, b, spans)
	for _, s := range splices {
		if !storePath.Match(a[s.at-from : s.at+33]) {
			return nil
		}
	}
	if len(splices) == 0 {
		return nil
	}
	return &explained{words: "store paths of Nix: the hashes of other inputs", splices: splices}
}

const (
	ruleLF   = "LF in place of CRLF"
	ruleCRLF = "CRLF in place of LF"
)

func lineEnds(_ string, a, b []byte) *explained {
	crlf := []byte("\r\n")
	switch ca, cb := bytes.Count(a, crlf), bytes.Count(b, crlf); {
	case ca == 0 && cb > 0:
		return &explained{words: "line ends: CRLF in B, LF in A", rule: ruleLF, closing: "with LF the file is equal"}
	case cb == 0 && ca > 0:
		return &explained{words: "line ends: LF in B, CRLF in A", rule: ruleCRLF, closing: "with CRLF the file is equal"}
	}
	return nil
}

func lineOrder(_ string, a, b []byte) *explained {
	if len(a) != len(b) || bytes.IndexByte(b, 0) >= 0 {
		return nil
	}
	la, lb := bytes.SplitAfter(a, []byte("\n")), bytes.SplitAfter(b, []byte("\n"))
	if len(la) != len(lb) || len(la) < 3 {
		return nil
	}
	at := map[string][]int{}
	for i, line := range lb {
		at[string(line)] = append(at[string(line)], i)
	}
	perm := make([]int, 0, len(la))
	for _, line := range la {
		list := at[string(line)]
		if len(list) == 0 {
			return nil
		}
		perm = append(perm, list[0])
		at[string(line)] = list[1:]
	}
	return &explained{words: "the same lines in another order", perm: perm, closing: "with the lines in A's order the file is equal"}
}

// byName are files that hold what the building machine did, told by their
// places. Nothing of them is undone.
func byName(name string, _, _ []byte) *explained {
	words := ""
	switch dir, base := path.Split(name); {
	case strings.HasPrefix(name, "var/lib/apt/lists/") || strings.HasPrefix(name, "var/cache/apt/"):
		words = "apt's lists and caches: they hold the state of a mirror at one time; delete them in the step that makes them"
	case name == "var/cache/ldconfig/aux-cache":
		words = "ldconfig's aux-cache: it holds times and inode numbers; delete it"
	case strings.HasSuffix(dir, "/fontconfig/") && strings.Contains(base, ".cache-"):
		words = "a cache of fontconfig: it holds times of folders; delete it or run fc-cache with SOURCE_DATE_EPOCH"
	case strings.HasPrefix(name, "var/log/"):
		words = "a log of the build; delete it"
	}
	if words == "" {
		return nil
	}
	return &explained{words: words, unproved: true}
}
