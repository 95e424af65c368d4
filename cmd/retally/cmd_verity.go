package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/atomicfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
)

func (a *app) verityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verity",
		Short: "What veritysetup does with dm-verity trees, without the kernel",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.verityFormatCommand(), a.verityVerifyCommand(), a.verityDumpCommand())
	return cmd
}

// verityFlags are veritysetup's parameters by their names.
type verityFlags struct {
	hashType                uint32
	hash, salt, uuid        string
	dataBlock, hashBlock    int
	dataBlocks              uint64
	hashOffset              int64
	noSuperblock            bool
	fecDevice, rootHashFile string
	fecRoots                int
}

func (f *verityFlags) flags(cmd *cobra.Command) {
	d := verity.Defaults()
	fl := cmd.Flags()
	fl.Uint32Var(&f.hashType, "format", d.HashType, "format of the tree: 1 normal, 0 original Chrome OS")
	fl.StringVar(&f.hash, "hash", d.Hash.String(), "hash: sha1, sha224, sha256, sha384, sha512")
	fl.IntVar(&f.dataBlock, "data-block-size", d.DataBlockSize, "bytes of a data block")
	fl.IntVar(&f.hashBlock, "hash-block-size", d.HashBlockSize, "bytes of a hash block")
	fl.Uint64Var(&f.dataBlocks, "data-blocks", 0, "number of data blocks (default: all whole blocks of DATA)")
	fl.StringVar(&f.salt, "salt", "-", "salt in hex digits, - for none")
	fl.StringVar(&f.uuid, "uuid", "", "UUID of the superblock (default: zeros)")
	fl.Int64Var(&f.hashOffset, "hash-offset", 0, "byte position of superblock or tree in HASH")
	fl.BoolVar(&f.noSuperblock, "no-superblock", false, "no superblock: the tree starts at the offset")
}

func (f *verityFlags) params() (p verity.Params, err error) {
	fail := func(flag string, err error) (verity.Params, error) {
		return p, &userError{op: "verity", msg: "--" + flag + ": " + err.Error()}
	}
	p = verity.Params{
		HashType: f.hashType, DataBlockSize: f.dataBlock, HashBlockSize: f.hashBlock, DataBlocks: f.dataBlocks,
		HashOffset: f.hashOffset, NoSuperblock: f.noSuperblock,
	}
	if p.Hash, err = verity.ParseHash(f.hash); err != nil {
		return fail("hash", err)
	}
	if p.Salt, err = verity.ParseSalt(f.salt); err != nil {
		return fail("salt", err)
	}
	if f.uuid != "" {
		if p.UUID, err = verity.ParseUUID(f.uuid); err != nil {
			return fail("uuid", err)
		}
	}
	return p, p.Validate()
}

// counted runs work with progress shown.
func (a *app) counted(stage string, work func(*verity.Progress) error) error {
	count := new(verity.Progress)
	p := run.FollowProgress(stage, func() int64 { d, _ := count.Read(); return d }, func() int64 { _, t := count.Read(); return t })
	stop := a.showProgress(p.Progress)
	defer func() {
		stop()
		p.Stop()
	}()
	return work(count)
}

func (a *app) verityFormatCommand() *cobra.Command {
	var (
		f      verityFlags
		output string
		fecOff int64
	)
	cmd := &cobra.Command{
		Use:   "format DATA [HASH]",
		Short: "Compute the hash tree of DATA; with HASH also write it there",
		Long: `Compute what "veritysetup format" does. Without HASH nothing is written. With
HASH, superblock and tree are written into that file, which may be DATA itself;
its other bytes stay as they are.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.params()
			if err != nil {
				return err
			}
			hash, device := "", args[0]
			if len(args) == 2 {
				hash, device = args[1], args[1]
			}
			var res verity.Result
			err = a.counted("verity format", func(count *verity.Progress) error {
				res, err = verity.FormatFiles(cmd.Context(), args[0], hash, p, verity.FEC{Path: f.fecDevice, Offset: fecOff, Roots: f.fecRoots}, verity.Options{Progress: count})
				return err
			})
			if err != nil {
				return err
			}
			if f.rootHashFile != "" {
				if err := atomicfile.Write(f.rootHashFile, []byte(res.Root.Hex()), 0o644); err != nil {
					return err
				}
			}
			if output == "json" {
				return writeJSON(a.stdout, res)
			}
			a.printTree(res.Text(verity.TextOptions{Device: device, HashName: f.hash, UUIDText: f.uuid, FEC: verity.FEC{Path: f.fecDevice, Offset: fecOff, Roots: f.fecRoots}}))
			return nil
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.rootHashFile, "root-hash-file", "", "also write the root hash to this file")
	cmd.Flags().StringVar(&f.fecDevice, "fec-device", "", "also write error correction data to this file")
	cmd.Flags().Int64Var(&fecOff, "fec-offset", 0, "byte position in the error correction file")
	cmd.Flags().IntVar(&f.fecRoots, "fec-roots", verity.DefaultFECRoots, "parity bytes per codeword, 2 to 24")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) printTree(text string) {
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		// veritysetup separates columns by tabs, which Text would spell out.
		parts := strings.Split(line, "\t")
		for i := range parts {
			parts[i] = show.Text(parts[i])
		}
		fmt.Fprintln(a.stdout, strings.Join(parts, "\t"))
	}
}

func (a *app) verityVerifyCommand() *cobra.Command {
	var (
		f      verityFlags
		output string
		limit  int
	)
	cmd := &cobra.Command{
		Use:   "verify DATA HASH ROOT",
		Short: "Check DATA against the tree in HASH and a root hash; no file is changed",
		Args:  cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.params()
			if err != nil {
				return err
			}
			var v verity.Verdict
			err = a.counted("verity verify", func(count *verity.Progress) error {
				v, err = verity.VerifyFiles(cmd.Context(), args[0], args[1], args[2], p, verity.VerifyOptions{Options: verity.Options{Progress: count}, Limit: limit})
				return err
			})
			if err != nil {
				return err
			}
			return a.finishVerity(args[0], v, f.dataBlocks != 0 && f.noSuperblock, output == "json")
		},
	}
	f.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 10, "how many mismatches of the first bad level are shown")
	outputFlag(cmd, &output)
	return cmd
}

// finishVerity shows a verdict. asked is set where the user named the number of
// data blocks; otherwise bytes that the tree does not cover are unchecked.
func (a *app) finishVerity(data string, v verity.Verdict, asked, asJSON bool) error {
	list := []disk.Explained{}
	var images disk.Locator
	if !v.OK() {
		// What is no EROFS image is named by its blocks alone.
		images, _ = disk.OpenLocator(data)
	}
	for _, m := range v.Mismatches {
		if images == nil {
			list = append(list, disk.Explained{Mismatch: m, Text: m.String()})
			continue
		}
		list = append(list, disk.Explain(v, m, images))
	}
	coverage := fmt.Sprintf("%d of %d bytes covered", v.Covered, v.Covered+v.Uncovered)
	if asJSON {
		if err := writeJSON(a.stdout, map[string]any{
			"ok": v.OK(), "mismatches": list, "hash_device_short": v.HashDeviceShort, "covered": v.Covered, "uncovered": v.Uncovered,
		}); err != nil {
			return err
		}
	} else {
		switch {
		case v.OK() && v.Uncovered == 0:
			fmt.Fprintln(a.stdout, "OK")
		case v.OK():
			fmt.Fprintf(a.stdout, "OK, %s; the tree says nothing of the last %d\n", coverage, v.Uncovered)
		}
		for _, e := range list {
			fmt.Fprintln(a.stdout, show.Text(e.Text))
		}
	}
	switch {
	case !v.OK():
		return outcomeError{exitDiffers}
	case v.Uncovered > 0 && !asked:
		return outcomeError{exitUnchecked}
	}
	return nil
}

func (a *app) verityDumpCommand() *cobra.Command {
	var (
		output string
		offset int64
	)
	cmd := &cobra.Command{
		Use:   "dump HASH",
		Short: "Show the superblock of a hash file",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			res, err := verity.DumpFile(args[0], offset)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(a.stdout, res)
			}
			a.printTree(res.Text(verity.TextOptions{Device: args[0]}))
			return nil
		},
	}
	cmd.Flags().Int64Var(&offset, "hash-offset", 0, "byte position of the superblock in HASH")
	outputFlag(cmd, &output)
	return cmd
}
