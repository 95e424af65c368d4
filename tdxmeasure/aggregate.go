package tdxmeasure

import (
	"encoding/hex"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// Registers are the values of one machine.
type Registers struct {
	MRTD digest.Digest
	RTMR [4]digest.Digest
}

func (r Registers) concat(parts ...digest.Digest) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p.Bytes()...)
	}
	return b
}

// MRAggregated is reproduce-mr's MR_AGGREGATED: SHA-256 of all five registers
// and the key provider, which is 32 zero bytes unless given.
func (r Registers) MRAggregated(keyProvider []byte) digest.Digest {
	if keyProvider == nil {
		keyProvider = make([]byte, 32)
	}
	return digest.SHA256.Sum(append(r.concat(r.MRTD, r.RTMR[0], r.RTMR[1], r.RTMR[2], r.RTMR[3]), keyProvider...))
}

// MRImage is reproduce-mr's MR_IMAGE: SHA-256 of MRTD and RTMR1 to RTMR3.
func (r Registers) MRImage() digest.Digest {
	return digest.SHA256.Sum(r.concat(r.MRTD, r.RTMR[1], r.RTMR[2], r.RTMR[3]))
}

// OldMREnclave is the first dstack-mr's mr_enclave: SHA-256 of MRTD, RTMR0 to
// RTMR2 and the key provider.
func (r Registers) OldMREnclave(keyProvider []byte) digest.Digest {
	return digest.SHA256.Sum(append(r.concat(r.MRTD, r.RTMR[0], r.RTMR[1], r.RTMR[2]), keyProvider...))
}

// OldMRImage is the first dstack-mr's mr_image: SHA-256 of MRTD, RTMR1, RTMR2.
func (r Registers) OldMRImage() digest.Digest {
	return digest.SHA256.Sum(r.concat(r.MRTD, r.RTMR[1], r.RTMR[2]))
}

// KeyProviderDigest is dstack's mr_key_provider: SHA-256 of the key-provider
// event's payload, 32 zero bytes where there is no such event.
func KeyProviderDigest(payload []byte) digest.Digest {
	if payload == nil {
		d, err := digest.FromBytes(digest.SHA256, make([]byte, 32))
		if err != nil {
			panic(err) // the length is right
		}
		return d
	}
	return digest.SHA256.Sum(payload)
}

// MRSystem is dstack's mr_system: SHA-256 of MRTD, RTMR0 to RTMR2 and
// mr_key_provider.
func (r Registers) MRSystem(keyProvider digest.Digest) digest.Digest {
	return digest.SHA256.Sum(r.concat(r.MRTD, r.RTMR[0], r.RTMR[1], r.RTMR[2], keyProvider))
}

// DstackAggregated is dstack's mr_aggregated: SHA-256 of the five registers,
// followed by MRCONFIGID, MROWNER and MROWNERCONFIG if any of these is not
// zero. Each is 48 bytes.
func (r Registers) DstackAggregated(configID, owner, ownerConfig [48]byte) digest.Digest {
	b := r.concat(r.MRTD, r.RTMR[0], r.RTMR[1], r.RTMR[2], r.RTMR[3])
	if configID != [48]byte{} || owner != [48]byte{} || ownerConfig != [48]byte{} {
		b = slices.Concat(b, configID[:], owner[:], ownerConfig[:])
	}
	return digest.SHA256.Sum(b)
}

func eventDocument(e RuntimeEvent) []byte {
	return jsondoc.Style{}.Compact(jsondoc.NewObject(
		jsondoc.Member{Key: "name", Value: jsondoc.NewString(e.Name)},
		jsondoc.Member{Key: "payload", Value: jsondoc.NewString(hex.EncodeToString(e.Payload))},
		jsondoc.Member{Key: "type", Value: jsondoc.NewNumber("134217729")},
	))
}

// RegisterNames are the registers by their names in files, flags and keys, MRTD
// first, then RTMR0 to RTMR3. The order is that of every list of registers here.
func RegisterNames() [5]string { return [5]string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} }

// AggregateNames are the digests over several registers that tools print.
func AggregateNames() []string { return []string{"mr_aggregated", "mr_image", "mr_system"} }
