# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line. Each command is a module of commands/ with add_arguments() and run().

A run imports the module of its command alone. Importing all of them takes longer than most commands do.
"""

import argparse
import contextlib
import importlib
import itertools
import keyword
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
    "import": "convert a signature of another program, and put it beside a composefs image",
    "deploy": "put digest and signature into a deployment, and enable fs-verity",
    "verify": "check whether a deployment would boot, and what it would lack",
    "gate": "refuse a staged deployment that would not boot (run by the units of ostree and bootc that finalize it)",
}

_JSON = ("pretty", "short", "off")
_POSITIONAL = ("image", "deployment", "source")


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
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _main(argv)
    except Failure as failure:
        return _fail(argv, failure.status, failure.what, failure.hint)
    except Refusal as refusal:
        return _fail(argv, refusal.verdict.exit_status, str(refusal), refusal.hint, refusal.verdict.name)
    except KeyboardInterrupt:
        return _die(signal.SIGINT)
    except _Ended as ended:
        return _die(ended.number)
    except Exception as error:  # a bug must not look like a verdict
        if "BOOTSEAL_DEBUG" in os.environ:
            raise
        if isinstance(error, OSError) and error.errno in DISK_FAILED | EXHAUSTED:
            what = f"Failed to go on: {reason(error)}" + (f": {error.filename}" if error.filename else "")
            return _fail(argv, IO_ERROR if error.errno in DISK_FAILED else OS_ERROR, what)
        what = f"Failed to go on: {error.__class__.__name__}: {error}"
        hint = "report this bug of bootseal with the output of a run with BOOTSEAL_DEBUG=1 in the environment"
        return _fail(argv, verdicts.INTERNAL.exit_status, what, hint)


def _fail(argv: list[str], status: int, what: str, hint: str = "", verdict: str = "") -> int:
    """Report a failure, with --json= on stdout as well, and return the exit status."""
    output.error(what, hint)
    value: dict[str, object] = {"version": 1, "message": what, "exit_status": status}
    value |= {name: text for name, text in (("hint", hint), ("verdict", verdict)) if text}
    with contextlib.suppress(Failure):  # stdout cannot be written; stderr has it
        output.emit(value, _find_json(_split(argv)[0]), "")
    return status


def _find_json(own: list[str]) -> str:
    """Return the mode of --json=, also where the command line has another mistake."""
    given = [word.removeprefix("--json=") for word in own if word.startswith("--json=")]
    given += [value for word, value in itertools.pairwise(own) if word == "--json"]
    return given[-1] if given and given[-1] in _JSON else "off"


def _main(argv: list[str]) -> int:
    own, command = _split(argv)
    arguments = make_parser(own).parse_args(own)
    if not arguments.command:
        raise Failure(
            USAGE, "Failed to read the command line: no command", f"use one of {', '.join(_COMMANDS)}; see 'bootseal --help'"
        )
    if command and arguments.command != "sign":
        raise Failure(USAGE, "Failed to read the command line: only 'sign --ephemeral=' can be used with a COMMAND")
    _refuse_empty(arguments)
    status: int = _module(arguments.command).run(arguments, command)
    return status


def _refuse_empty(arguments: argparse.Namespace) -> None:
    """Raise Failure for an empty value, such as of a variable that a script has not set. A command line may be empty."""
    for name, value in vars(arguments).items():
        if value == "" and name != "cmdline":
            shown = name.upper() if name in _POSITIONAL else f"--{name.replace('_', '-')}="
            raise Failure(USAGE, f"Failed to read the command line: {shown} is empty")


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
        sub.add_argument("--json", choices=_JSON, default="off", help="print data as JSON (default: off)")
        if name in named:
            _module(name).add_arguments(sub)
    return parser


def _module(command: str) -> ModuleType:
    """Import the module of a command. That of `import` has an underscore, because Python reserves the word."""
    return importlib.import_module(f".commands.{command}{'_' * keyword.iskeyword(command)}", __package__)
