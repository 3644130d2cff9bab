# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/confined.py: links that a caller allows. test_deployment.py tests the rest through ostree's layout."""

import os
from pathlib import Path

import pytest

from bootseal.layouts import confined
from unit.support import refusal

TARGETS = {
    "relative": ("../os/var", True),
    "absolute": ("/os/var", True),
    "up and beyond the root": ("../../../../os/var", True),
    "outside": ("../../outside", False),
    "absolute outside": ("/etc", False),
    "itself": ("link", False),
    "of the kernel": ("/proc/self/root", False),
}


@pytest.mark.parametrize(("target", "inside"), TARGETS.values(), ids=TARGETS)
def test_link_to_a_directory(target: str, inside: bool, tmp_path: Path) -> None:  # noqa: FBT001
    root = tmp_path / "root"
    (root / "os/var").mkdir(parents=True)
    (root / "state").mkdir()
    (tmp_path / "outside").mkdir()
    (root / "state/link").symlink_to(target)
    top = confined.physical_root(str(root))
    assert refusal(confined.directory, top, "state/link", str(root)).verdict.name == "no-deployment"
    if inside:
        fd = confined.directory(top, "state/link", str(root), follow=True)
        assert os.fstat(fd).st_ino == (root / "os/var").stat().st_ino
        os.close(fd)
    else:
        found = refusal(confined.directory, top, "state/link", str(root), follow=True)
        assert (found.verdict.name, found.path) == ("no-deployment", f"{root}/state/link")
    os.close(top)


def test_a_directory_whose_name_is_longer_than_a_path_can_be(tmp_path: Path) -> None:
    """Links lead to it; the kernel then cannot tell its name."""
    fd, name = os.open(tmp_path, os.O_RDONLY), "d" * 250
    for number in range(20):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
        if number == 9:
            (tmp_path / "half").symlink_to("/".join([name] * 10))
    os.close(fd)
    (tmp_path / "link").symlink_to("half/" + "/".join([name] * 10))
    top = confined.physical_root(str(tmp_path))
    assert refusal(confined.resolve, top, "link", "link").verdict.name == "no-deployment"
    os.close(top)
