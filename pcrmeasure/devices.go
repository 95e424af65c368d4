package pcrmeasure

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/gpt"
	"github.com/retally/retally/trace"
)

//go:embed data/devices.json
var devicesJSON []byte

// DeviceSet is a set of devices whose boot options were observed. Firmware
// makes them up from the devices that it finds; PCR 1 has their values.
type DeviceSet struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Source  string `json:"source"`
	Options []struct {
		Variable string `json:"variable"`
		Value    string `json:"value_hex"`
	} `json:"options"`
}

// DeviceSets are the built-in device sets.
func DeviceSets() ([]DeviceSet, error) {
	var list []DeviceSet
	if err := json.Unmarshal(devicesJSON, &list); err != nil {
		return nil, fmt.Errorf("read built-in device sets: %w", err)
	}
	return list, nil
}

// pcr1 is a labelled constant: boot options as observed with a device set. It
// is assumed, and a verdict must not count it.
func (r *run) pcr1(g *register) error {
	list, err := DeviceSets()
	if err != nil {
		return err
	}
	names := make([]string, len(list))
	for i, d := range list {
		names[i] = d.Name
	}
	if r.c.Devices == "" {
		return missing("PCR 1 has the boot options that firmware makes up from the devices: name a device set (%s) to have the constant that was observed, which is not counted", strings.Join(names, ", "))
	}
	i := slices.Index(names, r.c.Devices)
	if i < 0 {
		return missing("device set %q is not known, want one of %s", r.c.Devices, strings.Join(names, ", "))
	}
	for _, o := range list[i].Options {
		b, err := hex.DecodeString(o.Value)
		if err != nil {
			return fmt.Errorf("read built-in device set %s: %s: %w", list[i].Name, o.Variable, err)
		}
		// edk2 2022.11 measures a boot variable's value alone.
		g.trace.Add("constant: "+o.Variable, r.c.Bank.Sum(b), trace.Origin{Input: "device set " + list[i].Name, Size: int64(len(b))})
	}
	g.separator()
	g.basis = Assumed
	g.note("boot options as observed with %s", list[i].Title)
	r.finding(AssumedConstant, 1, "PCR 1 is a constant observed with %s, not a value of the artifacts", list[i].Title)
	return nil
}

// gptEvent reads the partition table of the disk that is booted.
func (r *run) gptEvent() ([]byte, error) {
	if r.Disk.R == nil {
		return nil, missing("the disk is not given (--disk FILE): PCR 5 has its partition table")
	}
	t, err := gpt.Read(r.Disk.R, r.Disk.Size, gpt.Options{HeadOnly: true})
	if err != nil {
		return nil, inFile(r.Disk.Name, err)
	}
	return t.Event(), nil
}
