package stages_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/internal/testrun"

	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/tdxmeasure"
)

// TestMachineConfigErrors: every mistake is named with its place and the way
// out.
func TestMachineConfigErrors(t *testing.T) {
	platform := func(fields string) string { return "version: 1\nplatforms:\n  m: {" + fields + "}\n" }
	shown := func(fields string) string { return "version: 1\nevidence:\n  e: {" + fields + "}\n" }
	const tdx, quote = "tee: tdx, profile: secretvm, ", "file: q, at: 2026-06-01T00:00:00Z, "
	for _, tc := range []struct{ config, want, hint string }{
		{platform(""), "retally.yaml:3:6: platforms.m: tee is missing", "tee: tdx"},
		{platform("tee: tpm, acpi: t.bin"), "platforms.m.acpi: acpi has no meaning for machines of tee tpm", "leave it out"},
		{platform("tee: tpm, banks: [sha257]"), `"sha257" is no bank`, "sha384"},
		{platform("tee: tpm, banks: [sha256, sha256]"), "stands twice", ""},
		{platform("tee: tpm, pattern: sdbot-uki"), `platforms.m.pattern: "sdbot-uki": unknown word`, `did you mean "sdboot-uki"?`},
		{platform("tee: tpm, uki: u, kernel: k"), `kernel has no part in a boot of pattern "uki"`, "leave the file out"},
		{platform("tee: tpm, disk: d, initrd: i"), "initrd has no part in a boot of pattern", "what the disk holds"},
		{platform("tee: tpm, devices: none"), `"none": unknown device set`, "direct"},
		{platform("tee: tpm, vars: v, empty_vars: true"), "vars names a file", "keep one"},
		{platform("tee: tpm, expect: {pcr24: '00'}"), `unknown register "pcr24"`, "pcr23"},
		{platform("tee: tpm, expect: {pcr4: '00'}"), "has 2 hex digits", "quotation marks"},
		{platform("tee: tpm, expect: {pcr4: '" + strings.Repeat("0", 96) + "'}"), "is a value of the bank sha384, which is not predicted", "add it to banks"},
		{platform(tdx + "uki: u"), "platforms.m.uki: uki is for machines of tee tpm", "leave it out"},
		{platform("tee: tdxx"), `unknown tee "tdxx"`, `did you mean "tdx"?`},
		{platform("tee: tdx"), "no profile given", "secretvm"},
		{platform("tee: tdx, profile: secretwm"), `retally.yaml:3:26: platforms.m.profile: "secretwm": unknown profile`, "did you mean profile: secretvm?"},
		{platform(tdx + "memory: 2X"), `platforms.m.memory: "2X": want a size`, ""},
		{platform(tdx + "vcpus: 5000"), "platforms.m.vcpus: 5000: want 1 to 4096", ""},
		{platform(tdx + "vcpus: -1"), "-1: want 1 to 4096", ""},
		{platform(tdx + "gpus: 99"), "platforms.m.gpus: 99: want 0 to 30", ""},
		{platform(tdx + "qemu: '7.2'"), "QEMU version", "three numbers"},
		{platform(tdx + "qemu: 7.2.1"), "8.0.0 or newer", ""},
		{platform(tdx + "page_order: singlepass"), `platforms.m.page_order: "singlepass": unknown word`, "did you mean page_order: single-pass?"},
		{platform(tdx + "acpi_source: qemu"), "would run a program", "acpi: FILE"},
		{platform(tdx + "acpi_source: templte"), `"templte": unknown word`, "did you mean acpi_source: template?"},
		{platform(tdx + "acpi_source: template, acpi: t.bin"), "both say where ACPI tables come from", "give one of them"},
		{platform(tdx + "key_provider: nobody"), "key provider", ""},
		{platform(tdx + "app_id: xyz"), `"xyz" is no app id`, ""},
		{platform(tdx + "app_id: 00ff"), "want 40 hex digits", "quotation marks"},
		{platform(tdx + "expect: {rtmr4: '00'}"), `platforms.m.expect.rtmr4: "rtmr4": unknown register`, "did you mean"},
		{platform(tdx + "expect: {mrtd: '00'}"), `platforms.m.expect.mrtd: "00": want 96 hex digits`, "quotation marks"},
		{platform(tdx + "expect: {mr_image: zz}"), "want 64", ""},
		{platform(tdx + "firmwre: x"), `unknown key "firmwre"`, `did you mean "firmware"?`},
		{shown("at: 2026-06-01T00:00:00Z"), "evidence.e: file is missing", "cpu.html"},
		{shown("file: q"), "evidence.e: at is missing", "2026-06-01T00:00:00Z"},
		{shown("file: q, at: 2026-06-01"), `evidence.e.at: "2026-06-01" is no time`, "RFC 3339"},
		{shown(quote + "profile: secretv"), `unknown profile "secretv"`, `did you mean "secretvm"?`},
		{shown(quote + "platform: m"), `there is no platform "m"`, "none is given"},
		{shown(quote + "nonce: 0xzz"), "is no nonce", ""},
		{shown(quote + "os_image_hash: '00'"), `evidence.e.os_image_hash: found "00", want 64`, "the image's hash"},
		{shown(quote + "accept_tcb: [Revoked]"), "Revoked is never accepted", ""},
		{shown(quote + "accept_tcb: [OutOfdate]"), `unknown status "OutOfdate"`, `did you mean "OutOfDate"?`},
		{shown(quote + "mrseam: ['00']"), "evidence.e.mrseam: found", "want 96"},
		{"version: 1\nregistry: tdx.csv\n", "nothing to recount", ""},
	} {
		_, err := run.ParseConfig(stages.Table(), "retally.yaml", []byte(tc.config))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.hint) {
			t.Errorf("%s: got %v, want %q and %q", tc.config, err, tc.want, tc.hint)
		}
	}
}

// TestMachineConfigDefaults: evidence takes from its platform and from the top
// what it does not have itself; nothing of it is hidden from plan.
func TestMachineConfigDefaults(t *testing.T) {
	c := testrun.Config(t, `version: 1
compose: top.yaml
registry: tdx.csv
platforms:
  vm: {tee: tdx, profile: secretvm, rootfs: r.img, docker_files: d.tar, app_id: '00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff'}
  pod: {tee: tdx, profile: contrast-1.20, acpi: t.bin}
evidence:
  a: {file: q, at: 2026-06-01T00:00:00Z, platform: vm, compose: own.yaml}
  b: {file: q, at: 2026-06-01T02:00:00+02:00}
`)
	if e := c.Evidence["a"]; e.Compose != "own.yaml" || e.Registry != "tdx.csv" || e.Rootfs != "r.img" || e.DockerFiles != "d.tar" || e.AppID != "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff" || e.Profile != "secretvm" || e.At != "2026-06-01T00:00:00Z" {
		t.Errorf("a: %+v", e)
	}
	if e := c.Evidence["b"]; e.Compose != "top.yaml" || e.Rootfs != "" || e.At != "2026-06-01T02:00:00+02:00" {
		t.Errorf("b: %+v", e)
	}
	if p := c.Platforms["vm"]; p.Compose != "top.yaml" || p.ACPISource != "template" {
		t.Errorf("vm: %+v", p)
	}
	for _, order := range tdxmeasure.PageOrders() {
		if _, err := run.ParseConfig(stages.Table(), "retally.yaml", []byte("version: 1\nplatforms:\n  m: {tee: tdx, profile: secretvm, page_order: "+order+"}\n")); err != nil {
			t.Errorf("a word that the flag takes: %v", err)
		}
	}
	if p := c.Platforms["pod"]; p.Compose != "" || p.ACPISource != "" {
		t.Errorf("pod: %+v", p)
	}
	var missing []string
	for _, l := range run.Plan(stages.Table(), c) {
		if l.Missing != "" && strings.HasPrefix(l.Key, "tdx/vm/") {
			missing = append(missing, l.Key+": "+l.Missing+" ("+l.How+")")
		}
	}
	if len(missing) != 4 || !strings.Contains(missing[0], "tdx/vm/mrtd: firmware (platforms.vm.firmware:") {
		t.Errorf("missing: %q", missing)
	}
}
