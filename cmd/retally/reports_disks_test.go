package main

// Root hashes of the folder flat of several cases.
const (
	flatRoot     = `root_hash b95f9b6d2ec50e648502900c6d2e1e122e53609cc196f0ae2a41fcdadf001fe4 \(mkfs.erofs 1.9\)`
	unreproduced = `published with mkfs.erofs 1\.5, which is not reproduced here`
)

var reportsDisks = []reportCase{
	{folder: "a25-hub-cache-normalize-relative", needs: []string{"python3", "git"}, calls: []reportCall{
		{code: 0, says: []string{flatRoot}},
		{code: 0, says: []string{flatRoot}},
		{code: 3, says: []string{`retally disk \S+ --normalize`}},
		{code: 0, says: []string{flatRoot, `normalized symlinks lead out of the directory`}},
	}},
	{folder: "a26-hub-local-dir-cache-folder", needs: []string{"python3"}, calls: []reportCall{
		{code: 0},
		{code: 1, says: []string{`root_hash DIFFERS`, `cause proved: \.cache/huggingface is the download tool's own folder and not part of the model \(--exclude \.cache\)`}, never: []string{"names and sizes fit"}},
		{code: 0, says: []string{`root_hash agrees`, `file_hash_sha256 agrees`}},
	}},
	{folder: "a28-hub-listing-not-recursive", calls: []reportCall{
		{code: 2, says: []string{`the directory "onnx" is listed and nothing in it`, `not complete`}, never: []string{`hash_offset \d`}},
		{code: 0, says: []string{`hash_offset 28672`}},
	}},
	{folder: "a29-hub-model-info", calls: []reportCall{{code: 0, says: []string{`hash_offset 28672`}}}},
	{folder: "a30-lfs-fetchexclude-nested", needs: []string{"python3", "git", "git-lfs"}, calls: []reportCall{
		{code: 0, says: []string{`hash_offset 8192`, `root_hash 95c64ac5b7826e59f7e1bd45f89c6f985ff3d8e8a6f7efb56084c1ceb68e8fef`}},
		{code: 0, says: []string{`hash_offset 8192`, `root_hash 95c64ac5b7826e59f7e1bd45f89c6f985ff3d8e8a6f7efb56084c1ceb68e8fef`, `as the recipe leaves them: "onnx/model\.bin"`, `source weights = commit`}},
	}},
	{folder: "a31-git-eol-attributes", needs: []string{"git"}, calls: []reportCall{{code: 0, says: []string{`source weights = commit [0-9a-f]{40}`}}}},
	{folder: "a32-lfs-should-have-been-pointer", needs: []string{"python3", "git"}, calls: []reportCall{{code: 0, says: []string{`source weights = commit [0-9a-f]{40}`}}}},
	{folder: "a34-published-with-other-erofs", needs: []string{"python3"}, calls: []reportCall{
		{code: 3, says: []string{`root_hash unchecked: ` + unreproduced, `file_hash_sha256 unchecked: ` + unreproduced}, never: []string{"DIFFERS", "cause"}},
		{code: 3, says: []string{`unchecked, ` + unreproduced}, never: []string{"DIFFERS", "cause", "names and sizes"}},
	}},
	// veritysetup says 0 too; half of the device that nothing covers is unchecked
	// here (own/adversary, "verity verify").
	{folder: "a35-verity-truncated-superblock", needs: []string{"python3"}, calls: []reportCall{
		{code: 0},
		{code: 3, says: []string{`OK, 128 blocks \(524288 bytes\); 524288 bytes before the hash area are not covered`}},
		{code: 3, says: []string{`"data_blocks": 128`, `"data_block_size": 4096`, `"covered": 524288`, `"uncovered_gap": 524288`}},
	}},
	{folder: "a36-verity-root-hash-file", needs: []string{"python3"}, calls: []reportCall{
		{code: 0},
		{code: 3, says: []string{`OK, 128 blocks \(524288 bytes\)`}},
	}},
	{folder: "a78-verity-salt-from-name", needs: []string{"python3"}, calls: []reportCall{{code: 0, says: []string{`OK, 256 blocks \(1048576 bytes\)`}}}},
	{folder: "a79-erofs-hard-links", needs: []string{"python3"}, calls: []reportCall{
		{code: 0, says: []string{`root_hash 13c13629ebac1400ff0e48b91188ec0429c4b4f38e2a3844d9adbfb2cb2ccdc7`}},
		{code: 0, says: []string{`names share one file`, `root_hash 096296a88f367bcb49bf44374de11e0d072a48bb9fe3e58d884df8c330159512`}},
		{code: 0, says: []string{`root_hash 13c13629ebac1400ff0e48b91188ec0429c4b4f38e2a3844d9adbfb2cb2ccdc7`}},
	}},
}
