"""Runs sev-snp-measure on parameter sets, a JSON line each, and prints a JSON
line each: the digest, or the class of the error."""
import json
import sys

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_hashes import SevHashes
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType


def hashes(case):
    """Stands for kernel, initrd and command line where only hashes are known."""
    def make(kernel, initrd, append):
        h = SevHashes(kernel, initrd, append)
        for name in ("kernel_hash", "initrd_hash"):
            if case.get(name):
                setattr(h, name, bytes.fromhex(case[name]))
        return h
    return make


def run(case):
    if case["mode"] == "snp:ovmf-hash":
        return guest.calc_snp_ovmf_hash(case["ovmf"])
    if "fms" in case:
        sig = vcpu_types.cpu_sig(*case["fms"])
    elif "type" in case:
        sig = vcpu_types.CPU_SIGS[case["type"]]
    else:
        sig = case.get("sig", 0)
    guest.SevHashes = hashes(case)
    return guest.calc_launch_digest(
        SevMode.from_str(case["mode"]), case.get("vcpus", 0), sig, case["ovmf"], case.get("kernel"), case.get("initrd"),
        case.get("append"), case.get("features", 1), case.get("seed", ""), VMMType[case.get("vmm", "QEMU")],
        svsm_file=case.get("svsm", ""), ovmf_vars_size=case.get("vars", 0))


for line in sys.stdin:
    try:
        answer = {"digest": run(json.loads(line)).hex()}
    except Exception as e:  # the class is what is compared
        answer = {"error": type(e).__name__ + ": " + str(e)}
    print(json.dumps(answer))
