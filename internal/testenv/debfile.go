package testenv

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
)

// DebFile looks for a file of a Debian package by its name and SHA-256, where
// packages put firmware and kernels and in the folders that RETALLY_DEB_FILES
// lists.
func DebFile(name, sum string) ([]byte, bool) {
	dirs := append([]string{"/usr/share/ovmf", "/usr/share/OVMF", "/boot"}, filepath.SplitList(os.Getenv("RETALLY_DEB_FILES"))...)
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if got := sha256.Sum256(data); hex.EncodeToString(got[:]) == sum {
			return data, true
		}
	}
	return nil, false
}
