package tdx

import (
	"fmt"
	"strconv"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/tdxmeasure/reproducemr"
)

// Reproduced describes the machine that the flags of reproduce-mr do.
func Reproduced(o *reproducemr.Options) (config.Platform, error) {
	order, err := o.PageOrder()
	if err != nil {
		return config.Platform{}, err
	}
	p := config.Platform{
		TEE: "tdx", Profile: "reproduce-mr", Firmware: &o.Firmware, Kernel: &o.Kernel, Initrd: &o.Initrd, Cmdline: &o.Cmdline, Memory: strconv.FormatUint(o.Memory, 10),
		VCPUs: config.Counts{o.VCPUs}, Rootfs: o.Rootfs, Compose: o.Compose, DockerFiles: o.DockerFiles, KeyProvider: o.KeyProvider, PageOrder: string(order), ACPI: o.ACPI, ACPIFamily: o.QEMUFamily,
	}
	if o.PIC {
		p.PIC = &o.PIC
	}
	if o.NoCOM1 {
		p.COM1 = new(false)
	}
	return p, nil
}

// ReproduceName is reproduce-mr's name of a field.
func ReproduceName(field string) string { return reproduceNames[field] }

var reproduceNames = map[string]string{
	"firmware": "fw", "kernel": "kernel", "initrd": "initrd", "cmdline": "cmdline", "memory": "memory", "vcpus": "cpu", "rootfs": "rootfs", "compose": "dockercompose",
	"docker_files": "dockerfiles", "key_provider": "mrkp", "page_order": "tcbver", "acpi": "acpi", "acpi_family": "acpi-family", "pic": "pic", "com1": "no-com1",
}

// ReproduceOutput takes the values that reproduce-mr prints out of a report; it
// prints all of them or none.
func ReproduceOutput(rep *pipeline.Report) (*reproducemr.Output, error) {
	out := new(reproducemr.Output)
	to := map[string]*string{
		"mrtd": &out.MRTD, "rtmr0": &out.RTMR0, "rtmr1": &out.RTMR1, "rtmr2": &out.RTMR2, "rtmr3": &out.RTMR3, "mr_aggregated": &out.Aggregated, "mr_image": &out.Image,
	}
	for _, m := range rep.Measurements {
		if value, ok := to[RegisterOf(m.Key)]; ok {
			*value = m.Value.Digest().Hex()
		}
	}
	for name, value := range to {
		if *value == "" {
			return nil, fmt.Errorf("%s could not be computed", name)
		}
	}
	return out, nil
}
