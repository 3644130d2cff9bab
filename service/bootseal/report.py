# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell people and programs how a boot ended: STATUS, consoles, journal, /run/bootseal/boot.json, exit status.

This decides nothing. A report that fails neither stops a boot nor lets one pass.
"""

import os

from . import __version__, paths, verdicts
from . import record as records
from .errors import Refusal, printable
from .formats import jsontext
from .linux import console as consoles
from .linux import journal
from .record import Ending, Machine, Noted, Record, Trail
from .values import Request
from .verdicts import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .record import Value

RUN = paths.RUN
PATH = RUN + "/boot.json"
# The journal takes the unit from the sender's cgroup, which may be gone when it reads. systemctl and `journalctl -u` also
# accept what root says about a unit. See systemd.journal-fields(7), OBJECT_SYSTEMD_UNIT=.
_SENDER = {"SYSLOG_IDENTIFIER": "bootseal", "OBJECT_SYSTEMD_UNIT": "bootseal.service"}
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LIMIT = 30  # seconds, as TimeoutStartSec= of bootseal.service
_NOTICE, _WARNING, _CRITICAL = "5", "4", "2"  # sd-daemon(3)
_DOING = {
    "configuration": "Reading the configuration and the boot keyring...",
    "keyring": "Loading and sealing the kernel keyring...",
    "preparation": "Preparing to verify and mount the root...",
    "wait": "Waiting for the physical root file system...",
    "locate": "Looking for the deployment...",
    "verify": "Verifying the composefs digest...",
    "enroll": "Enrolling the digest...",
    "mount": "Mounting the verified root...",
}


class Progress(Trail):
    """A trail that tells systemd which stage runs, and with rd.bootseal.debug the consoles what was seen."""

    _told = ""

    def __call__(self, value: "Value") -> "Value":
        super().__call__(value)
        self.tell()
        return value

    def keep_waiting(self) -> None:
        """Tell systemd that the wait goes on. From the last call on, it allows 30 seconds for the verdict."""
        journal.notify(f"EXTEND_TIMEOUT_USEC={_LIMIT * 1_000_000}")
        if message := load().message:  # that of the guard, if sysroot.mount has failed, or of an earlier start
            journal.notify(f"STATUS=Waiting for a mount at {paths.SYSROOT}, after: {message}")

    def tell(self) -> None:
        """Tell which stage runs, unless that was told already."""
        stage = self.stage()
        if stage and stage != self._told:
            self._told = stage
            journal.notify(f"STATUS={_DOING[stage]}")
            _debug(self, stage)


def _debug(trail: Trail, stage: str) -> None:
    request = trail.last(Request)
    if request and request.debug:
        console(f"bootseal: debug: {stage}: {jsontext.write(records.as_json(records.of(trail)))}")


def this_machine() -> Machine:
    """Name this boot, its kernel and this program. An unreadable boot id is empty."""
    try:
        with open(_BOOT_ID, encoding="utf-8") as file:
            boot_id = file.readline().strip()
    except OSError:
        boot_id = ""
    return Machine(boot_id, os.uname().release, __version__)


def succeed(trail: Trail) -> int:
    """Report a mounted root; return the exit status."""
    return _conclude(trail, records.success(trail))


def refuse(trail: Trail, refusal: Refusal) -> int:
    """Report a refusal; return the exit status."""
    return _conclude(trail, records.refusal(trail, refusal))


def overrule(refusal: Refusal) -> int:
    """Replace the verdict of the record in /run, and report that; return the exit status."""
    record = load()
    if record.verdict is None:  # without a record, at least this boot is known
        record = records.of(Trail(this_machine()))
    details = (*refusal.details, *records.signer(record))
    ending = Ending(refusal.verdict, str(refusal), refusal.hint, details)
    return _publish(records.concluded(record, ending, ()), refusal.verdict, [])


def repeat() -> int:
    """Tell systemd the verdict of an earlier start, which it has forgotten; return the exit status."""
    journal.notify(f"STATUS={load().message}")
    return verdicts.VERIFIED.exit_status


def load() -> Record:
    """Read the record in /run. It is empty if this version cannot read one."""
    try:
        with open(PATH, encoding="utf-8") as file:
            import json  # only where an earlier start has left a record

            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return Record()
    known = isinstance(content, dict) and content.get("version") == records.VERSION
    record = records.parse(content) if known else Record()
    return record if record.verdict is not None else Record()


def save(record: Record) -> None:
    """Replace /run/bootseal/boot.json, if that is possible."""
    temporary = PATH + ".new"
    try:
        os.makedirs(RUN, mode=0o755, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            members = records.as_json(record).items()
            text = ",\n".join(f"  {jsontext.write(name)}: {jsontext.write(value)}" for name, value in members)
            file.write(f"{{\n{text}\n}}\n")
        os.replace(temporary, PATH)
    except OSError:
        pass


def console(line: str) -> None:
    """Write one line to every console, as far as each takes it."""
    for path in consoles.devices():
        try:
            consoles.write(path, printable(line).encode() + b"\r\n")
        except OSError:
            pass


def _conclude(trail: Trail, ending: Ending) -> int:
    _debug(trail, "end")
    return _publish(records.of(trail, ending), ending.verdict, records.notes(trail))


def _publish(record: Record, verdict: Verdict, noted: list[Noted]) -> int:
    """Publish a record: the verdict's line first, the notes last; return the exit status."""
    save(record)
    message, is_verified = record.message or "", verdict is verdicts.VERIFIED
    lines = [f"hint: {record.hint}"] if record.hint else []
    lines += [f"{detail.name}: {detail.value}" for detail in record.details or ()]
    notes = [(f"note: {one.text}", one.note.message_id) for one in noted]
    for line in (message, *lines, *(text for text, _ in notes)):
        console(f"bootseal: {line}")
    journal.send(_fields(verdict, record))
    for line, message_id in (*((line, "") for line in lines), *notes):
        fields = {"MESSAGE": line, "PRIORITY": _WARNING, **_SENDER}
        journal.send(fields | ({"MESSAGE_ID": message_id} if message_id else {}))
    journal.notify(f"STATUS={'; '.join([message, *(one.text for one in noted)]) if is_verified else message}")
    return verdict.exit_status


def _fields(verdict: Verdict, record: Record) -> dict[str, str]:
    fields = {
        "MESSAGE": record.message or "",
        "MESSAGE_ID": verdict.message_id,
        "PRIORITY": _NOTICE if verdict is verdicts.VERIFIED else _CRITICAL,
        **_SENDER,
        "BOOTSEAL_VERDICT": verdict.name,
        "BOOTSEAL_HINT": record.hint or "",
        "BOOTSEAL_IMAGE": record.image.name if record.image else "",
        "BOOTSEAL_DEPLOYMENT": record.deployment.path if record.deployment else "",
        "BOOTSEAL_DIGEST": record.image.text if record.image else "",
        "BOOTSEAL_SIGNER": record.signature.subject if record.signature else "",
        "BOOTSEAL_ENROLL": record.enrollment.method if record.enrollment else "",
    }
    return {name: value for name, value in fields.items() if value}
