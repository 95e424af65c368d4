package tdxmeasure

import (
	"context"
	"fmt"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/memo"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Source gives the ACPI files of a machine. Name says which one it is; it is
// part of how a value is known.
type Source interface {
	Name() string
	Tables(ctx context.Context, s acpi.Shape) (*acpi.Blobs, error)
}

// Artifacts are the files that registers are measured from. Absent ones are
// refused where the profile needs them: firmware and kernel; an absent initrd,
// compose file or rootfs counts as empty, as the published tools have it.
type Artifacts struct {
	Firmware, Kernel, Initrd     Input
	Compose, Rootfs, DockerFiles Input
}

// Config is a machine and how it behaves.
type Config struct {
	Profile Profile
	VCPUs   int
	Memory  uint64 // bytes
	Cmdline string // without what the profile adds
	// Devices is the rest of the machine's shape; its VCPUs, Memory, Family
	// and PIC come from the other fields.
	Devices acpi.Shape
	ACPI    Source
	// AppID is for SecretVM with a key service, Events for scheme "events".
	AppID  []byte
	Events []RuntimeEvent
	// NoInitrd measures as if no initrd had been given.
	NoInitrd bool
}

// Shape is the machine as the ACPI sources see it.
func (c *Config) Shape() acpi.Shape {
	s := c.Devices
	s.VCPUs, s.Memory = c.VCPUs, c.Memory
	if s.Family == "" {
		s.Family = c.Profile.ACPIFamily
	}
	s.PIC = s.PIC || c.Profile.PIC
	return s
}

// Result are the registers and the traces that they are the fold of.
type Result struct {
	Registers
	MRTDTrace Trace
	RTMRTrace [4]Trace
	Notes     []string
}

// Measurer computes registers of many machines from one set of artifacts;
// what they share is hashed once. It is safe for use by several goroutines.
type Measurer struct {
	Artifacts
	memo memo.Memo[digest.Digest]

	tdvfOnce sync.Once
	tdvf     *ovmf.TDVF
	tdvfErr  error

	tablesMu   sync.Mutex
	tablesDone map[string]*tableEvents

	mrtdMu sync.Mutex
	mrtds  map[string]Trace
}

// New makes a Measurer. The inputs must stay readable while it is used.
func New(a Artifacts) *Measurer { return &Measurer{Artifacts: a} }

func (m *Measurer) descriptor() (*ovmf.TDVF, error) {
	m.tdvfOnce.Do(func() {
		if m.Firmware.R == nil {
			m.tdvfErr = missing("firmware", "{firmware}")
			return
		}
		m.tdvf, m.tdvfErr = ovmf.ReadTDVF(m.Firmware.R, m.Firmware.Size)
		if m.tdvfErr != nil {
			m.tdvfErr = &FileError{m.Firmware.Name, m.tdvfErr}
		}
	})
	return m.tdvf, m.tdvfErr
}

func (m *Measurer) mrtd(ctx context.Context, c *Config) (Trace, error) {
	tdvf, err := m.descriptor()
	if err != nil {
		return Trace{}, err
	}
	key := fmt.Sprint(c.Profile.PageOrder, c.Profile.MRTD)
	m.mrtdMu.Lock()
	defer m.mrtdMu.Unlock()
	if t, ok := m.mrtds[key]; ok {
		return t, nil
	}
	traces, err := MeasureMRTD(ctx, m.Firmware, tdvf, c.Profile.MRTD, c.Profile.PageOrder)
	if err != nil {
		return Trace{}, &FileError{m.Firmware.Name, err}
	}
	if m.mrtds == nil {
		m.mrtds = map[string]Trace{}
	}
	m.mrtds[key] = traces[0]
	return traces[0], nil
}

// Measure computes all registers of one machine, side by side. The first
// error ends it.
func (m *Measurer) Measure(ctx context.Context, c *Config) (*Result, error) {
	r, errs := m.MeasureEach(ctx, c)
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Register computes one register's trace: 0 is MRTD, 1+i is RTMR i.
func (m *Measurer) Register(ctx context.Context, c *Config, index int) (Trace, error) {
	return m.registers()[index](ctx, c)
}

func (m *Measurer) registers() [5]func(context.Context, *Config) (Trace, error) {
	return [5]func(context.Context, *Config) (Trace, error){m.mrtd, m.rtmr0, m.rtmr1, m.rtmr2, m.rtmr3}
}

// MeasureEach computes every register that the inputs allow: errs[0] is
// MRTD's error, errs[1+i] that of RTMR i. A register with an error is zero.
func (m *Measurer) MeasureEach(ctx context.Context, c *Config) (r *Result, errs [5]error) {
	r = &Result{Notes: c.Profile.Notes}
	if c.VCPUs < 1 || c.VCPUs > acpi.MaxVCPUs {
		err := &Error{Input: "vCPUs", Offset: -1, Found: fmt.Sprint(c.VCPUs), Want: fmt.Sprintf("1 to %d", acpi.MaxVCPUs), Hint: "{vcpus}"}
		return r, [5]error{err, err, err, err, err}
	}
	var wg sync.WaitGroup
	for i, measure := range m.registers() {
		wg.Go(func() {
			t, err := measure(ctx, c)
			var d digest.Digest
			if err == nil {
				d, err = t.Compute()
			}
			errs[i] = err
			if err != nil {
				return
			}
			if i == 0 {
				r.MRTDTrace, r.MRTD = t, d
			} else {
				r.RTMRTrace[i-1], r.RTMR[i-1] = t, d
			}
		})
	}
	wg.Wait()
	return r, errs
}
