package eventlog_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/retally/retally/internal/eventlog"
)

func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func tagged(id, size uint32, data string) []byte {
	return append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, id), size), data...)
}

func loaded(size uint64, nodes ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 24), size)
	for _, n := range nodes {
		b = append(b, n...)
	}
	return b
}

func node(kind, sub byte, data []byte) []byte {
	return append(binary.LittleEndian.AppendUint16([]byte{kind, sub}, uint16(4+len(data))), data...)
}

func TestEventText(t *testing.T) {
	long := "grub_cmd: linux /vmlinuz " + strings.Repeat("option=value ", 30)
	path := node(4, 4, wide("\\EFI\\BOOT\\BOOTX64.EFI\x00"))
	end := node(0x7f, 0xff, nil)
	for _, tt := range []struct {
		name  string
		typ   eventlog.Type
		data  []byte
		text  string
		label string
	}{
		{"section of a unified kernel image", eventlog.IPL, wide(".cmdline\x00"), ".cmdline", "IPL .cmdline"},
		{"the same without an end", eventlog.IPL, wide(".linux"), ".linux", "IPL .linux"},
		{"other letters", eventlog.IPL, wide("Žluť.efi\x00"), "Žluť.efi", "IPL Žluť.efi"},
		{"ASCII", eventlog.IPL, []byte("MokList\x00"), "MokList", "IPL MokList"},
		{"ASCII of even length", eventlog.IPL, []byte("grub"), "grub", "IPL grub"},
		{"one letter", eventlog.IPL, []byte("a"), "a", "IPL a"},
		{"one wide letter", eventlog.IPL, wide("a"), "a", "IPL a"},
		{"UTF-8", eventlog.IPL, []byte("kernel_cmdline: näh"), "kernel_cmdline: näh", "IPL kernel_cmdline: näh"},
		{"long", eventlog.IPL, []byte(long + "\x00"), long, "IPL " + long[:99] + "…"},
		{"several lines", eventlog.IPL, []byte("menuentry A {\n\tlinux /a\n}"), "menuentry A {\n\tlinux /a\n}", "IPL menuentry A { linux /a }"},
		{"binary", eventlog.IPL, []byte{1, 2, 3, 4}, "", "IPL"},
		{"control characters", eventlog.IPL, []byte("a\x1b[31mb"), "", "IPL"},
		{"an end within", eventlog.IPL, []byte("a\x00b"), "", "IPL"},
		{"a wide end within", eventlog.IPL, wide("a\x00b"), "", "IPL"},
		{"half a pair", eventlog.IPL, []byte{0x41, 0, 0, 0xd8}, "", "IPL"},
		{"nothing", eventlog.IPL, nil, "", "IPL"},
		{"ends only", eventlog.IPL, []byte{0, 0, 0, 0}, "", "IPL"},
		{"tag of the EFI stub", eventlog.EventTag, tagged(0x8f3b22ed, 26, "LOADED_IMAGE::LoadOptions\x00"), "0x8f3b22ed LOADED_IMAGE::LoadOptions", "event tag 0x8f3b22ed LOADED_IMAGE::LoadOptions"},
		{"tag with wide text", eventlog.EventTag, tagged(0x1, 8, string(wide("conf"))), "0x1 conf", "event tag 0x1 conf"},
		{"tag with bytes", eventlog.EventTag, tagged(0x2, 3, "\x01\x02\x03"), "0x2", "event tag 0x2"},
		{"tag that says it is longer", eventlog.EventTag, tagged(0x3, 99, "text"), "0x3", "event tag 0x3"},
		{"no tag", eventlog.EventTag, []byte("tag"), "", "event tag"},
		{"path of a program", eventlog.BootApplication, loaded(uint64(len(path)+len(end)), path, end), `\EFI\BOOT\BOOTX64.EFI`, `boot application \EFI\BOOT\BOOTX64.EFI`},
		{"path without an end", eventlog.BootApplication, loaded(uint64(len(path)), path), `\EFI\BOOT\BOOTX64.EFI`, `boot application \EFI\BOOT\BOOTX64.EFI`},
		{"path in two parts behind a disk", eventlog.BootDriver, loaded(18+4, node(1, 1, make([]byte, 2)), node(4, 4, wide(`\A`)), node(4, 4, wide(`\B`))), `\A\B`, `boot driver \A\B`},
		{"a path longer than the data", eventlog.BootApplication, loaded(1<<60, path), "", "boot application"},
		{"a node without a length", eventlog.BootApplication, loaded(4, []byte{4, 4, 0, 0}), "", "boot application"},
		{"a node longer than the path", eventlog.BootApplication, loaded(4, []byte{4, 4, 9, 0}), "", "boot application"},
		{"description", eventlog.FirmwareBlob2, append([]byte{3}, "Fv1rest"...), "Fv1", "firmware blob Fv1"},
		{"description longer than the data", eventlog.HandoffTables2, append([]byte{200}, "x"...), "", "hand-off tables"},
		{"a type without text", eventlog.GPT, []byte("text"), "", "partition table"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := eventlog.Event{Type: tt.typ, Data: tt.data}
			if got := e.Text(); got != tt.text {
				t.Errorf("text %q, want %q", got, tt.text)
			}
			if got := e.Label(); got != tt.label {
				t.Errorf("label %q, want %q", got, tt.label)
			}
		})
	}
}

// FuzzEventText: labels are one short line, and texts hold nothing that moves a
// cursor.
func FuzzEventText(f *testing.F) {
	f.Add(uint32(eventlog.IPL), wide(".linux\x00"))
	f.Add(uint32(eventlog.EventTag), tagged(1, 4, "text"))
	f.Add(uint32(eventlog.BootApplication), loaded(40, node(4, 4, wide("\\a")), node(0x7f, 0xff, nil)))
	f.Fuzz(func(t *testing.T, typ uint32, data []byte) {
		e := eventlog.Event{Type: eventlog.Type(typ), Data: data}
		switch e.Type {
		case eventlog.VariableConfig, eventlog.VariableBoot, eventlog.VariableAuth:
			return // names as they are
		}
		text, label := e.Text(), e.Label()
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\x1b\x7f") {
			t.Fatalf("text %q", text)
		}
		if strings.ContainsAny(label, "\n\r") || utf8.RuneCountInString(label) > 140 {
			t.Fatalf("label %q", label)
		}
	})
}
