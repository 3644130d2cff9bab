# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 1: the kernel command line -> Request. Pure but for read(); quoting as lib/cmdline.c of the kernel does it."""

from .. import verdicts
from ..errors import Refusal, failed
from ..values import Request

PATH = "/proc/cmdline"
SPACE = " \t\n\v\f\r"  # isspace() of the kernel; Python's str.isspace() accepts more
_OWN_PREFIX = "rd.bootseal."
_BOOLEANS = {
    None: True,
    "1": True,
    "yes": True,
    "true": True,
    "on": True,
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}


def read() -> str:
    """The text of /proc/cmdline. Raises Refusal `internal`: without /proc nothing works."""
    try:
        with open(PATH, "rb") as file:  # text mode would turn \r into \n
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise failed(error, verdicts.INTERNAL, "cannot read the kernel command line", PATH) from error


def parse(text: str) -> Request:
    """Raises Refusal: `bad-command-line` for what is malformed, `no-deployment` without any ostree=."""
    arguments = split(text)
    return Request(_ostree(arguments), _init(arguments), _debug(arguments))


def split(text: str) -> list[tuple[str, str | None]]:
    """The arguments up to "--" as (key, value); a bare key has the value None. Raises Refusal for an unbalanced quote."""
    arguments = []
    rest = text.rstrip("\n").lstrip(SPACE)
    while rest:
        word, rest = _next_word(rest)
        if word == "--":
            break
        arguments.append(_key_and_value(word))
    return arguments


def _next_word(text: str) -> tuple[str, str]:
    quoted = False
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character in SPACE and not quoted:
            return text[:position], text[position:].lstrip(SPACE)
    if quoted:
        raise _bad("a quotation mark is never closed", text[:64])
    return text, ""


def _key_and_value(word: str) -> tuple[str, str | None]:
    whole_quoted = word.startswith('"')
    if whole_quoted:
        word = word[1:].removesuffix('"')
    key, equals, value = word.partition("=")
    if equals and value.startswith('"'):
        value = value[1:].removesuffix('"')
    return key, value if equals else None


def _ostree(arguments: list[tuple[str, str | None]]) -> str:
    values = {value for key, value in arguments if key == "ostree"}
    if not values:
        raise Refusal(verdicts.NO_DEPLOYMENT, "the kernel command line names no deployment (ostree=)", PATH)
    if len(values) > 1:
        raise _bad("given more than once, with different values", "ostree=")
    target = values.pop()
    if not target:
        raise _bad("empty", "ostree=")
    _check_path(target)
    return target


def _check_path(target: str) -> None:
    what = "not an absolute path below /ostree/ without empty, '.' or '..' components"
    parts = target.split("/")
    if not target.startswith("/ostree/") or {"", ".", ".."} & set(parts[1:]):
        raise _bad(what, f"ostree={target}")
    if len(target) > 1024 or not all(" " <= c <= "~" for c in target):
        raise _bad("too long, or not printable ASCII", f"ostree={target[:64]}")


def _init(arguments: list[tuple[str, str | None]]) -> str:
    # The last one wins, as in the kernel and in systemd.
    return next((value for key, value in reversed(arguments) if key == "init" and value), "")


def _debug(arguments: list[tuple[str, str | None]]) -> bool:
    debug = False
    for key, value in arguments:
        name = key.replace("-", "_")
        if not name.startswith(_OWN_PREFIX):
            continue
        if name != _OWN_PREFIX + "debug":
            raise _bad("unknown; the only argument of bootseal is rd.bootseal.debug", key)
        if value not in _BOOLEANS:
            raise _bad("takes yes or no", f"{key}={value}")
        debug = _BOOLEANS[value]
    return debug


def _bad(what: str, argument: str) -> Refusal:
    return Refusal(verdicts.BAD_COMMAND_LINE, what, argument)
