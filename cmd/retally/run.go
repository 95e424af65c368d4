package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/retally/retally/internal/inputfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/internal/yamldoc"
)

// app is the program with its connections to the world, so that tests can run
// it in process.
type app struct {
	args           []string
	env            func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer

	color, progress string
	quiet, verbose  bool
	allFlags        bool // of help

	verb string // that runs, in one word: image-digest
	// watch sees every document before it is printed; tests set it.
	watch func(verb string, doc any)
}

// execute executes one command line and returns the exit code.
func execute(ctx context.Context, args []string, env func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	return (&app{args: args, env: env, stdin: stdin, stdout: stdout, stderr: stderr}).execute(ctx)
}

func (a *app) execute(ctx context.Context) int {
	root := a.rootCommand()
	root.SetArgs(a.args)
	err := root.ExecuteContext(ctx)
	return a.exit(err, wantsJSON(a.args))
}

// wantsJSON looks for -o json without the parser, because a command line that
// does not parse must be answered in JSON too.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch {
		case arg == "--":
			return false
		case arg == "-ojson", arg == "-o=json", arg == "--output=json":
			return true
		case (arg == "-o" || arg == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "retally",
		Short: "Recount every measurement of a confidential deployment and say why a value differs",
		Long: `retally recounts the measurements of a confidential AI deployment from public
inputs, emits the manifest, compares it with the published one, and says why a
value differs. Start with "retally demo", or point it at your own thing:
"retally check PATH".

Exit codes:
` + exitCodeText(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.setVerb(cmd)
			return a.checkGlobals()
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.color, "color", "auto", "color the text: auto, always, never")
	f.StringVar(&a.progress, "progress", "auto", "show progress of long work: auto, plain, json, none")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no talk on stderr but errors")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "whole digests, all causes, all inputs")
	root.SetFlagErrorFunc(unknownFlag)
	root.Version = version
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetHelpCommand(helpCommand())
	root.AddCommand(
		a.demoCommand(), a.checkCommand(), a.initCommand(), a.planCommand(), a.runCommand(), a.gateCommand(), a.compareCommand(),
		a.explainCommand(), a.imageCommand(), a.diskCommand(), a.verityCommand(), a.policyCommand(), a.manifestCommand(),
		a.tdxCommand(), a.snpCommand(), a.tpmCommand(), a.evidenceCommand(), a.endorsementCommand(), a.fleetCommand(), a.inspectCommand(), a.proxyLogCommand(), a.proxyImageCommand(), a.contrastCommand(), a.cacheCommand(), a.shardCommand(), a.releasesCommand(), a.nixCommand(),
		a.doctorCommand(), a.versionCommand(),
	)
	usageErrors(root)
	a.setHelp(root)
	return root
}

// group is a verb that only holds others.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(verbs...)
	return cmd
}

// usageErrors gives wrong arguments the form of all other errors.
func usageErrors(c *cobra.Command) {
	if check := c.Args; c.HasSubCommands() {
		c.Args = noWords
	} else if check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				msg := err.Error()
				if strings.HasPrefix(msg, "unknown command") {
					msg = fmt.Sprintf("takes no arguments, found %.80q", args[0])
				}
				return &userError{op: verbName(cmd), msg: msg, hint: "usage: " + cmd.UseLine()}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageErrors(sub)
	}
}

func exitCodeText() string {
	var b strings.Builder
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %3d  %s\n", e.code, e.what)
	}
	return strings.TrimRight(b.String(), "\n")
}

func (a *app) checkGlobals() error {
	if err := oneOf("--color", a.color, "auto", "always", "never"); err != nil {
		return err
	}
	if a.allFlags && a.verb != "help" {
		return &userError{msg: "--all is for --help, where it lists every flag", hint: "leave it out"}
	}
	return oneOf("--progress", a.progress, "auto", "plain", "json", "none")
}

// oneOf checks a flag that takes a word from a list.
func oneOf(flag, got string, known ...string) error {
	if slices.Contains(known, got) {
		return nil
	}
	known = slices.DeleteFunc(slices.Clone(known), func(word string) bool { return word == "" })
	e := &userError{msg: fmt.Sprintf("%s=%s: unknown word", flag, got), hint: "known: " + strings.Join(known, ", ")}
	if near := yamldoc.Nearest(got, known); near != "" {
		e.hint = fmt.Sprintf("did you mean %s=%s?", flag, near)
	}
	return e
}

// outputFlag adds -o to a verb that prints a result.
func outputFlag(c *cobra.Command, into *string) {
	c.Flags().StringVarP(into, "output", "o", "text", "form of the result on stdout: text, json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	inner := c.PreRunE
	c.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := oneOf("--output", *into, "text", "json"); err != nil {
			return err
		}
		if inner != nil {
			return inner(cmd, args)
		}
		return nil
	}
}

// talk prints one line for people on stderr.
func (a *app) talk(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintln(a.stderr, show.Text(fmt.Sprintf(format, args...)))
	}
}

// colored reports whether text on w may carry colors.
func (a *app) colored(w io.Writer) bool {
	switch a.color {
	case "always":
		return true
	case "never":
		return false
	}
	return a.env("NO_COLOR") == "" && a.env("TERM") != "dumb" && isTerminal(w)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is the number of columns to fill: what COLUMNS says, else the terminal's,
// else 80.
func (a *app) width(w io.Writer) int {
	if n, err := strconv.Atoi(a.env("COLUMNS")); err == nil && n > 0 {
		return min(max(n, 40), 400)
	}
	if f, ok := w.(*os.File); ok {
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 {
			return min(cols, 120)
		}
	}
	return 80
}

// readInput reads a small file, or stdin for "-". It never waits for a pipe that
// nobody opened for this process.
func (a *app) readInput(op, path string, limit int64) ([]byte, error) {
	r := a.stdin
	if path != "-" {
		f, err := inputfile.Open(path, 0)
		if err != nil {
			return nil, notRead(op, path, err)
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, &userError{op: op, path: path, err: reason(err)}
	}
	if int64(len(data)) > limit {
		return nil, &userError{op: op, path: path, msg: fmt.Sprintf("has more than %d bytes, the limit for this kind of file", limit)}
	}
	return data, nil
}

// notRead says why an input was not opened.
func notRead(op, path string, err error) error {
	var kind *inputfile.KindError
	if errors.As(err, &kind) {
		want := "is not a regular file but "
		if kind.What == "a folder" {
			return &userError{op: op, path: path, msg: "is a folder, want a file"}
		}
		return &userError{op: op, path: path, msg: want + kind.What, hint: kind.Hint}
	}
	return &userError{op: op, path: path, err: reason(err)}
}

// reason takes the path off an error that names it already.
func reason(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}
