package ovmf

import (
	"io"

	"github.com/retally/retally/internal/show"
)

// Text shows a look into a firmware image.
func (l *Look) Text(w io.Writer) {
	where := "too large for a guest"
	if l.SEV.Address != "" {
		where = "at " + l.SEV.Address + " in the guest"
	}
	show.Line(w, "%d bytes, %s", l.Size, where)
	show.Line(w, "structures, from the end of the file")
	for _, e := range l.Table {
		name := e.Name
		if name == "" {
			name = "not known here"
		}
		show.Line(w, "  %s  %2d bytes at %#x  %-10s  %s", e.GUID, e.Size, e.Offset, e.Value, name)
	}
	show.Line(w, "TDX")
	if l.TDX.Missing != "" {
		show.Line(w, "  %s", l.TDX.Missing)
	}
	for _, s := range l.TDX.Sections {
		show.Line(w, "  %-12s  %#10x bytes at %-12s  MRTD: %s", s.Type, s.Size, s.Address, s.MRTD)
	}
	for _, u := range l.TDX.Unmeasured {
		show.Line(w, "  not in MRTD: %#x bytes of the file at %#x", u.Size, u.Offset)
	}
	show.Line(w, "SEV-SNP: all pages of the file are measured")
	if l.SEV.Missing != "" {
		show.Line(w, "  %s", l.SEV.Missing)
	}
	for _, s := range l.SEV.Sections {
		show.Line(w, "  %-17s  %#10x bytes at %-12s  launch digest: %s", s.Type, s.Size, s.Address, s.SNP)
	}
	if l.SEV.Fault == nil {
		show.Line(w, "  kernel: %s", l.SEV.Kernel)
		show.Line(w, "  vCPUs: %s", l.SEV.CPUs)
	}
	for _, g := range l.SEV.Repeated {
		show.Line(w, "  structure %s stands twice: sev-snp-measure takes the lower one, QEMU the higher", g)
	}
}
