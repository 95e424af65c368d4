package shell

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// literal gives the text of a word without any expansion, if all shells read
// it so.
func literal(w *syntax.Word) (string, bool) {
	if w == nil || len(w.Parts) == 0 {
		return "", false
	}
	var b strings.Builder
	for _, p := range w.Parts {
		t, ok := literalPart(p, false)
		if !ok {
			return "", false
		}
		b.WriteString(t)
	}
	return b.String(), true
}

func literalPart(p syntax.WordPart, quoted bool) (string, bool) {
	switch p := p.(type) {
	case *syntax.Lit:
		if quoted {
			return unescape(p.Value)
		}
		// "[" and "]" are the test command's, "!=" has no meaning of its own.
		if p.Value == "[" || p.Value == "]" || p.Value == "!" {
			return p.Value, true
		}
		for _, c := range []byte(p.Value) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte("\\~*?[]{}$`\"'()<>|&;#^", c) >= 0 {
				return "", false
			}
		}
		return p.Value, true
	case *syntax.SglQuoted:
		return p.Value, !p.Dollar
	case *syntax.DblQuoted:
		if p.Dollar {
			return "", false
		}
		var b strings.Builder
		for _, q := range p.Parts {
			t, ok := literalPart(q, true)
			if !ok {
				return "", false
			}
			b.WriteString(t)
		}
		return b.String(), true
	}
	return "", false
}

// unescape reads the inside of double quotes, in which a backslash escapes
// four characters.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, `\`) {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 == len(s) || strings.IndexByte("$\"\\`", s[i+1]) < 0 {
			return "", false
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String(), true
}

// words expands words: literals and positional parameters to what they are,
// everything else that changes nothing to something unknown.
func (f *follower) words(list []*syntax.Word) (out []Word, fault *Opaque) {
	for _, w := range list {
		if f.steps++; f.steps > maxSteps {
			return nil, opaque(w, "the script is too long to follow")
		}
		off := 0
		if len(w.Parts) > 0 {
			off = int(w.Parts[0].Pos().Offset())
		}
		if t, ok := literal(w); ok {
			out = append(out, Word{Text: t, Param: -1, Off: off, known: true})
			continue
		}
		if len(w.Parts) == 1 {
			if params, ok := f.positional(w.Parts[0], off); ok {
				f.steps += len(params)
				out = append(out, params...)
				continue
			}
		}
		word := Word{Param: -1, Off: off}
		for _, p := range w.Parts {
			if err := f.harmless(p, &word, false); err != nil {
				return nil, err
			}
		}
		out = append(out, word)
	}
	return out, nil
}

// positional expands "$@" and "$1"; without quotes only where nothing would
// be split or matched with files.
func (f *follower) positional(p syntax.WordPart, off int) ([]Word, bool) {
	quoted := false
	if q, ok := p.(*syntax.DblQuoted); ok && !q.Dollar && len(q.Parts) == 1 {
		p, quoted = q.Parts[0], true
	}
	e, ok := p.(*syntax.ParamExp)
	if !ok || !plain(e) {
		return nil, false
	}
	first, last := 0, len(f.start.Params)
	switch name := e.Param.Value; {
	case name == "@":
	case name == "0" || strings.Trim(name, "0123456789") != "" || len(name) > 4:
		return nil, false
	default:
		n := 0
		for _, c := range name {
			n = 10*n + int(c-'0')
		}
		if n == 0 {
			return nil, false
		}
		if n > last {
			if quoted {
				return []Word{{Param: -1, Off: off, known: true}}, true
			}
			return nil, true
		}
		first, last = n-1, n
	}
	var out []Word
	for i := first; i < last; i++ {
		t := f.start.Params[i]
		if !quoted && (t == "" || strings.ContainsAny(t, " \t\n\\*?[")) {
			return nil, false
		}
		out = append(out, Word{Text: t, Param: i, Off: off, known: true})
	}
	return out, true
}

// plain is $a and ${a} without any operator.
func plain(e *syntax.ParamExp) bool {
	return e.Param != nil && e.Flags == nil && !e.Excl && !e.Length && !e.Width && !e.IsSet && e.NestedParam == nil && e.Index == nil && len(e.Modifiers) == 0 && e.Slice == nil &&
		e.Repl == nil && e.Names == 0 && e.Exp == nil
}

// harmless goes through a part whose value is not known, and refuses what
// does more than give a value.
func (f *follower) harmless(p syntax.WordPart, w *Word, quoted bool) *Opaque {
	switch p := p.(type) {
	case *syntax.Lit, *syntax.SglQuoted:
		if _, ok := literalPart(p, quoted); !ok {
			return opaque(p, "text that shells expand or read differently")
		}
		return nil
	case *syntax.DblQuoted:
		if p.Dollar {
			return opaque(p, `$"…" is read differently by shells`)
		}
		for _, q := range p.Parts {
			if err := f.harmless(q, w, true); err != nil {
				return err
			}
		}
		return nil
	case *syntax.ParamExp:
		w.many = w.many || !quoted || p.Param != nil && p.Param.Value == "@"
		if plain(p) {
			return nil
		}
		bare := *p
		bare.Exp, bare.Length = nil, false
		if !plain(&bare) || p.Length && p.Exp != nil {
			return opaque(p, "an expansion that is not followed")
		}
		if p.Exp == nil {
			return nil
		}
		switch p.Exp.Op {
		case syntax.AlternateUnset, syntax.AlternateUnsetOrNull, syntax.DefaultUnset, syntax.DefaultUnsetOrNull,
			syntax.RemSmallPrefix, syntax.RemLargePrefix, syntax.RemSmallSuffix, syntax.RemLargeSuffix:
		default:
			return opaque(p, "an expansion that sets a variable or ends the script")
		}
		if p.Exp.Word == nil {
			return nil
		}
		for _, q := range p.Exp.Word.Parts {
			if l, ok := q.(*syntax.Lit); ok && strings.IndexByte(l.Value, '\\') < 0 {
				continue // a pattern or a text: neither runs anything
			}
			if err := f.harmless(q, w, quoted); err != nil {
				return err
			}
		}
		return nil
	case *syntax.CmdSubst:
		w.many = w.many || !quoted
		if p.TempFile || p.ReplyVar || p.Backquotes {
			return opaque(p, "a command substitution of this form")
		}
		if _, ok := f.hash(p); ok {
			return nil
		}
		for _, s := range p.Stmts {
			if err := f.pure(s); err != nil {
				return err
			}
		}
		return nil
	}
	return opaque(p, "an expansion that is not followed")
}

// pure wants commands that only print or compare, whatever their outcome.
func (f *follower) pure(s *syntax.Stmt) *Opaque {
	if f.steps++; f.steps > maxSteps {
		return opaque(s, "the script is too long to follow")
	}
	if s.Background || s.Coprocess || s.Disown {
		return opaque(s, "a command runs in the background")
	}
	switch c := s.Cmd.(type) {
	case *syntax.BinaryCmd:
		if len(s.Redirs) > 0 || c.Op != syntax.AndStmt && c.Op != syntax.OrStmt {
			return opaque(s, "a pipeline: what its parts do to each other is not followed")
		}
		if err := f.pure(c.X); err != nil {
			return err
		}
		return f.pure(c.Y)
	case *syntax.CallExpr:
		if len(c.Assigns) > 0 || len(c.Args) == 0 {
			return opaque(s, "a command substitution sets variables")
		}
		name, ok := literal(c.Args[0])
		if !ok {
			return opaque(s, "a command's name is not literal")
		}
		if name == "[" || name == "test" {
			if err := f.test(s, name, c.Args[1:]); err != nil {
				return err
			}
			return f.redirections(s, false)
		}
		if cmd, known := commands()[name]; !known || !cmd.free {
			return opaque(s, "%q in a command substitution is not followed", clip(name))
		}
		words, err := f.words(c.Args[1:])
		if err != nil {
			return err
		}
		if err := f.printer(s, name, words); err != nil {
			return err
		}
		return f.redirections(s, false)
	}
	return opaque(s, "a command substitution that is not followed")
}
