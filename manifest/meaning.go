package manifest

// Order says in which direction a value becomes stricter.
type Order uint8

// The orders.
const (
	OrderNone     Order = iota // only equality: a measurement, a name, a hash
	HigherTighter              // a minimum: a higher number trusts less
	FewerTighter               // a list of what is allowed: fewer elements trust less
	OnLoosens                  // a boolean that permits something
	OnTightens                 // a boolean that demands something
)

var orderNames = [...]string{"equality", "higher is tighter", "fewer is tighter", "true loosens", "true tightens"}

func (o Order) String() string { return nameOf(orderNames[:], int(o)) }

// Origin says where a value comes from, and so when it may differ without harm.
type Origin uint8

// The origins.
const (
	OriginUnknown   Origin = iota // a field this program does not know
	FromRelease                   // follows from the Contrast release and the deployment's source
	PerDeployment                 // carries the namespace, directly or through a hash
	PerRun                        // made anew by each `contrast generate`
	OperatorsChoice               // filled in by the operator
)

var originNames = [...]string{"unknown", "release", "deployment", "run", "operator"}

func (o Origin) String() string { return nameOf(originNames[:], int(o)) }

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "invalid"
}

// Meaning classifies a field for whoever compares two manifests.
type Meaning struct {
	Order  Order
	Origin Origin
	// EmptyIsAny: an empty list allows everything, so it is the loosest, not
	// the tightest, value.
	EmptyIsAny bool
	// Default is the Normalized form that an absent field is equal to, "" if
	// absence is a difference of its own.
	Default string
	// PresenceLoosens: the entry that this field stands for (a policy, a
	// reference value) widens what is trusted by being there.
	PresenceLoosens bool
	Words           string // what the field is, for people
}

// kind is the JSON shape a field must have.
type kind uint8

const (
	kObject kind = iota + 1
	kText
	kHex     // even number of hex digits, size bytes
	kHexList // set of kHex
	kTexts   // set of texts
	kRegs    // list of kHex whose order counts
	kBool
	kUint // whole number, at most max
)

// fieldSpec is one row of the field table: what may stand at a place and what
// it means.
type fieldSpec struct {
	path    string // without list indexes and hashes
	as      string // path used for joining where it differs (old spellings)
	kind    kind
	size    int // bytes of kHex
	max     uint64
	meaning Meaning
}

// fieldTable holds every field of every version. Shapes: Contrast
// internal/manifest (manifest.go, referencevalues.go), as stored publicly.
// Directions of GuestPolicy and PlatformInfo: go-sev-guest validate.go, where
// "unauthorized" capabilities are permitted by true and "required" ones
// demanded by it. Directions of the TDX booleans: Contrast TDXValidateOpts.
//
// TIOEnabled was seen in the manifest's shape but in no check: equality only.
var fieldTable = []fieldSpec{
	{path: "Policies", kind: kObject},
	{path: "ReferenceValues", kind: kObject},
	{path: "ReferenceValues/snp", kind: kObject},
	{path: "ReferenceValues/tdx", kind: kObject},
	{path: "ReferenceValues/SNP", kind: kObject}, // 0.7
	{path: "ReferenceValues/TrustedMeasurement", as: "snp/TrustedMeasurement", kind: kHex, size: 48, meaning: measurement("SEV-SNP launch digest")},

	{path: "WorkloadOwnerPubKeys", kind: kHexList, meaning: Meaning{Order: FewerTighter, Origin: PerRun, Default: "[]", Words: "keys that may set a new manifest"}},
	{path: "WorkloadOwnerKeyDigests", kind: kHexList, size: 32, meaning: Meaning{Order: FewerTighter, Origin: PerRun, Default: "[]", Words: "digests of the keys that may set a new manifest"}},
	{path: "SeedshareOwnerPubKeys", kind: kHexList, meaning: Meaning{Order: FewerTighter, Origin: PerRun, Default: "[]", Words: "keys that receive the secret seed for recovery"}},

	{path: "policy/hash", kind: kHex, size: 32, meaning: Meaning{Origin: PerDeployment, PresenceLoosens: true, Words: "hash of the execution policy"}},
	{path: "policy/SANs", kind: kTexts, meaning: Meaning{Order: FewerTighter, Origin: PerDeployment, Default: "[]", Words: "names the workload's certificate carries"}},
	{path: "policy/CommonName", kind: kText, meaning: Meaning{Origin: PerDeployment, Words: "common name of the workload's certificate, its first SAN"}},
	{path: "policy/WorkloadSecretID", kind: kText, meaning: Meaning{Origin: PerDeployment, Words: "identity from which the workload's secret is derived"}},
	{path: "policy/Role", kind: kText, meaning: Meaning{Origin: FromRelease, Words: "role of the workload"}},

	{path: "snp/Platform", kind: kText, meaning: Meaning{Origin: FromRelease, PresenceLoosens: true, Words: "platform of the reference value"}},
	{path: "snp/ProductName", kind: kText, meaning: Meaning{Origin: FromRelease, PresenceLoosens: true, Words: "AMD product line"}},
	{path: "snp/CPUs", kind: kUint, max: 1 << 16, meaning: Meaning{Origin: FromRelease, PresenceLoosens: true, Words: "number of vCPUs the launch digest holds for"}},
	{path: "snp/TrustedMeasurement", kind: kHex, size: 48, meaning: measurement("SEV-SNP launch digest")},
	{path: "snp/APEIP", kind: kHex, size: 4, meaning: measurement("reset EIP of the other vCPUs, from the firmware")},
	{path: "snp/MinimumTCB", kind: kObject},
	{path: "snp/MinimumTCB/BootloaderVersion", kind: kUint, max: 255, meaning: minimum("lowest PSP bootloader SVN", "")},
	{path: "snp/MinimumTCB/TEEVersion", kind: kUint, max: 255, meaning: minimum("lowest PSP OS SVN", "")},
	{path: "snp/MinimumTCB/SNPVersion", kind: kUint, max: 255, meaning: minimum("lowest SNP firmware SVN", "")},
	{path: "snp/MinimumTCB/MicrocodeVersion", kind: kUint, max: 255, meaning: minimum("lowest microcode SVN", "")},
	{path: "snp/MinimumMitigationVector", kind: kUint, max: 1<<64 - 1, meaning: minimum("mitigations the firmware must have applied", "0")},
	{path: "snp/AllowedChipIDs", kind: kHexList, size: 64, meaning: Meaning{Order: FewerTighter, Origin: OperatorsChoice, EmptyIsAny: true, Default: "[]", Words: "processors allowed; none named: any"}},

	{path: "snp/GuestPolicy", kind: kObject},
	{path: "snp/GuestPolicy/ABIMinor", kind: kUint, max: 255, meaning: minimum("lowest minor SNP ABI version", "0")},
	{path: "snp/GuestPolicy/ABIMajor", kind: kUint, max: 255, meaning: minimum("lowest major SNP ABI version", "0")},
	{path: "snp/GuestPolicy/SMT", kind: kBool, meaning: permits("guest may run with SMT on")},
	{path: "snp/GuestPolicy/MigrateMA", kind: kBool, meaning: permits("guest may have a migration agent")},
	{path: "snp/GuestPolicy/Debug", kind: kBool, meaning: permits("host may debug the guest and so read its memory")},
	{path: "snp/GuestPolicy/SingleSocket", kind: kBool, meaning: demands("guest runs on one socket only")},
	{path: "snp/GuestPolicy/CXLAllowed", kind: kBool, meaning: permits("CXL devices may be populated")},
	{path: "snp/GuestPolicy/MemAES256XTS", kind: kBool, meaning: demands("memory is encrypted with AES-256-XTS")},
	{path: "snp/GuestPolicy/RAPLDis", kind: kBool, meaning: demands("running average power limit is disabled")},
	{path: "snp/GuestPolicy/CipherTextHidingDRAM", kind: kBool, meaning: demands("ciphertext in DRAM is hidden from the host")},
	{path: "snp/GuestPolicy/PageSwapDisable", kind: kBool, meaning: demands("guest page swapping is disabled")},

	{path: "snp/PlatformInfo", kind: kObject},
	{path: "snp/PlatformInfo/SMTEnabled", kind: kBool, meaning: permits("platform may have SMT on")},
	{path: "snp/PlatformInfo/TSMEEnabled", kind: kBool, meaning: permits("platform may have TSME on")},
	{path: "snp/PlatformInfo/ECCEnabled", kind: kBool, meaning: demands("platform uses ECC memory")},
	{path: "snp/PlatformInfo/RAPLDisabled", kind: kBool, meaning: demands("platform has the running average power limit disabled")},
	{path: "snp/PlatformInfo/CiphertextHidingDRAMEnabled", kind: kBool, meaning: demands("platform hides ciphertext in DRAM")},
	{path: "snp/PlatformInfo/AliasCheckComplete", kind: kBool, meaning: demands("platform has checked memory for aliases")},
	{path: "snp/PlatformInfo/IOMMUWriteSafe", kind: kBool, meaning: demands("platform's IOMMU has the write-safe mitigation")},
	{path: "snp/PlatformInfo/TIOEnabled", kind: kBool, meaning: Meaning{Origin: OperatorsChoice, Default: "false", Words: "trusted I/O of the platform; direction not established"}},

	{path: "tdx/Platform", kind: kText, meaning: Meaning{Origin: FromRelease, PresenceLoosens: true, Words: "platform of the reference value"}},
	{path: "tdx/MinTCBEvaluationDataNumber", kind: kUint, max: 1<<31 - 1, meaning: minimum("lowest issue of Intel's TCB data accepted", "0")},
	{path: "tdx/MrTd", kind: kHex, size: 48, meaning: measurement("MRTD, measurement of the firmware")},
	{path: "tdx/MrSeam", kind: kHex, size: 48, meaning: Meaning{Origin: OperatorsChoice, Words: "MRSEAM, measurement of the TDX module"}},
	{path: "tdx/Rtmrs", kind: kRegs, size: 48, meaning: measurement("RTMR")},
	{path: "tdx/Rtrms", as: "tdx/Rtmrs", kind: kRegs, size: 48, meaning: measurement("RTMR")}, // early 1.x, spelt so
	{path: "tdx/Xfam", kind: kHex, size: 8, meaning: Meaning{Origin: FromRelease, Words: "XFAM, CPU features of the guest"}},
	{path: "tdx/AllowedPIIDs", kind: kHexList, size: 16, meaning: Meaning{Order: FewerTighter, Origin: OperatorsChoice, EmptyIsAny: true, Default: "[]", Words: "platform instances allowed; none named: any"}},
	{path: "tdx/MemoryIntegrity", kind: kBool, meaning: demands("platform has cryptographic memory integrity")},
	{path: "tdx/SMTDisabled", kind: kBool, meaning: demands("platform has SMT off")},
	{path: "tdx/StaticPlatform", kind: kBool, meaning: demands("platform's packages cannot be added or replaced")},
	// Early 1.x.
	{path: "tdx/MinimumQeSvn", kind: kUint, max: 1<<16 - 1, meaning: minimum("lowest SVN of the quoting enclave", "0")},
	{path: "tdx/MinimumPceSvn", kind: kUint, max: 1<<16 - 1, meaning: minimum("lowest SVN of the provisioning certification enclave", "0")},
	{path: "tdx/MinimumTeeTcbSvn", kind: kHex, size: 16, meaning: Meaning{Origin: OperatorsChoice, Words: "lowest TEE TCB SVN, component by component"}},
	{path: "tdx/TdAttributes", kind: kHex, size: 8, meaning: Meaning{Origin: FromRelease, Words: "TD attributes, the debug bit among them"}},
}

// alternatives stands for a list of values of a register, under whatever name a
// newer version keeps them: each is accepted, so more accept more.
var alternatives = &fieldSpec{kind: kHexList, size: 48, meaning: Meaning{
	Order: FewerTighter, Origin: OriginUnknown, Default: "[]", Words: "values of a register, each of which is accepted",
}}

func measurement(words string) Meaning { return Meaning{Origin: FromRelease, Words: words} }

func minimum(words, absent string) Meaning {
	return Meaning{Order: HigherTighter, Origin: OperatorsChoice, Default: absent, Words: words}
}

func permits(words string) Meaning {
	return Meaning{Order: OnLoosens, Origin: OperatorsChoice, Default: "false", Words: words}
}

func demands(words string) Meaning {
	return Meaning{Order: OnTightens, Origin: OperatorsChoice, Default: "false", Words: words}
}

// spec returns the row of a path, nil if no version has such a field.
func spec(path string) *fieldSpec {
	for i := range fieldTable {
		if fieldTable[i].path == path {
			return &fieldTable[i]
		}
	}
	return nil
}

// keysUnder lists the field names directly below a path, in table order.
func keysUnder(path string) []string {
	var out []string
	for i := range fieldTable {
		if rest, ok := cutPrefix(fieldTable[i].path, path); ok && rest != "" {
			out = append(out, rest)
		}
	}
	return out
}

// cutPrefix returns the last segment of path if its parent is prefix.
func cutPrefix(path, prefix string) (string, bool) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:], path[:i] == prefix
		}
	}
	return path, prefix == ""
}
