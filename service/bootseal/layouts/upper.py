# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make upper and work directory of an overlay, and return its options for them.

The merged directory has the permissions of the upper one, so everybody may enter that. The kernel alone uses the other.
"""

import os

from ..linux import files

_MODES = (("upper", 0o755), ("work", 0o700))
NAMES = tuple(name for name, _ in _MODES)


def in_run(directory: str) -> tuple[tuple[str, str], ...]:
    """Make them on the tmpfs at /run. Unprivileged users cannot enter a parent `.private`. Raises OSError."""
    if "/.private/" in directory:
        os.makedirs(os.path.dirname(directory), mode=0, exist_ok=True)
    for name, mode in _MODES:
        os.makedirs(f"{directory}/{name}", exist_ok=True)
        os.chmod(f"{directory}/{name}", mode)
    return tuple((f"{name}dir", f"{directory}/{name}") for name, _ in _MODES)


def on_disk(directory: int) -> tuple[tuple[str, str], ...]:
    """Make them in an open directory of the disk, which may have them already; neither may be a link. Raises OSError."""
    options = []
    for name, mode in _MODES:
        try:
            os.mkdir(name, mode, dir_fd=directory)
        except FileExistsError:
            pass
        options.append((f"{name}dir", f"/proc/self/fd/{files.open_directory(directory, name)}"))
    return tuple(options)
