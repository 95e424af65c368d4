package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
)

// helper is a program that retally can work beside. None is needed for what
// retally computes itself.
type helper struct {
	name string
	args []string
	use  string
}

var helpers = []helper{
	{"nix", []string{"--version"}, "rebuilds a vendor's images and firmware from source"},
	{"git", []string{"--version"}, "fetches a vendor's repository and a model at its commit"},
	{"contrast", []string{"-v"}, "writes the manifest that manifest.base names"},
	{"docker", []string{"--version"}, "docker inspect, read by retally proxy-image"},
	{"podman", []string{"--version"}, "podman inspect, read by retally proxy-image"},
	{"skopeo", []string{"--version"}, "copies images into OCI layouts"},
	{"mkfs.erofs", []string{"--version"}, "the reference for model disks; retally computes the same bytes"},
	{"veritysetup", []string{"--version"}, "the reference for root hashes; retally computes the same"},
	{qemuProgram, []string{"--version"}, "ACPI tables for retally tdx measure --acpi-source qemu; RETALLY_QEMU names others"},
	{"yq", []string{"--version"}, "what vendors' scripts edit manifests with; retally manifest adjust does the same edits"},
}

// helpers are the programs that this user may have: RETALLY_QEMU takes the place
// of the QEMU in PATH.
func (a *app) helpers() []helper {
	var out []helper
	for _, h := range helpers {
		named := a.namedQEMUs()
		if h.name != qemuProgram || len(named) == 0 {
			out = append(out, h)
			continue
		}
		for _, program := range named {
			out = append(out, helper{program, h.args, "ACPI tables for retally tdx measure --acpi-source qemu, named by RETALLY_QEMU"})
		}
	}
	return out
}

type helperState struct {
	Name    string `json:"name"`
	Found   bool   `json:"found"`
	Version string `json:"version,omitempty"`
	Use     string `json:"use"`
	Problem string `json:"problem,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show which helper programs are installed and what each is used for",
		Long:  "Show versions of helper programs. None is needed: they make or fetch inputs, retally recounts them by itself.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var states []helperState
			for _, h := range a.helpers() {
				states = append(states, probe(cmd.Context(), h))
			}
			dir, err := a.cacheDir()
			if err != nil {
				dir = "none: " + err.Error()
			}
			if output == "json" {
				return writeJSON(a.stdout, map[string]any{"tools": states, "cache": dir})
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			for _, s := range states {
				v := "not found"
				if s.Found {
					v = s.Version
				}
				if s.Problem != "" {
					v = s.Problem
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", show.Text(s.Name), show.Clip(show.Text(v), 40), s.Use)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "\ncache: %s\n", show.Text(dir))
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+[-+~.0-9A-Za-z]*`)

// probe asks a program for its version, but not for longer than it takes.
func probe(ctx context.Context, h helper) helperState {
	s := helperState{Name: h.name, Use: h.use}
	path, err := exec.LookPath(h.name)
	if err != nil {
		return s
	}
	s.Found = true
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, h.args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	first, _, _ := strings.Cut(string(out), "\n")
	if v := versionNumber.FindString(first); v != "" {
		s.Version = v
	} else if err != nil {
		s.Problem = "found, but does not tell its version"
	} else {
		s.Version = first
	}
	return s
}

func (a *app) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of retally and what it was built with",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			revision := ""
			if bi, ok := debug.ReadBuildInfo(); ok {
				for _, s := range bi.Settings {
					if s.Key == "vcs.revision" {
						revision = s.Value
					}
				}
			}
			if output == "json" {
				return writeJSON(a.stdout, map[string]any{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "revision": revision})
			}
			fmt.Fprintf(a.stdout, "retally %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
