package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/source"
)

const isPublished = "the root hash is the published one"

// clone copies a tree; a function may change each node, or leave it out by
// returning false.
func clone(p string, n *erofs.Node, change func(p string, n *erofs.Node) bool) *erofs.Node {
	c := *n
	if !change(p, &c) {
		return nil
	}
	c.Children = nil
	for _, k := range n.Children {
		if copied := clone(path.Join(p, k.Name), k, change); copied != nil {
			c.Children = append(c.Children, copied)
		}
	}
	return &c
}

// each visits all nodes below the root.
func each(p string, n *erofs.Node, visit func(p string, n *erofs.Node)) {
	for _, k := range n.Children {
		name := path.Join(p, k.Name)
		visit(name, k)
		each(name, k, visit)
	}
}

// content reads a small file; nil if it is large or cannot be read.
func (s *searcher) content(p string, n *erofs.Node) []byte {
	const most = 32 << 20
	if !n.Is(erofs.ModeRegular) || n.Size > most {
		return nil
	}
	f, err := s.dir.Open(p, n)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, n.Size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil
	}
	return b
}

// modes tries what other umasks give, on either side.
func (s *searcher) modes() error {
	script := map[string]bool{}
	plain := true // all modes are those of a checkout
	each("", s.base, func(p string, n *erofs.Node) {
		if n.Is(erofs.ModeRegular) && n.Size > 2 {
			if f, err := s.dir.Open(p, n); err == nil {
				two := make([]byte, 2)
				if _, err := f.ReadAt(two, 0); err == nil && string(two) == "#!" {
					script[p] = true
				}
				f.Close()
			}
		}
		if mode := n.Mode & erofs.ModePerm; !n.Is(erofs.ModeSymlink) && mode != 0o644 && mode != 0o755 {
			plain = false
		}
	})
	type rule struct {
		text string
		of   func(p string, n *erofs.Node) uint32
	}
	perm := func(n *erofs.Node) uint32 { return n.Mode & erofs.ModePerm }
	var rules []rule
	if !plain {
		closed, group := true, true
		each("", s.base, func(_ string, n *erofs.Node) {
			if !n.Is(erofs.ModeSymlink) {
				closed = closed && n.Mode&0o077 == 0
				group = group && n.Mode&0o022 == 0o020
			}
		})
		what := "modes are none of a checkout under umask 022: with 0644"
		switch {
		case closed:
			what = "modes taken from umask 077: with 0644"
		case group:
			what = "modes of umask 002: with g-w"
		}
		rules = append(
			rules,
			rule{"modes of umask 002: with g-w " + isPublished, func(_ string, n *erofs.Node) uint32 { return perm(n) &^ 0o020 }},
			rule{what + ", and 0755 where the owner may execute, " + isPublished, func(_ string, n *erofs.Node) uint32 {
				if n.Is(erofs.ModeDir) || n.Mode&0o100 != 0 {
					return 0o755
				}
				return 0o644
			}},
			rule{what + ", and 0755 for files with #!, " + isPublished, func(p string, n *erofs.Node) uint32 {
				if n.Is(erofs.ModeDir) || script[p] {
					return 0o755
				}
				return 0o644
			}},
			rule{what + ", for all files alike, " + isPublished, func(_ string, n *erofs.Node) uint32 {
				if n.Is(erofs.ModeDir) {
					return 0o755
				}
				return 0o644
			}},
		)
	}
	for _, mask := range []uint32{0o077, 0o002, 0o027, 0o007, 0o000} {
		of := func(_ string, n *erofs.Node) uint32 {
			owner := perm(n) >> 6 & 7
			return (owner<<6 | owner<<3 | owner) &^ mask
		}
		rules = append(rules, rule{fmt.Sprintf("the publisher's umask was %03o: with its modes %s", mask, isPublished), of})
	}
	rules = append(rules, rule{"the publisher's files have mode 0777: with it " + isPublished, func(string, *erofs.Node) uint32 { return 0o777 }},
		rule{"the publisher's files are all executable: with 0755 " + isPublished, func(string, *erofs.Node) uint32 { return 0o755 }})
	for _, r := range rules {
		changed := false
		root := clone("", s.base, func(p string, n *erofs.Node) bool {
			if !n.Is(erofs.ModeSymlink) {
				if m := r.of(p, n); m != perm(n) {
					n.Mode, changed = n.Mode&erofs.ModeType|m, true
				}
			}
			return true
		})
		if changed {
			if err := s.prove(&attempt{anchor: "file-modes", text: r.text, root: root}); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneMode tries the other of git's two modes on each file.
func (s *searcher) oneMode() error {
	var names []string
	each("", s.base, func(p string, n *erofs.Node) {
		if n.Is(erofs.ModeRegular) {
			names = append(names, p)
		}
	})
	for _, name := range names {
		text := ""
		root := clone("", s.base, func(p string, n *erofs.Node) bool {
			if p == name {
				was, is := n.Mode&erofs.ModePerm, uint32(0o644)
				if was == is {
					is = 0o755
				}
				n.Mode = n.Mode&erofs.ModeType | is
				text = fmt.Sprintf("%s: mode %04o in place of %04o: with the latter %s", name, was, is, isPublished)
			}
			return true
		})
		if err := s.prove(&attempt{anchor: "file-modes", text: text, root: root}); err != nil {
			return err
		}
	}
	return nil
}

// known are names that tools leave in a folder, and that no model has.
var known = []string{".DS_Store", ".cache", ".huggingface", "._____temp", ".git", ".gitattributes", ".gitignore", ".idea", ".vscode", "__pycache__", ".ipynb_checkpoints", "Thumbs.db", "desktop.ini", "lost+found", ".locks", ".no_exist", "nohup.out", ".mdl", ".msc", ".mv"}

func isKnown(p string) bool {
	base := path.Base(p)
	return slices.Contains(known, base) || strings.HasSuffix(base, ".lock") || strings.HasSuffix(base, ".incomplete") || strings.HasSuffix(base, "~") || strings.HasSuffix(base, ".swp")
}

// strays leaves out what does not belong to a model: known names, empty folders,
// one by one and all at once.
func (s *searcher) strays() error {
	var found, empty []string
	each("", s.base, func(p string, n *erofs.Node) {
		switch {
		case isKnown(p):
			found = append(found, p)
		case n.Is(erofs.ModeDir) && len(n.Children) == 0:
			empty = append(empty, p)
		}
	})
	for _, p := range empty {
		if err := s.without("hidden-files", p+"/ is empty: without it "+isPublished, p); err != nil {
			return err
		}
	}
	for _, p := range found {
		text := p + ": without it " + isPublished
		for _, folder := range sortedKeys(hubFolders) {
			if top, _, _ := strings.Cut(folder, "/"); top == p && s.at(folder) != nil {
				text = fmt.Sprintf("%s %s ({exclude} %s): without it %s", folder, hubFolders[folder], top, isPublished)
			}
		}
		if err := s.without("hidden-files", text, p); err != nil {
			return err
		}
	}
	if all := slices.Concat(found, empty); len(all) > 1 {
		return s.without("hidden-files", some(all)+": without them "+isPublished, all...)
	}
	return nil
}

// without tries the directory without some names.
func (s *searcher) without(anchor, text string, names ...string) error {
	root := clone("", s.base, func(p string, n *erofs.Node) bool { return !slices.Contains(names, p) })
	return s.prove(&attempt{anchor: anchor, text: text, root: root})
}

// leftOut leaves out one name, or what one glob takes, and two names.
func (s *searcher) leftOut() error {
	var names []string
	globs := map[string][]string{}
	each("", s.base, func(p string, n *erofs.Node) {
		names = append(names, p)
		if n.Is(erofs.ModeDir) {
			return
		}
		if ext := path.Ext(p); ext != "" {
			globs["*"+ext] = append(globs["*"+ext], p)
		}
		if base := path.Base(p); len(base) > 1 && base[0] == '.' {
			globs[".*"] = append(globs[".*"], p)
		}
	})
	shown := func(p string) string {
		for _, k := range s.base.Children {
			if k.Name == p && k.Is(erofs.ModeDir) {
				return p + "/"
			}
		}
		return p
	}
	for _, p := range names {
		if err := s.without("disk-exclusions", shown(p)+" was left out by the publisher: without it "+isPublished, p); err != nil {
			return err
		}
	}
	for _, g := range sortedKeys(globs) {
		if err := s.without("disk-exclusions", g+" was left out by the publisher: without it "+isPublished, globs[g]...); err != nil {
			return err
		}
	}
	if len(names) > 60 {
		return nil
	}
	for i, p := range names {
		for _, q := range names[:i] {
			if err := s.without("disk-exclusions", shown(q)+" and "+shown(p)+" were left out by the publisher: without them "+isPublished, p, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// recipe reads the directory in other ways: with .git, without the entry's
// exclusions, and as a fresh checkout has it.
func (s *searcher) recipe() error {
	whole, err := erofs.ReadDir(s.o.Dir, erofs.ReadOptions{Skip: func(p string, n *erofs.Node) bool {
		return slices.ContainsFunc(s.o.Exclude, func(g Glob) bool { return g.Match(p, n.Is(erofs.ModeDir)) })
	}})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(whole.Children, func(n *erofs.Node) bool { return n.Name == ".git" }) {
		if err := s.prove(&attempt{anchor: "hidden-files", text: "the publisher left .git in: with it " + isPublished, root: whole}); err != nil {
			return err
		}
	}
	if len(s.o.Exclude) > 0 {
		o := s.o
		o.Exclude = nil
		tree, err := readTree(o, nil)
		if err != nil {
			return err
		}
		if err := s.prove(&attempt{anchor: "disk-exclusions", text: "the entry's excluded_files was not applied: with nothing left out " + isPublished, root: tree.Root}); err != nil {
			return err
		}
		for i := range s.o.Exclude {
			o.Exclude = slices.Delete(slices.Clone(s.o.Exclude), i, i+1)
			tree, err := readTree(o, nil)
			if err != nil {
				return err
			}
			if err := s.prove(&attempt{anchor: "disk-exclusions", text: fmt.Sprintf("the pattern %s of the entry's excluded_files was not applied: without it %s", s.o.Exclude[i], isPublished), root: tree.Root}); err != nil {
				return err
			}
		}
	}
	if !s.o.Normalize {
		o := s.o
		o.Normalize = true
		tree, err := readTree(o, nil)
		if err == nil && len(tree.Changes) > 0 {
			var what []string
			for _, c := range tree.Changes {
				what = append(what, c.Text())
			}
			return s.prove(&attempt{anchor: "disk-checkout", text: "with {normalize} " + isPublished + ": " + strings.Join(what, "; "), root: tree.Root})
		}
	}
	return nil
}

// lines tries other line ends, and Git LFS pointers in place of content.
func (s *searcher) lines() error {
	replace := func(anchor, text string, with func(p string, n *erofs.Node) []byte) error {
		content := map[*erofs.Node][]byte{}
		root := clone("", s.base, func(p string, n *erofs.Node) bool {
			if b := with(p, n); b != nil {
				n.Size, n.Link = int64(len(b)), erofs.LinkID{}
				if len(b) == 0 {
					return true
				}
				n.Source = "" // told from the directory's own by its node
			}
			return true
		})
		each("", root, func(p string, n *erofs.Node) {
			was := s.at(p)
			if was != nil && was.Is(erofs.ModeRegular) {
				if b := with(p, was); b != nil {
					content[n] = b
				}
			}
		})
		if len(content) == 0 {
			return nil
		}
		return s.prove(&attempt{anchor: anchor, text: text, root: root, content: content})
	}
	crlf, lf := []byte("\r\n"), []byte("\n")
	text := func(p string, n *erofs.Node) []byte {
		b := s.content(p, n)
		if b == nil || bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 {
			return nil // git's own test for text (buffer_is_binary)
		}
		return b
	}
	err := replace("line-ends", "text files have CRLF: with LF "+isPublished, func(p string, n *erofs.Node) []byte {
		if b := text(p, n); bytes.Contains(b, crlf) {
			return bytes.ReplaceAll(b, crlf, lf)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = replace("line-ends", "the publisher's text files have CRLF: with CRLF "+isPublished, func(p string, n *erofs.Node) []byte {
		if b := text(p, n); bytes.Contains(b, lf) && !bytes.Contains(b, crlf) {
			return bytes.ReplaceAll(b, lf, crlf)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.pointers(); err != nil {
		return err
	}
	lfs := s.largeFiles()
	if lfs == nil {
		return nil
	}
	sums := map[string][]byte{}
	return replace("lfs-pointer", "the publisher's disk has Git LFS pointers in place of content: with them "+isPublished, func(p string, n *erofs.Node) []byte {
		if !lfs(p, n) {
			return nil
		}
		if sums[p] == nil {
			sums[p] = s.pointerOf(p, n)
		}
		return sums[p]
	})
}

// at finds a node of the directory.
func (s *searcher) at(p string) *erofs.Node {
	n := s.base
	for part := range strings.SplitSeq(p, "/") {
		i := slices.IndexFunc(n.Children, func(k *erofs.Node) bool { return k.Name == part })
		if i < 0 {
			return nil
		}
		n = n.Children[i]
	}
	return n
}

// largeFiles reports which files .gitattributes gives to Git LFS, by the names
// alone.
func (s *searcher) largeFiles() func(p string, n *erofs.Node) bool {
	attr := s.at(".gitattributes")
	if attr == nil {
		return nil
	}
	var patterns []string
	for line := range strings.Lines(string(s.content(".gitattributes", attr))) {
		if f := strings.Fields(line); len(f) > 1 && slices.Contains(f[1:], "filter=lfs") {
			patterns = append(patterns, f[0])
		}
	}
	return func(p string, n *erofs.Node) bool {
		return n.Is(erofs.ModeRegular) && slices.ContainsFunc(patterns, func(g string) bool {
			whole, _ := path.Match(g, p)
			base, _ := path.Match(g, path.Base(p))
			return whole || base && !strings.Contains(g, "/")
		})
	}
}

// pointerOf is the Git LFS pointer of a file (git-lfs, docs/spec.md).
func (s *searcher) pointerOf(p string, n *erofs.Node) []byte {
	f, err := s.dir.Open(p, n)
	if err != nil {
		return nil
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n.Size)); err != nil {
		return nil
	}
	return fmt.Appendf(nil, "version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n", h.Sum(nil), n.Size)
}

// pointers plans the disk with the sizes that Git LFS pointers name. The content
// is not here, so only the length can agree.
func (s *searcher) pointers() error {
	if s.want.HashOffset == 0 {
		return nil
	}
	var names []string
	var sizes []string
	root := clone("", s.base, func(p string, n *erofs.Node) bool {
		if n.Is(erofs.ModeRegular) && source.MayBePointer(n.Size) {
			if ptr, err := source.ParsePointer(s.content(p, n)); err == nil {
				names, sizes = append(names, p), append(sizes, fmt.Sprint(ptr.Size))
				n.Size = ptr.Size
			}
		}
		return true
	})
	if len(names) == 0 {
		return nil
	}
	plan, err := erofs.NewPlan(root)
	if err != nil || plan.Size() != s.want.HashOffset {
		return nil
	}
	is, size := "is a Git LFS pointer", "size "+sizes[0]
	if len(names) > 1 {
		is, size = "are Git LFS pointers", "their sizes"
	}
	s.found.Reasons = append(s.found.Reasons, Reason{"lfs-pointer", fmt.Sprintf("%s %s in place of content (git lfs pull): planned with %s hash_offset is the published one", some(names), is, size), false})
	return errFound
}

// names tries other spellings of each file's name.
func (s *searcher) names() error {
	type other struct{ dir, was, is string }
	var list []other
	each("", s.base, func(p string, n *erofs.Node) {
		if !n.Is(erofs.ModeRegular) {
			return
		}
		for _, is := range spellings(n.Name) {
			if s.at(path.Join(path.Dir(p), is)) == nil {
				list = append(list, other{path.Dir(p), n.Name, is})
			}
		}
	})
	abs, err := filepath.Abs(s.o.Dir)
	if err != nil {
		return err
	}
	for _, o := range list {
		was := path.Join(o.dir, o.was)
		root := clone("", s.base, func(p string, n *erofs.Node) bool {
			if p == was {
				n.Name = o.is
				if n.Source == "" {
					n.Source = filepath.Join(abs, filepath.FromSlash(was))
				}
			}
			return true
		})
		if err := s.prove(&attempt{anchor: "disk-renamed", text: fmt.Sprintf("%s: a name differs: as %s %s", was, o.is, isPublished), root: root}); err != nil {
			return err
		}
	}
	return nil
}

// spellings are names that a file may have had before it was saved again.
func spellings(name string) (out []string) {
	ext := path.Ext(name)
	stem := strings.TrimSuffix(name, ext)
	add := func(s string) {
		if s != "" && s != name && s != "." && s != ".." && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	bare := strings.TrimRight(stem, "0123456789")
	add(bare + ext)
	for _, tail := range []string{"-", "_", ".", " ", " (", "("} {
		add(strings.TrimSuffix(strings.TrimRight(strings.TrimSuffix(stem, ")"), "0123456789"), tail) + ext)
	}
	for _, tail := range []string{"_copy", "-copy", " copy", " - Copy", "_new", "_old"} {
		if short, ok := strings.CutSuffix(stem, tail); ok {
			add(short + ext)
		}
	}
	if path.Ext(stem) != "" {
		add(stem) // config.json.txt, model.safetensors.download
	}
	add(strings.ToLower(name))
	add(strings.ReplaceAll(name, "_", "-"))
	add(strings.ReplaceAll(name, "-", "_"))
	return out
}

// mostPadding bounds the zeros that are put behind an image, in bytes.
const mostPadding = 4 << 30

// forms tries other options of mkfs.erofs.
func (s *searcher) forms() error {
	owners := [][2]uint32{{1000, 1000}, {1001, 1001}, {65534, 65534}, {1000, 100}, {1, 1}}
	if uid, gid, ok := ownerOf(s.o.Dir); ok {
		owners = slices.Insert(owners, 0, [2]uint32{uid, gid})
	}
	for _, o := range owners {
		if o == [2]uint32{} {
			continue
		}
		what := fmt.Sprintf("uid %d and gid %d", o[0], o[1])
		if o[0] == o[1] {
			what = fmt.Sprintf("uid and gid %d", o[0])
		}
		if err := s.prove(&attempt{anchor: "disk-owner", text: "the publisher's files have " + what + " (no {all-root}): with it " + isPublished, form: erofs.Form{UID: o[0], GID: o[1]}}); err != nil {
			return err
		}
	}
	for _, a := range []*attempt{
		{anchor: "disk-mkfs-options", text: "the publisher had -Enoinline_data: with it " + isPublished, form: erofs.Form{NoInline: true}},
		{anchor: "disk-mkfs-options", text: "the publisher had -Eforce-inode-extended: with it " + isPublished, form: erofs.Form{Extended: true}},
		{anchor: "disk-mkfs-options", text: "the publisher had -Enoinline_data and -Eforce-inode-extended: with them " + isPublished, form: erofs.Form{NoInline: true, Extended: true}},
	} {
		if err := s.prove(a); err != nil {
			return err
		}
	}
	plan, err := erofs.NewPlan(s.base)
	if err == nil && s.want.HashOffset > plan.Size() && s.want.HashOffset-plan.Size() <= mostPadding {
		size := fmt.Sprintf("%d bytes", s.want.HashOffset)
		if s.want.HashOffset%(1<<20) == 0 {
			size = fmt.Sprintf("%d MiB", s.want.HashOffset>>20)
		}
		return s.prove(&attempt{anchor: "disk-padded", text: "image padded to " + size + ": with zeros behind it " + isPublished, padded: true})
	}
	return nil
}

// trees tries other options of veritysetup.
func (s *searcher) trees() error {
	type option struct {
		text string
		set  func(*verity.Params)
	}
	list := []option{
		{"no salt", func(p *verity.Params) { p.Salt = nil }},
		{"a salt of 32 zero bytes", func(p *verity.Params) { p.Salt = make([]byte, 32) }},
		{"a tree of format 0", func(p *verity.Params) { p.HashType = 0 }},
		{"a tree of format 0 and no salt", func(p *verity.Params) { p.HashType, p.Salt = 0, nil }},
	}
	for _, n := range []int{1024, 512, 2048} {
		list = append(list, option{fmt.Sprintf("data and hash blocks of %d bytes", n), func(p *verity.Params) { p.DataBlockSize, p.HashBlockSize = n, n }},
			option{fmt.Sprintf("data and hash blocks of %d bytes and no salt", n), func(p *verity.Params) { p.DataBlockSize, p.HashBlockSize, p.Salt = n, n, nil }})
	}
	if alg := s.want.Root.Algorithm(); alg != digest.SHA256 {
		list = []option{
			{"a tree of " + alg.String(), func(p *verity.Params) { p.Hash = alg }},
			{"a tree of " + alg.String() + " and no salt", func(p *verity.Params) { p.Hash, p.Salt = alg, nil }},
		}
	}
	for _, o := range list {
		if err := s.prove(&attempt{anchor: "verity-parameters", text: "the publisher's veritysetup made " + o.text + ": with it " + isPublished, params: o.set}); err != nil {
			return err
		}
	}
	return nil
}

// block0 tries fields that stand in the first block alone, so that a variant
// costs one block and the first hash block of each level: times, labels, and the
// bit of extended attributes.
func (s *searcher) block0() error {
	m, err := s.measure(&attempt{})
	if err != nil || m == nil {
		return err
	}
	s.found.Tried++
	try := func(anchor, text string, change func(sb []byte)) error {
		block := bytes.Clone(m.block0)
		change(block[1024:])
		for _, p := range erofs.Profiles() {
			erofs.SetProfile(block, p)
			got, err := m.with(block)
			if err != nil {
				return err
			}
			if got == s.want.Root {
				s.found.Reasons = []Reason{{anchor, text, true}}
				return errFound
			}
		}
		s.found.Tried++
		return nil
	}
	filter := func(sb []byte) { binary.LittleEndian.PutUint32(sb[8:], binary.LittleEndian.Uint32(sb[8:])|4) }
	if err := try("disk-xattr", "extended attributes were kept (no -x-1): with the name filter's bit in the superblock "+isPublished, filter); err != nil {
		return err
	}
	for _, label := range append(slices.Clone(s.want.Names), filepath.Base(s.o.Dir), "model", "models", "disk", "root", "data", "weights") {
		if label == "" || len(label) > 16 {
			continue
		}
		if err := try("disk-superblock", "volume label "+label+": with it "+isPublished, func(sb []byte) { copy(sb[64:80], label) }); err != nil {
			return err
		}
	}
	for _, t := range s.times() {
		err := try("disk-time", fmt.Sprintf("the publisher's mkfs ran with -T%d, or SOURCE_DATE_EPOCH=%d overrode -T0: with this time %s", t, t, isPublished), func(sb []byte) { binary.LittleEndian.PutUint64(sb[24:], t) })
		if err != nil {
			return err
		}
	}
	return nil
}

// times are those that people write into recipes, those of the files, round
// numbers and midnights.
func (s *searcher) times() (out []uint64) {
	out = append(out, 1, 315532800, 315619200, 1234567890, 946684800, 1<<31-1)
	each("", s.base, func(_ string, n *erofs.Node) {
		if t := n.Stat.MTime / 1e9; t > 0 {
			out = append(out, uint64(t))
		}
	})
	const last = 2_000_000_000
	for t := uint64(100_000); t <= last; t += 100_000 {
		out = append(out, t)
	}
	for t := uint64(946684800); t <= last; t += 86_400 {
		out = append(out, t)
	}
	return out
}

// form says what the published numbers alone tell, after nothing was found.
func (s *searcher) form() {
	add := func(anchor, text string) {
		s.found.Reasons = append(s.found.Reasons, Reason{anchor, text, false})
	}
	off := s.want.HashOffset
	var sum int64
	each("", s.base, func(_ string, n *erofs.Node) {
		if n.Is(erofs.ModeRegular) && n.Link == (erofs.LinkID{}) {
			sum += n.Size
		}
	})
	switch {
	case off > 0 && off%blockSize != 0:
		n := off & -off
		for _, size := range []int64{512, 1024, 2048} {
			if off%size == 0 {
				n = size
			}
		}
		// A length in such blocks may be a multiple of larger ones by chance.
		add("disk-mkfs-options", fmt.Sprintf("file system blocks of %d bytes (hash_offset is a multiple of 512 only)", max(n, 1024)))
	case off > 0 && off < sum:
		add("disk-compressed", "compressed (hash_offset smaller than the sum of the files), or large files are not in the published disk")
	case off > 0 && off != s.res.HashOffset:
		add("disk-root-hash", fmt.Sprintf("the directory has other names or sizes than the published model: the image has %d bytes, published are %d; none of %d known variants gives the root hash", s.res.HashOffset, off, s.found.Tried))
	default:
		add("disk-root-hash", fmt.Sprintf("none of %d known variants gives the published root hash. What is left: the content of a file differs; one file of up to 4096 bytes is missing (name unknown), or a name differs; a UUID, label, time or salt that only the disk file tells ({against-image}); extended attributes were kept (no -x-1); or another release of mkfs.erofs than 1.9 and 1.8.6 to 1.9.4", s.found.Tried))
	}
}
