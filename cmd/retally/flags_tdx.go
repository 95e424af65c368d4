package main

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/fieldflags"
	"github.com/retally/retally/internal/qtest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure"
)

// tdxFlags describe a machine: they fill the same description that
// retally.yaml fills, each flag the field of its name. `tdx measure` and
// `explain --search` take the same ones.
type tdxFlags struct {
	p     config.Platform
	fs    *pflag.FlagSet
	names []string // of all flags, by subject
	args  func() []string
}

// olderNames are flags that were called otherwise once. They go on working.
var olderNames = map[string]string{
	"cpu": "vcpus", "docker-compose": "compose", "qemu-version": "qemu", "event": "events",
}

// noCOM1 is the older opposite of --com1.
const noCOM1 = "no-com1"

// sharedFlags adds them all to a verb.
func (f *tdxFlags) sharedFlags(cmd *cobra.Command, args func() []string) {
	f.fs, f.names, f.args = cmd.Flags(), nil, args
	f.p.TEE = "tdx"
	f.fs.SortFlags = false // by subject
	f.fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if now, ok := olderNames[name]; ok {
			name = now
		}
		return pflag.NormalizedName(name)
	})
	fields := fieldflags.Fields(&f.p)
	dashed := func(field, _ string) string { return "--" + strings.ReplaceAll(field, "_", "-") }
	for _, field := range tdx.Fields() {
		usage := tdxmeasure.NameFields(field.Help, dashed)
		name := strings.ReplaceAll(field.Name, "_", "-")
		for old, now := range olderNames {
			if now == name {
				usage += "; --" + old + " is its older name"
			}
		}
		fieldflags.Bind(f.fs, fields[field.Name], name, usage)
		f.names = append(f.names, name)
		if name == "com1" {
			fieldflags.Opposite(f.fs, &f.p.COM1, noCOM1, "no serial port; an older name of --com1=false")
		}
	}
	fixed := func(name string, words ...string) {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(profiles.TDXNames(), cobra.ShellCompDirectiveDefault))
	fixed("page-order", "single", "two-pass", "raw-extend")
	fixed("acpi-source", "template", "qemu")
	fixed("acpi-family", tdx.Families()...)
	fixed("cfv", "firmware", "constant")
	fixed("hob", "firmware", "fixed", "first-base")
}

// field names a field of the description as its flag: the door through which
// this configuration came. An older name that was typed is kept.
func (f *tdxFlags) field(value string, path ...string) string {
	name := strings.ReplaceAll(path[min(len(path)-1, 2)], "_", "-")
	for old, now := range olderNames {
		typed := func(arg string) bool { return arg == "--"+old || strings.HasPrefix(arg, "--"+old+"=") }
		if now == name && slices.ContainsFunc(f.args(), typed) {
			name = old
		}
	}
	if fl := f.fs.Lookup(name); value != "" && fl != nil {
		switch {
		case fl.Value.Type() == "bool":
			return "--" + name + "=" + value
		case slices.Contains(fileFlags, name):
			value = "FILE"
		}
		return "--" + name + " " + value
	}
	return "--" + name
}

// fileFlags are the flags that take a file that must be given.
var fileFlags = []string{"firmware", "kernel", "initrd", "acpi", "compose", "docker-compose", "rootfs"}

// platform checks what was given and returns the description, with everything
// that comes from no regular file held by the reader.
func (f *tdxFlags) platform(a *app, op string, reader *run.Reader) (config.Platform, error) {
	at := func(msg, hint string, path ...string) error {
		if len(path) > 0 {
			msg = strings.Join(append([]string{f.field("", path[0])}, path[1:]...), " ") + " " + msg
		}
		return &userError{op: op, msg: msg, hint: hint}
	}
	say := func(field, value string) string { return f.field(value, field) }
	p := f.p
	if err := tdx.Check(&p, at, say); err != nil {
		return p, err
	}
	return p, a.holdPipes(op, reader, tdx.Files(&p))
}

// pipeLimit bounds what is read from a pipe.
const pipeLimit = 64 << 20

// holdPipes reads what is no regular file whole, and lets the reader have it
// under its name: stdin, given as "-", is called stdin.
func (a *app) holdPipes(op string, reader *run.Reader, files []tdx.FileField) error {
	read := func(name string) ([]byte, error) { return a.readInput(op, name, pipeLimit) }
	return plain(tdx.HoldPipes(op, reader, files, read))
}

// configuration is the machine as a configuration of its own.
func configuration(p config.Platform) *config.Config {
	return &config.Config{Version: 1, Platforms: map[string]config.Platform{tdx.ByFlags: p}}
}

// open gives a search the described machine.
func (f *tdxFlags) open(ctx context.Context, a *app, op string) (*run.In, error) {
	reader := run.NewReader(".", nil)
	p, err := f.platform(a, op, reader)
	if err != nil {
		return nil, err
	}
	if p.Profile == "" && p.Metadata == "" && p.VMConfig == "" {
		return nil, &userError{op: op, msg: "no profile given"}
	}
	return run.NewIn(configuration(p), reader).As(f.field, nil), ctx.Err()
}

// commandLine writes the given flags back as a user would type them.
func (f *tdxFlags) commandLine() string {
	return fieldflags.Given(f.fs, append(slices.Clone(f.names), noCOM1), func(name string) string { return f.field("", name) }, quote)
}

// namedQEMUs are the programs that RETALLY_QEMU names.
func (a *app) namedQEMUs() []string {
	return slices.DeleteFunc(filepath.SplitList(a.env("RETALLY_QEMU")), func(program string) bool { return program == "" })
}

// qemuSources are the QEMU programs at hand: RETALLY_QEMU names some, else the
// one in PATH.
func (a *app) qemuSources(op string) (*qtest.Sources, error) {
	if named := a.namedQEMUs(); len(named) > 0 {
		return qtest.NewSources(named...), nil
	}
	program, err := exec.LookPath(qtest.Program)
	if err != nil {
		return nil, &userError{op: op, msg: "--acpi-source qemu: qemu-system-x86_64 is not in PATH", hint: "install it, name it with RETALLY_QEMU, or use --acpi-source template"}
	}
	return qtest.NewSources(program), nil
}
