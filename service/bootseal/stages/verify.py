# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verify the signature over an Unverified digest with the keys of the boot keyring.

Nothing else makes a Verified digest.
"""

from .. import digest, libcrypto, paths, verdicts
from ..digest import Digest
from ..errors import Refusal
from ..formats import der, pkcs7
from ..namedtuple import NamedTuple
from ..values import DIGEST_FILE, IMAGE, BootKeyring, Certificate, Signer, Unverified, Verified

_SIGN_DIGEST_FILE = "sign with 'bootseal sign', or run 'fsverity sign' on IMAGE.digest instead of IMAGE"
_SIGN_IMAGE = "run 'fsverity sign' on the image, or let [Policy] Signed= of the initrd accept a signature of the digest file"
_OTHERS = {
    IMAGE: ("the image's own digest, not over that of the digest file", _SIGN_DIGEST_FILE),
    DIGEST_FILE: ("the digest of the digest file, not over that of the image", _SIGN_IMAGE),
}
_SHOWN = 160  # characters; a serial number has at most 40 (RFC 5280, section 4.1.2.2)
# Of rehearse(): SubjectPublicKeyInfo of a P-256 and of an RSA key, whose private keys were thrown away, and their signatures
# over the data with SHA-256. Made with 'openssl ecparam -name prime256v1 -genkey', 'openssl genrsa 2048', 'openssl pkey
# -pubout -outform DER' and 'openssl dgst -sha256 -sign'.
_DATA = b"bootseal"
_EXAMPLES = (
    (
        # key, signature
        "3059301306072a8648ce3d020106082a8648ce3d03010703420004a00e0d37c2cb6edecbe24f5a4c38e9dee52b225ad813aff4e1c2c074"
        "91b7a9dbcc7d729b117a3e132473cd5ff04fcfc7a81b388da63c0dee98d8058f92665e9f",
        "30440220151afe63546228bcf73378dd4cdf02a91055e914e109d9818ee8b1a773cd286302206fe3c0a4017f8605d58eff4fa624fe31e4"
        "76ac095b09eef48c45a5db63d3755a",
    ),
    (
        "30820122300d06092a864886f70d01010105000382010f003082010a0282010100bae6903556e81281bb02e0719e1c6a818719dbc2b564"
        "4b49d357821266fad090dfb29dbd037eab1c69533c696167b6c30a70c0c69b4948998343eeb2c51f1a5e62e4f273b0548545fecf3f9fad"
        "167eec7c0b1ab73ab9f584c10dcd481c65922f5889ba141c5229d2b4c7702468acf166dde52859280d32f1fa4ad927fac0dc312d0e5196"
        "0bfa64559d1d6ac38b4dde2334423bde690e05638532281518bcc88f1e8fc80801054a0a681520b2c507940b79fae12741a8f296fb0a99"
        "bdb26e304eca61ac94ccbf8c0c2d8aa74308534afd203f78a66e6a8372d4bb8bc2f88d2259e2569b3ea0ef1e5fe08c1f791a22508724d1"
        "94d806268766b7c56e7d4ca746310203010001",
        "25b6020cf1b5bd8110d0179688bf57ea45ef90b05a9fd8f3fc579264f6ff16fa6c59ec15e7c658d577d7098d72eeeec0b3f1b2a15be353"
        "5a6c258285968a3710aec78c3eb4e262aac863981b7e1a5ef46f2fa318b8e207009c65ee815fa74a2159d87ba69efe79912e6200c6cc64"
        "cbac31f60a1eb53a7984c3e8529026391ebf75c0fa0b0852b691099069c15f774278a1aebaabf9232429ae4d234d25f375972ea0952f09"
        "f743b51cdbb633e8a93344c085d7afff3a9ea9bc7865c1381ae6dd07ea6ad9d05cbc27c85c06878a4f598c4eca891ce1b8668b407b1da9"
        "78f038deb148a67690a7170afa918d236af23841f8b632ba6a057add865619a9c5979c50",
    ),
)


def rehearse() -> None:
    """Verify constant signatures, which loads all that verify() needs, before there is a disk.

    Raises Refusal `internal` unless they verify, and do not verify over other data.
    """
    for example in _EXAMPLES:
        key, signature = map(bytes.fromhex, example)
        if not libcrypto.verify(key, "sha256", signature, _DATA) or libcrypto.verify(key, "sha256", signature, _DATA[1:]):
            raise Refusal(verdicts.INTERNAL, "the verifier of signatures fails its self-test", libcrypto.PATH)


def verify(unverified: Unverified, keyring: BootKeyring) -> Verified:
    """Check the signature over the very bytes that were read.

    Raises Refusal: `bad-digest`, `bad-signature`, `untrusted-signer`, `wrong-signature`.
    """
    path = paths.signature_of(unverified.pair_path)
    try:
        expected = digest.from_bytes(unverified.digest)
    except ValueError as error:
        raise Refusal(verdicts.BAD_DIGEST, str(error), paths.digest_of(unverified.pair_path)) from error
    try:
        info = pkcs7.parse(unverified.signature)
    except der.Malformed as error:
        raise Refusal(verdicts.BAD_SIGNATURE, f"outside the signature profile: {error}", path) from error
    certificates = _select_certificates(info, keyring, expected, path)
    for form in unverified.forms:
        if found := _find_signed(form, info, certificates, expected):
            signer = Signer(found.certificate, f"{info.scheme}-{info.hash_name}")
            return Verified(expected, found.signed, unverified.signature, info.value, info.hash_name, signer, form)
    subject = certificates[0].subject_text
    details = (("digest file says", str(expected)), ("signer", f"{subject}, serial {info.serial.hex()}"))
    for form, (other, hint) in _OTHERS.items():
        if form not in unverified.forms and _find_signed(form, info, certificates, expected):
            what = f"the signature of {subject} is over {other}"
            raise Refusal(verdicts.WRONG_SIGNATURE, what, path, hint, details=details)
    what = f"the signature of {subject} is not over the digest {expected}"
    raise Refusal(verdicts.WRONG_SIGNATURE, what, path, details=details)


class _Found(NamedTuple):
    certificate: Certificate
    signed: Digest


def _find_signed(form: str, info: pkcs7.SignerInfo, certificates: list[Certificate], expected: Digest) -> _Found | None:
    """Return whose signature covers the image's digest in this form, and the digest that it covers.

    The two forms cannot be confused: a digest file has at most 64 bytes, and an EROFS image more.
    """
    # 'fsverity sign' may hash the digest file with either algorithm; the signature covers the result.
    covered = [expected] if form == IMAGE else [digest.of_bytes(expected.value, algorithm) for algorithm in digest.NUMBERS]
    pairs = (_Found(certificate, signed) for signed in covered for certificate in certificates)
    return next((pair for pair in pairs if signature_matches(info, *pair)), None)


def _select_certificates(info: pkcs7.SignerInfo, keyring: BootKeyring, expected: Digest, path: str) -> list[Certificate]:
    """Select the certificates that the signature names and whose key is of its kind. Raises Refusal."""
    if not any(_is_named(c, info) for c in keyring.certificates):
        serial = _shorten(info.serial.hex())
        trusted = ", ".join(c.subject_text for c in keyring.certificates)
        what = f"no certificate of the boot keyring made this signature (serial {serial}; trusted: {trusted})"
        details = (("digest file says", str(expected)), ("signer", f"issuer {_format_issuer(info.issuer)}, serial {serial}"))
        raise Refusal(verdicts.UNTRUSTED_SIGNER, what, path, details=details)
    if not (usable := signers(info, keyring)):
        raise Refusal(verdicts.BAD_SIGNATURE, f"labelled {info.scheme}, but the signer's key is of another kind", path)
    return usable


def signers(info: pkcs7.SignerInfo, keyring: BootKeyring) -> list[Certificate]:
    """Return the certificates that a signature names and whose key is of its kind."""
    return [c for c in keyring.certificates if _is_named(c, info) and c.key.scheme == info.scheme]


def _is_named(certificate: Certificate, info: pkcs7.SignerInfo) -> bool:
    return (certificate.issuer, certificate.serial) == (info.issuer, info.serial)


def signature_matches(info: pkcs7.SignerInfo, certificate: Certificate, signed: Digest) -> bool:
    """Tell whether the key of a certificate made this signature over the fs-verity digest of a file."""
    return libcrypto.verify(certificate.key.spki, info.hash_name, info.value, signed.formatted())


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
