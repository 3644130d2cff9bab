# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal import: put a signature that another program made beside an image, in the form that the boot takes."""

import argparse
import base64
import binascii
from typing import NamedTuple

from ... import digest, paths, verdicts
from ...digest import Digest
from ...errors import Refusal
from ...formats import pkcs7
from ...formats.der import Malformed
from ...stages import keyring
from ...values import DIGEST_FILE, IMAGE, BootKeyring
from .. import carriers, imagedigest, inside, ocilayout, pairs, sidecars
from ..carriers import Found
from ..dryrun import list_certificates
from ..layouts import composefs
from ..output import DATA, USAGE, Failure, emit, note

# Without attributes, the signature covers none of these, so bootseal can drop them.
_DROPPED = (
    "certificates-inside", "crls-inside", "trailing-bytes", "too-long", "several-digest-algorithms",
    "digest-algorithms-differ", "algorithm-parameters", "unsigned-attributes",
)  # fmt: skip
# systemd-keyutil names the algorithm of the key, id-ecPublicKey without parameters, in place of ECDSA.
_UNNAMED, _EC_PUBLIC_KEY = "signature-algorithm", bytes.fromhex("06072a8648ce3d02010500")
_MAX_SOURCE = 1 << 20  # bytes; certificates inside take some thousands
_BEGINS, _END = (b"-----BEGIN PKCS7-----", b"-----BEGIN CMS-----"), b"-----END"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("source", metavar="SOURCE", help="file with the signature, DER, PEM or base64; or oci:DIR[:TAG]")
    parser.add_argument("--image", metavar="FILE", help="composefs image; FILE.digest and FILE.sig are written beside it")
    parser.add_argument("--digest", metavar="FILE", help="IMAGE.digest, if the image is elsewhere; writes IMAGE.sig")
    parser.add_argument("--algorithm", choices=tuple(digest.SIZES), help="of the image's digest (default: sha256)")
    parser.add_argument("--keys", metavar="DIR", help="directory with certificates to trust")
    parser.add_argument("--cert", metavar="FILE", help="certificates to trust")


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    """Check and write, and return the exit status. Raises Failure, Refusal."""
    if bool(arguments.image) == bool(arguments.digest) or bool(arguments.keys) == bool(arguments.cert):
        raise Failure(USAGE, "Failed to read the command line: give one of --image= and --digest=, one of --keys= and --cert=")
    if arguments.digest and arguments.algorithm:
        raise Failure(USAGE, "Failed to read the command line: --digest= already has the algorithm; omit --algorithm=")
    image, image_digest = _find_digest(arguments)
    trusted = keyring.load(list_certificates(arguments.keys) if arguments.keys else [arguments.cert])
    chosen, pair = _choose(_find(arguments.source), image_digest, trusted, image), composefs.pair_of(image)
    pairs.write(pair, sidecars.Pair(image_digest.value, chosen.signature), keep_other=bool(arguments.digest))
    files = [paths.digest_of(pair), paths.signature_of(pair)]
    value = {"version": 1, "verdict": verdicts.VERIFIED.name, "digest": str(image_digest), "source": chosen.where}
    emit(value | {"form": chosen.form, "files": files}, arguments.json, f"{image_digest} {image}")
    if chosen.form == IMAGE:
        note("the signature covers the image itself: the boot accepts it with [Policy] Signed=image")
    return 0


class _Chosen(NamedTuple):
    where: str
    signature: bytes
    form: str


def _find_digest(arguments: argparse.Namespace) -> tuple[str, Digest]:
    """Return the image's path and digest. Raises Failure."""
    if arguments.image:
        algorithm = arguments.algorithm or imagedigest.algorithm_of(arguments.image)
        return arguments.image, imagedigest.compute(arguments.image, algorithm, "")
    image = arguments.digest.removesuffix(paths.DIGEST_SUFFIX)
    if image == arguments.digest:
        raise Failure(USAGE, f"Failed to use the digest {arguments.digest}: its name must end in {paths.DIGEST_SUFFIX}")
    return image, imagedigest.read(arguments.digest)


def _find(source: str) -> list[Found]:
    """Return the signatures in a file or an image layout. Raises Failure, and Refusal without one."""
    if source.startswith("oci:"):
        directory, _, tag = source.removeprefix("oci:").partition(":")
        found = carriers.usable(ocilayout.find(directory, tag))
        if not found:
            raise Refusal(verdicts.NO_SIGNATURE, "no signature", source, "give the file with the signature, or another layout")
        return found
    return [Found(source, _decode(source, inside.read_named(source, "the signature", _MAX_SOURCE)))]


def _decode(name: str, content: bytes) -> bytes:
    """Return DER from DER, PEM or base64. Raises Failure."""
    begin = next((begin for begin in _BEGINS if begin in content), None)
    text = content.partition(begin)[2].partition(_END)[0] if begin else content
    if not begin and content[:1] == b"\x30":
        return content
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise Failure(DATA, f"Failed to read the signature {name}: neither DER nor PEM nor base64") from error


def _choose(found: list[Found], image_digest: Digest, trusted: BootKeyring, image: str) -> _Chosen:
    """Return the first signature that a boot could accept. Raises Refusal."""

    def accept(one: Found) -> _Chosen:
        normalized = _normalize(*one)
        given = pairs.Given(image_digest.value, normalized, image, one.where, (DIGEST_FILE, IMAGE))
        return _Chosen(one.where, normalized, pairs.check(given, trusted).form)

    return carriers.first_accepted(found, accept)


def _normalize(where: str, signature: bytes) -> bytes:
    """Write the message again, without what nobody has signed. Raises Refusal."""
    try:
        if _EC_PUBLIC_KEY in signature:
            info = pkcs7.parse_tolerantly(signature, (*_DROPPED, _UNNAMED))
            return pkcs7.signed_data(*info._replace(scheme=info.scheme or "ecdsa"))
        return pkcs7.signed_data(*pkcs7.parse_tolerantly(signature, _DROPPED))
    except Malformed as error:
        hint = ""
        if error.name == "attributes":
            hint = "sign again without attributes (openssl: -noattr), because such a signature covers only them"
        raise Refusal(verdicts.BAD_SIGNATURE, f"cannot be imported: {error}", where, hint) from error
