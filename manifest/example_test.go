package manifest_test

import (
	"fmt"

	"github.com/retally/retally/manifest"
)

func ExampleManifest_Validate() {
	m, err := manifest.Parse("manifest.json", []byte(`{
  "Policies": {"abcd": {"SANs": ["web", "*"]}},
  "ReferenceValues": {}
}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range m.Validate() {
		fmt.Println(p)
	}
	// Output:
	// 2:16: error: /Policies/abcd: policy hash has 4 hex digits, want 64
	// 3:22: error: /ReferenceValues: no reference value: nothing could be attested (fill in snp or tdx; is the chosen platform supported?)
}

func ExamplePlan_Apply() {
	plan, err := manifest.ParsePlan("adjustments.yaml", []byte(`version: 1
variables:
  namespace: {from: deployment, name: web, field: metadata.namespace}
steps:
- op: append
  path: /Policies/*/SANs
  where: {WorkloadSecretID: {contains: web}}
  value: web.${namespace}.svc.cluster.local
- {op: delete, path: /WorkloadOwnerKeys}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := plan.Apply([]byte(`{"Policies":{"ab":{"SANs":["web"],"WorkloadSecretID":"apps/v1/Deployment/ns/web"}}}`), map[string]string{"namespace": "ns"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(res.Bytes))
	for _, w := range res.Warnings() {
		fmt.Println(w)
	}
	// Output:
	// {
	//   "Policies": {
	//     "ab": {
	//       "SANs": [
	//         "web",
	//         "web.ns.svc.cluster.local"
	//       ],
	//       "WorkloadSecretID": "apps/v1/Deployment/ns/web"
	//     }
	//   }
	// }
	// line 9: delete /WorkloadOwnerKeys: nothing was there to delete
}
