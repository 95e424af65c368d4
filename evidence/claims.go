package evidence

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/tdxquote"
)

// Claims is what evidence says, in the names that reports use. Bytes are
// lower-case hex. Only what the judgements pass is more than a claim.
type Claims struct {
	Source      string          `json:"source"`
	Target      string          `json:"target,omitempty"`
	CapturedAt  string          `json:"captured_at,omitempty"`
	Quote       *QuoteClaim     `json:"quote,omitempty"`
	Report      *ReportClaim    `json:"report,omitempty"`
	TPM         *TPMClaim       `json:"tpm,omitempty"`
	Release     string          `json:"release,omitempty"` // the published row that fits as a whole
	TLS         *TLSBinding     `json:"tls,omitempty"`
	GPU         []GPUClaim      `json:"gpu,omitempty"`
	Contrast    []ContrastClaim `json:"contrast,omitempty"`
	ComposeHash string          `json:"compose_hash,omitempty"` // from dstack's event log
	Events      []Event         `json:"events,omitempty"`       // dstack's boot events
}

// QuoteClaim is a TDX quote.
type QuoteClaim struct {
	Version       uint16 `json:"version"`
	BodyType      string `json:"body_type"`
	TEETCBSVN     string `json:"tee_tcb_svn"`
	MRSEAM        string `json:"mrseam"`
	TDAttributes  string `json:"td_attributes"`
	XFAM          string `json:"xfam"`
	MRTD          string `json:"mrtd"`
	RTMR0         string `json:"rtmr0"`
	RTMR1         string `json:"rtmr1"`
	RTMR2         string `json:"rtmr2"`
	RTMR3         string `json:"rtmr3"`
	MRCONFIGID    string `json:"mrconfigid"`
	MROWNER       string `json:"mrowner"`
	MROWNERCONFIG string `json:"mrownerconfig"`
	ReportData    string `json:"report_data"`
	TEETCBSVN2    string `json:"tee_tcb_svn_2,omitempty"`
	MRSERVICETD   string `json:"mrservicetd,omitempty"`
	TDID          string `json:"td_id,omitempty"`
	VMID          *uint8 `json:"vmid,omitempty"`

	FMSPC     string        `json:"fmspc,omitempty"`
	PPID      string        `json:"ppid,omitempty"` // names the processor package
	PCKFrom   string        `json:"pck_not_before,omitempty"`
	PCKUntil  string        `json:"pck_not_after,omitempty"`
	TCB       *tdxquote.TCB `json:"tcb,omitempty"`
	QESVN     uint16        `json:"qe_svn"`
	MRENCLAVE string        `json:"qe_mrenclave"`
}

// GPUClaim is one GPU.
type GPUClaim struct {
	Arch         string `json:"arch"`
	Driver       string `json:"driver"`
	VBIOS        string `json:"vbios"`
	Nonce        string `json:"nonce"`
	Measurements int    `json:"measurements"`
}

func quoteClaims(q *tdxquote.Quote, v *tdxquote.Result) *QuoteClaim {
	b := &q.Body
	c := &QuoteClaim{
		Version: q.Header.Version, BodyType: q.BodyType.String(), TEETCBSVN: hex.EncodeToString(b.TEETCBSVN[:]), MRSEAM: b.MRSEAM.Hex(),
		TDAttributes: hex.EncodeToString(b.TDAttributes[:]), XFAM: hex.EncodeToString(b.XFAM[:]),
		MRTD: b.MRTD.Hex(), RTMR0: b.RTMR[0].Hex(), RTMR1: b.RTMR[1].Hex(), RTMR2: b.RTMR[2].Hex(), RTMR3: b.RTMR[3].Hex(),
		MRCONFIGID: hex.EncodeToString(b.MRCONFIGID[:]), MROWNER: hex.EncodeToString(b.MROWNER[:]), MROWNERCONFIG: hex.EncodeToString(b.MROWNERCONFIG[:]),
		ReportData: hex.EncodeToString(b.ReportData[:]), TCB: v.TCB, QESVN: q.QEReport.SVN, MRENCLAVE: q.QEReport.MRENCLAVE.Hex(),
	}
	if q.BodyType >= tdxquote.TD15 {
		c.MRSERVICETD, c.TEETCBSVN2 = b.MRSERVICETD.Hex(), hex.EncodeToString(b.TEETCBSVN2[:])
	}
	if q.BodyType >= tdxquote.TD15Ex {
		c.TDID, c.VMID = hex.EncodeToString(b.Extended.TDID[:]), &b.Extended.VMID
	}
	if v.PCK != nil {
		c.FMSPC, c.PPID = hex.EncodeToString(v.PCK.FMSPC[:]), hex.EncodeToString(v.PCK.PPID)
	}
	if len(v.Chain) > 0 {
		c.PCKFrom, c.PCKUntil = v.Chain[0].NotBefore.UTC().Format(time.RFC3339), v.Chain[0].NotAfter.UTC().Format(time.RFC3339)
	}
	return c
}

func gpuClaims(f *nvidia.File) []GPUClaim {
	out := make([]GPUClaim, 0, len(f.Devices))
	for i := range f.Devices {
		x := &f.Devices[i].Exchange
		out = append(out, GPUClaim{Arch: f.Devices[i].Arch, Driver: x.Driver(), VBIOS: x.VBIOS(), Nonce: fmt.Sprintf("%x", x.RequestNonce), Measurements: len(x.Blocks)})
	}
	return out
}

// MarshalJSON writes the payload in hex, as event logs do.
func (e Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		RTMR    int    `json:"rtmr"`
		Name    string `json:"name"`
		Payload string `json:"payload"`
	}{e.RTMR, e.Name, hex.EncodeToString(e.Payload)})
}
