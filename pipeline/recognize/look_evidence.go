package recognize

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// JudgeAt sets the time at which found evidence is judged. A check is for now;
// a configuration says its time itself.
func (s *Subject) JudgeAt(at time.Time) {
	if s.ConfigInput != nil || len(s.Config.Evidence)+len(s.Config.Endorsements) == 0 {
		return
	}
	text := at.UTC().Format(time.RFC3339)
	for name, e := range s.Config.Evidence {
		e.At = text
		s.Config.Evidence[name] = e
	}
	for name, e := range s.Config.Endorsements {
		e.At = text
		s.Config.Endorsements[name] = e
	}
	s.Problems = append(s.Problems, pipeline.Problem{
		Level: pipeline.LevelNote, Code: "evidence-time", Msg: "certificates are judged at " + text + ", which is now",
		Hint: "evidence verify and a configuration take a time, and give a result that does not depend on the day",
	})
}

// prepareEvidence says what a file shows by itself: what a log folds to, what a
// firmware is. It sets the profile of evidence that follows from its company.
func (s *Subject) prepareEvidence(ctx context.Context) error {
	if s.ConfigInput != nil {
		return nil
	}
	quotes := map[string]*tdxquote.Quote{}
	for _, name := range slices.Sorted(maps.Keys(s.Config.Evidence)) {
		e := s.Config.Evidence[name]
		b, err := s.readEvidence(ctx, e.File)
		if err != nil {
			return err
		}
		switch {
		case e.Profile != "":
		case len(b.Contrast) > 0:
			e.Profile = string(evidence.Contrast)
		case b.TPM != nil || b.TPMErr != nil || b.TPMParts != nil:
			e.Profile = string(evidence.TPM)
		case b.Proof != nil:
			e.Profile = string(evidence.BlindLlama)
		case b.Quote == nil && b.SNP == nil:
		case b.EventLog != nil || b.VMConfig != nil:
			e.Profile = string(evidence.Dstack)
		case b.Page || b.SNP == nil && (s.Config.Registry != "" || s.Config.Compose != "" || len(e.Also) > 0 || e.TLSCert != ""):
			e.Profile = string(evidence.SecretVM)
		}
		s.Config.Evidence[name] = e
		if q, err := tdxquote.Parse(b.Quote); err == nil {
			quotes[e.File] = q
		}
	}
	for _, f := range s.Found {
		var err error
		switch f.Kind {
		case KindEventLog:
			err = s.lookLog(ctx, f.Name, quotes)
		case KindTPMLog:
			err = s.lookTPMLog(ctx, f.Name)
		case KindFirmware:
			err = s.lookFirmware(ctx, f.Name, quotes)
		}
		if err != nil {
			return err
		}
	}
	s.lackEvidence()
	return nil
}

// markSenders tells the references apart that the user did not name: they lie in
// a folder that was given, as the evidence may, so whoever sent that could have
// laid them there.
func (s *Subject) markSenders() {
	if s.ConfigInput != nil {
		return // the user's own
	}
	var out []string
	named := func(file string) bool {
		return slices.ContainsFunc(s.Found, func(f Found) bool { return f.Name == file && f.Named })
	}
	for _, file := range []string{s.Config.Registry, s.Config.Compose, s.Config.Against} {
		if file != "" && !named(file) {
			out = append(out, file)
		}
	}
	for name, e := range s.Config.Evidence {
		e.Senders = slices.Clone(out)
		for _, file := range []string{e.Golden, e.EventLog, e.AK} {
			if file != "" && !named(file) {
				e.Senders = append(e.Senders, file)
			}
		}
		s.Config.Evidence[name] = e
	}
}

func (s *Subject) readEvidence(ctx context.Context, name string) (*evidence.Bundle, error) {
	dir := s.Reader.Path(name)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return evidence.OpenCapture(name, dir)
	}
	return run.Parsed(ctx, s.Reader, name, evidenceAtMost, evidence.Read)
}

func (s *Subject) say(level, code, file, format string, args ...any) {
	s.Problems = append(s.Problems, pipeline.Problem{Level: level, Code: code, Where: pipeline.Where{File: file}, Msg: fmt.Sprintf(format, args...)})
}

// lookLog folds an event log and holds it against the quotes beside it.
func (s *Subject) lookLog(ctx context.Context, name string, quotes map[string]*tdxquote.Quote) error {
	data, _, err := s.Reader.ReadFile(ctx, name, evidenceAtMost)
	if err != nil {
		return err
	}
	log, _, err := tdxmeasure.ReplayLog(name, data)
	if err != nil {
		s.say(pipeline.LevelError, "event-log", name, "cannot be replayed: %v", err)
		return nil
	}
	for _, p := range log.Problems {
		s.say(pipeline.LevelError, "event-log", name, "contradicts itself: %s", p)
	}
	for i, r := range log.RTMR {
		n := len(log.Trace[i].Events)
		if n == 0 {
			s.unlogged(name, i, quotes)
			continue
		}
		s.say(pipeline.LevelNote, "event-log", name, "rtmr%d is %s after %s", i, r.Hex(), show.Plural(n, "event", "events"))
		for _, file := range slices.Sorted(maps.Keys(quotes)) {
			if got := quotes[file].Body.RTMR[i]; got == r {
				s.say(pipeline.LevelNote, "event-log", name, "rtmr%d is the one in %s", i, file)
			} else {
				s.say(pipeline.LevelError, "event-log", name, "rtmr%d in %s is %s: this log is not of that machine, or of another time", i, file, got.Hex())
			}
		}
	}
	return nil
}

// unlogged: a register that a log has no event for is not zero in a quote. The
// firmware writes the log; what a running system extends need not be in it.
func (s *Subject) unlogged(name string, register int, quotes map[string]*tdxquote.Quote) {
	for _, file := range slices.Sorted(maps.Keys(quotes)) {
		got := quotes[file].Body.RTMR[register]
		if len(bytes.Trim(got.Bytes(), "\x00")) == 0 {
			continue // the log and the quote agree that nothing was extended into it
		}
		who := "something else than what wrote this log"
		if register == 3 {
			who = "the running system, which writes no entry in the firmware's log"
		}
		s.say(pipeline.LevelWarning, "event-log-unlogged", name, "has no event for rtmr%d, and rtmr%d in %s is %s: it was extended by %s, and stays unchecked", register, register, file, got.Hex(), who)
	}
}

// lookFirmware describes a firmware and the MRTD that it gives: hypervisors add
// its pages in one of two orders, and no file says in which.
func (s *Subject) lookFirmware(ctx context.Context, name string, quotes map[string]*tdxquote.Quote) error {
	data, _, err := s.Reader.ReadFile(ctx, name, evidenceAtMost)
	if err != nil {
		return err
	}
	tdvf, err := ovmf.ReadTDVF(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return &pipeline.InputError{Op: "read firmware", File: name, Err: err}
	}
	var sections []string
	for _, x := range tdvf.Sections {
		sections = append(sections, fmt.Sprintf("%s %d KiB at %#x", x.Type, x.MemorySize>>10, x.MemoryAddress))
	}
	s.say(pipeline.LevelNote, "firmware", name, "TDX firmware of %d KiB, %s: %s", len(data)>>10, show.Plural(len(sections), "section", "sections"), strings.Join(sections, ", "))
	orders := []tdxmeasure.PageOrder{tdxmeasure.SinglePass, tdxmeasure.TwoPass}
	traces, err := tdxmeasure.MeasureMRTD(ctx, tdxmeasure.Bytes(name, data), tdvf, tdxmeasure.MRTDOptions{}, orders...)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.say(pipeline.LevelError, "firmware", name, "cannot be measured: %v", err)
		return nil
	}
	var values []digest.Digest
	for i := range traces {
		d, err := traces[i].Compute()
		if err != nil {
			return err
		}
		values = append(values, d)
		s.say(pipeline.LevelNote, "firmware", name, "mrtd is %s where pages are added in the order %s", d.Hex(), orders[i])
	}
	for _, file := range slices.Sorted(maps.Keys(quotes)) {
		got := quotes[file].Body.MRTD
		if i := slices.Index(values, got); i >= 0 {
			s.say(pipeline.LevelNote, "firmware", name, "mrtd in %s is this firmware's, order %s", file, orders[i])
		} else {
			s.say(pipeline.LevelWarning, "firmware", name, "mrtd in %s is %s: that machine has another firmware", file, got.Hex())
		}
	}
	return nil
}

// lackEvidence names what the files found do not suffice for. What evidence
// itself lacks, its stage says.
func (s *Subject) lackEvidence() {
	c := s.Config
	if len(c.Platforms) == 0 {
		for _, f := range s.Found {
			if f.Kind == KindFirmware {
				s.Lacks = append(s.Lacks, pipeline.Lack{
					What: "kernel, initrd, command line, memory size and number of CPUs of the machine that " + f.Name + " starts", For: "tdx/*/rtmr0 to rtmr2",
					How: "retally tdx measure --profile NAME --firmware " + f.Name + " --kernel FILE --initrd FILE --cmdline TEXT --memory SIZE --cpu N",
				})
			}
		}
	}
	s.lackTPM()
	if len(c.Evidence) > 0 {
		return
	}
	for _, f := range s.Found {
		if f.Kind == KindReleases {
			s.Lacks = append(s.Lacks, pipeline.Lack{
				What: "compose file, number of vCPUs and launch digest of a machine that runs a release of " + f.Name, For: "snp/**",
				How: "retally snp measure --profile secretvm --compose FILE --vcpus N --releases " + f.Name + " --expect HEX",
			})
		}
	}
	for _, x := range []struct{ what, file string }{{string(KindRegistry), c.Registry}, {string(KindCompose), c.Compose}} {
		if x.file != "" {
			s.Lacks = append(s.Lacks, pipeline.Lack{What: "a quote of the machine", For: "evidence/*", How: "retally evidence capture HOST --out DIR fetches one; " + x.file + " is a " + x.what})
		}
	}
	for _, f := range s.Found {
		if f.Kind == KindEventLog {
			s.Lacks = append(s.Lacks, pipeline.Lack{What: "a quote of the machine", For: "evidence/*", How: "anybody can write the log " + f.Name + "; only a quote with its registers makes it more"})
		}
	}
}
