# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check a finished initrd: the boot's own code reads its configuration and keyring there.

So a build fails where a boot would, and a module that is missing from the initrd is found out at once.
"""

import sys

from .errors import Refusal
from .stages import config, keyring, verify
from .values import Policy


def check() -> int:
    """Print the value of OnRefusal= and the required kernel options; return 0.

    On an error, print one line to stderr and return the exit status that the boot would have.
    """
    try:
        policy = config.load()
        verify.rehearse()
        trusted = keyring.load(config.certificates("/", keyring.DIRECTORY, keyring.SUFFIXES, policy.voa))
    except Refusal as refusal:
        print(f"{refusal.what}: {refusal.path}", file=sys.stderr)
        return refusal.verdict.exit_status
    if trusted.skipped:
        print(f"no usable certificate: {'; '.join(trusted.skipped)}", file=sys.stderr)
        return 78
    if policy.voa and not config.voa("/", policy.voa):
        print(f"[Keyring] VOA={policy.voa}: no certificate in voa/{policy.voa}/{config.VOA_PURPOSE}", file=sys.stderr)
        return 78
    print(policy.on_refusal, *kernel_options(policy))
    return 0


def kernel_options(policy: Policy) -> list[str]:
    """List, without CONFIG_, what every boot needs, and with Required=yes what enrolling needs."""
    options = ["FS_VERITY", "EROFS_FS", "OVERLAY_FS"]
    if policy.method != "none" and policy.required:
        options += ["FS_VERITY_BUILTIN_SIGNATURES", "ASYMMETRIC_PUBLIC_KEY_SUBTYPE"]
    return options
