package pipeline

// stages is the one table, in the order of their dependence: the deployment
// names what the others measure, policies rest on images and launch digests,
// the manifest on everything.
var stages = []Stage{deploymentStage, imagesStage, disksStage, tdxStage, policiesStage, manifestStage, evidenceStage}
