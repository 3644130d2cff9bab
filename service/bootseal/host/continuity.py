# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the certificates that a deployment's initrd trusts with those of the running boot. Pure."""

from typing import Any

from .. import verdicts
from ..report import Record

_SHOWN = 8  # of a kind
_SUBJECT = 200  # characters

Key = dict[str, str]


def read_verified_keys(record: Record) -> list[Key] | None:
    """Read which certificates the running boot trusted; None if its record does not list them."""
    if record.get("verdict") != verdicts.VERIFIED.name:
        return None
    return read_keys(record)


def read_keys(record: Record) -> list[Key] | None:
    """Read the certificates of a record; None without them, or in the format of another version."""
    keyring: Any = record.get("keyring")
    keys = keyring.get("trusted") if isinstance(keyring, dict) else None
    return keys if isinstance(keys, list) and all(_is_key(key) for key in keys) else None


def compare(now: list[Key], then: list[Key], against: str) -> Record:
    """Compare what is trusted `now` with what a boot would trust `then`.

    `against` tells the origin of `now`.
    """
    return {
        "against": against,
        "added": [key for key in then if key["sha256"] not in {k["sha256"] for k in now}],
        "removed": [key for key in now if key["sha256"] not in {k["sha256"] for k in then}],
    }


def describe(record: Record) -> list[tuple[str, str]]:
    """Describe the changes as ("key added" or "key removed", which one); empty without any."""
    changes = record.get("key_changes", {})
    source = {"record": "", "initrd": "; compared with the booted deployment's initrd, which may have changed"}
    lines = []
    for kind in ("added", "removed"):
        keys = changes.get(kind, [])
        for key in keys[:_SHOWN]:
            text = f"{key['subject'][:_SUBJECT]}, SHA-256 {key['sha256'][:16]}{source[changes['against']]}"
            lines.append((f"key {kind}", text))
        if len(keys) > _SHOWN:
            lines.append((f"key {kind}", f"and {len(keys) - _SHOWN} more"))
    return lines


def _is_key(key: Any) -> bool:
    return isinstance(key, dict) and all(isinstance(key.get(name), str) for name in ("subject", "sha256"))
