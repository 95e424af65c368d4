package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// tdxArtifacts writes the artifacts of a synthetic machine into a folder, as
// SecretVM's guide names them, and spoiled ones.
func tdxArtifacts(t interface{ Fatal(...any) }, dir string) {
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	compose := "services:\n  web:\n    image: nginx\n"
	firmware := testtdx.Firmware()
	endless := bytes.Clone(firmware)
	binary.LittleEndian.PutUint16(endless[len(endless)-32-18-18:], 0) // length of the TDX entry
	files := map[string][]byte{
		"ovmf.fd": firmware, "bzImage": testtdx.Kernel(), "auto/initramfs.cpio.gz": gzipped(check, cpio("init", "#!/bin/sh\n", "etc/hostname", "vm\n")),
		"plain.cpio": cpio("init", "#!/bin/sh\n"), "hostile.cpio": cpio("a\x1b[31mred\u202e", "x"), "config/docker-compose.yaml": []byte(compose),
		"rootfs.iso": []byte("root file system"), "docker-files.tar": []byte("archive"),
		"rootfs-older.iso": []byte("older root file system"), "rootfs-newer.iso": []byte("newer root file system"),
		"no-newline.yaml": []byte(strings.TrimSuffix(compose, "\n")), "windows.yaml": []byte(strings.ReplaceAll(compose, "\n", "\r\n")),
		"bom.yaml": []byte("\xef\xbb\xbf" + compose), "app-compose.json": []byte(`{"name": "app"}`),
		"truncated.fd": firmware[:len(firmware)-4096], "endless.fd": endless, "empty.fd": {}, "not-a-kernel": bytes.Repeat([]byte("x"), 5000),
		"ccel.bin": ccel(check, false), "ccel-bad.bin": ccel(check, true), "disk.img": partitionedDisk(), "shim.efi": testtdx.Kernel(), "grub.efi": testtdx.Kernel(),
		"BootOrder.bin": {1, 0, 0, 0}, "boot/Boot0000.bin": []byte("UiApp"), "boot/Boot0001.bin": []byte("ubuntu"),
	}
	templates, err := acpi.NewTemplates()
	check(err)
	shape := acpi.Shape{Family: acpi.Family100, Base: acpi.SecretVM, VCPUs: 1, Memory: 2 << 30}
	for name, edit := range map[string]func(*acpi.Shape){
		"tables.bin": func(*acpi.Shape) {}, "tables-no-com1.bin": func(s *acpi.Shape) { s.NoCOM1 = true }, "tables-8.2.bin": func(s *acpi.Shape) { s.Family = acpi.Family82 },
	} {
		s := shape
		edit(&s)
		b, err := templates.Make(s)
		check(err)
		files[name] = b.Tables
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		check(os.MkdirAll(filepath.Dir(path), 0o755))
		check(os.WriteFile(path, data, 0o600))
	}
}

// cpio makes an archive of the new format from names and contents.
func cpio(files ...string) []byte {
	var b bytes.Buffer
	add := func(mode uint32, name, data string) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		for _, s := range []string{name + "\x00", data} {
			b.WriteString(s)
			for b.Len()%4 != 0 {
				b.WriteByte(0)
			}
		}
	}
	for i := 0; i < len(files); i += 2 {
		add(0o100644, files[i], files[i+1])
	}
	add(0, "TRAILER!!!", "")
	return b.Bytes()
}

// gzipped stores without compressing, so that the bytes do not depend on the
// compressor's version.
func gzipped(check func(error), data []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	check(err)
	_, err = w.Write(data)
	check(err)
	check(w.Close())
	return b.Bytes()
}

// ccel makes a binary event log of four events; the bad one has an action whose
// digest is not of its text.
func ccel(check func(error), bad bool) []byte {
	log := eventlog.AppendHead(nil, digest.SHA384)
	for i, e := range []struct {
		register uint32
		typ      eventlog.Type
		data     string
	}{
		{1, eventlog.Separator, "\x00\x00\x00\x00"},
		{2, eventlog.Action, "Calling EFI Application from Boot Option"},
		{2, eventlog.Separator, "\x00\x00\x00\x00"},
		{3, eventlog.EventTag, "tag"},
	} {
		measured := e.data
		if bad && i == 1 {
			measured = "another text"
		}
		log = eventlog.Event{
			Register: e.register, Type: e.typ, Data: []byte(e.data), Digests: []digest.Digest{digest.SHA384.Sum([]byte(measured))},
		}.Append(log)
	}
	return log
}

// partitionedDisk is the head of a disk with one used partition entry of two.
func partitionedDisk() []byte {
	le := binary.LittleEndian
	b := make([]byte, 2048)
	copy(b[512:], "EFI PART")
	le.PutUint32(b[512+80:], 2)
	le.PutUint32(b[512+84:], 128)
	copy(b[1024:], "used partition..")
	return b
}

// TestSyntheticLog: the log that the scripts replay parses.
func TestSyntheticLog(t *testing.T) {
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	log, err := eventlog.Parse(ccel(check, false))
	check(err)
	if n := len(log.Problems()); n != 0 {
		t.Errorf("%d problems in the good log", n)
	}
}
