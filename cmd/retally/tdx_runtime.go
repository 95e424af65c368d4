package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/tdxmeasure"
)

// setRuntime reads what extends RTMR3, and what only the aggregates hold.
func (m *tdMachine) setRuntime() error {
	f, c := &m.f, &m.config
	var err error
	if f.appID != "" {
		if c.AppID, err = config.ParseAppID(f.appID); err != nil {
			return m.usage("", "--app-id: %v", err)
		}
	}
	if f.keyProvider != "" {
		if m.provider, err = tdxmeasure.ParseKeyProvider(f.keyProvider); err != nil {
			return err
		}
		if m.isDstack() && len(m.provider) != 32 {
			return m.usage("none, sgx-v0 or 64 hex digits", "--key-provider %.80s: %d bytes, dstack's mr_key_provider has 32", f.keyProvider, len(m.provider))
		}
	}
	if err := m.readEvents(); err != nil {
		return err
	}
	if len(c.Events) > 0 && c.Profile.RTMR3 != tdxmeasure.RTMR3Events {
		return m.usage("add --rtmr3 events", "events are given, but the profile %s extends RTMR3 by the rule %q", c.Profile.Name, c.Profile.RTMR3)
	}
	if err := m.setConfigID(); err != nil {
		return err
	}
	return m.useDocument()
}

func (m *tdMachine) readEvents() error {
	f, c := &m.f, &m.config
	if f.eventVersion != 1 && f.eventVersion != 2 {
		return m.usage("", "--event-version %d: want 1 or 2", f.eventVersion)
	}
	if f.eventLog != "" {
		data, err := m.small("event-log", f.eventLog)
		if err != nil {
			return err
		}
		log, err := eventlog.ParseJSON(f.eventLog, embedded(data, "event_log"))
		if err != nil {
			return err
		}
		for i := range log.Events {
			if e := &log.Events[i]; e.Register == 3 && e.Type == eventlog.DstackRuntime {
				c.Events = append(c.Events, tdxmeasure.RuntimeEvent{Name: e.Name, Payload: e.Data, Version: e.Version})
			}
		}
		m.eventsFromLog = true
	}
	for _, text := range f.events {
		name, payload, _ := strings.Cut(text, "=")
		b, err := hex.DecodeString(payload)
		if err != nil || name == "" {
			return m.usage("for instance --event app-id=00112233", "--event %.80q: want NAME or NAME=HEX", text)
		}
		c.Events = append(c.Events, tdxmeasure.RuntimeEvent{Name: name, Payload: b, Version: f.eventVersion})
	}
	return nil
}

var keyProviderKinds = map[string]tdxmeasure.KeyProviderKind{
	"none": tdxmeasure.KeyProviderNone, "local": tdxmeasure.KeyProviderLocal, "kms": tdxmeasure.KeyProviderKMS, "tpm": tdxmeasure.KeyProviderTPM,
}

// setConfigID reads MRCONFIGID, or makes it as dstack does.
func (m *tdMachine) setConfigID() error {
	text := m.f.configID
	if text == "" {
		return nil
	}
	bad := func(why string) error {
		return m.usage("", "--mr-config-id %.120s: %s", text, why)
	}
	kind, rest, _ := strings.Cut(text, ":")
	compose := [32]byte{}
	if kind == "v1" || kind == "v2" {
		if !m.artifacts.Compose.Present() {
			return bad("needs --docker-compose (app-compose.json)")
		}
		d, err := m.artifacts.Compose.Sum(context.Background(), digest.SHA256)
		if err != nil {
			return err
		}
		copy(compose[:], d.Bytes())
	}
	switch kind {
	case "v1":
		m.configID = tdxmeasure.ConfigIDV1(compose)
	case "v2":
		name, id, _ := strings.Cut(rest, ":")
		k, ok := keyProviderKinds[name]
		b, err := hex.DecodeString(id)
		if !ok || err != nil {
			return bad("want v2:KIND or v2:KIND:HEX, KIND one of none, local, kms, tpm")
		}
		app := tdxmeasure.DefaultAppID(compose)
		copy(app[:], m.config.AppID)
		m.configID = tdxmeasure.ConfigIDV2(compose, app, k, b)
	case "v3":
		doc, err := m.small("mr-config-id", rest)
		if err != nil {
			return err
		}
		m.configID = tdxmeasure.ConfigIDV3(doc)
	default:
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(m.configID) {
			return bad("want 96 hex digits, v1, v2:KIND[:HEX] or v3:FILE")
		}
		copy(m.configID[:], b)
	}
	return nil
}

// documentFixes are flags whose events a measurement document has fixed.
var documentFixes = []string{
	"initrd", "cmdline", "cfv", "hob", "read-on", "exclude-acpi-tables", "trailing-separator", "six-table-loader", "patch-kernel", "header-rule",
	"authenticode", "initrd-argument", "no-initrd",
}

// useDocument lets vm_config's measurement document stand in for the image's
// files where none are given.
func (m *tdMachine) useDocument() error {
	v, f, c := m.vmConfig, &m.f, &m.config
	if v == nil || v.Measurement == nil || f.firmware != "" || f.kernel != "" {
		return nil
	}
	if c.Profile.Name != "dstack" {
		return m.usage("give the image's files with --firmware, --kernel and --initrd", "the measurement document of --vm-config is for the profile dstack, not %s", c.Profile.Name)
	}
	if flag := f.anyGiven(documentFixes...); flag != "" {
		return m.usage("give the image's files with --firmware, --kernel and --initrd", "--%s: fixed by the measurement document of --vm-config", flag)
	}
	if c.Profile.PageOrder == tdxmeasure.RawExtend {
		return m.usage("single or two-pass", "--page-order raw-extend: the measurement document has only the other two")
	}
	doc := *v
	twoPass, pic := c.Profile.PageOrder == tdxmeasure.TwoPass, c.Profile.PIC
	doc.VCPUs, doc.Memory, doc.QEMU, doc.TwoPass, doc.PIC = c.VCPUs, c.Memory, "", &twoPass, &pic
	doc.Devices = c.Devices
	doc.Devices.Family = c.Profile.ACPIFamily
	m.document = &doc
	m.notes = append(m.notes, fmt.Sprintf("MRTD and the events of kernel, command line and initrd are those of the measurement document in %s; give the image's files to recompute them", f.vmConfig))
	return nil
}
