# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal verify: the verdict of the next boot, before it."""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from .. import image, keyring, messages
from ..linux import files
from ..values import BootKeyring
from . import explain, initrdfile, inside, objects
from . import sysroot as sysroots
from .inside import File
from .judge import Record, Source, certificates, judge
from .output import NO_INPUT, USAGE, Failure, emit, error, os_failure, table
from .sysroot import Found

# What the boot reads of its initrd.
_DIRECTORIES = tuple(
    f"{top}/{name}"
    for top in ("etc", "usr/lib")
    for name in ("bootseal", "bootseal/bootseal.conf.d", keyring.DIRECTORY, "ostree")
)
_COLOURS = (
    {"unknown": "yellow"} | {"verified": "green"} | {v.name: "red" for v in messages.VERDICTS if v is not messages.VERIFIED}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "deployment",
        nargs="?",
        metavar="DEPLOYMENT",
        help="checksum or its beginning, pending, or booted (default: what boots next)",
    )
    parser.add_argument("--all", action="store_true", help="every deployment, as a table")
    parser.add_argument("--sysroot", metavar="DIR", help="physical root (default: the running system's)")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--initrd", metavar="FILE", help="initrd or UKI to take keys and configuration from (default: the deployment's own)"
    )
    keys.add_argument("--keys", metavar="DIR", help="directory with certificates to use instead")
    keys.add_argument("--system-keys", action="store_true", help="certificates and configuration of the running system")
    parser.add_argument("--cmdline", metavar="TEXT", help="kernel command line (default: that of the deployment's boot entry)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="each deviation of a refused signature or certificate by name"
    )


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
        self._trees: dict[tuple[str, ...], initrdfile.Tree] = {}
        self._store: objects.Store | None = None

    def check(self, found: Found) -> Record:
        """The record of judge(), with the state of the objects. Raises Failure."""
        with self._source(found) as source:
            record = judge(found, self._sysroot, source)
            if self._verbose and record["exit_status"]:
                record["findings"] = [finding._asdict() for finding in self._findings(found, source)]
        if record["verdict"] == messages.VERIFIED.name:
            record["missing"] += self._objects(found)
        return record

    def read_initrds(self, everything: list[Found]) -> None:
        """Those of all deployments at once, as many as there are processors: unpacking takes most of the time."""
        if self._arguments.system_keys or self._arguments.keys or self._arguments.initrd:
            return
        wanted: dict[tuple[File, ...], Found] = {}
        # A Failure is raised again where that deployment's turn comes.
        for found in everything:
            with suppress(Failure):
                wanted[sysroots.initrd_files(found, self._sysroot)] = found

        def read(paths: tuple[File, ...]) -> None:
            with suppress(Failure):
                self._tree(paths, wanted[paths])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
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
            with initrdfile.written_out(initrdfile.Tree({}), ()) as empty:
                yield Source(empty, self._arguments.keys, keys=_directory(self._arguments.keys))
            return
        given = self._arguments.initrd
        paths = (File("", "", given),) if given else sysroots.initrd_files(found, self._sysroot)
        tree = self._tree(paths, found)
        with initrdfile.written_out(tree, _DIRECTORIES) as directory:
            yield Source(directory, " ".join(map(str, paths)), tree=tree)

    def _tree(self, paths: tuple[File, ...], found: Found) -> initrdfile.Tree:
        if not paths:
            hint = "give it with --initrd=, or use --keys= or --system-keys"
            raise Failure(
                NO_INPUT, f"Failed to find the initrd of {found.name}: none in its boot entry or in usr/lib/modules", hint
            )
        what = f"Failed to read the initrd {' '.join(map(str, paths))}"
        try:
            with ExitStack() as stack:
                return self._read([stack.enter_context(path.opened()) for path in paths])
        except OSError as failed:
            hint = "run as root" if isinstance(failed, PermissionError) else ""
            raise os_failure(NO_INPUT, what, failed, hint) from failed
        except initrdfile.Damaged as damaged:
            raise Failure(NO_INPUT, f"{what}: {damaged}") from damaged
        except files.NotRegular as failed:
            raise Failure(NO_INPUT, f"{what}: not a regular file") from failed

    def _read(self, fds: list[int]) -> initrdfile.Tree:
        status = [os.fstat(fd) for fd in fds]
        identity = tuple(f"{s.st_dev}:{s.st_ino}:{s.st_mtime_ns}:{s.st_size}" for s in status)
        if identity not in self._trees:
            self._trees[identity] = initrdfile.read([f"/proc/self/fd/{fd}" for fd in fds])
        return self._trees[identity]

    def _findings(self, found: Found, source: Source) -> list[explain.Finding]:
        """Of the signature, and of each certificate that is not usable."""
        findings = [finding for name in certificates(source) for finding in explain.certificate(name)]
        with suppress(OSError), inside.opened(self._sysroot, found.path) as deployment:
            return explain.signature_in(deployment) + findings
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


def _checked(checker: Checker, found: Found) -> Record:
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


def _print_one(found: Found, record: Record, arguments: argparse.Namespace) -> int:
    status: int = record["exit_status"]
    emit(_with_name(found, record), arguments.json, _text(found, record))
    if status:
        error(record["message"], record.get("hint", ""))
    return status


def _print_all(records: list[tuple[Found, Record]], arguments: argparse.Namespace) -> int:
    rows = [["DEPLOYMENT", "STATE", "VERDICT", "SIGNER", "MISSING"]]
    for found, record in records:
        signer = record.get("signature", {}).get("subject", "")
        rows.append([found.name, found.state, record["verdict"], signer, str(len(record["missing"]) or "")])
    emit([_with_name(*pair) for pair in records], arguments.json, table(rows, _COLOURS))
    for found, record in records:
        if record["exit_status"]:
            error(f"{found.name}: {record['message']}", record.get("hint", ""))
    return next((record["exit_status"] for _, record in records if record["exit_status"]), 0)


def _with_name(found: Found, record: Record) -> Record:
    return {"name": found.name, "state": found.state} | record


def _text(found: Found, record: Record) -> str:
    lines = [[found.name + (f" ({found.state})" if found.state else "") + ":", record["verdict"]]]
    if "image" in record:
        lines.append(["  digest", f"{record['image']['algorithm']}:{record['image']['digest']}"])
    if signature := record.get("signature"):
        lines.append(["  signer", f"{signature['subject']} ({signature['algorithm']}, until {signature['not_after']})"])
    lines.append(["  keys", f"{record.get('keyring', {}).get('certificates', 0)} from {record['keys']}"])
    lines += [["  missing", line] for line in record["missing"]]
    if "not_covered" in record:
        lines.append(["  not covered", ", ".join(record["not_covered"])])
    for finding in record.get("findings", ()):
        lines.append(["  deviation", f"{finding['name']}: the kernel {finding['kernel']}; {finding['remedy']}"])
    head, *rest = lines
    return "\n".join([table([head], _COLOURS), *([table(rest, {})] if rest else [])])
