# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check the signature of a unified kernel image as firmware with Secure Boot would.

The boot does not check this signature, so it changes no verdict. sbverify(1) checks it on a copy in memory, as an unprivileged
user and with limits, because an attacker may have written the file. This does not consult dbx and SBAT.
"""

import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
from contextlib import ExitStack
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ...errors import reason
from ...linux import efi
from ...linux.files import NotRegular
from ..inside import File

TRUSTED, UNTRUSTED, UNKNOWN = "trusted", "untrusted", "unknown"
# UEFI specification, 32.4.1; shim's MokVars.txt.
_DB = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
_X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")  # EFI_CERT_X509_GUID, as it stands in memory
_LIST = struct.Struct("<16sIII")  # type, sizes of the list, of its header, and of each signature
_OWNER = 16
_MAX_VARIABLE = 1 << 20
_MAX_CERTIFICATES = 128
_MAX_PARTS = 16  # shim splits a long list: MokListRT1, MokListRT2, ...
MAX_SIZE = 256 << 20
_SECONDS = 30
_NOBODY = 65534


class Signature(NamedTuple):
    """`state`: trusted, untrusted or unknown; `text` says why."""

    state: str
    text: str


class Malformed(ValueError):
    """A variable is not a valid list of signatures."""


class Unanswered(Exception):
    """This machine cannot tell; the text says why."""


class Signers(NamedTuple):
    """Certificates in PEM. `others`: how many signatures of another kind may be trusted, such as hashes."""

    certificates: list[bytes]
    others: int


def look(file: File, variables: str = efi.VARIABLES) -> Signature | None:
    """Check the signature of a unified kernel image; None for any other file, and without Secure Boot."""
    if not _secure_boot(variables):
        return None
    try:
        with ExitStack() as stack:
            image = _copy(file, stack)
            return _verify(image, load_signers(variables), stack) if image is not None else None
    except OSError as error:
        return Signature(UNKNOWN, reason(error))
    except (Unanswered, Malformed) as unknown:
        return Signature(UNKNOWN, str(unknown))


def load_signers(variables: str) -> Signers:
    """Read the certificates of the firmware and of shim. Raises OSError, Malformed, Unanswered."""
    lists = [_read_variable(variables, _DB)]
    for part in ("", *map(str, range(1, _MAX_PARTS))):
        lists.append(_read_variable(variables, f"MokListRT{part}-{_SHIM}"))
        if lists[-1] is None:
            break
    if lists[0] is None:
        raise Unanswered("the firmware's list of certificates (db) cannot be read")
    entries = [entry for data in lists if data for entry in parse_signature_list(data)]
    loaded = [_pem(data) for kind, data in entries if kind == _X509]
    certificates = list(dict.fromkeys(pem for pem in loaded if pem))[:_MAX_CERTIFICATES]
    return Signers(certificates, len(entries) - len([pem for pem in loaded if pem in certificates]))


def parse_signature_list(data: bytes) -> list[tuple[bytes, bytes]]:
    """Parse EFI_SIGNATURE_LISTs to (type, data) of each signature. Raises Malformed."""
    signatures: list[tuple[bytes, bytes]] = []
    while data:
        if len(data) < _LIST.size:
            raise Malformed("a truncated list of certificates")
        kind, whole, header, each = _LIST.unpack_from(data)
        start = _LIST.size + header
        if each <= _OWNER or not start <= whole <= len(data) or (whole - start) % each:
            raise Malformed("a list of certificates with inconsistent sizes")
        signatures += [(kind, data[at + _OWNER : at + each]) for at in range(start, whole, each)]
        data = data[whole:]
    return signatures


def _secure_boot(variables: str) -> bool:
    try:
        return efi.secure_boot(variables)
    except OSError:
        return False


def _read_variable(variables: str, name: str) -> bytes | None:
    """Read a variable without its attributes; None if it does not exist. Raises OSError, Malformed."""
    try:
        with open(os.path.join(variables, name), "rb") as file:
            data = file.read(_MAX_VARIABLE + 1)
    except FileNotFoundError:
        return None
    if len(data) > _MAX_VARIABLE:
        raise Malformed(f"{name} is larger than {_MAX_VARIABLE} bytes")
    return data[4:]


def _pem(encoded: bytes) -> bytes | None:
    """Convert a certificate to PEM; None if it cannot be parsed."""
    try:
        return x509.load_der_x509_certificate(encoded).public_bytes(Encoding.PEM)
    except Exception:  # of any kind: the firmware may accept certificates that the library rejects
        return None


def _copy(file: File, stack: ExitStack) -> int | None:
    """Copy a PE file to memory, where its owner cannot change it; None for other files."""
    try:
        fd = stack.enter_context(file.opened())
    except NotRegular:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or os.pread(fd, 2, 0) != b"MZ":
        return None
    if status.st_size > MAX_SIZE:
        raise Unanswered(f"larger than {MAX_SIZE} bytes")
    copy, size = _make_file(stack), 0
    while size < MAX_SIZE and (sent := os.sendfile(copy, fd, size, MAX_SIZE - size)):
        size += sent
    return copy


def _make_file(stack: ExitStack, content: bytes = b"") -> int:
    """Make a file in memory."""
    fd = os.memfd_create("bootseal")
    stack.callback(os.close, fd)
    os.write(fd, content)
    return fd


def _verify(image: int, trusted: Signers, stack: ExitStack) -> Signature:
    program = shutil.which("sbverify")
    if not program:
        raise Unanswered("the program sbverify is not installed (package sbsigntool)")
    if not trusted.certificates:
        raise Unanswered("db holds no readable certificate")
    fds = [_make_file(stack, certificate) for certificate in trusted.certificates]
    options = [word for fd in fds for word in ("--cert", f"/proc/self/fd/{fd}")]
    done = _run_limited([program, *options, f"/proc/self/fd/{image}"], (image, *fds))
    if done.returncode == 0:
        return Signature(TRUSTED, "signed by a certificate that the firmware trusts")
    # It exits with 1 for every error. Only with these words did it come to an answer.
    if done.returncode != 1 or b"Signature verification failed" not in done.stdout:
        raise Unanswered(f"sbverify gave no answer (exit status {done.returncode})")
    if trusted.others:
        raise Unanswered(
            "not signed by a certificate that the firmware trusts, but the firmware also trusts hashes or the like"
        )
    return Signature(UNTRUSTED, "not signed by a certificate that the firmware trusts (db, and shim's MokListRT)")


def _run_limited(command: list[str], fds: tuple[int, ...]) -> "subprocess.CompletedProcess[bytes]":
    """Run sbverify. Raises Unanswered.

    It limits itself, because the gate may not kill another user's process.
    """
    root = os.geteuid() == 0
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            cwd="/",
            env={"LC_ALL": "C"},
            pass_fds=fds,
            preexec_fn=_limit,
            user=_NOBODY if root else None,
            group=_NOBODY if root else None,
            extra_groups=[] if root else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unanswered(f"sbverify cannot be run: {error}") from error


def _limit() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, MAX_SIZE + (256 << 20)),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SECONDS)
