package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Register names a register of a TD as command line and manifests do.
type Register string

// The registers that say what runs.
const (
	MRTD  Register = "mrtd"
	RTMR0 Register = "rtmr0"
	RTMR1 Register = "rtmr1"
	RTMR2 Register = "rtmr2"
	RTMR3 Register = "rtmr3"
	// MRSEAM names the TDX module that ran the machine. Only manifests list it.
	MRSEAM Register = "mrseam"
)

// Registers lists them in the order in which a machine fills them.
func Registers() []Register { return []Register{MRTD, RTMR0, RTMR1, RTMR2, RTMR3} }

// ReferenceSet is a set of values that hold together: a row of a registry, an
// entry of a manifest, what was recomputed from one set of artifacts. Taking
// one register from one set and another one from the next never passes. Sets of
// the same Group are alternatives; every group must have one that fits.
//
// A set with Claimed is what the evidence's sender says of itself. It can fit,
// but never makes a pass: Claimed says why, and what would mend it.
type ReferenceSet struct {
	Group     string // "tdx.csv", "artifacts", "manifest"
	Name      string // "small prod v0.0.25"
	Where     string // "line 8"
	Version   string // of the release, to name the newest of several that fit
	Registers map[Register]digest.Digest
	Rootfs    digest.Digest // SHA-256 of the root file system, goes into RTMR3; zero: not known
	Claimed   string
	// Source says whose word the set is. One of the sender's can contradict the
	// quote, and never vouches for it.
	Source Source
}

// group is what sets are alternatives in. Whatever the sender calls its sets,
// they are no alternatives of anybody else's.
type group struct {
	name   string
	sender bool
}

func (s ReferenceSet) group() group { return group{s.Group, s.Source == Sender || s.Claimed != ""} }

func (s ReferenceSet) String() string {
	if s.Where == "" {
		return s.Name
	}
	return s.Name + " (" + s.Where + ")"
}

// File is a file that the caller expects, under the name it was given.
type File struct {
	Name string
	Data []byte
}

// RTMR3Input is what goes into a SecretVM's RTMR3.
type RTMR3Input struct {
	Compose     digest.Digest // SHA-256 of the compose file as stored
	Rootfs      digest.Digest // SHA-256
	DockerFiles digest.Digest // SHA-256 of the archive; zero: there is none
	AppID       []byte        // nil: no key management service, the raw scheme
}

// RTMR3Func recomputes RTMR3. The pipeline plugs tdxmeasure in.
type RTMR3Func func(RTMR3Input) (digest.Digest, error)

// member is a register compared with one set.
type member struct {
	register  Register
	got, want digest.Digest
	computed  bool // want was computed from the compose file
}

func (m member) equal() bool { return m.got == m.want }

// fit is a set compared with a quote.
type fit struct {
	set     ReferenceSet
	members []member
	rtmr3   error // why RTMR3 was not compared, nil if it was
}

func (f fit) differing() []member {
	var out []member
	for _, m := range f.members {
		if !m.equal() {
			out = append(out, m)
		}
	}
	return out
}

// better orders fits: fewer differences, then more members compared, then the
// newer version; the order of the file decides last.
func (f fit) better(g fit) bool {
	if a, b := len(f.differing()), len(g.differing()); a != b {
		return a < b
	}
	if a, b := len(f.members), len(g.members); a != b {
		return a > b
	}
	return compareVersions(f.set.Version, g.set.Version) > 0
}

func registersOf(b *tdxquote.Body) map[Register]digest.Digest {
	return map[Register]digest.Digest{MRTD: b.MRTD, RTMR0: b.RTMR[0], RTMR1: b.RTMR[1], RTMR2: b.RTMR[2], RTMR3: b.RTMR[3], MRSEAM: b.MRSEAM}
}

// composeDigest is the SHA-256 of the compose file that the caller expects,
// zero if there is none.
func (r *Request) composeDigest() digest.Digest {
	if r.Compose != nil {
		return digest.SHA256.Sum(r.Compose.Data)
	}
	return r.ComposeHash
}

// composeName names the compose file in reasons.
func (r *Request) composeName() string {
	if r.Compose != nil {
		return r.Compose.Name
	}
	return "given by its digest"
}

var (
	errNoCompose = errors.New("no compose file given (--docker-compose FILE)")
	errNoRootfs  = errors.New("no rootfs digest known (--registry FILE or --rootfs FILE)")
	errNoRTMR3   = errors.New("RTMR3 cannot be computed here")
)

// rtmr3 computes the register that a set and the caller's compose file lead to.
func (r *Request) rtmr3(s ReferenceSet, compose digest.Digest) (digest.Digest, error) {
	switch {
	case compose.IsZero():
		return digest.Digest{}, errNoCompose
	case s.Rootfs.IsZero():
		return digest.Digest{}, errNoRootfs
	case r.RTMR3 == nil:
		return digest.Digest{}, errNoRTMR3
	}
	return r.RTMR3(RTMR3Input{Compose: compose, Rootfs: s.Rootfs, DockerFiles: r.DockerFiles, AppID: r.AppID})
}

func (r *Request) compare(s ReferenceSet, got map[Register]digest.Digest, compose digest.Digest) fit {
	f := fit{set: s}
	for _, reg := range append(Registers(), MRSEAM) {
		if want, ok := s.Registers[reg]; ok {
			f.members = append(f.members, member{reg, got[reg], want, false})
		}
	}
	if _, given := s.Registers[RTMR3]; given {
		return f
	}
	want, err := r.rtmr3(s, compose)
	if err != nil {
		f.rtmr3 = err
		return f
	}
	f.members = append(f.members, member{RTMR3, got[RTMR3], want, true})
	return f
}

// sets are all that the registers are held against.
func (r *Request) sets() []ReferenceSet {
	sets := slices.Clone(r.Sets)
	if r.Registry != nil {
		sets = append(sets, r.Registry.Sets()...)
	}
	if !r.Rootfs.IsZero() {
		sets = append(sets, ReferenceSet{Group: "compose and rootfs", Name: "the files given", Rootfs: r.Rootfs})
	}
	return sets
}

// References are the sets that a quote's registers are held against, as plain
// values: RTMR3 is filled in where the request computes it from the compose
// file, and a set is the sender's word where a part of it is. The order of
// Request.Sets is kept, then the registry's rows, then what rests on a root file
// system alone.
func (r *Request) References() []ReferenceSet {
	compose := r.composeDigest()
	sets := r.sets()
	for i, s := range sets {
		switch {
		case s.Claimed != "":
			sets[i].Source = Sender
		case s.Source == "":
			sets[i].Source = User
		}
		if _, given := s.Registers[RTMR3]; given {
			continue
		}
		want, err := r.rtmr3(s, compose)
		if err != nil {
			continue
		}
		sets[i].Registers = maps.Clone(s.Registers)
		if sets[i].Registers == nil {
			sets[i].Registers = map[Register]digest.Digest{}
		}
		sets[i].Registers[RTMR3] = want
		if r.ComposeSource == Sender {
			sets[i].Source = Sender
		}
	}
	return sets
}

// expectRegisters holds the quote's registers against every group of sets.
func (r *Request) expectRegisters(l *verdict.List, q *tdxquote.Quote, result *Result) {
	got := registersOf(&q.Body)
	sets := r.sets()
	var groups []group
	for _, s := range sets {
		if g := s.group(); !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	if r.Registry != nil && len(r.Registry.Rows) == 0 {
		l.Fail(r.Registry.Name, "the registry has no rows")
	}
	covered, shown := map[Register]bool{}, map[Register]bool{}
	var missing error
	for _, g := range groups {
		best := r.expectGroup(l, g, sets, got, covered, shown, result)
		if best.rtmr3 != nil {
			missing = best.rtmr3
		}
	}
	for _, reg := range Registers() {
		if covered[reg] || result.judged[reg] {
			continue
		}
		why := "nothing to compare with: no registry (--registry FILE), artifacts or manifest (--manifest FILE) gives this register"
		switch {
		case shown[reg]:
			why = "only what came with the evidence gives this value, which is its sender's word; name a reference of your own"
		case reg == RTMR3 && missing != nil:
			why = missing.Error() + r.composeHint()
		}
		l.Open(string(reg), fmt.Sprintf("%s in the quote; %s", got[reg].Hex(), why))
	}
}

func (r *Request) composeHint() string {
	if r.composeDigest().IsZero() && r.Evidence != nil && r.Evidence.ShownCompose {
		return " (the capture holds what the machine shows; give the compose file that you expect)"
	}
	return ""
}

func (r *Request) expectGroup(l *verdict.List, g group, sets []ReferenceSet, got map[Register]digest.Digest, covered, shown map[Register]bool, result *Result) fit {
	compose, group := r.composeDigest(), g.name // hashed once, whatever the number of sets
	var fits []fit
	for _, s := range sets {
		if s.group() == g {
			fits = append(fits, r.compare(s, got, compose))
		}
	}
	best, others := fits[0], 0
	for _, f := range fits[1:] {
		if f.better(best) {
			best = f
		}
	}
	differing := best.differing()
	if best.set.Claimed != "" {
		r.expectClaimed(l, group, best, differing)
		return best
	}
	if len(differing) > 0 {
		for _, m := range best.members {
			result.judged[m.register] = true
		}
		r.explain(l, group, best, fits)
		return best
	}
	if len(best.members) == 0 {
		return best
	}
	for _, f := range fits {
		if len(f.differing()) == 0 && len(f.members) == len(best.members) {
			others++
		}
	}
	var own, senders []string
	for _, m := range best.members {
		if best.set.Source == Sender || m.computed && r.ComposeSource == Sender {
			shown[m.register] = true
			senders = append(senders, string(m.register))
			continue
		}
		covered[m.register] = true
		own = append(own, string(m.register))
	}
	also := ""
	if others > 1 {
		also = fmt.Sprintf("; %d others fit as well", others-1)
	}
	if len(own) > 0 {
		l.Pass(group, fmt.Sprintf("%s fits as a whole: %s%s", best.set, strings.Join(own, ", "), also))
	}
	if len(senders) > 0 {
		what := best.set.String()
		if best.set.Source != Sender {
			what += " with the compose file " + r.composeName()
		}
		l.Open(group, fmt.Sprintf("%s gives the quote's %s%s, but it came with the evidence and is its sender's word", what, strings.Join(senders, ", "), also))
	}
	if best.set.Version != "" && best.set.Source != Sender {
		result.Claims.Release = best.set.Name
	}
	return best
}

// expectClaimed: what the sender says of itself contradicts the quote, or it
// does not, which shows that it is consistent and no more.
func (r *Request) expectClaimed(l *verdict.List, group string, best fit, differing []member) {
	add := l.Note
	if r.AskExpected {
		add = l.Open
	}
	if len(differing) == 0 {
		var names []string
		for _, m := range best.members {
			names = append(names, string(m.register))
		}
		add(group, fmt.Sprintf("%s gives the quote's %s, but %s", best.set, strings.Join(names, ", "), best.set.Claimed))
		return
	}
	if r.AskExpected {
		add = l.Fail
	}
	var parts []string
	for _, m := range differing {
		parts = append(parts, fmt.Sprintf("%s is %s, there %s", m.register, m.got.Hex(), m.want.Hex()))
	}
	add(group, fmt.Sprintf("%s does not give the quote's registers: %s", best.set, strings.Join(parts, "; ")))
}

// explain says why no set of a group fits: the nearest one with its differing
// members, and, where only RTMR3 differs, the compose file.
func (r *Request) explain(l *verdict.List, group string, best fit, fits []fit) {
	differing := best.differing()
	if len(differing) == 1 && differing[0].computed {
		r.explainCompose(l, best, fits, differing[0])
		return
	}
	var parts []string
	for _, m := range differing {
		part := fmt.Sprintf("%s is %s, there %s", m.register, m.got.Hex(), m.want.Hex())
		for _, f := range fits {
			i := slices.IndexFunc(f.members, func(x member) bool { return x.register == m.register && x.equal() })
			if i >= 0 {
				part += ", but is that of " + f.set.String()
				break
			}
		}
		parts = append(parts, part)
	}
	l.Fail(group, fmt.Sprintf("no set of values fits as a whole; the nearest is %s: %s", best.set, strings.Join(parts, "; ")))
}

// explainCompose: firmware, machine and system are a published release; what it
// was told to run is not what the caller expects.
func (r *Request) explainCompose(l *verdict.List, best fit, fits []fit, m member) {
	alike := 0
	for _, f := range fits {
		if d := f.differing(); len(d) == 1 && d[0].computed {
			alike++
		}
	}
	text := fmt.Sprintf("rtmr3 is %s; the compose file %s (SHA-256 %s) with the rootfs of %s gives %s", m.got.Hex(), r.composeName(), r.composeDigest().Hex(), best.set, m.want.Hex())
	if alike > 1 {
		text += fmt.Sprintf(", and no better with %d others of the same registers", alike-1)
	}
	for _, v := range r.composeVariants() {
		compose := digest.SHA256.Sum(v.data)
		for _, f := range fits {
			if d := f.differing(); len(d) != 1 || !d[0].computed {
				continue
			}
			if want, err := r.rtmr3(f.set, compose); err == nil && want == m.got {
				l.Fail("compose", text+". It matches "+f.set.String()+" "+v.name+": the machine runs that form of the file")
				return
			}
		}
	}
	var also []string
	if r.DockerFiles.IsZero() {
		also = append(also, "docker files were not given (--docker-files FILE)")
	}
	if r.AppID == nil {
		also = append(also, "no app id of a key management service was given")
	}
	text += ". The machine was started with another compose file"
	if len(also) > 0 {
		text += ", unless what goes in beside it is missing: " + strings.Join(also, "; ")
	}
	l.Fail("compose", text)
}

type composeVariant struct {
	name string
	data []byte
}

// composeVariants are the forms that editors and forms on web pages make of the
// same text.
func (r *Request) composeVariants() []composeVariant {
	if r.Compose == nil {
		return nil
	}
	data := r.Compose.Data
	unix := bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	all := []composeVariant{
		{"without the line breaks at its end", bytes.TrimRight(data, "\r\n")},
		{"with one line break more at its end", append(bytes.Clone(data), '\n')},
		{"with exactly one line break at its end", append(bytes.TrimRight(bytes.Clone(data), "\r\n"), '\n')},
		{"with LF instead of CR LF", unix},
		{"with CR LF instead of LF", bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n"))},
		{"without the byte order mark", bytes.TrimPrefix(data, []byte("\ufeff"))},
		{"without white space around it", bytes.TrimSpace(data)},
	}
	return slices.DeleteFunc(all, func(v composeVariant) bool { return bytes.Equal(v.data, data) })
}
