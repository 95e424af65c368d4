package main

import (
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/retally/retally/internal/qtest"
)

// namedQEMUs are the programs that RETALLY_QEMU names.
func (a *app) namedQEMUs() []string {
	return slices.DeleteFunc(filepath.SplitList(a.env("RETALLY_QEMU")), func(program string) bool { return program == "" })
}

// qemuSources are the QEMU programs at hand: RETALLY_QEMU names some, else the
// one in PATH.
func (a *app) qemuSources(op string) (*qtest.Sources, error) {
	if named := a.namedQEMUs(); len(named) > 0 {
		return qtest.NewSources(named...), nil
	}
	program, err := exec.LookPath(qtest.Program)
	if err != nil {
		return nil, &userError{op: op, msg: "--acpi-source qemu: qemu-system-x86_64 is not in PATH", hint: "install it, name it with RETALLY_QEMU, or use --acpi-source template"}
	}
	return qtest.NewSources(program), nil
}
