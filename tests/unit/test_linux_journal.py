# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/journal.py: the bytes that reach the journal and the service manager."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootseal.linux import journal
from unit.support import raising


@pytest.fixture
def sock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(journal, "_JOURNAL", str(tmp_path / "s"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
        made.bind(str(tmp_path / "s"))
        yield made


ENTRIES = {
    "plain": ({"MESSAGE": "a b=c", "PRIORITY": "5"}, b"MESSAGE=a b=c\nPRIORITY=5\n"),
    "newline": ({"MESSAGE": "a\nb"}, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"),
    "empty": ({"MESSAGE": ""}, b"MESSAGE=\n"),
    "UTF-8": ({"MESSAGE": "ü"}, b"MESSAGE=\xc3\xbc\n"),
    "surrogate": ({"MESSAGE": "\udcff"}, b"MESSAGE=\\udcff\n"),
}


@pytest.mark.parametrize(("fields", "data"), ENTRIES.values(), ids=ENTRIES)
def test_entry_is_encoded(fields: dict[str, str], data: bytes, sock: socket.socket) -> None:
    assert journal.send(fields)
    assert sock.recv(4096) == data


def test_notify_sends_the_state(sock: socket.socket) -> None:
    assert journal.notify("STATUS=Verifying...")
    assert sock.recv(4096) == b"STATUS=Verifying..."


def test_notify_cuts_a_long_state(sock: socket.socket) -> None:
    """systemd would ignore a longer state and keep the STATUS of the previous stage."""
    assert journal.notify("STATUS=refused" + "x" * 5000)
    received = sock.recv(1 << 16)
    assert received.startswith(b"STATUS=refusedx")
    assert len(received) == 4096


def test_notify_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind("")  # the kernel chooses an abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + made.getsockname()[1:].decode())
        assert journal.notify("READY=1")
        assert made.recv(100) == b"READY=1"


@pytest.mark.parametrize("state", ["STATUS=\udcff", "STATUS=\ud800"])
def test_notify_escapes_surrogates(state: str, sock: socket.socket) -> None:
    """An exception would end the boot."""
    assert journal.notify(state)
    assert sock.recv(100).startswith(b"STATUS=")


def test_missing_socket_returns_false(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(journal, "_JOURNAL", str(tmp_path / "none"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert journal.send({"MESSAGE": "x"}) is False
    assert journal.notify("x") is False


def test_notify_without_a_service_manager_returns_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert journal.notify("x") is False


def test_full_socket_returns_false(sock: socket.socket) -> None:
    sent = sum(journal.send({"MESSAGE": "x" * 4000}) for _ in range(5000))
    assert 0 < sent < 5000


def test_failed_socket_returns_false(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "socket", raising(errno.EMFILE))
    assert journal.send({"MESSAGE": "x"}) is False


def test_descriptors_are_closed(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def make(*arguments: int) -> socket.socket:
        made.append(socket.socket(*arguments))
        return made[-1]

    monkeypatch.setattr(journal, "socket", make)
    journal.send({"MESSAGE": "x"})
    assert [each.fileno() for each in made] == [-1]
