# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read an unauthenticated initrd or unified kernel image."""
