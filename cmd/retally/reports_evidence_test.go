package main

var reportsEvidence = []reportCase{
	{folder: "b17-gpu-evidence-one-byte-more", calls: []reportCall{
		{code: 3, says: []string{`authentic pass`, `gpu-signature: request, nonces and 64 measurements are signed`}, never: []string{`bytes more`}},
		{code: 3, says: []string{`authentic pass`}},
	}},
	{folder: "b18-gpu-evidence-list", calls: []reportCall{
		{code: 3, says: []string{`nvidia evidence gpu_evidence.json`, `authentic pass`, `gpu0-signature`, `gpu1-signature`, `gpu1-nonce: the request carries the file's nonce`}},
		{code: 3, says: []string{`Recognized: GPU evidence gpu_evidence.json`}},
	}},
	{folder: "b20-sgx-quote", calls: []reportCall{
		{code: 2, says: []string{`an SGX quote \(version 3\); SGX quotes are not verified by this version`}},
		{code: 2, says: []string{`an SGX quote \(version 3\); SGX quotes are not verified by this version`}, never: []string{`certificate for 0 quotes`}},
	}},
	{folder: "b22-quote-json-numbers", calls: []reportCall{
		{code: 3, says: []string{`tdx evidence quote.json`, `authentic pass`, `quote-signature: header and TD report are signed`}},
	}},
	{folder: "b23-azure-evidence-json", calls: []reportCall{
		{code: 3, says: []string{`form Azure vTPM evidence`, `authentic pass, open: td-sept-ve`, `qe-identity: Intel's TD quoting enclave`, `pcr-digest: `}},
	}},
	{folder: "b25-dstack-attestation", calls: []reportCall{
		{code: 3, says: []string{`dstack evidence attestation.json`, `authentic pass`, `= event-log: the log folds to rtmr3`, `= report-data: the report data beside the quote is the quote's`}, never: []string{`event-log: the log folds to [0-9a-f]{96}, rtmr0 in the quote`}},
		{code: 3, says: []string{`dstack evidence attestation.bin`, `authentic pass`, `the log folds to rtmr0`, `the log folds to rtmr3`}},
	}},
	{folder: "b26-ra-tls-certificate", calls: []reportCall{
		{code: 3, says: []string{`authentic pass`, `= event-log: the log folds to rtmr3`, `= certificate: report data names the key of the certificate that the quote stands in`, `\? tls: whether a connection ended at that certificate is not known`}},
		{code: 3, says: []string{`tls: report data is dstack's RA-TLS digest of the public key`}},
	}},
	{folder: "b38-tcb-out-of-date-what-is-short", calls: []reportCall{
		{code: 1, says: []string{
			`TCB status OutOfDate, level of 2025-05-14T00:00:00Z, advisories INTEL-SA-01192, INTEL-SA-01245, INTEL-SA-01312, INTEL-SA-01313`,
			`short of the newest level, that of 2025-08-13T00:00:00Z \(UpToDate\): SGX component 1 \(Early Microcode Update\) has 3, asked for is 4`,
			`TDX component 3 \(TDX Late Microcode Update\) has 3, asked for is 4`,
		}},
	}},
	{folder: "b40a-collateral-crl-base64", calls: []reportCall{
		{code: 3, says: []string{`authentic pass`, `= tcb: TCB status UpToDate`, `= pck-crl: signed`}, never: []string{`no collateral given`}},
	}},
	{folder: "b40c-collateral-objects", calls: []reportCall{
		{code: 3, says: []string{`authentic pass`, `= tcb: TCB status UpToDate`, `= tcb-info: signed`}, never: []string{`no collateral given`}},
	}},
	{folder: "b41-collateral-pcs-files", calls: []reportCall{
		{code: 2, says: []string{
			`found only tcb_info; missing are tcb_info_issuer_chain, qe_identity, qe_identity_issuer_chain, root_ca_crl, pck_crl`,
			`wanted is one JSON object with tcb_info and qe_identity`, `curl -i 'https://api.trustedservices.intel.com/tdx/certification/v4/tcb\?fmspc=FMSPC'`,
		}},
	}},
	{folder: "b43-td-migratable", calls: []reportCall{
		{code: 3, says: []string{`authentic unchecked`, `\? td-migratable: the TD can be moved to another machine by a migration TD`}},
	}},
	{folder: "b45-td-sept-ve", calls: []reportCall{
		{code: 3, says: []string{`authentic pass, open: td-sept-ve`, `\. td-sept-ve: SEPT_VE_DISABLE is not set`}},
	}},
	{folder: "b46-pre-production-root", calls: []reportCall{
		{code: 1, says: []string{`! pck-chain: .*e3f49e858865d54dde1d2f778817a355c470133165ddce1e488bec66f8f9ecf3; its certificates say that it is Intel's pre-production \(sandbox\) root`}},
	}},
	{folder: "b47-test-root-other-qe", calls: []reportCall{
		{code: 3, says: []string{`TEST ROOT`, `authentic pass`, `= qe-identity: the quoting enclave that the collateral names under the test root`, `= tcb: TCB status UpToDate`}, never: []string{`Intel's TD quoting enclave is`}},
	}},
	{folder: "b60-near-mpc-dstack-ok", calls: []reportCall{
		{code: 3, says: []string{`= tcb: TCB status UpToDate`, `the log folds to rtmr0`, `the log folds to rtmr3`, `mrconfigid: is version 1 of the compose hash`, `= compose: the app compose document app-compose.json is the one in the event log`, `\? mrtd: `, `\? rtmr2: `}},
	}},
	{folder: "b61-cos-113-quote-and-ccel-ok", calls: []reportCall{
		{code: 3, says: []string{`ccel.bin: rtmr0 is the one in quote.bin`, `rtmr1 is the one in quote.bin`, `rtmr2 is the one in quote.bin`}, never: []string{`has no event for`}},
	}},
	{folder: "b34-check-rtmr3-without-log", calls: []reportCall{
		{code: 1, says: []string{`ccel.bin: has no event for rtmr3, and rtmr3 in quote.bin is 21df104d0+1ff: it was extended by the running system, which writes no entry in the firmware's log, and stays unchecked`}},
		{code: 3, says: []string{`\? rtmr3: 21df104d0+1ff in the quote`}},
	}},
}
