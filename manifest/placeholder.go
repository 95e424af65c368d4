package manifest

import (
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// placeholder begins what stands in a generated manifest in the place of a value
// whose input is missing: nothing that Contrast writes begins so.
const placeholder = "not reproduced: "

// Placeholder is what stands for a value that could not be generated.
func Placeholder(what string) string { return placeholder + what }

// IsPlaceholder reports whether a text stands for a value that could not be
// generated. Two of them are never the same value.
func IsPlaceholder(text string) bool { return strings.HasPrefix(text, placeholder) }

// Placeholders lists the JSON pointers of a manifest's placeholders, of policies
// the pointer of their entry.
func (m *Manifest) Placeholders() []string {
	var out []string
	var walk func(v *jsondoc.Value, pointer string)
	walk = func(v *jsondoc.Value, pointer string) {
		if v.Kind == jsondoc.String && IsPlaceholder(v.Text) {
			out = append(out, pointer)
		}
		for i, e := range v.Elems {
			walk(e, pointer+"/"+strconv.Itoa(i))
		}
		for _, member := range v.Members {
			at := pointer + "/" + jsondoc.EscapePointer(member.Key)
			if IsPlaceholder(member.Key) {
				out = append(out, at)
			}
			walk(member.Value, at)
		}
	}
	walk(m.tree, "")
	return out
}
