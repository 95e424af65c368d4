package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// secretVM are the machines of SecretVM, whose profiles have its sizes.
const secretVM = "secretvm"

// registry reads SecretVM's tdx.csv. RTMR0 follows from a row's size and the
// firmware's constants; the other registers take the release's files.
func (r *reader) registry(ctx context.Context) (*List, error) {
	reg, err := run.Parsed(ctx, r.in, r.file, ListLimit, evidence.ParseRegistry)
	if err != nil {
		return nil, err
	}
	shapes, err := newShapes(ctx)
	if err != nil {
		return nil, err
	}
	l := &List{File: r.file, Kind: "SecretVM's registers of TDX machines"}
	for _, row := range reg.Rows {
		version := row.VMType + " " + row.Version
		l.Rows = append(l.Rows, &Row{Name: row.Name(), Line: row.Line, Values: []*Value{
			r.pool.mrtd("mrtd", row.MRTD), shapes.rtmr0(row),
			{Name: "rtmr1", Want: row.RTMR[1], Needs: []string{"kernel of release " + version}},
			{Name: "rtmr2", Want: row.RTMR[2], Needs: []string{"command line of release " + version, "initrd of release " + version}},
			r.pool.byDigest("rootfs", "root file system", row.Rootfs),
		}})
	}
	return l, nil
}

// shapes computes RTMR0 of the vendor's sizes on its hosts, each once.
type shapes struct {
	bySize map[string]map[digest.Digest]string
}

func newShapes(ctx context.Context) (*shapes, error) {
	source, err := tdxmeasure.NewTemplateSource()
	if err != nil {
		return nil, err
	}
	base, err := tdxmeasure.LoadProfile(secretVM)
	if err != nil {
		return nil, err
	}
	s := &shapes{bySize: map[string]map[digest.Digest]string{}}
	for name, size := range base.Sizes {
		s.bySize[name] = map[digest.Digest]string{}
		for _, host := range base.Hosts {
			p, err := tdxmeasure.LoadProfile(secretVM)
			if err != nil {
				return nil, err
			}
			if err := p.SetQEMU(host); err != nil {
				return nil, err
			}
			devices := p.SecretVMDevices(size.GPU)
			other := devices
			other.NoCOM1 = !devices.NoCOM1
			for _, d := range []acpi.Shape{devices, other} {
				c := &tdxmeasure.Config{Profile: p, VCPUs: size.VCPUs, Memory: size.Memory, Devices: d, ACPI: source}
				if c.Shape().Check() != nil {
					continue // no template makes it
				}
				trace, err := tdxmeasure.ShapeRTMR0(ctx, c)
				if err != nil {
					return nil, fmt.Errorf("size %s on QEMU %s: %w", name, host, err)
				}
				sum, err := trace.Compute()
				if err != nil {
					return nil, err
				}
				note := fmt.Sprintf("%d vCPUs, %d MiB, QEMU %s", size.VCPUs, size.Memory>>20, host)
				if d.NoCOM1 {
					note += ", no serial port"
				}
				s.bySize[name][sum] = note + "; that it is equal shows that the firmware has the usual layout and an empty variable store"
			}
		}
	}
	return s, nil
}

func (s *shapes) rtmr0(row evidence.Row) *Value {
	v := &Value{Name: "rtmr0", Want: row.RTMR[0]}
	known, ok := s.bySize[row.Template]
	if note, fits := known[v.Want]; fits {
		v.Got, v.Basis, v.Note = v.Want, pipeline.Recomputed, note
		return v
	}
	firmware := "firmware with MRTD " + row.MRTD.Hex()
	if !ok {
		v.Needs = []string{firmware, "shape of the size " + row.Template}
		return v
	}
	v.Needs = []string{firmware} // no machine that is known gives it: the firmware is another
	return v
}

// releases reads SecretVM's sev.json. Its values are of files, and the launch
// digests of every size follow from them for a compose file.
func (r *reader) releases(ctx context.Context) (*List, error) {
	list, err := run.Parsed(ctx, r.in, r.file, snpmeasure.MaxReleaseFile, snpmeasure.ParseReleases)
	if err != nil {
		return nil, err
	}
	text, ok := profiles.SNP(secretVM)
	if !ok {
		return nil, fmt.Errorf("there is no profile %s", secretVM)
	}
	profile, err := snpmeasure.ParseProfile(secretVM, text)
	if err != nil {
		return nil, err
	}
	l := &List{File: r.file, Kind: "SecretVM's releases for AMD machines"}
	for i := range list.Rows {
		rel := &list.Rows[i]
		row := &Row{Name: rel.Name(), Line: rel.Line, Values: []*Value{
			r.pool.seed("firmware", rel.Seed),
			r.pool.byDigest("kernel", "kernel", rel.Kernel), r.pool.byDigest("initrd", "initrd", rel.Initrd), r.pool.byDigest("rootfs", "root file system", rel.Rootfs),
		}}
		if err := r.launches(ctx, profile, rel, row); err != nil {
			return nil, err
		}
		l.Rows = append(l.Rows, row)
	}
	return l, nil
}

// launches adds the launch digests of a release. Each is as well known as the
// files that it is made of.
func (r *reader) launches(ctx context.Context, profile *snpmeasure.Profile, rel *snpmeasure.Release, row *Row) error {
	basis := pipeline.Recomputed
	for _, part := range row.Values {
		if part.State() != Recomputed {
			basis = pipeline.Copied
		}
	}
	names := slices.SortedFunc(maps.Keys(profile.Sizes), func(a, b string) int { return profile.Sizes[a] - profile.Sizes[b] })
	if rel.Unknown != "" || r.compose.IsZero() {
		need := "compose file of the machine"
		if rel.Unknown != "" {
			need = "meaning of the " + rel.Unknown
		}
		for _, name := range names {
			row.Values = append(row.Values, &Value{Name: "launch " + name, Needs: []string{need}})
		}
		return nil
	}
	cmdline, missing := profile.Cmdline(map[string]string{"extra": rel.Extra, "rootfs": rel.Rootfs.Hex(), "compose": r.compose.Hex()})
	if missing != "" {
		return fmt.Errorf("the profile %s wants a %s", profile.Name, missing)
	}
	var counts []int
	for _, name := range names {
		counts = append(counts, profile.Sizes[name])
	}
	c := snpmeasure.Config{Mode: snpmeasure.SNP, VMM: profile.VMM, Cmdline: cmdline, Seed: rel.Seed}
	results, err := snpmeasure.New(rel.Artifacts()).Matrix(ctx, c, counts, []snpmeasure.CPU{rel.CPU}, profile.Features)
	if err != nil {
		return fmt.Errorf("%s:%d: %w", r.file, rel.Line, err)
	}
	for i, name := range names {
		row.Values = append(row.Values, &Value{Name: "launch " + name, Got: results[i*len(profile.Features)].Digest, Basis: basis, Note: "for this compose file"})
	}
	return nil
}
