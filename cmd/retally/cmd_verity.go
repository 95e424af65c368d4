package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/verity"
)

func (a *app) verityCommand() *cobra.Command {
	return group("verity", "What veritysetup does with dm-verity trees, without the kernel",
		a.verityFormatCommand(), a.verityVerifyCommand(), a.verityDumpCommand())
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

func (f *verityFlags) params() (verity.Params, error) {
	p := verity.Params{
		HashType: f.hashType, DataBlockSize: f.dataBlock, HashBlockSize: f.hashBlock, DataBlocks: f.dataBlocks,
		HashOffset: f.hashOffset, NoSuperblock: f.noSuperblock,
	}
	err := disks.Words(&p, f.hash, f.salt, f.uuid)
	return p, plain(err)
}

// counted runs work with progress shown.
func (a *app) counted(stage string, work func(*verity.Progress) error) error {
	count := new(verity.Progress)
	defer a.follow(stage, func() int64 { d, _ := count.Read(); return d }, func() int64 { _, t := count.Read(); return t })()
	return work(count)
}

func (a *app) verityFormatCommand() *cobra.Command {
	var (
		f      verityFlags
		files  outputs
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
			files.protect(args...)
			if err := files.check(f.rootHashFile, outfile.KindOf("root hash")); err != nil {
				return err
			}
			var res verity.Result
			fec := verity.FEC{Path: f.fecDevice, Offset: fecOff, Roots: f.fecRoots}
			err = a.counted("verity format", func(count *verity.Progress) error {
				res, err = verity.FormatFiles(cmd.Context(), args[0], hash, p, fec, verity.Options{Progress: count})
				return err
			})
			if err != nil && !slices.ContainsFunc(append(args, f.fecDevice), func(name string) bool { return name != "" && strings.Contains(err.Error(), name) }) && cmd.Context().Err() == nil {
				return &userError{op: "verity format", path: args[0], err: err}
			}
			if err != nil {
				return err
			}
			if err := a.write(&files, f.rootHashFile, outfile.KindOf("root hash"), []byte(res.Root.Hex())); err != nil {
				return err
			}
			return a.result(output, res, func(w io.Writer) {
				show.Columns(w, res.Text(verity.TextOptions{Device: device, HashName: f.hash, UUIDText: f.uuid, FEC: fec}))
			})
		},
	}
	f.flags(cmd)
	files.flags(cmd)
	cmd.Flags().StringVar(&f.rootHashFile, "root-hash-file", "", "also write the root hash to this file")
	cmd.Flags().StringVar(&f.fecDevice, "fec-device", "", "also write error correction data to this file")
	cmd.Flags().Int64Var(&fecOff, "fec-offset", 0, "byte position in the error correction file")
	cmd.Flags().IntVar(&f.fecRoots, "fec-roots", verity.DefaultFECRoots, "parity bytes per codeword, 2 to 24")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) verityVerifyCommand() *cobra.Command {
	var (
		f     verityFlags
		flags comparison
		limit int
	)
	cmd := &cobra.Command{
		Use:   "verify DATA HASH [ROOT]",
		Short: "Check DATA against the tree in HASH and a root hash; no file is changed",
		Args:  cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 3) == (f.rootHashFile != "") {
				return &userError{op: "verity verify", msg: "want a root hash, or --root-hash-file FILE", hint: "usage: " + cmd.UseLine()}
			}
			inputs := args[:2:2]
			if f.rootHashFile != "" {
				inputs = append(inputs, f.rootHashFile)
			}
			targets, err := flags.targets(inputs...)
			if err != nil {
				return err
			}
			var root string
			if len(args) == 3 {
				root = args[2]
			} else if root, err = a.readRootHash(f.rootHashFile); err != nil {
				return err
			}
			p, err := f.params()
			if err != nil {
				return err
			}
			var verdict verity.Verdict
			err = a.counted("verity verify", func(count *verity.Progress) error {
				verdict, err = verity.VerifyFiles(cmd.Context(), args[0], args[1], root, p, verity.VerifyOptions{Options: verity.Options{Progress: count}, Limit: limit})
				return err
			})
			if err != nil {
				return err
			}
			v, out := disks.Verify(args[0], root, verdict, f.dataBlocks != 0 && f.noSuperblock)
			return a.judged(&flags, targets, args[0]+" against the tree in "+args[1], out, view{json: v, text: v.Text})
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.rootHashFile, "root-hash-file", "", "read the root hash from this file in place of ROOT, - for stdin")
	cmd.Flags().IntVar(&limit, "limit", 10, "how many mismatches of the first bad level are shown")
	flags.flags(cmd)
	return cmd
}

// readRootHash reads what "format --root-hash-file" writes: the hex digits of a
// root hash, and at most a line end.
func (a *app) readRootHash(file string) (string, error) {
	data, err := a.readInput("read root hash", file, 4096)
	if err != nil {
		return "", err
	}
	root := strings.TrimRight(string(data), "\r\n")
	if _, err := hex.DecodeString(root); err != nil || root == "" {
		return "", &userError{op: "read root hash", path: file, msg: fmt.Sprintf("is %q, want the hex digits of one root hash and nothing else", show.Clip(root, 80))}
	}
	return root, nil
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
			return a.result(output, res, func(w io.Writer) { show.Columns(w, res.Text(verity.TextOptions{Device: args[0]})) })
		},
	}
	cmd.Flags().Int64Var(&offset, "hash-offset", 0, "byte position of the superblock in HASH")
	outputFlag(cmd, &output)
	return cmd
}
