# SPDX-License-Identifier: LGPL-2.1-or-later
"""report.py: one verdict everywhere. The console is a FIFO here, journal and service manager are sockets of the test."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootseal import record as records
from bootseal import report, verdicts
from bootseal.errors import Refusal
from bootseal.linux import console as console_devices
from bootseal.linux import journal
from bootseal.record import Noted, Record, Trail
from bootseal.values import Gap, PhysicalRoot
from unit.support import deployment, enrolled, kernel_keys, pinned, request, seen_boot, trusting, verified

EVIL = "a\x1b[2J\r\nb\udcff\u202e"


class World:
    """A fake machine that records every message and its receiver."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = directory / "run"
        console = directory / "console"
        os.mkfifo(console)
        self._console = os.open(console, os.O_RDONLY | os.O_NONBLOCK)
        self._journal, self._manager = (self._socket(directory / name) for name in ("journal", "notify"))
        monkeypatch.setattr(report, "RUN", str(self.run))
        monkeypatch.setattr(report, "PATH", str(self.run / "boot.json"))
        monkeypatch.setattr(console_devices, "CONSOLE", str(console))
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


def refusal_of(verdict: verdicts.Verdict, what: str = "what was wrong", path: str = "/where") -> Refusal:
    return Refusal(verdict, what, path)


def test_progress_tells_each_stage(world: World) -> None:
    seen = report.Progress()
    seen.tell()
    root = PhysicalRoot(5, sealed_before=True)
    for value in (trusting("p256"), kernel_keys(), request(), root, deployment(), verified(), pinned(), enrolled()):
        seen(value)
    told = [state.removeprefix("STATUS=") for state in world.states()]
    words = ["Reading", "Loading", "Preparing", "Waiting", "Looking", "Verifying", "Enrolling", "Mounting"]
    assert [text.split()[0] for text in told] == words
    assert all(text.endswith("...") for text in told)


def test_waiting_extends_the_time_limit(world: World) -> None:
    report.Progress().keep_waiting()
    assert world.states() == ["EXTEND_TIMEOUT_USEC=30000000"]


def test_waiting_after_a_failed_mount_says_so(world: World) -> None:
    """The record is the guard's: it runs when the mount has failed."""
    report.save(Record(verdict="interrupted", message="refused (interrupted): it failed: sysroot.mount"))
    report.Progress().keep_waiting()
    assert world.states()[1:] == [
        "STATUS=Waiting for a mount at /sysroot, after: refused (interrupted): it failed: sysroot.mount"
    ]


def test_debug_tells_the_consoles_what_was_seen(world: World) -> None:
    seen = report.Progress()
    for value in (trusting("p256"), kernel_keys(), request()._replace(debug=True)):
        seen(value)
    (line,) = world.console()
    assert line.startswith("bootseal: debug: wait: {")
    assert json.loads(line.partition("wait: ")[2])["version"] == 1
    report.refuse(seen, refusal_of(verdicts.NO_DEPLOYMENT))
    assert world.console()[0].startswith("bootseal: debug: end: {")


@pytest.mark.parametrize("verdict", [v for v in verdicts.VERDICTS if v is not verdicts.VERIFIED], ids=lambda v: v.name)
def test_a_refusal(verdict: verdicts.Verdict, world: World) -> None:
    assert report.refuse(Trail(), refusal_of(verdict)) == verdict.exit_status != 0
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
    report.refuse(Trail(), Refusal(verdicts.BAD_SIGNATURE, "what", "/where", "do this"))
    assert world.console()[1] == "bootseal: hint: do this"
    assert world.record()["hint"] == "do this"


def test_a_verified_boot_on_console_and_journal(world: World) -> None:
    report.succeed(seen_boot())
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
    assert world.states() == ["STATUS=" + entry["MESSAGE"]]


def test_a_certificate_that_is_not_in_the_kernel_is_said_everywhere(world: World) -> None:
    trail = seen_boot()
    trail(kernel_keys(unloaded={"ab" * 32: 74}))
    report.succeed(trail)
    line = "abababababababab: Bad message (EBADMSG)"
    assert world.record()["keyring"]["not_in_kernel"] == [line]
    assert f"bootseal: note: certificate not in the kernel: {line}" in world.console()
    assert line in world.states()[-1]


def test_what_is_missing_is_said_everywhere(world: World) -> None:
    report.succeed(seen_boot(enrolled=enrolled((Gap("the kernel lacks it", True), Gap("and that", False)))))
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
    report.succeed(seen_boot(skipped=("/etc/bootseal/keys.d/x.pem: why",)))
    note = "certificate skipped: /etc/bootseal/keys.d/x.pem: why"
    assert f"bootseal: note: {note}" in world.console()
    assert note in world.states()[-1]
    assert world.record()["keyring"]["skipped"] == ["/etc/bootseal/keys.d/x.pem: why"]
    assert world.record()["notes"] == [note]


def test_each_note_is_an_entry_of_its_own(world: World) -> None:
    trail = Trail()
    for note in verdicts.NOTES:
        trail(Noted(note, f"about {note.name}"))
    report.refuse(trail, refusal_of(verdicts.IMAGE_MISMATCH))
    assert {e["MESSAGE_ID"]: e["MESSAGE"] for e in world.entries()[2:]} == {
        note.message_id: f"note: about {note.name}" for note in verdicts.NOTES
    }


def test_skipped_certificates_are_said_on_a_refusal(world: World) -> None:
    trail = Trail()
    trail(trusting("p256")._replace(skipped=("x.pem: why",)))
    report.refuse(trail, refusal_of(verdicts.NO_DEPLOYMENT))
    assert world.console()[2:] == ["bootseal: note: certificate skipped: x.pem: why"]


def test_a_digest_that_stood_in_is_said(world: World) -> None:
    report.succeed(seen_boot(stands_in=True))
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
    trail = seen_boot(deployment=evil, enrolled=enrolled((Gap(EVIL, False),)))
    trail(pinned()._replace(path=f"/sysroot/{evil.path}/.ostree.cfs"))
    report.succeed(trail)
    assert all(map(is_printable, world.console()))
    assert all(is_printable(value) for entry in world.entries() for value in entry.values())
    assert all(map(is_printable, world.states()))
    assert [text for text in texts(world.record()) if not is_printable(text)] == []


def test_no_control_character_of_a_refusal_gets_anywhere(world: World) -> None:
    report.refuse(Trail(), Refusal(verdicts.NO_DEPLOYMENT, EVIL, EVIL, EVIL))
    console = world.console()
    assert len(console) == 2
    assert all(map(is_printable, console))
    assert all(map(is_printable, world.states()))
    assert [text for text in texts(world.record()) if not is_printable(text)] == []


def test_again(world: World) -> None:
    report.succeed(seen_boot())
    world.states()
    assert report.repeat() == 0
    assert world.states() == [f"STATUS={world.record()['message']}"]


def test_without_debug_nothing_before_the_verdict(world: World) -> None:
    seen_boot()
    assert world.console() == []


@pytest.mark.parametrize("broken", ["run", "console", "journal", "manager", "all"])
def test_a_report_that_fails_changes_nothing(
    broken: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if broken in ("run", "all"):
        (tmp_path / "run").write_text("a file where the directory belongs")
    if broken in ("console", "all"):
        monkeypatch.setattr(console_devices, "CONSOLE", str(tmp_path / "none"))
    if broken in ("journal", "all"):
        monkeypatch.setattr(journal, "_JOURNAL", str(tmp_path / "none"))
    if broken in ("manager", "all"):
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert report.succeed(seen_boot()) == 0
    assert report.refuse(seen_boot(), refusal_of(verdicts.MOUNT_FAILED)) == 71


def test_the_console_itself_lets_nothing_through(world: World) -> None:
    report.console(EVIL)
    (line,) = world.console()
    assert line == "a\\x1b[2J\\r\\nb\\udcff\\u202e"


def test_the_record_is_replaced_and_never_half(world: World) -> None:
    world.run.mkdir()
    (world.run / "boot.json").write_text("old")
    inode = (world.run / "boot.json").stat().st_ino
    report.succeed(seen_boot())
    assert (world.run / "boot.json").stat().st_ino != inode
    assert os.listdir(world.run) == ["boot.json"]


def test_load(world: World) -> None:
    assert report.load() == Record()
    report.succeed(seen_boot())
    assert records.as_json(report.load()) == world.record()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", '{"version": 2}', '{"verdict": "verified"}', '{"version": "1"}', "\xff"]
)
def test_load_refuses_what_is_no_record(text: str, world: World) -> None:
    world.run.mkdir()
    (world.run / "boot.json").write_bytes(text.encode("latin-1"))
    assert report.load() == Record()


def test_overrule_keeps_what_was_verified(world: World) -> None:
    report.succeed(seen_boot())
    before = world.record()
    assert report.overrule(refusal_of(verdicts.CHANGED)) == verdicts.CHANGED.exit_status
    after = world.record()
    assert (after["verdict"], after["hint"]) == ("changed", verdicts.CHANGED.hint)
    assert after["image"] == before["image"]


def test_machine_without_a_boot_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_BOOT_ID", "/proc/none")
    assert report.this_machine().boot_id == ""


def test_machine_of_this_boot() -> None:
    machine = report.this_machine()
    assert machine.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert machine.kernel == os.uname().release
