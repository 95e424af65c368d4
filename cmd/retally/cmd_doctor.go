package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/helpers"
	"github.com/retally/retally/internal/show"
)

func (a *app) doctorCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show which helper programs are installed and what each is used for",
		Long:  "Show versions of helper programs. None is needed: they make or fetch inputs, retally recounts them by itself.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			states := helpers.Probe(cmd.Context(), a.namedQEMUs())
			dir, err := a.cacheDir()
			if err != nil {
				dir = "none: " + err.Error()
			}
			return a.result(output, doctorView{states, dir}, func(w io.Writer) {
				helpers.Text(w, states)
				fmt.Fprintf(w, "\ncache: %s\n", show.Text(dir))
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
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
			platform := runtime.GOOS + "/" + runtime.GOARCH
			return a.result(output, versionView{version, runtime.Version(), platform, revision}, func(w io.Writer) {
				fmt.Fprintln(w, versionLine())
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// doctorView is the result of doctor.
type doctorView struct {
	Tools []helpers.State `json:"tools"`
	Cache string          `json:"cache"` // its folder
}

// versionView is the result of version.
type versionView struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Revision string `json:"revision"`
}

// versionLine is what version and --version print.
func versionLine() string {
	return fmt.Sprintf("retally %s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
