# SPDX-License-Identifier: LGPL-2.1-or-later
"""pairs.py: a digest and its signature, checked and written wherever they come from."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootseal.errors import Refusal
from bootseal.host import pairs
from bootseal.linux import files
from bootseal.stages import keyring

from .program import beside, bootseal, certificate, image, key, signed


def test_a_given_digest_replaces_no_pair_of_another_one(tmp_path: Path) -> None:
    path, options = image(tmp_path), ("--key", key("p256"), "--cert", certificate("p256"))
    signed(path, *options)
    before = beside(path)
    result = bootseal("sign", path, *options, "--digest", "sha256:" + "11" * 32)
    assert result.returncode == 73
    assert result.stderr.startswith(f"bootseal: Failed to write {path}.sig: {path}.digest exists with another digest")
    assert beside(path) == before
    signed(path, *options, "--digest", f"sha256:{before[0].hex()}")
    path.write_bytes(path.read_bytes() + b"changed")
    signed(path, *options)
    assert beside(path)[0] != before[0]


def test_a_refusal_names_where_the_pair_came_from(tmp_path: Path) -> None:
    path = image(tmp_path)
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    value, signature = beside(path)
    trusted = keyring.load([str(certificate("p256"))])
    assert pairs.check(pairs.Given(value, signature, "one", "two"), trusted).digest.value == value
    for given, where in ((pairs.Given(b"", signature, "one", "two"), "one"), (pairs.Given(value, b"", "one", "two"), "two")):
        with pytest.raises(Refusal) as caught:
            pairs.check(given, trusted)
        assert caught.value.path == where


def test_a_filesystem_without_flags_makes_nothing_immutable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert not pairs.is_immutable(fd)
    monkeypatch.setattr(files, "is_immutable", lambda _: (_ for _ in ()).throw(OSError(errno.ENOTTY, "none")))
    assert not pairs.is_immutable(fd)
    os.close(fd)
