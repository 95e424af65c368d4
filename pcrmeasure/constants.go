package pcrmeasure

// Strings that firmware measures without an end mark (TCG PC Client Platform
// Firmware Profile, EV_EFI_ACTION; edk2, MdePkg/Include/IndustryStandard/
// UefiTcgPlatform.h).
const (
	actionCalling   = "Calling EFI Application from Boot Option"
	actionReturning = "Returning from EFI Application from Boot Option"
	actionExit      = "Exit Boot Services Invocation"
	actionExited    = "Exit Boot Services Returned with Success"
)
