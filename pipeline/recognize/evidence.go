package recognize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/dstackattest"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// What machines show of themselves, and what it is held against.
const (
	KindQuote    Kind = "TDX quote"
	KindSNP      Kind = "SEV-SNP report"
	KindTPM      Kind = "TPM quote"
	KindTPMPart  Kind = "part of a TPM quote" // tpm2-tools' message, signature or PCR values
	KindProof    Kind = "BlindLlama proof file"
	KindContrast Kind = "Contrast attestation"
	KindGPU      Kind = "GPU evidence"
	KindCapture  Kind = "captured evidence"
	KindEventLog Kind = "event log"
	KindRegistry Kind = "registry of releases"
	KindReleases Kind = "list of AMD releases"
	KindCompose  Kind = "compose file"
	KindFirmware Kind = "TDX firmware"
	KindMetadata Kind = "image metadata"
	KindTLSCert  Kind = "certificate"
	KindRATLS    Kind = "RA-TLS certificate" // with a quote in it
)

// composeNames are what SecretVM and Docker call the file.
var composeNames = []string{"docker-compose.yaml", "docker-compose.yml", "compose.yaml", "compose.yml"}

// Sizes up to which a file is looked at as evidence or firmware. Firmware has
// 16 MiB at most (the space below 4 GiB that hypervisors give it).
const (
	evidenceAtMost = evidence.MaxFile
	headSize       = 512
)

// footerGUID ends a firmware file with a GUID table, 48 bytes before its end
// (OVMF, table footer 96b582de-1fb2-45f7-baea-a366c55a082d).
const footerGUID = "\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d"

// quoteTexts are how a quote begins in hex and base64: version 4 or 5, key type
// 2, TEE type 0x81.
var quoteTexts = []string{"0400020081000000", "0500020081000000", "BAACAIEAAAA", "BQACAIEAAAA"}

// mayBeEvidence looks at the first and last bytes of a file that lies in a
// folder: whether it is worth reading as evidence. Pages and JSON documents are
// told from what else lies there by their names.
func mayBeEvidence(name string, head, tail []byte) bool {
	if isQuoteHeader(head) || isSNPHead(head) || mayBeTPM(head) || isCCEL(head) || mayBeTPMLog(name, head) || mayBeKey(head) || dstackattest.Recognize(head) || len(tail) >= 48 && string(tail[len(tail)-48:len(tail)-32]) == footerGUID {
		return true
	}
	if ext := strings.ToLower(filepath.Ext(name)); isDER(head) && slices.Contains([]string{".der", ".crt", ".cer"}, ext) {
		return true
	}
	text := strings.TrimLeft(string(bytes.TrimPrefix(head, []byte("\ufeff"))), " \t\r\n")
	if isRegistryHead(text) {
		return true
	}
	if strings.HasPrefix(text, "<") || strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		return slices.Contains([]string{"", ".html", ".htm", ".txt", ".log"}, strings.ToLower(filepath.Ext(name)))
	}
	text = strings.TrimPrefix(text, "0x")
	return strings.HasPrefix(text, "-----BEGIN CERTIFICATE") || isSNPText(text) || slices.ContainsFunc(quoteTexts, func(q string) bool { return strings.HasPrefix(text, q) })
}

// mayBeTPM looks at how the binary forms of a TPM's quote begin: a signed message,
// a signature, tpm2-tools' PCR values, bincode of a signature of RSA, protobuf with
// the key's public area or a quote. What it is, reading it shows.
func mayBeTPM(head []byte) bool {
	if len(head) < 8 {
		return false
	}
	switch {
	case string(head[:4]) == "\xffTCG", head[0] == 0 && (head[1] == 0x14 || head[1] == 0x16 || head[1] == 0x18) && head[2] == 0:
		return true
	case binary.LittleEndian.Uint32(head) >= 1 && binary.LittleEndian.Uint32(head) <= 16 && head[5] == 0 && head[6] == 3:
		return true
	case binary.LittleEndian.Uint64(head) >= 256 && binary.LittleEndian.Uint64(head) <= 512:
		return true
	}
	return bytes.Contains(head, []byte("\xffTCG")) || head[0] == 0x0a && head[1]&0x80 != 0
}

// peek reads the ends of a regular file of a size that evidence can have.
func peek(file string) (head, tail []byte, ok bool) {
	f, size, err := run.OpenRegular(file, file)
	if err != nil {
		return nil, nil, false
	}
	defer f.Close()
	if size == 0 || size > evidenceAtMost {
		return nil, nil, false
	}
	read := func(at int64) []byte {
		b := make([]byte, min(headSize, size))
		n, err := f.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return nil
		}
		return b[:n]
	}
	return read(0), read(max(0, size-headSize)), true
}

// isQuoteHeader recognizes a TDX quote: version 4 or 5, TEE type TDX.
func isQuoteHeader(b []byte) bool {
	return len(b) >= 48 && (b[0] == 4 || b[0] == 5) && b[1] == 0 && binary.LittleEndian.Uint32(b[4:]) == 0x81
}

// isSNPHead recognizes how an SEV-SNP report begins, version 2 to 5 under ECDSA
// P-384, and Azure's HCL report.
func isSNPHead(b []byte) bool {
	return bytes.HasPrefix(b, []byte("HCLA")) || len(b) >= 0x38 && b[0] >= 2 && b[0] <= 5 && b[1] == 0 && b[2] == 0 && b[3] == 0 && binary.LittleEndian.Uint32(b[0x34:]) == 1
}

// isSNPText: the same in hex and base64, as far as the version shows it. What it
// is, reading it shows.
func isSNPText(text string) bool {
	for v := range 4 {
		if strings.HasPrefix(text, fmt.Sprintf("%02x000000", v+2)) {
			return true
		}
	}
	return slices.ContainsFunc([]string{"AgAAA", "AwAAA", "BAAAA", "BQAAA", "SENMQ"}, func(p string) bool { return strings.HasPrefix(text, p) })
}

// isCCEL recognizes a binary event log by its first record (TCG PC Client
// Platform Firmware Profile, Spec ID Event).
func isCCEL(b []byte) bool {
	return len(b) >= 48 && binary.LittleEndian.Uint32(b[4:]) == 3 && string(b[32:48]) == "Spec ID Event03\x00"
}

// isReleasesHead recognizes a list of releases by the hashes that a row begins
// with, and which a registry of registers does not have.
func isReleasesHead(text string) bool {
	return strings.HasPrefix(text, "[") && strings.Contains(text, `"artifacts_ver"`) && (strings.Contains(text, `"kernel_hash"`) || strings.Contains(text, `"ovmf_hash"`) || strings.Contains(text, `"ovmf_sections"`)) &&
		!strings.Contains(text, `"mrtd"`)
}

func isRegistryHead(text string) bool {
	if strings.HasPrefix(text, "[") {
		return strings.Contains(text, `"artifacts_ver"`)
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.Contains(line, "mrtd") && strings.Contains(line, "rtmr0") && strings.Contains(line, ",")
}

// isTDVF reports whether a file is firmware with the descriptor that TDX needs.
func isTDVF(data []byte) bool {
	_, err := ovmf.ReadTDVF(bytes.NewReader(data), int64(len(data)))
	return err == nil
}

// isDER recognizes an ASN.1 sequence of a certificate's size.
func isDER(b []byte) bool { return len(b) > 4 && b[0] == 0x30 && b[1] == 0x82 }

// bundleReader reads evidence, such as evidence.Read.
type bundleReader func(name string, data []byte) (*evidence.Bundle, error)

// recognizeEvidence says what a file is among the things that this file knows.
func recognizeEvidence(file string, data []byte, read bundleReader) Kind {
	switch {
	case len(data) > evidenceAtMost:
		return KindUnknown
	case isTDVF(data):
		return KindFirmware
	}
	if kind := recognizeLog(file, data); kind != KindUnknown {
		return kind
	}
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	if isReleasesHead(string(text[:min(len(text), headSize)])) {
		return KindReleases
	}
	if isRegistryHead(string(text[:min(len(text), headSize)])) {
		return KindRegistry
	}
	head := strings.TrimPrefix(string(text[:min(len(text), headSize)]), "0x")
	looks := dstackattest.Recognize(data) || strings.HasPrefix(head, "-----BEGIN ") || isQuoteHeader(data) || isSNPHead(data) || mayBeTPM(data[:min(len(data), headSize)]) && tpmquote.Recognize(data) != "" || isSNPText(head) || len(text) > 0 && text[0] == '<' || slices.ContainsFunc(quoteTexts, func(q string) bool { return strings.HasPrefix(head, q) })
	if isDER(data) {
		if kind := recognizeBundle(file, data, read); kind == KindRATLS || kind == KindContrast {
			return kind
		}
	}
	if !looks {
		return KindUnknown
	}
	return recognizeBundle(file, data, read)
}

// recognizeBundle reads a file as evidence and says what it holds.
func recognizeBundle(file string, data []byte, read bundleReader) Kind {
	b, err := read(file, data)
	switch {
	case err != nil:
		return KindUnknown
	case len(b.Contrast) > 0:
		return KindContrast
	case b.Holder != nil:
		return KindRATLS
	case b.Quote != nil:
		return KindQuote
	case b.SNP != nil:
		return KindSNP
	case b.TPM != nil || b.TPMErr != nil:
		return KindTPM
	case b.TPMParts != nil:
		return KindTPMPart
	case b.Proof != nil:
		return KindProof
	case b.GPU != nil:
		return KindGPU
	}
	return KindUnknown // an HCL report of TDX's alone shows nothing
}

// recognizeNamed knows what content alone does not show: a compose file is
// hashed as it is stored, whatever is in it, and a certificate that the user
// names is meant as the one of the connection.
func recognizeNamed(name string, data []byte, named bool) Kind {
	base := filepath.Base(filepath.FromSlash(name))
	if kind := recognizeKey(name, data, named); kind != KindUnknown {
		return kind
	}
	switch {
	case slices.Contains(composeNames, base) || named && slices.ContainsFunc(composeNames[2:], func(n string) bool { return strings.HasSuffix(base, "."+n) }):
		return KindCompose
	case named && utf8.Valid(data) && bytes.Contains(data, []byte("-----BEGIN CERTIFICATE-----")):
		return KindTLSCert
	}
	return KindUnknown
}

// nearlyEvidence says what is wrong with a named file that was meant to be one
// of the things that this file knows; nil if nothing shows that.
func nearlyEvidence(name string, data []byte) error {
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	switch {
	case len(data) >= 48 && string(data[len(data)-48:len(data)-32]) == footerGUID:
		_, err := ovmf.ReadTDVF(bytes.NewReader(data), int64(len(data)))
		return &pipeline.InputError{Op: "read firmware", File: name, Err: err, Hint: "only a whole firmware file with a TDX descriptor can be measured"}
	case len(text) > 0 && text[0] == '<':
		_, err := evidence.Read(name, data)
		return err
	}
	return nil
}

// holdsQuote reports whether the beginning of a quote stands somewhere in a text.
func holdsQuote(data []byte) bool {
	return len(data) <= evidenceAtMost && slices.ContainsFunc(quoteTexts, func(q string) bool { return bytes.Contains(data, []byte(q)) })
}

// foreignEvidence is the error that names evidence which is not judged here, or
// that holds more than one machine's; nil for everything else.
func foreignEvidence(name string, data []byte, read bundleReader) *evidence.ForeignError {
	if len(data) > evidenceAtMost {
		return nil
	}
	if _, err := read(name, data); err != nil {
		if f := (*evidence.ForeignError)(nil); errors.As(err, &f) {
			return f
		}
	}
	return nil
}

// recognizeEvidenceJSON knows the JSON documents of this file.
func recognizeEvidenceJSON(v *jsondoc.Value) Kind {
	if v.Kind == jsondoc.Array {
		if len(v.Elems) > 0 && v.Elems[0].Get("imr") != nil && v.Elems[0].Get("digest") != nil {
			return KindEventLog
		}
		return KindUnknown
	}
	if v.Kind != jsondoc.Object {
		return KindUnknown
	}
	if q := v.Get("quote"); q != nil && q.Kind == jsondoc.String && slices.ContainsFunc(quoteTexts, func(p string) bool { return strings.HasPrefix(strings.TrimPrefix(q.Text, "0x"), p) }) {
		return KindQuote
	}
	switch {
	case isGolden(v):
		return KindGolden
	case v.Get("docker_compose_file") != nil:
		return KindCompose
	case has(v, "raw_attestation_doc"):
		return KindContrast // what is wrong with it, reading it shows
	case has(v, "cert_chain", "remote_attestation") && blindllama.Recognize(jsondoc.Style{}.Compact(v)):
		return KindProof
	case has(v, "tpm_quote", "quote", "message", "Quotes", "evidence") && tpmquote.Recognize(jsondoc.Style{}.Compact(v)) != "":
		return KindTPM
	case isSNPJSON(v):
		return KindSNP
	case v.Get("kernel") != nil || v.Get("boot_config") != nil:
		if _, err := tdxmeasure.ParseMetadata("metadata", jsondoc.Style{}.Compact(v)); err == nil {
			return KindMetadata
		}
	}
	return KindUnknown
}

// has reports whether a document has one of the members.
func has(v *jsondoc.Value, names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return v.Get(n) != nil })
}

// isSNPJSON knows the JSON in which reports travel: configfs-tsm, trustee, Azure,
// Tinfoil. What is wrong with one, reading it shows.
func isSNPJSON(v *jsondoc.Value) bool {
	for _, key := range []string{"evidence", "outblob", "hcl_report", "report", "attestation_report", "enclaveAttestationReport"} {
		if v.Get(key) != nil {
			_, err := snpreport.Open("report", jsondoc.Style{}.Compact(v))
			return err == nil
		}
	}
	return false
}

// isCompose: services by name and none of what Kubernetes has.
func isCompose(d *yaml.Node) bool {
	s := yamldoc.Get(d, "services")
	return s != nil && s.Kind == yaml.MappingNode && yamldoc.Get(d, "apiVersion") == nil && yamldoc.Get(d, "kind") == nil
}

func isCapture(dir string) bool { return capture.IsCapture(dir) }

// configureEvidence turns what was found of machines into their part of the
// configuration.
func (s *Subject) configureEvidence(byKind map[Kind][]string) error {
	for _, kind := range []Kind{KindRegistry, KindCompose} {
		if names := byKind[kind]; len(names) > 1 {
			return &pipeline.InputError{
				Op: "check", File: s.Root, Err: fmt.Errorf("holds %d files that are each a %s: %s", len(names), kind, strings.Join(names[:min(4, len(names))], ", ")),
				Hint: "name the files that belong together",
			}
		}
	}
	c := s.Config
	for kind, to := range map[Kind]*string{KindRegistry: &c.Registry, KindCompose: &c.Compose} {
		if len(byKind[kind]) == 1 {
			*to = byKind[kind][0]
		}
	}
	s.connectionCertificate(byKind)
	if certs, n := byKind[KindTLSCert], len(byKind[KindCapture])+len(byKind[KindQuote])+len(byKind[KindRATLS])+len(byKind[KindSNP])+len(byKind[KindTPM])+len(byKind[KindProof])+len(byKind[KindContrast]); len(certs) > 0 && (len(certs) > 1 || n != 1) {
		return &pipeline.InputError{
			Op: "check", File: certs[0], Err: fmt.Errorf("%s for %s: want one certificate and the quote that it is held against", show.Plural(len(certs), "certificate", "certificates"), show.Plural(n, "quote", "quotes")),
			Hint: "for instance retally check quote.hex " + certs[0],
		}
	}
	quotes := slices.Concat(byKind[KindCapture], byKind[KindQuote], byKind[KindRATLS], byKind[KindSNP], byKind[KindTPM], byKind[KindProof], byKind[KindContrast])
	gpus := byKind[KindGPU]
	for _, name := range quotes {
		e := config.Evidence{File: name}
		tpm := slices.Contains(byKind[KindTPM], name) || slices.Contains(byKind[KindProof], name) || slices.Contains(byKind[KindContrast], name)
		if len(quotes) == 1 && len(gpus) == 1 && !tpm {
			e.Also, gpus = []string{gpus[0]}, nil
		}
		if certs := byKind[KindTLSCert]; len(certs) == 1 {
			e.TLSCert = certs[0]
			if s.ratls && slices.Contains(byKind[KindQuote], name) {
				e.Profile = string(evidence.Dstack) // whose certificates bind by another rule
			}
		}
		if err := s.addEvidence(name, e); err != nil {
			return err
		}
	}
	if parts := byKind[KindTPMPart]; len(parts) > 0 {
		if len(parts) != 3 {
			return &pipeline.InputError{
				Op: "check", File: parts[0], Err: fmt.Errorf("%s of a TPM quote in tpm2-tools' files: want its message, signature and PCR values", show.Plural(len(parts), "part", "parts")),
				Hint: "retally evidence verify takes the three files of one quote",
			}
		}
		if err := s.addEvidence(parts[0], config.Evidence{File: parts[0], Also: parts[1:]}); err != nil {
			return err
		}
	}
	if err := s.configureTPM(byKind); err != nil {
		return err
	}
	for _, name := range gpus {
		if err := s.addEvidence(name, config.Evidence{File: name, Profile: string(evidence.NVIDIA)}); err != nil {
			return err
		}
	}
	for _, name := range byKind[KindMetadata] {
		entry, err := EntryName(s.Reader.Path(name))
		if err != nil {
			return err
		}
		if c.Platforms == nil {
			c.Platforms = map[string]config.Platform{}
		}
		c.Platforms[entry] = config.Platform{TEE: "tdx", Metadata: name}
	}
	return nil
}

// connectionCertificate: an RA-TLS certificate that is named beside one quote is
// the connection's, as any certificate that is named. Alone it is evidence itself.
func (s *Subject) connectionCertificate(byKind map[Kind][]string) {
	certs := byKind[KindRATLS]
	if len(certs) != 1 || len(byKind[KindTLSCert]) > 0 || len(byKind[KindCapture])+len(byKind[KindQuote])+len(byKind[KindSNP]) != 1 {
		return
	}
	if slices.ContainsFunc(s.Found, func(f Found) bool { return f.Name == certs[0] && f.Named }) {
		byKind[KindTLSCert], byKind[KindRATLS] = certs, nil
		s.ratls = true
	}
}

// EntryName makes the name of an entry from a file's path: without folder and
// extension.
func EntryName(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	base := filepath.Base(abs)
	if cut := strings.TrimSuffix(base, filepath.Ext(base)); cut != "" {
		base = cut
	}
	// A line break in it must not make a line of a report or an error.
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '_'
		}
		return r
	}, base), nil
}

func (s *Subject) addEvidence(file string, e config.Evidence) error {
	name, err := EntryName(s.Reader.Path(file))
	if err != nil {
		return err
	}
	if s.Config.Evidence == nil {
		s.Config.Evidence = map[string]config.Evidence{}
	}
	if _, dup := s.Config.Evidence[name]; dup {
		return &pipeline.InputError{Op: "check", File: file, Err: fmt.Errorf("two pieces of evidence are called %s", name), Hint: "check them one by one"}
	}
	s.Config.Evidence[name] = e
	return nil
}
