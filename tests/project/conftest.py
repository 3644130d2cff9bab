# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fail a test that hangs, as in tests/unit."""

from unit.conftest import _time_limit as _time_limit
