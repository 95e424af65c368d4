// Package stages has the one list of stages and, for two files of the same kind,
// the comparison in which nothing is recomputed.
package stages

import (
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/deployment"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/pipeline/stages/endorsements"
	"github.com/retally/retally/pipeline/stages/evidence"
	"github.com/retally/retally/pipeline/stages/fleet"
	"github.com/retally/retally/pipeline/stages/images"
	"github.com/retally/retally/pipeline/stages/manifest"
	"github.com/retally/retally/pipeline/stages/nix"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/pipeline/stages/snp"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/pipeline/stages/tpm"
)

// Table is the one list of stages, in the order of their dependence: the
// deployment names what the others measure, images may be built here, policies rest on images and launch
// digests, the manifest on everything; endorsements are about any of their values.
func Table() []run.Stage {
	return []run.Stage{deployment.Stage(), nix.Stage(), images.Stage(), disks.Stage(), tdx.Stage(), snp.Stage(), tpm.Stage(), policies.Stage(), manifest.Stage(), evidence.Stage(), endorsements.Stage(), fleet.Stage()}
}
