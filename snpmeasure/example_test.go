package snpmeasure_test

import (
	"context"
	"fmt"

	"github.com/retally/retally/snpmeasure"
)

// A machine of two CPUs, from a firmware without a table for a kernel.
func Example() {
	cpu, err := snpmeasure.CPUOfType("EPYC-Milan")
	if err != nil {
		panic(err)
	}
	k := known{Reset: 0x80b004} // an image of 8 KiB
	m := snpmeasure.New(snpmeasure.Artifacts{Firmware: snpmeasure.Bytes("OVMF.fd", k.stub())})
	r, err := m.Measure(context.Background(), snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, VCPUs: 2, CPU: cpu, Features: 1})
	if err != nil {
		panic(err)
	}
	for _, e := range r.Trace.Events {
		fmt.Println(e.Label)
	}
	fmt.Println(len(r.Digest.Hex()))
	// Output:
	// firmware pages at 0xffffe000
	// registers of vCPU 0
	// registers of vCPU 1
	// 96
}
