# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test keyring.py: a file is loaded as a whole or skipped and named."""

import base64
import hashlib
import os
import signal
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from bootseal.formats import der
from bootseal.formats import x509 as x509_reader
from bootseal.stages import keyring
from unit.support import VECTORS, make_certificate, oid, private_key, refusal, tlv, verdict, with_field

CERTS = VECTORS / "certs"
KEY = private_key("p256")
P256 = (CERTS / "p256.der").read_bytes()

USABLE = {
    "p256": "ecdsa", "p384": "ecdsa", "p521": "ecdsa", "rsa2048": "rsa", "rsa3072": "rsa", "rsa4096": "rsa",
    "p256-1960": "before 1970", "p256-expired": "expired", "p256-future": "not yet valid", "p256-y9999": "year 9999",
    "p256-noext": "no extensions", "p256-ds": "digitalSignature", "p256-eku-codesign": "codeSigning",
    "p256-renewed": "renewed", "p256-serial1": "X.509v1-like serial", "rsa2048-sha1": "self-signature with SHA-1",
    "rsa2048-pss": "self-signature with PSS", "ee": "end entity",
}  # fmt: skip
UNUSABLE = {
    "p192": "curve", "p224": "curve", "k256": "curve", "ed25519": "neither an RSA nor an ECDSA key",
    "rsa1024": "1024 bits", "rsa8192": "8192 bits", "rsa2048e3": "exponent",
    "p256-certsign-only": "digitalSignature", "p256-keyenc-only": "digitalSignature",
    "p256-eku-server": "codeSigning", "p256-critical-unknown": "critical extension",
    "odd-empty": "not only CERTIFICATE", "odd-junk": "not only CERTIFICATE", "odd-truncated": "not one DER",
    "odd-trailing": "not one DER", "odd-two-concatenated": "not one DER", "odd-negative-serial": "negative",
}  # fmt: skip


def loaded(name: str) -> list[str]:
    return [c.sha256 for c in keyring.load_file(str(CERTS / name))]


def fingerprint(name: str) -> str:
    return hashlib.sha256((CERTS / f"{name}.der").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("suffix", ["der", "pem"])
def test_usable_certificate_is_loaded(name: str, suffix: str) -> None:
    assert loaded(f"{name}.{suffix}") == [fingerprint(name)]


@pytest.mark.parametrize(("name", "why"), UNUSABLE.items())
def test_unusable_certificate_is_rejected(name: str, why: str) -> None:
    with pytest.raises(keyring.Unusable, match=why):
        loaded(f"{name}.der")


PEM_FILES = [n for n in UNUSABLE if (CERTS / f"{n}.pem").exists()]


@pytest.mark.parametrize("name", PEM_FILES)
def test_unusable_certificate_in_pem_is_rejected(name: str) -> None:
    with pytest.raises(keyring.Unusable, match=UNUSABLE[name]):
        loaded(f"{name}.pem")


def test_bundle_gives_each_certificate() -> None:
    found = loaded("odd-bundle.pem")
    assert len(found) == (CERTS / "odd-bundle.pem").read_text().count("BEGIN CERTIFICATE") > 1
    assert len(set(found)) == len(found)


def test_pem_with_crlf_is_loaded() -> None:
    assert len(loaded("odd-crlf.pem")) == 1


@pytest.mark.parametrize(
    ("name", "why"), [("odd-key-in-cert.pem", "private key"), ("odd-trusted-header.pem", "not only CERTIFICATE")]
)
def test_pem_with_other_blocks_is_rejected(name: str, why: str) -> None:
    with pytest.raises(keyring.Unusable, match=why):
        loaded(name)


def pem(der: bytes, label: str = "CERTIFICATE") -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def from_text(tmp_path: Path, text: str | bytes) -> int:
    path = tmp_path / "x.pem"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return len(keyring.load_file(str(path)))


@pytest.mark.parametrize(
    "text",
    [
        "Issuer: me\n" + pem(P256),
        pem(P256) + "a comment after\n",
        "\n\n" + pem(P256) + "\n\n",
        pem(P256).rstrip(),
        "# c\r\n" + pem(P256),
    ],
    ids=["comment before", "comment after", "blank lines", "no newline at the end", "CRLF comment"],
)
def test_pem_with_comments_is_loaded(text: str, tmp_path: Path) -> None:
    assert from_text(tmp_path, text) == 1


BAD_PEM = {
    "no END line": pem(P256).partition("-----END")[0],
    "base64 cut off": pem(P256).replace("MII", "MI", 1),
    "a character that is none of base64": pem(P256).replace("\nMII", "\nMI!I", 1),
    "bytes after the certificate": pem(P256 + b"\0"),
    "two certificates in one block": pem(P256 + P256),
    "empty block": pem(b""),
    "a bad one behind a good one": pem(P256) + pem((CERTS / "rsa1024.der").read_bytes()),
    "a cut one behind a good one": pem(P256) + pem(P256)[:200],
    "certificate request": pem(P256, "CERTIFICATE REQUEST"),
    "X509 CERTIFICATE": pem(P256, "X509 CERTIFICATE"),
    "a CRL behind a good one": pem(P256) + pem(P256, "X509 CRL"),
    "public key behind a good one": pem(P256) + pem(P256, "PUBLIC KEY"),
    "EC private key": pem(P256, "EC PRIVATE KEY"),
    "encrypted key behind a good one": pem(P256) + pem(P256, "ENCRYPTED PRIVATE KEY"),
    "comment that is not ASCII": "Ä\n" + pem(P256),
    "text": "hello\n",
    "base64 without armour": base64.b64encode(P256).decode(),
}


@pytest.mark.parametrize("text", BAD_PEM.values(), ids=BAD_PEM)
def test_malformed_pem_is_rejected(text: str, tmp_path: Path) -> None:
    with pytest.raises(keyring.Unusable):
        from_text(tmp_path, text)


PEM_REASONS = {
    "no END line": "PEM without an END line",
    "base64 cut off": "damaged base64",
    "a character that is none of base64": "damaged base64",
    "comment that is not ASCII": "neither PEM nor DER",
    "certificate request": "not only CERTIFICATE blocks",
}


@pytest.mark.parametrize(("name", "why"), PEM_REASONS.items())
def test_rejected_pem_names_the_reason(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(keyring.Unusable, match=why):
        from_text(tmp_path, BAD_PEM[name])


def test_private_key_is_named_first(tmp_path: Path) -> None:
    with pytest.raises(keyring.Unusable, match="private key"):
        from_text(tmp_path, pem(b"x", "PRIVATE KEY"))


@pytest.mark.parametrize("size", range(0, len(P256), 7))
def test_every_truncation_is_unusable(size: int) -> None:
    with pytest.raises(keyring.Unusable):
        keyring.certificate("x", P256[:size])


def test_flipped_bit_is_loaded_or_unusable() -> None:
    """A certificate's own signature is not checked, because it is trusted by its bytes. Damage must not crash."""
    for bit in range(0, len(P256) * 8, 3):
        changed = bytearray(P256)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = keyring.certificate("x", bytes(changed))
        except keyring.Unusable:
            continue
        assert found.der == bytes(changed)


# --- fields of a certificate


def test_certificate_has_the_attributes_of_its_der() -> None:
    (found,) = keyring.load_file(str(CERTS / "p256.der"))
    parsed = x509.load_der_x509_certificate(P256)
    assert (found.path, found.der, found.sha256) == (str(CERTS / "p256.der"), P256, hashlib.sha256(P256).hexdigest())
    assert found.issuer == parsed.issuer.public_bytes()
    assert int.from_bytes(found.serial, "big") == parsed.serial_number
    assert found.subject_text == parsed.subject.rfc4514_string()
    assert found.issuer_text == parsed.issuer.rfc4514_string()
    spki = parsed.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert found.key == ("ecdsa", 256, spki)


@pytest.mark.parametrize(
    ("name", "year"), [("p256-1960", "1960"), ("p256-expired", "2001"), ("p256-y9999", "9999"), ("p256-future", "2110")]
)
def test_dates_are_reported_not_enforced(name: str, year: str) -> None:
    (found,) = keyring.load_file(str(CERTS / f"{name}.der"))
    assert any(text.startswith(year) for text in (found.not_before, found.not_after))
    for text in (found.not_before, found.not_after):
        assert len(text) == 20
        assert (text[4], text[10], text[-1]) == ("-", "T", "Z")


def test_validity_is_formatted_in_utc() -> None:
    found = keyring.certificate("x", make_certificate(KEY, days=(0, 1)))
    assert (found.not_before, found.not_after) == ("2025-06-01T00:00:00Z", "2025-06-02T00:00:00Z")


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nbootseal: verified", "Zürich", "\u202egnp"])
def test_names_are_printable(name: str) -> None:
    found = keyring.certificate("x", make_certificate(KEY, name=name))
    assert all(" " <= c <= "~" for c in found.subject_text + found.issuer_text)


PURPOSES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def key_usage(*purposes: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{purpose: purpose in purposes for purpose in PURPOSES})


USAGES = {
    "no key usage": ([], True),
    "digitalSignature": ([(key_usage("digital_signature"), True)], True),
    "digitalSignature among others": (
        [(key_usage("digital_signature", "key_cert_sign", "crl_sign"), True)],
        True,
    ),
    "keyCertSign alone": ([(key_usage("key_cert_sign"), True)], False),
    "keyCertSign alone, not critical": ([(key_usage("key_cert_sign"), False)], False),
    "nonRepudiation alone": ([(key_usage("content_commitment"), True)], False),
    "codeSigning": ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), True)], True),
    "any": ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)], True),
    "TLS server": ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)], False),
    "unknown extension": ([(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)], True),
    "unknown critical extension": ([(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)], False),
    "CA": ([(x509.BasicConstraints(True, None), True)], True),
}


@pytest.mark.parametrize(("extensions", "usable"), USAGES.values(), ids=USAGES)
def test_key_usage_decides(extensions: list[tuple[x509.ExtensionType, bool]], *, usable: bool) -> None:
    try:
        keyring.certificate("x", make_certificate(KEY, *extensions))
    except keyring.Unusable:
        assert not usable
    else:
        assert usable


RSA2048 = (CERTS / "rsa2048.der").read_bytes()
PSS = "1.2.840.113549.1.1.10"


@pytest.mark.parametrize("parameters", [b"", tlv(0x30)], ids=["absent", "default"])
def test_key_restricted_to_pss_is_rejected(parameters: bytes) -> None:
    """A key with id-RSASSA-PSS must not make PKCS#1 v1.5 signatures (RFC 4055), and no kernel accepts it."""
    _, bits = der.items(der.items(x509_reader.parse(RSA2048).key.spki)[0].content)
    changed = with_field(RSA2048, 6, tlv(0x30, tlv(0x30, oid(PSS), parameters), bits.raw))
    with pytest.raises(keyring.Unusable, match="neither an RSA nor an ECDSA key"):
        keyring.certificate("x", changed)


@pytest.mark.parametrize("at", [1, 32, 33, 64])
def test_point_that_is_not_on_its_curve_is_rejected(at: int) -> None:
    spki = bytearray(x509_reader.parse(P256).key.spki)
    assert keyring.certificate("x", with_field(P256, 6, bytes(spki)))
    spki[-65 + at] ^= 1
    with pytest.raises(keyring.Unusable, match="OpenSSL cannot load"):
        keyring.certificate("x", with_field(P256, 6, bytes(spki)))


def test_serial_of_20_bytes_is_kept() -> None:
    found = keyring.certificate("x", make_certificate(KEY, serial=(1 << 159) - 1))
    assert found.serial == b"\x7f" + b"\xff" * 19


def test_serial_with_the_top_bit_keeps_its_leading_zero() -> None:
    assert keyring.certificate("x", make_certificate(KEY, serial=0x80)).serial == b"\x00\x80"


def test_serial_of_zero_is_kept() -> None:
    assert keyring.certificate("x", with_field(P256, 1, tlv(2, b"\0"))).serial == b"\0"


def rsa_key(bits: int, exponent: int = 65537) -> bytes:
    """Return a public key of this size, without a private key."""
    key = rsa.RSAPublicNumbers(exponent, (1 << bits) - 1).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


KEYS = {
    "2047 bits": (rsa_key(2047), "an RSA key of 2047 bits, where 2048 to 4096 are allowed"),
    "2048 bits": (rsa_key(2048), ""),
    "4096 bits": (rsa_key(4096), ""),
    "4097 bits": (rsa_key(4097), "an RSA key of 4097 bits, where 2048 to 4096 are allowed"),
    "exponent 65535": (rsa_key(2048, 65535), "an RSA key with a public exponent below 65537"),
    "exponent 65539": (rsa_key(2048, 65539), ""),
    "Ed25519": (
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "neither an RSA nor an ECDSA key",
    ),
}


@pytest.mark.parametrize(("spki", "why"), KEYS.values(), ids=KEYS)
def test_key_size_and_kind_decide(spki: bytes, why: str) -> None:
    changed = with_field(P256, 6, spki)
    if why:
        with pytest.raises(keyring.Unusable, match=f"^{why}$"):
            keyring.certificate("x", changed)
    else:
        assert keyring.certificate("x", changed).key.spki == spki


# Extensions that cryptography 38 knows. Later releases know more.
KNOWN = [
    *(f"2.5.29.{number}" for number in (14, 17, 18, 19, 30, 31, 32, 35, 36, 46, 54)),
    *(f"1.3.6.1.5.5.7.{rest}" for rest in ("1.1", "1.11", "1.24", "48.1.5")),
    *(f"1.3.6.1.4.1.11129.2.4.{number}" for number in (2, 3)),
]
UNKNOWN = [
    "1.2.3.4",
    "2.5.29.16",
    "2.5.29.20",
    "2.5.29.55",
    "1.3.6.1.5.5.7.1.2",
    "1.3.6.1.4.1.311.21.7",
    "2.16.840.1.113730.1.1",
]


@pytest.mark.parametrize("number", [*KNOWN, *UNKNOWN])
def test_critical_extension_is_known_or_rejected(number: str) -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(number), b"\x05\0")
    encoded = make_certificate(KEY, (extension, True))
    if number in KNOWN:
        assert keyring.certificate("x", encoded)
    else:
        with pytest.raises(keyring.Unusable, match=f"^an unknown critical extension \\({number}\\)$"):
            keyring.certificate("x", encoded)
    assert keyring.certificate("x", make_certificate(KEY, (extension, False)))


def test_empty_sequence_is_rejected() -> None:
    with pytest.raises(keyring.Unusable):
        keyring.certificate("x", tlv(0x30))


# --- the directory


def files(tmp_path: Path, *names: str) -> list[str]:
    return [str(CERTS / name) for name in names]


def test_empty_keyring_is_no_keys() -> None:
    found = refusal(keyring.load, [])
    assert (found.verdict.name, found.path) == ("no-keys", "/etc/bootseal/keys.d")
    assert "(no file there)" in found.what


def test_unusable_files_only_are_no_keys(tmp_path: Path) -> None:
    found = refusal(keyring.load, files(tmp_path, "rsa1024.der", "odd-junk.der"))
    assert found.verdict.name == "no-keys"
    assert "rsa1024.der" in found.what
    assert "odd-junk.der" in found.what


def test_unusable_file_among_others_is_skipped_and_named(tmp_path: Path) -> None:
    found = keyring.load(files(tmp_path, "p256.der", "odd-truncated.der", "rsa2048.pem"))
    assert [c.sha256 for c in found.certificates] == [fingerprint("p256"), fingerprint("rsa2048")]
    (line,) = found.skipped
    assert line.startswith(f"{CERTS}/odd-truncated.der: ")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("directory", "Is a directory"),
        ("dangling", "No such file or directory"),
        ("fifo", "not a regular file"),
        ("device", "not a regular file"),
        ("missing", "No such file or directory"),
    ],
)
def test_irregular_file_is_skipped(kind: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("/nonexistent")
    elif kind == "fifo":
        os.mkfifo(path)
        signal.alarm(60)  # shorter than that of conftest.py: opening a FIFO must not wait for a writer
    elif kind == "device":
        path.symlink_to("/dev/zero")
    found = keyring.load([str(path), str(CERTS / "p256.der")])
    assert len(found.certificates) == len(found.skipped) == 1
    assert found.skipped == (f"{path}: {why}",)


def test_file_above_the_size_limit_is_skipped(tmp_path: Path) -> None:
    padding = "# comment\n" * 10000
    assert from_text(tmp_path, padding[: 64 * 1024 - len(pem(P256))] + pem(P256)) == 1
    with pytest.raises(keyring.Unusable, match="larger than 65536"):
        from_text(tmp_path, padding[: 64 * 1024 + 1 - len(pem(P256))] + pem(P256))


def test_at_most_64_files(tmp_path: Path) -> None:
    paths = []
    for number in range(66):
        path = tmp_path / f"{number:02}.der"
        path.write_bytes(make_certificate(KEY, serial=number + 1) if number in (0, 63, 64, 65) else b"junk")
        paths.append(str(path))
    found = keyring.load(paths)
    assert [c.path for c in found.certificates] == [paths[0], paths[63]]
    assert [line for line in found.skipped if "more than 64 files" in line] == [f"{p}: more than 64 files" for p in paths[64:]]


def test_duplicate_certificate_counts_once(tmp_path: Path) -> None:
    assert len(keyring.load(files(tmp_path, "p256.der", "p256.pem")).certificates) == 1


@pytest.mark.parametrize(
    "pair", [("p256-samecn", "p256-renewed"), ("p256-samecn", "p256b-samecn"), ("p256-serial1", "p256b-serial1")]
)
def test_certificates_of_the_same_name_are_all_kept(pair: tuple[str, str], tmp_path: Path) -> None:
    found = keyring.load(files(tmp_path, *(f"{name}.der" for name in pair)))
    assert [c.sha256 for c in found.certificates] == [fingerprint(name) for name in pair]


def test_a_terminal_escape_in_a_file_name_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J.pem"
    path.write_text("junk")
    assert verdict(keyring.load, [str(path)]) == "no-keys"
    assert "\x1b" not in refusal(keyring.load, [str(path)]).what
    assert "\x1b" not in keyring.load([str(path), str(CERTS / "p256.der")]).skipped[0]
