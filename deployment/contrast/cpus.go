package contrast

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// cpus counts the vCPUs of a pod: the larger of what its containers and sidecars
// need together, what its init containers need together, and what the pod asks
// for, in whole CPUs, and one for the system (Contrast and Privatemode
// specification, 2.4).
func cpus(spec map[string]any, limitsOnly bool) (int, error) {
	running, starting := new(big.Int), new(big.Int)
	for _, list := range []string{"containers", "initContainers"} {
		for i, c := range objects(spec[list]) {
			n, err := milliCPU(c, limitsOnly)
			if err != nil {
				return 0, fmt.Errorf("spec.%s[%d].resources: %w", list, i, err)
			}
			if list == "containers" || c["restartPolicy"] == "Always" {
				running.Add(running, n)
			}
			if list == "initContainers" {
				starting.Add(starting, n)
			}
		}
	}
	pod, err := milliCPU(spec, limitsOnly)
	if err != nil {
		return 0, fmt.Errorf("spec.resources: %w", err)
	}
	most := running
	for _, n := range []*big.Int{starting, pod} {
		if n.Cmp(most) > 0 {
			most = n
		}
	}
	whole := new(big.Int).Add(most, big.NewInt(999))
	whole.Div(whole, big.NewInt(1000)).Add(whole, big.NewInt(1))
	if !whole.IsInt64() || whole.Int64() > 1<<16 {
		return 0, fmt.Errorf("%s vCPUs are more than a machine has", whole)
	}
	return int(whole.Int64()), nil
}

func milliCPU(of map[string]any, limitsOnly bool) (*big.Int, error) {
	most := new(big.Int)
	resources, _ := of["resources"].(map[string]any)
	for _, kind := range []string{"limits", "requests"} {
		if kind == "requests" && limitsOnly {
			continue
		}
		list, _ := resources[kind].(map[string]any)
		v, ok := list["cpu"]
		if !ok || v == nil {
			continue
		}
		n, err := milli(v)
		if err != nil {
			return nil, fmt.Errorf("%s.cpu: %w", kind, err)
		}
		if n.Cmp(most) > 0 {
			most = n
		}
	}
	return most, nil
}

var quantityText = regexp.MustCompile(`^([+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40}))(n|u|m|k|Ki|[MGTPE]i?|[eE][+-]?[0-9]{1,2})?$`)

// milli reads a Kubernetes quantity in thousandths, rounded up (kubernetes.io,
// API reference, Quantity).
func milli(v any) (*big.Int, error) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	default:
		return nil, fmt.Errorf("%v is no quantity", v)
	}
	m := quantityText.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("%.40q is no quantity", text)
	}
	n, ok := new(big.Rat).SetString(m[1])
	if !ok {
		return nil, fmt.Errorf("%.40q is no quantity", text)
	}
	scale := func(base, exp int64) {
		p := new(big.Int).Exp(big.NewInt(base), big.NewInt(max(exp, -exp)), nil)
		if exp < 0 {
			n.Quo(n, new(big.Rat).SetInt(p))
		} else {
			n.Mul(n, new(big.Rat).SetInt(p))
		}
	}
	switch suffix := m[2]; {
	case suffix == "":
	case strings.HasSuffix(suffix, "i"):
		scale(1024, int64(1+strings.IndexByte("KMGTPE", suffix[0])))
	case len(suffix) > 1: // e3
		var exp int64
		if _, err := fmt.Sscanf(suffix[1:], "%d", &exp); err != nil {
			return nil, fmt.Errorf("%.40q is no quantity", text)
		}
		scale(10, exp)
	default:
		scale(10, map[byte]int64{'n': -9, 'u': -6, 'm': -3, 'k': 3, 'M': 6, 'G': 9, 'T': 12, 'P': 15, 'E': 18}[suffix[0]])
	}
	scale(10, 3)
	if n.Sign() < 0 {
		return nil, fmt.Errorf("%.40q is less than nothing", text)
	}
	up := new(big.Int).Add(n.Num(), new(big.Int).Sub(n.Denom(), big.NewInt(1)))
	return up.Div(up, n.Denom()), nil
}
