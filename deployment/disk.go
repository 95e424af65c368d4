package deployment

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/deployment/internal/shell"
	"github.com/retally/retally/internal/digest"
)

// isDiskMounterName holds for "disk-mounter" itself.
func isDiskMounterName(name string) bool { return name == "disk-mounter" }

// isDiskMounter is the rule of DiskPin's documentation.
func (c Container) isDiskMounter() bool {
	return isDiskMounterName(c.Image.Name) || isDiskMounterName(c.Name) || strings.HasPrefix(c.Name, "disk-mounter-")
}

// diskUses finds one model with two root hashes.
type diskUses map[string]DiskPin

func newDiskUses() diskUses { return diskUses{} }

func (u diskUses) add(d *Deployment, pin DiskPin) {
	if pin.Model == "" || pin.RootHash.IsZero() {
		return
	}
	// Up to v1.37 the name is a task ("textgen"), whose model may differ
	// between workloads; within one it is one disk.
	key := pin.Model
	if pin.Form != FormPositional {
		key = pin.Workload + " " + pin.Model + "-" + pin.Index
	}
	prev, seen := u[key]
	if !seen {
		u[key] = pin
	} else if prev.RootHash != pin.RootHash {
		d.report(Problem{
			Code: DiskTwoRootHashes, Workload: pin.Workload, Container: pin.Container, Line: pin.Line, Column: pin.Column,
			Msg: fmt.Sprintf("model %q has root hash %s here and %s on line %d", clip(pin.Model), pin.RootHash.Hex(), prev.RootHash.Hex(), prev.Line),
		})
	}
}

// diskPins lists what reaches disk-mounter in a container, and the root hash
// in its arguments where it does not.
func (d *Deployment) diskPins(w Workload, c Container, s *start) (pins []DiskPin) {
	if !c.isDiskMounter() && s.opaque != nil && len(s.result.Mounts) == 0 {
		d.secondHash(w, c, s, nil)
		return nil
	}
	direct := s.words(s.command)
	if s.shell || s.opaque == nil {
		for _, m := range s.result.Mounts {
			pins = append(pins, d.diskPin(w, c, s, m.Args))
		}
	}
	if !s.shell && s.opaque == nil {
		first := 0
		if s.command > 0 {
			first = 1 // the name of disk-mounter itself
		}
		pins = append(pins, d.diskPin(w, c, s, s.words(first)))
	}
	// A root hash in the arguments that was not seen to arrive.
	pin, _ := d.readDiskArgs(c, s, direct)
	used := slices.ContainsFunc(pins, func(p DiskPin) bool { return p.RootHashText == pin.RootHashText })
	if !used && pin.RootHashText != "" {
		pin = d.place(w, c, pin)
		pin.RootHash, _ = rootHash(pin.RootHashText)
		pins = append(pins, pin)
		if s.opaque == nil {
			d.reportAt(orNode(s.argv[0].node, c.node), DiskArgsUnused, w.ID(), c.Name,
				`the command's script does not pass the args on to disk-mounter, so the root hash in them is not used (want "$@", and a word for $0 behind the script)`)
		}
	} else if s.shell && s.opaque == nil && len(s.result.Mounts) == 0 && c.isDiskMounter() {
		d.reportAt(orNode(s.argv[0].node, c.node), DiskNoRootHash, w.ID(), c.Name, "the script does not start disk-mounter")
	}
	d.secondHash(w, c, s, pins)
	if s.opaque != nil {
		for i := range pins {
			pins[i].Used = false
		}
	}
	return pins
}

// words are the arguments from a place on, as disk-mounter gets them.
func (s *start) words(from int) []shell.Word {
	out := make([]shell.Word, 0, len(s.argv)-from)
	for i := from; i < len(s.argv); i++ {
		out = append(out, shell.Word{Text: s.argv[i].value, Param: i - s.script.ParamsAt})
	}
	return out
}

// secondHash finds, where not every word is accounted for, more root hashes
// than one: a good one beside another is how a wrong disk would be hidden.
func (d *Deployment) secondHash(w Workload, c Container, s *start, pins []DiskPin) {
	if s.opaque == nil && !slices.ContainsFunc(pins, func(p DiskPin) bool { return p.Form == FormNotUnderstood }) {
		return
	}
	checks := map[string]bool{}
	for _, e := range s.result.Checks {
		checks[e.Want.Text] = true
	}
	first := ""
	for i := range s.argv {
		for _, hex := range constants(s.argv[i].value) {
			text := strings.ToLower(hex.text)
			switch {
			case checks[hex.text] || len(text) != 64 && len(text) != 128 || text == first:
			case first == "":
				first = text
			default:
				line, col := s.argv[i].Line, 0
				if n := s.argv[i].node; n != nil && s.argv[i].value == s.argv[i].Text {
					line, col = d.src.find(n, hex.off, hex.text)
				}
				d.report(Problem{
					Code: DiskSecondRootHash, Workload: w.ID(), Container: c.Name, Line: line, Column: col,
					Msg: fmt.Sprintf("a second root hash %s is passed beside %s, in a way that is not understood", hex.text, first),
				})
				return
			}
		}
	}
}

func (d *Deployment) place(w Workload, c Container, pin DiskPin) DiskPin {
	pin.Object, pin.Workload, pin.Container, pin.Init = w.Identity(), w.ID(), c.Name, c.Init
	pin.CommandOverride = len(c.Command) > 0
	d.resolveDevice(w, c, &pin)
	return pin
}

// diskPin reads the words that reach disk-mounter and reports their faults.
// Words of another form than the two that are known make the start opaque.
func (d *Deployment) diskPin(w Workload, c Container, s *start, args []shell.Word) DiskPin {
	pin, odd := d.readDiskArgs(c, s, args)
	pin = d.place(w, c, pin)
	pin.Used = pin.RootHashText != ""
	report := func(code Code, hint, format string, a ...any) {
		d.report(Problem{Code: code, Workload: w.ID(), Container: c.Name, Line: pin.Line, Column: pin.Column, Msg: fmt.Sprintf(format, a...), Hint: hint})
	}
	if odd != "" {
		s.refuse(nil, 0, pin.Line, "%s", odd)
		report(DiskArgsOdd, "want MODEL INDEX ROOT-HASH, or --root-hash=ROOT-HASH", "%s", odd)
	}
	if pin.Form == FormMissing {
		report(DiskNoRootHash, "", "disk-mounter gets no root hash, so the disk may hold anything")
		return pin
	}
	var err error
	if pin.RootHash, err = rootHash(pin.RootHashText); err != nil {
		report(DiskRootHash, "", "%v", err)
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
func flagValue(args []shell.Word, i int, name string) (value shell.Word, form string, ok bool) {
	a := args[i]
	rest, ok := strings.CutPrefix(a.Text, "-")
	if !ok {
		return a, "", false
	}
	rest = strings.TrimPrefix(rest, "-")
	if v, ok := strings.CutPrefix(rest, name+"="); ok {
		a.Text = v
		return a, FormFlagEquals, true
	}
	if rest != name {
		return a, "", false
	}
	if i+1 < len(args) {
		return args[i+1], FormFlagSeparate, true
	}
	a.Text = ""
	return a, FormFlagSeparate, true
}

// readDiskArgs recognizes the two forms of disk-mounter's arguments. odd says
// why words of another form are not understood whole.
func (d *Deployment) readDiskArgs(c Container, s *start, args []shell.Word) (pin DiskPin, odd string) {
	pin = DiskPin{Form: FormMissing, Line: c.Line}
	if c.node != nil {
		pin.Column = c.node.Column
	}
	take := func(v shell.Word, form string) {
		pin.Form, pin.RootHashText = form, v.Text
		at := s.script.ParamsAt + v.Param
		pin.InCommand = v.Param+s.script.ParamsAt < 0 || s.shell && v.Param < 0 || at < s.command
		pin.Line, pin.Column = d.locate(c, s, v, v.Text)
	}
	odd = ""
	note := func(format string, a ...any) {
		if odd == "" {
			odd = fmt.Sprintf(format, a...)
		}
	}
	var words []shell.Word
	given := map[string]bool{}
	for i := 0; i < len(args); i++ {
		flag := ""
		for _, name := range []string{"root-hash", "device-path", "mount-path"} {
			v, form, ok := flagValue(args, i, name)
			if !ok {
				continue
			}
			flag = name
			if given[name] {
				note("flag --%s is given twice: disk-mounter takes the last one", name)
			}
			if len(words) > 0 {
				note("a flag behind the word %q, where flags end", clip(words[0].Text))
			}
			given[name] = true
			switch {
			case name == "device-path":
				pin.DevicePath = v.Text
			case name == "mount-path":
				pin.MountPath = v.Text
			case v.Text == "":
				pin.Form = FormMissing
			default:
				take(v, form)
			}
			if form == FormFlagSeparate {
				i++
			}
			break
		}
		if flag == "" {
			words = append(words, args[i])
			if strings.HasPrefix(args[i].Text, "-") {
				note("%q is no flag of disk-mounter that is known", clip(args[i].Text))
			}
		}
	}
	if len(given) > 0 {
		if len(words) > 0 {
			note("%q stands beside the flags", clip(words[0].Text))
		}
		// The names are the operator's: /dev/modelweights-<model>-<index>.
		if rest, ok := strings.CutPrefix(pin.DevicePath, "/dev/modelweights-"); ok {
			if i := strings.LastIndexByte(rest, '-'); i > 0 {
				pin.Model, pin.Index = rest[:i], rest[i+1:]
			}
		}
		return pin, odd
	}
	if len(words) == 3 && odd == "" {
		pin.Model, pin.Index = words[0].Text, words[1].Text
		if pin.Index == "" || strings.Trim(pin.Index, "0123456789") != "" {
			note("the index of model %q is %q, not a number", clip(pin.Model), clip(pin.Index))
		}
		if words[2].Text == "" {
			return pin, odd
		}
		take(words[2], FormPositional)
		// As disk-mounter.sh builds them.
		pin.DevicePath = "/dev/modelweights-" + pin.Model + "-" + pin.Index
		pin.MountPath = "/mnt/modelweights-" + pin.Model + "-" + pin.Index
		return pin, odd
	}
	for _, v := range words {
		if _, err := rootHash(v.Text); err == nil {
			take(v, FormNotUnderstood)
		}
	}
	if pin.Form == FormNotUnderstood {
		note("%d arguments reach disk-mounter", len(args))
	}
	return pin, odd
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
