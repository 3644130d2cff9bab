# SPDX-License-Identifier: LGPL-2.1-or-later
"""Offer the harness under one name: what tests, demo and benchmark do with guests."""

from __future__ import annotations

from .boot import Result, boot, shell_command
from .cache import GuestError
from .cpio import Content, Symlink, archive, with_files
from .disk import Deployment, Image, copy_disk, debugfs, deployment, flip_byte, image, replace_files
from .qemu import FAILED, PASSED, REFUSED, Disk, overlay
from .tree import SUITES, Initrd, base_tree, initrd, kernel, os_tree

__all__ = [
    "FAILED", "PASSED", "REFUSED", "SUITES", "Content", "Deployment", "Disk", "GuestError", "Image", "Initrd", "Result",
    "Symlink", "archive", "base_tree", "boot", "copy_disk", "debugfs", "deployment", "flip_byte", "image", "initrd", "kernel",
    "os_tree", "overlay", "replace_files", "shell_command", "with_files",
]  # fmt: skip
