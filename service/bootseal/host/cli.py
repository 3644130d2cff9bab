# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line. Each command is a file of its own with add_arguments() and run()."""

import argparse
import os
import sys
from typing import NoReturn

from .. import __version__
from ..errors import Refusal
from . import output
from .output import USAGE, Failure

# Command: (module, one line of help). A module is imported when its command runs.
_COMMANDS = {
    "sign": "make IMAGE.digest and IMAGE.sig for a composefs image",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure(USAGE, f"Failed to read the command line: {message}", f"see '{self.prog} --help' and bootseal(8)")


def main(argv: list[str]) -> int:
    """Runs a command; returns its exit status."""
    try:
        return _main(argv)
    except Failure as failure:
        output.error(failure.what, failure.hint)
        return failure.status
    except Refusal as refusal:
        output.error(str(refusal), refusal.hint)
        return refusal.verdict.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain of it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(argv: list[str]) -> int:
    own, command = _split(argv)
    arguments = _parser().parse_args(own)
    if not arguments.command:
        raise Failure(USAGE, "Failed to read the command line: no command", f"one of {', '.join(_COMMANDS)}; see 'bootseal --help'")
    status: int = _module(arguments.command).run(arguments, command)
    return status


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is before the first "--", and what is after it."""
    where = argv.index("--") if "--" in argv else len(argv)
    return argv[:where], argv[where + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bootseal", description="Sign, deploy and check verified root file systems. See bootseal(8).", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bootseal {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, help_ in _COMMANDS.items():
        sub = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", allow_abbrev=False)
        sub.add_argument("--json", choices=("pretty", "short", "off"), default="off", help="how data is printed (default: off)")
        _module(name).add_arguments(sub)
    return parser


def _module(name: str):  # type: ignore[no-untyped-def]
    import importlib

    return importlib.import_module(f".{name}", __package__)
