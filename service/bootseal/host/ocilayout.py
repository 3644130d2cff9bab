# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find signatures in an OCI image layout (a directory, as 'skopeo copy docker://... oci:DIR' makes it).

https://github.com/opencontainers/image-spec/blob/main/image-layout.md; for the artifact see the sealing specification of
composefs-rs. The layout is untrusted, and a part that cannot be read hides no other one.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import reason
from ..formats import pkcs7
from ..linux import files
from . import inside
from .carriers import KEY, Found, Unusable, from_text, member
from .output import DATA, IO_ERROR, Failure, os_failure

_MAX_JSON = 4 << 20  # bytes, as registries limit a manifest
_MAX_ALL = 64 << 20
_MAX_PARTS = 256  # of an index or an artifact
_REF = "org.opencontainers.image.ref.name"
_ARTIFACT = "application/vnd.composefs.metadata.v1"
_SIGNATURE = "application/vnd.composefs.signature.v1+pkcs7"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def find(directory: str, tag: str) -> Iterator[Found | Unusable]:
    """Yield what annotations, labels and artifacts have; `tag` selects an image. Raises Failure without an index."""
    try:
        with inside.opened(directory, ".") as place:
            layout = _Layout(place)
            yield from layout.from_index(_parse(layout.read("index.json", _MAX_JSON)), tag)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read the image layout {directory}", error) from error
    except Unusable as error:
        raise Failure(DATA, f"Failed to read the image layout {directory}: {error}") from error


class _Layout:
    """An open layout, of which at most _MAX_ALL bytes are read."""

    def __init__(self, directory: int) -> None:
        self._directory, self._left = directory, _MAX_ALL

    def from_index(self, index: Any, tag: str, *, nested: bool = False) -> Iterator[Found | Unusable]:
        """Yield what the manifests have that an index names. Those of an index in it have no tags of their own."""
        for descriptor in _list(index, "manifests"):
            named = nested or tag in ("", _text(member(descriptor, "annotations"), _REF))
            try:
                manifest = _parse(self._blob(descriptor, _MAX_JSON))
                if _text(manifest, "artifactType") == _ARTIFACT:
                    yield from self._from_artifact(manifest)
                elif named and _list(manifest, "manifests") and not nested:
                    yield from self.from_index(manifest, tag, nested=True)
                elif named:
                    yield from self._from_image(manifest)
            except Unusable as error:
                yield error

    def _from_image(self, manifest: Any) -> Iterator[Found | Unusable]:
        yield from _decode("annotation of the manifest", member(manifest, "annotations", KEY))
        configuration = _parse(self._blob(member(manifest, "config"), _MAX_JSON))
        yield from _decode("label of the image", member(configuration, "config", "Labels", KEY))

    def _from_artifact(self, manifest: Any) -> Iterator[Found | Unusable]:
        for layer in _list(manifest, "layers"):
            if _text(layer, "mediaType") == _SIGNATURE:
                names = ", ".join(name for name in member(layer, "annotations") or () if isinstance(name, str))
                try:
                    yield Found(f"artifact of the image ({names[:160]})", self._blob(layer, pkcs7.MAX_SIZE))
                except Unusable as error:
                    yield error

    def _blob(self, descriptor: Any, limit: int) -> bytes:
        """Read a blob whose content has the digest in its name. Raises Unusable."""
        match = _DIGEST.fullmatch(_text(descriptor, "digest"))
        if not match:
            raise Unusable("a blob without a SHA-256 digest")
        content = self.read(f"blobs/sha256/{match[1]}", limit)
        if hashlib.sha256(content).hexdigest() != match[1]:
            raise Unusable(f"blobs/sha256/{match[1]}: its content has another digest")
        return content

    def read(self, path: str, limit: int) -> bytes:
        """Read a file of the layout. Raises Unusable."""
        limit = min(limit, self._left)
        try:
            content = inside.read(self._directory, path, limit + 1)
        except OSError as error:
            raise Unusable(f"{path}: {reason(error)}") from error
        except files.NotRegular as error:
            raise Unusable(f"{path}: not a regular file") from error
        if len(content) > limit:
            raise Unusable(f"{path}: larger than {limit} bytes")
        self._left -= len(content)
        return content


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"damaged JSON ({error})") from error


def _decode(where: str, text: Any) -> Iterator[Found | Unusable]:
    """Yield the bytes of a base64 string, or nothing without one."""
    try:
        signature = from_text(text)
    except Unusable as error:
        yield Unusable(f"{where}: {error}")
        return
    if signature is not None:
        yield Found(where, signature)


def _text(value: Any, name: str) -> str:
    found = member(value, name)
    return found if isinstance(found, str) else ""


def _list(value: Any, name: str) -> list[Any]:
    found = member(value, name)
    return found[:_MAX_PARTS] if isinstance(found, list) else []
