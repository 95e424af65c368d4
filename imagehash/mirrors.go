package imagehash

import (
	"fmt"
	"strings"
)

// ParseMirrors reads HOST=ADDR of each mirror, for Remote.Mirrors.
func ParseMirrors(list []string) (map[string]string, error) {
	mirrors := map[string]string{}
	for _, m := range list {
		host, addr, ok := strings.Cut(m, "=")
		if !ok || host == "" || addr == "" {
			return nil, fmt.Errorf("%s: want HOST=ADDR", m)
		}
		mirrors[host] = addr
	}
	return mirrors, nil
}
