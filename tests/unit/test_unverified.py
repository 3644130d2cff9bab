# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test unverified.py: files are read once, bounded, and only if they are regular."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootseal.digest import Digest
from bootseal.linux import files
from bootseal.stages import unverified
from bootseal.values import Unverified
from unit.support import Sysroot, content, errno_name, oserror, raising, refusal, sha256_digest, signature

SIGNATURE = signature("A-fsv-p256")
SUFFIXES = [".digest", ".sig"]


def never() -> Digest:
    raise AssertionError("the image was asked although the digest file can be read")


@pytest.fixture
def root(sysroot: Sysroot) -> Sysroot:
    sysroot.write(".digest", content())
    sysroot.write(".sig", SIGNATURE)
    return sysroot


def read(root: Sysroot, image: Callable[[], Digest] = never) -> Unverified:
    return unverified.read(root.located(), image)


def refused(root: Sysroot, suffix: str) -> str:
    found = refusal(read, root)
    assert found.path == f"{root.deploy}/.ostree.cfs{suffix}"
    return found.verdict.name


def test_bytes_as_they_are(root: Sysroot) -> None:
    assert read(root) == Unverified(content(), False, SIGNATURE, f"{root.deploy}/.ostree.cfs")


@pytest.mark.parametrize("size", [0, 1, 31, 33, 63, 64])
def test_sizes_up_to_the_largest_digest_are_left_to_verify(size: int, root: Sysroot) -> None:
    root.write(".digest", b"x" * size)
    assert read(root).digest == b"x" * size


@pytest.mark.parametrize("size", [0, 1, 16128])
def test_signatures_up_to_the_limit(size: int, root: Sysroot) -> None:
    root.write(".sig", b"x" * size)
    assert read(root).signature == b"x" * size


BAD = {".digest": "bad-digest", ".sig": "bad-signature"}


@pytest.mark.parametrize(("suffix", "verdict"), [(".digest", "no-digest"), (".sig", "no-signature")])
def test_missing(suffix: str, verdict: str, root: Sysroot) -> None:
    root.write(suffix, b"").unlink()
    assert refused(root, suffix) == verdict


@pytest.mark.parametrize(("suffix", "size"), [(".digest", 65), (".sig", 16129)])
def test_larger_than_the_limit(suffix: str, size: int, root: Sysroot) -> None:
    root.write(suffix, b"x" * size)
    assert refused(root, suffix) == BAD[suffix]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sparse_and_huge(suffix: str, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(root.write(suffix, b""), 1 << 40)
    deployment = root.located()
    reads: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        reads.append(size)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    found = refusal(unverified.read, deployment, never)
    assert found.verdict.name == BAD[suffix]
    assert max(reads, default=0) <= 16129


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["link", "dangling link", "link to /dev/zero", "directory", "fifo", "socket"])
def test_no_regular_file(suffix: str, kind: str, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root.write(suffix, b"")
    good = path.rename(path.with_name("good"))
    if kind == "link":
        path.symlink_to(good.name)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "link to /dev/zero":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    assert refused(root, suffix) == BAD[suffix]


@pytest.mark.root
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_device(suffix: str, root: Sysroot) -> None:
    path = root.write(suffix, b"")
    path.unlink()
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    assert refused(root, suffix) == BAD[suffix]


def test_hard_link_counts_by_content(root: Sysroot) -> None:
    path = root.write(".digest", b"")
    other = root.path / "other"
    other.write_bytes(content("digest-sha256-other"))
    path.unlink()
    os.link(other, path)
    assert read(root).digest == content("digest-sha256-other")


def grows(monkeypatch: pytest.MonkeyPatch, path: Path, data: bytes) -> None:
    """The file gets other content between fstat and read."""
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        path.write_bytes(data)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)


def test_grows_while_it_is_read(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root.write(".digest", content())
    grows(monkeypatch, path, b"x" * 100)
    assert refused(root, ".digest") == "bad-digest"


def test_shrinks_while_it_is_read(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root.write(".digest", content())
    grows(monkeypatch, path, b"x" * 31)
    assert read(root).digest == b"x" * 31


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EREMOTEIO])
def test_disk_fails_while_reading(suffix: str, number: int, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.read_bounded

    def read_bounded(fd: int, limit: int) -> bytes | None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(suffix):
            raise oserror(number)
        return real(fd, limit)

    monkeypatch.setattr(files, "read_bounded", read_bounded)
    assert refused(root, suffix) == "io-error"


def opening(monkeypatch: pytest.MonkeyPatch, suffix: str, number: int) -> None:
    real = files.open_regular

    def open_regular(dirfd: int, path: str, *, follow: bool = False) -> int:
        if path.endswith(suffix):
            raise oserror(number)
        return real(dirfd, path, follow=follow)

    monkeypatch.setattr(files, "open_regular", open_regular)


@pytest.mark.parametrize("number", [errno.ENOKEY, errno.EKEYREJECTED, errno.EBADMSG, errno.ENOPKG])
def test_enrolled_with_a_key_that_is_gone(number: int, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, ".digest", number)
    found = read(root, lambda: sha256_digest(7))
    assert found == Unverified(bytes([7]) * 32, True, SIGNATURE, f"{root.deploy}/.ostree.cfs")


def test_the_image_is_asked_only_then_and_may_refuse(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, ".digest", errno.ENOKEY)
    with pytest.raises(AssertionError):
        read(root)


OPENING = {
    **dict.fromkeys((errno.EIO, errno.EUCLEAN, errno.EILSEQ, errno.EINVAL, errno.EMSGSIZE), "io-error"),
    **dict.fromkeys((errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOMEM, errno.EMFILE, errno.ENFILE), "mount-failed"),
    errno.EOPNOTSUPP: "unsupported",
}
BARRED = {
    errno.ENOKEY: "bad-signature",
    errno.EKEYREJECTED: "bad-signature",
    errno.EBADMSG: "io-error",
    errno.ENOPKG: "unsupported",
}


@pytest.mark.parametrize("number", OPENING, ids=errno_name)
def test_other_errnos_of_opening_the_digest(number: int, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, ".digest", number)
    assert refused(root, ".digest") == OPENING[number]


@pytest.mark.parametrize("number", OPENING | BARRED, ids=errno_name)
def test_nothing_stands_in_for_the_signature(number: int, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, ".sig", number)
    assert refused(root, ".sig") == (OPENING | BARRED)[number]


def test_each_file_is_opened_and_read_once(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real: Any = files.open_regular

    def open_regular(dirfd: int, path: str) -> int:
        calls.append(path)
        fd: int = real(dirfd, path)
        return fd

    monkeypatch.setattr(files, "open_regular", open_regular)
    read(root)
    assert calls == [".ostree.cfs.digest", ".ostree.cfs.sig"]


def test_no_descriptor_is_left(root: Sysroot) -> None:
    deployment = root.located()
    before = os.listdir("/proc/self/fd")
    unverified.read(deployment, never)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_unreadable_errors_name_the_errno(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "read_bounded", raising(errno.EIO))
    assert "Input/output error (EIO)" in refusal(read, root).what


# --- signatures of the image itself

BOTH = ("digest-file", "image")


def test_digest_file_counts_first(root: Sysroot) -> None:
    found = unverified.read(root.located(), never, BOTH)
    assert (found.digest, found.stands_in, found.forms) == (content(), False, BOTH)


@pytest.mark.parametrize("signed", [BOTH, ("image",)])
def test_without_a_digest_file_the_image_is_asked(signed: tuple[str, ...], root: Sysroot) -> None:
    root.write(".digest", b"").unlink()
    found = unverified.read(root.located(), lambda: sha256_digest(7), signed)
    assert (found.digest, found.stands_in, found.forms) == (bytes([7]) * 32, False, ("image",))


def test_digest_file_that_does_not_count_is_not_read(root: Sysroot) -> None:
    root.write(".digest", b"x" * 100)
    assert unverified.read(root.located(), lambda: sha256_digest(7), ("image",)).digest == bytes([7]) * 32


def test_bad_digest_file_is_refused_where_it_counts(root: Sysroot) -> None:
    root.write(".digest", b"x" * 100)
    assert refusal(unverified.read, root.located(), never, BOTH).verdict.name == "bad-digest"


@pytest.mark.parametrize("signed", [BOTH, ("image",)])
def test_signature_is_needed_in_every_form(signed: tuple[str, ...], root: Sysroot) -> None:
    root.write(".sig", b"").unlink()
    assert refusal(unverified.read, root.located(), lambda: sha256_digest(7), signed).verdict.name == "no-signature"
