# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builders of what the stages take: vectors, DER, certificates, deployments, values. No test lives here."""

import datetime
import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from bootseal import digest
from bootseal.digest import Digest
from bootseal.errors import Refusal
from bootseal.formats import der
from bootseal.record import Machine, Trail
from bootseal.stages import keyring
from bootseal.values import (
    BootKeyring,
    Certificate,
    Deployment,
    Enrolled,
    Entry,
    Gap,
    KernelKeys,
    Mounted,
    Origin,
    PhysicalRoot,
    Pinned,
    Policy,
    Release,
    Request,
    RootConfig,
    Signer,
    Unverified,
    Verified,
    Wish,
)
from vm.harness.cache import cache_dir

TREE = Path(__file__).resolve().parents[2]
SERVICE = TREE / "service"
PACKAGE = SERVICE / "bootseal"
VECTORS = TREE / "tests" / "vectors"
MANIFEST: dict[str, Any] = json.loads((VECTORS / "manifest.json").read_text())
CHECKSUM = "5f" * 32
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def refusal(call: Callable[..., object], *arguments: Any, **named: Any) -> Refusal:
    """Return the Refusal that a call must raise."""
    with pytest.raises(Refusal) as caught:
        call(*arguments, **named)
    return caught.value


@contextmanager
def at_most(lines: int) -> Iterator[None]:
    """Code that must be quick: it runs no more lines of Python than this, which on any machine is the same."""
    left = lines

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        left -= event == "line"
        if left < 0:
            pytest.fail(f"more than {lines} lines were run")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def verdict(call: Callable[..., object], *arguments: Any, **named: Any) -> str:
    """Return the name of a call's verdict, or "accepted" if it returns."""
    try:
        call(*arguments, **named)
    except Refusal as error:
        return error.verdict.name
    return "accepted"


def oserror(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def raising(number: int) -> Callable[..., Any]:
    """Make a stand-in for a system call that always fails with this errno."""

    def fail(*_: object, **__: object) -> Any:
        raise oserror(number)

    return fail


# --- vectors


def signature(name: str) -> bytes:
    return (VECTORS / "sigs" / f"{name}.p7s").read_bytes()


def content(name: str = "digest-sha256") -> bytes:
    return (VECTORS / "content" / name).read_bytes()


@cache
def certificate(name: str) -> Certificate:
    path = str(VECTORS / "certs" / f"{name}.der")
    (found,) = keyring.load_file(path)
    return found


def trusting(*names: str) -> BootKeyring:
    return BootKeyring(tuple(certificate(name) for name in names), ())


def private_key(name: str) -> PrivateKey:
    key = serialization.load_pem_private_key((VECTORS / "keys" / f"{name}.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key


def candidate(signed: bytes, digest_file: bytes | None = None, *, stands_in: bool = False) -> Unverified:
    return Unverified(content() if digest_file is None else digest_file, stands_in, signed, "/sysroot/d/.ostree.cfs")


# --- DER


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element with minimal length."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def oid(text: str) -> bytes:
    return tlv(6, _oid_content(text))


def _oid_content(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    encoded = bytes([first * 40 + second])
    for arc in rest:
        higher = [arc >> shift & 0x7F | 0x80 for shift in range(28, 0, -7) if arc >> shift]
        encoded += bytes([*higher, arc & 0x7F])
    return encoded


NULL = b"\x05\x00"
HASH_OIDS = {
    "md5": "1.2.840.113549.2.5",
    "sha1": "1.3.14.3.2.26",
    "sha224": "2.16.840.1.101.3.4.2.4",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
ECDSA_OIDS = {"sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3", "sha512": "1.2.840.10045.4.3.4"}
_HASHES: dict[str, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def sign(key: PrivateKey, data: bytes, hash_name: str = "sha256") -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), _HASHES[hash_name]())
    return key.sign(data, ec.ECDSA(_HASHES[hash_name]()))


class Message(NamedTuple):
    """A SignedData message in parts, each of which a test may replace by another encoding."""

    issuer: bytes
    serial: bytes
    value: bytes
    hash_algorithm: bytes = tlv(0x30, oid(HASH_OIDS["sha256"]))
    signature_algorithm: bytes = tlv(0x30, oid(ECDSA_OIDS["sha256"]))
    outer_type: bytes = oid("1.2.840.113549.1.7.2")
    version: bytes = b"\x02\x01\x01"
    digest_algorithms: bytes | None = None
    encapsulated: bytes = tlv(0x30, oid("1.2.840.113549.1.7.1"))
    before_signers: bytes = b""
    signer_version: bytes = b"\x02\x01\x01"
    before_signature_algorithm: bytes = b""
    after_value: bytes = b""
    signers: bytes | None = None
    after_signers: bytes = b""
    after_content: bytes = b""

    def signer(self) -> bytes:
        return tlv(
            0x30,
            self.signer_version,
            tlv(0x30, self.issuer, self.serial),
            self.hash_algorithm,
            self.before_signature_algorithm,
            self.signature_algorithm,
            tlv(4, self.value),
            self.after_value,
        )

    def der(self) -> bytes:
        algorithms = self.hash_algorithm if self.digest_algorithms is None else self.digest_algorithms
        signers = self.signer() if self.signers is None else self.signers
        signed = tlv(
            0x30,
            self.version,
            tlv(0x31, algorithms),
            self.encapsulated,
            self.before_signers,
            tlv(0x31, signers),
            self.after_signers,
        )
        return tlv(0x30, self.outer_type, tlv(0xA0, signed), self.after_content)


def message(made_by: Certificate, key: PrivateKey, data: bytes, hash_name: str = "sha256") -> Message:
    """Make a message inside the profile over these bytes."""
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    scheme = tlv(0x30, oid(RSA_ENCRYPTION), NULL) if is_rsa else tlv(0x30, oid(ECDSA_OIDS[hash_name]))
    return Message(
        issuer=made_by.issuer,
        serial=tlv(2, made_by.serial),
        value=sign(key, data, hash_name),
        hash_algorithm=tlv(0x30, oid(HASH_OIDS[hash_name])),
        signature_algorithm=scheme,
    )


def signed_bytes(digest_file: bytes | None = None, algorithm: str = "sha256") -> bytes:
    return digest.of_bytes(content() if digest_file is None else digest_file, algorithm).formatted()


# --- certificates


def make_certificate(
    key: PrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
    name: str = "unit test",
    serial: int = 7,
    days: tuple[int, int] = (-1, 365),
) -> bytes:
    """Make the DER of a self-signed certificate."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), serial)
        .not_valid_before(now + datetime.timedelta(days[0]))
        .not_valid_after(now + datetime.timedelta(days[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def with_field(certificate: bytes, number: int, *field: bytes) -> bytes:
    """Replace a field of what is signed, or leave it out. Nothing checks a certificate's own signature."""
    body, *rest = der.items(der.items(certificate)[0].content)
    fields = [item.raw for item in der.items(body.content)]
    fields[number : number + 1] = field
    return tlv(0x30, tlv(0x30, *fields), *(item.raw for item in rest))


# --- values


def verified(name: str = "A-fsv-p256", trust: str = "p256", algorithm: str = "ecdsa-sha256") -> Verified:
    """Make a Verified as verify.py does, to test the stages after it."""
    digest_ = digest.from_bytes(content())
    return Verified(  # made outside verify.py: a test's fake
        digest_,
        digest.of_bytes(content(), "sha256"),
        signature(name),
        b"value",
        "sha256",
        Signer(certificate(trust), algorithm),
    )


def pinned(fd: int = -1) -> Pinned:
    return Pinned(verified(), fd, "/sysroot/d/.ostree.cfs", 4096)


def enrolled(gaps: tuple[Gap, ...] = (), **changes: Any) -> Enrolled:
    made = Enrolled(pinned(), "keyring", kernel_checked=True, first_boot=False, bytes_written=0, gaps=gaps)
    return made._replace(**changes)


def deployment(fd: int = -1, **changes: Any) -> Deployment:
    """Make one of ostree; `fd` is its directory."""
    path = f"ostree/deploy/os/deploy/{CHECKSUM}.0"
    beside = Entry(fd, ".ostree.cfs", f"/sysroot/{path}/.ostree.cfs")
    found = Deployment("ostree", "os", CHECKSUM, 0, path, -1, -1, -1, -1, beside, beside)
    return found._replace(**changes)


def root_config(**changes: Any) -> RootConfig:
    root = RootConfig(sysroot_readonly=True, root_transient=False, root_readonly=True, etc="bind", var="bind")
    return root._replace(**changes)


def policy(**changes: Any) -> Policy:
    roots = {"ostree": root_config(), "composefs": root_config(etc="", var="")}
    made = Policy(
        seal=True, voa="", method="keyring", required=False, on_refusal="emergency", signed=("digest-file",), roots=roots
    )
    return made._replace(**changes)


def kernel_keys(**changes: Any) -> KernelKeys:
    sha256 = verified().signer.certificate.sha256
    made = KernelKeys(
        loaded={sha256: 11}, unloaded={}, in_fsverity_keyring=frozenset({sha256}), digest_keyring=22, sealed=True, gaps=()
    )
    return made._replace(**changes)


def sha256_digest(byte: int) -> Digest:
    return Digest("sha256", bytes([byte]) * 32)


# --- a physical root


class Sysroot:
    """A physical root in a directory, with one ostree deployment as 'ostree admin deploy' lays it out."""

    BOOT = "/ostree/boot.1/os/abcdef/0"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.deploy = path / "ostree/deploy/os/deploy" / f"{CHECKSUM}.0"
        for directory in (self.deploy / "etc", path / "ostree/deploy/os/var", path / "ostree/repo/objects"):
            directory.mkdir(parents=True)
        (path / "ostree/boot.1").symlink_to("boot.1.1")
        self.link = path / "ostree/boot.1.1/os/abcdef/0"
        self.link.parent.mkdir(parents=True)
        self.link.symlink_to(f"../../../deploy/os/deploy/{CHECKSUM}.0")

    def point_to(self, target: str) -> None:
        self.link.unlink()
        self.link.symlink_to(target)

    def write(self, suffix: str, data: bytes) -> Path:
        path = self.deploy / f".ostree.cfs{suffix}"
        path.write_bytes(data)
        return path

    def located(self, what: str = BOOT) -> Deployment:
        from bootseal.stages import deployment as stage

        return stage.locate(Wish("ostree", what), request(), policy(), str(self.path))


def request(what: str = Sysroot.BOOT, layout: str = "ostree") -> Request:
    return Request((Wish(layout, what),), "", "", "", debug=False)


def descriptors() -> list[str]:
    """List this process's descriptors, by number and target, but those of the threads that boot guests meanwhile."""
    found = []
    theirs = ("pipe:", "socket:", "/dev/null", "/proc/", str(TREE), str(cache_dir()))
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed by another thread
            if not (target := os.readlink(f"/proc/self/fd/{number}")).startswith(theirs):
                found.append(f"{number} {target}")
    return sorted(found)


def run_python(code: str, *arguments: str) -> str:
    """stdout of a fresh interpreter that knows bootseal; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": f"{SERVICE}:{TREE}/tests"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EVERY_ERRNO = sorted(errno.errorcode)


def errno_name(number: int) -> str:
    """Return the name of an errno in the manual pages."""
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]


def elf(interpreter: str, *, order: str = "<", size: int = 9000) -> bytes:
    """Return a 64-bit ELF file with a PT_LOAD and, if a name is given, a PT_INTERP header."""
    name = interpreter.encode() + b"\0"
    headers = struct.pack(order + "IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 0)
    headers += struct.pack(order + "IIQQQQQQ", 3 if interpreter else 4, 4, 176, 0, 0, len(name), len(name), 1)
    head = b"\x7fELF\x02" + (b"\1" if order == "<" else b"\2") + b"\1" + bytes(9)
    head += struct.pack(order + "HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    return (head + headers + name).ljust(size, b"\0")


def seen_boot(**changes: Any) -> Trail:
    """Make the trail of a whole boot."""
    trail = Trail()
    values = {
        "machine": Machine("11111111-2222-3333-4444-555555555555", "6.12", "0.1"),
        "keyring": trusting("p256", "p384")._replace(skipped=changes.pop("skipped", ())),
        "kernel_keys": kernel_keys(),
        "request": request(),
        "root": PhysicalRoot(-1, sealed_before=True),
        "deployment": deployment(),
        "unverified": candidate(b"", stands_in=changes.pop("stands_in", False)),
        "verified": verified(),
        "pinned": pinned(),
        "enrolled": enrolled(),
        "origin": Origin(("initrd", "kernel command line")),
        "mounted": mounted(changes.pop("release", Release("edge", "41.3"))),
    }
    for value in (values | changes).values():
        trail(value)
    return trail


def mounted(release: Release) -> Mounted:
    return Mounted(-1, "ro,verity=require", b"", b"", ("/etc", "/var", "/opt -> /var/opt"), release)


def project_files() -> list[Path]:
    """List the files that git knows or would add."""
    command = ["git", "-C", str(TREE), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no git tree")
    return [path for name in done.stdout.decode().split("\0") if name and (path := TREE / name).is_file()]
