# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/ostree.py: where files are. test_deployments.py and test_command_deploy.py test the rest through their callers."""

from pathlib import Path

from bootseal.host.layouts import ostree
from bootseal.layouts import ostreebooted

from .roots import A, Root, set_booted

PATH = f"ostree/deploy/os/deploy/{A}.0"


def test_where_its_files_are() -> None:
    where = ostree.where(PATH, "/sysroot")
    beside = f"/sysroot/{PATH}/.ostree.cfs"
    assert (where.image_place, where.image, where.image_path) == (PATH, ".ostree.cfs", beside)
    assert (where.pair, where.pair_path, where.objects) == (".ostree.cfs", beside, "ostree/repo/objects")


def test_what_carries_no_signature_is_the_commit() -> None:
    what, hint = ostree.unsigned(PATH)
    assert what == f"the commit {A[:12]} carries no signature"
    assert "bootseal sign --repo=" in hint


def test_running(root: Root) -> None:
    path = root.add(A, 1)
    assert not ostree.is_running()
    assert not ostree.is_booted(path, str(root.top))
    set_booted(root, path)
    assert Path(ostreebooted.PATH).exists()
    assert ostree.is_running()
    assert ostree.is_booted(path, str(root.top))
