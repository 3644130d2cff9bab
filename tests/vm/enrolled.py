# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask guest/enrolled.py about the digest file, and read its answers."""

from __future__ import annotations

from typing import Any

from vm.harness import guest, signed
from vm.harness.cache import SCRIPTS

AIDS = "/usr/lib/bootseal-test"
PROGRAM = (SCRIPTS / "enrolled.py").read_bytes()
LOOK: dict[str, guest.Content] = {f"{AIDS[1:]}/enrolled.py": PROGRAM}  # for an initrd
IN_INITRD = "/sysroot/sysroot"  # the physical root, below the verified one

_BESIDE = {"files": [signed.IMAGE, signed.DIGEST, signed.SIGNATURE]}
GONE: dict[str, Any] = {"opens": "ENOKEY", **_BESIDE}
PLAIN: dict[str, Any] = {"opens": True, "size": 32, "verity": False, **_BESIDE}
ENROLLED = {**PLAIN, "verity": True}


def look(verb: str, sysroot: str, aids: str = AIDS) -> str:
    """Make a command: `state` prints the state, `keep` and `reset` keep the file and put it back."""
    return f"python3 -I {aids}/enrolled.py {verb} {sysroot} {signed.image().deployment.path}"
