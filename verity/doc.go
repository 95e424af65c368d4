// Package verity computes and checks dm-verity hash trees: the protection of a
// read-only block device by one digest, the root hash (kernel Documentation,
// admin-guide/device-mapper/verity). Digests of data blocks are packed in hash
// blocks, digests of those in further hash blocks, up to a single one whose
// digest is the root hash. Parameters, on-disk format and order of work are
// those of veritysetup, without the kernel and without a device.
//
// Computing ([RootOf], [FormatFiles]) and checking ([Verify]) are separate. A
// mismatch is a value that says level, position and both digests; an error
// means that nothing was concluded.
package verity
