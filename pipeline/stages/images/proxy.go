package images

import (
	"context"
	"maps"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

const proxyName = "privatemode-proxy"

var proxyKey = pipeline.NewKey("image", proxyName, "manifest")

// proxy holds the proxy's image, as the engine that runs it says it was pulled,
// against the rebuilt one.
func (r *stageRun) proxy(ctx context.Context) error {
	file := r.in.Config.Proxy
	list, err := run.Parsed(ctx, r.in, file, config.JSONLimit, privatemode.ParseInspect)
	if err != nil {
		return err
	}
	pulled := Pulled{Name: proxyName, Inspected: []Inspected{}}
	rebuilt := r.measured(proxyKey)
	if rebuilt != nil {
		pulled.Rebuilt = rebuilt.Value.Digest()
	}
	for _, img := range list {
		pulled.Add(img)
	}
	pulled.Judge()
	if rebuilt == nil {
		r.in.Lack("the rebuilt image of "+proxyName, string(proxyKey), "images: {"+proxyName+": {oci: result/"+proxyName+"}}, or hashes: hashes-HOST.json with it")
		r.out.Refer(proxyKey, pipeline.OfText("the rebuilt image"), pipeline.Where{File: file}, "image that was pulled")
		r.out.Notes[proxyKey] = "no rebuilt image to compare with"
		return nil
	}
	own := pulled.Out(r.in.Config.Hashes, file)
	// What is measured stands already.
	r.out.References, r.out.Problems = append(r.out.References, own.References...), append(r.out.Problems, own.Problems...)
	maps.Copy(r.out.Causes, own.Causes)
	maps.Copy(r.out.Notes, own.Notes)
	return nil
}
