# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line. Each command is a file of its own with add_arguments() and run()."""

import argparse
import importlib
import os
import signal
import sys
import threading
from types import FrameType, ModuleType
from typing import NoReturn

from .. import __version__, verdicts
from ..errors import DISK_FAILED, EXHAUSTED, Refusal, reason
from . import output
from .output import IO_ERROR, OS_ERROR, USAGE, Failure

# Command, with one line of help; a module of commands/ has its name.
_COMMANDS = {
    "status": "show what verified this boot, what is not covered, and whether it is still so",
    "sign": "make IMAGE.digest and IMAGE.sig for a composefs image",
    "deploy": "put digest and signature into an ostree deployment, and switch on fs-verity",
    "verify": "say whether a deployment would boot, and what it would miss",
    "gate": "refuse a staged deployment that would not boot (run by ostree-finalize-staged.service)",
}


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        output.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        raise Failure(USAGE, f"Failed to read the command line: {message}", f"see '{self.prog} --help' and bootseal(8)")


class _Ended(BaseException):
    """A signal that ends the program, as KeyboardInterrupt does: what is temporary goes away first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended(number)


def _die(number: int) -> int:
    """By the signal itself: a shell's loop ends with Ctrl-C only if the program in it did."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # not reached


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status. The program calls it without arguments."""
    output.open_streams()
    if threading.current_thread() is threading.main_thread():  # Python's rule; who calls this elsewhere has its own
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
    except Exception as error:  # a bug must be told from a verdict
        if "BOOTSEAL_DEBUG" in os.environ:
            raise
        if isinstance(error, OSError) and error.errno in DISK_FAILED | EXHAUSTED:
            output.error(f"Failed to go on: {reason(error)}" + (f": {error.filename}" if error.filename else ""))
            return IO_ERROR if error.errno in DISK_FAILED else OS_ERROR
        what = f"Failed to go on: {error.__class__.__name__}: {error}"
        output.error(what, "this is a bug of bootseal: run it again with BOOTSEAL_DEBUG=1 in the environment, and report it")
        return verdicts.INTERNAL.exit_status


def _main(argv: list[str]) -> int:
    own, command = _split(argv)
    arguments = make_parser().parse_args(own)
    if not arguments.command:
        raise Failure(
            USAGE, "Failed to read the command line: no command", f"one of {', '.join(_COMMANDS)}; see 'bootseal --help'"
        )
    if command and arguments.command != "sign":
        raise Failure(USAGE, "Failed to read the command line: a COMMAND goes with 'sign --ephemeral=' only")
    status: int = _module(arguments.command).run(arguments, command)
    return status


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is before the first "--", and what is after it."""
    where = argv.index("--") if "--" in argv else len(argv)
    return argv[:where], argv[where + 1 :]


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; the completions are generated from it."""
    description = "Sign, deploy and check verified root file systems. See bootseal(8)."
    parser = _Parser(prog="bootseal", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bootseal {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, help_ in _COMMANDS.items():
        sub = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", allow_abbrev=False)
        sub.add_argument("--json", choices=("pretty", "short", "off"), default="off", help="how data is printed (default: off)")
        _module(name).add_arguments(sub)
    return parser


def _module(command: str) -> ModuleType:
    """The module of a command, with add_arguments() and run()."""
    return importlib.import_module(f".commands.{command}", __package__)
