# SPDX-License-Identifier: LGPL-2.1-or-later
"""carriers.py: signatures in the metadata of commits that the real ostree has made, and damage of all kinds."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.formats import pkcs7
from bootseal.host import carriers
from bootseal.host.output import Failure
from bootseal.linux import files
from unit.support import raising

from .repositories import BRANCH, DIGEST, commit, ostree, repository, write_detached

SIGNATURE = b"\x30\x82signature\0"
TEXT = base64.b64encode(SIGNATURE).decode()
MANIFEST = json.dumps({"schemaVersion": 2, "annotations": {carriers.KEY: TEXT, "other": "x"}})
CONFIG = json.dumps({"config": {"Labels": {carriers.KEY: TEXT}}})
CARRIERS = {
    "the commit's metadata": f"--add-metadata-string={carriers.KEY}={TEXT}",
    "the commit's image manifest": f"--add-metadata-string=ostree.manifest={MANIFEST}",
    "the commit's image configuration": f"--add-metadata-string=ostree.container.image-config={CONFIG}",
}
DETACHED = "the commit's detached metadata"


@pytest.fixture(params=["archive", "bare"])
def repo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return repository(tmp_path / "repo", request.param)


def carried(repo: Path) -> list[carriers.Found | carriers.Unusable]:
    return list(carriers.resolve(str(repo), BRANCH).signatures())


def test_each_carrier_in_its_order(repo: Path) -> None:
    checksum = commit(repo, *CARRIERS.values())
    write_detached(repo, checksum, SIGNATURE)
    assert ostree(repo, "show", f"--print-detached-metadata-key={carriers.KEY}", checksum).startswith(r"b'0\202signature")
    assert carried(repo) == [carriers.Found(where, SIGNATURE) for where in (DETACHED, *CARRIERS)]


@pytest.mark.parametrize(("where", "option"), CARRIERS.items())
def test_one_carrier(repo: Path, where: str, option: str) -> None:
    commit(repo, option)
    assert carried(repo) == [carriers.Found(where, SIGNATURE)]


def test_a_commit_without_a_signature(repo: Path) -> None:
    commit(repo, f"--add-metadata-string=ostree.manifest={json.dumps({'annotations': {'a': 'b'}})}")
    assert carried(repo) == []


DAMAGED_TEXT = {
    "not base64": ("+/=x", "is not base64"),
    "not ascii": ("\u00e9", "is not base64"),
    "too long": (base64.b64encode(bytes(pkcs7.MAX_SIZE + 1)).decode(), f"larger than {pkcs7.MAX_SIZE} bytes"),
}


@pytest.mark.parametrize(("text", "why"), DAMAGED_TEXT.values(), ids=DAMAGED_TEXT)
def test_a_string_that_is_no_signature(repo: Path, text: str, why: str) -> None:
    commit(repo, f"--add-metadata-string={carriers.KEY}={text}", CARRIERS["the commit's image manifest"])
    damaged, found = carried(repo)
    assert isinstance(damaged, carriers.Unusable)
    assert str(damaged).startswith("the commit's metadata: ")
    assert why in str(damaged)
    assert found == carriers.Found("the commit's image manifest", SIGNATURE)


DAMAGED_JSON = {
    "not json": ("{", "Expecting"),
    "deep": ("[" * 100_000, "recursion"),
    "number": (json.dumps({"annotations": {carriers.KEY: 7}}), "is not a string"),
}


@pytest.mark.parametrize(("text", "why"), DAMAGED_JSON.values(), ids=DAMAGED_JSON)
def test_a_manifest_that_is_none(repo: Path, text: str, why: str) -> None:
    commit(repo, f"--add-metadata-string=ostree.manifest={text}")
    (damaged,) = carried(repo)
    assert isinstance(damaged, carriers.Unusable)
    assert why in str(damaged)


@pytest.mark.parametrize("text", ["[]", "7", "null", '{"annotations": []}', '{"annotations": {}}'])
def test_a_manifest_of_another_form_has_no_signature(repo: Path, text: str) -> None:
    commit(repo, f"--add-metadata-string=ostree.manifest={text}", f"--add-metadata-string=ostree.container.image-config={text}")
    assert carried(repo) == []


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGED_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "damaged"),
    "junk": (lambda path: path.write_bytes(b"\xff" * 100), "damaged"),
    "1 MB": (lambda path: path.write_bytes(b"x" * 1_000_000), "damaged"),
    "3 MiB": (lambda path: os.truncate(path, 3 << 20), "larger than 2097152 bytes"),
    "fifo": (_make_fifo, "not a regular file"),
    "device": (_link_to_device, "not a regular file"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGED_FILES.values(), ids=DAMAGED_FILES)
def test_detached_metadata_that_is_damaged(repo: Path, damage: Callable[[Path], object], why: str) -> None:
    damage(write_detached(repo, commit(repo), SIGNATURE))
    found = carried(repo)
    assert [type(one) for one in found] == [carriers.Unusable]
    assert str(found[0]).startswith(f"{DETACHED}: {why}")


def test_every_cut_of_both_files_ends(repo: Path) -> None:
    checksum = commit(repo, CARRIERS["the commit's metadata"])
    for path in (write_detached(repo, checksum, SIGNATURE), repo / f"objects/{checksum[:2]}/{checksum[2:]}.commit"):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.chmod(0o644)
            path.write_bytes(whole[:length])
            carried(repo)
        path.write_bytes(whole)
    assert len(carried(repo)) == 2


def test_a_key_of_another_type(repo: Path) -> None:
    write_detached(repo, commit(repo), "text")
    (damaged,) = carried(repo)
    assert str(damaged) == f"{DETACHED}: {carriers.KEY} is of type s, not ay"


def test_a_disk_that_fails_is_no_missing_signature(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = commit(repo)
    monkeypatch.setattr(files, "open_regular", raising(5))
    found = list(carriers.resolve(str(repo), checksum).signatures())
    assert [type(one) for one in found] == [carriers.Unusable] * 4


# --- the digest, and names of commits


def test_the_digest_of_a_commit(repo: Path) -> None:
    commit(repo)
    assert carriers.find_digest(carriers.resolve(str(repo), BRANCH)).value == DIGEST


@pytest.mark.parametrize(
    ("digest", "why"), [(None, "it has no ostree.composefs.digest.v0"), (b"\1" * 31, "31 bytes")], ids=["none", "short"]
)
def test_a_commit_without_a_digest(repo: Path, digest: bytes | None, why: str) -> None:
    commit(repo, digest=digest)
    with pytest.raises(Failure, match=why) as caught:
        carriers.find_digest(carriers.resolve(str(repo), BRANCH))
    assert caught.value.status == 65
    assert digest or "--generate-composefs-metadata" in caught.value.hint


def test_names_of_a_commit(repo: Path, tmp_path: Path) -> None:
    checksum = commit(repo)
    other = repository(tmp_path / "other", "bare-user")
    ostree(other, "remote", "add", "--no-gpg-verify", "origin", f"file://{repo}")
    ostree(other, "pull", "origin", BRANCH)
    for place, name in ((repo, checksum), (repo, BRANCH), (other, f"origin:{BRANCH}"), (other, checksum)):
        assert carriers.find_digest(carriers.resolve(str(place), name)).value == DIGEST


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc/passwd", "a//b", "/a", "a/../b", "-x", "a b", ":x", "x:", "a\n", "o:../x"]
)
def test_what_is_no_name_of_a_commit(repo: Path, name: str) -> None:
    with pytest.raises(Failure, match="neither a checksum nor the name of a branch") as caught:
        carriers.resolve(str(repo), name)
    assert caught.value.status == 65


def test_commits_that_are_not_there(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file") as caught:
        carriers.resolve(str(repo), "absent")
    assert caught.value.status == 74
    with pytest.raises(Failure, match="No such file"):
        carriers.find_digest(carriers.resolve(str(repo), "a" * 64))
    (repo / "refs/heads/junk").write_text("junk")
    with pytest.raises(Failure, match="does not contain a checksum"):
        carriers.resolve(str(repo), "junk")


# --- a file of the deployed tree


def test_a_file_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "boot/bootseal").mkdir(parents=True)
    directory = os.open(tmp_path, os.O_PATH)
    try:
        assert list(carriers.in_tree(directory, DIGEST)) == []
        path = tmp_path / f"boot/bootseal/{DIGEST.hex()}.sig"
        path.write_bytes(SIGNATURE)
        where = f"/boot/bootseal/{DIGEST.hex()}.sig of the tree"
        assert list(carriers.in_tree(directory, DIGEST)) == [carriers.Found(where, SIGNATURE)]
        path.unlink()
        path.symlink_to("/proc/kmsg")
        assert list(carriers.in_tree(directory, DIGEST)) == []
    finally:
        os.close(directory)


def test_a_commit_under_the_name_of_another_one(repo: Path) -> None:
    """Otherwise, whoever can write the repository chooses the digest that is signed."""
    checksum, other = commit(repo), commit(repo, digest=bytes(32), branch="other")
    place, wrong = (repo / f"objects/{name[:2]}/{name[2:]}.commit" for name in (checksum, other))
    place.write_bytes(wrong.read_bytes())
    with pytest.raises(Failure, match=r"Failed to read the commit .*: its content has another checksum") as caught:
        carriers.find_digest(carriers.resolve(str(repo), BRANCH))
    assert caught.value.status == 65


def test_metadata_has_a_limit(repo: Path) -> None:
    path = write_detached(repo, commit(repo), SIGNATURE)
    path.write_bytes(bytes(carriers._MAX_METADATA + 1))
    (found,) = carried(repo)
    assert str(found) == f"{DETACHED}: larger than {carriers._MAX_METADATA} bytes"
