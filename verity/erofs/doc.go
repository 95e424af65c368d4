// Package erofs plans and streams the EROFS image that
//
//	mkfs.erofs -T0 -x-1 --all-root -U00000000-0000-0000-0000-000000000000 IMAGE DIR
//
// writes, bit for bit, without writing it (kernel Documentation,
// filesystems/erofs; the layout decisions are those of erofs-utils 1.8.6 to
// 1.9.4). With these flags nothing is compressed, deduplicated or shared.
//
// It works in two phases. [NewPlan] fixes every address from names, types,
// modes, sizes and link targets alone: no content influences the layout. A
// [Reader] then yields any range of the image's blocks, reading the source
// files in place.
package erofs
