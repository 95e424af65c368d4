package main

var reportsManifests = []reportCase{
	{folder: "a38-compare-owner-key-digest-to-key", needs: []string{"openssl"}, calls: []reportCall{
		// Exit 1 says that the bytes differ; in meaning the two are one.
		{code: 1, says: []string{`meaning match`, `Owner keys \(who may change or recover the deployment\) 2 values agree`}, never: []string{"LOOSENED", "tightened"}},
	}},
	{folder: "a39-compare-cpus-to-apeip", calls: []reportCall{
		{code: 1, says: []string{`1 LOOSENED`, `! Metal-QEMU-SNP Genoa cpus=1: CPUs 1 -> any number \(start address 80b004f0\) - LOOSENED`}, never: []string{"SMT", "mitigations", "ECC", "tightened", "only in"}},
		{code: 1, says: []string{`2 LOOSENED`, `CPUs 1 -> any number \(start address 80b004f0\)`, `minimum SNP firmware version 28 -> 20`}, never: []string{"SMT", "mitigations", "ECC", "tightened", "only in"}},
	}},
	{folder: "a41-manifest-version-rtrms", calls: []reportCall{
		{code: 0, says: []string{`^VALID`, `written by Contrast 1\.12 to 1\.13: Rtrms, no SVNs of TDX`}},
		{code: 1, says: []string{`^INVALID`, `written by Contrast 1\.12 to 1\.13`, `no policy has the Role "coordinator"`}},
	}},
	// Never valid, never silent: exit 3.
	{folder: "a43-manifest-rtmr0-alternatives", calls: []reportCall{
		{code: 3, says: []string{`^NOT FULLY CHECKED`, `/ReferenceValues/tdx/0/RTMR0Alternatives: unknown field "RTMR0Alternatives" with values of a register: newer than this retally knows, and not judged`}, never: []string{"VALID"}},
	}},
	{folder: "a44-release-diff-cc-to-insecure", calls: []reportCall{
		{code: 1, says: []string{`1 LOOSENED`, `runtime class contrast-cc -> contrast-insecure-metal-qemu - LOOSENED`, `the workload leaves confidential computing`}},
	}},
	{folder: "a45-manifest-without-newline-0.7", calls: []reportCall{
		{code: 0, says: []string{`^VALID`, `written by Contrast 0\.7`}, never: []string{"its layout is none"}},
	}},
	{folder: "a46-privatemode-storage-classes", needs: []string{"git"}, env: []string{"MIRROR"}, calls: []reportCall{
		{code: 3, says: []string{`6 storage classes`, `6 of the deployment's 6 root hashes found among them`, `Model disks \(root hash over every block of the disk\): 0 of 6 recounted, resting on copied: 6 6 values agree`}, never: []string{"no disk or models file", "models.yaml"}},
		{code: 3, says: []string{`Recognized: storage class storage-class-openai-gpt-oss-120b-reproducible\.yaml`}, never: []string{"nothing that retally knows"}},
	}},
	{folder: "a72-manifest-two-coordinators", calls: []reportCall{{code: 0, says: []string{`^VALID`, `written by Contrast after 1\.20`}}}},
	{folder: "a73-manifest-insecure", calls: []reportCall{{code: 0, says: []string{`^VALID`, `insecure platform: workloads run without a TEE and nothing is attested`}}}},
	{folder: "a74-chip-ids", calls: []reportCall{
		{code: 1, says: []string{`meaning match`}, never: []string{"LOOSENED"}},
		{code: 1, says: []string{`allowed processors \(an empty list allows any\) -1 - LOOSENED`}},
	}},
	{folder: "a75-manifest-newline", calls: []reportCall{{code: 1, says: []string{`bytes differs`, `meaning match`}, never: []string{"LOOSENED"}}}},
	{folder: "a76-third-party-manifest", calls: []reportCall{{code: 1, says: []string{`^INVALID`, `no policy has the Role "coordinator"`}}}},
	{folder: "a77-proxy-log-forms", calls: []reportCall{{code: 0, says: []string{`manifests/1\.json sha256:`}}}},
}
