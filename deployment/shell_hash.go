package deployment

import (
	"strings"

	"github.com/retally/retally/internal/digest"
)

// sumAlgorithm names the hash that a coreutils program computes.
func sumAlgorithm(program string) (digest.Algorithm, bool) {
	name, ok := strings.CutSuffix(program, "sum")
	if !ok {
		return 0, false
	}
	alg, err := digest.ParseAlgorithm(name)
	return alg, err == nil
}

// expand expands words into values: "$@" into all parameters, everything else
// into one value each. ok is false if one may be any number of words.
func (r *shellRun) expand(words []shWord) (out []shValue, ok bool) {
	ok = true
	for _, w := range words {
		if len(w.parts) == 1 || len(w.parts) == 2 && w.parts[0].kind == partLit && w.parts[0].text == "" {
			p := w.parts[len(w.parts)-1]
			if p.kind == partParam && (p.text == "@" || p.text == "*") {
				r.steps += len(r.params)
				out = append(out, r.params...)
				continue
			}
		}
		v := r.value(w)
		if v.kind == valueText && hasUnquotedGlob(w) {
			v = shValue{off: w.off}
		}
		ok = ok && v.kind != valueUnknown
		out = append(out, v)
	}
	return out, ok
}

func hasUnquotedGlob(w shWord) bool {
	// "[" alone is the test command.
	if w.raw == "[" || w.raw == "[[" {
		return false
	}
	for _, p := range w.parts {
		if p.kind == partLit && !p.quoted && strings.ContainsAny(p.text, "*?[") {
			return true
		}
	}
	return false
}

// value expands one word.
func (r *shellRun) value(w shWord) shValue {
	r.steps++
	if len(w.parts) > 0 && w.parts[0].kind == partLit && w.parts[0].text == "" {
		w.parts = w.parts[1:]
	}
	if len(w.parts) == 1 {
		v := r.part(w.parts[0])
		if v.off < 0 && v.arg == nil {
			v.off = w.parts[0].off
		}
		return v
	}
	out := shValue{kind: valueText, off: w.off}
	if len(w.parts) > 0 {
		out.off = w.parts[0].off
	}
	for _, p := range w.parts {
		v := r.part(p)
		if v.kind != valueText || len(out.text) > maxScript {
			return shValue{off: w.off}
		}
		out.text += v.text
		r.steps += len(out.text) / 64
	}
	return out
}

func (r *shellRun) part(p shPart) shValue {
	switch p.kind {
	case partLit:
		return shValue{kind: valueText, text: p.text, off: p.off}
	case partParam:
		if n := len(p.text); n > 0 && '1' <= p.text[0] && p.text[0] <= '9' && n < 4 {
			i := 0
			for _, c := range []byte(p.text) {
				i = 10*i + int(c-'0')
			}
			if i <= len(r.params) {
				return r.params[i-1]
			}
			return shValue{kind: valueText, off: p.off}
		}
		if v, ok := r.vars[p.text]; ok {
			return v
		}
	case partSubst:
		if len(p.list) == 1 && len(p.list[0].pipes) == 1 {
			return r.hashOutput(p.list[0].pipes[0].cmds)
		}
	}
	return shValue{off: p.off}
}

// hashOutput reads a command substitution that prints a file's hash:
// sha256sum FILE, or FILE on its standard input, and filters behind it.
func (r *shellRun) hashOutput(cmds []*shCmd) shValue {
	unknown := shValue{off: cmds[0].off}
	stdin := ""
	for i, c := range cmds {
		if c.kind != cmdSimple || len(c.words) == 0 {
			return unknown
		}
		words, _ := r.expand(c.words)
		if words[0].kind != valueText {
			return unknown
		}
		file, ok := r.operand(c, words[1:])
		alg, isSum := sumAlgorithm(baseName(words[0].text))
		if words[0].text == "shasum" {
			alg, isSum, file, ok = shasum(words[1:])
		}
		if isSum {
			if !ok && i > 0 {
				file, ok = stdin, stdin != ""
			}
			if !ok {
				return unknown
			}
			v := shValue{kind: valueHashLine, text: file, alg: alg, off: c.off}
			return r.filters(v, cmds[i+1:])
		}
		switch name := baseName(words[0].text); {
		case i == 0 && name == "cat" && ok:
			stdin = file
		case i == 0 && (name == "echo" || name == "printf") && len(cmds) == 1:
			return shValue{kind: valueText, text: strings.TrimRight(r.printed(name, words[1:]), "\n"), off: c.off}
		default:
			return unknown
		}
	}
	return unknown
}

// operand returns the one file that a command reads: an argument that is no
// option, or the target of "<".
func (r *shellRun) operand(c *shCmd, args []shValue) (string, bool) {
	var files []string
	for _, a := range args {
		switch {
		case a.kind != valueText:
			return "", false
		case a.text == "-" || !strings.HasPrefix(a.text, "-"):
			files = append(files, a.text)
		}
	}
	for _, red := range c.redirs {
		if red.op == "<" {
			if v := r.value(red.word); v.kind == valueText {
				files = append(files, v.text)
			}
		}
	}
	if len(files) == 2 && files[0] == "-" {
		files = files[1:]
	}
	if len(files) != 1 || files[0] == "-" {
		return "", false
	}
	return files[0], true
}

// shasum reads the arguments of Perl's shasum: -a 256 FILE.
func shasum(args []shValue) (alg digest.Algorithm, isSum bool, file string, ok bool) {
	alg = digest.SHA1
	for i := 0; i < len(args); i++ {
		switch t := args[i].text; {
		case args[i].kind != valueText:
			return alg, true, "", false
		case t == "-a" && i+1 < len(args):
			i++
			alg, _ = digest.ParseAlgorithm("sha" + args[i].text)
		case strings.HasPrefix(t, "-a"):
			alg, _ = digest.ParseAlgorithm("sha" + t[2:])
		case !strings.HasPrefix(t, "-"):
			file, ok = t, true
		}
	}
	return alg, alg.Valid(), file, ok
}

// filters takes the first field of "HEX  FILE" by the usual programs.
func (r *shellRun) filters(v shValue, cmds []*shCmd) shValue {
	for _, c := range cmds {
		var words []string
		for _, w := range c.words {
			s, _ := w.literal()
			words = append(words, s)
		}
		v.kind = valueHash
		if c.kind != cmdSimple || len(words) == 0 || !takesFirstField(words, v.alg) {
			v.odd = true
		}
	}
	return v
}

func takesFirstField(words []string, alg digest.Algorithm) bool {
	args := strings.Join(words[1:], "\x00")
	chars := map[digest.Algorithm]string{digest.SHA1: "40", digest.SHA224: "56", digest.SHA256: "64", digest.SHA384: "96", digest.SHA512: "128"}[alg]
	switch baseName(words[0]) {
	case "cut":
		switch strings.ReplaceAll(strings.ReplaceAll(args, "-d\x00", "-d"), "-f\x00", "-f") {
		case "-d \x00-f1", "-f1\x00-d ":
			return true
		}
		switch strings.NewReplacer("-c\x00", "-c", "-b\x00", "-c", "-b", "-c").Replace(args) {
		case "-c1-" + chars, "-c-" + chars:
			return true
		}
	case "awk", "gawk", "mawk":
		return strings.ReplaceAll(strings.ReplaceAll(args, " ", ""), ";", "") == "{print$1}"
	case "head":
		return strings.ReplaceAll(args, "\x00", "") == "-c"+chars
	}
	return false
}

// printed is what echo or printf prints, as far as it is known.
func (r *shellRun) printed(name string, args []shValue) string {
	var words []string
	escapes := name == "printf"
	for _, a := range args {
		if name == "echo" && len(words) == 0 && len(a.text) > 1 && a.text[0] == '-' && strings.Trim(a.text[1:], "neE") == "" {
			escapes = escapes || strings.Contains(a.text, "e")
			continue
		}
		if a.kind != valueText {
			a.text = "\x00" // something unknown: can be no digit and no name
		}
		words = append(words, a.text)
	}
	if name == "echo" {
		s := strings.Join(words, " ")
		if escapes {
			s = unescape(s)
		}
		return s + "\n"
	}
	if len(words) == 0 {
		return ""
	}
	format, rest := unescape(words[0]), words[1:]
	var b strings.Builder
	for first := true; first || len(rest) > 0; first = false {
		pieces := strings.Split(format, "%s")
		if len(pieces) == 1 && !first {
			break
		}
		for i, p := range pieces {
			b.WriteString(p)
			if i < len(pieces)-1 && len(rest) > 0 {
				b.WriteString(rest[0])
				rest = rest[1:]
			}
		}
		if b.Len() > maxScript {
			break
		}
	}
	return b.String()
}

func unescape(s string) string {
	return strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`).Replace(s)
}

func baseName(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }

// test evaluates [ A = B ] and its kin. A comparison of a hash with anything
// is an event.
func (r *shellRun) test(c *shCmd, name string, args []shValue) status {
	if n := len(args); n > 0 && name != "test" {
		args = args[:n-1] // the closing bracket
	}
	negated := false
	for len(args) > 0 && args[0].kind == valueText && args[0].text == "!" {
		negated, args = !negated, args[1:]
	}
	st := statusUnknown
	if len(args) == 3 {
		st = r.compare(c, args[0], args[1], args[2], "")
	} else {
		for i := 0; i+2 < len(args); i++ {
			r.compare(c, args[i], args[i+1], args[i+2], "part of a longer test")
		}
	}
	switch {
	case st == statusUnknown || !negated:
		return st
	case st == statusOK:
		return statusFail
	}
	return statusOK
}

func (r *shellRun) compare(c *shCmd, a, op, b shValue, odd string) status {
	if op.kind != valueText || op.text != "=" && op.text != "==" && op.text != "!=" {
		return statusUnknown
	}
	hash, want := a, b
	if hash.kind != valueHash && hash.kind != valueHashLine {
		hash, want = b, a
	}
	if hash.kind != valueHash && hash.kind != valueHashLine {
		if a.kind == valueText && b.kind == valueText {
			if (a.text == b.text) == (op.text != "!=") {
				return statusOK
			}
			return statusFail
		}
		return statusUnknown
	}
	if hash.odd {
		odd = "the hash goes through a program that is not known"
	}
	text := want.text
	if hash.kind == valueHashLine {
		text, _, _ = strings.Cut(text, " ")
	}
	st := r.assess([]checkEvent{{
		off: c.off, file: hash.text, alg: hash.alg, want: want, wantText: text, odd: odd, exact: true,
	}})
	switch {
	case odd != "":
		return statusUnknown
	case op.text != "!=":
		return st
	case st == statusOK:
		return statusFail
	}
	return statusOK
}

// assess records events and says how the comparison ends in this run.
func (r *shellRun) assess(events []checkEvent) status {
	st := statusOK
	for _, e := range events {
		if len(r.events) == r.mismatch {
			st = statusFail
		}
		e.from = r.copiedFrom(e.file)
		r.events = append(r.events, e)
	}
	return st
}

// sumCheck recognizes sha256sum -c reading "HEX  FILE" lines from echo, printf,
// a here-document or a here-string.
func (r *shellRun) sumCheck(p shPipe) ([]checkEvent, bool) {
	last := p.cmds[len(p.cmds)-1]
	if last.kind != cmdSimple || len(last.words) < 2 || len(p.cmds) > 2 {
		return nil, false
	}
	words, _ := r.expand(last.words)
	if len(words) < 2 || words[0].kind != valueText {
		return nil, false
	}
	alg, ok := sumAlgorithm(baseName(words[0].text))
	if words[0].text == "shasum" {
		alg, ok, _, _ = shasum(words[1:])
	}
	check, list := false, ""
	for i, w := range words[1:] {
		switch t := w.text; {
		case t == "--check" || strings.HasPrefix(t, "-") && !strings.HasPrefix(t, "--") && strings.Contains(t, "c"):
			check = true
		case !strings.HasPrefix(t, "-") && words[i].text != "-a":
			list = t
		}
	}
	if !ok || !check {
		return nil, false
	}
	text, at, found := r.stdin(p, last)
	if list != "" || !found {
		return []checkEvent{{off: last.off, file: list, alg: alg, want: shValue{off: last.off}, odd: "the list of hashes is another file"}}, true
	}
	var events []checkEvent
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		hex, file, _ := strings.Cut(line, " ")
		file = strings.TrimPrefix(strings.TrimPrefix(file, " "), "*")
		want := shValue{kind: valueText, text: hex, off: at}
		if strings.Contains(hex, "\x00") {
			want.kind = valueUnknown
		}
		events = append(events, checkEvent{off: last.off, file: file, alg: alg, want: want, wantText: hex})
	}
	return events, len(events) > 0
}

// stdin returns the text on a command's standard input.
func (r *shellRun) stdin(p shPipe, last *shCmd) (text string, off int, ok bool) {
	for _, red := range last.redirs {
		switch red.op {
		case "<<", "<<-":
			t, _ := red.body.literal()
			return t, red.body.off, true
		case "<<<":
			if v := r.value(red.word); v.kind == valueText {
				return v.text, red.word.off, true
			}
		}
	}
	if len(p.cmds) == 2 {
		c := p.cmds[0]
		words, _ := r.expand(c.words)
		if c.kind == cmdSimple && len(words) > 0 && (words[0].text == "echo" || words[0].text == "printf") {
			return r.printed(words[0].text, words[1:]), c.off, true
		}
	}
	return "", 0, false
}
