# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wrap system calls that Python lacks. This layer has no policy and prints nothing: it raises OSError."""
