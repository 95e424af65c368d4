package shard

import (
	"fmt"
	"regexp"
	"strings"
)

// Kube says how a plan runs as Kubernetes Jobs.
type Kube struct {
	Name      string // of the Jobs, a DNS label
	Namespace string // "" leaves it out
	Image     string // of retally, with a digest
	Model     string // claim of the volume with what is read
	Results   string // claim of the volume that results are written to
	AtOnce    int    // Pods at a time, 0: as many as tasks, at most 64
	Retries   int    // of each task
	CPU       string // request and limit of a task, such as "4"
	Memory    string
	Audit     string // percent, "" for none
	Wait      string // how long the merge waits for the last result
}

// KubeError is a value that Kubernetes would not take, or take otherwise.
type KubeError struct{ Field, Found, Want string }

func (e *KubeError) Error() string {
	return fmt.Sprintf("kubernetes job: %s is %.80q, want %s", e.Field, e.Found, e.Want)
}

var (
	dnsLabel  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$`)
	claimName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,300}@sha256:[0-9a-f]{64}$`)
	quantity  = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$`)
	duration  = regexp.MustCompile(`^([0-9]+(h|m|s))+$`)
	percent   = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
)

// Check holds the values against what may stand in the objects.
func (k *Kube) Check() error {
	for _, c := range []struct {
		field, found, want string
		form               *regexp.Regexp
		optional           bool
	}{
		{"the name", k.Name, "lower-case letters, digits and hyphens, at most 52", dnsLabel, false},
		{"the namespace", k.Namespace, "lower-case letters, digits and hyphens", dnsLabel, true},
		{"the image", k.Image, "name@sha256:..., so that it is known what ran", imageName, false},
		{"the claim of what is read", k.Model, "the name of a PersistentVolumeClaim", claimName, false},
		{"the claim of results", k.Results, "the name of a PersistentVolumeClaim", claimName, false},
		{"the cpu", k.CPU, "a quantity such as 4 or 500m", quantity, false},
		{"the memory", k.Memory, "a quantity such as 512Mi", quantity, false},
		{"the audit", k.Audit, "a percentage", percent, true},
		{"the time to wait", k.Wait, "a duration such as 24h", duration, false},
	} {
		if !(c.optional && c.found == "") && !c.form.MatchString(c.found) {
			return &KubeError{c.field, c.found, c.want}
		}
	}
	if k.AtOnce < 0 || k.Retries < 0 || k.Retries > 100 {
		return &KubeError{"the number of retries or of Pods at a time", fmt.Sprintf("%d, %d", k.Retries, k.AtOnce), "0 to 100 retries, and no negative number"}
	}
	return nil
}

// Paths inside of a Pod.
const (
	podPlan    = "/plan/plan.json"
	podModel   = "/model"
	podResults = "/results"
)

func (k *Kube) command() Command {
	return Command{Program: "retally", Plan: podPlan, Results: podResults, Root: podModel, Merged: podResults + "/merged.json", Audit: k.Audit}
}

// MaxConfigMap is how long a plan may be to travel in a ConfigMap (Kubernetes
// API, ConfigMap: 1 MiB with everything).
const MaxConfigMap = 1000 << 10

// Jobs writes the Indexed Job that reads the parts and the Job that waits for
// the results and joins them.
//
// Exit code 1 says that what lies there is not what was planned: the index fails
// for good. 2 and 130 are tried again. A Pod that its node lost counts for
// nothing.
func (k *Kube) Jobs(p *Plan) string {
	parallel := k.AtOnce
	if parallel == 0 {
		parallel = min(p.Tasks(), 64)
	}
	c := k.command()
	var b strings.Builder
	k.head(&b, "batch/v1", "Job", k.Name)
	fmt.Fprintf(&b, `spec:
  completionMode: Indexed
  completions: %d
  parallelism: %d
  backoffLimitPerIndex: %d
  maxFailedIndexes: %d
%s`, p.Tasks(), min(parallel, p.Tasks()), k.Retries, p.Tasks(), failurePolicy("FailIndex"))
	k.pod(&b, c.Run()[1:], false)
	b.WriteString("---\n")
	k.head(&b, "batch/v1", "Job", k.Name+"-merge")
	fmt.Fprintf(&b, `spec:
  completions: 1
  parallelism: 1
  backoffLimit: %d
%s`, k.Retries, failurePolicy("FailJob"))
	k.pod(&b, append(c.Merge()[1:], "--wait", k.Wait), true)
	return b.String()
}

// failurePolicy says what exit codes mean: action is what follows from 1.
func failurePolicy(action string) string {
	return `  podFailurePolicy:
    rules:
    - action: Ignore
      onPodConditions:
      - type: DisruptionTarget
        status: "True"
    - action: ` + action + `
      onExitCodes:
        containerName: retally
        operator: In
        values: [1]
    - action: Count
      onExitCodes:
        containerName: retally
        operator: In
        values: [2, 130]
`
}

func (k *Kube) head(b *strings.Builder, version, kind, name string) {
	fmt.Fprintf(b, "apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n", version, kind, name)
	if k.Namespace != "" {
		fmt.Fprintf(b, "  namespace: %s\n", k.Namespace)
	}
	fmt.Fprintf(b, "  labels:\n    app.kubernetes.io/name: retally\n    app.kubernetes.io/instance: %s\n", k.Name)
}

// pod writes a template without privileges: nothing of the cluster's API, no
// root, no writable file system but the results.
func (k *Kube) pod(b *strings.Builder, args []string, merge bool) {
	fmt.Fprintf(b, `  template:
    metadata:
      labels:
        app.kubernetes.io/name: retally
        app.kubernetes.io/instance: %s
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      containers:
      - name: retally
        image: %s
        command: [retally]
        args:
`, k.Name, k.Image)
	for _, a := range args {
		fmt.Fprintf(b, "        - %q\n", a)
	}
	if !merge {
		b.WriteString(`        env:
        - name: NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
`)
	}
	fmt.Fprintf(b, `        resources:
          requests:
            cpu: %q
            memory: %q
          limits:
            memory: %q
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
        volumeMounts:
        - name: plan
          mountPath: /plan
          readOnly: true
        - name: model
          mountPath: %s
          readOnly: true
        - name: results
          mountPath: %s
      volumes:
      - name: plan
        configMap:
          name: %s-plan
      - name: model
        persistentVolumeClaim:
          claimName: %s
          readOnly: true
      - name: results
        persistentVolumeClaim:
          claimName: %s
`, k.CPU, k.Memory, k.Memory, podModel, podResults, k.Name, k.Model, k.Results)
}

// ConfigMap carries the plan.
func (k *Kube) ConfigMap(p *Plan) string {
	var b strings.Builder
	k.head(&b, "v1", "ConfigMap", k.Name+"-plan")
	b.WriteString("immutable: true\ndata:\n  plan.json: |\n    ")
	b.Write(p.Encode()) // one line
	return b.String()
}

// Kustomization is a base of both Jobs: the ConfigMap is generated of plan.json,
// so that a new plan gets a new name.
func (k *Kube) Kustomization() string {
	var b strings.Builder
	b.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n")
	if k.Namespace != "" {
		fmt.Fprintf(&b, "namespace: %s\n", k.Namespace)
	}
	fmt.Fprintf(&b, "resources:\n- jobs.yaml\nconfigMapGenerator:\n- name: %s-plan\n  files:\n  - plan.json\n", k.Name)
	return b.String()
}
