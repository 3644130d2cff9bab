# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 8: what happened, in one verdict: STATUS, console, journal, /run/bootseal/boot.json, exit status. Decides nothing.

A failure to report is never a reason to boot or not to boot.
"""

import json
import os
import time
from contextlib import suppress
from typing import Any

from . import __version__, messages
from .errors import Refusal, printable, reason
from .linux import files, journal
from .messages import Note, Verdict
from .values import Candidate, Certificate, Deployment, Enrolled, KernelKeys, Mounted, Pinned, Verified

RUN = "/run/bootseal"
PATH = RUN + "/boot.json"
VERSION = 1
_CONSOLES = "/proc/consoles"
_CONSOLE = "/dev/console"
_TRIES = 10
_NAMED = 8  # certificates; a console has few lines
# The journal learns the unit from the sender's cgroup, which is gone if it comes to read only after our end; systemctl and
# `journalctl -u` take what root says of a unit as well. See systemd.journal-fields(7), OBJECT_SYSTEMD_UNIT=.
_SENDER = {"SYSLOG_IDENTIFIER": "bootseal", "OBJECT_SYSTEMD_UNIT": "bootseal.service"}
_PRIORITY = {True: "5", False: "2"}  # notice, critical: sd-daemon(3)
EFI_VARIABLES = "/sys/firmware/efi/efivars"
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
STUB_INFO = "StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_EFI_VARIABLE_NON_VOLATILE = 0x1  # in the attributes, 4 bytes, little endian, before the value; see efivarfs in the kernel

Record = dict[str, Any]


class Recorder:
    """Collects the record of this boot as the stages hand on their values; absent means unknown."""

    def __init__(self) -> None:
        self.record: Record = {
            "version": VERSION,
            "boot_id": _first_line("/proc/sys/kernel/random/boot_id"),
            "kernel": os.uname().release,
            "bootseal": __version__,
            "milliseconds": {},
        }
        self.noted: list[tuple[Note, str]] = []
        self.trusted: tuple[Certificate, ...] = ()
        self.debug = False
        self._stage, self._since = "", time.monotonic()

    def begin(self, stage: str, status: str) -> None:
        """Ends the time of the stage before, and tells systemd what is being done now."""
        now = time.monotonic()
        if self._stage:
            self.record["milliseconds"][self._stage] = round((now - self._since) * 1000, 1)
        self._stage, self._since = stage, now
        journal.notify(f"STATUS={printable(status)}")
        if self.debug:
            console(f"bootseal: debug: {stage or 'end'}: {json.dumps(self.record, sort_keys=True)}")

    def note(self, note: Note, text: str) -> None:
        self.noted.append((note, text))

    @property
    def notes(self) -> list[str]:
        return [text for _, text in self.noted]

    def keyring(self, count: int, skipped: tuple[str, ...]) -> None:
        self.record["keyring"] = {"certificates": count, "skipped": list(skipped)}
        self.noted += [(messages.CERTIFICATE_SKIPPED, f"certificate skipped: {line}") for line in skipped]

    def kernel_keys(self, keys: KernelKeys) -> None:
        self.record["keyring"]["sealed"] = keys.sealed
        lines = [f"{sha256[:16]}: {reason(OSError(number, ''))}" for sha256, number in keys.unloaded.items()]
        self.record["keyring"]["not_in_kernel"] = lines
        self.noted += [(messages.NOT_IN_KERNEL, f"certificate not in the kernel: {line}") for line in lines]

    def deployment(self, found: Deployment) -> None:
        names = ("layout", "stateroot", "checksum", "serial", "path")
        self.record["deployment"] = {name: _clean(getattr(found, name)) for name in names}

    def candidate(self, candidate: Candidate) -> None:
        if candidate.stands_in:
            text = "the digest file cannot be opened (enrolled with a key that is gone): the image's digest was verified"
            self.note(messages.DIGEST_STANDS_IN, text)

    def verified(self, verified: Verified) -> None:
        certificate = verified.signer.certificate
        self.record["signature"] = {
            "subject": certificate.subject_text,
            "issuer": certificate.issuer_text,
            "serial": certificate.serial.hex(),
            "certificate_sha256": certificate.sha256,
            "algorithm": verified.signer.algorithm,
            "not_before": certificate.not_before,
            "not_after": certificate.not_after,
        }

    def pinned(self, pinned: Pinned) -> None:
        digest = pinned.verified.digest
        self.record["image"] = {
            "path": printable(pinned.path),
            "algorithm": digest.algorithm,
            "digest": digest.value.hex(),
            "size": pinned.size,
        }

    def enrolled(self, enrolled: Enrolled) -> None:
        missing = [printable(m.what) for m in enrolled.missing]
        self.record["enrollment"] = {
            "method": enrolled.method,
            "kernel_checked": enrolled.kernel_checked,
            "first_boot": enrolled.first_boot,
            "missing": missing,
        }
        if enrolled.bytes_written is not None:
            self.record["enrollment"]["bytes_written"] = enrolled.bytes_written
        self.noted += [(messages.ENROLLING_INCOMPLETE, f"enrolling incomplete: {text}") for text in missing]

    def mounted(self, mounted: Mounted) -> None:
        self.record["mount"] = {"options": mounted.options}
        self.record["not_covered"] = [*mounted.not_covered, *_unauthenticated()]

    def end(self, verdict: Verdict, message: str, hint: str) -> Record:
        self.begin("", message)
        self.record |= {"verdict": verdict.name, "message": message}
        if hint:
            self.record["hint"] = hint
        if self.noted:
            self.record["notes"] = self.notes
        return self.record

    def details(self, refusal: Refusal) -> None:
        """What was compared with what; and who signed and who is trusted, where that is what it was about."""
        found = list(refusal.details)
        if signature := self.record.get("signature"):
            found.append(("signer", f"{signature['subject']}, serial {signature['serial']}"))
        if refusal.verdict in (messages.UNTRUSTED_SIGNER, messages.WRONG_SIGNATURE, messages.IMAGE_MISMATCH):
            found += [
                ("trusted", f"{c.subject_text}, serial {c.serial.hex()}, SHA-256 {c.sha256[:16]}, until {c.not_after[:10]}")
                for c in self.trusted[:_NAMED]
            ]
            found += [("trusted", f"and {len(self.trusted) - _NAMED} more")] if len(self.trusted) > _NAMED else []
        if found:
            self.record["details"] = [{"name": name, "value": value} for name, value in found]


def verified(recorder: Recorder) -> int:
    """Reports a mounted root; returns the exit status."""
    record = recorder.end(messages.VERIFIED, _verified_line(recorder.record), "")
    status = "; ".join([record["message"], *recorder.notes])
    return _publish(messages.VERIFIED, recorder, [record["message"]], status)


def again() -> int:
    """The verdict of an earlier start stands; systemd has forgotten its STATUS. Returns the exit status."""
    journal.notify(f"STATUS={load()['message']}")
    return messages.VERIFIED.exit_status


def refused(recorder: Recorder, refusal: Refusal) -> int:
    """Reports a refusal; returns the exit status."""
    record = recorder.end(refusal.verdict, str(refusal), refusal.hint)
    recorder.details(refusal)
    lines = [str(refusal), f"hint: {refusal.hint}"]
    lines += [f"{detail['name']}: {detail['value']}" for detail in record.get("details", ())]
    return _publish(refusal.verdict, recorder, lines, str(refusal))


def load() -> Record:
    """The record as it stands in /run; empty when there is none that can be read. Each one that we write has a verdict."""
    try:
        with open(PATH, encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(record, dict) and record.get("version") == VERSION and isinstance(record.get("verdict"), str)
    return record if known else {}


def console(line: str) -> None:
    """One line on every console, the serial ones too, whatever becomes of it."""
    for path in _consoles():
        with suppress(OSError):
            fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _write(fd, printable(line).encode() + b"\r\n")
            finally:
                os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """A slow serial line gets a moment for what does not fit into its buffer; one that takes nothing holds up no boot."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            data = data[os.write(fd, data) :]
            if not data:
                return
        time.sleep(0.02)


def _consoles() -> list[str]:
    """The devices behind /dev/console, which itself is only the last of them; see proc(5)."""
    try:
        found = [f"/dev/{line.split()[0]}" for line in files.read_lines(_CONSOLES) if line.strip()]
    except OSError:
        found = []
    return [path for path in found if os.path.exists(path)] or [_CONSOLE]


def _publish(verdict: Verdict, recorder: Recorder, lines: list[str], status: str) -> int:
    """The first line is the verdict's; the notes come last."""
    _save(recorder.record)
    noted = [(f"note: {text}", note.message_id) for note, text in recorder.noted]
    for line in [*lines, *(text for text, _ in noted)]:
        console(f"bootseal: {line}")
    journal.send(_fields(verdict, recorder.record))
    for line, message_id in [*((line, "") for line in lines[1:]), *noted]:
        fields = {"MESSAGE": line, "PRIORITY": "4", **_SENDER}
        journal.send(fields | ({"MESSAGE_ID": message_id} if message_id else {}))
    journal.notify(f"STATUS={status}")
    return verdict.exit_status


def _fields(verdict: Verdict, record: Record) -> dict[str, str]:
    deployment, image = record.get("deployment", {}), record.get("image", {})
    fields = {
        "MESSAGE": record["message"],
        "MESSAGE_ID": verdict.message_id,
        "PRIORITY": _PRIORITY[verdict is messages.VERIFIED],
        **_SENDER,
        "BOOTSEAL_VERDICT": verdict.name,
        "BOOTSEAL_HINT": record.get("hint", ""),
        "BOOTSEAL_DEPLOYMENT": deployment.get("path", ""),
        "BOOTSEAL_DIGEST": f"{image['algorithm']}:{image['digest']}" if image else "",
        "BOOTSEAL_SIGNER": record.get("signature", {}).get("subject", ""),
        "BOOTSEAL_ENROLL": record.get("enrollment", {}).get("method", ""),
    }
    return {key: value for key, value in fields.items() if value}


def _verified_line(record: Record) -> str:
    deployment, image = record["deployment"], record["image"]
    name = f"{deployment['stateroot']}/{deployment['checksum'][:12]}.{deployment['serial']}"
    return (
        f"verified {name} {image['algorithm']}:{image['digest'][:12]}, signed by {record['signature']['subject']}, "
        f"{_how(record['enrollment'])}; not covered: {', '.join(record['not_covered'])}"
    )


def _how(enrollment: Record) -> str:
    words = ["checked by the kernel" if enrollment["kernel_checked"] else "checked by userspace alone"]
    words += [f"method {enrollment['method']}"]
    words += ["first boot"] if enrollment["first_boot"] else []
    words += ["enrolling incomplete"] if enrollment["missing"] else []
    return ", ".join(words)


def secure_boot(variables: str = EFI_VARIABLES) -> bool:
    """Whether the firmware says that Secure Boot is on. Raises OSError."""
    return _variable(f"{variables}/{SECURE_BOOT}")[4:] == b"\1"


def unified(variables: str = EFI_VARIABLES) -> bool:
    """Whether systemd-stub(7) says that it started this kernel, from one file with initrd and command line. Raises OSError.

    It says so for one boot. A variable that lasts was made by a running system, and proves nothing.
    """
    data = _variable(f"{variables}/{STUB_INFO}")
    return len(data) > 4 and not data[0] & _EFI_VARIABLE_NON_VOLATILE


def _variable(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _unauthenticated() -> list[str]:
    """Without Secure Boot and a unified kernel image nobody vouches for initrd and command line, as far as we can tell."""
    with suppress(OSError):
        if secure_boot() and unified():
            return []
    return ["initrd", "kernel command line"]


def _save(record: Record) -> None:
    temporary = PATH + ".new"
    with suppress(OSError):
        os.makedirs(RUN, mode=0o755, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            # One member a line: json's own indentation is not done by its fast encoder.
            members = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
            file.write(f"{{\n{members}\n}}\n")
        os.replace(temporary, PATH)


def _clean(value: str | int) -> str | int:
    return printable(value) if isinstance(value, str) else value


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except OSError:
        return ""
