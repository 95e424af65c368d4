package evidence_test

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
)

// extend folds events into an RTMR; short ones are padded with zeros.
func extend(t testing.TB, events ...[]byte) digest.Digest {
	t.Helper()
	var r [48]byte
	for _, e := range events {
		var in [96]byte
		copy(in[:], r[:])
		copy(in[48:], e)
		r = sha512.Sum384(in[:])
	}
	d, err := digest.FromBytes(digest.SHA384, r[:])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// runtimeEvent is the digest of a dstack event, version 1.
func runtimeEvent(name string, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x08000001)
	b = append(b, ":"+name+":"...)
	return digest.SHA384.Sum(append(b, payload...)).Bytes()
}

// rtmr3 is the register rule of SecretVM, as the pipeline plugs it in.
func rtmr3(t testing.TB) evidence.RTMR3Func {
	return func(in evidence.RTMR3Input) (digest.Digest, error) {
		names := []string{"compose-hash", "os-image-hash"}
		parts := [][]byte{in.Compose.Bytes(), in.Rootfs.Bytes()}
		if !in.DockerFiles.IsZero() {
			names, parts = append(names, "docker-files-hash"), append(parts, in.DockerFiles.Bytes())
		}
		if in.AppID != nil {
			if len(in.AppID) != 20 {
				return digest.Digest{}, fmt.Errorf("app id of %d bytes", len(in.AppID))
			}
			for i, n := range names {
				parts[i] = runtimeEvent(n, parts[i])
			}
			parts = append([][]byte{runtimeEvent("app-id", in.AppID)}, parts...)
		}
		return extend(t, parts...), nil
	}
}

// replay folds dstack's JSON event log, as the pipeline plugs it in.
func replay(t testing.TB) evidence.ReplayFunc {
	return func(log []byte) (*evidence.Replay, error) {
		var events []struct {
			IMR           int
			Digest, Event string
			Payload       string `json:"event_payload"`
		}
		if err := json.Unmarshal(log, &events); err != nil {
			return nil, err
		}
		var parts [4][][]byte
		out := &evidence.Replay{}
		for _, e := range events {
			payload, err := hex.DecodeString(e.Payload)
			if err != nil {
				return nil, err
			}
			sum, err := hex.DecodeString(e.Digest)
			if err != nil {
				return nil, err
			}
			if len(sum) == 0 {
				sum = runtimeEvent(e.Event, payload)
			}
			parts[e.IMR] = append(parts[e.IMR], sum)
			out.Events = append(out.Events, evidence.Event{RTMR: e.IMR, Name: e.Event, Payload: payload})
		}
		for i, p := range parts {
			if p != nil {
				out.RTMR[i] = extend(t, p...)
			}
		}
		return out, nil
	}
}

func vector(t testing.TB, rel string) []byte {
	t.Helper()
	data, err := os.ReadFile(testenv.Vectors(t, rel))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(t testing.TB, name string, data []byte) *evidence.Bundle {
	t.Helper()
	b, err := evidence.Read(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verify(t testing.TB, r evidence.Request) *evidence.Result {
	t.Helper()
	if r.At.IsZero() {
		r.At = now
	}
	got, err := evidence.Verify(r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// short gives the three verdicts as three letters: p, f, u.
func short(r *evidence.Result) string {
	var b strings.Builder
	for _, j := range []verdict.Judgement{r.Authentic, r.Expected, r.Bound} {
		b.WriteByte(j.Verdict[0])
	}
	return b.String()
}

func reasons(j verdict.Judgement) string { return strings.Join(j.Reasons, "\n") }
