# SPDX-License-Identifier: LGPL-2.1-or-later
"""In the guest: every vector through the kernel's fs-verity, through its key check, and through our verifier.

Each as on its own, empty keyring. Prints one JSON line for all certificates and one for each vector; test_vectors.py
compares. Needs an open `.fs-verity` ([Keyring] Seal=no). Its own system calls (x86-64), so that no wrong number of ours goes
unnoticed.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/bootseal")
from bootseal.errors import Refusal
from bootseal.stages import keyring, verify
from bootseal.values import Unverified, Verified

VECTORS = Path(__file__).parent
ADD_KEY, KEYCTL = 248, 250
CLEAR, PKEY_VERIFY = 7, 28
PROCESS_KEYRING = -2
FS_IOC_ENABLE_VERITY = 0x40806685
ALGORITHMS = {"sha256": 1, "sha512": 2}
libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: Any) -> int:
    result = int(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def errno_of(call: Callable[..., Any], *arguments: Any) -> str:
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "OK"


def anchor() -> int:
    """The serial of `.fs-verity`."""
    for line in Path("/proc/keys").read_text().splitlines():
        fields = line.split(maxsplit=8)
        if fields[7] == "keyring" and fields[8].startswith(".fs-verity:"):
            return int(fields[0], 16)
    raise SystemExit("no .fs-verity keyring")


def enable(path: Path, algorithm: str, block_size: int, signature: bytes) -> None:
    """FS_IOC_ENABLE_VERITY with struct fsverity_enable_arg: version, hash, block, salt (none), signature."""
    blob = ctypes.create_string_buffer(signature, len(signature))
    address = ctypes.addressof(blob)
    argument = struct.pack("=IIIIQIIQ88x", 1, ALGORITHMS[algorithm], block_size, 0, 0, len(signature), 0, address)
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_ENABLE_VERITY, argument)
    finally:
        os.close(fd)


def judge(vector: dict[str, Any]) -> tuple[str, Verified | None]:
    """Our verdict."""
    content, signature = ((VECTORS / vector[name]).read_bytes() for name in ("content", "signature"))
    try:
        trusted = keyring.load([str(VECTORS / path) for path in vector["trust"]])
        return "accept", verify.verify(Unverified(content, False, signature, "/image"), trusted)
    except Refusal as refusal:
        return refusal.verdict.name, None


def check(verified: Verified) -> None:
    """KEYCTL_PKEY_VERIFY of what our verifier accepted, with the certificate that it named."""
    der = verified.signer.certificate.der
    key = syscall(ADD_KEY, b"asymmetric", b"checked", der, len(der), PROCESS_KEYRING)
    digest = hashlib.new(verified.hash_name, verified.signed.formatted()).digest()
    encoding = "pkcs1" if verified.signer.algorithm.startswith("rsa") else "x962"
    parameters = struct.pack("=iII7I", key, len(digest), len(verified.value), *[0] * 7)
    syscall(KEYCTL, PKEY_VERIFY, parameters, f"enc={encoding} hash={verified.hash_name}".encode(), digest, verified.value)


def loaded(ring: int, paths: list[str]) -> dict[str, str]:
    """What the kernel says to each certificate, loaded into an emptied keyring."""
    syscall(KEYCTL, CLEAR, ring)
    loads = {}
    for path in paths:
        der = (VECTORS / path).read_bytes()
        loads[path] = errno_of(syscall, ADD_KEY, b"asymmetric", b"", der, len(der), ring)
    return loads


def tried(vector: dict[str, Any], ring: int, scratch: Path) -> dict[str, Any]:
    loads = loaded(ring, vector["trust"])
    copy = scratch / vector["id"]
    copy.write_bytes((VECTORS / vector["content"]).read_bytes())
    signature = (VECTORS / vector["signature"]).read_bytes()
    kernel = errno_of(enable, copy, vector["hash_alg"], vector["block_size"], signature)
    verdict, verified = judge(vector)
    checked = errno_of(check, verified) if verified else ""
    return {"id": vector["id"], "loads": loads, "kernel": kernel, "userspace": verdict, "checked": checked}


def main() -> None:
    scratch = Path("/var/scratch")
    scratch.mkdir()
    ring = anchor()
    manifest = json.loads((VECTORS / "manifest.json").read_text())
    print(json.dumps({"id": "certificates", "loads": loaded(ring, [f"certs/{name}" for name in manifest["certificates"]])}))
    for vector in manifest["vectors"]:
        print(json.dumps(tried(vector, ring, scratch)), flush=True)


if __name__ == "__main__":
    main()
