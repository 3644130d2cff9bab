# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the functions of module-setup.sh with stand-ins for dracut's. tests/vm builds real initrds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bootseal.host.initrd import bypasses
from bootseal.stages import config
from unit.support import SERVICE, TREE

MODULE = TREE / "dracut/52bootseal"
# As in dracut, a failing command or install() does not end the build; exit does.
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

    def program(self, name: str, script: str) -> None:
        """Put a shell script in front of a program of this machine."""
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def run(self, script: str, **variables: str) -> tuple[int, list[str]]:
        """Run a script that calls functions of the module; return its exit status and output."""
        source = f"{STAND_INS}\n. {MODULE}/module-setup.sh\n{script}"
        environment = os.environ | self._variables | variables
        done = subprocess.run(
            ["bash", "-c", source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
        )
        return done.returncode, done.stdout.splitlines()

    def modules(self, *, later: str = "", earlier: str = "") -> tuple[int, list[str]]:
        """Check other modules in the same initrd. The output lists those that dracut would still install."""
        script = "_bootseal_check_modules; echo $mods_to_load"
        return self.run(script, mods_to_load=f" {later} ".replace(" ", "  "), modules_loaded=f" {earlier} ")


@pytest.fixture
def dracut(tmp_path: Path) -> Dracut:
    return Dracut(tmp_path)


def test_harmless_modules_are_kept(dracut: Dracut) -> None:
    assert dracut.modules(later="rootfs-block base", earlier="systemd") == (0, ["rootfs-block base"])


LEFT_OUT = ("usrmount", "resume", "fstab-sys", "nfs", "overlay-root")


@pytest.mark.parametrize("name", LEFT_OUT)
def test_module_is_omitted(name: str, dracut: Dracut) -> None:
    assert dracut.modules(later=f"rootfs-block {name} base") == (0, ["rootfs-block base"])
    status, said = dracut.modules(earlier=name)
    assert (status, len(said)) == (1, 1)
    assert said[0].startswith(f"fatal: bootseal: dracut module '{name}' undoes the check")


ROOT, RUNS, CHANGES = (
    "mounts the root without this check",
    "runs a file of the disk's /etc as root",
    "changes the verified root before the switch",
)
REFUSED = {
    **dict.fromkeys(["ostree", "bootc", "composefs", "composefs-rs", "fedora-bootc", "setup-composefs"], ROOT),
    **dict.fromkeys(["selinux", "masterkey", "integrity", "ecryptfs", "convertfs"], RUNS),
    **dict.fromkeys(["dmsquash-live", "dmsquash-live-autooverlay", "livenet", "overlayfs", "overlayfs-crypt"], CHANGES),
    **dict.fromkeys(["lvmmerge", "kernel-modules-export", "ignition"], CHANGES),
    "ignition-ostree": RUNS,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("when", ["earlier", "later"])
def test_module_is_refused(name: str, when: str, dracut: Dracut) -> None:
    status, said = dracut.modules(**{when: f"systemd {name} base"})
    assert (status, said) == (1, [f"fatal: bootseal: dracut module '{name}' {REFUSED[name]}: omit_dracutmodules+=\" {name} \""])


@pytest.mark.parametrize(
    ("modules", "asked_for"),
    [
        ("overlayfs dmsquash-live livenet", "livenet"),
        ("overlayfs dmsquash-live dmsquash-live-autooverlay", "dmsquash-live-autooverlay"),
        ("overlayfs overlayfs-crypt", "overlayfs-crypt"),
        ("ignition ignition-ostree", "ignition-ostree"),
    ],
)
def test_refusal_names_the_requested_module(modules: str, asked_for: str, dracut: Dracut) -> None:
    status, said = dracut.modules(later=modules)
    assert (status, len(said)) == (1, 1)
    assert said[0].startswith(f"fatal: bootseal: dracut module '{asked_for}' ")


def test_verify_knows_the_same_modules() -> None:
    """bypasses.py knows modules by their files. Names here that match a pattern have the same file."""
    patterns = {"composefs-rs", "fedora-bootc", "setup-composefs"}
    assert set(bypasses.MODULES) == (set(REFUSED) - patterns) | set(LEFT_OUT) | {"fips-crypto-policies"}
    source = (MODULE / "module-setup.sh").read_text()
    lists = re.findall(r"for _module in ([a-z -]+); do", source) + re.findall(r"(?m)^ +([a-z |*]+)\) _bootseal_refuse", source)
    named = {name for names in lists for name in re.sub(r"[|*]", " ", names).split()} - {"erofs", "overlay"}
    assert named | {"fips-crypto-policies"} == set(bypasses.MODULES)


@pytest.mark.parametrize("hooks", ["var/lib/dracut/hooks", "usr/lib/dracut/hooks"])
def test_hook_of_fips_crypto_policies_is_removed(hooks: str, dracut: Dracut) -> None:
    directory = dracut.initrd / hooks / "pre-pivot"
    directory.mkdir(parents=True)
    for name in ("01-fips-crypto-policies.sh", "01-fips-noboot.sh"):
        (directory / name).touch()
    status, said = dracut.run("_bootseal_remove_bypasses")
    assert (status, len(said)) == (0, 1)
    assert said[0].startswith("warning: bootseal: the hook of dracut module 'fips-crypto-policies' is left out: ")
    assert [path.name for path in directory.iterdir()] == ["01-fips-noboot.sh"]
    assert dracut.run("_bootseal_remove_bypasses") == (0, [])


@pytest.mark.parametrize("place", ["usr/lib/systemd/system", "etc/systemd/system", "etc/systemd/system/sysinit.target.wants"])
def test_units_of_extensions_are_removed(place: str, dracut: Dracut) -> None:
    """Since dracut 109, modules do not learn of /etc/systemd/system without hostonly."""
    directory = dracut.initrd / place
    directory.mkdir(parents=True)
    for name in ("systemd-sysext.service", "systemd-confext-sysroot.service", "systemd-journald.service"):
        (directory / name).symlink_to("/nowhere")
    units = "/usr/lib/systemd/system"
    assert dracut.run("_bootseal_remove_bypasses", systemdsystemunitdir=units, systemdsystemconfdir="") == (0, [])
    assert [path.name for path in directory.iterdir()] == ["systemd-journald.service"]


CONFIGURED = {
    "not": ({}, ""),
    "no": ({"etc/bootseal/bootseal.conf": "[Keyring]\nVOA=no\n"}, ""),
    "commented": ({"etc/bootseal/bootseal.conf": "[Keyring]\n#VOA=os\n"}, ""),
    "in the file": ({"etc/bootseal/bootseal.conf": "[Keyring]\n  VOA = os \n"}, "os"),
    "in a drop-in": ({"usr/lib/bootseal/bootseal.conf.d/1.conf": "[Keyring]\nVOA=os"}, "os"),
    "another": ({"etc/bootseal/bootseal.conf": "[Keyring]\nVOA=os:13\n"}, "os:13"),
}


@pytest.mark.parametrize(("files", "os_name"), CONFIGURED.values(), ids=CONFIGURED)
def test_voa_certificates_are_installed_if_configured(files: dict[str, str], os_name: str, dracut: Dracut) -> None:
    """This machine does not have these directories, so bash does not expand the patterns."""
    for name, text in files.items():
        path = dracut.initrd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    status, said = dracut.run('_bootseal_install_or_mask() { echo "$1"; }\n_bootseal_install_configuration')
    places = [f"/{top}/{os_name}/{config.VOA_PURPOSE}/*-certificate.pem" for top in config.VOA_DIRECTORIES]
    assert (status, [line for line in said if "/voa/" in line]) == (0, places if os_name else [])


@pytest.mark.parametrize("masked", [False, True])
def test_file_or_mask_is_installed(masked: bool, dracut: Dracut, tmp_path: Path) -> None:  # noqa: FBT001
    path = tmp_path / "tree/x.pem"
    path.parent.mkdir()
    if masked:
        path.symlink_to("/dev/null")
    else:
        path.write_text("x")
    assert dracut.run(f"_bootseal_install_or_mask {path}; _bootseal_install_or_mask {path}.missing") == (0, [])
    installed = Path(f"{dracut.initrd}{path}")
    assert os.readlink(installed) == "/dev/null" if masked else installed.read_text() == "x"


def install_python(dracut: Dracut, before: str = "", after: str = "") -> tuple[int, list[str]]:
    python = f'/usr/bin/python3() {{ command "{sys.executable}" "$@"; }}'
    return dracut.run(f"{python}\n_bootseal_libdir={SERVICE}\n{before}\n_bootseal_install_python\n{after}")


@pytest.mark.parametrize("mask", ["022", "077"])
def test_python_modules_keep_the_modes_of_directories(mask: str, dracut: Dracut) -> None:
    """Unprivileged services of the initrd must be able to enter / and /usr."""
    (dracut.initrd / "usr/lib").mkdir(parents=True)
    status, said = install_python(dracut, f"umask {mask}\nmkdir -p $initdir/usr")
    assert status == 0, said
    assert (dracut.initrd / "usr/lib/bootseal/bootseal/boot.pyc").exists()
    folders = [".", "usr", "usr/lib", "usr/lib/bootseal", "usr/lib/bootseal/bootseal"]
    assert {folder: (dracut.initrd / folder).stat().st_mode & 0o777 for folder in folders} == dict.fromkeys(folders, 0o755)


def test_initrd_has_a_link_to_libcrypto(dracut: Dracut) -> None:
    (dracut.initrd / "usr/lib").mkdir(parents=True)
    assert install_python(dracut) == (0, [])
    library = os.readlink(dracut.initrd / "usr/lib/bootseal/libcrypto.so")
    assert re.fullmatch(r"/\S+/libcrypto\.so\.\d+", library)
    assert Path(f"{dracut.initrd}{library}").read_bytes() == Path(library).read_bytes()


def test_initrd_has_nothing_that_only_the_build_needs(dracut: Dracut) -> None:
    (dracut.initrd / "usr/lib").mkdir(parents=True)
    assert install_python(dracut) == (0, [])
    names = {path.name.partition(".")[0] for path in dracut.initrd.rglob("*") if path.suffix in (".pyc", ".so")}
    assert {"libcrypto", "x509", "_ctypes"} <= names
    assert names & {"reference", "hashlib", "_hashlib", "_rust", "_cffi_backend", "lazyre", "util", "libssl"} == set()


def test_libcrypto_is_that_of_kmod(dracut: Dracut) -> None:
    """Python may use another version. dracut installs kmod and its libraries in any case."""
    linked = r"""printf '\tlinux-vdso.so.1 (0x7f01)\n\tlibcrypto.so.9 => /lib/%s/libcrypto.so.9 (0x7f02)\n' "${1##*/}" """
    dracut.program("kmod", "")
    dracut.program("ldd", linked)
    assert dracut.run("_bootseal_find_libcrypto") == (0, ["/lib/kmod/libcrypto.so.9"])
    dracut.program("ldd", f'[ "${{1##*/}}" = kmod ] || {linked}')
    status, said = dracut.run("_bootseal_find_libcrypto")
    assert (status, len(said)) == (0, 1)
    assert said[0].startswith("/lib/_hashlib.")


def test_missing_libcrypto_ends_the_build(dracut: Dracut) -> None:
    dracut.program("ldd", "")
    status, said = install_python(dracut, after="echo 'the build goes on'")
    assert (status, said) == (1, ["fatal: bootseal: libcrypto not found: install OpenSSL 3 or later"])


def test_missing_cryptography_ends_the_build(dracut: Dracut) -> None:
    status, said = dracut.run("/usr/bin/python3() { false; }\n_bootseal_install_python\necho 'the build goes on'")
    assert status == 1
    assert said == ["fatal: bootseal: Python module 'cryptography' not found: install python3-cryptography"]


def test_difference_between_readers_ends_the_build(dracut: Dracut) -> None:
    """The readers themselves: tests/unit/test_reference.py."""
    dracut.program("chroot", "echo emergency")
    python = '/usr/bin/python3() { echo "$*"; false; }'
    status, said = dracut.run(f"{python}\n_bootseal_check_result\necho 'the build goes on'")
    assert (status, said) == (1, [f"fatal: bootseal: -IB /usr/lib/bootseal check-keyring {dracut.initrd} /"])


def test_ld_preload_is_ignored(dracut: Dracut) -> None:
    """Image builders preload a library that the initrd lacks. The loader reports that on stderr."""
    dracut.program("chroot", "echo emergency")
    python = "/usr/bin/python3() { :; }"
    status, said = dracut.run(f"{python}\nexport LD_PRELOAD=/nowhere/libeatmydata.so\n_bootseal_check_result")
    assert status == 0, said
    assert any("a refused boot ends in the emergency target" in line for line in said)


def test_missing_unit_ends_the_build(dracut: Dracut) -> None:
    """dracut only logs it, and the initrd would wait for the missing unit."""
    status, said = dracut.run("_bootseal_install_units; echo 'the build goes on'")
    assert status == 1
    assert said == [f"fatal: bootseal: cannot install {dracut.initrd.parent}/units/bootseal.service"]


# --- drop-ins of systemd-keyring-setup.service: bootseal seals .fs-verity if it verified the boot

PROGRAM, RECORD = "/usr/lib/systemd/systemd-keyring-setup", "/run/bootseal/boot.json"


def keyring_setup(name: str) -> list[str]:
    """Return the command of a drop-in, after the empty line that removes the unit's own."""
    first, second = re.findall(r"(?m)^ExecStart=(.*)$", (TREE / "units" / name).read_text())
    assert first == ""
    assert not set("$%\\") & set(second), "systemd would expand it"
    return shlex.split(second)


def test_keyring_setup_in_the_initrd_skips_fs_verity() -> None:
    assert keyring_setup("keyring-setup-initrd.conf") == [PROGRAM, ".dm-verity", ".bpf"]


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("status", [0, 1, 65])
def test_keyring_setup_in_the_booted_system_depends_on_the_record(verified: bool, status: int, tmp_path: Path) -> None:  # noqa: FBT001
    program, record = tmp_path / "program", tmp_path / "boot.json"
    program.write_text(f'#!/bin/sh\necho "$@"\nexit {status}\n')
    program.chmod(0o755)
    if verified:
        record.touch()
    words = [word.replace(PROGRAM, str(program)).replace(RECORD, str(record)) for word in keyring_setup("keyring-setup.conf")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, ".dm-verity .bpf\n" if verified else "\n", "")


def test_keyring_setup_drop_in_of_the_initrd_is_last() -> None:
    """Another dracut module may copy that of the booted system into the initrd."""
    makefile, module = (TREE / "Makefile").read_text(), (TREE / "dracut/52bootseal/module-setup.sh").read_text()
    (booted,) = re.findall(r"systemd-keyring-setup\.service\.d/([\w-]+\.conf)", makefile)
    (initrd,) = re.findall(r"systemd-keyring-setup\.service\.d/([\w-]+\.conf)", module)
    assert booted < initrd
