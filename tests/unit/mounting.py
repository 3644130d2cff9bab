# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run code as root in a mount namespace and a root directory that look like an initrd.

The root directory has its own /run, and at /sysroot a physical root with a deployment. The rest of the machine is mounted
into it.
"""

from pathlib import Path

from unit.support import run_python

INITRD = """
import os, sys, errno
from bootseal import verdicts
from bootseal.layouts import ostreebooted
from bootseal.stages import deployment, mount, physicalroot
from bootseal.errors import Refusal
from bootseal.linux import files, mountapi, syscall
from bootseal.values import Pinned, RootConfig, Wish
from unit import support
from unit.support import request, verified, Sysroot
from pathlib import Path

mount._MANAGER = "self"  # PID 1 of this machine is in another namespace

def initrd(place):
    syscall.unshare(mountapi.CLONE_NEWNS)
    syscall.mount(None, "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
    syscall.mount("tmpfs", place, "tmpfs", 0)
    for name in os.listdir("/"):
        path = "/" + name
        if name in ("run", "sysroot") or not os.path.exists(path): continue
        if os.path.islink(path): os.symlink(os.readlink(path), place + path)
        elif os.path.isdir(path):
            os.mkdir(place + path)
            syscall.mount(path, place + path, None, 4096 | mountapi.MS_REC)
    os.mkdir(place + "/run"); os.mkdir(place + "/sysroot")
    # As switch_root does, because setns() leads to the topmost mount at the namespace's root, not to a chroot.
    os.chdir(place)
    syscall.mount(place, "/", None, 8192)
    os.chroot(".")
    os.chdir("/")
    syscall.mount("physical", "/sysroot", "tmpfs", 0)
    found = Path("/sysroot")
    made = Sysroot.__new__(Sysroot)
    made.__init__(found)
    (found / "boot").mkdir()
    (found / "boot/loader").symlink_to("loader.1")
    (made.deploy / "etc/hostname").write_text("deployed")
    (found / "ostree/deploy/os/var/marker").write_text("var")
    syscall.mount(None, "/sysroot", None, 32 | 1)

def enrolled(image):
    fd = os.open(image, os.O_RDONLY)
    return support.enrolled(pinned=Pinned(verified(), fd, image, 4096))

def config(sysroot_readonly=True, root_transient=False, root_readonly=True, etc_transient=False):
    return RootConfig(sysroot_readonly, root_transient, root_readonly, "transient" if etc_transient else "bind", "bind")

def tree():
    return sorted((m.target, m.fstype) for m in mountapi.mounts() if m.target.startswith(("/sysroot", "/run")))

def run(image, root=config(), init=""):
    namespace = physicalroot.private_namespace()
    found = deployment.locate(request().wishes[0], request(), support.policy())
    return mount.mount(enrolled(image), found, root, request()._replace(init=init)), namespace

def writable(path):
    try: Path(path).touch(); os.unlink(path); return True
    except OSError as error: return errno.errorcode[error.errno]

initrd(sys.argv[1])
image = sys.argv[2]
"""


def in_initrd(code: str, image: str, tmp_path: Path) -> list[str]:
    """Run code in an initrd on this machine, after INITRD; return the lines that it prints."""
    (tmp_path / "initrd").mkdir(exist_ok=True)
    return run_python(INITRD + code, str(tmp_path / "initrd"), image).splitlines()
