# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of the tree, not of a module: rules, linters, documents, packaging, test vectors."""
