# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make physical roots as bootc and composefs-rs lay them out, and the sealed disks that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import signed
from .cache import SCRIPTS, cached, digest_of, must_run, scratch
from .disk import Deployment, Image, image_of
from .tree import BUILDER, base_tree, os_tree

PAIR = "bootseal"
NAMES = ("one", "two")  # of the images on a disk


@dataclass(frozen=True)
class Root:
    """A physical root, still a directory; each image by its name."""

    home: Path
    algorithm: str
    images: Mapping[str, Deployment]


def root(suite: str = "forky", algorithm: str = "sha256") -> Root:
    """Make two images of the OS tree in a repository, without fs-verity, and what bootc puts beside it."""
    tree, builder, initrd = os_tree(suite), base_tree(BUILDER), signed.thin_initrd(suite)

    def build(path: Path) -> None:
        with scratch() as work:
            (work / "initrd").write_bytes(initrd)
            must_run("composefs.sh", builder, tree, path, work, algorithm, work / "initrd", *NAMES)

    scripts = [SCRIPTS / name for name in ("composefs.sh", "erofs.py", "lib.sh")]
    key = digest_of(tree.parent.name, builder.parent.name, algorithm, initrd, *scripts)
    home = cached(f"composefs-{suite}", key, f"composefs repository of {suite} with {algorithm}", build)

    def deployment(name: str) -> Deployment:
        digest = (home / f"{name}.digest").read_text().strip()
        karg = f"v1-{algorithm}-12:{digest}"
        return Deployment(suite, home, home / f"{name}.cfs", f"state/deploy/{digest}", karg, "composefs.digest")

    return Root(home, algorithm, {name: deployment(name) for name in NAMES})


def beside(cfs: Path, algorithm: str, *, form: str = "digest-file") -> dict[str, bytes]:
    """Make digest and signature file for an image, or a signature over the image itself."""
    digest = signed.image_digest(cfs, algorithm)
    if form == "image":
        return {f"{PAIR}.sig": signed.sign_file(cfs, signed.key(), algorithm)}
    return {f"{PAIR}.digest": digest, f"{PAIR}.sig": signed.sign(digest, signed.key())}


def digest_of_name(name: str, algorithm: str = "sha256", suite: str = "forky") -> str:
    """Return the digest of an image, in hexadecimal."""
    return root(suite, algorithm).images[name].path.rpartition("/")[2]


def image(suite: str = "forky", algorithm: str = "sha256", *, form: str = "digest-file", files: bool = True) -> Image:
    """Build a sealed disk at most once, its first image signed by signed.key(); changes go to copies."""
    made = root(suite, algorithm)
    first = made.images[NAMES[0]]
    return image_of(first, files=beside(first.cfs, algorithm, form=form) if files else {})
