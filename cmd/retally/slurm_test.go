package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/disk"
)

// slurmLab is a Slurm of one node on loopback, with folders, key and ports of
// its own. Its daemons are ended by their ids.
type slurmLab struct {
	t       *testing.T
	dir     string
	env     []string
	daemons map[string]*exec.Cmd
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newSlurm(t *testing.T) *slurmLab {
	t.Helper()
	for _, tool := range []string{"munged", "slurmctld", "slurmd", "sbatch", "squeue"} {
		if _, err := exec.LookPath(tool); err != nil {
			if _, err := os.Stat(filepath.Join("/usr/sbin", tool)); err != nil {
				testenv.Missing(t, tool+" (slurm-wlm and munge of Debian)")
			}
		}
	}
	if os.Geteuid() != 0 {
		testenv.Missing(t, "root, which a slurmd needs")
	}
	// Sockets have short paths.
	dir, err := os.MkdirTemp("", "slurm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &slurmLab{t: t, dir: dir, daemons: map[string]*exec.Cmd{}}
	key := make([]byte, 128)
	for i := range key {
		key[i] = byte(rand.Uint32())
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	for _, sub := range []string{"state", "spool", "munge"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "munge", "key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`ClusterName=retally
SlurmctldHost=%[1]s(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=%[2]s/munge/socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
ReturnToService=2
MinJobAge=2
SlurmctldPort=%[3]d
SlurmdPort=%[4]d
StateSaveLocation=%[2]s/state
SlurmdSpoolDir=%[2]s/spool
SlurmctldPidFile=%[2]s/slurmctld.pid
SlurmdPidFile=%[2]s/slurmd.pid
SlurmctldLogFile=%[2]s/slurmctld.log
SlurmdLogFile=%[2]s/slurmd.log
NodeName=%[1]s NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=%[1]s Default=YES MaxTime=10 State=UP
`, host, dir, freePort(t), freePort(t))
	if err := os.WriteFile(filepath.Join(dir, "slurm.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(), "SLURM_CONF="+filepath.Join(dir, "slurm.conf"), "PATH="+os.Getenv("PATH")+":/usr/sbin:/usr/bin")
	t.Cleanup(func() {
		for _, name := range []string{"slurmd", "slurmctld", "munged"} {
			s.end(name)
		}
	})
	m := filepath.Join(dir, "munge")
	s.start("munged", "--foreground", "--force", "--key-file="+m+"/key", "--socket="+m+"/socket", "--pid-file="+m+"/pid", "--log-file="+m+"/log", "--seed-file="+m+"/seed")
	s.until("munged", func() bool { _, err := os.Stat(m + "/socket"); return err == nil })
	s.controller()
	s.start("slurmd", "-D", "-N", host)
	s.until("an idle node", func() bool { return strings.Contains(s.tool("sinfo", "-h", "-o", "%T"), "idle") })
	return s
}

func (s *slurmLab) controller() { s.start("slurmctld", "-D") }

func (s *slurmLab) start(name string, args ...string) {
	s.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = s.env
	log, err := os.Create(filepath.Join(s.dir, name+".out"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.daemons[name] = cmd
}

// end ends one daemon that was started here, by its id.
func (s *slurmLab) end(name string) {
	cmd := s.daemons[name]
	if cmd == nil {
		return
	}
	delete(s.daemons, name)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-done
	}
}

func (s *slurmLab) tool(name string, args ...string) string {
	cmd := exec.Command(name, args...)
	cmd.Env = s.env
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// until waits for something that takes seconds.
func (s *slurmLab) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			var logs bytes.Buffer
			for _, f := range []string{"munged.out", "slurmctld.out", "slurmd.out", "slurmctld.log", "slurmd.log"} {
				data, _ := os.ReadFile(filepath.Join(s.dir, f))
				fmt.Fprintf(&logs, "== %s\n%s\n", f, data[max(len(data)-1500, 0):])
			}
			s.t.Fatalf("no %s after a minute\n%s\n%s%s", what, logs.String(), s.tool("squeue"), s.tool("sinfo"))
		}
	}
}

// retally runs the program with this Slurm.
func (s *slurmLab) retally(exe string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(s.env, "NO_COLOR=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// modelFolder makes a model directory of so many bytes, most of them zeros that
// take no space on the disk, with other bytes in each MiB.
func modelFolder(t *testing.T, dir string, size int64) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 21))
	const files = 4
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("model-%05d.safetensors", i)))
		if err != nil {
			t.Fatal(err)
		}
		n := size/files + int64(i)*777
		if err := f.Truncate(n); err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at+4096 < n; at += 1 << 20 {
			b := make([]byte, 4096)
			for k := range b {
				b[k] = byte(random.Uint32())
			}
			if _, err := f.WriteAt(b, at+int64(random.IntN(1<<19))&^4095); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mergedRoot is the root hash of the one disk of a merged file.
func mergedRoot(t *testing.T, s *slurmLab, exe, folder string) string {
	t.Helper()
	code, out, errOut := s.retally(exe, "shard", "merge", filepath.Join(folder, "plan.json"), filepath.Join(folder, "results"), "-o", "json")
	var doc struct {
		Disks []struct {
			Root string `json:"root_hash"`
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != exitMatch || len(doc.Disks) != 1 {
		t.Fatalf("merge: exit %d, %v\n%s%s", code, err, out, errOut)
	}
	return doc.Disks[0].Root
}

// TestSlurm: a real Slurm reads a model directory of 2 GiB in 16 parts. One part
// is killed, one result corrupted, one worker lies, the controller is started
// again in the middle.
func TestSlurm(t *testing.T) {
	testenv.OwnSpeed(t)
	exe := program(t) // jobs run it by its own name
	began := time.Now()
	s := newSlurm(t)
	t.Logf("Slurm is up after %v", time.Since(began).Round(time.Millisecond))
	model := filepath.Join(s.dir, "model")
	modelFolder(t, model, 2<<30)
	want, err := disk.Measure(context.Background(), disk.Options{Dir: model, RootOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	job := filepath.Join(s.dir, "job")
	results := filepath.Join(job, "results")
	part := func(i, copy int) string { return filepath.Join(results, fmt.Sprintf("part-%06d-%d.json", i, copy)) }

	// A part is killed: it is stopped before it can start by a plan of one task
	// at a time, its job cancelled, and only it is run again.
	code, out, errOut := s.retally(exe, "shard", "slurm", model, "--parts", "16", "--out", job, "--parallel", "1", "-o", "json")
	var first struct {
		Array string `json:"array_job"`
		Tasks int
	}
	if err := json.Unmarshal([]byte(out), &first); err != nil || code != exitMatch || first.Tasks != 16 || first.Array == "" {
		t.Fatalf("submit: exit %d, %v\n%s%s", code, err, out, errOut)
	}
	if out := s.tool("scancel", first.Array+"_9"); out != "" {
		t.Error(out)
	}
	s.until("result of part 3", func() bool { _, err := os.Stat(part(3, 0)); return err == nil })
	// The controller is started again in the middle. Nothing is lost.
	s.end("slurmctld")
	s.controller()
	s.until("controller", func() bool { return strings.Contains(s.tool("scontrol", "ping"), "UP") })
	s.until("end of the array", func() bool {
		return strings.TrimSpace(s.tool("squeue", "-h", "-j", first.Array, "-o", "%i")) == "" || strings.Contains(s.tool("squeue", "-h", "-j", first.Array), "Invalid job id")
	})
	for i := range 16 {
		if _, err := os.Stat(part(i, 0)); (err == nil) != (i != 9) {
			t.Fatalf("part %d: %v\n%s", i, err, s.tool("squeue"))
		}
	}
	// Of the others, one result is corrupted: it is found, and run again too.
	data := readFileOf(t, part(5, 0))
	data[len(data)/2] ^= 1
	putFile(t, part(5, 0), data)
	if code, _, errOut := s.retally(exe, "shard", "merge", filepath.Join(job, "plan.json"), results); code != exitTrouble || !strings.Contains(errOut, "part 5, result 0") {
		// A digit of a digest may have become another one: then an audit finds it.
		if code, out, _ := s.retally(exe, "shard", "merge", filepath.Join(job, "plan.json"), results, "--audit", "100"); code == exitMatch || strings.Contains(out, "written") {
			t.Errorf("a corrupted result: exit %d\n%s%s", code, out, errOut)
		}
		if err := os.Remove(part(5, 0)); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errOut = s.retally(exe, "shard", "slurm", model, "--parts", "16", "--out", job, "--wait", "-o", "json")
	if code != exitMatch || !strings.Contains(errOut, "2 tasks") || !strings.Contains(out, "merged.json") {
		t.Fatalf("retry: exit %d\n%s%s", code, out, errOut)
	}
	if got := mergedRoot(t, s, exe, job); got != want.RootHash.Hex() {
		t.Errorf("root %s, of one machine %s", got, want.RootHash.Hex())
	}
	if tool, err := exec.LookPath("veritysetup"); err == nil {
		image := filepath.Join(s.dir, "image")
		if _, err := disk.Measure(context.Background(), disk.Options{Dir: model, Write: image}); err != nil {
			t.Fatal(err)
		}
		tree := filepath.Join(s.dir, "tree")
		cmd := exec.Command(tool, "format", "--salt=00", "--uuid=00000000-0000-0000-0000-000000000000", fmt.Sprintf("--data-blocks=%d", want.Blocks), image, tree)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want.RootHash.Hex()) {
			t.Errorf("veritysetup: %v\n%s", err, out)
		}
		os.Remove(image)
	} else {
		testenv.Missing(t, "veritysetup")
	}

	// Two workers for each part, one of whom lies.
	twice := filepath.Join(s.dir, "twice")
	code, out, errOut = s.retally(exe, "shard", "slurm", model, "--parts", "16", "--redundancy", "2", "--out", twice, "--wait", "-o", "json")
	if code != exitMatch || !strings.Contains(out, "merged.json") {
		t.Fatalf("redundancy: exit %d\n%s%s", code, out, errOut)
	}
	if got := mergedRoot(t, s, exe, twice); got != want.RootHash.Hex() {
		t.Errorf("root of two workers %s, of one machine %s", got, want.RootHash.Hex())
	}
	lied := filepath.Join(twice, "results", "part-000007-1.json")
	var r map[string]json.RawMessage
	honest := readFileOf(t, lied)
	if err := json.Unmarshal(honest, &r); err != nil {
		t.Fatal(err)
	}
	was := string(r["sums"])
	putFile(t, lied, []byte(strings.NewReplacer(was, was[:1]+strings.Map(func(c rune) rune {
		if c == 'A' {
			return 'B'
		}
		return 'A'
	}, was[1:2])+was[2:], `"worker":`+string(r["worker"]), `"worker":"liar"`).Replace(string(honest))))
	code, out, errOut = s.retally(exe, "shard", "merge", filepath.Join(twice, "plan.json"), filepath.Join(twice, "results"), "--root", ".", "--out", filepath.Join(s.dir, "none.json"))
	if code != exitDiffers || !strings.Contains(out, "part 7 ") || !strings.Contains(out, "liar DISAGREES") || strings.Count(out, "DISAGREES") != 1 {
		t.Errorf("a liar: exit %d\n%s%s", code, out, errOut)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "none.json")); err == nil {
		t.Error("a merge with a lie was written")
	}
	t.Logf("all in %v", time.Since(began).Round(time.Millisecond))
}
