package config

import (
	"fmt"
	"strings"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/policygen/rules"
	"github.com/retally/retally/profiles"
)

// ProfilePrefix starts the name of an input that is built into retally, such as
// "profile:privatemode@v1.40.0". It is listed with its digest like any file.
const ProfilePrefix = "profile:"

// BuiltIn returns the content of an input that is part of the program.
func BuiltIn(name string) ([]byte, error) {
	vendor, version, _ := strings.Cut(strings.TrimPrefix(name, ProfilePrefix), "@")
	fail := func(hint, format string, args ...any) ([]byte, error) {
		return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	const known = "known: profile:privatemode@VERSION, for instance profile:privatemode@v1.40.0"
	switch vendor {
	case "tdx":
		data, ok := profiles.TDX(version)
		if !ok {
			return fail("known: "+strings.Join(profiles.TDXNames(), ", "), "there is no profile of %q", version)
		}
		return data, nil
	case "snp":
		data, ok := profiles.SNP(version)
		if !ok {
			return fail("known: "+strings.Join(profiles.SNPNames(), ", "), "there is no profile of %q", version)
		}
		return data, nil
	case "contrast":
		_, data, ok := profiles.Contrast(version)
		if !ok {
			return fail("known: "+strings.Join(profiles.ContrastReleases(), ", "), "there is no release of Contrast %q", version)
		}
		return data, nil
	case rulesVendor:
		own, err := rules.Default(rules.Binding(version))
		if err != nil {
			return fail("", "%w", err)
		}
		return own.Text, nil
	case "privatemode":
		_, data, ok := profiles.PrivatemodePlan(version)
		if !ok {
			return fail(known, "there is no plan for version %q", version)
		}
		return data, nil
	default:
		return fail(known, "there is no profile of %q", vendor)
	}
}

// ProfilePlan returns the built-in plan that a name "profile:VENDOR@VERSION"
// stands for, and a remark where it is the plan of another version.
func ProfilePlan(name string) (data []byte, remark string, err error) {
	data, err = BuiltIn(name)
	if err != nil {
		return nil, "", err
	}
	vendor, version, _ := strings.Cut(strings.TrimPrefix(name, ProfilePrefix), "@")
	if vendor == "tdx" || vendor == "snp" || vendor == "contrast" {
		return nil, "", &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("is no plan of edits"), Hint: "for instance profile:privatemode@v1.40.0"}
	}
	taken, _, _ := profiles.PrivatemodePlan(version)
	newest := profiles.PrivatemodePlans()
	if taken == newest[len(newest)-1] && strings.TrimPrefix(version, "v") != strings.TrimPrefix(taken, "v") {
		remark = fmt.Sprintf("the edits of %s are the newest that are known; whether those of %s are the same is not", taken, version)
	}
	return data, remark, nil
}

// ContrastRemark says which release stands for the one that a name asks for,
// where that is another; "" where it is the one.
func ContrastRemark(name string) string {
	version, ok := strings.CutPrefix(name, ProfilePrefix+"contrast@")
	if !ok {
		return ""
	}
	taken, _, _ := profiles.Contrast(version)
	if strings.TrimPrefix(version, "v") == strings.TrimPrefix(taken, "v") {
		return ""
	}
	return fmt.Sprintf("nothing is known of Contrast %s by itself: the newest release before it that is, %s, stands for it; whether it changed what counts is not known", version, taken)
}

// OwnRules names retally's own rules as an input.
func OwnRules(binding string) string { return ProfilePrefix + rulesVendor + "@" + binding }

const rulesVendor = "retally-rules"
