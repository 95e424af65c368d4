package evidence

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
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
func bareKey(q *Question) bool { return q.AK != nil && q.AK.Chain == nil }

// tpmIdle are the fields that say what a machine with other registers must be.
// The registry and the compose file of the whole configuration are for the others
// in it.
func tpmIdle(e config.Evidence, behind hcl.Type) []field {
	out := []field{
		{"platform", e.Platform},
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
		from.expected = append(from.expected, pipeline.FromFile(e.Golden))
	}
	if e.AppRoot != "" {
		d, err := parseHex(digest.SHA256, e.AppRoot)
		if err != nil {
			return err
		}
		q.AppRoot = d
	}
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

// goldenReferences are the golden values that the user gave, for the report: each
// is held against the register of its name. Whether all of them make the machine
// what it should be, expected says. Registers that can be reset are no reference:
// agreement of theirs shows nothing.
func (j *Judged) goldenReferences() []pipeline.Reference {
	var out []pipeline.Reference
	for _, i := range slices.Sorted(maps.Keys(j.Request.Golden)) {
		if tpmquote.Resettable(i) {
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
