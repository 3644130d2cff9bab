# SPDX-License-Identifier: LGPL-2.1-or-later
"""enable.py, with writable.py, on plain files. A model of fs-verity, inode flags and the superblock outlives a kill.

The model keeps the kernel's rules that matter: enabling is atomic and once for each inode (EEXIST), an immutable directory
takes no new name (EPERM), a superblock that is read-only takes nothing (EROFS), and a file that was enrolled with another
key cannot be opened (ENOKEY). The cut tests kill the process before every single step and let the next boot complete it.
"""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bootseal import digest
from bootseal.linux import blockdev, files, fsverity, mountapi
from bootseal.stages import enable, writable
from bootseal.values import Deployment, Verified
from unit.support import CHECKSUM, Sysroot, content, descriptors, oserror, raising, refusal, signature, verified

GOOD = verified()
KILLED = 9
NEW = f".bootseal-{CHECKSUM}.0.new"


class Disk:
    """The model. It keeps its state in files, which survive the death of a forked process."""

    def __init__(self, root: Sysroot, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._path = root, state
        self.enable_fails: list[int] = []
        self.os_fails = ""  # a function of the os module, at its first call on the disk
        self.reconfigure_fails = 0
        self.steps, self.kill_at = 0, -1
        self.order: list[str] = []  # of fsyncs and renames
        self.synced: list[int] = []
        self.cleared = 0
        self._save({"verity": {}, "gone": [], "immutable": [], "read_only": False})
        self._real_open_regular, self._os = files.open_regular, _Os(self)
        for module, names in {
            fsverity: ("measure", "stored_signature", "enable"),
            files: ("is_immutable", "set_immutable", "open_regular"),
            mountapi: ("clone", "set_attributes", "reconfigure"),
        }.items():
            for name in names:
                monkeypatch.setattr(module, name, getattr(self, name))
        monkeypatch.setattr(enable, "_superblock_is_read_only", lambda tree: self.state["read_only"])
        monkeypatch.setattr(enable, "MARKER", str(state.parent / "run/marker"))
        monkeypatch.setattr(enable, "os", self._os)
        monkeypatch.setattr(writable, "os", self._os)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._path.read_text())
        return state

    def _save(self, state: dict[str, Any]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self._path)

    def change(self, **changes: Any) -> None:
        self._save(self.state | changes)

    def forget(self, name: str, dir_fd: int) -> None:
        """Remove a name. With the last one, forget the inode, because its number will be reused."""
        try:
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if found.st_nlink == 1:
            state = self.state
            state["verity"].pop(str(found.st_ino), None)
            self.change(verity=state["verity"], gone=[i for i in state["gone"] if i != found.st_ino])

    def step(self, name: str = "") -> None:
        """Mark a step before each change. Here the power may fail, or the disk."""
        if self.steps == self.kill_at:
            os._exit(KILLED)
        self.steps += 1
        if name and name == self.os_fails:
            self.os_fails = ""
            raise oserror(errno.ENOSPC)

    def writable(self, directory: int | None = None) -> None:
        if self.state["read_only"]:
            raise oserror(errno.EROFS)
        if directory is not None and os.fstat(directory).st_ino in self.state["immutable"]:
            raise oserror(errno.EPERM)

    # fs-verity

    def _verity(self, fd: int) -> dict[str, Any]:
        found: dict[str, Any] | None = self.state["verity"].get(str(os.fstat(fd).st_ino))
        if found is None:
            raise oserror(errno.ENODATA)
        return found

    def measure(self, fd: int) -> tuple[int, bytes]:
        found = self._verity(fd)
        return found["algorithm"], bytes.fromhex(found["digest"])

    def stored_signature(self, fd: int, limit: int) -> bytes:
        assert limit == 16128
        return bytes.fromhex(self._verity(fd)["signature"])

    def enable(self, fd: int, algorithm: int, block_size: int, sig: bytes) -> None:
        assert block_size == 4096
        self.step()
        if self.enable_fails:
            raise oserror(self.enable_fails.pop(0))
        self.writable()
        inode = str(os.fstat(fd).st_ino)
        if inode in self.state["verity"]:
            raise oserror(errno.EEXIST)
        name = {1: "sha256", 2: "sha512"}[algorithm]
        value = digest.of_bytes(os.pread(fd, 4096, 0), name).value
        entry = {"algorithm": algorithm, "digest": value.hex(), "signature": sig.hex()}
        self.change(verity=self.state["verity"] | {inode: entry})

    def open_regular(self, dirfd: int, path: str, *, follow: bool = False) -> int:
        fd = self._real_open_regular(dirfd, path, follow=follow)
        if os.fstat(fd).st_ino in self.state["gone"]:
            os.close(fd)
            raise oserror(errno.ENOKEY)
        return fd

    # inode flags, mounts

    def is_immutable(self, fd: int) -> bool:
        return os.fstat(fd).st_ino in self.state["immutable"]

    def set_immutable(self, fd: int, *, immutable: bool) -> None:
        self.step()
        self.writable()
        inode = os.fstat(fd).st_ino
        self.change(immutable=[i for i in self.state["immutable"] if i != inode] + [inode] * immutable)

    def clone(self, fd: int) -> int:
        return os.dup(fd)

    def set_attributes(self, fd: int, *, set_: int = 0, clear: int = 0) -> None:
        assert (set_, clear) == (0, mountapi.MOUNT_ATTR_RDONLY)
        self.cleared += 1

    def reconfigure(self, dirfd: int, flag: str) -> None:
        self.step()
        if self.reconfigure_fails:
            raise oserror(self.reconfigure_fails)
        self.change(read_only=flag == "ro")

    # state for the tests

    @property
    def file(self) -> Path:
        return self.root.deploy / ".ostree.cfs.digest"

    def enabled_with(self) -> bytes | None:
        entry = self.state["verity"].get(str(self.file.stat().st_ino))
        return bytes.fromhex(entry["signature"]) if entry else None

    def leftovers(self) -> list[str]:
        return [name for name in os.listdir(self.root.deploy.parent) if name.startswith(".bootseal")]

    def mark_enrolled(self, sig: bytes) -> None:
        fd = os.open(self.file, os.O_RDONLY)
        self.enable(fd, 1, 4096, sig)
        os.close(fd)
        self.steps = 0


class _Os:
    """The os module, with steps and the model's rules in front of what changes the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and dir_fd is not None:
            self._disk.step("open")
            self._disk.writable(dir_fd)
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def write(self, fd: int, data: bytes) -> int:
        self._disk.step("write")
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        self._disk.step("fsync")
        self._disk.synced.append(os.fstat(fd).st_ino)
        self._disk.order.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))

    def link(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._disk.step("link")
        self._disk.writable(dst_dir_fd)
        os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        self._disk.step("rename")
        self._disk.writable(src_dir_fd)
        self._disk.writable(dst_dir_fd)
        self._disk.forget(target, dst_dir_fd)
        self._disk.order.append(f"{source} > {target}")
        os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._disk.step()
        if dir_fd is not None:
            self._disk.writable(dir_fd)
            self._disk.forget(path, dir_fd)
        os.unlink(path, dir_fd=dir_fd)


@pytest.fixture
def disk(sysroot: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    sysroot.write(".digest", content())
    return Disk(sysroot, tmp_path / "state.json", monkeypatch)


def prepared(disk: Disk, scenario: str) -> None:
    """Words of a scenario: read-only, immutable; enrolled unsigned, by another key, by a key that is gone."""
    if "unsigned" in scenario:
        disk.mark_enrolled(b"")
    if "other" in scenario or "gone" in scenario:
        disk.mark_enrolled(b"another signature")
    if "gone" in scenario:
        disk.change(gone=[disk.file.stat().st_ino])
    if "junk" in scenario:
        (disk.root.deploy.parent / NEW).write_text("junk")
    disk.change(
        read_only="read-only" in scenario, immutable=[disk.root.deploy.stat().st_ino] if "immutable" in scenario else []
    )


def enroll(disk: Disk, what: Verified = GOOD, where: Deployment | None = None) -> tuple[bool, int | None]:
    return enable.enroll(where or disk.root.located(), what, str(disk.file))


def is_complete(disk: Disk, scenario: str) -> None:
    assert disk.enabled_with() == GOOD.signature
    assert disk.file.read_bytes() == content()
    assert disk.leftovers() == []
    assert disk.state["read_only"] is ("read-only" in scenario)
    assert (disk.root.deploy.stat().st_ino in disk.state["immutable"]) is ("immutable" in scenario)
    assert not os.path.exists(enable.MARKER)


SCENARIOS = [
    "plain", "plain immutable", "plain read-only", "plain read-only immutable junk",
    "unsigned", "unsigned immutable", "other immutable", "other read-only immutable", "gone", "gone immutable",
    "gone read-only immutable", "gone immutable junk",
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_first_boot_and_second(scenario: str, disk: Disk) -> None:
    prepared(disk, scenario)
    assert enroll(disk)[0] is True
    is_complete(disk, scenario)
    disk.steps = 0
    assert enroll(disk) == (False, 0)
    assert disk.steps == 0, "the second boot writes nothing"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_place_where_that_is_possible(scenario: str, disk: Disk) -> None:
    prepared(disk, scenario)
    before = disk.file.stat().st_ino
    enroll(disk)
    assert (disk.file.stat().st_ino == before) is scenario.startswith("plain")


@pytest.mark.parametrize(
    ("scenario", "synced"),
    [
        ("plain", ["file", "file", "directory"]),
        ("plain read-only", ["file"]),  # to become read-only writes out all else
        ("gone", ["file", "directory"]),
        ("gone read-only", []),
    ],
)
def test_what_is_written_out(scenario: str, synced: list[str], disk: Disk) -> None:
    prepared(disk, scenario)
    enroll(disk)
    inodes = {"file": disk.file.stat().st_ino, "directory": disk.root.deploy.stat().st_ino}
    assert disk.synced == [inodes[name] for name in synced]


@pytest.mark.parametrize(("scenario", "cleared"), [("plain", 1), ("gone read-only immutable", 1)])
def test_the_own_mount_is_writable(scenario: str, cleared: int, disk: Disk) -> None:
    """That of /sysroot may be read-only while its superblock is not."""
    prepared(disk, scenario)
    enroll(disk)
    assert disk.cleared == cleared


@pytest.mark.parametrize(
    ("figures", "written"), [([10, 30], 20), ([None, 30], None), ([10, None], None), ([None, None], None), ([7, 7], 0)]
)
def test_bytes_written(figures: list[int | None], written: int | None, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enable, "_count_bytes_written", lambda fd: figures.pop(0))
    assert enroll(disk) == (True, written)


@pytest.mark.parametrize("scenario", ["other", "gone immutable"])
def test_a_new_file_is_written_out_before_its_name(scenario: str, disk: Disk) -> None:
    """Sync the file first. On btrfs, an fsync of the directory may write the name without the content."""
    prepared(disk, scenario)
    enroll(disk)
    assert disk.order[-2:] == [".ostree.cfs.digest", disk.root.deploy.name]


def steps_of(disk: Disk) -> int:
    """Count the steps of a whole run, in a process whose disk is discarded."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        enroll(disk)
        os.write(writer, bytes([disk.steps]))
        os._exit(0)
    os.close(writer)
    (steps,) = os.read(reader, 1)
    os.close(reader)
    os.wait()
    return steps


def killed_before(disk: Disk, step: int) -> None:
    child = os.fork()
    if child == 0:
        disk.kill_at = step
        try:
            enroll(disk)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED


def fresh(tmp_path: Path, scenario: str, monkeypatch: pytest.MonkeyPatch) -> Disk:
    root = Sysroot(tmp_path / "sysroot")
    root.write(".digest", content())
    made = Disk(root, tmp_path / "state.json", monkeypatch)
    prepared(made, scenario)
    return made


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_before_every_step(scenario: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "count").mkdir()
        steps = steps_of(fresh(tmp_path / "count", scenario, patch))
    assert steps >= 3
    for step in range(steps):
        with pytest.MonkeyPatch.context() as patch:
            place = tmp_path / str(step)
            place.mkdir()
            disk = fresh(place, scenario, patch)
            killed_before(disk, step)
            assert disk.file.read_bytes() == content(), "the name is never without its content"
            enable.restore_read_only(str(disk.root.path))
            assert disk.state["read_only"] is ("read-only" in scenario), f"step {step}"
            disk.steps = 0
            enroll(disk)
            is_complete(disk, scenario)


@pytest.mark.parametrize("scenario", ["plain", "other immutable", "gone read-only immutable"])
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EINVAL, errno.EKEYREJECTED, errno.ENOKEY, errno.EBADMSG, errno.EIO]
)
def test_errnos_of_enabling(number: int, scenario: str, disk: Disk) -> None:
    prepared(disk, scenario)
    disk.enable_fails = [number]
    with pytest.raises(enable.EnableFailed) as caught:
        enroll(disk)
    assert caught.value.error.errno == number
    assert disk.leftovers() == []
    assert disk.state["read_only"] is ("read-only" in scenario)
    assert disk.file.read_bytes() == content()
    assert (disk.root.deploy.stat().st_ino in disk.state["immutable"]) is ("immutable" in scenario)


@pytest.mark.parametrize("scenario", ["gone immutable", "gone read-only immutable junk"])
@pytest.mark.parametrize("name", ["open", "write", "link", "rename"])
def test_a_disk_that_fails_while_the_file_is_replaced(name: str, scenario: str, disk: Disk) -> None:
    """The same boot makes the directory immutable again and leaves no file; the next boot starts from the beginning."""
    prepared(disk, scenario)
    old = disk.file.stat().st_ino
    disk.os_fails = name
    with pytest.raises(enable.CannotWrite) as caught:
        enroll(disk)
    assert caught.value.error.errno == errno.ENOSPC
    assert (disk.file.stat().st_ino, disk.leftovers()) == (old, [])
    assert disk.root.deploy.stat().st_ino in disk.state["immutable"]
    assert disk.state["read_only"] is ("read-only" in scenario)
    enroll(disk)
    is_complete(disk, scenario)


def test_the_kernels_refusal_is_not_lost_when_the_disk_fails_too(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(*_: object) -> None:
        if not disk.enable_fails:
            raise enable.CannotWrite("completing", oserror(errno.EIO))

    prepared(disk, "gone immutable")
    monkeypatch.setattr(enable, "_complete_replacement", complete)
    disk.enable_fails = [errno.EKEYREJECTED]
    with pytest.raises(enable.EnableFailed):
        enroll(disk)


def test_an_interrupted_enabling_is_tried_once_more(disk: Disk) -> None:
    disk.enable_fails = [errno.EINTR]
    enroll(disk)
    is_complete(disk, "plain")


def test_and_not_for_ever(disk: Disk) -> None:
    disk.enable_fails = [errno.EINTR, errno.EINTR, errno.EINTR]
    with pytest.raises(enable.EnableFailed):
        enroll(disk)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EBUSY])
def test_a_superblock_that_stays_read_only(number: int, disk: Disk) -> None:
    prepared(disk, "plain read-only")
    disk.reconfigure_fails = number
    with pytest.raises(enable.CannotWrite) as caught:
        enroll(disk)
    assert caught.value.error.errno == number
    assert disk.enabled_with() is None
    assert not os.path.exists(enable.MARKER)


def test_a_refusal_outlives_a_superblock_that_stays_writable(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the refusal. The other error only makes enrolling impossible, and the boot would continue."""
    prepared(disk, "plain read-only")
    disk.enable_fails = [errno.EKEYREJECTED]

    def reconfigure(dirfd: int, flag: str) -> None:
        if flag == "ro":
            raise oserror(errno.EBUSY)
        disk.reconfigure(dirfd, flag)

    monkeypatch.setattr(mountapi, "reconfigure", reconfigure)
    with pytest.raises(enable.EnableFailed) as caught:
        enroll(disk)
    assert caught.value.error.errno == errno.EKEYREJECTED
    assert os.path.exists(enable.MARKER), "the clean-up tries again"


@pytest.mark.root
def test_an_immutable_physical_root_is_not_read_only(tmp_path: Path) -> None:
    """Image builders leave the root immutable. If it counted as read-only, /var would become read-only at the end."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        files.set_immutable(fd, immutable=True)
    except OSError:
        pytest.skip("the filesystem of the temporary directory has no inode flags")
    try:
        assert not enable._superblock_is_read_only(fd)
    finally:
        files.set_immutable(fd, immutable=False)


@pytest.mark.parametrize(
    "data", [b"x" * 32, content()[:31], content() + b"\0", b""], ids=["other", "shorter", "longer", "empty"]
)
def test_the_disk_gives_other_bytes_than_before(data: bytes, disk: Disk) -> None:
    deployment = disk.root.located()
    disk.file.write_bytes(data)
    found = refusal(enroll, disk, GOOD, deployment)
    assert (found.verdict.name, found.path) == ("io-error", str(disk.file))
    assert disk.enabled_with() is None


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_the_disk_fails_when_asked(number: int, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: int) -> tuple[int, bytes]:
        raise oserror(number)

    monkeypatch.setattr(fsverity, "measure", measure)
    with pytest.raises(enable.CannotWrite):
        enroll(disk)


def test_the_disk_fails_when_the_file_is_read_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "read_bounded", raising(errno.EIO))
    with pytest.raises(enable.CannotWrite) as caught:
        enroll(disk)
    assert (caught.value.step, caught.value.error.errno) == ("reading the digest file again", errno.EIO)


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_no_regular_file_any_more(kind: str, disk: Disk) -> None:
    """If the disk replaces the file after the read, the boot puts the verified digest there, or names the obstacle."""
    deployment = disk.root.located()
    disk.file.unlink()
    if kind == "fifo":
        os.mkfifo(disk.file)
    else:
        disk.file.symlink_to("/etc/passwd")
    enroll(disk, GOOD, deployment)
    is_complete(disk, "plain")


def test_enabled_with_this_signature_over_another_digest_does_not_count(disk: Disk) -> None:
    """Compare the digest and the signature, because the kernel reads both from the disk."""
    disk.mark_enrolled(GOOD.signature)
    entry = {str(disk.file.stat().st_ino): {"algorithm": 1, "digest": "00" * 32, "signature": GOOD.signature.hex()}}
    disk.change(verity=entry)
    assert enroll(disk)[0] is True


def test_a_leftover_link_of_somebody_else_is_removed_and_not_followed(disk: Disk, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep")
    prepared(disk, "other immutable")
    (disk.root.deploy.parent / NEW).symlink_to(victim)
    enroll(disk)
    assert victim.read_text() == "keep"
    is_complete(disk, "other immutable")


def test_restore_without_a_marker_does_nothing(disk: Disk) -> None:
    enable.restore_read_only(str(disk.root.path))
    assert disk.steps == 0


def test_restore_that_fails_keeps_the_marker(disk: Disk) -> None:
    Path(enable.MARKER).parent.mkdir()
    Path(enable.MARKER).touch()
    disk.reconfigure_fails = errno.EBUSY
    with pytest.raises(OSError, match="busy"):
        enable.restore_read_only(str(disk.root.path))
    assert Path(enable.MARKER).exists()


@pytest.mark.parametrize("scenario", ["plain", "unsigned", "other", "gone read-only immutable"])
def test_no_descriptor_is_left(scenario: str, disk: Disk) -> None:
    prepared(disk, scenario)
    deployment = disk.root.located()
    before = descriptors()
    enroll(disk, GOOD, deployment)
    assert descriptors() == before


def test_restore_leaves_no_descriptor(disk: Disk) -> None:
    Path(enable.MARKER).parent.mkdir()
    Path(enable.MARKER).touch()
    before = descriptors()
    enable.restore_read_only(str(disk.root.path))
    assert disk.state["read_only"]
    assert descriptors() == before


def test_a_signature_over_the_sha512_digest_of_the_file(disk: Disk) -> None:
    wide = GOOD._replace(signed=digest.of_bytes(content(), "sha512"), signature=signature("A-fsv512-p256"))
    assert enroll(disk, wide)[0] is True
    assert disk.enabled_with() == wide.signature
    assert [entry["algorithm"] for entry in disk.state["verity"].values()] == [2]
    assert enroll(disk, wide) == (False, 0)


def test_bytes_written_are_the_device_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []

    def stat_of(path: str, **_: str) -> Any:
        opened.append(path)
        return (tmp_path / "stat").open()

    (tmp_path / "stat").write_text("   11  12  13  14  15  16  17  18  19 20 21\n")
    monkeypatch.setattr(enable, "open", stat_of, raising=False)
    monkeypatch.setattr(blockdev, "number", lambda fd: os.makedev(252, fd))
    assert enable._count_bytes_written(3) == 17 * 512
    assert opened == ["/sys/dev/block/252:3/stat"]


def test_bytes_written_to_several_devices_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "number", lambda _: _raise(errno.ENODEV))
    assert enable._count_bytes_written(3) is None


def _raise(number: int) -> int:
    raise oserror(number)
