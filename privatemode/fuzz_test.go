package privatemode_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/privatemode"
)

// FuzzModels: an accepted file has complete entries on lines inside it.
func FuzzModels(f *testing.F) {
	f.Add([]byte(modelHead + model))
	f.Add([]byte(modelHead + "  a: &x '{\"root_hash\":1}'\n  b: *x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := privatemode.ParseModels("f", data)
		if m == nil {
			if err == nil {
				t.Error("neither models nor error")
			}
			return
		}
		lines := bytes.Count(data, []byte("\n")) + 1
		for _, e := range m.Entries {
			if e.RootHash.IsZero() || e.FileHash.IsZero() || e.HashOffset == 0 || e.Line < 1 || e.RootLine < 1 || e.RootLine > lines+1 {
				t.Errorf("incomplete entry %+v of %d lines", e, lines)
			}
		}
	})
}

// FuzzHashes: what is accepted survives printing, and printing is stable.
func FuzzHashes(f *testing.F) {
	f.Add([]byte(`{"a":"sha256:` + hexA + `","\u007f":"sha256:` + hexB + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		hashes, err := privatemode.ParseHashes("f", data)
		if err != nil {
			return
		}
		text := privatemode.FormatHashes(hashes)
		again, err := privatemode.ParseHashes("f", text)
		if err != nil || len(again) != len(hashes) {
			t.Fatalf("%s: %v", text, err)
		}
		for i := range again {
			if again[i].Name != hashes[i].Name || again[i].Digest != hashes[i].Digest || again[i].Line != i+2 {
				t.Errorf("entry %d: got %+v, want %+v", i, again[i], hashes[i])
			}
		}
		if twice := privatemode.FormatHashes(again); !bytes.Equal(text, twice) {
			t.Errorf("printed %s, then %s", text, twice)
		}
	})
}

// FuzzLog: entries survive printing in both formats, and no path leads out.
func FuzzLog(f *testing.F) {
	f.Add([]byte("2025-04-08T16:43:07+02:00 " + hexA + " manifests\\1.json\r\n2025-04-08T16:43:07Z /a b/manifests/2.json\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, _ := privatemode.ParseLog("f", data)
		again, err := privatemode.ParseLog("f", privatemode.FormatLog(l.Entries))
		if err != nil || len(again.Entries) != len(l.Entries) {
			t.Fatalf("got %d entries, %v, want %d", len(again.Entries), err, len(l.Entries))
		}
		for i, e := range l.Entries {
			if !strings.HasPrefix(e.Path, "manifests/") || strings.Contains("/"+e.Path+"/", "/../") || strings.Contains(e.Path, `\`) {
				t.Errorf("path %q", e.Path)
			}
			got := again.Entries[i]
			// Printing drops fractions of seconds, as the proxy does.
			if got.Path != e.Path || got.CoordinatorPolicy != e.CoordinatorPolicy || got.Time.Unix() != e.Time.Unix() {
				t.Errorf("entry %d: got %+v, want %+v", i, got, e)
			}
		}
	})
}

// FuzzInspect: nothing panics, and every digest has a kind.
func FuzzInspect(f *testing.F) {
	f.Add([]byte(`[{"Id":"` + hexA + `","Digest":"sha256:` + hexB + `","RepoDigests":["a@sha256:` + hexC + `"],"Descriptor":{"digest":"sha256:` + hexA + `"},"Manifests":[{"Descriptor":{"digest":"sha256:` + hexA + `","platform":{}}}]}]`))
	f.Add([]byte("[a@sha256:" + hexA + "]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		images, err := privatemode.ParseInspect("f", data)
		for _, img := range images {
			for _, d := range img.Digests() {
				if d.Kind == "" || d.Digest.IsZero() || d.Line < 1 {
					t.Errorf("digest %+v", d)
				}
			}
		}
		again, err2 := privatemode.ParseInspect("f", data)
		if (err == nil) != (err2 == nil) || len(images) != len(again) {
			t.Error(cmp.Diff(err, err2))
		}
	})
}
