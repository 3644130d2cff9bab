# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README's quick start, as it is written: built on this machine's kernel, sealed in a guest, and booted."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from vm.harness import guest, parse, tree
from vm.harness.ask import TOLD, ask
from vm.harness.cache import CHECKOUT, SCRIPTS, cached, digest_of, must_run, scratch
from vm.harness.disk import Deployment, Image, image_of
from vm.harness.jobs import Job
from vm.harness.parse import Said

pytestmark = pytest.mark.vm

# What the README calls "a tree for ostree"; without it, the initrd would have drivers for every machine.
GUEST_CONF = (
    f'hostonly="no"\ncompress="cat"\ndrivers="{tree.GUEST_DRIVERS}"\nfilesystems="ext4 btrfs"\n'
    f'omit_dracutmodules+=" {tree.OMITTED_MODULES} "\n'
)


def _blocks() -> list[str]:
    """Read the commands of the README, and those of bootseal(7) for the first disk and a kernel without fs-verity."""
    _, _, section = (CHECKOUT / "README.md").read_text().partition("\n## Quick start\n")
    page = (CHECKOUT / "packaging/man/bootseal.7").read_text()
    _, _, step = page.partition("\nMake a disk for the first boot.\n")
    commands = step.partition(".EX\n")[2].partition(".EE\n")[0].replace("\\-", "-")
    before, after = ("fsverity maybe\n", "ostree config --repo=SYSROOT/ostree/repo set ex-integrity.fsverity yes\n")
    offline = commands.replace("fsverity yes\n", before).replace("bootseal deploy", "bootseal deploy --offline") + after
    return [*re.findall(r"```sh\n(.*?)```", section.partition("\n## ")[0], re.DOTALL), offline]


def _commands() -> str:
    """Make a script of them, with a mark before each block, and what is known before the disk is sealed at its end."""
    marked = "".join(f"printf '\\n=== block {number}\\n'\n{block}" for number, block in enumerate(_blocks()))
    judged = ask(verdict="told bootseal verify --sysroot=SYSROOT")
    return "set -ex\n" + marked.replace(" VERSION", " $VERSION").replace("/VERSION/", "/$VERSION/") + "set +x\n" + TOLD + judged


@cache
def _built() -> tuple[Image, str]:
    """Return the disk before it was sealed, and what the commands said."""
    builder, os_tree, debs = tree.base_tree(tree.BUILDER), tree.os_tree(tree.BUILDER), tree.packages()
    needed = [next(debs.glob(f"{name}_*.deb")) for name in ("bootseal-common", "bootseal-tools")]
    commands = _commands()

    def build(path: Path) -> None:
        with scratch() as work:
            conf = work / "files/usr/lib/dracut/dracut.conf.d/60-guest.conf"
            conf.parent.mkdir(parents=True)
            conf.write_text(GUEST_CONF)
            (work / "commands").write_text(commands)
            must_run("readme.sh", builder, os_tree, path, work, work / "files", work / "commands", *needed)

    scripts = [SCRIPTS / name for name in ("readme.sh", "lib.sh")]
    key = digest_of(builder.parent.name, os_tree.parent.name, GUEST_CONF, commands, *scripts)
    home = cached("readme", key, "the README's quick start", build)
    path, karg = ((home / name).read_text().strip() for name in ("deployment", "karg"))
    deployed = Deployment(tree.BUILDER, home, home / "image.cfs", path, karg)
    return image_of(deployed), (home / "output").read_text()


def _boot() -> guest.Result:
    image, _ = _built()
    script = ask(record="cat /run/bootseal/boot.json", gate="systemctl is-active bootseal-gate.path bootseal-deploy.path")
    return guest.boot(image, image.deployment.home / "initrd", script=script, whole=True, title="the README's quick start")


BOOT = Job(_boot)
booted = pytest.mark.parametrize("job", [pytest.param(BOOT, id="boot")])


@booted
def test_what_the_commands_say(job: Job[guest.Result]) -> None:
    job.result()
    sections = parse.sections(_built()[1])
    assert len(_blocks()) == 3
    assert re.search(r"^BRANCH: +verified$", sections["block 1"], re.MULTILINE), sections["block 1"]
    assert "bootseal: the image must still be sealed: " in sections["block 2"]
    verdict = parse.Told.all(sections["verdict"])[0]
    assert (verdict.status, verdict.out.splitlines()[0].split()[-1]) in ((75, "incomplete"), (77, "image-unsealed"))


@booted
def test_the_disk_boots_and_waits_for_updates(job: Job[guest.Result]) -> None:
    said = Said.of(job.result())
    assert said.record["verdict"] == "verified"
    assert said.record["deployment"]["stateroot"] == "STATEROOT"
    assert said["gate"].split() == ["active", "active"]
