# SPDX-License-Identifier: LGPL-2.1-or-later
"""ocilayout.py: signatures in image layouts, through bootseal import."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootseal.host import carriers, ocilayout

from .imports import imported, openssl


class Layout:
    """An image layout, as skopeo makes it."""

    def __init__(self, at: Path) -> None:
        self.directory = at
        (at / "blobs/sha256").mkdir(parents=True)
        (at / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []

    def blob(self, content: bytes, media: str) -> dict[str, Any]:
        name = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / name).write_bytes(content)
        return {"mediaType": media, "digest": f"sha256:{name}", "size": len(content)}

    def add(self, *, tag: str = "", labels: Any = None, annotations: Any = None, **more: Any) -> None:
        config = self.blob(json.dumps({"config": {"Labels": labels}}).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "config": config, "layers": [], "annotations": annotations} | more
        descriptor = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        names = {"org.opencontainers.image.ref.name": tag} if tag else {}
        self.manifests.append(descriptor | {"annotations": names})
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.mark.parametrize("where", ["labels", "annotations"])
@pytest.mark.parametrize("tag", ["", "latest"])
def test_an_image_layout(path: Path, layout: Layout, where: str, tag: str) -> None:
    layout.add(tag="other")
    layout.add(tag="latest", **{where: {carriers.KEY: base64.b64encode(openssl(path, "-noattr").read_bytes()).decode()}})
    status, said, _ = imported(f"oci:{layout.directory}{':' + tag if tag else ''}", path)
    assert (status, said["source"]) == (0, {"labels": "label of the image", "annotations": "annotation of the manifest"}[where])


def test_the_artifact_of_composefs(path: Path, layout: Layout) -> None:
    layout.add(tag="latest")
    blobs = [openssl(path, "-noattr", kind="p384").read_bytes(), openssl(path, "-noattr").read_bytes()]
    layers = [
        layout.blob(blob, "application/vnd.composefs.signature.v1+pkcs7") | {"annotations": {f"composefs.{name}": "00"}}
        for name, blob in zip(("manifest", "merged"), blobs, strict=True)
    ]
    layout.add(artifactType="application/vnd.composefs.metadata.v1", layers=layers)
    status, said, _ = imported(f"oci:{layout.directory}:latest", path)
    assert (status, said["source"]) == (0, "artifact of the image (composefs.merged)")


def test_a_layout_without_a_signature(path: Path, layout: Layout) -> None:
    layout.add(tag="latest", labels=[], annotations=7)
    assert imported(f"oci:{layout.directory}", path)[0] == 66


DAMAGE: dict[str, Callable[[Layout], object]] = {
    "index": lambda layout: (layout.directory / "index.json").write_text("{"),
    "deep": lambda layout: (layout.directory / "index.json").write_text("[" * 100_000),
    "blob": lambda layout: [p.write_text("{}") for p in (layout.directory / "blobs/sha256").iterdir()],
    "path": lambda layout: (layout.directory / "index.json").write_text('{"manifests": [{"digest": "sha256:../../../etc"}]}'),
    "kind": lambda layout: (layout.directory / "index.json").write_text('{"manifests": [7]}'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_layout(path: Path, layout: Layout, name: str) -> None:
    layout.add(tag="latest", labels={carriers.KEY: "AAAA"})
    DAMAGE[name](layout)
    status, said, error = imported(f"oci:{layout.directory}", path)
    index = name in ("index", "deep")
    assert status == (65 if index else 66)
    assert error.startswith("bootseal: Failed to read the image layout " if index else "bootseal: a signature cannot be used: ")
    assert said["message"]


def test_a_damaged_part_hides_no_other(path: Path, layout: Layout) -> None:
    signature = openssl(path, "-noattr", "-nocerts").read_bytes()
    layout.manifests.append({"digest": "sha256:" + "0" * 64})
    layout.add(annotations={carriers.KEY: "no base64"}, labels={carriers.KEY: base64.b64encode(signature).decode()})
    status, said, error = imported(f"oci:{layout.directory}", path)
    assert (status, said["source"]) == (0, "label of the image")
    assert "blobs/sha256/0000" in error
    assert "annotation of the manifest: bootseal.signature is not base64" in error


def test_an_index_in_the_index(path: Path, layout: Layout) -> None:
    """As 'skopeo copy --all' makes it for several platforms."""
    signature = openssl(path, "-noattr", "-nocerts").read_bytes()
    layout.add(labels={carriers.KEY: base64.b64encode(signature).decode()})
    inner = layout.blob(json.dumps({"manifests": layout.manifests}).encode(), "application/vnd.oci.image.index.v1+json")
    tagged = inner | {"annotations": {"org.opencontainers.image.ref.name": "all"}}
    (layout.directory / "index.json").write_text(json.dumps({"manifests": [tagged]}))
    assert imported(f"oci:{layout.directory}:all", path)[0] == 0
    assert imported(f"oci:{layout.directory}:other", path)[0] == 66


@pytest.mark.parametrize("what", ["index.json", "blobs"])
def test_a_layout_with_a_pipe_does_not_block(path: Path, layout: Layout, what: str) -> None:
    layout.add(labels={carriers.KEY: "AAAA"})
    for one in [layout.directory / "index.json"] if what == "index.json" else (layout.directory / "blobs/sha256").iterdir():
        one.unlink()
        os.mkfifo(one)
    status, _, error = imported(f"oci:{layout.directory}", path)
    assert (status, "not a regular file" in error) == (65 if what == "index.json" else 66, True)


def test_a_layout_is_read_up_to_a_limit(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocilayout, "_MAX_ALL", 1000)
    for number in range(9):
        layout.add(tag=str(number), labels={carriers.KEY: "AAAA"})
    monkeypatch.setattr(ocilayout, "_MAX_ALL", (layout.directory / "index.json").stat().st_size + 1000)
    kinds = [type(one) for one in ocilayout.find(str(layout.directory), "")]
    assert kinds.count(carriers.Found) in range(1, 5)
    assert kinds[-1] is carriers.Unusable
