# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judge deployments as their boot would, and describe their initrds and objects."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .. import report, verdicts
from ..errors import Refusal
from ..stages import config, keyring
from ..values import BootKeyring, Policy
from . import continuity, deployments, deviations, inside, layouts, objects
from .deployed import Deployed
from .dryrun import INCOMPLETE, INITRD_NAMES, Judgement, Source, certificates, judge, list_certificates
from .initrd import cache, reader, ukisignature
from .initrd.contents import Contents, written_out
from .inside import File
from .output import DATA, IO_ERROR, Failure, os_failure

# The boot reads these files of its initrd. The configuration selects an operating system's certificates of VOA.
_DIRECTORIES = (
    *(
        f"{top}/{name}"
        for top in ("etc", "usr/lib")
        for name in ("bootseal", "bootseal/bootseal.conf.d", keyring.DIRECTORY, "ostree")
    ),
    os.path.dirname(config.SETUP_ROOT),
    *(f"{top}/*/{config.VOA_PURPOSE}" for top in config.VOA_DIRECTORIES),
)
_AT_ONCE = 4  # each may take confined.MEMORY


class KeySource(NamedTuple):
    """Where keys and configuration come from.

    At most one is set; without any it is the deployment's own initrd.

    `keys` is a directory with certificates. `system_keys` means the running system's certificates and configuration.
    """

    initrd: str | None = None
    keys: str | None = None
    system_keys: bool = False


class Trusted(NamedTuple):
    """Certificates that the running boot trusts. `against` tells their origin, as in continuity.compare()."""

    keys: list[continuity.Key]
    against: str


class Checker:
    """Judge deployments of one physical root, and read each initrd once."""

    def __init__(self, sysroot: str, key_source: KeySource, *, verbose: bool = False) -> None:
        """Prepare; `verbose` adds the deviations of a refused signature or certificate to the record."""
        self._sysroot, self._key_source, self._verbose = sysroot, key_source, verbose
        self._initrds: dict[tuple[str, ...], Contents] = {}  # by the identity of their files
        self._stores: dict[str, objects.Store] = {}  # by their directory
        self._running: Trusted | None = None

    def check(self, deployed: Deployed) -> Judgement:
        """Return the record of judge(), with the state of the objects. Raises Failure."""
        with self._source(deployed) as source:
            record = judge(deployed, self._sysroot, source)
            if self._verbose and record["exit_status"]:
                record["findings"] = [finding._asdict() for finding in self._find_deviations(deployed, source)]
        if deployed.options is None:
            record["missing"].append("no boot entry names this deployment, so it does not boot")
        if source.initrd:
            self._add_initrd(deployed, record)
        if record["verdict"] in (verdicts.VERIFIED.name, INCOMPLETE.name):
            record["missing"] += self._check_objects(deployed)
        return record

    def keyring(self, deployed: Deployed) -> BootKeyring:
        """Load the boot keyring that a deployment's boot will have. Raises Refusal, Failure."""
        with self._source(deployed) as source:
            return keyring.load(certificates(source))

    def policy(self, deployed: Deployed) -> Policy:
        """Load the configuration that a deployment's boot will have. Raises Refusal, Failure."""
        with self._source(deployed) as source:
            return config.load(source.directory)

    def read_initrds(self, everything: list[Deployed]) -> None:
        """Read the initrds of all deployments in parallel, because unpacking takes most of the time."""
        if any(self._key_source):
            return
        wanted: dict[tuple[File, ...], Deployed] = {}
        # check() raises a Failure again.
        for deployed in everything:
            with suppress(Failure):
                wanted[deployments.find_initrds(deployed, self._sysroot)] = deployed

        def read() -> None:
            while wanted:
                with suppress(KeyError, Failure):  # another thread took the last one
                    self._read(*wanted.popitem())

        # Not concurrent.futures, which imports logging.
        threads = [threading.Thread(target=read) for _ in range(min(os.cpu_count() or 1, _AT_ONCE, len(wanted)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            wanted.clear()  # a signal ends the program: no thread reads another one, and none is left behind
            for thread in threads:
                thread.join()

    def _add_initrd(self, deployed: Deployed, record: Judgement) -> None:
        """Add a UKI's signature and the changed keys to the record; neither changes the verdict."""
        paths = self._find_initrds(deployed)
        signature = ukisignature.look(paths[0]) if len(paths) == 1 else None
        if signature:
            record["uki_signature"] = signature._asdict()
        if signature and signature.state == ukisignature.UNKNOWN:
            record["missing"].append(f"not known whether the firmware would start {paths[0]}: {signature.text}")
        then = continuity.read_keys(record)
        if then is not None and (now := self._find_trusted()):
            record["key_changes"] = continuity.compare(now.keys, then, now.against)

    def _find_trusted(self) -> Trusted | None:
        """Return what the running boot trusts; None on another root, and where it cannot be known."""
        if self._running or not deployments.is_running_sysroot(self._sysroot):
            return self._running
        keys = continuity.read_verified_keys(report.load())
        self._running = Trusted(keys, "record") if keys is not None else self._read_booted_initrd()
        return self._running

    def _read_booted_initrd(self) -> Trusted | None:
        if self._key_source.initrd:
            return None
        with suppress(Failure, Refusal, StopIteration):
            booted = next(deployed for deployed in deployments.list_all(self._sysroot) if deployed.state == "booted")
            trusted = self.keyring(booted).certificates
            return Trusted([{"subject": c.subject_text, "sha256": c.sha256} for c in trusted], "initrd")
        return None

    @contextmanager
    def _source(self, deployed: Deployed) -> Iterator[Source]:
        if self._key_source.system_keys:
            yield Source("/", "the running system")
        elif keys := self._key_source.keys:
            list_certificates(keys)  # in this process, where a Failure can be reported
            with written_out(Contents({}, {})) as empty:
                yield Source(empty, keys, keys=keys)
        else:
            paths = self._find_initrds(deployed)
            initrd = self._read(paths, deployed)
            with written_out(initrd) as directory:
                yield Source(directory, " ".join(map(str, paths)), initrd=initrd)

    def _find_initrds(self, deployed: Deployed) -> tuple[File, ...]:
        given = self._key_source.initrd
        return (File("", "", given),) if given else deployments.find_initrds(deployed, self._sysroot)

    def _read(self, paths: tuple[File, ...], deployed: Deployed) -> Contents:
        """Read an initrd unless it was read before. Raises Failure."""
        if not paths:
            hint = "give it with --initrd=, or use --keys= or --system-keys"
            what = f"Failed to find the initrd of {deployed.name}: neither in its boot entry nor in usr/lib/modules"
            raise Failure(IO_ERROR, what, hint)
        what = f"Failed to read the initrd {' '.join(map(str, paths))}"
        try:
            with reader.opened(paths) as opened:
                if opened.identity not in self._initrds:
                    self._initrds[opened.identity] = cache.contents(opened, _DIRECTORIES, INITRD_NAMES)
                return self._initrds[opened.identity]
        except OSError as failed:
            hint = "run as root" if isinstance(failed, PermissionError) else ""
            raise os_failure(IO_ERROR, what, failed, hint) from failed
        except reader.Damaged as damaged:
            hint = (
                "if a program is missing, install it; otherwise rebuild the initrd, and assume tampering if no build made it so"
            )
            raise Failure(DATA, f"{what}: {damaged}", hint) from damaged

    def _find_deviations(self, deployed: Deployed, source: Source) -> list[deviations.Finding]:
        """Name the deviations of the signature, and of each certificate that is not usable."""
        findings = [finding for name in certificates(source) for finding in deviations.certificate(name)]
        with suppress(OSError, Refusal), inside.opened(self._sysroot, deployed.path) as directory:
            pair = layouts.of(deployed.layout).where(deployed.path, self._sysroot).pair
            return deviations.signature_in(directory, pair) + findings
        return findings

    def _check_objects(self, deployed: Deployed) -> list[str]:
        """Describe the objects that the boot would miss, one line for each kind."""
        try:
            where = layouts.of(deployed.layout).where(deployed.path, self._sysroot)
            if where.objects not in self._stores:
                self._stores[where.objects] = objects.Store(inside.open_place(self._sysroot, where.objects))
            with inside.opened(self._sysroot, where.image_place) as directory:
                fd = objects.open_file(where.image, directory)
            try:
                return objects.describe(self._stores[where.objects].check(fd))
            finally:
                os.close(fd)
        except (OSError, Refusal) as failed:
            return [f"the objects cannot be checked: {failed}"]


def describe_untrusted(record: Judgement) -> str:
    """Say why the firmware would not start this unified kernel image; empty if it would, or if unknown."""
    signature = record.get("uki_signature", {})
    return str(signature["text"]) if signature.get("state") == ukisignature.UNTRUSTED else ""
