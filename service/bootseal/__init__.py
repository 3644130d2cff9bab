# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal: a root filesystem that boots only if its digest is signed by a key in the initrd."""

__version__ = "0.1.0"
