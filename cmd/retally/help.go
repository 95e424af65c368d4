package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/yamldoc"
)

// mostFlags is how many flags help shows before --all.
const mostFlags = 15

// verbName is a command's name without the program's.
func verbName(cmd *cobra.Command) string {
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	return name
}

// setHelp gives every verb its examples and the form of help.
func (a *app) setHelp(root *cobra.Command) {
	root.PersistentFlags().BoolVar(&a.allFlags, "all", false, "with --help: every flag")
	_ = root.PersistentFlags().MarkHidden("all")
	root.SetUsageFunc(a.usage)
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if list, ok := examples[verbName(cmd)]; ok {
			cmd.Example = "  " + strings.Join(list[:], "\n  ")
		} else if cmd.HasSubCommands() {
			cmd.Example = groupExamples(cmd)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// groupExamples are three examples of what a group holds, of as many of its verbs
// as there are.
func groupExamples(group *cobra.Command) string {
	var out []string
	for i := range 3 {
		for _, sub := range group.Commands() {
			if list, ok := examples[verbName(sub)]; ok && len(out) < 3 {
				out = append(out, "  "+list[i])
			}
		}
	}
	return strings.Join(out, "\n")
}

// usage prints what follows a verb's description.
func (a *app) usage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	fmt.Fprintf(w, "Usage:\n  %s\n", cmd.UseLine())
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if subs := slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() }); len(subs) > 0 {
		fmt.Fprintf(w, "\nVerbs:\n")
		for _, c := range subs {
			fmt.Fprintf(w, "  %-*s  %s\n", cmd.NamePadding(), c.Name(), c.Short)
		}
	}
	if cmd.DisableFlagParsing {
		return nil
	}
	shown, left := shownFlags(cmd, a.allFlags)
	for _, g := range flagGroups {
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		set.SortFlags = false
		for _, name := range g.flags {
			name = ownName(cmd, name)
			if f := shown[name]; f != nil && groupOf(cmd, name) == g.title && set.Lookup(name) == nil {
				set.AddFlag(f)
			}
		}
		if set.HasFlags() {
			fmt.Fprintf(w, "\n%s:\n%s", g.title, set.FlagUsagesWrapped(a.width(a.stdout)))
		}
	}
	if left > 0 {
		fmt.Fprintf(w, "\n%d more flags: %s --help --all\n", left, cmd.CommandPath())
	}
	return nil
}

// ownName is the flag that a name of flagGroups means for a verb, "" for none.
func ownName(cmd *cobra.Command, name string) string {
	if i := strings.LastIndexByte(name, ' '); i >= 0 {
		if name[:i] != verbName(cmd) {
			return ""
		}
		return name[i+1:]
	}
	return name
}

// groupOf is the heading of a verb's flag: that of its own entry before that of
// its name.
func groupOf(cmd *cobra.Command, flag string) string {
	title := ""
	for _, g := range flagGroups {
		switch {
		case slices.Contains(g.flags, verbName(cmd)+" "+flag):
			return g.title
		case title == "" && slices.Contains(g.flags, flag):
			title = g.title
		}
	}
	return title
}

// shownFlags are the flags that help shows, by name, and how many it leaves out.
func shownFlags(cmd *cobra.Command, all bool) (shown map[string]*pflag.Flag, left int) {
	shown = map[string]*pflag.Flag{}
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			shown[f.Name] = f
		}
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	if all || len(shown) <= mostFlags {
		return shown, 0
	}
	n := len(shown)
	for name := range shown {
		if name != "help" && !slices.Contains(mainFlags[verbName(cmd)], name) {
			delete(shown, name)
		}
	}
	return shown, n - len(shown)
}

// unknownFlag is the error of a flag that a verb does not have.
func unknownFlag(cmd *cobra.Command, err error) error {
	e := &userError{op: verbName(cmd), msg: err.Error(), hint: cmd.CommandPath() + " --help --all lists the flags"}
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return e
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	if near := yamldoc.Nearest(name, known); near != "" {
		e.hint = "did you mean --" + near + "? " + e.hint
	}
	return e
}

// unknownVerb is the error of a word where a verb is wanted.
func unknownVerb(cmd *cobra.Command, word string) error {
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	e := &userError{op: verbName(cmd), msg: fmt.Sprintf("unknown command %.80q", word), hint: cmd.CommandPath() + " --help lists the verbs"}
	if near := yamldoc.Nearest(word, known); near != "" {
		e.hint = "did you mean " + cmd.CommandPath() + " " + near + "? " + e.hint
	}
	return e
}

// noWords are the arguments of a verb that only holds others.
func noWords(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownVerb(cmd, args[0])
	}
	return nil
}

// helpCommand is help for a verb that is named as words.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "help [VERB]",
		Short:  "Say what a verb does",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			at := cmd.Root()
			for _, word := range args {
				next := slices.IndexFunc(at.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
				if next < 0 {
					return unknownVerb(at, word)
				}
				at = at.Commands()[next]
			}
			return at.Help()
		},
	}
}
