// Command bootinit is the first process of the machine that TestBoot boots. It
// prints what the TPM has over the serial console, and turns the machine off.
//
// Each line stands for itself, with a number, so that whatever the kernel prints
// in between does no harm: RETALLY <number> <CRC-32 of what follows> <word> <text>.
// Everything is printed twice.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

const pcrs = 24

func main() {
	defer off()
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"securityfs", "/sys/kernel/security"}} {
		_ = os.MkdirAll(m[1], 0o755)
		if err := syscall.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Println("bootinit: mount", m[1], err)
		}
	}
	// Nothing of the kernel's on the console from here on.
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("0 0 0 0"), 0)
	var lines [][2]string
	say := func(word, text string) { lines = append(lines, [2]string{word, text}) }
	for range 100 {
		if _, err := os.Stat("/sys/class/tpm/tpm0/pcr-sha256/0"); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	say("cmdline", base64.StdEncoding.EncodeToString(bytes.TrimSuffix(cmdline, []byte("\n"))))
	fault(say, err)
	for _, bank := range []string{"sha1", "sha256", "sha384", "sha512"} {
		for i := range pcrs {
			data, err := os.ReadFile(fmt.Sprintf("/sys/class/tpm/tpm0/pcr-%s/%d", bank, i))
			fault(say, err)
			say(fmt.Sprintf("%s.%d", bank, i), strings.ToLower(strings.TrimSpace(string(data))))
		}
	}
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	fault(say, err)
	for len(log) > 0 {
		n := min(len(log), 300)
		say("log", base64.StdEncoding.EncodeToString(log[:n]))
		log = log[n:]
	}
	fault(say, quote(say, nonce(string(cmdline))))
	say("done", fmt.Sprint(len(lines)))
	for range 2 {
		for i, l := range lines {
			text := l[0] + " " + l[1]
			fmt.Printf("\nRETALLY %d %08x %s\n", i, crc32.ChecksumIEEE([]byte(text)), text)
		}
	}
}

// nonce is what the command line has behind nonce=, in hex.
func nonce(cmdline string) []byte {
	for _, word := range strings.Fields(cmdline) {
		if text, ok := strings.CutPrefix(word, "nonce="); ok {
			b, _ := hex.DecodeString(text)
			return b
		}
	}
	return nil
}

// quote makes a restricted signing key and has it sign PCRs 0 to 15.
func quote(say func(word, text string), nonce []byte) error {
	dev, err := linuxtpm.Open("/dev/tpm0")
	if err != nil {
		return err
	}
	defer dev.Close()
	scheme := tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
	key, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Scheme: scheme, CurveID: tpm2.TPMECCNistP256}),
		}),
	}.Execute(dev)
	if err != nil {
		return err
	}
	public, err := key.OutPublic.Contents()
	if err != nil {
		return err
	}
	point, err := public.Unique.ECC()
	if err != nil {
		return err
	}
	all := make([]uint, 16)
	for i := range all {
		all[i] = uint(i)
	}
	q, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(all...)}}},
	}.Execute(dev)
	if err != nil {
		return err
	}
	signature, err := q.Signature.Signature.ECDSA()
	if err != nil {
		return err
	}
	say("ak", hex.EncodeToString(point.X.Buffer)+":"+hex.EncodeToString(point.Y.Buffer))
	say("quote", base64.StdEncoding.EncodeToString(q.Quoted.Bytes()))
	say("signature", hex.EncodeToString(signature.SignatureR.Buffer)+":"+hex.EncodeToString(signature.SignatureS.Buffer))
	return nil
}

func fault(say func(word, text string), err error) {
	if err != nil {
		say("fault", base64.StdEncoding.EncodeToString([]byte(err.Error())))
	}
}

// off waits until the console has drained, and turns the machine off: a first
// process that ends is a panic.
func off() {
	_ = os.Stdout.Sync()
	syscall.Sync()
	time.Sleep(time.Second)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
