# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guest tests share: keys and signatures, disks and initrds, boots in the background, sections of reports."""

from __future__ import annotations

import atexit
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import guest
import guest_qemu
from guest_cache import cached, digest_of, remove

T = TypeVar("T")
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


# --- boots in the background


class Job(Generic[T]):
    """Work for the two background threads. One that is the value of a test's parameter starts when the tests start."""

    _pool = ThreadPoolExecutor(max_workers=guest_qemu.SLOTS)

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._future: Future[T] | None = None

    def start(self) -> None:
        """Queue it, once."""
        if self._future is None:
            self._future = self._pool.submit(self._work)

    def result(self) -> T:
        """Wait for it; an exception of the work is raised here."""
        self.start()
        assert self._future is not None
        return self._future.result()

    @classmethod
    def cancel_all(cls) -> None:
        """Start no more; what runs goes on to its end."""
        cls._pool.shutdown(wait=False, cancel_futures=True)


# --- keys and signatures


def run(*command: str | Path) -> str:
    """The output of a program, which must succeed."""
    result = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if result.returncode:
        raise guest.GuestError(f"{command[0]} failed: {result.stderr}")
    return result.stdout


@dataclass(frozen=True)
class Key:
    """A signing key and its certificate, PEM files."""

    key: Path
    certificate: Path


def key(kind: str = "p256", name: str = "guest") -> Key:
    """A throw-away key of one of KEY_KINDS; another name makes another key. Kept, so that signed disks can be kept."""

    def build(path: Path) -> None:
        algorithm, option = KEY_KINDS[kind]
        run("openssl", "genpkey", "-algorithm", algorithm, "-pkeyopt", option, "-out", path / "key.pem")
        extensions = ("-addext", "keyUsage=critical,digitalSignature", "-addext", "basicConstraints=critical,CA:FALSE")
        subject = ("-days", "36500", "-subj", f"/CN={name} {kind}")
        run("openssl", "req", "-x509", "-new", "-key", path / "key.pem", *subject, *extensions, "-out", path / "cert.pem")

    home = cached(f"key-{name}", digest_of(kind, name), f"key {name} {kind}", build)
    return Key(home / "key.pem", home / "cert.pem")


def sign(digest: bytes, by: Key, *, kind: str = "signature") -> bytes:
    """What `fsverity sign` makes of a digest file; kept, for ECDSA would give another one each time."""

    def build(path: Path) -> None:
        (path / "digest").write_bytes(digest)
        run("fsverity", "sign", path / "digest", path / "sig", f"--key={by.key}", f"--cert={by.certificate}")

    return (cached(kind, digest_of(digest, by.certificate), f"signature by {by.key.parent.name}", build) / "sig").read_bytes()


def image_digest(cfs: Path, algorithm: str = "sha256") -> bytes:
    """The fs-verity digest of a composefs image, raw."""
    return bytes.fromhex(run("fsverity", "digest", "--compact", f"--hash-alg={algorithm}", cfs).strip())


def beside(cfs: Path, by: Key | None = None, algorithm: str = "sha256") -> dict[str, bytes]:
    """Digest and signature file for an image."""
    digest = image_digest(cfs, algorithm)
    return {DIGEST: digest, SIGNATURE: sign(digest, by or key())}


# --- disks and initrds


# An image whose own fs-verity digest is SHA-512; its objects keep SHA-256.
SHA512_COMMANDS = f"cp {IMAGE} new\nmv -f new {IMAGE}\nfsverity enable --hash-alg=sha512 {IMAGE}\nfsverity measure {IMAGE}\n"


def image(suite: str = "forky", fs: str = "ext4", *, algorithm: str = "sha256") -> guest.Image:
    """A sealed disk, its image signed by key(). Built at most once; changes go to copies."""
    commands = SHA512_COMMANDS if algorithm == "sha512" else ""
    return guest.image(suite, fs, files=lambda cfs: beside(cfs, algorithm=algorithm), commands=commands)


def initrd(suite: str = "forky") -> Path:
    """The initrd with key() in its boot keyring; settings() change the rest without another run of dracut."""
    made = guest.initrd(suite, keys=[named(key().certificate)])
    if made.status:
        raise guest.GuestError(f"dracut failed with status {made.status}:\n{made.output[-4000:]}")
    return made.path


def named(certificate: Path) -> Path:
    """The certificate under the name that it has in the initrd."""
    path = temporary() / Path(CERTIFICATE).name
    path.write_bytes(certificate.read_bytes())
    return path


def settings(
    conf: str | None = None, prepare_root: str | None = None, keys: Sequence[Key] | None = None
) -> dict[str, guest.Content]:
    """Files for `extra_initrd_files`: bootseal.conf, prepare-root.conf, the certificates of the boot keyring."""
    files: dict[str, guest.Content] = {}
    if conf is not None:
        files[CONF] = conf.encode()
    if prepare_root is not None:
        files[PREPARE_ROOT] = prepare_root.encode()
    if keys is not None:
        files[CERTIFICATE] = b"".join(key.certificate.read_bytes() for key in keys)
    return files


def temporary() -> Path:
    """A directory for files of this run, on the cache's filesystem."""
    path = Path(tempfile.mkdtemp(prefix="run-", dir=guest.cache_dir()))
    atexit.register(remove, path)
    return path


def in_deployment(image_: guest.Image, files: Mapping[str, bytes | None]) -> Path:
    """A copy of an ext4 disk with files of the deployment directory written, or removed where None."""
    paths = {f"{image_.deployment.path}/{name}": content for name, content in files.items()}
    return guest.replace_files(image_.disk, paths, temporary() / "disk.raw")


# --- scripts and what they report


_MARK = re.compile(r"^=== (\w+)\n", re.MULTILINE)


def script(**commands: str) -> str:
    """A shell script whose report has one section for each command."""
    marked = "".join(f"printf '\\n=== {name}\\n'\n{command}\n" for name, command in commands.items())
    return "export SYSTEMD_COLORS=0\n" + marked


def sections(report: str) -> dict[str, str]:
    """The output of each command of a script(), without newlines at its end."""
    _, *found = _MARK.split(report)
    return {name: output.rstrip("\n") for name, output in zip(found[::2], found[1::2], strict=True)}


def json_lines(text: str) -> list[dict[str, Any]]:
    """What `journalctl -o json` printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ended(result: guest.Result, status: int) -> None:
    """The guest must have ended itself with this status."""
    if result.status != status:
        tail = "\n".join([*result.console.splitlines()[-60:], "--- report", *result.report.splitlines()[-60:]])
        raise AssertionError(f"guest: {result.ended} {result.status}, not {status}, after {result.seconds:.0f} s\n{tail}")
