# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compile regular expressions of modules imported within Later() when they are first used.

cryptography compiles the grammar of RFC 4514 when it is imported, which takes a seventh of a boot's time. A boot never parses
such names.
"""

import re
from types import TracebackType
from typing import Any


class Later:
    """A context manager in which re.compile() only stores its arguments."""

    def __enter__(self) -> None:
        re.compile = _Pattern  # type: ignore[assignment]

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        re.compile = _compile


class _Pattern:
    """Compiles the pattern when an attribute is used."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._arguments, self._named = arguments, named

    def __getattr__(self, name: str) -> Any:
        return getattr(_compile(*self._arguments, **self._named), name)


_compile = re.compile
