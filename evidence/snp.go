package evidence

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// ReportClaim is an SEV-SNP report. Bytes are lower-case hex.
type ReportClaim struct {
	Version     uint32               `json:"version"`
	Form        snpreport.Form       `json:"form"`
	Processor   string               `json:"processor"`
	Product     snpreport.Product    `json:"product,omitempty"` // by the certificate
	Measurement string               `json:"measurement"`
	HostData    string               `json:"host_data"`
	ReportData  string               `json:"report_data"`
	Policy      string               `json:"policy"`
	Platform    string               `json:"platform_info"`
	VMPL        uint32               `json:"vmpl"`
	GuestSVN    uint32               `json:"guest_svn"`
	TCB         snpreport.Components `json:"reported_tcb"`
	ChipID      string               `json:"chip_id"`
	FamilyID    string               `json:"family_id"`
	ImageID     string               `json:"image_id"`
	IDKey       string               `json:"id_key_digest"`
	AuthorKey   string               `json:"author_key_digest"`
	// Missing says which certificate is needed, by the parts under which AMD has it.
	Missing string `json:"missing_certificate,omitempty"`
}

// authenticSNP verifies a report: who signed it, and that the guest is protected
// from its host at all.
func (r *Request) authenticSNP(l *verdict.List, result *Result) error {
	e := *r.Evidence.SNP
	// Certificates that were given join those that came along; two different ones
	// for one place are a contradiction and not a choice.
	e.Certificates.Signers = slices.Clone(e.Certificates.Signers)
	if err := e.Certificates.Merge("the certificates given", r.Certificates); err != nil {
		l.Fail("certificates", err.Error())
	}
	v, err := e.Verify(snpreport.Options{At: r.At, Roots: r.AMDRoots, CRLs: r.CRLs})
	if err != nil {
		return err
	}
	*l = append(append(*l, v.Checks...), e.Report.Protection(nil)...)
	if err := r.amdRoots(v.Product, result); err != nil {
		return err
	}
	host, err := digest.FromBytes(digest.SHA256, e.Report.HostData[:])
	if err != nil {
		return err
	}
	rep := e.Report
	result.Registers, result.Runs = map[Register]digest.Digest{Measurement: rep.Measurement, HostData: host}, []Register{Measurement}
	result.SNP, result.Product = rep, v.Product
	result.Claims.Report = &ReportClaim{
		Version: rep.Version, Form: e.Form, Processor: rep.Processor(), Product: v.Product, Measurement: rep.Measurement.Hex(), HostData: hex.EncodeToString(rep.HostData[:]),
		ReportData: hex.EncodeToString(rep.ReportData[:]), Policy: rep.Policy.String(), Platform: rep.PlatformInfo.String(), VMPL: rep.VMPL, GuestSVN: rep.GuestSVN,
		TCB: rep.Components(rep.ReportedTCB), ChipID: rep.ChipIDHex(), FamilyID: hex.EncodeToString(rep.FamilyID[:]), ImageID: hex.EncodeToString(rep.ImageID[:]),
		IDKey: rep.IDKeyDigest.Hex(), AuthorKey: rep.AuthorKeyDigest.Hex(), Missing: v.Missing,
	}
	if len(bytes.Trim(rep.HostData[:], "\x00")) > 0 {
		result.Expected.Note("host_data", fmt.Sprintf("the host bound %x to the guest", rep.HostData))
	}
	return nil
}

// amdRoots lists what was trusted: AMD's certificates of the product, or others.
// A root is AMD's only with both of its signers.
func (r *Request) amdRoots(p snpreport.Product, result *Result) error {
	roots := r.AMDRoots
	if roots == nil {
		if p == "" {
			return nil // neither report nor certificate says whose
		}
		own, err := snpreport.AMDRoot(p)
		if err != nil {
			return err
		}
		roots = []snpreport.Root{own}
	}
	for _, root := range roots {
		if root.ARK == nil {
			continue
		}
		own, err := snpreport.AMDRoot(root.Product)
		builtIn := err == nil && root.ARK.Equal(own.ARK) && root.ASK.Equal(own.ASK) && root.ASVK.Equal(own.ASVK)
		result.Roots = append(result.Roots, Root{"amd", root.ARK.Subject.String(), digest.SHA256.Sum(root.ARK.Raw), builtIn})
	}
	return nil
}
