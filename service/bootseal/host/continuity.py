# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the certificates that a deployment's initrd trusts with those of the running boot. Pure."""

from typing import Any

from ..record import Record

_SHOWN = 8  # of a kind
_SUBJECT = 200  # characters

Key = dict[str, str]


def read_verified_keys(record: Record) -> list[Key] | None:
    """Read which certificates the running boot trusted; None if its record does not name them all."""
    named = record.keyring.trusted if record.is_verified and record.keyring else None
    return [key._asdict() for key in named] if named and all(key.sha256 for key in named) else None


def read_keys(judgement: dict[str, Any]) -> list[Key] | None:
    """Read the certificates that a boot would trust; None if it would not get that far."""
    keys: list[Key] | None = judgement.get("keyring", {}).get("trusted")
    return keys


def compare(now: list[Key], then: list[Key], against: str) -> dict[str, Any]:
    """Compare what is trusted `now` with what a boot would trust `then`.

    `against` tells the origin of `now`.
    """
    return {
        "against": against,
        "added": [key for key in then if key["sha256"] not in {k["sha256"] for k in now}],
        "removed": [key for key in now if key["sha256"] not in {k["sha256"] for k in then}],
    }


def describe(judgement: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe the changes as ("key added" or "key removed", which one); empty without any."""
    changes = judgement.get("key_changes", {})
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
