package snpmeasure_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/snpmeasure"
)

// TestReleases reads the published list as the tests' own reader does.
func TestReleases(t *testing.T) {
	path := testenv.Vectors(t, "published/field/secretvm/artifacts_registry/sev.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := snpmeasure.ParseReleases("sev.json", data)
	if err != nil {
		t.Fatal(err)
	}
	rows := secretRows(t)
	if len(list.Rows) != len(rows) {
		t.Fatalf("%d rows, want %d", len(list.Rows), len(rows))
	}
	for i, want := range rows {
		got := list.Rows[i]
		if got.Unknown != "" || got.Name() != want.Env+" "+want.Version || got.Seed.Hex() != want.Seed || *got.Layout.ResetEIP != want.Reset || got.Extra != want.Extra || len(got.Layout.Sections) != len(want.Sections) {
			t.Errorf("row %d: %+v", i, got)
		}
		if lines := strings.Split(string(data), "\n"); !strings.Contains(lines[got.Line-1], "{") {
			t.Errorf("row %d: line %d is %q", i, got.Line, lines[got.Line-1])
		}
	}
}

const oneRelease = `[{"vm_type":"prod","artifacts_ver":"v1","kernel_hash":"KK","initrd_hash":"KK","vcpu_type":"EPYC","rootfs_hash":"KK","ovmf_hash":"SS","sev_hashes_table_gpa":1,"sev_es_reset_eip":2,"ovmf_sections":[{"gpa":0,"size":4096,"section_type":1}]}]`

func release() string {
	return strings.NewReplacer("KK", strings.Repeat("ab", 32), "SS", strings.Repeat("cd", 48)).Replace(oneRelease)
}

// TestReleasesRefused: another form is an error, what may mean something else
// is marked.
func TestReleasesRefused(t *testing.T) {
	if l, err := snpmeasure.ParseReleases("r", []byte(release())); err != nil || len(l.Rows) != 1 || l.Rows[0].Unknown != "" {
		t.Fatalf("%+v, %v", l, err)
	}
	for old, changed := range map[string]string{
		`[{"vm_type"`:           `{"vm_type"`,
		`"vm_type":"prod"`:      `"vm_type":7`,
		`"kernel_hash":"abab`:   `"kernel_hash":"`,
		`"sev_es_reset_eip":2`:  `"sev_es_reset_eip":4294967296`,
		`"gpa":0`:               `"gpa":"0"`,
		`"ovmf_sections":[`:     `"ovmf_sections":[[],`,
		`,"rootfs_hash"`:        `,"rootfs"`,
		`"sev_es_reset_eip":2,`: `"sev_es_reset_eip":2,"sev_es_reset_eip":3,`,
		`"vcpu_type":"EPYC"`:    `"vcpu_type":"EPYC","cmdline_extra":7`,
	} {
		_, err := snpmeasure.ParseReleases("r", []byte(strings.Replace(release(), old, changed, 1)))
		if err == nil || !strings.Contains(err.Error(), "r") {
			t.Errorf("%s: %v", changed, err)
		}
	}
	if _, err := snpmeasure.ParseReleases("r", []byte("{}")); !errors.Is(err, snpmeasure.ErrReleases) {
		t.Error(err)
	}
	for old, changed := range map[string]string{
		`"vcpu_type":"EPYC"`: `"vcpu_type":"EPYC-Zen9"`, `"section_type":1`: `"section_type":1,"measured":false`, `"vm_type"`: `"family":"x","vm_type"`,
	} {
		l, err := snpmeasure.ParseReleases("r", []byte(strings.Replace(release(), old, changed, 1)))
		if err != nil || l.Rows[0].Unknown == "" {
			t.Errorf("%s: %+v, %v", changed, l, err)
		}
	}
}

func FuzzReleases(f *testing.F) {
	f.Add([]byte(release()))
	f.Add([]byte(`[{"ovmf_sections":[{}]}]`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := snpmeasure.ParseReleases("r", data)
		if err != nil {
			return
		}
		var again []json.RawMessage
		if json.Unmarshal(data, &again) == nil && len(again) != len(l.Rows) {
			t.Fatalf("%d rows of %d", len(l.Rows), len(again))
		}
		for _, r := range l.Rows {
			if r.Kernel.IsZero() || r.Seed.IsZero() || r.Layout.ResetEIP == nil {
				t.Fatalf("%+v", r)
			}
		}
	})
}
