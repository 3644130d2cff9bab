#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build and boot the guests of the tests.

guest.py build SUITE...   make the trees, the disk and an initrd
guest.py boot SUITE       boot to multi-user; the exit status is the guest's (123: passed)
guest.py shell SUITE      boot with the console on this terminal
guest.py clean            remove all that was built
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this package is
from vm.harness import guest, signed
from vm.harness.cache import clean


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("build", "boot", "shell", "clean"))
    parser.add_argument("suite", nargs="*", choices=guest.SUITES, metavar="SUITE")
    parser.add_argument("--modules", default="bootseal", choices=("bootseal", "ostree", "plain"))
    parser.add_argument("--fs", default="ext4", choices=("ext4", "btrfs"))
    parser.add_argument("--append", default="", help="more kernel arguments")
    return parser


def _built(options: argparse.Namespace, suite: str) -> tuple[guest.Image, Path]:
    """Build disk and initrd; for bootseal, sign the disk and put the certificate into the initrd."""
    if options.modules == "bootseal":
        return signed.image(suite, options.fs), signed.initrd(suite)
    return guest.image(suite, options.fs), guest.initrd(suite, options.modules).built()


def _run(options: argparse.Namespace, suite: str) -> int:
    disk, initrd_ = _built(options, suite)
    if options.verb == "boot":
        result = guest.boot(
            disk, initrd_, whole=True, append=options.append, script="uname -r\nfindmnt /\n", title=f"boot of {suite}"
        )
        print(result.console, result.report, sep="\n")
        print(f"guest: {suite}: {result.ended}, status {result.status}, {result.seconds:.0f} s", file=sys.stderr)
        return result.status
    if options.verb == "shell":
        return subprocess.run(guest.shell_command(disk, initrd_, options.append), check=False).returncode
    print(disk.disk, disk.kernel, initrd_, sep="\n")
    return 0


def main() -> int:
    """Run the command that the command line names."""
    options = _parser().parse_args()
    if options.verb == "clean":
        clean()
        return 0
    statuses = [_run(options, suite) for suite in options.suite or guest.SUITES]
    return statuses[0] if len(set(statuses)) == 1 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except guest.GuestError as error:
        sys.exit(f"guest: {error}")
