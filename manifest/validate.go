package manifest

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// Severity of a Problem.
type Severity uint8

// The severities. What Contrast only prints, and what it accepts though it is
// hardly meant, is a warning.
const (
	SeverityError Severity = iota + 1
	SeverityWarning
	// SeverityUnjudged is what a version newer than this program may have
	// written: whether it is right, and what it permits, is not known.
	SeverityUnjudged
)

func (s Severity) String() string {
	switch s {
	case SeverityError:
		return "error"
	case SeverityWarning:
		return "warning"
	case SeverityUnjudged:
		return "not judged"
	}
	return "invalid"
}

// A Problem is one fault of a manifest, with its place.
type Problem struct {
	Pointer      string // of the value, or of the member that is missing
	Line, Column int    // of the value; of the enclosing value if the member is missing
	Code         string // stable name of the kind of fault
	Msg          string
	Hint         string // "" if there is none
	Severity     Severity
}

func (p Problem) String() string {
	s := fmt.Sprintf("%d:%d: %s: %s: %s", p.Line, p.Column, p.Severity, p.Pointer, p.Msg)
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// maxProblems ends a list that nobody would read on.
const maxProblems = 1000

// Validate returns all faults at once, in file order of the parts. The rules
// are those of Contrast's own validation (internal/manifest: manifest.go,
// referencevalues.go, crypto.go), made version-aware by Shape, plus what those
// would silently accept: unknown and misspelt fields, duplicates, values of
// another case.
func (m *Manifest) Validate() []Problem {
	v := &validator{m: m, shape: m.Shape(), count: map[Severity]int{}}
	if !v.shape.Known() {
		var signs []string
		for _, s := range v.shape.Signs {
			signs = append(signs, s.Text)
		}
		v.add(m.tree, "", "mixed-versions", SeverityWarning, "no Contrast version writes these together: "+strings.Join(signs, ", "), "")
	}
	for _, member := range m.tree.Members {
		pointer := "/" + jsondoc.EscapePointer(member.Key)
		switch member.Key {
		case "Policies":
			v.policies(member.Value)
		case "ReferenceValues":
			v.references(member.Value)
		case "WorkloadOwnerPubKeys", "WorkloadOwnerKeyDigests", "SeedshareOwnerPubKeys":
			v.field(member.Value, member.Key, pointer)
			v.ownerKeys(member.Value, member.Key, pointer)
		default:
			v.unknown(member, pointer, "")
		}
	}
	if more := v.cut(); more > 0 {
		// What is not listed may be the worst of it.
		line, column := m.place(m.tree.Offset)
		v.problems = append(v.problems, Problem{"", line, column, "too-many", fmt.Sprintf("%d more problems, which are not listed", more), "", SeverityError})
	}
	return v.problems
}

// cut is the number of problems that the list has no place for.
func (v *validator) cut() int {
	more := 0
	for _, n := range v.count {
		more += max(n-(maxProblems-1), 0)
	}
	return more
}

type validator struct {
	m        *Manifest
	count    map[Severity]int // found, listed or not
	shape    Shape
	problems []Problem
}

func (v *validator) add(at *jsondoc.Value, pointer, code string, severity Severity, msg, hint string) {
	v.addAt(at.Offset, pointer, code, severity, msg, hint)
}

func (v *validator) addAt(offset int, pointer, code string, severity Severity, msg, hint string) {
	// By severity, so that no number of warnings pushes out an error.
	if v.count[severity]++; v.count[severity] >= maxProblems {
		return
	}
	line, column := v.m.place(offset)
	v.problems = append(v.problems, Problem{pointer, line, column, code, msg, hint, severity})
}

// unknown judges a member that the field table does not have. One that looks
// like a known field, or that belongs to another place, is a slip; another one
// may be of a newer version, unless the file says that it is older.
func (v *validator) unknown(member jsondoc.Member, pointer, parent string) {
	known := slices.DeleteFunc(keysUnder(parent), func(k string) bool { return notInFile(parent, k) })
	for _, k := range known {
		if strings.EqualFold(k, member.Key) {
			v.addAt(member.Offset, pointer, "field-case", SeverityError,
				fmt.Sprintf("field %s is spelt %s", quote(member.Key), k), "Go readers take it, others do not")
			return
		}
	}
	near := yamldoc.Nearest(member.Key, known)
	newest := v.shape.Known() && v.shape.Newest == Newer
	switch {
	case newest && parent == "tdx" && areRegisters(member.Value):
		v.addAt(member.Offset, pointer, "newer-field", SeverityUnjudged, fmt.Sprintf("unknown field %s with values of a register: newer than this retally knows, and not judged", quote(member.Key)), "Contrast since September 2026 keeps several values of RTMR0")
	case near != "":
		v.addAt(member.Offset, pointer, "unknown-field", SeverityError, "unknown field "+quote(member.Key), fmt.Sprintf("did you mean %q?", near))
	case newest && !knownElsewhere(member.Key):
		v.addAt(member.Offset, pointer, "newer-field", SeverityUnjudged, "unknown field "+quote(member.Key)+": newer than this retally knows, and not judged", "no known Contrast version has it")
	default:
		v.addAt(member.Offset, pointer, "unknown-field", SeverityError, "unknown field "+quote(member.Key), "no known Contrast version has it")
	}
}

// knownElsewhere reports whether another object has a field of this name.
func knownElsewhere(key string) bool {
	return slices.ContainsFunc(fieldTable, func(f fieldSpec) bool { return f.path[strings.LastIndexByte(f.path, '/')+1:] == key })
}

func (v *validator) policies(policies *jsondoc.Value) {
	const top = "/Policies"
	if len(policies.Members) == 0 {
		v.add(policies, top, "no-policies", SeverityError, "no policy is listed", "run contrast generate, which fills them in")
		return
	}
	lower := map[string]string{}
	ids := map[string]string{}
	var coordinators []jsondoc.Member
	for _, p := range policies.Members {
		pointer := top + "/" + jsondoc.EscapePointer(p.Key)
		v.policyHash(p, pointer)
		if first, dup := lower[strings.ToLower(p.Key)]; dup {
			v.addAt(p.Offset, pointer, "duplicate-policy", SeverityError, "the same hash as "+first+" in another case", "")
		}
		lower[strings.ToLower(p.Key)] = pointer
		switch p.Value.Kind {
		case jsondoc.Array: // Contrast 0.7
			v.field(p.Value, "policy/SANs", pointer)
			continue
		case jsondoc.Object:
		default:
			v.add(p.Value, pointer, "wrong-type", SeverityError, "want an object with SANs, found "+describe(p.Value), "")
			continue
		}
		v.object(p.Value, "policy", pointer)
		if role := p.Value.Get("Role"); role != nil && role.Kind == jsondoc.String {
			switch role.Text {
			case "":
			case roleCoordinator:
				coordinators = append(coordinators, p)
			default:
				v.add(role, pointer+"/Role", "role", SeverityError, "unknown role "+quote(role.Text), `want "coordinator", or no Role`)
			}
		}
		if id := text(p.Value.Get("WorkloadSecretID")); id != "" {
			if first, dup := ids[id]; dup {
				v.add(p.Value.Get("WorkloadSecretID"), pointer+"/WorkloadSecretID", "duplicate-secret-id", SeverityWarning,
					"the same WorkloadSecretID as "+first+": both workloads get the same secret", "")
			} else {
				ids[id] = pointer
			}
		}
	}
	v.coordinators(policies, coordinators)
}

func (v *validator) policyHash(p jsondoc.Member, pointer string) {
	raw, err := hex.DecodeString(p.Key)
	switch {
	case err != nil:
		v.addAt(p.Offset, pointer, "policy-hash", SeverityError, "policy hash "+quote(p.Key)+" is not hex", "want 64 hex digits, a SHA-256")
	case len(raw) != 32:
		v.addAt(p.Offset, pointer, "policy-hash", SeverityError, fmt.Sprintf("policy hash has %d hex digits, want 64", len(p.Key)), "")
	case p.Key != strings.ToLower(p.Key):
		v.addAt(p.Offset, pointer, "policy-hash-case", SeverityWarning, "policy hash in upper case: Contrast looks it up in lower case and never finds it", "write it in lower case")
	}
}

// coordinators checks their number: the Role came with about 1.8; up to 1.19
// exactly one was demanded, later at least one (for 1.20 not established).
func (v *validator) coordinators(policies *jsondoc.Value, found []jsondoc.Member) {
	switch {
	case len(found) == 0 && v.shape.Oldest >= V18:
		v.add(policies, "/Policies", "no-coordinator", SeverityError, `no policy has the Role "coordinator"`, "Contrast refuses such a manifest since about 1.8")
	case len(found) > 1:
		// The sign "several coordinators" lifts the lower bound to 1.20; older
		// fields beside it contradict that and leave the shape unknown.
		severity := SeverityWarning
		if !v.shape.Known() {
			severity = SeverityError
		} else if v.shape.Oldest == Newer {
			return
		}
		v.addAt(found[1].Offset, "/Policies/"+jsondoc.EscapePointer(found[1].Key)+"/Role", "coordinator-count", severity,
			fmt.Sprintf("%d policies have the Role \"coordinator\"", len(found)), "versions up to 1.19 want exactly one")
	}
}

func (v *validator) references(refs *jsondoc.Value) {
	const top = "/ReferenceValues"
	entries := 0
	for _, member := range members(refs) {
		pointer := top + "/" + jsondoc.EscapePointer(member.Key)
		switch member.Key {
		case "snp", "tdx":
			if member.Value.Kind == jsondoc.Null {
				continue
			}
			if member.Value.Kind != jsondoc.Array {
				v.add(member.Value, pointer, "wrong-type", SeverityError, "want an array of reference values, found "+describe(member.Value), "")
				entries++ // something is there; do not call it empty as well
				continue
			}
			entries += len(member.Value.Elems)
			v.entries(member.Value, member.Key, pointer)
		case "SNP":
			entries++
			v.object(member.Value, "snp", pointer)
			v.tcb(member.Value, pointer)
			if refs.Get("TrustedMeasurement") == nil {
				v.missing(refs, top+"/TrustedMeasurement", SeverityError, "launch digest")
			}
		case "TrustedMeasurement":
			v.field(member.Value, "ReferenceValues/TrustedMeasurement", pointer)
		default:
			v.unknown(member, pointer, "ReferenceValues")
		}
	}
	if entries == 0 {
		v.add(refs, top, "no-reference-values", SeverityError, "no reference value: nothing could be attested", "fill in snp or tdx; is the chosen platform supported?")
	}
	v.mixing()
}

func insecure(platform string) bool {
	return strings.Contains(strings.ToLower(platform), "insecure")
}

// mixing: platforms without TEE must not stand beside real ones. An entry
// without a platform counts as secure, so that a slip fails closed.
func (v *validator) mixing() {
	var bad *entry
	secure := false
	for _, kind := range []string{"snp", "tdx"} {
		for _, e := range v.m.entries(kind) {
			if !insecure(text(e.value.Get("Platform"))) {
				secure = true
			} else if bad == nil {
				bad = &e
			}
		}
	}
	if bad == nil {
		return
	}
	at, pointer := bad.value.Get("Platform"), bad.pointer+"/Platform"
	if secure {
		v.add(at, pointer, "insecure-mixed", SeverityError, "insecure platform beside a secure one", "Contrast refuses the mix")
	} else {
		v.add(at, pointer, "insecure", SeverityWarning, "insecure platform: workloads run without a TEE and nothing is attested", "")
	}
}

func (v *validator) entries(list *jsondoc.Value, kind, pointer string) {
	seen := map[string]string{}
	for i, e := range list.Elems {
		at := indexPointer(pointer, i)
		if e.Kind != jsondoc.Object {
			v.add(e, at, "wrong-type", SeverityError, "want an object, found "+describe(e), "")
			continue
		}
		v.object(e, kind, at)
		platform := text(e.Get("Platform"))
		v.platform(e, kind, at)
		if insecure(platform) {
			continue // such an entry has nothing else
		}
		if kind == "snp" {
			v.snp(e, at)
		} else {
			v.tdx(e, at)
		}
		id := normalizedEntry(kind, e)
		if first, dup := seen[id]; dup {
			v.add(e, at, "duplicate-entry", SeverityWarning, "the same reference value as "+first, "")
		} else {
			seen[id] = at
		}
	}
}

func (v *validator) platform(e *jsondoc.Value, kind, pointer string) {
	name := text(e.Get("Platform"))
	other := map[string]string{"snp": "TDX", "tdx": "SNP"}[kind]
	for _, part := range strings.Split(strings.ToUpper(name), "-") {
		if part == other {
			v.add(e.Get("Platform"), pointer+"/Platform", "platform", SeverityError, fmt.Sprintf("platform %s in the list %s", quote(name), kind), "")
		}
	}
}

func (v *validator) snp(e *jsondoc.Value, pointer string) {
	product := e.Get("ProductName")
	switch {
	case product.IsNull():
		v.missing(e, pointer+"/ProductName", SeverityError, "AMD product line")
	case product.Kind == jsondoc.String && product.Text != "Milan" && product.Text != "Genoa":
		v.add(product, pointer+"/ProductName", "product", SeverityError, "unknown product "+quote(product.Text), "want Milan or Genoa")
	}
	if e.Get("TrustedMeasurement").IsNull() {
		v.missing(e, pointer+"/TrustedMeasurement", SeverityError, "launch digest")
	}
	if n := number(e.Get("CPUs")); n != nil && *n == 0 {
		v.add(e.Get("CPUs"), pointer+"/CPUs", "range", SeverityError, "no guest has 0 vCPUs", "")
	}
	v.tcb(e, pointer)
	v.guestPolicy(e.Get("GuestPolicy"), pointer+"/GuestPolicy")
}

// tcb: Contrast only says that these must be filled in before use.
func (v *validator) tcb(e *jsondoc.Value, pointer string) {
	tcb := e.Get("MinimumTCB")
	if tcb != nil && tcb.Kind != jsondoc.Object && tcb.Kind != jsondoc.Null {
		return // reported as a wrong type
	}
	at := e
	if tcb != nil {
		at = tcb
	}
	for _, key := range []string{"BootloaderVersion", "TEEVersion", "SNPVersion", "MicrocodeVersion"} {
		if tcb.Get(key).IsNull() {
			where := at
			if n := tcb.Get(key); n != nil {
				where = n
			}
			v.add(where, pointer+"/MinimumTCB/"+key, "tcb-missing", SeverityWarning, "not filled in", "set it to the lowest SVN to be trusted, see snphost show tcb")
		}
	}
}

// guestPolicy: up to 1.20 Contrast pinned every bit but PageSwapDisable; later
// versions dropped that (a published manifest has SMT off and ABI 1.58).
func (v *validator) guestPolicy(policy *jsondoc.Value, pointer string) {
	if policy == nil || policy.Kind != jsondoc.Object {
		return
	}
	if policy.Get("Debug") != nil && policy.Get("Debug").Bool {
		v.add(policy.Get("Debug"), pointer+"/Debug", "debug", SeverityError, "debug is allowed: the host could read the guest's memory", "set it to false")
	}
	if v.shape.Newest > V120 || v.shape.Oldest < V18 {
		return
	}
	pinned := func(key string, ok bool, want string) {
		if !ok {
			at := policy
			if f := policy.Get(key); f != nil {
				at = f
			}
			v.add(at, pointer+"/"+key, "guest-policy", SeverityError, fmt.Sprintf("want %s, found %s", want, describe(policy.Get(key))), "Contrast up to 1.20 permits no other value")
		}
	}
	value := func(key string) uint64 {
		if n := number(policy.Get(key)); n != nil {
			return *n
		}
		return 0
	}
	pinned("ABIMajor", value("ABIMajor") == 0, "0")
	pinned("ABIMinor", value("ABIMinor") == 0 || value("ABIMinor") == 31, "0 (31 on AKS)")
	flags := bools(policy)
	pinned("SMT", flags["SMT"], "true")
	for _, key := range []string{"MigrateMA", "SingleSocket", "CXLAllowed", "MemAES256XTS", "RAPLDis", "CipherTextHidingDRAM"} {
		pinned(key, !flags[key], "false")
	}
}

func (v *validator) tdx(e *jsondoc.Value, pointer string) {
	for _, f := range [...]struct{ key, words string }{{"MrTd", "measurement of the firmware"}, {"Xfam", "CPU features of the guest"}} {
		if e.Get(f.key).IsNull() {
			v.missing(e, pointer+"/"+f.key, SeverityError, f.words)
		}
	}
	seam := e.Get("MrSeam")
	if seam.IsNull() || seam.Kind == jsondoc.String && seam.Text == "" {
		at := e
		if seam != nil {
			at = seam
		}
		v.add(at, pointer+"/MrSeam", "mrseam-missing", SeverityWarning, "not filled in", "set it to the MRSEAM of the TDX module to be trusted")
	}
	rtmrs, name := e.Get("Rtmrs"), "Rtmrs"
	if old := e.Get("Rtrms"); rtmrs == nil && old != nil {
		rtmrs, name = old, "Rtrms"
	}
	switch {
	case rtmrs.IsNull():
		v.missing(e, pointer+"/Rtmrs", SeverityError, "runtime measurement registers")
	case rtmrs.Kind == jsondoc.Array && len(rtmrs.Elems) != 4 && !slices.ContainsFunc(rtmrs.Elems, v.alternatives):
		v.add(rtmrs, pointer+"/"+name, "rtmr-count", SeverityError, fmt.Sprintf("want 4 registers, found %d", len(rtmrs.Elems)), "")
	}
	// XFAM bits 0 and 1 (x87 and SSE) are fixed to 1 (Intel TDX Module base
	// architecture specification, XFAM), so no guest reports anything else.
	if raw, err := hex.DecodeString(text(e.Get("Xfam"))); err == nil && len(raw) == 8 && raw[0]&3 != 3 {
		v.add(e.Get("Xfam"), pointer+"/Xfam", "xfam", SeverityWarning, "bits 0 and 1 of the first byte are not set: no TDX guest has such an XFAM", "the bytes are least significant first")
	}
}

func (v *validator) missing(parent *jsondoc.Value, pointer string, severity Severity, words string) {
	v.add(parent, pointer, "missing-field", severity, "missing: "+words, "")
}
