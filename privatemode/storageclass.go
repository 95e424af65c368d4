package privatemode

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// annotationPrefix begins the names of Privatemode's annotations.
const annotationPrefix = "privatemode.edgeless.systems/"

// lastApplied is where kubectl keeps the object as somebody gave it.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// IsStorageClass reports whether a document is a storage class that carries a
// model's root hash.
func IsStorageClass(doc *yaml.Node) bool {
	kind, _ := yamldoc.Text(yamldoc.Get(doc, "kind"))
	return kind == "StorageClass" && yamldoc.Path(doc, "metadata", "annotations", annotationPrefix+"root_hash") != nil
}

// ParseStorageClasses reads a storage-class-*.yaml of the releases v1.21.0 to
// v1.37.0: storage classes whose annotations model_source, commit_hash,
// excluded_files (where something is excluded) and root_hash say what the disk
// of a model is. They name neither the length of its image nor the tools that
// made it. The copy of the annotations that kubectl keeps must say the same.
// All faults come together, as Problems; entries without fault are returned
// beside them. A file that is not YAML gives *yamldoc.Error.
func ParseStorageClasses(file string, data []byte) (*Models, error) {
	docs, err := yamldoc.ParseKubernetes(file, data, yamldoc.Limits{Bytes: 4 << 20})
	if err != nil {
		return nil, err
	}
	m := &Models{File: file}
	r := &modelReader{file: file, data: data, models: m}
	for _, doc := range docs {
		if doc == nil {
			continue
		}
		if kind, _ := yamldoc.Text(yamldoc.Get(doc, "kind")); kind != "StorageClass" {
			r.at(doc, "", "is %s, want a StorageClass", clip(kind))
			continue
		}
		r.storageClass(doc)
	}
	if len(m.Entries) == 0 && len(r.faults) == 0 {
		r.faults.add(Problem{File: file, Msg: "no storage class"})
	}
	slices.SortStableFunc(r.faults, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return m, r.faults.err()
}

func (r *modelReader) storageClass(doc *yaml.Node) {
	before := len(r.faults)
	name := yamldoc.Path(doc, "metadata", "name")
	e := Model{File: r.file, Line: doc.Line}
	if e.Key, _ = yamldoc.Text(name); e.Key == "" {
		r.at(doc, "metadata.name", "missing")
	} else {
		e.Line = name.Line
	}
	annotations := yamldoc.Path(doc, "metadata", "annotations")
	for _, field := range []string{"model_source", "commit_hash", "excluded_files", "root_hash"} {
		path := "metadata.annotations." + field
		v := yamldoc.Get(annotations, annotationPrefix+field)
		if v == nil {
			if field != "excluded_files" {
				r.at(doc, path, "missing")
			}
			continue
		}
		text, ok := yamldoc.Text(v)
		if !ok {
			r.at(v, path, "want a text")
			continue
		}
		if field == "root_hash" {
			e.RootLine = v.Line
		}
		if msg := e.set(field, text); msg != "" {
			r.at(v, path, "%s", msg)
		}
	}
	r.lastApplied(annotations)
	if len(r.faults) == before {
		r.models.Entries = append(r.models.Entries, e)
	}
}

// lastApplied holds the annotations against the copy that kubectl keeps of them:
// whoever changed one of the two left the other.
func (r *modelReader) lastApplied(annotations *yaml.Node) {
	v := yamldoc.Get(annotations, lastApplied)
	text, ok := yamldoc.Text(v)
	if !ok {
		return
	}
	doc, err := jsondoc.Parse([]byte(text), jsondoc.Limits{Bytes: 1 << 20, Depth: 16, Values: 10_000})
	if err != nil {
		r.at(v, "metadata.annotations."+lastApplied, "not JSON: %s", jsonProblem(r.file, err).Msg)
		return
	}
	for _, m := range annotationsOf(doc) {
		field, ours := strings.CutPrefix(m.Key, annotationPrefix)
		if !ours {
			continue
		}
		now, _ := yamldoc.Text(yamldoc.Get(annotations, m.Key))
		if was := m.Value.Text; m.Value.Kind == jsondoc.String && was != now {
			r.at(v, "metadata.annotations."+field, "is %q, and %s has %q", clip(now), fmt.Sprintf("the copy in %s", lastApplied), clip(was))
		}
	}
}

func annotationsOf(doc *jsondoc.Value) []jsondoc.Member {
	if v := doc.Get("metadata").Get("annotations"); v != nil {
		return v.Members
	}
	return nil
}
