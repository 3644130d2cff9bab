# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read an initrd or a unified kernel image that nobody has authenticated."""
