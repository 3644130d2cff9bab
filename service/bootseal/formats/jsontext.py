# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write JSON (RFC 8259). Importing the standard library's json costs each boot 20 ms of processor time, for `re`."""

_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}


def write(value: object) -> str:
    """Write texts, numbers, truth values, and dictionaries and lists of them, on one line. Raises TypeError for others."""
    match value:
        case str():
            return f'"{"".join(map(_escape, value))}"'
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list():
            return f"[{', '.join(map(write, value))}]"
        case dict():
            return f"{{{', '.join(f'{write(name)}: {write(member)}' for name, member in value.items())}}}"
    raise TypeError(f"{type(value).__name__} in JSON")


def _escape(character: str) -> str:
    """Escape every character but printable ASCII. One beyond U+FFFF becomes two surrogates."""
    if " " <= character <= "~" and character not in _SHORT:
        return character
    return _SHORT.get(character) or "".join(f"\\u{unit:04x}" for unit in _split(ord(character)))


def _split(code: int) -> tuple[int, ...]:
    return (code,) if code < 0x10000 else (0xD800 + (code - 0x10000 >> 10), 0xDC00 + (code & 0x3FF))
