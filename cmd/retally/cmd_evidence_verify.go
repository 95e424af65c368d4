package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// evidenceFlags say what evidence is held against.
type evidenceFlags struct {
	output, profile, at string

	compose, dockerFiles, rootfs, appID string
	registry, manifest                  string
	measured                            []string
	registers                           [5]string
	vmConfig, imageHash                 string

	tlsCert, nonce string

	collateral, intelRoot, nvidiaRoot string
	acceptTCB, mrseam                 []string

	vcek, certs string

	texts []string // flags of text
	stdin string   // who reads stdin
}

func (f *evidenceFlags) flags(cmd *cobra.Command) {
	outputFlag(cmd, &f.output)
	s := cmd.Flags()
	text := func(to *string, name, usage string) {
		s.StringVar(to, name, "", usage)
		f.texts = append(f.texts, name)
	}
	text(&f.profile, "profile", "whose conventions count: secretvm, dstack, tdx, nvidia (default: by the evidence, and secretvm where its registry, rootfs or compose file is given)")
	text(&f.at, "at", "time at which certificates and collateral must be valid, as 2026-06-01T00:00:00Z (default now, which the result names)")

	text(&f.registry, "registry", "expected: file of published registers by release (SecretVM's tdx.csv); a row counts as a whole")
	text(&f.compose, "docker-compose", "expected: the compose file, byte for byte, or its digest as sha256:HEX (dstack: the app-compose document)")
	text(&f.dockerFiles, "docker-files", "expected: archive of the additional docker files, or its digest as sha256:HEX")
	text(&f.rootfs, "rootfs", "expected: root file system image, or its digest as sha256:HEX")
	text(&f.appID, "app-id", "expected: app id of a key management service, 20 bytes in hex")
	text(&f.manifest, "manifest", "expected: Contrast manifest; each of its TDX reference values counts as a whole")
	s.StringArrayVar(&f.measured, "measured", nil, "expected: registers that retally tdx measure -o json printed; may be given several times")
	for i, r := range evidence.Registers() {
		text(&f.registers[i], string(r), "expected: "+strings.ToUpper(string(r))+" in hex; the registers given hold together")
	}
	text(&f.vmConfig, "vm-config", "expected: dstack's vm_config, or the reply that holds it (default: the one beside the quote)")
	text(&f.imageHash, "os-image-hash", "expected: dstack's os_image_hash in hex; without it the vm_config is only the sender's word")

	text(&f.tlsCert, "tls-cert", "bound: TLS certificate of the connection, PEM or DER (default: the one in a capture)")
	text(&f.nonce, "nonce", "bound: nonce that was asked for, in hex")

	text(&f.collateral, "collateral", "authentic: file with Intel's TCB info, QE identity and revocation lists; without it the TCB level stays unchecked")
	s.StringSliceVar(&f.acceptTCB, "accept-tcb", nil, "authentic: TCB statuses to accept beside UpToDate; may be a list")
	s.StringSliceVar(&f.mrseam, "mrseam", nil, "authentic: MRSEAM in hex of a TDX module to accept; may be a list (default: any that Intel signed)")
	text(&f.intelRoot, "intel-root", "authentic: certificate to trust in place of Intel's, for tests only; every result says so")
	text(&f.nvidiaRoot, "nvidia-root", "authentic: certificate to trust in place of NVIDIA's, for tests only; every result says so")

	text(&f.vcek, "vcek", "certificate of an AMD processor")
	text(&f.certs, "certs", "further certificates of an AMD processor")
	for _, later := range []string{"vcek", "certs"} {
		_ = s.MarkHidden(later)
	}
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(evidenceProfiles, cobra.ShellCompDirectiveNoFileComp))
}

var evidenceProfiles = []string{string(evidence.SecretVM), string(evidence.Dstack), string(evidence.TDX), string(evidence.NVIDIA)}

func (a *app) evidenceVerifyCommand() *cobra.Command {
	var f evidenceFlags
	cmd := &cobra.Command{
		Use:   "verify FILE|DIR|-...",
		Short: "Judge a quote, GPU evidence or a capture: authentic, expected, bound",
		Long: `Judge offline what a machine shows of itself, in three verdicts:

  authentic  who signed it, and is the hardware's protection on
  expected   do the registers come from the release, artifacts and compose file
             that you name
  bound      does it belong to this TLS key, this GPU, this nonce

FILE is a TDX quote (binary, hex or base64), a saved cpu.html or gpu.html, GPU
evidence or dstack's quote in JSON; DIR is a folder of "retally evidence
capture". Several are taken together: a quote and the evidence of its GPUs.
Authentic is always judged, the others as far as something is given to judge by.
The exit code is 0 if every verdict asked for passes, 1 if one fails, 3 if one
that was asked for stays unchecked.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.noEmpty(cmd); err != nil {
				return err
			}
			r, now, err := a.evidenceRequest(cmd.Context(), &f, args)
			if err != nil {
				return err
			}
			result, err := evidence.Verify(*r)
			if err != nil {
				return &userError{op: "evidence verify", path: r.Evidence.Name, err: err}
			}
			v := newEvidenceView(result, r, now)
			if f.output == "json" {
				err = writeJSON(a.stdout, v)
			} else {
				err = a.printEvidence(v)
			}
			if err != nil {
				return &userError{op: "write result", err: err}
			}
			switch result.Verdict() {
			case verdict.Pass:
				return nil
			case verdict.Fail:
				return outcomeError{exitDiffers}
			}
			return outcomeError{exitUnchecked}
		},
	}
	f.flags(cmd)
	return cmd
}

// noEmpty refuses flags that were given without a value: an unset variable
// of a script must not quietly ask for less.
func (f *evidenceFlags) noEmpty(cmd *cobra.Command) error {
	for _, name := range f.texts {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return &userError{op: "evidence verify", msg: "--" + name + ": the value is empty", hint: "leave the flag out if nothing is to be compared"}
		}
	}
	return nil
}

// readEvidenceInput reads a small file, or stdin for "-", which only one may be.
func (a *app) readEvidenceInput(f *evidenceFlags, what, path string, limit int64) ([]byte, error) {
	if path == "-" {
		if f.stdin != "" {
			return nil, &userError{op: "evidence verify", path: path, msg: fmt.Sprintf("stdin is read for %s already, it cannot be %s too", f.stdin, what)}
		}
		f.stdin = what
	}
	return a.readInput("read "+what, path, limit)
}

// evidenceRequest turns the command line into what is judged; now says that
// the time is the clock's.
func (a *app) evidenceRequest(ctx context.Context, f *evidenceFlags, args []string) (r *evidence.Request, now bool, err error) {
	if err := f.checkProfile(); err != nil {
		return nil, false, err
	}
	r = &evidence.Request{Profile: evidence.Profile(f.profile), RTMR3: pipeline.EvidenceRTMR3, Replay: pipeline.EvidenceReplay, AcceptTCB: f.acceptTCB}
	if f.at == "" {
		r.At, now = time.Now().UTC().Truncate(time.Second), true
	} else if r.At, err = time.Parse(time.RFC3339, f.at); err != nil {
		return nil, false, &userError{op: "evidence verify", msg: fmt.Sprintf("--at %s: not a time as RFC 3339 writes it", f.at), hint: "for instance --at 2026-06-01T00:00:00Z"}
	}
	if r.Evidence, err = a.readEvidence(f, args); err != nil {
		return nil, false, err
	}
	for _, fill := range []func(context.Context, *evidenceFlags, *evidence.Request) error{a.evidenceAuthentic, a.evidenceExpected, a.evidenceBound} {
		if err := fill(ctx, f, r); err != nil {
			return nil, false, err
		}
	}
	if r.Profile == "" && r.Evidence.Quote != nil && r.Evidence.EventLog == nil && r.Evidence.VMConfig == nil &&
		(r.Registry != nil || !r.Rootfs.IsZero() || r.Compose != nil || !r.ComposeHash.IsZero()) {
		r.Profile = evidence.SecretVM
	}
	return r, now, nil
}

func (f *evidenceFlags) checkProfile() error {
	op := "evidence verify"
	later := func(what, flag string) error {
		return &userError{op: op, msg: fmt.Sprintf("%s: %s is not verified by this version", flag, what), hint: "built are: " + strings.Join(evidenceProfiles, ", ")}
	}
	switch f.profile {
	case "snp":
		return later("evidence of AMD SEV-SNP", "--profile snp")
	case "tpm", "blindllama":
		return later("evidence of a TPM", "--profile "+f.profile)
	case "contrast":
		return &userError{op: op, msg: "--profile contrast: evidence of a Coordinator is not verified by this version", hint: "a TDX quote against a manifest: --profile tdx --manifest FILE"}
	}
	switch {
	case f.vcek != "":
		return later("evidence of AMD SEV-SNP", "--vcek")
	case f.certs != "":
		return later("evidence of AMD SEV-SNP", "--certs")
	case f.profile != "" && !slices.Contains(evidenceProfiles, f.profile):
		e := &userError{op: op, msg: fmt.Sprintf("--profile %s: unknown profile", f.profile), hint: "known: " + strings.Join(evidenceProfiles, ", ")}
		if near := yamldoc.Nearest(f.profile, evidenceProfiles); near != "" {
			e.hint = "did you mean --profile " + near + "?"
		}
		return e
	}
	return nil
}

// readEvidence reads and merges the files, folders and stdin named.
func (a *app) readEvidence(f *evidenceFlags, args []string) (*evidence.Bundle, error) {
	var all []*evidence.Bundle
	for _, path := range args {
		b, err := a.readOneEvidence(f, path)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	b, err := evidence.Merge(all...)
	if err != nil {
		return nil, &userError{op: "evidence verify", err: err, hint: "verify machines one by one"}
	}
	return b, nil
}

func (a *app) readOneEvidence(f *evidenceFlags, path string) (*evidence.Bundle, error) {
	if info, err := os.Stat(path); path != "-" && err == nil && info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, capture.Index)); err != nil {
			return nil, &userError{op: "read evidence", path: path, msg: "is a folder without " + capture.Index, hint: "name the files, or a folder that retally evidence capture wrote"}
		}
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, &userError{op: "read evidence", path: path, err: reason(err)}
		}
		defer root.Close()
		b, err := evidence.ReadCapture(path, root.FS())
		if err != nil {
			return nil, &userError{op: "read evidence", path: path, err: err}
		}
		return b, nil
	}
	data, err := a.readEvidenceInput(f, "evidence", path, evidence.MaxFile)
	if err != nil {
		return nil, err
	}
	name := path
	if path == "-" {
		name = "stdin"
	}
	b, err := evidence.Read(name, data)
	if err != nil {
		return nil, &userError{op: "read evidence", path: path, err: err}
	}
	return b, nil
}

// flagHex decodes a flag of bytes in hex.
func flagHex(flag, text string, sizes ...int) ([]byte, error) {
	b, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil || len(b) == 0 || len(sizes) > 0 && !slices.Contains(sizes, len(b)) {
		want := "hexadecimal digits"
		if len(sizes) > 0 {
			want = fmt.Sprintf("%d hexadecimal digits", 2*sizes[0])
		}
		return nil, &userError{op: "evidence verify", msg: fmt.Sprintf("--%s: found %.120q, want %s", flag, text, want)}
	}
	return b, nil
}

func flagDigest(flag string, alg digest.Algorithm, text string) (digest.Digest, error) {
	text = strings.TrimPrefix(text, alg.String()+":")
	b, err := flagHex(flag, text, alg.Size())
	if err != nil {
		return digest.Digest{}, err
	}
	return digest.FromBytes(alg, b)
}

func (a *app) evidenceAuthentic(_ context.Context, f *evidenceFlags, r *evidence.Request) error {
	for _, text := range f.mrseam {
		d, err := flagDigest("mrseam", digest.SHA384, text)
		if err != nil {
			return err
		}
		r.MRSEAM = append(r.MRSEAM, d)
	}
	root := func(flag, path string) (*x509.Certificate, error) {
		data, err := a.readEvidenceInput(f, "--"+flag, path, 1<<20)
		if err != nil {
			return nil, err
		}
		return evidence.ReadCertificate(path, data)
	}
	var checks verdict.List
	if f.intelRoot != "" {
		cert, err := root("intel-root", f.intelRoot)
		if err != nil {
			return err
		}
		r.IntelRoots = []*x509.Certificate{cert}
		checks.Note("test-root", fmt.Sprintf("NOT INTEL'S ROOT: %s (%s) is trusted in its place, so nothing here shows a real machine", f.intelRoot, cert.Subject))
	}
	if f.nvidiaRoot != "" {
		cert, err := root("nvidia-root", f.nvidiaRoot)
		if err != nil {
			return err
		}
		r.NVIDIARoots = []digest.Digest{digest.SHA256.Sum(cert.Raw)}
		checks.Note("test-root", fmt.Sprintf("NOT NVIDIA'S ROOT: %s (%s) is trusted in its place, so nothing here shows a real GPU", f.nvidiaRoot, cert.Subject))
	}
	if f.collateral != "" {
		data, err := a.readEvidenceInput(f, "--collateral", f.collateral, tdxquote.MaxCollateral)
		if err != nil {
			return err
		}
		if r.Collateral, err = tdxquote.ParseCollateral(f.collateral, data); err != nil {
			if !isCollateral(data) {
				return &userError{op: "evidence verify", path: f.collateral, err: err}
			}
			// Collateral comes from a stranger as a quote does: broken, it is a
			// verdict.
			checks.Fail("collateral", err.Error())
		}
	}
	r.AuthenticChecks = checks
	return nil
}

// isCollateral reports whether a file is meant to be collateral, whatever may be
// wrong with it.
func isCollateral(data []byte) bool {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: tdxquote.MaxCollateral})
	return err == nil && doc.Kind == jsondoc.Object && (doc.Get("tcb_info") != nil || doc.Get("qe_identity") != nil)
}

func (a *app) evidenceExpected(ctx context.Context, f *evidenceFlags, r *evidence.Request) (err error) {
	if f.registry != "" {
		data, err := a.readEvidenceInput(f, "--registry", f.registry, evidence.MaxRegistry)
		if err != nil {
			return err
		}
		if r.Registry, err = evidence.ParseRegistry(f.registry, data); err != nil {
			return &userError{op: "evidence verify", err: err}
		}
	}
	switch {
	case strings.HasPrefix(f.compose, "sha256:"):
		if r.ComposeHash, err = flagDigest("docker-compose", digest.SHA256, f.compose); err != nil {
			return err
		}
	case f.compose != "":
		data, err := a.readEvidenceInput(f, "--docker-compose", f.compose, evidence.MaxFile)
		if err != nil {
			return err
		}
		r.Compose = &evidence.File{Name: f.compose, Data: data}
	}
	if r.Rootfs, err = a.fileDigest(ctx, f, "rootfs", f.rootfs); err != nil {
		return err
	}
	if r.DockerFiles, err = a.fileDigest(ctx, f, "docker-files", f.dockerFiles); err != nil {
		return err
	}
	if f.appID != "" {
		if r.AppID, err = flagHex("app-id", f.appID, 20); err != nil {
			return err
		}
	}
	if err := a.evidenceSets(f, r); err != nil {
		return err
	}
	return a.evidenceVMConfig(ctx, f, r)
}

// evidenceSets reads the sets of registers that flags and files give.
func (a *app) evidenceSets(f *evidenceFlags, r *evidence.Request) error {
	given := evidence.ReferenceSet{Group: "given", Name: "the registers given", Registers: map[evidence.Register]digest.Digest{}}
	for i, reg := range evidence.Registers() {
		if f.registers[i] == "" {
			continue
		}
		d, err := flagDigest(string(reg), digest.SHA384, f.registers[i])
		if err != nil {
			return err
		}
		given.Registers[reg] = d
	}
	if len(given.Registers) > 0 {
		r.Sets = append(r.Sets, given)
	}
	for _, path := range f.measured {
		data, err := a.readEvidenceInput(f, "--measured", path, 16<<20)
		if err != nil {
			return err
		}
		sets, err := pipeline.EvidenceMeasuredSets(path, data)
		if err != nil {
			return err
		}
		r.Sets = append(r.Sets, sets...)
	}
	if f.manifest == "" {
		return nil
	}
	data, err := a.readEvidenceInput(f, "--manifest", f.manifest, 16<<20)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(f.manifest, data)
	if err != nil {
		return &userError{op: "evidence verify", err: err}
	}
	sets, open, err := pipeline.EvidenceManifestSets(f.manifest, m)
	if err != nil {
		return err
	}
	r.Sets, r.ExpectedChecks = append(r.Sets, sets...), append(r.ExpectedChecks, open...)
	return nil
}

// evidenceVMConfig recomputes registers from dstack's vm_config: the file
// given, or in passing the one beside the quote.
func (a *app) evidenceVMConfig(ctx context.Context, f *evidenceFlags, r *evidence.Request) (err error) {
	name, data := r.Evidence.Name+" /vm_config", r.Evidence.VMConfig
	if f.vmConfig != "" {
		name = f.vmConfig
		if data, err = a.readEvidenceInput(f, "--vm-config", f.vmConfig, 1<<20); err != nil {
			return err
		}
		data = innerVMConfig(data)
	}
	var hash digest.Digest
	if f.imageHash != "" {
		if hash, err = flagDigest("os-image-hash", digest.SHA256, f.imageHash); err != nil {
			return err
		}
	}
	asked := f.vmConfig != "" || f.imageHash != ""
	switch {
	case data == nil && asked:
		return &userError{op: "evidence verify", path: r.Evidence.Name, msg: "no vm_config beside the quote", hint: "--vm-config FILE names one"}
	case data == nil:
		return nil
	}
	set, checks, err := pipeline.EvidenceVMConfigSet(ctx, name, data, hash)
	switch {
	case err != nil && (f.vmConfig != "" || ctx.Err() != nil):
		return &userError{op: "evidence verify", err: err}
	case err != nil:
		// What the sender put beside the quote is evidence, too.
		var list verdict.List
		if asked {
			list.Fail("vm_config", err.Error())
		} else {
			list.Note("vm_config", err.Error())
		}
		r.ExpectedChecks = append(r.ExpectedChecks, list...)
		return nil
	}
	r.AskExpected = asked
	r.ExpectedChecks = append(r.ExpectedChecks, checks...)
	if set != nil {
		r.Sets = append(r.Sets, *set)
	}
	return nil
}

// innerVMConfig takes vm_config out of a reply that holds it as text.
func innerVMConfig(data []byte) []byte {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 20})
	if err != nil {
		return data
	}
	if inner := doc.Get("vm_config"); inner != nil && inner.Kind == jsondoc.String {
		return []byte(inner.Text)
	}
	return data
}

func (a *app) evidenceBound(_ context.Context, f *evidenceFlags, r *evidence.Request) (err error) {
	if f.tlsCert != "" {
		data, err := a.readEvidenceInput(f, "--tls-cert", f.tlsCert, 1<<20)
		if err != nil {
			return err
		}
		if r.TLSCert, err = evidence.ReadCertificate(f.tlsCert, data); err != nil {
			return &userError{op: "evidence verify", err: err}
		}
	}
	if f.nonce != "" {
		if r.Nonce, err = flagHex("nonce", f.nonce); err != nil {
			return err
		}
		if len(r.Nonce) > 64 {
			return &userError{op: "evidence verify", msg: fmt.Sprintf("--nonce: %d bytes, report data holds 64", len(r.Nonce))}
		}
	}
	return nil
}

// fileDigest hashes a file of any size as a stream, or takes sha256:HEX. An
// empty archive of docker files counts as none, as SecretVM's tool has it.
func (a *app) fileDigest(ctx context.Context, f *evidenceFlags, flag, path string) (digest.Digest, error) {
	switch {
	case path == "":
		return digest.Digest{}, nil
	case strings.HasPrefix(path, "sha256:"):
		return flagDigest(flag, digest.SHA256, path)
	}
	in := a.stdin
	var total int64
	if path == "-" {
		if f.stdin != "" {
			return digest.Digest{}, &userError{op: "evidence verify", path: path, msg: fmt.Sprintf("stdin is read for %s already, it cannot be --%s too", f.stdin, flag)}
		}
		f.stdin = "--" + flag
	} else {
		file, err := os.Open(path)
		if err != nil {
			return digest.Digest{}, &userError{op: "read --" + flag, path: path, err: reason(err)}
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return digest.Digest{}, &userError{op: "read --" + flag, path: path, msg: "is no file", err: err}
		}
		in, total = file, info.Size()
	}
	var done atomic.Int64
	p := pipeline.FollowProgress("hash "+filepath.Base(path), done.Load, func() int64 { return cmp.Or(total, done.Load()) })
	stop := a.showProgress(p.Progress)
	h := digest.SHA256.New()
	n, err := io.Copy(h, &countedReader{ctx, in, &done})
	stop()
	p.Stop()
	switch {
	case errors.Is(err, context.Canceled):
		return digest.Digest{}, err
	case err != nil:
		return digest.Digest{}, &userError{op: "read --" + flag, path: path, err: reason(err)}
	case n == 0 && flag == "docker-files":
		return digest.Digest{}, nil
	}
	return digest.FromHash(digest.SHA256, h), nil
}

// countedReader counts for the progress and ends when the context does.
type countedReader struct {
	ctx  context.Context
	r    io.Reader
	done *atomic.Int64
}

func (c *countedReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(b)
	c.done.Add(int64(n))
	return n, err
}
