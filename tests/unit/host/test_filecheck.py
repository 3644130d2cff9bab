# SPDX-License-Identifier: LGPL-2.1-or-later
"""verify of files and of commits: the boot's own check, without a deployment, without root."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.host import carriers, cli

from .program import bootseal, certificate, image, key, signed
from .repositories import BRANCH, DIGEST, commit, repository


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Make an image with its digest and signature."""
    path = image(tmp_path)
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    for kind in ("rsa2048", "p256"):
        (directory / f"{kind}.pem").write_bytes(certificate(kind).read_bytes())
    return directory


def verified(*options: object) -> tuple[int, dict[str, object], str]:
    result = bootseal("verify", *map(str, options), "--json=short")
    return result.returncode, json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("which", ["both", "image", "digest", "digest-and-image"])
def test_good_files(pair: Path, keys: Path, which: str) -> None:
    options = {
        "both": [f"--digest={pair}.digest", f"--signature={pair}.sig"],
        "image": [f"--image={pair}"],
        "digest": [f"--digest={pair}.digest", f"--signature={pair}.sig"],
        "digest-and-image": [f"--image={pair}", f"--digest={pair}.digest", f"--signature={pair}.sig"],
    }[which]
    trust = f"--cert={certificate('p256')}" if which == "digest" else f"--keys={keys}"
    status, record, said = verified(*options, trust)
    assert (status, said) == (0, "")
    assert (record["verdict"], record["name"], record["missing"]) == ("verified", f"{pair}.sig", [])
    assert record["digest"] == f"sha256:{Path(f'{pair}.digest').read_bytes().hex()}"
    assert record["signature"]["subject"] == "CN=test p256"  # type: ignore[index]
    assert "image" not in record, "nothing was pinned"


def test_an_image_without_a_digest_file(pair: Path, keys: Path) -> None:
    Path(f"{pair}.digest").unlink()
    assert verified(f"--image={pair}", f"--keys={keys}")[0] == 0


def test_sha512(tmp_path: Path, keys: Path) -> None:
    path = image(tmp_path)
    signed(path, "--key", key("p256"), "--cert", certificate("p256"), "--algorithm=sha512")
    assert verified(f"--image={path}", f"--keys={keys}")[1]["digest"].startswith("sha512:")  # type: ignore[attr-defined]


def test_text_for_people(pair: Path, keys: Path) -> None:
    result = bootseal("verify", f"--image={pair}", f"--keys={keys}")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == [f"{pair}.sig:", "verified"]
    assert [line[0] for line in lines[1:]] == ["digest", "signer", "keys"]
    assert lines[3] == ["keys", "2", "from", str(keys)]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


BAD: dict[str, tuple[Callable[[Path, Path], object], str, int, str]] = {
    "signature": (lambda pair, _: _flip(Path(f"{pair}.sig")), "wrong-signature", 77, ".sig"),
    "digest": (lambda pair, _: _flip(Path(f"{pair}.digest")), "image-mismatch", 77, ""),
    "image": (lambda pair, _: _flip(pair), "image-mismatch", 77, ""),
    "short-digest": (lambda pair, _: Path(f"{pair}.digest").write_bytes(bytes(33)), "bad-digest", 65, ".digest"),
    "no-signature": (lambda pair, _: Path(f"{pair}.sig").unlink(), "no-signature", 66, ".sig"),
    "pem": (lambda pair, _: Path(f"{pair}.sig").write_bytes(b"-----BEGIN PKCS7-----"), "bad-signature", 65, ".sig"),
    "other-keys": (lambda _, keys: (keys / "p256.pem").unlink(), "untrusted-signer", 77, ".sig"),
}


@pytest.mark.parametrize(("change", "verdict", "status", "names"), BAD.values(), ids=BAD)
def test_bad_files(
    pair: Path, keys: Path, change: Callable[[Path, Path], object], verdict: str, status: int, names: str
) -> None:
    change(pair, keys)
    found, record, said = verified(f"--image={pair}", f"--keys={keys}", "--verbose")
    assert (found, record["verdict"], record["exit_status"]) == (status, verdict, status)
    assert f": {pair}{names}\n" in said
    if verdict == "bad-signature":
        assert [finding["name"] for finding in record["findings"]] == ["pem"]  # type: ignore[attr-defined]


def test_no_keys(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert verified(f"--image={pair}", f"--keys={tmp_path}/none")[1]["verdict"] == "no-keys"
    status, record, _ = verified(f"--image={pair}", f"--cert={pair}")
    assert (status, record["verdict"]) == (78, "no-keys")


@pytest.mark.root
def test_an_unprivileged_user_needs_nothing_else() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = image(Path(name))
        signed(path, "--key", key("p256"), "--cert", certificate("p256"))
        (Path(name) / "cert.pem").write_bytes(certificate("p256").read_bytes())
        Path(name).chmod(0o755)
        child = os.fork()
        if not child:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(cli.main(["verify", f"--image={path}", f"--cert={name}/cert.pem"]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- commits


def _sign_commit(repo: Path, kind: str = "p256") -> None:
    signed(BRANCH, "--repo", repo, "--key", key(kind), "--cert", certificate(kind))


def test_a_signed_commit(tmp_path: Path, keys: Path) -> None:
    repo = repository(tmp_path / "repo")
    checksum = commit(repo)
    _sign_commit(repo)
    for ref in (BRANCH, checksum):
        status, record, said = verified(f"--repo={repo}", ref, f"--keys={keys}")
        assert (status, said) == (0, "")
        assert (record["verdict"], record["name"], record["digest"]) == ("verified", ref, f"sha256:{DIGEST.hex()}")


def test_a_commit_signed_by_a_stranger(tmp_path: Path, keys: Path) -> None:
    repo = repository(tmp_path / "repo")
    commit(repo)
    _sign_commit(repo, "p384")
    status, record, said = verified(f"--repo={repo}", BRANCH, f"--keys={keys}")
    assert (status, record["verdict"]) == (77, "untrusted-signer")
    assert "): the commit's detached metadata\n" in said


def test_an_unsigned_commit(tmp_path: Path, keys: Path) -> None:
    repo = repository(tmp_path / "repo")
    checksum = commit(repo, f"--add-metadata-string={carriers.KEY}=%")
    status, record, said = verified(f"--repo={repo}", BRANCH, f"--keys={keys}")
    assert (status, record["verdict"]) == (66, "no-signature")
    assert "a signature cannot be used: the commit's metadata: bootseal.signature is not base64" in said
    assert checksum[:12] in said


# --- what means nothing


@pytest.mark.parametrize(
    "options",
    [
        ["--image=x"],
        ["--image=x", "--keys=k", "--cert=c"],
        ["--image=x", "--keys=k", "--all"],
        ["--image=x", "--keys=k", "--sysroot=/"],
        ["--image=x", "--keys=k", "--cmdline=x"],
        ["--image=x", "--initrd=i"],
        ["--image=x", "--system-keys"],
        ["--digest=x", "--keys=k"],
        ["--signature=x", "--keys=k"],
        ["--image=x", "--keys=k", "booted"],
        ["--repo=r", "--keys=k"],
        ["--repo=r", "--keys=k", "ref", "--image=x"],
        ["--cert=c"],
    ],
    ids=" ".join,
)
def test_usage(options: list[str]) -> None:
    result = bootseal("verify", *options)
    assert (result.returncode, result.stdout) == (64, "")
    assert result.stderr.startswith("bootseal: Failed to read the command line: ")
