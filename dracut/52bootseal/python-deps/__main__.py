# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -ISB python-deps LIBDIR SITE OUT: run the boot path, and write the modules that it imports as bytecode.

LIBDIR has the package bootseal, SITE the package cryptography. dracut runs this directory with the options of the service,
because Python imports a few modules to start a directory. OUT receives the tree for the initrd, with modules as sourceless .pyc
because every boot reads them. Stdout has one line for each shared object, "SOURCE DESTINATION". dracut installs it and its
libraries.

The imports at the top must be modules that a bare interpreter has loaded. All others would be in every initrd.
"""

import os
import sys

LIBDIR, SITE, OUT = sys.argv[1:4]
os.environ["CRYPTOGRAPHY_OPENSSL_NO_LEGACY"] = "1"


def make_examples(directory: str) -> None:
    """Make certificates, and signatures over a digest. This imports more than using them."""
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    from bootseal import digest

    now = datetime(2024, 1, 1)  # any will do
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example")])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    extended = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING])
    for kind, key in (("rsa", rsa.generate_private_key(65537, 2048)), ("ecdsa", ec.generate_private_key(ec.SECP256R1()))):
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        for extension in (usage, extended, x509.BasicConstraints(False, None), x509.SubjectKeyIdentifier(b"example")):
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(key, hashes.SHA256())
        arguments = (padding.PKCS1v15(), hashes.SHA256()) if kind == "rsa" else (ec.ECDSA(hashes.SHA256()),)
        with open(f"{directory}/{kind}.crt", "wb") as file:
            file.write(certificate.public_bytes(serialization.Encoding.PEM))
        with open(f"{directory}/{kind}.sig", "wb") as file:
            file.write(key.sign(digest.of_bytes(b"example", "sha256").formatted(), *arguments))


def rehearse(directory: str) -> None:
    """Do everything that a boot does before it needs a disk, with good and bad input, so that late imports happen now."""
    # Both are optional. cryptography uses bcrypt for passphrases of private keys. In Python 3.14, hmac, which cryptography
    # imports to compare secrets, uses _hmac. A boot has neither passphrases nor secrets.
    sys.modules["bcrypt"] = sys.modules["_hmac"] = None  # type: ignore[assignment]
    from contextlib import suppress

    import bootseal.__main__
    import bootseal.boot
    import bootseal.checkinitrd
    import bootseal.failure
    import bootseal.lazyre
    import bootseal.linux.loop  # noqa: F401
    from bootseal import digest, errors, record, report, verdicts
    from bootseal.formats import der, pkcs7
    from bootseal.linux import keyctl, mountapi
    from bootseal.stages import config, keyring, verify

    example = digest.of_bytes(b"example", "sha256")
    config.load(directory)
    trusted = keyring.load([f"{directory}/rsa.crt", f"{directory}/ecdsa.crt"])
    assert len(trusted.certificates) == 2, trusted.skipped
    for kind, certificate in zip(("rsa", "ecdsa"), trusted.certificates, strict=True):
        with open(f"{directory}/{kind}.sig", "rb") as file:
            value = file.read()
        info = pkcs7.SignerInfo(certificate.issuer, certificate.serial, kind, "sha256", value)
        assert verify.signature_matches(info, certificate, example)
        assert not verify.signature_matches(info, certificate, digest.of_bytes(b"another", "sha512"))
        assert not verify.signature_matches(info._replace(hash_name="sha512", value=value[::-1]), certificate, example)
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
    """Return the path of a file in the initrd: unchanged for the standard library, otherwise beside bootseal."""
    for root in (LIBDIR, SITE):
        if path.startswith(root + "/"):
            return "/usr/lib/bootseal/" + os.path.relpath(path, root)
    return path


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


def in_child(function: "object", directory: str) -> None:
    """Run a function in a process of its own, so that its imports do not affect this one."""
    child = os.fork()
    if not child:
        status = 1
        try:
            sys.path[:0] = [LIBDIR, SITE]
            function(directory)  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)


def rehearse_and_list(directory: str) -> None:
    rehearse(directory)
    with open(f"{directory}/imported", "w", encoding="utf-8") as file:
        file.write("\n".join(imported()))


def main() -> None:
    directory = f"{OUT}/rehearsal"
    os.makedirs(directory)
    in_child(make_examples, directory)
    in_child(rehearse_and_list, directory)
    with open(f"{directory}/imported", encoding="utf-8") as file:
        sources = file.read().split("\n")
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)
    lay_out(sources)


main()
