// Package evidence is the stage that judges what machines showed of themselves.
package evidence

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
)

// Stage judges what machines showed of themselves. Three values are
// published by the claim that a machine is genuine, what it should be, and the
// one that answers: authentic, expected and bound must each be "pass".
func Stage() run.Stage { return Showing(nil) }

// Showing is the stage that also hands out everything that it judged, for whoever
// shows more of it than a report does. show may be nil.
func Showing(show func(*Judged)) run.Stage {
	return run.Stage{
		Name: "evidence", Version: 5, After: []string{"tdx", "tpm"}, Fill: fill, Check: check, Plan: plan,
		Run: func(ctx context.Context, in *run.In) (*run.Out, error) { return execute(ctx, in, show) },
	}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Evidence)) {
		e := c.Evidence[name]
		key := func(what string) string { return string(pipeline.NewKey("evidence", name, what)) }
		lines = append(lines, run.PlanLine{Key: key("authentic"), From: strings.Join(append([]string{e.File}, e.Also...), ", ") + " at " + e.At})
		given := func(list ...string) string {
			return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), ", ")
		}
		from := given(worded("registers", strings.Join(slices.DeleteFunc([]string{e.MRTD, e.RTMR0, e.RTMR1, e.RTMR2, e.RTMR3}, func(s string) bool { return s == "" }), ", ")), worded("platform", e.Platform), e.Registry, e.Compose, e.Rootfs, strings.Join(e.Measured, ", "), e.VMConfig, worded("os_image_hash", e.OSImageHash), worded("measurement", strings.Join(e.Measurement, ", ")), worded("demands", strings.Join(e.Require, ", ")), worded("host_data", e.HostData), e.Golden, worded("application disk", e.AppRoot), worded("workload", e.Workload), strings.Join(e.Earlier, ", "), strings.Join(e.OwnerKey, ", "), cmp.Or(e.Manifest, c.Against))
		if from != "" {
			lines = append(lines, run.PlanLine{Key: key("expected"), From: from})
		} else {
			lines = append(lines, run.PlanLine{Key: key("expected"), Missing: "values to compare with", How: "evidence." + name + ".platform: NAME, or registry: tdx.csv with compose: FILE"})
		}
		switch {
		case e.TLSCert != "" || e.Nonce != "":
			lines = append(lines, run.PlanLine{Key: key("bound"), From: given(e.TLSCert, worded("nonce", e.Nonce))})
		default:
			lines = append(lines, run.PlanLine{Key: key("bound"), Missing: "certificate or nonce, unless " + e.File + " is a capture", How: "evidence." + name + ".tls_cert: FILE, the certificate of the machine's connection, or nonce: HEX"})
		}
	}
	return lines
}

// worded is a text behind the word that says what it is, "" where there is none.
func worded(word, text string) string {
	if text == "" {
		return ""
	}
	return word + " " + text
}

// stageRun collects what the stage finds.
type stageRun struct {
	in   *run.In
	out  *run.Out
	read map[string]*evidence.Bundle // by file
	// folders are the files of collateral folders, by folder: each is read once.
	folders map[string][]tdxquote.CollateralFile
}

func execute(ctx context.Context, in *run.In, show func(*Judged)) (*run.Out, error) {
	r := &stageRun{in: in, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}, read: map[string]*evidence.Bundle{}, folders: map[string][]tdxquote.CollateralFile{}}
	for _, name := range slices.Sorted(maps.Keys(in.Config.Evidence)) {
		j, err := r.judge(ctx, name, in.Config.Evidence[name])
		if err != nil {
			return nil, fmt.Errorf("evidence %s: %w", name, err)
		}
		if show != nil {
			show(j)
		}
	}
	return r.out, nil
}

// judge judges one entry.
func (r *stageRun) judge(ctx context.Context, name string, e config.Evidence) (*Judged, error) {
	q, from, err := r.question(ctx, e)
	if err != nil {
		return nil, err
	}
	j, err := Judge(name, e, q)
	if err != nil {
		return nil, &pipeline.InputError{Op: "judge", File: e.File, Err: err}
	}
	j.run, j.from = r, from
	j.Add(r.out)
	if j.Expected.Verdict == verdict.Fail && slices.Contains(j.Asked(), evidence.Expected) {
		return j, errors.Join(j.whyRegisters(ctx), j.whyPCRs(ctx))
	}
	return j, nil
}

// judgedFrom are the inputs of each judgement.
type judgedFrom struct{ authentic, expected, bound []pipeline.InputRef }

// question reads everything that an entry names.
func (r *stageRun) question(ctx context.Context, e config.Evidence) (*Question, *judgedFrom, error) {
	at, err := time.Parse(time.RFC3339, e.At)
	if err != nil {
		return nil, nil, err
	}
	q := &Question{Request: evidence.Request{
		Profile: evidence.Profile(e.Profile), At: at, AcceptTCB: e.AcceptTCB, RTMR3: RTMR3, Replay: Replay, PCRReplay: ReplayPCRs,
		Field: func(field, value string) string { return r.in.Field(value, field) },
	}}
	from := new(judgedFrom)
	var bundles []*evidence.Bundle
	for _, file := range append([]string{e.File}, e.Also...) {
		b, err := r.bundle(ctx, file)
		if err != nil {
			return nil, nil, err
		}
		bundles = append(bundles, b)
		from.authentic = append(from.authentic, pipeline.FromFile(file))
	}
	if q.Evidence, err = evidence.Merge(bundles...); err != nil {
		return nil, nil, &pipeline.InputError{Op: "judge", File: e.File, Err: err, Hint: "judge machines one by one"}
	}
	q.Evidence = q.Evidence.As(q.Profile)
	if q.AK, err = r.attestationKey(ctx, e, from); err != nil {
		return nil, nil, err
	}
	q.AKSource = source(e, e.AK)
	if err := errors.Join(idle(e, q), r.otherPlatform(e, q.Evidence)); err != nil {
		return nil, nil, err
	}
	from.bound = slices.Clone(from.authentic)
	if err := r.authenticInputs(ctx, e, q, from); err != nil {
		return nil, nil, err
	}
	if err := r.expectedInputs(ctx, e, q, from); err != nil {
		return nil, nil, err
	}
	if e.TLSCert != "" {
		if q.TLSCert, err = r.certificate(ctx, e.TLSCert); err != nil {
			return nil, nil, err
		}
		if q.Evidence.Proof != nil || len(q.Evidence.Contrast) > 0 {
			if err := r.tlsChain(ctx, e, q); err != nil {
				return nil, nil, err
			}
		}
		from.bound = append(from.bound, pipeline.FromFile(e.TLSCert))
	}
	if len(q.Evidence.Contrast) > 0 {
		if err := r.contrastInputs(ctx, e, q, from); err != nil {
			return nil, nil, err
		}
	}
	if e.Nonce != "" {
		if q.Nonce, err = hex.DecodeString(strings.TrimPrefix(e.Nonce, "0x")); err != nil {
			return nil, nil, err
		}
	}
	if q.Profile == "" && q.Evidence.Quote != nil && q.Evidence.EventLog == nil && q.Evidence.VMConfig == nil && (q.Registry != nil || e.Rootfs != "" || e.Compose != "") {
		q.Profile = evidence.SecretVM // only its machines have them
	}
	return q, from, nil
}

// idle finds what is given for another vendor's evidence: it would be ignored,
// and an allow-list that nothing was held against is none.
func idle(e config.Evidence, q *Question) error {
	b := q.Evidence
	tpm, behind := tpmKind(b), hcl.Type(0)
	if b.TPM != nil && b.TPM.HCL != nil && !bareKey(q) {
		behind = b.TPM.HCL.Type
	}
	var bad []field
	broken := b.TPMErr != nil // what would vouch for it is not read
	if b.Quote == nil && behind != hcl.TDX && !broken {
		bad = append(bad, field{"collateral", strings.Join(e.Collateral, "")}, field{"accept_tcb", strings.Join(e.AcceptTCB, "")}, field{"mrseam", strings.Join(e.MRSEAM, "")}, field{"service_td", strings.Join(e.ServiceTD, "")}, field{"intel_root", e.IntelRoot})
	}
	if b.Quote == nil || tpm || e.Profile == string(evidence.NVIDIA) {
		bad = append(bad, field{"require", strings.Join(e.Require, "")})
	}
	if b.SNP == nil && behind != hcl.SNP && !broken {
		bad = append(bad, field{"vcek", e.VCEK}, field{"certs", e.Certs}, field{"crl", e.CRL})
		if !tpm || bareKey(q) || behind == hcl.TDX {
			bad = append(bad, field{"roots", e.Roots})
		}
	}
	if len(b.Contrast) == 0 {
		bad = append(bad, contrastIdle(e)...)
	}
	if b.GPU == nil {
		bad = append(bad, field{"nvidia_root", e.NVIDIARoot})
	}
	switch {
	case broken:
	case b.TPM == nil:
		bad = append(bad, field{"ak", e.AK}, field{"event_log", e.EventLog})
	case b.TPM.HCL != nil && !bareKey(q) && q.AKSource != evidence.Sender:
		bad = append(bad, field{"ak", e.AK}) // whose key it is, the hardware report says
	}
	if b.Proof == nil {
		bad = append(bad, field{"app_root", e.AppRoot})
	}
	if !tpm {
		bad = append(bad, field{"golden", e.Golden})
	} else {
		bad = append(bad, tpmIdle(e, behind)...)
	}
	hint := "leave it out"
	if b.Hardware != nil {
		hint += ", or judge the hardware report alone: " + q.Field("profile", "snp")
	}
	for _, f := range bad {
		if f.text != "" {
			return &pipeline.InputError{Op: "judge", File: e.File, Err: fmt.Errorf("%s is given, which is for evidence of another kind", q.Field(f.name, "")), Hint: hint}
		}
	}
	return nil
}

func (r *stageRun) certificate(ctx context.Context, file string) (*x509.Certificate, error) {
	data, err := r.in.ReadFile(ctx, file, tdxquote.MaxSize)
	if err != nil {
		return nil, err
	}
	return evidence.ReadCertificate(file, data)
}

// bundle reads an evidence file or a capture folder, each once.
func (r *stageRun) bundle(ctx context.Context, file string) (*evidence.Bundle, error) {
	if b := r.read[file]; b != nil {
		return b, nil
	}
	var b *evidence.Bundle
	info, err := os.Stat(r.in.Path(file))
	if err == nil && info.IsDir() {
		if !capture.IsCapture(r.in.Path(file)) {
			return nil, &pipeline.InputError{Op: "read evidence", File: file, Err: errors.New("is a folder without " + capture.Index), Hint: "name the files, or a folder that retally evidence capture wrote"}
		}
		err = r.in.ReadTree(file, func(path string) (digest.Digest, int64, error) {
			c, err := capture.Open(path)
			if err != nil {
				return digest.Digest{}, 0, fmt.Errorf("%s: %w", file, err)
			}
			id, n := c.Identity()
			b, err = evidence.FromCapture(file, c)
			return id, n, err
		})
	} else {
		b, err = run.Parsed(ctx, r.in, file, evidence.MaxFile, evidence.Read)
	}
	if err == nil && b == nil {
		err = &pipeline.InputError{Op: "read", File: file, Err: errors.New("was read before as something else than evidence")}
	}
	if err != nil {
		return nil, err
	}
	r.read[file] = b
	return b, nil
}

func (r *stageRun) authenticInputs(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	if err := r.collateral(ctx, e, q, from); err != nil {
		return err
	}
	for to, list := range map[*[]digest.Digest][]string{&q.MRSEAM: e.MRSEAM, &q.ServiceTD: e.ServiceTD} {
		for _, text := range list {
			d, err := parseHex(digest.SHA384, text)
			if err != nil {
				return err
			}
			*to = append(*to, d)
		}
	}
	if e.IntelRoot != "" {
		root, err := r.certificate(ctx, e.IntelRoot)
		if err != nil {
			return err
		}
		q.IntelRoots = []*x509.Certificate{root}
		from.authentic = append(from.authentic, pipeline.FromFile(e.IntelRoot))
	}
	if err := r.amdInputs(ctx, e, q, from); err != nil {
		return err
	}
	if e.NVIDIARoot != "" {
		root, err := r.certificate(ctx, e.NVIDIARoot)
		if err != nil {
			return err
		}
		q.NVIDIARoots = []digest.Digest{digest.SHA256.Sum(root.Raw)}
		from.authentic = append(from.authentic, pipeline.FromFile(e.NVIDIARoot))
	}
	return nil
}

// source is whose word a file is: the sender's where it came with the evidence.
func source(e config.Evidence, file string) evidence.Source {
	if slices.Contains(e.Senders, file) {
		return evidence.Sender
	}
	return evidence.User
}

// expectedInputs gathers what a machine must be: the registers recomputed for
// its platform are one group of sets, the registry's rows another, the
// published manifest a third. Each must have a set that fits as a whole.
func (r *stageRun) expectedInputs(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	if tpmKind(q.Evidence) {
		return r.tpmExpected(ctx, e, q, from)
	}
	if e.Registry != "" {
		parsed, err := run.Parsed(ctx, r.in, e.Registry, evidence.MaxRegistry, evidence.ParseRegistry)
		if err != nil {
			return err
		}
		registry := *parsed // others have it, too
		registry.Source = source(e, e.Registry)
		q.Registry = &registry
		from.expected = append(from.expected, pipeline.FromFile(e.Registry))
	}
	d, given, err := givenDigest(e.Compose)
	switch {
	case err != nil:
		return err
	case given:
		q.ComposeHash = d
	case e.Compose != "":
		data, err := r.in.ReadFile(ctx, e.Compose, config.ComposeLimit)
		if err != nil {
			return err
		}
		q.Compose, q.ComposeSource = &evidence.File{Name: e.Compose, Data: data}, source(e, e.Compose)
		from.expected = append(from.expected, pipeline.FromFile(e.Compose))
	}
	if q.AppID, err = config.ParseAppID(e.AppID); err != nil {
		return err
	}
	if q.Require, err = parseRequire(e.Require); err != nil {
		return err
	}
	if q.Rootfs, err = r.fileSum(ctx, e.Platform, "rootfs", e.Rootfs, from); err != nil {
		return err
	}
	if q.DockerFiles, err = r.fileSum(ctx, e.Platform, "docker-files", e.DockerFiles, from); err != nil {
		return err
	}
	if err := r.givenSets(ctx, e, q, from); err != nil {
		return err
	}
	if err := r.manifestSets(ctx, e, q, from); err != nil {
		return err
	}
	return r.vmConfig(ctx, e, q, from)
}

// givenSets are the registers recomputed for a platform, those that were written
// down and those that were measured elsewhere.
func (r *stageRun) givenSets(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	artifacts := evidence.ReferenceSet{Group: "artifacts", Name: "platform " + e.Platform, Registers: map[evidence.Register]digest.Digest{}, Rootfs: q.Rootfs}
	if e.Platform != "" {
		for _, name := range tdx.Registers {
			if m, ok := r.in.Get(pipeline.NewKey("tdx", e.Platform, name)); ok {
				artifacts.Registers[evidence.Register(name)] = m.Value.Digest()
				from.expected = append(from.expected, pipeline.FromKey(m.Key))
			}
		}
	}
	if len(artifacts.Registers) > 0 {
		q.Sets = append(q.Sets, artifacts)
		q.Rootfs = digest.Digest{} // it is part of the set
	}
	given := evidence.ReferenceSet{Group: "given", Name: "the registers given", Registers: map[evidence.Register]digest.Digest{}}
	for i, text := range []string{e.MRTD, e.RTMR0, e.RTMR1, e.RTMR2, e.RTMR3} {
		if text == "" {
			continue
		}
		d, err := parseHex(digest.SHA384, text)
		if err != nil {
			return err
		}
		given.Registers[evidence.Registers()[i]] = d
	}
	if len(given.Registers) > 0 {
		q.Sets = append(q.Sets, given)
	}
	if err := givenLaunches(e, q); err != nil {
		return err
	}
	for _, file := range e.Measured {
		data, err := r.in.ReadFile(ctx, file, config.JSONLimit)
		if err != nil {
			return err
		}
		sets, open, err := MeasuredSets(file, data)
		if err != nil {
			return err
		}
		for i := range sets {
			sets[i].Source = source(e, file)
		}
		q.Sets, q.Checks = append(q.Sets, sets...), append(q.Checks, open...)
		from.expected = append(from.expected, pipeline.FromFile(file))
	}
	return nil
}

// manifestSets are the machines of a manifest that an entry may be of: the ones
// of its platform's name, or, where no platform is named, all. The manifest that
// a whole run is compared with counts where it can be about the machine.
func (r *stageRun) manifestSets(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	file := cmp.Or(e.Manifest, r.in.Config.Against)
	if file == "" {
		return nil
	}
	m, err := run.Parsed(ctx, r.in, file, config.JSONLimit, manifest.Parse)
	if err != nil {
		return err
	}
	if q.Evidence.SNP != nil {
		return snpManifestSets(ctx, e, file, m, q, from)
	}
	if e.Manifest == "" && (len(m.TDX()) == 0 || e.Platform == "" && e.Profile != "" && e.Profile != string(evidence.TDX)) {
		return nil
	}
	sets, err := ManifestSets(file, m)
	if err != nil {
		return err
	}
	if e.Platform != "" {
		sets = slices.DeleteFunc(sets, func(s evidence.ReferenceSet) bool { return !strings.EqualFold(s.Name, e.Platform) })
	}
	switch {
	case len(sets) == 0 && e.Manifest != "":
		q.Checks.Open("manifest", file+" has no TDX reference value for the platform "+e.Platform)
		return nil
	case len(sets) == 0:
		return nil
	}
	for i := range sets {
		sets[i].Source = source(e, file)
	}
	q.Sets = append(q.Sets, sets...)
	from.expected = append(from.expected, pipeline.FromFile(file))
	return nil
}

// vmConfig adds what dstack's vm_config says: the file's, or the one beside the
// quote. A check knows no image's hash, so there it is only the sender's word.
func (r *stageRun) vmConfig(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	var given *evidence.File
	if e.VMConfig != "" {
		data, err := r.in.ReadFile(ctx, e.VMConfig, vmConfigLimit)
		if err != nil {
			return err
		}
		given = &evidence.File{Name: e.VMConfig, Data: data}
		from.expected = append(from.expected, pipeline.FromFile(e.VMConfig))
	}
	hash, err := imageHash(e.OSImageHash)
	if err != nil {
		return err
	}
	if err := AddVMConfig(ctx, q, given, hash); errors.Is(err, ErrNoVMConfig) {
		return &pipeline.InputError{Op: "read", File: e.File, Err: err, Hint: q.Field("vm_config", "FILE") + " names one"}
	} else if err != nil {
		return err
	}
	return nil
}

// fileSum is the SHA-256 of a large file: as stage tdx measured it for the
// platform, or else of its own reading. An empty archive is none.
func (r *stageRun) fileSum(ctx context.Context, platform, what, file string, from *judgedFrom) (digest.Digest, error) {
	if d, given, err := givenDigest(file); given || file == "" {
		return d, err
	}
	p := r.in.Config.Platforms[platform]
	if platform != "" && (file == p.Rootfs || file == p.DockerFiles) {
		if m, ok := r.in.Get(pipeline.NewKey("tdx", platform, what)); ok {
			from.expected = append(from.expected, pipeline.FromKey(m.Key))
			return m.Value.Digest(), nil
		}
	}
	s, err := r.in.Sums(ctx, file, false)
	if err != nil || s.Size == 0 && what == "docker-files" {
		return digest.Digest{}, err
	}
	from.expected = append(from.expected, pipeline.FromFile(file))
	return s.SHA256, nil
}
