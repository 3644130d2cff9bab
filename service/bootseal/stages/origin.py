# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out where this initrd and its command line came from, and who vouches for them.

The check is only as trustworthy as these. The record and the verdict name each one that Secure Boot does not cover.
"""

import os

from ..linux import efi
from ..values import Origin

INITRD, COMMAND_LINE = "initrd", "kernel command line"
CREDENTIALS, EXTENSIONS = "system credentials", "initrd extensions"
NOT_KNOWN = " (not known)"  # follows the name of what may be authenticated
# systemd-stub(7) puts files from the ESP into _EXTRA. systemd(1) imports credentials into _IMPORTED, also from SMBIOS, fw_cfg
# and the command line.
_EXTRA = "/.extra"
_IMPORTED = "/run/credentials"
_IMPORTED_NAMES = frozenset({"@system", "@encrypted"})
_EXTENSION_NAMES = frozenset({"sysext", "global_sysext", "confext", "global_confext"})
_CREDENTIAL_NAMES = frozenset({"credentials", "global_credentials"})
_STUB, _COMBINES = "systemd-stub", "261"  # since this version it adds its initrd to one that the boot loader has set


def look() -> Origin:
    """Name everything that reached this initrd and that is not known to be authenticated."""
    extra = _list_names(_EXTRA)
    names = unauthenticated()
    names += [CREDENTIALS] if credentials_imported() or not extra.isdisjoint(_CREDENTIAL_NAMES) else []
    names += [EXTENSIONS] if not extra.isdisjoint(_EXTENSION_NAMES) else []
    return Origin(tuple(names))


def unauthenticated(variables: str = efi.VARIABLES) -> list[str]:
    """Name which of initrd and command line Secure Boot does not cover, as far as a running system can tell.

    No variable tells whether the unified kernel image has a command line. An image without one takes the boot loader's.
    """
    try:
        stub = efi.stub(variables) if efi.secure_boot(variables) else ""
    except OSError:
        stub = ""
    if not stub:
        return [INITRD, COMMAND_LINE]
    initrd = [] if _takes_no_other_initrd(stub) else [INITRD + NOT_KNOWN]
    return [*initrd, COMMAND_LINE + NOT_KNOWN]


def credentials_imported() -> bool:
    """Tell whether systemd(1) imported credentials from outside the initrd."""
    return not _list_names(_IMPORTED).isdisjoint(_IMPORTED_NAMES)


def _takes_no_other_initrd(stub: str) -> bool:
    name, _, version = stub.partition(" ")
    number = version[: len(version) - len(version.lstrip("0123456789"))]
    return name == _STUB and len(number) == len(_COMBINES) and number < _COMBINES


def _list_names(directory: str) -> set[str]:
    """List a directory. An unreadable one may hold anything."""
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()
    except OSError:
        return {*_IMPORTED_NAMES, *_CREDENTIAL_NAMES, *_EXTENSION_NAMES}
