# SPDX-License-Identifier: LGPL-2.1-or-later
"""dryrun.py: the boot's own verdict, before the boot."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal import libcrypto, reference, verdicts
from bootseal.errors import Refusal
from bootseal.host import dryrun, inside, objects
from bootseal.host.deployed import Deployed
from bootseal.host.layouts import ostree
from bootseal.layouts import ostreebooted
from bootseal.linux import files
from bootseal.stages import image as image_stage
from bootseal.stages import keyring, physicalroot
from bootseal.values import RootConfig
from unit.support import deployment, policy, refusal

from .initrds import cpio_archive
from .program import TREE, certificate, image, key, signed
from .roots import A, Root, failing, fill, link_parent, link_to_fifo, make_initrd, run_verify

# Where verify ends on this machine: with another root than the running system's, or on a kernel with fs-verity.
UNSEALED = ("incomplete", "image-unsealed")
FIRST_SIGNATURE = """
import sys
sys.path.insert(0, sys.argv[1])
from bootseal.host import dryrun
from bootseal.stages import keyring, verify
from bootseal.values import BootKeyring, Unverified
before = set(sys.modules)
digest, signature = (open(sys.argv[2] + suffix, "rb").read() for suffix in (".digest", ".sig"))
trusted = BootKeyring(tuple(keyring.load_file(sys.argv[3])), ())
verify.verify(Unverified(digest, stands_in=False, signature=signature, pair_path=""), trusted)
print(*set(sys.modules) - before)
"""


def test_no_child_imports_what_its_parent_could(tmp_path: Path) -> None:
    """The parent makes a child for each deployment."""
    path = image(tmp_path)
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    command = [sys.executable, "-I", "-c", FIRST_SIGNATURE, str(TREE / "service"), str(path), str(certificate("p256"))]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == []


@pytest.mark.parametrize(("uid", "hint"), [(1000, "run as root"), (0, verdicts.MOUNT_FAILED.hint)])
@pytest.mark.parametrize("state", ["", "staged"])
def test_what_only_root_may_open(
    root: Root, state: str, uid: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/c.crt").write_bytes(certificate("p256").read_bytes())
    found = Deployed(root.add(A), state, None, ())
    monkeypatch.setattr(dryrun, "_is_privileged", lambda: uid == 0)
    monkeypatch.setattr(physicalroot, "private_namespace", lambda: -1)
    failing(monkeypatch, files, "openat2", f"{A}.0", errno.EACCES)
    record = dryrun._judge(found, str(root.top), dryrun.Source(str(tmp_path), "keys", keys=str(tmp_path / "keys")))
    assert (record["verdict"], record["hint"]) == ("mount-failed", hint)
    assert "cannot be opened: Permission denied (EACCES)" in record["message"]


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("usr")


MUTATIONS: dict[str, tuple[Callable[[Path, Root], object], int, str]] = {
    "no-digest": (lambda d, r: (d / ".ostree.cfs.digest").unlink(), 66, "no-digest"),
    "no-signature": (lambda d, r: (d / ".ostree.cfs.sig").unlink(), 66, "no-signature"),
    "bad-digest": (lambda d, r: (d / ".ostree.cfs.digest").write_bytes(bytes(31)), 65, "bad-digest"),
    "bad-signature": (lambda d, r: (d / ".ostree.cfs.sig").write_bytes(b""), 65, "bad-signature"),
    "wrong-signature": (lambda d, r: (d / ".ostree.cfs.digest").write_bytes(bytes(32)), 77, "wrong-signature"),
    "no-image": (lambda d, r: (d / ".ostree.cfs").unlink(), 66, "no-image"),
    "link": (lambda d, r: _link(d / ".ostree.cfs.sig"), 65, "bad-signature"),
    "no-etc": (lambda d, r: (d / "etc").rmdir(), 66, "no-deployment"),
    "no-module": (lambda d, r: r.set_initrd(cpio_archive({"etc/x": b""})), 78, "no-keys"),
    "no-keys": (lambda d, r: r.set_initrd(make_initrd(**{"etc/bootseal/keys.d/a.pem": b""})), 78, "no-keys"),
    "bad-config": (lambda d, r: r.set_initrd(make_initrd(**{"etc/bootseal/bootseal.conf": b"[No]\na=b\n"})), 78, "bad-config"),
    "prepare-root": (lambda d, r: r.set_initrd(make_initrd(**{"usr/lib/ostree/ostree-prepare-root": b""})), 78, "bad-config"),
    "hook": (
        lambda d, r: r.set_initrd(make_initrd(**{"var/lib/dracut/hooks/pre-pivot/01-fips-crypto-policies.sh": b""})),
        78,
        "bad-config",
    ),
    "kernel": (lambda d, r: (d / "usr/lib/modules/6.12/config").write_text("CONFIG_FS_VERITY=y\n"), 69, "unsupported"),
    "untrusted": (
        lambda d, r: r.set_initrd(make_initrd(**{"etc/bootseal/keys.d/a.pem": certificate("p384").read_bytes()})),
        77,
        "untrusted-signer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_verify_with_the_initrd_of_the_boot_entry(
    signed_root: Root, mutation: tuple[Callable[[Path, Root], object], int, str]
) -> None:
    change, status, verdict = mutation
    # The signature is good up to here; only fs-verity is missing on this machine.
    before = run_verify(signed_root)[1]
    assert before["verdict"] in UNSEALED
    assert "signature" in before
    change(signed_root.top / f"ostree/deploy/os/deploy/{A}.0", signed_root)
    code, record = run_verify(signed_root)
    assert (code, record["verdict"]) == (status, verdict), record


def judged(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Judge in this process, as an unprivileged user."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/c.crt").write_bytes(certificate("p256").read_bytes())
    monkeypatch.setattr(dryrun, "_is_privileged", lambda: False)
    source = dryrun.Source(str(tmp_path), "keys", keys=str(tmp_path / "keys"))
    return dryrun._judge(root.found()[0], str(root.top), source)


def test_a_certificate_that_another_reader_reads_otherwise(
    signed_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = keyring.certificate
    monkeypatch.setattr(keyring, "certificate", lambda *arguments: real(*arguments)._replace(not_after="9999-12-31T23:59:59Z"))
    record = judged(signed_root, tmp_path, monkeypatch)
    assert record["verdict"] == "internal"
    assert f"the package cryptography reads another not_after: {tmp_path}/keys/c.crt" in str(record["message"])


@pytest.mark.parametrize("content", [None, bytes(32)], ids=["good", "wrong"])
@pytest.mark.parametrize("liar", [libcrypto, reference], ids=["libcrypto", "cryptography"])
def test_a_signature_that_another_verifier_judges_otherwise(
    signed_root: Root, liar: object, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one takes a wrong signature for a good one, or the reverse."""
    if content:
        (signed_root.top / f"ostree/deploy/os/deploy/{A}.0/.ostree.cfs.digest").write_bytes(content)
    function = "verify" if liar is libcrypto else "verify_signature"
    monkeypatch.setattr(liar, function, lambda *_: content is not None)
    record = judged(signed_root, tmp_path, monkeypatch)
    assert record["verdict"] == "internal"
    assert "OpenSSL's libcrypto and the package cryptography disagree on the signature of " in str(record["message"])
    assert ".ostree.cfs.sig" in str(record["message"])


_NO_VERITY = OSError(errno.EOPNOTSUPP, "injected")


def _lack_fsverity(monkeypatch: pytest.MonkeyPatch, cause: Exception | None, *, kernel: bool) -> None:
    """Take fs-verity away from a filesystem of this machine, and maybe from the kernel."""
    monkeypatch.setattr(objects, "kernel_lacks_fsverity", lambda: not kernel)

    def lack(fd: int, path: str) -> str:
        raise Refusal(verdicts.UNSUPPORTED, "no fs-verity here", path) from cause

    monkeypatch.setattr(image_stage, "_measure", lack)


@pytest.mark.parametrize(
    ("change", "running", "cause", "kernel", "verdict", "status"),
    [
        (None, False, _NO_VERITY, False, "incomplete", 75),
        (None, False, None, True, "incomplete", 75),
        (b"another image", False, _NO_VERITY, False, "image-mismatch", 77),
        (None, True, _NO_VERITY, False, "unsupported", 69),
        (None, False, _NO_VERITY, True, "unsupported", 69),
    ],
    ids=["kernel", "overlayfs", "another-image", "running", "no-feature"],
)
def test_on_a_machine_without_fsverity(
    signed_root: Root,
    change: bytes | None,
    running: bool,  # noqa: FBT001
    cause: Exception | None,
    kernel: bool,  # noqa: FBT001
    verdict: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What can be known is known: the image is the one that was signed. That a running system lacks is its verdict."""
    _lack_fsverity(monkeypatch, cause, kernel=kernel)
    if running:
        Path(ostreebooted.PATH).touch()
    if change is not None:
        (signed_root.top / signed_root.found()[0].path / ".ostree.cfs").write_bytes(change)
    record = judged(signed_root, tmp_path, monkeypatch)
    assert (record["verdict"], record["exit_status"]) == (verdict, status), record
    assert ("not tried: fs-verity" in str(record["missing"])) is (verdict != "unsupported")
    assert ("ostree admin post-copy" in str(record["hint"])) is (verdict == "incomplete")


def test_a_module_that_undoes_the_check_is_named(signed_root: Root) -> None:
    signed_root.set_initrd(make_initrd(**{"usr/lib/systemd/system/composefs-setup-root.service": b""}))
    record = run_verify(signed_root)[1]
    assert "dracut module 'composefs' is in this initrd and undoes the check (usr/lib/" in str(record["message"])
    assert 'omit_dracutmodules+=" composefs "' in str(record["hint"])


VOA = "usr/share/voa/os/kernel-keyring/fs-verity/x509/a-certificate.pem"


@pytest.mark.parametrize(
    ("configuration", "path", "trusted"),
    [
        (b"[Keyring]\nVOA=os\n", VOA, True),
        (b"[Keyring]\nVOA=os:1\n", VOA.replace("/os/", "/os:1/"), True),
        (b"[Keyring]\nVOA=os\n", VOA.replace("usr/share", "etc"), True),
        (b"[Keyring]\nVOA=no\n", VOA, False),
        (b"", VOA, False),
        (b"[Keyring]\nVOA=other\n", VOA, False),
        (b"[Keyring]\nVOA=os\n", VOA.replace("usr/share", "run"), False),
    ],
)
def test_certificates_of_voa(signed_root: Root, configuration: bytes, path: str, *, trusted: bool) -> None:
    pem = certificate("p256").read_bytes()
    signed_root.set_initrd(
        make_initrd(**{"etc/bootseal/keys.d/a.pem": b"", path: pem, "etc/bootseal/bootseal.conf.d/1.conf": configuration})
    )
    record = run_verify(signed_root)[1]
    assert (record["verdict"] in UNSEALED) is trusted, record
    assert trusted or record["verdict"] == "no-keys"


@pytest.mark.parametrize("lacking", ["FS_VERITY", "EROFS_FS", "OVERLAY_FS"])
def test_kernel_options(signed_root: Root, lacking: str) -> None:
    options = {"FS_VERITY": "y", "EROFS_FS": "m", "OVERLAY_FS": "m", "FS_VERITY_BUILTIN_SIGNATURES": "y"}
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/usr/lib/modules/6.12/config"
    path.write_text("".join(f"CONFIG_{name}={value}\n" for name, value in options.items()))
    assert "CONFIG" not in str(run_verify(signed_root)[1])
    path.write_text("".join(f"CONFIG_{n}={v}\n" if n != lacking else f"# CONFIG_{n} is not set\n" for n, v in options.items()))
    assert f"the kernel lacks CONFIG_{lacking}:" in str(run_verify(signed_root)[1]["message"])
    path.unlink()
    assert "not known" in str(run_verify(signed_root)[1]["missing"])


def test_nothing_is_left_and_nothing_is_written(signed_root: Root, tmp_path: Path) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(p), p.lstat().st_mtime_ns) for p in tmp_path.rglob("*"))

    before, mounts = state(), Path("/proc/self/mountinfo").read_text()
    run_verify(signed_root)
    assert state() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts


UPPER = {
    "bind": ("bind", "", lambda _: None, ""),
    "absent": ("overlay", "rw", lambda _: None, ""),
    "from an earlier boot": ("overlay", "ro rw", lambda etc: (etc / "upper").mkdir(), ""),
    "a link": ("overlay", "rw", lambda etc: (etc / "upper").symlink_to("/"), "cannot be opened"),
    "a file": ("overlay", "rw", lambda etc: (etc / "work").touch(), "cannot be opened"),
    "read-only": ("overlay", "rw ro", lambda _: None, "would be read-only"),
    "read-only by default": ("overlay", "quiet", lambda _: None, "would be read-only"),
}


@pytest.mark.parametrize(("mode", "options", "make", "what"), UPPER.values(), ids=UPPER)
def test_upper_layers_on_the_disk(mode: str, options: str, make: Callable[[Path], object], what: str, tmp_path: Path) -> None:
    """They are judged without the write that mounting them is."""
    (tmp_path / "etc").mkdir()
    make(tmp_path / "etc")
    fd = os.open(tmp_path / "etc", os.O_PATH)
    found = deployment(etc_fd=fd, path="state/deploy/x")
    root = RootConfig(True, False, True, mode, "")
    if what:
        refused = refusal(dryrun._check_upper_layers, found, root, options)
        assert (refused.verdict.name, what in refused.what) == ("mount-failed", True)
    else:
        dryrun._check_upper_layers(found, root, options)
    os.close(fd)


OPTIONS = "CONFIG_FS_VERITY=y\nCONFIG_EROFS_FS=y\nCONFIG_OVERLAY_FS=y\n"
CONFIGS: dict[str, Callable[[Path, Path], object]] = {
    "linked file": lambda config, outside: config.symlink_to(outside / "config"),
    "linked directory": link_parent,
    "fifo": lambda config, _: os.mkfifo(config),
    "linked fifo": link_to_fifo,
}


def kernel_config(deployed: Deployed, root: Root) -> tuple[str, bytes]:
    return ostree.read_kernel_config(deployed.path, str(root.top), dryrun._CONFIG_SIZE)


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_the_configuration_of_the_kernel_is_the_deployments_own(
    make: Callable[[Path, Path], object], root: Root, tree: Path, outside: Path
) -> None:
    (outside / "config").write_text(OPTIONS)
    make(tree / "usr/lib/modules/6.12/config", outside)
    assert kernel_config(root.found()[0], root) == ("", b"")


def test_a_configuration_within_the_deployment_may_be_linked(root: Root, tree: Path) -> None:
    (tree / "usr/lib/ostree-boot").mkdir()
    (tree / "usr/lib/ostree-boot/config-6.12").write_text(OPTIONS)
    path = tree / "usr/lib/modules/6.12/config"
    found = root.found()[0]
    assert kernel_config(found, root)[0] == str(tree / "usr/lib/ostree-boot/config-6.12")
    path.symlink_to("/usr/lib/ostree-boot/config-6.12")
    assert kernel_config(found, root) == (str(path), OPTIONS.encode())


def test_a_configuration_without_end(root: Root, tree: Path) -> None:
    with (tree / "usr/lib/modules/6.12/config").open("w") as file:
        file.write(OPTIONS)
        file.truncate(1 << 40)
    assert len(kernel_config(root.found()[0], root)[1]) == dryrun._CONFIG_SIZE


@pytest.mark.parametrize("end", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_only_newlines_end_a_line_of_the_configuration(end: str, root: Root, tree: Path) -> None:
    (tree / "usr/lib/modules/6.12/config").write_bytes(f"# x{end}{OPTIONS}".encode())
    refused = refusal(dryrun._check_kernel, root.found()[0], str(root.top), policy(), [])
    assert refused.what == "the kernel lacks CONFIG_FS_VERITY"


def test_a_full_directory_of_kernels_is_no_bug_of_the_judge(root: Root, tree: Path) -> None:
    fill(tree / "usr/lib/modules", inside.MAX_NAMES)
    assert kernel_config(root.found()[0], root) == ("", b"")
