package yamldoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// ParseKubernetes reads a stream of Kubernetes objects as the API server's
// decoder reads it (sigs.k8s.io/yaml on documents that kubectl splits by
// lines), or refuses it. Two readers of one file are the best hiding place
// that YAML has, so whatever they may read differently is an error that names
// every line concerned:
//
//   - documents end at lines of "---", with blanks or a comment behind it,
//     and hold one document each;
//   - plain scalars are YAML 1.1: yes, on and y are booleans, 0644 is 420.
//     The nodes carry the tag that the API server has, so that ShortTag tells
//     its reading, and Value gives what it decodes; Text stays as written;
//   - keys are strings, written out (no alias, no tag, no other type), and no
//     two of a mapping are equal once decoded; outside of maps of the user's
//     own (data, labels, annotations, …) nor when letter case is ignored;
//   - a merge key brings only keys that are not there;
//   - an anchor is defined once in a document; tags are not used.
//
// An empty document is a nil entry. Errors are *Error.
func ParseKubernetes(file string, data []byte, limits Limits) (docs []*yaml.Node, err error) {
	limits = limits.orDefault()
	if len(data) > limits.Bytes {
		return nil, &Error{File: file, Msg: fmt.Sprintf("file has %d bytes, the limit is %d", len(data), limits.Bytes)}
	}
	if !utf8.Valid(data) {
		return nil, &Error{File: file, Msg: "not UTF-8"}
	}
	defer func() {
		if r := recover(); r != nil {
			docs, err = nil, &Error{File: file, Msg: fmt.Sprintf("not readable as YAML: %v", r)}
		}
	}()
	chunks, err := splitDocuments(file, data)
	if err != nil {
		return nil, err
	}
	budget := limits.Nodes
	for _, c := range chunks {
		// A byte order mark may start every document, and has no column.
		c.text = bytes.TrimPrefix(c.text, []byte("\ufeff"))
		if len(docs) >= limits.Docs {
			return nil, &Error{File: file, Line: c.line + 1, Msg: fmt.Sprintf("more than %d documents", limits.Docs)}
		}
		root, err := c.decode(file)
		if err != nil {
			return nil, err
		}
		if root != nil {
			k := kubeReader{file: file, src: c.text, base: c.line, anchors: map[string]*yaml.Node{}, limit: limits.Depth}
			if err := k.walk(root, 0, false); err != nil {
				return nil, err
			}
			if err := (checker{file: file, limits: limits, budget: &budget}).check(root, 0); err != nil {
				return nil, err
			}
			if err := checkMerges(file, root, map[*yaml.Node]bool{}); err != nil {
				return nil, err
			}
			if IsNull(root) {
				root = nil
			}
		}
		docs = append(docs, root)
	}
	return docs, nil
}

// chunk is the text of one document and the number of lines before it.
type chunk struct {
	text []byte
	line int
}

// splitDocuments splits at separator lines, as kubectl does before it parses
// anything. What stands before the first separator counts if it is more than
// comments.
func splitDocuments(file string, data []byte) (chunks []chunk, err error) {
	start, startLine, line := 0, 0, 0
	for pos := 0; pos < len(data); line++ {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		text := bytes.TrimRight(data[pos:end], "\r\n")
		if bytes.ContainsRune(text, '\r') {
			return nil, &Error{File: file, Line: line + 1, Msg: "a carriage return that ends no line: YAML breaks the line there, kubectl does not"}
		}
		if rest, ok := bytes.CutPrefix(text, []byte("---")); ok {
			behind := bytes.TrimLeft(rest, " \t")
			if len(behind) > 0 && (behind[0] != '#' || len(behind) == len(rest)) || bytes.ContainsAny(behind, "\u0085\u2028\u2029") {
				return nil, &Error{
					File: file, Line: line + 1, Column: 4, Msg: "something stands behind --- on its line: kubectl drops it, YAML reads it",
					Hint: "put it on the next line",
				}
			}
			if len(chunks) > 0 || startLine > 0 || !blank(data[start:pos]) {
				chunks = append(chunks, chunk{data[start:pos], startLine})
			}
			start, startLine = end, line+1
		}
		pos = end
	}
	return append(chunks, chunk{data[start:], startLine}), nil
}

// blank reports whether a text has only empty lines and comments.
func blank(text []byte) bool {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

func (c chunk) decode(file string) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(c.text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		e := syntaxError(file, err)
		if e.Line > 0 {
			e.Line += c.line
		}
		return nil, e
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, &Error{File: file, Line: c.line + more.Line, Msg: "a second document without a line of --- before it: kubectl does not read it"}
	case !errors.Is(err, io.EOF):
		return nil, &Error{File: file, Line: c.line + 1, Msg: "what follows the document cannot be read: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// kubeReader goes once over a document's nodes in the order of the text:
// lines become those of the file, plain scalars the API server's values.
type kubeReader struct {
	file    string
	src     []byte
	base    int // lines before the document
	anchors map[string]*yaml.Node
	limit   int

	line, column, off int // the cursor in src, line and column from 0
}

func (k *kubeReader) walk(n *yaml.Node, depth int, free bool) error {
	off := k.offset(n.Line-1, n.Column-1)
	n.Line += k.base
	if depth > k.limit {
		return Errorf(k.file, n, "", "nested deeper than %d", k.limit)
	}
	if n.Style&yaml.TaggedStyle != 0 || k.tagged(off) {
		return k.withTwin(n, "a tag changes how a value is read", "leave the tag away, quote what is a string")
	}
	if n.Anchor != "" && n.Kind != yaml.AliasNode {
		if first, dup := k.anchors[n.Anchor]; dup {
			return Errorf(k.file, n, "", "anchor &%s is defined twice, first on line %d: which one an alias means depends on its place", clip(n.Anchor), first.Line)
		}
		k.anchors[n.Anchor] = n
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			n.Tag = "!!str"
			return nil
		}
		tag, value := plainScalar(n.Value)
		if tag == "!!float" && value == "" {
			return Errorf(k.file, n, "", "%q is no number that JSON has", clip(n.Value))
		}
		n.Tag = tag
	case yaml.MappingNode:
		return k.mapping(n, depth, free)
	case yaml.SequenceNode:
		for _, e := range n.Content {
			if err := k.walk(e, depth+1, free); err != nil {
				return err
			}
		}
	}
	return nil
}

// freeMaps are fields whose keys are the user's own words.
var freeMaps = []string{"data", "binaryData", "stringData", "labels", "annotations", "matchLabels", "nodeSelector", "selector", "limits", "requests"}

func (k *kubeReader) mapping(n *yaml.Node, depth int, free bool) error {
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	folded := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind == yaml.AliasNode:
			key.Line += k.base
			return Errorf(k.file, key, "", "a key is an alias")
		case key.Kind != yaml.ScalarNode:
			key.Line += k.base
			return Errorf(k.file, key, "", "a key must be a plain value")
		}
		written := key.Value
		off := k.offset(key.Line-1, key.Column-1)
		tagged := key.Style&yaml.TaggedStyle != 0 || k.tagged(off)
		if first, dup := seen[written]; dup {
			key.Line += k.base
			return Errorf(k.file, key, "", "key %q appears twice, first on line %d", clip(written), first.Line)
		}
		if first, dup := folded[strings.ToLower(written)]; dup && !free {
			key.Line += k.base
			return Errorf(k.file, key, "", "key %q differs from %q on line %d in letter case only: a reader may take one for the other", clip(written), clip(first.Value), first.Line)
		}
		if tagged {
			key.Line += k.base
			return Errorf(k.file, key, "", "key %q has a tag, which readers see differently", clip(written))
		}
		if err := k.walk(key, depth+1, free); err != nil {
			return err
		}
		merge := key.Tag == "!!merge"
		if key.Tag != "!!str" && !merge {
			e := Errorf(k.file, key, "", "key %q is no string: the API server reads it as %s", clip(written), kindOf(key))
			e.Hint = "quote it"
			return e
		}
		seen[written], folded[strings.ToLower(written)] = key, key
		if err := k.walk(n.Content[i+1], depth+1, free || slices.Contains(freeMaps, written)); err != nil {
			return err
		}
	}
	return nil
}

// withTwin is the error for a tagged value.
func (k *kubeReader) withTwin(n *yaml.Node, msg, hint string) error {
	e := Errorf(k.file, n, "", "%s: %s", clip(orElse(n.Tag, "!")), msg)
	e.Hint = hint
	return e
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func kindOf(n *yaml.Node) string {
	if n.Tag == "!!null" {
		return "null"
	}
	_, value := plainScalar(n.Value)
	return strings.TrimPrefix(n.Tag, "!!") + " " + clip(value)
}

// Value gives what the API server decodes from a node of ParseKubernetes: nil,
// bool, string, json.Number, []any and map[string]any.
func Value(n *yaml.Node) any {
	switch n = Resolve(n); {
	case IsNull(n):
		return nil
	case n.Kind == yaml.MappingNode:
		m := map[string]any{}
		for _, p := range Pairs(n) {
			m[p.Key.Value] = Value(p.Value)
		}
		return m
	case n.Kind == yaml.SequenceNode:
		l := make([]any, 0, len(n.Content))
		for _, e := range n.Content {
			l = append(l, Value(e))
		}
		return l
	}
	switch _, value := plainScalar(n.Value); n.ShortTag() {
	case "!!bool":
		return value == "true"
	case "!!int", "!!float":
		return json.Number(value)
	}
	return n.Value
}

// offset moves the cursor to a place at or behind the last one. Columns count
// characters, lines break where YAML breaks them.
func (k *kubeReader) offset(line, column int) int {
	if line < k.line || line == k.line && column < k.column {
		return k.off // an empty value, which has no place of its own
	}
	for k.off < len(k.src) && (k.line < line || k.column < column) {
		r, size := utf8.DecodeRune(k.src[k.off:])
		switch {
		case r == '\r' && k.off+1 < len(k.src) && k.src[k.off+1] == '\n':
			k.off += 2
			k.line, k.column = k.line+1, 0
			continue
		case r == '\n' || r == '\r' || r == '\u0085' || r == '\u2028' || r == '\u2029':
			k.line, k.column = k.line+1, 0
		default:
			k.column++
		}
		k.off += size
	}
	return k.off
}

// tagged reports whether a node that starts at the offset has a tag, before or
// behind its anchor. The YAML reader forgets the tag "!".
func (k *kubeReader) tagged(off int) bool {
	for s := k.src[off:]; len(s) > 0; {
		switch c := s[0]; {
		case c == '!':
			return true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			s = s[1:]
		case c == '&':
			end := bytes.IndexAny(s, " \t\r\n")
			if end < 0 {
				return false
			}
			s = s[end:]
		case c == '#' && off < len(k.src) && k.src[off] == '&':
			end := bytes.IndexByte(s, '\n')
			if end < 0 {
				return false
			}
			s = s[end:]
		default:
			return false
		}
	}
	return false
}

// checkMerges wants every merge key to bring a mapping, or a list of them,
// whose keys are new: Kubernetes' reader lets a later merge win over the
// mapping's own keys, others let the own keys win.
func checkMerges(file string, n *yaml.Node, done map[*yaml.Node]bool) error {
	if done[n] {
		return nil
	}
	done[n] = true
	if n.Kind == yaml.AliasNode {
		return checkMerges(file, n.Alias, done)
	}
	if n.Kind == yaml.MappingNode {
		seen := map[string]*yaml.Node{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Tag != "!!merge" {
				seen[n.Content[i].Value] = n.Content[i]
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Tag != "!!merge" {
				continue
			}
			sources := []*yaml.Node{n.Content[i+1]}
			if v := Resolve(n.Content[i+1]); v.Kind == yaml.SequenceNode {
				sources = v.Content
			}
			for _, s := range sources {
				if s = Resolve(s); s.Kind != yaml.MappingNode {
					return Errorf(file, n.Content[i], "", "a merge key of something that is no mapping")
				}
				for _, p := range Pairs(s) {
					if first, dup := seen[p.Key.Value]; dup {
						return Errorf(file, n.Content[i], "", "the merge key brings %q of line %d, which is on line %d already: readers differ on which one counts",
							clip(p.Key.Value), p.Key.Line, first.Line)
					}
					seen[p.Key.Value] = p.Key
				}
			}
		}
	}
	for _, c := range n.Content {
		if err := checkMerges(file, c, done); err != nil {
			return err
		}
	}
	return nil
}

var floatText = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// plainScalar gives the type and the JSON form of a plain scalar as the API
// server's YAML 1.1 reader has it (yaml.org/type: bool, int, float, null,
// merge; with base 8 by a leading 0 and no base 60). A float that JSON cannot
// have gives no value.
func plainScalar(s string) (tag, value string) {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return "!!bool", "true"
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return "!!bool", "false"
	case "", "~", "null", "Null", "NULL":
		return "!!null", s
	case "<<":
		return "!!merge", s
	case ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF":
		return "!!float", ""
	}
	switch c := s[0]; {
	case c == '.':
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return "!!float", jsonFloat(f)
		}
	case c == '+' || c == '-' || '0' <= c && c <= '9':
		plain := strings.ReplaceAll(s, "_", "")
		if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return "!!int", strconv.FormatInt(i, 10)
		}
		if u, err := strconv.ParseUint(plain, 0, 64); err == nil {
			return "!!int", strconv.FormatUint(u, 10)
		}
		if floatText.MatchString(plain) {
			if f, err := strconv.ParseFloat(plain, 64); err == nil {
				return "!!float", jsonFloat(f)
			}
		}
	}
	return "!!str", s
}

func jsonFloat(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return ""
	}
	b, err := json.Marshal(f)
	if err != nil {
		return ""
	}
	return string(b)
}
