# SPDX-License-Identifier: LGPL-2.1-or-later
"""One boot, in order. From the read of digest and signature on, `bootseal verify` runs the same functions.

Each stage takes what the ones before it returned (values.py) and raises Refusal; none knows another.
"""

import os

from . import report, verdicts
from .errors import Refusal, failed
from .record import Machine, Noted, Trail
from .stages import (
    cmdline,
    config,
    deployment,
    enroll,
    image,
    kernelkeys,
    keyring,
    mount,
    origin,
    physicalroot,
    unverified,
    verify,
)
from .values import BootKeyring, Deployment, KernelKeys, Mounted, Pinned, Policy, Request, Wish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Verify and mount the root at /sysroot; return the exit status. See bootseal.service(8)."""
    machine = report.this_machine()
    seen = report.Progress(machine)
    try:
        if _is_done(machine):
            return report.repeat()
        seen.tell()
        boot(seen)
        return report.succeed(seen)
    except Refusal as refusal:
        return report.refuse(seen, refusal)
    except BaseException as error:  # a bug must not boot, nor exit with 0, and must say so
        return report.refuse(seen, _make_refusal(error))


def boot(seen: report.Progress) -> None:
    """Do all that needs no disk, the keys first; wait for the disk; verify and mount the root. Raises Refusal."""
    policy = seen(config.load())
    trusted = seen(keyring.load(config.certificates("/", keyring.DIRECTORY, keyring.SUFFIXES, policy.voa)))
    keys = seen(kernelkeys.load(trusted, digest_keyring=policy.method != "none", seal=policy.seal))
    sealed_before = not physicalroot.is_mounted()
    seen(origin.look())
    enroll.prepare(policy, trusted, keys)
    verify.rehearse()
    mount.load_filesystems()
    request = seen(cmdline.parse(cmdline.read()))
    root = seen(physicalroot.enter(seen.keep_waiting, sealed_before=sealed_before))
    wishes = deployment.wishes(request)
    place, pinned = verified_image(wishes, lambda wish: deployment.locate(wish, request, policy), trusted, policy, seen)
    mounted = mounted_root(pinned, place, keys, policy, request, seen)
    mount.attach(mounted, root.shared_namespace)
    seen(mounted)


def verified_image(
    wishes: tuple[Wish, ...], locate: "Callable[[Wish], Deployment]", trusted: BootKeyring, policy: Policy, seen: Trail
) -> tuple[Deployment, Pinned]:
    """Return the first image whose enforced digest a trusted key has signed. Raises Refusal."""
    began, refused = len(seen.steps), []
    for wish in wishes:
        try:
            place = seen(locate(wish))
            pinned = _verify_image(place, trusted, policy, seen)
        except Refusal as refusal:
            refused.append((refusal, seen.steps[began:]))
            del seen.steps[began:]
            continue
        _note_others([refusal for refusal, _ in refused], seen)
        return place, pinned
    told, steps = refused[verdicts.most_telling([refusal.verdict.name for refusal, _ in refused])]
    seen.steps += steps  # the record is about one image
    _note_others([refusal for refusal, _ in refused if refusal is not told], seen)
    raise told


def _verify_image(place: Deployment, trusted: BootKeyring, policy: Policy, seen: Trail) -> Pinned:
    untrusted = seen(unverified.read(place, lambda: image.enforced_digest(place.image), policy.signed))
    verified = seen(verify.verify(untrusted, trusted))
    return seen(image.pin(place, verified))


def _note_others(refused: list[Refusal], seen: Trail) -> None:
    for refusal in refused:
        seen(Noted(verdicts.NOT_CHOSEN, f"another image was {refusal}"))


def mounted_root(pinned: Pinned, place: Deployment, keys: KernelKeys, policy: Policy, request: Request, seen: Trail) -> Mounted:
    """Let the kernel check and keep the digest, and build the root, which nothing can see yet. Raises Refusal."""
    enrolled = seen(enroll.enroll(pinned, place, keys, policy))
    return mount.mount(enrolled, place, policy.roots[place.layout], request)


def _is_done(machine: Machine) -> bool:
    """Tell whether this boot has been verified already and its root is still at /sysroot: a restart changes nothing."""
    record = report.load()
    digest = record.image.digest if record.image else ""
    return record.is_verified and record.boot_id == machine.boot_id and digest != "" and mount.attached_digest() == digest


def _make_refusal(error: BaseException) -> Refusal:
    """Return the Refusal for what no stage handles: `internal`, unless the disk or the machine failed at that moment."""
    if isinstance(error, OSError):
        name = f" ({error.filename})" if error.filename else ""
        return failed(error, verdicts.INTERNAL, f"unexpected {error.__class__.__name__}{name}", _find_place(error))
    return Refusal(verdicts.INTERNAL, f"{error.__class__.__name__}: {error}", _find_place(error))


def _find_place(error: BaseException) -> str:
    """Return file and line of ours where an exception came from. Other modules have no line numbers in an initrd."""
    place, trace = "bootseal", error.__traceback__
    while trace:
        path = trace.tb_frame.f_code.co_filename
        if path.startswith(os.path.dirname(__file__) + "/"):
            place = f"{os.path.basename(path)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
