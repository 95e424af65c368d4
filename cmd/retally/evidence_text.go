package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// evidenceView is a judgement as it is printed: what was judged, what the report
// made of it, and the circumstances that neither knows.
type evidenceView struct {
	*evidence.Result
	Expected verdict.Judgement `json:"expected"`
	// Asked names the verdicts that were asked for.
	Asked []string `json:"asked"`
	// Verdict is the report's outcome in the words of verdicts.
	Verdict verdict.Verdict `json:"verdict"`
	// AtNow: the time is the clock's, so the result depends on the day.
	AtNow bool `json:"at_now"`
	// TestRoots names whose roots were replaced by ones given on the command
	// line. What is authentic then is so by nobody's word.
	TestRoots []string `json:"test_roots"`
	// Missing says which flags would turn an open verdict into one.
	Missing string `json:"missing,omitempty"`

	testRootOK bool
}

func newEvidenceView(j *evidencestage.Judged, rep *pipeline.Report, f *evidenceFlags) *evidenceView {
	v := &evidenceView{Result: j.Result, Expected: j.Expected, Asked: j.Asked(), Verdict: verdict.Unchecked, AtNow: f.atNow, TestRoots: j.Result.TestRoots(), testRootOK: f.testRootOK}
	switch rep.Outcome {
	case pipeline.OutcomeMatch:
		v.Verdict = verdict.Pass
	case pipeline.OutcomeDiffers:
		v.Verdict = verdict.Fail
	}
	v.Missing = missingEvidence(v, j.Request)
	return v
}

// missingEvidence says what would turn an open judgement into a verdict.
func missingEvidence(v *evidenceView, r *evidence.Request) string {
	var add []string
	expected, bound := slices.Contains(v.Asked, evidence.Expected), slices.Contains(v.Asked, evidence.Bound)
	switch {
	case v.Verdict == verdict.Fail || v.Profile == evidence.NVIDIA:
		return ""
	case !expected:
	case v.Profile == evidence.TPM || v.Profile == evidence.BlindLlama:
		if len(r.Golden) == 0 {
			add = append(add, "--golden golden.json")
		}
		if tpm := r.Evidence.TPM; tpm != nil && tpm.HCL != nil && len(r.Paravisors) == 0 {
			add = append(add, map[hcl.Type]string{hcl.SNP: "--measurement HEX", hcl.TDX: "--mrtd HEX"}[tpm.HCL.Type])
		}
		if v.Profile == evidence.BlindLlama && r.AppRoot.IsZero() {
			add = append(add, "--app-root HEX")
		}
	case v.Profile == evidence.Contrast:
		if len(r.Sets) == 0 {
			add = append(add, "--manifest manifest.json")
		}
		if v.Expected.Verdict == verdict.Unchecked {
			add = append(add, contrastOpen(v)...)
		}
	case v.SNP != nil:
		if len(r.Sets) == 0 {
			add = append(add, "--measurement HEX")
		}
	case v.Profile == evidence.SecretVM:
		if r.Registry == nil && len(r.Sets) == 0 {
			add = append(add, "--registry tdx.csv")
		}
		rtmr3 := slices.ContainsFunc(r.Sets, func(s evidence.ReferenceSet) bool { return !s.Registers[evidence.RTMR3].IsZero() })
		if r.Registry == nil && len(r.Sets) > 0 && !rtmr3 && r.Rootfs.IsZero() {
			add = append(add, "--rootfs rootfs.iso")
		}
		if r.ComposeDigest().IsZero() && !rtmr3 {
			add = append(add, "--docker-compose docker-compose.yaml")
		}
	case v.Profile == evidence.Dstack:
		if r.ComposeDigest().IsZero() {
			add = append(add, "--docker-compose app-compose.json")
		}
		if r.Evidence.VMConfig != nil && slices.ContainsFunc(r.Sets, func(s evidence.ReferenceSet) bool { return s.Claimed != "" }) {
			add = append(add, "--os-image-hash HEX")
		}
	case v.Expected.Verdict == verdict.Unchecked:
		add = append(add, "--measured FILE")
	}
	if v.Profile == evidence.Contrast {
		if bound && v.Bound.Verdict == verdict.Unchecked && r.Nonce == nil && r.Evidence.Nonce == nil {
			add = append(add, "--nonce HEX")
		}
	} else if bound && v.Bound.Verdict == verdict.Unchecked && r.TLSCert == nil && len(r.Evidence.Sessions) == 0 && r.Nonce == nil {
		if v.Profile == evidence.TPM {
			add = append(add, "--nonce HEX")
		} else {
			add = append(add, "--tls-cert cert.pem")
		}
	}
	if len(add) == 0 {
		return ""
	}
	return "the same with " + strings.Join(add, " ")
}

// contrastOpen are the flags that say what a Coordinator or pod should be, where a
// check asks for them.
func contrastOpen(v *evidenceView) []string {
	var add []string
	for _, c := range v.Expected.Checks {
		switch {
		case c.Verdict != verdict.Unchecked || c.Optional:
		case c.Name == "workload" && strings.Contains(c.Reason, "--workload"):
			add = append(add, "--workload NAME")
		case c.Name == "history" && strings.Contains(c.Reason, "--earlier"):
			add = append(add, "--earlier FILE")
		}
	}
	return add
}

// evidencePalette colors verdicts as reports do.
func evidencePalette(v verdict.Verdict) (mark, color string) {
	switch v {
	case verdict.Pass:
		return "=", "32"
	case verdict.Fail:
		return "!", "31"
	}
	return "?", "33"
}

func (a *app) printEvidence(v *evidenceView) error {
	colored, width := a.colored(a.stdout), a.width(a.stdout)
	var b strings.Builder
	paint := func(s, color string) string {
		if !colored {
			return s
		}
		return "\x1b[1;" + color + "m" + s + "\x1b[0m"
	}
	_, color := evidencePalette(v.Verdict)
	first := strings.ToUpper(string(v.Verdict))
	if len(v.TestRoots) > 0 {
		first, color = "TEST ROOT  "+first, "31"
	}
	at := v.At.UTC().Format(time.RFC3339)
	if v.AtNow {
		at += " (now; --at makes the result repeatable)"
	}
	b.WriteString(paint(first, color) + "  ")
	show.Wrap(&b, width, len(first)+2, 2, strings.Fields(show.Text(fmt.Sprintf("%s evidence %s", v.Profile, v.Claims.Source))), "")
	b.WriteByte('\n')
	open := slices.DeleteFunc([]string{"authentic", "expected", "bound"}, func(j string) bool { return slices.Contains(v.Asked, j) })
	text := "judged at " + at + ": " + strings.Join(v.Asked, ", ")
	if len(open) > 0 {
		text += "; not asked for: " + strings.Join(open, ", ")
	}
	wrapTo(&b, "  ", 4, width, text)
	if v.Claims.CapturedAt != "" {
		wrapTo(&b, "  ", 4, width, show.Text("captured at "+v.Claims.CapturedAt+" from "+v.Claims.Target))
	}
	for _, t := range v.TestRoots {
		text := "TEST ROOT in place of " + strings.ToUpper(t) + "'s: this shows nothing about real hardware"
		if !v.testRootOK {
			text += " (--test-root-ok lets it pass)"
		}
		var wrapped strings.Builder
		wrapTo(&wrapped, "", 0, width-2, text)
		for line := range strings.Lines(wrapped.String()) {
			b.WriteString("  " + paint(strings.TrimSuffix(line, "\n"), "31") + "\n")
		}
	}
	for _, j := range []struct {
		name, question string
		verdict.Judgement
	}{
		{"authentic", "who signed it, and is the hardware's protection on", v.Authentic},
		{"expected", "is it the release, the artifacts and the compose file that were named", v.Expected},
		{"bound", "does it belong to this connection, this GPU, this nonce", v.Bound},
	} {
		_, color := evidencePalette(j.Verdict)
		word := string(j.Verdict)
		if j.Verdict == verdict.Unchecked && !slices.Contains(v.Asked, j.name) {
			word += " (not asked for)"
		}
		if open := openAttributes(j.Judgement); j.Verdict == verdict.Pass && open != "" {
			word += ", open: " + open
		}
		fmt.Fprintf(&b, "\n%-9s  %s  ", j.name, paint(word, color))
		show.Wrap(&b, width, 13+len(word), 11, strings.Fields(j.question), "")
		b.WriteByte('\n')
		for _, want := range []verdict.Verdict{verdict.Fail, verdict.Unchecked, verdict.Pass} {
			last := ""
			for _, c := range j.Checks {
				if c.Verdict != want {
					continue
				}
				// What several checks lack for the same reason is said once.
				head, tail, _ := strings.Cut(c.Reason, "; ")
				if tail != "" && tail == last {
					c.Reason = head + "; likewise"
				}
				last = tail
				mark, color := evidencePalette(c.Verdict)
				if c.Verdict == verdict.Unchecked && c.Optional {
					mark, color = ".", ""
				}
				if color != "" {
					mark = paint(mark, color)
				}
				wrapTo(&b, "  "+mark+" ", 6, width, show.Text(c.Name+": "+c.Reason))
			}
		}
	}
	printClaims(&b, &v.Claims, width)
	if v.Missing != "" {
		b.WriteString("\nMissing to check more\n")
		wrapTo(&b, "  ", 4, width, show.Text(v.Missing))
	}
	_, err := a.stdout.Write([]byte(b.String()))
	return err
}

// openAttributes names what the host chose for the machine and nobody judged, and
// what Contrast's evidence cannot show, which no pass may hide.
func openAttributes(j verdict.Judgement) string {
	var out []string
	for _, c := range j.Checks {
		if c.Verdict == verdict.Unchecked && (strings.HasPrefix(c.Name, "td-") || c.Name == "session" || c.Name == "unconfirmed") {
			out = append(out, c.Name)
		}
	}
	return strings.Join(out, ", ")
}

// printClaims shows what the evidence says: values to note and compare by hand,
// as the vendors' guides ask for.
func printClaims(b *strings.Builder, c *evidence.Claims, width int) {
	line := func(name, value string) {
		if value != "" {
			wrapTo(b, fmt.Sprintf("  %-14s ", name), 17, width, show.Text(value))
		}
	}
	b.WriteString("\nThe evidence says\n")
	line("release", c.Release)
	if q := c.Quote; q != nil {
		line("quote", fmt.Sprintf("version %d, body %s", q.Version, q.BodyType))
		for _, v := range []struct{ name, value string }{
			{"mrtd", q.MRTD},
			{"rtmr0", q.RTMR0},
			{"rtmr1", q.RTMR1},
			{"rtmr2", q.RTMR2},
			{"rtmr3", q.RTMR3},
			{"report_data", q.ReportData},
			{"mrseam", q.MRSEAM},
			{"td_attributes", q.TDAttributes},
			{"xfam", q.XFAM},
			{"tee_tcb_svn", q.TEETCBSVN},
			{"fmspc", q.FMSPC},
		} {
			line(v.name, v.value)
		}
		for _, v := range []struct{ name, value string }{{"mrconfigid", q.MRCONFIGID}, {"mrowner", q.MROWNER}, {"mrownerconfig", q.MROWNERCONFIG}} {
			if strings.Trim(v.value, "0") != "" {
				line(v.name, v.value)
			}
		}
		if q.PCKFrom != "" {
			line("pck", "valid "+q.PCKFrom+" to "+q.PCKUntil)
		}
		if q.TCB != nil {
			line("tcb", strings.Join(slices.Concat([]string{q.TCB.Status, "of " + q.TCB.Date}, q.TCB.Advisories), " "))
		}
	}
	if r := c.Report; r != nil {
		line("report", fmt.Sprintf("version %d, %s, %s", r.Version, r.Form, r.Processor))
		for _, v := range []struct{ name, value string }{
			{"measurement", r.Measurement},
			{"host_data", r.HostData},
			{"report_data", r.ReportData},
			{"policy", r.Policy},
			{"platform_info", r.Platform},
			{"reported_tcb", r.TCB.Text(r.Product)},
			{"chip_id", r.ChipID},
			{"missing", r.Missing},
		} {
			line(v.name, v.value)
		}
	}
	for _, d := range c.Contrast {
		line("shown by", strings.TrimSpace(string(d.Kind)+" "+d.Version))
		for i, m := range d.Manifests {
			line("manifest", fmt.Sprintf("%d of %d: %s", i+1, len(d.Manifests), m))
		}
		for _, v := range []struct {
			name string
			sum  digest.Digest
		}{{"transition", d.Transition}, {"root_ca", d.RootCA}, {"mesh_ca", d.MeshCA}, {"spki", d.SPKI}} {
			if !v.sum.IsZero() {
				line(v.name, v.sum.String())
			}
		}
	}
	if t := c.TPM; t != nil {
		printTPM(line, t)
	}
	line("compose_hash", c.ComposeHash)
	for _, e := range c.Events {
		if e.Name != "" {
			line("event", fmt.Sprintf("%s %x", e.Name, e.Payload))
		}
	}
	for _, g := range c.GPU {
		line("gpu", fmt.Sprintf("%s, driver %s, VBIOS %s, %d measurements, nonce %s", g.Arch, g.Driver, g.VBIOS, g.Measurements, g.Nonce))
	}
}

// printTPM shows what a TPM's quote says.
func printTPM(line func(name, value string), t *evidence.TPMClaim) {
	line("form", t.Form)
	line("provider", string(t.Provider))
	line("path", strings.Join(t.Path, " <- "))
	for _, q := range t.Quotes {
		nonce := q.Nonce
		if nonce == "" {
			nonce = "none"
		}
		line("quote", fmt.Sprintf("%s, %s with %s, nonce %s, firmware %s", q.Selection, q.Scheme, q.Hash, nonce, q.Firmware))
		line("clock", fmt.Sprintf("%d ms, %d resets, %d restarts", q.Clock.Milliseconds, q.Clock.ResetCount, q.Clock.RestartCount))
	}
	for _, bank := range slices.Sorted(maps.Keys(t.PCRs)) {
		for i := range 24 {
			n := strconv.Itoa(i)
			d, ok := t.PCRs[bank][n]
			if !ok || strings.Trim(d, "0") == "" || strings.Trim(d, "f") == "" {
				continue
			}
			if _, ok := t.Replayed[bank][n]; ok {
				d += " (as the log leads to)"
			}
			line("pcr"+n, bank+" "+d)
		}
	}
	if p := t.Proof; p != nil {
		line("app disk", p.RootHash)
		line("CA sha256", p.CA)
		if p.Events > 0 {
			line("events", strconv.Itoa(p.Events))
		}
	}
}

// wrapTo writes text at blanks into lines of a width; what has no blank stays
// whole. head is the first line's beginning, which colors may have made longer
// than it looks.
func wrapTo(b *strings.Builder, head string, indent, width int, text string) {
	b.WriteString(head)
	show.Wrap(b, width, indent, indent, strings.Fields(text), "")
	b.WriteByte('\n')
}

// nextOfEvidence is the command to propose for what check found of machines, none
// where none follows, and what could be brought beside. at is how the user named
// the paths.
func nextOfEvidence(s *recognize.Subject, at string) (recognize.Step, []pipeline.Lack) {
	if s.ConfigInput != nil {
		return recognize.Step{}, nil
	}
	path := func(name string) string { return quote(filepath.ToSlash(s.Reader.Path(name))) }
	if names := slices.Sorted(maps.Keys(s.Config.Evidence)); len(names) > 0 {
		return verifyCommand(s, s.Config.Evidence[names[0]], path)
	}
	if names := slices.Sorted(maps.Keys(s.Config.Endorsements)); len(names) > 0 && s.Config.MachinesOnly() {
		file := path(s.Config.Endorsements[names[0]].File)
		return recognize.Step{Command: "retally endorsement verify " + file, Why: "who says it, over what, until when"},
			[]pipeline.Lack{{What: "keys or roots that you trust", For: "endorsement/**", How: "the same with --trusted-root FILE, or --key FILE and --log-key FILE"}}
	}
	for _, f := range s.Found {
		if f.Kind == recognize.KindFirmware {
			return recognize.Step{Command: "retally inspect firmware " + path(f.Name), Why: "what of it is measured, and where"}, nil
		}
	}
	for _, f := range s.Found {
		if f.Kind == recognize.KindEventLog {
			return recognize.Step{Command: "retally tdx replay " + path(f.Name), Why: "every event and the registers that they fold to"}, nil
		}
	}
	if c := s.Config; c.Registry != "" || c.Compose != "" && c.Deployment == "" {
		return recognize.Step{}, []pipeline.Lack{{What: "what the machine shows of itself", For: "evidence/*", How: "retally evidence capture HOST --out capture, then retally check " + at + " capture"}}
	}
	return recognize.Step{}, nil
}

// verifyCommand proposes to verify a piece of evidence with what was named
// beside it, and names what else the verdict wants. What came with the evidence
// is not proposed: to name it would be to vouch for it.
func verifyCommand(s *recognize.Subject, e config.Evidence, path func(string) string) (recognize.Step, []pipeline.Lack) {
	words := []string{"retally evidence verify"}
	for _, file := range append([]string{e.File}, e.Also...) {
		words = append(words, path(file))
	}
	if e.Profile == string(evidence.TPM) || e.Profile == string(evidence.BlindLlama) {
		// The formats of others are told by their content.
	} else if e.Profile != "" {
		words = append(words, "--profile", e.Profile)
	}
	var more []pipeline.Lack
	lack := func(what, flag string) {
		more = append(more, pipeline.Lack{What: what, For: "evidence/**", How: "the same with " + flag})
	}
	add := func(flag, file, what, otherwise string) {
		switch {
		case slices.Contains(e.Senders, file):
			lack(what+", from elsewhere than the evidence", flag+" "+otherwise)
		case file != "":
			words = append(words, flag, path(file))
		default:
			lack(what, flag+" "+otherwise)
		}
	}
	step := func(why string) (recognize.Step, []pipeline.Lack) {
		return recognize.Step{Command: strings.Join(words, " "), Why: why}, more
	}
	const why = "who signed it, what runs, whose connection it is: one reason for each"
	switch e.Profile {
	case string(evidence.TPM):
		lack("the registers to expect", "--golden golden.json")
		lack("the nonce that the quote was asked for with", "--nonce HEX")
		return step(why)
	case string(evidence.BlindLlama):
		lack("the registers to expect", "--golden golden.json")
		lack("the root hash of the application's disk", "--app-root HEX")
		add("--tls-cert", e.TLSCert, "the certificate of your connection", "cert.pem")
		return step(why)
	case string(evidence.Contrast):
		add("--manifest", s.Config.Against, "the manifest that you expect", "manifest.json")
		lack("the nonce that the attestation was asked for with", "--nonce HEX")
		return step(why)
	case string(evidence.NVIDIA):
		lack("the nonce that the GPU was asked with", "--nonce HEX")
		return step(why)
	case string(evidence.Dstack):
		add("--docker-compose", s.Config.Compose, "the compose file that you expect", "app-compose.json")
		lack("the digest of the OS image", "--os-image-hash HEX")
	case "":
		lack("the measurements of what you expect to run", "--measured FILE, or --measurement HEX on AMD")
	default:
		add("--registry", s.Config.Registry, "the registers that the vendor publishes", "tdx.csv")
		add("--docker-compose", s.Config.Compose, "the compose file that you expect", "docker-compose.yaml")
	}
	// A capture has its own.
	if info, err := os.Stat(s.Reader.Path(e.File)); e.TLSCert != "" || err == nil && !info.IsDir() {
		add("--tls-cert", e.TLSCert, "the certificate of the same connection", "cert.pem")
	}
	return step(why)
}
