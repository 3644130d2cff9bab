# SPDX-License-Identifier: LGPL-2.1-or-later
"""The harness under one name: what tests, demo and benchmark do with guests."""

from __future__ import annotations

from .boot import Result, boot, overlay_written, shell_command
from .cache import GuestError, cache_dir, clean, step
from .cpio import Content, Symlink, archive, with_files
from .disk import (
    Deployment,
    Image,
    Signer,
    copy_disk,
    debugfs,
    deployment,
    flip_byte,
    image,
    mutate,
    replace_files,
)
from .qemu import FAILED, PASSED, REFUSED, Disk, bytes_written, overlay
from .tree import SUITES, Initrd, base_tree, initrd, kernel, os_tree

__all__ = [
    "FAILED", "PASSED", "REFUSED", "SUITES", "Content", "Deployment", "Disk", "GuestError", "Image", "Initrd", "Result",
    "Signer", "Symlink", "archive", "base_tree", "boot", "bytes_written", "cache_dir", "clean", "copy_disk", "debugfs",
    "deployment", "flip_byte", "image", "initrd", "kernel", "mutate", "os_tree", "overlay", "overlay_written",
    "replace_files", "shell_command", "step", "with_files",
]  # fmt: skip
