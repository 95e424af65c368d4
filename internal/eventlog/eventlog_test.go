package eventlog_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/testenv"
)

// TestVectorBoots replays the logs of recorded boots against the PCRs of the
// TPM, all banks.
func TestVectorBoots(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(testenv.Vectors(t, "own/tpm/boots"), "*"))
	if err != nil {
		t.Fatal(err)
	}
	logs, registers := 0, 0
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "eventlog.bin"))
		if err != nil {
			continue
		}
		logs++
		name := filepath.Base(dir)
		log, err := eventlog.Parse(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, p := range log.Problems() {
			t.Errorf("%s: event %d (%s) contradicts its data", name, p.Index, p.Label)
		}
		var boot struct{ PCRs map[string]map[string]string }
		raw, err := os.ReadFile(filepath.Join(dir, "boot.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &boot); err != nil {
			t.Fatal(err)
		}
		for bank, pcrs := range boot.PCRs {
			alg, err := digest.ParseAlgorithm(bank)
			if err != nil {
				t.Fatal(err)
			}
			for r, got := range log.Replay(alg) {
				registers++
				if want := pcrs[strconv.Itoa(int(r))]; got.Hex() != want {
					t.Errorf("%s: %s PCR %d = %s, want %s", name, bank, r, got.Hex(), want)
				}
			}
		}
	}
	if logs == 0 {
		t.Error("no logs")
	}
	t.Logf("%d logs, %d registers", logs, registers)
}

func sample() []byte {
	sum := func(text string) []digest.Digest { return []digest.Digest{digest.SHA384.Sum([]byte(text))} }
	b := eventlog.AppendHead(nil, digest.SHA384)
	for _, e := range []eventlog.Event{
		{Register: 1, Type: eventlog.Separator, Digests: sum("\x00\x00\x00\x00"), Data: make([]byte, 4)},
		{Register: 2, Type: eventlog.Action, Digests: sum("Exit Boot Services Invocation"), Data: []byte("Exit Boot Services Invocation")},
	} {
		b = e.Append(b)
	}
	return b
}

func TestPadding(t *testing.T) {
	plain, err := eventlog.Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	if len(plain.Events) != 3 {
		t.Fatalf("%d events, want 3", len(plain.Events))
	}
	for name, fill := range map[string]byte{"ones": 0xff, "zeros": 0} {
		log, err := eventlog.Parse(append(sample(), slices.Repeat([]byte{fill}, 1000)...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(plain.Replay(digest.SHA384), log.Replay(digest.SHA384), cmp.Comparer(func(a, b digest.Digest) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestErrors(t *testing.T) {
	cut := sample()
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "0 are left"},
		"cut in a record": {cut[:len(cut)-5], "bytes of event data"},
		"many digests": {func() []byte {
			b := eventlog.AppendHead(nil, digest.SHA384)
			return append(b, 1, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		}(), "2 digests, want at most 1"},
		"unknown algorithm": {func() []byte {
			b := eventlog.AppendHead(nil, digest.SHA384)
			return append(b, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0xb, 0, 0, 0, 0, 0)
		}(), "algorithm 0xb"},
		"no algorithm": {eventlog.AppendHead(nil), "0 algorithms"},
	} {
		_, err := eventlog.Parse(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error = %v, want it to contain %q", name, err, c.want)
		}
	}
	for text, want := range map[string]string{
		`{}`:                              "want a list",
		`[1]`:                             "/0: a number",
		`[{}]`:                            "no imr",
		`[{"imr":4}]`:                     "imr is not a number up to 3",
		`[{"imr":0,"digest":"00"}]`:       "digest",
		`[{"imr":0,"event_payload":"x"}]`: "not hexadecimal",
	} {
		_, err := eventlog.ParseJSON("log.json", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want it to contain %q", text, err, want)
		}
	}
}

// TestRecords: a log reads as it was written, with the place of each record,
// and its bytes stay as they are. The first record of a TDX guest belongs to
// register 1.
func TestRecords(t *testing.T) {
	want := []eventlog.Event{
		{Register: 1, Type: eventlog.HandoffTables2, Data: []byte("tables")},
		{Register: 4, Type: eventlog.Separator, Data: []byte{0, 0, 0, 0}},
		{Register: 2, Type: eventlog.Action, Data: []byte("x")},
	}
	data := eventlog.AppendHead(nil, digest.SHA384)
	for i := range want {
		want[i].Digests = []digest.Digest{digest.SHA384.Sum(want[i].Data)}
		want[i].Offset = int64(len(data))
		data = want[i].Append(data)
	}
	before := slices.Clone(data)
	log, err := eventlog.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, log.Events[1:], cmp.Comparer(func(a, b digest.Digest) bool { return a == b })); d != "" {
		t.Errorf("-written +read:\n%s", d)
	}
	if log.Events[0].Offset != 0 {
		t.Errorf("the head is at %d", log.Events[0].Offset)
	}
	if !slices.Equal(before, data) {
		t.Error("reading changed the log")
	}
}
