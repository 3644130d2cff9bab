# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a disk, made on a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import composefs, guest, signed
from .cache import output_of, temporary


@dataclass(frozen=True)
class Names:
    """Paths below the physical root, for debugfs commands."""

    deployment: str
    image: str
    digest: str
    signature: str
    stateroot: str
    link: str  # what ostree= names: a link to the deployment

    @classmethod
    def of(cls, image: guest.Image) -> Names:
        path = image.deployment.path
        if image.deployment.key != "ostree":
            return cls._of_repository(image)
        stateroot = path.split("/deploy/")[1]
        link = image.deployment.karg.lstrip("/").replace("/boot.1/", "/boot.1.1/").replace("/boot.0/", "/boot.0.1/")
        names = [f"{path}/{name}" for name in (signed.IMAGE, signed.DIGEST, signed.SIGNATURE)]
        return cls(path, names[0], names[1], names[2], f"ostree/deploy/{stateroot}", link)

    @classmethod
    def _of_repository(cls, image: guest.Image) -> Names:
        """Name the files of a composefs repository; `link` is what names the image."""
        path = image.deployment.path
        digest = path.rpartition("/")[2]
        pair, object_ = f"{path}/{composefs.PAIR}", f"composefs/objects/{digest[:2]}/{digest[2:]}"
        return cls(path, object_, f"{pair}.digest", f"{pair}.sig", "state/os/default", f"composefs/images/{digest}")


# Changes a copied disk in place.
Change = Callable[[guest.Image, Path], object]
# Of a file on the disk: a name as in commands(), or object_of().
Place = str | Callable[[guest.Image], str]


def commands(*lines: str) -> Change:
    """Run debugfs commands, with {deployment}, {image}, {digest}, ... for paths, see Names."""

    def change(image: guest.Image, disk: Path) -> None:
        text = "".join(line.format_map(vars(Names.of(image))) + "\n" for line in lines)
        guest.debugfs(disk, text, write=True)

    return change


def put(name: str, content: bytes | Callable[[guest.Image], bytes]) -> Change:
    """Give a file another content; `name` as in commands()."""

    def change(image: guest.Image, disk: Path) -> None:
        path = name.format_map(vars(Names.of(image)))
        source = temporary() / "content"
        source.write_bytes(content(image) if callable(content) else content)
        if "File not found" not in output_of("sh", "-c", f"debugfs -R 'stat /{path}' {disk} 2>&1"):
            guest.debugfs(disk, f"rm /{path}\n", write=True)
        guest.debugfs(disk, f"write {source} /{path}\n", write=True)

    return change


def flip(path: Place, offset: int) -> Change:
    """Flip a byte of a file's data, behind the back of the filesystem."""
    return lambda image, disk: guest.flip_byte(disk, _path(path, image), offset)


def remove(path: Place) -> Change:
    """Remove a file."""
    return lambda image, disk: guest.debugfs(disk, f"rm /{_path(path, image)}\n", write=True)


def link(old: Place, new: Place) -> Change:
    """Give a file a second name."""
    return lambda image, disk: guest.debugfs(disk, f"ln /{_path(old, image)} /{_path(new, image)}\n", write=True)


def _path(place: Place, image: guest.Image) -> str:
    return place(image) if callable(place) else place.format_map(vars(Names.of(image)))


def object_of(path: str) -> Callable[[guest.Image], str]:
    """Name the object of a file of the OS tree."""
    return lambda image: image.deployment.object_of(path)


def several(*changes: Change) -> Change:
    """Make one change after the other."""

    def change(image: guest.Image, disk: Path) -> None:
        for each in changes:
            each(image, disk)

    return change


def changed(image: guest.Image, change: Change | None) -> Path:
    """Return the image's disk, or a changed copy of it."""
    if change is None:
        return image.disk
    disk = guest.copy_disk(image.disk, temporary() / "disk.raw")
    change(image, disk)
    return disk


# The right digest, signed by a key that no boot keyring of the tests has.
SIGNED_BY_STRANGER = put(
    "{signature}", lambda image: signed.sign(signed.image_digest(image.deployment.cfs), signed.key(name="stranger"))
)
