package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/retally/retally/pipeline"
)

// The claims of an attestation result (draft-ietf-rats-ear) and its
// trustworthiness vector (draft-ietf-rats-ar4si, section 2.3).
type (
	earClaims struct {
		Profile  string               `json:"eat_profile"`
		IssuedAt int64                `json:"iat"`
		Verifier earVerifier          `json:"ear.verifier-id"`
		Submods  map[string]earModule `json:"submods"`
	}
	earVerifier struct {
		Developer string `json:"developer"`
		Build     string `json:"build"`
	}
	earModule struct {
		Status string         `json:"ear.status"`
		Vector map[string]int `json:"ear.trustworthiness-vector"`
		Policy string         `json:"ear.appraisal-policy-id"`
	}
)

// Claims of the vector that a verdict stands for.
const (
	earNone        = 0
	earInstance    = 2  // recognized instance
	earNotInstance = 97 // not recognized
	earBoot        = 3  // boot components are the expected ones
	earNotRuntime  = 33 // not recognized
	earHardware    = 2  // genuine
	earNotHardware = 97 // not recognized
)

// EAR writes the verdicts about evidence as the claims of an attestation result,
// not signed. Authentic stands under hardware, expected under executables, bound
// under instance-identity. The tier is affirming only where all three pass and
// no test root is behind it. The time is that of the newest evidence's verdict,
// as the report has it, or 1970: a report has no time of its own.
func EAR(w io.Writer, r *pipeline.Report) error {
	doc := earClaims{
		Profile: "tag:github.com,2023:veraison/ear", Verifier: earVerifier{Home, r.Tool.Name + " " + r.Tool.Version}, Submods: map[string]earModule{},
	}
	if r.Gate != nil {
		if t, err := time.Parse(time.RFC3339, r.Gate.At); err == nil {
			doc.IssuedAt = t.Unix()
		}
	}
	verdicts := map[string]map[string]string{}
	for i := range r.Findings {
		f := &r.Findings[i]
		parts := f.Key.Parts()
		if parts[0] != "evidence" || len(parts) < 3 {
			continue
		}
		name, what := parts[1], strings.Join(parts[2:], "/")
		v := verdicts[name]
		if v == nil {
			v = map[string]string{}
			verdicts[name] = v
		}
		switch what {
		case "authentic", "expected", "bound":
			v[what] = f.Got.String()
		default:
			// A register that differs is no expected one, whatever else is said.
			if f.Bad() || f.Accepted {
				v["register"] = "fail"
			} else if f.Open() || f.Allowed {
				v["open"] = "unchecked"
			}
		}
	}
	if len(verdicts) == 0 {
		return &pipeline.InputError{Op: "report", Err: fmt.Errorf("no evidence was judged here, so there is no attestation result to write"), Hint: "give it under evidence, or use retally evidence verify"}
	}
	for name, v := range verdicts {
		doc.Submods[name] = module(v, len(r.TestRoots) > 0, r.Outcome)
	}
	return writeJSON(w, doc)
}

func module(v map[string]string, testRoot bool, outcome pipeline.Outcome) earModule {
	m := earModule{Status: "affirming", Vector: map[string]int{}, Policy: Home + "/blob/main/docs/evidence.md"}
	open, bad := testRoot || v["open"] != "", v["register"] != ""
	claim := func(name, verdict string, pass, fail int) {
		switch verdict {
		case "pass":
			m.Vector[name] = pass
		case "fail":
			m.Vector[name], bad = fail, true
		default:
			m.Vector[name], open = earNone, true
		}
	}
	authentic := v["authentic"]
	if testRoot && authentic == "pass" {
		authentic = ""
	}
	expected := v["expected"]
	if v["register"] != "" {
		expected = "fail"
	}
	claim("hardware", authentic, earHardware, earNotHardware)
	claim("executables", expected, earBoot, earNotRuntime)
	claim("instance-identity", v["bound"], earInstance, earNotInstance)
	switch {
	case bad:
		m.Status = "contraindicated"
	case open:
		m.Status = "none"
	case outcome != pipeline.OutcomeMatch:
		m.Status = "warning"
	}
	return m
}
