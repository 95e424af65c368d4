// Package snpmeasure computes the launch digests of AMD SEV, SEV-ES and
// SEV-SNP guests from their artifacts: the firmware image, kernel, initrd and
// command line, and the machine's shape, which is the number and type of its
// virtual CPUs, the features that the host gives it, and the VMM that starts it.
//
// A digest is the fold of a trace.Trace with an event for each range of pages
// (trace.GCTX for SEV-SNP, trace.Running for the SHA-256 of SEV and SEV-ES), so
// that two values that differ can be compared range by range. Nothing here
// compares with published values.
//
// A Measurer holds the artifacts of one or many machines and hashes each of
// them once:
//
//	m := snpmeasure.New(snpmeasure.Artifacts{Firmware: fw, Kernel: kernel, Initrd: initrd})
//	cpu, err := snpmeasure.CPUOfType("EPYC-Milan")
//	r, err := m.Measure(ctx, snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, VCPUs: 4, CPU: cpu, Features: 1, Cmdline: "console=ttyS0"})
//
// Where two programs that others rely on give different digests for the same
// machine, the choice is a named Quirk: the default is that of
// sev-snp-measure, another must be asked for, and either stands in the result.
//
// The package also makes and reads the ID block and the ID authentication
// information that a host hands to the secure processor.
//
// Sources: AMD SEV-SNP Firmware ABI specification (56860); AMD64 Architecture
// Programmer's Manual volume 2, appendix B, VMSA; QEMU target/i386/sev.c for
// the table of hashes; edk2 OvmfPkg/ResetVector for the firmware's tables.
package snpmeasure
