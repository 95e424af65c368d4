package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/testenv"
)

func exits(code int) []int { return []int{code} }

// attacks is the table of vectors/own/adversary. Above each row stands the rule
// that decides its exit code.
var attacks = []attack{
	{folder: "01-yaml-read-twice", rows: []attackRow{
		// Each try runs twice: once to have the manifest, calls 1 and 3, once to be
		// judged.
		{name: "--- unchanged", call: 2, control: true, want: exits(exitMatch), check: prints(`(?s)--- unchanged\nrc=0 .*?good 1, evil 0`)},
		// One YAML, Kubernetes' own reading: keys that are equal once decoded are
		// an error with both lines.
		{name: "--- args, then '!x args'", call: 4, today: 0, want: exits(exitTrouble), reason: "appears twice, first on line 55", check: prints(`--- args, then '!x args'`)},
	}},
	{folder: "02-check-obeys-vendors-config", rows: []attackRow{
		{name: "as the vendor's files are", call: 1, control: true, want: exits(exitUnchecked), check: prints(`as the vendor's files are: rc=3`)},
		// No leave from the judged: the verdict is that of the row above, and the
		// file that is not obeyed is named.
		{name: "with a file values.yaml of the vendor's", call: 2, today: 0, want: exits(exitUnchecked), reason: "values.yaml: looks like a retally.yaml and is not obeyed", never: "allowed by you"},
		{name: "a forged quote", call: 3, control: true, want: exits(exitDiffers), check: prints(`a forged quote: rc=1`)},
		// A test root out of the judged folder is nobody's: Intel's root judges.
		{name: "the same with zz.yml beside it", call: 4, today: 0, want: exits(exitDiffers), reason: "zz.yml"},
	}},
	// The demo recounts its machines by now: they are taken out of its
	// configuration, so that their values are copied as the attack needs them.
	{folder: "03-plan-turns-copied-into-recomputed", mend: [][2]string{
		{"cee0d46e773f70ab2fb9342c8c54402e32be1a514c2f5bcd13f29a5d168657a460c99fa9a4d2af1f16e931abe8c3d8e0", "190ae4162dde697d36292cfc5821398a093715f739d2c48d173ea5a2371cf5fc4279c450d02271083c50798d840dd52a"},
		{
			`i=c.index('  - snp/**'); j=c.index('  - keys/**'); open('retally.yaml','w').write(c[:i]+c[j:])`,
			`g=c.index('\npolicies:\n'); h=c.index('# The machines whose'); i=c.index('  metal-qemu-tdx-gpu:'); j=c.index('  harbor-vm:'); k=c.index('  guest-on-amd:'); l=c.index('# The manifest, generated'); open('retally.yaml','w').write(c[:g]+'\n'+c[h:i]+c[j:k]+c[l:].replace('  release: contrast-release.yaml\n  default_platform: metal-qemu-snp\n  values: values.yaml\n','  base: manifest.generated.json\n'))`,
		},
	}, rows: []attackRow{
		{name: "plain plan", call: 1, control: true, want: exits(exitUnchecked), check: prints(`plain plan\nrc=3 `)},
		// Basis per value: an edit touches the basis of the fields that it sets, so
		// what was copied stays unchecked and no count rises.
		{name: "two steps more", call: 2, today: 0, want: exits(exitUnchecked), reason: "have not been checked here", check: basisOfPlan},
	}},
	{folder: "04-disk-arguments", rows: []attackRow{
		{name: "plain", call: 1, control: true, want: exits(exitMatch), check: prints(`plain +rc=0 `)},
		// A second root hash is passed: the third argument is the one that counts,
		// and it is not the published one.
		{name: "third argument evil, a good one behind it", call: 2, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		// $(X) expands as Kubernetes does, and with it a second root hash is passed.
		{name: "$(X), which Kubernetes expands", call: 3, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		// Flags end at "--": the evil hash is mounted.
		{name: "evil flag, --, good flag", call: 4, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		// Positional extras: no root hash reaches the mounter, nothing is known.
		{name: "flag behind a word (Go's flag stops there)", call: 5, today: 0, want: exits(exitUnchecked), reason: "not understood: a flag behind the word \"foo\", where flags end"},
		// Another program than the mounter gets the arguments.
		{name: "any program with disk-mounter as a word", call: 6, today: 0, want: exits(exitUnchecked), reason: "not understood: it starts \"python3\", which is not disk-mounter and may start anything"},
		{name: "a ConfigMap's script called disk-mounter", call: 7, today: 0, want: exits(exitUnchecked), reason: "not understood: a volume at \"/cm\" may hold another program than the image's disk-mounter"},
		// A mount over the mounter.
		{name: "a ConfigMap mounted over the program", call: 8, today: 0, want: exits(exitUnchecked), reason: "not understood: a volume at \"/bin/disk-mounter\" may hold other programs than the image"},
	}},
	// Closed-world scripts: a command that is not on the list of those that start
	// no other, eval, trap, alias: script/NAMESPACE/WORKLOAD/CONTAINER stays
	// unchecked with the line; or a defect where a second root hash is passed.
	{folder: "05-shell-unknown-commands", needs: []string{"dash"}, rows: []attackRow{
		{name: "plain", call: 1, control: true, want: exits(exitMatch), check: prints(`plain +rc=0 .*\n +dash: disk-mounter x 0 GOOD\n`)},
		{name: "timeout", call: 2, today: 0, want: exits(exitDiffers), reason: "a second root hash", check: prints(`(?m)^timeout .*\n +dash: disk-mounter x 0 EVIL`)},
		{name: "eval", call: 3, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "veritysetup", call: 4, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "trap", call: 5, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "alias", call: 6, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "env -i", call: 7, today: 0, want: exits(exitDiffers), reason: "a second root hash", check: prints(`(?m)^env -i .*\n +dash: .*GOOD\n +dash: .*EVIL`)},
	}},
	// As above: function, background, pipeline, loop, branch whose outcome is
	// unknown. An interpreter that follows one of them to the end finds the
	// unpublished root hash, which is a difference (1).
	{folder: "06-shell-semantics", needs: []string{"dash"}, rows: []attackRow{
		{name: "local is not undone", call: 1, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "assignment before :", call: 2, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "part of a pipeline", call: 3, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "background", call: 4, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "loop that never runs", call: 5, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{name: "case that does not fit", call: 6, today: 0, want: exits(exitDiffers), reason: "a second root hash"},
		{
			name: "if with unknown outcome", call: 7, today: 0, want: exits(exitDiffers), reason: "a second root hash",
			check: prints(`(?m)^if with unknown outcome .*\n +dash: disk-mounter x 0 EVIL`),
		},
	}},
	{folder: "07-flood-hides-errors", rows: []attackRow{
		{name: "an image without a digest", call: 1, control: true, want: exits(exitDiffers), reason: `image "evil.example/evil:latest" has no digest`},
		// Errors are kept before warnings, and a truncated list is itself an error.
		{
			name: "with a List of 10,001 zeros behind it", call: 2, today: 0, want: exits(exitDiffers),
			reason: "image \"evil.example/evil:latest\" has no digest", check: prints(`with a List of 10,001 zeros behind it`),
		},
		{name: "manifest check", call: 3, control: true, want: exits(exitDiffers), reason: "INVALID debug.json", check: prints(`manifest check: rc=1 .* 1 errors`)},
		{
			name: "with 1,000 policies in upper case in front", call: 4, today: 0, want: exits(exitDiffers),
			reason: "Debug", check: printsNot(`in front: .* 0 errors`),
		},
	}},
	{folder: "08-cache-does-not-see-through-links", rows: []attackRow{
		{name: "a model as hubs cache it, links to blobs", call: 1, control: true, want: exits(exitMatch), check: prints(`normalize: true\nrc=0 `)},
		// The cache looks through links: the bytes have changed, so the values differ.
		{name: "4 bytes of the weights changed", call: 2, today: 0, want: exits(exitDiffers), reason: "root hash sha256:"},
		{name: "the same, --fresh", call: 3, control: true, want: exits(exitDiffers), reason: "DIFFERS 2 values differ."},
		{name: "oci: a link to a layout", call: 4, control: true, want: exits(exitMatch), check: prints(`oci: a link to a layout\nrc=0 `)},
		{name: "a layer changed", call: 5, today: 0, want: exits(exitDiffers), reason: "digest-mismatch"},
		{name: "the same, --fresh", call: 6, control: true, want: exits(exitDiffers)},
	}},
	{folder: "09-out-overwrites-what-is-compared", rows: []attackRow{
		// --out never replaces an input of the run: refused before any work (2),
		// and the published manifest is as it was.
		{name: "retally run --out .", call: 1, today: 1, want: exits(exitTrouble), reason: "manifest.json", check: sameSum},
		{name: "once more", call: 2, today: 0, want: exits(exitTrouble), reason: "manifest.json"},
	}},
	{folder: "10-image-keys-of-48-bits", rows: []attackRow{
		{name: "image digest good", call: 1, control: true, want: exits(exitMatch), check: prints(`ok  sha256:9ac3f39e9183c3a0`)},
		{name: "image digest evil", call: 2, control: true, want: exits(exitMatch), check: prints(`ok  sha256:9ac3f39e9183009c`)},
		// Keys use whole digests: the second image is one more value, which was not
		// recounted.
		{name: "two digests with one start", call: 3, today: 0, want: exits(exitUnchecked), reason: "9ac3f39e9183009c"},
	}},
	// Bytes that were never read are unchecked, with counts.
	{folder: "11-foreign-layer-was-never-seen", rows: []attackRow{
		{name: "image digest", call: 1, today: 0, want: exits(exitUnchecked), reason: "nondistributable"},
		{name: "run", call: 2, today: 0, want: exits(exitUnchecked), reason: "723 of 4842 bytes covered"},
	}},
	// policy diff is equal only where whole documents, algorithm and rules are;
	// data against rules is unchecked.
	{folder: "12-policy-diff-says-the-same", fails: 1, rows: []attackRow{
		{name: "policy diff a.toml b.toml", call: 1, today: 0, want: exits(exitDiffers), reason: "cdh.toml"},
		{name: "policy diff a.toml c.toml", call: 2, today: 0, want: exits(exitDiffers), reason: "algorithm"},
		{name: "policy diff a.toml d.toml", call: 3, today: 0, want: exits(exitDiffers), reason: "initdata: text:"},
		{name: "policy diff data.json evil.rego", call: 4, today: 0, want: exits(exitUnchecked), reason: "rules"},
		{name: "policy diff a.toml b.toml -o json", call: 5, today: 0, want: exits(exitDiffers), reason: "\"equal\": false", never: `"equal": true`},
	}},
	{folder: "13-proxy-image-any-digest", rows: []attackRow{
		{name: "one.json", call: 1, control: true, want: exits(exitDiffers), reason: "DIFFERS none of the pulled image's digests"},
		// The asked image and platform are compared, not any in the file.
		{name: "two.json", call: 2, today: 0, want: exits(exitDiffers), reason: "ghcr.io/edgelesssys/privatemode/privatemode-proxy"},
	}},
	{folder: "14-order-of-files-switches-bound-off", needs: []string{"openssl"}, alone: true, mend: untilServed("sleep 1", "29343"), rows: []attackRow{
		{name: "evidence capture", call: 1, control: true, want: exits(exitMatch)},
		{name: "evidence verify cap", call: 2, control: true, want: exits(exitDiffers), reason: "somebody else's key ends this connection"},
		{name: "evidence verify cap quote.html", call: 3, control: true, want: exits(exitDiffers), reason: "somebody else's key ends this connection"},
		// The order of arguments changes no verdict.
		{name: "evidence verify quote.html cap", call: 4, today: 0, want: exits(exitDiffers), reason: "somebody else's key ends this connection"},
	}},
	{folder: "15-collateral-signed-by-anybody-below-the-root", sources: true, quick: [][2]string{{"-run 'TestAdv'", "-run TestAdvStructural"}}, rows: []attackRow{
		{name: "all mutants ran", control: true, check: prints(`structural mutants: 2[4-9]\d, `)},
		{name: "no good one is refused", control: true, check: printsNot(`(?m)^REFUSED .*`)},
		{name: "flips and truncations ran", control: true, check: onlyLong(prints(`truncations: 4202, accepted 3 `))},
		// Collateral is signed by a certificate that the root itself issued, without
		// a PCK extension, no CA, named Intel SGX TCB Signing.
		{name: "TCB info signed by the PCK of a platform", check: printsNot(`ACCEPTED collateral: TCB info signed by the PCK of a platform`)},
		{name: "TCB info signed by the PCK CA", check: printsNot(`ACCEPTED collateral: TCB info signed by the PCK CA`)},
		{name: "QE identity signed by the PCK of a platform", check: printsNot(`ACCEPTED collateral: QE identity signed by the PCK of a platform`)},
		{name: "TCB info signed by the root", check: printsNot(`ACCEPTED collateral: TCB info signed by the root`)},
		// A root given twice as a chain is refused.
		{name: "root twice", check: printsNot(`ACCEPTED chain: root twice`)},
		// Attributes that matter are never a plain pass.
		{name: "migratable TDs", check: printsNot(`note     body: .* migratable +pass`)},
		{name: "nothing else is accepted", check: onlyAccepted(5)},
	}},
	// Every object is walked; each image that the cluster would run is pinned or
	// an error (1).
	{folder: "16-images-in-places-not-looked-at", rows: []attackRow{
		{name: "Pod (what must come out)", call: 1, control: true, want: exits(exitDiffers), reason: `"evil.example/evil:latest" has no digest`},
		{name: "List with a spec beside items", call: 2, today: 0, want: exits(exitDiffers), reason: "evil.example/evil"},
		{name: "argoproj.io Rollout", call: 3, today: 0, want: exits(exitDiffers), reason: "evil.example/evil"},
		{name: "Rollout, ephemeral containers", call: 4, today: 0, want: exits(exitDiffers), reason: "evil.example/evil"},
		// An unknown kind is unchecked at least; an unpinned image in it an error.
		{name: "InferenceService", call: 5, today: 0, want: exits(exitDiffers), reason: "evil.example/evil"},
		{name: "volume of an image (KEP 4639)", call: 6, today: 0, want: exits(exitDiffers), reason: "evil.example/evil"},
		// Merge keys that override, tags on keys: an error with both lines.
		{name: "image, then <<: *evil", call: 7, today: 0, want: exits(exitTrouble), reason: "the merge key brings \"image\" of line 8"},
		{name: "image, then !x image", call: 8, today: 0, want: exits(exitTrouble), reason: "appears twice, first on line 8"},
	}},
	{folder: "17-nothing-compared-is-a-match", rows: []attackRow{
		// Zero compared values: exit 3 and said.
		{name: "--only keys/*", call: 1, today: 0, want: exits(exitUnchecked), reason: "Nothing was recounted"},
		{name: "--only none/*", call: 2, control: true, want: exits(exitUnchecked), reason: "NOT FULLY CHECKED"},
	}},
	{folder: "18-meaning-hides-entries", rows: []attackRow{
		// A numbered duplicate never joins: the bytes differ, and so does the
		// meaning. The exit code was right before.
		{name: "one more TDX reference value, of an evil firmware", call: 1, today: 1, want: exits(exitDiffers), reason: "accepts more than", never: "mean the same"},
	}},
	{folder: "19-disk-name-normalised-first", rows: []attackRow{
		// Names that normalise alike never join: the entry named has another root hash.
		{name: "disk --name", call: 1, today: 0, want: exits(exitDiffers), reason: "DIFFERS"},
	}},
	{folder: "20-redirects-into-the-own-network", needs: []string{"openssl"}, alone: true, mend: untilServed("sleep 1", "5443", "5444"), fails: 143, rows: []attackRow{
		{name: "redirect to https://localhost:5444/admin", call: 1, control: true, want: exits(exitTrouble), reason: "an address inside the own network"},
		// By any spelling, resolved once and dialled as resolved.
		{
			name: "redirect to https://LOCALHOST:5444/admin", call: 2, today: 1, want: exits(exitTrouble),
			reason: "inside the own network", check: printsNot(`THE INTERNAL SERVICE WAS ASKED FOR`),
		},
	}},
	{folder: "21-cache-of-others", needs: []string{"setpriv"}, root: true, mend: [][2]string{{`'run','-q'`, `'run','--test-root-ok','-q'`}}, rows: []attackRow{
		{name: "the other user's own run", call: 1, control: true, want: exits(exitDiffers), check: prints(`the other user's own run: rc=1`)},
		// No entry that another user could write is trusted: recounted (1), or the
		// folder is refused (2).
		{name: "root's run with RETALLY_CACHE in a shared folder", call: 2, today: 0, want: exits(exitDiffers), reason: "root hash sha256:"},
		{name: "the same, --fresh", call: 3, control: true, want: exits(exitDiffers)},
		{name: "before a mapped write", call: 4, control: true, want: exits(exitMatch)},
		// The stamps are as they were, so the cache must not stand on stamps alone.
		{name: "4 bytes changed through a mapping", call: 5, today: 0, want: exits(exitDiffers), reason: "root hash sha256:"},
		{name: "the same, --fresh", call: 6, control: true, want: exits(exitDiffers)},
	}},
	// Time is not asserted: what grows with the square is counted in tests beside
	// the code. Here all of it must end, and the policy engine by itself.
	{folder: "22-work-without-bound", needs: []string{"/usr/bin/time"}, long: true, rows: []attackRow{
		{name: "compare of two equal manifests, 500 policies", call: 1, control: true, want: exits(exitMatch)},
		{name: "1000 policies", call: 2, control: true, want: exits(exitMatch)},
		{name: "2000 policies", call: 3, control: true, want: exits(exitMatch)},
		{name: "compare of two reports, 2000 differing digests", call: 4, control: true, want: exits(exitDiffers)},
		{name: "4000 differing digests", call: 5, control: true, want: exits(exitDiffers)},
		{name: "8000 differing digests", call: 6, control: true, want: exits(exitDiffers)},
		{name: "check of a deployment, one repository with 2000 digests", call: 7, control: true, want: exits(exitUnchecked)},
		{name: "4000 digests", call: 8, control: true, want: exits(exitUnchecked)},
		{name: "8000 digests", call: 9, control: true, want: exits(exitUnchecked)},
		// OPA runs with a deadline and a memory limit, and saying so is an error.
		{name: "numbers.range", call: 10, today: stopped, want: exits(exitTrouble), reason: "the policy needs more than"},
		{name: "three loops", call: 11, today: stopped, want: exits(exitTrouble), reason: "the policy needs more than"},
	}},
	{folder: "23-reference-out-of-the-bundle-is-endorsed", rows: []attackRow{
		// A registry row that came with the evidence is the sender's word and is not
		// endorsed. The exit code was right before.
		{name: "check h", call: 1, today: 3, want: exits(exitUnchecked), reason: "sender's word", never: "2 endorsed by a signature"},
	}},
	// The deployment's image has no digest: 1 in both forms. What people see is
	// escaped in JSON too, and invisible letters are shown as such.
	{folder: "24-what-people-see", needs: []string{"xxd"}, rows: []attackRow{
		{name: "json", call: 1, today: 1, want: exits(exitDiffers), reason: `\u202e`, check: noLetters(1, "\u009b\u202e")},
		{name: "text", call: 2, today: 1, want: exits(exitDiffers), reason: "\\u{202e}", check: noLetters(2, "\u009b\u202e\u3164\u115f\u2800\uffa0")},
	}},
	{folder: "25-init-writes-another-name", rows: []attackRow{
		// init judges nothing: 0 is right, and the name that is there is written.
		{name: "init", call: 1, today: 0, want: exits(exitMatch), reason: "wrote v/retally.yaml", check: nameAsItIs},
	}},
	{folder: "26-ci-runs-what-lies-in-var-tmp", root: true, sources: true, rows: []attackRow{
		// Not the program's: .ci refuses a folder that others can write.
		{name: "oracle-chroot", check: prints(`rc=[1-9]\d*; written by the stranger's program: , owner of its folder: nobody`)},
	}},
	// Named FIFOs given as inputs are refused with a clear error (2).
	{folder: "27-pipes-hang", needs: []string{"mkfifo", "timeout"}, asleep: true, rows: []attackRow{
		{name: "check", call: 1, control: true, want: exits(exitTrouble), reason: "is not a regular file but a named pipe"},
		{name: "disk --against-image", call: 2, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "verity verify", call: 3, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "evidence verify --rootfs", call: 4, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "evidence verify", call: 5, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "image digest", call: 6, today: stopped, want: exits(exitTrouble), reason: "is a named pipe"},
		{name: "compare", call: 7, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "manifest check", call: 8, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "proxy-image --inspect", call: 9, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "tdx replay", call: 10, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
		{name: "policy show", call: 11, today: stopped, want: exits(exitTrouble), reason: "named pipe"},
	}},
	// A script that is not understood whole is unchecked, which no leave for
	// file/** covers; a check that stops nothing is a defect, as "|| true" is.
	// The script's own configuration has nothing that is recounted, and nothing
	// compared is no match: a model's disk is added.
	{folder: "28-file-checks-that-stop-nothing", needs: []string{"dash"}, mend: [][2]string{
		{`cd "$W"; H=`, `demo; cp -r "$D/models" "$D/models.yaml" "$W"; cd "$W"; H=`},
		{`version: 1\ndeployment: d.yaml\n`, `version: 1\ndeployment: d.yaml\nmodels: models.yaml\ndisks: {harbor-tinychat-0-5b: {dir: models/harbor-tinychat-0-5b, normalize: true}}\n`},
	}, rows: []attackRow{
		{name: "enforced", call: 1, control: true, want: exits(exitMatch), check: prints(`enforced +retally rc=0, dash 1`)},
		{name: "|| true", call: 2, today: 1, want: exits(exitDiffers), reason: "is checked, but not enforced"},
		{name: "function", call: 3, today: 0, want: exits(exitUnchecked), reason: "not understood: a function is not followed", check: prints(`function +retally rc=\d, dash 0`)},
		{name: "alias", call: 4, today: 0, want: exits(exitUnchecked), reason: "not understood: \"alias\" is no command that is understood", check: prints(`alias +retally rc=\d, dash 0`)},
		{name: "trap", call: 5, today: 0, want: exits(exitUnchecked), reason: "not understood: \"trap\" is no command that is understood", check: prints(`trap +retally rc=\d, dash 0`)},
		{name: "set -e and a pipeline", call: 6, today: 0, want: exits(exitUnchecked), reason: "not understood: a pipeline: what its parts do to each other is not followed", check: prints(`pipeline +retally rc=\d, dash 0`)},
	}},
	{folder: "29-verity-verify-trailing", rows: []attackRow{
		{name: "verity format", call: 1, control: true, want: exits(exitMatch)},
		// Bytes that no hash covers are unchecked, with counts.
		{name: "verity verify", call: 2, today: 0, want: exits(exitUnchecked), reason: "\"uncovered\": 70000"},
	}},
	{folder: "30-writes-through-links", rows: []attackRow{
		// --checkpoint never follows a link out of its folder: refused (2).
		{name: "disk --checkpoint cp", call: 1, today: 0, want: exits(exitTrouble), reason: "cp.digests", check: prints(`begins with 'precious': 1`)},
	}},
}

// untilServed replaces a wait of a script by one that ends when its server
// answers: on a busy machine a second is not enough.
func untilServed(wait string, ports ...string) [][2]string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "for i in $(seq 300); do (exec 3<>/dev/tcp/127.0.0.1/%s) 2>/dev/null && break; sleep 0.1; done; ", p)
	}
	return [][2]string{{wait, strings.TrimSuffix(b.String(), "; ")}}
}

// onlyLong is a check of what the script does with -long only.
func onlyLong(check func(attackRun) string) func(attackRun) string {
	return func(got attackRun) string {
		if !testenv.IsLong() {
			return ""
		}
		return check(got)
	}
}

// basisOfPlan: after the two steps no basis is better and no count is higher.
func basisOfPlan(got attackRun) string {
	plain, more, ok := strings.Cut(got.out, "two steps more")
	if !ok {
		return "the script did not come to its second plan"
	}
	standing := regexp.MustCompile(`(?m)^ +(\S+) (\S+) (\S+)$`)
	before := map[string]string{}
	for _, m := range standing.FindAllStringSubmatch(plain, -1) {
		before[m[1]] = m[3]
	}
	if len(before) != 3 {
		return fmt.Sprintf("%d standings before, want 3", len(before))
	}
	after := standing.FindAllStringSubmatch(more, -1)
	if len(after) != 3 {
		return fmt.Sprintf("%d standings after, want 3", len(after))
	}
	for _, m := range after {
		if m[3] != before[m[1]] {
			return fmt.Sprintf("%s was %s and is %s", m[1], before[m[1]], m[3])
		}
	}
	coverage := regexp.MustCompile(`'(\w+)': \((\d+), \d+\)`)
	counts := map[string]int{}
	for _, m := range coverage.FindAllStringSubmatch(plain, -1) {
		counts[m[1]], _ = strconv.Atoi(m[2])
	}
	if len(counts) == 0 {
		return "no coverage before"
	}
	for _, m := range coverage.FindAllStringSubmatch(more, -1) {
		if n, _ := strconv.Atoi(m[2]); n > counts[m[1]] {
			return fmt.Sprintf("%s: %d recounted, before the steps %d", m[1], n, counts[m[1]])
		}
	}
	return ""
}

// sameSum: the two sums of manifest.json are one.
func sameSum(got attackRun) string {
	sums := regexp.MustCompile(`(?m)^([0-9a-f]{64})  manifest\.json$`).FindAllStringSubmatch(got.out, -1)
	if len(sums) != 2 {
		return fmt.Sprintf("%d sums of manifest.json, want 2", len(sums))
	}
	if sums[0][1] != sums[1][1] {
		return "manifest.json was overwritten"
	}
	return ""
}

// onlyAccepted: no mutant is accepted beside those that have a row.
func onlyAccepted(most int) func(attackRun) string {
	return func(got attackRun) string {
		if n := len(regexp.MustCompile(`(?m)^ACCEPTED `).FindAllString(got.out, -1)); n > most {
			return fmt.Sprintf("%d mutants are accepted, at most %d were", n, most)
		}
		return ""
	}
}

// noLetters: what a call printed has none of the letters as they are.
func noLetters(call int, letters string) func(attackRun) string {
	return func(got attackRun) string {
		out := got.calls[call-1].out
		if i := strings.IndexAny(out, letters); i >= 0 {
			return fmt.Sprintf("%+q is printed", []rune(out[i:])[0])
		}
		if !strings.Contains(strings.Join(strings.Fields(out), " "), "container a") {
			return "no line about the container"
		}
		return ""
	}
}

// nameAsItIs: the image's row in the configuration has the folder's whole name.
func nameAsItIs(got attackRun) string {
	_, text, _ := strings.Cut(got.out, "rc=0\n")
	var cfg struct {
		Images map[string]map[string]string
	}
	if err := yaml.Unmarshal([]byte(text), &cfg); err != nil {
		return "the configuration does not parse: " + err.Error()
	}
	const name = "disk-mounter, archive"
	for _, image := range cfg.Images {
		if len(image) == 1 && image["oci"] == name {
			return ""
		}
	}
	return fmt.Sprintf("no image with oci: %q in %v", name, cfg.Images)
}
