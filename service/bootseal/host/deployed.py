# SPDX-License-Identifier: LGPL-2.1-or-later
"""A deployment on a physical root, as its boot entry describes it, and the places of its files."""

from typing import NamedTuple

from .. import paths
from .inside import File

# Directories that may be partitions of their own: a root, and a place below it.
Boots = tuple[tuple[str, str], ...]


class Deployed(NamedTuple):
    """A deployment, and its boot entry, if any.

    `path` is below the physical root, of the directory with digest and signature. `options` is the entry's kernel command line
    (None: without an entry), `initrds` its initrds. `state`: staged (finalized at shutdown), pending (boots next, and is not
    running), booted, or empty.
    """

    path: str
    state: str
    options: str | None
    initrds: tuple[File, ...]
    layout: str = "ostree"

    @property
    def name(self) -> str:
        """Return a name that is long enough for people."""
        return paths.name_of(self.path)


class Where(NamedTuple):
    """Where the files of a deployment are: directories below the physical root, and names in them.

    `pair`, in the deployment's own directory, is the name of digest and signature without their suffixes. `image_path` is for
    messages.
    """

    image_place: str
    image: str
    image_path: str
    pair: str
    pair_path: str
    objects: str


def orphans_among(names: list[str]) -> list[str]:
    """Return the names that bootseal made beside a deployment's directory which is not among them."""
    there = tuple(paths.work_prefix(name) for name in names)
    return [name for name in names if paths.is_work(name) and not name.startswith(there)]
