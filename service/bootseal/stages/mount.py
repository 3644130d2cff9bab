# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mount the root of an Enrolled image and attach it at /sysroot.

The root is built in a private mount namespace: if this process ends before attach(), the kernel removes everything, and no
other process ever sees an incomplete root. attach() moves the finished tree *beneath* the mount of the physical root and then
unmounts the latter. So /sysroot shows either root at any time, and the physical root remains at /sysroot/sysroot only. An
unmount of the verified root uncovers an empty directory.
"""

import errno
import os

from .. import layouts, paths, verdicts
from ..errors import Refusal, failed
from ..layouts import ostreebooted, upper
from ..linux import files, mountapi, syscall
from ..values import Deployment, Enrolled, Mounted, Request, RootConfig, Submount
from . import exits, initcheck, lastlook, release, volatileroot

SYSROOT = paths.SYSROOT
_STAGE = paths.RUN + "/stage"
_FILESYSTEMS = ("erofs", "overlay")
_MANAGER = "1"  # PID of the service manager
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
    with _Step("cannot prepare what is mounted in the root", pinned.path):
        plan = layouts.of(deployment.layout).plan(root, deployment, config, request)
    with _Step("cannot look for links that lead out of the image", pinned.path):
        ways_out = exits.find(root, own_etc=plan.own_etc)
    for submount in plan.submounts:
        with _Step(f"cannot mount /{submount.name}", f"/{submount.name}"):
            _mount_inside(root, submount)
    with _Step("cannot detach the finished root", pinned.path):
        tree = mountapi.clone(root, recursive=True)
        identities = lastlook.serialize(tree)
    return Mounted(
        tree_fd=tree,
        options=options,
        identities=identities,
        ostree_booted=plan.ostree_booted,
        not_covered=(*plan.not_covered, *ways_out),
        release=image_release,
    )


def attach(mounted: Mounted, shared_namespace: int) -> None:
    """Attach the tree at /sysroot in the namespace of PID 1. If it raises Refusal, /sysroot is unchanged."""
    with _Step("cannot return to the mount namespace of the initrd", SYSROOT):
        syscall.setns(shared_namespace, mountapi.CLONE_NEWNS)
    if mounted.ostree_booted:
        with _Step("cannot write the file that marks a boot of ostree", ostreebooted.PATH):
            ostreebooted.write(mounted.ostree_booted)
    volatileroot.link()
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
    return layouts.digest_in(stack[-1].source) if stack and _is_ours(stack[-1]) else None


def detach() -> None:
    """Undo attach(), even a killed one: put the physical root back at /sysroot. Raises OSError."""
    ostreebooted.remove()  # attach() writes these first
    volatileroot.unlink()
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
    return info.fstype == "overlay" and layouts.digest_in(info.source) != ""


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
    layout, verified = layouts.of(deployment.layout), enrolled.pinned.verified
    options: list[tuple[str, str | None]] = [
        ("source", layout.source(verified.digest.value.hex(), config)),
        ("metacopy", "on"),
        ("redirect_dir", "on"),
        ("verity", "require"),
        # "::" makes the objects a data-only layer: Documentation/filesystems/overlayfs.rst
        ("lowerdir", f"{_STAGE}::/proc/self/fd/{deployment.objects_fd}"),
    ]
    path = enrolled.pinned.path
    with _Step("cannot mount the root as overlay with verity=require", path):
        if config.root_transient:
            options += upper.in_run(layout.TRANSIENT_ROOT)
        attributes = _READ_ONLY if config.root_readonly else 0
        root = mountapi.new_filesystem("overlay", options, attributes)
        mountapi.attach(root, mountapi.AT_FDCWD, _STAGE)
        return root


def _read_options(root: int, path: str) -> str:
    """Read the options of the overlay back. Raises Refusal if the kernel dropped verity=require."""
    options = mountapi.mount_of(root).super_options
    if "verity=require" not in options.split(","):
        what = f"the kernel mounted the overlay without verity=require ({options})"
        raise Refusal(verdicts.MOUNT_FAILED, what, path)
    return options


def _mount_inside(root: int, submount: Submount) -> None:
    """Mount a directory of the disk, or an overlay, at its place in the root. Raises OSError."""
    if submount.upper:
        lower = files.open_directory(root, submount.lower)
        options = [("source", submount.source), ("lowerdir", f"/proc/self/fd/{lower}"), *submount.upper]
        tree = mountapi.new_filesystem("overlay", options, 0)
    else:
        tree = mountapi.clone(submount.fd)
        mountapi.set_attributes(tree, set_=submount.set, clear=submount.clear)
    target = files.open_directory(root, submount.name)
    mountapi.attach(tree, target, "")
    os.close(target)
    os.close(tree)
