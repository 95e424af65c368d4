package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// An attack is one script of vectors/own/adversary, run as it is, and what has
// to come out of it.
type attack struct {
	folder string
	rows   []attackRow

	// mend changes the copy of the script that runs, where the demo or the house
	// that it was written for has changed. Each old text must be there.
	mend [][2]string
	// quick are further changes, which make the script shorter, unless -long.
	quick [][2]string
	// needs names programs beside bash and python3.
	needs []string
	// fails is what the script exits with by itself when all is well.
	fails int
	// alone gives the script a network and a file system table of its own,
	// because it listens on fixed ports or wants a host name.
	alone bool
	// asleep: it waits more than it works, so that it takes no core.
	asleep bool
	// root, sources and long say what else it takes: the superuser, a copy of
	// the checkout, patience.
	root, sources, long bool
}

// An attackRow is one thing that a script tries, or one of its controls.
type attackRow struct {
	name string // what the script prints before it, or a name of ours
	// call is which run of the program it is, counted from 1 without `demo`; 0
	// is a row that is judged by check alone.
	call    int
	control bool
	// today is the exit code of commit cf82730: what the attack gained.
	today int
	// want is the right exit code. A row that is open may name more than one
	// where both would be honest; who closes it settles on one.
	want []int
	// reason is in the output of the call, once spaces are one: the line that
	// says why. A closed row has one; of an open row it is a guess.
	reason string
	// never is not in the output of the call.
	never string
	// check says what else is wrong, or nothing.
	check func(attackRun) string
	// open: the program does not do it yet. An open row that holds fails too, so
	// that it gets closed.
	open bool
}

// An attackRun is what came out of a script.
type attackRun struct {
	out, errOut string
	code        int
	calls       []attackCall
}

// An attackCall is one run of the program inside a script.
type attackCall struct {
	args     string
	code     int // 124 where it had to be stopped
	out, err string
}

const stopped = 124

// the wrapper stands in the program's place and keeps what each call gave,
// since scripts show its first line only.
const attackWrapper = `#!/bin/bash
n=$(printf '%%03d' $(($(ls "$CALLS" | grep -c 'args$') + 1)))
printf '%%s\n' "$*" >"$CALLS/$n.args"
%s "$@" >"$CALLS/$n.out" 2>"$CALLS/$n.err"
rc=$?
echo $rc >"$CALLS/$n.rc"
cat "$CALLS/$n.out"
cat "$CALLS/$n.err" >&2
exit $rc
`

// TestAdversary runs every attack on the verdict that is on file: each script
// must come out whole, each control must be what it was, each attack must end
// in the exit code and with the reason of its row.
func TestAdversary(t *testing.T) {
	testenv.OwnSpeed(t)
	vectors := testenv.Vectors(t, "own/adversary")
	for _, tool := range []string{"bash", "python3"} {
		testenv.Oracle(t, tool)
	}
	lab := newAttackLab(t, vectors)
	known := map[string]bool{}
	for _, a := range attacks {
		known[a.folder] = true
	}
	for _, folder := range lab.folders {
		if !known[folder] {
			t.Errorf("vectors/own/adversary/%s has no rows in the table", folder)
		}
	}
	// Two at a time; the machine may have no more cores.
	slots := make(chan struct{}, 2)
	for _, a := range attacks {
		t.Run(a.folder, func(t *testing.T) {
			t.Parallel()
			lab.meet(t, a)
			if !a.asleep {
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			got := lab.run(t, a)
			a.judge(t, got)
		})
	}
}

// TestAdversaryTable: what the table says must be able to fail.
func TestAdversaryTable(t *testing.T) {
	for _, a := range attacks {
		for _, r := range a.rows {
			name := a.folder + ": " + r.name
			switch {
			case len(r.want) == 0 && r.check == nil:
				t.Errorf("%s: nothing is wanted", name)
			case r.call == 0 && r.check == nil:
				t.Errorf("%s: neither a call nor a check", name)
			case !r.open && r.call > 0 && len(r.want) != 1:
				t.Errorf("%s: closed with %d exit codes, want one", name, len(r.want))
			case !r.open && !r.control && r.call > 0 && r.reason == "":
				t.Errorf("%s: closed without the line that names the reason", name)
			case r.control && r.open:
				t.Errorf("%s: a control cannot be open", name)
			case !r.control && slices.Contains(r.want, exitMatch) && r.check == nil:
				t.Errorf("%s: an attack may not end in %d", name, exitMatch)
			}
		}
	}
}

type attackLab struct {
	dir, scripts, vectors string
	folders               []string
	sources               sync.Once
	sourcesErr            error
}

func newAttackLab(t *testing.T, vectors string) *attackLab {
	// Not t.TempDir: one script runs the program as another user, who could not
	// enter it.
	dir, err := os.MkdirTemp("", "retally-adversary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeTree(dir) })
	l := &attackLab{dir: dir, scripts: filepath.Join(dir, "adversary"), vectors: filepath.Dir(filepath.Dir(vectors))}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Chmod(dir, 0o755))
	check(copyFiles(l.scripts, vectors))
	// The demo is judged under a root of its own, which a run ends in a match
	// with only if the user says so.
	lib := filepath.Join(l.scripts, "lib.sh")
	text, err := os.ReadFile(lib)
	check(err)
	if !bytes.Contains(text, []byte(`"$R" run -q`)) {
		t.Error("lib.sh runs the program in another way: mend it anew")
	}
	check(os.WriteFile(lib, bytes.ReplaceAll(text, []byte(`"$R" run -q`), []byte(`"$R" run --test-root-ok -q`)), 0o644))
	entries, err := os.ReadDir(l.scripts)
	check(err)
	for _, e := range entries {
		if e.IsDir() {
			l.folders = append(l.folders, e.Name())
		}
	}
	real := filepath.Join(dir, "retally-real")
	if out, err := exec.Command("go", "build", "-o", real, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	check(os.WriteFile(filepath.Join(dir, "retally"), fmt.Appendf(nil, attackWrapper, real), 0o755))
	return l
}

// meet leaves the test where what the script needs is not there.
func (l *attackLab) meet(t *testing.T, a attack) {
	t.Helper()
	if a.long {
		testenv.Long(t)
	}
	for _, tool := range a.needs {
		testenv.Oracle(t, tool)
	}
	if a.root && os.Geteuid() != 0 {
		testenv.Missing(t, "root for "+a.folder)
	}
	if a.alone && exec.Command("unshare", "-n", "-m", "ip", "link", "set", "lo", "up").Run() != nil {
		testenv.Missing(t, "a network namespace (unshare, ip, root) for "+a.folder)
	}
	if a.sources {
		l.sources.Do(func() { l.sourcesErr = copySources(filepath.Join(l.dir, "src"), testenv.ModuleRoot(t)) })
		if l.sourcesErr != nil {
			t.Fatal(l.sourcesErr)
		}
	}
}

func (l *attackLab) run(t *testing.T, a attack) attackRun {
	t.Helper()
	script := filepath.Join(l.scripts, a.folder, "cmd")
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	mends := a.mend
	if !testenv.IsLong() {
		mends = slices.Concat(mends, a.quick)
	}
	for _, m := range mends {
		if !bytes.Contains(text, []byte(m[0])) {
			t.Errorf("the script does not hold %q: take this mend away", m[0])
		}
		text = bytes.ReplaceAll(text, []byte(m[0]), []byte(m[1]))
	}
	calls, tmp := filepath.Join(l.dir, a.folder+".calls"), filepath.Join(l.dir, a.folder+".tmp")
	for _, dir := range []string{calls, tmp} {
		if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(script, text, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"bash", script}
	if a.alone {
		hosts := filepath.Join(l.dir, a.folder+".hosts")
		if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n127.0.0.1 vm\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		args = []string{"unshare", "-n", "-m", "bash", "-c", `mount --bind "$0" /etc/hosts && ip link set lo up && exec bash "$1"`, hosts, script}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "RETALLY="+filepath.Join(l.dir, "retally"), "RETALLY_VECTORS="+l.vectors,
		"SRC="+filepath.Join(l.dir, "src"), "CALLS="+calls, "TMPDIR="+tmp, "NO_COLOR=1", "LC_ALL=C.UTF-8")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	r := attackRun{out: out.String(), errOut: errOut.String(), code: cmd.ProcessState.ExitCode()}
	if s := cmd.ProcessState; !s.Exited() {
		r.code = 128 + 15 // a script that ends with the signal for its own server
	}
	names, err := filepath.Glob(filepath.Join(calls, "*.args"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		read := func(kind string) string {
			data, err := os.ReadFile(strings.TrimSuffix(name, "args") + kind)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return string(data)
		}
		c := attackCall{args: strings.TrimSpace(read("args")), out: read("out"), err: read("err"), code: stopped}
		if rc := strings.TrimSpace(read("rc")); rc != "" {
			if c.code, err = strconv.Atoi(rc); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.HasPrefix(c.args, "demo ") {
			r.calls = append(r.calls, c)
		}
	}
	return r
}

// judge holds a script's rows against what came out.
func (a attack) judge(t *testing.T, got attackRun) {
	t.Helper()
	if got.code != a.fails {
		t.Errorf("the script ended with %d, want %d\n%s%s", got.code, a.fails, got.out, got.errOut)
	}
	last := 0
	for _, r := range a.rows {
		last = max(last, r.call)
	}
	if len(got.calls) != last {
		t.Errorf("the script ran the program %d times, the table has %d: a row is missing\n%s%s", len(got.calls), last, got.out, got.errOut)
		return
	}
	for _, r := range a.rows {
		if r.open {
			// The reason of an open row is a guess: it holds nothing open.
			guess := r
			guess.reason = ""
			if problem, _, _ := strings.Cut(guess.broken(got), "\n"); problem != "" {
				t.Logf("open: %s: %s", r.name, problem)
			} else {
				t.Errorf("%s: this holds now (exit %d at first): close the row, with one exit code and the line that names the reason, perhaps %q\n%s", r.name, r.today, r.reason, r.shown(got))
			}
		} else if problem := r.broken(got); problem != "" {
			t.Errorf("%s: %s", r.name, problem)
		}
	}
}

// broken says in what a row does not hold.
func (r attackRow) broken(got attackRun) string {
	if r.check != nil {
		if problem := r.check(got); problem != "" {
			return problem + "\n" + r.shown(got)
		}
	}
	if r.call == 0 {
		return ""
	}
	c := attackCall{out: got.out, code: -1}
	if r.call > 0 {
		c = got.calls[r.call-1]
	}
	text := strings.Join(strings.Fields(c.out+" "+c.err), " ")
	switch {
	case !slices.Contains(r.want, c.code):
		return fmt.Sprintf("exit %d, want %v\n%s", c.code, r.want, r.shown(got))
	case r.reason != "" && !strings.Contains(text, r.reason):
		return fmt.Sprintf("exit %d without %q\n%s", c.code, r.reason, r.shown(got))
	case r.never != "" && strings.Contains(text, r.never):
		return fmt.Sprintf("exit %d with %q\n%s", c.code, r.never, r.shown(got))
	}
	return ""
}

func (r attackRow) shown(got attackRun) string {
	if r.call == 0 {
		return got.out + got.errOut
	}
	c := got.calls[r.call-1]
	return fmt.Sprintf("$ retally %s\n%s%s", c.args, c.out, c.err)
}

// prints is a check that the script's own output has, or has not, a pattern.
func prints(pattern string) func(attackRun) string {
	re := regexp.MustCompile(pattern)
	return func(got attackRun) string {
		if !re.MatchString(got.out) {
			return fmt.Sprintf("the script did not print %q", pattern)
		}
		return ""
	}
}

func printsNot(pattern string) func(attackRun) string {
	re := regexp.MustCompile(pattern)
	return func(got attackRun) string {
		if m := re.FindString(got.out); m != "" {
			return fmt.Sprintf("the script printed %q", m)
		}
		return ""
	}
}

// copySources copies what a build of the module reads.
func copySources(to, from string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case e.Name() == ".git":
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
}

// removeTree removes what scripts left, folders without write permission too.
func removeTree(dir string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o755)
		}
		return nil
	})
	os.RemoveAll(dir)
}
