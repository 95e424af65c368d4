package deployment

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/digest"
)

// isDiskMounterName holds for "disk-mounter" itself.
func isDiskMounterName(name string) bool { return name == "disk-mounter" }

// isDiskMounter is the rule of DiskPin's documentation.
func (c Container) isDiskMounter() bool {
	return isDiskMounterName(c.Image.Name) || isDiskMounterName(c.Name) || strings.HasPrefix(c.Name, "disk-mounter-")
}

func (d *Deployment) collectDisks() {
	type use struct {
		root digest.Digest
		pin  DiskPin
	}
	first := map[string]use{}
	for _, w := range d.Workloads {
		for _, c := range w.Containers {
			if !c.isDiskMounter() {
				continue
			}
			for _, pin := range d.diskPins(w, c) {
				d.disks = append(d.disks, pin)
				if pin.Model == "" || pin.RootHash.IsZero() {
					continue
				}
				// Up to v1.37 the name is a task ("textgen"), whose model may
				// differ between workloads; within one it is one disk.
				key := pin.Model
				if pin.Form != FormPositional {
					key = pin.Workload + " " + pin.Model + "-" + pin.Index
				}
				prev, seen := first[key]
				if !seen {
					first[key] = use{pin.RootHash, pin}
				} else if prev.root != pin.RootHash {
					d.report(Problem{
						Code: DiskTwoRootHashes, Workload: w.ID(), Container: c.Name, Line: pin.Line, Column: pin.Column,
						Msg: fmt.Sprintf("model %q has root hash %s here and %s on line %d", clip(pin.Model), pin.RootHash.Hex(), prev.root.Hex(), prev.pin.Line),
					})
				}
			}
		}
	}
}

// diskPins follows a container's command and args to disk-mounter.
func (d *Deployment) diskPins(w Workload, c Container) []DiskPin {
	direct := make([]shValue, len(c.Args))
	for i := range c.Args {
		direct[i] = shValue{kind: valueText, text: c.Args[i].Text, arg: &c.Args[i], off: -1}
	}
	if len(c.Command) == 0 {
		return []DiskPin{d.diskPin(w, c, nil, direct, true)}
	}
	unused := func(format string, args ...any) []DiskPin {
		at := orNode(c.Command[0].node, c.node)
		d.reportAt(at, DiskArgsUnused, w.ID(), c.Name, format, args...)
		if pin := d.readDiskArgs(c, nil, direct); pin.RootHashText != "" {
			pin.Workload, pin.Container, pin.Init, pin.CommandOverride = w.ID(), c.Name, c.Init, true
			pin.RootHash, _ = rootHash(pin.RootHashText)
			d.resolveDevice(w, c, &pin)
			return []DiskPin{pin}
		}
		return nil
	}
	sh, ok := findShell(c.argv())
	if !ok {
		argv := c.argv()
		for i, a := range argv[:len(c.Command)] {
			if isDiskMounterName(baseName(a.Text)) {
				var rest []shValue
				for j := i + 1; j < len(argv); j++ {
					rest = append(rest, shValue{kind: valueText, text: argv[j].Text, arg: &argv[j], off: -1})
				}
				return []DiskPin{d.diskPin(w, c, nil, rest, true)}
			}
		}
		return unused("the command does not visibly run disk-mounter, so the args may go elsewhere")
	}
	if !d.spend(4*len(sh.script.Text) + len(c.Env)) {
		return unused("the command's script is not followed, so the args may go elsewhere")
	}
	list, err := parseScript(sh.script.Text)
	if err != nil {
		return unused("the command's script is not understood, so the args may go elsewhere: %v", err)
	}
	run := newShellRun(sh, c.Env, -1)
	run.list(list)
	d.spend(run.steps)
	if len(run.mounts) == 0 {
		return unused("the command's script does not run disk-mounter, so the args are not used")
	}
	if run.changed || run.cut {
		return unused("the command's script changes its arguments in a way that is not understood")
	}
	var pins []DiskPin
	for _, m := range run.mounts {
		if d.readDiskArgs(c, sh.script.node, m.args).RootHashText == "" && d.readDiskArgs(c, nil, direct).RootHashText != "" {
			pins = append(pins, unused(`the command's script does not pass the args on to disk-mounter, so the root hash in them is not used (want "$@", and a word for $0 behind the script)`)...)
			continue
		}
		pins = append(pins, d.diskPin(w, c, sh.script.node, m.args, true))
	}
	return pins
}

// diskPin reads the words that reach disk-mounter and reports their faults.
func (d *Deployment) diskPin(w Workload, c Container, script *yaml.Node, args []shValue, used bool) DiskPin {
	pin := d.readDiskArgs(c, script, args)
	pin.Workload, pin.Container, pin.Init = w.ID(), c.Name, c.Init
	pin.CommandOverride = len(c.Command) > 0
	pin.Used = used && pin.RootHashText != ""
	d.resolveDevice(w, c, &pin)
	report := func(code Code, hint, format string, a ...any) {
		d.report(Problem{Code: code, Workload: w.ID(), Container: c.Name, Line: pin.Line, Column: pin.Column, Msg: fmt.Sprintf(format, a...), Hint: hint})
	}
	switch pin.Form {
	case FormMissing:
		report(DiskNoRootHash, "", "disk-mounter gets no root hash, so the disk may hold anything")
		return pin
	case FormNotUnderstood:
		report(DiskArgsOdd, "want MODEL INDEX ROOT-HASH, or --root-hash=ROOT-HASH", "%d arguments reach disk-mounter", len(args))
	}
	var err error
	if pin.RootHash, err = rootHash(pin.RootHashText); err != nil {
		report(DiskRootHash, "", "%v", err)
	}
	if pin.Form == FormPositional && (pin.Index == "" || strings.Trim(pin.Index, "0123456789") != "") {
		report(DiskArgsOdd, "", "the index of model %q is %q, not a number", clip(pin.Model), clip(pin.Index))
	}
	for _, other := range rootHashFlags(args)[min(1, len(rootHashFlags(args))):] {
		if first := rootHashFlags(args)[0]; other != first {
			report(DiskTwoRootHashes, "", "root hash %q is given beside %q: disk-mounter takes the last one", clip(first), clip(other))
		}
	}
	return pin
}

// rootHash reads the hex digits that veritysetup takes: as many as the tree's
// hash algorithm has, SHA-256 by default, SHA-512 at most.
func rootHash(text string) (digest.Digest, error) {
	alg := digest.SHA256
	if len(text) == 2*digest.SHA512.Size() {
		alg = digest.SHA512
	}
	v, err := digest.ParseHex(alg, text)
	if err != nil {
		return digest.Digest{}, fmt.Errorf("root hash %q: want 64 hex digits", clip(text))
	}
	return v, nil
}

// flagValue reads a flag as Go's flag package does: one or two dashes, the
// value behind = or in the next word.
func flagValue(args []shValue, i int, name string) (value shValue, form string, ok bool) {
	a := args[i]
	if a.kind != valueText {
		return a, "", false
	}
	rest, ok := strings.CutPrefix(a.text, "-")
	if !ok {
		return a, "", false
	}
	rest = strings.TrimPrefix(rest, "-")
	if v, ok := strings.CutPrefix(rest, name+"="); ok {
		a.text = v
		return a, FormFlagEquals, true
	}
	if rest != name {
		return a, "", false
	}
	if i+1 < len(args) {
		return args[i+1], FormFlagSeparate, true
	}
	return shValue{kind: valueText, off: a.off, arg: a.arg}, FormFlagSeparate, true
}

func rootHashFlags(args []shValue) (values []string) {
	for i := range args {
		if v, _, ok := flagValue(args, i, "root-hash"); ok {
			values = append(values, v.text)
		}
	}
	return values
}

// readDiskArgs recognizes the two forms of disk-mounter's arguments.
func (d *Deployment) readDiskArgs(c Container, script *yaml.Node, args []shValue) DiskPin {
	pin := DiskPin{Form: FormMissing, Line: c.Line}
	if c.node != nil {
		pin.Column = c.node.Column
	}
	take := func(v shValue, form string) {
		pin.Form, pin.RootHashText = form, v.text
		pin.InCommand = v.arg == nil || v.arg.node == nil || !ownedBy(c.Args, v.arg)
		pin.Line, pin.Column = d.locate(c, script, v, v.text)
	}
	var words []shValue
	flags := false
	for i := 0; i < len(args); i++ {
		if v, form, ok := flagValue(args, i, "root-hash"); ok {
			flags = true
			if v.kind != valueText || v.text == "" {
				pin.Form = FormMissing
			} else {
				take(v, form)
			}
			if form == FormFlagSeparate {
				i++
			}
			continue
		}
		if v, form, ok := flagValue(args, i, "device-path"); ok {
			flags, pin.DevicePath = true, v.text
			if form == FormFlagSeparate {
				i++
			}
			continue
		}
		if v, form, ok := flagValue(args, i, "mount-path"); ok {
			flags, pin.MountPath = true, v.text
			if form == FormFlagSeparate {
				i++
			}
			continue
		}
		words = append(words, args[i])
	}
	if flags {
		// The names are the operator's: /dev/modelweights-<model>-<index>.
		if rest, ok := strings.CutPrefix(pin.DevicePath, "/dev/modelweights-"); ok {
			if i := strings.LastIndexByte(rest, '-'); i > 0 {
				pin.Model, pin.Index = rest[:i], rest[i+1:]
			}
		}
		return pin
	}
	if len(words) == 3 && words[2].kind == valueText {
		pin.Model, pin.Index = words[0].text, words[1].text
		if words[2].text == "" {
			return pin
		}
		take(words[2], FormPositional)
		// As disk-mounter.sh builds them.
		pin.DevicePath = "/dev/modelweights-" + pin.Model + "-" + pin.Index
		pin.MountPath = "/mnt/modelweights-" + pin.Model + "-" + pin.Index
		return pin
	}
	for _, v := range words {
		if _, err := rootHash(v.text); v.kind == valueText && err == nil {
			take(v, FormNotUnderstood)
		}
	}
	return pin
}

func ownedBy(args []Arg, a *Arg) bool {
	for i := range args {
		if args[i].node == a.node {
			return true
		}
	}
	return false
}

// resolveDevice follows the device path to the volume and its claim.
func (d *Deployment) resolveDevice(w Workload, c Container, pin *DiskPin) {
	for _, dev := range c.Devices {
		if dev.Path != pin.DevicePath {
			continue
		}
		pin.Volume = dev.Volume
		for _, v := range w.Volumes {
			if v.Name == dev.Volume {
				pin.Claim, pin.StorageClass = v.Claim, v.StorageClass
			}
		}
		return
	}
}
