package tdx

import (
	"context"

	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// devices decides which devices the ACPI tables describe: the fields, else what
// vm_config or metadata describe, else what the profile's machines have.
func (m *Machine) devices(context.Context) error {
	c, s := &m.conf, &m.config.Devices
	m.described = true
	done, err := m.describedDevices()
	if err != nil {
		return err
	}
	if done {
		return m.deviceSwitches()
	}
	layout := c.Devices
	if layout == "" && len(c.Slots)+len(c.RootPorts) == 0 {
		layout = string(m.config.Profile.Layout)
	}
	switch n, counted := deviceCount(layout); {
	case len(c.Slots)+len(c.RootPorts) > 0:
		s.Slots, s.RootPorts = c.Slots, c.RootPorts
	case layout == string(tdxmeasure.SecretVMLayout), layout == "secretvm-gpu":
		if config.Or(c.GPUs) > 1 {
			return m.bad("gpus", "tables of another machine: {acpi}", "%d: machines of this layout have at most one", *c.GPUs)
		}
		*s = m.config.Profile.SecretVMDevices(layout == "secretvm-gpu" || config.Or(c.GPUs) == 1)
	case layout == string(tdxmeasure.DstackLayout):
		d := tdxmeasure.DstackDevices{
			NICs: 1, Volumes: config.Or(c.Volumes), GPUs: config.Or(c.GPUs), NVSwitches: config.Or(c.NVSwitches),
			NoRootDisk: config.Or(c.NoRootDisk), HotplugOff: config.Or(c.HotplugOff), HugePages: config.Or(c.HugePages),
		}
		set(&d.NICs, c.NICs)
		*s = d.Shape()
	default:
		m.described = counted || config.Or(c.GPUs) > 0
		s.Slots = acpi.SlotsUpTo(n)
		for i := range config.Or(c.GPUs) { // GPUs behind root ports after the last device
			s.RootPorts = append(s.RootPorts, n+1+i)
		}
	}
	return m.deviceSwitches()
}

// describedDevices takes the devices of vm_config or metadata.
func (m *Machine) describedDevices() (bool, error) {
	c := &m.conf
	if c.Devices != "" || len(c.Slots)+len(c.RootPorts) > 0 {
		return false, nil
	}
	if m.vmConfig != nil {
		for _, f := range []struct {
			field string
			given bool
		}{
			{"gpus", c.GPUs != nil},
			{"nics", c.NICs != nil},
			{"volumes", c.Volumes != nil},
			{"nvswitches", c.NVSwitches != nil},
			{"hugepages", c.HugePages != nil},
			{"no_root_disk", c.NoRootDisk != nil},
		} {
			if f.given {
				return false, m.bad(f.field, "leave it out, or give all devices: {devices: dstack}", "the machine's devices are described by %s", c.VMConfig)
			}
		}
		m.config.Devices = m.vmConfig.Devices
		return true, nil
	}
	if m.meta == nil {
		return false, nil
	}
	s, ok, err := m.meta.Shape()
	if err != nil {
		if c.ACPI != "" {
			return false, nil // the tables come from a file
		}
		return false, &tdxmeasure.FileError{Name: c.Metadata, Err: err}
	}
	if ok {
		m.config.Devices = s
		m.config.Devices.PIC = false // the profile's switch says it
		if c.PIC == nil {
			m.config.Profile.PIC = s.PIC
		}
	}
	return ok, nil
}

func (m *Machine) deviceSwitches() (err error) {
	c, s := &m.conf, &m.config.Devices
	if c.COM1 != nil {
		s.NoCOM1 = !*c.COM1
	}
	set(&s.SMM, c.SMM)
	set(&s.HPET, c.HPET)
	set(&s.NoHotplug, c.HotplugOff)
	set(&s.NUMA, c.NUMA)
	set(&s.PXB, c.PXB)
	set(&s.AMDCPU, c.AMDCPU)
	if c.PCIHole64 != "" {
		s.PCIHole64, err = tdxmeasure.ParseMemory(c.PCIHole64)
	}
	return err
}
