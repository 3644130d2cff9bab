# SPDX-License-Identifier: LGPL-2.1-or-later
"""In the guest, as root: every way of keyctl(1) to change the keyrings that bootseal sealed, as a line of JSON."""

import json
import subprocess

Words = tuple[str, ...]
DENIED = ("Permission denied", "Operation not permitted")


def keyctl(*words: str) -> tuple[int, str]:
    done = subprocess.run(["keyctl", *words], check=False, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip()


def anchor() -> str:
    """The serial of `.fs-verity`."""
    with open("/proc/keys", encoding="utf-8") as lines:
        listed = [line.split(None, 8) for line in lines]
    return next(f"0x{key[0]}" for key in listed if key[8].startswith(".fs-verity:"))


def on_key(key: str, own: str) -> list[Words]:
    attacks: list[Words] = [("revoke", key), ("invalidate", key), ("setperm", key, "0x3f3f3f3f"), ("chown", key, "65534")]
    return [*attacks, ("chgrp", key, "65534"), ("timeout", key, "1"), ("link", key, own)]


def on_keyring(target: str, own: str, other: str, members: Words) -> list[Words]:
    attacks: list[Words] = [("clear", target), ("link", other, target), ("restrict_keyring", target)]
    attacks += [("move", other, own, target), ("newring", "bootseal", target)]
    return attacks + [("unlink", key, target) for key in members]


def main() -> None:
    sealed = anchor()
    members = keyctl("rlist", sealed)[1].split()
    named = {member: keyctl("rdescribe", member)[1].split(";")[-1] for member in members}
    ring = next(member for member in members if named[member] == "bootseal")
    certificate = next(member for member in members if named[member].startswith("bootseal:"))
    digest = keyctl("rlist", ring)[1].split()[0]
    own = keyctl("newring", "own", "@s")[1]  # of the session, or it is not ours to write to
    other = keyctl("add", "user", "other", "x", own)[1]
    attacks: list[Words] = [("padd", "user", "x", sealed), ("padd", "user", "composefs-digest", ring), ("update", digest, "x")]
    for key in (sealed, ring, digest, certificate):
        attacks += on_key(key, own)
    for target in (sealed, ring):
        attacks += on_keyring(target, own, other, (ring, digest, certificate))
    attacks += [("move", digest, ring, own), ("move", ring, sealed, own), ("move", certificate, sealed, own)]
    tried = [(attack, *keyctl(*attack)) for attack in attacks]
    keyctl("clear", "@u")
    forged = keyctl("newring", "bootseal", "@u")[1]
    report = {
        "attacks": len(attacks),
        "succeeded": [attack for attack, status, _ in tried if status == 0],
        "for_another_reason": [(attack, said) for attack, status, said in tried if status and not said.endswith(DENIED)],
        "members": keyctl("rlist", sealed)[1].split() == members,
        "digest": keyctl("print", digest)[1],
        "forged": forged in keyctl("rlist", sealed)[1].split(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
