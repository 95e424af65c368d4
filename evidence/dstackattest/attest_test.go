package dstackattest_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"

	"github.com/retally/retally/evidence/dstackattest"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/malformed"
)

// quote begins as a quote does: nothing here reads more of it.
func quote() []byte {
	return append([]byte{4, 0, 2, 0, 0x81, 0, 0, 0}, bytes.Repeat([]byte{7}, 5000)...)
}

func report() []byte { return append([]byte{3, 0, 0, 0}, bytes.Repeat([]byte{9}, 1180)...) }

func attestation() fake.Attestation {
	return fake.Attestation{
		Quote: quote(), ReportData: [64]byte{1, 2, 3}, Config: `{"os_image_hash":"00"}`,
		Events: []fake.DstackEvent{
			{IMR: 0, Type: 0x8000000b, Digest: bytes.Repeat([]byte{1}, 48)},
			{IMR: 3, Type: 0x08000001, Name: "compose-hash", Payload: []byte{0xab}},
		},
	}
}

func TestParse(t *testing.T) {
	a := attestation()
	for version, raw := range [][]byte{a.V0(), a.V1()} {
		if !dstackattest.Recognize(raw) || !dstackattest.Recognize(raw[:512]) {
			t.Errorf("version %d is not recognized", version)
		}
		got, err := dstackattest.Parse("a", raw)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if got.Version != version || got.Platform != dstackattest.TDX || !bytes.Equal(got.Quote, a.Quote) || !bytes.Equal(got.ReportData, a.ReportData[:]) || got.Config != a.Config || len(got.Unread) != 0 {
			t.Errorf("version %d: got %+v", version, got)
		}
		const want = `[{"imr":0,"event_type":2147483659,"digest":"010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101","event":"","event_payload":""},{"imr":3,"event_type":134217729,"digest":"","event":"compose-hash","event_payload":"ab"}]`
		if string(got.EventLog) != want {
			t.Errorf("version %d: log %s", version, got.EventLog)
		}
	}
}

func TestSNP(t *testing.T) {
	a := fake.Attestation{Report: report(), Certificates: [][]byte{[]byte("one"), []byte("two")}, Config: "{}"}
	for version, raw := range [][]byte{a.V0(), a.V1()} {
		got, err := dstackattest.Parse("a", raw)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if !dstackattest.Recognize(raw) || got.Platform != dstackattest.SNP || got.Quote != nil || !bytes.Equal(got.Report, a.Report) || len(got.Certificates) != 2 || string(got.Certificates[1]) != "two" || got.MRConfig != "{}" {
			t.Errorf("version %d: got %+v", version, got)
		}
	}
}

// TestSelection: dstack keeps three events of RTMR0 without the others; they lead
// to no register. One more event, and the log speaks for itself.
func TestSelection(t *testing.T) {
	a := attestation()
	acpi := fake.DstackEvent{Type: 10, Digest: bytes.Repeat([]byte{2}, 48), Name: "acpi-loader", Payload: []byte("ACPI DATA")}
	a.Events = []fake.DstackEvent{acpi, acpi, acpi, a.Events[1]}
	got, err := dstackattest.Parse("a", a.V1())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got.EventLog), `"imr":0`) || !strings.Contains(string(got.EventLog), "compose-hash") || len(got.Unread) != 1 || !strings.Contains(got.Unread[0], "3 events of rtmr0") {
		t.Errorf("log %s, unread %q", got.EventLog, got.Unread)
	}
	a.Events = append(a.Events, fake.DstackEvent{Type: 4, Digest: bytes.Repeat([]byte{3}, 48)})
	if got, err = dstackattest.Parse("a", a.V1()); err != nil || strings.Count(string(got.EventLog), `"imr":0`) != 4 || len(got.Unread) != 0 {
		t.Errorf("%v: log %s, unread %q", err, got.EventLog, got.Unread)
	}
}

func TestPlatforms(t *testing.T) {
	nitro := append([]byte{0, 2, 0x41, 0x01}, append([]byte{0x84}, make([]byte, 79)...)...)
	gcp := attestation().V0()
	gcp[1] = 1
	for _, tt := range []struct {
		raw  []byte
		want dstackattest.Platform
	}{{nitro, dstackattest.Nitro}, {gcp, dstackattest.GCPTDX}} {
		got, err := dstackattest.Parse("a", tt.raw)
		if err != nil || got.Platform != tt.want || !dstackattest.Recognize(tt.raw) {
			t.Errorf("%s: got %+v %v", tt.want, got, err)
		}
		if tt.want == dstackattest.GCPTDX && (len(got.Unread) != 1 || got.ReportData != nil) {
			t.Errorf("what is behind the TPM's quote is not named: %+v", got)
		}
	}
}

func TestErrors(t *testing.T) {
	a := attestation()
	v0, v1 := a.V0(), a.V1()
	many := a
	many.Events = make([]fake.DstackEvent, 5000)
	edit := func(b []byte, old, new string) []byte {
		return bytes.Replace(bytes.Clone(b), []byte(old), []byte(new), 1)
	}
	twice := msgp.AppendMapHeader(nil, 2)
	for range 2 {
		twice = msgp.AppendUint64(msgp.AppendString(twice, "version"), 1)
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"nothing":                {nil, "found nothing"},
		"something else":         {[]byte{1, 2, 3}, "want a dstack attestation"},
		"too large":              {make([]byte, dstackattest.MaxSize+1), "at most"},
		"cut":                    {v0[:len(v0)-1], "bytes left"},
		"more":                   {append(bytes.Clone(v0), 0), "1 bytes more"},
		"another platform":       {append([]byte{0, 9}, v0[2:]...), "platform: found 9"},
		"many events":            {many.V0(), "event log: found 5000"},
		"many events, version 1": {many.V1(), "a list of at most 4096"},
		"a length of 4 bytes":    {append([]byte{0, 0, 3}, v0[3:]...), "a length of more than 30 bits"},
		"a longer length":        {append([]byte{0, 0, 0x02, 1, 0, 0}, v0[4:]...), "the shortest form"},
		"no text":                {edit(v0, "compose-hash", "compose-has\xff"), "want text"},
		"version 1 cut":          {v1[:len(v1)-1], "want text"},
		"version 1 more":         {append(bytes.Clone(v1), 0), "1 bytes more"},
		"version 2":              {edit(v1, "version\x01", "version\x02"), "version: found 2, want 1"},
		"twice":                  {twice, `"version" twice`},
		"another stack":          {edit(v1, "\xa6dstack", "\xa6dstock"), `found "dstock"`},
		"another kind":           {edit(v1, "\xa3tdx", "\xa3tdy"), `found "tdy"`},
		"another member":         {edit(v1, "\xa5stack", "\xa5stock"), `the member "stock"`},
		"data before kind":       {edit(edit(v1, "\xa4kind\xa3tdx", "\xa4data\xa3tdx"), "zzz", ""), "kind, then data"},
		"a byte of 256":          {edit(v1, "report_data\xdc\x00\x40\x01", "report_data\xdc\x00\x40\xcd\x01\x00"), "a number up to 255"},
		"register 4":             {edit(v1, "\xa3imr\x03", "\xa3imr\x04"), "a number up to 3"},
	} {
		got, err := dstackattest.Parse("a", tt.raw)
		var typed *malformed.Error
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %+v, %v, want %q", name, got, err, tt.want)
		}
	}
}

// FuzzParse: no panic, and what is read is no larger than what was given.
func FuzzParse(f *testing.F) {
	a := attestation()
	snp := fake.Attestation{Report: report(), Certificates: [][]byte{{1}}}
	for _, seed := range [][]byte{a.V0(), a.V1(), snp.V0(), snp.V1(), {0, 2, 8, 0x84, 0}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		dstackattest.Recognize(raw)
		got, err := dstackattest.Parse("fuzz", raw)
		if err != nil {
			return
		}
		if len(got.Quote) > len(raw) || len(got.Report) > len(raw) || len(got.Config) > len(raw) || got.Quote != nil && got.Report != nil {
			t.Fatalf("%d bytes give %+v", len(raw), got)
		}
	})
}
