# SPDX-License-Identifier: LGPL-2.1-or-later
"""deployed.py: names for people, and what a killed process left."""

from bootseal.host.deployed import Deployed, orphans_among

A, B = "a" * 64, "b" * 128


def test_names() -> None:
    assert Deployed(f"ostree/deploy/os/deploy/{A}.0", "", None, ()).name == f"os/{A[:12]}.0"
    assert Deployed(f"state/deploy/{B}", "", None, (), "composefs").name == B[:12]


def test_orphans() -> None:
    names = [f"{A}.0", B, f".bootseal-{A}.0.digest.new", f".bootseal-{B}.new", ".bootseal-gone.new", ".other"]
    assert orphans_among(names) == [".bootseal-gone.new"]
