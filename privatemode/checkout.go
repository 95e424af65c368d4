package privatemode

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// CheckoutInfo is what a checkout of privatemode-public holds, by the layout
// of the tags v1.9.0 to v1.40.0. Paths are slash-separated and relative to its
// root; "" means that the tag has no such file.
type CheckoutInfo struct {
	Version         string // of version.nix, "v1.40.0"
	ContrastVersion string // of contrast-version, "v1.20.0"; since v1.10

	Deployment          string // deployment.yaml; since v1.10
	Models              string // models.yaml; since v1.38
	ContrastVersionFile string
	CalculateDigests    string // scripts/calculate-image-digests.sh; since v1.9
	GenerateManifest    string // scripts/generate-manifest.sh; since v1.10
	AdjustManifest      string // scripts/adjust-manifest.sh; since v1.10
	Verity              string // verity/verity.sh, the recipe of the disks; since v1.20
	Flake               string // flake.nix

	// StorageClasses are storage-class-*.yaml, which carried the models' root
	// hashes as annotations from v1.21 to v1.37.
	StorageClasses []string
	// Hashes are hashes-*.json, which calculate-image-digests.sh leaves behind.
	Hashes []string
	// Manifests are the results of generate-manifest.sh: manifest.json, and
	// coordinator-policy.hash up to v1.12.
	Manifests []string

	// Notes are oddities, such as a missing file of a later tag.
	Notes Problems
}

// ErrNotCheckout says that a folder is no checkout of privatemode-public.
var ErrNotCheckout = errors.New("not a checkout of privatemode-public")

// Checkout recognizes a checkout of edgelesssys/privatemode-public: a version.nix with
// a version, beside scripts/calculate-image-digests.sh. Everything else is
// reported as found.
func Checkout(fsys fs.FS) (*CheckoutInfo, error) {
	const maxSmall = 64 << 10
	nix, err := readFile(fsys, "version.nix", maxSmall)
	if err != nil {
		return nil, fmt.Errorf("%w: version.nix: %w", ErrNotCheckout, err)
	}
	c := &CheckoutInfo{}
	if c.Version, err = nixVersion(nix); err != nil {
		return nil, fmt.Errorf("%w: version.nix: %w", ErrNotCheckout, err)
	}
	found := func(name string) string {
		if info, err := fs.Stat(fsys, name); err == nil && info.Mode().IsRegular() {
			return name
		}
		return ""
	}
	if c.CalculateDigests = found("scripts/calculate-image-digests.sh"); c.CalculateDigests == "" {
		return nil, fmt.Errorf("%w: no scripts/calculate-image-digests.sh", ErrNotCheckout)
	}
	c.Deployment, c.Models, c.Flake = found("deployment.yaml"), found("models.yaml"), found("flake.nix")
	c.GenerateManifest, c.AdjustManifest = found("scripts/generate-manifest.sh"), found("scripts/adjust-manifest.sh")
	c.Verity = found("verity/verity.sh")
	if c.ContrastVersionFile = found("contrast-version"); c.ContrastVersionFile != "" {
		data, err := readFile(fsys, c.ContrastVersionFile, maxSmall)
		text := strings.TrimSpace(string(data))
		switch {
		case err != nil:
			return nil, fmt.Errorf("read contrast-version: %w", err)
		case !versionPattern().MatchString(text):
			c.Notes.add(Problem{File: c.ContrastVersionFile, Line: 1, Msg: fmt.Sprintf("%q is not a version", clip(text))})
		default:
			c.ContrastVersion = text
		}
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read checkout: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if found(name) == "" {
			continue
		}
		switch {
		case matches("hashes-*.json", name):
			c.Hashes = append(c.Hashes, name)
		case matches("storage-class-*.yaml", name):
			c.StorageClasses = append(c.StorageClasses, name)
		case name == "manifest.json" || name == "coordinator-policy.hash":
			c.Manifests = append(c.Manifests, name)
		}
	}
	c.expect()
	return c, nil
}

// expect notes what a tag should have and this folder has not.
func (c *CheckoutInfo) expect() {
	for _, e := range []struct{ since, path, found string }{
		{"v1.10.0", "deployment.yaml", c.Deployment},
		{"v1.10.0", "contrast-version", c.ContrastVersionFile},
		{"v1.10.0", "scripts/generate-manifest.sh", c.GenerateManifest},
		{"v1.10.0", "scripts/adjust-manifest.sh", c.AdjustManifest},
		{"v1.20.0", "verity/verity.sh", c.Verity},
		{"v1.38.0", "models.yaml", c.Models},
	} {
		if e.found == "" && !versionLess(c.Version, e.since) {
			c.Notes.add(Problem{File: e.path, Msg: fmt.Sprintf("missing, though every release since %s has it and this is %s", e.since, c.Version)})
		}
	}
}

func matches(pattern, name string) bool {
	ok, _ := path.Match(pattern, name)
	return ok
}

func versionPattern() *regexp.Regexp {
	return regexp.MustCompile(`^v[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(-[0-9A-Za-z.-]{1,60})?$`)
}

// nixVersion reads `{ version = "v1.40.0"; }` in any layout.
func nixVersion(data []byte) (string, error) {
	m := regexp.MustCompile(`^\s*\{\s*version\s*=\s*"([^"\\$]*)"\s*;\s*\}\s*$`).FindSubmatch(data)
	if m == nil {
		return "", fmt.Errorf(`%q is not of the form { version = "v1.2.3"; }`, clip(string(data)))
	}
	if v := string(m[1]); versionPattern().MatchString(v) {
		return v, nil
	}
	return "", fmt.Errorf("%q is not a version", clip(string(m[1])))
}

// versionLess compares the three numbers; a pre-release counts as its release.
func versionLess(a, b string) bool {
	return slices.Compare(numbers(a), numbers(b)) < 0
}

func numbers(v string) []int {
	v, _, _ = strings.Cut(strings.TrimPrefix(v, "v"), "-")
	var out []int
	for s := range strings.SplitSeq(v, ".") {
		n := 0
		fmt.Sscanf(s, "%d", &n)
		out = append(out, n)
	}
	return out
}
