# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program on build hosts and running systems.

Never in an initrd; nothing of the boot path imports it.
"""
