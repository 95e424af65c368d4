package evidence_test

import (
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
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

func read(t testing.TB, name string, data []byte) *evidence.Bundle {
	t.Helper()
	b, err := evidence.Read(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reasons(j verdict.Judgement) string { return strings.Join(j.Reasons, "\n") }

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
)

func ownPlatform(t testing.TB) *fake.Platform {
	t.Helper()
	p, err := fake.NewPlatform("evidence", from, until)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func roots(p *fake.Platform) []*x509.Certificate { return []*x509.Certificate{p.Root} }

func sum(s string) digest.Digest { return digest.SHA384.Sum([]byte(s)) }

var (
	compose = evidence.File{Name: "compose.yaml", Data: []byte("services:\n  web: {image: nginx}\n")}
	rootfs  = digest.SHA256.Sum([]byte("rootfs"))
)

func ownBody(t testing.TB) tdxquote.Body {
	b := tdxquote.Body{MRTD: sum("mrtd"), RTMR: [4]digest.Digest{sum("0"), sum("1"), sum("2")}}
	b.RTMR[3] = extend(t, digest.SHA256.Sum(compose.Data).Bytes(), rootfs.Bytes())
	return b
}

func ownQuote(t testing.TB, p *fake.Platform, b tdxquote.Body) []byte {
	t.Helper()
	raw, err := p.Quote(b, fake.Options{Trailing: 8})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func ownRow(b tdxquote.Body) string {
	return fmt.Sprintf("small,prod,v1.0.0,%s,%s,%s,%s, %s,00", b.MRTD.Hex(), b.RTMR[0].Hex(), b.RTMR[1].Hex(), b.RTMR[2].Hex(), rootfs.Hex())
}

const header = "template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data,host_id\n"

// outcome is evidence with its three judgements and what a report makes of it.
type outcome struct {
	*evidence.Result
	Expected verdict.Judgement
	report   *pipeline.Report
}

// Verdict is the report's outcome in one word.
func (o *outcome) Verdict() verdict.Verdict {
	switch o.report.Outcome {
	case pipeline.OutcomeMatch:
		return verdict.Pass
	case pipeline.OutcomeDiffers:
		return verdict.Fail
	}
	return verdict.Unchecked
}

// verify judges under a root that may be anybody's, as a run does.
func verify(t testing.TB, r evidence.Request) *outcome { t.Helper(); return verifyOnly(t, r, true) }

func verifyOnly(t testing.TB, r evidence.Request, testRootOK bool, only ...string) *outcome {
	t.Helper()
	if r.At.IsZero() {
		r.At = now
	}
	j, err := evidencestage.Judge("m", config.Evidence{File: "q", Only: only}, &evidencestage.Question{Request: r})
	if err != nil {
		t.Fatal(err)
	}
	out := &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}
	j.Add(out)
	rep := &pipeline.Report{Measurements: out.Measurements, Problems: out.Problems, TestRoots: out.TestRoots}
	rep.Judge(pipeline.Case{References: out.References, Causes: out.Causes, Notes: out.Notes, TestRootOK: testRootOK})
	return &outcome{j.Result, j.Expected, rep}
}

// short gives the three verdicts as three letters: p, f, u.
func short(r *outcome) string {
	var b strings.Builder
	for _, j := range []verdict.Judgement{r.Authentic, r.Expected, r.Bound} {
		b.WriteByte(j.Verdict[0])
	}
	return b.String()
}

func vector(t testing.TB, rel string) []byte {
	t.Helper()
	data, err := os.ReadFile(testenv.Vectors(t, rel))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
