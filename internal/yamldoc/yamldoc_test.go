package yamldoc_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/retally/retally/internal/yamldoc"
)

func TestParseRefuses(t *testing.T) {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 9; i++ {
		p, n := string(rune('0'+i-1)), string(rune('0'+i))
		bomb += "a" + n + ": &a" + n + " [" + strings.Repeat("*a"+p+",", 9) + "*a" + p + "]\n"
	}
	for _, tt := range []struct{ name, in, want string }{
		{"duplicate key", "a: 1\nb: 2\na: 3\n", `f.yaml:3:1: key "a" appears twice, first on line 1`},
		{"alias bomb", bomb, "more than 1000000 nodes"},
		{"alias cycle", "a: &a [*a]\n", "f.yaml:1"},
		{"syntax", "a: [1\nb: 2", "f.yaml:"},
		{"tab", "a:\n\t- b", "f.yaml:2"},
		{"deep", strings.Repeat("[", 300) + strings.Repeat("]", 300), "nested deeper"},
		{"mapping key", "? {a: b}\n: c\n", "a key must be a plain value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := yamldoc.Parse("f.yaml", []byte(tt.in), yamldoc.Limits{})
			var e *yamldoc.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAccessors(t *testing.T) {
	if _, err := yamldoc.Parse("f", []byte("l: [*q, &q 1]\n"), yamldoc.Limits{}); err == nil {
		t.Fatal("an alias before its anchor was accepted")
	}
	docs, err := yamldoc.Parse("f", []byte("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\n---\n---\nt: |\n  one\n  two\n"), yamldoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 3 || docs[1] != nil {
		t.Fatalf("got %d documents, want 3 with the second empty", len(docs))
	}
	for path, want := range map[string]string{"y a": "1", "y b": "3", "z b": "2"} {
		if got, _ := yamldoc.Text(yamldoc.Path(docs[0], strings.Fields(path)...)); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if got := yamldoc.ContentLine(yamldoc.Get(docs[2], "t"), 1); got != 10 {
		t.Errorf("second line of the block: got line %d, want 10", got)
	}
}

type config struct {
	Version int               `yaml:"version"`
	Disks   map[string]disk   `yaml:"disks"`
	Names   []string          `yaml:"names"`
	Any     map[string]string `yaml:"any,omitempty"`
}

type disk struct {
	Dir  string `yaml:"dir"`
	MKFS string `yaml:"mkfs"`
}

func TestDecodeStrict(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"unknown key", "version: 1\ndisks:\n  g:\n    dri: x\n", `f:4:5: disks.g: unknown key "dri" (did you mean "dir"?)`},
		{"unknown key, nothing near", "zzzzzzzz: 1\n", `f:1:1: unknown key "zzzzzzzz" (known: version, disks, names, any)`},
		{"wrong shape", "disks: [a]\n", `f:1:8: disks: want a mapping, found a list`},
		{"wrong scalar", "version: x\n", `f:1:10: version: want a whole number, found "x"`},
		{"list elem", "names: [a, {}]\n", `f:1:12: names[1]: want text, found a mapping`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := yamldoc.Parse("f", []byte(tt.in), yamldoc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			var c config
			err = yamldoc.DecodeStrict("f", docs[0], &c)
			if err == nil || err.Error() != tt.want {
				t.Fatalf("got %v, want %s", err, tt.want)
			}
		})
	}
	docs, err := yamldoc.Parse("f", []byte("version: 1\ndisks: {g: {dir: d}}\nnames: [a]\n"), yamldoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var c config
	if err := yamldoc.DecodeStrict("f", docs[0], &c); err != nil || c.Disks["g"].Dir != "d" || c.Names[0] != "a" {
		t.Fatalf("got %+v, %v", c, err)
	}
}

// TestInline: the fields of an inline struct are the outer one's.
func TestInline(t *testing.T) {
	type Own struct {
		Seed string `yaml:"seed"`
	}
	var c struct {
		Name string `yaml:"name"`
		Own  `yaml:",inline"`
	}
	for in, want := range map[string]string{
		"name: n\nseed: s\n": "", "seeed: s\n": `f:1:1: unknown key "seeed" (did you mean "seed"?)`, "own: {seed: s}\n": `f:1:1: unknown key "own" (known: name, seed)`, "seed: [a]\n": "f:1:7: seed: want text, found a list",
	} {
		docs, err := yamldoc.Parse("f", []byte(in), yamldoc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		err = yamldoc.DecodeStrict("f", docs[0], &c)
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	if c.Name != "n" || c.Seed != "s" {
		t.Errorf("%+v", c)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: &a [1, *a]\n", "x: &x {a: 1}\ny: {<<: *x}\n---\n- |\n  t\n", "? a\n: b\n", "!!binary x", "%YAML 1.1\n---\na: ~\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := yamldoc.Parse("f", data, yamldoc.Limits{Bytes: 1 << 16, Nodes: 10000})
		if err != nil {
			return
		}
		var c config
		for _, d := range docs {
			if d != nil {
				_ = yamldoc.DecodeStrict("f", d, &c)
			}
			yamldoc.Pairs(d)
			yamldoc.Elems(d)
		}
	})
}
