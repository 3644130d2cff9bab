# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the program: one file per module of bootseal.host."""
