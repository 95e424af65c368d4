package snp_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// guest is the demo's guest on AMD, alone. without leaves fields out.
func guest(more string, without ...string) string {
	var b strings.Builder
	b.WriteString("version: 1\nplatforms:\n  guest:\n    tee: snp\n")
lines:
	for _, l := range []string{
		"firmware: guest/OVMF-SNP.fd", "kernel: guest/bzImage", "initrd: guest/initrd.cpio", "cmdline: console=hvc0 panic=1", "vcpus: [1..2]", "vcpu_types: [EPYC-Milan, EPYC-Genoa]",
	} {
		for _, w := range without {
			if strings.HasPrefix(l, w+":") {
				continue lines
			}
		}
		b.WriteString("    " + l + "\n")
	}
	return b.String() + more
}

func launch(product string, cpus int) pipeline.Key {
	return pipeline.NewKey("snp", "guest", product, fmt.Sprintf("cpus=%d", cpus), "launch")
}

// TestLaunch: one digest for each number and type, with its trace, recomputed;
// and it is the one that the demo's vendor published.
func TestLaunch(t *testing.T) {
	dir := testrun.Demo(t, nil)
	r := testrun.Run(t, dir, guest(""))
	for _, product := range []string{"Milan", "Genoa"} {
		for cpus := 1; cpus <= 2; cpus++ {
			m := testrun.Measured(r, launch(product, cpus))
			if m == nil || m.Basis != pipeline.Recomputed || m.Trace == nil {
				t.Fatalf("%s %d: %+v", product, cpus, m)
			}
			if !strings.Contains(testrun.Read(t, dir, "manifest.generated.json"), m.Value.Digest().Hex()) {
				t.Errorf("%s %d: %s is not in the manifest", product, cpus, m.Value)
			}
		}
		if m := testrun.Measured(r, pipeline.NewKey("snp", "guest", product, "apeip")); m == nil || m.Value.String() != "0080b004" {
			t.Errorf("%s: apeip %+v", product, m)
		}
	}
}

// TestEveryInputCounts: a changed byte of each input changes every digest.
func TestEveryInputCounts(t *testing.T) {
	dir := testrun.Demo(t, nil)
	want := testrun.Measured(testrun.Run(t, dir, guest("")), launch("Genoa", 1)).Value
	for _, name := range []string{"guest/OVMF-SNP.fd", "guest/bzImage", "guest/initrd.cpio"} {
		data := []byte(testrun.Read(t, dir, name))
		data[100] ^= 1
		got := testrun.Measured(testrun.Run(t, testrun.Demo(t, map[string]string{name: string(data)}), guest("")), launch("Genoa", 1))
		if got == nil || got.Value.Equal(want) {
			t.Errorf("%s: the digest is the same", name)
		}
	}
	for _, more := range []string{"    guest_features: 0x21\n", "    vmm: gce\n"} {
		got := testrun.Measured(testrun.Run(t, dir, guest(more)), launch("Genoa", 1))
		if got == nil || got.Value.Equal(want) {
			t.Errorf("%q: the digest is the same", more)
		}
	}
}

// TestLacks: what is missing is named, and nothing is a match.
func TestLacks(t *testing.T) {
	dir := testrun.Demo(t, nil)
	digest := testrun.Measured(testrun.Run(t, dir, guest("")), launch("Genoa", 1)).Value.Digest().Hex()
	for _, tc := range []struct{ without, what string }{
		{"firmware", "firmware"}, {"cmdline", "command line"}, {"vcpus", "number of vCPUs"}, {"vcpu_types", "type of vCPU"},
	} {
		r := testrun.Run(t, dir, guest("    expect: {Genoa/cpus=1/launch: '"+digest+"'}\n", tc.without))
		if len(r.Lacks) == 0 || r.Lacks[0].What != tc.what || r.Outcome != pipeline.OutcomeUnchecked {
			t.Errorf("without %s: %s, lacks %+v", tc.without, r.Outcome, r.Lacks)
		}
	}
}

// TestExpect: the right digest matches, one of another shape differs and is
// explained with proof.
func TestExpect(t *testing.T) {
	dir := testrun.Demo(t, nil)
	r := testrun.Run(t, dir, guest(""))
	right, other := testrun.Measured(r, launch("Genoa", 1)).Value.Digest().Hex(), testrun.Measured(r, launch("Milan", 2)).Value.Digest().Hex()
	for _, tc := range []struct {
		value, cause string
		want         pipeline.Outcome
	}{
		{right, "", pipeline.OutcomeMatch},
		{strings.ToUpper(right), "", pipeline.OutcomeMatch},
		{other, "matches with 2 vCPUs and vCPUs of type EPYC-Milan", pipeline.OutcomeDiffers},
		{strings.Repeat("ab", 48), "no known variant matches", pipeline.OutcomeDiffers},
	} {
		r := testrun.Run(t, dir, guest("    expect: {Genoa/cpus=1/launch: '"+tc.value+"'}\n"))
		f := testrun.Finding(t, r, launch("Genoa", 1))
		if r.Outcome != tc.want || !strings.Contains(testrun.Causes(f), tc.cause) {
			t.Errorf("%.8s: %s, %s", tc.value, r.Outcome, testrun.Causes(f))
		}
	}
}

// TestHashesAreCopied: a hash in place of bytes gives the same digest, which
// then rests on somebody's word.
func TestHashesAreCopied(t *testing.T) {
	dir := testrun.Demo(t, nil)
	right := testrun.Measured(testrun.Run(t, dir, guest("")), launch("Genoa", 1)).Value.Digest().Hex()
	seed := testrun.Measured(testrun.Run(t, dir, guest("")), pipeline.NewKey("snp", "guest", "ovmf-hash")).Value.Digest().Hex()
	kernel := digest.SHA256.Sum([]byte(testrun.Read(t, dir, "guest/bzImage")))
	expect := "    expect: {Genoa/cpus=1/launch: '" + right + "'}\n"
	for _, config := range []string{
		guest("    kernel: "+kernel.String()+"\n"+expect, "kernel"), guest("    ovmf_hash: '" + seed + "'\n" + expect),
		"version: 1\nplatforms:\n  guest: {tee: snp, one_vcpu_digest: '" + right + "', ap_eip: 0080b004, vcpus: [1..3], vcpu_types: [EPYC-Genoa], expect: {Genoa/cpus=1/launch: '" + right + "'}}\n",
	} {
		r := testrun.Run(t, dir, config)
		f := testrun.Finding(t, r, launch("Genoa", 1))
		if f.Verdict != pipeline.Match || f.Standing.Effective != pipeline.Copied || r.Outcome != pipeline.OutcomeUnchecked {
			t.Errorf("%s\n%s, %s, %s", config, r.Outcome, f.Verdict, f.Standing)
		}
	}
}

// TestIDBlock: Contrast's ID block and key digest follow from the launch digest.
func TestIDBlock(t *testing.T) {
	r := testrun.Run(t, t.TempDir(), "version: 1\nplatforms:\n  guest: {tee: snp, one_vcpu_digest: 'ea6a66550b8b0117ba8dd0a88b6f409e669b5ac80a5cf340647ac956353dfd3c9c740898cb9119c329da8c8641ecd47a', ap_eip: 0080b004, vcpus: 1, vcpu_types: [EPYC-Genoa], id_block: {contrast: current, policy: 38928698}}\n")
	m := testrun.Measured(r, pipeline.NewKey("snp", "guest", "Genoa", "cpus=1", "id-key-digest"))
	if m == nil || m.Value.Digest().Hex() != "39621e9f36406accbc2ae59a61bae991c08a63724739b9b0a02856cfc929ccf5e81c770008da07cdab30aece40215144" {
		t.Errorf("%+v", m)
	}
}

// TestManifest: a wrong base does not count, a wrong published value is found;
// another platform's values are not taken.
func TestManifest(t *testing.T) {
	dir := testrun.Demo(t, nil)
	config := testrun.Base(testrun.Read(t, dir, "retally.yaml"))
	const key = "snp/Metal-QEMU-SNP/Genoa/cpus=1/launch"
	f := testrun.Finding(t, testrun.Run(t, dir, config), key)
	if f.Verdict != pipeline.Match || f.Standing.String() != "recomputed" {
		t.Fatalf("%s, %s", f.Verdict, f.Standing)
	}
	computed, other := f.Got.Digest().Hex(), strings.Repeat("ab", 48)
	base := strings.Replace(testrun.Read(t, dir, "manifest.generated.json"), computed, other, 1)
	published := strings.Replace(testrun.Read(t, dir, "manifest.published.json"), computed, other, 1)
	for _, name := range []string{"metal-qemu-snp", "Metal-QEMU-SNP"} {
		config := strings.ReplaceAll(config, "metal-qemu-snp", name)
		r := testrun.Run(t, testrun.Demo(t, map[string]string{"manifest.generated.json": base}), config)
		if f := testrun.Finding(t, r, key); r.Outcome != pipeline.OutcomeMatch || f.Verdict != pipeline.Match {
			t.Errorf("%s: a wrong base: %s, %s", name, r.Outcome, f.Verdict)
		}
		r = testrun.Run(t, testrun.Demo(t, map[string]string{"manifest.generated.json": base, "manifest.published.json": published}), config)
		if f := testrun.Finding(t, r, key); r.Outcome != pipeline.OutcomeDiffers || f.Verdict != pipeline.Differs || f.Got.Digest().Hex() != computed {
			t.Errorf("%s: a wrong published value: %s, %s", name, r.Outcome, f.Verdict)
		}
	}
	for _, change := range [][2]string{{"metal-qemu-snp", "elsewhere"}, {"vcpus: [1..2]", "vcpus: 2"}, {"vcpus: [1..2]", "vcpus: [1..2]\n    guest_features: [0x1, 0x21]"}} {
		r := testrun.Run(t, dir, strings.ReplaceAll(config, change[0], change[1]))
		if f := testrun.Finding(t, r, key); f.Standing.String() != "copied" {
			t.Errorf("%s: %s", change[1], f.Standing)
		}
	}
	// An entry without a number of vCPUs and with APEIP is for one of them.
	newer := func(text, eip string) string {
		return strings.ReplaceAll(text, "\"AllowedChipIDs\": null,\n        \"CPUs\": 1", "\"AllowedChipIDs\": null,\n        \"APEIP\": \""+eip+"\"")
	}
	for eip, want := range map[string]pipeline.Verdict{"0080b004": pipeline.Match, "0080b005": pipeline.Differs} {
		only := strings.Index(config, "manifest: {base")
		plain := config[:only] + "manifest: {base: manifest.generated.json}\nagainst: other.json\n"
		changes := map[string]string{"manifest.generated.json": newer(base, "00000000"), "other.json": newer(testrun.Read(t, dir, "manifest.generated.json"), eip)}
		r := testrun.Run(t, testrun.Demo(t, changes), plain)
		if f := testrun.Finding(t, r, "snp/Metal-QEMU-SNP/Genoa/apeip"); f.Verdict != want || f.Standing.String() != "recomputed" {
			t.Errorf("apeip %s: %s, %s", eip, f.Verdict, f.Standing)
		}
		if f := testrun.Finding(t, r, "snp/Metal-QEMU-SNP/Genoa/launch"); f.Verdict != pipeline.Match || f.Standing.String() != "recomputed" {
			t.Errorf("launch: %s, %s", f.Verdict, f.Standing)
		}
	}
}

// row is a row of a list of releases, of the demo's guest.
func row(t *testing.T, dir string, change func(map[string]any)) map[string]any {
	t.Helper()
	base := testrun.Run(t, dir, guest(""))
	part := func(name string) string {
		m := testrun.Measured(base, pipeline.NewKey("snp", "guest", name))
		if m == nil {
			t.Fatalf("no %s", name)
		}
		return m.Value.Digest().Hex()
	}
	section := func(gpa, size, typ int) map[string]any {
		return map[string]any{"gpa": gpa, "size": size, "section_type": typ}
	}
	out := map[string]any{
		"vm_type": "prod", "artifacts_ver": "v1.0.0", "kernel_hash": part("kernel"), "initrd_hash": part("initrd"), "vcpu_type": "EPYC",
		"rootfs_hash": digest.SHA256.Sum([]byte(testrun.Read(t, dir, "vm/rootfs.img"))).Hex(), "ovmf_hash": part("ovmf-hash"),
		"sev_hashes_table_gpa": 0x810c00, "sev_es_reset_eip": 0x80b004,
		"ovmf_sections": []any{section(0x800000, 0x9000, 1), section(0x80d000, 0x1000, 2), section(0x80e000, 0x1000, 3), section(0x810000, 0x1000, 0x10)},
	}
	if change != nil {
		change(out)
	}
	return out
}

func list(t *testing.T, rows ...map[string]any) string {
	t.Helper()
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// secretVM is a SecretVM made of the demo's files.
const secretVM = `version: 1
platforms:
  guest: {tee: snp, profile: secretvm, firmware: guest/OVMF-SNP.fd, kernel: guest/bzImage, initrd: guest/initrd.cpio, rootfs: vm/rootfs.img, compose: vm/docker-compose.yaml, vcpus: [1, 4]}
registry: sev.json
`

// TestReleaseHoldsAsAWhole: with all artifacts at hand, one release must have
// every value.
func TestReleaseHoldsAsAWhole(t *testing.T) {
	dir := testrun.Demo(t, nil)
	zero := strings.Repeat("00", 32)
	older := row(t, dir, func(r map[string]any) { r["artifacts_ver"], r["kernel_hash"] = "v0.9.0", zero })
	right := row(t, dir, nil)
	r := testrun.Run(t, testrun.Demo(t, map[string]string{"sev.json": list(t, older, right)}), secretVM)
	if r.Outcome != pipeline.OutcomeMatch {
		t.Fatalf("%s: %s", r.Outcome, r.Summary)
	}
	f := testrun.Finding(t, r, pipeline.NewKey("snp", "guest", "EPYC", "cpus=4", "launch"))
	if !strings.Contains(f.Set, "prod v1.0.0") || f.Standing.Effective != pipeline.Recomputed {
		t.Errorf("set %q, %s", f.Set, f.Standing)
	}
	// Each value stands in some row, and no row has them all.
	second := row(t, dir, func(r map[string]any) { r["artifacts_ver"], r["initrd_hash"] = "v0.8.0", zero })
	r = testrun.Run(t, testrun.Demo(t, map[string]string{"sev.json": list(t, older, second)}), secretVM)
	f = testrun.Finding(t, r, pipeline.NewKey("snp", "guest", "EPYC", "cpus=1", "launch"))
	if r.Outcome != pipeline.OutcomeDiffers || f.Verdict != pipeline.Differs || !strings.Contains(testrun.Causes(f), "with the release's kernel") && !strings.Contains(testrun.Causes(f), "with the release's initrd") {
		t.Errorf("mixed rows: %s, %s %s", r.Outcome, f.Verdict, testrun.Causes(f))
	}
	// Tables and start address count, though only the digest shows them.
	for _, change := range []func(map[string]any){
		func(r map[string]any) { r["sev_es_reset_eip"] = 0x80b005 },
		func(r map[string]any) { r["cmdline_extra"] = "init=/bin/sh" },
		func(r map[string]any) { r["ovmf_sections"] = r["ovmf_sections"].([]any)[1:] },
	} {
		r = testrun.Run(t, testrun.Demo(t, map[string]string{"sev.json": list(t, row(t, dir, change))}), secretVM)
		if r.Outcome != pipeline.OutcomeDiffers {
			t.Errorf("%s: %s", r.Outcome, r.Summary)
		}
	}
	// A list that cannot be compared is a lack, not nothing.
	explicit := strings.Replace(strings.Replace(secretVM, "compose: vm/docker-compose.yaml", "cmdline: console=ttyS0", 1), "profile: secretvm", "profile: secretvm, vcpu_types: [EPYC]", 1)
	r = testrun.Run(t, testrun.Demo(t, map[string]string{"sev.json": list(t, right)}), explicit)
	if r.Outcome != pipeline.OutcomeUnchecked || len(r.Lacks) != 1 || r.Lacks[0].What != "compose" {
		t.Errorf("no compose file: %s, %+v", r.Outcome, r.Lacks)
	}
	// A row that is not understood is no match, and is told.
	r = testrun.Run(t, testrun.Demo(t, map[string]string{"sev.json": list(t, row(t, dir, func(r map[string]any) { r["svsm_hash"] = zero }))}), secretVM)
	if r.Outcome == pipeline.OutcomeMatch || len(r.Findings) > 0 && testrun.Finding(t, r, launch("EPYC", 1)).Verdict == pipeline.Match {
		t.Errorf("an unknown member: %s", r.Outcome)
	}
	found := false
	for _, p := range r.Problems {
		found = found || p.Code == "snp-release" && strings.Contains(p.Msg, "svsm_hash")
	}
	if !found {
		t.Errorf("problems: %+v", r.Problems)
	}
}

// TestPublishedSecretVM: a real machine's digest leads to its release, whose
// hashes stay the list's word; its report shows the ids that follow.
func TestPublishedSecretVM(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/secretvm")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	report, err := base64.StdEncoding.DecodeString(strings.TrimSpace(read("amd_cpu_docker_check_quote.txt")))
	if err != nil || len(report) < 0xc0 {
		t.Fatal(len(report), err)
	}
	root := testrun.Demo(t, map[string]string{"sev.json": read("artifacts_registry/sev.json"), "compose.yaml": read("amd_cpu_docker_check_compose.yaml"), "other.yaml": "services: {}\n"})
	config := fmt.Sprintf("version: 1\nplatforms:\n  vm: {tee: snp, profile: secretvm, compose: compose.yaml, vcpus: 1, expect: {launch: '%x'}}\nregistry: sev.json\n", report[0x90:0xc0])
	r := testrun.Run(t, root, config)
	key := func(name string) pipeline.Key { return pipeline.NewKey("snp", "vm", "EPYC", "cpus=1", name) }
	f := testrun.Finding(t, r, key("launch"))
	if f.Verdict != pipeline.Match || f.Standing.Effective != pipeline.Copied || r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("%s, %s, %s", r.Outcome, f.Verdict, f.Standing)
	}
	said := false
	for _, p := range r.Problems {
		said = said || strings.Contains(p.Msg, "release prod v0.0.25 stands for")
	}
	if !said {
		t.Errorf("problems: %+v", r.Problems)
	}
	if got, want := testrun.Measured(r, key("family-id")).Value.String(), string(report[0x10:0x20]); got != want {
		t.Errorf("family id %q, the report has %q", got, want)
	}
	if got, want := testrun.Measured(r, key("image-id")).Value.String(), string(report[0x20:0x30]); got != want {
		t.Errorf("image id %q, the report has %q", got, want)
	}
	// The size is found, too, where several are listed or none is given.
	for _, vcpus := range []string{" vcpus: [8, 1, 2],", ""} {
		r := testrun.Run(t, root, strings.Replace(config, " vcpus: 1,", vcpus, 1))
		if f := testrun.Finding(t, r, key("launch")); f.Verdict != pipeline.Match {
			t.Errorf("%q: %s", vcpus, f.Verdict)
		}
	}
	for _, change := range [][2]string{{"compose.yaml", "other.yaml"}, {"vcpus: 1", "vcpus: 16"}} {
		r := testrun.Run(t, root, strings.Replace(config, change[0], change[1], 1))
		if r.Outcome != pipeline.OutcomeDiffers {
			t.Errorf("%s: %s", change[1], r.Outcome)
		}
	}
	// A named release of other hashes is another digest.
	r = testrun.Run(t, root, strings.Replace(config, "vcpus: 1", "vcpus: 1, release: 'prod v0.0.28'", 1))
	if r.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("another release: %s", r.Outcome)
	}
}

// TestDescriptions: what describes no machine is refused at its place.
func TestDescriptions(t *testing.T) {
	for text, want := range map[string]string{
		"{tee: snp, firmware: f, page_order: two-pass}":                     "page_order is for machines of another TEE",
		"{tee: snp, profile: secretvn}":                                     "unknown profile",
		"{tee: snp, firmware: f, vcpus: [1, 1]}":                            "1 vCPUs twice",
		"{tee: snp, firmware: f, vcpus: [1..99999999]}":                     "at most 65535",
		"{tee: snp, firmware: f, vcpus: []}":                                "an empty list",
		"{tee: snp, firmware: f, vcpus: {a: 1}}":                            "a number of vCPUs, a range",
		"{tee: snp, firmware: f, vcpu_types: [EPYC, EPYC-v4]}":              "the signature is that of another",
		"{tee: snp, firmware: f, vcpu_types: [EPYC], vcpu_sig: '0xa00f11'}": "are not the same",
		"{tee: snp, firmware: f, guest_features: [1, 1]}":                   "twice",
		"{tee: snp, firmware: f, quirks: [rust]}":                           "want one of",
		"{tee: snp, firmware: f, mode: sev, vcpus: 1}":                      "measures no vCPU",
		"{tee: snp, firmware: f, ovmf_hash: ab}":                            "want 96",
		"{tee: snp, firmware: f, one_vcpu_digest: ab, ap_eip: 0080b004}":    "exclude each other",
		"{tee: snp, one_vcpu_digest: ab, ap_eip: 0080b004}":                 "want 96",
		"{tee: snp, firmware: f, expect: {mrtd: ab}}":                       "want launch, ovmf_hash",
		"{tee: snp, firmware: f, id_block: {policy: 0}}":                    "bit 17",
		"{tee: snp, firmware: f, id_block: {contrast: new}}":                "form",
		"{tee: snp, firmware: f, id_block: {contrast: current, svn: 3}}":    "of its own",
		"{tee: tdx, profile: secretvm, ovmf_hash: ab}":                      "ovmf_hash is for machines of tee snp",
		"{tee: snp, firmware: f, vcpus: -1}":                                "want a number, a range",
		"{tee: tdx, profile: secretvm, vcpus: [1..2]}":                      "want one number",
		"{tee: sgx}":                          "unknown tee",
		"{tee: snp, firmware: f, firmwar: g}": `did you mean "firmware"?`,
	} {
		_, err := run.ParseConfig(stages.Table(), "retally.yaml", []byte("version: 1\nplatforms:\n  p: "+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "retally.yaml:") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestPlanRoundTrip: a configuration as plan writes it is the same again.
func TestPlanRoundTrip(t *testing.T) {
	c := testrun.Config(t, guest("    guest_features: [0x1, 0x21]\n    id_block: {contrast: early}\n"))
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := run.ParseConfig(stages.Table(), "retally.yaml", data)
	if err != nil || again.Identity() != c.Identity() {
		t.Errorf("%v\n%s\n%s", err, data, again.Identity())
	}
}
