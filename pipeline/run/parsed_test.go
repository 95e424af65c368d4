package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline/config"
)

// TestParsedOnce: a document is parsed once for a Reader and every stage over
// it, and each stage that asked for it has it among its files.
func TestParsedOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, count := context.Background(), new(Counter)
	reader := NewReader(dir, count)
	calls := 0
	parse := func(name string, data []byte) (*string, error) {
		calls++
		s := name + "=" + string(data)
		return &s, nil
	}
	before, err := Parsed(ctx, reader, "a", 10, parse)
	if err != nil || *before != "a=text" {
		t.Fatalf("got %v, %v", before, err)
	}
	for range 2 {
		in := NewIn(&config.Config{}, reader)
		got, err := Parsed(ctx, in, "a", 10, parse)
		if err != nil || got != before {
			t.Errorf("a stage got %p, %v, want the one parsed before, %p", got, err, before)
		}
		if len(in.files) != 1 || in.files[0].input.File != "a" {
			t.Errorf("the stage has %d files, want a", len(in.files))
		}
	}
	if calls != 1 || count.Parses()["a"] != 1 {
		t.Errorf("parsed %d times, counted %d, want once", calls, count.Parses()["a"])
	}
	// Another reading of the same document is another thing.
	n, err := Parsed(ctx, reader, "a", 10, func(_ string, data []byte) (int, error) { return len(data), nil })
	if err != nil || n != 4 || count.Parses()["a"] != 2 {
		t.Errorf("got %d, %v, %d readings", n, err, count.Parses()["a"])
	}
}

// TestParsedFaults: a document that cannot be parsed stays so for everybody, and
// one that cannot be read is not parsed.
func TestParsedFaults(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, reader := context.Background(), NewReader(dir, nil)
	broken := errors.New("a: line 1: broken")
	calls := 0
	parse := func(string, []byte) (*string, error) { calls++; return nil, broken }
	for range 2 {
		if got, err := Parsed(ctx, NewIn(&config.Config{}, reader), "a", 10, parse); got != nil || !errors.Is(err, broken) {
			t.Errorf("got %v, %v, want nothing and the fault", got, err)
		}
	}
	if calls != 1 {
		t.Errorf("parsed %d times, want once", calls)
	}
	if _, err := Parsed(ctx, reader, "b", 10, parse); err == nil || calls != 1 {
		t.Errorf("a file that is not there: %v, parsed %d times", err, calls)
	}
	if err := os.WriteFile(filepath.Join(dir, "c"), []byte(strings.Repeat("x", 11)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Parsed(ctx, reader, "c", 10, parse); err == nil || calls != 1 {
		t.Errorf("a file over its limit: %v, parsed %d times", err, calls)
	}
}

// TestCheckTable refuses tables in which a stage would ask for what is not there
// yet.
func TestCheckTable(t *testing.T) {
	do := func(context.Context, *In) (*Out, error) { return new(Out), nil }
	stage := func(name string, after ...string) Stage {
		return Stage{Name: name, Version: 1, Run: do, After: after}
	}
	for _, c := range []struct {
		name  string
		table []Stage
		ok    bool
	}{
		{"in order", []Stage{stage("a"), stage("b", "a"), stage("c", "a", "b")}, true},
		{"before what it needs", []Stage{stage("b", "a"), stage("a")}, false},
		{"after itself", []Stage{stage("a", "a")}, false},
		{"after what is not there", []Stage{stage("a"), stage("b", "z")}, false},
		{"twice", []Stage{stage("a"), stage("a")}, false},
		{"without a name", []Stage{stage("")}, false},
		{"without a version", []Stage{{Name: "a", Run: do}}, false},
		{"nothing to run", []Stage{{Name: "a", Version: 1}}, false},
	} {
		if err := CheckTable(c.table); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
		if !c.ok {
			if _, err := Run(context.Background(), c.table, &config.Config{}, Options{}); err == nil {
				t.Errorf("%s: was run", c.name)
			}
		}
	}
}
