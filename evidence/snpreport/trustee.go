package snpreport

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// openTrustee reads the evidence of trustee's SNP attester: the report either as
// bytes, or field by field as the Rust crate "sev" serializes it, and the
// entries of the certificate table. Of a report written field by field only the
// signature says that it was put together rightly.
func openTrustee(d *document, doc *jsondoc.Value) (*Evidence, error) {
	v := doc.Get("attestation_report")
	var raw []byte
	if v.Kind == jsondoc.Object {
		raw = d.fields(v)
	} else {
		raw = d.bytes("/attestation_report", v)
	}
	if d.err != nil {
		return nil, d.err
	}
	r, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	e := &Evidence{Form: FormTrustee, Report: r}
	switch chain := doc.Get("cert_chain"); {
	case chain.IsNull():
	case chain.Kind == jsondoc.Array:
		for i, entry := range chain.Elems {
			d.chainEntry(&e.Certificates, fmt.Sprintf("/cert_chain/%d", i), entry)
		}
	case chain.Kind == jsondoc.Object:
		for _, m := range chain.Members {
			place := "/cert_chain/" + jsondoc.EscapePointer(m.Key)
			switch m.Key {
			case "vcek", "vlek", "ask", "asvk", "ark":
				d.certificate(&e.Certificates, place, m.Value)
			default:
				d.fail(place, "an unknown member", "vcek, vlek, ask, asvk or ark")
			}
		}
	default:
		d.fail("/cert_chain", kind(chain), "an array or an object")
	}
	return e, d.err
}

// chainEntry reads an entry: cert_type is a name, or an object OTHER with a
// GUID; data are its bytes.
func (d *document) chainEntry(c *Certificates, place string, v *jsondoc.Value) {
	kindOf, raw := v.Get("cert_type"), d.bytes(place+"/data", v.Get("data"))
	if d.err != nil {
		return
	}
	name := ""
	if kindOf != nil && kindOf.Kind == jsondoc.String {
		name = strings.ToUpper(kindOf.Text)
	}
	ids := map[string]string{"VCEK": guidVCEK, "VLEK": guidVLEK, "ASK": guidASK, "ARK": guidARK, "CRL": guidCRL}
	switch {
	case name == "EMPTY" && len(raw) == 0:
	case ids[name] != "":
		if name == "CRL" && c.CRL != nil {
			d.fail(place, "a second revocation list", "one")
			return
		}
		d.err = c.addEntry(d.name+" "+place, ids[name], raw)
	case kindOf != nil && kindOf.Kind == jsondoc.Object && len(kindOf.Members) == 1 && strings.EqualFold(kindOf.Members[0].Key, "OTHER"):
		c.Others = append(c.Others, kindOf.Members[0].Value.Text)
	default:
		d.fail(place+"/cert_type", kind(kindOf)+" "+name, "VCEK, VLEK, ASK, ARK, CRL, Empty or OTHER")
	}
}

// field is the place of a report's member.
type field struct{ at, size int }

// numbers and blobs of the crate's report, by the names of its versions 1 to 7.
func reportNumbers() map[string]field {
	return map[string]field{
		"version": {0, 4}, "guest_svn": {4, 4}, "policy": {8, 8}, "vmpl": {0x30, 4}, "sig_algo": {0x34, 4}, "plat_info": {0x40, 8},
		"key_info": {0x48, 4}, "_author_key_en": {0x48, 4}, "cpuid_fam_id": {0x188, 1}, "cpuid_mod_id": {0x189, 1}, "cpuid_step": {0x18a, 1},
		"current_build": {0x1e8, 1}, "current_minor": {0x1e9, 1}, "current_major": {0x1ea, 1},
		"committed_build": {0x1ec, 1}, "committed_minor": {0x1ed, 1}, "committed_major": {0x1ee, 1},
		"launch_mit_vector": {0x1f8, 8}, "current_mit_vector": {0x200, 8},
	}
}

func reportBlobs() map[string]field {
	return map[string]field{
		"family_id": {0x10, 16}, "image_id": {0x20, 16}, "report_data": {0x50, 64}, "measurement": {0x90, 48}, "host_data": {0xc0, 32},
		"id_key_digest": {0xe0, 48}, "author_key_digest": {0x110, 48}, "report_id": {0x140, 32}, "report_id_ma": {0x160, 32}, "chip_id": {0x1a0, 64},
	}
}

// fields puts a report together from its members. A member that is not known is
// an error: the report would lack it.
func (d *document) fields(v *jsondoc.Value) []byte {
	raw := make([]byte, Size)
	numbers, blobs := reportNumbers(), reportBlobs()
	turin := false
	if n, ok := memberNumber(v, "cpuid_fam_id"); ok {
		turin = n == 0x1a
	}
	versions := map[string]int{"current": 0x1e8, "committed": 0x1ec}
	tcbs := map[string]int{"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1e0, "launch_tcb": 0x1f0}
	for _, m := range v.Members {
		place := "/attestation_report/" + jsondoc.EscapePointer(m.Key)
		number, isNumber := numbers[m.Key]
		blob, isBlob := blobs[m.Key]
		version, isVersion := versions[m.Key]
		tcb, isTCB := tcbs[m.Key]
		switch {
		case isNumber && m.Value.IsNull(): // an absent option is zero in the bytes
		case isNumber:
			d.number(raw[number.at:number.at+number.size], place, m.Value)
		case isBlob:
			d.blob(raw[blob.at:blob.at+blob.size], place, m.Value)
		case isVersion:
			d.each(place, m.Value, map[string][]byte{"build": raw[version : version+1], "minor": raw[version+1 : version+2], "major": raw[version+2 : version+3]})
		case isTCB:
			t := raw[tcb : tcb+8]
			parts := map[string][]byte{"bootloader": t[0:1], "tee": t[1:2], "snp": t[6:7], "microcode": t[7:8], "_reserved": t[2:6]}
			if turin {
				parts = map[string][]byte{"fmc": t[0:1], "bootloader": t[1:2], "tee": t[2:3], "snp": t[3:4], "microcode": t[7:8]}
			} else if f := m.Value.Get("fmc"); !f.IsNull() {
				d.fail(place+"/fmc", kind(f), "null: only Turin has an FMC")
			}
			d.each(place, m.Value, parts)
		case m.Key == "signature":
			s := raw[signedSize:]
			d.each(place, m.Value, map[string][]byte{"r": s[:componentSize], "s": s[componentSize : 2*componentSize], "_reserved": s[2*componentSize:]})
		case strings.HasPrefix(m.Key, "_reserved"):
			d.reserved(place, m.Value)
		default:
			d.fail(place, "an unknown member", "a field of the report")
		}
	}
	return raw
}

func memberNumber(v *jsondoc.Value, name string) (uint64, bool) {
	if m := v.Get(name); m != nil {
		return m.Uint64()
	}
	return 0, false
}

// number takes a number into its little-endian bytes.
func (d *document) number(dst []byte, place string, v *jsondoc.Value) {
	n, ok := v.Uint64()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	if !ok || v.Kind != jsondoc.Number || len(dst) < 8 && n>>(8*len(dst)) != 0 {
		d.fail(place, kind(v)+" "+v.Text, fmt.Sprintf("a number of %d bytes", len(dst)))
		return
	}
	copy(dst, b[:])
}

// blob takes bytes of a known size; some serializers write them in hexadecimal,
// which the size tells from base64.
func (d *document) blob(dst []byte, place string, v *jsondoc.Value) {
	if v != nil && v.Kind == jsondoc.String && len(v.Text) == hex.EncodedLen(len(dst)) {
		if _, err := hex.Decode(dst, []byte(v.Text)); err != nil {
			d.fail(place, err.Error(), "hexadecimal bytes")
		}
		return
	}
	b := d.bytes(place, v)
	if d.err == nil && len(b) != len(dst) {
		d.fail(place, fmt.Sprintf("%d bytes", len(b)), fmt.Sprint(len(dst)))
	}
	copy(dst, b)
}

// each takes the members of an object, of which each is named and known.
func (d *document) each(place string, v *jsondoc.Value, parts map[string][]byte) {
	if v.Kind != jsondoc.Object {
		d.fail(place, kind(v), "an object")
		return
	}
	for _, m := range v.Members {
		at := place + "/" + jsondoc.EscapePointer(m.Key)
		dst, ok := parts[m.Key]
		switch {
		case m.Value.IsNull():
		case !ok:
			d.fail(at, "an unknown member", "a field of the report")
		case m.Value.Kind == jsondoc.Number:
			d.number(dst, at, m.Value)
		default:
			d.blob(dst, at, m.Value)
		}
	}
}

// reserved members are zero, as a number or as bytes.
func (d *document) reserved(place string, v *jsondoc.Value) {
	if n, ok := v.Uint64(); ok && v.Kind == jsondoc.Number && n == 0 {
		return
	}
	for _, b := range d.bytes(place, v) {
		if b != 0 {
			d.fail(place, "other bytes", "zeros (reserved)")
		}
	}
}
