package pcrmeasure_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/varstore"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/trace"
)

// debFolders are where firmware of Debian releases is.
func debFolders(t *testing.T) (dirs []string) {
	t.Helper()
	for _, dir := range append([]string{"/usr/share/OVMF"}, filepath.SplitList(os.Getenv("RETALLY_DEB_FILES"))...) {
		if _, err := os.Stat(filepath.Join(dir, "OVMF_VARS_4M.fd")); err == nil {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		testenv.Missing(t, "Debian's package ovmf")
	}
	return dirs
}

// virtFirmware runs virt-fw-measure and returns the digests of its records by
// PCR, in order.
func virtFirmware(t *testing.T, args ...string) map[int][]string {
	t.Helper()
	out, err := exec.Command(testenv.Oracle(t, "virt-fw-measure"), append(args, "--bank", "sha256")...).Output()
	if err != nil {
		t.Fatalf("virt-fw-measure %q: %v", args, err)
	}
	log, err := pcrmeasure.ReadPcrlock("virt-fw-measure", out)
	if err != nil {
		t.Fatalf("virt-fw-measure %q: %v", args, err)
	}
	got := map[int][]string{}
	for _, r := range log.Records {
		for _, d := range r.Digests {
			if d.Algorithm() == digest.SHA256 {
				got[r.PCR] = append(got[r.PCR], d.Hex())
			}
		}
	}
	return got
}

// TestOracleVirtFirmware compares with virt-fw-measure event by event. It gives
// the volumes as they are in the file; that OVMF measures its PEI volume with
// PlatformPei's data in it, it does not know: this is the one difference.
func TestOracleVirtFirmware(t *testing.T) {
	images, stores := 0, 0
	for i, dir := range debFolders(t) {
		for _, name := range []string{"OVMF_CODE_4M.fd", "OVMF_CODE_4M.secboot.fd", "OVMF_CODE.fd"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || i > 0 && !testenv.IsLong() { // 5 s each
				continue
			}
			images++
			theirs := virtFirmware(t, "--image", filepath.Join(dir, name))[0]
			volumes, err := ovmf.PayloadVolumes(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Errorf("%s: %v", filepath.Join(dir, name), err)
				continue
			}
			if len(theirs) != len(volumes) {
				t.Errorf("%s: %d volumes, virt-fw-measure has %d", filepath.Join(dir, name), len(volumes), len(theirs))
				continue
			}
			for i, v := range volumes {
				if got := digest.SHA256.Sum(v.Data).Hex(); got != theirs[i] {
					t.Errorf("%s: volume %d = %s, virt-fw-measure has %s", filepath.Join(dir, name), i, got, theirs[i])
				}
			}
			p, err := pcrmeasure.New(pcrmeasure.Artifacts{Firmware: pcrmeasure.Bytes(name, data)}).PredictOne(context.Background(),
				&pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.Direct, Memory: 512 << 20, VCPUs: 1}, 0)
			if err != nil {
				continue // a build whose overlay is not known
			}
			if pei, dxe := p.Trace.Events[1].Digest.Hex(), p.Trace.Events[2].Digest.Hex(); pei == theirs[0] || dxe != theirs[1] {
				t.Errorf("%s: PEI %s and DXE %s, virt-fw-measure has %v; want the PEI volume to differ", filepath.Join(dir, name), pei, dxe, theirs)
			}
		}
		for _, name := range []string{"OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd", "OVMF_VARS.ms.fd", "OVMF_VARS_4M.fd"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			stores++
			store, err := varstore.Read(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Errorf("%s: %v", filepath.Join(dir, name), err)
				continue
			}
			args := []string{"--vars", filepath.Join(dir, name)}
			if !store.SecureBoot() {
				args = append(args, "--no-sb") // it does not look itself
			}
			theirs := virtFirmware(t, args...)[7]
			// Behind a kernel that Secure Boot refuses nothing more is measured.
			kernel := pcrmeasure.Input{Name: "kernel", Authenticode: []digest.Digest{digest.SHA256.Sum(nil)}}
			p, err := pcrmeasure.New(pcrmeasure.Artifacts{Variables: pcrmeasure.Bytes(name, data), Kernel: kernel}).PredictOne(context.Background(),
				&pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.Direct}, 7)
			if err != nil {
				t.Errorf("%s: %v", filepath.Join(dir, name), err)
				continue
			}
			// Firmware measures absent variables as empty ones, as every booted
			// machine shows; virt-fw-measure leaves them out.
			absent := map[string]bool{}
			for name, g := range map[string]ovmf.GUID{"PK": varstore.Global, "KEK": varstore.Global, "db": varstore.ImageSecurity, "dbx": varstore.ImageSecurity} {
				absent["variable "+name] = store.Get(g, name) == nil
			}
			ours := slices.DeleteFunc(slices.Clone(p.Trace.Events), func(e trace.Event) bool { return absent[e.Label] })
			if len(theirs) != len(ours) {
				t.Errorf("%s: %d events, virt-fw-measure has %d", filepath.Join(dir, name), len(ours), len(theirs))
				continue
			}
			for i, e := range ours {
				if e.Digest.Hex() != theirs[i] {
					t.Errorf("%s: event %d (%s) = %s, virt-fw-measure has %s", filepath.Join(dir, name), i, e.Label, e.Digest.Hex(), theirs[i])
				}
			}
		}
	}
	t.Logf("%d images, %d variable stores", images, stores)
	if images < 3 || stores < 3 {
		t.Errorf("%d images and %d stores, want three of each", images, stores)
	}
}

// pcrlock runs systemd-pcrlock of Debian 13 in its chroot on files that are
// given.
func pcrlock(t *testing.T) (dir, inside string, run func(args ...string) []byte) {
	t.Helper()
	root := os.Getenv("RETALLY_TRIXIE_ROOT")
	tool := "/usr/lib/systemd/systemd-pcrlock"
	if _, err := os.Stat(filepath.Join(root, tool)); root == "" || err != nil || os.Geteuid() != 0 {
		testenv.Missing(t, "systemd-pcrlock in a chroot of Debian 13 (RETALLY_TRIXIE_ROOT, root)")
	}
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "retally-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	inside = "/tmp/" + filepath.Base(dir)
	return dir, inside, func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("chroot", append([]string{root, tool, "--pcrlock=" + inside + "/out"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-pcrlock %q: %v\n%s", args, err, out)
		}
		data, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatalf("systemd-pcrlock %q: %v\n%s", args, err, out)
		}
		return data
	}
}

// TestOraclePcrlock compares single steps with systemd-pcrlock: the initrd, the
// command line and images. It pads images whose size is not a multiple of
// eight, as tools that sign do; firmware does not, so that its values for such
// images never come out of a TPM.
func TestOraclePcrlock(t *testing.T) {
	dir, inside, run := pcrlock(t)
	put := func(name string, data []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return inside + "/" + name
	}
	first := func(pcr int, args ...string) map[digest.Algorithm]digest.Digest {
		t.Helper()
		p, err := pcrmeasure.ReadPcrlock("out", run(args...))
		if err != nil {
			t.Fatal(err)
		}
		got := map[digest.Algorithm]digest.Digest{}
		for _, r := range p.Records {
			if r.PCR == pcr && len(got) == 0 {
				for _, d := range r.Digests {
					got[d.Algorithm()] = d
				}
			}
		}
		return got
	}
	initrd := bytes.Repeat([]byte("initrd"), 1000)
	even := pe([]string{".text"}, []byte("code"))
	odd := append(bytes.Clone(even), 1, 2, 3, 4, 5)
	theirInitrd := first(9, "lock-kernel-initrd", put("initrd", initrd))
	theirEven := first(4, "lock-pe", put("even", even))
	theirOdd := first(4, "lock-pe", put("odd", odd))
	theirCmdline := first(9, "lock-kernel-cmdline", put("cmdline", []byte("root=/dev/vda quiet")))
	for _, bank := range banks {
		m := pcrmeasure.New(pcrmeasure.Artifacts{Loader: pcrmeasure.Bytes("loader", even), Kernel: pcrmeasure.Bytes("kernel", odd), Initrd: pcrmeasure.Bytes("initrd", initrd)})
		c := pcrmeasure.Machine{Bank: bank, Pattern: pcrmeasure.LoaderEntry, Cmdline: "root=/dev/vda quiet"}
		nine, err := m.PredictOne(context.Background(), &c, 9)
		if err != nil {
			t.Fatal(err)
		}
		if got := nine.Trace.Events; got[0].Digest != theirCmdline[bank] || got[1].Digest != theirInitrd[bank] {
			t.Errorf("%s: PCR 9 %v, systemd-pcrlock has %s and %s", bank, got, theirCmdline[bank], theirInitrd[bank])
		}
		four, err := m.PredictOne(context.Background(), &c, 4)
		if err != nil {
			t.Fatal(err)
		}
		ours := four.Trace.Events
		if got := ours[2].Digest; got != theirEven[bank] {
			t.Errorf("%s: image of even size %s, systemd-pcrlock has %s", bank, got, theirEven[bank])
		}
		if got := ours[3].Digest; got == theirOdd[bank] {
			t.Errorf("%s: systemd-pcrlock no longer pads images of odd size: the difference is gone", bank)
		}
		padded, err := authenticode.Digest(context.Background(), bank, bytes.NewReader(odd), int64(len(odd)), authenticode.Options{PadTo8: true})
		if err != nil || padded != theirOdd[bank] {
			t.Errorf("%s: padded image of odd size %s (%v), systemd-pcrlock has %s", bank, padded, err, theirOdd[bank])
		}
	}
}

// TestOraclePcrlockUKI compares the records for a whole unified kernel image:
// PCR 4 and PCR 11, and that systemd-pcrlock predicts from our file what we do.
func TestOraclePcrlockUKI(t *testing.T) {
	dir, inside, run := pcrlock(t)
	inner := pe([]string{".text"}, []byte("kernel"))
	uki := pe([]string{".text", ".linux", ".osrel", ".cmdline", ".initrd", ".sbat"}, []byte("stub"), inner, []byte("ID=x\n"), []byte("quiet"), []byte("initrd"), []byte("sbat,1"))
	if err := os.WriteFile(filepath.Join(dir, "uki"), uki, 0o600); err != nil {
		t.Fatal(err)
	}
	theirs, err := pcrmeasure.ReadPcrlock("out", run("lock-uki", inside+"/uki"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bank := range banks {
		m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Bytes("uki", uki)})
		p, err := m.Predict(context.Background(), &pcrmeasure.Machine{Bank: bank, Pattern: pcrmeasure.UKIDirect, Order: pcrmeasure.Order257, Inner: pcrmeasure.On})
		if err != nil {
			t.Fatal(err)
		}
		their11, err := theirs.Trace(bank, 11)
		if err != nil {
			t.Fatal(err)
		}
		ours := p.PCRs[11].Trace.Events
		if len(ours) == 0 || len(ours) != len(their11.Events) {
			t.Fatalf("%s: PCR 11 has %d events, systemd-pcrlock %d", bank, len(ours), len(their11.Events))
		}
		for i, e := range ours {
			if e.Digest != their11.Events[i].Digest {
				t.Errorf("%s: event %d (%s) %s, systemd-pcrlock has %s", bank, i, e.Label, e.Digest, their11.Events[i].Digest)
			}
		}
		their4, err := theirs.Trace(bank, 4)
		if err != nil {
			t.Fatal(err)
		}
		// It has the image itself only; the actions are in a file of their own, and
		// of the kernel inside it knows nothing.
		var images []digest.Digest
		for _, e := range p.PCRs[4].Trace.Events[2:] {
			images = append(images, e.Digest)
		}
		if len(their4.Events) != 1 || len(images) != 2 {
			t.Fatalf("%s: PCR 4: %d images, systemd-pcrlock has %d", bank, len(images), len(their4.Events))
		}
		for i, e := range their4.Events {
			if e.Digest != images[i] {
				t.Errorf("%s: image %d %s, systemd-pcrlock has %s", bank, i, images[i], e.Digest)
			}
		}
	}
}

func TestPcrlockRoundTrip(t *testing.T) {
	var all []*pcrmeasure.Prediction
	m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Bytes("uki", pe([]string{".linux", ".cmdline"}, pe([]string{".text"}, []byte("k")), []byte("a\"<b")))})
	for _, bank := range banks {
		p, err := m.Predict(context.Background(), &pcrmeasure.Machine{Bank: bank, Pattern: pcrmeasure.UKIDirect, Devices: "virtio-disk"})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	p, left := pcrmeasure.NewPcrlock(all...)
	if left[1] != "its value is assumed" || left[0] == "" || left[4] != "" {
		t.Errorf("left out %v", left)
	}
	text, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	back, err := pcrmeasure.ReadPcrlock("text", text)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		for _, i := range []int{4, 9, 11} {
			trace, err := back.Trace(q.Bank, i)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := trace.Compute(); err != nil || d != q.PCRs[i].Value {
				t.Errorf("%s PCR %d = %s %v, want %s", q.Bank, i, d, err, q.PCRs[i].Value)
			}
		}
	}
}

func TestPcrlockRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                           "no list",
		`{"records":[{"digests":[]}]}`: "no pcr",
		`{"records":[{"pcr":24,"digests":[{"hashAlg":"sha1","digest":""}]}]}`: "0 to 23",
		`{"records":[{"pcr":4}]}`: "digests",
		`{"records":[{"pcr":4,"digests":[{"hashAlg":"sm3","digest":"00"}]}]}`:    "sm3",
		`{"records":[{"pcr":4,"digests":[{"hashAlg":"sha256","digest":"00"}]}]}`: "/records/0/digests/0/digest",
		`{"records":[{"pcr":4,"pcr":5,"digests":[]}]}`:                           "pcr",
	} {
		if _, err := pcrmeasure.ReadPcrlock("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzPcrlock(f *testing.F) {
	f.Add([]byte(`{"records":[{"pcr":4,"digests":[{"hashAlg":"sha1","digest":"26f8c70eeb04bd6889b9cbbcf5db529c2e701513"}]},{"nv_index":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := pcrmeasure.ReadPcrlock("f", data)
		if err != nil {
			return
		}
		text, err := p.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := pcrmeasure.ReadPcrlock("again", text)
		if err != nil || len(again.Records) != len(p.Records) {
			t.Fatalf("written and read again: %v", err)
		}
	})
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x04\x00\x00\x00aaaaaaaaaaaaaaaaaaaa\x04\x00\x00\x00\x00\x00\x00\x00"))
	head := eventlog.AppendHead(nil, digest.SHA256)
	e := eventlog.Event{Register: 4, Type: eventlog.Action, Digests: []digest.Digest{digest.SHA256.Sum([]byte("x"))}, Data: []byte("x")}
	f.Add(e.Append(head))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, form := range []pcrmeasure.Form{pcrmeasure.FormAuto, pcrmeasure.FormCCEL} {
			log, err := pcrmeasure.ReadLog("f", data, form)
			if err != nil {
				continue
			}
			all, err := log.ReplayAll()
			if err != nil {
				t.Fatal(err)
			}
			for bank, registers := range all {
				for r, want := range registers {
					trace, err := log.Trace(bank, r)
					if err != nil {
						t.Fatal(err)
					}
					if d, err := trace.Compute(); err != nil || d != want {
						t.Fatalf("%s %s: trace %s (%v), replay %s", bank, log.RegisterName(r), d, err, want)
					}
				}
			}
			contradictions := 0
			for i := range log.Events {
				if log.Follows(i) == pcrmeasure.Contradicts {
					contradictions++
				}
			}
			if (contradictions == 0) != (len(log.Problems()) == 0) {
				t.Fatalf("%d events contradict, %d problems", contradictions, len(log.Problems()))
			}
		}
	})
}
