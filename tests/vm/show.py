# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show what the demo does, and count what was seen of it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .harness import cache, guest
from .harness.cache import output_of
from .harness.parse import sections
from .harness.signed import IMAGE, Key

SUITE = "forky"
SIGNER, STRANGER_NAME = "bootseal demo key", "somebody else"

MOUNTS = "echo '=== mounts'\ngrep ' /sysroot' /proc/self/mountinfo\n"  # for show_refused_boot()

Record = dict[str, Any]


class Show:
    """The text for people, on stdout."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._start = time.monotonic()
        self._number = 0
        cache.say = self.progress
        self._durations: list[tuple[str, float]] = []
        self._checks: list[tuple[str, bool]] = []

    def _styled(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colours else text

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def progress(self, line: str) -> None:
        """Show what the harness begins to do; the whole step shows how long it took."""
        if line.endswith("..."):
            self.line(self._styled("2", f"   {line.removeprefix('guest: ')}"))

    @contextmanager
    def step(self, title: str, why: str) -> Iterator[None]:
        """Show a numbered heading, and afterwards how long the step took."""
        self._number += 1
        self.line("\n" + self._styled("1", f"{self._number}. {title}"))
        self.line(f"   {why}")
        start = time.monotonic()
        yield
        self._durations.append((title, time.monotonic() - start))
        self.line(self._styled("2", f"   ({self._durations[-1][1]:.1f} s)"))

    def block(self, title: str, text: str) -> None:
        """Show word for word what a program said."""
        self.line("   " + self._styled("36", title))
        for line in text.strip("\n").splitlines():
            self.line(f"     | {line}")

    def check(self, what: str, *, seen: bool) -> None:
        """Record an expectation; the demo fails if any of them is not met."""
        self._checks.append((what, seen))
        if not seen:
            self.line(self._styled("1;31", f"   NOT SEEN: {what}"))

    def missed(self) -> list[str]:
        """List the expectations that are not met."""
        return [what for what, seen in self._checks if not seen]

    def end(self) -> int:
        """Show the summary and return the exit status."""
        self.line("\n" + self._styled("1", "Summary"))
        for title, seconds in self._durations:
            self.line(f"   {seconds:6.1f} s  {title}")
        self.line(f"   {time.monotonic() - self._start:6.1f} s  in all\n")
        for what, seen in self._checks:
            mark = self._styled("32", "seen    ") if seen else self._styled("1;31", "NOT SEEN")
            self.line(f"   {mark}  {what}")
        missed = len(self.missed())
        self.line(f"\n   {missed} of {len(self._checks)} not seen." if missed else "\n   All of it was seen.")
        return 1 if missed else 0


def end_on_sigterm() -> None:
    """Treat SIGTERM as an interrupt: end QEMU and remove temporary files."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))


def make_key(work: Path, subject: str) -> Key:
    """Make a signing key and its certificate in `work`."""
    made = Key(work / f"{subject}.key", work / f"{subject}.pem")
    extensions = ("-addext", "keyUsage=critical,digitalSignature", "-addext", "basicConstraints=critical,CA:FALSE")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={subject}")
    output_of("openssl", "req", "-x509", *kind, *extensions, "-keyout", made.key, "-out", made.certificate)
    return made


def sign(cfs: Path, work: Path, by: Key, name: str = IMAGE) -> dict[str, bytes]:
    """Make digest and signature for an image, which go beside it under that name."""
    digest = output_of("fsverity", "digest", "--compact", cfs).strip()
    (work / "digest").write_bytes(bytes.fromhex(digest))
    output_of("fsverity", "sign", work / "digest", work / "sig", f"--key={by.key}", f"--cert={by.certificate}")
    return {f"{name}.digest": (work / "digest").read_bytes(), f"{name}.sig": (work / "sig").read_bytes()}


def console_lines(console: str) -> list[str]:
    """Find our lines on the console, without systemd's cursor movements before them."""
    return re.findall(r"bootseal: (?:verified|refused|hint|note)\b.*", console)


def ended(show: Show, result: guest.Result, status: int, what: str) -> None:
    """Check that the guest ended with the agreed status; otherwise show where it stopped."""
    show.check(f"{what} (agreed exit status {status} from inside)", seen=result.status == status)
    if result.status != status:
        tail = "\n".join([*result.console.splitlines()[-25:], *result.report.splitlines()[-25:]])
        show.block(f"the guest ended with: {result.ended} {result.status}", tail)


def record_of(said: dict[str, str]) -> Record:
    """Read boot.json, empty if the guest did not print it."""
    try:
        record = json.loads(said.get("cat /run/bootseal/boot.json", ""))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def is_verified(record: Record, expected: str) -> bool:
    """Tell whether the image with that digest booted, and was signed with the demo's key."""
    signer, digest = record.get("signature", {}).get("subject", ""), record.get("image", {}).get("digest")
    return record.get("verdict") == "verified" and digest == expected and SIGNER in signer


def enrolled(enrollment: Record, *, first: bool) -> bool:
    """Tell whether fs-verity has the signature, and whether this boot gave it."""
    how = (enrollment.get("method"), enrollment.get("first_boot"), enrollment.get("missing"))
    written = enrollment.get("bytes_written", -1)
    return how == ("fsverity", first, []) and (0 < written < 128 * 1024 if first else written == 0)


def show_rest(show: Show, said: dict[str, str]) -> None:
    """Show what programs said, but for the record, and for files that only the checks read."""
    for title, text in said.items():
        if title not in ("cat /run/bootseal/boot.json", "serve", "time", "flags", "status", "entries", "journal"):
            show.block(title, text)


def show_first_boot(show: Show, result: guest.Result, digest: str) -> tuple[dict[str, str], Record]:
    """Show what the first boot said, check what is the same in all layouts, and return it with the record."""
    said, lines = sections(result.report), console_lines(result.console)
    show.block("console", "\n".join(lines))
    for title, text in said.items():
        show.block(title, text)
    ended(show, result, guest.PASSED, "first boot reaches the system")
    record, status = record_of(said), said.get("systemctl status bootseal", "")
    show.check("console: verified", seen=any(line.startswith("bootseal: verified debian ") for line in lines))
    active = "active (exited)" in status and '"verified debian ' in status
    show.check("systemctl status: active (exited), verified", seen=active)
    show.check("boot.json: verdict, and the digest that was signed", seen=is_verified(record, digest))
    was_enrolled = enrolled(record.get("enrollment", {}), first=True)
    show.check("boot.json: enrolled on this first boot, nothing missing", seen=was_enrolled)
    return said, record


def show_refused_boot(show: Show, result: guest.Result, image: str) -> None:
    """Show the refusal of a swapped image, whose path ends in `image`, and check that nothing of it was mounted."""
    lines, mounts = console_lines(result.console), sections(result.report).get("mounts", "")
    show.block("console", "\n".join(lines))
    show.block("mounted at and below /sysroot in the initrd", mounts)
    ended(show, result, guest.REFUSED, "fourth boot ends in the initrd's emergency target")
    refusal = next((line for line in lines if line.startswith("bootseal: refused (image-mismatch): ")), "")
    show.check("console: refused (image-mismatch), naming the image", seen=refusal.endswith(f"/{image}"))
    hint = any(line.startswith("bootseal: hint: ") for line in lines)
    show.check("console: a second line says what to do", seen=hint)
    physical = len(mounts.splitlines()) == 1 and " - ext4 /dev/vda " in mounts
    show.check("nothing but the physical root is mounted", seen=physical)
    show.check("boot.json: the same verdict", seen='"verdict": "image-mismatch"' in result.report)
    show.check("no switch to the altered system", seen="guest: booted" not in result.console)
