# SPDX-License-Identifier: LGPL-2.1-or-later
"""pkcs7.py: the profile and nothing beside it. Each refused message is an accepted one with a single part changed."""

from typing import Any

import pytest

from bootseal.formats import der, pkcs7
from unit.support import (
    ECDSA_OIDS,
    HASH_OIDS,
    MANIFEST,
    NULL,
    RSA_ENCRYPTION,
    VECTORS,
    Message,
    at_most,
    certificate,
    message,
    oid,
    private_key,
    signature,
    signed_bytes,
    tlv,
)

EC = message(certificate("p256"), private_key("p256"), signed_bytes())
RSA = message(certificate("rsa2048"), private_key("rsa2048"), signed_bytes())
SHA256 = tlv(0x30, oid(HASH_OIDS["sha256"]))
CERTIFICATE = certificate("p256").der
ATTRIBUTE = tlv(0x30, oid("1.2.840.113549.1.9.3"), tlv(0x31, oid("1.2.840.113549.1.7.1")))
INTEGER_R = tlv(2, b"\x01" * 32)


def parses(data: bytes) -> bool:
    try:
        pkcs7.parse(data)
    except der.Malformed:
        return False
    return True


def test_parts_of_an_ecdsa_message() -> None:
    info = pkcs7.parse(EC.der())
    made_by = certificate("p256")
    assert info == (made_by.issuer, made_by.serial, "ecdsa", "sha256", EC.value)


def test_parts_of_an_rsa_message() -> None:
    info = pkcs7.parse(RSA.der())
    assert (info.scheme, info.hash_name, len(info.value)) == ("rsa", "sha256", 256)


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("null", [b"", NULL], ids=["absent", "null"])
@pytest.mark.parametrize("base", [EC, RSA], ids=["ecdsa", "rsa"])
def test_hashes(base: Message, hash_name: str, null: bytes) -> None:
    scheme = tlv(0x30, oid(ECDSA_OIDS[hash_name])) if base is EC else base.signature_algorithm
    changed = base._replace(hash_algorithm=tlv(0x30, oid(HASH_OIDS[hash_name]), null), signature_algorithm=scheme)
    assert pkcs7.parse(changed.der()).hash_name == hash_name


def ecdsa_value(*parts: bytes) -> dict[str, bytes]:
    return {"value": tlv(0x30, *parts)}


CHANGES: dict[str, dict[str, Any]] = {
    "ContentInfo of type data": {"outer_type": oid("1.2.840.113549.1.7.1")},
    "ContentInfo of type envelopedData": {"outer_type": oid("1.2.840.113549.1.7.3")},
    "ContentInfo with a third element": {"after_content": NULL},
    "ContentInfo with a second content": {"after_content": tlv(0xA0, b"")},
    "version 0": {"version": b"\x02\x01\x00"},
    "version 3": {"version": b"\x02\x01\x03"},
    "version 4": {"version": b"\x02\x01\x04"},
    "version -255": {"version": b"\x02\x02\xff\x01"},
    "version padded": {"version": b"\x02\x02\x00\x01"},
    "version 2^32+1": {"version": b"\x02\x05\x01\x00\x00\x00\x01"},
    "version without content": {"version": b"\x02\x00"},
    "version as ENUMERATED": {"version": b"\x0a\x01\x01"},
    "version absent": {"version": b""},
    "no digest algorithm": {"digest_algorithms": b""},
    "digest algorithm doubled": {"digest_algorithms": SHA256 * 2},
    "another digest algorithm": {"digest_algorithms": tlv(0x30, oid(HASH_OIDS["sha512"]))},
    "digest algorithm is a bare OID": {"digest_algorithms": oid(HASH_OIDS["sha256"])},
    "digest algorithm is a set": {"digest_algorithms": tlv(0x31, oid(HASH_OIDS["sha256"]))},
    "digest algorithm with other parameters": {"hash_algorithm": tlv(0x30, oid(HASH_OIDS["sha256"]), tlv(4))},
    "digest algorithm with a NULL of one byte": {"hash_algorithm": tlv(0x30, oid(HASH_OIDS["sha256"]), b"\x05\x01\x00")},
    "digest algorithm with two NULLs": {"hash_algorithm": tlv(0x30, oid(HASH_OIDS["sha256"]), NULL, NULL)},
    "digest algorithm without OID": {"hash_algorithm": tlv(0x30, NULL)},
    "digest algorithm empty": {"hash_algorithm": tlv(0x30)},
    **{f"hash {name}": {"hash_algorithm": tlv(0x30, oid(HASH_OIDS[name]))} for name in ("md5", "sha1", "sha224")},
    "hash SHA3-256": {"hash_algorithm": tlv(0x30, oid("2.16.840.1.101.3.4.2.8"))},
    "hash with a longer OID": {"hash_algorithm": tlv(0x30, oid(HASH_OIDS["sha256"] + ".1"))},
    "content empty": {"encapsulated": tlv(0x30, oid("1.2.840.113549.1.7.1"), tlv(0xA0, tlv(4)))},
    "content right": {"encapsulated": tlv(0x30, oid("1.2.840.113549.1.7.1"), tlv(0xA0, tlv(4, signed_bytes())))},
    "content NULL": {"encapsulated": tlv(0x30, oid("1.2.840.113549.1.7.1"), NULL)},
    "content type is not data": {"encapsulated": tlv(0x30, oid("1.2.840.113549.1.7.5"))},
    "content type absent": {"encapsulated": tlv(0x30)},
    "content type is no OID": {"encapsulated": tlv(0x30, tlv(4, oid("1.2.840.113549.1.7.1")[2:]))},
    "content info is a set": {"encapsulated": tlv(0x31, oid("1.2.840.113549.1.7.1"))},
    "content info doubled": {"encapsulated": tlv(0x30, oid("1.2.840.113549.1.7.1")) * 2},
    "certificates": {"before_signers": tlv(0xA0, CERTIFICATE)},
    "certificates empty": {"before_signers": tlv(0xA0)},
    "certificates primitive": {"before_signers": tlv(0x80, CERTIFICATE)},
    "CRLs": {"before_signers": tlv(0xA1, tlv(0x30))},
    "CRLs empty": {"before_signers": tlv(0xA1)},
    "certificates after the signers": {"after_signers": tlv(0xA0, CERTIFICATE)},
    "NULL before the signers": {"before_signers": NULL},
    "NULL after the signers": {"after_signers": NULL},
    "second set of signers": {"after_signers": tlv(0x31, EC.signer())},
    "no signer": {"signers": b""},
    "signer doubled": {"signers": EC.signer() * 2},
    "two signers": {"signers": EC.signer() + RSA.signer()},
    "17 signers": {"signers": EC.signer() * 17},
    "signer is a set": {"signers": b"\x31" + EC.signer()[1:]},
    "signer empty": {"signers": tlv(0x30)},
    "signer version 0": {"signer_version": b"\x02\x01\x00"},
    "signer version 3": {"signer_version": b"\x02\x01\x03"},
    "signer named by key id": {"signer_version": b"\x02\x01\x03", "signers": tlv(0x30, b"\x02\x01\x03", tlv(0x80, b"k" * 20))},
    "signed attributes": {"before_signature_algorithm": tlv(0xA0, ATTRIBUTE)},
    "signed attributes empty": {"before_signature_algorithm": tlv(0xA0)},
    "unsigned attributes": {"after_value": tlv(0xA1, ATTRIBUTE)},
    "unsigned attributes empty": {"after_value": tlv(0xA1)},
    "NULL after the value": {"after_value": NULL},
    "serial padded": {"serial": tlv(2, b"\x00\x01")},
    "serial without content": {"serial": tlv(2)},
    "serial as OCTET STRING": {"serial": tlv(4, certificate("p256").serial)},
    "issuer is a set": {"issuer": b"\x31" + certificate("p256").issuer[1:]},
    "ECDSA with another hash": {"signature_algorithm": tlv(0x30, oid(ECDSA_OIDS["sha512"]))},
    "ECDSA with NULL": {"signature_algorithm": tlv(0x30, oid(ECDSA_OIDS["sha256"]), NULL)},
    "ECDSA with SHA-1": {"signature_algorithm": tlv(0x30, oid("1.2.840.10045.4.1"))},
    "ECDSA key OID": {"signature_algorithm": tlv(0x30, oid("1.2.840.10045.2.1"))},
    "Ed25519": {"signature_algorithm": tlv(0x30, oid("1.3.101.112"))},
    "RSA without NULL": {"signature_algorithm": tlv(0x30, oid(RSA_ENCRYPTION))},
    "RSA with other parameters": {"signature_algorithm": tlv(0x30, oid(RSA_ENCRYPTION), tlv(0x30))},
    "sha256WithRSAEncryption": {"signature_algorithm": tlv(0x30, oid("1.2.840.113549.1.1.11"), NULL)},
    "RSASSA-PSS": {"signature_algorithm": tlv(0x30, oid("1.2.840.113549.1.1.10"), tlv(0x30))},
    "RSAES-OAEP": {"signature_algorithm": tlv(0x30, oid("1.2.840.113549.1.1.7"), NULL)},
    "value empty": {"value": b""},
    "value raw r and s": {"value": b"\x01" * 64},
    "value a set": {"value": tlv(0x31, INTEGER_R, INTEGER_R)},
    "value with one number": ecdsa_value(INTEGER_R),
    "value with three numbers": ecdsa_value(INTEGER_R, INTEGER_R, INTEGER_R),
    "value with a byte after": {"value": tlv(0x30, INTEGER_R, INTEGER_R) + b"\0"},
    "value with r zero": ecdsa_value(tlv(2, b"\0"), INTEGER_R),
    "value with s zero": ecdsa_value(INTEGER_R, tlv(2, b"\0")),
    "value with r negative": ecdsa_value(tlv(2, b"\x81" * 32), INTEGER_R),
    "value with s negative": ecdsa_value(INTEGER_R, tlv(2, b"\x81" * 32)),
    "value with r padded": ecdsa_value(tlv(2, b"\0" + b"\x01" * 32), INTEGER_R),
    "value with s padded": ecdsa_value(INTEGER_R, tlv(2, b"\0" + b"\x01" * 32)),
    "value with r empty": ecdsa_value(tlv(2), INTEGER_R),
    "value with s as OCTET STRING": ecdsa_value(INTEGER_R, tlv(4, b"\x01" * 32)),
    "value with a long length": {"value": b"\x30\x81\x44" + INTEGER_R * 2},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_one_change_is_refused(change: dict[str, Any]) -> None:
    assert parses(EC.der())
    assert not parses(EC._replace(**change).der())


@pytest.mark.parametrize("change", [c for c in CHANGES.values() if "value" not in c and "signature_algorithm" not in c])
def test_one_change_is_refused_for_rsa(change: dict[str, Any]) -> None:
    assert parses(RSA.der())
    assert not parses(RSA._replace(**change).der())


@pytest.mark.parametrize("value", [b"", b"\x01", bytes(257)], ids=["empty", "short", "long"])
def test_rsa_values_are_left_to_the_key(value: bytes) -> None:
    """Their size belongs to a key, which the parser does not know: verify.py refuses them."""
    assert pkcs7.parse(RSA._replace(value=value).der()).value == value


@pytest.mark.parametrize(
    "extra", [b"\0", b"\n", b"\x30\x00", EC.der(), bytes(4096)], ids=["zero", "newline", "element", "message", "4 KiB"]
)
def test_nothing_may_follow(extra: bytes) -> None:
    assert not parses(EC.der() + extra)


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"\x30"])
def test_nothing_may_precede(extra: bytes) -> None:
    assert not parses(extra + EC.der())


def padded_to(size: int) -> bytes:
    """An RSA message with a value that makes the whole this long."""
    value = size - len(RSA._replace(value=bytes(15000)).der()) + 15000
    made = RSA._replace(value=bytes(value)).der()
    assert len(made) == size
    return made


def test_largest_message() -> None:
    assert parses(padded_to(16128))


def test_one_byte_more_than_the_kernel_takes() -> None:
    assert not parses(padded_to(16129))


@pytest.mark.parametrize("empty", [b"", b"\x30", b"\x30\x00", b"\x30\x80"])
def test_hardly_anything(empty: bytes) -> None:
    assert not parses(empty)


def test_pem_is_named() -> None:
    with pytest.raises(der.Malformed, match="PEM"):
        pkcs7.parse(signature("B-ossl-pem"))


@pytest.mark.parametrize("name", ["H-nested-10000", "H-nested-in-params", "H-length-huge", "H-length-9-bytes", "H-signers-100"])
def test_bounded_time(name: str) -> None:
    data = signature(name)
    with at_most(lines=1000):
        assert not parses(data)


def test_deep_nesting_is_not_followed() -> None:
    nested = b""
    for _ in range(5000):
        nested = tlv(0x30, nested)
        if len(nested) > 12000:
            break
    assert not parses(EC._replace(hash_algorithm=tlv(0x30, oid(HASH_OIDS["sha256"]), nested)).der())


ACCEPTED = [v["signature"] for v in MANIFEST["vectors"] if v["userspace"] == "accept"]


@pytest.mark.parametrize("path", ACCEPTED, ids=lambda p: str(p)[5:-4])
def test_every_vector_that_verifies_parses(path: str) -> None:
    assert parses((VECTORS / path).read_bytes())


@pytest.mark.parametrize("base", [EC, RSA], ids=["ecdsa", "rsa"])
def test_the_reader_is_exact(base: Message) -> None:
    """Whatever parses is what our writer writes from the parts: there is one encoding for one meaning."""
    good = base.der()
    for position in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(good)
            changed[position] ^= flip
            try:
                info = pkcs7.parse(bytes(changed))
            except der.Malformed:
                continue
            rebuilt = base._replace(issuer=info.issuer, serial=tlv(2, info.serial), value=info.value)
            assert rebuilt.der() == bytes(changed), f"byte {position} ^ {flip:#x}"


BY_FSVERITY = sorted(v["id"] for v in MANIFEST["vectors"] if v["signature"] in ACCEPTED and v["id"].startswith("A-fsv"))


@pytest.mark.parametrize("name", BY_FSVERITY)
def test_the_writer_writes_what_fsverity_writes(name: str) -> None:
    assert pkcs7.signed_data(*pkcs7.parse(signature(name))) == signature(name)


@pytest.mark.parametrize(
    ("raw", "parts"),
    [(b"\1\2", ["020101", "020102"]), (b"\x80\0", ["02020080", "020100"]), (b"\0\x7f\xff\0", ["02017f", "020300ff00"])],
    ids=["small", "sign byte and zero", "leading zero"],
)
def test_ecdsa_value(raw: bytes, parts: list[str]) -> None:
    assert pkcs7.ecdsa_value(raw) == tlv(0x30, *map(bytes.fromhex, parts))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_parse_accepts_exactly_what_has_no_deviation(change: dict[str, Any]) -> None:
    assert pkcs7.deviations(EC.der()) == []
    assert pkcs7.deviations(EC._replace(**change).der()) != []


def test_the_first_deviation_is_the_one_that_refuses() -> None:
    message = EC._replace(version=b"\x02\x01\x03", before_signers=tlv(0xA0), after_value=tlv(0xA1)).der()
    with pytest.raises(der.Malformed) as caught:
        pkcs7.parse(message)
    assert caught.value.name == "certificates-inside"
    assert pkcs7.deviations(message) == ["certificates-inside", "version", "unsigned-attributes"]


SAID = {
    "empty": (b"", "empty"),
    "PEM": (b"-----BEGIN PKCS7-----", "PEM, where DER is expected"),
    "certificates": (EC._replace(before_signers=tlv(0xA0)).der(), "sign with -nocerts"),
    "CRLs": (EC._replace(before_signers=tlv(0xA1)).der(), "sign with -nocerts"),
    "attributes": (EC._replace(before_signature_algorithm=tlv(0xA0)).der(), "sign with -noattr"),
    "unsigned attributes": (EC._replace(after_value=tlv(0xA1)).der(), "sign with -noattr"),
    "content": (
        EC._replace(encapsulated=tlv(0x30, oid("1.2.840.113549.1.7.1"), tlv(0xA0))).der(),
        "content inside: the signature must be detached",
    ),
}


@pytest.mark.parametrize(("data", "said"), SAID.values(), ids=SAID)
def test_the_reason_says_what_to_do(data: bytes, said: str) -> None:
    with pytest.raises(der.Malformed, match=said):
        pkcs7.parse(data)
