package tdxmeasure

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/bzimage"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

// Strings that OVMF measures without an end mark (TCG PC Client Platform
// Firmware Profile, EV_EFI_ACTION).
const (
	actionCalling = "Calling EFI Application from Boot Option"
	actionExit    = "Exit Boot Services Invocation"
	actionExited  = "Exit Boot Services Returned with Success"
)

// rtmr1 of a direct boot: the kernel as an EFI image, the boot manager's
// actions.
func (m *Measurer) rtmr1(ctx context.Context, c *Config) (Trace, error) {
	t := newTrace(trace.Extend)
	if !m.Kernel.Present() {
		return t, missing("kernel", "{kernel}")
	}
	d, edits, err := m.kernelDigest(ctx, c)
	if err != nil {
		return t, err
	}
	label := "kernel, Authenticode"
	if len(edits) > 0 {
		label += ", header as QEMU writes it"
	}
	t.Add(label, d, trace.Origin{Input: m.Kernel.Name, Size: m.Kernel.Size})
	t.Made("action "+actionCalling, []byte(actionCalling))
	t.Made("separator", make([]byte, 4))
	t.Made("action "+actionExit, []byte(actionExit))
	t.Made("action "+actionExited, []byte(actionExited))
	return t, nil
}

func missing(what, hint string) error {
	return &Error{Input: what, Offset: -1, Found: "not given", Want: "a file", Hint: hint}
}

// kernelDigest measures the kernel's bytes with the header edits in place,
// once for each distinct header.
func (m *Measurer) kernelDigest(ctx context.Context, c *Config) (digest.Digest, []HeaderEdit, error) {
	if m.Kernel.R == nil {
		return m.Kernel.Known, nil, nil // an Authenticode digest of the patched kernel
	}
	var edits []HeaderEdit
	key := fmt.Sprintf("kernel %+v", c.Profile.Authenticode)
	if c.Profile.PatchKernel {
		k, err := ReadKernel(m.Kernel)
		if err != nil {
			return digest.Digest{}, nil, err
		}
		if edits, err = k.Edits(m.initrd(c).Size, c.Memory, c.Profile.HeaderRule); err != nil {
			return digest.Digest{}, nil, err
		}
		key += fmt.Sprint(edits)
	}
	d, err := m.memo.Get(key, func() (digest.Digest, error) {
		return authenticode.Digest(ctx, digest.SHA384, bzimage.Overlay(m.Kernel.R, edits), m.Kernel.Size, c.Profile.Authenticode)
	})
	if err != nil {
		err = &FileError{m.Kernel.Name, err}
	}
	return d, edits, err
}

// InitrdArgument says where the loader's "initrd=initrd" stands in the
// measured command line.
type InitrdArgument string

const (
	ArgumentAsGiven InitrdArgument = "as-given" // the caller writes it
	ArgumentSuffix  InitrdArgument = "suffix"   // OVMF up to 2025.02
	ArgumentPrefix  InitrdArgument = "prefix"   // newer edk2
)

const initrdArgument = "initrd=initrd"

// MeasuredCmdline is the command line as the kernel's EFI stub measures it.
func MeasuredCmdline(cmdline string, where InitrdArgument) string {
	switch where {
	case ArgumentSuffix:
		return cmdline + " " + initrdArgument
	case ArgumentPrefix:
		return initrdArgument + " " + cmdline
	default:
		return cmdline
	}
}

// CmdlineDigest is the event of a command line in a direct boot: UTF-16LE
// with a two-byte end mark.
func CmdlineDigest(measured string) (digest.Digest, error) {
	units, err := UTF16("command line", measured)
	if err != nil {
		return digest.Digest{}, err
	}
	return digest.SHA384.Sum(append(units, 0, 0)), nil
}

// rtmr2 of a direct boot: command line and initrd; an absent initrd counts as
// empty.
func (m *Measurer) rtmr2(ctx context.Context, c *Config) (Trace, error) {
	t := newTrace(trace.Extend)
	d, err := CmdlineDigest(MeasuredCmdline(c.Cmdline, c.Profile.InitrdArgument))
	if err != nil {
		return t, err
	}
	t.Add("kernel command line", d, trace.Origin{Size: -1})
	initrd := m.initrd(c)
	if d, err = m.fileDigest(ctx, "initrd", initrd, digest.SHA384); err != nil {
		return t, err
	}
	t.Add("initrd", d, trace.Origin{Input: initrd.Name, Size: initrd.Size})
	return t, nil
}

// initrd is the initrd of a machine.
func (m *Measurer) initrd(c *Config) Input {
	if c.NoInitrd {
		return Input{}
	}
	return m.Initrd
}

// fileDigest hashes an input once; an absent one counts as empty.
func (m *Measurer) fileDigest(ctx context.Context, what string, in Input, alg digest.Algorithm) (digest.Digest, error) {
	if !in.Present() {
		return alg.Sum(nil), nil
	}
	return m.memo.Get(what+alg.String(), func() (digest.Digest, error) { return in.Sum(ctx, alg) })
}

// RTMR3Scheme says what extends RTMR3.
type RTMR3Scheme string

const (
	RTMR3None        RTMR3Scheme = "none"         // nothing: 48 zero bytes
	RTMR3Raw         RTMR3Scheme = "raw"          // SecretVM: plain SHA-256 digests
	RTMR3SecretVMKMS RTMR3Scheme = "secretvm-kms" // SecretVM with a key service: dstack's events
	RTMR3Events      RTMR3Scheme = "events"       // the events given in the configuration
)

// RuntimeEvent is an event that a running guest extends RTMR3 with.
type RuntimeEvent struct {
	Name    string
	Payload []byte
	// Version of the digest: 1, or 2 for the canonical JSON form.
	Version int
}

// EventType is dstack's runtime event type in event logs.
const EventType = 0x08000001

// Digest is the event's digest: version 1 hashes the type, a colon, the name,
// a colon and the payload; version 2 hashes a canonical JSON document (RFC
// 8785) of name, payload in hex and type.
func (e RuntimeEvent) Digest() digest.Digest {
	if e.Version == 2 {
		return digest.SHA384.Sum(eventDocument(e))
	}
	b := binary.LittleEndian.AppendUint32(nil, EventType)
	b = slices.Concat(b, []byte(":"), []byte(e.Name), []byte(":"), e.Payload)
	return digest.SHA384.Sum(b)
}

// AppendRuntime appends runtime events to an RTMR3 trace.
func AppendRuntime(t *Trace, events ...RuntimeEvent) {
	for _, e := range events {
		t.Add("event "+e.Name, e.Digest(), trace.Origin{Size: -1})
	}
}

func (m *Measurer) rtmr3(ctx context.Context, c *Config) (Trace, error) {
	t := newTrace(trace.Extend)
	switch c.Profile.RTMR3 {
	case RTMR3None, "":
		return t, nil
	case RTMR3Events:
		AppendRuntime(&t, c.Events...)
		return t, nil
	}
	compose, err := m.fileDigest(ctx, "compose", m.Compose, digest.SHA256)
	if err != nil {
		return t, err
	}
	rootfs, err := m.fileDigest(ctx, "rootfs", m.Rootfs, digest.SHA256)
	if err != nil {
		return t, err
	}
	// An empty archive is left out, as reproduce-mr does.
	archive := m.DockerFiles.Present() && (m.DockerFiles.Size > 0 || m.DockerFiles.R == nil)
	var docker digest.Digest
	if archive {
		if docker, err = m.fileDigest(ctx, "docker files", m.DockerFiles, digest.SHA256); err != nil {
			return t, err
		}
	}
	from := func(in Input) trace.Origin { return trace.Origin{Input: in.Name, Size: in.Size} }
	if c.Profile.RTMR3 == RTMR3Raw {
		t.Add("compose file", compose, from(m.Compose))
		t.Add("rootfs", rootfs, from(m.Rootfs))
		if archive {
			t.Add("docker files", docker, from(m.DockerFiles))
		}
		return t, nil
	}
	events := []RuntimeEvent{
		{Name: "app-id", Payload: c.AppID},
		{Name: "compose-hash", Payload: compose.Bytes()},
		{Name: "os-image-hash", Payload: rootfs.Bytes()},
	}
	if archive {
		events = append(events, RuntimeEvent{Name: "docker-files-hash", Payload: docker.Bytes()})
	}
	if len(c.AppID) == 0 {
		return t, &Error{Input: "app id", Offset: -1, Found: "not given", Want: "the 20 bytes that the key service knows", Hint: "{app_id}"}
	}
	AppendRuntime(&t, events...)
	return t, nil
}
