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
)

// retallyJSON runs a command line in process and decodes what it prints.
func retallyJSON(t testing.TB, into any, args ...string) (code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args = append(args, "-o", "json", "--progress", "none")
	code = run(context.Background(), args, func(string) string { return "" }, strings.NewReader(""), &stdout, &stderr)
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
	if total < 87 {
		t.Errorf("%d rows run, 87 need nothing that is not shipped", total)
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
	same(t, "basis", m.Basis["rtmr0"], "recomputed")
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

// fixture rows need the firmware of a distribution; the published fixtures
// are run below.
func (r peerRun) fixture(t *testing.T, _ inputFiles) {
	t.Skipf("SKIP-VISIBLE vectors: needs %v", r.Needs)
}
