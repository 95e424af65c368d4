package tdxmeasure_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// TestVectorMetadataShapes: the machine that a fixture's metadata describes
// has the tables that were captured on it.
func TestVectorMetadataShapes(t *testing.T) {
	f := newFiles(t)
	var v struct{ Vectors []run }
	readJSON(t, filepath.Join(f.dir, "oracle_runs.json"), &v)
	n := 0
	for _, r := range v.Vectors {
		if r.Kind != "tdx-measure-fixture" {
			continue
		}
		meta, err := tdxmeasure.ParseMetadata("metadata.json", r.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		shape, ok, err := meta.Shape()
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", r.ID, ok, err)
		}
		n++
		shape.Family = acpi.Family100
		got, err := templateSource(t).Tables(context.Background(), shape)
		if err != nil {
			t.Fatal(err)
		}
		want, err := f.acpi(t, r.Blob).Tables(context.Background(), shape)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Tables, want.Tables) {
			t.Errorf("%s: the tables of %s are not the captured ones", r.ID, shape)
		}
	}
	if n != 2 {
		t.Errorf("%d fixtures with a machine, want 2", n)
	}
}

func TestMetadataShapes(t *testing.T) {
	for name, c := range map[string]struct {
		qemu  string
		want  string
		fails bool
	}{
		"none":         {`null`, "", false},
		"defaults":     {`{"machine": "q35"}`, "QEMU 10.0 tables, 2 vCPUs, 2048 MiB, PIC, SMM, HPET, no COM1", false},
		"addresses":    {`{"machine": "q35,smm=off,pic=off,hpet=off", "devices": ["a,addr=0x2", "b", "c"]}`, "QEMU 10.0 tables, 2 vCPUs, 2048 MiB, 3 devices, no COM1", false},
		"type":         {`{"machine": "type=q35,pic=off,smm=off,hpet=off"}`, "QEMU 10.0 tables, 2 vCPUs, 2048 MiB, no COM1", false},
		"other":        {`{"machine": "pc"}`, "", true},
		"twice":        {`{"machine": "q35", "devices": ["a,addr=2", "b,addr=0x2"]}`, "", true},
		"far":          {`{"machine": "q35", "devices": ["a,addr=0x1f"]}`, "", true},
		"port":         {`{"machine": "q35", "devices": ["pcie-root-port,id=p"]}`, "", true},
		"another bus":  {`{"machine": "q35", "devices": ["virtio-rng-pci,bus=p"]}`, "", true},
		"hole":         {`{"machine": "q35", "globals": ["q35-pcihost.pci-hole64-size=x"]}`, "", true},
		"hole size":    {`{"machine": "q35,smm=off,pic=off,hpet=off", "globals": ["q35-pcihost.pci-hole64-size=64G"]}`, "QEMU 10.0 tables, 2 vCPUs, 2048 MiB, no COM1, 64 GiB PCI hole", false},
		"hot-plug off": {`{"machine": "q35,smm=off,pic=off,hpet=off", "globals": ["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]}`, "QEMU 10.0 tables, 2 vCPUs, 2048 MiB, no COM1, PCI hot-plug off", false},
	} {
		doc := `{"boot_config": {"cpus": 2, "memory": "2G", "bios": "x", "qemu": ` + c.qemu + `}, "direct": {"kernel": "k"}}`
		meta, err := tdxmeasure.ParseMetadata("m", []byte(doc))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s, ok, err := meta.Shape()
		if (err != nil) != c.fails || ok != (c.want != "") {
			t.Errorf("%s: got %v, %v", name, ok, err)
			continue
		}
		s.Family = acpi.Family100
		if ok && s.String() != c.want {
			t.Errorf("%s: got %s, want %s", name, s, c.want)
		}
	}
}
