package evidence

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/tdxmeasure"
)

func check(c *config.Config, bad config.At) error {
	for _, name := range slices.Sorted(maps.Keys(c.Evidence)) {
		e := c.Evidence[name]
		at := func(msg, hint string, field ...string) error {
			return bad(msg, hint, append([]string{"evidence", name}, field...)...)
		}
		if name == "" {
			return at("evidence needs a name", "any will do, such as the machine's")
		}
		if err := Check(&e, at); err != nil {
			return err
		}
		if _, ok := c.Platforms[e.Platform]; e.Platform != "" && !ok {
			return at(fmt.Sprintf("there is no platform %q", e.Platform), config.NearestHint(e.Platform, slices.Sorted(maps.Keys(c.Platforms))), "platform")
		}
	}
	return nil
}

// Profiles are the conventions that evidence is judged by.
func Profiles() []string {
	return []string{string(evidence.SecretVM), string(evidence.Dstack), string(evidence.TDX), string(evidence.SNP), string(evidence.TPM), string(evidence.BlindLlama), string(evidence.NVIDIA), string(evidence.Contrast)}
}

// Check finds what is wrong with an entry by itself; path names the field.
func Check(e *config.Evidence, at config.At) error {
	if e.File == "" {
		return at("file is missing", "a quote, a saved cpu.html, a proof file or a folder that retally evidence capture wrote")
	}
	if e.At == "" {
		return at("at is missing: the time at which certificates must be valid", "for instance at: 2026-06-01T00:00:00Z; a result that depends on the day it is made on cannot be made again")
	}
	if _, err := time.Parse(time.RFC3339, e.At); err != nil {
		return at(fmt.Sprintf("%q is no time", e.At), "RFC 3339, for instance 2026-06-01T00:00:00Z", "at")
	}
	for _, find := range []func(*config.Evidence, config.At) error{checkWords, checkAsked, checkDigests} {
		if err := find(e, at); err != nil {
			return err
		}
	}
	if err := config.CheckAppID(e.AppID, at); err != nil {
		return err
	}
	if b, err := hex.DecodeString(strings.TrimPrefix(e.Nonce, "0x")); err != nil || len(b) > 64 {
		return at(fmt.Sprintf("%.140q is no nonce", e.Nonce), "up to 128 hex digits", "nonce")
	}
	return nil
}

// checkWords finds unknown words.
func checkWords(e *config.Evidence, at config.At) error {
	known := Profiles()
	switch {
	case e.Profile != "" && !slices.Contains(known, e.Profile):
		return at(fmt.Sprintf("unknown profile %q", e.Profile), config.NearestHint(e.Profile, known), "profile")
	}
	for i, name := range e.Only {
		if !slices.Contains(evidence.Judgements(), name) {
			return at(fmt.Sprintf("unknown verdict %q", name), "known: "+strings.Join(evidence.Judgements(), ", "), "only")
		}
		if slices.Contains(e.Only[:i], name) {
			return at(fmt.Sprintf("the verdict %s is there twice", name), "", "only")
		}
	}
	for _, s := range e.AcceptTCB {
		switch {
		case s == tdxquote.Revoked:
			return at("Revoked is never accepted", "", "accept_tcb")
		case !slices.Contains(tcbStatuses, s):
			return at(fmt.Sprintf("unknown status %q", s), config.NearestHint(s, tcbStatuses), "accept_tcb")
		}
	}
	return nil
}

// For says which verdict a field of an entry is for, "" for none of its own.
func For(field string) string {
	switch field {
	case "registry", "compose", "docker_files", "rootfs", "app_id", "manifest", "measured", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "measurement", "host_data", "require", "vm_config", "os_image_hash", "golden", "event_log", "app_root", "workload", "earlier", "owner_key":
		return evidence.Expected
	case "tls_cert", "nonce", "capabilities":
		return evidence.Bound
	case "collateral", "accept_tcb", "mrseam", "service_td", "intel_root", "nvidia_root", "vcek", "certs", "crl", "roots", "ak":
		return evidence.Authentic
	}
	return ""
}

// checkAsked finds fields that say how a verdict would be judged that is not
// asked for: they would be ignored. What authentic rests on is never idle, since
// no evidence passes without it.
func checkAsked(e *config.Evidence, at config.At) error {
	for _, f := range []struct{ name, text string }{
		{"registry", e.Registry},
		{"compose", e.Compose},
		{"docker_files", e.DockerFiles},
		{"rootfs", e.Rootfs},
		{"app_id", e.AppID},
		{"manifest", e.Manifest},
		{"measured", strings.Join(e.Measured, "")},
		{"mrtd", e.MRTD},
		{"rtmr0", e.RTMR0},
		{"rtmr1", e.RTMR1},
		{"rtmr2", e.RTMR2},
		{"rtmr3", e.RTMR3},
		{"measurement", strings.Join(e.Measurement, "")},
		{"host_data", e.HostData},
		{"require", strings.Join(e.Require, "")},
		{"vm_config", e.VMConfig},
		{"os_image_hash", e.OSImageHash},
		{"golden", e.Golden},
		{"event_log", e.EventLog},
		{"app_root", e.AppRoot},
		{"tls_cert", e.TLSCert},
		{"nonce", e.Nonce},
		{"workload", e.Workload},
		{"earlier", strings.Join(e.Earlier, "")},
		{"owner_key", strings.Join(e.OwnerKey, "")},
		{"capabilities", e.Capabilities},
	} {
		if what := For(f.name); f.text != "" && !slices.Contains(asked(e.Only), what) {
			return at(fmt.Sprintf("is for the verdict %s, which is not asked for: only %s", what, strings.Join(e.Only, ", ")), "leave one of them out", f.name)
		}
	}
	return nil
}

// checkDigests finds what is no digest where one must stand.
func checkDigests(e *config.Evidence, at config.At) error {
	for name, list := range map[string][]string{"mrseam": e.MRSEAM, "service_td": e.ServiceTD, "measurement": e.Measurement} {
		for _, text := range list {
			if _, err := parseHex(digest.SHA384, text); err != nil {
				return at(err.Error(), "", name)
			}
		}
	}
	for i, text := range []string{e.MRTD, e.RTMR0, e.RTMR1, e.RTMR2, e.RTMR3} {
		if _, err := parseHex(digest.SHA384, text); text != "" && err != nil {
			return at(err.Error(), "as the vendor prints it, in quotation marks", string(evidence.Registers()[i]))
		}
	}
	if _, err := parseHex(digest.SHA256, e.HostData); e.HostData != "" && err != nil {
		return at(err.Error(), "64 hex digits, in quotation marks", "host_data")
	}
	if _, err := parseHex(digest.SHA256, e.AppRoot); e.AppRoot != "" && err != nil {
		return at(err.Error(), "64 hex digits, in quotation marks: the root hash of the application disk", "app_root")
	}
	if _, err := parseRequire(e.Require); err != nil {
		return at(err.Error(), "", "require")
	}
	if _, err := imageHash(e.OSImageHash); err != nil {
		return at(err.Error(), "the image's hash as the vendor publishes it, in quotation marks", "os_image_hash")
	}
	for name, text := range map[string]string{"compose": e.Compose, "rootfs": e.Rootfs, "docker_files": e.DockerFiles} {
		if _, _, err := givenDigest(text); err != nil {
			return at(err.Error(), "a file, or its digest as sha256:HEX", name)
		}
	}
	return nil
}

// parseHex reads a digest in hex, with or without 0x or the algorithm in front.
func parseHex(alg digest.Algorithm, text string) (digest.Digest, error) {
	bare := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(text), "0x"), alg.String()+":")
	d, err := digest.ParseHex(alg, bare)
	if err != nil {
		return digest.Digest{}, fmt.Errorf("found %.120q, want %d hexadecimal digits", text, 2*alg.Size())
	}
	return d, nil
}

// givenDigest reads a digest that stands in place of a file.
func givenDigest(text string) (d digest.Digest, given bool, err error) {
	if !strings.HasPrefix(text, "sha256:") {
		return digest.Digest{}, false, nil
	}
	d, err = parseHex(digest.SHA256, text)
	return d, true, err
}

// imageHash reads an os_image_hash, zero where none is given.
func imageHash(text string) (digest.Digest, error) {
	if text == "" {
		return digest.Digest{}, nil
	}
	return parseHex(digest.SHA256, text)
}

// tcbStatuses are what Intel's collateral says of a platform and may be
// accepted.
var tcbStatuses = []string{
	tdxquote.SWHardeningNeeded, tdxquote.ConfigurationNeeded, tdxquote.ConfigurationAndSW, tdxquote.OutOfDate, tdxquote.OutOfDateConfiguration, tdxquote.UpToDate,
}

// fill writes out what evidence takes from its platform and from
// elsewhere.
func fill(c *config.Config) {
	take := func(to *string, from ...string) {
		for _, f := range from {
			if *to == "" {
				*to = f
			}
		}
	}
	for name, e := range c.Evidence {
		if e.GPU != "" {
			e.Also, e.GPU = append(slices.Clone(e.Also), e.GPU), ""
		}
		p := c.Platforms[e.Platform]
		take(&e.Profile, evidenceProfile(p.Profile))
		if !slices.Contains(asked(e.Only), evidence.Expected) {
			c.Evidence[name] = e
			continue
		}
		if p.TEE != "snp" && e.Profile != string(evidence.SNP) && e.Profile != string(evidence.Contrast) { // its rows are registers of TDX machines, of which a manifest has its own
			take(&e.Registry, c.Registry)
		}
		if !strings.HasPrefix(p.Compose, "sha256:") { // the text is judged, too
			take(&e.Compose, p.Compose, c.Compose)
		}
		take(&e.Rootfs, p.Rootfs)
		take(&e.DockerFiles, p.DockerFiles)
		take(&e.AppID, p.AppID)
		c.Evidence[name] = e
	}
}

// evidenceProfile is by whose conventions the evidence of a machine is judged.
func evidenceProfile(machine string) string {
	p, err := tdxmeasure.LoadProfile(machine)
	if err != nil {
		return "" // one of the user's own: as the file shows
	}
	return p.Evidence
}
