package snpmeasure

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/gctx"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/trace"
)

// fourGiB is where a firmware image ends in the guest.
const fourGiB = 1 << 32

// Measurer computes the digests of many machines from one set of artifacts;
// what they share is hashed once. It is safe for use by several goroutines.
type Measurer struct {
	Artifacts
	kernel, initrd fileSum

	mu       sync.Mutex
	firmware *ovmf.SEV    // the firmware's tables, once read
	pages    *gctx.State  // the digest after the firmware's pages
	sha      *hash.Cloner // SHA-256 of the firmware, not finished
	stages   map[string]*stage
}

// New makes a Measurer. The inputs must stay readable while it is used.
func New(a Artifacts) *Measurer { return &Measurer{Artifacts: a} }

// fileSum is the SHA-256 of a file, taken once. An error is not remembered:
// the next call may have another context.
type fileSum struct {
	mu  sync.Mutex
	sum digest.Digest
}

func (f *fileSum) get(ctx context.Context, in Input) (digest.Digest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sum.IsZero() {
		sum, err := in.sum256(ctx)
		if err != nil {
			return digest.Digest{}, err
		}
		f.sum = sum
	}
	return f.sum, nil
}

// stage is a launch before the first CPU: what all counts and types share.
type stage struct {
	name   string      // of the input whose tables count
	layout *ovmf.SEV   // of that input
	ld     gctx.State  // in the SNP modes
	sha    hash.Cloner // for SEV and SEV-ES; never written to
	rip    uint64      // where an SVSM starts
	trace  trace.Trace
	quirks []Quirk
}

// maxStages bounds what a Measurer remembers; beyond it all is forgotten.
const maxStages = 256

// Measure computes the launch digest of one machine. Faults of an input or a
// setting are a *place.Fault, of the firmware's tables an *ovmf.Error within.
func (m *Measurer) Measure(ctx context.Context, c Config) (*Result, error) {
	r, err := m.counts(ctx, c, []int{c.VCPUs})
	if err != nil {
		return nil, err
	}
	return r[0], nil
}

// MaxShapes bounds what Matrix computes in one call.
const MaxShapes = 1 << 20

// Matrix computes the digests of machines that differ in the number of CPUs,
// their type and their features; an empty list is the value of c. The results
// have the counts outermost and the features innermost.
func (m *Measurer) Matrix(ctx context.Context, c Config, counts []int, cpus []CPU, features []uint64) ([]*Result, error) {
	if len(counts) == 0 {
		counts = []int{c.VCPUs}
	}
	if len(cpus) == 0 {
		cpus = []CPU{c.CPU}
	}
	if len(features) == 0 {
		features = []uint64{c.Features}
	}
	width := len(cpus) * len(features)
	if width > MaxShapes || len(counts) > MaxShapes/width {
		return nil, setting("machines", fmt.Sprintf("%d counts, %d types, %d features", len(counts), len(cpus), len(features)), fmt.Sprintf("at most %d combinations", MaxShapes), "")
	}
	out := make([]*Result, len(counts)*width)
	for j, cpu := range cpus {
		for k, f := range features {
			c.CPU, c.Features = cpu, f
			column, err := m.counts(ctx, c, counts)
			if err != nil {
				return nil, err
			}
			for i, r := range column {
				out[i*width+j*len(features)+k] = r
			}
		}
	}
	return out, nil
}

// counts computes one machine with several numbers of CPUs, each from the
// digest of the next smaller one.
func (m *Measurer) counts(ctx context.Context, c Config, counts []int) ([]*Result, error) {
	for _, n := range counts {
		c.VCPUs = n
		if err := c.check(&m.Artifacts); err != nil {
			return nil, err
		}
	}
	s, err := m.stage(ctx, &c)
	if err != nil {
		return nil, err
	}
	return s.finish(ctx, c, counts)
}

// Tables are what the firmware says about its launch.
func (m *Measurer) Tables() (*Layout, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tables()
}

// tables reads the firmware's tables once.
func (m *Measurer) tables() (*ovmf.SEV, error) {
	if m.Layout != nil {
		return m.Layout, nil
	}
	if m.firmware == nil {
		l, err := readTables(m.Firmware)
		if err != nil {
			return nil, err
		}
		m.firmware = l
	}
	return m.firmware, nil
}

func readTables(in Input) (*ovmf.SEV, error) {
	if in.Size > fourGiB {
		return nil, fault(place.InFile(in.Name), "size", fmt.Sprint(in.Size), "at most 4 GiB", "", ErrTooLarge)
	}
	l, err := ovmf.ReadSEV(in.R, in.Size)
	if err != nil {
		return nil, &place.Fault{Op: "measure", Where: place.InFile(in.Name), Err: err}
	}
	return l, nil
}

// stage computes what comes before the first CPU, or remembers it.
func (m *Measurer) stage(ctx context.Context, c *Config) (*stage, error) {
	key := fmt.Sprintf("%s %s %q %s %s %d %q", c.Mode, c.VMM, c.Cmdline, c.CmdlineSum, c.Seed, c.VarsSize, c.Quirks)
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.stages[key]; ok {
		return s, nil
	}
	layout, err := m.tables()
	if err != nil {
		return nil, err
	}
	s := &stage{name: m.Firmware.Name, layout: layout}
	if s.name == "" {
		s.name = "firmware tables"
	}
	if len(layout.Repeated) > 0 {
		s.quirks = append(s.quirks, RepeatedEntry)
	}
	if c.pages() {
		err = m.snpStage(ctx, c, s)
	} else {
		err = m.sevStage(ctx, c, s)
	}
	if err != nil {
		return nil, err
	}
	s.trace.Events = slices.Clip(s.trace.Events) // results append to it
	if m.stages == nil || len(m.stages) >= maxStages {
		m.stages = map[string]*stage{}
	}
	m.stages[key] = s
	return s, nil
}

// event adds the range that was just measured, in an SNP mode.
func (s *stage) event(label string, from trace.Origin) error {
	d, err := digest.FromBytes(digest.SHA384, s.ld[:])
	s.trace.Add(label, d, from)
	return err
}

func (m *Measurer) snpStage(ctx context.Context, c *Config, s *stage) error {
	s.trace = trace.Trace{Fold: trace.GCTX, Algorithm: digest.SHA384}
	if err := m.snpFirmware(ctx, c, s); err != nil || c.Mode == OVMFHash {
		return err
	}
	if c.Mode == SVSM {
		if err := m.svsm(ctx, c, s); err != nil {
			return err
		}
	}
	table, quirks, err := m.hashes(ctx, c)
	if err != nil {
		return err
	}
	s.quirks = append(s.quirks, quirks...)
	if !s.layout.HasMetadata {
		if c.has(MetadataRequired) {
			return fault(place.InFile(s.name), "table of GUIDs", "no entry "+ovmf.SEVMetadataGUID.String(), "SEV metadata", "", ErrNoMetadata)
		}
		s.quirks = append(s.quirks, MetadataOptional)
	}
	return s.sections(c, table)
}

// snpFirmware measures the firmware's pages, or begins with their digest.
func (m *Measurer) snpFirmware(ctx context.Context, c *Config, s *stage) error {
	if !c.Seed.IsZero() {
		copy(s.ld[:], c.Seed.Bytes())
		s.quirks = append(s.quirks, FirmwareBySeed)
		if m.Firmware.R != nil {
			s.quirks = append(s.quirks, SeedHidesFile)
		}
		return s.event("firmware pages, by their digest", trace.Origin{Size: -1})
	}
	address := fourGiB - uint64(m.Firmware.Size)
	if m.pages == nil {
		var ld gctx.State
		if err := addFile(ctx, m.Firmware, &ld, address); err != nil {
			return err
		}
		m.pages = &ld
	}
	s.ld = *m.pages
	return s.event(fmt.Sprintf("firmware pages at %#x", address), trace.Origin{Input: m.Firmware.Name, Size: m.Firmware.Size})
}

// addFile adds a file's pages from an address on.
func addFile(ctx context.Context, in Input, ld *gctx.State, address uint64) error {
	if in.Size%gctx.PageSize != 0 {
		return fault(place.InFile(in.Name), "size", fmt.Sprint(in.Size), "a multiple of 4096", "", ErrPageSize)
	}
	return in.each(ctx, func(b []byte) {
		ld.Data(b, address)
		address += uint64(len(b))
	})
}

// svsm loads the SVSM below the firmware and its variable store. From there on
// the SVSM's own tables count.
func (m *Measurer) svsm(ctx context.Context, c *Config, s *stage) error {
	layout, err := readTables(m.SVSM)
	if err != nil {
		return err
	}
	room := fourGiB - m.Firmware.Size
	if c.VarsSize > room || m.SVSM.Size > room-c.VarsSize {
		return setting("size of the variable store", fmt.Sprint(c.VarsSize), "room for it and the SVSM below the firmware", "")
	}
	address := uint64(room - c.VarsSize - m.SVSM.Size)
	if address%gctx.PageSize != 0 {
		return fault(place.Where{}, "size of the variable store", fmt.Sprint(c.VarsSize), "a multiple of 4096", "", ErrPageSize)
	}
	if layout.SVSMEntry == nil {
		return fault(place.InFile(m.SVSM.Name), "table of GUIDs", "no entry "+ovmf.SVSMInfoGUID.String(), "where the SVSM starts", "", ErrNoSVSMInfo)
	}
	if err := addFile(ctx, m.SVSM, &s.ld, address); err != nil {
		return err
	}
	s.name, s.layout, s.rip = m.SVSM.Name, layout, address+uint64(*layout.SVSMEntry)
	s.quirks = append(s.quirks, SVSMFCW)
	if len(layout.Repeated) > 0 && !slices.Contains(s.quirks, RepeatedEntry) {
		s.quirks = append(s.quirks, RepeatedEntry)
	}
	return s.event(fmt.Sprintf("SVSM pages at %#x", address), trace.Origin{Input: m.SVSM.Name, Size: m.SVSM.Size})
}

// sections measures the sections of the SEV metadata in their order.
func (s *stage) sections(c *Config, table []byte) error {
	var total uint64
	for i, x := range s.layout.Sections {
		at := place.InFile(s.name)
		if offset := s.layout.SectionOffset(i); offset >= 0 {
			at = at.At(offset)
		}
		at.Part = fmt.Sprintf("SEV metadata section %d", i)
		if !x.Type.Known() {
			return fault(at, "type", fmt.Sprint(uint32(x.Type)), "1, 2, 3, 4 or 16", "", ErrSectionType)
		}
		// Secrets and CPUID are one page each, whatever their size.
		if x.Type != ovmf.SEVSecrets && x.Type != ovmf.SEVCPUID {
			if x.Size%gctx.PageSize != 0 {
				return fault(at, "size", fmt.Sprintf("%#x", x.Size), "a multiple of 0x1000", "", ErrPageSize)
			}
			if total += uint64(x.Size); total > fourGiB {
				return fault(at, "size", fmt.Sprintf("%#x with the sections before it", total), "at most 0x100000000", "", ErrTooLarge)
			}
		}
		if err := s.section(c, i, x, at, table); err != nil {
			return err
		}
	}
	if c.VMM == EC2 {
		for i, x := range s.layout.Sections {
			if x.Type == ovmf.SEVCPUID {
				s.ld.Empty(gctx.CPUID, uint64(x.Address), 1)
				if err := s.event(fmt.Sprintf("section %d, CPUID page at %#x, last as on EC2", i, x.Address), trace.Origin{Size: -1}); err != nil {
					return err
				}
			}
		}
	}
	if table == nil {
		return nil
	}
	if !s.layout.Has(ovmf.SEVKernelHashes) {
		return fault(place.InFile(s.name), "SEV metadata", "no section of type 0x10", "a section for kernel hashes",
			"this firmware would start any kernel: take one that is built for measured direct boot (OVMF's AmdSev target)", ErrNoHashesSection)
	}
	return nil
}

func (s *stage) section(c *Config, i int, x ovmf.SEVSection, at place.Where, table []byte) error {
	address, pages := uint64(x.Address), uint64(x.Size)/gctx.PageSize
	what := ""
	switch x.Type {
	case ovmf.SEVSecrets:
		s.ld.Empty(gctx.Secrets, address, 1)
		what = "secrets page"
	case ovmf.SEVCPUID:
		if c.VMM == EC2 {
			return nil // after the other sections
		}
		s.ld.Empty(gctx.CPUID, address, 1)
		what = "CPUID page"
	case ovmf.SEVKernelHashes:
		if table != nil {
			page, err := hashesPage(s.name, s.layout, x, at, table)
			if err != nil {
				return err
			}
			s.ld.Data(page, address)
			for _, earlier := range s.layout.Sections[:i] {
				if earlier.Type == x.Type && !slices.Contains(s.quirks, RepeatedSections) {
					s.quirks = append(s.quirks, RepeatedSections)
				}
			}
			what = "page with the hashes of kernel, initrd and command line"
			break
		}
		fallthrough
	default:
		if pages == 0 {
			return nil
		}
		typ := gctx.Zero
		what = x.Type.String() + ", zero pages"
		if c.VMM == GCE && x.Type == ovmf.SEVMemory {
			typ, what = gctx.Unmeasured, x.Type.String()+", unmeasured pages"
		}
		s.ld.Empty(typ, address, pages)
		return s.event(fmt.Sprintf("section %d, %s at %#x to %#x", i, what, address, address+pages*gctx.PageSize), trace.Origin{Size: -1})
	}
	return s.event(fmt.Sprintf("section %d, %s at %#x", i, what, address), trace.Origin{Size: -1})
}

// sevStage hashes what SEV and SEV-ES measure before the CPUs: the firmware's
// bytes, and the table of hashes without a page around it.
func (m *Measurer) sevStage(ctx context.Context, c *Config, s *stage) error {
	s.trace = trace.Trace{Fold: trace.Running, Algorithm: digest.SHA256}
	if m.sha == nil {
		h, ok := sha256.New().(hash.Cloner)
		if !ok {
			return errors.New("measure: this SHA-256 cannot be copied")
		}
		if err := m.Firmware.each(ctx, func(b []byte) { h.Write(b) }); err != nil {
			return err
		}
		m.sha = &h
	}
	h, err := (*m.sha).Clone()
	if err != nil {
		return err
	}
	s.sha = h
	s.trace.Add("firmware", digest.FromHash(digest.SHA256, h), trace.Origin{Input: m.Firmware.Name, Size: m.Firmware.Size})
	if !m.Kernel.Present() {
		return nil
	}
	if at := s.layout.HashesTable; at == nil || *at == 0 {
		return fault(place.InFile(s.name), "table of GUIDs", "no guest address of kernel hashes", "one other than 0", "", ErrNoHashesTable)
	}
	table, quirks, err := m.hashes(ctx, c)
	if err != nil {
		return err
	}
	s.quirks = append(s.quirks, quirks...)
	h.Write(table)
	s.trace.Add("hashes of kernel, initrd and command line", digest.FromHash(digest.SHA256, h), trace.Origin{Size: -1})
	return nil
}

// launch counts CPUs onto a stage.
type launch struct {
	bsp, ap       *vmsa
	bspSum, apSum [sha512.Size384]byte
	ld            gctx.State
	sha           hash.Cloner
	first         digest.Digest // after the first CPU
	done          int
}

func (l *launch) digest() (digest.Digest, error) {
	if l.sha != nil {
		return digest.FromHash(digest.SHA256, l.sha), nil
	}
	return digest.FromBytes(digest.SHA384, l.ld[:])
}

func (l *launch) upTo(ctx context.Context, n int) (err error) {
	for ; l.done < n; l.done++ {
		page, sum := l.ap, &l.apSum
		if l.done == 0 {
			page, sum = l.bsp, &l.bspSum
		}
		if l.sha != nil {
			l.sha.Write(page[:])
		} else {
			l.ld.Update(gctx.VMSA, sum, gctx.VMSAAddress)
		}
		if l.done == 0 {
			if l.first, err = l.digest(); err != nil {
				return err
			}
		}
		if l.done%4096 == 4095 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// finish adds the CPUs of every count.
func (s *stage) finish(ctx context.Context, c Config, counts []int) ([]*Result, error) {
	l := &launch{ld: s.ld}
	if s.sha != nil {
		var err error
		if l.sha, err = s.sha.Clone(); err != nil {
			return nil, err
		}
	}
	if c.cpus() {
		s.registers(&c, l)
	}
	out := make([]*Result, len(counts))
	for _, i := range ascending(counts) {
		c.VCPUs = counts[i]
		r := &Result{Config: c, Quirks: slices.Clone(s.quirks), Trace: s.trace}
		n, err := s.cpusOf(&c, r)
		if err != nil {
			return nil, err
		}
		if err := l.upTo(ctx, n); err != nil {
			return nil, err
		}
		if err := l.result(r, n); err != nil {
			return nil, err
		}
		out[i] = r
	}
	return out, nil
}

// ascending are the indices of counts, the smallest count first.
func ascending(counts []int) []int {
	order := make([]int, len(counts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return counts[a] - counts[b] })
	return order
}

// othersLabel names the pages of all CPUs but the first of n.
func othersLabel(n int) string {
	if n == 2 {
		return "registers of vCPU 1"
	}
	return fmt.Sprintf("registers of vCPUs 1 to %d", n-1)
}

// registers makes the pages of the first CPU and of the others.
func (s *stage) registers(c *Config, l *launch) {
	if c.Mode == SVSM {
		l.bsp = c.svsmRegisters(s.rip)
		l.ap = l.bsp
	} else {
		l.bsp, l.ap = c.registers(bspEIP), new(vmsa)
		if s.layout.ResetEIP != nil {
			l.ap = c.registers(*s.layout.ResetEIP)
		}
	}
	l.bspSum, l.apSum = sha512.Sum384(l.bsp[:]), sha512.Sum384(l.ap[:])
}

// cpusOf is the number of CPUs whose registers are measured. It writes down
// the quirks that the machine's settings bring.
func (s *stage) cpusOf(c *Config, r *Result) (int, error) {
	n := c.VCPUs
	if !c.cpus() {
		return 0, nil
	}
	if _, unknown := FeatureNames(c.Features); unknown != 0 && c.Mode == SNP {
		r.Quirks = append(r.Quirks, UnknownFeatures)
	}
	if n == 0 {
		r.Quirks = append(r.Quirks, NoVCPUs)
	}
	switch c.VMM {
	case EC2:
		if c.has(EC2RDXZero) {
			r.Quirks = append(r.Quirks, EC2RDXZero)
		} else {
			r.Quirks = append(r.Quirks, EC2RDX600)
		}
	case GCE:
		r.Quirks = append(r.Quirks, GCEOnePeer)
	case Krun:
		r.Quirks = append(r.Quirks, KrunOnePeer)
	}
	if c.Mode == SVSM {
		if c.Features != 1 {
			r.Quirks = append(r.Quirks, SVSMFeatures)
		}
		return n, nil
	}
	at := place.InFile(s.name)
	switch eip := s.layout.ResetEIP; {
	case eip == nil && c.has(ResetOptional) && n <= 1:
		r.Quirks = append(r.Quirks, ResetOptional)
	case eip == nil:
		return 0, fault(at, "table of GUIDs", "no entry "+ovmf.SEVResetGUID.String(), "the address at which the second CPU starts", hintReset(n), ErrNoResetBlock)
	case *eip == 0 && n > 1 && c.has(ResetZeroOneCPU):
		r.Quirks = append(r.Quirks, ResetZeroOneCPU)
		return 1, nil
	case *eip == 0 && n > 1:
		return 0, fault(at, "SEV-ES reset block", "start address 0", "another for a machine with more than one CPU", "", ErrResetZero)
	}
	return n, nil
}

func hintReset(n int) string {
	if n > 1 {
		return ""
	}
	return "quirk " + string(ResetOptional) + " measures one CPU without it"
}

// result writes the state after n CPUs into r.
func (l *launch) result(r *Result, n int) (err error) {
	if r.Digest, err = l.digest(); err != nil {
		return err
	}
	if n > 0 {
		r.Trace.Events = slices.Clone(r.Trace.Events)
		r.Trace.Add("registers of vCPU 0", l.first, trace.Origin{Size: -1})
		r.VMSA = append(r.VMSA, digest.SHA256.Sum(l.bsp[:]))
	}
	if n > 1 {
		r.Trace.Add(othersLabel(n), r.Digest, trace.Origin{Size: -1})
		if *l.ap != *l.bsp {
			r.VMSA = append(r.VMSA, digest.SHA256.Sum(l.ap[:]))
		}
	}
	// The value is what the fold gives.
	r.Digest, err = r.Trace.Compute()
	return err
}

// Registers returns the pages that the CPUs of a machine start with: the first
// one's and that of all others, which for an SVSM are the same.
func (m *Measurer) Registers(ctx context.Context, c Config) (first, others []byte, err error) {
	if err := c.check(&m.Artifacts); err != nil {
		return nil, nil, err
	}
	if !c.cpus() {
		return nil, nil, setting("mode", string(c.Mode), "a mode that measures registers: "+strings.Join([]string{string(SNP), string(SEVES), string(SVSM)}, ", "), "")
	}
	s, err := m.stage(ctx, &c)
	if err != nil {
		return nil, nil, err
	}
	n, err := s.cpusOf(&c, &Result{})
	if err != nil {
		return nil, nil, err
	}
	l := &launch{}
	s.registers(&c, l)
	if n > 0 {
		first = l.bsp[:]
	}
	if n > 1 {
		others = l.ap[:]
	}
	return first, others, nil
}
