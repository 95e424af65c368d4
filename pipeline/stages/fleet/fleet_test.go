package fleet_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/fleet"
)

// judged runs the stage over a list.
func judged(t testing.TB, root string, conf config.Fleet) (*fleet.List, *pipeline.Report, error) {
	t.Helper()
	var l *fleet.List
	res, err := run.Run(context.Background(), []run.Stage{fleet.Showing(func(got *fleet.List) { l = got })}, &config.Config{Version: 1, Fleet: &conf},
		run.Options{Root: root, Progress: new(run.Progress), Reader: run.NewReader(root, nil)})
	if err != nil {
		return nil, nil, err
	}
	return l, res.Report, nil
}

func must(t testing.TB, root string, conf config.Fleet) (*fleet.List, *pipeline.Report) {
	t.Helper()
	l, r, err := judged(t, root, conf)
	if err != nil {
		t.Fatal(err)
	}
	return l, r
}

// TestField: the published lists, with what can be recomputed of them from
// public inputs, and the reason of each hole.
func TestField(t *testing.T) {
	root := testenv.Vectors(t, "published/field")
	start := time.Now()
	for _, tt := range []struct {
		conf                                 config.Fleet
		rows, whole, published, same, follow int
		holes                                []string
	}{
		{config.Fleet{File: "secretvm/artifacts_registry/tdx.csv"}, 109, 0, 545, 99, 0, []string{"firmware with MRTD ba87a347", "firmware with MRTD feb74866", "shape of the size xlarge-gcp-tdx", "kernel of release prod v0.0.25", "root file system sha256:"}},
		{config.Fleet{File: "secretvm/artifacts_registry/sev.json"}, 22, 0, 88, 0, 0, []string{"compose file", "SEV firmware whose pages give c581d3ea", "kernel sha256:98c41a86"}},
		{config.Fleet{File: "secretvm/artifacts_registry/sev.json", Compose: "secretvm/dstack_docker_compose.yaml"}, 22, 0, 88, 0, 88, []string{"initrd sha256:"}},
		{config.Fleet{File: "tinfoil/shapes_rtmr0.json", Inputs: []string{"tinfoil/acpi"}}, 18, 16, 72, 70, 0, []string{"boot variables of the shape mini_0d_amd", "boot variables of the shape small_0d_amd"}},
		{config.Fleet{File: "tinfoil/shapes_rtmr0.json"}, 18, 0, 72, 0, 0, []string{"ACPI tables sha256:8d8464f4"}},
		{config.Fleet{File: "tinfoil/platform.json"}, 15, 0, 0, 0, 0, []string{"ACPI tables of the shape small_0d_new"}},
		{config.Fleet{File: "tinfoil/acpi_sha256_small_medium.json"}, 6, 0, 6, 0, 0, []string{"ACPI tables sha256:feaffbb7"}},
		{config.Fleet{File: "tinfoil/machines.json"}, 12, 0, 0, 0, 0, []string{"measurements of the platform tdx-h200-prod", "quote of the machine 0635f80268bc8404"}},
		{config.Fleet{File: "tinfoil/predicate_09ef32ac.json"}, 1, 0, 7, 0, 0, []string{"kernel sha256:39cc3d97", "SEV firmware of release v0.5.16"}},
		{config.Fleet{File: "tinfoil/igvm-v0.15.0-rc6-manifest.json"}, 1, 0, 9, 0, 0, []string{"IGVM file sha256:4f3bea96"}},
		{config.Fleet{File: "../privatemode/published/216de2.manifest.json"}, 2, 0, 6, 0, 0, []string{"firmware of the platform Metal-QEMU-SNP-GPU"}},
	} {
		l, r := must(t, root, tt.conf)
		c := l.Coverage()
		if c.Rows != tt.rows || c.WholeRows != tt.whole || c.Published != tt.published || c.Recomputed != tt.same || c.Follows != tt.follow || c.Differs != 0 || c.Open != tt.published-tt.same {
			t.Errorf("%s: %+v", tt.conf.File, c)
		}
		if r.Outcome != pipeline.OutcomeUnchecked || r.Coverage.Recounted != tt.same {
			t.Errorf("%s: %s, %d recounted", tt.conf.File, r.Outcome, r.Coverage.Recounted)
		}
		var holes []string
		for _, h := range l.Holes() {
			holes = append(holes, h.Input)
		}
		all := strings.Join(holes, "\n")
		for _, want := range tt.holes {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no hole %q in %s", tt.conf.File, want, all)
			}
		}
		for _, row := range l.Rows {
			for _, v := range row.Values {
				if v.State() == fleet.Unknown && len(v.Lacks()) == 0 {
					t.Errorf("%s: %s %s is left without a reason", tt.conf.File, row.Name, v.Name)
				}
			}
		}
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %s", d)
	}
}

// lay writes the demo, and files beside it.
func lay(t testing.TB, more map[string]string) string {
	t.Helper()
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range files {
		put(t, dir, f.Name, f.Data)
	}
	for name, text := range more {
		put(t, dir, name, []byte(text))
	}
	return dir
}

func put(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestInputs: an input counts by its digest, whatever it is called, and a row of
// another firmware stays open.
func TestInputs(t *testing.T) {
	dir := lay(t, nil)
	before, _ := must(t, dir, config.Fleet{File: "vm/tdx.csv"})
	if c := before.Coverage(); c.Recomputed != 0 || c.Rows < 2 {
		t.Errorf("without inputs: %+v", c)
	}
	after, r := must(t, dir, config.Fleet{File: "vm/tdx.csv", Inputs: []string{"vm"}})
	states := map[string]int{}
	for _, row := range after.Rows {
		for _, v := range row.Values {
			if v.State() == fleet.Recomputed {
				states[v.Name]++
				if len(v.From) == 0 {
					t.Errorf("%s %s: from nothing", row.Name, v.Name)
				}
			}
		}
	}
	if states["mrtd"] == 0 || states["rootfs"] == 0 || states["mrtd"] == len(after.Rows) {
		t.Errorf("%v of %d rows", states, len(after.Rows))
	}
	if r.Outcome != pipeline.OutcomeUnchecked {
		t.Error(r.Outcome)
	}
	for _, f := range []string{"OVMF.fd", "rootfs.img"} {
		if err := os.Rename(filepath.Join(dir, "vm", f), filepath.Join(dir, "vm", "renamed-"+f)); err != nil {
			t.Fatal(err)
		}
	}
	renamed, _ := must(t, dir, config.Fleet{File: "vm/tdx.csv", Inputs: []string{"vm"}})
	if renamed.Coverage() != after.Coverage() {
		t.Errorf("renamed: %+v, before %+v", renamed.Coverage(), after.Coverage())
	}
}

// TestDiffers: what follows from tables that are at hand, and is published
// otherwise, differs.
func TestDiffers(t *testing.T) {
	root := testenv.Vectors(t, "published/field")
	data, err := os.ReadFile(filepath.Join(root, "tinfoil", "shapes_rtmr0.json"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, "shapes.json", []byte(strings.Replace(string(data), `"rsdp_sha256": "21a0`, `"rsdp_sha256": "21a1`, 1)))
	l, r := must(t, dir, config.Fleet{File: "shapes.json", Inputs: []string{filepath.Join(root, "tinfoil", "acpi")}})
	if c := l.Coverage(); c.Differs != 1 || r.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("%+v, %s", c, r.Outcome)
	}
	// A value that is another one is never taken for recomputed.
	put(t, dir, "shapes.json", []byte(strings.Replace(string(data), "551a254a", "551a254b", 1)))
	l, _ = must(t, dir, config.Fleet{File: "shapes.json", Inputs: []string{filepath.Join(root, "tinfoil", "acpi")}})
	if c := l.Coverage(); c.Recomputed != 69 {
		t.Errorf("%+v", c)
	}
}

// TestRefused: what is not understood is an error with its place.
func TestRefused(t *testing.T) {
	for name, tt := range map[string][2]string{
		"nothing":            {"", "list"},
		"an object":          {"{}", "another kind"},
		"a member more":      {`{"rows":[{"cpus":1,"memory_mib":1,"more":1}]}`, "/rows/0/more"},
		"no machine":         {`{"rows":[{"cpus":0,"memory_mib":1}]}`, "/rows/0"},
		"no row":             {`{"rows":[]}`, "no row"},
		"a shape without":    {`{"x":{"cpus":1}}`, "/x"},
		"no id":              {`{"xyz":"platform"}`, "/xyz"},
		"a short register":   {`{"tdx_measurement":{"mrtd":"ab"}}`, "/tdx_measurement/mrtd"},
		"a register more":    {`{"tdx_measurement":{"rtmr9":"ab"}}`, "/tdx_measurement/rtmr9"},
		"a list of nothing":  {`[]`, "list"},
		"a list, not closed": {`[{`, "list"},
	} {
		dir := t.TempDir()
		put(t, dir, "list", []byte(tt[0]))
		_, _, err := judged(t, dir, config.Fleet{File: "list"})
		if err == nil || !strings.Contains(err.Error(), tt[1]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzList: no panic on any list, and every hole has a reason.
func FuzzList(f *testing.F) {
	for _, s := range []string{
		`{"rows":[{"rtmr0_computed":"` + strings.Repeat("ab", 48) + `","cpus":4,"memory_mib":4096,"platforms":[{"platform":"x"}],"acpi_tables_sha256":"` + strings.Repeat("cd", 32) + `"}]}`,
		`{"a":{"cpus":1,"memory":"1M","acpi_sha256":"` + strings.Repeat("cd", 32) + `"}}`,
		`{"` + strings.Repeat("ab", 16) + `":"tdx"}`,
		`{"snp_measurement":"` + strings.Repeat("ab", 48) + `","tdx_measurement":{"rtmr1":"` + strings.Repeat("ab", 48) + `"},"hashes":{"version":"v","root":"` + strings.Repeat("cd", 32) + `"}}`,
		`{"igvm":{"snp":"` + strings.Repeat("cd", 32) + `","snp_launch":{"measurement":"` + strings.Repeat("ab", 48) + `"},"tdx_launch":{"mrtd":"` + strings.Repeat("ab", 48) + `"}}}`,
		`{"Policies":{},"ReferenceValues":{"tdx":[{"MrTd":"` + strings.Repeat("ab", 48) + `","Rtmrs":[]}]}}`,
		"template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data\nsmall,prod,v1," + strings.Repeat(strings.Repeat("ab", 48)+",", 4) + strings.Repeat("cd", 32) + "\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := run.NewReader(".", nil)
		reader.Hold("-", data)
		var l *fleet.List
		_, err := run.Run(context.Background(), []run.Stage{fleet.Showing(func(got *fleet.List) { l = got })}, &config.Config{Version: 1, Fleet: &config.Fleet{File: "-", Compose: "sha256:" + strings.Repeat("00", 32)}},
			run.Options{Root: ".", Progress: new(run.Progress), Reader: reader})
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		for _, row := range l.Rows {
			for _, v := range row.Values {
				if v.State() == fleet.Unknown && len(v.Lacks()) == 0 {
					t.Errorf("%s %s is left without a reason", row.Name, v.Name)
				}
			}
		}
	})
}
