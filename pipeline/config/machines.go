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
	// Initdata is a document to put the policy into; without it an empty one.
	Initdata string `yaml:"initdata,omitempty" json:"initdata,omitempty"`
	// IgnoreUnknown accepts every unknown field, as genpolicy -s does: the policy
	// may then say less than the YAML.
	IgnoreUnknown bool `yaml:"ignore_unknown,omitempty" json:"ignore_unknown,omitempty"`
	// Published is where the vendor's own policies are, a file or a folder:
	// initdata documents, policies, annotation values or annotated YAML. They
	// say why a hash differs; each counts only if its digest is a published one.
	Published string `yaml:"published,omitempty" json:"published,omitempty"`
}

// Evidence is what a machine showed and what it is held against (package
// evidence). Every field but Platform is a flag of `evidence verify`, too.
// Wherever a file is only hashed, its digest as sha256:HEX may stand.
type Evidence struct {
	// File is a quote, a saved page or a folder of `retally evidence capture`.
	File string `yaml:"file" json:"file"`
	// Also are further files and captures of the same machine: the evidence of its
	// GPUs, the same quote as another connection showed it.
	Also []string `yaml:"also,omitempty" json:"also,omitempty"`
	// GPU is an old name for one of Also.
	GPU     string `yaml:"gpu,omitempty" json:"gpu,omitempty"`
	Profile string `yaml:"profile,omitempty" json:"profile,omitempty"`
	// Platform names the machine of `platforms` that the evidence is of.
	Platform string `yaml:"platform,omitempty" json:"platform,omitempty"`
	// At is the time (RFC 3339) at which certificates must be valid. There is
	// no default: a result must not depend on the day.
	At string `yaml:"at,omitempty" json:"at,omitempty"`
	// Only names the verdicts that are asked for: authentic, expected, bound.
	Only []string `yaml:"only,omitempty" json:"only,omitempty"`

	Registry    string `yaml:"registry,omitempty" json:"registry,omitempty"`
	Compose     string `yaml:"compose,omitempty" json:"compose,omitempty"`
	DockerFiles string `yaml:"docker_files,omitempty" json:"docker_files,omitempty"`
	Rootfs      string `yaml:"rootfs,omitempty" json:"rootfs,omitempty"`
	AppID       string `yaml:"app_id,omitempty" json:"app_id,omitempty"` // hex
	// Manifest is a Contrast manifest; by default the one that the whole run is
	// compared with.
	Manifest string `yaml:"manifest,omitempty" json:"manifest,omitempty"`
	// Measured are files that `tdx measure -o json` wrote.
	Measured []string `yaml:"measured,omitempty" json:"measured,omitempty"`
	// Registers in hex that hold together.
	MRTD  string `yaml:"mrtd,omitempty" json:"mrtd,omitempty"`
	RTMR0 string `yaml:"rtmr0,omitempty" json:"rtmr0,omitempty"`
	RTMR1 string `yaml:"rtmr1,omitempty" json:"rtmr1,omitempty"`
	RTMR2 string `yaml:"rtmr2,omitempty" json:"rtmr2,omitempty"`
	RTMR3 string `yaml:"rtmr3,omitempty" json:"rtmr3,omitempty"`
	// Measurement are launch digests (hex) of an SEV-SNP machine that are expected,
	// HostData what the host must have bound to it (hex).
	Measurement []string `yaml:"measurement,omitempty" json:"measurement,omitempty"`
	HostData    string   `yaml:"host_data,omitempty" json:"host_data,omitempty"`
	// VMConfig is dstack's vm_config, where another than the one beside the quote
	// is to be taken, and OSImageHash the image that is expected (hex): without
	// it the document is only the sender's word.
	VMConfig    string `yaml:"vm_config,omitempty" json:"vm_config,omitempty"`
	OSImageHash string `yaml:"os_image_hash,omitempty" json:"os_image_hash,omitempty"`
	// Golden are SHA-256 values of PCRs as BlindLlama's release has them, EventLog the
	// firmware's log where another than the one beside a TPM's quote is to be
	// replayed, AppRoot the root hash (hex) of BlindLlama's application disk.
	Golden   string `yaml:"golden,omitempty" json:"golden,omitempty"`
	EventLog string `yaml:"event_log,omitempty" json:"event_log,omitempty"`
	AppRoot  string `yaml:"app_root,omitempty" json:"app_root,omitempty"`
	// Of Contrast: Workload names the policy of the manifest that the guest must have,
	// Earlier are the manifests that were in force before, oldest first, OwnerKey key
	// files that the manifest must name. Capabilities is the body of /capabilities
	// that came before the answer.
	Workload     string   `yaml:"workload,omitempty" json:"workload,omitempty"`
	Earlier      []string `yaml:"earlier,omitempty" json:"earlier,omitempty"`
	OwnerKey     []string `yaml:"owner_key,omitempty" json:"owner_key,omitempty"`
	Capabilities string   `yaml:"capabilities,omitempty" json:"capabilities,omitempty"`
	TLSCert      string   `yaml:"tls_cert,omitempty" json:"tls_cert,omitempty"` // PEM or DER
	Nonce        string   `yaml:"nonce,omitempty" json:"nonce,omitempty"`       // hex

	// Require are demands on a TDX machine beside its registers, each NAME=VALUE.
	Require []string `yaml:"require,omitempty" json:"require,omitempty"`

	// Collateral is Intel's collateral: one file with all of it, a folder, or the
	// replies of Intel's service file by file.
	Collateral Files    `yaml:"collateral,omitempty" json:"collateral,omitempty"`
	AcceptTCB  []string `yaml:"accept_tcb,omitempty" json:"accept_tcb,omitempty"`
	MRSEAM     []string `yaml:"mrseam,omitempty" json:"mrseam,omitempty"` // hex, the allow-list
	// ServiceTD are the MRSERVICETD values (hex) of the service TDs to accept.
	ServiceTD []string `yaml:"service_td,omitempty" json:"service_td,omitempty"`
	// VCEK and Certs are certificates of an AMD processor for a report that came
	// without them, CRL AMD's revocation list; Roots replace AMD's own (ARK, ASK and
	// ASVK in PEM), for tests and examples only. For a TPM they are the roots that
	// its key's certificates may lead to.
	VCEK  string `yaml:"vcek,omitempty" json:"vcek,omitempty"`
	Certs string `yaml:"certs,omitempty" json:"certs,omitempty"`
	CRL   string `yaml:"crl,omitempty" json:"crl,omitempty"`
	Roots string `yaml:"roots,omitempty" json:"roots,omitempty"`
	// AK is the attestation key of a TPM: a key is trusted as it is, a certificate
	// must lead to a root.
	AK string `yaml:"ak,omitempty" json:"ak,omitempty"`
	// IntelRoot and NVIDIARoot are certificates that are trusted in place of the
	// vendors'. Only for tests and examples: every result says that they were used.
	IntelRoot  string `yaml:"intel_root,omitempty" json:"intel_root,omitempty"`
	NVIDIARoot string `yaml:"nvidia_root,omitempty" json:"nvidia_root,omitempty"`

	// Senders are the files of these that came with the evidence, and so are its
	// sender's word. Whoever puts the configuration together without asking the
	// user sets it; in a file of the user's it has no place.
	Senders []string `yaml:"-" json:"senders,omitempty"`
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

// Shown is how an input is called in results.
func Shown(name string) string {
	if name == "-" {
		return "stdin"
	}
	return name
}
