// Package qtest asks a stock QEMU for the ACPI tables that it would give a
// guest, over QEMU's qtest text protocol (QEMU, docs/devel/testing/qtest.rst).
// No guest code runs, and neither KVM nor TDX is needed: the package itself
// does what firmware does before it reads the tables, as far as the tables
// depend on it.
package qtest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// Window reserves prefetchable memory behind a root port, as firmware does
// for an empty hot-plug port or for the device behind it.
type Window struct {
	Slot int
	Size uint64
}

// Request is one machine to ask.
type Request struct {
	Args    []string // QEMU arguments that describe the machine
	Windows []Window
}

// session is a running QEMU.
type session struct {
	in  io.Writer
	out *bufio.Reader
}

const (
	timeout    = 60 * time.Second
	maxLine    = 32 << 20
	pci64Base  = 0x380000000000 // 7/8 of 2^46: where OVMF puts the window on TDX hosts
	ecamBase   = 0xe0000000
	scratch    = 0x100000 // guest memory for the fw_cfg request
	dataBuffer = 0x200000
	maxFile    = 64 << 20
)

// Ask starts program, sets the machine up and returns the tables.
func Ask(ctx context.Context, program string, r Request) (*acpi.Blobs, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Some builds have no qtest accelerator: there the CPUs are held stopped.
	args := append([]string{"-accel", "qtest", "-accel", "tcg", "-S", "-qtest", "stdio", "-display", "none", "-nodefaults", "-no-user-config"}, r.Args...)
	cmd := exec.CommandContext(ctx, program, args...)
	var talk strings.Builder
	cmd.Stderr = &limited{w: &talk, left: 4096}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	s := &session{in: in, out: bufio.NewReaderSize(io.LimitReader(out, 4*maxFile), 1<<16)}
	blobs, err := s.tables(r)
	in.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		return nil, fmt.Errorf("ask %s for ACPI tables: %w%s", program, err, said(talk.String()))
	}
	return blobs, nil
}

func said(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return fmt.Sprintf("; it said %q", text)
}

type limited struct {
	w    *strings.Builder
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.w.Write(p[:n])
	l.left -= n
	return len(p), nil
}

func (s *session) tables(r Request) (*acpi.Blobs, error) {
	if err := s.chipset(); err != nil {
		return nil, err
	}
	if err := s.assign(r.Windows); err != nil {
		return nil, err
	}
	files, err := s.directory()
	if err != nil {
		return nil, err
	}
	var blobs acpi.Blobs
	for name, to := range map[string]*[]byte{
		"etc/acpi/tables": &blobs.Tables, "etc/acpi/rsdp": &blobs.RSDP, "etc/table-loader": &blobs.Loader,
	} {
		f, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("no fw_cfg file %s", name)
		}
		if *to, err = s.read(f.selector, f.size); err != nil {
			return nil, err
		}
	}
	return &blobs, nil
}

// call sends one command and returns what stands behind OK.
func (s *session) call(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(s.in, format+"\n", args...); err != nil {
		return "", err
	}
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it ended")
			}
			return "", err
		}
		line = strings.TrimSpace(line)
		switch {
		case line == "OK":
			return "", nil
		case strings.HasPrefix(line, "OK "):
			return line[3:], nil
		case strings.HasPrefix(line, "IRQ "), line == "":
		default:
			return "", fmt.Errorf("answer %.80q", line)
		}
	}
}

func (s *session) number(format string, args ...any) (uint64, error) {
	text, err := s.call(format, args...)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 64)
}

func address(dev, fn, reg int) uint32 {
	return 1<<31 | uint32(dev)<<11 | uint32(fn)<<8 | uint32(reg&^3)
}

func (s *session) pciWrite(dev, fn, reg int, v uint32) error {
	if _, err := s.call("outl 0xcf8 %#x", address(dev, fn, reg)); err != nil {
		return err
	}
	_, err := s.call("outl 0xcfc %#x", v)
	return err
}

func (s *session) pciRead(dev, fn, reg int) (uint32, error) {
	if _, err := s.call("outl 0xcf8 %#x", address(dev, fn, reg)); err != nil {
		return 0, err
	}
	v, err := s.number("inl 0xcfc")
	return uint32(v), err
}

// chipset turns on what the tables describe only when it is on: the memory
// mapped configuration space (MCFG) and the power management block.
func (s *session) chipset() error {
	for _, w := range []struct {
		dev, reg int
		v        uint32
	}{{0, 0x64, 0}, {0, 0x60, ecamBase | 1}, {0x1f, 0x40, 0x600}} {
		if err := s.pciWrite(w.dev, 0, w.reg, w.v); err != nil {
			return err
		}
	}
	if _, err := s.call("outl 0xcf8 %#x", address(0x1f, 0, 0x44)); err != nil {
		return err
	}
	_, err := s.call("outb 0xcfc 0x80")
	return err
}

// assign gives the root ports' windows and every 64-bit memory BAR of bus 0
// an address, upwards from where OVMF puts the 64-bit window.
func (s *session) assign(windows []Window) error {
	next := uint64(pci64Base)
	for _, w := range windows {
		last := next + w.Size - 1
		for reg, v := range map[int]uint32{
			0x24: uint32(last>>16&0xfff0)<<16 | uint32(next>>16&0xfff0), 0x28: uint32(next >> 32), 0x2c: uint32(last >> 32),
		} {
			if err := s.pciWrite(w.Slot, 0, reg, v); err != nil {
				return err
			}
		}
		if err := s.enable(w.Slot, 0); err != nil {
			return err
		}
		next += w.Size
	}
	for dev := range 32 {
		for fn := range 8 {
			id, err := s.pciRead(dev, fn, 0)
			if err != nil {
				return err
			}
			if id == 0xffffffff || id == 0 {
				continue
			}
			if next, err = s.assignBARs(dev, fn, next); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) enable(dev, fn int) error {
	v, err := s.pciRead(dev, fn, 4)
	if err != nil {
		return err
	}
	return s.pciWrite(dev, fn, 4, v|2)
}

func (s *session) assignBARs(dev, fn int, next uint64) (uint64, error) {
	header, err := s.pciRead(dev, fn, 0xc)
	if err != nil {
		return next, err
	}
	end := 0x28
	if header>>16&0x7f == 1 {
		end = 0x18
	}
	for reg := 0x10; reg < end; reg += 4 {
		v, err := s.pciRead(dev, fn, reg)
		if err != nil {
			return next, err
		}
		if v&7 != 4 { // not a 64-bit memory BAR
			continue
		}
		size, err := s.barSize(dev, fn, reg)
		if err != nil {
			return next, err
		}
		if size == 0 {
			continue
		}
		next = (next + size - 1) &^ (size - 1)
		if err := s.pciWrite(dev, fn, reg, uint32(next)); err != nil {
			return next, err
		}
		if err := s.pciWrite(dev, fn, reg+4, uint32(next>>32)); err != nil {
			return next, err
		}
		if err := s.enable(dev, fn); err != nil {
			return next, err
		}
		next += size
		reg += 4
	}
	return next, nil
}

func (s *session) barSize(dev, fn, reg int) (uint64, error) {
	var size uint64
	for i, shift := range []int{0, 32} {
		if err := s.pciWrite(dev, fn, reg+4*i, 0xffffffff); err != nil {
			return 0, err
		}
		v, err := s.pciRead(dev, fn, reg+4*i)
		if err != nil {
			return 0, err
		}
		size |= uint64(v) << shift
	}
	size &^= 0xf
	return size & -size, nil
}

type file struct {
	selector uint16
	size     uint32
}

// directory reads the list of fw_cfg files (QEMU, docs/specs/fw_cfg.rst).
func (s *session) directory() (map[string]file, error) {
	const selector, entry = 0x19, 64
	head, err := s.read(selector, 4)
	if err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head)
	if n > 1024 {
		return nil, fmt.Errorf("%d fw_cfg files", n)
	}
	raw, err := s.read(selector, 4+n*entry)
	if err != nil {
		return nil, err
	}
	files := map[string]file{}
	for b := raw[4:]; len(b) >= entry; b = b[entry:] {
		name, _, _ := strings.Cut(string(b[8:entry]), "\x00")
		files[name] = file{binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint32(b)}
	}
	return files, nil
}

// read copies a fw_cfg item into guest memory by DMA and reads it from there.
func (s *session) read(selector uint16, size uint32) ([]byte, error) {
	if size > maxFile {
		return nil, fmt.Errorf("fw_cfg item %#x has %d bytes, want at most %d", selector, size, maxFile)
	}
	const selectAndRead = 8 | 2
	var req []byte
	req = binary.BigEndian.AppendUint32(req, uint32(selector)<<16|selectAndRead)
	req = binary.BigEndian.AppendUint32(req, size)
	req = binary.BigEndian.AppendUint64(req, dataBuffer)
	if _, err := s.call("write %#x %#x 0x%x", scratch, len(req), req); err != nil {
		return nil, err
	}
	if _, err := s.call("outl 0x514 0x0"); err != nil {
		return nil, err
	}
	low := binary.LittleEndian.Uint32(binary.BigEndian.AppendUint32(nil, scratch))
	if _, err := s.call("outl 0x518 %#x", low); err != nil {
		return nil, err
	}
	state, err := s.number("readl %#x", scratch)
	if err != nil {
		return nil, err
	}
	if state != 0 {
		return nil, fmt.Errorf("fw_cfg request of item %#x ended in state %#x", selector, state)
	}
	text, err := s.call("b64read %#x %#x", dataBuffer, size)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(data) != int(size) {
		return nil, fmt.Errorf("fw_cfg item %#x: %d bytes, want %d", selector, len(data), size)
	}
	return data, nil
}
