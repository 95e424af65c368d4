package pcrmeasure_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
)

// TestFieldGCE compares the formula with the published table, and with every
// GCE machine among the logs.
func TestFieldGCE(t *testing.T) {
	type table struct {
		Table []struct {
			Version    int                      `json:"firmware_version"`
			Technology pcrmeasure.GCETechnology `json:"technology_byte"`
			PCR0       string                   `json:"pcr0_sha256"`
		}
	}
	root := testenv.Vectors(t, "published/field/tpm")
	for _, c := range decode[table](t, filepath.Join(root, "gce_pcr0.json")).Table {
		trace, err := pcrmeasure.GCEPCR0(digest.SHA256, c.Version, c.Technology)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := trace.Compute(); err != nil || d.Hex() != c.PCR0 {
			t.Errorf("version %d, technology %d: %s %v, want %s", c.Version, c.Technology, d.Hex(), err, c.PCR0)
		}
	}
	met := map[pcrmeasure.GCETechnology]bool{}
	logs, err := filepath.Glob(filepath.Join(root, "go-tpm-tools/*.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range logs {
		log, err := pcrmeasure.ReadLog(file, read(t, file), pcrmeasure.FormAuto)
		if err != nil {
			t.Fatal(err)
		}
		var version int
		for _, e := range log.Events {
			if e.Register == 0 && e.Type == eventlog.CRTMVersion && len(e.Data) == 48 {
				version = int(e.Data[44] - '0') // "GCE Virtual Firmware v1" in UTF-16
			}
			if rest, ok := strings.CutPrefix(string(e.Data), "GCE NonHostInfo\x00"); ok && e.Register == 0 && version > 0 {
				technology := pcrmeasure.GCETechnology(rest[0])
				met[technology] = true
				for _, bank := range log.Banks {
					trace, err := pcrmeasure.GCEPCR0(bank, version, technology)
					if err != nil {
						t.Fatal(err)
					}
					want, err := log.Replay(bank)
					if err != nil {
						t.Fatal(err)
					}
					if d, err := trace.Compute(); err != nil || d != want[0] {
						t.Errorf("%s: %s %v, want %s", file, d, err, want[0])
					}
				}
			}
		}
	}
	if !met[pcrmeasure.GCENone] || !met[pcrmeasure.GCESEV] || !met[pcrmeasure.GCESEVSNP] {
		t.Errorf("technologies %v met in logs", met)
	}
	if _, err := pcrmeasure.GCEPCR0(digest.SHA256, 0, 0); err == nil {
		t.Error("version 0 has a PCR 0")
	}
}

// TestFieldAzurePCR14 folds Ubuntu's logged MokList with the lists that a shim
// without denied keys has: the PCR 14 of real Azure machines.
func TestFieldAzurePCR14(t *testing.T) {
	type sets struct {
		Sets []struct {
			File string
			PCRs map[string]string `json:"pcrs_sha256"`
		}
	}
	log, err := pcrmeasure.ReadLog("log", read(t, testenv.Vectors(t, "published/field/tpm/go-tpm-tools/ubuntu-2404-amd-sevsnp.bin")), pcrmeasure.FormAuto)
	if err != nil {
		t.Fatal(err)
	}
	var list digest.Digest
	for _, e := range log.Events {
		if string(e.Data) == "MokList\x00" {
			for _, d := range e.Digests {
				if d.Algorithm() == digest.SHA256 {
					list = d
				}
			}
		}
	}
	equal := map[bool]int{}
	for _, s := range decode[sets](t, testenv.Vectors(t, "published/field/azure/pcr_sets.json")).Sets {
		for _, trusted := range []bool{false, true} {
			m := pcrmeasure.Mok{ListX: pcrmeasure.EmptyMokListX(), Trusted: trusted}
			trace := m.MokTrace(digest.SHA256)
			trace.Events[0].Digest = list
			d, err := trace.Compute()
			if err != nil {
				t.Fatal(err)
			}
			if d.Hex() == s.PCRs["14"] {
				equal[trusted]++
			}
		}
	}
	if equal[false]+equal[true] != 6 || equal[false] == 0 || equal[true] == 0 {
		t.Errorf("%d sets equal without MokListTrusted and %d with it, want six together and both kinds", equal[false], equal[true])
	}
}

func TestClouds(t *testing.T) {
	list, err := pcrmeasure.Clouds()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == "" || c.Source == "" || len(c.PCRs) == 0 || len(c.Hidden) == 0 || c.Log == "" {
			t.Errorf("cloud %+v is not whole", c)
		}
	}
	if len(list) != 3 {
		t.Errorf("%d clouds", len(list))
	}
	if _, err := pcrmeasure.DeviceSets(); err != nil {
		t.Error(err)
	}
	if _, err := pcrmeasure.Overlays(); err != nil {
		t.Error(err)
	}
}
