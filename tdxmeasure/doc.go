// Package tdxmeasure computes the launch measurements of an Intel TDX guest
// from its artifacts: MRTD from the firmware image, RTMR0 from the firmware's
// configuration and the machine's shape, RTMR1 from the kernel, RTMR2 from
// command line and initrd, RTMR3 from what the guest's own software extends.
//
// Every register is the fold of a Trace of labelled events, so that two values
// that differ can be compared event by event. How a hypervisor and a firmware
// behave is a Profile: data, each of whose fields is a switch. Nothing here
// compares with published values.
//
// A Measurer holds the artifacts of one or many machines and hashes each of
// them once:
//
//	p, err := tdxmeasure.LoadProfile("secretvm")
//	tables, err := tdxmeasure.NewTemplateSource()
//	m := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: fw, Kernel: kernel, Initrd: initrd})
//	r, err := m.Measure(ctx, &tdxmeasure.Config{Profile: p, VCPUs: 1, Memory: 2 << 30, ACPI: tables})
//
// Sources: Intel TDX Module ABI specification; TDX Virtual Firmware Design
// Guide; TCG PC Client Platform Firmware Profile; QEMU and edk2 as cited at
// each step.
package tdxmeasure
