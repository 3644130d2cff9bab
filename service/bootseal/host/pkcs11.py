# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sign with a key in a token, named by a PKCS#11 URI (RFC 7512), through openssl's engine or provider."""

import os
import re
import subprocess
from urllib.parse import unquote_to_bytes

from . import inside, signingkeys
from .output import DATA, OS_ERROR, UNAVAILABLE, Failure

_PIN = re.compile(r"([?&;])pin-(value|source)=([^&;]*)(&?)")
_MAX_PIN = 1024  # bytes; PKCS#11 has no limit, and a pipe has one
_OPTIONS = {"provider": ["-provider", "pkcs11", "-provider", "default"], "engine": ["-engine", "pkcs11", "-keyform", "engine"]}


def sign(uri: str, passphrase_file: str | None, data: bytes) -> bytes:
    """Sign the data's SHA-256, and return the bare signature. Raises Failure.

    The PIN is that of the URI, of the file, or asked for. openssl reads it from a pipe, because all users see its arguments.
    """
    shown, pin = _split_pin(uri)
    if pin is None:
        pin = signingkeys.ask_passphrase(f"Failed to sign with {shown}", "PIN", shown, passphrase_file)
    if len(pin) > _MAX_PIN:
        raise Failure(DATA, f"Failed to sign with {shown}: the PIN has more than {_MAX_PIN} bytes")
    reader, writer = os.pipe()
    try:
        os.write(writer, pin + b"\n")
        os.close(writer)
        command = ["openssl", "dgst", "-sha256", *_find_options(), "-passin", f"fd:{reader}", "-sign", shown]
        done = subprocess.run(command, input=data, capture_output=True, check=False, pass_fds=[reader])
    except OSError as error:
        raise Failure(UNAVAILABLE, f"Failed to run openssl: {os.strerror(error.errno or 0)}", "install openssl") from error
    finally:
        os.close(reader)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").replace(pin.decode(errors="replace") or "\0", "***").strip()
        why = said.splitlines()[0] if said else "openssl printed no error"
        hint = "check the URI with 'p11tool --list-all' or 'pkcs11-tool --list-objects', and the PIN"
        raise Failure(OS_ERROR, f"Failed to sign with {shown}: {why}", hint)
    return done.stdout


def _split_pin(uri: str) -> tuple[str, bytes | None]:
    """Return the URI without its PIN, and the PIN; of several, the last. Raises Failure.

    Not every engine reads a pin-source itself.
    """
    pin = None
    while match := _PIN.search(uri):
        uri = uri[: match.start()] + (match[1] if match[4] else "") + uri[match.end() :]
        pin = unquote_to_bytes(match[3])
        if match[2] == "source":
            pin = inside.read_named(os.fsdecode(pin).removeprefix("file:"), "the PIN", _MAX_PIN).rstrip(b"\r\n")
    return uri, pin


def _find_options() -> list[str]:
    """Return the options for openssl's PKCS#11 provider, or else for its engine. Raises Failure."""
    asked = {"provider": ["list", "-providers", "-provider", "pkcs11"], "engine": ["engine", "-t", "pkcs11"]}
    for kind, arguments in asked.items():
        if subprocess.run(["openssl", *arguments], capture_output=True, check=False).returncode == 0:
            return _OPTIONS[kind]
    hint = "install pkcs11-provider, or on Debian 12 libengine-pkcs11-openssl"
    raise Failure(UNAVAILABLE, "Failed to find PKCS#11 in openssl: neither a provider nor an engine", hint)
