package fat_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/fat"
	"github.com/retally/retally/internal/testenv"
)

// image makes a FAT12 file system by hand: a folder EFI with one file whose
// clusters are 4 and 6, and a file with a long name.
func image() []byte {
	b := make([]byte, 64*512)
	copy(b, "\xeb\x3c\x90TEST    \x00\x02\x01\x01\x00\x01\x10\x00\x40\x00\xf8\x01\x00")
	b[510], b[511] = 0x55, 0xaa
	fat12 := b[512:1024]
	set := func(c, v int) {
		i := c + c/2
		if c%2 == 0 {
			fat12[i], fat12[i+1] = byte(v), fat12[i+1]&0xf0|byte(v>>8)
		} else {
			fat12[i], fat12[i+1] = fat12[i]&0x0f|byte(v<<4), byte(v>>4)
		}
	}
	set(2, 0xfff)
	set(3, 0xfff)
	set(4, 6)
	set(6, 0xfff)
	entry := func(at int, name string, attr byte, cluster, size int) {
		copy(b[at:], name)
		b[at+11], b[at+26], b[at+27] = attr, byte(cluster), byte(cluster>>8)
		b[at+28], b[at+29] = byte(size), byte(size>>8)
	}
	root, data := 1024, 1536
	entry(root, "EFI        ", 0x10, 2, 0)
	// A long name for A.TXT.
	long := b[root+32:]
	long[0], long[11] = 0x41, 0x0f
	var sum byte
	for _, c := range []byte("A       TXT") {
		sum = sum>>1 + sum<<7 + c
	}
	long[13] = sum
	for i, c := range []rune("ä lo.txt\x00") {
		at := []int{1, 3, 5, 7, 9, 14, 16, 18, 20}[i]
		long[at], long[at+1] = byte(c), byte(c>>8)
	}
	entry(root+64, "A       TXT", 0x20, 3, 3)
	entry(data, ".          ", 0x10, 2, 0)
	entry(data+32, "..         ", 0x10, 0, 0)
	entry(data+64, "BOOT    EFI", 0x20, 4, 700)
	copy(b[data+512:], "abc")
	copy(b[data+2*512:], bytes.Repeat([]byte{1}, 512))
	copy(b[data+4*512:], bytes.Repeat([]byte{2}, 512))
	return b
}

func files(b []byte) ([]fat.File, error) {
	fs, err := fat.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return fs.Files()
}

func TestFiles(t *testing.T) {
	list, err := files(image())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Path != "EFI/BOOT.EFI" || list[1].Path != "ä lo.txt" {
		t.Fatalf("files %v", list)
	}
	for path, want := range map[string]bool{"efi/boot.efi": true, "EFI/BOOT.EFI": true, "EFI/BOOT.EFI/x": false, "BOOT.EFI": false} {
		if list[0].Is(path) != want {
			t.Errorf("the first file is %s: %t", path, !want)
		}
	}
	if !list[0].In("efi") || list[0].In("") || !list[1].In("") || list[1].In("efi") {
		t.Error("files are not in their folders")
	}
	if !list[1].Is("a.txt") || !list[1].Is("ä LO.txt") || list[1].Is("Ä lo.txt") {
		t.Error("the second file does not answer to its long and its short name alone")
	}
	got, err := io.ReadAll(io.NewSectionReader(&list[0], 0, list[0].Size))
	if err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 188)...); !bytes.Equal(got, want) {
		t.Errorf("contents of %d bytes, want clusters 4 and 6", len(got))
	}
	if n, err := list[0].ReadAt(make([]byte, 10), 695); n != 5 || err != io.EOF {
		t.Errorf("read across the end: %d %v", n, err)
	}
}

// TestRefuses changes a file system as an attacker would.
func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func([]byte)
		want string
	}{
		"circle":           {func(b []byte) { b[512+9], b[512+10] = 4, b[512+10]&0xf0 }, "in use already"},
		"shared cluster":   {func(b []byte) { b[1024+64+26] = 4 }, "in use already"},
		"folder in itself": {func(b []byte) { b[1536+64+11] = 0x10; b[1536+64+26] = 2 }, "in use already"},
		"short chain":      {func(b []byte) { b[512+6] = 0xff; b[512+7] |= 0x0f }, "a chain of 512"},
		"long chain":       {func(b []byte) { b[1536+64+28], b[1536+64+29] = 10, 0 }, "longer than the file"},
		"cluster too high": {func(b []byte) { b[1024+64+26], b[1024+64+27] = 0xf0, 0x0e }, "cluster 3824"},
		"free cluster":     {func(b []byte) { b[512+6], b[512+7] = 0, b[512+7]&0xf0 }, "cluster 0"},
		"second name": {func(b []byte) {
			copy(b[1536+96:], b[1536+64:1536+96])
			b[1536+96+26] = 7
			copy(b[1536+96:], "boot    EFI")
			b[1536+96+12] = 0
		}, "one of each name"},
		"long name's sum":   {func(b []byte) { b[1024+32+13]++ }, "not this file's"},
		"long name's order": {func(b []byte) { b[1024+32] = 0x42 }, "not this file's"},
		"orphaned name":     {func(b []byte) { b[1024+64] = 0 }, "without its file"},
		"short as long": {func(b []byte) { // a file B.TXT whose long name is a.txt
			var sum byte
			for _, c := range []byte("B       TXT") {
				sum = sum>>1 + sum<<7 + c
			}
			long := b[1024+96:]
			long[0], long[11], long[13] = 0x41, 0x0f, sum
			for i, c := range []byte("a.txt") {
				long[1+2*i] = c
			}
			copy(b[1024+128:], "B       TXT\x20")
		}, "one of each name"},
		"no sectors":        {func(b []byte) { b[11], b[12] = 0, 0 }, "bytes per sector"},
		"larger than image": {func(b []byte) { b[19], b[20] = 0xff, 0xff }, "sectors"},
	} {
		b := image()
		c.edit(b)
		if _, err := files(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestOracleMtools compares with file systems that mkfs.fat and mcopy make, in
// all three widths, with fragmented files and long names.
func TestOracleMtools(t *testing.T) {
	mkfs, mcopy, mmd, mdel := testenv.Oracle(t, "mkfs.fat"), testenv.Oracle(t, "mcopy"), testenv.Oracle(t, "mmd"), testenv.Oracle(t, "mdel")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	for bits, kib := range map[int]string{12: "2048", 16: "20480", 32: "70000"} {
		dir := t.TempDir()
		img := filepath.Join(dir, "esp")
		run(mkfs, "-F", fmt.Sprint(bits), "-C", img, kib)
		run(mmd, "-i", img, "::/EFI", "::/EFI/Linux", "::/EFI/BOOT")
		rng := rand.New(rand.NewPCG(1, uint64(bits)))
		want := map[string][]byte{}
		for i := range 12 {
			data := make([]byte, rng.IntN(60000))
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
			file := filepath.Join(dir, "f")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			path := []string{"EFI/BOOT/BOOTX64.EFI", "EFI/Linux/a unified kernel image with a long name %d.efi", "plain%d.txt", "EFI/Linux/U%d"}[i%4]
			if i%4 == 0 && i > 0 {
				path = "EFI/BOOT/X%d.EFI"
			}
			if strings.Contains(path, "%d") {
				path = fmt.Sprintf(path, i)
			}
			run(mcopy, "-i", img, file, "::/"+path)
			want[path] = data
			if i == 5 { // holes, so that later files are in pieces
				run(mdel, "-i", img, "::/plain2.txt")
				delete(want, "plain2.txt")
			}
		}
		data, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		fs, err := fat.Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if fs.Bits != bits {
			t.Errorf("FAT%d read as FAT%d", bits, fs.Bits)
		}
		list, err := fs.Files()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			got, err := io.ReadAll(io.NewSectionReader(&f, 0, f.Size))
			if err != nil || !bytes.Equal(got, want[f.Path]) || want[f.Path] == nil {
				t.Errorf("FAT%d: %s: %d bytes, %v", bits, f.Path, len(got), err)
			}
			delete(want, f.Path)
		}
		if len(want) > 0 {
			t.Errorf("FAT%d: not found: %d files", bits, len(want))
		}
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(image())
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		list, err := files(data)
		if err != nil {
			return
		}
		for i := range list {
			if n, err := io.Copy(io.Discard, io.NewSectionReader(&list[i], 0, list[i].Size)); err != nil || n != list[i].Size {
				t.Fatalf("%s: %d of %d bytes, %v", list[i].Path, n, list[i].Size, err)
			}
		}
	})
}
