package disk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pcrmeasure/disk"
)

// make makes an image with sfdisk, mkfs.fat and mcopy: an EFI system partition
// with files, and a pair of partitions with dm-verity.
func build(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	sfdisk, mkfs, mcopy, mmd := testenv.Oracle(t, "sfdisk"), testenv.Oracle(t, "mkfs.fat"), testenv.Oracle(t, "mcopy"), testenv.Oracle(t, "mmd")
	dir := t.TempDir()
	run := func(stdin, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	esp, img := filepath.Join(dir, "esp"), filepath.Join(dir, "disk")
	run("", mkfs, "-C", esp, "40960")
	made := map[string]bool{}
	for path, data := range files {
		parts := strings.Split(path, "/")
		for i := 1; i < len(parts); i++ {
			if folder := strings.Join(parts[:i], "/"); !made[folder] {
				made[folder] = true
				run("", mmd, "-i", esp, "::/"+folder)
			}
		}
		file := filepath.Join(dir, "f")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		run("", mcopy, "-i", esp, file, "::/"+path)
	}
	if err := os.WriteFile(img, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run("label: gpt\nstart=2048, size=81920, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"+
		"size=2048, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=app, uuid=00112233-4455-6677-8899-AABBCCDDEEFF\n"+
		"size=2048, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=app-verity, uuid=01020304-0506-0708-090A-0B0C0D0E0F10\n", sfdisk, img)
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := os.ReadFile(esp)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[1<<20:], fs)
	return data
}

func deb(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(testenv.Vectors(t, "own/tpm/artifacts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows map[string]json.RawMessage
	if err := json.Unmarshal(raw, &rows); err != nil {
		t.Fatal(err)
	}
	var row struct{ SHA256 string }
	if err := json.Unmarshal(rows[name], &row); err != nil {
		t.Fatal(err)
	}
	data, ok := testenv.DebFile(name, row.SHA256)
	if !ok {
		t.Skipf("SKIP-VISIBLE vectors: needs %s, which is not installed (RETALLY_DEB_FILES lists folders)", name)
	}
	return data
}

// TestLoaderEntry predicts PCR 4, 9 and 12 of a recorded boot's software from an
// image that holds it; only the initrd is another.
func TestLoaderEntry(t *testing.T) {
	initrd := bytes.Repeat([]byte("initrd"), 5000)
	img := build(t, map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI":   deb(t, "systemd-bootx64.efi"),
		"vmlinuz":                deb(t, "vmlinuz-6.1.0-56-cloud-amd64"),
		"initrd.gz":              initrd,
		"loader/entries/t1.conf": []byte("title T1\nlinux /vmlinuz\ninitrd /initrd.gz\noptions console=ttyS0 panic=-1 t1=yes\n"),
		"loader/loader.conf":     []byte("timeout 0\n"),
	})
	d, err := disk.Read(context.Background(), pcrmeasure.Bytes("disk.img", img))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.ESPs) != 1 || len(d.ESPs[0].Files) != 5 {
		t.Fatalf("%d EFI system partitions", len(d.ESPs))
	}
	if len(d.Verity) != 1 || d.Verity[0].Use != "app" || d.Verity[0].RootHash[31] != 0x10 {
		t.Errorf("dm-verity %v", d.Verity)
	}
	b, err := d.Boot()
	if err != nil {
		t.Fatal(err)
	}
	if b.Pattern != pcrmeasure.LoaderEntry || b.Cmdline != `initrd=\initrd.gz console=ttyS0 panic=-1 t1=yes` {
		t.Errorf("boot %+v", b)
	}
	p, err := pcrmeasure.New(b.Artifacts).Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: b.Pattern, Cmdline: b.Cmdline})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]string{
		4:  "039626298fdcf0505d693e476d5712778e1258156ad1adbe82f2e7377573f585",
		12: "c6cfcc10e9106fe63c9bb2be9988cd6a11a81292f6d161ce822bf5a2a113f0ee",
	} {
		if p.PCRs[i] == nil || p.PCRs[i].Value.Hex() != want {
			t.Errorf("PCR %d = %v (%s), want %s as the recorded boot has it", i, p.PCRs[i], p.Missing[i], want)
		}
	}
	if p.PCRs[5] == nil || p.PCRs[9] == nil || p.PCRs[9].Trace.Events[1].Digest != digest.SHA256.Sum(initrd) {
		t.Errorf("PCR 5 or 9 is missing: %s, %s", p.Missing[5], p.Missing[9])
	}
}

func TestShim(t *testing.T) {
	img := build(t, map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI": deb(t, "shimx64.efi.signed"),
		"EFI/BOOT/grubx64.efi": deb(t, "grubx64.efi.signed"),
		"vmlinuz":              deb(t, "vmlinuz-6.1.0-56-cloud-amd64"),
	})
	d, err := disk.Read(context.Background(), pcrmeasure.Bytes("disk.img", img))
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Boot()
	if err != nil {
		t.Fatal(err)
	}
	p, err := pcrmeasure.New(b.Artifacts).Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: b.Pattern})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]string{
		4:  "c2125c9768ec0280072b8fc88e2ab4c1ee344bb954a06145248ffc83bd4d15c8",
		14: "b9c97933fe323334271a718fdf2966e0609afcb793f3b68aaf18fc31ea39dc0a",
	} {
		if p.PCRs[i] == nil || p.PCRs[i].Value.Hex() != want {
			t.Errorf("PCR %d = %v (%s), want %s as the recorded boot has it", i, p.PCRs[i], p.Missing[i], want)
		}
	}
}

func TestCredentials(t *testing.T) {
	uki := deb(t, "systemd-bootx64.efi")
	for path, want := range map[string]bool{"EFI/BOOT/BOOTX64.EFI.extra.d/a.cred": true, "loader/credentials/a.cred": true, "loader/a.cred": false} {
		d, err := disk.Read(context.Background(), pcrmeasure.Bytes("disk.img", build(t, map[string][]byte{
			"EFI/BOOT/BOOTX64.EFI": uki, path: []byte("x"), "k": deb(t, "vmlinuz-6.1.0-56-cloud-amd64"), "loader/entries/a.conf": []byte("linux /k\n"),
		})))
		if err != nil {
			t.Fatal(err)
		}
		b, err := d.Boot()
		if err != nil {
			t.Fatal(err)
		}
		if b.Credentials != want {
			t.Errorf("%s: credentials %t, want %t", path, b.Credentials, want)
		}
	}
}

func TestUnclear(t *testing.T) {
	entry := []byte("linux /vmlinuz\n")
	loader := deb(t, "systemd-bootx64.efi")
	for name, files := range map[string]map[string][]byte{
		"no file to boot": {"readme": []byte("x")},
		"two entries":     {"EFI/BOOT/BOOTX64.EFI": loader, "loader/entries/a.conf": entry, "loader/entries/b.conf": entry},
		"no kernel":       {"EFI/BOOT/BOOTX64.EFI": loader, "loader/entries/a.conf": entry},
		"default":         {"EFI/BOOT/BOOTX64.EFI": loader, "vmlinuz": loader, "loader/entries/a.conf": entry, "loader/loader.conf": []byte("# x\ndefault auto-windows\n")},
		"efi entry":       {"EFI/BOOT/BOOTX64.EFI": loader, "x": loader, "loader/entries/a.conf": []byte("efi /x\n")},
		"not an image":    {"EFI/BOOT/BOOTX64.EFI": bytes.Repeat([]byte("MZ"), 500)},
	} {
		d, err := disk.Read(context.Background(), pcrmeasure.Bytes("disk.img", build(t, files)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := d.Boot(); err == nil {
			t.Errorf("%s: boots %s", name, b.Pattern)
		} else if disk.IsMissing(err) == (name == "not an image") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRealUKI builds a unified kernel image as Debian 12 does, with objcopy and
// systemd's stub, and boots it from the disk in three ways.
func TestRealUKI(t *testing.T) {
	objcopy := testenv.Oracle(t, "objcopy")
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	kernel, initrd := deb(t, "vmlinuz-6.1.0-56-cloud-amd64"), bytes.Repeat([]byte("initrd!"), 3000)
	out := filepath.Join(dir, "uki.efi")
	args := []string{}
	for name, s := range map[string]struct {
		vma  string
		data []byte
	}{
		".osrel": {"0x20000", []byte("ID=x\n")}, ".cmdline": {"0x30000", []byte("console=ttyS0 panic=-1")},
		".linux": {"0x2000000", kernel}, ".initrd": {"0x3000000", initrd},
	} {
		args = append(args, "--add-section", name+"="+put(name[1:], s.data), "--change-section-vma", name+"="+s.vma)
	}
	if text, err := exec.Command(objcopy, append(args, put("stub", deb(t, "linuxx64.efi.stub")), out)...).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v\n%s", err, text)
	}
	uki, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want11, err := pcrmeasure.MeasureSections(context.Background(), digest.SHA256, pcrmeasure.Order252, []pcrmeasure.Section{
		{Name: ".linux", Contents: pcrmeasure.Bytes("", kernel)},
		{Name: ".osrel", Contents: pcrmeasure.Bytes("", []byte("ID=x\n"))},
		{Name: ".cmdline", Contents: pcrmeasure.Bytes("", []byte("console=ttyS0 panic=-1"))},
		{Name: ".initrd", Contents: pcrmeasure.Bytes("", initrd)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	loader := deb(t, "systemd-bootx64.efi")
	for name, c := range map[string]struct {
		files   map[string][]byte
		pattern pcrmeasure.Pattern
		cmdline string // measured by the kernel
		twelve  int    // events of PCR 12
	}{
		"by itself": {map[string][]byte{"EFI/BOOT/BOOTX64.EFI": uki}, pcrmeasure.UKIDirect, "console=ttyS0 panic=-1", 0},
		"type 2":    {map[string][]byte{"EFI/BOOT/BOOTX64.EFI": loader, "EFI/Linux/uki1.efi": uki}, pcrmeasure.LoaderUKI, "console=ttyS0 panic=-1", 2},
		"type 1": {map[string][]byte{
			"EFI/BOOT/BOOTX64.EFI": loader, "uki.efi": uki,
			"loader/entries/u1.conf": []byte("title U1\nefi /uki.efi\noptions console=ttyS0 panic=-1 overridden=1\n"),
		}, pcrmeasure.LoaderUKI, "console=ttyS0 panic=-1 overridden=1", 2},
	} {
		d, err := disk.Read(context.Background(), pcrmeasure.Bytes("disk.img", build(t, c.files)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := d.Boot()
		if err != nil || b.Pattern != c.pattern {
			t.Errorf("%s: %+v %v", name, b, err)
			continue
		}
		b.Artifacts.NoVariables = true
		p, err := pcrmeasure.New(b.Artifacts).Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: b.Pattern, Cmdline: b.Cmdline})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, i := range []int{4, 5, 7, 9, 11, 12} {
			if p.PCRs[i] == nil {
				t.Fatalf("%s: PCR %d is missing: %s", name, i, p.Missing[i])
			}
		}
		four := p.PCRs[4].Trace.Events
		if got := four[len(four)-1].Digest.Hex(); got != "5f21ff2c0d5d899842b28a8b19901ba72cf7a7ab93c02a77fadc6ff72be85b31" {
			t.Errorf("%s: the kernel inside is %s, want its Authenticode digest", name, got)
		}
		var options []byte
		for _, r := range c.cmdline + "\x00" {
			options = append(options, byte(r), 0)
		}
		nine := p.PCRs[9].Trace.Events
		if len(nine) != 2 || nine[0].Digest != digest.SHA256.Sum(options) || nine[1].Digest != digest.SHA256.Sum(initrd) {
			t.Errorf("%s: PCR 9 %v", name, nine)
		}
		if n := len(p.PCRs[12].Trace.Events); n != c.twelve {
			t.Errorf("%s: PCR 12 has %d events, want %d", name, n, c.twelve)
		}
		if got, err := want11.Compute(); err != nil || got != p.PCRs[11].Value {
			t.Errorf("%s: PCR 11 %s, want %s", name, p.PCRs[11].Value, got)
		}
	}
}
