# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test image.py. This machine may lack fs-verity, so the answers of the kernel are injected."""

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bootseal.digest import Digest
from bootseal.linux import files, fsverity, mountapi
from bootseal.stages import image
from bootseal.values import Pinned, Verified
from unit.support import Sysroot, errno_name, oserror, raising, refusal, verified

VALUE = verified().digest.value


@pytest.fixture
def root(sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    """An ext4 whose kernel enforces the verified digest for the image."""
    sysroot.write("", b"image" * 1000)
    on(monkeypatch, "ext4")
    answers(monkeypatch, 1, VALUE)
    return sysroot


def on(monkeypatch: pytest.MonkeyPatch, fstype: str) -> None:
    monkeypatch.setattr(mountapi, "mount_of", lambda fd: SimpleNamespace(fstype=fstype))


def answers(monkeypatch: pytest.MonkeyPatch, number: int, value: bytes) -> None:
    monkeypatch.setattr(fsverity, "measure", lambda fd: (number, value))


def pin(root: Sysroot, what: Verified | None = None) -> Pinned:
    return image.pin(root.located(), what or verified())


def refused(root: Sysroot, call: Callable[[Sysroot], object] = pin) -> str:
    found = refusal(call, root)
    assert found.path == f"{root.deploy}/.ostree.cfs"
    return found.verdict.name


def enforced(root: Sysroot) -> Digest:
    return image.enforced_digest(root.located().image)


def test_pinned(root: Sysroot) -> None:
    found = pin(root)
    assert (found.path, found.size, found.verified) == (f"{root.deploy}/.ostree.cfs", 5000, verified())
    assert os.fstat(found.fd).st_ino == (root.deploy / ".ostree.cfs").stat().st_ino


def test_the_measured_descriptor_is_the_pinned_one(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(fd: int) -> tuple[int, bytes]:
        measured.append(fd)
        return 1, VALUE

    monkeypatch.setattr(fsverity, "measure", measure)
    assert measured == [] and [pin(root).fd] == measured


@pytest.mark.parametrize("fstype", ["ext4", "btrfs", "f2fs"])
def test_filesystems_of_the_kernel(fstype: str, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, fstype)
    pin(root)


@pytest.mark.parametrize(
    "fstype", ["fuse", "fuse.x", "fuseblk", "nfs4", "9p", "virtiofs", "overlay", "tmpfs", "xfs", "ext3", "EXT4", ""]
)
@pytest.mark.parametrize("call", [pin, enforced])
def test_other_filesystems_are_not_believed(
    fstype: str, call: Callable[[Sysroot], object], root: Sysroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, fstype)
    assert refused(root, call) == "unsupported"


@pytest.mark.parametrize("call", [pin, enforced])
def test_a_filesystem_that_is_not_in_the_mount_table(
    call: Callable[[Sysroot], object], root: Sysroot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a chroot, or if its line cannot be parsed."""

    def none(_: int) -> object:
        raise LookupError("mount 1")

    monkeypatch.setattr(mountapi, "mount_of", none)
    assert refused(root, call) == "unsupported"


ANSWERS = {
    "another digest": (1, bytes([VALUE[0] ^ 1]) + VALUE[1:]),
    "last bit": (1, VALUE[:-1] + bytes([VALUE[-1] ^ 1])),
    "SHA-512": (2, VALUE * 2),
    "SHA-512 with 32 bytes": (2, VALUE),
    "SHA-256 with 64 bytes": (1, VALUE * 2),
    "algorithm 0": (0, VALUE),
    "algorithm 3": (3, VALUE),
    "algorithm 65535": (65535, VALUE),
    "cut off": (1, VALUE[:31]),
    "longer": (1, VALUE + b"\0"),
    "empty": (1, b""),
}


@pytest.mark.parametrize(("number", "value"), ANSWERS.values(), ids=ANSWERS)
def test_another_answer(number: int, value: bytes, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, number, value)
    assert refused(root) == "image-mismatch"


def test_a_sha512_digest_wants_sha512(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = verified()._replace(digest=Digest("sha512", VALUE * 2))
    assert refusal(pin, root, wide).verdict.name == "image-mismatch"
    answers(monkeypatch, 2, VALUE * 2)
    assert pin(root, wide).verified is wide


def test_mismatch_prints_both_digests(root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 1, bytes(32))
    found = refusal(pin, root)
    assert "00" * 32 in found.what
    assert VALUE.hex() in found.what
    assert found.details == [("image has", "sha256:" + "00" * 32), ("signed is", f"sha256:{VALUE.hex()}")]


ERRNOS = {
    errno.ENODATA: "image-unsealed",
    errno.ENOTTY: "unsupported",
    errno.EOPNOTSUPP: "unsupported",
    errno.EOVERFLOW: "image-mismatch",
    errno.EIO: "io-error",
    errno.EUCLEAN: "io-error",
    errno.EBADMSG: "io-error",
    errno.ENOMEM: "mount-failed",
    errno.EINVAL: "image-mismatch",
}


@pytest.mark.parametrize("number", ERRNOS, ids=errno_name)
def test_errnos_of_measuring(number: int, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsverity, "measure", raising(number))
    assert refused(root) == ERRNOS[number]
    assert refused(root, enforced) == ERRNOS[number]


OPENING = {
    errno.ENOENT: "no-image",
    errno.ENOKEY: "bad-image",
    errno.EKEYREJECTED: "bad-image",
    **dict.fromkeys((errno.ENOTDIR, errno.ELOOP), "bad-image"),
    **dict.fromkeys((errno.EOPNOTSUPP, errno.ENOPKG), "unsupported"),
    **dict.fromkeys((errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENXIO, errno.EINVAL, errno.EMSGSIZE), "io-error"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EXDEV, errno.ENOMEM, errno.EMFILE, errno.ENFILE), "mount-failed"),
}


@pytest.mark.parametrize("number", OPENING, ids=errno_name)
def test_errnos_of_opening(number: int, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_regular(dirfd: int, path: str) -> int:
        raise oserror(number)

    monkeypatch.setattr(files, "open_regular", open_regular)
    assert refused(root) == OPENING[number]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_no_regular_file(kind: str, root: Sysroot) -> None:
    path = root.deploy / ".ostree.cfs"
    path.rename(path.with_name("real"))
    if kind == "link":
        path.symlink_to("real")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert refused(root) == "bad-image"


def test_missing(root: Sysroot) -> None:
    (root.deploy / ".ostree.cfs").unlink()
    assert refused(root) == "no-image"


def test_empty(root: Sysroot) -> None:
    root.write("", b"")
    assert refused(root) == "bad-image"


def test_enforced_digest(root: Sysroot) -> None:
    assert enforced(root) == verified().digest


ODD = {name: answer for name, answer in ANSWERS.items() if name not in ("another digest", "last bit", "SHA-512")}


@pytest.mark.parametrize(("number", "value"), ODD.values(), ids=ODD)
def test_an_odd_answer_never_stands_in(number: int, value: bytes, root: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 bytes of algorithm 2 would pass for a SHA-256 digest."""
    answers(monkeypatch, number, value)
    assert refused(root, enforced) == "image-mismatch"


def test_enforced_digest_leaves_no_descriptor(root: Sysroot) -> None:
    deployment = root.located()
    before = len(os.listdir("/proc/self/fd"))
    image.enforced_digest(deployment.image)
    assert len(os.listdir("/proc/self/fd")) == before


def test_for_real_without_fsverity(sysroot: Sysroot) -> None:
    """Never pin a file without fs-verity, on any filesystem that the test may run on."""
    sysroot.write("", b"image")
    assert refused(sysroot) in ("unsupported", "image-unsealed")


@pytest.mark.parametrize(
    ("wished", "verdict"), [(VALUE.hex(), ""), ("00" * 32, "image-mismatch"), ("00" * 64, "image-mismatch")]
)
def test_image_that_was_asked_for(wished: str, verdict: str, root: Sysroot) -> None:
    """The signature is right in each case: the command line, too, must mean this image."""
    located = root.located()._replace(wished=wished)
    if not verdict:
        assert image.pin(located, verified()).verified == verified()
        return
    found = refusal(image.pin, located, verified())
    assert (found.verdict.name, wished in found.what) == (verdict, True)
