# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layouts of a physical root: how the command line selects an image, where its signature is, and what is mounted beside it.

Each layout is a module. The stages call the functions of Layout instead of comparing names.
"""

from ..values import Wish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ..values import Deployment, Plan, Request, RootConfig

    class Layout(Protocol):
        """A layout; `TRANSIENT_ROOT` is the directory in /run with the upper layer of a transient root."""

        TRANSIENT_ROOT: str

        def parse(self, key: str, value: str) -> str:
            """Return what an argument selects, for Wish. Raises ValueError, with a text for people."""

        def locate(self, what: str, request: Request, config: RootConfig, sysroot: str) -> Deployment:
            """Open the directories of a deployment, without leaving the physical root.

            It reads no file. Raises Refusal: `no-deployment`, `no-image`, `bad-image`, `unsupported`, `io-error`,
            `mount-failed`.
            """

        def source(self, image_digest: str, config: RootConfig) -> str:
            """Return the source of the root's mount, by which others know the image."""

        def plan(self, root: int, deployment: Deployment, config: RootConfig, request: Request) -> Plan:
            """Prepare what is mounted in the root. Raises OSError, Refusal."""


# Arguments of the kernel command line, and of a list on the disk.
KEYS = {"ostree": "ostree", "composefs": "composefs", "composefs.digest": "composefs"}
# The source of the root's mount, before the digest.
SOURCE, TRANSIENT_SOURCE = "composefs:", "transient:composefs="


def of(name: str) -> "Layout":
    """Return the layout of this name. Imported late, because a boot needs one of them."""
    if name == "composefs":
        from . import composefs

        return composefs
    from . import ostree

    return ostree


def load_all() -> None:
    """Import all layouts: a list can name each of them."""
    for name in KEYS.values():
        of(name)


def parse(key: str, value: str | None) -> Wish:
    """Return the wish of an argument in KEYS. Raises ValueError, with a text for people."""
    if not value:
        raise ValueError("empty")
    return Wish(KEYS[key], of(KEYS[key]).parse(key, value))


def digest_in(source: str) -> str:
    """Return the digest in hexadecimal that the source of a mount names; empty if the mount is not ours."""
    return next((source.removeprefix(one) for one in (SOURCE, TRANSIENT_SOURCE) if source.startswith(one)), "")
