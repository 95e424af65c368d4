package deployment_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/deployment"
)

// clean reports whether nothing in a deployment keeps a verdict from being a
// match: no error, nothing opaque, no unknown kind, every pin proved.
func clean(d *deployment.Deployment) bool {
	return len(d.Opaque()) == 0 && len(d.Unknown()) == 0 &&
		!slices.ContainsFunc(d.Problems(), func(p deployment.Problem) bool { return p.Code.Level() != deployment.Warning }) &&
		!slices.ContainsFunc(d.Disks(), func(p deployment.DiskPin) bool { return !p.Used || p.RootHash.IsZero() }) &&
		!slices.ContainsFunc(d.FileChecks(), func(c deployment.FileCheck) bool { return c.Enforcement != deployment.Enforced })
}

const mounterPod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\nspec:\n  runtimeClassName: contrast-cc\n"

func attack(t *testing.T, name, yaml string, want bool) {
	t.Helper()
	yaml = strings.NewReplacer("GOOD", hexA, "EVIL", hexB, "@DM", "registry.example/harbor/"+mount[strings.LastIndexByte(mount, '/')+1:], "@PIN", pinA).Replace(yaml)
	d, err := deployment.Parse("d.yaml", []byte(yaml))
	if err != nil {
		if want {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	if clean(d) != want {
		t.Errorf("%s: clean is %v, want %v\nproblems %v\nopaque %+v\ndisks %+v\nchecks %+v\n%s", name, !want, want, d.Problems(), d.Opaque(), d.Disks(), d.FileChecks(), yaml)
	}
}

// What reaches disk-mounter is what is judged, or it is not judged.
func TestArgumentAttacks(t *testing.T) {
	pod := func(fields string) string {
		return mounterPod + "  volumes: [{name: v, configMap: {name: c}}]\n  containers:\n  - {name: a, image: '@DM', " + fields + "}\n"
	}
	for fields, want := range map[string]bool{
		"args: [x, '0', GOOD]":                                                            true,
		"args: [--root-hash=GOOD]":                                                        true,
		"args: [--root-hash, GOOD, --device-path=/d]":                                     true,
		"args: ['$(X)', '0', GOOD]":                                                       true, // names no variable: stays as it is
		"env: [{name: X, value: x}], args: ['$(X)', '0', GOOD]":                           true,
		"env: [{name: X, value: GOOD}], args: [x, '0', '$(X)']":                           true,
		"env: [{name: X, value: EVIL}], args: [x, '0', '$$(X)']":                          false,
		"args: [x, '0', EVIL, GOOD]":                                                      false,
		"args: [x, '0', GOOD, EVIL]":                                                      false,
		"args: [x, '0', GOOD, y]":                                                         false,
		"env: [{name: X, value: '--root-hash=EVIL'}], args: ['--root-hash=GOOD', '$(X)']": false,
		"env: [{name: X, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], args: ['--root-hash=GOOD', '$(X)']":                 false,
		"env: [{name: X, value: b}, {name: Y, value: '$(X)'}], args: ['$(Y)', '0', GOOD]":                                         true,
		"env: [{name: 'a b', value: '--root-hash=EVIL'}], args: ['--root-hash=GOOD', '$(a b)']":                                   false,
		"args: ['--root-hash=GOOD', '$(EVIL_SERVICE_HOST)']":                                                                      false,
		"envFrom: [{configMapRef: {name: c}}], args: [x, '0', GOOD]":                                                              false,
		"args: ['--root-hash=EVIL', '--', '--root-hash=GOOD']":                                                                    false,
		"args: ['--', '--root-hash=GOOD']":                                                                                        false,
		"args: [foo, '--root-hash=GOOD']":                                                                                         false,
		"args: ['--root-hash=GOOD', foo]":                                                                                         false,
		"args: ['--root-hash=GOOD', '--other']":                                                                                   false,
		"args: ['--root-hash=EVIL', '--root-hash=GOOD']":                                                                          false,
		"args: [x, '0', '--root-hash=GOOD']":                                                                                      false,
		"args: [x, 0, GOOD]":                                                                                                      false,
		"args: [x, yes, GOOD]":                                                                                                    false,
		"command: [python3, /cm/evil.py, disk-mounter], args: [x, '0', GOOD]":                                                     false,
		"command: [/cm/disk-mounter], args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /cm}]":                            false,
		"command: [cm/disk-mounter], args: [x, '0', GOOD]":                                                                        false,
		"command: [/bin/disk-mounter], args: [x, '0', GOOD]":                                                                      true,
		"command: [/bin/disk-mounter], args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /mnt}]":                          true,
		"args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /bin/disk-mounter, subPath: s}]":                               false,
		"args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /entrypoint.sh, subPath: s}]":                                  false,
		"args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /mnt/../bin}]":                                                 false,
		"args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /}]":                                                           false,
		"args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: bin}]":                                                         false,
		"args: [x, '0', GOOD], volumeDevices: [{name: v, devicePath: /bin/disk-mounter}]":                                         false,
		"args: [x, '0', GOOD], env: [{name: LD_PRELOAD, value: /cm/evil.so}]":                                                     false,
		"args: [x, '0', GOOD], env: [{name: PATH, valueFrom: {configMapKeyRef: {name: c, key: k}}}]":                              false,
		"args: [x, '0', GOOD], env: [{name: BASH_ENV, value: /mnt/x}]":                                                            false,
		"args: [x, '0', GOOD], env: [{name: BASH_FUNC_veritysetup%%, value: '() { :; }'}]":                                        false,
		"args: [x, '0', GOOD], lifecycle: {postStart: {exec: {command: [sh, -c, 'disk-mounter x 0 EVIL']}}}":                      false,
		"args: [x, '0', GOOD], livenessProbe: {exec: {command: [/mnt/x]}}":                                                        false,
		"args: [x, '0', GOOD], livenessProbe: {httpGet: {port: 80}}":                                                              true,
		"args: [x, '0', GOOD], workingDir: /mnt, volumeMounts: [{name: v, mountPath: /mnt}]":                                      false,
		"command: [sh, -ec, 'exec disk-mounter \"$@\"', _], args: [x, '0', GOOD]":                                                 true,
		"command: [sh, -ec, 'exec disk-mounter \"$@\"', _], args: [x, '0', EVIL, GOOD]":                                           false,
		"command: [sh, -ec, 'exec disk-mounter \"$@\"', _, x, '0', EVIL], args: [x, '0', GOOD]":                                   false,
		"command: [sh, -ec, '$(X)', _], env: [{name: X, value: 'exec disk-mounter x 0 EVIL'}], args: [x, '0', GOOD]":              false,
		"command: [sh, -ec, 'exec disk-mounter x 0 $(X)'], env: [{name: X, value: GOOD}]":                                         true,
		"command: [sh, -ec, --, 'exec disk-mounter \"$@\"', _], args: [x, '0', GOOD]":                                             false,
		"command: [sh, -c, 'exec disk-mounter \"$@\"', _], args: [x, '0', GOOD], env: [{name: ENV, value: /mnt/x}]":               false,
		"command: [/cm/sh, -c, 'exec disk-mounter \"$@\"', _], args: [x, '0', GOOD]":                                              false,
		"command: [sh, /cm/script, disk-mounter], args: [x, '0', GOOD]":                                                           false,
		"command: [sh, -c, 'exec /mnt/disk-mounter \"$@\"', _], args: [x, '0', GOOD], volumeMounts: [{name: v, mountPath: /mnt}]": false,
	} {
		attack(t, fields, pod(fields), want)
	}
}

// The attacks of scripts, each beside its plain form, and the kinds that they
// stand for. The shells themselves are asked in internal/shell.
func TestScriptAttacks(t *testing.T) {
	script := func(image, s string) string {
		return mounterPod + "  containers:\n  - name: a\n    image: '" + image + "'\n    command:\n    - /bin/sh\n    - -c\n    - |\n" + indent(s, 6) + "\n"
	}
	for s, want := range map[string]bool{
		"disk-mounter x 0 GOOD": true, "echo hi\ndisk-mounter x 0 GOOD": true,
		"if [ -e /none ]; then disk-mounter x 0 GOOD; fi\ntimeout 9 disk-mounter x 0 EVIL": false,
		"disk-mounter x 0 GOOD; eval \"disk-mounter x 0 EVIL\"":                            false,
		"disk-mounter x 0 GOOD; veritysetup open /dev/a m /dev/a EVIL":                     false,
		"trap \"disk-mounter x 0 EVIL\" EXIT; disk-mounter x 0 GOOD":                       false,
		"alias echo=\"disk-mounter x 0 EVIL;:\"\necho hello\ndisk-mounter x 0 GOOD":        false,
		"disk-mounter x 0 GOOD; env -i PATH=\"$PATH\" disk-mounter x 0 EVIL":               false,
		"a=EVIL; f() { local a=GOOD; }; f; disk-mounter x 0 \"$a\"":                        false,
		"a=GOOD; a=EVIL :; disk-mounter x 0 \"$a\"":                                        false,
		"a=EVIL; true | a=GOOD; disk-mounter x 0 \"$a\"":                                   false,
		"a=EVIL; a=GOOD & wait; disk-mounter x 0 \"$a\"":                                   false,
		"a=EVIL; while false; do a=GOOD; done; disk-mounter x 0 \"$a\"":                    false,
		"a=EVIL; case x in y) a=GOOD;; esac; disk-mounter x 0 \"$a\"":                      false,
		"a=EVIL; if [ -e /none ]; then a=GOOD; fi; disk-mounter x 0 \"$a\"":                false,
		"d=disk-moun; ${d}ter x 0 EVIL; disk-mounter x 0 GOOD":                             false,
		"exec disk-mounter x 0 GOOD\ndisk-mounter x 0 EVIL":                                false,
		"cp /untrusted/x /usr/bin/disk-mounter\ndisk-mounter x 0 GOOD":                     false,
		"cat > /tmp/s; . /tmp/s; disk-mounter x 0 GOOD":                                    false,
		"disk-mounter x 0 GOOD <<E\nE":                                                     false,
		"IFS=a; disk-mounter x 0 GOOD":                                                     false, "PATH=/mnt; disk-mounter x 0 GOOD": false, "export LD_PRELOAD=/mnt/x; disk-mounter x 0 GOOD": false,
		"disk-mounter x 0 {GOOD,EVIL}": false,
	} {
		attack(t, s, script("@DM", s), want)
	}
	c := "echo 'GOOD  /f' | sha256sum -c"
	for s, want := range map[string]bool{
		c + " || exit 1": true, c + " || true": false, "sha256sum() { return 0; }\n" + c + " || exit 1": false, "alias sha256sum=true\n" + c + " || exit 1": false,
		"trap 'exit 0' EXIT\n" + c + " || exit 1": false, "set -e\n" + c + " | cat": false, "set -e\n" + c: true, c + " || exit 0": false, "(" + c + " || exit 1)": false,
		c + " || exit 1 &": false, "if false; then " + c + " || exit 1; fi": false, c + " || exit 1\nexec app": true, "exec app\n" + c + " || exit 1": false,
		"if [ \"$(sha256sum /f | cut -d ' ' -f 1)\" != GOOD ]; then exit 1; fi\nexec app": true, "if [ $(sha256sum /f | cut -d ' ' -f 1) != GOOD ]; then exit 1; fi\nexec app": false,
		"cp /u/f /f\n" + c + " || exit 1\ncp /u/g /f\nexec app": false, "PATH=/u\n" + c + " || exit 1": false,
	} {
		attack(t, s, script("@PIN", s), want)
	}
	// Scripts that neither mount nor check claim nothing, but hide nothing.
	for s, want := range map[string]bool{
		"exec app --x": true, "A=b app --x \"$y\" && other": true, "eval \"$x\"": false, "trap x EXIT": false, "app | other": false, "$x": false, "exec disk-moun\"ter\" x 0 EVIL": false,
		"d\"isk-mounter\" x 0 EVIL": false, "nohup app": false, "exec /bin/secret-service $([ \"${HOSTNAME##*-}\" = \"0\" ] && echo \"--x\")": true,
	} {
		attack(t, s, script("@PIN", s), want)
	}
}

// A program that is not the image's own, or code that is none we follow.
func TestInlineAttacks(t *testing.T) {
	for fields, want := range map[string]bool{
		"command: [uvicorn, --x]": true, "command: [python3, -m, app, /mnt/x]": true, "command: [python3.12, -u, /app/x.py]": true, "args: [python3, -c, code]": true,
		"command: [python3, -c, code]": false, "command: [python3.12, -]": false, "command: [python3]": false, "command: [perl, -e, code]": false, "command: [node, --eval=x]": false,
		"command: [/cm/x]": false, "command: [/cm/../cm/x]": false, "command: [python3, /cm/x.py]": false, "command: [env, A=b, python3, -c, code]": false, "command: [tini, --, app]": true,
		"command: [tini, --, sh, -c, app]": false, "command: [timeout, '9', /cm/x]": false, "command: [sh, -c, 'exec /cm/x']": false, "command: [sh, -c, 'exec python3 -c x']": false,
		"command: [sh, -c, 'exec python3 /cm/x.py']": false, "command: [sh, -c, 'exec python3 -m app']": true, "command: [mount, /dev/a, /b]": false, "command: [veritysetup, open]": false, "readinessProbe: {exec: {command: [cat, /x]}}": true, "readinessProbe: {exec: {command: [sh, -c, 'test -f /x']}}": true,
		"readinessProbe: {exec: {command: [sh, -c, 'eval x']}}": false, "lifecycle: {postStart: {exec: {command: [/cm/x]}}}": false, "lifecycle: {preStop: {exec: {command: [python3, -c, x]}}}": false,
		"command: [busybox, sh, -c, app]": false, "command: [sh, /cm/x]": false,
	} {
		attack(t, fields, mounterPod+"  volumes: [{name: v, configMap: {name: c}}]\n  containers:\n  - {name: a, image: '@PIN', volumeMounts: [{name: v, mountPath: /cm}], "+fields+"}\n", want)
	}
}

// Images and workloads in places that nobody looks at.
func TestObjectAttacks(t *testing.T) {
	base := mounterPod + "  containers: [{name: a, image: '@DM', args: [x, '0', GOOD]}]\n---\n"
	e := "containers: [{name: a, image: 'evil.example/evil:latest'}]"
	pinned := "containers: [{name: a, image: '@PIN'}]"
	h := "{apiVersion: v1, kind: Pod, metadata: {name: e, namespace: ns}, spec: {runtimeClassName: contrast-cc, x: &e {image: 'evil.example/evil:latest'}, containers: [{name: a, image: '@PIN'"
	meta := "metadata: {name: e, namespace: ns}, "
	for y, want := range map[string]bool{
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, " + pinned + "}}":                                                                               true,
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, " + e + "}}":                                                                                    false,
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: runc, " + pinned + "}}":                                                                                      false,
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {" + pinned + "}}":                                                                                                              false,
		"{apiVersion: v1, kind: List, metadata: {name: l}, spec: {}, items: [{apiVersion: v1, kind: Pod, " + meta + "spec: {" + e + "}}]}":                                             false,
		"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, " + pinned + "}}]}]}": true,
		"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, " + e + "}}]}]}":      false,
		"{apiVersion: v1, kind: List, items: [0]}":                                                                                                                             false,
		"{apiVersion: argoproj.io/v1alpha1, kind: Rollout, " + meta + "spec: {template: {spec: {" + e + "}}}}":                                                                 false,
		"{apiVersion: argoproj.io/v1alpha1, kind: Rollout, " + meta + "spec: {template: {spec: {" + pinned + "}}}}":                                                            false,
		"{apiVersion: argoproj.io/v1alpha1, kind: Rollout, " + meta + "spec: {template: {spec: {ephemeralContainers: [{name: a, image: 'evil.example/evil'}]}}}}":              false,
		"{apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, " + meta + "spec: {predictor: {image: 'evil.example/evil'}}}":                                         false,
		"{apiVersion: x.io/v1, kind: X, " + meta + "spec: {}}":                                                                                                                 false,
		"{apiVersion: v1, kind: pod, " + meta + "spec: {}}":                                                                                                                    false,
		"{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: contrast-cc}, handler: runc}":                                                                       false,
		"{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: e}}":                                                               false,
		"{apiVersion: v1, kind: Service, " + meta + "spec: {}}":                                                                                                                true,
		"{apiVersion: v1, kind: ConfigMap, " + meta + "data: {image: some text}}":                                                                                              true,
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, volumes: [{name: v, image: {reference: 'evil.example/evil:latest'}}], " + pinned + "}}": false,
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, volumes: [{name: v, image: {reference: '@PIN'}}], " + pinned + "}}":                     true,
		"{apiVersion: v1, kind: Pod, " + meta + "spec: {runtimeClassName: contrast-cc, " + pinned + ", ephemeralContainers: [{name: e, image: 'evil.example/evil'}]}}":         false,
		h + ", <<: *e}]}}": false,
		h + ", !x image: 'evil.example/evil:latest'}]}}":      false,
		h + ", \"im\\x61ge\": 'evil.example/evil:latest'}]}}": false,
		h + ", Image: 'evil.example/evil:latest'}]}}":         false,
		h + "}]}}": false, // the image below x is one too
	} {
		attack(t, y, base+y+"\n", want)
	}
}

// A list of problems that is cut is an error, and holds the errors.
func TestFlood(t *testing.T) {
	y := mounterPod + "  containers:\n  - {name: b, image: 'evil.example/evil:latest'}\n"
	for name, flood := range map[string]string{
		"errors":   "---\napiVersion: v1\nkind: List\nitems: [" + strings.Repeat("0,", 20_001) + "0]\n",
		"warnings": strings.Repeat("---\n{apiVersion: v1, kind: Service, metadata: {name: y, namespace: n}}\n", 9_000),
	} {
		d := parse(t, flood+"---\n"+y)
		found, cut := false, false
		for _, p := range d.Problems() {
			found = found || p.Code == deployment.ImageUnpinned
			cut = cut || p.Code == deployment.TooMany && p.Code.Level() == deployment.Error
		}
		if !cut || !found {
			t.Errorf("%s: found %v, said to be cut %v", name, found, cut)
		}
	}
}

func TestExemptions(t *testing.T) {
	y := []byte(strings.Replace(pod("image: "+pinA+"\n"), "contrast-cc", "runc", 1))
	for _, tt := range []struct {
		opts deployment.Options
		want string
		n    int
	}{
		{deployment.Options{}, "[not-confidential error]", 0},
		{deployment.Options{Exempt: map[string]string{"Pod/default/p": "no secrets here"}}, "[exempt warning]", 1},
		{deployment.Options{Exempt: map[string]string{"Pod/default/p": " "}}, "[exemption warning not-confidential error]", 0},
		{deployment.Options{Exempt: map[string]string{"Pod/default/q": "x"}}, "[exemption warning not-confidential error]", 0},
		{deployment.Options{RuntimeClasses: []string{"runc"}}, "[]", 0},
	} {
		d, err := deployment.ParseWith("f.yaml", y, tt.opts)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, p := range d.Problems() {
			got = append(got, string(p.Code)+" "+string(p.Code.Level()))
		}
		if fmt.Sprint(got) != tt.want || len(d.Exempted()) != tt.n {
			t.Errorf("%+v: got %v, exempted %v, want %s", tt.opts, got, d.Exempted(), tt.want)
		}
	}
}

// Every finding names the object that it comes from, even where two stand on
// one line.
func TestIdentity(t *testing.T) {
	one := "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: ns}, spec: {runtimeClassName: contrast-cc, containers: [{name: disk-mounter, image: '" + pinA + "', args: [x, '0', " + hexA + "]}]}}"
	d := parse(t, "---\n{apiVersion: v1, kind: List, items: ["+one+", "+one+"]}\n---\n"+one+"\n")
	seen := map[deployment.Identity]int{}
	for _, p := range d.Disks() {
		seen[p.Object]++
	}
	for _, p := range d.Images() {
		seen[p.Object]++
	}
	for _, w := range d.Workloads {
		if seen[w.Identity()] != 2 || w.Identity().File != "f.yaml" || w.Identity().Namespace != "ns" {
			t.Errorf("%+v has %d findings, want 2", w.Identity(), seen[w.Identity()])
		}
	}
	if len(seen) != 3 || d.Workloads[2].Document != 2 {
		t.Errorf("got %+v, want three objects, the last one of document 2", seen)
	}
}

// $(NAME) is put in as Kubernetes does it.
func TestExpansion(t *testing.T) {
	env := "[{name: X, value: v}, {name: W, value: 'a$(X)$(Z)$$(X)'}, {name: Z, value: z}, {name: 'odd name', value: o}]"
	for arg, want := range map[string]string{
		"$(X)": "v", "$(X)$(X)": "vv", "$$(X)": "$(X)", "$$$(X)": "$v", "$(X": "$(X", "$": "$", "$$": "$", "$x": "$x", "a$": "a$", "$(NONE)": "$(NONE)", "$()": "$()", "$(W)": "av$(Z)$(X)", "$(odd name)": "o", "$( X)": "$( X)",
		"$($(X))": "$($(X))", "$(X)$": "v$", "$-$(X)": "$-v", "$$$$": "$$",
	} {
		d := parse(t, pod("image: "+mount+"\nenv: "+env+"\nargs: ['"+arg+"', '0', "+hexA+"]\n"))
		if p := d.Disks(); len(p) != 1 || p[0].Model != want {
			t.Errorf("%q: got %+v, want %q", arg, p, want)
		}
	}
}
