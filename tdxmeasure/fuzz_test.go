package tdxmeasure_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/tdxmeasure"
)

// FuzzMRTD demands that whatever parses is measured in both orders, or
// refused with a place, and that the two orders come out of one walk as they
// do alone.
func FuzzMRTD(f *testing.F) {
	// Small inputs: the fuzzer spends its time on making large ones smaller.
	f.Add(append([]byte("TDVF\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"), footer(110-16)...), false)
	f.Add([]byte("short"), true)
	f.Fuzz(func(t *testing.T, data []byte, readOn bool) {
		fw := tdxmeasure.Bytes("fw", data)
		tdvf, err := ovmf.ReadTDVF(fw.R, fw.Size)
		if err != nil {
			return
		}
		var pages uint64
		for _, s := range tdvf.Sections {
			pages += s.MemorySize / 4096
		}
		if pages > 1<<14 {
			return // slow, not wrong
		}
		opt := tdxmeasure.MRTDOptions{ReadOn: readOn}
		both, err := tdxmeasure.MeasureMRTD(context.Background(), fw, tdvf, opt, tdxmeasure.SinglePass, tdxmeasure.TwoPass)
		if err != nil {
			var typed *ovmf.Error
			if !errors.As(err, &typed) {
				t.Fatalf("error %v has no place", err)
			}
			return
		}
		one, err := tdxmeasure.MeasureMRTD(context.Background(), fw, tdvf, opt, tdxmeasure.TwoPass)
		if err != nil || compute(t, one[0]) != compute(t, both[1]) {
			t.Fatalf("two passes alone differ: %v", err)
		}
		if _, err := tdxmeasure.TDHOB(tdvf.Sections, 2<<30, tdxmeasure.HOBOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

// footer is the end of a firmware image whose descriptor is back bytes before
// the footer's start.
func footer(back int) []byte {
	le := binary.LittleEndian
	b := make([]byte, back-62)
	t := le.AppendUint32(b, uint32(16+back))
	t = le.AppendUint16(t, 22)
	t = append(t, ovmf.TDXMetadataGUID[:]...)
	t = le.AppendUint16(t, 40)
	t = append(t, ovmf.FooterGUID[:]...)
	return append(t, make([]byte, 32)...)
}

// FuzzKernelHeader demands that edits stay in the header and never touch the
// caller's bytes.
func FuzzKernelHeader(f *testing.F) {
	k := make([]byte, 4096)
	copy(k[0x202:], "HdrS\x0f\x02")
	f.Add(k, int64(5000), uint64(2<<30))
	f.Add(k, int64(0), uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, initrd int64, memory uint64) {
		before := bytes.Clone(data)
		in := tdxmeasure.Bytes("kernel", data)
		k, err := tdxmeasure.ReadKernel(in)
		if err != nil {
			return
		}
		for _, rule := range []tdxmeasure.HeaderRule{tdxmeasure.HeaderQEMU, tdxmeasure.HeaderDstack} {
			edits, err := k.Edits(initrd, memory, rule)
			if err != nil {
				continue
			}
			over := make([]byte, len(data))
			if _, err := k.Overlay(in.R, edits).ReadAt(over, 0); err != nil {
				t.Fatal(err)
			}
			for _, e := range edits {
				if e.Offset < 0x20 || e.Offset+int64(len(e.Bytes)) > 0x260 {
					t.Fatalf("edit %+v outside the header", e)
				}
				if !bytes.Equal(over[e.Offset:e.Offset+int64(len(e.Bytes))], e.Bytes) {
					t.Fatalf("edit %+v is not there", e)
				}
			}
			tdxmeasure.New(tdxmeasure.Artifacts{Kernel: in})
		}
		if !bytes.Equal(before, data) {
			t.Fatal("the caller's bytes were changed")
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"boot_config":{"cpus":4,"memory":"2048M","bios":"OVMF.fd","acpi_tables":"a.bin"},"direct":{"kernel":"k","initrd":"i","cmdline":""}}`))
	f.Add([]byte(`{"bios":"ovmf.fd","kernel":"bzImage","cmdline":"x","initrd":"i","rootfs_hash":"00"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := tdxmeasure.ParseMetadata("metadata.json", data)
		if err == nil && (m.Memory == 0 || m.Memory > tdxmeasure.MaxMemory) {
			t.Fatalf("memory %d", m.Memory)
		}
		if _, err := tdxmeasure.ParseDstackConfig("vm_config", data); err == nil {
			return
		}
	})
}

// FuzzMeasurementDocument demands that sections survive their short form.
func FuzzMeasurementDocument(f *testing.F) {
	witness, err := hex.DecodeString("80100904000609020b021010")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(witness)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = tdxmeasure.ParseDstackMeasurement(data)
		sections, err := tdxmeasure.ParseHOBWitness(data)
		if err != nil {
			return
		}
		short := tdxmeasure.HOBWitness(sections)
		again, err := tdxmeasure.ParseHOBWitness(short)
		if err != nil {
			t.Fatalf("short form %x: %v", short, err)
		}
		if second := tdxmeasure.HOBWitness(again); !bytes.Equal(short, second) {
			t.Fatalf("short form %x becomes %x", short, second)
		}
	})
}

// FuzzReplayLog demands that the registers are the fold of the trace.
func FuzzReplayLog(f *testing.F) {
	log := eventlog.AppendHead(nil, digest.SHA384)
	log = eventlog.Event{Register: 1, Type: eventlog.Separator, Digests: []digest.Digest{digest.SHA384.Sum(make([]byte, 4))}, Data: make([]byte, 4)}.Append(log)
	f.Add(log)
	f.Add([]byte(`[{"imr":3,"event_type":134217729,"event":"app-id","event_payload":"00"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, _, err := tdxmeasure.ReplayLog("log", data)
		if err != nil {
			return
		}
		for i, trace := range r.Trace {
			if compute(t, trace) != r.RTMR[i] {
				t.Fatalf("RTMR%d is not the fold of its trace", i)
			}
		}
	})
}
