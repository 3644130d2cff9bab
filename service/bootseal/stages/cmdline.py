# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the kernel command line into a Request.

Quoting and white space follow lib/cmdline.c of the kernel. Only read() does I/O.
"""

from .. import verdicts
from ..errors import Refusal, failed
from ..values import BOOLEANS, Request

PATH = "/proc/cmdline"
SPACE = " \t\n\v\f\r"  # isspace() of the kernel; Python's str.isspace() accepts more
_OWN_PREFIX = "rd.bootseal."


def read() -> str:
    """Read /proc/cmdline. Raises Refusal `internal`, because nothing works without /proc."""
    try:
        with open(PATH, "rb") as file:  # text mode would translate \r to \n
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise failed(error, verdicts.INTERNAL, "cannot read the kernel command line", PATH) from error


def parse(text: str) -> Request:
    """Parse a command line. Raises Refusal: `bad-command-line`, or `no-deployment` without ostree=."""
    arguments = split(text)
    return Request(_parse_ostree(arguments), _find_init(arguments), _parse_debug(arguments))


def split(text: str) -> list[tuple[str, str | None]]:
    """Split a command line into (key, value) pairs, up to "--".

    A bare key has the value None. Raises Refusal if a quotation mark is not closed.
    """
    arguments = []
    rest = text.rstrip("\n").lstrip(SPACE)
    while rest:
        word, rest = _take_word(rest)
        if word == "--":
            break
        arguments.append(_split_word(word))
    return arguments


def _take_word(text: str) -> tuple[str, str]:
    quoted = False
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character in SPACE and not quoted:
            return text[:position], text[position:].lstrip(SPACE)
    if quoted:
        raise _refusal("a quotation mark is not closed", text[:64])
    return text, ""


def _split_word(word: str) -> tuple[str, str | None]:
    whole_quoted = word.startswith('"')
    if whole_quoted:
        word = word[1:].removesuffix('"')
    key, equals, value = word.partition("=")
    if equals and value.startswith('"'):
        value = value[1:].removesuffix('"')
    return key, value if equals else None


def _parse_ostree(arguments: list[tuple[str, str | None]]) -> str:
    values = {value for key, value in arguments if key == "ostree"}
    if not values:
        raise Refusal(verdicts.NO_DEPLOYMENT, "the kernel command line names no deployment (ostree=)", PATH)
    if len(values) > 1:
        raise _refusal("specified more than once, with different values", "ostree=")
    target = values.pop()
    if not target:
        raise _refusal("empty", "ostree=")
    _check_path(target)
    return target


def _check_path(target: str) -> None:
    parts = target.split("/")
    if not target.startswith("/ostree/") or {"", ".", ".."} & set(parts[1:]):
        raise _refusal("not an absolute path below /ostree/ without empty, '.' or '..' components", f"ostree={target}")
    if len(target) > 1024 or not all(" " <= c <= "~" for c in target):
        raise _refusal("too long, or not printable ASCII", f"ostree={target[:64]}")


def _find_init(arguments: list[tuple[str, str | None]]) -> str:
    # The last one counts, as in the kernel and in systemd.
    return next((value for key, value in reversed(arguments) if key == "init" and value), "")


def _parse_debug(arguments: list[tuple[str, str | None]]) -> bool:
    debug = False
    for key, value in arguments:
        name = key.replace("-", "_")
        if not name.startswith(_OWN_PREFIX):
            continue
        if name != _OWN_PREFIX + "debug":
            raise _refusal("unknown; bootseal knows rd.bootseal.debug only", key)
        text = "yes" if value is None else value  # an argument without a value is true
        if text not in BOOLEANS:
            raise _refusal("must be yes or no", f"{key}={value}")
        debug = BOOLEANS[text]
    return debug


def _refusal(what: str, argument: str) -> Refusal:
    return Refusal(verdicts.BAD_COMMAND_LINE, what, argument)
