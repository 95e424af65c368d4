// Package formtest reads retally's reports back with the libraries of those
// whose forms they are: in-toto's, and Veraison's for CoRIM and EAR. It is a
// module of its own, so that none of them is ever part of the program.
package formtest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/veraison/corim/comid"
	"github.com/veraison/corim/corim"
	"github.com/veraison/ear"
	"google.golang.org/protobuf/encoding/protojson"
)

type lab struct {
	dir, program string
	report       struct {
		Outcome string
		Inputs  []struct {
			File, Digest string
		}
		Measurements []struct {
			Key   string
			Value any
			Basis string
		}
	}
}

// newLab runs the demo and writes its report in every form.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir()}
	l.program = filepath.Join(l.dir, "retally")
	build := exec.Command("go", "build", "-o", l.program, "./cmd/retally")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	l.run(t, "demo", "-q", "--dir", "d")
	l.run(t, "run", "-q", "-f", "d/retally.yaml", "--out", "out", "--test-root-ok", "--no-cache",
		"--report", "corim=o.cbor", "--report", "ear=o.ear", "--report", "intoto=o.intoto", "--report", "rvps=o.rvps")
	if err := json.Unmarshal(l.read(t, "out/report.json"), &l.report); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(l.program, args...)
	cmd.Dir = l.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("retally %q: %v\n%s", args, err, out)
	}
}

func (l *lab) read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// value is what the report has of a key.
func (l *lab) value(t *testing.T, key string) string {
	t.Helper()
	for _, m := range l.report.Measurements {
		if m.Key == key {
			if m.Basis != "recomputed" {
				t.Fatalf("%s is %s", key, m.Basis)
			}
			return m.Value.(string)
		}
	}
	t.Fatalf("the report has no %s", key)
	return ""
}

func TestForms(t *testing.T) {
	l := newLab(t)
	t.Run("in-toto", func(t *testing.T) {
		var s intoto.Statement
		if err := protojson.Unmarshal(l.read(t, "o.intoto"), &s); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, sub := range s.Subject {
			got[sub.Name] = "sha256:" + sub.Digest["sha256"]
		}
		for _, in := range l.report.Inputs {
			if got[in.File] != in.Digest {
				t.Errorf("subject %s has %q, want %s", in.File, got[in.File], in.Digest)
			}
		}
		p := s.Predicate.AsMap()
		if p["outcome"] != l.report.Outcome || len(p["measurements"].([]any)) != len(l.report.Measurements) {
			t.Errorf("predicate: %v", p["outcome"])
		}
	})
	t.Run("CoRIM", func(t *testing.T) {
		var c corim.UnsignedCorim
		if err := c.FromCBOR(l.read(t, "o.cbor")); err != nil {
			t.Fatal(err)
		}
		if err := c.Valid(); err != nil {
			t.Fatal(err)
		}
		if len(c.Tags) != 1 || !slices.Equal(c.Tags[0][:3], corim.ComidTag) {
			t.Fatalf("%d tags", len(c.Tags))
		}
		var m comid.Comid
		if err := m.FromCBOR(c.Tags[0][3:]); err != nil {
			t.Fatal(err)
		}
		if err := m.Valid(); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, ref := range *m.Triples.ReferenceValues {
			name := *ref.Environment.Class.Vendor + "/" + *ref.Environment.Class.Model
			for _, meas := range ref.Measurements {
				if meas.Val.Digests != nil {
					for _, d := range *meas.Val.Digests {
						got[name] = "sha384:" + hex.EncodeToString(d.HashValue)
					}
				}
				if meas.Val.IntegrityRegisters != nil {
					// The registers have no accessor but their JSON.
					text, err := meas.Val.IntegrityRegisters.MarshalJSON()
					if err != nil {
						t.Fatal(err)
					}
					var registers map[string]struct{ Value []string }
					if err := json.Unmarshal(text, &registers); err != nil {
						t.Fatalf("%v\n%s", err, text)
					}
					for reg, v := range registers {
						alg, b64, _ := strings.Cut(v.Value[0], ";")
						raw, err := base64.StdEncoding.DecodeString(b64)
						if err != nil || alg != "sha-384" && alg != "sha-256" {
							t.Fatalf("%s: %s", reg, v.Value)
						}
						got[name+"/"+reg] = strings.ReplaceAll(alg, "-", "") + ":" + hex.EncodeToString(raw)
					}
				}
			}
		}
		for name, key := range map[string]string{
			"Intel/harbor-vm/mrtd":            "tdx/harbor-vm/mrtd",
			"Intel/harbor-vm/rtmr1":           "tdx/harbor-vm/rtmr1",
			"TCG/harbor-llm/pcr4":             "tpm/harbor-llm/sha256/pcr4",
			"TCG/harbor-llm/pcr15":            "tpm/harbor-llm/sha256/pcr15",
			"AMD/Metal-QEMU-SNP/Genoa/cpus=1": "snp/Metal-QEMU-SNP/Genoa/cpus=1/launch",
		} {
			if want := l.value(t, key); got[name] != want {
				t.Errorf("%s: %q, want %s (have %v)", name, got[name], want, got)
			}
		}
	})
	t.Run("RVPS", func(t *testing.T) {
		var message struct{ Version, Type, Payload string }
		if err := json.Unmarshal(l.read(t, "o.rvps"), &message); err != nil || message.Type != "sample" {
			t.Fatalf("%+v, %v", message, err)
		}
		payload, err := base64.StdEncoding.DecodeString(message.Payload)
		if err != nil {
			t.Fatal(err)
		}
		var values map[string][]string
		if err := json.Unmarshal(payload, &values); err != nil {
			t.Fatal(err)
		}
		for name, key := range map[string]string{
			"mr_td": "tdx/harbor-vm/mrtd", "rtmr_1": "tdx/harbor-vm/rtmr1",
			"snp_launch_measurement": "snp/Metal-QEMU-SNP/Genoa/cpus=1/launch", "tpm_pcr4": "tpm/harbor-llm/sha256/pcr4",
		} {
			if _, want, _ := strings.Cut(l.value(t, key), ":"); !slices.Contains(values[name], want) {
				t.Errorf("%s: %v, want %s", name, values[name], want)
			}
		}
	})
	t.Run("EAR", func(t *testing.T) {
		var r ear.AttestationResult
		if err := r.UnmarshalJSON(l.read(t, "o.ear")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"harbor-vm", "guest-on-amd"} {
			a := r.Submods[name]
			if a == nil {
				t.Fatalf("no submodule %s", name)
			}
			// Under a test root nothing is affirmed, whatever the run was let.
			if *a.Status != ear.TrustTierNone || a.TrustVector.Hardware != ear.NoClaim {
				t.Errorf("%s: %v %v", name, *a.Status, a.TrustVector.Hardware)
			}
			if a.TrustVector.Executables != ear.ApprovedBootClaim || a.TrustVector.InstanceIdentity != ear.TrustworthyInstanceClaim {
				t.Errorf("%s: %+v", name, *a.TrustVector)
			}
		}
	})
}
