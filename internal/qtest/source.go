package qtest

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// FamilyError says that the QEMU at hand makes tables of another family than
// the machine's.
type FamilyError struct {
	Program, Version string
	Have, Want       acpi.Family
}

// Error implements error.
func (e *FamilyError) Error() string {
	if e.Have == "" {
		return fmt.Sprintf("%s is QEMU %s, of a family that no TDX host runs; want one of family %s", e.Program, e.Version, e.Want)
	}
	return fmt.Sprintf("%s is QEMU %s, which makes tables of family %s; want family %s", e.Program, e.Version, e.Have, e.Want)
}

// Source serves tables from a stock QEMU. It is safe for use by several
// goroutines.
type Source struct {
	Program string // path of qemu-system-x86_64

	mu      sync.Mutex
	version string
}

// Name says which QEMU.
func (s *Source) Name() string {
	v, _, err := s.Version(context.Background())
	if err != nil {
		return "QEMU at " + s.Program
	}
	return "stock QEMU " + v
}

// Version asks the program for its version.
func (s *Source) Version(ctx context.Context) (string, acpi.Family, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version == "" {
		out, err := exec.CommandContext(ctx, s.Program, "--version").Output()
		if err != nil {
			return "", "", fmt.Errorf("ask %s for its version: %w", s.Program, err)
		}
		m := regexp.MustCompile(`version (\d+\.\d+\.\d+)`).FindSubmatch(out)
		if m == nil {
			return "", "", fmt.Errorf("ask %s for its version: answer %.80q", s.Program, out)
		}
		s.version = string(m[1])
	}
	parts := strings.Split(s.version, ".")
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	family, _ := acpi.FamilyOf(major, minor)
	if major < 10 {
		// Stock QEMU before 10 has no TDX; the families 8.2 and 9.2 are those
		// of branches, which its tables do not match.
		family = ""
	}
	return s.version, family, nil
}

// Tables starts QEMU with the shape's machine.
func (s *Source) Tables(ctx context.Context, shape acpi.Shape) (*acpi.Blobs, error) {
	if err := shape.Check(); err != nil {
		return nil, err
	}
	version, family, err := s.Version(ctx)
	if err != nil {
		return nil, err
	}
	if family != shape.Family {
		return nil, &FamilyError{Program: s.Program, Version: version, Have: family, Want: shape.Family}
	}
	return Ask(ctx, s.Program, Machine(shape))
}

const lowSplit = 0xB0000000

// Machine writes a shape as QEMU arguments. The kind of a device does not
// matter to the tables, only its slot and whether it is a bridge.
func Machine(s acpi.Shape) Request {
	onOff := func(b bool) string {
		if b {
			return "on"
		}
		return "off"
	}
	memory := s.Memory
	devices := len(s.Slots)+len(s.RootPorts) > 0 || s.Base != "" && s.Base != acpi.Plain
	if memory > lowSplit && !s.NUMA && devices {
		memory = lowSplit // more changes nothing in the tables
	}
	size := strconv.FormatUint(memory/acpi.MiB, 10) + "M"
	cpu := "Skylake-Server"
	if s.AMDCPU {
		cpu = "EPYC"
	}
	args := []string{
		"-machine", "q35,kernel-irqchip=split,smm=" + onOff(s.SMM) + ",pic=" + onOff(s.PIC) + ",hpet=" + onOff(s.HPET),
		"-cpu", cpu + ",phys-bits=52", "-smp", strconv.Itoa(s.VCPUs), "-m", size,
	}
	add := func(a ...string) { args = append(args, a...) }
	if !s.NoCOM1 {
		add("-serial", "null")
	}
	if s.NoHotplug {
		add("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
	}
	if s.PCIHole64 != 0 {
		add("-global", fmt.Sprintf("q35-pcihost.pci-hole64-size=%d", s.PCIHole64))
	}
	if s.NUMA {
		add("-object", "memory-backend-ram,id=mem0,size="+size,
			"-numa", fmt.Sprintf("node,nodeid=0,cpus=0-%d,memdev=mem0", s.VCPUs-1))
	}
	if s.PXB {
		add("-device", "pxb-pcie,id=pxb0,bus=pcie.0,addr=0x10,bus_nr=5,numa_node=0")
	}
	device := func(bus string, slot int) {
		add("-device", fmt.Sprintf("virtio-rng-pci,bus=%s,addr=%#x", bus, slot))
	}
	port := func(slot int) string {
		id := fmt.Sprintf("port%d", slot)
		add("-device", fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,addr=%#x,chassis=%d,slot=%d", id, slot, slot, slot))
		return id
	}
	r := Request{}
	switch s.Base {
	case acpi.SecretVM, acpi.SecretVMGPU:
		id := port(1)
		window := Window{Slot: 1, Size: 32 << 30}
		if s.Base == acpi.SecretVMGPU {
			device(id, 0)
			window.Size = 128<<30 + 48<<20
		}
		r.Windows = append(r.Windows, window)
		for slot := 2; slot <= 5; slot++ {
			device("pcie.0", slot)
		}
	default:
		for _, slot := range s.Slots {
			device("pcie.0", slot)
		}
		for _, slot := range s.RootPorts {
			device(port(slot), 0)
			r.Windows = append(r.Windows, Window{Slot: slot, Size: 2 << 20})
		}
	}
	r.Args = args
	return r
}
