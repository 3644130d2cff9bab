# SPDX-License-Identifier: LGPL-2.1-or-later
"""A unified kernel image's own signature: made-up EFI variables, and sbverify on images that sbsign has signed."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from bootseal.host.initrd import ukisignature
from bootseal.host.initrd.ukisignature import TRUSTED, UNKNOWN, UNTRUSTED
from bootseal.host.inside import File
from bootseal.linux import efi
from unit.support import descriptors

from .program import certificate, key, tool

X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")
SHA256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
DB, MOK, MOK_STATE = ukisignature._DB, f"MokListRT-{ukisignature._SHIM}", f"MokSBStateRT-{ukisignature._SHIM}"


def esl(kind: bytes, *entries: bytes, header: bytes = b"") -> bytes:
    """An EFI_SIGNATURE_LIST; all entries have the same size."""
    each = 16 + len(entries[0])
    body = b"".join(b"owner-of-16bytes" + entry for entry in entries)
    return struct.pack("<16sIII", kind, 28 + len(header) + len(body), len(header), each) + header + body


def der(name: str) -> bytes:
    return certificate(name, "der").read_bytes()


class Machine:
    """EFI variables, and an image."""

    def __init__(self, top: Path) -> None:
        self.variables, self.image = top / "efivars", top / "os.efi"
        self.variables.mkdir()
        self.set(efi.SECURE_BOOT, b"\1")
        self.set(DB, esl(X509, der("rsa2048")))

    def set(self, name: str, value: bytes) -> None:
        (self.variables / name).write_bytes(b"\6\0\0\0" + value)

    def look(self) -> ukisignature.Signature | None:
        return ukisignature.look(File("", "", str(self.image)), str(self.variables))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.image.write_bytes(_pe())
    return made


def _pe() -> bytes:
    """The smallest image that sbsign and sbverify take: one section."""
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 512, 0, 0, 0x1000, 0x1000)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHHQQQQII", 0, 0x1000, 512, 0, 0, 0, 0, 0, 0, 0, 0x2000, 512, 0, 10, 0, 0, 0, 0, 0, 0, 16
    )
    optional += bytes(16 * 8)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, len(optional), 0x22E)
    section = struct.pack("<8sIIIIIIHHI", b".text", 512, 0x1000, 512, 512, 0, 0, 0, 0, 0x60000020)
    headers = b"MZ" + bytes(58) + struct.pack("<I", 64) + coff + optional + section
    return headers.ljust(512, b"\0") + b"\xc3".ljust(512, b"\x90")


def _signed(machine: Machine, *names: str) -> None:
    for name in names:
        arguments = ("--key", key(name), "--cert", certificate(name), "--output", machine.image, machine.image)
        tool("sbsign", *arguments)


def _state(machine: Machine) -> str:
    found = machine.look()
    assert found
    return found.state


def test_trusted(machine: Machine) -> None:
    _signed(machine, "rsa2048")
    assert _state(machine) == TRUSTED


def test_one_of_two_signatures_will_do(machine: Machine) -> None:
    _signed(machine, "rsa3072", "rsa2048")
    assert _state(machine) == TRUSTED


@pytest.mark.parametrize("names", [[], ["rsa3072"]], ids=["unsigned", "another-key"])
def test_untrusted(machine: Machine, names: list[str]) -> None:
    tool("sbverify", "--help")
    _signed(machine, *names)
    assert _state(machine) == UNTRUSTED


def test_changed_after_it_was_signed(machine: Machine) -> None:
    _signed(machine, "rsa2048")
    content = machine.image.read_bytes()
    machine.image.write_bytes(content.replace(b"\x90\x90", b"\x90\x91", 1))
    assert _state(machine) == UNTRUSTED


@pytest.mark.parametrize("part", ["", "1"])
def test_a_certificate_of_shims(machine: Machine, part: str) -> None:
    _signed(machine, "rsa3072")
    machine.set(MOK, esl(X509, der("p256")))
    assert _state(machine) == UNTRUSTED
    machine.set(f"MokListRT{part}-{ukisignature._SHIM}", esl(X509, der("rsa3072")))
    assert _state(machine) == TRUSTED


@pytest.mark.parametrize("entry", [esl(SHA256, bytes(32), bytes(32)), esl(X509, b"no certificate")], ids=["hash", "unreadable"])
def test_whoever_else_is_trusted_leaves_it_open(machine: Machine, entry: bytes) -> None:
    """Answer unknown instead of untrusted if something else may be trusted, such as a hash."""
    machine.set(DB, entry + esl(X509, der("rsa2048")))
    tool("sbverify", "--help")
    assert _state(machine) == UNKNOWN
    _signed(machine, "rsa2048")
    assert _state(machine) == TRUSTED


@pytest.mark.parametrize("value", [b"\0", b"", b"\1\1", None], ids=["off", "empty", "two", "absent"])
def test_without_secure_boot_nothing_is_said(machine: Machine, value: bytes | None) -> None:
    if value is None:
        (machine.variables / efi.SECURE_BOOT).unlink()
    else:
        machine.set(efi.SECURE_BOOT, value)
    assert machine.look() is None


def test_what_is_no_unified_kernel_image(machine: Machine) -> None:
    machine.image.write_bytes(b"070701")
    assert machine.look() is None
    machine.image.unlink()
    os.mkfifo(machine.image)
    assert machine.look() is None
    machine.image.unlink()
    assert _state(machine) == UNKNOWN


UNANSWERED = {
    "no-db": (DB, None, "cannot be read"),
    "damaged-db": (DB, esl(X509, b"x")[:-1], "inconsistent sizes"),
    "empty-db": (DB, b"", "no readable certificate"),
    "large-db": (DB, bytes(1 << 20), "larger than"),
    "damaged-mok": (MOK, b"x", "truncated"),
}


@pytest.mark.parametrize(("name", "value", "text"), UNANSWERED.values(), ids=UNANSWERED)
def test_not_known(machine: Machine, name: str, value: bytes | None, text: str) -> None:
    if value is None:
        (machine.variables / name).unlink()
    else:
        machine.set(name, value)
    found = machine.look()
    assert found and found.state == UNKNOWN
    assert text in found.text


def test_shim_that_validates_nothing_starts_any_image(machine: Machine) -> None:
    machine.set(MOK_STATE, b"\1")
    assert machine.look() is None


def test_without_sbverify(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = machine.look()
    assert found and (found.state, "sbsigntool" in found.text) == (UNKNOWN, True)


def test_too_large(machine: Machine) -> None:
    os.truncate(machine.image, ukisignature.MAX_SIZE + 1)
    found = machine.look()
    assert found and (found.state, "larger than" in found.text) == (UNKNOWN, True)


PROGRAMS = {
    "words-alone": "echo Signature verification failed; exit 2",
    "killed": "kill -9 $$",
    "alarm": "kill -14 $$",
    "silent": "exit 1",
    "not-run": None,
}


@pytest.mark.parametrize("script", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_that_gives_no_answer(
    machine: Machine, script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in(tmp_path, monkeypatch, script)
    assert _state(machine) == UNKNOWN


def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    program = tmp_path / "bin/sbverify"
    program.parent.mkdir()
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    program.write_text(f"#!/bin/sh\n{script}\n" if script is not None else "#!/nowhere\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def test_how_the_program_is_run(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run sbverify as user nobody, with limits, on a copy in memory, so that later changes of the file have no effect."""
    _stand_in(tmp_path, monkeypatch, "/usr/bin/id -u; /bin/cat /proc/self/limits; /bin/ls -l /proc/self/fd; echo $#; exit 3")
    seen, run = list[bytes](), subprocess.run

    def noted(*arguments: object, **named: object) -> object:
        done = run(*arguments, **named)  # type: ignore[call-overload]
        seen.append(done.stdout)
        return done

    monkeypatch.setattr(subprocess, "run", noted)
    assert _state(machine) == UNKNOWN
    text = seen[0].decode()
    if os.geteuid() == 0:
        assert text.startswith("65534\n")
    for name, value in (
        ("address space", ukisignature.MAX_SIZE + (256 << 20)),
        ("cpu time", 30),
        ("file size", 0),
        ("core file size", 0),
    ):
        assert any(name in line and str(value) in line.split() for line in text.splitlines()), name
    assert text.count("memfd:bootseal") == 2
    assert str(machine.image) not in text
    assert text.splitlines()[-1] == "3"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0


def test_no_descriptor_is_left(machine: Machine) -> None:
    before = descriptors()
    machine.look()
    assert descriptors() == before


# --- the list of signatures


def test_signature_lists() -> None:
    data = esl(X509, b"one") + esl(SHA256, bytes(32), bytes(32), header=b"1234")
    assert ukisignature.parse_signature_list(data) == [(X509, b"one"), (SHA256, bytes(32)), (SHA256, bytes(32))]
    assert ukisignature.parse_signature_list(b"") == []


GOOD = esl(X509, b"data")
MALFORMED = {
    "sizes-of-0": struct.pack("<16sIII", X509, 28, 0, 0),
    "size-of-the-owner": struct.pack("<16sIII", X509, 28 + 16, 0, 16) + bytes(16),
    "list-of-0": struct.pack("<16sIII", X509, 0, 0, 20) + bytes(20),
    "list-of-0-that-would-never-end": struct.pack("<16sIII", X509, 0, 0, 28) + bytes(28),
    "list-shorter-than-its-head": struct.pack("<16sIII", X509, 11, 0, 17) + bytes(28),
    "list-too-long": struct.pack("<16sIII", X509, 49, 0, 20) + bytes(20),
    "list-of-4-GiB": struct.pack("<16sIII", X509, 0xFFFFFFFF, 0, 17) + bytes(20),
    "header-of-4-GiB": struct.pack("<16sIII", X509, 48, 0xFFFFFFFF, 20) + bytes(20),
    "not-a-multiple": struct.pack("<16sIII", X509, 48, 0, 19) + bytes(20),
    "trailing": GOOD + b"x",
} | {f"cut-at-{size}": GOOD[:size] for size in range(1, len(GOOD))}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_lists(data: bytes) -> None:
    with pytest.raises(ukisignature.Malformed):
        ukisignature.parse_signature_list(data)


def test_at_most_128_certificates(machine: Machine) -> None:
    """The others count as what cannot be told."""
    found = ("rsa2048", "rsa3072", "p256")
    machine.set(DB, b"".join(esl(X509, der(name)) for name in found) + esl(X509, der("rsa2048")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ukisignature, "_MAX_CERTIFICATES", 2)
        read = ukisignature.load_signers(str(machine.variables))
    assert [x509.load_pem_x509_certificate(pem) for pem in read.certificates] == [
        x509.load_der_x509_certificate(der(name)) for name in found[:2]
    ]
    assert read.others == 1
