package evidence

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
		if err := checkEntry(&e, at); err != nil {
			return err
		}
		if _, ok := c.Platforms[e.Platform]; e.Platform != "" && !ok {
			return at(fmt.Sprintf("there is no platform %q", e.Platform), config.NearestHint(e.Platform, slices.Sorted(maps.Keys(c.Platforms))), "platform")
		}
	}
	return nil
}

func checkEntry(e *config.Evidence, at config.At) error {
	if e.File == "" {
		return at("file is missing", "a quote, a saved cpu.html or a folder that retally evidence capture wrote")
	}
	if e.At == "" {
		return at("at is missing: the time at which certificates must be valid", "for instance at: 2026-06-01T00:00:00Z; a result that depends on the day it is made on cannot be made again")
	}
	if _, err := time.Parse(time.RFC3339, e.At); err != nil {
		return at(fmt.Sprintf("%q is no time", e.At), "RFC 3339, for instance 2026-06-01T00:00:00Z", "at")
	}
	known := []string{string(evidence.SecretVM), string(evidence.Dstack), string(evidence.TDX), string(evidence.NVIDIA)}
	switch {
	case slices.Contains([]string{"snp", "tpm", "contrast", "blindllama"}, e.Profile):
		return at(fmt.Sprintf("evidence of profile %q is not judged yet", e.Profile), "known: "+strings.Join(known, ", "), "profile")
	case e.Profile != "" && !slices.Contains(known, e.Profile):
		return at(fmt.Sprintf("unknown profile %q", e.Profile), config.NearestHint(e.Profile, known), "profile")
	}
	if err := config.CheckAppID(e.AppID, at); err != nil {
		return err
	}
	if _, err := imageHash(e.OSImageHash); err != nil {
		return at(fmt.Sprintf("%q is no os_image_hash: %s", e.OSImageHash, err), "64 hex digits, in quotation marks", "os_image_hash")
	}
	if b, err := hex.DecodeString(e.Nonce); err != nil || len(b) > 64 {
		return at(fmt.Sprintf("%q is no nonce", e.Nonce), "up to 128 hex digits", "nonce")
	}
	for i, s := range e.AcceptTCB {
		switch {
		case s == tdxquote.Revoked:
			return at("accept_tcb: Revoked is never accepted", "", "accept_tcb")
		case !slices.Contains(tcbStatuses, s):
			return at(fmt.Sprintf("accept_tcb[%d]: unknown status %q", i, s), config.NearestHint(s, tcbStatuses), "accept_tcb")
		}
	}
	for i, s := range e.MRSEAM {
		if _, err := digest.ParseHex(digest.SHA384, strings.ToLower(s)); err != nil {
			return at(fmt.Sprintf("mrseam[%s]: %s", strconv.Itoa(i), err), "", "mrseam")
		}
	}
	return nil
}

// imageHash reads an os_image_hash, zero where none is given.
func imageHash(text string) (digest.Digest, error) {
	if text == "" {
		return digest.Digest{}, nil
	}
	return digest.ParseHex(digest.SHA256, strings.ToLower(strings.TrimPrefix(text, "sha256:")))
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
		p := c.Platforms[e.Platform]
		take(&e.Profile, evidenceProfile(p.Profile))
		take(&e.Registry, c.Registry)
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
