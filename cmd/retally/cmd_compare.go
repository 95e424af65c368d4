package main

import (
	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages"
)

func (a *app) compareCommand() *cobra.Command {
	var (
		flags   comparison
		release bool
	)
	cmd := &cobra.Command{
		Use:   "compare A B",
		Short: "Compare two published files without recomputing anything",
		Long: `Compare two manifests of any version, two retally reports, two hashes files, or
two event logs: CCEL, dstack's JSON or a reply that holds it, or a TPM's. Of logs
it says which event differs.
Three results are kept apart: whether the bytes are the same, what the
differences mean, and how the values are known. B is judged from A: "loosened"
means that B accepts something that A refuses.

With --release, A and B may also be deployments or folders that hold one, and
the report says what moved between the two releases.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			var rep *pipeline.Report
			if release {
				rep, err = stages.CompareReleases(cmd.Context(), args[0], args[1], tool())
			} else {
				rep, err = a.compareFiles(args[0], args[1])
			}
			if err != nil {
				return err
			}
			return a.finish(&flags, targets, rep)
		},
	}
	flags.flags(cmd)
	cmd.Flags().BoolVar(&release, "release", false, "say what moved between two releases: deployments, folders or manifests")
	return cmd
}

func (a *app) compareFiles(nameA, nameB string) (*pipeline.Report, error) {
	if err := onlyOneStdin("compare", nameA, nameB); err != nil {
		return nil, err
	}
	var files [2]stages.File
	for i, name := range []string{nameA, nameB} {
		data, err := a.readInput("read", name, 256<<20)
		if err != nil {
			return nil, err
		}
		if name == "-" {
			name = "stdin"
		}
		files[i] = stages.File{Name: name, Data: data}
	}
	return stages.CompareFiles(files[0], files[1], tool())
}
