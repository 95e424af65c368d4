package main

// flagGroups are the headings of help and the flags below each, in their order.
// A name with a verb in front is that verb's flag alone. A test finds a flag that
// has no place here.
var flagGroups = []struct {
	title string
	flags []string
}{
	{"Input", []string{
		"file", "dir", "tamper", "firmware", "kernel", "initrd", "cmdline", "compose", "docker-compose", "rootfs", "docker-files", "images", "uki", "disk",
		"deployment", "plan", "var", "previous", "skip", "image-store", "default-platform", "reference-values", "policy", "request", "kind", "workload", "rules", "settings", "config-file", "initdata", "runtime-class", "inspect",
		"models", "name", "files", "exclude", "normalize", "git", "commit", "metadata", "vm-config", "vars", "empty-vars", "secure-boot",
		"registry", "tls-cert", "nonce", "event-log", "form", "releases", "release", "profile", "snp measure all", "proxy-log all", "platform", "tags",
		"name-a", "name-b", "launch-digest", "family-id", "image-id", "guest-svn", "snp id-block policy", "id-key", "author-key", "contrast", "timeout",
		"one-vcpu-digest", "ap-eip", "ovmf-hash", "explain report", "hash-offset", "signature", "log-entry", "inputs", "listing", "model-sig", "new-key", "override-input",
	}},
	{"Search", []string{"search", "want", "try-rootfs"}},
	{"Shape of the machine", []string{
		"memory", "vcpus", "cpu", "mode", "vmm", "vcpu-type", "vcpu-sig", "vcpu-family", "vcpu-model", "vcpu-stepping", "guest-features", "machine-type",
		"address-bits", "devices", "slots", "root-ports", "gpus", "nics", "volumes", "nvswitches", "hugepages", "no-root-disk", "pci-hole64", "amd-cpu",
		"numa", "pxb", "pic", "com1", "no-com1", "smm", "hpet", "hotplug-off", "qemu", "svsm", "vars-size",
	}},
	{"How hypervisor, firmware and loader behave", []string{
		"acpi", "acpi-source", "acpi-family", "page-order", "read-on", "cfv", "hob", "exclude-acpi-tables", "trailing-separator", "six-table-loader",
		"patch-kernel", "kernel-as-given", "header-rule", "authenticode", "initrd-argument", "no-initrd", "quirk", "failed-options", "systemd",
		"inner-kernel", "phases", "credentials", "ima", "ima-pads", "sbat-level", "pattern",
	}},
	{"What the guest measures", []string{"app-id", "key-provider", "mr-config-id", "explain rtmr3", "tdx measure rtmr3", "events", "event-version", "app-disk", "app-ca"}},
	{"Boot from a disk", []string{"gpt", "shim", "grub", "loader", "loader-conf", "chain", "boot-order", "boot-entries", "mok-list", "mok-list-x", "mok-list-trusted"}},
	{"ID block", []string{"id-contrast", "id-family", "id-image", "id-svn", "id-policy"}},
	{"Policies", []string{"parity", "image-binding", "lenient", "ignore-unknown"}},
	{"Tree and error correction", []string{
		"format", "hash", "data-block-size", "hash-block-size", "data-blocks", "salt", "uuid", "no-superblock", "fec-device", "fec-offset", "fec-roots",
	}},
	{"Who is trusted, and when", []string{
		"at", "intel-root", "nvidia-root", "roots", "collateral", "certs", "crl", "vcek", "ak", "require", "accept-tcb", "test-root-ok", "mrseam", "service-td",
		"trusted-root", "key", "log-key", "signer", "identity", "issuer", "source", "builder",
	}},
	{"What must come out", []string{
		"expect", "golden", "gate policy", "checksum", "rebuild", "contrast cli rules", "contrast cli settings", "against", "against-image", "root-hash", "given", "log", "measured", "measurement", "manifest", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "holds", "expect-nar",
		"host-data", "os-image-hash", "app-root", "owner-key", "earlier", "capabilities", "proxy-image hashes", "ignore", "predicate-type", "subject", "artifact",
	}},
	{"Parts for other machines", []string{
		"parts", "part-size", "redundancy", "index", "count", "root", "worker", "audit", "wait", "shard slurm parallel", "shard job parallel",
		"shard slurm retries", "shard job retries", "sbatch", "dry-run", "image", "model-claim", "results-claim", "namespace", "cpus", "pod-memory", "kustomize",
	}},
	{"Registries", []string{"mirror", "ca", "store", "retries", "insecure", "pull", "image digest timeout", "image diff timeout", "policy generate timeout"}},
	{"How Nix builds", []string{"nix-store", "substituter", "trusted-key", "sandbox-path", "nix-option", "build-timeout", "one-store"}},
	{"Work", []string{"mkfs", "root-only", "all-files", "mem", "resume", "checkpoint", "fresh", "no-cache", "full", "parallel", "limit"}},
	{"Result", []string{
		"output", "digests", "out", "only", "pcr", "bank", "pcrlock", "trace", "write", "extract", "root-hash-file", "hashes", "report", "allow-unchecked", "compare release", "force",
	}},
	{"Every verb", []string{"quiet", "verbose", "color", "progress", "help", "version"}},
}

// mainFlags are those that help shows of a verb with many flags.
var mainFlags = map[string][]string{
	"endorsement verify": {"signature", "log-entry", "trusted-root", "key", "log-key", "identity", "issuer", "subject", "artifact", "at", "only", "output"},
	"gate":               {"file", "against", "policy", "previous", "log-key", "at", "out", "output", "report"},
	"manifest generate":  {"deployment", "profile", "plan", "images", "settings", "rules", "platform", "reference-values", "default-platform", "skip", "image-store", "output"},
	"run":                {"file", "against", "out", "only", "fresh", "test-root-ok", "output", "report", "allow-unchecked"},
	"disk":               {"exclude", "normalize", "mkfs", "models", "name", "files", "git", "model-sig", "signer", "listing", "digests", "write", "output", "report"},
	"evidence verify":    {"docker-compose", "docker-files", "rootfs", "registry", "tls-cert", "nonce", "event-log", "measured", "golden", "manifest", "at", "profile", "only", "output"},
	"explain":            {"report", "file", "search", "want", "profile", "firmware", "kernel", "initrd", "cmdline", "memory", "vcpus", "vcpu-type", "output"},
	"image diff":         {"ignore", "name-a", "name-b", "platform", "tags", "mirror", "store", "output", "report"},
	"image digest":       {"hashes", "platform", "tags", "mirror", "store", "output", "report", "allow-unchecked"},
	"policy generate":    {"file", "images", "settings", "rules", "config-file", "initdata", "parity", "profile", "pull", "mirror", "out", "output"},
	"snp measure":        {"mode", "vmm", "profile", "firmware", "kernel", "initrd", "cmdline", "vcpus", "vcpu-type", "guest-features", "expect", "trace", "output", "report"},
	"tdx measure":        {"profile", "metadata", "firmware", "kernel", "initrd", "cmdline", "compose", "rootfs", "memory", "vcpus", "only", "expect", "trace", "output"},
	"tpm predict":        {"firmware", "vars", "kernel", "uki", "disk", "initrd", "cmdline", "memory", "cpu", "pcr", "expect", "golden", "trace", "output"},
	"verity format":      {"hash", "salt", "uuid", "data-blocks", "hash-offset", "no-superblock", "root-hash-file", "fec-device", "output"},
	"verity verify":      {"hash", "salt", "data-blocks", "hash-offset", "no-superblock", "limit", "output", "report"},
	"policy check":       {"policy", "request", "kind", "workload", "rules", "image-binding", "output", "report", "allow-unchecked"},
	"demo":               {"dir", "tamper", "only", "output", "report", "no-cache"},
	"shard plan":         {"file", "parts", "part-size", "redundancy", "exclude", "mkfs", "normalize", "out", "output"},
	"shard slurm":        {"file", "parts", "part-size", "redundancy", "exclude", "out", "audit", "parallel", "wait", "retries", "sbatch", "dry-run", "output"},
	"shard job":          {"image", "model-claim", "results-claim", "name", "namespace", "parallel", "retries", "audit", "wait", "kustomize", "output"},
	"nix build":          {"nix-store", "substituter", "trusted-key", "sandbox-path", "override-input", "build-timeout", "expect-nar", "output", "report"},
	"nix check":          {"nix-store", "one-store", "substituter", "trusted-key", "sandbox-path", "override-input", "build-timeout", "output", "report"},
}

// examples are three command lines of each verb. TestExamples runs them in the
// folder that retally demo writes, with what else they name.
var examples = map[string][3]string{
	"": {
		"retally demo",
		"retally check deployment.yaml hashes-demo.json",
		"retally run -f retally.yaml --out out",
	},
	"endorsement verify": {
		"retally endorsement verify endorsement/statement.json --signature endorsement/statement.json.sig --log-entry endorsement/log-entry.json --key endorsement/endorser.pem --log-key endorsement/log.pem --artifact vm/tdx.csv --at 2026-06-01T00:00:00Z",
		"retally endorsement verify endorsement/statement.json --signature endorsement/statement.json.sig --key endorsement/endorser.pem --only signed,valid --at 2026-06-01T00:00:00Z",
		"retally endorsement verify endorsement/statement.json -o json",
	},
	"fleet": {
		"retally fleet vm/tdx.csv",
		"retally fleet vm/tdx.csv --inputs vm --report html=fleet.html",
		"retally fleet manifest.published.json -o json",
	},
	"demo": {
		"retally demo",
		"retally demo --tamper policy",
		"retally demo --dir demo -o json",
	},
	"check": {
		"retally check deployment.yaml hashes-demo.json",
		"retally check vm/cpu.html vm/tdx.csv vm/docker-compose.yaml",
		"retally check vendor --report html=report.html",
	},
	"init": {
		"retally init vendor",
		"retally init --profile privatemode checkout",
		"retally init --profile secretvm machine -o json",
	},
	"plan": {
		"retally plan",
		"retally plan -f retally.yaml -o json",
		"retally plan -f - < retally.yaml",
	},
	"run": {
		"retally run",
		"retally run --against manifest.published.json --report html=report.html",
		"retally run --only 'disk/**' --out out --fresh",
	},
	"compare": {
		"retally compare manifest.generated.json manifest.published.json",
		"retally compare retally-out/report.json out/report.json",
		"retally compare --release deployment.yaml next.yaml",
	},
	"explain": {
		"retally explain policy/Deployment/harbor-4f2a1c/workload-tinychat",
		`retally explain rtmr0 --search --firmware vm/OVMF.fd --want "$(cat rtmr0.txt)"`,
		`retally explain launch --search --firmware guest/OVMF-SNP.fd --want "$(cat launch.txt)"`,
	},
	"gate": {
		"retally gate",
		"retally gate --against manifest.published.json --report sarif=gate.sarif --report junit=gate.xml",
		"retally gate --policy gate.yaml --previous out/manifest.json -o json",
	},
	"image digest": {
		"retally image digest images/inference-proxy",
		"retally image digest images/* -o json",
		"retally image digest images/disk-mounter --hashes hashes-here.json",
	},
	"image diff": {
		"retally image diff images/disk-mounter images/inference-proxy",
		"retally image diff images/disk-mounter vendor/disk-mounter -o json",
		"retally image diff images/disk-mounter images/pause --report markdown=why.md",
	},
	"disk": {
		"retally disk models/harbor-tinychat-0-5b --normalize",
		"retally disk models/harbor-tinychat-0-5b --normalize --models models.yaml --name harbor-tinychat-0-5b",
		"retally disk models/harbor-tinychat-0-5b --normalize --write model.img -o json",
	},
	"releases add": {
		"retally releases add releases out --release v1.0 --key log.key --new-key example.com/releases",
		"retally releases add mirror retally-out --release v1.0 --key log.key --at 2026-01-01T00:00:00Z",
		"retally releases add public/releases out/report.json --release v1.0 --key log.key -o json",
	},
	"releases list": {
		"retally releases list releases",
		"retally releases list releases --log-key log.key.pub",
		"retally releases list releases --log-key log.key.pub -o json",
	},
	"releases check": {
		"retally releases check releases --log-key log.key.pub",
		"retally releases check releases --log-key log.key.pub --against mirror",
		"retally releases check releases --log-key log.key.pub --against mirror/checkpoint --holds out/report.json",
	},
	"verity format": {
		"retally verity format disk.img",
		"retally verity format disk.img disk.verity --salt 0badc0de --root-hash-file root.hash",
		"retally verity format disk.img --hash sha512 -o json",
	},
	"verity verify": {
		`retally verity verify disk.img disk.verity "$(cat root.hash)"`,
		`retally verity verify disk.img disk.verity "$(cat root.hash)" -o json`,
		`retally verity verify disk.img disk.verity "$(cat root.hash)" --report json=verity.json`,
	},
	"verity dump": {
		"retally verity dump disk.verity",
		"retally verity dump disk.verity -o json",
		"retally verity dump disk.verity --hash-offset 0",
	},
	"policy generate": {
		"retally policy generate -f pods.yaml --settings kata --images layouts",
		"retally policy generate -f pods.yaml --settings kata --images layouts --out made",
		"retally policy generate -f - --settings kata --images layouts --rules rules.rego -o json < pods.yaml",
	},
	"policy check": {
		"retally policy check --policy policies/workload-tinychat.initdata.toml --request exec.json",
		"retally policy check --policy policies/workload-tinychat.initdata.toml --request exec.json -v",
		"retally policy check --policy policies/secret-service.initdata.toml --request remove.json --kind RemoveContainerRequest -o json",
	},
	"policy diff": {
		"retally policy diff policies/workload-tinychat.initdata.toml policies/secret-service.initdata.toml",
		"retally policy diff policies/workload-tinychat.initdata.toml policies/secret-service.initdata.toml -v",
		"retally policy diff policies/workload-tinychat.initdata.toml policies/workload-tinychat.initdata.toml -o json",
	},
	"policy show": {
		"retally policy show policies/workload-tinychat.initdata.toml",
		"retally policy show - < policies/secret-service.initdata.toml",
		"retally policy show policies/workload-tinychat.initdata.toml -o json",
	},
	"manifest adjust": {
		"retally manifest adjust --plan adjustments.yaml --deployment deployment.yaml manifest.generated.json",
		"retally manifest adjust --plan adjustments.yaml --deployment deployment.yaml - < manifest.generated.json",
		"retally manifest adjust --plan adjustments.yaml --deployment deployment.yaml manifest.generated.json -o json",
	},
	"manifest generate": {
		"retally manifest generate --deployment deployment.yaml --profile contrast-1.20.0",
		"retally manifest generate --deployment deployment.yaml --profile contrast-1.12.1 --images images --settings kata --rules rules.rego -o json",
		"retally manifest generate --deployment - --profile contrast-1.20.0 --default-platform metal-qemu-snp < deployment.yaml",
	},
	"manifest check": {
		"retally manifest check manifest.published.json",
		"retally manifest check manifest.published.json --owner-key owner.pem",
		"retally manifest check - -o json < manifest.published.json",
	},
	"tdx measure": {
		"retally tdx measure --profile secretvm --firmware vm/OVMF.fd --kernel vm/bzImage --initrd vm/initrd.cpio --memory 2G --vcpus 1",
		"retally tdx measure --profile secretvm --firmware vm/OVMF.fd --only mrtd --trace",
		"retally tdx measure --profile contrast-1.20 --kernel vm/bzImage --only rtmr1 -o json",
	},
	"tdx replay": {
		"retally tdx replay ccel.bin",
		"retally tdx replay - -o json < ccel.bin",
		`retally tdx replay ccel.bin --expect rtmr0="$(cat rtmr0.txt)"`,
	},
	"tdx reproduce-mr": {
		"retally tdx reproduce-mr -fw vm/OVMF.fd -kernel vm/bzImage -initrd vm/initrd.cpio -memory 2G -cpu 1",
		"retally tdx reproduce-mr -fw vm/OVMF.fd -kernel vm/bzImage -dockercompose vm/docker-compose.yaml -rootfs vm/rootfs.img",
		"retally tdx reproduce-mr -fw vm/OVMF.fd -kernel vm/bzImage -json",
	},
	"snp measure": {
		"retally snp measure --firmware guest/OVMF-SNP.fd --kernel guest/bzImage --vcpus 1..8 --vcpu-type EPYC-Milan,EPYC-Genoa -o json",
		"retally snp measure --mode ovmf-hash --firmware guest/OVMF-SNP.fd",
		`retally snp measure --firmware guest/OVMF-SNP.fd --vcpus 1 --vcpu-type EPYC-Milan --expect "$(cat launch.txt)"`,
	},
	"snp id-block": {
		`retally snp id-block --launch-digest "$(cat launch.txt)" --contrast current`,
		`retally snp id-block --launch-digest "$(cat launch.txt)" --family-id prod --image-id v1 --guest-svn 1 --id-key id-key.pem -o json`,
		`retally snp id-block --launch-digest "$(cat launch.txt)" --policy 0x30000 --id-key id-key.pem --author-key author-key.pem`,
	},
	"tpm predict": {
		"retally tpm predict --kernel vmlinuz.efi --cmdline \"console=ttyS0\" --empty-vars --pcr 4,9",
		"retally tpm predict --uki linux.efi --empty-vars --pcr 4,11 --trace",
		"retally tpm predict --uki linux.efi --empty-vars --pcrlock ours.pcrlock -o json",
	},
	"tpm replay": {
		"retally tpm replay binary_bios_measurements",
		"retally tpm replay - -o json < binary_bios_measurements",
		`retally tpm replay binary_bios_measurements --expect pcr7="$(cat pcr7.txt)"`,
	},
	"tpm pcrlock": {
		"retally tpm pcrlock 650-uki.pcrlock",
		"retally tpm pcrlock ours.pcrlock 650-uki.pcrlock",
		"retally tpm pcrlock 650-uki.pcrlock -o json",
	},
	"evidence capture": {
		"retally evidence capture machine.example --out capture",
		"retally evidence capture machine.example:29343 --out capture-2 --timeout 20s",
		"retally evidence capture machine.example --out capture-3 -o json",
	},
	"evidence verify": {
		"retally evidence verify vm/cpu.html --registry vm/tdx.csv --docker-compose vm/docker-compose.yaml --tls-cert vm/tls.pem",
		"retally evidence verify guest/report.bin --only authentic --at 2026-06-01T00:00:00Z",
		"retally evidence verify vm/cpu.html --intel-root vm/test-root.pem --collateral vm/collateral.json --test-root-ok --only authentic -o json",
	},
	"inspect kernel": {
		"retally inspect kernel vm/bzImage",
		"retally inspect kernel vm/bzImage --memory 1G --initrd vm/initrd.cpio",
		"retally inspect kernel vm/bzImage -o json",
	},
	"inspect initrd": {
		"retally inspect initrd vm/initrd.cpio",
		"retally inspect initrd initramfs.cpio.gz",
		"retally inspect initrd vm/initrd.cpio -o json",
	},
	"inspect acpi": {
		"retally inspect acpi tables.bin",
		"retally inspect acpi tables.bin tables-of-another-host.bin",
		"retally inspect acpi tables.bin -o json",
	},
	"inspect firmware": {
		"retally inspect firmware guest/OVMF-SNP.fd",
		"retally inspect firmware vm/OVMF.fd",
		"retally inspect firmware guest/OVMF-SNP.fd -o json",
	},
	"inspect igvm": {
		"retally inspect igvm guest.igvm",
		"retally inspect igvm guest.igvm --trace",
		"retally inspect igvm guest.igvm guest-next.igvm",
	},
	"inspect uki": {
		"retally inspect uki linux.efi",
		"retally inspect uki linux.efi -o json",
		"retally inspect uki ./linux.efi --quiet",
	},
	"inspect disk": {
		"retally inspect disk image.raw",
		"retally inspect disk image.raw -o json",
		"retally inspect disk ./image.raw --quiet",
	},
	"contrast cli": {
		"retally contrast cli contrast --checksum contrast.sha256",
		"retally contrast cli contrast --against manifest.published.json -o json",
		"retally contrast cli contrast --extract embedded",
	},
	"nix build": {
		"retally nix build path:flake#image --sandbox-path /bin/sh=/bin/busybox",
		"retally nix build path:flake#image --sandbox-path /bin/sh=/bin/busybox --expect-nar sha256-HDfQGvQL4ugGkd48w99EN3ppmvuxfGjwgJZLL9Bx/BM=",
		"retally nix build path:flake#image --sandbox-path /bin/sh=/bin/busybox -o json",
	},
	"nix check": {
		"retally nix check path:flake#image --sandbox-path /bin/sh=/bin/busybox",
		"retally nix check path:flake#odd --sandbox-path /bin/sh=/bin/busybox --one-store",
		"retally nix check path:flake#image --sandbox-path /bin/sh=/bin/busybox --one-store --report junit=check.xml",
	},
	"nix hash": {
		"retally nix hash images/inference-proxy",
		"retally nix hash images/* -o json",
		"retally nix hash flake --expect-nar sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	},
	"nix diff": {
		"retally nix diff images/disk-mounter images/inference-proxy",
		"retally nix diff built release",
		"retally nix diff built release/SHA256SUMS -o json",
	},
	"proxy-log": {
		"retally proxy-log workspace",
		"retally proxy-log workspace --all",
		"retally proxy-log workspace/manifests -o json",
	},
	"proxy-image": {
		"retally proxy-image --inspect inspect.json --hashes proxy-hashes.json",
		"retally proxy-image --inspect - --hashes proxy-hashes.json < inspect.json",
		"retally proxy-image --inspect inspect.json",
	},
	"shard plan": {
		"retally shard plan models/harbor-tinychat-0-5b --parts 4 --out plan.json",
		"retally shard plan -f retally.yaml --redundancy 2",
		"retally shard plan models/harbor-tinychat-0-5b --part-size 1M -o json",
	},
	"shard run": {
		"retally shard run plan.json --index 0 --count 1",
		"SLURM_ARRAY_TASK_ID=0 retally shard run plan.json",
		"JOB_COMPLETION_INDEX=0 retally shard run plan.json --out retally-shards -o json",
	},
	"shard merge": {
		"retally shard merge plan.json retally-shards",
		"retally shard merge plan.json retally-shards --audit 25 --out merged.json",
		"retally shard merge plan.json retally-shards --wait 1s -o json",
	},
	"shard slurm": {
		"retally shard slurm models/harbor-tinychat-0-5b --dry-run",
		"retally shard slurm -f retally.yaml --parts 16 --redundancy 2 --dry-run",
		"retally shard slurm models/harbor-tinychat-0-5b --sbatch=--partition=cpu --audit 5 --dry-run -o json",
	},
	"shard job": {
		"retally shard job plan.json --image registry.example/retally@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --model-claim models --results-claim results",
		"retally shard job plan.json --image registry.example/retally@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --model-claim models --results-claim results --kustomize base",
		"retally shard job plan.json --image registry.example/retally@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --model-claim models --results-claim results --audit 5 -o json",
	},
	"cache": {
		"retally cache",
		"retally cache -o json",
		"RETALLY_CACHE=/tmp/retally-cache retally cache",
	},
	"cache clean": {
		"retally cache clean",
		"retally cache clean -o json",
		"RETALLY_CACHE=/tmp/retally-cache retally cache clean",
	},
	"doctor": {
		"retally doctor",
		"retally doctor -o json",
		"retally doctor --color never",
	},
	"version": {
		"retally version",
		"retally version -o json",
		"retally --version",
	},
}
