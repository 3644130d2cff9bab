# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sign disks with a key of the tests, and build initrds that trust it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootseal.host import checker
from bootseal.host.dryrun import INITRD_NAMES
from bootseal.host.initrd import reader
from bootseal.host.inside import File

from . import guest
from .cache import CHECKOUT, cached, digest_of, output_of, temporary

IMAGE = ".ostree.cfs"
DIGEST = ".ostree.cfs.digest"
SIGNATURE = ".ostree.cfs.sig"
CERTIFICATE = "etc/bootseal/keys.d/guest.pem"  # in the initrd: the one certificate of its boot keyring
CONF = "etc/bootseal/bootseal.conf"
PREPARE_ROOT = "etc/ostree/prepare-root.conf"
KEY_KINDS: Mapping[str, tuple[str, ...]] = {
    "p256": ("EC", "ec_paramgen_curve:P-256"),
    "p384": ("EC", "ec_paramgen_curve:P-384"),
    "rsa2048": ("RSA", "rsa_keygen_bits:2048"),
    "rsa4096": ("RSA", "rsa_keygen_bits:4096"),
}


@dataclass(frozen=True)
class Key:
    """A signing key and its certificate, PEM files."""

    key: Path
    certificate: Path


def key(kind: str = "p256", name: str = "guest") -> Key:
    """Make a throw-away key of KEY_KINDS, once per name, because signed disks are cached."""

    def build(path: Path) -> None:
        algorithm, option = KEY_KINDS[kind]
        output_of("openssl", "genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", path / "key.pem")
        extensions = ("-addext", "keyUsage=critical,digitalSignature", "-addext", "basicConstraints=critical,CA:FALSE")
        subject = ("-days", "36500", "-subj", f"/CN={name} {kind}")
        output_of("openssl", "req", "-x509", "-new", "-key", path / "key.pem", *subject, *extensions, "-out", path / "cert.pem")

    home = cached(f"key-{name}", digest_of(kind, name), f"key {name} {kind}", build)
    return Key(home / "key.pem", home / "cert.pem")


def sign(digest: bytes, by: Key, *, kind: str = "signature") -> bytes:
    """Sign a digest file by `fsverity sign`, once, because ECDSA signs differently each time."""

    def build(path: Path) -> None:
        (path / "digest").write_bytes(digest)
        output_of("fsverity", "sign", path / "digest", path / "sig", f"--key={by.key}", f"--cert={by.certificate}")

    return (cached(kind, digest_of(digest, by.certificate), f"signature by {by.key.parent.name}", build) / "sig").read_bytes()


def sign_file(file: Path, by: Key, algorithm: str = "sha256") -> bytes:
    """Sign a file itself by `fsverity sign`, once."""

    def build(path: Path) -> None:
        keys = (f"--key={by.key}", f"--cert={by.certificate}", f"--hash-alg={algorithm}")
        output_of("fsverity", "sign", file, path / "sig", *keys)

    key = digest_of(file.read_bytes(), algorithm, by.certificate)
    return (cached("signature-of-image", key, f"signature of an image by {by.key.parent.name}", build) / "sig").read_bytes()


def image_digest(cfs: Path, algorithm: str = "sha256") -> bytes:
    """Compute the fs-verity digest of a composefs image, raw."""
    return bytes.fromhex(output_of("fsverity", "digest", "--compact", f"--hash-alg={algorithm}", cfs).strip())


def beside(cfs: Path, by: Key | None = None, algorithm: str = "sha256") -> dict[str, bytes]:
    """Make digest and signature file for an image."""
    digest = image_digest(cfs, algorithm)
    return {DIGEST: digest, SIGNATURE: sign(digest, by or key())}


# --- disks and initrds


# An image whose own fs-verity digest is SHA-512; its objects keep SHA-256.
SHA512_COMMANDS = f"cp {IMAGE} new\nmv -f new {IMAGE}\nfsverity enable --hash-alg=sha512 {IMAGE}\nfsverity measure {IMAGE}\n"


def image(suite: str = "forky", fs: str = "ext4", *, algorithm: str = "sha256") -> guest.Image:
    """Build a sealed disk at most once, its image signed by key(); changes go to copies."""
    commands = SHA512_COMMANDS if algorithm == "sha512" else ""
    return guest.image(suite, fs, files=lambda cfs: beside(cfs, algorithm=algorithm), commands=commands)


def initrd(suite: str = "forky", conf: str | None = None) -> Path:
    """Build the initrd with key() in its boot keyring; settings() change the rest without dracut.

    Only what dracut reads of bootseal.conf needs `conf`.
    """
    return guest.initrd(suite, keys=[named(key().certificate)], conf=conf).built()


def thin_initrd(suite: str = "forky") -> bytes:
    """Make an archive of what `bootseal verify` reads of initrd(). Reading all of it takes a guest seconds."""
    questions = (checker._DIRECTORIES, INITRD_NAMES)
    with reader.opened([File("", "", str(initrd(suite)))]) as opened:
        contents = reader.parse(reader.ask(opened, *questions), *questions)
    files: dict[str, guest.Content] = {path: content or b"" for path, content in contents.files.items()}
    there = [name for name, exists in contents.names.items() if exists]
    files |= {name: b"" for name in there if not any(other.startswith(f"{name}/") for other in (*files, *there))}
    return guest.archive(files)


def named(certificate: Path) -> Path:
    """Copy the certificate under the name that it has in the initrd."""
    path = temporary() / Path(CERTIFICATE).name
    path.write_bytes(certificate.read_bytes())
    return path


def settings(
    conf: str | None = None, prepare_root: str | None = None, keys: Sequence[Key] | None = None
) -> dict[str, guest.Content]:
    """Make files for an initrd: bootseal.conf, prepare-root.conf, certificates of the boot keyring."""
    files: dict[str, guest.Content] = {}
    if conf is not None:
        files[CONF] = conf.encode()
    if prepare_root is not None:
        files[PREPARE_ROOT] = prepare_root.encode()
    if keys is not None:
        files[CERTIFICATE] = b"".join(key.certificate.read_bytes() for key in keys)
    return files


def in_deployment(image_: guest.Image, files: Mapping[str, bytes | None]) -> Path:
    """Copy an ext4 disk and write files of the deployment directory, or remove them where None."""
    paths = {f"{image_.deployment.path}/{name}": content for name, content in files.items()}
    return guest.replace_files(image_.disk, paths, temporary() / "disk.raw")


def made_by_sign(cfs: Path, *options: str | Path) -> dict[str, bytes]:
    """Run `bootseal sign` on this machine and return what it puts beside an image."""
    copy = temporary() / IMAGE
    copy.write_bytes(cfs.read_bytes())
    subprocess.run([sys.executable, "-I", CHECKOUT / "service", "sign", copy, *options], check=True, stdout=subprocess.PIPE)
    return {name: copy.with_name(name).read_bytes() for name in (DIGEST, SIGNATURE)}
