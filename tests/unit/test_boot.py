# SPDX-License-Identifier: LGPL-2.1-or-later
"""boot.py: the order of the stages, their arguments, and a verdict for each exception."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bootseal import boot, report, verdicts
from bootseal import record as records
from bootseal.errors import Refusal
from bootseal.linux import console, journal
from bootseal.stages import (
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
from bootseal.values import Mounted, Origin, PhysicalRoot, Wish
from unit import support
from unit.support import oserror

VALUES: dict[str, Any] = {
    "config.load": support.policy(),
    "keyring.load": support.trusting("p256"),
    "kernelkeys.load": support.kernel_keys(),
    "physicalroot.is_mounted": False,
    "origin.look": Origin(("initrd",)),
    "enroll.prepare": None,
    "verify.rehearse": None,
    "mount.load_filesystems": None,
    "cmdline.read": "the text",
    "cmdline.parse": support.request(),
    "physicalroot.enter": PhysicalRoot(55, sealed_before=True),
    "deployment.wishes": support.request().wishes,
    "deployment.locate": support.deployment(),
    "unverified.read": support.candidate(b"sig"),
    "verify.verify": support.verified(),
    "image.pin": support.pinned(),
    "enroll.enroll": support.enrolled(),
    "mount.mount": Mounted(66, "verity=require", b"", b"", ("/var",)),
    "mount.attach": None,
}
ORDER = list(VALUES)
MODULES = {
    m.__name__.rpartition(".")[2]: m
    for m in (config, keyring, kernelkeys, physicalroot, origin, cmdline, deployment, unverified, verify, image, enroll, mount)
}


class Stages:
    """Fakes for all stages that record what they were given."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.given: dict[str, tuple[Any, ...]] = {}
        self.raises: dict[str, BaseException] = {}
        self.values = dict(VALUES)
        self.run = directory / "run"
        for name in ORDER:
            module, function = name.split(".")
            monkeypatch.setattr(MODULES[module], function, self._fake(name))
        monkeypatch.setattr(mount, "attached_digest", lambda: None)
        monkeypatch.setattr(report, "RUN", str(self.run))
        monkeypatch.setattr(report, "PATH", str(self.run / "boot.json"))
        monkeypatch.setattr(console, "CONSOLE", str(directory / "console"))
        monkeypatch.setattr(journal, "_JOURNAL", str(directory / "journal"))
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    def _fake(self, name: str) -> Any:
        def fake(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            self.given[name] = (*arguments, *named.values())
            if name in self.raises:
                raise self.raises[name]
            return self.values[name]

        return fake

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.run / "boot.json").read_text())
        return record


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(tmp_path, monkeypatch)


def test_the_order(stages: Stages) -> None:
    assert boot.main() == 0
    assert stages.calls == ORDER
    assert stages.record()["verdict"] == "verified"


def test_every_stage_is_told_and_timed(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    monkeypatch.setattr(journal, "notify", states.append)
    boot.main()
    begun = [state.removeprefix("STATUS=").split()[0] for state in states]
    told = ["Reading", "Loading", "Preparing", "Waiting", "Looking", "Verifying", "Enrolling", "Mounting", "verified"]
    assert begun == told
    assert list(stages.record()["milliseconds"]) == [name for name, _ in records.STAGES]


def test_everything_is_recorded(stages: Stages) -> None:
    stages.values["unverified.read"] = support.candidate(b"sig", stands_in=True)
    boot.main()
    record = stages.record()
    assert {"deployment", "image", "signature", "enrollment", "mount", "not_covered"} <= record.keys()
    assert record["keyring"].pop("trusted")
    sealed = {"sealed": True, "sealed_before_mount": True}
    assert record["keyring"] == {"certificates": 1, "skipped": [], "not_in_kernel": [], **sealed}
    assert record["not_covered"] == ["/var", "initrd"]
    assert any("the digest file cannot be opened" in note for note in record["notes"])


@pytest.mark.parametrize("mounted", [True, False])
def test_whether_the_disk_was_mounted_before_the_keyring_was_sealed(*, mounted: bool, stages: Stages) -> None:
    stages.values["physicalroot.is_mounted"] = mounted
    boot.main()
    assert ORDER.index("physicalroot.is_mounted") == ORDER.index("kernelkeys.load") + 1
    assert stages.given["physicalroot.enter"][1] is not mounted


def test_who_gets_what(stages: Stages) -> None:
    boot.main()
    values, given = stages.values, stages.given
    assert given["kernelkeys.load"] == (values["keyring.load"], True, True)
    assert given["enroll.prepare"] == tuple(values[n] for n in ("config.load", "keyring.load", "kernelkeys.load"))
    assert given["cmdline.parse"] == ("the text",)
    assert given["deployment.wishes"] == (values["cmdline.parse"],)
    assert given["deployment.locate"] == (values["deployment.wishes"][0], values["cmdline.parse"], values["config.load"])
    assert given["unverified.read"][0] is values["deployment.locate"]
    assert given["unverified.read"][2] == values["config.load"].signed
    assert given["verify.verify"] == (values["unverified.read"], values["keyring.load"])
    assert given["image.pin"] == (values["deployment.locate"], values["verify.verify"])
    assert given["enroll.enroll"] == tuple(
        values[n] for n in ("image.pin", "deployment.locate", "kernelkeys.load", "config.load")
    )
    assert given["mount.mount"] == (
        values["enroll.enroll"], values["deployment.locate"], values["config.load"].roots["ostree"], values["cmdline.parse"]
    )  # fmt: skip
    assert given["mount.attach"] == (values["mount.mount"], 55)


def test_the_digest_that_stands_in_is_that_of_the_image(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "enforced_digest", lambda found: ("enforced", found))
    boot.main()
    assert stages.given["unverified.read"][1]() == ("enforced", stages.values["deployment.locate"].image)


# --- several images


def attempts(stages: Stages, monkeypatch: pytest.MonkeyPatch, *results: Any) -> None:
    """Let the command line name as many images; a result is a Refusal of deployment.locate(), or a deployment."""
    wishes = tuple(Wish("composefs", f"{number:064x}") for number in range(len(results)))
    stages.values["deployment.wishes"] = wishes

    def locate(wish: Wish, *_: object) -> Any:
        result = results[wishes.index(wish)]
        if isinstance(result, Refusal):
            raise result
        return result

    monkeypatch.setattr(deployment, "locate", locate)


GONE, DAMAGED = Refusal(verdicts.NO_DEPLOYMENT, "gone", "/a"), Refusal(verdicts.BAD_IMAGE, "damaged", "/b")


def test_the_first_image_that_verifies_is_mounted(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts(stages, monkeypatch, GONE, DAMAGED, support.deployment(path="c"), support.deployment(path="d"))
    assert boot.main() == 0
    assert stages.given["mount.mount"][1].path == "c"
    record = stages.record()
    assert record["deployment"]["path"] == "c"
    assert record["notes"] == [f"another image was {refusal}" for refusal in (GONE, DAMAGED)]


def test_the_record_is_about_one_image(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one of the verdict, and not the one that was tried last."""
    attempts(stages, monkeypatch, support.deployment(path="c"), support.deployment(path="d"), GONE)
    pinned = iter((DAMAGED, Refusal(verdicts.NO_IMAGE, "missing", "/d")))

    def pin(*_: object) -> None:
        raise next(pinned)

    monkeypatch.setattr(image, "pin", pin)
    assert boot.main() == verdicts.BAD_IMAGE.exit_status
    record = stages.record()
    assert (record["verdict"], record["message"], record["deployment"]["path"]) == ("bad-image", str(DAMAGED), "c")
    assert [note.partition(")")[0] for note in record["notes"]] == [
        "another image was refused (no-image", "another image was refused (no-deployment"
    ]  # fmt: skip


def test_the_record_has_nothing_of_an_image_that_was_tried_later(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts(stages, monkeypatch, DAMAGED, support.deployment(path="d"))
    stages.raises["image.pin"] = Refusal(verdicts.NO_IMAGE, "missing", "/d")
    assert boot.main() == verdicts.BAD_IMAGE.exit_status
    assert not {"deployment", "signature", "image"} & stages.record().keys()


@pytest.mark.parametrize(
    ("results", "verdict"),
    [((GONE, DAMAGED), DAMAGED), ((DAMAGED, GONE), DAMAGED), ((GONE, GONE), GONE), ((DAMAGED, DAMAGED), DAMAGED)],
)
def test_the_refusal_that_tells_most(
    results: tuple[Refusal, ...], verdict: Refusal, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts(stages, monkeypatch, *[Refusal(one.verdict, one.what, one.path) for one in results])
    assert boot.main() == verdict.verdict.exit_status
    record = stages.record()
    assert record["message"] == str(verdict)
    assert len(record["notes"]) == 1


@pytest.mark.parametrize(("method", "ring"), [("keyring", True), ("fsverity", True), ("none", False)])
@pytest.mark.parametrize("seal", [True, False])
def test_configuration_of_the_keyring(method: str, *, ring: bool, seal: bool, stages: Stages) -> None:
    stages.values["config.load"] = support.policy(method=method, seal=seal)
    boot.main()
    assert stages.given["kernelkeys.load"][1:] == (ring, seal)


@pytest.mark.parametrize("voa", ["", "os"])
def test_the_files_of_the_boot_keyring(voa: str, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.values["config.load"] = support.policy(voa=voa)
    monkeypatch.setattr(config, "certificates", lambda *arguments: [arguments])
    boot.main()
    assert stages.given["keyring.load"] == ([("/", keyring.DIRECTORY, keyring.SUFFIXES, voa)],)


@pytest.mark.parametrize("stage", ORDER)
@pytest.mark.parametrize("verdict", [verdicts.UNTRUSTED_SIGNER, verdicts.IO_ERROR], ids=lambda v: v.name)
def test_a_refusal_ends_it(stage: str, verdict: verdicts.Verdict, stages: Stages) -> None:
    stages.raises[stage] = Refusal(verdict, "what", "/where")
    assert boot.main() == verdict.exit_status
    assert stages.calls == ORDER[: ORDER.index(stage) + 1]
    assert stages.record()["verdict"] == verdict.name


ERRORS = [
    ValueError("x"), KeyError("x"), oserror(errno.EBADF), MemoryError(), RecursionError(), AssertionError(), StopIteration(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), ImportError("x"), ZeroDivisionError(),
]  # fmt: skip


@pytest.mark.parametrize("stage", ORDER)
def test_an_exception_is_internal(stage: str, stages: Stages) -> None:
    stages.raises[stage] = ValueError("with\x1b a\nlot")
    assert boot.main() == 70
    assert stages.calls == ORDER[: ORDER.index(stage) + 1]
    record = stages.record()
    assert record["verdict"] == "internal"
    assert record["message"].startswith("refused (internal): ValueError: with")
    assert all(" " <= c <= "~" for c in record["message"])


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_any_exception_is_internal(error: Exception, stages: Stages) -> None:
    stages.raises["verify.verify"] = error
    assert boot.main() == 70
    assert stages.record()["message"].endswith(".py:" + stages.record()["message"].rpartition(":")[2])


@pytest.mark.parametrize(
    ("error", "verdict", "what"),
    [
        (oserror(errno.EIO), "io-error", "unexpected OSError: Input/output error (EIO): "),
        (oserror(errno.EMFILE), "mount-failed", "unexpected OSError: Too many open files (EMFILE): "),
        (FileNotFoundError(2, "", "/a\nb"), "internal", "unexpected FileNotFoundError (/a\\nb): No such file "),
    ],
    ids=["disk", "exhausted", "absent"],
)
def test_an_error_that_no_stage_handles(error: OSError, verdict: str, what: str, stages: Stages) -> None:
    stages.raises["verify.verify"] = error
    assert boot.main() == next(v.exit_status for v in verdicts.VERDICTS if v.name == verdict)
    assert stages.record()["message"].startswith(f"refused ({verdict}): {what}")


def test_the_place_of_a_bug_is_a_line_of_ours(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the last line of bootseal before the error, never one of the standard library or of a test."""
    monkeypatch.setattr(cmdline, "parse", lambda text: json.loads("no JSON"))
    boot.main()
    assert re.fullmatch(r".*: boot\.py:\d+", stages.record()["message"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)], ids=["interrupt", "exit"])
def test_what_is_no_exception_never_returns_success(error: BaseException, stages: Stages) -> None:
    stages.raises["verify.verify"] = error
    try:
        status = boot.main()
    except KeyboardInterrupt:
        return
    except SystemExit as left:
        status = int(left.code or 0)
    assert status != 0


def test_an_exception_while_recording_is_no_success(stages: Stages) -> None:
    """systemd then runs `cleanup`, which takes the root away and gives the verdict `internal`."""
    stages.values["image.pin"] = support.pinned()._replace(path=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        boot.main()


def test_names_from_the_disk_are_no_reason_for_an_exception(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent")
    stages.values["deployment.locate"] = support.deployment(stateroot="\udcff\x1b")
    assert boot.main() == 0


def test_debug(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(report, "console", lines.append)
    stages.values["cmdline.parse"] = support.request()._replace(debug=True)
    boot.main()
    assert any(line.startswith("bootseal: debug: verify: ") for line in lines)


def finished(stages: Stages, **changes: Any) -> None:
    boot.main()
    stages.calls.clear()
    path = stages.run / "boot.json"
    path.write_text(json.dumps(stages.record() | changes))


def test_a_second_start_changes_nothing(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(stages)
    monkeypatch.setattr(mount, "attached_digest", support.verified().digest.value.hex)
    states: list[str] = []
    monkeypatch.setattr(journal, "notify", states.append)
    before = stages.record()
    assert boot.main() == 0
    assert stages.calls == []
    assert stages.record() == before
    assert states == [f"STATUS={before['message']}"], "systemd forgets it with each start"


@pytest.mark.parametrize(
    ("changes", "attached"),
    [
        ({"boot_id": "another"}, True),
        ({"verdict": "wrong-signature"}, True),
        ({"version": 2}, True),
        ({}, None),
        ({}, "00" * 32),
        ({"image": {}}, None),
    ],
    ids=["another boot", "refused before", "another version", "not attached", "another root", "no image"],
)
def test_a_second_start_begins_anew(
    changes: dict[str, Any], attached: Any, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(stages, **changes)
    there = support.verified().digest.value.hex() if attached is True else attached
    monkeypatch.setattr(mount, "attached_digest", lambda: there)
    boot.main()
    assert stages.calls[:1] == ["config.load"]


def test_a_look_at_the_mounts_that_fails_is_internal(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(stages)
    monkeypatch.setattr(mount, "attached_digest", support.raising(errno.ENOENT))
    assert boot.main() == 70
