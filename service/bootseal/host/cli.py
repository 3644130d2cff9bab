# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line. Each command is a module of commands/ with add_arguments() and run().

A run imports the module of its command alone. Importing all of them takes longer than most commands do.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Container
from types import FrameType, ModuleType
from typing import NoReturn

from .. import __version__, verdicts
from ..errors import DISK_FAILED, EXHAUSTED, Refusal, reason
from . import output
from .output import IO_ERROR, OS_ERROR, USAGE, Failure

# The help of each command; a module of commands/ has its name.
_COMMANDS = {
    "status": "show what verified this boot, what the signature does not cover, and what has changed since",
    "sign": "make IMAGE.digest and IMAGE.sig for a composefs image",
    "deploy": "put digest and signature into an ostree deployment, and enable fs-verity",
    "verify": "check whether a deployment would boot, and what it would lack",
    "gate": "refuse a staged deployment that would not boot (run by ostree-finalize-staged.service)",
}


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        output.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        raise Failure(USAGE, f"Failed to read the command line: {message}", f"see '{self.prog} --help' and bootseal(8)")


class _Ended(BaseException):
    """Ends the program after a signal. As an exception, it first removes temporary files, like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended(number)


def _die(number: int) -> int:
    """Die of the signal itself, because Ctrl-C ends a shell's loop only if the program in it died of it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # not reached


def main(argv: list[str] | None = None) -> int:
    """Run a command, and return its exit status. The installed program calls this without arguments."""
    output.open_streams()
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except Failure as failure:
        output.error(failure.what, failure.hint)
        return failure.status
    except Refusal as refusal:
        output.error(str(refusal), refusal.hint)
        return refusal.verdict.exit_status
    except KeyboardInterrupt:
        return _die(signal.SIGINT)
    except _Ended as ended:
        return _die(ended.number)
    except Exception as error:  # a bug must not look like a verdict
        if "BOOTSEAL_DEBUG" in os.environ:
            raise
        if isinstance(error, OSError) and error.errno in DISK_FAILED | EXHAUSTED:
            output.error(f"Failed to go on: {reason(error)}" + (f": {error.filename}" if error.filename else ""))
            return IO_ERROR if error.errno in DISK_FAILED else OS_ERROR
        what = f"Failed to go on: {error.__class__.__name__}: {error}"
        output.error(what, "report this bug of bootseal with the output of a run with BOOTSEAL_DEBUG=1 in the environment")
        return verdicts.INTERNAL.exit_status


def _main(argv: list[str]) -> int:
    own, command = _split(argv)
    arguments = make_parser(own).parse_args(own)
    if not arguments.command:
        raise Failure(
            USAGE, "Failed to read the command line: no command", f"use one of {', '.join(_COMMANDS)}; see 'bootseal --help'"
        )
    if command and arguments.command != "sign":
        raise Failure(USAGE, "Failed to read the command line: only 'sign --ephemeral=' can be used with a COMMAND")
    status: int = _module(arguments.command).run(arguments, command)
    return status


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first "--", and those after it."""
    where = argv.index("--") if "--" in argv else len(argv)
    return argv[:where], argv[where + 1 :]


def make_parser(named: Container[str] = _COMMANDS) -> argparse.ArgumentParser:
    """Make the parser of all commands, with the options of those in `named`. The completions are generated from it."""
    description = "Sign, deploy and check verified root file systems. See bootseal(8)."
    parser = _Parser(prog="bootseal", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bootseal {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, help_ in _COMMANDS.items():
        sub = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", allow_abbrev=False)
        sub.add_argument("--json", choices=("pretty", "short", "off"), default="off", help="print data as JSON (default: off)")
        if name in named:
            _module(name).add_arguments(sub)
    return parser


def _module(command: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(f".commands.{command}", __package__)
