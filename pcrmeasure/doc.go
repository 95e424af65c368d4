// Package pcrmeasure computes the platform configuration registers (PCRs) of a
// TPM: replayed from an event log, and predicted from the artifacts that a
// machine boots.
//
// Every PCR is the fold of a Trace of labelled events, so that two values that
// differ can be compared event by event. A PCR that cannot be predicted is
// named together with the reason; it never has a value that was guessed.
// Nothing here compares with published values.
//
// A Measurer holds the artifacts of one or many machines and hashes each of
// them once:
//
//	m := pcrmeasure.New(pcrmeasure.Artifacts{Firmware: fw, Variables: vars, Kernel: kernel, Initrd: initrd})
//	p, err := m.Predict(ctx, &pcrmeasure.Machine{
//		Bank: digest.SHA256, Type: "q35", Memory: 512 << 20, VCPUs: 1,
//		Pattern: pcrmeasure.Direct, Cmdline: "console=ttyS0",
//	})
//	p.PCRs[4].Value, p.Missing[0]
//
// Sources: TCG PC Client Platform Firmware Profile; TCG EFI Platform
// Specification; UEFI specification; QEMU, edk2, Linux, systemd, shim and GRUB
// as cited at each step. What was measured on booted machines and what follows
// from documents only is said where it matters.
package pcrmeasure
