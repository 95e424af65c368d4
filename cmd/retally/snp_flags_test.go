package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// snpSamples are a value for each flag of an SNP machine and the same in
// retally.yaml.
var snpSamples = map[string][2]string{
	"mode":            {"svsm", "mode: svsm"},
	"vmm":             {"gce", "vmm: gce"},
	"profile":         {"contrast", "profile: contrast"},
	"firmware":        {"snp_flags_test.go", "firmware: snp_flags_test.go"},
	"kernel":          {"sha256:" + strings.Repeat("ab", 32), "kernel: sha256:" + strings.Repeat("ab", 32)},
	"initrd":          {"sha256:" + strings.Repeat("cd", 32), "initrd: sha256:" + strings.Repeat("cd", 32)},
	"cmdline":         {"a b", "cmdline: a b"},
	"rootfs":          {"sha256:" + strings.Repeat("ef", 32), "rootfs: sha256:" + strings.Repeat("ef", 32)},
	"compose":         {"snp_flags_test.go", "compose: snp_flags_test.go"},
	"vcpus":           {"1..3,8", "vcpus: [1..3, 8]"},
	"vcpu-type":       {"EPYC-Milan,EPYC-Genoa", "vcpu_types: [EPYC-Milan, EPYC-Genoa]"},
	"vcpu-sig":        {"0xa00f11", "vcpu_sig: '0xa00f11'"},
	"vcpu-family":     {"25", "vcpu_family: 25"},
	"vcpu-model":      {"1", "vcpu_model: 1"},
	"vcpu-stepping":   {"0", "vcpu_stepping: 0"},
	"guest-features":  {"0x1,0x21", "guest_features: [0x1, 0x21]"},
	"ovmf-hash":       {strings.Repeat("12", 48), "ovmf_hash: '" + strings.Repeat("12", 48) + "'"},
	"svsm":            {"snp_flags_test.go", "svsm: snp_flags_test.go"},
	"vars-size":       {"0x20000", "vars_size: 131072"},
	"one-vcpu-digest": {strings.Repeat("34", 48), "one_vcpu_digest: '" + strings.Repeat("34", 48) + "'"},
	"ap-eip":          {"00809000", "ap_eip: 00809000"},
	"releases":        {"snp_flags_test.go", "releases: snp_flags_test.go"},
	"release":         {"prod v1", "release: prod v1"},
	"quirk":           {"ec2-rdx-0,cmdline-trimmed", "quirks: [ec2-rdx-0, cmdline-trimmed]"},
	"id-contrast":     {"early", "id_block: {contrast: early}"},
	"id-family":       {"f", "id_block: {family_id: f}"},
	"id-image":        {"i", "id_block: {image_id: i}"},
	"id-svn":          {"3", "id_block: {svn: 3}"},
	"id-policy":       {"0x30000", "id_block: {policy: 0x30000}"},
	"expect":          {strings.Repeat("ab", 48) + ",ovmf_hash=" + strings.Repeat("cd", 48), "expect: {launch: '" + strings.Repeat("ab", 48) + "', ovmf_hash: '" + strings.Repeat("cd", 48) + "'}"},
}

// TestSNPFlagsAreFields: each flag of an SNP machine fills the field that it
// names as retally.yaml does, and each field has a flag.
func TestSNPFlagsAreFields(t *testing.T) {
	a := &app{}
	byFlag := map[string]bool{}
	for _, f := range snpFields() {
		byFlag[f.yaml] = true
		sample, ok := snpSamples[f.flag]
		if !ok {
			t.Errorf("--%s has no sample", f.flag)
			continue
		}
		if key, _, _ := strings.Cut(sample[1], ":"); key != strings.Split(f.yaml, ".")[0] || strings.Contains(f.yaml, ".") && !strings.Contains(sample[1], strings.Split(f.yaml, ".")[1]+":") {
			t.Errorf("--%s: sample %q is not of %s", f.flag, sample[1], f.yaml)
		}
		cmd := &cobra.Command{}
		bindSNP(cmd)
		if err := cmd.Flags().Set(f.flag, sample[0]); err != nil {
			t.Fatal(err)
		}
		got, err := a.snpPlatform("test", cmd.Flags(), run.NewReader(".", nil))
		if err != nil {
			t.Errorf("--%s: %v", f.flag, err)
			continue
		}
		c, _, err := config.Decode("retally.yaml", []byte("version: 1\nplatforms:\n  p:\n    tee: snp\n    "+sample[1]+"\n"))
		if err != nil {
			t.Errorf("%s: %v", sample[1], err)
			continue
		}
		want := c.Platforms["p"]
		if f.flag == "kernel" {
			want.Cmdline = new(string) // the verb's default
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("--%s and %s (-yaml +flag):\n%s", f.flag, sample[1], diff)
		}
	}
	var walk func(t reflect.Type, prefix string) []string
	walk = func(t reflect.Type, prefix string) (names []string) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if f.Type == reflect.TypeFor[*config.IDBlock]() {
				names = append(names, walk(reflect.TypeFor[config.IDBlock](), name+".")...)
				continue
			}
			names = append(names, prefix+name)
		}
		return names
	}
	fields := walk(reflect.TypeFor[config.SNPMachine](), "")
	for _, name := range slices.Concat(fields, []string{"profile", "firmware", "kernel", "initrd", "cmdline", "vcpus", "rootfs", "compose", "expect"}) {
		if !byFlag[name] {
			t.Errorf("field %s has no flag", name)
		}
	}
}
