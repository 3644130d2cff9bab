# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share fixtures with all tests of the program, and the time limit of the other unit tests."""

from unit.conftest import _time_limit as _time_limit

from .roots import outside as outside
from .roots import root as root
from .roots import signed_root as signed_root
from .roots import tree as tree
from .running import said as said
from .running import world as world
