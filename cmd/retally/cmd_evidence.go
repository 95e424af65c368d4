package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
)

func (a *app) evidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Fetch what a machine shows of itself, and judge it offline",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.evidenceCaptureCommand(), a.evidenceVerifyCommand())
	return cmd
}

func (a *app) evidenceCaptureCommand() *cobra.Command {
	var (
		output, out, profile string
		timeout              time.Duration
	)
	cmd := &cobra.Command{
		Use:   "capture HOST[:PORT] --out DIR",
		Short: "Fetch a machine's attestation pages and the certificate of the same TLS session",
		Long: `Fetch the attestation pages of a SecretVM machine (cpu.html, GPU evidence and
the compose file where they are offered) over one TLS session and write them into
a new folder with that session's certificate chain and the time. The certificate
is held against no trust store: what makes it good is the quote that names its
key, and "retally evidence verify DIR" judges that offline. A page that came over
another connection than the quote is labelled so. Without PORT it is 29343.
Nothing is written if the quote cannot be fetched.

With --profile contrast it is a Coordinator or any pod of Contrast (without PORT
1313): a new nonce goes out in the ClientHello, the certificate that comes back
holds the report, and where the same session also answers /capabilities and
/v1/attest or /attest, these are kept, too. The nonce stands in the folder.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case out == "":
				return &userError{op: "capture", path: args[0], msg: "no folder given", hint: "for instance --out capture"}
			case profile != "secretvm" && profile != string(evidence.Contrast):
				return &userError{op: "capture", path: args[0], msg: fmt.Sprintf("--profile %s: no such machine can be captured", profile), hint: "secretvm or contrast"}
			case timeout <= 0:
				return &userError{op: "capture", path: args[0], msg: fmt.Sprintf("--timeout %s: want a time above 0", timeout)}
			}
			if _, _, err := capture.ParseTarget(args[0]); err != nil {
				return &userError{op: "evidence", err: err, hint: "for instance retally evidence capture machine.example --out capture"}
			}
			made, err := newFolder(out)
			if err != nil {
				return err
			}
			c, err := a.fetchCapture(cmd.Context(), args[0], evidence.Profile(profile), timeout)
			if err != nil {
				return err
			}
			if err := c.Write(out); err != nil {
				return errors.Join(err, clearFolder(out, made))
			}
			return a.printCapture(c, out, output)
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&profile, "profile", string(evidence.SecretVM), "what the machine is: secretvm, contrast")
	cmd.Flags().StringVar(&out, "out", "", "folder to write into; it must be new or empty")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long the whole capture may take")
	return cmd
}

// newFolder refuses a folder that cannot take a capture before anything is
// fetched, and says whether it is still to be made.
func newFolder(dir string) (isNew bool, err error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, &userError{op: "write capture", path: dir, err: reason(err)}
	case len(entries) > 0:
		return false, &userError{op: "write capture", path: dir, msg: "the folder is not empty", hint: "name a new one with --out"}
	}
	return false, nil
}

// clearFolder takes back what a failed capture wrote into a folder that was
// new or empty.
func clearFolder(dir string, isNew bool) error {
	if isNew {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
	}
	return err
}

// fetchCapture fetches with progress: bytes as they come below TLS.
func (a *app) fetchCapture(ctx context.Context, target string, profile evidence.Profile, timeout time.Duration) (*capture.Capture, error) {
	user := ctx
	ctx, cancel := context.WithTimeout(user, timeout)
	defer cancel()
	var read atomic.Int64
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	p := run.FollowProgress("evidence capture", read.Load, func() int64 { return 0 })
	stop := a.showProgress(p.Progress)
	o := capture.Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countedConn{conn, &read}, nil
	}}
	hint := "the machine's attestation service listens on port 29343 and offers /cpu.html"
	if profile == evidence.Contrast {
		nonce := make([]byte, contrast.NonceSize)
		_, _ = rand.Read(nonce) // never fails
		o.Port, o.Nonce, o.Pages, o.Handshake = capture.ContrastPort, nonce, capture.Contrast(nonce), true
		o.Protocols = []string{contrast.Protocol(nonce), "h2"}
		hint = "a Coordinator listens for attested TLS on port 1313"
	}
	c, err := capture.Fetch(ctx, target, o)
	stop()
	p.Stop()
	switch {
	case user.Err() != nil:
		// A page that may be missing hides the user's wish to end.
		return nil, user.Err()
	case err == nil:
		return c, nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return nil, &userError{op: "capture", path: target, msg: fmt.Sprintf("no answer within %s", timeout), hint: "--timeout gives it longer"}
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // it names the target, too
	}
	return nil, &userError{op: "capture", path: target, err: err, hint: hint}
}

type countedConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// captureView is a capture as it is printed.
type captureView struct {
	Target      string              `json:"target"`
	Nonce       string              `json:"nonce,omitempty"`
	At          string              `json:"captured_at"`
	Out         string              `json:"out"`
	Pages       []capturePage       `json:"pages"`
	Connections []captureConnection `json:"connections"`
	Notes       []string            `json:"notes"`
	Next        string              `json:"next"`
	Missing     string              `json:"missing"`
}

type capturePage struct {
	Kind       capture.Kind  `json:"kind"`
	Path       string        `json:"path"`
	Status     int           `json:"status"`
	Offered    bool          `json:"offered"`
	Size       int           `json:"size"`
	Digest     digest.Digest `json:"digest,omitzero"`
	Connection int           `json:"connection"`
	Problem    string        `json:"problem,omitempty"`
}

type captureConnection struct {
	Number       int    `json:"number"`
	TLS          string `json:"tls_version"`
	ServerName   string `json:"server_name"`
	Certificates int    `json:"certificates"`
	Subject      string `json:"subject"`
	Certificate  string `json:"certificate_sha256"`
	SPKI         string `json:"spki_sha256"`
}

func viewCapture(c *capture.Capture, out string) (*captureView, error) {
	v := &captureView{
		Target: c.Target, At: c.At.UTC().Format(time.RFC3339), Out: out, Pages: []capturePage{}, Connections: []captureConnection{}, Notes: []string{},
		Next:    "retally evidence verify " + quote(out),
		Missing: "the same with --registry tdx.csv --docker-compose docker-compose.yaml, with the published registry and the compose file that you expect",
	}
	quoteOver := 0
	if c.Nonce != nil {
		v.Nonce, quoteOver = hex.EncodeToString(c.Nonce), 1
		v.Next = "retally evidence verify " + quote(out) + " --manifest manifest.json --workload coordinator, with the manifest that you expect"
	}
	for _, p := range c.Pages {
		x := capturePage{Kind: p.Kind, Path: p.Path, Status: p.Status, Offered: p.Body != nil, Size: len(p.Body), Connection: p.Connection, Problem: p.Problem}
		if p.Body != nil {
			x.Digest = digest.SHA256.Sum(p.Body)
			switch {
			case p.Kind == capture.CPU:
				quoteOver = p.Connection
			case p.Connection != quoteOver:
				v.Notes = append(v.Notes, fmt.Sprintf("%s came over connection %d, the quote over connection %d: only the quote's certificate is judged", p.Path, p.Connection, quoteOver))
			}
		}
		v.Pages = append(v.Pages, x)
	}
	for _, s := range c.Connections {
		x := captureConnection{Number: s.Number, TLS: s.Version, ServerName: s.ServerName, Certificates: len(s.Chain)}
		if len(s.Chain) > 0 {
			leaf, err := x509.ParseCertificate(s.Chain[0])
			if err != nil {
				return nil, err
			}
			whole, spki := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
			x.Subject, x.Certificate, x.SPKI = leaf.Subject.String(), hex.EncodeToString(whole[:]), hex.EncodeToString(spki[:])
		}
		v.Connections = append(v.Connections, x)
	}
	return v, nil
}

func (a *app) printCapture(c *capture.Capture, out, output string) error {
	v, err := viewCapture(c, out)
	if err != nil {
		return err
	}
	if output == "json" {
		return a.concluded(output, computes("nothing is verified yet: retally evidence verify judges it"), v, nil)
	}
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	line("CAPTURED  %s at %s into %s", v.Target, v.At, v.Out)
	if v.Nonce != "" {
		line("  nonce %s", v.Nonce)
	}
	for _, p := range v.Pages {
		switch {
		case p.Problem != "":
			line("  %-22s could not be fetched: %s", p.Path, p.Problem)
		case !p.Offered:
			line("  %-22s not offered (status %d)", p.Path, p.Status)
		default:
			line("  %-22s %d bytes over connection %d, %s", p.Path, p.Size, p.Connection, p.Digest)
		}
	}
	for _, s := range v.Connections {
		line("  connection %d: %s, %s, subject %s", s.Number, s.TLS, show.Plural(s.Certificates, "certificate", "certificates"), s.Subject)
		line("    certificate SHA-256 %s", s.Certificate)
		line("    public key  SHA-256 %s", s.SPKI)
	}
	for _, n := range v.Notes {
		line("  note: %s", n)
	}
	fmt.Fprintln(a.stdout, "Nothing is verified yet.")
	fmt.Fprintln(a.stdout)
	line("Next: %s", v.Next)
	var b strings.Builder
	wrapTo(&b, "  ", 4, a.width(a.stdout), show.Text(v.Missing))
	fmt.Fprint(a.stdout, b.String())
	return nil
}
