# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scripts for guests, with a section of the report for each command: parse.sections() reads it."""

from __future__ import annotations

import base64
from pathlib import Path

# Before a script that says `told COMMAND...`: its exit status, and each line that it printed with where it went.
TOLD = """\
told() {
    status=0
    "$@" </dev/null >/run/guest-out 2>/run/guest-err || status=$?
    echo "status: $status"
    sed 's/^/out: /' /run/guest-out
    sed 's/^/err: /' /run/guest-err
}
"""


def ask(**commands: str) -> str:
    """Make a shell script whose report has one section for each command."""
    marked = "".join(f"printf '\\n=== {name}\\n'\n{command}\n" for name, command in commands.items())
    return "export SYSTEMD_COLORS=0\n" + marked


def put_file(path: str, content: bytes) -> str:
    """Make shell commands that make a file in the guest."""
    return f"mkdir -p {Path(path).parent}\nbase64 -d >{path} <<'END'\n{base64.encodebytes(content).decode()}END\n"
