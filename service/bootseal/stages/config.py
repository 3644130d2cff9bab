# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 1: configuration files of the initrd -> Policy. Never reads below the physical root.

bootseal.conf(5); precedence and masking as in systemd (standard-conf): /etc before /usr/lib, drop-ins sorted by name, the
same name in /etc replaces the one in /usr/lib, a link to /dev/null removes it.
"""

import os

from .. import verdicts
from ..errors import Refusal, reason
from ..values import Policy, RootConfig

DIRECTORIES = ("etc", "usr/lib")
MAX_SIZE = 64 * 1024
_BOOLEANS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
_BOOLEAN_NAMES = ("yes", "no")
_METHODS = ("keyring", "fsverity", "none")
_SPACE = " \t\r"  # \r: a file with DOS line ends is read, too
_ON_REFUSAL = ("emergency", "reboot", "poweroff")
_OS = ("no",)  # or the name of an operating system
_OS_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._:-")
# File Hierarchy for the Verification of OS Artifacts. Not its /run: system credentials put certificates there.
VOA_DIRECTORIES = ("etc/voa", "usr/local/share/voa", "usr/share/voa")
VOA_PURPOSE = "kernel-keyring/fs-verity/x509"
_VOA_SUFFIX = "-certificate.pem"

# Every key there is, what it may be, and what it is without a file.
KEYS: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("Keyring", "Seal"): (_BOOLEAN_NAMES, "yes"),
    ("Keyring", "VOA"): (_OS, "no"),
    ("Enroll", "Method"): (_METHODS, "keyring"),
    ("Enroll", "Required"): (_BOOLEAN_NAMES, "no"),
    ("Policy", "OnRefusal"): (_ON_REFUSAL, "emergency"),
}

Settings = dict[tuple[str, str], str]


def load(initrd: str = "/") -> Policy:
    """The configuration below a directory. Raises Refusal `bad-config`."""
    settings: Settings = {key: default for key, (_, default) in KEYS.items()}
    for path in _files(initrd):
        for key, value in parse(_read(path), path).items():
            settings[key] = _checked(key, value, path)
    return Policy(
        seal=_BOOLEANS[settings["Keyring", "Seal"]],
        voa="" if settings["Keyring", "VOA"] == "no" else settings["Keyring", "VOA"],
        method=settings["Enroll", "Method"],
        required=_BOOLEANS[settings["Enroll", "Required"]],
        on_refusal=settings["Policy", "OnRefusal"],
        root=_root_config(initrd),
    )


def drop_ins(initrd: str, name: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths of the files in a directory `name` below /etc and /usr/lib, masked and sorted as systemd does."""
    found: dict[str, str] = {}
    for directory in DIRECTORIES:
        folder = os.path.join(initrd, directory, name)
        for entry in os.listdir(folder) if os.path.isdir(folder) else ():
            if entry.endswith(suffixes) and not entry.startswith("."):
                found.setdefault(entry, os.path.join(folder, entry))
    return [path for _, path in sorted(found.items()) if os.path.realpath(path) != "/dev/null"]


def certificates(initrd: str, directory: str, suffixes: tuple[str, ...], os_name: str) -> list[str]:
    """Paths of the boot keyring's files, for boot, build and verify: keys.d (`directory`), then VOA's for `os_name`, if any."""
    return drop_ins(initrd, directory, suffixes) + (voa(initrd, os_name) if os_name else [])


def voa(initrd: str, os_name: str) -> list[str]:
    """Paths of the certificates that VOA has for fs-verity in this operating system.

    Every file counts, whatever has the same name elsewhere. A link to /dev/null masks its name in all directories.
    """
    found: list[str] = []
    masked: set[str] = set()
    for directory in VOA_DIRECTORIES:
        folder = os.path.join(initrd, directory, os_name, VOA_PURPOSE)
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, entry)
            if os.path.realpath(path) == "/dev/null":
                masked.add(entry)
            elif entry.endswith(_VOA_SUFFIX) and not entry.startswith("."):
                found.append(path)
    return [path for path in found if os.path.basename(path) not in masked]


def is_os_name(text: str) -> bool:
    """Whether it can be the name of an operating system in VOA's paths, such as debian or debian:13."""
    return text not in _BOOLEANS and set(text) <= _OS_CHARACTERS and text[:1].isalnum()


def parse(text: str, path: str) -> Settings:
    """{(section, key): value} of an INI file. Raises Refusal for a line that is none, or a key given twice."""
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
            raise _bad(f"line {number} is neither [Section] nor Key=value", path)
        if (section, key) in settings:
            raise _bad(f"line {number}: [{section}] {key}= is given twice", path)
        settings[section, key] = value
    return settings


def _files(initrd: str) -> list[str]:
    candidates = [os.path.join(initrd, directory, "bootseal/bootseal.conf") for directory in DIRECTORIES]
    main = [path for path in candidates if os.path.lexists(path)][:1]
    return [p for p in main if os.path.realpath(p) != "/dev/null"] + drop_ins(initrd, "bootseal/bootseal.conf.d", (".conf",))


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_SIZE + 1)
        if len(content) > MAX_SIZE:
            raise _bad(f"larger than {MAX_SIZE} bytes", path)
        return content.decode()
    except OSError as error:
        raise _bad(f"cannot be read: {reason(error)}", path) from error
    except UnicodeDecodeError as error:
        raise _bad("not UTF-8", path) from error


def _checked(key: tuple[str, str], value: str, path: str) -> str:
    section, name = key
    if key not in KEYS:
        raise _bad(f"unknown key [{section}] {name}=", path)
    allowed, _ = KEYS[key]
    if allowed is _OS and is_os_name(value):
        return value
    if value not in (_BOOLEANS if allowed is _BOOLEAN_NAMES else allowed):
        what = "neither no nor the name of an operating system" if allowed is _OS else f"not one of {', '.join(allowed)}"
        raise _bad(f"[{section}] {name}={value}: {what}", path)
    return value


def _root_config(initrd: str) -> RootConfig:
    """ostree/prepare-root.conf; the file in /etc replaces the one in /usr/lib. Keys that are ostree's own are left to it."""
    paths = [os.path.join(initrd, directory, "ostree/prepare-root.conf") for directory in DIRECTORIES]
    path = next((p for p in paths if os.path.lexists(p)), "")
    settings = parse(_read(path), path) if path else {}

    def boolean(section: str, key: str, *, default: bool) -> bool:
        value = settings.get((section, key))
        if value is None:
            return default
        if value not in _BOOLEANS:
            raise _bad(f"[{section}] {key}={value}: not true or false", path)
        return _BOOLEANS[value]

    transient = boolean("root", "transient", default=False)
    transient_ro = boolean("root", "transient-ro", default=False)
    if transient and transient_ro:
        raise _bad("[root] transient= and transient-ro= exclude each other", path)
    return RootConfig(
        sysroot_readonly=boolean("sysroot", "readonly", default=True),  # ostree's default with composefs
        root_transient=transient or transient_ro,
        root_readonly=not transient,
        etc_transient=boolean("etc", "transient", default=False),
    )


def _bad(what: str, path: str) -> Refusal:
    return Refusal(verdicts.BAD_CONFIG, what, path)
