# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stages of a boot. None imports another; each takes values, returns one, and raises Refusal."""
