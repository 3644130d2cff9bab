# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test formats/x509.py: the members of a certificate, names as RFC 4514 has them, and what the reader refuses.

test_reference.py compares the reader with another one.
"""

import pytest

from bootseal.formats import der, x509
from unit.support import VECTORS, oid, tlv, with_field

P256 = (VECTORS / "certs/p256.der").read_bytes()
RSA2048 = (VECTORS / "certs/rsa2048.der").read_bytes()
NULL = b"\x05\0"
UTF8, NUMERIC, PRINTABLE, T61, IA5, VISIBLE, UNIVERSAL, BMP = 0x0C, 0x12, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E
CN, O, C, MAIL, DC = "2.5.4.3", "2.5.4.10", "2.5.4.6", "1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.25"  # noqa: E741


def attribute(kind: str, tag: int, value: bytes) -> bytes:
    return tlv(0x30, oid(kind), tlv(tag, value))


def name(*parts: bytes) -> bytes:
    return tlv(0x30, *(tlv(0x31, part) for part in parts))


def common(tag: int, value: bytes) -> bytes:
    return name(attribute(CN, tag, value))


NAMES = {
    "empty": (name(), ""),
    "the last part is first": (
        name(attribute(C, PRINTABLE, b"DE"), attribute(O, UTF8, b"o"), attribute(CN, UTF8, b"n")), "CN=n,O=o,C=DE"
    ),
    "several values in a part": (
        name(attribute(C, PRINTABLE, b"DE"), attribute(CN, UTF8, b"n") + attribute(O, UTF8, b"o")), "CN=n+O=o,C=DE"
    ),
    "the same part twice": (name(attribute(CN, UTF8, b"a"), attribute(CN, UTF8, b"b")), "CN=b,CN=a"),
    "all that have short names": (
        name(*(attribute(f"2.5.4.{number}", PRINTABLE, b"x") for number in (3, 6, 7, 8, 9, 10, 11))),
        "OU=x,O=x,STREET=x,ST=x,L=x,C=x,CN=x",
    ),
    "domain and user": (name(attribute(DC, IA5, b"org"), attribute("0.9.2342.19200300.100.1.1", UTF8, b"u")), "UID=u,DC=org"),
    "mail address": (name(attribute(MAIL, IA5, b"a@b.org")), "1.2.840.113549.1.9.1=a@b.org"),
    "organization identifier": (name(attribute("2.5.4.97", UTF8, b"VATDE-1")), "2.5.4.97=VATDE-1"),
    "umlaut": (common(UTF8, "Zürich".encode()), "CN=Zürich"),
    "outside the BMP": (common(UTF8, "\U0001f511".encode()), "CN=\U0001f511"),
    "PrintableString": (common(PRINTABLE, b"Az09 '()+,-./:=?"), r"CN=Az09 '()\+\,-./:=?"),
    "NumericString": (common(NUMERIC, b"012 3"), "CN=012 3"),
    "VisibleString": (common(VISIBLE, b"a@b"), "CN=a@b"),
    "T61String": (common(T61, b"a@b"), "CN=a@b"),
    "BMPString": (common(BMP, "Zürich".encode("utf-16-be")), "CN=Zürich"),
    "BMPString with a surrogate pair": (common(BMP, "\U0001f511".encode("utf-16-be")), "CN=\U0001f511"),
    "UniversalString": (common(UNIVERSAL, "Zürich".encode("utf-32-be")), "CN=Zürich"),
    "empty value": (common(UTF8, b""), "CN="),
    "special characters": (common(UTF8, rb'a"+,;<>\b=#'), r"CN=a\"\+\,\;\<\>\\b=#"),
    "hash sign": (common(UTF8, b"#a#"), r"CN=\#a#"),
    "spaces": (common(UTF8, b"  a  "), r"CN=\  a \ "),
    "two spaces": (common(UTF8, b"  "), r"CN=\ \ "),
    "zero": (common(UTF8, b"\0"), r"CN=\00"),
    "control characters": (common(UTF8, b"\n\x1b[m"), "CN=\n\x1b[m"),
}  # fmt: skip


@pytest.mark.parametrize(("encoded", "text"), NAMES.values(), ids=NAMES)
def test_name(encoded: bytes, text: str) -> None:
    assert x509.format_name(encoded) == text


def test_value_of_one_space() -> None:
    """Not in NAMES, because cryptography before release 50 escapes the escape."""
    assert x509.format_name(common(UTF8, b" ")) == r"CN=\ "


BAD_NAMES = {
    "not a SEQUENCE": tlv(0x31),
    "bytes after it": name() + b"\0",
    "part that is not a SET": tlv(0x30, tlv(0x30, attribute(CN, UTF8, b"a"))),
    "part without values": name(b""),
    "values in another order": name(attribute(O, UTF8, b"o") + attribute(CN, UTF8, b"n")),
    "attribute that is not a SEQUENCE": name(tlv(0x31, oid(CN), tlv(UTF8, b"a"))),
    "attribute without a value": name(tlv(0x30, oid(CN))),
    "attribute with two values": name(tlv(0x30, oid(CN), tlv(UTF8, b"a"), tlv(UTF8, b"a"))),
    "type that is not an OID": name(tlv(0x30, tlv(2, b"\1"), tlv(UTF8, b"a"))),
    "malformed OID": name(tlv(0x30, tlv(6, b"\x55\x80\x03"), tlv(UTF8, b"a"))),
    "not UTF-8": common(UTF8, b"Z\xfcrich"),
    "surrogate in UTF-8": common(UTF8, b"\xed\xa0\x80"),
    "PrintableString with an at sign": common(PRINTABLE, b"a@b"),
    "PrintableString with an umlaut": common(PRINTABLE, b"\xfc"),
    "T61String with an umlaut": common(T61, b"\xfc"),
    "IA5String with an umlaut": common(IA5, b"\xfc"),
    "BMPString of odd length": common(BMP, b"\0a\0"),
    "BMPString with half a pair": common(BMP, b"\xd8\0"),
    "UniversalString of three bytes": common(UNIVERSAL, b"\0\0a"),
    "UniversalString with a surrogate": common(UNIVERSAL, b"\0\0\xd8\0"),
    "BIT STRING": common(3, b"\0a"),
    "SEQUENCE": common(0x30, b""),
    "more than 16 parts": name(*[attribute(CN, UTF8, b"a")] * 17),
}


@pytest.mark.parametrize("encoded", BAD_NAMES.values(), ids=BAD_NAMES)
def test_bad_name_is_malformed(encoded: bytes) -> None:
    with pytest.raises(der.Malformed):
        x509.format_name(encoded)


def test_unknown_type_of_a_name_is_unsupported() -> None:
    with pytest.raises(der.Malformed, match="name with a value of the type 0x03") as caught:
        x509.format_name(common(3, b"\0a"))
    assert caught.value.name == x509.UNSUPPORTED


# --- dates

UTC, GENERALIZED = 0x17, 0x18
DATES = {
    (UTC, b"500101000000Z"): "1950-01-01T00:00:00Z",
    (UTC, b"991231235959Z"): "1999-12-31T23:59:59Z",
    (UTC, b"000229123456Z"): "2000-02-29T12:34:56Z",
    (UTC, b"491231235959Z"): "2049-12-31T23:59:59Z",
    (GENERALIZED, b"20500101000000Z"): "2050-01-01T00:00:00Z",
    (GENERALIZED, b"20240229000000Z"): "2024-02-29T00:00:00Z",
    (GENERALIZED, b"99991231235959Z"): "9999-12-31T23:59:59Z",
    (GENERALIZED, b"00010101000000Z"): "0001-01-01T00:00:00Z",
}
BAD_DATES = [
    *((UTC, text) for text in (
        b"", b"Z", b"5001010000Z", b"500101000000", b"500101000000+0000", b"500101000000z", b"500101000000Z ", b"50010100000 Z",
        b"500001000000Z", b"501301000000Z", b"500100000000Z", b"500132000000Z", b"500431000000Z", b"010229000000Z",
        b"500101240000Z", b"500101006000Z", b"500101000060Z", b"5001010000\xb20Z", b"-50101000000Z", b"20500101000000Z",
    )),
    *((GENERALIZED, text) for text in (
        b"00000101000000Z", b"21000229000000Z", b"20500101000000.0Z", b"20500101000000", b"500101000000Z", b"2050010100Z",
    )),
    (UTF8, b"500101000000Z"),
]  # fmt: skip


@pytest.mark.parametrize(("encoded", "text"), DATES.items(), ids=str)
def test_date(encoded: tuple[int, bytes], text: str) -> None:
    later = tlv(GENERALIZED, b"99991231235959Z")
    found = x509.parse(with_field(P256, 4, tlv(0x30, tlv(*encoded), later)))
    assert (found.not_before, found.not_after) == (text, "9999-12-31T23:59:59Z")


@pytest.mark.parametrize(("tag", "value"), BAD_DATES, ids=str)
def test_bad_date_is_malformed(tag: int, value: bytes) -> None:
    good = tlv(UTC, b"500101000000Z")
    for dates in (good + tlv(tag, value), tlv(tag, value) + good):
        with pytest.raises(der.Malformed, match="date"):
            x509.parse(with_field(P256, 4, tlv(0x30, dates)))


# --- keys

POINT = x509.parse(P256).key.spki[-65:]


def ec_key(curve: bytes, point: bytes, unused: bytes = b"\0") -> bytes:
    return tlv(0x30, tlv(0x30, oid("1.2.840.10045.2.1"), curve), tlv(3, unused, point))


def rsa_key(*numbers: bytes, parameters: bytes = NULL) -> bytes:
    return tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.1.1"), parameters), tlv(3, b"\0", tlv(0x30, *numbers)))


P256_CURVE, MODULUS, EXPONENT = oid("1.2.840.10045.3.1.7"), tlv(2, b"\0" + b"\xff" * 256), tlv(2, b"\1\0\1")


def test_keys() -> None:
    spki = ec_key(P256_CURVE, POINT)
    assert x509.parse(with_field(P256, 6, spki)).key == ("ecdsa", 256, 0, spki)
    spki = rsa_key(MODULUS, EXPONENT)
    assert x509.parse(with_field(P256, 6, spki)).key == ("rsa", 2048, 65537, spki)


BAD_KEYS = {
    "compressed point": (ec_key(P256_CURVE, b"\2" + POINT[1:33]), "not an uncompressed point"),
    "hybrid point": (ec_key(P256_CURVE, b"\6" + POINT[1:]), "not an uncompressed point"),
    "point of another size": (ec_key(P256_CURVE, POINT + b"\0"), "not an uncompressed point"),
    "point at infinity": (ec_key(P256_CURVE, b"\0"), "not an uncompressed point"),
    "no point": (ec_key(P256_CURVE, b""), "not an uncompressed point"),
    "an unused bit": (ec_key(P256_CURVE, POINT[:-1] + b"\0", b"\1"), "whole bytes"),
    "curve P-224": (ec_key(oid("1.3.132.0.33"), POINT), "^a key on the curve 1.3.132.0.33, where P-256, P-384 and P-521 are"),
    "explicit curve": (ec_key(tlv(0x30, P256_CURVE), POINT), "^a key on a curve without a name$"),
    "implicit curve": (ec_key(NULL, POINT), "^a key on a curve without a name$"),
    "no curve": (ec_key(b"", POINT), "^a key on a curve without a name$"),
    "RSA without parameters": (rsa_key(MODULUS, EXPONENT, parameters=b""), "neither an RSA nor"),
    "RSA with a curve": (rsa_key(MODULUS, EXPONENT, parameters=P256_CURVE), "neither an RSA nor"),
    "negative modulus": (rsa_key(tlv(2, b"\x80" + bytes(255)), EXPONENT), "negative"),
    "negative exponent": (rsa_key(MODULUS, tlv(2, b"\xff")), "negative"),
    "padded exponent": (rsa_key(MODULUS, tlv(2, b"\0\1\0\1")), "redundant"),
    "one number": (rsa_key(MODULUS), "missing"),
    "three numbers": (rsa_key(MODULUS, EXPONENT, EXPONENT), "missing, added"),
    "DSA": (tlv(0x30, tlv(0x30, oid("1.2.840.10040.4.1"), NULL), tlv(3, b"\0x")), "neither an RSA nor"),
    "not a SEQUENCE": (tlv(0x31, tlv(0x30, oid(CN)), tlv(3, b"\0")), "order"),
}  # fmt: skip


@pytest.mark.parametrize(("spki", "why"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_bad_key_is_malformed(spki: bytes, why: str) -> None:
    with pytest.raises(der.Malformed, match=why):
        x509.parse(with_field(P256, 6, spki))


# --- extensions

TRUE, FALSE = tlv(1, b"\xff"), tlv(1, b"\0")


def with_extensions(*extensions: bytes) -> bytes:
    return with_field(P256, 7, tlv(0xA3, tlv(0x30, *extensions)))


def test_extensions() -> None:
    one, other = tlv(0x30, oid("1.2.3"), tlv(4, NULL)), tlv(0x30, oid("1.2.4"), TRUE, tlv(4))
    assert x509.parse(with_extensions(one, other)).extensions == (
        (der.oid("1.2.3"), False, NULL),
        (der.oid("1.2.4"), True, b""),
    )


BAD_EXTENSIONS = {
    "none": with_extensions(),
    "one twice": with_extensions(*[tlv(0x30, oid("1.2.3"), tlv(4, NULL))] * 2),
    "one twice, once critical": with_extensions(tlv(0x30, oid("1.2.3"), tlv(4)), tlv(0x30, oid("1.2.3"), TRUE, tlv(4))),
    "critical FALSE": with_extensions(tlv(0x30, oid("1.2.3"), FALSE, tlv(4))),
    "critical 1": with_extensions(tlv(0x30, oid("1.2.3"), tlv(1, b"\1"), tlv(4))),
    "critical NULL": with_extensions(tlv(0x30, oid("1.2.3"), NULL, tlv(4))),
    "critical of two bytes": with_extensions(tlv(0x30, oid("1.2.3"), tlv(1, b"\xff\xff"), tlv(4))),
    "without a value": with_extensions(tlv(0x30, oid("1.2.3"))),
    "with two values": with_extensions(tlv(0x30, oid("1.2.3"), tlv(4), tlv(4))),
    "value of another type": with_extensions(tlv(0x30, oid("1.2.3"), tlv(3, b"\0"))),
    "malformed OID": with_extensions(tlv(0x30, tlv(6, b"\x80"), tlv(4))),
    "not a SEQUENCE": with_extensions(tlv(0x31, oid("1.2.3"), tlv(4))),
    "two lists": with_field(P256, 7, tlv(0xA3, tlv(0x30, tlv(0x30, oid("1.2.3"), tlv(4))), tlv(0x30))),
}


@pytest.mark.parametrize("encoded", BAD_EXTENSIONS.values(), ids=BAD_EXTENSIONS)
def test_bad_extension_is_malformed(encoded: bytes) -> None:
    with pytest.raises(der.Malformed):
        x509.parse(encoded)


USAGES = {
    "03020780": True, "030205a0": True, "03020080": True, "030200ff": True, "0303078000": True,
    "03020106": False, "0302007f": False, "030100": False,
}  # fmt: skip


@pytest.mark.parametrize(("value", "allowed"), USAGES.items())
def test_key_usage(value: str, *, allowed: bool) -> None:
    assert x509.allows_signatures(bytes.fromhex(value)) is allowed


@pytest.mark.parametrize("value", ["", "0300", "030101", "030108", "03020781", "03020880", "0401ff", "0302078000"])
def test_bad_key_usage_is_malformed(value: str) -> None:
    with pytest.raises(der.Malformed):
        x509.allows_signatures(bytes.fromhex(value))


def test_purposes() -> None:
    assert x509.purposes(tlv(0x30, oid("1.2.3"), oid("1.2.4"))) == [der.oid("1.2.3"), der.oid("1.2.4")]


BAD_PURPOSES = [
    b"", tlv(0x30), tlv(0x31, oid("1.2.3")), tlv(0x30, NULL), tlv(0x30, tlv(2, b"\1")),
    tlv(0x30, tlv(6, b"\x80")), tlv(0x30, oid("1.2.3")) + b"\0",
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_PURPOSES)
def test_bad_purposes_are_malformed(value: bytes) -> None:
    with pytest.raises(der.Malformed):
        x509.purposes(value)


# --- the certificate

VERSION_3 = tlv(0xA0, b"\2\1\2")
ECDSA, ECDSA_384 = tlv(0x30, oid("1.2.840.10045.4.3.2")), tlv(0x30, oid("1.2.840.10045.4.3.3"))


def with_signature(*, algorithm: bytes = ECDSA, value: bytes = tlv(3, b"\0x"), more: bytes = b"") -> bytes:
    body = der.items(der.items(P256)[0].content)[0].raw
    return tlv(0x30, body, algorithm, value, more)


def test_members() -> None:
    found = x509.parse(P256)
    assert x509.format_name(found.subject) == x509.format_name(found.issuer) == "CN=bootseal test p256"
    assert (found.key.scheme, found.key.bits) == ("ecdsa", 256)
    assert x509.parse(with_signature()) == found


def test_version_1_has_no_extensions() -> None:
    plain = with_field(with_field(P256, 7), 0)
    assert x509.parse(plain).extensions == ()
    with pytest.raises(der.Malformed):
        x509.parse(with_field(P256, 0))


BAD_CERTIFICATES = {
    "empty": b"",
    "version 1, stated": with_field(with_field(P256, 7), 0, tlv(0xA0, b"\2\1\0")),
    "version 2": with_field(with_field(P256, 7), 0, tlv(0xA0, b"\2\1\1")),
    "version 4": with_field(P256, 0, tlv(0xA0, b"\2\1\3")),
    "version twice": with_field(P256, 0, VERSION_3, VERSION_3),
    "version without a number": with_field(P256, 0, tlv(0xA0)),
    "negative serial": with_field(P256, 1, tlv(2, b"\x80")),
    "padded serial": with_field(P256, 1, tlv(2, b"\0\1")),
    "serial without bytes": with_field(P256, 1, tlv(2)),
    "no serial": with_field(P256, 1),
    "no issuer": with_field(P256, 3),
    "unique identifier": with_field(P256, 7, tlv(0x81, b"\0a")),
    "one date": with_field(P256, 4, tlv(0x30, tlv(UTC, b"500101000000Z"))),
    "three dates": with_field(P256, 4, tlv(0x30, *[tlv(UTC, b"500101000000Z")] * 3)),
    "other algorithm outside": with_signature(algorithm=ECDSA_384),
    "other algorithm inside": with_field(P256, 2, ECDSA_384),
    "algorithm without a name": with_field(with_signature(algorithm=tlv(0x30)), 2, tlv(0x30)),
    "algorithm with two parameters": with_field(
        with_signature(algorithm=tlv(0x30, oid(CN), NULL, NULL)), 2, tlv(0x30, oid(CN), NULL, NULL)
    ),
    "signature of another type": with_signature(value=tlv(4, b"\0x")),
    "signature without bytes": with_signature(value=tlv(3)),
    "something after the signature": with_signature(more=NULL),
    "bytes after the certificate": P256 + b"\0",
    "not a SEQUENCE": b"\x31" + P256[1:],
}


@pytest.mark.parametrize("encoded", BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES)
def test_bad_certificate_is_malformed(encoded: bytes) -> None:
    with pytest.raises(der.Malformed):
        x509.parse(encoded)
