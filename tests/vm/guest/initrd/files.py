# SPDX-License-Identifier: LGPL-2.1-or-later
"""In an initrd that is saved while it waits: say so, wait for the disk `guest-files`, and put its files in place.

Only modules that an initrd has, and no mount namespace: what this mounts again, every process sees.
"""

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CMDLINE = "proc/cmdline"  # among the files: what this boot's command line has been
DISK = "/dev/disk/by-id/virtio-guest-files"
POLL = 0.02
SETTLE = 3.0  # seconds of the guest's clock, in which everything else that needs no disk comes to its end


def say(line: str) -> None:
    with open("/dev/console", "wb", buffering=0) as console:  # an initrd need not have a codec
        console.write(f"{line}\n".encode())


def run(*command: str) -> None:
    if os.spawnv(os.P_WAIT, command[0], command):
        raise OSError(f"{command} failed")


def put(path: str, kind: str, content: "Any", mode: int) -> None:
    """Make a file or a link, in the place of what is there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if kind == "link":
        os.symlink(content, path)
        return
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def mounted_by(cmdline: bytes) -> "list[str]":
    """Return the arguments from which systemd makes the options and type of sysroot.mount."""
    return [word for word in cmdline.decode().split() if word in ("ro", "rw") or word.startswith("rootfstype=")]


def place(files: "dict[str, tuple[str, Any, int]]", root: str = "/") -> None:
    """Put all files below `root`."""
    for name, file in files.items():
        put(os.path.join(root, name), *file)


def main() -> None:
    time.sleep(SETTLE)
    say("guest: waiting for its disks")
    while not os.path.exists(DISK):
        time.sleep(POLL)
    with open(DISK, "rb") as disk:
        clock, files = eval(disk.read())
    time.clock_settime(time.CLOCK_REALTIME, clock)
    # systemd makes /usr of an initrd read-only, by a mount over itself.
    closed = any(name.startswith("usr/") for name in files) and bool(os.statvfs("/usr").f_flag & os.ST_RDONLY)
    if closed:
        run("/usr/bin/mount", "-o", "remount,bind,rw", "/usr")
    cmdline = files.pop(CMDLINE)
    with open(f"/{CMDLINE}", "rb") as file:
        remade = mounted_by(cmdline[1]) != mounted_by(file.read())
    place({**files, "run/guest-cmdline": cmdline})
    run("/usr/bin/mount", "--bind", "/run/guest-cmdline", f"/{CMDLINE}")
    if closed:
        run("/usr/bin/mount", "-o", "remount,bind,ro", "/usr")
    if remade or any("/systemd/" in name for name in files):
        run("/usr/bin/systemctl", "daemon-reload")
    os.unlink("/etc/guest-waits")
    say("guest: files in place")


if __name__ == "__main__":
    main()
