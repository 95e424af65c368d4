package imagehash_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
)

func openBytes(t *testing.T, name string, data []byte) *imagehash.Source {
	t.Helper()
	src, err := imagehash.OpenArchive(t.Context(), name, bytes.NewReader(data), int64(len(data)), imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// short is a cause in one line, without values.
func short(c imagehash.Cause) string {
	return fmt.Sprintf("%s %s %s", strings.Join(c.Path, " > "), c.Kind, c.Standing)
}

func shorts(list []imagehash.Cause) []string {
	var out []string
	for _, c := range list {
		out = append(out, short(c))
	}
	slices.Sort(out)
	return out
}

func TestDiffVectors(t *testing.T) {
	dir, list := vectors(t)
	byID := map[string]vector{}
	for _, v := range list {
		byID[v.ID] = v
	}
	tested := 0
	for _, v := range list {
		if v.CompareWith == "" {
			continue
		}
		tested++
		t.Run(v.ID, func(t *testing.T) {
			a := openBytes(t, v.CompareWith, byID[v.CompareWith].bytes(t, dir))
			b := openBytes(t, v.ID, v.bytes(t, dir))
			d, err := imagehash.Diff(t.Context(), a, b, imagehash.DiffOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if d.Equal || !d.Proved || len(d.Causes) != 1 {
				t.Fatalf("got %v, proved %v, notes %v; want the one cause %v", shorts(d.Causes), d.Proved, d.Notes, v.Difference)
			}
			c := d.Causes[0]
			where, what := v.Difference[0], v.Difference[1]
			inPath := strings.Contains(strings.Join(c.Path, " > "), where)
			switch where {
			case "layer-compressed":
				inPath = slices.Equal(c.Path, []string{"layer 0", "compression"})
			case "layer":
				inPath = slices.Equal(c.Path, []string{"layer 0"})
			}
			if c.Kind != what || c.Standing != imagehash.Proved || !inPath {
				t.Errorf("got %+v, want %v", c, v.Difference)
			}
		})
	}
	if tested < 17 {
		t.Errorf("got %d pairs, want 17", tested)
	}
}
