package fieldflags_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/fieldflags"
)

type machine struct {
	Name  string   `yaml:"name"`
	Read  bool     `yaml:"read_on,omitempty"`
	Slots []int    `yaml:"slots"`
	Texts []string `yaml:"texts"`
	File  *string  `yaml:"file"`
	CPUs  *int     `yaml:"cpus"`
	Port  *bool    `yaml:"port"`
	Other int
}

func flags(m *machine) *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	for name, to := range fieldflags.Fields(m) {
		fieldflags.Bind(fs, to, name, "")
	}
	fieldflags.Opposite(fs, &m.Port, "no-port", "")
	return fs
}

func TestBind(t *testing.T) {
	var m machine
	fs := flags(&m)
	args := []string{"--name=a b", "--read_on", "--slots=1,2", "--texts=x", "--texts=y", "--file=", "--cpus=3", "--no-port"}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	want := machine{Name: "a b", Read: true, Slots: []int{1, 2}, Texts: []string{"x", "y"}, File: new(""), CPUs: new(3), Port: new(false)}
	if d := cmp.Diff(want, m); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	names := []string{"name", "read_on", "slots", "texts", "file", "cpus", "no-port"}
	got := fieldflags.Given(fs, names, func(s string) string { return "--" + s }, func(s string) string { return "'" + s + "'" })
	if want := " --name 'a b' --read_on --slots '1,2' --texts 'x' --texts 'y' --file '' --cpus '3' --no-port"; got != want {
		t.Errorf("given: %q, want %q", got, want)
	}
}

// TestAbsent: what is not given is not its zero value, and what cannot be read
// leaves the field alone.
func TestAbsent(t *testing.T) {
	var m machine
	fs := flags(&m)
	if err := fs.Parse([]string{"--cpus=many"}); err == nil || m.CPUs != nil || m.File != nil || m.Port != nil {
		t.Errorf("%v, %+v", err, m)
	}
	if err := fs.Parse([]string{"--no-port=perhaps"}); err == nil || m.Port != nil {
		t.Errorf("%v, %+v", err, m)
	}
	var names []string
	for name := range fieldflags.Fields(&m) {
		names = append(names, name)
	}
	if slices.Contains(names, "Other") || len(names) != 7 {
		t.Errorf("fields: %v", names)
	}
}
