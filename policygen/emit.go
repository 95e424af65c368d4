package policygen

import (
	"fmt"
	"strconv"
	"strings"
)

// appendDocument writes a document as serde_yaml 0.8 does: the line "---", the
// node and one final newline.
func appendDocument(dst []byte, v *value) []byte {
	dst = append(dst, "---\n"...)
	return append(appendYAML(dst, v), '\n')
}

// appendYAML writes a node: indent 2, sequences inside a mapping indented,
// items inline behind their dash, strings plain or double-quoted, never single
// quotes nor block scalars.
func appendYAML(dst []byte, v *value) []byte {
	e := emitter{dst: dst, level: -1}
	e.node(v)
	return e.dst
}

type emitter struct {
	dst   []byte
	level int
}

func (e *emitter) newline() {
	e.dst = append(e.dst, '\n')
	for range e.level {
		e.dst = append(e.dst, "  "...)
	}
}

func (e *emitter) node(v *value) {
	switch v.kind {
	case seqKind:
		e.sequence(v)
	case mapKind:
		e.mapping(v)
	case stringKind:
		e.dst = appendYAMLString(e.dst, v.text)
	default:
		e.dst = append(e.dst, v.text...)
	}
}

func (e *emitter) sequence(v *value) {
	if len(v.elems) == 0 {
		e.dst = append(e.dst, "[]"...)
		return
	}
	e.level++
	for i, elem := range v.elems {
		if i > 0 {
			e.newline()
		}
		e.dst = append(e.dst, '-')
		e.behind(elem, true)
	}
	e.level--
}

func (e *emitter) mapping(v *value) {
	if len(v.entries) == 0 {
		e.dst = append(e.dst, "{}"...)
		return
	}
	e.level++
	for i, ent := range v.entries {
		if i > 0 {
			e.newline()
		}
		complexKey := ent.key.kind >= seqKind
		if complexKey {
			e.dst = append(e.dst, '?')
			e.behind(ent.key, true)
			e.newline()
		} else {
			e.node(ent.key)
		}
		e.dst = append(e.dst, ':')
		e.behind(ent.val, complexKey)
	}
	e.level--
}

// behind writes a node behind a dash (inline) or a key.
func (e *emitter) behind(v *value, inline bool) {
	if v.kind < seqKind || inline || len(v.elems)+len(v.entries) == 0 {
		e.dst = append(e.dst, ' ')
		e.node(v)
		return
	}
	e.level++
	e.newline()
	e.level--
	e.node(v)
}

// needQuotes is the rule of yaml-rust 0.4 for writing a string in quotes. It
// is not the rule of any YAML version: a plain y or 0o17 stays plain.
func needQuotes(s string) bool {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' {
		return true
	}
	if strings.IndexByte("&*?|-<>=!%@.", s[0]) >= 0 || strings.HasPrefix(s, "0x") {
		return true
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= 0x06, c == '\t', c == '\n', c == '\r', c >= 0x0e && c <= 0x1a, c >= 0x1c && c <= 0x1f:
			return true
		case strings.IndexByte(":{}[],#`\"'\\", c) >= 0:
			return true
		}
	}
	switch s {
	case "yes", "Yes", "YES", "no", "No", "NO", "True", "TRUE", "true", "False", "FALSE", "false",
		"on", "On", "ON", "off", "Off", "OFF", "null", "Null", "NULL", "~":
		return true
	}
	if _, err := strconv.ParseInt(s, 10, 64); err == nil {
		return true
	}
	_, number := parseFloat(s)
	return number
}

func appendYAMLString(dst []byte, s string) []byte {
	if !needQuotes(s) {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\r':
			dst = append(dst, `\r`...)
		default:
			if c < 0x20 || c == 0x7f {
				dst = fmt.Appendf(dst, `\u%04x`, c)
			} else {
				dst = append(dst, c)
			}
		}
	}
	return append(dst, '"')
}
