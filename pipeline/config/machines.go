package config

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/yamldoc"
)

// Policies says how runtime policies are computed (package policygen).
type Policies struct {
	// Rules is a rules.rego; empty means retally's own rules.
	Rules string `yaml:"rules,omitempty" json:"rules,omitempty"`
	// Settings is a genpolicy-settings.json or a folder with drop-ins.
	Settings string `yaml:"settings,omitempty" json:"settings,omitempty"`
	// ConfigFiles are further ConfigMaps and Secrets for environments.
	ConfigFiles []string `yaml:"config_files,omitempty" json:"config_files,omitempty"`
	// Profile names the generator whose result is computed: "retally" (the
	// default), "kata-4.1", "contrast-1.20", ...
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty"`
	// ImageBinding is for retally's own rules: annotation, guest_pull or off.
	ImageBinding string `yaml:"image_binding,omitempty" json:"image_binding,omitempty"`
	// Lenient accepts fields that no container can notice.
	Lenient bool `yaml:"lenient,omitempty" json:"lenient,omitempty"`
	// Published is where the vendor's own policies are, a file or a folder:
	// initdata documents, policies, annotation values or annotated YAML. They
	// say why a hash differs; each counts only if its digest is a published one.
	Published string `yaml:"published,omitempty" json:"published,omitempty"`
}

// Platform is a machine: the artifacts it boots and its shape.
type Platform struct {
	// TEE is "tdx" or "tpm". Others come with their rooms.
	TEE string `yaml:"tee" json:"tee"`
	// Profile is how hypervisor and firmware behave: secretvm, dstack, ...
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty"`
	// Metadata is a dstack or tdx-measure metadata file; fields given here win.
	Metadata string `yaml:"metadata,omitempty" json:"metadata,omitempty"`

	Firmware string `yaml:"firmware,omitempty" json:"firmware,omitempty"`
	Kernel   string `yaml:"kernel,omitempty" json:"kernel,omitempty"`
	Initrd   string `yaml:"initrd,omitempty" json:"initrd,omitempty"`
	// Cmdline is the kernel command line; "" is an empty one, none is unknown.
	Cmdline *string `yaml:"cmdline,omitempty" json:"cmdline,omitempty"`
	Memory  string  `yaml:"memory,omitempty" json:"memory,omitempty"` // "2G"
	VCPUs   int     `yaml:"vcpus,omitempty" json:"vcpus,omitempty"`
	GPUs    int     `yaml:"gpus,omitempty" json:"gpus,omitempty"`

	// QEMU is the hypervisor's version; what follows from it may be set after.
	QEMU        string `yaml:"qemu,omitempty" json:"qemu,omitempty"`
	PageOrder   string `yaml:"page_order,omitempty" json:"page_order,omitempty"`
	PatchKernel *bool  `yaml:"patch_kernel,omitempty" json:"patch_kernel,omitempty"`
	// PIC and COM1 say whether the machine has these devices; without them as
	// the profile has it.
	PIC  *bool `yaml:"pic,omitempty" json:"pic,omitempty"`
	COM1 *bool `yaml:"com1,omitempty" json:"com1,omitempty"`
	// ACPI is a tables file. ACPISource is "template", the built-in tables, and
	// the default where no file is given.
	ACPI       string `yaml:"acpi,omitempty" json:"acpi,omitempty"`
	ACPISource string `yaml:"acpi_source,omitempty" json:"acpi_source,omitempty"`

	Rootfs      string `yaml:"rootfs,omitempty" json:"rootfs,omitempty"`
	Compose     string `yaml:"compose,omitempty" json:"compose,omitempty"`
	DockerFiles string `yaml:"docker_files,omitempty" json:"docker_files,omitempty"`
	KeyProvider string `yaml:"key_provider,omitempty" json:"key_provider,omitempty"`
	AppID       string `yaml:"app_id,omitempty" json:"app_id,omitempty"` // hex

	// Expect are registers as the vendor prints them, by their names (mrtd,
	// rtmr0 to rtmr3, mr_aggregated, mr_image; pcr0 to pcr23), in hex.
	Expect map[string]string `yaml:"expect,omitempty" json:"expect,omitempty"`

	TPMMachine `yaml:",inline"`
}

// Evidence is a quote or a capture folder and what it is held against
// (package evidence).
type Evidence struct {
	// File is a quote, a saved page or a folder of `retally evidence capture`.
	File string `yaml:"file" json:"file"`
	// GPU is GPU evidence of the same machine.
	GPU     string `yaml:"gpu,omitempty" json:"gpu,omitempty"`
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty"`
	// Platform names the machine of `platforms` that the evidence is of.
	Platform string `yaml:"platform,omitempty" json:"platform,omitempty"`
	// At is the time (RFC 3339) at which certificates must be valid. There is
	// no default: a result must not depend on the day.
	At string `yaml:"at,omitempty" json:"at,omitempty"`

	Registry    string `yaml:"registry,omitempty" json:"registry,omitempty"`
	Compose     string `yaml:"compose,omitempty" json:"compose,omitempty"`
	DockerFiles string `yaml:"docker_files,omitempty" json:"docker_files,omitempty"`
	Rootfs      string `yaml:"rootfs,omitempty" json:"rootfs,omitempty"`
	AppID       string `yaml:"app_id,omitempty" json:"app_id,omitempty"` // hex
	// VMConfig is dstack's vm_config, where another than the one beside the quote
	// is to be taken, and OSImageHash the image that is expected (hex): without
	// it the document is only the sender's word.
	VMConfig    string `yaml:"vm_config,omitempty" json:"vm_config,omitempty"`
	OSImageHash string `yaml:"os_image_hash,omitempty" json:"os_image_hash,omitempty"`
	TLSCert     string `yaml:"tls_cert,omitempty" json:"tls_cert,omitempty"` // PEM or DER
	Nonce       string `yaml:"nonce,omitempty" json:"nonce,omitempty"`       // hex

	Collateral string   `yaml:"collateral,omitempty" json:"collateral,omitempty"`
	AcceptTCB  []string `yaml:"accept_tcb,omitempty" json:"accept_tcb,omitempty"`
	MRSEAM     []string `yaml:"mrseam,omitempty" json:"mrseam,omitempty"` // hex, the allow-list
	// IntelRoot is a certificate that is trusted in place of Intel's. Only for
	// tests and examples: every result says that it was used.
	IntelRoot string `yaml:"intel_root,omitempty" json:"intel_root,omitempty"`
}

// RulesName is the rules file, or the name of the built-in rules.
func (p *Policies) RulesName() string {
	if p.Rules != "" {
		return p.Rules
	}
	return OwnRules(p.ImageBinding)
}

// ParseAppID reads the app id of a key management service: 20 bytes in hex, nil
// where there is none.
func ParseAppID(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil || len(b) != 20 {
		return nil, fmt.Errorf("%.80q is no app id, want 40 hex digits", text)
	}
	return b, nil
}

// CheckAppID finds what is wrong with a field app_id.
func CheckAppID(text string, at At) error {
	if _, err := ParseAppID(text); err != nil {
		return at(err.Error(), "as the key service shows it, in quotation marks", "app_id")
	}
	return nil
}

// NearestHint proposes the known word that may be meant, or lists them.
func NearestHint(word string, known []string) string {
	switch near := yamldoc.Nearest(word, known); {
	case near != "":
		return fmt.Sprintf("did you mean %q?", near)
	case len(known) == 0:
		return "none is given"
	default:
		return "known: " + strings.Join(known, ", ")
	}
}
