package pcrmeasure

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/retally/retally/internal/bzimage"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/memo"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/varstore"
	"github.com/retally/retally/trace"
)

// Basis says how a predicted value is known.
type Basis string

// The bases.
const (
	// Recomputed: from the artifacts' bytes, or their known digests, by a rule.
	Recomputed Basis = "recomputed"
	// Assumed: a constant that was observed on such a machine, or a value that
	// rests on one. A verdict must not count it.
	Assumed Basis = "assumed"
)

// PCR is one predicted register.
type PCR struct {
	Index int
	Value digest.Digest
	Trace Trace
	Basis Basis
	Notes []string
}

// Prediction are the PCRs of one machine in one bank. Every PCR from 0 to 23 is
// either in PCRs or in Missing.
type Prediction struct {
	Bank     digest.Algorithm
	PCRs     map[int]*PCR
	Missing  map[int]string // why a PCR has no value
	Findings []Finding
}

// Measurer predicts the PCRs of many machines from one set of artifacts; what
// they share is hashed once. It is safe for use by several goroutines.
type Measurer struct {
	Artifacts
	memo memo.Memo[digest.Digest]

	volumesOnce sync.Once
	volumes     []ovmf.Volume
	volumesErr  error

	storeOnce sync.Once
	store     *varstore.Store
	storeErr  error
}

// New makes a Measurer. The inputs must stay readable while it is used.
func New(a Artifacts) *Measurer { return &Measurer{Artifacts: a} }

// register is what a PCR's rule gives.
type register struct {
	trace Trace
	basis Basis
	notes []string
}

// run is one prediction.
type run struct {
	*Measurer
	ctx context.Context
	c   *Machine
	p   *Prediction
	// secure is whether Secure Boot is on, said whether somebody said so.
	secure, said bool
	db           []varstore.Signature
	dbx          []varstore.Signature
}

func (r *run) start(index int) *register {
	return &register{
		trace: Trace{Fold: trace.Extend, Algorithm: r.c.Bank, Initial: initialPCR(r.c.Bank, index, 0), Events: []trace.Event{}},
		basis: Recomputed,
	}
}

func (g *register) separator() { g.trace.Made("separator", make([]byte, 4)) }

func (g *register) action(text string) { g.trace.Made("action "+text, []byte(text)) }

func (g *register) note(format string, args ...any) {
	g.notes = append(g.notes, fmt.Sprintf(format, args...))
}

// Predict computes every PCR that the artifacts and the machine allow. PCRs that
// cannot be known are in Missing with the reason. An artifact that is not what
// it must be is an error; the prediction comes along with the PCRs that do not
// depend on it.
func (m *Measurer) Predict(ctx context.Context, c *Machine) (*Prediction, error) {
	return m.predict(ctx, c, func(int) bool { return true })
}

// PredictOne computes one PCR and those that it is made of.
func (m *Measurer) PredictOne(ctx context.Context, c *Machine, index int) (*PCR, error) {
	if index < 0 || index >= Count {
		return nil, missing("a TPM has PCRs 0 to %d", Count-1)
	}
	p, err := m.predict(ctx, c, func(i int) bool { return i == index || index == 10 && i < 10 })
	if err != nil {
		return nil, err
	}
	if got := p.PCRs[index]; got != nil {
		return got, nil
	}
	return nil, &Missing{p.Missing[index]}
}

func (m *Measurer) predict(ctx context.Context, c *Machine, want func(int) bool) (*Prediction, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &run{Measurer: m, ctx: ctx, c: c, p: &Prediction{Bank: c.Bank, PCRs: map[int]*PCR{}, Missing: map[int]string{}}}
	var errs []error
	if err := r.secureBoot(); err != nil {
		errs = append(errs, err)
	}
	for i, rule := range [Count]func(*register) error{
		0: r.pcr0, 1: r.pcr1, 2: r.separatorOnly, 3: r.separatorOnly, 4: r.pcr4, 5: r.pcr5, 6: r.separatorOnly, 7: r.pcr7,
		8: r.pcr8, 9: r.pcr9, 10: r.pcr10, 11: r.pcr11, 12: r.pcr12, 13: r.pcr13, 14: r.pcr14,
		15: r.untouched, 16: r.untouched, 17: r.untouched, 18: r.untouched, 19: r.untouched, 20: r.untouched, 21: r.untouched,
		22: r.untouched, 23: r.untouched,
	} {
		if !want(i) {
			continue
		}
		g := r.start(i)
		err := rule(g)
		var d digest.Digest
		if err == nil {
			d, err = g.trace.Compute()
		}
		var why *Missing
		switch {
		case err == nil:
			r.p.PCRs[i] = &PCR{Index: i, Value: d, Trace: g.trace, Basis: g.basis, Notes: g.notes}
		case errors.As(err, &why):
			r.p.Missing[i] = why.Reason
		default:
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			r.p.Missing[i] = err.Error()
			errs = append(errs, fmt.Errorf("PCR %d: %w", i, err))
		}
	}
	return r.p, errors.Join(errs...)
}

func (r *run) finding(code string, pcr int, format string, args ...any) {
	r.p.Findings = append(r.p.Findings, Finding{Code: code, PCR: pcr, Text: fmt.Sprintf(format, args...)})
}

// separatorOnly is PCR 2, 3 and 6 of a virtual machine whose devices have no
// option ROM that the firmware runs.
func (r *run) separatorOnly(g *register) error {
	g.separator()
	g.note("no option ROM, vendor event or configuration change; a network card with a ROM extends PCR 2")
	return nil
}

// untouched is a PCR that nothing in the boot extends.
func (r *run) untouched(g *register) error {
	g.note("nothing known in this boot extends it; the operating system may")
	return nil
}

// pcr5 has the partition table and the end of the boot services (edk2,
// DxeTpm2MeasureBootLib, Tcg2MeasureGptTable; Tcg2Dxe, OnExitBootServices).
func (r *run) pcr5(g *register) error {
	g.separator()
	if r.c.Pattern != Direct {
		data, err := r.gptEvent()
		if err != nil {
			return err
		}
		g.trace.Add("partition table", r.c.Bank.Sum(data), trace.Origin{Input: r.Disk.Name, Offset: 512, Size: -1})
	}
	if r.c.Order == Order257 && (r.c.Pattern == LoaderUKI || r.c.Pattern == LoaderEntry) {
		// systemd, src/boot/boot.c, config_load_defaults, since version 255.
		if !r.LoaderConf.Present() {
			return missing("systemd-boot measures loader.conf since version 255: it is not given, and what is measured without one was not met")
		}
		d, err := r.file(r.ctx, "loader.conf", r.LoaderConf, r.c.Bank)
		if err != nil {
			return err
		}
		g.trace.Add("loader.conf", d, trace.Origin{Input: r.LoaderConf.Name, Size: r.LoaderConf.Size})
	}
	g.action(actionExit)
	g.action(actionExited)
	return nil
}

// kernelEdits are what QEMU changes in a kernel of -kernel.
func (r *run) kernelEdits() ([]bzimage.Edit, error) {
	if r.c.Header == HeaderAsGiven || r.Kernel.R == nil {
		return nil, nil
	}
	h, err := bzimage.Read(r.Kernel.R, r.Kernel.Size)
	if err != nil {
		return nil, inFile(r.Kernel.Name, err)
	}
	l := bzimage.Load{Cmdline: r.c.Cmdline}
	if h.Protocol != 0 && r.Initrd.Present() {
		if r.c.Memory == 0 {
			return nil, missing("QEMU writes the initrd's address into the kernel, which depends on the memory: give it (--memory)")
		}
		if r.Initrd.Size == 0 {
			return nil, missing("QEMU writes the initrd's size into the kernel: give the initrd or its size")
		}
		l.Initrd = r.Initrd.Size
		if l.Below4G, err = bzimage.Below4G(r.machineType(), r.c.Memory); err != nil {
			return nil, err
		}
	}
	edits, err := h.Edits(l)
	return edits, inFile(r.Kernel.Name, err)
}

func (r *run) machineType() string {
	if r.c.Type == "" {
		return "q35"
	}
	return r.c.Type
}

// secureBoot reads the variables and settles whether Secure Boot is on.
func (r *run) secureBoot() error {
	s, err := r.variables()
	var why *Missing
	switch {
	case errors.As(err, &why):
		r.secure, r.said = r.c.SecureBoot == On, r.c.SecureBoot != Unsaid
		return nil
	case err != nil:
		return err
	}
	r.secure, r.said = s.SecureBoot(), true
	if knows, known := r.secureFirmware(s); known && !knows {
		r.secure = false // keys that nobody looks at
	}
	if r.c.SecureBoot != Unsaid && (r.c.SecureBoot == On) != r.secure {
		return &place.Fault{Op: "predict", Where: place.InFile(r.Variables.Name), Field: "Secure Boot", Found: "variables that say " + string(map[bool]State{true: On, false: Off}[r.secure]), Want: string(r.c.SecureBoot), Hint: "leave the setting out: the variables decide"}
	}
	if r.db, err = varstore.Signatures(s.Get(varstore.ImageSecurity, "db")); err != nil {
		return inFile("variable db", err)
	}
	if r.dbx, err = varstore.Signatures(s.Get(varstore.ImageSecurity, "dbx")); err != nil {
		return inFile("variable dbx", err)
	}
	return nil
}

// secureFirmware asks the firmware, which takes long to unpack, only where the
// variables have keys.
func (r *run) secureFirmware(s *varstore.Store) (knows, known bool) {
	if !s.SecureBoot() {
		return false, false
	}
	return r.knowsSecureBoot()
}

// variables reads the variable store once.
func (m *Measurer) variables() (*varstore.Store, error) {
	m.storeOnce.Do(func() {
		in := m.Variables
		if m.NoVariables {
			m.store = &varstore.Store{}
			return
		}
		if in.R == nil && m.Firmware.R != nil {
			// An image such as OVMF.fd has its variables before the code.
			s, err := varstore.Read(m.Firmware.R, m.Firmware.Size)
			if err == nil {
				m.store = s
				return
			}
		}
		if in.R == nil {
			m.storeErr = missing("the variables are not given (--vars FILE)")
			return
		}
		m.store, m.storeErr = varstore.Read(in.R, in.Size)
		m.storeErr = inFile(in.Name, m.storeErr)
	})
	return m.store, m.storeErr
}
