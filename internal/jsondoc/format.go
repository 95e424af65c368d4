package jsondoc

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Style is how a writer prints JSON. Two programs that print "the same" JSON
// differ in what they escape, and manifests are compared byte by byte.
type Style struct {
	Indent string // per level; "" prints everything on one line
	// EscapeHTML writes <, > and & as \u003c, \u003e, \u0026, as Go's
	// json.Marshal does by default. yq and jq print them raw.
	EscapeHTML bool
	// EscapeLineSep writes U+2028 and U+2029 as escapes: Go and yq do.
	EscapeLineSep bool
	// EscapeDEL writes U+007F as an escape: jq does.
	EscapeDEL bool
	// LongControls writes \b and \f as \u0008 and \u000c, as Go did before
	// 1.22 and yq does (v4.45.1, run).
	LongControls bool
	// NoFinalLF leaves out the line feed at the end.
	NoFinalLF bool
}

// The writers that manifests go through.
var (
	Go = Style{Indent: "  ", EscapeHTML: true, EscapeLineSep: true}   // json.MarshalIndent(v, "", "  ")
	YQ = Style{Indent: "  ", EscapeLineSep: true, LongControls: true} // yq -i -p json -o json
	JQ = Style{Indent: "  ", EscapeDEL: true}                         // jq .
)

// Format prints the tree with a final line feed, unless the style has none.
func (s Style) Format(v *Value) []byte {
	out := s.append(nil, v, 0)
	if s.NoFinalLF {
		return out
	}
	return append(out, '\n')
}

// Compact prints the tree on one line without a line feed.
func (s Style) Compact(v *Value) []byte {
	s.Indent = ""
	return s.append(nil, v, 0)
}

func (s Style) append(dst []byte, v *Value, depth int) []byte {
	if v == nil {
		return append(dst, "null"...)
	}
	switch v.Kind {
	case Bool:
		return fmt.Append(dst, v.Bool)
	case Number:
		return append(dst, v.Text...)
	case String:
		return s.appendString(dst, v.Text)
	case Array:
		dst = append(dst, '[')
		for i, e := range v.Elems {
			dst = s.separate(dst, i, depth+1)
			dst = s.append(dst, e, depth+1)
		}
		return s.closing(dst, len(v.Elems), depth, ']')
	case Object:
		dst = append(dst, '{')
		for i, m := range v.Members {
			dst = s.separate(dst, i, depth+1)
			dst = s.appendString(dst, m.Key)
			dst = append(dst, ':')
			if s.Indent != "" {
				dst = append(dst, ' ')
			}
			dst = s.append(dst, m.Value, depth+1)
		}
		return s.closing(dst, len(v.Members), depth, '}')
	default:
		return append(dst, "null"...)
	}
}

func (s Style) separate(dst []byte, i, depth int) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	return s.newline(dst, depth)
}

func (s Style) closing(dst []byte, n, depth int, c byte) []byte {
	if n > 0 {
		dst = s.newline(dst, depth)
	}
	return append(dst, c)
}

func (s Style) newline(dst []byte, depth int) []byte {
	if s.Indent == "" {
		return dst
	}
	dst = append(dst, '\n')
	return append(dst, strings.Repeat(s.Indent, depth)...)
}

func (s Style) appendString(dst []byte, text string) []byte {
	dst = append(dst, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r == '\b' && !s.LongControls:
			dst = append(dst, `\b`...)
		case r == '\f' && !s.LongControls:
			dst = append(dst, `\f`...)
		case r < 0x20,
			r == 0x7f && s.EscapeDEL,
			s.EscapeHTML && (r == '<' || r == '>' || r == '&'),
			s.EscapeLineSep && (r == 0x2028 || r == 0x2029):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}
