# SPDX-License-Identifier: LGPL-2.1-or-later
# 'python3 -ISB /usr/lib/bootseal boot': Python searches a directory on the command line first for modules, even with -I.
# Nothing else of the environment counts.
import gc
import os
import sys

# The process lives for less than a second: collecting garbage would only slow the imports down.
gc.disable()

from bootseal.__main__ import main  # noqa: E402

status = main()
sys.stdout.flush()
# Without taking the interpreter apart: all that is left is the end of the process.
os._exit(status)
