# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes to values and back. No input or output, no policy."""
