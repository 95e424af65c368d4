// Package disk computes a model disk from a directory: the EROFS image, the
// dm-verity tree behind it, and the hash of both in one file, in one read pass
// with nothing written. It is the published recipe for model disks
//
//	mkfs.erofs -T0 -x-1 --all-root -U00000000-0000-0000-0000-000000000000 disk DIR
//	veritysetup format --uuid=00000000-0000-0000-0000-000000000000 --salt=00 --hash-offset=<size of disk> disk disk
//	sha256sum disk
//
// applied to a git checkout without its .git and without excluded files.
package disk

import (
	"hash"
	"runtime"
	"slices"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/oms"
	"github.com/retally/retally/verity/source"
)

// Options say what to measure and how. Only Dir is required.
type Options struct {
	Dir     string
	Exclude []Glob
	Profile erofs.Profile // "" is Profile19, that of the published disks

	// RootOnly leaves out every hash over the whole file; the root hash then
	// needs no memory for the tree and uses all cores.
	RootOnly bool
	// AllFiles computes the whole-file hashes of the other profiles too.
	AllFiles bool
	// Normalize measures what the published recipe would have checked out in
	// place of what is there: modes of git under umask 022, names of one file
	// as files of their own, files in place of symlinks that leave the tree.
	Normalize bool

	// Write makes the disk file at this path, sparse, and whole or not at all.
	Write string
	// AgainstImage is an existing disk file or image to compare with.
	AgainstImage string

	// Mem bounds the digest table in bytes; what is more goes to a temporary
	// file in TempDir. 0 means 1 GiB, enough for 128 GiB of data.
	Mem     int64
	TempDir string

	// Checkpoint is a file that the state is kept in from time to time, so
	// that a later run with Resume goes on from there. "" keeps none.
	Checkpoint      string
	Resume          bool
	CheckpointEvery time.Duration // 0 means 20 s
	CheckpointBytes int64         // also every so many bytes; 0 means never

	// SourceDateEpoch is the value of that environment variable, which would
	// override mkfs.erofs's -T0; it is warned about, not applied.
	SourceDateEpoch string

	// Watch asks for the content of regular files to be hashed in the same
	// pass: it returns a fresh hash for a path, or nil.
	Watch func(path string, n *erofs.Node) hash.Hash
	// Source is what the directory is to be bound to; it takes the place of
	// Watch, and Result.Source says how it came out.
	Source *source.Tree
	// Signed is a signed statement that the directory is to be bound to, and
	// Signature the path of its file in the directory, "" where it lies
	// elsewhere. Result.Signed says how it came out.
	Signed    *oms.Statement
	Signature string
	// SHA256 and Xet ask for these hashes of every file (Result.Content).
	SHA256, Xet bool

	also []watching

	Workers  int // goroutines that read and hash; 0 means one per core
	Chunk    int // bytes read at once; 0 means a fitting default
	Progress *verity.Progress
}

// Result is a measured disk. Hex is bare, as in models.yaml.
type Result struct {
	Mkfs       erofs.Profile `json:"mkfs"`
	HashOffset int64         `json:"hash_offset"` // size of the EROFS image in bytes
	RootHash   Hex           `json:"root_hash,omitzero"`
	FileSHA256 Hex           `json:"file_hash_sha256,omitzero"` // of the whole disk file
	FileSize   int64         `json:"file_size"`
	Blocks     int64         `json:"blocks"` // of 4096 bytes, in the image
	Inodes     int           `json:"inodes"`
	ErofsSHA   Hex           `json:"erofs_sha256,omitzero"` // of the image alone
	Others     []Other       `json:"other_profiles,omitempty"`

	Warnings []Warning `json:"warnings,omitempty"`
	Changes  []Warning `json:"normalized,omitempty"` // what Normalize changed
	Excluded []string  `json:"excluded,omitempty"`   // paths that were left out
	Against  *Against  `json:"against_image,omitempty"`
	// Source says whether the directory is what Options.Source says.
	Source *source.Report `json:"source,omitempty"`
	// Signed says whether the directory is what Options.Signed says.
	Signed  *oms.Report `json:"signed,omitempty"`
	Content []Content   `json:"content,omitempty"`    // by path
	Resumed int64       `json:"resumed_at,omitempty"` // byte of the image that a resumed run began with

	// Files are the digests that Options.Watch asked for, by path.
	Files map[string][]byte `json:"-"`
	// sums are the digests of the other watches, by their names.
	sums map[string]map[string][]byte
	// Plan is the layout that was measured, for explaining positions.
	Plan *erofs.Plan `json:"-"`
}

// Other is what another release of mkfs.erofs makes of the same directory.
type Other struct {
	Mkfs       erofs.Profile `json:"mkfs"`
	RootHash   Hex           `json:"root_hash,omitzero"`
	FileSHA256 Hex           `json:"file_hash_sha256,omitzero"`
	ErofsSHA   Hex           `json:"erofs_sha256,omitzero"`
}

// Content names the content of a file as hubs do.
type Content struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 Hex    `json:"sha256,omitzero"` // as Git LFS has it
	Xet    string `json:"xet,omitempty"`
}

// Hex is a digest that is shown as bare hex digits.
type Hex struct{ digest.Digest }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.Hex()), nil }

// Params are the dm-verity parameters of a model disk whose image has size
// bytes.
func Params(size int64) verity.Params {
	p := verity.Defaults()
	p.Salt = []byte{0}
	p.HashOffset = size
	p.DataBlocks = uint64(size / int64(p.DataBlockSize))
	return p
}

const (
	blockSize  = 4096
	defaultMem = 1 << 30
)

// excluded reports whether a path itself is left out.
func (o Options) excluded(path string, dir bool) bool {
	if path == ".git" {
		return true
	}
	for _, g := range o.Exclude {
		if g.Match(path, dir) {
			return true
		}
	}
	return false
}

// unfetched reports whether the recipe leaves a file on the disk and its
// content out of the checkout.
func (o Options) unfetched(path string) bool {
	for i := range path {
		if path[i] == '/' && o.excluded(path[:i], true) {
			return false
		}
	}
	return !o.excluded(path, false) && slices.ContainsFunc(o.Exclude, func(g Glob) bool { return g.Unfetched(path) })
}

func (o Options) workers() int {
	n := o.Workers
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
		if !o.RootOnly && n > 1 {
			n-- // the sequential hash keeps a core busy
		}
	}
	return n
}

// chunk is small enough for a core's cache, so that what was just read is
// hashed from there, and keeps all chunks in flight below a fixed sum.
func (o Options) chunk(window int) int {
	if o.Chunk > 0 {
		return max(o.Chunk/blockSize, 1) * blockSize
	}
	size := 256 << 10
	for size > 64<<10 && size*window > 24<<20 {
		size /= 2
	}
	return size
}
