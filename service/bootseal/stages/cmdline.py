# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the kernel command line into a Request.

Quoting and white space follow lib/cmdline.c of the kernel. Only read() does I/O.
"""

from .. import layouts, verdicts
from ..errors import Refusal, failed
from ..values import BOOLEANS, Request, Wish

PATH = "/proc/cmdline"
SPACE = " \t\n\v\f\r"  # isspace() of the kernel; Python's str.isspace() accepts more
_OWN_PREFIX = "rd.bootseal."
LIST = "bootseal.root"
_NAMES = "ostree=, composefs=, composefs.digest= or bootseal.root="

Arguments = list[tuple[str, str | None]]


def read() -> str:
    """Read /proc/cmdline. Raises Refusal `internal`, because nothing works without /proc."""
    try:
        with open(PATH, "rb") as file:  # text mode would translate \r to \n
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise failed(error, verdicts.INTERNAL, "cannot read the kernel command line", PATH) from error


def parse(text: str) -> Request:
    """Parse a command line. Raises Refusal: `bad-command-line`, or `no-deployment` if it selects no image."""
    arguments = split(text)
    wishes, root_list = _find_wishes(arguments), _find_list(arguments)
    if not wishes and not root_list:
        raise Refusal(verdicts.NO_DEPLOYMENT, f"the kernel command line names no deployment ({_NAMES})", PATH)
    kinds = {wish.layout for wish in wishes} | ({LIST} if root_list else set())
    if len(kinds) > 1:
        raise _refusal("only one kind may be specified", _NAMES)
    volatile = _find_last(arguments, "systemd.volatile")
    return Request(wishes, root_list, _find_last(arguments, "init"), volatile, _parse_debug(arguments))


def split(text: str) -> Arguments:
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


def _find_wishes(arguments: Arguments) -> tuple[Wish, ...]:
    """Return what the arguments select, in order. Raises Refusal."""
    found: list[Wish] = []
    for key, value in arguments:
        if key not in layouts.KEYS:
            continue
        try:
            wish = layouts.parse(key, value)
        except ValueError as error:
            raise _refusal(str(error), f"{key}={(value or '')[:160]}") from None
        if wish not in found:
            found.append(wish)
    if len([wish for wish in found if wish.layout == "ostree"]) > 1:
        raise _refusal("specified more than once, with different values", "ostree=")
    return tuple(found)


def _find_list(arguments: Arguments) -> str:
    """Return the path of the list on the disk, below the physical root; empty without one. Raises Refusal."""
    values = {value for key, value in arguments if key == LIST}
    if not values:
        return ""
    path = (values.pop() or "") if len(values) == 1 else ""
    components = path.split("/")[1:]
    if not path.startswith("/") or not set(components).isdisjoint({"", ".", ".."}) or not path.isascii():
        raise _refusal("not one absolute path without empty, '.' or '..' components", f"{LIST}={path[:64]}")
    layouts.load_all()  # now, because there is time until the list can be read
    return path[1:]


def _find_last(arguments: Arguments, name: str) -> str:
    """Return the value of an argument of which the last one counts, as in the kernel and in systemd; empty without one."""
    return next((value for key, value in reversed(arguments) if key == name and value), "")


def _parse_debug(arguments: Arguments) -> bool:
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
