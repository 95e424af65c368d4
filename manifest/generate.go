package manifest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// Generation is what `contrast generate` knows when it writes a manifest.
type Generation struct {
	Version  Version // shape to write; V16 to Newer
	Policies []GeneratedPolicy
	SNP      []SNPValues
	TDX      []TDXValues
	// WorkloadOwnerKeys are hex digits: the PKIX DER of EC public keys from
	// V120 on, SHA-256 digests of it before (OwnerKey gives both). Nil prints
	// null, as --disable-updates does.
	WorkloadOwnerKeys []string
	// SeedshareOwnerKeys are hex digits of PKCS #1 DER RSA public keys.
	SeedshareOwnerKeys []string
	// Incomplete writes a placeholder in the place of a hash, measurement or
	// seedshare key that is not given, in place of an error. Such a manifest is
	// for people to read; Manifest.Placeholders finds what is missing.
	Incomplete bool
}

// GeneratedPolicy is one workload with its policy hash.
type GeneratedPolicy struct {
	Hash     digest.Digest // SHA-256
	Workload Workload      // gives the default SANs and WorkloadSecretID
	SANs     []string      // nil: the workload's name and "*"
	// SecretID is the annotation contrast.edgeless.systems/workload-secret-id;
	// "" takes the default form, see Workload.ID.
	SecretID string
	Role     string // "coordinator" or "", which is right before about 1.7
}

// SNPValues is one SEV-SNP reference value. Fields that the version does not
// have are not written.
type SNPValues struct {
	Platform, ProductName   string
	TrustedMeasurement      digest.Digest // SHA-384
	APEIP                   uint32        // Newer only
	NoAPEIP                 bool          // it is not known (Generation.Incomplete)
	MinimumTCB              SNPTCB        // nil prints null
	GuestPolicy             GuestPolicy
	PlatformInfo            PlatformInfo
	MinimumMitigationVector uint64
	AllowedChipIDs          []string // nil prints null
	CPUs                    uint64   // V116, where it is not 0, and V120
}

// GuestPolicy is the SEV-SNP guest policy, in the order in which it is written
// (AMD SEV-SNP ABI specification, 4.3 Guest Policy).
type GuestPolicy struct {
	ABIMinor, ABIMajor                    uint8
	SMT, MigrateMA, Debug, SingleSocket   bool
	CXLAllowed, MemAES256XTS, RAPLDis     bool
	CipherTextHidingDRAM, PageSwapDisable bool
}

// PlatformInfo is what a platform may or must have, in the order in which it
// is written.
type PlatformInfo struct {
	SMTEnabled, TSMEEnabled, ECCEnabled, RAPLDisabled           bool
	CiphertextHidingDRAMEnabled, AliasCheckComplete, TIOEnabled bool
}

// TDXValues is one TDX reference value, written from V116 on.
type TDXValues struct {
	Platform                                     string
	MinTCBEvaluationDataNumber                   uint64
	MrTd                                         digest.Digest    // SHA-384
	MrSeam                                       string           // hex; "" is "to be filled in"
	Rtmrs                                        [4]digest.Digest // SHA-384
	Xfam                                         [8]byte          // least significant first
	AllowedPIIDs                                 []string         // nil prints null
	MemoryIntegrity, SMTDisabled, StaticPlatform bool
}

// Generated is a manifest as generate writes it.
type Generated struct {
	Tree *jsondoc.Value
	// Warnings names policies that Contrast drops without a word: an equal
	// hash with other SANs.
	Warnings []string
}

// Bytes prints the manifest as Contrast does: Go's MarshalIndent with two
// spaces and a final line feed.
func (g Generated) Bytes() []byte { return jsondoc.Go.Format(g.Tree) }

// Generate builds the manifest in the order in which Contrast writes it.
// Policies are sorted by hash. Two with the same hash and the same SANs are an
// error, as in Contrast; of two with the same hash and other SANs the first is
// kept (which one Contrast keeps is not stable when there are several files).
//
// The order of fields is established for V16, V120 without CPUs, and Newer; in
// V18 and V116 it is inferred, and so is the place of CPUs (last).
func Generate(g Generation) (Generated, error) {
	var out Generated
	if g.Version < V16 || g.Version > Newer {
		return out, fmt.Errorf("generate manifest: version family %q cannot be written, want one from %q to %q", g.Version, V16, Newer)
	}
	policies, warnings, err := g.policies()
	if err != nil {
		return out, fmt.Errorf("generate manifest: %w", err)
	}
	refs, err := g.references()
	if err != nil {
		return out, fmt.Errorf("generate manifest: %w", err)
	}
	owner := "WorkloadOwnerPubKeys"
	if g.Version < V120 {
		owner = "WorkloadOwnerKeyDigests"
	}
	var errs []error
	keys := func(name string, list []string, size int) *jsondoc.Value {
		v, err := hexSet(list, size)
		if err != nil {
			errs = append(errs, fmt.Errorf("generate manifest: %s: %w", name, err))
		}
		return v
	}
	digestSize := 0
	if g.Version < V120 {
		digestSize = 32
	}
	out.Tree = object(
		"Policies", policies,
		"ReferenceValues", refs,
		owner, keys(owner, g.WorkloadOwnerKeys, digestSize),
		"SeedshareOwnerPubKeys", g.seedshare(keys),
	)
	out.Warnings = warnings
	return out, errors.Join(errs...)
}

// seedshare gives the keys, or one placeholder: each generate makes one anew.
func (g Generation) seedshare(keys func(string, []string, int) *jsondoc.Value) *jsondoc.Value {
	if g.Incomplete && g.SeedshareOwnerKeys == nil {
		return stringArray([]string{Placeholder("the seedshare owner's public key")})
	}
	return keys("SeedshareOwnerPubKeys", g.SeedshareOwnerKeys, 0)
}

func (g Generation) policies() (*jsondoc.Value, []string, error) {
	var warnings []string
	byHash := map[string]GeneratedPolicy{}
	sans := func(p GeneratedPolicy) []string {
		if p.SANs != nil {
			return p.SANs
		}
		return []string{p.Workload.Name, "*"}
	}
	var hashes []string
	for i, p := range g.Policies {
		missing := g.Incomplete && p.Hash.IsZero()
		if p.Hash.Algorithm() != digest.SHA256 && !missing {
			return nil, nil, fmt.Errorf("policy %d (%s): want a SHA-256 hash, found %s", i, p.Workload.ID(), p.Hash)
		}
		if p.SANs == nil && p.Workload.Name == "" {
			return nil, nil, fmt.Errorf("policy %d (%s): neither SANs nor a name", i, p.Hash)
		}
		if p.Role != "" && p.Role != roleCoordinator {
			return nil, nil, fmt.Errorf("policy %d (%s): unknown role %q", i, p.Workload.ID(), p.Role)
		}
		h := p.Hash.Hex()
		if missing {
			h = Placeholder("policy of " + p.Workload.ID())
			if p.SecretID != "" && p.SecretID != p.Workload.ID() {
				h = Placeholder("policy of " + p.SecretID + ", " + p.Workload.ID())
			}
		}
		first, dup := byHash[h]
		switch {
		case !dup:
			byHash[h] = p
			hashes = append(hashes, h)
		case slices.Equal(sans(first), sans(p)):
			return nil, nil, fmt.Errorf("policy %s: %s and %s have the same policy hash and the same SANs %q", h, first.Workload.ID(), p.Workload.ID(), sans(p))
		default:
			warnings = append(warnings, fmt.Sprintf("policy %s: %s is dropped, %s has the same policy hash", h, p.Workload.ID(), first.Workload.ID()))
		}
	}
	sort.Strings(hashes)
	tree := object()
	for _, h := range hashes {
		p := byHash[h]
		e := object("SANs", stringArray(sans(p)))
		id := p.SecretID
		if id == "" && p.Workload.Name != "" {
			id = p.Workload.ID()
		}
		if id != "" {
			e.Set("WorkloadSecretID", jsondoc.NewString(id))
		}
		if p.Role != "" {
			e.Set("Role", jsondoc.NewString(p.Role))
		}
		tree.Members = append(tree.Members, jsondoc.Member{Key: h, Value: e})
	}
	return tree, warnings, nil
}

func (g Generation) references() (*jsondoc.Value, error) {
	refs := object()
	if len(g.SNP) > 0 {
		list := &jsondoc.Value{Kind: jsondoc.Array}
		for i, s := range g.SNP {
			e, err := s.tree(g.Version, g.Incomplete)
			if err != nil {
				return nil, fmt.Errorf("snp[%d]: %w", i, err)
			}
			list.Elems = append(list.Elems, e)
		}
		refs.Set("snp", list)
	}
	if len(g.TDX) > 0 {
		if g.Version < V116 {
			return nil, fmt.Errorf("tdx: the shape of TDX reference values of %s is not known", g.Version)
		}
		list := &jsondoc.Value{Kind: jsondoc.Array}
		for i, t := range g.TDX {
			e, err := t.tree(g.Incomplete)
			if err != nil {
				return nil, fmt.Errorf("tdx[%d]: %w", i, err)
			}
			list.Elems = append(list.Elems, e)
		}
		refs.Set("tdx", list)
	}
	return refs, nil
}

// measured is a digest of 48 bytes, or a placeholder for it.
func measured(field string, d digest.Digest, incomplete bool) (*jsondoc.Value, error) {
	switch {
	case incomplete && d.IsZero():
		return jsondoc.NewString(Placeholder(field)), nil
	case d.Algorithm() != digest.SHA384:
		return nil, fmt.Errorf("field %s: want 48 bytes, found %s", field, d)
	}
	return jsondoc.NewString(d.Hex()), nil
}

func (s SNPValues) tree(version Version, incomplete bool) (*jsondoc.Value, error) {
	launch, err := measured("TrustedMeasurement", s.TrustedMeasurement, incomplete)
	if err != nil {
		return nil, err
	}
	chips, err := hexArray(s.AllowedChipIDs, 64)
	if err != nil {
		return nil, fmt.Errorf("field AllowedChipIDs: %w", err)
	}
	tcb := object(
		"BootloaderVersion", optional(s.MinimumTCB.BootloaderVersion),
		"TEEVersion", optional(s.MinimumTCB.TEEVersion),
		"SNPVersion", optional(s.MinimumTCB.SNPVersion),
		"MicrocodeVersion", optional(s.MinimumTCB.MicrocodeVersion),
	)
	product := jsondoc.NewString(s.ProductName)
	if version == V16 {
		return object("MinimumTCB", tcb, "ProductName", product, "TrustedMeasurement", launch), nil
	}
	e := object()
	if version >= V116 {
		e.Set("Platform", jsondoc.NewString(s.Platform))
	}
	e.Set("ProductName", product)
	e.Set("TrustedMeasurement", launch)
	if version == Newer {
		eip := fmt.Sprintf("%08x", s.APEIP)
		if incomplete && s.NoAPEIP {
			eip = Placeholder("APEIP")
		}
		e.Set("APEIP", jsondoc.NewString(eip))
	}
	e.Set("MinimumTCB", tcb)
	e.Set("GuestPolicy", s.GuestPolicy.tree())
	e.Set("PlatformInfo", s.PlatformInfo.tree())
	if version >= V116 {
		e.Set("MinimumMitigationVector", whole(s.MinimumMitigationVector))
		e.Set("AllowedChipIDs", chips)
	}
	if version == V120 || version == V116 && s.CPUs != 0 {
		e.Set("CPUs", whole(s.CPUs))
	}
	return e, nil
}

func (p GuestPolicy) tree() *jsondoc.Value {
	return object(
		"ABIMinor", whole(uint64(p.ABIMinor)),
		"ABIMajor", whole(uint64(p.ABIMajor)),
		"SMT", jsondoc.NewBool(p.SMT),
		"MigrateMA", jsondoc.NewBool(p.MigrateMA),
		"Debug", jsondoc.NewBool(p.Debug),
		"SingleSocket", jsondoc.NewBool(p.SingleSocket),
		"CXLAllowed", jsondoc.NewBool(p.CXLAllowed),
		"MemAES256XTS", jsondoc.NewBool(p.MemAES256XTS),
		"RAPLDis", jsondoc.NewBool(p.RAPLDis),
		"CipherTextHidingDRAM", jsondoc.NewBool(p.CipherTextHidingDRAM),
		"PageSwapDisable", jsondoc.NewBool(p.PageSwapDisable),
	)
}

func (p PlatformInfo) tree() *jsondoc.Value {
	return object(
		"SMTEnabled", jsondoc.NewBool(p.SMTEnabled),
		"TSMEEnabled", jsondoc.NewBool(p.TSMEEnabled),
		"ECCEnabled", jsondoc.NewBool(p.ECCEnabled),
		"RAPLDisabled", jsondoc.NewBool(p.RAPLDisabled),
		"CiphertextHidingDRAMEnabled", jsondoc.NewBool(p.CiphertextHidingDRAMEnabled),
		"AliasCheckComplete", jsondoc.NewBool(p.AliasCheckComplete),
		"TIOEnabled", jsondoc.NewBool(p.TIOEnabled),
	)
}

func (t TDXValues) tree(incomplete bool) (*jsondoc.Value, error) {
	mrtd, err := measured("MrTd", t.MrTd, incomplete)
	if err != nil {
		return nil, err
	}
	if raw, err := hex.DecodeString(t.MrSeam); err != nil || len(raw) != 0 && len(raw) != 48 {
		return nil, fmt.Errorf("field MrSeam: want nothing or 96 hex digits, found %q", clip(t.MrSeam))
	}
	rtmrs := &jsondoc.Value{Kind: jsondoc.Array}
	for i, r := range t.Rtmrs {
		v, err := measured(fmt.Sprintf("Rtmrs[%d]", i), r, incomplete)
		if err != nil {
			return nil, err
		}
		rtmrs.Elems = append(rtmrs.Elems, v)
	}
	piids, err := hexArray(t.AllowedPIIDs, 16)
	if err != nil {
		return nil, fmt.Errorf("field AllowedPIIDs: %w", err)
	}
	return object(
		"Platform", jsondoc.NewString(t.Platform),
		"MinTCBEvaluationDataNumber", whole(t.MinTCBEvaluationDataNumber),
		"MrTd", mrtd,
		"MrSeam", jsondoc.NewString(t.MrSeam),
		"Rtmrs", rtmrs,
		"Xfam", jsondoc.NewString(hex.EncodeToString(t.Xfam[:])),
		"AllowedPIIDs", piids,
		"MemoryIntegrity", jsondoc.NewBool(t.MemoryIntegrity),
		"SMTDisabled", jsondoc.NewBool(t.SMTDisabled),
		"StaticPlatform", jsondoc.NewBool(t.StaticPlatform),
	), nil
}

// object makes an object from alternating keys and values.
func object(pairs ...any) *jsondoc.Value {
	v := &jsondoc.Value{Kind: jsondoc.Object}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Members = append(v.Members, jsondoc.Member{Key: pairs[i].(string), Value: pairs[i+1].(*jsondoc.Value)})
	}
	return v
}

func whole(n uint64) *jsondoc.Value { return jsondoc.NewNumber(strconv.FormatUint(n, 10)) }

func optional(n *uint64) *jsondoc.Value {
	if n == nil {
		return &jsondoc.Value{}
	}
	return whole(*n)
}

func stringArray(list []string) *jsondoc.Value {
	v := &jsondoc.Value{Kind: jsondoc.Array}
	for _, s := range list {
		v.Elems = append(v.Elems, jsondoc.NewString(s))
	}
	return v
}

// hexArray keeps order and case; a nil list is null, as Go prints it.
func hexArray(list []string, size int) (*jsondoc.Value, error) {
	if list == nil {
		return &jsondoc.Value{}, nil
	}
	for i, s := range list {
		if raw, err := hex.DecodeString(s); err != nil || size > 0 && len(raw) != size {
			return nil, fmt.Errorf("element %d: want %d hex digits, found %q", i, 2*size, clip(s))
		}
	}
	return stringArray(list), nil
}

// hexSet is for keys: lower case, sorted, without repetition.
func hexSet(list []string, size int) (*jsondoc.Value, error) {
	if list == nil {
		return &jsondoc.Value{}, nil
	}
	lower := make([]string, 0, len(list))
	for _, s := range list {
		lower = append(lower, strings.ToLower(s))
	}
	sort.Strings(lower)
	return hexArray(slices.Compact(lower), size)
}
