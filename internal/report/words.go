package report

import (
	"fmt"
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
	{"tpm", "TPM registers (what was measured at boot)", 2},
	{"keys", "Owner keys (who may change or recover the deployment)", 2},
	{"manifest", "The manifest file", 1},
	{"file", "Files checked by their hash when a container starts", 2},
	{"proxy", "The client's proxy", 1},
}

// attributeWords put a key's last parts in plain words.
var attributeWords = map[string]string{
	"manifest":               "digest",
	"root":                   "root hash",
	"hash-offset":            "size before the hash tree",
	"sans":                   "certificate names",
	"secret-id":              "identity of its secrets",
	"role":                   "role",
	"launch":                 "launch digest (firmware, kernel and command line)",
	"apeip":                  "start address of further processors",
	"min-tcb/bootloader":     "minimum boot loader version",
	"min-tcb/tee":            "minimum trusted OS version",
	"min-tcb/snp":            "minimum SNP firmware version",
	"min-tcb/microcode":      "minimum microcode version",
	"mitigation-vector":      "required mitigations (bit mask)",
	"chip-ids":               "list of allowed processors",
	"guest-policy/SMT":       "sibling threads allowed",
	"guest-policy/MigrateMA": "migration allowed",
	"guest-policy/Debug":     "debugging allowed",
	"mrtd":                   "MRTD (firmware)",
	"rtmr0":                  "RTMR0 (machine configuration)",
	"rtmr1":                  "RTMR1 (kernel)",
	"rtmr2":                  "RTMR2 (command line and initrd)",
	"rtmr3":                  "RTMR3 (events at run time)",
	"mrseam":                 "MRSEAM (Intel's TDX module)",
	"xfam":                   "XFAM (processor features)",
	"tcb-evaluation":         "minimum date of Intel's security data (TCB evaluation number)",
	"piids":                  "list of allowed platforms",
	"memory-integrity":       "memory integrity required",
	"smt-disabled":           "sibling threads must be off",
	"static-platform":        "platform must not change",
	"platform":               "platform name",
	"seedshare":              "recovery keys (seedshare owners)",
	"workload":               "update keys (workload owners)",
	"bytes":                  "whole file",
	"index":                  "index digest",
	"config":                 "configuration digest",
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
	if rest, ok := strings.CutPrefix(attribute, "guest-policy "); ok {
		attribute = "guest policy: " + camel(rest)
	} else if rest, ok := strings.CutPrefix(attribute, "platform-info "); ok {
		attribute = "platform must report: " + camel(rest)
	}
	return kind, subject, attribute
}

// camel breaks a field name into words: "SMTEnabled" reads "SMT enabled".
func camel(s string) string {
	var b strings.Builder
	for i, r := range s {
		upper := r >= 'A' && r <= 'Z'
		nextLower := i+1 < len(s) && s[i+1] >= 'a' && s[i+1] <= 'z'
		if i > 0 && upper && nextLower {
			b.WriteByte(' ')
			b.WriteRune(r + 'a' - 'A')
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
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
}

// classWords explain a class where it is used.
var classWords = map[pipeline.Class]string{
	pipeline.ClassTightened:   "tightened (refuses more)",
	pipeline.ClassLoosened:    "LOOSENED (accepts more)",
	pipeline.ClassUnexplained: "changed",
	pipeline.ClassVolatile:    "expected to change",
	pipeline.ClassEqual:       "equal",
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
