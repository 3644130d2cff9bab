# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the signatures that an ostree commit, a tree or a boot partition carries.

Everything here is from an untrusted disk, and is read with limits. libostree is not needed: a commit object is a tuple that
begins with its metadata (a{sv}), and a file of the same name holds its detached metadata (a{sv}). See ostree-core.h of ostree.
"""

import base64
import binascii
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from .. import digest, paths
from ..digest import Digest
from ..errors import LEADS_NOWHERE, Refusal, reason
from ..formats import gvariant, pkcs7
from ..linux import files
from . import inside
from .output import DATA, IO_ERROR, Failure, note

KEY = "bootseal.signature"
DIGEST_KEY = "ostree.composefs.digest.v0"  # as 'ostree commit --generate-composefs-metadata' writes it
# What bootc and rpm-ostree keep of a container image in the commit that they make of it.
_MANIFEST, _CONFIG = "ostree.manifest", "ostree.container.image-config"
_MAX_METADATA = 2 << 20  # bytes; a manifest and a configuration have some hundred thousand at most
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

Metadata = dict[str, tuple[str, bytes]]
Accepted = TypeVar("Accepted")


class Found(NamedTuple):
    """A signature, DER, and where it was."""

    where: str
    signature: bytes


class Unusable(Exception):
    """A carrier that is there and holds no signature; the text says which and why."""


def usable(carried: Iterable[Found | Unusable]) -> list[Found]:
    """Return the signatures, and print a note for each carrier that holds none."""
    found = []
    for one in carried:
        if isinstance(one, Found):
            found.append(one)
        else:
            note(f"a signature cannot be used: {one}")
    return found


def first_accepted(found: list[Found], accept: Callable[[Found], Accepted]) -> Accepted:
    """Return what `accept` returns for the first that it does not refuse. Raises the first Refusal if it refuses all."""
    refusals: list[Refusal] = []
    for one in found:
        try:
            return accept(one)
        except Refusal as refusal:
            refusals.append(refusal)
    for other in refusals[1:]:
        note(f"also tried: {other.path}: {other.what}")
    raise refusals[0]


class Commit(NamedTuple):
    """A commit in the repository below the place `root`."""

    root: str
    repository: str
    checksum: str

    def __str__(self) -> str:
        return self.checksum[:12]

    def digest(self) -> bytes | None:
        """Return the digest of its composefs image, if it was computed.

        Raises Unusable, also for a commit whose content has another checksum than its name, OSError, NotRegular.
        """
        content = self._read("commit")
        if hashlib.sha256(content).hexdigest() != self.checksum:
            raise Unusable("its content has another checksum")
        kind, value = _parse(gvariant.first_of_tuple, content).get(DIGEST_KEY, ("ay", b""))
        return value if kind == "ay" and value else None

    def signatures(self) -> Iterator[Found | Unusable]:
        """Yield what it carries, in the order of bootseal(8)."""
        yield from _found("the commit's detached metadata", lambda: _from_bytes(self._detached()))
        metadata = functools.cache(lambda: _parse(gvariant.first_of_tuple, self._read("commit")))
        yield from _found("the commit's metadata", lambda: from_text(_string(metadata(), KEY)))
        yield from _found("the commit's image manifest", lambda: from_text(_annotation(metadata())))
        yield from _found("the commit's image configuration", lambda: from_text(_label(metadata())))

    def _detached(self) -> Metadata:
        with suppress(FileNotFoundError):
            return _parse(bytes, self._read("commitmeta"))
        return {}

    def _read(self, kind: str) -> bytes:
        with inside.opened(self.root, self.repository) as repository:
            fd = files.open_regular(repository, f"objects/{self.checksum[:2]}/{self.checksum[2:]}.{kind}")
            try:
                content = files.read_bounded(fd, _MAX_METADATA)
            finally:
                os.close(fd)
        if content is None:
            raise Unusable(f"larger than {_MAX_METADATA} bytes")
        return content


def resolve(repository: str, ref: str) -> Commit:
    """Find a commit by its checksum, or by the name of a branch, as REF or REMOTE:REF. Raises Failure."""
    if _CHECKSUM.fullmatch(ref):
        return Commit(repository, ".", ref)
    remote, colon, name = ref.rpartition(":")
    if not _REF.fullmatch(name) or (colon and not _REF.fullmatch(remote)):
        raise Failure(DATA, f"Failed to find the commit {ref}: neither a checksum nor the name of a branch")
    path = f"refs/remotes/{remote}/{name}" if remote else f"refs/heads/{name}"
    try:
        with inside.opened(repository, "refs") as refs:
            checksum = inside.read(refs, path.removeprefix("refs/"), 65).decode("ascii", "replace").strip()
    except (OSError, files.NotRegular) as error:
        raise Failure(IO_ERROR, f"Failed to find the commit {ref} in {repository}: {_explain(error)}") from error
    if not _CHECKSUM.fullmatch(checksum):
        raise Failure(DATA, f"Failed to find the commit {ref} in {repository}: {path} does not contain a checksum")
    return Commit(repository, ".", checksum)


def find_digest(commit: Commit) -> Digest:
    """Return the digest of the commit's composefs image, as the commit has it. Raises Failure."""
    try:
        value = commit.digest()
    except (OSError, files.NotRegular, Unusable) as error:
        status = IO_ERROR if isinstance(error, OSError) else DATA
        raise Failure(status, f"Failed to read the commit {commit}: {_explain(error)}") from error
    if value is None:
        hint = "commit with 'ostree commit --generate-composefs-metadata'"
        raise Failure(DATA, f"Failed to find the digest of the commit {commit}: it has no {DIGEST_KEY}", hint)
    try:
        return digest.from_bytes(value)
    except ValueError as error:
        raise Failure(DATA, f"Failed to use the {DIGEST_KEY} of the commit {commit}: {error}") from error


def name_in_boot(image_digest: str) -> str:
    """Return where the signature of an image is below /boot; the digest is in hexadecimal."""
    return paths.signature_of(f"bootseal/{image_digest}")


def in_tree(directory: int, image_digest: bytes) -> Iterator[Found | Unusable]:
    """Yield the signature that the deployed tree has in its /boot, if any."""
    path = f"boot/{name_in_boot(image_digest.hex())}"
    yield from _read_at(directory, path, f"/{path} of the tree")


def in_boot(boot: int, image_digest: str, where: str) -> Iterator[Found | Unusable]:
    """Yield the signature that a partition of the boot loader has, if any."""
    path = name_in_boot(image_digest)
    yield from _read_at(boot, path, f"{where}/{path}")


def _read_at(directory: int, path: str, where: str) -> Iterator[Found | Unusable]:
    def read() -> bytes | None:
        with suppress(FileNotFoundError):
            return inside.read(directory, path, pkcs7.MAX_SIZE + 1)
        return None

    yield from _found(where, read)


def _found(where: str, read: Callable[[], bytes | None]) -> Iterator[Found | Unusable]:
    """Yield what `read` returns, or why it fails; nothing if nothing is there."""
    try:
        signature = read()
    except (OSError, files.NotRegular, Unusable, ValueError, RecursionError) as error:
        if not isinstance(error, OSError) or error.errno not in LEADS_NOWHERE:
            yield Unusable(f"{where}: {_explain(error)}")
        return
    if signature is not None and len(signature) > pkcs7.MAX_SIZE:
        yield Unusable(f"{where}: larger than {pkcs7.MAX_SIZE} bytes")
    elif signature is not None:
        yield Found(where, signature)


def _explain(error: Exception) -> str:
    if isinstance(error, files.NotRegular):
        return "not a regular file"
    return reason(error) if isinstance(error, OSError) else str(error)


def _parse(part: Callable[[bytes], bytes], data: bytes) -> Metadata:
    try:
        return gvariant.vardict(part(data))
    except gvariant.Malformed as error:
        raise Unusable(f"damaged ({error})") from error


def _from_bytes(metadata: Metadata) -> bytes | None:
    if KEY not in metadata:
        return None
    kind, value = metadata[KEY]
    if kind != "ay":
        raise Unusable(f"{KEY} is of type {kind[:16]}, not ay")
    return value


def _string(metadata: Metadata, key: str) -> str | None:
    if key not in metadata:
        return None
    kind, value = metadata[key]
    if kind != "s":
        raise Unusable(f"{key} is of type {kind[:16]}, not s")
    return gvariant.string(value)


def from_text(text: object) -> bytes | None:
    """Decode a label or annotation. Raises Unusable."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise Unusable(f"{KEY} is not a string")
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Unusable(f"{KEY} is not base64") from error


def _annotation(metadata: Metadata) -> object:
    return member(_object(metadata, _MANIFEST), "annotations", KEY)


def _label(metadata: Metadata) -> object:
    return member(_object(metadata, _CONFIG), "config", "Labels", KEY)


def _object(metadata: Metadata, key: str) -> Any:
    text = _string(metadata, key)
    return None if text is None else json.loads(text)


def member(value: Any, *names: str) -> Any:
    """Return a member of nested JSON objects, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
