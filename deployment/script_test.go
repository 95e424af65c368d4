package deployment_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/deployment"
)

const (
	hexA  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB  = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	pinA  = "example.com/app@sha256:" + hexA
	mount = "example.com/disk-mounter:v1@sha256:" + hexA
)

// pod makes a confidential Pod; the container's fields start on line 9.
func pod(fields string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  runtimeClassName: contrast-cc\n  containers:\n  - name: c\n" + indent(fields, 4)
}

func indent(s string, n int) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.Repeat(" ", n) + line)
	}
	return b.String()
}

func parse(t testing.TB, yaml string) *deployment.Deployment {
	t.Helper()
	d, err := deployment.Parse("f.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func codes(d *deployment.Deployment) (out []string) {
	for _, p := range d.Problems() {
		out = append(out, fmt.Sprintf("%d %s", p.Line, p.Code))
	}
	return out
}

// The script starts on line 14 of the YAML.
func TestFileCheckForms(t *testing.T) {
	a, b, h512 := hexA, hexB, strings.Repeat("c", 128)
	mismatch := "[ \"$(sha256sum /f | cut -d ' ' -f 1)\" != '" + a + "' ]"
	equal := `[ "$(sha256sum /f | cut -d' ' -f1)" = "` + a + `" ]`
	tests := []struct {
		name, shell, script string
		want                []string // line file hash enforcement
		problems            []string
	}{
		{"if not equal, exit", "-c", "if " + mismatch + "; then echo bad; exit 1; fi\nexec app", []string{"14 /f a enforced"}, nil},
		{"second line", "-c", "cp /x /f\nif " + mismatch + "; then\n  exit 2\nfi\nexec app", []string{"15 /f a enforced"}, nil},
		{"only printed", "-ec", "if " + mismatch + "; then echo bad; fi\nexec app", []string{"14 /f a not enforced"}, []string{"14 check-not-enforced"}},
		{"inverted", "-c", "if " + equal + "; then exit 1; fi\nexec app", []string{"14 /f a inverted"}, []string{"14 check-inverted"}},
		{"equal, else exit", "-c", "if " + equal + "; then echo ok; else exit 1; fi\nexec app", []string{"14 /f a enforced"}, nil},
		{"equal or exit", "-c", equal + " || exit 1\nexec app", []string{"14 /f a enforced"}, nil},
		{"equal or group", "-c", equal + " || { echo bad; exit 1; }\nexec app", []string{"14 /f a enforced"}, nil},
		{"equal or echo", "-ec", equal + " || echo bad\nexec app", []string{"14 /f a not enforced"}, []string{"14 check-not-enforced"}},
		{"not equal and exit", "-c", mismatch + " && exit 1\nexec app", []string{"14 /f a enforced"}, nil},
		{"bare under -e", "-ec", equal + "\nexec app", []string{"14 /f a enforced"}, nil},
		{"bare under set -e", "-c", "set -eu\n" + equal + "\nexec app", []string{"15 /f a enforced"}, nil},
		{"bare under set -o", "-c", "set -euo pipefail\n" + equal + "\nexec app", []string{"15 /f a enforced"}, nil},
		{"bare without -e", "-c", equal + "\nexec app", []string{"14 /f a not enforced"}, []string{"14 check-not-enforced"}},
		{"negated does not trip -e", "-ec", "! " + mismatch + "\nexec app", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"if negated", "-c", "if ! " + equal + "; then exit 1; fi", []string{"14 /f a enforced"}, nil},
		{"guarded run", "-c", equal + " && exec app", nil, []string{"14 check-not-understood", "14 start-opaque"}},
		{"exit zero", "-c", "if " + mismatch + "; then exit 0; fi\nexec app", []string{"14 /f a unknown"}, []string{"14 start-opaque"}},
		{"under another condition", "-c", "if grep -q x /y; then\n" + equal + " || exit 1\nfi\nexec app", nil, []string{"14 start-opaque", "15 check-not-understood"}},
		{"behind a copy in a chain", "-c", "cp /x /f && " + equal + " || exit 1\nexec app", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"subshell under -e", "-ec", "( " + equal + " || exit 1 )\nexec app", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"subshell without -e", "-c", "( " + equal + " || exit 1 )\nexec app", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"double brackets", "-c", `[[ "$(sha256sum /f | awk '{print $1}')" == "` + a + `" ]] || exit 1`, nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"test", "-c", `test "$(sha256sum </f | head -c 64)" = ` + a + ` || exit 1`, []string{"14 /f a enforced"}, nil},
		{"cat", "-c", "test `cat /f | sha256sum | cut -c1-64` = " + a + " || exit 1", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"swapped", "-c", `[ ` + a + ` = "$(sha256sum /f | cut -f1 -d' ')" ] || exit 1`, []string{"14 /f a enforced"}, nil},
		{"variables", "-c", "want=" + a + "\ngot=$(sha256sum /f | cut -d ' ' -f 1)\nif [ \"$got\" != \"${want}\" ]; then exit 1; fi", nil, []string{"14 check-not-understood", "16 start-opaque"}},
		{"function", "-c", "check() {\n  [ \"$(sha256sum \"$1\" | cut -d ' ' -f 1)\" = \"$2\" ] || exit 1\n}\ncheck /f " + a + "\ncheck /g " + b, nil, []string{"14 start-opaque", "17 check-not-understood", "18 check-not-understood"}},
		{"loop", "-c", "for f in /f /g; do [ $(sha256sum $f | cut -d ' ' -f 1) = " + a + " ] || exit 1; done", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"sha256sum -c", "-c", "echo '" + a + "  /f' | sha256sum -c || exit 1", []string{"14 /f a enforced"}, nil},
		{"sha256sum -c -, under -e", "-ec", "echo \"" + a + " */f\" | sha256sum --check --status -\nexec app", []string{"14 /f a enforced"}, nil},
		{"sha256sum -c, ignored", "-c", "echo '" + a + "  /f' | sha256sum -c\nexec app", []string{"14 /f a not enforced"}, []string{"14 check-not-enforced"}},
		{"printf", "-ec", "printf '%s  %s\\n' " + a + " /f | sha256sum -c", []string{"14 /f a enforced"}, nil},
		{"here-document", "-ec", "sha256sum -c <<EOF\n" + a + "  /f\n" + b + "  /g\nEOF\nexec app", []string{"15 /f a enforced", "16 /g b enforced"}, nil},
		{"here-string", "-ec", "sha256sum -c <<< '" + a + "  /f'", []string{"14 /f a enforced"}, nil},
		{"sha512sum", "-ec", `[ "$(sha512sum /f | cut -d ' ' -f 1)" = ` + h512 + " ]", []string{"14 /f c enforced"}, nil},
		{"either of two", "-c", "if " + equal + "; then :; elif [ $(sha256sum /f | cut -d ' ' -f 1) = " + b + " ]; then :; else exit 1; fi\nexec app", nil, []string{"14 check-not-understood", "14 start-opaque", "14 check-not-understood"}},
		{"list elsewhere", "-ec", "sha256sum -c /sums.txt\nexec app", nil, []string{"14 start-opaque"}},
		{"variable from elsewhere", "-ec", "[ $(sha256sum /f | cut -d ' ' -f 1) = $WANT ]", nil, []string{"14 start-opaque"}},
		{"too short", "-ec", "[ $(sha256sum /f | cut -d ' ' -f 1) = abc ]", []string{"14 /f  enforced"}, []string{"14 check-malformed"}},
		{"upper case", "-ec", "[ $(sha256sum /f | cut -d ' ' -f 1) = " + strings.ToUpper(a) + " ]", []string{"14 /f  enforced"}, []string{"14 check-malformed"}},
		{"cut short", "-ec", "[ $(sha256sum /f | cut -c 1-8) = " + a + " ]", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"not called", "-c", "check() { [ $(sha256sum /f | cut -d ' ' -f 1) = " + a + " ] || exit 1; }\nexec app", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"not compared", "-c", "sha256sum /f\nWANT=" + a + " exec app", nil, []string{"15 start-opaque", "15 check-not-understood"}},
		{"not shell", "-c", "sha256sum /f; if (( 1 )); then " + a + "; fi", nil, []string{"14 start-opaque", "14 check-not-understood"}},
		{"comment", "-c", "# sha256sum /f\nexec app", nil, nil},
		{"commented out", "-c", "# " + mismatch + "\nexec app", nil, []string{"14 check-not-understood"}},
		{"image digest beside", "-c", "sha256sum /f\nrun app@sha256:" + a, nil, []string{"15 start-opaque"}},
		{"after exec", "-c", "exec app\n" + equal + " || exit 1", nil, []string{"15 start-opaque", "15 check-not-understood"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := parse(t, pod("image: "+pinA+"\ncommand:\n- /bin/bash\n- "+tt.shell+"\n- |\n"+indent(tt.script, 2)+"\n"))
			var got []string
			for _, c := range d.FileChecks() {
				short := ""
				if !c.Expected.IsZero() {
					short = c.Expected.Hex()[:1]
				}
				got = append(got, fmt.Sprintf("%d %s %s %s", c.Line, c.File, short, c.Enforcement))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("checks (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, codes(d)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFileCheckOrigin(t *testing.T) {
	script := "cp /untrusted/k.patch /w/x.patch\n[ $(sha256sum /w/x.patch | cut -d ' ' -f 1) = " + hexA + " ]\n" +
		"[ $(sha256sum /one/file | cut -d ' ' -f 1) = " + hexB + " ]\n[ $(sha256sum /etc/passwd | cut -d ' ' -f 1) = " + hexB + " ]\n"
	y := pod("image: "+pinA+"\nargs:\n- |\n"+indent(script, 2)+"command: [sh, -ec]\nvolumeMounts:\n- {name: v, mountPath: /untrusted}\n- {name: s, mountPath: /one/file, subPath: inner}\n") +
		"  volumes:\n  - name: v\n    configMap: {name: cm, items: [{key: real, path: k.patch}]}\n  - name: s\n    configMap: {name: cm2}\n" +
		"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm2}\ndata:\n  inner: text\n"
	d := parse(t, y)
	var got []string
	for _, c := range d.FileChecks() {
		got = append(got, strings.Join([]string{c.CopiedFrom, c.Volume, c.Source, c.ConfigMap, c.Key}, " "))
	}
	want := []string{"/untrusted/k.patch v configMap cm real", " s configMap cm2 inner", "    "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("origins (-want +got):\n%s", diff)
	}
	if cms := d.ConfigMaps(); len(cms) != 1 || cms[0].Data["inner"] != "text" {
		t.Errorf("got ConfigMaps %+v", cms)
	}
	if len(d.Problems()) != 0 {
		t.Errorf("got problems %v, want none", d.Problems())
	}
}

// Without a command, an image's own entrypoint decides what the args are.
func TestFileCheckEntrypoint(t *testing.T) {
	d := parse(t, pod("image: "+pinA+"\nargs:\n- '[ $(sha256sum /f | cut -d \" \" -f 1) = "+hexA+" ] || exit 1'\n"))
	if o := d.Opaque(); len(d.FileChecks()) != 0 || len(o) != 1 || o[0].Container != "c" || o[0].Reason == "" {
		t.Errorf("got %+v, opaque %+v, want no check and one opaque start", d.FileChecks(), o)
	}
}

// A hash in a folded or quoted scalar stands on a line of its own.
func TestFileCheckFolded(t *testing.T) {
	d := parse(t, pod("image: "+pinA+"\ncommand:\n- sh\n- -ec\n- >\n  set -u;\n\n  [ $(sha256sum /f | cut -d ' ' -f 1)\n  = "+hexA+" ]\n- \"x\n  "+hexB+"\"\n"))
	if c := d.FileChecks(); len(c) != 1 || c[0].Line != 17 || c[0].Column != 9 {
		t.Errorf("got %+v, want one check at 17:9", c)
	}
}

// Init containers that end well on a mismatch let the pod go on.
func TestFileCheckInit(t *testing.T) {
	y := strings.Replace(pod("image: "+pinA+"\ncommand: [sh, -c, 'if [ \"$(sha256sum /f | cut -d \" \" -f 1)\" != "+hexA+" ]; then exit 0; fi']\n"), "containers:", "initContainers:", 1)
	if c := parse(t, y).FileChecks(); len(c) != 1 || c[0].Enforcement != deployment.NotEnforced || !c[0].Init {
		t.Errorf("got %+v, want one check that is not enforced", c)
	}
}

func TestDiskForms(t *testing.T) {
	args := "args: [m, '0', " + hexA + "]\n"
	tests := []struct {
		name, fields string
		want         []string // line form model index hash used command
		problems     []string
	}{
		{"positional", args, []string{"10 positional m 0 a true false"}, nil},
		{"equals", "args:\n- --root-hash=" + hexA + "\n- --device-path=/dev/modelweights-m-1\n", []string{"11 --root-hash= m 1 a true false"}, nil},
		{"one dash", "args: [-root-hash=" + hexA + "]\n", []string{"10 --root-hash=   a true false"}, nil},
		{"two words", "args:\n- --root-hash\n- " + hexA + "\n- --device-path\n- /dev/modelweights\n", []string{"12 --root-hash VALUE   a true false"}, nil},
		{"wrapper", "command:\n- /bin/sh\n- -ec\n- |\n  echo 1 > /proc/sys/vm/x\n  exec /bin/disk-mounter \"$@\"\n- _\n" + args, []string{"17 positional m 0 a true false"}, nil},
		{"wrapper by number", "command: [sh, -c, 'disk-mounter \"$1\" $2 ${3}', _]\n" + args, []string{"11 positional m 0 a true false"}, nil},
		{"env wrapper", "command: [env, A=b, disk-mounter]\n" + args, []string{"11 positional m 0 a false false"}, []string{"10 start-opaque"}},
		{"drops the args", "command: [sh, -c, exec disk-mounter, _]\n" + args, []string{"8 missing   - false false", "11 positional m 0 a false false"}, []string{"8 disk-no-root-hash", "10 disk-args-unused"}},
		{"swallowed as $0", "command: [sh, -c, 'exec disk-mounter \"$@\"']\n" + args, []string{"11 not understood   a false false"}, []string{"11 start-opaque", "11 disk-args"}},
		{"other program", "command: [sleep, inf]\n" + args, []string{"11 positional m 0 a false false"}, []string{"10 start-opaque"}},
		{"script of another", "command: [sh, -c, 'sleep inf', _]\n" + args, []string{"11 positional m 0 a false false"}, []string{"10 disk-args-unused"}},
		{"unreadable script", "command: [sh, -c, 'if', _]\n" + args, []string{"11 positional m 0 a false false"}, []string{"10 start-opaque"}},
		{"shift", "command: [sh, -c, 'shift; disk-mounter \"$@\"', _, x]\n" + args, []string{"11 positional m 0 a false false"}, []string{"10 start-opaque"}},
		{"in the command", "command:\n- sh\n- -c\n- |\n  true\n  exec disk-mounter --root-hash=" + hexB + " \"$@\"\n- _\n", []string{"15 --root-hash=   b true true"}, nil},
		{"in direct command", "command: [/bin/disk-mounter, m, '0']\nargs:\n- " + hexB + "\n", []string{"12 positional m 0 b true false"}, nil},
		{"from the environment", "env:\n- name: ROOT\n  value: " + hexB + "\ncommand: [sh, -c, 'disk-mounter m 0 $ROOT']\n", nil, []string{"13 start-opaque"}},
		{"none", "args: []\n", []string{"8 missing   - false false"}, []string{"8 disk-no-root-hash"}},
		{"no value", "args: [--root-hash]\n", []string{"8 missing   - false false"}, []string{"8 disk-no-root-hash"}},
		{"malformed", "args: [m, '0', abc]\n", []string{"10 positional m 0 - true false"}, []string{"10 disk-root-hash"}},
		{"index", "args: [m, x, " + hexA + "]\n", []string{"10 positional m x a false false"}, []string{"10 start-opaque", "10 disk-args"}},
		{"twice", "args: [--root-hash=" + hexA + ", --root-hash=" + hexB + "]\n", []string{"10 --root-hash=   b false false"}, []string{"10 start-opaque", "10 disk-args", "10 disk-second-hash"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := parse(t, pod("image: "+mount+"\n"+tt.fields))
			var got []string
			for _, p := range d.Disks() {
				short := "-"
				if !p.RootHash.IsZero() {
					short = p.RootHash.Hex()[:1]
				}
				got = append(got, fmt.Sprintf("%d %s %s %s %s %v %v", p.Line, p.Form, p.Model, p.Index, short, p.Used, p.InCommand))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("disks (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, codes(d)); diff != "" {
				t.Errorf("problems (-want +got):\n%s\n%v", diff, d.Problems())
			}
		})
	}
}

func TestDiskDetection(t *testing.T) {
	for name, want := range map[string]int{
		"- {name: disk-mounter, image: '" + pinA + "', args: [m, '0', " + hexA + "]}\n":                                                          1,
		"- {name: disk-mounter-x-0, image: '" + pinA + "', args: [m, '0', " + hexA + "]}\n":                                                      1,
		"- {name: disk-mounterx, image: '" + pinA + "', args: [m, '0', " + hexA + "]}\n":                                                         0,
		"- {name: a, image: '" + mount + "', args: [m, '0', " + hexA + "]}\n- {name: b, image: '" + mount + "', args: [m, '0', " + hexB + "]}\n": 2,
	} {
		y := strings.Replace(pod(""), "  - name: c\n", indent(name, 2), 1)
		d := parse(t, y)
		if got := len(d.Disks()); got != want {
			t.Errorf("%s: got %d disks, want %d", name, got, want)
		}
		if got := codes(d); want == 2 && cmp.Diff(got, []string{"9 disk-two-hashes"}) != "" {
			t.Errorf("two root hashes for a model: got %v", got)
		}
	}
}
