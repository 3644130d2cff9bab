# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/syscall.py: numbers and encodings are those of the kernel's headers."""

import errno
import os
import struct
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bootseal.linux import syscall
from unit.support import run_python

# FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_ENABLE_VERITY, FS_IOC_MEASURE_VERITY, FS_IOC_READ_VERITY_METADATA
IOCTLS = {
    "x86_64": (0x80086601, 0x40086602, 0x40806685, 0xC0046686, 0xC0286687),
    "aarch64": (0x80086601, 0x40086602, 0x40806685, 0xC0046686, 0xC0286687),
    "s390x": (0x80086601, 0x40086602, 0x40806685, 0xC0046686, 0xC0286687),
    "ppc64le": (0x40086601, 0x80086602, 0x80806685, 0xC0046686, 0xC0286687),
}


def on(monkeypatch: pytest.MonkeyPatch, machine: str, bits: int = 64) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    monkeypatch.setattr(struct, "calcsize", lambda _: bits // 8)


@pytest.mark.parametrize("machine", IOCTLS)
def test_ioctl_numbers_are_those_of_the_headers(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine)
    made = (
        syscall.ior("f", 1, 8),
        syscall.iow("f", 2, 8),
        syscall.iow("f", 133, 128),
        syscall.iowr("f", 134, 4),
        syscall.iowr("f", 135, 40),
    )
    assert made == IOCTLS[machine]


@pytest.mark.parametrize(
    ("machine", "numbers"),
    [("x86_64", (248, 250)), ("aarch64", (217, 219)), ("riscv64", (217, 219)), ("ppc64le", (269, 271)), ("s390x", (278, 280))],
)
def test_key_calls_of_each_architecture(machine: str, numbers: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine)
    assert syscall.key_calls() == numbers


@pytest.mark.parametrize(("machine", "bits"), [("m68k", 64), ("x86_64", 32)])
def test_key_calls_of_an_unknown_architecture_raise(machine: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine, bits)
    with pytest.raises(OSError, match="keyctl on") as caught:
        syscall.key_calls()
    assert caught.value.errno == errno.ENOSYS


def test_errno_is_raised_as_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        syscall.syscall(syscall.OPENAT2, -100, b"/nonexistent", bytes(24), 24)


def test_unknown_call_is_enosys() -> None:
    with pytest.raises(OSError, match="not implemented") as caught:
        syscall.syscall(100000)
    assert caught.value.errno == errno.ENOSYS


def test_oserror_has_the_class_of_its_errno() -> None:
    assert isinstance(syscall.oserror(errno.ENOENT), FileNotFoundError)
    assert syscall.oserror(errno.EIO, "x").filename == "x"


@pytest.mark.parametrize(
    "call",
    [
        lambda: syscall.setns(-1, 0),
        lambda: syscall.mount(None, "/nonexistent", None, 32),
        lambda: syscall.umount("/nonexistent", 0),
    ],
)
def test_failed_wrapper_raises(call: object) -> None:
    assert callable(call)
    with pytest.raises(OSError):
        call()


WRAPPERS: dict[str, Callable[[], object]] = {
    "syscall": lambda: syscall.syscall(1),
    "unshare": lambda: syscall.unshare(0),
    "setns": lambda: syscall.setns(3, 0),
    "mount": lambda: syscall.mount("a", "/b", None, 0),
    "umount2": lambda: syscall.umount("/b", 0),
}


@pytest.mark.parametrize(("name", "call"), WRAPPERS.items(), ids=WRAPPERS)
def test_only_negative_results_are_errors(name: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscall, "_LIBC", SimpleNamespace(**{name: lambda *_: 0}))
    call()
    monkeypatch.setattr(syscall, "_LIBC", SimpleNamespace(**{name: lambda *_: -1}))
    with pytest.raises(OSError):
        call()


@pytest.mark.root
def test_unshare_and_mount(tmp_path: object) -> None:
    code = (
        "import os,sys;from bootseal.linux import mountapi,syscall;syscall.unshare(mountapi.CLONE_NEWNS);"
        "syscall.mount(None,'/',None,mountapi.MS_REC|mountapi.MS_PRIVATE);syscall.mount('x',sys.argv[1],'tmpfs',0);"
        "print([m.fstype for m in mountapi.mounts() if m.target==sys.argv[1]]);syscall.umount(sys.argv[1],0);"
        "print([m.fstype for m in mountapi.mounts() if m.target==sys.argv[1]])"
    )
    assert run_python(code, str(tmp_path)) == "['tmpfs']\n[]\n"
