package evidence

import (
	"fmt"
	"maps"
	"slices"

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

	// Of an SEV-SNP report: the launch digest, and what the host bound to it.
	Measurement Register = "measurement"
	HostData    Register = "host_data"
)

// Registers lists them in the order in which a machine fills them.
func Registers() []Register { return []Register{MRTD, RTMR0, RTMR1, RTMR2, RTMR3} }

// ReferenceSet is a set of values that hold together: a row of a registry, an
// entry of a manifest, what was recomputed from one set of artifacts. Sets of
// one Group are alternatives; every group must have one that fits. Which one
// does is not judged here: package pipeline compares.
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
	// Demands are what the set asks for beside its registers, judged by what the
	// evidence showed; nil: nothing. A set holds only with them.
	Demands func(*Result) []verdict.Check
	// Source says whose word the set is. One of the sender's can contradict the
	// quote, and never vouches for it.
	Source Source
}

// String names the set and its place.
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

// Reference is a set as a request holds it against a quote.
type Reference struct {
	ReferenceSet
	// Computed says that RTMR3 is no value of the set's source but was computed
	// from its root file system and the compose file of the request.
	Computed bool
	// Missing says why RTMR3 is neither given nor computed.
	Missing error
}

// Source is whose word one value of the reference is: what a compose file of the
// sender's leads to is the sender's, whoever the rest comes from.
func (r *Request) Source(f Reference, reg Register) Source {
	switch {
	case f.ReferenceSet.Source == Sender || f.Claimed != "" || reg == RTMR3 && f.Computed && r.ComposeSource == Sender:
		return Sender
	case f.ReferenceSet.Source == "":
		return User
	}
	return f.ReferenceSet.Source
}

func registersOf(b *tdxquote.Body) map[Register]digest.Digest {
	return map[Register]digest.Digest{MRTD: b.MRTD, RTMR0: b.RTMR[0], RTMR1: b.RTMR[1], RTMR2: b.RTMR[2], RTMR3: b.RTMR[3], MRSEAM: b.MRSEAM}
}

// ComposeDigest is the SHA-256 of the compose file that the caller expects,
// zero if there is none.
func (r *Request) ComposeDigest() digest.Digest {
	if r.Compose != nil {
		return digest.SHA256.Sum(r.Compose.Data)
	}
	return r.ComposeHash
}

// ComposeName names the compose file in reasons.
func (r *Request) ComposeName() string {
	if r.Compose != nil {
		return r.Compose.Name
	}
	return "given by its digest"
}

// ComputeRTMR3 computes the register that a set and a compose file lead to. An
// error says what is missing.
func (r *Request) ComputeRTMR3(s ReferenceSet, compose digest.Digest) (digest.Digest, error) {
	switch {
	case compose.IsZero():
		return digest.Digest{}, fmt.Errorf("no compose file given (%s)", r.field("compose", "FILE"))
	case s.Rootfs.IsZero():
		return digest.Digest{}, fmt.Errorf("no rootfs digest known (%s or %s)", r.field("registry", "FILE"), r.field("rootfs", "FILE"))
	case r.RTMR3 == nil:
		return digest.Digest{}, fmt.Errorf("RTMR3 cannot be computed here")
	}
	return r.RTMR3(RTMR3Input{Compose: compose, Rootfs: s.Rootfs, DockerFiles: r.DockerFiles, AppID: r.AppID})
}

// References are the sets that a quote's registers are held against, as plain
// values, with RTMR3 filled in where the request computes it. The order of
// Request.Sets is kept, then the registry's rows, then what rests on a root file
// system alone.
func (r *Request) References() []Reference {
	sets := slices.Clone(r.Sets)
	if r.Registry != nil {
		sets = append(sets, r.Registry.Sets()...)
	}
	if !r.Rootfs.IsZero() {
		sets = append(sets, ReferenceSet{Group: "compose and rootfs", Name: "the files given", Rootfs: r.Rootfs})
	}
	compose := r.ComposeDigest() // hashed once, whatever the number of sets
	out := make([]Reference, 0, len(sets))
	for _, s := range sets {
		f := Reference{ReferenceSet: s}
		if _, given := s.Registers[RTMR3]; !given {
			want, err := r.ComputeRTMR3(s, compose)
			if err == nil {
				f.Registers = maps.Clone(s.Registers)
				if f.Registers == nil {
					f.Registers = map[Register]digest.Digest{}
				}
				f.Registers[RTMR3] = want
			}
			f.Computed, f.Missing = err == nil, err
		}
		out = append(out, f)
	}
	return out
}

// field is how the caller gives an input, in reasons: its name and what to give.
func (r *Request) field(name, value string) string {
	if r.Field != nil {
		return r.Field(name, value)
	}
	return name + ": " + value
}
