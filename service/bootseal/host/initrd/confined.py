# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run code that parses hostile bytes in an unprivileged process with limits.

The process gets open descriptors, but no names of files. The caller gets a bounded answer, or a reason, within WALL seconds.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import reason

# Seconds. CPU stops hostile input, and does not depend on the load of the machine. WALL stops a process that only waits, before
# ostree-finalize-staged.service times out after five minutes.
CPU, WALL = 60, 240
MEMORY = 512 << 20  # bytes of address space beside the mapped input
MAX_ANSWER = 16 << 20
_DESCRIPTORS = 256
_NOBODY = 65534  # the kernel's overflow uid and gid
_REFUSED = 65
_PR_SET_NO_NEW_PRIVS, _CAPABILITY_VERSION_3 = 38, 0x20080522
_START = "import sys; sys.path.insert(0, sys.argv[1]); from bootseal.host.initrd import reader; reader.main(sys.argv[2])"


class Refused(Exception):
    """The process refused its input, exceeded a limit, or crashed; the text says which."""


def run(question: str, descriptors: Sequence[int]) -> bytes:
    """Ask reader.main() this question about these descriptors. Raises Refused, OSError."""
    command = [sys.executable, "-ISB", "-c", _START, str(Path(__file__).parents[3]), question]
    environment = {name: os.environ[name] for name in ("PATH", "BOOTSEAL_DEBUG") if name in os.environ}
    debug = "BOOTSEAL_DEBUG" in environment
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if debug else subprocess.DEVNULL,
        pass_fds=descriptors,
        env=environment,
        cwd="/",
    )
    with process:
        try:
            answer, status = _wait(process, time.monotonic() + WALL)
        finally:
            process.kill()
    if status == _REFUSED:
        raise Refused(answer[:1000].decode(errors="replace"))
    if status:
        raise Refused(_describe(status))
    return answer


def answer(work: Callable[[], bytes], refused: type[Exception], mapped: int) -> None:
    """Drop privileges, work, answer, exit.

    Only the process calls this; `mapped` is the size of its input in bytes.
    """
    _limit(mapped)
    _drop_privileges()
    status = 0
    try:
        data = work()
    except refused as error:
        data, status = str(error).encode(errors="replace"), _REFUSED
    except OSError as error:
        data, status = reason(error).encode(), _REFUSED
    except MemoryError:
        data, status = f"needs more than {MEMORY >> 20} MiB of memory".encode(), _REFUSED
    with open(1, "wb", closefd=False) as file:
        file.write(data)
    os._exit(status)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, int]:
    """Read the answer, and return it with the exit status. Raises Refused."""
    assert process.stdout
    data, fd, poll = b"", process.stdout.fileno(), select.poll()
    poll.register(fd, select.POLLIN)
    try:
        while len(data) <= MAX_ANSWER:
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                raise subprocess.TimeoutExpired(process.args, WALL)
            chunk = os.read(fd, 1 << 20)
            if not chunk:
                return data, process.wait(max(0, deadline - time.monotonic()))
            data += chunk
    except subprocess.TimeoutExpired:
        raise Refused(f"takes longer than {WALL} seconds") from None
    raise Refused(f"gives more than {MAX_ANSWER} bytes")


def _describe(status: int) -> str:
    if status == -signal.SIGXCPU:
        return f"takes more than {CPU} seconds of processor time"
    if status == -signal.SIGBUS:
        return "the disk failed, or the file shrank while it was read"
    if status == -signal.SIGKILL:
        return "the process that reads it was killed, as the kernel does when memory runs out"
    return f"the process that reads it ended with {f'signal {-status}' if status < 0 else f'status {status}'}"


def _limit(mapped: int) -> None:
    limits = {
        resource.RLIMIT_AS: MEMORY + mapped,
        resource.RLIMIT_CPU: CPU,
        resource.RLIMIT_FSIZE: mapped,  # for the copy of a program's input in memory
        resource.RLIMIT_NOFILE: _DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        # At the soft limit of CPU the kernel sends SIGXCPU, which tells the reason; at the hard limit SIGKILL.
        most = value + 1 if hard == resource.RLIM_INFINITY else min(value + 1, hard)
        resource.setrlimit(limit, (min(value, most), most))


def _drop_privileges() -> None:
    """Give up root's uid, which owns files and which services obey, and all capabilities. Raises OSError."""
    with suppress(OSError):  # an unprivileged user, a unit without CAP_SETUID, a container without this uid
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    # With this flag, programs that the process runs cannot regain capabilities, even as root.
    if libc.capset(header, nothing) or libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), "dropping privileges")
