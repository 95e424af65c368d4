package config

import (
	"reflect"
	"slices"
	"strings"
)

// TPMMachine is what the description of a machine with a TPM has of its own.
// Firmware, kernel, initrd, command line, memory and number of vCPUs are fields
// of every Platform.
type TPMMachine struct {
	// Banks are the banks whose PCRs are predicted: sha1, sha256 (the default),
	// sha384, sha512.
	Banks []string `yaml:"banks,omitempty" json:"banks,omitempty"`
	// Vars is the flash image of the firmware's variables. EmptyVars says that the
	// machine starts with an empty one; without either, those in the firmware's
	// file count, if it has them.
	Vars      string `yaml:"vars,omitempty" json:"vars,omitempty"`
	EmptyVars bool   `yaml:"empty_vars,omitempty" json:"empty_vars,omitempty"`
	// SecureBoot is asked for where no variables are given.
	SecureBoot *bool `yaml:"secure_boot,omitempty" json:"secure_boot,omitempty"`

	// What it boots beside a kernel: a unified kernel image, a disk's image, and
	// what the firmware starts before them. What a disk alone leads to is read
	// from it.
	UKI        string   `yaml:"uki,omitempty" json:"uki,omitempty"`
	Disk       string   `yaml:"disk,omitempty" json:"disk,omitempty"`
	Loader     string   `yaml:"loader,omitempty" json:"loader,omitempty"`
	LoaderConf string   `yaml:"loader_conf,omitempty" json:"loader_conf,omitempty"`
	Chain      []string `yaml:"chain,omitempty" json:"chain,omitempty"`
	// Pattern is how these lead to the kernel, where it does not follow from what
	// is given: direct, uki, sdboot-uki, sdboot-entry, shim-grub, chain.
	Pattern string `yaml:"pattern,omitempty" json:"pattern,omitempty"`

	// MachineType is QEMU's, q35 or pc. AddressBits are those of a physical
	// address.
	MachineType string `yaml:"machine_type,omitempty" json:"machine_type,omitempty"`
	AddressBits int    `yaml:"address_bits,omitempty" json:"address_bits,omitempty"`
	// FailedOptions is how many boot options came back before the one that booted.
	FailedOptions int `yaml:"failed_options,omitempty" json:"failed_options,omitempty"`

	// Systemd is the version of systemd-boot and its stub, 252 or 257. InnerKernel
	// says whether firmware measures the kernel inside a unified kernel image.
	// Phases are the words of boot phases in PCR 11. Credentials says that there
	// are credentials or extensions beside the image.
	Systemd     string   `yaml:"systemd,omitempty" json:"systemd,omitempty"`
	InnerKernel *bool    `yaml:"inner_kernel,omitempty" json:"inner_kernel,omitempty"`
	Phases      []string `yaml:"phases,omitempty" json:"phases,omitempty"`
	Credentials bool     `yaml:"credentials,omitempty" json:"credentials,omitempty"`
	// IMA is what the kernel records in PCR 10: off, ima-sig or ima-ng. IMAPads
	// says that it starts without SHA-384 and SHA-512.
	IMA     string `yaml:"ima,omitempty" json:"ima,omitempty"`
	IMAPads *bool  `yaml:"ima_pads,omitempty" json:"ima_pads,omitempty"`
	// SBATLevel are the lines of the SbatLevel that shim has in force.
	SBATLevel []string `yaml:"sbat_level,omitempty" json:"sbat_level,omitempty"`

	// AppDisk is the image of the disk with the application (BlindLlama), AppRoot
	// its dm-verity root hash in hex, and AppCA the certificate of the web server's
	// CA as PEM: PCR 15 has the root hash and the CA.
	AppDisk string `yaml:"app_disk,omitempty" json:"app_disk,omitempty"`
	AppRoot string `yaml:"app_root,omitempty" json:"app_root,omitempty"`
	AppCA   string `yaml:"app_ca,omitempty" json:"app_ca,omitempty"`

	// Golden is a file of golden measurements, as BlindLlama publishes it.
	Golden string `yaml:"golden,omitempty" json:"golden,omitempty"`
}

// OtherFields lists the fields that are set and that are not among those of
// machines with a TPM: nothing would come of them.
func OtherFields(p *Platform, shared []string) []string {
	return slices.DeleteFunc(fieldsSet(reflect.ValueOf(*p)), func(name string) bool { return slices.Contains(shared, name) })
}

// fieldsSet lists the fields of a struct that are set, without inline ones.
func fieldsSet(v reflect.Value) []string {
	var names []string
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if options != "inline" && !v.Field(i).IsZero() {
			names = append(names, name)
		}
	}
	return names
}
