package tdxmeasure_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/tdxmeasure"
)

// disk is a partition table with two of four entries used.
func disk() []byte {
	b := make([]byte, 512+4*128)
	copy(b, "EFI PART")
	binary.LittleEndian.PutUint32(b[80:], 4)
	binary.LittleEndian.PutUint32(b[84:], 128)
	b[512] = 1
	b[512+2*128+5] = 2
	return b
}

func TestGPTEvent(t *testing.T) {
	d := disk()
	got, err := tdxmeasure.GPTEvent(d)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte(nil), d[:92]...)
	want = append(want, 2, 0, 0, 0, 0, 0, 0, 0)
	want = append(want, d[512:640]...)
	want = append(want, d[512+256:512+384]...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, edit := range map[string]func([]byte) []byte{
		"short":      func(b []byte) []byte { return b[:100] },
		"signature":  func(b []byte) []byte { b[0] = 'x'; return b },
		"entry size": func(b []byte) []byte { b[84] = 1; return b },
		"count":      func(b []byte) []byte { b[83] = 0xff; return b },
	} {
		if _, err := tdxmeasure.GPTEvent(edit(disk())); err == nil || !strings.Contains(err.Error(), "partition table") {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

// TestIndirect has the events in the order that the tool documents.
func TestIndirect(t *testing.T) {
	f := newFiles(t)
	a := tdxmeasure.Artifacts{Firmware: tdxmeasure.Bytes("fw", synthetic(t)), Initrd: tdxmeasure.Bytes("initrd", []byte("initrd"))}
	c := config(t, "tdx-measure")
	res, err := tdxmeasure.New(a).MeasureIndirect(context.Background(), c, tdxmeasure.Indirect{
		BootOrder: []byte{3, 0, 1, 0, 9, 0}, Entries: map[uint16][]byte{1: []byte("one"), 3: []byte("three")},
		GPT: disk(), Shim: f.input(t, "k01-modern.efi"), Grub: f.input(t, "k02-signed.efi"), MokList: []byte("mok"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got [4][]string
	for i, trace := range res.RTMRTrace {
		for _, e := range trace.Events {
			got[i] = append(got[i], e.Label)
		}
	}
	want := [4][]string{
		{
			"TD HOB", "CFV", "variable SecureBoot", "variable PK", "variable KEK", "variable db", "variable dbx", "separator",
			"ACPI table-loader", "ACPI rsdp", "ACPI tables", "BootOrder", "Boot0003", "Boot0001", "variable SbatLevel",
		},
		{
			"action Calling EFI Application from Boot Option", "separator", "partition table", "shim, Authenticode", "GRUB, Authenticode",
			"action Exit Boot Services Invocation", "action Exit Boot Services Returned with Success",
		},
		{"MokList", "MokListX", "MokListTrusted", "kernel command line", "initrd"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	units, err := tdxmeasure.UTF16("", c.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	if e := res.RTMRTrace[2].Events[3]; e.Digest != digest.SHA384.Sum(units) {
		t.Error("the command line is measured with an end mark")
	}
}
