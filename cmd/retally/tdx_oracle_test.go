package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/pipeline/stages/tdx"
)

// retallyJSON runs a command line in process and decodes what it prints.
func retallyJSON(t testing.TB, into any, args ...string) (code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args = append(args, "-o", "json", "--progress", "none")
	code = execute(context.Background(), args, func(string) string { return "" }, strings.NewReader(""), &stdout, &stderr)
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		t.Fatalf("retally %q: exit %d, %v\n%s%s", args, code, err, stdout.String(), stderr.String())
	}
	return code
}

// measured is what a test needs of tdx measure's JSON.
type measured struct {
	MRTD, RTMR0, RTMR1, RTMR2, RTMR3 string
	Aggregated                       string `json:"mr_aggregated"`
	Image                            string `json:"mr_image"`
	System                           string `json:"mr_system"`
	Basis                            map[string]string
	Notes                            []string
	Trace                            map[string]struct {
		Events []struct{ Label, Digest string }
	}
	Error struct{ Message, Hint, Op string }
}

func measureTD(t testing.TB, args ...string) (measured, int) {
	t.Helper()
	var m measured
	code := retallyJSON(t, &m, append([]string{"tdx", "measure"}, args...)...)
	return m, code
}

// value is a digest that a peer printed, or its error.
type peerValue struct{ hex, err string }

func (v *peerValue) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var e struct{ Error string }
		err := json.Unmarshal(b, &e)
		v.err = e.Error
		return err
	}
	return json.Unmarshal(b, &v.hex)
}

type peerRun struct {
	ID, Kind, Firmware, Kernel, Initrd string
	ACPI                               string               `json:"acpi"`
	Blob                               string               `json:"acpi_blob"`
	MemoryMiB                          int                  `json:"memory_mib"`
	SinglePass                         map[string]peerValue `json:"single_pass"`
	TwoPass                            map[string]peerValue `json:"two_pass"`
	RTMR0, RTMR1                       map[string]peerValue
	Inputs                             map[string]any
	Outputs                            peerOutput
	Memory, Cmdline                    string
	CPUs                               int
	PatchKernel                        bool `json:"patch_kernel"`
	Needs                              []string
	Metadata                           json.RawMessage
	Expected                           peerOutput
}

type peerOutput struct {
	MRTD, RTMR0, RTMR1, RTMR2, RTMR3 string
	Aggregated                       string `json:"mr_aggregated"`
	Image                            string `json:"mr_image"`
	Log0, Log1, Log2                 []string
	Error                            string
}

// inputFiles puts the inputs of the vectors where a command line can name
// them.
type inputFiles struct {
	*testtdx.Files
	folder string
}

func (f inputFiles) path(t testing.TB, name string) string {
	t.Helper()
	if name == "" {
		return ""
	}
	data := f.Get(t, name)
	path := filepath.Join(f.folder, strings.NewReplacer(":", "_", "/", "_").Replace(name))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// flag gives a flag with a file, or nothing.
func (f inputFiles) flag(t testing.TB, flag, name string) []string {
	t.Helper()
	if name == "" {
		return nil
	}
	return []string{"--" + flag, f.path(t, name)}
}

func (f inputFiles) acpi(t testing.TB, blob string) string {
	t.Helper()
	for _, path := range []string{filepath.Join(f.Dir, "acpi", blob+".hex"), filepath.Join(f.Dir, "../../published/tdx/acpi", blob+".hex")} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("no tables %s", blob)
	return ""
}

// TestVectorOracleRuns recomputes every recorded run of a peer program whose
// inputs are at hand through the command line; where peers differ, each value
// is reached by its switch.
func TestVectorOracleRuns(t *testing.T) {
	f := inputFiles{testtdx.NewFiles(t), t.TempDir()}
	var v, oasis struct{ Vectors []peerRun }
	testtdx.ReadJSON(t, filepath.Join(f.Dir, "oracle_runs.json"), &v)
	testtdx.ReadJSON(t, testenv.Vectors(t, "published/tdx/oracle_runs_oasis.json"), &oasis)
	for i := range oasis.Vectors {
		oasis.Vectors[i].ID = "oasis-" + strconv.Itoa(i)
	}
	ran, missing := map[string]int{}, map[string]int{}
	for _, r := range append(v.Vectors, oasis.Vectors...) {
		t.Run(r.ID, func(t *testing.T) {
			missing[r.Kind]++
			check := map[string]func(*testing.T, inputFiles){
				"mrtd": r.firmware, "mrtd+rtmr0": r.firmware, "firmware-error": r.firmwareError, "kernel": r.kernel,
				"reproduce-mr": r.reproduceMR, "dstack-mr": r.dstack, "tdx-measure": r.tdxMeasure, "tdx-measure-fixture": r.fixture,
			}[r.Kind]
			if check == nil {
				t.Fatalf("unknown kind %q", r.Kind)
			}
			check(t, f) // skips where an input is missing
			missing[r.Kind]--
			ran[r.Kind]++
		})
	}
	total, left := 0, 0
	for _, kind := range slices.Sorted(maps.Keys(missing)) {
		t.Logf("%s: %d run, %d not run for want of inputs", kind, ran[kind], missing[kind])
		total, left = total+ran[kind], left+missing[kind]
	}
	t.Logf("in all: %d run, %d not run", total, left)
	if total < 88 {
		t.Errorf("%d rows run, 88 need nothing that is not shipped", total)
	}
}

func same(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %s, want %s", what, got, want)
	}
}

func (r peerRun) firmware(t *testing.T, f inputFiles) {
	fw := f.path(t, r.Firmware)
	for order, want := range map[string]map[string]peerValue{"single": r.SinglePass, "two-pass": r.TwoPass} {
		for peer, w := range want {
			args := []string{"--profile", "secretvm", "--only", "mrtd", "--firmware", fw, "--page-order", order, "--read-on=" + strconv.FormatBool(peer != "reproduce-mr")}
			m, code := measureTD(t, args...)
			switch {
			case w.err != "":
				if code != exitTrouble && !strings.Contains(w.err, "CFV section does not exist") {
					t.Errorf("%s %s: computed, the peer fails with %.80s", peer, order, w.err)
				}
			case code != exitMatch:
				t.Errorf("%s %s: exit %d: %s", peer, order, code, m.Error.Message)
			default:
				same(t, peer+" "+order, m.MRTD, w.hex)
			}
		}
	}
	for peer, w := range r.RTMR0 {
		profile := map[string]string{"reproduce-mr (fixed HOB layout)": "reproduce-mr", "dstack-mr": "dstack", "tdx-measure": "tdx-measure"}[peer]
		args := []string{
			"--profile", profile, "--only", "rtmr0", "--firmware", fw, "--memory", strconv.Itoa(r.MemoryMiB) + "M", "--acpi", f.acpi(t, r.ACPI),
		}
		if w.err != "" {
			args = append(args, "--only", "mrtd", "--read-on="+strconv.FormatBool(profile != "reproduce-mr"))
		}
		m, code := measureTD(t, args...)
		switch {
		case w.err != "" && code == exitMatch:
			t.Errorf("%s: computed, the peer fails with %.80s", peer, w.err)
		case w.err != "":
		case code != exitMatch:
			t.Errorf("%s: exit %d: %s", peer, code, m.Error.Message)
		default:
			same(t, peer+" RTMR0", m.RTMR0, w.hex)
			same(t, peer+" basis", m.Basis["rtmr0"], "copied")
		}
	}
}

func (r peerRun) firmwareError(t *testing.T, f inputFiles) {
	m, code := measureTD(t, "--profile", "secretvm", "--only", "mrtd", "--firmware", f.path(t, r.Firmware))
	if code != exitTrouble || !strings.Contains(m.Error.Message, "read firmware") || m.Error.Op != "tdx measure" {
		t.Errorf("exit %d, %+v", code, m.Error)
	}
	t.Log(m.Error.Message)
}

func (r peerRun) kernel(t *testing.T, f inputFiles) {
	for peer, w := range r.RTMR1 {
		args := []string{"--profile", "secretvm", "--only", "rtmr1", "--kernel", f.path(t, r.Kernel), "--memory", strconv.Itoa(r.MemoryMiB) + "M", "--trace"}
		args = append(args, f.flag(t, "initrd", r.Initrd)...)
		switch peer {
		case "reproduce-mr":
		case "dstack-mr", "tdx-measure --patch-kernel":
			args = append(args, "--header-rule", "dstack", "--authenticode", "dstack")
		case "tdx-measure (unpatched)":
			args = append(args, "--patch-kernel=false", "--authenticode", "dstack")
		default:
			t.Fatalf("unknown peer %q", peer)
		}
		m, code := measureTD(t, args...)
		switch {
		case w.err != "" && code != exitTrouble:
			t.Errorf("%s: computed, the peer fails with %.80s", peer, w.err)
		case w.err != "":
		case code != exitMatch:
			t.Errorf("%s: exit %d: %s", peer, code, m.Error.Message)
		default:
			same(t, peer+" RTMR1", m.RTMR1, w.hex)
		}
	}
}

// text returns an input of a run as flags have it.
func (r peerRun) text(key string) string {
	switch v := r.Inputs[key].(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// reproduceMR runs the tool's own flags, and the same machine through tdx
// measure.
func (r peerRun) reproduceMR(t *testing.T, f inputFiles) {
	foreign := []string{"tdx", "reproduce-mr", "-acpi", f.acpi(t, r.text("acpi_blob"))}
	ours := []string{"--profile", "reproduce-mr", "--acpi", f.acpi(t, r.text("acpi_blob")), "--trace"}
	for _, n := range []struct{ key, theirs, ours string }{
		{"fw", "fw", "firmware"},
		{"kernel", "kernel", "kernel"},
		{"initrd", "initrd", "initrd"},
		{"rootfs", "rootfs", "rootfs"},
		{"compose", "dockercompose", "docker-compose"},
		{"dockerfiles", "dockerfiles", "docker-files"},
	} {
		if name := r.text(n.key); name != "" {
			path := f.path(t, name)
			foreign = append(foreign, "-"+n.theirs, path)
			ours = append(ours, "--"+n.ours, path)
		}
	}
	for _, n := range [][3]string{{"memory", "memory", "memory"}, {"cpu", "cpu", "cpu"}, {"cmdline", "cmdline", "cmdline"}, {"mrkp", "mrkp", "key-provider"}} {
		if v, ok := r.Inputs[n[0]]; ok && fmt.Sprint(v) != "" {
			foreign = append(foreign, "-"+n[1], r.text(n[0]))
			ours = append(ours, "--"+n[2], r.text(n[0]))
		}
	}
	foreign = append(foreign, "-tcbver", r.text("tcbver"))
	var theirs measured
	code := retallyJSON(t, &theirs, foreign...)
	if r.Outputs.Error != "" {
		if code != exitTrouble {
			t.Errorf("computed, the peer fails with %s", r.Outputs.Error)
		}
		return
	}
	order := map[string]string{"6": "single", "7": "two-pass"}[r.text("tcbver")]
	m, ourCode := measureTD(t, append(ours, "--page-order", order)...)
	if code != exitMatch || ourCode != exitMatch {
		t.Fatalf("exit %d and %d: %s%s", code, ourCode, theirs.Error.Message, m.Error.Message)
	}
	for _, got := range []measured{theirs, m} {
		r.check(t, got)
		same(t, "RTMR3", got.RTMR3, r.Outputs.RTMR3)
		same(t, "MR_AGGREGATED", got.Aggregated, r.Outputs.Aggregated)
		same(t, "MR_IMAGE", got.Image, r.Outputs.Image)
	}
	r.checkLogs(t, m)
}

func (r peerRun) check(t testing.TB, got measured) {
	t.Helper()
	same(t, "MRTD", got.MRTD, r.Outputs.MRTD)
	same(t, "RTMR0", got.RTMR0, r.Outputs.RTMR0)
	same(t, "RTMR1", got.RTMR1, r.Outputs.RTMR1)
	same(t, "RTMR2", got.RTMR2, r.Outputs.RTMR2)
}

// checkLogs compares every event that a peer printed with the trace.
func (r peerRun) checkLogs(t testing.TB, got measured) {
	t.Helper()
	for name, log := range map[string][]string{"rtmr0": r.Outputs.Log0, "rtmr1": r.Outputs.Log1, "rtmr2": r.Outputs.Log2} {
		events := got.Trace[name].Events
		if log != nil && len(events) != len(log) {
			t.Errorf("%s has %d events, want %d", name, len(events), len(log))
			continue
		}
		for i, want := range log {
			same(t, name+" event "+events[i].Label, events[i].Digest, "sha384:"+want)
		}
	}
}

func (r peerRun) dstack(t *testing.T, f inputFiles) {
	// This version of the tool knows six tables, and patches for every QEMU.
	args := []string{"--profile", "dstack", "--six-table-loader", "--only", "mrtd,rtmr0,rtmr1,rtmr2", "--trace", "--cmdline", r.text("cmdline")}
	args = append(args, f.flag(t, "firmware", r.text("fw"))...)
	args = append(args, f.flag(t, "kernel", r.text("kernel"))...)
	args = append(args, f.flag(t, "initrd", r.text("initrd"))...)
	for key, flag := range map[string]string{
		"qemu_version": "qemu-version", "cpu": "cpu", "memory": "memory", "pic": "pic", "num_gpus": "gpus", "num_nics": "nics", "num_verity_volumes": "volumes",
		"num_nvswitches": "nvswitches", "hotplug_off": "hotplug-off", "hugepages": "hugepages",
	} {
		if _, ok := r.Inputs[key]; ok {
			args = append(args, "--"+flag+"="+r.text(key))
		}
	}
	if r.Inputs["root_verity"] == false {
		args = append(args, "--no-root-disk")
	}
	if hole, ok := r.Inputs["pci_hole64_size"].(float64); ok && hole > 0 {
		args = append(args, "--pci-hole64", strconv.Itoa(int(hole)>>20)+"M")
	}
	m, code := measureTD(t, append(args, "--patch-kernel")...)
	if r.Outputs.Error != "" {
		if code != exitTrouble {
			t.Errorf("computed, the peer fails with %s", r.Outputs.Error)
		}
		return
	}
	if code != exitMatch {
		t.Fatalf("exit %d: %s", code, m.Error.Message)
	}
	r.check(t, m)
	r.checkLogs(t, m)
	basis := "recomputed"
	if r.Inputs["cpu"] == nil || r.Inputs["memory"] == nil {
		basis = "assumed" // the tool's own default, which nobody stated
	}
	same(t, "basis", m.Basis["rtmr0"], basis)
}

func (r peerRun) tdxMeasure(t *testing.T, f inputFiles) {
	args := []string{
		"--profile", "tdx-measure", "--acpi", f.acpi(t, r.Blob), "--memory", r.Memory, "--cpu", strconv.Itoa(r.CPUs), "--cmdline", r.Cmdline,
		"--patch-kernel=" + strconv.FormatBool(r.PatchKernel), "--trace",
	}
	args = append(args, f.flag(t, "firmware", r.Firmware)...)
	args = append(args, f.flag(t, "kernel", r.Kernel)...)
	args = append(args, f.flag(t, "initrd", r.Initrd)...)
	m, code := measureTD(t, args...)
	if code != exitMatch {
		t.Fatalf("exit %d: %s", code, m.Error.Message)
	}
	r.check(t, m)
	same(t, "RTMR3", m.RTMR3, strings.Repeat("0", 96))
}

// fixture runs a fixture's metadata. Its firmware is a distribution's: a
// synthetic one of the same memory layout, with the constant of the same empty
// variable store, has the same RTMR0, and another MRTD, which is not compared.
func (r peerRun) fixture(t *testing.T, f inputFiles) {
	dir := t.TempDir()
	meta := filepath.Join(dir, "metadata.json")
	if err := os.WriteFile(meta, r.Metadata, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--metadata", meta, "--only", "rtmr0", "--firmware", f.path(t, "fw02-layoutB.fd"), "--cfv", "constant", "--kernel", "", "--initrd", ""}
	m, code := measureTD(t, append(args, "--acpi", f.acpi(t, r.Blob))...)
	if code != exitMatch {
		t.Fatalf("exit %d: %s", code, m.Error.Message)
	}
	same(t, "RTMR0", m.RTMR0, r.Expected.RTMR0)
	same(t, "basis", m.Basis["rtmr0"], "copied")
	// Without the tables: those of the machine that the metadata describes.
	if m, code = measureTD(t, args...); code != exitMatch {
		t.Fatalf("exit %d: %s", code, m.Error.Message)
	}
	same(t, "RTMR0 without the tables", m.RTMR0, r.Expected.RTMR0)
	same(t, "basis without the tables", m.Basis["rtmr0"], "recomputed")
}

// TestVectorFixtures runs the published fixtures where they lie.
func TestVectorFixtures(t *testing.T) {
	f := inputFiles{testtdx.NewFiles(t), t.TempDir()}
	for _, name := range []string{"canonical-defaults", "runtime-capture"} {
		dir := testenv.Vectors(t, "published/tdx/fixtures/"+name)
		var want peerOutput
		testtdx.ReadJSON(t, filepath.Join(dir, "expected.json"), &want)
		m, code := measureTD(t, "--metadata", filepath.Join(dir, "metadata.json"), "--only", "rtmr0", "--firmware", f.path(t, "fw02-layoutB.fd"),
			"--cfv", "constant", "--kernel", "", "--initrd", "", "--acpi", filepath.Join(dir, "acpi_tables.trimmed.hex"))
		if code != exitMatch {
			t.Fatalf("%s: exit %d: %s", name, code, m.Error.Message)
		}
		same(t, name+" RTMR0", m.RTMR0, want.RTMR0)
	}
}

// secretVMShape are the flags of a recorded SecretVM machine.
type secretVMShape struct {
	Family    string `json:"qemu_profile"`
	PCAT      int
	COM1      bool
	CPUs      int
	MemoryMiB int    `json:"memory_mib"`
	Occupied  bool   `json:"root_port_occupied"`
	Max       string `json:"pci64_max"`
	Separator bool   `json:"trailing_separator"`
}

func (s secretVMShape) flags() []string {
	args := []string{
		"--profile", "secretvm", "--acpi-family", s.Family, "--pic=" + strconv.FormatBool(s.PCAT == 1), "--no-com1=" + strconv.FormatBool(!s.COM1),
		"--cpu", strconv.Itoa(s.CPUs), "--memory", strconv.Itoa(s.MemoryMiB) + "M", "--trailing-separator=" + strconv.FormatBool(s.Separator),
	}
	if s.Occupied || s.Max == "0x38200300ffff" {
		args = append(args, "--gpus", "1")
	}
	return args
}

// TestVectorSecretVM: every recorded machine's RTMR0, and the guide's sample
// with its aggregates.
func TestVectorSecretVM(t *testing.T) {
	f := inputFiles{testtdx.NewFiles(t), t.TempDir()}
	artifacts := []string{"--firmware", f.path(t, "fw02-layoutB.fd"), "--cfv", "constant"}
	var v struct {
		Shapes []struct {
			Template, RTMR0 string
			Shape           secretVMShape
		}
	}
	testtdx.ReadJSON(t, filepath.Join(f.Dir, "secretvm_rtmr0_shapes.json"), &v)
	for _, s := range v.Shapes {
		m, code := measureTD(t, slices.Concat(s.Shape.flags(), artifacts, []string{"--only", "rtmr0", "--expect", "rtmr0=" + s.RTMR0})...)
		if code != exitMatch {
			t.Errorf("%s: exit %d, RTMR0 %s, want %s", s.Template, code, m.RTMR0, s.RTMR0)
		}
	}
	t.Logf("%d machines", len(v.Shapes))
	var sample struct {
		MRTD, RTMR0, RTMR1, RTMR2, RTMR3 string
		Aggregated                       string `json:"MR_AGGREGATED"`
		Image                            string `json:"MR_IMAGE"`
		Reproduced                       struct{ RTMR0 secretVMShape }
	}
	testtdx.ReadJSON(t, filepath.Join(f.Dir, "secretvm_seed.json"), &sample)
	args := slices.Concat(sample.Reproduced.RTMR0.flags(), artifacts, []string{
		"--given", "mrtd=" + sample.MRTD, "--given", "rtmr1=" + sample.RTMR1, "--given", "rtmr2=" + sample.RTMR2, "--given", "rtmr3=" + sample.RTMR3,
		"--expect", "rtmr0=" + sample.RTMR0, "--expect", "mr_aggregated=" + sample.Aggregated, "--expect", "mr_image=" + sample.Image,
	})
	m, code := measureTD(t, args...)
	// The aggregates agree and rest on registers that were only given.
	if code != exitUnchecked || m.Aggregated != sample.Aggregated || m.Image != sample.Image || m.RTMR0 != sample.RTMR0 {
		t.Errorf("the sample: exit %d, %+v", code, m)
	}
	for name, want := range map[string]string{"mrtd": "copied", "rtmr0": "recomputed", "rtmr3": "copied", "mr_aggregated": "copied"} {
		same(t, "basis of "+name, m.Basis[name], want)
	}
}

// TestVectorQuoteRegisters recomputes the registers of two real quotes: RTMR0
// and RTMR3 of SecretVM's from shape, compose file and registry row; all of
// dstack's from its own documents.
func TestVectorQuoteRegisters(t *testing.T) {
	f := inputFiles{testtdx.NewFiles(t), t.TempDir()}
	dir := testenv.Vectors(t, "published/tdx")
	var rows []struct {
		File      string
		Registers peerOutput
	}
	testtdx.ReadJSON(t, filepath.Join(dir, "real_quotes.json"), &rows)
	var lite, small peerOutput
	for _, r := range rows {
		switch {
		case strings.Contains(r.File, "secretvm-small"):
			small = r.Registers
		case strings.Contains(r.File, "dstack-0.6.0"):
			lite = r.Registers
		}
	}
	compose := filepath.Join(dir, "quotes/secretvm-small-v0.0.25.compose.yaml")
	row := registryRootfs(t, filepath.Join(dir, "secretvm_registry.json"), "2a6d16965f5ce514")
	m, code := measureTD(t, "--profile", "secretvm", "--no-com1", "--firmware", f.path(t, "fw02-layoutB.fd"), "--cfv", "constant", "--only", "rtmr0,rtmr3",
		"--docker-compose", compose, "--rootfs", "sha256:"+row)
	if code != exitMatch {
		t.Fatalf("exit %d: %s", code, m.Error.Message)
	}
	same(t, "RTMR0", m.RTMR0, small.RTMR0)
	same(t, "RTMR3", m.RTMR3, small.RTMR3)

	doc := filepath.Join(dir, "quotes/dstack-0.6.0-lite.json")
	// All agree; the image's part is copied from the document.
	m, code = measureTD(t, "--vm-config", doc, "--event-log", doc, "--log", doc)
	if code != exitUnchecked {
		t.Fatalf("exit %d: %s", code, m.Error.Message)
	}
	peerRun{Outputs: lite}.check(t, m)
	same(t, "RTMR3", m.RTMR3, lite.RTMR3)
	same(t, "basis of RTMR3", m.Basis["rtmr3"], "replayed")
	// With three vCPUs the log belongs to another machine.
	if _, code = measureTD(t, "--vm-config", doc, "--event-log", doc, "--log", doc, "--cpu", "3"); code != exitDiffers {
		t.Errorf("another machine than the log's: exit %d", code)
	}
}

// registryRootfs finds the digest that starts so in the registry.
func registryRootfs(t testing.TB, path, start string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte(start))
	if i < 0 {
		t.Fatalf("%s has no %s", path, start)
	}
	return string(data[i : i+64])
}

// TestOracleTables: the tables of a stock QEMU and the built-in ones give the
// same RTMR0.
func TestOracleTables(t *testing.T) {
	dir := t.TempDir()
	tdxArtifacts(t, dir)
	programs := os.Getenv("RETALLY_QEMU")
	if programs == "" {
		testenv.Missing(t, "QEMU 10 or newer (RETALLY_QEMU)")
	}
	env := func(name string) string { return map[string]string{"RETALLY_QEMU": programs}[name] }
	answered := 0
	for _, family := range tdx.Families()[2:] {
		for _, shape := range [][]string{
			{"--profile", "secretvm"},
			{"--profile", "secretvm", "--gpus", "1", "--cpu", "16", "--memory", "256G", "--no-com1"},
			{"--profile", "dstack", "--pic"},
		} {
			if !slices.Contains(shape, "--cpu") {
				shape = append(shape, "--cpu", "1", "--memory", "2G")
			}
			args := append(shape, "--firmware", filepath.Join(dir, "ovmf.fd"), "--only", "rtmr0", "--acpi-family", family)
			want, code := measureTD(t, args...)
			if code != exitMatch {
				t.Fatal(want.Error.Message)
			}
			var stdout, stderr bytes.Buffer
			code = execute(context.Background(), append([]string{"tdx", "measure", "--acpi-source", "qemu", "-o", "json"}, args...), env, strings.NewReader(""), &stdout, &stderr)
			var got struct {
				measured
				ACPI string
			}
			if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if code == exitTrouble && strings.Contains(got.Error.Message, "want family "+family) {
				t.Logf("SKIP-VISIBLE oracle: no QEMU of family %s", family)
				break
			}
			answered++
			if code != exitMatch || got.RTMR0 != want.RTMR0 || !strings.HasPrefix(got.ACPI, "stock QEMU ") || got.Basis["rtmr0"] != "recomputed" {
				t.Errorf("family %s, %q: exit %d, %+v, want %s", family, shape, code, got, want.RTMR0)
			}
		}
	}
	if answered == 0 {
		testenv.Missing(t, "QEMU of family 10.0 or 11.1 (RETALLY_QEMU)")
	}
}

// TestNoQEMU: where none can be found, the error says where it was looked for.
func TestNoQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	m, code := measureTD(t, "--profile", "secretvm", "--only", "rtmr0", "--acpi-source", "qemu")
	if code != exitTrouble || !strings.Contains(m.Error.Message, "qemu-system-x86_64 is not in PATH") || !strings.Contains(m.Error.Hint, "RETALLY_QEMU") {
		t.Errorf("exit %d, %+v", code, m.Error)
	}
}
