# SPDX-License-Identifier: LGPL-2.1-or-later
"""In the guest, `cut PLAN COMMAND...`: a command of bootseal that ends right before one of its steps.

The file PLAN says "HOW TURN NAME WORD...": the step is the TURN-th call of this one of STEPS with every WORD in its arguments.
HOW is "kill" (SIGKILL), "stop" (SIGSTOP), or "cut": all that was written is on the disk, and the machine resets at once.
Without that file the command runs to its end. Only modules that an initrd has.
"""

import os
import sys

sys.path.insert(0, "/usr/lib/bootseal")
from bootseal.__main__ import main
from bootseal.linux import files, fsverity, mountapi, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIGNALS = {"kill": 9, "stop": 19}
STEPS: "tuple[tuple[Any, str], ...]" = (
    (os, "rename"),
    (os, "unlink"),
    (files, "set_immutable"),
    (fsverity, "enable"),
    (mountapi, "attach"),
    (mountapi, "mounts"),
    (mountapi, "new_filesystem"),
    (mountapi, "reconfigure"),
    (syscall, "umount"),
)


def end(how: str) -> None:
    if how == "cut":
        os.sync()
        with open("/proc/sysrq-trigger", "w", encoding="utf-8") as trigger:
            trigger.write("b")
    os.kill(os.getpid(), SIGNALS[how])


def watched(function: "Callable[..., Any]", how: str, turn: int, words: list[str]) -> "Callable[..., Any]":
    left = turn

    def call(*arguments: "Any", **options: "Any") -> "Any":
        nonlocal left
        if all(word in f"{arguments} {options}" for word in words):
            left -= 1
            if not left:
                end(how)
        return function(*arguments, **options)

    return call


def watch(how: str, turn: int, wanted: str, words: list[str]) -> None:
    (module,) = (module for module, name in STEPS if name == wanted)
    setattr(module, wanted, watched(getattr(module, wanted), how, turn, words))


_, plan, *command = sys.argv
if os.path.exists(plan):
    with open(plan, encoding="utf-8") as file:
        how, turn, name, *words = file.read().split()
    watch(how, int(turn), name, words)
sys.argv[1:] = command
status = main()
sys.stdout.flush()
os._exit(status)
