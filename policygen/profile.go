package policygen

import (
	"fmt"
	"strings"
)

// Profile says which generator's behavior is computed. Versions are data: a
// profile switches named differences, it is never a second copy of the code.
type Profile struct {
	Name string
	// Reference names the program whose output this profile was compared with
	// byte by byte; "" means computed, unmatched.
	Reference string
	Layout    Layout

	// GuestPullStorages gives every container a storage of driver
	// image_guest_pull whose source is its image reference (Contrast patch 0003).
	GuestPullStorages bool
	// MountPropagation lets emptyDir mounts follow mountPropagation: rshared or
	// rslave in place of rprivate (Contrast patch 0005).
	MountPropagation bool
	// EphemeralVolumes treats ephemeral volumes like claims (Contrast patch 0008).
	EphemeralVolumes bool
	// RefuseDeclaredVolumes refuses an image VOLUME that no volumeMount covers
	// and adds no mounts for the others (Contrast patch 0009).
	RefuseDeclaredVolumes bool
	// SkipUsersWithGuestPull leaves /etc/passwd and /etc/group unread when the
	// guest pulls the images (kata before 4 without Contrast patch 0013).
	SkipUsersWithGuestPull bool
	// GuestPullCheck refuses users and groups that come from the image when the
	// guest pulls the images (kata 4.1).
	GuestPullCheck bool
	// ReadAllLayers also reads zstd and uncompressed layers, which kata skips
	// without a word.
	ReadAllLayers bool
	// StrictOutput refuses what kata's generator stops at when it writes YAML back:
	// lists of several objects inside a List, and templates whose metadata is
	// null.
	StrictOutput bool
	// Initdata is the text form of the initdata document.
	Initdata InitdataForm
}

// Label is what a result of this profile may be called.
func (p Profile) Label() string {
	if p.Reference == "" {
		return "computed, unmatched"
	}
	return "byte parity with " + p.Reference
}

// Layout is the order and the set of policy_data's members.
type Layout uint8

// The known layouts.
const (
	Kata4Layout Layout = iota
	Kata3Layout        // containers, request_defaults, common, sandbox, devices
)

// InitdataForm is how an initdata document is written.
type InitdataForm uint8

// The known forms.
const (
	KataTOML InitdataForm = iota // toml-rs, as genpolicy prints it
	GoTOML                       // go-toml v2, as Contrast re-encodes it
)

// Profiles are all known profiles; the first is the default.
//
// contrast-1.20 follows the descriptions of Contrast's patches to kata 3.28;
// no output of that generator was available to compare with.
func Profiles() []Profile {
	return []Profile{
		{Name: "retally", GuestPullCheck: true, ReadAllLayers: true},
		{Name: "kata-4.1", Reference: "kata-containers genpolicy 4.1.0 (7c6ba40)", GuestPullCheck: true, StrictOutput: true},
		{
			Name: "contrast-1.20", StrictOutput: true, Layout: Kata3Layout, GuestPullStorages: true, MountPropagation: true,
			EphemeralVolumes: true, RefuseDeclaredVolumes: true, Initdata: GoTOML,
		},
		{
			Name: "kata-3.28", StrictOutput: true, Layout: Kata3Layout, SkipUsersWithGuestPull: true,
		},
	}
}

// ProfileByName finds a profile.
func ProfileByName(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("no policy profile %q; known: %s", name, strings.Join(names, ", "))
}
