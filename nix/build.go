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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
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
	Unsandboxed      Class = "unsandboxed"       // the sandbox was lost on the way
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
	// Settings are options of nix.conf, by name: those of Allowed alone. Nothing
	// that decides what a build may trust, see or use is among them.
	Settings map[string]string
	// Dir is where relative names of flakes start; "" is the current folder.
	Dir      string
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
	if err := n.o.Check(); err != nil {
		return nil, err
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

// environment is all that Nix gets: nobody's configuration but this one. tmp is
// a folder for what builds leave behind.
func (n *Nix) environment(tmp string) []string {
	conf := []string{
		"experimental-features = nix-command flakes",
		"substituters = " + strings.Join(n.o.Substituters, " "),
		"trusted-public-keys = " + strings.Join(n.o.TrustedKeys, " "),
		"require-sigs = true",
		"sandbox = true",
		"sandbox-fallback = false",
		"builders =",
		"build-users-group =",
		"accept-flake-config = false",
		"use-registries = false",
		"keep-going = false",
		// Keeps the tree of a second build that is another, and only that.
		"run-diff-hook = true",
		"diff-hook =",
	}
	if len(n.o.SandboxPaths) > 0 {
		// Without any, the shell that this Nix was built with stays.
		conf = append(conf, "sandbox-paths = "+strings.Join(n.o.SandboxPaths, " "))
	}
	if n.o.Timeout > 0 {
		conf = append(conf, "timeout = "+strconv.Itoa(int((n.o.Timeout+time.Second-1)/time.Second)))
	}
	for _, name := range slices.Sorted(maps.Keys(n.o.Settings)) {
		conf = append(conf, name+" = "+n.o.Settings[name])
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + n.home, "LC_ALL=C", "NIX_USER_CONF_FILES=/dev/null", "NIX_CONF_DIR=" + n.home,
		"NIX_CONFIG=" + strings.Join(conf, "\n"), "TMPDIR=" + tmp,
	}
	for _, name := range []string{"NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// run starts one command on the store. Its log is read to the end. A log that
// tells of a lost sandbox is an error, whatever came out.
func (n *Nix) run(ctx context.Context, program string, args ...string) (out []byte, log *Log, code int, err error) {
	out, log, code, err = n.start(ctx, program, args...)
	if err == nil && log.Unsandboxed {
		return nil, log, code, &BuildError{Class: Unsandboxed, What: args[len(args)-1], Said: []string{"it was built without the sandbox"}}
	}
	return out, log, code, err
}

func (n *Nix) start(ctx context.Context, program string, args ...string) (out []byte, log *Log, code int, err error) {
	tmp, err := os.MkdirTemp("", "retally-nix-")
	if err != nil {
		return nil, nil, 0, err
	}
	defer removeTree(tmp)
	cmd := exec.CommandContext(ctx, program, append([]string{"--store", n.o.Store}, args...)...)
	cmd.Dir, cmd.Env = n.o.Dir, n.environment(tmp)
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
	// Differs are the outputs that a second build made differently.
	Differs []OutputDiff
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
	if err := CheckInstallable(installable); err != nil {
		return "", err
	}
	if err := n.outside(installable); err != nil {
		return "", err
	}
	args := []string{"eval", "--raw", "--log-format", "internal-json", "--no-write-lock-file"}
	if len(n.o.Overrides) == 0 {
		// An input that is not locked could be another one tomorrow.
		args = append(args, "--no-update-lock-file")
	}
	for _, o := range n.o.Overrides {
		args = append(args, "--override-input", o[0], o[1])
	}
	args = append(args, installable+".drvPath")
	out, log, code, err := n.run(ctx, n.nix, args...)
	if err != nil {
		return "", err
	}
	if code != 0 {
		e := &BuildError{Class: Trouble, What: installable, Said: log.Errors, Tail: log.Tail}
		if len(e.Said) == 0 && len(e.Tail) > 0 {
			e.Said = e.Tail[len(e.Tail)-1:]
		}
		if names := n.packages(ctx, installable); len(names) > 0 && len(e.Said) > 0 && strings.Contains(e.Said[len(e.Said)-1], "does not provide attribute") {
			e.Said[len(e.Said)-1] = firstLine(e.Said[len(e.Said)-1]) + "; its packages are " + strings.Join(names, ", ")
		}
		return "", e
	}
	drv := string(out)
	if err := checkStorePath(drv); err != nil || !strings.HasSuffix(drv, ".drv") {
		return "", fmt.Errorf("nix eval: %s is no derivation: %q", installable, drv)
	}
	return drv, nil
}

// packages are what a flake offers, as far as it can be shown: of many a flake
// only one attribute evaluates.
func (n *Nix) packages(ctx context.Context, installable string) []string {
	flake, _, _ := strings.Cut(installable, "#")
	args := []string{"flake", "show", "--json", "--log-format", "internal-json", "--no-write-lock-file"}
	for _, o := range n.o.Overrides {
		args = append(args, "--override-input", o[0], o[1])
	}
	out, _, code, err := n.run(ctx, n.nix, append(args, flake)...)
	if err != nil || code != 0 {
		return nil
	}
	names, err := ParseShow(out, systemName)
	if err != nil {
		return nil
	}
	return names[:min(len(names), 30)]
}

// systemName is what Nix calls machines like this one.
var systemName = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-" + runtime.GOOS

// outside refuses a flake of all files of a folder that holds the store: each
// build would change it.
func (n *Nix) outside(installable string) error {
	flake, _, _ := strings.Cut(installable, "#")
	dir, ok := strings.CutPrefix(flake, "path:")
	if !ok {
		return nil
	}
	dir, _, _ = strings.Cut(dir, "?")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(n.o.Dir, dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(dir, n.o.Store); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("nix: the store %s lies in the folder of the flake %s, and would be a part of it: choose another folder for the store", n.o.Store, flake)
	}
	return nil
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
