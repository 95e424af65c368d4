// Package manifest reads, checks, edits and writes the manifest.json of
// Contrast, the file a Coordinator enforces: which policy hashes may run under
// which names, and which TEE measurements and firmware levels are trusted.
//
// Manifests are compared byte by byte by the programs that trust them, so the
// room keeps what encoding/json loses: order, positions and number literals.
//
//   - Parse gives a Manifest: the tree, a typed view (Policies, SNP, TDX), the
//     version family it belongs to (Shape), and its faults (Validate).
//   - Fields lists every leaf under a path that does not depend on hashes or
//     list order, with what the field means for trust (Meaning); whoever
//     compares two manifests judges by that.
//   - Generate builds a manifest as `contrast generate` writes it.
//   - ParsePlan and Plan.Apply perform the edits that an operator makes after
//     generation, as data instead of a shell script.
//
// Nothing here says whether a value is right; that needs the recomputed ones.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// Bounds of a manifest. Published ones have 6 KB and some 100 values.
const (
	maxBytes  = 8 << 20
	maxDepth  = 32
	maxValues = 200_000
)

// Error says why a file is not readable as a manifest.
type Error struct {
	File         string
	Line, Column int    // from 1, the column in bytes; 0 where there is no place
	Pointer      string // JSON pointer (RFC 6901), "" at the top
	Msg          string
	Hint         string // what would mend it, "" if unknown
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Pointer != "" {
		b.WriteString(e.Pointer + ": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// A Manifest is one parsed manifest.json. It is not changed after Parse.
type Manifest struct {
	file  string
	raw   []byte
	lines []int // offset of the first byte of every line
	tree  *jsondoc.Value
}

// Parse reads a Contrast manifest of any version, from 0.7 to the newest known.
// It is strict about JSON (no member twice, no invalid UTF-8, nothing behind
// the value) and asks for an object with Policies and ReferenceValues; all
// other faults are collected by Validate. An error is an *Error.
func Parse(file string, data []byte) (*Manifest, error) {
	m := &Manifest{file: file, raw: append([]byte(nil), data...), lines: []int{0}}
	tree, err := parseJSON(file, m.raw)
	if err != nil {
		return nil, err
	}
	for i, c := range m.raw {
		if c == '\n' {
			m.lines = append(m.lines, i+1)
		}
	}
	m.tree = tree
	if tree.Kind != jsondoc.Object {
		return nil, m.errorAt(tree, "", "want an object, found "+describe(tree), "")
	}
	for _, key := range []string{"Policies", "ReferenceValues"} {
		v := tree.Get(key)
		switch {
		case v == nil:
			hint := "a Contrast manifest has Policies and ReferenceValues at the top"
			if near := nearestKey(key, tree); near != "" {
				hint = fmt.Sprintf("did you mean %q where the file has %q?", key, near)
			}
			return nil, m.errorAt(tree, "/"+key, "member "+key+" is missing", hint)
		case v.Kind != jsondoc.Object && v.Kind != jsondoc.Null:
			return nil, m.errorAt(v, "/"+key, "want an object, found "+describe(v), "")
		}
	}
	return m, nil
}

func parseJSON(file string, data []byte) (*jsondoc.Value, error) {
	tree, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: maxBytes, Depth: maxDepth, Values: maxValues})
	if err == nil {
		return tree, nil
	}
	e := &Error{File: file, Msg: err.Error()}
	var je *jsondoc.Error
	if errors.As(err, &je) {
		e.Line, e.Column, e.Pointer, e.Msg = je.Line, je.Column, je.Pointer, je.Msg
	}
	return nil, e
}

// nearestKey returns the member of v that looks like a misspelt key.
func nearestKey(key string, v *jsondoc.Value) string {
	var names []string
	for _, m := range v.Members {
		if len(names) < 64 {
			names = append(names, m.Key)
		}
	}
	return yamldoc.Nearest(key, names)
}

func (m *Manifest) errorAt(v *jsondoc.Value, pointer, msg, hint string) *Error {
	e := &Error{File: m.file, Pointer: pointer, Msg: msg, Hint: hint}
	e.Line, e.Column = m.place(v.Offset)
	return e
}

// place turns an offset into line and column. jsondoc.Position counts from the
// start each time, which would be quadratic over all fields of a large file.
func (m *Manifest) place(offset int) (line, column int) {
	line = sort.SearchInts(m.lines, offset+1)
	return line, offset - m.lines[line-1] + 1
}

func (m *Manifest) line(offset int) int {
	line, _ := m.place(offset)
	return line
}

// File returns the name that was given to Parse.
func (m *Manifest) File() string { return m.file }

// Tree returns the order-preserving tree. It must not be modified; Clone it.
func (m *Manifest) Tree() *jsondoc.Value { return m.tree }

// Raw returns a copy of the bytes as read.
func (m *Manifest) Raw() []byte { return append([]byte(nil), m.raw...) }

// Style finds a writer whose output is exactly the bytes read: Go's
// json.MarshalIndent, yq, jq, or one of them with another indent. If several
// fit, which is so for a manifest without any character they treat
// differently, the first in that order is returned. It is false if none does.
func (m *Manifest) Style() (jsondoc.Style, bool) {
	for _, indent := range []string{"  ", "    ", "\t", ""} {
		for _, style := range []jsondoc.Style{
			jsondoc.Go,
			jsondoc.YQ,
			jsondoc.JQ,
			{EscapeHTML: true, EscapeLineSep: true, LongControls: true}, // Go before 1.22
			{EscapeLineSep: true}, // Go with SetEscapeHTML(false)
			{},
		} {
			style.Indent = indent
			// Contrast of 2024 wrote what json.MarshalIndent gives and nothing
			// behind it (contrast PR 615).
			if style.EscapeHTML && indent == "  " && !bytes.HasSuffix(m.raw, []byte("\n")) && m.Shape().Oldest <= V16 {
				style.NoFinalLF = true
			}
			if string(style.Format(m.tree)) == string(m.raw) {
				return style, true
			}
		}
	}
	return jsondoc.Style{}, false
}

// A Policy is one entry of Policies.
type Policy struct {
	Hash             digest.Digest // SHA-256; zero if HashText is not 64 hex digits
	HashText         string        // the key as written
	SANs             []string      // in file order; SANs[0] becomes the certificate's common name
	WorkloadSecretID string        // "" if absent
	Role             string        // "" if absent
	Pointer          string
	Line             int
}

// Policies lists the policies in file order. Members of a wrong type are left
// out; Validate reports them.
func (m *Manifest) Policies() []Policy {
	var out []Policy
	for _, member := range members(m.tree.Get("Policies")) {
		p := Policy{
			HashText: member.Key,
			Pointer:  "/Policies/" + jsondoc.EscapePointer(member.Key),
			Line:     m.line(member.Offset),
		}
		p.Hash, _ = digest.ParseHex(digest.SHA256, member.Key)
		sans := member.Value // Contrast 0.7: the value is the list of SANs itself
		if member.Value.Kind == jsondoc.Object {
			sans = member.Value.Get("SANs")
			p.WorkloadSecretID = text(member.Value.Get("WorkloadSecretID"))
			p.Role = text(member.Value.Get("Role"))
		}
		p.SANs = texts(sans)
		out = append(out, p)
	}
	return out
}

// Workload is what a WorkloadSecretID of Contrast's default form names.
type Workload struct {
	Group     string // API group, "core" for the unnamed one
	Version   string
	Kind      string
	Namespace string
	Name      string
}

// ParseWorkloadID splits "<group or core>/<version>/<kind>/<namespace>/<name>".
// It is false for any other text: the annotation
// contrast.edgeless.systems/workload-secret-id may hold anything.
func ParseWorkloadID(s string) (Workload, bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 5 {
		return Workload{}, false
	}
	for _, p := range parts {
		if p == "" {
			return Workload{}, false
		}
	}
	return Workload{parts[0], parts[1], parts[2], parts[3], parts[4]}, true
}

// ID joins the parts as ParseWorkloadID reads them. An empty group is written
// as "core", an empty namespace as "default", as Contrast does.
func (w Workload) ID() string {
	group, namespace := w.Group, w.Namespace
	if group == "" {
		group = "core"
	}
	if namespace == "" {
		namespace = "default"
	}
	return strings.Join([]string{group, w.Version, w.Kind, namespace, w.Name}, "/")
}

// Namespaces lists the namespaces that the WorkloadSecretIDs name, sorted.
// Values that carry one are volatile between deployments.
func (m *Manifest) Namespaces() []string {
	seen := map[string]bool{}
	var out []string
	for _, p := range m.Policies() {
		if w, ok := ParseWorkloadID(p.WorkloadSecretID); ok && !seen[w.Namespace] {
			seen[w.Namespace] = true
			out = append(out, w.Namespace)
		}
	}
	sort.Strings(out)
	return out
}
