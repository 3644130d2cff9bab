#!/usr/bin/python3 -I
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judge many cases with `bootseal verify`. Python imports it once, and each case runs in a child process.

The file named on the command line has the cases as a Python literal: shell commands before, arguments, shell commands after.
"""

import os
import subprocess
import sys
import traceback

sys.path.insert(0, "/usr/lib/bootseal")

from bootseal.host import cli
from bootseal.host.commands import verify  # noqa: F401  # so that no child imports it


def shell(script: str) -> None:
    subprocess.run(["sh", "-e"], input=script, text=True, check=True)


def run(arguments: list[str]) -> int:
    """Do what the program does, in a child process; return its exit status."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = cli.main(arguments)
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    with open(sys.argv[1]) as file:
        cases = eval(file.read())
    for number, before, arguments, after in cases:
        shell(before)
        print(f"\n=== case_{number}", flush=True)
        print("status", run(arguments), flush=True)
        shell(after)


main()
