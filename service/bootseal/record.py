# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record of a boot: made from the values that the boot has seen, written as boot.json, and read back.

Everything here is pure. bootseal.json(5) documents the members. An absent member means that its value is unknown.
"""

import time

from . import verdicts
from .errors import Refusal, printable, reason
from .namedtuple import NamedTuple
from .values import (
    BootKeyring,
    Deployment,
    Enrolled,
    KernelKeys,
    Mounted,
    Origin,
    PhysicalRoot,
    Pinned,
    Request,
    Unverified,
    Verified,
)
from .verdicts import Note, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    Value = TypeVar("Value")

VERSION = 1
# The stages by their names in `milliseconds`, and the value that ends each.
STAGES: tuple[tuple[str, type], ...] = (
    ("configuration", BootKeyring), ("keyring", KernelKeys), ("preparation", Request), ("wait", PhysicalRoot),
    ("locate", Deployment), ("verify", Pinned), ("enroll", Enrolled), ("mount", Mounted),
)  # fmt: skip
_NAMED = 8  # certificates; a console has few lines
_ABOUT_SIGNERS = (verdicts.UNTRUSTED_SIGNER, verdicts.WRONG_SIGNATURE, verdicts.IMAGE_MISMATCH)


class Machine(NamedTuple):
    """This boot, its kernel, and the version of bootseal."""

    boot_id: str
    kernel: str
    bootseal: str


class Noted(NamedTuple):
    """Something that went wrong and does not change the verdict."""

    note: Note
    text: str


class Ending(NamedTuple):
    """The verdict of a boot. `details` has the compared values."""

    verdict: Verdict
    message: str
    hint: str = ""
    details: tuple[tuple[str, str], ...] = ()


class Step(NamedTuple):
    """A value, and the monotonic time in seconds when it was seen."""

    when: float
    value: object


class Trail:
    """The values that a boot has seen so far, in order. Calling it remembers a value and hands it on.

    `timed` is False for a process that comes after the boot, and runs none of its stages.
    """

    def __init__(self, *values: object, timed: bool = True) -> None:
        self.began, self.timed = time.monotonic(), timed
        self.steps = [Step(self.began, value) for value in values]

    def __call__(self, value: "Value") -> "Value":
        self.steps.append(Step(time.monotonic(), value))
        return value

    def last(self, kind: "type[Value]") -> "Value | None":
        """Return the value of a type that was seen last."""
        return next((step.value for step in reversed(self.steps) if isinstance(step.value, kind)), None)

    def stage(self) -> str:
        """Name the stage that is running; empty after the last."""
        return next((name for name, ends in STAGES if self.last(ends) is None), "")


# --- the record, in the order of boot.json


class TrustedKey(NamedTuple):
    subject: str
    sha256: str


class Keyring(NamedTuple):
    """`sealed` and `not_in_kernel` are unknown until the kernel has the keys."""

    certificates: int
    trusted: tuple[TrustedKey, ...] | None
    skipped: tuple[str, ...]
    sealed: bool | None = None
    not_in_kernel: tuple[str, ...] | None = None
    sealed_before_mount: bool | None = None


class Place(NamedTuple):
    """The deployment, as the disk names it. `stateroot` and `serial` are ostree's."""

    layout: str
    stateroot: str | None
    checksum: str
    serial: int | None
    path: str

    @property
    def name(self) -> str:
        """Return 'STATEROOT/CHECKSUM.SERIAL', or the checksum alone: twelve digits of it."""
        stateroot = "" if self.stateroot is None else f"{self.stateroot}/"
        serial = "" if self.serial is None else f".{self.serial}"
        return f"{stateroot}{self.checksum[:12]}{serial}"


class Image(NamedTuple):
    """`id` and `version` are those of the verified root's own os-release."""

    path: str
    algorithm: str
    digest: str
    size: int
    id: str | None = None
    version: str | None = None

    @property
    def text(self) -> str:
        """Return the digest as 'ALGORITHM:HEX'."""
        return f"{self.algorithm}:{self.digest}"

    @property
    def name(self) -> str:
        """Return name and version, as far as they are known."""
        return " ".join(part for part in (self.id, self.version) if part)


class Signature(NamedTuple):
    subject: str
    issuer: str
    serial: str
    certificate_sha256: str
    algorithm: str
    not_before: str
    not_after: str
    form: str | None = None


class Enrollment(NamedTuple):
    method: str
    kernel_checked: bool
    first_boot: bool
    missing: tuple[str, ...]
    bytes_written: int | None = None


class Mount(NamedTuple):
    options: str


class Detail(NamedTuple):
    name: str
    value: str


class Record(NamedTuple):
    """One boot, in the order of boot.json."""

    boot_id: str | None = None
    kernel: str | None = None
    bootseal: str | None = None
    milliseconds: dict[str, float] | None = None
    keyring: Keyring | None = None
    deployment: Place | None = None
    image: Image | None = None
    signature: Signature | None = None
    enrollment: Enrollment | None = None
    mount: Mount | None = None
    not_covered: tuple[str, ...] | None = None
    verdict: str | None = None
    message: str | None = None
    hint: str | None = None
    notes: tuple[str, ...] | None = None
    details: tuple[Detail, ...] | None = None

    @property
    def is_verified(self) -> bool:
        """Tell whether the verdict is `verified`."""
        return self.verdict == verdicts.VERIFIED.name

    @property
    def identity(self) -> str:
        """Name what the signature covers: the image, and enough of its digest for people."""
        return f"{self.image.name} {self.image.algorithm}:{self.image.digest[:12]}".strip() if self.image else ""


# --- values seen -> Record


def of(trail: Trail, ending: Ending | None = None) -> Record:
    """Return the record of what was seen so far, or of a boot that ended so."""
    machine, mounted = trail.last(Machine), trail.last(Mounted)
    made = Record(
        boot_id=machine.boot_id if machine else None,
        kernel=machine.kernel if machine else None,
        bootseal=machine.bootseal if machine else None,
        milliseconds=_measure_stages(trail, ended=ending is not None and trail.timed) if machine else None,
        keyring=_keyring(trail),
        deployment=_deployment(trail.last(Deployment)),
        image=_image(trail.last(Pinned), mounted),
        signature=_signature(trail.last(Verified)),
        enrollment=_enrollment(trail.last(Enrolled)),
        mount=Mount(mounted.options) if mounted else None,
        not_covered=_not_covered(mounted, trail.last(Origin)),
    )
    return concluded(made, ending, notes(trail)) if ending else made


def concluded(record: Record, ending: Ending, noted: "Iterable[Noted]") -> Record:
    """Return the record with a verdict, which replaces an earlier one."""
    texts = tuple(one.text for one in noted)
    return Record(
        **{
            **record._asdict(),
            "verdict": ending.verdict.name,
            "message": ending.message,
            "hint": ending.hint or None,
            "notes": texts or record.notes,
            "details": tuple(Detail(*pair) for pair in ending.details) or None,
        }
    )


def refusal(trail: Trail, refused: Refusal) -> Ending:
    """Return how a boot ends with a Refusal: with who signed, and who is trusted where that decided."""
    details, record = list(refused.details), of(trail)
    details += signer(record)
    keyring = trail.last(BootKeyring)
    if keyring and refused.verdict in _ABOUT_SIGNERS:
        details += [
            ("trusted", f"{c.subject_text}, serial {c.serial.hex()}, SHA-256 {c.sha256[:16]}, until {c.not_after[:10]}")
            for c in keyring.certificates[:_NAMED]
        ]
        more = len(keyring.certificates) - _NAMED
        details += [("trusted", f"and {more} more")] if more > 0 else []
    return Ending(refused.verdict, str(refused), refused.hint, tuple(details))


def signer(record: Record) -> list[tuple[str, str]]:
    """Return the detail that names the signer, if the signature was verified."""
    found = record.signature
    return [("signer", f"{found.subject}, serial {found.serial}")] if found else []


def success(trail: Trail) -> Ending:
    """Return how a verified boot ends. The signature covers the names that come first; the disk chose the others."""
    record, message = of(trail), ""
    if record.deployment and record.signature and record.enrollment and record.not_covered is not None:
        message = (
            f"verified {record.identity} (deployment {record.deployment.name}, as the disk names it), "
            f"signed by {record.signature.subject}, {_describe_check(record.enrollment)}; "
            f"not covered: {', '.join(record.not_covered) or 'nothing known'}"
        )
    return Ending(verdicts.VERIFIED, message)


def notes(trail: Trail) -> list[Noted]:
    """Return the notes: failures that did not refuse the boot."""
    return [note for step in trail.steps for note in _note(step.value)]


def _note(value: object) -> "Iterator[Noted]":
    if isinstance(value, BootKeyring):
        yield from (Noted(verdicts.CERTIFICATE_SKIPPED, f"certificate skipped: {line}") for line in value.skipped)
    elif isinstance(value, KernelKeys):
        yield from (Noted(verdicts.NOT_IN_KERNEL, f"certificate not in the kernel: {line}") for line in _unloaded(value))
    elif isinstance(value, Unverified) and value.stands_in:
        text = "the digest file cannot be opened (enrolled with a key that is gone): the image's digest was verified"
        yield Noted(verdicts.DIGEST_STANDS_IN, text)
    elif isinstance(value, Enrolled):
        for gap in value.gaps:
            yield Noted(verdicts.ENROLLING_INCOMPLETE, f"enrolling incomplete: {printable(gap.what)}")
    elif isinstance(value, Noted):
        yield value


def _measure_stages(trail: Trail, *, ended: bool) -> dict[str, float]:
    """Return the time of each stage; that of the running one up to now if the boot has ended."""
    times, since = {}, trail.began
    for name, ends in STAGES:
        step = next((step for step in trail.steps if isinstance(step.value, ends)), None)
        if step is None and not ended:
            break
        until = step.when if step else time.monotonic()
        times[name] = round((until - since) * 1000, 1)
        since = until
        if step is None:
            break
    return times


def _keyring(trail: Trail) -> Keyring | None:
    keyring, kernel, root = trail.last(BootKeyring), trail.last(KernelKeys), trail.last(PhysicalRoot)
    if keyring is None:
        return None
    trusted = tuple(TrustedKey(c.subject_text, c.sha256) for c in keyring.certificates)
    if kernel is None:
        return Keyring(len(trusted), trusted, keyring.skipped)
    before = kernel.sealed and root.sealed_before if root else None
    return Keyring(len(trusted), trusted, keyring.skipped, kernel.sealed, _unloaded(kernel), before)


def _unloaded(keys: KernelKeys) -> tuple[str, ...]:
    return tuple(f"{sha256[:16]}: {reason(OSError(number, ''))}" for sha256, number in keys.unloaded.items())


def _deployment(seen: Deployment | None) -> Place | None:
    if seen is None:
        return None
    stateroot = printable(seen.stateroot) or None
    return Place(seen.layout, stateroot, printable(seen.checksum), seen.serial, printable(seen.path))


def _image(pinned: Pinned | None, mounted: Mounted | None) -> Image | None:
    if pinned is None:
        return None
    digest = pinned.verified.digest
    identity = (mounted.release.id or None, mounted.release.version or None) if mounted else ()
    return Image(printable(pinned.path), digest.algorithm, digest.value.hex(), pinned.size, *identity)


def _signature(verified: Verified | None) -> Signature | None:
    if verified is None:
        return None
    certificate = verified.signer.certificate
    return Signature(
        subject=certificate.subject_text,
        issuer=certificate.issuer_text,
        serial=certificate.serial.hex(),
        certificate_sha256=certificate.sha256,
        algorithm=verified.signer.algorithm,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        form=verified.form,
    )


def _enrollment(enrolled: Enrolled | None) -> Enrollment | None:
    if enrolled is None:
        return None
    missing = tuple(printable(gap.what) for gap in enrolled.gaps)
    return Enrollment(enrolled.method, enrolled.kernel_checked, enrolled.first_boot, missing, enrolled.bytes_written)


def _not_covered(mounted: Mounted | None, origin: Origin | None) -> tuple[str, ...] | None:
    return (*mounted.not_covered, *(origin.unauthenticated if origin else ())) if mounted else None


def _describe_check(enrollment: Enrollment) -> str:
    words = ["checked by the kernel" if enrollment.kernel_checked else "checked by userspace alone"]
    words += [f"method {enrollment.method}"]
    words += ["first boot"] if enrollment.first_boot else []
    words += ["enrolling incomplete"] if enrollment.missing else []
    return ", ".join(words)


# --- Record <-> boot.json


def as_json(record: Record) -> "dict[str, Any]":
    """Return the members of boot.json."""
    return {"version": VERSION, **_members(record)}


def _members(value: "Any") -> "Any":
    if hasattr(value, "_asdict"):
        return {name: _members(member) for name, member in value._asdict().items() if member is not None}
    return [_members(member) for member in value] if isinstance(value, tuple) else value


def parse(content: object) -> Record:
    """Read boot.json without trusting it: a member of another type is absent, a text becomes printable."""
    return _part(Record)(content) or Record()


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _times(value: object) -> dict[str, float] | None:
    if not isinstance(value, dict):
        return None
    return {printable(name): time for name, time in value.items() if type(time) in (int, float)}


def _list(read: "Callable[[object], Any]") -> "Callable[[object], tuple[Any, ...] | None]":
    def members(value: object) -> "tuple[Any, ...] | None":
        if not isinstance(value, list):
            return None
        return tuple(one for member in value if (one := read(member)) is not None)

    return members


def _part(kind: "Any") -> "Callable[[object], Any]":
    """Return a reader for a type. A member that it must have is empty if it is missing."""

    def members(value: object) -> "Any":
        if not isinstance(value, dict):
            return None
        parts = {name: read(value.get(name)) for name, read in _READERS[kind].items()}
        empty = {name: _EMPTY[_READERS[kind][name]] for name in kind._fields if name not in kind._field_defaults}
        return kind(**(empty | {name: member for name, member in parts.items() if member is not None}))

    return members


def _text_if_any(value: object) -> str | None:
    return _text(value)


def _number_if_any(value: object) -> int | None:
    return _number(value)


_TEXTS = _list(_text)
_EMPTY: "dict[Any, Any]" = {_text: "", _number: 0, _flag: False, _TEXTS: (), _text_if_any: None, _number_if_any: None}
_TRUSTED = _list(_part(TrustedKey))
_EMPTY[_TRUSTED] = None
_READERS: "dict[Any, dict[str, Callable[[object], Any]]]" = {
    TrustedKey: dict.fromkeys(TrustedKey._fields, _text),
    Detail: dict.fromkeys(Detail._fields, _text),
    Keyring: {
        "certificates": _number, "trusted": _TRUSTED, "skipped": _TEXTS, "sealed": _flag, "not_in_kernel": _TEXTS,
        "sealed_before_mount": _flag,
    },
    Place: {**dict.fromkeys(Place._fields, _text), "stateroot": _text_if_any, "serial": _number_if_any},
    Image: {**dict.fromkeys(Image._fields, _text), "size": _number},
    Signature: dict.fromkeys(Signature._fields, _text),
    Enrollment: {
        "method": _text, "kernel_checked": _flag, "first_boot": _flag, "missing": _TEXTS, "bytes_written": _number,
    },
    Mount: {"options": _text},
    Record: {
        **dict.fromkeys(("boot_id", "kernel", "bootseal", "verdict", "message", "hint"), _text),
        "milliseconds": _times, "keyring": _part(Keyring), "deployment": _part(Place), "image": _part(Image),
        "signature": _part(Signature), "enrollment": _part(Enrollment), "mount": _part(Mount), "not_covered": _TEXTS,
        "notes": _TEXTS, "details": _list(_part(Detail)),
    },
}  # fmt: skip
