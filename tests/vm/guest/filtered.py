# SPDX-License-Identifier: LGPL-2.1-or-later
"""filtered.py UNIT: what the service does, below its unit's own SystemCallFilter=, with this suite's Python.

Expands the groups by this suite's systemd, loads the filter, and starts itself again. Prints what was done.
"""

import ctypes
import glob
import os
import subprocess
import sys
from collections.abc import Callable

sys.path.insert(0, "/usr/lib/bootseal")
HERE = os.path.dirname(os.path.abspath(__file__))
ALLOW, EPERM = 0x7FFF0000, 0x00050001  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)


def expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    members = {line.strip() for line in listed[1:] if line.startswith("    ") and not line.strip().startswith("#")}
    return set().union(*map(expanded, members))


def refused(unit: str) -> set[str]:
    """What the lines of the unit refuse, read in their order, as systemd does where the first begins with "~"."""
    names: set[str] = set()
    with open(unit, encoding="utf-8") as file:
        lines = [line.partition("=")[2].strip() for line in file if line.startswith("SystemCallFilter=")]
    assert lines[0].startswith("~")
    for line in lines:
        change = set().union(*map(expanded, line.lstrip("~").split()))
        names = names | change if line.startswith("~") else names - change
    return names


def load(names: set[str]) -> None:
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(ALLOW))
    for name in sorted(names):
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # a call of another architecture has none
            assert lib.seccomp_rule_add_exact(context, EPERM, number, 0) == 0, name
    assert lib.seccomp_load(context) == 0


def inside() -> None:
    import bootseal.boot
    import bootseal.failure  # noqa: F401
    from bootseal import libcrypto
    from bootseal.linux import files, keyctl, mountapi, syscall
    from bootseal.stages import keyring, physicalroot, verify
    from bootseal.values import BootKeyring, Unverified

    # As in an initrd. Elsewhere, libcrypto.py runs programs to find it.
    libcrypto.PATH = glob.glob("/usr/lib/*/libcrypto.so.*")[0]
    certificates = BootKeyring(tuple(keyring.load_file(f"{HERE}/p256.der")), ())
    with open(f"{HERE}/digest", "rb") as digest, open(f"{HERE}/signature", "rb") as signature:
        verify.verify(Unverified(digest.read(), False, signature.read(), "x"), certificates)
    print("verified")
    key = keyctl.add_key("user", "filtered", b"x", keyctl.PROCESS_KEYRING)
    assert keyctl.read(key) == b"x"
    print("keys")
    namespace = physicalroot.private_namespace()
    made = mountapi.new_filesystem("tmpfs", [("mode", "0700")], 0)
    mountapi.attach(made, mountapi.AT_FDCWD, "/mnt")
    mountapi.reconfigure(made, "ro")
    copy = mountapi.clone(made)
    mountapi.set_attributes(copy, set_=mountapi.MOUNT_ATTR_RDONLY)
    files.open_directory(made, ".")
    syscall.umount("/mnt", mountapi.MNT_DETACH)
    syscall.setns(namespace, mountapi.CLONE_NEWNS)
    print("mounted")
    forbidden: list[Callable[[], None]] = [
        lambda: os.chown("/mnt", 0, 0),
        lambda: os.chroot("/"),
        lambda: os.sched_setaffinity(0, {0}),
    ]
    for call in forbidden:
        try:
            call()
        except PermissionError:
            print("refused")


if len(sys.argv) == 1:
    inside()
else:
    load(refused(sys.argv[1]))
    os.execv("/usr/bin/python3", ["/usr/bin/python3", "-ISB", __file__])
