// Package yamldoc reads foreign YAML with bounds: the documents of a stream as
// yaml.v3 nodes that are known to be finite when aliases are followed, have no
// duplicate keys, and whose every error names file, line and column.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"
)

// Limits bound a stream. A zero field means the default.
type Limits struct {
	Bytes int // length of the input, default 16 MiB
	Depth int // nesting after following aliases, default 100
	Nodes int // nodes after following aliases, default 1,000,000
	Docs  int // documents in the stream, default 10,000
}

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 16 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 100
	}
	if l.Nodes <= 0 {
		l.Nodes = 1_000_000
	}
	if l.Docs <= 0 {
		l.Docs = 10_000
	}
	return l
}

// Error says where a YAML file is wrong and, if known, what would mend it.
type Error struct {
	File         string
	Line, Column int    // from 1; 0 where the parser does not tell
	Path         string // dotted path of the field, "" if none
	Msg          string
	Hint         string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
		if e.Column > 0 {
			fmt.Fprintf(&b, ":%d", e.Column)
		}
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Errorf makes an Error at a node.
func Errorf(file string, n *yaml.Node, path, format string, args ...any) *Error {
	e := &Error{File: file, Path: path, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	return e
}

// Parse reads every document of the stream. An empty document is a nil entry,
// so that indexes are the stream's own. file is used in errors only.
func Parse(file string, data []byte, limits Limits) (docs []*yaml.Node, err error) {
	limits = limits.orDefault()
	if len(data) > limits.Bytes {
		return nil, &Error{File: file, Msg: fmt.Sprintf("file has %d bytes, the limit is %d", len(data), limits.Bytes)}
	}
	// yaml.v3 reports its own syntax errors by panicking inside and recovering;
	// a fault it does not know would reach us as a panic too.
	defer func() {
		if r := recover(); r != nil {
			docs, err = nil, &Error{File: file, Msg: fmt.Sprintf("not readable as YAML: %v", r)}
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	budget := limits.Nodes
	for {
		var doc yaml.Node
		switch err := dec.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, syntaxError(file, err)
		}
		if len(docs) >= limits.Docs {
			return nil, &Error{File: file, Line: doc.Line, Msg: fmt.Sprintf("more than %d documents", limits.Docs)}
		}
		var root *yaml.Node
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
			root = Resolve(doc.Content[0])
			c := checker{file: file, limits: limits, budget: &budget}
			if err := c.check(root, 0); err != nil {
				return nil, err
			}
			if IsNull(root) {
				root = nil
			}
		}
		docs = append(docs, root)
	}
}

// syntaxError turns yaml.v3's "yaml: line 3: …" into an Error with that line.
func syntaxError(file string, err error) *Error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{File: file, Msg: msg}
	var line int
	if n, _ := fmt.Sscanf(msg, "line %d:", &line); n == 1 {
		_, e.Msg, _ = strings.Cut(msg, ": ")
		e.Line = line
	}
	return e
}

type checker struct {
	file   string
	limits Limits
	budget *int
}

// check walks the tree with aliases followed. A cycle shows as depth, a bomb
// as the node budget.
func (c checker) check(n *yaml.Node, depth int) error {
	*c.budget--
	if *c.budget < 0 {
		return Errorf(c.file, n, "", "more than %d nodes with aliases followed", c.limits.Nodes)
	}
	if depth > c.limits.Depth {
		return Errorf(c.file, n, "", "nested deeper than %d with aliases followed", c.limits.Depth)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return c.check(n.Alias, depth+1)
	case yaml.MappingNode:
		seen := make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := Resolve(n.Content[i])
			if key.Kind != yaml.ScalarNode {
				return Errorf(c.file, key, "", "a key must be a plain value")
			}
			// Whatever their tags and quotes: once decoded, keys are strings.
			if first, dup := seen[key.Value]; dup {
				return Errorf(c.file, n.Content[i], "", "key %q appears twice, first on line %d", clip(key.Value), first.Line)
			}
			seen[key.Value] = n.Content[i]
		}
	}
	for _, child := range n.Content {
		if err := c.check(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Resolve follows aliases. It is for nodes that Parse returned, whose alias
// chains are finite.
func Resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 100; i++ {
		n = n.Alias
	}
	return n
}

// Pair is one key and value of a mapping; aliases are resolved.
type Pair struct {
	Key, Value *yaml.Node
}

// Pairs lists a mapping in order, with merge keys (`<<`) folded in behind the
// mapping's own keys, which win. It is nil for anything but a mapping.
func Pairs(n *yaml.Node) []Pair {
	n = Resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	var pairs, merged []Pair
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := Resolve(n.Content[i]), Resolve(n.Content[i+1])
		if key.ShortTag() == "!!merge" {
			if value.Kind == yaml.SequenceNode {
				for _, e := range value.Content {
					merged = append(merged, Pairs(e)...)
				}
			} else {
				merged = append(merged, Pairs(value)...)
			}
			continue
		}
		seen[key.Value] = true
		pairs = append(pairs, Pair{key, value})
	}
	for _, p := range merged {
		if !seen[p.Key.Value] {
			seen[p.Key.Value] = true
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// Get returns the value of a key, nil if n is no mapping or has no such key.
func Get(n *yaml.Node, key string) *yaml.Node {
	for _, p := range Pairs(n) {
		if p.Key.Value == key {
			return p.Value
		}
	}
	return nil
}

// Path follows keys from n, nil where one is missing.
func Path(n *yaml.Node, keys ...string) *yaml.Node {
	for _, k := range keys {
		n = Get(n, k)
	}
	return n
}

// Elems lists a sequence with aliases resolved, nil for anything else.
func Elems(n *yaml.Node) []*yaml.Node {
	n = Resolve(n)
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	out := make([]*yaml.Node, len(n.Content))
	for i, e := range n.Content {
		out[i] = Resolve(e)
	}
	return out
}

// IsNull reports whether n is absent or a null.
func IsNull(n *yaml.Node) bool {
	n = Resolve(n)
	return n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// Text returns the scalar's text and whether n is a scalar other than null.
func Text(n *yaml.Node) (string, bool) {
	n = Resolve(n)
	if IsNull(n) || n.Kind != yaml.ScalarNode {
		return "", false
	}
	return n.Value, true
}

// ContentLine returns the line on which line i (from 0) of a scalar's text
// stands in the file: the first line of a block scalar is the one after its
// "|". For other styles it is the scalar's own line.
func ContentLine(n *yaml.Node, i int) int {
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return n.Line + 1 + i
	}
	return n.Line
}

func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
