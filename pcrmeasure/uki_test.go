package pcrmeasure_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testpe"
	"github.com/retally/retally/pcrmeasure"
)

var banks = []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384, digest.SHA512}

func fold(t testing.TB, bank digest.Algorithm, order pcrmeasure.SectionOrder, sections []pcrmeasure.Section, phases ...string) string {
	t.Helper()
	trace, err := pcrmeasure.MeasureSections(context.Background(), bank, order, sections, phases)
	if err != nil {
		t.Fatal(err)
	}
	d, err := trace.Compute()
	if err != nil {
		t.Fatal(err)
	}
	return d.Hex()
}

type phaseHash struct{ Phase, Hash string }

// TestVectorSections compares with systemd-measure's recorded values.
func TestVectorSections(t *testing.T) {
	type row struct {
		ID       string
		Sections map[string]string `json:"sections_hex"`
		Phases   []string
		RC       int
		Stdout   json.RawMessage
	}
	compared := 0
	for _, c := range decode[[]row](t, testenv.Vectors(t, "own/tpm/uki_pcr11.json")) {
		var sections []pcrmeasure.Section
		for name, h := range c.Sections {
			b, err := hex.DecodeString(h)
			if err != nil {
				t.Fatal(err)
			}
			sections = append(sections, pcrmeasure.Section{Name: "." + name, Contents: pcrmeasure.Bytes(name, b)})
		}
		var out map[string][]phaseHash
		if c.RC != 0 {
			t.Errorf("%s: systemd-measure ended in %d", c.ID, c.RC)
		}
		if err := json.Unmarshal(c.Stdout, &out); err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		for name, list := range out {
			bank, err := digest.ParseAlgorithm(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list {
				var words []string // none where the phase is the empty one
				if p.Phase != "" {
					words = strings.Split(p.Phase, ":")
				}
				compared++
				if got := fold(t, bank, pcrmeasure.Order252, sections, words...); got != p.Hash {
					t.Errorf("%s: %s %v = %s, want %s", c.ID, name, words, got, p.Hash)
				}
			}
		}
	}
	t.Logf("%d values", compared)
	if compared == 0 {
		t.Error("nothing compared")
	}
}

// TestFieldSections compares with the values of systemd's own test, nine.
func TestFieldSections(t *testing.T) {
	type table struct {
		Order   []string
		Two     map[string]string            `json:"two_sections"`
		Goldens map[string]map[string]string `json:"goldens_two_sections_by_phase"`
		All     string                       `json:"golden_all_14_sections_of_HALLO_newline_phase_foo_sha1"`
	}
	c := decode[table](t, testenv.Vectors(t, "published/field/systemd/measure.json"))
	var two, all []pcrmeasure.Section
	for name, text := range c.Two {
		two = append(two, pcrmeasure.Section{Name: name, Contents: pcrmeasure.Bytes(name, []byte(text))})
	}
	for _, name := range c.Order {
		all = append(all, pcrmeasure.Section{Name: name, Contents: pcrmeasure.Bytes(name, []byte("HALLO\n"))})
	}
	compared := 0
	check := func(got, want string) {
		t.Helper()
		compared++
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for phase, sums := range c.Goldens {
		var phases []string
		if phase != "" {
			phases = []string{phase}
		}
		for _, bank := range banks {
			check(fold(t, bank, pcrmeasure.Order257, two, phases...), sums[bank.String()])
		}
	}
	check(fold(t, digest.SHA1, pcrmeasure.Order257, all, "foo"), c.All)
	if compared != 9 {
		t.Errorf("%d of 9 compared", compared)
	}
}

// measure252 and measure257 find the two generations of systemd-measure.
func measure252(t *testing.T) func(args ...string) string {
	const path = "/usr/lib/systemd/systemd-measure"
	out, err := exec.Command(path, "--version").Output()
	if err != nil || !bytes.HasPrefix(out, []byte("systemd 252")) {
		testenv.Missing(t, "systemd-measure 252 (Debian 12's package systemd)")
	}
	return func(args ...string) string {
		out, err := exec.Command(path, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-measure %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
}

// TestOracleMeasure252 and TestOracleMeasure257 compare twenty random images
// each with systemd-measure, section files of random sizes, all banks.
func TestOracleMeasure252(t *testing.T) {
	run := measure252(t)
	dir := t.TempDir()
	oracle(t, pcrmeasure.Order252, []string{"linux", "osrel", "cmdline", "initrd", "splash", "dtb", "pcrpkey"}, dir, dir, run)
}

func TestOracleMeasure257(t *testing.T) {
	root := os.Getenv("RETALLY_TRIXIE_ROOT")
	if root == "" || os.Geteuid() != 0 {
		testenv.Missing(t, "chroot of Debian 13 with the package systemd (RETALLY_TRIXIE_ROOT, root)")
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/systemd/systemd-measure")); err != nil {
		testenv.Missing(t, "systemd-measure in RETALLY_TRIXIE_ROOT (package systemd)")
	}
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "retally-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := func(args ...string) string {
		out, err := exec.Command("chroot", append([]string{root, "/usr/lib/systemd/systemd-measure"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-measure %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	oracle(t, pcrmeasure.Order257, []string{
		"linux", "osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "uname", "sbat", "pcrpkey", "profile", "dtbauto", "hwids",
	}, dir, "/tmp/"+filepath.Base(dir), run)
}

func oracle(t *testing.T, order pcrmeasure.SectionOrder, names []string, dir, inside string, run func(args ...string) string) {
	rng := rand.New(rand.NewPCG(252, uint64(len(names))))
	compared := 0
	for i := range 20 {
		args := []string{"calculate", "--json=short"}
		for _, b := range banks {
			args = append(args, "--bank="+b.String())
		}
		var sections []pcrmeasure.Section
		for j, name := range names {
			if j > 0 && rng.IntN(2) == 0 { // .linux is required
				continue
			}
			data := make([]byte, rng.IntN(5000))
			if j == 0 {
				data = append(data, 1)
			}
			for k := range data {
				data[k] = byte(rng.Uint32())
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
			option := name
			if order == pcrmeasure.Order257 {
				// systemd-measure 257 has these two exchanged: it takes the file of
				// --hwids for .dtbauto and the other for .hwids.
				option = strings.NewReplacer("hwids", "dtbauto", "dtbauto", "hwids").Replace(name)
			}
			args = append(args, "--"+option+"="+inside+"/"+name)
			sections = append(sections, pcrmeasure.Section{Name: "." + name, Contents: pcrmeasure.Bytes(name, data)})
		}
		rng.Shuffle(len(sections), func(a, b int) { sections[a], sections[b] = sections[b], sections[a] })
		var out map[string][]phaseHash
		text := run(args...)
		if at := strings.IndexByte(text, '{'); at > 0 {
			text = text[at:] // warnings come before
		}
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatalf("case %d: %v\n%s", i, err, text)
		}
		if len(out) != len(banks) {
			t.Errorf("case %d: %d banks", i, len(out))
		}
		words := []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}
		for name, list := range out {
			bank, err := digest.ParseAlgorithm(name)
			if err != nil {
				t.Fatal(err)
			}
			for n, p := range list {
				compared++
				if got := fold(t, bank, order, sections, words[:n+1]...); got != p.Hash {
					t.Errorf("case %d (%q): %s after %d phases = %s, want %s", i, args, name, n+1, got, p.Hash)
				}
			}
		}
	}
	t.Logf("%d values of 20 images", compared)
	if compared != 20*4*4 {
		t.Errorf("%d values compared, want 320", compared)
	}
}

func pe(names []string, contents ...[]byte) []byte { return testpe.Image(names, contents...) }

func TestSectionsOfImage(t *testing.T) {
	img := pe([]string{".text", ".cmdline", ".linux", ".pcrsig", ".pcrpkey"}, []byte("code"), []byte("a=b"), []byte("kernel"), []byte("{}"), []byte("key"))
	sections, err := pcrmeasure.Sections(pcrmeasure.Bytes("uki", img))
	if err != nil {
		t.Fatal(err)
	}
	want := fold(t, digest.SHA256, pcrmeasure.Order257, []pcrmeasure.Section{
		{Name: ".linux", Contents: pcrmeasure.Bytes("", []byte("kernel"))},
		{Name: ".cmdline", Contents: pcrmeasure.Bytes("", []byte("a=b"))},
		{Name: ".pcrpkey", Contents: pcrmeasure.Bytes("", []byte("key"))},
	})
	if got := fold(t, digest.SHA256, pcrmeasure.Order257, sections); got != want {
		t.Errorf("PCR 11 %s, want %s", got, want)
	}
	for name, img := range map[string][]byte{
		"two of a name": pe([]string{".linux", ".cmdline", ".cmdline"}, []byte("k"), []byte("a"), []byte("b")),
		"two profiles":  pe([]string{".linux", ".profile", ".profile"}, []byte("k"), []byte("a"), []byte("b")),
	} {
		if s, err := pcrmeasure.Sections(pcrmeasure.Bytes("uki", img)); err == nil {
			t.Errorf("%s: %d sections, want an error", name, len(s))
		}
	}
	larger := pe([]string{".linux"}, []byte("kernel"))
	binary.LittleEndian.PutUint32(larger[0x40+24+112+128+8:], 1<<20)
	if s, err := pcrmeasure.Sections(pcrmeasure.Bytes("uki", larger)); err == nil {
		t.Errorf("a section that is larger in memory: %d bytes, want an error", s[0].Contents.Size)
	}
}

func FuzzUKI(f *testing.F) {
	f.Add(pe([]string{".linux", ".cmdline"}, []byte("kernel"), []byte("a=b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := pcrmeasure.Bytes("uki", data)
		m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: in, Kernel: in, Shim: in, Loader: in, Initrd: in, Disk: in, Variables: in, Firmware: in})
		for _, pattern := range []pcrmeasure.Pattern{pcrmeasure.UKIDirect, pcrmeasure.Direct, pcrmeasure.ShimGRUB} {
			p, _ := m.Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pattern, Memory: 1 << 29, VCPUs: 1, SBAT: "x", IMA: pcrmeasure.IMANG})
			for i := range pcrmeasure.Count {
				if (p.PCRs[i] == nil) == (p.Missing[i] == "") {
					t.Fatalf("PCR %d: value and reason, or neither", i)
				}
			}
		}
	})
}

func ExampleMeasureSections() {
	sections := []pcrmeasure.Section{
		{Name: ".linux", Contents: pcrmeasure.Bytes("linux", []byte("HALLO\n"))},
		{Name: ".initrd", Contents: pcrmeasure.Bytes("initrd", []byte("foobar\n"))},
	}
	trace, err := pcrmeasure.MeasureSections(context.Background(), digest.SHA1, pcrmeasure.Order257, sections, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := trace.Compute()
	fmt.Println(d.Hex(), err)
	// Output: 5177e4ad69db92192c10e5f80402bf81bfec8a81 <nil>
}
