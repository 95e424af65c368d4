package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/snpmeasure"
)

// snpPipe bounds what comes from a pipe, in bytes.
const snpPipe = 64 << 20

// snpField is one field of an SNP machine's description with the flag that
// fills it.
type snpField struct {
	flag, yaml string
	kind       string // as help shows it: "string", "int", "list"
	usage      string
	file       bool // a path, - or a pipe
	sum        bool // or sha256:HEX
	set        func(p *config.Platform, value string) error
}

// snpFields is the one list: the flags of snp measure and of a search, and the
// fields of a platform with tee: snp.
func snpFields() []snpField {
	text := func(to func(*config.Platform) *string) func(*config.Platform, string) error {
		return func(p *config.Platform, v string) error {
			*to(p) = v
			return nil
		}
	}
	given := func(to func(*config.Platform) **string) func(*config.Platform, string) error {
		return func(p *config.Platform, v string) error {
			*to(p) = &v
			return nil
		}
	}
	number := func(to func(*config.Platform) **int) func(*config.Platform, string) error {
		return func(p *config.Platform, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil {
				return fmt.Errorf("%.40q: want a number", v)
			}
			*to(p) = &n
			return nil
		}
	}
	id := func(p *config.Platform) *config.IDBlock {
		if p.IDBlock == nil {
			p.IDBlock = &config.IDBlock{}
		}
		return p.IDBlock
	}
	var choices []string
	for _, q := range snpmeasure.Choices() {
		choices = append(choices, string(q))
	}
	list := func(v string) []string { return strings.Split(v, ",") }
	return []snpField{
		{flag: "mode", yaml: "mode", usage: "what is measured: snp (the default), seves, sev, ovmf-hash (the firmware's pages alone) or svsm (a Coconut SVSM below the firmware)", set: text(func(p *config.Platform) *string { return &p.Mode })},
		{flag: "vmm", yaml: "vmm", usage: "what starts the machine: qemu (the default), ec2, gce or krun", set: text(func(p *config.Platform) *string { return &p.VMM })},
		{flag: "profile", yaml: "profile", usage: "defaults of a vendor's machines: " + strings.Join(profiles.SNPNames(), ", "), set: text(func(p *config.Platform) *string { return &p.Profile })},
		{flag: "firmware", yaml: "firmware", file: true, usage: "firmware file, whole (OVMF.fd)", set: given(func(p *config.Platform) **string { return &p.Firmware })},
		{flag: "kernel", yaml: "kernel", file: true, sum: true, usage: "kernel file, or its digest as sha256:HEX (default: none)", set: given(func(p *config.Platform) **string { return &p.Kernel })},
		{flag: "initrd", yaml: "initrd", file: true, sum: true, usage: "initrd file, or its digest as sha256:HEX (default: none)", set: given(func(p *config.Platform) **string { return &p.Initrd })},
		{flag: "cmdline", yaml: "cmdline", usage: "kernel command line, or its digest as sha256:HEX", set: func(p *config.Platform, v string) error {
			p.Cmdline = &v
			return nil
		}},
		{flag: "rootfs", yaml: "rootfs", file: true, sum: true, usage: "root file system that the profile's command line names, or its digest as sha256:HEX", set: text(func(p *config.Platform) *string { return &p.Rootfs })},
		{flag: "compose", yaml: "compose", file: true, usage: "compose file that the profile's command line names", set: text(func(p *config.Platform) *string { return &p.Compose })},
		{flag: "vcpus", yaml: "vcpus", usage: "number of vCPUs, a range as 1..8, or a list; not for the modes sev and ovmf-hash", set: func(p *config.Platform, v string) (err error) {
			p.VCPUs, err = config.ParseCounts(v)
			return err
		}},
		{flag: "vcpu-type", yaml: "vcpu_types", kind: "list", usage: "type of the vCPUs by QEMU's name: " + strings.Join(snpmeasure.CPUTypes(), ", "), set: func(p *config.Platform, v string) error {
			p.VCPUTypes = list(v)
			return nil
		}},
		{flag: "vcpu-sig", yaml: "vcpu_sig", usage: "type of the vCPUs by their signature, a number such as 0xa00f11", set: text(func(p *config.Platform) *string { return &p.VCPUSig })},
		{flag: "vcpu-family", yaml: "vcpu_family", kind: "int", usage: "type of the vCPUs by family, with --vcpu-model and --vcpu-stepping", set: number(func(p *config.Platform) **int { return &p.VCPUFamily })},
		{flag: "vcpu-model", yaml: "vcpu_model", kind: "int", usage: "model, with --vcpu-family", set: number(func(p *config.Platform) **int { return &p.VCPUModel })},
		{flag: "vcpu-stepping", yaml: "vcpu_stepping", kind: "int", usage: "stepping, with --vcpu-family", set: number(func(p *config.Platform) **int { return &p.VCPUStepping })},
		{flag: "guest-features", yaml: "guest_features", usage: "SEV_FEATURES, or a list (default 0x1); host kernels from 6.6 on may set 0x21", set: func(p *config.Platform, v string) (err error) {
			p.GuestFeatures, err = config.ParseNumbers(v)
			return err
		}},
		{flag: "ovmf-hash", yaml: "ovmf_hash", usage: "launch digest after the firmware's pages (96 hex digits), in place of hashing them; --firmware then gives the tables only", set: text(func(p *config.Platform) *string { return &p.OVMFHash })},
		{flag: "svsm", yaml: "svsm", file: true, usage: "SVSM file, for mode svsm", set: text(func(p *config.Platform) *string { return &p.SVSM })},
		{flag: "vars-size", yaml: "vars_size", kind: "int", usage: "size in bytes of the firmware's variable store, for mode svsm", set: func(p *config.Platform, v string) (err error) {
			p.VarsSize, err = strconv.ParseInt(v, 0, 64)
			return err
		}},
		{flag: "one-vcpu-digest", yaml: "one_vcpu_digest", usage: "launch digest for one vCPU, in place of the artifacts", set: text(func(p *config.Platform) *string { return &p.OneVCPUDigest })},
		{flag: "ap-eip", yaml: "ap_eip", usage: "where further vCPUs start, 8 hex digits (a Contrast manifest's APEIP), with --one-vcpu-digest", set: text(func(p *config.Platform) *string { return &p.APEIP })},
		{flag: "releases", yaml: "releases", file: true, usage: "list of a vendor's artifacts by release (SecretVM's sev.json): a release must fit as a whole, or stands for the artifacts", set: text(func(p *config.Platform) *string { return &p.Releases })},
		{flag: "release", yaml: "release", usage: "row of --releases that the machine is of, as 'prod v0.0.25'", set: text(func(p *config.Platform) *string { return &p.Release })},
		{flag: "quirk", yaml: "quirks", kind: "list", usage: "behavior on which programs disagree: " + strings.Join(choices, ", "), set: func(p *config.Platform, v string) error {
			p.Quirks = list(v)
			return nil
		}},
		{flag: "id-contrast", yaml: "id_block.contrast", usage: "ID block as Contrast writes it: current or early", set: func(p *config.Platform, v string) error {
			id(p).Contrast = v
			return nil
		}},
		{flag: "id-family", yaml: "id_block.family_id", usage: "ID block: family id, at most 16 bytes of text or 32 hex digits", set: func(p *config.Platform, v string) error {
			id(p).FamilyID = v
			return nil
		}},
		{flag: "id-image", yaml: "id_block.image_id", usage: "ID block: image id, likewise", set: func(p *config.Platform, v string) error {
			id(p).ImageID = v
			return nil
		}},
		{flag: "id-svn", yaml: "id_block.svn", kind: "int", usage: "ID block: the guest's security version", set: func(p *config.Platform, v string) error {
			n, err := strconv.ParseUint(v, 0, 32)
			id(p).SVN = uint32(n)
			return err
		}},
		{flag: "id-policy", yaml: "id_block.policy", usage: "ID block: guest policy, a number such as 0x30000", set: func(p *config.Platform, v string) error {
			n, err := strconv.ParseUint(v, 0, 64)
			id(p).Policy = &n
			return err
		}},
		{flag: "expect", yaml: "expect", kind: "list", usage: "value that must come out, as HEX or NAME=HEX (launch, ovmf_hash, id_key_digest, or Milan/cpus=2/launch)", set: func(p *config.Platform, v string) error {
			p.Expect = map[string]string{}
			for _, e := range list(v) {
				i := strings.LastIndexByte(e, '=')
				name := "launch"
				if i >= 0 {
					name = e[:i]
				}
				if _, twice := p.Expect[name]; twice {
					return fmt.Errorf("%.80q twice", name)
				}
				p.Expect[name] = e[i+1:]
			}
			return nil
		}},
	}
}

// rawFlag holds what was written behind a flag, until a description takes it.
type rawFlag struct {
	kind  string
	value string
}

func (r *rawFlag) String() string { return r.value }

// Set keeps the text; of a list each further one is added.
func (r *rawFlag) Set(v string) error {
	if r.kind == "list" && r.value != "" {
		v = r.value + "," + v
	}
	r.value = v
	return nil
}

// Type is the word that help shows.
func (r *rawFlag) Type() string {
	switch r.kind {
	case "":
		return "string"
	case "list":
		return "strings"
	default:
		return r.kind
	}
}

// bindSNP adds the flags that describe an SNP machine, those that the verb does
// not have already for another kind of machine.
func bindSNP(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false // by subject
	for _, f := range snpFields() {
		if fs.Lookup(f.flag) == nil {
			fs.Var(&rawFlag{kind: f.kind}, f.flag, f.usage)
		}
	}
	fixed := func(name string, words ...string) {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("profile", profiles.SNPNames()...)
	fixed("mode", "snp", "seves", "sev", "ovmf-hash", "svsm")
	fixed("vmm", "qemu", "ec2", "gce", "krun")
	fixed("vcpu-type", snpmeasure.CPUTypes()...)
}

// snpPlatform is the machine that the flags describe. Names of files are as
// given; what comes from a pipe is held by reader.
func (a *app) snpPlatform(op string, fs *pflag.FlagSet, reader *run.Reader) (*config.Platform, error) {
	p := &config.Platform{TEE: "snp"}
	stdin := ""
	for _, f := range snpFields() {
		flag := fs.Lookup(f.flag)
		if flag == nil || !flag.Changed {
			continue
		}
		value := flag.Value.String()
		if f.file && !(f.sum && strings.HasPrefix(value, "sha256:")) {
			if value == "-" && stdin != "" {
				return nil, &userError{op: op, msg: fmt.Sprintf("--%s and --%s both read stdin", stdin, f.flag), hint: "give a file for one of them"}
			}
			if value == "-" {
				stdin = f.flag
			}
			var err error
			if value, err = a.holdPipe(op, f.flag, value, reader); err != nil {
				return nil, err
			}
		}
		if err := f.set(p, value); err != nil {
			return nil, &userError{op: op, msg: fmt.Sprintf("--%s %v", f.flag, err), hint: snpHint(f.flag)}
		}
	}
	// A kernel without a command line has an empty one.
	if config.Or(p.Kernel) != "" && p.Cmdline == nil && p.Profile == "" {
		p.Cmdline = new(string)
	}
	return p, nil
}

func snpHint(flag string) string {
	switch flag {
	case "vcpus":
		return "for instance --vcpus 4, --vcpus 1..8 or --vcpus 1,2,4"
	case "guest-features":
		return "for instance --guest-features 0x21"
	default:
		return ""
	}
}

// holdPipe reads what is no regular file, such as stdin or a pipe, and lets
// reader have it under the name that is returned.
func (a *app) holdPipe(op, flag, path string, reader *run.Reader) (string, error) {
	if path == "-" {
		data, err := a.readInput(op, path, snpPipe)
		reader.Hold("stdin", data)
		return "stdin", err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", &userError{op: op, path: path, err: reason(err), hint: "--" + flag + " FILE"}
	case info.IsDir():
		return "", &userError{op: op, path: path, msg: "is a folder, want a file", hint: "--" + flag + " FILE"}
	case info.Mode().IsRegular():
		return path, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", &userError{op: op, path: path, err: reason(err)}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, snpPipe+1))
	if err == nil && len(data) > snpPipe {
		err = fmt.Errorf("more than %s come from a pipe; give a file", size(snpPipe))
	}
	if err != nil {
		return "", &userError{op: op, path: path, err: reason(err)}
	}
	reader.Hold(path, data)
	return path, nil
}

// snpFlagOf is the flag that fills a field of the description.
func snpFlagOf(field []string) string {
	path := strings.Join(field, ".")
	for _, f := range snpFields() {
		if f.yaml == path {
			return "--" + f.flag
		}
	}
	if len(field) > 0 && field[0] == "expect" {
		return "--expect"
	}
	return path
}
