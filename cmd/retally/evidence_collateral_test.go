package main

import (
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"testing"
)

// TestCollateralFiles gives collateral file by file and as a folder, by flags and
// by retally.yaml: the verdict is that of the one file with all of it, and what is
// missing or does not belong there is exit 2 with the form that is wanted.
func TestCollateralFiles(t *testing.T) {
	m := newOwnMachine(t)
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.CopyFS("m", os.DirFS(m.dir)); err != nil {
		t.Fatal(err)
	}
	split := func(folder, file string) {
		var doc map[string]string
		if err := json.Unmarshal(m.files[file], &doc); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		list := func(member string) []byte {
			b, err := hex.DecodeString(doc[member])
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		putFile(t, folder+"/tcb.txt", []byte("HTTP/2 200 \r\nTCB-Info-Issuer-Chain: "+url.PathEscape(doc["tcb_info_issuer_chain"])+"\r\n\r\n"+`{"tcbInfo":`+doc["tcb_info"]+`,"signature":"`+doc["tcb_info_signature"]+`"}`))
		putFile(t, folder+"/qe.json", []byte(`{"enclaveIdentity":`+doc["qe_identity"]+`,"signature":"`+doc["qe_identity_signature"]+`"}`))
		putFile(t, folder+"/root.crl", list("root_ca_crl"))
		putFile(t, folder+"/pck.crl", list("pck_crl"))
		putFile(t, folder+"/chain.pem", []byte(doc["pck_crl_issuer_chain"]))
	}
	split("pcs", "collateral.json")
	split("old", "outdated.json")
	if err := os.MkdirAll("with-folder/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("empty", 0o755); err != nil {
		t.Fatal(err)
	}
	files := func(names ...string) []string {
		var out []string
		for _, n := range names {
			out = append(out, "pcs/"+n)
		}
		return out
	}
	for name, tt := range map[string]struct {
		collateral []string
		code       int
		want       string
	}{
		"one file":         {[]string{"m/collateral.json"}, 0, "TCB status UpToDate"},
		"a folder":         {[]string{"pcs"}, 0, "TCB status UpToDate"},
		"files":            {files("tcb.txt", "qe.json", "root.crl", "pck.crl", "chain.pem"), 0, "TCB status UpToDate"},
		"in another order": {files("chain.pem", "pck.crl", "root.crl", "qe.json", "tcb.txt"), 0, "TCB status UpToDate"},
		"out of date":      {[]string{"old"}, 1, "TCB status OutOfDate"},
		"two days":         {[]string{"pcs", "old"}, 2, "another tcb_info than in pcs/tcb.txt"},
		"one missing":      {files("tcb.txt", "qe.json", "root.crl", "chain.pem"), 2, "missing are pck_crl"},
		"alone":            {files("qe.json"), 2, "found only qe_identity; missing are tcb_info"},
		"a folder in it":   {[]string{"with-folder"}, 2, "with-folder/sub: is no regular file"},
		"an empty folder":  {[]string{"empty"}, 2, "holds 0 files"},
		"another file":     {append(files("tcb.txt", "qe.json", "root.crl", "pck.crl", "chain.pem"), "m/docker-compose.yaml"), 2, "m/docker-compose.yaml: found"},
		"not there":        {[]string{"nowhere"}, 2, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"evidence", "verify", "m/quote.bin", "--at", evidenceAt, "--only", "authentic", "--intel-root", "m/root.pem", "--test-root-ok"}
			for _, c := range tt.collateral {
				args = append(args, "--collateral", c)
			}
			code, out, errOut := inProcess(t, nil, args...)
			if text := strings.Join(strings.Fields(out+errOut), " "); code != tt.code || !strings.Contains(text, tt.want) || code == 2 && strings.Contains(text, "no collateral given") {
				t.Errorf("exit %d, want %d with %q:\n%s%s", code, tt.code, tt.want, out, errOut)
			}
			yaml := "version: 1\nevidence:\n  q: {file: m/quote.bin, at: '" + evidenceAt + "', only: [authentic], intel_root: m/root.pem, collateral: [" + strings.Join(tt.collateral, ", ") + "]}\n  twin: {file: m/quote.bin, at: '" + evidenceAt + "', only: [authentic], intel_root: m/root.pem, collateral: [" + strings.Join(tt.collateral, ", ") + "]}\n"
			putFile(t, "one.yaml", []byte(yaml))
			if code, out, errOut := inProcess(t, nil, "-q", "run", "-f", "one.yaml", "--no-cache", "--test-root-ok", "--out", "out"); code != tt.code {
				t.Errorf("by retally.yaml: exit %d, want %d:\n%s%s", code, tt.code, out, errOut)
			}
		})
	}
}

// TestRequireFlag: demands are read before anything else, and judged by name.
func TestRequireFlag(t *testing.T) {
	m := newOwnMachine(t)
	base := []string{"evidence", "verify", m.path("quote.bin"), "--at", evidenceAt, "--intel-root", m.path("root.pem"), "--test-root-ok", "--registry", m.path("tdx.csv"), "--docker-compose", m.path("docker-compose.yaml"), "--only", "authentic,expected"}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--require", "xfam=e702060000000000", "--require", "td_attributes=0000001000000000"}, 0, "xfam: is e702060000000000, as expected"},
		{[]string{"--require", "xfam=e700060000000000"}, 1, "xfam: is e702060000000000, expected is e700060000000000"},
		{[]string{"--require", "min_tcb_evaluation=17", "--collateral", m.path("collateral.json")}, 0, "of TCB evaluation 17"},
		{[]string{"--require", "min_tcb_evaluation=18", "--collateral", m.path("collateral.json")}, 1, "expected is at least 18"},
		{[]string{"--require", "min_tcb_evaluation=17"}, 3, "is known of collateral only"},
		{[]string{"--require", "smt_disabled=true"}, 3, "does not say whether hyper-threading is on"},
		{[]string{"--require", "fmspc=b0c06f000000", "--require", "fmspc=000000000000"}, 0, "fmspc: is b0c06f000000"},
		{[]string{"--require", "smt_disabled"}, 2, "want true"},
		{[]string{"--require", "smt_disabled=false"}, 2, "want true"},
		{[]string{"--require", "xfam=00"}, 2, "want 16 hexadecimal digits"},
		{[]string{"--require", "min_tcb_evaluation=0"}, 2, "want a number from 1 on"},
		{[]string{"--require", "xfam=e702060000000000", "--require", "xfam=e702060000000000"}, 2, "xfam is there twice"},
		{[]string{"--require", "mrtd=00"}, 2, "is no demand, want NAME=VALUE with one of td_attributes"},
		{[]string{"--require", ""}, 2, "--require"},
	} {
		code, out, errOut := inProcess(t, nil, append(base[:len(base):len(base)], tt.args...)...)
		if text := strings.Join(strings.Fields(out+errOut), " "); code != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%v: exit %d, want %d with %q:\n%s%s", tt.args, code, tt.code, tt.want, out, errOut)
		}
	}
	if code, _, errOut := inProcess(t, nil, "evidence", "verify", m.path("gpu.json"), "--at", evidenceAt, "--require", "smt_disabled=true"); code != 2 || !strings.Contains(errOut, "evidence of another kind") {
		t.Errorf("for a GPU: exit %d %s", code, errOut)
	}
}
