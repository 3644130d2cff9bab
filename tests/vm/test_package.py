# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian packages in a view of each suite's own tree: installed, upgraded, removed, purged. No guest is booted."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from vm.harness import tree
from vm.harness.cache import CHECKOUT, must_run, scratch

pytestmark = [pytest.mark.vm, pytest.mark.parametrize("suite", tree.SUITES)]

LIBRARY = "/usr/lib/bootseal/"
# Not from 'make install': files that Debian's policy requires, and one that recompiles modules for another Python.
OF_DEBIAN = re.compile(r"/usr/share/(doc/[^/]+/(changelog\.gz|copyright)|python3/runtime\.d/.*)")
DBUS = re.compile(r"python3-(gi|pydbus|pyudev|dbus)|gir1\.2-.*|libgirepository.*|libglib2\.0.*|dbus(-.*)?")
# The highest exposure that systemd-analyze may report; comments in bootseal.service justify each remaining point.
EXPOSURE = {
    "bootseal.service": 3.9,
    "bootseal-guard.service": 2.6,
    "bootseal-gate.service": 5.5,
    "bootseal-deploy.service": 5.5,
}
UNITS = (*EXPOSURE, "bootseal-gate.path", "bootseal-deploy.path")


class Life(NamedTuple):
    """FILES.<moment> as sets of lines, and the output of each command."""

    moments: dict[str, set[str]]
    said: dict[str, list[str]]

    def added(self, before: str, after: str) -> set[str]:
        """Compare two moments, without the bytecode of Python's own library and without dpkg's log."""
        others = re.compile(r"\S+ \S+ \S+ \./(usr/lib/python3\.\d+/|var/log/dpkg\.log )")
        return {line for line in self.moments[before] ^ self.moments[after] if not others.match(line)}

    def paths(self, moment: str) -> set[str]:
        return {_path(line) for line in self.moments[moment] if line[0] != "!"}


def _path(line: str) -> str:
    return line.split(" ")[3].removeprefix(".")


@cache
def _deb(package: str) -> Path:
    (found,) = tree.packages().glob(f"{package}_*.deb")
    return found


@cache
def _life(suite: str) -> Life:
    base = tree.base_tree(suite)
    with scratch() as work:
        out = work / "out"
        out.mkdir()
        must_run("package.sh", base, work / "views", out, *map(_deb, ("bootseal-common", "bootseal", "bootseal-tools")))
        texts = {path.name: path.read_text().splitlines() for path in out.iterdir()}
    moments = {name.removeprefix("FILES."): set(lines) for name, lines in texts.items() if name.startswith("FILES.")}
    return Life(moments, {name: lines for name, lines in texts.items() if not name.startswith("FILES.")})


def _owned(life: Life, which: str) -> set[str]:
    """List the files of an installed package, without its directories."""
    files = {_path(line) for line in life.moments["installed"] if line[0] == "f"}
    return files & set(life.said[f"owned-{which}"])


@cache
def _installed_by_make() -> frozenset[str]:
    with scratch() as work:
        places = [f"DESTDIR={work}", "PREFIX=/usr", "ZSHDIR=/usr/share/zsh/vendor-completions"]
        command = ["make", "-s", "-C", str(CHECKOUT), "install", *places]
        subprocess.run(command, check=True, capture_output=True)
        return frozenset("/" + str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())


def _closure(suite: str, package: str) -> set[str]:
    """Follow each dependency to its first alternative that the base tree has."""
    admin = tree.base_tree(suite) / "var/lib/dpkg"
    form = "${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
    listed = subprocess.run(
        ["dpkg-query", f"--admindir={admin}", "-W", "-f", form], check=True, capture_output=True, text=True
    ).stdout
    lines = [line.split("\t") for line in listed.splitlines()]
    needs = {name: depends for name, _, depends in lines}
    real = {provided: name for name, provides, _ in lines for provided in _names(provides)} | {name: name for name in needs}
    field = subprocess.run(["dpkg-deb", "-f", _deb(package), "Depends"], check=True, capture_output=True, text=True).stdout
    found: set[str] = set()
    left = [field]
    while left:
        for alternatives in left.pop().split(","):
            chosen = next((real[name] for name in _names(alternatives.replace("|", ",")) if name in real), None)
            if chosen and chosen not in found:
                found.add(chosen)
                left.append(needs[chosen])
    return found


def _names(field: str) -> list[str]:
    return [match[1] for part in field.split(",") if (match := re.match(r"\s*([\w.+-]+)", part))]


# --- the contents of each package


def test_each_installed_file_is_in_one_package(suite: str) -> None:
    life = _life(suite)
    packages = [_owned(life, which) for which in ("common", "service", "tools")]
    together = set().union(*packages)
    assert len(together) == sum(map(len, packages))
    assert {path.removesuffix(".gz") for path in together if not OF_DEBIAN.fullmatch(path)} == _installed_by_make()


def test_no_package_requires_more_than_it_needs(suite: str) -> None:
    """A host that only signs has neither dracut nor systemd, and no initrd needs D-Bus."""
    service, tools, common = (_closure(suite, name) for name in ("bootseal", "bootseal-tools", "bootseal-common"))
    assert {"python3-cryptography"} == {"python3-cryptography", "dracut-core", "systemd"} & common
    assert {"dracut-core", "systemd"} <= service
    assert {name for name in service | common | tools if DBUS.fullmatch(name)} == set()
    assert {"dracut-core", "systemd"} & tools == set()


def test_what_describes_the_service_comes_with_it(suite: str) -> None:
    """The record is the service's, and its unit names bootseal(8)."""
    service = {path.removesuffix(".gz") for path in _owned(_life(suite), "common")}
    pages = {f"/usr/share/man/man{path.suffix[1:]}/{path.name}" for path in (CHECKOUT / "packaging/man").iterdir()}
    assert pages | {"/usr/share/bootseal/boot.schema.json"} <= service


def test_completions_come_with_the_program(suite: str) -> None:
    """Debian's shells look in these places."""
    places = {
        "bash-completion/completions/bootseal",
        "fish/vendor_completions.d/bootseal.fish",
        "zsh/vendor-completions/_bootseal",
    }
    assert {f"/usr/share/{place}" for place in places} <= _owned(_life(suite), "tools")


def test_service_installs_without_the_tools(suite: str) -> None:
    life = _life(suite)
    assert not any("/dist-packages/gi/" in path or "/pydbus/" in path for path in life.paths("alone"))
    new = life.paths("alone") - life.paths("base")
    assert LIBRARY + "bootseal/boot.py" in new
    assert [path for path in new if path.startswith(("/usr/bin/", "/etc/", LIBRARY + "bootseal/host"))] == []
    assert life.said["alone-imports"] == ["status 0"]


def test_the_tools_sign_without_what_they_recommend(suite: str) -> None:
    life = _life(suite)
    assert life.said["alone-sign"][-1] == "status 0"
    assert life.said["alone-status"][-1] == "status 74"
    assert "Failed to read the record of this boot" in "\n".join(life.said["alone-status"])


def test_nothing_is_a_conffile(suite: str) -> None:
    assert _life(suite).said["conffiles"] == ["status 0"]


# --- installed


def test_modules_are_compiled_for_this_python(suite: str) -> None:
    life = _life(suite)
    *lines, status = life.said["bytecode"]
    assert status == "status 0"
    states = dict(line.split(" ") for line in lines)
    assert set(states) == {p for p in _owned(life, "common") | _owned(life, "tools") if p.startswith(LIBRARY)}
    assert set(states.values()) == {"fresh"}


def test_the_program_runs(suite: str) -> None:
    assert _life(suite).said["program"][0].startswith("bootseal ")
    assert _life(suite).said["program"][-1] == "status 0"


def test_the_completion_completes(suite: str) -> None:
    assert _life(suite).said["completion-syntax"] == ["status 0"]
    assert _life(suite).said["completion"] == ["--all", "status 0"]


def test_nothing_but_the_catalog_is_touched(suite: str) -> None:
    """Installing writes files of the packages, bytecode, the gate's links and the catalog."""
    life = _life(suite)
    owned = {path for which in ("common", "service", "tools") for path in life.said[f"owned-{which}"]}
    strange = {line for line in life.added("before", "installed") if _path(line) not in owned and "/__pycache__" not in line}
    noted = (f"/var/lib/systemd/deb-systemd-helper-enabled/bootseal-{unit}.path.dsh-also" for unit in ("gate", "deploy"))
    assert {_path(line) for line in strange} == {"/var/lib/systemd/catalog/database", *noted}


def test_the_gate_is_off_until_it_is_enabled(suite: str) -> None:
    life = _life(suite)
    assert life.said["gate-before"] == ["disabled", "status 1"]
    assert life.said["gate-after"] == ["enabled", "status 0"]
    (link,) = life.added("installed", "enabled")
    assert "/multi-user.target.wants/bootseal-gate.path /usr/lib/systemd/system/bootseal-gate.path" in link


# --- later


def test_a_reinstallation_changes_nothing(suite: str) -> None:
    assert _life(suite).added("enabled", "reinstalled") == set()


def test_an_upgrade_leaves_nothing_of_the_old_version(suite: str) -> None:
    life = _life(suite)
    changed = life.paths("reinstalled") ^ life.paths("upgraded")
    renamed = {re.sub(r"_newer|__pycache__/|\.cpython-\d+|\.pyc?$", "", path) for path in changed}
    assert renamed == {LIBRARY + "bootseal/linux/loop", LIBRARY + "bootseal/host/objects"}
    assert sum("_newer" in path for path in changed) == len(changed) // 2 == 4
    assert life.said["gate-upgraded"] == ["enabled", "status 0"]


@pytest.mark.parametrize("moment", ["removed", "purged"])
def test_nothing_is_left(suite: str, moment: str) -> None:
    assert _life(suite).added("before", moment) == set()


def test_installed_anew_the_gate_is_off(suite: str) -> None:
    assert _life(suite).added("installed", "again") == set()


# --- units, by the systemd of the suite


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_reads_the_unit_without_a_word(suite: str, unit: str) -> None:
    assert _life(suite).said[f"verify.{unit}"] == ["status 0"]


@pytest.mark.parametrize("unit", EXPOSURE)
def test_exposure_does_not_grow(suite: str, unit: str) -> None:
    text = "\n".join(_life(suite).said[f"security.{unit}"])
    match = re.search(rf"Overall exposure level for {unit}: (\d+\.\d)", text)
    assert match, text
    assert float(match[1]) <= EXPOSURE[unit]


def test_the_filter_lets_the_service_work(suite: str) -> None:
    """Use this machine's kernel with the systemd and the Python of the suite."""
    assert _life(suite).said["filtered"] == ["verified", "keys", "mounted", "refused", "refused", "refused", "status 0"]
