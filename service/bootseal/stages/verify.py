# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 4: Candidate and BootKeyring -> Verified, or a Refusal. The only maker of a Verified digest."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from .. import digest, verdicts
from ..digest import Digest
from ..errors import Refusal
from ..formats import der, pkcs7
from ..values import BootKeyring, Certificate, Signer, Unverified, Verified

_HASHES: dict[str, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_SHOWN = 160  # characters; a serial number has at most 40 (RFC 5280, section 4.1.2.2)


def verify(candidate: Unverified, keyring: BootKeyring) -> Verified:
    """Checks the signature over the very bytes that the candidate holds.

    Raises Refusal: `bad-digest`, `bad-signature`, `untrusted-signer`, `wrong-signature`.
    """
    image = candidate.image_path
    try:
        expected = digest.from_bytes(candidate.digest)
    except ValueError as error:
        raise Refusal(verdicts.BAD_DIGEST, str(error), image + ".digest") from error
    try:
        info = pkcs7.parse(candidate.signature)
    except der.Malformed as error:
        raise Refusal(verdicts.BAD_SIGNATURE, f"outside the signature profile: {error}", image + ".sig") from error
    certificates = _named(info, keyring, expected, image + ".sig")
    # 'fsverity sign' may hash the digest file with SHA-512, too; either way the same bytes are what is signed.
    for algorithm in digest.NUMBERS:
        signed = digest.of_bytes(candidate.digest, algorithm)
        for certificate in certificates:
            if _made(info, certificate, signed):
                signer = Signer(certificate, f"{info.scheme}-{info.hash_name}")
                return Verified(expected, signed, candidate.signature, info.value, info.hash_name, signer)
    who = f"{certificates[0].subject_text}, serial {info.serial.hex()}"
    details = (("digest file says", str(expected)), ("signer", who))
    raise Refusal(verdicts.WRONG_SIGNATURE, _wrong(expected, certificates), image + ".sig", details=details)


def _named(info: pkcs7.SignerInfo, keyring: BootKeyring, expected: Digest, path: str) -> list[Certificate]:
    """The certificates that the signature names, with a key of its kind."""
    named = [c for c in keyring.certificates if (c.issuer, c.serial) == (info.issuer, info.serial)]
    if not named:
        serial = _short(info.serial.hex())
        trusted = ", ".join(c.subject_text for c in keyring.certificates)
        what = f"no certificate of the boot keyring made this signature (serial {serial}; trusted: {trusted})"
        details = (("digest file says", str(expected)), ("signer", f"issuer {_values(info.issuer)}, serial {serial}"))
        raise Refusal(verdicts.UNTRUSTED_SIGNER, what, path, details=details)
    wanted = rsa.RSAPublicKey if info.scheme == "rsa" else ec.EllipticCurvePublicKey
    fitting = [c for c in named if isinstance(c.key, wanted)]
    if not fitting:
        raise Refusal(verdicts.BAD_SIGNATURE, f"labelled {info.scheme}, but the signer's key is of another kind", path)
    return fitting


def _made(info: pkcs7.SignerInfo, certificate: Certificate, signed: Digest) -> bool:
    key, hash_ = certificate.key, _HASHES[info.hash_name]()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(info.value, signed.formatted(), padding.PKCS1v15(), hash_)
        else:
            key.verify(info.value, signed.formatted(), ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True


def _values(name: bytes) -> str:
    """The values of a distinguished name, by which people know whose it is; of an odd one its length."""
    try:
        attributes = [a for names in der.items(der.only(name, der.SEQUENCE).content) for a in der.items(names.content)]
        values = (der.items(attribute.content)[1].content.decode(errors="replace") for attribute in attributes)
        return _short(", ".join(values))
    except (der.Malformed, IndexError):
        return f"of {len(name)} bytes"


def _short(text: str) -> str:
    """What a message of 16 KB may bring along must not crowd out the verdict."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _wrong(expected: Digest, certificates: list[Certificate]) -> str:
    return f"the signature of {certificates[0].subject_text} is not over the digest {expected}"
