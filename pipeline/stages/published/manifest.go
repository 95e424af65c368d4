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

// MachineField takes apart the join path of a manifest's field that is measured
// of a machine: the kind (tdx or snp), the platform, and what stands behind the
// platform in the key of such a measurement. The name of a register or of a
// launch value is the last of rest; before it stand, for SNP, the product and
// cpus=N where the entry has a number.
func MachineField(path string) (kind, platform string, rest []string, ok bool) {
	parts := strings.Split(path, "/")
	n := 2
	if parts[0] == "snp" {
		n = 3
		if len(parts) > 3 && strings.HasPrefix(parts[3], "cpus=") {
			n = 4
		}
	}
	if len(parts) <= n || parts[0] != "snp" && parts[0] != "tdx" {
		return "", "", nil, false
	}
	name := RegisterNames[strings.Join(parts[n:], "/")]
	if !measuredOf[parts[0]][name] {
		return "", "", nil, false
	}
	for i := range parts[:n] {
		parts[i] = UnescapePart(parts[i])
	}
	return parts[0], parts[1], append(parts[2:n:n], name), true
}

// TDXField is MachineField for a register of a TDX machine.
func TDXField(path string) (platform, name string, ok bool) {
	kind, platform, rest, ok := MachineField(path)
	if !ok || kind != "tdx" {
		return "", "", false
	}
	return platform, rest[0], true
}

// measuredOf are the names of the fields that are measured of a machine, by the
// kind of its entry.
var measuredOf = map[string]map[string]bool{
	"tdx": {"mrtd": true, "rtmr0": true, "rtmr1": true, "rtmr2": true, "rtmr3": true},
	"snp": {"launch": true, "apeip": true},
}
