# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read and write the one PKCS#7 message (RFC 5652) that bootseal's profile allows.

That is a detached SignedData with one signature, as 'fsverity sign' and 'openssl cms -sign -binary -noattr -nocerts' write it.
The kernel's own reader accepts a good deal more. bootseal refuses such messages before the kernel sees them.

One walk finds every deviation. parse() stops at the first and uses nothing behind it; deviations() goes on.
"""

from ..namedtuple import NamedTuple
from . import der
from .der import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import NoReturn

    # Takes a deviation behind which the walk can go on. Deviations that end any walk are raised instead.
    Deviate = Callable[[Malformed], object]

MAX_SIZE = 16128  # FS_VERITY_MAX_SIGNATURE_SIZE of the kernel

DATA = der.oid("1.2.840.113549.1.7.1")
SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
RSA = der.oid("1.2.840.113549.1.1.1")  # rsaEncryption
HASHES = {
    der.oid("2.16.840.1.101.3.4.2.1"): "sha256",
    der.oid("2.16.840.1.101.3.4.2.2"): "sha384",
    der.oid("2.16.840.1.101.3.4.2.3"): "sha512",
}
ECDSA = {
    der.oid("1.2.840.10045.4.3.2"): "sha256",
    der.oid("1.2.840.10045.4.3.3"): "sha384",
    der.oid("1.2.840.10045.4.3.4"): "sha512",
}
_NULL, _ONE = b"\x05\0", b"\x02\1\1"
_PARAMETERS = "an algorithm with parameters other than NULL"
_SCHEMES = "signature algorithm other than RSA (PKCS#1 v1.5) or ECDSA with the digest's own hash"


class SignerInfo(NamedTuple):
    """A signature and its signer.

    `issuer` is the DER of a name, `serial` the content of an INTEGER, `scheme` rsa or ecdsa.
    """

    issuer: bytes
    serial: bytes
    scheme: str
    hash_name: str
    value: bytes


def parse(message: bytes) -> SignerInfo:
    """Return the signature of a message. Raises Malformed, which states the first deviation."""
    return _walk(message, _refuse)


def deviations(message: bytes) -> list[str]:
    """Return the name of each deviation from the profile. Empty exactly if parse() accepts."""
    names: list[str] = []
    try:
        _walk(message, lambda deviation: names.append(deviation.name))
    except Malformed as last:
        names.append(last.name)
    return list(dict.fromkeys(names))


def parse_tolerantly(message: bytes, tolerated: "Collection[str]") -> SignerInfo:
    """Return the signature of a message that has no deviations but these. Raises Malformed."""

    def deviate(deviation: Malformed) -> None:
        if deviation.name not in tolerated:
            raise deviation

    return _walk(message, deviate)


def _refuse(deviation: Malformed) -> "NoReturn":
    raise deviation


def _walk(message: bytes, deviate: "Deviate") -> SignerInfo:
    if not message:
        raise Malformed("empty", "empty")
    if len(message) > MAX_SIZE:
        deviate(Malformed(f"longer than {MAX_SIZE} bytes", "too-long"))
    if message.startswith(b"-----BEGIN"):
        raise Malformed("PEM, where DER is expected", "pem")
    outer, rest = der.first(message)
    fields = der.items(outer.content) if outer.tag == der.SEQUENCE else []
    if [f.tag for f in fields] != [der.OID, der.CONTEXT_0] or fields[0].content != SIGNED_DATA:
        raise Malformed("not a SignedData message", "not-signed-data")
    if rest:
        deviate(Malformed(f"{len(rest)} bytes after the end", "trailing-bytes"))
    return _signed_data(der.only(fields[1].content, der.SEQUENCE), deviate)


def _signed_data(item: der.Item, deviate: "Deviate") -> SignerInfo:
    what = "certificates or CRLs inside: sign with -nocerts"
    fields = _without(der.items(item.content), ("certificates-inside", "crls-inside"), what, deviate)
    if [f.tag for f in fields] != [der.INTEGER, der.SET, der.SEQUENCE, der.SET]:
        raise Malformed("SignedData with elements missing, added, or in another order", der.STRUCTURE)
    version, algorithms, content, signers = fields
    if version.content != b"\1":
        deviate(Malformed("SignedData version other than 1 (signer named by key id?)", "version"))
    _check_detached(der.items(content.content), deviate)
    signatures = [_signer(signer, deviate) for signer in _signers(signers, deviate)]
    _check_digest_algorithms(der.items(algorithms.content), signatures, deviate)
    return signatures[0]


def _without(fields: list[der.Item], names: tuple[str, str], what: str, deviate: "Deviate") -> list[der.Item]:
    """Return the fields except those with the tags [0] and [1], whose deviations have these names."""
    for field in fields:
        if field.tag in (der.CONTEXT_0, der.CONTEXT_1):
            deviate(Malformed(what, names[field.tag - der.CONTEXT_0]))
    return [field for field in fields if field.tag not in (der.CONTEXT_0, der.CONTEXT_1)]


def _check_detached(fields: list[der.Item], deviate: "Deviate") -> None:
    if not fields or fields[0].tag != der.OID or fields[0].content != DATA:
        deviate(Malformed("content type other than data", "content-type"))
    if len(fields) > 1:
        deviate(Malformed("content inside: the signature must be detached", "content-inside"))


def _signers(item: der.Item, deviate: "Deviate") -> list[der.Item]:
    try:
        signers = der.items(item.content)
    except Malformed as error:
        if error.name == der.STRUCTURE:  # more than the reader takes
            error.name = "several-signers"
        raise
    if not signers:
        raise Malformed("0 signers, where exactly one is allowed", "no-signer")
    if len(signers) > 1:
        deviate(Malformed(f"{len(signers)} signers, where exactly one is allowed", "several-signers"))
    return signers


def _signer(item: der.Item, deviate: "Deviate") -> SignerInfo:
    fields = der.items(item.content) if item.tag == der.SEQUENCE else []
    fields = _without(fields, ("attributes", "unsigned-attributes"), "attributes inside: sign with -noattr", deviate)
    tags = [f.tag for f in fields]
    if len(tags) != 5 or tags[:1] + tags[2:] != [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.OCTET_STRING]:
        raise Malformed("SignerInfo with elements missing, added, or in another order", der.STRUCTURE)
    version, signer, digest_algorithm, signature_algorithm, value = fields
    if signer.tag != der.SEQUENCE:
        deviate(Malformed("signer named by key id", "key-id"))
        issuer = serial = signer
    else:
        if version.content != b"\1":
            deviate(Malformed("SignerInfo version other than 1", "version"))
        issuer, serial = der.sequence(signer, der.SEQUENCE, der.INTEGER)
        der.minimal(serial)
    hash_name = _hash(digest_algorithm, deviate)
    scheme = _scheme(signature_algorithm, hash_name, deviate)
    if scheme == "ecdsa":
        _check_ecdsa_value(value.content, deviate)
    return SignerInfo(issuer.raw, serial.content, scheme, hash_name, value.content)


def _hash(item: der.Item, deviate: "Deviate") -> str:
    name, parameters = _algorithm(item)
    if name not in HASHES:
        deviate(Malformed("digest algorithm other than SHA-256, SHA-384 and SHA-512", "old-hash"))
    elif parameters not in (b"", _NULL):
        deviate(Malformed(_PARAMETERS, "algorithm-parameters"))
    return HASHES.get(name, "")


def _scheme(item: der.Item, hash_name: str, deviate: "Deviate") -> str:
    name, parameters = _algorithm(item)
    scheme = "rsa" if name == RSA else "ecdsa" if name in ECDSA else ""
    if not scheme:
        deviate(Malformed(_SCHEMES, "signature-algorithm"))
    elif parameters != (_NULL if scheme == "rsa" else b""):
        deviate(Malformed(_SCHEMES, "algorithm-parameters"))
    if ECDSA.get(name, hash_name) != hash_name:
        deviate(Malformed(_SCHEMES, "ecdsa-hash-label"))
    return scheme


def _check_digest_algorithms(items: list[der.Item], signatures: list[SignerInfo], deviate: "Deviate") -> None:
    algorithms = [_algorithm(item) for item in items]
    if len(algorithms) != 1:
        what = f"{len(algorithms)} digest algorithms, where exactly one is allowed"
        deviate(Malformed(what, "several-digest-algorithms"))
    if not {parameters for _, parameters in algorithms} <= {b"", _NULL}:
        deviate(Malformed(_PARAMETERS, "algorithm-parameters"))
    if not {s.hash_name for s in signatures} <= {HASHES.get(name, "") for name, _ in algorithms}:
        deviate(Malformed("the message's digest algorithm is not the signer's", "digest-algorithms-differ"))


def _algorithm(item: der.Item) -> tuple[bytes, bytes]:
    """Return the OID and the parameters, if any, of an AlgorithmIdentifier."""
    name, parameters = der.first(item.content)
    if item.tag != der.SEQUENCE or name.tag != der.OID:
        raise Malformed("an algorithm without a name", der.STRUCTURE)
    return name.content, parameters


def _check_ecdsa_value(value: bytes, deviate: "Deviate") -> None:
    """Check for a SEQUENCE of two positive minimal INTEGERs (RFC 3279). The kernel takes sloppier ones."""
    try:
        for number in der.sequence(der.only(value, der.SEQUENCE), der.INTEGER, der.INTEGER):
            if der.unsigned(number) == 0:
                raise Malformed("an ECDSA value of zero", der.STRUCTURE)
    except Malformed as error:
        error.name = "ecdsa-value"
        deviate(error)


def signed_data(issuer: bytes, serial: bytes, scheme: str, hash_name: str, value: bytes) -> bytes:
    """Write the message around a signature; parse() reads these five back.

    The bytes are those of 'fsverity sign' (OpenSSL's PKCS7_sign with PKCS7_BINARY, DETACHED, NOATTR, NOCERTS).
    """
    hash_algorithm = _sequence(_oid(HASHES, hash_name), _NULL)
    algorithm = _sequence(der.element(der.OID, RSA), _NULL) if scheme == "rsa" else _sequence(_oid(ECDSA, hash_name))
    name = _sequence(issuer, der.element(der.INTEGER, serial))
    signer = _sequence(_ONE, name, hash_algorithm, algorithm, der.element(der.OCTET_STRING, value))
    content = _sequence(der.element(der.OID, DATA))
    body = _sequence(_ONE, der.element(der.SET, hash_algorithm), content, der.element(der.SET, signer))
    return _sequence(der.element(der.OID, SIGNED_DATA), der.element(der.CONTEXT_0, body))


def ecdsa_value(raw: bytes) -> bytes:
    """Convert a raw signature to the DER in a message.

    Each half of `raw` is a number, r and s (IEEE P1363, as PKCS#11 and most KMS return it).
    """
    half = len(raw) // 2
    return _sequence(*(der.integer(int.from_bytes(part, "big")) for part in (raw[:half], raw[half:])))


def _sequence(*content: bytes) -> bytes:
    return der.element(der.SEQUENCE, *content)


def _oid(algorithms: dict[bytes, str], hash_name: str) -> bytes:
    return der.element(der.OID, next(oid for oid, name in algorithms.items() if name == hash_name))
