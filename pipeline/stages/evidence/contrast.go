package evidence

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
)

// Transition hashes a Coordinator's history (an evidence.TransitionFunc).
func Transition(manifests [][]byte) (digest.Digest, error) {
	list := manifest.History(manifests...)
	if err := manifest.CheckHistory(list); err != nil {
		return digest.Digest{}, err
	}
	return list[len(list)-1].Hash(), nil
}

// coordinator is the word for the Coordinator in place of a workload's name, and
// its role in manifests.
const coordinator = "coordinator"

// contrastIdle are the fields that only Contrast's evidence has a use for.
func contrastIdle(e config.Evidence) []field {
	return []field{
		{"workload", e.Workload},
		{"earlier", strings.Join(e.Earlier, "")},
		{"owner_key", strings.Join(e.OwnerKey, "")},
		{"capabilities", e.Capabilities},
	}
}

// contrastInputs reads what a Coordinator or a pod is held against, beside the
// reference values of the manifest, and judges what no register shows.
func (r *stageRun) contrastInputs(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	q.Transition = Transition
	if e.Capabilities != "" {
		data, err := r.in.ReadFile(ctx, e.Capabilities, contrast.MaxCapabilities)
		if err != nil {
			return err
		}
		q.Capabilities = data
		from.bound = append(from.bound, pipeline.FromFile(e.Capabilities))
	}
	if !slices.Contains(asked(e.Only), evidence.Expected) {
		return nil
	}
	c := &contrastCheck{q: q, conf: e}
	before := len(q.Checks)
	if file := cmp.Or(e.Manifest, r.in.Config.Against); file != "" {
		m, err := run.Parsed(ctx, r.in, file, config.JSONLimit, manifest.Parse)
		if err != nil {
			return err
		}
		c.m, c.file = m, file
	}
	for _, file := range e.Earlier {
		data, err := r.in.ReadFile(ctx, file, config.JSONLimit)
		if err != nil {
			return err
		}
		c.earlier = append(c.earlier, evidence.File{Name: file, Data: data})
		from.expected = append(from.expected, pipeline.FromFile(file))
	}
	for _, file := range e.OwnerKey {
		data, err := r.in.ReadFile(ctx, file, config.JSONLimit)
		if err != nil {
			return err
		}
		key, err := manifest.ParseOwnerKey(file, data)
		if err != nil {
			return &pipeline.InputError{Op: "read", File: file, Err: err}
		}
		from.expected = append(from.expected, pipeline.FromFile(file))
		c.ownerKey(file, key)
	}
	for _, d := range q.Evidence.Contrast {
		if d.Kind == contrast.Answer {
			c.history(d)
			c.texts(d)
		}
		c.guest(d)
	}
	c.names()
	c.sendersWord(before, e)
	return nil
}

// sendersWord: where the manifest came with the evidence, that both agree shows
// that they are consistent and no more.
func (c *contrastCheck) sendersWord(before int, e config.Evidence) {
	for _, file := range append([]string{c.file}, append(slices.Clone(e.Earlier), e.OwnerKey...)...) {
		if file == "" || source(e, file) != evidence.Sender {
			continue
		}
		for i := range c.q.Checks[before:] {
			if x := &c.q.Checks[before+i]; x.Verdict == verdict.Pass {
				x.Verdict, x.Optional = verdict.Unchecked, false
				x.Reason += ", but " + file + " came with the evidence and is its sender's word"
			}
		}
		return
	}
}

// contrastCheck holds evidence against one manifest. What it finds goes into the
// checks of its question.
type contrastCheck struct {
	q       *Question
	conf    config.Evidence
	m       *manifest.Manifest // nil: none given
	file    string
	earlier []evidence.File
}

func (c *contrastCheck) none(name string) bool {
	if c.m == nil {
		c.q.Checks.Open(name, "no manifest was given ("+c.q.Field("manifest", "FILE")+")")
	}
	return c.m == nil
}

// ownerKey: a key file that the user holds must be in the manifest.
func (c *contrastCheck) ownerKey(file string, key manifest.OwnerKey) {
	if c.none("owner-key") {
		return
	}
	at, ok := c.m.FindOwnerKey(key)
	c.q.Checks.Judge("owner-key", ok, file+" is the key at "+at+" of "+c.file, file+" (SHA-256 "+key.Digest.Hex()+") is no owner key of "+c.file)
}

// history: the manifest that is in force must be the one given, byte for byte, and
// those before it must be known: what ran under them may hold the secrets.
func (c *contrastCheck) history(d *contrast.Document) {
	checks := &c.q.Checks
	last := d.Manifests[len(d.Manifests)-1]
	switch {
	case c.none("manifest"):
	case bytes.Equal(last, c.m.Raw()):
		checks.Pass("manifest", "the manifest in force is "+c.file+", byte for byte")
	default:
		why := fmt.Sprintf("the manifest in force has the SHA-256 %s, %s has %s", digest.SHA256.Sum(last).Hex(), c.file, digest.SHA256.Sum(c.m.Raw()).Hex())
		if sameValues(last, c.m.Raw()) {
			why += ": the same values in another form (white space or spelling). The Coordinator hashes bytes, so it is another manifest"
		}
		checks.Fail("manifest", why)
	}
	if list := manifest.History(d.Manifests...); manifest.CheckHistory(list) != nil {
		checks.Fail("history", manifest.CheckHistory(list).Error())
	}
	before := d.Manifests[:len(d.Manifests)-1]
	if len(before) == 0 {
		if len(c.earlier) > 0 {
			checks.Fail("history", fmt.Sprintf("the history has one manifest, %d earlier ones were expected: it begins anew, or some are missing", len(c.earlier)))
		} else {
			checks.Pass("history", "the manifest in force is the first one that was set")
		}
		return
	}
	if len(c.earlier) == 0 {
		var sums []string
		for _, m := range before[:min(len(before), 8)] {
			sums = append(sums, digest.SHA256.Sum(m).Hex())
		}
		checks.Open("history", fmt.Sprintf("the manifest in force replaced %d others, which were not compared (%s, oldest first): what ran under them may hold secrets of this deployment. Their SHA-256: %s", len(before), c.q.Field("earlier", "FILE"), strings.Join(sums, ", ")))
		return
	}
	for i := range max(len(before), len(c.earlier)) {
		switch {
		case i >= len(before):
			checks.Fail("history", fmt.Sprintf("%s is not in the history, which has %d manifests before the one in force: a gap", c.earlier[i].Name, len(before)))
			return
		case i >= len(c.earlier):
			checks.Fail("history", fmt.Sprintf("manifest %d of the history (SHA-256 %s) is none of those given: somebody set it in between", i+1, digest.SHA256.Sum(before[i]).Hex()))
			return
		case !bytes.Equal(before[i], c.earlier[i].Data):
			why := fmt.Sprintf("manifest %d of the history has the SHA-256 %s, %s has %s: a fork, or a gap", i+1, digest.SHA256.Sum(before[i]).Hex(), c.earlier[i].Name, digest.SHA256.Sum(c.earlier[i].Data).Hex())
			if sameValues(before[i], c.earlier[i].Data) {
				why = fmt.Sprintf("manifest %d of the history has the values of %s in another form (white space or spelling): it is another manifest", i+1, c.earlier[i].Name)
			}
			checks.Fail("history", why)
			return
		}
	}
	checks.Pass("history", fmt.Sprintf("the %d manifests before the one in force are those given", len(before)))
}

// sameValues reports whether two JSON texts differ in form only.
func sameValues(a, b []byte) bool {
	x, errX := jsondoc.Parse(a, jsondoc.Limits{Bytes: config.JSONLimit})
	y, errY := jsondoc.Parse(b, jsondoc.Limits{Bytes: config.JSONLimit})
	return errX == nil && errY == nil && bytes.Equal(jsondoc.Style{}.Compact(x), jsondoc.Style{}.Compact(y))
}

// texts: every policy text that came along must be one that a manifest of the
// history lists, or it is a policy of nothing.
func (c *contrastCheck) texts(d *contrast.Document) {
	listed := map[string]bool{}
	for i, raw := range d.Manifests {
		m, err := manifest.Parse(fmt.Sprintf("manifest %d of the history", i+1), raw)
		if err != nil {
			c.q.Checks.Open("history", "cannot be read: "+err.Error())
			return
		}
		for _, p := range m.Policies() {
			listed[p.Hash.Hex()] = true
		}
	}
	for _, text := range d.Policies {
		if sum := digest.SHA256.Sum(text).Hex(); !listed[sum] {
			c.q.Checks.Open("policies", "a policy text with the SHA-256 "+sum+" came along, which no manifest of the history lists")
		}
	}
}

// bound is what the host bound to the guest of a document: the hash of its policy.
func boundPolicy(d *contrast.Document) (digest.Digest, error) {
	var raw []byte
	if d.SNP != nil {
		raw = d.SNP.Report.HostData[:]
	} else {
		quote, err := tdxquote.Parse(d.TDX)
		if err != nil {
			return digest.Digest{}, err
		}
		id := quote.Body.MRCONFIGID
		if !bytes.Equal(id[32:], make([]byte, 16)) {
			return digest.Digest{}, fmt.Errorf("MRCONFIGID is %x, want a hash of 32 bytes and 16 zero bytes", id)
		}
		raw = id[:32]
	}
	return digest.FromBytes(digest.SHA256, raw)
}

// guest: which of the manifest's workloads the report is of. An answer must be a
// Coordinator's: any pod of the same manifest has as genuine a report.
func (c *contrastCheck) guest(d *contrast.Document) {
	hash, err := boundPolicy(d)
	if err != nil {
		c.q.Checks.Fail("workload", err.Error())
		return
	}
	if c.none("workload") {
		return
	}
	var found []manifest.Policy
	for _, p := range c.m.Policies() {
		if !p.Hash.IsZero() && p.Hash == hash {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0:
		c.q.Checks.Fail("workload", fmt.Sprintf("the %s: the host bound %s, which is no policy of %s", d.Kind, hash.Hex(), c.file))
		return
	case len(found) > 1:
		c.q.Checks.Open("workload", fmt.Sprintf("the %s: %s lists the policy %s %d times, so whose it is, is not clear", d.Kind, c.file, hash.Hex(), len(found)))
		return
	}
	p := found[0]
	if d.Kind == contrast.Answer {
		c.q.Checks.Judge("role", p.Role == coordinator, "the answer comes from a guest with the Coordinator's policy ("+policyName(p)+")",
			"the answer comes from the workload "+policyName(p)+", whose policy has not the role of the Coordinator")
	}
	switch {
	case c.conf.Workload == "" && d.Kind == contrast.Answer:
	case c.conf.Workload == "":
		c.q.Checks.Open("workload", "the certificate is that of "+policyName(p)+"; which one was meant was not said ("+c.q.Field("workload", "NAME")+")")
	default:
		c.q.Checks.Judge("workload", isWorkload(p, c.conf.Workload), "the "+string(d.Kind)+" is that of "+policyName(p)+", as "+c.q.Field("workload", c.conf.Workload)+" wants",
			fmt.Sprintf("the %s is that of %s, wanted is %s", d.Kind, policyName(p), c.conf.Workload))
	}
}

// policyName names a policy as people do.
func policyName(p manifest.Policy) string {
	name := cmp.Or(p.WorkloadSecretID, strings.Join(p.SANs, ", "), p.HashText)
	if p.Role != "" {
		name += " (role " + p.Role + ")"
	}
	return name
}

// isWorkload: a workload is named by its policy's hash, its WorkloadSecretID, the
// name in that or its first SAN; the Coordinator by its role.
func isWorkload(p manifest.Policy, name string) bool {
	if name == coordinator && p.Role != "" {
		return p.Role == coordinator
	}
	if strings.EqualFold(p.HashText, name) || p.WorkloadSecretID != "" && p.WorkloadSecretID == name {
		return true
	}
	if w, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); ok {
		return w.Name == name // not what else its certificate may be called
	}
	return len(p.SANs) > 0 && p.SANs[0] == name && name != "*"
}

// names: the certificate of a connection that the Mesh CA issued has the names of
// one workload of the manifest, and of no other.
func (c *contrastCheck) names() {
	if c.q.Evidence.Contrast[0].Kind != contrast.Answer {
		return
	}
	for _, chain := range c.q.Leaves() {
		if c.none("names") {
			return
		}
		leaf := chain[0]
		got := leafNames(leaf)
		var fits []manifest.Policy
		for _, p := range c.m.Policies() {
			if want := slices.Compact(slices.Sorted(slices.Values(p.SANs))); slices.Equal(want, got) && len(got) > 0 {
				fits = append(fits, p)
			}
		}
		shown := fmt.Sprintf("%q", got)
		switch {
		case len(fits) == 0:
			c.q.Checks.Fail("names", "the certificate of the connection is for "+shown+", which are the SANs of no workload of "+c.file)
			continue
		case len(fits) > 1:
			c.q.Checks.Open("names", fmt.Sprintf("the certificate of the connection is for %s, the SANs of %d workloads of %s", shown, len(fits), c.file))
		default:
			c.q.Checks.Pass("names", "the certificate of the connection has the SANs of "+policyName(fits[0])+": "+shown)
		}
		c.secret(leaf, fits)
	}
}

// leafNames are the names in a certificate, sorted.
func leafNames(leaf *x509.Certificate) []string {
	got := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		got = append(got, ip.String())
	}
	for _, u := range leaf.URIs {
		got = append(got, u.String())
	}
	got = append(got, leaf.EmailAddresses...)
	slices.Sort(got)
	return slices.Compact(got)
}

// secret: a mesh certificate may name the workload's secret.
func (c *contrastCheck) secret(leaf *x509.Certificate, fits []manifest.Policy) {
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(contrast.OIDWorkloadSecret) {
			continue
		}
		id := string(e.Value)
		var text string
		if rest, err := asn1.Unmarshal(e.Value, &text); err == nil && len(rest) == 0 {
			id = text
		}
		ok := slices.ContainsFunc(fits, func(p manifest.Policy) bool { return p.WorkloadSecretID == id })
		c.q.Checks.Judge("workload-secret", ok, "the certificate of the connection names the WorkloadSecretID "+id,
			fmt.Sprintf("the certificate of the connection names the WorkloadSecretID %.200q, the workload of its SANs has another", id))
	}
}

// maxVCPUs is how many vCPUs Contrast's verifier tries.
const maxVCPUs = 220

// furtherCPUs makes a set of an entry with an APEIP hold for the machine that it
// is held against: the digest of such an entry is the one for a single vCPU, from
// which that of every machine with more follows.
func furtherCPUs(ctx context.Context, e *manifest.SNPEntry, set *evidence.ReferenceSet, rep *snpreport.Report) error {
	if e.APEIP == nil {
		return nil
	}
	one := set.Registers[evidence.Measurement]
	if one == rep.Measurement {
		return nil
	}
	var eip uint32
	if n, err := fmt.Sscanf(*e.APEIP, "%08x", &eip); n != 1 || err != nil || len(*e.APEIP) != 8 {
		return nil // validation's to say
	}
	cpu, err := snpmeasure.CPUOfType("EPYC-" + e.ProductName)
	if err != nil {
		return nil // likewise
	}
	ladder, err := snpmeasure.ExtendLadder(ctx, one, eip, snpmeasure.Config{VMM: snpmeasure.QEMU, CPU: cpu, Features: 1}, maxVCPUs)
	if err != nil {
		return err
	}
	if i := slices.Index(ladder, rep.Measurement); i > 0 {
		set.Registers[evidence.Measurement] = ladder[i]
		set.Name = fmt.Sprintf("%s with %d vCPUs", set.Name, i+1)
	}
	return nil
}
