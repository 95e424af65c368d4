package nix_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

var vendorHashLine = regexp.MustCompile(`(?m)^  vendorHash = "([^"]*)";$`)

// A dependency that is added, dropped or raised changes the vendored modules.
// Nix would notice only when somebody builds the package with a network.
func TestVendorHash(t *testing.T) {
	testenv.Oracle(t, "nix")
	root := testenv.ModuleRoot(t)
	watch(t, root)
	got := vendorHash(t, root)
	if want := recorded(t, root); got != want {
		t.Errorf("vendorHash: go mod vendor gives %s, nix/package.nix has %s: run scripts/vendorhash --write", got, want)
	}
}

// TestVendorHashWrite runs the script in a copy of the tree that has no git,
// with another hash recorded.
func TestVendorHashWrite(t *testing.T) {
	testenv.Oracle(t, "nix")
	root := testenv.ModuleRoot(t)
	dir := t.TempDir()
	const module = "module example.org/vendored\n\ngo 1.26.0\n\nrequire github.com/google/go-cmp v0.7.0\n"
	const program = "package vendored\n\nimport _ \"github.com/google/go-cmp/cmp\"\n"
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(root, "scripts", "vendorhash"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "go.mod"), module, 0o644)
	write(t, filepath.Join(dir, "go.sum"), string(sum), 0o644)
	write(t, filepath.Join(dir, "vendored.go"), program, 0o644)
	write(t, filepath.Join(dir, "scripts", "vendorhash"), string(script), 0o755)
	const before = "{\n  vendorHash = \"sha256-old\";\n  other = \"vendorHash\";\n}\n"
	write(t, filepath.Join(dir, "nix", "package.nix"), before, 0o644)

	printed := vendorHash(t, dir)
	if got := recorded(t, dir); got != "sha256-old" {
		t.Errorf("vendorHash without --write changed nix/package.nix to %q", got)
	}
	if again := vendorHash(t, dir, "--write"); again != printed {
		t.Errorf("vendorHash --write printed %s, without --write %s", again, printed)
	}
	text, err := os.ReadFile(filepath.Join(dir, "nix", "package.nix"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(text), strings.Replace(before, "sha256-old", printed, 1); got != want {
		t.Errorf("nix/package.nix after --write:\ngot  %q\nwant %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "vendor")); !os.IsNotExist(err) {
		t.Errorf("the script left a vendor folder in the tree: %v", err)
	}

	// Other imports are another hash.
	write(t, filepath.Join(dir, "vendored.go"), "package vendored\n\nimport _ \"github.com/google/go-cmp/cmp/cmpopts\"\n", 0o644)
	if other := vendorHash(t, dir); other == printed {
		t.Errorf("vendorHash is %s for two different sets of packages", other)
	}
}

// vendorHash runs the script of the tree at root.
func vendorHash(t *testing.T, root string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "scripts", "vendorhash"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("scripts/vendorhash %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// watch lists every folder of the tree, so that a cached pass of this test ends
// with the next change: go test does not see what the script reads.
func watch(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// recorded reads the hash of nix/package.nix.
func recorded(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "nix", "package.nix"))
	if err != nil {
		t.Fatal(err)
	}
	lines := vendorHashLine.FindAllSubmatch(text, -1)
	if len(lines) != 1 {
		t.Fatalf("nix/package.nix: %d lines with a vendorHash, want 1", len(lines))
	}
	return string(lines[0][1])
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
