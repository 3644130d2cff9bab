# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the documents with the code: keys, verdicts, message ids, journal fields, files, links. Render the man pages."""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bootseal import checkinitrd, digest, report, verdicts
from bootseal.formats import der, pkcs7
from bootseal.host import cli, dryrun, output
from bootseal.host.initrd import cache
from bootseal.host.live import chain
from bootseal.record import parse
from bootseal.stages import config
from bootseal.verdicts import Note, Verdict
from unit.support import PACKAGE, TREE

README = TREE / "README.md"
ARCHITECTURE = TREE / "ARCHITECTURE.md"
MAN = TREE / "packaging/man"
SERVICE_PAGE, CONF_PAGE = MAN / "bootseal.service.8", MAN / "bootseal.conf.5"
PROGRAM_PAGE, JSON_PAGE, OVERVIEW_PAGE = MAN / "bootseal.8", MAN / "bootseal.json.5", MAN / "bootseal.7"
SCHEMA: dict[str, Any] = json.loads((TREE / "packaging/boot.schema.json").read_text())
CATALOG = TREE / "packaging/bootseal.catalog"
PAGES = sorted(MAN.glob("*.[1-8]"))
DOCUMENTS = (
    README, ARCHITECTURE, TREE / "CONTRIBUTING.md", TREE / "SECURITY.md", TREE / "NEWS.md", TREE / "docs/status.md",
    TREE / "tests/vectors/README.md",
)  # fmt: skip
PICTURES = sorted((TREE / "docs").glob("*.svg"))
WORKFLOWS = sorted((TREE / ".github/workflows").glob("*.yml"))
IGNORED = {"__pycache__", "build", "dist", "LICENSES"}

# journalctl prints the bare name of a field that is missing: only what these verdicts always carry.
ALWAYS = {"MESSAGE", "BOOTSEAL_VERDICT"}
LOCATED = {
    v.name: ALWAYS | {"BOOTSEAL_DEPLOYMENT"}
    for v in (
        verdicts.NO_IMAGE, verdicts.NO_DIGEST, verdicts.NO_SIGNATURE, verdicts.BAD_IMAGE, verdicts.BAD_DIGEST,
        verdicts.BAD_SIGNATURE, verdicts.UNTRUSTED_SIGNER, verdicts.WRONG_SIGNATURE, verdicts.IMAGE_UNSEALED,
        verdicts.IMAGE_MISMATCH,
    )
}  # fmt: skip
VERIFIED = {
    v.name: ALWAYS | {"BOOTSEAL_DEPLOYMENT", "BOOTSEAL_DIGEST", "BOOTSEAL_SIGNER"}
    for v in (verdicts.ENROLL_FAILED, verdicts.VERIFIED)
}
VERIFIED[verdicts.VERIFIED.name] |= {"BOOTSEAL_ENROLL"}
FIELDS = LOCATED | VERIFIED


def roff(path: Path) -> str:
    return path.read_text().replace(r"\-", "-")


def status(verdict: Verdict) -> str:
    """Return the exit status as documented; an interrupted service lacks one."""
    return "-" if verdict is verdicts.INTERRUPTED else str(verdict.exit_status)


STATUSES = {v.name: status(v) for v in verdicts.VERDICTS}


def catalog() -> dict[str, tuple[str, str]]:
    """Return {verdict: (id, text)} of the catalog; the verdict is the comment above an entry."""
    parts = re.split(r"(?m)^# (\S+)\n-- (\S+)\n", CATALOG.read_text())
    return {parts[n]: (parts[n + 1], parts[n + 2]) for n in range(1, len(parts), 3)}


# --- configuration


def man_options() -> dict[tuple[str, str], str]:
    """Return {(section, key): text} of bootseal.conf(5)."""
    options: dict[tuple[str, str], str] = {}
    for section, body in re.findall(r"(?ms)^\.SH \[(\w+)\] SECTION OPTIONS\n(.*?)(?=^\.SH )", roff(CONF_PAGE)):
        parts = re.split(r"(?m)^\.TP\n\.I (\w+)=\n", body)
        options |= {(section, parts[n]): parts[n + 1] for n in range(1, len(parts), 2)}
    return options


def test_conf_page_has_every_key_and_no_other() -> None:
    assert set(man_options()) == {(section.upper(), key) for section, key in config.KEYS}


@pytest.mark.parametrize("key", list(config.KEYS), ids="/".join)
def test_conf_page_has_every_value_and_the_default(key: tuple[str, str]) -> None:
    allowed, default = config.KEYS[key]
    text = man_options()[key[0].upper(), key[1]]
    text = text.replace(r"\-", "-")
    named = set(re.findall(r"^\.BR? ([\w-]+)(?![\w.-])", text, re.M))
    if set(allowed) != {"yes", "no"}:
        assert named == set(allowed)
    assert re.findall(r"^Defaults to\n\.BR? ([\w-]+)", text, re.M) == [default]


def test_shipped_configuration_is_all_defaults_commented_out() -> None:
    lines = (TREE / "units/bootseal.conf").read_text().splitlines()
    assert not [line for line in lines if "=" in line and not line.startswith("#")]
    uncommented = "\n".join(line.removeprefix("#") if re.match(r"#\w+=", line) else line for line in lines)
    assert config.parse(uncommented, "") == {key: default for key, (_, default) in config.KEYS.items()}


# --- verdicts


def test_service_page_has_every_verdict_with_its_exit_status() -> None:
    assert dict(re.findall(r'(?m)^\.TP\n\.BR ([a-z-]+) " \((\d+|-)\)"$', roff(SERVICE_PAGE))) == STATUSES


def test_service_page_has_every_journal_field() -> None:
    record = {
        "message": "x",
        "hint": "x",
        "deployment": {"path": "x"},
        "image": {"algorithm": "x", "digest": "x", "id": "x"},
        "signature": {"subject": "x"},
        "enrollment": {"method": "x"},
    }
    sent = {name for name in report._fields(verdicts.VERIFIED, parse(record)) if name.startswith("BOOTSEAL_")}
    assert set(re.findall(r"(?m)^\.TP\n\.I (BOOTSEAL_\w+)=$", roff(SERVICE_PAGE))) == sent


def test_catalog_has_every_verdict_with_its_id() -> None:
    expected = {v.name: v.message_id for v in verdicts.VERDICTS} | {n.name: n.message_id for n in verdicts.NOTES}
    assert {name: found for name, (found, _) in catalog().items()} == expected
    assert len(re.findall(r"(?m)^-- ", CATALOG.read_text())) == len(expected) == len(set(expected.values()))


def test_every_note_there_is_is_listed() -> None:
    assert {value for value in vars(verdicts).values() if isinstance(value, Note)} == set(verdicts.NOTES)


@pytest.mark.parametrize("verdict", [*verdicts.VERDICTS, *verdicts.NOTES], ids=lambda v: v.name)
def test_catalog_entry(verdict: Verdict | Note) -> None:
    text = catalog()[verdict.name][1]
    header, _, body = text.partition("\n\n")
    assert re.fullmatch(r"Subject: .+\nDefined-By: bootseal\nDocumentation: (man:bootseal\.\w+\(\d\) ?)+", header)
    assert len(body.strip().split("\n\n")) >= 3, "what happened, what to do, where to read on"
    assert max(map(len, body.splitlines())) <= 76
    assert set(re.findall(r"@(\w+)@", body)) <= (set() if isinstance(verdict, Note) else FIELDS.get(verdict.name, ALWAYS))


def test_catalog_compiles(tmp_path: Path) -> None:
    if not shutil.which("journalctl"):
        pytest.skip("needs journalctl")
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(CATALOG, directory)
    command = ["journalctl", f"--root={tmp_path}"]
    made = subprocess.run([*command, "--update-catalog"], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    listed = subprocess.run([*command, "--list-catalog"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"(?m)^([0-9a-f]{32}) bootseal: ", listed)) == {v.message_id for v in verdicts.VERDICTS} | {
        n.message_id for n in verdicts.NOTES
    }


# --- man pages


def test_there_are_man_pages() -> None:
    assert {SERVICE_PAGE, CONF_PAGE, PROGRAM_PAGE, JSON_PAGE, OVERVIEW_PAGE} == set(PAGES)


def documenting() -> list[Path]:
    """List the files that name manual pages as systemd's Documentation= does."""
    return [CATALOG, *sorted(path for path in (TREE / "units").iterdir() if "man:" in path.read_text())]


@pytest.mark.parametrize("path", documenting(), ids=lambda p: p.name)
def test_documentation_leads_to_a_page(path: Path) -> None:
    named = set(re.findall(r"\bman:([\w.-]+)\((\d)\)", path.read_text()))
    assert named <= {tuple(page.name.rsplit(".", 1)) for page in PAGES}


@pytest.mark.parametrize("path", [*PAGES, README, CATALOG], ids=lambda p: p.name)
def test_pages_of_ours_that_are_named_exist(path: Path) -> None:
    text = re.sub(r"\\f[BIR]|[`*\"]", "", roff(path))
    named = set(re.findall(r"\b(bootseal(?:\.(?:service|conf|json))?) ?\((\d)\)", text))
    assert named
    assert named <= {tuple(page.name.rsplit(".", 1)) for page in PAGES}


def test_program_page_has_no_option_that_does_not_exist() -> None:
    """Check one direction; test_completion.py checks that each option is on the page."""
    known = {"--version", "--help", "--json"}
    for command in cli._COMMANDS:
        parser = argparse.ArgumentParser()
        cli._module(command).add_arguments(parser)
        known |= {option for action in parser._actions for option in action.option_strings}
    named = set(
        re.findall(
            r"(?m)^(?:\.TP\n)?(?:\.BR? |\\fB)(--?[a-z][\w-]*)", re.sub(r"(?s)\n\.EX\n.*?\n\.EE\n", "\n", roff(PROGRAM_PAGE))
        )
    )
    assert {"--key", "--all", "--json"} <= named
    assert named - known == set()


def tags(page: Path, section: str) -> set[str]:
    """Return the single words in bold that tag the paragraphs of a section."""
    return set(re.findall(r"(?m)^\.TP\n\.B (\w+)$", roff(page).partition(f"\n.SH {section}\n")[2].partition("\n.SH ")[0]))


def test_program_page_has_every_exit_status_that_is_no_verdicts() -> None:
    own = (
        output.USAGE,
        output.DATA,
        output.OS_ERROR,
        output.CANNOT_CREATE,
        output.IO_ERROR,
        output.NO_PERMISSION,
        output.UNAVAILABLE,
        verdicts.NO_SIGNATURE.exit_status,
        dryrun.INCOMPLETE.exit_status,
    )
    assert tags(PROGRAM_PAGE, "EXIT STATUS") == {str(number) for number in (*own, verdicts.INTERNAL.exit_status)}


def test_program_page_has_every_environment_variable() -> None:
    sources = [path.read_text() for path in (PACKAGE / "host").rglob("*.py")]
    asked = {name for source in sources for name in re.findall(r'"([A-Z_]+)" (?:not )?in os\.environ', source)}
    assert tags(PROGRAM_PAGE, "ENVIRONMENT") == asked


def test_the_manual_names_what_root_keeps_of_initrds() -> None:
    files = roff(PROGRAM_PAGE).partition("\n.SH FILES\n")[2].partition("\n.SH ")[0]
    assert f".I {cache.DIRECTORY}\n" in files
    assert f"at most {cache.MAX_ENTRIES} initrds" in " ".join(files.split())


def test_overview_page_has_the_signature_profile() -> None:
    page, source = roff(OVERVIEW_PAGE), (PACKAGE / "formats/pkcs7.py").read_text()
    numbers = {*re.findall(r'"(\d(?:\.\d+)+)"', source), str(pkcs7.MAX_SIZE), str(der.MAX_ITEMS), str(digest.BLOCK_SIZE)}
    assert len(numbers) >= 12
    assert {number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", page)} == set()


def test_overview_page_has_the_requirements(tmp_path: Path) -> None:
    page, control = roff(OVERVIEW_PAGE), (TREE / "packaging/deb/control").read_text()
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    versions = {
        "Python": project["requires-python"].removeprefix(">="),
        "cryptography": next(d.partition(">=")[2] for d in project["dependencies"] if d.startswith("cryptography>=")),
        "dracut": re.search(r"\bdracut-core \(>= ([\d.]+)\)", control)[1],  # type: ignore[index]
    }
    assert {name: version for name, version in versions.items() if f"{name} {version} or later" not in page} == {}
    (tmp_path / "etc/bootseal").mkdir(parents=True)
    (tmp_path / "etc/bootseal/bootseal.conf").write_text("[Enroll]\nRequired=yes\n")
    options = checkinitrd.kernel_options(config.load(str(tmp_path)))
    assert len(options) > 3
    assert [option for option in options if f"CONFIG_{option}" not in page] == []


# --- the record and the output of status


def members(schema: dict[str, Any], place: str = "") -> dict[str, dict[str, Any]]:
    """Return {path of a member: its schema}, including members of objects in lists."""
    found: dict[str, dict[str, Any]] = {}
    for name, inner in schema.get("properties", {}).items():
        found[f"{place}{name}"] = inner
        found |= members(inner.get("items", inner), f"{place}{name}.")
    return found


MEMBERS = members(SCHEMA)


def described(member: str) -> str:
    """Return the part of bootseal.json(5) that describes a member of the topmost object, or of `status`."""
    first, _, rest = member.partition(".")
    topmost, _, below = roff(JSON_PAGE).partition("\n.SH THE MEMBER STATUS\n")
    page, name = (below, rest.split(".")[0]) if first == "status" and rest else (topmost, first)
    # A .TP inside .RS and .RE describes a value of a member, not a member.
    inner = re.sub(
        r"(?ms)^\.RS$.*?^\.RE$", lambda match: match[0].replace(".TP\n", ".sub\n"), page.partition("\n.SH OUTPUT")[0]
    )
    tagged = re.split(r"(?m)^\.TP\n", inner)[1:]
    return next((part for part in tagged if name in words(part.splitlines()[0])), "")


def words(*lines: str) -> set[str]:
    """Return the words in italics or bold."""
    arguments = " ".join(match[1] for line in lines if (match := re.match(r"\.[BIR]{1,2} (.*)", line)))
    return {word.strip('"(),') for word in re.findall(r'"[^"]*"|\S+', arguments)}


@pytest.mark.parametrize("member", MEMBERS)
def test_json_page_has_every_member(member: str) -> None:
    text = described(member)
    assert text, "no paragraph"
    assert member.rsplit(".", 1)[-1] in words(*text.splitlines())


@pytest.mark.parametrize("member", [m for m, inner in MEMBERS.items() if "enum" in inner and m != "verdict"])
def test_json_page_has_every_value(member: str) -> None:
    text = " ".join(re.sub(r"(?m)^\.\w+ ", "", described(member)).replace('"', "").split())
    assert [value for value in MEMBERS[member]["enum"] if not re.search(rf"\b{re.escape(value)}\b", text)] == []


@pytest.mark.parametrize("name", chain._REASONS)
def test_json_page_has_everything_that_may_not_be_covered(name: str) -> None:
    page = roff(JSON_PAGE).partition("\n.I not_covered\n")[2].partition("\n.I milliseconds\n")[0]
    heads = [re.sub(r"^\.[BIR]+ ", "", line).replace('"', "").split(" and ") for line in re.findall(r"(?m)^\.TP\n(.+)$", page)]
    assert name in [part.strip() for head in heads for part in head]


def test_schema_has_every_verdict() -> None:
    assert MEMBERS["verdict"]["enum"] == [verdict.name for verdict in verdicts.VERDICTS]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_man_page_renders_without_warning(page: Path) -> None:
    if not shutil.which("man"):
        pytest.skip("needs man (package man-db)")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    made = subprocess.run(["man", "--warnings=w", "-l", page], env=environment, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    assert "NAME" in made.stdout and "SEE ALSO" in made.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_man_page_passes_mandoc(page: Path) -> None:
    if not shutil.which("mandoc"):
        pytest.skip("needs mandoc")
    made = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert made.stdout + made.stderr == ""


# --- ARCHITECTURE.md


def test_architecture_has_every_folder() -> None:
    text = ARCHITECTURE.read_text()
    folders = {f.name for f in TREE.iterdir() if f.is_dir() and f.name[0] != "." and f.name not in IGNORED}
    missing = [name for name in sorted(folders) if not name.endswith(".egg-info") and f"`{name}/" not in text]
    assert not missing


def test_architecture_names_files_that_exist() -> None:
    names = re.findall(
        r"`((?:[\w.-]+/)*[\w-]+\.(?:py|json|catalog|service|conf|spec)|(?:[\w.-]+/)+)`", ARCHITECTURE.read_text()
    )
    assert len(names) > 30
    known = [
        path.relative_to(TREE).as_posix() + "/" * path.is_dir() for top in TREE.glob("[!.]*") for path in (top, *top.rglob("*"))
    ]
    assert [name for name in names if not any(f"/{path}".endswith(f"/{name}") for path in known)] == []


def stages() -> set[str]:
    """Return the stages that a boot runs."""
    tree = ast.parse((PACKAGE / "boot.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "stages"]
    return {alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize("document", [ARCHITECTURE, TREE / "docs/boot.svg"], ids=lambda p: p.name)
def test_the_boot_has_every_stage(document: Path) -> None:
    words_ = set(re.findall(r"\w+", document.read_text()))
    assert len(stages()) > 5
    assert stages() - words_ == set()


# --- pictures


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.name)
def test_picture(picture: Path) -> None:
    """Check the title for screen readers, and that dark pages get another colour for every one."""
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(picture).getroot()
    title, style = root.find(f"{space}title"), root.find(f"{space}style")
    assert title is not None and title.text and style is not None and style.text
    light, dark = style.text.split("@media (prefers-color-scheme: dark)")
    coloured = re.compile(r"([^{}]+)\{[^{}]*#[0-9a-f]{6}")
    selectors = [{s.strip() for group in coloured.findall(part) for s in group.split(",")} for part in (light, dark)]
    assert len(selectors[0]) > 3
    assert selectors[0] == selectors[1]
    assert f"docs/{picture.name}" in README.read_text()


# --- README.md


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 120


def test_readme_shows_a_hint_that_exists() -> None:
    """If this fails, copy the lines from the output of `make demo`."""
    shown = re.search(r"bootseal: refused \((.+?)\): .+\n.*bootseal: hint: (.+)", README.read_text())
    assert shown
    assert {v.name: v.hint for v in verdicts.VERDICTS}[shown[1]] == shown[2]


# --- workflows


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_call_make_alone(workflow: Path) -> None:
    """Check all commands after the first, which installs what a clone and make need."""
    packages, *commands = re.findall(r"(?m)^ *- run: (.+)$", workflow.read_text())
    assert packages.startswith("apt-get ")
    assert commands
    assert {command.removeprefix("make ") for command in commands} <= targets()


# --- texts


def test_requirements_are_the_same_everywhere() -> None:
    readme, project = README.read_text(), (TREE / "pyproject.toml").read_text()
    control = (TREE / "packaging/deb/control").read_text()
    dracut, python, library = re.search(  # type: ignore[union-attr]
        r"\bdracut ([\d.]+) or later\b.*\bPython ([\d.]+) or later and `cryptography` ([\d.]+) or later\b", readme
    ).groups()
    for wanted in (f"dracut-core (>= {dracut})", f"python3 (>= {python})", f"python3-cryptography (>= {library})"):
        assert wanted in control
    assert f'requires-python = ">={python}"' in project
    assert f'"cryptography>={library}"' in project


def test_package_names_the_programs_that_unpack_initrds() -> None:
    programs = set(re.findall(r'_program\("(\w+)"', (PACKAGE / "host/initrd/decompress.py").read_text()))
    tools = (TREE / "packaging/deb/control").read_text().partition("\nPackage: bootseal-tools\n")[2]
    assert programs == {"zstd", "lz4"}
    assert programs <= set(re.findall(r"\w+", " ".join(re.findall(r"(?m)^(?:Recommends|Suggests): (.*)", tools))))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(TREE).as_posix())
def test_internal_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"(?:\]\(|src=\")(?!\w+:)([^)\"]+)", document.read_text())
    for place, _, heading in (link.partition("#") for link in links):
        target = document.parent / place if place else document
        assert target.exists(), place
        assert not heading or heading in anchors(target)


def anchors(document: Path) -> set[str]:
    """Return the headings of a document, as a link names them."""
    headings = re.findall(r"(?m)^#+ (.+)$", document.read_text())
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def targets() -> set[str]:
    """Return the targets of make."""
    return set(re.findall(r"(?m)^(\w+):", (TREE / "Makefile").read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(TREE).as_posix())
def test_make_targets_exist(document: Path) -> None:
    assert set(re.findall(r"(?:`|^)make (\w+)", document.read_text(), re.M)) <= targets()


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "-s", "help"], cwd=TREE, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"(?m)^  make (\w+)", listed)) == targets() - {"all"}


def test_licence_is_the_whole_text() -> None:
    text = (TREE / "LICENSE").read_text()
    assert "GNU LESSER GENERAL PUBLIC LICENSE\n                       Version 2.1, February 1999" in text
    assert "END OF TERMS AND CONDITIONS" in text


# --- SECURITY.md


def test_security_names_tests_that_exist() -> None:
    text = (TREE / "SECURITY.md").read_text()
    files = re.findall(r"`(tests/[a-z_/]+\.py)`", text)
    assert len(files) > 30
    sources = {name: (TREE / name).read_text() for name in files}
    for function, name in re.findall(r"`(test_\w+)` in `(tests/[a-z_/]+\.py)`", text):
        assert f"def {function}(" in sources[name], function
