# SPDX-License-Identifier: LGPL-2.1-or-later
"""paths.py: names beside an image and beside a deployment, and the form of a deployment's path."""

import pytest

from bootseal import paths

CHECKSUM = "0123456789abcdef" * 4
DEPLOYMENT = f"ostree/deploy/os/deploy/{CHECKSUM}.0"


def test_names_beside_the_image() -> None:
    assert (paths.digest_of(paths.IMAGE), paths.signature_of(paths.IMAGE)) == (".ostree.cfs.digest", ".ostree.cfs.sig")
    assert (paths.digest_of(paths.PAIR), paths.signature_of(paths.PAIR)) == ("bootseal.digest", "bootseal.sig")


def test_names_below_the_physical_root() -> None:
    assert paths.deployment_of("os", f"{CHECKSUM}.0") == DEPLOYMENT
    assert paths.var_of("os") == "ostree/deploy/os/var"
    assert paths.state_of(CHECKSUM) == f"state/deploy/{CHECKSUM}"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (CHECKSUM, True),
        (CHECKSUM * 2, True),
        (CHECKSUM[1:], False),
        (CHECKSUM + "0", False),
        (CHECKSUM.upper(), False),
        (CHECKSUM[:-1] + "/", False),
        (CHECKSUM[:-1] + "\n", False),
        ("", False),
    ],
)
def test_image_digests(text: str, *, is_one: bool) -> None:
    assert paths.is_image_digest(text) is is_one


def test_names_for_people() -> None:
    assert paths.name_of(DEPLOYMENT) == "os/0123456789ab.0"
    assert paths.name_of(paths.state_of(CHECKSUM)) == "0123456789ab"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (DEPLOYMENT, ("os", CHECKSUM, 0)),
        (f"ostree/deploy/A.b_c-1/deploy/{CHECKSUM}.123456789", ("A.b_c-1", CHECKSUM, 123456789)),
        (f"ostree/deploy/{'x' * 64}/deploy/{CHECKSUM}.1", ("x" * 64, CHECKSUM, 1)),
        (f"ostree/deploy/{'x' * 65}/deploy/{CHECKSUM}.1", None),
        (f"ostree/deploy/os/deploy/{CHECKSUM}.1234567890", None),
        (f"ostree/deploy/os/deploy/{CHECKSUM}.", None),
        (f"ostree/deploy/os/deploy/{CHECKSUM}", None),
        (f"ostree/deploy/os/deploy/{CHECKSUM.upper()}.0", None),
        (f"ostree/deploy/os/deploy/{CHECKSUM[1:]}.0", None),
        (f"ostree/deploy/./deploy/{CHECKSUM}.0", None),
        (f"ostree/deploy/../deploy/{CHECKSUM}.0", None),
        (f"ostree/deploy//deploy/{CHECKSUM}.0", None),
        (f"ostree/deploy/a b/deploy/{CHECKSUM}.0", None),
        (f"/{DEPLOYMENT}", None),
        (f"{DEPLOYMENT}/", None),
        (f"{DEPLOYMENT}\n", None),
    ],
)
def test_parts(path: str, parts: tuple[str, str, int] | None) -> None:
    assert paths.parts_of(path) == parts


def test_work_names() -> None:
    assert paths.new_of(DEPLOYMENT) == f".bootseal-{CHECKSUM}.0.new"
    assert paths.mark_of(DEPLOYMENT) == f".bootseal-{CHECKSUM}.0.immutable"
    assert paths.deployment_of_mark("os", paths.mark_of(DEPLOYMENT)) == DEPLOYMENT


@pytest.mark.parametrize(
    "name", [f"{CHECKSUM}.0", f".bootseal-{CHECKSUM}.0", f"{CHECKSUM}.0.immutable", f".bootseal-{CHECKSUM}.0.new"]
)
def test_other_names_are_not_marks(name: str) -> None:
    assert paths.deployment_of_mark("os", name) is None
