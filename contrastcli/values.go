package contrastcli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Value is one launch value of the embedded reference values.
type Value struct {
	Platform string // lower case, as a handler has it
	Product  string // of SNP
	CPUs     *uint64
	Field    string // TrustedMeasurement, MrTd, Rtmrs/0 to Rtmrs/3
	Hex      string // lower case
}

// Values lists the launch values of reference values. An entry that holds
// something else than text where a value is expected is an error.
func Values(f File) ([]Value, error) {
	var m map[string]struct {
		SNP []struct {
			ProductName, TrustedMeasurement string
			CPUs                            *uint64
		} `json:"snp"`
		TDX []struct {
			MrTd  string
			Rtmrs []string
		} `json:"tdx"`
	}
	if err := json.Unmarshal(f.Data, &m); err != nil {
		return nil, &Error{"read embedded reference values", err.Error(), ""}
	}
	var out []Value
	for h, v := range m {
		p := strings.TrimPrefix(h, "contrast-cc-")
		p = p[:strings.LastIndexByte(p, '-')]
		for _, s := range v.SNP {
			out = append(out, Value{p, s.ProductName, s.CPUs, "TrustedMeasurement", strings.ToLower(s.TrustedMeasurement)})
		}
		for _, t := range v.TDX {
			out = append(out, Value{p, "", nil, "MrTd", strings.ToLower(t.MrTd)})
			for i, r := range t.Rtmrs {
				out = append(out, Value{p, "", nil, fmt.Sprintf("Rtmrs/%d", i), strings.ToLower(r)})
			}
		}
	}
	return out, nil
}

// Select finds the one value of a platform, or says why there is none: none
// such, or several that differ.
func Select(list []Value, want Value) (string, string) {
	var found []string
	for _, v := range list {
		same := v.CPUs == nil && want.CPUs == nil || v.CPUs != nil && want.CPUs != nil && *v.CPUs == *want.CPUs
		if v.Platform == strings.ToLower(want.Platform) && v.Product == want.Product && v.Field == want.Field && same && !slices.Contains(found, v.Hex) {
			found = append(found, v.Hex)
		}
	}
	switch {
	case len(found) == 0:
		return "", "the program has no such value for this platform"
	case len(found) > 1:
		return "", fmt.Sprintf("the program has %d values for this platform that differ", len(found))
	}
	return found[0], ""
}

// Checksum reads the SHA-256 of a program out of a release's checksums: lines of
// sha256sum, or one digest (sha256:hex, as GitHub shows it, or hex). Of several
// lines the one for name counts; two that differ are an error.
func Checksum(file, text, name string) (digest.Digest, error) {
	var found digest.Digest
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, l := range lines {
		words := strings.Fields(l)
		if len(words) == 0 {
			continue
		}
		if len(words) > 2 {
			return found, &Error{"read checksum", fmt.Sprintf("%s:%d: %q", file, i+1, l), "a line is a digest and a file name"}
		}
		d, err := digest.ParseHex(digest.SHA256, strings.TrimPrefix(words[0], "sha256:"))
		if err != nil {
			return found, &Error{"read checksum", fmt.Sprintf("%s:%d: %v", file, i+1, err), ""}
		}
		if len(words) == 2 {
			of := strings.TrimPrefix(words[1], "*")
			if of[strings.LastIndexByte(of, '/')+1:] != name && len(lines) > 1 {
				continue
			}
		} else if len(lines) > 1 {
			return found, &Error{"read checksum", fmt.Sprintf("%s:%d: a digest without a name among several lines", file, i+1), ""}
		}
		if !found.IsZero() && found != d {
			return found, &Error{"read checksum", fmt.Sprintf("%s: two digests of %s that differ", file, name), ""}
		}
		found = d
	}
	if found.IsZero() {
		return found, &Error{"read checksum", fmt.Sprintf("%s: no digest of %s", file, name), "name the program as the release does"}
	}
	return found, nil
}
