package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/inspect"
)

func (a *app) inspectCommand() *cobra.Command {
	return group("inspect", "Look inside the files that registers and launch digests are measured from",
		a.inspectKernelCommand(), a.inspectInitrdCommand(), a.inspectACPICommand(), a.inspectFirmwareCommand(), a.inspectIGVMCommand(), a.inspectUKICommand(), a.inspectDiskCommand())
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
			return a.result(output, k, func(w io.Writer) { tdx.KernelText(w, k) })
		},
	}
	cmd.Flags().StringVar(&memory, "memory", "2G", "memory size of the machine, with the unit M or G")
	cmd.Flags().StringVar(&initrd, "initrd", "", "initrd file; its size counts (default: none)")
	outputFlag(cmd, &output)
	return cmd
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
			return a.result(output, append([]inspect.Segment{}, segments...), func(w io.Writer) { tdx.InitrdText(w, segments) })
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) inspectACPICommand() *cobra.Command {
	var flags comparison
	cmd := &cobra.Command{
		Use:   "acpi FILE [FILE2]",
		Short: "Tables of an ACPI blob with digests; with two blobs, in which tables they differ and why",
		Long: `Split a blob of ACPI tables, as fw_cfg has it in etc/acpi/tables (binary or hex
text), and show the digests of the three measured files that follow from it.
With a second blob the two are compared; exit code 1 says that they differ.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			v := tdx.Tables{Names: args}
			for _, name := range args {
				const op = "inspect acpi"
				data, err := a.readInput(op, name, smallFile)
				if err != nil {
					return err
				}
				t, err := inspect.ReadTables(data)
				if err != nil {
					return &userError{op: op, path: name, err: err}
				}
				v.Tables = append(v.Tables, t)
			}
			return a.judged(&flags, targets, "the ACPI tables of "+strings.Join(args, " and "), v.Out(), view{json: v.JSON(), text: v.Text, computes: len(args) == 1, taken: true})
		},
	}
	flags.flags(cmd)
	return cmd
}
