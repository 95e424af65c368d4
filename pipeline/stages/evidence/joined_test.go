package evidence_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testpe"
	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/pipeline/stages/tpm"
)

// joined is a folder with a unified kernel image, and a machine whose TPM holds
// what is predicted for it.
type joined struct {
	t   *testing.T
	dir string
	tpm *fake.TPM
}

const joinedPlatform = "version: 1\nplatforms:\n  vm: {tee: tpm, uki: uki.efi, empty_vars: true, systemd: '252', banks: [sha1, sha256, sha384]%s}\n"

func newJoined(t *testing.T) *joined {
	t.Helper()
	m, err := fake.NewTPM("joined", from, until, fake.TPMOptions{Banks: []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384}})
	if err != nil {
		t.Fatal(err)
	}
	j := &joined{t, t.TempDir(), m}
	kernel := testpe.Image([]string{".text"}, []byte("kernel"))
	j.write("uki.efi", testpe.Image([]string{".linux", ".osrel", ".cmdline", ".initrd"}, kernel, []byte("ID=x"), []byte("quiet"), []byte("initrd")))
	r := testrun.Run(t, j.dir, fmt.Sprintf(joinedPlatform, ""))
	for bank := range m.PCRs {
		for i := range 16 {
			if x := testrun.Measured(r, tpm.Key("vm", bank, i)); x != nil {
				m.PCRs[bank][i] = x.Value.Digest()
			}
		}
	}
	for _, i := range []int{0, 1, 5} { // what the artifacts do not tell
		if err := m.Measure(i, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(m.AK())
	if err != nil {
		t.Fatal(err)
	}
	j.write("ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	golden, err := m.Golden(0)
	if err != nil {
		t.Fatal(err)
	}
	j.write("golden.json", golden)
	return j
}

func (j *joined) write(name string, data []byte) {
	j.t.Helper()
	if err := os.WriteFile(filepath.Join(j.dir, name), data, 0o600); err != nil {
		j.t.Fatal(err)
	}
}

// run judges a quote of these selections with more of the platform and of the
// evidence.
func (j *joined) run(platform, more string, s ...tpmquote.Selection) (*pipeline.Report, error) {
	j.t.Helper()
	f, err := j.tpm.Files([]byte{1, 2}, s...)
	if err != nil {
		j.t.Fatal(err)
	}
	j.write("q.msg", f.Message)
	j.write("q.sig", f.Signature)
	j.write("q.pcrs", f.PCRs)
	text := fmt.Sprintf(joinedPlatform, platform) + "evidence:\n  m: {file: q.msg, also: [q.sig, q.pcrs], platform: vm, ak: ak.pem, nonce: '0102', at: '2026-06-01T00:00:00Z'" + more + "}\n"
	res, err := run.Run(j.t.Context(), stages.Table(), testrun.Config(j.t, text), run.Options{TestRootOK: true, Root: j.dir})
	if err != nil {
		return nil, err
	}
	return res.Report, nil
}

// TestJoined: the PCRs that are predicted for a platform are what the quote of its
// name must sign.
func TestJoined(t *testing.T) {
	const golden = ", golden: golden.json"
	all := fake.Select(digest.SHA256)
	but := func(bank digest.Algorithm, without ...int) tpmquote.Selection {
		var list []int
	next:
		for i := range 24 {
			for _, w := range without {
				if i == w {
					continue next
				}
			}
			list = append(list, i)
		}
		return fake.Select(bank, list...)
	}
	for _, tt := range []struct {
		name           string
		change         func(*joined)
		platform, more string
		selections     []tpmquote.Selection
		want           pipeline.Outcome
		text           string
	}{
		{"all", nil, "", golden, []tpmquote.Selection{all}, pipeline.OutcomeMatch, "PCR 4 (sha256) is"},
		{"two banks", nil, "", golden, []tpmquote.Selection{all, fake.Select(digest.SHA384)}, pipeline.OutcomeMatch, "PCR 4 (sha384) is"},
		{"nobody speaks of the firmware", nil, "", "", []tpmquote.Selection{all}, pipeline.OutcomeUnchecked, "neither predicted nor among golden values: PCR 0, which decide"},
		{"what is not predicted is named", nil, "", "", []tpmquote.Selection{all}, pipeline.OutcomeUnchecked, "is not predicted for PCR 0 (firmware): "},
		{"SHA-1 alone", nil, "", "", []tpmquote.Selection{fake.Select(digest.SHA1)}, pipeline.OutcomeUnchecked, "by SHA-1 alone"},
		{"without the image", nil, "", golden, []tpmquote.Selection{but(digest.SHA256, 4, 11)}, pipeline.OutcomeUnchecked, "but no quote covers it"},
		{"no image at all in a strong bank", nil, "", golden, []tpmquote.Selection{fake.Select(digest.SHA1), fake.Select(digest.SHA256, 0, 2, 12)}, pipeline.OutcomeUnchecked, "by SHA-1 alone"},
		{"another image", func(j *joined) { edit(j, "uki.efi", "quiet", "Quiet") }, "", golden, []tpmquote.Selection{all}, pipeline.OutcomeDiffers, "predicted for platform vm is"},
		{"one bank holds another image", func(j *joined) { j.tpm.PCRs[digest.SHA384][4] = digest.SHA384.Sum([]byte("x")) }, "", golden, []tpmquote.Selection{all, fake.Select(digest.SHA384)}, pipeline.OutcomeDiffers, "PCR 4 (sha384) is"},
		{"something measured later", func(j *joined) { measureInto(j, 13) }, "", golden, []tpmquote.Selection{all}, pipeline.OutcomeDiffers, "PCR 13 (sha256) is"},
		{"an application measured", func(j *joined) { measureInto(j, 15) }, "", golden, []tpmquote.Selection{all}, pipeline.OutcomeUnchecked, "PCR 15, which decide"},
		{"Secure Boot is assumed", func(j *joined) { measureInto(j, 7) }, "", golden, []tpmquote.Selection{all}, pipeline.OutcomeMatch, "differ from what is assumed for platform vm, which is not counted: PCR 7 (sha256)"},
		{"golden values say otherwise", func(j *joined) {
			j.write("golden.json", []byte(`{"measurements":{"0":"`+strings.Repeat("ab", 32)+`"}}`))
		}, "", golden, []tpmquote.Selection{all}, pipeline.OutcomeDiffers, "expected is abab"},
		{"only what can be reset", nil, "", "", []tpmquote.Selection{fake.Select(digest.SHA256, 16, 23)}, pipeline.OutcomeUnchecked, "but no quote covers it"},
		{"not asked", func(j *joined) { edit(j, "uki.efi", "quiet", "Quiet") }, "", ", only: [authentic, bound]", []tpmquote.Selection{all}, pipeline.OutcomeUnchecked, ""},
	} {
		j := newJoined(t)
		if tt.change != nil {
			tt.change(j)
		}
		r, err := j.run(tt.platform, tt.more, tt.selections...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var said strings.Builder
		for _, m := range r.Measurements {
			fmt.Fprintln(&said, m.Key, m.Value, m.Note)
		}
		for _, f := range r.Findings {
			fmt.Fprintln(&said, f.Key, f.Verdict, f.Note, testrun.Causes(f))
		}
		for _, p := range r.Problems {
			fmt.Fprintln(&said, p.Msg)
		}
		if r.Outcome != tt.want || !strings.Contains(said.String(), tt.text) {
			t.Errorf("%s: %s, want %s with %q: %s\n%s", tt.name, r.Outcome, tt.want, tt.text, r.Summary, said.String())
		}
	}
}

// TestOtherPlatform: a platform whose registers are of another kind is refused.
func TestOtherPlatform(t *testing.T) {
	j := newJoined(t)
	if _, err := j.run("", "", fake.Select(digest.SHA256)); err != nil {
		t.Fatal(err)
	}
	j.write("quote", ownQuote(t, ownPlatform(t), ownBody(t)))
	text := fmt.Sprintf(joinedPlatform, "") + "evidence:\n  m: {file: quote, platform: vm, at: '2026-06-01T00:00:00Z'}\n"
	_, err := run.Run(t.Context(), stages.Table(), testrun.Config(t, text), run.Options{Root: j.dir})
	if err == nil || !strings.Contains(err.Error(), "no TPM's, and platform vm is of tee tpm") {
		t.Errorf("a TDX quote beside a machine with a TPM: %v", err)
	}
	text = "version: 1\nplatforms:\n  vm: {tee: tdx, profile: secretvm, expect: {mrtd: '" + strings.Repeat("ab", 48) + "'}}\nevidence:\n  m: {file: q.msg, also: [q.sig, q.pcrs], ak: ak.pem, platform: vm, at: '2026-06-01T00:00:00Z'}\n"
	_, err = run.Run(t.Context(), stages.Table(), testrun.Config(t, text), run.Options{Root: j.dir})
	if err == nil || !strings.Contains(err.Error(), "a TPM's, and platform vm is of tee tdx") {
		t.Errorf("a TPM's quote beside a TDX machine: %v", err)
	}
}

func edit(j *joined, name, old, text string) {
	j.t.Helper()
	data, err := os.ReadFile(filepath.Join(j.dir, name))
	if err != nil {
		j.t.Fatal(err)
	}
	j.write(name, []byte(strings.Replace(string(data), old, text, 1)))
}

func measureInto(j *joined, pcr int) {
	j.t.Helper()
	if err := j.tpm.Measure(pcr, []byte("later")); err != nil {
		j.t.Fatal(err)
	}
}
