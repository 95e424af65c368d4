package recognize

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// vmFilesAtMost bounds the files that are looked at in a folder.
const vmFilesAtMost = 2000

// vmRole is what a file is of a SecretVM.
type vmRole string

const (
	roleFirmware   vmRole = "firmware"
	roleKernel     vmRole = "kernel"
	roleInitrd     vmRole = "initrd"
	roleRootfs     vmRole = "rootfs"
	roleCompose    vmRole = "compose"
	roleDocker     vmRole = "docker_files"
	roleCmdline    vmRole = "cmdline"
	roleRegistry   vmRole = "registry"
	roleEvidence   vmRole = "evidence"
	roleCertBundle vmRole = "tls_cert"
	roleCollateral vmRole = "collateral"
)

// vmFiles are the files of a folder by what they are, each list sorted.
type vmFiles struct {
	byRole   map[vmRole][]string
	captured map[string]time.Time // of capture folders
	cmdline  string
}

// InitSecretVM writes a commented retally.yaml for a folder with what belongs
// to a SecretVM: firmware, kernel, initrd, rootfs, compose file, tdx.csv, quotes
// and captures, each recognized by its content. now is the time that evidence
// without a time of its own is to be judged at.
func InitSecretVM(ctx context.Context, table []run.Stage, root string, now time.Time) ([]byte, []Found, error) {
	fail := func(err error, hint string) error {
		return &pipeline.InputError{Op: "init", File: root, Err: err, Hint: hint}
	}
	v, err := lookForVM(ctx, root)
	if err != nil {
		return nil, nil, err
	}
	var found []Found
	for role, files := range v.byRole {
		for _, f := range files {
			found = append(found, Found{Name: f, Kind: Kind(role)})
		}
	}
	slices.SortFunc(found, func(a, b Found) int { return strings.Compare(a.Name, b.Name) })
	data := v.config(now)
	if _, err := run.ParseConfig(table, config.FileName, data); err != nil {
		return nil, nil, fail(errors.New("holds neither artifacts nor evidence of a SecretVM"), "give a folder with firmware, kernel and initrd, or with a saved cpu.html")
	}
	return data, found, nil
}

// lookForVM looks at the files of one folder, not below it.
func lookForVM(ctx context.Context, root string) (*vmFiles, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, pipeline.NewInputError("init", root, err)
	}
	if len(entries) > vmFilesAtMost {
		return nil, &pipeline.InputError{Op: "init", File: root, Err: fmt.Errorf("holds %d files, the limit is %d", len(entries), vmFilesAtMost)}
	}
	v := &vmFiles{byRole: map[vmRole][]string{}, captured: map[string]time.Time{}}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := e.Name()
		if strings.HasPrefix(name, ".") || name == config.FileName || strings.ContainsFunc(name, breaksLine) {
			continue
		}
		if e.IsDir() {
			v.capture(root, name)
			continue
		}
		role, err := v.role(filepath.Join(root, name), name)
		if err != nil {
			return nil, err
		}
		if role != "" {
			v.byRole[role] = append(v.byRole[role], name)
		}
	}
	return v, nil
}

// breaksLine reports whether a name could leave the line of a comment.
func breaksLine(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == utf8.RuneError
}

// boots reports whether there is anything that a machine boots.
func (v *vmFiles) boots() bool {
	return len(v.byRole[roleFirmware])+len(v.byRole[roleKernel])+len(v.byRole[roleInitrd]) > 0
}

func (v *vmFiles) capture(root, name string) {
	dir := filepath.Join(root, name)
	if !capture.IsCapture(dir) {
		return
	}
	if b, err := evidence.OpenCapture(name, dir); err == nil {
		v.byRole[roleEvidence] = append(v.byRole[roleEvidence], name)
		v.captured[name] = b.CapturedAt
	}
}

// role recognizes one file. What cannot be read as anything has none.
func (v *vmFiles) role(path, name string) (vmRole, error) {
	f, size, err := run.OpenRegular(name, path)
	if err != nil {
		if info, e := os.Lstat(path); e == nil && !info.Mode().IsRegular() {
			return "", nil
		}
		return "", err
	}
	defer f.Close()
	head := make([]byte, 0x8006)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", pipeline.NewInputError("read", name, err)
	}
	head = head[:n]
	lower := strings.ToLower(name)
	switch {
	case bytes.HasPrefix(head, []byte("MZ")) && len(head) > 0x206 && string(head[0x202:0x206]) == "HdrS":
		return roleKernel, nil
	case strings.HasSuffix(lower, ".tar") && strings.Contains(lower, "docker"):
		return roleDocker, nil
	case isRootfs(lower, head):
		return roleRootfs, nil
	case isInitrd(lower, head):
		return roleInitrd, nil
	}
	if size <= config.FirmwareLimit {
		if _, err := ovmf.ReadTDVF(f, size); err == nil {
			return roleFirmware, nil
		}
	}
	if size > evidence.MaxFile {
		return "", nil
	}
	data, err := io.ReadAll(io.LimitReader(f, evidence.MaxFile))
	if err != nil {
		return "", pipeline.NewInputError("read", name, err)
	}
	return v.text(name, lower, data), nil
}

// isRootfs knows an ISO image, a squashfs, and what is called so.
func isRootfs(name string, head []byte) bool {
	return len(head) > 0x8005 && string(head[0x8001:0x8006]) == "CD001" || bytes.HasPrefix(head, []byte("hsqs")) ||
		strings.Contains(name, "rootfs") && slices.Contains([]string{".img", ".iso", ".raw", ".ext4", ".squashfs", ".verity"}, path.Ext(name))
}

// isInitrd knows a cpio archive, and a compressed file that is called so.
func isInitrd(name string, head []byte) bool {
	if bytes.HasPrefix(head, []byte("070701")) || bytes.HasPrefix(head, []byte("070702")) {
		return true
	}
	if !strings.Contains(name, "initr") {
		return false
	}
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ", "\x02\x21\x4c\x18", "\x04\x22\x4d\x18", "BZh"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return false
}

// text recognizes what is read whole.
func (v *vmFiles) text(name, lower string, data []byte) vmRole {
	if slices.Contains([]string{"cmdline", "cmdline.txt", "kernel-cmdline", "kernel-cmdline.txt"}, lower) {
		if text := strings.TrimRight(string(data), "\r\n"); utf8.ValidString(text) && !strings.ContainsAny(text, "\r\n\t\x00") {
			v.cmdline = text
			return roleCmdline
		}
	}
	if r := csv.NewReader(bytes.NewReader(data)); strings.HasSuffix(lower, ".csv") {
		if _, err := r.Read(); err == nil {
			if _, err := evidence.ParseRegistry(name, data); err == nil {
				return roleRegistry
			}
		}
	}
	if _, err := tdxquote.ParseCollateral(name, data); err == nil {
		return roleCollateral
	}
	if slices.Contains([]string{".pem", ".crt", ".cer", ".der"}, path.Ext(lower)) {
		if cert, err := evidence.ReadCertificate(name, data); err == nil && !cert.IsCA {
			return roleCertBundle
		}
		return ""
	}
	if ext := path.Ext(lower); ext == ".yaml" || ext == ".yml" {
		if docs, err := yamldoc.Parse(name, data, yamldoc.Limits{}); err == nil && len(docs) == 1 && len(yamldoc.Pairs(yamldoc.Get(docs[0], "services"))) > 0 {
			return roleCompose
		}
		return ""
	}
	if b, err := evidence.Read(name, data); err == nil && b.Quote != nil {
		if _, err := tdxquote.Parse(b.Quote); err == nil {
			return roleEvidence
		}
	}
	return ""
}

// config writes the configuration.
func (v *vmFiles) config(now time.Time) []byte {
	var b bytes.Buffer
	b.WriteString("# A SecretVM: its registers from what it boots, and what it showed of itself.\n# `retally plan` shows what follows from this file and what is missing,\n# `retally run` does it. Names start from this file's folder.\nversion: 1\n")
	first := func(role vmRole) (name string, others string) {
		files := v.byRole[role]
		if len(files) == 0 {
			return "", ""
		}
		if len(files) > 1 {
			others = "  # or " + strings.Join(files[1:], ", ")
		}
		return files[0], others
	}
	field := func(indent, key string, role vmRole, example string) {
		if name, others := first(role); name != "" {
			fmt.Fprintf(&b, "%s%s: %s%s\n", indent, key, scalar(name), others)
			return
		}
		fmt.Fprintf(&b, "%s# %s: %s\n", indent, key, example)
	}
	b.WriteString("\n# The registers by release that SecretVM publishes (secretvm-verify, artifacts\n# registry).\n")
	field("", "registry", roleRegistry, "tdx.csv")
	b.WriteString("\n# The compose file, byte for byte as the machine was given it.\n")
	field("", "compose", roleCompose, "docker-compose.yaml")
	if v.boots() {
		v.machine(&b, field)
	} else {
		b.WriteString("\n# With the artifacts of the release the registers are computed too:\n# platforms:\n#   secretvm: {tee: tdx, profile: secretvm, firmware: ovmf.fd, kernel: bzImage, initrd: initramfs.cpio.gz, rootfs: rootfs.iso, cmdline: '...', vcpus: 1, memory: 2G}\n")
	}
	v.shown(&b, now, field)
	b.WriteString("\n# Keys that may stay unchecked (globs). Each is shown in the report.\n# allow_unchecked:\n#   - evidence/*/bound\n")
	return b.Bytes()
}

// machine writes the platform.
func (v *vmFiles) machine(b *bytes.Buffer, field func(indent, key string, role vmRole, example string)) {
	b.WriteString("\n# The machine: its registers are computed from the artifacts of the release.\nplatforms:\n  secretvm:\n    tee: tdx\n    profile: secretvm\n")
	field("    ", "firmware", roleFirmware, "ovmf.fd")
	field("    ", "kernel", roleKernel, "bzImage")
	field("    ", "initrd", roleInitrd, "initramfs.cpio.gz")
	field("    ", "rootfs", roleRootfs, "rootfs.iso")
	field("    ", "docker_files", roleDocker, "docker-files.tar")
	if _, ok := v.byRole[roleCmdline]; ok {
		fmt.Fprintf(b, "    cmdline: %s\n", scalar(v.cmdline))
	} else {
		b.WriteString("    # The kernel command line of the release, initrd=initrd at its end.\n    # cmdline: 'console=ttyS0 loglevel=7 initrd=initrd'\n")
	}
	b.WriteString("    # The machine's size: small 1 and 2G, medium 2 and 4G, large 4 and 8G, xlarge 8\n    # and 16G, 2xlarge 4 and 16G.\n    # vcpus: 1\n    # memory: 2G\n")
	b.WriteString("    # A host with a TDX branch of QEMU 8 (MRTD 1e305ac8...) has other tables.\n    # qemu: 8.2.0\n")
	b.WriteString("    # With a key service: the app id that it shows.\n    # app_id: ''\n")
}

// shown writes an entry for each quote and capture.
func (v *vmFiles) shown(b *bytes.Buffer, now time.Time, field func(indent, key string, role vmRole, example string)) {
	files := v.byRole[roleEvidence]
	if len(files) == 0 {
		b.WriteString("\n# What the machine shows of itself: its quote as saved from HOST:29343/cpu.html,\n# or a folder of `retally evidence capture HOST --out DIR`.\n# evidence:\n#   machine:\n#     file: cpu.html\n#     platform: secretvm\n#     at: 2026-06-01T00:00:00Z\n#     tls_cert: machine.pem\n")
		return
	}
	b.WriteString("\n# What the machine shows of itself, judged at the given time: whether it is\n# authentic, what is expected, and bound to the connection.\nevidence:\n")
	used := map[string]bool{}
	for i, file := range files {
		name := strings.TrimSuffix(file, path.Ext(file))
		if name == "" || used[name] {
			name = fmt.Sprintf("%s-%d", file, i+1)
		}
		used[name] = true
		at, captured := v.captured[file]
		if !captured {
			at = now
		}
		of := "profile: secretvm"
		if v.boots() {
			of = "platform: secretvm"
		}
		fmt.Fprintf(b, "  %s:\n    file: %s\n    %s\n    at: %s\n", scalar(name), scalar(file), of, at.UTC().Format(time.RFC3339))
		if captured {
			b.WriteString("    # at is what the capture says of itself. The certificate is that of its session.\n")
			continue
		}
		b.WriteString("    # The certificate of the machine's connection, or a nonce that it answered.\n")
		field("    ", "tls_cert", roleCertBundle, "machine.pem")
		b.WriteString("    # Intel's collateral, for TCB status and revocation.\n")
		field("    ", "collateral", roleCollateral, "collateral.json")
	}
}
