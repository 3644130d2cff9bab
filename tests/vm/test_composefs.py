# SPDX-License-Identifier: LGPL-2.1-or-later
"""Repositories of composefs-rs as bootc lays them out: good boots, refusals, and an update with its gate.

No bootc runs here, because no distribution of the tests has it. mkcomposefs writes the images that composefs-rs writes, and
the checks of a booted system are those that bootc makes, each with its source.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bootseal.host import erofs
from vm import bootc, staging
from vm.harness import composefs, guest, qemu, signed
from vm.harness.ask import ask, put_file
from vm.harness.cache import cached, digest_of, temporary
from vm.harness.changes import SIGNED_BY_STRANGER, Change, Names, changed, commands, put, several
from vm.harness.disk import image_of
from vm.harness.jobs import Job
from vm.harness.parse import Said, first_json
from vm.refusals import OUTSIDE
from vm.scenario import UNREAD_DISK, Outcome, Refused, Scenario, nightly, rows

pytestmark = pytest.mark.vm

TOML = "usr/lib/composefs/setup-root-conf.toml"
_OTHER_DISK = "/dev/disk/by-id/virtio-guest-other"
NONE = "0" * 64  # the digest of no image
_STATUS = ask(status="bootseal status")
_ASK = ask(
    record="cat /run/bootseal/boot.json",
    mounts="cat /proc/self/mountinfo",
    failed="systemctl --failed --no-legend --plain",
    name="cat /usr/share/bootseal-test/name",
    marks="cat /etc/guest-marks /var/guest-marks 2>&1 || :\nfor top in /etc /var; do echo mark >>$top/guest-marks || :; done",
    usr="touch /usr/guest-mark 2>&1 || :",
    object="head -c 8 /usr/share/bootseal-test/tamper",
    run="find /run/ostree* /run/bootseal /run/systemd/volatile-root | sort 2>/dev/null",
    device="readlink /run/systemd/volatile-root; cat /sys/class/block/vda/dev",
    cmdline="cat /proc/cmdline",
    digest="fsverity measure /sysroot/state/deploy/*/bootseal.digest 2>&1 || :",
)


def image(algorithm: str = "sha256", form: str = "digest-file", suite: str = "forky") -> Callable[[], guest.Image]:
    return functools.partial(composefs.image, suite, algorithm, form=form)


@functools.cache
def configured() -> Path:
    """Build an initrd with a configuration of bootc's for the root, whose content a boot may replace."""
    return guest.initrd("forky", keys=[signed.named(signed.key().certificate)], extra_files={TOML: b""}).built()


def _sealed_by_deploy() -> guest.Image:
    """Seal a disk with btrfs by 'bootseal deploy --objects', in a guest that boots from another one."""
    first = composefs.root().images["one"]
    plain = image_of(first, "btrfs", files=composefs.beside(first.cfs, "sha256"), sealed=False)
    script = f"mkdir /run/other\nmount {_OTHER_DISK} /run/other\n" + ask(
        deploy="bootseal deploy --objects --sysroot=/run/other --json=short", unmount="umount /run/other"
    )

    def build(path: Path) -> None:
        disk = qemu.Disk(guest.copy_disk(plain.disk, path / "disk.raw"), "raw", "guest-other")
        made = composefs.image()
        result = guest.boot(
            made,
            signed.initrd(),
            append=UNREAD_DISK,
            rw=True,
            disks=[disk],
            script=script,
            timeout=qemu.LONG,
            title="composefs btrfs: seal",
        )
        assert result.status == guest.PASSED, result.report
        record = first_json(Said.of(result)["deploy"])
        assert (record["verdict"], record["changed"], record["missing"]) == ("verified", True, [])

    home = cached("composefs-btrfs", digest_of(plain.disk.parent.name, script), "btrfs disk sealed by bootseal", build)
    return replace(plain, disk=home / "disk.raw")


# --- good boots


@dataclass(frozen=True)
class Chain:
    """A disk that is booted several times, each time as the boot before left it."""

    name: str
    image: Callable[[], guest.Image]
    boots: int = 1
    conf: str = ""
    toml: str | None = None
    change: Change | None = None
    karg: Callable[[], str] | None = None
    append: str = UNREAD_DISK
    status: bool = False  # 'bootseal status' takes a guest seconds
    nightly: bool = False

    def run(self) -> list[Said]:
        made = self.image()
        results: list[guest.Result] = []
        files: dict[str, guest.Content] = signed.settings(self.conf)
        if self.toml is not None:
            files[TOML] = self.toml.encode()
        while len(results) < self.boots:
            first = not results
            results.append(
                guest.boot(
                    made,
                    signed.initrd(made.deployment.suite) if self.toml is None else configured(),
                    append=self.append,
                    extra_initrd_files=files,
                    karg=self.karg and self.karg(),
                    script=_ASK + (_STATUS if self.status else ""),
                    rw=True,
                    disk=changed(made, self.change) if first else results[-1].overlay,
                    snapshot=first,
                    title=f"composefs {self.name}, boot {len(results) + 1}",
                )
            )
        return [Said.of(result) for result in results]

    @functools.cached_property
    def job(self) -> Job[list[Said]]:
        return Job(self.run, boots=self.boots + (self.name == "btrfs"))


def _bare(algorithm: str) -> Callable[[], str]:
    return lambda: f"composefs={composefs.digest_of_name('one', algorithm)}"


def _list(made: guest.Image) -> bytes:
    """Name an image that is not there, one without a signature, and the signed one."""
    names = [NONE, composefs.digest_of_name("two"), made.deployment.path.rpartition("/")[2]]
    lines = ["", "# no image", f"composefs=?{NONE}", *(f"composefs.digest=v1-sha256-12:{name}" for name in names)]
    return "\n".join(lines).encode()


BIND = Chain("bind", image(), status=True)
FSVERITY = Chain("fsverity", image(), 2, "[Enroll]\nMethod=fsverity\nRequired=yes\n")
OVERLAY = Chain(
    "overlay", image("sha512", "image"), 2, "[Policy]\nSigned=image\n[Enroll]\nMethod=none\n",
    '[etc]\nmount = "overlay"\n[var]\nmount = "overlay"\n',
    karg=_bare("sha512"), status=True,
)  # fmt: skip
TRANSIENT = Chain(
    "transient", image("sha512"), 1, "", '[root]\ntransient = true\n[etc]\nmount = "none"\n[var]\nmount = "none"\n'
)
TRANSIENT_ETC = Chain("transient-etc", image(), 1, "", "[etc]\ntransient = true\n[var]\ntransient = true\n", nightly=True)
LISTED = Chain(
    "listed", image(), 1, "[Policy]\nSigned=digest-file image\n", change=put("state/roots", _list),
    karg=lambda: "bootseal.root=/state/roots", append="systemd.volatile=state",
)  # fmt: skip
BTRFS = Chain("btrfs", _sealed_by_deploy, 1, "[Enroll]\nMethod=fsverity\n", nightly=True)
TRIXIE = Chain("trixie", image(suite="trixie"), nightly=True)
CHAINS = (BIND, FSVERITY, OVERLAY, TRANSIENT, TRANSIENT_ETC, LISTED, BTRFS, TRIXIE)


def chains(*chosen: Chain) -> pytest.MarkDecorator:
    cases = [pytest.param(one, one.job, id=one.name, marks=nightly(one.nightly)) for one in chosen or CHAINS]
    return pytest.mark.parametrize(("chain", "job"), cases)


def _digest(chain: Chain) -> str:
    return chain.image().deployment.path.rpartition("/")[2]


@chains()
def test_the_record_says_what_was_booted(chain: Chain, job: Job[list[Said]]) -> None:
    digest = _digest(chain)
    algorithm = {64: "sha256", 128: "sha512"}[len(digest)]
    for said in job.result():
        record = said.record
        assert record["verdict"] == "verified"
        assert record["deployment"] == {"layout": "composefs", "checksum": digest, "path": f"state/deploy/{digest}"}
        assert record["image"]["path"] == f"/sysroot/composefs/images/{digest}"
        assert (record["image"]["algorithm"], record["image"]["digest"]) == (algorithm, digest)
        assert record["signature"]["form"] == ("image" if "Signed=image" in chain.conf else "digest-file")
        assert said["name"] == "one"
        assert said["object"] == "TTTTTTTT"
        assert said["failed"] == ""
        assert not chain.status or said["status"].startswith("Boot    verified, and still so as far as can be seen")


@chains()
def test_what_bootc_reads_of_a_booted_system(chain: Chain, job: Job[list[Said]]) -> None:
    """Paths in the source of bootc 1.16.9; see also crates/initramfs/src/lib.rs."""
    digest = _digest(chain)
    transient = "[root]\ntransient = true" in (chain.toml or "")
    for said in job.result():
        top = said.topmost()
        # crates/lib/src/bootc_composefs/status.rs, composefs_booted(): the digest is in the source of the mount
        assert top["/"].source == (f"transient:composefs={digest}" if transient else f"composefs:{digest}")
        # the same: without that argument, bootc takes the system for one of ostree. A list has none.
        assert chain is LISTED or re.search(rf"\bcomposefs(\.digest=v1-sha\d+-12:|=){digest}\b", said["cmdline"])
        # crates/lib/src/store/mod.rs: the repository is below /sysroot, which is read-only
        assert (top["/sysroot"].root, top["/sysroot"].source, top["/sysroot"].options[0]) == ("/", "/dev/vda", "ro")
        # crates/lib/src/lib.rs and others: a system of ostree
        assert "/run/ostree-booted" not in said["run"].split()
        link, number = said["device"].splitlines()
        assert link == f"/dev/block/{number}"


@chains()
def test_verity_is_required(chain: Chain, job: Job[list[Said]]) -> None:
    assert chain
    for said in job.result():
        root = said.topmost()["/"]
        assert {"verity=require", "metacopy=on"} <= set(root.super_options)
        assert root.options[0] == ("rw" if chain is TRANSIENT else "ro")
        assert bool(said["usr"]) is (chain is not TRANSIENT)


# /etc and /var in the mount table: root of the mount or source, and whether it is covered.
_STATE = r"/state/deploy/[0-9a-f]+/etc"
PLACES: Mapping[str, tuple[str, str, list[str]]] = {
    "bind": (_STATE, "/state/os/default/var", ["/etc", "/var"]),
    "overlay": ("overlay", "overlay", ["/etc", "/var"]),
    "transient": ("", "", []),
    "transient-etc": ("transient", "transient", []),
    "listed": (_STATE, "tmpfs", ["/etc"]),
}


@chains()
def test_etc_and_var_are_mounted_as_configured(chain: Chain, job: Job[list[Said]]) -> None:
    etc, var, not_covered = PLACES.get(chain.name, PLACES["bind"])
    for said in job.result():
        top = said.topmost()
        found = {name: top.get(f"/{name}") for name in ("etc", "var")}
        for place, mount in ((etc, found["etc"]), (var, found["var"])):
            assert re.fullmatch(place, mount.root if place.startswith("/") else mount.source) if mount else not place
        assert [name for name in said.record["not_covered"] if name in ("/etc", "/var")] == not_covered


@chains(OVERLAY, FSVERITY)
def test_state_survives(chain: Chain, job: Job[list[Said]]) -> None:
    assert chain
    for number, said in enumerate(job.result()):
        assert said["marks"].splitlines().count("mark") == 2 * number


@chains(FSVERITY, BTRFS)
def test_the_digest_file_is_enrolled(chain: Chain, job: Job[list[Said]]) -> None:
    assert chain
    for number, said in enumerate(job.result()):
        enrollment = said.record["enrollment"]
        assert (enrollment["method"], enrollment["first_boot"], enrollment["missing"]) == ("fsverity", number == 0, [])
        assert said["digest"].startswith("sha256:")


@chains(LISTED)
def test_the_first_of_a_list_that_verifies_boots(chain: Chain, job: Job[list[Said]]) -> None:
    assert chain
    (said,) = job.result()
    gone, unsigned = said.record["notes"]
    assert gone.startswith("another image was refused (no-deployment): ")
    assert unsigned.startswith("another image was refused (no-signature): ")


# --- refusals

STATE = r"/sysroot/state/deploy/[0-9a-f]{64}"
LINK = r"/sysroot/composefs/images/[0-9a-f]{64}"
AGAIN = "choose another boot entry, or deploy again, for example with 'bootc upgrade'"
_OTHER = "the image has the digest sha256:[0-9a-f]{64}"


def _other(made: guest.Image) -> tuple[str, Path]:
    """Return digest and content of the other image on the disk."""
    two = composefs.root().images["two"]
    assert made.deployment.path != two.path
    return two.path.rpartition("/")[2], two.cfs


def _link_to_other(made: guest.Image, disk: Path) -> None:
    digest, _ = _other(made)
    commands("rm /{link}", f"symlink /{{link}} ../objects/{digest[:2]}/{digest[2:]}")(made, disk)


def _pair_of_other(made: guest.Image, disk: Path) -> None:
    digest, _ = _other(made)
    value = bytes.fromhex(digest)
    several(put("{digest}", value), put("{signature}", signed.sign(value, signed.key())))(made, disk)


def _link_to_file(made: guest.Image, disk: Path) -> None:
    """Make the image's name a link to the object of a file, which has fs-verity, too."""
    with made.deployment.cfs.open("rb") as file:
        found = erofs.find(file.fileno(), "usr/share/bootseal-test/tamper", 1)
    assert found
    commands("rm /{link}", f"symlink /{{link}} ../objects/{found.object}")(made, disk)


def _directory_of_object(made: guest.Image, disk: Path) -> None:
    place = Names.of(made).image.rpartition("/")[0]
    commands(f"unlink /{place}", f"symlink /{place} ../../../outside/target")(made, disk)


_OF_IMAGE = r"the signature of CN=guest p256 is over the image's own digest, not over that of the digest file"


def away(place: str) -> Change:
    """Replace a directory or link by a link that leads away from the disk."""
    return commands(f"unlink /{place}", f"symlink /{place} ../../../../../outside/target")


# Much like others, here or in refusals.py.
_NIGHTLY = {
    "no-enforcement", "no-list", "no-state", "no-link", "no-object", "etc-away", "objects-away", "images-away",
    "digest-33-bytes", "other-digest-signed",
}  # fmt: skip
REFUSALS = [
    Scenario(id_, expect, disk=disk, ostree=karg, initrd=OUTSIDE, image=image(), nightly=id_ in _NIGHTLY)
    for id_, expect, disk, karg in (
        ("no-enforcement", Refused("bad-command-line", r"'\?' asks for .*: composefs=\?0+"), None, f"composefs=?{NONE}"),
        (
            "two-layouts",
            Refused("bad-command-line", "only one kind may be specified: .*"),
            None,
            f"ostree=/ostree/boot.1/a/b/0 composefs={NONE}",
        ),
        ("no-list", Refused("no-deployment", ".*: /sysroot/state/roots"), None, "bootseal.root=/state/roots"),
        (
            "no-state",
            Refused("no-deployment", f"no such directory .*: /sysroot/state/deploy/{NONE}"),
            None,
            f"composefs={NONE}",
        ),
        ("no-link", Refused("no-image", f"missing: {LINK}", hint=AGAIN), commands("rm /{link}"), None),
        (
            "link-elsewhere",
            Refused(
                "bad-image", rf"a link to \.\./\.\./etc/passwd, which is not an object of the repository: {LINK}", hint=AGAIN
            ),
            commands("rm /{link}", "symlink /{link} ../../etc/passwd"),
            None,
        ),
        (
            "link-to-another",
            Refused(
                "image-mismatch",
                rf"{_OTHER}, asked for was [0-9a-f]{{64}}: {LINK}",
                details=("image has", "asked for", "signer", "trusted"),
            ),
            _link_to_other,
            None,
        ),
        ("no-object", Refused("no-image", f"missing: {LINK}"), commands("rm /{image}"), None),
        (
            "unsealed",
            Refused("image-unsealed", f"fs-verity is not enabled on the image: {LINK}"),
            put("{image}", lambda made: made.deployment.cfs.read_bytes()),
            None,
        ),
        (
            "no-pair",
            Refused("no-digest", rf"missing: {STATE}/bootseal\.digest"),
            commands("rm /{digest}", "rm /{signature}"),
            None,
        ),
        (
            "pair-of-another",
            Refused("image-mismatch", rf"{_OTHER}, signed is sha256:[0-9a-f]{{64}}: {LINK}"),
            _pair_of_other,
            None,
        ),
        *(
            (f"{name}-away", Refused("no-deployment", f"cannot be opened without leaving .*: {where}"), away(place), None)
            for name, where, place in (
                ("etc", f"{STATE}/etc", "{deployment}/etc"),
                ("state", STATE, "{deployment}"),
                ("objects", "/sysroot/composefs/objects", "composefs/objects"),
                ("images", "/sysroot/composefs/images", "composefs/images"),
            )
        ),
        (
            "directory-of-object-away",
            Refused("bad-image", rf"a link or no directory on the way to it: .*: {LINK}"),
            _directory_of_object,
            None,
        ),
        (
            "link-to-a-file",
            Refused(
                "image-mismatch",
                rf"{_OTHER}, asked for was [0-9a-f]{{64}}: {LINK}",
                details=("image has", "asked for", "signer", "trusted"),
            ),
            _link_to_file,
            None,
        ),
        (
            "digest-33-bytes",
            Refused("bad-digest", rf"33 bytes, .*: {STATE}/bootseal\.digest"),
            put("{digest}", bytes(33)),
            None,
        ),
        (
            "other-key",
            Refused("untrusted-signer", rf"no certificate of the boot keyring .*: {STATE}/bootseal\.sig"),
            SIGNED_BY_STRANGER,
            None,
        ),
        (
            "other-digest-signed",
            Refused("wrong-signature", rf"the signature of CN=guest p256 is not over the digest .*: {STATE}/bootseal\.sig"),
            put("{signature}", lambda made: signed.sign(bytes(range(32)), signed.key())),
            None,
        ),
        (
            "var-elsewhere",
            Refused("no-deployment", f"no such directory .*: {STATE}/var"),
            commands("rm /{deployment}/var", "symlink /{deployment}/var /nowhere"),
            None,
        ),
    )
]
FORMS = [
    Scenario(
        "signed-itself",
        Refused(
            "wrong-signature",
            rf"{_OF_IMAGE}: {STATE}/bootseal\.sig",
            hint="sign with 'bootseal sign', or run 'fsverity sign' on IMAGE.digest instead of IMAGE",
        ),
        disk=put("{signature}", lambda made: signed.sign_file(made.deployment.cfs, signed.key())),
        image=image(),
        nightly=True,
    ),
]


@rows([*REFUSALS, *FORMS])
def test_refusal_shows_verdict_everywhere(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- what the program reads of real images


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_files_are_found_in_an_image(algorithm: str) -> None:
    made = composefs.root("forky", algorithm)
    objects = made.home / "root/composefs/objects"
    with made.images["two"].cfs.open("rb") as file:

        def content(path: str) -> bytes:
            found = erofs.find(file.fileno(), path, 1 << 20)
            assert found
            return (objects / found.object).read_bytes() if found.object else found.inline

        assert content("usr/share/bootseal-test/name") == b"two\n"
        assert content("usr/share/bootseal-test/tamper") == b"T" * 65536
        assert erofs.find(file.fileno(), "usr/share/bootseal-test/none", 1) is None


# --- an update


_TABLE = "bootseal verify --all --json=short || :"


def _first(two: str, signature: bytes) -> str:
    placed = f"test -e /sysroot/state/deploy/{two}/bootseal.sig"
    sections = ask(
        enable="systemctl enable --now bootseal-gate.path 2>&1; systemctl is-active bootseal-gate.path bootseal-deploy.path",
        stage=f"stage {two}",
        held=f"gate_ran 1; {bootc.GATE}",
        sign=bootc.write("boot", f"mkdir bootseal; cp /run/two.sig bootseal/{two}.sig"),
        again=f"stage {two}",
        passed=f"for _ in $(seq 180); do ! {placed} || break; sleep 1; done; gate_ran 2; {bootc.GATE}",
        table=_TABLE,
        garbage="/usr/lib/bootseal-test/collect /sysroot/composefs || :",
        names="ls -A /sysroot/state/deploy /sysroot/state/deploy/*",
    )
    return put_file("/run/two.sig", signature) + bootc.shut_down(sections)


def _update() -> staging.Chain:
    chain, made, two = staging.Chain(), composefs.image(), composefs.root().images["two"]
    digest = two.path.rpartition("/")[2]
    signature = signed.sign(bytes.fromhex(digest), signed.key())
    boots = {
        "first": (None, _first(digest, signature)),
        "second": (two.argument, _ASK + ask(table=_TABLE)),
        "back": (None, _ASK),
    }
    before = None
    for name, (karg, script) in boots.items():
        chain.results[name] = guest.boot(
            made,
            signed.initrd(),
            append=UNREAD_DISK,
            karg=karg,
            script=script,
            rw=True,
            disk=before.overlay if before else guest.copy_disk(made.disk, temporary() / "disk.raw"),
            snapshot=before is None,
            timeout=qemu.LONG,
            title=f"composefs update: {name}",
        )
        before = chain.results[name]
        if before.status != guest.PASSED:
            break
    return chain


UPDATE = Job(_update, boots=5)
update = pytest.mark.parametrize("job", [pytest.param(UPDATE, id="update")])


def _table(section: str) -> list[tuple[str, str, str]]:
    (line,) = (line for line in section.splitlines() if line.startswith("["))
    return [(one["name"], one["state"], one["verdict"]) for one in json.loads(line)]


@update
def test_an_update_without_a_signature_is_held(job: Job[staging.Chain]) -> None:
    said = job.result().said("first")
    assert said["enable"].split()[-2:] == ["active", "active"]
    assert "ExecMainStatus=66" in said["held"]
    assert "The staged deployment would not boot: refused (no-signature)" in said["held"]


@update
def test_a_signature_that_came_along_is_placed_and_the_update_passes(job: Job[staging.Chain]) -> None:
    said = job.result().said("first")
    one, two = (composefs.digest_of_name(name)[:12] for name in composefs.NAMES)
    assert said["passed"].splitlines()[:2] == ["Result=success", "ExecMainStatus=0"]
    assert _table(said["table"])[:2] == [(two, "staged", "verified"), (one, "booted", "verified")]
    assert said["outcome"].splitlines() == ["ActiveState=inactive", "Result=success"]
    assert "the staged deployment would boot: " in said["journal"]


@update
def test_nothing_but_links_lies_among_the_images(job: Job[staging.Chain]) -> None:
    """Garbage collection of composefs-rs ends with an error at anything else, and bootc takes other directories for states."""
    said = job.result().said("first")
    assert said["garbage"] == "collected"
    assert "bootseal.sig" in said["names"]
    assert ".bootseal" not in said["names"]


@update
def test_the_update_boots_and_the_other_image_is_the_rollback(job: Job[staging.Chain]) -> None:
    said = job.result().said("second")
    one, two = (composefs.digest_of_name(name) for name in composefs.NAMES)
    assert (said.record["image"]["digest"], said["name"]) == (two, "two")
    assert _table(said["table"]) == [(two[:12], "booted", "verified"), (one[:12], "", "verified")]


@update
def test_the_rollback_boots(job: Job[staging.Chain]) -> None:
    said = job.result().said("back")
    assert (said.record["verdict"], said["name"]) == ("verified", "one")
