package report

import (
	"net/url"
	"strings"

	"github.com/retally/retally/pipeline"
)

// kindWords are the groups of a report in their order: a title that needs no
// other text to be understood, and how many parts of a key name the subject.
var kindWords = []struct {
	kind, title string
	subject     int
}{
	{"image", "Container images (digest of the packed program)", 2},
	{"disk", "Model disks (root hash over every block of the disk)", 2},
	{"policy", "Workloads (a pod may join only if its policy hash is listed)", 4},
	{"snp", "AMD SEV-SNP machines (what the processor must report)", 3},
	{"tdx", "Intel TDX machines (what the processor must report)", 2},
	{"evidence", "Evidence of running machines (signed by the processor's vendor)", 2},
	{"endorsement", "Endorsements (who vouches for it; nothing of it is recounted)", 2},
	{"tpm", "TPM registers (what was measured at boot)", 2},
	{"keys", "Owner keys (who may change or recover the deployment)", 2},
	{"manifest", "The manifest file", 1},
	{"workload", "What runs (containers and runtime of each workload)", 3},
	{"workload-disk", "Model disks in use", 2},
	{"file", "Files checked by their hash when a container starts", 2},
	{"proxy", "The client's proxy", 1},
}

// attributeWords put a key's last parts in plain words, where the words that
// come with the value are longer than a line can bear.
var attributeWords = map[string]string{
	"manifest":                     "digest",
	"root":                         "root hash",
	"file":                         "whole disk file",
	"hash-offset":                  "length of the image",
	"sha256":                       "hash",
	"SANs":                         "names in its certificate",
	"CommonName":                   "first name in its certificate",
	"WorkloadSecretID":             "identity of its secrets",
	"Role":                         "role",
	"launch":                       "launch digest (firmware, kernel, command line)",
	"apeip":                        "start address of further processors",
	"MinimumTCB/BootloaderVersion": "minimum boot loader version",
	"MinimumTCB/TEEVersion":        "minimum trusted OS version",
	"MinimumTCB/SNPVersion":        "minimum SNP firmware version",
	"MinimumTCB/MicrocodeVersion":  "minimum microcode version",
	"MinimumMitigationVector":      "required mitigations (bits)",
	"AllowedChipIDs":               "allowed processors (an empty list allows any)",
	"AllowedPIIDs":                 "allowed platforms (an empty list allows any)",
	"MinTCBEvaluationDataNumber":   "minimum issue of Intel's security data",
	"mrtd":                         "MRTD (firmware)",
	"rtmr0":                        "RTMR0 (machine configuration)",
	"rtmr1":                        "RTMR1 (kernel)",
	"rtmr2":                        "RTMR2 (command line and initrd)",
	"rtmr3":                        "RTMR3 (events at run time)",
	"mr_aggregated":                "MR_AGGREGATED (all registers)",
	"mr_image":                     "MR_IMAGE (registers of the image)",
	"mr_system":                    "mr_system (registers of the machine)",
	"rootfs":                       "root file system",
	"ovmf-hash":                    "launch digest after the firmware's pages",
	"kernel":                       "kernel",
	"initrd":                       "initrd",
	"cmdline":                      "kernel command line",
	"compose":                      "compose file",
	"id-key-digest":                "digest of the ID key",
	"id-block":                     "ID block",
	"authentic":                    "authentic (who signed)",
	"expected":                     "expected (what runs)",
	"bound":                        "bound (whose connection)",
	"mrseam":                       "MRSEAM (Intel's TDX module)",
	"xfam":                         "XFAM (processor features)",
	"bytes":                        "whole file",
}

// part undoes the escaping of one part of a key.
func part(s string) string {
	if t, err := url.PathUnescape(s); err == nil {
		return t
	}
	return s
}

// split takes a key apart into its kind, its subject in words and its
// attribute in words.
func split(k pipeline.Key) (kind, subject, attribute string) {
	parts := strings.Split(string(k), "/")
	kind = parts[0]
	n := 2
	for _, w := range kindWords {
		if w.kind == kind {
			n = w.subject
		}
	}
	n = min(n, len(parts))
	if kind == "snp" && len(parts) == 3 {
		n = 2 // of the platform, whatever the product
	}
	if kind == "snp" && len(parts) > n && strings.HasPrefix(parts[n], "cpus=") {
		n++
	}
	var names []string
	for _, p := range parts[1:n] {
		names = append(names, part(p))
	}
	subject = strings.Join(names, " ")
	if kind == "policy" && len(names) == 3 {
		subject = names[0] + " " + names[2]
	}
	attribute = strings.Join(parts[n:], "/")
	if w, ok := attributeWords[attribute]; ok {
		return kind, subject, w
	}
	if kind == "policy" && attribute == "" {
		return kind, subject, "policy hash"
	}
	for i, p := range parts[n:] {
		parts[n+i] = part(p)
	}
	attribute = strings.Join(parts[n:], " ")
	return kind, subject, attribute
}

func title(kind string) string {
	for _, w := range kindWords {
		if w.kind == kind {
			return w.title
		}
	}
	return kind
}

func order(kind string) int {
	for i, w := range kindWords {
		if w.kind == kind {
			return i
		}
	}
	return len(kindWords)
}

// verdictWords say an outcome so that a reader needs no table.
var verdictWords = map[pipeline.Outcome]string{
	pipeline.OutcomeMatch:     "MATCH",
	pipeline.OutcomeDiffers:   "DIFFERS",
	pipeline.OutcomeUnchecked: "NOT FULLY CHECKED",
	pipeline.OutcomeDenied:    "DENIED",
}

// classWords explain a class where it is used.
var classWords = map[pipeline.Class]string{
	pipeline.ClassTightened:   "tightened (refuses more)",
	pipeline.ClassLoosened:    "LOOSENED (accepts more)",
	pipeline.ClassUnexplained: "changed",
	pipeline.ClassVolatile:    "expected to change",
	pipeline.ClassEqual:       "equal",
}

// DocsURL is where the documents of the project are published; reports that leave
// the machine link there.
const DocsURL = "https://github.com/retally/retally/blob/main/docs/"

// basisWords explain how a value can be known, from strong to weak.
var basisWords = []struct {
	Basis pipeline.Basis
	Words string
}{
	{pipeline.Rebuilt, "built from source by this very run"},
	{pipeline.Recomputed, "computed again from the published bytes"},
	{pipeline.Replayed, "folded again from the events that a machine logged"},
	{pipeline.Endorsed, "stated by a signature that was verified"},
	{pipeline.Assumed, "taken from a profile that no real machine has confirmed; never enough for a match"},
	{pipeline.Copied, "taken over as somebody wrote it; never enough for a match"},
}
