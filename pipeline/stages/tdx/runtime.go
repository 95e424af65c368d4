package tdx

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// readRuntime reads what the guest's own software measures into RTMR3, and what
// only the aggregates hold.
func (m *Machine) readRuntime(ctx context.Context) error {
	c, conf := &m.config, &m.conf
	if conf.Compose == "" && c.Profile.MeasuresCompose() {
		conf.Compose = m.in.Config.Compose
	}
	var err error
	if c.AppID, err = config.ParseAppID(conf.AppID); err != nil {
		return err
	}
	if conf.KeyProvider != "" {
		if m.provider, err = tdxmeasure.ParseKeyProvider(conf.KeyProvider); err != nil {
			return err
		}
		if c.Profile.Aggregates == tdxmeasure.DstackAggregates && len(m.provider) != digest.SHA256.Size() {
			return m.bad("key_provider", "none, sgx-v0 or 64 hex digits", "%.80s: %d bytes, dstack's mr_key_provider has 32", conf.KeyProvider, len(m.provider))
		}
	}
	for i, name := range Registers {
		if text, ok := conf.Given[name]; ok {
			if m.given[i], err = digest.ParseHex(digest.SHA384, strings.ToLower(text)); err != nil {
				return err
			}
		}
	}
	if err := m.readEvents(ctx); err != nil {
		return err
	}
	if len(c.Events) > 0 && c.Profile.RTMR3 != tdxmeasure.RTMR3Events {
		return m.bad("events", "add {rtmr3: events}", "events are given, but the profile %s extends RTMR3 by the rule %q", c.Profile.Name, c.Profile.RTMR3)
	}
	if m.want[4] {
		if err := m.readFiles(ctx); err != nil {
			return err
		}
	}
	return m.readConfigID(ctx)
}

// readFiles reads the files of RTMR3, each of which may be given by its digest.
func (m *Machine) readFiles(ctx context.Context) error {
	conf, a := &m.conf, &m.artifacts
	if err := m.readCompose(ctx); err != nil {
		return err
	}
	for _, f := range []struct {
		what, value, note string
		to                *tdxmeasure.Input
		sum               *digest.Digest
	}{
		{"rootfs", conf.Rootfs, "the root file system ", &a.Rootfs, &m.rootfs},
		{"docker-files", conf.DockerFiles, "the archive ", &a.DockerFiles, &m.docker},
	} {
		known, byDigest, err := givenDigest(f.value)
		switch {
		case err != nil:
			return err
		case f.value == "":
			continue
		case byDigest:
			*f.sum, *f.to = known, tdxmeasure.Input{Name: f.value, Known: known}
			m.restOnDigest(f.what, known)
			continue
		}
		s, err := m.in.Sums(ctx, f.value, false)
		if err != nil {
			return err
		}
		// An empty archive is left out of the register, as reproduce-mr does.
		if s.Size > 0 || f.what == "rootfs" {
			*f.sum, *f.to = s.SHA256, tdxmeasure.Input{Name: f.value, Size: s.Size, Known: s.SHA256}
			m.rest(f.what, pipeline.OfDigest(s.SHA256), pipeline.Recomputed, f.note+f.value, []string{f.value})
		}
	}
	return nil
}

// restOnDigest notes that a digest stood in for a file.
func (m *Machine) restOnDigest(what string, d digest.Digest) {
	on := []int{4}
	if !m.config.Profile.MeasuresCompose() {
		on = nil
	}
	m.rest(what, pipeline.OfDigest(d), pipeline.Copied, "", nil, on...)
}

func (m *Machine) readCompose(ctx context.Context) error {
	file, a := m.conf.Compose, &m.artifacts
	if file == "" || a.Compose.Present() {
		return nil
	}
	known, byDigest, err := givenDigest(file)
	switch {
	case err != nil:
		return err
	case byDigest:
		a.Compose = tdxmeasure.Input{Name: file, Known: known}
		m.restOnDigest("compose", known)
		return nil
	}
	data, err := m.in.ReadFile(ctx, file, config.ComposeLimit)
	if err != nil {
		return err
	}
	m.compose, a.Compose = data, tdxmeasure.Bytes(file, data)
	return nil
}

func (m *Machine) readEvents(ctx context.Context) error {
	conf, c := &m.conf, &m.config
	if conf.EventLog != "" {
		data, err := m.in.ReadFile(ctx, conf.EventLog, config.ReplyLimit)
		if err != nil {
			return err
		}
		if data, err = tdxmeasure.EmbeddedLog(conf.EventLog, data); err != nil {
			return err
		}
		log, err := eventlog.ParseJSON(conf.EventLog, data)
		if err != nil {
			return err
		}
		for i := range log.Events {
			if e := &log.Events[i]; e.Register == 3 && e.Type == eventlog.DstackRuntime {
				c.Events = append(c.Events, tdxmeasure.RuntimeEvent{Name: e.Name, Payload: e.Data, Version: e.Version})
			}
		}
		m.rest("events", pipeline.OfDigest(digest.SHA256.Sum(data)), pipeline.Replayed, "", []string{conf.EventLog}, 4)
	}
	version := 1
	set(&version, conf.EventVersion)
	for _, text := range conf.Events {
		e, err := parseEvent(text, version)
		if err != nil {
			return err
		}
		c.Events = append(c.Events, e)
	}
	return nil
}

// parseEvent reads NAME or NAME=HEX.
func parseEvent(text string, version int) (tdxmeasure.RuntimeEvent, error) {
	name, payload, _ := strings.Cut(text, "=")
	b, err := hex.DecodeString(payload)
	if err != nil || name == "" {
		return tdxmeasure.RuntimeEvent{}, fmt.Errorf("%.80q: want NAME or NAME=HEX", text)
	}
	return tdxmeasure.RuntimeEvent{Name: name, Payload: b, Version: version}, nil
}

// configID is how MRCONFIGID comes about.
type configID struct {
	value    []byte // 48 bytes, or nil
	version  int    // else 1, 2 or 3
	kind     tdxmeasure.KeyProviderKind
	provider []byte // of version 2
	file     string // of version 3
}

var keyProviderKinds = map[string]tdxmeasure.KeyProviderKind{
	"none": tdxmeasure.KeyProviderNone, "local": tdxmeasure.KeyProviderLocal, "kms": tdxmeasure.KeyProviderKMS, "tpm": tdxmeasure.KeyProviderTPM,
}

func parseConfigID(text string) (id configID, err error) {
	kind, rest, more := strings.Cut(text, ":")
	switch {
	case text == "v1":
		id.version = 1
	case kind == "v2":
		id.version = 2
		name, hexID, _ := strings.Cut(rest, ":")
		k, ok := keyProviderKinds[name]
		b, err := hex.DecodeString(hexID)
		if !ok || err != nil {
			return id, errors.New("want v2:KIND or v2:KIND:HEX, KIND one of none, local, kms, tpm")
		}
		id.kind, id.provider = k, b
	case kind == "v3" && more && rest != "":
		id.version, id.file = 3, rest
	default:
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != digest.SHA384.Size() {
			return id, errors.New("want 96 hex digits, v1, v2:KIND[:HEX] or v3:FILE")
		}
		id.value = b
	}
	return id, nil
}

// readConfigID reads MRCONFIGID, or makes it as dstack does.
func (m *Machine) readConfigID(ctx context.Context) error {
	if m.conf.MRConfigID == "" {
		return nil
	}
	id, err := parseConfigID(m.conf.MRConfigID)
	if err != nil {
		return err
	}
	m.configBasis = pipeline.Recomputed
	compose := [32]byte{}
	if id.version == 1 || id.version == 2 {
		if err := m.readCompose(ctx); err != nil {
			return err
		}
		if !m.artifacts.Compose.Present() {
			return m.bad("mr_config_id", "", "%.120s: needs %s (app-compose.json)", m.conf.MRConfigID, m.say("compose", ""))
		}
		if m.artifacts.Compose.R == nil {
			m.configBasis = pipeline.Copied
		}
		d, err := m.artifacts.Compose.Sum(ctx, digest.SHA256)
		if err != nil {
			return err
		}
		copy(compose[:], d.Bytes())
	}
	switch id.version {
	case 1:
		m.configID = tdxmeasure.ConfigIDV1(compose)
	case 2:
		app := tdxmeasure.DefaultAppID(compose)
		copy(app[:], m.config.AppID)
		m.configID = tdxmeasure.ConfigIDV2(compose, app, id.kind, id.provider)
	case 3:
		doc, err := m.in.ReadFile(ctx, id.file, config.ReplyLimit)
		if err != nil {
			return err
		}
		m.configID = tdxmeasure.ConfigIDV3(doc)
	default:
		copy(m.configID[:], id.value)
		m.configBasis = pipeline.Copied
	}
	return nil
}

// documentFixes are the fields whose events a measurement document has fixed.
func documentFixes(c *config.Platform) string {
	for _, f := range []struct {
		field string
		given bool
	}{
		{"initrd", c.Initrd != nil},
		{"cmdline", c.Cmdline != nil},
		{"cfv", c.CFV != ""},
		{"hob", c.HOB != ""},
		{"read_on", c.ReadOn != nil},
		{"exclude_acpi_tables", c.ExcludeACPITables != nil},
		{"trailing_separator", c.TrailingSeparator != nil},
		{"six_table_loader", c.SixTableLoader != nil},
		{"patch_kernel", c.PatchKernel != nil},
		{"header_rule", c.HeaderRule != ""},
		{"authenticode", c.Authenticode != ""},
		{"initrd_argument", c.InitrdArgument != ""},
		{"no_initrd", c.NoInitrd},
	} {
		if f.given {
			return f.field
		}
	}
	return ""
}

// useDocument lets vm_config's measurement document stand in for the image's
// files where none are given.
func (m *Machine) useDocument(context.Context) error {
	v, conf, c := m.vmConfig, &m.conf, &m.config
	if v == nil || v.Measurement == nil || config.Or(conf.Firmware) != "" || config.Or(conf.Kernel) != "" {
		return nil
	}
	const files = "give the image's files: {firmware}, {kernel} and {initrd}"
	if c.Profile.Document != v.Measurement.Variant {
		return m.bad("vm_config", files, "its measurement document is for firmware %.40q, the profile %s is not", v.Measurement.Variant, c.Profile.Name)
	}
	if field := documentFixes(conf); field != "" {
		return m.bad(field, files, "fixed by the measurement document of %s", conf.VMConfig)
	}
	if c.Profile.PageOrder == tdxmeasure.RawExtend {
		return m.bad("page_order", "single or two-pass", "raw-extend: the measurement document has only the other two")
	}
	doc := *v
	twoPass, pic := c.Profile.PageOrder == tdxmeasure.TwoPass, c.Profile.PIC
	doc.VCPUs, doc.Memory, doc.QEMU, doc.TwoPass, doc.PIC = c.VCPUs, c.Memory, "", &twoPass, &pic
	doc.Devices = c.Devices
	doc.Devices.Family = c.Profile.ACPIFamily
	m.document = &doc
	m.rest("document", pipeline.OfText(cmp.Or(v.OSImageHash, "unnamed image")), pipeline.Copied, fmt.Sprintf(
		"MRTD and the events of kernel, command line and initrd are those of the measurement document in %s; give the image's files to recompute them", conf.VMConfig),
		[]string{conf.VMConfig}, 0, 1, 2, 3)
	return nil
}

// readDiskBoot collects what a boot through shim and GRUB measures.
func (m *Machine) readDiskBoot(ctx context.Context) (err error) {
	c := &m.conf
	own := m.in.Config.Platforms[m.name]
	if c.GPT == "" && c.Shim == "" && c.Grub == "" && own.BootOrder == nil && own.BootEntries == nil && (m.meta == nil || !m.meta.Indirect) {
		return nil
	}
	in := &tdxmeasure.Indirect{}
	m.indirect = in
	m.rest("boot", pipeline.OfText("from disk"), pipeline.Assumed, "the events of a boot from disk were read in a tool and never compared with a machine", nil, 0, 1, 2, 3, 4)
	if m.want == [5]bool{true} {
		return nil
	}
	for _, f := range []struct {
		file string
		to   *tdxmeasure.Input
	}{{c.Shim, &in.Shim}, {c.Grub, &in.Grub}} {
		if f.file == "" {
			continue
		}
		k, err := m.in.Reopen(ctx, f.file)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, k)
		*f.to = opened(k.Opened())
	}
	for _, f := range []struct {
		what string
		file *string
		to   *[]byte
	}{
		{"boot order", c.BootOrder, &in.BootOrder},
		{"MokList", c.MokList, &in.MokList},
		{"MokListX", c.MokListX, &in.MokListX},
		{"MokListTrusted", c.MokListTrusted, &in.MokListTrusted},
	} {
		if config.Or(f.file) == "" {
			m.problems = append(m.problems, pipeline.Problem{Level: pipeline.LevelNote, Code: "disk-boot", Msg: "no " + f.what + " was given: measured as empty"})
			continue
		}
		if *f.to, err = m.in.ReadFile(ctx, *f.file, config.ReplyLimit); err != nil {
			return err
		}
	}
	if in.GPT, err = m.partitionTable(ctx); err != nil {
		return err
	}
	in.Entries, err = m.bootEntries(ctx)
	return err
}

// diskBootHow says how the files of a boot from disk are given.
func (m *Machine) diskBootHow() string {
	how := tdxmeasure.NameFields("a boot from disk needs {gpt}, {shim}, {grub} and {initrd}", func(field, _ string) string { return m.say(field, "") })
	if m.meta != nil && m.meta.Disk != "" {
		how += "; files inside " + m.meta.Disk + " are not looked into: take them out and name them"
	}
	return how + "; the first takes a raw disk image, or its blocks from the partition table's header on"
}

// partitionTable reads the head of a disk from LBA 1 on.
func (m *Machine) partitionTable(ctx context.Context) ([]byte, error) {
	if m.conf.GPT == "" {
		return nil, nil
	}
	k, err := m.in.Reopen(ctx, m.conf.GPT)
	if err != nil {
		return nil, err
	}
	const block, head = 512, 1 << 20
	b := make([]byte, min(head, k.Opened().Size))
	if n, err := k.ReadAt(b, 0); n < len(b) {
		return nil, errors.Join(pipeline.NewInputError("read", m.conf.GPT, err), k.Close())
	}
	if len(b) > block+8 && string(b[:8]) != "EFI PART" && string(b[block:block+8]) == "EFI PART" {
		b = b[block:]
	}
	return b, k.Close()
}

// bootEntries reads BootXXXX.bin files, the raw values of boot variables that
// the boot order names.
func (m *Machine) bootEntries(ctx context.Context) (map[uint16][]byte, error) {
	dir := config.Or(m.conf.BootEntries)
	if dir == "" {
		return nil, nil
	}
	out := map[uint16][]byte{}
	order := m.indirect.BootOrder
	for ; len(order) >= 2; order = order[2:] {
		n := uint16(order[0]) | uint16(order[1])<<8
		name := fmt.Sprintf("%s/Boot%04X.bin", strings.TrimSuffix(dir, "/"), n)
		data, err := m.in.ReadFile(ctx, name, config.ReplyLimit)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a variable that does not exist is not measured
		}
		if err != nil {
			return nil, err
		}
		out[n] = data
	}
	return out, nil
}

// readLog reads the event log that the computed events are held against.
func (m *Machine) readLog(ctx context.Context) (*tdxmeasure.Replayed, error) {
	return run.Parsed(ctx, m.in, m.conf.Log, config.ReplyLimit, ParseLog)
}

// ParseLog reads an event log of a machine: CCEL, dstack's JSON, or a reply that
// holds it.
func ParseLog(name string, data []byte) (*tdxmeasure.Replayed, error) {
	data, err := tdxmeasure.EmbeddedLog(name, bytes.Clone(data))
	if err != nil {
		return nil, err
	}
	log, _, err := tdxmeasure.ReplayLog(name, data)
	return log, err
}

// keyProvider is what the aggregates hold for the key provider, and whether
// somebody said it.
func (m *Machine) keyProvider() (value []byte, known bool) {
	if m.provider != nil {
		return m.provider, true
	}
	if m.config.Profile.Aggregates != tdxmeasure.DstackAggregates {
		return make([]byte, digest.SHA256.Size()), true // the tool's own value
	}
	i := slices.IndexFunc(m.config.Events, func(e tdxmeasure.RuntimeEvent) bool { return e.Name == "key-provider" })
	if i < 0 {
		return tdxmeasure.KeyProviderDigest(nil).Bytes(), len(m.config.Events) > 0
	}
	for j := i + 1; j < len(m.config.Events); j++ { // the last one counts
		if m.config.Events[j].Name == "key-provider" {
			i = j
		}
	}
	return tdxmeasure.KeyProviderDigest(m.config.Events[i].Payload).Bytes(), true
}

// measure computes the registers that are asked for side by side, reading the
// kernel in one pass.
func (m *Machine) measure(ctx context.Context) (res *tdxmeasure.Result, errs [5]error, err error) {
	var want [5]bool
	for i := range want {
		want[i], _ = m.computes(i)
	}
	kernel := config.Or(m.conf.Kernel)
	if m.document != nil || m.indirect != nil || !want[2] || kernel == "" {
		res, errs = m.measureWith(ctx, want, tdxmeasure.Input{})
		return res, errs, ctx.Err()
	}
	err = m.in.ReadOnePass(ctx, kernel, func(o run.Opened) { res, errs = m.measureWith(ctx, want, opened(o)) })
	if res == nil {
		res = &tdxmeasure.Result{}
	}
	return res, errs, err
}

func (m *Machine) measureWith(ctx context.Context, want [5]bool, kernel tdxmeasure.Input) (*tdxmeasure.Result, [5]error) {
	a := m.artifacts
	a.Kernel = kernel
	measurer := tdxmeasure.New(a)
	whole := func(r *tdxmeasure.Result, err error) (*tdxmeasure.Result, [5]error) {
		var errs [5]error
		if err == nil {
			return r, errs
		}
		for i := range errs {
			if want[i] {
				errs[i] = err
			}
		}
		return &tdxmeasure.Result{}, errs
	}
	switch {
	case m.document != nil:
		r, err := m.document.Measurement.Measure(ctx, m.config.Profile, m.document, m.config.ACPI)
		if err == nil {
			tdxmeasure.AppendRuntime(&r.RTMRTrace[3], m.config.Events...)
			r.RTMR[3], err = r.RTMRTrace[3].Compute()
		}
		return whole(r, err)
	case m.indirect != nil && want != [5]bool{true}:
		return whole(measurer.MeasureIndirect(ctx, &m.config, *m.indirect))
	}
	r := &tdxmeasure.Result{Notes: m.config.Profile.Notes}
	var errs [5]error
	var wg sync.WaitGroup
	for i := range want {
		if !want[i] {
			continue
		}
		wg.Go(func() {
			t, err := measurer.Register(ctx, &m.config, i)
			var d digest.Digest
			if err == nil {
				d, err = t.Compute()
			}
			if errs[i] = err; err != nil {
				return
			}
			if i == 0 {
				r.MRTDTrace, r.MRTD = t, d
			} else {
				r.RTMRTrace[i-1], r.RTMR[i-1] = t, d
			}
		})
	}
	wg.Wait()
	return r, errs
}
