package deployment

import "strings"

// word reads one word: quotes removed, expansions kept as parts.
func (p *shParser) word() (shWord, error) {
	w := shWord{off: p.pos}
	p.tokens++
	if p.tokens > maxShTokens {
		return w, p.fail("too long")
	}
	var err error
	for p.pos < len(p.src) && err == nil {
		switch c := p.src[p.pos]; c {
		case ' ', '\t', '\n', '\r', ';', '&', '|', '(', ')', '<', '>':
			w.raw = p.src[w.off:p.pos]
			return w, nil
		case '\'':
			end := strings.IndexByte(p.src[p.pos+1:], '\'')
			if end < 0 {
				return w, p.fail("quote without its end")
			}
			w.lit(p.src[p.pos+1:p.pos+1+end], p.pos+1, true)
			p.pos += end + 2
		case '"':
			err = p.quoted(&w)
		case '\\':
			if p.pos+1 >= len(p.src) {
				return w, p.fail("backslash at the end")
			}
			if p.src[p.pos+1] != '\n' {
				w.lit(p.src[p.pos+1:p.pos+2], p.pos+1, true)
			}
			p.pos += 2
		case '$', '`':
			err = p.expansion(&w, false)
		default:
			w.lit(p.src[p.pos:p.pos+1], p.pos, false)
			p.pos++
		}
	}
	w.raw = p.src[w.off:p.pos]
	return w, err
}

func (p *shParser) quoted(w *shWord) error {
	p.pos++
	w.lit("", p.pos, true)
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; c {
		case '"':
			p.pos++
			return nil
		case '$', '`':
			if err := p.expansion(w, true); err != nil {
				return err
			}
		case '\\':
			if p.pos+1 >= len(p.src) {
				return p.fail("backslash at the end")
			}
			switch next := p.src[p.pos+1]; next {
			case '\n':
			case '$', '`', '"', '\\':
				w.lit(string(next), p.pos+1, true)
			default:
				w.lit(p.src[p.pos:p.pos+2], p.pos, true)
			}
			p.pos += 2
		default:
			w.lit(p.src[p.pos:p.pos+1], p.pos, true)
			p.pos++
		}
	}
	return p.fail("quote without its end")
}

// lit appends literal text, joined with literal text of the same kind before.
func (w *shWord) lit(s string, off int, quoted bool) {
	if n := len(w.parts); n > 0 && w.parts[n-1].kind == partLit && w.parts[n-1].quoted == quoted {
		w.parts[n-1].text += s
		return
	}
	w.parts = append(w.parts, shPart{kind: partLit, text: s, off: off, quoted: quoted})
}

// expansion reads what a dollar or a backquote starts.
func (p *shParser) expansion(w *shWord, quoted bool) error {
	start := p.pos
	add := func(kind partKind, text string, l shList) {
		w.parts = append(w.parts, shPart{kind: kind, text: text, list: l, off: start, quoted: quoted})
	}
	switch {
	case p.has("`"):
		end := strings.IndexByte(p.src[p.pos+1:], '`')
		if end < 0 || strings.Contains(p.src[p.pos+1:p.pos+1+end], "\\") {
			return p.fail("backquotes")
		}
		// Parsed in place, so that offsets stay those of the script.
		sub := &shParser{src: p.src[:p.pos+1+end], pos: p.pos + 1, depth: p.depth + 1, tokens: p.tokens}
		l, err := sub.list()
		if err == nil && sub.pos < len(sub.src) {
			err = sub.fail("unexpected %q", sub.src[sub.pos:sub.pos+1])
		}
		if err != nil {
			return err
		}
		p.tokens = sub.tokens
		p.pos += end + 2
		add(partSubst, "", l)
	case p.has("$(("):
		end := strings.Index(p.src[p.pos:], "))")
		if end < 0 {
			return p.fail("arithmetic without its end")
		}
		p.pos += end + 2
		add(partOther, p.src[start:p.pos], nil)
	case p.has("$("):
		p.pos += 2
		l, err := p.list()
		if err != nil {
			return err
		}
		if !p.has(")") {
			return p.fail("command substitution without its end")
		}
		p.pos++
		add(partSubst, "", l)
	case p.has("${"):
		end := braceEnd(p.src[p.pos:])
		if end < 0 {
			return p.fail("parameter without its end")
		}
		name := p.src[p.pos+2 : p.pos+end]
		p.pos += end + 1
		if isName(name) || isParam(name) {
			add(partParam, name, nil)
		} else {
			add(partOther, p.src[start:p.pos], nil)
		}
	case p.has("$'") && !quoted:
		return p.fail("ANSI-C quotes")
	default:
		p.pos++
		end := p.pos
		for end < len(p.src) && isName(p.src[p.pos:end+1]) {
			end++
		}
		if end == p.pos && end < len(p.src) && isParam(p.src[end:end+1]) {
			end++
		}
		if end == p.pos {
			w.lit("$", start, quoted)
			return nil
		}
		add(partParam, p.src[p.pos:end], nil)
		p.pos = end
	}
	return nil
}

// braceEnd returns the place of the brace that closes "${", -1 if none does.
func braceEnd(s string) int {
	depth := 0
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		case '\\':
			i++
		case '\n':
			return -1
		}
	}
	return -1
}

// literal returns the word's text if it has no expansions.
func (w shWord) literal() (string, bool) {
	var b strings.Builder
	for _, p := range w.parts {
		if p.kind != partLit {
			return "", false
		}
		b.WriteString(p.text)
	}
	return b.String(), true
}

// assignment splits NAME=value.
func (w shWord) assignment() (string, shWord, bool) {
	if len(w.parts) == 0 || w.parts[0].kind != partLit || w.parts[0].quoted {
		return "", shWord{}, false
	}
	name, rest, ok := strings.Cut(w.parts[0].text, "=")
	if !ok || !isName(name) {
		return "", shWord{}, false
	}
	v := shWord{off: w.off + len(name) + 1}
	if rest != "" {
		v.parts = append(v.parts, shPart{kind: partLit, text: rest, off: v.off})
	}
	v.parts = append(v.parts, w.parts[1:]...)
	return name, v, true
}

// isName reports whether s is a variable's name (Std 1003.1, 3.216).
func isName(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && all(s, func(c byte) bool { return isAlnum(c) || c == '_' })
}

// isParam reports whether s is a positional or special parameter.
func isParam(s string) bool {
	return s != "" && (all(s, func(c byte) bool { return '0' <= c && c <= '9' }) || len(s) == 1 && strings.Contains("@*#?-$!", s))
}
