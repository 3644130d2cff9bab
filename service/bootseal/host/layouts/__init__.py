# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layouts of bootseal.layouts as the program sees them on a disk that is not booting: lists, names, and what is staged."""

from collections.abc import Iterator
from typing import Protocol

from ...values import Deployment, Request, Wish
from ..carriers import Found, Unusable
from ..deployed import Boots, Deployed, Where
from ..inside import File
from . import composefs, ostree


class HostLayout(Protocol):
    """A layout. Paths are below the physical root `sysroot`."""

    STAGED: str

    def long_name(self, path: str) -> str:
        """Return the name of which a user may give the beginning."""

    def list_on_disk(self, sysroot: str) -> list[str]:
        """List the paths of deployments. Raises OSError."""

    def stamp(self, sysroot: str) -> object:
        """Return what changes with each new deployment, and not with what bootseal puts beside one."""

    def find_staged(self, sysroot: str) -> Deployed | None:
        """Return the staged deployment. Raises Failure if it is unreadable."""

    def is_running(self) -> bool:
        """Tell whether the running system was booted from this layout."""

    def is_booted(self, path: str, sysroot: str) -> bool:
        """Tell whether this deployment is running."""

    def follow(self, wish: Wish, sysroot: str) -> str:
        """Return the path of the deployment that an argument leads to. Raises OSError, Refusal."""

    def wish(self, path: str) -> Wish:
        """Return what asks for a deployment."""

    def where(self, path: str, sysroot: str) -> Where:
        """Return where its files are. Raises OSError, Refusal."""

    def locate_staged(self, path: str, request: Request, sysroot: str) -> Deployment | None:
        """Open a staged deployment, if its boot would open it in another way. Raises Refusal."""

    def find_initrds(self, path: str, sysroot: str) -> tuple[File, ...]:
        """Return an initrd in the deployment's own tree, if any."""

    def read_kernel_config(self, path: str, sysroot: str, size: int) -> tuple[str, bytes]:
        """Return place and first bytes of the kernel's configuration in a deployment's tree; both empty if it is missing."""

    def unsigned(self, path: str) -> tuple[str, str]:
        """Say that nothing carries a signature for a deployment, and what to do."""

    def signatures(self, path: str, image_digest: bytes, sysroot: str, boots: Boots) -> Iterator[Found | Unusable]:
        """Yield the signatures that came with the deployment. `boots` are the places of the boot loader."""

    def find_orphans(self, sysroot: str) -> list[str]:
        """List files of a killed process whose deployment is gone."""


ALL: dict[str, HostLayout] = {"ostree": ostree, "composefs": composefs}


def of(name: str) -> HostLayout:
    """Return the layout of this name, which a record may not have from us: ostree for any other."""
    return ALL.get(name, ostree)
