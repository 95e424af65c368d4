package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/pipeline/config"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// A flagField is a flag with the field of the configuration that it fills.
type flagField struct{ flag, field string }

// bindEvidence makes a flag for every field of a piece of evidence but its files,
// which are arguments, and the platform, which is another entry of a
// configuration. No input is read here.
func bindEvidence(cmd *cobra.Command, e *config.Evidence) []flagField {
	var all []flagField
	s := cmd.Flags()
	bind := func(to any, flag, usage string) {
		field := strings.ReplaceAll(flag, "-", "_")
		if flag == "docker-compose" {
			field = "compose" // a machine with another engine has one, too
		}
		if what := evidencestage.For(field); what != "" {
			usage = what + ": " + usage
		}
		switch to := to.(type) {
		case *string:
			s.StringVar(to, flag, "", usage)
		case *[]string:
			if slices.Contains([]string{"measured", "collateral", "require"}, flag) {
				s.StringArrayVar(to, flag, nil, usage)
			} else {
				s.StringSliceVar(to, flag, nil, usage)
			}
		}
		all = append(all, flagField{flag, field})
	}
	bind(&e.Only, "only", "verdicts to ask for: authentic, expected, bound; may be a list (default: all three)")
	bind(&e.Profile, "profile", "whose conventions count: secretvm, dstack, tdx, snp, tpm, blindllama, nvidia, contrast (default: by the evidence, and secretvm where its registry, rootfs or compose file is given)")
	bind(&e.At, "at", "time at which certificates and collateral must be valid, as 2026-06-01T00:00:00Z (default now, which the result names)")

	bind(&e.Registry, "registry", "file of published registers by release (SecretVM's tdx.csv); a row counts as a whole")
	bind(&e.Compose, "docker-compose", "the compose file, byte for byte, or its digest as sha256:HEX (dstack: the app-compose document)")
	bind(&e.DockerFiles, "docker-files", "archive of the additional docker files, or its digest as sha256:HEX")
	bind(&e.Rootfs, "rootfs", "root file system image, or its digest as sha256:HEX")
	bind(&e.AppID, "app-id", "app id of a key management service, 20 bytes in hex")
	bind(&e.Manifest, "manifest", "Contrast manifest; each of its TDX reference values counts as a whole")
	bind(&e.Measured, "measured", "registers that retally tdx measure -o json printed; may be given several times")
	for i, to := range []*string{&e.MRTD, &e.RTMR0, &e.RTMR1, &e.RTMR2, &e.RTMR3} {
		name := string(evidence.Registers()[i])
		bind(to, name, strings.ToUpper(name)+" in hex; the registers given hold together")
	}
	bind(&e.Measurement, "measurement", "launch digest of an SEV-SNP machine in hex, or of the software that is its virtual TPM; may be a list of alternatives")
	bind(&e.HostData, "host-data", "SEV-SNP: host data in hex, for instance the hash of the runtime policy")
	bind(&e.VMConfig, "vm-config", "dstack's vm_config, or the reply that holds it (default: the one beside the quote)")
	bind(&e.OSImageHash, "os-image-hash", "dstack's os_image_hash in hex; without it the vm_config is only the sender's word")

	bind(&e.Require, "require", "what a TDX machine must be like beside its registers, as NAME=VALUE: "+strings.Join(evidencestage.Requirements(), ", ")+"; may be given several times")

	bind(&e.Golden, "golden", "TPM: golden measurements (SHA-256 values of PCRs in JSON, as BlindLlama publishes them)")
	bind(&e.EventLog, "event-log", "TPM: the firmware's event log (default: the one beside the quote)")
	bind(&e.AppRoot, "app-root", "BlindLlama: root hash of the application disk in hex")

	bind(&e.Workload, "workload", "Contrast: the workload that must answer, by name, WorkloadSecretID or policy hash, or coordinator")
	bind(&e.Earlier, "earlier", "Contrast: manifests that were in force before, oldest first; may be a list")
	bind(&e.OwnerKey, "owner-key", "Contrast: owner key files that the manifest must name; may be a list")

	bind(&e.Capabilities, "capabilities", "Contrast: the body of /capabilities that came before the answer (default: the one in a capture)")
	bind(&e.TLSCert, "tls-cert", "TLS certificate of the connection, PEM or DER (default: the one in a capture)")
	bind(&e.Nonce, "nonce", "nonce that was asked for, in hex")

	bind((*[]string)(&e.Collateral), "collateral", "file with Intel's TCB info, QE identity and revocation lists, or a folder, or the replies of Intel's service, given one by one; without it the TCB level stays unchecked")
	bind(&e.AcceptTCB, "accept-tcb", "TCB statuses to accept beside UpToDate; may be a list")
	bind(&e.MRSEAM, "mrseam", "MRSEAM in hex of a TDX module to accept; may be a list (default: any that Intel signed)")
	bind(&e.ServiceTD, "service-td", "MRSERVICETD in hex of a service TD to accept; may be a list (default: none)")
	bind(&e.VCEK, "vcek", "SEV-SNP: certificate of the processor (VCEK or VLEK), DER or PEM")
	bind(&e.Certs, "certs", "SEV-SNP: further certificates in PEM")
	bind(&e.CRL, "crl", "SEV-SNP: AMD's revocation list of the product")
	bind(&e.Roots, "roots", "SEV-SNP: ARK, ASK and ASVK to trust in place of AMD's, for tests only; TPM: roots of its key in place of Azure's; no pass without --test-root-ok")
	bind(&e.AK, "ak", "TPM: attestation key (PEM, TPM2B_PUBLIC), trusted as it is, or its certificates, which must lead to a root")
	bind(&e.IntelRoot, "intel-root", "certificate to trust in place of Intel's, for tests only; no pass without --test-root-ok")
	bind(&e.NVIDIARoot, "nvidia-root", "certificate to trust in place of NVIDIA's, for tests only; no pass without --test-root-ok")
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(evidencestage.Profiles(), cobra.ShellCompDirectiveNoFileComp))
	return all
}

// flagOf writes a field of the configuration as its flag. A field without one is
// named as it is.
func flagOf(all []flagField, field, value string) string {
	for _, f := range all {
		if f.field == field {
			return strings.TrimSpace("--" + f.flag + " " + value)
		}
	}
	return strings.TrimSuffix(field+": "+value, ": ")
}

// evidenceFiles are the fields that name files, in the order in which they are
// read; large ones are only hashed.
func evidenceFiles(e *config.Evidence) (files []*string, large []*string) {
	files = []*string{&e.File}
	for _, list := range [][]string{e.Also, e.Measured, e.Collateral, e.Earlier, e.OwnerKey} {
		for i := range list {
			files = append(files, &list[i])
		}
	}
	return append(files, &e.Registry, &e.Compose, &e.Manifest, &e.VMConfig, &e.TLSCert, &e.IntelRoot, &e.NVIDIARoot, &e.VCEK, &e.Certs, &e.CRL, &e.Roots, &e.AK, &e.Golden, &e.EventLog, &e.Capabilities), []*string{&e.Rootfs, &e.DockerFiles}
}
