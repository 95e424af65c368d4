package pipeline

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// InitConfig writes a commented retally.yaml for what was found.
func InitConfig(s *Subject, profile string) ([]byte, error) {
	if !slices.Contains([]string{"", "privatemode"}, profile) {
		return nil, &InputError{Op: "init", File: s.Root, Err: fmt.Errorf("unknown profile %q", profile), Hint: "known: privatemode"}
	}
	if profile == "privatemode" && s.Checkout == nil {
		return nil, &InputError{Op: "init", File: s.Root, Err: fmt.Errorf("is not a checkout of Privatemode's public repository"), Hint: "give the folder that git clone made, or leave out --profile"}
	}
	c := s.Config
	var b bytes.Buffer
	line := func(key, value, comment, example string) {
		if value == "" {
			fmt.Fprintf(&b, "\n# %s\n# %s: %s\n", comment, key, example)
			return
		}
		fmt.Fprintf(&b, "\n# %s\n%s: %s\n", comment, key, scalar(value))
	}
	b.WriteString("# What retally recounts here. `retally plan` shows what follows from it,\n# `retally run` does it. Names start from this file's folder.\nversion: 1\n")
	line("deployment", c.Deployment, "The Kubernetes YAML that pins images and disks.", "deployment.yaml")
	line("models", c.Models, "The published root hashes of the model disks.", "models.yaml")
	line("hashes", c.Hashes, "Image digests of your own rebuild (scripts/calculate-image-digests.sh).", "hashes-HOST.json")
	settings := s.Settings
	if settings == "" {
		settings = "genpolicy-settings.json"
	}
	fmt.Fprintf(&b, "\n# The runtime policies of the deployment: the settings of the generator, the\n# generator's version (retally, kata-4.1, contrast-1.20, kata-3.28) and its rules;\n# without rules, retally's own are taken. images must name every image, the pause\n# image of the settings too.\n# policies:\n#   settings: %s\n#   profile: kata-4.1\n#   rules: rules.rego\n", scalar(settings))
	version := ""
	if s.Checkout != nil {
		version = s.Checkout.Version
	}
	base, against := "", c.Against
	if s.Checkout != nil && against != "" {
		// In a checkout, manifest.json is what the vendor's script generated.
		base, against = against, ""
	}
	if base != "" {
		fmt.Fprintf(&b, "\n# The manifest as generated from the deployment. Privatemode's script edits it\n# after generation; if base is the file before these edits, say which plan to apply.\nmanifest:\n  base: %s\n", scalar(base))
		if version != "" {
			fmt.Fprintf(&b, "  # adjust: profile:privatemode@%s\n", version)
		}
	} else {
		b.WriteString("\n# How the manifest is made: base is what `contrast generate` wrote, adjust the\n# plan of the edits after it.\n# manifest:\n#   base: manifest.json\n")
		if version != "" {
			fmt.Fprintf(&b, "#   adjust: profile:privatemode@%s\n", version)
		} else {
			b.WriteString("#   adjust: adjustments.yaml\n")
		}
	}
	line("against", against, "The published manifest to compare with, for instance the one that\n# `retally proxy-log WORKSPACE` names.", "manifest.published.json")
	b.WriteString("\n# Keys that may stay unchecked or rest on copied values (globs). Each is shown in\n# the report.\n# allow_unchecked:\n#   - image/vllm-openai/manifest\n")
	if _, err := ParseConfig(ConfigFile, b.Bytes()); err != nil {
		return nil, &InputError{Op: "init", File: s.Root, Err: fmt.Errorf("nothing was found that a configuration could start from"), Hint: "give a folder with a deployment YAML, a models file, hashes or a manifest"}
	}
	return b.Bytes(), nil
}

// scalar writes a text as a YAML scalar, quoted where needed.
func scalar(s string) string {
	out, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Plan says what a configuration would measure, from which input, and what is
// missing. It reads nothing.
func Plan(c *Config) []PlanLine {
	c.fillDefaults()
	lines := []PlanLine{}
	for i := range stages {
		if stages[i].Plan != nil {
			lines = append(lines, stages[i].Plan(c)...)
		}
	}
	return lines
}

// Expanded writes the configuration with every default.
func (c *Config) Expanded() ([]byte, error) {
	c.fillDefaults()
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
