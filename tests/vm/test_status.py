# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reports of verified and refused boots: systemctl, journalctl and bootseal status."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bootseal import verdicts
from unit.host.schema import errors
from vm import status
from vm.harness import guest, signed
from vm.harness.ask import ask
from vm.harness.changes import SIGNED_BY_STRANGER
from vm.harness.jobs import Job
from vm.harness.parse import Said, Told
from vm.scenario import Outcome, Passed, Scenario, nightly, runs

pytestmark = pytest.mark.vm

NOT_COVERED = ["/etc", "/var", "/boot", "/opt -> /var/opt", "initrd", "kernel command line"]
NAMES = {"forky": "debian", "trixie": "debian 13"}  # as their os-release has them
# QEMU's BIOS lacks Secure Boot, so it is unknown who authenticated kernel and initrd.
MARKS = dict.fromkeys(("Secure Boot", "initrd", "boot keyring"), "unknown") | dict.fromkeys(
    ("signer", "digest file", "image", "overlay", "root"), "kernel"
)


def _disturbed() -> list[Said]:
    text = status.script(status.ASKED, status.MANUALS, status.DISTURBED)
    return [Said.of(status.boot("forky", "keyring", text, "status, disturbed"))]


def _enrolled_twice() -> list[Said]:
    first = status.boot("forky", "fsverity", status.script(status.ASKED), "status, first boot")
    second = status.boot(
        "forky", "fsverity", status.script(status.ASKED, status.USER), "status, second boot", disk=first.overlay
    )
    return [Said.of(first), Said.of(second)]


def _trixie() -> list[Said]:
    return [Said.of(status.boot("trixie", "keyring", status.script(status.ASKED, status.MANUALS), "status on trixie"))]


def _secure_boot() -> list[Said]:
    text = status.script(status.ASKED, status.SECURE_BOOT)
    return [Said.of(status.boot("forky", "keyring", text, "status, Secure Boot", firmware=True))]


SECURE_BOOT = Job(_secure_boot)
KEYRING, FSVERITY, TRIXIE = Job(_disturbed), Job(_enrolled_twice, boots=2), Job(_trixie)


@dataclass(frozen=True)
class Boot:
    """One of a job's boots, and how it differs from the others."""

    job: Job[list[Said]]
    number: int
    suite: str
    method: str

    @property
    def seen(self) -> Said:
        return self.job.result()[self.number]

    @property
    def deployment(self) -> guest.Deployment:
        return signed.image(self.suite).deployment

    @property
    def digest(self) -> str:
        return signed.image_digest(self.deployment.cfs).hex()


BOOTS = {
    "keyring": Boot(KEYRING, 0, "forky", "keyring"),
    "fsverity-first": Boot(FSVERITY, 0, "forky", "fsverity"),
    "fsverity-second": Boot(FSVERITY, 1, "forky", "fsverity"),
    "trixie": Boot(TRIXIE, 0, "trixie", "keyring"),
}


def boots(*names: str) -> pytest.MarkDecorator:
    """Parametrize a test with boots, and with their job, which then starts with those of the other tests."""
    chosen = [pytest.param(BOOTS[name].job, BOOTS[name], id=name, marks=nightly(name == "trixie")) for name in names or BOOTS]
    return pytest.mark.parametrize(("job", "boot"), chosen)


# --- systemctl and journalctl


@boots()
def test_systemctl_status_tells_the_story(job: Job[list[Said]], boot: Boot) -> None:
    seen = boot.seen
    told = seen.told("systemctl")
    lines = [line.strip() for line in told.out.splitlines()]
    assert told.status == 0
    assert lines[1].startswith("Loaded: loaded (/usr/lib/systemd/system/bootseal.service;")
    assert any(line.startswith("Active: active (exited) since ") for line in lines)
    first = ", first boot" if boot is BOOTS["fsverity-first"] else ""
    message = (
        f"verified {NAMES[boot.suite]} sha256:{boot.digest[:12]} "
        f"(deployment guest/{boot.deployment.checksum[:12]}.0, as the disk names it), signed by CN=guest p256, "
        f"checked by the kernel, method {boot.method}{first}; not covered: {', '.join(NOT_COVERED)}"
    )
    assert f'Status: "{message}"' in lines
    assert [line for line in lines if line.endswith(f"]: {message}")], "the journal below"
    assert [line for line in lines if "]: Starting " in line]
    assert seen.record["message"] == message


@boots("keyring", "trixie")
def test_the_manuals_that_it_names_exist(job: Job[list[Said]], boot: Boot) -> None:
    lines = boot.seen["manuals"].splitlines()
    named = [line.strip('"').removeprefix("man:") for line in lines if "man:" in line]
    assert named == ["bootseal.service(8)", "bootseal(8)"]
    for page in [*named, "bootseal.conf(5)", "bootseal.json(5)"]:
        name, section = page.rstrip(")").split("(")
        assert f"/usr/share/man/man{section}/{name}.{section}.gz" in lines


@boots("keyring", "trixie")
def test_the_journal_has_the_catalog(job: Job[list[Said]], boot: Boot) -> None:
    text = boot.seen["catalog"]
    assert "Subject: The root filesystem is verified and mounted" in text
    assert f"signed by CN=guest p256, enrolled with method {boot.method}." in text
    assert boot.deployment.path in text
    assert "@" not in text, "a field without a value"
    assert boot.seen["usr"] == "0", "this is why docs/status.md says to update the catalog by hand"


# --- bootseal status


@boots()
def test_the_text_is_one_true_screen(job: Job[list[Said]], boot: Boot) -> None:
    told = boot.seen.told("text")
    assert (told.status, told.err) == (0, "")
    lines = told.out.splitlines()
    assert len(lines) <= 28
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Boot    verified, and still so as far as can be seen"
    assert lines[1] == f"Image   {NAMES[boot.suite]}, as its own os-release says"
    assert lines[2] == f"Digest  sha256:{boot.digest}"
    assert lines[3].startswith(f"Root    guest/{boot.deployment.checksum[:12]}.0, as the disk names it; bootseal ")
    written = boot.seen.record["enrollment"]["bytes_written"]
    how = f", first boot, {written} bytes written" if boot is BOOTS["fsverity-first"] else ", no bytes written"
    assert lines[4] == f"Method  {boot.method}, checked by the kernel{how}"
    assert lines[5] == "Unit    bootseal.service: active (exited), result success, exit status 0"
    assert told.marks == MARKS
    assert [line.split("  ")[1] for line in lines[lines.index("Not covered by the signature:") + 1 :][:6]] == NOT_COVERED
    assert lines[-1].split() == ["/dev/vda", "disk", "writable", "guest-root"]


@boots()
def test_json_is_the_record_and_what_systemd_says(job: Job[list[Said]], boot: Boot) -> None:
    seen = boot.seen
    told = seen.told("short")
    assert (told.status, told.err, told.out.count("\n")) == (0, "", 0)
    assert errors(told.json) == []
    added = {name: told.json[name] for name in told.json.keys() - seen.record.keys()}
    assert {name: told.json[name] for name in seen.record} == seen.record
    assert added.keys() == {"unit", "soft_reboots", "status"}
    members = ("load_state", "active_state", "sub_state", "result", "status_text", "exit_status")
    assert [str(added["unit"][name]) for name in members] == [seen.unit()[name] for name in status.UNIT_PROPERTIES]
    assert {check["name"]: check["state"] for check in added["status"]["checks"]} == dict.fromkeys(
        ("boot", "root", "tree", "image", "keyring"), "same"
    )
    assert {link["name"]: link["mark"] for link in added["status"]["chain"]} == MARKS
    assert [place["what"] for place in added["status"]["not_covered"]] == NOT_COVERED
    assert (added["status"]["result"], added["status"]["unknown"], added["soft_reboots"]) == ("verified", [], 0)


@boots("keyring", "trixie")
def test_pretty_is_the_same_for_people(job: Job[list[Said]], boot: Boot) -> None:
    pretty, short = boot.seen.told("pretty"), boot.seen.told("short")
    assert (pretty.status, pretty.err) == (0, "")
    assert pretty.json == short.json
    assert pretty.out.count("\n") > 100


@boots("fsverity-second")
def test_an_ordinary_user_is_told_what_needs_root(job: Job[list[Said]], boot: Boot) -> None:
    told, root = boot.seen.told("user"), boot.seen.told("text")
    assert told.status == 0
    assert told.err == "bootseal: not known: the digest in the kernel was not read: only root may look"
    assert told.out == root.out


# --- disturbed


def disturbed(name: str) -> pytest.MarkDecorator:
    """Parametrize a test with the output in a section."""
    return pytest.mark.parametrize(("job", "section"), [pytest.param(KEYRING, name, id=name)])


def _said(job: Job[list[Said]], section: str) -> list[Told]:
    said = Told.all(job.result()[0][section])
    for told in said:
        assert "Traceback" not in told.err
        assert all(line.startswith("bootseal: ") for line in told.err.splitlines())
    return said


def _differs(told: Told, *mounted: str) -> None:
    assert told.status == 77
    assert told.out.startswith("Boot    verified at boot, but not so any more\n")
    first, hint = told.err.splitlines()
    assert first == f"bootseal: Changed since boot: mounted over the verified root: {', '.join(mounted)}"
    assert hint.startswith("bootseal: hint: do not trust this system")
    assert told.marks == MARKS | {"root": "differs"}


@disturbed("mounted_over")
def test_mounts_over_usr_and_etc_are_noticed(job: Job[list[Said]], section: str) -> None:
    (told,) = _said(job, section)
    _differs(told, "/usr/share/bootseal-test (tmpfs from tmpfs)", "/etc (overlay from overlay)")


@disturbed("sysext")
def test_an_extension_is_named_and_not_covered(job: Job[list[Said]], section: str) -> None:
    (told,) = _said(job, section)
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith("Boot    verified; what is merged over it since is not\n")
    assert told.marks == MARKS | {"root": "not-verified"}
    assert "  /usr                 sysext merged over it: see 'systemd-sysext status'" in told.out.splitlines()


@disturbed("on_top")
def test_a_mount_on_top_of_an_extension_is_noticed(job: Job[list[Said]], section: str) -> None:
    (told,) = _said(job, section)
    _differs(told, "/usr/share/bootseal-test (tmpfs from tmpfs)")


@disturbed("unlocked")
def test_ostree_admin_unlock_is_named(job: Job[list[Said]], section: str) -> None:
    (told,) = _said(job, section)
    _differs(told, "/usr (overlay, as 'ostree admin unlock' makes it)")


@disturbed("no_answer")
def test_status_without_answers_reports_unknown(job: Job[list[Said]], section: str) -> None:
    down, silent = _said(job, section)
    assert (down.status, silent.status) == (0, 0)
    bus, udev = down.err.splitlines()
    assert bus.startswith("bootseal: not known: systemd gives no answer over D-Bus: Could not connect: ")
    assert udev == "bootseal: not known: the udev database has no entry for some devices"
    assert "Unit  " not in down.out
    assert down.out.splitlines()[-1].split() == ["/dev/vda", "disk", "writable"]
    assert down.marks == silent.marks == MARKS
    assert silent.err == "bootseal: not known: systemd gives no answer over D-Bus: timed out after 20 seconds"


@disturbed("no_record")
def test_status_without_record_fails(job: Job[list[Said]], section: str) -> None:
    (told,) = _said(job, section)
    assert told.status == 74
    assert told.err.splitlines() == [
        "bootseal: Failed to read the record of this boot, /run/bootseal/boot.json: not found",
        "bootseal: hint: bootseal.service ran in this boot: the record was removed or tampered with",
    ]
    assert told.out.startswith("Boot    not verified by bootseal, as far as can be seen\n")
    assert f"Status  {job.result()[0].record['message']}" in told.out.splitlines()


@disturbed("restored")
def test_status_after_all_disturbances_is_verified(job: Job[list[Said]], section: str) -> None:
    (told,) = _said(job, section)
    assert (told.status, told.err) == (0, "")


# --- refused


REFUSED = Scenario(
    "untrusted-signer",
    Passed(guest.REFUSED),
    disk=SIGNED_BY_STRANGER,
    fsck=True,
    emergency=ask(
        systemctl="systemctl status --no-pager --full bootseal.service || echo status $?",
        program="command -v bootseal || echo none",
        record="cat /run/bootseal/boot.json",
    ),
)


@runs(REFUSED)
def test_a_refused_boot_explains_itself_in_the_initrd(job: Job[Outcome]) -> None:
    outcome = job.result()
    REFUSED.expect.check(outcome)
    lines = [line.strip() for line in outcome["systemctl"].splitlines()]
    message, hint = outcome.record["message"], verdicts.UNTRUSTED_SIGNER.hint
    assert message.startswith("refused (untrusted-signer): ")
    assert "CN=guest p256" in message, "who is trusted"
    assert any(line.startswith("Active: failed (Result: exit-code) since ") for line in lines)
    assert any("status=77" in line for line in lines)
    assert f'Status: "{message}"' in lines
    assert [line for line in lines if line.endswith(f"]: {message}")]
    assert [line for line in lines if line.endswith(f"]: hint: {hint}")]
    assert "Docs: man:bootseal.service(8)" in lines
    assert lines[-1] == "status 3"
    assert outcome["program"] == "none"


# --- a unified kernel image, started by firmware with Secure Boot


secure_boot = pytest.mark.parametrize("job", [pytest.param(SECURE_BOOT, id="secure-boot")])


@secure_boot
def test_secure_boot_vouches_for_the_initrd_alone(job: Job[list[Said]]) -> None:
    (seen,) = job.result()
    assert "[integrity]" in seen["lockdown"]
    told = seen.told("text")
    assert (told.status, told.err) == (0, "")
    assert told.marks == MARKS | dict.fromkeys(("Secure Boot", "initrd", "boot keyring"), "firmware")
    places = ["/etc", "/var", "/boot", "/opt -> /var/opt", "kernel command line (not known)", "system credentials"]
    assert seen.record["not_covered"] == places
    listed = {place["what"]: place["why"] for place in seen.told("short").json["status"]["not_covered"]}
    assert list(listed) == [place.removesuffix(" (not known)") for place in places]
    assert listed["kernel command line"].startswith("not known: ")
    assert seen.unit()["StatusText"].endswith(f"; not covered: {', '.join(places)}")
    assert seen["credentials"] == "guest"


@secure_boot
def test_verify_finds_the_keys_in_what_was_started(job: Job[list[Said]]) -> None:
    (seen,) = job.result()
    told = seen.told("unified")
    assert (told.status, told.err) == (0, "")
    assert f"1 from {status.UNIFIED}" in told.out


# --- docs/status.md


@boots("keyring")
def test_the_document_shows_what_the_guest_prints(job: Job[list[Said]], boot: Boot) -> None:
    shapes = [status.shape(line) for line in boot.seen.told("systemctl").out.splitlines()]
    shown = [status.shape(line) for line in status.transcript("systemctl status --full bootseal")]
    assert [line for line in shown if line not in shapes] == []
    assert len(shown) > 5
    text = boot.seen.told("text").out.splitlines()
    assert [status.shape(line) for line in status.transcript("bootseal status")] == [status.shape(line) for line in text]
