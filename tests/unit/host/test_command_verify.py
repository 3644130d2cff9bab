# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal verify: its output."""

from __future__ import annotations

import pytest

from bootseal.host.commands import verify
from bootseal.host.deployed import Deployed

from .program import bootseal
from .roots import (
    A,
    B,
    Root,
    run_verify,
)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        (["--cmdline", ""], "no-deployment"),
        (["--cmdline", "ostree=/a ostree=/b"], "bad-command-line"),
        (["--cmdline", "ostree=/ostree/boot.1/os/x/0"], "no-deployment"),
        (["--cmdline", f"ostree=/ostree/boot.1/os/{A}/0 rd.bootseal.x"], "bad-command-line"),
    ],
)
def test_verify_with_a_command_line(signed_root: Root, options: list[str], verdict: str) -> None:
    assert run_verify(signed_root, *options)[1]["verdict"] == verdict


def test_verify_all_goes_on_where_one_has_no_initrd(signed_root: Root) -> None:
    signed_root.add(B)
    result = bootseal("verify", "--all", "--sysroot", signed_root.top)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NAME", "ON", "DISK", "STATE", "VERDICT", "IMAGE", "SIGNER", "MISSING"]
    assert len(lines) == 3
    assert lines[1].startswith(f"os/{A[:12]}.0")
    assert "unknown" in lines[2]
    assert result.returncode in (75, 77)  # the first one's: no fs-verity here, or an image without
    assert "\033" not in result.stdout + result.stderr


def test_the_text_of_verify_names_what_is_covered_first() -> None:
    found = Deployed(f"ostree/deploy/os/deploy/{A}.0", "pending", None, ())
    image = {"algorithm": "sha256", "digest": "ab" * 32, "id": "edge", "version": "41.3"}
    record = {"verdict": "verified", "image": image, "keys": "x", "missing": [], "not_covered": ["/var", "/opt -> /var/opt"]}
    lines = verify._as_text(found, record).splitlines()
    assert lines[0] == f"os/{A[:12]}.0 (pending), as the disk names it:  verified"
    assert [" ".join(line.split()) for line in lines[1:3]] == ["image edge 41.3", f"digest sha256:{'ab' * 32}"]
    assert lines[-1].split(maxsplit=2)[2] == "/var, /opt -> /var/opt"
    del image["id"], image["version"]
    assert "  image" not in verify._as_text(found, record)


def test_verbose_names_each_deviation(signed_root: Root) -> None:
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/.ostree.cfs.sig"
    path.write_bytes(path.read_bytes() + b"\n")
    result = bootseal("verify", "--verbose", "--sysroot", signed_root.top)
    assert "deviation  trailing-bytes: the kernel accepts it" in result.stdout
    assert bootseal("verify", "--sysroot", signed_root.top).stdout.count("deviation") == 0
