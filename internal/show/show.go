// Package show makes foreign text safe for the place where it is shown. A file
// name, a label or an error can hold anything; none of it may move a cursor,
// color a line, reverse its direction or open a tag.
package show

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text makes s one harmless line for a terminal or a log: control characters,
// line breaks, direction marks, invisible characters and broken UTF-8 become
// visible escapes.
func Text(s string) string {
	if harmless(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case visible(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
		i += size
	}
	return b.String()
}

func harmless(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// visible reports whether a rune shows as itself and nothing else. Marks that
// combine with their neighbor are not, private and unassigned characters are
// not; the plain space is.
func visible(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) && !unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Co, blanks, unicode.Variation_Selector)
}

// blanks are letters and symbols that show as nothing (Unicode's property
// Other_Default_Ignorable_Code_Point, and those that are drawn empty).
var blanks = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x034f, Hi: 0x034f, Stride: 1},
		{Lo: 0x115f, Hi: 0x1160, Stride: 1},
		{Lo: 0x17b4, Hi: 0x17b5, Stride: 1},
		{Lo: 0x2065, Hi: 0x2065, Stride: 1},
		{Lo: 0x2800, Hi: 0x2800, Stride: 1},
		{Lo: 0x3164, Hi: 0x3164, Stride: 1},
		{Lo: 0xffa0, Hi: 0xffa0, Stride: 1},
		{Lo: 0xfff0, Hi: 0xfff8, Stride: 1},
		{Lo: 0xfffc, Hi: 0xfffd, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x16fe4, Hi: 0x16fe4, Stride: 1},
		{Lo: 0x1d159, Hi: 0x1d159, Stride: 1},
		{Lo: 0xe0000, Hi: 0xe0fff, Stride: 1},
	},
}

// JSON escapes in an encoded JSON document what a terminal would obey or not
// show: it stands in strings only, so the document means the same.
func JSON(doc []byte) []byte {
	i := bytes.IndexFunc(doc, hidden)
	if i < 0 {
		return doc
	}
	out := append(make([]byte, 0, len(doc)+64), doc[:i]...)
	for i < len(doc) {
		r, size := utf8.DecodeRune(doc[i:])
		switch {
		case !hidden(r):
			out = append(out, doc[i:i+size]...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += size
	}
	return out
}

// hidden reports whether a rune of a JSON document is shown in escaped form.
// Line breaks and tabs of the layout stay.
func hidden(r rune) bool { return r >= 0x7f && r != '\ufffd' && !visible(r) }

// Markdown makes s one harmless run of text in Markdown, inside a table too.
func Markdown(s string) string {
	var b strings.Builder
	for _, r := range Text(s) {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		case strings.ContainsRune("\\`*_{}[]()#+-!|~$:@", r):
			// Escaping ":" and "@" keeps bare addresses from becoming links.
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Code makes s a code span in Markdown, inside a table too.
func Code(s string) string {
	s = Text(s)
	if s == "" {
		return ""
	}
	fence := "`"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	pad := ""
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		pad = " "
	}
	return fence + pad + strings.ReplaceAll(s, "|", `\|`) + pad + fence
}

// Clip shortens s to at most n characters, the last one being an ellipsis.
func Clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n || n < 2 {
		return s
	}
	r := []rune(s)
	return string(r[:n-1]) + "…"
}

// Plural counts things: "1 image", "3 images".
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Line writes one line for people, with everything in it shown.
func Line(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, Text(fmt.Sprintf(format, args...)))
}

// Or is s, or a word where it is empty.
func Or(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// Word makes a word that a shell takes as it is.
func Word(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/:@%+=,") == "" && !strings.HasPrefix(s, "-") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Columns writes lines for people whose columns tabs separate, which Text would
// spell out.
func Columns(w io.Writer, text string) {
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		parts := strings.Split(line, "\t")
		for i := range parts {
			parts[i] = Text(parts[i])
		}
		fmt.Fprintln(w, strings.Join(parts, "\t"))
	}
}

// Size prints bytes in binary units.
func Size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
