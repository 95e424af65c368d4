package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/retally/retally/internal/qtest"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// dstackCounts are the flags that count dstack's devices.
var dstackCounts = []string{"gpus", "nics", "volumes", "nvswitches", "hugepages", "no-root-disk"}

// setDevices decides which devices the ACPI tables describe: flags, else what
// vm_config or metadata describe, else what the profile's machines have.
func (m *tdMachine) setDevices() error {
	f, s := &m.f, &m.config.Devices
	m.devicesKnown = true
	if err := m.checkDeviceFlags(); err != nil {
		return err
	}
	described, err := m.describedDevices()
	if err != nil {
		return err
	}
	switch kind := m.deviceKind(described); kind {
	case "described":
	case "slots":
		s.Slots, s.RootPorts = f.slots, f.rootPorts
	case "secretvm", "secretvm-gpu":
		d := tdxmeasure.SecretVMDevices(&m.config.Profile, kind == "secretvm-gpu" || f.gpus == 1)
		s.Base, s.NoCOM1 = d.Base, d.NoCOM1
	case "dstack":
		*s = tdxmeasure.DstackDevices{
			NICs: f.nics, Volumes: f.volumes, GPUs: f.gpus, NVSwitches: f.switches, NoRootDisk: f.noRootDisk,
			HotplugOff: f.hotplugOff, HugePages: f.hugePages,
		}.Shape()
	case "":
		m.devicesKnown = f.gpus > 0
		m.addGPUs()
	default:
		n, err := strconv.ParseUint(kind, 10, 8)
		if err != nil || n > 30 {
			return m.usage("secretvm, secretvm-gpu, dstack, or a number from 0 to 30", "--devices %.40q: unknown", kind)
		}
		s.Slots = acpi.SlotsUpTo(int(n))
		m.addGPUs()
	}
	return m.setDeviceSwitches()
}

func (m *tdMachine) checkDeviceFlags() error {
	f := &m.f
	for _, n := range []struct {
		flag  string
		value int
	}{{"gpus", f.gpus}, {"nics", f.nics}, {"volumes", f.volumes}, {"nvswitches", f.switches}} {
		if n.value < 0 || n.value > 30 {
			return m.usage("", "--%s %d: want 0 to 30", n.flag, n.value)
		}
	}
	if f.devices != "" && f.anyGiven("slots", "root-ports") != "" {
		return m.usage("give one of them", "--devices and --%s both say which devices there are", f.anyGiven("slots", "root-ports"))
	}
	return nil
}

// describedDevices takes the devices of vm_config or metadata.
func (m *tdMachine) describedDevices() (bool, error) {
	f := &m.f
	if f.anyGiven("devices", "slots", "root-ports") != "" {
		return false, nil
	}
	if m.vmConfig != nil {
		if flag := f.anyGiven(dstackCounts...); flag != "" {
			return false, m.usage("leave the flag out, or give all devices with --devices dstack", "--%s: the machine's devices are described by --vm-config", flag)
		}
		m.config.Devices = m.vmConfig.Devices
		return true, nil
	}
	if m.meta == nil {
		return false, nil
	}
	s, ok, err := m.meta.Shape()
	if err != nil {
		if f.acpi != "" || m.meta.ACPITables != "" {
			return false, nil // the tables come from a file
		}
		return false, err
	}
	if ok {
		m.config.Devices = s
		if !f.given("pic") {
			m.config.Profile.PIC = s.PIC
		}
		m.config.Devices.PIC = false // the profile's switch says it
	}
	return ok, nil
}

// deviceKind names the rule by which devices are laid out.
func (m *tdMachine) deviceKind(described bool) string {
	f := &m.f
	switch {
	case described:
		return "described"
	case f.anyGiven("slots", "root-ports") != "":
		return "slots"
	case f.devices != "":
		return f.devices
	case m.config.Profile.Name == "secretvm" || m.config.Profile.Name == "reproduce-mr":
		return "secretvm"
	case m.config.Profile.Name == "dstack" || m.config.Profile.Name == "dstack-202505":
		return "dstack"
	}
	return ""
}

// addGPUs puts GPUs behind root ports after the last device.
func (m *tdMachine) addGPUs() {
	s := &m.config.Devices
	for i := range m.f.gpus {
		s.RootPorts = append(s.RootPorts, len(s.Slots)+1+i)
	}
}

func (m *tdMachine) setDeviceSwitches() error {
	f, s := &m.f, &m.config.Devices
	if (s.Base == acpi.SecretVM || s.Base == acpi.SecretVMGPU) && f.gpus > 1 {
		return m.usage("tables of another machine: --acpi FILE", "--gpus %d: SecretVM's machines have at most one", f.gpus)
	}
	for _, c := range []struct {
		flag  string
		value bool
		to    *bool
	}{
		{"no-com1", f.noCOM1, &s.NoCOM1},
		{"smm", f.smm, &s.SMM},
		{"hpet", f.hpet, &s.HPET},
		{"hotplug-off", f.hotplugOff, &s.NoHotplug},
		{"numa", f.numa, &s.NUMA},
		{"pxb", f.pxb, &s.PXB},
		{"amd-cpu", f.amdCPU, &s.AMDCPU},
	} {
		if f.given(c.flag) {
			*c.to = c.value
		}
	}
	if f.hole64 != "" {
		n, err := tdxmeasure.ParseMemory(f.hole64)
		if err != nil {
			return m.usage("for instance --pci-hole64 64G", "--pci-hole64 %.40q: want a size such as 64G", f.hole64)
		}
		s.PCIHole64 = n
	}
	return nil
}

// setTables chooses where ACPI tables come from.
func (m *tdMachine) setTables() error {
	f, c := &m.f, &m.config
	if err := f.word(m.op, "acpi-source", f.acpiSource, "template", "qemu"); err != nil {
		return err
	}
	if f.acpi != "" && f.given("acpi-source") {
		return m.usage("give one of them", "--acpi and --acpi-source both say where ACPI tables come from")
	}
	path := f.acpi
	if path == "" && m.meta != nil && m.meta.ACPITables != "" && !f.given("acpi-source") {
		if path = m.meta.ACPITables; !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(f.metadata), path)
		}
	}
	if path != "" {
		data, err := m.small("acpi", path)
		switch {
		case err == nil:
			m.tablesFromFile = true
			c.ACPI, err = tdxmeasure.NewFileSource(path, data)
			return err
		case f.acpi != "" || !notExist(err) || m.meta.Machine == "":
			return err
		}
		m.notes = append(m.notes, path+" does not exist: the tables are made from the machine that the metadata describes")
	}
	if f.acpiSource == "qemu" {
		var err error
		c.ACPI, err = m.qemuSources()
		return err
	}
	source, err := tdxmeasure.NewTemplateSource()
	c.ACPI = source
	return err
}

// qemuProgram is asked for tables where RETALLY_QEMU names no other.
const qemuProgram = "qemu-system-x86_64"

// namedQEMUs are the programs that RETALLY_QEMU names.
func (a *app) namedQEMUs() []string {
	return slices.DeleteFunc(filepath.SplitList(a.env("RETALLY_QEMU")), func(program string) bool { return program == "" })
}

// qemuSources lists the QEMU programs at hand: RETALLY_QEMU names some, else
// the one in PATH.
func (m *tdMachine) qemuSources() (*qemuSources, error) {
	q := &qemuSources{}
	for _, program := range m.app.namedQEMUs() {
		q.list = append(q.list, &qtest.Source{Program: program})
	}
	if len(q.list) == 0 {
		program, err := exec.LookPath(qemuProgram)
		if err != nil {
			return nil, m.usage("install it, name it with RETALLY_QEMU, or use --acpi-source template", "--acpi-source qemu: qemu-system-x86_64 is not in PATH")
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
