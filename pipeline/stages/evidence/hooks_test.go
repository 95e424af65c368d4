package evidence_test

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// TestEvidenceRTMR3 computes the register of every recorded case, real
// machines among them, from the digests of its files.
func TestEvidenceRTMR3(t *testing.T) {
	var cases []struct {
		Scheme      string
		Compose     string
		ComposeHash string `json:"compose_sha256"`
		Rootfs      string
		Docker      string `json:"dockerfiles_sha256"`
		AppID       string `json:"app_id"`
		RTMR3       string
	}
	if err := json.Unmarshal(vector(t, "own/tdx/rtmr3.json"), &cases); err != nil {
		t.Fatal(err)
	}
	sum := func(text string) digest.Digest {
		if text == "" {
			return digest.Digest{}
		}
		d, err := digest.ParseHex(digest.SHA256, text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	n := 0
	for i, c := range cases {
		if c.RTMR3 == "" {
			continue // the digest of one event
		}
		n++
		in := evidence.RTMR3Input{Rootfs: sum(c.Rootfs), Compose: sum(c.ComposeHash), DockerFiles: sum(c.Docker)}
		if c.Compose != "" {
			in.Compose = digest.SHA256.Sum(vector(t, c.Compose))
		}
		if c.AppID != "" {
			id, err := hex.DecodeString(c.AppID)
			if err != nil {
				t.Fatal(err)
			}
			in.AppID = id
		}
		got, err := evidencestage.RTMR3(in)
		if err != nil || got.Hex() != c.RTMR3 {
			t.Errorf("case %d, %s: got %s, %v; want %s", i, c.Scheme, got, err, c.RTMR3)
		}
	}
	if n < 5 {
		t.Errorf("%d cases, want at least 5", n)
	}
	if _, err := evidencestage.RTMR3(evidence.RTMR3Input{AppID: []byte{}}); err == nil {
		t.Error("an empty app id: no error")
	}
}

// TestEvidenceReplay folds the logs of real dstack machines.
func TestEvidenceReplay(t *testing.T) {
	for _, name := range []string{"tdx-lite-getquote", "quote-report"} {
		b, err := evidence.Read(name, vector(t, "published/quotes/tdx/"+name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		verify := func() *evidence.Result {
			t.Helper()
			got, err := evidence.Verify(evidence.Request{Evidence: b, At: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), Replay: evidencestage.Replay})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		got := verify()
		passed := 0
		for _, c := range got.Expected {
			if c.Name == "event-log" && c.Verdict == verdict.Pass {
				passed++
			}
		}
		if passed != 4 || len(got.Claims.Events) == 0 || len(got.Claims.ComposeHash) != 64 {
			t.Errorf("%s: %d registers fold, events %v", name, passed, got.Claims.Events)
		}
		// An event of another name cannot pass for a boot event: its digest is
		// then not the one of its name.
		text := string(b.EventLog)
		b.EventLog = []byte(strings.Replace(text, `"compose-hash"`, `"compose-hesh"`, 1))
		if string(b.EventLog) == text {
			t.Fatalf("%s: the log names no compose-hash", name)
		}
		if got := verify(); verdict.Fold(got.Expected).Verdict != verdict.Fail {
			t.Errorf("%s with a renamed event: %v", name, got.Expected)
		}
	}
	for _, bad := range []string{"", "[", `[{"imr":9}]`, "{}"} {
		if _, err := evidencestage.Replay([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
