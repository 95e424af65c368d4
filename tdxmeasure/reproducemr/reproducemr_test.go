package reproducemr_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/reproducemr"
)

func opener(dir string) reproducemr.Open {
	return func(name string) (tdxmeasure.Input, io.Closer, error) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return tdxmeasure.Input{}, nil, err
		}
		st, err := f.Stat()
		return tdxmeasure.Input{Name: name, R: f, Size: st.Size()}, f, err
	}
}

type run struct {
	ID, Kind string
	Inputs   struct {
		FW, Kernel, Initrd, Rootfs, Compose, DockerFiles, Memory, Cmdline, MRKP string
		CPU, TCBVer                                                             int
		Blob                                                                    string `json:"acpi_blob"`
	}
	Outputs map[string]any
	Needs   []string
}

// TestVectorRuns gives recorded runs of the tool the same flags and compares
// what is printed.
func TestVectorRuns(t *testing.T) {
	dir := testenv.Vectors(t, "own/tdx")
	var v struct{ Vectors []run }
	data, err := os.ReadFile(filepath.Join(dir, "oracle_runs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
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
		files := filepath.Join(dir, "files")
		read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(files, name)) }
		var stdout, stderr bytes.Buffer
		err := reproducemr.Run(context.Background(), args, opener(files), read, &stdout, &stderr)
		if r.Outputs["error"] != nil {
			if err == nil {
				t.Errorf("%s: computed, the tool fails with %v", r.ID, r.Outputs["error"])
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		o := r.Outputs
		want := fmt.Sprintf("MRTD: %s\nRTMR0: %s\nRTMR1: %s\nRTMR2: %s\nRTMR3: %s\nMR_AGGREGATED: %s\nMR_IMAGE: %s\n",
			o["mrtd"], o["rtmr0"], o["rtmr1"], o["rtmr2"], o["rtmr3"], o["mr_aggregated"], o["mr_image"])
		if d := cmp.Diff(want, stdout.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", r.ID, d)
		}
		stdout.Reset()
		if err := reproducemr.Run(context.Background(), append(args, "-json"), opener(files), read, &stdout, &stderr); err != nil {
			t.Errorf("%s -json: %v", r.ID, err)
		}
		var got map[string]string
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
			t.Errorf("%s -json: %v", r.ID, err)
		}
		for key, value := range got {
			if value != o[key] {
				t.Errorf("%s -json %s = %s, want %s", r.ID, key, value, o[key])
			}
		}
	}
	t.Logf("reproduce-mr: %d run, %d not run (package files)", n, without)
}

// TestVectorGuide runs the command of SecretVM's guide on our inputs: without
// -tcbver, with the built-in tables of the guide's sample.
func TestVectorGuide(t *testing.T) {
	files := testenv.Vectors(t, "own/tdx/files")
	var stdout, stderr bytes.Buffer
	err := reproducemr.Run(context.Background(), []string{
		"-fw", "fw02-layoutB.fd", "-kernel", "k01-modern.efi", "-initrd", "initrd-small.bin", "-dockercompose", "compose-a.yaml",
		"-rootfs", "rootfs-small.bin", "-memory", "2G", "-cpu", "1", "-cmdline", "console=ttyS0 loglevel=7 clearcpuid=mtrr,rtmr ro initrd=initrd",
	}, opener(files), nil, &stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		// The sample's RTMR0 does not depend on the firmware's code.
		"RTMR0: b6941a8c47be7050bdba6220b915e141c5e33b9c32d9446f743fe5e73cc7612f55acfa662262d1ea2b8017e519c07a7c\n",
		"MRTD: ee1cd921",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("output has no %q:\n%s", want, stdout.String())
		}
	}
}

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":     {nil, "-fw FILE"},
		"unknown":     {[]string{"-nope"}, "-nope"},
		"memory":      {[]string{"-fw", "a", "-kernel", "b", "-memory", "2"}, "no unit"},
		"memory size": {[]string{"-fw", "a", "-kernel", "b", "-memory", "99999999999999G"}, "size such as 2G"},
		"cpu":         {[]string{"-fw", "a", "-kernel", "b", "-cpu", "x"}, "invalid value"},
		"extra":       {[]string{"-fw", "a", "-kernel", "b", "c"}, `"c" behind the flags`},
	} {
		_, err := reproducemr.Parse(c.args, io.Discard)
		var usage *reproducemr.UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error = %v, want a usage error with %q", name, err, c.want)
		}
	}
	if _, err := reproducemr.Parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: error = %v, want ErrHelp", err)
	}
}
