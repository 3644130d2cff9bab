# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sign a unified kernel image on an EFI system partition, for firmware that starts nothing else.

The key is the one that Debian's ovmf package publishes for tests, with variables in which it is enrolled.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .cache import must_run, output_of
from .qemu import Firmware

_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")


def secure_boot(kernel: Path, initrd: Path, cmdline: str, work: Path) -> Firmware:
    """Make firmware with Secure Boot on, and one signed file with everything that it boots."""
    (work / "cmdline").write_text(cmdline)
    # The firmware hashes the file, and is slow at it.
    output_of("zstd", "-1", "-q", initrd, "-o", work / "initrd.zst")
    must_run("efi.sh", kernel, work / "initrd.zst", work / "cmdline", work / "esp.raw", work)
    shutil.copy(_VARIABLES, work / "variables.fd")
    return Firmware(_CODE, work / "variables.fd", work / "esp.raw")
