# SPDX-License-Identifier: LGPL-2.1-or-later
"""The linters, as tests. Each says what it would say on the command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unit.support import TREE, project_files


def clean(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=TREE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_check() -> None:
    clean(sys.executable, "-m", "ruff", "check", "--no-cache")


def test_ruff_format() -> None:
    clean(sys.executable, "-m", "ruff", "format", "--no-cache", "--check")


def test_mypy(tmp_path: Path) -> None:
    clean(sys.executable, "-m", "mypy", "--cache-dir", tmp_path)


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline()
    return path.suffix == ".sh" or (first.startswith(b"#!") and first.rstrip().endswith(b"sh"))


def test_shellcheck() -> None:
    tool = shutil.which("shellcheck")
    if not tool:
        pytest.skip("no shellcheck program")
    scripts = [path for path in project_files() if is_shell(path)]
    assert len(scripts) >= 5
    clean(tool, "-x", *scripts)


def test_every_python_file_compiles_for_the_oldest_python() -> None:
    clean(sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "E9", "--target-version", "py311")


def test_reuse() -> None:
    """Every file has a copyright and a licence, see reuse.software."""
    clean(sys.executable, "-m", "reuse", "lint")
