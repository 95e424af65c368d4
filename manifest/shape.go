package manifest

import (
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// Version is a family of Contrast versions that write the same shape. The
// bounds in the middle are inferred from the releases that Privatemode pinned,
// not read release by release.
type Version uint8

// The families, oldest first.
const (
	V07   Version = iota + 1 // 0.7: policies are lists of SANs, one SNP object
	V16                      // 1.0 to about 1.7 (1.6 certain): policy objects, lists of reference values; Role since about 1.7
	V18                      // about 1.8 to 1.11: GuestPolicy, PlatformInfo
	V112                     // 1.12 to 1.13: no SVNs of TDX (PR 1661 of 2025-07-31)
	V114                     // 1.14 to 1.15: Rtrms spelt Rtmrs (PR 1821 of 2025-10-07)
	V116                     // about 1.16 to 1.19: AllowedChipIDs, later Platform, MinimumMitigationVector, CPUs
	V120                     // 1.20: WorkloadOwnerPubKeys, CPUs
	Newer                    // after 1.20: CPUs gone, APEIP
)

var versionNames = [...]string{"", "Contrast 0.7", "Contrast 1.6", "Contrast 1.8", "Contrast 1.12 to 1.13", "Contrast 1.14 to 1.15", "Contrast 1.16", "Contrast 1.20", "Contrast after 1.20"}

// The bounds of the families, for ranges of several.
var (
	firstReleases = [...]string{"", "0.7", "1.6", "1.8", "1.12", "1.14", "1.16", "1.20", ""}
	lastReleases  = [...]string{"", "0.7", "1.7", "1.11", "1.13", "1.15", "1.19", "1.20", ""}
)

// String names the family by its first known version, or its only ones.
func (v Version) String() string {
	if v == 0 {
		return "unknown"
	}
	return nameOf(versionNames[:], int(v))
}

// Shape says which versions may have written a manifest.
type Shape struct {
	// Oldest and Newest bound the families; both zero if the signs contradict
	// each other, which no version writes.
	Oldest, Newest Version
	Signs          []Sign
}

// Sign is one property of the file that tells versions apart.
type Sign struct {
	Pointer        string
	Text           string
	Oldest, Newest Version
}

// Known reports whether the signs fit together.
func (s Shape) Known() bool { return s.Oldest != 0 }

// String says the range and what decided it, for instance "Contrast 1.20 or
// later: WorkloadOwnerPubKeys".
func (s Shape) String() string {
	var why []string
	for _, sign := range s.Signs {
		if !s.Known() || sign.Oldest == s.Oldest && s.Oldest > V07 || sign.Newest == s.Newest && s.Newest < Newer {
			why = append(why, sign.Text)
		}
	}
	var head string
	switch {
	case !s.Known():
		head = "no known version: contradicting signs"
	case s.Oldest == s.Newest:
		head = s.Oldest.String()
	case s.Newest == Newer:
		head = "Contrast " + nameOf(firstReleases[:], int(s.Oldest)) + " or later"
	case s.Oldest == V07:
		head = "Contrast " + nameOf(lastReleases[:], int(s.Newest)) + " or earlier"
	default:
		head = "Contrast " + nameOf(firstReleases[:], int(s.Oldest)) + " to " + nameOf(lastReleases[:], int(s.Newest))
	}
	if len(why) == 0 {
		return head
	}
	return head + ": " + strings.Join(why, ", ")
}

// signTable maps the presence of a field to the families that write it. Role
// is not among them: it came with the coordinator's policy in March 2025, which
// is about 1.7 and inside V16.
var signTable = []struct {
	path           string
	oldest, newest Version
}{
	{"snp/GuestPolicy", V18, Newer},
	{"snp/PlatformInfo", V18, Newer},
	{"snp/AllowedChipIDs", V116, Newer},
	{"snp/Platform", V116, Newer},
	{"snp/MinimumMitigationVector", V116, Newer},
	{"snp/CPUs", V116, V120},
	{"snp/APEIP", Newer, Newer},
	{"tdx/Rtrms", V16, V112},
	{"tdx/Rtmrs", V114, Newer},
	{"tdx/MinimumQeSvn", V16, V18},
	{"tdx/MinimumPceSvn", V16, V18},
	{"tdx/MinimumTeeTcbSvn", V16, V18},
	{"tdx/TdAttributes", V16, V116}, // gone at the latest in 1.20; the release was not found
	{"tdx/Platform", V116, Newer},
	{"tdx/MinTCBEvaluationDataNumber", V116, Newer},
	{"tdx/AllowedPIIDs", V116, Newer},
}

// Shape finds the version family. Fields that operators delete after
// generation (the owner keys) only count when they are there; fields that
// Contrast always writes count when they are missing, too.
func (m *Manifest) Shape() Shape {
	s := Shape{Oldest: V07, Newest: Newer}
	seen := map[string]bool{}
	add := func(pointer, text string, oldest, newest Version) {
		if seen[text] {
			return
		}
		seen[text] = true
		s.Signs = append(s.Signs, Sign{pointer, text, oldest, newest})
		s.Oldest, s.Newest = max(s.Oldest, oldest), min(s.Newest, newest)
	}
	var coordinators []string
	for _, p := range members(m.tree.Get("Policies")) {
		pointer := "/Policies/" + jsondoc.EscapePointer(p.Key)
		switch p.Value.Kind {
		case jsondoc.Array:
			add(pointer, "policies are lists of SANs", V07, V07)
		case jsondoc.Object:
			add(pointer, "policies are objects", V16, Newer)
			m.addSigns(add, p.Value, "policy", pointer)
			if text(p.Value.Get("Role")) == roleCoordinator {
				coordinators = append(coordinators, pointer)
			}
		}
	}
	if len(coordinators) > 1 {
		add(coordinators[1], "several coordinators", V120, Newer)
	}
	for _, kind := range []string{"snp", "tdx"} {
		for _, e := range m.entries(kind) {
			if e.pointer == "/ReferenceValues/SNP" {
				add(e.pointer, "one SNP object", V07, V07)
				continue
			}
			add("/ReferenceValues/"+kind, "lists of reference values", V16, Newer)
			m.addSigns(add, e.value, kind, e.pointer)
			if kind == "snp" && e.value.Get("GuestPolicy") == nil && e.value.Get("Platform") == nil {
				add(e.pointer, "no GuestPolicy", V07, V16)
			}
			if kind == "tdx" && e.value.Get("MrTd") != nil && e.value.Get("MinimumQeSvn") == nil && e.value.Get("MinimumPceSvn") == nil && e.value.Get("MinimumTeeTcbSvn") == nil {
				add(e.pointer, "no SVNs of TDX", V112, Newer)
			}
		}
	}
	if m.tree.Get("WorkloadOwnerKeyDigests") != nil {
		add("/WorkloadOwnerKeyDigests", "WorkloadOwnerKeyDigests", V07, V116)
	}
	if m.tree.Get("WorkloadOwnerPubKeys") != nil {
		add("/WorkloadOwnerPubKeys", "WorkloadOwnerPubKeys", V120, Newer)
	}
	if s.Oldest > s.Newest {
		s.Oldest, s.Newest = 0, 0
	}
	return s
}

func (m *Manifest) addSigns(add func(pointer, text string, oldest, newest Version), v *jsondoc.Value, kind, pointer string) {
	for _, member := range members(v) {
		for _, row := range signTable {
			if key, ok := cutPrefix(row.path, kind); ok && key == member.Key {
				add(pointer+"/"+jsondoc.EscapePointer(member.Key), member.Key, row.oldest, row.newest)
			}
		}
	}
}

const roleCoordinator = "coordinator"

func indexPointer(pointer string, i int) string { return pointer + "/" + strconv.Itoa(i) }
