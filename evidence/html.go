package evidence

import (
	"bytes"
	"html"
	"strings"
)

// maxRuns bounds the pieces of text that are taken out of a page.
const maxRuns = 4096

// htmlText takes the texts of a page: each run between two tags, and each pre,
// textarea and code element as a whole. Scripts, styles and comments hold none.
// It is no HTML parser and needs to be none: what it takes is looked at only
// for a quote or a JSON document, and those are verified.
func htmlText(page []byte) []string {
	var runs []string
	add := func(s string) {
		if s = strings.TrimSpace(html.UnescapeString(s)); s != "" && len(runs) < maxRuns {
			runs = append(runs, s)
		}
	}
	var whole strings.Builder // of the innermost verbatim element
	verbatim := ""
	for len(page) > 0 {
		text := page
		if i := bytes.IndexByte(page, '<'); i >= 0 {
			text = page[:i]
		}
		page = page[len(text):]
		if verbatim != "" {
			whole.Write(text)
		} else {
			add(string(text))
		}
		if len(page) == 0 {
			break
		}
		if bytes.HasPrefix(page, []byte("<!--")) {
			page = after(page, "-->")
			continue
		}
		name, closing := tagName(page)
		page = after(page, ">")
		switch {
		case closing && name == verbatim && name != "":
			add(whole.String())
			whole.Reset()
			verbatim = ""
		case closing:
		case name == "script" || name == "style":
			page = skipElement(page, name)
		case verbatim == "" && (name == "pre" || name == "textarea" || name == "code"):
			verbatim = name
		}
	}
	if verbatim != "" {
		add(whole.String())
	}
	return runs
}

// after returns what follows the first occurrence of mark, nothing if there is
// none.
func after(page []byte, mark string) []byte {
	_, rest, _ := bytes.Cut(page, []byte(mark))
	return rest
}

// tagName reads the name of the tag that page begins with.
func tagName(page []byte) (name string, closing bool) {
	page = page[1:]
	if len(page) > 0 && page[0] == '/' {
		closing, page = true, page[1:]
	}
	n := 0
	for n < len(page) && n < 16 && (page[n]|0x20 >= 'a' && page[n]|0x20 <= 'z' || page[n] >= '0' && page[n] <= '9') {
		n++
	}
	return strings.ToLower(string(page[:n])), closing
}

// skipElement drops a script or style up to its closing tag, in whatever case
// that is written.
func skipElement(page []byte, name string) []byte {
	for {
		i := bytes.Index(page, []byte("</"))
		if i < 0 {
			return nil
		}
		page = page[i:]
		if got, _ := tagName(page); got == name {
			return page
		}
		page = page[2:]
	}
}
