package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/retally/retally/internal/qtest"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// qemuProgram is asked for tables where RETALLY_QEMU names no other.
const qemuProgram = "qemu-system-x86_64"

// namedQEMUs are the programs that RETALLY_QEMU names.
func (a *app) namedQEMUs() []string {
	return slices.DeleteFunc(filepath.SplitList(a.env("RETALLY_QEMU")), func(program string) bool { return program == "" })
}

// qemuSources lists the QEMU programs at hand: RETALLY_QEMU names some, else
// the one in PATH.
func (a *app) qemuSources(op string) (*qemuSources, error) {
	q := &qemuSources{}
	for _, program := range a.namedQEMUs() {
		q.list = append(q.list, &qtest.Source{Program: program})
	}
	if len(q.list) == 0 {
		program, err := exec.LookPath(qemuProgram)
		if err != nil {
			return nil, &userError{op: op, msg: "--acpi-source qemu: qemu-system-x86_64 is not in PATH", hint: "install it, name it with RETALLY_QEMU, or use --acpi-source template"}
		}
		q.list = append(q.list, &qtest.Source{Program: program})
	}
	return q, nil
}

// qemuSources asks the first program that makes the wanted family's tables.
type qemuSources struct {
	list  []*qtest.Source
	asked atomic.Pointer[qtest.Source]
}

// Name says which QEMU answered.
func (q *qemuSources) Name() string {
	if s := q.asked.Load(); s != nil {
		return s.Name()
	}
	return "stock QEMU"
}

// Tables asks for a shape's tables.
func (q *qemuSources) Tables(ctx context.Context, s acpi.Shape) (*acpi.Blobs, error) {
	var errs []error
	for _, source := range q.list {
		b, err := source.Tables(ctx, s)
		var other *qtest.FamilyError
		switch {
		case err == nil:
			q.asked.Store(source)
			return b, nil
		case !errors.As(err, &other):
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
