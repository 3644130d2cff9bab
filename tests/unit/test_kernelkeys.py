# SPDX-License-Identifier: LGPL-2.1-or-later
"""kernelkeys.py: with a kernel made of dictionaries, whose calls can fail; and with this kernel's keyrings, as root."""

import errno

import pytest

from bootseal.linux import keyctl
from bootseal.linux.keyctl import Key
from bootseal.stages import kernelkeys
from bootseal.values import KernelKeys
from unit.support import certificate, oserror, run_python, trusting

ANCHOR = 1000
BOTH = trusting("p256", "rsa2048")
P256, RSA = (c.sha256 for c in BOTH.certificates)


class Kernel:
    """Keys and keyrings in dictionaries; `fail` names calls that fail, by (call, description or keyring)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = {ANCHOR: Key(ANCHOR, 0x1F0F0000, 0, "keyring", ".fs-verity")}
        self.rings: dict[int, list[int]] = {ANCHOR: []}
        self.restricted: set[int] = set()
        self.by_chain: set[int] = set()  # takes only certificates that a member signed
        self.fail: dict[tuple[str, object], int] = {}
        self.order: list[str] = []
        for name in ("add_key", "link", "restrict", "set_permissions", "members", "listed_keys", "describe"):
            monkeypatch.setattr(keyctl, name, getattr(self, name))

    def _call(self, name: str, what: object) -> None:
        self.order.append(name)
        for key in ((name, what), (name, None)):
            if key in self.fail:
                raise oserror(self.fail[key])

    def add_key(self, kind: str, description: str, payload: bytes | None, keyring: int) -> int:
        self._call("add_key", description)
        serial = max(self.keys) + 1
        self.keys[serial] = Key(serial, 0x3F010000, 0, kind, description)
        if kind == "keyring":
            self.rings[serial] = []
        self.rings.setdefault(keyring, []).append(serial)
        return serial

    def link(self, key: int, keyring: int) -> None:
        self._call("link", keyring)
        if keyring in self.by_chain:
            raise oserror(errno.ENOKEY if self.keys[key].kind == "asymmetric" else errno.EOPNOTSUPP)
        if keyring in self.restricted or not self.keys.get(keyring, self.keys[ANCHOR]).permissions & 0x04040404:
            raise oserror(errno.EACCES)
        self.rings.setdefault(keyring, []).append(key)

    def restrict(self, keyring: int) -> None:
        self._call("restrict", keyring)
        if keyring in self.restricted:
            raise oserror(errno.EEXIST)
        self.restricted.add(keyring)

    def set_permissions(self, key: int, mask: int) -> None:
        self._call("set_permissions", key)
        self.keys[key] = self.keys[key]._replace(permissions=mask)

    def members(self, keyring: int) -> tuple[int, ...]:
        self._call("members", keyring)
        return tuple(self.rings[keyring])

    def describe(self, key: int) -> Key:
        return self.keys[key]

    def listed_keys(self) -> list[Key]:
        self._call("listed_keys", None)
        return list(self.keys.values())

    def described(self, keyring: int) -> list[str]:
        return [self.keys[key].description for key in self.rings[keyring]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def load(*, digest_keyring: bool = True, seal: bool = True) -> KernelKeys:
    return kernelkeys.load(BOTH, digest_keyring=digest_keyring, seal=seal)


def test_all_is_well(kernel: Kernel) -> None:
    found = load()
    assert (found.unloaded, found.sealed, found.gaps) == ({}, True, ())
    assert set(found.loaded) == found.in_fsverity_keyring == {P256, RSA}
    assert set(kernel.described(ANCHOR)[:2]) == {f"bootseal:{P256}", f"bootseal:{RSA}"}
    assert kernel.described(ANCHOR)[2:] == ["bootseal"]
    assert kernel.restricted == {ANCHOR}
    assert kernel.keys[ANCHOR].permissions == 0x08030000
    assert found.digest_keyring is not None
    assert kernel.keys[found.digest_keyring].permissions == 0x37370000
    assert kernel.described(keyctl.USER_KEYRING) == ["bootseal"]


def test_the_seal_comes_last(kernel: Kernel) -> None:
    load()
    done = [name for name in kernel.order if name in ("add_key", "link", "restrict", "set_permissions")]
    assert done[-2:] == ["restrict", "set_permissions"]
    assert done.count("restrict") == 1


def test_method_none_makes_no_ring(kernel: Kernel) -> None:
    found = load(digest_keyring=False)
    assert (found.digest_keyring, found.sealed, found.gaps) == (None, True, ())
    assert "bootseal" not in kernel.described(ANCHOR)


def test_seal_no_leaves_it_open(kernel: Kernel) -> None:
    found = load(seal=False)
    assert (found.sealed, found.gaps) == (False, ())
    assert kernel.restricted == set()
    assert kernel.keys[ANCHOR].permissions == 0x1F0F0000


@pytest.mark.parametrize(
    "number", [errno.ENOPKG, errno.EBADMSG, errno.EDQUOT, errno.EINVAL, errno.ENOSYS, errno.EKEYREJECTED, errno.ENOENT]
)
def test_a_certificate_that_the_kernel_does_not_load(number: int, kernel: Kernel) -> None:
    kernel.fail["add_key", f"bootseal:{P256}"] = number
    found = load()
    assert list(found.loaded) == [RSA]
    assert found.unloaded == {P256: number}
    assert found.in_fsverity_keyring == {RSA}
    assert found.sealed
    assert kernel.described(ANCHOR) == [f"bootseal:{RSA}", "bootseal"]


def without_anchor(kernel: Kernel) -> None:
    del kernel.keys[ANCHOR]
    kernel.keys[1] = Key(1, 0x3F3F0000, 0, "keyring", "_uid.0")


def test_kernel_without_builtin_signatures(kernel: Kernel) -> None:
    without_anchor(kernel)
    found = load()
    assert set(found.loaded) == {P256, RSA}
    assert (found.in_fsverity_keyring, found.digest_keyring, found.sealed) == (frozenset(), None, False)
    (gaps,) = found.gaps
    assert gaps.unsupported
    assert ".fs-verity" in gaps.what


@pytest.mark.parametrize(
    ("number", "unsupported", "what"),
    [
        (errno.ENOENT, True, "no .fs-verity keyring"),
        (errno.EACCES, False, "cannot be listed: Permission denied (EACCES)"),
        (errno.EMFILE, False, "cannot be listed: Too many open files (EMFILE)"),
    ],
)
def test_kernel_without_proc_keys(number: int, what: str, *, unsupported: bool, kernel: Kernel) -> None:
    kernel.fail["listed_keys", None] = number
    found = load()
    (gaps,) = found.gaps
    assert (gaps.unsupported, found.digest_keyring, found.sealed) == (unsupported, None, False)
    assert what in gaps.what


def test_kernel_without_keys(kernel: Kernel) -> None:
    kernel.fail["add_key", None] = errno.ENOSYS
    kernel.fail["listed_keys", None] = errno.ENOENT
    found = load()
    assert found.loaded == {}
    assert found.unloaded == {P256: errno.ENOSYS, RSA: errno.ENOSYS}
    assert all(m.unsupported for m in found.gaps)


@pytest.mark.parametrize(
    "forgery",
    [
        Key(5, 0x3F3F3F3F, 1000, "keyring", ".fs-verity"),
        Key(5, 0x3F3F3F3F, 0, "user", ".fs-verity"),
        Key(5, 0x3F3F3F3F, 0, "keyring", "fs-verity"),
        Key(5, 0x3F3F3F3F, 0, "keyring", ".fs-verity2"),
    ],
    ids=["another user's", "no keyring", "no dot", "longer"],
)
def test_the_anchor_is_the_kernel_s_own(forgery: Key, kernel: Kernel) -> None:
    kernel.keys = {5: forgery, ANCHOR: kernel.keys[ANCHOR]}
    kernel.rings[5] = []
    load()
    assert kernel.rings[5] == []
    assert kernel.described(ANCHOR)


def test_second_start(kernel: Kernel) -> None:
    first = load()
    kernel.order.clear()
    second = load()
    assert (second.digest_keyring, second.in_fsverity_keyring, second.sealed, second.gaps) == (
        first.digest_keyring,
        first.in_fsverity_keyring,
        True,
        (),
    )
    assert "restrict" not in kernel.order
    assert sorted(kernel.described(ANCHOR)) == sorted(["bootseal", f"bootseal:{P256}", f"bootseal:{RSA}"])


def test_sealed_by_somebody_else(kernel: Kernel) -> None:
    kernel.restricted.add(ANCHOR)
    found = load()
    assert found.sealed
    assert found.in_fsverity_keyring == frozenset()
    assert sorted(m.what.split(":")[0] for m in found.gaps) == sorted(
        [
            f"the certificate {P256[:16]} is not in .fs-verity",
            f"the certificate {RSA[:16]} is not in .fs-verity",
            "no keyring for the digest in .fs-verity",
        ]
    )
    assert not any(m.unsupported for m in found.gaps)
    assert kernel.keys[ANCHOR].permissions == 0x08030000


def test_locked_by_somebody_else(kernel: Kernel) -> None:
    kernel.keys[ANCHOR] = kernel.keys[ANCHOR]._replace(permissions=0x08010000)
    kernel.fail["members", ANCHOR] = kernel.fail["restrict", ANCHOR] = kernel.fail["set_permissions", ANCHOR] = errno.EACCES
    found = load()
    assert found.sealed
    assert len(found.gaps) == 3


# What systemd-keyring-setup leaves: the kernel searches, root lists, adds what the restriction lets through, and removes.
SYSTEMD = 0x08070000


def sealed_by_systemd(kernel: Kernel) -> None:
    kernel.restricted.add(ANCHOR)
    kernel.by_chain.add(ANCHOR)
    kernel.fail["set_permissions", ANCHOR] = errno.EACCES
    kernel.keys[ANCHOR] = kernel.keys[ANCHOR]._replace(permissions=SYSTEMD)


def test_sealed_by_systemd(kernel: Kernel) -> None:
    """Neither certificates nor the ring come in; nothing of that is this kernel's lack, whatever the errno."""
    sealed_by_systemd(kernel)
    found = load()
    assert set(found.loaded) == {P256, RSA}
    assert (found.unloaded, found.in_fsverity_keyring, found.digest_keyring, found.sealed) == ({}, frozenset(), None, False)
    assert sorted(found.gaps) == sorted(
        [
            (f"the certificate {P256[:16]} is not in .fs-verity: Required key not available (ENOKEY)", False),
            (f"the certificate {RSA[:16]} is not in .fs-verity: Required key not available (ENOKEY)", False),
            ("no keyring for the digest in .fs-verity: Operation not supported (EOPNOTSUPP)", False),
            (".fs-verity is not sealed: Permission denied (EACCES)", False),
        ]
    )
    assert kernel.keys[ANCHOR].permissions == SYSTEMD
    assert kernel.described(ANCHOR) == []
    assert kernel.rings.get(keyctl.USER_KEYRING, []) == []


@pytest.mark.parametrize("mask", [0x082B0000, 0x28030000, 0x080B0020])
def test_what_root_can_open_again_is_not_locked(mask: int, kernel: Kernel) -> None:
    """Nobody may write, but somebody may set permissions."""
    kernel.keys[ANCHOR] = kernel.keys[ANCHOR]._replace(permissions=mask)
    assert load().sealed
    assert kernel.keys[ANCHOR].permissions == 0x08030000


@pytest.mark.parametrize(("call", "sealed"), [("restrict", False), ("set_permissions", False)])
def test_a_seal_that_fails_is_said(call: str, sealed: bool, kernel: Kernel) -> None:  # noqa: FBT001
    kernel.fail[call, ANCHOR] = errno.EPERM
    found = load()
    assert found.sealed is sealed
    (gaps,) = found.gaps
    assert gaps.what.startswith(".fs-verity is not sealed: ")


def test_a_ring_that_cannot_be_made_is_said(kernel: Kernel) -> None:
    kernel.fail["add_key", "bootseal"] = errno.EDQUOT
    found = load()
    assert found.digest_keyring is None
    assert [m.what for m in found.gaps] == ["no keyring for the digest in .fs-verity: Disk quota exceeded (EDQUOT)"]
    assert found.sealed


def test_a_forged_ring_of_our_name_is_not_taken(kernel: Kernel) -> None:
    kernel.keys[7] = Key(7, 0x3F3F0000, 0, "keyring", "bootseal")
    kernel.rings[7] = []
    assert load().digest_keyring != 7


def test_a_cut_between_restrict_and_lock_is_completed(kernel: Kernel) -> None:
    kernel.fail["set_permissions", ANCHOR] = errno.EINTR
    load()
    del kernel.fail["set_permissions", ANCHOR]
    found = load()
    assert (found.sealed, found.gaps) == (True, ())
    assert kernel.keys[ANCHOR].permissions == 0x08030000


def test_description() -> None:
    assert kernelkeys.description("ab") == "bootseal:ab"


# --- for real

SCRIPT = """
import errno, os, sys
from bootseal.stages import enroll, kernelkeys, keyring
from bootseal.linux import keyctl
anchor = keyctl.add_key("keyring", "stand-in for .fs-verity", None, keyctl.PROCESS_KEYRING)
keyctl.set_permissions(anchor, 0x3f3f0000)
kernelkeys.find_fsverity_keyring = lambda: anchor
def tried(name, *arguments):
    try: return f"{name} OK {keyctl._keyctl(*arguments)}"
    except OSError as error: return f"{name} {errno.errorcode[error.errno]}"
"""


@pytest.mark.root
def test_real_keyrings() -> None:
    """A keyring of this kernel stands in for `.fs-verity`, which userspace cannot make."""
    code = (
        SCRIPT
        + """
boot = keyring.load([sys.argv[1]])
found = kernelkeys.load(boot, digest_keyring=True, seal=True)
assert (found.unloaded, found.sealed, found.gaps) == ({}, True, ()), found
assert set(keyctl.members(anchor)) == {*found.loaded.values(), found.digest_keyring}
kinds = {k.serial: (k.kind, k.description) for k in keyctl.listed_keys()}
assert kinds[found.digest_keyring] == ("keyring", "bootseal")
if os.fork() == 0:  # who does not possess the stand-in; nobody possesses the kernel's own
  print(tried("clear", 7, anchor), tried("link", 8, found.digest_keyring, anchor),
      tried("unlink", 9, found.digest_keyring, anchor),
      tried("restrict", 29, anchor, None, None), tried("setperm", 5, anchor, 0x3f3f3f3f), tried("revoke", 3, anchor),
      tried("invalidate", 21, anchor), tried("timeout", 15, anchor, 1), tried("chown", 4, anchor, 1000, -1),
      sep="\\n", flush=True)
  os._exit(0)
os.wait()
again = kernelkeys.load(boot, digest_keyring=True, seal=True)
assert (again.digest_keyring, again.sealed, again.gaps) == (found.digest_keyring, True, ()), again
keyctl._keyctl(9, found.digest_keyring, keyctl.USER_KEYRING)
"""
    )
    assert [line.split()[1] for line in run_python(code, certificate("rsa2048").path).splitlines()] == ["EACCES"] * 9


@pytest.mark.root
def test_real_keyring_that_systemd_sealed() -> None:
    """A boot goes on, with notes, and Required=yes refuses it; the kernel still checks the signature."""
    code = (
        SCRIPT
        + """
from unit.support import candidate, deployment, pinned, policy, signature
from bootseal.stages import verify
from bootseal.errors import Refusal
keyctl._keyctl(29, anchor, b"asymmetric", b"key_or_keyring:0:chain")
keyctl.set_permissions(anchor, 0x08070000)
boot = keyring.load([sys.argv[1]])
if os.fork():  # who possesses the ring may less than its owner
    os.wait()
    os._exit(0)
keyctl._keyctl(1, None)
keys = kernelkeys.load(boot, digest_keyring=True, seal=True)
for missing in keys.gaps: print(missing.what.replace(boot.certificates[0].sha256[:16], "X"))
print(keys.in_fsverity_keyring, keys.digest_keyring, keys.sealed, {m.unsupported for m in keys.gaps})
good = pinned()._replace(verified=verify.verify(candidate(signature("A-fsv-rsa2048")), boot))
enrolled = enroll.enroll(good, deployment(), keys, policy())
print(enrolled.kernel_checked, len(enrolled.gaps))
try: enroll.enroll(good, deployment(), keys, policy(required=True))
except Refusal as refusal: print(refusal.verdict.name)
"""
    )
    assert run_python(code, certificate("rsa2048").path).splitlines() == [
        "the certificate X is not in .fs-verity: Required key not available (ENOKEY)",
        "no keyring for the digest in .fs-verity: Operation not supported (EOPNOTSUPP)",
        ".fs-verity is not sealed: Permission denied (EACCES)",
        "frozenset() None False {False}",
        "True 3",
        "enroll-failed",
    ]


@pytest.mark.root
def test_real_record_of_the_digest() -> None:
    """What enroll.py leaves in the ring: readable for root, and root can do nothing to it."""
    code = (
        SCRIPT
        + """
from unit.support import kernel_keys, verified
boot = keyring.load([sys.argv[1]])
found = kernelkeys.load(boot, digest_keyring=True, seal=True)
assert enroll._store_digest(verified(), found) == []
(key,) = keyctl.members(found.digest_keyring)
assert keyctl.read(key) == str(verified().digest).encode()
for what in (key, found.digest_keyring):
    print(tried("setperm", 5, what, 0x3f3f3f3f), tried("revoke", 3, what), tried("invalidate", 21, what),
          tried("timeout", 15, what, 1), tried("chown", 4, what, 1000, -1), sep="\\n")
print(tried("update", 2, key, b"x", 1), tried("clear", 7, found.digest_keyring), tried("unlink", 9, key, found.digest_keyring),
      tried("link", 8, found.digest_keyring, found.digest_keyring),
      tried("move", 30, key, found.digest_keyring, keyctl.PROCESS_KEYRING, 0), sep="\\n")
assert enroll._store_digest(verified(), found) == []
assert len(enroll._store_digest(verified()._replace(digest=verified().signed), found)) == 1
keyctl._keyctl(9, found.digest_keyring, keyctl.USER_KEYRING)
"""
    )
    said = [line.split()[1] for line in run_python(code, certificate("rsa2048").path).splitlines()]
    assert said == ["EACCES"] * 15


@pytest.mark.root
def test_real_check_of_a_signature() -> None:
    """KEYCTL_PKEY_VERIFY: the good one, another digest, a flipped bit."""
    code = (
        SCRIPT
        + """
import hashlib
from bootseal.stages import verify
from bootseal.errors import Refusal
from unit.support import candidate, pinned, signature
boot = keyring.load([sys.argv[1]])
found = kernelkeys.load(boot, digest_keyring=False, seal=False)
good = verify.verify(candidate(signature("A-fsv-rsa2048")), boot)
print(enroll._check_signature(good, found, "x"))
flipped = good.value[:-1] + bytes([good.value[-1] ^ 1])
changes = ({"value": flipped}, {"signed": good.digest}, {"value": b""}, {"hash_name": "sha512"})
for bad in (good._replace(**change) for change in changes):
    try: print("accepted", enroll._check_signature(bad, found, "x"))
    except Refusal as refusal: print(refusal.verdict.name)
"""
    )
    assert run_python(code, certificate("rsa2048").path).splitlines() == ["[]"] + ["enroll-failed"] * 4
