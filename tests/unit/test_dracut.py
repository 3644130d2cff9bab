# SPDX-License-Identifier: LGPL-2.1-or-later
"""module-setup.sh, function by function, with dracut's own functions as stand-ins; tests/vm builds real initrds with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unit.support import SERVICE, TREE

MODULE = TREE / "dracut/52bootseal"
# As dracut has them: a failing command or install() ends nothing, exit does.
STAND_INS = """
dfatal() { echo "fatal: $*"; }
dwarn() { echo "warning: $*"; }
dracut_module_included() { [[ " $mods_to_load $modules_loaded " == *\\ $*\\ * ]]; }
inst() { command install -D "$1" "$initdir${2:-$1}"; }
inst_simple() { [[ -e $1 ]] || return 1; inst "$@"; }
inst_multiple() { [[ $1 == -o ]]; }
ln_r() { ln -sfn "$1" "$initdir$2"; }
"""


class Dracut:
    def __init__(self, directory: Path) -> None:
        self.initrd, self.programs = directory / "initrd", directory / "bin"
        self.initrd.mkdir(mode=0o755)
        self.programs.mkdir()
        self._variables = {
            "initdir": str(self.initrd),
            "moddir": str(MODULE),
            "DRACUT_TMPDIR": str(directory),
            "systemdsystemunitdir": str(directory / "units"),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }

    def run(self, script: str, **variables: str) -> tuple[int, list[str]]:
        """Exit status and what was said, of a script that calls functions of the module."""
        source = f"{STAND_INS}\n. {MODULE}/module-setup.sh\n{script}"
        environment = os.environ | self._variables | variables
        done = subprocess.run(
            ["bash", "-c", source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
        )
        return done.returncode, done.stdout.splitlines()

    def modules(self, *, later: str = "", earlier: str = "") -> tuple[int, list[str]]:
        """What becomes of other modules in the same initrd; those that are still to come are printed."""
        script = "_bootseal_check_modules; echo $mods_to_load"
        return self.run(script, mods_to_load=f" {later} ".replace(" ", "  "), modules_loaded=f" {earlier} ")


@pytest.fixture
def dracut(tmp_path: Path) -> Dracut:
    return Dracut(tmp_path)


def test_modules_that_do_no_harm(dracut: Dracut) -> None:
    assert dracut.modules(later="rootfs-block base", earlier="systemd") == (0, ["rootfs-block base"])


@pytest.mark.parametrize("name", ["usrmount", "resume", "fstab-sys"])
def test_a_module_that_is_left_out(name: str, dracut: Dracut) -> None:
    assert dracut.modules(later=f"rootfs-block {name} base") == (0, ["rootfs-block base"])
    status, said = dracut.modules(earlier=name)
    assert (status, len(said)) == (1, 1)
    assert said[0].startswith(f"fatal: bootseal: dracut module '{name}' undoes the check")


@pytest.mark.parametrize("name", ["ostree", "bootc", "selinux", "masterkey", "integrity", "ecryptfs"])
@pytest.mark.parametrize("when", ["earlier", "later"])
def test_a_module_that_is_refused(name: str, when: str, dracut: Dracut) -> None:
    status, said = dracut.modules(**{when: name})
    assert (status, len(said)) == (1, 1)
    assert said[0].startswith(f"fatal: bootseal: dracut module '{name}' ")
    assert said[0].endswith(f'omit_dracutmodules+=" {name} "')


@pytest.mark.parametrize("mask", ["022", "077"])
def test_the_python_modules_leave_the_initrd_s_own_directories_alone(mask: str, dracut: Dracut) -> None:
    """Services of the initrd that are not root have to pass through / and /usr."""
    (dracut.initrd / "usr/lib").mkdir(parents=True)
    python = f'/usr/bin/python3() {{ "{sys.executable}" "$@"; }}'
    script = f"{python}\n_bootseal_libdir={SERVICE}\numask {mask}\nmkdir -p $initdir/usr\n_bootseal_install_python"
    status, said = dracut.run(script)
    assert status == 0, said
    assert (dracut.initrd / "usr/lib/bootseal/bootseal/boot.pyc").exists()
    folders = [".", "usr", "usr/lib", "usr/lib/bootseal", "usr/lib/bootseal/bootseal"]
    assert {folder: (dracut.initrd / folder).stat().st_mode & 0o777 for folder in folders} == dict.fromkeys(folders, 0o755)


def test_what_an_image_builder_preloads_is_no_error(dracut: Dracut) -> None:
    """Its library is not in the initrd, and the loader complains of that on stderr."""
    chroot = dracut.programs / "chroot"
    chroot.write_text("#!/bin/sh\necho emergency\n")
    chroot.chmod(0o755)
    status, said = dracut.run("export LD_PRELOAD=/nowhere/libeatmydata.so\n_bootseal_check_result")
    assert status == 0, said
    assert any("a refused boot ends in the emergency target" in line for line in said)


def test_a_unit_that_is_not_installed_ends_the_build(dracut: Dracut) -> None:
    """dracut itself only says so, and the initrd would wait for a unit that is not there."""
    status, said = dracut.run("_bootseal_install_units; echo 'the build goes on'")
    assert status == 1
    assert said == [f"fatal: bootseal: cannot install {dracut.initrd.parent}/units/bootseal.service"]
