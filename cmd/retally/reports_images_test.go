package main

// What people bring as images: archives, layouts, differences, and what docker
// inspect prints.
var reportsImages = []reportCase{
	{folder: "a01-save-by-digest-null-index", calls: []reportCall{{
		code: 0,
		says: []string{
			`ok no digest of its own in\.tar`,
			`config sha256:89b6e2dcf7823fcd0d28b71c3ff3de11024377a4c5f357059c07018f50d49253`,
			`diffID sha256:4267aa96ca827eda7d674551873b6e2942d517d4aded220ee9f3daafadfcc170 .*diffID sha256:7db20b9f65a86cb37043943f1a7f6c07e30e27461904bb641e74bfc553f91afd`,
			`index-null: index\.json:/manifests: .*docker save 25\.0\.0.*found null`, `note no-manifest-digest`,
		},
		never: []string{`views-disagree`, `problem `, `hybrid`},
	}}},
	{folder: "a03-docker29-save-one-platform", calls: []reportCall{
		{
			code: 3,
			says: []string{
				`UNCHECKED sha256:a8a2c0889ae3c51732ca47e28dfbc27501d39baa062e61843928c590d2df5fc2`,
				`linux/amd64 manifest sha256:83aff78179add7e856859a5cb1cfdc89975f834198c61f72a00534e1980260f8`,
				`never read: platform linux/arm64/v8, sha256:899054932ef5.*: not in this archive`,
				`never read: platform linux/s390x, .*: not in this archive`, `never read: attestation, sha256:e54c799b.*: not in this archive`,
			},
			never: []string{`REFUSED`, `problem `, `DIFFERS`},
		},
		{
			code: 0,
			says: []string{
				`ok sha256:a8a2c0889ae3c51732ca47e28dfbc27501d39baa062e61843928c590d2df5fc2`,
				`linux/amd64 manifest sha256:83aff78179add7e856859a5cb1cfdc89975f834198c61f72a00534e1980260f8`,
			},
			never: []string{`problem `},
		},
		{
			code: 3, // the pin agrees, and what the index names besides is not there
			says: []string{
				`1 value agrees`, `in\.tar: holds sha256:a8a2c0889ae3c51732ca47e28dfbc27501d39baa062e61843928c590d2df5fc2, which is the pin of hello`,
				`platform linux/arm64/v8: not in this archive`, `platform linux/s390x: not in this archive`,
			},
			never: []string{`DIFFERS`, `not reproduced`},
		},
	}},
	{folder: "a02-save-manifest-without-layers", calls: []reportCall{{code: 1, says: []string{`REFUSED`, `problem rootfs-count: .*found 2 diffIDs, expected 0`}}}},
	{folder: "a05-check-image-file-name", calls: []reportCall{{
		code: 0,
		says: []string{`MATCH Everything published was recounted and agrees: 1 value`, `hello_latest\.tar: holds sha256:a8a2c0889ae3c51732ca47e28dfbc27501d39baa062e61843928c590d2df5fc2, which is the pin of hello`},
	}}},
	{folder: "a06-layer-lastlog-zeros", calls: []reportCall{{code: 0, says: []string{`ok sha256:6b040544cb770d7e113f4e6d024c5475a96c512057d43a63cf9ac78c2ce3c181 layout lastlog`}, never: []string{`limit-`}}}},
	{folder: "a07-layer-zstd-window", calls: []reportCall{{code: 0, says: []string{`ok sha256:c1f1b8f479cc2f8f1576afbcf5db32d2c9120a476a91eae7d9d1080220cd523f layout z`}, never: []string{`limit-`}}}},
	{folder: "a09-diff-false-tar-padding", calls: []reportCall{{code: 1, says: []string{`DIFFERS 1 cause`, `layer 0 > app: content: 3 bytes, .* -> 5000 bytes.*\[proved\]`}, never: []string{`tar-padding`}}}},
	{folder: "a11-diff-a-known-b-unknown-compressor", calls: []reportCall{{
		code:  1,
		says:  []string{`proved: undoing these causes on B gives A, digest for digest`, `zlib, level 6`, `etc/more: only-in-b`},
		never: []string{`not proved`, `was not made again`, `diffIDs are equal`, `suspected`},
	}}},
	{folder: "a12-diff-sparse-member", calls: []reportCall{
		{code: 1, says: []string{`hole: sparse-form: `, `proved: undoing`}, never: []string{`hole: type`, `hole: content`}},
		{code: 1, says: []string{`hole: sparse-form: `, `proved: undoing`}, never: []string{`hole: type`, `hole: content`}},
	}},
	{folder: "a14-oras-layout-in-a-run", calls: []reportCall{
		{code: 0, says: []string{`^ok sha256:a8a2c0889ae3c51732ca47e28dfbc27501d39baa062e61843928c590d2df5fc2 layout v1`}, never: []string{`ok sha256:4ccb1f`, `ok sha256:83aff7`, `ok sha256:e54c79`}},
		{code: 0, says: []string{`MATCH Everything published was recounted and agrees: 1 value`}},
		{code: 0, says: []string{`ok sha256:a8a2c088`}},
		{code: 0, says: []string{`MATCH the two images are the same`}},
	}},
	{folder: "a16-artifact-created-annotation", calls: []reportCall{{
		code:  1,
		says:  []string{`DIFFERS the same content`, `manifest > /annotations/org\.opencontainers\.image\.created: annotations: "2026-06-24T10:00:00Z" -> "2026-06-24T11:00:00Z" \[proved\]`},
		never: []string{`suspected`, `not proved`},
	}}},
	{folder: "a17-skopeo-dir-transport", calls: []reportCall{
		{code: 0, says: []string{`ok sha256:83aff78179add7e856859a5cb1cfdc89975f834198c61f72a00534e1980260f8 dir`}, never: []string{`problem `}},
		{code: 3, says: []string{`Recognized: image layout`, `its digest is sha256:83aff78179add7e856859a5cb1cfdc89975f834198c61f72a00534e1980260f8`}},
	}},
	{folder: "a18-encrypted-layer", calls: []reportCall{{
		code:  3,
		says:  []string{`UNCHECKED sha256:47cd7a00fe1bbd1031c647983e36496b380f8b4fe41dd9c35d70da6b5d0ae20f`, `never opened: .*encrypted \(ocicrypt\).*diffID and content`},
		never: []string{`REFUSED`, `problem `},
	}}},
	{folder: "a19-erofs-layer", calls: []reportCall{{
		code:  3,
		says:  []string{`UNCHECKED sha256:12fa7bd9b81a9972b2403067435545c6bc0edd4cc0075582b3a138d9a8db6d1b`, `never opened: .*EROFS.*diffID and content`},
		never: []string{`REFUSED`, `problem `},
	}}},
	{folder: "a22-docker-inspect-other-forms", calls: []reportCall{{code: 0, says: []string{`^MATCH `}}, {code: 0, says: []string{`^MATCH `}}}},
	{folder: "a23-docker-inspect-of-a-container", calls: []reportCall{{
		code:  2,
		says:  []string{`is a container, not an image`, `docker image inspect ghcr\.io/edgelesssys/privatemode/privatemode-proxy:latest`, `Image: sha256:a8a2c0889ae3c51732ca47e28dfbc27501d39baa062e61843928c590d2df5fc2`},
		never: []string{`built or loaded here`, `2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`},
	}}},
	{folder: "a48-index-platform-spelling", calls: []reportCall{
		{code: 0, says: []string{`ok sha256:749beb106d5db3532d290c970153f2fc69bbec842cb5ccc8bd5a29bdd7d341bc`, `platform-spelling: .*found linux/arm/7, expected linux/arm/v7`}},
		{code: 0, says: []string{`ok sha256:e5b758b936f897fe66d2924813d72eef9803ccfee4326abc5e763d1dac1a5a39`, `platform-spelling: .*found linux/x86_64, expected linux/amd64`}},
	}},
	{folder: "a60-buildkit-rewrite-timestamp", calls: []reportCall{{
		code:  1,
		says:  []string{`proved: undoing`, `layer 1: mtime \(2\)`, `config: created \(3\)`, `/layers/0/annotations: .*buildkit/rewritten-epoch.*/layers/1/annotations: .*buildkit/rewritten-epoch`},
		never: []string{`suspected`},
	}}},
	{folder: "a61-nix-layer-order", calls: []reportCall{{code: 1, says: []string{`DIFFERS 1 cause`, `layer-order: .*\[proved\]`}}}},
	{folder: "a62-libarchive-gzip-mtime", calls: []reportCall{{code: 1, says: []string{`DIFFERS the same content`, `layer 0 > compression: gzip-header-mtime: .*\[proved\].*layer 1 > compression: gzip-header-mtime: .*\[proved\]`}}}},
	{folder: "a63-kaniko-zero-time", calls: []reportCall{{code: 1, says: []string{`config > /created: created: "0001-01-01T00:00:00Z" -> absent`, `proved: undoing`}, never: []string{`suspected`}}}},
	{folder: "a64-zstd-chunked", calls: []reportCall{
		{code: 1, says: []string{`proved: undoing`, `compression: compression: `, `io\.github\.containers\.zstd-chunked\.`}, never: []string{`suspected`}},
		{code: 1, says: []string{`REFUSED`, `problem diffid-mismatch`}},
	}},
	{folder: "a65-rules-oci-and-ggcr-tarballs", calls: []reportCall{
		{
			code: 0,
			says: []string{`ok no digest of its own rules_oci\.tar .*config sha256:89b6e2dcf7823fcd0d28b71c3ff3de11024377a4c5f357059c07018f50d49253 .*ok no digest of its own ggcr\.tar .*config sha256:89b6e2dcf7823fcd0d28b71c3ff3de11024377a4c5f357059c07018f50d49253`, `diffID .*diffID .*diffID .*diffID `},
		},
		{code: 0, says: []string{`MATCH the two images are the same`}},
	}},
	{folder: "a66-buildkit-oci-artifact-attestation", calls: []reportCall{{
		code: 0,
		says: []string{`ok sha256:b6520182098a3f572514858804fa566fb8600930afdeb95af2a7ed4c0eadf3a1 a .*ok sha256:7c53e4a1ced274827ec351e3a8d88859c8d264e23c5656e8ef0db62570dc6b25 b`, `attestation-manifest sha256:cb1682bf`},
	}}},
	{folder: "a67-model-and-chart-artifacts", calls: []reportCall{{
		code: 0,
		says: []string{`artifact-manifest sha256:f27209a726de8d6ad91874ae18589fd6c53d3d079a3430b3216cd23d33866129`, `artifact-manifest sha256:39c619b15eab2c3c2f5ca4fcff9d7b7f11744b1c230372fe03da8170497d8348`, `artifact-manifest sha256:3812e30dd6dc177c4f26d39861744d33958b650a1a10a86383ed6936f14171e1`},
	}}},
	{folder: "a68-docker-zstd-mediatype", calls: []reportCall{{code: 0, says: []string{`ok sha256:402d449bf0fb02cff0d4abc235cfe97b7f1028a81b3e8d5fd2971b543fa23cdb`, `note docker-mediatype`}}}},
	{folder: "a69-cosign-v3-layout", calls: []reportCall{{code: 0, says: []string{`ok sha256:2f0fce57c416646b8214e67f4cdfd90bf63c14dd1a5eee0ef82c91dce2980bea`, `note blob-unreferenced`}}}},
	{folder: "a70-image-without-layers", calls: []reportCall{{code: 0, says: []string{`ok sha256:ef47bbff.* a latest .*ok sha256:a737e4f1.* b latest`}}}},
	{folder: "a71-repodigests-several", calls: []reportCall{{code: 0, says: []string{`^MATCH `}}, {code: 0, says: []string{`^MATCH `}}}},
	{folder: "a80-docker-save-duplicate-layer-symlink", calls: []reportCall{
		{code: 0, says: []string{`ok .* a\.tar .*diffID sha256:a87ad441\S+ 10240 bytes layer diffID sha256:a87ad441.*ok .* b\.tar .*diffID sha256:a87ad441\S+ 10240 bytes layer diffID sha256:a87ad441`}},
		{code: 0, says: []string{`MATCH the two images are the same`}},
	}},
}
