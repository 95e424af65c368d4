package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/testenv"
	nixstage "github.com/retally/retally/pipeline/stages/nix"
)

// A goldenCase is one command line whose JSON is a contract with scripts.
type goldenCase struct {
	name string // of the file below testdata/golden
	line string // words of the command line; no word holds a space
}

// goldenCases are run in this order, in one folder that goldenFolder fills.
var goldenCases = []goldenCase{
	{"version", "version"},
	{"doctor", "doctor"},

	{"demo", "demo --dir demo --no-cache"},
	{"demo-tamper-policy", "demo --dir tampered --no-cache --tamper policy"},
	{"plan", "plan -f demo/retally.yaml"},
	{"run-only-disks", "run -f demo/retally.yaml --no-cache --out out --only disk/**"},
	{"run-machine", "run -f machine.yaml --no-cache --out out-machine"},
	{"run-lacks", "run -f lacks.yaml --no-cache --out out-lacks"},
	{"check-folder", "check vendor --no-cache"},
	{"check-deployment", "check demo/deployment.yaml --no-cache"},
	{"check-evidence", "check own/quote.hex own/tdx.csv own/docker-compose.yaml --no-cache"},
	{"init", "init vendor"},
	{"explain", "explain policy/Deployment/harbor-4f2a1c/workload-tinychat --report tampered/retally-out/report.json"},
	{"explain-search", "explain tdx/vm/rtmr0 --search --firmware ovmf.fd --want 2139961a9a2a06b476c23559621b2e183f09b13d75b9865c2519a84cc936056e3e15d5f1610a8f224240b455fa44b307"},

	{"compare-manifests", "compare demo/manifest.generated.json demo/manifest.published.json"},
	{"compare-equal", "compare demo/manifest.published.json demo/manifest.published.json"},
	{"compare-hashes", "compare demo/hashes-demo.json other-hashes.json"},
	{"compare-reports", "compare out/report.json tampered/retally-out/report.json"},
	{"compare-release", "compare --release demo/deployment.yaml next.yaml"},

	{"image-digest", "image digest demo/images/disk-mounter"},
	{"image-digest-bad", "image digest spoiled"},
	{"image-diff", "image diff demo/images/disk-mounter demo/images/inference-proxy"},
	{"image-diff-equal", "image diff demo/images/disk-mounter demo/images/disk-mounter"},

	{"disk-digests", "disk demo/models/harbor-tinychat-0-5b --normalize --root-only --digests sha256,xet"},
	{"disk-signed", "disk demo/models/harbor-tinychat-0-5b --normalize --root-only --model-sig model.sig --signer model.pub"},
	{"disk", "disk demo/models/harbor-tinychat-0-5b --normalize --models demo/models.yaml --name harbor-tinychat-0-5b"},
	{"disk-alone", "disk demo/models/harbor-tinychat-0-5b --normalize"},
	{"disk-no-entry", "disk demo/models/harbor-tinychat-0-5b --normalize --models demo/models.yaml"},
	{"disk-differs", "disk vendor/model --normalize --models demo/models.yaml --name harbor-tinychat-0-5b"},

	// The plan holds times of files, so its digest is another each time.
	{"shard-plan", "shard plan demo/models/harbor-tinychat-0-5b --normalize --redundancy 2 --out plan.json"},
	{"shard-run", "shard run plan.json --index 0 --worker one --out shards"},
	{"shard-run-copy", "shard run plan.json --index 1 --worker two --out shards"},
	{"shard-merge", "shard merge plan.json shards --audit 100 --out merged.json"},
	{"shard-job", "shard job plan.json --image registry.example/retally@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --model-claim models --results-claim results --kustomize base"},
	{"shard-slurm", "shard slurm demo/models/harbor-tinychat-0-5b --normalize --dry-run"},

	{"verity-format", "verity format ovmf.fd tree --salt 0badc0de"},
	{"verity-dump", "verity dump tree"},
	{"verity-verify", "verity verify ovmf.fd tree $ROOT"},
	{"verity-verify-bad", "verity verify changed.fd tree $ROOT"},

	{"policy-generate", "policy generate -f lab.yaml --settings settings/own --images layouts --out policies --no-cache"},
	{"policy-check", "policy check --policy policies/pod-other.rego --request remove.json --kind RemoveContainerRequest"},
	{"policy-check-denied", "policy check --policy policies/pod-other.rego --request exec.json"},
	{"policy-diff", "policy diff policies/pod-other.initdata.toml policies/deployment-prod-web.initdata.toml"},
	{"policy-diff-equal", "policy diff policies/lab.annotated.yaml policies/lab.annotated.yaml"},
	{"policy-show", "policy show policies/pod-other.initdata.toml"},

	{"manifest-adjust", "manifest adjust --plan demo/adjustments.yaml --deployment demo/deployment.yaml demo/manifest.generated.json"},
	{"manifest-generate", "manifest generate --deployment demo/deployment.yaml --profile contrast-1.20.0 --default-platform metal-qemu-snp --plan demo/adjustments.yaml"},
	{"contrast-cli", "contrast cli program/contrast --rules program/rules.rego"},
	{"gate", "gate -f demo/retally.yaml --at 2026-06-01T00:00:00Z --policy gate.yaml"},
	{"gate-denied", "gate -f demo/retally.yaml --at 2026-06-01T00:00:00Z --previous vendor --against invalid.json"},
	{"manifest-check", "manifest check demo/manifest.published.json"},
	{"manifest-check-invalid", "manifest check invalid.json"},

	{"tdx-measure", "tdx measure --profile secretvm --firmware ovmf.fd --kernel bzImage --initrd auto/initramfs.cpio.gz --docker-compose config/docker-compose.yaml --rootfs rootfs.iso --cmdline ro"},
	{"tdx-measure-trace", "tdx measure --profile secretvm --only rtmr2,rtmr3 --cmdline x --trace"},
	{"tdx-measure-error", "tdx measure --profile secretvm --firmware truncated.fd --only mrtd"},
	{"tdx-replay", "tdx replay ccel.bin"},
	{"tdx-replay-bad", "tdx replay ccel-bad.bin"},
	{"tdx-replay-expect", "tdx replay ccel.bin --expect rtmr0=000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"},
	{"tdx-reproduce-mr", "tdx reproduce-mr -fw ovmf.fd -kernel bzImage -tcbver 7"},

	{"tpm-predict", "tpm predict --uki uki.efi --empty-vars --devices virtio-disk --bank sha1,sha256"},
	{"tpm-predict-trace", "tpm predict --kernel kernel.efi --cmdline quiet --empty-vars --pcr 4,9 --trace"},
	{"tpm-predict-missing", "tpm predict --kernel kernel.efi --pcr 7,9"},
	{"tpm-predict-expect", "tpm predict --kernel kernel.efi --cmdline quiet --empty-vars --expect pcr2=3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969 --expect pcr4=0000000000000000000000000000000000000000000000000000000000000000"},
	{"tpm-replay", "tpm replay tpm.log"},
	{"tpm-replay-bad", "tpm replay tpm-bad.log"},
	{"tpm-replay-secure", "tpm replay tpm-secure.log"},
	{"tpm-replay-broken", "tpm replay uki.efi"},
	{"tpm-pcrlock", "tpm pcrlock uki.pcrlock"},
	{"tpm-pcrlock-two", "tpm pcrlock uki.pcrlock uki.pcrlock"},

	{"snp-measure", "snp measure --firmware demo/guest/OVMF-SNP.fd --kernel demo/guest/bzImage --initrd demo/guest/initrd.cpio --cmdline x --vcpus 2 --vcpu-type EPYC-Genoa"},
	{"snp-measure-list", "snp measure --profile contrast --firmware demo/guest/OVMF-SNP.fd --vcpus 1..2"},
	{"snp-measure-error", "snp measure --firmware truncated.fd --vcpus 1 --vcpu-type EPYC"},
	{"snp-id-block", "snp id-block --contrast current --launch-digest 000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"},
	{"inspect-firmware", "inspect firmware demo/guest/OVMF-SNP.fd"},
	{"inspect-igvm", "inspect igvm good.igvm"},

	{"evidence-verify", "evidence verify own/quote.hex --at 2026-06-01T00:00:00Z --intel-root own/root.pem --collateral own/collateral.json --registry own/tdx.csv --docker-compose own/docker-compose.yaml --tls-cert own/cert.pem --test-root-ok"},
	{"evidence-verify-fails", "evidence verify own/quote.hex --at 2026-06-01T00:00:00Z --intel-root own/root.pem --registry own/other.csv --docker-compose own/docker-compose.yaml --tls-cert own/other.pem"},
	{"evidence-verify-gpu", "evidence verify own/with-gpu.bin own/gpu.json --at 2026-06-01T00:00:00Z --intel-root own/root.pem --nvidia-root own/gpu-root.pem --tls-cert own/cert.pem --only authentic,bound --test-root-ok"},
	{"evidence-verify-tpm", "evidence verify tpm/quote.bin tpm/quote.sig tpm/quote.pcrs --at 2026-06-01T00:00:00Z --ak tpm/ak.pem --roots tpm/root.pem --golden tpm/golden.json --event-log tpm/boot.log --nonce 0011 --test-root-ok"},
	{"evidence-verify-blindllama", "evidence verify tpm/proof.json --at 2026-06-01T00:00:00Z --roots tpm/root.pem --golden tpm/release.json --app-root " + appRoot.Hex() + " --test-root-ok"},
	{"evidence-capture", "evidence capture $HOST --out capture"},

	{"endorsement-verify", "endorsement verify demo/endorsement/statement.json --signature demo/endorsement/statement.json.sig --log-entry demo/endorsement/log-entry.json --key demo/endorsement/endorser.pem --log-key demo/endorsement/log.pem --artifact demo/vm/tdx.csv --at 2026-06-01T00:00:00Z"},
	{"endorsement-verify-expired", "endorsement verify demo/endorsement/statement.json --signature demo/endorsement/statement.json.sig --key demo/endorsement/endorser.pem --at 2027-06-01T00:00:00Z"},
	{"fleet", "fleet demo/vm/tdx.csv --inputs demo/vm"},

	{"inspect-kernel", "inspect kernel bzImage --memory 1G --initrd plain.cpio"},
	{"inspect-initrd", "inspect initrd auto/initramfs.cpio.gz"},
	{"inspect-acpi", "inspect acpi tables.bin"},
	{"inspect-acpi-two", "inspect acpi tables.bin tables-no-com1.bin"},

	{"explain-search-pcr", "explain tpm/vm/sha256/pcr2 --search -f tpm.yaml --want 3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"},
	{"inspect-uki", "inspect uki uki.efi"},
	{"inspect-disk", "inspect disk gpt.img"},

	{"releases-add", "releases add log out --release v1.0 --key log.key --new-key retally.example/demo --at 2026-01-01T00:00:00Z"},
	{"releases-list", "releases list log --log-key log.key.pub"},
	{"releases-check", "releases check log --log-key log.key.pub --holds out/report.json --against log/checkpoint"},
	{"releases-check-not", "releases check log --log-key log.key.pub --holds demo/manifest.generated.json"},
	{"nix-hash", "nix hash demo/images/disk-mounter demo/deployment.yaml"},
	{"nix-hash-expect", "nix hash flake --expect-nar sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
	{"nix-diff", "nix diff vendor/model demo/models/harbor-tinychat-0-5b"},
	{"nix-diff-image", "nix diff demo/images/disk-mounter demo/images/inference-proxy"},
	{"nix-diff-machine", "nix diff built release"},
	{"nix-diff-derivation", "nix diff path:flake#image path:next#image --nix-store nix-store --sandbox-path /bin/sh=/bin/busybox"},
	{"nix-build", "nix build path:flake#image --nix-store nix-store --sandbox-path /bin/sh=/bin/busybox"},
	{"nix-build-fails", "nix build path:flake#fails --nix-store nix-store --sandbox-path /bin/sh=/bin/busybox"},
	{"nix-check", "nix check path:flake#image --nix-store nix-store --sandbox-path /bin/sh=/bin/busybox"},
	{"nix-check-differs", "nix check path:flake#odd --nix-store nix-store --sandbox-path /bin/sh=/bin/busybox --one-store"},

	{"proxy-log", "proxy-log workspace --all"},
	{"proxy-image", "proxy-image --inspect inspect.json --hashes proxy-hashes.json"},
	{"proxy-image-differs", "proxy-image --inspect inspect.json --hashes proxy-hashes.json --name other"},

	{"cache", "cache"},
	{"cache-clean", "cache clean"},

	// An error has one form, whatever the verb.
	{"error-flag", "run --nope"},
	{"error-file", "image digest nowhere"},
}

// growing are the lists that may get new elements, at their end: a program that
// doctor looks for, a cause, an input or a remark more do not break a reader.
var growing = []string{
	"tools", "inputs", "problems", "lacks", "facts", "notes",
}

// unstable are members whose values belong to the machine or the day. Whether
// they are there counts, and what else is in them does not.
var unstable = map[string][]string{
	"version":          {"go", "platform", "revision", "version"},
	"doctor":           {"cache", "tools[].found", "tools[].version", "tools[].problem"},
	"cache":            {"bytes", "dir"},
	"shard-plan":       {"plan"},
	"shard-run":        {"plan", "files", "version"},
	"shard-run-copy":   {"plan", "files", "version"},
	"shard-merge":      {"plan"},
	"shard-slurm":      {"planned.plan", "folder", "root", "array_script", "merge_script", "submit"},
	"cache-clean":      {"bytes", "dir"},
	"evidence-capture": {"captured_at", "capture.captured_at"},
	"check-evidence":   {"judgedAt"},
	"contrast-cli":     {"digest"},
	// An entry names the release of this program, and so has everything over it.
	"releases-add":       {"root", "verifier", "entry.report", "entry.tool"},
	"releases-list":      {"root", "entries[].report", "entries[].tool"},
	"releases-check":     {"root", "entries[].report", "entries[].tool"},
	"releases-check-not": {"root", "entries[].report", "entries[].tool"},
	"*":                  {"tool.version"},
	"nix-build":          {"nix"}, "nix-check": {"nix"}, "nix-build-fails": {"reasons", "said"},
	"nix-check-differs": {"nix", "reasons", "said", "outputs[].first", "outputs[].second", "causes[].a", "causes[].b"},
}

// sometimes are unstable members that may be missing too.
var sometimes = []string{"tools[].version", "tools[].problem"}

// A golden is a command line and what it gave.
type golden struct {
	Line   string          `json:"line"`
	Exit   int             `json:"exit"`
	Output json.RawMessage `json:"output"`
}

// TestGoldenJSON holds the JSON of every verb against the committed one: exit
// code and every member with its value. Members may be added.
func TestGoldenJSON(t *testing.T) {
	root := filepath.Join(testenv.ModuleRoot(t), "cmd", "retally", "testdata", "golden")
	schemas := newSchemaSet(filepath.Join(testenv.ModuleRoot(t), "docs", "schema"))
	words, env := goldenFolder(t)
	seen, printed := map[string]bool{}, map[string][]any{
		"error": {failure{}}, "nix-build": {&nixstage.Build{}, &nixstage.Failure{}}, "nix-check": {&nixstage.Checked{}, &nixstage.Failure{}},
	}
	type output struct {
		name, stdout string
		code         int
	}
	var outputs []output
	exe := linked(t)
	proposals := 0
	for _, c := range goldenCases {
		if seen[c.name] {
			t.Fatalf("two cases are called %s", c.name)
		}
		seen[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.line, "--sandbox-path") {
				testenv.Oracle(t, "nix")
				testenv.Oracle(t, "busybox")
			}
			args := strings.Fields(c.line)
			for i, a := range args {
				if v, ok := words[a]; ok {
					args[i] = v
				}
			}
			code, stdout, stderr := watched(env, printed, append(args, "-o", "json", "-q", "--progress=none")...)
			if next := proposed(stdout); next != "" {
				problem, err := runProposed(".", append(os.Environ(), "PATH="+filepath.Dir(exe)+string(os.PathListSeparator)+os.Getenv("PATH")), next)
				if err != nil {
					t.Fatal(err)
				}
				if problem != "" {
					t.Error(problem)
				}
				proposals++
			}
			got, err := decoded([]byte(normal(stdout, words)))
			if err != nil {
				t.Fatalf("the output is not one JSON document: %v\n%s%s", err, stdout, stderr)
			}
			outputs = append(outputs, output{c.name, stdout, code})
			got = steady(c.name, got)
			if c.name == "verity-format" {
				words["$ROOT"] = member(t, got, "root_hash")
			}
			path := filepath.Join(root, c.name+".json")
			if *update {
				writeGolden(t, path, golden{Line: c.line, Exit: code}, got)
				return
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v\ngo test ./cmd/retally -run TestGoldenJSON -update writes it", err)
			}
			var g golden
			if err := json.Unmarshal(data, &g); err != nil {
				t.Fatal(err)
			}
			want, err := decoded(g.Output)
			if err != nil {
				t.Fatal(err)
			}
			if g.Line != c.line {
				t.Errorf("the golden is of another command line: %s", g.Line)
			}
			if code != g.Exit {
				t.Errorf("exit %d, want %d\n%s", code, g.Exit, stderr)
			}
			for i, lack := range lost("", want, got) {
				if i == 20 {
					t.Error("and more")
					break
				}
				t.Error(lack)
			}
		})
	}
	holdSchemas(t, schemas.dir, printed)
	for _, o := range outputs {
		if err := schemas.check([]byte(o.stdout), o.code); err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
	}
	if proposals < 5 {
		t.Errorf("%d commands were proposed: the test looks at the wrong member", proposals)
	}
	files, err := os.ReadDir(root)
	if err != nil && !(*update && errors.Is(err, fs.ErrNotExist)) {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[strings.TrimSuffix(f.Name(), ".json")] {
			t.Errorf("testdata/golden/%s belongs to no case", f.Name())
		}
	}
}

// watched runs a command line and keeps the documents that it prints.
func watched(env map[string]string, printed map[string][]any, args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	a := &app{args: args, env: func(k string) string { return env[k] }, stdin: strings.NewReader(""), stdout: &out, stderr: &errOut}
	a.watch = func(verb string, doc any) { printed[verb] = append(printed[verb], doc) }
	code = a.execute(context.Background())
	return code, out.String(), errOut.String()
}

// TestGoldenVerbs: each verb that has -o has a golden.
func TestGoldenVerbs(t *testing.T) {
	a := &app{env: func(string) string { return "" }, stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	root := a.rootCommand()
	covered := map[string]bool{}
	for _, c := range goldenCases {
		found, _, err := root.Find(strings.Fields(c.line))
		if err != nil {
			t.Fatal(err)
		}
		covered[found.CommandPath()] = true
	}
	verbs := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		// reproduce-mr reads its flags itself, -o among them.
		if c.Runnable() && (c.Flags().Lookup("output") != nil || c.DisableFlagParsing) {
			verbs++
			if !covered[c.CommandPath()] {
				t.Errorf("%s has -o json and no golden: add a case", c.CommandPath())
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if verbs < 30 {
		t.Errorf("only %d verbs with -o were found", verbs)
	}
}

// TestGoldenComparison: what may change and what may not.
func TestGoldenComparison(t *testing.T) {
	for _, tt := range []struct {
		name, want, got string
		ok              bool
	}{
		{"equal", `{"a":1,"b":[{"c":2}]}`, `{"b":[{"c":2}],"a":1}`, true},
		{"a new member", `{"a":1}`, `{"a":1,"b":2}`, true},
		{"a new member inside", `{"a":[{"b":1}]}`, `{"a":[{"b":1,"c":2}]}`, true},
		{"a lost member", `{"a":1,"b":2}`, `{"a":1}`, false},
		{"a lost null", `{"a":null}`, `{}`, false},
		{"another value", `{"a":1}`, `{"a":2}`, false},
		{"another number form", `{"a":1}`, `{"a":1.0}`, false},
		{"another kind", `{"a":"1"}`, `{"a":1}`, false},
		{"an element more", `{"a":[1]}`, `{"a":[1,2]}`, false},
		{"an element less", `{"tools":[{"a":1},{"a":2}]}`, `{"tools":[{"a":1}]}`, false},
		{"an element more at the end", `{"tools":[{"a":1}]}`, `{"tools":[{"a":1},{"a":2}]}`, true},
		{"an element more in front", `{"tools":[{"a":1}]}`, `{"tools":[{"a":2},{"a":1}]}`, false},
		{"an object for a list", `{"a":[]}`, `{"a":{}}`, false},
	} {
		want, err1 := decoded([]byte(tt.want))
		got, err2 := decoded([]byte(tt.got))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if lacks := lost("", want, got); (len(lacks) == 0) != tt.ok {
			t.Errorf("%s: %q, want ok %v", tt.name, lacks, tt.ok)
		}
	}
}

// lost lists what of want is not in got.
func lost(path string, want, got any) []string {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: %s, want an object", path, brief(got))}
		}
		var out []string
		for _, k := range sortedNames(want) {
			at := strings.TrimPrefix(path+"."+k, ".")
			if v, ok := g[k]; ok {
				out = append(out, lost(at, want[k], v)...)
			} else {
				out = append(out, fmt.Sprintf("%s: is gone, was %s", at, brief(want[k])))
			}
		}
		return out
	case []any:
		g, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s: %s, want a list", path, brief(got))}
		}
		name := path[strings.LastIndexByte(path, '.')+1:]
		if len(g) < len(want) || len(g) > len(want) && !slices.Contains(growing, name) {
			return []string{fmt.Sprintf("%s: %d elements, want %d", path, len(g), len(want))}
		}
		var out []string
		for i := range want {
			out = append(out, lost(fmt.Sprintf("%s[%d]", path, i), want[i], g[i])...)
		}
		return out
	default:
		if want != got {
			return []string{fmt.Sprintf("%s: %s, want %s", path, brief(got), brief(want))}
		}
		return nil
	}
}

func sortedNames(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

func brief(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(data) > 200 {
		return string(data[:200]) + "…"
	}
	return string(data)
}

// decoded reads one JSON document, with its numbers as they are written.
func decoded(data []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("something follows the document")
	}
	return v, nil
}

// normal gives the folder, the address and the moment of a test one name each.
func normal(text string, words map[string]string) string {
	text = strings.ReplaceAll(text, words["$WORK"], "$WORK")
	text = strings.ReplaceAll(text, words["$HOST"], "$HOST")
	return regexp.MustCompile(`judged at \S+, which is now`).ReplaceAllString(text, "judged at $$NOW, which is now")
}

// steady replaces the values of unstable members.
func steady(name string, v any) any {
	for _, path := range append(slices.Clone(unstable["*"]), unstable[name]...) {
		v = replaced(v, strings.Split(path, "."), slices.Contains(sometimes, path))
	}
	return v
}

func replaced(v any, path []string, drop bool) any {
	name, isList := strings.CutSuffix(path[0], "[]")
	m, ok := v.(map[string]any)
	if !ok || m[name] == nil {
		return v
	}
	switch list, _ := m[name].([]any); {
	case isList:
		for _, e := range list {
			replaced(e, path[1:], drop)
		}
	case len(path) > 1:
		replaced(m[name], path[1:], drop)
	case drop:
		delete(m, name)
	default:
		m[name] = "$UNSTABLE"
	}
	return v
}

func member(t *testing.T, v any, name string) string {
	t.Helper()
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%T, want an object", v)
	}
	s, ok := m[name].(string)
	if !ok {
		t.Fatalf("no text %q in %s", name, brief(v))
	}
	return s
}

func writeGolden(t *testing.T, path string, g golden, output any) {
	t.Helper()
	var err error
	if g.Output, err = marshalPlain(output); err != nil {
		t.Fatal(err)
	}
	data, err := marshalPlain(g)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func marshalPlain(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

// goldenFolder makes a folder with what the cases name, and enters it.
func goldenFolder(t *testing.T) (words, env map[string]string) {
	t.Helper()
	lab := newPolicyLab(t)
	oms := filepath.Join(testenv.ModuleRoot(t), "fixtures", "oms")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	env = map[string]string{"HOME": dir, "RETALLY_CACHE": filepath.Join(dir, "cache"), "NO_COLOR": "1"}
	tdxArtifacts(t, ".")
	tpmArtifacts(t, ".")
	putFile(t, "tpm.yaml", []byte("version: 1\nplatforms:\n  vm: {tee: tpm, uki: uki.efi, empty_vars: true}\n"))
	changed := readFileOf(t, "ovmf.fd")
	changed[5000] ^= 1
	putFile(t, "changed.fd", changed)
	putFile(t, "good.igvm", igvmFile(0x30000, []byte("one"), 0))

	// The demo's files, and some of them as a vendor would give them.
	if code, _, errOut := inProcess(t, env, "demo", "--dir", "demo", "-q", "--no-cache"); code != exitMatch {
		t.Fatal(errOut)
	}
	for _, c := range [][2]string{{"demo/models/harbor-tinychat-0-5b", "vendor/model"}, {"demo/images/disk-mounter", "vendor/disk-mounter"}, {"demo/images/disk-mounter", "spoiled"}} {
		check(os.CopyFS(c[1], os.DirFS(c[0])))
	}
	for _, name := range []string{"deployment.yaml", "models.yaml", "manifest.generated.json"} {
		putFile(t, filepath.Join("vendor", name), readFileOf(t, filepath.Join("demo", name)))
	}
	weights := readFileOf(t, "vendor/model/model.safetensors")
	weights[100] ^= 1
	putFile(t, "vendor/model/model.safetensors", weights)
	blobs, err := filepath.Glob("spoiled/blobs/sha256/*")
	check(err)
	for _, name := range blobs {
		if data := readFileOf(t, name); bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			data[len(data)/2] ^= 1
			putFile(t, name, data)
		}
	}
	change := func(to, from, old, with string) {
		t.Helper()
		text := string(readFileOf(t, from))
		if !strings.Contains(text, old) {
			t.Fatalf("%s does not hold %q", from, old)
		}
		putFile(t, to, []byte(strings.Replace(text, old, with, 1)))
	}
	putFile(t, "model.sig", readFileOf(t, filepath.Join(oms, "files-sha256.sig")))
	putFile(t, "model.pub", readFileOf(t, filepath.Join(oms, "k256.pub")))
	change("next.yaml", "demo/deployment.yaml", "tinychat-server:v0.3.0@sha256:8", "tinychat-server:v0.3.1@sha256:9")
	change("invalid.json", "demo/manifest.published.json", `"Debug": false`, `"Debug": true`)
	hashes := string(readFileOf(t, "demo/hashes-demo.json"))
	digit := regexp.MustCompile(`sha256:.`).FindString(hashes)
	change("other-hashes.json", "demo/hashes-demo.json", digit, "sha256:"+string("01"[strings.IndexByte("10", digit[len(digit)-1])&1]))
	contrastProgram(t, "program")
	putFile(t, "gate.yaml", []byte("version: 1\nbasis:\n- {keys: 'image/**', at_least: recomputed}\n"))
	putFile(t, "machine.yaml", []byte("version: 1\nplatforms:\n  m: {tee: tdx, profile: secretvm, firmware: ovmf.fd, kernel: bzImage, initrd: plain.cpio, cmdline: ro, memory: 2G, vcpus: 1, compose: config/docker-compose.yaml, rootfs: rootfs.iso}\n"))
	putFile(t, "lacks.yaml", []byte("version: 1\nplatforms:\n  m: {tee: tdx, profile: secretvm, firmware: ovmf.fd}\n"))

	// What Nix builds, and what Yocto built.
	nixFiles(t)
	for name, data := range map[string][]byte{"ovmf.fd": readFileOf(t, "ovmf.fd"), "bzImage": readFileOf(t, "bzImage"), "initramfs.cpio": readFileOf(t, "plain.cpio"), "cmdline": []byte("console=ttyS0\n")} {
		putFile(t, filepath.Join("built", name), data)
		if name == "bzImage" {
			data = bytes.Clone(data)
			data[len(data)-1] ^= 1
		}
		putFile(t, filepath.Join("release", name), data)
	}
	putFile(t, "release/SHA256SUMS", fmt.Appendf(nil, "%x  ovmf.fd\n", sha256.Sum256(readFileOf(t, "ovmf.fd"))))

	// Policies.
	for _, name := range []string{"settings", "rules", "layouts"} {
		check(os.CopyFS(name, os.DirFS(lab.path(name))))
	}
	pin := "registry.test/side@" + lab.digest("localhost:5000/t/user-svc:latest")
	putFile(t, "lab.yaml", []byte(strings.Replace(lab.yaml(), "registry.test/side:v1", pin, 1)))
	putFile(t, "remove.json", []byte(`{"container_id": "x"}`))
	putFile(t, "exec.json", []byte(`{"kind": "ExecProcessRequest", "input": {"process": {"Args": ["sh"]}}}`))

	// Evidence of a machine, and its server.
	check(os.Mkdir("tpm", 0o755))
	check(makeTPM("tpm"))
	check(os.Mkdir("own", 0o755))
	m, err := makeMachine("own")
	check(err)
	server := httptest.NewUnstartedServer(m.pages())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{m.cert}}
	server.StartTLS()
	t.Cleanup(server.Close)

	// A proxy's workspace and its image.
	check(os.MkdirAll("workspace/manifests", 0o755))
	putFile(t, "workspace/manifests/log.txt", []byte("2025-11-08T16:43:07+02:00 /home/some user/ws/manifests/1.json\n2025-11-09T16:43:07Z /home/some user/ws/manifests/2.json\n"))
	putFile(t, "workspace/manifests/1.json", []byte("{}\n"))
	putFile(t, "workspace/manifests/2.json", []byte("{ }\n"))
	one, two, three := strings.Repeat("1", 64), strings.Repeat("2", 64), strings.Repeat("3", 64)
	putFile(t, "inspect.json", fmt.Appendf(nil, `[{"Id": "sha256:%s", "RepoTags": ["r.example/privatemode-proxy:latest"], "RepoDigests": ["r.example/privatemode-proxy@sha256:%s"],`+
		`"Architecture": "amd64", "Os": "linux", "RootFS": {"Type": "layers", "Layers": ["sha256:%s"]}}]`, one, two, three))
	putFile(t, "proxy-hashes.json", fmt.Appendf(nil, `{"privatemode-proxy": "sha256:%s", "other": "sha256:%s"}`, two, three))
	return map[string]string{"$WORK": dir, "$HOST": server.Listener.Addr().String(), "$ROOT": ""}, env
}
