# SPDX-License-Identifier: LGPL-2.1-or-later
"""A test that waits for ever is a failure here, too."""

from unit.conftest import _time_limit as _time_limit

from .roots import outside as outside
from .roots import root as root
from .roots import signed_root as signed_root
from .roots import tree as tree
from .running import said as said
from .running import world as world
