# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep guest trees, disks and initrds; show the steps that make them, and run the scripts that do."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SCRIPTS = HERE / "guest"
CHECKOUT = HERE.parents[1]
KEEP = 8  # entries of one kind; each change of the project's code makes new ones
YOUNG = 2 * 3600  # seconds in which an entry may still be in use elsewhere


class GuestError(Exception):
    """Building or running a guest failed; the message says what and shows the end of its output."""


def cache_dir() -> Path:
    """Find the directory of everything that was built."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("BOOTSEAL_CACHE") or Path(base) / "bootseal")
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def say(line: str) -> None:
    """Print a line of progress; conftest.py replaces this function, because pytest captures stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show what is being done, and afterwards how long it took."""
    say(f"guest: {title} ...")
    start = time.monotonic()
    yield
    say(f"guest: {title}: {time.monotonic() - start:.1f} s")


def digest_of(*parts: str | bytes | Path) -> str:
    """Hash texts, bytes, and the content of files and directories."""
    total = hashlib.sha256()
    for part in parts:
        content = _path_digest(part) if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()[:16]


def _path_digest(path: Path) -> bytes:
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if "__pycache__" in file.parts:
            continue
        total.update(f"{file.relative_to(path)}\0{file.lstat().st_mode:o}\0".encode())
        if file.is_symlink():
            total.update(os.fsencode(file.readlink()))
        elif file.is_file():
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.digest()


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of this name, so that two runs never build the same thing."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: str, title: str, build: Callable[[Path], None]) -> Path:
    """Return the directory that `build` fills once per key; an interrupted build leaves nothing."""
    path = cache_dir() / f"{kind}-{key}"
    if not _touched(path):
        with locked(path.name):
            if not _touched(path):
                _build(path, title, build)
                _prune(kind)
    return path


def _touched(path: Path) -> bool:
    """Tell whether it exists; if so, make it too young to be pruned."""
    with locked("prune"):
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
    return True


def _build(path: Path, title: str, build: Callable[[Path], None]) -> None:
    part = Path(tempfile.mkdtemp(prefix=f"part-{path.name}-", dir=cache_dir()))
    try:
        with step(title):
            build(part)
        part.rename(path)
    except BaseException:
        remove(part)
        raise


def _prune(kind: str) -> None:
    with locked("prune"):
        entries = sorted(cache_dir().glob(f"{kind}-*"), key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in entries[KEEP:]:
            if time.time() - entry.stat().st_mtime > YOUNG:
                remove(entry)


def remove(path: Path) -> None:
    """Remove a tree, even if it belongs to other users of our user namespace."""
    if path.exists():
        subprocess.run([*_namespace(), "rm", "-rf", "--", str(path)], check=False)


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory for upper layers of throw-away views, on the cache's filesystem."""
    path = Path(tempfile.mkdtemp(prefix="scratch-", dir=cache_dir()))
    try:
        yield path
    finally:
        remove(path)


@contextmanager
def run_dir() -> Iterator[Path]:
    """Make a directory for the files of one boot."""
    path = Path(tempfile.mkdtemp(prefix="run-", dir=cache_dir()))
    try:
        yield path
    finally:
        remove(path)


def temporary() -> Path:
    """Make a directory for files of this run, on the cache's filesystem."""
    path = Path(tempfile.mkdtemp(prefix="run-", dir=cache_dir()))
    atexit.register(remove, path)
    return path


def _namespace() -> list[str]:
    if os.geteuid() == 0:
        return ["unshare", "--mount", "--propagation", "private"]
    return ["unshare", "--map-auto", "--map-root-user", "--mount", "--propagation", "private"]


def run_script(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of guest/ as (mapped) root in its own mount namespace; `stdout` has its output."""
    command = [*_namespace(), "sh", str(SCRIPTS / script), *map(str, arguments)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command,
        check=False,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def must_run(script: str, *arguments: str | Path) -> None:
    """Run a script of guest/, which must succeed."""
    result = run_script(script, *arguments)
    if result.returncode:
        raise GuestError(f"{script} failed with status {result.returncode}:\n{result.stdout[-4000:]}")


def output_of(*command: str | Path) -> str:
    """Run a program, which must succeed, and return its output."""
    result = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if result.returncode:
        raise GuestError(f"{command[0]} failed: {result.stderr}")
    return result.stdout


def clean() -> None:
    """Remove everything that was built, and nothing else."""
    shutil.rmtree(cache_dir() / "locks", ignore_errors=True)
    kinds = (
        "base",
        "signer",
        "bench-image",
        "updates",
        "readme",
        "deb",
        "rpm",
        "os",
        "key",
        "signature",
        "deployment",
        "disk",
        "initrd",
        "saved",
        "part",
        "scratch",
        "run",
    )
    for kind in kinds:
        for entry in cache_dir().glob(f"{kind}-*"):
            remove(entry)
