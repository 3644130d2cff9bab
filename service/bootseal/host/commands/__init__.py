# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of bootseal(8): arguments in, text out. None imports another."""
