// Package helpers knows the programs that retally can work beside. None is
// needed for what retally computes itself.
package helpers

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/retally/retally/internal/qtest"
	"github.com/retally/retally/internal/show"
)

type helper struct {
	name string
	args []string
	use  string
}

var known = []helper{
	{"nix", []string{"--version"}, "rebuilds a vendor's images and firmware from source"},
	{"git", []string{"--version"}, "fetches a vendor's repository and a model at its commit"},
	{"contrast", []string{"-v"}, "writes the manifest that manifest.base names"},
	{"docker", []string{"--version"}, "docker inspect, read by retally proxy-image"},
	{"podman", []string{"--version"}, "podman inspect, read by retally proxy-image"},
	{"skopeo", []string{"--version"}, "copies images into OCI layouts"},
	{"mkfs.erofs", []string{"--version"}, "the reference for model disks; retally computes the same bytes"},
	{"veritysetup", []string{"--version"}, "the reference for root hashes; retally computes the same"},
	{qtest.Program, []string{"--version"}, "ACPI tables for retally tdx measure --acpi-source qemu; RETALLY_QEMU names others"},
	{"yq", []string{"--version"}, "what vendors' scripts edit manifests with; retally manifest adjust does the same edits"},
}

// State is what is known of a program.
type State struct {
	Name    string `json:"name"`
	Found   bool   `json:"found"`
	Version string `json:"version,omitempty"`
	Use     string `json:"use"`
	Problem string `json:"problem,omitempty"`
}

// Probe asks every program for its version. The QEMUs that the user named take
// the place of the one in PATH.
func Probe(ctx context.Context, qemus []string) []State {
	var out []State
	for _, h := range known {
		if h.name != qtest.Program || len(qemus) == 0 {
			out = append(out, probe(ctx, h))
			continue
		}
		for _, program := range qemus {
			out = append(out, probe(ctx, helper{program, h.args, "ACPI tables for retally tdx measure --acpi-source qemu, named by RETALLY_QEMU"}))
		}
	}
	return out
}

// Text shows the programs as a table.
func Text(w io.Writer, states []State) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range states {
		v := "not found"
		if s.Found {
			v = s.Version
		}
		if s.Problem != "" {
			v = s.Problem
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", show.Text(s.Name), show.Clip(show.Text(v), 40), s.Use)
	}
	t.Flush()
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+[-+~.0-9A-Za-z]*`)

// probe asks a program for its version, but not for longer than it takes.
func probe(ctx context.Context, h helper) State {
	s := State{Name: h.name, Use: h.use}
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
