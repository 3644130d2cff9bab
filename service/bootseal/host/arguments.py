# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments that several commands share: physical root, deployment, and keys to judge it with."""

import argparse
import os

from . import deployments
from .checker import KeySource


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a deployment and the keys to judge it with."""
    parser.add_argument(
        "deployment",
        nargs="?",
        metavar="DEPLOYMENT",
        help="checksum or its beginning, pending, or booted (default: what boots next)",
    )
    parser.add_argument("--sysroot", metavar="DIR", help="physical root (default: the running system's)")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--initrd", metavar="FILE", help="initrd or UKI to take keys and configuration from (default: the deployment's own)"
    )
    keys.add_argument("--keys", metavar="DIR", help="directory with certificates to use instead")
    keys.add_argument("--system-keys", action="store_true", help="certificates and configuration of the running system")


def sysroot(arguments: argparse.Namespace) -> str:
    """Return the physical root to work on."""
    return os.path.abspath(arguments.sysroot or deployments.default_sysroot())


def key_source(arguments: argparse.Namespace) -> KeySource:
    """Return where the user wants the keys from."""
    return KeySource(arguments.initrd, arguments.keys, arguments.system_keys)
