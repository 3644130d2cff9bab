# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading the running system. Nothing here changes it."""
