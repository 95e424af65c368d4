package ovmf_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/ulikunitz/xz/lzma"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
)

// TestVectorPayloadVolumes compares the volumes of Debian's images with those
// that the vectors were made from.
func TestVectorPayloadVolumes(t *testing.T) {
	raw, err := os.ReadFile(testenv.Vectors(t, "own/tpm/artifacts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range []string{"OVMF_CODE_4M.fd", "OVMF_CODE.fd", "OVMF_CODE_4M.secboot.fd"} {
		var want struct {
			SHA256  string
			Payload struct {
				PEI  string `json:"peifv_sha256"`
				DXE  string `json:"dxefv_sha256"`
				PEIn int    `json:"peifv_size"`
				DXEn int    `json:"dxefv_size"`
			} `json:"lzma_payload"`
		}
		if err := json.Unmarshal(all[name], &want); err != nil {
			t.Fatal(err)
		}
		data, ok := testenv.DebFile(name, want.SHA256)
		if !ok {
			t.Logf("SKIP-VISIBLE vectors: %s of Debian's ovmf 2022.11 is not installed (RETALLY_DEB_FILES lists folders)", name)
			continue
		}
		found++
		v, err := ovmf.PayloadVolumes(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(v) != 2 || len(v[0].Data) != want.Payload.PEIn || len(v[1].Data) != want.Payload.DXEn {
			t.Errorf("%s: %d volumes", name, len(v))
			continue
		}
		for i, w := range []string{want.Payload.PEI, want.Payload.DXE} {
			if got := sha256.Sum256(v[i].Data); hex.EncodeToString(got[:]) != w {
				t.Errorf("%s: volume %d = %x, want %s", name, i, got, w)
			}
		}
	}
	if found == 0 {
		testenv.Missing(t, "Debian's ovmf 2022.11")
	}
}

func FuzzPayloadVolumes(f *testing.F) {
	f.Add([]byte("MZ"))
	f.Add(smallImage())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = ovmf.PayloadVolumes(bytes.NewReader(data), int64(len(data)))
		if has, known := ovmf.HasFile(data, ovmf.GUID{}); has && !known {
			t.Error("a file was found and is not known")
		}
	})
}

// TestHasFile: a volume that is not understood to its end may have any file.
func TestHasFile(t *testing.T) {
	name, err := ovmf.ParseGUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
	if err != nil {
		t.Fatal(err)
	}
	file := func(size int) []byte {
		b := make([]byte, 24, 32)
		copy(b, name[:])
		b[20] = byte(size)
		return append(b, make([]byte, 8)...)
	}
	const ffs = "8c8ce578-8a3d-4f1c-9935-896185c32dd3"
	free := bytes.Repeat([]byte{0xff}, 64)
	whole := volume(ffs, append(file(32), free...))
	for label, c := range map[string]struct {
		data       []byte
		has, known bool
	}{
		"there":          {whole, true, true},
		"free space":     {volume(ffs, free), false, true},
		"something else": {volume(ffs, append(bytes.Repeat([]byte{0xff}, 40), 1, 2, 3, 4)), false, false},
		"a size of 0":    {volume(ffs, append(append(make([]byte, 24), file(32)...), free...)), false, false},
		"cut":            {whole[:50], false, false},
		"no volume":      {free, false, false},
	} {
		if has, known := ovmf.HasFile(c.data, name); has != c.has || known != c.known {
			t.Errorf("%s: %v, %v, want %v, %v", label, has, known, c.has, c.known)
		}
	}
}

// smallImage is a firmware volume with one file, one LZMA section and in it
// two small volumes.
func smallImage() []byte {
	var sections []byte
	for _, fill := range []byte{1, 2} {
		v := volume("8c8ce578-8a3d-4f1c-9935-896185c32dd3", bytes.Repeat([]byte{fill}, 64))
		sections = append(sections, byte(len(v)+4), byte((len(v)+4)>>8), 0, 0x17)
		sections = append(sections, v...)
	}
	var packed bytes.Buffer
	w, err := lzma.WriterConfig{Size: int64(len(sections)), SizeInHeader: true}.NewWriter(&packed)
	if err != nil {
		panic(err)
	}
	if _, err := w.Write(sections); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	g, err := ovmf.ParseGUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
	if err != nil {
		panic(err)
	}
	n := 24 + packed.Len()
	section := append([]byte{byte(n), byte(n >> 8), 0, 2}, g[:]...)
	section = append(section, 24, 0, 1, 0)
	section = append(section, packed.Bytes()...)
	file := make([]byte, 24)
	n = 24 + len(section)
	file[18], file[20], file[21] = 0x0b, byte(n), byte(n>>8)
	return volume("8c8ce578-8a3d-4f1c-9935-896185c32dd3", append(file, section...))
}

func volume(guid string, contents []byte) []byte {
	g, err := ovmf.ParseGUID(guid)
	if err != nil {
		panic(err)
	}
	v := make([]byte, 0x48, 0x48+len(contents))
	copy(v[16:], g[:])
	copy(v[0x28:], "_FVH")
	v[0x30] = 0x48
	v = append(v, contents...)
	v[0x20], v[0x21] = byte(len(v)), byte(len(v)>>8)
	return v
}

func TestPayloadVolumesSmall(t *testing.T) {
	v, err := ovmf.PayloadVolumes(bytes.NewReader(smallImage()), int64(len(smallImage())))
	if err != nil {
		t.Fatal(err)
	}
	if len(v) != 2 || v[1].Data[0x48] != 2 {
		t.Errorf("%d volumes, want the two that were packed", len(v))
	}
	cut := smallImage()
	cut = cut[:len(cut)-20]
	cut[0x20] -= 20
	if _, err := ovmf.PayloadVolumes(bytes.NewReader(cut), int64(len(cut))); err == nil {
		t.Error("a cut image is read")
	}
}
