# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verify the signature over an Unverified digest with the keys of the boot keyring.

Nothing else makes a Verified digest.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from .. import digest, paths, verdicts
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


def verify(unverified: Unverified, keyring: BootKeyring) -> Verified:
    """Check the signature over the very bytes that were read.

    Raises Refusal: `bad-digest`, `bad-signature`, `untrusted-signer`, `wrong-signature`.
    """
    image = unverified.image_path
    try:
        expected = digest.from_bytes(unverified.digest)
    except ValueError as error:
        raise Refusal(verdicts.BAD_DIGEST, str(error), paths.digest_of(image)) from error
    try:
        info = pkcs7.parse(unverified.signature)
    except der.Malformed as error:
        raise Refusal(verdicts.BAD_SIGNATURE, f"outside the signature profile: {error}", paths.signature_of(image)) from error
    certificates = _select_certificates(info, keyring, expected, paths.signature_of(image))
    # 'fsverity sign' may hash the digest file with either algorithm; the signature covers the result.
    for algorithm in digest.NUMBERS:
        signed = digest.of_bytes(unverified.digest, algorithm)
        for certificate in certificates:
            if signature_matches(info, certificate, signed):
                signer = Signer(certificate, f"{info.scheme}-{info.hash_name}")
                return Verified(expected, signed, unverified.signature, info.value, info.hash_name, signer)
    subject = certificates[0].subject_text
    details = (("digest file says", str(expected)), ("signer", f"{subject}, serial {info.serial.hex()}"))
    what = f"the signature of {subject} is not over the digest {expected}"
    raise Refusal(verdicts.WRONG_SIGNATURE, what, paths.signature_of(image), details=details)


def _select_certificates(info: pkcs7.SignerInfo, keyring: BootKeyring, expected: Digest, path: str) -> list[Certificate]:
    """Select the certificates that the signature names and whose key is of its kind. Raises Refusal."""
    named = [c for c in keyring.certificates if (c.issuer, c.serial) == (info.issuer, info.serial)]
    if not named:
        serial = _shorten(info.serial.hex())
        trusted = ", ".join(c.subject_text for c in keyring.certificates)
        what = f"no certificate of the boot keyring made this signature (serial {serial}; trusted: {trusted})"
        details = (("digest file says", str(expected)), ("signer", f"issuer {_format_issuer(info.issuer)}, serial {serial}"))
        raise Refusal(verdicts.UNTRUSTED_SIGNER, what, path, details=details)
    wanted = rsa.RSAPublicKey if info.scheme == "rsa" else ec.EllipticCurvePublicKey
    usable = [c for c in named if isinstance(c.key, wanted)]
    if not usable:
        raise Refusal(verdicts.BAD_SIGNATURE, f"labelled {info.scheme}, but the signer's key is of another kind", path)
    return usable


def signature_matches(info: pkcs7.SignerInfo, certificate: Certificate, signed: Digest) -> bool:
    """Tell whether the key of a certificate made this signature over the fs-verity digest of a file."""
    key, hash_ = certificate.key, _HASHES[info.hash_name]()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(info.value, signed.formatted(), padding.PKCS1v15(), hash_)
        else:
            key.verify(info.value, signed.formatted(), ec.ECDSA(hash_))
    except InvalidSignature:
        return False
    return True


def _format_issuer(name: bytes) -> str:
    """Format the values of a distinguished name for people, or the length of a malformed one."""
    try:
        attributes = [a for names in der.items(der.only(name, der.SEQUENCE).content) for a in der.items(names.content)]
        values = (der.items(attribute.content)[1].content.decode(errors="replace") for attribute in attributes)
        return _shorten(", ".join(values))
    except (der.Malformed, IndexError):
        return f"of {len(name)} bytes"


def _shorten(text: str) -> str:
    """Cut a text from the disk: a signature file of 16 KB must not push the verdict off the console."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
