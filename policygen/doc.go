// Package policygen computes the runtime policies of confidential pods from
// Kubernetes YAML, settings, a rules file and images: the policy data, the
// policy, the initdata document whose digest the hardware report carries, and
// the annotated YAML.
//
// The generator that everybody uses is kata-containers' genpolicy. Under the
// profile kata-4.1 the result is its result, byte by byte, oddities included;
// other profiles switch named differences (Profile). Comments name an oddity
// where it is one.
//
// A policy is computed in these steps, one file each:
//
//	value, scalar, emit   YAML as the generator reads and writes it
//	schema, decode        the known fields; every other one is a Problem
//	kinds                 where a kind keeps its pod, and its pods' names
//	load, image, layer    images, their configs and user databases
//	container             one container: process, users, env, mounts, devices
//	json, initdata        the texts that are hashed
//	generate              all of it, for a file
//
// Comparing and describing policies (Diff, Show) works on what is written, so
// it takes policies of any generator with that layout. Asking a policy about a
// request is the matter of package check.
package policygen
