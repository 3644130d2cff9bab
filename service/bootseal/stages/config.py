# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the configuration of the initrd into a Policy: bootseal.conf(5), and the files of ostree and bootc for the root.

It reads nothing below the physical root. Precedence and masking are those of systemd. /etc comes before /usr/lib, and drop-ins
are sorted by name. A file in /etc replaces the one of the same name in /usr/lib, and a link to /dev/null masks it.
"""

import os

from .. import verdicts
from ..errors import Refusal, reason
from ..values import BIND, BOOLEANS, DIGEST_FILE, IMAGE, NONE, OVERLAY, TRANSIENT, Policy, RootConfig

DIRECTORIES = ("etc", "usr/lib")
MAX_SIZE = 64 * 1024
_BOOLEAN_NAMES = ("yes", "no")
_METHODS = ("keyring", "fsverity", "none")
_SPACE = " \t\r"  # \r: files may have DOS line endings
_ON_REFUSAL = ("emergency", "reboot", "poweroff")
_SIGNED = (DIGEST_FILE, IMAGE)  # one of them, or both
# bootc's, see bootc-setup-root-conf.toml(5). Two of its modes have two names.
SETUP_ROOT = "usr/lib/composefs/setup-root-conf.toml"
_MODES = {"none": NONE, "root": NONE, "bind": BIND, "overlay": OVERLAY, "transient": TRANSIENT, "volatile": TRANSIENT}
_OS = ("no",)  # or the name of an operating system
_OS_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._:-")
# File Hierarchy for the Verification of OS Artifacts (VOA). Without /run: system credentials can put certificates there.
VOA_DIRECTORIES = ("etc/voa", "usr/local/share/voa", "usr/share/voa")
VOA_PURPOSE = "kernel-keyring/fs-verity/x509"
_VOA_SUFFIX = "-certificate.pem"

# Every key, its allowed values, and its default.
KEYS: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("Keyring", "Seal"): (_BOOLEAN_NAMES, "yes"),
    ("Keyring", "VOA"): (_OS, "no"),
    ("Enroll", "Method"): (_METHODS, "keyring"),
    ("Enroll", "Required"): (_BOOLEAN_NAMES, "no"),
    ("Policy", "OnRefusal"): (_ON_REFUSAL, "emergency"),
    ("Policy", "Signed"): (_SIGNED, DIGEST_FILE),
}

Settings = dict[tuple[str, str], str]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def load(initrd: str = "/") -> Policy:
    """Read the configuration of an initrd unpacked at a directory. Raises Refusal `bad-config`."""
    settings: Settings = {key: default for key, (_, default) in KEYS.items()}
    for path in _find_files(initrd):
        for key, value in parse(_read(path), path).items():
            _check_value(key, value, path)
            settings[key] = value
    return Policy(
        seal=BOOLEANS[settings["Keyring", "Seal"]],
        voa="" if settings["Keyring", "VOA"] == "no" else settings["Keyring", "VOA"],
        method=settings["Enroll", "Method"],
        required=BOOLEANS[settings["Enroll", "Required"]],
        on_refusal=settings["Policy", "OnRefusal"],
        signed=tuple(settings["Policy", "Signed"].split()),
        roots={"ostree": _read_prepare_root(initrd), "composefs": read_setup_root(os.path.join(initrd, SETUP_ROOT))},
    )


def drop_ins(initrd: str, name: str, suffixes: tuple[str, ...]) -> list[str]:
    """List the files in a directory `name` below /etc and /usr/lib, masked and sorted as in systemd."""
    paths: dict[str, str] = {}
    for directory in DIRECTORIES:
        folder = os.path.join(initrd, directory, name)
        for entry in os.listdir(folder) if os.path.isdir(folder) else ():
            if entry.endswith(suffixes) and not entry.startswith("."):
                paths.setdefault(entry, os.path.join(folder, entry))
    return [path for _, path in sorted(paths.items()) if os.path.realpath(path) != "/dev/null"]


def certificates(initrd: str, directory: str, suffixes: tuple[str, ...], os_name: str) -> list[str]:
    """List the files of the boot keyring: keys.d (`directory`), then those of VOA if `os_name` is set."""
    return drop_ins(initrd, directory, suffixes) + (voa(initrd, os_name) if os_name else [])


def voa(initrd: str, os_name: str) -> list[str]:
    """List the certificates that VOA provides to fs-verity of an operating system.

    Files of the same name in several directories all count. A link to /dev/null masks its name in all directories.
    """
    paths: list[str] = []
    masked: set[str] = set()
    for directory in VOA_DIRECTORIES:
        folder = os.path.join(initrd, directory, os_name, VOA_PURPOSE)
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, entry)
            if os.path.realpath(path) == "/dev/null":
                masked.add(entry)
            elif entry.endswith(_VOA_SUFFIX) and not entry.startswith("."):
                paths.append(path)
    return [path for path in paths if os.path.basename(path) not in masked]


def is_os_name(text: str) -> bool:
    """Tell whether VOA may name an operating system so, as in debian or debian:13."""
    return text not in BOOLEANS and set(text) <= _OS_CHARACTERS and text[:1].isalnum()


def parse(text: str, path: str) -> Settings:
    """Parse an INI file to {(section, key): value}. Raises Refusal: a malformed line, a duplicate key."""
    settings: Settings = {}
    section = ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(_SPACE)
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1]
            continue
        key, equals, value = (part.strip(_SPACE) for part in line.partition("="))
        if not equals or not key or not section:
            raise _refusal(f"line {number} is neither [Section] nor Key=value", path)
        if (section, key) in settings:
            raise _refusal(f"line {number}: [{section}] {key}= is specified twice", path)
        settings[section, key] = value
    return settings


def _find_files(initrd: str) -> list[str]:
    candidates = [os.path.join(initrd, directory, "bootseal/bootseal.conf") for directory in DIRECTORIES]
    main = [path for path in candidates if os.path.lexists(path)][:1]
    return [p for p in main if os.path.realpath(p) != "/dev/null"] + drop_ins(initrd, "bootseal/bootseal.conf.d", (".conf",))


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise _refusal(f"larger than {MAX_SIZE} bytes", path)
        return content.decode()
    except OSError as error:
        raise _refusal(f"cannot be read: {reason(error)}", path) from error
    except UnicodeDecodeError as error:
        raise _refusal("not UTF-8", path) from error


def _check_value(key: tuple[str, str], value: str, path: str) -> None:
    section, name = key
    if key not in KEYS:
        raise _refusal(f"unknown key [{section}] {name}=", path)
    allowed, _ = KEYS[key]
    if allowed is _OS and is_os_name(value):
        return
    if allowed is _SIGNED and sorted(value.split()) in ([DIGEST_FILE], [IMAGE], [DIGEST_FILE, IMAGE]):
        return
    if value not in (BOOLEANS if allowed is _BOOLEAN_NAMES else allowed):
        what = "neither no nor the name of an operating system" if allowed is _OS else f"not one of {', '.join(allowed)}"
        raise _refusal(f"[{section}] {name}={value}: {what}", path)


def _read_prepare_root(initrd: str) -> RootConfig:
    """Read ostree/prepare-root.conf from /etc, or else from /usr/lib.

    Unknown keys are ignored because they configure ostree.
    """
    paths = [os.path.join(initrd, directory, "ostree/prepare-root.conf") for directory in DIRECTORIES]
    path = next((p for p in paths if os.path.lexists(p)), "")
    settings = parse(_read(path), path) if path else {}

    def boolean(section: str, key: str, *, default: bool) -> bool:
        value = settings.get((section, key))
        if value is None:
            return default
        if value not in BOOLEANS:
            raise _refusal(f"[{section}] {key}={value}: not true or false", path)
        return BOOLEANS[value]

    transient = boolean("root", "transient", default=False)
    transient_ro = boolean("root", "transient-ro", default=False)
    if transient and transient_ro:
        raise _refusal("[root] transient= and transient-ro= exclude each other", path)
    return RootConfig(
        sysroot_readonly=boolean("sysroot", "readonly", default=True),  # ostree's default with composefs
        root_transient=transient or transient_ro,
        root_readonly=not transient,
        etc=TRANSIENT if boolean("etc", "transient", default=False) else BIND,
        var=BIND,
    )


def read_setup_root(path: str) -> RootConfig:
    """Read bootc's configuration of the root. Raises Refusal `bad-config`.

    Unknown keys are ignored, as bootc does.
    """
    content = _parse_toml(path) if os.path.lexists(path) else {}
    tables = {name: content.get(name, {}) for name in ("root", "etc", "var")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise _refusal(f"{name} is not a table", path)
        if not isinstance(table.get("transient", False), bool):
            raise _refusal(f"[{name}] transient is not true or false", path)
        if not isinstance(table.get("mount", ""), str) or table.get("mount", "none") not in _MODES:
            raise _refusal(f"[{name}] mount is not one of {', '.join(_MODES)}", path)

    def mode(name: str) -> str:
        default = TRANSIENT if tables[name].get("transient") else ""
        return _MODES[tables[name]["mount"]] if "mount" in tables[name] else default

    transient = bool(tables["root"].get("transient"))
    return RootConfig(
        sysroot_readonly=True, root_transient=transient, root_readonly=not transient, etc=mode("etc"), var=mode("var")
    )


def _parse_toml(path: str) -> "dict[str, Any]":
    import tomllib  # only where there is such a file: it needs many modules

    try:
        return tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise _refusal(f"not TOML: {error}", path) from error


def _refusal(what: str, path: str) -> Refusal:
    return Refusal(verdicts.BAD_CONFIG, what, path)
