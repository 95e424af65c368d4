package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/inspect"
)

func (a *app) inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Look inside the files that registers and launch digests are measured from",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.inspectKernelCommand(), a.inspectInitrdCommand(), a.inspectACPICommand(), a.inspectFirmwareCommand(), a.inspectIGVMCommand(), a.inspectUKICommand(), a.inspectDiskCommand())
	return cmd
}

func (a *app) inspectKernelCommand() *cobra.Command {
	var output, memory, initrd string
	cmd := &cobra.Command{
		Use:   "kernel FILE",
		Short: "Setup header of a bzImage next to the bytes that QEMU changes, and its Authenticode digests",
		Long: `Show the setup header of a kernel. QEMU before 10.2 writes into it before the
firmware measures it; what it writes depends on memory size and initrd.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			const op = "inspect kernel"
			mem, err := tdxmeasure.ParseMemory(memory)
			if err != nil {
				return tdxTrouble(op, err)
			}
			in := &inputs{app: a, op: op}
			defer in.close()
			kernel, err := in.artifact("kernel", args[0])
			if err != nil {
				return err
			}
			ramdisk, err := in.artifact("initrd", initrd)
			if err != nil {
				return err
			}
			k, err := inspect.ReadKernel(cmd.Context(), kernel, ramdisk.Size, mem)
			if err != nil {
				return tdxTrouble(op, err)
			}
			if output == "json" {
				return writeJSON(a.stdout, k)
			}
			a.printKernel(k)
			return nil
		},
	}
	cmd.Flags().StringVar(&memory, "memory", "2G", "memory size of the machine, with the unit M or G")
	cmd.Flags().StringVar(&initrd, "initrd", "", "initrd file; its size counts (default: none)")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) printKernel(k *inspect.Kernel) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	line("protocol      %s", k.Protocol)
	if k.Version != "" {
		line("version       %s", k.Version)
	}
	line("offset  field               in the file   as QEMU before 10.2 writes it")
	for _, f := range k.Fields {
		value, written := f.Value, f.QEMU
		if value == "" {
			value = "-"
		}
		if written != "" && written == f.Value {
			written += "  (the same)"
		}
		text := fmt.Sprintf("%#05x   %-18s  %-12s  %s", f.Offset, f.Name, value, written)
		for len(text) > 0 && text[len(text)-1] == ' ' {
			text = text[:len(text)-1]
		}
		line("%s", text)
	}
	signed := "unsigned"
	if k.Certificates > 0 {
		signed = fmt.Sprintf("signed, %d bytes of certificates", k.Certificates)
	}
	line("Authenticode  %s", signed)
	line("  as it is    %s", k.Raw.Hex())
	line("  as changed  %s", k.Patched.Hex())
}

func (a *app) inspectInitrdCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "initrd FILE",
		Short: "Archives and files of an initrd, with digests",
		Long: `List the archives of an initrd in the order in which the kernel unpacks them, and
their files. What is compressed with something else than gzip is named and not
opened.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			const op = "inspect initrd"
			in := &inputs{app: a, op: op}
			defer in.close()
			file, err := in.artifact("initrd", args[0])
			if err != nil {
				return err
			}
			var segments []inspect.Segment
			err = in.counted(func() error {
				segments, err = inspect.ReadInitrd(cmd.Context(), file)
				return err
			})
			if err != nil {
				return tdxTrouble(op, err)
			}
			if output == "json" {
				if segments == nil {
					segments = []inspect.Segment{}
				}
				return writeJSON(a.stdout, segments)
			}
			for _, s := range segments {
				fmt.Fprintf(a.stdout, "archive at %#x, compression %s, %s\n", s.Offset, s.Compression, show.Plural(len(s.Files), "file", "files"))
				for _, f := range s.Files {
					sum := "-"
					if !f.SHA256.IsZero() {
						sum = f.SHA256.Hex()
					}
					fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("  %06o %d:%d %10d  %-64s  %s", f.Mode, f.UID, f.GID, f.Size, sum, f.Name)))
				}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) inspectACPICommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "acpi FILE [FILE2]",
		Short: "Tables of an ACPI blob with digests; with two blobs, in which tables they differ and why",
		Long: `Split a blob of ACPI tables, as fw_cfg has it in etc/acpi/tables (binary or hex
text), and show the digests of the three measured files that follow from it.
With a second blob the two are compared; exit code 1 says that they differ.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			const op = "inspect acpi"
			var tables []*inspect.Tables
			for _, name := range args {
				data, err := a.readInput(op, name, tdxSmallFile)
				if err != nil {
					return err
				}
				t, err := inspect.ReadTables(data)
				if err != nil {
					return &userError{op: op, path: name, err: err}
				}
				tables = append(tables, t)
			}
			if len(tables) == 1 {
				if output == "json" {
					return writeJSON(a.stdout, tables[0])
				}
				a.printTables(tables[0])
				return nil
			}
			diff := inspect.Diff(tables[0], tables[1])
			if output == "json" {
				if diff == nil {
					diff = []inspect.Difference{}
				}
				if err := writeJSON(a.stdout, map[string]any{"a": tables[0], "b": tables[1], "differences": diff}); err != nil {
					return err
				}
			} else {
				a.printTableDiff(diff)
			}
			if len(diff) > 0 || tables[0].Blob != tables[1].Blob {
				return outcomeError{exitDiffers}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) printTables(t *inspect.Tables) {
	for _, e := range t.Tables {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("%-4s  offset %6d  length %6d  %s", e.Signature, e.Offset, e.Length, e.SHA384.Hex())))
	}
	fmt.Fprintf(a.stdout, "measured, SHA-384\n  table-loader  %s\n  rsdp          %s\n  tables        %s\n", t.Loader.Hex(), t.RSDP.Hex(), t.Blob.Hex())
}

func (a *app) printTableDiff(diff []inspect.Difference) {
	if len(diff) == 0 {
		fmt.Fprintln(a.stdout, "all tables are equal")
	}
	for _, d := range diff {
		text := fmt.Sprintf("%-4s  differs from byte %d on; %d and %d bytes", d.Signature, d.Offset, d.Lengths[0], d.Lengths[1])
		if d.Offset < 0 {
			text = fmt.Sprintf("%-4s  only in one; %d and %d bytes", d.Signature, d.Lengths[0], d.Lengths[1])
		}
		if d.Note != "" {
			text += ": " + d.Note
		}
		fmt.Fprintln(a.stdout, show.Text(text))
	}
}
