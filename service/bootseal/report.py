# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 8: what happened, in one verdict: STATUS, console, journal, /run/bootseal/boot.json, exit status. Decides nothing.

A failure to report is never a reason to boot or not to boot.
"""

import json
import os
import time
from contextlib import suppress
from typing import Any

from . import __version__, verdicts
from .errors import Refusal, printable, reason
from .linux import files, journal
from .values import BootKeyring, Certificate, Deployment, Enrolled, KernelKeys, Mounted, Pinned, Unverified, Verified
from .verdicts import Note, Verdict

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
SETUP_MODE = "SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM_INSECURE = "MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"  # as 'mokutil --disable-validation' has it
STUB_INFO = "StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_EFI_VARIABLE_NON_VOLATILE = 0x1  # in the attributes, 4 bytes, little endian, before the value; see efivarfs in the kernel

_STUB, _COMBINES = "systemd-stub", "261"  # since which version it adds its initrd to one that the boot loader has set
NOT_KNOWN = " (not known)"  # behind what somebody may vouch for
CREDENTIALS, EXTENSIONS = "system credentials", "initrd extensions"
# What systemd-stub(7) takes from the ESP; what systemd(1) imported from there, SMBIOS, fw_cfg and the command line.
_EXTRA = "/.extra"
_IMPORTED = "/run/credentials"
_EXTENSIONS = {"sysext", "global_sysext", "confext", "global_confext"}
_CREDENTIALS = {"credentials", "global_credentials"}

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

    def keyring(self, keyring: BootKeyring) -> None:
        self.trusted = keyring.certificates
        self.record["keyring"] = {
            "certificates": len(keyring.certificates),
            "trusted": [{"subject": c.subject_text, "sha256": c.sha256} for c in keyring.certificates],
            "skipped": list(keyring.skipped),
        }
        self.noted += [(verdicts.CERTIFICATE_SKIPPED, f"certificate skipped: {line}") for line in keyring.skipped]

    def kernel_keys(self, keys: KernelKeys) -> None:
        self.record["keyring"]["sealed"] = keys.sealed
        lines = [f"{sha256[:16]}: {reason(OSError(number, ''))}" for sha256, number in keys.unloaded.items()]
        self.record["keyring"]["not_in_kernel"] = lines
        self.noted += [(verdicts.NOT_IN_KERNEL, f"certificate not in the kernel: {line}") for line in lines]

    def deployment(self, found: Deployment) -> None:
        names = ("layout", "stateroot", "checksum", "serial", "path")
        self.record["deployment"] = {name: _clean(getattr(found, name)) for name in names}

    def candidate(self, candidate: Unverified) -> None:
        if candidate.stands_in:
            text = "the digest file cannot be opened (enrolled with a key that is gone): the image's digest was verified"
            self.note(verdicts.DIGEST_STANDS_IN, text)

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
        missing = [printable(m.what) for m in enrolled.gaps]
        self.record["enrollment"] = {
            "method": enrolled.method,
            "kernel_checked": enrolled.kernel_checked,
            "first_boot": enrolled.first_boot,
            "missing": missing,
        }
        if enrolled.bytes_written is not None:
            self.record["enrollment"]["bytes_written"] = enrolled.bytes_written
        self.noted += [(verdicts.ENROLLING_INCOMPLETE, f"enrolling incomplete: {text}") for text in missing]

    def mounted(self, mounted: Mounted) -> None:
        self.record["mount"] = {"options": mounted.options}
        self.record["image"] |= {name: value for name, value in mounted.release._asdict().items() if value}
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
        if refusal.verdict in (verdicts.UNTRUSTED_SIGNER, verdicts.WRONG_SIGNATURE, verdicts.IMAGE_MISMATCH):
            found += [
                ("trusted", f"{c.subject_text}, serial {c.serial.hex()}, SHA-256 {c.sha256[:16]}, until {c.not_after[:10]}")
                for c in self.trusted[:_NAMED]
            ]
            found += [("trusted", f"and {len(self.trusted) - _NAMED} more")] if len(self.trusted) > _NAMED else []
        if found:
            self.record["details"] = [{"name": name, "value": value} for name, value in found]


def resumed() -> Recorder:
    """A recorder that goes on with the record in /run."""
    recorder = Recorder()
    recorder.record |= load()
    return recorder


def verified(recorder: Recorder) -> int:
    """Reports a mounted root; returns the exit status."""
    record = recorder.end(verdicts.VERIFIED, _verified_line(recorder.record), "")
    status = "; ".join([record["message"], *recorder.notes])
    return _publish(verdicts.VERIFIED, recorder, [record["message"]], status)


def again() -> int:
    """The verdict of an earlier start stands; systemd has forgotten its STATUS. Returns the exit status."""
    journal.notify(f"STATUS={load()['message']}")
    return verdicts.VERIFIED.exit_status


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
        "PRIORITY": _PRIORITY[verdict is verdicts.VERIFIED],
        **_SENDER,
        "BOOTSEAL_VERDICT": verdict.name,
        "BOOTSEAL_HINT": record.get("hint", ""),
        "BOOTSEAL_IMAGE": image_name(record),
        "BOOTSEAL_DEPLOYMENT": deployment.get("path", ""),
        "BOOTSEAL_DIGEST": f"{image['algorithm']}:{image['digest']}" if image else "",
        "BOOTSEAL_SIGNER": record.get("signature", {}).get("subject", ""),
        "BOOTSEAL_ENROLL": record.get("enrollment", {}).get("method", ""),
    }
    return {key: value for key, value in fields.items() if value}


def _verified_line(record: Record) -> str:
    """The signature covers what comes first. The disk's own names follow, and cannot pass for it."""
    deployment = record["deployment"]
    name = f"{deployment['stateroot']}/{deployment['checksum'][:12]}.{deployment['serial']}"
    return (
        f"verified {identity(record)} (deployment {name}, as the disk names it), signed by {record['signature']['subject']}, "
        f"{_how(record['enrollment'])}; not covered: {', '.join(record['not_covered'])}"
    )


def identity(record: Record) -> str:
    """Which image it is: what the signature covers, with a digest that is long enough for people."""
    image = record["image"]
    return f"{image_name(record)} {image['algorithm']}:{image['digest'][:12]}".strip()


def image_name(record: Record) -> str:
    """Name and version, as far as the image's own os-release has them."""
    image = record.get("image", {})
    return " ".join(image[member] for member in ("id", "version") if member in image)


def _how(enrollment: Record) -> str:
    words = ["checked by the kernel" if enrollment["kernel_checked"] else "checked by userspace alone"]
    words += [f"method {enrollment['method']}"]
    words += ["first boot"] if enrollment["first_boot"] else []
    words += ["enrolling incomplete"] if enrollment["missing"] else []
    return ", ".join(words)


def secure_boot(variables: str = EFI_VARIABLES) -> bool:
    """Tell whether Secure Boot is on and enforced: no setup mode, and shim validates. Raises OSError."""
    on = _variable(f"{variables}/{SECURE_BOOT}")[4:] == b"\1"
    return on and not _is_set(f"{variables}/{SETUP_MODE}") and not shim_insecure(variables)


def shim_insecure(variables: str = EFI_VARIABLES) -> bool:
    """Tell whether shim says that it validates nothing. Raises OSError."""
    return _is_set(f"{variables}/{SHIM_INSECURE}")


def unified(variables: str = EFI_VARIABLES) -> str:
    """What systemd-stub(7) says that started this kernel, from one file with the initrd; empty if none. Raises OSError.

    It says so for one boot. A variable that lasts was made by a running system, and proves nothing.
    """
    data = _variable(f"{variables}/{STUB_INFO}")
    if int.from_bytes(data[:4], "little") & _EFI_VARIABLE_NON_VOLATILE:
        return ""
    return data[4::2].decode("latin-1").rstrip("\0")  # it is UTF-16, whose codec is not in an initrd


def unauthenticated(variables: str = EFI_VARIABLES) -> list[str]:
    """Name what of initrd and command line Secure Boot does not vouch for, as far as we can tell.

    No variable tells whether the unified kernel image has a command line: without one, the boot loader's is taken.
    """
    with suppress(OSError):
        if secure_boot(variables) and (stub := unified(variables)):
            initrd = [] if _initrd_alone(stub) else ["initrd" + NOT_KNOWN]
            return [*initrd, "kernel command line" + NOT_KNOWN]
    return ["initrd", "kernel command line"]


def _initrd_alone(stub: str) -> bool:
    """Tell whether the stub takes no initrd of the boot loader's beside its own: systemd's, before version 261."""
    name, _, version = stub.partition(" ")
    number = version[: len(version) - len(version.lstrip("0123456789"))]
    return name == _STUB and len(number) == len(_COMBINES) and number < _COMBINES


def _is_set(path: str) -> bool:
    """Tell whether a variable is there with another value than 0. Raises OSError."""
    try:
        return _variable(path)[4:] != b"\0"
    except FileNotFoundError:
        return False


def _variable(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def credentials_imported() -> bool:
    """Tell whether systemd(1) imported credentials from outside the initrd."""
    return not _listed(_IMPORTED).isdisjoint({"@system", "@encrypted"})


def _unauthenticated() -> list[str]:
    """Name what reached this initrd without anybody vouching for it, as far as we can tell."""
    extra = _listed(_EXTRA)
    found = [CREDENTIALS] if credentials_imported() or not extra.isdisjoint(_CREDENTIALS) else []
    found += [EXTENSIONS] if not extra.isdisjoint(_EXTENSIONS) else []
    return [*unauthenticated(), *found]


def _listed(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()
    except OSError:  # as good as there
        return {"@system", *_CREDENTIALS, *_EXTENSIONS}


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
