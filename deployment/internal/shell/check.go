package shell

import (
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/retally/retally/internal/digest"
)

// condition is a check, or several that one command makes: match says that
// its status is 0 if all match, else that it is 0 if one does not.
type condition struct {
	off    int
	checks []Check
	match  bool
	// open says that a file that cannot be read passes: the substitution is
	// not quoted, so that "!=" gets too few words, which is an error, not a
	// mismatch.
	open bool
}

// condition recognizes a check of a file's hash; nil if the statement is
// something else.
func (f *follower) condition(s *syntax.Stmt) (*condition, *Opaque) {
	off := int(s.Pos().Offset())
	switch c := s.Cmd.(type) {
	case *syntax.CallExpr:
		if len(c.Args) == 0 || len(c.Assigns) > 0 {
			return nil, nil
		}
		name, ok := literal(c.Args[0])
		if !ok {
			return nil, nil
		}
		if name == "[" || name == "test" {
			return f.compare(s, name, c.Args[1:])
		}
		if alg, ok := sumAlgorithm(name); ok && isCheck(c) {
			return f.sumCheck(s, alg, c, nil)
		}
	case *syntax.BinaryCmd:
		call, ok := c.Y.Cmd.(*syntax.CallExpr)
		if c.Op != syntax.Pipe || !ok || len(call.Args) == 0 || len(call.Assigns) > 0 {
			return nil, nil
		}
		name, _ := literal(call.Args[0])
		alg, ok := sumAlgorithm(name)
		if !ok || !isCheck(call) {
			return nil, nil
		}
		if len(s.Redirs) > 0 || c.Y.Negated || c.Y.Background {
			return nil, opaque(s, "a check with redirections")
		}
		cond, err := f.sumCheck(c.Y, alg, call, c.X)
		if cond != nil {
			cond.off = off
		}
		return cond, err
	}
	return nil, nil
}

// sumAlgorithm names the hash that a coreutils program computes.
func sumAlgorithm(word string) (digest.Algorithm, bool) {
	name, ok := strings.CutSuffix(commandName(word), "sum")
	if !ok {
		return 0, false
	}
	alg, err := digest.ParseAlgorithm(name)
	return alg, err == nil
}

// hash recognizes a command substitution that prints the hex digits of one
// file's hash: sha256sum FILE, and behind it a filter for the first field.
func (f *follower) hash(c *syntax.CmdSubst) (Check, bool) {
	if c.TempFile || c.ReplyVar || c.Backquotes || len(c.Stmts) != 1 {
		return Check{}, false
	}
	s := c.Stmts[0]
	pipe, ok := s.Cmd.(*syntax.BinaryCmd)
	if !ok || pipe.Op != syntax.Pipe || len(s.Redirs) > 0 || s.Negated || s.Background {
		return Check{}, false
	}
	words, in, ok := plainCall(pipe.X)
	if !ok || len(words) == 0 {
		return Check{}, false
	}
	alg, isSum := sumAlgorithm(words[0])
	files := append(words[1:], in...)
	if !isSum || len(files) != 1 || !fileName(files[0]) {
		return Check{}, false
	}
	filter, in, ok := plainCall(pipe.Y)
	if !ok || len(in) > 0 || !firstField(filter, alg) {
		return Check{}, false
	}
	return Check{Off: int(c.Pos().Offset()), File: files[0], Algorithm: alg}, true
}

// plainCall gives the literal words of a command, and the file on its
// standard input.
func plainCall(s *syntax.Stmt) (words, in []string, ok bool) {
	call, isCall := s.Cmd.(*syntax.CallExpr)
	if !isCall || s.Negated || s.Background || s.Coprocess || s.Disown || len(call.Assigns) > 0 {
		return nil, nil, false
	}
	for _, w := range call.Args {
		t, ok := literal(w)
		if !ok {
			return nil, nil, false
		}
		words = append(words, t)
	}
	for _, r := range s.Redirs {
		t, ok := literal(r.Word)
		if !ok || r.Op != syntax.RdrIn || r.N != nil {
			return nil, nil, false
		}
		in = append(in, t)
	}
	return words, in, true
}

// fileName refuses names that the programs of hashes escape or take for
// something else.
func fileName(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsAny(s, "\\\n") && !strings.HasPrefix(s, "/dev/") && !strings.HasPrefix(s, "/proc/")
}

func firstField(words []string, alg digest.Algorithm) bool {
	if len(words) == 0 {
		return false
	}
	args := strings.Join(words[1:], "\x00")
	chars := map[digest.Algorithm]string{digest.SHA1: "40", digest.SHA224: "56", digest.SHA256: "64", digest.SHA384: "96", digest.SHA512: "128"}[alg]
	switch commandName(words[0]) {
	case "cut":
		switch strings.NewReplacer("-d\x00", "-d", "-f\x00", "-f").Replace(args) {
		case "-d \x00-f1", "-f1\x00-d ":
			return true
		}
		switch strings.NewReplacer("-c\x00", "-c", "-b\x00", "-c", "-b", "-c").Replace(args) {
		case "-c1-" + chars, "-c-" + chars:
			return true
		}
	case "awk", "gawk", "mawk":
		return args == "{print $1}" || args == "{ print $1 }"
	case "head":
		return strings.ReplaceAll(args, "\x00", "") == "-c"+chars
	}
	return false
}

// compare recognizes [ HASH = CONSTANT ].
func (f *follower) compare(s *syntax.Stmt, name string, args []*syntax.Word) (*condition, *Opaque) {
	if name == "[" {
		if len(args) == 0 {
			return nil, nil
		}
		if t, _ := literal(args[len(args)-1]); t != "]" {
			return nil, opaque(s, "[ without ]")
		}
		args = args[:len(args)-1]
	}
	found, quoted := -1, false
	var check Check
	for i, a := range args {
		if len(a.Parts) != 1 {
			continue
		}
		part, inQuotes := a.Parts[0], false
		if q, ok := part.(*syntax.DblQuoted); ok && !q.Dollar && len(q.Parts) == 1 {
			part, inQuotes = q.Parts[0], true
		}
		if c, ok := part.(*syntax.CmdSubst); ok {
			if h, ok := f.hash(c); ok {
				found, quoted, check = i, inQuotes, h
			}
		}
	}
	if found < 0 {
		return nil, nil
	}
	if len(args) != 3 || found == 1 {
		return nil, opaque(s, "a file's hash in a longer test")
	}
	if err := f.redirections(s, false); err != nil {
		return nil, err
	}
	op, ok := literal(args[1])
	if !ok || op != "=" && op != "!=" && (op != "==" || !f.start.Bash) {
		return nil, opaque(s, "a file's hash is compared in another way than by = and !=")
	}
	want, ok := literal(args[2-found])
	if !ok {
		return nil, opaque(s, "a file's hash is compared with something that is not literal")
	}
	check.Off = int(s.Pos().Offset())
	check.Want = Word{Text: want, Param: -1, Off: int(args[2-found].Pos().Offset()), known: true}
	check.Exact = true
	return &condition{off: check.Off, checks: []Check{check}, match: op != "!=", open: op == "!=" && !quoted}, nil
}

// isCheck finds the option -c of sha256sum.
func isCheck(c *syntax.CallExpr) bool {
	return slices.ContainsFunc(c.Args[1:], func(w *syntax.Word) bool {
		t, ok := literal(w)
		return !ok || t == "--check" || strings.HasPrefix(t, "-") && !strings.HasPrefix(t, "--") && strings.Contains(t, "c")
	})
}

// sumLine is one line of a list of hashes as GNU's and busybox's programs
// print it (coreutils, "cksum output modes").
var sumLine = regexp.MustCompile(`^([0-9a-fA-F]+) [ *]([^ *].*)$`)

// sumCheck recognizes sha256sum -c reading lines of "HEX  FILE" from echo,
// printf, a here-document or a here-string.
func (f *follower) sumCheck(s *syntax.Stmt, alg digest.Algorithm, call *syntax.CallExpr, from *syntax.Stmt) (*condition, *Opaque) {
	for _, w := range call.Args[1:] {
		t, ok := literal(w)
		if !ok || !slices.Contains([]string{"-c", "--check", "--status", "--quiet", "--strict", "-w", "--warn", "-"}, t) {
			return nil, opaque(s, "the list of hashes, or how it is checked, is not in the script")
		}
	}
	text, at, ok := f.list(s, from)
	if !ok {
		return nil, opaque(s, "the list of hashes is not literal text")
	}
	cond := &condition{off: int(s.Pos().Offset()), match: true}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		m := sumLine.FindStringSubmatch(line)
		if m == nil || !fileName(m[2]) || len(m[1]) != 2*alg.Size() {
			return nil, opaque(s, "a line of the list of hashes is not HEX  FILE: the program passes over it")
		}
		cond.checks = append(cond.checks, Check{Off: cond.off, File: m[2], Algorithm: alg, Want: Word{Text: m[1], Param: -1, Off: at, known: true}})
	}
	return cond, nil
}

// list is the literal text on a command's standard input.
func (f *follower) list(s, from *syntax.Stmt) (text string, off int, ok bool) {
	if from != nil {
		for _, r := range s.Redirs {
			if !quiet(r) {
				return "", 0, false
			}
		}
		words, in, ok := plainCall(from)
		if !ok || len(in) > 0 || len(words) < 2 || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }) {
			return "", 0, false
		}
		off = int(from.Pos().Offset())
		switch {
		case words[0] == "echo":
			text = strings.Join(words[1:], " ")
			return text, off, !strings.Contains(text, `\`)
		case words[0] == "printf" && words[1] == `%s  %s\n` && len(words)%2 == 0:
			for i := 2; i+1 < len(words); i += 2 {
				text += words[i] + "  " + words[i+1] + "\n"
			}
			return text, off, text != ""
		}
		return "", 0, false
	}
	for _, r := range s.Redirs {
		switch {
		case quiet(r):
		case ok || r.N != nil:
			return "", 0, false
		case r.Op == syntax.Hdoc && r.Hdoc != nil:
			for _, p := range r.Hdoc.Parts {
				l, isLit := p.(*syntax.Lit)
				if !isLit || strings.Contains(l.Value, `\`) {
					return "", 0, false
				}
				text += l.Value
			}
			off, ok = int(r.Hdoc.Pos().Offset()), true
		case r.Op == syntax.WordHdoc:
			if text, ok = literal(r.Word); !ok {
				return "", 0, false
			}
			off = int(r.Word.Pos().Offset())
		default:
			return "", 0, false
		}
	}
	return text, off, ok
}

// unaryTests and binaryTests are operators of test that look at files and
// strings only. bash's -v and -R evaluate what they are given.
var (
	unaryTests  = []string{"-b", "-c", "-d", "-e", "-f", "-g", "-h", "-L", "-n", "-p", "-r", "-S", "-s", "-u", "-w", "-x", "-z"}
	binaryTests = []string{"=", "==", "!=", "-eq", "-ne", "-gt", "-ge", "-lt", "-le"}
)

// test allows a test that stands for itself, whose outcome is not known.
func (f *follower) test(s *syntax.Stmt, name string, args []*syntax.Word) *Opaque {
	words, err := f.words(args)
	if err != nil {
		return err
	}
	if name == "[" {
		if len(words) == 0 || words[len(words)-1].Text != "]" {
			return opaque(s, "[ without ]")
		}
		words = words[:len(words)-1]
	}
	if len(words) > 0 && words[0].known && words[0].Text == "!" {
		words = words[1:]
	}
	for _, w := range words {
		if w.many {
			return opaque(s, "an argument of %s may be any number of words", name)
		}
	}
	known := func(i int, among []string) bool { return words[i].known && slices.Contains(among, words[i].Text) }
	if len(words) == 1 || len(words) == 2 && known(0, unaryTests) || len(words) == 3 && known(1, binaryTests) {
		return nil
	}
	return opaque(s, "a test of another form than it is known")
}
