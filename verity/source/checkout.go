package source

import (
	"bytes"
	"strings"
)

// conversion is what a checkout does to the content of a file before any
// filter, where git runs as in the published recipe: without core.autocrlf and
// core.eol, on Linux (gitattributes(5), text, eol, ident,
// working-tree-encoding).
type conversion struct {
	// crlf is "" for none; "text" gives every bare line feed a carriage return,
	// "auto" only in what looks like text with line feeds alone.
	crlf  string
	ident bool
	// whole says that git converts the file as a whole and not as a stream,
	// which finds other keywords (convert.c, classify_conv_attrs).
	whole bool
	// encoding is a working-tree-encoding, which is not followed here.
	encoding string
	// text says that core.autocrlf would apply.
	text bool
}

func (c conversion) none() bool { return c.crlf == "" && !c.ident && c.encoding == "" }

func conversionOf(attrs map[string]attrValue) (c conversion) {
	text, known := attrs["text"], true
	switch text {
	case attrSet, attrUnset, "=input", "=auto":
	default: // the older name of the same attribute
		text = attrs["crlf"]
		known = text == attrSet || text == attrUnset || text == "=input" || text == "=auto"
	}
	c.text = !known || text != attrUnset
	if attrs["eol"] == "=crlf" && c.text {
		c.crlf = "text"
		if text == "=auto" {
			c.crlf = "auto"
		}
	}
	if attrs["eol"] == "=lf" || text == "=input" {
		c.text = false
	}
	c.ident = attrs["ident"] == attrSet
	c.whole = c.crlf == "auto" || attrs["filter"] == "=lfs" // the recipe runs git lfs install
	if e, ok := strings.CutPrefix(string(attrs["working-tree-encoding"]), "="); ok && !strings.EqualFold(e, "utf-8") && !strings.EqualFold(e, "utf8") {
		c.encoding = e
	}
	return c
}

// apply gives the content that a checkout has for a blob's; blob is its object
// name in hex. Ident comes before line ends, as in git.
func (c conversion) apply(content []byte, blob string) []byte {
	if c.ident && c.whole {
		content = expandIdent(content, blob)
	} else if c.ident {
		content = streamIdent(content, blob)
	}
	if c.crlf != "" {
		content = toCRLF(content, c.crlf == "auto")
	}
	return content
}

// expandIdent puts the blob's name into $Id$ and $Id:…$. One that holds a line
// end, or a blank that is not its last character, stays: another program's.
func expandIdent(content []byte, blob string) []byte {
	var out []byte
	rest := content
	for {
		at := bytes.Index(rest, []byte("$Id"))
		if at < 0 {
			break
		}
		out = append(out, rest[:at]...)
		rest = rest[at:]
		end := identEnd(rest)
		if end == 0 {
			out, rest = append(out, rest[0]), rest[1:]
			continue
		}
		out = append(out, "$Id: "+blob+" $"...)
		rest = rest[end:]
	}
	return append(out, rest...)
}

// streamIdent does the same one character after the other. What breaks off a
// keyword's beginning is not looked at again, not even if it is a dollar sign;
// only a keyword with a blank behind its colon can be another program's.
func streamIdent(content []byte, blob string) []byte {
	const head = "$Id"
	var out []byte
	for i := 0; i < len(content); {
		n := 0
		for n < len(head) && i+n < len(content) && content[i+n] == head[n] {
			n++
		}
		if n < len(head) || i+n == len(content) {
			n = min(i+n+1, len(content))
			out, i = append(out, content[i:n]...), n
			continue
		}
		rest := content[i+n:]
		end := 1
		switch rest[0] {
		case 0: // ends the text that git compares with
			end = min(2, len(rest))
		case '$':
			out, i = append(out, "$Id: "+blob+" $"...), i+n+1
			continue
		case ':':
			if end = bytes.IndexAny(rest, "$\n") + 1; end == 0 {
				end = len(rest)
			}
			if rest[end-1] == '$' && !foreignIdent(rest[:end]) {
				out, i = append(out, "$Id: "+blob+" $"...), i+n+end
				continue
			}
		}
		out, i = append(out, content[i:i+n+end]...), i+n+end
	}
	return out
}

// foreignIdent reports whether what follows "$Id" up to the next dollar sign is
// of another program: a blank that is not the last character.
func foreignIdent(b []byte) bool {
	text, ok := bytes.CutPrefix(b, []byte(": "))
	if !ok {
		return false
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	for i, c := range text {
		if (c == ' ' || c == '\t' || c == '\n' || c == '\r') && (i+1 == len(text) || text[i+1] != '$') {
			return true
		}
	}
	return false
}

// identEnd is the length of the keyword that b begins with, 0 for none.
func identEnd(b []byte) int {
	const name = len("$Id")
	if len(b) <= name {
		return 0
	}
	if b[name] == '$' {
		return name + 1
	}
	if b[name] != ':' {
		return 0
	}
	n := bytes.IndexByte(b[name+1:], '$')
	if n < 0 {
		return 0
	}
	value := b[name+1 : name+1+n]
	if bytes.IndexByte(value, '\n') >= 0 {
		return 0
	}
	// The first character may be a blank, the last one too.
	if len(value) > 1 {
		if blank := bytes.IndexByte(value[1:], ' '); blank >= 0 && 1+blank < len(value)-1 {
			return 0
		}
	}
	return name + 1 + n + 1
}

// toCRLF writes bare line feeds as CRLF. With auto, content that has any
// carriage return already, or that is no text, stays.
func toCRLF(content []byte, auto bool) []byte {
	if auto && (bytes.IndexByte(content, '\r') >= 0 || looksBinary(content)) {
		return content
	}
	out := make([]byte, 0, len(content)+bytes.Count(content, []byte("\n")))
	for i, c := range content {
		if c == '\n' && (i == 0 || content[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	return out
}

// looksBinary is git's own guess (convert.c, gather_stats): a zero byte, or
// more than one unprintable byte in 128 printable ones.
func looksBinary(content []byte) bool {
	printable, other := 0, 0
	for _, c := range content {
		switch {
		case c == 0:
			return true
		case c == '\n' || c == '\r':
		case c == '\b' || c == '\t' || c == 0x1b || c == '\f':
			printable++
		case c < ' ' || c == 0x7f:
			other++
		default:
			printable++
		}
	}
	if n := len(content); n > 0 && content[n-1] == 0x1a {
		other--
	}
	return printable>>7 < other
}
