package policygen

import (
	"reflect"
	"strings"
)

// harmlessFields are unknown fields that change nothing inside a container:
// what the API server adds to an object, and what only the scheduler or a
// controller reads. The owner is the schema type, "" stands for any object.
var harmlessFields = map[string][]string{
	"objectMeta": {
		"managedFields", "creationTimestamp", "resourceVersion", "generation", "selfLink", "ownerReferences",
		"finalizers", "deletionTimestamp", "deletionGracePeriodSeconds",
	},
	"podObject":        {"status"},
	"workload":         {"status"},
	"podSpec":          {"readinessGates", "schedulingGates", "overhead", "activeDeadlineSeconds", "enableServiceLinks"},
	"container":        {"resizePolicy"},
	"jobSpec":          {"selector"},
	"claimSpec":        {"volumeName", "dataSource", "dataSourceRef", "selector"},
	"volumeClaim":      {"status"},
	"spreadConstraint": {"matchLabelExpressions"},
}

// fieldHints say what an unknown field does that the policy would not show.
var fieldHints = map[string]map[string]string{
	"podSpec": {
		"hostPID":                      "it shares the host's process namespace, which no policy describes; remove it",
		"hostIPC":                      "it shares the host's IPC namespace, which no policy describes; remove it",
		"automountServiceAccountToken": "it decides whether a token is mounted; set it on the ServiceAccount instead",
		"hostAliases":                  "it writes /etc/hosts from outside the measured data",
		"ephemeralContainers":          "they are started later and are not in the policy",
		"subdomain":                    "it changes the host name",
		"setHostnameAsFQDN":            "it changes the host name",
	},
	"container": {
		"workingDir": "it changes where the command runs; set WORKDIR in the image instead",
		"stdinOnce":  "it changes how standard input is attached",
	},
	"securityContext": {
		"runAsNonRoot": "the policy pins the user itself; use runAsUser",
		"procMount":    "it unmasks /proc, which no policy describes",
	},
	"podSecurityContext": {
		"runAsNonRoot":        "the policy pins the user itself; use runAsUser",
		"seccompProfile":      "it is not in the policy",
		"fsGroupChangePolicy": "it is not in the policy",
	},
	"secretObject": {"stringData": "use data with base64 text"},
	"volumeMount":  {"recursiveReadOnly": "the policy cannot describe it"},
}

func schemaName(t reflect.Type) string {
	name, _, _ := strings.Cut(t.Name(), "[") // workload[…]
	return name
}

func isHarmless(t reflect.Type, key string) bool {
	for _, f := range harmlessFields[schemaName(t)] {
		if f == key {
			return true
		}
	}
	return false
}

func fieldHint(t reflect.Type, key string, harmless bool) string {
	if harmless {
		return "it does not reach the container: remove it, or accept such fields with --lenient"
	}
	if hint := fieldHints[schemaName(t)][key]; hint != "" {
		return hint
	}
	if schemaName(t) == "volume" {
		return "this volume type has no policy"
	}
	if near := nearestField(t, key); near != "" {
		return "did you mean " + near + "?"
	}
	return "remove it: what it does would not be in the policy"
}

// nearestField is the schema's field that differs from key by case or by one
// character at most.
func nearestField(t reflect.Type, key string) string {
	for i := range t.NumField() {
		name, _ := fieldTag(t.Field(i))
		if strings.EqualFold(name, key) || oneEdit(name, key) {
			return name
		}
	}
	return ""
}

// oneEdit reports whether one insertion, deletion or replacement turns a into b.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 || len(a) < 3 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return i == len(a) || a[i+1:] == b[i+1:]
	}
	return a[i:] == b[i+1:]
}
