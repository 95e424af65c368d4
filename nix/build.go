package nix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/nix/nar"
)

// Class says how a build ended.
type Class string

// The classes. The exit codes behind them are those of nix-store --realise
// (Nix manual, nix-store, "Operation --realise"), which have been stable; the
// newer commands exit with 1 for everything.
const (
	OK               Class = "ok"
	Failed           Class = "failed"            // 100: a builder failed
	TimedOut         Class = "timeout"           // 101
	HashMismatch     Class = "hash-mismatch"     // 102: a fixed output is another
	NotDeterministic Class = "not-deterministic" // 104: a second build differs
	Trouble          Class = "trouble"           // anything else: nothing was concluded
)

func classOf(code int) Class {
	if code == 0 {
		return OK
	}
	// 0x60 and a bit for each kind; the gravest about the result first.
	switch bits := code & 0xf; {
	case code&^0xf != 0x60 || bits == 0:
		return Trouble
	case bits&8 != 0:
		return NotDeterministic
	case bits&2 != 0:
		return HashMismatch
	case bits&1 != 0:
		return TimedOut
	default:
		return Failed
	}
}

// Options say how to build.
type Options struct {
	// Store is the folder of a store of its own; it is made. Empty is not allowed:
	// the machine's store is left alone.
	Store string
	// Substituters are caches that inputs may come from. Outputs that came from one
	// are built here nevertheless, and compared.
	Substituters []string
	// TrustedKeys are the public keys that substitutes must be signed with.
	TrustedKeys []string
	// SandboxPaths are added to the sandbox, as Nix's option sandbox-paths has
	// them.
	SandboxPaths []string
	// Timeout of one builder, in whole seconds; 0: none.
	Timeout time.Duration
	// Overrides are `--override-input` pairs for the flake.
	Overrides [][2]string
	// Config is the rest of nix.conf, one option a line. What decides about trust
	// cannot be set there.
	Config   []string
	Progress func(Progress)
}

// Nix is the program and a store.
type Nix struct {
	Version  string // "2.8.0"
	o        Options
	nix      string
	nixStore string
	home     string
	oldStyle bool // nix show-derivation
}

// Minimum is the oldest version whose output forms are known.
var Minimum = [2]int{2, 8}

var versionText = regexp.MustCompile(`\b(\d+)\.(\d+)(\.\d+)?`)

// ErrNoNix is wrapped by the error about a machine without Nix.
var ErrNoNix = errors.New("nix is not installed here")

// Open looks for Nix, asks for its version, and makes the store's folder.
func Open(ctx context.Context, o Options) (*Nix, error) {
	n := &Nix{o: o}
	var err1, err2 error
	n.nix, err1 = exec.LookPath("nix")
	n.nixStore, err2 = exec.LookPath("nix-store")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNix, err)
	}
	if o.Store == "" {
		return nil, errors.New("nix: no folder for the store was given")
	}
	var err error
	if n.o.Store, err = filepath.Abs(o.Store); err != nil {
		return nil, err
	}
	for _, c := range o.Config {
		name, _, _ := strings.Cut(strings.TrimSpace(c), " ")
		if strings.ContainsAny(c, "\r\n") || slices.Contains(decisive, strings.TrimPrefix(name, "extra-")) {
			return nil, fmt.Errorf("nix: option %q cannot be set here: what a build may trust is decided by this program", name)
		}
	}
	n.home = filepath.Join(n.o.Store, "home")
	if err := os.MkdirAll(n.home, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, n.nix, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("nix --version: %w", err)
	}
	m := versionText.FindStringSubmatch(string(out))
	if m == nil {
		return nil, fmt.Errorf("nix --version: %q names no version", strings.TrimSpace(string(out)))
	}
	n.Version = m[0]
	major, _ := strconv.Atoi(m[1]) // digits, by the expression
	minor, _ := strconv.Atoi(m[2])
	if major < Minimum[0] || major == Minimum[0] && minor < Minimum[1] {
		return nil, fmt.Errorf("nix is of version %s, want %d.%d or newer", n.Version, Minimum[0], Minimum[1])
	}
	return n, nil
}

// decisive are the options that decide what a build may trust.
var decisive = []string{
	"substituters", "trusted-substituters", "trusted-public-keys", "require-sigs", "sandbox", "sandbox-fallback", "sandbox-paths", "build-hook", "builders", "post-build-hook", "pre-build-hook",
	"store", "accept-flake-config", "impure", "pure-eval", "allow-import-from-derivation", "__noChroot", "plugin-files",
}

// environment is all that Nix gets: nobody's configuration but this one.
func (n *Nix) environment() []string {
	conf := []string{
		"experimental-features = nix-command flakes",
		"substituters = " + strings.Join(n.o.Substituters, " "),
		"trusted-public-keys = " + strings.Join(n.o.TrustedKeys, " "),
		"require-sigs = true",
		"sandbox = true",
		"sandbox-fallback = false",
		"sandbox-paths = " + strings.Join(n.o.SandboxPaths, " "),
		"builders =",
		"build-users-group =",
		"accept-flake-config = false",
		"keep-going = false",
	}
	if n.o.Timeout > 0 {
		conf = append(conf, "timeout = "+strconv.Itoa(int((n.o.Timeout+time.Second-1)/time.Second)))
	}
	conf = append(conf, n.o.Config...)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + n.home, "LC_ALL=C", "NIX_USER_CONF_FILES=/dev/null", "NIX_CONF_DIR=" + n.home,
		"NIX_CONFIG=" + strings.Join(conf, "\n"),
	}
	for _, name := range []string{"TMPDIR", "NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// run starts one command on the store. Its log is read to the end.
func (n *Nix) run(ctx context.Context, program string, args ...string) (out []byte, log *Log, code int, err error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"--store", n.o.Store}, args...)...)
	cmd.Env = n.environment()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stdout bytes.Buffer
	cmd.Stdout = &limited{&stdout, maxJSON}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return nil, nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, 0, fmt.Errorf("%s: %w", filepath.Base(program), err)
	}
	log, lerr := ReadLog(pipe, n.o.Progress)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil, log, 0, ctx.Err()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return stdout.Bytes(), log, exit.ExitCode(), nil
	case err != nil:
		return nil, log, 0, fmt.Errorf("%s: %w", filepath.Base(program), err)
	case lerr != nil && !errors.Is(lerr, os.ErrClosed):
		return nil, log, 0, fmt.Errorf("%s: its log: %w", filepath.Base(program), lerr)
	}
	return stdout.Bytes(), log, 0, nil
}

// limited ends a command that prints without end.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("it prints more than is understood")
	}
	return l.w.Write(p)
}

// BuildError is a build that ended badly, with what Nix said.
type BuildError struct {
	Class Class
	What  string   // the attribute or derivation
	Said  []string // Nix's errors
	Tail  []string // the last lines of the builder
}

// Error implements error.
func (e *BuildError) Error() string {
	s := fmt.Sprintf("nix: %s: %s", e.What, e.Class)
	if len(e.Said) > 0 {
		s += ": " + firstLine(e.Said[len(e.Said)-1])
	}
	return s
}

func firstLine(s string) string {
	s = strings.TrimSpace(s)
	if line, _, ok := strings.Cut(s, "\n"); ok {
		return line
	}
	return s
}

func trouble(what string, code int, log *Log) error {
	return &BuildError{Class: classOf(code), What: what, Said: log.Errors, Tail: log.Tail}
}

// Instantiate evaluates a flake's attribute ("path:DIR#attr") and returns the
// path of its derivation.
func (n *Nix) Instantiate(ctx context.Context, installable string) (string, error) {
	args := []string{"eval", "--raw", installable + ".drvPath", "--no-write-lock-file", "--log-format", "internal-json"}
	for _, o := range n.o.Overrides {
		args = append(args, "--override-input", o[0], o[1])
	}
	out, log, code, err := n.run(ctx, n.nix, args...)
	if err != nil {
		return "", err
	}
	if code != 0 {
		e := &BuildError{Class: Trouble, What: installable, Said: log.Errors, Tail: log.Tail}
		if len(e.Said) == 0 && len(e.Tail) > 0 {
			e.Said = e.Tail[len(e.Tail)-1:]
		}
		return "", e
	}
	drv := string(out)
	if err := checkStorePath(drv); err != nil || !strings.HasSuffix(drv, ".drv") {
		return "", fmt.Errorf("nix eval: %s is no derivation: %q", installable, drv)
	}
	return drv, nil
}

// Origin says where an output's bytes come from.
type Origin string

// The origins.
const (
	// BuiltHere: its derivation ran here, in the sandbox.
	BuiltHere Origin = "built here"
	// Substituted: fetched from a cache, and not built again here.
	Substituted Origin = "substituted"
	// Found: it lay in the store before; who made it is not known.
	Found Origin = "found in the store"
)

// Result is one derivation, built.
type Result struct {
	Installable string
	Drv         string
	Version     string // of Nix
	Outputs     []BuiltOutput
	// Substituted counts the inputs that were fetched and not built, by cache.
	Substituted map[string]int
	Built       int // derivations that ran here
}

// BuiltOutput is one output of a derivation.
type BuiltOutput struct {
	Name   string
	Path   string // in the store's own name: /nix/store/…
	Real   string // where its bytes lie on this machine
	Origin Origin
	// Fixed: the derivation promises this hash and may use the network; that it
	// was built says nothing beyond the hash.
	Fixed bool
	Tree  *nar.Tree
	// Recorded is what the store's database says, an SRI. Where it is not
	// Tree.SRI, somebody changed the bytes.
	Recorded string
}

// Tampered reports whether the bytes are others than those that were built, by
// the store's own account.
func (o *BuiltOutput) Tampered() bool { return o.Recorded != o.Tree.SRI() }

// Build builds a flake's attribute and hashes the bytes of every output. An
// output that a cache gave is built here nevertheless, and must be the same.
func (n *Nix) Build(ctx context.Context, installable string) (*Result, error) {
	drv, err := n.Instantiate(ctx, installable)
	if err != nil {
		return nil, err
	}
	_, log, code, err := n.run(ctx, n.nixStore, "--realise", "--log-format", "internal-json", drv)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, trouble(installable, code, log)
	}
	if log.Unsandboxed {
		return nil, &BuildError{Class: Trouble, What: installable, Said: []string{"it was built without the sandbox"}}
	}
	r := &Result{Installable: installable, Drv: drv, Version: n.Version, Substituted: map[string]int{}, Built: len(log.Building)}
	d, err := n.derivation(ctx, drv)
	if err != nil {
		return nil, err
	}
	ran := slices.Contains(log.Building, drv)
	for _, from := range log.Substituted {
		r.Substituted[from]++
	}
	if !ran {
		// From a cache, or from the store: build it, and compare.
		if ran, err = n.again(ctx, drv); err != nil {
			return nil, err
		}
	}
	var paths []string
	for name, o := range d.Outputs {
		if err := checkStorePath(o.Path); err != nil {
			return nil, fmt.Errorf("nix: output %s of %s: %w", name, drv, err)
		}
		out := BuiltOutput{Name: name, Path: o.Path, Real: filepath.Join(n.o.Store, filepath.FromSlash(o.Path)), Fixed: o.Hash != "", Origin: Found}
		switch _, fetched := log.Substituted[o.Path]; {
		case ran:
			out.Origin = BuiltHere
		case fetched:
			out.Origin = Substituted
		}
		if out.Tree, err = nar.Hash(ctx, out.Real, nar.Options{}); err != nil {
			return nil, fmt.Errorf("nix: output %s of %s: %w", name, drv, err)
		}
		r.Outputs, paths = append(r.Outputs, out), append(paths, o.Path)
	}
	slices.SortFunc(r.Outputs, func(a, b BuiltOutput) int { return strings.Compare(a.Name, b.Name) })
	infos, err := n.recorded(ctx, paths)
	if err != nil {
		return nil, err
	}
	for i := range r.Outputs {
		r.Outputs[i].Recorded = infos[r.Outputs[i].Path]
	}
	return r, nil
}

// again builds a derivation once more and has Nix compare. A derivation whose
// output is fixed is not asked: its hash is.
func (n *Nix) again(ctx context.Context, drv string) (bool, error) {
	_, log, code, err := n.run(ctx, n.nixStore, "--realise", "--check", "--keep-failed", "--log-format", "internal-json", drv)
	if err != nil {
		return false, err
	}
	if code != 0 {
		return false, trouble(drv, code, log)
	}
	return slices.Contains(log.Building, drv), nil
}

func (n *Nix) derivation(ctx context.Context, drv string) (*Derivation, error) {
	ds, err := n.derivations(ctx, drv)
	if err != nil {
		return nil, err
	}
	d := ds[drv]
	if d == nil {
		return nil, fmt.Errorf("nix: the derivation %s is not among those that were shown", drv)
	}
	return d, nil
}

// derivations asks in the form of newer versions first.
func (n *Nix) derivations(ctx context.Context, args ...string) (map[string]*Derivation, error) {
	forms := [][]string{{"derivation", "show"}, {"show-derivation"}}
	if n.oldStyle {
		forms = forms[1:]
	}
	var last error
	for _, form := range forms {
		out, log, code, err := n.run(ctx, n.nix, slices.Concat(form, []string{"--log-format", "internal-json"}, args)...)
		if err != nil {
			return nil, err
		}
		if code == 0 {
			n.oldStyle = form[0] == "show-derivation"
			return ParseDerivations(out)
		}
		last = trouble(strings.Join(form, " "), code, log)
	}
	return nil, last
}

// Closure reads a derivation and all that it is built from.
func (n *Nix) Closure(ctx context.Context, drv string) (map[string]*Derivation, error) {
	return n.derivations(ctx, "--recursive", drv)
}

// recorded is what the store's database says of paths, as SRI.
func (n *Nix) recorded(ctx context.Context, paths []string) (map[string]string, error) {
	out, log, code, err := n.run(ctx, n.nix, append([]string{"path-info", "--json", "--log-format", "internal-json"}, paths...)...)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, trouble("path-info", code, log)
	}
	infos, err := ParsePathInfo(out)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, i := range infos {
		if !i.Valid {
			return nil, fmt.Errorf("nix: the store does not hold %s", i.Path)
		}
		m[i.Path] = i.NarHash
	}
	for _, p := range paths {
		if m[p] == "" {
			return nil, fmt.Errorf("nix: the store says nothing of %s", p)
		}
	}
	return m, nil
}

// Caches lists where inputs came from, with how many each gave.
func (r *Result) Caches() []string {
	var out []string
	for _, from := range slices.Sorted(maps.Keys(r.Substituted)) {
		out = append(out, fmt.Sprintf("%d from %s", r.Substituted[from], from))
	}
	return out
}
