package pcrmeasure

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/trace"
)

//go:embed data/clouds.json
var cloudsJSON []byte

// Cloud says what a provider's machines measure, and what cannot be seen there.
type Cloud struct {
	Name string `json:"name"`
	// PCRs says for ranges of PCRs ("0", "2-3") what is in them.
	PCRs map[string]string `json:"pcrs"`
	// Hidden is what no artifact that a customer can have explains.
	Hidden []string `json:"hidden"`
	Log    string   `json:"log"` // what the event log is worth
	Source string   `json:"source"`
}

// Clouds are the providers that are known.
func Clouds() ([]Cloud, error) {
	var list []Cloud
	if err := json.Unmarshal(cloudsJSON, &list); err != nil {
		return nil, fmt.Errorf("read built-in clouds: %w", err)
	}
	return list, nil
}

// GCETechnology is the confidential technology that GCE's firmware states in
// PCR 0.
type GCETechnology byte

// The technologies. None, SEV and SEV-SNP were met in logs of machines; the
// others have the numbers of google/go-tpm-tools, proto/attest.proto,
// GCEConfidentialTechnology.
const (
	GCENone   GCETechnology = 0
	GCESEV    GCETechnology = 1
	GCESEVES  GCETechnology = 2
	GCETDX    GCETechnology = 3
	GCESEVSNP GCETechnology = 4
)

// GCEPCR0 is PCR 0 of a machine of Google Compute Engine: its firmware measures
// a version and a technology in place of its code. The value says nothing about
// the code.
func GCEPCR0(bank digest.Algorithm, version int, technology GCETechnology) (Trace, error) {
	t := Trace{Fold: trace.Extend, Algorithm: bank, Events: []trace.Event{}}
	if version < 1 || version > 999 || technology > GCESEVSNP {
		return t, &place.Fault{Op: "predict", Input: "PCR 0 of GCE", Field: "firmware version and technology", Found: fmt.Sprintf("%d and %d", version, technology), Want: "1 to 999 and 0 to 4"}
	}
	name, err := loadOptions(fmt.Sprintf("GCE Virtual Firmware v%d", version))
	if err != nil {
		return t, err
	}
	t.Made(fmt.Sprintf("CRTM version, GCE Virtual Firmware v%d", version), name)
	info := append([]byte("GCE NonHostInfo\x00"), byte(technology))
	t.Made(fmt.Sprintf("non-host information, technology %d", technology), append(info, make([]byte, 15)...))
	t.Made("separator", make([]byte, 4))
	return t, nil
}
