# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal sign: its output equals that of fsverity and openssl, and it checks its input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from bootseal import digest
from bootseal.digest import Digest
from bootseal.formats import pkcs7
from bootseal.host import imagedigest
from bootseal.host.commands import sign
from bootseal.stages import keyring, verify
from bootseal.values import BootKeyring, Unverified

from . import program
from .program import KEYS, beside, bootseal, certificate, files_of, image, key, signed, tool, verdict


def _digest_of(content: bytes) -> Digest:
    return imagedigest.of_blocks([content], "sha256")


def _to_be_signed(value: bytes) -> bytes:
    return digest.of_bytes(value, "sha256").formatted()


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_round_trip(tmp_path: Path, name: str, algorithm: str) -> None:
    path = image(tmp_path)
    output = signed(path, "--key", key(name), "--cert", certificate(name), "--algorithm", algorithm)
    value, signature = beside(path)
    assert output == f"{algorithm}:{value.hex()} {path}\n"
    assert value.hex() == tool("fsverity", "digest", "--compact", f"--hash-alg={algorithm}", path).strip()
    assert verdict(path, name) == "verified"

    content = tmp_path / "content"
    content.write_bytes(_to_be_signed(value))
    assert tool("fsverity", "digest", "--compact", "--for-builtin-sig", f"{path}.digest").strip() == content.read_bytes().hex()
    trust = ("-nointern", "-noverify", "-certfile", certificate(name), "-inform", "DER", "-binary")
    tool("openssl", "cms", "-verify", "-in", f"{path}.sig", "-content", content, "-out", os.devnull, *trust)

    theirs = tmp_path / "theirs"
    tool("fsverity", "sign", f"{path}.digest", theirs, f"--key={key(name)}", f"--cert={certificate(name)}")
    assert _without_value(signature) == _without_value(theirs.read_bytes())
    if name.startswith("rsa"):
        assert signature == theirs.read_bytes()


def _without_value(message: bytes) -> tuple[object, ...]:
    """Return a message without its ECDSA value, which differs each time."""
    info = pkcs7.parse(message)
    head, _, tail = message.partition(info.value)
    assert not tail
    # The lengths of what surrounds the value depend on its own, by a few bytes.
    return info._replace(value=b""), head[-40:-2]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_given(tmp_path: Path, algorithm: str) -> None:
    path = image(tmp_path)
    options = ("--key", key("rsa2048"), "--cert", certificate("rsa2048"))
    name = signed(path, *options, "--algorithm", algorithm).split()[0]
    expected = beside(path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    signed(elsewhere / "absent.cfs", *options, "--digest", name)
    assert beside(elsewhere / "absent.cfs") == expected


HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("raw", [False, True], ids=["der", "ieee-p1363"])
@pytest.mark.parametrize("name", KEYS)
def test_signed_elsewhere(tmp_path: Path, name: str, hash_name: str, raw: bool) -> None:  # noqa: FBT001
    path, to_sign = image(tmp_path), tmp_path / "to-be-signed"
    signed(path, "--to-be-signed", to_sign)
    assert files_of(path) == {path.name}
    value = _digest_of(path.read_bytes()).value
    assert to_sign.read_bytes() == _to_be_signed(value)

    private = serialization.load_pem_private_key(key(name).read_bytes(), None)
    if isinstance(private, rsa.RSAPrivateKey):
        signature = private.sign(to_sign.read_bytes(), padding.PKCS1v15(), HASHES[hash_name])
    else:
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        signature = private.sign(to_sign.read_bytes(), ec.ECDSA(HASHES[hash_name]))
        if raw:
            width = (private.curve.key_size + 7) // 8
            signature = b"".join(part.to_bytes(width, "big") for part in decode_dss_signature(signature))
    file = tmp_path / "signature"
    file.write_bytes(signature)
    signed(path, "--signature", file, "--cert", certificate(name))
    assert verdict(path, name) == "verified"
    assert pkcs7.parse(beside(path)[1]).hash_name == hash_name


def test_signed_by_openssl_as_the_manual_says(tmp_path: Path) -> None:
    path = image(tmp_path)
    signed(path, "--to-be-signed", tmp_path / "tbs")
    for name in ("rsa2048", "p256"):
        tool("openssl", "dgst", "-sha256", "-sign", key(name), "-out", tmp_path / "raw", tmp_path / "tbs")
        signed(path, "--signature", tmp_path / "raw", "--cert", certificate(name))
        assert verdict(path, name) == "verified"


def test_to_be_signed_on_stdout(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, "-I", program.TREE / "service", "sign", image(tmp_path), "--to-be-signed", "-"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    assert output == _to_be_signed(_digest_of(image(tmp_path).read_bytes()).value)


@pytest.mark.parametrize(
    "signature",
    [b"", b"\0", bytes(256), bytes(64), bytes.fromhex("3006020101020101")],
    ids=["empty", "one-byte", "256-zeros", "64-zeros", "ecdsa-1-1"],
)
@pytest.mark.parametrize("name", ["rsa2048", "p256"])
def test_a_signature_that_does_not_verify_is_not_written(tmp_path: Path, name: str, signature: bytes) -> None:
    path = image(tmp_path)
    (tmp_path / "raw").write_bytes(signature)
    result = bootseal("sign", path, "--signature", tmp_path / "raw", "--cert", certificate(name))
    assert result.returncode == 65
    assert "does not verify" in result.stderr
    assert files_of(path) == {path.name}


def test_signature_of_another_image_is_not_written(tmp_path: Path) -> None:
    path = image(tmp_path)
    signed(path, "--to-be-signed", tmp_path / "tbs")
    tool("openssl", "dgst", "-sha256", "-sign", key("p256"), "-out", tmp_path / "raw", tmp_path / "tbs")
    path.write_bytes(path.read_bytes() + b"\0")
    result = bootseal("sign", path, "--signature", tmp_path / "raw", "--cert", certificate("p256"))
    assert result.returncode == 65
    assert files_of(path) == {path.name}


REFUSED = {
    "other-certificate": ("p256", lambda: certificate("p384"), 65, "does not belong to the private key"),
    "certificate-of-another-kind": ("p256", lambda: certificate("rsa2048"), 65, "does not belong to the private key"),
    "key-too-small": ("rsa1024", lambda: certificate("rsa1024"), 65, "an RSA key of 1024 bits"),
    "exponent-3": ("rsa2048e3", lambda: certificate("rsa2048e3"), 65, "a public exponent below 65537"),
    "curve": ("k256", lambda: certificate("k256"), 65, "curve 1.3.132.0.10"),
    "ed25519": ("ed25519", lambda: certificate("ed25519"), 65, "neither an RSA nor an ECDSA key"),
    "key-usage": ("p256", lambda: certificate("p256", usage="key_agreement"), 65, "without digitalSignature"),
    "no-certificate-file": ("p256", lambda: Path("/nowhere.pem"), 74, "No such file or directory"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(tmp_path: Path, case: tuple[str, Callable[[], Path], int, str]) -> None:
    name, cert, status, text = case
    path = image(tmp_path)
    result = bootseal("sign", path, "--key", key(name), "--cert", cert())
    assert (result.returncode, result.stdout) == (status, "")
    assert text in result.stderr
    assert files_of(path) == {path.name}


@pytest.mark.parametrize("expired", [False, True])
def test_an_expired_certificate_is_no_hindrance(tmp_path: Path, expired: bool) -> None:  # noqa: FBT001
    path = image(tmp_path)
    found = bootseal("sign", path, "--key", key("p256"), "--cert", certificate("p256", expired=expired))
    assert found.returncode == 0
    dates = "2001-01-01T00:00:00Z to 2002-01-01T00:00:00Z"
    line = f"bootseal: warning: the certificate of CN=test p256 is valid only from {dates}: the boot does not check dates\n"
    assert found.stderr == (line if expired else "")
    assert verdict(path, certificate("p256", expired=expired)) == "verified"


USAGE = {
    "nothing": [],
    "no-certificate": ["--key", "K"],
    "signature-without-certificate": ["--signature", "S"],
    "two-ways": ["--key", "K", "--signature", "S", "--cert", "C"],
    "algorithm-twice": ["--key", "K", "--cert", "C", "--digest", "sha256:" + "00" * 32, "--algorithm", "sha256"],
    "unknown-algorithm": ["--key", "K", "--cert", "C", "--algorithm", "sha1"],
    "ephemeral-without-command": ["--ephemeral", "."],
    "command-without-ephemeral": ["--key", "K", "--cert", "C", "--", "true"],
    "abbreviated": ["--ke", "K", "--cert", "C"],
}


@pytest.mark.parametrize("options", USAGE.values(), ids=USAGE)
def test_usage_errors(tmp_path: Path, options: list[str]) -> None:
    result = bootseal("sign", image(tmp_path), *options)
    assert (result.returncode, result.stdout) == (64, "")
    assert result.stderr.startswith("bootseal: Failed to ")


def test_json(tmp_path: Path) -> None:
    path = image(tmp_path)
    options = (path, "--key", key("p384"), "--cert", certificate("p384"))
    short, pretty = (signed(*options, f"--json={mode}") for mode in ("short", "pretty"))
    assert short.count("\n") == 1
    assert pretty.count("\n") > 5
    expected = {
        "version": 1,
        "image": str(path),
        "digest": f"sha256:{beside(path)[0].hex()}",
        "algorithm": "ecdsa-sha256",
        "files": [f"{path}.digest", f"{path}.sig"],
    }
    assert json.loads(short) == json.loads(pretty) == expected


def test_ephemeral(tmp_path: Path) -> None:
    path = tmp_path / "image.cfs"
    # The image comes to be in the command, and holds the certificate: as a build does.
    command = ["sh", "-c", f"cat keys/ephemeral.crt > {path}; grep -h Vm[LS] /proc/$PPID/status; ulimit -c"]
    (tmp_path / "keys").mkdir()
    result = bootseal("sign", "--ephemeral", tmp_path / "keys", path, "--json=short", "--", *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["files"] == [f"{path}.digest", f"{path}.sig"]
    ring = BootKeyring(tuple(keyring.load_file(str(tmp_path / "keys" / "ephemeral.crt"))), ())
    value, signature = beside(path)
    verified = verify.verify(Unverified(value, stands_in=False, signature=signature, pair_path=""), ring)
    assert verified.digest == _digest_of(path.read_bytes())
    assert b"BEGIN CERTIFICATE" in path.read_bytes()
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "ephemeral.crt",
        "image.cfs",
        "image.cfs.digest",
        "image.cfs.sig",
        "keys",
    ]
    if os.geteuid() == 0:
        locked = next(int(line.split()[1]) for line in result.stderr.splitlines() if line.startswith("VmLck"))
        assert locked > 1000


def test_the_certificate_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key exists in memory only. If a power cut empties the certificate, it cannot be made a second time."""
    seen = list[str]()
    real: dict[str, Callable[..., None]] = {"fsync": os.fsync, "replace": os.replace}

    def fsync(fd: int) -> None:
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        real["fsync"](fd)

    def replace(*names: str) -> None:
        seen.append("replace")
        real["replace"](*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    sign._write_certificate(str(tmp_path / "ephemeral.crt"), b"x")
    assert seen == ["ephemeral.crt.new", "replace", tmp_path.name]


def test_what_is_no_image_is_signed_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "image.cfs"
    path.write_bytes(bytes(4096))
    result = bootseal("sign", path, "--key", key("p256"), "--cert", certificate("p256"))
    assert (result.returncode, result.stderr) == (
        0,
        f"bootseal: warning: {path} is not an EROFS image, so no boot can mount it\n",
    )


@pytest.mark.parametrize(("command", "status"), [(["false"], 71), (["/nowhere/tool"], 71), (["sh", "-c", "kill -9 $$"], 71)])
def test_ephemeral_with_a_build_that_fails(tmp_path: Path, command: list[str], status: int) -> None:
    path = image(tmp_path)
    result = bootseal("sign", "--ephemeral", tmp_path, path, "--", *command)
    assert result.returncode == status
    assert files_of(path) == {path.name}


def test_ephemeral_without_an_image(tmp_path: Path) -> None:
    result = bootseal("sign", "--ephemeral", tmp_path, tmp_path / "image", "--", "true")
    assert result.returncode == 74
    assert result.stderr.splitlines()[-1] == "bootseal: hint: COMMAND must make it"


@pytest.mark.parametrize("place", ["nowhere", "full"])
def test_ephemeral_without_a_place_for_the_certificate(tmp_path: Path, place: str) -> None:
    path = image(tmp_path)
    if place == "full":
        (tmp_path / place / "ephemeral.crt").mkdir(parents=True)
    result = bootseal("sign", "--ephemeral", tmp_path / place, path, "--", "true")
    assert (result.returncode, result.stdout) == (73, "")
    assert ("hint: create the directory of --ephemeral= first" in result.stderr) == (place == "nowhere")
    assert not (tmp_path / place / "ephemeral.crt.new").exists()


# Below nohup, or in the background of a shell, a program is to ignore some of them; not so in this test.
_DEFAULTS = (
    "import os, signal, sys; [signal.signal(n, signal.SIG_DFL) for n in (1, 2, 15)]; os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_build_and_the_program_dies_of_it(tmp_path: Path, number: signal.Signals) -> None:
    path = image(tmp_path)
    command = [sys.executable, "-c", _DEFAULTS, sys.executable, "-I", str(program.TREE / "service")]
    command += ["sign", "--ephemeral", str(tmp_path), str(path), "--"]
    build = f"import sys, time; print('built', file=sys.stderr, flush=True); time.sleep({2 * program.HANG})"
    with subprocess.Popen([*command, sys.executable, "-c", build], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        note, built = process.stderr.readline(), process.stderr.readline()
        process.send_signal(number)
        _, rest = process.communicate(timeout=program.HANG)  # to the end of stderr, which the build has open, too
        assert process.returncode == -number
    assert note.startswith("bootseal: certificate of this build")
    assert (built, rest) == ("built\n", "")
    assert files_of(path) == {path.name}


@pytest.mark.parametrize("name", ["", ".", "..", "directory/"])
def test_an_image_without_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    options = ("--digest", "sha256:" + "00" * 32, "--key", key("p256"), "--cert", certificate("p256"))
    assert bootseal("sign", f"{name}", *options, cwd=tmp_path).returncode == 64
    assert [p.name for p in tmp_path.rglob("*")] == ["directory"]
