// Package igvm reads files of the Independent Guest Virtual Machine format,
// which hold all that a guest starts with as a list of directives, and
// computes from them the launch digest of SEV-SNP and the MRTD of TDX.
//
// The file is foreign data: every length and offset is bounded by the file, a
// header of unknown type, size or flags is a fault, and nothing of the guest's
// memory is held.
//
//	f, err := igvm.Parse("guest.igvm", r, size)
//	for h := range f.Headers() { fmt.Println(f.Describe(h)) }
//	m, err := f.Measure(ctx, igvm.SNP)
//
// Sources: the definitions of the crate igvm_defs (microsoft/igvm) for the
// format; the crate igvm 0.5.0 for which directives are measured and how.
package igvm
