# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 6: Pinned -> Enrolled: the kernel checks the signature and takes the digest. The only maker of an Enrolled image.

Userspace has verified already. So what the kernel cannot do is noted, and what it refuses is a refusal.
"""

import errno
import hashlib
from contextlib import suppress

from .. import verdicts
from ..errors import DISK_FAILED, Refusal, failed, reason
from ..linux import keyctl
from ..values import Deployment, Enrolled, Gap, KernelKeys, Pinned, Policy, Verified
from . import enable

KEY_DESCRIPTION = "composefs-digest"
# view and read for everybody; no search, so that not even KEYCTL_INVALIDATE works
_READ_ONLY = 0x03030303
# The kernel cannot check, see bootseal.service(8). Any other errno of the check means that it refuses the signature.
_LACKING = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOPKG})
_IMPOSSIBLE = _LACKING | {errno.EDQUOT, errno.EROFS, errno.ENOSPC}
_IMPOSSIBLE_TO_ENABLE = _IMPOSSIBLE | {errno.EINVAL, errno.EPERM}
# Enabling reads and writes the file. Without EBADMSG: here it means a signature that the kernel cannot parse.
_DISK_FAILED_TO_ENABLE = DISK_FAILED - {errno.EBADMSG}


def enroll(pinned: Pinned, deployment: Deployment, keys: KernelKeys, policy: Policy) -> Enrolled:
    """Raises Refusal: `enroll-failed`, `unsupported` (both for what is missing only with Required=yes), `io-error`."""
    if policy.method == "none":
        return Enrolled(pinned, "none", kernel_checked=False, first_boot=False, bytes_written=0, gaps=())
    verified = pinned.verified
    unchecked = _check(verified, keys, pinned.path + ".sig")
    gaps = [*keys.gaps, *unchecked]
    first_boot, written = False, 0 if policy.method == "keyring" else None
    _weigh(gaps, policy, pinned)
    if policy.method == "fsverity":
        try:
            first_boot, written = _enable(pinned, deployment, keys)
        except Impossible as error:
            gaps.append(error.gaps)
    _weigh(gaps, policy, pinned)
    gaps += _record(verified, keys)
    _weigh(gaps, policy, pinned)
    return Enrolled(pinned, policy.method, not unchecked, first_boot, written, tuple(gaps))


def _weigh(gaps: list[Gap], policy: Policy, pinned: Pinned) -> None:
    """With Required=yes nothing may be missing; asked before each step that leaves something behind."""
    if gaps and policy.required:
        verdict = verdicts.UNSUPPORTED if any(m.unsupported for m in gaps) else verdicts.ENROLL_FAILED
        raise Refusal(verdict, f"cannot be enrolled ({'; '.join(m.what for m in gaps)})", pinned.path + ".digest")


def _check(verified: Verified, keys: KernelKeys, path: str) -> list[Gap]:
    """The kernel verifies the signature with the key that userspace found; what it cannot do comes back as missing."""
    certificate = verified.signer.certificate
    if number := keys.unloaded.get(certificate.sha256):
        what = f"load the signer's certificate ({certificate.path}): {reason(OSError(number, ''))}"
        if number == errno.EKEYREJECTED:  # revoked: in the kernel's blacklist
            raise Refusal(verdicts.ENROLL_FAILED, f"the kernel refuses to {what}", path)
        return [Gap(f"the kernel cannot {what}", number in _LACKING)]
    encoding = "pkcs1" if verified.signer.algorithm.startswith("rsa") else "x962"
    hashed = hashlib.new(verified.hash_name, verified.signed.formatted()).digest()
    info = f"enc={encoding} hash={verified.hash_name}"
    try:
        keyctl.verify_signature(keys.loaded[certificate.sha256], info, hashed, verified.value)
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            return [Gap(f"the kernel cannot check the signature: {reason(error)}", error.errno in _LACKING)]
        raise Refusal(verdicts.ENROLL_FAILED, f"the kernel refuses the signature: {reason(error)}", path) from error
    return []


def _record(verified: Verified, keys: KernelKeys) -> list[Gap]:
    """Puts the digest into the keyring `bootseal` and takes everybody's right to change either."""
    if keys.ring is None:
        return []  # why is in keys.missing
    text = str(verified.digest).encode()
    try:
        present = keyctl.members(keys.ring)
        if present and [keyctl.read(key) for key in present] != [text]:
            return [_other_digest()]
        _lock(present[0] if present else _add(text, keys.ring), keys.ring)
    except OSError as error:
        return [Gap(f"the digest is not in the kernel keyring: {reason(error)}", error.errno in _LACKING)]
    return []


def _add(text: bytes, ring: int) -> int:
    key = keyctl.add_key("user", KEY_DESCRIPTION, text, keyctl.PROCESS_KEYRING)
    keyctl.link(key, ring)
    return key


def _lock(key: int, ring: int) -> None:
    """Nothing is left to do where an earlier start has come to its end: the ring loses its permissions last."""
    if keyctl.describe(ring).permissions == _READ_ONLY:
        return
    with suppress(FileExistsError):
        keyctl.restrict(ring)
    if keyctl.describe(key).permissions != _READ_ONLY:
        keyctl.set_permissions(key, _READ_ONLY)
    keyctl.set_permissions(ring, _READ_ONLY)


def _other_digest() -> Gap:
    return Gap("the kernel keyring holds the digest of another start of this service", unsupported=False)


class Impossible(Exception):
    def __init__(self, gaps: Gap) -> None:
        self.gaps = gaps


def _enable(pinned: Pinned, deployment: Deployment, keys: KernelKeys) -> tuple[bool, int | None]:
    """Method fsverity: (first boot, bytes written to the device)."""
    if pinned.verified.signer.certificate.sha256 not in keys.anchored:
        # Without .fs-verity the kernel would take any signature; without the certificate in it, this one never.
        what = "fs-verity is not enabled on the digest file: the signer's certificate is not in .fs-verity"
        raise Impossible(Gap(what, unsupported=False))
    try:
        return enable.enroll(deployment, pinned.verified, pinned.path + ".digest")
    except enable.EnableFailed as refused:
        error = refused.error
        if error.errno in _IMPOSSIBLE_TO_ENABLE:
            what = f"fs-verity is not enabled on the digest file: {reason(error)}"
            raise Impossible(Gap(what, error.errno in _LACKING)) from error
        if error.errno in _DISK_FAILED_TO_ENABLE:
            what = "fs-verity cannot be enabled on the digest file"
            raise failed(error, verdicts.IO_ERROR, what, pinned.path + ".digest") from error
        what = f"the kernel refused the signature for the digest file: {reason(error)}"
        raise Refusal(verdicts.ENROLL_FAILED, what, pinned.path + ".sig") from error
    except enable.CannotWrite as unwritten:
        what = f"fs-verity is not enabled on the digest file: {unwritten.step}: {reason(unwritten.error)}"
        raise Impossible(Gap(what, unsupported=False)) from unwritten
