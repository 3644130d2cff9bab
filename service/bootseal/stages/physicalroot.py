# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait until the physical root is mounted at /sysroot, however long that takes: for a passphrase, or a slow disk.

poll(2) on mountinfo returns after each change of the mounts, see proc_pid_mountinfo(5).
"""

import os
import select

from .. import paths, verdicts
from ..errors import failed
from ..linux import mountapi, syscall
from ..values import PhysicalRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MOUNTS = "/proc/self/mountinfo"
_PERIOD = 10  # seconds


def is_mounted() -> bool:
    """Tell whether anything is mounted at /sysroot. Raises OSError."""
    return any(mount.target == paths.SYSROOT for mount in mountapi.mounts())


def enter(still_waiting: "Callable[[], object]", *, sealed_before: bool) -> PhysicalRoot:
    """Wait for the mount, and move to a private mount namespace, in which nobody can unmount it. Raises Refusal.

    It calls `still_waiting` every ten seconds at least, and once after the wait.
    """
    while True:
        _wait(still_waiting)
        shared = private_namespace()
        if is_mounted():
            return PhysicalRoot(shared, sealed_before)
        # Unmounted again meanwhile.
        syscall.setns(shared, mountapi.CLONE_NEWNS)
        os.close(shared)


def private_namespace() -> int:
    """Move to a private mount namespace; return a descriptor of the shared one. Raises Refusal."""
    try:
        fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscall.unshare(mountapi.CLONE_NEWNS)
        syscall.mount(None, "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
    except OSError as error:
        raise failed(error, verdicts.MOUNT_FAILED, "cannot create a mount namespace", "/") from error
    return fd


def _wait(still_waiting: "Callable[[], object]") -> None:
    # Opened before is_mounted() reads the mounts: poll() reports what changes from now on.
    with open(_MOUNTS, "rb", buffering=0) as changes:
        poll = select.poll()
        poll.register(changes, select.POLLPRI)
        while not is_mounted():
            still_waiting()
            poll.poll(_PERIOD * 1000)
    still_waiting()
