package published

import (
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// RegisterNames are the fields whose keys are the registers' own names.
var RegisterNames = map[string]string{
	"TrustedMeasurement": "launch", "MrTd": "mrtd", "MrSeam": "mrseam", "Xfam": "xfam", "APEIP": "apeip",
	"Rtmrs/0": "rtmr0", "Rtmrs/1": "rtmr1", "Rtmrs/2": "rtmr2", "Rtmrs/3": "rtmr3",
}

// UnescapePart undoes the escaping of a join path's part; NewKey escapes anew.
func UnescapePart(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	return strings.NewReplacer("%2F", "/", "%25", "%").Replace(s)
}

// FieldValue gives a field its type: digests of 32 and 48 bytes, numbers,
// flags, sets; everything else is text.
func FieldValue(f manifest.Field) pipeline.Value {
	if set, ok := f.Set(); ok {
		return pipeline.OfList(set)
	}
	switch v := f.Value; {
	case v == nil:
		return pipeline.Value{}
	case v.Kind == jsondoc.Bool:
		return pipeline.OfBool(v.Bool)
	case v.Kind == jsondoc.Number:
		if n, ok := f.Uint64(); ok {
			return pipeline.OfNumber(n)
		}
	case v.Kind == jsondoc.String:
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384} {
			if d, err := digest.ParseHex(alg, v.Text); err == nil {
				return pipeline.OfDigest(d)
			}
		}
	}
	text := f.Normalized()
	switch text {
	case "true", "false":
		return pipeline.OfBool(text == "true")
	case "0":
		return pipeline.OfNumber(0)
	}
	return pipeline.OfText(text)
}

// TDXField takes apart the join path of a manifest's field that is a register
// of a TDX machine: platform and the register's name.
func TDXField(path string) (platform, name string, ok bool) {
	parts := strings.SplitN(path, "/", 3)
	if len(parts) != 3 || parts[0] != "tdx" {
		return "", "", false
	}
	name = RegisterNames[parts[2]]
	return UnescapePart(parts[1]), name, tdxRegister[name]
}

// tdxRegister are the names of the fields that are registers of a machine.
var tdxRegister = map[string]bool{"mrtd": true, "rtmr0": true, "rtmr1": true, "rtmr2": true, "rtmr3": true}
