# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the tests of guests, with the given options of pytest, and beside them all others, whose output follows at the end.

The two have a process each, because unit tests replace functions that the threads of the boots use.
"""

import shutil
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest"]


def main() -> int:
    with tempfile.TemporaryFile() as output:
        others = subprocess.Popen([*PYTEST, "tests/project", "tests/unit"], stdout=output, stderr=subprocess.STDOUT)
        guests = subprocess.run([*PYTEST, "tests/vm", *sys.argv[1:]], check=False).returncode
        status = others.wait()
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout.buffer)
    return guests or status


if __name__ == "__main__":
    sys.exit(main())
