# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find signatures in an OCI image layout (a directory, as 'skopeo copy docker://... oci:DIR' makes it).

https://github.com/opencontainers/image-spec/blob/main/image-layout.md; for the artifact see the sealing specification of
composefs-rs.
"""

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from ..formats import pkcs7
from .carriers import KEY, Found
from .inside import read_named
from .output import DATA, Failure

_MAX_JSON = 4 << 20  # bytes, as registries limit a manifest
_REF = "org.opencontainers.image.ref.name"
_ARTIFACT = "application/vnd.composefs.metadata.v1"
_SIGNATURE = "application/vnd.composefs.signature.v1+pkcs7"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def find(directory: str, tag: str) -> Iterator[Found]:
    """Yield what annotations, labels and artifacts have; `tag` selects an image. Raises Failure."""
    for descriptor in _list(
        _parse(directory, read_named(os.path.join(directory, "index.json"), "the index", _MAX_JSON)), "manifests"
    ):
        manifest = _parse(directory, _blob(directory, descriptor, _MAX_JSON))
        if _text(manifest, "artifactType") == _ARTIFACT:
            yield from _from_artifact(directory, manifest)
        elif tag in ("", _text(_member(descriptor, "annotations"), _REF)):
            yield from _from_image(directory, manifest)


def _from_image(directory: str, manifest: Any) -> Iterator[Found]:
    if text := _text(_member(manifest, "annotations"), KEY):
        yield Found("annotation of the manifest", _decode(text))
    configuration = _parse(directory, _blob(directory, _member(manifest, "config"), _MAX_JSON))
    if text := _text(_member(_member(configuration, "config"), "Labels"), KEY):
        yield Found("label of the image", _decode(text))


def _from_artifact(directory: str, manifest: Any) -> Iterator[Found]:
    for layer in _list(manifest, "layers"):
        if _text(layer, "mediaType") == _SIGNATURE:
            names = ", ".join(name for name in _member(layer, "annotations") or () if isinstance(name, str))
            yield Found(f"artifact of the image ({names[:160]})", _blob(directory, layer, pkcs7.MAX_SIZE))


def _blob(directory: str, descriptor: Any, limit: int) -> bytes:
    """Read a blob whose content has the digest in its name. Raises Failure."""
    match = _DIGEST.fullmatch(_text(descriptor, "digest"))
    if not match:
        raise Failure(DATA, f"Failed to read the image layout {directory}: a blob without a SHA-256 digest")
    path = os.path.join(directory, "blobs/sha256", match[1])
    content = read_named(path, "the blob", limit)
    if hashlib.sha256(content).hexdigest() != match[1]:
        raise Failure(DATA, f"Failed to read the blob {path}: its content has another digest", "copy the image again")
    return content


def _parse(directory: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Failure(DATA, f"Failed to read the image layout {directory}: {error}") from error


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Failure(DATA, f"Failed to read {KEY}: not base64") from error


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any, name: str) -> str:
    found = _member(value, name)
    return found if isinstance(found, str) else ""


def _list(value: Any, name: str) -> list[Any]:
    found = _member(value, name)
    return found if isinstance(found, list) else []
