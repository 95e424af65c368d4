package evidence

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Profile says by whose conventions evidence is judged.
type Profile string

// The profiles of this package.
const (
	SecretVM Profile = "secretvm"
	Dstack   Profile = "dstack"
	TDX      Profile = "tdx"
	NVIDIA   Profile = "nvidia"
)

// Request is evidence and what the caller expects of it. Everything but
// Evidence and At is optional; what is missing stays unchecked, with its name.
type Request struct {
	Profile  Profile // empty: by the evidence
	Evidence *Bundle
	At       time.Time // when certificates and collateral must be valid

	// Expected.
	Registry    *Registry
	Sets        []ReferenceSet
	Compose     *File
	ComposeHash digest.Digest // SHA-256, where the file itself is not at hand
	DockerFiles digest.Digest // SHA-256 of the archive
	AppID       []byte        // of a key management service
	Rootfs      digest.Digest // SHA-256, where no registry gives it
	RTMR3       RTMR3Func
	Replay      ReplayFunc
	// Checks of the caller's own making count like the others.
	ExpectedChecks verdict.List
	// AskExpected asks for the judgement where the inputs alone do not show it:
	// sets that the sender claims are looked at in passing otherwise.
	AskExpected bool

	// Bound.
	TLSCert *x509.Certificate
	Nonce   []byte

	// Authentic.
	Collateral  *tdxquote.Collateral
	AcceptTCB   []string
	MRSEAM      []digest.Digest
	IntelRoots  []*x509.Certificate // instead of Intel's, for tests and demonstrations
	NVIDIARoots []digest.Digest     // instead of NVIDIA's

	AuthenticChecks verdict.List // of the caller's own making
}

// Result is three judgements and what the evidence claims.
type Result struct {
	Profile   Profile           `json:"profile"`
	At        time.Time         `json:"at"`
	Authentic verdict.Judgement `json:"authentic"`
	Expected  verdict.Judgement `json:"expected"`
	Bound     verdict.Judgement `json:"bound"`
	Claims    Claims            `json:"claims"`
	// Asked names the judgements that the request gave something to judge by.
	// "authentic" is always among them.
	Asked []string `json:"asked"`

	judged map[Register]bool // compared with something, whatever came of it
}

// Verify judges evidence. An error means that the request makes no sense;
// evidence that is wrong, broken or unreadable gets its verdict.
func Verify(r Request) (*Result, error) {
	if r.Evidence == nil || r.Evidence.Quote == nil && r.Evidence.GPU == nil {
		return nil, errors.New("verify evidence: none given")
	}
	if r.At.IsZero() {
		return nil, errors.New("verify evidence: no time given")
	}
	if r.Profile == "" {
		r.Profile = r.Evidence.profile()
	}
	result := &Result{Profile: r.Profile, At: r.At.UTC(), judged: map[Register]bool{}}
	result.Asked = r.asked()
	result.Claims.Source = r.Evidence.Name
	if !r.Evidence.CapturedAt.IsZero() {
		result.Claims.CapturedAt, result.Claims.Target = r.Evidence.CapturedAt.UTC().Format(time.RFC3339), r.Evidence.Target
	}
	switch r.Profile {
	case SecretVM, Dstack, TDX:
		if r.Evidence.Quote == nil {
			return nil, fmt.Errorf("verify evidence: profile %s needs a TDX quote, %s has none", r.Profile, r.Evidence.Name)
		}
	case NVIDIA:
		if r.Evidence.GPU == nil {
			return nil, fmt.Errorf("verify evidence: profile nvidia needs GPU evidence, %s has none", r.Evidence.Name)
		}
	default:
		return nil, fmt.Errorf("verify evidence: unknown profile %q, known: secretvm, dstack, tdx, nvidia", r.Profile)
	}
	return result, r.judge(result)
}

func (r *Request) asked() []string {
	out := []string{"authentic"}
	own := slices.ContainsFunc(r.Sets, func(s ReferenceSet) bool { return s.Claimed == "" })
	if r.AskExpected || own || r.Registry != nil || !r.composeDigest().IsZero() || !r.Rootfs.IsZero() {
		out = append(out, "expected")
	}
	if r.TLSCert != nil || r.Nonce != nil || len(r.Evidence.TLSChain) > 0 || r.Evidence.Quote != nil && r.Evidence.GPU != nil {
		out = append(out, "bound")
	}
	return out
}

// Verdict is the whole in one word, for an exit code: fail if any judgement
// failed, unchecked if one that was asked for stayed so.
func (r *Result) Verdict() verdict.Verdict {
	out := verdict.Pass
	for name, j := range map[string]verdict.Judgement{"authentic": r.Authentic, "expected": r.Expected, "bound": r.Bound} {
		switch {
		case j.Verdict == verdict.Fail:
			return verdict.Fail
		case j.Verdict != verdict.Pass && slices.Contains(r.Asked, name):
			out = verdict.Unchecked
		}
	}
	return out
}

// profile is the one that evidence has by itself.
func (b *Bundle) profile() Profile {
	switch {
	case b.Quote == nil:
		return NVIDIA
	case b.EventLog != nil || b.VMConfig != nil:
		return Dstack
	case b.GPU != nil || b.Page || !b.CapturedAt.IsZero():
		return SecretVM
	}
	return TDX
}

func (r *Request) judge(result *Result) error {
	var authentic, expected, bound verdict.List
	var q *tdxquote.Quote
	if r.Profile != NVIDIA {
		var err error
		if q, err = r.authenticQuote(&authentic, result); err != nil {
			return err
		}
	}
	gpuNonce, err := r.authenticGPU(&authentic, result)
	if err != nil {
		return err
	}
	result.Authentic = verdict.Fold(append(authentic, r.AuthenticChecks...))
	if result.Authentic.Verdict != verdict.Pass {
		const why = "the evidence is not authentic, so what follows is what anybody could have written"
		expected.Note("authentic", why)
		bound.Note("authentic", why)
	}
	switch {
	case r.Profile == NVIDIA:
		expected.Open("gpu-golden-values", "measurements were not compared: NVIDIA's reference manifests need the network")
		r.bindGPU(&bound)
	case q == nil:
		expected.Open("quote", "cannot be read")
		bound.Open("quote", "cannot be read")
	default:
		expected = append(expected, r.ExpectedChecks...)
		if r.Profile == Dstack {
			r.expectDstack(&expected, q, result)
		}
		r.expectRegisters(&expected, q, result)
		if r.Profile == SecretVM {
			r.bindSecretVM(&bound, q, gpuNonce, result)
		} else {
			r.bindPlain(&bound, q, result)
		}
	}
	result.Expected, result.Bound = verdict.Fold(expected), verdict.Fold(bound)
	return nil
}

func (r *Request) authenticQuote(l *verdict.List, result *Result) (*tdxquote.Quote, error) {
	q, err := tdxquote.Parse(r.Evidence.Quote)
	if err != nil {
		l.Fail("quote", err.Error())
		return nil, nil
	}
	v, err := tdxquote.Verify(q, tdxquote.Options{At: r.At, Roots: r.IntelRoots, Collateral: r.Collateral, AcceptTCB: r.AcceptTCB, MRSEAM: r.MRSEAM})
	if err != nil {
		return nil, err
	}
	*l = append(*l, v.Checks...)
	result.Claims.Quote = quoteClaims(q, v)
	return q, nil
}

// authenticGPU verifies GPU evidence if there is any, and returns its nonce.
func (r *Request) authenticGPU(l *verdict.List, result *Result) ([]byte, error) {
	if r.Evidence.GPU == nil {
		return nil, nil
	}
	f, err := nvidia.ParseFile(r.Evidence.Name, r.Evidence.GPU)
	if err != nil {
		l.Fail("gpu", err.Error())
		return nil, nil
	}
	o := nvidia.Options{At: r.At, Roots: r.NVIDIARoots}
	checks, err := nvidia.Verify(f, o)
	if err != nil {
		return nil, err
	}
	*l = append(*l, checks...)
	result.Claims.GPU = gpuClaims(f)
	return f.Nonce[:], nil
}

// bindGPU: GPU evidence alone is bound by the caller's nonce only.
func (r *Request) bindGPU(l *verdict.List) {
	f, err := nvidia.ParseFile(r.Evidence.Name, r.Evidence.GPU)
	switch {
	case err != nil:
		l.Open("nonce", "the GPU evidence cannot be read")
	case r.Nonce == nil:
		l.Open("nonce", "no nonce was given; the evidence is for "+hex.EncodeToString(f.Nonce[:]))
	default:
		l.Judge("nonce", hex.EncodeToString(f.Nonce[:]) == hex.EncodeToString(r.Nonce), "the evidence is for the nonce asked for",
			fmt.Sprintf("the evidence is for the nonce %x, asked for is %x", f.Nonce, r.Nonce))
	}
}
