package shell

import (
	"path"
	"slices"
	"strings"
)

// Mounter is the program that mounts disks.
const Mounter = "disk-mounter"

// mounters are programs that set up dm-verity disks or mount them.
var mounters = []string{Mounter, "disk-mounter.sh", "veritysetup", "dmsetup", "cryptsetup", "losetup", "mount", "mount.erofs"}

// Mentions reports whether a text names a program that mounts disks.
func Mentions(text string) bool {
	return slices.ContainsFunc([]string{Mounter, "veritysetup", "dmsetup", "cryptsetup", "losetup"}, func(m string) bool { return strings.Contains(text, m) })
}

// IsMounter reports whether a program sets up or mounts disks.
func IsMounter(program string) bool { return slices.Contains(mounters, path.Base(program)) }

// IsHash reports whether a program prints or checks hashes of files.
func IsHash(text string) bool {
	return strings.Contains(text, "sum") && slices.ContainsFunc([]string{"shasum", "md5sum", "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum", "b2sum"}, func(m string) bool { return strings.Contains(text, m) })
}

// starters run the program that their arguments name, or change what the next
// one is.
var starters = append([]string{
	"env", "exec", "command", "builtin", "eval", "source", ".", "nohup", "timeout", "nice", "ionice", "chrt", "taskset", "setsid", "setpriv", "stdbuf", "unshare",
	"nsenter", "chroot", "su", "sudo", "doas", "runuser", "gosu", "su-exec", "xargs", "parallel", "find", "watch", "script", "time", "flock", "strace", "ltrace", "gdb",
	"tini", "dumb-init", "catatonit", "s6-setuidgid", "awk", "gawk", "mawk", "perl", "ruby", "lua", "tclsh", "expect", "make", "ed", "ex", "vi", "vim", "sed", "tar", "ssh",
	"socat", "nc", "systemd-run", "start-stop-daemon", "capsh", "prlimit", "numactl", "linux64", "linux32", "setarch", "ld.so", "proot", "fakeroot", "bwrap", "run-parts",
}, shells...)

// builtins of shells change what follows, or run their arguments.
var builtins = []string{
	"alias", "bg", "bind", "break", "caller", "cd", "complete", "compgen", "compopt", "continue", "coproc", "declare", "dirs", "disown", "enable", "fc", "fg", "function",
	"getopts", "hash", "help", "history", "jobs", "kill", "let", "local", "logout", "mapfile", "newgrp", "popd", "pushd", "read", "readarray", "return", "select", "shift",
	"shopt", "suspend", "times", "trap", "type", "typeset", "unalias", "unset", "until", "wait", "[[",
}

// command says what a command that is understood may be given, and which
// files it reads and writes. None starts another program.
type command struct {
	free     bool                              // any words, known or not: it only prints
	flags    []string                          // options as they stand
	prefixes []string                          // options that start like this
	values   []string                          // options whose value is the next word
	min, max int                               // operands
	stdin    bool                              // may read a file by <
	reads    func(ops, vals []string) []string // files that must be the image's or checked
	copies   bool                              // cp: the last operand is a copy of the first
}

// Commands lists the commands that are understood beside the shell's own
// exec, exit, set, export, readonly, test and [, and beside disk-mounter.
//
//   - blockdev reads and sets parameters of a block device (blockdev(8)).
//   - cp copies one file (cp(1)); the copy must be checked before anything
//     else runs.
//   - patch changes files by a patch whose text is the image's or checked
//     (patch(1)).
//   - uv installs what a checked file lists with hashes (docs.astral.sh/uv,
//     "uv pip install").
//   - the others print, wait, or make empty folders.
func commands() map[string]command {
	printer := command{free: true}
	return map[string]command{
		":": printer, "true": printer, "false": printer, "echo": printer, "printf": printer,
		"sleep":    {min: 1, max: 1},
		"ls":       {flags: []string{"-l", "-a", "-la", "-al"}, max: 20},
		"cat":      {max: 20, stdin: true},
		"uname":    {flags: []string{"-a", "-r", "-m"}},
		"nproc":    {},
		"ulimit":   {flags: []string{"-c", "-l"}, max: 1},
		"umask":    {min: 1, max: 1},
		"mkdir":    {flags: []string{"-p"}, min: 1, max: 20},
		"blockdev": {flags: []string{"--getra", "--getsize64", "--getro", "--setro"}, values: []string{"--setra", "--setfra"}, min: 1, max: 1},
		"cp":       {flags: []string{"-f", "-p", "-v"}, min: 2, max: 2, copies: true},
		"patch": {
			flags: []string{"--batch", "--forward", "--silent", "-N", "-s"}, prefixes: []string{"--fuzz=", "-p"}, values: []string{"-d", "-i"}, max: 1, stdin: true,
			reads: func(_, vals []string) []string { return vals },
		},
		"uv": {
			flags: []string{"--system", "--no-deps", "--require-hashes", "--no-cache", "--break-system-packages"}, values: []string{"-r"}, min: 2, max: 2,
			reads: func(_, vals []string) []string { return vals },
		},
		"sha1sum": {min: 1, max: 20}, "sha224sum": {min: 1, max: 20}, "sha256sum": {min: 1, max: 20}, "sha384sum": {min: 1, max: 20}, "sha512sum": {min: 1, max: 20},
	}
}

// builtins and helpers have a name that no file may take.
var takenNames = []string{"test", "[", "cut", "head", "exit", "set", "export", "readonly", "shift", "python3", "python"}

// ownName says whether a file of this name could stand in for a program or a
// library that the script or its commands use.
func ownName(base string) bool {
	_, isCommand := commands()[base]
	return isCommand || strings.Contains(base, ".so") || slices.Contains(mounters, base) || slices.Contains(starters, base) || slices.Contains(builtins, base) || slices.Contains(takenNames, base)
}

// standard are the folders of programs in which a command may be named with
// its path.
var standard = []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"}

// commandName gives the name under which a command is known, "" if its path
// is none of the usual ones.
func commandName(word string) string {
	if !strings.Contains(word, "/") {
		return word
	}
	if dir, base := path.Split(word); slices.Contains(standard, strings.TrimSuffix(dir, "/")) {
		return base
	}
	return ""
}

// read sorts a command's words into operands and the values of options. It
// says what is wrong with them.
func (c command) read(name string, args []Word) (ops, vals []string, bad string) {
	for i := 0; i < len(args); i++ {
		t := args[i].Text
		switch {
		case !args[i].known || args[i].many:
			return nil, nil, "an argument of " + name + " is not known"
		case slices.Contains(c.flags, t):
		case slices.Contains(c.values, t) && i+1 < len(args):
			i++
			if !args[i].known || args[i].many || strings.HasPrefix(args[i].Text, "-") {
				return nil, nil, "the value of " + t + " of " + name + " is not known"
			}
			// Of these only the files are the business of reads.
			if name != "blockdev" && t != "-d" {
				vals = append(vals, args[i].Text)
			}
		case slices.ContainsFunc(c.prefixes, func(p string) bool {
			rest, ok := strings.CutPrefix(t, p)
			return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
		}):
		case strings.HasPrefix(t, "-"):
			return nil, nil, "option " + clip(t) + " of " + name
		default:
			ops = append(ops, t)
		}
	}
	if len(ops) < c.min || len(ops) > c.max {
		return nil, nil, "another number of arguments than " + name + " is known to take"
	}
	if name == "uv" && (ops[0] != "pip" || ops[1] != "install" || len(vals) != 1) {
		return nil, nil, "uv does something else than pip install -r FILE"
	}
	return ops, vals, ""
}

// interpreters run the text or the file that their arguments name.
var interpreters = []string{"python", "perl", "ruby", "node", "nodejs", "bun", "deno", "php", "lua", "luajit", "tclsh", "Rscript", "guile", "racket", "pwsh", "osascript"}

// IsInterpreter reports whether a program is one of them, of any version.
func IsInterpreter(program string) bool {
	return slices.Contains(interpreters, strings.TrimRight(path.Base(program), "0123456789.-"))
}

// Inline says why an argument vector starts code that is not the image's own
// and that nobody follows: a program on a volume, text for an interpreter, or
// either of them behind a program that starts others. It is "" where none is
// seen.
func Inline(argv, mounts []string) string {
	if len(argv) == 0 {
		return ""
	}
	onVolume := func(word string) bool {
		return slices.ContainsFunc(mounts, func(m string) bool { return path.IsAbs(word) && below(path.Clean(word), path.Clean(m)) })
	}
	if onVolume(argv[0]) {
		return clip(argv[0]) + " is a program on a volume"
	}
	switch base := path.Base(argv[0]); {
	case IsInterpreter(base):
		for i, a := range argv[1:] {
			switch {
			case a == "-m" && i+2 < len(argv):
				return "" // a module of the image
			case slices.Contains([]string{"-u", "-O", "-B", "-I", "-s", "-E"}, a):
			case strings.HasPrefix(a, "-"):
				return clip(argv[0]) + " is given " + clip(a) + ", and what it runs then is not followed"
			case onVolume(a):
				return clip(argv[0]) + " runs " + clip(a) + ", which is on a volume"
			default:
				return "" // a file of the image
			}
		}
		return clip(argv[0]) + " reads what it runs from its standard input"
	case slices.Contains(starters, base) && !IsShell(base):
		for _, a := range argv[1:] {
			if IsShell(a) || IsInterpreter(a) || onVolume(a) {
				return clip(argv[0]) + " starts " + clip(a) + " in a way that is not followed"
			}
		}
	}
	return ""
}
