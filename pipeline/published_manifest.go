package pipeline

import (
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
)

// registerNames are the fields whose keys are the registers' own names.
var registerNames = map[string]string{
	"TrustedMeasurement": "launch", "MrTd": "mrtd", "MrSeam": "mrseam", "Xfam": "xfam", "APEIP": "apeip",
	"Rtmrs/0": "rtmr0", "Rtmrs/1": "rtmr1", "Rtmrs/2": "rtmr2", "Rtmrs/3": "rtmr3",
}

// unescapePart undoes the escaping of a join path's part; NewKey escapes anew.
func unescapePart(s string) string {
	return strings.NewReplacer("%2F", "/", "%25", "%").Replace(s)
}

// fieldValue gives a field its type: digests of 32 and 48 bytes, numbers,
// flags, sets; everything else is text.
func fieldValue(f manifest.Field) Value {
	if set, ok := f.Set(); ok {
		return OfList(set)
	}
	switch v := f.Value; {
	case v == nil:
		return Value{}
	case v.Kind == jsondoc.Bool:
		return OfBool(v.Bool)
	case v.Kind == jsondoc.Number:
		if n, ok := f.Uint64(); ok {
			return OfNumber(n)
		}
	case v.Kind == jsondoc.String:
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384} {
			if d, err := digest.ParseHex(alg, v.Text); err == nil {
				return OfDigest(d)
			}
		}
	}
	text := f.Normalized()
	switch text {
	case "true", "false":
		return OfBool(text == "true")
	case "0":
		return OfNumber(0)
	}
	return OfText(text)
}

// tdxField takes apart the join path of a manifest's field that is a register
// of a TDX machine: platform and the register's name.
func tdxField(path string) (platform, name string, ok bool) {
	parts := strings.SplitN(path, "/", 3)
	if len(parts) != 3 || parts[0] != "tdx" {
		return "", "", false
	}
	name = registerNames[parts[2]]
	return unescapePart(parts[1]), name, tdxRegister[name]
}

// tdxRegister are the names of the fields that are registers of a machine.
var tdxRegister = map[string]bool{"mrtd": true, "rtmr0": true, "rtmr1": true, "rtmr2": true, "rtmr3": true}
