package fleet

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/tdxmeasure"
)

// shapeRows reads a list of shapes with RTMR0, which is computed again from the
// number of vCPUs, the memory and the ACPI tables. The events are those of
// SecretVM's machines: both boot OVMF with a kernel that QEMU hands over.
func (r *reader) shapeRows(ctx context.Context, v *jsondoc.Value) (*List, error) {
	rows := v.Get("rows")
	if err := r.known(v, "", "note", "rows"); err != nil {
		return nil, err
	}
	if rows.Kind != jsondoc.Array || len(rows.Elems) > maxRows {
		return nil, r.fault("/rows", "no list, or a longer one", fmt.Sprintf("a list of at most %d", maxRows))
	}
	profile, err := tdxmeasure.LoadProfile(secretVM)
	if err != nil {
		return nil, err
	}
	l := &List{File: r.file, Kind: "shapes of Tinfoil's machines"}
	for i, e := range rows.Elems {
		row, err := r.shapeRow(ctx, profile, e, fmt.Sprintf("/rows/%d", i))
		if err != nil {
			return nil, err
		}
		l.Rows = append(l.Rows, row)
	}
	return l, nil
}

func (r *reader) shapeRow(ctx context.Context, profile tdxmeasure.Profile, e *jsondoc.Value, at string) (*Row, error) {
	if err := r.known(e, at, "rtmr0_computed", "cpus", "memory_mib", "platforms", "acpi_tables_sha256", "rsdp_sha256", "table_loader_sha256", "BootOrder_sha256", "Boot0000_sha256", "met_by"); err != nil {
		return nil, err
	}
	cpus, ok := e.Get("cpus").Uint64()
	mib, ok2 := e.Get("memory_mib").Uint64()
	if !ok || !ok2 || cpus < 1 || cpus > 4096 || mib < 1 || mib > tdxmeasure.MaxMemory>>20 {
		return nil, r.fault(at, "no size of a machine", "cpus and memory_mib")
	}
	sums := map[string]digest.Digest{}
	for key, a := range map[string]digest.Algorithm{"rtmr0_computed": digest.SHA384, "acpi_tables_sha256": digest.SHA256, "rsdp_sha256": digest.SHA256, "table_loader_sha256": digest.SHA256, "BootOrder_sha256": digest.SHA256, "Boot0000_sha256": digest.SHA256} {
		d, err := r.sum(e, at, key, a)
		if err != nil {
			return nil, err
		}
		sums[key] = d
	}
	if sums["rtmr0_computed"].IsZero() || sums["acpi_tables_sha256"].IsZero() {
		return nil, r.fault(at, "a row without RTMR0 or without ACPI tables", "rtmr0_computed and acpi_tables_sha256")
	}
	row := &Row{Name: shapeName(e, cpus, mib), Line: 0}
	tables := r.pool.byDigest("acpi-tables", "ACPI tables", sums["acpi_tables_sha256"])
	rtmr0 := &Value{Name: "rtmr0", Want: sums["rtmr0_computed"], Needs: tables.Needs}
	rsdp := &Value{Name: "acpi-rsdp", Want: sums["rsdp_sha256"], Needs: tables.Needs}
	loader := &Value{Name: "acpi-loader", Want: sums["table_loader_sha256"], Needs: tables.Needs}
	row.Values = []*Value{tables, rsdp, loader, rtmr0}
	blob := r.pool.files[tables.Want].data
	if blob == nil {
		return row, nil
	}
	source, err := tdxmeasure.NewFileSource(tables.From[0], blob)
	if err != nil {
		return nil, err
	}
	for _, x := range []struct {
		v    *Value
		data []byte
	}{{rsdp, source.Blobs.RSDP}, {loader, source.Blobs.Loader}} {
		x.v.Got, x.v.Basis, x.v.From, x.v.Note = digest.SHA256.Sum(x.data), pipeline.Recomputed, tables.From, "follows from the ACPI tables"
	}
	trace, err := tdxmeasure.ShapeRTMR0(ctx, &tdxmeasure.Config{Profile: profile, VCPUs: int(cpus), Memory: mib << 20, ACPI: source})
	if err != nil {
		return nil, err
	}
	got, err := trace.Compute()
	if err != nil {
		return nil, err
	}
	if got != rtmr0.Want {
		// Its layout or its variables are others.
		rtmr0.Needs = []string{"firmware of the shape " + row.Name}
		if sums["BootOrder_sha256"].IsZero() || sums["Boot0000_sha256"].IsZero() {
			rtmr0.Needs = []string{"boot variables of the shape " + row.Name}
		}
		return row, nil
	}
	rtmr0.Got, rtmr0.Basis, rtmr0.From = got, pipeline.Recomputed, tables.From
	rtmr0.Note = fmt.Sprintf("%d vCPUs, %d MiB, these tables; that it is equal shows that the firmware has the usual layout and an empty variable store", cpus, mib)
	return row, nil
}

// shapeName names a row by its first platform.
func shapeName(e *jsondoc.Value, cpus, mib uint64) string {
	name := ""
	if p := e.Get("platforms"); p != nil && p.Kind == jsondoc.Array && len(p.Elems) > 0 {
		if first := p.Elems[0].Get("platform"); first != nil {
			name = first.Text
		}
	}
	return cmp.Or(name, fmt.Sprintf("%d vCPUs %d MiB", cpus, mib))
}

// namedShapes reads shapes by name (platform.json of measure-image-action); the
// digest of the ACPI tables may be published with each.
func (r *reader) namedShapes(v *jsondoc.Value) (*List, error) {
	l := &List{File: r.file, Kind: "shapes of Tinfoil's machines"}
	for _, m := range v.Members {
		at := "/" + jsondoc.EscapePointer(m.Key)
		if err := r.known(m.Value, at, "acpi_memory", "acpi_sha256", "cpus", "disks", "memory", "pci_hole64_end", "pci_hole64_size", "pci_hole64_start", "profile", "qemu_source"); err != nil {
			return nil, err
		}
		if m.Value.Get("cpus") == nil || m.Value.Get("memory") == nil {
			return nil, r.fault(at, "no size of a machine", "cpus and memory")
		}
		sum, err := r.sum(m.Value, at, "acpi_sha256", digest.SHA256)
		if err != nil {
			return nil, err
		}
		row := &Row{Name: m.Key}
		if sum.IsZero() {
			row.Needs = []string{"ACPI tables of the shape " + m.Key, "published RTMR0 of the shape " + m.Key}
		} else {
			row.Values = []*Value{r.pool.byDigest("acpi-tables", "ACPI tables", sum)}
		}
		l.Rows = append(l.Rows, row)
	}
	return l, nil
}

// machines reads which machine is of which platform: ids of processors.
func (r *reader) machines(v *jsondoc.Value) (*List, error) {
	l := &List{File: r.file, Kind: "Tinfoil's machines by the id of their processor"}
	for _, m := range v.Members {
		id, err := hex.DecodeString(m.Key)
		if err != nil || len(id) != 16 && len(id) != 64 {
			return nil, r.fault("/"+jsondoc.EscapePointer(m.Key), "no id of a processor", "32 hex digits (TDX) or 128 (SNP)")
		}
		kind := "quote"
		if len(id) == 64 {
			kind = "report"
		}
		l.Rows = append(l.Rows, &Row{Name: m.Key[:16] + " " + m.Value.Text, Needs: []string{"measurements of the platform " + m.Value.Text, kind + " of the machine " + m.Key[:16]}})
	}
	return l, nil
}

// signed reads the measurements of one release for both processors (predicate
// snp-tdx-multiplatform/v1).
func (r *reader) signed(v *jsondoc.Value) (*List, error) {
	if err := r.known(v, "", "snp_measurement", "tdx_measurement", "cmdline", "hashes", "config"); err != nil {
		return nil, err
	}
	row := &Row{Name: "release", Line: 1}
	if h := v.Get("hashes"); h != nil {
		if version := h.Get("version"); version != nil {
			row.Name = version.Text
		}
		if err := r.files(row, h, "/hashes"); err != nil {
			return nil, err
		}
	}
	launch, err := r.sum(v, "", "snp_measurement", digest.SHA384)
	if err != nil {
		return nil, err
	}
	if !launch.IsZero() {
		row.Values = append(row.Values, &Value{Name: "launch", Want: launch, Needs: []string{"SEV firmware of release " + row.Name, "number and type of vCPUs of release " + row.Name}})
	}
	if t := v.Get("tdx_measurement"); !t.IsNull() {
		if err := r.known(t, "/tdx_measurement", "mrtd", "rtmr0", "rtmr1", "rtmr2"); err != nil {
			return nil, err
		}
		needs := map[string][]string{"rtmr0": {"shape of the machine"}, "rtmr1": {"kernel of release " + row.Name}, "rtmr2": {"initrd of release " + row.Name}}
		if err := r.registers(row, t, "/tdx_measurement", needs); err != nil {
			return nil, err
		}
	}
	return &List{File: r.file, Kind: "measurements of a release of Tinfoil's", Rows: []*Row{row}}, nil
}

// igvm reads the manifest of a release whose guests start from IGVM files.
func (r *reader) igvm(v *jsondoc.Value) (*List, error) {
	row := &Row{Name: "release", Line: 1}
	if version := v.Get("version"); version != nil && version.Kind == jsondoc.String {
		row.Name = version.Text
	}
	if err := r.files(row, v, ""); err != nil {
		return nil, err
	}
	g := v.Get("igvm")
	for _, tee := range []string{"snp", "tdx"} {
		d, err := r.sum(g, "/igvm", tee, digest.SHA256)
		if err != nil {
			return nil, err
		}
		if !d.IsZero() {
			row.Values = append(row.Values, r.pool.byDigest("igvm-"+tee, "IGVM file", d))
		}
	}
	if s := g.Get("snp_launch"); !s.IsNull() {
		d, err := r.sum(s, "/igvm/snp_launch", "measurement", digest.SHA384)
		if err != nil {
			return nil, err
		}
		row.Values = append(row.Values, &Value{Name: "launch", Want: d, Needs: []string{"IGVM file of release " + row.Name + " for SNP"}})
	}
	if t := g.Get("tdx_launch"); !t.IsNull() {
		if err := r.registers(row, t, "/igvm/tdx_launch", nil); err != nil {
			return nil, err
		}
	}
	return &List{File: r.file, Kind: "a release of Tinfoil's with IGVM files", Rows: []*Row{row}}, nil
}

// files adds the digests of a release's files.
func (r *reader) files(row *Row, v *jsondoc.Value, at string) error {
	for _, name := range []string{"kernel", "initrd", "raw", "cvm_compiler"} {
		d, err := r.sum(v, at, name, digest.SHA256)
		if err != nil {
			return err
		}
		if !d.IsZero() {
			row.Values = append(row.Values, r.pool.byDigest(name, strings.ReplaceAll(name, "raw", "disk image"), d))
		}
	}
	root, err := r.sum(v, at, "root", digest.SHA256)
	if err != nil || root.IsZero() {
		return err
	}
	row.Values = append(row.Values, &Value{Name: "root", Want: root, Needs: []string{"root file system with the root hash " + root.Hex()}})
	return nil
}

// registers adds a release's TDX registers. One of zeros is no value: nothing is
// measured into it.
func (r *reader) registers(row *Row, t *jsondoc.Value, at string, needs map[string][]string) error {
	for i, name := range tdxmeasure.RegisterNames() {
		d, err := r.sum(t, at, name, digest.SHA384)
		if err != nil {
			return err
		}
		switch {
		case d.IsZero() || i > 0 && tdxmeasure.ZeroRegister(i, d) != "":
		case name == "mrtd":
			row.Values = append(row.Values, r.pool.mrtd(name, d))
		default:
			need := needs[name]
			if need == nil {
				need = []string{"what " + row.Name + " measures into " + strings.ToUpper(name)}
			}
			row.Values = append(row.Values, &Value{Name: name, Want: d, Needs: need})
		}
	}
	return nil
}
