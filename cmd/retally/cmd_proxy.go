package main

import (
	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/images"
	manifeststage "github.com/retally/retally/pipeline/stages/manifest"
	"github.com/retally/retally/privatemode"
)

func (a *app) proxyLogCommand() *cobra.Command {
	var (
		flags comparison
		all   bool
	)
	cmd := &cobra.Command{
		Use:   "proxy-log DIR",
		Short: "Name the manifest of the latest entry of a Privatemode proxy's log",
		Long: `Read a Privatemode proxy's workspace (or its manifests folder) and name the
manifest of the latest entry of log.txt, or of every entry with --all. Both
formats of the log are read. ` + "An entry says that the proxy fetched the\nmanifest, not that it verified it.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			w, err := privatemode.OpenWorkspace(args[0])
			if err != nil {
				return &userError{op: "read proxy workspace", path: args[0], err: err, hint: "give the folder that the proxy was started with as --workspace, or its manifests folder"}
			}
			defer w.Close()
			f := manifeststage.NewFetched(w, all)
			rep := run.NewReport(tool(), "the manifests that the proxy of "+args[0]+" fetched")
			run.Judge(rep, pipeline.Case{Allow: flags.allow}, f.Out(args[0]))
			if flags.output != "json" {
				for _, u := range w.Unlogged {
					a.talk("retally: warning: no entry of the log names %s", u)
				}
				for _, p := range f.Problems() {
					a.talk("retally: warning: %s", p)
				}
				a.talk("retally: %s", manifeststage.FetchWarning)
			}
			return a.finish(&flags, targets, rep, view{json: f.JSON(), text: f.Text})
		},
	}
	flags.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "list every entry, not only the latest")
	return cmd
}

func (a *app) proxyImageCommand() *cobra.Command {
	var (
		flags                 comparison
		inspect, hashes, name string
	)
	cmd := &cobra.Command{
		Use:   "proxy-image --inspect FILE",
		Short: "Compare the digest of a pulled proxy image with the rebuilt one",
		Long: `Read what "docker inspect IMAGE" or "podman inspect IMAGE" prints and compare
with the digest of a rebuild. An image has three digests that are easily taken
for one another: of its index (all platforms), of the manifest of one platform,
and of its configuration. What --format prints of RepoDigests or Id, the table of
"docker images --digests" and the end of "docker pull" are read, too. The rebuilt digest of the proxy is that of the index.
Of several images in FILE those count that are called as --name says, and of an
index the manifest of the platform that runs.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := onlyOneStdin("proxy-image", inspect, hashes); err != nil {
				return err
			}
			targets, err := flags.targets(inspect, hashes)
			if err != nil {
				return err
			}
			data, err := a.readInput("read", inspect, smallFile)
			if err != nil {
				return err
			}
			list, err := privatemode.ParseInspect(inspect, data)
			if err != nil {
				return &userError{op: "read docker inspect output", path: inspect, err: err, hint: "docker image inspect IMAGE > FILE"}
			}
			res := images.Pulled{Inspected: []images.Inspected{}}
			if hashes != "" {
				if res.Rebuilt, err = a.rebuiltDigest(hashes, name); err != nil {
					return err
				}
				res.Name = name
			}
			for _, img := range list {
				res.Add(img)
			}
			res.Judge()
			return a.judged(&flags, targets, "the images of "+inspect+" against the rebuilt "+name, res.Out(hashes, inspect), view{json: res, text: res.Text, taken: true, got: "rebuilt", want: "pulled"})
		},
	}
	cmd.Flags().StringVar(&inspect, "inspect", "", "output of docker inspect IMAGE, - for stdin")
	cmd.Flags().StringVar(&hashes, "hashes", "", "hashes-<host>.json of a rebuild")
	cmd.Flags().StringVar(&name, "name", "privatemode-proxy", "name of the image in the hashes file")
	_ = cmd.MarkFlagRequired("inspect")
	flags.flags(cmd)
	return cmd
}

// rebuiltDigest reads a rebuild's list of digests.
func (a *app) rebuiltDigest(file, name string) (digest.Digest, error) {
	data, err := a.readInput("read", file, smallFile)
	if err != nil {
		return digest.Digest{}, err
	}
	list, err := privatemode.ParseHashes(file, data)
	if err != nil {
		return digest.Digest{}, err
	}
	d, err := images.Rebuilt(list, file, name)
	return d, plain(err)
}
