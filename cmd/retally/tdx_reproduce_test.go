package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
)

type reproduceRun struct {
	ID, Kind string
	Inputs   struct {
		FW, Kernel, Initrd, Rootfs, Compose, DockerFiles, Memory, Cmdline, MRKP string
		CPU, TCBVer                                                             int
		Blob                                                                    string `json:"acpi_blob"`
	}
	Outputs map[string]any
	Needs   []string
}

// TestVectorReproduceRuns gives recorded runs of the tool the same flags and compares
// what is printed.
func TestVectorReproduceRuns(t *testing.T) {
	dir := testenv.Vectors(t, "own/tdx")
	var v struct{ Vectors []reproduceRun }
	data, err := os.ReadFile(filepath.Join(dir, "oracle_runs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join(dir, "files"))
	n, without := 0, 0
	for _, r := range v.Vectors {
		if r.Kind != "reproduce-mr" {
			continue
		}
		if len(r.Needs) > 0 {
			without++
			continue
		}
		n++
		in := r.Inputs
		args := []string{
			"-fw", in.FW, "-kernel", in.Kernel, "-memory", in.Memory, "-cpu", fmt.Sprint(in.CPU), "-cmdline", in.Cmdline,
			"-tcbver", fmt.Sprint(in.TCBVer), "-acpi", "../acpi/" + in.Blob + ".hex",
		}
		for name, value := range map[string]string{"initrd": in.Initrd, "rootfs": in.Rootfs, "dockercompose": in.Compose, "dockerfiles": in.DockerFiles, "mrkp": in.MRKP} {
			if value != "" {
				args = append(args, "-"+name, value)
			}
		}
		args = append([]string{"-q", "tdx", "reproduce-mr"}, args...)
		code, stdout, stderr := inProcess(t, nil, args...)
		if r.Outputs["error"] != nil {
			if code != exitTrouble {
				t.Errorf("%s: computed, the tool fails with %v", r.ID, r.Outputs["error"])
			}
			continue
		}
		if code != exitMatch {
			t.Errorf("%s: %s", r.ID, stderr)
			continue
		}
		o := r.Outputs
		want := fmt.Sprintf("MRTD: %s\nRTMR0: %s\nRTMR1: %s\nRTMR2: %s\nRTMR3: %s\nMR_AGGREGATED: %s\nMR_IMAGE: %s\n",
			o["mrtd"], o["rtmr0"], o["rtmr1"], o["rtmr2"], o["rtmr3"], o["mr_aggregated"], o["mr_image"])
		if d := cmp.Diff(want, stdout); d != "" {
			t.Errorf("%s (-want +got):\n%s", r.ID, d)
		}
		_, stdout, _ = inProcess(t, nil, append(args, "-json")...)
		var got map[string]any
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Errorf("%s -json: %v", r.ID, err)
		}
		for _, key := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_aggregated", "mr_image"} {
			if want := o[key]; got[key] != want {
				t.Errorf("%s -json %s = %v, want %v", r.ID, key, got[key], want)
			}
		}
	}
	t.Logf("reproduce-mr: %d run, %d not run (package files)", n, without)
}

// TestVectorReproduceGuide runs the command of SecretVM's guide on our inputs: without
// -tcbver, with the built-in tables of the guide's sample.
func TestVectorReproduceGuide(t *testing.T) {
	t.Chdir(testenv.Vectors(t, "own/tdx/files"))
	code, stdout, stderr := inProcess(t, nil,
		"tdx", "reproduce-mr", "-fw", "fw02-layoutB.fd", "-kernel", "k01-modern.efi", "-initrd", "initrd-small.bin", "-dockercompose", "compose-a.yaml",
		"-rootfs", "rootfs-small.bin", "-memory", "2G", "-cpu", "1", "-cmdline", "console=ttyS0 loglevel=7 clearcpuid=mtrr,rtmr ro initrd=initrd")
	if code != exitMatch {
		t.Fatal(stderr)
	}
	for _, want := range []string{
		// The sample's RTMR0 does not depend on the firmware's code.
		"RTMR0: b6941a8c47be7050bdba6220b915e141c5e33b9c32d9446f743fe5e73cc7612f55acfa662262d1ea2b8017e519c07a7c\n",
		"MRTD: ee1cd921",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("output has no %q:\n%s", want, stdout)
		}
	}
}
