package jsonproof_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
	"github.com/retally/retally/internal/proof/jsonproof"
)

// writers lay the same document out differently, one of them like nobody.
var writers = []func(v any) string{
	func(v any) string { b, _ := json.Marshal(v); return string(b) },
	func(v any) string { b, _ := json.MarshalIndent(v, "", "  "); return string(b) + "\n" },
	func(v any) string {
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		_ = e.Encode(v)
		return b.String()
	},
}

// doc is a random document; keys and strings have characters that writers
// escape differently.
func doc(r *rand.Rand, depth int) string {
	words := []string{`"a"`, `"b<c"`, `"b\u003cc"`, `1`, `1.0`, `null`, `true`, `""`, `"é"`, `"\u00e9"`}
	keys := []string{`"k"`, `"k<2"`, `"k\u003c3"`, `"x/y"`, `"x~y"`, `""`, `"Env"`, `"History"`}
	switch n := r.IntN(4); {
	case depth == 0 || n == 0:
		return words[r.IntN(len(words))]
	case n == 1:
		var list []string
		for range r.IntN(5) {
			list = append(list, doc(r, depth-1))
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var list []string
	for _, k := range keys[:r.IntN(len(keys))] {
		list = append(list, k+":"+doc(r, depth-1))
	}
	return "{" + strings.Join(list, ",") + "}"
}

// relaid writes a document with its keys' order kept, in one of a few layouts.
func relaid(r *rand.Rand, text string) string {
	switch r.IntN(4) {
	case 0:
		return strings.ReplaceAll(strings.ReplaceAll(text, ",", ", "), ":", ": ")
	case 1:
		return text + "\n"
	}
	return text
}

// mutated changes a document a little, so that most of it stays the same.
func mutated(r *rand.Rand, text string) string {
	for range 1 + r.IntN(3) {
		from := []string{`"a"`, `"b<c"`, `"k":`, `1`, `null`, `"x/y"`, `[`, `,"Env"`}[r.IntN(8)]
		to := map[string][]string{
			`"a"`: {`"b"`, `"\u0061"`}, `"b<c"`: {`"b\u003cc"`}, `"k":`: {`"\u006b":`, `"new":0,"k":`}, `1`: {`2`, `"1"`},
			`null`: {`{}`, `[1]`}, `"x/y"`: {`"x\/y"`, `"z"`}, `[`: {`[0,`, `["q",`, `[{"n":1},`}, `,"Env"`: {`,"w":{},"Env"`},
		}[from]
		text = strings.Replace(text, from, to[r.IntN(len(to))], 1)
	}
	return strings.ReplaceAll(text, ",]", "]")
}

func edits(list []jsonproof.Change) []proof.Edit {
	var out []proof.Edit
	for _, c := range list {
		out = append(out, c.Edit)
	}
	return out
}

// check holds Compare against Prove: all differences together prove, none can
// be left out, none can say something else.
func check(t *testing.T, a, b string) (proved bool) {
	t.Helper()
	da, err := jsonproof.Parse([]byte(a))
	if err != nil {
		return false
	}
	db, err := jsonproof.Parse([]byte(b))
	if err != nil {
		return false
	}
	want := digest.SHA256.Sum([]byte(a))
	list := edits(jsonproof.Compare(da, db, jsonproof.Options{}))
	v, err := jsonproof.Prove(want, db, list)
	if err != nil {
		t.Fatal(err)
	}
	if v.Proved && len(list) == 0 && a != b {
		t.Fatalf("nothing differs between\n%s\n%s", a, b)
	}
	if !v.Proved {
		return false
	}
	rebuild := func(e []proof.Edit) (digest.Digest, error) {
		out, err := jsonproof.Rebuild(db, e)
		return digest.SHA256.Sum(out), err
	}
	spare, err := proof.Spare(want, list, rebuild)
	if err != nil || len(spare) > 0 {
		t.Fatalf("A comes out without %v of %v too: %v\n%s\n%s", spare, list, err, a, b)
	}
	for i := range list {
		for _, change := range []func(*proof.Edit){
			func(e *proof.Edit) { e.A = proof.Text(`"evil"`) },
			func(e *proof.Edit) { e.B = proof.Text(`"evil"`) },
			func(e *proof.Edit) { e.Place += "/nowhere" },
			func(e *proof.Edit) { e.At++ },
			func(e *proof.Edit) { slices.Reverse(e.Perm) },
		} {
			forged := slices.Clone(list)
			forged[i].Perm = slices.Clone(list[i].Perm)
			change(&forged[i])
			if fmt.Sprint(forged[i]) == fmt.Sprint(list[i]) && slices.Equal(forged[i].Perm, list[i].Perm) {
				continue
			}
			if list[i].Op != proof.Insert && forged[i].At != list[i].At {
				continue // a position says nothing here
			}
			if v, err := jsonproof.Prove(want, db, forged); err != nil || v.Proved {
				t.Fatalf("%v proves in place of %v: %v\n%s\n%s", forged[i], list[i], err, a, b)
			}
		}
	}
	return true
}

func TestRandomDocuments(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 1))
	proved, n := 0, 3000
	for range n {
		a := doc(r, 4)
		b := relaid(r, mutated(r, a))
		if check(t, relaid(r, a), b) {
			proved++
		}
	}
	if proved < n*6/10 {
		t.Errorf("%d of %d proved", proved, n)
	}
	t.Logf("%d of %d proved", proved, n)
}

// Documents of real writers: a change inside and another writer are both named.
func TestWriters(t *testing.T) {
	type config struct {
		Env        []string          `json:"Env,omitempty"`
		Labels     map[string]string `json:"Labels,omitempty"`
		Entrypoint []string          `json:"Entrypoint,omitempty"`
	}
	a := config{Env: []string{"A=1"}, Labels: map[string]string{"a<b": "c>d"}, Entrypoint: []string{"/app"}}
	b := a
	b.Entrypoint = []string{"/evil"}
	for i, wa := range writers {
		for k, wb := range writers {
			if !check(t, wa(a), wb(b)) {
				t.Errorf("writers %d and %d are not proved", i, k)
			}
			da, _ := jsonproof.Parse([]byte(wa(a)))
			db, _ := jsonproof.Parse([]byte(wb(b)))
			found := false
			for _, c := range jsonproof.Compare(da, db, jsonproof.Options{}) {
				found = found || c.Pointer == "/Entrypoint" && c.Form == ""
			}
			if !found {
				t.Errorf("writers %d and %d: Entrypoint is not named", i, k)
			}
		}
	}
}

// What stood behind the first name out of order was not looked at.
func TestBehindTheFirstOutOfOrder(t *testing.T) {
	da, _ := jsonproof.Parse([]byte(`{"a":1,"b":2,"c":3}`))
	db, _ := jsonproof.Parse([]byte(`{"b":2,"a":1,"d":4,"c":5,"e":6}`))
	var got []string
	for _, c := range jsonproof.Compare(da, db, jsonproof.Options{}) {
		got = append(got, c.Pointer+" "+c.Form)
	}
	if want := []string{"/c ", "/d ", "/e ", " key order"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Long arrays are not cut off.
func TestLongArrays(t *testing.T) {
	var a, b []string
	for i := range 2500 {
		a = append(a, fmt.Sprintf(`{"n":%d}`, i))
		b = append(b, fmt.Sprintf(`{"n":%d}`, i))
	}
	b = append(b, `{"evil":1}`)
	b[2400] = `{"evil":2}`
	if !check2(t, "["+strings.Join(a, ",")+"]", "["+strings.Join(b, ",")+"]") {
		t.Error("not proved")
	}
}

func check2(t *testing.T, a, b string) bool {
	da, _ := jsonproof.Parse([]byte(a))
	db, _ := jsonproof.Parse([]byte(b))
	v, err := jsonproof.Prove(digest.SHA256.Sum([]byte(a)), db, edits(jsonproof.Compare(da, db, jsonproof.Options{})))
	return err == nil && v.Proved
}

func FuzzCompare(f *testing.F) {
	f.Add(`{"a":1,"b":[1,2]}`, `{"b":[2,1],"a":1.0}`)
	f.Add("{\n  \"a\": 1\n}\n", `{"\u0061":[{"x":1},{"y":2}]}`)
	f.Add(`[{"a":1},{"b":2},{"c":3}]`, `[{"c":3},{"a":1},{"b":2}]`)
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a) > 2000 || len(b) > 2000 {
			return
		}
		check(t, a, b)
	})
}
