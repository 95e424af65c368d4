package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/report"
)

// program builds the real binary once per test.
func program(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "retally")
	out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return exe
}

// inProcess runs a command line and returns its output.
func inProcess(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	getenv := func(k string) string {
		if v, ok := env[k]; ok || k != "COLUMNS" {
			return v
		}
		return "100"
	}
	code = execute(context.Background(), args, getenv, strings.NewReader(""), &out, &errOut)
	if wantsJSON(args) && code != exitInterrupted {
		if err := schemasInTree().check(out.Bytes(), code); err != nil {
			t.Errorf("retally %s: %v", strings.Join(args, " "), err)
		}
	}
	return code, out.String(), errOut.String()
}

// writeDemo writes the demo's files in the given order.
func writeDemo(t *testing.T, dir string, files []fixtures.File, order []int) {
	t.Helper()
	for _, i := range order {
		path := filepath.Join(dir, filepath.FromSlash(files[i].Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, files[i].Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReportSchema holds every kind of report against the published schema.
func TestReportSchema(t *testing.T) {
	var doc any
	if err := json.Unmarshal(report.JSONSchema, &doc); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("report.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("report.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, text string) {
		t.Helper()
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "d")
	env := map[string]string{"RETALLY_CACHE": filepath.Join(t.TempDir(), "c")}
	_, out, _ := inProcess(t, env, "demo", "-o", "json", "--dir", dir)
	check("demo", out)
	for _, tamper := range fixtures.Tampers() {
		code, out, errOut := inProcess(t, env, "demo", "-o", "json", "--dir", dir, "--tamper", tamper.Name)
		if code != exitDiffers {
			t.Errorf("--tamper %s: exit code %d, want 1\n%s", tamper.Name, code, errOut)
		}
		check("demo --tamper "+tamper.Name, out)
	}
	_, out, _ = inProcess(t, env, "check", "-o", "json", filepath.Join(dir, "deployment.yaml"))
	check("check", out)
	_, out, _ = inProcess(t, env, "compare", "-o", "json", filepath.Join(dir, "manifest.generated.json"), filepath.Join(dir, "manifest.published.json"))
	check("compare", out)
	if err := schema.Validate(map[string]any{"schema": pipeline.Schema}); err == nil {
		t.Error("the schema accepts a report without anything")
	}
}

// TestNothingIsReadTwice counts what a run reads: each input once, and nothing
// at all the second time.
func TestNothingIsReadTwice(t *testing.T) {
	dir := t.TempDir()
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	writeDemo(t, dir, files, rand.Perm(len(files)))
	a := &app{env: func(k string) string { return map[string]string{"RETALLY_CACHE": filepath.Join(dir, ".cache")}[k] }}
	store, err := a.openCache()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, config.FileName))
	if err != nil {
		t.Fatal(err)
	}
	once := func(fresh bool) (*run.Result, *run.Counter) {
		t.Helper()
		cfg, err := run.ParseConfig(stages.Table(), config.FileName, data)
		if err != nil {
			t.Fatal(err)
		}
		count := new(run.Counter)
		res, err := run.Run(context.Background(), stages.Table(), cfg, run.Options{Root: dir, Cache: store, Counter: count, Fresh: fresh})
		if err != nil {
			t.Fatal(err)
		}
		return res, count
	}
	first, count := once(false)
	var size int64
	listed := 0
	for _, in := range first.Report.Inputs {
		if strings.HasPrefix(in.File, config.ProfilePrefix) {
			continue // part of the program
		}
		listed++
		size += in.Size
	}
	if got := count.BytesRead.Load(); got != size || got < 200<<10 {
		t.Errorf("first run: read %d bytes, the report lists inputs of %d", got, size)
	}
	if got, want := int(count.FilesRead.Load()), listed; got != want {
		t.Errorf("first run: read %d files, the report lists %d", got, want)
	}
	second, count := once(false)
	if r, h := count.BytesRead.Load(), count.BytesHashed.Load(); r != 0 || h != 0 {
		t.Errorf("second run: read %d and hashed %d bytes, want none", r, h)
	}
	if len(second.Trusted) != len(first.Report.Inputs) {
		t.Errorf("second run: trusts %v, want all %d inputs named", second.Trusted, len(first.Report.Inputs))
	}
	if _, count = once(true); count.BytesRead.Load() != size {
		t.Errorf("--fresh: read %d bytes, want %d", count.BytesRead.Load(), size)
	}
	if a, b := asJSON(t, first.Report), asJSON(t, second.Report); a != b {
		t.Error("the report from the cache is not the report of the first run")
	}

	// A changed byte with restored times: --fresh finds it, whatever the file
	// system's stamps say.
	path := filepath.Join(dir, "hashes-demo.json")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(old)
	at := bytes.Index(changed, []byte("sha256:")) + len("sha256:")
	changed[at] = "10"[min(1, changed[at]-'0')] // another digit
	if err := os.WriteFile(path, changed, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if res, _ := once(true); res.Report.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("--fresh: got %s after a byte was changed", res.Report.Outcome)
	}
}

func asJSON(t *testing.T, r *pipeline.Report) string {
	t.Helper()
	var b strings.Builder
	if err := report.JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestSameBytes runs the program in 50 surroundings: processors,
// time zone, locale, umask, order of the files, cached or not.
func TestSameBytes(t *testing.T) {
	testenv.OwnSpeed(t)
	exe := program(t)
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	zones := []string{"UTC", "Pacific/Kiritimati", "America/St_Johns", ""}
	locales := []string{"C", "C.UTF-8", "de_DE.UTF-8", "tr_TR.UTF-8", ""}
	umasks := []string{"022", "077", "002", "000"}
	want := map[string][]byte{}
	cacheDir := t.TempDir()
	for i := range 8 {
		dir := filepath.Join(t.TempDir(), fmt.Sprintf("run %d", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		writeDemo(t, dir, files, rand.Perm(len(files)))
		script := fmt.Sprintf(`umask %s; exec "$EXE" run --test-root-ok --out out --report html=r.html --report markdown=r.md -o json > stdout.json`, umasks[i%len(umasks)])
		times := 1 + i%2 // every other time once more, from the cache
		for range times {
			cmd := exec.Command("sh", "-c", script)
			cmd.Dir = dir
			cmd.Env = []string{
				"EXE=" + exe, "PATH=" + os.Getenv("PATH"), "RETALLY_CACHE=" + cacheDir,
				fmt.Sprintf("GOMAXPROCS=%d", 1+7*(i/2%2)), "TZ=" + zones[i%len(zones)],
				"LC_ALL=" + locales[i%len(locales)], "HOME=" + dir,
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("run %d: %v\n%s", i, err, out)
			}
			for _, name := range []string{"stdout.json", "r.html", "r.md", "out/report.json", "out/manifest.json"} {
				got, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if want[name] == nil {
					want[name] = got
				} else if !bytes.Equal(got, want[name]) {
					t.Fatalf("run %d: %s has other bytes than in run 0", i, name)
				}
			}
		}
	}
}

// TestKilledAtAnyMoment kills the program at 100 random moments of run and
// demo. A result is whole or not there, and the next run succeeds.
func TestKilledAtAnyMoment(t *testing.T) {
	testenv.OwnSpeed(t)
	exe := program(t)
	base := t.TempDir()
	env := append(os.Environ(), "RETALLY_CACHE="+filepath.Join(base, "cache"))
	demo := filepath.Join(base, "demo")
	start := func(args ...string) *exec.Cmd {
		cmd := exec.Command(exe, args...)
		cmd.Env = env
		return cmd
	}
	begin := time.Now()
	if out, err := start("demo", "--dir", demo).CombinedOutput(); err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	span := time.Since(begin)
	whole := map[string][]byte{}
	for _, name := range []string{"manifest.json", "report.json"} {
		data, err := os.ReadFile(filepath.Join(demo, "retally-out", name))
		if err != nil {
			t.Fatal(err)
		}
		whole[name] = data
	}
	killed := 0
	for i := range 100 {
		args, out := []string{"demo", "--dir", filepath.Join(base, fmt.Sprintf("d%d", i%7))}, filepath.Join(base, fmt.Sprintf("d%d", i%7), "retally-out")
		if i%2 == 1 {
			out = filepath.Join(base, fmt.Sprintf("out%d", i%11))
			args = []string{"run", "--test-root-ok", "-f", filepath.Join(demo, config.FileName), "--out", out}
			if i%4 == 1 {
				args = append(args, "--fresh")
			}
		}
		cmd := start(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(span))))
		if err := cmd.Process.Kill(); err == nil {
			killed++
		}
		_ = cmd.Wait() // killed or done, both are fine
		for name, want := range whole {
			got, err := os.ReadFile(filepath.Join(out, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if name == "manifest.json" && !bytes.Equal(got, want) {
				t.Fatalf("kill %d: %s is not whole: %d of %d bytes", i, name, len(got), len(want))
			}
			if name == "report.json" {
				if _, err := pipeline.ReadReport(name, got); err != nil || got[len(got)-1] != '\n' {
					t.Fatalf("kill %d: %s is not whole: %v", i, name, err)
				}
			}
		}
		if text, err := start(args...).CombinedOutput(); err != nil {
			t.Fatalf("kill %d: the next %s fails: %v\n%s", i, args[0], err, text)
		}
		entries, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), "retally-tmp") {
				t.Errorf("kill %d: %s is left over after the next run", i, e.Name())
			}
		}
	}
	if killed < 50 {
		t.Errorf("only %d of 100 processes were killed, the test shows nothing", killed)
	}
}

// TestManyRunsAtOnce lets several programs use one cache, one demo folder and
// one output folder at the same time.
func TestManyRunsAtOnce(t *testing.T) {
	exe := program(t)
	base := t.TempDir()
	env := append(os.Environ(), "RETALLY_CACHE="+filepath.Join(base, "cache"))
	demo := filepath.Join(base, "demo")
	first := exec.Command(exe, "demo", "-q", "--dir", demo)
	first.Env = env
	if out, err := first.CombinedOutput(); err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	want, err := os.ReadFile(filepath.Join(demo, "retally-out", "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			args := []string{"run", "--test-root-ok", "-q", "-f", filepath.Join(demo, config.FileName), "--out", filepath.Join(base, "out")}
			if i%2 == 0 {
				args = append(args, "--fresh")
			}
			cmd := exec.Command(exe, args...)
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("run %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	got, err := os.ReadFile(filepath.Join(base, "out", "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	// The demo names its subject and its next step otherwise; the values agree.
	a, err := pipeline.ReadReport("demo", want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pipeline.ReadReport("run", got)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Measurements) == 0 || len(a.Measurements) != len(b.Measurements) || b.Outcome != pipeline.OutcomeMatch {
		t.Errorf("got %s with %d measurements, want match with %d", b.Outcome, len(b.Measurements), len(a.Measurements))
	}
}

// TestHTMLInChromium looks at the HTML report as a person would: in a browser,
// without script and without any request.
func TestHTMLInChromium(t *testing.T) {
	chromium := testenv.Oracle(t, "chromium")
	dir := t.TempDir()
	page := filepath.Join(dir, "report.html")
	env := map[string]string{"RETALLY_CACHE": filepath.Join(dir, "cache")}
	inProcess(t, env, "demo", "--dir", filepath.Join(dir, "d"), "--tamper", "names", "--report", "html="+page)
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<link", "src=", "@import", "url("} {
		if bytes.Contains(data, []byte(bad)) {
			t.Errorf("the page holds %q", bad)
		}
	}
	browse := func(args ...string) []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		args = append(chromiumArgs(t), args...)
		cmd := exec.CommandContext(ctx, chromium, append(args, "file://"+page)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("chromium: %v\n%s", err, stderr.String())
		}
		return out
	}
	dom := string(browse("--dump-dom"))
	for _, want := range []string{`<h1 class="bad">DIFFERS</h1>`, "login.bank.example", "LOOSENED (accepts more)", "recomputed", `<details open`} {
		if !strings.Contains(dom, want) {
			t.Errorf("the rendered page lacks %q", want)
		}
	}
	shot := filepath.Join(dir, "page.png")
	browse("--screenshot="+shot, "--window-size=1000,1600")
	f, err := os.Open(shot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	colors := map[[3]uint32]bool{}
	for y := 0; y < img.Bounds().Dy(); y += 3 {
		for x := 0; x < img.Bounds().Dx(); x += 3 {
			r, g, b, _ := img.At(x, y).RGBA()
			colors[[3]uint32{r >> 8, g >> 8, b >> 8}] = true
		}
	}
	if len(colors) < 20 {
		t.Errorf("the picture of the page has %d colors: nothing was drawn", len(colors))
	}
	if keep := os.Getenv("RETALLY_SCREENSHOT"); keep != "" {
		if err := os.Rename(shot, keep); err != nil {
			t.Error(err)
		}
	}
}
