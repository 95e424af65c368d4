package pipeline

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
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/tdxmeasure"
)

// evidenceStage judges what machines showed of themselves. Three values are
// published by the claim that a machine is genuine, what it should be, and the
// one that answers: authentic, expected and bound must each be "pass".
var evidenceStage = Stage{Name: "evidence", Version: 1, Run: runEvidence, Plan: planEvidence}

func planEvidence(c *Config) []PlanLine {
	var lines []PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Evidence)) {
		e := c.Evidence[name]
		key := func(what string) string { return string(NewKey("evidence", name, what)) }
		lines = append(lines, PlanLine{Key: key("authentic"), From: e.File + " at " + e.At})
		given := func(list ...string) string {
			return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), ", ")
		}
		from := given(worded("platform", e.Platform), e.Registry, e.Compose, e.Rootfs, e.VMConfig, worded("os_image_hash", e.OSImageHash), c.Against)
		if from != "" {
			lines = append(lines, PlanLine{Key: key("expected"), From: from})
		} else {
			lines = append(lines, PlanLine{Key: key("expected"), Missing: "values to compare with", How: "evidence." + name + ".platform: NAME, or registry: tdx.csv with compose: FILE"})
		}
		switch {
		case e.TLSCert != "" || e.Nonce != "":
			lines = append(lines, PlanLine{Key: key("bound"), From: given(e.TLSCert, worded("nonce", e.Nonce))})
		default:
			lines = append(lines, PlanLine{Key: key("bound"), Missing: "certificate or nonce, unless " + e.File + " is a capture", How: "evidence." + name + ".tls_cert: FILE, the certificate of the machine's connection, or nonce: HEX"})
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

// evidenceRun collects what the stage finds.
type evidenceRun struct {
	in        *In
	out       *Out
	published *manifest.Manifest
	read      map[string]*evidence.Bundle // by file
}

func runEvidence(ctx context.Context, in *In) (*Out, error) {
	r := &evidenceRun{in: in, out: &Out{Causes: map[Key][]Cause{}, Notes: map[Key]string{}}, read: map[string]*evidence.Bundle{}}
	if len(in.Config.Evidence) == 0 {
		return r.out, nil
	}
	if file := in.Config.Against; file != "" {
		data, err := in.ReadFile(ctx, file, jsonLimit)
		if err != nil {
			return nil, err
		}
		if r.published, err = manifest.Parse(file, data); err != nil {
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
func (r *evidenceRun) judge(ctx context.Context, name string, e EvidenceConfig) error {
	req, from, err := r.request(ctx, e)
	if err != nil {
		return err
	}
	res, err := evidence.Verify(*req)
	if err != nil {
		return err
	}
	if e.IntelRoot != "" {
		r.out.Problems = append(r.out.Problems, Problem{
			Level: LevelWarning, Code: "evidence-test-root", Where: Where{File: e.File},
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
type judgedFrom struct{ authentic, expected, bound []InputRef }

// request reads everything that an entry names.
func (r *evidenceRun) request(ctx context.Context, e EvidenceConfig) (*evidence.Request, *judgedFrom, error) {
	at, err := time.Parse(time.RFC3339, e.At)
	if err != nil {
		return nil, nil, err
	}
	req := &evidence.Request{Profile: evidence.Profile(e.Profile), At: at, AcceptTCB: e.AcceptTCB, RTMR3: EvidenceRTMR3, Replay: EvidenceReplay}
	from := &judgedFrom{authentic: []InputRef{FromFile(e.File)}}
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
		from.authentic = append(from.authentic, FromFile(e.GPU))
	}
	if err := r.authenticInputs(ctx, e, req, from); err != nil {
		return nil, nil, err
	}
	if err := r.expectedInputs(ctx, e, req, from); err != nil {
		return nil, nil, err
	}
	from.bound = []InputRef{FromFile(e.File)}
	if e.TLSCert != "" {
		if req.TLSCert, err = r.certificate(ctx, e.TLSCert); err != nil {
			return nil, nil, err
		}
		from.bound = append(from.bound, FromFile(e.TLSCert))
	}
	if e.Nonce != "" {
		if req.Nonce, err = hex.DecodeString(e.Nonce); err != nil {
			return nil, nil, err
		}
	}
	return req, from, nil
}

func (r *evidenceRun) certificate(ctx context.Context, file string) (*x509.Certificate, error) {
	data, err := r.in.ReadFile(ctx, file, tdxquote.MaxSize)
	if err != nil {
		return nil, err
	}
	return evidence.ReadCertificate(file, data)
}

// bundle reads an evidence file or a capture folder, each once.
func (r *evidenceRun) bundle(ctx context.Context, file string) (*evidence.Bundle, error) {
	if b := r.read[file]; b != nil {
		return b, nil
	}
	info, err := os.Stat(r.in.reader.Path(file))
	if err != nil {
		return nil, inputError("read", file, err)
	}
	var b *evidence.Bundle
	if info.IsDir() {
		err = r.in.ReadTree(file, func(path string) (digest.Digest, int64, error) {
			fsys := newSummedFS(path)
			var err error
			b, err = evidence.ReadCapture(file, fsys)
			id, n := fsys.identity()
			return id, n, err
		})
	} else {
		var data []byte
		if data, err = r.in.ReadFile(ctx, file, evidence.MaxFile); err == nil {
			b, err = evidence.Read(file, data)
		}
	}
	if err == nil && b == nil {
		err = &InputError{Op: "read", File: file, Err: errors.New("was read before as something else than evidence")}
	}
	if err != nil {
		return nil, err
	}
	r.read[file] = b
	return b, nil
}

func (r *evidenceRun) authenticInputs(ctx context.Context, e EvidenceConfig, req *evidence.Request, from *judgedFrom) error {
	if e.Collateral != "" {
		data, err := r.in.ReadFile(ctx, e.Collateral, tdxquote.MaxCollateral)
		if err != nil {
			return err
		}
		if err := req.TakeCollateral(e.Collateral, data); err != nil {
			return &InputError{Op: "read", File: e.Collateral, Err: err}
		}
		from.authentic = append(from.authentic, FromFile(e.Collateral))
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
		from.authentic = append(from.authentic, FromFile(e.IntelRoot))
	}
	return nil
}

// expectedInputs gathers what a machine must be: the registers recomputed for
// its platform are one group of sets, the registry's rows another, the
// published manifest a third. Each must have a set that fits as a whole.
func (r *evidenceRun) expectedInputs(ctx context.Context, e EvidenceConfig, req *evidence.Request, from *judgedFrom) error {
	if e.Registry != "" {
		registry, err := readRegistry(ctx, r.in, e.Registry)
		if err != nil {
			return err
		}
		req.Registry = registry
		from.expected = append(from.expected, FromFile(e.Registry))
	}
	if e.Compose != "" {
		data, err := r.in.ReadFile(ctx, e.Compose, composeLimit)
		if err != nil {
			return err
		}
		req.Compose = &evidence.File{Name: e.Compose, Data: data}
		from.expected = append(from.expected, FromFile(e.Compose))
	}
	var err error
	if req.AppID, err = ParseAppID(e.AppID); err != nil {
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
		for _, name := range registerKeys {
			if m, ok := r.in.Get(NewKey("tdx", e.Platform, name)); ok {
				artifacts.Registers[evidence.Register(name)] = m.Value.Digest()
				from.expected = append(from.expected, FromKey(m.Key))
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
		from.expected = append(from.expected, FromFile(r.in.Config.Against))
	}
	return r.vmConfig(ctx, e, req, from)
}

// vmConfig adds what dstack's vm_config says: the file's, or the one beside the
// quote. A check knows no image's hash, so there it is only the sender's word.
func (r *evidenceRun) vmConfig(ctx context.Context, e EvidenceConfig, req *evidence.Request, from *judgedFrom) error {
	var given *evidence.File
	if e.VMConfig != "" {
		data, err := r.in.ReadFile(ctx, e.VMConfig, vmConfigLimit)
		if err != nil {
			return err
		}
		given = &evidence.File{Name: e.VMConfig, Data: data}
		from.expected = append(from.expected, FromFile(e.VMConfig))
	}
	hash, err := imageHash(e.OSImageHash)
	if err != nil {
		return err
	}
	if err := AddEvidenceVMConfig(ctx, req, given, hash); errors.Is(err, ErrNoVMConfig) {
		return &InputError{Op: "read", File: e.File, Err: err, Hint: "vm_config: FILE names one, beside os_image_hash"}
	} else if err != nil {
		return err
	}
	return nil
}

// fileSum is the SHA-256 of a large file: as stage tdx measured it for the
// platform, or else of its own reading. An empty archive is none.
func (r *evidenceRun) fileSum(ctx context.Context, platform, what, file string, from *judgedFrom) (digest.Digest, error) {
	if file == "" {
		return digest.Digest{}, nil
	}
	p := r.in.Config.Platforms[platform]
	if platform != "" && (file == p.Rootfs || file == p.DockerFiles) {
		if m, ok := r.in.Get(NewKey("tdx", platform, what)); ok {
			from.expected = append(from.expected, FromKey(m.Key))
			return m.Value.Digest(), nil
		}
	}
	s, err := r.in.sums(ctx, file, false)
	if err != nil || s.Size == 0 && what == "docker-files" {
		return digest.Digest{}, err
	}
	from.expected = append(from.expected, FromFile(file))
	return s.SHA256, nil
}

// manifestSets are the published manifest's machines that an entry may be of:
// the ones of its platform's name, or, where no platform is named, all.
func (r *evidenceRun) manifestSets(e EvidenceConfig) ([]evidence.ReferenceSet, []verdict.Check, error) {
	if r.published == nil || len(r.published.TDX()) == 0 || e.Platform == "" && e.Profile != "" && e.Profile != string(evidence.TDX) {
		return nil, nil, nil
	}
	sets, open, err := EvidenceManifestSets(r.in.Config.Against, r.published)
	if e.Platform != "" {
		sets = slices.DeleteFunc(sets, func(s evidence.ReferenceSet) bool { return !strings.EqualFold(s.Name, e.Platform) })
	}
	return sets, open, err
}

// judged is an entry with its result.
type judged struct {
	run  *evidenceRun
	name string
	conf EvidenceConfig
	req  *evidence.Request
	res  *evidence.Result
	from *judgedFrom
}

func (j *judged) key(parts ...string) Key {
	return NewKey(append([]string{"evidence", j.name}, parts...)...)
}

// basis is how what a quote says is known: endorsed where the quote is
// authentic, otherwise anybody could have written it.
func (j *judged) basis() Basis {
	if j.res.Authentic.Verdict == verdict.Pass {
		return Endorsed
	}
	return Copied
}

// fieldsForFlags turns the flags that the room's reasons name into the fields
// of the configuration.
var fieldsForFlags = strings.NewReplacer(
	"--tls-cert FILE", "tls_cert: FILE", "--nonce HEX", "nonce: HEX", "--collateral FILE", "collateral: FILE", "--docker-compose FILE", "compose: FILE",
	"--docker-files FILE", "docker_files: FILE", "--registry FILE", "registry: FILE", "--rootfs FILE", "rootfs: FILE", "--manifest FILE", "against: FILE",
	"--vm-config FILE", "vm_config: FILE", "--os-image-hash HEX", "os_image_hash: HEX", "--measured FILE", "platform: NAME",
)

func reasonOf(c verdict.Check) string { return fieldsForFlags.Replace(c.Reason) }

// checks adds every check that was made as a value of its own, and says which
// optional ones were not.
func (j *judged) checks(what string, judgement verdict.Judgement) {
	out := j.run.out
	seen := map[string]int{}
	for _, c := range judgement.Checks {
		if c.Verdict == verdict.Unchecked {
			if c.Optional && c.Name != "authentic" {
				out.Problems = append(out.Problems, Problem{Level: LevelNote, Code: "evidence-" + c.Name, Where: Where{File: j.conf.File}, Msg: fmt.Sprintf("evidence %s: %s: %s", j.name, c.Name, reasonOf(c))})
			}
			continue
		}
		name := c.Name
		if seen[c.Name]++; seen[c.Name] > 1 {
			name = fmt.Sprintf("%s:%d", c.Name, seen[c.Name])
		}
		out.Measurements = append(out.Measurements, Measurement{
			Key: j.key(what, name), Value: OfText(string(c.Verdict)), Basis: j.basis(), Inputs: []InputRef{FromFile(j.conf.File)}, Note: reasonOf(c),
		})
	}
}

// registers adds the quote's registers.
func (j *judged) registers() []InputRef {
	q := j.res.Claims.Quote
	if q == nil {
		return nil
	}
	var refs []InputRef
	for i, text := range []string{q.MRTD, q.RTMR0, q.RTMR1, q.RTMR2, q.RTMR3} {
		d, err := digest.ParseHex(digest.SHA384, text)
		if err != nil {
			continue
		}
		key := j.key(registerKeys[i])
		j.run.out.Measurements = append(j.run.out.Measurements, Measurement{Key: key, Value: OfDigest(d), Basis: j.basis(), Inputs: []InputRef{FromFile(j.conf.File)}, Note: "as the quote says"})
		refs = append(refs, FromKey(key))
	}
	return refs
}

// judgementWords say what each judgement asks.
var judgementWords = map[string]string{
	"authentic": "who signed the evidence, and whether the protection is on",
	"expected":  "whether the machine runs what it should",
	"bound":     "whether the evidence is of this connection",
}

// judgement publishes "pass" and adds what came out. What could not be checked
// has no value: it stays unchecked.
func (j *judged) judgement(what string, v verdict.Judgement, inputs []InputRef) {
	out, key := j.run.out, j.key(what)
	out.References = append(out.References, Reference{
		Key: key, Relation: Equal, Want: OfText(string(verdict.Pass)), Where: Where{File: j.conf.File}, Words: j.name + ": " + judgementWords[what],
	})
	if v.Verdict == verdict.Unchecked {
		var open []string
		for _, c := range v.Checks {
			if c.Verdict == verdict.Unchecked && c.Name != "authentic" {
				open = append(open, c.Name+": "+reasonOf(c))
			}
		}
		out.Notes[key] = strings.Join(open, "; ")
		return
	}
	m := Measurement{Key: key, Value: OfText(string(v.Verdict)), Basis: j.basis(), Inputs: slices.Clone(inputs)}
	if what == "expected" && v.Verdict == verdict.Pass && j.basis() == Endorsed && j.res.Claims.Release != "" {
		m.Note = "release " + j.res.Claims.Release
		out.Facts = append(out.Facts, fmt.Sprintf("%s: a quote of release %s", j.conf.File, j.res.Claims.Release))
	}
	if what != "authentic" {
		m.Inputs = append(m.Inputs, FromKey(j.key("authentic")))
	}
	out.Measurements = append(out.Measurements, m)
	if v.Verdict == verdict.Fail {
		j.causes(what, key, v)
	}
}

// causes gives each failed check. They are all of the reasons, and therefore
// proved, unless a required check could not be made.
func (j *judged) causes(what string, key Key, v verdict.Judgement) {
	standing := Proved
	for _, c := range v.Checks {
		if c.Verdict == verdict.Unchecked && !c.Optional {
			standing = Suspected
		}
	}
	// What names the compose file says more than what only lists registers.
	checks := slices.Clone(v.Checks)
	slices.SortStableFunc(checks, func(a, b verdict.Check) int {
		switch {
		case a.Name == b.Name:
			return 0
		case a.Name == "compose":
			return -1
		case b.Name == "compose":
			return 1
		}
		return 0
	})
	for _, c := range checks {
		if c.Verdict != verdict.Fail {
			continue
		}
		cause := Cause{Path: []string{string(key), c.Name}, Note: c.Name + ": " + reasonOf(c), Standing: standing, Where: Where{File: j.conf.File}}
		switch {
		case what == "authentic":
			cause.Hint = "evidence-authentic"
		case what == "bound":
			cause.Hint = "evidence-bound"
		case c.Name == "compose":
			cause.Hint = "evidence-compose"
		default:
			cause.Hint = "evidence-expected"
		}
		j.run.out.Causes[key] = append(j.run.out.Causes[key], cause)
	}
}

// whyRegisters looks for the deviation of the platform that turns what was
// computed into what the quote says, and, where an event log lies beside the
// quote, for the first event that differs.
func (j *judged) whyRegisters(ctx context.Context) error {
	if j.conf.Platform == "" || j.res.Claims.Quote == nil || j.res.Authentic.Verdict != verdict.Pass {
		return nil
	}
	key := j.key("expected")
	got := map[string]digest.Digest{}
	for _, m := range j.run.out.Measurements {
		for _, name := range registerKeys {
			if m.Key == j.key(name) {
				got[name] = m.Value.Digest()
			}
		}
	}
	var differing []Measurement
	for _, name := range registerKeys {
		m, ok := j.run.in.Get(NewKey("tdx", j.conf.Platform, name))
		if ok && m.Value.Digest() != got[name] {
			differing = append(differing, m)
		}
	}
	if len(differing) == 0 {
		return nil
	}
	machine, err := openMachine(ctx, j.run.in, j.conf.Platform)
	if err != nil {
		return err
	}
	machine.takeRows(j.req.Registry)
	logged := j.logged()
	for _, m := range differing {
		name := registerOf(m.Key)
		i := slices.Index(registerKeys[:], name)
		c, err := machine.cause(ctx, j.run.in, i, m.Key, m.Value.Digest(), got[name], Where{File: j.conf.File})
		if err != nil {
			return errors.Join(err, machine.Close())
		}
		j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
		if i > 0 && logged != nil && m.Trace != nil {
			if c, ok := firstDifference(m, &logged.Trace[i-1], j.conf.File); ok {
				j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
			}
		}
	}
	return machine.Close()
}

// logged is the event log beside the quote, where it folds to the quote's
// registers: another log says nothing.
func (j *judged) logged() *tdxmeasure.Replayed {
	if j.req.Evidence.EventLog == nil {
		return nil
	}
	folded, _, err := tdxmeasure.ReplayLog("event log", j.req.Evidence.EventLog)
	if err != nil {
		return nil
	}
	q := j.res.Claims.Quote
	for i, text := range []string{q.RTMR0, q.RTMR1, q.RTMR2, q.RTMR3} {
		if folded.RTMR[i].Hex() != text {
			return nil
		}
	}
	return folded
}

// firstDifference names the first event in which a computed register and the
// machine's own log differ.
func firstDifference(m Measurement, log *tdxmeasure.Trace, file string) (Cause, bool) {
	var ours tdxmeasure.Trace
	for _, e := range m.Trace.Events {
		ours.Events = append(ours.Events, tdxmeasure.Event{Label: e.Label, Digest: e.Digest})
	}
	i, a, b := tdxmeasure.FirstDifference(ours, *log)
	if i < 0 {
		return Cause{}, false
	}
	event := func(events []tdxmeasure.Event) string {
		if i < len(events) {
			return events[i].Digest.String()
		}
		return ""
	}
	label := a
	if label == "" {
		label = b
	}
	return Cause{
		Path: []string{string(m.Key), fmt.Sprintf("event %d", i), label}, Expected: event(ours.Events), Actual: event(log.Events), Standing: Suspected, Hint: "tdx-firmware-events", Where: Where{File: file},
		Note: fmt.Sprintf("the first event that differs is %d: computed %s, in the machine's log %s", i, eventLabel(a), eventLabel(b)),
	}, true
}

func eventLabel(label string) string {
	if label == "" {
		return "(none)"
	}
	return label
}
