package pcrmeasure

import (
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/trace"
)

//go:embed data/overlays.json
var overlaysJSON []byte

// Overlay is a firmware build whose changes to its own PEI volume are known:
// PlatformPei keeps its data inside the volume in memory before that is hashed.
type Overlay struct {
	Name   string `json:"name"`
	PEI    string `json:"pei_sha256"` // of the volume in the file
	Offset int    `json:"offset"`     // of PlatformPei's data in the volume
	Layout string `json:"layout"`     // "": the events were met, the data is not known
	Source string `json:"source"`
}

// Overlays are the firmware builds that were met on machines. PCR 0 can be
// predicted of those with a layout.
func Overlays() ([]Overlay, error) {
	var list []Overlay
	if err := json.Unmarshal(overlaysJSON, &list); err != nil {
		return nil, fmt.Errorf("read built-in overlays: %w", err)
	}
	return list, nil
}

const layout202211 = "edk2-2022.11"

// pcr0 of OVMF: an empty version, the PEI volume as it is in memory, the DXE
// volume as it is in the file.
func (r *run) pcr0(g *register) error {
	v, err := r.payload()
	if err != nil {
		return err
	}
	list, err := Overlays()
	if err != nil {
		return err
	}
	pei := digest.SHA256.Sum(v[0].Data)
	i := slices.IndexFunc(list, func(o Overlay) bool { return o.PEI == pei.Hex() })
	if i < 0 {
		r.finding(FirmwareUnmet, -1, "this firmware (PEI volume sha256 %s) was not met on a machine: which events it measures, and in which order, is taken from edk2 2022.11", pei.Hex())
		return missing("the firmware measures its PEI volume after it has written into it, and what this build (PEI volume sha256 %s) writes is not known: take PCR 0 from a machine of the same image, memory and vCPUs", pei.Hex())
	}
	if list[i].Layout == "" {
		return missing("the firmware (%s) measures its PEI volume after it has written into it, and what this build writes is not known: take PCR 0 from a machine of the same image, memory and vCPUs", list[i].Name)
	}
	memory, err := r.overlay(v[0].Data, list[i])
	if err != nil {
		return err
	}
	bank := r.c.Bank
	g.trace.Made("CRTM version, empty", []byte{0, 0})
	g.trace.Add("PEI volume, with PlatformPei's data", bank.Sum(memory), trace.Origin{Input: r.Firmware.Name, Size: -1})
	d, err := r.memo.Get("dxe "+bank.String(), func() (digest.Digest, error) { return bank.Sum(v[1].Data), nil })
	if err != nil {
		return err
	}
	g.trace.Add("DXE volume", d, trace.Origin{Input: r.Firmware.Name, Size: -1})
	g.separator()
	g.note("PEI overlay of %s", list[i].Name)
	return nil
}

func (m *Measurer) payload() ([]ovmf.Volume, error) {
	m.volumesOnce.Do(func() {
		if m.Firmware.R == nil {
			m.volumesErr = missing("the firmware is not given (--firmware FILE)")
			return
		}
		m.volumes, m.volumesErr = ovmf.PayloadVolumes(m.Firmware.R, m.Firmware.Size)
		if m.volumesErr == nil && len(m.volumes) != 2 {
			m.volumesErr = missing("the firmware unpacks %d volumes; the order in which more or fewer than two are measured is not known", len(m.volumes))
		}
		m.volumesErr = inFile(m.Firmware.Name, m.volumesErr)
	})
	return m.volumes, m.volumesErr
}

// secureBootConfig is the driver with which users enroll keys. OVMF has it where it
// was built with Secure Boot (OvmfPkgX64.dsc, SECURE_BOOT_ENABLE).
const secureBootConfig = "f0e6a44f-7195-41c3-ac64-54f202cd0a21"

// knowsSecureBoot reports whether the firmware was built with Secure Boot; known
// is false where the firmware is not given, or not understood.
func (m *Measurer) knowsSecureBoot() (knows, known bool) {
	v, err := m.payload()
	if err != nil {
		return false, false
	}
	name, err := ovmf.ParseGUID(secureBootConfig)
	if err != nil {
		return false, false
	}
	return ovmf.HasFile(v[1].Data, name)
}

// overlay writes what PlatformPei has in its volume when that is hashed (edk2
// 2022.11, OvmfPkg/PlatformPei, EFI_HOB_PLATFORM_INFO; read from the memory of
// booted machines: q35 with 512 MiB to 6 GiB and 1, 2 and 4 vCPUs, pc with
// 512 MiB; q35 with 3 GiB and 3 vCPUs was predicted before it was booted). Other
// machine types and address widths were not met and are not predicted.
func (r *run) overlay(volume []byte, o Overlay) ([]byte, error) {
	c := r.c
	const size = 0x74
	switch {
	case o.Layout != layout202211:
		return nil, missing("PEI overlay layout %q is not known", o.Layout)
	case o.Offset < 0 || o.Offset+size > len(volume):
		return nil, missing("PEI overlay offset %#x is outside of the volume", o.Offset)
	case c.Memory == 0 || c.VCPUs == 0:
		return nil, missing("PCR 0 depends on memory and vCPUs: give both (--memory, --cpu)")
	case c.AddressBits != 0 && c.AddressBits != 40:
		return nil, missing("PCR 0 is known for 40 bits of physical address only, not for %d", c.AddressBits)
	case c.Memory%(1<<20) != 0 || c.Memory < 128<<20 || c.Memory > 512<<30:
		return nil, missing("PCR 0 is known for 128 MiB to 512 GiB of whole MiB, not for %d bytes", c.Memory)
	case r.machineType() == "pc" && c.Memory != 512<<20:
		return nil, missing("PCR 0 of machine type pc was met with 512 MiB only")
	case r.machineType() != "pc" && r.machineType() != "q35":
		return nil, missing("PCR 0 is known for machine types q35 and pc, not for %q", r.machineType())
	case c.VCPUs > 255:
		return nil, missing("PCR 0 is known for at most 255 vCPUs, not for %d", c.VCPUs)
	}
	out := slices.Clone(volume)
	d := out[o.Offset : o.Offset+size]
	le := binary.LittleEndian
	low := c.Memory
	if low >= 0xb0000000 {
		low = 2 << 30
	}
	pc := r.machineType() == "pc"
	pick := func(q35, i440fx uint64) uint64 {
		if pc {
			return i440fx
		}
		return q35
	}
	uncacheable := uint64(0x80000000)
	if !pc && low > 2<<30 {
		uncacheable = 0xb0000000
	}
	cpus := uint32(c.VCPUs)
	peiMemory := 0x80000 + 0x8000*cpus
	le.PutUint16(d[0x00:], uint16(pick(0x29c0, 0x1237))) // host bridge
	d[0x0f] = 1
	le.PutUint16(d[0x18:], 16)
	d[0x1c] = 40
	le.PutUint32(d[0x1d:], uint32(uncacheable))
	le.PutUint32(d[0x21:], uint32(pick(0, 0x80000000)))
	le.PutUint64(d[0x2e:], 0xe000000000) // 64-bit MMIO
	le.PutUint64(d[0x36:], 0x2000000000)
	le.PutUint32(d[0x3e:], uint32(pick(0xc0000000, 0x80000000))) // 32-bit MMIO
	le.PutUint32(d[0x42:], uint32(pick(0x3c000000, 0x7c000000)))
	le.PutUint64(d[0x46:], pick(0x6000, 0xc000)) // I/O ports
	le.PutUint64(d[0x4e:], pick(0xa000, 0x4000))
	le.PutUint32(d[0x5e:], cpus)
	le.PutUint32(d[0x62:], cpus)
	le.PutUint32(d[0x66:], 64)
	le.PutUint32(d[0x6a:], uint32(low)-peiMemory)
	le.PutUint32(d[0x6e:], peiMemory)
	d[0x72], d[0x73] = 1, 1
	return out, nil
}
