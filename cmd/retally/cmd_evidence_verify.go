package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/yamldoc"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
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

	only       []string
	testRootOK bool

	vcek, certs string

	texts []string // flags of text
	stdin string   // who reads stdin
}

func (f *evidenceFlags) flags(cmd *cobra.Command) {
	outputFlag(cmd, &f.output)
	s := cmd.Flags()
	s.StringSliceVar(&f.only, "only", nil, "verdicts to ask for: authentic, expected, bound; may be a list (default: all three)")
	s.BoolVar(&f.testRootOK, "test-root-ok", false, "let evidence under a test root pass (--intel-root, --nvidia-root), which shows nothing about real hardware")
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
	text(&f.intelRoot, "intel-root", "authentic: certificate to trust in place of Intel's, for tests only; no pass without --test-root-ok")
	text(&f.nvidiaRoot, "nvidia-root", "authentic: certificate to trust in place of NVIDIA's, for tests only; no pass without --test-root-ok")

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
All three are asked for unless --only names fewer. The exit code is 0 if every
verdict asked for passes, 1 if one fails, 3 if one stays unchecked: a genuine
quote of unknown code is no pass.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.noEmpty(cmd); err != nil {
				return err
			}
			if err := f.checkOnly(cmd); err != nil {
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

// checkOnly refuses verdicts that do not exist, and flags that say how one would
// be judged that is not asked for: they would be ignored.
func (f *evidenceFlags) checkOnly(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("only") {
		return nil
	}
	if len(f.only) == 0 {
		return &userError{op: "evidence verify", msg: "--only: the value is empty", hint: "leave the flag out to ask for all three verdicts"}
	}
	for _, name := range f.only {
		if !slices.Contains(evidence.Judgements(), name) {
			return &userError{op: "evidence verify", msg: fmt.Sprintf("--only %s: unknown verdict", name), hint: "known: " + strings.Join(evidence.Judgements(), ", ")}
		}
	}
	for _, name := range append(slices.Clone(f.texts), "measured") {
		flag := cmd.Flags().Lookup(name)
		what, _, _ := strings.Cut(flag.Usage, ": ")
		if flag.Changed && (what == evidence.Expected || what == evidence.Bound) && !slices.Contains(f.only, what) {
			return &userError{op: "evidence verify", msg: fmt.Sprintf("--%s is for the verdict %s, which --only %s does not ask for", name, what, strings.Join(f.only, ",")), hint: "leave one of them out"}
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
	r = &evidence.Request{Profile: evidence.Profile(f.profile), Only: f.only, TestRootOK: f.testRootOK, RTMR3: evidencestage.RTMR3, Replay: evidencestage.Replay, AcceptTCB: f.acceptTCB}
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
		if !capture.IsCapture(path) {
			return nil, &userError{op: "read evidence", path: path, msg: "is a folder without " + capture.Index, hint: "name the files, or a folder that retally evidence capture wrote"}
		}
		c, err := capture.Open(path)
		if err != nil {
			return nil, &userError{op: "read evidence", path: path, err: err}
		}
		b, err := evidence.FromCapture(path, c)
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
