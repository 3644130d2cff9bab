# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests, demo and benchmark that boot guests; README.md says how to run and add one."""
