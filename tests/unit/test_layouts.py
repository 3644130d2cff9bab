# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/__init__.py: which layout an argument means, and what the source of a mount says."""

import pytest

from bootseal import layouts
from bootseal.values import Wish
from unit.support import Sysroot

DIGEST = "ab" * 32


def test_each_argument_has_its_layout() -> None:
    assert layouts.parse("ostree", Sysroot.BOOT) == Wish("ostree", Sysroot.BOOT)
    assert layouts.parse("composefs", DIGEST) == Wish("composefs", DIGEST)
    assert layouts.parse("composefs.digest", f"v1-sha256-12:{DIGEST}") == Wish("composefs", DIGEST)


@pytest.mark.parametrize("key", layouts.KEYS)
@pytest.mark.parametrize("value", ["", None])
def test_an_empty_argument_is_none(key: str, value: str | None) -> None:
    with pytest.raises(ValueError, match=r"^empty$"):
        layouts.parse(key, value)


SOURCES = {
    f"composefs:{DIGEST}": DIGEST,
    f"transient:composefs={DIGEST}": DIGEST,
    "composefs": "",
    "overlay": "",
    "/dev/vda": "",
}


@pytest.mark.parametrize(("source", "digest"), SOURCES.items())
def test_digest_in_the_source_of_a_mount(source: str, digest: str) -> None:
    assert layouts.digest_in(source) == digest


def test_every_layout_is_loaded() -> None:
    layouts.load_all()
    assert {layouts.of(name).TRANSIENT_ROOT for name in layouts.KEYS.values()} == {
        "/run/ostree/.private/root", "/run/bootseal/transient/.private/root"
    }  # fmt: skip
