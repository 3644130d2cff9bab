# SPDX-License-Identifier: LGPL-2.1-or-later
"""enroll.py with a recorder in place of the kernel: every errno both ways, refused or impossible, Required yes and no."""

import errno
import hashlib
from typing import Any

import pytest

from bootseal.linux import keyctl
from bootseal.linux.keyctl import Key
from bootseal.stages import enable, enroll
from bootseal.values import Enrolled, Gap, KernelKeys, Policy
from unit.support import (
    EVERY_ERRNO,
    certificate,
    deployment,
    errno_name,
    kernel_keys,
    oserror,
    pinned,
    policy,
    refusal,
    trusting,
    verdict,
    verified,
)

SHA256 = verified().signer.certificate.sha256
TEXT = str(verified().digest).encode()
# Errnos for which enrolling is impossible, see bootseal.service(8). LACKING gives `unsupported` with Required=yes.
LACKING = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOPKG}
IMPOSSIBLE = LACKING | {errno.EDQUOT, errno.EROFS, errno.ENOSPC}
IMPOSSIBLE_TO_ENABLE = IMPOSSIBLE | {errno.EINVAL, errno.EPERM}
# EBADMSG is not the disk's here: the kernel cannot parse the signature.
DISK = {
    errno.EIO, errno.ETIMEDOUT, errno.ETIME, errno.ENOLINK, errno.EREMOTEIO, errno.EBADE, errno.ENODATA, errno.EILSEQ,
    errno.ENXIO, errno.EUCLEAN,
}  # fmt: skip


class Kernel:
    """Records the calls on keys, and fails those that a test names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, int] = {}
        self.present: tuple[int, ...] = ()
        self.content = TEXT
        self.permissions: dict[int, int] = {22: 0x37370000}
        for name in ("verify_signature", "members", "read", "add_key", "link", "restrict", "set_permissions", "describe"):
            monkeypatch.setattr(keyctl, name, self._stand_in(name))
        monkeypatch.setattr(enable, "enroll", self._stand_in("enable"))

    def _stand_in(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            if name in self.fail:
                error = oserror(self.fail[name])
                raise enable.EnableFailed(error) if name == "enable" else error
            if name == "set_permissions":
                self.permissions[arguments[0]] = arguments[1]
            if name == "describe":
                return Key(arguments[0], self.permissions.get(arguments[0], 0x3F010000), 0, "any", "any")
            return {"members": self.present, "read": self.content, "add_key": 33, "enable": (True, 4096)}.get(name)

        return call

    def changes(self) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] not in ("members", "read", "describe")]

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


LEAF, OTHER = "chain-leaf", "p256"  # the first is not self-signed


def prepare(*names: str, method: str = "keyring", loaded: bool = True) -> None:
    keyring = trusting(*names)
    keys = {c.sha256: number for number, c in enumerate(keyring.certificates, 101)} if loaded else {}
    enroll.prepare(policy(method=method), keyring, kernel_keys(loaded=keys))


@pytest.mark.parametrize(
    ("names", "arguments"),
    [((LEAF,), [101]), ((OTHER,), []), ((OTHER, LEAF), []), (("p384", LEAF), [102]), ((LEAF, LEAF), [102])],
)
def test_the_first_check_of_the_kernel_is_early(names: tuple[str, ...], arguments: list[int], kernel: Kernel) -> None:
    """Once for a kind of key, unless the kernel has checked a certificate's own signature with such a key."""
    kernel.fail["verify_signature"] = errno.EKEYREJECTED
    prepare(*names)
    assert [call[1] for call in kernel.calls] == arguments
    assert {call[0] for call in kernel.calls} <= {"verify_signature"}


@pytest.mark.parametrize(("method", "loaded"), [("none", True), ("keyring", False)])
def test_without_the_kernels_check_there_is_none(method: str, *, loaded: bool, kernel: Kernel) -> None:
    prepare(LEAF, method=method, loaded=loaded)
    assert kernel.calls == []


def test_a_kernel_that_accepts_a_wrong_signature_refuses_the_boot(kernel: Kernel) -> None:
    refused = refusal(prepare, LEAF)
    assert (refused.verdict.name, refused.what) == ("enroll-failed", "the kernel accepts a wrong signature")
    assert refused.path == trusting(LEAF).certificates[0].path


@pytest.mark.parametrize(
    ("name", "info", "size"), [(LEAF, "enc=x962 hash=sha256", 8), ("rsa4096", "enc=pkcs1 hash=sha256", 512)]
)
def test_the_wrong_signature_has_the_right_form(name: str, info: str, size: int, kernel: Kernel) -> None:
    kernel.fail["verify_signature"] = errno.EBADMSG
    enroll._try_wrong_signature(certificate(name), 5)
    ((_, key, said, hashed, value),) = kernel.calls
    assert (key, said, len(hashed), len(value)) == (5, info, 32, size)


def run(keys: KernelKeys | None = None, **changes: Any) -> Enrolled:
    return enroll.enroll(pinned(), deployment(), keys or kernel_keys(), policy(**changes))


def outcome(keys: KernelKeys | None = None, **changes: Any) -> str:
    return verdict(enroll.enroll, pinned(), deployment(), keys or kernel_keys(), policy(**changes))


def test_method_none_asks_nothing(kernel: Kernel) -> None:
    found = run(method="none", required=True)
    assert (found.method, found.first_boot, found.bytes_written, found.gaps) == ("none", False, 0, ())
    assert kernel.calls == []


def test_keyring(kernel: Kernel) -> None:
    found = run()
    assert (found.method, found.first_boot, found.bytes_written, found.gaps) == ("keyring", False, 0, ())
    hashed = hashlib.sha256(verified().signed.formatted()).digest()
    assert kernel.changes() == [
        ("verify_signature", 11, "enc=x962 hash=sha256", hashed, b"value"),
        ("add_key", "user", "composefs-digest", TEXT, keyctl.PROCESS_KEYRING),
        ("link", 33, 22),
        ("restrict", 22),
        ("set_permissions", 33, 0x03030303),
        ("set_permissions", 22, 0x03030303),
    ]


@pytest.mark.parametrize(
    ("trust", "algorithm", "info"),
    [("p256", "ecdsa-sha256", "enc=x962 hash=sha256"), ("rsa2048", "rsa-sha256", "enc=pkcs1 hash=sha256")],
)
def test_what_the_kernel_is_asked(trust: str, algorithm: str, info: str, kernel: Kernel) -> None:
    made = verified(trust=trust, algorithm=algorithm)
    keys = kernel_keys(loaded={certificate(trust).sha256: 44, "other": 45})
    enroll.enroll(pinned()._replace(verified=made), deployment(), keys, policy())
    assert kernel.calls[0][:3] == ("verify_signature", 44, info)


@pytest.mark.parametrize("hash_name", ["sha384", "sha512"])
def test_the_hash_is_the_signature_s(hash_name: str, kernel: Kernel) -> None:
    made = verified()._replace(hash_name=hash_name)
    enroll.enroll(pinned()._replace(verified=made), deployment(), kernel_keys(), policy())
    hashed = hashlib.new(hash_name, made.signed.formatted()).digest()
    assert kernel.calls[0][2:4] == (f"enc=x962 hash={hash_name}", hashed)


@pytest.mark.parametrize("method", ["keyring", "fsverity"])
@pytest.mark.parametrize("number", EVERY_ERRNO, ids=errno.errorcode.get)
def test_errnos_of_the_check(number: int, method: str, kernel: Kernel) -> None:
    kernel.fail["verify_signature"] = number
    if number in IMPOSSIBLE:
        (gaps,) = run(method=method).gaps
        assert errno_name(number) in gaps.what
        assert gaps.unsupported is (number in LACKING)
        assert outcome(method=method, required=True) == ("unsupported" if number in LACKING else "enroll-failed")
    else:
        found = refusal(enroll.enroll, pinned(), deployment(), kernel_keys(), policy(method=method))
        assert (found.verdict.name, found.path) == ("enroll-failed", f"{deployment().pair.path}.sig")


@pytest.mark.parametrize("number", EVERY_ERRNO, ids=errno.errorcode.get)
def test_errnos_of_enabling(number: int, kernel: Kernel) -> None:
    kernel.fail["enable"] = number
    if number in IMPOSSIBLE_TO_ENABLE:
        found = run(method="fsverity")
        (gaps,) = found.gaps
        assert (found.first_boot, found.bytes_written) == (False, None)
        assert errno_name(number) in gaps.what
        assert outcome(method="fsverity", required=True) == ("unsupported" if number in LACKING else "enroll-failed")
    else:
        expected = "io-error" if number in DISK else "enroll-failed"
        assert outcome(method="fsverity") == outcome(method="fsverity", required=True) == expected
        what = refusal(enroll.enroll, pinned(), deployment(), kernel_keys(), policy(method="fsverity")).what
        assert ("refused the signature" in what) == (number not in DISK)


def test_refused_before_the_digest_is_recorded_or_the_disk_written(kernel: Kernel) -> None:
    kernel.fail["verify_signature"] = errno.EKEYREJECTED
    assert outcome(method="fsverity") == "enroll-failed"
    assert kernel.names() == ["verify_signature"]


def test_a_digest_that_the_kernel_refuses_to_enable_is_not_recorded(kernel: Kernel) -> None:
    """A refused boot must not leave a digest in the keyring, which software trusts later."""
    kernel.fail["enable"] = errno.EKEYREJECTED
    assert outcome(method="fsverity") == "enroll-failed"
    assert "add_key" not in kernel.names()


def test_a_digest_that_could_not_be_enabled_is_not_recorded_when_required(kernel: Kernel) -> None:
    kernel.fail["enable"] = errno.ENOTTY
    assert outcome(method="fsverity", required=True) == "unsupported"
    assert "add_key" not in kernel.names()


def test_nothing_is_written_when_required_cannot_be_met(kernel: Kernel) -> None:
    """A refused boot must not change the disk."""
    kernel.fail["verify_signature"] = errno.ENOPKG
    assert outcome(method="fsverity", required=True) == "unsupported"
    assert "enable" not in kernel.names()


@pytest.mark.parametrize("call", ["members", "add_key", "link", "restrict", "set_permissions"])
@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOSYS])
def test_a_digest_that_is_not_recorded_is_said(call: str, number: int, kernel: Kernel) -> None:
    kernel.fail[call] = number
    (gaps,) = run().gaps
    assert "kernel keyring" in gaps.what
    assert outcome(required=True) == ("unsupported" if number == errno.ENOSYS else "enroll-failed")


def test_second_start_with_the_same_digest(kernel: Kernel) -> None:
    kernel.present = (77,)
    kernel.permissions = {22: 0x03030303, 77: 0x03030303}
    kernel.fail = {"restrict": errno.EACCES, "set_permissions": errno.EACCES}
    assert run().gaps == ()
    assert "add_key" not in kernel.names()


def test_second_start_locks_what_the_first_left_open(kernel: Kernel) -> None:
    """The first start was killed between link and restrict: root could still add to the keyring."""
    kernel.present = (77,)
    assert run().gaps == ()
    assert kernel.changes()[1:] == [("restrict", 22), ("set_permissions", 77, 0x03030303), ("set_permissions", 22, 0x03030303)]


def test_second_start_after_a_cut_between_key_and_ring(kernel: Kernel) -> None:
    """Restricted, and the key locked, by the first start."""
    kernel.present = (77,)
    kernel.permissions[77] = 0x03030303
    kernel.fail["restrict"] = errno.EEXIST
    assert run().gaps == ()
    assert kernel.changes()[-1] == ("set_permissions", 22, 0x03030303)


@pytest.mark.parametrize(("present", "content"), [((77,), b"sha256:" + b"00" * 32), ((77, 78), TEXT), ((77,), TEXT + b"0")])
def test_another_digest_is_there(present: tuple[int, ...], content: bytes, kernel: Kernel) -> None:
    kernel.present, kernel.content = present, content
    (gaps,) = run().gaps
    assert "another start" in gaps.what
    assert outcome(required=True) == "enroll-failed"


def test_fsverity_needs_a_signed_digest_file(kernel: Kernel) -> None:
    """A signature of the image itself cannot be built into another file."""
    of_image = pinned()._replace(verified=verified()._replace(form="image"))
    found = enroll.enroll(of_image, deployment(), kernel_keys(), policy(method="fsverity"))
    assert [gap.what for gap in found.gaps] == [
        "fs-verity is not enabled on a digest file: the signature covers the image itself"
    ]
    assert "enable" not in kernel.names()
    required = policy(method="fsverity", required=True)
    assert refusal(enroll.enroll, of_image, deployment(), kernel_keys(), required).verdict.name == "enroll-failed"


def test_fsverity(kernel: Kernel) -> None:
    found = run(method="fsverity")
    assert (found.method, found.first_boot, found.bytes_written, found.gaps) == ("fsverity", True, 4096, ())
    enable = next(call for call in kernel.calls if call[0] == "enable")
    assert enable[1:] == (deployment(), verified(), f"{deployment().pair.path}.digest")


def test_fsverity_that_cannot_write(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise enable.CannotWrite("making the filesystem writable for a moment", oserror(errno.EACCES))

    monkeypatch.setattr(enable, "enroll", cannot)
    (gaps,) = run(method="fsverity").gaps
    assert "making the filesystem writable for a moment: Permission denied (EACCES)" in gaps.what
    assert outcome(method="fsverity", required=True) == "enroll-failed"


NO_KEYRING = Gap("no .fs-verity keyring: this kernel does not check built-in fs-verity signatures", True)


def test_without_the_kernel_s_keyring(kernel: Kernel) -> None:
    keys = kernel_keys(digest_keyring=None, sealed=False, gaps=(NO_KEYRING,))
    assert run(keys).gaps == (NO_KEYRING,)
    assert kernel.names() == ["verify_signature"]
    assert outcome(keys, required=True) == "unsupported"


def test_without_the_kernel_s_keyring_nothing_is_enabled(kernel: Kernel) -> None:
    """A kernel without the keyring enables fs-verity with any signature."""
    keys = kernel_keys(digest_keyring=None, in_fsverity_keyring=frozenset(), sealed=False, gaps=(NO_KEYRING,))
    found = run(keys, method="fsverity")
    assert found.gaps[0] == NO_KEYRING
    assert "fs-verity is not enabled" in found.gaps[1].what
    assert "enable" not in kernel.names()
    assert outcome(keys, method="fsverity", required=True) == "unsupported"


def test_a_certificate_that_is_not_in_a_sealed_keyring_is_no_refusal(kernel: Kernel) -> None:
    """Somebody else sealed `.fs-verity` without it: enabling would answer ENOKEY, which says nothing of the signature."""
    kernel.fail["enable"] = errno.ENOKEY
    found = run(kernel_keys(in_fsverity_keyring=frozenset()), method="fsverity")
    assert found.kernel_checked
    assert len(found.gaps) == 1
    assert "enable" not in kernel.names()


# ENOPKG or EBADMSG if a certificate cannot be loaded; ENOENT on kernels without ECDSA (seen on 6.18).
UNLOADABLE = IMPOSSIBLE | {errno.EBADMSG, errno.ENOENT}


@pytest.mark.parametrize("method", ["keyring", "fsverity"])
@pytest.mark.parametrize("number", sorted(UNLOADABLE), ids=errno.errorcode.get)
def test_the_signer_s_certificate_is_not_in_the_kernel(number: int, method: str, kernel: Kernel) -> None:
    keys = kernel_keys(loaded={}, unloaded={SHA256: number}, in_fsverity_keyring=frozenset())
    kernel.fail["enable"] = errno.ENOKEY  # the kernel lacks the key
    found = run(keys, method=method)
    assert not found.kernel_checked
    assert errno_name(number) in found.gaps[0].what
    assert "verify_signature" not in kernel.names()
    assert outcome(keys, method=method, required=True) == ("unsupported" if number in LACKING else "enroll-failed")


def test_a_signer_s_certificate_that_the_kernel_rejects(kernel: Kernel) -> None:
    """Refuse after EKEYREJECTED, which means that the kernel has revoked the key."""
    assert (
        outcome(kernel_keys(loaded={}, unloaded={SHA256: errno.EKEYREJECTED}, in_fsverity_keyring=frozenset()))
        == "enroll-failed"
    )


def test_another_certificate_that_is_not_in_the_kernel_does_not_matter(kernel: Kernel) -> None:
    keys = kernel_keys(unloaded={"ff" * 32: errno.EBADMSG})
    assert run(keys).gaps == ()
    assert outcome(keys, required=True) == "accepted"


@pytest.mark.parametrize("method", ["keyring", "fsverity"])
def test_whether_the_kernel_checked(method: str, kernel: Kernel) -> None:
    assert run(method=method).kernel_checked
    kernel.fail["verify_signature"] = errno.ENOPKG
    assert not run(method=method).kernel_checked
    assert not run(method="none").kernel_checked


def test_what_was_missing_before_is_handed_on(kernel: Kernel) -> None:
    keys = kernel_keys(gaps=(Gap(".fs-verity is not sealed: Permission denied (EACCES)", False),))
    assert run(keys).gaps == keys.gaps
    assert outcome(keys, required=True) == "enroll-failed"


def test_required_names_all_that_is_missing(kernel: Kernel) -> None:
    kernel.fail["verify_signature"] = errno.ENOPKG
    keys = kernel_keys(gaps=(Gap("no keyring: Disk quota exceeded (EDQUOT)", unsupported=False),))
    found = refusal(enroll.enroll, pinned(), deployment(), keys, policy(required=True))
    assert (found.verdict.name, found.path) == ("unsupported", f"{deployment().pair.path}.digest")
    assert "ENOPKG" in found.what
    assert "EDQUOT" in found.what


@pytest.mark.parametrize(
    "chosen", [policy(), policy(required=True), policy(method="fsverity"), policy(method="fsverity", required=True)]
)
def test_all_is_well_with_every_policy(chosen: Policy, kernel: Kernel) -> None:
    assert enroll.enroll(pinned(), deployment(), kernel_keys(), chosen).gaps == ()
