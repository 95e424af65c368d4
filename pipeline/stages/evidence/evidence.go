// Package evidence is the stage that judges what machines showed of themselves.
package evidence

import (
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
func Stage() run.Stage {
	return run.Stage{Name: "evidence", Version: 2, After: []string{"tdx"}, Fill: fill, Check: check, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Evidence)) {
		e := c.Evidence[name]
		key := func(what string) string { return string(pipeline.NewKey("evidence", name, what)) }
		lines = append(lines, run.PlanLine{Key: key("authentic"), From: e.File + " at " + e.At})
		given := func(list ...string) string {
			return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), ", ")
		}
		from := given(worded("platform", e.Platform), e.Registry, e.Compose, e.Rootfs, e.VMConfig, worded("os_image_hash", e.OSImageHash), c.Against)
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
	in        *run.In
	out       *run.Out
	published *manifest.Manifest
	read      map[string]*evidence.Bundle // by file
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	r := &stageRun{in: in, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}, read: map[string]*evidence.Bundle{}}
	if len(in.Config.Evidence) == 0 {
		return r.out, nil
	}
	if file := in.Config.Against; file != "" {
		var err error
		if r.published, err = run.Parsed(ctx, in, file, config.JSONLimit, manifest.Parse); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Config.Evidence)) {
		if err := r.judge(ctx, name, in.Config.Evidence[name]); err != nil {
			return nil, fmt.Errorf("evidence %s: %w", name, err)
		}
	}
	return r.out, nil
}

// judge judges one entry.
func (r *stageRun) judge(ctx context.Context, name string, e config.Evidence) error {
	req, from, err := r.request(ctx, e)
	if err != nil {
		return err
	}
	res, err := evidence.Verify(*req)
	if err != nil {
		return err
	}
	if e.IntelRoot != "" {
		r.out.TestRoots = append(r.out.TestRoots, e.IntelRoot)
		r.out.Problems = append(r.out.Problems, pipeline.Problem{
			Level: pipeline.LevelWarning, Code: "evidence-test-root", Where: pipeline.Where{File: e.File},
			Msg:  fmt.Sprintf("evidence %s was judged under the test root %s in place of Intel's: that it is authentic means nothing outside of this test", name, e.IntelRoot),
			Hint: "take intel_root away for the evidence of a real machine",
		})
	}
	j := &judged{run: r, name: name, conf: e, req: req, res: res, from: from}
	j.checks("authentic", res.Authentic)
	j.checks("expected", res.Expected)
	j.checks("bound", res.Bound)
	registers := j.registers()
	j.judgement("authentic", res.Authentic, from.authentic)
	j.judgement("expected", res.Expected, slices.Concat(registers, from.expected))
	j.judgement("bound", res.Bound, from.bound)
	if res.Expected.Verdict == verdict.Fail {
		return j.whyRegisters(ctx)
	}
	return nil
}

// judgedFrom are the inputs of each judgement.
type judgedFrom struct{ authentic, expected, bound []pipeline.InputRef }

// request reads everything that an entry names.
func (r *stageRun) request(ctx context.Context, e config.Evidence) (*evidence.Request, *judgedFrom, error) {
	at, err := time.Parse(time.RFC3339, e.At)
	if err != nil {
		return nil, nil, err
	}
	req := &evidence.Request{Profile: evidence.Profile(e.Profile), At: at, AcceptTCB: e.AcceptTCB, RTMR3: RTMR3, Replay: Replay}
	from := &judgedFrom{authentic: []pipeline.InputRef{pipeline.FromFile(e.File)}}
	if req.Evidence, err = r.bundle(ctx, e.File); err != nil {
		return nil, nil, err
	}
	if e.GPU != "" {
		gpu, err := r.bundle(ctx, e.GPU)
		if err != nil {
			return nil, nil, err
		}
		if req.Evidence, err = evidence.Merge(req.Evidence, gpu); err != nil {
			return nil, nil, err
		}
		from.authentic = append(from.authentic, pipeline.FromFile(e.GPU))
	}
	if err := r.authenticInputs(ctx, e, req, from); err != nil {
		return nil, nil, err
	}
	if err := r.expectedInputs(ctx, e, req, from); err != nil {
		return nil, nil, err
	}
	from.bound = []pipeline.InputRef{pipeline.FromFile(e.File)}
	if e.TLSCert != "" {
		if req.TLSCert, err = r.certificate(ctx, e.TLSCert); err != nil {
			return nil, nil, err
		}
		from.bound = append(from.bound, pipeline.FromFile(e.TLSCert))
	}
	if e.Nonce != "" {
		if req.Nonce, err = hex.DecodeString(e.Nonce); err != nil {
			return nil, nil, err
		}
	}
	return req, from, nil
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
	info, err := os.Stat(r.in.Path(file))
	if err != nil {
		return nil, pipeline.NewInputError("read", file, err)
	}
	var b *evidence.Bundle
	if info.IsDir() {
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

func (r *stageRun) authenticInputs(ctx context.Context, e config.Evidence, req *evidence.Request, from *judgedFrom) error {
	if e.Collateral != "" {
		data, err := r.in.ReadFile(ctx, e.Collateral, tdxquote.MaxCollateral)
		if err != nil {
			return err
		}
		if err := req.TakeCollateral(e.Collateral, data); err != nil {
			return &pipeline.InputError{Op: "read", File: e.Collateral, Err: err}
		}
		from.authentic = append(from.authentic, pipeline.FromFile(e.Collateral))
	}
	for _, text := range e.MRSEAM {
		d, err := digest.ParseHex(digest.SHA384, strings.ToLower(text))
		if err != nil {
			return err
		}
		req.MRSEAM = append(req.MRSEAM, d)
	}
	if e.IntelRoot != "" {
		root, err := r.certificate(ctx, e.IntelRoot)
		if err != nil {
			return err
		}
		req.IntelRoots = []*x509.Certificate{root}
		from.authentic = append(from.authentic, pipeline.FromFile(e.IntelRoot))
	}
	return nil
}

// expectedInputs gathers what a machine must be: the registers recomputed for
// its platform are one group of sets, the registry's rows another, the
// published manifest a third. Each must have a set that fits as a whole.
func (r *stageRun) expectedInputs(ctx context.Context, e config.Evidence, req *evidence.Request, from *judgedFrom) error {
	if e.Registry != "" {
		registry, err := run.Parsed(ctx, r.in, e.Registry, evidence.MaxRegistry, evidence.ParseRegistry)
		if err != nil {
			return err
		}
		req.Registry = registry
		from.expected = append(from.expected, pipeline.FromFile(e.Registry))
	}
	if e.Compose != "" {
		data, err := r.in.ReadFile(ctx, e.Compose, config.ComposeLimit)
		if err != nil {
			return err
		}
		req.Compose = &evidence.File{Name: e.Compose, Data: data}
		from.expected = append(from.expected, pipeline.FromFile(e.Compose))
	}
	var err error
	if req.AppID, err = config.ParseAppID(e.AppID); err != nil {
		return err
	}
	if req.Rootfs, err = r.fileSum(ctx, e.Platform, "rootfs", e.Rootfs, from); err != nil {
		return err
	}
	if req.DockerFiles, err = r.fileSum(ctx, e.Platform, "docker-files", e.DockerFiles, from); err != nil {
		return err
	}
	artifacts := evidence.ReferenceSet{Group: "artifacts", Name: "platform " + e.Platform, Registers: map[evidence.Register]digest.Digest{}, Rootfs: req.Rootfs}
	if e.Platform != "" {
		for _, name := range tdx.Registers {
			if m, ok := r.in.Get(pipeline.NewKey("tdx", e.Platform, name)); ok {
				artifacts.Registers[evidence.Register(name)] = m.Value.Digest()
				from.expected = append(from.expected, pipeline.FromKey(m.Key))
			}
		}
	}
	if len(artifacts.Registers) > 0 {
		req.Sets = append(req.Sets, artifacts)
		req.Rootfs = digest.Digest{} // it is part of the set
	}
	sets, open, err := r.manifestSets(e)
	if err != nil {
		return err
	}
	if len(sets) > 0 {
		req.Sets, req.ExpectedChecks = append(req.Sets, sets...), append(req.ExpectedChecks, open...)
		from.expected = append(from.expected, pipeline.FromFile(r.in.Config.Against))
	}
	return r.vmConfig(ctx, e, req, from)
}

// vmConfig adds what dstack's vm_config says: the file's, or the one beside the
// quote. A check knows no image's hash, so there it is only the sender's word.
func (r *stageRun) vmConfig(ctx context.Context, e config.Evidence, req *evidence.Request, from *judgedFrom) error {
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
	if err := AddVMConfig(ctx, req, given, hash); errors.Is(err, ErrNoVMConfig) {
		return &pipeline.InputError{Op: "read", File: e.File, Err: err, Hint: "vm_config: FILE names one, beside os_image_hash"}
	} else if err != nil {
		return err
	}
	return nil
}

// fileSum is the SHA-256 of a large file: as stage tdx measured it for the
// platform, or else of its own reading. An empty archive is none.
func (r *stageRun) fileSum(ctx context.Context, platform, what, file string, from *judgedFrom) (digest.Digest, error) {
	if file == "" {
		return digest.Digest{}, nil
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

// manifestSets are the published manifest's machines that an entry may be of:
// the ones of its platform's name, or, where no platform is named, all.
func (r *stageRun) manifestSets(e config.Evidence) ([]evidence.ReferenceSet, []verdict.Check, error) {
	if r.published == nil || len(r.published.TDX()) == 0 || e.Platform == "" && e.Profile != "" && e.Profile != string(evidence.TDX) {
		return nil, nil, nil
	}
	sets, open, err := ManifestSets(r.in.Config.Against, r.published)
	if e.Platform != "" {
		sets = slices.DeleteFunc(sets, func(s evidence.ReferenceSet) bool { return !strings.EqualFold(s.Name, e.Platform) })
	}
	return sets, open, err
}
