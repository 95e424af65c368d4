package disk

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes with an optional binary unit.
func ParseSize(s string) (int64, error) {
	shift := 0
	digits := strings.TrimRight(s, "BbiI")
	switch {
	case strings.HasSuffix(strings.ToUpper(digits), "K"):
		shift = 10
	case strings.HasSuffix(strings.ToUpper(digits), "M"):
		shift = 20
	case strings.HasSuffix(strings.ToUpper(digits), "G"):
		shift = 30
	}
	if shift > 0 {
		digits = digits[:len(digits)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("want a number of bytes, such as 64M or 2G")
	}
	return n << shift, nil
}
