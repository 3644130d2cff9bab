# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the certificate of a key: X.509 (RFC 5280) in strict DER, with the keys and names that bootseal's profile allows.

The reader refuses what it does not know. So it accepts fewer certificates than RFC 5280 allows; reference.py compares each
certificate of an initrd with another reader's result. It judges no usage, date or signature.
"""

import codecs

from ..namedtuple import NamedTuple
from . import der, pkcs7
from .der import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Name of a deviation: bootseal does not use such keys or names.
UNSUPPORTED = "unsupported"
EC = der.oid("1.2.840.10045.2.1")  # id-ecPublicKey
CURVES = {der.oid("1.2.840.10045.3.1.7"): 256, der.oid("1.3.132.0.34"): 384, der.oid("1.3.132.0.35"): 521}
KEY_USAGE, EXTENDED_KEY_USAGE = der.oid("2.5.29.15"), der.oid("2.5.29.37")
_NULL, _TRUE = b"\x05\0", b"\xff"
_UTC_TIME, _GENERALIZED_TIME, _BOOLEAN, _BIT_STRING, _EXTENSIONS = 0x17, 0x18, 0x01, 0x03, 0xA3
_VERSION_3 = b"\x02\1\2"
# RFC 4514, section 3. Other types have their OID as their name.
_NAMES = {
    der.oid(number): name
    for number, name in (
        ("2.5.4.3", "CN"), ("2.5.4.7", "L"), ("2.5.4.8", "ST"), ("2.5.4.10", "O"), ("2.5.4.11", "OU"), ("2.5.4.6", "C"),
        ("2.5.4.9", "STREET"), ("0.9.2342.19200300.100.1.25", "DC"), ("0.9.2342.19200300.100.1.1", "UID"),
    )
}  # fmt: skip
_PRINTABLE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Key(NamedTuple):
    """A public key: `scheme` is rsa or ecdsa, `spki` the DER of its SubjectPublicKeyInfo.

    `bits` is the size of an RSA modulus, or of a curve. `exponent` is RSA's, and 0 for ECDSA.
    """

    scheme: str
    bits: int
    exponent: int
    spki: bytes


class Extension(NamedTuple):
    """`oid` is the content of its OBJECT IDENTIFIER, `value` the DER in its OCTET STRING."""

    oid: bytes
    critical: bool
    value: bytes


class Certificate(NamedTuple):
    """The DER of two names, the content of an INTEGER, two times as in 2026-12-31T23:59:59Z, a key, the extensions."""

    issuer: bytes
    subject: bytes
    serial: bytes
    not_before: str
    not_after: str
    key: Key
    extensions: tuple[Extension, ...]


def parse(encoded: bytes) -> Certificate:
    """Read a certificate. Raises Malformed."""
    body, algorithm, signature = der.sequence(der.only(encoded, der.SEQUENCE), der.SEQUENCE, der.SEQUENCE, _BIT_STRING)
    _octets(signature)
    fields, extensions = der.items(body.content), tuple[Extension, ...]()
    if fields[:1] and fields[0].tag == der.CONTEXT_0:
        if fields.pop(0).content != _VERSION_3:
            raise Malformed("an X.509 version other than 1 and 3", UNSUPPORTED)
        if fields[-1:] and fields[-1].tag == _EXTENSIONS:
            extensions = _extensions(fields.pop().content)
    if [field.tag for field in fields] != [der.INTEGER, *[der.SEQUENCE] * 5]:
        raise Malformed("elements missing, added, or in another order", der.STRUCTURE)
    serial, inner, issuer, validity, subject, key = fields
    der.unsigned(serial)
    if inner.raw != algorithm.raw:
        raise Malformed("two signature algorithms that differ", der.STRUCTURE)
    _algorithm(algorithm)
    dates = [_time(item) for item in _several(validity.content, 2)]
    return Certificate(issuer.raw, subject.raw, serial.content, dates[0], dates[1], _key(key), extensions)


def purposes(value: bytes) -> list[bytes]:
    """Return the purposes of an extended key usage, at least one, each as the content of an OID. Raises Malformed."""
    found = der.items(der.only(value, der.SEQUENCE).content)
    if not found or any(item.tag != der.OID for item in found):
        raise Malformed("an extended key usage that is not a list of purposes", der.STRUCTURE)
    for item in found:
        der.dotted(item.content)
    return [item.content for item in found]


def allows_signatures(value: bytes) -> bool:
    """Tell whether a key usage has digitalSignature, its first bit. Raises Malformed."""
    content = der.only(value, _BIT_STRING).content
    unused, bits = content[:1], content[1:]
    if not unused or unused[0] > (7 if bits else 0) or (bits and bits[-1] & ((1 << unused[0]) - 1)):
        raise Malformed("a key usage with a damaged BIT STRING", der.STRUCTURE)
    return bits[:1] >= b"\x80"


def format_name(name: bytes) -> str:
    """Format a distinguished name as RFC 4514 has it: the last part first. Raises Malformed."""
    parts = []
    for part in der.items(der.only(name, der.SEQUENCE).content):
        attributes = der.items(part.content)
        encoded = [attribute.raw for attribute in attributes]
        if part.tag != der.SET or not attributes or encoded != sorted(encoded):
            raise Malformed("a part of a name that is not an ordered SET", der.STRUCTURE)
        parts.append("+".join(map(_attribute, attributes)))
    return ",".join(reversed(parts))


def _attribute(item: der.Item) -> str:
    kind, value = _several(item.content, 2)
    if item.tag != der.SEQUENCE or kind.tag != der.OID:
        raise Malformed("an attribute of a name without a type", der.STRUCTURE)
    dotted = der.dotted(kind.content)
    return f"{_NAMES.get(kind.content, dotted)}={_escape(_text(value))}"


def _text(item: der.Item) -> str:
    """Decode a string with the decoders that Python has without importing a module: an initrd has no others."""
    decode = _DECODERS.get(item.tag)
    if not decode:
        raise Malformed(f"a name with a value of the type 0x{item.tag:02x}", UNSUPPORTED)
    try:
        return decode(item.content)
    except UnicodeDecodeError as error:
        raise Malformed("a name with a value in a wrong encoding", der.STRUCTURE) from error


def _decode_printable(content: bytes) -> str:
    if not _PRINTABLE.issuperset(content):
        raise Malformed("a name with a character that a PrintableString cannot have", der.STRUCTURE)
    return content.decode("ascii")


_DECODERS: "dict[int, Callable[[bytes], str]]" = {
    0x0C: lambda content: content.decode("utf-8"),  # UTF8String
    0x13: _decode_printable,
    # NumericString, T61String, IA5String, VisibleString
    **dict.fromkeys((0x12, 0x14, 0x16, 0x1A), lambda content: content.decode("ascii")),
    0x1C: lambda content: codecs.utf_32_be_decode(content, "strict", True)[0],  # UniversalString
    0x1E: lambda content: codecs.utf_16_be_decode(content, "strict", True)[0],  # BMPString
}


def _escape(text: str) -> str:
    """Escape a value (RFC 4514, section 2.4)."""
    escaped = "".join("\\" + c if c in '\\"+,;<>' else "\\00" if c == "\0" else c for c in text)
    if escaped[:1] == "#" or (escaped[:1] == " " and len(escaped) > 1):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if escaped[-1:] == " " else escaped


def _key(item: der.Item) -> Key:
    algorithm, bits = der.sequence(item, der.SEQUENCE, _BIT_STRING)
    name, parameters = _algorithm(algorithm)
    content = _octets(bits)
    if name == pkcs7.RSA and parameters == _NULL:
        modulus, exponent = der.sequence(der.only(content, der.SEQUENCE), der.INTEGER, der.INTEGER)
        return Key("rsa", der.unsigned(modulus).bit_length(), der.unsigned(exponent), item.raw)
    if name != EC:
        raise Malformed("neither an RSA nor an ECDSA key", UNSUPPORTED)
    if parameters[:1] != bytes([der.OID]):
        raise Malformed("a key on a curve without a name", UNSUPPORTED)
    curve = der.only(parameters, der.OID).content
    if curve not in CURVES:
        raise Malformed(f"a key on the curve {der.dotted(curve)}, where P-256, P-384 and P-521 are allowed", UNSUPPORTED)
    size = (CURVES[curve] + 7) // 8
    if len(content) != 1 + 2 * size or content[0] != 4:
        raise Malformed("a key that is not an uncompressed point", UNSUPPORTED)
    return Key("ecdsa", CURVES[curve], 0, item.raw)


def _algorithm(item: der.Item) -> tuple[bytes, bytes]:
    """Return the OID and the parameters, if any, of an AlgorithmIdentifier."""
    name, *parameters = _several(item.content, 1, 2)
    if name.tag != der.OID:
        raise Malformed("an algorithm without a name", der.STRUCTURE)
    der.dotted(name.content)
    return name.content, b"".join(item.raw for item in parameters)


def _several(content: bytes, *counts: int) -> list[der.Item]:
    found = der.items(content)
    if len(found) not in counts:
        raise Malformed("elements missing or added", der.STRUCTURE)
    return found


def _octets(item: der.Item) -> bytes:
    """Return the content of a BIT STRING of whole bytes."""
    if item.content[:1] != b"\0":
        raise Malformed("a BIT STRING that is not of whole bytes", der.STRUCTURE)
    return item.content[1:]


def _extensions(content: bytes) -> tuple[Extension, ...]:
    found = [_extension(item) for item in der.items(der.only(content, der.SEQUENCE).content)]
    if not found or len({extension.oid for extension in found}) < len(found):
        raise Malformed("no extension in their list, or one twice", der.STRUCTURE)
    return tuple(found)


def _extension(item: der.Item) -> Extension:
    fields = der.items(item.content) if item.tag == der.SEQUENCE else []
    critical = len(fields) == 3 and fields.pop(1)
    if [field.tag for field in fields] != [der.OID, der.OCTET_STRING]:
        raise Malformed("an extension with elements missing, added, or in another order", der.STRUCTURE)
    if critical and (critical.tag != _BOOLEAN or critical.content != _TRUE):  # DER leaves out the default, FALSE
        raise Malformed("an extension that is neither critical nor not", der.STRUCTURE)
    der.dotted(fields[0].content)
    return Extension(fields[0].content, bool(critical), fields[1].content)


def _time(item: der.Item) -> str:
    """Format a time as ISO 8601. RFC 5280, section 4.1.2.5: in UTC, with seconds, and two digits for 1950 to 2049."""
    text = item.content.decode("latin-1")
    if item.tag == _UTC_TIME:
        text = ("19" if text >= "5" else "20") + text
    elif item.tag != _GENERALIZED_TIME:
        raise Malformed("a date of an unknown type", der.STRUCTURE)
    digits = text[:14]
    if len(text) != 15 or text[14] != "Z" or not (digits.isascii() and digits.isdigit()) or not _exists(digits):
        raise Malformed("a malformed date", der.STRUCTURE)
    date = "-".join((digits[:4], digits[4:6], digits[6:8]))
    return f"{date}T{digits[8:10]}:{digits[10:12]}:{digits[12:]}Z"


def _exists(digits: str) -> bool:
    year, (month, day, hour, minute, second) = int(digits[:4]), (int(digits[at : at + 2]) for at in range(4, 14, 2))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = 29 if month == 2 and leap else _DAYS[month - 1] if 1 <= month <= 12 else 0
    return year > 0 and 1 <= day <= days and hour < 24 and minute < 60 and second < 60
