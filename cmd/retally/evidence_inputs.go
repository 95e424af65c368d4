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

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

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
	if f.intelRoot != "" {
		cert, err := root("intel-root", f.intelRoot)
		if err != nil {
			return err
		}
		r.IntelRoots = []*x509.Certificate{cert}
	}
	if f.nvidiaRoot != "" {
		cert, err := root("nvidia-root", f.nvidiaRoot)
		if err != nil {
			return err
		}
		r.NVIDIARoots = []digest.Digest{digest.SHA256.Sum(cert.Raw)}
	}
	if f.collateral != "" {
		data, err := a.readEvidenceInput(f, "--collateral", f.collateral, tdxquote.MaxCollateral)
		if err != nil {
			return err
		}
		if err := r.TakeCollateral(f.collateral, data); err != nil {
			return &userError{op: "evidence verify", path: f.collateral, err: err}
		}
	}
	return nil
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
	if r.AppID, err = config.ParseAppID(f.appID); err != nil {
		return &userError{op: "evidence verify", msg: "--app-id: " + err.Error()}
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
		sets, open, err := evidencestage.MeasuredSets(path, data)
		if err != nil {
			return err
		}
		r.Sets, r.ExpectedChecks = append(r.Sets, sets...), append(r.ExpectedChecks, open...)
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
	sets, open, err := evidencestage.ManifestSets(f.manifest, m)
	if err != nil {
		return err
	}
	r.Sets, r.ExpectedChecks = append(r.Sets, sets...), append(r.ExpectedChecks, open...)
	return nil
}

// evidenceVMConfig recomputes registers from dstack's vm_config: the file
// given, or in passing the one beside the quote.
func (a *app) evidenceVMConfig(ctx context.Context, f *evidenceFlags, r *evidence.Request) (err error) {
	var given *evidence.File
	if f.vmConfig != "" {
		data, err := a.readEvidenceInput(f, "--vm-config", f.vmConfig, 1<<20)
		if err != nil {
			return err
		}
		given = &evidence.File{Name: f.vmConfig, Data: data}
	}
	var hash digest.Digest
	if f.imageHash != "" {
		if hash, err = flagDigest("os-image-hash", digest.SHA256, f.imageHash); err != nil {
			return err
		}
	}
	err = evidencestage.AddVMConfig(ctx, r, given, hash)
	switch {
	case errors.Is(err, evidencestage.ErrNoVMConfig):
		return &userError{op: "evidence verify", path: r.Evidence.Name, err: err, hint: "--vm-config FILE names one"}
	case err != nil:
		return &userError{op: "evidence verify", err: err}
	}
	return nil
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
	p := run.FollowProgress("hash "+filepath.Base(path), done.Load, func() int64 { return cmp.Or(total, done.Load()) })
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
