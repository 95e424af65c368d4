package evidence

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// amdInputs reads what verifies a report.
func (r *stageRun) amdInputs(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	for _, file := range []string{e.VCEK, e.Certs} {
		if file == "" {
			continue
		}
		data, err := r.in.ReadFile(ctx, file, snpreport.MaxTable)
		if err != nil {
			return err
		}
		c, err := snpreport.ParseCertificates(file, data)
		if err == nil {
			err = q.Certificates.Merge(file, c)
		}
		if err != nil {
			return &pipeline.InputError{Op: "read", File: file, Err: err}
		}
		from.authentic = append(from.authentic, pipeline.FromFile(file))
	}
	if e.CRL != "" {
		data, err := r.in.ReadFile(ctx, e.CRL, snpreport.MaxCRL)
		if err != nil {
			return err
		}
		list, err := snpreport.ParseCRL(e.CRL, data)
		if err != nil {
			return err
		}
		q.CRLs = []*x509.RevocationList{list}
		from.authentic = append(from.authentic, pipeline.FromFile(e.CRL))
	}
	if e.Roots != "" {
		data, err := r.in.ReadFile(ctx, e.Roots, snpreport.MaxTable)
		if err != nil {
			return err
		}
		if rootsOfTPM(q.Evidence) {
			if q.TPMRoots, err = evidence.ParseTPMRoots(e.Roots, data); err != nil {
				return err
			}
		} else if q.AMDRoots, err = snpreport.ParseRoots(e.Roots, data); err != nil {
			return err
		}
		from.authentic = append(from.authentic, pipeline.FromFile(e.Roots))
	}
	return nil
}

// givenLaunches are the launch digests that were written down, alternatives, each
// with the host data that must stand beside it.
func givenLaunches(e config.Evidence, q *Question) error {
	host := map[evidence.Register]digest.Digest{}
	if e.HostData != "" {
		d, err := parseHex(digest.SHA256, e.HostData)
		if err != nil {
			return err
		}
		host[evidence.HostData] = d
	}
	if len(e.Measurement) == 0 && len(host) > 0 {
		q.Sets = append(q.Sets, evidence.ReferenceSet{Group: "given", Name: "the host data given", Registers: host})
	}
	for _, text := range e.Measurement {
		d, err := parseHex(digest.SHA384, text)
		if err != nil {
			return err
		}
		set := evidence.ReferenceSet{Group: "given", Name: fmt.Sprintf("the launch digest %.16s… given", d.Hex()), Registers: maps.Clone(host)}
		set.Registers[evidence.Measurement] = d
		q.Sets = append(q.Sets, set)
	}
	return nil
}

// snpManifestSets are the SEV-SNP machines of a manifest that an entry may be of.
func snpManifestSets(ctx context.Context, e config.Evidence, file string, m *manifest.Manifest, q *Question, from *judgedFrom) error {
	sets, err := SNPSets(file, m)
	if err != nil {
		return err
	}
	for i, e := range m.SNP() {
		if err := furtherCPUs(ctx, &e, &sets[i], q.Evidence.SNP.Report); err != nil {
			return err
		}
	}
	if e.Platform != "" {
		sets = slices.DeleteFunc(sets, func(s evidence.ReferenceSet) bool {
			return !strings.EqualFold(s.Name, e.Platform) && !strings.HasPrefix(strings.ToLower(s.Name), strings.ToLower(e.Platform)+" ")
		})
	}
	switch {
	case len(sets) == 0 && e.Manifest != "":
		q.Checks.Open("manifest", file+" has no SEV-SNP reference value that could be this machine's")
		return nil
	case len(sets) == 0:
		return nil
	}
	for i := range sets {
		sets[i].Source = source(e, file)
	}
	q.Sets = append(q.Sets, sets...)
	from.expected = append(from.expected, pipeline.FromFile(file))
	return nil
}

// guestPolicy and platformInfo are the bits by the names of Contrast's manifest.
func guestPolicy(name string) snpreport.Policy {
	return map[string]snpreport.Policy{
		"SMT": snpreport.PolicySMT, "MigrateMA": snpreport.PolicyMigrateMA, "Debug": snpreport.PolicyDebug, "SingleSocket": snpreport.PolicySingleSocket,
		"CXLAllowed": snpreport.PolicyCXLAllow, "MemAES256XTS": snpreport.PolicyMemAES256XTS, "RAPLDis": snpreport.PolicyRAPLDis,
		"CipherTextHidingDRAM": snpreport.PolicyCiphertextHidingDRAM, "PageSwapDisable": snpreport.PolicyPageSwapDisable,
	}[name]
}

func platformInfo(name string) snpreport.PlatformInfo {
	return map[string]snpreport.PlatformInfo{
		"SMTEnabled": snpreport.PlatformSMTEn, "TSMEEnabled": snpreport.PlatformTSMEEn, "ECCEnabled": snpreport.PlatformECCEn, "RAPLDisabled": snpreport.PlatformRAPLDis,
		"CiphertextHidingDRAMEnabled": snpreport.PlatformCiphertextHidingDRAMEn, "AliasCheckComplete": snpreport.PlatformAliasCheckComplete, "TIOEnabled": snpreport.PlatformTIOEn,
	}[name]
}

// SNPSets makes each SEV-SNP reference value of a Contrast manifest a set: the
// launch digest, and what the entry demands of product, firmware, policy, chip
// and of the runtime policy that the host bound. What an entry leaves out, or says
// in words that are not known, stays unchecked.
func SNPSets(file string, m *manifest.Manifest) ([]evidence.ReferenceSet, error) {
	var sets []evidence.ReferenceSet
	var policies [][32]byte
	for _, p := range m.Policies() {
		if p.Hash.IsZero() {
			continue // validation's to say; it can be no host's data
		}
		policies = append(policies, [32]byte(p.Hash.Bytes()))
	}
	misread := flaws(m)
	for _, e := range m.SNP() {
		bad := func(field string, err error) error {
			return &pipeline.InputError{Op: "read manifest", File: file, Err: fmt.Errorf("line %d: %s/%s: %w", e.Line, e.Pointer, field, err)}
		}
		launch, err := digest.ParseHex(digest.SHA384, e.TrustedMeasurement)
		if err != nil {
			return nil, bad("TrustedMeasurement", err)
		}
		want, open, err := snpDemands(&e, policies)
		if err != nil {
			return nil, bad("", err)
		}
		open = append(open, misread(e.Pointer)...)
		sets = append(sets, evidence.ReferenceSet{
			Group: file, Name: strings.TrimSpace(e.Platform + " " + e.ProductName), Where: fmt.Sprintf("line %d", e.Line),
			Registers: map[evidence.Register]digest.Digest{evidence.Measurement: launch},
			Demands: func(r *evidence.Result) []verdict.Check {
				if r.SNP == nil {
					return []verdict.Check{{Name: "report", Verdict: verdict.Fail, Reason: "the evidence is no SEV-SNP report"}}
				}
				x := *want
				x.Measurements = []digest.Digest{launch}
				// The launch digest is the set's register.
				checks := slices.DeleteFunc(x.Check(r.SNP, r.Product), func(c verdict.Check) bool { return c.Name == "measurement" })
				return append(checks, open...)
			},
		})
	}
	return sets, nil
}

// snpDemands are the expectations of an entry beside its launch digest, and what
// of them cannot be judged.
func snpDemands(e *manifest.SNPEntry, policies [][32]byte) (*snpreport.Expectations, verdict.List, error) {
	var open verdict.List
	x := &snpreport.Expectations{Product: snpreport.Product(e.ProductName), HostData: policies}
	if !slices.Contains([]snpreport.Product{"", snpreport.Milan, snpreport.Genoa, snpreport.Turin}, x.Product) {
		return nil, nil, fmt.Errorf("product %q is not known", e.ProductName)
	}
	if len(policies) == 0 {
		open.Open("host_data", "the manifest lists no policy that the host could have bound")
	}
	var tcb snpreport.Components
	for _, part := range []struct {
		name string
		from *uint64
		to   *uint8
	}{{"BootloaderVersion", e.MinimumTCB.BootloaderVersion, &tcb.BootLoader}, {"TEEVersion", e.MinimumTCB.TEEVersion, &tcb.TEE}, {"SNPVersion", e.MinimumTCB.SNPVersion, &tcb.SNP}, {"MicrocodeVersion", e.MinimumTCB.MicrocodeVersion, &tcb.Microcode}} {
		switch {
		case part.from == nil:
			open.Open("minimum-tcb", "the manifest fills in no "+part.name)
		case *part.from > 255:
			return nil, nil, fmt.Errorf("MinimumTCB/%s: %d, at most 255 can be", part.name, *part.from)
		default:
			*part.to = uint8(*part.from)
		}
	}
	x.MinimumTCB = &tcb
	if e.GuestPolicy == nil {
		open.Open("policy", "the manifest has no GuestPolicy")
	} else {
		var policy snpreport.Policy
		for name, on := range e.GuestPolicy {
			bit := guestPolicy(name)
			if bit == 0 {
				open.Open("policy", "the manifest's GuestPolicy has "+name+", which is not known")
			}
			if on {
				policy |= bit
			}
		}
		for shift, part := range map[int]*uint64{0: e.ABIMinor, 8: e.ABIMajor} {
			if part != nil && *part <= 255 {
				policy |= snpreport.Policy(*part) << shift
			}
		}
		x.Policy = &policy
	}
	if e.PlatformInfo == nil {
		open.Open("platform-info", "the manifest has no PlatformInfo")
	} else {
		var info snpreport.PlatformInfo
		for name, on := range e.PlatformInfo {
			bit := platformInfo(name)
			if bit == 0 {
				open.Open("platform-info", "the manifest's PlatformInfo has "+name+", which is not known")
			}
			if on {
				info |= bit
			}
		}
		x.PlatformInfo = &info
	}
	if v := e.MinimumMitigationVector; v != nil {
		x.LaunchMitVector, x.CurrentMitVector = *v, *v
	}
	for _, text := range e.AllowedChipIDs {
		id, err := hex.DecodeString(text)
		if err != nil || len(id) != 64 {
			return nil, nil, errors.New("AllowedChipIDs: want 128 hex digits each")
		}
		x.ChipIDs = append(x.ChipIDs, id)
	}
	return x, open, nil
}
