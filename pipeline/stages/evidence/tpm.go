package evidence

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/tpm"
)

// field is a field of an entry with what it holds.
type field struct{ name, text string }

// tpmKind reports whether evidence is a TPM's.
func tpmKind(b *evidence.Bundle) bool { return b.TPM != nil || b.TPMErr != nil || b.Proof != nil }

// rootsOfTPM reports whether the roots of an entry are a TPM's: where a hardware
// report vouches for its key, they are the processor's.
func rootsOfTPM(b *evidence.Bundle) bool {
	return tpmKind(b) && (b.TPM == nil || b.TPM.HCL == nil)
}

// bareKey reports whether a key was given that is trusted as it is: nobody else
// vouches for it then.
func bareKey(q *Question) bool {
	return q.AK != nil && q.AK.Chain == nil && q.AKSource != evidence.Sender
}

// otherPlatform says that a platform is named whose registers are of another kind:
// nothing would come of it.
func (r *stageRun) otherPlatform(e config.Evidence, b *evidence.Bundle) error {
	p, ok := r.in.Config.Platforms[e.Platform]
	if !ok || (p.TEE == "tpm") == tpmKind(b) {
		return nil
	}
	what, want := "no TPM's", "a platform of tee tdx or snp"
	if tpmKind(b) {
		what, want = "a TPM's", "a platform of tee tpm"
	}
	return &pipeline.InputError{
		Op: "judge", File: e.File, Err: fmt.Errorf("the evidence is %s, and platform %s is of tee %s", what, e.Platform, p.TEE), Hint: "name " + want + ", or leave it out",
	}
}

// tpmIdle are the fields that say what a machine with other registers must be.
// The registry and the compose file of the whole configuration are for the others
// in it.
func tpmIdle(e config.Evidence, behind hcl.Type) []field {
	out := []field{
		{"rootfs", e.Rootfs},
		{"docker_files", e.DockerFiles},
		{"app_id", e.AppID},
		{"manifest", e.Manifest},
		{"measured", strings.Join(e.Measured, "")},
		{"rtmr0", e.RTMR0},
		{"rtmr1", e.RTMR1},
		{"rtmr2", e.RTMR2},
		{"rtmr3", e.RTMR3},
		{"host_data", e.HostData},
		{"vm_config", e.VMConfig},
		{"os_image_hash", e.OSImageHash},
	}
	// What the hardware measured of the software that is the TPM.
	if behind != hcl.TDX {
		out = append(out, field{"mrtd", e.MRTD})
	}
	if behind != hcl.SNP {
		out = append(out, field{"measurement", strings.Join(e.Measurement, "")})
	}
	return out
}

// attestationKey reads the key of a TPM that was given.
func (r *stageRun) attestationKey(ctx context.Context, e config.Evidence, from *judgedFrom) (*tpmquote.AK, error) {
	if e.AK == "" {
		return nil, nil
	}
	data, err := r.in.ReadFile(ctx, e.AK, certs.MaxChainBytes)
	if err != nil {
		return nil, err
	}
	ak, err := tpmquote.ParseAK(e.AK, data)
	if err != nil {
		return nil, err
	}
	from.authentic = append(from.authentic, pipeline.FromFile(e.AK))
	return ak, nil
}

// tlsChain takes everything in the certificate's file: a proof file binds the CA
// that made the leaf, or the leaf's PEM text.
func (r *stageRun) tlsChain(ctx context.Context, e config.Evidence, q *Question) error {
	data, err := r.in.ReadFile(ctx, e.TLSCert, certs.MaxChainBytes)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	if _, err := x509.ParseCertificate(data); err == nil {
		block = nil // DER, whatever text is in it
	}
	if block == nil {
		q.TLSText = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: q.TLSCert.Raw}))
		return nil
	}
	q.TLSText = string(data)
	q.TLSChain, err = certs.ReadPEM(e.TLSCert, data)
	return err
}

// tpmExpected reads what the registers of a TPM must be.
func (r *stageRun) tpmExpected(ctx context.Context, e config.Evidence, q *Question, from *judgedFrom) error {
	for _, f := range []struct{ name, own, all string }{{"registry", e.Registry, r.in.Config.Registry}, {"compose", e.Compose, r.in.Config.Compose}} {
		if f.own != "" && f.own != f.all {
			return &pipeline.InputError{Op: "judge", File: e.File, Err: fmt.Errorf("%s is given, which is for evidence of another kind", q.Field(f.name, "")), Hint: "leave it out"}
		}
	}
	const logAtMost = tpmquote.MaxContainer
	if e.Golden != "" {
		data, err := r.in.ReadFile(ctx, e.Golden, config.JSONLimit)
		if err != nil {
			return err
		}
		if q.Golden, err = blindllama.ParseGolden(e.Golden, data); err != nil {
			return err
		}
		q.GoldenSource = source(e, e.Golden)
		from.expected = append(from.expected, pipeline.FromFile(e.Golden))
	}
	if e.AppRoot != "" {
		d, err := parseHex(digest.SHA256, e.AppRoot)
		if err != nil {
			return err
		}
		q.AppRoot = d
	}
	r.predicted(e, q, from)
	for _, text := range append(slices.Clone(e.Measurement), e.MRTD) {
		if text == "" {
			continue
		}
		d, err := parseHex(digest.SHA384, text)
		if err != nil {
			return err
		}
		q.Paravisors = append(q.Paravisors, d)
	}
	if e.EventLog != "" {
		data, err := r.in.ReadFile(ctx, e.EventLog, logAtMost)
		if err != nil {
			return err
		}
		if len(data) > 0 { // of an empty one Azure's firmware makes nothing
			if _, err := pcrmeasure.ReadLog(e.EventLog, data, pcrmeasure.FormAuto); err != nil {
				return err
			}
		}
		q.EventLog = data
		from.expected = append(from.expected, pipeline.FromFile(e.EventLog))
	}
	return nil
}

// predicted takes what stage tpm computed of a platform: its registers, and the
// root hash of the application's disk where its data were there.
func (r *stageRun) predicted(e config.Evidence, q *Question, from *judgedFrom) {
	if e.Platform == "" {
		return
	}
	p := &evidence.Prediction{Name: "platform " + e.Platform, Values: tpmquote.Values{}, Assumed: tpmquote.Values{}}
	for _, bank := range []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384, digest.SHA512} {
		for i := range tpmquote.PCRCount {
			m, ok := r.in.Get(tpm.Key(e.Platform, bank, i))
			if !ok {
				continue
			}
			to := p.Assumed
			if m.Basis == pipeline.Recomputed {
				to = p.Values
				from.expected = append(from.expected, pipeline.FromKey(m.Key))
			}
			if to[bank] == nil {
				to[bank] = map[int]digest.Digest{}
			}
			to[bank][i] = m.Value.Digest()
		}
	}
	q.Predicted = p
	root, ok := r.in.Get(pipeline.NewKey("tpm", e.Platform, "app-root"))
	if ok && root.Basis == pipeline.Recomputed && q.AppRoot.IsZero() && q.Evidence.Proof != nil {
		q.AppRoot = root.Value.Digest()
		from.expected = append(from.expected, pipeline.FromKey(root.Key))
	}
}

// predictedReferences are the registers that were computed for the platform, each
// held against the one that a quote signs.
func (j *Judged) predictedReferences() []pipeline.Reference {
	p := j.Request.Predicted
	if p == nil {
		return nil
	}
	var out []pipeline.Reference
	set := p.Name + " for " + j.Name
	for _, bank := range p.Values.Banks() {
		for _, i := range slices.Sorted(maps.Keys(p.Values[bank])) {
			reg := evidence.PCR(bank, i)
			if _, ok := j.Result.Registers[reg]; !ok || tpmquote.Resettable(i) {
				continue // expected says what no quote covers
			}
			out = append(out, pipeline.Reference{
				Set: set, Group: set, Key: j.key(string(reg)), Relation: pipeline.Equal, Want: pipeline.OfDigest(p.Values[bank][i]),
				Words: fmt.Sprintf("%s of %s", reg, p.Name),
			})
		}
	}
	return out
}

// whyPCRs looks for the deviation of the platform that turns what was predicted
// into what the quote says.
func (j *Judged) whyPCRs(ctx context.Context) error {
	p := j.Request.Predicted
	if p == nil || j.Result.Authentic.Verdict != verdict.Pass {
		return nil
	}
	var machine *tpm.Machine
	for _, bank := range p.Values.Banks() {
		for _, i := range slices.Sorted(maps.Keys(p.Values[bank])) {
			reg := evidence.PCR(bank, i)
			want, got := p.Values[bank][i], j.Result.Registers[reg]
			if got.IsZero() || got == want {
				continue
			}
			if machine == nil {
				var err error
				if machine, err = tpm.Open(ctx, j.run.in, j.Conf.Platform); err != nil {
					return err
				}
			}
			c, err := machine.Cause(ctx, i, tpm.Key(j.Conf.Platform, bank, i), want, got, pipeline.Where{File: j.Conf.File})
			if err != nil {
				return errors.Join(err, machine.Close())
			}
			key := j.key(string(reg))
			j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
		}
	}
	if machine == nil {
		return nil
	}
	return machine.Close()
}

// goldenReferences are the golden values that the user gave, for the report: each
// is held against the register of its name. Whether all of them make the machine
// what it should be, expected says. Registers that can be reset are no reference:
// agreement of theirs shows nothing.
func (j *Judged) goldenReferences() []pipeline.Reference {
	var out []pipeline.Reference
	for _, i := range slices.Sorted(maps.Keys(j.Request.Golden)) {
		if tpmquote.Resettable(i) || j.Request.GoldenSource == evidence.Sender {
			continue
		}
		reg := evidence.PCR(digest.SHA256, i)
		if _, ok := j.Result.Registers[reg]; !ok {
			continue // expected says that no quote covers it
		}
		file := cmp.Or(j.Conf.Golden, "golden")
		out = append(out, pipeline.Reference{
			Set: file + " for " + j.Name, Group: file + " for " + j.Name, Key: j.key(string(reg)), Relation: pipeline.Equal, Want: pipeline.OfDigest(j.Request.Golden[i]),
			Where: pipeline.Where{File: j.Conf.Golden}, Words: fmt.Sprintf("%s of %s", reg, file),
		})
	}
	return out
}
