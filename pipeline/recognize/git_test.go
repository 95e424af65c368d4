package recognize_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/stages"
)

// TestCheckoutAgainstGit: what a checkout has that its commit has not, and a
// commit that is not the tag's, stand in the report; a clean one says so.
func TestCheckoutAgainstGit(t *testing.T) {
	git := testenv.Oracle(t, "git")
	for _, tt := range []struct {
		name   string
		change string // a shell's words, in the clone
		want   []string
		never  []string
	}{
		{"clean", "true", []string{"is the tag v1.40.0", "of commit "}, []string{"the checkout is not commit"}},
		{"packed", "git gc -q && git pack-refs --all", []string{"is the tag v1.40.0", "of commit "}, []string{"the checkout is not commit"}},
		{"changed", "echo '# more' >> deployment.yaml", []string{"1 file is changed: deployment.yaml"}, []string{"as git has them"}},
		{"same size", "sed -i s/secret/tercse/ deployment.yaml", []string{"1 file is changed: deployment.yaml"}, nil},
		{"staged", "echo '# more' >> deployment.yaml && git add .", []string{"1 file is changed: deployment.yaml"}, nil},
		{"assumed unchanged", "git update-index --assume-unchanged deployment.yaml && echo '# more' >> deployment.yaml", []string{"1 file is changed: deployment.yaml"}, nil},
		{"gone", "rm scripts/adjust-manifest.sh", []string{"1 file is gone: scripts/adjust-manifest.sh"}, nil},
		{"a link in place of a file", "mv deployment.yaml /tmp/ignored-$$ && ln -s version.nix deployment.yaml", []string{"1 file is changed: deployment.yaml"}, nil},
		{"another commit", "git commit -q --allow-empty -m more", []string{"not the tag's"}, []string{"is the tag v1.40.0"}},
		{"a moved tag", "git commit -q --allow-empty -m more && git tag -f v1.40.0 >/dev/null && git checkout -q HEAD~1", []string{"not the tag's"}, nil},
		{"no tag", "git tag -d v1.40.0 >/dev/null", []string{"has no such tag"}, []string{"is the tag"}},
		{"not added", "cp models.yaml m && git rm -q models.yaml && git commit -qm x && mv m models.yaml", []string{"not in the commit at all: models.yaml"}, nil},
		{"no clone", "rm -rf .git", []string{"has no .git folder"}, []string{"as git has them"}},
		{"a broken clone", "rm -rf .git/objects/*", []string{"cannot be held against a commit"}, []string{"as git has them"}},
		{"a pointer out", "rm -rf .git && echo 'gitdir: /elsewhere' > .git", []string{"cannot be held against a commit"}, []string{"as git has them"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"version.nix": "{ version = \"v1.40.0\"; }\n", "contrast-version": "v1.20.0\n",
				"scripts/calculate-image-digests.sh": "#!/bin/sh\n", "scripts/generate-manifest.sh": "#!/bin/sh\n", "scripts/adjust-manifest.sh": "#!/bin/sh\n",
				"deployment.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: secret, namespace: n}\nspec: {containers: [{name: a, image: 'x@sha256:" + strings.Repeat("a", 64) + "'}]}\n",
				"models.yaml":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: model-disks}\ndata: {}\n",
			} {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("sh", "-ec", git+" init -q . && git add . && git commit -qm one && git tag v1.40.0\n"+strings.ReplaceAll(tt.change, "/tmp/ignored-$$", filepath.Join(t.TempDir(), "moved")))
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			s, err := recognize.Look(context.Background(), stages.Table(), []string{dir}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Prepare(context.Background()); err != nil {
				t.Fatal(err)
			}
			var said []string
			for _, p := range s.Problems {
				said = append(said, p.Where.File+" "+p.Msg)
			}
			text := strings.Join(said, "\n")
			for _, w := range tt.want {
				if !strings.Contains(text, w) {
					t.Errorf("nothing says %q:\n%s", w, text)
				}
			}
			for _, w := range tt.never {
				if strings.Contains(text, w) {
					t.Errorf("says %q:\n%s", w, text)
				}
			}
		})
	}
}
