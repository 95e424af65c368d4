package main

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/snpmeasure"
)

// idFlags describe an ID block.
type idFlags struct {
	cmd                   *cobra.Command
	digest, family, image string
	svn                   uint32
	policy, idKey, author string
	contrast, output      string
}

func (a *app) snpIDBlockCommand() *cobra.Command {
	f := &idFlags{}
	cmd := &cobra.Command{
		Use:   "id-block --launch-digest HEX [--id-key FILE [--author-key FILE]] [flags]",
		Short: "Make the ID block and its authentication that a host hands to the secure processor",
		Long: `Make the ID block of a launch digest: with it the secure processor starts the
guest only if its digest is that one, and the report names the key that signed
the block. --id-key signs it, --author-key signs the ID key; signatures are
randomized, so two runs differ in them.

--contrast makes both structures as Contrast does, which needs no key: the
signature is fixed, and the key is recovered from it.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.snpIDBlock(f) },
	}
	f.cmd = cmd
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.digest, "launch-digest", "", "launch digest, 96 hex digits")
	fs.StringVar(&f.family, "family-id", "", "family id: at most 16 bytes of text, or 32 hex digits (default: zeros)")
	fs.StringVar(&f.image, "image-id", "", "image id, likewise")
	fs.Uint32Var(&f.svn, "guest-svn", 0, "security version of the guest")
	fs.StringVar(&f.policy, "policy", fmt.Sprintf("%#x", snpmeasure.DefaultPolicy), "guest policy, a number of 64 bits; bit 17 must be one, bit 19 allows debugging")
	fs.StringVar(&f.idKey, "id-key", "", "private ID key, ECDSA P-384 in PEM")
	fs.StringVar(&f.author, "author-key", "", "private author key, likewise")
	fs.StringVar(&f.contrast, "contrast", "", "as Contrast makes it: current, or early for its first releases")
	_ = cmd.RegisterFlagCompletionFunc("contrast", cobra.FixedCompletions([]string{"current", "early"}, cobra.ShellCompDirectiveNoFileComp))
	outputFlag(cmd, &f.output)
	return cmd
}

// idJSON is the result of snp id-block. What there is no key for is empty.
type idJSON struct {
	Block  string `json:"id_block"` // base64
	Auth   string `json:"id_auth"`  // base64
	IDKey  string `json:"id_key_digest"`
	Author string `json:"author_key_digest"`
}

func (a *app) snpIDBlock(f *idFlags) error {
	const op = "snp id-block"
	block, auth, err := f.make(a, op)
	if err != nil {
		return err
	}
	raw, err := block.Bytes()
	if err != nil {
		return snpTrouble(op, "", err)
	}
	out := idJSON{Block: base64.StdEncoding.EncodeToString(raw)}
	if auth != nil {
		out.Auth, out.IDKey = base64.StdEncoding.EncodeToString(auth.Bytes()), auth.IDKey.Digest().Hex()
		if !auth.AuthorKey.Zero() {
			out.Author = auth.AuthorKey.Digest().Hex()
		}
	}
	if f.output == "json" {
		return a.result(f.output, out, nil)
	}
	fmt.Fprintf(a.stdout, "id block           %s\n", out.Block)
	if auth != nil {
		fmt.Fprintf(a.stdout, "id auth            %s\nid key digest      %s\n", out.Auth, out.IDKey)
	}
	if out.Author != "" {
		fmt.Fprintf(a.stdout, "author key digest  %s\n", out.Author)
	}
	return nil
}

// make builds the block and, where there is a key, its authentication.
func (f *idFlags) make(a *app, op string) (*snpmeasure.IDBlock, *snpmeasure.IDAuth, error) {
	if f.digest == "" {
		return nil, nil, &userError{op: op, msg: "no launch digest", hint: "--launch-digest HEX; retally snp measure computes one"}
	}
	launch, err := digest.ParseHex(digest.SHA384, strings.ToLower(f.digest))
	if err != nil {
		return nil, nil, &userError{op: op, msg: "--launch-digest: " + err.Error(), hint: "96 hex digits: SEV-SNP has ID blocks, SEV and SEV-ES have none"}
	}
	policy, err := strconv.ParseUint(f.policy, 0, 64)
	switch {
	case err != nil:
		return nil, nil, &userError{op: op, msg: fmt.Sprintf("--policy %.40q: want a number of 64 bits", f.policy), hint: "for instance --policy 0x30000"}
	case policy>>17&1 == 0:
		return nil, nil, &userError{op: op, msg: fmt.Sprintf("--policy %#x: bit 17 must be one", policy), hint: fmt.Sprintf("--policy %#x", policy|1<<17)}
	case f.author != "" && f.idKey == "":
		return nil, nil, &userError{op: op, msg: "--author-key without --id-key: there is nothing that it signs", hint: "--id-key FILE"}
	}
	if f.contrast != "" {
		for _, name := range []string{"family-id", "image-id", "guest-svn", "id-key", "author-key"} {
			if f.cmd.Flags().Changed(name) {
				return nil, nil, &userError{op: op, msg: "--" + name + " and --contrast exclude each other", hint: "Contrast's form fixes ids, version and signature"}
			}
		}
		block, auth, err := snpmeasure.ContrastID(snpmeasure.ContrastForm(f.contrast), launch, policy)
		return block, auth, snpTrouble(op, "", err)
	}
	block := &snpmeasure.IDBlock{LaunchDigest: launch, Version: 1, GuestSVN: f.svn, Policy: policy}
	if block.FamilyID, err = snpmeasure.ParseID(f.family); err != nil {
		return nil, nil, snpTrouble(op, "--family-id", err)
	}
	if block.ImageID, err = snpmeasure.ParseID(f.image); err != nil {
		return nil, nil, snpTrouble(op, "--image-id", err)
	}
	auth, err := f.sign(a, op, block)
	return block, auth, err
}

func (f *idFlags) sign(a *app, op string, block *snpmeasure.IDBlock) (*snpmeasure.IDAuth, error) {
	if f.idKey == "" {
		return nil, nil
	}
	data, err := a.readInput(op, f.idKey, smallFile)
	if err != nil {
		return nil, err
	}
	id, err := snpmeasure.ParsePrivateKey(f.idKey, data)
	if err != nil {
		return nil, snpTrouble(op, "", err)
	}
	raw, err := block.Bytes()
	if err != nil {
		return nil, err
	}
	if f.author == "" {
		return snpmeasure.SignID(raw, id, nil)
	}
	if data, err = a.readInput(op, f.author, smallFile); err != nil {
		return nil, err
	}
	author, err := snpmeasure.ParsePrivateKey(f.author, data)
	if err != nil {
		return nil, snpTrouble(op, "", err)
	}
	return snpmeasure.SignID(raw, id, author)
}
