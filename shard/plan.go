package shard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// Kinds of sources: the stages that read them.
const (
	Disks  = "disks"
	Images = "images"
)

// PlanFormat is the form of a plan.
const PlanFormat = "retally/shard-plan-file/1"

// Bounds of what is read.
const (
	MaxPlan       = 64 << 20 // bytes of a plan
	MaxParts      = 100_000
	MaxRedundancy = 8
	// MaxSums is how many subtree digests a part has at most, so that its result
	// stays below MaxResult.
	MaxSums   = 64
	MaxResult = 4096 // bytes
	blockSize = 4096
)

// A Plan says who reads what. It alone fixes how many tasks there are.
type Plan struct {
	Format     string   `json:"format"`
	Version    string   `json:"version"`    // of the program
	Redundancy int      `json:"redundancy"` // how many workers are given each part
	Sources    []Source `json:"sources"`
	Parts      []Part   `json:"parts"`
}

// Source is one model directory or one image.
type Source struct {
	Name string `json:"name"` // as in retally.yaml
	Kind string `json:"kind"`
	// Recipe is what the stage needs to find and read it, in its own words.
	Recipe json.RawMessage `json:"recipe"`
	// Layout identifies a directory's names, modes, sizes and links.
	Layout digest.Digest `json:"layout,omitzero"`
	// Disk is what is known of a disk before any content is read.
	Disk *Disk `json:"disk,omitempty"`
}

// Disk is a laid out model disk.
type Disk struct {
	Mkfs     erofs.Profile  `json:"mkfs"`
	Size     int64          `json:"hash_offset"` // of the EROFS image, bytes
	FileSize int64          `json:"file_size"`   // with the hash tree, bytes
	Inodes   int            `json:"inodes"`
	Warnings []disk.Warning `json:"warnings,omitempty"`
	Changes  []disk.Warning `json:"normalized,omitempty"`
	Excluded []string       `json:"excluded,omitempty"`
}

// Part is a run of a source that one worker reads. An image is one part, with
// no offset, length and level.
type Part struct {
	Index  int   `json:"index"`
	Source int   `json:"source"` // its place in Sources
	Offset int64 `json:"offset"` // in the image, bytes
	Length int64 `json:"length"`
	Level  int   `json:"level"` // of the subtree digests that come back
	// Files identifies the files of the part: names, sizes, times, first and
	// last blocks. A change in the middle of a file that keeps its size and time
	// escapes it.
	Files digest.Digest `json:"files"`
}

// PlanError is a plan that cannot be used.
type PlanError struct {
	Place string // JSON pointer, "" for the whole
	What  string
}

func (e *PlanError) Error() string {
	s := "shard plan"
	if e.Place != "" {
		s += " at " + e.Place
	}
	return s + ": " + e.What
}

// Tasks is the number of tasks that an engine runs: parts times redundancy.
func (p *Plan) Tasks() int { return len(p.Parts) * p.Redundancy }

// Task says which part a task is about and which copy of it: tasks of one part
// lie apart, so that one worker rarely has two of them.
func (p *Plan) Task(index int) (part, copy int, err error) {
	if index < 0 || index >= p.Tasks() {
		return 0, 0, &PlanError{"/parts", fmt.Sprintf("there is no task %d: %d parts, each given to %d, are tasks 0 to %d", index, len(p.Parts), p.Redundancy, p.Tasks()-1)}
	}
	return index % len(p.Parts), index / len(p.Parts), nil
}

// Encode writes the plan in its one form; nothing, where a recipe is no JSON.
func (p *Plan) Encode() []byte {
	data, err := json.Marshal(p)
	if err != nil {
		return nil
	}
	return append(data, '\n')
}

// Seal brings a plan that was just made into the form that reading it gives: a
// name of a file that is no UTF-8 is changed by writing it down.
func (p *Plan) Seal() (*Plan, error) {
	out := new(Plan)
	if err := json.Unmarshal(p.Encode(), out); err != nil {
		return nil, &PlanError{"", err.Error()}
	}
	return out, out.Check()
}

// Digest identifies a plan; every result names it.
func (p *Plan) Digest() digest.Digest { return digest.SHA256.Sum(p.Encode()) }

// Title names a part for people.
func (p *Plan) Title(index int) string {
	part := p.Parts[index]
	s := p.Sources[part.Source]
	if s.Kind == Images {
		return fmt.Sprintf("part %d (image %s)", index, s.Name)
	}
	return fmt.Sprintf("part %d (%s, bytes %d to %d)", index, s.Name, part.Offset, part.Offset+part.Length)
}

// decode reads a document that is written by Encode only: its bytes must be what
// encoding it again gives, so that no member is unknown, missing or there twice.
func decode(data []byte, into any, again func() []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("is damaged or cut off: %w", err)
	}
	if !bytes.Equal(again(), data) {
		return fmt.Errorf("is not as it was written: a member, a space or an order differs")
	}
	return nil
}

// ParsePlan reads a plan and checks that its parts tile its sources.
func ParsePlan(data []byte) (*Plan, error) {
	if len(data) > MaxPlan {
		return nil, &PlanError{"", fmt.Sprintf("has more than %d bytes", MaxPlan)}
	}
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err == nil && head.Format != PlanFormat {
		return nil, &PlanError{"/format", fmt.Sprintf("is %.80q, want %q", head.Format, PlanFormat)}
	}
	p := new(Plan)
	if err := decode(data, p, p.Encode); err != nil {
		return nil, &PlanError{"", err.Error()}
	}
	return p, p.Check()
}

// Check holds a plan against its own rules.
func (p *Plan) Check() error {
	fail := func(place, format string, args ...any) error {
		return &PlanError{place, fmt.Sprintf(format, args...)}
	}
	switch {
	case p.Version == "" || len(p.Version) > 100:
		return fail("/version", "is missing or too long")
	case p.Redundancy < 1 || p.Redundancy > MaxRedundancy:
		return fail("/redundancy", "is %d, want 1 to %d", p.Redundancy, MaxRedundancy)
	case len(p.Parts) == 0 || len(p.Parts) > MaxParts || len(p.Parts)*p.Redundancy > MaxParts:
		return fail("/parts", "are %d, each for %d workers: want at least one and at most %d tasks", len(p.Parts), p.Redundancy, MaxParts)
	case len(p.Sources) == 0 || len(p.Sources) > len(p.Parts):
		return fail("/sources", "are %d for %d parts", len(p.Sources), len(p.Parts))
	}
	type id struct{ kind, name string }
	seen := map[id]bool{}
	for i := range p.Sources {
		s, place := &p.Sources[i], fmt.Sprintf("/sources/%d", i)
		switch {
		case s.Name == "" || len(s.Name) > 256 || strings.ContainsFunc(s.Name, unicode.IsControl):
			return fail(place+"/name", "is %.80q, want a name of 1 to 256 printable bytes", s.Name)
		case seen[id{s.Kind, s.Name}]:
			return fail(place+"/name", "%q is there twice", s.Name)
		case s.Kind != Disks && s.Kind != Images:
			return fail(place+"/kind", "is %.80q, want %s or %s", s.Kind, Disks, Images)
		case (s.Kind == Disks) != (s.Disk != nil) || s.Disk != nil && (s.Disk.Size <= 0 || s.Disk.Size%blockSize != 0):
			return fail(place+"/disk", "does not fit the kind %s, or its size is no number of blocks", s.Kind)
		case s.Disk != nil && !slices.Contains(erofs.Profiles(), s.Disk.Mkfs):
			return fail(place+"/disk/mkfs", "is %.40q", s.Disk.Mkfs)
		case s.Kind == Disks && s.Layout.Algorithm() != digest.SHA256:
			return fail(place+"/layout", "is no SHA-256 digest")
		}
		seen[id{s.Kind, s.Name}] = true
	}
	at, source := int64(0), 0
	for i := range p.Parts {
		part, place := &p.Parts[i], fmt.Sprintf("/parts/%d", i)
		if source < len(p.Sources) && at == p.Sources[source].end() && i > 0 {
			source, at = source+1, 0
		}
		switch {
		case part.Index != i:
			return fail(place+"/index", "is %d, want %d", part.Index, i)
		case source >= len(p.Sources) || part.Source != source:
			return fail(place+"/source", "is %d: parts must follow their sources, each to its end", part.Source)
		case part.Files.Algorithm() != digest.SHA256:
			return fail(place+"/files", "is no SHA-256 digest")
		}
		s := &p.Sources[source]
		if s.Kind == Images {
			if part.Offset != 0 || part.Length != 0 || part.Level != 0 {
				return fail(place, "an image is one part, with no offset, length and level")
			}
			at = s.end()
			continue
		}
		unit, err := subtreeBlocks(s, part.Level)
		switch end := part.Offset + part.Length; {
		case err != nil:
			return fail(place+"/level", "%v", err)
		case part.Offset > at:
			return fail(place+"/offset", "leaves a gap: is %d, want %d", part.Offset, at)
		case part.Offset < at:
			return fail(place+"/offset", "overlaps the part before: is %d, want %d", part.Offset, at)
		case part.Length <= 0 || end < part.Offset || end > s.Disk.Size:
			return fail(place+"/length", "is %d at offset %d of %d bytes", part.Length, part.Offset, s.Disk.Size)
		case part.Offset%(int64(unit)*blockSize) != 0 || sumsOf(part.Length, unit) > MaxSums:
			return fail(place, "is not a run of at most %d subtrees of level %d", MaxSums, part.Level)
		case i > 0 && p.Parts[i-1].Source == source && p.Parts[i-1].Level != part.Level:
			return fail(place+"/level", "is %d, and that of the part before %d", part.Level, p.Parts[i-1].Level)
		}
		if layout, err := disk.Params(s.Disk.Size).Layout(uint64(s.Disk.Size / blockSize)); err != nil || part.Level > len(layout.Levels) {
			return fail(place+"/level", "is above the root of the tree")
		}
		at = part.Offset + part.Length
	}
	if source != len(p.Sources)-1 || at != p.Sources[source].end() {
		return fail("/parts", "end before their sources do")
	}
	return nil
}

// end is where the parts of a source end: an image has one part of no length.
func (s *Source) end() int64 {
	if s.Disk == nil {
		return 1
	}
	return s.Disk.Size
}

func subtreeBlocks(s *Source, level int) (uint64, error) {
	return disk.Params(s.Disk.Size).SubtreeBlocks(level)
}

// sumsOf is how many subtrees a part of so many bytes touches.
func sumsOf(length int64, unit uint64) int64 {
	bytesOf := int64(unit) * blockSize
	return (length-1)/bytesOf + 1
}

// DefaultSize is the length of a part where nobody says how many there are to
// be, bytes.
const DefaultSize = 4 << 30

// CutDisk cuts a disk of size bytes into about so many parts: as many, where its
// tree has so many subtrees, and more where a result would grow too long. Parts
// are of even length, in whole subtrees; the last takes what is over.
func CutDisk(size int64, parts int) (level int, bounds []int64) {
	params := disk.Params(size)
	layout, err := params.Layout(uint64(size / blockSize))
	if err != nil || len(layout.Levels) == 0 {
		return 0, []int64{0, size}
	}
	whole := func(level int) int64 { // subtrees that are full
		return size / subtreeBytes(params, level)
	}
	level, n := 0, int64(0)
	for l := 1; l <= min(len(layout.Levels), 4); l++ {
		n = min(max(whole(l), 1), int64(max(parts, 1)))
		if (whole(l)+n-1)/n < MaxSums && (l == 1 || whole(l) >= n && n == int64(max(parts, 1))) {
			level = l
			break
		}
	}
	if level == 0 {
		// No level has so few subtrees a part and so many parts: more parts.
		for level = min(len(layout.Levels), 4); level > 1 && whole(level) < int64(parts); level-- {
		}
		n = max(min(int64(parts), whole(level)), (whole(level)+MaxSums-2)/(MaxSums-1), 1)
	}
	bounds = []int64{0}
	for i := int64(1); i < n; i++ {
		bounds = append(bounds, whole(level)*i/n*subtreeBytes(params, level))
	}
	return level, append(bounds, size)
}

func subtreeBytes(p verity.Params, level int) int64 {
	blocks, err := p.SubtreeBlocks(level)
	if err != nil {
		return 1 << 62 // CutDisk asks for levels that there are
	}
	return int64(blocks) * blockSize
}

// Cut cuts sources into parts, about so many in all (or one for each size bytes,
// where parts is 0). Their identities are still to be filled in.
func Cut(sources []Source, parts int, size int64) []Part {
	var total int64
	for i := range sources {
		if sources[i].Disk != nil {
			total += sources[i].Disk.Size
		}
	}
	if parts > 0 {
		size = max(total/int64(parts), 1)
	}
	if size <= 0 {
		size = DefaultSize
	}
	var out []Part
	for i := range sources {
		d := sources[i].Disk
		if d == nil {
			out = append(out, Part{Index: len(out), Source: i})
			continue
		}
		n := max((d.Size+size/2)/size, 1)
		if parts == 0 {
			n = (d.Size-1)/size + 1
		}
		level, bounds := CutDisk(d.Size, int(min(n, MaxParts)))
		for k := range len(bounds) - 1 {
			out = append(out, Part{Index: len(out), Source: i, Offset: bounds[k], Length: bounds[k+1] - bounds[k], Level: level})
		}
	}
	return out
}
