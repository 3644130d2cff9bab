# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the running system without changing it."""
