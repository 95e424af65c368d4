package evidence

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Profile says by whose conventions evidence is judged.
type Profile string

// The profiles of this package.
const (
	SecretVM   Profile = "secretvm"
	Dstack     Profile = "dstack"
	TDX        Profile = "tdx"
	NVIDIA     Profile = "nvidia"
	SNP        Profile = "snp"
	TPM        Profile = "tpm"
	BlindLlama Profile = "blindllama"
	Contrast   Profile = "contrast"
)

// Source says whose word a reference is. It decides what a comparison with it is
// worth: what came with the evidence is what its sender says of itself.
type Source string

// The sources. The zero Source is User.
const (
	User     Source = "user"     // given by whoever asks for the verdict, apart from the evidence
	Embedded Source = "embedded" // built into the program
	Sender   Source = "sender"   // came with the evidence: beside it in one folder, or in it
)

// The judgements by name, in the order in which they rest on each other.
const (
	Authentic = "authentic"
	Expected  = "expected"
	Bound     = "bound"
)

// Judgements lists them.
func Judgements() []string { return []string{Authentic, Expected, Bound} }

// Request is evidence and what the caller expects of it. Everything but
// Evidence and At is optional; what is missing stays unchecked, with its name.
type Request struct {
	Profile  Profile // empty: by the evidence
	Evidence *Bundle
	At       time.Time // when certificates and collateral must be valid
	// Field says how the caller gives an input, for the reasons: "tls_cert" and
	// "FILE" may be a flag or a key. nil writes "tls_cert: FILE".
	Field func(name, value string) string

	// Expected: see References. The registers are compared by package pipeline.
	Registry    *Registry
	Sets        []ReferenceSet
	Compose     *File
	ComposeHash digest.Digest // SHA-256, where the file itself is not at hand
	// ComposeSource says whose word the compose file is.
	ComposeSource Source
	DockerFiles   digest.Digest // SHA-256 of the archive
	AppID         []byte        // of a key management service
	Rootfs        digest.Digest // SHA-256, where no registry gives it
	RTMR3         RTMR3Func
	Replay        ReplayFunc
	// Require is what a TDX machine must be like beside its registers.
	Require *tdxquote.Expectations

	// Bound.
	TLSCert *x509.Certificate
	Nonce   []byte
	// TLSChain is everything in the certificate's file, leaf first, and TLSText its
	// PEM text: BlindLlama's proof files bind a CA, or that text.
	TLSChain []*x509.Certificate
	TLSText  string

	// Of Contrast. Capabilities is the body of /capabilities that came before the
	// answer, Transition hashes a history.
	Capabilities []byte
	Transition   TransitionFunc

	// Of TPMs. Golden are SHA-256 values of PCRs, AppRoot the dm-verity root hash of
	// BlindLlama's application disk. An AK without a chain is trusted as it is; one
	// with certificates must lead to a root. TPMRoots are instead of the ones built in.
	Golden  blindllama.Golden
	AppRoot digest.Digest
	// GoldenSource and AKSource say whose word these are: a bare key of the
	// sender's is trusted by nobody.
	GoldenSource, AKSource Source
	// Predicted are registers that the caller computed from what the machine boots;
	// they and golden values must both hold. nil: none.
	Predicted *Prediction
	// Paravisors are what the hardware may have measured of the software that a
	// virtual TPM is: launch digests of SEV-SNP, MRTD values of TDX.
	Paravisors []digest.Digest
	AK         *tpmquote.AK
	TPMRoots   []tpmquote.Root
	EventLog   []byte // instead of the one beside the quote
	PCRReplay  PCRReplayFunc

	// Authentic.
	Collateral  *tdxquote.Collateral
	AcceptTCB   []string
	MRSEAM      []digest.Digest
	ServiceTD   []digest.Digest     // MRSERVICETD values to accept
	IntelRoots  []*x509.Certificate // instead of Intel's, for tests and demonstrations
	NVIDIARoots []digest.Digest     // instead of NVIDIA's
	AMDRoots    []snpreport.Root    // instead of AMD's
	// Certificates are what was got from AMD for an SEV-SNP report that came without
	// them, CRLs AMD's revocation lists.
	Certificates snpreport.Certificates
	CRLs         []*x509.RevocationList

	AuthenticChecks verdict.List // of the caller's own making

	collateralBroken bool
}

// Root is a root that evidence was judged under.
type Root struct {
	Vendor  string        `json:"vendor"` // "intel", "nvidia", "amd", "tpm"
	Subject string        `json:"subject,omitempty"`
	SHA256  digest.Digest `json:"sha256"` // of its DER
	BuiltIn bool          `json:"built_in"`
}

// String names the root by its subject, where it is known, and its digest.
func (r Root) String() string {
	if r.Subject == "" {
		return r.SHA256.String()
	}
	return fmt.Sprintf("%s (%s)", r.SHA256, r.Subject)
}

// Result is what evidence shows: who signed it, what it is bound to, what it
// claims. Whether that is what the caller expects, the pipeline judges.
type Result struct {
	Profile   Profile           `json:"profile"`
	At        time.Time         `json:"at"`
	Authentic verdict.Judgement `json:"authentic"`
	Bound     verdict.Judgement `json:"bound"`
	Claims    Claims            `json:"claims"`
	// Roots are the roots that were trusted, the vendors' own and others.
	Roots []Root `json:"roots"`
	// Registers are those of the quote or report, nil if it could not be read. They
	// are as good as Authentic says.
	Registers map[Register]digest.Digest `json:"-"`
	// Runs are the registers that say what runs, in the order in which a machine
	// fills them: something must be held against each.
	Runs []Register `json:"-"`
	// Resettable are registers of a TPM that can be set back without a reboot: what
	// they hold shows nothing about the boot.
	Resettable map[Register]bool `json:"-"`
	// Quote is the TDX quote, PCK its platform's certificate and TCB its level, each
	// nil where there is none.
	Quote *tdxquote.Quote `json:"-"`
	PCK   *tdxquote.PCK   `json:"-"`
	TCB   *tdxquote.TCB   `json:"-"`
	// SNP is the report, nil for other evidence, and Product whose it is by its
	// certificate.
	SNP     *snpreport.Report `json:"-"`
	Product snpreport.Product `json:"-"`
	// paravisor is what the hardware behind a virtual TPM's key measured, and its name.
	paravisor     digest.Digest
	paravisorName Register
	// Expected are the checks of what was expected that no comparison of registers
	// makes: dstack's event log, evidence that cannot be read or compared.
	Expected verdict.List `json:"-"`
	// Vouched are registers that those checks speak for: RTMR3 by an event log
	// with the compose hash that is expected.
	Vouched map[Register]bool `json:"-"`
}

// TestRoots names the vendors in whose place another root was trusted.
func (r *Result) TestRoots() []string {
	out := []string{}
	for _, root := range r.Roots {
		if !root.BuiltIn && !slices.Contains(out, root.Vendor) {
			out = append(out, root.Vendor)
		}
	}
	return out
}

// Verify judges evidence. An error means that the request makes no sense;
// evidence that is wrong, broken or unreadable gets its verdict.
func Verify(r Request) (*Result, error) {
	if r.Evidence == nil || r.Evidence.empty() {
		return nil, errors.New("verify evidence: none given")
	}
	if r.At.IsZero() {
		return nil, errors.New("verify evidence: no time given")
	}
	if r.Profile == "" {
		r.Profile = r.Evidence.profile()
	}
	r.Evidence = r.Evidence.As(r.Profile)
	result := &Result{Profile: r.Profile, At: r.At.UTC(), Vouched: map[Register]bool{}}
	var err error
	if result.Roots, err = r.roots(); err != nil {
		return nil, err
	}
	result.Claims.Source = r.Evidence.Name
	if !r.Evidence.CapturedAt.IsZero() {
		result.Claims.CapturedAt, result.Claims.Target = r.Evidence.CapturedAt.UTC().Format(time.RFC3339), r.Evidence.Target
	}
	switch r.Profile {
	case SecretVM:
		if r.Evidence.Quote == nil && r.Evidence.SNP == nil {
			return nil, fmt.Errorf("verify evidence: profile secretvm needs a TDX quote or an SEV-SNP report, %s has none", r.Evidence.Name)
		}
	case SNP:
		if r.Evidence.SNP == nil {
			return nil, fmt.Errorf("verify evidence: profile snp needs an SEV-SNP report, %s has none", r.Evidence.Name)
		}
	case Dstack, TDX:
		if r.Evidence.Quote == nil {
			return nil, fmt.Errorf("verify evidence: profile %s needs a TDX quote, %s has none", r.Profile, r.Evidence.Name)
		}
	case TPM:
		if r.Evidence.TPM == nil && r.Evidence.TPMErr == nil {
			return nil, fmt.Errorf("verify evidence: profile tpm needs a quote of a TPM, %s has none", r.Evidence.Name)
		}
		return result, r.judgeTPM(result)
	case BlindLlama:
		if r.Evidence.Proof == nil {
			return nil, fmt.Errorf("verify evidence: profile blindllama needs a proof file, %s is none", r.Evidence.Name)
		}
		return result, r.judgeTPM(result)
	case Contrast:
		if len(r.Evidence.Contrast) == 0 {
			return nil, fmt.Errorf("verify evidence: profile contrast needs a Coordinator's answer to /attest or a certificate of attested TLS, %s is none", r.Evidence.Name)
		}
	case NVIDIA:
		if r.Evidence.GPU == nil {
			return nil, fmt.Errorf("verify evidence: profile nvidia needs GPU evidence, %s has none", r.Evidence.Name)
		}
	default:
		return nil, fmt.Errorf("verify evidence: unknown profile %q, known: secretvm, dstack, tdx, snp, tpm, blindllama, nvidia, contrast", r.Profile)
	}
	return result, r.judge(result)
}

// roots lists what is trusted for the kinds of evidence that there are.
func (r *Request) roots() ([]Root, error) {
	out := []Root{} // JSON would call nil null
	if r.Evidence.Quote != nil && r.Profile != NVIDIA {
		builtIn, err := tdxquote.IntelRoot()
		if err != nil {
			return nil, err
		}
		roots := r.IntelRoots
		if roots == nil {
			roots = []*x509.Certificate{builtIn}
		}
		for _, c := range roots {
			out = append(out, Root{"intel", c.Subject.String(), digest.SHA256.Sum(c.Raw), c.Equal(builtIn)})
		}
	}
	if r.Evidence.GPU != nil {
		roots := r.NVIDIARoots
		if roots == nil {
			roots = []digest.Digest{nvidia.Root()}
		}
		for _, d := range roots {
			out = append(out, Root{"nvidia", "", d, d == nvidia.Root()})
		}
	}
	return out, nil
}

// profile is the one that evidence has by itself.
func (b *Bundle) profile() Profile {
	switch {
	case len(b.Contrast) > 0:
		return Contrast
	case b.TPM != nil || b.TPMErr != nil:
		return TPM
	case b.Proof != nil:
		return BlindLlama
	case b.SNP != nil && (b.GPU != nil || b.Page || !b.CapturedAt.IsZero()):
		return SecretVM
	case b.SNP != nil:
		return SNP
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
	var authentic, bound verdict.List
	expected := &result.Expected
	var data *[64]byte // what the hardware signed for the guest, nil if it cannot be read
	var q *tdxquote.Quote
	var err error
	switch {
	case r.Profile == NVIDIA:
	case r.Evidence.SNP != nil:
		if err := r.authenticSNP(&authentic, result); err != nil {
			return err
		}
		data = &r.Evidence.SNP.Report.ReportData
	default:
		if q, err = r.authenticQuote(&authentic, result); err != nil {
			return err
		}
		if q != nil {
			data = &q.Body.ReportData
			if r.Require != nil {
				*expected = append(*expected, r.Require.Check(q, result.PCK, result.TCB)...)
			}
		}
	}
	gpuNonce, err := r.authenticGPU(&authentic, result)
	if err != nil {
		return err
	}
	if err := r.authenticOthers(&authentic, expected, result); err != nil {
		return err
	}
	r.sayTestRoots(&authentic, result)
	r.sayUnread(&authentic)
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
	case data == nil:
		expected.Open("quote", "cannot be read")
		bound.Open("quote", "cannot be read")
	default:
		if r.Profile == Dstack {
			r.expectDstack(expected, q, result)
		}
		r.checkSessions(&bound)
		switch {
		case r.Profile == Contrast:
			r.bindContrast(&bound, *data, result)
		case r.Evidence.SNP != nil && r.Evidence.SNP.HCL != nil:
			r.bindHCL(&bound, r.Evidence.SNP.HCL.Runtime.UserData)
		case r.Profile == SecretVM:
			r.bindSecretVM(&bound, *data, gpuNonce, result)
		default:
			r.bindPlain(&bound, *data, gpuNonce, result)
		}
	}
	result.Bound = verdict.Fold(bound)
	return nil
}

// sayUnread names what came with the evidence and was not looked at.
func (r *Request) sayUnread(l *verdict.List) {
	for _, what := range r.Evidence.Unread {
		l.Note("unread", what+" came with the evidence and was not read")
	}
}

// sayTestRoots says in whose place another root was trusted.
func (r *Request) sayTestRoots(l *verdict.List, result *Result) {
	for _, root := range result.Roots {
		switch {
		case root.BuiltIn:
		case root.Vendor == "tpm":
			l.Note("test-root", fmt.Sprintf("NOT A ROOT THAT IS BUILT IN: the certificate %s was given and is trusted for TPMs; whose it is, is the caller's word", root))
		default:
			l.Note("test-root", fmt.Sprintf("NOT %s'S ROOT: the certificate %s is trusted in its place, so nothing here shows real hardware", strings.ToUpper(root.Vendor), root))
		}
	}
}

func (r *Request) authenticQuote(l *verdict.List, result *Result) (*tdxquote.Quote, error) {
	q, err := tdxquote.Parse(r.Evidence.Quote)
	if err != nil {
		l.Fail("quote", err.Error())
		return nil, nil
	}
	v, err := tdxquote.Verify(q, tdxquote.Options{
		At: r.At, Roots: r.IntelRoots, Collateral: r.Collateral, CollateralBroken: r.collateralBroken, AcceptTCB: r.AcceptTCB, MRSEAM: r.MRSEAM, ServiceTD: r.ServiceTD,
		CollateralField: r.field("collateral", "FILE"),
		LinuxGuest:      r.Profile == SecretVM || r.Profile == Dstack, // both start a Linux kernel right after the firmware
	})
	if err != nil {
		return nil, err
	}
	*l = append(*l, v.Checks...)
	result.Quote, result.PCK, result.TCB = q, v.PCK, v.TCB
	result.Claims.Quote, result.Registers, result.Runs = quoteClaims(q, v), registersOf(&q.Body), Registers()
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
