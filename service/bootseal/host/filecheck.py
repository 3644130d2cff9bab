# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judge a digest and a signature without a deployment: the boot's own check of their bytes, and nothing else.

It needs neither root nor fs-verity.
"""

import os
from collections.abc import Sequence

from .. import digest, paths, verdicts
from ..errors import Refusal
from ..formats import pkcs7, x509
from ..formats.der import Malformed
from ..record import Trail
from ..stages import keyring
from . import carriers, deviations, dryrun, imagedigest, inside, pairs
from .dryrun import Judgement, Source
from .layouts import composefs
from .pairs import Given

# The digest of a commit is only a claim of its author.
NOT_COMPARED = "the tree of the commit was not compared with the digest that the commit has"
_MAX_SIGNATURE = 1 << 20  # bytes; above pkcs7.MAX_SIZE it is a deviation


def read(image: str | None, digest_file: str | None, signature_file: str | None) -> Given:
    """Read the files that were named, or else those beside the image. Raises Failure, Refusal."""
    pair = composefs.pair_of(image) if image else ""
    name = signature_file or paths.signature_of(pair)
    if not signature_file and not os.path.exists(name):
        raise Refusal(verdicts.NO_SIGNATURE, "missing", name)
    signature = inside.read_named(name, "the signature", _MAX_SIGNATURE)
    if image and not digest_file and os.path.exists(paths.digest_of(pair)):
        digest_file = paths.digest_of(pair)
    given = inside.read_named(digest_file, "the digest", max(digest.SIZES.values())) if digest_file else b""
    if image:
        algorithm = "sha512" if len(given) == digest.SIZES["sha512"] else imagedigest.algorithm_of(image)
        computed = imagedigest.compute(image, algorithm, "")
        if digest_file and len(given) in digest.SIZES.values() and given != computed.value:
            what = f"the image has the digest {computed}, but {digest_file} has {given.hex()}"
            hint = "sign this image again, or give the digest file that belongs to it"
            raise Refusal(verdicts.IMAGE_MISMATCH, what, image, hint)
        given = given or computed.value
    return Given(given, signature, digest_file or image or "", name)


def read_commit(repository: str, ref: str) -> list[Given]:
    """Read all that a commit carries. Raises Failure, and Refusal if it carries no signature."""
    commit = carriers.resolve(repository, ref)
    value, name = carriers.find_digest(commit).value, f"{carriers.DIGEST_KEY} of {commit}"
    found = [Given(value, one.signature, name, one.where) for one in carriers.usable(commit.signatures())]
    if not found:
        hint = "sign the commit: 'bootseal sign --repo='"
        raise Refusal(verdicts.NO_SIGNATURE, f"the commit {commit} carries no signature", repository, hint)
    return found


def judge(given: Given, source: Source, certificates: list[str], *, verbose: bool, missing: Sequence[str] = ()) -> Judgement:
    """Return the record as dryrun.judge() does, and the digest.

    `verbose` adds what is inside the signature, and its deviations. `missing` is what nobody checks.
    """

    def check(seen: Trail, lacking: list[str]) -> str:
        lacking += missing
        trusted = seen(keyring.load(certificates))
        dryrun.compare_readers(trusted)
        try:
            seen(pairs.check(given, trusted))
        finally:
            dryrun.compare_verifiers(pairs.as_unverified(given), trusted)
        return "the signature is good"

    record = dryrun.conclude(check, source)
    if verbose:
        record["inside"] = _look_inside(given.signature)
        found = [
            *deviations.signature(given.signature),
            *(one for path in certificates for one in deviations.certificate(path)),
        ]
        record["findings"] = [finding._asdict() for finding in found]
    try:
        return record | {"digest": str(digest.from_bytes(given.digest))}
    except ValueError:
        return record


def _look_inside(signature: bytes) -> dict[str, str]:
    """Return what the signature says of itself, as far as it can be read."""
    try:
        info = pkcs7.parse_tolerantly(signature, deviations.SIGNATURE)
        issuer = x509.format_name(info.issuer)
    except Malformed:
        return {}
    return {"issuer": issuer, "serial": info.serial.hex(), "algorithm": f"{info.scheme}-{info.hash_name}"}
