package endorsement_test

import (
	"testing"

	"github.com/retally/retally/endorsement"
)

// FuzzRead: no panic on any file, and none that was changed is held by a key
// that did not sign it.
func FuzzRead(f *testing.F) {
	l, k := newLog(f), key("endorser")
	said := statement(f, endorsement.PredicateSLSA1, slsa(workflow), []byte("a"))
	f.Add(l.dsse(f, said, k, nil))
	h := newHierarchy(f, nil)
	f.Add(l.dsse(f, said, h.signer, h.leaf))
	f.Add(said)
	f.Add(append(append(l.dsse(f, said, k, nil), '\n'), l.dsse(f, said, k, nil)...))
	f.Add([]byte(`{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AA==","cert":"x"}]}`))
	tr := h.trust(f, l)
	if err := tr.AddKeys("k", publicPEM(f, key("nobody").Public())); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := endorsement.Read("f", data, endorsement.Parts{})
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		results, _ := endorsement.Verify(&endorsement.Request{Documents: docs, Trust: tr, At: at(t, "2026-06-01T00:00:00Z")})
		for _, r := range results {
			for _, c := range r.Checks {
				if c.Name == "signature" && c.State == endorsement.Held && r.Signer() == nil {
					t.Error("held by a key that signed nothing")
				}
				if c.Reason == "" {
					t.Errorf("%s without a reason", c.Name)
				}
			}
		}
	})
}

// FuzzStatement: a statement with what lies beside it.
func FuzzStatement(f *testing.F) {
	parts := demoParts(f)
	f.Add(parts["statement.json"], parts["statement.json.sig"], parts["log-entry.json"])
	f.Fuzz(func(t *testing.T, file, sig, entry []byte) {
		docs, err := endorsement.Read("f", file, endorsement.Parts{SignatureName: "s", Signature: sig, LogEntryName: "e", LogEntry: entry})
		if err != nil {
			return
		}
		var tr endorsement.Trust
		if err := tr.AddKeys("k", parts["endorser.pem"]); err != nil {
			t.Fatal(err)
		}
		if err := tr.AddLogKeys("l", parts["log.pem"]); err != nil {
			t.Fatal(err)
		}
		endorsement.Verify(&endorsement.Request{Documents: docs, Trust: tr, At: at(t, "2026-06-01T00:00:00Z")})
	})
}

// FuzzTrust: no panic on any file of roots.
func FuzzTrust(f *testing.F) {
	f.Add(read(f, "testdata", "public_good.json"))
	f.Add(publicPEM(f, key("x").Public()))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var tr endorsement.Trust
		_ = tr.AddTrustedRoot("f", data)
		_ = tr.AddKeys("f", data)
		_ = tr.AddLogKeys("f", data)
		_ = tr.AddCertificates("f", data)
	})
}
