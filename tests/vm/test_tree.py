# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tests' operating systems, before they are deployed."""

from __future__ import annotations

import pytest

from vm.harness import guest, tree

pytestmark = pytest.mark.vm

HASH_BASED = 1  # a flag of bytecode, see PEP 552


@pytest.mark.parametrize("suite", guest.SUITES)
def test_bytecode_does_not_depend_on_the_time_of_its_source(suite: str) -> None:
    """ostree sets that time to zero. A guest would then compile the source at each start of Python, which takes it seconds."""
    files = list((tree.os_tree(suite) / "usr/lib").rglob("*.pyc"))
    assert len(files) > 100
    assert [file.name for file in files if not int.from_bytes(file.read_bytes()[4:8], "little") & HASH_BASED] == []
