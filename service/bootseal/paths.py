# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names on the disk and in /run that several modules use. This one touches no file."""

import os

RUN = "/run/bootseal"
SYSROOT = "/sysroot"  # in an initrd: first the physical root, then the verified one

# Beside each other in the directory of an ostree deployment: the composefs image, its digest, the signature of the digest.
IMAGE = ".ostree.cfs"
DIGEST_SUFFIX, SIGNATURE_SUFFIX = ".digest", ".sig"

# Below the physical root.
DEPLOYMENTS = "ostree/deploy"
REPOSITORY = "ostree/repo"
OBJECTS = f"{REPOSITORY}/objects"
# ostree/deploy/STATEROOT/deploy/CHECKSUM.SERIAL, see ostree(1). No signature covers these names, so they are restricted: an
# attacker who writes the disk must not be able to fake messages with them.
_DIGITS = "0123456789"
_HEXADECIMAL = _DIGITS + "abcdef"
_STATEROOT = _HEXADECIMAL + "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"
_WORK, _MARK_SUFFIX = ".bootseal-", ".immutable"


def digest_of(image: str) -> str:
    """Return the path of an image's digest file."""
    return image + DIGEST_SUFFIX


def signature_of(image: str) -> str:
    """Return the path of an image's signature."""
    return image + SIGNATURE_SUFFIX


def image_of(deployment: str, sysroot: str) -> str:
    """Return the path of a deployment's image."""
    return f"{sysroot}/{deployment}/{IMAGE}"


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
