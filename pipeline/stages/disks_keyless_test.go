package stages_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/pipeline/stages/endorsements"
)

// TestKeylessModel: who signed a model without a key is said by an entry of
// endorsements that judges the same file whole and binds it to the files read
// here; by nothing less.
func TestKeylessModel(t *testing.T) {
	sample := testenv.Vectors(t, "published/field/oms/v1.1.0-sigstore")
	root := filepath.Join(testenv.ModuleRoot(t), "endorsement", "testdata", "public_good.json")
	whole := config.Endorsement{
		File: "model.sig", TrustedRoot: config.Files{"root.json"}, Identity: "stefanb@us.ibm.com", Issuer: "https://sigstore.verify.ibm.com/oauth2",
		Keys: []string{"disk/m/model-sig"}, At: "2026-06-01T00:00:00Z",
	}
	for _, tt := range []struct {
		name   string
		edit   func(*config.Endorsement)
		change func(dir string) error
		want   pipeline.Outcome
	}{
		{"whole", nil, nil, pipeline.OutcomeMatch},
		{"another signer", func(e *config.Endorsement) { e.Identity = "mallory@us.ibm.com" }, nil, pipeline.OutcomeDiffers},
		{"nobody named", func(e *config.Endorsement) { e.Identity, e.Issuer = "", "" }, nil, pipeline.OutcomeUnchecked},
		{"not all asked", func(e *config.Endorsement) { e.Only = []string{"covers", "logged", "valid"} }, nil, pipeline.OutcomeUnchecked},
		{"of other values", func(e *config.Endorsement) { e.Keys = []string{"disk/m/root"} }, nil, pipeline.OutcomeDiffers},
		{"of another file", func(e *config.Endorsement) { e.File = "copy.sig" }, nil, pipeline.OutcomeUnchecked},
		{"another content", nil, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "model", "signme-1"), []byte("x"), 0o644)
		}, pipeline.OutcomeDiffers},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, "model"), os.DirFS(sample)); err != nil {
				t.Fatal(err)
			}
			for _, f := range [][2]string{{"model.sig", filepath.Join(sample, "model.sig")}, {"copy.sig", filepath.Join(sample, "model.sig")}, {"root.json", root}} {
				data, err := os.ReadFile(f[1])
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, f[0]), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(filepath.Join(dir, "model", "model.sig")); err != nil {
				t.Fatal(err)
			}
			e := whole
			if tt.edit != nil {
				tt.edit(&e)
			}
			if tt.change != nil {
				if err := os.Remove(filepath.Join(dir, "model", "signme-1")); err != nil {
					t.Fatal(err)
				}
				if err := tt.change(dir); err != nil {
					t.Fatal(err)
				}
			}
			c := &config.Config{
				Version: 1, Endorsements: map[string]config.Endorsement{"publisher": e},
				Disks: map[string]config.Disk{"m": {Dir: "model", MKFS: "1.9", Normalize: true, ModelSig: "model.sig"}},
			}
			res, err := run.Run(t.Context(), []run.Stage{disks.Stage(), endorsements.Stage()}, c, run.Options{Root: dir})
			if err != nil {
				t.Fatal(err)
			}
			if res.Report.Outcome != tt.want {
				t.Errorf("%s, want %s: %s", res.Report.Outcome, tt.want, res.Report.Summary)
			}
		})
	}
}
