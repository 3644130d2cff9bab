# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules beyond those of linters: imports, makers of trusted types, modules that a boot loads, sizes, units, words."""

import ast
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootseal.host.initrd import confined
from bootseal.linux import syscall
from unit.support import PACKAGE, SERVICE, TREE, project_files

BOOT_PATH = sorted(path for path in PACKAGE.rglob("*.py") if "host" not in path.relative_to(PACKAGE).parts)
# The modules beside the folders, and which others of these each may import.
TOP = {
    "__init__": set[str](),
    "namedtuple": set[str](),
    "verdicts": set[str](),
    "errors": {"verdicts"},
    "libcrypto": set[str](),
    "digest": {"libcrypto"},
    "values": {"digest"},
    "paths": set[str](),
}
STORIES = {"boot", "failure", "checkinitrd", "reference"}  # each runs stages or reports; none imports another
COMMON = {"verdicts", "errors", "values", "digest", "libcrypto", "paths", "linux", "formats"}  # open to every layout and stage
# Within one stage.
PAIRS = {
    ("enroll", "stages.enable"), ("enable", "stages.writable"), ("mount", "stages.volatileroot"), ("mount", "stages.exits"),
    ("mount", "stages.lastlook"), ("mount", "stages.initcheck"), ("mount", "stages.release"),
}  # fmt: skip


FOLDERS = {".".join(p.relative_to(PACKAGE).parts) for p in PACKAGE.rglob("*") if p.is_dir()}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def ours(path: Path) -> set[str]:
    """Return the modules of bootseal that a file imports, also in functions: "linux.files", "errors", ..."""
    found = set()
    package = ["bootseal", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    files = {name_of(p).removesuffix(".__init__") for p in PACKAGE.rglob("*.py")}
    # namedtuple.py is to this package what typing is to others.
    return {name.removeprefix("bootseal.") for name in found if name.startswith("bootseal.")} & files - FOLDERS - {"namedtuple"}


def foreign(path: Path) -> set[str]:
    """Return the foreign top-level modules that a file imports, except for type checking alone."""
    tree, found = parsed(path), set()
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


# --- imports


def outside(imports: set[str], folder: str) -> set[str]:
    return {name for name in imports if name.partition(".")[0] != folder}


@pytest.mark.parametrize("path", BOOT_PATH, ids=name_of)
def test_imports_of_a_file(path: Path) -> None:
    name, imports = name_of(path), ours(path)
    folder, _, leaf = name.partition(".")
    if name in TOP:
        assert imports == TOP[name]
    elif folder in ("linux", "formats"):
        assert outside(imports, folder) == set()
    elif folder == "layouts":
        assert {i for i in outside(imports, folder) if i.partition(".")[0] not in COMMON} == set()
    elif folder == "stages":
        others = {i for i in imports if i.partition(".")[0] not in {*COMMON, "layouts"}}
        assert {i for i in imports if i in ("layouts.ostree", "layouts.composefs")} == set(), "a stage knows no layout"
        assert {(leaf, other) for other in others} <= PAIRS
    elif name in ("record", "report"):
        assert {i for i in imports if i.partition(".")[0] not in COMMON} == ({"record"} if name == "report" else set())
    else:
        assert name in STORIES | {"__main__"}, "a new file: say in this test where it belongs"
        assert name == "__main__" or imports & {*STORIES, "__main__"} == set()


@pytest.mark.parametrize("path", [p for p in BOOT_PATH if name_of(p) != "__main__"], ids=name_of)
def test_nothing_of_the_boot_imports_the_host(path: Path) -> None:
    assert "bootseal.host" not in path.read_text()
    assert {i for i in ours(path) if i.startswith("host")} == set()


def test_the_pairs_are_all_in_use() -> None:
    assert {pair for pair in PAIRS if pair[1] in ours(PACKAGE / f"stages/{pair[0]}.py")} == PAIRS


def test_nothing_imports_a_command() -> None:
    """cli.py loads a command by its name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        assert {name for name in ours(path) if name.startswith("host.commands.")} == set(), path


def test_what_reads_the_running_system_imports_no_command() -> None:
    for folder in ("live", "initrd"):
        for path in sorted((PACKAGE / "host" / folder).glob("*.py")):
            assert {name for name in ours(path) if re.match(r"host\.(commands|cli|checker|dryrun)\b", name)} == set(), path


def test_who_imports_cryptography() -> None:
    assert [name_of(path) for path in BOOT_PATH if "cryptography" in foreign(path)] == ["reference"]


def test_no_import_cycle() -> None:
    graph = {name_of(path): ours(path) for path in BOOT_PATH}
    order: list[str] = []
    while ready := [
        name for name in graph if name not in order and graph[name] - {name} <= {*order, *(graph.keys() - set(graph))}
    ]:
        order += ready
    left = set(graph) - set(order)
    assert left <= {"__main__"}, left  # it imports the host's commands


# --- walls


NAMED_TUPLE = {"_replace", "_asdict", "_make", "_fields"}  # public, whatever the underscore


def private_names(path: Path) -> Iterator[str]:
    """Yield the names with an underscore that a file takes from another module of bootseal."""
    modules = {name_of(p).removesuffix(".__init__").rpartition(".")[2] for p in PACKAGE.rglob("*.py")}
    imported: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from (alias.name for alias in node.names if re.match("_(?!_)", alias.name))
            imported |= {alias.asname or alias.name for alias in node.names if alias.name in modules}
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        if node.value.id in imported and re.match("_(?!_)", node.attr) and node.attr not in NAMED_TUPLE:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_no_module_uses_a_private_name_of_another(path: Path) -> None:
    assert list(private_names(path)) == []
    assert "import bootseal" not in path.read_text(), "imports within the package are relative, as the test expects"


ONCE = {
    ".ostree.cfs", ".ostree.cfs.digest", ".digest", ".sig", ".immutable", "ostree/deploy", "ostree/repo/objects",
    "composefs/images", "composefs/objects", "state/deploy",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_names_on_the_disk_are_spelled_in_one_file(path: Path) -> None:
    spelled = {node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant) and node.value in ONCE}
    assert name_of(path) == "paths" or spelled == set()


# --- trust

MAKERS = {
    "Verified": {"stages.verify"}, "Pinned": {"stages.image"}, "Enrolled": {"stages.enroll"}, "Mounted": {"stages.mount"},
}  # fmt: skip


def makers(name: str) -> Iterator[str]:
    """Yield the files that call this type or its _make, derive from it, or import it under another name."""
    for path in BOOT_PATH:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if re.fullmatch(rf"(\w+\.)*{name}(\._make)?", called):
                    yield name_of(path)
            elif isinstance(node, ast.ClassDef) and name in [ast.unparse(base) for base in node.bases]:
                yield name_of(path)
            elif isinstance(node, ast.alias) and node.name == name and node.asname:
                yield name_of(path)  # this test cannot find a call under another name


@pytest.mark.parametrize("name", MAKERS)
def test_who_makes_it(name: str) -> None:
    assert set(makers(name)) == MAKERS[name]


def test_nothing_of_the_boot_changes_a_value() -> None:
    """Forbid _replace, tuple.__new__ and similar calls, which would make a Verified without verifying anything."""
    makes = r"\._replace\b|__replace__|\bcopy\b\.|import copy\b|tuple\.__new__|__class__\(|\btype\(\w+\)\(|\bcast\("
    for path in BOOT_PATH:
        assert name_of(path) == "namedtuple" or not re.search(makes, path.read_text()), path


SNIPPET = """
from bootseal.stages import enroll, image, mount
from bootseal.digest import Digest
from bootseal.values import Deployment, Enrolled, KernelKeys, Pinned, Policy, Request, RootConfig, Unverified, Verified

def check(candidate: Unverified, digest: Digest, verified: Verified, pinned: Pinned, enrolled: Enrolled, found: Deployment,
          root: RootConfig, request: Request, keys: KernelKeys, policy: Policy) -> None:
    {}
"""
CALLS = {
    "mount.mount(enrolled, found, root, request)": True,
    "enroll.enroll(pinned, found, keys, policy)": True,
    "image.pin(found, verified)": True,
    "mount.mount(candidate, found, root, request)": False,
    "mount.mount(digest, found, root, request)": False,
    "mount.mount(verified, found, root, request)": False,
    "mount.mount(pinned, found, root, request)": False,
    "enroll.enroll(candidate, found, keys, policy)": False,
    "enroll.enroll(verified, found, keys, policy)": False,
    "image.pin(found, candidate)": False,
    "image.pin(found, digest)": False,
}


def test_what_is_not_verified_does_not_type_check(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for number, call in enumerate(CALLS):
        (tmp_path / f"snippet{number}.py").write_text(SNIPPET.format(call))
    options = ["--no-error-summary", f"--cache-dir={tmp_path}/cache", f"--config-file={TREE}/pyproject.toml"]
    command = [sys.executable, "-m", "mypy", *options, *map(str, sorted(tmp_path.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TREE, check=False)
    failed = {int(n) for n in re.findall(r"snippet(\d+)\.py:\d+: error: .*\[arg-type\]", done.stdout)}
    assert failed == {number for number, good in enumerate(CALLS.values()) if not good}, done.stdout + done.stderr


# --- what a boot imports

OWN = {
    "_collections_abc", "_ctypes", "_socket", "_stat", "_struct", "abc", "binascii", "ctypes", "ctypes._endian", "errno",
    "fcntl", "genericpath", "os", "os.path", "posixpath", "select", "stat", "struct", "types",
    # ctypes of Python 3.14 imports these.
    "_collections", "_contextvars", "_py_warnings", "_types", "_weakrefset", "ctypes._layout", "itertools", "sysconfig",
    "threading", "warnings",
}  # fmt: skip
NEVER = {
    "_hashlib", "argparse", "ast", "asyncio", "cffi", "configparser", "cryptography", "ctypes.util", "dataclasses", "dis",
    "fractions", "glob", "hashlib", "hmac", "inspect", "logging", "multiprocessing", "pathlib", "pickle", "platform", "shutil",
    "site", "socket", "ssl", "subprocess", "tempfile", "textwrap", "threading", "tomllib", "traceback", "unittest", "xml",
}  # fmt: skip


def modules_after(statements: str) -> set[str]:
    code = f"import sys\nsys.path.insert(0, {str(SERVICE)!r})\n{statements}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-ISB", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


BOOT = "import bootseal.boot\nfrom bootseal.stages import verify\nverify.rehearse()"


def test_what_a_boot_imports() -> None:
    """Allow only listed modules, because each one costs time on every boot. The self-test loads libcrypto."""
    before, after = modules_after("pass"), modules_after(BOOT)
    # On this machine libcrypto.py looks for the library. An initrd has a link to it.
    added = {name for name in after - before - {"_hashlib"} if not name.startswith("bootseal")}
    assert added <= OWN
    assert (modules_after("import bootseal.boot") - before) & NEVER == set()
    unused = {
        "__main__", "failure", "checkinitrd", "reference", "linux.loop", "stages.enable", "stages.writable",
        "layouts.composefs", "layouts.ostree",
    }  # fmt: skip
    expected = {name_of(path).removesuffix(".__init__") for path in BOOT_PATH} - unused
    ours_ = {name.removeprefix("bootseal.") for name in after if name.startswith("bootseal.")}
    assert ours_ == expected - {"__init__"}


def test_a_boot_opens_text_as_utf_8_alone() -> None:
    """Some versions of Python load a module for any other codec, late, which an initrd lacks."""
    sources = [path.read_text() for path in BOOT_PATH]
    assert {name for source in sources for name in re.findall(r'encoding="([\w-]+)"', source)} == {"utf-8"}


def test_what_the_list_of_verdicts_imports() -> None:
    """Keep the imports of verdicts.py and errors.py small, because failure.py needs only these."""
    added = modules_after("import bootseal.errors") - modules_after("import enum, typing, re")
    assert {name for name in added if not name.startswith("bootseal")} <= {"errno"}


# --- sizes


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            yield f"{name_of(path)}.{node.name}", node.end_lineno - node.lineno + 1


SIZES = {name: size for path in sorted(PACKAGE.rglob("*.py")) for name, size in functions(path)}


def test_no_function_is_longer_than_50_lines() -> None:
    assert {name: size for name, size in SIZES.items() if size > 50} == {}


def test_most_functions_are_short() -> None:
    boot = {name_of(path) for path in BOOT_PATH}
    assert statistics.median(size for name, size in SIZES.items() if name.rpartition(".")[0] in boot) < 10
    assert statistics.median(SIZES.values()) < 10


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_licence_line(path: Path) -> None:
    assert path.read_text().startswith("# SPDX-" + "License-Identifier: LGPL-2.1-or-later\n")


def test_every_module_of_the_host_has_its_test() -> None:
    modules = [p.relative_to(PACKAGE / "host") for p in (PACKAGE / "host").rglob("*.py") if p.name != "__init__.py"]
    names = {"command_" + p.stem.rstrip("_") if p.parts[0] == "commands" else p.stem for p in modules}
    assert len(names) == len(modules)
    tested = {p.stem.removeprefix("test_") for p in (TREE / "tests/unit/host").glob("test_*.py")}
    assert names == tested


def test_every_module_has_its_test() -> None:
    names = {
        re.sub(r"^(stages|formats)_", "", re.sub(r"\W", "_", name_of(p)).strip("_"))
        for p in BOOT_PATH
        if p.name != "__init__.py"
    }
    tested = {p.stem.removeprefix("test_") for p in (TREE / "tests/unit").glob("test_*.py")}
    assert names - tested == {"values"}  # no behaviour
    assert tested - names == {"layouts"}  # the package itself


# --- units

UNITS = sorted((TREE / "units").glob("*.service"))
# The units of the initrd. Those of the running system mount nothing for other processes.
BOOT_UNITS = [TREE / "units" / name for name in ("bootseal.service", "bootseal-guard.service")]
# With each of these directives, exec_needs_mount_namespace() of systemd gives the unit a mount namespace of its own.
NAMESPACE = re.compile(
    "Private(Mounts|Tmp|Devices|IPC|Network|PIDs|BPF|Users)|Protect(System|Home|KernelTunables|KernelModules|KernelLogs"
    "|ControlGroups|Proc|Clock)|ProcSubset|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec)Paths|Bind(ReadOnly)?Paths|TemporaryFileSystem"
    "|Root(Image|Directory|Hash|Verity|Ephemeral|MStack)\\w*|MountImages|ExtensionImages|ExtensionDirectories|LogNamespace|MountFlags|MountAPIVFS"
    "|DynamicUser|DevicePolicy|DeviceAllow|(Runtime|State|Cache|Logs)Directory\\w*|NetworkNamespacePath|IPCNamespacePath"
)


def directives(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#;["]
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


@pytest.mark.parametrize("unit", BOOT_UNITS, ids=lambda p: p.name)
def test_no_directive_that_makes_a_mount_namespace(unit: Path) -> None:
    assert [key for key, _ in directives(unit) if NAMESPACE.fullmatch(key)] == []


def test_the_service_keeps_openat2() -> None:
    """Forbid RestrictSUIDSGID=: openat2() would fail with ENOSYS, because systemd cannot filter its arguments."""
    assert "RestrictSUIDSGID" not in dict(directives(TREE / "units/bootseal.service"))


def test_the_filter_names_every_call_that_linux_makes() -> None:
    """Name each call of linux/ in the filter, because systemd's groups depend on its version."""
    sources = "".join(path.read_text() for path in (PACKAGE / "linux").glob("*.py"))
    by_number = {
        name.lower() for name, value in vars(syscall).items() if name.isupper() and type(value) is int and name[0] != "_"
    }
    called = by_number | set(re.findall(r"_LIBC\.(\w+)\(", sources)) - {"syscall"} | {"add_key", "keyctl"}
    filters = [value for key, value in directives(TREE / "units/bootseal.service") if key == "SystemCallFilter"]
    assert "open_tree" in called and "umount2" in called
    assert set(filters[-1].split()) == called
    assert [value[0] for value in filters] == ["~", filters[-1][0]]


@pytest.mark.parametrize("unit", BOOT_UNITS, ids=lambda p: p.name)
def test_no_directive_that_hides_a_failure(unit: Path) -> None:
    keys = {key for key, _ in directives(unit)}
    assert keys & {"SuccessExitStatus", "SuccessAction", "Restart", "RefuseManualStart"} == set()
    assert [value for key, value in directives(unit) if key.startswith("Exec") and value[0] in "-+!:@|"] == []


def test_the_service_has_no_condition() -> None:
    """Forbid conditions: a failed one would silently skip the check."""
    assert [key for key, _ in directives(TREE / "units/bootseal.service") if key.startswith("Condition")] == []


SERVICE_LINES = [
    ("DefaultDependencies", "no"), ("AssertPathExists", "/etc/initrd-release"),
    ("Requires", "sysroot.mount"), ("TimeoutStartSec", "30"),
    ("Type", "oneshot"), ("RemainAfterExit", "yes"), ("IgnoreOnIsolate", "yes"), ("OnFailure", "emergency.target"),
    ("ExecStart", "/usr/bin/python3 -ISB /usr/lib/bootseal boot"),
    ("ExecStopPost", "/usr/bin/python3 -ISB /usr/lib/bootseal cleanup"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SERVICE_LINES)
def test_the_service(key: str, value: str) -> None:
    assert (key, value) in directives(TREE / "units/bootseal.service")


def test_the_service_waits_for_nothing() -> None:
    """It waits for the mount itself, and loads what it needs; everything before would delay it."""
    keys = {key for key, _ in directives(TREE / "units/bootseal.service")}
    assert keys & {"After", "Wants"} == set()


def test_the_service_is_before_the_root_and_its_fstab() -> None:
    before = dict(directives(TREE / "units/bootseal.service"))["Before"].split()
    assert {"initrd-root-fs.target", "initrd-parse-etc.service"} <= set(before)


@pytest.mark.parametrize("unit", BOOT_UNITS, ids=lambda p: p.name)
def test_every_unit_ends_within_a_minute(unit: Path) -> None:
    """If SIGKILL has no effect, systemd waits TimeoutStopSec= three times: bootseal.service names them."""
    found = dict(directives(unit))
    assert (found["TimeoutStartFailureMode"], found["TimeoutStopFailureMode"]) == ("kill", "kill")
    start, stop = int(found["TimeoutStartSec"]), int(found["TimeoutStopSec"])
    assert start > 0
    assert start + 3 * stop < 60


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_systemd_reads_the_unit_without_a_word(unit: Path, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("no systemd-analyze program")
    copy = tmp_path / unit.name
    # The manual page and the program need not be installed on this machine.
    text = re.sub(r"(?m)^Documentation=.*\n", "", unit.read_text())
    copy.write_text(text.replace("=/usr/bin/bootseal ", "=/bin/true "))
    done = subprocess.run(
        [tool, "verify", "--man=no", "--recursive-errors=no", copy], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_gate_has_room_for_the_process_that_reads_initrds() -> None:
    found = dict(directives(TREE / "units/bootseal-gate.service"))
    assert (found["MemoryMax"], found["TasksMax"]) == ("1G", "32")
    assert confined.MEMORY < 1 << 30
    assert found["TimeoutStartSec"] == "5min"
    assert confined.CPU < confined.WALL < 300
    assert {"CAP_SETUID", "CAP_SETGID"} <= set(found["CapabilityBoundingSet"].split())


def test_who_parses_an_initrd() -> None:
    """Parse initrds in the confined process only. Other modules may use its answers."""
    parser = re.compile(r"\barchive\.unpack\b|\bpe\.find_\w+|\bdecompress\.decompress\b")
    everything = sorted(PACKAGE.rglob("*.py"))
    assert [name_of(path) for path in everything if parser.search(path.read_text())] == ["host.initrd.reader"]
    parsers = {"host.initrd.archive", "host.initrd.pe", "host.initrd.decompress"}
    assert {name_of(path) for path in everything if ours(path) & parsers} - parsers == {"host.initrd.reader"}


# --- the speed of the machine

CLOCKS = re.compile(r"\btime\.(?:monotonic|perf_counter|process_time|time)(?:_ns)?\(|^\s*time\.sleep\(", re.MULTILINE)


def test_no_test_looks_at_the_clock() -> None:
    """Forbid clocks in tests, because they fail on a busy machine. at_most() counts lines instead."""
    assert {
        path.name: found
        for directory in ("unit", "project")
        for path in (TREE / "tests" / directory).rglob("*.py")
        if (found := CLOCKS.findall(path.read_text()))
    } == {}


# --- words that no file may hold


def test_the_source_distribution_has_everything() -> None:
    text = (TREE / "MANIFEST.in").read_text()
    named = set(re.findall(r"(?m)^graft (\S+)", text)) | {
        n for line in re.findall(r"(?m)^include (.*)", text) for n in line.split()
    }
    parts = [path.relative_to(TREE).parts for path in project_files()]
    assert named == {part[0] if part[0] != ".ci" else "/".join(part) for part in parts}


def test_the_wheel_has_every_package() -> None:
    named = tomllib.loads((TREE / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(SERVICE).parts) for path in SERVICE.rglob("__init__.py")}
    assert set(named) == found


FORBIDDEN = re.compile(
    rb"\b(?:pypi|files\.pythonhosted|deb\.debian|snapshot\.debian|ftp\.\w+\.debian|registry\.\w+|crates)\."
    + rb"(?:org|io|net)\b"
    rb"|(?<![\w.$}/])/" + rb"(?:work|root)/[a-z.]"
)


def test_no_registry_and_no_path_of_a_machine() -> None:
    hits = []
    for path in project_files():
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if FORBIDDEN.search(line):
                hits.append(f"{path.relative_to(TREE)}:{number}: {line[:100]!r}")
    assert hits == []


def test_no_file_is_left_out_of_git() -> None:
    """Check that git does not ignore vectors and helpers, because another clone would lack them."""
    names = {path.relative_to(TREE).as_posix() for path in project_files()}
    assert "tests/vectors/keys/p256.pem" in names
    assert "tests/unit/support.py" in names


def test_test_keys_say_so() -> None:
    assert "TEST KEYS ONLY" in (TREE / "tests/vectors/README.md").read_text()
