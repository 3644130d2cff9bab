# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define fixtures of several files, and skip tests that need root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bootseal.linux import console
from unit.support import Sysroot


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root on this machine")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


def _too_long(*_: object) -> None:
    # Not an OSError, which the code under test may catch.
    pytest.fail("the test hangs")


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """Fail a test that hangs, for example because it opens a FIFO instead of a file."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _close(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close what a test left open in its directory: a boot ends with its descriptors, and the tests are one process."""
    place = str(request.getfixturevalue("tmp_path")) if "tmp_path" in request.fixturenames else ""
    yield
    for name in os.listdir("/proc/self/fd") if place else ():
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(place + "/"):
                os.close(int(name))


@pytest.fixture(autouse=True)
def _no_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from writing to this machine's consoles."""
    monkeypatch.setattr(console, "CONSOLES", "/proc/none")
    monkeypatch.setattr(console, "CONSOLE", "/proc/none")


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    """Make a physical root with one deployment."""
    return Sysroot(tmp_path / "sysroot")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make an EROFS image with a small root; return its path. unit/mounting.py mounts it."""
    place = tmp_path_factory.mktemp("image")
    root = make_root(place)
    (root / "usr/etc").mkdir()
    (root / "usr/etc/hostname").write_text("pristine")
    (root / "usr/local").symlink_to("../var/usrlocal")
    (root / "usr/etc/systemd").symlink_to("../var/systemd")
    return make_erofs(place)


@pytest.fixture(scope="session")
def composefs_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make an EROFS image as bootc has it, with its /etc; return its path."""
    place = tmp_path_factory.mktemp("composefs-image")
    (make_root(place) / "etc/hostname").write_text("image")
    return make_erofs(place)


def make_root(place: Path) -> Path:
    for name in ("usr/lib/systemd", "etc", "var", "sysroot", "boot"):
        (place / "root" / name).mkdir(parents=True)
    (place / "root/usr/lib/systemd/systemd").write_bytes(b"init" * 3000)
    (place / "root/usr/lib/os-release").write_text("ID=debian\nVERSION_ID=13\n")
    return place / "root"


def make_erofs(place: Path) -> str:
    tool = shutil.which("mkfs.erofs")
    if not tool:
        pytest.skip("no mkfs.erofs program")
    subprocess.run([tool, "-d0", place / "image", place / "root"], check=True, capture_output=True)
    return str(place / "image")
