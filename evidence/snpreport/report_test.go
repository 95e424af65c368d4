package snpreport_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// TestReserved: every byte that has no meaning must be zero, whoever signed it.
func TestReserved(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	turin := platform(t, fake.SNPOptions{Product: snpreport.Turin})
	reserved := map[int]bool{}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			reserved[i] = true
		}
	}
	add(0x4c, 0x50)
	add(0x18b, 0x1a0)
	add(0x1eb, 0x1ec)
	add(0x1ef, 0x1f0)
	add(0x208, 0x2a0)
	add(0x2a0+48, 0x2a0+72)
	add(0x2a0+72+48, 0x4a0)
	check := func(name string, raw []byte, tcb [2]int, mitigations bool) {
		t.Helper()
		if _, err := snpreport.Parse(raw); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mine := map[int]bool{}
		for i := range reserved {
			mine[i] = true
		}
		for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
			for i := tcb[0]; i <= tcb[1]; i++ {
				mine[at+i] = true
			}
		}
		for i := 0x1f8; i < 0x208; i++ {
			mine[i] = mine[i] || !mitigations
		}
		for i := range raw {
			changed := bytes.Clone(raw)
			changed[i] ^= 0x80
			_, err := snpreport.Parse(changed)
			if mine[i] && (err == nil || !strings.Contains(err.Error(), "reserved")) {
				t.Errorf("%s: byte %#x is reserved, got %v", name, i, err)
			}
			// Refused for their values: VERSION, bit 17 of POLICY (not this bit),
			// VMPL, SIGNATURE_ALGO, KEY_INFO, the processor.
			known := i < 4 || i >= 0x30 && i < 0x38 || i >= 0x48 && i < 0x4c || i == 0x188 || i == 0x189
			if !mine[i] && !known && err != nil {
				t.Errorf("%s: byte %#x: %v", name, i, err)
			}
		}
	}
	for name, change := range map[string]func(*snpreport.Report){
		"version 3": nil,
		"version 4": func(r *snpreport.Report) { r.Version = 4 },
	} {
		check(name, report(t, p, change).Marshal(), [2]int{2, 5}, false)
	}
	for i := 0x188; i < 0x18b; i++ {
		reserved[i] = true
	}
	check("version 2", report(t, platform(t, fake.SNPOptions{Product: snpreport.Milan}), func(r *snpreport.Report) {
		r.Version, r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = 2, 0, 0, 0
	}).Marshal(), [2]int{2, 5}, false)
	for i := 0x188; i < 0x18b; i++ {
		delete(reserved, i)
	}
	check("version 5", report(t, p, func(r *snpreport.Report) { r.Version = 5 }).Marshal(), [2]int{2, 5}, true)
	check("Turin", report(t, turin, nil).Marshal(), [2]int{4, 6}, true)
}

func TestParseRefuses(t *testing.T) {
	good := report(t, platform(t, fake.SNPOptions{}), nil).Marshal()
	set := func(at int, v uint32) []byte {
		raw := bytes.Clone(good)
		binary.LittleEndian.PutUint32(raw[at:], v)
		return raw
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"short", good[:1183], "1183 bytes"},
		{"long", append(bytes.Clone(good), 0), "1185 bytes"},
		{"nothing", nil, "0 bytes"},
		{"version 1", set(0, 1), "VERSION: found 1, want 2 to 5"},
		{"version 6", set(0, 6), "VERSION: found 6"},
		{"policy without bit 17", set(8, 0x10000), "POLICY: found 0x10000, want bit 17"},
		{"VMPL 4", set(0x30, 4), "VMPL: found 4"},
		{"no signature algorithm", set(0x34, 0), "SIGNATURE_ALGO: found 0"},
		{"signing key 2", set(0x48, 2<<2), "SIGNING_KEY: found 2"},
		{"key information", set(0x48, 1<<5), "KEY_INFO: found 0x20"},
		{"version 2 with a processor", set(0, 2), "reserved after REPORTED_TCB"},
		{"unknown model", set(0x188, 0x5019), "family 0x19, model 0x50"},
		{"unknown family", set(0x188, 0x001b), "family 0x1b"},
		{"no family", set(0x188, 0), "family 0x0"},
	} {
		if _, err := snpreport.Parse(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestTCB: TCBs are compared part by part, not as numbers.
func TestTCB(t *testing.T) {
	low := snpreport.Components{BootLoader: 3, TEE: 0, SNP: 8, Microcode: 115}
	for _, tt := range []struct {
		have snpreport.Components
		want string
	}{
		{low, ""},
		{snpreport.Components{BootLoader: 4, TEE: 1, SNP: 9, Microcode: 116}, ""},
		{snpreport.Components{BootLoader: 2, TEE: 9, SNP: 99, Microcode: 255}, "boot loader 2 < 3"},
		{snpreport.Components{BootLoader: 3, SNP: 7, Microcode: 200}, "SNP 7 < 8"},
		{snpreport.Components{BootLoader: 3, SNP: 7, Microcode: 1}, "SNP 7 < 8, microcode 1 < 115"},
	} {
		if got := tt.have.Below(low); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.have, got, tt.want)
		}
	}
	for _, p := range []snpreport.Product{snpreport.Milan, snpreport.Genoa, snpreport.Turin} {
		r := report(t, platform(t, fake.SNPOptions{Product: p}), nil)
		c := snpreport.Components{BootLoader: 1, TEE: 2, SNP: 3, Microcode: 4}
		if p == snpreport.Turin {
			c.FMC = 5
		}
		if got := r.Components(c.TCB(p)); got != c || r.Product() != p {
			t.Errorf("%s: got %v, want %v (%s)", p, got, c, r.Product())
		}
	}
}

func TestExpectations(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	turin := platform(t, fake.SNPOptions{Product: snpreport.Turin})
	sum := func(s string) digest.Digest { return digest.SHA384.Sum([]byte(s)) }
	base := func(r *snpreport.Report) {
		r.Measurement, r.IDKeyDigest, r.AuthorKeyDigest, r.AuthorKeyEn = sum("launch"), sum("id"), sum("author"), true
		r.HostData, r.ReportData, r.FamilyID, r.ImageID = [32]byte{1}, [64]byte{2}, [16]byte{3}, [16]byte{4}
		r.GuestSVN, r.PlatformInfo = 3, snpreport.PlatformSMTEn|snpreport.PlatformTSMEEn|snpreport.PlatformAliasCheckComplete
		r.Policy |= 55 | 1<<8
	}
	policy := snpreport.Policy(1<<17|50|1<<8) | snpreport.PolicySMT
	platformInfo := snpreport.PlatformSMTEn | snpreport.PlatformTSMEEn
	vmpl, tcb := uint32(0), p.TCB
	full := func() snpreport.Expectations {
		return snpreport.Expectations{
			Product: snpreport.Genoa, Measurements: []digest.Digest{sum("other"), sum("launch")}, HostData: [][32]byte{{9}, {1}}, ReportData: &[64]byte{2},
			Policy: &policy, PlatformInfo: &platformInfo, MinimumTCB: &tcb, MinimumLaunchTCB: &tcb, MinimumGuestSVN: 3,
			MinimumFirmware: &snpreport.FirmwareVersion{Build: 39, Minor: 55, Major: 1}, VMPL: &vmpl, ChipIDs: [][]byte{make([]byte, 64), p.ChipID},
			IDKeyDigests: []digest.Digest{sum("id")}, AuthorKeyDigests: []digest.Digest{sum("author")}, FamilyID: &[16]byte{3}, ImageID: &[16]byte{4},
		}
	}
	type expectations = snpreport.Expectations
	pass, fail, unchecked := verdict.Pass, verdict.Fail, verdict.Unchecked
	for _, tt := range []struct {
		name   string
		change func(*snpreport.Report)
		expect func(*expectations)
		want   verdict.Verdict
		failed string
		text   string
	}{
		{"everything", nil, nil, pass, "", ""},
		{"nothing", nil, func(e *expectations) { *e = expectations{} }, unchecked, "", "no expected launch digest was given"},
		{"debug", func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug }, nil, fail, "policy-debug policy", "DEBUG is set"},
		{"debug, nothing expected", func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug }, func(e *expectations) { *e = expectations{Measurements: e.Measurements} }, fail, "policy-debug", "the policy allows debugging (bit 19)"},
		{"debug, expected", func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug }, func(e *expectations) { v := policy | snpreport.PolicyDebug; e.Policy = &v }, pass, "", "which is expected"},
		{"migration", func(r *snpreport.Report) { r.Policy |= snpreport.PolicyMigrateMA }, func(e *expectations) { e.Policy = nil }, fail, "policy-migration", "migration agent (bit 18)"},
		{"unknown policy bit", func(r *snpreport.Report) { r.Policy |= 1 << 40 }, nil, fail, "policy-bits", "0x10000000000"},
		{"unknown platform bit", func(r *snpreport.Report) { r.PlatformInfo |= 1 << 40 }, nil, unchecked, "", "0x10000000000"},
		{"SMT", nil, func(e *expectations) { v := policy &^ snpreport.PolicySMT; e.Policy = &v }, fail, "policy", "SMT is set"},
		{"CXL", func(r *snpreport.Report) { r.Policy |= snpreport.PolicyCXLAllow }, nil, fail, "policy", "CXL_ALLOW is set"},
		{"single socket", nil, func(e *expectations) { v := policy | snpreport.PolicySingleSocket; e.Policy = &v }, fail, "policy", "SINGLE_SOCKET is not set"},
		{"ciphertext hiding", nil, func(e *expectations) { v := policy | snpreport.PolicyCiphertextHidingDRAM; e.Policy = &v }, fail, "policy", "CIPHERTEXT_HIDING_DRAM is not set"},
		{"page swap", nil, func(e *expectations) { v := policy | snpreport.PolicyPageSwapDisable; e.Policy = &v }, fail, "policy", "PAGE_SWAP_DISABLE is not set"},
		{"stricter than expected", func(r *snpreport.Report) { r.Policy = r.Policy&^snpreport.PolicySMT | snpreport.PolicySingleSocket }, nil, pass, "", ""},
		{"least ABI", nil, func(e *expectations) { v := policy | 0xff; e.Policy = &v }, fail, "policy", "the least ABI is lower"},
		{"platform SMT", nil, func(e *expectations) { v := snpreport.PlatformTSMEEn; e.PlatformInfo = &v }, fail, "platform-info", "SMT_EN is set"},
		{"platform ECC", nil, func(e *expectations) { v := platformInfo | snpreport.PlatformECCEn; e.PlatformInfo = &v }, fail, "platform-info", "ECC_EN is not set"},
		{"VMPL", func(r *snpreport.Report) { r.VMPL = 2 }, nil, fail, "vmpl", "at VMPL 2, expected is VMPL 0"},
		{"TCB", func(r *snpreport.Report) { r.ReportedTCB[6]-- }, nil, fail, "tcb", "SNP 19 < 20"},
		{"TCB at launch", func(r *snpreport.Report) { r.LaunchTCB[7] -= 2 }, nil, fail, "launch-tcb", "microcode 68 < 70"},
		{"FMC on Genoa", nil, func(e *expectations) { v := tcb; v.FMC = 1; e.MinimumTCB = &v }, fail, "tcb", "FMC 0 < 1"},
		{"guest SVN", func(r *snpreport.Report) { r.GuestSVN = 2 }, nil, fail, "guest-svn", "is 2, the minimum is 3"},
		{"firmware", func(r *snpreport.Report) { r.Committed.Minor = 54; r.Committed.Build = 99 }, nil, fail, "firmware", "1.54.99, the minimum is 1.55.39"},
		{"chip", func(r *snpreport.Report) { r.ChipID[0] ^= 1 }, nil, fail, "chip-id", "is not on the list of 2"},
		{"masked chip, zeros listed", func(r *snpreport.Report) { r.ChipID = [64]byte{} }, nil, fail, "chip-id", "hides its chip's id"},
		{"measurement", func(r *snpreport.Report) { r.Measurement = sum("third") }, nil, fail, "measurement", sum("third").Hex()},
		{"host data", func(r *snpreport.Report) { r.HostData[31] = 1 }, nil, fail, "host-data", "expected is"},
		{"report data", func(r *snpreport.Report) { r.ReportData[63] = 1 }, nil, fail, "report-data", "expected is"},
		{"id key", func(r *snpreport.Report) { r.IDKeyDigest = sum("x") }, nil, fail, "id-key-digest", "ID key digest is"},
		{"no id block", func(r *snpreport.Report) {
			zero, err := digest.FromBytes(digest.SHA384, make([]byte, 48))
			if err != nil {
				t.Fatal(err)
			}
			r.IDKeyDigest = zero
		}, nil, fail, "id-key-digest", "none (zero)"},
		{"author key", func(r *snpreport.Report) { r.AuthorKeyDigest = sum("x") }, nil, fail, "author-key-digest", ""},
		{"family", func(r *snpreport.Report) { r.FamilyID[1] = 1 }, nil, fail, "family-id", ""},
		{"image", func(r *snpreport.Report) { r.ImageID[1] = 1 }, nil, fail, "image-id", ""},
		{"product", nil, func(e *expectations) { e.Product = snpreport.Turin }, fail, "expected-product", "of Genoa, expected is Turin"},
		{"mitigations before version 5", nil, func(e *expectations) { e.LaunchMitVector = 1 }, unchecked, "", "does not state mitigations"},
		{"mitigations", func(r *snpreport.Report) { r.Version, r.LaunchMitVector, r.CurrentMitVector = 5, 3, 1 }, func(e *expectations) { e.LaunchMitVector, e.CurrentMitVector = 2, 2 }, fail, "current-mitigations", "are 0x1, expected is 0x2"},
	} {
		e := full()
		if tt.expect != nil {
			tt.expect(&e)
		}
		checks := e.Check(report(t, p, func(r *snpreport.Report) {
			base(r)
			if tt.change != nil {
				tt.change(r)
			}
		}), "")
		j := verdict.Fold(checks)
		if j.Verdict != tt.want || failed(checks) != tt.failed || !strings.Contains(strings.Join(j.Reasons, "\n"), tt.text) {
			t.Errorf("%s: got %s, failed %q; want %s, %q, %q\n%s", tt.name, j.Verdict, failed(checks), tt.want, tt.failed, tt.text, strings.Join(j.Reasons, "\n"))
		}
	}
	// Turin's chips have 8 bytes; a list may have them so, or as the report does.
	for _, id := range [][]byte{turin.ChipID, append(bytes.Clone(turin.ChipID), make([]byte, 56)...)} {
		e := expectations{Measurements: []digest.Digest{sum("launch")}, ChipIDs: [][]byte{id}, MinimumTCB: &turin.TCB}
		if checks := e.Check(report(t, turin, base), ""); verdict.Fold(checks).Verdict != pass {
			t.Errorf("Turin, chip of %d bytes: %v", len(id), checks)
		}
	}
	// A report of version 2 has its product from the certificate alone.
	v2 := report(t, platform(t, fake.SNPOptions{Product: snpreport.Milan}), func(r *snpreport.Report) {
		base(r)
		r.Version, r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = 2, 0, 0, 0
	})
	e := expectations{Measurements: []digest.Digest{sum("launch")}, Product: snpreport.Milan}
	for certified, want := range map[snpreport.Product]verdict.Verdict{"": unchecked, snpreport.Milan: pass, snpreport.Genoa: fail} {
		if got := verdict.Fold(e.Check(v2, certified)).Verdict; got != want {
			t.Errorf("version 2, certified %q: got %s, want %s", certified, got, want)
		}
	}
}
