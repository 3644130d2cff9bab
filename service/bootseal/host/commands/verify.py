# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal verify: the verdict of the next boot, before it."""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from ... import record as records
from ... import report, verdicts
from ...errors import Refusal
from ...stages import config, image, keyring, ostreebooted
from ...values import BootKeyring
from .. import continuity, deviations, inside, objects
from .. import deployments as sysroots
from ..deployments import Found
from ..dryrun import INITRD_NAMES, Judgement, Source, certificates, judge
from ..initrd import archive, firmware, reader
from ..initrd.archive import Contents
from ..inside import File
from ..output import NO_INPUT, USAGE, Failure, emit, error, os_failure, table, warning

# What the boot reads of its initrd. Which operating system's certificates of VOA count, its configuration says.
_DIRECTORIES = (
    *(
        f"{top}/{name}"
        for top in ("etc", "usr/lib")
        for name in ("bootseal", "bootseal/bootseal.conf.d", keyring.DIRECTORY, "ostree")
    ),
    *(f"{top}/*/{config.VOA_PURPOSE}" for top in config.VOA_DIRECTORIES),
)
_AT_ONCE = 4  # each may take confined.MEMORY
_COLOURS = (
    {"unknown": "yellow"} | {"verified": "green"} | {v.name: "red" for v in verdicts.VERDICTS if v is not verdicts.VERIFIED}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every deployment, as a table")
    add_source_arguments(parser)
    parser.add_argument("--cmdline", metavar="TEXT", help="kernel command line (default: that of the deployment's boot entry)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="each deviation of a refused signature or certificate by name"
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what Checker is told: the deployment, and where the keys come from that judge it."""
    parser.add_argument(
        "deployment",
        nargs="?",
        metavar="DEPLOYMENT",
        help="checksum or its beginning, pending, or booted (default: what boots next)",
    )
    parser.add_argument("--sysroot", metavar="DIR", help="physical root (default: the running system's)")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--initrd", metavar="FILE", help="initrd or UKI to take keys and configuration from (default: the deployment's own)"
    )
    keys.add_argument("--keys", metavar="DIR", help="directory with certificates to use instead")
    keys.add_argument("--system-keys", action="store_true", help="certificates and configuration of the running system")


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    sysroot = os.path.abspath(arguments.sysroot or sysroots.default_sysroot())
    checker = Checker(sysroot, arguments)
    if arguments.all:
        if arguments.deployment or arguments.cmdline:
            raise Failure(USAGE, "Failed to read the command line: --all takes no DEPLOYMENT and no --cmdline=")
        everything = sysroots.deployments(sysroot)
        checker.read_initrds(everything)
        return _print_all([(found, _checked(checker, found)) for found in everything], arguments)
    found = sysroots.choose(sysroot, arguments.deployment)
    if arguments.cmdline is not None:
        found = found._replace(options=arguments.cmdline, state="" if found.state == "staged" else found.state)
    return _print_one(found, checker.check(found), arguments)


class Checker:
    """Judges deployments of one physical root; reads each initrd once."""

    def __init__(self, sysroot: str, arguments: argparse.Namespace) -> None:
        self._sysroot, self._arguments = sysroot, arguments
        self._verbose = getattr(arguments, "verbose", False)
        self._initrds: dict[tuple[str, ...], Contents] = {}  # by the identity of their files
        self._store: objects.Store | None = None
        self._now: tuple[list[continuity.Key], str] | None = None

    def check(self, found: Found) -> Judgement:
        """The record of judge(), with the state of the objects. Raises Failure."""
        with self._source(found) as source:
            record = judge(found, self._sysroot, source)
            if self._verbose and record["exit_status"]:
                record["findings"] = [finding._asdict() for finding in self._findings(found, source)]
        if source.initrd:
            self._add_initrd(found, record)
        if record["verdict"] == verdicts.VERIFIED.name:
            record["missing"] += self._objects(found)
        return record

    def _add_initrd(self, found: Found, record: Judgement) -> None:
        """What else there is to say of the initrd; none of it changes the verdict."""
        paths = self._paths(found)
        signature = firmware.look(paths[0]) if len(paths) == 1 else None
        if signature:
            record["uki_signature"] = signature._asdict()
        if signature and signature.state == firmware.UNKNOWN:
            record["missing"].append(f"not known whether the firmware would start {paths[0]}: {signature.text}")
        then = continuity.trusted(record)
        if then is not None and (now := self._trusted_now()):
            record["key_changes"] = continuity.compare(now[0], then, now[1])

    def _trusted_now(self) -> tuple[list[continuity.Key], str] | None:
        """What the running boot trusted, and where that is from; None on another root, and where it cannot be known."""
        if self._now or self._sysroot != sysroots.default_sysroot() or not os.path.exists(ostreebooted.PATH):
            return self._now
        keys = continuity.recorded(report.load())
        self._now = (keys, "record") if keys is not None else self._trusted_by_booted()
        return self._now

    def _trusted_by_booted(self) -> tuple[list[continuity.Key], str] | None:
        if self._arguments.initrd:
            return None
        with suppress(Failure, Refusal, StopIteration):
            running = next(found for found in sysroots.deployments(self._sysroot) if found.state == "booted")
            certificates = self.keyring(running).certificates
            return [{"subject": c.subject_text, "sha256": c.sha256} for c in certificates], "initrd"
        return None

    def read_initrds(self, everything: list[Found]) -> None:
        """Those of all deployments, several at once: unpacking takes most of the time."""
        if self._arguments.system_keys or self._arguments.keys or self._arguments.initrd:
            return
        wanted: dict[tuple[File, ...], Found] = {}
        # A Failure is raised again where that deployment's turn comes.
        for found in everything:
            with suppress(Failure):
                wanted[sysroots.initrd_files(found, self._sysroot)] = found

        def read(paths: tuple[File, ...]) -> None:
            with suppress(Failure):
                self._contents(paths, wanted[paths])

        with ThreadPoolExecutor(min(os.cpu_count() or 1, _AT_ONCE)) as pool:
            list(pool.map(read, wanted))

    def keyring(self, found: Found) -> BootKeyring:
        """The boot keyring that a deployment's boot will have. Raises Refusal, Failure."""
        with self._source(found) as source:
            return keyring.load(certificates(source))

    @contextmanager
    def _source(self, found: Found) -> Iterator[Source]:
        if self._arguments.system_keys:
            yield Source("/", "the running system")
            return
        if self._arguments.keys:
            with archive.written_out(Contents({}, {})) as empty:
                yield Source(empty, self._arguments.keys, keys=_directory(self._arguments.keys))
            return
        paths = self._paths(found)
        initrd = self._contents(paths, found)
        with archive.written_out(initrd) as directory:
            yield Source(directory, " ".join(map(str, paths)), initrd=initrd)

    def _paths(self, found: Found) -> tuple[File, ...]:
        given = self._arguments.initrd
        return (File("", "", given),) if given else sysroots.initrd_files(found, self._sysroot)

    def _contents(self, paths: tuple[File, ...], found: Found) -> Contents:
        if not paths:
            hint = "give it with --initrd=, or use --keys= or --system-keys"
            raise Failure(
                NO_INPUT, f"Failed to find the initrd of {found.name}: none in its boot entry or in usr/lib/modules", hint
            )
        what = f"Failed to read the initrd {' '.join(map(str, paths))}"
        try:
            with reader.opened(paths) as opened:
                if opened.identity not in self._initrds:
                    self._initrds[opened.identity] = reader.contents(opened, _DIRECTORIES, INITRD_NAMES)
                return self._initrds[opened.identity]
        except OSError as failed:
            hint = "run as root" if isinstance(failed, PermissionError) else ""
            raise os_failure(NO_INPUT, what, failed, hint) from failed
        except archive.Damaged as damaged:
            hint = (
                "if a program is missing, install it; otherwise rebuild the initrd, and assume tampering if no build made it so"
            )
            raise Failure(NO_INPUT, f"{what}: {damaged}", hint) from damaged

    def _findings(self, found: Found, source: Source) -> list[deviations.Finding]:
        """Of the signature, and of each certificate that is not usable."""
        findings = [finding for name in certificates(source) for finding in deviations.certificate(name)]
        with suppress(OSError), inside.opened(self._sysroot, found.path) as deployment:
            return deviations.signature_in(deployment) + findings
        return findings

    def _objects(self, found: Found) -> list[str]:
        try:
            if self._store is None:
                self._store = objects.Store(inside.place(self._sysroot, "ostree/repo/objects"))
            with inside.opened(self._sysroot, found.path) as deployment:
                fd = objects.open_file(image.IMAGE, deployment)
            try:
                return objects.lacking(self._store.check(fd))
            finally:
                os.close(fd)
        except OSError as failed:
            return [f"the objects could not be looked at: {failed}"]


def name_of_image(judgement: Judgement) -> str:
    """Return the image's own name and version, as far as they are known."""
    image = records.parse(judgement).image
    return image.name if image else ""


def untrusted(record: Judgement) -> str:
    """Say why the firmware would not start this unified kernel image; empty if it would, or if that is not known."""
    signature = record.get("uki_signature", {})
    return str(signature["text"]) if signature.get("state") == firmware.UNTRUSTED else ""


def _checked(checker: Checker, found: Found) -> Judgement:
    """The record; also of a deployment whose keys cannot be found, for the table goes on."""
    try:
        return checker.check(found)
    except Failure as failure:
        return {
            "verdict": "unknown",
            "message": failure.what,
            "hint": failure.hint,
            "exit_status": failure.status,
            "missing": [],
        }


def _directory(path: str) -> str:
    try:
        os.listdir(path)
    except OSError as failed:
        raise os_failure(NO_INPUT, f"Failed to read the certificates in {path}", failed) from failed
    return path


def _print_one(found: Found, record: Judgement, arguments: argparse.Namespace) -> int:
    status: int = record["exit_status"]
    emit(_with_name(found, record), arguments.json, _text(found, record))
    if text := untrusted(record):
        warning(f"the firmware would not start {found.name}: {text}")
    if status:
        error(record["message"], record.get("hint", ""))
    return status


def _print_all(records: list[tuple[Found, Judgement]], arguments: argparse.Namespace) -> int:
    rows = [["NAME ON DISK", "STATE", "VERDICT", "IMAGE", "SIGNER", "MISSING"]]
    for found, record in records:
        signer = record.get("signature", {}).get("subject", "")
        missing = str(len(record["missing"]) or "")
        rows.append([found.name, found.state, record["verdict"], name_of_image(record), signer, missing])
    emit([_with_name(*pair) for pair in records], arguments.json, table(rows, _COLOURS))
    for found, record in records:
        if record["exit_status"]:
            error(f"{found.name}: {record['message']}", record.get("hint", ""))
    return next((record["exit_status"] for _, record in records if record["exit_status"]), 0)


def _with_name(found: Found, record: Judgement) -> Judgement:
    return {"name": found.name, "state": found.state} | record


def _text(found: Found, record: Judgement) -> str:
    lines = [[found.name + (f" ({found.state})" if found.state else "") + ", as the disk names it:", record["verdict"]]]
    if name := name_of_image(record):
        lines.append(["  image", name])
    if "image" in record:
        lines.append(["  digest", f"{record['image']['algorithm']}:{record['image']['digest']}"])
    if signature := record.get("signature"):
        lines.append(["  signer", f"{signature['subject']} ({signature['algorithm']}, until {signature['not_after']})"])
    lines.append(["  keys", f"{record.get('keyring', {}).get('certificates', 0)} from {record['keys']}"])
    lines += [[f"  {kind}", line] for kind, line in continuity.lines(record)]
    if signature := record.get("uki_signature"):
        lines.append(["  UKI", f"{signature['state']}: {signature['text']}"])
    lines += [["  missing", line] for line in record["missing"]]
    if "not_covered" in record:
        lines.append(["  not covered", ", ".join(record["not_covered"])])
    for finding in record.get("findings", ()):
        lines.append(["  deviation", f"{finding['name']}: the kernel {finding['kernel']}; {finding['remedy']}"])
    head, *rest = lines
    return "\n".join([table([head], _COLOURS), *([table(rest, {})] if rest else [])])
