package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
)

func (a *app) cacheCommand() *cobra.Command {
	var output string
	usage := &cobra.Command{
		Use:   "cache",
		Short: "Show where results of earlier runs are kept, and how much that is",
		Long: `Results of stages are kept and used again while the inputs they read have the
same device, inode, size and times. The folder is RETALLY_CACHE, or retally's
among the user's caches. Two runs may use it at once.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := a.openCache()
			if err != nil {
				return err
			}
			n, bytes, err := s.Usage()
			if err != nil {
				return err
			}
			return a.result(output, cacheUsage{s.Dir(), n, bytes, s.Limit()}, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s, %s of at most %s\n", s.Dir(), show.Plural(n, "result", "results"), size(bytes), size(s.Limit()))
			})
		},
	}
	outputFlag(usage, &output)
	var cleanOutput string
	clean := &cobra.Command{
		Use:   "clean",
		Short: "Remove every kept result",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := a.openCache()
			if err != nil {
				return err
			}
			n, bytes, err := s.Clean()
			if err != nil {
				return err
			}
			return a.result(cleanOutput, cacheCleaned{s.Dir(), n, bytes}, func(w io.Writer) {
				fmt.Fprintf(w, "removed %s, %s\n", show.Plural(n, "result", "results"), size(bytes))
			})
		},
	}
	outputFlag(clean, &cleanOutput)
	usage.AddCommand(clean)
	return usage
}

// cacheUsage is the result of cache.
type cacheUsage struct {
	Dir     string `json:"dir"`
	Entries int    `json:"entries"`
	Bytes   int64  `json:"bytes"`
	Limit   int64  `json:"limit"`
}

// cacheCleaned is the result of cache clean.
type cacheCleaned struct {
	Dir     string `json:"dir"`
	Removed int    `json:"removed"`
	Bytes   int64  `json:"bytes"`
}
