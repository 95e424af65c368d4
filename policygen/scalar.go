package policygen

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// scalar resolves a YAML scalar as serde_yaml 0.8.26 does: plain text by the
// rules of resolvePlain, quoted and block text as strings, and the four tags
// it knows. Any other tag, !!str too, gives a string.
//
// tag is the tag as the text has it: only the short form !!bool counts, not
// !<tag:yaml.org,2002:bool>, nor a handle that stands for the same.
func scalar(v *value, n *yaml.Node, tag string) error {
	v.kind, v.text = stringKind, n.Value
	if tag != "" {
		return tagged(v, tag, n.Value)
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return nil
	}
	if n.Value == "" && n.Anchor != "" {
		return nil // nothing behind an anchor is an empty string, not null
	}
	v.kind, v.text = resolvePlain(n.Value)
	if v.kind == tooWide {
		return fmt.Errorf("integer %s does not fit 64 bits; quote it if it is text", n.Value)
	}
	return nil
}

func tagged(v *value, tag, text string) error {
	switch tag {
	case "!!bool":
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is no boolean: write true or false", text)
		}
		v.kind = boolKind
	case "!!int":
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no 64-bit integer", text)
		}
		v.kind, v.text = intKind, strconv.FormatInt(i, 10)
	case "!!float":
		f, ok := parseFloat(text) // .inf and .nan are not what the tag's reader knows
		if !ok {
			return fmt.Errorf("%q is no number", text)
		}
		v.kind, v.text = floatKind, formatFloat(f)
	case "!!null":
		if text != "~" && text != "null" {
			return fmt.Errorf("%q is no null", text)
		}
		v.kind, v.text = nullKind, "~"
	}
	return nil
}

// tooWide is resolvePlain's answer for integers beyond 64 bits.
const tooWide kind = 255

// resolvePlain gives the kind of an untagged plain scalar and the text it is
// written back with. The first rule that fits wins.
func resolvePlain(s string) (kind, string) {
	switch s {
	case "", "~", "null": // the scanner delivers an empty plain scalar as ~
		return nullKind, "~"
	case "true", "false":
		return boolKind, s
	}
	if c := s[0]; c != '+' && c != '-' && c != '.' && (c < '0' || c > '9') {
		return stringKind, s // no number starts like this
	}
	if k, text, ok := parsePrefixed(s); ok {
		return k, text
	}
	if digits := strings.TrimLeft(s, "+-"); len(digits) > 1 && digits[0] == '0' && allDigits(digits) {
		return stringKind, s
	}
	if k, text, ok := parseDecimal(s); ok {
		return k, text
	}
	switch strings.TrimLeft(s, "+") {
	case ".inf", ".Inf", ".INF":
		return floatKind, ".inf"
	}
	switch s {
	case "-.inf", "-.Inf", "-.INF":
		return floatKind, "-.inf"
	case ".nan", ".NaN", ".NAN":
		return floatKind, ".nan"
	}
	if f, ok := parseFloat(s); ok && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return floatKind, formatFloat(f)
	}
	return stringKind, s
}

// parsePrefixed reads 0x, 0o and 0b integers. A second plus sign behind the
// prefix is accepted, as Rust's from_str_radix does.
func parsePrefixed(s string) (kind, string, bool) {
	body, negative := s, false
	switch {
	case strings.HasPrefix(s, "+"):
		body = s[1:]
	case strings.HasPrefix(s, "-"):
		body, negative = s[1:], true
	}
	base := 0
	for prefix, b := range map[string]int{"0x": 16, "0o": 8, "0b": 2} {
		if strings.HasPrefix(body, prefix) {
			base = b
		}
	}
	if base == 0 {
		return 0, "", false
	}
	digits := body[2:]
	if !negative {
		digits = strings.TrimPrefix(digits, "+")
	}
	if digits == "" || strings.ContainsAny(digits, "+-_") {
		return 0, "", false
	}
	if negative {
		i, err := strconv.ParseInt("-"+digits, base, 64)
		return intKind, strconv.FormatInt(i, 10), err == nil
	}
	u, err := strconv.ParseUint(digits, base, 64)
	return unsignedKind(u), strconv.FormatUint(u, 10), err == nil
}

func unsignedKind(u uint64) kind {
	if u > math.MaxInt64 {
		return uintKind
	}
	return intKind
}

// parseDecimal reads an integer with at most one sign: 64-bit ones become
// integers, 128-bit ones are refused by the reader (tooWide), longer ones are
// left to the float rule.
func parseDecimal(s string) (kind, string, bool) {
	digits := s
	if s[0] == '+' || s[0] == '-' {
		digits = s[1:]
	}
	if !allDigits(digits) {
		return 0, "", false
	}
	if s[0] != '-' {
		if u, err := strconv.ParseUint(digits, 10, 64); err == nil {
			return unsignedKind(u), strconv.FormatUint(u, 10), true
		}
	} else if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return intKind, strconv.FormatInt(i, 10), true
	}
	if len(digits) > 60 {
		return 0, "", false
	}
	wide, _ := new(big.Int).SetString(digits, 10)
	limit := new(big.Int).Lsh(big.NewInt(1), 128) // u128
	if s[0] == '-' {
		limit.Rsh(limit, 1).Add(limit, big.NewInt(1)) // i128
	}
	if wide.Cmp(limit) < 0 {
		return tooWide, s, true
	}
	return 0, "", false
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// parseFloat accepts what Rust's f64 parser accepts: a sign, then inf,
// infinity or nan in any case, or decimal digits with an optional point and
// exponent. Overflow gives an infinity.
func parseFloat(s string) (float64, bool) {
	body := strings.TrimLeft(s, "+-")
	if len(s)-len(body) > 1 || body == "" {
		return 0, false
	}
	switch strings.ToLower(body) {
	case "nan":
		return math.NaN(), true // strconv takes no sign
	case "inf", "infinity":
	default:
		for i := range len(body) {
			if c := body[i]; (c < '0' || c > '9') && c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-' {
				return 0, false
			}
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		// strconv refuses some forms of an exact zero exponent never; what is
		// left here is a syntax error.
		return 0, false
	}
	return f, true
}

// formatFloat prints the shortest decimal that reads back as f, plain for
// exponents from -5 to 15 and always with a fraction or an exponent, as the
// Ryu printer does.
func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return ".inf"
	case math.IsInf(f, -1):
		return "-.inf"
	case math.IsNaN(f):
		return ".nan"
	case f == 0:
		if math.Signbit(f) {
			return "-0.0"
		}
		return "0.0"
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(math.Abs(f), 'e', -1, 64), "e")
	digits := strings.Replace(mantissa, ".", "", 1)
	exp, _ := strconv.Atoi(exponent)
	sign := ""
	if f < 0 {
		sign = "-"
	}
	point := exp + 1 // digits before the decimal point
	switch {
	case point > 0 && point <= 16 && len(digits) <= point:
		return sign + digits + strings.Repeat("0", point-len(digits)) + ".0"
	case point > 0 && point <= 16:
		return sign + digits[:point] + "." + digits[point:]
	case point > -5 && point <= 0:
		return sign + "0." + strings.Repeat("0", -point) + digits
	case len(digits) == 1:
		return fmt.Sprintf("%s%se%d", sign, digits, exp)
	}
	return fmt.Sprintf("%s%s.%se%d", sign, digits[:1], digits[1:], exp)
}
