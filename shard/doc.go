// Package shard is the contract between retally and an engine that runs it on
// many machines: a plan cuts what is to be read into parts, each part comes back
// as one small result, and the results of all parts give the root hashes and
// image digests that one machine would have computed.
//
// A part of a model disk is an aligned run of subtrees of its dm-verity tree: 32
// bytes come back for each, whatever lies below it. A part of a set of images is
// one image. The package is pure: it reads no file and starts no program. What
// comes back from workers is judged here, and nowhere believed: every result
// must be the one that the plan asks for, results of one part must agree bit for
// bit, and whether workers were trusted is part of the answer.
package shard
