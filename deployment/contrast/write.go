package contrast

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
)

// write prints objects as Contrast does: sorted keys, two spaces, "---" between
// documents. It gives the line that each begins on. What would read back as
// anything else is an error.
func write(file string, objects []map[string]any) (out []byte, lines []int, err error) {
	line := 1
	for i, o := range objects {
		if i > 0 {
			out, line = append(out, "---\n"...), line+1
		}
		var b bytes.Buffer
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := enc.Encode(printable(o)); err != nil {
			return nil, nil, fmt.Errorf("write the changed deployment: %w", err)
		}
		lines = append(lines, line)
		line += bytes.Count(b.Bytes(), []byte("\n"))
		out = append(out, b.Bytes()...)
	}
	docs, err := yamldoc.ParseKubernetes(file, out, yamldoc.Limits{})
	if err != nil {
		return nil, nil, fmt.Errorf("read the changed deployment back: %w", err)
	}
	if len(docs) != len(objects) {
		return nil, nil, fmt.Errorf("the changed deployment reads back as %d objects, want %d", len(docs), len(objects))
	}
	for i, doc := range docs {
		if doc == nil || doc.Line != lines[i] || !reflect.DeepEqual(yamldoc.Value(doc), any(objects[i])) {
			return nil, nil, fmt.Errorf("the changed deployment does not read back as it was written, document %d", i+1)
		}
	}
	return out, lines, nil
}

// printable turns numbers into nodes: YAML must not make text of them.
func printable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = printable(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = printable(e)
		}
		return l
	case json.Number:
		tag := "!!int"
		if strings.ContainsAny(v.String(), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: v.String()}
	default:
		return v
	}
}

// textMaps are fields whose values are texts: there a null is an empty text.
var textMaps = []string{"annotations", "labels", "data", "stringData", "matchLabels", "nodeSelector"}

// tidy takes out what typed objects do not keep: nulls, and lists without
// elements. In a map of texts a null is an empty text, and its key stays.
func tidy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if m, ok := e.(map[string]any); ok && slices.Contains(textMaps, k) {
				for key, text := range m {
					if text == nil {
						m[key] = ""
					}
				}
			}
			if l, ok := e.([]any); e == nil || ok && len(l) == 0 {
				delete(v, k)
				continue
			}
			v[k] = tidy(e)
		}
	case []any:
		for i, e := range v {
			v[i] = tidy(e)
		}
	}
	return v
}

// objects are the elements of a list that are mappings.
func objects(v any) []map[string]any {
	list, _ := v.([]any)
	var out []map[string]any
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
