package config

// Platform is a machine: what it boots, its shape, and how hypervisor and
// firmware behave. It is the one description of a machine: retally.yaml fills it
// by the yaml names below, a verb by flags of the same names with "-" in place
// of "_".
//
// A field that is not given is not known. Where a machine may be without
// something, the field is a pointer, and an empty text says that it is: such a
// field is given, and wins over metadata.
type Platform struct {
	// TEE is "tdx". Others come with their rooms.
	TEE string `yaml:"tee" json:"tee"`
	// Profile is how hypervisor and firmware behave: secretvm, dstack, ..., or a
	// file in the same form.
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty"`
	// Metadata is a dstack or tdx-measure metadata file, VMConfig dstack's
	// vm_config or the reply that holds it; fields given here win.
	Metadata string `yaml:"metadata,omitempty" json:"metadata,omitempty"`
	VMConfig string `yaml:"vm_config,omitempty" json:"vm_config,omitempty"`

	// What it boots.
	Firmware *string `yaml:"firmware,omitempty" json:"firmware,omitempty"`
	Kernel   *string `yaml:"kernel,omitempty" json:"kernel,omitempty"`
	Initrd   *string `yaml:"initrd,omitempty" json:"initrd,omitempty"`
	Cmdline  *string `yaml:"cmdline,omitempty" json:"cmdline,omitempty"`
	NoInitrd bool    `yaml:"no_initrd,omitempty" json:"no_initrd,omitempty"`

	// Its shape.
	Memory string `yaml:"memory,omitempty" json:"memory,omitempty"` // "2G"
	// VCPUs is one number for a TDX machine; an SNP machine may have a list.
	VCPUs Counts `yaml:"vcpus,omitempty" json:"vcpus,omitempty"`
	// ACPI is a tables file. ACPISource is "template", the built-in tables, and
	// the default where no file is given, or "qemu".
	ACPI       string `yaml:"acpi,omitempty" json:"acpi,omitempty"`
	ACPISource string `yaml:"acpi_source,omitempty" json:"acpi_source,omitempty"`
	ACPIFamily string `yaml:"acpi_family,omitempty" json:"acpi_family,omitempty"`

	// Its devices. Devices is a layout or a number of devices; Slots and
	// RootPorts stand in place of it.
	Devices    string `yaml:"devices,omitempty" json:"devices,omitempty"`
	Slots      []int  `yaml:"slots,omitempty" json:"slots,omitempty"`
	RootPorts  []int  `yaml:"root_ports,omitempty" json:"root_ports,omitempty"`
	GPUs       *int   `yaml:"gpus,omitempty" json:"gpus,omitempty"`
	NICs       *int   `yaml:"nics,omitempty" json:"nics,omitempty"`
	Volumes    *int   `yaml:"volumes,omitempty" json:"volumes,omitempty"`
	NVSwitches *int   `yaml:"nvswitches,omitempty" json:"nvswitches,omitempty"`
	HugePages  *bool  `yaml:"hugepages,omitempty" json:"hugepages,omitempty"`
	NoRootDisk *bool  `yaml:"no_root_disk,omitempty" json:"no_root_disk,omitempty"`
	PIC        *bool  `yaml:"pic,omitempty" json:"pic,omitempty"`
	COM1       *bool  `yaml:"com1,omitempty" json:"com1,omitempty"`
	SMM        *bool  `yaml:"smm,omitempty" json:"smm,omitempty"`
	HPET       *bool  `yaml:"hpet,omitempty" json:"hpet,omitempty"`
	HotplugOff *bool  `yaml:"hotplug_off,omitempty" json:"hotplug_off,omitempty"`
	NUMA       *bool  `yaml:"numa,omitempty" json:"numa,omitempty"`
	PXB        *bool  `yaml:"pxb,omitempty" json:"pxb,omitempty"`
	AMDCPU     *bool  `yaml:"amd_cpu,omitempty" json:"amd_cpu,omitempty"`
	PCIHole64  string `yaml:"pci_hole64,omitempty" json:"pci_hole64,omitempty"`

	// How hypervisor and firmware behave, where it is not as the profile says.
	// QEMU is the hypervisor's version; what follows from it may be set after.
	QEMU              string `yaml:"qemu,omitempty" json:"qemu,omitempty"`
	PageOrder         string `yaml:"page_order,omitempty" json:"page_order,omitempty"`
	ReadOn            *bool  `yaml:"read_on,omitempty" json:"read_on,omitempty"`
	CFV               string `yaml:"cfv,omitempty" json:"cfv,omitempty"`
	HOB               string `yaml:"hob,omitempty" json:"hob,omitempty"`
	ExcludeACPITables *bool  `yaml:"exclude_acpi_tables,omitempty" json:"exclude_acpi_tables,omitempty"`
	TrailingSeparator *bool  `yaml:"trailing_separator,omitempty" json:"trailing_separator,omitempty"`
	SixTableLoader    *bool  `yaml:"six_table_loader,omitempty" json:"six_table_loader,omitempty"`
	PatchKernel       *bool  `yaml:"patch_kernel,omitempty" json:"patch_kernel,omitempty"`
	HeaderRule        string `yaml:"header_rule,omitempty" json:"header_rule,omitempty"`
	Authenticode      string `yaml:"authenticode,omitempty" json:"authenticode,omitempty"`
	InitrdArgument    string `yaml:"initrd_argument,omitempty" json:"initrd_argument,omitempty"`

	// What runs in it: what extends RTMR3, and what only the aggregates hold.
	RTMR3        string   `yaml:"rtmr3,omitempty" json:"rtmr3,omitempty"`
	Rootfs       string   `yaml:"rootfs,omitempty" json:"rootfs,omitempty"`
	Compose      string   `yaml:"compose,omitempty" json:"compose,omitempty"`
	DockerFiles  string   `yaml:"docker_files,omitempty" json:"docker_files,omitempty"`
	KeyProvider  string   `yaml:"key_provider,omitempty" json:"key_provider,omitempty"`
	AppID        string   `yaml:"app_id,omitempty" json:"app_id,omitempty"` // hex
	MRConfigID   string   `yaml:"mr_config_id,omitempty" json:"mr_config_id,omitempty"`
	Events       []string `yaml:"events,omitempty" json:"events,omitempty"` // NAME or NAME=HEX
	EventLog     string   `yaml:"event_log,omitempty" json:"event_log,omitempty"`
	EventVersion *int     `yaml:"event_version,omitempty" json:"event_version,omitempty"`

	// A boot from disk.
	GPT            string  `yaml:"gpt,omitempty" json:"gpt,omitempty"`
	Shim           string  `yaml:"shim,omitempty" json:"shim,omitempty"`
	Grub           string  `yaml:"grub,omitempty" json:"grub,omitempty"`
	BootOrder      *string `yaml:"boot_order,omitempty" json:"boot_order,omitempty"`
	BootEntries    *string `yaml:"boot_entries,omitempty" json:"boot_entries,omitempty"`
	MokList        *string `yaml:"mok_list,omitempty" json:"mok_list,omitempty"`
	MokListX       *string `yaml:"mok_list_x,omitempty" json:"mok_list_x,omitempty"`
	MokListTrusted *string `yaml:"mok_list_trusted,omitempty" json:"mok_list_trusted,omitempty"`

	// Expect are registers as the vendor prints them, by their names (mrtd,
	// rtmr0 to rtmr3, mr_aggregated, mr_image), in hex. Given are registers that
	// are taken as they are, for the aggregates. Log is an event log that the
	// computed events are held against.
	Expect map[string]string `yaml:"expect,omitempty" json:"expect,omitempty"`
	Given  map[string]string `yaml:"given,omitempty" json:"given,omitempty"`
	Log    string            `yaml:"log,omitempty" json:"log,omitempty"`

	SNPMachine `yaml:",inline"`
	TPMMachine `yaml:",inline"`
}

// Or returns what a field holds, or the zero value where it is not given.
func Or[T any](field *T) T {
	var none T
	if field == nil {
		return none
	}
	return *field
}
