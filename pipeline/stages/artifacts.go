package stages

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/nix"
)

// measuredInto are the registers of a SecretVM that an artifact is measured into,
// where nothing can be computed.
var measuredInto = map[string][]string{
	"firmware": {"mrtd", "rtmr0"}, "kernel": {"rtmr1"}, "initrd": {"rtmr2"}, "cmdline": {"rtmr2"}, "rootfs": {"rtmr3"}, "compose": {"rtmr3"}, "docker_files": {"rtmr3"},
}

// machineFolder is a build or release folder of a machine.
type machineFolder struct {
	dir     string
	roles   map[string]string   // nil of a list alone
	names   map[string][]string // by role: all that lead to it
	several map[string][]string
	cmdline string
	sums    map[string]nix.Sum
	sumFile string
}

// IsMachine reports whether a folder holds what a machine boots.
func IsMachine(ctx context.Context, dir string) bool {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return false
	}
	one, several, _, err := recognize.Artifacts(ctx, dir)
	has := func(role string) bool { return len(one[role])+len(several[role]) > 0 }
	return err == nil && has("kernel") && (has("firmware") || has("initrd") || has("rootfs"))
}

// isSums is what lists of checksums are called.
func isSums(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasSuffix(lower, "sums") || strings.HasSuffix(lower, "sums.txt") || slices.Contains([]string{".sha256", ".sha384", ".sha512", ".sha256sum"}, path.Ext(lower)) || lower == "checksums.txt"
}

func openMachine(ctx context.Context, dir string) (*machineFolder, error) {
	m := &machineFolder{dir: dir, sums: map[string]nix.Sum{}}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, pipeline.NewInputError("read", dir, err)
	}
	if !info.IsDir() {
		return m, m.readSums(ctx, filepath.Dir(dir), filepath.Base(dir))
	}
	if m.names, m.several, m.cmdline, err = recognize.Artifacts(ctx, dir); err != nil {
		return nil, err
	}
	m.roles = map[string]string{}
	for role, names := range m.names {
		m.roles[role] = names[0]
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, pipeline.NewInputError("list", dir, err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && isSums(e.Name()) {
			if err := m.readSums(ctx, dir, e.Name()); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

func (m *machineFolder) readSums(ctx context.Context, dir, name string) error {
	data, _, err := run.NewReader(dir, nil).ReadFile(ctx, name, 4<<20)
	if err != nil {
		return err
	}
	list, err := nix.ParseSums(name, data)
	if err != nil {
		return err
	}
	m.sumFile = name
	for _, s := range list {
		if other, twice := m.sums[s.Name]; twice && other.Digest != s.Digest && other.Digest.Algorithm() == s.Digest.Algorithm() {
			return &pipeline.InputError{Op: "read checksums", File: name, Err: fmt.Errorf("line %d: %s has another digest in another list", s.Line, s.Name)}
		}
		m.sums[s.Name] = s
	}
	return nil
}

// hash is the digest of a file in the folder. Links are followed within it.
func (m *machineFolder) hash(name string, alg digest.Algorithm) (digest.Digest, error) {
	root, err := os.OpenRoot(m.dir)
	if err != nil {
		return digest.Digest{}, pipeline.NewInputError("read", m.dir, err)
	}
	defer root.Close()
	info, err := root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no regular file")
	}
	if err != nil {
		return digest.Digest{}, pipeline.NewInputError("read", name, err)
	}
	f, err := root.Open(name)
	if err != nil {
		return digest.Digest{}, pipeline.NewInputError("read", name, err)
	}
	defer f.Close()
	var h hash.Hash
	switch alg {
	case digest.SHA384:
		h = sha512.New384()
	case digest.SHA512:
		h = sha512.New()
	default:
		alg, h = digest.SHA256, sha256.New()
	}
	if _, err := io.Copy(h, f); err != nil {
		return digest.Digest{}, pipeline.NewInputError("read", name, err)
	}
	return digest.FromHash(alg, h), nil
}

// CompareMachines compares a build folder of a machine with another, with a
// release folder, or with a list of checksums, artifact by artifact, and names
// the registers that each different one moves. A release folder's own files must
// be those that its list names.
func CompareMachines(ctx context.Context, a, b string) (*nix.Differences, *run.Out, error) {
	x, err := openMachine(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	y, err := openMachine(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	c := &machineComparison{a: x, b: y, out: run.NewOut(), base: "vm"}
	for _, side := range []*machineFolder{x, y} {
		if err := c.ownSums(side); err != nil {
			return nil, nil, err
		}
	}
	if err := c.artifacts(ctx); err != nil {
		return nil, nil, err
	}
	return nix.Machines(a, b, c.list), c.out, nil
}

type machineComparison struct {
	a, b *machineFolder
	out  *run.Out
	list []nix.Artifact
	base string
}

// ownSums holds a folder's files against the list in it.
func (c *machineComparison) ownSums(m *machineFolder) error {
	if m.roles == nil {
		return nil // a list alone
	}
	for _, name := range slices.Sorted(maps.Keys(m.sums)) {
		s := m.sums[name]
		got, err := m.hash(name, s.Digest.Algorithm())
		where := pipeline.Where{File: path.Join(filepath.ToSlash(m.dir), m.sumFile), Line: s.Line}
		switch {
		case errors.Is(err, os.ErrNotExist):
			c.out.Problem(pipeline.LevelWarning, "checksum-without-file", where, "lists "+name+", which is not in the folder", "")
		case err != nil:
			return err
		case got != s.Digest:
			c.out.Problem(pipeline.LevelError, "checksum-differs", where, fmt.Sprintf("says that %s has %s, its bytes give %s", name, s.Digest, got), "the folder is not what was released, or its list is of another build")
		}
	}
	return nil
}

// artifacts compares what has a role, then what has the same name.
func (c *machineComparison) artifacts(ctx context.Context) error {
	done := map[string]bool{}
	roles := slices.Sorted(maps.Keys(measuredInto))
	for _, role := range roles {
		if len(c.a.several[role])+len(c.b.several[role]) > 0 {
			key := pipeline.NewKey("artifact", role)
			c.out.Refer(key, pipeline.OfText("one file"), pipeline.Where{File: c.b.dir}, role+" of the other side")
			c.out.Notes[key] = "several files could be the " + role + ": " + strings.Join(append(slices.Clone(c.a.several[role]), c.b.several[role]...), ", ")
			c.list = append(c.list, nix.Artifact{Name: role, Role: role, Moves: []nix.Moved{}, Note: c.out.Notes[key]})
			for _, name := range append(slices.Clone(c.a.several[role]), c.b.several[role]...) {
				done[name] = true
			}
			continue
		}
		name := c.a.roles[role]
		if name == "" && c.b.roles[role] == "" {
			continue
		}
		for _, n := range append(slices.Clone(c.a.names[role]), c.b.names[role]...) {
			done[n] = true
		}
		if err := c.one(ctx, role, name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.b.sums)) {
		if done[name] {
			continue
		}
		if _, err := os.Stat(filepath.Join(c.a.dir, filepath.FromSlash(name))); err != nil {
			key := pipeline.NewKey("artifact", "file", name)
			c.out.Refer(key, pipeline.OfDigest(c.b.sums[name].Digest), pipeline.Where{File: c.b.sumFile, Line: c.b.sums[name].Line}, "file of the release")
			c.out.Notes[key] = "the build has no file of that name"
			c.list = append(c.list, nix.Artifact{Name: name, B: c.b.sums[name].Digest, Moves: []nix.Moved{}, Note: c.out.Notes[key]})
			continue
		}
		if err := c.one(ctx, "", name); err != nil {
			return err
		}
	}
	return nil
}

// one compares one artifact.
func (c *machineComparison) one(ctx context.Context, role, name string) error {
	other := name
	if role != "" && c.b.roles != nil {
		other = c.b.roles[role]
	}
	row := nix.Artifact{Name: name, Role: role, Moves: []nix.Moved{}}
	key := pipeline.NewKey("artifact", "file", name)
	if role != "" {
		key = pipeline.NewKey("artifact", role)
	}
	where := pipeline.Where{File: path.Join(filepath.ToSlash(c.b.dir), other)}
	alg := digest.SHA256
	listed, inList := c.b.sums[name]
	for _, n := range c.a.names[role] {
		if s, ok := c.b.sums[n]; ok {
			listed, inList = s, true
		}
	}
	if c.b.roles == nil || role == "" {
		where = pipeline.Where{File: c.b.sumFile, Line: listed.Line}
		if inList {
			alg = listed.Digest.Algorithm()
		}
	}
	var err error
	if name == "" {
		row.Name = other
		row.Note = "the build has none"
	} else if row.A, err = c.a.hash(name, alg); err != nil {
		return err
	}
	switch {
	case c.b.roles != nil && role != "" && other != "":
		if row.B, err = c.b.hash(other, alg); err != nil {
			return err
		}
	case inList:
		row.B = listed.Digest
	case c.b.roles == nil:
		row.Note = "it is not in the list"
	default:
		row.Note = "the other side has none"
	}
	if !row.A.IsZero() && (inList || c.b.roles != nil) {
		c.out.Measure(key, pipeline.OfDigest(row.A), path.Join(filepath.ToSlash(c.a.dir), name), "")
	}
	want := pipeline.OfDigest(row.B)
	if row.B.IsZero() {
		want = pipeline.OfText("no " + role)
	}
	c.out.Refer(key, want, where, strings.TrimSpace(role+" of the other side"))
	if row.Note != "" {
		c.out.Notes[key] = row.Note
	}
	if !row.A.IsZero() && !row.B.IsZero() && row.A != row.B {
		if err := c.moved(ctx, role, other, &row); err != nil {
			return err
		}
		for _, m := range row.Moves {
			cause := pipeline.Cause{Path: []string{string(key), m.Register}, Expected: m.B, Actual: m.A, Standing: pipeline.Suspected, Note: "the artifact is measured into " + m.Register, Hint: "nix-build"}
			if m.A != "" {
				cause.Standing, cause.Note = pipeline.Proved, "this artifact alone, put in the other's place, moves "+m.Register
			}
			c.out.Causes[key] = append(c.out.Causes[key], cause)
		}
	}
	c.list = append(c.list, row)
	return nil
}

// moved computes the registers with and without the other side's artifact, all
// else as in the build.
func (c *machineComparison) moved(ctx context.Context, role, other string, row *nix.Artifact) error {
	if role == "" {
		row.Note = "it is no artifact that is known to be measured"
		return nil
	}
	if c.b.roles != nil {
		before, err1 := c.registers(ctx, "", "")
		after, err2 := c.registers(ctx, role, filepath.Join(c.b.dir, other))
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := errors.Join(err1, err2); err != nil {
			row.Note = "registers were not computed: " + err.Error()
		}
		for _, register := range slices.Sorted(maps.Keys(before)) {
			if x, y := before[register], after[register]; x != y && y != "" {
				row.Moves = append(row.Moves, nix.Moved{Register: register, A: x, B: y})
			}
		}
	}
	if len(row.Moves) == 0 {
		for _, register := range measuredInto[role] {
			row.Moves = append(row.Moves, nix.Moved{Register: register})
		}
	}
	return nil
}

// registers computes those of the build with one artifact exchanged. The shape of
// the machine is the same both times, and does not matter for what moves.
func (c *machineComparison) registers(ctx context.Context, role, file string) (map[string]string, error) {
	abs, err := filepath.Abs(c.a.dir)
	if err != nil {
		return nil, err
	}
	at := func(r string) string {
		switch {
		case r == role:
			if p, err := filepath.Abs(file); err == nil {
				return p
			}
			return file
		case c.a.roles[r] == "":
			return ""
		default:
			return filepath.Join(abs, c.a.roles[r])
		}
	}
	given := func(r string) *string {
		if p := at(r); p != "" {
			return &p
		}
		return nil
	}
	cmdline := c.a.cmdline
	if role == "cmdline" {
		cmdline = c.b.cmdline
	}
	p := config.Platform{
		TEE: "tdx", Profile: "secretvm", Firmware: given("firmware"), Kernel: given("kernel"), Initrd: given("initrd"), Cmdline: &cmdline,
		Memory: "2G", VCPUs: config.Counts{1}, Rootfs: at("rootfs"), Compose: at("compose"), DockerFiles: at("docker_files"),
	}
	if p.Compose == "" && p.Rootfs != "" {
		p.Compose = "sha256:" + strings.Repeat("00", 32) // any: it is the same both times
	}
	cfg := &config.Config{Version: 1, Platforms: map[string]config.Platform{c.base: p}}
	res, err := run.Run(ctx, Table(), cfg, run.Options{Root: abs})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, m := range res.Report.Measurements {
		if parts := m.Key.Parts(); len(parts) == 3 && parts[0] == "tdx" && (parts[2] == "mrtd" || strings.HasPrefix(parts[2], "rtmr")) {
			out[parts[2]] = m.Value.Digest().Hex()
		}
	}
	return out, nil
}
