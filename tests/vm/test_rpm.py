# SPDX-License-Identifier: LGPL-2.1-or-later
"""The RPM packages against the Debian ones: the same files, dependencies and changes. The test installs neither."""

from __future__ import annotations

import gzip
import importlib.util
import io
import re
import subprocess
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from vm.harness import tree
from vm.harness.cache import CHECKOUT

PACKAGES = ("bootseal-common", "bootseal", "bootseal-tools")
LIBRARY = "/usr/lib/bootseal/"
RPM = CHECKOUT / "packaging/rpm"
# Files of one format only, by path, and the reason.
ONLY_DEB = {
    r"/usr/share/doc/[^/]+/changelog\.gz": "Debian's policy; an RPM has its changes in the header",
    r"/usr/share/doc/[^/]+/copyright": "Debian's policy; an RPM has the whole licence, and its name in the header",
    r"/usr/share/python3/runtime\.d/.*": "compiles again for another Python; Fedora builds all packages again for that",
}
ONLY_RPM = {
    r"/usr/share/licenses/bootseal-common/LICENSE": "Debian's copyright names a file that every Debian has",
    LIBRARY + r"(.*/)?__pycache__/[^/]+\.cpython-\d+\.pyc": "Debian compiles when it installs",
}
# Debian's zsh looks elsewhere: (where, where in the RPM).
ZSH = ("/usr/share/zsh/vendor-completions", "/usr/share/zsh/site-functions")
# Directories of other packages in Fedora.
OF_OTHERS = {
    "/usr", "/usr/bin", "/usr/lib", "/usr/lib/dracut", "/usr/lib/dracut/modules.d", "/usr/lib/systemd",
    "/usr/lib/systemd/catalog", "/usr/lib/systemd/system", "/usr/share", "/usr/share/bash-completion",
    "/usr/share/bash-completion/completions", "/usr/share/doc", "/usr/share/licenses", "/usr/share/man", "/usr/share/man/man5",
    "/usr/share/man/man7", "/usr/share/man/man8",
}  # fmt: skip
FEDORA_NAMES = {
    "dracut-core": "dracut",
    "sbsigntool": "sbsigntools",
    "gir1.2-ostree-1.0": "ostree-libs",
    "python3-gi": "python3-gobject-base",
}
FIELDS = {"Depends": "requires", "Recommends": "recommends", "Suggests": "suggests"}


class Entry(NamedTuple):
    """A file or directory as it would be installed; `content` is unpacked, or where a link leads."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    content: bytes


def _said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@cache
def _deb(package: str) -> Path:
    (found,) = tree.packages().glob(f"{package}_*.deb")
    return found


@cache
def _rpm(package: str) -> Path:
    (found,) = tree.rpm_packages().glob(f"{package}-[0-9]*.noarch.rpm")
    return found


def _entries(command: list[str], package: Path) -> dict[str, Entry]:
    with package.open("rb") as file:
        archive = subprocess.run(command, stdin=file, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name.removeprefix(".").removesuffix(".gz"): _entry(tar, member) for member in tar if member.name != "."}


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    file = tar.extractfile(member) if member.isfile() else None
    content = file.read() if file else member.linkname.encode()
    if member.name.endswith(".gz"):
        content = gzip.decompress(content)
    return Entry(member.type, member.mode, (member.uid, member.gid), content)


@cache
def _of_deb(package: str) -> dict[str, Entry]:
    entries = _entries(["dpkg-deb", "--fsys-tarfile", "-"], _deb(package))
    return {path.replace(*ZSH): entry for path, entry in entries.items()}


@cache
def _of_rpm(package: str) -> dict[str, Entry]:
    return _entries(["rpm2archive", "--nocompression"], _rpm(package))


def _files(entries: dict[str, Entry], only: dict[str, str]) -> dict[str, Entry]:
    return {path: e for path, e in entries.items() if e.kind != tarfile.DIRTYPE and not _matching(path, only)}


def _matching(path: str, only: dict[str, str]) -> list[str]:
    """Find the rows that name a path; all names come without .gz."""
    return [row for row in only if re.fullmatch(row.removesuffix(r"\.gz"), path)]


# --- contents


@pytest.mark.parametrize("package", PACKAGES)
def test_both_have_the_same_files(package: str) -> None:
    deb, rpm = _files(_of_deb(package), ONLY_DEB), _files(_of_rpm(package), ONLY_RPM)
    assert len(deb) > 10
    assert rpm.keys() ^ deb.keys() == set()
    assert {path for path, entry in deb.items() if rpm[path] != entry} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_directories_have_the_same_modes(package: str) -> None:
    deb, rpm = _of_deb(package), _of_rpm(package)
    folders = {path for path, entry in rpm.items() if entry.kind == tarfile.DIRTYPE and path in deb}
    assert folders
    assert {path for path in folders if rpm[path] != deb[path]} == set()


@pytest.mark.parametrize(("entries", "only"), [(_of_deb, ONLY_DEB), (_of_rpm, ONLY_RPM)], ids=["deb", "rpm"])
def test_each_difference_is_there(entries: Callable[[str], dict[str, Entry]], only: dict[str, str]) -> None:
    paths = [path for package in PACKAGES for path in entries(package)]
    assert {row for path in paths for row in _matching(path, only)} == set(only)


def test_each_directory_has_an_owner() -> None:
    owned = {path for package in PACKAGES for path in _of_rpm(package)}
    needed = {str(parent) for path in owned for parent in Path(path).parents} - {"/"}
    assert needed - owned == OF_OTHERS


@pytest.mark.parametrize("package", PACKAGES)
def test_bytecode_goes_by_the_content_of_its_source(package: str) -> None:
    """On ostree all files are dated 1970, so bytecode by time would be stale."""
    entries = _of_rpm(package)
    assert package == "bootseal" or LIBRARY in "".join(entries)
    sources = {path for path in entries if path.startswith(LIBRARY) and path.endswith(".py")}
    compiled = {importlib.util.source_from_cache(path): e.content for path, e in entries.items() if path.endswith(".pyc")}
    assert compiled.keys() == sources
    for path, code in compiled.items():
        assert code[4:8] == (0b11).to_bytes(4, "little")
        assert code[8:16] == importlib.util.source_hash(entries[path].content)
        assert bytes([len(path)]) + path.encode() in code, "not the name of the installed file"


# --- the header


def _dependencies(package: str, field: str) -> set[str]:
    """Read the control file with Fedora's names, without what debhelper adds."""
    listed = _said("dpkg-deb", "-f", _deb(package), field).strip()
    named = {re.sub(r"[()]", "", part.strip()) for part in listed.split(",") if part}
    return {" ".join([FEDORA_NAMES.get(name, name), *version]) for name, *version in map(str.split, named)} - {"python3:any"}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_are_those_of_the_debian_packages(package: str, field: str) -> None:
    listed = set(_said("rpm", "-qp", f"--{FIELDS[field]}", _rpm(package)).splitlines())
    ours = {re.sub(r"(= [\d.]+)-1$", r"\1", line) for line in listed if not re.match(r"rpmlib\(|/", line)}
    assert ours == _dependencies(package, field)


def test_the_changes_are_the_same() -> None:
    head, *lines = _said("rpm", "-qp", "--changelog", _rpm("bootseal")).splitlines()
    changelog = CHECKOUT / "packaging/deb/changelog"

    def last(field: str) -> str:
        return _said("dpkg-parsechangelog", "-l", changelog, "-S", field).strip()

    day, date, month, year, *_ = re.split(r",? +", last("Date"))
    assert head == f"* {day} {month} {date} {year} {last('Maintainer')} - {last('Version')}-1"
    changes = [line.strip()[2:] for line in last("Changes").splitlines() if line.startswith("  *")]
    assert changes and [line[2:] for line in lines if line.startswith("- ")][: len(changes)] == changes


def test_scriptlets_are_about_the_gate_alone() -> None:
    """The service belongs to the initrd, and systemd reloads its units by itself."""
    assert _said("rpm", "-qp", "--scripts", "--triggers", "--filetriggers", _rpm("bootseal")) == ""
    said = _said("rpm", "-qp", "--scripts", _rpm("bootseal-tools"))
    assert re.findall(r"(?m)^(\w+) scriptlet", said) == ["postinstall", "preuninstall"]
    units = r"bootseal-gate\.path bootseal-deploy\.path"
    assert re.findall(rf"systemctl --no-reload (.*?) {units} >", said) == ["preset", "disable --now"]
    assert set(re.findall(r"[\w-]+\.(?:service|path)", said)) == set(units.replace("\\", "").split())


def test_rpmlint_is_silent() -> None:
    packages = sorted(tree.rpm_packages().glob("*.rpm"))
    assert len(packages) == 4
    command = ["rpmlint", "--strict", "-c", f"{RPM}/rpmlint.toml", *map(str, packages), f"{RPM}/bootseal.spec"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
