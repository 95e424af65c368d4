package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzFileName makes file names out of what YAML calls its workloads: each is
// one file's in its folder, and no two are the same.
func FuzzFileName(f *testing.F) {
	f.Add("pod-a", "pod-A")
	f.Add("../../etc/passwd", "..")
	f.Add("a\x00b", "a/b")
	f.Add(strings.Repeat("x", 500), strings.Repeat("x", 501))
	f.Fuzz(func(t *testing.T, a, b string) {
		taken := map[string]bool{}
		first, second, third := fileName(a, taken), fileName(b, taken), fileName(a, taken)
		for _, name := range []string{first, second, third} {
			if !filepath.IsLocal(name) || filepath.Base(name) != name || strings.HasPrefix(name, ".") || len(name) > 140 {
				t.Errorf("%q is no good file name", name)
			}
		}
		if strings.EqualFold(first, second) || strings.EqualFold(first, third) || strings.EqualFold(second, third) {
			t.Errorf("%q, %q and %q are one file", first, second, third)
		}
	})
}

// FuzzSplitRequests takes sequences of requests apart: nothing is lost, and
// what is no sequence stays whole.
func FuzzSplitRequests(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n\n{\"b\":2}\n"))
	f.Add([]byte("[{\"a\":1},{\"b\":2}]"))
	f.Add([]byte("Error: \"{\\\"a\\\":1}\""))
	f.Add([]byte("{\n\"a\":1}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list := splitRequests(data)
		if len(list) == 0 {
			t.Fatal("no request at all")
		}
		if len(list) == 1 && list[0].line == 0 && !bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) && !bytes.Equal(list[0].text, data) {
			t.Error("a single request was changed")
		}
		last := 0
		for _, r := range list {
			if !bytes.Contains(data, r.text) {
				t.Errorf("%q is not in the input", r.text)
			}
			if r.line < 0 || r.line > 0 && r.line <= last {
				t.Errorf("line %d after %d", r.line, last)
			}
			last = max(last, r.line)
		}
	})
}
