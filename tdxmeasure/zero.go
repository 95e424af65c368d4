package tdxmeasure

import (
	"bytes"

	"github.com/retally/retally/internal/digest"
)

// ZeroRegister says in words what it means that a register of a machine is all
// zero: no extension ever gives that (Intel, TDX Module Base Architecture
// Specification, measurement), so none was made. i counts from 0, MRTD, to 4,
// RTMR3; "" for another value, and where there is no such register.
func ZeroRegister(i int, value digest.Digest) string {
	b := value.Bytes()
	if len(b) == 0 || len(bytes.Trim(b, "\x00")) > 0 {
		return ""
	}
	const begin = "all zero: nothing was extended into it"
	switch i {
	case 0:
		return "all zero: no page of a firmware was measured, which no machine that runs has; the value was left out or made up"
	case 1:
		return begin + ", though a TDX firmware begins with it; the value was left out, or the firmware does not measure"
	case 2:
		return begin + ": nothing measured a kernel or a boot loader, so the value says nothing about which one runs"
	case 3:
		return begin + ": with direct boot, a guest kernel that does not measure its command line and initrd (Linux 6.2 leaves it empty, 6.6 and 6.9 fill it); the value says nothing about them"
	case 4:
		return begin + ": nothing did at run time, which is usual where no agent of a platform does; the value says nothing about what runs"
	}
	return ""
}
