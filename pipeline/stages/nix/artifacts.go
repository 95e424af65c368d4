package nix

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// Artifact is a file of a build folder that was compared, and what follows.
type Artifact struct {
	Name string `json:"name"`
	// Role is what it is to the machine: firmware, kernel, initrd, rootfs,
	// cmdline, compose, docker_files; "" of any other file.
	Role  string        `json:"role,omitempty"`
	A     digest.Digest `json:"a"`
	B     digest.Digest `json:"b"`
	Moves []Moved       `json:"moves"`
	Note  string        `json:"note,omitempty"`
}

// Moved is a register that is another when one artifact is exchanged. Without
// values it was not computed: the artifact is measured into it.
type Moved struct {
	Register string `json:"register"`
	A        string `json:"a,omitempty"`
	B        string `json:"b,omitempty"`
}

func (a *Artifact) text(w io.Writer) {
	word := "DIFFERS"
	switch {
	case a.A.IsZero() || a.B.IsZero():
		word = "UNCHECKED"
	case a.A == a.B:
		word = "MATCH"
	}
	show.Line(w, "  %s  %s%s", word, a.Name, show.Or(strings.TrimSuffix(" ("+a.Role+")", " ()"), ""))
	if word == "DIFFERS" {
		show.Line(w, "    %s, other side %s", a.A, a.B)
	}
	for _, m := range a.Moves {
		if m.A == "" {
			show.Line(w, "    it is measured into %s", m.Register)
			continue
		}
		show.Line(w, "    it moves %s: %s -> %s", m.Register, m.A, m.B)
	}
	if a.Note != "" {
		show.Line(w, "    %s", a.Note)
	}
}

// Sum is one line of a list of checksums.
type Sum struct {
	Name   string
	Digest digest.Digest
	Line   int
}

const sumsAtMost = 10_000

var (
	gnuSum = regexp.MustCompile(`^\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128})[ \t]+\*?(\S.*)$`)
	bsdSum = regexp.MustCompile(`^(SHA256|SHA384|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]+)$`)
	byHex  = map[int]digest.Algorithm{64: digest.SHA256, 96: digest.SHA384, 128: digest.SHA512}
)

// ParseSums reads what sha256sum and its kin print, in the form of GNU and of
// BSD. A line that is neither is an error, unless it is empty or a comment; two
// digests for one name, too.
func ParseSums(file string, data []byte) ([]Sum, error) {
	var out []Sum
	seen := map[string]Sum{}
	in := bufio.NewScanner(bytes.NewReader(data))
	for line := 1; in.Scan(); line++ {
		text := strings.TrimRight(in.Text(), "\r ")
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		bad := func(msg string) error {
			return &pipeline.InputError{Op: "read checksums", File: fmt.Sprintf("%s:%d", file, line), Err: errors.New(msg), Hint: "a line is DIGEST  NAME, or SHA256 (NAME) = DIGEST"}
		}
		var hex, name string
		if m := gnuSum.FindStringSubmatch(text); m != nil {
			hex, name = m[1], m[2]
		} else if m := bsdSum.FindStringSubmatch(text); m != nil {
			hex, name = m[3], m[2]
			if want := map[string]int{"SHA256": 64, "SHA384": 96, "SHA512": 128}[m[1]]; len(hex) != want {
				return nil, bad(fmt.Sprintf("%s has %d digits, want %d", m[1], len(hex), want))
			}
		} else {
			return nil, bad("is no checksum of a file")
		}
		d, err := digest.ParseHex(byHex[len(hex)], strings.ToLower(hex))
		if err != nil {
			return nil, bad(err.Error())
		}
		name = path.Clean(strings.TrimPrefix(name, "./"))
		if path.IsAbs(name) || name == "." || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsRune(name, '\\') {
			return nil, bad(fmt.Sprintf("the name %q leads out of the folder", name))
		}
		s := Sum{name, d, line}
		if other, twice := seen[name]; twice && other.Digest != d && other.Digest.Algorithm() == d.Algorithm() {
			return nil, bad(fmt.Sprintf("%s has another digest in line %d", name, other.Line))
		} else if twice {
			continue
		}
		if len(out) == sumsAtMost {
			return nil, bad(fmt.Sprintf("more than %d files", sumsAtMost))
		}
		seen[name] = s
		out = append(out, s)
	}
	if err := in.Err(); err != nil {
		return nil, &pipeline.InputError{Op: "read checksums", File: file, Err: err}
	}
	if len(out) == 0 {
		return nil, &pipeline.InputError{Op: "read checksums", File: file, Err: errors.New("holds no checksum")}
	}
	return out, nil
}
