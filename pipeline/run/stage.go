package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// A Stage turns named inputs into measurements. It is pure: same inputs and
// Version, same output; the runner may cache, skip or repeat it.
type Stage struct {
	Name    string   // shown to users, part of cache keys
	Version int      // raise when the meaning of the output changes
	After   []string // the stages whose values it asks for; they stand before it
	// Fill writes out the defaults of its own section; nil: it has none. What
	// earlier stages filled in is there.
	Fill func(*config.Config)
	// Check finds what is wrong with its own section. The first fault ends it.
	Check func(*config.Config, config.At) error
	Run   func(context.Context, *In) (*Out, error)
	// Plan says without reading anything large what would be measured from
	// which input, and what is missing.
	Plan func(*config.Config) []PlanLine
	// Split opens what the stage reads, to be read in parts that machines share;
	// nil: its work stays whole. Piece puts one source of such a plan into a
	// configuration, by its recipe.
	Split func(context.Context, *In) ([]Share, error)
	Piece func(c *config.Config, name string, recipe []byte) error
}

// PlanLine is one row of `retally plan`.
type PlanLine struct {
	Key     string `json:"key"`               // a key or a glob
	From    string `json:"from,omitempty"`    // the input
	Missing string `json:"missing,omitempty"` // what is missing, "" if it can be measured
	How     string `json:"how,omitempty"`
}

// In gives a stage its configuration, its inputs and the measurements of the
// stages before it, and records what it asked for: the same edges serve the
// cache, the blame and the trust graph.
type In struct {
	Config   *config.Config
	Progress *Progress

	wanted []string
	field  func(value string, path ...string) string
	reader *Reader
	ms     map[pipeline.Key]pipeline.Measurement
	files  []*readFile
	edges  []edge
	lacks  []pipeline.Lack
}

// NewIn is an In without a run around it: nothing was measured before.
func NewIn(cfg *config.Config, reader *Reader) *In {
	return &In{Config: cfg, Progress: new(Progress), reader: reader, ms: map[pipeline.Key]pipeline.Measurement{}}
}

// As sets how the user gives fields (see Options.Field) and which values are
// asked for, for an In without a run around it.
func (in *In) As(field func(value string, path ...string) string, wanted []string) *In {
	in.field, in.wanted = field, wanted
	return in
}

// Wants reports whether a value is asked for. A stage may leave out what is
// not, and what only that would need.
func (in *In) Wants(k pipeline.Key) bool { return len(in.wanted) == 0 || k.MatchAny(in.wanted) }

// Field says how the user gives a field of the configuration: as a key of
// retally.yaml, or as a flag, whichever door the configuration came through.
// value is what to write there, "" for no proposal.
func (in *In) Field(value string, path ...string) string {
	switch {
	case in.field != nil:
		return in.field(value, path...)
	case value == "":
		return strings.Join(path, ".")
	default:
		return strings.Join(path, ".") + ": " + value
	}
}

// Where is the place of a field that publishes something: in retally.yaml, or a
// flag.
func (in *In) Where(path ...string) pipeline.Where {
	if in.field != nil {
		return pipeline.Where{File: in.field("", path...)}
	}
	return pipeline.Where{File: config.FileName, Pointer: "/" + strings.Join(path, "/")}
}

// A Fault is an error whose hint names fields as their user gives them.
type Fault struct {
	Err  error // without the hint
	Hint string
}

// Error implements error.
func (f *Fault) Error() string {
	if f.Hint == "" {
		return f.Err.Error()
	}
	return f.Err.Error() + " (" + f.Hint + ")"
}

// Unwrap gives the error without its hint.
func (f *Fault) Unwrap() error { return f.Err }

// Path returns where a name leads on this machine.
func (in *In) Path(name string) string { return in.reader.Path(name) }

// edge is a question to earlier stages with the hash of its answer.
type edge struct {
	Ask    string `json:"ask"`
	Glob   bool   `json:"glob,omitempty"` // Ask is a glob, not one key
	Answer string `json:"answer"`
}

// ReadFile reads a file of at most limit bytes and records it.
func (in *In) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, err := in.reader.read(ctx, name, limit)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(in.files, f) {
		in.files = append(in.files, f)
	}
	return f.data, nil
}

// ReadTree lets a room read a file or folder by itself and records it with the
// identity that reading gave.
func (in *In) ReadTree(name string, read func(path string) (digest.Digest, int64, error)) error {
	f, err := in.reader.ReadTree(name, read)
	if err != nil {
		return err
	}
	if !slices.Contains(in.files, f) {
		in.files = append(in.files, f)
	}
	return nil
}

// ReadRemote records something that was read from elsewhere. It has no stat
// identity, so a stage that used it is not reused.
func (in *In) ReadRemote(name string, id digest.Digest, size int64) {
	r := in.reader
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &readFile{input: pipeline.Input{File: name, Digest: id, Size: size}}
	r.memo[name] = f
	in.files = append(in.files, f)
}

// Get returns an earlier stage's measurement.
func (in *In) Get(k pipeline.Key) (pipeline.Measurement, bool) {
	m, ok := in.ms[k]
	in.edges = append(in.edges, edge{string(k), false, answerHash([]pipeline.Measurement{m})})
	return m, ok
}

// All returns the earlier measurements that match a glob, sorted by key.
func (in *In) All(glob string) []pipeline.Measurement {
	out := selectKeys(in.ms, glob)
	in.edges = append(in.edges, edge{glob, true, answerHash(out)})
	return out
}

func selectKeys(ms map[pipeline.Key]pipeline.Measurement, glob string) []pipeline.Measurement {
	var out []pipeline.Measurement
	for k, m := range ms {
		if k.Match(glob) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b pipeline.Measurement) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// Lack records an input that would be needed: a finding, never a default.
func (in *In) Lack(what, purpose, how string) {
	in.lacks = append(in.lacks, pipeline.Lack{What: what, For: purpose, How: how})
}

// answerHash identifies an answer; it hashes a few names and values, never
// the content of an input.
func answerHash(ms []pipeline.Measurement) string {
	data, err := json.Marshal(ms)
	if err != nil {
		return "unencodable: " + err.Error()
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Out is what a stage found.
type Out struct {
	Measurements []pipeline.Measurement            `json:"measurements,omitempty"`
	References   []pipeline.Reference              `json:"references,omitempty"`
	Problems     []pipeline.Problem                `json:"problems,omitempty"`
	Lacks        []pipeline.Lack                   `json:"lacks,omitempty"`
	Complete     []string                          `json:"complete,omitempty"`  // see CompareOptions
	Published    []string                          `json:"published,omitempty"` // see CompareOptions
	Causes       map[pipeline.Key][]pipeline.Cause `json:"causes,omitempty"`    // used where the key's finding is bad
	Notes        map[pipeline.Key]string           `json:"notes,omitempty"`     // shown with the key's finding
	Artifacts    []Artifact                        `json:"artifacts,omitempty"` // files the run writes
	Facts        []string                          `json:"facts,omitempty"`     // what was found in the inputs, counted
	Bytes        *pipeline.BytesResult             `json:"bytes,omitempty"`
	// Missing says of values that were not computed which inputs there were not.
	Missing   map[pipeline.Key][]string `json:"missing,omitempty"`
	TestRoots []string                  `json:"testRoots,omitempty"` // see pipeline.Report
}

// Artifact is a file that a run produces, such as manifest.json.
type Artifact struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}
