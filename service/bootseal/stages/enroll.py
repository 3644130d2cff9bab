# SPDX-License-Identifier: LGPL-2.1-or-later
"""Let the kernel check the signature and take the digest of a Pinned image, which makes it Enrolled.

Userspace has verified already. So a step that the kernel cannot do is a gap, and only a refusal of the kernel refuses the boot.
No other module makes an Enrolled image.
"""

import errno

from .. import libcrypto, paths, verdicts
from ..errors import DISK_FAILED, Refusal, failed, reason
from ..linux import fsverity, keyctl
from ..values import DIGEST_FILE, BootKeyring, Certificate, Deployment, Enrolled, Gap, KernelKeys, Pinned, Policy, Verified

KEY_DESCRIPTION = "composefs-digest"
# view and read for all; without search, because KEYCTL_INVALIDATE needs that
_READ_ONLY = 0x03030303
_WRONG_ECDSA = bytes.fromhex("3006020101020101")  # r = s = 1
# The kernel cannot check, see bootseal.service(8). Any other errno of the check means that it refuses the signature.
_UNSUPPORTED = fsverity.UNSUPPORTED | {errno.ENOSYS, errno.ENOPKG}
_IMPOSSIBLE = _UNSUPPORTED | {errno.EDQUOT, errno.EROFS, errno.ENOSPC}
_IMPOSSIBLE_TO_ENABLE = _IMPOSSIBLE | {errno.EINVAL, errno.EPERM}
# Enabling reads and writes the file. Here, EBADMSG means a signature that the kernel cannot parse.
_DISK_FAILED_TO_ENABLE = DISK_FAILED - {errno.EBADMSG}


def prepare(policy: Policy, keyring: BootKeyring, keys: KernelKeys) -> None:
    """Do early what would take long after the mount. Raises Refusal `enroll-failed` if the kernel accepts a wrong signature.

    Before the kernel checks the first signature of a kind of key, it runs modprobe twice for names that no module has. For a
    self-signed certificate, that was when it loaded the certificate.
    """
    if policy.method == "fsverity":
        from . import enable  # noqa: F401
    if policy.method != "none":
        known = {_kind(c) for c in keyring.certificates if c.subject_text == c.issuer_text}
        others = {_kind(c): c for c in keyring.certificates if c.sha256 in keys.loaded and _kind(c) not in known}
        for certificate in others.values():
            _try_wrong_signature(certificate, keys.loaded[certificate.sha256])


def _kind(certificate: Certificate) -> tuple[str, int]:
    return certificate.key.scheme, certificate.key.bits


def _try_wrong_signature(certificate: Certificate, key: int) -> None:
    scheme, bits = _kind(certificate)
    value = bytes(bits // 8) if scheme == "rsa" else _WRONG_ECDSA
    try:
        keyctl.verify_signature(key, _describe(scheme, "sha256"), bytes(32), value)
    except OSError:
        return
    raise Refusal(verdicts.ENROLL_FAILED, "the kernel accepts a wrong signature", certificate.path)


def _describe(scheme: str, hash_name: str) -> str:
    return f"enc={'pkcs1' if scheme == 'rsa' else 'x962'} hash={hash_name}"


def enroll(pinned: Pinned, deployment: Deployment, keys: KernelKeys, policy: Policy) -> Enrolled:
    """Check and store the digest as Method= says.

    Raises Refusal: `enroll-failed`, `io-error`, and with Required=yes `unsupported`; gaps raise only with Required=yes.
    """
    if policy.method == "none":
        return Enrolled(pinned, "none", kernel_checked=False, first_boot=False, bytes_written=0, gaps=())
    verified, pair = pinned.verified, deployment.pair.path
    unchecked = _check_signature(verified, keys, paths.signature_of(pair))
    gaps = [*keys.gaps, *unchecked]
    first_boot, written = False, 0 if policy.method == "keyring" else None
    _enforce_required(gaps, policy, pair)
    if policy.method == "fsverity":
        try:
            first_boot, written = _enable(pinned, deployment, keys)
        except Impossible as error:
            gaps.append(error.gap)
    _enforce_required(gaps, policy, pair)
    gaps += _store_digest(verified, keys)
    _enforce_required(gaps, policy, pair)
    return Enrolled(pinned, policy.method, not unchecked, first_boot, written, tuple(gaps))


def _enforce_required(gaps: list[Gap], policy: Policy, pair: str) -> None:
    """Raise Refusal for gaps with Required=yes. Called before each step that leaves something behind."""
    if gaps and policy.required:
        verdict = verdicts.UNSUPPORTED if any(gap.unsupported for gap in gaps) else verdicts.ENROLL_FAILED
        raise Refusal(verdict, f"cannot be enrolled ({'; '.join(gap.what for gap in gaps)})", paths.digest_of(pair))


def _check_signature(verified: Verified, keys: KernelKeys, path: str) -> list[Gap]:
    """Let the kernel verify the signature with the signer's key. Raises Refusal if it refuses."""
    certificate = verified.signer.certificate
    if number := keys.unloaded.get(certificate.sha256):
        what = f"load the signer's certificate ({certificate.path}): {reason(OSError(number, ''))}"
        if number == errno.EKEYREJECTED:  # revoked: in the kernel's blacklist
            raise Refusal(verdicts.ENROLL_FAILED, f"the kernel refuses to {what}", path)
        return [Gap(f"the kernel cannot {what}", number in _UNSUPPORTED)]
    hashed = libcrypto.hash_of(verified.signed.formatted(), verified.hash_name)
    info = _describe(certificate.key.scheme, verified.hash_name)
    try:
        keyctl.verify_signature(keys.loaded[certificate.sha256], info, hashed, verified.value)
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            return [Gap(f"the kernel cannot check the signature: {reason(error)}", error.errno in _UNSUPPORTED)]
        raise Refusal(verdicts.ENROLL_FAILED, f"the kernel refuses the signature: {reason(error)}", path) from error
    return []


def _store_digest(verified: Verified, keys: KernelKeys) -> list[Gap]:
    """Put the digest into the keyring `bootseal`, and remove all rights to change either."""
    digest_keyring = keys.digest_keyring
    if digest_keyring is None:
        return []  # keys.gaps has the reason
    text = str(verified.digest).encode()
    try:
        present = keyctl.members(digest_keyring)
        if present and [keyctl.read(key) for key in present] != [text]:
            what = "the kernel keyring holds the digest of another start of this service"
            return [Gap(what, unsupported=False)]
        _lock(present[0] if present else _add_digest(text, digest_keyring), digest_keyring)
    except OSError as error:
        return [Gap(f"the digest is not in the kernel keyring: {reason(error)}", error.errno in _UNSUPPORTED)]
    return []


def _add_digest(text: bytes, digest_keyring: int) -> int:
    key = keyctl.add_key("user", KEY_DESCRIPTION, text, keyctl.PROCESS_KEYRING)
    keyctl.link(key, digest_keyring)
    return key


def _lock(key: int, digest_keyring: int) -> None:
    """Lock the key, and the keyring last: if the keyring is locked, an earlier start has done all of it."""
    if keyctl.describe(digest_keyring).permissions == _READ_ONLY:
        return
    try:
        keyctl.restrict(digest_keyring)
    except FileExistsError:
        pass
    if keyctl.describe(key).permissions != _READ_ONLY:
        keyctl.set_permissions(key, _READ_ONLY)
    keyctl.set_permissions(digest_keyring, _READ_ONLY)


class Impossible(Exception):
    """The digest file cannot get fs-verity."""

    def __init__(self, gap: Gap) -> None:
        self.gap = gap


def _enable(pinned: Pinned, deployment: Deployment, keys: KernelKeys) -> tuple[bool, int | None]:
    """Return (first boot, bytes written to the device). Raises Impossible, Refusal."""
    if pinned.verified.form != DIGEST_FILE:
        what = "fs-verity is not enabled on a digest file: the signature covers the image itself"
        raise Impossible(Gap(what, unsupported=False))
    if pinned.verified.signer.certificate.sha256 not in keys.in_fsverity_keyring:
        # Without .fs-verity the kernel would take any signature; without the certificate in it, this one never.
        what = "fs-verity is not enabled on the digest file: the signer's certificate is not in .fs-verity"
        raise Impossible(Gap(what, unsupported=False))
    from . import enable  # prepare() has imported it

    pair = deployment.pair.path
    try:
        return enable.enroll(deployment, pinned.verified, paths.digest_of(pair))
    except enable.EnableFailed as refused:
        error = refused.error
        if error.errno in _IMPOSSIBLE_TO_ENABLE:
            what = f"fs-verity is not enabled on the digest file: {reason(error)}"
            raise Impossible(Gap(what, error.errno in _UNSUPPORTED)) from error
        if error.errno in _DISK_FAILED_TO_ENABLE:
            what = "fs-verity cannot be enabled on the digest file"
            raise failed(error, verdicts.IO_ERROR, what, paths.digest_of(pair)) from error
        what = f"the kernel refused the signature for the digest file: {reason(error)}"
        raise Refusal(verdicts.ENROLL_FAILED, what, paths.signature_of(pair)) from error
    except enable.CannotWrite as unwritten:
        what = f"fs-verity is not enabled on the digest file: {unwritten.step}: {reason(unwritten.error)}"
        raise Impossible(Gap(what, unsupported=False)) from unwritten
