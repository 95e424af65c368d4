package report

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/pipeline"
)

// The parts of SARIF 2.1.0 (OASIS, sections 3.13 to 3.49) that a report needs.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Artifacts   []sarifArtifact   `json:"artifacts,omitempty"`
		Results     []sarifResult     `json:"results"`
		ColumnKind  string            `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Version        string      `json:"version"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string    `json:"id"`
		ShortDescription sarifText `json:"shortDescription"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	// An invocation says whether the tool came to its end: a verdict that is bad
	// is no failure of the tool.
	sarifInvocation struct {
		ExecutionSuccessful bool     `json:"executionSuccessful"`
		ExitCodeDescription string   `json:"exitCodeDescription"`
		Properties          sarifBag `json:"properties"`
	}
	sarifBag struct {
		Outcome pipeline.Outcome `json:"outcome"`
		Summary string           `json:"summary"`
	}
	sarifArtifact struct {
		Location sarifURI          `json:"location"`
		Length   int64             `json:"length"`
		Hashes   map[string]string `json:"hashes"`
	}
	sarifURI struct {
		URI string `json:"uri"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations,omitempty"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Suppressions []sarifSuppressed `json:"suppressions,omitempty"`
	}
	sarifSuppressed struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifURI     `json:"artifactLocation"`
		Region   *sarifRegion `json:"region,omitempty"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
	}
)

const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

// SARIF writes what differs, what is unchecked and what is odd, for code
// scanning (Static Analysis Results Interchange Format 2.1.0).
func SARIF(w io.Writer, r *pipeline.Report) error {
	run := sarifRun{
		Tool:        sarifTool{sarifDriver{Name: r.Tool.Name, Version: r.Tool.Version, InformationURI: Home, Rules: []sarifRule{}}},
		Invocations: []sarifInvocation{{ExecutionSuccessful: true, ExitCodeDescription: string(r.Outcome), Properties: sarifBag{r.Outcome, r.Summary}}},
		Results:     []sarifResult{}, ColumnKind: "unicodeCodePoints",
	}
	for _, in := range r.Inputs {
		run.Artifacts = append(run.Artifacts, sarifArtifact{Location: sarifURI{fileURI(in.File)}, Length: in.Size, Hashes: map[string]string{"sha-256": in.Digest.Hex()}})
	}
	rules := map[string]int{}
	for _, m := range remarks(r) {
		i, known := rules[m.rule]
		if !known {
			i = len(run.Tool.Driver.Rules)
			rules[m.rule] = i
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{ID: m.rule, ShortDescription: sarifText{ruleWords(m.rule)}})
		}
		text := m.text
		if m.help != "" {
			text += " (" + m.help + ")"
		}
		sum := sha256.Sum256([]byte(m.rule + "\x00" + string(m.key) + "\x00" + m.where.File + "\x00" + m.text))
		res := sarifResult{RuleID: m.rule, RuleIndex: i, Level: m.level, Message: sarifText{text}, Fingerprints: map[string]string{"retally/v1": hex.EncodeToString(sum[:16])}}
		if m.rule == "accepted" {
			res.Suppressions = []sarifSuppressed{{"external", "acknowledged in the gate's policy"}}
		}
		var loc sarifLocation
		if m.where.File != "" {
			loc.Physical = &sarifPhysical{Artifact: sarifURI{fileURI(m.where.File)}}
			if m.where.Line > 0 {
				loc.Physical.Region = &sarifRegion{m.where.Line}
			}
		}
		if m.key != "" {
			loc.Logical = []sarifLogical{{string(m.key)}}
		}
		if loc.Physical != nil || loc.Logical != nil {
			res.Locations = []sarifLocation{loc}
		}
		run.Results = append(run.Results, res)
	}
	return writeJSON(w, sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}})
}

// fileURI makes a relative reference of a file's name (RFC 3986 4.2): a first
// part with a colon must not look like a scheme.
func fileURI(name string) string {
	name = strings.ReplaceAll(name, `\`, "/")
	if i := strings.IndexByte(name, ':'); i >= 0 && !strings.Contains(name[:i], "/") && !path.IsAbs(name) {
		name = "./" + name
	}
	return (&url.URL{Path: name}).EscapedPath()
}

// ruleWords says what a rule is about.
func ruleWords(rule string) string {
	if w, ok := rulesInWords[rule]; ok {
		return w
	}
	if s, ok := strings.CutPrefix(rule, "gate-"); ok {
		return "denied by the gate: " + strings.ReplaceAll(s, "-", " ")
	}
	return strings.ReplaceAll(rule, "-", " ")
}

var rulesInWords = map[string]string{
	"unchecked":           "A published value was not recounted here.",
	"missing-input":       "An input is missing that would be needed to recount more.",
	"bytes":               "The published file is not byte for byte the expected one.",
	"test-root":           "Evidence was judged under a test root.",
	"accepted":            "A difference that the gate's policy acknowledges.",
	"differs-unexplained": "A recounted value is another than the published one.",
	"differs-loosened":    "What is published accepts more than what was recounted.",
	"differs-tightened":   "What is published refuses more than what was recounted.",
	"gate-differs":        "A value is another than the published one, and nobody acknowledged it.",
	"gate-loosened":       "The release accepts more than the one before.",
	"gate-new-policy":     "A workload may join that the release before did not let in.",
	"gate-debug":          "A guest may be debugged by its host.",
	"gate-expired":        "An entry of the gate's policy is past its term.",
	"gate-unused":         "An entry of the gate's policy is no longer needed.",
}

// isJSONOf reports whether a file begins as one of our JSON forms does.
func isJSONOf(marks ...string) func([]byte) bool {
	return func(head []byte) bool {
		return strings.HasPrefix(string(head), "{") && !slices.ContainsFunc(marks, func(m string) bool { return !strings.Contains(string(head), m) })
	}
}
