package report

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
)

// A launchValue is a register of a machine, as it must be.
type launchValue struct {
	tee      string // tdx, snp, tpm
	machine  string // what the register is of: platform, product, vCPUs
	register string
	value    digest.Digest
}

// launchValues lists the launch measurements that a verifier may take as
// reference values: recounted here, and nothing published says otherwise. What
// was copied or assumed is nobody's reference.
func launchValues(r *pipeline.Report) []launchValue {
	bad := map[pipeline.Key]bool{}
	for i := range r.Findings {
		if r.Findings[i].Bad() {
			bad[r.Findings[i].Key] = true
		}
	}
	standings := pipeline.Standings(r.Measurements)
	var out []launchValue
	for _, m := range r.Measurements {
		parts := m.Key.Parts()
		d := m.Value.Digest()
		if bad[m.Key] || d.IsZero() || len(parts) < 3 || !slices.Contains([]string{"tdx", "snp", "tpm"}, parts[0]) {
			continue
		}
		if b := standings[m.Key].Effective; b != pipeline.Rebuilt && b != pipeline.Recomputed {
			continue
		}
		v := launchValue{tee: parts[0], value: d}
		if v.tee == "tpm" {
			v.machine, v.register = parts[1], strings.Join(parts[2:], "/")
		} else {
			v.machine, v.register = strings.Join(parts[1:len(parts)-1], "/"), parts[len(parts)-1]
		}
		if v.tee == "tdx" && !tdRegister(v.register) || v.tee == "snp" && v.register != "launch" {
			continue
		}
		out = append(out, v)
	}
	return out
}

// tdRegister: what a TD's own artifacts give, MRTD and RTMR0 to 3. MRSEAM is
// Intel's.
func tdRegister(name string) bool {
	return name == "mrtd" || strings.HasPrefix(name, "rtmr") && len(name) == len("rtmr0")
}

// vendors of the environments that a CoRIM describes.
var vendors = map[string]string{"tdx": "Intel", "snp": "AMD", "tpm": "TCG"}

// hashID is an algorithm's number in IANA's Named Information Hash Algorithm
// Registry, which CoRIM uses.
func hashID(a string) (uint64, bool) {
	id, ok := map[string]uint64{"sha256": 1, "sha384": 7, "sha512": 8}[a]
	return id, ok
}

// The maps of a CoRIM and its CoMID tag (draft-ietf-rats-corim, Concise
// Reference Integrity Manifest), with the labels of their CDDL.
type (
	unsignedCorim struct {
		ID      string   `cbor:"0,keyasint"`
		Tags    [][]byte `cbor:"1,keyasint"`
		Profile []string `cbor:"3,keyasint"`
	}
	comid struct {
		Identity comidIdentity `cbor:"1,keyasint"`
		Triples  comidTriples  `cbor:"4,keyasint"`
	}
	comidIdentity struct {
		TagID string `cbor:"0,keyasint"`
	}
	comidTriples struct {
		References []comidReference `cbor:"0,keyasint"`
	}
	comidReference struct {
		_            struct{} `cbor:",toarray"`
		Environment  comidEnvironment
		Measurements []comidMeasurement
	}
	comidEnvironment struct {
		Class comidClass `cbor:"0,keyasint"`
	}
	comidClass struct {
		Vendor string `cbor:"1,keyasint"`
		Model  string `cbor:"2,keyasint"`
	}
	comidMeasurement struct {
		Values comidValues `cbor:"1,keyasint"`
	}
	comidValues struct {
		Digests   []comidDigest            `cbor:"2,keyasint,omitempty"`
		Registers map[string][]comidDigest `cbor:"14,keyasint,omitempty"`
	}
	comidDigest struct {
		_     struct{} `cbor:",toarray"`
		Alg   uint64
		Value []byte
	}
)

// comidTag is the head of CBOR tag 506, which begins each CoMID of a CoRIM.
var comidTag = []byte{0xd9, 0x01, 0xfa}

const corimProfile = Home + "/blob/main/docs/gate.md#corim-profile"

// CoRIM writes the recounted launch measurements as an unsigned CoRIM with one
// CoMID: one reference triple for each machine. It fails where there is nothing
// to write: an empty file would accept nothing, and look like a result.
func CoRIM(w io.Writer, r *pipeline.Report) error {
	values := launchValues(r)
	if len(values) == 0 {
		return errNoLaunchValues
	}
	var c comid
	index := map[string]int{}
	for _, v := range values {
		alg, ok := hashID(v.value.Algorithm().String())
		if !ok {
			continue // SHA-1 banks have no number there
		}
		id := v.tee + "/" + v.machine
		i, known := index[id]
		if !known {
			i = len(c.Triples.References)
			index[id] = i
			c.Triples.References = append(c.Triples.References, comidReference{
				Environment:  comidEnvironment{comidClass{Vendor: vendors[v.tee], Model: v.machine}},
				Measurements: []comidMeasurement{{}},
			})
		}
		values := &c.Triples.References[i].Measurements[0].Values
		d := comidDigest{Alg: alg, Value: v.value.Bytes()}
		if v.tee == "snp" {
			values.Digests = append(values.Digests, d)
			continue
		}
		if values.Registers == nil {
			values.Registers = map[string][]comidDigest{}
		}
		register := v.register
		if bank, pcr, ok := strings.Cut(register, "/"); ok && v.tee == "tpm" && bank == v.value.Algorithm().String() {
			register = pcr
		}
		values.Registers[register] = append(values.Registers[register], d)
	}
	if len(c.Triples.References) == 0 {
		return errNoLaunchValues
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return err
	}
	body, err := mode.Marshal(c)
	if err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	// The tag's identity is that of its content.
	id := "retally-" + digest.SHA256.Sum(body).Hex()[:32]
	c.Identity.TagID = id
	if body, err = mode.Marshal(c); err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	data, err := mode.Marshal(unsignedCorim{ID: id, Tags: [][]byte{slices.Concat(comidTag, body)}, Profile: []string{corimProfile}})
	if err != nil {
		return fmt.Errorf("corim: %w", err)
	}
	_, err = w.Write(data)
	return err
}

var errNoLaunchValues = &pipeline.InputError{
	Op: "report", Err: fmt.Errorf("no launch measurement was recounted here, so there are no reference values to write"),
	Hint: "give the machine's artifacts under platforms",
}

// RVPS writes the recounted launch measurements as a message for the Reference
// Value Provider Service of Confidential Containers' trustee, in its form
// "sample": names as trustee's attestation policies ask for them, each with the
// values of all machines.
func RVPS(w io.Writer, r *pipeline.Report) error {
	values := map[string][]string{}
	for _, v := range launchValues(r) {
		name := ""
		switch {
		case v.tee == "snp":
			name = "snp_launch_measurement"
		case v.tee == "tpm":
			bank, number, _ := strings.Cut(v.register, "/pcr")
			if _, err := strconv.ParseUint(number, 10, 8); err != nil || bank != "sha256" {
				continue
			}
			name = "tpm_pcr" + number
		case v.register == "mrtd":
			name = "mr_td"
		default:
			name = "rtmr_" + strings.TrimPrefix(v.register, "rtmr")
		}
		if !slices.Contains(values[name], v.value.Hex()) {
			values[name] = append(values[name], v.value.Hex())
		}
	}
	if len(values) == 0 {
		return errNoLaunchValues
	}
	for _, list := range values {
		slices.Sort(list)
	}
	payload, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return writeJSON(w, struct {
		Version string `json:"version"`
		Type    string `json:"type"`
		Payload string `json:"payload"`
	}{"0.1.0", "sample", base64.StdEncoding.EncodeToString(payload)})
}
