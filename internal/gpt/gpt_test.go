package gpt_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/gpt"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
)

func guid(s string) []byte {
	g, err := ovmf.ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g[:]
}

type part struct {
	typ, uuid, name string
	first, last     uint64
}

// image makes a disk of 256 sectors with a table of four entries.
func image(parts ...part) []byte {
	b := make([]byte, 256*512)
	h := b[512:604]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le := binary.LittleEndian
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], 255)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], 222)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 4)
	le.PutUint32(h[84:], 128)
	for i, p := range parts {
		e := b[1024+128*i:]
		copy(e, guid(p.typ))
		copy(e[16:], guid(p.uuid))
		le.PutUint64(e[32:], p.first)
		le.PutUint64(e[40:], p.last)
		for j, c := range p.name {
			e[56+2*j] = byte(c)
		}
	}
	seal(b)
	return b
}

func seal(b []byte) {
	le := binary.LittleEndian
	n := le.Uint32(b[512+80:])
	if int(n)*128 <= len(b)-1024 {
		le.PutUint32(b[512+88:], crc32.ChecksumIEEE(b[1024:1024+int(n)*128]))
	}
	clear(b[512+16 : 512+20])
	le.PutUint32(b[512+16:], crc32.ChecksumIEEE(b[512:604]))
}

const (
	rootType   = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	verityType = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
	dataType   = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

func read(b []byte) (*gpt.Table, error) {
	return gpt.Read(bytes.NewReader(b), int64(len(b)), gpt.Options{})
}

func TestVerityPairs(t *testing.T) {
	table, err := read(image(
		part{rootType, "00112233-4455-6677-8899-aabbccddeeff", "root", 34, 40},
		part{verityType, "01020304-0506-0708-090a-0b0c0d0e0f10", "root-verity", 41, 50},
		part{dataType, "ffeeddcc-bbaa-9988-7766-554433221100", "app", 60, 70},
		part{dataType, "0f0e0d0c-0b0a-0908-0706-050403020100", "app-verity", 71, 80},
	))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range table.VerityPairs() {
		got[v.Use] = hex.EncodeToString(v.RootHash[:])
	}
	want := map[string]string{
		"root (x86-64)": "00112233445566778899aabbccddeeff0102030405060708090a0b0c0d0e0f10",
		"app":           "ffeeddccbbaa998877665544332211000f0e0d0c0b0a09080706050403020100",
	}
	if len(got) != 2 || got["root (x86-64)"] != want["root (x86-64)"] || got["app"] != want["app"] {
		t.Errorf("root hashes %v, want %v", got, want)
	}
}

func TestRefuses(t *testing.T) {
	one := part{rootType, "00112233-4455-6677-8899-aabbccddeeff", "root", 34, 40}
	for name, c := range map[string]struct {
		edit func([]byte)
		want string
	}{
		"header checksum":  {func(b []byte) { b[512+32]++ }, "HeaderCRC32"},
		"entries checksum": {func(b []byte) { b[1024+56] = 'x' }, "PartitionEntryArrayCRC32"},
		"overlap":          {func(b []byte) { copy(b[1152:], b[1024:1152]); seal(b) }, "overlaps"},
		"past the end":     {func(b []byte) { b[512+49] = 4; b[1024+41] = 2; seal(b) }, "image's size"},
		"outside":          {func(b []byte) { b[1024+32] = 3; seal(b) }, "within 34"},
		"many entries":     {func(b []byte) { b[512+82] = 1; seal(b) }, "NumberOfPartitionEntries"},
		"entries nowhere":  {func(b []byte) { b[512+79] = 0x80; seal(b) }, "PartitionEntryLBA"},
		"other copy":       {func(b []byte) { b[512+24] = 2; seal(b) }, "MyLBA"},
		"no signature":     {func(b []byte) { b[512] = 'e' }, "signature"},
	} {
		b := image(one)
		c.edit(b)
		if _, err := read(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestVectorEvent compares with what a TPM measured of a disk's table.
func TestVectorEvent(t *testing.T) {
	f, err := os.Open(testenv.Vectors(t, "own/tpm/inputs/esp_uki.img.first34sectors.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(bytes.NewReader(data), int64(len(data)), gpt.Options{HeadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.SHA256.Sum(table.Event()).Hex(); !strings.HasPrefix(got, "4c4ad6ffac7d") {
		t.Errorf("event %s, want 4c4ad6ffac7d…", got)
	}
	if len(table.Partitions) != 1 || table.Partitions[0].Type != gpt.ESP {
		t.Errorf("partitions %v", table.Partitions)
	}
}

// TestOracleSfdisk compares with a table that sfdisk writes.
func TestOracleSfdisk(t *testing.T) {
	sfdisk := testenv.Oracle(t, "sfdisk")
	img := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(img, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sfdisk, img)
	cmd.Stdin = strings.NewReader("label: gpt\nstart=2048, size=4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp, uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\nsize=8192, type=linux, name=app\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	table, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Partitions) != 2 {
		t.Fatalf("%d partitions", len(table.Partitions))
	}
	if p := table.Partitions[0]; p.Offset != 1<<20 || p.Size != 2<<20 || p.Name != "esp" || p.UUID.String() != "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee" || p.Type != gpt.ESP {
		t.Errorf("first partition %+v", p)
	}
	if p := table.Partitions[1]; p.Offset != 3<<20 || p.Size != 4<<20 || p.Name != "app" {
		t.Errorf("second partition %+v", p)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(image(part{rootType, "00112233-4455-6677-8899-aabbccddeeff", "root", 34, 40}), false)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		if fix && len(data) >= 1024+512 {
			seal(data) // so that changes get past the checksums
		}
		table, err := read(data)
		if err != nil {
			return
		}
		table.Event()
		table.VerityPairs()
		for _, p := range table.Partitions {
			if p.Offset < 0 || p.Size <= 0 || p.Offset+p.Size > int64(len(data)) {
				t.Fatalf("partition %+v in %d bytes", p, len(data))
			}
		}
	})
}
