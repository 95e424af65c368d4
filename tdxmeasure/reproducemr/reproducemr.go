// Package reproducemr answers the command line of SecretVM's published tool
// reproduce-mr: its single-dash flags in, its lines out, so that published
// instructions work with only the program's name changed.
package reproducemr

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// UsageError is a command line that cannot be run.
type UsageError struct{ Message string }

// Error implements error.
func (e *UsageError) Error() string { return e.Message }

// Options are the parsed flags.
type Options struct {
	Firmware, Kernel, Initrd, Rootfs, Compose, DockerFiles string
	Memory                                                 uint64 // bytes
	VCPUs                                                  int
	Cmdline                                                string
	KeyProvider                                            string
	TCBVersion                                             string
	JSON                                                   bool

	// Beyond the tool's own flags: the tables, which it took from files beside
	// itself.
	ACPI       string // file of the tables blob
	QEMUFamily string // built-in tables of a QEMU family
	PIC        bool
	NoCOM1     bool
}

// Parse reads the flags. Usage goes to usage.
func Parse(args []string, usage io.Writer) (*Options, error) {
	o := &Options{Memory: 2 << 30, VCPUs: 1}
	fs := flag.NewFlagSet("reproduce-mr", flag.ContinueOnError)
	fs.SetOutput(usage)
	text := func(to *string, name, value, help string) { fs.StringVar(to, name, value, help) }
	text(&o.Firmware, "fw", "", "firmware `file`")
	text(&o.Kernel, "kernel", "", "kernel `file`")
	text(&o.Initrd, "initrd", "", "initrd `file`")
	text(&o.Rootfs, "rootfs", "", "root file system `file`")
	text(&o.Compose, "dockercompose", "", "docker compose `file`")
	text(&o.DockerFiles, "dockerfiles", "", "docker files archive `file`")
	text(&o.Cmdline, "cmdline", "", "kernel command `line`, with initrd=initrd")
	text(&o.KeyProvider, "mrkp", strings.Repeat("0", 64), "key provider: none, sgx-v0 or `hex` digits")
	text(&o.TCBVersion, "tcbver", "", "TDX module `generation`: 6 adds pages in a single pass, 7 in two; without it a single pass, as in the guide")
	text(&o.ACPI, "acpi", "", "`file` with the ACPI tables, in place of the built-in ones")
	text(&o.QEMUFamily, "acpi-family", "", "QEMU `family` of the built-in tables: 8.2 (default), 9.2, 10.0, 11.0 or 11.1")
	fs.BoolVar(&o.PIC, "pic", false, "the tables say that there is a PIC")
	fs.BoolVar(&o.NoCOM1, "no-com1", false, "the tables have no serial port")
	fs.BoolVar(&o.JSON, "json", false, "print JSON")
	fs.Func("memory", "memory `size`, such as 512M or 2G (default 2G)", func(s string) error {
		n, err := parseMemory(s)
		o.Memory = n
		return err
	})
	fs.Func("cpu", "`number` of vCPUs (default 1)", func(s string) error {
		n, err := strconv.ParseUint(s, 0, 16)
		if err == nil && (n == 0 || n > acpi.MaxVCPUs) {
			err = fmt.Errorf("want 1 to %d", acpi.MaxVCPUs)
		}
		o.VCPUs = int(n)
		return err
	})
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, &UsageError{err.Error()}
	}
	if fs.NArg() > 0 {
		return nil, &UsageError{fmt.Sprintf("argument %.80q behind the flags, want only flags", fs.Arg(0))}
	}
	if o.Firmware == "" || o.Kernel == "" {
		return nil, &UsageError{"firmware and kernel are required: -fw FILE -kernel FILE"}
	}
	return o, nil
}

// parseMemory takes the tool's own form: digits and the unit G or M.
func parseMemory(s string) (uint64, error) {
	t := strings.ToUpper(strings.TrimSpace(s))
	if !strings.HasSuffix(t, "G") && !strings.HasSuffix(t, "M") {
		return 0, fmt.Errorf("%.40q has no unit, want G or M", s)
	}
	return tdxmeasure.ParseMemory(t)
}

// Output are the values that the tool prints.
type Output struct {
	MRTD       string `json:"mrtd"`
	RTMR0      string `json:"rtmr0"`
	RTMR1      string `json:"rtmr1"`
	RTMR2      string `json:"rtmr2"`
	RTMR3      string `json:"rtmr3"`
	Aggregated string `json:"mr_aggregated"`
	Image      string `json:"mr_image"`
}

// PageOrder is the order of pages that -tcbver means.
func (o *Options) PageOrder() (tdxmeasure.PageOrder, error) {
	switch o.TCBVersion {
	case "", "6":
		return tdxmeasure.SinglePass, nil
	case "7":
		return tdxmeasure.TwoPass, nil
	default:
		return "", &tdxmeasure.Error{Input: "-tcbver", Offset: -1, Found: fmt.Sprintf("%.40q", o.TCBVersion), Want: "6 (single pass) or 7 (two passes)"}
	}
}

// Write prints the values as the tool does, a line each.
func (out *Output) Write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "MRTD: %s\nRTMR0: %s\nRTMR1: %s\nRTMR2: %s\nRTMR3: %s\nMR_AGGREGATED: %s\nMR_IMAGE: %s\n",
		out.MRTD, out.RTMR0, out.RTMR1, out.RTMR2, out.RTMR3, out.Aggregated, out.Image)
	return err
}
