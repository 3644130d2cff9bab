# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal import: what openssl and fsverity make, in every encoding and in image layouts, becomes what the boot takes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootseal.formats import pkcs7
from bootseal.host import carriers

from .program import beside, bootseal, certificate, image, key, signed, tool

CMS = ("cms", "-sign", "-binary", "-md", "sha256")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make an image, and a file with the bytes that its signature covers."""
    made = image(tmp_path)
    signed(made, "--to-be-signed", tmp_path / "tbs")
    return made


def openssl(path: Path, *options: str, kind: str = "p256", form: str = "DER") -> Path:
    """Sign with openssl, and return the file."""
    to = path.with_name("theirs")
    signer = ("-signer", certificate(kind), "-inkey", key(kind))
    tool("openssl", *CMS, *options, *signer, "-in", path.with_name("tbs"), "-outform", form, "-out", to)
    return to


def imported(source: object, path: Path, *, kind: str = "p256", by: str = "image") -> tuple[int, dict[str, Any], str]:
    target = path if by == "image" else f"{path}.digest"
    result = bootseal("import", str(source), f"--{by}={target}", f"--cert={certificate(kind)}", "--json=short")
    return result.returncode, json.loads(result.stdout), result.stderr


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048"])
@pytest.mark.parametrize("options", [("-noattr", "-nocerts"), ("-noattr",)], ids=["bare", "certificates-inside"])
def test_what_openssl_makes(path: Path, kind: str, options: tuple[str, ...]) -> None:
    status, said, error = imported(openssl(path, *options, kind=kind), path, kind=kind)
    assert (status, error) == (0, "")
    assert said["files"] == [f"{path}.digest", f"{path}.sig"]
    assert pkcs7.deviations(beside(path)[1]) == []
    assert bootseal("verify", f"--image={path}", f"--cert={certificate(kind)}").returncode == 0


def _pem(path: Path) -> bytes:
    return openssl(path, "-noattr", form="PEM").read_bytes()


def _own(path: Path) -> bytes:
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    return beside(path)[1]


ENCODINGS: dict[str, Callable[[Path], bytes]] = {
    "pem": _pem,
    "pem-after-text": lambda path: b"A text\n" + _pem(path),
    "pem-pkcs7": lambda path: _pem(path).replace(b"CMS", b"PKCS7"),
    "base64": lambda path: base64.b64encode(openssl(path, "-noattr").read_bytes()),
    "base64-in-lines": lambda path: base64.encodebytes(openssl(path, "-noattr").read_bytes()),
    "trailing": lambda path: openssl(path, "-noattr").read_bytes() + b"\0",
    "own": _own,
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_encodings(path: Path, encode: Callable[[Path], bytes]) -> None:
    source = path.with_name("source")
    source.write_bytes(encode(path))
    assert imported(source, path)[0] == 0
    assert pkcs7.deviations(beside(path)[1]) == []


def test_a_digest_instead_of_the_image(path: Path) -> None:
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    source = openssl(path, "-noattr")
    path.unlink()
    assert imported(source, path, by="digest")[0] == 0
    assert bootseal("import", source, f"--digest={source}", f"--cert={certificate('p256')}").returncode == 64


REFUSED: dict[str, tuple[Callable[[Path], object], int, str, str]] = {
    "attributes": (openssl, 65, "bad-signature", "sign again without them, -noattr"),
    "content-inside": (lambda path: openssl(path, "-noattr", "-nodetach"), 65, "bad-signature", "must be detached"),
    "stranger": (lambda path: openssl(path, "-noattr", kind="p384"), 77, "untrusted-signer", "theirs"),
    "junk": (lambda path: path.with_name("tbs"), 65, "", "neither DER nor PEM nor base64"),
    "absent": (lambda path: path.with_name("absent"), 74, "", "No such file"),
}


@pytest.mark.parametrize(("make", "status", "verdict", "what"), REFUSED.values(), ids=REFUSED)
def test_refused(path: Path, make: Callable[[Path], object], status: int, verdict: str, what: str) -> None:
    found, said, error = imported(make(path), path)
    assert (found, said.get("verdict", "")) == (status, verdict)
    assert what in error
    assert not Path(f"{path}.sig").exists()


def test_the_natural_mistake_has_a_name(path: Path, tmp_path: Path) -> None:
    """'fsverity sign IMAGE' signs the image's digest, where the boot wants that of the digest file."""
    tool("fsverity", "sign", path, tmp_path / "theirs", f"--key={key('p256')}", f"--cert={certificate('p256')}")
    status, said, error = imported(tmp_path / "theirs", path)
    assert (status, said["verdict"]) == (77, "wrong-signature")
    assert "is over the image's own digest, not over that of the digest file" in error
    assert "hint: sign with 'bootseal sign', or 'fsverity sign' of IMAGE.digest instead of IMAGE" in error


# --- image layouts


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


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_layout(path: Path, layout: Layout, damage: Callable[[Layout], object]) -> None:
    layout.add(tag="latest", labels={carriers.KEY: "AAAA"})
    damage(layout)
    status, said, error = imported(f"oci:{layout.directory}", path)
    assert status == 65
    assert error.startswith("bootseal: Failed to read the ")
    assert said["message"]


@pytest.mark.parametrize("options", [["--image=x"], ["--cert=c"], ["--image=x", "--digest=d", "--cert=c"]], ids=" ".join)
def test_usage(path: Path, options: list[str]) -> None:
    assert bootseal("import", path, *options).returncode == 64
