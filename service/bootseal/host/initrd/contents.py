# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files that the caller asked for of an initrd, and a directory with them for the boot's own code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Contents(NamedTuple):
    """Answers about an initrd: files by path (None: masked by a link to /dev/null), and which names exist."""

    files: dict[str, bytes | None]
    names: dict[str, bool]

    def exists(self, name: str) -> bool:
        """Tell whether the initrd has this name. Raises KeyError for a name that was not asked for."""
        return self.names[name]


@contextmanager
def written_out(contents: Contents) -> Iterator[str]:
    """Make a temporary directory with these files for the boot's own code.

    A masked file is a link to /dev/null.
    """
    with TemporaryDirectory(prefix="bootseal-") as top:
        for path, content in contents.files.items():
            target = os.path.join(top, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if content is None:
                os.symlink("/dev/null", target)
            else:
                with open(target, "xb") as file:
                    file.write(content)
        yield top
