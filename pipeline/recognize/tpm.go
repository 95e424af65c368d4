package recognize

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// What lies beside a TPM's quote.
const (
	KindGolden Kind = "golden measurements"
	KindTPMLog Kind = "event log of a TPM"
	KindAK     Kind = "attestation key"
)

// biosLog is what Linux calls a firmware's log.
const biosLog = "bios_measurements"

// sha1Head is the size of a SHA-1 record without its data (TCG PC Client Platform
// Firmware Profile, TCG_PCClientPCREvent).
const sha1Head = 32

// mayBeTPMLog looks at how a log without a head begins: a record for a PCR, of a
// type of TCG's, with data of a size that records have.
func mayBeTPMLog(name string, head []byte) bool {
	if strings.Contains(filepath.Base(name), biosLog) {
		return true
	}
	if len(head) < sha1Head {
		return false
	}
	le := binary.LittleEndian
	return isRecord(le.Uint32(head), le.Uint32(head[4:]), le.Uint32(head[28:]))
}

// isRecord: TCG's types end at 0x14, and at 0x80000010 for those of UEFI but one.
// What extends nothing has any register: Windows writes ffffffff.
func isRecord(register, kind, size uint32) bool {
	known := kind <= 0x14 || kind >= 0x80000001 && kind <= 0x80000010 || kind == 0x800000e0
	return (register < pcrmeasure.Count || kind == uint32(eventlog.NoAction)) && known && size <= 1<<16
}

// mayBeKey: certificates and keys are told apart by reading them.
func mayBeKey(head []byte) bool {
	return bytes.HasPrefix(head, []byte("-----BEGIN ")) || len(head) > 4 && head[0] == 0x30 && head[1] == 0x82 || mayBePublic(head)
}

// mayBePublic recognizes how a TPMT_PUBLIC begins, with or without its size:
// RSA or ECC, and a hash for names.
func mayBePublic(head []byte) bool {
	begins := func(b []byte) bool {
		if len(b) < 10 {
			return false
		}
		kind, name := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		return (kind == 0x01 || kind == 0x23) && name >= 0x0b && name <= 0x0d
	}
	return begins(head) || len(head) > 2 && begins(head[2:])
}

// recognizeLog says whose a binary log is; KindUnknown: it is none. A damaged one
// is recognized by its head or its name, so that what is wrong is said.
func recognizeLog(name string, data []byte) Kind {
	named := strings.Contains(filepath.Base(filepath.FromSlash(name)), biosLog)
	if isCCEL(data) && !named {
		l, err := pcrmeasure.ReadLog(name, data, pcrmeasure.FormAuto)
		switch {
		case err == nil && l.Form != pcrmeasure.FormCCEL:
			return KindTPMLog
		case err != nil && !onlySHA384(data):
			return KindTPMLog
		}
		return KindEventLog
	}
	if named {
		return KindTPMLog
	}
	if !mayBeTPMLog(name, data) {
		return KindUnknown
	}
	l, err := eventlog.Parse(data)
	if err != nil || !l.SHA1Form {
		return KindUnknown
	}
	separator := false
	for i := range l.Events {
		e := &l.Events[i]
		if !isRecord(e.Register, uint32(e.Type), uint32(len(e.Data))) {
			return KindUnknown
		}
		separator = separator || e.Type == eventlog.Separator || e.Type == eventlog.NoAction && bytes.HasPrefix(e.Data, []byte("StartupLocality\x00"))
	}
	if !separator {
		return KindUnknown // firmware ends each of its PCRs with one
	}
	return KindTPMLog
}

// onlySHA384: the head of a log names that bank alone, as a TDX guest's does.
func onlySHA384(data []byte) bool {
	const at, sha384 = sha1Head + 24, 0x0c
	return len(data) >= at+6 && binary.LittleEndian.Uint32(data[at:]) == 1 && binary.LittleEndian.Uint16(data[at+4:]) == sha384
}

// isGolden knows golden measurements by their form: values by the numbers of
// PCRs. What is wrong with one, reading it shows.
func isGolden(v *jsondoc.Value) bool {
	list := v.Get("measurements")
	return list != nil && list.Kind == jsondoc.Object && !slices.ContainsFunc(list.Members, func(m jsondoc.Member) bool {
		return m.Key == "" || strings.Trim(m.Key, "0123456789") != ""
	})
}

var akName = regexp.MustCompile(`(?i)(^|[^a-z])ai?k([^a-z]|$)`)

// recognizeKey knows an attestation key: certificates that say so, a TPM's public
// area, and a public key that the user names or that is called so.
func recognizeKey(name string, data []byte, named bool) Kind {
	base := filepath.Base(filepath.FromSlash(name))
	switch {
	case len(data) > certs.MaxChainBytes:
		return KindUnknown
	case bytes.HasPrefix(data, []byte("-----BEGIN CERTIFICATE-----")) || len(data) > 0 && data[0] == 0x30:
		ak, err := tpmquote.ParseAK(name, data)
		if err != nil || ak.Chain == nil && !akName.MatchString(base) {
			return KindUnknown
		}
		if ak.Chain != nil && !isAKCertificate(ak.Chain[0]) {
			return KindUnknown
		}
		return KindAK
	case bytes.HasPrefix(data, []byte("-----BEGIN PUBLIC KEY-----")):
		if block, _ := pem.Decode(data); block != nil && (named || akName.MatchString(base)) {
			return KindAK
		}
	case mayBePublic(data):
		if _, err := tpmquote.ParsePublic(name, data); err == nil {
			return KindAK
		}
	}
	return KindUnknown
}

// isAKCertificate: by the extended key usage of keys that sign quotes, or of
// endorsement keys, which Google gives to keys that sign, or none, as its older ones
// have.
func isAKCertificate(c *x509.Certificate) bool {
	has := func(last int) bool {
		return slices.ContainsFunc(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{2, 23, 133, 8, last}.Equal)
	}
	none := len(c.UnknownExtKeyUsage)+len(c.ExtKeyUsage) == 0
	signs := c.KeyUsage&x509.KeyUsageDigitalSignature != 0
	return has(3) || signs && (has(1) || none && slices.Contains(c.Issuer.Organization, "Google LLC"))
}

// configureTPM gives the one quote of a TPM that was found what lies beside it.
// Where it is not clear which belongs to which, that is an error.
func (s *Subject) configureTPM(byKind map[Kind][]string) error {
	c := s.Config
	var quotes []string
	for name, e := range c.Evidence {
		for _, kind := range []Kind{KindTPM, KindProof, KindTPMPart} {
			if slices.Contains(byKind[kind], e.File) {
				quotes = append(quotes, name)
			}
		}
	}
	slices.Sort(quotes)
	for _, x := range []struct {
		kind Kind
		set  func(e *config.Evidence, file string)
	}{
		{KindGolden, func(e *config.Evidence, file string) { e.Golden = file }},
		{KindTPMLog, func(e *config.Evidence, file string) { e.EventLog = file }},
		{KindAK, func(e *config.Evidence, file string) { e.AK = file }},
	} {
		files := byKind[x.kind]
		switch {
		case len(files) == 0 || len(quotes) == 0:
			continue // alone they show nothing, which is said
		case len(files) > 1 || len(quotes) > 1:
			return &pipeline.InputError{
				Op: "check", File: files[0], Err: fmt.Errorf("%s (%s) for %s of TPMs (%s): which belongs to which is not clear", show.Plural(len(files), "file with "+string(x.kind), "files with "+string(x.kind)), strings.Join(files[:min(4, len(files))], ", "), show.Plural(len(quotes), "quote", "quotes"), strings.Join(quotes[:min(4, len(quotes))], ", ")),
				Hint: "name the files that belong together, or: retally evidence verify QUOTE --golden FILE --event-log FILE --ak FILE",
			}
		}
		e := c.Evidence[quotes[0]]
		if x.kind != KindGolden && slices.Contains(byKind[KindProof], e.File) {
			return &pipeline.InputError{
				Op: "check", File: files[0], Err: fmt.Errorf("is %s beside %s, which has its own", article(x.kind), e.File), Hint: "check the proof file without it",
			}
		}
		x.set(&e, files[0])
		c.Evidence[quotes[0]] = e
	}
	return nil
}

func article(k Kind) string {
	if strings.ContainsRune("aeiou", rune(k[0])) {
		return "an " + string(k)
	}
	return string(k)
}

// lookTPMLog folds a TPM's log that no quote takes along.
func (s *Subject) lookTPMLog(ctx context.Context, name string) error {
	for _, e := range s.Config.Evidence {
		if e.EventLog == name {
			return nil // the stage replays it
		}
	}
	data, _, err := s.Reader.ReadFile(ctx, name, evidenceAtMost)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		s.say(pipeline.LevelWarning, "event-log", name, "is empty: nothing can be replayed (firmware of Azure's Trusted Launch hands out such a log)")
		return nil
	}
	l, err := pcrmeasure.ReadLog(name, data, pcrmeasure.FormAuto)
	if err != nil {
		s.say(pipeline.LevelError, "event-log", name, "cannot be replayed: %v", err)
		return nil
	}
	for _, p := range l.Problems() {
		s.say(pipeline.LevelError, "event-log", name, "contradicts itself: %s", p)
	}
	for _, f := range l.Findings {
		level := pipeline.LevelNote
		if f.Code == pcrmeasure.KernelNotMeasured {
			level = pipeline.LevelWarning
		}
		s.say(level, "event-log", name, "%s: %s", f.Code, f.Text)
	}
	folded, err := l.ReplayAll()
	if err != nil {
		s.say(pipeline.LevelError, "event-log", name, "cannot be replayed: %v", err)
		return nil
	}
	for _, bank := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512, digest.SHA1} {
		if values, ok := folded[bank]; ok {
			s.say(pipeline.LevelNote, "event-log", name, "%s lead to PCR 0 %s and PCR 4 %s in the bank %s; retally tpm replay shows all", show.Plural(len(l.Events), "event", "events"), values[0].Hex(), values[4].Hex(), bank)
			break
		}
	}
	return nil
}

// lackTPM says what is missing where there is no quote.
func (s *Subject) lackTPM() {
	used := func(file string) bool {
		for _, e := range s.Config.Evidence {
			if slices.Contains([]string{e.Golden, e.EventLog, e.AK}, file) {
				return true
			}
		}
		return false
	}
	for _, f := range s.Found {
		if slices.Contains([]Kind{KindGolden, KindTPMLog, KindAK}, f.Kind) && !used(f.Name) {
			s.Lacks = append(s.Lacks, pipeline.Lack{What: "a quote of the machine's TPM", For: "evidence/*", How: f.Name + " (" + string(f.Kind) + ") shows nothing of a machine by itself: give the quote, its signature and its PCR values, or a proof file"})
		}
	}
}
