# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal sign: make IMAGE.digest and IMAGE.sig. It writes only what the boot's own code accepts.

The functions that use keys import cryptography themselves: --to-be-signed= needs none of it.
"""

import argparse
import contextlib
import errno
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ... import digest, paths
from ...digest import Digest
from ...errors import Refusal
from ...formats import pkcs7
from ...values import BootKeyring, Certificate, Signer
from .. import carriers, imagedigest, inside, pairs, sidecars
from ..layouts import composefs
from ..output import CANNOT_CREATE, DATA, OS_ERROR, USAGE, Failure, emit, note, os_failure, warning

if TYPE_CHECKING:
    from ..signingkeys import PrivateKey

EPHEMERAL_CERTIFICATE = "ephemeral.crt"
_TOKEN = "pkcs11:"
_HASHES = ("sha256", "sha384", "sha512")
_MAX_VALUE = 1 << 16  # bytes of a bare signature; of RSA with 4096 bits it has 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "image", metavar="IMAGE", help="composefs image; IMAGE.digest and IMAGE.sig are written beside it; with --repo a commit"
    )
    parser.add_argument("--repo", metavar="REPO", help="sign a commit of this ostree repository: IMAGE is a checksum or branch")
    parser.add_argument(
        "--also-in-commit",
        action="store_true",
        help="commit the tree again with the signature in its metadata, for 'ostree container encapsulate --copymeta'",
    )
    key = parser.add_argument_group("a key in a file or a token")
    key.add_argument("--key", metavar="FILE", help="private key, PEM or DER, RSA or ECDSA; or a PKCS#11 URI (pkcs11:...)")
    key.add_argument("--cert", metavar="FILE", help="its certificate, PEM or DER")
    key.add_argument("--passphrase-file", metavar="FILE", help="the key's passphrase, or the token's PIN (default: asked for)")
    what = parser.add_argument_group("what is signed")
    what.add_argument("--algorithm", choices=tuple(digest.SIZES), help="of the image's fs-verity digest (default: sha256)")
    what.add_argument("--digest", metavar="ALGORITHM:HEX", help="the image's fs-verity digest, when the image is not here")
    elsewhere = parser.add_argument_group("a key elsewhere, in two steps")
    elsewhere.add_argument("--to-be-signed", metavar="FILE", help="write the bytes to sign (- for stdout), and nothing else")
    elsewhere.add_argument("--signature", metavar="FILE", help="the bare signature over them; with --cert")
    ephemeral = parser.add_argument_group("a key for this build alone")
    ephemeral.add_argument(
        "--ephemeral", metavar="DIR", help=f"write its certificate to DIR/{EPHEMERAL_CERTIFICATE}, run COMMAND, sign IMAGE"
    )


def run(arguments: argparse.Namespace, command: list[str]) -> int:
    """Sign, and return the exit status; `command` is what follows "--". Raises Failure."""
    _check_usage(arguments, command)
    if arguments.ephemeral:
        return _sign_ephemerally(arguments, command)
    image_digest = _find_digest(arguments)
    to_sign = imagedigest.of_blocks([image_digest.value], "sha256").formatted()
    if arguments.to_be_signed:
        return _write_to_be_signed(arguments.to_be_signed, to_sign)
    from .. import signingkeys

    certificates = signingkeys.load_certificates(arguments.cert)
    if arguments.signature:
        value = inside.read_named(arguments.signature, "the signature", _MAX_VALUE)
        signature = _assemble(value, certificates, image_digest, arguments.image)
    elif arguments.key.startswith(_TOKEN):
        from .. import pkcs11

        value = pkcs11.sign(arguments.key, arguments.passphrase_file, to_sign)
        signature = _assemble(value, certificates, image_digest, arguments.image)
    else:
        key = signingkeys.load_key(arguments.key, arguments.passphrase_file)
        certificate = signingkeys.choose(certificates, key, arguments.cert)
        signature = _sign(key, certificate, to_sign)
    return _finish(arguments, image_digest, signature, certificates)


def _check_usage(arguments: argparse.Namespace, command: list[str]) -> None:
    given = [name for name in ("key", "to_be_signed", "signature", "ephemeral") if getattr(arguments, name)]
    if len(given) != 1:
        raise Failure(
            USAGE, "Failed to sign: give one of --key=, --to-be-signed=, --signature= and --ephemeral=", "see bootseal(8)"
        )
    if given[0] in ("key", "signature") and not arguments.cert:
        raise Failure(USAGE, f"Failed to sign: --{given[0]}= needs --cert=")
    if arguments.repo and (arguments.digest or arguments.algorithm):
        raise Failure(USAGE, "Failed to sign: --repo= takes the digest from the commit; omit --digest= and --algorithm=")
    if arguments.also_in_commit and (not arguments.repo or arguments.to_be_signed or ":" in arguments.image):
        raise Failure(USAGE, "Failed to sign: --also-in-commit needs --repo= and a local branch, and signs in one step")
    if not arguments.repo and os.path.basename(arguments.image) in ("", ".", ".."):
        raise Failure(USAGE, f"Failed to sign: {arguments.image!r} is not the name of a file")
    if arguments.digest and arguments.algorithm:
        raise Failure(USAGE, "Failed to sign: --digest= already names the algorithm; omit --algorithm=")
    if given[0] == "ephemeral" and (not command or arguments.digest or arguments.cert):
        what = "--ephemeral=DIR needs IMAGE -- COMMAND..., and cannot be used with --cert= or --digest="
        raise Failure(USAGE, f"Failed to sign: {what}")
    if given[0] != "ephemeral" and command:
        raise Failure(USAGE, "Failed to sign: only --ephemeral= can be used with a COMMAND")


def _find_digest(arguments: argparse.Namespace) -> Digest:
    if arguments.repo:
        return carriers.find_digest(carriers.resolve(arguments.repo, arguments.image))
    if arguments.digest:
        return imagedigest.parse(arguments.digest)
    hint = "COMMAND must make it" if arguments.ephemeral else "to sign without the image, give its --digest="
    return imagedigest.compute(arguments.image, arguments.algorithm or imagedigest.algorithm_of(arguments.image), hint)


def _sign(key: "PrivateKey", certificate: Certificate, to_sign: bytes) -> bytes:
    from .. import signingkeys

    return _write_message(certificate, signingkeys.HASH_NAME, signingkeys.sign(key, to_sign))


def _write_message(certificate: Certificate, hash_name: str, value: bytes) -> bytes:
    return pkcs7.signed_data(certificate.issuer, certificate.serial, certificate.key.scheme, hash_name, value)


def _assemble(raw: bytes, certificates: list[Certificate], image_digest: Digest, image: str) -> bytes:
    """Make a PKCS#7 message of a bare signature, with the certificate and hash that verify it."""
    for certificate in certificates:
        for hash_name in _HASHES:
            for value in _guess_values(raw, certificate):
                message = _write_message(certificate, hash_name, value)
                with contextlib.suppress(Refusal):
                    _verify(image_digest, message, [certificate], image)
                    return message
    hint = "sign exactly the bytes of --to-be-signed=, with this certificate's key, SHA-256, and PKCS#1 v1.5 or ECDSA"
    raise Failure(DATA, f"Failed to assemble the signature of {image}: it does not verify", hint)


def _guess_values(raw: bytes, certificate: Certificate) -> Iterator[bytes]:
    """Yield possible forms of the signature in the message: as it is, or as the DER of two numbers."""
    yield raw
    if certificate.key.scheme == "ecdsa" and len(raw) == 2 * ((certificate.key.bits + 7) // 8):
        yield pkcs7.ecdsa_value(raw)


def _verify(image_digest: Digest, signature: bytes, certificates: list[Certificate], image: str) -> Signer:
    """Verify as the boot does. Raises Refusal."""
    return pairs.check(pairs.Given(image_digest.value, signature, image, image), BootKeyring(tuple(certificates), ())).signer


def _finish(arguments: argparse.Namespace, image_digest: Digest, signature: bytes, certificates: list[Certificate]) -> int:
    """Verify the signature as the boot does, and write it. Returns the exit status, raises Failure."""
    try:
        signer = _verify(image_digest, signature, certificates, arguments.image)
    except Refusal as refusal:
        what = f"Failed to sign {arguments.image}: the boot would not accept the signature: {refusal.what}"
        raise Failure(DATA, what) from refusal
    if arguments.repo:
        written = _attach(arguments, image_digest, signature)
    else:
        pair = composefs.pair_of(arguments.image)
        pairs.write(pair, sidecars.Pair(image_digest.value, signature), keep_other=bool(arguments.digest))
        files = [paths.digest_of(pair), paths.signature_of(pair)]
        written = {"image": arguments.image, "files": files}
    _check_dates(signer.certificate)
    value = {"version": 1, "digest": str(image_digest), "algorithm": signer.algorithm} | written
    emit(value, arguments.json, f"{image_digest} {written.get('commit') or arguments.image}")
    return 0


def _attach(arguments: argparse.Namespace, image_digest: Digest, signature: bytes) -> dict[str, object]:
    """Put the signature into the commit's metadata, and return what was written. Raises Failure."""
    from .. import ostreerepo

    commit = carriers.resolve(arguments.repo, arguments.image)
    if carriers.find_digest(commit) != image_digest:
        raise Failure(DATA, f"Failed to sign {arguments.image}: the branch has another commit now", "run it again")
    if arguments.also_in_commit:
        if arguments.image == commit.checksum:
            raise Failure(USAGE, "Failed to sign: --also-in-commit moves a branch; give its name, not a checksum")
        commit = ostreerepo.commit_again(commit, arguments.image, signature)
    ostreerepo.attach(commit, signature)
    return {"repo": arguments.repo, "commit": commit.checksum, "key": carriers.KEY}


def _check_dates(certificate: Certificate) -> None:
    """Warn of a certificate that is not valid now.

    The boot ignores dates, because it has no trusted clock.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if not certificate.not_before <= now <= certificate.not_after:
        dates = f"{certificate.not_before} to {certificate.not_after}"
        warning(f"the certificate of {certificate.subject_text} is valid only from {dates}: the boot does not check dates")


def _write_to_be_signed(path: str, content: bytes) -> int:
    try:
        with open(1 if path == "-" else path, "wb", closefd=path != "-") as file:
            file.write(content)
    except OSError as error:
        raise os_failure(CANNOT_CREATE, f"Failed to write {path}", error) from error
    return 0


def _sign_ephemerally(arguments: argparse.Namespace, command: list[str]) -> int:
    """Make a key, run the build, sign its image, and forget the key.

    Returns the exit status, raises Failure.
    """
    from .. import signingkeys

    signingkeys.keep_memory_private()
    key, certificate_pem = signingkeys.make_ephemeral()
    path = os.path.join(arguments.ephemeral, EPHEMERAL_CERTIFICATE)
    _write_certificate(path, certificate_pem)
    certificates = signingkeys.load_certificates(path)
    note(f"certificate of this build: {path} (sha256 {certificates[0].sha256})")
    _run(command)
    image_digest = _find_digest(arguments)
    to_sign = imagedigest.of_blocks([image_digest.value], "sha256").formatted()
    # Not the file, because the command may have changed it.
    signature = _sign(key, signingkeys.choose(certificates, key, path), to_sign)
    del key
    return _finish(arguments, image_digest, signature, certificates)


def _write_certificate(path: str, content: bytes) -> None:
    temporary = path + ".new"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        hint = "create the directory of --ephemeral= first" if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
        raise os_failure(CANNOT_CREATE, f"Failed to write the certificate {path}", error, hint) from error


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _run(command: list[str]) -> None:
    """Run the build. Raises Failure.

    Its output goes to stderr, because stdout is for the data of this program.
    """
    import subprocess

    try:
        status = subprocess.run(command, check=False, stdout=2).returncode
    except OSError as error:
        raise os_failure(OS_ERROR, f"Failed to run {command[0]}", error) from error
    if status:
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise Failure(
            OS_ERROR,
            f"Failed to build with {command[0]}: {how}",
            "fix the build, and run both again: the key of this run is gone",
        )
