package snp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/snpmeasure"
)

// shared are the fields of a Platform that mean something for an SNP machine,
// beside its own. Memory and GPUs describe it; neither is measured.
var shared = []string{"tee", "profile", "firmware", "kernel", "initrd", "cmdline", "memory", "vcpus", "gpus", "rootfs", "compose", "expect"}

// shape is a platform's description as the room takes it. Empty counts, and no
// CPU where one is measured, are not given.
type shape struct {
	config   snpmeasure.Config
	counts   []int
	cpus     []snpmeasure.CPU
	features []uint64
	// one and eip are the values for one vCPU that stand for the artifacts.
	one digest.Digest
	eip uint32
	id  *snpmeasure.IDBlock // without a launch digest
	// form is Contrast's form of the ID block, "" for another's.
	form snpmeasure.ContrastForm
}

func check(c *config.Config, bad config.At) error {
	for _, name := range slices.Sorted(maps.Keys(c.Platforms)) {
		p := c.Platforms[name]
		if p.TEE != "snp" {
			continue
		}
		at := func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"platforms", name}, field...)...)
		}
		if name == "" {
			return at("a platform needs a name", "for instance metal-qemu-snp")
		}
		if err := Check(&p, at); err != nil {
			return err
		}
	}
	return nil
}

// Check finds what is wrong with the description of an SNP machine. at makes
// the fault, at a field as retally.yaml names it.
func Check(p *config.Platform, at config.At) error {
	for _, field := range config.FieldsGiven(*p) {
		if !slices.Contains(shared, field) && !slices.Contains(config.FieldsGiven(p.SNPMachine), field) {
			return at(field+" is for machines of another TEE", "leave it out: nothing of it is measured on AMD", field)
		}
	}
	profile, err := loadProfile(p.Profile)
	if err != nil {
		return at(err.Error(), config.NearestHint(p.Profile, profiles.SNPNames()), "profile")
	}
	s, err := describe(p, profile, at)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.Expect)) {
		if _, err := expectation(name, p.Expect[name], s.config.Mode); err != nil {
			return at(err.Error(), "write the hex digits alone, in quotation marks", "expect", name)
		}
	}
	return nil
}

// loadProfile is a built-in profile; nil without a name.
func loadProfile(name string) (*snpmeasure.Profile, error) {
	if name == "" {
		return nil, nil
	}
	data, ok := profiles.SNP(name)
	if !ok {
		return nil, fmt.Errorf("unknown profile %.60q of SNP machines", name)
	}
	return snpmeasure.ParseProfile(profileFile(name), data)
}

func profileFile(name string) string { return config.ProfilePrefix + "snp@" + name }

// expected is a value that a machine must have.
type expected struct {
	key  []string // below snp/PLATFORM
	want digest.Digest
}

// expectation reads an entry of expect: launch, ovmf_hash or id_key_digest, or
// one of several machines as Milan/cpus=2/launch.
func expectation(name, text string, mode snpmeasure.Mode) (e expected, err error) {
	parts := strings.Split(name, "/")
	last := strings.ReplaceAll(parts[len(parts)-1], "_", "-")
	a := digest.SHA384
	switch {
	case last == "launch" && (mode == snpmeasure.SEV || mode == snpmeasure.SEVES):
		a, last = digest.SHA256, launchName(mode)
	case last == "launch", last == "id-key-digest", last == "ovmf-hash" && len(parts) == 1:
	default:
		return e, fmt.Errorf("%.60q: want launch, ovmf_hash or id_key_digest, or of one of several machines PRODUCT/cpus=N/launch", name)
	}
	e.key = append(parts[:len(parts)-1], last)
	e.want, err = digest.ParseHex(a, strings.ToLower(text))
	return e, err
}

// launchName is the last part of a launch digest's key.
func launchName(m snpmeasure.Mode) string {
	switch m {
	case snpmeasure.SEV, snpmeasure.SEVES:
		return "launch-" + string(m)
	case snpmeasure.OVMFHash:
		return "ovmf-hash"
	default:
		return "launch"
	}
}

// describe reads the fields that describe a machine, with the profile's
// defaults for those that are not given.
func describe(p *config.Platform, profile *snpmeasure.Profile, at config.At) (*shape, error) {
	s := &shape{features: p.GuestFeatures, counts: p.VCPUs}
	mode, vmm := p.Mode, p.VMM
	if mode == "" {
		mode = string(snpmeasure.SNP)
	}
	types := p.VCPUTypes
	if profile != nil {
		if vmm == "" {
			vmm = string(profile.VMM)
		}
		if len(types) == 0 && p.VCPUSig == "" && p.VCPUFamily == nil {
			types = profile.CPUTypes
		}
		if len(s.counts) == 0 {
			s.counts = profile.VCPUs
		}
		if len(s.features) == 0 {
			s.features = profile.Features
		}
	}
	if vmm == "" {
		vmm = string(snpmeasure.QEMU)
	}
	if len(s.features) == 0 {
		s.features = []uint64{1}
	}
	var err error
	if s.config.Mode, err = snpmeasure.ParseMode(mode); err != nil {
		return nil, at(said(err), "", "mode")
	}
	if s.config.VMM, err = snpmeasure.ParseVMM(vmm); err != nil {
		return nil, at(said(err), "", "vmm")
	}
	if !s.measuresCPUs() {
		if len(p.VCPUs) > 0 {
			return nil, at("mode "+mode+" measures no vCPU", "leave the number of vCPUs out", "vcpus")
		}
		s.counts = []int{0}
	}
	for i, q := range p.Quirks {
		if !slices.Contains(snpmeasure.Choices(), snpmeasure.Quirk(q)) {
			return nil, at(fmt.Sprintf("quirk: found %.60q, want one of %v", q, snpmeasure.Choices()), "", "quirks")
		}
		if slices.Contains(p.Quirks[:i], q) {
			return nil, at(fmt.Sprintf("quirk %s twice", q), "", "quirks")
		}
		s.config.Quirks = append(s.config.Quirks, snpmeasure.Quirk(q))
	}
	if err := s.readCPUs(p, types, at); err != nil {
		return nil, err
	}
	if err := s.distinct(at); err != nil {
		return nil, err
	}
	if p.OVMFHash != "" {
		if s.config.Seed, err = digest.ParseHex(digest.SHA384, strings.ToLower(p.OVMFHash)); err != nil {
			return nil, at("ovmf-hash: "+err.Error(), "the launch digest after the firmware's pages: 96 hex digits", "ovmf_hash")
		}
	}
	s.config.VarsSize = p.VarsSize
	if err := s.readOne(p, at); err != nil {
		return nil, err
	}
	return s, s.readID(p.IDBlock, at)
}

// said is a fault of the room without the words for its field, which the
// caller names.
func said(err error) string {
	var f *place.Fault
	if !errors.As(err, &f) || f.Found == "" || f.Want == "" {
		return err.Error()
	}
	return "found " + f.Found + ", want " + f.Want
}

// measuresCPUs reports whether the digest depends on the vCPUs.
func (s *shape) measuresCPUs() bool {
	return s.config.Mode != snpmeasure.SEV && s.config.Mode != snpmeasure.OVMFHash
}

// readCPUs reads the fields that name the type of the vCPUs. Two ways that say
// different things are refused.
func (s *shape) readCPUs(p *config.Platform, types []string, at config.At) error {
	for _, name := range types {
		c, err := snpmeasure.CPUOfType(name)
		if err != nil {
			return at(said(err), "", "vcpu_types")
		}
		s.cpus = append(s.cpus, c)
	}
	add := func(c snpmeasure.CPU, field string) error {
		switch {
		case len(s.cpus) == 0:
			s.cpus = []snpmeasure.CPU{c}
		case len(s.cpus) > 1 || s.cpus[0].Sig != c.Sig:
			return at(fmt.Sprintf("%s and %s are not the same", s.cpus[0], c), "name the type in one way", field)
		}
		return nil
	}
	if p.VCPUSig != "" {
		n, err := strconv.ParseUint(p.VCPUSig, 0, 32)
		if err != nil {
			return at(fmt.Sprintf("%.40q: want a number of 32 bits", p.VCPUSig), "for instance 0xa00f11", "vcpu_sig")
		}
		if err := add(snpmeasure.CPUOfSignature(uint32(n)), "vcpu_sig"); err != nil {
			return err
		}
	}
	if p.VCPUFamily == nil && p.VCPUModel == nil && p.VCPUStepping == nil {
		return nil
	}
	if p.VCPUFamily == nil || p.VCPUModel == nil || p.VCPUStepping == nil {
		return at("family, model and stepping of the vCPUs belong together", "give all three", "vcpu_family")
	}
	c, err := snpmeasure.CPUOfFamily(*p.VCPUFamily, *p.VCPUModel, *p.VCPUStepping)
	if err != nil {
		return at(said(err), "", "vcpu_family")
	}
	return add(c, "vcpu_family")
}

// distinct refuses a machine that is described twice: its values would have one
// key.
func (s *shape) distinct(at config.At) error {
	for i, n := range s.counts {
		if n < 0 {
			return at(fmt.Sprintf("%d: want a number, a range or a list", n), "", "vcpus")
		}
		if slices.Contains(s.counts[:i], n) {
			return at(fmt.Sprintf("%d vCPUs twice", n), "", "vcpus")
		}
	}
	for i, c := range s.cpus {
		if slices.ContainsFunc(s.cpus[:i], func(o snpmeasure.CPU) bool { return o.Sig == c.Sig }) {
			return at(fmt.Sprintf("%s: the signature is that of another in the list", c), "QEMU's versions of a type differ in nothing that is measured", "vcpu_types")
		}
	}
	for i, f := range s.features {
		if slices.Contains(s.features[:i], f) {
			return at(fmt.Sprintf("features %#x twice", f), "", "guest_features")
		}
	}
	if w := max(1, len(s.cpus)) * len(s.features); len(s.counts)*w > snpmeasure.MaxShapes {
		return at(fmt.Sprintf("more than %d machines", snpmeasure.MaxShapes), "", "vcpus")
	}
	return nil
}

// readOne reads the values for one vCPU.
func (s *shape) readOne(p *config.Platform, at config.At) error {
	if p.OneVCPUDigest == "" && p.APEIP == "" {
		return nil
	}
	for _, field := range config.FieldsGiven(*p) {
		if slices.Contains([]string{"firmware", "kernel", "initrd", "cmdline", "ovmf_hash", "svsm", "vars_size", "release", "releases"}, field) {
			return at(field+" and the digest for one vCPU exclude each other", "the digest for one vCPU stands for all artifacts", field)
		}
	}
	if s.config.Mode != snpmeasure.SNP {
		return at("a digest for one vCPU is for mode snp", "", "mode")
	}
	var err error
	if s.one, err = digest.ParseHex(digest.SHA384, strings.ToLower(p.OneVCPUDigest)); err != nil {
		return at("one-vcpu-digest: "+err.Error(), "96 hex digits", "one_vcpu_digest")
	}
	eip, err := hex.DecodeString(strings.TrimPrefix(p.APEIP, "0x"))
	if err != nil || len(eip) != 4 {
		return at(fmt.Sprintf("ap-eip %.40q: want 8 hex digits", p.APEIP), "the APEIP of a Contrast manifest, or the address of the firmware's SEV-ES reset block (retally inspect firmware)", "ap_eip")
	}
	s.eip = binary.BigEndian.Uint32(eip)
	return nil
}

// readID reads the ID block.
func (s *shape) readID(c *config.IDBlock, at config.At) error {
	if c == nil {
		return nil
	}
	if s.config.Mode != snpmeasure.SNP && s.config.Mode != snpmeasure.SVSM {
		return at("an ID block holds a launch digest of SEV-SNP", "leave it out in mode "+string(s.config.Mode), "id_block")
	}
	policy := uint64(0x30000)
	if c.Policy != nil {
		policy = *c.Policy
	}
	if policy>>17&1 == 0 {
		return at(fmt.Sprintf("guest policy %#x: bit 17 must be one", policy), "for instance 0x30000", "id_block", "policy")
	}
	s.id = &snpmeasure.IDBlock{Version: 1, GuestSVN: c.SVN, Policy: policy}
	if c.Contrast != "" {
		if c.FamilyID != "" || c.ImageID != "" || c.SVN != 0 {
			return at("Contrast's ID block has ids and an SVN of its own", "leave family_id, image_id and svn out", "id_block")
		}
		s.form = snpmeasure.ContrastForm(c.Contrast)
		if s.form != snpmeasure.ContrastCurrent && s.form != snpmeasure.ContrastEarly {
			return at(fmt.Sprintf("form %.40q of the ID block", c.Contrast), "known: current, early", "id_block", "contrast")
		}
		return nil
	}
	var err1, err2 error
	s.id.FamilyID, err1 = snpmeasure.ParseID(c.FamilyID)
	s.id.ImageID, err2 = snpmeasure.ParseID(c.ImageID)
	if err := errors.Join(err1, err2); err != nil {
		return at(said(err), "", "id_block")
	}
	return nil
}

// fill writes out what machines take from elsewhere.
func fill(c *config.Config) {
	for name, p := range c.Platforms {
		if p.TEE != "snp" {
			continue
		}
		profile, err := loadProfile(p.Profile)
		if err != nil || profile == nil {
			continue // the configuration is checked elsewhere
		}
		if p.Compose == "" && slices.Contains(profile.Needs(), "compose") {
			p.Compose = c.Compose
		}
		c.Platforms[name] = p
	}
}
