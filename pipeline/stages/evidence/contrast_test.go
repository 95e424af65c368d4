package evidence_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/pipeline/stages/tpm"
	"github.com/retally/retally/snpmeasure"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deployment is a Coordinator with a workload, both on SEV-SNP and on TDX, and what
// they show. change edits the guests' reports before they are signed.
type deployment struct {
	*fake.Deployment
	t        testing.TB
	snp      *fake.SNPPlatform
	tdx      *fake.Platform
	policies map[string][]byte // texts by workload
	manifest []byte
	nonce    []byte
	dir      string
}

func newDeployment(t testing.TB) *deployment {
	t.Helper()
	d := &deployment{t: t, snp: snpMachine(t), tdx: ownPlatform(t), nonce: bytes.Repeat([]byte{7}, 32), dir: t.TempDir()}
	var err error
	d.Deployment, err = fake.NewDeployment("stage", from, until)
	ok(t, err)
	d.policies = map[string][]byte{"coordinator": []byte("policy of the coordinator"), "web": []byte("policy of web"), "db": []byte("policy of db")}
	d.manifest = d.manifestWith("")
	d.put("manifest.json", d.manifest)
	var ark []byte
	for _, c := range []*x509.Certificate{d.snp.ARK, d.snp.ASK, d.snp.ASVK} {
		ark = append(ark, fake.PEM(c)...)
	}
	d.put("amd.pem", ark)
	d.put("intel.pem", fake.PEM(d.tdx.Root))
	collateral, err := d.tdx.Collateral(fake.Levels{Issued: from, Next: until})
	ok(t, err)
	d.put("collateral.json", collateral)
	return d
}

func (d *deployment) put(name string, data []byte) {
	d.t.Helper()
	ok(d.t, os.WriteFile(filepath.Join(d.dir, name), data, 0o644))
}

func (d *deployment) hash(workload string) [32]byte { return sha256.Sum256(d.policies[workload]) }

// manifestWith is a manifest in the newest form; extra stands in front of its end.
func (d *deployment) manifestWith(extra string) []byte {
	entry := func(name, role string) string {
		h := d.hash(name)
		return fmt.Sprintf(`"%x": {"SANs": ["%s", "*"], "WorkloadSecretID": "apps/v1/Deployment/ns/%s"%s}`, h, name, name, role)
	}
	eip := "0080b004"
	return []byte(`{"Policies": {` + entry("coordinator", `, "Role": "coordinator"`) + `, ` + entry("web", "") + `, ` + entry("db", "") + `},
"ReferenceValues": {"snp": [{"Platform": "Metal-QEMU-SNP", "ProductName": "Genoa", "TrustedMeasurement": "` + sum("launch").Hex() + `", "APEIP": "` + eip + `",
"MinimumTCB": {"BootloaderVersion": 7, "TEEVersion": 0, "SNPVersion": 10, "MicrocodeVersion": 50},
"GuestPolicy": {"ABIMinor": 0, "ABIMajor": 0, "SMT": true, "MigrateMA": false, "Debug": false, "SingleSocket": false, "CXLAllowed": false, "MemAES256XTS": false, "RAPLDis": false, "CipherTextHidingDRAM": false, "PageSwapDisable": false},
"PlatformInfo": {"SMTEnabled": true, "TSMEEnabled": false, "ECCEnabled": false, "RAPLDisabled": false, "CiphertextHidingDRAMEnabled": false, "AliasCheckComplete": false, "TIOEnabled": false},
"MinimumMitigationVector": 0, "AllowedChipIDs": null}],
"tdx": [{"Platform": "Metal-QEMU-TDX", "MinTCBEvaluationDataNumber": 0, "MrTd": "` + sum("mrtd").Hex() + `", "MrSeam": "` + sum("seam").Hex() + `",
"Rtmrs": ["` + sum("r0").Hex() + `", "` + sum("r1").Hex() + `", "` + sum("r2").Hex() + `", "` + strings.Repeat("00", 48) + `"], "Xfam": "e702060000000000", "AllowedPIIDs": null, "MemoryIntegrity": false, "SMTDisabled": false, "StaticPlatform": false}]},
"WorkloadOwnerPubKeys": null, "SeedshareOwnerPubKeys": null` + extra + "}\n")
}

func (d *deployment) snpDocument(workload string, data [64]byte, change func(*snpreport.Report)) []byte {
	d.t.Helper()
	raw, err := d.snp.Report(snpreport.Report{Measurement: sum("launch"), HostData: d.hash(workload), ReportData: data, PlatformInfo: snpreport.PlatformSMTEn}, change)
	ok(d.t, err)
	return d.snp.SNPDocument(raw)
}

func (d *deployment) tdxDocument(workload string, data [64]byte) []byte {
	d.t.Helper()
	h := d.hash(workload)
	b := tdxquote.Body{MRTD: sum("mrtd"), MRSEAM: sum("seam"), RTMR: [4]digest.Digest{sum("r0"), sum("r1"), sum("r2"), {}}, ReportData: data}
	copy(b.MRCONFIGID[:], h[:])
	raw, err := d.tdx.Quote(b, fake.Options{})
	ok(d.t, err)
	doc, err := fake.TDXDocument(raw)
	ok(d.t, err)
	return doc
}

// answer is what workload shows at /attest: the manifests' history, on SEV-SNP.
func (d *deployment) answer(workload string, capabilities []byte, change func(*snpreport.Report), manifests ...[]byte) []byte {
	d.t.Helper()
	tr, err := evidencestage.Transition(manifests)
	ok(d.t, err)
	data := contrast.OfAnswer(d.nonce, tr, d.RootPEM(), d.MeshPEM(), capabilities)
	out, err := d.Answer(contrast.OIDSNP, d.snpDocument(workload, data, change), [][]byte{d.policies["coordinator"], d.policies["web"]}, manifests...)
	ok(d.t, err)
	return out
}

// pod is the certificate that a workload shows in attested TLS.
func (d *deployment) pod(workload string, tee string, nonce []byte) *x509.Certificate {
	d.t.Helper()
	key, err := fake.Key(elliptic.P256(), "pod "+workload)
	ok(d.t, err)
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	ok(d.t, err)
	data := contrast.OfKey(spki, nonce)
	ext := pkix.Extension{Id: contrast.OIDSNP}
	if tee == "tdx" {
		ext.Id, ext.Value = contrast.OIDTDX, d.tdxDocument(workload, data)
	} else {
		ext.Value = d.snpDocument(workload, data, nil)
	}
	cert, err := fake.ATLS(key, now.AddDate(0, 0, -1), now.AddDate(0, 0, 1), ext)
	ok(d.t, err)
	return cert
}

// judge judges files of the deployment's folder; edit changes the entry.
func (d *deployment) judge(edit func(*config.Evidence), files ...string) (*evidencestage.Judged, error) {
	d.t.Helper()
	e := config.Evidence{File: files[0], Also: files[1:], At: "2026-06-01T00:00:00Z", Roots: "amd.pem", Manifest: "manifest.json", Nonce: hex.EncodeToString(d.nonce)}
	edit(&e)
	ok(d.t, evidencestage.Check(&e, func(msg, hint string, path ...string) error { return fmt.Errorf("%v: %s (%s)", path, msg, hint) }))
	var judged *evidencestage.Judged
	table := []run.Stage{tdx.Stage(), tpm.Stage(), evidencestage.Showing(func(j *evidencestage.Judged) { judged = j })}
	_, err := run.Run(context.Background(), table, &config.Config{Evidence: map[string]config.Evidence{"x": e}}, run.Options{Root: d.dir, TestRootOK: true})
	return judged, err
}

func onTDX(e *config.Evidence) {
	e.Roots, e.IntelRoot, e.Collateral = "", "intel.pem", config.Files{"collateral.json"}
}

func letters(j *evidencestage.Judged) string {
	out := ""
	for _, v := range []verdict.Judgement{j.Result.Authentic, j.Expected, j.Result.Bound} {
		out += string(v.Verdict)[:1]
	}
	return out
}

func everything(j *evidencestage.Judged) string {
	return reasons(j.Result.Authentic) + "\n" + reasons(j.Expected) + "\n" + reasons(j.Result.Bound)
}

// TestCoordinator: the answer of a Coordinator, right and wrong in one way.
func TestCoordinator(t *testing.T) {
	d := newDeployment(t)
	old, older := d.manifestWith(`, "Note": 1`), d.manifestWith(`, "Note": 2`)
	d.put("old.json", old)
	d.put("older.json", older)
	spaced := append(bytes.Clone(d.manifest), '\n')
	key, err := fake.Key(elliptic.P256(), "leaf")
	ok(t, err)
	leaf := func(secret string, sans ...string) {
		c, err := d.Leaf(key, secret, from, until, sans...)
		ok(t, err)
		d.put("leaf.pem", fake.PEM(c))
	}
	foreign, err := fake.NewDeployment("foreign", from, until)
	ok(t, err)
	body := []byte(`{"api_versions":["v1","v2"]}`)
	d.put("capabilities", body)
	nothing := func(*config.Evidence) {}
	pem := func(e *config.Evidence) { e.TLSCert = "leaf.pem" }
	earlier := func(names ...string) func(*config.Evidence) {
		return func(e *config.Evidence) { e.Earlier = names }
	}
	known := []byte("{\"api_versions\":[\"v1\"]}\n")
	for _, tt := range []struct {
		name string
		data func() []byte
		edit func(*config.Evidence)
		want string
		text string
	}{
		{"as it is", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, nothing, "ppp", "byte for byte"},
		{"v1", func() []byte { return d.answer("coordinator", known, nil, d.manifest) }, nothing, "ppp", "form /v1/attest"},
		{"v1, given", func() []byte { return d.answer("coordinator", body, nil, d.manifest) }, func(e *config.Evidence) { e.Capabilities = "capabilities" }, "ppp", "form /v1/attest"},
		{"v1, not given", func() []byte { return d.answer("coordinator", body, nil, d.manifest) }, nothing, "ppf", "capabilities were not given"},
		{"talked down", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Capabilities = "capabilities" }, "ppu", "older form"},
		{"a key is not a session", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, nothing, "ppp", "a key, not a session"},
		{"unconfirmed", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, nothing, "ppp", contrast.Unconfirmed},
		{"no nonce", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Nonce = "" }, "ppu", "no nonce was given"},
		{"another nonce", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Nonce = strings.Repeat("08", 32) }, "ppf", "report-data"},
		{"short nonce", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Nonce = "07" }, "ppf", "1 bytes"},
		{"no manifest", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Manifest = "" }, "pup", "no manifest was given"},
		{"white space", func() []byte { return d.answer("coordinator", nil, nil, spaced) }, nothing, "pfp", "the same values in another form"},
		{"another manifest", func() []byte { return d.answer("coordinator", nil, nil, old) }, nothing, "pfp", "the manifest in force has"},
		{"replaced", func() []byte { return d.answer("coordinator", nil, nil, old, d.manifest) }, nothing, "pup", "replaced 1 others"},
		{"replaced, known", func() []byte { return d.answer("coordinator", nil, nil, older, old, d.manifest) }, earlier("older.json", "old.json"), "ppp", "the 2 manifests before"},
		{"a fork", func() []byte { return d.answer("coordinator", nil, nil, old, d.manifest) }, earlier("older.json"), "pfp", "a fork, or a gap"},
		{"a gap", func() []byte { return d.answer("coordinator", nil, nil, old, d.manifest) }, earlier("old.json", "older.json"), "pfp", "a gap"},
		{"one in between", func() []byte { return d.answer("coordinator", nil, nil, old, older, d.manifest) }, earlier("old.json"), "pfp", "in between"},
		{"begins anew", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, earlier("old.json"), "pfp", "begins anew"},
		{"history in another order", func() []byte { return d.answer("coordinator", nil, nil, d.manifest, old) }, nothing, "pfp", "in force has"},
		{"history that was cut", func() []byte {
			// The report is for two manifests, one is shown.
			return bytes.Replace(d.answer("coordinator", nil, nil, old, d.manifest), append(b64(old), `","`...), nil, 1)
		}, nothing, "ppf", "report-data"},
		{"another guest of the manifest", func() []byte { return d.answer("web", nil, nil, d.manifest) }, nothing, "pfp", "has not the role of the Coordinator"},
		{"of no policy", func() []byte { return d.answer("stranger", nil, nil, d.manifest) }, nothing, "pfp", "no policy of manifest.json"},
		{"wanted is another", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Workload = "web" }, "pfp", "wanted is web"},
		{"wanted is it", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Workload = "coordinator" }, "ppp", ""},
		{"two vCPUs", func() []byte {
			return d.answer("coordinator", nil, func(r *snpreport.Report) { r.Measurement = vcpus(t, 2) }, d.manifest)
		}, nothing, "ppp", "with 2 vCPUs"},
		{"another launch", func() []byte {
			return d.answer("coordinator", nil, func(r *snpreport.Report) { r.Measurement = sum("other") }, d.manifest)
		}, nothing, "pfp", "measurement is"},
		{"debug", func() []byte {
			return d.answer("coordinator", nil, func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug }, d.manifest)
		}, nothing, "ffp", "policy"},
		{"another machine's report", func() []byte {
			o := *d
			var err error
			o.snp, err = fake.NewSNPPlatform("stage", from, until, fake.SNPOptions{Chip: "another"})
			ok(t, err)
			return o.answer("coordinator", nil, nil, d.manifest)
		}, func(e *config.Evidence) { e.VCEK = "vcek.der" }, "fpp", "certificates"},
		{"under another root", func() []byte { return d.answer("coordinator", nil, nil, d.manifest) }, func(e *config.Evidence) { e.Roots = "" }, "fpp", "certificate"},
		{"leaf", func() []byte { leaf("", "web", "*"); return d.answer("coordinator", nil, nil, d.manifest) }, pem, "ppp", "has the SANs of apps/v1/Deployment/ns/web"},
		{"leaf with its secret", func() []byte {
			leaf("apps/v1/Deployment/ns/web", "web", "*")
			return d.answer("coordinator", nil, nil, d.manifest)
		}, pem, "ppp", "names the WorkloadSecretID"},
		{"leaf with another's secret", func() []byte {
			leaf("apps/v1/Deployment/ns/db", "web", "*")
			return d.answer("coordinator", nil, nil, d.manifest)
		}, pem, "pfp", "has another"},
		{"leaf with a name more", func() []byte {
			leaf("", "web", "*", "db")
			return d.answer("coordinator", nil, nil, d.manifest)
		}, pem, "pfp", "SANs of no workload"},
		{"leaf of another mesh", func() []byte {
			c, err := foreign.Leaf(key, "", from, until, "web", "*")
			ok(t, err)
			d.put("leaf.pem", fake.PEM(c))
			return d.answer("coordinator", nil, nil, d.manifest)
		}, pem, "ppf", "leads to neither"},
		{"a CA as leaf", func() []byte { d.put("leaf.pem", d.MeshPEM()); return d.answer("coordinator", nil, nil, d.manifest) }, pem, "pff", "is a CA's"},
		{"authorities of another", func() []byte {
			return bytes.Replace(d.answer("coordinator", nil, nil, d.manifest), b64(d.MeshPEM()), b64(foreign.MeshPEM()), 1)
		}, nothing, "ppf", "report-data"},
		{"no authority", func() []byte {
			return bytes.Replace(d.answer("coordinator", nil, nil, d.manifest), b64(d.MeshPEM()), b64([]byte("x")), 1)
		}, nothing, "ppf", "no certificate in PEM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.put("vcek.der", d.snp.VCEK.Raw)
			d.put("answer.json", tt.data())
			j, err := d.judge(tt.edit, "answer.json")
			ok(t, err)
			if got := letters(j); got != tt.want || !strings.Contains(everything(j), tt.text) {
				t.Errorf("%s, want %s with %q:\n%s", got, tt.want, tt.text, everything(j))
			}
		})
	}
}

// TestPod: certificates of attested TLS, on both processors.
func TestPod(t *testing.T) {
	d := newDeployment(t)
	d.put("manifest.json", d.manifest)
	strange := bytes.Repeat([]byte{8}, 32)
	is := func(name string) func(*config.Evidence) {
		return func(e *config.Evidence) { e.Workload = name }
	}
	for _, tt := range []struct {
		name string
		cert *x509.Certificate
		edit func(*config.Evidence)
		want string
		text string
	}{
		{"web", d.pod("web", "snp", d.nonce), is("web"), "ppp", "the SHA-512 of the certificate's public key"},
		{"web on TDX", d.pod("web", "tdx", d.nonce), func(e *config.Evidence) { onTDX(e); e.Workload = "web" }, "ppp", "the aTLS certificate is that of apps/v1/Deployment/ns/web"},
		{"by its secret", d.pod("web", "snp", d.nonce), is("apps/v1/Deployment/ns/web"), "ppp", ""},
		{"by its hash", d.pod("web", "snp", d.nonce), is(fmt.Sprintf("%x", d.hash("web"))), "ppp", ""},
		{"which one was not said", d.pod("web", "snp", d.nonce), is(""), "pup", "which one was meant was not said"},
		{"another guest", d.pod("db", "snp", d.nonce), is("web"), "pfp", "wanted is web"},
		{"another guest on TDX", d.pod("db", "tdx", d.nonce), func(e *config.Evidence) { onTDX(e); e.Workload = "web" }, "pfp", "wanted is web"},
		{"a workload as Coordinator", d.pod("web", "snp", d.nonce), is("coordinator"), "pfp", "wanted is coordinator"},
		{"a wildcard is no name", d.pod("web", "snp", d.nonce), is("*"), "pfp", "wanted is *"},
		{"of no policy", d.pod("stranger", "tdx", d.nonce), onTDX, "pfp", "no policy"},
		{"another nonce", d.pod("web", "snp", strange), is("web"), "ppf", "another key or nonce"},
		{"no nonce", d.pod("web", "snp", d.nonce), func(e *config.Evidence) { e.Workload, e.Nonce = "web", "" }, "ppu", "no nonce"},
		{"expired", d.pod("web", "snp", d.nonce), func(e *config.Evidence) { e.Workload, e.At = "web", "2026-06-05T00:00:00Z" }, "ppf", "is valid from"},
		{"another connection", d.pod("web", "snp", d.nonce), func(e *config.Evidence) { e.Workload, e.TLSCert = "web", "other.pem" }, "ppf", "somebody else's key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := d.pod("db", "snp", d.nonce)
			d.put("other.pem", fake.PEM(other))
			d.put("pod.pem", fake.PEM(tt.cert))
			j, err := d.judge(tt.edit, "pod.pem")
			ok(t, err)
			if got := letters(j); got != tt.want || !strings.Contains(everything(j), tt.text) {
				t.Errorf("%s, want %s with %q:\n%s", got, tt.want, tt.text, everything(j))
			}
		})
	}
	// The report of one pod in the certificate of another's key.
	key, err := fake.Key(elliptic.P256(), "thief")
	ok(t, err)
	for _, e := range d.pod("web", "snp", d.nonce).Extensions {
		if e.Id.Equal(contrast.OIDSNP) {
			cert, err := fake.ATLS(key, from, until, e)
			ok(t, err)
			d.put("pod.pem", fake.PEM(cert))
		}
	}
	j, err := d.judge(is("web"), "pod.pem")
	ok(t, err)
	if letters(j) != "ppf" || !strings.Contains(everything(j), "another key or nonce") {
		t.Errorf("a stolen report: %s\n%s", letters(j), everything(j))
	}
}

// TestAnswerAndCertificate: both of one guest, and of two.
func TestAnswerAndCertificate(t *testing.T) {
	d := newDeployment(t)
	d.put("answer.json", d.answer("coordinator", nil, nil, d.manifest))
	for _, tt := range []struct{ pod, tee, want, text string }{
		{"coordinator", "snp", "ppp", "are of one guest"},
		{"web", "snp", "pfp", "of another guest"},
		{"coordinator", "tdx", "ffp", "of another guest"}, // not Intel's root either
	} {
		d.put("pod.pem", fake.PEM(d.pod(tt.pod, tt.tee, d.nonce)))
		for _, files := range [][]string{{"answer.json", "pod.pem"}, {"pod.pem", "answer.json"}} {
			j, err := d.judge(func(e *config.Evidence) { e.Workload = "coordinator" }, files...)
			ok(t, err)
			if got := letters(j); got != tt.want || !strings.Contains(everything(j), tt.text) {
				t.Errorf("%v: %s, want %s with %q:\n%s", files, got, tt.want, tt.text, everything(j))
			}
		}
	}
	d.put("two.pem", fake.PEM(d.pod("db", "snp", d.nonce)))
	if _, err := d.judge(func(*config.Evidence) {}, "pod.pem", "two.pem"); err == nil || !strings.Contains(err.Error(), "two different ones of a kind") {
		t.Errorf("two certificates: %v", err)
	}
}

// TestCoordinatorTDX: the same answer on TDX, and host data that are no policy's.
func TestCoordinatorTDX(t *testing.T) {
	d := newDeployment(t)
	tr, err := evidencestage.Transition([][]byte{d.manifest})
	ok(t, err)
	data := contrast.OfAnswer(d.nonce, tr, d.RootPEM(), d.MeshPEM(), nil)
	for _, tt := range []struct{ workload, want, text string }{
		{"coordinator", "ppp", "the Coordinator's policy"},
		{"web", "pfp", "has not the role"},
		{"stranger", "pfp", "no policy of manifest.json"},
	} {
		answer, err := d.Answer(contrast.OIDTDX, d.tdxDocument(tt.workload, data), nil, d.manifest)
		ok(t, err)
		d.put("answer.json", answer)
		j, err := d.judge(onTDX, "answer.json")
		ok(t, err)
		if got := letters(j); got != tt.want || !strings.Contains(everything(j), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.workload, got, tt.want, tt.text, everything(j))
		}
	}
	// The policy in front, something else behind it.
	h := d.hash("coordinator")
	b := tdxquote.Body{MRTD: sum("mrtd"), MRSEAM: sum("seam"), RTMR: [4]digest.Digest{sum("r0"), sum("r1"), sum("r2"), {}}, ReportData: data}
	copy(b.MRCONFIGID[:], h[:])
	b.MRCONFIGID[47] = 1
	raw, err := d.tdx.Quote(b, fake.Options{Trailing: 5})
	ok(t, err)
	doc, err := fake.TDXDocument(raw)
	ok(t, err)
	answer, err := d.Answer(contrast.OIDTDX, doc, nil, d.manifest)
	ok(t, err)
	d.put("answer.json", answer)
	j, err := d.judge(onTDX, "answer.json")
	ok(t, err)
	if letters(j) != "pfp" || !strings.Contains(everything(j), "16 zero bytes") || !strings.Contains(everything(j), "5 bytes behind the quote") {
		t.Errorf("%s:\n%s", letters(j), everything(j))
	}
}

// TestSendersManifest: a manifest that came with the evidence agrees with it, and
// that is no pass.
func TestSendersManifest(t *testing.T) {
	d := newDeployment(t)
	d.put("answer.json", d.answer("coordinator", nil, nil, d.manifest))
	j, err := d.judge(func(e *config.Evidence) { e.Senders = []string{"manifest.json"} }, "answer.json")
	ok(t, err)
	if letters(j) != "pup" || !strings.Contains(everything(j), "came with the evidence and is its sender's word") {
		t.Errorf("%s:\n%s", letters(j), everything(j))
	}
}

// TestForeignReport: a certificate of attested TLS that is only named as that of
// the connection has a report, which must not be passed over.
func TestForeignReport(t *testing.T) {
	d := newDeployment(t)
	d.put("answer.json", d.answer("coordinator", nil, nil, d.manifest))
	d.put("other.pem", fake.PEM(d.pod("web", "snp", d.nonce)))
	j, err := d.judge(func(e *config.Evidence) { e.TLSCert = "other.pem" }, "answer.json")
	ok(t, err)
	if letters(j) != "ppu" || !strings.Contains(everything(j), "a report of its own, which was not judged") {
		t.Errorf("%s:\n%s", letters(j), everything(j))
	}
}

// TestCertificateInDER: a certificate with a quote holds the PEM of other
// certificates; the one that is meant is the outer one.
func TestCertificateInDER(t *testing.T) {
	d := newDeployment(t)
	cert := d.pod("web", "tdx", d.nonce)
	got, err := evidence.ReadCertificate("pod.der", cert.Raw)
	if err != nil || !got.Equal(cert) {
		t.Errorf("got %v, %v", got, err)
	}
	d.put("pod.der", cert.Raw)
	j, err := d.judge(func(e *config.Evidence) { onTDX(e); e.Workload, e.TLSCert = "web", "pod.der" }, "pod.der")
	ok(t, err)
	if letters(j) != "ppp" {
		t.Errorf("%s:\n%s", letters(j), everything(j))
	}
}

// TestOwnerKeys: a key file is one of the manifest, or none.
func TestOwnerKeys(t *testing.T) {
	d := newDeployment(t)
	key, err := fake.Key(elliptic.P384(), "owner")
	ok(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	ok(t, err)
	d.put("owner.pem", []byte(pemText("PUBLIC KEY", der)))
	with := bytes.Replace(d.manifest, []byte(`"WorkloadOwnerPubKeys": null`), []byte(`"WorkloadOwnerPubKeys": ["`+hex.EncodeToString(der)+`"]`), 1)
	d.put("with.json", with)
	for file, m := range map[string][]byte{"with.json": with, "manifest.json": d.manifest} {
		d.put("answer.json", d.answer("coordinator", nil, nil, m))
		j, err := d.judge(func(e *config.Evidence) { e.Manifest, e.OwnerKey = file, []string{"owner.pem"} }, "answer.json")
		ok(t, err)
		want, text := "ppp", "is the key at /WorkloadOwnerPubKeys/0"
		if file == "manifest.json" {
			want, text = "pfp", "is no owner key of"
		}
		if got := letters(j); got != want || !strings.Contains(everything(j), text) {
			t.Errorf("%s: %s, want %s:\n%s", file, got, want, everything(j))
		}
	}
}

// TestContrastIdle: what is for Contrast's evidence is refused elsewhere.
func TestContrastIdle(t *testing.T) {
	d := newDeployment(t)
	raw, err := d.snp.Report(snpreport.Report{Measurement: sum("launch")}, nil)
	ok(t, err)
	d.put("report.bin", raw)
	if _, err := d.judge(func(e *config.Evidence) { e.Workload = "web" }, "report.bin"); err == nil || !strings.Contains(err.Error(), "workload is given") {
		t.Errorf("got %v", err)
	}
	if _, err := manifest.Parse("m", d.manifest); err != nil {
		t.Error(err)
	}
}

func vcpus(t testing.TB, n int) digest.Digest {
	t.Helper()
	cpu, err := snpmeasure.CPUOfType("EPYC-Genoa")
	ok(t, err)
	got, err := snpmeasure.Extend(context.Background(), sum("launch"), 0x0080b004, snpmeasure.Config{VMM: snpmeasure.QEMU, CPU: cpu, Features: 1}, []int{n})
	ok(t, err)
	return got[0].Digest
}

func b64(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
