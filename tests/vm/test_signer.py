# SPDX-License-Identifier: LGPL-2.1-or-later
"""The packages on a Debian 12 that only signs: no systemd, no dracut, no ostree, no GLib. No guest is booted."""

from __future__ import annotations

from functools import cache

import pytest

from unit.host import repositories
from vm.harness import tree
from vm.harness.cache import CHECKOUT, must_run, scratch

pytestmark = pytest.mark.vm

VECTORS = CHECKOUT / "tests/vectors"


@cache
def _said() -> dict[str, str]:
    """Install and use them."""
    debs = [next(tree.packages().glob(f"{name}_*.deb")) for name in ("bootseal-common", "bootseal-tools")]
    with scratch() as work:
        (work / "out").mkdir()
        repositories.commit(repositories.repository(work / "repo"))
        must_run("signer.sh", tree.signer_tree(), work, work / "out", VECTORS, *debs)
        return {path.name: path.read_text() for path in (work / "out").iterdir()}


def test_nothing_else_is_needed() -> None:
    installed = set(_said()["packages"].split())
    assert {"bootseal-common", "bootseal-tools", "python3-cryptography"} <= installed
    assert [name for name in installed if name.startswith(("systemd", "dracut", "libglib2", "python3-gi", "ostree"))] == []


@pytest.mark.parametrize(
    ("name", "status"),
    [("sign", 0), ("verify", 0), ("other", 77), ("import", 0), ("status", 74), ("commit", 69), ("version", 0)],
)
def test_exit_status(name: str, status: int) -> None:
    assert _said()[name].splitlines()[-1] == f"status {status}", _said()[name]


def test_what_a_commit_would_need_is_said() -> None:
    assert "hint: install PyGObject and the typelib of ostree: on Debian python3-gi and gir1.2-ostree-1.0" in _said()["commit"]
