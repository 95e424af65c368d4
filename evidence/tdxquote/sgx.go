package tdxquote

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// intelQEVendor names Intel's quoting enclaves in the headers of quotes.
const intelQEVendor = "939a7233f79c4ca9940a0db3957f0607"

// SGX recognizes the quote of an SGX enclave, which is judged by other rules than
// a TD's, and describes it in words: "an SGX quote (version 3)". It is "" for
// everything else. Versions 3 to 5 are told by their header (Intel, "Intel SGX
// ECDSA QuoteLibReference DCAP API", appendix A.4; version 4 and 5: TEE type 0),
// EPID quotes of versions 1 and 2, which have no such mark, by a signature that
// fills the rest.
func SGX(raw []byte) string {
	const bodyEnd = headerSize + reportSize
	if len(raw) < bodyEnd {
		return ""
	}
	le := binary.LittleEndian
	version, kind, tee := le.Uint16(raw), le.Uint16(raw[2:]), le.Uint32(raw[4:])
	fills := func(at int) bool {
		return len(raw) >= at+4 && int64(le.Uint32(raw[at:])) <= int64(len(raw)-at-4) && le.Uint32(raw[at:]) > 0
	}
	vendor := hex.EncodeToString(raw[12:28]) == intelQEVendor
	switch {
	case (version == 1 || version == 2) && kind <= 1 && len(raw) > bodyEnd+4 && int64(le.Uint32(raw[bodyEnd:])) == int64(len(raw)-bodyEnd-4):
		return fmt.Sprintf("an SGX quote (version %d, EPID)", version)
	case version < 3 || version > 5 || kind != 2 && kind != 3 || tee != 0:
		return ""
	case vendor, version < 5 && fills(bodyEnd), version == 5 && le.Uint16(raw[headerSize:]) == 1 && fills(bodyEnd+descriptorSize):
		return fmt.Sprintf("an SGX quote (version %d)", version)
	}
	return ""
}
