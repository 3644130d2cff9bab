# SPDX-License-Identifier: LGPL-2.1-or-later
"""The part of the benchmark that boots no guest runs, and finds what it measures."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from vm import bench, show
from vm.harness import signed

pytestmark = pytest.mark.vm


def test_digests_are_measured_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "SIZES_MIB", (1,))
    (row,) = bench.digest_table(tmp_path).splitlines()[1:]
    assert re.fullmatch(r"1 MiB( +\d+\.\d+){4}", row)
    assert capfd.readouterr().err == ""


def test_deployments_that_are_measured_would_boot(tmp_path: Path) -> None:
    for suffix, file in {"key": signed.key().key, "pem": signed.key().certificate}.items():
        shutil.copy(file, tmp_path / f"{show.SIGNER}.{suffix}")
    initrd = tmp_path / "thin"
    initrd.write_bytes(signed.thin_initrd("forky"))
    image = signed.image()
    line = bench.verify_here_line(bench.Bench(image, image.disk, image.disk, {"bootseal": initrd}, (0, 0)), tmp_path)
    assert re.fullmatch(r"verify --all, .*: \d+\.\d\d s \((verified|incomplete)\)", line)
