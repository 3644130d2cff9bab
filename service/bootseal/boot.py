# SPDX-License-Identifier: LGPL-2.1-or-later
"""One boot, in order. The only file that knows the stages' order, and the only one that catches a Refusal.

Each stage takes what the ones before it returned (values.py) and raises Refusal; none knows another.
"""

import os

from . import report, verdicts
from .errors import Refusal, failed
from .stages import cmdline, config, deployment, enroll, image, kernelkeys, keyring, mount, unverified, verify


def main() -> int:
    """Verifies and mounts the root at /sysroot; returns the exit status. See bootseal.service(8)."""
    recorder = report.Recorder()
    try:
        if _already_done():
            return report.again()
        return _boot(recorder)
    except Refusal as refusal:
        return report.refused(recorder, refusal)
    except BaseException as error:  # a bug must not boot, nor exit with 0, and must say so
        return report.refused(recorder, _unforeseen(error))


def _boot(recorder: report.Recorder) -> int:
    # No disk until the keyring is sealed.
    recorder.begin("configuration", "Reading the configuration and the boot keyring...")
    policy = config.load()
    boot_keyring = keyring.load(config.certificates("/", keyring.DIRECTORY, keyring.SUFFIXES, policy.voa))
    recorder.keyring(boot_keyring)

    recorder.begin("keyring", "Loading and sealing the kernel keyring...")
    kernel_keys = kernelkeys.load(boot_keyring, digest_keyring=policy.method != "none", seal=policy.seal)
    recorder.kernel_keys(kernel_keys)

    recorder.begin("locate", "Looking for the deployment...")
    request = cmdline.parse(cmdline.read())
    recorder.debug = request.debug
    namespace = mount.private_namespace()
    found = deployment.locate(request)
    recorder.deployment(found)

    recorder.begin("verify", "Verifying the composefs digest...")
    claimed = unverified.read(found, lambda: image.enforced_digest(found))
    recorder.candidate(claimed)
    verified = verify.verify(claimed, boot_keyring)
    recorder.verified(verified)
    pinned = image.pin(found, verified)
    recorder.pinned(pinned)

    recorder.begin("enroll", "Enrolling the digest...")
    enrolled = enroll.enroll(pinned, found, kernel_keys, policy)
    recorder.enrolled(enrolled)

    recorder.begin("mount", "Mounting the verified root...")
    mounted = mount.mount(enrolled, found, policy.root, request)
    mount.attach(mounted, namespace)
    recorder.mounted(mounted)
    return report.verified(recorder)


def _already_done() -> bool:
    """Whether this boot has been verified already and its root is still the one at /sysroot: a second start changes nothing."""
    record = report.load()
    same_boot = record.get("boot_id") == report.Recorder().record["boot_id"]
    verified = record.get("verdict") == verdicts.VERIFIED.name
    digest = record.get("image", {}).get("digest", "")
    return same_boot and verified and bool(digest) and mount.attached_digest() == digest


def _unforeseen(error: BaseException) -> Refusal:
    """Return the Refusal for what no stage handles: `internal`, unless the disk or the machine failed at that moment."""
    if isinstance(error, OSError):
        name = f" ({error.filename})" if error.filename else ""
        return failed(error, verdicts.INTERNAL, f"unexpected {error.__class__.__name__}{name}", _place(error))
    return Refusal(verdicts.INTERNAL, f"{error.__class__.__name__}: {error}", _place(error))


def _place(error: BaseException) -> str:
    """File and line of ours where an exception came from; other modules have no line numbers in an initrd."""
    place, trace = "bootseal", error.__traceback__
    while trace:
        path = trace.tb_frame.f_code.co_filename
        if os.path.dirname(path).endswith(("/bootseal", "/bootseal/stages", "/bootseal/formats", "/bootseal/linux")):
            place = f"{os.path.basename(path)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
