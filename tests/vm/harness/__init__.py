# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real operating systems in QEMU: trees, disks, initrds, boots, and readers of what guests say."""
