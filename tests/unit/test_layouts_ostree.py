# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/ostree.py: what fstab says of /var. test_deployment.py and test_mount.py test the rest through their stages."""

import os
from pathlib import Path

import pytest

from bootseal.layouts import ostree
from unit.support import root_config


@pytest.mark.parametrize(
    ("line", "own"),
    [(f"# x{end}UUID=1 /var ext4\n", False) for end in "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"]
    + [(f"UUID=1{blank}/var ext4\n", blank in " \t") for blank in " \t\v\f\r\x1c\x85\u00a0\u2028"],
)
def test_fstab_is_split_as_systemd_does(line: str, tmp_path: Path, *, own: bool) -> None:
    (tmp_path / "fstab").write_bytes(line.encode())
    etc = os.open(tmp_path, os.O_PATH)
    assert ostree._mounts_var(etc) is own
    os.close(etc)


def test_source() -> None:
    assert ostree.source("ab", root_config(root_transient=True)) == "composefs:ab"
