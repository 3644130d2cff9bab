# SPDX-License-Identifier: LGPL-2.1-or-later
"""ostreerepo.py: signatures in the metadata of commits, through bootseal sign."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bootseal.host import carriers, cli
from bootseal.stages import keyring, verify
from bootseal.values import BootKeyring, Unverified

from .program import bootseal, certificate, image, key, signed, tool
from .repositories import BRANCH, DIGEST, commit, ostree, repository


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repo")


def _carried(repo: Path, ref: str = BRANCH) -> list[bytes]:
    found = list(carriers.resolve(str(repo), ref).signatures())
    assert all(isinstance(one, carriers.Found) for one in found)
    return [one.signature for one in found if isinstance(one, carriers.Found)]


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_a_commit_gets_the_signature(repo: Path, kind: str) -> None:
    checksum = commit(repo, "--add-detached-metadata-string=ostree.sign.note=kept")
    objects = set(repo.rglob("*"))
    options = ("--key", key(kind), "--cert", certificate(kind), "--json=short")
    said = json.loads(signed(BRANCH, "--repo", repo, *options))
    assert (said["commit"], said["key"], said["digest"]) == (checksum, carriers.KEY, f"sha256:{DIGEST.hex()}")
    (signature,) = _carried(repo)
    trusted = BootKeyring((keyring.load_file(str(certificate(kind)))[0],), ())
    assert verify.verify(Unverified(DIGEST, stands_in=False, signature=signature, pair_path=""), trusted)
    assert ostree(repo, "show", "--print-detached-metadata-key=ostree.sign.note", BRANCH).strip() == "'kept'"
    assert set(repo.rglob("*")) == objects, "nothing but the detached metadata is written"
    assert ostree(repo, "rev-parse", BRANCH).strip() == checksum
    ostree(repo, "fsck")
    signed(checksum, "--repo", repo, *options)
    assert len(_carried(repo)) == 1, "a second signature replaces the first"


def test_a_commit_in_two_steps(repo: Path, tmp_path: Path) -> None:
    commit(repo)
    signed(BRANCH, "--repo", repo, "--to-be-signed", tmp_path / "tbs")
    assert _carried(repo) == []
    tool("openssl", "dgst", "-sha256", "-sign", key("p256"), "-out", tmp_path / "raw", tmp_path / "tbs")
    signed(BRANCH, "--repo", repo, "--signature", tmp_path / "raw", "--cert", certificate("p256"))
    assert len(_carried(repo)) == 1


def test_a_commit_of_an_ephemeral_build(repo: Path, tmp_path: Path) -> None:
    made = ["ostree", f"--repo={repo}", "commit", f"--branch={BRANCH}", f"--tree=dir={tmp_path}"]
    made += [f"--add-metadata={carriers.DIGEST_KEY}=[{', '.join(f'byte {value}' for value in DIGEST)}]"]
    (tmp_path / "keys").mkdir()
    signed(BRANCH, "--repo", repo, "--ephemeral", tmp_path / "keys", "--", *made)
    assert len(_carried(repo)) == 1


def test_the_signature_travels(repo: Path, tmp_path: Path) -> None:
    commit(repo)
    signed(BRANCH, "--repo", repo, "--key", key("p256"), "--cert", certificate("p256"), "--also-in-commit")
    other = repository(tmp_path / "other", "bare-user")
    ostree(other, "pull-local", str(repo), BRANCH)
    remote = repository(tmp_path / "remote", "bare-user")
    ostree(remote, "remote", "add", "--no-gpg-verify", "origin", f"file://{repo}")
    ostree(remote, "pull", "origin", BRANCH)
    delta = repository(tmp_path / "delta", "bare-user")
    ostree(repo, "static-delta", "generate", "--empty", "--inline", "--filename", str(tmp_path / "file"), BRANCH)
    ostree(delta, "static-delta", "apply-offline", str(tmp_path / "file"))
    checksum = ostree(repo, "rev-parse", BRANCH).strip()
    signatures = _carried(repo)
    assert len(set(signatures)) == 1
    assert len(signatures) == 2
    for place, ref in ((other, BRANCH), (remote, f"origin:{BRANCH}"), (delta, checksum)):
        assert _carried(place, ref) == signatures


def test_the_commit_made_again_is_the_same_otherwise(repo: Path) -> None:
    first = commit(repo)
    before = commit(repo, "--body=A body", "--add-metadata-string=kept=yes")
    signed(BRANCH, "--repo", repo, "--key", key("p256"), "--cert", certificate("p256"), "--also-in-commit")
    after = ostree(repo, "rev-parse", BRANCH).strip()
    assert after != before
    shown = [ostree(repo, "show", checksum).replace(checksum, "") for checksum in (before, after)]
    assert shown[0] == shown[1]
    assert ostree(repo, "rev-parse", f"{after}^").strip() == first
    assert ostree(repo, "show", "--print-metadata-key=kept", after).strip() == "'yes'"
    assert ostree(repo, "ls", "-RC", before) == ostree(repo, "ls", "-RC", after)


@pytest.mark.parametrize(
    ("options", "status", "what"),
    [
        (["--digest", "sha256:" + "00" * 32], 64, "--repo= takes the digest from the commit"),
        (["--algorithm", "sha512"], 64, "--repo= takes the digest from the commit"),
        (["--repo", "/nowhere"], 74, "Failed to find the commit os/stable in /nowhere"),
    ],
)
def test_a_commit_that_cannot_be_signed(repo: Path, options: list[str], status: int, what: str) -> None:
    commit(repo)
    result = bootseal("sign", BRANCH, "--repo", repo, "--key", key("p256"), "--cert", certificate("p256"), *options)
    assert (result.returncode, what in result.stderr) == (status, True), result.stderr
    assert _carried(repo) == []


def test_only_a_branch_can_be_made_again(repo: Path, tmp_path: Path) -> None:
    checksum = commit(repo)
    options = ("--key", key("p256"), "--cert", certificate("p256"), "--also-in-commit")
    result = bootseal("sign", checksum, "--repo", repo, *options)
    assert (result.returncode, "give its name, not a checksum" in result.stderr) == (64, True)
    result = bootseal("sign", image(tmp_path), *options)
    assert (result.returncode, "--also-in-commit needs --repo=" in result.stderr) == (64, True)


def test_a_commit_without_a_digest(repo: Path) -> None:
    commit(repo, digest=None)
    result = bootseal("sign", BRANCH, "--repo", repo, "--key", key("p256"), "--cert", certificate("p256"))
    assert result.returncode == 65
    assert "--generate-composefs-metadata" in result.stderr


def test_a_repository_that_cannot_be_written(repo: Path) -> None:
    checksum = commit(repo)
    (repo / f"objects/{checksum[:2]}/{checksum[2:]}.commitmeta").mkdir()
    result = bootseal("sign", BRANCH, "--repo", repo, "--key", key("p256"), "--cert", certificate("p256"))
    assert result.returncode == 73
    assert result.stderr.startswith(f"bootseal: Failed to sign the commit {checksum} in {repo}: ")


def test_a_machine_without_the_binding(repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commit(repo)
    monkeypatch.setitem(sys.modules, "gi", None)
    options = [f"--repo={repo}", f"--key={key('p256')}", f"--cert={certificate('p256')}"]
    assert cli.main(["sign", BRANCH, *options]) == 69
    assert "python3-gi and gir1.2-ostree-1.0" in capsys.readouterr().err
