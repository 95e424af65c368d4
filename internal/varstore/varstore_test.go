package varstore_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/foxboron/go-uefi/efi/signature"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/varstore"
)

type variable struct {
	state byte
	guid  ovmf.GUID
	name  string
	data  []byte
}

// image makes a flash image with variables in given states.
func image(vars ...variable) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x48)
	g, err := ovmf.ParseGUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
	if err != nil {
		panic(err)
	}
	copy(b[16:], g[:])
	copy(b[0x28:], "_FVH")
	b[0x30] = 0x48
	if g, err = ovmf.ParseGUID("aaf32c78-947b-439a-a180-2e144ec37792"); err != nil {
		panic(err)
	}
	b = append(b, g[:]...)
	b = le.AppendUint32(b, 4096)
	b = append(b, 0x5a, 0xfe, 0, 0, 0, 0, 0, 0)
	for _, v := range vars {
		for len(b)%4 != 0 {
			b = append(b, 0xff)
		}
		b = append(b, 0xaa, 0x55, v.state, 0, 7, 0, 0, 0)
		b = append(b, make([]byte, 28)...)
		b = le.AppendUint32(b, uint32(2*len(v.name)+2))
		b = le.AppendUint32(b, uint32(len(v.data)))
		b = append(b, v.guid[:]...)
		for _, c := range v.name + "\x00" {
			b = append(b, byte(c), 0)
		}
		b = append(b, v.data...)
	}
	return append(b, bytes.Repeat([]byte{0xff}, 0x48+4096-len(b))...)
}

func read(b []byte) (*varstore.Store, error) {
	return varstore.Read(bytes.NewReader(b), int64(len(b)))
}

const live, leaving, gone = 0x3f, 0x3e, 0x3c

func TestStates(t *testing.T) {
	s, err := read(image(
		variable{gone, varstore.Global, "PK", []byte("old")},
		variable{leaving, varstore.Global, "KEK", []byte("before")},
		variable{live, varstore.Global, "PK", []byte("new")},
		variable{live, varstore.Global, "KEK", []byte("after")},
		variable{leaving, varstore.ImageSecurity, "db", []byte("kept")},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"PK": "new", "KEK": "after"} {
		if got := s.Get(varstore.Global, name); string(got) != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if got := s.Get(varstore.ImageSecurity, "db"); string(got) != "kept" || len(s.Variables) != 3 {
		t.Errorf("db = %q, %d variables", got, len(s.Variables))
	}
}

func TestSecureBoot(t *testing.T) {
	enable, err := ovmf.ParseGUID("f0a30bc7-af08-4556-99c4-001009c93a44")
	if err != nil {
		t.Fatal(err)
	}
	pk := variable{live, varstore.Global, "PK", []byte("key")}
	for name, c := range map[string]struct {
		vars []variable
		want bool
	}{
		"nothing":      {nil, false},
		"key":          {[]variable{pk}, true},
		"switched off": {[]variable{pk, {live, enable, "SecureBootEnable", []byte{0}}}, false},
		"switched on":  {[]variable{pk, {live, enable, "SecureBootEnable", []byte{1}}}, true},
		"no key, on":   {[]variable{{live, enable, "SecureBootEnable", []byte{1}}}, false},
		"empty key":    {[]variable{{live, varstore.Global, "PK", nil}}, false},
	} {
		s, err := read(image(c.vars...))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.SecureBoot(); got != c.want {
			t.Errorf("%s: Secure Boot %t, want %t", name, got, c.want)
		}
	}
}

func TestRefuses(t *testing.T) {
	one := variable{live, varstore.Global, "PK", []byte("key")}
	for name, c := range map[string]struct {
		vars []variable
		edit func([]byte)
		want string
	}{
		"two live":       {[]variable{one, one}, nil, "second live value"},
		"behind the end": {[]variable{one}, func(b []byte) { b[3000] = 1 }, "unused flash"},
		"long name":      {[]variable{one}, func(b []byte) { b[0x48+28+37] = 0xff }, "name and data size"},
		"long data":      {[]variable{one}, func(b []byte) { b[0x48+28+43] = 0xff }, "name and data size"},
		"odd name":       {[]variable{one}, func(b []byte) { b[0x48+28+36]++ }, "name and data size"},
		"other store":    {nil, func(b []byte) { b[0x48]++ }, "authenticated variables"},
		"unhealthy":      {nil, func(b []byte) { b[0x48+21] = 0xff }, "healthy"},
		"large store":    {nil, func(b []byte) { b[0x48+18] = 1 }, "size"},
		"no volume":      {nil, func(b []byte) { b[0x28] = 0 }, "no volume of variables"},
		"header":         {nil, func(b []byte) { b[0x31] = 0xff }, "HeaderLength"},
	} {
		b := image(c.vars...)
		if c.edit != nil {
			c.edit(b)
		}
		if s, err := read(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %v, want %q", name, s, err, c.want)
		}
	}
}

// TestDebianStores reads Debian's stores; go-uefi reads the same entries from
// their signature lists.
func TestDebianStores(t *testing.T) {
	found := 0
	for _, name := range []string{"OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd", "OVMF_VARS.ms.fd"} {
		data, err := os.ReadFile("/usr/share/OVMF/" + name)
		if err != nil {
			continue
		}
		found++
		s, err := read(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !s.SecureBoot() {
			t.Errorf("%s: Secure Boot is off", name)
		}
		for _, v := range []struct {
			guid ovmf.GUID
			name string
		}{{varstore.Global, "PK"}, {varstore.Global, "KEK"}, {varstore.ImageSecurity, "db"}, {varstore.ImageSecurity, "dbx"}} {
			raw := s.Get(v.guid, v.name)
			ours, err := varstore.Signatures(raw)
			if err != nil {
				t.Errorf("%s: %s: %v", name, v.name, err)
				continue
			}
			theirs, err := signature.ReadSignatureDatabase(bytes.NewReader(raw))
			if err != nil {
				t.Errorf("%s: %s: go-uefi: %v", name, v.name, err)
				continue
			}
			n := 0
			for _, l := range theirs {
				for _, e := range l.Signatures {
					if n < len(ours) && !bytes.Equal(ours[n].Data, e.Data) {
						t.Errorf("%s: %s: entry %d differs from go-uefi's", name, v.name, n)
					}
					n++
				}
			}
			if n != len(ours) || v.name != "dbx" && n == 0 {
				t.Errorf("%s: %s: %d entries, go-uefi has %d", name, v.name, len(ours), n)
			}
		}
	}
	if found == 0 {
		testenv.Missing(t, "Debian's package ovmf")
	}
}

func TestSignaturesRefuse(t *testing.T) {
	list := varstore.AppendList(nil, varstore.TypeX509, varstore.Global, []byte("certificate"))
	if s, err := varstore.Signatures(append(bytes.Clone(list), list...)); err != nil || len(s) != 2 || string(s[1].Data) != "certificate" {
		t.Errorf("two lists: %v %v", s, err)
	}
	for name, edit := range map[string]func([]byte) []byte{
		"cut":          func(b []byte) []byte { return b[:len(b)-1] },
		"no size":      func(b []byte) []byte { b[24], b[25] = 0, 0; return b },
		"odd size":     func(b []byte) []byte { b[24] = 17; return b },
		"large header": func(b []byte) []byte { b[20] = 0xff; return b },
		"small list":   func(b []byte) []byte { b[16] = 5; return b },
		"tail":         func(b []byte) []byte { return append(b, 1, 2, 3) },
	} {
		if s, err := varstore.Signatures(edit(bytes.Clone(list))); err == nil {
			t.Errorf("%s: %d entries, want an error", name, len(s))
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(image(variable{live, varstore.Global, "PK", varstore.AppendList(nil, varstore.TypeX509, varstore.Global, []byte("c"))}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := read(data)
		if err != nil {
			return
		}
		s.SecureBoot()
		for _, v := range s.Variables {
			varstore.Measured(v.GUID, v.Name, v.Data)
			_, _ = varstore.Signatures(v.Data)
		}
	})
}
