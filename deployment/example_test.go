package deployment_test

import (
	"fmt"

	"github.com/retally/retally/deployment"
)

func ExampleParse() {
	d, err := deployment.Parse("deployment.yaml", []byte(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  runtimeClassName: contrast-cc-metal-qemu-tdx
  containers:
  - name: web
    image: example.com/web:v1
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range d.Problems() {
		fmt.Println(p.Error())
	}
	fmt.Println(d.Workloads[0].SecretID, d.Workloads[0].Platform)
	// Output:
	// deployment.yaml:9:12: Pod/default/web: container web: image "example.com/web:v1" has no digest, so it may be any image (append @sha256:<64 hex digits>)
	// core/v1/Pod/default/web metal-qemu-tdx
}
