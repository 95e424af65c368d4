package main

// agrees is what a measurement of rtmr0 says that agrees with the machine's log
// and quote.
func agrees(rtmr0 string) []reportCall {
	return []reportCall{{code: 0, says: []string{`rtmr0 ` + rtmr0 + ` recomputed`, `event log rtmr0 agrees, event by event`, `the machine that is assumed: QEMU 8\.2 tables`}, never: []string{`DIFFERS`}}}
}

var reportsMachines = []reportCase{
	{folder: "b14-dstack-gpu-pci-hole-1PiB", calls: agrees(`40c8d7003861cbddc9274a64a5dd866497a33d52f6702033557c2da12806bf86839e3a62f8dda553ec1c22ca2f77283e`)},
	{folder: "b15a-dstack-rtmr0-4cpu", calls: agrees(`fb14dc139f33d6fcf474bc8332cac001259fb31cfbcb6b34d4ceeb552a2c4466884a0cbde45ad98a05c5c060c23ad65a`)},
	{folder: "b15b-dstack-rtmr0-2cpu", calls: agrees(`027b610ab0555482f8a3868524093bdf3cdbe2539f81dfeeb886864654cb2fe3422f7fc36d4bab6fa46683aad11d1ba7`)},
	{folder: "b15c-dstack-rtmr0-32cpu", calls: agrees(`00748642f7d4d073fee1ff19d33060226f40c7ec75e174e99791cb599eef593a5dd07e8463a9fd9eb28e7ff3027864cc`)},
	{folder: "b16a-dstack-search-8cpu-pic", calls: []reportCall{{code: 0, says: []string{`matches with the PIC on, 8 vCPUs and 8 GiB of memory`}}}},
	{folder: "b16b-dstack-search-8cpu-nopic", calls: []reportCall{{code: 0, says: []string{`matches with 8 vCPUs and 8 GiB of memory`}, never: []string{`PIC on`}}}},
	{folder: "b28-replay-tcb-info", calls: []reportCall{
		{code: 0, says: []string{`rtmr3 86f1808cffc050f3c0c09d29da2bfcec7eba3e8fa52016a7341f28884230f9ca8b56400413d57bce00b578e36790b555 replayed`, `event compose-hash`}},
		{code: 0, says: []string{`rtmr3 86f1808cffc050f3c0c09d29da2bfcec7eba3e8fa52016a7341f28884230f9ca8b56400413d57bce00b578e36790b555 replayed`}},
	}},
	// There is a verb for TPMs now, so the hint names it and it works.
	{folder: "b29-replay-tpm-hint", calls: []reportCall{
		{code: 2, says: []string{`the log of a TPM`, `retally tpm replay`}},
		{code: 0, says: []string{`sha256 pcr4 925d453d3dfef4ac0c72c957402163d45fa95d05e6d53f047263a3a60b598325 replayed`}},
	}},
	{folder: "b30-replay-uki-sections", calls: []reportCall{{code: 0, says: []string{
		`rtmr2 334aeba2c985f8886cea97d1ecffbd512769d528b9a94009583db667ad7d2faa7d37fa145d75b192ceee2d2f10b2eb6d`,
		`IPL \.linux .*IPL \.linux .*IPL \.osrel .*IPL \.osrel .*IPL \.cmdline .*IPL \.cmdline .*IPL \.initrd .*IPL \.initrd .*IPL \.uname .*IPL \.uname .*IPL \.sbat .*IPL \.sbat `,
	}}}},
	{folder: "b31-replay-long-text", calls: []reportCall{{code: 0, says: []string{
		`11 ccfc7548\w+ IPL grub_cmd: menuentry local image A \{ linux /syslinux/vmlinuz\.A init=\S+ rootwai…`, `17 94043011\w+ IPL grub_cmd: linux /syslinux/vmlinuz\.A`,
		`19 129cc599\w+ IPL kernel_cmdline: `, `rtmr0 has 2 separators`,
	}}}},
	// The note of the case speaks of event 0, the load options; the files differ in
	// the digest of event 1 alone (48 bytes at 0x736), the initrd.
	{folder: "b33-compare-two-logs", calls: []reportCall{{code: 1, says: []string{
		`2 values agree`, `RTMR2[^!]*event 1 differs: event tag 0x8f3b22ec Linux initrd`, `47f68b638aaa3b3f`, `b88ab0900ba0606a`,
	}, never: []string{`event 0 differs`, `is not a manifest`}}}},
	{folder: "b36-explain-zero-register", calls: []reportCall{{code: 1, says: []string{
		`all zero: nothing was extended into it`, `a guest kernel that does not measure its command line and initrd`,
	}}}},
	{folder: "b63-qemu-10.2-kernel-header-ok", calls: []reportCall{
		{code: 0, says: []string{`"rtmr1"`}},
		{code: 0, says: []string{`the kernel's header left alone, as QEMU 10\.2 and newer do`}},
	}},
}
