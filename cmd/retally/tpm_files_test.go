package main

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testpe"
	"github.com/retally/retally/pcrmeasure"
)

// tpmArtifacts writes what a synthetic machine with a TPM boots, and logs of such
// machines, into a folder.
func tpmArtifacts(t interface{ Fatal(...any) }, dir string) {
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	kernel := testpe.Image([]string{".text"}, []byte("kernel"))
	for name, data := range map[string][]byte{
		"kernel.efi": kernel,
		"uki.efi":    testpe.Image([]string{".linux", ".osrel", ".cmdline", ".initrd", ".uname"}, kernel, []byte("ID=x\n"), []byte("console=ttyS0"), []byte("initrd"), []byte("6.1")),
		"tpm.log":    tpmLog(""), "tpm-bad.log": tpmLog("bad"), "tpm-secure.log": tpmLog("secure"),
		"gpt.img": verityDisk(check),
		// As systemd-pcrlock writes it, of one component.
		"uki.pcrlock": []byte(`{"records":[{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"` + digest.SHA256.Sum([]byte(".linux\x00")).Hex() + `"}]}]}` + "\n"),
	} {
		check(os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

// tpmLog is a log of a machine that started an image: with a digest that
// contradicts its data, or with Secure Boot on and no image.
func tpmLog(kind string) []byte {
	banks := []digest.Algorithm{digest.SHA1, digest.SHA256}
	log := eventlog.AppendHead(nil, banks...)
	add := func(pcr uint32, typ eventlog.Type, data, measured string) {
		e := eventlog.Event{Register: pcr, Type: typ, Data: []byte(data)}
		for _, b := range banks {
			e.Digests = append(e.Digests, b.Sum([]byte(measured)))
		}
		log = e.Append(log)
	}
	on := "\x00"
	if kind == "secure" {
		on = "\x01"
	}
	secure := efiVariable("SecureBoot", on)
	add(7, eventlog.VariableConfig, secure, secure)
	const calling, separator = "Calling EFI Application from Boot Option", "\x00\x00\x00\x00"
	measured := calling
	if kind == "bad" {
		measured = "another text"
	}
	add(4, eventlog.Action, calling, measured)
	for pcr := range uint32(8) {
		add(pcr, eventlog.Separator, separator, separator)
	}
	if kind != "secure" {
		add(4, eventlog.BootApplication, "an image's path", "the image")
	}
	return log
}

// efiVariable is the data of a variable's event (TCG PC Client Platform Firmware
// Profile, UEFI_VARIABLE_DATA).
func efiVariable(name, value string) string {
	le := binary.LittleEndian
	guid, _ := ovmf.ParseGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	units := utf16.Encode([]rune(name))
	b := append([]byte{}, guid[:]...)
	b = le.AppendUint64(b, uint64(len(units)))
	b = le.AppendUint64(b, uint64(len(value)))
	for _, u := range units {
		b = le.AppendUint16(b, u)
	}
	return string(append(b, value...))
}

// verityDisk is an image with a pair of partitions with dm-verity.
func verityDisk(check func(error)) []byte {
	le := binary.LittleEndian
	const entries = 128
	b := make([]byte, 128<<10)
	head := b[512:]
	copy(head, "EFI PART")
	le.PutUint32(head[8:], 0x10000)
	le.PutUint32(head[12:], 92)
	le.PutUint64(head[24:], 1)
	le.PutUint64(head[32:], uint64(len(b)/512-1))
	le.PutUint64(head[40:], 34)
	le.PutUint64(head[48:], uint64(len(b)/512-34))
	le.PutUint64(head[72:], 2)
	le.PutUint32(head[80:], entries)
	le.PutUint32(head[84:], 128)
	for i, p := range []struct {
		uuid, name  string
		first, last uint64
	}{{"00112233-4455-6677-8899-aabbccddeeff", "app", 40, 47}, {"01020304-0506-0708-090a-0b0c0d0e0f10", "app-verity", 48, 55}} {
		e := b[1024+128*i:]
		for at, text := range map[int]string{0: "0fc63daf-8483-4772-8e79-3d69d8477de4", 16: p.uuid} {
			g, err := ovmf.ParseGUID(text)
			check(err)
			copy(e[at:], g[:])
		}
		le.PutUint64(e[32:], p.first)
		le.PutUint64(e[40:], p.last)
		for j, u := range utf16.Encode([]rune(p.name)) {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	le.PutUint32(head[88:], crc32.ChecksumIEEE(b[1024:1024+entries*128]))
	le.PutUint32(head[16:], crc32.ChecksumIEEE(head[:92]))
	return b
}

// TestSyntheticTPMLog: the logs that the scripts replay say what they are made
// to say.
func TestSyntheticTPMLog(t *testing.T) {
	for kind, want := range map[string][2]int{"": {0, 0}, "bad": {2, 0}, "secure": {0, 1}} {
		log, err := pcrmeasure.ReadLog("log", tpmLog(kind), pcrmeasure.FormAuto)
		if err != nil {
			t.Fatal(err)
		}
		flagged := 0
		for _, f := range log.Findings {
			if f.Code == pcrmeasure.KernelNotMeasured {
				flagged++
			}
		}
		if got := [2]int{len(log.Problems()), flagged}; got != want {
			t.Errorf("%q: %v problems and flags, want %v", kind, got, want)
		}
	}
}
