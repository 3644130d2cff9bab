# SPDX-License-Identifier: LGPL-2.1-or-later
"""System calls that Python does not have. This layer knows no policy: it raises OSError and says nothing."""
