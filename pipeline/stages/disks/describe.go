package disks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// Resolve turns the description of a disk into the options that measure it. What
// the published entry leaves out, the recipe leaves out, unless the description
// says otherwise; the same holds of the release of mkfs.erofs.
func Resolve(c config.Disk, listed *privatemode.Model) (disk.Options, error) {
	profile := erofs.Profile19
	if c.MKFS != "" {
		var err error
		if profile, err = erofs.ParseProfile(c.MKFS); err != nil {
			return disk.Options{}, err
		}
	}
	if listed != nil && profile == erofs.Profile19 {
		// The default gives way to what the entry names.
		if p, ok := erofs.ProfileOf(listed.ErofsVersion); ok {
			profile = p
		}
	}
	var exclude []string
	switch {
	case c.Exclude != nil:
		exclude = *c.Exclude
	case listed != nil:
		exclude = listed.Excluded
	}
	return disk.Options{
		Dir: c.Dir, Exclude: disk.ParseExclude(strings.Join(exclude, ",")), Profile: profile, RootOnly: c.RootOnly, Normalize: c.Normalize,
	}, nil
}

// Listed finds the entry of a models file by its exact name; without a name the
// only one that there is. Names that merely look alike never join.
func Listed(models *privatemode.Models, name string) (*privatemode.Model, error) {
	var known, alike []string
	for i := range models.Entries {
		m := &models.Entries[i]
		if m.Key == name || name == "" && len(models.Entries) == 1 {
			return m, nil
		}
		known = append(known, m.Key)
		if name != "" && privatemode.NormalizeName(m.Key) == privatemode.NormalizeName(name) {
			alike = append(alike, m.Key)
		}
	}
	err := fmt.Errorf("has no entry %q", name)
	if len(alike) > 0 {
		err = fmt.Errorf("has no entry %q; alike are %s, and an entry is taken by its exact name only", name, strings.Join(alike, " and "))
	}
	return nil, &pipeline.InputError{Op: "find model", File: models.File, Err: err, Hint: strings.Join(known, ", ")}
}

// Describe turns a measured disk into values and holds them against the
// published entry, if there is one. What was only planned has no root hash: the
// published one then stays unchecked. found is what was looked for after a
// difference. It returns the key of the root hash.
func Describe(out *run.Out, name, dir string, res disk.Result, file string, listed *privatemode.Model, found *disk.Searched) pipeline.Key {
	key := pipeline.NewKey("disk", name, "root")
	if listed != nil {
		key = modelKey(*listed)
	}
	of := func(what string) pipeline.Key { return pipeline.Key(strings.TrimSuffix(string(key), "root") + what) }
	note := fmt.Sprintf("EROFS of %s as mkfs.erofs %s writes it, dm-verity tree behind it", dir, res.Mkfs)
	root, file256 := pipeline.OfDigest(res.RootHash.Digest), pipeline.OfDigest(res.FileSHA256.Digest)
	if !root.IsNone() {
		out.Measure(key, root, dir, note)
	}
	out.Measure(of("hash-offset"), pipeline.OfNumber(uint64(res.HashOffset)), dir, note)
	if !file256.IsNone() {
		out.Measure(of("file"), file256, dir, note)
	}
	for _, w := range slices.Concat(res.Warnings, res.Changes) {
		out.Problem(pipeline.LevelNote, "disk-"+w.Code, pipeline.Where{File: dir}, Remedy(w), "")
	}
	if listed == nil {
		return key
	}
	where := pipeline.Where{File: file, Line: listed.RootLine}
	incomparable := notReproduced(res, listed)
	refer := func(key pipeline.Key, want pipeline.Value, words string) {
		out.References = append(out.References, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: want, Where: where, Words: words, Incomparable: incomparable,
		})
	}
	refer(key, pipeline.OfDigest(listed.RootHash), "published root of "+name)
	if listed.HashOffset > 0 {
		refer(of("hash-offset"), pipeline.OfNumber(listed.HashOffset), "published hash-offset of "+name)
	}
	if !file256.IsNone() && !listed.FileHash.IsZero() {
		refer(of("file"), pipeline.OfDigest(listed.FileHash), "published file of "+name)
	}
	switch {
	case root.IsNone():
	case res.RootHash.Digest == listed.RootHash:
		reasons(out, of("file"), dir, where, found)
	case incomparable == "" || Proved(found):
		whyDisk(out, key, dir, res, where, listed, found)
	}
	return key
}

// notReproduced says why a disk that differs may still be the published one: it
// was made by a release of mkfs.erofs that is not reproduced here, or by one that
// nobody names. One of our releases that gives the published root proves that the
// files are the same, whatever the entry says.
func notReproduced(res disk.Result, listed *privatemode.Model) string {
	if _, ok := erofs.ProfileOf(listed.ErofsVersion); ok || res.RootHash.Digest == listed.RootHash || otherRelease(res, listed) != nil {
		return ""
	}
	if listed.ErofsVersion == "" {
		return "which mkfs.erofs made the published disk is not published, and the releases that are reproduced here (1.9, 1.8.6 to 1.9.4) give another one"
	}
	return fmt.Sprintf("published with mkfs.erofs %s, which is not reproduced here (1.9 and 1.8.6 to 1.9.4 are)", show.Clip(listed.ErofsVersion, 40))
}

// Remedy is what a warning about a directory says, with what helps. The first
// path of a hub's folder is what to leave out.
func Remedy(w disk.Warning) string {
	switch {
	case w.Code == disk.WarnHubFolder && len(w.Paths) > 0:
		return fmt.Sprintf("%s (--exclude %s)", w.Text(), w.Paths[0])
	case w.Code == disk.WarnLFSExcluded && strings.HasSuffix(w.Message, "the pointers"):
		return w.Text() + " (--git takes them from the commit)"
	}
	return w.Text()
}

// whyDisk says why a measured disk is not the published one. The other
// releases of mkfs.erofs were computed in the same pass, so that cause is
// proved; the rest is what is known to change a root hash silently.
func whyDisk(out *run.Out, key pipeline.Key, dir string, res disk.Result, where pipeline.Where, listed *privatemode.Model, found *disk.Searched) {
	if o := otherRelease(res, listed); o != nil {
		out.Causes[key] = append(out.Causes[key], pipeline.Cause{
			Path: []string{string(key), "superblock"}, Expected: res.RootHash.String(), Actual: o.RootHash.String(), Standing: pipeline.Proved, Hint: "erofs-version", Where: where,
			Note: fmt.Sprintf("the published disk was made with mkfs.erofs %s, this one as with %s; the same files give it", o.Mkfs, res.Mkfs),
		})
		return
	}
	if !Proved(found) {
		for _, w := range res.Warnings {
			out.Causes[key] = append(out.Causes[key], pipeline.Cause{Path: []string{string(key), w.Code}, Standing: pipeline.Suspected, Hint: "disk-root-hash", Where: pipeline.Where{File: dir}, Note: Remedy(w)})
		}
	}
	if found != nil {
		reasons(out, key, dir, where, found)
		return
	}
	note := "the directory has other sizes or names than the published model: the image alone is of another length"
	if uint64(res.HashOffset) == listed.HashOffset {
		note = "the image has the published length, as it also has where small files come or go: the content or a mode of some file differs, or a small one is too many or missing"
	}
	note += "; the image is too large for the known variants to be tried unasked: retally disk --search tries them"
	out.Causes[key] = append(out.Causes[key], pipeline.Cause{Path: []string{string(key), dir}, Standing: pipeline.Suspected, Hint: "disk-root-hash", Where: where, Note: note})
}

// optionInBraces is how a room names an option of a command.
var optionInBraces = regexp.MustCompile(`\{([a-z]+(?:-[a-z]+)*)\}`)

// reasons puts down what a search has found.
func reasons(out *run.Out, key pipeline.Key, dir string, where pipeline.Where, found *disk.Searched) {
	if found == nil {
		return
	}
	for _, r := range found.Reasons {
		standing := pipeline.Suspected
		if r.Proved {
			standing = pipeline.Proved
		}
		c := pipeline.Cause{Path: []string{string(key), dir}, Standing: standing, Where: where, Note: optionInBraces.ReplaceAllString(r.Text, "--$1")}
		c.Hint = r.Anchor // the search's own test holds it against the page
		out.Causes[key] = append(out.Causes[key], c)
	}
}

// Proved reports whether a search has found what makes the published value.
func Proved(found *disk.Searched) bool {
	return found != nil && slices.ContainsFunc(found.Reasons, func(r disk.Reason) bool { return r.Proved })
}

// Search looks for why a measured disk is not the published one, if it is not and
// the image is small enough or the search was asked for; else it returns nil.
func Search(ctx context.Context, opts disk.Options, res disk.Result, listed *privatemode.Model, asked bool) (*disk.Searched, error) {
	if listed == nil || res.RootHash.IsZero() || otherRelease(res, listed) != nil || !asked && res.HashOffset > disk.AutoSearch {
		return nil, nil
	}
	same := res.RootHash.Digest == listed.RootHash
	if same && (listed.FileHash.IsZero() || res.FileSHA256.IsZero() || listed.FileHash == res.FileSHA256.Digest) {
		return nil, nil
	}
	want := disk.Want{Root: listed.RootHash, File: listed.FileHash, HashOffset: int64(listed.HashOffset), Names: []string{listed.Key}}
	opts.Progress = nil
	return disk.Search(ctx, opts, res, want)
}

// otherRelease finds the release of mkfs.erofs that gives the published root
// hash, where the asked one does not.
func otherRelease(res disk.Result, listed *privatemode.Model) *disk.Other {
	for i := range res.Others {
		if o := &res.Others[i]; o.RootHash.Digest == listed.RootHash && res.RootHash.Digest != listed.RootHash {
			return o
		}
	}
	return nil
}

// Checkpoint is where the checkpoint of a directory's disk lies among the
// caches. The folder is made.
func Checkpoint(cache, dir string) (string, error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", pipeline.NewInputError("resume", cache, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", &pipeline.InputError{Op: "resume", File: dir, Err: err}
	}
	return filepath.Join(cache, privatemode.NormalizeName(abs)+".retally-checkpoint"), nil
}
