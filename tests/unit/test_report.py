# SPDX-License-Identifier: LGPL-2.1-or-later
"""report.py: one verdict everywhere. The console is a FIFO here, journal and service manager are sockets of the test."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootseal import report, verdicts
from bootseal.errors import Refusal
from bootseal.linux import journal
from bootseal.values import BootKeyring, Certificate, Gap, Mounted, Release
from unit.host import schema
from unit.support import candidate, certificate, deployment, enrolled, kernel_keys, pinned, trusting, verified

MEMBERS = {
    "version", "verdict", "message", "hint", "boot_id", "kernel", "bootseal", "deployment", "image", "signature", "enrollment",
    "keyring", "mount", "not_covered", "milliseconds",
}  # fmt: skip
NESTED = {
    "deployment": {"layout", "stateroot", "checksum", "serial", "path"},
    "image": {"path", "algorithm", "digest", "size", "id", "version"},
    "signature": {"subject", "issuer", "serial", "certificate_sha256", "algorithm", "not_before", "not_after"},
    "mount": {"options"},
}
EVIL = "a\x1b[2J\r\nb\udcff\u202e"


class World:
    """What was sent to whom."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = directory / "run"
        console = directory / "console"
        os.mkfifo(console)
        self._console = os.open(console, os.O_RDONLY | os.O_NONBLOCK)
        self._journal, self._manager = (self._socket(directory / name) for name in ("journal", "notify"))
        monkeypatch.setattr(report, "RUN", str(self.run))
        monkeypatch.setattr(report, "PATH", str(self.run / "boot.json"))
        monkeypatch.setattr(report, "_CONSOLE", str(console))
        monkeypatch.setattr(journal, "_JOURNAL", str(directory / "journal"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))

    @staticmethod
    def _socket(path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(str(path))
        return sock

    def console(self) -> list[str]:
        try:
            return os.read(self._console, 1 << 16).decode("ascii").splitlines()
        except BlockingIOError:
            return []

    def entries(self) -> list[dict[str, str]]:
        return [dict(line.split("=", 1) for line in data.decode().splitlines()) for data in self.datagrams(self._journal)]

    def states(self) -> list[str]:
        return [data.decode() for data in self.datagrams(self._manager)]

    @staticmethod
    def datagrams(sock: socket.socket) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(sock.recv(1 << 16))
            except BlockingIOError:
                return found

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.run / "boot.json").read_text())
        return record

    def close(self) -> None:
        os.close(self._console)
        self._journal.close()
        self._manager.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.close()


def whole(**changes: Any) -> report.Recorder:
    """A recorder that has seen a whole boot."""
    recorder = report.Recorder()
    recorder.begin("configuration", "Reading...")
    recorder.keyring(trusting("p256", "p384")._replace(skipped=changes.get("skipped", ())))
    recorder.kernel_keys(kernel_keys())
    recorder.begin("locate", "Looking...")
    recorder.deployment(changes.get("deployment", deployment()))
    recorder.candidate(candidate(b"", stands_in=changes.get("stands_in", False)))
    recorder.verified(verified())
    recorder.pinned(pinned())
    recorder.enrolled(changes.get("enrolled", enrolled()))
    recorder.begin("mount", "Mounting...")
    named = changes.get("release", Release("edge", "41.3"))
    recorder.mounted(Mounted(-1, "ro,verity=require", b"", b"", ("/etc", "/var", "/opt -> /var/opt"), named))
    return recorder


def refusal_of(verdict: verdicts.Verdict, what: str = "what was wrong", path: str = "/where") -> Refusal:
    return Refusal(verdict, what, path)


def test_a_verified_boot(world: World) -> None:
    assert report.verified(whole()) == 0
    record = world.record()
    assert set(record) == MEMBERS - {"hint"}
    for name, members in NESTED.items():
        assert set(record[name]) == members, name
    assert set(record["keyring"]) >= {"certificates", "sealed"}
    assert set(record["enrollment"]) >= {"method", "first_boot", "bytes_written", "missing"}
    assert (record["version"], record["verdict"]) == (1, "verified")


def test_what_the_record_holds(world: World) -> None:
    report.verified(whole())
    record, made = world.record(), verified()
    certificate = made.signer.certificate
    assert record["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert record["kernel"] == os.uname().release
    assert record["deployment"] == {name: getattr(deployment(), name) for name in NESTED["deployment"]}
    image = {"path": pinned().path, "algorithm": "sha256", "digest": made.digest.value.hex(), "size": 4096}
    assert record["image"] == image | {"id": "edge", "version": "41.3"}
    assert record["signature"]["certificate_sha256"] == certificate.sha256
    assert record["signature"]["serial"] == certificate.serial.hex()
    assert (record["signature"]["not_before"], record["signature"]["not_after"]) == (
        certificate.not_before,
        certificate.not_after,
    )
    enrollment = {"method": "keyring", "kernel_checked": True, "first_boot": False, "missing": [], "bytes_written": 0}
    assert record["enrollment"] == enrollment
    assert record["keyring"]["certificates"] == 2
    assert record["keyring"]["sealed"] is True
    assert record["mount"] == {"options": "ro,verity=require"}
    assert record["not_covered"][:3] == ["/etc", "/var", "/opt -> /var/opt"]
    assert set(record["milliseconds"]) == {"configuration", "locate", "mount"}
    assert all(figure >= 0 for figure in record["milliseconds"].values())


def test_absent_means_unknown(world: World) -> None:
    report.refused(report.Recorder(), refusal_of(verdicts.NO_KEYS))
    assert set(world.record()) == {"version", "verdict", "message", "hint", "boot_id", "kernel", "bootseal", "milliseconds"}


def test_unknown_bytes_are_absent(world: World) -> None:
    report.verified(whole(enrolled=enrolled(bytes_written=None)))
    assert "bytes_written" not in world.record()["enrollment"]


@pytest.mark.parametrize("verdict", [v for v in verdicts.VERDICTS if v is not verdicts.VERIFIED], ids=lambda v: v.name)
def test_a_refusal(verdict: verdicts.Verdict, world: World) -> None:
    assert report.refused(report.Recorder(), refusal_of(verdict)) == verdict.exit_status != 0
    line = f"refused ({verdict.name}): what was wrong: /where"
    assert world.console() == [f"bootseal: {line}", f"bootseal: hint: {verdict.hint}"]
    entry = world.entries()[0]
    assert entry["MESSAGE"] == line
    assert (entry["MESSAGE_ID"], entry["BOOTSEAL_VERDICT"]) == (verdict.message_id, verdict.name)
    assert entry["PRIORITY"] == "2"
    assert world.states()[-1] == f"STATUS={line}"
    record = world.record()
    assert (record["verdict"], record["message"], record["hint"]) == (verdict.name, line, verdict.hint)


def test_a_hint_of_its_own(world: World) -> None:
    report.refused(report.Recorder(), Refusal(verdicts.BAD_SIGNATURE, "what", "/where", "do this"))
    assert world.console()[1] == "bootseal: hint: do this"
    assert world.record()["hint"] == "do this"


def test_a_verified_boot_on_console_and_journal(world: World) -> None:
    report.verified(whole())
    (line,) = world.console()
    covered = f"edge 41.3 sha256:{verified().digest.value.hex()[:12]}"
    assert line.startswith(f"bootseal: verified {covered} (deployment os/{'5f' * 6}.0, as the disk names it), signed by ")
    assert "not covered: /etc, /var, /opt -> /var/opt" in line
    (entry,) = world.entries()
    assert entry["MESSAGE"] == line.removeprefix("bootseal: ")
    fields = {name: entry[f"BOOTSEAL_{name}"] for name in ("VERDICT", "IMAGE", "DEPLOYMENT", "DIGEST", "SIGNER", "ENROLL")}
    assert fields == {
        "VERDICT": "verified",
        "IMAGE": "edge 41.3",
        "DEPLOYMENT": deployment().path,
        "DIGEST": str(verified().digest),
        "SIGNER": verified().signer.certificate.subject_text,
        "ENROLL": "keyring",
    }
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("5", "bootseal")
    assert entry["OBJECT_SYSTEMD_UNIT"] == "bootseal.service"
    assert world.states() == [
        "STATUS=Reading...",
        "STATUS=Looking...",
        "STATUS=Mounting...",
        *["STATUS=" + entry["MESSAGE"]] * 2,
    ]


@pytest.mark.parametrize(
    ("release", "said", "members"),
    [
        (Release("edge", ""), "verified edge sha256:", {"id": "edge"}),
        (Release("", "41.3"), "verified 41.3 sha256:", {"version": "41.3"}),
        (Release("", ""), "verified sha256:", {}),
    ],
    ids=["no version", "no name", "neither"],
)
def test_an_image_that_does_not_say_all(release: Release, said: str, members: dict[str, str], world: World) -> None:
    report.verified(whole(release=release))
    record = world.record()
    assert record["message"].startswith(said)
    assert {name: value for name, value in record["image"].items() if name in ("id", "version")} == members
    assert world.entries()[0].get("BOOTSEAL_IMAGE") == (" ".join(members.values()) or None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "checked by the kernel, method keyring;"),
        ({"method": "fsverity", "first_boot": True}, "checked by the kernel, method fsverity, first boot;"),
        ({"method": "none", "kernel_checked": False}, "checked by userspace alone, method none;"),
        ({"missing": (Gap("x", unsupported=True),)}, "checked by the kernel, method keyring, enrolling incomplete;"),
    ],
    ids=["keyring", "fsverity", "none", "incomplete"],
)
def test_how_it_was_checked(changes: dict[str, Any], said: str, world: World) -> None:
    report.verified(whole(enrolled=enrolled(**changes)))
    assert said in world.record()["message"]


def test_a_certificate_that_is_not_in_the_kernel_is_said_everywhere(world: World) -> None:
    recorder = whole()
    recorder.kernel_keys(kernel_keys(unloaded={"ab" * 32: 74}))
    report.verified(recorder)
    line = "abababababababab: Bad message (EBADMSG)"
    assert world.record()["keyring"]["not_in_kernel"] == [line]
    assert f"bootseal: note: certificate not in the kernel: {line}" in world.console()
    assert line in world.states()[-1]


def test_what_is_missing_is_said_everywhere(world: World) -> None:
    report.verified(whole(enrolled=enrolled((Gap("the kernel lacks it", True), Gap("and that", False)))))
    assert world.record()["enrollment"]["missing"] == ["the kernel lacks it", "and that"]
    assert "enrolling incomplete" in world.record()["message"]
    console = world.console()
    assert console[1:] == [
        "bootseal: note: enrolling incomplete: the kernel lacks it",
        "bootseal: note: enrolling incomplete: and that",
    ]
    assert "the kernel lacks it" in world.states()[-1]
    assert [entry["PRIORITY"] for entry in world.entries()] == ["5", "4", "4"]


def test_skipped_certificates_are_said_everywhere(world: World) -> None:
    report.verified(whole(skipped=("/etc/bootseal/keys.d/x.pem: why",)))
    note = "certificate skipped: /etc/bootseal/keys.d/x.pem: why"
    assert f"bootseal: note: {note}" in world.console()
    assert note in world.states()[-1]
    assert world.record()["keyring"]["skipped"] == ["/etc/bootseal/keys.d/x.pem: why"]
    assert world.record()["notes"] == [note]


def test_each_note_is_an_entry_of_its_own(world: World) -> None:
    recorder = report.Recorder()
    for note in verdicts.NOTES:
        recorder.note(note, f"about {note.name}")
    report.refused(recorder, refusal_of(verdicts.IMAGE_MISMATCH))
    assert {e["MESSAGE_ID"]: e["MESSAGE"] for e in world.entries()[2:]} == {
        note.message_id: f"note: about {note.name}" for note in verdicts.NOTES
    }


def test_skipped_certificates_are_said_on_a_refusal(world: World) -> None:
    recorder = report.Recorder()
    recorder.keyring(trusting("p256")._replace(skipped=("x.pem: why",)))
    report.refused(recorder, refusal_of(verdicts.NO_DEPLOYMENT))
    assert world.console()[2:] == ["bootseal: note: certificate skipped: x.pem: why"]


def test_a_digest_that_stood_in_is_said(world: World) -> None:
    report.verified(whole(stands_in=True))
    assert any("cannot be opened" in line for line in world.console())


def is_printable(text: str) -> bool:
    return all(" " <= c <= "~" for c in text)


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from texts(member)
    elif isinstance(value, list):
        for member in value:
            yield from texts(member)


def test_no_control_character_of_the_disk_gets_anywhere(world: World) -> None:
    evil = deployment(stateroot=EVIL, path=f"ostree/deploy/{EVIL}/deploy/x.0")
    recorder = whole(deployment=evil, enrolled=enrolled((Gap(EVIL, False),)))
    recorder.pinned(pinned()._replace(path=f"/sysroot/{evil.path}/.ostree.cfs"))
    report.verified(recorder)
    assert all(map(is_printable, world.console()))
    assert all(is_printable(value) for entry in world.entries() for value in entry.values())
    assert all(map(is_printable, world.states()))
    assert [text for text in texts(world.record()) if not is_printable(text)] == []


def test_no_control_character_of_a_refusal_gets_anywhere(world: World) -> None:
    report.refused(report.Recorder(), Refusal(verdicts.NO_DEPLOYMENT, EVIL, EVIL, EVIL))
    console = world.console()
    assert len(console) == 2
    assert all(map(is_printable, console))
    assert all(map(is_printable, world.states()))
    assert [text for text in texts(world.record()) if not is_printable(text)] == []


def test_the_status_names_a_stateroot_with_invalid_utf8(world: World) -> None:
    """As boot.py does: a name from the disk is no reason for an exception."""
    report.Recorder().begin("verify", f"Verifying the composefs digest of {EVIL}...")
    (state,) = world.states()
    assert is_printable(state)


def test_debug_tells_the_console(world: World) -> None:
    recorder = report.Recorder()
    recorder.debug = True
    recorder.begin("locate", "Looking...")
    (line,) = world.console()
    assert line.startswith("bootseal: debug: locate: {")
    assert json.loads(line.partition("locate: ")[2])["version"] == 1


def test_debug_at_the_end(world: World) -> None:
    recorder = report.Recorder()
    recorder.debug = True
    recorder.begin("", "verified")
    assert world.console()[0].startswith("bootseal: debug: end: {")


def test_again(world: World) -> None:
    report.verified(whole())
    world.states()
    assert report.again() == 0
    assert world.states() == [f"STATUS={world.record()['message']}"]


def test_a_line_leaves_no_descriptor(world: World) -> None:
    before = os.listdir("/proc/self/fd")
    report.console("x")
    assert os.listdir("/proc/self/fd") == before


def test_a_slow_console_gets_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    waits: list[float] = []

    def write(_: int, data: bytes) -> int:
        taken.append(data[:2])
        return 2

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(time, "sleep", waits.append)
    report._write(-1, b"abcde")
    assert (taken, len(waits)) == ([b"ab", b"cd", b"e"], 2)


def test_a_file_of_proc_that_is_not_there() -> None:
    assert report._first_line("/proc/none") == ""


def test_without_debug_nothing_before_the_verdict(world: World) -> None:
    whole()
    assert world.console() == []


@pytest.mark.parametrize("broken", ["run", "console", "journal", "manager", "all"])
def test_a_report_that_fails_changes_nothing(
    broken: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if broken in ("run", "all"):
        (tmp_path / "run").write_text("a file where the directory belongs")
    if broken in ("console", "all"):
        monkeypatch.setattr(report, "_CONSOLE", str(tmp_path / "none"))
    if broken in ("journal", "all"):
        monkeypatch.setattr(journal, "_JOURNAL", str(tmp_path / "none"))
    if broken in ("manager", "all"):
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert report.verified(whole()) == 0
    assert report.refused(whole(), refusal_of(verdicts.MOUNT_FAILED)) == 71


def test_the_console_itself_lets_nothing_through(world: World) -> None:
    report.console(EVIL)
    (line,) = world.console()
    assert line == "a\\x1b[2J\\r\\nb\\udcff\\u202e"


def test_console_without_a_reader(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "nobody")
    monkeypatch.setattr(report, "_CONSOLE", str(tmp_path / "nobody"))
    report.console("text")


def test_every_console(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc/consoles has them; one that is gone keeps the line from no other."""
    (tmp_path / "ttyS7").touch()
    (tmp_path / "consoles").write_text(
        f"..{tmp_path}/none   -W- (EC p  )    4:1\n..{tmp_path}/console  -W- (E  p a)    4:64\n..{tmp_path}/ttyS7  -W-\n"
    )
    monkeypatch.setattr(report, "_CONSOLES", str(tmp_path / "consoles"))
    report.console("text")
    assert world.console() == ["text"]
    assert (tmp_path / "ttyS7").read_bytes() == b"text\r\n"


def test_a_console_that_is_slow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three bytes at a time, and every other time nothing."""
    write, calls = os.write, []

    def slow(fd: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) % 2:
            raise BlockingIOError
        return write(fd, data[:3])

    monkeypatch.setattr(os, "write", slow)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    report.console("a line")
    assert world.console() == ["a line"]
    report.console("a line that is longer than it will take in that time")
    assert len(calls) == 6 + 10


def details_after(recorder: report.Recorder, refusal: Refusal, world: World) -> list[tuple[str, str]]:
    report.refused(recorder, refusal)
    record = world.record()
    assert schema.errors(record) == []
    found = [(d["name"], d["value"]) for d in record.get("details", ())]
    assert [f"bootseal: {name}: {value}" for name, value in found] == world.console()[2:]
    return found


def trusted(number: int) -> Certificate:
    return certificate("p256")._replace(subject_text=f"CN=trusted {number}")


def test_details_of_a_refusal(world: World) -> None:
    recorder = report.Recorder()
    recorder.keyring(BootKeyring((trusted(1), trusted(2)), ()))
    recorder.verified(verified())
    details = (("image has", "sha256:00"), ("signed is", "sha256:11"))
    found = details_after(recorder, Refusal(verdicts.IMAGE_MISMATCH, "what", "/where", details=details), world)
    assert [name for name, _ in found] == ["image has", "signed is", "signer", "trusted", "trusted"]
    assert found[0][1] == "sha256:00"
    signature = world.record()["signature"]
    assert signature["subject"] in found[2][1]
    assert signature["serial"] in found[2][1]
    assert found[3][1].startswith(f"CN=trusted 1, serial {certificate('p256').serial.hex()}, SHA-256 ")


def test_no_details_where_nothing_was_compared(world: World) -> None:
    recorder = report.Recorder()
    recorder.trusted = (trusted(1),)
    assert details_after(recorder, refusal_of(verdicts.NO_DIGEST), world) == []


@pytest.mark.parametrize(("count", "more"), [(8, 0), (9, 1), (10, 2)])
def test_details_name_few_certificates(count: int, more: int, world: World) -> None:
    recorder = report.Recorder()
    recorder.trusted = tuple(trusted(number) for number in range(count))
    found = details_after(recorder, refusal_of(verdicts.UNTRUSTED_SIGNER), world)
    assert [name for name, _ in found] == ["trusted"] * (8 + bool(more))
    assert [text for _, text in found[8:]] == ([f"and {more} more"] if more else [])


def test_the_record_is_replaced_and_never_half(world: World) -> None:
    world.run.mkdir()
    (world.run / "boot.json").write_text("old")
    inode = (world.run / "boot.json").stat().st_ino
    report.verified(whole())
    assert (world.run / "boot.json").stat().st_ino != inode
    assert os.listdir(world.run) == ["boot.json"]


def test_load(world: World) -> None:
    assert report.load() == {}
    report.verified(whole())
    assert report.load() == world.record()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", '{"version": 2}', '{"verdict": "verified"}', '{"version": "1"}', "\xff"]
)
def test_load_refuses_what_is_no_record(text: str, world: World) -> None:
    world.run.mkdir()
    (world.run / "boot.json").write_bytes(text.encode("latin-1"))
    assert report.load() == {}


ON, OFF = b"\6\0\0\0\1", b"\6\0\0\0\0"


def info(text: str, attributes: bytes = b"\6\0\0\0") -> bytes:
    return attributes + f"{text}\0".encode("utf-16-le")


STUB = info("systemd-stub 257.13-1")
GOOD = {report.SECURE_BOOT: ON, report.SETUP_MODE: OFF, report.STUB_INFO: STUB}
NOBODY = ["initrd", "kernel command line"]
INITRD = ["kernel command line (not known)"]
IMAGE = ["initrd (not known)", "kernel command line (not known)"]


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({}, INITRD),
        ({report.SETUP_MODE: None}, INITRD),
        ({report.SETUP_MODE: ON}, NOBODY),
        ({report.SHIM_INSECURE: OFF}, INITRD),
        ({report.SHIM_INSECURE: ON}, NOBODY),
        ({report.SHIM_INSECURE: b"\7\0\0\0\1"}, NOBODY),
        ({report.SHIM_INSECURE: b"\6\0\0\0"}, NOBODY),
        ({report.SHIM_INSECURE: b"\6\0\0\0\0\1"}, NOBODY),
        ({report.SECURE_BOOT: OFF}, NOBODY),
        ({report.SECURE_BOOT: None}, NOBODY),
        ({report.STUB_INFO: info("systemd-stub 257", b"\7\0\0\0")}, NOBODY),  # lasts: made by a running system
        ({report.STUB_INFO: b"\6\0\0\0"}, NOBODY),
        ({report.STUB_INFO: info("")}, NOBODY),
        ({report.STUB_INFO: b""}, NOBODY),
        ({report.STUB_INFO: None}, NOBODY),
        ({report.STUB_INFO: info("systemd-stub 252.39-1~deb12u2")}, INITRD),
        ({report.STUB_INFO: info("systemd-stub 260")}, INITRD),
        ({report.STUB_INFO: info("systemd-stub 261~devel")}, IMAGE),
        ({report.STUB_INFO: info("systemd-stub 262~rc1-1")}, IMAGE),
        ({report.STUB_INFO: info("systemd-stub 1000")}, IMAGE),
        ({report.STUB_INFO: info("systemd-stub 26")}, IMAGE),
        ({report.STUB_INFO: info("systemd-stub " + "9" * 5000)}, IMAGE),
        ({report.STUB_INFO: info("systemd-stub")}, IMAGE),
        ({report.STUB_INFO: info("another-stub 257")}, IMAGE),
        ({report.STUB_INFO: b"\6\0\0\0s"}, IMAGE),
    ],
    ids=[
        "good", "no-setup-mode", "setup-mode", "shim-validates", "shim", "shim-lasting", "shim-empty", "shim-longer", "off",
        "no-secure-boot", "lasting", "no-value", "no-text", "empty", "no-stub", "252", "260", "261", "262", "1000", "26",
        "huge", "no-version", "another", "odd",
    ],
)  # fmt: skip
def test_who_vouches_for_the_initrd(changes: dict[str, bytes | None], listed: list[str], tmp_path: Path) -> None:
    for name, content in (GOOD | changes).items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    assert report.unauthenticated(str(tmp_path)) == listed


@pytest.mark.parametrize("name", [*GOOD, report.SHIM_INSECURE])
def test_a_variable_that_cannot_be_read_vouches_for_nothing(name: str, tmp_path: Path) -> None:
    for other, content in GOOD.items():
        if other != name:
            (tmp_path / other).write_bytes(content)
    (tmp_path / name).mkdir()
    assert report.unauthenticated(str(tmp_path)) == NOBODY


@pytest.mark.parametrize(
    ("places", "listed"),
    [
        ([], []),
        (["extra/profile", "extra/os-release", "imported/bootseal.service"], []),
        (["extra/credentials"], ["system credentials"]),
        (["extra/global_credentials"], ["system credentials"]),
        (["imported/@system"], ["system credentials"]),
        (["imported/@encrypted"], ["system credentials"]),
        (["extra/sysext"], ["initrd extensions"]),
        (["extra/global_sysext"], ["initrd extensions"]),
        (["extra/confext"], ["initrd extensions"]),
        (["extra/global_confext"], ["initrd extensions"]),
        (["extra/sysext", "extra/credentials", "imported/@encrypted"], ["system credentials", "initrd extensions"]),
    ],
    ids=lambda value: "+".join(value) or "none",
)
def test_what_else_reached_the_initrd(
    places: list[str], listed: list[str], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in places:
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(report, "_EXTRA", str(tmp_path / "extra"))
    monkeypatch.setattr(report, "_IMPORTED", str(tmp_path / "imported"))
    monkeypatch.setattr(report, "unauthenticated", lambda: NOBODY)
    report.verified(whole())
    assert world.record()["not_covered"] == ["/etc", "/var", "/opt -> /var/opt", *NOBODY, *listed]


def test_a_directory_that_cannot_be_read_is_as_good_as_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for name in ("_EXTRA", "_IMPORTED"):
        monkeypatch.setattr(report, name, str(tmp_path / "file"))
    assert report._unauthenticated()[-2:] == ["system credentials", "initrd extensions"]


def test_every_status_is_one_sentence_with_an_end() -> None:
    from bootseal import boot

    source = Path(boot.__file__).read_text()
    statuses = re.findall(r'recorder\.begin\("[a-z]+", f?"([^"]+)"\)', source)
    assert len(statuses) == 6
    assert all(status.endswith("...") for status in statuses)
