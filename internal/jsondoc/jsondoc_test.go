package jsondoc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/retally/retally/internal/jsondoc"
)

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"duplicate key", `{"a":1,"a":2}`, `line 1 column 8: member "a" appears twice`},
		{"nested duplicate", "{\"a\":{\n\"b\":1,\"b\":2}}", `line 2 column 7 in /a: member "b" appears twice`},
		{"trailing data", `{} x`, `unexpected 'x' after the end`},
		{"lone surrogate", `"\ud800"`, "lone surrogate"},
		{"low surrogate first", `"\udc00\ud800"`, "lone surrogate"},
		{"bad utf8", "\"\xff\"", "not UTF-8"},
		{"control", "\"\n\"", "control character"},
		{"leading zero", `01`, "leading zero"},
		{"bare minus", `-`, "want a digit"},
		{"open object", `{"a":1`, "found end of input"},
		{"depth", strings.Repeat("[", 200), "nested deeper"},
		{"empty", ``, "want a value"},
		{"trailing comma", `[1,]`, "want a value"},
		{"single quote", `{'a':1}`, "want a member name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := jsondoc.Parse([]byte(tt.in), jsondoc.Limits{})
			var e *jsondoc.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	if _, err := jsondoc.Parse([]byte(`[1,2,3]`), jsondoc.Limits{Values: 3}); err == nil {
		t.Error("4 values passed a limit of 3")
	}
	if _, err := jsondoc.Parse([]byte(`[1,2,3]`), jsondoc.Limits{Bytes: 6}); err == nil {
		t.Error("7 bytes passed a limit of 6")
	}
}

func TestEdit(t *testing.T) {
	v, err := jsondoc.Parse([]byte(`{"b":1,"a":{"x":[]},"c":null}`), jsondoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c := v.Clone()
	c.Set("a", jsondoc.NewString("\u2028<é"))
	c.Set("z", jsondoc.NewArray(jsondoc.NewBool(true)))
	c.Delete("c")
	if got, want := string(jsondoc.YQ.Compact(c)), `{"b":1,"a":"\u2028<é","z":[true]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := string(jsondoc.Go.Compact(v)), `{"b":1,"a":{"x":[]},"c":null}`; got != want {
		t.Errorf("the original changed: got %s, want %s", got, want)
	}
}

// The Go style must be what encoding/json prints, for every string.
// yq v4.45.1 and Go before 1.22 write \b and \f in the long form, Go and jq do
// not (run).
func TestControls(t *testing.T) {
	v := jsondoc.NewString("\b\f\n\x7f")
	for style, want := range map[jsondoc.Style]string{
		jsondoc.Go: `"\b\f\n` + "\x7f" + `"`,
		jsondoc.YQ: `"\u0008\u000c\n` + "\x7f" + `"`,
		jsondoc.JQ: `"\b\f\n\u007f"`,
	} {
		if got := string(style.Compact(v)); got != want {
			t.Errorf("%+v: got %s, want %s", style, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\u00e9\ud83d\ude00"],"b":{}}`, `[]`, `"<>&\u2028\u007f\b\f"`, `-0.0e-1`, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 16})
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted what encoding/json refuses: %q", data)
		}
		for _, style := range []jsondoc.Style{jsondoc.Go, jsondoc.YQ, jsondoc.JQ, {}} {
			once := style.Format(v)
			again, err := jsondoc.Parse(once, jsondoc.Limits{Bytes: 1 << 22})
			if err != nil {
				t.Fatalf("own output refused: %v\n%s", err, once)
			}
			if twice := style.Format(again); !bytes.Equal(once, twice) {
				t.Fatalf("not stable:\n%s\n%s", once, twice)
			}
		}
		if v.Kind == jsondoc.String {
			want, err := json.Marshal(v.Text)
			if err != nil {
				t.Fatal(err)
			}
			if got := jsondoc.Go.Compact(v); !bytes.Equal(got, want) {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
	})
}

func TestReason(t *testing.T) {
	for _, test := range []struct {
		in   string
		want jsondoc.Reason
	}{
		{`{"a":1,"a":2}`, jsondoc.DuplicateKey},
		{`{"a":1,"\u0061":2}`, jsondoc.DuplicateKey},
		{`[[[1]]]`, jsondoc.TooLarge},
		{`[1,2,3,4,5]`, jsondoc.TooLarge},
		{`[1,2,3,4,5,6,7,8,9,10,11]`, jsondoc.TooLarge},
		{`{"a":01}`, jsondoc.Syntax},
		{`{}{}`, jsondoc.Syntax},
	} {
		_, err := jsondoc.Parse([]byte(test.in), jsondoc.Limits{Bytes: 20, Depth: 2, Values: 5})
		var e *jsondoc.Error
		if !errors.As(err, &e) || e.Reason != test.want {
			t.Errorf("Parse(%s) = %v, want an error of kind %d", test.in, err, test.want)
		}
	}
}
