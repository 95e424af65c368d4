package imagehash

import "strings"

// normal spells a platform as containerd does before it compares (containerd,
// platforms: database.go): the names of uname and of Debian become Go's, and the
// variant that an architecture has anyhow is left out.
func (p platform) normal() platform {
	p.os, p.architecture, p.variant = strings.ToLower(p.os), strings.ToLower(p.architecture), strings.ToLower(p.variant)
	if p.os == "macos" {
		p.os = "darwin"
	}
	switch p.architecture {
	case "i386":
		p.architecture, p.variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		p.architecture = "amd64"
		if p.variant == "v1" {
			p.variant = ""
		}
	case "aarch64", "arm64":
		p.architecture = "arm64"
		if p.variant == "8" || p.variant == "v8" {
			p.variant = ""
		}
	case "armhf":
		p.architecture, p.variant = "arm", "v7"
	case "armel":
		p.architecture, p.variant = "arm", "v6"
	case "armv5", "armv6", "armv7", "armv6l", "armv7l":
		// One word as uname has it, which containerd does not know.
		if v := strings.TrimSuffix(strings.TrimPrefix(p.architecture, "arm"), "l"); p.variant == "" || p.variant == v || "v"+p.variant == v {
			p.architecture, p.variant = "arm", v
		}
	case "arm":
		switch v := strings.TrimPrefix(p.variant, "arm"); v {
		case "", "7", "v7":
			p.variant = "v7"
		case "5", "6", "8":
			p.variant = "v" + v
		case "v5", "v6", "v8":
			p.variant = v
		}
	}
	return p
}

// same reports whether two platforms agree as far as both say something.
func (p platform) same(q platform) bool {
	return p.os == q.os && p.architecture == q.architecture && (p.variant == "" || q.variant == "" || p.variant == q.variant)
}

// fits reports whether a platform is one that is asked for, as
// os/architecture[/variant].
func (p platform) fits(want string) bool {
	w := platform{}
	w.os, w.architecture, _ = strings.Cut(want, "/")
	w.architecture, w.variant, _ = strings.Cut(w.architecture, "/")
	bare := w.variant == ""
	p, w = p.normal(), w.normal()
	return p.os == w.os && p.architecture == w.architecture && (bare || p.variant == w.variant)
}
