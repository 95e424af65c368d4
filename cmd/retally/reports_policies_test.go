package main

var reportsPolicies = []reportCase{
	{folder: "b01-policy-diff-initdata-key", calls: []reportCall{{code: 1, says: []string{
		`DIFFERS`, `data\.aa\.toml line 2: url = "http://kbs\.example:8080" in A, url = "http://evil\.example:8080" in B`,
		`sha256:41bc93230118cfb8ee2035b0c083d695ab43b2cefd20de5639cf486299bf6b7f in A, sha256:1b10fd940798778d678526d03acef33c3eeac7254ea9b5e4f82fa0ac505f27dd in B`,
	}, never: []string{`MATCH`, `rules:`}}}},
	{folder: "b03-policy-diff-initdata-algorithm", calls: []reportCall{{code: 1, says: []string{
		`algorithm: sha256 in A, sha384 in B`, `sha256:[0-9a-f]{64} in A, sha384:[0-9a-f]{96} in B`, `SEV-SNP's HOSTDATA`,
	}, never: []string{`MATCH`}}}},
	{folder: "b04-policy-show-exec-open", calls: []reportCall{
		{code: 0, says: []string{`the host may run any command in every container: the rules allow every ExecProcessRequest`}},
		{code: 0, says: []string{`^ALLOWED`}},
		{code: 0, says: []string{`decided by what is said below[^:]*: CreateContainer, ExecProcess`}, never: []string{`the host may run any command`}},
		{code: 0, says: []string{`the host may run any command in every container`}},
	}},
	{folder: "b06-policy-handwritten-rego", calls: []reportCall{
		{code: 0, says: []string{
			`allow every CreateContainerRequest`, `may run any command in every container: the rules allow every ExecProcessRequest`, `allow every CopyFileRequest`,
			`may replace this policy by another: the rules allow every SetPolicyRequest`, `never allowed by the rules: WriteStream`,
		}, never: []string{`want a mapping`, `nothing was written`}},
		{code: 0, says: []string{`^ALLOWED ExecProcessRequest`}},
		{code: 0, says: []string{`^MATCH 1 policy is the same`}},
	}},
	{folder: "b07-policy-annotation-runtime-key", calls: []reportCall{{code: 0, says: []string{
		`^Pod p, carried by io\.katacontainers\.config\.runtime\.cc_init_data`, `allow every ExecProcessRequest`,
	}}}},
	{folder: "b10-denial-cut-off", calls: []reportCall{
		{code: 2, says: []string{`the CreateContainerRequest is cut off: the text ends inside it`, `hint: `}, never: []string{`DENIED`, `bundle path`}},
		{code: 1, says: []string{`^DENIED`, `REDIS_PORT=6380`}},
	}},
	// The policy data of these settings; a mount at / without a source.
	{folder: "b12-termination-path-root", calls: []reportCall{{code: 0, says: []string{
		`policy data sha256:37d4e7f694bee797583e6887dbcd671adf8538ab89a1d6bd59001561e03af7c1`, `byte parity`,
	}, never: []string{`no last part`}}}},
	{folder: "b13-volume-without-type", calls: []reportCall{{code: 2, says: []string{`volume "data" has no type`, `emptyDir: \{\}`}, never: []string{`type without policy`}}}},
	{folder: "b62-fsgroup-groups-ok", calls: []reportCall{{code: 0, says: []string{`policy data sha256:f0f46daf4db70e62cda1fc782e70fbb32cfb11646ecdda94cf029ce7bf46cb37`}}}},
	{folder: "b64-copyfile-symlink-ok", calls: []reportCall{
		{code: 1, says: []string{`^DENIED`, `symlink target: expected "a relative path without \.\.", actual "/run"`}},
		{code: 0, says: []string{`^ALLOWED`}},
	}},
}
