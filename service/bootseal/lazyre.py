# SPDX-License-Identifier: LGPL-2.1-or-later
"""Regular expressions that are compiled when they are first used, for modules imported within Later().

cryptography compiles the grammar of RFC 4514 when it is imported, which would be a seventh of a boot's time. No boot parses
such a name. Imports nothing of ours.
"""

import re
from types import TracebackType
from typing import Any


class Later:
    """Context manager: re.compile() only notes down what it was given."""

    def __enter__(self) -> None:
        re.compile = _Pattern  # type: ignore[assignment]

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        re.compile = _compile


class _Pattern:
    """Becomes a real pattern with the first attribute that is asked for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._arguments, self._named = arguments, named

    def __getattr__(self, name: str) -> Any:
        return getattr(_compile(*self._arguments, **self._named), name)


_compile = re.compile
