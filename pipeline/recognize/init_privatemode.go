package recognize

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/profiles"
)

// rulesFile is where the rules of Contrast's generator are looked for.
const rulesFile = "rules.rego"

// initPolicies writes what policies are computed with. Contrast's hold its own
// rules, so that for a generated manifest a rules file must be there.
func initPolicies(b *bytes.Buffer, s *Subject, profile string) error {
	generated := s.generates(profile) || s.ownRelease() != ""
	_, err := os.Stat(s.Reader.Path(rulesFile))
	there := err == nil
	switch {
	case s.Settings == "" || s.Config.Deployment == "" || generated && !there:
		b.WriteString("# policies:\n#   settings: genpolicy-settings.json\n")
		if !generated {
			b.WriteString("#   profile: kata-4.1\n")
		}
		b.WriteString("#   rules: rules.rego\n")
	case generated:
		fmt.Fprintf(b, "policies:\n  settings: %s\n  rules: %s\n", scalar(s.Settings), rulesFile)
	default:
		fmt.Fprintf(b, "policies:\n  settings: %s\n  profile: kata-4.1\n  # rules: rules.rego\n", scalar(s.Settings))
	}
	return nil
}

// generates reports whether the manifest is generated: of a checkout that pins a
// release of Contrast, without a manifest that the vendor's script left there.
func (s *Subject) generates(profile string) bool {
	return profile == "privatemode" && s.Checkout != nil && s.Checkout.ContrastVersion != "" && s.Config.Deployment != "" && s.Config.Against == "" && s.releaseName() != ""
}

// releaseName is the release of Contrast that fits a checkout, "" where none is
// known.
func (s *Subject) releaseName() string {
	if s.Checkout == nil {
		return ""
	}
	if _, _, ok := profiles.Contrast(s.Checkout.ContrastVersion); !ok {
		return ""
	}
	return config.ProfilePrefix + "contrast@" + s.Checkout.ContrastVersion
}

// releaseWhy says why that release is taken.
func (s *Subject) releaseWhy() string {
	why := s.Checkout.ContrastVersionFile + " pins Contrast " + s.Checkout.ContrastVersion
	if remark := config.ContrastRemark(s.releaseName()); remark != "" {
		why += "; " + remark
	}
	return why
}

// ownRelease is a release file that lies beside a deployment, "" where there is
// none or several. A checkout says by itself which release it pins.
func (s *Subject) ownRelease() string {
	if found := s.kind(KindRelease); len(found) == 1 && s.Checkout == nil && s.Config.Deployment != "" {
		return found[0]
	}
	return ""
}

// release is the section of a manifest that is generated here.
func (s *Subject) release(profile string) string {
	if own := s.ownRelease(); own != "" {
		text := "\n# The manifest, generated here as the release of Contrast in this file does.\nmanifest:\n  release: " + scalar(own) + "\n"
		if plans := s.kind(KindPlan); len(plans) == 1 {
			text += "  adjust: " + scalar(plans[0]) + "\n"
		}
		return text + "  # The platform of runtime classes that name none.\n  # default_platform: metal-qemu-snp-gpu\n"
	}
	if !s.generates(profile) {
		return ""
	}
	version := s.Checkout.Version
	var b strings.Builder
	fmt.Fprintf(&b, "\n# Step 3: the manifest, generated here from the deployment as Contrast changes it.\n")
	fmt.Fprintf(&b, "# %s.\n", strings.Join(strings.Fields(show.Text(s.releaseWhy())), " "))
	b.WriteString("# What the release does not publish is a missing input, which the report names.\n")
	fmt.Fprintf(&b, "manifest:\n  release: %s\n  # The platform that scripts/generate-manifest.sh names.\n  default_platform: %s\n", scalar(s.releaseName()), privatemodePlatform)
	if taken, _, ok := profiles.PrivatemodePlan(version); ok {
		fmt.Fprintf(&b, "  # The edits of scripts/adjust-manifest.sh, as they are since %s.\n  adjust: %s\n", taken, scalar("profile:privatemode@"+version))
		if skipsImageStore(taken) {
			b.WriteString("  # The script passes --skip-image-store.\n  skip: [image-store]\n")
		}
	}
	b.WriteString("  # Launch digests, registers and hashes that somebody says, each with its source:\n  # they are copied (docs/contrast.md).\n  # values: values.yaml\n")
	return b.String()
}

// skipsImageStore reports whether the generate script of a release of Privatemode
// leaves the image store out: from v1.26 to v1.32.
func skipsImageStore(plan string) bool { return plan == "v1.26.0" }

// initMachines shows how the platforms' artifacts are given.
func initMachines(b *bytes.Buffer) {
	b.WriteString(`
# The machines that the manifest has reference values for, from the artifacts of
# the Contrast release. Without them, policies of SNP pods are not computed either.
# platforms:
#   metal-qemu-snp-gpu: {tee: snp, profile: contrast, firmware: OVMF-SNP.fd, kernel: bzImage, initrd: initrd, cmdline: LINE}
#   metal-qemu-tdx-gpu: {tee: tdx, profile: contrast-1.20, firmware: OVMF-TDX.fd, kernel: bzImage, initrd: initrd, cmdline: LINE}
`)
}
