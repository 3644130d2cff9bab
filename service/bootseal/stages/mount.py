# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mount the root of an Enrolled image and attach it at /sysroot.

The root is built in a private mount namespace: if this process ends before attach(), the kernel removes everything, and no
other process ever sees an incomplete root. attach() moves the finished tree *beneath* the mount of the physical root and then
unmounts the latter. So /sysroot shows either root at any time, and the physical root remains at /sysroot/sysroot only. An
unmount of the verified root uncovers an empty directory.
"""

import errno
import os

from .. import paths, verdicts
from ..errors import LEADS_NOWHERE, Refusal, failed
from ..linux import files, mountapi, syscall
from ..values import Deployment, Enrolled, Mounted, Request, RootConfig
from . import exits, initcheck, lastlook, ostreebooted, release

SYSROOT = paths.SYSROOT
_STAGE = paths.RUN + "/stage"
_OSTREE_RUN = "/run/ostree"
SOURCE_PREFIX = "composefs:"  # of the overlay's source, before the digest
_FILESYSTEMS = ("erofs", "overlay")
_MANAGER = "1"  # PID of the service manager
_INSIDE = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS | files.RESOLVE_NO_SYMLINKS
_FSTAB_SIZE = 1 << 16  # bytes
_READ_ONLY = mountapi.MOUNT_ATTR_RDONLY
# The kernel logs this with EINVAL. Overlays have no verity= before Linux 6.6.
_UNKNOWN_OPTION = "Unknown parameter"


def load_filesystems() -> None:
    """Let the kernel load the modules of the filesystems that every boot mounts. If one is missing, mount() reports it."""
    for fstype in _FILESYSTEMS:
        try:
            os.close(mountapi.open_context(fstype))
        except OSError:
            pass


def mount(enrolled: Enrolled, deployment: Deployment, config: RootConfig, request: Request) -> Mounted:
    """Build the whole root, detached. Raises Refusal: `unsupported`, `mount-failed`, `io-error`."""
    pinned = enrolled.pinned
    with _Step("cannot create a directory for the image", _STAGE):
        os.makedirs(_STAGE, mode=0o700, exist_ok=True)
    _attach_image(pinned.fd, pinned.path)
    root = _mount_overlay(enrolled, deployment, config)
    options = _read_options(root, pinned.path)
    initcheck.check(root, request.init, pinned.path)
    image_release = release.read(root)
    with _Step("cannot look for links that lead out of the image", pinned.path):
        ways_out = exits.find(root, transient_etc=config.etc_transient)
    etc = _mount_etc(root, deployment, config)
    if not _fstab_mounts(root, "/var"):
        _bind(root, "var", deployment.var_fd, clear=_READ_ONLY)
    boot = _mount_boot(root, deployment)
    _bind(root, "sysroot", deployment.sysroot_fd, set_=_READ_ONLY if config.sysroot_readonly else 0)
    with _Step("cannot detach the finished root", pinned.path):
        tree = mountapi.clone(root, recursive=True)
        identities = lastlook.serialize(tree)
    not_covered = [] if config.etc_transient else ["/etc"]
    return Mounted(
        tree_fd=tree,
        options=options,
        identities=identities,
        ostree_booted=ostreebooted.serialize(deployment, config, etc),
        not_covered=(*not_covered, "/var", *(["/boot"] if boot else []), *ways_out),
        release=image_release,
    )


def attach(mounted: Mounted, shared_namespace: int) -> None:
    """Attach the tree at /sysroot in the namespace of PID 1. If it raises Refusal, /sysroot is unchanged."""
    with _Step("cannot return to the mount namespace of the initrd", SYSROOT):
        syscall.setns(shared_namespace, mountapi.CLONE_NEWNS)
    with _Step("cannot write the file that marks a boot of ostree", ostreebooted.PATH):
        ostreebooted.write(mounted.ostree_booted)
    with _Step("cannot write the list of attached mounts", lastlook.PATH):
        lastlook.write(mounted.identities)
    try:
        with _Step("cannot attach the verified root", SYSROOT):
            _swap(mounted.tree_fd)
            if not attached_digest(_MANAGER):
                # A drop-in gave this unit a mount namespace. PID 1 would switch to the unverified root.
                what = "PID 1 cannot see the mounted root: the unit runs in its own mount namespace"
                raise Refusal(verdicts.MOUNT_FAILED, what, SYSROOT)
    except Refusal:
        try:
            detach()
        except OSError:
            pass
        raise
    _remove_stage()


def attached_digest(process: str = "self") -> str | None:
    """Return the digest of the root that a process sees at /sysroot, or None if it is not one of ours."""
    stack = _stack(process)
    return stack[-1].source.removeprefix(SOURCE_PREFIX) if stack and _is_ours(stack[-1]) else None


def detach() -> None:
    """Undo attach(), even a killed one: put the physical root back at /sysroot. Raises OSError."""
    ostreebooted.remove()  # attach() writes it first
    lastlook.remove()
    stack, kept = _stack(), _stack(at=_STAGE)
    if any(_is_ours(m) for m in stack) or (kept and not stack):
        _put_back(stack, kept)
    if kept:
        syscall.umount(_STAGE, mountapi.MNT_DETACH)
    _remove_stage()


def _put_back(stack: list[mountapi.MountInfo], kept: list[mountapi.MountInfo]) -> None:
    within = SYSROOT + "/sysroot" if stack and _is_ours(stack[-1]) else SYSROOT
    physical = _clone_mount(_STAGE if kept else within)
    for _ in stack:
        syscall.umount(SYSROOT, mountapi.MNT_DETACH)
    mountapi.attach(physical, mountapi.AT_FDCWD, SYSROOT)
    os.close(physical)


def _remove_stage() -> None:
    """Remove the stage directory. The mount on it ends with the private namespace."""
    try:
        os.rmdir(_STAGE)
    except OSError:
        pass


def _swap(tree: int) -> None:
    try:
        mountapi.attach(tree, mountapi.AT_FDCWD, SYSROOT, beneath=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _swap_in_turn(tree)
        return
    syscall.umount(SYSROOT, mountapi.MNT_DETACH)


def _swap_in_turn(tree: int) -> None:
    """Swap the roots on kernels that cannot mount beneath a child of the namespace's root.

    The tree must not cover the unverified root, so that is unmounted first. Until the tree is attached, a second mount keeps
    the physical root, because detach() may need it.
    """
    physical = _clone_mount(SYSROOT)
    mountapi.attach(physical, mountapi.AT_FDCWD, _STAGE)
    os.close(physical)
    syscall.umount(SYSROOT, mountapi.MNT_DETACH)
    mountapi.attach(tree, mountapi.AT_FDCWD, SYSROOT)
    syscall.umount(_STAGE, mountapi.MNT_DETACH)


def _clone_mount(path: str) -> int:
    """Clone the topmost mount at a path, detached."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mountapi.clone(fd)
    finally:
        os.close(fd)


def _stack(process: str = "self", *, at: str = SYSROOT) -> list[mountapi.MountInfo]:
    """List the mounts at a place, the topmost last. The parents tell, because mountinfo has an arbitrary order."""
    by_parent = {m.parent: m for m in mountapi.mounts(process) if m.target == at}
    lowest = [m for parent, m in by_parent.items() if parent not in {other.id for other in by_parent.values()}]
    stack = lowest[:1]
    while stack and stack[-1].id in by_parent:
        stack.append(by_parent[stack[-1].id])
    return stack


def _is_ours(info: mountapi.MountInfo) -> bool:
    return info.fstype == "overlay" and info.source.startswith(SOURCE_PREFIX)


class _Step:
    """Turns the OSError of a step into a Refusal: `mount-failed`, or `unsupported` by the kernel."""

    def __init__(self, what: str, path: str) -> None:
        self._what, self._path = what, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, OSError):
            return
        log = f" ({error.filename})" if error.filename else ""
        unsupported = error.errno in (errno.ENOSYS, errno.ENODEV) or _UNKNOWN_OPTION in log
        verdict = verdicts.UNSUPPORTED if unsupported else verdicts.MOUNT_FAILED
        raise failed(error, verdict, self._what + log, self._path) from error


def _attach_image(fd: int, path: str) -> None:
    """Mount EROFS from the very descriptor that was measured, and attach it in the private namespace.

    Older kernels require EROFS to be attached before an overlay uses it.
    """
    with _Step("cannot mount the image as EROFS", path):
        try:
            image = _mount_erofs(f"/proc/self/fd/{fd}")
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            image = _mount_on_loop(fd)  # EROFS mounts files since Linux 6.12, if so configured
        mountapi.attach(image, mountapi.AT_FDCWD, _STAGE)
        os.close(image)


def _mount_erofs(source: str) -> int:
    return mountapi.new_filesystem("erofs", [("source", source), ("ro", None)], _READ_ONLY)


def _mount_on_loop(fd: int) -> int:
    from ..linux import loop  # imported late because few kernels need it

    try:
        device, path = loop.attach(fd)
    except FileNotFoundError as error:  # without /dev/loop-control the kernel lacks loop devices
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), error.filename) from error
    try:
        return _mount_erofs(path)
    finally:
        os.close(device)


def _mount_overlay(enrolled: Enrolled, deployment: Deployment, config: RootConfig) -> int:
    """Mount the image over the objects. With verity=require the kernel checks each object that is opened."""
    verified = enrolled.pinned.verified
    options: list[tuple[str, str | None]] = [
        ("source", SOURCE_PREFIX + verified.digest.value.hex()),
        ("metacopy", "on"),
        ("redirect_dir", "on"),
        ("verity", "require"),
        # "::" makes the objects a data-only layer: Documentation/filesystems/overlayfs.rst
        ("lowerdir", f"{_STAGE}::/proc/self/fd/{deployment.objects_fd}"),
    ]
    path = enrolled.pinned.path
    with _Step("cannot mount the root as overlay with verity=require", path):
        if config.root_transient:
            options += _make_upper(f"{_OSTREE_RUN}/.private/root")
        attributes = _READ_ONLY if config.root_readonly else 0
        root = mountapi.new_filesystem("overlay", options, attributes)
        mountapi.attach(root, mountapi.AT_FDCWD, _STAGE)
        return root


def _make_upper(directory: str) -> list[tuple[str, str | None]]:
    """Create upper and work directory on the tmpfs at /run. Unprivileged users cannot enter .private."""
    if "/.private/" in directory:
        os.makedirs(os.path.dirname(directory), mode=0, exist_ok=True)
    for name, mode in (("upper", 0o755), ("work", 0o700)):
        os.makedirs(f"{directory}/{name}", exist_ok=True)
        os.chmod(f"{directory}/{name}", mode)
    return [("upperdir", f"{directory}/upper"), ("workdir", f"{directory}/work")]


def _read_options(root: int, path: str) -> str:
    """Read the options of the overlay back. Raises Refusal if the kernel dropped verity=require."""
    options = mountapi.mount_of(root).super_options
    if "verity=require" not in options.split(","):
        what = f"the kernel mounted the overlay without verity=require ({options})"
        raise Refusal(verdicts.MOUNT_FAILED, what, path)
    return options


def _mount_etc(root: int, deployment: Deployment, config: RootConfig) -> str:
    """Mount the deployment's /etc, or a transient overlay over usr/etc, whose directory is returned."""
    if not config.etc_transient:
        _bind(root, "etc", deployment.etc_fd, clear=_READ_ONLY)
        return ""
    with _Step("cannot mount the transient /etc", "/etc"):
        os.makedirs(_OSTREE_RUN, exist_ok=True)
        directory = f"{_OSTREE_RUN}/transient-etc.{os.urandom(6).hex()}"
        os.mkdir(directory, 0o700)
        lower = files.open_directory(root, "usr/etc")
        options = [("source", "overlay"), ("lowerdir", f"/proc/self/fd/{lower}"), *_make_upper(directory)]
        _attach_inside(root, "etc", mountapi.new_filesystem("overlay", options, 0))
        return directory


def _fstab_mounts(root: int, place: str) -> bool:
    """Tell whether the booted system's fstab mounts a place. systemd would not mount over a mount of ours.

    Anyone who can write this fstab can also write to /var, so reading it grants nothing new.
    """
    try:
        # Without RESOLVE_NO_XDEV, because /etc is a mount by now.
        etc = files.open_directory(root, "etc", _INSIDE)
        fstab = files.open_regular(etc, "fstab")
        text = files.read_bounded(fstab, _FSTAB_SIZE) or b""
        os.close(fstab)
        os.close(etc)
    except files.NotRegular:
        return False
    except OSError as error:
        if error.errno in LEADS_NOWHERE:
            return False
        raise failed(error, verdicts.MOUNT_FAILED, "cannot be read", "/etc/fstab") from error
    lines = ([word for word in line.replace("\t", " ").split(" ") if word] for line in files.lines(text))
    return any(len(words) > 1 and words[0][0] != "#" and os.path.normpath(words[1]) == place for words in lines)


def _mount_boot(root: int, deployment: Deployment) -> bool:
    """Mount /boot if it is on the physical root. As for ostree, the sign is that boot/loader is a link."""
    try:
        boot = files.open_directory(deployment.sysroot_fd, "boot")
        os.readlink("loader", dir_fd=boot)
        os.close(files.open_directory(root, "boot"))
    except OSError as error:
        if error.errno in LEADS_NOWHERE | {errno.EINVAL}:  # EINVAL: boot/loader is not a link
            return False
        raise failed(error, verdicts.MOUNT_FAILED, "cannot be opened", "/boot") from error
    _bind(root, "boot", boot)
    return True


def _bind(root: int, name: str, fd: int, *, set_: int = 0, clear: int = 0) -> None:
    with _Step(f"cannot mount /{name}", f"/{name}"):
        tree = mountapi.clone(fd)
        mountapi.set_attributes(tree, set_=set_, clear=clear)
        _attach_inside(root, name, tree)


def _attach_inside(root: int, name: str, tree: int) -> None:
    target = files.open_directory(root, name)
    mountapi.attach(tree, target, "")
    os.close(target)
    os.close(tree)
