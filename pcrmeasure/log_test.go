package pcrmeasure_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode[T any](t testing.TB, path string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(read(t, path), &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

type boot struct {
	Name      string
	Args      []string                     `json:"qemu_args"`
	PCRs      map[string]map[string]string `json:"pcrs"`
	Predicted map[string]string            `json:"predicted_from_artifacts_sha256"`
	Cmdline   string                       `json:"cmdline_seen_by_kernel"`
}

// extendedByOS are PCRs that the operating system extends without a record in
// the firmware's log.
var extendedByOS = map[int]bool{10: true}

// TestVectorBootLogs replays the log of each recorded boot against the PCRs
// read from its TPM: all registers of all banks.
func TestVectorBootLogs(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(testenv.Vectors(t, "own/tpm/boots"), "*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("%d boots: %v", len(dirs), err)
	}
	compared := 0
	for _, dir := range dirs {
		b := decode[boot](t, filepath.Join(dir, "boot.json"))
		log, err := pcrmeasure.ReadLog(b.Name, read(t, filepath.Join(dir, "eventlog.bin")), pcrmeasure.FormAuto)
		if err != nil {
			t.Errorf("%s: %v", b.Name, err)
			continue
		}
		if log.Form != pcrmeasure.FormAgile || len(log.Problems()) > 0 || len(log.Banks) != len(b.PCRs) {
			t.Errorf("%s: form %s, problems %v, banks %v", b.Name, log.Form, log.Problems(), log.Banks)
		}
		flagged := false
		for _, f := range log.Findings {
			if f.Code == pcrmeasure.KernelNotMeasured {
				flagged = true
			} else {
				t.Errorf("%s: %s: %s", b.Name, f.Code, f.Text)
			}
		}
		if want := strings.HasPrefix(b.Name, "direct-secboot"); flagged != want {
			t.Errorf("%s: kernel not measured under Secure Boot: %t, want %t", b.Name, flagged, want)
		}
		for _, bank := range log.Banks {
			got, err := log.Replay(bank)
			if err != nil {
				t.Fatal(err)
			}
			for r, d := range got {
				if extendedByOS[r] {
					continue
				}
				compared++
				if want := b.PCRs[bank.String()][strconv.Itoa(r)]; d.Hex() != want {
					t.Errorf("%s: %s PCR %d = %s, want %s", b.Name, bank, r, d.Hex(), want)
				}
			}
		}
	}
	t.Logf("%d registers of %d boots", compared, len(dirs))
}

// TestVectorMutants compares with what go-eventlog says about logs with a
// flipped bit: a bank that it rejects does not replay to the machine's PCRs.
func TestVectorMutants(t *testing.T) {
	type mutant struct {
		Boot string
		Go   map[string]string `json:"go_eventlog_0_0_2_replay"`
		Op   struct{ Flip [2]int }
	}
	root := testenv.Vectors(t, "own/tpm")
	accepted, rejected, unreadable := 0, 0, 0
	for _, line := range strings.Split(strings.TrimSpace(string(read(t, filepath.Join(root, "eventlog_mutants.jsonl")))), "\n") {
		var m mutant
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(root, "boots", m.Boot)
		pcrs := decode[boot](t, filepath.Join(dir, "boot.json")).PCRs
		data := read(t, filepath.Join(dir, "eventlog.bin"))
		data[m.Op.Flip[0]] ^= 1 << m.Op.Flip[1]
		log, err := pcrmeasure.ReadLog("mutant", data, pcrmeasure.FormAuto)
		if err != nil {
			unreadable++
			if !strings.Contains(err.Error(), "offset") {
				t.Errorf("%s: no offset in %v", line, err)
			}
		}
		for name, verdict := range m.Go {
			bank, err := digest.ParseAlgorithm(name)
			if err != nil {
				t.Fatal(err)
			}
			equal := log != nil
			if log != nil {
				got, err := log.Replay(bank)
				equal = err == nil
				for r, d := range got {
					if !extendedByOS[r] && d.Hex() != pcrs[name][strconv.Itoa(r)] {
						equal = false
					}
				}
			}
			switch {
			case equal:
				accepted++
			default:
				rejected++
			}
			// go-eventlog looks only at the PCRs that the log extends, and so do
			// we beyond that: what it rejects we must not accept.
			if verdict != "accept" && equal {
				t.Errorf("%s: %s replays to the machine's PCRs, want not", line, name)
			}
			if verdict == "accept" && !equal && log != nil && len(log.Findings) == 0 {
				t.Errorf("%s: %s does not replay and nothing says why", line, name)
			}
		}
	}
	t.Logf("%d banks accepted, %d rejected, %d logs unreadable", accepted, rejected, unreadable)
	if accepted == 0 || rejected == 0 || unreadable == 0 {
		t.Error("the mutants do not cover all outcomes")
	}
}

// TestFieldLogs replays logs of real machines against the PCRs read from them.
func TestFieldLogs(t *testing.T) {
	root := testenv.Vectors(t, "published/field/tpm")
	type table struct {
		Cases []struct {
			Log, Form, Bank string
			Locality        *byte `json:"startup_locality"`
			Events          int
			PCRs            map[string]string
		}
	}
	for _, c := range decode[table](t, filepath.Join(root, "go-tpm-tools/pcrs.json")).Cases {
		log, err := pcrmeasure.ReadLog(c.Log, read(t, filepath.Join(root, "go-tpm-tools", c.Log)), pcrmeasure.FormAuto)
		if err != nil {
			t.Errorf("%s: %v", c.Log, err)
			continue
		}
		if string(log.Form) != c.Form || (c.Locality != nil) != (log.Locality != 0) || c.Locality != nil && *c.Locality != log.Locality {
			t.Errorf("%s: form %s, locality %d", c.Log, log.Form, log.Locality)
		}
		bank, err := digest.ParseAlgorithm(c.Bank)
		if err != nil {
			t.Fatal(err)
		}
		got, err := log.Replay(bank)
		if err != nil {
			t.Errorf("%s: %v", c.Log, err)
			continue
		}
		for r, want := range c.PCRs {
			n, err := strconv.Atoi(r)
			if err != nil {
				t.Fatal(err)
			}
			if got[n].Hex() != want {
				t.Errorf("%s: %s PCR %s = %s, want %s", c.Log, c.Bank, r, got[n].Hex(), want)
			}
		}
		for _, p := range log.Problems() {
			t.Errorf("%s: %s", c.Log, p)
		}
		for _, f := range log.Findings {
			t.Logf("%s: %s: %s", c.Log, f.Code, f.Text)
		}
	}
}

// TestFieldSHA1 replays the log of a machine with a TPM 1.2.
func TestFieldSHA1(t *testing.T) {
	type dump struct {
		Log struct {
			PCRs []struct {
				Index  int
				Digest []byte
			}
			Raw []byte
		}
	}
	d := decode[dump](t, testenv.Vectors(t, "published/field/tpm/go-eventlog/linux_tpm12.json"))
	log, err := pcrmeasure.ReadLog("tpm12", d.Log.Raw, pcrmeasure.FormAuto)
	if err != nil {
		t.Fatal(err)
	}
	if log.Form != pcrmeasure.FormSHA1 {
		t.Errorf("form %s", log.Form)
	}
	got, err := log.Replay(digest.SHA1)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, p := range d.Log.PCRs {
		if p.Index >= pcrmeasure.Count || p.Index >= 10 && p.Index != 17 {
			continue
		}
		compared++
		if want, _ := digest.FromBytes(digest.SHA1, p.Digest); got[p.Index] != want {
			t.Errorf("PCR %d = %s, want %s", p.Index, got[p.Index].Hex(), want.Hex())
		}
	}
	if compared < 8 {
		t.Errorf("%d PCRs compared", compared)
	}
	for _, p := range log.Problems() {
		t.Error(p)
	}
}

// TestFieldOtherLogs reads the logs that come without PCRs; what is damaged is
// refused with its offset.
func TestFieldOtherLogs(t *testing.T) {
	root := testenv.Vectors(t, "published/field")
	for file, want := range map[string]struct {
		form pcrmeasure.Form
		err  string
	}{
		"tpm/keylime/binary_bios_measurements":                               {form: pcrmeasure.FormAgile},
		"tpm/keylime/binary_bios_measurements-bogus":                         {err: "offset 0x20"},
		"tpm/keylime/binary_bios_measurements-empty":                         {err: "offset 0"},
		"tpm/keylime/mb_log.b64":                                             {form: pcrmeasure.FormAgile},
		"tpm/go-attestation/coreos_36_shielded_vm_no_secure_boot_eventlog":   {form: pcrmeasure.FormAgile},
		"tpm/go-attestation/crypto_agile_eventlog":                           {form: pcrmeasure.FormAgile},
		"tpm/go-attestation/ebs_event_missing_eventlog":                      {form: pcrmeasure.FormSHA1},
		"tpm/go-attestation/option_rom_eventlog":                             {form: pcrmeasure.FormSHA1},
		"tpm/go-attestation/sb_cert_eventlog":                                {form: pcrmeasure.FormAgile},
		"tpm/go-attestation/short_no_action_eventlog":                        {form: pcrmeasure.FormSHA1},
		"tpm/go-attestation/ubuntu_2104_shielded_vm_no_secure_boot_eventlog": {form: pcrmeasure.FormAgile},
		"ccel/go-eventlog/CCEL_unpadded.data.bin":                            {form: pcrmeasure.FormCCEL},
		"ccel/go-eventlog/cos-113-intel-tdx.bin":                             {form: pcrmeasure.FormCCEL},
		"ccel/go-eventlog/cos-113-intel-tdx-dupe-separator.bin":              {form: pcrmeasure.FormCCEL},
		"ccel/go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin":     {form: pcrmeasure.FormCCEL},
		"ccel/go-eventlog/event_log.bin":                                     {form: pcrmeasure.FormCCEL},
		"ccel/trustee/CCEL_data":                                             {err: "offset 0x164a"}, // the area ends inside its last event
		"ccel/trustee/CCEL_data_gcp":                                         {form: pcrmeasure.FormCCEL},
		"ccel/trustee/CCEL_data_grub":                                        {form: pcrmeasure.FormCCEL},
		"ccel/trustee/CCEL_data_ovmf":                                        {form: pcrmeasure.FormCCEL},
	} {
		data := read(t, filepath.Join(root, file))
		if strings.HasSuffix(file, ".b64") {
			var err error
			if data, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(data))); err != nil {
				t.Fatal(err)
			}
		}
		log, err := pcrmeasure.ReadLog(file, data, pcrmeasure.FormAuto)
		switch {
		case want.err != "":
			if err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%s: %v, want an error with %q", file, err, want.err)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", file, err)
			continue
		case log.Form != want.form:
			t.Errorf("%s: form %s, want %s", file, log.Form, want.form)
		}
		if _, err := log.ReplayAll(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, p := range log.Problems() {
			t.Errorf("%s: %s", file, p)
		}
		for _, f := range log.Findings {
			t.Logf("%s: %s: %s", file, f.Code, f.Text)
		}
	}
}
