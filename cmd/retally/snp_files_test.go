package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// snpArtifacts writes the inputs of an AMD machine into a folder: firmware of
// fixtures/snp, its kernel and initrd, test keys and IGVM files.
func snpArtifacts(t interface{ Fatal(...any) }, root, dir string) {
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	files := map[string][]byte{
		"bzImage": bytes.Repeat([]byte("kernel one"), 100), "initrd.img": bytes.Repeat([]byte("initrd one"), 50),
		"good.igvm": igvmFile(0x30000, []byte("one"), 0), "changed.igvm": igvmFile(0x30000, []byte("two"), 0),
		"newer.igvm": igvmFile(0x30000, []byte("one"), 0x80000320), "bad.igvm": igvmFile(0x30000, []byte("one"), 0x320),
	}
	for name, from := range map[string]string{
		"OVMF.fd": "a-std-8k", "no-hashes.fd": "c-nokernelhashes-8k", "no-metadata.fd": "h-nometadata-8k", "bad-version.fd": "n-badver-8k",
		"svsm.fd": "svsm-ovmf-16k", "svsm.bin": "svsm-a-12k", "reset-zero.fd": "f-resetzero-8k",
	} {
		f, err := os.Open(filepath.Join(root, "fixtures", "snp", "ovmf", from+".gz"))
		check(err)
		z, err := gzip.NewReader(f)
		check(err)
		files[name], err = io.ReadAll(z)
		check(err)
		check(f.Close())
	}
	var keys struct {
		ID     string `json:"id_key_pem"`
		Author string `json:"author_key_pem"`
	}
	data, err := os.ReadFile(filepath.Join(root, "fixtures", "snp", "id_block.json"))
	check(err)
	check(json.Unmarshal(data, &keys))
	files["id-key.pem"], files["author-key.pem"] = []byte(keys.ID), []byte(keys.Author)
	for name, data := range files {
		check(os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

// igvmFile is a file for SEV-SNP and TDX with a page of contents and one of
// zeros, and a header of another type if there is one.
func igvmFile(policy uint64, contents []byte, other uint32) []byte {
	le := binary.LittleEndian
	header := func(b []byte, typ uint32, body ...byte) []byte {
		b = le.AppendUint32(le.AppendUint32(b, typ), uint32(len(body)))
		return append(b, body...)
	}
	page := func(address uint64, offset uint32) []byte {
		return append(le.AppendUint32(le.AppendUint32(le.AppendUint64(nil, address), 3), offset), make([]byte, 8)...)
	}
	build := func(offset uint32) []byte {
		var b []byte
		b = header(b, 1, append([]byte{1, 0, 0, 0, 0, 2, 1, 0}, make([]byte, 8)...)...)
		b = header(b, 1, append([]byte{2, 0, 0, 0, 0, 3, 1, 0}, make([]byte, 8)...)...)
		b = header(b, 0x101, append(le.AppendUint64(nil, policy), 1, 0, 0, 0, 0, 0, 0, 0)...)
		b = header(b, 0x302, page(0x1000, offset)...)
		b = header(b, 0x302, page(0x2000, 0)...)
		if other != 0 {
			b = header(b, other, make([]byte, 8)...)
		}
		return b
	}
	start := uint32(24 + len(build(0)))
	headers := build(start)
	file := []byte("IGVM")
	for _, v := range []uint32{1, 24, uint32(len(headers)), start + 4096, 0} {
		file = le.AppendUint32(file, v)
	}
	le.PutUint32(file[20:], crc32.ChecksumIEEE(append(bytes.Clone(file), headers...)))
	data := make([]byte, 4096)
	copy(data, contents)
	return append(append(file, headers...), data...)
}
