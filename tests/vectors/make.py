#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the signatures in sigs/ from the keys, certificates and digest files beside this program.

Usage: make.py DIRECTORY. Needs the programs fsverity and openssl. The table SIGNATURES states the origin of each signature.
The signing key is the one in keys/ that belongs to the named certificate. ECDSA and PSS values differ from run to run.
"""

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "service"))

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from bootseal.digest import Digest
from bootseal.formats.pkcs7 import MAX_SIZE
from unit.support import (
    ECDSA_OIDS,
    HASH_OIDS,
    NULL,
    RSA_ENCRYPTION,
    VECTORS,
    Message,
    PrivateKey,
    content,
    oid,
    private_key,
    signed_bytes,
    tlv,
)

Signature = Callable[[], bytes]  # one of sigs/
Value = Callable[[PrivateKey, bytes, str], bytes]  # a signature value: made with a key, over bytes, with a hash

SIGNED = signed_bytes(content("digest-sha256"))  # the bytes that a good signature covers
OTHER = signed_bytes(content("digest-sha256-other"))
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


# --- by a program


def _output(*command: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def fsverity(name: str, *options: str, digest_file: str = "digest-sha256") -> Signature:
    """Run 'fsverity sign', the reference tool."""

    def make() -> bytes:
        with TemporaryDirectory() as directory:
            made = Path(directory, "signature")
            signer = f"--key={_key_file(name)}", f"--cert={_certificate_file(name, 'pem')}"
            _output("fsverity", "sign", VECTORS / "content" / digest_file, made, *signer, *options)
            return made.read_bytes()

    return make


def openssl(*names: str, options: str = "-noattr", form: str = "DER") -> Signature:
    """Run 'openssl cms -sign' with one signer for each certificate."""

    def make() -> bytes:
        signers: list[str | Path] = []
        for name in names:
            signers += ["-signer", _certificate_file(name, "pem"), "-inkey", _key_file(name)]
        command = ("openssl", "cms", "-sign", "-binary", "-nocerts", "-outform", form, *options.split())
        return _output(*command, *signers, data=SIGNED)

    return make


# --- by hand, because no program writes these


def by_hand(
    name: str, data: bytes = SIGNED, hash_name: str = "sha256", value: Value | None = None, **parts: bytes
) -> Signature:
    """Write what 'fsverity sign' writes, with the given parts replaced."""
    return lambda: message(name, data, hash_name, value)._replace(**parts).der()


def message(name: str, data: bytes = SIGNED, hash_name: str = "sha256", value: Value | None = None) -> Message:
    """Sign the data as the owner of this certificate."""
    key = _keys()[_key_name(name)]
    certificate = _certificate(name)
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    return Message(
        issuer=certificate.issuer.public_bytes(),
        serial=_integer(certificate.serial_number),
        value=(value or (pkcs1 if is_rsa else ecdsa))(key, data, hash_name),
        hash_algorithm=_hash(hash_name),
        signature_algorithm=RSA if is_rsa else _ecdsa_with(hash_name),
    )


def with_attributes(*attributes: bytes, name: str = "p256", before_signers: bytes = b"") -> Signature:
    """Sign attributes: the value covers them as a SET, and the message has them with the tag [0]."""
    covered, stored = (tlv(tag, *attributes) for tag in (0x31, 0xA0))
    return by_hand(name, covered, before_signature_algorithm=stored, before_signers=before_signers)


def signers(*who: tuple[Callable[[], Message], int]) -> Signature:
    """Write a message with several SignerInfo, each repeated that many times."""

    def make() -> bytes:
        return message("p256")._replace(signers=b"".join(signer().signer() * times for signer, times in who)).der()

    return make


def changed(change: Callable[[bytes], bytes]) -> Signature:
    """Change the bytes of a good message."""
    return lambda: change(message("p256").der())


# --- signature values


def ecdsa(key: PrivateKey, data: bytes, hash_name: str) -> bytes:
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(data, ec.ECDSA(getattr(hashes, hash_name.upper())()))


def pkcs1(key: PrivateKey, data: bytes, hash_name: str) -> bytes:
    return _raw_rsa(key, _digest_info(data, hash_name))


def pss(key: PrivateKey, data: bytes, hash_name: str) -> bytes:
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def fixed(value: bytes) -> Value:
    return lambda *_: value


def from_ecdsa(change: Callable[[int, int], bytes]) -> Value:
    """Make the content of the SEQUENCE from r and s of a good value."""
    return lambda *signing: tlv(0x30, change(*utils.decode_dss_signature(ecdsa(*signing))))


def without_sign_bytes(key: PrivateKey, data: bytes, hash_name: str) -> bytes:
    """Sign until both numbers have the top bit set, and write them without the byte that makes them positive."""
    while True:
        numbers = [n.to_bytes(32, "big") for n in utils.decode_dss_signature(ecdsa(key, data, hash_name))]
        if all(number[0] >= 0x80 for number in numbers):
            return tlv(0x30, *(tlv(2, number) for number in numbers))


def plus_modulus(key: PrivateKey, data: bytes, hash_name: str) -> bytes:
    value = pkcs1(key, data, hash_name)
    return (int.from_bytes(value, "big") + _modulus(key)).to_bytes(len(value) + 1, "big")


def cube_root(key: PrivateKey, data: bytes, hash_name: str) -> bytes:
    """Forge a value as Bleichenbacher did: the padding is short, and bytes after the hash make the block a cube.

    The key's size is all that it takes.
    """
    size = key.key_size // 8
    block = b"\0\1" + b"\xff" * 8 + b"\0" + _digest_info(data, hash_name)
    lowest = int.from_bytes(block.ljust(size, b"\0"), "big")
    low, high = 0, 1 << key.key_size // 3 + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**3 >= lowest else (middle, high)
    return high.to_bytes(size, "big")


def _raw_rsa(key: PrivateKey, payload: bytes) -> bytes:
    assert isinstance(key, rsa.RSAPrivateKey)
    size = key.key_size // 8
    block = b"\0\1" + b"\xff" * (size - 3 - len(payload)) + b"\0" + payload
    return pow(int.from_bytes(block, "big"), key.private_numbers().d, _modulus(key)).to_bytes(size, "big")


def _modulus(key: PrivateKey) -> int:
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.public_key().public_numbers().n


def _digest_info(data: bytes, hash_name: str) -> bytes:
    return tlv(0x30, _hash(hash_name), tlv(4, hashlib.new(hash_name, data).digest()))


# --- parts


def _certificate_file(name: str, form: str = "der") -> Path:
    return VECTORS / "certs" / f"{name}.{form}"


@cache
def _certificate(name: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(_certificate_file(name).read_bytes())


@cache
def _keys() -> dict[str, PrivateKey]:
    return {path.stem: private_key(path.stem) for path in (VECTORS / "keys").glob("*.pem")}


def _key_name(certificate: str) -> str:
    """Find the private key that belongs to the certificate."""
    public = _certificate(certificate).public_key()
    return next(name for name, key in _keys().items() if key.public_key() == public)


def _key_file(certificate: str) -> Path:
    return VECTORS / "keys" / f"{_key_name(certificate)}.pem"


def _embedded(*names: str) -> bytes:
    return tlv(0xA0, *(_certificate_file(name).read_bytes() for name in names))


def _integer(number: int) -> bytes:
    return tlv(2, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def _hash(name: str) -> bytes:
    return tlv(0x30, oid(HASH_OIDS[name]), NULL)


def _ecdsa_with(hash_name: str) -> bytes:
    return tlv(0x30, oid((ECDSA_OIDS | {"sha1": "1.2.840.10045.4.1"})[hash_name]))


def _attribute(number: str, *values: bytes) -> bytes:
    return tlv(0x30, oid(number), tlv(0x31, *values))


def _time(text: bytes) -> bytes:
    return _attribute("1.2.840.113549.1.9.5", tlv(0x17, text))


def _message_digest(*values: bytes) -> bytes:
    return _attribute("1.2.840.113549.1.9.4", *(tlv(4, value) for value in values))


RSA = tlv(0x30, oid(RSA_ENCRYPTION), NULL)
PSS = tlv(
    0x30,
    oid("1.2.840.113549.1.1.10"),
    tlv(
        0x30,
        tlv(0xA0, _hash("sha256")),
        tlv(0xA1, tlv(0x30, oid("1.2.840.113549.1.1.8"), _hash("sha256"))),
        tlv(0xA2, _integer(32)),
    ),
)
DATA = oid("1.2.840.113549.1.7.1")
NOBODYS = "1.2.3.4.5"
UNKNOWN_ATTRIBUTE = _attribute(NOBODYS, NULL)
CONTENT_TYPE = _attribute("1.2.840.113549.1.9.3", DATA)
TIME = _time(b"250101000000Z")
HASHED = hashlib.sha256(SIGNED).digest()
MESSAGE_DIGEST = _message_digest(HASHED)
EMPTY, ZERO = bytes(0), bytes(32)
DEEP = [f"deep{number}" for number in range(12)]


def _good() -> Message:
    return message("p256")


def _unknown() -> Message:
    return message("attacker")


def _wrong_value() -> Message:
    return message("p256", b"x")


def _flipped(signature: bytes, position: int) -> bytes:
    return signature[:position] + bytes([signature[position] ^ 1]) + signature[position + 1 :]


def _attached(data: bytes) -> bytes:
    return tlv(0x30, DATA, tlv(0xA0, tlv(4, data)))


SIGNATURES: dict[str, Signature] = {
    # By 'fsverity sign'.
    "A-fsv-k256": fsverity("k256"),
    "A-fsv-p192": fsverity("p192"),
    "A-fsv-p224": fsverity("p224"),
    "A-fsv-p256": fsverity("p256"),
    "A-fsv-p256-bs1024": fsverity("p256", "--block-size=1024"),
    "A-fsv-p256-img512": fsverity("p256", digest_file="digest-sha512"),
    "A-fsv-p384": fsverity("p384"),
    "A-fsv-rsa1024": fsverity("rsa1024"),
    "A-fsv-rsa2048": fsverity("rsa2048"),
    "A-fsv-rsa2048e3": fsverity("rsa2048e3"),
    "A-fsv-rsa3072": fsverity("rsa3072"),
    "A-fsv-rsa3072-img512": fsverity("rsa3072", digest_file="digest-sha512"),
    "A-fsv512-p256": fsverity("p256", "--hash-alg=sha512"),
    "A-fsv512-p384": fsverity("p384", "--hash-alg=sha512"),
    "A-fsv512-p521": fsverity("p521", "--hash-alg=sha512"),
    "A-fsv512-rsa2048": fsverity("rsa2048", "--hash-alg=sha512"),
    # By 'openssl cms -sign'.
    "B-ossl-attrs": openssl("p256", options=""),
    "B-ossl-keyid": openssl("p256", options="-noattr -keyid"),
    "B-ossl-noattr-nocerts": openssl("p256"),
    "B-ossl-noattr-sha384": openssl("p384", options="-noattr -md sha384"),
    "B-ossl-noattr-sha512": openssl("p521", options="-noattr -md sha512"),
    "B-ossl-pem": openssl("p256", form="PEM"),
    "B-ossl-stream-ber": openssl("p256", options="-noattr -stream"),
    "B-ossl-two-signers": openssl("p256", "p384"),
    "B-ossl-two-signers-one-known": openssl("p256", "p384"),
    # Certificates and chains.
    "C-1960": by_hand("p256-1960"),
    "C-chain-12-deep": by_hand("deep11", before_signers=_embedded(*DEEP)),
    "C-chain-inter-trusted": by_hand("chain-leaf", before_signers=_embedded("chain-leaf")),
    "C-chain-leaf-expired-signingtime": with_attributes(
        CONTENT_TYPE,
        TIME,
        MESSAGE_DIGEST,
        name="chain-leaf-expired",
        before_signers=_embedded("chain-leaf-expired", "chain-inter"),
    ),
    "C-chain-missing-inter": by_hand("chain-leaf", before_signers=_embedded("chain-leaf")),
    "C-chain-root-trusted": by_hand("chain-leaf", before_signers=_embedded("chain-leaf", "chain-inter")),
    "C-chain-root-trusted-with-root": by_hand(
        "chain-leaf", before_signers=_embedded("chain-root", "chain-inter", "chain-leaf")
    ),
    "C-dup-issuer-serial-good-first": by_hand("p256-serial1"),
    "C-dup-issuer-serial-good-last": by_hand("p256-serial1"),
    "C-eku-codesign": by_hand("p256-eku-codesign"),
    "C-eku-server": by_hand("p256-eku-server"),
    "C-future": by_hand("p256-future"),
    "C-ku-certsign-only": by_hand("p256-certsign-only"),
    "C-ku-digsig": by_hand("p256-ds"),
    "C-ku-keyagreement": by_hand("p256-keyenc-only"),
    "C-noext": by_hand("p256-noext"),
    "C-renewed-both": by_hand("p256-samecn"),
    "C-rotate-new": by_hand("p256b-samecn"),
    "C-rotate-old": by_hand("p256-samecn"),
    "C-untrusted": by_hand("attacker"),
    "C-untrusted-embedded": by_hand("attacker", before_signers=_embedded("attacker")),
    "C-wrong-key-same-name-embedded": by_hand("attacker-serial1", before_signers=_embedded("attacker-serial1")),
    # Signatures over other bytes.
    "D-31-byte-digest-file": by_hand("p256", signed_bytes(content("digest-31"))),
    "D-alg-confusion": by_hand("p256", SIGNED.replace(b"\1\0", b"\2\0", 1)),
    "D-big-endian-header": by_hand("p256", b"FSVerity\0\1\0\x20" + SIGNED[12:]),
    "D-formatted-image-digest": by_hand("p256", Digest("sha256", content("digest-sha256")).formatted()),
    "D-hex-digest-file": by_hand("p256", signed_bytes(content("digest-hex"))),
    "D-other-digest": by_hand("p256", OTHER),
    "D-raw-image-digest": by_hand("p256", content("digest-sha256")),
    # Attributes.
    "E-attrs-good": with_attributes(CONTENT_TYPE, TIME, MESSAGE_DIGEST),
    "E-attrs-multivalue": with_attributes(CONTENT_TYPE, TIME, _message_digest(ZERO, HASHED)),
    "E-attrs-no-messagedigest": with_attributes(CONTENT_TYPE, TIME),
    "E-attrs-repeated-messagedigest": with_attributes(CONTENT_TYPE, TIME, MESSAGE_DIGEST, MESSAGE_DIGEST),
    "E-attrs-signingtime-bad": with_attributes(CONTENT_TYPE, _time(b"251301000000Z"), MESSAGE_DIGEST),
    "E-attrs-unknown": with_attributes(CONTENT_TYPE, TIME, MESSAGE_DIGEST, UNKNOWN_ATTRIBUTE),
    "E-attrs-wrong-messagedigest": with_attributes(CONTENT_TYPE, TIME, _message_digest(ZERO)),
    "E-unsigned-attrs": by_hand("p256", after_value=tlv(0xA1, UNKNOWN_ATTRIBUTE)),
    # Algorithms.
    "F-bogus-hash": by_hand("p256", hash_algorithm=tlv(0x30, oid(NOBODYS), NULL)),
    "F-digestalgs-md5-too": by_hand("p256", digest_algorithms=_hash("md5") + _hash("sha256")),
    "F-ecdsa-oid-hash-mismatch": by_hand("p256", signature_algorithm=_ecdsa_with("sha512")),
    "F-ecdsa-oid-rsa-key": by_hand("rsa2048", signature_algorithm=_ecdsa_with("sha256")),
    "F-md5-rsa": by_hand("rsa2048", hash_name="md5"),
    "F-pss": by_hand("rsa2048", value=pss, signature_algorithm=PSS),
    "F-pss-sig-as-pkcs1": by_hand("rsa2048", value=pss),
    "F-rsa-oid-ec-key": by_hand("p256", signature_algorithm=tlv(0x30, oid(RSA_ENCRYPTION))),
    "F-sha1-ecdsa": by_hand("p256", hash_name="sha1"),
    "F-sha1-rsa": by_hand("rsa2048", hash_name="sha1"),
    "F-sha224-rsa": by_hand("rsa2048", hash_name="sha224"),
    "F-sha256rsa-oid": by_hand("rsa2048", signature_algorithm=tlv(0x30, oid("1.2.840.113549.1.1.11"), NULL)),
    "F-sha512-p256": by_hand("p256", hash_name="sha512"),
    # Signature values.
    "G-ecdsa-00": by_hand("p256", value=fixed(tlv(0x30, _integer(0), _integer(0)))),
    "G-ecdsa-empty": by_hand("p256", value=fixed(EMPTY)),
    "G-ecdsa-high-s": by_hand("p256", value=from_ecdsa(lambda r, s: _integer(r) + _integer(P256_ORDER - s))),
    "G-ecdsa-inner-trailing": by_hand("p256", value=from_ecdsa(lambda r, s: _integer(r) + _integer(s) + NULL)),
    "G-ecdsa-leading-zeros": by_hand("p256", value=from_ecdsa(lambda r, s: tlv(2, r.to_bytes(35, "big")) + _integer(s))),
    "G-ecdsa-negative": by_hand("p256", value=from_ecdsa(lambda r, s: _integer(-r) + _integer(s))),
    "G-ecdsa-nn": by_hand("p256", value=fixed(tlv(0x30, _integer(P256_ORDER), _integer(P256_ORDER)))),
    "G-ecdsa-r-unpadded": by_hand("p256", value=without_sign_bytes),
    "G-ecdsa-r0": by_hand("p256", value=from_ecdsa(lambda _, s: _integer(0) + _integer(s))),
    "G-ecdsa-s0": by_hand("p256", value=from_ecdsa(lambda r, _: _integer(r) + _integer(0))),
    "G-rsa-e3-forgery": by_hand("rsa2048e3", value=cube_root),
    "G-rsa-empty": by_hand("rsa2048", value=fixed(EMPTY)),
    "G-rsa-long": by_hand("rsa2048", value=lambda *signing: b"\0" + pkcs1(*signing)),
    "G-rsa-no-digestinfo": by_hand("rsa2048", value=lambda key, data, _: _raw_rsa(key, hashlib.sha256(data).digest())),
    "G-rsa-plus-n": by_hand("rsa2048", value=plus_modulus),
    "G-rsa-zero": by_hand("rsa2048", value=fixed(bytes(256))),
    # Encoding and form.
    "H-base64": changed(base64.encodebytes),
    "H-bitflip-first": changed(lambda good: _flipped(good, 0)),
    "H-bitflip-tail": changed(lambda good: _flipped(good, len(good) - 1)),
    "H-crl-present": by_hand("p256", before_signers=tlv(0xA1, tlv(0x30, NULL))),
    "H-dup-signerinfo": signers((_good, 2)),
    "H-econtent-empty": by_hand("p256", encapsulated=_attached(EMPTY)),
    "H-econtent-right": by_hand("p256", encapsulated=_attached(SIGNED)),
    "H-econtent-wrong": by_hand("p256", OTHER, encapsulated=_attached(OTHER)),
    "H-embedded-10": by_hand("p256", before_signers=_embedded(*["p256"] * 10)),
    "H-embedded-junk-cert": by_hand("p256", before_signers=tlv(0xA0, tlv(0x30, b"\0\0"))),
    "H-extra-element": by_hand("p256", after_content=NULL),
    "H-issuer-other-string-type": by_hand("p256", issuer=_certificate("p256").issuer.public_bytes().replace(b"\x0c", b"\x13")),
    "H-leading-zero": changed(lambda good: b"\0" + good),
    "H-length-127": changed(lambda good: b"\x30\xff" + good[3:]),
    "H-length-9-bytes": changed(lambda good: b"\x30\x89" + b"\xff" * 9 + good[3:]),
    "H-length-huge": changed(lambda good: b"\x30\x84" + b"\xff" * 4 + good[3:]),
    "H-max-16128": changed(lambda good: good.ljust(MAX_SIZE, b"\0")),
    "H-nested-10000": lambda: b"\x30\x80" * 5000,
    "H-nested-in-params": by_hand(
        "p256",
        digest_algorithms=_hash("sha256"),
        hash_algorithm=tlv(0x30, oid(HASH_OIDS["sha256"]), b"\x30\x80" * 2000, bytes(4000)),
    ),
    "H-one-byte": lambda: b"\x30",
    "H-serial-wrong": by_hand("p256", serial=_integer(_certificate("p256").serial_number + 1)),
    "H-signers-100": signers((_unknown, 40), (_good, 1)),
    "H-signers-good-then-badvalue": signers((_good, 1), (_wrong_value, 1)),
    "H-signers-good-then-unknown": signers((_good, 1), (_unknown, 1)),
    "H-signers-unknown-then-good": signers((_unknown, 1), (_good, 1)),
    "H-sinfo-version-3": by_hand("p256", signer_version=_integer(3)),
    "H-trailing-4k": changed(lambda good: good.ljust(4016, b"\0")),
    "H-trailing-newline": changed(lambda good: good + b"\n"),
    "H-trailing-second-message": changed(lambda good: good * 2),
    "H-trailing-zero": changed(lambda good: good + b"\0"),
    "H-truncated-last": changed(lambda good: good[:-1]),
    "H-version-0": by_hand("p256", version=_integer(0)),
    "H-version-3": by_hand("p256", version=_integer(3)),
    "H-wrong-content-type": by_hand("p256", encapsulated=tlv(0x30, oid("1.2.840.113549.1.9.16.1.4"))),
    "H-wrong-outer-oid": by_hand("p256", outer_type=DATA),
}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make.py DIRECTORY")
    directory = Path(sys.argv[1])
    directory.mkdir(exist_ok=True)
    for name, make in SIGNATURES.items():
        (directory / f"{name}.p7s").write_bytes(make())


if __name__ == "__main__":
    main()
