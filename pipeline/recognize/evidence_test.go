package recognize_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/stages"
)

// tdvf makes firmware of 8 KiB with a TDX descriptor.
func tdvf(version uint32) []byte {
	const size, back = 8192, 1024
	b := make([]byte, size)
	le := binary.LittleEndian
	d := b[size-back:]
	copy(d, "TDVF")
	sections := [][]uint64{{0, 4096, 0xffffe000, 4096, 0, 1}, {4096, 0, 0x809000, 8192, 2, 0}}
	le.PutUint32(d[4:], uint32(16+32*len(sections)))
	le.PutUint32(d[8:], version)
	le.PutUint32(d[12:], uint32(len(sections)))
	for i, s := range sections {
		e := d[16+32*i:]
		le.PutUint32(e, uint32(s[0]))
		le.PutUint32(e[4:], uint32(s[1]))
		le.PutUint64(e[8:], s[2])
		le.PutUint64(e[16:], s[3])
		le.PutUint32(e[24:], uint32(s[4]))
		le.PutUint32(e[28:], uint32(s[5]))
	}
	guid := func(at int, text string) {
		raw, _ := hex.DecodeString(text)
		copy(b[at:], raw)
	}
	end := size - 32
	guid(end-16, "de82b596b21ff745baeaa366c55a082d")
	le.PutUint16(b[end-18:], 40)
	guid(end-34, "35657ae44a989847865e4685a7bf8ec2")
	le.PutUint16(b[end-36:], 22)
	le.PutUint32(b[end-40:], back)
	return b
}

// logOf makes dstack's event log of events and the registers that it folds to.
func logOf(t testing.TB, names ...string) ([]byte, digest.Digest) {
	t.Helper()
	var r [48]byte
	var list []map[string]any
	for _, name := range names {
		event := digest.SHA384.Sum(append(binary.LittleEndian.AppendUint32(nil, 0x08000001), []byte(":"+name+":x")...))
		r = [48]byte(digest.SHA384.Sum(append(r[:], event.Bytes()...)).Bytes())
		list = append(list, map[string]any{"imr": 3, "event_type": 0x08000001, "digest": event.Hex(), "event": name, "event_payload": "78"})
	}
	data, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	d, err := digest.FromBytes(digest.SHA384, r[:])
	if err != nil {
		t.Fatal(err)
	}
	return data, d
}

func machineFiles(t testing.TB) map[string][]byte {
	t.Helper()
	p, err := fake.NewPlatform("recognize", time.Unix(1700000000, 0), time.Unix(2500000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	log, rtmr3 := logOf(t, "app-id", "compose-hash")
	raw, err := p.Quote(tdxquote.Body{RTMR: [4]digest.Digest{3: rtmr3}}, fake.Options{})
	if err != nil {
		t.Fatal(err)
	}
	five, err := p.Quote(tdxquote.Body{}, fake.Options{Version: 5, BodyType: tdxquote.TD15Ex})
	if err != nil {
		t.Fatal(err)
	}
	g, err := fake.NewGPU("recognize", time.Unix(1700000000, 0), time.Unix(2500000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	gpu, err := fake.Evidence([32]byte{1}, nil, g)
	if err != nil {
		t.Fatal(err)
	}
	text := hex.EncodeToString(raw)
	return map[string][]byte{
		"quote.bin": raw, "five.dat": five, "quote.hex": []byte("0x" + text + "\n"), "quote.txt": []byte(base64.StdEncoding.EncodeToString(raw)),
		"cpu.html": []byte("<!DOCTYPE html><pre>" + text + "</pre>"), "quote.json": []byte(`{"quote":"` + text + `","event_log":` + string(log) + `}`),
		"gpu.html": []byte("<html><pre>" + string(gpu) + "</pre>"), "gpu.json": gpu,
		"log.json": log, "sev.json": []byte("[\n    {\n        \"vm_type\": \"prod\",\n        \"artifacts_ver\": \"v0.0.25\",\n        \"kernel_hash\": \"98c4\"\n    }\n]\n"),
		"tdx.csv":             []byte("template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data\n"),
		"docker-compose.yaml": []byte("version: '3'\nservices:\n  web: {image: example}\n"), "app-compose.json": []byte(`{"manifest_version":2,"docker_compose_file":"services: {}"}`),
		"ovmf.fd": tdvf(1), "metadata.json": []byte(`{"bios":"ovmf.fd","kernel":"bzImage","cmdline":"x","initrd":"initrd","rootfs_hash":"00"}`),
		"page.html": []byte("<html><body>nothing</body></html>"), "note.txt": []byte("hello"), "old.fd": tdvf(2),
	}
}

func lookAt(t *testing.T, files map[string][]byte, names ...string) (*recognize.Subject, error) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if len(names) == 0 || slices.Contains(names, name) {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := recognize.Look(context.Background(), stages.Table(), []string{dir}, nil)
	if err != nil {
		return nil, err
	}
	t.Cleanup(s.Close)
	s.JudgeAt(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	return s, s.Prepare(context.Background())
}

// TestRecognizeEvidence: each kind by its content, alone and by name.
func TestRecognizeEvidence(t *testing.T) {
	files := machineFiles(t)
	want := map[string]recognize.Kind{
		"quote.bin": recognize.KindQuote, "five.dat": recognize.KindQuote, "quote.hex": recognize.KindQuote, "quote.txt": recognize.KindQuote,
		"cpu.html": recognize.KindQuote, "quote.json": recognize.KindQuote, "gpu.html": recognize.KindGPU, "gpu.json": recognize.KindGPU,
		"log.json": recognize.KindEventLog, "tdx.csv": recognize.KindRegistry, "sev.json": recognize.KindReleases, "docker-compose.yaml": recognize.KindCompose,
		"app-compose.json": recognize.KindCompose, "ovmf.fd": recognize.KindFirmware, "metadata.json": recognize.KindMetadata,
	}
	got := map[string]recognize.Kind{}
	for name, data := range files {
		if k := recognize.Content(name, data); k != recognize.KindUnknown {
			got[name] = k
		}
		// In a folder the same is found, whatever else lies there.
		s, err := lookAt(t, files, name, "note.txt")
		switch kind, known := want[name]; {
		case !known:
			if err == nil {
				t.Errorf("%s: found %v, want an error", name, s.Found)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			if d := cmp.Diff([]recognize.Found{{Name: name, Kind: kind}}, s.Found); d != "" {
				t.Errorf("%s in a folder (-want +got):\n%s", name, d)
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("kinds (-want +got):\n%s", d)
	}
	for name, text := range map[string]string{"page.html": "a page without a quote", "old.fd": "version", "note.txt": "is nothing that retally knows"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := recognize.Look(context.Background(), stages.Table(), []string{path}, nil); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: error %v, want %q", name, err, text)
		}
	}
}

// TestConfigureEvidence: what lies together becomes one configuration.
func TestConfigureEvidence(t *testing.T) {
	files := machineFiles(t)
	const at = "2026-06-01T00:00:00Z"
	for _, tt := range []struct {
		names []string
		want  *config.Config
		title string
	}{
		{
			[]string{"cpu.html", "gpu.json", "tdx.csv", "docker-compose.yaml", "note.txt"},
			&config.Config{Version: 1, Registry: "tdx.csv", Compose: "docker-compose.yaml", Evidence: map[string]config.Evidence{
				"cpu": {File: "cpu.html", Also: []string{"gpu.json"}, Profile: "secretvm", At: at, Senders: []string{"tdx.csv", "docker-compose.yaml"}},
			}},
			"Recognized: GPU evidence gpu.json, TDX quote cpu.html, compose file docker-compose.yaml, registry of releases tdx.csv",
		},
		{[]string{"sev.json", "tdx.csv"}, &config.Config{Version: 1, Registry: "tdx.csv"}, "Recognized: list of AMD releases sev.json, registry of releases tdx.csv"},
		{[]string{"quote.bin"}, &config.Config{Version: 1, Evidence: map[string]config.Evidence{"quote": {File: "quote.bin", At: at}}}, "Recognized: TDX quote quote.bin"},
		{[]string{"quote.json"}, &config.Config{Version: 1, Evidence: map[string]config.Evidence{"quote": {File: "quote.json", Profile: "dstack", At: at}}}, "Recognized: TDX quote quote.json"},
		{[]string{"gpu.html"}, &config.Config{Version: 1, Evidence: map[string]config.Evidence{"gpu": {File: "gpu.html", Profile: "nvidia", At: at}}}, "Recognized: GPU evidence gpu.html"},
		{
			[]string{"quote.bin", "five.dat", "gpu.json"},
			&config.Config{Version: 1, Evidence: map[string]config.Evidence{
				"quote": {File: "quote.bin", At: at}, "five": {File: "five.dat", At: at}, "gpu": {File: "gpu.json", Profile: "nvidia", At: at},
			}},
			"Recognized: GPU evidence gpu.json, TDX quote five.dat, TDX quote quote.bin",
		},
		{
			[]string{"metadata.json", "ovmf.fd"},
			&config.Config{Version: 1, Platforms: map[string]config.Platform{"metadata": {TEE: "tdx", Metadata: "metadata.json"}}},
			"Recognized: TDX firmware ovmf.fd, image metadata metadata.json",
		},
	} {
		s, err := lookAt(t, files, tt.names...)
		if err != nil {
			t.Errorf("%v: %v", tt.names, err)
			continue
		}
		if d := cmp.Diff(tt.want, s.Config); d != "" {
			t.Errorf("%v: configuration (-want +got):\n%s", tt.names, d)
		}
		if s.Title != tt.title {
			t.Errorf("%v: title %q, want %q", tt.names, s.Title, tt.title)
		}
	}
	for text, names := range map[string][]string{
		"two pieces of evidence are called quote":    {"quote.bin", "quote.hex"},
		"holds 2 files that are each a compose file": {"docker-compose.yaml", "app-compose.json"},
	} {
		if _, err := lookAt(t, files, names...); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: error %v, want %q", names, err, text)
		}
	}
}

// TestNamed: what only its name, or the user's naming it, shows.
func TestNamed(t *testing.T) {
	files := machineFiles(t)
	dir := t.TempDir()
	g, err := fake.NewGPU("named", time.Unix(1700000000, 0), time.Unix(2500000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{
		"quote.bin": files["quote.bin"], "five.dat": files["five.dat"], "docker-compose.yaml": []byte("no mapping"), "small.compose.yaml": []byte("no mapping"),
		"cert.pem": fake.PEM(g.Root), "other.pem": fake.PEM(g.CA),
	} {
		if err := os.WriteFile(path(name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look := func(names ...string) (*recognize.Subject, error) {
		for i := range names {
			names[i] = path(names[i])
		}
		s, err := recognize.Look(context.Background(), stages.Table(), names, nil)
		if err != nil {
			return nil, err
		}
		return s, s.Prepare(context.Background())
	}
	for _, compose := range []string{"docker-compose.yaml", "small.compose.yaml"} {
		s, err := look("quote.bin", compose, "cert.pem")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]config.Evidence{"quote": {File: path("quote.bin"), Profile: "secretvm", TLSCert: path("cert.pem")}}
		if d := cmp.Diff(want, s.Config.Evidence); d != "" || s.Config.Compose != path(compose) {
			t.Errorf("compose %s, evidence (-want +got):\n%s", s.Config.Compose, d)
		}
	}
	for _, names := range [][]string{{"cert.pem"}, {"quote.bin", "cert.pem", "other.pem"}, {"quote.bin", "five.dat", "cert.pem"}} {
		if _, err := look(names...); err == nil || !strings.Contains(err.Error(), "want one certificate and the quote") {
			t.Errorf("%v: error %v", names, err)
		}
	}
}

// TestLookedAt: what logs and firmware show by themselves.
func TestLookedAt(t *testing.T) {
	files := machineFiles(t)
	other, _ := logOf(t, "app-id")
	files["other.json"] = other
	files["firmware.json"] = []byte(strings.ReplaceAll(string(other), `"imr":3`, `"imr":0`))
	files["broken.json"] = []byte(strings.Replace(string(files["log.json"]), `"event_payload":"78"`, `"event_payload":"79"`, 1))
	for _, tt := range []struct {
		names []string
		want  []string // level and a part of the text
		lacks string
	}{
		{[]string{"log.json"}, []string{"note rtmr3 is "}, "a quote of the machine"},
		{[]string{"log.json", "quote.bin"}, []string{"note rtmr3 is ", "note rtmr3 is the one in quote.bin", "note certificates are judged at"}, ""},
		{[]string{"other.json", "quote.bin"}, []string{"note rtmr3 is ", "error rtmr3 in quote.bin is ", "note certificates are judged at"}, ""},
		{[]string{"firmware.json", "quote.bin"}, []string{"note rtmr0 is ", "error rtmr0 in quote.bin is ", "warning has no event for rtmr3, and rtmr3 in quote.bin is ", "note certificates are judged at"}, ""},
		{[]string{"broken.json"}, []string{"note rtmr3 is ", "error contradicts itself: event 0 (app-id)"}, "a quote of the machine"},
		{[]string{"ovmf.fd"}, []string{"note TDX firmware of 8 KiB, 2 sections: BFV 4 KiB at 0xffffe000, TD_HOB 8 KiB at 0x809000", "note mrtd is ", "note mrtd is "}, "kernel, initrd, command line, memory size"},
		{[]string{"ovmf.fd", "quote.bin"}, []string{"note TDX firmware", "note mrtd is ", "note mrtd is ", "warning mrtd in quote.bin is 0000", "note certificates"}, "kernel, initrd, command line"},
		{[]string{"tdx.csv"}, nil, "a quote of the machine"},
	} {
		s, err := lookAt(t, files, tt.names...)
		if err != nil {
			t.Errorf("%v: %v", tt.names, err)
			continue
		}
		got := map[string]bool{}
		for _, p := range s.Problems {
			got[p.Level+" "+p.Msg] = true
		}
		for _, want := range tt.want {
			found := false
			for text := range got {
				if strings.HasPrefix(text, want) {
					found = true
				}
			}
			if !found {
				t.Errorf("%v: no %q in %q", tt.names, want, slices.Sorted(maps.Keys(got)))
			}
		}
		if len(s.Problems) != len(tt.want) {
			t.Errorf("%v: %d problems, want %d: %q", tt.names, len(s.Problems), len(tt.want), slices.Sorted(maps.Keys(got)))
		}
		if lacks := fmt.Sprint(s.Lacks); (tt.lacks == "") != (len(s.Lacks) == 0) || !strings.Contains(lacks, tt.lacks) {
			t.Errorf("%v: lacks %s, want %q", tt.names, lacks, tt.lacks)
		}
	}
}

// TestSenders: what lies beside evidence is its sender's word, whatever it is;
// only a file that the user names by itself is the user's.
func TestSenders(t *testing.T) {
	files := machineFiles(t)
	files["manifest.json"] = []byte(`{"Policies":{},"ReferenceValues":{"tdx":[]}}`)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "refs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"quote.bin", "tdx.csv", "docker-compose.yaml", "manifest.json"} {
		for _, folder := range []string{"", "refs"} {
			if folder == "" || name != "quote.bin" {
				if err := os.WriteFile(filepath.Join(dir, folder, name), files[name], 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Chdir(dir)
	if err := os.Mkdir("alone", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("alone/quote.bin", files["quote.bin"], 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ paths, want []string }{
		{[]string{"."}, []string{"tdx.csv", "docker-compose.yaml", "manifest.json"}},
		{[]string{"quote.bin", "tdx.csv"}, nil},
		{[]string{"quote.bin", "tdx.csv", "docker-compose.yaml", "manifest.json"}, nil},
		{[]string{"quote.bin", "refs"}, []string{"refs/tdx.csv", "refs/docker-compose.yaml", "refs/manifest.json"}},
		{[]string{"alone", "tdx.csv", "refs/manifest.json"}, nil},
	} {
		s, err := recognize.Look(context.Background(), stages.Table(), tt.paths, nil)
		if err != nil {
			t.Errorf("%v: %v", tt.paths, err)
			continue
		}
		err = s.Prepare(context.Background())
		s.Close()
		if got := s.Config.Evidence["quote"].Senders; err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: the sender's are %v, %v; want %v", tt.paths, got, err, tt.want)
		}
	}
}
