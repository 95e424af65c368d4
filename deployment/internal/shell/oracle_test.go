package shell_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/deployment/internal/shell"
	"github.com/retally/retally/internal/testenv"
)

// world is a folder in which real shells run scripts. The programs that matter
// are stand-ins that write down what they are given.
type world struct {
	dir, log string
	dash     string
	bash     string
	busybox  string // "" if there is none: one sh more
}

var (
	good = strings.Repeat("ab", 32)
	evil = strings.Repeat("ee", 32)
)

// files are what a volume brings; hashes are of their right content.
var files = []string{"f0", "f1", "f2"}

func content(f string) []byte { return []byte("the right text of " + f + "\n") }

func hashOf(f string) string {
	sum := sha256.Sum256(content(f))
	return hex.EncodeToString(sum[:])
}

func newWorld(t testing.TB) *world {
	w := &world{dir: t.TempDir(), dash: testenv.Oracle(t, "dash"), bash: testenv.Oracle(t, "bash")}
	w.log = filepath.Join(w.dir, "log")
	w.busybox, _ = exec.LookPath("busybox")
	bin := filepath.Join(w.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"disk-mounter", "veritysetup", "blockdev", "patch", "uv", "app", "vllm"} {
		stub := "#!" + w.dash + "\n{ printf '%s' " + p + "; for a; do printf '<%s>' \"$a\"; done; printf '\\036'; } >>" + w.log + "\n"
		if err := os.WriteFile(filepath.Join(bin, p), []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{
		"sha256sum", "sha512sum", "cut", "cp", "cat", "ls", "mkdir", "head", "awk", "sleep", "env", "nohup", "timeout", "xargs", "setsid", "nice", "find", "sed", "tee", "mv", "ln",
		"chmod", "uname", "nproc", "sh", "dash", "bash", "busybox", "true", "false", "printf", "test", "[",
	} {
		if real, err := exec.LookPath(p); err == nil {
			if err := os.Symlink(real, filepath.Join(bin, p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// run runs a script once, with the named files wrong, and gives what the
// stand-ins wrote down.
func (w *world) run(t testing.TB, s shell.Start, env []string, wrong ...string) (log []string, code int) {
	t.Helper()
	for _, d := range []string{"u", "w"} {
		if err := errors.Join(os.RemoveAll(filepath.Join(w.dir, d)), os.Mkdir(filepath.Join(w.dir, d), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		text := content(f)
		if slices.Contains(wrong, f) {
			text = []byte("something else")
		}
		if err := os.WriteFile(filepath.Join(w.dir, "u", f), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(w.log); err != nil {
		t.Fatal(err)
	}
	// /bin/sh is one of several shells.
	program, args := w.dash, []string{}
	switch {
	case s.Bash:
		program = w.bash
	case len(s.Script)%3 == 1:
		program, args = w.bash, []string{"--posix"}
	case len(s.Script)%3 == 2 && w.busybox != "":
		program, args = w.busybox, []string{"sh"}
	}
	if s.Errexit {
		args = append(args, "-ec")
	} else {
		args = append(args, "-c")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(append(args, s.Script, "_"), s.Params...)...)
	cmd.Dir = w.dir
	cmd.Env = append([]string{"PATH=" + filepath.Join(w.dir, "bin")}, env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %q", err, s.Script)
	}
	data, err := os.ReadFile(w.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if len(data) > 0 {
		log = strings.Split(strings.TrimSuffix(string(data), "\x1e"), "\x1e")
	}
	return log, cmd.ProcessState.ExitCode()
}

// hold compares what was said of a script that is understood with what the
// shells do. whole wants exactly what was said, not only nothing else.
func (w *world) hold(t *testing.T, s shell.Start, r shell.Result, env []string, whole bool) {
	t.Helper()
	var want []string
	for _, m := range r.Mounts {
		line := "disk-mounter"
		for _, a := range m.Args {
			line += "<" + a.Text + ">"
		}
		want = append(want, line)
	}
	mounts := func(log []string) (out []string) {
		for _, l := range log {
			if strings.HasPrefix(l, "disk-mounter") || strings.HasPrefix(l, "veritysetup") {
				out = append(out, l)
			}
		}
		return out
	}
	// busybox takes its own patch for ours.
	whole = whole && (w.busybox == "" || s.Bash || len(s.Script)%3 != 2)
	log, code := w.run(t, s, env)
	got := mounts(log)
	if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
		t.Errorf("the shell mounts what was not seen:\ngot  %q\nwant %q\nbash %v -e %v params %q env %q\n%s", got, want, s.Bash, s.Errexit, s.Params, env, s.Script)
	}
	if whole && (len(got) != len(want) || code != 0) {
		t.Errorf("exit %d, mounts %q, want 0 and %q\nbash %v -e %v\n%s", code, got, want, s.Bash, s.Errexit, s.Script)
	}
	for _, c := range r.Checks {
		f := filepath.Base(c.File)
		if c.From != "" {
			f = filepath.Base(c.From)
		}
		if !slices.Contains(files, f) || c.Want.Text != hashOf(f) {
			continue
		}
		log, bad := w.run(t, s, env, f)
		switch {
		case c.Verdict == shell.Enforced && bad == 0:
			t.Errorf("a wrong %s goes through, but its check is said to be enforced (ran %q)\nbash %v -e %v params %q\n%s", f, log, s.Bash, s.Errexit, s.Params, s.Script)
		case whole && c.Verdict == shell.NotEnforced && bad != 0:
			t.Errorf("a wrong %s ends the script, but its check is said to be not enforced\n%s", f, s.Script)
		}
	}
}

// writer makes random scripts.
type writer struct {
	r *rand.Rand
	d string // the folder

	quoted bool // every substitution in double quotes
}

func (g *writer) pick(s ...string) string { return s[g.r.IntN(len(s))] }

func (g *writer) fill(s string) string {
	f := g.pick(files...)
	return strings.NewReplacer("GOOD", good, "EVIL", evil, "@D", g.d, "@F", f, "@H", hashOf(f)).Replace(s)
}

// check is the published idiom, with what may vary in it.
func (g *writer) check() string {
	sum := g.pick("sha256sum @P | cut -d ' ' -f 1", "sha256sum @P | cut -d' ' -f1", "sha256sum @P | cut -c1-64", "sha256sum < @P | head -c 64", `sha256sum "@P" | awk '{print $1}'`)
	sub := `"$(` + sum + `)"`
	if !g.quoted && g.r.IntN(2) == 0 {
		sub = "$(" + sum + ")"
	}
	want := g.pick("'@H'", `"@H"`, "@H")
	out := g.pick("echo bad", `echo "@F hash mismatch: $(sha256sum @P | cut -d ' ' -f 1)"`, "printf 'bad %s\\n' @F >&2", "echo bad; echo worse >&2")
	list := g.pick("echo '@H  @P'", "printf '%s  %s\\n' @H @P", `echo "@H *@P"`)
	s := g.pick(
		"if [ SUB != WANT ]; then OUT; exit 1; fi",
		"if [ SUB != WANT ]; then\n  OUT\n  exit 3\nfi",
		"if ! [ SUB = WANT ]; then exit 1; fi",
		"if [ WANT != SUB ]; then OUT; exit 1; else echo ok; fi",
		"[ SUB = WANT ] || exit 1", "[ SUB = WANT ] || { OUT; exit 1; }", "test SUB = WANT || exit 4", "[ SUB != WANT ] && exit 1",
		"LIST | sha256sum -c || exit 1", "LIST | sha256sum -c --quiet - || { echo bad; exit 1; }", "if ! LIST | sha256sum -c; then exit 1; fi",
		"if LIST | sha256sum --check --status; then echo ok; else exit 1; fi",
		"sha256sum -c <<E || exit 1\n@H  @P\nE\n", "sha256sum -c <<'E' || exit 1\n@H  @P\nE\n")
	return strings.NewReplacer("SUB", sub, "WANT", want, "OUT", out, "LIST", list).Replace(s)
}

// copyAndCheck brings a file from the volume and checks it.
func (g *writer) copyAndCheck() string {
	where := g.pick("@D/w/@F", "w/@F", "@D/w/@F")
	s := "cp @D/u/@F " + where + "\n" + strings.ReplaceAll(g.check(), "@P", where)
	if where != "w/@F" && g.r.IntN(2) == 0 {
		s += "\n" + g.pick("patch --batch --fuzz=0 -p1 -d /x < "+where, "uv pip install -r "+where+" --system", "patch --batch /x/y < "+where, "patch --batch -i "+where)
	}
	return g.fill(s)
}

func (g *writer) harmless() string {
	return g.fill(g.pick(
		"echo hello", "echo 'a  b' \"c$x\" $y", "blockdev --setra 16384 /dev/x", `export A="b${C:+:$C}"`, "x=1", "x=$y", `x="$(echo a)"`, "true", ":", ": $x ${y:-z}", "test -d /", "# a comment \\",
		"sleep 0", "mkdir -p w/z", "printf '%s\\n' \"$x\"", `echo "$(echo $(echo a))"`, "umask 022", "cat u/@F", "set -e", "set -u", "echo a \\\n  b", "echo a >/dev/null 2>&1", "\n", "ls -l", "echo $# $0 $?",
		`echo "${HOSTNAME##*-}"`, `echo $([ "${HOSTNAME##*-}" = "0" ] && echo yes)`, "uname -r"))
}

func (g *writer) mount() string {
	return g.fill(g.pick(
		"disk-mounter m 0 GOOD", `disk-mounter "$@"`, `disk-mounter "$1" ${2} "${3}"`, "'disk-mounter' --root-hash=GOOD --device-path=/dev/x", `disk-mo"unter" m 0 GOOD`, "disk-mounter m 0 \\\n GOOD",
		`disk-mounter m 0 "GOOD" # EVIL`, "disk-mounter m 0 GOOD >/dev/null 2>&1"))
}

func (g *writer) lines(n int, kinds ...func() string) []string {
	var out []string
	for range n {
		out = append(out, kinds[g.r.IntN(len(kinds))]())
	}
	return out
}

// goodScript is one of which nothing must be refused.
func (g *writer) goodScript() (s shell.Start, c shell.Container) {
	s = shell.Start{Bash: g.r.IntN(2) == 0, Errexit: g.r.IntN(3) > 0, Params: []string{"m", "0", good}}
	c.Mounts = []string{filepath.Join(g.d, "u")}
	if !s.Errexit {
		g.quoted = true // else a missing file would pass
	}
	lines := g.lines(g.r.IntN(3), g.harmless)
	if c.Mounter = g.r.IntN(2) == 0; c.Mounter {
		lines = append(lines, g.lines(g.r.IntN(2), g.mount)...)
		lines = append(lines, g.lines(g.r.IntN(2), g.harmless)...)
		lines = append(lines, g.pick(`exec disk-mounter "$@"`, g.mount()))
	} else {
		lines = append(lines, g.lines(1+g.r.IntN(3), g.copyAndCheck, g.copyAndCheck, g.harmless)...)
		lines = append(lines, g.pick(`exec app "$@"`, "exec vllm serve", "echo done"))
	}
	s.Script = strings.Join(lines, "\n") + g.pick("", "\n")
	// What an unset variable does under set -u is not the question.
	s.Script = strings.ReplaceAll(s.Script, "set -u\n", "")
	return s, c
}

// tricks are what attackers put around a decoy.
var tricks = []string{
	"disk-mounter x 0 EVIL", "timeout 9 disk-mounter x 0 EVIL", `eval "disk-mounter x 0 EVIL"`, "veritysetup open /dev/a m /dev/a EVIL", `trap "disk-mounter x 0 EVIL" EXIT`,
	"alias echo='disk-mounter x 0 EVIL;:'\necho hi", `env -i PATH="$PATH" disk-mounter x 0 EVIL`, "env disk-mounter x 0 EVIL", "nohup disk-mounter x 0 EVIL", "command disk-mounter x 0 EVIL",
	"exec env disk-mounter x 0 EVIL", "exec timeout 9 disk-mounter x 0 EVIL", "sh -c 'disk-mounter x 0 EVIL'", "exec sh -c 'disk-mounter x 0 EVIL'", "busybox sh -c 'disk-mounter x 0 EVIL'",
	"echo x 0 EVIL | xargs disk-mounter", "find / -maxdepth 0 -exec disk-mounter x 0 EVIL \\;", "f() { disk-mounter x 0 EVIL; }; f", "sha256sum() { return 0; }", "cut() { echo @H; }", "cp() { :; }",
	"exit() { :; }", "alias exit=:", "alias sha256sum=true\n", "trap 'exit 0' EXIT", "a=EVIL; a=GOOD & wait; disk-mounter x 0 \"$a\"", "a=EVIL; true | a=GOOD; disk-mounter x 0 $a",
	"a=EVIL; while false; do a=GOOD; done; disk-mounter x 0 $a", "a=EVIL; case x in y) a=GOOD;; esac; disk-mounter x 0 $a", "a=GOOD; a=EVIL :; disk-mounter x 0 $a", "set -- x 0 EVIL", "shift", "set x 0 EVIL",
	"PATH=@D/u:$PATH", "export PATH=@D/u", "IFS=b", "IFS=0", "export IFS=ab", "ENV=@D/u/f0", "BASH_ENV=@D/u/f0", "LD_PRELOAD=@D/u/f0", "cp @D/u/f0 @D/bin/disk-mounter", "cp @D/u/f0 bin/sha256sum", "cp /bin/true bin/sha256sum",
	"echo 'disk-mounter x 0 EVIL' > s; . ./s", ". @D/u/f0", "source @D/u/f0", "ln -sf true bin/sha256sum", "mv bin/disk-mounter bin/x", "cd u", "cd /tmp", "hash -r", "hash -p /bin/true sha256sum", "enable -n echo", "shopt -s expand_aliases",
	"readonly a=1", "local a=1", "declare -n a=b", "declare PATH=/x", "typeset -x PATH=/x", "export -f f", "printf -v PATH /x", "printf '%n' PATH", "read a <<E\nx\nE", "getopts a b", "unset PATH", "unset -f echo",
	"set +e", "set -o noexec", "set -n", "set -f", "set -a", "exit 0", "exit", "return", "break", "exec true", "exec", "exec >/dev/null", "exec 2>&1", "kill $$", "wait", "true &", "false", "! true", "! false",
	"if [ -e /none ]; then disk-mounter x 0 GOOD; fi", "[ -e /none ] && exit 1", "[ -e /none ] || disk-mounter x 0 EVIL", "true && disk-mounter x 0 EVIL", "false || disk-mounter x 0 EVIL",
	"( disk-mounter x 0 EVIL )", "{ disk-mounter x 0 EVIL; }", "x=$(disk-mounter x 0 EVIL)", "echo `disk-mounter x 0 EVIL`", `echo "$(disk-mounter x 0 EVIL)"`, `: ${x:=$(disk-mounter x 0 EVIL)}`, "${x:-disk-mounter} x 0 EVIL",
	"$x x 0 EVIL", "\"$x\"", "d=disk; $d-mounter x 0 EVIL", "disk-moun*ter x 0 EVIL", "@D/bin/disk-moun?er x 0 EVIL", "@D/bin/disk-mounter x 0 EVIL", "./bin/disk-mounter x 0 EVIL", "{disk-mounter,x,0,EVIL}", "disk-mounter {x,y} 0 EVIL",
	"disk-mounter x 0 ~", "disk-mounter x 0 $'\\145'", "disk-mounter x 0 $\"EVIL\"", "disk-mounter x 0 *", "disk-mounter $@", "disk-mounter $*", `disk-mounter "$*"`, `disk-mounter "x$@"`, "disk-mounter ${@}", `disk-mounter "${@:1}"`, "disk-mounter ${1#m}",
	`disk-mounter "$4" x`, "disk-mounter $4 x", "disk-mounter x 0 \"EVIL\nGOOD\"", "disk-mounter x 0 GOOD <<E\nEVIL\nE", "cat <<E\n$(disk-mounter x 0 EVIL)\nE", "cat <<'E'\n$(disk-mounter x 0 EVIL)\nE", "echo <<E a\nE\ndisk-mounter x 0 EVIL",
	"[ $(disk-mounter x 0 EVIL) = a ]", "[[ a = a ]] && disk-mounter x 0 EVIL", "[[ -v a[$(disk-mounter x 0 EVIL)] ]]", "[ -v 'a[$(disk-mounter x 0 EVIL)]' ]", "test -v 'a[$(disk-mounter x 0 EVIL)]'", "(( a = 1 ))", "echo $(( x = 1 ))",
	"echo ${x[$(disk-mounter x 0 EVIL)]}", "let x=1", "time disk-mounter x 0 EVIL", "coproc disk-mounter x 0 EVIL", "disk-mounter x 0 EVIL &> /dev/null", "echo a &>/dev/null", "disk-mounter x 0 EVIL |& cat", "cat <(disk-mounter x 0 EVIL)",
	"function disk-mounter { :; }", "disk-mounter () { :; }", "echo() { command disk-mounter x 0 EVIL; }", "echo 'EVIL' > w/x", "echo a > @D/w/f0", "echo a >> w/f1", "cat u/f0 > w/f0", "tee w/f0 < u/f1", "cp @D/u/f1 @D/w/f0", "cp u/f0 w",
	"cp @D/u/f2 @D/w/", "cp u/f0 .", "patch --batch /x < @D/u/f0", "patch < w/f0", "uv pip install -r u/f0 --system", "uv run disk-mounter", "app", "exec app disk-mounter", "exec python3 -c x", "blockdev --setra 1 /dev/x EVIL",
	"echo '@H  @D/u/@F' | sha256sum -c || true", "echo '@H  @D/u/@F' | sha256sum -c | cat", "echo '@H  @D/u/@F' | sha256sum -c", "[ $(sha256sum u/@F | cut -c1-64) = @H ]", "[ $(sha256sum u/@F | cut -c1-6) != abc ] && exit 1",
	"if [ $(sha256sum u/@F | cut -d ' ' -f 1) != @H ]; then echo bad; fi", "if [ $(sha256sum u/@F | cut -d ' ' -f 1) != @H ]; then exit 0; fi", "if [ $(sha256sum u/@F | cut -d ' ' -f 1) = @H ]; then exit 1; fi",
	"if [ $(sha256sum u/@F | cut -d ' ' -f 1) != @H ]; then ( exit 1 ); fi", "if [ $(sha256sum u/@F | cut -d ' ' -f 1) != @H ]; then exit 256; fi", "if [ $(sha256sum u/@F | cut -d ' ' -f 1) != @H ]; then exit 1 & fi",
	"echo '@H @D/u/@F' | sha256sum -c || exit 1", "echo '@H  @D/u/@F\nx' | sha256sum -c || exit 1", "echo '# @H  u/@F' | sha256sum -c || exit 1", "sha256sum -c --ignore-missing <<E || exit 1\n@H  u/@F\nE",
	"set -o pipefail", "set +o errexit", "set -eu -o pipefail", "set -ex", "x=disk-mounter; $x x 0 EVIL", "fi", "done", "}", "esac", "'", "\"", "`", "\\", "#", "\\\n", "$", "$(", "${", "<<E", ";;", "&", "|", "(", ")",
	"false; disk-mounter x 0 GOOD", "[ a = b ]", "[ a == a ]", "test a = b || exit 1", "[ ]", "[", "test", "echo -n", "echo -e 'a\\nb'", "printf", "printf '%b' a", "sleep x", "umask", "ulimit -c 0", "export", "readonly PATH", "export A", "export A=$x", "export $x", "A+=b", "a[0]=1", "a=(1 2)",
}

// variables are put into the environment of some runs.
var variables = []string{
	"x=disk-mounter", "x=PATH=/y", "y=a b", "a=EVIL", "HOSTNAME=x-0", "IFS=b", "PATH=/x", "ENV=u/f0", "BASH_ENV=u/f0", "LD_PRELOAD=u/f0", "PS4=$(disk-mounter x 0 EVIL)", "SHELLOPTS=xtrace", "BASH_FUNC_echo%%=() { disk-mounter x 0 EVIL; }",
	"BASH_FUNC_sha256sum%%=() { :; }", "POSIXLY_CORRECT=1", "CDPATH=/", "HOME=/x", "LC_ALL=C", "TMPDIR=/x", "C=c", "OPTIND=3", "PYTHONPATH=/x", "BASHOPTS=expand_aliases", "FUNCNEST=1", "GLOBIGNORE=*",
}

func (g *writer) wildScript() (s shell.Start, c shell.Container, env []string) {
	s, c = g.goodScript()
	if g.r.IntN(3) == 0 {
		s.Params = []string{g.pick("m", "", "a b", "*", "--root-hash="+evil), g.pick("0", "x\ny", "-"), g.pick(good, evil)}[:g.r.IntN(4)]
	}
	lines := strings.Split(s.Script, "\n")
	kind := g.r.IntN(4)
	for range []int{0, 0, 1, 1 + g.r.IntN(3)}[kind] {
		i := g.r.IntN(len(lines) + 1)
		lines = slices.Insert(lines, i, g.fill(g.wrap(g.pick(tricks...), 2)))
	}
	if kind > 1 && g.r.IntN(3) == 0 {
		i := g.r.IntN(len(lines))
		lines[i] = g.wrap(lines[i], 1)
	}
	s.Script = strings.Join(lines, g.pick("\n", "\n", "\n", "\n", "; ", " && "))
	if kind < 2 || g.r.IntN(3) == 0 {
		b := []byte(s.Script)
		for range 1 + g.r.IntN(3) {
			i, ch := g.r.IntN(len(b)+1), meta[g.r.IntN(len(meta))]
			switch g.r.IntN(3) {
			case 0:
				b = slices.Insert(b, i, ch)
			case 1:
				b = slices.Delete(b, min(i, len(b)-1), min(i, len(b)-1)+1)
			default:
				b[min(i, len(b)-1)] = ch
			}
		}
		s.Script = string(b)
	}
	for range g.r.IntN(3) {
		env = append(env, g.fill(g.pick(variables...)))
	}
	return s, c, env
}

// meta are the characters that shells care about.
const meta = "\\\n'\"`$;&|()<>{}[]!#*?~= \t-@x"

// wrap puts a line into something that may keep it from running, or change
// what it does.
func (g *writer) wrap(line string, depth int) string {
	if depth == 0 || g.r.IntN(2) == 0 {
		return line
	}
	w := g.pick("if true; then X; fi", "if false; then X; fi", "{ X; }", "( X )", "f() { X; }; f", "for i in 1 2; do X; done", "while true; do X; break; done", "case a in a) X;; esac", "! X", "X &", "X | cat", "true | X",
		"X || true", "X && true", "true && X", "false && X", "false || X", "echo \"$(X)\"", "x=$(X)", "X 2>/dev/null", "X >w/out", "trap 'X' EXIT", "eval 'X'", "a=b X", "time X", "X; true", "X || exit 1", "X || { echo bad; exit 1; }", "if X; then :; else exit 1; fi", "if ! X; then exit 1; fi")
	return g.wrap(strings.Replace(w, "X", line, 1), depth-1)
}

// No script does in dash and bash what was not seen, if we say that it is
// understood.
func TestShells(t *testing.T) {
	w := newWorld(t)
	n := 3_000
	if testenv.IsLong() {
		n = 100_000
	}
	judged, understood := 0, 0
	for seed := range uint64(n) {
		g := &writer{r: rand.New(rand.NewPCG(seed, 6)), d: w.dir}
		if seed%12 == 0 {
			s, c := g.goodScript()
			r := shell.Follow(s, c)
			if r.Opaque != nil {
				t.Errorf("refused: %s\nat %q\n%s", r.Opaque.Reason, s.Script[min(r.Opaque.Off, len(s.Script)):], s.Script)
				continue
			}
			w.hold(t, s, r, nil, true)
			continue
		}
		judged++
		s, c, env := g.wildScript()
		if slices.ContainsFunc(env, func(e string) bool {
			name, value, _ := strings.Cut(e, "=")
			return shell.DangerousVariable(name, value, true) != ""
		}) {
			continue
		}
		if r := shell.Follow(s, c); r.Opaque == nil {
			understood++
			w.hold(t, s, r, env, false)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d of %d wild scripts are understood", understood, judged)
	if understood < judged/50 {
		t.Errorf("only %d of %d wild scripts are understood, which shows little", understood, judged)
	}
}
