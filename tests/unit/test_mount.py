# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test mount.py on this machine's kernel, as root: a whole root is mounted, attached and detached.

Each test runs the code in a process with a root directory that looks like an initrd (unit/mounting.py). Files behind the
overlay's data layer need fs-verity, so the guests test them. The image of these tests contains its files.
"""

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from bootseal.linux import mountapi
from bootseal.stages import mount
from unit.mounting import in_initrd
from unit.support import CHECKSUM, TREE

pytestmark = pytest.mark.root


def test_root_is_mounted_and_attached(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
mounted, namespace = run(image)
print("verity=require" in mounted.options.split(","), mounted.not_covered, b"transient-etc" in mounted.ostree_booted)
mount.attach(mounted, namespace)
print(sorted(os.listdir("/sysroot")))
print(Path("/sysroot/etc/hostname").read_text(), Path("/sysroot/var/marker").read_text())
print(os.path.isdir("/sysroot/sysroot/ostree"))
print(writable("/sysroot/usr/x"), writable("/sysroot/etc/x"), writable("/sysroot/var/x"), writable("/sysroot/sysroot/x"))
print(mount.attached_digest() == verified().digest.value.hex(), os.path.exists(ostreebooted.PATH), os.path.exists(mount._STAGE))
""",
        image,
        tmp_path,
    )
    assert said == [
        "True ('/etc', '/var', '/boot', '/usr/local -> /var/usrlocal') False",
        "['boot', 'etc', 'sysroot', 'usr', 'var']",
        "deployed var",
        "True",
        "EROFS EROFS EROFS EROFS",  # mounting does not change the read-only superblock of the physical root
        "True True False",
    ]


def test_init_is_read_through_the_finished_overlay(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
mount.initcheck.check = lambda root, init, path: print(mountapi.mount_of(root).fstype, init, path == image)
run(image, init="/sbin/other")
""",
        image,
        tmp_path,
    )
    assert said == ["overlay /sbin/other True"]


def test_etc_and_var_are_writable_if_the_disk_is(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
for readonly in (True, False):
    syscall.mount(None, "/sysroot", None, 32)
    mounted, namespace = run(image, config(sysroot_readonly=readonly))
    mount.attach(mounted, namespace)
    print(writable("/sysroot/usr/x"), writable("/sysroot/etc/x"), writable("/sysroot/var/x"), writable("/sysroot/sysroot/x"))
    mount.detach()
""",
        image,
        tmp_path,
    )
    assert said == ["EROFS True True EROFS", "EROFS True True True"]


def test_etc_and_var_are_writable_on_a_read_only_mount(image: str, tmp_path: Path) -> None:
    """The initrd may mount the physical root read-only over a writable superblock. The booted system needs both places."""
    said = in_initrd(
        """
syscall.mount(None, "/sysroot", None, 32)
syscall.mount(None, "/sysroot", None, 32 | 4096 | 1)
mounted, namespace = run(image)
mount.attach(mounted, namespace)
print(writable("/sysroot/etc/x"), writable("/sysroot/var/x"), writable("/sysroot/sysroot/x"))
""",
        image,
        tmp_path,
    )
    assert said == ["True True EROFS"]


@pytest.mark.parametrize(
    ("fstab", "own"),
    [
        (b"UUID=1 /var ext4 defaults 0 2\n", True),
        (b"# comment\n\n  UUID=1\t/var/ ext4\n", True),
        (b"#UUID=1 /var ext4 defaults 0 2\n", False),
        (b"UUID=1 /var/log ext4\n/var /srv none bind\nx\n", False),
        (b"UUID=1 /var ext4\n".ljust(65536), True),
        (b"UUID=1 /var ext4\n".ljust(65537), False),
        (b"\xff\0 \xfe\n", False),
        (b"# \rUUID=1 /var ext4\n", False),
        (b"", False),
    ],
    ids=["line", "blanks", "comment", "others", "largest", "too-large", "binary", "carriage-return", "empty"],
)
@pytest.mark.parametrize("transient", ["False", "True"])
def test_var_is_not_mounted_if_fstab_has_it(fstab: bytes, *, own: bool, transient: str, image: str, tmp_path: Path) -> None:
    said = in_initrd(
        f"""
syscall.mount(None, "/sysroot", None, 32)
(next(Path("/sysroot/ostree/deploy/os/deploy").iterdir()) / "etc/fstab").write_bytes({fstab!r})
mounted, namespace = run(image, config(etc_transient={transient}))
mount.attach(mounted, namespace)
print(os.path.ismount("/sysroot/var"), "/var" in mounted.not_covered)
""",
        image,
        tmp_path,
    )
    assert said == [f"{not own or transient == 'True'} True"]


@pytest.mark.parametrize(
    ("name", "number", "verdict"),
    [
        ("fstab", "EIO", "io-error /etc/fstab"),
        ("fstab", "EBADMSG", "io-error /etc/fstab"),
        ("fstab", "ENOMEM", "mount-failed /etc/fstab"),
        ("fstab", "ELOOP", "True True"),
        ("boot", "EIO", "io-error /boot"),
        ("boot", "EUCLEAN", "io-error /boot"),
        ("boot", "EMFILE", "mount-failed /boot"),
        ("boot", "ENOENT", "True False"),
        ("boot", "EINVAL", "True False"),
    ],
)
def test_unreadable_fstab_or_boot_is_refused(name: str, number: str, verdict: str, image: str, tmp_path: Path) -> None:
    """An error other than a missing file must not decide whether /var and /boot are mounted."""
    said = in_initrd(
        f"""
real = files.openat2
def openat2(dirfd, path, flags, resolve):
    if path == {name!r}: raise OSError(errno.{number}, "")
    return real(dirfd, path, flags, resolve)
files.openat2 = openat2
try:
    mounted, namespace = run(image)
    mount.attach(mounted, namespace)
    print(os.path.ismount("/sysroot/var"), "/boot" in mounted.not_covered)
except Refusal as refusal: print(refusal.verdict.name, refusal.path)
""",
        image,
        tmp_path,
    )
    assert said == [verdict]


@pytest.mark.parametrize("loader", ["missing", "directory"])
def test_boot_without_the_loader_link_is_not_mounted(loader: str, image: str, tmp_path: Path) -> None:
    said = in_initrd(
        f"""
syscall.mount(None, "/sysroot", None, 32)
os.unlink("/sysroot/boot/loader")
if {loader!r} == "directory": os.mkdir("/sysroot/boot/loader")
print(run(image)[0].not_covered)
""",
        image,
        tmp_path,
    )
    assert said == ["('/etc', '/var', '/usr/local -> /var/usrlocal')"]


def test_irregular_fstab_is_ignored(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
syscall.mount(None, "/sysroot", None, 32)
os.mkfifo(next(Path("/sysroot/ostree/deploy/os/deploy").iterdir()) / "etc/fstab")
mounted, namespace = run(image)
mount.attach(mounted, namespace)
print(os.path.ismount("/sysroot/var"))
""",
        image,
        tmp_path,
    )
    assert said == ["True"]


def test_transient_root_and_etc_are_writable(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
os.umask(0)
mounted, namespace = run(image, config(etc_transient=True, root_transient=True, root_readonly=False))
print(mounted.not_covered)
mount.attach(mounted, namespace)
print(Path("/sysroot/etc/hostname").read_text(), writable("/sysroot/etc/x"), writable("/sysroot/usr/x"))
Path("/sysroot/usr/y").touch()
print(os.path.exists("/run/ostree/.private/root/upper/usr/y"), oct(os.stat("/run/ostree/.private").st_mode & 0o777))
print(b"transient-etc" in Path(ostreebooted.PATH).read_bytes())
(etc,) = Path("/run/ostree").glob("transient-etc.*")
print([oct(path.stat().st_mode & 0o777) for path in (etc, etc / "upper", etc / "work")])
""",
        image,
        tmp_path,
    )
    links = "'/usr/local -> /var/usrlocal', '/etc/systemd -> /var/systemd'"
    assert said == [f"('/var', '/boot', {links})", "pristine True True", "True 0o0", "True", "['0o700', '0o755', '0o700']"]


def test_transient_root_is_read_only_if_so_configured(image: str, tmp_path: Path) -> None:
    """[root] transient-ro=: the booted system may remount it writable later."""
    said = in_initrd(
        """
mounted, namespace = run(image, config(root_transient=True))
mount.attach(mounted, namespace)
print(writable("/sysroot/usr/x"))
syscall.mount(None, "/sysroot", None, 32 | 4096)
print(writable("/sysroot/usr/x"))
""",
        image,
        tmp_path,
    )
    assert said == ["EROFS", "True"]


def test_release_is_that_of_the_image(image: str, tmp_path: Path) -> None:
    """The disk's /etc, which is mounted over the image's, must not name it. Damaged objects are refused."""
    said = in_initrd(
        """
syscall.mount(None, "/sysroot", None, 32)
(next(Path("/sysroot/ostree/deploy/os/deploy").iterdir()) / "etc/os-release").write_text("ID=evil\\nVERSION_ID=99\\n")
mounted, namespace = run(image)
print(*mounted.release)
for name, place in (("open_regular", mount.release.files), ("readlink", os)):
    real = getattr(place, name)
    def failing(*a, **k):
        if "os-release" in str(a) or name == "readlink" and "dir_fd" in k and a[0] != "loader": raise OSError(errno.EIO, "")
        return real(*a, **k)
    setattr(place, name, failing)
    try: run(image)
    except Refusal as refusal: print(refusal.verdict.name, refusal.what.partition(":")[0])
    setattr(place, name, real)
""",
        image,
        tmp_path,
    )
    assert said == [
        "debian 13",
        "io-error cannot be read through the verified root",
        "io-error cannot look for links that lead out of the image",
    ]


def test_detach_undoes_attach(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
before = tree()
mounted, namespace = run(image)
mount.attach(mounted, namespace)
during = tree()
descriptors = len(os.listdir("/proc/self/fd"))
mount.detach()
print(len(os.listdir("/proc/self/fd")) - descriptors)
print(before == tree(), before == during, os.path.isdir("/sysroot/ostree"), mount.attached_digest(), os.path.exists(
    ostreebooted.PATH))
mount.detach()
print(before == tree())
""",
        image,
        tmp_path,
    )
    assert said == ["0", "True False True None False", "True"]


def test_detach_without_a_physical_root_changes_nothing(image: str, tmp_path: Path) -> None:
    """The service may fail before the disk is mounted."""
    said = in_initrd(
        """
syscall.umount("/sysroot", 2)
before = tree()
mount.detach()
print(before == tree(), before)
""",
        image,
        tmp_path,
    )
    assert said == ["True []"]


@pytest.mark.parametrize("stage", ["mounted", "written", "attached beneath", "kept", "taken off", "attached in turn"])
def test_detach_after_a_kill_restores_the_physical_root(stage: str, image: str, tmp_path: Path) -> None:
    """Kill the process at each step, then run detach() as systemd does with the cleanup."""
    said = in_initrd(
        f"""
import signal
stage = {stage!r}
before = tree()
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if os.fork() == 0:
    mounted, namespace = run(image)
    if stage == "mounted": die()
    if stage == "written": mount._swap = die
    if stage == "attached beneath": mount.syscall.umount = die
    real, steps = mountapi.attach, ["kept", "taken off", "attached in turn"]
    def attach(tree, dirfd, path, *, beneath=False):
        if beneath: raise OSError(errno.EINVAL, "")
        if steps[1] == stage and path == "/sysroot": die()
        real(tree, dirfd, path)
        if path == "/sysroot" or stage == "kept": die()
    if stage in steps: mountapi.attach = attach
    mount.attach(mounted, namespace)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
mount.detach()
print(before == tree(), os.path.isdir("/sysroot/ostree"), os.path.exists(ostreebooted.PATH))
print(os.path.exists("/run/bootseal/stage"), os.path.exists("/run/bootseal/attached"))
""",
        image,
        tmp_path,
    )
    assert said[0] == "-9"
    assert said[1].split()[:2] == ["True", "True"]
    assert said[1].split()[2] == "False"
    assert said[2] == "False False"


@pytest.mark.parametrize("beneath", [True, False])
def test_unmounting_the_root_uncovers_an_empty_directory(*, beneath: bool, image: str, tmp_path: Path) -> None:
    """The unverified physical root must not be below the verified one, even if the kernel cannot mount beneath."""
    said = in_initrd(
        f"""
real = mountapi.attach
def attach(tree, dirfd, path, *, beneath=False):
    if beneath: raise OSError(errno.EINVAL, "")
    real(tree, dirfd, path)
if not {beneath}: mountapi.attach = attach
before = tree()
mounted, namespace = run(image)
mount.attach(mounted, namespace)
print(os.path.isdir("/sysroot/usr"), mount.attached_digest() == verified().digest.value.hex(), os.listdir("/run/bootseal"))
if os.fork() == 0:
    syscall.unshare(mountapi.CLONE_NEWNS)
    syscall.umount("/sysroot", mountapi.MNT_DETACH)
    print(os.listdir("/sysroot"), flush=True)
    os._exit(0)
os.wait()
mount.detach()
print(before == tree(), os.path.isdir("/sysroot/ostree"))
""",
        image,
        tmp_path,
    )
    assert said == ["True True ['attached']", "[]", "True True"]


def test_root_that_pid_1_cannot_see_is_refused(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
before = tree()
mounted, namespace = run(image)
mount._MANAGER = "1"
try: mount.attach(mounted, namespace)
except Refusal as refusal: print(refusal.verdict.name, "PID 1 cannot see" in refusal.what)
print(before == tree(), os.path.isdir("/sysroot/ostree"), os.path.exists(ostreebooted.PATH))
""",
        image,
        tmp_path,
    )
    assert said == ["mount-failed True", "True True False"]


@pytest.mark.parametrize("beneath", ["beneath", "True"], ids=["beneath", "anywhere"])
def test_failed_attach_leaves_the_physical_root(beneath: str, image: str, tmp_path: Path) -> None:
    """Try a second time only after EINVAL, the error of kernels that cannot mount beneath."""
    said = in_initrd(
        f"""
before = tree()
mounted, namespace = run(image)
real = mountapi.attach
def attach(tree, dirfd, path, *, beneath=False):
    if {beneath}: raise OSError(errno.EPERM, "no")
    real(tree, dirfd, path)
mountapi.attach = attach
try: mount.attach(mounted, namespace)
except Refusal as refusal: print(refusal.verdict.name)
print(before == tree(), os.path.isdir("/sysroot/ostree"), os.path.exists(ostreebooted.PATH))
""",
        image,
        tmp_path,
    )
    assert said == ["mount-failed", "True True False"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("None", "mount-failed: the kernel mounted the overlay without verity=require"),
        ("'veritas'", "unsupported: Unknown parameter 'veritas'"),  # as verity= before Linux 6.6
    ],
    ids=["dropped", "unknown"],
)
def test_overlay_without_verity_require_is_refused(option: str, said: str, image: str, tmp_path: Path) -> None:
    """The kernel drops the option or does not know it."""
    verdict, what = said.split(": ")
    code = f"""
real = mountapi.new_filesystem
def new(fstype, options, attributes):
    changed = [({option} if key == "verity" else key, value) for key, value in options]
    return real(fstype, [o for o in changed if o[0]], attributes)
mountapi.new_filesystem = new
try: run(image)
except Refusal as refusal: print(refusal.verdict.name, {what!r} in refusal.what)
"""
    assert in_initrd(code, image, tmp_path) == [f"{verdict} True"]


@pytest.mark.parametrize(
    ("fstype", "number", "verdict"),
    [
        ("erofs", "ENODEV", "unsupported"),
        ("overlay", "ENODEV", "unsupported"),
        ("overlay", "ENOSYS", "unsupported"),
        ("overlay", "EINVAL", "mount-failed"),
        ("erofs", "EUCLEAN", "io-error"),
        ("erofs", "EINVAL", "mount-failed"),
    ],
)
def test_errno_of_mounting_gives_the_verdict(fstype: str, number: str, verdict: str, image: str, tmp_path: Path) -> None:
    said = in_initrd(
        f"""
from bootseal.linux import loop
loop.attach = lambda fd: print("a loop device was tried")
real = mountapi.new_filesystem
calls = []
def new(fstype, options, attributes):
    calls.append(dict(options).get("verity"))
    if fstype == {fstype!r}: raise OSError(errno.{number}, "", "what the kernel said")
    return real(fstype, options, attributes)
mountapi.new_filesystem = new
before = tree()
try: run(image)
except Refusal as refusal: print(refusal.verdict.name, "what the kernel said" in refusal.what, calls.count("require") <= 1)
""",
        image,
        tmp_path,
    )
    assert said == [f"{verdict} True True"]


def test_missing_loop_devices_are_unsupported(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
from bootseal.linux import loop
def new(*_): raise OSError(errno.ENOTBLK, "")
def attach(_): return open("/dev/none/loop-control").fileno(), ""
mountapi.new_filesystem, loop.attach = new, attach
try: run(image)
except Refusal as refusal: print(refusal.verdict.name, "(/dev/none/loop-control)" in refusal.what, "ENODEV" in refusal.what)
""",
        image,
        tmp_path,
    )
    assert said == ["unsupported True True"]


def test_stage_directory_that_cannot_be_created_is_refused(image: str, tmp_path: Path) -> None:
    said = in_initrd(
        """
Path("/run/bootseal").touch()
try: run(image)
except Refusal as refusal: print(refusal.verdict.name, refusal.path)
""",
        image,
        tmp_path,
    )
    assert said == ["mount-failed /run/bootseal/stage"]


def test_damaged_image_is_refused(image: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes(4096) + Path(image).read_bytes()[4096:])
    said = in_initrd(
        """
try: run(image)
except Refusal as refusal: print(refusal.verdict.name)
""",
        str(damaged),
        tmp_path,
    )
    assert said[0] in ("mount-failed", "io-error")


@pytest.mark.parametrize("name", ["etc", "var", "sysroot"])
def test_link_instead_of_a_mount_point_is_refused(name: str, image: str, tmp_path: Path) -> None:
    """Refuse the link, because following it would mount somewhere else."""
    root = tmp_path / "root"
    for directory in {"usr/lib/systemd", "etc", "var", "sysroot"} - {name}:
        (root / directory).mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").write_bytes(b"init")
    (root / name).symlink_to("usr")
    tool = shutil.which("mkfs.erofs") or ""
    subprocess.run([tool, "-d0", tmp_path / "image", root], check=True, capture_output=True)
    said = in_initrd(
        """
before = tree()
try: run(image)
except Refusal as refusal: print(refusal.verdict.name, refusal.path)
""",
        str(tmp_path / "image"),
        tmp_path,
    )
    assert said == [f"mount-failed /{name}"]


def test_loop_device_is_used_if_erofs_needs_one(image: str, tmp_path: Path) -> None:
    """EROFS without file-backed mounts fails with ENOTBLK."""
    said = in_initrd(
        """
real = mountapi.new_filesystem
def new(fstype, options, attributes):
    if dict(options).get("source", "").startswith("/proc/self/fd"): raise OSError(errno.ENOTBLK, "")
    return real(fstype, options, attributes)
mountapi.new_filesystem = new
mounted, namespace = run(image)
places = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
print([place for place in places if os.path.realpath(place).startswith("/dev/loop")])
mount.attach(mounted, namespace)
print(len(Path("/sysroot/usr/lib/systemd/systemd").read_bytes()))
""",
        image,
        tmp_path,
    )
    assert said == ["[]", "12000"]


def test_descriptors_are_closed(image: str, tmp_path: Path) -> None:
    """Only the overlay may hold a reference to the image. One descriptor of the overlay remains."""
    said = in_initrd(
        """
from contextlib import suppress
syscall.mount(None, "/sysroot", None, 32)
etc = next(Path("/sysroot/ostree/deploy/os/deploy").iterdir()) / "etc"
(etc / "fstab").touch()
places = [os.stat(path).st_ino for path in (etc, etc / "fstab")]
run(image)
def inode(name):
    with suppress(OSError): return os.fstat(int(name)).st_ino
opened = [inode(name) for name in os.listdir("/proc/self/fd")]
print([opened.count(place) for place in places])  # Deployment.etc_fd remains
found = []
for name in os.listdir("/proc/self/fd"):
    with suppress(OSError, LookupError): found.append(mountapi.mount_of(int(name)).fstype)
print(found.count("overlay"), found.count("erofs"))
""",
        image,
        tmp_path,
    )
    assert said == ["[1, 0]", "1 0"]


def test_the_filesystems_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def open_context(fstype: str) -> int:
        asked.append(fstype)
        raise OSError(errno.ENODEV, "")

    monkeypatch.setattr(mountapi, "open_context", open_context)
    mount.load_filesystems()
    assert asked == ["erofs", "overlay"]


def test_a_context_of_a_filesystem_mounts_nothing() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    mount.load_filesystems()
    assert Path("/proc/self/mountinfo").read_text() == before


def line(number: int, parent: int, target: str, fstype: str = "ext4", source: str = "/dev/vda") -> mountapi.MountInfo:
    return mountapi.MountInfo(f"{number} {parent} 8:1 / {target} rw - {fstype} {source} rw")


OURS = f"composefs:{CHECKSUM}"
STACKS: dict[str, tuple[list[mountapi.MountInfo], str | None]] = {
    "nothing mounted": ([line(1, 0, "/")], None),
    "the physical root": ([line(1, 0, "/"), line(2, 1, "/sysroot")], None),
    "ours alone": ([line(1, 0, "/"), line(3, 1, "/sysroot", "overlay", OURS)], CHECKSUM),
    "ours on top": ([line(1, 0, "/"), line(2, 1, "/sysroot"), line(3, 2, "/sysroot", "overlay", OURS)], CHECKSUM),
    "ours on top, listed first": ([line(3, 2, "/sysroot", "overlay", OURS), line(1, 0, "/"), line(2, 1, "/sysroot")], CHECKSUM),
    "ours beneath": ([line(1, 0, "/"), line(2, 3, "/sysroot"), line(3, 1, "/sysroot", "overlay", OURS)], None),
    "ours within": ([line(1, 0, "/"), line(3, 1, "/sysroot/sysroot", "overlay", OURS)], None),
    "another overlay": ([line(1, 0, "/"), line(3, 1, "/sysroot", "overlay", "overlay")], None),
    "no overlay, our source": ([line(1, 0, "/"), line(3, 1, "/sysroot", "tmpfs", OURS)], None),
}


@pytest.mark.parametrize(("mounts", "expected"), STACKS.values(), ids=STACKS)
def test_attached_digest_of_a_stack_of_mounts(
    mounts: list[mountapi.MountInfo], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountapi, "mounts", lambda process: mounts)
    assert mount.attached_digest() == expected


def test_overlay_options_are_in_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root is unsafe without verity=require and a data-only layer opened by descriptor."""
    source = (TREE / "service/bootseal/stages/mount.py").read_text()
    for option in ('("verity", "require")', '("metacopy", "on")', '("redirect_dir", "on")', "::/proc/self/fd/"):
        assert option in source
