# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the program. Its guest tests use the guests of tests/vm, whose modules import each other by plain name."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "vm"))
