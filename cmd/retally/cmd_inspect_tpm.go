package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pcrmeasure/disk"
	"github.com/retally/retally/pipeline/run"
)

// fileInput opens a file that is read in pieces.
func fileInput(op, name string) (pcrmeasure.Input, *os.File, error) {
	f, size, err := run.OpenRegular(name, name)
	if err != nil {
		return pcrmeasure.Input{}, nil, tpmTrouble(op, err)
	}
	return pcrmeasure.Input{Name: name, R: f, Size: size}, f, nil
}

// ukiView is what inspect uki shows.
type ukiView struct {
	Size         int64             `json:"size"`
	SHA256       string            `json:"sha256"`
	Authenticode map[string]string `json:"authenticode"`
	Signatures   int               `json:"signatures"`
	Sections     []ukiSection      `json:"sections"`
	// PCR11 is the register after the stub, by the version of systemd.
	PCR11 map[string]string `json:"pcr11"`
}

type ukiSection struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Measured are the versions of systemd whose stubs measure it into PCR 11.
	Measured []string `json:"measured"`
	// Authenticode of the kernel, which firmware measures too when it starts it.
	Authenticode string `json:"authenticode,omitempty"`
	Text         string `json:"text,omitempty"`
}

func (a *app) inspectUKICommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "uki FILE",
		Short: "Sections of a unified kernel image with digests, what of it is measured, and PCR 11",
		Long: `Show the sections of a unified kernel image that systemd's stub knows, and the
values that it brings into PCR 4 (the image's and its kernel's Authenticode
digests) and PCR 11 (its sections, in the order of systemd 252 and of 257).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			const op = "inspect uki"
			in, f, err := fileInput(op, args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			v, err := lookAtUKI(cmd.Context(), in)
			if err != nil {
				return tpmTrouble(op, err)
			}
			if output == "json" {
				return a.result(output, v, nil)
			}
			a.printUKI(v)
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// shownText bounds a section that is shown as text, in bytes.
const shownText = 4096

// ukiOrders are the versions of systemd whose stubs are known.
var ukiOrders = []pcrmeasure.SectionOrder{pcrmeasure.Order252, pcrmeasure.Order257}

// sumOf hashes an input.
func sumOf(in pcrmeasure.Input) (digest.Digest, error) {
	h := digest.SHA256.New()
	if _, err := io.Copy(h, io.NewSectionReader(in.R, 0, in.Size)); err != nil {
		return digest.Digest{}, fmt.Errorf("%s: %w", in.Name, err)
	}
	return digest.FromHash(digest.SHA256, h), nil
}

func lookAtUKI(ctx context.Context, in pcrmeasure.Input) (*ukiView, error) {
	v := &ukiView{Size: in.Size, Authenticode: map[string]string{}, Sections: []ukiSection{}, PCR11: map[string]string{}}
	sections, err := pcrmeasure.Sections(in)
	if err != nil {
		return nil, err
	}
	if len(sections) == 0 {
		return nil, fmt.Errorf("%s has no section of a unified kernel image", in.Name)
	}
	for _, bank := range []digest.Algorithm{digest.SHA256, digest.SHA384} {
		d, err := authenticode.Digest(ctx, bank, in.R, in.Size, authenticode.Options{})
		if err != nil {
			return nil, err
		}
		v.Authenticode[bank.String()] = d.Hex()
	}
	signatures, err := authenticode.Signatures(in.R, in.Size)
	if err != nil {
		return nil, err
	}
	v.Signatures = len(signatures)
	whole, err := sumOf(in)
	if err != nil {
		return nil, err
	}
	v.SHA256 = whole.Hex()
	for i, s := range sections {
		sum, err := sumOf(s.Contents)
		if err != nil {
			return nil, err
		}
		u := ukiSection{Name: s.Name, Size: s.Contents.Size, SHA256: sum.Hex(), Measured: []string{}}
		sections[i].Contents.Known = []digest.Digest{sum} // hashed once
		for _, order := range ukiOrders {
			t, err := pcrmeasure.MeasureSections(ctx, digest.SHA256, order, sections[i:i+1], nil)
			if err == nil && len(t.Events) > 0 {
				u.Measured = append(u.Measured, string(order))
			}
		}
		switch s.Name {
		case ".linux":
			// A kernel without an EFI stub is no image; the stub says so then.
			if d, err := authenticode.Digest(ctx, digest.SHA256, s.Contents.R, s.Contents.Size, authenticode.Options{}); err == nil {
				u.Authenticode = d.Hex()
			}
		case ".cmdline", ".osrel", ".uname":
			b := make([]byte, min(s.Contents.Size, shownText))
			n, _ := s.Contents.R.ReadAt(b, 0)
			u.Text = string(b[:n])
		}
		v.Sections = append(v.Sections, u)
	}
	for _, order := range ukiOrders {
		t, err := pcrmeasure.MeasureSections(ctx, digest.SHA256, order, sections, nil)
		var missing *pcrmeasure.Missing
		if errors.As(err, &missing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		d, err := t.Compute()
		if err != nil {
			return nil, err
		}
		v.PCR11[string(order)] = d.Hex()
	}
	return v, nil
}

func (a *app) printUKI(v *ukiView) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	line("%d bytes, SHA-256 %s, %s", v.Size, v.SHA256, show.Plural(v.Signatures, "signature", "signatures"))
	for _, bank := range []string{"sha256", "sha384"} {
		line("Authenticode %s  %s  (PCR 4)", bank, v.Authenticode[bank])
	}
	for _, s := range v.Sections {
		measured := "not measured"
		if len(s.Measured) > 0 {
			measured = "PCR 11 with systemd " + strings.Join(s.Measured, ", ")
		}
		line("%-9s %10d  %s  %s", s.Name, s.Size, s.SHA256, measured)
		if s.Authenticode != "" {
			line("  Authenticode sha256  %s  (PCR 4)", s.Authenticode)
		}
		if s.Text != "" {
			line("  %s", s.Text)
		}
	}
	for _, order := range []string{"252", "257"} {
		if d := v.PCR11[order]; d != "" {
			line("PCR 11, sha256, systemd %s  %s", order, d)
		}
	}
}

// diskView is what inspect disk shows.
type diskView struct {
	Size       int64           `json:"size"`
	Partitions []diskPartition `json:"partitions"`
	ESPs       []diskESP       `json:"efi_system_partitions"`
	Verity     []diskVerity    `json:"verity"`
	Boot       *diskBoot       `json:"boot,omitempty"`
	Untold     string          `json:"untold,omitempty"` // why there is no boot
}

type diskPartition struct {
	Index  int    `json:"index"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	UUID   string `json:"uuid"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

type diskESP struct {
	Partition int        `json:"partition"`
	FAT       int        `json:"fat"`
	Files     []diskFile `json:"files"`
}

type diskFile struct {
	Path         string    `json:"path"`
	Size         int64     `json:"size"`
	SHA256       string    `json:"sha256"`
	Kind         disk.Kind `json:"kind,omitempty"`
	Authenticode string    `json:"authenticode,omitempty"`
	Fault        string    `json:"fault,omitempty"`
}

type diskVerity struct {
	Use      string `json:"use"`
	Data     int    `json:"data"` // partition
	Hash     int    `json:"hash"`
	RootHash string `json:"root_hash"` // as the two UUIDs spell it; not recomputed
}

type diskBoot struct {
	Pattern pcrmeasure.Pattern `json:"pattern"`
	Files   []string           `json:"files"`
	Cmdline string             `json:"cmdline,omitempty"`
}

func (a *app) inspectDiskCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "disk FILE",
		Short: "Partitions of a disk's image, files of its EFI system partition with digests, dm-verity root hashes, and what firmware starts",
		Long: `Read a disk's image in process, without root or loop devices: its GPT, the files
of its EFI system partitions with their digests, partitions with dm-verity and the
root hash that their UUIDs spell, and what firmware without boot options of its
own starts. Nothing is recomputed of the root hash: "retally verity verify" does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			const op = "inspect disk"
			in, f, err := fileInput(op, args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			d, err := disk.Read(cmd.Context(), in)
			if err != nil {
				return tpmTrouble(op, err)
			}
			v, err := lookAtDisk(in, d)
			if err != nil {
				return tpmTrouble(op, err)
			}
			if output == "json" {
				return a.result(output, v, nil)
			}
			a.printDiskImage(v)
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func lookAtDisk(in pcrmeasure.Input, d *disk.Disk) (*diskView, error) {
	v := &diskView{Size: in.Size, Partitions: []diskPartition{}, ESPs: []diskESP{}, Verity: []diskVerity{}}
	for _, p := range d.Table.Partitions {
		v.Partitions = append(v.Partitions, diskPartition{p.Index, p.Name, p.Type.String(), p.UUID.String(), p.Offset, p.Size})
	}
	for _, e := range d.ESPs {
		out := diskESP{Partition: e.Partition.Index, FAT: e.Bits, Files: []diskFile{}}
		for _, f := range e.Files {
			file := diskFile{Path: f.Path, Size: f.Size, SHA256: f.SHA256.Hex(), Kind: f.Kind}
			if !f.Authenticode.IsZero() {
				file.Authenticode = f.Authenticode.Hex()
			}
			if f.Fault != nil {
				file.Fault = f.Fault.Error()
			}
			out.Files = append(out.Files, file)
		}
		v.ESPs = append(v.ESPs, out)
	}
	for _, y := range d.Verity {
		v.Verity = append(v.Verity, diskVerity{y.Use, y.Data.Index, y.Tree.Index, hex.EncodeToString(y.RootHash[:])})
	}
	boot, err := d.Boot()
	switch {
	case disk.IsMissing(err):
		v.Untold = err.Error()
		return v, nil
	case err != nil:
		return nil, err
	}
	b := &diskBoot{Pattern: boot.Pattern, Files: []string{}, Cmdline: boot.Cmdline}
	a := &boot.Artifacts
	for _, in := range append([]pcrmeasure.Input{a.Shim, a.Loader, a.LoaderConf, a.UKI, a.Kernel, a.Initrd}, a.Images...) {
		if in.Present() {
			b.Files = append(b.Files, in.Name)
		}
	}
	v.Boot = b
	return v, nil
}

func (a *app) printDiskImage(v *diskView) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, p := range v.Partitions {
		line("partition %3d  %12d bytes at %#x  type %s  uuid %s  %s", p.Index, p.Size, p.Offset, p.Type, p.UUID, p.Name)
	}
	for _, e := range v.ESPs {
		line("EFI system partition %d, FAT%d", e.Partition, e.FAT)
		for _, f := range e.Files {
			line("  %10d  %s  %-12s  %s", f.Size, f.SHA256, f.Kind, f.Path)
			if f.Authenticode != "" {
				line("              %s  Authenticode", f.Authenticode)
			}
			if f.Fault != "" {
				line("              cannot be measured: %s", f.Fault)
			}
		}
	}
	for _, y := range v.Verity {
		line("dm-verity %s: data in partition %d, hashes in %d, root hash %s by their UUIDs", y.Use, y.Data, y.Hash, y.RootHash)
	}
	if v.Boot == nil {
		line("boot: %s", v.Untold)
		return
	}
	line("boot: %s", v.Boot.Pattern)
	for _, f := range v.Boot.Files {
		line("  %s", f)
	}
	if v.Boot.Cmdline != "" {
		line("  command line %q", v.Boot.Cmdline)
	}
}
