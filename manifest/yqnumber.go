package manifest

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// yqNumber rewrites a JSON number as yq v4.45.1 does, which reads every number
// as a float64 (run): 1.0 is 1, 1e3 is 1000, -0 is 0, 12345678901234567890 is
// 12345678901234567000; from 1e21 up and below 1e-6 the exponent form is used,
// with at least two digits (1e-7 is 1e-07). A number beyond float64 is an
// error there, too.
func yqNumber(literal string) (string, error) {
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return "", fmt.Errorf("number %s is beyond the range of a 64-bit float", clip(literal))
	}
	return formatFloat(f), nil
}

func formatFloat(f float64) string {
	abs := math.Abs(f)
	switch {
	case f == 0:
		return "0"
	case abs < 1e-6 || abs >= 1e21:
		return strconv.FormatFloat(f, 'e', -1, 64)
	default:
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
}

// yamlNumber reads a YAML number of a plan. What a reader might take for text
// (a leading zero) or would lose digits is refused: a hash that consists of
// digits only must not become a number unnoticed.
func yamlNumber(n *yaml.Node) (string, error) {
	s := strings.ReplaceAll(n.Value, "_", "")
	unsigned := strings.TrimLeft(s, "+-")
	if len(unsigned) > 1 && unsigned[0] == '0' && unsigned[1] >= '0' && unsigned[1] <= '9' {
		return "", fmt.Errorf("number %s with a leading zero", quote(n.Value))
	}
	if n.ShortTag() == "!!int" {
		i, ok := new(big.Int).SetString(strings.TrimPrefix(s, "+"), 0)
		if !ok {
			return "", fmt.Errorf("number %s is not readable", quote(n.Value))
		}
		f, _ := new(big.Float).SetInt(i).Float64()
		if back, accuracy := big.NewFloat(f).Int(nil); accuracy != big.Exact || back == nil || back.Cmp(i) != 0 {
			return "", fmt.Errorf("number %s does not fit a 64-bit float exactly", quote(n.Value))
		}
		return formatFloat(f), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return "", fmt.Errorf("number %s has no form in JSON", quote(n.Value))
	}
	return formatFloat(f), nil
}
