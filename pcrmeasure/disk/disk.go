// Package disk reads the image of a disk that a machine boots: its partition
// table, the files of its EFI system partitions, and the partitions with
// dm-verity, in the process and without root or loop devices. It tells which
// files a machine would boot, so that its PCRs can be predicted from the image
// alone.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/fat"
	"github.com/retally/retally/internal/gpt"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/pcrmeasure"
)

// Kind says what a file of an EFI system partition is.
type Kind string

// The kinds.
const (
	Other  Kind = ""
	PE     Kind = "image"        // a PE image of no known kind
	UKI    Kind = "uki"          // a unified kernel image
	Loader Kind = "systemd-boot" // by its section .sdmagic
	Shim   Kind = "shim"         // by its section .vendor_cert
	Kernel Kind = "kernel"       // a Linux kernel with an EFI stub
)

// File is a file of an EFI system partition.
type File struct {
	Path   string
	Size   int64
	SHA256 digest.Digest
	Kind   Kind
	// Authenticode is the image's digest as firmware measures it; zero for what
	// is no image.
	Authenticode digest.Digest
	// Fault is why a file that begins like an image cannot be measured.
	Fault error
	file  *fat.File
}

// Input is the file as an artifact.
func (f *File) Input(image string) pcrmeasure.Input {
	return pcrmeasure.Input{Name: image + ":" + f.Path, R: f.file, Size: f.Size}
}

// ESP is an EFI system partition.
type ESP struct {
	Partition gpt.Partition
	Bits      int // of its FAT
	Files     []File
}

// Disk is what is known of an image.
type Disk struct {
	Name   string
	Table  *gpt.Table
	ESPs   []ESP
	Verity []gpt.Verity
	in     pcrmeasure.Input
}

// Read reads an image. A damaged file system of an EFI system partition is an
// error: firmware might read what is there differently.
func Read(ctx context.Context, in pcrmeasure.Input) (*Disk, error) {
	if in.R == nil {
		return nil, &place.Fault{Input: "disk image", Where: place.InFile(in.Name), Found: "no bytes", Want: "an image"}
	}
	table, err := gpt.Read(in.R, in.Size, gpt.Options{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", in.Name, err)
	}
	d := &Disk{Name: in.Name, Table: table, Verity: table.VerityPairs(), in: in}
	for _, p := range table.Partitions {
		if p.Type != gpt.ESP {
			continue
		}
		esp, err := readESP(ctx, io.NewSectionReader(in.R, p.Offset, p.Size), p)
		if err != nil {
			return nil, fmt.Errorf("%s: partition %d: %w", in.Name, p.Index, err)
		}
		d.ESPs = append(d.ESPs, esp)
	}
	return d, nil
}

func readESP(ctx context.Context, r io.ReaderAt, p gpt.Partition) (ESP, error) {
	fs, err := fat.Open(r, p.Size)
	if err != nil {
		return ESP{}, err
	}
	list, err := fs.Files()
	if err != nil {
		return ESP{}, err
	}
	esp := ESP{Partition: p, Bits: fs.Bits}
	for i := range list {
		f := File{Path: list[i].Path, Size: list[i].Size, file: &list[i]}
		if err := f.read(ctx); err != nil {
			return ESP{}, err
		}
		esp.Files = append(esp.Files, f)
	}
	return esp, nil
}

func (f *File) read(ctx context.Context) error {
	h := digest.SHA256.New()
	buf := make([]byte, 256<<10)
	for at := int64(0); at < f.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.file.ReadAt(buf[:min(int64(len(buf)), f.Size-at)], at)
		if n == 0 && err != nil {
			return fmt.Errorf("read %s: %w", f.Path, err)
		}
		h.Write(buf[:n])
		at += int64(n)
	}
	f.SHA256 = digest.FromHash(digest.SHA256, h)
	if f.Size < 64 {
		return nil
	}
	head := make([]byte, 2)
	if _, err := f.file.ReadAt(head, 0); err != nil {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	if string(head) != "MZ" {
		return nil
	}
	var err error
	if f.Authenticode, err = authenticode.Digest(ctx, digest.SHA256, f.file, f.Size, authenticode.Options{}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.Fault = fmt.Errorf("%s: %w", f.Path, err)
		return nil
	}
	f.Kind = PE
	sections, err := authenticode.Sections(f.file, f.Size)
	if err != nil {
		f.Fault = fmt.Errorf("%s: %w", f.Path, err)
		return nil
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(sections, func(s authenticode.Section) bool { return slices.Contains(names, s.Name) })
	}
	switch {
	case has(".linux"):
		f.Kind = UKI
	case has(".sdmagic"):
		f.Kind = Loader
	case isShim(f.file, f.Size):
		f.Kind = Shim
	case isKernel(f.file, f.Size):
		f.Kind = Kernel
	}
	return nil
}

func isShim(r io.ReaderAt, size int64) bool {
	_, err := pcrmeasure.ReadMok(pcrmeasure.Input{Name: "shim", R: r, Size: size})
	return err == nil
}

func isKernel(r io.ReaderAt, size int64) bool {
	b := make([]byte, 4)
	if size < 0x206 {
		return false
	}
	_, err := r.ReadAt(b, 0x202)
	return err == nil && string(b) == "HdrS"
}

// Boot is what a machine boots from an image.
type Boot struct {
	Pattern   pcrmeasure.Pattern
	Artifacts pcrmeasure.Artifacts
	Cmdline   string
	// Credentials says that there are credentials, extensions or addons that
	// systemd's stub finds beside the image: see pcrmeasure.Machine.
	Credentials bool
}

// extras reports whether there is something for systemd's stub to pack (systemd,
// systemd-stub(7), "Companion files").
func (e *ESP) extras() bool {
	return slices.ContainsFunc(e.Files, func(f File) bool {
		return strings.Contains(strings.ToLower(f.Path), ".extra.d/") || f.file.In("loader/credentials") || f.file.In("loader/addons") || f.file.In("loader/extensions")
	})
}

const removable = "EFI/BOOT/BOOTX64.EFI"

// Boot tells what firmware without boot options of its own starts: the file for
// removable media (UEFI specification, 3.5.1.1), and what that loads where there
// is one choice only. What cannot be told is a *pcrmeasure.Missing.
func (d *Disk) Boot() (*Boot, error) {
	if len(d.ESPs) != 1 {
		return nil, missing("the disk has %d EFI system partitions, want one", len(d.ESPs))
	}
	esp := &d.ESPs[0]
	first := esp.find(removable)
	if first == nil {
		return nil, missing("the EFI system partition has no %s: firmware boots from its own options only", removable)
	}
	b := &Boot{Artifacts: pcrmeasure.Artifacts{Disk: d.in}, Credentials: esp.extras()}
	switch first.Kind {
	case UKI:
		b.Pattern, b.Artifacts.UKI = pcrmeasure.UKIDirect, first.Input(d.Name)
		return b, nil
	case Loader:
		return d.loader(b, esp, first)
	case Shim:
		grub := esp.find("EFI/BOOT/grubx64.efi")
		if grub == nil {
			return nil, missing("shim starts EFI/BOOT/grubx64.efi, which is not there")
		}
		if grub.Kind == Loader || grub.Kind == UKI {
			return nil, missing("shim starts a %s here: what it measures of that is not known", grub.Kind)
		}
		b.Pattern, b.Artifacts.Shim, b.Artifacts.Loader = pcrmeasure.ShimGRUB, first.Input(d.Name), grub.Input(d.Name)
		kernels := esp.kind(Kernel)
		if len(kernels) == 1 {
			b.Artifacts.Kernel = kernels[0].Input(d.Name)
		}
		return b, nil
	}
	if first.Fault != nil {
		return nil, first.Fault
	}
	return nil, missing("%s is neither a unified kernel image nor systemd-boot nor shim", removable)
}

// loader finds what systemd-boot starts where it has one choice.
func (d *Disk) loader(b *Boot, esp *ESP, first *File) (*Boot, error) {
	b.Artifacts.Loader = first.Input(d.Name)
	for _, p := range d.Table.Partitions {
		if p.Type == gpt.XBOOTLDR {
			return nil, missing("partition %d is an extended boot loader partition, which systemd-boot searches too", p.Index)
		}
	}
	if conf := esp.find("loader/loader.conf"); conf != nil {
		b.Artifacts.LoaderConf = conf.Input(d.Name)
		lines, err := conf.lines()
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			if l.key == "default" || l.key == "preferred" {
				return nil, missing("loader.conf line %d names a default: whether it is there and counts is not told here", l.number)
			}
		}
	}
	var images, entries []*File
	for i := range esp.Files {
		f := &esp.Files[i]
		switch name := strings.ToLower(f.Path); {
		case f.file.In("EFI/Linux") && strings.HasSuffix(name, ".efi"):
			images = append(images, f)
		case f.file.In("loader/entries") && strings.HasSuffix(name, ".conf"):
			entries = append(entries, f)
		}
	}
	if len(images)+len(entries) != 1 {
		return nil, missing("systemd-boot has %d unified kernel images and %d entries to choose from, want one", len(images), len(entries))
	}
	if len(images) == 1 {
		if images[0].Kind != UKI {
			return nil, missing("%s is no unified kernel image", images[0].Path)
		}
		b.Pattern, b.Artifacts.UKI = pcrmeasure.LoaderUKI, images[0].Input(d.Name)
		return b, nil
	}
	return d.entry(b, esp, entries[0])
}

const maxEntry = 64 << 10

// line is a line of systemd-boot's configuration files.
type line struct {
	number     int
	key, value string
}

// lines reads a configuration file, without comments.
func (f *File) lines() ([]line, error) {
	if f.Size > maxEntry {
		return nil, &place.Fault{Input: "boot loader file", Where: place.InFile(f.Path), Field: "size", Found: fmt.Sprint(f.Size), Want: fmt.Sprintf("at most %d", maxEntry)}
	}
	text := make([]byte, f.Size)
	if n, err := f.file.ReadAt(text, 0); n < len(text) {
		return nil, fmt.Errorf("read %s: %w", f.Path, err)
	}
	var out []line
	for n, s := range strings.Split(string(text), "\n") {
		s = strings.TrimSpace(strings.ReplaceAll(s, "\t", " "))
		if s == "" || s[0] == '#' {
			continue
		}
		key, value, _ := strings.Cut(s, " ")
		out = append(out, line{n + 1, key, strings.TrimSpace(value)})
	}
	return out, nil
}

// entry reads a type 1 entry (UAPI group, Boot Loader Specification).
func (d *Disk) entry(b *Boot, esp *ESP, f *File) (*Boot, error) {
	lines, err := f.lines()
	if err != nil {
		return nil, err
	}
	var kernel, image string
	var initrds, options []string
	for _, l := range lines {
		switch l.key {
		case "linux":
			if kernel != "" {
				return nil, &place.Fault{Input: "boot entry", Where: place.Where{File: f.Path, Line: l.number}, Found: "a second linux", Want: "one"}
			}
			kernel = l.value
		case "efi":
			if image != "" {
				return nil, &place.Fault{Input: "boot entry", Where: place.Where{File: f.Path, Line: l.number}, Found: "a second efi", Want: "one"}
			}
			image = l.value
		case "initrd":
			initrds = append(initrds, l.value)
		case "options":
			options = append(options, l.value)
		case "title", "version", "machine-id", "sort-key", "architecture":
			// shown or sorted by, and no part of what is started
		default:
			return nil, missing("%s line %d: what systemd-boot makes of %q is not known here", f.Path, l.number, l.key)
		}
	}
	if image != "" {
		u := esp.find(strings.TrimLeft(image, "/"))
		if kernel != "" || len(initrds) > 0 || u == nil || u.Kind != UKI {
			return nil, missing("%s starts %q, which is no unified kernel image on the EFI system partition by itself", f.Path, image)
		}
		b.Pattern, b.Artifacts.UKI, b.Cmdline = pcrmeasure.LoaderUKI, u.Input(d.Name), strings.Join(options, " ")
		return b, nil
	}
	k := esp.find(strings.TrimLeft(kernel, "/"))
	if kernel == "" || k == nil {
		return nil, missing("%s names the kernel %q, which is not on the EFI system partition", f.Path, kernel)
	}
	if len(initrds) > 1 {
		return nil, missing("%s has %d initrds: how the kernel joins them is not known here", f.Path, len(initrds))
	}
	b.Pattern, b.Artifacts.Kernel = pcrmeasure.LoaderEntry, k.Input(d.Name)
	if len(initrds) == 1 {
		i := esp.find(strings.TrimLeft(initrds[0], "/"))
		if i == nil {
			return nil, missing("%s names the initrd %q, which is not on the EFI system partition", f.Path, initrds[0])
		}
		b.Artifacts.Initrd = i.Input(d.Name)
	}
	b.Cmdline = pcrmeasure.EntryCmdline(initrds, strings.Join(options, " "))
	return b, nil
}

// find looks for a file as firmware does.
func (e *ESP) find(path string) *File {
	i := slices.IndexFunc(e.Files, func(f File) bool { return f.file.Is(path) })
	if i < 0 {
		return nil
	}
	return &e.Files[i]
}

func (e *ESP) kind(k Kind) (out []*File) {
	for i := range e.Files {
		if e.Files[i].Kind == k {
			out = append(out, &e.Files[i])
		}
	}
	return out
}

// Partition gives a partition's bytes, for a dm-verity tree to be recomputed.
func (d *Disk) Partition(p gpt.Partition) (io.ReaderAt, int64) {
	return io.NewSectionReader(d.in.R, p.Offset, p.Size), p.Size
}

func missing(format string, args ...any) error {
	return &pcrmeasure.Missing{Reason: fmt.Sprintf(format, args...)}
}

// IsMissing reports whether an error says that something cannot be told, and
// not that something is wrong.
func IsMissing(err error) bool {
	var m *pcrmeasure.Missing
	return errors.As(err, &m)
}
