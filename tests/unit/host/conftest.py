# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share fixtures with all tests of the program, and the time limit of the other unit tests."""

from pathlib import Path

import pytest

from bootseal import paths
from bootseal.host.initrd import cache
from unit.conftest import _time_limit as _time_limit

from .imports import image_to_import as image_to_import
from .roots import outside as outside
from .roots import root as root
from .roots import signed_root as signed_root
from .roots import tree as tree
from .running import said as said
from .running import world as world
from .targets import target as target


@pytest.fixture(autouse=True)
def _no_cache_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests that run as root from writing to this machine's /run."""
    monkeypatch.setattr(cache, "DIRECTORY", str(tmp_path / "run/initrds"))
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
