package manifest_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/manifest"
)

// The transitions of the published manifests, alone and one after the other.
func TestHistoryVectors(t *testing.T) {
	var v struct {
		A     string   `json:"transition_single_83c1af"`
		B     string   `json:"transition_single_216de2"`
		Chain []string `json:"transition_chain"`
	}
	if err := json.Unmarshal(read(t, testenv.Vectors(t, "own/contrast/history.json")), &v); err != nil {
		t.Fatal(err)
	}
	dir := testenv.Vectors(t, "published/privatemode/published")
	a, b := read(t, filepath.Join(dir, "83c1af.manifest.json")), read(t, filepath.Join(dir, "216de2.manifest.json"))
	for _, tt := range []struct {
		manifests [][]byte
		want      []string
	}{{[][]byte{a}, []string{v.A}}, {[][]byte{b}, []string{v.B}}, {[][]byte{a, b}, v.Chain}} {
		list := manifest.History(tt.manifests...)
		for i, tr := range list {
			if tr.Hash().Hex() != tt.want[i] {
				t.Errorf("transition %d: got %s, want %s", i+1, tr.Hash(), tt.want[i])
			}
			again, err := manifest.ParseTransition(tr.Bytes())
			if err != nil || again != tr {
				t.Errorf("read back: got %v, %v", again, err)
			}
		}
		if err := manifest.CheckHistory(list); err != nil {
			t.Error(err)
		}
		if err := manifest.CheckManifests(list[len(list)-1].Hash(), tt.manifests...); err != nil {
			t.Error(err)
		}
	}
	if err := manifest.CheckManifests(manifest.History(a, b)[1].Hash(), b, a); !errors.Is(err, manifest.ErrHistory) {
		t.Errorf("manifests in another order: got %v", err)
	}
}

// A history with a gap, a fork, another beginning or a repetition is none.
func TestHostileHistories(t *testing.T) {
	h := manifest.History([]byte("a"), []byte("b"), []byte("c"), []byte("d"))
	fork := manifest.Transition{Manifest: digest.SHA256.Sum([]byte("x")), Previous: h[0].Hash()}
	for _, tt := range []struct {
		name string
		list []manifest.Transition
		want string
	}{
		{"whole", h, ""},
		{"none", nil, "no transition"},
		{"without its beginning", h[1:], "the beginning is missing"},
		{"gap", []manifest.Transition{h[0], h[2], h[3]}, "one is missing"},
		{"swapped", []manifest.Transition{h[0], h[2], h[1]}, "one is missing"},
		{"fork", []manifest.Transition{h[0], h[1], fork}, "a fork"},
		{"begins anew", []manifest.Transition{h[0], {Manifest: h[1].Manifest, Previous: h[0].Previous}}, "begins anew"},
		{"repeated", []manifest.Transition{h[0], h[1], h[1]}, "a fork"},
		{"itself", []manifest.Transition{h[0], {Manifest: h[1].Manifest, Previous: h[1].Hash()}}, "one is missing"},
	} {
		err := manifest.CheckHistory(tt.list)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, manifest.ErrHistory)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	for _, n := range []int{0, 32, 63, 65} {
		if _, err := manifest.ParseTransition(make([]byte, n)); err == nil {
			t.Errorf("%d bytes: want an error", n)
		}
	}
}
