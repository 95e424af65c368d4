package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
)

// nextOfEvidence is the command to propose for what was found of machines, ""
// where none follows. at is how the user named the paths.
func nextOfEvidence(s *recognize.Subject, at string) string {
	if s.ConfigInput != nil {
		return ""
	}
	path := func(name string) string { return quote(filepath.ToSlash(s.Reader.Path(name))) }
	if names := slices.Sorted(maps.Keys(s.Config.Evidence)); len(names) > 0 {
		return verifyCommand(s, s.Config.Evidence[names[0]], path)
	}
	for _, f := range s.Found {
		if f.Kind == recognize.KindFirmware {
			return "retally tdx measure --profile secretvm --firmware " + path(f.Name) + " --kernel bzImage --initrd initramfs.cpio.gz --cmdline TEXT --memory 2G --cpu 1"
		}
	}
	for _, f := range s.Found {
		if f.Kind == recognize.KindEventLog {
			return "retally tdx replay " + path(f.Name)
		}
	}
	if c := s.Config; c.Registry != "" || c.Compose != "" && c.Deployment == "" {
		return "retally evidence capture HOST --out capture, then retally check " + at + " capture"
	}
	return ""
}

// verifyCommand proposes to verify a piece of evidence with what lies beside
// it, and names what does not.
func verifyCommand(s *recognize.Subject, e config.Evidence, path func(string) string) string {
	words := []string{"retally evidence verify", path(e.File)}
	if e.GPU != "" {
		words = append(words, path(e.GPU))
	}
	add := func(flag, file, otherwise string) {
		if file != "" {
			otherwise = path(file)
		}
		words = append(words, flag, otherwise)
	}
	switch e.Profile {
	case string(evidence.NVIDIA):
		return strings.Join(append(words, "--nonce HEX"), " ")
	case string(evidence.Dstack):
		add("--docker-compose", s.Config.Compose, "app-compose.json")
		words = append(words, "--os-image-hash HEX")
	default:
		add("--registry", s.Config.Registry, "tdx.csv")
		add("--docker-compose", s.Config.Compose, "docker-compose.yaml")
	}
	// A capture has its own.
	if info, err := os.Stat(s.Reader.Path(e.File)); e.TLSCert != "" || err == nil && !info.IsDir() {
		add("--tls-cert", e.TLSCert, "cert.pem")
	}
	return strings.Join(words, " ")
}
