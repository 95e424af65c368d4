package yamldoc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kube "sigs.k8s.io/yaml"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/yamldoc"
)

// oracle decodes as kubectl and the API server do: separator lines first,
// each piece by sigs.k8s.io/yaml.
func oracle(data []byte) (docs []string, err error) {
	var piece []byte
	flush := func() error {
		j, err := kube.YAMLToJSON(piece)
		piece = nil
		docs = append(docs, string(j))
		return err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok {
			if t := strings.TrimSpace(string(rest)); t == "" || t[0] == '#' {
				if err := flush(); err != nil {
					return nil, err
				}
				continue
			}
		}
		piece = append(piece, line...)
	}
	return docs, flush()
}

func same(t *testing.T, data []byte) (read bool) {
	t.Helper()
	ours, err := yamldoc.ParseKubernetes("f.yaml", data, yamldoc.Limits{Nodes: 10_000})
	if err != nil {
		var e *yamldoc.Error
		if !errors.As(err, &e) {
			t.Fatalf("%q: %T is no *yamldoc.Error", data, err)
		}
		return false
	}
	theirs, err := oracle(data)
	if err != nil {
		return false // no cluster reads it
	}
	var a, b []string
	for _, d := range ours {
		j, err := json.Marshal(yamldoc.Value(d))
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if string(j) != "null" {
			a = append(a, string(j))
		}
	}
	for _, j := range theirs {
		if j != "null" {
			b = append(b, j)
		}
	}
	if strings.Join(a, "\n") != strings.Join(b, "\n") {
		t.Fatalf("two readings of %q:\nours   %s\noracle %s", data, a, b)
	}
	return true
}

// kubeSeeds are documents in which readers of YAML are known to differ.
var kubeSeeds = []string{
	"a: yes\nb: on\nc: n\nd: y\n", "a: 0644\nb: 0o17\nc: 0x1F\nd: 0b11\ne: 1_000\nf: -0b1\ng: 08\nh: +1\n",
	"a: 1e3\nb: 1.\nc: .5\nd: 1e999\ne: -1.5e-7\nf: 1e21\ng: 18446744073709551615\nh: 18446744073709551616\n",
	"a: 190:20:30\nb: 2001-01-01\nc: 2001-01-01 10:00:00\nd: 1_0.5\n", "a: ~\nb:\nc: null\nd: Null\n",
	"a: .nan\n", "yes: 1\n", "1: a\n", "1.0: a\n", "~: a\n", "!!str a: 1\na: 2\n", "a: 1\n!x a: 2\n", "! a: 1\n", "a: ! 5\n",
	"a: &x ! 5\n", "a: !!binary aGk=\n", "a: !!str 5\n", "a: !!int '5'\n", "a: 1\n\"\\x61\": 2\n", "'a': 1\na: 2\n", "? a\n: 1\na: 2\n",
	"x: &x {a: 1}\ny:\n  <<: *x\n  b: 2\n", "x: &x {a: 1}\ny:\n  a: 2\n  <<: *x\n", "x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n",
	"x: &x {a: 1}\nz: &z {a: 2}\ny:\n  <<: [*x, *z]\n", "x: &x {a: 1}\ny:\n  '<<': *x\n", "y:\n  <<: 5\n", "y:\n  <<: [5]\n",
	"a: &x 1\nb: &x 2\nc: *x\n", "&k a: *k\n", "? *a\n: &a 1\n", "a: b\n---\nc: d\n", "--- {a: b}\n", "---\n---\na: b\n", "a: b\n---x\n", "a: b\n--- # c\nc: d\n",
	"a: b\n...\nc: d\n", "a: b\n...\n---\nc: d\n", "%YAML 1.1\n---\na: b\n", "a: b\r---\rc: d\r", "a: b\u2028---\u2028c: d", "a: 'x\u0085y'\n",
	"\ufeffa: b\n", "a: b\n---\n\ufeffc: d\n", "a: \"\\/\\u00e9\\N\\_\\L\\P\\e\"\n", "a: >\n  x\n  y\n\n   z\n\n  w\n", "a: |+\n x\n\n", "a: |-\n x\n\n", "a: |2\n    x\n", "a: 'it''s\n  two\n\n  lines'\n",
	"a: \"x\\\n   y\"\n", "a: [b, c,]\n", "a: {b, c: d}\n", "a: {b: c, 'd':e}\n", "{\"a\":1,\"b\":[true,null,1.0,\"\\ud83d\\ude00\"]}\n", "a: b # c\nd: e#f\n", "- a\n-\n  - b\n- - c\n", "a: x\n  y\n", "a:\tb\n",
	"a: b: c\n", "a: @x\n", "a: `x\n", "a: %x\n", "a: -\n", "a: ?x\n", "a: :x\n", "kind: List\nItems: 1\nitems: 2\n", "data: {a: 1, A: 2}\n", "a: =\n", "a: <<\n", "a: 0.1e1_0\n", "a: 0_\n", "a: +\n", "a: .\n", "a: ._1\n", "a: 0x_\n", "a: 1__2\n",
}

func TestKubernetesReading(t *testing.T) {
	read := 0
	for _, s := range kubeSeeds {
		if same(t, []byte(s)) {
			read++
		}
	}
	if read < len(kubeSeeds)/2 {
		t.Errorf("only %d of %d were read at all", read, len(kubeSeeds))
	}
}

func TestKubernetesRefuses(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"args: 1\nb: 2\n!x args: 3\n", `f.yaml:3:1: key "args" appears twice, first on line 1`},
		{"a:\n  ? args\n  : 1\n  \"\\x61rgs\": 2\n", `f.yaml:4:3: key "args" appears twice, first on line 2`},
		{"a: 1\n!!str b: 2\n", `f.yaml:2:1: key "b" has a tag`},
		{"---\nx: &x\n  a: 1\nw:\n  a: 2\n  <<: *x\n", `f.yaml:6:3: the merge key brings "a" of line 3, which is on line 5 already`},
		{"a: &x 1\nb: &x 2\n", `f.yaml:2:4: anchor &x is defined twice, first on line 1`},
		{"Image: 1\nimage: 2\n", `f.yaml:2:1: key "image" differs from "Image" on line 1 in letter case only`},
		{"a: b\n--- {c: d}\n", `f.yaml:2:4: something stands behind ---`},
		{"on: push\n", `key "on" is no string: the API server reads it as bool true (quote it)`},
		{"a: 1\n...\nb: 2\n", "f.yaml:1: what follows the document"},
	} {
		_, err := yamldoc.ParseKubernetes("f.yaml", []byte(tt.in), yamldoc.Limits{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.in, err, tt.want)
		}
	}
}

// Every published deployment is read, and read the same.
func TestKubernetesReleases(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(testenv.Vectors(t, "published/privatemode"), "*", "*.yaml"))
	if len(files) < 15 {
		t.Fatalf("got %d files", len(files))
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !same(t, data) && strings.Contains(f, "deployments") {
			_, err := yamldoc.ParseKubernetes(f, data, yamldoc.Limits{})
			t.Errorf("%s is not read: %v", f, err)
		}
	}
}

// Random texts of the pieces from which YAML is made.
func TestKubernetesRandom(t *testing.T) {
	n := 20_000
	if testenv.IsLong() {
		n = 1_000_000
	}
	read := 0
	for seed := range uint64(n) {
		if same(t, randomYAML(rand.New(rand.NewPCG(seed, 12)))) {
			read++
		}
	}
	t.Logf("%d of %d read", read, n)
	if read < n/20 {
		t.Errorf("only %d of %d random texts are read, which shows little", read, n)
	}
}

func randomYAML(r *rand.Rand) []byte {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	scalar := func() string {
		return pick("a", "yes", "n", "on", "0644", "0x1f", "1_0", "1.50", ".5", "~", "null", "''", "'a b'", "\"\\x61\\n\"", "2001-01-01", "<<", "*x", "&x a", "!x a", "!!str 5", "! 5",
			"-1", "+.inf", "1e3", "a:b", "a #b", "\"a\\\n   b\"", "'x\n\n   y'", "1:30", "0o7", "-", "=", "é", "0b1", "!!int 3", "off", "Y", "00", "-0", "1e400", "0.0", "1.", "a\n    b", "\u2028", "[", "{}", "[]", "[a, yes]", "{a: 1, b: n}", "{a, b: }", "\"", "%x", "@", "`", "?", "? a", ": b")
	}
	var b strings.Builder
	var block func(indent, depth int)
	block = func(indent, depth int) {
		pad := strings.Repeat(" ", indent)
		list := r.IntN(4) == 0
		for range 1 + r.IntN(3) {
			lead := pick("a", "b", "c", "a", "b", "A", "'a'", "\"\\x61\"", "yes", "1", "<<", "!!str a", "? a\n"+pad, "data", "*x", "&y k", "0x1", "a b", "~") + ":"
			if list {
				lead = "-"
			}
			b.WriteString(pad + lead)
			switch k := r.IntN(10); {
			case k < 5 || depth > 3:
				b.WriteString(pick(" ", " ", " ", "  ", "\t", "") + scalar() + pick("\n", "\n", "\n", " # c\n", "\r\n"))
			case k < 8:
				b.WriteString(pick("\n", "\n", " &x\n", " &z\n", " !m\n"))
				block(indent+1+r.IntN(3), depth+1)
			default:
				b.WriteString(fmt.Sprintf(" %s%s\n", pick("|", ">"), pick("", "-", "+", "2")))
				for range r.IntN(4) {
					b.WriteString(pick(pad+"  x y\n", pad+"   z\n", "\n", pad+"  #no\n", pad+" \n"))
				}
			}
		}
	}
	for i := range 1 + r.IntN(2) {
		if i > 0 {
			b.WriteString(pick("---\n", "---\n", "--- # x\n", "--- a\n", "...\n", "---\r\n"))
		}
		block(0, 0)
	}
	return []byte(b.String())
}

func FuzzKubernetes(f *testing.F) {
	for _, s := range kubeSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 4<<10 {
			same(t, data)
		}
	})
}
