package pipeline

// Table is the one list of stages, in the order of their dependence: the
// deployment names what the others measure, policies rest on images and launch
// digests, the manifest on everything.
func Table() []Stage {
	return []Stage{deploymentStage(), imagesStage(), disksStage(), tdxStage(), policiesStage(), manifestStage(), evidenceStage()}
}
