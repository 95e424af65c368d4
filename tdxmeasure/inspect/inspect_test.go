package inspect_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/inspect"
)

// archive is written by u-root.
func archive(t testing.TB, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	var records []cpio.Record
	for _, n := range names {
		records = append(records, cpio.StaticFile(n, "contents of "+n, 0o644))
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestInitrd lists what u-root wrote: plain, compressed, and both in a row,
// as with microcode before the initramfs.
func TestInitrd(t *testing.T) {
	first, second := archive(t, "kernel/x86/microcode/GenuineIntel.bin"), archive(t, "init", "etc/passwd")
	padded := append(bytes.Clone(first), make([]byte, 512)...)
	for name, c := range map[string]struct {
		data []byte
		want []string
	}{
		"plain":      {second, []string{"none: init etc/passwd"}},
		"compressed": {compress(t, second), []string{"gzip: init etc/passwd"}},
		"both":       {append(bytes.Clone(padded), compress(t, second)...), []string{"none: kernel/x86/microcode/GenuineIntel.bin", "gzip: init etc/passwd"}},
		"two gzips":  {append(compress(t, first), compress(t, second)...), []string{"gzip: kernel/x86/microcode/GenuineIntel.bin", "gzip: init etc/passwd"}},
		"zstd":       {append(bytes.Clone(padded), "\x28\xb5\x2f\xfd..."...), []string{"none: kernel/x86/microcode/GenuineIntel.bin", "zstd:"}},
		"empty":      {nil, nil},
	} {
		segments, err := inspect.ReadInitrd(context.Background(), tdxmeasure.Bytes("initrd", c.data))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, s := range segments {
			line := s.Compression + ":"
			for _, f := range s.Files {
				line += " " + f.Name
				if want := digest.SHA256.Sum([]byte("contents of " + f.Name)); f.SHA256 != want || f.Size != int64(12+len(f.Name)) {
					t.Errorf("%s: %s = %+v, want %s", name, f.Name, f, want)
				}
			}
			got = append(got, line)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestInitrdErrors(t *testing.T) {
	good := archive(t, "init")
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"text":         {[]byte("not an initrd"), "want a cpio archive"},
		"cut":          {good[:50], "header: unexpected EOF"},
		"cut contents": {good[:118], "contents of"},
		"no hex":       {append([]byte("070701zzzzzzzz"), good[14:]...), "field 0 is not hexadecimal"},
		"long name":    {append(append(bytes.Clone(good[:94]), "7fffffff"...), good[102:]...), "name of 2147483647 bytes"},
	} {
		_, err := inspect.ReadInitrd(context.Background(), tdxmeasure.Bytes("initrd", c.data))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error = %v, want it to contain %q", name, err, c.want)
		}
	}
}

// FuzzReadInitrd demands that nothing hangs or panics.
func FuzzReadInitrd(f *testing.F) {
	f.Add(archive(f, "init"))
	f.Add(compress(f, archive(f, "init")))
	f.Fuzz(func(t *testing.T, data []byte) {
		segments, err := inspect.ReadInitrd(context.Background(), tdxmeasure.Bytes("initrd", data))
		if err == nil && len(segments) == 0 && len(bytes.TrimLeft(data, "\x00")) > 0 {
			t.Fatal("bytes without an archive give no error")
		}
	})
}

func TestVectorKernel(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "own/tdx/files"), "k01-modern.efi"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := inspect.ReadKernel(context.Background(), tdxmeasure.Bytes("k01", data), 5000, 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	if k.Protocol != "2.15" {
		t.Errorf("protocol = %s, want 2.15", k.Protocol)
	}
	if want := "f44f0c505bd6a5d92cfe8e660dd1289a4cba42a41f0502b03d46d97211fbf23ae5b6472a4163661922ac8c42f60f8d91"; k.Patched.Hex() != want {
		t.Errorf("patched digest = %s, want %s", k.Patched.Hex(), want)
	}
	got := map[string]string{}
	for _, f := range k.Fields {
		if f.QEMU != "" {
			got[f.Name] = f.QEMU
		}
	}
	want := map[string]string{
		"type_of_loader": "0xb0", "loadflags": "0x81", "heap_end_ptr": "0x0000fe00", "cmd_line_ptr": "0x00020000",
		"ramdisk_image": "0x7ffd6000", "ramdisk_size": "0x00001388",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("edits (-want +got):\n%s", d)
	}
}

func TestVectorTables(t *testing.T) {
	dir := testenv.Vectors(t, "own/tdx/acpi")
	read := func(name string) *inspect.Tables {
		data, err := os.ReadFile(filepath.Join(dir, name+".hex"))
		if err != nil {
			t.Fatal(err)
		}
		tables, err := inspect.ReadTables(data)
		if err != nil {
			t.Fatal(err)
		}
		return tables
	}
	for _, c := range []struct{ a, b, note string }{
		{"c4cdea67314c", "d7ab5ed9d1f0", "1 device more: 17 bytes each"},
		{"base-10.0-hotplug", "base-11.1-hotplug", "QEMU 10 against 11.1"},
		{"base-9.2-hotplug", "base-8.2-hotplug", "QEMU 8 against 9.2: an older device labeling method"},
		{"base-9.2-hotplug", "base-10.0-hotplug", "QEMU 9.2 against 10.0: an older CPU scan method"},
	} {
		found := ""
		for _, d := range inspect.Diff(read(c.a), read(c.b)) {
			if d.Signature == "DSDT" {
				found = d.Note
			}
		}
		if found != c.note {
			t.Errorf("%s against %s: %q, want %q", c.a, c.b, found, c.note)
		}
	}
	if d := inspect.Diff(read("base-10.0-hotplug"), read("base-10.0-hotplug")); d != nil {
		t.Errorf("a blob differs from itself: %v", d)
	}
}
