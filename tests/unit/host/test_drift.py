# SPDX-License-Identifier: LGPL-2.1-or-later
"""host/live/drift.py: each difference between the record and the running system."""

import shutil
from collections.abc import Callable

import pytest

from bootseal import verdicts
from bootseal.digest import Digest
from bootseal.errors import Refusal
from bootseal.host.live import drift
from bootseal.linux import files
from bootseal.stages import kernelkeys
from unit.host.schema import errors
from unit.support import deployment

from .running import DIGEST, ROOT_LINE, SOURCE, USUAL, Said, World, recorded, table


def other_digest(*_: object) -> Digest:
    return Digest("sha256", bytes(32))


def set_unsealed(world: World) -> None:
    def unsealed(*_: object) -> Digest:
        raise Refusal(verdicts.IMAGE_UNSEALED, "fs-verity is not enabled on the image", "/sysroot/x")

    world.measured(unsealed)


def replace_root(world: World, *, line: str) -> None:
    found = [drift.Mount(line), *(drift.Mount(other) for other in USUAL[1:])]
    world.patch.setattr(drift, "mounts", lambda: drift.Mounts(found[0], found))


def replace_table(world: World, record: object, *lines: str) -> None:
    world.write(record)
    world.mounted(*lines)


DIFFERENCES: dict[str, tuple[str, str, Callable[[World], object]]] = {
    "another image": ("image", "has the digest sha256:0000", lambda w: w.measured(other_digest)),
    "image without fs-verity": ("image", "fs-verity is not enabled", set_unsealed),
    "deployment gone": ("image", "cannot be opened", lambda w: shutil.rmtree(w.sysroot / deployment().path)),
    "root of another kind": (
        "root",
        "is ext4 from /dev/vdb",
        lambda w: replace_root(w, line="30 1 8:1 / / ro - ext4 /dev/vdb rw"),
    ),
    "root of another digest": (
        "root",
        "composefs:00",
        lambda w: replace_root(w, line=ROOT_LINE.replace(SOURCE, "composefs:" + "0" * 64)),
    ),
    "no verity": (
        "root",
        "no verity=require",
        lambda w: replace_root(w, line=ROOT_LINE.replace("verity=require", "verity=on")),
    ),
    "verity in a name": (
        "root",
        "no verity=require",
        lambda w: replace_root(w, line=ROOT_LINE.replace(",verity=require", ",lowerdir=verity=require")),
    ),
    "bind over usr": (
        "tree",
        "over the verified root: /usr (ext4",
        lambda w: w.mounted("50 30 254:1 /evil /usr rw - ext4 /dev/vda1 rw"),
    ),
    "bind below usr": ("tree", "/usr/bin/sh (tmpfs", lambda w: w.mounted("50 30 0:50 /sh /usr/bin/sh rw - tmpfs t rw")),
    "overlay of ostree admin unlock": (
        "tree",
        "/usr (overlay, as 'ostree admin unlock' makes it)",
        lambda w: w.mounted("50 30 0:50 / /usr rw - overlay overlay rw,lowerdir=usr,upperdir=/x"),
    ),
    "another overlay": (
        "tree",
        "/usr (overlay from overlay)",
        lambda w: w.mounted("50 30 0:50 / /usr rw - overlay overlay rw,lowerdir=/usr,upperdir=/x"),
    ),
    "bind on top of an extension": (
        "tree",
        "root: /usr/bin (ext4",
        lambda w: w.mounted("50 30 0:50 / /usr ro - overlay sysext ro", "51 50 254:1 /evil /usr/bin rw - ext4 /dev/vda1 rw"),
    ),
    "another part of the root over usr": (
        "tree",
        "root: /usr/bin (overlay from composefs:",
        lambda w: w.mounted(f"50 30 0:25 /usr/old /usr/bin ro - overlay {SOURCE} ro"),
    ),
    "mount on top of the root": ("tree", "root: / (tmpfs", lambda w: w.mounted("50 30 0:50 / / rw - tmpfs t rw")),
    "extension where systemd merges none": (
        "tree",
        "/usr/bin (overlay from sysext)",
        lambda w: w.mounted("50 30 0:50 / /usr/bin ro - overlay sysext ro"),
    ),
    "another etc": (
        "tree",
        "root: /etc (ext4 from /dev/vda1)",
        lambda w: w.etc("/usr"),
    ),
    "another overlay over a transient etc": (
        "tree",
        "root: /etc (overlay from overlay)",
        lambda w: replace_table(w, recorded("/var"), "50 32 0:50 / /etc rw - overlay overlay rw,upperdir=/run/x"),
    ),
    "another etc where it is transient": (
        "tree",
        "root: /etc (ext4 from /dev/vda1)",
        lambda w: w.write(recorded("/var")),
    ),
    "a mount that calls itself sysext": ("tree", "/usr (tmpfs", lambda w: w.mounted("50 30 0:50 / /usr rw - tmpfs sysext rw")),
    "another digest in the kernel": ("keyring", "holds sha256:00", lambda w: w.keys("sha256:" + "0" * 64)),
    "two digests in the kernel": ("keyring", "verified was", lambda w: w.keys(str(DIGEST), str(DIGEST))),
    "no digest in the kernel": ("keyring", "holds no digest", lambda w: w.keys()),
    "no ring": ("keyring", "holds no keyring 'bootseal'", lambda w: w.keys(ring=False)),
    "keyring opened": ("keyring", "can be written now", lambda w: w.keys(str(DIGEST), locked=False)),
    "record of another boot": ("boot", "the record is of boot 0", lambda w: w.write(recorded() | {"boot_id": "0"})),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_an_error(name: str, world: World, said: Callable[..., Said]) -> None:
    check, text, change = DIFFERENCES[name]
    change(world)
    found = said()
    assert found.status == 77
    assert "not so any more" in found.out
    assert text in found.err
    assert "bootseal: Changed since boot: " in found.err
    checks = said("short").json["status"]["checks"]
    assert [c["name"] for c in checks if c["state"] == "differs"] == [check]


@pytest.mark.parametrize("name", [n for n, (check, _, _) in DIFFERENCES.items() if check != "boot"])
def test_a_difference_stands_in_the_chain(name: str, world: World, said: Callable[..., Said]) -> None:
    check, _, change = DIFFERENCES[name]
    change(world)
    link = {"image": "image", "root": "overlay", "tree": "root", "keyring": "digest file"}[check]
    answer = said("short").json
    assert [entry["name"] for entry in answer["status"]["chain"] if entry["mark"] == "differs"] == [link]
    assert answer["status"]["result"] == "differs"
    assert errors(answer) == []
    if check == "root":
        assert answer["status"]["chain"][-1]["mark"] == "not-verified", "whatever is mounted there, it was not verified"


def test_method_none_has_nothing_in_the_kernel(world: World, said: Callable[..., Said]) -> None:
    world.write(recorded(method="none", kernel_checked=False))
    world.keys(ring=False)
    assert said().status == 0


def test_incomplete_enrolling_is_no_difference(world: World, said: Callable[..., Said]) -> None:
    record = recorded()
    record["enrollment"]["missing"] = ["no .fs-verity keyring"]
    world.write(record)
    world.patch.setattr(kernelkeys, "find_fsverity_keyring", lambda: None)
    found = said()
    assert found.status == 0
    assert "enrolling was incomplete at boot" in found.err
    world.keys("sha256:" + "0" * 64)  # but another digest is
    assert said().status == 77


@pytest.mark.parametrize(
    "line",
    [
        f"50 30 0:25 /usr /usr ro - overlay {SOURCE} ro",  # ProtectSystem=yes
        "50 32 254:1 /e /etc ro - ext4 /dev/vda1 ro",  # ProtectSystem=full
        "50 32 0:50 / /etc ro - overlay confext ro",
    ],
)
def test_a_sandbox_and_an_extension_are_no_difference(line: str, world: World, said: Callable[..., Said]) -> None:
    world.mounted(line)
    if "confext" in line:
        world.etc("/usr")
    found = said()
    assert (found.status, found.err) == (0, "")
    assert "\n  /usr " not in found.out


def test_transient_etc_is_no_difference(world: World, said: Callable[..., Said]) -> None:
    world.write(recorded("/var"))
    world.etc("/usr")
    world.mounted("50 32 0:50 / /etc rw - overlay overlay rw,upperdir=/run/ostree/transient-etc.0a/upper")
    assert (said().status, said().err) == (0, "")


def test_etc_that_cannot_be_compared_is_unknown(world: World, said: Callable[..., Said]) -> None:
    world.etc("/proc/self/nowhere")
    found = said()
    assert found.status == 0
    assert "/etc was not compared with the deployment's: No such file or directory (ENOENT)" in found.err


def test_a_line_of_the_mount_table_that_cannot_be_parsed_is_unknown(world: World, said: Callable[..., Said]) -> None:
    world.patch.setattr(drift, "mounts", lambda: table()._replace(unread=2))
    found = said()
    assert found.status == 0
    assert "not known: the mount table has 2 lines that cannot be parsed" in found.err
    world.patch.setattr(drift, "mounts", lambda: table("50 30 0:50 / /usr ro - tmpfs tmpfs ro")._replace(unread=1))
    assert said().status == 77


def test_the_mount_table_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*USUAL, "no line of it"]
    monkeypatch.setattr(files, "read_lines", lambda path: lines if path.endswith("mountinfo") else ["mnt_id: 30"])
    found = drift.mounts()
    assert (found.root and found.root.target, len(found.everything), found.unread) == ("/", len(USUAL), 1)


def test_an_image_outside_the_mount_table_is_unknown(world: World, said: Callable[..., Said]) -> None:
    def none(*_: object) -> Digest:
        try:
            raise LookupError
        except LookupError as error:
            raise Refusal(verdicts.UNSUPPORTED, "the mount table does not have it", "/x") from error

    world.measured(none)
    assert said().status == 0
