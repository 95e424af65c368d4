package pcrmeasure_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
)

const benchLog = "published/field/tpm/go-tpm-tools/cos-85-amd-sev.bin" // 24 KB, three banks

// BenchmarkLog parses a log and replays one bank, as go-eventlog does below.
func BenchmarkLog(b *testing.B) {
	data := read(b, testenv.Vectors(b, benchLog))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		log, err := pcrmeasure.ReadLog("log", data, pcrmeasure.FormAuto)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := log.Replay(digest.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLogGoEventlog(b *testing.B) {
	data := read(b, testenv.Vectors(b, benchLog))
	log, err := pcrmeasure.ReadLog("log", data, pcrmeasure.FormAuto)
	if err != nil {
		b.Fatal(err)
	}
	replayed, err := log.Replay(digest.SHA256)
	if err != nil {
		b.Fatal(err)
	}
	bank := register.PCRBank{TCGHashAlgo: 0xb}
	for i, d := range replayed {
		bank.PCRs = append(bank.PCRs, register.PCR{Index: i, Digest: d.Bytes(), DigestAlg: crypto.SHA256})
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tcg.ParseAndReplay(data, bank.MRs(), tcg.ParseOpts{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestGoEventlogAgrees: what go-eventlog accepts as PCRs is what we replay.
func TestGoEventlogAgrees(t *testing.T) {
	for _, name := range []string{"cos-85-amd-sev.bin", "ubuntu-2404-amd-sevsnp.bin", "glinux-alex.bin", "rhel8-uefi.bin", "arch-linux-workstation.bin"} {
		data := read(t, testenv.Vectors(t, "published/field/tpm/go-tpm-tools/"+name))
		log, err := pcrmeasure.ReadLog(name, data, pcrmeasure.FormAuto)
		if err != nil {
			t.Fatal(err)
		}
		replayed, err := log.Replay(digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		bank := register.PCRBank{TCGHashAlgo: 0xb}
		for i, d := range replayed {
			bank.PCRs = append(bank.PCRs, register.PCR{Index: i, Digest: d.Bytes(), DigestAlg: crypto.SHA256})
		}
		events, err := tcg.ParseAndReplay(data, bank.MRs(), tcg.ParseOpts{AllowPadding: true})
		if err != nil {
			t.Errorf("%s: go-eventlog does not accept our PCRs: %v", name, err)
		}
		if len(events) == 0 {
			t.Errorf("%s: go-eventlog has no events", name)
		}
	}
}

// bigUKI is an image of 100 MB with a kernel of 15 MB in it.
func bigUKI() []byte {
	return pe([]string{".text", ".linux", ".initrd"}, make([]byte, 80<<10), pe([]string{".text"}, make([]byte, 15<<20)), make([]byte, 85<<20))
}

// BenchmarkPCR4 predicts PCR 4 of a large unified kernel image; BenchmarkSHA256
// hashes the same file, for comparison.
func BenchmarkPCR4(b *testing.B) {
	img := bigUKI()
	b.SetBytes(int64(len(img)))
	b.ReportAllocs()
	for b.Loop() {
		m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Bytes("uki", img)})
		if _, err := m.PredictOne(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.UKIDirect}, 4); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSHA256(b *testing.B) {
	img := bigUKI()
	b.SetBytes(int64(len(img)))
	for b.Loop() {
		h := sha256.New()
		if _, err := io.Copy(h, bytes.NewReader(img)); err != nil {
			b.Fatal(err)
		}
	}
}
