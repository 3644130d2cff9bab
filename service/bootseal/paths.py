# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names on the disk and in /run that several modules use. This one touches no file."""

import os

RUN = "/run/bootseal"
SYSROOT = "/sysroot"  # in an initrd: first the physical root, then the verified one

# Beside each other in the directory of an ostree deployment: the composefs image, its digest, the signature of the digest.
IMAGE = ".ostree.cfs"
DIGEST_SUFFIX, SIGNATURE_SUFFIX = ".digest", ".sig"
# In the state directory of an image in a composefs repository: the name of its digest and signature without their suffixes.
PAIR = "bootseal"

# Below the physical root.
DEPLOYMENTS = "ostree/deploy"
COMPOSEFS = "composefs"
IMAGES = f"{COMPOSEFS}/images"
COMPOSEFS_OBJECTS = f"{COMPOSEFS}/objects"
STATES = "state/deploy"
REPOSITORY = "ostree/repo"
OBJECTS = f"{REPOSITORY}/objects"
# ostree/deploy/STATEROOT/deploy/CHECKSUM.SERIAL, see ostree(1). No signature covers these names, so they are restricted: an
# attacker who writes the disk must not be able to fake messages with them.
_DIGITS = "0123456789"
_HEXADECIMAL = _DIGITS + "abcdef"
_STATEROOT = _HEXADECIMAL + "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"
_WORK, _MARK_SUFFIX = ".bootseal-", ".immutable"


def digest_of(pair: str) -> str:
    """Return the path of a digest file: that of its image, or of its pair, with a suffix."""
    return pair + DIGEST_SUFFIX


def signature_of(pair: str) -> str:
    """Return the path of a signature, as digest_of() does."""
    return pair + SIGNATURE_SUFFIX


def state_of(image_digest: str) -> str:
    """Return the path of the state directory of an image in a composefs repository; its digest is in hexadecimal."""
    return f"{STATES}/{image_digest}"


def is_image_digest(text: str) -> bool:
    """Tell whether a text is the name of an image in a composefs repository: 64 or 128 hexadecimal digits."""
    return len(text) in (64, 128) and not text.strip(_HEXADECIMAL)


def var_of(stateroot: str) -> str:
    """Return the path of a stateroot's /var, below the physical root."""
    return f"{DEPLOYMENTS}/{stateroot}/var"


def deployment_of(stateroot: str, name: str) -> str:
    """Return the path of the deployment `name` (CHECKSUM.SERIAL), below the physical root."""
    return f"{DEPLOYMENTS}/{stateroot}/deploy/{name}"


def parts_of(deployment: str) -> tuple[str, str, int] | None:
    """Split the path of a deployment into stateroot, checksum and serial; None for any other path."""
    # Not a regular expression: it would be the only one that a boot compiles.
    top, _, rest = deployment.partition(DEPLOYMENTS + "/")
    stateroot, _, name = rest.partition("/deploy/")
    checksum, _, serial = name.partition(".")
    forms = ((stateroot, 64, _STATEROOT), (checksum, 64, _HEXADECIMAL), (serial, 9, _DIGITS))
    if top or stateroot in (".", "..") or len(checksum) < 64:
        return None
    if not all(0 < len(text) <= limit and not text.strip(characters) for text, limit, characters in forms):
        return None
    return stateroot, checksum, int(serial)


def name_of(deployment: str) -> str:
    """Return a deployment's name for people: STATEROOT/CHECKSUM.SERIAL, or an image's digest, with twelve digits of either."""
    split = parts_of(deployment)
    return f"{split[0]}/{split[1][:12]}.{split[2]}" if split else os.path.basename(deployment)[:12]


def work_prefix(deployment: str) -> str:
    """Return the beginning of the names that bootseal makes beside a deployment's directory."""
    return f"{_WORK}{os.path.basename(deployment)}"


def is_work(name: str) -> bool:
    """Tell whether bootseal makes such names beside the directories of deployments."""
    return name.startswith(_WORK)


def new_of(deployment: str) -> str:
    """Return the name of the digest file that the boot is about to rename into the deployment."""
    return work_prefix(deployment) + ".new"


def mark_of(deployment: str) -> str:
    """Return the name of the mark beside a deployment's directory: it was immutable, and may not be now."""
    return work_prefix(deployment) + _MARK_SUFFIX


def deployment_of_mark(stateroot: str, mark: str) -> str | None:
    """Return the path of the deployment that a mark is for; None if the name is not a mark's."""
    deployment = deployment_of(stateroot, mark.removeprefix(_WORK).removesuffix(_MARK_SUFFIX))
    return deployment if parts_of(deployment) and mark == mark_of(deployment) else None
