// Package shell follows the start scripts of containers in a closed world:
// only what is understood whole counts. A script is followed statement by
// statement, and the first thing in it whose meaning does not follow from its
// text alone makes it opaque, with the place and the reason. What was seen
// before that point is reported, but proves nothing then.
//
// Understood are: straight lines of the commands in [Commands]; a check of a
// file's hash that ends the script or does not (if, && and ||); "$@" and "$1"
// with literal arguments; exec of the program that the container is for; and
// variables as long as they reach no command name, no mounter, no check and
// nothing that changes how the shell or the loader work.
//
// Scripts are read by mvdan.cc/sh, as POSIX shell or as bash by the name of
// the shell. What the two read differently (braces, $'…', [[, &>) is opaque.
package shell

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Start is a shell with a script, as a container's argument vector has it.
type Start struct {
	Bash    bool
	Errexit bool
	Script  string
	Params  []string // $1, $2, …
	// ScriptAt and ParamsAt are the places of the script and of $1 in argv.
	ScriptAt, ParamsAt int
}

// Container is what stands around a script and changes what it means.
type Container struct {
	// Mounter says that the container is there to mount disks, so that no
	// other program may be started in it.
	Mounter bool
	// Plain says that the container neither mounts disks nor checks files.
	// Then nothing is claimed of it but that it does neither: any program of a
	// literal name may run that starts no other by its arguments.
	Plain bool
	// Init says that the pod goes on when the container ends well.
	Init bool
	// Mounts are the paths at which volumes stand.
	Mounts []string
}

// Result is what a script does.
type Result struct {
	Mounts []Mount
	Checks []Check
	Opaque *Opaque // nil if the script is understood whole
}

// Opaque says where and why a script is not understood.
type Opaque struct {
	Off    int // in the script
	Reason string
}

func (o *Opaque) Error() string { return o.Reason }

// Word is an argument, with the place that its text comes from.
type Word struct {
	Text  string
	Param int // index in Start.Params, -1 if it stands in the script
	Off   int // in the script
	known bool
	many  bool // may be any number of words
}

// Mount is one start of disk-mounter.
type Mount struct {
	Off  int
	Args []Word
}

// Check is a comparison of a file's hash with a constant.
type Check struct {
	Off       int // of the command
	File      string
	From      string // what the script copied to File before, "" if nothing
	Algorithm digest.Algorithm
	Want      Word
	Exact     bool // a comparison of text, so that letter case counts
	Verdict   Verdict
	Reason    string
}

// Verdict says what a mismatch of a check does.
type Verdict string

// What a check is good for.
const (
	Enforced    Verdict = "enforced"     // a mismatch stops the container with a failure
	NotEnforced Verdict = "not enforced" // a mismatch changes nothing but the output
	Inverted    Verdict = "inverted"     // a match stops the container
	Unknown     Verdict = "unknown"      // cannot be told simply
)

// IsShell reports whether a program is a shell that reads scripts.
func IsShell(program string) bool { return slices.Contains(shells, path.Base(program)) }

var shells = []string{"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "csh", "tcsh", "busybox", "toybox"}

// shellPaths are the ways to name a shell that is read.
var shellPaths = []string{
	"sh", "/bin/sh", "/usr/bin/sh", "dash", "/bin/dash", "/usr/bin/dash", "ash", "/bin/ash",
	"bash", "/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash",
}

// Find reads `sh -c SCRIPT NAME ARG…` (IEEE Std 1003.1, sh): options up to the
// first word without a dash, which is the script if one of them was -c; the
// next word is $0. A reason says why a shell that is there is not understood.
func Find(argv []string) (s Start, ok bool, reason string) {
	if len(argv) == 0 || !slices.Contains(shellPaths, argv[0]) {
		return s, false, ""
	}
	s.Bash = path.Base(argv[0]) == "bash"
	isScript := false
	for i := 1; i < len(argv); i++ {
		flags, isFlag := strings.CutPrefix(argv[i], "-")
		if !isFlag {
			if !isScript {
				return s, true, fmt.Sprintf("the shell reads its script from the file %q", clip(argv[i]))
			}
			s.Script, s.ScriptAt, s.ParamsAt = argv[i], i, min(i+2, len(argv))
			s.Params = argv[s.ParamsAt:]
			return s, true, ""
		}
		for j, c := range flags {
			switch {
			case c == 'c':
				isScript = true
			case c == 'e':
				s.Errexit = true
			case c == 'u' || c == 'x':
			case c == 'o' && j == len(flags)-1 && i+1 < len(argv) && slices.Contains(harmlessOptions, argv[i+1]):
				i++
				s.Errexit = s.Errexit || argv[i] == "errexit"
			default:
				return s, true, fmt.Sprintf("option %q of the shell", clip(argv[i]))
			}
		}
		if flags == "" {
			return s, true, `option "-" of the shell`
		}
	}
	return s, true, "the shell has no script: it reads its standard input"
}

// harmlessOptions of set -o change when a script ends, never what it runs.
var harmlessOptions = []string{"errexit", "nounset", "pipefail", "xtrace"}

// DangerousVariable says why a variable of this name and value must not be
// set around a mounter or a check: it changes what names mean, how the shell
// splits words, or which code the loader brings into a program. A value that
// is not known is "" and not literal.
func DangerousVariable(name, value string, literal bool) string {
	switch {
	case name == "LD_PRELOAD" && literal && imageLibraries(value):
		return "" // libraries of the image itself
	case strings.HasPrefix(name, "LD_"), strings.HasPrefix(name, "GLIBC_"), strings.HasPrefix(name, "OPENSSL_"), strings.HasPrefix(name, "MALLOC_"), strings.HasPrefix(name, "AWK"), name == "GCONV_PATH", name == "LOCPATH", name == "NLSPATH":
		return "changes what the loader brings into every program"
	case name == "PATH", name == "CDPATH", name == "EXECIGNORE", strings.HasPrefix(name, "BASH_"), name == "ENV", name == "SHELLOPTS", name == "BASHOPTS":
		return "changes which programs the shell runs"
	case name == "IFS", name == "PS4", name == "POSIXLY_CORRECT", name == "GLOBIGNORE", name == "FUNCNEST", name == "HOME", name == "PWD", name == "OLDPWD", name == "TMOUT", name == "OPTIND", name == "_", name == "_POSIX2_VERSION":
		return "changes how the shell reads"
	case strings.HasPrefix(name, "PATCH_"), name == "SIMPLE_BACKUP_SUFFIX", name == "VERSION_CONTROL", strings.HasPrefix(name, "UV_"), strings.HasPrefix(name, "PIP_"):
		return "changes what a command of the script does"
	case !isName(name):
		return "is no variable's name"
	}
	return ""
}

func imageLibraries(value string) bool {
	for lib := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ':' || r == ' ' }) {
		if path.Clean(lib) != lib || !below(lib, "/usr/lib") && !below(lib, "/lib") && !below(lib, "/usr/lib64") && !below(lib, "/lib64") {
			return false
		}
	}
	return true
}

// systemFolders hold the programs, libraries and settings that every command
// depends on.
var systemFolders = []string{"/bin", "/sbin", "/usr", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/sys", "/dev", "/boot", "/nix"}

// CoversSystem says whether a volume at this path may stand over programs,
// libraries or settings of the image.
func CoversSystem(mount string) bool {
	p := path.Clean("/" + mount)
	if mount == "" || mount[0] != '/' || strings.Contains(mount, "..") || p == "/" {
		return true
	}
	if below(p, "/etc/ssl") || below(p, "/dev/shm") {
		return false // certificates, and shared memory
	}
	return slices.ContainsFunc(systemFolders, func(s string) bool { return below(p, s) })
}

// dataFolders are where no image has its programs.
var dataFolders = []string{"/mnt", "/media", "/srv", "/data", "/models", "/tmp", "/run", "/var/run", "/var/tmp", "/var/log", "/var/cache", "/cache", "/dev/shm", "/contrast"}

// HoldsData says whether a volume at this path stands where no image has its
// entrypoint.
func HoldsData(mount string) bool {
	return path.Clean(mount) == strings.TrimSuffix(mount, "/") && slices.ContainsFunc(dataFolders, func(s string) bool { return below(path.Clean(mount), s) })
}

// below reports whether a clean path is a folder or lies in it.
func below(p, folder string) bool {
	return p == folder || strings.HasPrefix(p, strings.TrimSuffix(folder, "/")+"/")
}

// isName reports whether s is a variable's name (Std 1003.1, 3.216).
func isName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9' || i == 0) {
			return false
		}
	}
	return s != ""
}

func clip(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
