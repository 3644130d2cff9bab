# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -ISB python-deps LIBDIR LIBCRYPTO OUT TREE: run the boot path, and write the modules that it imports as bytecode.

LIBDIR has the package bootseal, LIBCRYPTO is the library for the initrd, and TREE the system whose configuration goes there.
dracut runs this directory with the options of the service, because Python imports a few modules to start a directory. OUT
receives the tree for the initrd, with modules as sourceless .pyc because every boot reads them. Stdout has one line for each
shared object, "SOURCE DESTINATION". dracut installs it and its libraries.

The imports at the top must be modules that a bare interpreter has loaded. All others would be in every initrd.
"""

import os
import sys

LIBDIR, LIBCRYPTO, OUT, TREE = sys.argv[1:5]


def rehearse(directory: str) -> None:
    """Do everything that a boot does before it needs a disk, with good and bad input, so that late imports happen now."""
    from contextlib import suppress

    import bootseal.__main__
    import bootseal.boot
    import bootseal.checkinitrd
    import bootseal.failure
    import bootseal.layouts.composefs
    import bootseal.layouts.ostree
    import bootseal.linux.loop  # noqa: F401
    from bootseal import errors, libcrypto, record, report, verdicts
    from bootseal.formats import der, pkcs7
    from bootseal.linux import keyctl, mountapi
    from bootseal.stages import config, keyring, verify

    libcrypto.PATH = LIBCRYPTO
    verify.rehearse()
    config.load(directory)
    with suppress(errors.Refusal):  # checkinitrd.py reports it
        config.read_setup_root(f"{TREE}/{config.SETUP_ROOT}")
    for call in (lambda: pkcs7.parse(b"0"), lambda: keyring.certificate("", b"0"), mountapi.mounts, keyctl.listed_keys):
        with suppress(der.Malformed, keyring.Unusable, OSError):
            call()
    report.PATH = f"{directory}/boot.json"
    report.RUN = directory
    ending = record.Ending(verdicts.INTERNAL, errors.printable("\u00e9\udc80\n"))
    report.save(record.of(record.Trail(report.this_machine()), ending))
    report.load()


def imported() -> list[str]:
    """List the files of all modules, except frozen ones, which are part of the interpreter."""
    modules = [m for m in sys.modules.values() if m and getattr(getattr(m, "__spec__", None), "origin", "") != "frozen"]
    files = {os.path.abspath(f) for m in modules if (f := getattr(m, "__file__", None))}
    return sorted(files - {os.path.abspath(__file__)})


def destination(path: str) -> str:
    """Return the path of a file in the initrd: unchanged, except for bootseal's own."""
    return "/usr/lib/bootseal/" + os.path.relpath(path, LIBDIR) if path.startswith(LIBDIR + "/") else path


def bytecode(source: str, target: str) -> bytes:
    """Compile to a sourceless .pyc (PEP 552) without docstrings. Others' modules lose line numbers, a third of the size."""
    import importlib.util
    import marshal
    import types

    def stripped(code: types.CodeType) -> types.CodeType:
        constants = tuple(stripped(c) if isinstance(c, types.CodeType) else c for c in code.co_consts)
        return code.replace(co_linetable=b"", co_consts=constants)

    with open(source, "rb") as file:
        code = compile(file.read(), target, "exec", optimize=2, dont_inherit=True)
    ours = source.startswith(LIBDIR + "/")
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code if ours else stripped(code))


def lay_out(sources: list[str]) -> None:
    import sysconfig

    # Python has this module frozen, but finds its library by this file (getpath.py).
    landmark = sysconfig.get_path("stdlib") + "/os.py"
    for source in sorted({*sources, landmark, f"{LIBDIR}/__main__.py"}):
        target = destination(source)
        if source.endswith(".py"):
            compiled = f"{OUT}{target}c"
            os.makedirs(os.path.dirname(compiled), exist_ok=True)
            with open(compiled, "wb") as file:
                file.write(bytecode(source, target))
        else:
            print(source, target)


def main() -> None:
    directory = f"{OUT}/rehearsal"
    os.makedirs(directory)
    sys.path.insert(0, LIBDIR)
    rehearse(directory)
    sources = imported()
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)
    lay_out(sources)


main()
