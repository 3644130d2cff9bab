# SPDX-License-Identifier: LGPL-2.1-or-later
"""linux/fsverity.py: the bytes that reach the kernel, with a stand-in for ioctl(2)."""

import ctypes
import errno
import fcntl
import struct
from collections.abc import Callable
from typing import Any

import pytest

from bootseal.linux import fsverity
from unit.support import oserror, raising


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[int, Any], int]) -> None:
    monkeypatch.setattr(fcntl, "ioctl", lambda fd, number, arg: answer(number, arg))


@pytest.mark.parametrize("signature", [b"", b"sig" * 100])
def test_enable(signature: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def ioctl(number: int, arg: Any) -> int:
        fields = struct.unpack("=IIIIQIIQ11Q", bytes(arg))
        version, algorithm, block, salt_size, salt, size, _, pointer, *reserved = fields
        given = ctypes.string_at(pointer, size) if pointer else b""
        seen.append((number & 0xFFFF, version, algorithm, block, salt_size, salt, size, given, sum(reserved)))
        return 0

    answering(monkeypatch, ioctl)
    fsverity.enable(3, 2, 4096, signature)
    assert seen == [(0x6685, 1, 2, 4096, 0, 0, len(signature), signature, 0)]


@pytest.mark.parametrize(("number", "size"), [(1, 32), (2, 64)])
def test_measure(number: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(_: int, arg: bytearray) -> int:
        assert arg[:4] == struct.pack("=HH", 0, 64)
        assert len(arg) == 68
        arg[: 4 + size] = struct.pack("=HH", number, size) + b"d" * size
        return 0

    answering(monkeypatch, ioctl)
    assert fsverity.measure(3) == (number, b"d" * size)


def test_a_size_beyond_the_buffer_reads_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(_: int, arg: bytearray) -> int:
        arg[:4] = struct.pack("=HH", 1, 65535)
        return 0

    answering(monkeypatch, ioctl)
    assert len(fsverity.measure(3)[1]) == 64


@pytest.mark.parametrize("number", [errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP, errno.EOVERFLOW])
def test_measure_fails(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", raising(number))
    with pytest.raises(OSError, match=r".") as caught:
        fsverity.measure(3)
    assert caught.value.errno == number


def test_stored_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(number: int, arg: Any) -> int:
        kind, offset, length, pointer, reserved = struct.unpack("=5Q", bytes(arg))
        assert (number & 0xFFFF, kind, offset, length, reserved) == (0x6687, 3, 0, 16128, 0)
        ctypes.memmove(pointer, b"signature", 9)
        return 9

    answering(monkeypatch, ioctl)
    assert fsverity.stored_signature(3, 16128) == b"signature"


def test_no_stored_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", raising(errno.ENODATA))
    assert fsverity.stored_signature(3, 16128) == b""


def test_stored_signature_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", raising(errno.EIO))
    with pytest.raises(OSError, match=str(oserror(errno.EIO).strerror)):
        fsverity.stored_signature(3, 16128)


def test_limits_of_the_kernel() -> None:
    from bootseal import digest
    from bootseal.formats import pkcs7

    assert pkcs7.MAX_SIZE == 16128
    assert {name: number for number, name in fsverity.ALGORITHMS.items()} == digest.NUMBERS
